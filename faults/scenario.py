"""What a scenario is: a failure with a number, a bar, and a function that does it and measures.

Write one as a coroutine with `@scenario` in a module of this folder; `scenarios` imports them
all. It gets a `Plan`, takes its randomness from the plan's seed alone, and returns an `Outcome`.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import faults


@dataclass(frozen=True)
class Plan:
    """What a scenario is given."""

    seed: int
    quick: bool
    """The gate that `make test` runs: fewer trades, one fault of each kind."""
    folder: Path
    """Empty, the scenario's own; kept when the bar was not met."""
    say: Callable[[str], None]
    """Tells the person who waits what happens now, in a few words."""

    @property
    def trades(self) -> int:
        """How many trades a count-once scenario sends."""
        return 20_000 if self.quick else 200_000

    def rng(self, name: str) -> random.Random:
        """Return random numbers of the plan's seed, apart for each name."""
        return random.Random(f"{self.seed}/{name}")


@dataclass(frozen=True)
class Outcome:
    """What was seen."""

    met: bool | None
    """None: it was skipped, as it cannot be done here."""
    figures: str
    """In one line: ``20 kills, 200,000 trades: 0 lost, 0 double, 0 of 272 candles differ``.

    Of a skipped one: why."""


Run = Callable[[Plan], Awaitable[Outcome]]


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    number: str
    """As in docs/guarantees.md: F1 to F26; a variant has a letter, F14a."""
    failure: str
    bar: str
    run: Run
    quick: bool
    """Belongs to the quick gate too."""


SCENARIOS: list[Scenario] = []
NOT_SCENARIOS = {"__main__", "lane", "naive"}
"""Modules that are programs."""


def scenario(number: str, failure: str, bar: str, *, quick: bool = False) -> Callable[[Run], Run]:
    """Register a scenario."""

    def register(run: Run) -> Run:
        SCENARIOS.append(Scenario(number, failure, bar, run, quick))
        return run

    return register


def scenarios() -> list[Scenario]:
    """Return all that there are, in the order of their numbers."""
    for module in pkgutil.iter_modules(faults.__path__):
        if module.name not in NOT_SCENARIOS:
            importlib.import_module(f"faults.{module.name}")
    return sorted(SCENARIOS, key=_place)


def _place(scenario: Scenario) -> tuple[int, str]:
    digits = re.search(r"\d+", scenario.number)
    return (int(digits[0]) if digits else 0, scenario.number)
