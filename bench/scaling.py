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
from typing import Any, NamedTuple

import msgspec
import psutil

from bench import log, market
from bench.catchup import SLOWEST, catch_up, check
from bench.figures import Figures, Inexact, Need, Plan
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
NEED = Need(">=", 1.7)
"""Two workers over one, where there are cores for both."""
FLAT = Need("<", 1.25)
"""The processor time of a trade in the dearest log over the cheapest."""
TWO_OVER_ONE = "two workers over one"


class Log(NamedTuple):
    """Trades, products, and microseconds between two trades of one product."""

    trades: int
    products: int
    between_us: int = BUSY_US


BY_LENGTH = (Log(100_000, 8), Log(1_000_000, 8), Log(10_000_000, 8))
BY_PRODUCTS = (Log(1_000_000, 8), Log(1_000_000, 80), Log(1_000_000, 800))
QUIET = Log(1_000_000, 800, 100 * BUSY_US)
LOGS = tuple(sorted({*BY_LENGTH, *BY_PRODUCTS, QUIET}))
"""None longer than asked for is measured, save the first.

Products are compared as busy as each other, so that a candle has as many trades; and once with a
hundredth of that, where most of the work is candles.
"""


def name_of(log: Log) -> str:
    """Return what the figures of a log are called."""
    rate = round(MINUTE_US / log.between_us)
    return f"{log.trades:,} trades of {log.products} products, {rate:,} a minute each"


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
                TWO_OVER_ONE, "times", rates[2] / rates[1],
                "their rates, in the same run; no more than the machine has cores for", NEED,
            )  # fmt: skip


async def trade_cost(plan: Plan, figures: Figures) -> None:
    """Measure what a trade costs, by the length of the log and by its products."""
    logs = [log for log in LOGS if log.trades <= max(plan.trades, LOGS[0].trades)]
    for done, chosen in enumerate(logs):
        own = plan.folder / str(done)
        own.mkdir()
        part = msgspec.structs.replace(
            plan, trades=chosen.trades, folder=own, step=_part(plan, done, len(logs))
        )
        step_us = chosen.between_us // chosen.products
        await catch_up(name_of(chosen), chosen.products, BATCH_RECORDS, 1.0, step_us)(part, figures)
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
