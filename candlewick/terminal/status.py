"""``candlewick status``: feeds, workers and products, and whether all is well.

Exit code 0: all is well; 1: it is not, and the last lines say why; 2: nothing answers.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from candlewick.config import Settings
from candlewick.terminal.client import Unasked, Views, where
from candlewick.terminal.picture import ago
from candlewick.terminal.tables import console, grid, show
from models.answers import ProductStatus, Status, WorkerStatus
from models.producer_status import ProducerStatus

if TYPE_CHECKING:
    from rich.live import Live

FRESH_S = 30
"""Seconds after which a feed that says nothing counts as gone; it speaks every 10."""
EVERY_S = 2.0
WELL, NOT_WELL, NO_ANSWER = 0, 1, 2


class Look(msgspec.Struct, frozen=True):
    """One look at the whole: what ``--json`` prints."""

    well: bool
    reasons: Sequence[str]
    """What is not well."""
    status: Status | None
    """The worker's own answer; none where nothing answers."""

    @property
    def code(self) -> int:
        """The exit code."""
        return WELL if self.well else NOT_WELL if self.status else NO_ANSWER

    @property
    def line(self) -> str:
        """All of it in one line."""
        return "all is well" if self.well else f"not well: {'; '.join(self.reasons)}"

    @property
    def json(self) -> str:
        """All of it as one line of JSON."""
        return msgspec.json.encode(self).decode()


