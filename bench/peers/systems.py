"""Who takes part, how each is run, and what each promises."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.peers import environment
from bench.peers.environment import PROGRAMS, PYTHON, STREAMS
from candlewick import topics
from candlewick.config import Settings
from producers.topic import TopicSpec

ALL_WINDOWS = ("1m", "1h", "1d")
ONE_WINDOW = ("1m",)


class System(msgspec.Struct, frozen=True):
    """An engine, as it is run here. What stands beside its figures comes from its own documentation."""

    name: str
    how: str
    """What it computes with, and where state is: settings that are not named are its defaults."""
    promise: str
    """What it promises for a candle, with these settings and with others."""
    loses: str
    """What a kill -9 does to it."""
    version: Callable[[], str]
    make: Callable[[Callable[[str], None]], Awaitable[None]] | None = None
    """Makes what it runs on; raises `environment.Absent`. None: it is there."""
    command: Callable[[Path], Sequence[str]] | None = None
    """Its command line, by the folder of its state. None: Candlewick's worker."""
    prepare: Callable[[Path], Sequence[str]] | None = None
    """A command to run before it, not timed."""
    topics: Callable[[str, Sequence[str]], list[TopicSpec]] | None = None
    """Topics to make before it, by its group and windows."""
    shares: dict[tuple[str, ...], float] = {}
    """What part of the log it folds, for each set of windows: the slow ones would take hours for all."""


def _streams_version() -> str:
    found = re.search(r"<kafka\.version>(.*)</kafka\.version>", (STREAMS / "pom.xml").read_text())
    return found.group(1) if found else ""


def _streams(state: Path) -> Sequence[str]:
    build = environment.BUILD / "streams"
    path = os.pathsep.join([str(build / "classes"), str(build / "lib" / "*")])
    return ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", path, "Candles"]


def _python(*words: str) -> Sequence[str]:
    return [str(PYTHON), *words]


def _faust_changelogs(group: str, windows: Sequence[str]) -> list[TopicSpec]:
    kept = {"cleanup.policy": "compact,delete"}
    partitions = Settings().partitions
    return [TopicSpec(topics.changelog(group, f"candles-{name}"), partitions, kept) for name in windows]


BYTEWAX = str(PROGRAMS / "bytewax_candles.py")

SYSTEMS = (
    System(
        name="Candlewick",
        how="the worker as shipped: exact decimals, duplicates by trade id, late trades and gaps counted; "
        "rows in memory, written to changelog and RocksDB each second; asked over HTTP while it folds",
        promise="Exactly once in the candle, whatever is delivered twice: a row, the offsets and the trade "
        "ids that it holds are one record.",
        loses="Nothing. The trades since its last commit, about a second, are read again.",
        version=lambda: version("candlewick"),
        shares={ALL_WINDOWS: 1.0},
    ),
    System(
        name="Kafka Streams",
        how="`aggregate` in window stores kept for 2 days, one thread; BigDecimal, Jackson; RocksDB, "
        "changelogs, 10 MB of cache, a commit each 30 s: a run may end before its first",
        promise="At least once, as it is run here. Exactly once with `processing.guarantee=exactly_once_v2`, "
        "which commits each 100 ms.",
        loses="Nothing. Trades since the last commit are read again, and count twice where the store's row "
        "had reached the changelog; with exactly_once_v2 they do not.",
        version=_streams_version,
        make=environment.make_streams,
        command=_streams,
        shares={ALL_WINDOWS: 1.0, ONE_WINDOW: 1.0},
    ),
    System(
        name="Bytewax",
        how="`fold_window`, one worker; Decimal; state in memory alone; a candle is emitted once, when "
        "its window closes, and the end of the log closes all",
        promise="None without recovery.",
        loses="All state. It starts again from the beginning of the log.",
        version=lambda: environment.installed("bytewax"),
        make=environment.make_python,
        command=lambda _: _python("-m", "bytewax.run", f"{BYTEWAX}:flow"),
        shares={ALL_WINDOWS: 1.0, ONE_WINDOW: 1.0},
    ),
    System(
        name="Bytewax, recovery",
        how="the same, with a snapshot of state and offsets to SQLite each 30 s, as in its guide (`-s 30 "
        "-b 180`): a run may have none before its end",
        promise="State and offsets are of one snapshot, so a candle holds a trade once; what is emitted "
        "comes at least once.",
        loses="Nothing. Up to 30 s are folded again, and candles that closed in them are emitted again.",
        version=lambda: environment.installed("bytewax"),
        make=environment.make_python,
        prepare=lambda state: _python("-m", "bytewax.recovery", str(state), "1"),
        command=lambda state: _python(
            "-m", "bytewax.run", f"{BYTEWAX}:flow", "-r", str(state), "-s", "30", "-b", "180"
        ),
        shares={ALL_WINDOWS: 1.0, ONE_WINDOW: 1.0},
    ),
    System(
        name="Quix Streams",
        how="`tumbling_window().reduce().current()`, an update at each trade; float; RocksDB, changelog "
        "topics, a checkpoint each 5 s",
        promise="At least once, as it is run here; recovery skips changelog records ahead of the committed "
        'offsets, as far as it can. Exactly once with `processing_guarantee="exactly-once"` (Kafka '
        "transactions).",
        loses="Nothing. Up to 5 s are folded again from the last checkpoint, and their updates are emitted "
        "again.",
        version=lambda: environment.installed("quixstreams"),
        make=environment.make_python,
        command=lambda _: _python(str(PROGRAMS / "quix_candles.py")),
        shares={ALL_WINDOWS: 0.1, ONE_WINDOW: 0.15},
    ),
    System(
        name="Faust",
        how="as its guide does it: a Record, tumbling tables, one event a trade; float; RocksDB "
        "(rocksdict), changelogs, a commit each 2.8 s",
        promise="At least once; offsets may be committed before the changelog is sent, which would lose "
        "trades. Its `exactly_once` has open defects.",
        loses="Trades since the last commit count twice.",
        version=lambda: environment.installed("faust-streaming"),
        make=environment.make_python,
        topics=_faust_changelogs,
        command=lambda _: _python(
            str(PROGRAMS / "faust_candles.py"), "worker", "-l", "warn", "--without-web"
        ),
        shares={ALL_WINDOWS: 0.008, ONE_WINDOW: 0.012},
    ),
)
