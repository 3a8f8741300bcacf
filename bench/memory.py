"""What a worker and a producer hold in memory with many products."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from statistics import median

from bench import market
from bench.figures import Figures, Inexact, Need, Plan
from bench.worker import Process, TooSlow, Worker
from candlewick import topics
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from models.book import BookDelta, BookSnapshot
from models.trade import Trade
from producers.sink import Sink
from producers.topic import ensure_topics

PRODUCTS = 400
DELTAS = 100
"""Book frames of each product."""
CHANGES = 4
TRADES = 500
"""Of each product, at the default number of trades."""
HOUR_US = 3_600_000_000
NEED = Need("<", 400)
SETTLE_S = 5.0
"""How long a process that has all of it is watched."""
FOLDED_WITHIN_S = 180.0


async def worker_memory(plan: Plan, figures: Figures) -> None:
    """Measure a worker that has folded books and trades of an hour."""
    settings = Settings(data_dir=plan.folder)
    trades = plan.part(PRODUCTS * TRADES / 1_000_000, PRODUCTS * TRADES)
    async with EmbeddedBroker(plan.folder / "broker") as broker:
        await ensure_topics(broker.bootstrap, topics.specs(settings))
        names = market.symbols(PRODUCTS, settings.partitions)
        total = trades + PRODUCTS * (DELTAS + 1)
        async with Sink(broker.bootstrap) as sink:
            for done, event in enumerate(_hour(names, trades)):
                await sink.put(event)
                if done % 2_000 == 0:
                    plan.step(f"writing books and trades of {PRODUCTS} products", 0.4 * done / total)
            await sink.flush()
        for run in range(plan.runs):
            plan.step(f"folding them, run {run + 1}", 0.4 + 0.6 * run / plan.runs)
            async with Worker(broker.bootstrap, plan.folder) as worker:
                await worker.until_ready(names[0])
                await _all_folded(worker, trades)
                samples = await _watch(worker)
            name = f"worker with {PRODUCTS} products"
            figures.add(
                name, "MiB", median(samples) / 2**20,
                f"RSS once all is folded: {trades:,} trades, {PRODUCTS * (DELTAS + 1):,} book frames of an "
                f"hour, {market.LEVELS} levels a side; RocksDB and web views included",
                NEED,
            )  # fmt: skip
            figures.add(f"{name}, peak", "MiB", worker.peak_rss / 2**20, "RSS at its highest, sampled")


async def producer_memory(plan: Plan, figures: Figures) -> None:
    """Measure a producer that follows as many products of the mock exchange."""
    names = market.symbols(PRODUCTS, 8)
    seconds = 10.0 if plan.trades < 1_000_000 else 30.0
    async with EmbeddedBroker(plan.folder / "broker") as broker:
        settings = Settings(
            data_dir=plan.folder / "produce",
            broker=broker.bootstrap,
            products=tuple(names),
            mock_levels=market.LEVELS,
        )
        await ensure_topics(broker.bootstrap, topics.specs(settings))
        for run in range(plan.runs):
            plan.step(f"following {PRODUCTS} products, run {run + 1}", run / plan.runs)
            mock = settings.model_copy(update={"data_dir": plan.folder / "mock"})
            async with Process("mock exchange", ["mock-exchange"], mock) as exchange:
                url = await exchange.child.first_line("mock exchange at ", 60.0)
                chosen = settings.model_copy(update={"feed": url})
                async with Process("producer", ["produce"], chosen) as producer:
                    samples = await _watch(producer, seconds)
            figures.add(
                f"producer with {PRODUCTS} products", "MiB", samples[-1] / 2**20,
                f"RSS after {seconds:.0f} s of the mock exchange: books of {market.LEVELS} levels a side and "
                "trades over WebSocket into Kafka",
            )  # fmt: skip


def _hour(names: list[str], trades: int) -> Iterator[Trade | BookSnapshot | BookDelta]:
    """Yield a snapshot of each product, then deltas and trades over one hour, by the exchange's time."""
    start_us = market.midnight(time.time_ns() // 1000)
    for name in names:
        yield market.snapshot(name, start_us)
    frames = len(names) * DELTAS
    both: list[Iterator[Trade | BookDelta]] = [
        market.deltas(names, frames, CHANGES, start_us, HOUR_US // frames),
        market.trades(names, trades, start_us, HOUR_US // trades),
    ]
    yield from heapq.merge(*both, key=lambda event: event.event_time_us or 0)


async def _all_folded(worker: Worker, trades: int) -> None:
    """Wait until every trade is in a candle, and every book in step."""
    end = time.monotonic() + FOLDED_WITHIN_S
    folded = 0
    while time.monotonic() < end:
        _, body = await worker.get("/v1/status?local=true")
        products = (body or {}).get("products", [])
        folded = sum(product["trades_1d"] for product in products)
        if folded > trades:
            raise Inexact(f"{trades} trades are in the log, {folded} in the candles")
        books = sum(product["book"]["state"] == "in step" for product in products)
        if (folded, books) == (trades, PRODUCTS) and not body["workers"][0]["lag_records"]:
            return
        worker.rss()
        await asyncio.sleep(1.0)
    raise TooSlow(f"{folded} of {trades} trades were folded within {FOLDED_WITHIN_S:.0f} s")


async def _watch(process: Process, seconds: float = SETTLE_S) -> list[int]:
    """Return the RSS of a process, five times a second."""
    end = time.monotonic() + seconds
    samples = []
    while time.monotonic() < end:
        samples.append(process.rss())
        await asyncio.sleep(0.2)
    return samples
