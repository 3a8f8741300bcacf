"""Server-sent events out of bytes, however they are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from candlewick.terminal.events import Event, Reader

STREAM = (
    b"retry: 1000\n\n"
    b'event: snapshot\nid: 3-7\ndata: {"a": "b: c"}\n\n'
    b": ping\n\n"
    b"event: ticker\nid: 3-8\ndata: null\n\n"
    b"data: {}\n\n"
)
EVENTS = [
    Event("snapshot", "3-7", b'{"a": "b: c"}'),
    Event("ticker", "3-8", b"null"),
    Event("message", "", b"{}"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_bytes_are_cut(places: list[int]) -> None:
    cuts = [0, *sorted(places), len(STREAM)]
    reader = Reader()
    found = [event for a, b in pairwise(cuts) for event in reader.take(STREAM[a:b])]
    assert found == EVENTS


def test_half_an_event_is_none() -> None:
    reader = Reader()
    assert reader.take(b"event: candle\nid: 1-1\ndata: {}\n") == []
    assert reader.take(b"\n") == [Event("candle", "1-1", b"{}")]
