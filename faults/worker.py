"""Workers: killed, doubled, frozen, with broken tables, ended, and fed with rubbish, while the log grows.

``Z`` is: nothing lost, nothing counted twice, no candle that differs in any figure; in the table,
in its changelog, and in the topic ``candles``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from candlewick import topics
from faults import naive, truth
from faults.rig import PARTITIONS, PATIENCE_S, SESSION_S, Ended, Failed, Rig, Worker, spread, until, within
from faults.scenario import Outcome, Plan, scenario
from faults.trades import SHARES, SPAN_S, Line, heartbeat, made_up, trade
from producers.topic import TopicSpec, ensure_topics

Z = "0 lost, 0 double, 0 candles differ"
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


Spoil = Callable[[Worker, random.Random], str]
"""Does something to the tables of a worker that was killed; returns what."""


def _keep(worker: Worker, rng: random.Random) -> str:
    return "kept"


def _wipe(worker: Worker, rng: random.Random) -> str:
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
        return "nothing there"
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
    if spoil is _corrupt:
        figures += f"; {spread(done)}"
    if too_late:
        figures += f"; too late: {', '.join(too_late)}"
    if worker.ended:
        figures += f"; ended {worker.ended} times at a broken table, such as: {worker.reason}"
    if loops:
        figures += f"; CRASH LOOP {len(loops)} times, such as {loops[0]}"
    return Outcome(verdict.exact and not too_late and not loops and in_work > 0, figures)


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
    quick=True,
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
            await burst
            # The other takes over after the session, and folds what was left, and more.
            await rig.burst(part - part // 2, SESSION_S + rng.uniform(2, 5))
            await rig.settled()
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
    early = 0
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
            codes[await worker.end(signal.SIGTERM)] += 1
            took_s.append(time.monotonic() - began)
            await burst
            await worker.start()
        await rig.rest(BURST_S)
        verdict = await rig.verdict(worker)
    wrong = {code: number for code, number in codes.items() if code}
    return Outcome(
        verdict.exact and not wrong and max(took_s) <= within(plan, 10),
        f"{times} times, {early} of them early: exit code 0 {codes[0]} times"
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
    different = set()
    for (_, window, start_s), figures in table.items():
        if figures != table.get((symbols[0], window, start_s)):
            different.add((window, start_s))
    return Outcome(
        verdict.exact and not different,
        f"{orders} orders of {len(at_s)} trades: {len(different)} windows differ between orders; {verdict}",
    )


@scenario("F18", "the disk of the tables is full", f"a clear line; nothing corrupt; {Z} once there is space")
async def disk_full(plan: Plan) -> Outcome:
    """Put the tables on 64 MiB, fill them up, work, restart, and make space again."""
    if os.geteuid():
        return Outcome(True, "SKIPPED: only root can mount a small filesystem")
    rng = plan.rng("F18")
    lines = made_up(rng, plan.trades)
    tables = plan.folder / "one" / "tables"
    tables.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tables)]
    if refusal := await asyncio.to_thread(_run, mount):
        return Outcome(True, f"SKIPPED: no small filesystem: {refusal}")
    try:
        async with Rig(plan, lines) as rig:
            worker = await rig.worker()
            await worker.ready()
            await rig.burst(len(lines) // 4, BURST_S)
            await rig.settled()
            filler = tables / "filler"
            with filler.open("wb") as file:
                try:
                    while file.write(bytes(1 << 16)):
                        file.flush()
                except OSError:
                    pass
            worker.may_end = 2
            plan.say("full")
            await rig.burst(len(lines) // 4, BURST_S)
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
        verdict.exact and stopped and clear and not corrupt,
        f"{'stopped' if stopped else 'DID NOT STOP'} at a full disk, ended {ended} times, "
        f"{'said so' if clear else 'DID NOT SAY SO'}{', CORRUPT' if corrupt else ''}; {verdict}",
    )


def _run(command: list[str]) -> str:
    """Run a command; return what it says when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"code {done.returncode}" if done.returncode else ""


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
