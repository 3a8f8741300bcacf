"""What topics and web views show, one type each: the code writes them, the documents are made of them.

Numbers of the market are decimal strings, exact but for those that say otherwise; times are RFC 3339 in
UTC. Prices are in the quote currency, sizes and volumes in the base.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from msgspec import Meta, Struct

from models.times import rfc3339
from models.window import Window

Number = Annotated[
    str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$", description="a decimal number", examples=["70000.01"])
]
Rounded = Annotated[
    str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$", description="a decimal number, to 12 significant digits")
]
Count = Annotated[int, Meta(ge=0)]
Instant = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC",
        examples=["2026-11-01T00:00:00Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Millis = Annotated[int, Meta(ge=0, description="milliseconds since 1970")]


class CandleFigures(Struct, frozen=True, kw_only=True):
    """One candle."""

    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number
    quote_volume: Annotated[Number, Meta(description="the sum of price times size")]
    vwap: Rounded
    trade_count: Count
    buy_volume: Annotated[Number, Meta(description="of trades whose taker bought")]
    sell_volume: Number
    first_trade_id: Count
    last_trade_id: Count
    state: Annotated[
        Literal["open", "closed"],
        Meta(description="closed once event time is past its end and the grace; it may still be amended"),
    ]
    complete: Annotated[bool, Meta(description="every trade of its time that the exchange spoke of is in it")]
    late_trades: Annotated[Count, Meta(description="trades that came after it had closed")]
    missing_trades: Count
    revision: Annotated[Count, Meta(description="rises by one each time that a closed candle is amended")]


class BookFigures(Struct, frozen=True, kw_only=True):
    """The order book over one window; null where there was nothing to see."""

    highest_bid: Number | None
    highest_bid_size: Number | None
    lowest_ask: Number | None
    lowest_ask_size: Number | None
    spread: Annotated[Number | None, Meta(description="at the last update")]
    spread_open: Number | None
    min_spread: Number | None
    max_spread: Number | None
    mean_spread: Annotated[Rounded | None, Meta(description="weighted by time")]
    mid: Annotated[Number | None, Meta(description="at the last update")]
    mid_open: Number | None
    mid_high: Number | None
    mid_low: Number | None
    moving_avg_10: Annotated[Rounded | None, Meta(description="of the mid at the last ten updates")]
    bid_depth: Annotated[Number, Meta(description="sizes of the top levels, summed")]
    ask_depth: Number
    imbalance: Annotated[Rounded | None, Meta(description="bid less ask depth, over both: -1 to 1")]
    updates: Annotated[Count, Meta(description="frames of the exchange")]
    resyncs: Annotated[Count, Meta(description="times the book came back into step")]
    in_step_share: Annotated[Rounded | None, Meta(description="of the time that was observed")]
    state: Literal["open", "closed"]


class _InWindow(Struct, frozen=True, kw_only=True):
    exchange: str
    symbol: str
    window: str
    start: Instant
    end: Instant
    start_ms: Millis

    @classmethod
    def of(
        cls, symbol_key: str, window: Window, start_us: int, **figures: CandleFigures | BookFigures
    ) -> Self:
        """Return the message of ``exchange:symbol`` and a window."""
        exchange, _, symbol = symbol_key.partition(":")
        return cls(
            exchange=exchange,
            symbol=symbol,
            window=window.name,
            start=rfc3339(start_us),
            end=rfc3339(window.end_of(start_us)),
            start_ms=start_us // 1000,
            **figures,
        )


class CandleMessage(_InWindow, frozen=True, kw_only=True):
    """A record of the topic ``candles``: a candle that closed, or was amended since."""

    candle: CandleFigures


class BookMessage(_InWindow, frozen=True, kw_only=True):
    """A record of the topic ``book-stats``: the book over a window that is over."""

    book: BookFigures
