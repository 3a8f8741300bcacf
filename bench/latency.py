"""Latency of the whole way: from the exchange's wire to `/stats`, and to the topic `candles`.

Probes go among the trades of the others and share their partitions. A probe's age begins where the
exchange gives its frame to the socket, and ends where this process has read it again: as the last
trade of the minute's candle at `/stats`, or as the revision of a closed candle that a late trade
amends at once.
"""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

import msgspec
from aiokafka import AIOKafkaConsumer

from bench import market
from bench.exchange import Load
from bench.figures import Figures, Need, Plan
from bench.questions import Questions
from bench.whole import Whole
from bench.worker import TooSlow
from candlewick import topics
from candlewick.config import Settings

RATES = (500, 5_000, 20_000)
NEEDS = {(5_000, "p50"): Need("<", 8), (5_000, "p99"): Need("<", 25)}
"""Of `/stats`, in milliseconds."""
SYMBOLS = 8
PROBE = "PROBE-USD"
LATE = "LATE-USD"
WARM_UP_S = 60.0
"""Kafka is compiled meanwhile; within 30 s not always, and p99 shows what is left of it."""
LOOK_S = 60.0
QUICK_S = 10.0
POLL_S = 0.001
"""Between two questions, which is in the age: without a pause they were two fifths of the worker's work."""
POLL_SHARE = 0.02
"""Of a probe's age, if that is longer: a worker that is behind is not kept busy."""
SEEN_WITHIN_S = 60.0


class Ages(msgspec.Struct):
    """When each probe of a symbol was sent and seen: nanoseconds by trade id."""

    sent: dict[int, int] = {}
    seen: dict[int, int] = {}

    async def until_seen(self) -> None:
        """Wait until every probe that was sent has been seen."""
        end = time.monotonic() + SEEN_WITHIN_S
        while missing := self.sent.keys() - self.seen.keys():
            if time.monotonic() > end:
                raise TooSlow(f"{len(missing)} probes were not seen within {SEEN_WITHIN_S:.0f} s")
            await asyncio.sleep(0.1)

    def between(self, began_ns: int, ended_ns: int) -> list[float]:
        """Return the milliseconds that each probe took that was sent in between."""
        return [
            (self.seen[trade_id] - sent_ns) / 1e6
            for trade_id, sent_ns in self.sent.items()
            if began_ns <= sent_ns < ended_ns
        ]


async def latency(plan: Plan, figures: Figures) -> None:
    """Measure each rate, each run with a Kafka of its own."""
    look_s = LOOK_S if plan.trades >= 1_000_000 else QUICK_S
    steps = [(rate, run) for rate in RATES for run in range(plan.runs)]
    names = tuple(market.symbols(SYMBOLS, Settings().partitions))
    for done, (rate, run) in enumerate(steps):
        plan.step(f"{rate:,} trades/s, run {run + 1}", done / len(steps))
        load = Load(names, rate, PROBE, LATE)
        async with Whole(plan.folder / f"{rate}-{run}", load) as whole:
            await _look(whole, look_s, figures)


async def _look(whole: Whole, look_s: float, figures: Figures) -> None:
    probes, late = Ages(), Ages()
    candles = AIOKafkaConsumer(
        topics.CANDLES, bootstrap_servers=whole.broker.bootstrap, auto_offset_reset="earliest"
    )
    await candles.start()
    reading = asyncio.create_task(_read_candles(candles, late))
    watching = asyncio.create_task(_watch_stats(whole, probes, late))
    try:
        await asyncio.sleep(WARM_UP_S)
        began_ns, cpu_s, folded = time.monotonic_ns(), whole.cpu_s(), await whole.folded()
        await asyncio.sleep(look_s)
        seconds = (time.monotonic_ns() - began_ns) / 1e9
        cores = {name: (now - cpu_s[name]) / seconds for name, now in whole.cpu_s().items()}
        rate = (sum((await whole.folded()).values()) - sum(folded.values())) / seconds
        ended_ns = time.monotonic_ns()
        whole.exchange.stop()
        await watching
        await whole.until_exact()
        await late.until_seen()
    finally:
        reading.cancel()
        watching.cancel()
        await asyncio.gather(reading, watching, return_exceptions=True)
        await candles.stop()
    _add(
        figures, whole.load, rate, cores, probes.between(began_ns, ended_ns), late.between(began_ns, ended_ns)
    )


async def _watch_stats(whole: Whole, probes: Ages, late: Ages) -> None:
    """Ask for each probe from when it is on its way until `/stats` has it, again and again."""
    async with Questions(whole.worker.port) as questions:
        async for probe in whole.exchange.probes():
            if probe.symbol == LATE:
                late.sent[probe.trade_id] = probe.sent_ns
                continue
            probes.sent[probe.trade_id] = probe.sent_ns
            while await _last_trade_id(questions) < probe.trade_id:
                age_s = (time.monotonic_ns() - probe.sent_ns) / 1e9
                if age_s > SEEN_WITHIN_S:
                    raise TooSlow(f"a trade was not in /stats within {SEEN_WITHIN_S:.0f} s")
                await asyncio.sleep(max(POLL_S, POLL_SHARE * age_s))
            probes.seen[probe.trade_id] = time.monotonic_ns()


class _Candle(msgspec.Struct):
    last_trade_id: int


class _Answer(msgspec.Struct):
    candle: _Candle | None = None


async def _last_trade_id(questions: Questions) -> int:
    """Return the last trade of the probe's candle, 0 while there is none."""
    _, body = await questions.ask(f"/stats/1m/{PROBE}")
    answer = msgspec.json.decode(body, type=_Answer)
    return answer.candle.last_trade_id if answer.candle else 0


async def _read_candles(candles: AIOKafkaConsumer, late: Ages) -> None:
    """Note when each late trade's candle arrives, until cancelled."""
    key = f"{market.EXCHANGE}:{LATE}:1m:".encode()
    async for record in candles:
        if record.key.startswith(key):
            late.seen[msgspec.json.decode(record.value)["candle"]["last_trade_id"]] = time.monotonic_ns()


def _add(
    figures: Figures,
    load: Load,
    rate: float,
    cores: dict[str, float],
    probes: list[float],
    late: list[float],
) -> None:
    asked = f"{load.trades_per_s:,}/s"
    seen = {
        "/stats": (probes, "read as last_trade_id at /stats/1m, asked over and over"),
        "candles": (late, "a late trade, which amends a closed candle, read from the topic candles"),
    }
    for where, (ages, how) in seen.items():
        cuts = quantiles(ages, n=1000, method="inclusive")
        for name, cut in (("p50", cuts[499]), ("p99", cuts[989]), ("p99.9", cuts[998])):
            figures.add(
                f"wire to {where} at {asked}, {name}", "ms", cut,
                f"frame handed to the WebSocket to {how}; {len(ages):,} probes, "
                f"after {WARM_UP_S:.0f} s of the same load"
                if name == "p50" else "the same probes",
                NEEDS.get((load.trades_per_s, name)) if where == "/stats" else None,
            )  # fmt: skip
    figures.add(
        f"rate at {asked}", "trades/s", rate,
        f"folded, of {len(load.symbols)} symbols and the probes; more than fits is held back by the exchange",
    )  # fmt: skip
    for name, used in cores.items():
        figures.add(f"{name} at {asked}", "cores", used, "processor time over time")
