"""How long trades take from the exchange's clock to ours, counted in classes. Pure."""

from __future__ import annotations

from bisect import bisect_left

from models.producer_status import LATENCY_BOUNDS_MS

_BOUNDS_US = tuple(bound * 1000 for bound in LATENCY_BOUNDS_MS)


class Latency:
    """Counts since the start."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_US) + 1)
        self.sum_us = 0

    def note(self, delay_us: int) -> None:
        """Count one delay; one below zero, which two clocks may show, is none."""
        delay_us = max(0, delay_us)
        self.counts[bisect_left(_BOUNDS_US, delay_us)] += 1
        self.sum_us += delay_us
