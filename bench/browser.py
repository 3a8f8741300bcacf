"""From the exchange's wire to the dashboard: a real Chromium, headless, on this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from statistics import quantiles
from typing import Any

from playwright.async_api import Error, Page, async_playwright

from bench import market
from bench.exchange import Load
from bench.figures import Figures, Inexact, Need, Plan
from bench.whole import Whole
from candlewick.config import Settings
from models.errors import CandlewickError

NAMES = ("chromium", "chromium-browser", "google-chrome")
TRADES_PER_S = 5_000
PRODUCT = "PROBE-USD"
WARM_UP_S = 30.0
LOOK_S, QUICK_S = 30.0, 5.0
SHOWN_WITHIN_S = 30.0
SEEN = Need("<", 15)
"""Milliseconds, p50."""
WIRE_TO_PAGE = f"wire to the page at {TRADES_PER_S:,} trades/s"
WIRE_TO_CHART = f"wire to the chart at {TRADES_PER_S:,} trades/s"
THROUGH = "trades meanwhile"

KEEP = """() => {
  window.kept = [];
  window.candlewick.onUpdate = (update) => window.kept.push(update);
}"""
TELL = (
    "() => window.kept.map(({ receivedAt, drawnAt, candle }) => [candle.last_trade_id, receivedAt, drawnAt])"
)
NOW = "() => performance.timeOrigin + performance.now()"


class NoBrowser(CandlewickError):
    """There is no Chromium on this machine."""

    def __str__(self) -> str:
        """Say what brings one."""
        return "no Chromium: `make browser` installs it, or CANDLEWICK_CHROMIUM names one"


def chromium() -> str | None:
    """Return the path of this machine's Chromium."""
    return os.environ.get("CANDLEWICK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


async def browser(plan: Plan, figures: Figures) -> None:
    """Look at the dashboard of a product whose trades are probes, while 5,000 trades a second come in."""
    path = chromium()
    if path is None:
        raise NoBrowser
    look_s = LOOK_S if plan.trades >= 1_000_000 else QUICK_S
    names = tuple(market.symbols(8, Settings().partitions))
    for run in range(plan.runs):
        plan.step(f"run {run + 1}", run / plan.runs)
        load = Load(names, TRADES_PER_S, PRODUCT)
        async with (
            Whole(plan.folder / str(run), load, rate_per_s=0) as whole,
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=path) as chrome,
        ):
            sent: dict[int, int] = {}
            watching = asyncio.create_task(_note(whole, sent))
            await asyncio.sleep(min(WARM_UP_S, look_s * 2))
            page = await chrome.new_page()
            try:
                await page.goto(f"http://127.0.0.1:{whole.worker.port}/#{PRODUCT}/1m")
                await _until_live(page)
                await page.evaluate(KEEP)
                folded, began = sum((await whole.folded()).values()), time.monotonic()
                await asyncio.sleep(look_s)
                rate = (sum((await whole.folded()).values()) - folded) / (time.monotonic() - began)
                ahead_ms = await _ahead_ms(page)
                told = await page.evaluate(TELL)
            except Error as error:
                raise Inexact(f"the page did not show the market: {error.message}") from None
            _add(figures, told, ahead_ms, sent, rate)
            whole.exchange.stop()
            await watching
            await whole.until_exact()


async def _until_live(page: Page) -> None:
    """Wait for the first update. Not by `wait_for_function`: the page's policy forbids what that does."""
    end = time.monotonic() + SHOWN_WITHIN_S
    while not await page.evaluate("() => Boolean(window.candlewick?.lastUpdate)"):
        if time.monotonic() > end:
            raise Inexact(f"the page told nothing within {SHOWN_WITHIN_S:.0f} s")
        await asyncio.sleep(0.1)


async def _note(whole: Whole, sent: dict[int, int]) -> None:
    async for probe in whole.exchange.probes():
        sent[probe.trade_id] = probe.sent_ns


async def _ahead_ms(page: Page) -> float:
    """Return how far the page's clock is ahead of `time.monotonic`, by the quickest of many questions."""
    found = []
    for _ in range(50):
        began = time.monotonic()
        shown_ms: float = await page.evaluate(NOW)
        ended = time.monotonic()
        found.append((ended - began, shown_ms - (began + ended) * 500))
    return min(found)[1]


def _add(figures: Figures, told: list[list[Any]], ahead_ms: float, sent: dict[int, int], rate: float) -> None:
    for name, place, how in (
        (WIRE_TO_PAGE, 1, "from the exchange's socket until the page has the trade's candle"),
        (WIRE_TO_CHART, 2, "until it is drawn, at the next of 60 frames a second"),
    ):
        ages = [
            each[place] - ahead_ms - sent[each[0]] / 1e6
            for each in told
            if each[0] in sent and each[place] is not None
        ]
        if len(ages) < 100:
            raise Inexact(f"{len(ages)} trades came to the page")
        cuts = quantiles(ages, n=100, method="inclusive")
        for part, cut in (("p50", cuts[49]), ("p99", cuts[98])):
            figures.add(
                f"{name}, {part}", "ms", cut, f"{how}; {len(ages):,} trades" if part == "p50" else "the same",
                SEEN if (place, part) == (1, "p50") else None,
            )  # fmt: skip
    figures.add(THROUGH, "trades/s", rate, "folded by the same worker")
