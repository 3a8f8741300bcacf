"""What is shown at the end, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Result:
    """One scenario's row."""

    number: str
    failure: str
    bar: str
    figures: str
    met: bool | None
    """None: skipped."""
    seconds: float
    folder: str = ""
    """Where logs and data are, when the bar was not met."""


@dataclass(frozen=True)
class Report:
    """Everything that one start of the program found."""

    seed: int
    quick: bool
    began: str
    jobs: int
    """Scenarios side by side."""
    seconds: float
    """From the start to the end."""
    results: list[Result]

    @property
    def met(self) -> bool:
        """Every bar was met, of the scenarios that were not skipped."""
        return all(result.met is not False for result in self.results)

    @property
    def skipped(self) -> int:
        """How many could not be done here."""
        return sum(result.met is None for result in self.results)


SHOWN = {True: "[green]yes[/]", False: "[red]no[/]", None: "[yellow]skipped[/]"}


def show(report: Report, console: Console) -> None:
    """Print the table, and where to look for what went wrong."""
    caption = f"seed {report.seed}; {report.seconds:.0f} s in all"
    if report.jobs > 1:
        caption += f", {report.jobs} side by side"
    if report.skipped:
        caption += f"; {report.skipped} of {len(report.results)} skipped"
    table = Table(caption=caption, expand=True, show_lines=True)
    for heading, ratio in (("", 0), ("failure", 3), ("bar", 3), ("figures", 5), ("met", 0), ("s", 0)):
        table.add_column(
            heading, ratio=ratio or None, no_wrap=not ratio, justify="right" if heading == "s" else "left"
        )
    for result in report.results:
        table.add_row(
            result.number, *map(Text, (result.failure, result.bar, result.figures)),
            SHOWN[result.met], f"{result.seconds:.0f}",
        )  # fmt: skip
    console.print(table)
    for result in report.results:
        if result.folder:
            console.print(f"{result.number} left its logs and data in {result.folder}", highlight=False)


def keep(report: Report, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    os.replace(beside, path)
