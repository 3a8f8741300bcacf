"""Latency in classes."""

from __future__ import annotations

from models.producer_status import LATENCY_BOUNDS_MS
from producers.latency import Latency


def test_a_delay_is_counted_in_the_first_class_that_holds_it() -> None:
    latency = Latency()
    for delay_us in (0, 5_000, 5_001, 60_000_000, 60_000_001):
        latency.note(delay_us)
    assert latency.counts == [2, 1, *[0] * (len(LATENCY_BOUNDS_MS) - 3), 1, 1]
    assert latency.sum_us == 120_010_002


def test_a_clock_that_is_behind_gives_no_delay() -> None:
    latency = Latency()
    latency.note(-3)
    assert latency.counts[0] == 1
    assert latency.sum_us == 0
