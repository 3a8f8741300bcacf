"""The rounds: every system in turn, each run a new process, group and folder, on one broker and topic.

A run is timed from a system's first trade to the last trade's candles being visible: Candlewick from
tables ready to the last trade in ``/stats``, as `bench.catchup` does it; the others from the line
``reading`` to the line ``folded`` (bench/peers/programs/telling.py). Then its candles are compared
with the log; a run whose candles are not right gives no figure, and is shown as wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from bench import catchup, log, market
from bench.figures import Figures, Need, Plan
from bench.peers import environment
from bench.peers.systems import SYSTEMS, System
from bench.truth import Key, Truth
from bench.worker import TooSlow, Worker
from candlewick.config import Settings
from candlewick.guard import guarded
from candlewick.kafka.broker import EmbeddedBroker
from models.errors import CandlewickError
from producers.topic import ensure_topics

TRADES, ROUNDS = 1_200_000, 5
"""As long as nothing else is asked for: some 13 minutes on two quiet cores."""
PRODUCTS = 8
NEEDS = {"Kafka Streams": 1.0, "Bytewax": 2.5, "Quix Streams": 10.0, "Faust": 80.0}
"""So many times their speed."""
NEEDS_A_CORE = {"Kafka Streams": 1.7}
BATCH_RECORDS = 1_000
READY_WITHIN_S = 60.0
SLOWEST = 250
"""Trades a second under which a run is given up."""
STOP_WITHIN_S = 20.0
SAMPLE_S = 0.05
FAULTS = 2
"""After so many runs that failed, a system is left out."""
ERROR = re.compile(r"[\w.]*(Error|Exception|Mismatch)\b")
LOADING = 0.1
"""The share of the whole time that installing, building and writing the log take, about."""


class Failed(CandlewickError):
    """A run gave no result, or a wrong one."""


class Run(msgspec.Struct, frozen=True):
    """What one run took."""

    trades_s: float
    seconds: float
    cores: float
    """Processor time of the process and its children, over time."""
    cpu_s_million: float
    """The same processor time, for a million trades: neighbours on the machine hardly change it."""
    peak_rss: int
    state_bytes: int
    """On disk, after it was stopped."""


class Entry(msgspec.Struct):
    """A system with a set of windows, and its runs."""

    name: str
    version: str
    windows: tuple[str, ...]
    trades: int
    how: str
    promise: str
    loses: str
    runs: list[Run] = []
    wrong: list[str] = []
    """Why a run gave no figure."""
    absent: str = ""
    """Why it was not run at all."""
    ratio: float | None = None
    """Its median speed, over that of Candlewick with all windows."""

    @property
    def speeds(self) -> list[float]:
        """Trades a second, a value for each run."""
        return [run.trades_s for run in self.runs]

    @property
    def title(self) -> str:
        """Its name and version, then what sets it apart."""
        name, comma, variant = self.name.partition(",")
        return f"{name} {self.version}".strip() + comma + variant

    def middle(self, field: str) -> float:
        """Return the median of a field of the runs."""
        return float(median(getattr(run, field) for run in self.runs))

    def a_core(self) -> float:
        """Return the trades a second of a core that it used."""
        return self.middle("trades_s") / self.middle("cores")


class Standing(msgspec.Struct):
    """The outcome: what ``build/bench.json`` holds under ``peers``."""

    trades: int
    products: int
    partitions: int
    batch_records: int
    rounds: int
    java: str
    entries: list[Entry]
    began: str = ""
    """Of the start of the program that it is of."""
    every_candle: bool = False
    """Whether all of Candlewick's candles were compared, as those of the others are."""

    @property
    def ours(self) -> Entry:
        """Candlewick, with all windows."""
        return self.entries[0]

    @property
    def done(self) -> int:
        """How many rounds everybody has had; whoever is left out, or given up, holds nobody up."""
        had = [
            len(entry.runs) + len(entry.wrong)
            for entry in self.entries
            if not entry.absent and len(entry.wrong) < FAULTS
        ]
        return min(had, default=0)

    def times(self, name: str) -> float | None:
        """Return the speed of ours over another's, with all windows; None where there is none."""
        return self._over(name, lambda entry: entry.middle("trades_s"))

    def times_a_core(self, name: str) -> float | None:
        """Return the same, of a core that each used."""
        return self._over(name, Entry.a_core)

    def _over(self, name: str, speed: Callable[[Entry], float]) -> float | None:
        other = self.other(name)
        return speed(self.ours) / speed(other) if other and other.runs and self.ours.runs else None

    def other(self, name: str) -> Entry | None:
        """Return another system, with the windows of ours; None where there is none."""
        for entry in self.entries:
            if entry.name == name and entry.windows == self.ours.windows:
                return entry
        return None


