"""What a scenario works with: a Kafka of its own, a log that is written in bursts, and workers.

No supervisor: a process that ends when the scenario did not end it is an error (`Ended`), unless
the scenario allows it, and then it is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from candlewick import topics
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker, free_ports
from faults import truth
from faults.process import Failed, Process
from faults.scenario import Plan
from faults.trades import Line
from producers.topic import ensure_topics

Z = "0 lost, 0 double, 0 candles differ"
"""The bar: in the table, in its changelog, and in the topic ``candles``."""
PARTITIONS = 4
SESSION_S = 6
PATIENCE_S = 120.0
POLL_S = 0.05
PACE_S = 0.02
"""Between two sends of a burst."""


class Worker(Process):
    """``candlewick worker`` with a data directory of its own."""

    def __init__(
        self,
        folder: Path,
        name: str,
        bootstrap: str,
        app_id: str,
        web: aiohttp.ClientSession,
        env: dict[str, str],
    ) -> None:
        self.data_dir = folder / name
        self.tables = self.data_dir / "tables"
        (self.port,) = free_ports(1)
        settings = {
            "CANDLEWICK_BROKER": bootstrap,
            "CANDLEWICK_DATA_DIR": str(self.data_dir),
            "CANDLEWICK_PORT": str(self.port),
            "CANDLEWICK_WORKER_ID": name,
            "CANDLEWICK_APP_ID": app_id,
            "CANDLEWICK_PARTITIONS": str(PARTITIONS),
            "CANDLEWICK_SESSION_S": str(SESSION_S),
            "CANDLEWICK_COMMIT_S": "0.3",
        }
        super().__init__(folder / f"{name}.log", ["-m", "candlewick", "worker"], settings | env)
        self.web = web

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask a view; status 0 while nobody answers."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self.web.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, await answer.json(content_type=None)
        return 0, None

    async def ready(self, within_s: float = PATIENCE_S) -> float:
        """Wait until its tables are recovered; return the seconds since it was started."""

        async def answers() -> bool:
            await self.check()
            status, _ = await self.get("/stats/1d/BTC-USD")
            return status in (200, 404)

        await until(answers, within_s, f"{self.log.stem} is not ready")
        return time.monotonic() - self.began

    async def listening(self) -> None:
        """Wait until its web server is up, which is before its tables are."""

        async def answers() -> bool:
            await self.check()
            return (await self.get("/healthz"))[0] == 200

        await until(answers, PATIENCE_S, f"{self.log.stem} does not listen")

    async def partitions(self) -> set[int]:
        """Return the partitions whose products it calls its own."""
        status, body = await self.get("/v1/status?local=true")
        return {product["partition"] for product in body["products"]} if status == 200 else set()

    def wipe(self) -> None:
        """Delete its tables."""
        shutil.rmtree(self.tables, ignore_errors=True)


@dataclass(frozen=True)
class Verdict:
    """The three places where a candle can be read, against the truth."""

    trades: int
    table: truth.Difference
    changelog: truth.Difference
    topic: truth.Difference
    stale: list[str]
    conflicting: list[str]
    starved: int

    @property
    def exact(self) -> bool:
        """Nothing lost or double, no candle differs, wherever it is read; no revision has two contents."""
        return self.table.none and self.changelog.none and self.topic.none and not self.conflicting

    def __str__(self) -> str:
        places = {"table": self.table, "changelog": self.changelog, "topic candles": self.topic}
        wrong = [f"{name}: {difference}" for name, difference in places.items() if not difference.none]
        text = f"{self.trades:,} trades: " + ("; ".join(wrong) or str(self.table))
        if self.stale:
            text += f"; {len(self.stale)} keys end with an older revision, such as {self.stale[0]}"
        if self.conflicting:
            text += (
                f"; {len(self.conflicting)} keys tell a revision in two ways, such as {self.conflicting[0]}"
            )
        if self.starved:
            text += f"; {self.starved} workers ended as the machine had not run them for {SESSION_S} s"
        return text


class Rig:
    """A Kafka, a log to write, and workers: ``async with Rig(plan, lines) as rig``.

    Arguments:
        lines: the log; `burst` writes the next of it.
        breaks_the_broker: in the quick gate the others of a lane share one, emptied for each.
    """

    def __init__(
        self, plan: Plan, lines: Sequence[Line], *, app_id: str = "", breaks_the_broker: bool = False
    ) -> None:
        self.folder = plan.folder
        self.app_id = app_id or f"faults-{plan.folder.name}"
        self.sent = plan.folder / "sent.jsonl"
        """What was written to the topic ``trades``, one value a line, without poison."""
        self._shares = plan.quick and not breaks_the_broker
        self.broker = _shared(plan) if self._shares else EmbeddedBroker(plan.folder / "kafka")
        self.processes: list[Process] = []
        self._lines = lines
        self._next = 0
        self._bursts: list[asyncio.Task[None]] = []

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap

    @property
    def left(self) -> int:
        """Lines that are not written yet."""
        return len(self._lines) - self._next

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            if not self._shares:
                await stack.enter_async_context(self.broker)
            elif self.broker.pid is None:
                await self.broker.start()
            else:
                await _empty(self.bootstrap)
            settings = Settings(partitions=PARTITIONS, app_id=self.app_id)
            await ensure_topics(self.bootstrap, topics.specs(settings), replication=1)
            self._producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap, enable_idempotence=True, acks="all",
                max_batch_size=1 << 20, request_timeout_ms=int(PATIENCE_S * 1000),
            )  # fmt: skip
            self._consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
            self._admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            for client in (self._producer, self._consumer, self._admin):
                stack.push_async_callback(_stop, client)
                await client.start()
            self._web = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
            )
            stack.push_async_callback(self._end)
            self.sent.touch()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _end(self) -> None:
        for task in self._bursts:
            task.cancel()
        await asyncio.gather(*self._bursts, return_exceptions=True)
        for process in self.processes:
            await process.close()

    async def worker(self, name: str = "one", **env: str) -> Worker:
        """Start a worker."""
        worker = Worker(self.folder, name, self.bootstrap, self.app_id, self._web, env)
        self.processes.append(worker)
        await worker.start()
        return worker

    async def program(self, name: str, *argv: str, **env: str) -> Process:
        """Start a Python program."""
        process = Process(self.folder / f"{name}.log", argv, env)
        self.processes.append(process)
        await process.start()
        return process

    async def burst(self, count: int, seconds: float) -> None:
        """Write the next ``count`` lines evenly over some seconds; return when Kafka has them."""
        lines = self._lines[self._next : self._next + count]
        self._next += len(lines)
        # Noted first: from here on each one arrives, or the scenario fails.
        with self.sent.open("ab") as out:
            out.writelines(line.value + b"\n" for line in lines)
        await self.write([(line.key, line.value) for line in lines], seconds)

    def begin(self, count: int, seconds: float) -> asyncio.Task[None]:
        """Begin a burst, to be awaited; it ends with the rig."""
        burst = asyncio.create_task(self.burst(count, seconds))
        self._bursts.append(burst)
        return burst

    async def rest(self, seconds: float) -> None:
        """Write what is left of the log."""
        await self.burst(self.left, seconds)

    async def write(self, records: Sequence[truth.Record], seconds: float) -> None:
        """Write records to the topic ``trades``, where the sink would put them."""
        began = time.monotonic()
        waiting: list[asyncio.Future[Any]] = []
        done = 0
        while done < len(records):
            passed = (time.monotonic() - began + PACE_S) / seconds if seconds else 1.0
            due = min(len(records), max(done + 1, int(len(records) * passed)))
            waiting += await self._send(records[done:due])
            done = due
            await asyncio.sleep(PACE_S)
        await asyncio.gather(*waiting)

    async def _send(self, records: Sequence[truth.Record]) -> list[asyncio.Future[Any]]:
        parts: dict[int, list[truth.Record]] = {}
        for key, value in records:
            assert key is not None
            parts.setdefault((murmur2(key) & 0x7FFFFFFF) % PARTITIONS, []).append((key, value))
        waiting = []
        for partition, part in parts.items():
            batch = self._producer.create_batch()
            for key, value in part:
                if batch.append(key=key, value=value, timestamp=None) is None:
                    batch.close()
                    waiting.append(await self._producer.send_batch(batch, topics.TRADES, partition=partition))
                    batch = self._producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
            batch.close()
            waiting.append(await self._producer.send_batch(batch, topics.TRADES, partition=partition))
        return waiting

    async def ends(self, topic: str) -> dict[TopicPartition, int]:
        """Return the offset after the last record of each partition."""
        count = 1 if topic in (topics.DEAD_LETTERS, topics.FEEDS) else PARTITIONS
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(
            [TopicPartition(topic, number) for number in range(count)]
        )
        return ends

    async def changelog_rows(self) -> int:
        """Return how many records the changelog of the candles holds."""
        return sum((await self.ends(topics.changelog(self.app_id, topics.CANDLES))).values())

    async def unfinished(self) -> int:
        """Return how many records of the topic ``trades`` the workers have not committed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                ends = await self.ends(topics.TRADES)
                committed = await self._admin.list_consumer_group_offsets(self.app_id, partitions=list(ends))
                return sum(end - max(0, committed[tp].offset) for tp, end in ends.items())
            except (KafkaError, TimeoutError):  # a broker that has just come back
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_S)

    async def settled(self, within_s: float = PATIENCE_S) -> float:
        """Wait until the workers have committed all of the log; return the seconds that it took."""
        began = time.monotonic()

        async def finished() -> bool:
            for process in self.processes:
                await process.check()
            return await self.unfinished() == 0

        await until(finished, within_s, "the workers have not folded the whole log")
        return time.monotonic() - began

    async def read(self, topic: str, begin: dict[TopicPartition, int] | None = None) -> list[truth.Record]:
        """Read a topic to its present end, partition by partition; ``begin``: where, else all of it."""
        records: list[truth.Record] = []
        async with AIOKafkaConsumer(bootstrap_servers=self.bootstrap, max_poll_records=5000) as consumer:
            for tp, end in (await self.ends(topic)).items():
                consumer.assign([tp])
                consumer.seek(tp, (begin or {}).get(tp, 0))
                async with asyncio.timeout(PATIENCE_S):
                    while await consumer.position(tp) < end:
                        fetched = await consumer.getmany(tp, timeout_ms=200)
                        records += [(record.key, record.value) for record in fetched.get(tp, ())]
        return records

    async def table(self, worker: Worker, keys: Sequence[truth.Key]) -> truth.Candles:
        """Ask a worker for candles, over HTTP; those that it does not have are left out."""
        gate = asyncio.Semaphore(16)
        found: truth.Candles = {}

        async def ask(key: truth.Key) -> None:
            symbol, window, start_s = key
            async with gate:
                status, body = await worker.get(f"/stats/{window}/{symbol}?at={start_s * 1000}")
            if status == 200 and body["candle"]:
                found[key] = truth.told(body["candle"])
            elif status != 404:
                raise Failed(f"{symbol} {window} {start_s}: the view answers {status}: {body}")

        await asyncio.gather(*(ask(key) for key in keys))
        return found

    async def verdict(self, worker: Worker) -> Verdict:
        """Wait until all is folded, and compare table, changelog and topic with the truth."""
        await self.settled()
        await worker.ready()
        expected = await asyncio.to_thread(truth.candles, self.sent)
        table = await self.table(worker, list(expected))
        changelog = truth.in_changelog(await self.read(topics.changelog(self.app_id, topics.CANDLES)))
        told = truth.in_topic(await self.read(topics.CANDLES))
        return Verdict(
            sum(figures["trade_count"] for (_, window, _), figures in expected.items() if window == "1d"),
            truth.compare(expected, table),
            truth.compare(truth.as_kept(expected), changelog),
            truth.compare(truth.closed(expected), told.candles),
            told.stale,
            told.conflicting,
            sum(process.starved for process in self.processes),
        )


