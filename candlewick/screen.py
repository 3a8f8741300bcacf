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
STATES = {"up": "green", "starting": "yellow", "down": "red"}


class Screen:
    """Takes what happens, and shows it."""

    def __init__(self, url: str, console: Console | None = None) -> None:
        self._url = url
        self._console = console or Console()
        self._live: Live | None = None
        self._components: dict[str, tuple[str, str]] = {}
        self._status: dict[str, Any] = {}
        self._ids: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._asked_at = 0.0
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
        """Note that a part is ``starting``, ``up`` or ``down``."""
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
        self.say(f"ready {self._url}")

    def status(self, status: dict[str, Any] | None) -> None:
        """Take the answer of ``/v1/status``."""
        if not status:
            return
        now = time.monotonic()
        elapsed = now - self._asked_at
        self._status, self._asked_at = status, now
        for product in status["products"]:
            name, last = product["product_id"], product["last_trade_id"]
            if last is not None and name in self._ids and elapsed > 0:
                fresh = (last - self._ids[name]) / elapsed
                self._rates[name] = 0.7 * self._rates.get(name, fresh) + 0.3 * fresh
            if last is not None:
                self._ids[name] = last
        if self._is_ready and not self._live and now - self._told_at > PLAIN_EVERY_S:
            self._told_at = now
            parts = [
                f"{p['product_id']} {p['price']} spread {p['book']['spread']}" for p in status["products"][:8]
            ]
            self.say(f"{sum(self._rates.values()):.1f} trades/s, lag {self._lag()}: {', '.join(parts)}")

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
        market = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("product", "price", "spread", "bid", "ask", "trades/s", "trades 1m", "book", "gaps"):
            market.add_column(column, justify="left" if column in {"product", "book"} else "right")
        for product in self._status.get("products", ())[:20]:
            book = product["book"]
            good = book["state"] == "in step"
            market.add_row(
                Text(product["product_id"], "bold"),
                product["price"] or "waiting",
                book["spread"] or "-",
                book["highest_bid"] or "-",
                book["lowest_ask"] or "-",
                f"{self._rates.get(product['product_id'], 0.0):.1f}",
                str(product["trades_1m"]),
                Text(book["state"], "green" if good else "yellow"),
                Text(str(product["gaps"]), "red" if product["gaps"] else "dim"),
            )
        more = len(self._status.get("products", ())) - 20
        if more > 0:
            market.add_row(Text(f"and {more} more", "dim"))
        foot = Text(f"{sum(self._rates.values()):.1f} trades/s   lag {self._lag()} records", "bold")
        if self._is_ready:
            foot.append(f"   {self._url}/stats/1m/BTC-USD   Ctrl-C ends it", "dim")
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


def fail(error: object) -> None:
    """Say an error on standard error, in the one form that scripts and `up` look for."""
    print(f"candlewick: {error}", file=sys.stderr, flush=True)
