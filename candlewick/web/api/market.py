"""The market as it is now: ``/v1/book``, ``/v1/ticker``, ``/v1/products``, and ``/v1/gaps``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from agents import books
from candlewick.web import feeds, gaps, peers
from candlewick.web.api.stats import nothing_of
from candlewick.web.problems import bad_parameter, no_data, recovering
from candlewick.web.routes import JSON, ExchangeName, Moment, page
from models.answers import Ticker
from models.decimals import plain
from models.gap import Gap, State
from models.shown import Count, Instant, Number
from models.times import parse_rfc3339, rfc3339
from tables import book_stats, candles

Level = tuple[Number, Number]
"""Price and size."""
Told = TypeVar("Told")


class BookQuery(Struct, frozen=True, kw_only=True):
    """How much of a book."""

    level: Annotated[int, Meta(ge=1, le=2)] = 2
    """1: the best bid and ask; 2: ``depth`` levels a side."""
    depth: Annotated[int, Meta(ge=1, le=5000)] = 50
    exchange: ExchangeName = "coinbase"


class Book(Struct, frozen=True, kw_only=True):
    """A book, now. One that is out of step has no levels: they would be wrong."""

    exchange: str
    product_id: str
    in_step: bool
    bids: list[Level]
    """The highest first."""
    asks: list[Level]
    """The lowest first."""
    time: Instant | None
    """The exchange's time of the last change."""
    age_ms: Count | None
    """Milliseconds since something was received of it."""


