"""The only file of the producers that writes to Kafka.

A record that `Sink.put` took is kept until Kafka acknowledged it, for as long as that takes; what
memory keeps is bounded, and at the bound `put` waits: that is the back-pressure of the whole producer.

Each partition has one lane (`producers.lane`), with one batch on its way at a time. aiokafka never has
two batches of one partition on the way either, so this costs nothing, and it makes order trivial.
Sending again may write a record twice, which is harmless: trades are known by id, and the sizes of
a book are absolute.

With a spill, `put` waits no longer than it takes to see that Kafka is away. Then what memory keeps is
written to disk as well, and so is all that follows; from there it goes into the lanes, oldest first,
as they have room, until nothing is left on disk that is not in a lane: a symbol's records never
overtake one another, and a killed process loses none. Where the disk has no room either, `put` waits
again, unless Kafka is away: only then is a record dropped, and counted.

Errors: `BrokerUnavailable` (at the start only), `models.errors.TopicError`, `SinkFailed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from aiokafka import AIOKafkaProducer, codec, errors
from aiokafka.partitioner import DefaultPartitioner

from models.book import BookDelta, BookKeyframe, BookLost, BookSnapshot
from models.dead_letter import DeadLetter, dead_letter_json
from models.errors import CandlewickError, TopicError
from models.schemas import SCHEMAS
from models.trade import Heartbeat, Trade
from producers.lane import Lane
from producers.spill import Record, Spill
from producers.topic import BOOKS, DEAD_LETTERS, TRADES, BrokerUnavailable, words_of

log = structlog.get_logger(__name__)

LoggedEvent = Trade | Heartbeat | BookSnapshot | BookKeyframe | BookDelta | BookLost

ROUTES: dict[type[msgspec.Struct], tuple[str, bytes]] = {
    kind: (topic, SCHEMAS[kind])
    for topic, kinds in (
        (TRADES, (Trade, Heartbeat)),
        (BOOKS, (BookSnapshot, BookKeyframe, BookDelta, BookLost)),
    )
    for kind in kinds
}
"""The topic of each kind of event, and its header ``schema``."""

DAY_US = 86_400_000_000
AHEAD_US = 60_000_000
STOP_S = 1.0
AWAY_S = 5.0
"""A batch without an answer for this long means that Kafka is away."""
AWAY_AGAIN_S = 10.0
DRAIN_S = 0.1
"""How often we look whether Kafka is back when nothing is left to read from disk."""

_partition_of = DefaultPartitioner()
"""murmur2 of the key, as Kafka's own clients have it."""


