"""Failures between the producer and Kafka, and of the producer itself.

Kafka is taken away from the producer alone, by the proxy before it: so the ledger and the worker see
what arrives, when it arrives. A broker that is killed is another module's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from math import inf

import psutil

from faults.flow import Flow
from faults.ledger import PRODUCTS, now_us
from faults.process import Process, metered
from faults.rig import spread
from faults.scenario import Outcome, Plan, scenario

GROWTH_MIB = 64
DRAIN_S = 120.0
STOP_S = 10.0
STOP_ALONE_S = 15.0
"""With Kafka away."""


@scenario(
    "F3",
    "Kafka takes a tenth of what comes",
    f"RSS <= +{GROWTH_MIB} MiB; books in step at the end; Z after repair",
)
async def slow(plan: Plan) -> Outcome:
    """Throttle the wire to Kafka.

    Whether the wire was too narrow shows in how far Kafka is behind at the end: by nine tenths of the
    time if it takes a tenth of what comes; half is asked for.
    """
    slow_s = 45.0 if plan.quick else 300.0
    async with Flow(plan, lasts_s=slow_s + 20.0) as flow:
        await asyncio.sleep(2.0)
        before, began = flow.kafka_wire.up_bytes, time.monotonic()
        await asyncio.sleep(4.0)
        usual = (flow.kafka_wire.up_bytes - before) / (time.monotonic() - began)
        async with metered(flow.producer) as meter:
            flow.kafka_wire.bytes_per_s = usual / 10
            plan.say(f"{usual / 10_000:.0f} kB/s instead of {usual / 1000:.0f} for {slow_s:.0f} s")
            before = flow.kafka_wire.up_bytes
            await asyncio.sleep(slow_s)
            share = (flow.kafka_wire.up_bytes - before) / slow_s / usual
            behind_s = (now_us() - min(flow.ledger.heard_us.values())) / 1e6
            flow.kafka_wire.bytes_per_s = None
            drain_s = await flow.heard(now_us(), DRAIN_S)
        verdict = await flow.verdict()
        in_step_s = await flow.until(flow.books_are_in_step, 30.0)
    return Outcome(
        share <= 0.15
        and behind_s >= slow_s / 2
        and meter.growth <= GROWTH_MIB
        and in_step_s is not None
        and verdict.zero,
        f"{share:.0%} of the bytes for {slow_s:.0f} s, {behind_s:.0f} s behind at their end; "
        f"RSS +{meter.growth:.0f} MiB, caught up after {drain_s:.0f} s, "
        f"books in step: {in_step_s is not None}; {verdict}",
    )


# F13: Kafka away.


async def _stall(flow: Flow) -> Callable[[], Awaitable[None]]:
    flow.kafka_wire.stall(new=True)

    async def back() -> None:
        flow.kafka_wire.resume()

    return back


async def _refuse(flow: Flow) -> Callable[[], Awaitable[None]]:
    flow.kafka_wire.refuse()
    return flow.kafka_wire.start


@scenario(
    "F13",
    "Kafka does not answer, then refuses every connection",
    f"RSS <= +{GROWTH_MIB} MiB; drained <= {DRAIN_S:.0f} s; Z after repair",
)
async def away(plan: Plan) -> Outcome:
    """Take Kafka away from the producer, twice."""
    away_s = 12.0 if plan.quick else 300.0
    told, met = [], True
    async with Flow(plan, lasts_s=2 * away_s + 40.0) as flow:
        for name, take_away in (("silent", _stall), ("refusing", _refuse)):
            await asyncio.sleep(3.0)
            plan.say(f"Kafka {name} for {away_s:.0f} s")
            async with metered(flow.producer) as meter:
                back = await take_away(flow)
                await asyncio.sleep(away_s)
                spilled = spilled_bytes(flow)
                await back()
                drain_s = await flow.heard(now_us(), 2 * DRAIN_S)
            met &= meter.growth <= GROWTH_MIB and drain_s <= DRAIN_S and spilled > 0
            told.append(
                f"{name} {away_s:.0f} s: RSS +{meter.growth:.0f} MiB, {spilled / 2**20:.1f} MiB on disk, "
                f"drained after {drain_s:.1f} s"
            )
        verdict = await flow.verdict()
        repaired = len(flow.ledger.repaired_us)
    return Outcome(
        met and verdict.zero and not repaired,
        f"{'; '.join(told)}; {repaired} trades came by repair instead; {verdict}",
    )


@scenario("F13c", "the producer is killed (-9) while its records are on disk", "Z after repair")
async def killed_while_spilled(plan: Plan) -> Outcome:
    """Kill the producer while Kafka is away, and start it when Kafka is back."""
    times, away_s = (1, 12.0) if plan.quick else (5, 30.0)
    spilled: list[int] = []
    left: list[int] = []
    kills_us: list[int] = []
    async with Flow(plan, lasts_s=times * (away_s + 8.0)) as flow:
        for number in range(times):
            await asyncio.sleep(2.0)
            plan.say(f"outage and kill {number + 1} of {times}")
            flow.kafka_wire.refuse()
            await asyncio.sleep(away_s)
            spilled.append(spilled_bytes(flow))
            await flow.producer.end(signal.SIGKILL)
            kills_us.append(now_us())
            await flow.kafka_wire.start()
            await flow.producer.start()
            await flow.heard(now_us())
        verdict = await flow.verdict()
        # What came while Kafka was away must be on disk; of the last second, some may not be.
        unkept = sum(
            0 < (killed_us - time_us) / 1e6 - 1.0 < away_s - 1.0
            for time_us in flow.ledger.repaired_us
            for killed_us in kills_us
        )
        left.append(spilled_bytes(flow))
    return Outcome(
        verdict.zero and min(spilled) > 0 and not unkept,
        f"{times} kills with {min(spilled) / 2**20:.1f} to {max(spilled) / 2**20:.1f} MiB on disk, "
        f"{left[-1] / 2**20:.1f} at the end; {unkept} of those trades came by repair instead; {verdict}",
    )


@scenario(
    "F13d",
    "Kafka is away until the disk may hold no more",
    "what was dropped is counted exactly; Z after repair",
)
async def spill_full(plan: Plan) -> Outcome:
    """Let 1 MiB be all that may be spilled."""
    away_s = 40.0 if plan.quick else 120.0
    async with Flow(plan, lasts_s=away_s + 30.0, env={"CANDLEWICK_SPILL_MB": "1"}) as flow:
        await asyncio.sleep(2.0)
        plan.say(f"Kafka refuses for {away_s:.0f} s")
        flow.kafka_wire.refuse()
        await asyncio.sleep(away_s)
        await flow.kafka_wire.start()
        await flow.heard(now_us(), DRAIN_S)
        verdict = await flow.verdict()
        # Told every 10 s, and at once when it changes.
        await flow.until(lambda: _dropped(flow) > 0, 12.0)
        dropped = _dropped(flow)
        missing = sum(gap["missing_trades"] for gap in flow.ledger.opened.values())
    # A heartbeat may have been among them: one a minute of a product that is quiet.
    heartbeats = len(PRODUCTS) * (1 + int(away_s / 60))
    exact = 0 <= dropped - max(missing, verdict.lost) <= heartbeats
    return Outcome(
        verdict.zero and dropped > 0 and exact,
        f"{dropped:,} records dropped by the producer's own count, {max(missing, verdict.lost):,} trades "
        f"missing in the log before repair; {verdict}",
    )


def spilled_bytes(flow: Flow) -> int:
    """Return what the producer keeps on disk for Kafka."""
    folder = flow.folder / "producer" / "spill"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _dropped(flow: Flow) -> int:
    return max((int(feed.get("dropped", 0)) for feed in flow.ledger.feeds.values()), default=0)


# F20: the end.


@scenario(
    "F20b",
    "the producer is asked to end (SIGTERM) at random moments, some with Kafka away, some twice",
    f"exit 0 <= {STOP_S:.0f} s, {STOP_ALONE_S:.0f} s with Kafka away; Z after restart and repair",
)
async def terminated(plan: Plan) -> Outcome:
    """End the producer under load, and start it again."""
    times = 3 if plan.quick else 50
    chance = plan.rng("F20b")
    took: dict[str, list[float]] = {"plain": [], "twice": [], "away": []}
    codes: list[int | None] = []
    hit_twice = 0
    async with Flow(plan, lasts_s=times * 9.0) as flow:
        for number in range(times):
            kind = tuple(took)[number % 3]
            await asyncio.sleep(chance.uniform(0.1, 3.0))
            flow.must_trade()
            plan.say(f"SIGTERM {number + 1} of {times}, {kind}")
            if kind == "away":
                flow.kafka_wire.refuse()
                await asyncio.sleep(chance.uniform(0.0, 3.0))
            began = time.monotonic()
            flow.producer.must_run()
            flow.producer.send(signal.SIGTERM)
            if kind == "twice":
                await asyncio.sleep(chance.uniform(0.0, 0.1))
                hit_twice += flow.producer.runs
                flow.producer.send(signal.SIGTERM)
            code = await flow.producer.wait(30.0)
            codes.append(code)
            took[kind].append(inf if code is None else time.monotonic() - began)
            if code is None:
                await flow.producer.end(signal.SIGKILL)
            if kind == "away":
                await flow.kafka_wire.start()
            await flow.producer.start()
            await flow.heard(now_us())
        verdict = await flow.verdict()
    bars = {"plain": STOP_S, "twice": STOP_S, "away": STOP_ALONE_S}
    in_time = all(seconds <= bars[kind] for kind, all_s in took.items() for seconds in all_s)
    failed = sum(code != 0 for code in codes)
    slowest = ", ".join(f"{kind} {max(all_s):.1f} s" for kind, all_s in took.items() if all_s)
    return Outcome(
        in_time and not failed and hit_twice > 0 and verdict.zero,
        f"{times} times, {hit_twice} hit twice: at most {slowest}; "
        f"{failed} exits other than 0 ({set(codes)}); {verdict}",
    )


# F26: soak.

SOAK_S = float(os.environ.get("FAULTS_SOAK_S", "1800"))
"""Seconds; the first third is warm-up."""
SLOPE_MIB = 1.0
SLOPE_FDS = 0.1
"""A minute; one descriptor for each fault of one kind would be about 0.4."""


class Samples:
    """What a process uses, over time."""

    def __init__(self, process: Process) -> None:
        self._usage = process.usage
        self.rows: list[tuple[float, float, int, int]] = []
        """Minutes since the start, MiB, descriptors, threads."""

    def take(self, minutes: float) -> None:
        """Look once."""
        usage = self._usage
        with usage.oneshot():
            memory = usage.memory_info().rss / 2**20
            self.rows.append((minutes, memory, usage.num_fds(), usage.num_threads()))

    def slope(self, column: int) -> float:
        """Return the least-squares slope after the warm-up, per minute."""
        rows = [row for row in self.rows if row[0] * 60 >= SOAK_S / 3]
        if len(rows) < 3:
            return inf  # nobody knows
        mean_x = sum(row[0] for row in rows) / len(rows)
        mean_y = sum(row[column] for row in rows) / len(rows)
        spread = sum((row[0] - mean_x) ** 2 for row in rows)
        return sum((row[0] - mean_x) * (row[column] - mean_y) for row in rows) / spread

    def __str__(self) -> str:
        last = self.rows[-1]
        return (
            f"RSS {last[1]:.0f} MiB {self.slope(1):+.2f}/min, {last[2]} fds {self.slope(2):+.2f}/min, "
            f"{last[3]} threads"
        )


@scenario(
    "F26",
    f"{SOAK_S / 60:.0f} min of mixed faults",
    f"RSS < +{SLOPE_MIB:.0f} MiB/min after warm-up, < {SLOPE_FDS} descriptors; Z after repair",
)
async def soak(plan: Plan) -> Outcome:
    """Do a bit of everything, in random order, and watch what the processes use."""
    chance = plan.rng("F26")
    done: Counter[str] = Counter()
    async with Flow(plan, lasts_s=SOAK_S, trades=int(SOAK_S * 200)) as flow:
        samples = [Samples(flow.producer), Samples(flow.worker)]

        async def sample() -> None:
            began = time.monotonic()
            while True:
                for each in samples:
                    each.take((time.monotonic() - began) / 60)
                await asyncio.sleep(5.0)

        sampling = asyncio.create_task(sample())
        end = time.monotonic() + SOAK_S
        try:
            while time.monotonic() < end:
                await asyncio.sleep(chance.uniform(5.0, 20.0))
                fault = chance.choice(_MIXED)
                name = fault.__name__.strip("_").replace("_", " ")
                plan.say(f"{name}, {(end - time.monotonic()) / 60:.0f} min left")
                await fault(flow)
                done[name] += 1
                if sampling.done():
                    sampling.result()
            verdict = await flow.verdict()
        except psutil.NoSuchProcess:
            return Outcome(False, f"a process ended by itself after {done.total()} faults; {flow.folder}")
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
    steady = all(each.slope(1) < SLOPE_MIB and each.slope(2) < SLOPE_FDS for each in samples)
    return Outcome(
        steady and len(done) == len(_MIXED) and verdict.zero,
        f"{done.total()} faults ({spread(done)}); producer {samples[0]}; worker {samples[1]}; {verdict}",
    )


async def _feed_cut(flow: Flow) -> None:
    flow.wire.cut()


async def _feed_half_open(flow: Flow) -> None:
    flow.wire.stall()
    await asyncio.sleep(20.0)
    flow.wire.resume()


async def _feed_slow(flow: Flow) -> None:
    flow.wire.delay_s = 0.2
    await asyncio.sleep(5.0)
    flow.wire.delay_s = 0.0


async def _frames_wrong(flow: Flow) -> None:
    wrong = {"duplicate": 0.1, "reorder": 0.1, "malformed": 0.05, "drop_trades": 0.05, "drop_updates": 0.05}
    await flow.set_faults(**wrong)
    await asyncio.sleep(5.0)
    await flow.set_faults(**dict.fromkeys(wrong, 0.0))


async def _kafka_cut(flow: Flow) -> None:
    flow.kafka_wire.cut()


async def _kafka_silent(flow: Flow) -> None:
    flow.kafka_wire.stall(new=True)
    await asyncio.sleep(10.0)
    flow.kafka_wire.resume()


async def _kafka_refuses(flow: Flow) -> None:
    flow.kafka_wire.refuse()
    await asyncio.sleep(10.0)
    await flow.kafka_wire.start()


_MIXED = (
    _feed_cut, _feed_half_open, _feed_slow, _frames_wrong, _kafka_cut, _kafka_silent, _kafka_refuses
)  # fmt: skip
