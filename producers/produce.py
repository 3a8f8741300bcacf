"""The producer as a whole: feed, keyframes, heartbeats and sink, joined into one service.

::

    Feed ──> Pipeline: Keyframer, Quiet ──> Sink ──> Kafka
                │         │ a crossed book             │ gaps
      <─────────┼─────────┘                            │
                └────────── missing trades ──────── Repairer

While Kafka is away, trades go to disk (see `producers.sink`), and books do not: they are most of the
volume, and need not be asked for again, since the keyframer holds each. When the log has caught up,
readers are told that the book was lost, and are given it whole.

What it says of itself goes to the compacted topic ``feeds``, so that a web view on any machine can
tell whether the feed is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from models.book import BookDelta, BookKeyframe, BookLost, BookSnapshot
from models.errors import CandlewickError
from models.producer_status import ProducerStatus
from models.schemas import SCHEMAS
from models.trade import Heartbeat, Trade
from producers.codec import Codec
from producers.feed import Feed, FeedEvent
from producers.feed_status import FeedSettings
from producers.keyframes import Key, Keyframer
from producers.quiet import Quiet
from producers.repair import Repairer
from producers.sink import Sink, SinkFailed
from producers.spill import Spill
from producers.topic import BOOKS, DEAD_LETTERS, FEEDS, TRADES

log = structlog.get_logger(__name__)

STOP_S = 4.0
"""From the wish to stop until everything is closed."""
KEYFRAME_TICK_S = 0.25
STATUS_TICK_S = 1.0
STATUS_AT_LEAST_S = 10.0


class Pipeline:
    """What happens to an event between feed and sink."""

    def __init__(self, sink: Sink, keyframer: Keyframer, quiet: Quiet) -> None:
        self._sink = sink
        self._keyframer = keyframer
        self._quiet = quiet
        self.feed: Feed | None = None
        self._held_back: dict[Key, int] = {}
        """The books whose records are not written, and the time of receipt of the first such record."""
        self._dropped = 0

    @property
    def open_books(self) -> list[Key]:
        """The symbols whose book readers may take to be in step."""
        return list(dict.fromkeys([*self._keyframer.in_step, *self._held_back]))

    async def deliver(self, event: FeedEvent) -> None:
        """Write an event, and whatever follows from it."""
        sink = self._sink
        if isinstance(event, Trade):
            self._quiet.saw(event)
            await sink.put(event)
        elif isinstance(event, Heartbeat):
            self._keyframer.watch(event, _now_us())
            if not sink.spilling and sink.stats.dropped != self._dropped:
                self._dropped = sink.stats.dropped
                self._quiet.doubt()  # not before there is room: the heartbeat would be dropped as well
            for heartbeat in self._quiet.let_through(event):
                await sink.put(heartbeat)
        else:
            # Watched before it is written: a keyframe made while the write waits for room comes
            # after it in the log, and must hold it.
            cause = self._keyframer.watch(event, _now_us())
            if not self._is_held_back(event):
                await sink.put(event)
            if cause and self.feed:
                await self.feed.lose_book(event.symbol, cause)

    async def write_keyframes(self) -> None:
        """Write keyframes as they come due, and the books that were held back, until cancelled."""
        while True:
            await asyncio.sleep(KEYFRAME_TICK_S)
            await self._resume_books()
            if self._sink.spilling:
                continue
            for keyframe in self._keyframer.due(_now_us()):
                if not self._is_held_back(keyframe):
                    await self._sink.put(keyframe)
                    await asyncio.sleep(0)  # a large book takes 100 ms to write out: let frames in between

    def _is_held_back(self, event: BookSnapshot | BookDelta | BookLost | BookKeyframe) -> bool:
        """Say whether a book's record is not to be written now."""
        key = (event.exchange, event.symbol)
        if self._sink.spilling:
            self._held_back.setdefault(key, event.received_time_us)
        return key in self._held_back

    async def _resume_books(self) -> None:
        """Tell readers of each book that was held back, and give it to them whole."""
        for key, since_us in list(self._held_back.items()):
            if self._sink.spilling:
                return
            await self._sink.put(BookLost(*key, None, since_us, "kafka away"))
            # From here there is no wait before the keyframe is at the sink's door: what it holds was
            # not written, and what is written comes after it.
            del self._held_back[key]
            keyframe = self._keyframer.keyframe(key, _now_us())
            if keyframe:
                await self._sink.put(keyframe)
                await asyncio.sleep(0)


