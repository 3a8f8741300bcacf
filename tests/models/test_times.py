"""Instants: how they are written and what is read as one."""

import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.times import LAST_US, parse_rfc3339, parse_time, rfc3339

QUICK = settings(deadline=None, max_examples=100)
instants = st.integers(0, LAST_US)


@QUICK
@given(instants)
@example(0)
@example(1)
@example(LAST_US)
def test_an_instant_that_was_written_reads_back_the_same(instant: int) -> None:
    assert parse_rfc3339(rfc3339(instant)) == instant
    assert parse_time(rfc3339(instant)) == instant


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_793_491_200_000_000, "2026-11-01T00:00:00Z"),
        (1_793_491_200_000_001, "2026-11-01T00:00:00.000001Z"),
        (1_793_491_200_500_000, "2026-11-01T00:00:00.500000Z"),
        (LAST_US, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_instant_is_written_in_utc_with_microseconds_only_where_there_are_any(
    instant: int, text: str
) -> None:
    assert rfc3339(instant) == text


@QUICK
@given(
    st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(9998, 1, 1)), st.integers(-23 * 60, 23 * 60)
)
def test_an_offset_is_taken_off(moment: datetime.datetime, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    text = f"{moment.isoformat()}{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    since = moment - datetime.timedelta(minutes=minutes) - datetime.datetime(1970, 1, 1)
    assert parse_rfc3339(text) == (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("0", 0),
        ("1793491200", 1_793_491_200_000_000),
        ("1793491200000", 1_793_491_200_000_000),
        ("99999999999", 99_999_999_999_000_000),
        ("100000000000", 100_000_000_000_000),
        ("253402300799999", 253_402_300_799_999_000),
        ("2026-11-01T00:00:00Z", 1_793_491_200_000_000),
        ("2026-11-01T01:00:00+01:00", 1_793_491_200_000_000),
        # digits below the microsecond are cut off
        ("2026-11-01T00:00:00.000000999Z", 1_793_491_200_000_000),
    ],
)
def test_a_user_may_write_seconds_milliseconds_or_rfc3339(text: str, instant: int) -> None:
    assert parse_time(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "now", "-1", "+1", "1.5", "1e9", "٣", "²", "9" * 16, "9" * 5000, "253402300800000",
        "2026-11-01", "2026-11-01T00:00:00", "2026-13-01T00:00:00Z",
        "2026-11-01T00:00:60Z", "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@QUICK
@given(st.text(max_size=40) | st.text("0123456789-+:.TZW ", max_size=35))
@example("9999-12-31T23:59:59.999999+23:59")
def test_any_text_is_a_time_of_the_years_1970_to_9999_or_a_value_error(text: str) -> None:
    try:
        instant = parse_time(text)
    except ValueError:
        return
    assert 0 <= instant <= LAST_US


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59.999999-23:59"])
def test_an_offset_does_not_lead_past_the_year_9999(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)
