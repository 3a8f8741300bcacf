"""``/v1/ws``: the same by WebSocket, in the shape of Coinbase's own messages.

::

    > {"type":"subscribe","channel":"candles","product_ids":["BTC-USD"],"window":"1m","snapshot":100,"id":1}
    < {"channel":"candles","timestamp":"…","sequence_num":0,"events":[{"type":"snapshot","candles":[…]}]}
    < {"type":"subscriptions","subscriptions":[{"channel":"candles","product_id":"BTC-USD",…}],"id":1}
    < {"channel":"candles","timestamp":"…","sequence_num":1,"events":[{"type":"update","candles":[{…}]}]}

The answer comes before the snapshots of products that another worker has.

``sequence_num`` counts the messages of a connection. A client that is too far behind is closed with 1013,
one that says nothing that can be understood with 1008.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import WSMsgType
from aiohttp.web import WebSocketResponse
from msgspec import Meta, Struct
from yarl import URL

from candlewick.web.problems import Problem, bad_parameter
from candlewick.web.push import relay
from candlewick.web.push.bounds import FAREWELL_S, MOST_CANDLES, bound, check_snapshot, check_window, part
from candlewick.web.push.hub import LiveBook, Place, Topic, Update, cut_off, hub, snapshot
from candlewick.web.push.stream import MOST_TOPICS, owners_of
from candlewick.web.routes import ExchangeName, NoQuery, page
from models.answers import Channel, LiveCandle, ProblemBody, Ticker
from models.shown import Count, Instant
from models.times import rfc3339

MOST_WAITING = 256
"""Messages that may wait for a slow client."""
MOST_BEHIND = 1 << 19
"""Bytes that may, beside what it asked for last."""
MOST_BYTES = 1 << 16
"""Of a message of the client."""
MOST_WRONG = 10
"""Messages that cannot be understood, before the connection is closed."""
MOST_A_SECOND = 20
"""Messages of a client."""
IDLE_S = 30.0
"""Without a subscription."""
PING_S = 20.0
MOST_SOCKETS = 2_000

TRY_AGAIN_LATER, POLICY = 1013, 1008


_Channel = Literal["candles", "book", "ticker", "heartbeats"]


class _Request(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    channel: _Channel
    product_ids: Annotated[list[str], Meta(max_length=MOST_TOPICS)] = []
    """None with the channel ``heartbeats``."""
    window: str = "1m"
    """Of candles any; of the book ``1m``, ``1h`` or ``1d``."""
    exchange: ExchangeName = "coinbase"
    id: int | str | None = None
    """Comes back with the answer."""


class Subscribe(_Request, frozen=True, kw_only=True, tag="subscribe"):
    """Listen to a channel of some products."""

    snapshot: Annotated[int, Meta(ge=1, le=MOST_CANDLES)] = 1
    """Candles to begin with, of each product: 5000 in all at most."""


class Unsubscribe(_Request, frozen=True, kw_only=True, tag="unsubscribe"):
    """Listen no more."""


class Subscription(Struct, frozen=True, omit_defaults=True):
    """What a connection listens to."""

    channel: _Channel
    exchange: str = ""
    product_id: str = ""
    window: str = ""


class Subscriptions(
    Struct, frozen=True, kw_only=True, tag_field="type", tag="subscriptions", omit_defaults=True
):
    """The answer to a request: all that the connection listens to now."""

    subscriptions: list[Subscription]
    id: int | str | None = None


class Wrong(Struct, frozen=True, kw_only=True, tag_field="type", tag="error", omit_defaults=True):
    """Why a request was refused."""

    problem: ProblemBody
    id: int | str | None = None


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has changed, or what is known to begin with."""

    type: Literal["snapshot", "update"]
    candles: list[LiveCandle] = []
    """In the channel ``candles``, as they were written once for all who listen."""
    books: list[LiveBook] = []
    tickers: list[Ticker] = []


class Message(Struct, frozen=True, kw_only=True):
    """A message of a channel."""

    channel: _Channel
    timestamp: Instant
    sequence_num: Count
    """The first message of a connection has 0, the next one 1."""
    events: list[Event]
    """Of the channel ``heartbeats``, none."""


_decode = msgspec.json.Decoder(Subscribe | Unsubscribe).decode
_encode = msgspec.json.Encoder().encode

sockets = 0
"""Open at this moment."""


