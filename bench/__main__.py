"""``python -m bench``: measure, show, and keep the figures in ``build/bench.json``.

Everything is started here and ends with this process: each measurement has a Kafka of its own,
on loopback, in a temporary folder. One that fails is said at the end; the others go on. Each is kept as
soon as it is done, so that what ends the program later costs no more than what it was at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench import browser, kept, machine, report, scaling, web
from bench.catchup import catch_up
from bench.figures import Figures, Measure, Plan
from bench.latency import latency
from bench.market import MOST_TRADES
from bench.memory import producer_memory, worker_memory
from bench.peers import page, race
from bench.pure import book_fold, candle_fold, codec, reference
from bench.recovery import recovery
from bench.sinking import sink
from bench.soak import soak
from candlewick.kafka import jars
from models.errors import CandlewickError

PEERS = race.Race()
RESULTS = Path(__file__).resolve().parent.parent / "build" / "bench.json"
MEASUREMENTS: dict[str, Measure] = {
    "reference": reference,
    "candle-fold": candle_fold,
    "book-fold": book_fold,
    "codec": codec,
    "sink": sink,
    "catch-up": catch_up("catch-up", products=8, batch_records=1_000, share=1.0),
    "catch-up-800": catch_up("catch-up, 800 products", products=800, batch_records=1_000, share=1.0),
    "catch-up-live-log": catch_up("catch-up, live log", products=8, batch_records=10, share=0.5),
    "worker-memory": worker_memory,
    "producer-memory": producer_memory,
    "latency": latency,
    "web": web.web,
    "push": web.push,
    "browser": browser.browser,
    "scaling": scaling.scaling,
    "trade-cost": scaling.trade_cost,
    "recovery": recovery,
    "soak": soak,
    "peers": PEERS,
}
TRADES, RUNS = 1_000_000, 3
OWN = {"peers": (race.TRADES, race.ROUNDS), "scaling": (scaling.TRADES, RUNS)}
"""Trades and runs of a measurement that has others, when nothing else is asked for."""
ASKED_FOR = {"scaling", "trade-cost", "recovery", "soak"}
"""Measured only when they are named: they take long."""
LIMIT_S = 3_600.0
"""A measurement that takes longer is given up."""
QUICK_TRADES = 100_000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(MEASUREMENTS)),
    help="Measure this alone; may be repeated.",
)
@click.option(
    "--trades",
    type=click.IntRange(1_000, MOST_TRADES),
    show_default=f"{TRADES:,}, peers {race.TRADES:,}, scaling {scaling.TRADES:,}",
    help="Trades in the log of a catch-up; the other measurements take a part of them.",
)
@click.option(
    "--minutes", type=click.FloatRange(0.5, 24 * 60), default=30.0, show_default=True, help="Of the soak."
)
@click.option(
    "--runs",
    type=click.IntRange(1, 20),
    show_default=f"{RUNS}, peers {race.ROUNDS}",
    help="Runs of each figure.",
)
@click.option(
    "--quick", is_flag=True, help=f"One run of {QUICK_TRADES:,} trades: does it work, not how fast."
)
@click.option("--replace", is_flag=True, help="Keep a race of peers in place of a fuller one.")
@click.option(
    "--write-docs", is_flag=True, help="Measure nothing: write docs/benchmarks.md from what was kept."
)
def main(
    only: tuple[str, ...],
    trades: int | None,
    runs: int | None,
    minutes: float,
    quick: bool,
    replace: bool,
    write_docs: bool,
) -> None:
    """Time the parts and the whole, on this machine."""
    if write_docs:
        try:
            for path in page.write(RESULTS):
                click.echo(f"wrote {os.path.relpath(path)}")
        except CandlewickError as error:
            sys.exit(f"bench: {error}")
        return
    if quick:
        trades, runs = min(trades or TRADES, QUICK_TRADES), 1
    # A new topic has no leader for a moment, and aiokafka says so with each batch that it sends again.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    structlog.configure(processors=[_only_warnings, structlog.dev.ConsoleRenderer()])
    console = Console()
    names = only or MEASUREMENTS.keys() - ASKED_FOR
    chosen = {name: measure for name, measure in MEASUREMENTS.items() if name in names}
    path = RESULTS.with_stem("bench-quick") if quick else RESULTS
    try:
        kept.read(path)  # what cannot be read cannot be added to: say so before, not after an hour
        jars.resolve()
        results = asyncio.run(_measure(chosen, trades, runs, minutes, path, replace))
    except CandlewickError as error:
        sys.exit(f"bench: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(f"bench: ended before it was done; what was done is kept in {os.path.relpath(path)}")
    report.show(results, console)
    console.print(f"kept in {os.path.relpath(path)}")
    if results.not_kept:
        console.print(
            f"[yellow]but not the race:[/] {results.not_kept}; --replace keeps it nevertheless",
            highlight=False,
        )
    sys.exit(any(outcome.failure for outcome in results.outcomes))


async def _measure(
    chosen: dict[str, Measure],
    trades: int | None,
    runs: int | None,
    minutes: float,
    path: Path,
    replace: bool,
) -> report.Results:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    asked = {}
    for name in chosen:
        own_trades, own_runs = OWN.get(name, (TRADES, RUNS))
        asked[name] = {"trades": trades or own_trades, "runs": runs or own_runs}
    start = kept.Start(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.describe(),
        versions=machine.versions(),
        commit=machine.commit(),
        options={"minutes": minutes, "asked": asked},
    )
    results = report.Results(start=start, seconds=0.0, outcomes=[])
    began = time.monotonic()
    with _progress() as progress, tempfile.TemporaryDirectory(prefix="candlewick-bench-") as folder:
        for name, measure in chosen.items():
            bar = progress.add_task(name, total=1.0, what="")
            own = Path(folder) / name
            own.mkdir()
            plan = Plan(**asked[name], minutes=minutes, folder=own, step=_teller(progress, bar))
            outcome = await outcome_of(name, measure, plan)
            progress.update(
                bar, completed=None if outcome.failure else 1.0, what="failed" if outcome.failure else "done"
            )
            results.outcomes.append(outcome)
            results.not_kept = report.keep(start, outcome, path, replace) or results.not_kept
    results.seconds = time.monotonic() - began
    return results


async def outcome_of(name: str, measure: Measure, plan: Plan) -> kept.Outcome:
    """Return the figures of one measurement, or why there are none: whatever it is, the others go on."""
    figures = Figures()
    limit_s = LIMIT_S + (plan.minutes * 60 if name == "soak" else 0)
    limit = asyncio.timeout(limit_s)
    failure = ""
    try:
        async with limit:
            await measure(plan, figures)
    except Exception as error:
        if limit.expired():
            failure = f"not done within {limit_s:,.0f} s"
        elif isinstance(error, CandlewickError):
            failure = str(error) or type(error).__name__
        else:
            failure = f"{type(error).__name__}: {error}"
            traceback.print_exception(error)
    return kept.Outcome(
        name, [] if failure else figures.all(), " ".join(failure.split()),
        PEERS.standing if name == "peers" else None,
    )  # fmt: skip


def _teller(progress: Progress, bar: TaskID) -> Callable[[str, float], None]:
    return lambda what, done: progress.update(bar, completed=done, what=what)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip


def _only_warnings(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Keep what would break the picture, and tells nothing here, off the terminal."""
    if method in ("debug", "info"):
        raise structlog.DropEvent
    return event


if __name__ == "__main__":
    main(prog_name="python -m bench")
