"""Catch-up: a worker that finds a log before it, timed from its readiness to the last trade."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench import log, market
from bench.figures import Figures, Inexact, Measure, Need, Plan
from bench.questions import Questions
from bench.truth import FIELDS, Key
from bench.worker import Worker
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from models.times import rfc3339
from models.window import BY_NAME, WINDOWS

NEED = Need(">=", 100_000)
SLOWEST = 5_000
"""Trades a second under which a run is given up."""
LOADING = 0.4
"""The share of the whole time that writing the log takes, about."""


def catch_up(
    name: str, products: int, batch_records: int, share: float, step_us: int = market.STEP_US
) -> Measure:
    """Return a measurement of a log of so many products, so many records to a Kafka batch."""

    async def measure(plan: Plan, figures: Figures) -> None:
        count = min(market.MOST_TRADES, plan.part(share, plan.trades))
        settings = Settings(data_dir=plan.folder)
        async with EmbeddedBroker(plan.folder / "broker") as broker:
            start_us = market.midnight(time.time_ns() // 1000)
            names = market.symbols(products, settings.partitions)
            written = await log.write(
                broker.bootstrap, settings, market.trades(names, count, start_us, step_us), batch_records,
                lambda done: plan.step(f"writing {count:,} trades", LOADING * done / count),
            )  # fmt: skip
            for run in range(plan.runs):
                tell = _teller(plan, f"catching up, run {run + 1}", run)
                await _one_run(name, broker.bootstrap, plan, written, figures, products, batch_records, tell)

    return measure


def _teller(plan: Plan, what: str, run: int) -> Callable[[float], None]:
    return lambda done: plan.step(what, LOADING + (1 - LOADING) * (run + done) / plan.runs)


async def _one_run(
    name: str,
    bootstrap: str,
    plan: Plan,
    written: log.Written,
    figures: Figures,
    products: int,
    batch_records: int,
    tell: Callable[[float], None],
) -> None:
    count = written.counts.total()
    last = list(written.last.values())
    began = time.monotonic()
    async with Worker(bootstrap, plan.folder) as worker:
        tell(0)
        ready = await worker.until_ready(last[0])
        cpu_s = worker.cpu_s()
        # A partition is done when the symbol of its last record is, so eight symbols tell of all.
        for done, symbol in enumerate(last):
            await worker.until_folded(symbol, written.counts[symbol], 30 + count / SLOWEST)
            tell((done + 1) / (len(last) + 1))
        seconds = time.monotonic() - ready
        cpu_s = worker.cpu_s() - cpu_s
        worker.rss()
        await check([worker], written)
        peak_rss = worker.peak_rss
    shutil.rmtree(worker.settings.data_dir, ignore_errors=True)
    what = (
        f"{count:,} trades of {products} products, one a record, {batch_records} to a Kafka batch: "
        "fetch, read, fold into 1m, 1h, 1d, changelog and RocksDB"
    )
    what += "; from tables ready to the last trade in /stats; every candle then compared with the log"
    figures.add(name, "trades/s", count / seconds, what, NEED)
    figures.add(f"{name}, CPU", "s/million", cpu_s / count * 1e6, "processor time of the worker, all threads")
    figures.add(f"{name}, cores", "cores", cpu_s / seconds, "processor time over time")
    figures.add(f"{name}, peak RSS", "MiB", peak_rss / 2**20, "the worker, sampled every 10 ms or so")
    figures.add(f"{name}, start", "s", ready - began, "from the start of the process to tables ready")


async def check(workers: Sequence[Worker], written: log.Written) -> None:
    """Compare every candle of every window with what is in the log, asked of the worker that has it.

    Raises:
        Inexact: one differs, is missing or is of no trade; or there are gaps or duplicates.
    """
    candles: dict[Key, list[Any]] = {}
    products: dict[str, dict[str, Any]] = {}
    for worker in workers:
        status, body = await worker.get("/v1/status?local=true")
        if status != 200:
            raise Inexact(f"/v1/status answered {status}")
        own = {product["product_id"]: product for product in body["products"]}
        products |= own
        async with Questions(worker.port) as questions:
            for symbol in own:
                candles |= await _candles(questions, symbol, written.truth.span())
    for symbol, count in written.counts.items():
        product = products.get(symbol, {})
        told = product.get("trades_1d", 0), product.get("gaps"), product.get("duplicates")
        if told != (count, 0, 0):
            raise Inexact(f"{symbol}: {count} trades are in the log, (trades, gaps, duplicates) are {told}")
    if fault := written.truth.fault(candles, tuple(BY_NAME), written.counts.total()):
        raise Inexact(fault)


async def _candles(questions: Questions, symbol: str, span: tuple[int, int]) -> dict[Key, list[Any]]:
    """Ask for each window of a span of microseconds; one without a trade has no candle."""
    first_us, last_us = span
    candles: dict[Key, list[Any]] = {}
    for window in WINDOWS:
        starts = range(window.start_of(first_us), last_us + 1, window.size_us)
        path = f"/stats/{window.name}/{symbol}?at="
        answers = await questions.ask_all([path + rfc3339(start_us) for start_us in starts])
        for start_us, (status, body) in zip(starts, answers, strict=True):
            if status not in (200, 404):
                raise Inexact(f"{path}{rfc3339(start_us)} answered {status}")
            if status == 200 and (candle := msgspec.json.decode(body)["candle"]):
                candles[window.name, symbol, start_us // 1000] = [candle[field] for field in FIELDS]
    return candles
