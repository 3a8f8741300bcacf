"""A soak: producer and worker under a steady market with books, and how their memory moves.

``python -m bench --only soak --minutes 30``. The market is one of the present, so candles close and
rows pile up as they would for a user.
"""

from __future__ import annotations

import asyncio
import time
from statistics import linear_regression

from bench import market
from bench.exchange import Load
from bench.figures import Figures, Need, Plan
from bench.whole import Whole
from candlewick.config import Settings

SYMBOLS = 8
TRADES_PER_S = 750
WARM_UP_S = 300.0
"""But half of a shorter soak."""
SAMPLE_S = 5.0
NEED = Need("<", 1)
"""MiB a minute."""


async def soak(plan: Plan, figures: Figures) -> None:
    """Sample the memory of both for as long as was asked, then compare what was folded with what was sent."""
    whole_s = plan.minutes * 60
    warm_up_s = min(WARM_UP_S, whole_s / 2)
    names = tuple(market.symbols(SYMBOLS, Settings().partitions))
    load = Load(names, TRADES_PER_S, levels=market.LEVELS)
    minutes: list[float] = []
    sizes: dict[str, list[float]] = {"producer": [], "worker": []}
    async with Whole(plan.folder, load) as whole:
        telling = asyncio.create_task(_until_stopped(whole))
        began = time.monotonic()
        while (passed := time.monotonic() - began) < whole_s:
            now = {"producer": whole.producer.rss() / 2**20, "worker": whole.worker.rss() / 2**20}
            told = ", ".join(f"{name} {size:.1f} MiB" for name, size in now.items())
            plan.step(told, passed / whole_s)
            if passed >= warm_up_s:
                minutes.append(passed / 60)
                for name, size in now.items():
                    sizes[name].append(size)
            await asyncio.sleep(SAMPLE_S)
        whole.exchange.stop()
        await telling
        await whole.until_exact()
    what = (
        f"RSS each {SAMPLE_S:.0f} s of {plan.minutes:g} minutes but the first {warm_up_s / 60:g}: "
        f"{TRADES_PER_S} trades/s of {SYMBOLS} symbols, books of {market.LEVELS} levels that change"
    )
    for name, samples in sizes.items():
        figures.add(f"soak, {name}, least", "MiB", min(samples), what)
        figures.add(f"soak, {name}, most", "MiB", max(samples), "the same samples")
        slope = linear_regression(minutes, samples).slope
        figures.add(f"soak, {name}, slope", "MiB/min", slope, "least squares through the samples", NEED)


async def _until_stopped(whole: Whole) -> None:
    async for _ in whole.exchange.probes():
        pass
