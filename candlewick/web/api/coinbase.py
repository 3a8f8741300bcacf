"""Coinbase Exchange's own public REST, of what is kept here: its clients work by another base URL.

Paths, shapes and order are those of its documentation. Source: docs.cdp.coinbase.com, Exchange REST API.
"""

from __future__ import annotations

import decimal
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from candlewick.web import peers, recent
from candlewick.web.api.market import LocalQuery, levels_of, list_products, of_others, ticker_of
from candlewick.web.api.series import Span, newest_items, read
from candlewick.web.api.stats import nothing_of
from candlewick.web.problems import bad_parameter
from candlewick.web.routes import JSON, Moment, NoQuery, Page, page
from models.candle import Candle
from models.decimals import EXACT, plain
from models.shown import Count, Instant, Number
from models.tape import TapeState
from models.times import rfc3339
from models.window import BY_NAME, SECOND_US, Window
from tables import candles

EXCHANGE = "coinbase"
MOST_CANDLES = 300
DAY_US = 86_400 * SECOND_US

Granularity = Literal["60", "300", "900", "3600", "21600", "86400"]
MakerSide = Annotated[Literal["buy", "sell"], Meta(description="the maker's: a sell was lifted by a buyer")]
Level = tuple[Number, Number, int]
"""Price, size, and how many orders: always 1, the feed does not tell."""
CoinbaseCandle = tuple[int, float, float, float, float, float]
"""Start in seconds, low, high, open, close, volume."""
SparkLine = list[tuple[int, float, float, float, float]]
"""Start in seconds, low, high, open, close of each hour, the newest first."""


class CoinbaseProduct(Struct, frozen=True, kw_only=True):
    """A product, as Coinbase lists it; increments and limits are none of ours."""

    id: str
    base_currency: str
    quote_currency: str
    display_name: str
    base_increment: Number = "0.00000001"
    quote_increment: Number = "0.00000001"
    min_market_funds: Number = "0"
    margin_enabled: bool = False
    post_only: bool = False
    limit_only: bool = False
    cancel_only: bool = False
    trading_disabled: bool = False
    auction_mode: bool = False
    status: str = "online"
    status_message: str = ""


class CoinbaseCurrency(Struct, frozen=True, kw_only=True):
    """A currency that some product is of."""

    id: str
    name: str
    min_size: Number = "0.00000001"
    max_precision: Number = "0.00000001"
    status: str = "online"
    message: str = ""
    details: dict[str, str] = {}
    supported_networks: list[str] = []


class CoinbaseClock(Struct, frozen=True):
    """Our clock."""

    iso: Instant
    epoch: float


class CoinbaseTicker(Struct, frozen=True, kw_only=True):
    """A product's last trade and best prices."""

    trade_id: Count
    price: Number
    size: Number
    time: Instant
    bid: Number | UnsetType = UNSET
    """Not there while the book is out of step: clients do not expect null."""
    ask: Number | UnsetType = UNSET
    volume: Number
    """Of the last 24 hours."""


class CoinbaseDayStats(Struct, frozen=True, kw_only=True):
    """The last 24 hours."""

    open: Number
    high: Number
    low: Number
    last: Number
    volume: Number
    volume_30day: Number


class CoinbaseBook(Struct, frozen=True, kw_only=True):
    """A book; without levels while it is out of step."""

    bids: list[Level]
    asks: list[Level]
    sequence: int
    auction_mode: bool = False
    auction: None = None
    time: Instant | None


class CoinbaseTrade(Struct, frozen=True, kw_only=True):
    """A trade."""

    trade_id: Count
    side: MakerSide
    size: Number
    price: Number
    time: Instant


class CoinbaseCandlesQuery(Struct, frozen=True):
    """Which candles: the last 300 if no time is given."""

    granularity: Granularity = "60"
    """Seconds."""
    start: Moment | None = None
    end: Moment | None = None


class CoinbaseBookQuery(Struct, frozen=True):
    """How much of the book."""

    level: Literal["1", "2"] = "1"


class CoinbaseTradesQuery(Struct, frozen=True):
    """Which trades: the newest if nothing is said."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000
    after: Count | None = None
    """Older than this trade id."""
    before: Count | None = None
    """Newer than this trade id."""


@page("/time", {JSON: CoinbaseClock})
async def coinbase_time(request: Any, query: NoQuery) -> Any:
    """The time of this server."""
    now_us = time.time_ns() // 1000
    return CoinbaseClock(rfc3339(now_us), now_us / SECOND_US)


@page("/products", {JSON: list[CoinbaseProduct]}, also=(503,))
async def coinbase_products(request: Any, query: NoQuery) -> Any:
    """Products, in Coinbase's form."""
    return [_product(each) for each in await _product_ids()]