@page("/v1/book/{product_id}", {JSON: Book}, BookQuery, also=(404, 503))
async def book(request: Any, query: BookQuery, product_id: str) -> Any:
    """The order book of a product, from the best price on."""
    partition = peers.locate(query.exchange, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    symbol_key = f"{query.exchange}:{product_id}"
    state = book_stats.state(partition, symbol_key)
    if state is None:
        if candles.state(partition, symbol_key) is None:
            raise nothing_of(query.exchange, product_id)
        raise no_data(f"no book of {product_id} yet")
    found = levels_of(partition, symbol_key, query.depth if query.level == 2 else 1)
    assert found is not None
    return Book(
        exchange=query.exchange,
        product_id=product_id,
        in_step=found.in_step,
        bids=found.sides[0],
        asks=found.sides[1],
        time=found.time,
        age_ms=max(0, time.time_ns() // 1000 - state.received_time_us) // 1000,
    )


class Levels(NamedTuple):
    """The top of a book, now."""

    in_step: bool
    sides: tuple[list[Level], list[Level]]
    """Bids and asks, the best first; none while it is out of step."""
    time: str | None
    """The exchange's time of the last change."""
    offset: int
    """In the log."""


def levels_of(partition: int, symbol_key: str, depth: int | None) -> Levels | None:
    """Return so many levels a side of a product's book, or all; None if there never was one."""
    state = book_stats.state(partition, symbol_key)
    if state is None:
        return None
    live = books.folding.tapes.get((partition, symbol_key))
    if live is None or live.book is None or not live.in_step:
        return Levels(False, ([], []), None, state.offset)
    most = depth or max(len(live.book.bids), len(live.book.asks))
    sides = (_plain(live.book.top_bids(most)), _plain(live.book.top_asks(most)))
    return Levels(True, sides, rfc3339(live.held.at_us) if live.held.at_us else None, state.offset)


def _plain(levels: Iterable[tuple[Decimal, Decimal]]) -> list[Level]:
    return [(plain(price), plain(size)) for price, size in levels]


class Exchange(Struct, frozen=True, kw_only=True):
    """Of which exchange."""

    exchange: ExchangeName = "coinbase"


@page("/v1/ticker/{product_id}", {JSON: Ticker}, Exchange, also=(404, 503))
async def ticker(request: Any, query: Exchange, product_id: str) -> Any:
    """The last trade of a product, and its best bid and ask."""
    partition = peers.locate(query.exchange, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    found = ticker_of(partition, f"{query.exchange}:{product_id}")
    if found is None:
        raise nothing_of(query.exchange, product_id)
    return found


def ticker_of(partition: int, symbol_key: str) -> Ticker | None:
    """Return a product's ticker, from this worker's tables; None before its first trade."""
    state = candles.state(partition, symbol_key)
    if state is None or state.last_trade is None:
        return None
    trade = state.last_trade
    top = levels_of(partition, symbol_key, 1)
    sides = top.sides if top else ([], [])
    (bid, bid_size), (ask, ask_size) = (side[0] if side else (None, None) for side in sides)
    return Ticker(
        exchange=trade.exchange,
        product_id=trade.symbol,
        trade_id=trade.trade_id,
        price=plain(trade.price),
        size=plain(trade.size),
        side=trade.taker_side,
        time=rfc3339(trade.event_time_us),
        time_ms=trade.event_time_us // 1000,
        bid=bid,
        bid_size=bid_size,
        ask=ask,
        ask_size=ask_size,
    )


class LocalQuery(Struct, frozen=True):
    """Of all workers, if nothing is said."""

    local: bool = False
    """Of this worker alone."""


class Product(Struct, frozen=True, kw_only=True):
    """A product that a feed follows, or that something is kept of."""

    exchange: str
    product_id: str
    has_candles: bool
    has_book: bool


@page("/v1/ticker", {JSON: list[Ticker]}, LocalQuery, also=(503,))
async def tickers(request: Any, query: LocalQuery) -> Any:
    """The tickers of all products."""
    ours = [
        found
        for partition, symbol_key in peers.kept_here()
        if (found := ticker_of(partition, symbol_key)) is not None
    ]
    theirs = [] if query.local else await of_others("/v1/ticker?local=true", _decode_tickers)
    return sorted([*ours, *chain(*theirs)], key=_name)


@page("/v1/products", {JSON: list[Product]}, LocalQuery, also=(503,))
async def products(request: Any, query: LocalQuery) -> Any:
    """All products, also those that nothing has come of yet."""
    return await list_products(query.local)


async def list_products(local: bool = False) -> list[Product]:
    """Return the products of this worker, or of all workers and feeds."""
    found = {
        tuple(symbol_key.split(":", 1)): (
            candles.state(partition, symbol_key) is not None,
            book_stats.state(partition, symbol_key) is not None,
        )
        for partition, symbol_key in peers.kept_here()
    }
    if not local:
        for other in chain(*await of_others("/v1/products?local=true", _decode_products)):
            found[other.exchange, other.product_id] = (other.has_candles, other.has_book)
        for feed in feeds.known.values():
            for product_id in feed.products:
                found.setdefault((feed.exchange, product_id), (False, False))
    return [
        Product(exchange=exchange, product_id=product_id, has_candles=some, has_book=book)
        for (exchange, product_id), (some, book) in sorted(found.items())
    ]


_decode_tickers: Callable[[bytes], list[Ticker]] = msgspec.json.Decoder(list[Ticker]).decode
_decode_products: Callable[[bytes], list[Product]] = msgspec.json.Decoder(list[Product]).decode


async def of_others(path: str, decode: Callable[[bytes], Told]) -> list[Told]:
    """Return what each of the other workers says.

    Raises:
        Problem: one does not answer, or not what was asked for.
    """
    answers = await asyncio.gather(*(peers.ask(url, path) for url in peers.others()))
    if any(answer.status != 200 for answer in answers):
        raise recovering("another worker cannot answer yet")
    try:
        return [decode(answer.body) for answer in answers]
    except msgspec.DecodeError:
        raise recovering("another worker answers as another version does") from None


def _name(ticker: Ticker) -> tuple[str, str]:
    return (ticker.exchange, ticker.product_id)


class GapsQuery(Struct, frozen=True, kw_only=True):
    """Which gaps: all, the newest first, if nothing is said."""

    product_id: str | None = None
    exchange: str | None = None
    state: State | None = None
    start: Moment | None = None
    """Those that reach beyond this time."""
    end: Moment | None = None
    """Those that begin before this time."""
    limit: Annotated[int, Meta(ge=1, le=5000)] = 300


@page("/v1/gaps", {JSON: list[Gap]}, GapsQuery)
async def gaps_of(request: Any, query: GapsQuery) -> Any:
    """The ledger of gaps: which trades were missing, between which times, and whether they are repaired."""
    if query.start is not None and query.end is not None and query.end < query.start:
        raise bad_parameter("end", "must not be before start")
    found = [
        gap
        for gap in gaps.known.values()
        if query.product_id in (None, gap.symbol)
        and query.exchange in (None, gap.exchange)
        and query.state in (None, gap.state)
        and (query.start is None or parse_rfc3339(gap.before) >= query.start)
        and (query.end is None or parse_rfc3339(gap.after) < query.end)
    ]
    found.sort(key=lambda gap: gap.detected, reverse=True)
    return found[: query.limit]
