"""``/stats/<window>/<product_id>``: the candle and the book statistics of one window."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from agents import books
from candlewick.web import feeds, peers
from candlewick.web.problems import Problem, bad_parameter, no_data, unknown_product, unknown_window
from candlewick.web.routes import JSON, ExchangeName, Moment, page
from models.book_stats import BookStatsRow
from models.shown import BookFigures, CandleFigures, Instant, Millis
from models.tape import describe
from models.times import rfc3339
from models.window import BY_NAME, Window
from tables import book_stats, candles


class StatsQuery(Struct, frozen=True, kw_only=True):
    """Which window: the last if nothing is said."""

    at: Moment | None = None
    """The one that holds this time."""
    closed: bool = False
    """The last one that is closed."""
    exchange: ExchangeName = "coinbase"


class BookShown(BookFigures, frozen=True, kw_only=True):
    """The book over one window, and whether it is in step: of an open window, as of now."""

    start: Instant
    in_step: bool


class Stats(Struct, frozen=True, kw_only=True):
    """One window of a product."""

    exchange: str
    product_id: str
    window: str
    start: Instant
    end: Instant
    start_ms: Millis
    candle: CandleFigures | None
    book: BookShown | None


@page("/stats/{window}/{product_id}", {JSON: Stats}, StatsQuery, also=(404, 503))
async def stats(request: Any, query: StatsQuery, window: str, product_id: str) -> Any:
    """The candle and the book statistics of a window: the last, the last closed, or the one at a time."""
    if window not in BY_NAME:
        raise unknown_window(window[:50], list(BY_NAME))
    if query.at is not None and query.closed:
        raise bad_parameter("closed", "goes with the last window, not with at")
    partition = peers.locate(query.exchange, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    return describe_stats(partition, query.exchange, product_id, BY_NAME[window], query.at, query.closed)


def describe_stats(
    partition: int, exchange: str, product_id: str, window: Window, at_us: int | None, closed: bool
) -> Stats:
    """Return the answer of `stats`, from this worker's tables.

    Without a time these are the last candle and the last book statistics of that window. In a
    minute without a trade so far they are not of the same minute, so the book tells its own start.
    """
    symbol_key = f"{exchange}:{product_id}"
    tape = candles.state(partition, symbol_key)
    book = book_stats.state(partition, symbol_key)
    if tape is None and book is None:
        raise nothing_of(exchange, product_id)
    name = window.name
    starts: list[int | None]
    if at_us is not None:
        starts = [window.start_of(at_us)] * 2
    elif closed:
        # A book's window is over with its last frame, a candle's only after the grace: the candle leads.
        state = tape or book
        starts = [state.latest_closed.get(name) if state else None] * 2
    else:
        starts = [state.latest.get(name) if state else None for state in (tape, book)]
    candle = candles.at(partition, symbol_key, name, starts[0]) if starts[0] is not None else None
    row = book_stats.at(partition, symbol_key, name, starts[1]) if starts[1] is not None else None
    if candle is None and row is None:
        when = "" if at_us is None else f" at {rfc3339(window.start_of(at_us))}"
        which = "closed " if closed else ""
        raise no_data(f"no trade and no book of {product_id} in a {which}{name} window{when}")
    start_us = candle.start_us if candle else starts[1]
    assert start_us is not None
    return Stats(
        exchange=exchange,
        product_id=product_id,
        window=name,
        start=rfc3339(start_us),
        end=rfc3339(window.end_of(start_us)),
        start_ms=start_us // 1000,
        candle=describe(window, candle.start_us, candle.row, candle.state) if candle else None,
        book=describe_book(partition, symbol_key, starts[1], row) if row and starts[1] is not None else None,
    )


def describe_book(partition: int, symbol_key: str, start_us: int, row: BookStatsRow) -> BookShown:
    """Return a window's book statistics; whether the book is in step is said as of now."""
    live = books.folding.tapes.get((partition, symbol_key))
    figures = msgspec.structs.asdict(row.stats.figures(row.closed))
    in_step = row.stats.in_step if row.closed else live is not None and live.in_step
    return BookShown(start=rfc3339(start_us), in_step=in_step, **figures)


def nothing_of(exchange: str, product_id: str) -> Problem:
    """Return why a product has neither candles nor a book."""
    if product_id in feeds.products(exchange):
        return no_data(f"no trade and no book of {product_id} yet")
    return unknown_product(product_id, exchange)
