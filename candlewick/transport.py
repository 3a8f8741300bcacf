"""Faust's transport, one event a fetch: what the broker returned of a topic, delivered at once.

Faust's cost is per event, and a hundred times the fold's. So `BatchConsumer` hands what one fetch
brought of a source topic to its agent as one event, whose value is a list of `RecordBatch`, one a
partition. A table's changelog goes to its recovery with an event for each partition.

It also takes over what decides whether a trade is counted once (docs/decisions/003):

* a batch is delivered only where it continues the last one; after a jump it is read again;
* offsets are committed by a `Checkpoint`, after the rows that include them are in the log;
* a revoke writes a last checkpoint, then forgets all rows; what was fetched before it is dropped;
* an assignment reads again from where the tables say.

Line numbers in comments are those of faust-streaming 0.15.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar, NamedTuple

import faust
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from candlewick.checkpoint import TICK_S
from models.errors import StateError

REVOKE_LIMIT_S = 20.0
"""Seconds that a revoke waits for its last rows to be written, before the worker ends instead."""

STOP_LIMIT_S = 2.5
"""Seconds that a stopping worker waits for its last checkpoint."""


Record = tuple[int, bytes | None, bytes | None, int]
"""Offset, key, value, and timestamp in milliseconds."""


class LeanRecords(fetcher.PartitionRecords):
    """What aiokafka has fetched of a partition. Records of topics that go in batches are plain tuples.

    aiokafka makes an object of eleven fields of each record, headers included: measured, half of
    the processor time of a catch-up. It offers no hook, so its class is replaced, in this process.
    """

    topics: ClassVar[set[str]] = set()

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if tp.topic in self.topics:
            return (record.offset, record.key, record.value, record.timestamp)
        return super()._consumer_record(tp, record)


fetcher.PartitionRecords = LeanRecords


class RecordBatch(NamedTuple):
    """What one fetch returned for one partition."""

    tp: TP
    epoch: int
    """Counts the revokes; a batch of an earlier epoch must not be folded."""
    records: list[Record]


class BatchSchema(faust.Schema):
    """Hands keys and values on as they are: the agents decode."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return message.key

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return message.value


