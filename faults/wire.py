"""The wire to the exchange: cut, silent, and with frames twice or in another order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

from candlewick.mock import Faults
from faults.flow import Flow
from faults.ledger import now_us
from faults.process import Failed
from faults.scenario import Outcome, Plan, scenario

LIVE_S = 5.0
"""From the feed's return until trades are in Kafka again."""
NOTICED_S = 30.0


@scenario(
    "F1", "the feed is cut by RST, again and again", "live <= 5 s after each cut; Z after repair", quick=True
)
async def cut(plan: Plan) -> Outcome:
    """Cut the exchange's connection at random moments."""
    cuts = 5 if plan.quick else 100
    chance = plan.rng("F1")
    async with Flow(plan, lasts_s=cuts * 5.0) as flow:
        away = []
        for number in range(cuts):
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            flow.must_trade()
            plan.say(f"cut {number + 1} of {cuts}")
            before, since_us = flow.connections, now_us()
            flow.wire.cut()
            if await flow.connected(before) is None:
                raise Failed("no new connection after a cut")
            await flow.heard(now_us())
            away.append((now_us() - since_us) / 1e6)
        verdict = await flow.verdict()
    slow = sum(seconds > LIVE_S for seconds in away)
    return Outcome(
        not slow and verdict.zero,
        f"{cuts} cuts: live again after {max(away):.1f} s at most, {slow} over {LIVE_S:.0f} s; {verdict}",
    )


@scenario("F7b", "20 % of the trades change places on the socket", "Z")
async def reorder(plan: Plan) -> Outcome:
    """Let trades of a product overtake one another."""
    return await _exact(plan, Faults(reorder=0.2, seed=plan.seed), "reorder")


@scenario("F8b", "30 % of the frames come twice", "Z")
async def duplicate(plan: Plan) -> Outcome:
    """Send frames twice."""
    return await _exact(plan, Faults(duplicate=0.3, seed=plan.seed), "duplicate")


async def _exact(plan: Plan, faults: Faults, name: str) -> Outcome:
    async with Flow(plan, lasts_s=plan.trades / 1_500, faults=faults) as flow:
        verdict = await flow.verdict()
        done = flow.faults_done(name)
    return Outcome(
        verdict.zero and done > getattr(faults, name) / 2 * plan.trades, f"{done:,} times; {verdict}"
    )


@scenario(
    "F2a",
    "the connection is half open: no byte and no FIN any more",
    "noticed <= 30 s; Z after repair",
)
async def half_open(plan: Plan) -> Outcome:
    """Let the wire swallow everything that the present connection carries."""

    async def stall(flow: Flow) -> None:
        flow.wire.stall()

    async def heal(flow: Flow) -> None:
        flow.wire.resume()

    return await _silence(plan, stall, heal)


@scenario("F2b", "the exchange answers pings, and sends nothing", "noticed <= 30 s; Z after repair")
async def mute(plan: Plan) -> Outcome:
    """Let the exchange fall silent on every connection that it has."""

    async def stall(flow: Flow) -> None:
        await flow.set_faults(stall=1.0, stall_s=120.0)
        await asyncio.sleep(1.0)
        await flow.set_faults(stall=0.0)

    async def heal(flow: Flow) -> None:
        pass

    return await _silence(plan, stall, heal)


async def _silence(
    plan: Plan, stall: Callable[[Flow], Awaitable[None]], heal: Callable[[Flow], Awaitable[None]]
) -> Outcome:
    times = 1 if plan.quick else 5
    chance = plan.rng("F2")
    async with Flow(plan, lasts_s=30.0 * times) as flow:
        noticed, away = [], []
        for number in range(times):
            await asyncio.sleep(chance.uniform(1.0, 4.0))
            plan.say(f"silence {number + 1} of {times}")
            before, since_us = flow.connections, now_us()
            await stall(flow)
            seconds = await flow.connected(before)
            noticed.append(inf if seconds is None else (now_us() - since_us) / 1e6)
            await flow.heard(now_us())
            away.append((now_us() - since_us) / 1e6)
            await heal(flow)
        verdict = await flow.verdict()
    return Outcome(
        max(noticed) <= NOTICED_S and verdict.zero,
        f"{times} silences: noticed after {max(noticed):.1f} s at most, live after {max(away):.1f} s; "
        f"{verdict}",
    )
