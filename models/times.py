"""Instants: integer microseconds since 1970 inside, RFC 3339 in UTC outside."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

_INSTANT = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_RFC3339 = re.compile(_INSTANT + r"\Z").match

TIME = rf"^([0-9]{{1,15}}|{_INSTANT})$"
"""How `parse_time` wants it, for the documents."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""

EventTime = Annotated[int, msgspec.Meta(ge=0, le=LAST_US - 86_400_000_000)]
"""Microseconds since 1970 of something that happened: early enough that its day ends in the year 9999."""


def rfc3339(time_us: int) -> str:
    """Write an instant: ``2026-11-01T00:00:00Z``, with microseconds only where there are any."""
    text = (EPOCH + timedelta(microseconds=time_us)).isoformat()
    return text.replace("+00:00", "Z")


def parse_rfc3339(text: str) -> int:
    """Read an instant with its offset, as microseconds since 1970.

    Raises:
        ValueError: not RFC 3339, no offset, or before 1970.
    """
    if not _RFC3339(text):
        raise ValueError(f"{text[:40]!r} is not a time such as 2026-11-01T00:00:00Z, with its offset")
    moment = datetime.fromisoformat(text)
    time_us = (moment - EPOCH) // timedelta(microseconds=1)
    if not 0 <= time_us <= LAST_US:
        raise ValueError(f"{text!r} is outside the years 1970 to 9999")
    return time_us


def parse_time(text: str) -> int:
    """Read what a user may write: RFC 3339, or an epoch in seconds (below 10^11) or milliseconds.

    Raises:
        ValueError: neither, or outside the years 1970 to 9999.
    """
    if text.isascii() and text.isdigit():
        if len(text) > 15:
            raise ValueError(f"{text[:30]!r} is past the year 9999")
        number = int(text)
        time_us = number * (1_000_000 if number < 10**11 else 1_000)
        if time_us > LAST_US:
            raise ValueError(f"{text!r} is past the year 9999")
        return time_us
    return parse_rfc3339(text)
