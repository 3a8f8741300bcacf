"""Workers killed, doubled and frozen while the log grows, with their tables kept, deleted or broken."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from statistics import median

from faults import naive, truth
from faults.process import Failed
from faults.rig import PARTITIONS, PATIENCE_S, SESSION_S, Rig, Worker, Z, spread, until, within
from faults.scenario import Outcome, Plan, scenario
from faults.trades import made_up
from producers.topic import TopicSpec, ensure_topics

BURST_S = 0.8
"""Seconds that the burst of a kill takes: at 200,000 trades and 20 kills, 12,000 a second."""


@scenario("F0", "a naive worker, killed: does the rig see it?", "must be wrong")
async def naive_worker(plan: Plan) -> Outcome:
    """Kill a worker that adds up without offsets and ids, as F14 does."""
    kills = 1 if plan.quick else 5
    rng = plan.rng("F0")
    lines = made_up(rng, 5_000 if plan.quick else 20_000, duplicates=0, late=0)
    async with Rig(plan, lines, app_id=naive.APP_ID) as rig:
        await ensure_topics(rig.bootstrap, [TopicSpec(naive.CHANGELOG, 4)], replication=1)
        worker = await rig.program(
            "naive", "-m", "faults.naive", "worker", "--without-web",
            NAIVE_BROKER=rig.bootstrap, NAIVE_DATA_DIR=str(plan.folder / "naive"),
        )  # fmt: skip

        async def counts() -> int:
            return sum((await rig.ends(naive.CHANGELOG)).values())

        for number in range(1, kills + 1):
            plan.say(f"kill {number} of {kills}")
            before = await counts()
            burst = rig.begin(len(lines) // (kills + 1), BURST_S)
            await _above(before, counts, "naive counted nothing")
            await asyncio.sleep(rng.uniform(0.1, BURST_S))
            await worker.kill()
            await burst
            await worker.start()
        await rig.rest(BURST_S)
        await rig.settled()
        await worker.end()
        expected = {
            key: {"trade_count": figures["trade_count"]}
            for key, figures in truth.candles(rig.sent).items()
            if key[1] == "1m"
        }
        found = {}
        for key, value in await rig.read(naive.CHANGELOG):
            assert key is not None
            assert value is not None
            symbol, window, start = json.loads(key).split(":")
            found[symbol, window, int(start)] = {"trade_count": json.loads(value)}
        difference = truth.compare(expected, found)
        wrong = difference.lost + difference.double
        return Outcome(wrong > 0, f"{kills} kills, {len(lines):,} records: {difference}")


async def _above(least: int, count: Callable[[], Awaitable[int]], otherwise: str) -> None:
    """Wait until a count is above ``least``."""

    async def holds() -> bool:
        return await count() > least

    await until(holds, PATIENCE_S, otherwise)


NOTHING = "nothing there"
Spoil = Callable[[Worker, random.Random], str]
"""Does something to the tables of a worker that was killed; returns what."""


def _keep(worker: Worker, rng: random.Random) -> str:
    return "kept"


def _wipe(worker: Worker, rng: random.Random) -> str:
    if not any(worker.tables.rglob("CURRENT")):
        return NOTHING
    worker.wipe()
    return "deleted"


def _corrupt(worker: Worker, rng: random.Random) -> str:
    """Break one file of one database, as a failing disk, a full one or a hand would."""
    table = rng.choice(("candles", "candles", "candles", "book-stats"))
    stores = sorted(path.parent for path in worker.tables.rglob(f"{table}-*/CURRENT"))
    kinds = {"CURRENT": "CURRENT", "MANIFEST": "MANIFEST-*", "SST": "*.sst", "WAL": "*.log"}
    targets = [
        (name, path)
        for name, pattern in kinds.items()
        for store in stores
        for path in sorted(store.glob(pattern))
        if path.stat().st_size
    ]
    if not targets:
        return NOTHING
    name = rng.choice(sorted({name for name, _ in targets}))
    path = rng.choice([path for kind, path in targets if kind == name])
    how = rng.choice(("flipped", "truncated", "deleted", "zeroed"))
    size = path.stat().st_size
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, rng.randrange(size))
    else:
        content = bytearray(path.read_bytes())
        for _ in range(1 + size // 1000):
            place = rng.randrange(size)
            content[place] = 0 if how == "zeroed" else content[place] ^ (1 << rng.randrange(8))
        path.write_bytes(content)
    return f"{name} {how}"


async def _killed(plan: Plan, name: str, kills: int, spoil: Spoil, limit_s: float) -> Outcome:
    """Kill a worker again and again while the log is written, and do something to its tables."""
    rng = plan.rng(name)
    lines = made_up(rng, plan.trades)
    ready_s: list[float] = []
    in_work = 0
    too_late: list[str] = []
    done: Counter[str] = Counter()
    loops: list[str] = []
    async with Rig(plan, lines) as rig:
        worker = await rig.worker()
        await worker.ready()
        starting = False
        for number in range(1, kills + 1):
            plan.say(f"kill {number} of {kills}")
            burst = rig.begin(len(lines) // (kills + 1), BURST_S)
            await asyncio.sleep(rng.uniform(0, 3) if starting else rng.uniform(0.05, BURST_S))
            await worker.kill()
            in_work += await rig.unfinished() > 0
            what = spoil(worker, rng)
            done[what] += 1
            # It may end when it finds its tables broken; the next start must do.
            worker.may_end = int(spoil is _corrupt)
            await worker.start()
            starting = number < kills and rng.random() < 0.25
            if starting:
                await burst
                continue  # the next kill comes while it starts
            limit = within(plan, limit_s) + 60 * await rig.changelog_rows() / 1_000_000
            try:
                took = await worker.ready()
            except Failed as error:
                if spoil is not _corrupt:
                    raise
                loops.append(f"{what}: {error}")
                worker.wipe()
                await worker.restart()
                took = await worker.ready()
            ready_s.append(took)
            if took > limit:
                too_late.append(f"{took:.1f} s")
            await burst
        plan.say("counting")
        await rig.rest(BURST_S)
        verdict = await rig.verdict(worker)
    figures = (
        f"{kills} kills, {in_work} with work undone; {verdict}; "
        f"ready after {median(ready_s):.1f} s (median), {max(ready_s):.1f} s (longest)"
    )
    if spoil is not _keep:
        figures += f"; {spread(done)}"
    if too_late:
        figures += f"; too late: {', '.join(too_late)}"
    if worker.ended:
        figures += f"; ended {worker.ended} times at a broken table, such as: {worker.reason}"
    if loops:
        figures += f"; CRASH LOOP {len(loops)} times, such as {loops[0]}"
    often = 2 * in_work >= kills >= 2 * done[NOTHING]
    return Outcome(verdict.exact and not too_late and not loops and often, figures)


@scenario("F14", "worker SIGKILL in mid-work, RocksDB kept", f"{Z}; ready <= 15 s", quick=True)
async def killed(plan: Plan) -> Outcome:
    """Kill it, start it again on what it left."""
    return await _killed(plan, "F14", 2 if plan.quick else 25, _keep, 15)


@scenario("F15", "worker SIGKILL, its tables deleted", f"{Z}; ready <= 15 s + 60 s per 10⁶ rows", quick=True)
async def killed_and_wiped(plan: Plan) -> Outcome:
    """Kill it, and let it read its rows back from the changelog."""
    return await _killed(plan, "F15", 1 if plan.quick else 20, _wipe, 15)


@scenario(
    "F17", "worker SIGKILL, a file of RocksDB broken",
    f"{Z}; no crash loop; ready <= 15 s + 60 s per 10⁶ rows",
    quick=True,
)  # fmt: skip
async def killed_and_corrupted(plan: Plan) -> Outcome:
    """Kill it, and break a file of its tables."""
    return await _killed(plan, "F17", 2 if plan.quick else 20, _corrupt, 15)


@scenario("F16", "a second worker joins; one of two leaves or dies", f"{Z}; shared <= 30 s", quick=True)
async def two_workers(plan: Plan) -> Outcome:
    """Add a second worker and take one of the two away, by SIGTERM or SIGKILL, in turn."""
    rounds = 2 if plan.quick else 10
    rng = plan.rng("F16")
    lines = made_up(rng, plan.trades)
    shared_s: list[float] = []
    moved_s: list[float] = []
    done: Counter[str] = Counter()
    async with Rig(plan, lines) as rig:
        stays, comes = await rig.worker("left"), await rig.worker("right")
        await stays.ready()
        part = len(lines) // (2 * rounds + 1)
        for number in range(1, rounds + 1):
            plan.say(f"round {number} of {rounds}")
            burst = rig.begin(part, BURST_S)
            if comes.pid is None:
                await comes.start()
            shared_s.append(await _shared(stays, comes))
            await burst
            burst = rig.begin(part, BURST_S)
            await asyncio.sleep(rng.uniform(0, BURST_S))
            goes = comes if rng.random() < 0.5 else stays
            how = (signal.SIGTERM, signal.SIGKILL)[number % 2]
            done[how.name] += 1
            code = await goes.end(how)
            if how == signal.SIGTERM and code:
                raise Failed(f"SIGTERM: exit code {code}")
            stays, comes = (stays, comes) if goes is comes else (comes, stays)
            await burst
            moved_s.append(await rig.settled())
        await rig.rest(BURST_S)
        verdict = await rig.verdict(stays)
    slow = max(shared_s + moved_s)
    return Outcome(
        verdict.exact and slow <= within(plan, 30),
        f"{rounds} joins, {spread(done)}; {verdict}; shared after {max(shared_s):.1f} s at most, "
        f"taken over after {max(moved_s):.1f} s at most",
    )


async def _shared(one: Worker, other: Worker) -> float:
    """Wait until every partition with products has one owner, and each worker some; return the seconds.

    Counted from the last start.
    """

    async def holds() -> bool:
        for worker in (one, other):
            await worker.check()
        mine, theirs = await one.partitions(), await other.partitions()
        return bool(mine and theirs and not mine & theirs and len(mine | theirs) == PARTITIONS)

    await until(holds, PATIENCE_S, "the partitions are not shared")
    return time.monotonic() - max(one.began, other.began)


@scenario(
    "F16b", "one of two workers frozen (SIGSTOP) past its session, then woken", f"{Z}; the woken one may end",
)  # fmt: skip
async def frozen(plan: Plan) -> Outcome:
    """Stop a worker while it works, let the other take over, and wake it.

    In every second round the stop hits while rows go into the changelog, and after every second
    wake the other's tables are deleted, so that it reads what the woken one may have written.
    """
    rounds = 1 if plan.quick else 6
    rng = plan.rng("F16b")
    lines = made_up(rng, plan.trades)
    ended = wiped = in_write = 0
    async with Rig(plan, lines) as rig:
        pair = [await rig.worker(name, CANDLEWICK_COMMIT_S="0.1") for name in ("left", "right")]
        part = len(lines) // (rounds + 1)
        await rig.burst(part // 2, BURST_S)
        for number in range(rounds):
            plan.say(f"round {number + 1} of {rounds}")
            await _shared(*pair)
            rng.shuffle(pair)
            victim, other = pair
            burst = rig.begin(part // 2, BURST_S)
            await asyncio.sleep(rng.uniform(0.1, BURST_S))
            if number % 2 == 0:
                rows = await rig.changelog_rows()
                await _above(rows, rig.changelog_rows, "no row was written")
                in_write += 1
            before = victim.ended
            victim.may_end = 3
            victim.send(signal.SIGSTOP)
            await until(victim.is_stopped, PATIENCE_S, "the worker is not frozen")
            await burst
            # The other takes over after the session, and folds what was left, and more.
            await rig.burst(part - part // 2, SESSION_S + rng.uniform(2, 5))
            await rig.settled()
            if not await victim.is_stopped():
                raise Failed("the worker did not stay frozen")
            victim.send(signal.SIGCONT)
            await _shared(*pair)
            ended += victim.ended - before
            victim.may_end = 0
            if number % 2 == 0:
                wiped += 1
                await other.kill()
                other.wipe()
                await other.start()
                await other.ready()
        await rig.rest(BURST_S)
        await rig.settled()
        await _shared(*pair)
        verdict = await rig.verdict(pair[0])
    return Outcome(
        verdict.exact,
        f"{rounds} freezes, {in_write} while rows were written, {wiped} times the other's tables deleted "
        f"after; the woken one ended {ended} times; {verdict}",
    )
