"""Recovery: from the start of a worker that was killed to its readiness, with its RocksDB and without.

Without, every row comes from the changelog. One trade of each product in each minute makes a long
one of few trades.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench import log, market
from bench.catchup import check
from bench.figures import Figures, Need, Plan
from bench.worker import TooSlow, Worker
from candlewick import topics
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from models.trade import Trade
from models.window import WINDOWS

PRODUCTS = 800
MOST_ROWS = 200_000
LEAST_ROWS = 100_000
"""In the changelog: from fewer a million are not reckoned, they would be mostly the start's noise."""
BATCH_RECORDS = 1_000
FOLDED_WITHIN_S = 600.0
"""Here each trade is a candle of its own, and closes another: folding takes ten times as long."""
WRITTEN_WITHIN_S = 60.0
RECOVERED_WITHIN_S = 300.0
MILLION = "recovery, RocksDB lost, a million rows"
KEPT, LOST = "recovery, RocksDB kept", "recovery, RocksDB lost"
NEED_KEPT, NEED_MILLION = Need("<", 15), Need("<", 60)


async def recovery(plan: Plan, figures: Figures) -> None:
    """Kill a worker, and start it again: as often as there are runs, in both ways."""
    count = plan.part(0.2, MOST_ROWS)
    settings = Settings(data_dir=plan.folder)
    names = market.symbols(PRODUCTS, settings.partitions)
    async with EmbeddedBroker(plan.folder / "broker") as broker:
        trades = _one_a_minute(names, count, market.midnight(time.time_ns() // 1000))
        written = await log.write(
            broker.bootstrap, settings, trades, BATCH_RECORDS,
            lambda done: plan.step(f"writing {count:,} trades", 0.2 * done / count),
        )  # fmt: skip
        last = list(written.last.values())
        # With a name of its own, as `candlewick up` starts it, or it would wait for its own ghost.
        async with Worker(broker.bootstrap, plan.folder, worker_id="bench") as worker:
            plan.step("folding them", 0.2)
            await worker.until_ready(last[0])
            for symbol in last:
                await worker.until_folded(symbol, written.counts[symbol], FOLDED_WITHIN_S)
            changelog = topics.changelog(worker.settings.app_id, topics.CANDLES)
            records = await _until_still(broker.bootstrap, changelog, settings.partitions)
            steps = [(run, keep) for run in range(plan.runs) for keep in (True, False)]
            for done, (run, keep) in enumerate(steps):
                name = KEPT if keep else LOST
                plan.step(f"{name}, run {run + 1}", 0.4 + 0.6 * done / len(steps))
                await worker.kill()
                if not keep:
                    shutil.rmtree(worker.settings.data_dir / "tables")
                began = time.monotonic()
                await worker.start()
                seconds = await worker.until_ready(last[0], RECOVERED_WITHIN_S) - began
                await check([worker], written)
                what = (
                    f"from the start of a worker that was killed to its first answer; {count:,} candles of a "
                    f"minute, {records:,} records in their changelog; every candle then compared with the log"
                )
                figures.add(name, "s", seconds, what, NEED_KEPT if keep else None)
                if not keep and (million := reckoned(seconds, records)) is not None:
                    figures.add(
                        MILLION, "s", million,
                        f"at most: reckoned from {records:,} as if the start grew with the rows as well",
                        NEED_MILLION,
                    )  # fmt: skip


def reckoned(lost_s: float, rows: int) -> float | None:
    """Return the seconds at most for a million rows of the changelog; None where it has too few to tell.

    To take off what a start takes without them would tell of less: both wait for beats of the group, and
    differ by less than these.
    """
    return lost_s / rows * 1e6 if rows >= LEAST_ROWS else None


def _one_a_minute(names: Sequence[str], count: int, start_us: int) -> Iterator[Trade]:
    """Yield trades of all products in turn, a minute of event time for each round."""
    price, size = Decimal("83432.17"), Decimal("0.01500000")
    for number in range(count):
        round_, index = divmod(number, len(names))
        time_us = start_us + round_ * WINDOWS[0].size_us
        yield Trade(market.EXCHANGE, names[index], round_ + 1, price, size, "buy", time_us, time_us)


async def _until_still(bootstrap: str, topic: str, partitions: int) -> int:
    """Wait until nothing more comes into a topic; return how many records it has had."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        end = time.monotonic() + WRITTEN_WITHIN_S
        records = -1
        while time.monotonic() < end:
            now = sum((await consumer.end_offsets(wanted)).values())
            if now == records:
                return now
            records = now
            await asyncio.sleep(3.0)
    finally:
        await consumer.stop()
    raise TooSlow(f"{topic} was still written to after {WRITTEN_WITHIN_S:.0f} s")
