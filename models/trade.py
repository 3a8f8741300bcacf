"""A trade, and the heartbeat that says there was none: what the topic ``trades`` carries.

Both are one line of JSON, decimals as strings, times in integer microseconds. A heartbeat goes
through the same log as the trades, so that a replay moves a quiet symbol's clock at the same point.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from models.decimals import is_price, plain
from models.errors import RecordError
from models.times import EventTime

TakerSide = Literal["buy", "sell"]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
"""A number that an exchange gives out one after the other."""


MAX_AHEAD_US = 86_400_000_000
"""One record from the far future would close every candle before it, so it is refused."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One execution. ``price`` and ``size`` are in the quote and the base currency."""

    exchange: str
    symbol: str
    trade_id: Count
    price: Decimal
    size: Decimal
    taker_side: TakerSide
    """The side of the order that crossed the spread: ``buy`` lifted an ask."""
    event_time_us: EventTime
    """The exchange's time, microseconds since 1970, UTC."""
    received_time_us: EventTime
    """Our clock, when the frame arrived."""
    sequence: Count | None = None
    """The exchange's own counter, where it has one; Coinbase counts all order events of a product."""

    def to_json(self) -> bytes:
        """Return the record's value: one line of JSON."""
        sequence = "null" if self.sequence is None else self.sequence
        return (
            f'{{"exchange":"{self.exchange}","symbol":"{self.symbol}","trade_id":{self.trade_id},'
            f'"price":"{plain(self.price)}","size":"{plain(self.size)}","taker_side":"{self.taker_side}",'
            f'"event_time_us":{self.event_time_us},"received_time_us":{self.received_time_us},'
            f'"sequence":{sequence}}}'
        ).encode()


class Heartbeat(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="heartbeat"):
    """The exchange says that a symbol is alive, and which trade was its last."""

    exchange: str
    symbol: str
    last_trade_id: Count
    event_time_us: EventTime
    received_time_us: EventTime
    sequence: Count | None = None

    def to_json(self) -> bytes:
        """Return the record's value: one line of JSON."""
        return _encoder.encode(self)


_encoder = msgspec.json.Encoder()
_decode_trade = msgspec.json.Decoder(Trade).decode
_decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes that are not ours may raise."""


def read_trade(value: bytes | None) -> Trade | Heartbeat:
    """Read one record of the topic ``trades``, every value checked.

    Raises:
        RecordError: not JSON, a field missing or of another type, a price or size that cannot be.
    """
    if value is None:
        raise RecordError("no value", value)
    try:
        trade = _decode_trade(value)
    except UNREADABLE as not_a_trade:
        try:
            heartbeat = _decode_heartbeat(value)
        except UNREADABLE:
            raise RecordError(str(not_a_trade), value) from None
        if heartbeat.event_time_us > heartbeat.received_time_us + MAX_AHEAD_US:
            raise RecordError("its time is over a day after it was received", value) from None
        return heartbeat
    if not (is_price(trade.price) and is_price(trade.size)):
        raise RecordError("price and size must be above zero, of at most 28 digits", value)
    if trade.event_time_us > trade.received_time_us + MAX_AHEAD_US:
        raise RecordError("its time is over a day after it was received", value)
    return trade
