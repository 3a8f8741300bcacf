"""Workers fed with rubbish, ended in order, short of disk, and given a log twice or in another order."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

from candlewick import topics
from faults import truth
from faults.process import Ended
from faults.rig import Rig, Worker, Z, within
from faults.scenario import Outcome, Plan, scenario
from faults.trades import SHARES, SPAN_S, Line, heartbeat, made_up, trade

BURST_S = 0.8
"""Seconds that the burst of a kill takes: at 200,000 trades and 20 kills, 12,000 a second."""


class Bomb:
    """What a pickle can do to whoever loads it."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., int], tuple[list[str]]]:
        return subprocess.call, (["touch", str(self._marker)],)


@scenario(
    "F21", "1 in 100 records of the topic is poison",
    f"{Z} for the rest; each one a dead letter, once; lag 0",
    quick=True,
)  # fmt: skip
async def poison(plan: Plan) -> Outcome:
    """Write raw bytes, wrong fields, null, a pickle, a blessed key and wrong keys among the trades."""
    rng = plan.rng("F21")
    lines = made_up(rng, plan.trades // 2)
    marker = plan.folder / "exploded"
    injected: list[bytes] = []

    def one() -> truth.Record:
        good = rng.choice(lines)
        body = json.loads(good.value)
        other = rng.choice([f"coinbase:{name}".encode() for name in SHARES if name != body["symbol"]])
        field = rng.choice(sorted(set(body) & {"trade_id", "price", "size", "event_time_us"}) or ["symbol"])
        wrong: object = rng.choice([None, [], {}, True, "NaN", "-1", "1e400"])
        blessed = {"__faust": {"ns": "models.trade.Trade"}, "price": body.get("price")}
        key, value = rng.choice([
            (good.key, rng.randbytes(rng.randrange(200))),
            (good.key, json.dumps({**body, field: wrong}).encode()),
            (good.key, json.dumps({name: body[name] for name in body if name != "symbol"}).encode()),
            (good.key, None),
            (good.key, b"null"),
            (good.key, pickle.dumps(Bomb(marker))),
            (good.key, json.dumps(blessed).encode()),
            (other, good.value),
            (b"\xff\xfe", good.value),
        ])  # fmt: skip
        injected.append(value or b"")
        return key, value

    async with Rig(plan, lines) as rig:
        worker = await rig.worker()
        await worker.ready()
        for number in range(20):
            plan.say(f"burst {number + 1} of 20")
            count = len(lines) // 20 if number < 19 else rig.left
            await asyncio.gather(
                rig.burst(count, BURST_S / 2),
                rig.write([one() for _ in range(max(1, count // 99))], BURST_S / 2),
            )
        verdict = await rig.verdict(worker)
        _, status = await worker.get("/v1/status")
        lag = status["workers"][0]["lag_records"]
        letters = await rig.read(topics.DEAD_LETTERS)
    bodies = [json.loads(value) for _, value in letters if value is not None]
    found = Counter(
        base64.b64decode(body["base64"]) if "base64" in body else body["text"].encode() for body in bodies
    )
    missing = (Counter(injected) - found).total()
    extra = (found - Counter(injected)).total()
    places = len({body["source"] for body in bodies})
    return Outcome(
        verdict.exact
        and not missing
        and not extra
        and places == len(injected)
        and not lag
        and not marker.exists(),
        f"{len(injected):,} poisoned: {len(letters):,} dead letters of {places:,} places, {missing} missing, "
        f"{extra} too many; lag {lag}; {verdict}{'; THE PICKLE WAS LOADED' if marker.exists() else ''}",
    )


@scenario("F20", "worker SIGTERM at random moments", f"exit 0 <= 10 s; a second SIGTERM is safe; {Z}")
async def ended_in_order(plan: Plan) -> Outcome:
    """End it while it works or recovers, every second time with two signals."""
    times = 5 if plan.quick else 20
    rng = plan.rng("F20")
    lines = made_up(rng, plan.trades)
    took_s: list[float] = []
    codes: Counter[int] = Counter()
    early = twice = 0
    async with Rig(plan, lines) as rig:
        worker = await rig.worker()
        for number in range(1, times + 1):
            plan.say(f"SIGTERM {number} of {times}")
            burst = rig.begin(len(lines) // (times + 1), BURST_S)
            if rng.random() < 0.25:
                early += 1
                await worker.listening()  # it may be recovering still
            else:
                await worker.ready()
                await asyncio.sleep(rng.uniform(0, BURST_S))
            began = time.monotonic()
            if number % 2:
                worker.send(signal.SIGTERM)
                await asyncio.sleep(rng.uniform(0.01, 0.5))
                twice += worker.runs
            codes[await worker.end(signal.SIGTERM)] += 1
            took_s.append(time.monotonic() - began)
            await burst
            await worker.start()
        await rig.rest(BURST_S)
        verdict = await rig.verdict(worker)
    wrong = {code: number for code, number in codes.items() if code}
    return Outcome(
        verdict.exact and not wrong and twice > 0 and max(took_s) <= within(plan, 10),
        f"{times} times, {early} of them early, {twice} hit twice: exit code 0 {codes[0]} times"
        + (f", others {wrong}" if wrong else "")
        + f"; {median(took_s):.1f} s (median), {max(took_s):.1f} s (longest); {verdict}",
    )


@scenario("F8", "30 % of the trades come twice, over restarts too", f"{Z}; each one counted")
async def duplicates(plan: Plan) -> Outcome:
    """Send every third trade again, soon after or much later, and restart the worker in between."""
    rng = plan.rng("F8")
    lines = made_up(rng, plan.trades // 2, duplicates=0.3)
    restarts = 1 if plan.quick else 4
    async with Rig(plan, lines) as rig:
        worker = await rig.worker()
        await worker.ready()
        for number in range(restarts):
            plan.say(f"restart {number + 1} of {restarts}")
            burst = rig.begin(len(lines) // (restarts + 1), BURST_S)
            await asyncio.sleep(rng.uniform(0.1, BURST_S))
            await worker.end(rng.choice((signal.SIGTERM, signal.SIGKILL)))
            await worker.start()
            await burst
            await worker.ready()
        await rig.rest(BURST_S)
        verdict = await rig.verdict(worker)
        _, status = await worker.get("/v1/status")
    counted = sum(product["duplicates"] for product in status["products"])
    sent = len([line for line in lines if b'"trade_id"' in line.value]) - verdict.trades
    return Outcome(
        verdict.exact and counted == sent,
        f"{restarts} restarts, {sent:,} duplicates sent, {counted:,} counted; {verdict}",
    )


@scenario("F7", "trades out of order", "every order gives the same candles")
async def shuffled(plan: Plan) -> Outcome:
    """Send one set of trades in many orders, each as a symbol of its own.

    Every second order stays within the grace; the others are any order at all, so that most
    candles are closed and amended.
    """
    orders = 20 if plan.quick else 100
    rng = plan.rng("F7")
    at_s = sorted(rng.uniform(0, SPAN_S) for _ in range(300))
    fixed = rng.randrange(1 << 30)
    log: list[tuple[float, int, Line]] = []
    symbols = [f"S{number:02d}-USD" for number in range(orders)]
    for number, symbol in enumerate(symbols):
        same = random.Random(fixed)
        for trade_id, moment in enumerate(at_s, 1):
            sent_s = moment + rng.uniform(0, 9.9) if number % 2 else rng.uniform(0, SPAN_S)
            log.append((sent_s, len(log), trade(same, symbol, trade_id, moment)))
        log.append((SPAN_S + 60, len(log), heartbeat(symbol, len(at_s), SPAN_S + 75)))
    lines = [line for _, _, line in sorted(log)]
    async with Rig(plan, lines) as rig:
        worker = await rig.worker()
        await worker.ready()
        await rig.rest(BURST_S)
        verdict = await rig.verdict(worker)
        expected = truth.candles(rig.sent)
        table = await rig.table(worker, list(expected))
    late = sum(figures.pop("late_trades") for figures in table.values())  # of the order, and no other figure
    different = set()
    for (_, window, start_s), figures in table.items():
        if figures != table.get((symbols[0], window, start_s)):
            different.add((window, start_s))
    return Outcome(
        verdict.exact and not different and late > 0,
        f"{orders} orders of {len(at_s)} trades, {late:,} amendments by late ones: "
        f"{len(different)} windows differ between orders; {verdict}",
    )


@scenario("F18", "the disk of the tables is full", f"a clear line; nothing corrupt; {Z} once there is space")
async def disk_full(plan: Plan) -> Outcome:
    """Put the tables on 64 MiB, fill them up, work, restart, and make space again."""
    if os.geteuid():
        return Outcome(None, "only root can mount a small filesystem")
    rng = plan.rng("F18")
    lines = made_up(rng, plan.trades)
    tables = plan.folder / "one" / "tables"
    tables.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tables)]
    if refusal := await asyncio.to_thread(_run, mount):
        return Outcome(None, f"no small filesystem: {refusal}")
    try:
        async with Rig(plan, lines) as rig:
            worker = await rig.worker()
            await worker.ready()
            await rig.burst(len(lines) // 4, BURST_S)
            await rig.settled()
            filler = tables / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(1 << 16)):
                    pass
            free = os.statvfs(tables).f_bavail
            worker.may_end = 2
            plan.say("full")
            await rig.burst(len(lines) // 4, BURST_S)
            # Rows stay in RocksDB's memory for long; it needs the disk when it opens.
            await worker.restart()
            stopped = await _stops(worker, rig)
            begun = len(worker.said())
            clear = "No space left" in worker.said()
            filler.unlink()
            plan.say("space again")
            ended = worker.ended
            worker.may_end = 0
            await worker.restart()
            await worker.ready()
            await rig.rest(BURST_S)
            verdict = await rig.verdict(worker)
            corrupt = "orrupt" in worker.said()[begun:]
    finally:
        await asyncio.to_thread(_run, ["umount", "-l", str(tables)])
    return Outcome(
        verdict.exact and not free and stopped and clear and not corrupt,
        f"{'stopped' if stopped else 'DID NOT STOP'} at a full disk, ended {ended} times, "
        f"{'said so' if clear else 'DID NOT SAY SO'}{', CORRUPT' if corrupt else ''}; {verdict}",
    )


def _run(command: list[str]) -> str:
    """Run a command; return the first line of what it says when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    return done.stderr.partition("\n")[0] or f"code {done.returncode}"


async def _stops(worker: Worker, rig: Rig) -> bool:
    """Say whether the worker stops instead of folding on, over two starts or 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and worker.ended < 2:
        try:
            await worker.check()
        except Ended:
            break
        await asyncio.sleep(0.2)
    return worker.ended > 0 or await rig.unfinished() > 0


@scenario("F26a", "one log folded twice, in other batches", "the same revisions, byte for byte")
async def replayed(plan: Plan) -> Outcome:
    """Fold a log with batches of few and of many records, and compare all that is told."""
    rng = plan.rng("F26a")
    lines = made_up(rng, plan.trades // 2, shuffled=0.05)
    told: list[dict[bytes, list[bytes]]] = []
    verdicts = []
    sizes = (17, 2000)
    async with Rig(plan, lines) as rig:
        await rig.rest(0)
        for size in sizes:
            plan.say(f"batches of {size}")
            begin = await rig.ends(topics.CANDLES)
            rig.app_id = f"batches-of-{size}"
            worker = await rig.worker(f"by-{size}", CANDLEWICK_BATCH_RECORDS=str(size))
            await worker.ready()
            await rig.settled()
            by_key: dict[bytes, list[bytes]] = {}
            for key, value in await rig.read(topics.CANDLES, begin):
                assert key is not None
                by_key.setdefault(key, []).append(value or b"")
            told.append(by_key)
            verdicts.append(await rig.verdict(worker))
            await worker.end()
    one, other = told
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    revisions = sum(map(len, one.values()))
    example = f", such as {differing[0].decode()}" if differing else ""
    return Outcome(
        not differing and all(verdict.exact for verdict in verdicts),
        f"batches of {sizes[0]} and {sizes[1]}: {revisions:,} revisions of {len(one)} candles, "
        f"{len(differing)} candles told differently{example}; {verdicts[0]}",
    )
