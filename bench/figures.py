"""What a measurement gives: figures, each with what it includes and what it must reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec

from models.errors import CandlewickError


class Inexact(CandlewickError):
    """A measured run did not give the numbers that it had to give: its speed is worth nothing."""


class Need(msgspec.Struct, frozen=True):
    """What the median of a figure must reach."""

    sign: Literal[">=", "<"]
    limit: float

    def is_met(self, value: float) -> bool:
        """Compare a value with the limit."""
        return value >= self.limit if self.sign == ">=" else value < self.limit


class Figure(msgspec.Struct):
    """One measured quantity, a value for each run."""

    name: str
    unit: str
    includes: str
    values: list[float] = []
    need: Need | None = None

    @property
    def median(self) -> float:
        """The middle of the runs: on a shared machine, the mean says more of the neighbours."""
        return median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches what is needed; None where nothing is."""
        return self.need.is_met(self.median) if self.need else None

    def as_json(self) -> dict[str, Any]:
        """Return what the results file holds."""
        return {
            "name": self.name,
            "unit": self.unit,
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "runs": self.values,
            "needs": f"{self.need.sign} {self.need.limit:g}" if self.need else None,
            "met": self.is_met,
            "includes": self.includes,
        }


class Figures:
    """The figures of one measurement, in the order in which they first get a value."""

    def __init__(self) -> None:
        self._by_name: dict[str, Figure] = {}

    def add(self, name: str, unit: str, value: float, includes: str, need: Need | None = None) -> None:
        """Add one run's value of a figure."""
        figure = self._by_name.setdefault(name, Figure(name, unit, includes, [], need))
        figure.values.append(value)

    def all(self) -> list[Figure]:
        """Return the figures."""
        return list(self._by_name.values())


class Plan(msgspec.Struct, frozen=True):
    """How much is measured, and where files may be."""

    trades: int
    runs: int
    minutes: float
    """Of a soak."""
    folder: Path
    """Of this measurement alone; removed after it."""
    step: Callable[[str, float], None]
    """Tells the progress bar what is happening, and how much of the whole measurement (0 to 1) is done."""

    def part(self, share: float, most: int) -> int:
        """Return a part of the trades, for a measurement that needs fewer: at least 1,000."""
        return max(1_000, min(most, round(self.trades * share)))


Measure = Callable[[Plan, Figures], Awaitable[None]]
"""Measures, and adds what it found; nothing of it counts when it fails later."""
