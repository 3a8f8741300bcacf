"""The broker: stopped and started, and killed, while the log is written and folded."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

from faults.process import Failed
from faults.rig import Rig, Z, within
from faults.scenario import Outcome, Plan, scenario
from faults.trades import made_up

BURST_S = 3.0


async def _outages(plan: Plan, name: str, kill: bool, limit_s: float) -> Outcome:
    times = 1 if plan.quick else 5
    rng = plan.rng(name)
    lines = made_up(rng, plan.trades)
    flowing_s: list[float] = []
    async with Rig(plan, lines, breaks_the_broker=True) as rig:
        worker = await rig.worker()
        await worker.ready()
        for number in range(1, times + 1):
            plan.say(f"outage {number} of {times}")
            burst = rig.begin(len(lines) // (times + 1), BURST_S)
            await asyncio.sleep(rng.uniform(0.2, BURST_S * 0.8))
            if burst.done():
                raise Failed("the log was written before the outage")
            await _outage(rig, kill, rng)
            back = time.monotonic()
            await burst
            await rig.settled()
            flowing_s.append(time.monotonic() - back)
        await rig.rest(BURST_S)
        verdict = await rig.verdict(worker)
    return Outcome(
        verdict.exact and max(flowing_s) <= within(plan, limit_s),
        f"{times} outages; all folded {max(flowing_s):.1f} s at most after it was back; {verdict}",
    )


async def _outage(rig: Rig, kill: bool, rng: random.Random) -> None:
    """End the broker, and start it again on the same port and folder after some seconds."""
    if kill:
        pid = rig.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await rig.broker.wait()
    await rig.broker.stop()
    address = rig.bootstrap
    await asyncio.sleep(rng.uniform(0, 3))
    await rig.broker.start()
    assert rig.bootstrap == address


@scenario("F11", "broker stopped and started again", f"{Z}; flowing <= 30 s after; the worker stays")
async def broker_restarts(plan: Plan) -> Outcome:
    """Stop it in order."""
    return await _outages(plan, "F11", kill=False, limit_s=30)


@scenario(
    "F12",
    "broker kill -9 while the log is written",
    f"{Z}; flowing <= 60 s after; the worker stays",
    quick=True,
)
async def broker_killed(plan: Plan) -> Outcome:
    """Kill it in the middle of its work."""
    return await _outages(plan, "F12", kill=True, limit_s=60)
