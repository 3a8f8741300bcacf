"""``build/bench.json``: the last outcome of each measurement, and when, on what and of which commit it is.

A start of the program measures some things and leaves the rest as it was, so each figure and the race
name the start that they are of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Figure
from bench.peers.race import Entry, Standing
from models.errors import CandlewickError


class Unreadable(CandlewickError):
    """There is a file, but what was kept in it cannot be read; writing would lose it."""


class Start(msgspec.Struct):
    """One start of the program."""

    began: str
    machine: dict[str, str]
    versions: dict[str, str]
    commit: str = ""
    """With a ``+`` where files were changed since; empty where it is not known."""
    options: dict[str, Any] = {}
    """``minutes`` of a soak; under ``asked``, the trades and runs of each measurement, by its name."""

    def differs(self, other: Start | None) -> dict[str, str]:
        """Return the facts, by name, that are not the same as at the other start."""
        theirs = other.facts() if other else {}
        return {name: value for name, value in self.facts().items() if theirs.get(name) != value}

    def facts(self) -> dict[str, str]:
        """Return all that stands on the page, by name."""
        return {"commit": self.commit or "not kept", **self.machine, **self.versions}


class Measured(msgspec.Struct):
    """A figure, with a value for each run."""

    measurement: str
    name: str
    unit: str
    min: float
    median: float
    max: float
    runs: list[float] = []
    needs: str | None = None
    met: bool | None = None
    includes: str = ""
    began: str = ""
    """Which start it is of."""


class Failure(msgspec.Struct, frozen=True):
    """Why a measurement has no figures."""

    why: str
    began: str = ""
    """Which start it is of."""


class Outcome(msgspec.Struct):
    """What one measurement gave."""

    measurement: str
    figures: list[Figure] = []
    failure: str = ""
    """Why there are no figures."""
    race: Standing | None = None
    """Of the race of peers: what it found, even where it was broken off."""


class Kept(msgspec.Struct):
    """All of it."""

    starts: dict[str, Start] = {}
    """By when they began; only those that something is of."""
    figures: list[Measured] = []
    peers: Standing | None = None
    failed: dict[str, Failure] = {}
    """By the name of the measurement, until it is made again."""

    def began(self, measurement: str) -> str:
        """Return which start a measurement's figures, or its failure, are of; empty where it is not told."""
        if measurement == "peers" and self.peers:
            return self.peers.began
        if failure := self.failed.get(measurement):
            return failure.began
        return next((figure.began for figure in self.figures if figure.measurement == measurement), "")

    def start_of(self, measurement: str) -> Start | None:
        """Return that start; None where it is not told."""
        return self.starts.get(self.began(measurement))

    def figure(self, measurement: str, name: str) -> Measured | None:
        """Return a figure; None where there is none."""
        for figure in self.figures:
            if (figure.measurement, figure.name) == (measurement, name):
                return figure
        return None


def read(path: Path) -> Kept:
    """Return what was kept; nothing where there is no such file.

    Raises:
        Unreadable: there is one, but it is not what `write` writes.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except FileNotFoundError:
        return Kept()
    except (OSError, msgspec.DecodeError) as error:
        raise Unreadable(f"{path} cannot be read ({error}): move it away, or mend it") from error


def join(before: Kept, start: Start, outcome: Outcome, replace: bool) -> tuple[Kept, str]:
    """Put what a measurement gave in place of what was kept of it; return why not, if not.

    One that failed takes the place of the figures that it gave before. Not so the race: one that is
    less than the kept one takes its place, and that of its figures, only where ``replace`` says so.
    """
    name = outcome.measurement
    if name == "peers" and before.peers:
        if outcome.race is None:
            return before, ""
        if (less := _lacks(outcome.race, before.peers)) and not replace:
            return before, less
    own = [Measured(measurement=name, began=start.began, **figure.as_json()) for figure in outcome.figures]
    figures = own + [figure for figure in before.figures if figure.measurement != name]
    failed = {other: failure for other, failure in before.failed.items() if other != name}
    if outcome.failure:
        failed[name] = Failure(outcome.failure, start.began)
    peers = msgspec.structs.replace(outcome.race, began=start.began) if outcome.race else before.peers
    named = {figure.began for figure in figures} | {failure.began for failure in failed.values()}
    named |= {peers.began} if peers else set()
    starts = {began: told for began, told in {**before.starts, start.began: start}.items() if began in named}
    return Kept(starts, figures, peers, failed), ""


def _lacks(new: Standing, kept: Standing) -> str:
    """Say what a race lacks that the kept one has; nothing if it is as whole."""
    if new.done < kept.done:
        return f"it has {new.done} whole rounds, the kept one {kept.done}"
    if new.trades < kept.trades:
        return f"it is of {new.trades:,} trades, the kept one of {kept.trades:,}"
    there = {_place(entry) for entry in new.entries if entry.runs}
    for entry in kept.entries:
        if entry.runs and _place(entry) not in there:
            return f"it has no run of {entry.title}, {' '.join(entry.windows)}"
    return ""


def _place(entry: Entry) -> tuple[str, tuple[str, ...]]:
    return entry.name, entry.windows


def write(kept: Kept, path: Path) -> None:
    """Write it as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    os.replace(beside, path)
