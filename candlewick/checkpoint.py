"""A checkpoint: everything that was folded up to one point of the log, written down in order.

1. what was sent because of it (closed candles, dead letters) is acknowledged by the broker;
2. the changed rows are acknowledged by their changelogs;
3. the rows are in RocksDB;
4. the caller commits the offsets.

A process that dies between two steps repeats from the offsets of the last 4, and each row knows
which records it includes. A step that fails ends the worker: the offsets stay where they are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

TICK_S = 0.25

UNSENT = 10_000
"""Messages that may wait for their acknowledgement before an agent has to wait."""


class Rows(Protocol):
    """One partition's rows."""

    partition: int

    def take(self) -> dict[bytes, bytes | None]:
        """Return what has changed since the last time; None where a row was deleted."""
        ...

    def rewrite(self, keys: Iterable[bytes]) -> None:
        """Count rows as changed."""
        ...

    def written(self) -> None:
        """Note that what was taken is safe."""
        ...


class Table(Protocol):
    """What a checkpoint needs of a table; `tables.rows.RowTable` is the one there is."""

    changelog_topic_name: str

    def begin(self, highwaters: dict[TP, int]) -> None:
        """Begin an assignment, given the last offsets of the changelogs."""
        ...

    def forget(self) -> None:
        """Drop what is only in memory."""
        ...

    def partitions_in_memory(self) -> Iterable[Rows]:
        """List the partitions that may have changes."""
        ...

    def rows(self, partition: int) -> Rows:
        """Return one partition's rows."""
        ...

    def store(self, partition: int, rows: dict[bytes, bytes | None], first_offset: int) -> None:
        """Keep rows that the changelog has."""
        ...

    def foreign(self) -> dict[TP, tuple[int, int]]:
        """Return, and forget, the changelog offsets ``[from, to)`` that another worker wrote among ours."""
        ...


class Source(Protocol):
    """What a checkpoint needs of the agent of a source topic; `agents.batch.Folding` is the one there is."""

    def start_of(self, partition: int, committed: int) -> int:
        """Return the offset to begin with, given the one that was committed."""
        ...

    def newest(self, partition: int) -> int:
        """Return the last offset of a partition that the kept rows include, or -1."""
        ...

    def forget(self) -> None:
        """End an assignment: drop what is only in memory."""
        ...


def boot_s() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(CLOCK)


class Frozen(RuntimeError):
    """The process was stopped for longer than its session: others own its partitions now."""