@page("/currencies", {JSON: list[CoinbaseCurrency]}, also=(503,))
async def coinbase_currencies(request: Any, query: NoQuery) -> Any:
    """Currencies of the products, in Coinbase's form."""
    ids = {part for each in await _product_ids() for part in each.split("-")}
    return [CoinbaseCurrency(id=each, name=each) for each in sorted(ids)]


@page("/products/{product_id}", {JSON: CoinbaseProduct}, also=(404, 503))
async def coinbase_product(request: Any, query: NoQuery, product_id: str) -> Any:
    """One product, in Coinbase's form."""
    if product_id not in await _product_ids():
        raise nothing_of(EXCHANGE, product_id)
    return _product(product_id)


@page("/products/spark-lines", {JSON: dict[str, SparkLine]}, LocalQuery, also=(503,))
async def coinbase_spark_lines(request: Any, query: LocalQuery) -> Any:
    """The last 24 hours of every product, in hours, in Coinbase's form."""
    found = {
        symbol_key.removeprefix(_key("")): _spark_line(partition, symbol_key)
        for partition, symbol_key in peers.kept_here()
        if symbol_key.startswith(_key(""))
    }
    if not query.local:
        for others in await of_others("/products/spark-lines?local=true", _decode_spark_lines):
            found |= others
    return dict(sorted(found.items()))


_decode_spark_lines: Callable[[bytes], dict[str, SparkLine]] = msgspec.json.Decoder(
    dict[str, SparkLine]
).decode


