"""The middle of the mock exchange: who subscribed to what, and how a frame finds them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from candlewick.mock.connection import Connection, Tally
from candlewick.mock.faults import FaultPlan, Faults
from candlewick.mock.frames import (
    CHANNEL_OF,
    HEARTBEAT,
    LEVEL2,
    MATCHES,
    TICKER,
    BookView,
    Frame,
    TickerView,
    Trades,
)
from candlewick.mock.requests import Request, acknowledgement

HEARTBEAT_S = 1.0
TICK_S = 0.1
DATA_CHANNELS = (MATCHES, LEVEL2, TICKER)
"""In the order of their greetings."""


class Source(Protocol):
    """Where frames come from: a simulated market, or a recording."""

    name: str
    beats: bool
    """True when heartbeats are part of the stream, so that the hub need not make them."""

    @property
    def products(self) -> list[str]:
        """Everything that can be subscribed."""
        ...

    @property
    def done(self) -> bool:
        """True when no frame will follow."""
        ...

    async def start(self, hub: Hub) -> None:
        """Make ready; frames are sent with `Hub.send` from now on."""
        ...

    async def stop(self) -> None:
        """End."""
        ...

    def subscribed(self, products: list[str]) -> None:
        """Take note that these products have a new subscriber, of whatever channels, together."""
        ...

    def greeting(self, product: str, channel: str) -> Frame | None:
        """Return what a new subscriber of the channel gets first, or None."""
        ...

    def heartbeat(self, product: str) -> Frame | None:
        """Return a heartbeat of now, or None when there is no time to tell yet."""
        ...

    def trades(self, product: str) -> Trades:
        """Return the trades so far, for REST."""
        ...

    def book(self, product: str, count: int | None) -> BookView:
        """Return the book as it is, the best ``count`` levels a side."""
        ...

    def ticker(self, product: str) -> TickerView | None:
        """Return last trade and best prices, or None before there is a trade."""
        ...

    def increments(self, product: str) -> tuple[str, str]:
        """Return the smallest step of the size, and of the price."""
        ...

    def now_us(self) -> int:
        """Return the exchange's own clock."""
        ...


class Hub:
    """All connections, and the frames on their way to them."""

    def __init__(self, source: Source, faults: Faults) -> None:
        self.source = source
        self.plan = FaultPlan(faults)
        self.tally = Tally()
        self.connections: set[Connection] = set()
        self._subscribers: dict[tuple[str, str], dict[Connection, None]] = {}
        """By channel and product. A dict, for its order: what one seed does must not depend on hashes."""

    def send(self, frame: Frame) -> None:
        """Queue a frame for everyone who subscribed to its channel and product."""
        subscribers = self._subscribers.get((CHANNEL_OF[frame.kind], frame.product))
        if subscribers:
            for connection in subscribers:
                connection.send(frame)
            if frame.kind == "heartbeat":
                now = asyncio.get_running_loop().time()
                for connection in subscribers:
                    connection.beats[frame.product] = now

    async def room(self) -> None:
        """Wait until every connection can take more: one that does not read holds up all."""
        for connection in list(self.connections):
            await connection.room()

    def wants(self, product: str, channel: str) -> bool:
        """Say whether anyone can still be sent that channel of the product."""
        subscribers = self._subscribers.get((channel, product))
        return subscribers is not None and any(not each.closing for each in subscribers)

    def wanted(self, product: str) -> bool:
        """Say whether anyone can still be sent data of the product: heartbeats alone are none."""
        return any(self.wants(product, channel) for channel in DATA_CHANNELS)

    def follow(self, connection: Connection, request: Request) -> None:
        """Do what a client asked, acknowledge it, and send what a new subscriber gets first."""
        if request.type == "subscribe":
            self._subscribe(connection, request.channels)
        else:
            self._unsubscribe(connection, request.channels)
            connection.send_text(acknowledgement(connection.subscriptions))

    def leave(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        self.connections.discard(connection)
        self._unsubscribe(connection, dict.fromkeys(connection.subscriptions, ()))

    def tick(self, now: float) -> None:
        """Send heartbeats that are due, and frames held back too long. Call every `TICK_S`."""
        due_s = HEARTBEAT_S * (1.5 if self.source.beats else 1.0)
        for connection in self.connections:
            connection.release_held(now)
            for product in connection.subscriptions.get(HEARTBEAT, ()):
                if now - connection.beats[product] >= due_s and (frame := self.source.heartbeat(product)):
                    connection.send(frame)
                    # From the time it was due: late ticks must not make the second longer.
                    late = now - connection.beats[product] - HEARTBEAT_S
                    connection.beats[product] = now - late if late < TICK_S else now

    def _subscribe(self, connection: Connection, channels: dict[str, tuple[str, ...]]) -> None:
        now = asyncio.get_running_loop().time()
        for channel, products in channels.items():
            held = connection.subscriptions.setdefault(channel, {})
            for product in products:
                held[product] = None
                self._subscribers.setdefault((channel, product), {})[connection] = None
                if channel == HEARTBEAT:
                    connection.beats.setdefault(product, now)
        connection.send_text(acknowledgement(connection.subscriptions))
        asked = list(dict.fromkeys(product for products in channels.values() for product in products))
        self.source.subscribed(asked)
        for product in asked:
            for channel in DATA_CHANNELS:
                if product in channels.get(channel, ()):
                    frame = self.source.greeting(product, channel)
                    if frame is not None:
                        connection.greet(frame)

    def _unsubscribe(self, connection: Connection, channels: dict[str, tuple[str, ...]]) -> None:
        for channel, products in channels.items():
            held = connection.subscriptions.get(channel, {})
            for product in products or tuple(held):
                if held.pop(product, _ABSENT) is _ABSENT:
                    continue
                subscribers = self._subscribers[channel, product]
                del subscribers[connection]
                if not subscribers:
                    del self._subscribers[channel, product]
                if channel == HEARTBEAT:
                    connection.beats.pop(product, None)
            if not held:
                connection.subscriptions.pop(channel, None)


_ABSENT = object()
