"""Sets of trade ids, kept as sorted ranges ``((low, high), ...)``, both ends included.

Coinbase numbers the trades of a product without holes, so a set of them is one range for each
gap in the feed plus one: a day of millions of trades takes a few bytes, and says what is missing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]

MAX_RANGES = 4096
"""Ranges that one set keeps. Beyond it the two lowest become one, and the hole between them is
forgotten: a trade that fills it later counts as seen. A feed that loses every second trade
reaches this after 4,096 holes."""


def holds(ranges: Ranges, trade_id: int) -> bool:
    """Say whether the id is in the set."""
    index = bisect_right(ranges, (trade_id, trade_id))
    if index and ranges[index - 1][1] >= trade_id:
        return True
    return index < len(ranges) and ranges[index][0] == trade_id


def union(left: Ranges, right: Ranges) -> Ranges:
    """Return every id of both sets; ranges that touch become one."""
    if not left or not right:
        return left or right
    if right[0][0] == left[-1][1] + 1 and len(right) == 1:  # what happens on a feed without gaps
        return (*left[:-1], (left[-1][0], right[0][1]))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(left + right):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    if len(merged) > MAX_RANGES:
        spare = len(merged) - MAX_RANGES
        merged[: spare + 1] = [(merged[0][0], merged[spare][1])]
    return tuple(merged)


def difference(left: Ranges, right: Ranges) -> Ranges:
    """Return the ids of ``left`` that are not in ``right``."""
    kept: list[tuple[int, int]] = []
    index = 0
    for low, high in left:
        while index < len(right) and right[index][1] < low:
            index += 1
        other = index  # the last one that reaches in here may reach into the next range as well
        while other < len(right) and right[other][0] <= high:
            if right[other][0] > low:
                kept.append((low, right[other][0] - 1))
            low = right[other][1] + 1
            other += 1
        if low <= high:
            kept.append((low, high))
    return tuple(kept)


def of(numbers: Iterable[int]) -> Ranges:
    """Return ids, which rise, as a set."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)


def count(ranges: Ranges) -> int:
    """Count the ids of the set."""
    return sum(high - low + 1 for low, high in ranges)


def after(ranges: Ranges, trade_id: int) -> int | None:
    """Return the lowest id in the set that is above ``trade_id``, or None."""
    for low, high in ranges:
        if high > trade_id:
            return max(low, trade_id + 1)
    return None
