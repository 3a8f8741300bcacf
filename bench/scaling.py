"""Scaling: one worker and two on the same log, and what a trade costs in short and long logs.

Two workers are timed from one moment at which both have their partitions and none has a record:
they join while the log is empty, are stopped as by Ctrl-Z while it is written, and go on together.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench import log, market
from bench.catchup import SLOWEST, catch_up, check
from bench.figures import Figures, Inexact, Plan
from bench.worker import TooSlow, Worker
from candlewick import topics
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from producers.topic import ensure_topics

WORKERS = (1, 2)
PRODUCTS = 80
BATCH_RECORDS = 1_000
TRADES = 3_000_000
"""As many as are written within a session; fewer, and what all of them do once is seen."""
SESSION_S = 120.0
"""The log is written within it: a worker that slept past its session ends."""
SETTLED_WITHIN_S = 60.0
MINUTE_US = 60_000_000
BUSY_US = 8 * market.STEP_US
"""Between two trades of a product."""
LOGS = (
    (100_000, 8, BUSY_US),
    (1_000_000, 8, BUSY_US),
    (1_000_000, 80, BUSY_US),
    (1_000_000, 800, BUSY_US),
    (1_000_000, 800, 100 * BUSY_US),
    (10_000_000, 8, BUSY_US),
)
"""Trades, products, microseconds between two trades of one; none longer than asked for, save the first.

Products are compared as busy as each other, so that a candle has as many trades; and once with a
hundredth of that, where most of the work is candles.
"""


async def scaling(plan: Plan, figures: Figures) -> None:
    """Measure a catch-up by one worker and by two."""
    count = min(TRADES, plan.trades)
    steps = [(run, workers) for run in range(plan.runs) for workers in WORKERS]
    rates: dict[int, float] = {}
    for done, (run, workers) in enumerate(steps):
        plan.step(f"{workers} of {max(WORKERS)} workers, run {run + 1}", done / len(steps))
        folder = plan.folder / f"{workers}-{run}"
        rates[workers] = await _one_group(folder, workers, count, figures)
        shutil.rmtree(folder, ignore_errors=True)
        if workers == max(WORKERS):
            figures.add(
                "two workers over one", "times", rates[2] / rates[1],
                "their rates, in the same run; no more than the machine has cores for",
            )  # fmt: skip


async def trade_cost(plan: Plan, figures: Figures) -> None:
    """Measure what a trade costs, by the length of the log and by its products."""
    logs = [kept for kept in LOGS if kept[0] <= max(plan.trades, LOGS[0][0])]
    for done, (count, products, between_us) in enumerate(logs):
        own = plan.folder / f"{count}-{products}-{between_us}"
        own.mkdir()
        part = msgspec.structs.replace(plan, trades=count, folder=own, step=_part(plan, done, len(logs)))
        name = f"{count:,} trades of {products} products, {round(MINUTE_US / between_us):,} a minute each"
        await catch_up(name, products, BATCH_RECORDS, 1.0, between_us // products)(part, figures)
        shutil.rmtree(own, ignore_errors=True)


def _part(plan: Plan, done: int, steps: int) -> Any:
    return lambda what, share: plan.step(what, (done + share) / steps)


class _Group:
    """Workers of one group, as one."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers

    async def until_settled(self) -> None:
        """Wait until all are ready at the same time, twice in a row with a rebalance's time between."""
        end = time.monotonic() + SETTLED_WITHIN_S
        calm = 0
        while calm < 2:
            if time.monotonic() > end:
                raise TooSlow(f"the group was not settled within {SETTLED_WITHIN_S:.0f} s")
            await asyncio.sleep(1.0)
            status, body = await self.workers[0].get("/v1/status")
            ready = [worker for worker in (body or {}).get("workers", []) if worker.get("ready")]
            calm = calm + 1 if status == 200 and len(ready) == len(self.workers) else 0

    def send(self, number: signal.Signals) -> None:
        """Send all a signal."""
        for worker in self.workers:
            worker.send(number)

    def cpu_s(self) -> float:
        """Return the seconds of processor time of all."""
        return sum(worker.cpu_s() for worker in self.workers)


async def _one_group(folder: Path, size: int, count: int, figures: Figures) -> float:
    """Return the trades a second that a group of so many workers has folded."""
    settings = Settings(data_dir=folder, app_id="bench")
    names = market.symbols(PRODUCTS, settings.partitions)
    async with EmbeddedBroker(folder / "broker") as broker, AsyncExitStack() as stack:
        assert broker.pid is not None
        await ensure_topics(broker.bootstrap, topics.specs(settings))
        workers = [
            await stack.enter_async_context(
                Worker(broker.bootstrap, folder, app_id="bench", worker_id=f"w{i}", session_s=SESSION_S)
            )
            for i in range(size)
        ]
        for worker in workers:
            await worker.until_ready(names[0])
        group = _Group(workers)
        await group.until_settled()
        group.send(signal.SIGSTOP)
        trades = market.trades(names, count, market.midnight(time.time_ns() // 1000))
        written = await log.write(broker.bootstrap, settings, trades, BATCH_RECORDS, lambda _: None)
        kafka = psutil.Process(broker.pid)
        cpu_s, kafka_s = group.cpu_s(), sum(kafka.cpu_times()[:2])
        began = time.monotonic()
        group.send(signal.SIGCONT)
        for symbol in written.last.values():
            await workers[0].until_folded(symbol, written.counts[symbol], 30 + count / SLOWEST)
        seconds = time.monotonic() - began
        cpu_s, kafka_s = group.cpu_s() - cpu_s, sum(kafka.cpu_times()[:2]) - kafka_s
        await check(workers, written)
        for worker in workers:
            _, body = await worker.get("/v1/status?local=true")
            if len(body["products"]) != PRODUCTS // size:
                raise Inexact(f"one of {size} workers has {len(body['products'])} of {PRODUCTS} products")
    name = f"{size} worker{'s' if size > 1 else ''}"
    figures.add(
        f"{name}, catch-up", "trades/s", count / seconds,
        f"{count:,} trades of {PRODUCTS} products, from all awake to the last trade in /stats; "
        "every candle then compared with the log",
    )  # fmt: skip
    for what, used in ((f"{name}, CPU", cpu_s), (f"{name}, CPU of Kafka", kafka_s)):
        figures.add(what, "s/million", used / count * 1e6, "processor time, all threads and all workers")
    figures.add(
        f"{name}, cores", "cores", (cpu_s + kafka_s) / seconds, f"workers and Kafka, of {psutil.cpu_count()}"
    )
    return count / seconds
