"""The sink: events into Kafka, through the one door that producers have."""

from __future__ import annotations

import time

from bench import market
from bench.figures import Figures, Plan
from candlewick import topics
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from producers.sink import Sink
from producers.topic import ensure_topics

SYMBOLS = 8


async def sink(plan: Plan, figures: Figures) -> None:
    """Measure `Sink.put` up to the broker's acknowledgement of the last record."""
    count = plan.part(0.1, 200_000)
    settings = Settings(data_dir=plan.folder)
    names = market.symbols(SYMBOLS, settings.partitions)
    async with EmbeddedBroker(plan.folder / "broker") as broker:
        await ensure_topics(broker.bootstrap, topics.specs(settings))
        plan.step(f"making {count:,} trades", 0)
        trades = list(market.trades(names, count, market.midnight(time.time_ns() // 1000)))
        for run in range(plan.runs):
            plan.step(f"putting them, run {run + 1}", (run + 0.5) / (plan.runs + 0.5))
            async with Sink(broker.bootstrap) as target:
                began = time.perf_counter()
                cpu_began = time.process_time()
                for trade in trades:
                    await target.put(trade)
                await target.flush()
                seconds = time.perf_counter() - began
                cpu_s = time.process_time() - cpu_began
            figures.add(
                "sink", "trades/s", count / seconds,
                f"Sink.put of trades of {SYMBOLS} symbols to the last acknowledgement: JSON, zstd, acks=all",
            )  # fmt: skip
            figures.add(
                "sink, CPU", "s/million", cpu_s / count * 1e6, "processor time of the process that puts"
            )
