"""What a listener of the measurement of push takes for an update, and how old it says that trades are."""

from __future__ import annotations

from bench.listening import Ear, Heard
from bench.web import _ages

HEAD = b"HTTP/1.1 200 OK\r\n\r\nretry: 1000\n\n"


def event(trade_id: int, state: bytes = b"open") -> bytes:
    return b'event: candle\nid: c1-1\ndata: {"last_trade_id":%d,"state":"%b"}\n\n' % (trade_id, state)


def test_an_update_is_heard_once_wherever_it_is_cut() -> None:
    text = HEAD + event(7) + event(12)
    for cut in range(len(text)):
        heard: dict[int, Heard] = {}
        ear = Ear(heard)
        ear.take(text[:cut], 1)
        ear.take(text[cut:], 1)
        assert {trade_id: update.listeners for trade_id, update in heard.items()} == {7: 1, 12: 1}


def test_a_candle_that_closes_is_no_late_update_of_its_last_trade() -> None:
    heard: dict[int, Heard] = {}
    ears = [Ear(heard), Ear(heard)]
    for ear in ears:
        ear.take(HEAD + event(7), 1)
    last_ns = heard[7].last_ns
    for ear in ears:
        ear.take(event(7, b"closed"), 2)
    assert (heard[7].listeners, heard[7].last_ns) == (2, last_ns)


def test_a_trade_that_was_told_with_a_later_one_has_waited_for_it() -> None:
    heard = [Heard(7, 5_000_000, 6_000_000, 2), Heard(9, 9_000_000, 10_000_000, 2)]
    sent = {6: 1_000_000, 7: 4_000_000, 8: 7_000_000, 9: 8_000_000, 10: 9_000_000}
    assert _ages(heard, sent) == [2.0, 3.0, 2.0]
