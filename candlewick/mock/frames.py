"""What a source hands to the server: a frame's text, and what the server must know of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import msgspec

from models.times import rfc3339

LEVEL2 = "level2_batch"
MATCHES = "matches"
TICKER = "ticker"
HEARTBEAT = "heartbeat"

CHANNEL_OF = {
    "snapshot": LEVEL2,
    "l2update": LEVEL2,
    "match": MATCHES,
    "last_match": MATCHES,
    "ticker": TICKER,
    "heartbeat": HEARTBEAT,
}
"""The channel that carries a message type."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message of the exchange about one product."""

    product: str
    kind: str
    """Its ``type``: a key of `CHANNEL_OF`."""
    time_us: int
    """Microseconds since 1970, on the source's clock."""
    text: str


Row = dict[str, object]
"""A trade as ``GET /products/<id>/trades`` writes it."""

Levels = list[list[object]]
"""Levels as ``GET /products/<id>/book`` writes them: price, size, number of orders."""


class BookView(msgspec.Struct, frozen=True):
    """A product's book, best levels first."""

    bids: Levels
    asks: Levels
    sequence: int
    time_us: int


class TickerView(msgspec.Struct, frozen=True):
    """A product's last trade and best prices, as texts."""

    trade_id: int
    price: str
    size: str
    time: str
    bid: str
    ask: str
    volume: str


class Trades(Protocol):
    """The trades of one product that REST serves."""

    def rows(self, limit: int, after: int | None, before: int | None) -> list[Row]:
        """Return up to ``limit`` trades with ``before < id < after``, the newest first."""
        ...


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return rfc3339(second * 1_000_000)[:-1]


def time_text(time_us: int) -> str:
    """Write an instant as the exchange does, always with six digits: ``…T02:03:12.257184Z``."""
    return f"{_second(time_us // 1_000_000)}.{time_us % 1_000_000:06d}Z"


def heartbeat_text(product: str, sequence: int, last_trade_id: int, time_us: int) -> str:
    """Write the frame of the channel ``heartbeat``."""
    return (
        f'{{"type":"heartbeat","sequence":{sequence},"last_trade_id":{last_trade_id},'
        f'"product_id":"{product}","time":"{time_text(time_us)}"}}'
    )


def snapshot_text(product: str, bids: list[str], asks: list[str], time_us: int | None) -> str:
    """Write a ``snapshot`` from levels that are JSON already, best first."""
    when = "" if time_us is None else f',"time":"{time_text(time_us)}"'
    return (
        f'{{"type":"snapshot","product_id":"{product}","asks":[{",".join(asks)}],'
        f'"bids":[{",".join(bids)}]{when}}}'
    )


def as_last_match(match: str) -> str:
    """Turn the text of a ``match`` into the replay of it that a new subscriber gets."""
    return match.replace('"match"', '"last_match"', 1)
