"""What `watch` tells of candles: each that closed, and each revision, once."""

from __future__ import annotations

from answers import START_US, candle, candle_event, live, product, snapshot_event, ticker, ticker_event

from candlewick.terminal.watch import marks
from candlewick.terminal.watched import KEPT, Change, Watched, in_words, remarks


def fresh() -> Watched:
    return Watched("coinbase", "BTC-USD", "1m")


def test_a_candle_is_told_when_it_closes_and_at_each_revision() -> None:
    known = fresh()
    assert known.take(snapshot_event([candle(0), candle(1, state="open")]), 0) == []
    assert known.take(candle_event(candle(1, state="open", close="1")), 0) == []
    closed = candle(1)
    assert known.take(candle_event(closed), 0) == [live(closed)]
    assert known.take(candle_event(closed), 0) == []
    amended = candle(1, revision=1, late_trades=1)
    assert known.take(candle_event(amended), 0) == [live(amended)]
    assert known.take(candle_event(closed), 0) == []  # an older one
    assert known.candle == live(amended)


def test_what_a_worker_folds_again_after_it_was_killed_is_not_told_again() -> None:
    known = fresh()
    known.take(snapshot_event([candle(0, state="open")]), 0)
    amended = candle(0, revision=1, late_trades=1)
    assert known.take(candle_event(candle(0)), 0)
    assert known.take(candle_event(amended), 0)
    for again in (candle(0, state="open"), candle(0), amended):
        assert known.take(candle_event(again), 0) == []
        assert known.candle == live(amended)
    assert known.take(candle_event(candle(0, revision=2)), 0)


def test_what_a_later_snapshot_brings_was_missed_and_is_told() -> None:
    known = fresh()
    known.take(snapshot_event([candle(0), candle(1, state="open")]), 0)
    missed = [candle(0, revision=1), candle(1), candle(2), candle(3, state="open")]
    assert known.take(snapshot_event(missed), 0) == missed[:3]
    assert known.take(snapshot_event(missed), 0) == []
    assert [item.start_ms for item in known.candles] == [item.start_ms for item in missed]


def test_an_old_candle_finds_its_place() -> None:
    known = fresh()
    known.take(snapshot_event([candle(5), candle(9, state="open")]), 0)
    old = candle(7, revision=3)
    assert known.take(candle_event(old), 0) == [live(old)]
    assert [item.start_ms for item in known.candles] == [candle(m).start_ms for m in (5, 7, 9)]
    assert known.take(candle_event(candle(1)), 0)
    assert known.candles[0].start_ms == candle(1).start_ms


def test_so_many_are_kept() -> None:
    known = fresh()
    known.take(snapshot_event([candle(minute) for minute in range(KEPT + 10)]), 0)
    assert len(known.candles) == KEPT
    assert known.candles[-1].start_ms == candle(KEPT + 9).start_ms


def test_the_day_is_for_the_change_alone() -> None:
    known = fresh()
    assert known.take(snapshot_event([candle(0, open="80000")], "1d"), 0) == []
    assert known.candles == []
    assert known.take(snapshot_event([candle(0)]), 0) == []  # this one is the first of its window
    known.take(ticker_event(ticker("84000")), 0)
    assert str(known.today) == "+4000 +5.00 %"


def test_bid_and_ask_are_there_while_the_book_is_in_step() -> None:
    known = fresh()
    known.take(ticker_event(None), 0)
    assert (known.price, known.quotes, known.book) == (None, None, "out of step")
    known.take(ticker_event(ticker()), 0)
    assert known.quotes == ("83468.64", "83472.53", "3.89", "83470.585")
    assert known.book == "in step"
    known.take(ticker_event(ticker(bid=None)), 0)
    assert (known.quotes, known.book) == (None, "out of step")
    known.note_status(product(book="none"), 0)
    assert known.book == "none"


def test_the_last_trade_is_as_old_as_the_worker_says_or_younger() -> None:
    known = fresh()
    known.take(ticker_event(ticker()), 50.0)
    assert known.traded_at is None  # it may have been long ago
    known.note_status(product(last_trade_age_ms=5000), 50.0)
    assert known.traded_at == 45.0
    known.take(ticker_event(ticker(trade_id=5001)), 52.0)
    assert known.traded_at == 52.0
    known.note_status(product(last_trade_age_ms=5000), 53.0)
    assert known.traded_at == 52.0


def test_a_line_says_what_a_program_can_split() -> None:
    words = in_words("coinbase", "BTC-USD", "1m", candle()).split()
    assert words[:4] == ["2026-11-21T12:37:00Z", "coinbase:BTC-USD", "1m", "closed"]
    assert dict(zip(words[4:-1:2], words[5::2], strict=True)) == {
        "open": "83423.23", "high": "83435.83", "low": "83411.91", "close": "83421.85", "volume": "0.57453361",
        "vwap": "83426.1465488", "trades": "79",
    }  # fmt: skip
    amended = in_words("coinbase", "BTC-USD", "1m", candle(revision=2, complete=False, missing_trades=3))
    assert " amended 2 open " in amended
    assert amended.endswith(" missing 3")
    assert in_words("coinbase", "BTC-USD", "1m", candle(complete=False)).endswith(" incomplete")


def test_what_is_not_as_usual_is_remarked() -> None:
    assert remarks(candle()) == ""
    assert (
        remarks(candle(state="open", revision=1, complete=False, synthetic=True))
        == "open, rev 1, partial, filled"
    )


def test_a_change_is_exact() -> None:
    change = Change.between("0.00000003", "0.00000004")
    assert (str(change), change.arrow) == ("+0.00000001 +33.33 %", "▲")
    assert str(Change.between("100", "99.5")) == "-0.5 -0.50 %"
    assert Change.between("1", "1.00").arrow == "="


def test_only_candles_of_the_window_mark_how_far_a_stream_came() -> None:
    of_window = marks("1m")
    assert of_window(snapshot_event([candle()]))
    assert of_window(candle_event(candle()))
    assert not of_window(candle_event(candle(), "1d"))
    assert not of_window(ticker_event(ticker()))
    assert not of_window(ticker_event(None))
    assert START_US % 60_000_000 == 0
