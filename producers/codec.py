"""What a codec is: the one thing to write for a new exchange.

A codec turns frames into events and requests into frames. It opens no socket and asks no clock:
the feed hands it each frame with the time of receipt, and sends what it returns. One codec
serves one connection, so what it remembers (subscriptions) ends with the connection. The same
for REST, where `producers.rest` fetches trades that the connection lost: a path, a body read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

import msgspec

from models.book import BookDelta, BookSnapshot
from models.errors import DecodeError
from models.trade import Heartbeat, Trade


class Subscribed(msgspec.Struct, frozen=True):
    """The exchange's word on what this connection now receives: the full set, not the change."""

    channels: dict[str, frozenset[str]]
    """Symbols by channel, under our names: ``trades``, ``books``, ``heartbeats``."""


class Refused(msgspec.Struct, frozen=True):
    """The exchange refused a request. The connection may live on without that channel."""

    message: str
    reason: str


class Unknown(msgspec.Struct, frozen=True):
    """A message of a type that the codec does not know; exchanges add types at any time."""

    type: str


Event = Trade | Heartbeat | BookSnapshot | BookDelta | Subscribed | Refused | Unknown

CHANNELS = ("trades", "books", "heartbeats")


class Codec(Protocol):
    """Frames of one exchange's connection, in and out."""

    exchange: ClassVar[str]
    """The name in keys and paths: ``coinbase``."""
    live_url: ClassVar[str]
    """Where the real exchange's WebSocket listens."""
    page_trades: ClassVar[int]
    """The most trades that REST gives at once."""

    def subscribe(self, symbols: Iterable[str], channels: Iterable[str] = CHANNELS) -> list[str]:
        """Return the frames to send to receive these symbols."""
        ...

    def unsubscribe(self, symbols: Iterable[str], channels: Iterable[str] = CHANNELS) -> list[str]:
        """Return the frames to send to receive these symbols no more."""
        ...

    def receive(self, frame: str | bytes, received_time_us: int) -> list[Event]:
        """Return the events of one frame, every value checked; an ignorable frame has none.

        Raises:
            DecodeError: the frame is not what the protocol says. Dead-letter it and go on.
        """
        ...

    def rest_url(self, url: str) -> str:
        """Return where REST is, for the address of a WebSocket; no slash at the end."""
        ...

    def trades_path(self, symbol: str, before_id: int, limit: int) -> str:
        """Return path and query of a page: the ``limit`` trades with the highest ids below ``before_id``."""
        ...

    def read_trades(
        self, symbol: str, body: bytes, received_time_us: int
    ) -> tuple[list[Trade], list[DecodeError]]:
        """Return the trades of a page in any order, every value checked as in `receive`, and the refused.

        A trade that is refused does not keep the others away: its error holds its own bytes alone.

        Raises:
            DecodeError: the body as a whole is not what the protocol says.
        """
        ...


def without_userinfo(url: str) -> str:
    """Return an address as it may be shown: without ``user:password@``, also where it is malformed."""
    if "//" not in url:
        return url.rpartition("@")[2]
    return re.sub(r"//[^/?#]*@", "//", url, count=1)


def same_host(url: str) -> str:
    """Return REST on the host and port of a WebSocket, as a mock exchange has it."""
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