def _spark_line(partition: int, symbol_key: str) -> SparkLine:
    hours = newest_items(partition, symbol_key, "1h", 24, -1)
    return [
        (each.start_ms // 1000, float(each.low), float(each.high), float(each.open), float(each.close))
        for each in reversed(hours)
    ]


async def _product_ids() -> list[str]:
    return [each.product_id for each in await list_products() if each.exchange == EXCHANGE]


def _product(product_id: str) -> CoinbaseProduct:
    base, _, quote = product_id.partition("-")
    return CoinbaseProduct(
        id=product_id, base_currency=base, quote_currency=quote, display_name=product_id.replace("-", "/")
    )


@page(
    "/products/{product_id}/candles",
    {JSON: list[CoinbaseCandle]},
    CoinbaseCandlesQuery,
    also=(404, 503),
)
async def coinbase_candles(request: Any, query: CoinbaseCandlesQuery, product_id: str) -> Any:
    """Candles as Coinbase sends them: seconds, low, high, open, close, volume; the newest first."""
    size_us = int(query.granularity) * SECOND_US
    window = Window(query.granularity, size_us)
    partition = peers.locate(EXCHANGE, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    state = _state(partition, product_id)
    end_us = query.end if query.end is not None else max(state.latest.values(), default=0) + size_us
    first_us = window.start_of(
        query.start if query.start is not None else max(0, end_us - MOST_CANDLES * size_us)
    )
    if end_us - first_us > (MOST_CANDLES + 1) * size_us:
        raise bad_parameter(
            "granularity", f"too small for the time requested: more than {MOST_CANDLES} candles"
        )
    # Coinbase counts the candle that begins at the end.
    span = Span(first_us, window.start_of(end_us) + size_us, MOST_CANDLES, newest=True)
    found, _ = read(partition, _key(product_id), window, span, state, "none")
    return [
        (each.start_ms // 1000, *map(float, (each.low, each.high, each.open, each.close, each.volume)))
        for each in reversed(found)
    ]


@page("/products/{product_id}/ticker", {JSON: CoinbaseTicker}, also=(404, 503))
async def coinbase_ticker(request: Any, query: NoQuery, product_id: str) -> Any:
    """The last trade, in Coinbase's form."""
    partition = peers.locate(EXCHANGE, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    found = ticker_of(partition, _key(product_id))
    if found is None:
        raise nothing_of(EXCHANGE, product_id)
    day = _over(partition, product_id, DAY_US, BY_NAME["1m"], BY_NAME["1h"])
    return CoinbaseTicker(
        trade_id=found.trade_id, price=found.price, size=found.size, time=found.time,
        bid=found.bid or UNSET, ask=found.ask or UNSET, volume=plain(day.volume) if day else "0",
    )  # fmt: skip


@page("/products/{product_id}/stats", {JSON: CoinbaseDayStats}, also=(404, 503))
async def coinbase_stats(request: Any, query: NoQuery, product_id: str) -> Any:
    """The last 24 hours, in Coinbase's form."""
    partition = peers.locate(EXCHANGE, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    state = _state(partition, product_id)
    day = _over(partition, product_id, DAY_US, BY_NAME["1m"], BY_NAME["1h"])
    month = _over(partition, product_id, 30 * DAY_US, BY_NAME["1h"], BY_NAME["1d"])
    if day is None or month is None or state.last_trade is None:
        raise nothing_of(EXCHANGE, product_id)
    return CoinbaseDayStats(
        open=plain(day.open), high=plain(day.high), low=plain(day.low), last=plain(state.last_trade.price),
        volume=plain(day.volume), volume_30day=plain(month.volume),
    )  # fmt: skip


@page("/products/{product_id}/book", {JSON: CoinbaseBook}, CoinbaseBookQuery, also=(404, 503))
async def coinbase_book(request: Any, query: CoinbaseBookQuery, product_id: str) -> Any:
    """The order book, in Coinbase's form."""
    partition = peers.locate(EXCHANGE, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    found = levels_of(partition, _key(product_id), 1 if query.level == "1" else None)
    if found is None:
        raise nothing_of(EXCHANGE, product_id)
    bids, asks = ([(price, size, 1) for price, size in side] for side in found.sides)
    return CoinbaseBook(bids=bids, asks=asks, sequence=found.offset, time=found.time)


@page(
    "/products/{product_id}/trades",
    {JSON: list[CoinbaseTrade]},
    CoinbaseTradesQuery,
    also=(404, 503),
)
async def coinbase_trades(request: Any, query: CoinbaseTradesQuery, product_id: str) -> Any:
    """The last trades that came while this worker had the product, the newest first, in Coinbase's form."""
    partition = peers.locate(EXCHANGE, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    _state(partition, product_id)
    by_id = {trade.trade_id: trade for trade in recent.of(partition, _key(product_id))}
    told = [
        CoinbaseTrade(
            trade_id=trade.trade_id,
            side="sell" if trade.taker_side == "buy" else "buy",
            size=plain(trade.size),
            price=plain(trade.price),
            time=rfc3339(trade.event_time_us),
        )
        for _, trade in sorted(by_id.items(), reverse=True)
        if (query.after is None or trade.trade_id < query.after)
        and (query.before is None or trade.trade_id > query.before)
    ]
    return Page(msgspec.json.encode(told[: query.limit]), headers=_cursors(told, query.limit))


def _cursors(trades: Sequence[CoinbaseTrade], limit: int) -> dict[str, str]:
    """Return the headers by which Coinbase's clients page: newer than the first, older than the last."""
    headers = {"CB-BEFORE": str(trades[0].trade_id)} if trades else {}
    if len(trades) > limit:
        headers["CB-AFTER"] = str(trades[limit - 1].trade_id)
    return headers


def _key(product_id: str) -> str:
    return f"{EXCHANGE}:{product_id}"


def _state(partition: int, product_id: str) -> TapeState:
    state = candles.state(partition, _key(product_id))
    if state is None:
        raise nothing_of(EXCHANGE, product_id)
    return state


def _over(partition: int, product_id: str, back_us: int, fine: Window, coarse: Window) -> Candle | None:
    """Return one candle of the time back from the end of the last fine window.

    It is made of fine ones up to the first coarse one that is whole in it, and of coarse ones from there.
    """
    symbol_key = _key(product_id)
    newest = candles.latest(partition, symbol_key, fine.name)
    if newest is None:
        return None
    end_us = newest.start_us + fine.size_us
    first_us = max(0, end_us - back_us)
    middle_us = min(end_us, -(-first_us // coarse.size_us) * coarse.size_us)
    whole: Candle | None = None
    with decimal.localcontext(EXACT):
        for window, from_us, to_us in ((fine, first_us, middle_us), (coarse, middle_us, end_us)):
            most = (to_us - from_us) // window.size_us + 1
            for start_us in candles.starts(partition, symbol_key, window.name, from_us, to_us, most):
                if found := candles.at(partition, symbol_key, window.name, start_us):
                    whole = found.row.candle if whole is None else whole.merge(found.row.candle)
    return whole
