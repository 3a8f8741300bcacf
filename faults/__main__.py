"""``python -m faults``: do every failure, show what came of it, and keep that in ``build/faults.json``.

The seed is printed first; the same seed makes the same logs, and the same choices of what to do when.
The moment at which a signal lands is the machine's. Exit code 1 when a bar was not met.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import pkgutil
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import structlog
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

import faults
from candlewick.kafka import jars
from faults import report, rig
from faults.scenario import SCENARIOS, Outcome, Plan, Scenario
from models.errors import CandlewickError

RESULTS = Path(__file__).resolve().parent.parent / "build" / "faults.json"
LIMIT_S = 2_700.0
"""A scenario that takes longer is given up; its bar is not met."""
NOT_SCENARIOS = {"__main__", "naive"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=click.IntRange(min=0), help="Of logs and choices; else a new one.")
@click.option("--only", default="", help="Only these, with commas: F14,F16. A letter may be left out.")
@click.option("--quick", is_flag=True, help="Few trades, one fault of each kind: the gate of `make test`.")
def main(seed: int | None, only: str, quick: bool) -> None:
    """Do to the pipeline what it must survive, and count."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    print(f"seed {seed}", flush=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers are killed here, and it would say so
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    chosen = _choose([name.strip() for name in only.split(",") if name.strip()], quick)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    root = Path(tempfile.mkdtemp(prefix="candlewick-faults-"))
    try:
        jars.resolve()
        results = asyncio.run(_run_all(chosen, root, seed, quick))
    except CandlewickError as error:
        sys.exit(f"faults: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        shutil.rmtree(root, ignore_errors=True)
        sys.exit("faults: ended before it was done")
    with contextlib.suppress(OSError):  # what is in it is of a bar that was not met
        root.rmdir()
    found = report.Report(seed, quick, began, results)
    report.keep(found, RESULTS)
    console = Console(width=None if sys.stdout.isatty() else 140)
    report.show(found, console)
    console.print(f"kept in {os.path.relpath(RESULTS)}", highlight=False)
    sys.exit(not found.met)


def _choose(names: list[str], quick: bool) -> list[Scenario]:
    """Return the scenarios that were asked for, in the order of their numbers."""
    for module in pkgutil.iter_modules(faults.__path__):
        if module.name not in NOT_SCENARIOS:
            importlib.import_module(f"faults.{module.name}")
    known = sorted(SCENARIOS, key=_place)
    for name in names:
        if not any(_is_named(scenario, name) for scenario in known):
            raise click.BadParameter(f"{name}: there are {', '.join(s.number for s in known)}")
    return [
        scenario
        for scenario in known
        if (any(_is_named(scenario, name) for name in names) if names else scenario.quick or not quick)
    ]


def _is_named(scenario: Scenario, name: str) -> bool:
    return name in (scenario.number, scenario.number.rstrip("abcdefgh"))


def _place(scenario: Scenario) -> tuple[int, str]:
    digits = re.search(r"\d+", scenario.number)
    return (int(digits[0]) if digits else 0, scenario.number)


async def _run_all(chosen: list[Scenario], root: Path, seed: int, quick: bool) -> list[report.Result]:
    try:
        return await _run(chosen, root, seed, quick)
    finally:
        await rig.end_shared()


async def _run(chosen: list[Scenario], root: Path, seed: int, quick: bool) -> list[report.Result]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: list[report.Result] = []
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for place, scenario in enumerate(chosen, 1):
            title = f"{place}/{len(chosen)} {scenario.number} {scenario.failure}"
            bar = progress.add_task(title, total=None)

            def say(what: str, title: str = title, bar: TaskID = bar) -> None:
                progress.update(bar, description=f"{title}: {what}")

            folder = root / scenario.number
            folder.mkdir()
            result = await _one(scenario, Plan(seed, quick, folder, say))
            progress.remove_task(bar)
            met = "met" if result.met else "NOT MET"
            told = f"{title}: {met}, {result.seconds:.0f} s: {result.figures}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
            results.append(result)
    return results


async def _one(scenario: Scenario, plan: Plan) -> report.Result:
    """Run a scenario; whatever goes wrong is a bar that was not met."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT_S):
            outcome = await scenario.run(plan)
    except Exception as error:
        outcome = Outcome(False, f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - began
    if outcome.met:
        shutil.rmtree(plan.folder, ignore_errors=True)
    return report.Result(
        scenario.number, scenario.failure, scenario.bar, outcome.figures, outcome.met, round(seconds, 1),
        "" if outcome.met else str(plan.folder),
    )  # fmt: skip


if __name__ == "__main__":
    main(prog_name="python -m faults")
