"""Tumbling windows in event time, UTC, ``[start, end)``.

A window knows where an instant belongs and when it is over. It knows neither candles nor Kafka.
To add a window is one line in `WINDOWS`; sizes must divide each other, smallest first, because a
run of trades inside the smallest window is folded once and merged into the larger ones.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SECOND_US = 1_000_000


class Window(NamedTuple):
    """A tumbling window: its name in topics and paths, and its size in microseconds."""

    name: str
    size_us: int

    def start_of(self, event_time_us: int) -> int:
        """Return the start, in microseconds, of the window that holds this instant."""
        return event_time_us - event_time_us % self.size_us

    def end_of(self, start_us: int) -> int:
        """Return the first instant after the window that starts at ``start_us``."""
        return start_us + self.size_us

    def is_closed(self, start_us: int, watermark_us: int, grace_us: int) -> bool:
        """Say whether event time has come past the window's end and its grace."""
        return watermark_us >= start_us + self.size_us + grace_us


class Expired(NamedTuple):
    """What is kept of windows that start before this is not kept any more."""

    window: Window
    before_us: int


WINDOWS = (
    Window("1m", 60 * SECOND_US),
    Window("1h", 3_600 * SECOND_US),
    Window("1d", 86_400 * SECOND_US),
)

BY_NAME = {window.name: window for window in WINDOWS}

_UNITS = {window.name[-1]: window.size_us for window in WINDOWS}
_multiple = re.compile(r"([1-9][0-9]{0,3})([" + "".join(_UNITS) + r"])\Z").match


def window_named(name: str) -> Window | None:
    """Return a window that is kept, or any whole multiple of one: ``5m``, ``4h``, ``7d``; else None.

    Like all windows it begins at a multiple of its size since 1970, in UTC: seven days on a Thursday.
    """
    found = _multiple(name)
    return Window(name, int(found[1]) * _UNITS[found[2]]) if found else None


def made_of(window: Window) -> Window:
    """Return the largest window that is kept and that a window is a whole multiple of."""
    return next(kept for kept in reversed(WINDOWS) if window.size_us % kept.size_us == 0)
