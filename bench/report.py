"""What is shown at the end, and what is kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import kept
from bench.peers import page
from bench.peers.race import Standing

VERDICT = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}


class Results(msgspec.Struct):
    """Everything that one start of the program found."""

    start: kept.Start
    seconds: float
    outcomes: list[kept.Outcome]
    not_kept: str = ""
    """Why the race is not, if so."""


def show(results: Results, console: Console) -> None:
    """Print machine, versions and figures."""
    facts = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in results.start.facts().items():
        facts.add_row(name, value)
    console.print(facts)
    if any(outcome.figures for outcome in results.outcomes):
        console.print(_figures(results))
    for race in (outcome.race for outcome in results.outcomes if outcome.race):
        console.print(_peers(race))
        for line in _not_counted(race):
            console.print(line, highlight=False)
    for outcome in results.outcomes:
        if outcome.failure:
            console.print(f"[red]{outcome.measurement} failed:[/] {escape(outcome.failure)}", highlight=False)


def _figures(results: Results) -> Table:
    runs = {len(figure.values) for outcome in results.outcomes for figure in outcome.figures}
    counts = " or ".join(f"{count}" for count in sorted(runs))
    table = Table(caption=f"runs of each figure: {counts}; {results.seconds:.0f} s in all", expand=True)
    table.add_column("figure, and what it includes", ratio=1)
    for heading in ("min", "median", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("median needs", no_wrap=True)
    for outcome in results.outcomes:
        table.add_section()
        for figure in outcome.figures:
            need = figure.need
            table.add_row(
                f"[bold]{figure.name}[/], {figure.unit}\n[dim]{figure.includes}[/]",
                page.number(min(figure.values)), page.number(figure.median), page.number(max(figure.values)),
                f"{need.sign} {page.number(need.limit)}\n{VERDICT[figure.is_met]}" if need else "",
            )  # fmt: skip
    return table


def _peers(standing: Standing) -> Table:
    rounds = f"{standing.done} of {standing.rounds} rounds"
    table = Table(caption=f"{rounds} on one topic of {standing.trades:,} trades", expand=True)
    table.add_column("system, windows, trades a run", ratio=1)
    for heading in ("trades/s\nmin to max", "ratio", "cores", "CPU\ns/M", "peak\nMiB", "disk\nMiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    windows = standing.entries[0].windows
    for entry in standing.entries:
        if entry.windows != windows:
            table.add_section()
        windows = entry.windows
        name = f"[bold]{entry.title}[/]\n[dim]{' '.join(windows)}, {entry.trades:,}[/]"
        if entry.wrong:
            name += f"\n[red]wrong: {len(entry.wrong)}[/]"
        if not entry.runs:
            table.add_row(name, "[yellow]left out[/]" if entry.absent else "")
            continue
        low, middle, high = (
            page.number(speed) for speed in (min(entry.speeds), entry.middle("trades_s"), max(entry.speeds))
        )
        table.add_row(
            name, f"[bold]{middle}[/]\n[dim]{low} to {high}[/]", page.share(entry.ratio),
            page.number(entry.middle("cores")), page.number(entry.middle("cpu_s_million")),
            page.number(entry.middle("peak_rss") / page.MEBI),
            page.number(entry.middle("state_bytes") / page.MEBI),
        )  # fmt: skip
    return table


def _not_counted(standing: Standing) -> list[str]:
    """Say once for each reason who was left out, and what was wrong."""
    left_out: dict[str, dict[str, None]] = {}
    wrong = []
    for entry in standing.entries:
        if entry.absent:
            left_out.setdefault(entry.absent, {})[entry.title] = None
        what = f"{entry.title}, {' '.join(entry.windows)}"
        wrong += [f"[red]{what}, wrong:[/] {escape(reason)}" for reason in entry.wrong]
    return [
        *(f"[yellow]{'; '.join(names)} left out:[/] {escape(reason)}" for reason, names in left_out.items()),
        *wrong,
    ]


def keep(start: kept.Start, outcome: kept.Outcome, path: Path, replace: bool) -> str:
    """Write an outcome beside what was kept; return why a race was not written, if so."""
    whole, less = kept.join(kept.read(path), start, outcome, replace)
    kept.write(whole, path)
    return less
