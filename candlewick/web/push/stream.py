"""``/v1/stream``: server-sent events. First what is known, then each change; resumable by Last-Event-ID.

Of products that another worker has, its own stream is passed on as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from aiohttp import ClientResponse, HttpVersion11
from aiohttp.web import StreamResponse
from msgspec import Meta, Struct
from yarl import URL

from candlewick.web import peers
from candlewick.web.access import ONE_HOP
from candlewick.web.api.stats import nothing_of
from candlewick.web.problems import Problem, bad_parameter, recovering
from candlewick.web.push import relay
from candlewick.web.push.bounds import FAREWELL_S, MOST_CANDLES, bound, check_snapshot, check_window, part
from candlewick.web.push.hub import (
    LiveBook,
    Place,
    Topic,
    Update,
    cut_off,
    hub,
    offset_of,
    places,
    snapshot,
)
from candlewick.web.routes import ExchangeName, page
from models.answers import LiveCandle, Snapshot, Ticker
from tables import book_stats, candles

PING_S = 15.0
LOOK_S = 1.0
"""How often it is looked whether the client is still there."""
MOST_BEHIND = 1 << 20
"""Bytes that may wait for a slow client beside its snapshot; with more it is cut off, and may resume."""
MOST_MISSED = 4 << 20
"""Bytes of what a client that resumes has missed, some 8,000 candles; after that, topics begin anew."""
MOST_STREAMS = 4_000
MOST_TOPICS = 50
RETRY_MS = (1_000, 3_000)
"""After which a client comes back, at random in between: else all come at once after a restart."""
CHANNELS = ("candles", "book", "ticker")

Names = Annotated[str, Meta(min_length=1, max_length=2000)]


class StreamQuery(Struct, frozen=True, kw_only=True):
    """What to listen to: every channel asked for, of every product and window."""

    product_id: Names
    """One, or several with commas."""
    channels: Annotated[str, Meta(pattern="^(candles|book|ticker)(,(candles|book|ticker)){0,2}$")] = "candles"
    """``candles``, ``book``, ``ticker``, with commas."""
    window: Annotated[str, Meta(pattern="^[1-9][0-9]{0,3}[mhd](,[1-9][0-9]{0,3}[mhd]){0,9}$")] = "1m"
    """Of candles any; of the book ``1m``, ``1h`` or ``1d``."""
    snapshot: Annotated[int, Meta(ge=1, le=MOST_CANDLES)] = 1
    """Candles to begin with, of each product and window: 5000 in all at most."""
    exchange: ExchangeName = "coinbase"


streams = 0
"""Open at this moment."""


@page("/v1/stream", {"text/event-stream": str}, StreamQuery, also=(404, 503))
async def stream(request: Any, query: StreamQuery) -> Any:
    """Candles, book statistics and tickers as they change: snapshot first, then every revision."""
    global streams
    topics = _topics(query)
    check_snapshot(query.snapshot, sum(topic.channel == "candles" for topic in topics))
    ours, theirs = owners_of(request, topics)
    if streams >= MOST_STREAMS:
        raise Problem(
            503, "too-many-streams", "Too many streams", f"{streams} are open here", retry_after_s=5
        )
    streams += 1
    answers: list[ClientResponse] = []
    last_id = request.headers.get("Last-Event-ID", "")
    try:
        for url, others in theirs.items():  # before the status is sent: it may be theirs
            answers.append(await relay.ask(url, others, query.snapshot, last_id))
        if answers and owners_of(request, topics) != (ours, theirs):
            raise recovering("its partition is on the way from one worker to another")
        return await _serve(request, query, places(last_id), ours, answers)
    finally:
        for answer in answers:
            answer.close()
        streams -= 1


def _topics(query: StreamQuery) -> list[Topic]:
    topics: dict[Topic, None] = {}
    for product_id in query.product_id.split(","):
        for channel in query.channels.split(","):
            if channel == "ticker":
                topics[Topic("ticker", query.exchange, product_id)] = None
                continue
            for name in query.window.split(","):
                check_window(channel, name)
                topics[
                    Topic("book" if channel == "book" else "candles", query.exchange, product_id, name)
                ] = None
    if len(topics) > MOST_TOPICS:
        raise bad_parameter("product_id", f"{len(topics)} subscriptions, {MOST_TOPICS} at most")
    return list(topics)


def owners_of(request: Any, topics: Sequence[Topic]) -> tuple[list[Topic], dict[URL, list[Topic]]]:
    """Return the topics that are ours, and those of other workers by their address."""
    ours: list[Topic] = []
    theirs: dict[URL, list[Topic]] = {}
    owners = peers.owners()
    for topic in topics:
        partition = peers.locate(topic.exchange, topic.product_id)
        if peers.is_ours(partition):
            if not any(table.state(partition, topic.symbol_key) for table in (candles, book_stats)):
                raise nothing_of(topic.exchange, topic.product_id)
            ours.append(topic)
        elif partition not in owners or ONE_HOP in request.headers:
            raise recovering("its partition is on the way from one worker to another")
        else:
            theirs.setdefault(owners[partition], []).append(topic)
    return ours, theirs


class _Client:
    """One stream. It is written to directly: a thousand tasks would cost more than what they write."""

    def __init__(self, transport: asyncio.Transport, chunked: bool) -> None:
        self._transport = transport
        self._chunked = chunked
        self._known: dict[str, int] = {}
        """By log, the offset up to which the client knows what it listens to: the id of its events."""
        self._most_behind = MOST_BEHIND
        self.ended = asyncio.Event()

    @property
    def _id(self) -> bytes:
        return b",".join(Place(*known).id for known in self._known.items())

    def begin(self, known: Sequence[Update], topics: Iterable[Topic]) -> None:
        """Send what there is to know first. Only with its end does the client know the topics."""
        for topic in topics:
            self._known[topic.log] = max(offset_of(topic), self._known.get(topic.log, -1))
        text = b"".join(
            [*(update.sse() for update in known[:-1]), *(update.sse(self._id) for update in known[-1:])]
        )
        self._most_behind += len(text)  # who asked for it is not behind
        self.write(text)

    def write(self, text: bytes) -> None:
        """Send text; a client too far behind is cut off."""
        transport = self._transport
        if not text:
            return  # in chunks it would be the end
        if self.ended.is_set() or transport.is_closing():
            self.ended.set()
            return
        if transport.get_write_buffer_size() > self._most_behind:
            cut_off["sse"] += 1
            transport.abort()
            self.ended.set()
            return
        transport.write(_chunk(text) if self._chunked else text)

    def hear(self, topic: Topic, updates: Sequence[Update], place: Place, sse: bytes) -> None:
        """Pass on what has changed."""
        if len(self._known) > 1:
            self._known[place.log] = max(place.offset, self._known.get(place.log, -1))
            sse = b"".join(update.sse(self._id) for update in updates)
        self.write(sse)

    def pass_on(self, event: bytes) -> None:
        """Pass on what another worker tells; its id becomes part of ours."""
        if event.startswith(b"event: snapshot\n"):
            self._most_behind += len(event)  # as in `begin`
        before, mark, after = event.partition(b"\nid: ")
        if mark:
            event_id, _, rest = after.partition(b"\n")
            self._known |= places(event_id.decode())
            event = b"%b\nid: %b\n%b" % (before, self._id, rest)
        self.write(event)

    def end(self) -> None:
        """End the stream: the client comes back, and resumes."""
        self.ended.set()


_written = (b"", b"")


def _chunk(text: bytes) -> bytes:
    """Return text in the framing of chunked HTTP; made once for all listeners that hear the same."""
    global _written
    if text is not _written[0]:
        _written = (text, b"%x\r\n%b\r\n" % (len(text), text))
    return _written[1]


async def _serve(
    request: Any,
    query: StreamQuery,
    before: dict[str, int],
    ours: Sequence[Topic],
    answers: Sequence[ClientResponse],
) -> StreamResponse:
    """Tell topics of ours, and what others answer; ``before`` is what the client knows, by log."""
    response = StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    chunked = request.version >= HttpVersion11
    if chunked:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    await response.prepare(request)
    if request.method == "HEAD" or request.transport is None:
        return response
    bound(request.transport)
    client = _Client(request.transport, chunked)
    client.write(b"retry: %d\n\n" % random.randint(*RETRY_MS))
    relays = [asyncio.create_task(_relay(client, answer)) for answer in answers]
    try:
        known: list[Update] = []
        left = MOST_MISSED
        for topic in ours:  # no await from a snapshot to its join: nothing is missed in between
            found = snapshot(topic, query.snapshot, before.get(topic.log, -1) if left > 0 else -1)
            left -= sum(len(update.data) for update in found)
            known += found
            hub.join(topic, client)
        client.begin(known, ours)
        waited_s = 0.0
        while not client.ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.ended.wait(), LOOK_S)
            if request.transport is None or request.transport.is_closing():
                break
            waited_s += LOOK_S
            if waited_s >= PING_S:
                waited_s = 0.0
                client.write(b": ping\n\n")
    finally:
        for topic in ours:
            hub.leave(topic, client)
        for each in relays:
            each.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
    with contextlib.suppress(ConnectionError, TimeoutError):
        await asyncio.wait_for(response.write_eof(), FAREWELL_S)
    await part(request.transport, FAREWELL_S)
    return response


async def _relay(client: _Client, answer: ClientResponse) -> None:
    """Pass on another worker's stream; its end is the end of ours."""
    async for event in relay.events(answer):
        client.pass_on(event)
    client.end()


TOLD: dict[str, type[Struct]] = {
    "snapshot": Snapshot, "candle": LiveCandle, "book": LiveBook, "ticker": Ticker,
}  # fmt: skip
"""What the data of an event are, by its name."""
