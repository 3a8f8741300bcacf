"""Live push: who listens to what on this worker, and what all of them are told.

What has changed is described once for each topic, however many listen, and given to all of them in one go.
The next round waits for as long as the last one took, so that pushing takes half a core at
most: with more to do, listeners hear less often of what is still open. What closed, or was amended, they
hear each time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import faust
import msgspec

from agents import books as book_agent
from agents import candles as candle_agent
from candlewick.app import app
from candlewick.web import peers
from candlewick.web.api.market import ticker_of
from candlewick.web.api.series import item_at, newest_items
from candlewick.web.api.stats import BookShown, describe_book
from models.answers import CandleItem, Channel, LiveCandle, Snapshot
from models.shown import Instant, Millis
from models.tape import CandleChange
from models.times import rfc3339
from models.window import BY_NAME, made_of, window_named
from tables import book_stats, candles

REST_SHARE = 1.0
"""Rest after a round, in its own durations."""
LEAST_REST_S = 0.004
MOST_OPEN = 3
"""Newest candles among which a listener that joins may have been told of open ones."""

cut_off: Counter[str] = Counter(sse=0, websocket=0)
"""Clients that were too far behind, by kind."""

_places = re.compile(r"([cb][0-9]{1,6})-([0-9]{1,18})(?:,|\Z)").findall
MOST_ID = 4_000
"""Characters of an id that are looked at."""


class Topic(NamedTuple):
    """What can be listened to."""

    channel: Channel
    exchange: str
    product_id: str
    window: str = ""
    """Empty for the ticker."""

    @property
    def symbol_key(self) -> str:
        """``exchange:product``."""
        return f"{self.exchange}:{self.product_id}"

    @property
    def log(self) -> str:
        """The partition of the log that it is folded from: of trades, or of books."""
        return f"{'b' if self.channel == 'book' else 'c'}{peers.partition_of(self.symbol_key)}"


class LiveBook(BookShown, frozen=True, kw_only=True):
    """Book statistics that have changed."""

    exchange: str
    product_id: str
    window: str
    end: Instant
    start_ms: Millis


class Update(NamedTuple):
    """One thing that is told."""

    event: Literal["snapshot", "candle", "book", "ticker"]
    data: bytes
    """JSON."""

    def sse(self, event_id: bytes = b"") -> bytes:
        """Return it in the form of server-sent events."""
        if not event_id:
            return b"event: %b\ndata: %b\n\n" % (self.event.encode(), self.data)
        return b"event: %b\nid: %b\ndata: %b\n\n" % (self.event.encode(), event_id, self.data)


class Place(NamedTuple):
    """How far a listener knows a log: it was told of everything up to an offset."""

    log: str
    """`Topic.log`."""
    offset: int

    @property
    def id(self) -> bytes:
        """Return it as the id of an event: `places` understands several, with commas."""
        return f"{self.log}-{self.offset}".encode()


def places(event_id: str) -> dict[str, int]:
    """Return the offset by log of what an event's id says that its listener knows."""
    return {log: int(offset) for log, offset in _places(event_id[:MOST_ID])}


class Listener(Protocol):
    """Who listens."""

    def hear(self, topic: Topic, updates: Sequence[Update], place: Place, sse: bytes) -> None:
        """Take updates; ``sse`` is all of them as server-sent events, with the place as id. Never waits.

        Of that log, all that came before ``place`` was told by now, whatever it belongs to: a listener that
        is cut off between two topics of one record hears of the record again.
        """

    def end(self) -> None:
        """Stop: the partition moves, or the worker ends."""


