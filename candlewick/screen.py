"""What ``candlewick up`` shows: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 30.0
STATES = {"up": "green", "starting": "yellow"}


class Screen:
    """Takes what happens, and shows it."""

    def __init__(self, url: str, console: Console | None = None) -> None:
        self._url = url
        self._console = console or Console()
        self._live: Live | None = None
        self._components: dict[str, tuple[str, str]] = {}
        self._status: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._counted_at = 0.0
        self._answers = True
        self._told_at = 0.0
        self._is_ready = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._picture)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Say one line that stays."""
        if self._live:
            self._live.console.print(text, highlight=False)
        else:
            print(text, flush=True)

    def component(self, name: str, state: str, detail: str = "") -> None:
        """Note that a part is ``starting`` or ``up``."""
        self._components[name] = (state, detail)
        if not self._live:
            self.say(f"{name}: {state}{', ' + detail if detail else ''}")

    def ready(self) -> None:
        """Say that all is ready, and where."""
        self._is_ready = True
        self._told_at = time.monotonic() - PLAIN_EVERY_S + 5  # the first line once there is a rate to tell
        for name, (state, detail) in self._components.items():
            if state == "starting":
                self._components[name] = ("up", detail)
        self._counts.clear()
        self._rates.clear()
        self.say(f"ready {self._url}")

    def status(self, status: dict[str, Any] | None) -> None:
        """Take the answer of ``/v1/status``, or None where nobody answered."""
        self._answers = status is not None
        if not status:
            return
        self._notice_restarts(status)
        self._status = status
        now = time.monotonic()
        elapsed = now - self._counted_at
        if elapsed > 0.5:
            counts = {product["product_id"]: product["trades_1d"] for product in status["products"]}
            for name, count in counts.items():
                fresh = max(0, count - self._counts.get(name, count)) / elapsed
                self._rates[name] = 0.7 * self._rates.get(name, fresh) + 0.3 * fresh
            self._counts, self._counted_at = counts, now
        if self._is_ready and not self._live and now - self._told_at > PLAIN_EVERY_S:
            self._told_at = now
            parts = [
                f"{p['product_id']} {p['price'] or '-'} spread {p['book']['spread'] or '-'}"
                for p in status["products"][:8]
            ]
            self.say(f"{sum(self._rates.values()):.1f} trades/s, lag {self._lag()}: {', '.join(parts)}")

    def _notice_restarts(self, status: dict[str, Any]) -> None:
        """A part that was started again is up when the views show its work."""
        if not self._is_ready:
            return
        worker = all(worker["ready"] for worker in status["workers"])
        feed = any(feed["state"] == "connected" for feed in status["feeds"])
        for name, works in (("worker", worker), ("producer", feed), ("mock exchange", feed)):
            if works and self._components.get(name, ("up", ""))[0] == "starting":
                self.component(name, "up", "started again")
                self._counts.clear()

    def _lag(self) -> int:
        return sum(worker.get("lag_records", 0) for worker in self._status.get("workers", ()))

    def _picture(self) -> Panel:
        parts = Table.grid(padding=(0, 2))
        for name, (state, detail) in self._components.items():
            parts.add_row(
                Text("●", STATES.get(state, "white")),
                name,
                Text(state, STATES.get(state, "white")),
                Text(detail, "dim"),
            )
        for feed in self._status.get("feeds", ()):
            if feed.get("error"):
                parts.add_row(
                    Text("!", "red"), f"feed {feed.get('exchange')}", Text(str(feed["error"]), "red")
                )
        market = self._market(wide=self._console.width >= 100)
        foot = Text(f"{sum(self._rates.values()):.1f} trades/s   lag {self._lag()} records", "bold")
        products = self._status.get("products")
        if not self._answers:
            foot.append("   the worker does not answer", "red")
        elif self._is_ready and products:
            foot.append(f"   {self._url}   Ctrl-C ends it", "dim")
        body = Group(
            parts,
            Text(),
            market if self._status.get("products") else Text("waiting for the first trade", "dim"),
            Text(),
            foot,
        )
        title = "candlewick" + ("" if self._is_ready else ", starting")
        return Panel(
            body, title=title, title_align="left", border_style="green" if self._is_ready else "yellow"
        )

    def _market(self, wide: bool) -> Table:
        """Return a row for each product; without bid, ask and count where there is no room."""
        market = Table(box=None, padding=(0, 2) if wide else (0, 1), header_style="dim")
        more_columns = ("bid", "ask") if wide else ()
        columns = ("product", "price", "spread", *more_columns, "trades/s", *(("trades 1m",) if wide else ()))
        for column in (*columns, "book", "gaps"):
            left = column in {"product", "book"}
            market.add_column(column, justify="left" if left else "right", no_wrap=True)
        products = self._status.get("products", ())
        for product in products[:20]:
            book = product["book"]
            good = book["state"] == "in step"
            quotes = (book["highest_bid"] or "-", book["lowest_ask"] or "-") if wide else ()
            counts = (str(product["trades_1m"]),) if wide else ()
            market.add_row(
                Text(product["product_id"], "bold"),
                product["price"] or "waiting",
                book["spread"] or "-",
                *quotes,
                f"{self._rates.get(product['product_id'], 0.0):.1f}",
                *counts,
                Text(book["state"], "green" if good else "yellow"),
                Text(str(product["gaps"]), "red" if product["gaps"] else "dim"),
            )
        if len(products) > 20:
            market.add_row(Text(f"and {len(products) - 20} more", "dim"))
        return market


def fail(error: object) -> None:
    """Say an error on standard error, in the one form that scripts and `up` look for."""
    print(f"candlewick: {error}", file=sys.stderr, flush=True)
