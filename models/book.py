"""An order book, and the records that make it: what the topic ``books`` carries.

A **snapshot** replaces the book. A **delta** sets absolute sizes, zero removes a level. Between
the two there is no counter on Coinbase's feed, so a reader must not miss a delta, and a book is
judged only after a whole frame: half a frame may look crossed.

A **keyframe** is a snapshot that the producer writes from its own copy, every so often, so that a
reader can join at any point of the log: it tells nothing new. **Lost** says that deltas were, or
may have been, missed: from here to the next snapshot or keyframe the book is out of step.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import islice

import msgspec
from sortedcontainers import SortedDict

from models.decimals import is_price, plain
from models.errors import RecordError
from models.times import EventTime
from models.trade import UNREADABLE

Level = tuple[Decimal, Decimal]
"""A price, and the whole size that rests there."""


class _BookRecord(msgspec.Struct, frozen=True, tag_field="kind"):
    exchange: str
    symbol: str
    event_time_us: EventTime | None
    """The exchange's time, microseconds since 1970; a snapshot of 2021 has none."""
    received_time_us: EventTime


class BookSnapshot(_BookRecord, frozen=True, tag="snapshot"):
    """The whole book, from the exchange."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]

    def to_json(self) -> bytes:
        """Return the record's value: one line of JSON."""
        return _levels_json(self)


class BookKeyframe(_BookRecord, frozen=True, tag="keyframe"):
    """The whole book, from the producer's copy of it."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]

    def to_json(self) -> bytes:
        """Return the record's value: one line of JSON."""
        return _levels_json(self)


class BookDelta(_BookRecord, frozen=True, tag="delta"):
    """The level changes of one frame: absolute sizes, zero removes."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]

    def to_json(self) -> bytes:
        """Return the record's value: one line of JSON."""
        return _levels_json(self)


class BookLost(_BookRecord, frozen=True, tag="lost"):
    """The book cannot be trusted until the next snapshot."""

    cause: str

    def to_json(self) -> bytes:
        """Return the record's value: one line of JSON."""
        return msgspec.json.encode(self)


BookRecord = BookSnapshot | BookKeyframe | BookDelta | BookLost

_decode = msgspec.json.Decoder(BookRecord).decode


def read_book(value: bytes | None) -> BookRecord:
    """Read one record of the topic ``books``, every value checked.

    Raises:
        RecordError: not JSON, a field missing or of another type, a level that cannot be.
    """
    if value is None:
        raise RecordError("no value", value)
    try:
        record: BookRecord = _decode(value)
    except UNREADABLE as error:
        raise RecordError(str(error), value) from None
    if not isinstance(record, BookLost):
        for price, size in (*record.bids, *record.asks):
            if not (is_price(price) and (is_price(size) or size.is_zero())):
                raise RecordError(f"level {price}, {size} cannot be", value)
    return record


def _levels_json(record: BookSnapshot | BookKeyframe | BookDelta) -> bytes:
    time_us = "null" if record.event_time_us is None else record.event_time_us
    return (
        f'{{"kind":"{record.__struct_config__.tag}","exchange":"{record.exchange}",'
        f'"symbol":"{record.symbol}","event_time_us":{time_us},'
        f'"received_time_us":{record.received_time_us},'
        f'"bids":[{_side_json(record.bids)}],"asks":[{_side_json(record.asks)}]}}'
    ).encode()


def _side_json(levels: tuple[Level, ...]) -> str:
    return ",".join(f'["{plain(price)}","{plain(size)}"]' for price, size in levels)


class OrderBook:
    """Bids and asks of one symbol, by price. Changes in place: a book has up to 10^5 levels."""

    def __init__(self) -> None:
        self.bids: SortedDict[Decimal, Decimal] = SortedDict()
        self.asks: SortedDict[Decimal, Decimal] = SortedDict()

    def replace(self, snapshot: BookSnapshot | BookKeyframe) -> None:
        """Forget everything, and hold what the snapshot holds."""
        self.bids = SortedDict((price, size) for price, size in snapshot.bids if size)
        self.asks = SortedDict((price, size) for price, size in snapshot.asks if size)

    def apply(self, delta: BookDelta) -> None:
        """Set the sizes of one frame."""
        for side, levels in ((self.bids, delta.bids), (self.asks, delta.asks)):
            for price, size in levels:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)

    @property
    def best_bid(self) -> Level | None:
        """The highest bid, or None."""
        return self.bids.peekitem(-1) if self.bids else None

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask, or None."""
        return self.asks.peekitem(0) if self.asks else None

    @property
    def is_crossed(self) -> bool:
        """True when a bid is as high as an ask: between whole frames that cannot be."""
        return bool(self.bids and self.asks) and self.bids.peekitem(-1)[0] >= self.asks.peekitem(0)[0]

    def top_bids(self, count: int) -> list[Level]:
        """Return the highest ``count`` bids, the best first."""
        return [(price, self.bids[price]) for price in islice(reversed(self.bids), count)]

    def top_asks(self, count: int) -> list[Level]:
        """Return the lowest ``count`` asks, the best first."""
        return [(price, self.asks[price]) for price in islice(self.asks, count)]