class Hub:
    """All listeners of this worker."""

    def __init__(self) -> None:
        self._listeners: dict[Topic, set[Listener]] = {}
        self._topics: dict[str, set[Topic]] = {}
        """By symbol key, the topics that somebody listens to."""
        self._changed: set[Topic] = set()
        self._amended: dict[Topic, set[int]] = {}
        """By topic, the starts of candles that closed or were amended since the last round."""
        self._told: dict[Topic, set[bytes]] = {}
        """By topic, what was so in the last round, and is not told twice."""
        self._open: dict[Topic, set[int]] = {}
        """By topic, the starts of candles that were told as open: of a window that is made of others nobody
        says when it closes."""
        self._known: dict[str, int] = {}
        """By log, the offset up to which everyone was told everything."""
        self._wake = asyncio.Event()

    def join(self, topic: Topic, listener: Listener) -> None:
        """Let a listener hear what changes from now on. It was told of all that is there by `snapshot`."""
        self._known.setdefault(topic.log, offset_of(topic))
        self._listeners.setdefault(topic, set()).add(listener)
        self._topics.setdefault(topic.symbol_key, set()).add(topic)
        self._told.pop(topic, None)  # what is so again in the next round was not what this one was told
        partition, told = peers.partition_of(topic.symbol_key), self._open.setdefault(topic, set())
        if topic.channel == "candles" and topic.window not in BY_NAME:
            newest = newest_items(partition, topic.symbol_key, topic.window, MOST_OPEN, -1)
            told |= _open_starts(newest)
        elif topic.channel == "book" and (state := book_stats.state(partition, topic.symbol_key)):
            told |= {state.latest[name] for name in state.latest.keys() & {topic.window}}

    def leave(self, topic: Topic, listener: Listener) -> None:
        """Let it hear no more; who does not listen may leave as well."""
        listeners = self._listeners.get(topic, set())
        listeners.discard(listener)
        if not listeners:
            for known in (self._listeners, self._amended, self._told, self._open):
                known.pop(topic, None)
            self._changed.discard(topic)
            topics = self._topics.get(topic.symbol_key, set())
            topics.discard(topic)
            if not topics:
                self._topics.pop(topic.symbol_key, None)

    def trades_changed(self, partition: int, symbol_key: str, records: Any) -> None:
        """Note that trades of a symbol were folded."""
        self._note(topic for topic in self._topics.get(symbol_key, ()) if topic.channel != "book")

    def book_changed(self, partition: int, symbol_key: str, records: Any) -> None:
        """Note that a book has changed."""
        self._note(topic for topic in self._topics.get(symbol_key, ()) if topic.channel != "candles")

    def candle_told(self, partition: int, symbol_key: str, change: Any) -> None:
        """Note that a candle closed, or was amended."""
        if not isinstance(change, CandleChange):
            return
        for topic in self._topics.get(symbol_key, ()):
            window = window_named(topic.window) if topic.channel == "candles" else None
            if window and made_of(window) == change.window:
                self._amended.setdefault(topic, set()).add(window.start_of(change.start_us))

    def _note(self, topics: Iterable[Topic]) -> None:
        self._changed.update(topics)
        if self._changed:
            self._wake.set()

    def end_all(self) -> None:
        """End all listeners, and forget them: what they listen to is not ours any more."""
        listeners = set().union(*self._listeners.values())
        for noted in (self._listeners, self._topics, self._amended, self._told, self._open, self._changed):
            noted.clear()
        self._known = {}  # not cleared: a round that is under way has the old one
        for listener in listeners:
            listener.end()

    async def run(self) -> None:
        """Tell listeners what has changed, round by round, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(max(LEAST_REST_S, REST_SHARE * await self._round()))

    async def _round(self) -> float:
        """Tell what has changed, with others' work in between; return how many seconds ours took."""
        changed, self._changed = self._changed, set()
        took_s, known = 0.0, self._known
        # As of now: what is folded in between is told in the next round.
        reached = [(topic.log, offset_of(topic)) for topic in changed]
        for topic in changed:
            if topic not in self._listeners:
                continue
            began = time.perf_counter()
            self._tell(topic)
            took_s += time.perf_counter() - began
            await asyncio.sleep(0)
        for log, offset in reached:
            known[log] = max(offset, known.get(log, -1))
        return took_s

    def _tell(self, topic: Topic) -> None:
        found, before = self._updates(topic), self._told.get(topic, set())
        self._told[topic] = {update.data for update in found}
        updates = [update for update in found if update.data not in before]
        if not updates:
            return
        place = Place(topic.log, self._known.get(topic.log, -1))
        sse = b"".join(update.sse(place.id) for update in updates)
        for listener in tuple(self._listeners.get(topic, ())):
            listener.hear(topic, updates, place, sse)

    def _updates(self, topic: Topic) -> list[Update]:
        partition = peers.partition_of(topic.symbol_key)
        if topic.channel == "ticker":
            return snapshot(topic, 0, -1)
        if topic.channel == "book":
            return self._books(partition, topic)
        starts = self._amended.pop(topic, set()) | self._open.pop(topic, set())
        state = candles.state(partition, topic.symbol_key)
        window = window_named(topic.window)
        if state is None or window is None or not state.latest:
            return []
        starts.add(window.start_of(state.latest[made_of(window).name]))
        found = (item_at(partition, topic.symbol_key, window, start_us, state) for start_us in sorted(starts))
        items = [item for item in found if item]
        self._open[topic] = _open_starts(items)
        return [Update("candle", msgspec.json.encode(_live(topic, item))) for item in items]

    def _books(self, partition: int, topic: Topic) -> list[Update]:
        """Return a book's statistics of its last window, after those of one that has closed meanwhile."""
        state = book_stats.state(partition, topic.symbol_key)
        if state is None or topic.window not in state.latest:
            return []
        starts = self._open.pop(topic, set()) | {state.latest[topic.window]}
        books = [book for start_us in sorted(starts) if (book := _live_book(partition, topic, start_us))]
        self._open[topic] = _open_starts(books)
        return [Update("book", msgspec.json.encode(book)) for book in books]


