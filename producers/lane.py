"""The records of one partition, in order, and the task that sends them, a batch at a time.

The next batch leaves when the last one is acknowledged. A batch that failed is sent again before
anything behind it: so nothing is overtaken. What talks to Kafka is passed in (see `Writer`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from itertools import islice
from typing import Any, Protocol

import structlog
from aiokafka import errors

from producers.spill import Record, Spill
from producers.topic import words_of

log = structlog.get_logger(__name__)

_REFUSED_FOR_GOOD = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidTimestampError,
)
"""The record itself is at fault: sent again, it would be refused again, and hold up its partition."""


class Writer(Protocol):
    """What a lane needs of the sink."""

    linger_s: float
    batch_bytes: int

    @property
    def producer(self) -> Any:
        """aiokafka's producer, which makes batches; another one after each failure."""

    async def send(self, producer: Any, batch: Any, topic: str, partition: int) -> None:
        """Return when Kafka has acknowledged a batch; raise when it has not."""

    async def failed(self, producer: Any, records: int) -> None:
        """Replace a producer whose batch, of so many records that will be sent again, failed."""

    def acknowledged(self, records: list[Record]) -> None:
        """Forget records that Kafka has."""

    def refused_for_good(self, topic: str, record: Record, error: Exception) -> None:
        """Forget a record that Kafka will never take."""


class Lane:
    """One partition's queue. Its `task` runs until it is cancelled."""

    def __init__(self, writer: Writer, topic: str, partition: int) -> None:
        self._writer = writer
        self._topic = topic
        self._partition = partition
        self._waiting: deque[Record] = deque()
        self._bytes = 0
        self._one_by_one = 0  # so many records to send alone, to find the one that Kafka refuses
        self._wake = asyncio.Event()
        self.sent_at: float | None = None
        """Monotonic seconds, when the batch on the way was first sent."""
        self.task = asyncio.create_task(self._run(), name=f"sink-{topic}-{partition}")

    def append(self, record: Record) -> None:
        """Take a record, behind all others."""
        self._waiting.append(record)
        self._bytes += record.size
        self._wake.set()

    @property
    def waiting(self) -> int:
        """How many records Kafka has not acknowledged."""
        return len(self._waiting)

    @property
    def unkept(self) -> int:
        """How many records that last are nowhere but in memory."""
        return sum(not (record.segment or record.momentary) for record in self._waiting)

    def keep_on(self, spill: Spill) -> None:
        """Write to disk what is only in memory; what does not fit stays as it is.

        So does what is before a record that is on disk already: behind it, it would come out of
        order after a restart.
        """
        records = list(self._waiting)
        first = max((at for at, record in enumerate(records, 1) if record.segment), default=0)
        for at, record in enumerate(records[first:], first):
            if not record.momentary:
                records[at] = record._replace(segment=spill.back_up(record))
        self._waiting = deque(records)

    async def _run(self) -> None:
        failures = 0
        while True:
            if not self._waiting:
                self.sent_at = None
                self._wake.clear()
                await self._wake.wait()
            if self._bytes < self._writer.batch_bytes and (linger_s := self._writer.linger_s):
                # All lanes at the same moment: one request takes a batch of each, and one fetch brings them.
                await asyncio.sleep(linger_s - time.monotonic() % linger_s)
            producer = self._writer.producer
            batch, count = self._fill(producer)
            if not failures:
                self.sent_at = time.monotonic()
            try:
                await self._writer.send(producer, batch, self._topic, self._partition)
            except _REFUSED_FOR_GOOD as error:
                if count == 1:
                    self._one_by_one = max(0, self._one_by_one - 1)
                    self._writer.refused_for_good(self._topic, self._pop(1)[0], error)
                else:
                    self._one_by_one = count
                await self._writer.failed(producer, count - 1)
            except Exception as error:  # whatever it was, the records are still ours to deliver
                failures += 1
                log.warning(
                    "Kafka did not take a batch, it will be sent again",
                    topic=self._topic,
                    partition=self._partition,
                    records=count,
                    failures=failures,
                    reason=words_of(error),
                )
                await asyncio.sleep(min(0.1 * 2**failures, 5.0))
                await self._writer.failed(producer, count)
            else:
                failures = 0
                self._one_by_one = max(0, self._one_by_one - count)
                self._writer.acknowledged(self._pop(count))

    def _fill(self, producer: Any) -> tuple[Any, int]:
        """Return a batch of the first records, and how many went in; the first one always fits."""
        batch = producer.create_batch()
        count = 0
        for record in islice(self._waiting, 1 if self._one_by_one else None):
            if (
                batch.append(
                    timestamp=record.timestamp_ms, key=record.key, value=record.value, headers=record.headers
                )
                is None
            ):
                break
            count += 1
        batch.close()
        return batch, count

    def _pop(self, count: int) -> list[Record]:
        records = [self._waiting.popleft() for _ in range(count)]
        self._bytes -= sum(record.size for record in records)
        return records