class Race:
    """A measurement; `standing` is what it found."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    async def __call__(self, plan: Plan, figures: Figures) -> None:
        """Run every system in turn, ``plan.runs`` rounds. `standing` has it all, the figures compare.

        Raises:
            Failed: Candlewick has no right run, so that there is nothing to compare with.
        """
        entries = _entries(plan)
        self.standing = standing = Standing(
            plan.trades, PRODUCTS, Settings().partitions, BATCH_RECORDS, plan.runs, await environment.java(),
            [entry for _, entry in entries], every_candle=True,
        )  # fmt: skip
        await _make(entries, lambda what: plan.step(what, 0.0))
        settings = Settings(data_dir=plan.folder)
        async with EmbeddedBroker(plan.folder / "broker") as broker:
            names = market.symbols(PRODUCTS, settings.partitions)
            trades = market.trades(names, plan.trades, market.midnight(time.time_ns() // 1000))
            written = await log.write(
                broker.bootstrap, settings, trades, BATCH_RECORDS,
                lambda done: plan.step(f"writing {plan.trades:,} trades", LOADING * done / plan.trades),
            )  # fmt: skip
            await _rounds(plan, broker.bootstrap, entries, written, lambda: _rank(standing))
        ours = standing.ours
        if not ours.runs:
            raise Failed(f"no run of {ours.name} was right: {ours.wrong[-1]}")
        for entry in standing.entries[1:]:
            if entry.runs and entry.windows == ours.windows:
                _compare(standing, entry, figures)


def _compare(standing: Standing, other: Entry, figures: Figures) -> None:
    for name, times, needs, what in (
        ("", standing.times(other.name), NEEDS, "medians of the trades a second, three windows"),
        (", a core", standing.times_a_core(other.name), NEEDS_A_CORE, "the same, over the cores used"),
    ):
        need = needs.get(other.name)
        assert times is not None
        figures.add(
            f"Candlewick over {other.title}{name}", "times", times, what, Need(">=", need) if need else None
        )


def _entries(plan: Plan) -> list[tuple[System, Entry]]:
    """Return the systems with all windows, then those with one."""
    sets = dict.fromkeys(windows for system in SYSTEMS for windows in system.shares)
    return [
        (
            system,
            Entry(
                system.name, "", windows, plan.part(system.shares[windows], plan.trades),
                system.how, system.promise, system.loses,
            ),
        )
        for windows in sets
        for system in SYSTEMS
        if windows in system.shares
    ]  # fmt: skip


async def _make(entries: list[tuple[System, Entry]], step: Callable[[str], None]) -> None:
    """Install and build what the systems need; those that cannot be had are marked."""
    reasons: dict[object, str] = {}
    for make in dict.fromkeys(system.make for system, _ in entries if system.make):
        try:
            await make(step)
        except environment.Absent as error:
            reasons[make] = str(error)
    for system, entry in entries:
        entry.absent = reasons.get(system.make, "")
        entry.version = system.version()


async def _rounds(
    plan: Plan,
    bootstrap: str,
    entries: list[tuple[System, Entry]],
    written: log.Written,
    rank: Callable[[], None],
) -> None:
    starters = [(system, entry) for system, entry in entries if not entry.absent]
    total = plan.runs * len(starters)
    keep = await _topics(bootstrap)
    for number in range(plan.runs):
        for place, (system, entry) in enumerate(starters):
            what = f"round {number + 1} of {plan.runs}: {entry.name}, {' '.join(entry.windows)}"
            plan.step(what, LOADING + (1 - LOADING) * (number * len(starters) + place) / total)
            if len(entry.wrong) >= FAULTS:
                continue
            folder = plan.folder / f"run-{secrets.token_hex(4)}"
            folder.mkdir()
            try:
                if system.command:
                    run = await _run_peer(system, entry, bootstrap, folder, written.truth)
                else:
                    run = await _run_candlewick(bootstrap, folder, written)
                entry.runs.append(run)
            except (CandlewickError, OSError, ValueError, psutil.Error) as error:
                entry.wrong.append(str(error) or type(error).__name__)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            await _delete_topics(bootstrap, keep)
        rank()


async def _run_candlewick(bootstrap: str, folder: Path, written: log.Written) -> Run:
    count = written.counts.total()
    last = list(written.last.values())
    async with Worker(bootstrap, folder) as worker:
        began = await worker.until_ready(last[0])
        cpu_s = worker.cpu_s()
        for symbol in last:
            await worker.until_folded(symbol, written.counts[symbol], _within_s(count))
        seconds = time.monotonic() - began
        cpu_s = worker.cpu_s() - cpu_s
        worker.rss()
        await catchup.check([worker], written)
    return _run(count, seconds, cpu_s, worker.peak_rss, worker.settings.data_dir)


async def _run_peer(system: System, entry: Entry, bootstrap: str, folder: Path, truth: Truth) -> Run:
    assert system.command is not None
    state = folder / "state"
    state.mkdir()
    result = folder / "result"
    env = {
        **os.environ,
        "PEER_BROKER": bootstrap,
        "PEER_GROUP": folder.name,
        "PEER_STATE": str(state),
        "PEER_TRADES": str(entry.trades),
        "PEER_WINDOWS": ",".join(entry.windows),
        "PEER_RESULT": str(result),
        "PYTHONPATH": str(environment.PROGRAMS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if system.topics:
        await ensure_topics(bootstrap, system.topics(folder.name, entry.windows))
    if system.prepare:
        async with Program(system.prepare(state), env, folder) as before:
            await before.ended(READY_WITHIN_S)
    async with Program(system.command(state), env, folder) as program:
        began, cpu_began = await program.word("reading", READY_WITHIN_S)
        ended, cpu_ended = await program.word("folded", _within_s(entry.trades))
        await program.file(result, READY_WITHIN_S)
    if fault := truth.fault(_candles(result), entry.windows, entry.trades):
        raise Failed(fault)
    return _run(entry.trades, ended - began, cpu_ended - cpu_began, program.peak_rss, state)


def _run(trades: int, seconds: float, cpu_s: float, peak_rss: int, state: Path) -> Run:
    return Run(trades / seconds, seconds, cpu_s / seconds, cpu_s / trades * 1e6, peak_rss, _bytes(state))


class Program:
    """A peer's process: what it prints, and what it and its children use."""

    def __init__(self, argv: Any, env: dict[str, str], folder: Path) -> None:
        self._argv = guarded(argv)
        self._env = env
        self._folder = folder
        self._log = folder / "log"
        self.peak_rss = 0

    async def __aenter__(self) -> Program:
        with self._log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, env=self._env, cwd=self._folder, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        self._family = psutil.Process(self._process.pid)
        self._sampling = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sampling.cancel()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            # Nobody reads its pipe any longer: it must not wait for us.
            await asyncio.wait_for(self._process.communicate(), STOP_WITHIN_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def word(self, expected: str, within_s: float) -> tuple[float, float]:
        """Wait for a line of exactly this; return the time, and the processor time used until then."""
        assert self._process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                async for line in self._process.stdout:
                    if line.strip() == expected.encode():
                        return time.monotonic(), self._cpu_s()
                raise Failed(f"it ended before it said {expected!r}: {self._last_words()}")
        raise TooSlow(f"it did not say {expected!r} within {within_s:.0f} s")

    async def file(self, path: Path, within_s: float) -> None:
        """Wait for a file that it writes."""
        end = time.monotonic() + within_s
        while not _is_there(path):
            if time.monotonic() > end:
                raise TooSlow(f"it wrote no candles within {within_s:.0f} s")
            if self._process.returncode is not None:
                raise Failed(f"it ended before it wrote its candles: {self._last_words()}")
            await asyncio.sleep(SAMPLE_S)

    async def ended(self, within_s: float) -> None:
        """Wait until it is done."""
        try:
            code = await asyncio.wait_for(self._process.wait(), within_s)
        except TimeoutError:
            raise TooSlow(f"it was not done within {within_s:.0f} s") from None
        if code:
            raise Failed(f"it ended with code {code}: {self._last_words()}")

    def _processes(self) -> list[psutil.Process]:
        return [self._family, *self._family.children(recursive=True)]

    def _cpu_s(self) -> float:
        try:
            return sum(sum(process.cpu_times()[:2]) for process in self._processes())
        except psutil.Error:
            raise Failed(f"it ended too early: {self._last_words()}") from None

    async def _sample(self) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                rss = sum(process.memory_info().rss for process in self._processes())
                self.peak_rss = max(self.peak_rss, rss)
            await asyncio.sleep(SAMPLE_S)

    def _last_words(self) -> str:
        """Return the last line that names an error, or else the last one."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if ERROR.match(line)]
        return (errors or lines or ["nothing"])[-1][:200]


def _is_there(path: Path) -> bool:
    return path.exists()


def _candles(path: Path) -> dict[Key, list[Any]]:
    """Read what a program wrote; the last line of a candle counts."""
    found: dict[Key, list[Any]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            window, symbol, start_ms, *row = json.loads(line)
            found[window, symbol, start_ms] = row
    return found


async def _topics(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def _delete_topics(bootstrap: str, keep: set[str]) -> None:
    """Delete what a run made: nothing that the next should carry."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    with contextlib.suppress(KafkaError):
        await admin.start()
        if new := set(await admin.list_topics()) - keep - {"__consumer_offsets"}:
            await admin.delete_topics(sorted(new))
    await admin.close()


def _within_s(trades: int) -> float:
    return 30.0 + trades / SLOWEST


def _bytes(folder: Path) -> int:
    """Return what a folder takes on disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _rank(standing: Standing) -> None:
    """Compare each median with that of the first entry, Candlewick with all windows."""
    ours = standing.ours
    for entry in standing.entries:
        if entry.runs and ours.runs:
            entry.ratio = entry.middle("trades_s") / ours.middle("trades_s")
