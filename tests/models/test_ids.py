"""Sets of trade ids, against Python's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import ids

QUICK = settings(deadline=None, max_examples=100)

small_sets = st.frozensets(st.integers(-3, 40), max_size=30)


def ranges_of(numbers: frozenset[int] | set[int]) -> ids.Ranges:
    """Write a set as ranges, number by number."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return tuple((low, high) for low, high in ranges)


def every_second(count: int, first: int = 1) -> ids.Ranges:
    return tuple((number, number) for number in range(first, first + 2 * count, 2))


@QUICK
@given(small_sets, small_sets)
def test_union_is_the_union_with_touching_ranges_joined(left: frozenset[int], right: frozenset[int]) -> None:
    assert ids.union(ranges_of(left), ranges_of(right)) == ranges_of(left | right)


@QUICK
@given(st.lists(st.integers(0, 30), max_size=30))
def test_ids_added_one_by_one_give_the_same_set_forwards_and_backwards(numbers: list[int]) -> None:
    forwards: ids.Ranges = ()
    for number in numbers:
        forwards = ids.union(forwards, ((number, number),))
    backwards: ids.Ranges = ()
    for number in reversed(numbers):
        backwards = ids.union(((number, number),), backwards)
    assert forwards == backwards == ranges_of(set(numbers))


@QUICK
@given(small_sets, small_sets)
def test_difference_is_what_only_the_first_set_holds(left: frozenset[int], right: frozenset[int]) -> None:
    assert ids.difference(ranges_of(left), ranges_of(right)) == ranges_of(left - right)


@QUICK
@given(st.lists(st.integers(0, 40), max_size=40).map(sorted))
def test_rising_ids_become_the_set_of_them(numbers: list[int]) -> None:
    ranges = ids.of(numbers)
    assert ranges == ranges_of(set(numbers))
    assert ids.count(ranges) == len(set(numbers))


@QUICK
@given(small_sets, st.integers(-5, 45))
def test_holds_is_membership(numbers: frozenset[int], number: int) -> None:
    assert ids.holds(ranges_of(numbers), number) is (number in numbers)


@QUICK
@given(small_sets, st.integers(-5, 45))
def test_after_is_the_next_id_in_the_set(numbers: frozenset[int], number: int) -> None:
    assert ids.after(ranges_of(numbers), number) == min(
        (held for held in numbers if held > number), default=None
    )


@pytest.mark.parametrize("extra", [1, 2, 100])
def test_a_set_of_too_many_ranges_forgets_its_lowest_holes(extra: int) -> None:
    ranges = every_second(ids.MAX_RANGES + extra)
    union = ranges[: ids.MAX_RANGES - 5]
    for one in ranges[ids.MAX_RANGES - 5 :]:
        union = ids.union(union, (one,))
    assert len(union) == ids.MAX_RANGES
    assert union[0] == (1, 1 + 2 * extra)
    assert union[1:] == every_second(ids.MAX_RANGES - 1, first=3 + 2 * extra)
    assert union == ids.union(ranges[::2], ranges[1::2])


def test_a_set_of_as_many_ranges_as_are_kept_forgets_nothing() -> None:
    most = every_second(ids.MAX_RANGES)
    assert ids.union(most[:-1], most[-1:]) == most


def test_the_cap_holds_where_the_new_ids_touch_the_old_ones() -> None:
    full = every_second(ids.MAX_RANGES)
    last = full[-1][1]
    assert len(ids.union(full, ((last + 1, last + 1), (last + 3, last + 3)))) == ids.MAX_RANGES