def _open_starts(items: Iterable[CandleItem | LiveBook]) -> set[int]:
    return {item.start_ms * 1000 for item in items if item.state == "open"}


def offset_of(topic: Topic) -> int:
    """Return the last offset that was folded of a topic's product, or -1."""
    table = book_stats if topic.channel == "book" else candles
    state = table.state(peers.partition_of(topic.symbol_key), topic.symbol_key)
    return state.offset if state else -1


def snapshot(topic: Topic, count: int, known: int) -> list[Update]:
    """Return what a listener has to know first: ``count`` candles, or all that changed since an offset.

    Nothing, where there is no ticker and no book yet.
    """
    partition = peers.partition_of(topic.symbol_key)
    if topic.channel == "ticker":
        ticker = ticker_of(partition, topic.symbol_key)
        return [Update("ticker", msgspec.json.encode(ticker))] if ticker else []
    if topic.channel == "book":
        state = book_stats.state(partition, topic.symbol_key)
        start_us = state.latest.get(topic.window) if state else None
        book = None if start_us is None else _live_book(partition, topic, start_us)
        return [Update("book", msgspec.json.encode(book))] if book else []
    items = newest_items(partition, topic.symbol_key, topic.window, count, known)
    told = Snapshot(**topic._asdict(), candles=items)
    return [Update("snapshot", msgspec.json.encode(told))]


def _live_book(partition: int, topic: Topic, start_us: int) -> LiveBook | None:
    """Return a symbol's book statistics of a window; None where there are none."""
    window = BY_NAME[topic.window]
    row = book_stats.at(partition, topic.symbol_key, topic.window, start_us)
    if row is None:
        return None
    book = msgspec.structs.asdict(describe_book(partition, topic.symbol_key, start_us, row))
    return LiveBook(
        **book,
        exchange=topic.exchange,
        product_id=topic.product_id,
        window=topic.window,
        end=rfc3339(window.end_of(start_us)),
        start_ms=start_us // 1000,
    )


def _live(topic: Topic, item: CandleItem) -> LiveCandle:
    return LiveCandle(
        **msgspec.structs.asdict(item),
        exchange=topic.exchange,
        product_id=topic.product_id,
        window=topic.window,
    )


hub = Hub()


@app.service
class Pusher(faust.Service):
    """Runs the hub for as long as the worker runs."""

    @faust.Service.task
    async def _push(self) -> None:
        candle_agent.folding.folded.append(hub.trades_changed)
        candle_agent.folding.told.append(hub.candle_told)
        candle_agent.folding.forgotten.append(hub.end_all)
        book_agent.folding.folded.append(hub.book_changed)
        await hub.run()

    async def on_stop(self) -> None:
        """End the listeners: the web server would wait for them."""
        hub.end_all()
