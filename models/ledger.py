"""The gap ledger of one symbol: which trade ids have come, which are missing, and between which times.

Ids rise by one, trade by trade, and in time. So whatever is missing lies between the times of its
neighbours, and touches only the candles of that stretch. A **gap** is what was found missing at
once; a **hole** is what is still missing of it, which may be several as it is filled piece by piece.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

import msgspec

from models.gap import Cause, State
from models.window import SECOND_US

MAX_HOLES = 1024
"""Holes kept for a symbol. Beyond it the two oldest become one, which counts the trades between them
as missing too: a candle may then be called incomplete that is not, never the other way round."""

SLACK_US = SECOND_US
"""A heartbeat's time may be ahead by so much of a trade that it does not know yet."""


class Hole(msgspec.Struct, frozen=True, array_like=True):
    """Ids that are missing, both ends included, and the event times that they lie between."""

    first: int
    last: int
    after_us: int
    before_us: int
    gap: int
    """First id of the gap that it is left of."""


class OpenGap(msgspec.Struct, frozen=True, array_like=True):
    """What was found missing at once, and is not all there yet."""

    first: int
    last: int
    cause: Cause
    after_us: int
    before_us: int
    detected_us: int


class News(NamedTuple):
    """What one record did to the ledger."""

    gaps: tuple[tuple[OpenGap, State], ...] = ()
    times_us: tuple[int, ...] = ()
    """Candles that hold one of these times, `SLACK_US` more or less, may have become complete, or not so
    any more."""


NOTHING = News()


class Ledger(msgspec.Struct):
    """What is known of a symbol's trade ids. Begins with the first record that names one."""

    joined_id: int = 0
    joined_us: int = 0
    """The first id known, and its time: of what was before, nothing is known."""
    top_id: int = -1
    """The highest id that the exchange has spoken of, in a trade or a heartbeat."""
    top_us: int = 0
    """No trade above ``top_id`` is older than this."""
    holes: list[Hole] = []
    """In the order of their ids."""
    gaps: list[OpenGap] = []

    def extend(self, last_id: int, last_us: int) -> None:
        """Note trades that follow ``top_id`` without a hole; ``last_us`` is the latest of their times."""
        self.top_id = last_id
        self.top_us = max(self.top_us, last_us)

    def see(self, trade_id: int, time_us: int) -> News:
        """Note a trade; one that was there before is no news."""
        if self.top_id < 0:
            self.joined_id = self.top_id = trade_id
            self.joined_us = self.top_us = time_us
            return NOTHING
        if trade_id > self.top_id:
            news = self._open(self.top_id + 1, trade_id - 1, self.top_us, time_us, "jump", time_us)
            self.extend(trade_id, time_us)
            return news
        if trade_id < self.joined_id:
            news = self._open(trade_id + 1, self.joined_id - 1, time_us, self.joined_us, "jump", time_us)
            news = News(news.gaps, (time_us, self.joined_us))
            self.joined_id, self.joined_us = trade_id, min(time_us, self.joined_us)
            return news
        index = bisect_right(self.holes, trade_id, key=attrgetter("first")) - 1
        if index < 0 or self.holes[index].last < trade_id:
            return NOTHING
        return self._fill(index, trade_id, time_us)

    def hear(self, last_trade_id: int, time_us: int) -> News:
        """Note a heartbeat: at this time, no trade was above that id."""
        known_us = time_us - SLACK_US
        news = NOTHING
        if self.top_id < 0:
            self.joined_id, self.joined_us = last_trade_id + 1, time_us
            self.top_id = last_trade_id
        elif last_trade_id < self.top_id:
            return NOTHING
        elif last_trade_id > self.top_id:
            news = self._open(self.top_id + 1, last_trade_id, self.top_us, time_us, "heartbeat", time_us)
        self.extend(last_trade_id, known_us)
        return news

    def is_complete(self, start_us: int, end_us: int) -> bool:
        """Say whether every trade of ``[start_us, end_us)`` that the exchange spoke of has come."""
        if self.joined_id > 1 and start_us <= self.joined_us:
            return False
        return not self.missing(start_us, end_us)

    def missing(self, start_us: int, end_us: int) -> int:
        """Count the missing ids that may belong to ``[start_us, end_us)``."""
        return sum(
            hole.last - hole.first + 1
            for hole in self.holes
            if hole.after_us < end_us and start_us <= hole.before_us
        )

    def _open(
        self, first: int, last: int, after_us: int, before_us: int, cause: Cause, detected_us: int
    ) -> News:
        if first > last:
            return NOTHING
        after_us, before_us = min(after_us, before_us), max(after_us, before_us)
        gap = OpenGap(first, last, cause, after_us, before_us, detected_us)
        self.gaps = [*self.gaps, gap]
        self.holes = sorted([*self.holes, Hole(first, last, after_us, before_us, first)], key=_first)
        return News(((gap, "open"), *self._limited()), (after_us, before_us))

    def _fill(self, index: int, trade_id: int, time_us: int) -> News:
        hole = self.holes[index]
        left = msgspec.structs.replace(hole, last=trade_id - 1, before_us=max(hole.after_us, time_us))
        right = msgspec.structs.replace(hole, first=trade_id + 1, after_us=min(time_us, hole.before_us))
        pieces = [piece for piece in (left, right) if piece.first <= piece.last]
        self.holes = [*self.holes[:index], *pieces, *self.holes[index + 1 :]]
        return News((*self._settled(hole.gap), *self._limited()), (hole.after_us, time_us, hole.before_us))

    def _settled(self, first: int) -> tuple[tuple[OpenGap, State], ...]:
        """Take a gap that has no hole left off the list."""
        if any(hole.gap == first for hole in self.holes):
            return ()
        gap = next(gap for gap in self.gaps if gap.first == first)
        self.gaps = [each for each in self.gaps if each is not gap]
        return ((gap, "repaired"),)

    def _limited(self) -> tuple[tuple[OpenGap, State], ...]:
        """Where there are too many holes, make one hole, and one gap, of the two oldest."""
        if len(self.holes) <= MAX_HOLES:
            return ()
        low, high, *rest = self.holes
        gaps = {gap.first: gap for gap in self.gaps}
        kept, merged = gaps[low.gap], gaps[high.gap]
        self.holes = [
            Hole(low.first, high.last, low.after_us, max(low.before_us, high.before_us), kept.first), *rest
        ]  # fmt: skip
        if merged is kept:
            return ()
        self.holes = [
            msgspec.structs.replace(hole, gap=kept.first) if hole.gap == merged.first else hole
            for hole in self.holes
        ]
        wider = msgspec.structs.replace(
            kept, last=max(kept.last, merged.last), before_us=max(kept.before_us, merged.before_us)
        )
        self.gaps = [wider if gap is kept else gap for gap in self.gaps if gap is not merged]
        return ((wider, "open"), (merged, "merged"))


_first = attrgetter("first")
