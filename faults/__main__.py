"""``python -m faults``: do every failure, show what came of it, and keep that in ``build/faults.json``.

The seed is printed first; the same seed makes the same logs, and the same choices of what to do when.
The moment at which a signal lands is the machine's. Exit code 1 when a bar was not met.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from candlewick.kafka import jars
from faults import report
from faults.lane import Lane
from faults.scenario import Scenario, scenarios
from models.errors import CandlewickError

RESULTS = Path(__file__).resolve().parent.parent / "build" / "faults.json"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=click.IntRange(min=0), help="Of logs and choices; else a new one.")
@click.option("--only", default="", help="Only these, with commas: F14,F16. A letter may be left out.")
@click.option("--quick", is_flag=True, help="Few trades, one fault of each kind: the gate of `make test`.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Scenarios side by side; 1 if not given.")
def main(seed: int | None, only: str, quick: bool, jobs: int) -> None:
    """Do to the pipeline what it must survive, and count."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    print(f"seed {seed}", flush=True)
    chosen = _choose([name.strip() for name in only.split(",") if name.strip()], quick)
    began, since = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="candlewick-faults-"))
    try:
        jars.resolve()
        results = asyncio.run(_run_all(chosen, root, seed, quick, jobs))
    except CandlewickError as error:
        sys.exit(f"faults: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        shutil.rmtree(root, ignore_errors=True)
        sys.exit("faults: ended before it was done")
    with contextlib.suppress(OSError):  # what is in it is of a bar that was not met
        root.rmdir()
    found = report.Report(seed, quick, began, jobs, round(time.monotonic() - since, 1), results)
    report.keep(found, RESULTS)
    console = Console(width=None if sys.stdout.isatty() else 140)
    report.show(found, console)
    console.print(f"kept in {os.path.relpath(RESULTS)}", highlight=False)
    sys.exit(not found.met)


def _choose(names: list[str], quick: bool) -> list[Scenario]:
    """Return the scenarios that were asked for, in the order of their numbers."""
    known = scenarios()
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


async def _run_all(
    chosen: list[Scenario], root: Path, seed: int, quick: bool, jobs: int
) -> list[report.Result]:
    """Deal the scenarios to as many lanes; return the results in the order of the scenarios."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: dict[str, report.Result] = {}
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Side by side, from the last one on: that is the soak, the longest of all.
    waiting = deque(enumerate(chosen, 1) if jobs == 1 else reversed([*enumerate(chosen, 1)]))

    async def work(progress: Progress) -> None:
        async with Lane(root, seed, quick) as lane:
            while waiting:
                place, scenario = waiting.popleft()
                title = f"{place}/{len(chosen)} {scenario.number} {scenario.failure}"
                result = await _one(scenario, lane, root / scenario.number, title, progress)
                results[scenario.number] = result
                met = {True: "met", False: "NOT MET", None: "skipped"}[result.met]
                told = f"{title}: {met}, {result.seconds:.0f} s: {result.figures}"
                console.print(told, highlight=False, markup=False, soft_wrap=True)

    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(jobs, len(chosen))):
                lanes.create_task(work(progress))
    return [results[scenario.number] for scenario in chosen]


async def _one(scenario: Scenario, lane: Lane, folder: Path, title: str, progress: Progress) -> report.Result:
    bar = progress.add_task(title, total=None)
    began = time.monotonic()
    outcome = await lane.run(
        scenario.number, lambda what: progress.update(bar, description=f"{title}: {what}")
    )
    seconds = time.monotonic() - began
    progress.remove_task(bar)
    failed = outcome.met is False
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    return report.Result(
        scenario.number, scenario.failure, scenario.bar, outcome.figures, outcome.met, round(seconds, 1),
        str(folder) if failed else "",
    )  # fmt: skip


if __name__ == "__main__":
    main(prog_name="python -m faults")