class SinkFailed(CandlewickError):
    """A part of the sink ended with an error that nobody expected: nothing can be written any more."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the sink failed: {words_of(error)}")


class SinkStats(msgspec.Struct, frozen=True):
    """Counts since the start, save ``waiting`` and ``waiting_bytes``: those are of now."""

    taken: int
    acked: int
    acked_bytes: int
    waiting: int
    waiting_bytes: int
    resent: int
    """Records that were sent once more, after a failure."""
    dead_letters: int
    undeliverable: int
    """Records that Kafka refuses for good; each is a dead letter too, unless it was one already."""
    spilled: int
    """Records that were written to disk because Kafka was away."""
    spill_bytes: int
    """What the spill takes on disk now."""
    dropped: int
    """Records that are lost, because neither Kafka nor the disk took them."""


class Sink:
    """Events into Kafka: ``async with Sink(bootstrap) as sink: await sink.put(event)``.

    Arguments:
        topics: every topic that will be written to; looked up at the start.
        max_unacked, max_unacked_bytes: at most so much is kept in memory; one record larger than
            the second bound is taken when nothing else waits.
        linger_s: the beat of all lanes: a batch that is not full leaves with the next one.
        max_record_bytes: a larger value becomes a dead letter. Kafka cuts the connection over a
            request of 100 MiB, and such a record would be sent for ever.
        security: aiokafka's options for TLS and SASL.
        spill: where records go while Kafka is away, for this sink alone. What an earlier process
            left there is sent first. Without it, `put` waits for as long as Kafka is away.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        topics: Iterable[str] = (TRADES, BOOKS, DEAD_LETTERS),
        max_unacked: int = 20_000,
        max_unacked_bytes: int = 64 << 20,
        linger_s: float = 0.004,
        batch_bytes: int = 256 << 10,
        max_record_bytes: int = 64 << 20,
        request_timeout_s: float = 20.0,
        start_timeout_s: float = 15.0,
        close_s: float = 5.0,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        security: Mapping[str, Any] | None = None,
        spill: Spill | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.linger_s = linger_s
        self.batch_bytes = batch_bytes
        self._topics = tuple(topics)
        self._max_unacked = max_unacked
        self._max_unacked_bytes = max_unacked_bytes
        self._max_record_bytes = max_record_bytes
        self._request_timeout_s = request_timeout_s
        self._start_timeout_s = start_timeout_s
        self._close_s = close_s
        self._clock_us = clock_us
        self._security = dict(security or {})

        self.producer: AIOKafkaProducer | None = None
        self._renewing = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._partitions: dict[str, list[int]] = {}
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._lane_of: dict[tuple[str, bytes], Lane] = {}

        self._door = asyncio.Lock()  # first come, first served, also while waiting for room
        self._settled = asyncio.Event()
        self._stopping = self._closed = False
        self._failure: BaseException | None = None
        self._taken = self._acked = self._acked_bytes = 0
        self._unacked = self._unacked_bytes = 0
        self._resent = self._dead_letters = self._undeliverable = 0
        self._at_door = self._turned_away = 0

        self._spill = spill
        self._spilling = asyncio.Event()
        self._handing_over = False  # records from disk are on their way into the lanes

    async def open(self) -> None:
        """Connect, and look up the topics; `close` undoes it.

        Raises:
            BrokerUnavailable: nobody answers.
            TopicError: a topic is not there.
        """
        self.producer = await self._connect()
        try:
            for topic in self._topics:
                self._partitions[topic] = await self._look_up(topic)
        except BaseException:
            await _stop(self.producer)
            raise
        self._tasks = [self._observed(asyncio.create_task(self._watch(), name="sink-watch"))]
        if self._spill is not None:
            if self._spill.has_unread:
                log.warning("An earlier run left records on disk", bytes=self._spill.unread_bytes)
                self._spilling.set()
            drain = asyncio.create_task(self._drain(self._spill), name="sink-drain")
            self._tasks.append(self._observed(drain))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close(self._close_s)

    # What callers use.

    async def put(self, event: LoggedEvent) -> None:
        """Take an event for its topic; wait while too much is on the way already.

        Events of one symbol are written in the order of the calls. When this returns, the event
        is in the sink's care; it is in Kafka after `flush`.

        Raises:
            SinkFailed: it never will be.
        """
        topic, schema = ROUTES[type(event)]
        await self.write(
            topic,
            f"{event.exchange}:{event.symbol}",
            event.to_json(),
            schema=schema,
            event_time_us=None if isinstance(event, BookLost) else event.event_time_us,
            received_time_us=event.received_time_us,
        )

    async def dead_letter(self, value: bytes, source: str, reason: str) -> None:
        """Keep what could not be read: the bytes, where they came from, and why."""
        now_us = self._clock_us()
        letter = dead_letter_json(value, source, reason, now_us)
        self._dead_letters += 1
        await self.write(DEAD_LETTERS, source, letter, schema=SCHEMAS[DeadLetter], received_time_us=now_us)

    async def write(
        self,
        topic: str,
        key: str,
        value: bytes,
        *,
        schema: bytes,
        received_time_us: int,
        event_time_us: int | None = None,
        momentary: bool = False,
    ) -> None:
        """Take one record for any of the sink's topics; see `put`.

        Arguments:
            momentary: it tells only of the moment: with a spill it is passed over while Kafka is
                away, and overtakes what comes from disk.
        """
        self._raise_failure()
        if len(value) > self._max_record_bytes and topic != DEAD_LETTERS:
            reason = f"{len(value)} bytes, more than the {self._max_record_bytes} that a record may have"
            log.error("Record too large, kept as a dead letter", topic=topic, key=key, reason=reason)
            self._undeliverable += 1
            return await self.dead_letter(value, f"{topic} {key}", reason)
        record = self._record(topic, key.encode(), value, schema, received_time_us, event_time_us)
        record = record._replace(momentary=momentary)
        lane = self._lane(record)
        if momentary and self.spilling:
            self._admit(lane, record)
            return None
        self._at_door += 1
        try:
            async with self._door:
                while not self._admit(lane, record):
                    await self._change()
        except asyncio.CancelledError:
            # Whoever stops its callers has told us so before: then all that came to the door is taken.
            told = self._stopping and self._spill is not None and not self._closed
            if not (told and self._admit(lane, record)):
                self._turned_away += 1
            raise
        except SinkFailed:
            self._turned_away += 1
            raise
        finally:
            self._at_door -= 1

    async def flush(self) -> None:
        """Wait until everything taken so far, and since, is acknowledged; what is on disk too."""
        while self._unacked or self.spilling:
            await self._change()

    def stop_waiting(self) -> None:
        """With a spill, let `put` wait no more: what has no room goes to disk, also of who is cancelled.

        Call it before the tasks that write are cancelled.
        """
        self._stopping = True
        self._settled.set()

    async def close(self, deadline_s: float = 5.0) -> int:
        """Deliver what is left, within the deadline. Return how many records were not delivered.

        The count is exact: records without an acknowledgement, calls of `put` that had to be given
        up, and records dropped before. Some of the first may have reached Kafka, without its word on
        it. What is on disk is not among them: it is there for the next process.
        """
        if self._closed or self.producer is None:
            return 0
        with contextlib.suppress(TimeoutError, SinkFailed):
            async with asyncio.timeout(deadline_s):
                await self.flush()
        for task in self._tasks:
            task.cancel()
        self.stop_waiting()
        if self._spill is not None and (self._unacked or self.spilling):
            self._start_spilling(self._spill)
            async with self._door:
                pass  # who was at the door before us has put a record on disk by now
        self._closed = True
        turned_away = self._turned_away + self._at_door
        unkept = sum(lane.unkept for lane in self._lanes.values()) if self._spill else self._unacked
        dropped = self._spill.dropped if self._spill else 0
        lost = unkept + turned_away + dropped
        tasks = [*self._tasks, *(lane.task for lane in self._lanes.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _stop(self.producer)
        for task in self._retired:
            task.cancel()
        self._settled.set()  # a put that still waits for room must learn that there will be none
        if self._spill is not None:
            self._spill.close()
            if self._spill.bytes:
                log.warning("Records are kept on disk for the next start", bytes=self._spill.bytes)
        if lost:
            log.error(
                "Records were not delivered to Kafka before the end",
                records=lost,
                bytes=self._unacked_bytes,
                turned_away=turned_away,
                dropped=dropped,
                bootstrap=self.bootstrap,
            )
        return lost

    @property
    def spilling(self) -> bool:
        """True from when Kafka is seen to be away until nothing is left on disk alone."""
        return self._spilling.is_set()

    @property
    def stats(self) -> SinkStats:
        """Return the counts as they are now."""
        return SinkStats(
            taken=self._taken,
            acked=self._acked,
            acked_bytes=self._acked_bytes,
            waiting=self._unacked,
            waiting_bytes=self._unacked_bytes,
            resent=self._resent,
            dead_letters=self._dead_letters,
            undeliverable=self._undeliverable,
            spilled=self._spill.written if self._spill else 0,
            spill_bytes=self._spill.bytes if self._spill else 0,
            dropped=self._spill.dropped if self._spill else 0,
        )

    # Records and lanes.

    def _record(
        self, topic: str, key: bytes, value: bytes, schema: bytes, received_us: int, event_us: int | None
    ) -> Record:
        headers = [("schema", schema), ("received_at", b"%d" % received_us)]
        return Record(topic, key, value, self._timestamp_ms(event_us), headers)

    def _timestamp_ms(self, event_us: int | None) -> int:
        # Kafka counts retention from this time, and would sweep a recording of 2021 within minutes;
        # and it refuses a time over an hour ahead. The exchange's own time stays in the value.
        now_us = self._clock_us()
        is_near = event_us is not None and now_us - DAY_US <= event_us <= now_us + AHEAD_US
        return (event_us if event_us is not None and is_near else now_us) // 1000

    def _lane(self, record: Record) -> Lane:
        topic, key = record.topic, record.key
        lane = self._lane_of.get((topic, key))
        if lane is None:
            partitions = self._partitions[topic]
            partition = _partition_of(key, partitions, partitions)
            lane = self._lanes.get((topic, partition))
            if lane is None:
                lane = self._lanes[topic, partition] = Lane(self, topic, partition)
                self._observed(lane.task)
            if topic != DEAD_LETTERS:  # their keys are without number
                self._lane_of[topic, key] = lane
        return lane

    def _admit(self, lane: Lane, record: Record) -> bool:
        """Take a record, or drop it. False: it has to wait, there will be room."""
        if self._closed:
            raise RuntimeError("the sink is closed")
        spill, is_full = self._spill, self._is_full(record.size)
        if spill is not None and is_full and self._stopping:
            self._start_spilling(spill)
        if spill is None or not self.spilling:
            if is_full:
                return False
            self._take(lane, record)
        elif record.momentary:
            if not self._is_away:
                self._take(lane, record)
        elif not (spill.has_unread or self._handing_over or is_full):
            # The lane may have it at once; and a disk that is full is no reason to drop it.
            self._take(lane, record._replace(segment=spill.back_up(record)))
        elif spill.append(record):
            self._taken += 1
        elif self._is_away or self._stopping:
            spill.drop(record)
        else:
            return False
        return True

    def _take(self, lane: Lane, record: Record) -> None:
        self._taken += 1
        self._queue(lane, record)

    def _queue(self, lane: Lane, record: Record) -> None:
        self._unacked += 1
        self._unacked_bytes += record.size
        lane.append(record)

    def _is_full(self, size: int) -> bool:
        if self._closed or not self._unacked:
            return False
        return self._unacked >= self._max_unacked or self._unacked_bytes + size > self._max_unacked_bytes

    async def _change(self) -> None:
        """Wait until some records were settled.

        Raises:
            SinkFailed: none will be.
        """
        self._raise_failure()
        self._settled.clear()
        await self._settled.wait()
        self._raise_failure()

    def _settle(self, records: list[Record]) -> None:
        self._unacked -= len(records)
        self._unacked_bytes -= sum(record.size for record in records)
        if self._spill is not None:
            for record in records:
                if record.segment:
                    self._spill.done(record.segment)
        self._settled.set()

    # While Kafka is away.

    @property
    def _is_away(self) -> bool:
        return self._unanswered_s() >= AWAY_S

    def _unanswered_s(self) -> float:
        """Return for how long the oldest batch on its way has had no answer."""
        now = time.monotonic()
        return now - min((lane.sent_at for lane in self._lanes.values() if lane.sent_at), default=now)

    def _start_spilling(self, spill: Spill) -> None:
        """Let all that comes go to disk, and write there too what is only in memory."""
        if not self.spilling:
            for lane in self._lanes.values():
                lane.keep_on(spill)
            self._spilling.set()
            log.warning(
                "Records go to disk",
                from_memory=sum(lane.waiting - lane.unkept for lane in self._lanes.values()),
                room_bytes=spill.cap_bytes - spill.bytes,
            )
        self._settled.set()  # who waits for room need not, and who waits for Kafka may no longer

    async def _drain(self, spill: Spill) -> None:
        """Move records from disk into the lanes, oldest first, as there is room.

        Books of an earlier process are passed over. Some of them, and newer ones, may be in Kafka:
        a reader would be in step with a book that is none. Each is written anew since.
        """
        while True:
            await self._spilling.wait()
            records = spill.read()
            self._handing_over = True
            for record in records:
                if record.topic not in self._partitions:
                    spill.drop(record, f"{record.topic} is not one of our topics")
                    continue
                if record.topic == BOOKS and record.segment and record.segment.is_earlier:
                    spill.done(record.segment)
                    continue
                while self._is_full(record.size):
                    await self._change()
                # It may have lain there for days: see `_timestamp_ms`.
                time_ms = self._timestamp_ms(record.timestamp_ms * 1000)
                self._queue(self._lane(record), record._replace(timestamp_ms=time_ms))
            self._handing_over = False
            if records:
                await asyncio.sleep(0)
            elif self._is_away:
                await asyncio.sleep(DRAIN_S)
            else:
                self._spilling.clear()
                self._settled.set()
                log.info("All records from disk are on their way", dropped=spill.dropped)

    # What lanes need: see `producers.lane.Writer`.

    async def send(self, producer: AIOKafkaProducer, batch: Any, topic: str, partition: int) -> None:
        """Return when Kafka has acknowledged a batch."""
        await (await producer.send_batch(batch, topic, partition=partition))

    def acknowledged(self, records: list[Record]) -> None:
        """Forget records that Kafka has."""
        self._acked += len(records)
        self._acked_bytes += sum(len(record.value) for record in records)
        self._settle(records)

    def refused_for_good(self, topic: str, record: Record, error: Exception) -> None:
        """Make a dead letter of a record that Kafka will never take."""
        self._undeliverable += 1
        log.error(
            "Kafka refuses a record for good",
            topic=topic,
            key=record.key.decode(),
            bytes=len(record.value),
            reason=words_of(error),
        )
        if topic != DEAD_LETTERS and DEAD_LETTERS in self._partitions:
            now_us = self._clock_us()
            source = f"{topic} {record.key.decode()}"
            letter = dead_letter_json(record.value, source, words_of(error), now_us)
            self._dead_letters += 1
            dead = self._record(DEAD_LETTERS, source.encode(), letter, SCHEMAS[DeadLetter], now_us, None)
            # Not through the door: it may be shut until this very lane makes room.
            self._take(self._lane(dead), dead)
        self._settle([record])

    async def failed(self, producer: AIOKafkaProducer, records: int) -> None:
        """Replace a producer whose batch failed.

        aiokafka had already counted that batch's sequence numbers, so an idempotent producer would
        be refused everything that it sends to this partition from now on. A new one starts anew.
        """
        self._resent += records
        async with self._renewing:
            if self.producer is not producer:
                return
            self._retire(producer)
            while True:
                try:
                    self.producer = await self._connect()
                    return
                except BrokerUnavailable as error:
                    log.warning("Kafka is away, records are kept", waiting=self._unacked, reason=error.reason)
                    await asyncio.sleep(1.0)

    # Its own failures.

    def _observed(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Have an error that ends a task of ours reach whoever writes."""
        task.add_done_callback(self._note_failure)
        return task

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("The sink failed", part=task.get_name(), exc_info=error)
            self._failure = self._failure or error
            self._settled.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise SinkFailed(self._failure) from self._failure

    # The connection to Kafka.

    async def _connect(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            enable_idempotence=True,
            acks="all",
            compression_type="zstd" if codec.has_zstd() else "gzip",
            max_batch_size=self.batch_bytes,
            max_request_size=self._max_record_bytes,
            request_timeout_ms=round(self._request_timeout_s * 1000),
            retry_backoff_ms=250,
            **self._security,
        )
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await producer.start()
        except BaseException as error:
            await _stop(producer)
            if isinstance(error, TimeoutError | errors.KafkaError):
                raise BrokerUnavailable(self.bootstrap, words_of(error)) from error
            raise
        return producer

    async def _look_up(self, topic: str) -> list[int]:
        assert self.producer is not None
        try:
            async with asyncio.timeout(self._start_timeout_s):
                return sorted(await self.producer.partitions_for(topic))
        except (TimeoutError, errors.KafkaError) as error:
            raise TopicError(topic, "no partitions", "some", "create the topics first") from error

    def _retire(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer once the batches that other lanes gave it are settled."""
        task = asyncio.create_task(producer.stop(), name="sink-retire")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _watch(self) -> None:
        """Say aloud that Kafka is away, again and again, and when it is back."""
        away_since = warned = 0.0
        while True:
            await asyncio.sleep(AWAY_S / 5)
            if self._spill is not None:
                self._spill.tell_dropped()
            unanswered_s = self._unanswered_s()
            if unanswered_s < AWAY_S:
                if away_since:
                    away_s = round(time.monotonic() - away_since, 1)
                    log.info("Kafka takes records again", away_s=away_s)
                away_since = warned = 0.0
                continue
            if self._spill is not None:
                self._start_spilling(self._spill)
            now = time.monotonic()
            if now - warned > AWAY_AGAIN_S:
                away_since, warned = now - unanswered_s, now
                log.warning(
                    "Kafka does not take records, they are kept",
                    away_s=round(unanswered_s, 1),
                    waiting=self._unacked,
                    room=self._max_unacked - self._unacked,
                    spill_bytes=self._spill.bytes if self._spill else 0,
                    bootstrap=self.bootstrap,
                )


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stop a producer; one that still waits for Kafka is left alone after a moment."""
    try:
        async with asyncio.timeout(STOP_S):
            await producer.stop()
    except (TimeoutError, errors.KafkaError):
        await producer.client.close()