_brokers: list[EmbeddedBroker] = []
"""The broker that a lane's scenarios of the quick gate share, once one has needed it."""


def _shared(plan: Plan) -> EmbeddedBroker:
    if not _brokers:
        _brokers.append(EmbeddedBroker(plan.folder.parent / f"kafka-{os.getpid()}"))
    return _brokers[0]


async def end_shared() -> None:
    """End the broker that scenarios shared, and remove what it kept."""
    while _brokers:
        broker = _brokers.pop()
        await broker.stop()
        shutil.rmtree(broker.data_dir, ignore_errors=True)


async def _empty(bootstrap: str) -> None:
    """Delete every topic of ours."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:

        async def ours() -> list[str]:
            return [name for name in await admin.list_topics() if not name.startswith("__")]

        async def gone() -> bool:
            return not await ours()

        if there := await ours():
            await admin.delete_topics(there)
        await until(gone, PATIENCE_S, "the topics are not deleted")
    finally:
        await admin.close()


async def _stop(client: Any) -> None:
    """Stop or close a Kafka client; one whose broker is gone is left."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


def within(plan: Plan, limit_s: float) -> float:
    """Return a bar's seconds: in the quick gate, which may share its machine, four times as many."""
    return limit_s * 4 if plan.quick else limit_s


async def until(holds: Callable[[], Awaitable[bool]], within_s: float, otherwise: str) -> None:
    """Ask until it is so.

    Raises:
        Failed: it was not so in time.
    """
    deadline = time.monotonic() + within_s
    while not await holds():
        if time.monotonic() > deadline:
            raise Failed(f"{otherwise} after {within_s:.0f} s")
        await asyncio.sleep(POLL_S)


def spread(counts: Counter[str]) -> str:
    """Write counts as ``3 truncated, 2 flipped``."""
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())