def run(settings: Settings, as_json: bool, watch: bool, most_lag: int) -> int:
    """Print how everything is; return the exit code.

    Raises:
        Unasked: nothing answers.
    """
    with Views(where(settings)) as views:
        if watch:
            return _watch(views, as_json, most_lag)
        look = _look(views, most_lag)
        if as_json:
            print(look.json, flush=True)
        else:
            show(picture(look, time.time_ns() // 1000, console().width))
        return look.code


def _look(views: Views, most_lag: int) -> Look:
    status = views.read("/v1/status", Status)
    reasons = judge(status, time.time_ns() // 1000, most_lag)
    return Look(not reasons, reasons, status)


def _watch(views: Views, as_json: bool, most_lag: int) -> int:
    """Look every two seconds until Ctrl-C or SIGTERM; return what the last look said.

    On a terminal it is a picture; elsewhere a line whenever something else is to be said.
    """
    look = Look(False, (), None)
    told = ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or it would leave its screen on the terminal
    with contextlib.suppress(KeyboardInterrupt), _screen(as_json) as live:
        while True:
            try:
                look = _look(views, most_lag)
            except Unasked as error:
                look = Look(False, (str(error),), None)
            if live:
                shown = picture(look, time.time_ns() // 1000, live.console.width)
                live.update(shown, refresh=True)
            elif as_json or look.line != told:
                told = look.line
                print(look.json if as_json else told, flush=True)
            time.sleep(EVERY_S)
    return look.code


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Live | None]:
    """Give the whole terminal, where there is one to draw on."""
    if as_json or not sys.stdout.isatty():
        yield None
        return
    from rich.live import Live

    with Live(console=console(), screen=True, auto_refresh=False) as live:
        yield live


def judge(status: Status, now_us: int, most_lag: int) -> list[str]:
    """Return what is not well, in words; nothing where all is."""
    return [
        *judge_feeds(status.feeds, now_us),
        *judge_workers(status.workers, most_lag),
        *judge_books(status.products, status.feeds),
    ]


def judge_feeds(feeds: Sequence[ProducerStatus], now_us: int) -> list[str]:
    """Return what is not well with the feeds."""
    if not feeds:
        return ["no feed has ever spoken: start `candlewick produce`"]
    followed = {
        (feed.exchange, product)
        for feed in feeds
        if feed.state == "connected" and not is_silent(feed, now_us)
        for product in feed.products
    }
    reasons = []
    for feed in feeds:
        # What a producer that is gone had, another may have by now.
        if any((feed.exchange, product) not in followed for product in feed.products):
            reasons.append(f"feed {feed.exchange}:{feed.producer} {why_away(feed, now_us)}")
        elif feed.state == "connected" and feed.connected_connections < feed.connections:
            count = f"{feed.connected_connections} of {feed.connections}"
            reasons.append(f"feed {feed.exchange}:{feed.producer} has {count} connections")
    return reasons


def judge_workers(workers: Sequence[WorkerStatus], most_lag: int) -> list[str]:
    """Return what is not well with the workers."""
    reasons = []
    for worker in workers:
        if worker.error is not None:
            reasons.append(f"worker {worker.url} does not answer: {worker.error}")
        elif not worker.ready:
            reasons.append(f"worker {worker.url} is not ready: its tables are being recovered")
        elif (worker.lag_records or 0) > most_lag:
            reasons.append(f"worker {worker.url} is {worker.lag_records:,} records behind, over {most_lag:,}")
    return reasons


def judge_books(products: Sequence[ProductStatus], feeds: Sequence[ProducerStatus]) -> list[str]:
    """Return what is not well with the books of products that a feed has."""
    had = {(feed.exchange, product_id) for feed in feeds for product_id in feed.products}
    return [
        f"the book of {product.product_id} is out of step"
        for product in products
        if product.book.state == "out of step" and (product.exchange, product.product_id) in had
    ]


def is_silent(feed: ProducerStatus, now_us: int) -> bool:
    """Say whether a feed has not spoken for too long."""
    return now_us - feed.updated_us > FRESH_S * 1_000_000


def why_away(feed: ProducerStatus, now_us: int) -> str:
    """Say what is with a feed that follows nothing now."""
    if feed.state != "stopped" and is_silent(feed, now_us):
        return f"has not spoken for {ago((now_us - feed.updated_us) / 1e6)}: is its producer running?"
    return f"is {feed.state}{f': {feed.error}' if feed.error else ''}"


def picture(look: Look, now_us: int, width: int) -> RenderableType:
    """Return the whole as text."""
    parts: list[RenderableType] = []
    if look.status and look.status.feeds:
        parts += [_feeds(look.status.feeds, now_us), Text()]
    if look.status and look.status.workers:
        parts += [_workers(look.status.workers), Text()]
    if look.status:
        parts += [_products(look.status.products, width) if look.status.products else Text("no product yet")]
        parts.append(Text())
    parts += [Text(f"not well: {reason}", "red") for reason in look.reasons]
    if look.well:
        parts.append(Text("all is well", "green"))
    return Group(*parts)


def _feeds(feeds: Sequence[ProducerStatus], now_us: int) -> RenderableType:
    table = grid(
        ("feed", "state", "connections", "reconnects", "refused", "spilled", "lost"), {"feed", "state"}
    )
    for feed in feeds:
        silent = feed.state != "stopped" and is_silent(feed, now_us)
        state = "silent" if silent else feed.state
        table.add_row(
            Text(f"{feed.exchange}:{feed.producer}"),
            Text(state, "green" if state == "connected" else "yellow"),
            f"{feed.connected_connections}/{feed.connections}",
            *(f"{count:,}" for count in (feed.reconnects, feed.refused_frames, feed.spilled, feed.dropped)),
        )
    return table


def _workers(workers: Sequence[WorkerStatus]) -> RenderableType:
    table = grid(("worker", "state", "lag"), {"worker", "state"})
    for worker in workers:
        state = "ready" if worker.ready else "away" if worker.error is not None else "recovering"
        lag = "-" if worker.lag_records is None else f"{worker.lag_records:,}"
        table.add_row(Text(worker.url), Text(state, "green" if worker.ready else "yellow"), lag)
    return table


def _products(products: Sequence[ProductStatus], width: int) -> RenderableType:
    more = ("bid", "ask", "trades 1d") if width >= 100 else ()
    names = ("product", "price", *more[:2], "spread", "last trade", *more[2:], "gaps", "missing", "book")
    table = grid(names, {"product", "book"})
    for product in products:
        book = product.book
        age_ms = product.last_trade_age_ms
        quotes = (book.highest_bid or "-", book.lowest_ask or "-") if more else ()
        table.add_row(
            Text(product.product_id),
            product.price or "-",
            *quotes,
            book.spread or "-",
            "-" if age_ms is None else ago(age_ms / 1000),
            *((f"{product.trades_1d:,}",) if more else ()),
            f"{product.gaps:,}",
            f"{product.missing_trades:,}",
            Text(book.state, "green" if book.state == "in step" else "yellow"),
        )
    return table
