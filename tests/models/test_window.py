"""Windows: where an instant belongs, and when a window is over."""

import datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.times import LAST_US
from models.window import BY_NAME, WINDOWS, Window

QUICK = settings(deadline=None, max_examples=100)
windows = st.sampled_from(WINDOWS)
instants = st.integers(0, LAST_US)


@QUICK
@given(windows, instants)
def test_every_instant_is_in_the_window_that_starts_before_it_and_in_no_neighbour(
    window: Window, instant: int
) -> None:
    start = window.start_of(instant)
    assert start <= instant < window.end_of(start)
    assert window.start_of(window.end_of(start)) == window.end_of(start) > instant
    assert window.start_of(start) == start
    assert window.start_of(start - 1) == start - window.size_us


@QUICK
@given(instants)
def test_windows_begin_at_whole_minutes_hours_and_days_of_utc(instant: int) -> None:
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=instant)
    minute = moment.replace(second=0, microsecond=0)
    for name, start in (
        ("1m", minute),
        ("1h", minute.replace(minute=0)),
        ("1d", minute.replace(minute=0, hour=0)),
    ):
        expected = (start - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1)
        assert BY_NAME[name].start_of(instant) == expected


@QUICK
@given(windows, st.integers(0, 10**9), st.integers(0, 10**12), st.integers(-3, 3))
def test_a_window_is_closed_from_its_end_and_the_grace_on(
    window: Window, index: int, grace: int, off: int
) -> None:
    start = index * window.size_us
    assert window.is_closed(start, window.end_of(start) + grace + off, grace) is (off >= 0)


def test_each_window_holds_a_whole_number_of_the_one_before_it() -> None:
    sizes = [window.size_us for window in WINDOWS]
    assert sizes == sorted(sizes)
    assert all(large % small == 0 for small, large in pairwise(sizes))
    assert {window.name: window for window in WINDOWS} == BY_NAME


@pytest.mark.parametrize(("name", "seconds"), [("1m", 60), ("1h", 3600), ("1d", 86400)])
def test_a_window_is_as_long_as_its_name_says(name: str, seconds: int) -> None:
    assert BY_NAME[name].size_us == seconds * 1_000_000


def test_instants_before_1970_are_in_windows_too() -> None:
    assert BY_NAME["1m"].start_of(-1) == -60_000_000