class Checkpoint:
    """Collects what agents do between two commits. One for each worker."""

    def __init__(self, app: Any, session_s: float) -> None:
        self._app = app
        # The broker counts from the last heartbeat, which may be a quarter of a session ago.
        self._longest_s = session_s * 0.75
        self.tables: list[Table] = []
        self.sources: dict[str, Source] = {}
        """By topic; these topics are delivered in batches."""
        self.applied: dict[TP, int] = {}
        """The offset after the last record that was folded."""
        self._queue: deque[tuple[str, bytes, bytes | None]] = deque()
        self._sent: set[asyncio.Future[Any]] = set()
        self._draining = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._failure: Exception | None = None
        self._last_tick = boot_s()
        self._longest_sleep_s = 0.0
        self._watcher: threading.Thread | None = None

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Send a message, or with None a tombstone; it is acknowledged before rows are written."""
        self._queue.append((topic, key, value))

    async def drain(self) -> None:
        """Hand queued messages to the producer; wait while too many are unacknowledged."""
        async with self._draining:  # for all others, a message is in the queue or among the sent ones
            while self._queue:
                kafka = self._app.producer.kafka
                message = topic, key, value = self._queue[0]
                self._sent.add(await kafka.send(topic, value, key))
                # Only now: who is cancelled while waiting must not lose it. And only this one: a revoke
                # may have emptied the queue meanwhile.
                if self._queue and self._queue[0] is message:
                    self._queue.popleft()
        if len(self._sent) > UNSENT:
            await self._acknowledged()

    def folded(self, tp: TP, next_offset: int) -> None:
        """Note that every record before ``next_offset`` is in the rows, or dead-lettered."""
        self.applied[tp] = next_offset

    def fail(self, error: Exception) -> None:
        """Give up: nothing is written any more, and the next start folds again from the last commit."""
        self._failure = error

    def awake(self) -> None:
        """Begin to watch, in a thread of its own, whether the process is awake; a busy event loop is."""
        self._last_tick = boot_s()
        self._longest_sleep_s = 0.0
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="awake", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        while True:
            self._look_at_clock()
            time.sleep(TICK_S)

    def _look_at_clock(self) -> None:
        now = boot_s()
        self._longest_sleep_s = max(self._longest_sleep_s, now - self._last_tick)
        self._last_tick = now

    def tick(self) -> None:
        """Make sure that the process was awake; call it a few times a second, and before each write to Kafka.

        Raises:
            Frozen: it was not for so long that others may own its partitions by now.
        """
        self._look_at_clock()
        if self._longest_sleep_s > self._longest_s:
            slept = f"the process did not run for {self._longest_sleep_s:.1f} s"
            raise Frozen(f"{slept}, and its partitions may move after {self._longest_s:.1f} s")

    def begin(self, highwaters: dict[TP, int]) -> None:
        """Begin an assignment; ``highwaters`` are the last offsets of the changelogs."""
        for table in self.tables:
            table.begin(highwaters)

    def forget(self) -> None:
        """End an assignment: drop all that was not written."""
        self.applied.clear()
        self._queue.clear()
        for table in self.tables:
            table.forget()
        for source in self.sources.values():
            source.forget()

    async def write(self, is_current: Callable[[], bool]) -> dict[TP, int]:
        """Write steps 1 to 3; return the offsets for step 4, none when ``is_current`` no longer holds.

        Raises:
            Frozen: the process slept past its session, and must not write.
            KafkaError: a message or a row was not acknowledged.
        """
        async with self._writing:
            if self._failure is not None:
                raise self._failure
            self.tick()
            try:
                return await self._write(is_current) if is_current() else {}
            except BaseException as error:
                # What was taken and not written is gone from memory: no later write may say that it is there.
                self.fail(error if isinstance(error, Exception) else RuntimeError("a checkpoint was cut off"))
                raise

    async def _write(self, is_current: Callable[[], bool]) -> dict[TP, int]:
        offsets = dict(self.applied)
        taken = [(table, rows, rows.take()) for table in self.tables for rows in table.partitions_in_memory()]
        await self.drain()
        await self._acknowledged()
        if not is_current():
            return {}
        written = await asyncio.gather(
            *(self._append(table, rows.partition, changed) for table, rows, changed in taken if changed)
        )
        if not is_current():
            return {}
        stored = iter(written)
        for table, rows, changed in taken:
            for part, first_offset in next(stored) if changed else ():
                table.store(rows.partition, part, first_offset)
            rows.written()
        return await self._write(is_current) if await self._find_foreign() else offsets

    async def _find_foreign(self) -> bool:
        """Mark rows that another worker has written after us, say whether there are any.

        One that was stopped, replaced and woken up may still write what it had under way: rows that
        are older than ours, and that the changelog would keep.
        """
        found = False
        for table in self.tables:
            for tp, (first, end) in table.foreign().items():
                keys = await keys_between(self._app.bootstrap, tp, first, end, self._app.security)
                self._app.log.warning(
                    "another worker wrote to %s-%s, offsets %s to %s; writing its %s rows again",
                    tp.topic, tp.partition, first, end - 1, len(keys),
                )  # fmt: skip
                table.rows(tp.partition).rewrite(keys)
                found = True
        return found

    async def _acknowledged(self) -> None:
        if sent := set(self._sent):
            # Not gather: an agent that is cancelled here would cancel the messages with it.
            done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._sent -= done

    async def _append(
        self, table: Table, partition: int, rows: dict[bytes, bytes | None]
    ) -> list[tuple[dict[bytes, bytes | None], int]]:
        """Append rows to a changelog, as one Kafka batch where they fit into one.

        Returns each part with the offset of its first row.
        """
        kafka = self._app.producer.kafka
        topic = table.changelog_topic_name
        parts: list[tuple[dict[bytes, bytes | None], asyncio.Future[Any]]] = []
        batch = kafka.create_batch()
        part: dict[bytes, bytes | None] = {}
        for key, value in rows.items():
            if batch.append(key=key, value=value, timestamp=None) is None:
                parts.append((part, await kafka.send_batch(batch, topic, partition=partition)))
                batch, part = kafka.create_batch(), {}
                batch.append(key=key, value=value, timestamp=None)
            part[key] = value
        parts.append((part, await kafka.send_batch(batch, topic, partition=partition)))
        return [(part, (await future).offset) for part, future in parts]


async def keys_between(
    bootstrap: str, tp: TP, first: int, end: int, security: Mapping[str, Any]
) -> set[bytes]:
    """Return the keys of a partition's records from offset ``first`` to before ``end``."""
    keys = set()
    place = TopicPartition(*tp)
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, **security
    ) as consumer:
        consumer.assign([place])
        consumer.seek(place, first)
        while await consumer.position(place) < end:
            # As tuples: see `candlewick.transport.LeanRecords`.
            for offset, key, _, _ in (await consumer.getmany(place, timeout_ms=500)).get(place, ()):
                if offset < end and key is not None:
                    keys.add(key)
    return keys
