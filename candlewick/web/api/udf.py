"""TradingView's Universal Data Feed (UDF): charts that speak it work with ``/udf`` as their address.

Numbers are JSON numbers here, as it asks for. Source: TradingView's documentation of UDF.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from candlewick.web import peers
from candlewick.web.api.market import list_products
from candlewick.web.api.series import Span, most_windows, newest_items, read
from candlewick.web.problems import Problem
from candlewick.web.routes import JSON, NoQuery, Page, page
from models.decimals import plain
from models.shown import Count
from models.window import SECOND_US, window_named
from tables import candles

RESOLUTIONS = {
    "1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h",
    "360": "6h", "720": "12h", "1D": "1d", "D": "1d",
}  # fmt: skip
"""Names of windows. A week is none of them: ours begin on Thursdays."""
OFFERED = tuple(name for name in RESOLUTIONS if name != "D")
MOST_BARS = 5000

Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799, description="seconds since 1970")]


class UdfConfig(Struct, frozen=True):
    """What this data feed can do."""

    supported_resolutions: tuple[str, ...]
    exchanges: list[dict[str, str]]
    symbols_types: list[dict[str, str]]
    supports_search: bool = True
    supports_group_request: bool = False
    supports_marks: bool = False
    supports_timescale_marks: bool = False
    supports_time: bool = True


class UdfSymbol(Struct, frozen=True, kw_only=True):
    """A product."""

    name: str
    ticker: str
    """``exchange:product``."""
    description: str
    exchange: str
    listed_exchange: str
    type: str = "crypto"
    session: str = "24x7"
    timezone: str = "Etc/UTC"
    minmov: int = 1
    pricescale: Count
    """The smallest step of the price is one over this."""
    has_intraday: bool = True
    has_daily: bool = True
    has_weekly_and_monthly: bool = False
    supported_resolutions: tuple[str, ...] = OFFERED
    volume_precision: int = 8
    data_status: str = "streaming"
    format: str = "price"


class UdfFound(Struct, frozen=True, kw_only=True):
    """A product that was searched for."""

    symbol: str
    full_name: str
    description: str
    exchange: str
    ticker: str
    type: str = "crypto"


class SymbolQuery(Struct, frozen=True):
    """Which product."""

    symbol: str
    """``BTC-USD``, or with its exchange, ``coinbase:BTC-USD``."""


class SearchQuery(Struct, frozen=True):
    """Which products."""

    query: str = ""
    type: str = ""
    exchange: str = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 30


class HistoryQuery(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which bars; ``countback`` wins over ``from``."""

    symbol: str
    resolution: Literal["1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "1D", "D"]
    from_: Seconds = 0
    to: Seconds
    """Bars that begin before this."""
    countback: Annotated[int, Meta(ge=1, le=100_000)] | None = None


class UdfBars(Struct, frozen=True, kw_only=True, tag_field="s", tag="ok"):
    """Bars, a column each: start in seconds, open, high, low, close, volume."""

    t: list[int]
    o: list[float]
    h: list[float]
    l: list[float]  # noqa: E741
    c: list[float]
    v: list[float]


class UdfNoData(
    Struct, frozen=True, kw_only=True, tag_field="s", tag="no_data", omit_defaults=True, rename="camel"
):
    """There is no bar."""

    next_time: int | None = None
    """Start of the last bar before, in seconds, if there is one."""


class UdfFailed(Struct, frozen=True, tag_field="s", tag="error"):
    """Why there is no answer."""

    errmsg: str


@page("/udf/config", {JSON: UdfConfig}, also=(503,))
async def udf_config(request: Any, query: NoQuery) -> Any:
    """What the data feed can do."""
    exchanges = sorted({each.exchange for each in await list_products()})
    return UdfConfig(
        OFFERED,
        [{"value": each, "name": each, "desc": each} for each in exchanges],
        [{"name": "crypto", "value": "crypto"}],
    )


@page("/udf/time", {"text/plain": str})
async def udf_time(request: Any, query: NoQuery) -> Any:
    """The time of this server, in seconds."""
    return Page(str(int(time.time())).encode(), "text/plain")


@page("/udf/symbols", {JSON: UdfSymbol | UdfFailed}, SymbolQuery, also=(503,))
async def udf_symbols(request: Any, query: SymbolQuery) -> Any:
    """One product."""
    exchange, product_id = _named(query.symbol)
    try:
        partition = peers.locate(exchange, product_id)
    except Problem as problem:
        return _failed(problem)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    state = candles.state(partition, f"{exchange}:{product_id}")
    if state is None:
        return UdfFailed("unknown_symbol")
    # What steps its price goes in nobody says: as fine as the finest that was seen of late.
    prices = [plain(state.last_trade.price)] if state.last_trade else ["0.01"]
    for each in newest_items(partition, f"{exchange}:{product_id}", "1m", 100, -1):
        prices += (each.open, each.high, each.low, each.close)
    places = max(len(price.partition(".")[2]) for price in prices)
    return UdfSymbol(
        name=product_id,
        ticker=f"{exchange}:{product_id}",
        description=product_id.replace("-", " / "),
        exchange=exchange,
        listed_exchange=exchange,
        pricescale=10**places,
    )


@page("/udf/search", {JSON: list[UdfFound]}, SearchQuery, also=(503,))
async def udf_search(request: Any, query: SearchQuery) -> Any:
    """Products whose name holds a text."""
    return [
        UdfFound(
            symbol=each.product_id,
            full_name=f"{each.exchange}:{each.product_id}",
            description=each.product_id.replace("-", " / "),
            exchange=each.exchange,
            ticker=f"{each.exchange}:{each.product_id}",
        )
        for each in await list_products()
        if query.query.upper() in each.product_id.upper()
        and query.exchange in ("", each.exchange)
        and query.type in ("", "crypto")
    ][: query.limit]


@page("/udf/history", {JSON: UdfBars | UdfNoData | UdfFailed}, HistoryQuery, also=(503,))
async def udf_history(request: Any, query: HistoryQuery) -> Any:
    """Bars of a product, oldest first."""
    exchange, product_id = _named(query.symbol)
    try:
        partition = peers.locate(exchange, product_id)
    except Problem as problem:
        return _failed(problem)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    symbol_key = f"{exchange}:{product_id}"
    state = candles.state(partition, symbol_key)
    window = window_named(RESOLUTIONS[query.resolution])
    assert window is not None
    if state is None:
        return UdfFailed("unknown_symbol")
    last_us = max(state.latest.values(), default=0)
    end_us = min(
        -(-query.to * SECOND_US // window.size_us) * window.size_us, window.start_of(last_us) + window.size_us
    )
    first_us = 0 if query.countback else window.start_of(query.from_ * SECOND_US)
    most = most_windows(window, min(query.countback or MOST_BARS, MOST_BARS))
    found, _ = read(partition, symbol_key, window, Span(first_us, end_us, most, True), state, "none")
    if not found:
        before, _ = read(
            partition, symbol_key, window, Span(0, min(first_us, end_us), 1, True), state, "none"
        )
        return UdfNoData(next_time=before[-1].start_ms // 1000 if before else None)
    return UdfBars(
        t=[each.start_ms // 1000 for each in found],
        o=[float(each.open) for each in found],
        h=[float(each.high) for each in found],
        l=[float(each.low) for each in found],
        c=[float(each.close) for each in found],
        v=[float(each.volume) for each in found],
    )


def _named(symbol: str) -> tuple[str, str]:
    exchange, _, product_id = symbol.rpartition(":")
    return exchange or "coinbase", product_id


def _failed(problem: Problem) -> Any:
    if problem.status == 503:
        raise problem
    return UdfFailed("unknown_symbol")