@page("/v1/ws", {}, NoQuery, also=(101, 426, 503))
async def ws(request: Any, query: NoQuery) -> Any:
    """Candles, book statistics and tickers by WebSocket."""
    global sockets
    if request.method != "GET" or request.headers.get("Upgrade", "").lower() != "websocket":
        raise Problem(426, "upgrade-required", "A WebSocket", "this address speaks WebSocket only")
    if sockets >= MOST_SOCKETS:
        told = f"{sockets} are open here"
        raise Problem(503, "too-many-streams", "Too many streams", told, retry_after_s=5)
    socket = WebSocketResponse(timeout=FAREWELL_S, heartbeat=PING_S, max_msg_size=MOST_BYTES, compress=False)
    sockets += 1
    try:
        await socket.prepare(request)
        bound(request.transport)
        await _Client(request, socket).serve()
    finally:
        sockets -= 1
    return socket


class _Client:
    """One connection."""

    def __init__(self, request: Any, socket: WebSocketResponse) -> None:
        self._request = request
        self._socket = socket
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Messages, and by how many bytes each lets the client be behind."""
        self._behind = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        """Nothing waits, or nothing will be sent any more."""
        self._number = 0
        self._relays: dict[Topic, asyncio.Task[None]] = {}
        """By topic of another worker, who passes it on; one for all that were asked for together."""
        self._topics: dict[Topic, None] = {}
        self._beats = False
        self._closing: asyncio.Task[bool] | None = None

    async def serve(self) -> None:
        """Talk until the client or the worker ends it."""
        transport = self._request.transport
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(work) for work in (self._send(), self._beat(), self._watch())
        ]
        try:
            await self._read()
        finally:
            for topic in self._topics:
                hub.leave(topic, self)
            closing = self._close(1000, b"")
            # Before the tasks are cancelled: who waits for the connection waits together, and ends together.
            await asyncio.wait({closing}, timeout=FAREWELL_S)
            tasks += [closing, *self._relays.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await part(transport, FAREWELL_S)

    # From the client.

    async def _read(self) -> None:
        wrong, allowance, then = 0, float(MOST_A_SECOND), time.monotonic()
        async for message in self._socket:
            now = time.monotonic()
            allowance = min(MOST_A_SECOND, allowance + (now - then) * MOST_A_SECOND) - 1
            then = now
            if allowance < 0:
                self._close(POLICY, b"too many messages")
                return
            if message.type is not WSMsgType.TEXT:
                self._close(POLICY, b"text only")
                return
            try:
                self._take(message.data)
            except Problem:
                wrong += 1
            await self._idle.wait()  # who does not read is not listened to
            if wrong >= MOST_WRONG:
                self._close(POLICY, b"nothing that can be understood")
                return

    def _take(self, text: str) -> None:
        """Do what a message asks for; a `Problem` is told, and raised."""
        number: int | str | None = None
        try:
            try:
                asked = _decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                raise bad_parameter("message", str(error)[:200]) from None
            number = asked.id
            if asked.channel == "heartbeats":
                self._beats = isinstance(asked, Subscribe)
            elif isinstance(asked, Subscribe):
                self._subscribe(asked)
            else:
                for topic in _topics(asked):
                    self._drop(topic)
        except Problem as problem:
            self._refuse(problem, number)
            raise
        told = [Subscription(*topic) for topic in self._topics]
        if self._beats:
            told.append(Subscription("heartbeats"))
        self._put(_encode(Subscriptions(subscriptions=told, id=number)))

    def _subscribe(self, asked: Subscribe) -> None:
        topics = [topic for topic in _topics(asked) if topic not in self._topics]
        if not asked.product_ids:
            raise bad_parameter("product_ids", "must name a product")
        if len(topics) + len(self._topics) > MOST_TOPICS:
            raise bad_parameter("product_ids", f"{MOST_TOPICS} subscriptions at most")
        check_snapshot(asked.snapshot, len(topics) if asked.channel == "candles" else 0)
        ours, theirs = owners_of(self._request, topics)
        for topic in topics:
            self._topics[topic] = None
        for topic in ours:
            self._updates(topic, snapshot(topic, asked.snapshot, -1))
            hub.join(topic, self)
        for url, others in theirs.items():
            relaying = asyncio.create_task(self._relay(url, others, asked))
            self._relays |= dict.fromkeys(others, relaying)

    def _drop(self, topic: Topic) -> None:
        self._topics.pop(topic, None)
        hub.leave(topic, self)
        relaying = self._relays.pop(topic, None)
        if relaying and relaying not in self._relays.values():
            relaying.cancel()

    # To the client.

    def hear(self, topic: Topic, updates: Sequence[Update], place: Place, sse: bytes) -> None:
        """Take updates of a topic."""
        self._updates(topic, updates)

    def _updates(self, topic: Topic, updates: Sequence[Update]) -> None:
        for update in updates:
            self._message(topic.channel, update.event == "snapshot", update.data)

    def end(self) -> None:
        """End the connection: what it listens to has moved."""
        self._close(1012, b"the worker restarts, or its products move: connect again")

    async def _relay(self, url: URL, topics: Sequence[Topic], asked: Subscribe) -> None:
        """Pass on what another worker tells; its end is the end of the connection."""
        try:
            async with await relay.ask(url, topics, asked.snapshot, "") as answer:
                async for event in relay.events(answer):
                    told = relay.read(event)
                    # Else it was unsubscribed.
                    if told and self._relays.get(told.topic) is asyncio.current_task():
                        self._message(told.topic.channel, told.is_snapshot, told.data)
        except Problem as problem:
            if problem.status == 404:
                for topic in topics:
                    if self._relays.get(topic) is asyncio.current_task():
                        del self._relays[topic], self._topics[topic]
                self._refuse(problem, asked.id)
                return
        self.end()

    def _refuse(self, problem: Problem, number: int | str | None) -> None:
        """Tell why a request is not done."""
        body = msgspec.json.decode(problem.body("/v1/ws"), type=ProblemBody)
        self._put(_encode(Wrong(problem=body, id=number)))

    def _message(self, channel: Channel, is_snapshot: bool, data: bytes) -> None:
        """Tell what has changed, or what is known to begin with, in the form of the channel."""
        whole: Any = [msgspec.Raw(data)]
        if channel == "candles":
            candles = _candles_of(data) if is_snapshot else whole
            event = Event(type="snapshot" if is_snapshot else "update", candles=candles)
        elif channel == "book":
            event = Event(type="update", books=whole)
        else:
            event = Event(type="update", tickers=whole)
        self._tell(channel, [event], is_snapshot)

    def _tell(self, channel: _Channel, events: list[Event], asked: bool = False) -> None:
        message = Message(channel=channel, timestamp=_now(), sequence_num=self._number, events=events)
        self._number += 1
        self._put(_encode(message), asked)

    def _put(self, text: bytes, asked: bool = True) -> None:
        """Queue a message. A client too far behind is closed; it is not behind for what it asked for."""
        if self._closing is not None:
            return
        if len(self._waiting) >= MOST_WAITING or self._behind > MOST_BEHIND:
            cut_off["websocket"] += 1
            self._close(TRY_AGAIN_LATER, b"too slow")
            return
        size = 0 if asked else len(text)
        self._waiting.append((text, size))
        self._behind += size
        self._idle.clear()
        self._news.set()

    async def _send(self) -> None:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    text, size = self._waiting.popleft()
                    self._behind -= size
                    await self._socket.send_frame(text, WSMsgType.TEXT)
                self._idle.set()
        finally:
            self._close(1000, b"")  # the connection is gone: who waits for it waits no more

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._beats:
                self._tell("heartbeats", [])

    async def _watch(self) -> None:
        """Close a connection that listens to nothing."""
        while True:
            await asyncio.sleep(IDLE_S)
            if not self._topics and not self._beats:
                self._close(POLICY, b"nothing was subscribed")

    def _close(self, code: int, text: bytes) -> asyncio.Task[bool]:
        """Begin to close, if nobody has: what waits is not sent any more."""
        if self._closing is None:
            self._idle.set()
            self._closing = asyncio.create_task(self._socket.close(code=code, message=text, drain=False))
        return self._closing


class _Snapshot(Struct):
    exchange: str
    product_id: str
    window: str
    candles: list[msgspec.Raw] = []


_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode


def _candles_of(data: bytes) -> Any:
    """Return a snapshot's candles, each with the product and the window that it is of."""
    told = _decode_snapshot(data)
    whose = _encode({"exchange": told.exchange, "product_id": told.product_id, "window": told.window})
    return [msgspec.Raw(b"%b,%b" % (bytes(candle)[:-1], whose[1:])) for candle in told.candles]


def _topics(asked: Subscribe | Unsubscribe) -> list[Topic]:
    """Return what is asked for; a problem where it cannot be."""
    assert asked.channel != "heartbeats"
    window = "" if asked.channel == "ticker" else asked.window
    if asked.channel != "ticker":
        check_window(asked.channel, window)
    return [Topic(asked.channel, asked.exchange, each, window) for each in dict.fromkeys(asked.product_ids)]


def _now() -> str:
    return rfc3339(time.time_ns() // 1000)