async def produce(
    *,
    codec_factory: Callable[[], Codec],
    url: str,
    symbols: Iterable[str],
    bootstrap: str,
    producer_id: str,
    stop: asyncio.Event | None = None,
    feed_settings: FeedSettings | None = None,
    keyframe_s: float = 30.0,
    grace_s: float = 10.0,
    max_unacked: int = 20_000,
    max_unacked_bytes: int = 64 << 20,
    clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    security: Mapping[str, Any] | None = None,
    spill_folder: Path | None = None,
    spill_bytes: int = 1 << 30,
) -> int:
    """Run until ``stop`` is set or the task is cancelled. Return how many records were not delivered.

    The topics must be there: see `producers.topic.ensure_topics`. Ends within `STOP_S`, whether or
    not Kafka answers; what could not be delivered by then is counted and logged.

    Arguments:
        spill_folder: for records while Kafka is away, and for no other process; what an earlier run
            left there is sent first. None: the feed waits for Kafka.
        spill_bytes: how much of them it may hold.

    Raises:
        BrokerUnavailable, TopicError: Kafka, or a topic, is not there at the start.
        FeedRefused: the exchange accepts nothing.
        ConfigError: the address or the products cannot be.
        StateError: the spill's folder cannot be used.
    """
    products = tuple(symbols)
    sink = Sink(
        bootstrap,
        topics=(TRADES, BOOKS, DEAD_LETTERS, FEEDS),
        max_unacked=max_unacked,
        max_unacked_bytes=max_unacked_bytes,
        clock_us=clock_us,
        security=security,
        spill=Spill(spill_folder, spill_bytes) if spill_folder else None,
    )
    keyframer = Keyframer(round(keyframe_s * 1_000_000))
    pipeline = Pipeline(sink, keyframer, Quiet(round(grace_s * 1_000_000)))
    feed = Feed(
        codec_factory, url, products, pipeline.deliver, sink.dead_letter, feed_settings, clock_us=clock_us
    )
    pipeline.feed = feed
    codec = codec_factory()
    repairer = Repairer(
        bootstrap, codec, codec.rest_url(url), products, pipeline.deliver, sink.dead_letter,
        clock_us=clock_us, security=security, may_fetch=lambda: not sink.spilling,
    )  # fmt: skip
    reporter = _Reporter(feed, sink, repairer, producer_id, products, clock_us)

    await sink.open()
    tasks = {
        asyncio.create_task(feed.run(), name="feed"),
        asyncio.create_task(pipeline.write_keyframes(), name="keyframes"),
        asyncio.create_task(repairer.run(), name="repair"),
        asyncio.create_task(reporter.run(), name="status"),
    }
    stopping = asyncio.create_task((stop or asyncio.Event()).wait(), name="stop")
    undelivered = 0
    try:
        done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
    except CandlewickError as error:
        reporter.error = str(error)
        raise
    finally:
        stopping.cancel()
        undelivered = await _end(tasks, sink, pipeline, reporter, clock_us)
    return undelivered


async def _end(
    tasks: set[asyncio.Task[None]],
    sink: Sink,
    pipeline: Pipeline,
    reporter: _Reporter,
    clock_us: Callable[[], int],
) -> int:
    """Stop feeds, tell of the end, drain, close: in this order, within `STOP_S`."""
    end = time.monotonic() + STOP_S
    sink.stop_waiting()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=1.0)
    with contextlib.suppress(TimeoutError, SinkFailed):
        async with asyncio.timeout(1.0):  # with Kafka away there may be no room
            for exchange, symbol in pipeline.open_books:
                await sink.put(BookLost(exchange, symbol, None, clock_us(), "producer stopped"))
            await reporter.report("stopped")
    undelivered = await sink.close(max(0.5, end - time.monotonic() - 1.0))
    log.info("Producer stopped", undelivered=undelivered, **msgspec.structs.asdict(sink.stats))
    return undelivered


class _Reporter:
    """Says in the topic ``feeds`` how the producer is: when that changes, and every 10 s."""

    def __init__(
        self,
        feed: Feed,
        sink: Sink,
        repairer: Repairer,
        producer_id: str,
        products: tuple[str, ...],
        clock_us: Callable[[], int],
    ) -> None:
        self._feed = feed
        self._sink = sink
        self._repairer = repairer
        self._producer_id = producer_id
        self._products = products
        self._clock_us = clock_us
        self.error: str | None = None

    def status(self, state: Literal["stopped"] | None = None) -> ProducerStatus:
        feed, stats, repairs = self._feed.status, self._sink.stats, self._repairer.status
        return ProducerStatus(
            exchange=feed.exchange,
            producer=self._producer_id,
            state=state or ("connected" if feed.connected else "connecting"),
            products=self._products,
            connections=len(feed.connections),
            connected_connections=0 if state else feed.connected,
            reconnects=feed.reconnects,
            frames=feed.frames,
            refused_frames=feed.refused_frames,
            dead_letters=stats.dead_letters,
            unacked=stats.waiting,
            error=self.error or feed.last_refusal,
            updated_us=self._clock_us(),
            spilled=stats.spilled,
            dropped=stats.dropped,
            open_gaps=repairs.open,
            unavailable_gaps=repairs.unavailable,
            repaired_trades=repairs.fetched_trades,
            reconnect_reasons=feed.reconnect_reasons,
            books_resubscribed=feed.books_resubscribed,
            last_frame_us=feed.last_frame_us,
            spill_bytes=stats.spill_bytes,
            latency_counts=feed.latency_counts,
            latency_sum_us=feed.latency_sum_us,
        )

    async def report(self, state: Literal["stopped"] | None = None) -> None:
        await self._write(self.status(state))

    async def run(self) -> None:
        said: ProducerStatus | None = None
        said_at = 0.0
        while True:
            status = self.status()
            # What waits for Kafka changes all the time: that alone is no news.
            if (
                said is None
                or time.monotonic() - said_at >= STATUS_AT_LEAST_S
                or msgspec.structs.replace(status, unacked=said.unacked, updated_us=said.updated_us) != said
            ):
                await self._write(status)
                said, said_at = status, time.monotonic()
            await asyncio.sleep(STATUS_TICK_S)

    async def _write(self, status: ProducerStatus) -> None:
        await self._sink.write(
            FEEDS,
            f"{status.exchange}:{status.producer}",
            msgspec.json.encode(status),
            schema=SCHEMAS[ProducerStatus],
            received_time_us=status.updated_us,
            momentary=True,
        )


def _now_us() -> int:
    """Return microseconds of a clock that only goes forward."""
    return time.monotonic_ns() // 1000
