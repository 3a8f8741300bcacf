"""What the web views answer, one type each: the views write them, the terminal's commands read them.

Numbers of the market are as in `models.shown`: decimal strings.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from models.producer_status import ProducerStatus
from models.shown import CandleFigures, Count, Instant, Millis, Number

Channel = Literal["candles", "book", "ticker"]
"""What a stream tells of."""


class CandleItem(CandleFigures, frozen=True, kw_only=True):
    """A candle, and when."""

    start: Instant
    end: Instant
    start_ms: Millis
    synthetic: Annotated[bool, Meta(description="no trade was there; the last close stands")] | UnsetType = (
        UNSET
    )


CANDLE_COLUMNS = ("start", *(field.name for field in msgspec.structs.fields(CandleFigures)))
"""What a line of CSV has of a candle."""


class CandlesPage(Struct, frozen=True, kw_only=True):
    """Candles of one product and window."""

    exchange: str
    product_id: str
    window: str
    candles: list[CandleItem]
    next: str | None
    """The address of the page that follows, if there is one."""


class LiveCandle(CandleItem, frozen=True, kw_only=True):
    """A candle that has changed."""

    exchange: str
    product_id: str
    window: str


class Snapshot(Struct, frozen=True, kw_only=True):
    """What is known of a topic when a listener joins: the newest candles, or those that it has missed."""

    channel: Channel
    exchange: str
    product_id: str
    window: str
    candles: list[CandleItem]


class Ticker(Struct, frozen=True, kw_only=True):
    """A product's last trade, and the best prices."""

    exchange: str
    product_id: str
    trade_id: Count
    price: Number
    size: Number
    side: Annotated[Literal["buy", "sell"], Meta(description="the taker's")]
    time: Instant
    time_ms: Count
    bid: Number | None
    """Null while the book is out of step."""
    bid_size: Number | None
    ask: Number | None
    ask_size: Number | None


class BookStatus(Struct, frozen=True, kw_only=True):
    """A product's book, now."""

    state: Literal["none", "in step", "out of step"]
    highest_bid: Number | None = None
    lowest_ask: Number | None = None
    spread: Number | None = None
    mid: Number | None = None
    age_ms: Count | None = None


class ProductStatus(Struct, frozen=True, kw_only=True):
    """A product, now. Ages are by our clock, from the time of receipt, in milliseconds."""

    exchange: str
    product_id: str
    partition: Count
    price: Number | None
    last_trade_id: Count | None
    last_trade_time: Instant | None
    last_trade_age_ms: Count | None
    feed_latency_ms: int | None
    """From the exchange's time of the last trade to its receipt; below 0 where the clocks differ."""
    watermark: Instant | None
    trades_1m: Count
    trades_1d: Count
    gaps: Count
    missing_trades: Count
    duplicates: Count
    book: BookStatus


class WorkerStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker, now."""

    url: str
    ready: bool
    lag_records: Count | None = None
    lag: dict[str, Count] | None = None
    """By topic and partition, records that are not folded yet; those that have some."""
    error: str | None = None
    """Why it did not answer."""


class Status(Struct, kw_only=True):
    """How everything is."""

    feeds: list[ProducerStatus]
    workers: list[WorkerStatus]
    products: list[ProductStatus]


class WrongParameter(Struct, frozen=True):
    """What is wrong with a parameter."""

    param: str
    message: str


class ProblemBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error, in the form of RFC 9457."""

    type: str
    """``/problems/...``, one for each cause."""
    title: str
    status: int
    detail: str
    instance: str
    """The path that was asked for."""
    errors: list[WrongParameter] | None = None
    message: str | None = None
    """The detail again, on Coinbase's own paths: its clients look for it under this name."""
