"""The web views under load: questions at a pace, and a thousand listeners, while trades come in."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator
from statistics import quantiles

from bench import asking, listening, market
from bench.apart import apart
from bench.exchange import Load, Probe
from bench.figures import Figures, Inexact, Need, Plan
from bench.whole import Whole
from candlewick.config import Settings
from models.trade import Trade
from models.window import BY_NAME

ASKED_PER_S = 1_000
TRADES_PER_S = 5_000
ROWS = 300
WARM_UP_S = 30.0
LOOK_S, QUICK_S = 20.0, 5.0
HISTORY_MINUTES = ROWS + 20
BETWEEN_US = 3_000_000
"""Event time between two trades of the history."""
ANSWERED = Need("<", 10)
"""Milliseconds, p99."""

PRODUCT = "PROBE-USD"
LISTENERS = 1_000
FEW = 100
"""Listeners beside a stalled one."""
QUIET_PER_S = 500
"""Trades of other products while many listen to one."""
HEARD = Need("<", 50)
UNMOVED = Need("<", 1.1)

STATS, CANDLES = "/stats", f"/v1/candles, {ROWS} rows"
WIRE_TO_ALL = f"{LISTENERS:,} listeners, wire to all"
FIRST_TO_LAST = f"{LISTENERS:,} listeners, first to last"
STALLED = f"wire to all of {FEW} listeners, p99, one of them stalled over none"


def asked(name: str, quantile: str) -> str:
    """Return the name of a figure of `web`."""
    return f"{name} at {ASKED_PER_S:,}/s, {quantile}"


def meanwhile(name: str) -> str:
    """Return the name of the figure that tells how many trades were folded while `asked` was measured."""
    return f"{name}, trades meanwhile"


async def web(plan: Plan, figures: Figures) -> None:
    """Ask `/stats` and `/v1/candles`, a thousand times a second each, while 5,000 trades a second come in."""
    look_s = _look_s(plan)
    names = tuple(market.symbols(8, Settings().partitions))
    for run in range(plan.runs):
        history = list(_history(names[0]))
        load = Load(names, TRADES_PER_S, before={names[0]: len(history)})
        paths = {
            STATS: f"/stats/1m/{names[0]}",
            CANDLES: f"/v1/candles/{names[0]}?limit={ROWS}",
        }
        plan.step(f"run {run + 1}", run / plan.runs)
        async with Whole(plan.folder / f"web-{run}", load, history, rate_per_s=0) as whole:
            watching = asyncio.create_task(_drain(whole))
            await asyncio.sleep(min(WARM_UP_S, look_s * 2))
            await _must_be_whole(whole, paths)
            for name, path in paths.items():
                cpu_s = whole.cpu_s()
                folded, began = sum((await whole.folded()).values()), time.monotonic()
                told = await apart(
                    "bench.asking", asking.Plan(whole.worker.port, path, ASKED_PER_S, look_s), asking.Told
                )
                seconds = time.monotonic() - began
                rate = (sum((await whole.folded()).values()) - folded) / seconds
                cores = (whole.cpu_s()["worker"] - cpu_s["worker"]) / seconds
                _add_asked(figures, name, told, rate, cores)
            whole.exchange.stop()
            await watching
            await whole.until_exact()


def _history(symbol: str) -> Iterator[Trade]:
    now_us = time.time_ns() // 1000
    start_us = BY_NAME["1m"].start_of(now_us) - HISTORY_MINUTES * BY_NAME["1m"].size_us
    return market.trades([symbol], (now_us - start_us) // BETWEEN_US, start_us, BETWEEN_US)


async def _must_be_whole(whole: Whole, paths: dict[str, str]) -> None:
    """Look at one answer of each: a small or an empty one would be fast."""
    for name, rows in ((STATS, 1), (CANDLES, ROWS)):
        status, body = await whole.worker.get(paths[name])
        found = body.get("candles", [body.get("candle")]) if status == 200 else []
        if len(found) != rows or None in found:
            raise Inexact(f"{paths[name]} answered {status} with {len(found)} candles")


def _add_asked(figures: Figures, name: str, told: asking.Told, rate: float, cores: float) -> None:
    cuts = quantiles(told.late_ms, n=1000, method="inclusive")
    for part, cut in (("p50", cuts[499]), ("p99", cuts[989]), ("p99.9", cuts[998])):
        figures.add(
            asked(name, part), "ms", cut,
            f"from when a question was due to its last byte; {len(told.late_ms):,} questions, "
            f"{told.size:,} bytes each, among {TRADES_PER_S:,} trades/s"
            if part == "p50" else "the same questions",
            ANSWERED if part == "p99" else None,
        )  # fmt: skip
    figures.add(meanwhile(name), "trades/s", rate, "folded by the same worker")
    figures.add(f"{name}, worker", "cores", cores, "processor time over time")


async def push(plan: Plan, figures: Figures) -> None:
    """Let many listen to one product; then few, with and without one that never reads."""
    look_s = _look_s(plan)
    names = tuple(market.symbols(8, Settings().partitions))
    for run in range(plan.runs):
        plan.step(f"run {run + 1}", run / plan.runs)
        async with Whole(
            plan.folder / f"push-{run}", Load(names, QUIET_PER_S, PRODUCT), rate_per_s=0
        ) as whole:
            sent: dict[int, int] = {}
            watching = asyncio.create_task(_drain(whole, sent))
            await asyncio.sleep(min(WARM_UP_S, look_s * 2))
            cpu_s, began = whole.cpu_s()["worker"], time.monotonic()
            many = await _listen(whole, LISTENERS, look_s)
            cores = (whole.cpu_s()["worker"] - cpu_s) / (time.monotonic() - began)
            _add_heard(figures, many, sent, cores)
            alone, beside = [], []
            for _ in range(2):
                alone += _ages(await _listen(whole, FEW, look_s / 2), sent)
                beside += _ages(await _listen(whole, FEW, look_s / 2, stalled=1), sent)
            p99s = [quantiles(ages, n=100, method="inclusive")[98] for ages in (alone, beside)]
            figures.add(
                STALLED, "times", p99s[1] / p99s[0],
                f"{p99s[0]:.1f} ms without, in turns on the same worker", UNMOVED,
            )  # fmt: skip
            whole.exchange.stop()
            await watching
            await whole.until_exact()


async def _listen(whole: Whole, clients: int, seconds: float, stalled: int = 0) -> list[listening.Heard]:
    path = f"/v1/stream?product_id={PRODUCT}&channels=candles&window=1m"
    plan = listening.Plan(whole.worker.port, path, clients, seconds, stalled)
    heard: list[listening.Heard] = await apart("bench.listening", plan, list[listening.Heard])
    if not heard:
        raise Inexact(f"{clients} listeners heard nothing in {seconds:.0f} s")
    if short := [update for update in heard if update.listeners < clients]:
        raise Inexact(f"{len(short)} of {len(heard)} updates did not come to all of {clients} listeners")
    return heard


def _add_heard(figures: Figures, heard: list[listening.Heard], sent: dict[int, int], cores: float) -> None:
    spread = [(update.last_ns - update.first_ns) / 1e6 for update in heard]
    for what, ages, how, counted in (
        (FIRST_TO_LAST, spread, "from the first listener that has an update to the last", "updates"),
        (WIRE_TO_ALL, _ages(heard, sent), "from the exchange's socket to the last listener", "trades"),
    ):
        cuts = quantiles(ages, n=100, method="inclusive")
        for part, cut in (("p50", cuts[49]), ("p99", cuts[98])):
            figures.add(
                f"{what}, {part}", "ms", cut,
                f"{how}; {len(ages):,} {counted}" if part == "p50" else f"the same {counted}",
                HEARD if part == "p99" else None,
            )  # fmt: skip
    figures.add(f"{LISTENERS:,} listeners, worker", "cores", cores, "processor time over time")


def _ages(heard: list[listening.Heard], sent: dict[int, int]) -> list[float]:
    """Return the milliseconds from the wire until all listeners had each trade.

    Of trades that were told together only the last is named; the others have waited longer.
    """
    named = [update.trade_id for update in heard]
    return [
        (heard[bisect_left(named, trade_id)].last_ns - sent_ns) / 1e6
        for trade_id, sent_ns in sent.items()
        if named[0] <= trade_id <= named[-1]
    ]


async def _drain(whole: Whole, sent: dict[int, int] | None = None) -> None:
    """Read what the exchange tells, so that it never waits; note when each probe was sent."""
    probe: Probe
    async for probe in whole.exchange.probes():
        if sent is not None:
            sent[probe.trade_id] = probe.sent_ns


def _look_s(plan: Plan) -> float:
    return LOOK_S if plan.trades >= 1_000_000 else QUICK_S
