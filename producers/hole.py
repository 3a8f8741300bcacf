"""What is still to be fetched of an open gap, and which page serves it. Pure: times are given.

A page holds the trades below an id, so a hole is walked from its end to its beginning, a page at a
time, and never held whole. One page serves every hole of the symbol that it reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from models import ids
from models.gap import Gap
from models.ids import Ranges
from producers.repair_status import RepairSettings


class Hole:
    """An open gap, and what is still to be fetched of it; times are monotonic seconds."""

    __slots__ = (
        "again_at", "due_at", "failures", "gap", "is_told", "left", "letters", "passes", "symbol", "wanted",
    )  # fmt: skip

    def __init__(self, gap: Gap, due_at: float) -> None:
        self.gap = gap
        self.symbol = gap.symbol
        self.wanted: Ranges = whole(gap)
        """What was not delivered yet."""
        self.left: Ranges = ()
        """What this pass has still to ask for. A pass asks for whatever is wanted, once."""
        self.passes = 0
        self.due_at = self.again_at = due_at
        """When the next page is due, and when the next pass begins."""
        self.failures = 0
        """Pages in a row that could not be used."""
        self.letters: set[str] = set()
        """The reasons for which dead letters were written."""
        self.is_told = False
        """It was said that the exchange lacks some of it."""

    @property
    def top(self) -> int:
        """The highest id that the pass has still to ask for."""
        return self.left[-1][1]

    def begin_pass(self) -> None:
        """Ask for what is wanted; where that was all delivered, and dropped behind us, for the whole."""
        self.wanted = self.wanted or whole(self.gap)
        self.left = self.wanted

    def change(self, gap: Gap, due_at: float) -> None:
        """Take a new end: what is beyond the old one is new, all else stays as it is."""
        added = ids.difference(whole(gap), whole(self.gap))
        removed = ids.difference(whole(self.gap), whole(gap))
        self.gap = gap
        self.wanted = ids.union(ids.difference(self.wanted, removed), added)
        self.left = ids.union(ids.difference(self.left, removed), added)
        if added:
            self.due_at = min(self.due_at, due_at)

    def take(self, delivered: Ranges, page: Ranges, now: float, settings: RepairSettings) -> None:
        """Note what a page brought, and the ids that it covers; the last page ends the pass."""
        self.wanted = ids.difference(self.wanted, delivered)
        self.left = ids.difference(self.left, page)
        self.failures = 0
        self.due_at = now
        if not self.left:
            self._end_pass(now, settings)

    def _end_pass(self, now: float, settings: RepairSettings) -> None:
        """Wait for the word that the gap is repaired; without it, begin anew."""
        first_s = settings.lacking_first_s if self.wanted else settings.again_first_s
        again_at = now + min(settings.lacking_most_s, first_s * 2.0 ** min(self.passes, 30))
        if self.again_at <= now:
            self.passes += 1
            self.again_at = again_at
        elif self.wanted:  # only what the gap grew by was asked for
            self.again_at = min(self.again_at, again_at)
        self.due_at = self.again_at


class Page(NamedTuple):
    """The page to ask for, and the holes of one symbol that it serves."""

    served: list[Hole]
    top: int
    """The highest id on it."""
    lowest: int
    """The lowest that any of the holes wants of it."""


def page_for(hole: Hole, due: Sequence[Hole], size: int) -> Page:
    """Return the page of ``size`` ids that serves a hole, and most of the others that are due.

    Arguments:
        due: the holes of its symbol that are due, itself among them; each has something left.
    """
    top = max(other.top for other in due if other.top - hole.top < size)
    served = [other for other in due if top - size < other.top <= top]
    return Page(served, top, min(ids.after(other.left, top - size) or 0 for other in served))


def whole(gap: Gap) -> Ranges:
    """Return every id of a gap."""
    return ((gap.first_trade_id, gap.last_trade_id),)