class BatchConsumer(driver.Consumer):
    """Delivers batches, and commits what the checkpoint has written."""

    epoch = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.checkpoint = self.app.checkpoint
        self._changelogs = {table.changelog_topic_name for table in self.checkpoint.tables}
        LeanRecords.topics = self.checkpoint.sources.keys() | self._changelogs
        self._expected: dict[TP, int] = {}
        """The next offset to deliver, of each source partition that flows."""
        self._sought: dict[TP, int] = {}
        """Where sources begin, from the end of a recovery until Faust lets them flow."""
        self._jumps: dict[TP, int] = {}

    @Service.task
    async def _stay_awake(self) -> None:
        """Notice when the process was stopped: what it holds in memory is not its own any more."""
        while not self.should_stop:
            self.checkpoint.tick()
            await self.sleep(TICK_S)

    def _is_batched(self, tp: TP) -> bool:
        return tp.topic in self.checkpoint.sources

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        epoch = self.epoch
        records, active = await self._wait_next_records(timeout)
        if not records or self.should_stop:
            return
        while self._sought and epoch == self.epoch:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # until `resume_flow`
        if not self.flow_active or epoch != self.epoch:
            # Fetched before a rebalance, seen after it: sources are sought when recovery ends, but
            # recovery itself would wait for ever for the changelog records that are dropped here.
            await self._read_changelogs_again(records)
            return
        sources: dict[str, list[RecordBatch]] = {}
        for tp, batch in records.items():
            if tp not in active and tp not in self._buffered_partitions:
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if self._is_batched(tp):
                if (next_batch := await self._continued(tp, batch, epoch)) is not None:
                    sources.setdefault(tp.topic, []).append(next_batch)
            elif tp.topic in self._changelogs:
                if self.app.tables.recovery.in_recovery:
                    yield tp, self._message_of([RecordBatch(tp, epoch, batch)])
            else:
                for record in batch:
                    yield tp, self._to_message(tp, record)
            if not self.flow_active or epoch != self.epoch:
                await self._read_changelogs_again(records)
                return
        for batches in sources.values():
            yield batches[-1].tp, self._message_of(batches)

    async def _continued(self, tp: TP, batch: list[Record], epoch: int) -> RecordBatch | None:
        """Return what of a batch continues the last one, None if nothing does."""
        expected = self._expected.get(tp)
        if expected is None:
            # Flow goes on before recovery has sought the sources: what aiokafka had fetched by then
            # begins anywhere, and comes again after `perform_seek`.
            return None
        if batch[0][0] != expected:
            batch = [record for record in batch if record[0] >= expected]
            if not batch:
                return None
            if batch[0][0] > expected and self._jumps.get(tp) != expected:
                # Read again from where we were. Offsets that are truly gone (retention, a
                # compacted topic) are taken as such when the same jump shows twice.
                self._jumps[tp] = expected
                self.log.warning("%s jumped from %s to %s, reading again", tp, expected, batch[0][0])
                await self._thread.seek_wait({tp: expected})
                return None
            if batch[0][0] > expected:
                self.log.warning("%s has no records %s to %s any more", tp, expected, batch[0][0] - 1)
        self._jumps.pop(tp, None)
        self._expected[tp] = batch[-1][0] + 1
        return RecordBatch(tp, epoch, batch)

    def _message_of(self, batches: list[RecordBatch]) -> ConsumerMessage:
        last = batches[-1]
        last_offset, _, _, timestamp_ms = last.records[-1]
        return ConsumerMessage(
            last.tp.topic, last.tp.partition, last_offset, timestamp_ms / 1000.0, 0, None, None,
            batches, None, None, None, last.tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    async def _read_changelogs_again(self, records: dict[TP, Any]) -> None:
        recovery = self.app.tables.recovery
        if not recovery.in_recovery:
            return
        # None: recovery has not yet decided where to begin, and will seek there itself.
        offsets = {tp: recovery.active_offsets[tp] for tp in records if tp in recovery.active_tps}
        again = {tp: max(0, offset) for tp, offset in offsets.items() if offset is not None}
        if again:
            await self._thread.seek_wait(again)

    def ack(self, message: Any) -> bool:
        """Only mark the message: what may be committed, the checkpoint knows (consumer.py:825)."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing to note: offsets are not committed by acks."""

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Write down rows and offsets. Faust calls this at intervals, at a revoke and at the end."""
        # The iterator in C of Faust's streams does not call `ack`: it notes each offset here by itself.
        self._acked.clear()
        self._acked_index.clear()
        epoch = self.epoch
        try:
            offsets = await self.checkpoint.write(lambda: epoch == self.epoch)
        except Exception as error:
            # A row that is not in the changelog is a trade that a later owner counts twice, or not.
            self.log.error("rows could not be written, the worker ends: %r", error)
            await self.crash(error)
            return False
        if not offsets or epoch != self.epoch:
            return False
        assigned = self.assignment()
        offsets = {
            tp: offset
            for tp, offset in offsets.items()
            if tp in assigned and offset > (self._committed_offset.get(tp) or -1)
        }
        try:
            did_commit = bool(offsets) and await self._commit(offsets)
        except KafkaError as error:
            self.log.warning("offsets not committed, they will be with the next: %r", error)
            return False
        if did_commit:
            self._committed_offset.update(offsets)
            self.app.monitor.on_tp_commit(offsets)
        return did_commit

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop, write down what is folded, and forget it: the next owner starts from the log."""
        committed = dict(self._committed_offset)
        await super().on_partitions_revoked(revoked)
        self._committed_offset.update(committed)  # else a partition that is read again is committed backwards
        try:
            await asyncio.wait_for(self.force_commit(), REVOKE_LIMIT_S)
        except TimeoutError:
            self.log.error("rows could not be written within %s s of a revoke", REVOKE_LIMIT_S)
            await self.crash(RuntimeError("rows were not written before partitions moved"))
        finally:
            self._begin_anew()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin with nothing, once more.

        A recovery that was in its last steps at the revoke has gone on: it sought, said that the
        tables are ready, and let records flow (recovery.py:643 looks at the generation, which is
        that of before until now).
        """
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.rebalancing = True
        self.app.tables.on_rebalance_start()
        self._begin_anew()
        await super().on_partitions_assigned(assigned, generation_id)

    def _begin_anew(self) -> None:
        self.epoch += 1
        self._committed_offset.clear()
        self._expected.clear()
        self._sought.clear()
        self._jumps.clear()
        self.checkpoint.forget()

    def resume_flow(self) -> None:
        """Let records flow.

        At the end of a recovery, Faust seeks, then empties the queues of the agents, and calls this in
        the same breath (recovery.py:655-660). A batch that was delivered in between would be lost.
        """
        super().resume_flow()
        self._expected.update(self._sought)
        self._sought.clear()

    async def on_stop(self) -> None:
        """Write a last checkpoint. What cannot be written in time is folded again at the next start."""
        try:
            await asyncio.wait_for(self.force_commit(), STOP_LIMIT_S)
        except TimeoutError:
            self.log.warning("stopped without a last checkpoint: the broker did not answer")

    async def perform_seek(self) -> None:
        """Begin where the tables say. Runs once an assignment, when the tables are recovered."""
        epoch = self.epoch
        await super().perform_seek()
        # Faust leaves them on where nothing was to recover: the worker would read what it writes itself.
        self.pause_partitions({tp for tp in self.assignment() if tp.topic in self._changelogs})
        sources = [tp for tp in self.assignment() if self._is_batched(tp)]
        if not sources:
            return
        earliest = await self.earliest_offsets(*sources)
        ends = await self.highwaters(*sources)
        if epoch != self.epoch:
            return  # partitions have moved meanwhile: the next recovery seeks
        self.checkpoint.begin(self.app.tables.recovery.active_highwaters)
        for tp in sources:
            newest = self.checkpoint.sources[tp.topic].newest(tp.partition)
            if newest >= (ends[tp] or 0):
                error = StateError(
                    f"{tp.topic}-{tp.partition} ends at offset {ends[tp]}, but the tables include {newest}: "
                    "the topic was made anew. Take another CANDLEWICK_APP_ID and data directory"
                )
                self.log.error("%s", error)
                self.checkpoint.fail(error)
                await self.crash(error)
                return
        seeks = {}
        for tp in sources:
            # Faust's seek leaves a partition without a committed offset where it was (aiokafka
            # consumer.py:901), so each one is sought by name.
            committed = self._committed_offset.get(tp) or 0
            wanted = self.checkpoint.sources[tp.topic].start_of(tp.partition, committed)
            seeks[tp] = min(max(earliest[tp] or 0, wanted), ends[tp] or 0)
        await self._thread.seek_wait(seeks)
        if epoch == self.epoch:
            self._sought = seeks

    def lag(self) -> dict[TP, int]:
        """Return, for each source partition of ours, the records that are not folded yet."""
        lags = {}
        for tp, position in self._expected.items():
            end = self.highwater(tp)
            if end is not None:
                lags[tp] = max(0, end - self.checkpoint.applied.get(tp, position))
        return lags


class Producer(driver.Producer):
    """Faust's producer, idempotent: a retry does not write twice, and keeps its order.

    What waits in its memory when the process is stopped must not go out when it wakes: by then others
    own the partitions. So each request asks first whether we were awake.
    """

    def _settings_extra(self) -> dict[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        producer = super()._new_producer(transactional_id)
        send = producer.client.send
        self.app.checkpoint.awake()

        def send_when_awake(*args: Any, **kwargs: Any) -> Any:
            self.app.checkpoint.tick()
            return send(*args, **kwargs)

        producer.client.send = send_when_awake
        return producer

    @property
    def kafka(self) -> Any:
        """aiokafka's own producer, for whole batches."""
        return self._ensure_producer()


class BatchTransport(driver.Transport):
    """Kafka, with the consumer and the producer above."""

    Consumer = BatchConsumer
    Producer = Producer
