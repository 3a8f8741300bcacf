"""Latency of a live market: from the sink's door to what a user reads at ``/stats``."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from statistics import quantiles

from bench import market
from bench.figures import Figures, Plan
from bench.worker import TooSlow, Worker
from candlewick import topics
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from models.trade import Trade
from producers.sink import Sink
from producers.topic import ensure_topics

SYMBOLS = 8
RATE = 2_000
"""Trades a second, over all symbols, while we look."""
TICK_S = 0.01
PROBE = "PROBE-USD"
PROBES = 200
PROBE_EVERY_S = 0.1
POLL_S = 0.001
WARM_UP_S = 3.0
SEEN_WITHIN_S = 10.0


async def live(plan: Plan, figures: Figures) -> None:
    """Measure how long a trade takes until ``/stats`` has it, while others go the same way."""
    probes = PROBES if plan.trades >= 1_000_000 else PROBES // 4
    settings = Settings(data_dir=plan.folder)
    names = market.symbols(SYMBOLS, settings.partitions)
    async with EmbeddedBroker(plan.folder / "broker") as broker:
        await ensure_topics(broker.bootstrap, topics.specs(settings))
        for run in range(plan.runs):
            async with Worker(broker.bootstrap, plan.folder) as worker, Sink(broker.bootstrap) as sink:
                plan.step(f"a live market, run {run + 1}", run / plan.runs)
                await worker.until_ready(PROBE)
                others = asyncio.create_task(_keep_putting(sink, names, run))
                try:
                    await asyncio.sleep(WARM_UP_S)
                    cpu_s, began = worker.cpu_s(), time.monotonic()
                    first = run * probes + 1
                    latencies = [await _probe(worker, sink, first + index) for index in range(probes)]
                    cpu_s, seconds = worker.cpu_s() - cpu_s, time.monotonic() - began
                finally:
                    others.cancel()
                    await asyncio.gather(others, return_exceptions=True)
            percentiles = quantiles(latencies, n=100, method="inclusive")
            what = (
                f"Sink.put to the trade's id in /stats/1m, polled every {POLL_S * 1000:.0f} ms, "
                f"{probes} probes among {RATE:,} trades/s of {SYMBOLS} symbols; no WebSocket"
            )
            figures.add("live latency, p50", "ms", percentiles[49] * 1000, what)
            figures.add("live latency, p99", "ms", percentiles[98] * 1000, "the same probes")
            what = "processor time of the worker over time, our polls included"
            figures.add("live, worker cores", "cores", cpu_s / seconds, what)


async def _keep_putting(sink: Sink, names: list[str], run: int) -> None:
    """Put trades of the present at `RATE`, until cancelled."""
    per_tick = round(RATE * TICK_S)
    number = run * 10_000_000
    due = time.monotonic()
    while True:
        now_us = time.time_ns() // 1000
        for _ in range(per_tick):
            number += 1
            await sink.put(_trade(names[number % len(names)], number // len(names) + 1, now_us))
        due += TICK_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _probe(worker: Worker, sink: Sink, trade_id: int) -> float:
    """Put one trade; return the seconds until a view shows it."""
    began = time.monotonic()
    await sink.put(_trade(PROBE, trade_id, time.time_ns() // 1000))
    while True:
        _, body = await worker.get(f"/stats/1m/{PROBE}")
        seconds = time.monotonic() - began
        candle = (body or {}).get("candle") or {}
        if candle.get("last_trade_id", 0) >= trade_id:
            break
        if seconds > SEEN_WITHIN_S:
            raise TooSlow(f"a trade was not in /stats within {SEEN_WITHIN_S:.0f} s")
        await asyncio.sleep(POLL_S)
    await asyncio.sleep(max(0.0, PROBE_EVERY_S - seconds))
    return seconds


def _trade(symbol: str, trade_id: int, now_us: int) -> Trade:
    return Trade(
        market.EXCHANGE, symbol, trade_id, Decimal("83432.17"), Decimal("0.01500000"), "buy", now_us, now_us
    )
