"""Tapes: a log of trades and heartbeats into rows, against a recomputation from the whole log.

`recompute` below keeps sets of trades and adds fractions up anew for whatever is asked; it knows
neither runs, nor merges, nor offsets that were taken in before. Everything that the folds do to
be fast, or to go on after a crash, must come to its answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candle import Candle
from models.tape import CandleChange, CandleRow, Tape, TapeState, completeness, describe
from models.trade import Heartbeat, Trade
from models.window import BY_NAME, WINDOWS

THOROUGH = settings(deadline=None, max_examples=70)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MIDNIGHT = 1_700_006_400_000_000
GRACE = 5 * SECOND

Key = tuple[str, int]
Event = Trade | Heartbeat
Log = list[tuple[int, Event]]
Rows = dict[Key, CandleRow]


def trade(
    trade_id: int, time_us: int, price: str = "1", size: str = "1", side: str = "buy", received_us: int = 0
) -> Trade:
    decimals = Decimal(price), Decimal(size)
    return Trade("coinbase", "BTC-USD", trade_id, *decimals, side, time_us, received_us)  # type: ignore[arg-type]


def heartbeat(last_trade_id: int, time_us: int) -> Heartbeat:
    return Heartbeat("coinbase", "BTC-USD", last_trade_id, time_us, 0)


def log_of(*events: Event) -> Log:
    return list(enumerate(events))


def new_tape(grace_us: int = GRACE) -> Tape:
    return Tape("BTC-USD", TapeState(), {}, grace_us)


def folded(log: Log, grace_us: int = GRACE) -> tuple[Tape, list[CandleChange]]:
    tape = new_tape(grace_us)
    return tape, tape.fold(log)


def stored(value: Any) -> Any:
    """Return a copy as a table gives it back."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


def restored(state: TapeState, rows: Rows, grace_us: int = GRACE) -> Tape:
    return Tape("BTC-USD", stored(state), {key: stored(row) for key, row in rows.items()}, grace_us)


def copy_of(tape: Tape) -> tuple[TapeState, Rows]:
    return stored(tape.state), {key: stored(row) for key, row in tape.rows.items()}


def sent(changes: Iterable[CandleChange]) -> list[tuple[str, int, int, bytes]]:
    """Return changes as they go out, byte for byte."""
    return [
        (change.window.name, change.start_us, change.offset, msgspec.json.encode(change.value))
        for change in changes
    ]


def candles_shown(tape: Tape) -> dict[Key, Any]:
    return {
        key: describe(BY_NAME[key[0]], key[1], row, tape.state)["candle"] for key, row in tape.rows.items()
    }


def told(changes: Iterable[CandleChange]) -> list[tuple[str, int, int, int]]:
    """Return the window, start, revision and late trades of each change."""
    return [
        (change.window.name, change.start_us, candle["revision"], candle["late_trades"])
        for change in changes
        for candle in [change.value["candle"]]
        if isinstance(candle, dict)
    ]


# The independent computation.


@dataclass
class Expected:
    """What rows, state and changes must be, from the log alone."""

    trades: dict[Key, dict[int, Trade]] = field(default_factory=dict)
    closed: set[Key] = field(default_factory=set)
    revision: dict[Key, int] = field(default_factory=dict)
    late: dict[Key, int] = field(default_factory=dict)
    offset: dict[Key, int] = field(default_factory=dict)
    seen: dict[int, Trade] = field(default_factory=dict)
    known: int = 0
    watermark: int = 0
    duplicates: int = 0
    changes: list[tuple[str, int, int, dict[str, Any]]] = field(default_factory=list)

    def shown(self, key: Key) -> dict[str, Any]:
        inside = self.trades[key].values()
        in_time = sorted(inside, key=lambda each: (each.event_time_us, each.trade_id))
        prices = [Fraction(each.price) for each in in_time]
        volume = sum((Fraction(each.size) for each in inside), Fraction())
        quote_volume = sum((Fraction(each.size) * Fraction(each.price) for each in inside), Fraction())
        buy_volume = sum((Fraction(each.size) for each in inside if each.taker_side == "buy"), Fraction())
        first, last = min(self.trades[key]), max(self.trades[key])
        # Every id from the one before the first, where that is not 0, to the next that was seen
        # after the last, or to the highest that is known, should have been seen.
        next_seen = min((each for each in self.seen if each > last), default=self.known + 1)
        last_seen_before = max((each for each in self.seen if each < first), default=first - 1)
        should_be = set(range(last_seen_before + 1, next_seen))
        before_is_known = first == 1 or first - 1 in self.seen
        missing = len(should_be - set(self.seen))
        return {
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": volume,
            "quote_volume": quote_volume,
            "vwap": quote_volume / volume,
            "trade_count": len(inside),
            "buy_volume": buy_volume,
            "sell_volume": volume - buy_volume,
            "first_trade_id": first,
            "last_trade_id": last,
            "state": "closed" if key in self.closed else "open",
            "complete": before_is_known and not missing,
            "late_trades": self.late[key],
            "missing_trades": missing,
            "revision": self.revision[key],
        }

    def tell(self, key: Key, offset: int) -> None:
        self.changes.append((*key, offset, self.shown(key)))


def recompute(log: Log, grace_us: int = GRACE) -> Expected:
    expected = Expected()
    for offset, event in log:
        if isinstance(event, Trade):
            expected.seen.setdefault(event.trade_id, event)
            expected.known = max(expected.known, event.trade_id)
            for window in WINDOWS:
                start_us = event.event_time_us // window.size_us * window.size_us
                key = (window.name, start_us)
                is_over = expected.watermark >= start_us + window.size_us + grace_us
                inside = expected.trades.setdefault(key, {})
                expected.offset[key] = offset
                if event.trade_id in inside:
                    expected.duplicates += window is WINDOWS[0]
                    continue
                amended = is_over and bool(inside)
                inside[event.trade_id] = event
                expected.revision[key] = expected.revision.get(key, 0) + amended
                expected.late[key] = expected.late.get(key, 0) + is_over
                if is_over:
                    expected.closed.add(key)
                    expected.tell(key, offset)
        else:
            expected.known = max(expected.known, event.last_trade_id)
        expected.watermark = max(expected.watermark, event.event_time_us)
        ends = sorted(
            (start_us + BY_NAME[name].size_us, BY_NAME[name].size_us, name, start_us)
            for name, start_us in expected.trades.keys() - expected.closed
        )
        for end_us, _, name, start_us in ends:
            if expected.watermark >= end_us + grace_us:
                expected.closed.add((name, start_us))
                expected.offset[name, start_us] = offset
                expected.tell((name, start_us), offset)
    return expected


def in_fractions(candle: dict[str, Any]) -> dict[str, Any]:
    """Return a candle as it is shown, its decimals as exact numbers; vwap is looked at apart."""
    shown = {
        name: Fraction(value) if isinstance(value, str) and name != "state" else value
        for name, value in candle.items()
    }
    return {name: value for name, value in shown.items() if name != "vwap"}


def assert_shown(candle: dict[str, Any], expected: dict[str, Any]) -> None:
    assert in_fractions(candle) == {name: value for name, value in expected.items() if name != "vwap"}
    assert not any("E" in value for value in candle.values() if isinstance(value, str))
    assert abs(Fraction(candle["vwap"]) - expected["vwap"]) <= expected["vwap"] / 10**11


def assert_figures(tape: Tape, expected: Expected) -> None:
    """Compare what the rows hold of the market, whatever they say of their history."""
    assert tape.rows.keys() == expected.trades.keys()
    for key, candle in candles_shown(tape).items():
        history = {"state", "complete", "late_trades", "missing_trades", "revision"}
        wanted = expected.shown(key)
        assert_shown(
            {name: value for name, value in candle.items() if name not in history},
            {name: value for name, value in wanted.items() if name not in history},
        )


def assert_tape(tape: Tape, expected: Expected) -> None:
    assert tape.rows.keys() == expected.trades.keys()
    for key, candle in candles_shown(tape).items():
        assert_shown(candle, expected.shown(key))
        assert tape.rows[key].offset == expected.offset[key]
    state = tape.state
    assert state.watermark_us == expected.watermark
    assert state.last_known_id == expected.known
    assert state.duplicates == expected.duplicates
    assert sorted(state.open) == sorted(expected.trades.keys() - expected.closed)
    assert state.latest == latest_of(expected.trades)
    assert state.latest_closed == latest_of(expected.closed)
    assert {number for low, high in state.seen for number in range(low, high + 1)} == set(expected.seen)
    in_time = sorted(expected.seen.values(), key=lambda each: (each.event_time_us, each.trade_id))
    assert state.last_trade == (in_time[-1] if in_time else None)


def latest_of(keys: Iterable[Key]) -> dict[str, int]:
    latest: dict[str, int] = {}
    for name, start_us in keys:
        latest[name] = max(start_us, latest.get(name, start_us))
    return latest


# Logs.


STEPS = (0, 1, SECOND, 10 * SECOND, 10 * SECOND, 20 * SECOND, 58 * SECOND, 20 * MINUTE, HOUR, DAY)
PACES = st.sampled_from(((10 * SECOND,), (0, 3 * SECOND, 20 * SECOND), STEPS, STEPS))
TROUBLE = ("late", "twice", "lost", "heartbeat", "heartbeat")
KINDS = st.sampled_from((("trade",), ("trade",) * 8 + ("late", "heartbeat"), ("trade",) * 6 + TROUBLE))
numbers = st.builds(
    lambda digits, places: Decimal((0, tuple(map(int, str(digits))), -places)),
    st.integers(1, 10**28 - 1) | st.integers(1, 10**5),
    st.integers(0, 28),
)


@st.composite
def logs(draw: st.DrawFn, max_size: int = 25) -> Log:
    """Draw the log of a market: ids rise with time there, but some trades come late, twice or never."""
    time_us = MIDNIGHT + draw(st.sampled_from((0, 30 * SECOND, HOUR - 20 * SECOND, DAY - 70 * SECOND)))
    trade_id = draw(st.sampled_from((0, 0, 7)))
    pace, kinds = draw(PACES), draw(KINDS)
    placed: list[tuple[int, int, Event]] = []
    for place in range(draw(st.integers(1, max_size))):
        time_us += draw(st.sampled_from(pace))
        kind = draw(st.sampled_from(kinds))
        if kind == "heartbeat":
            ahead_us = draw(st.sampled_from((0, 0, 0, 2 * MINUTE)))
            placed.append((place, len(placed), heartbeat(trade_id, time_us + ahead_us)))
            continue
        trade_id += 1
        if kind == "lost":
            continue
        one = Trade(
            "coinbase",
            "BTC-USD",
            trade_id,
            draw(numbers),
            draw(numbers),
            draw(st.sampled_from(("buy", "sell"))),
            time_us - draw(st.sampled_from((0, 0, 0, 1, 2 * SECOND))),
            0,
        )
        delay = draw(st.integers(1, 12)) if kind == "late" else 0
        placed.append((place + delay, len(placed), one))
        if kind == "twice":
            placed.append((place + draw(st.integers(0, 12)), len(placed), one))
    first_offset, step = draw(st.sampled_from(((0, 1), (1000, 3))))
    return [
        (first_offset + step * index, msgspec.structs.replace(event, received_time_us=MIDNIGHT + index))
        for index, (_, _, event) in enumerate(sorted(placed, key=lambda each: each[:2]))
    ]


graces = st.sampled_from((GRACE, 20 * SECOND, 0, 90 * SECOND))


def cuts(log: Log) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(log)), max_size=6).map(sorted)


def batches(log: Log, at: list[int]) -> list[Log]:
    return [log[low:high] for low, high in zip([0, *at], [*at, len(log)], strict=True)]


# Properties.


@THOROUGH
@given(logs(), graces)
def test_rows_state_and_changes_are_those_of_the_whole_log(log: Log, grace_us: int) -> None:
    tape, changes = folded(log, grace_us)
    expected = recompute(log, grace_us)
    assert_tape(tape, expected)
    assert tape.state.offset == (log[-1][0] if log else -1)
    assert len(changes) == len(expected.changes)
    for change, (name, start_us, offset, shown) in zip(changes, expected.changes, strict=True):
        assert (change.window.name, change.start_us, change.offset) == (name, start_us, offset)
        candle = change.value["candle"]
        assert isinstance(candle, dict)
        assert_shown(candle, shown)


@THOROUGH
@given(logs(), graces, st.data())
def test_a_log_cut_into_batches_anywhere_gives_the_same(log: Log, grace_us: int, data: st.DataObject) -> None:
    whole, changes = folded(log, grace_us)
    tape, told_by_batch = new_tape(grace_us), []
    for batch in batches(log, data.draw(cuts(log))):
        told_by_batch += tape.fold(batch)
    assert tape.rows == whole.rows
    assert tape.state == whole.state
    assert sent(told_by_batch) == sent(changes)


@THOROUGH
@given(logs(), graces, st.data())
def test_records_that_come_again_change_nothing(log: Log, grace_us: int, data: st.DataObject) -> None:
    tape, told_at_first = new_tape(grace_us), []
    read = 0
    for read_to in [*data.draw(cuts(log)), len(log)]:
        told_at_first += tape.fold(log[data.draw(st.integers(0, read)) : read_to])
        read = read_to
        before = copy_of(tape)
        low, high = sorted((data.draw(st.integers(0, read)), data.draw(st.integers(0, read))))
        assert tape.fold(log[low:high]) == []
        assert copy_of(tape) == before
    whole, changes = folded(log, grace_us)
    assert copy_of(tape) == copy_of(whole)
    assert sent(told_at_first) == sent(changes)


@THOROUGH
@given(logs(), graces, st.data())
def test_after_a_crash_an_older_copy_comes_to_the_same_rows_and_tells_the_same(
    log: Log, grace_us: int, data: st.DataObject
) -> None:
    kept_at = data.draw(st.integers(0, len(log)))
    before, told_before = folded(log[:kept_at], grace_us)
    tape = restored(before.state, dict(before.rows), grace_us)
    again = log[data.draw(st.integers(0, kept_at)) :]
    told_after: list[CandleChange] = []
    for batch in batches(again, data.draw(cuts(again))):
        told_after += tape.fold(batch)
    whole, changes = folded(log, grace_us)
    assert copy_of(tape) == copy_of(whole)
    assert sent(told_before) + sent(told_after) == sent(changes)


@THOROUGH
@given(logs(), graces, st.data())
def test_a_torn_copy_read_again_from_the_start_gives_the_same_figures(
    log: Log, grace_us: int, data: st.DataObject
) -> None:
    """State and each row may be of different ages, or not be there at all."""
    points = sorted({data.draw(st.integers(0, len(log))) for _ in range(3)} | {0})
    copies = [copy_of(folded(log[:point], grace_us)[0]) for point in points]
    state, newest = data.draw(st.sampled_from(copies))[0], copies[-1][1]
    rows = {}
    for key in newest:
        row = data.draw(st.sampled_from(copies))[1].get(key)
        if row is not None:
            rows[key] = row
    tape = restored(state, rows, grace_us)
    for batch in batches(log, data.draw(cuts(log))):
        tape.fold(batch)
    assert_figures(tape, recompute(log, grace_us))


@pytest.mark.parametrize("newer", ["rows", "state"])
def test_a_torn_copy_still_closes_each_candle_once(newer: str) -> None:
    log = log_of(trade(1, MIDNIGHT), trade(2, MIDNIGHT + 1), heartbeat(2, MIDNIGHT + MINUTE + GRACE))
    (old_state, old_rows), (new_state, new_rows) = (copy_of(folded(log[:point])[0]) for point in (0, 2))
    tape = restored(old_state, new_rows) if newer == "rows" else restored(new_state, old_rows)
    assert told(tape.fold(log)) == [("1m", MIDNIGHT, 0, 0)]
    assert tape.rows["1m", MIDNIGHT].closed
    assert tape.state.latest == dict.fromkeys(BY_NAME, MIDNIGHT)
    assert sorted(tape.state.open) == [("1d", MIDNIGHT), ("1h", MIDNIGHT)]


def test_a_torn_copy_whose_row_missed_its_close_is_closed_again() -> None:
    log = log_of(trade(1, MIDNIGHT), heartbeat(1, MIDNIGHT + MINUTE + GRACE))
    (_, old_rows), (new_state, _) = (copy_of(folded(log[:point])[0]) for point in (1, 2))
    tape = restored(new_state, old_rows)
    tape.fold(log)
    assert tape.rows["1m", MIDNIGHT].closed


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**9), st.permutations(range(1, 13)))
def test_any_order_within_the_grace_gives_the_same_candles(start_us: int, order: list[int]) -> None:
    in_order = [trade(number, start_us + number * SECOND // 3, price=str(number)) for number in range(1, 13)]
    tape, _ = folded(log_of(*in_order))
    shuffled, _ = folded(log_of(*(in_order[number - 1] for number in order)))
    assert {key: row.candle for key, row in shuffled.rows.items()} == {
        key: row.candle for key, row in tape.rows.items()
    }
    assert all(row.late_trades == row.revision == 0 for row in shuffled.rows.values())


@settings(deadline=None, max_examples=30)
@given(logs(max_size=40))
def test_the_small_windows_sum_up_to_the_large_ones_late_trades_included(log: Log) -> None:
    tape, _ = folded(log)
    exact = ("volume", "quote_volume", "buy_volume", "sell_volume", "trade_count")
    shown = candles_shown(tape)
    for small, large in (("1m", "1h"), ("1h", "1d")):
        sums: dict[int, dict[str, Fraction]] = {}
        for (name, start_us), candle in shown.items():
            if name == small:
                sums_of_one = sums.setdefault(
                    BY_NAME[large].start_of(start_us), dict.fromkeys(exact, Fraction())
                )
                for figure in exact:
                    sums_of_one[figure] += Fraction(candle[figure])
        for start_us, sums_of_one in sums.items():
            assert {figure: Fraction(shown[large, start_us][figure]) for figure in exact} == sums_of_one


# Closing.


def test_a_candle_closes_when_the_watermark_is_past_its_end_and_the_grace() -> None:
    end = MIDNIGHT + MINUTE
    tape = new_tape()
    assert tape.fold([(0, trade(1, MIDNIGHT))]) == []
    assert tape.fold([(1, trade(2, end + GRACE - 1))]) == []
    assert candles_shown(tape)["1m", MIDNIGHT]["state"] == "open"
    [change] = tape.fold([(2, trade(3, end + GRACE))])
    assert (change.window.name, change.start_us, change.offset) == ("1m", MIDNIGHT, 2)
    assert change.value["start"] == "2023-11-15T00:00:00Z"
    assert change.value["end"] == "2023-11-15T00:01:00Z"
    assert change.value["start_ms"] == MIDNIGHT // 1000
    assert change.value["candle"] == candles_shown(tape)["1m", MIDNIGHT]
    assert candles_shown(tape)["1m", MIDNIGHT]["state"] == "closed"
    assert candles_shown(tape)["1m", MIDNIGHT]["revision"] == 0
    assert candles_shown(tape)["1m", end]["trade_count"] == 2


def test_a_candle_closes_at_the_record_that_passed_its_grace_not_at_the_next() -> None:
    due = MIDNIGHT + MINUTE + GRACE
    log = log_of(trade(1, MIDNIGHT), trade(2, due - 1), trade(3, due), trade(4, due - 1), trade(5, due + 1))
    _, [change] = folded(log)
    assert change.offset == 2


def test_a_heartbeat_closes_the_candle_of_a_quiet_symbol() -> None:
    tape = new_tape()
    tape.fold([(0, trade(1, MIDNIGHT))])
    assert tape.fold([(1, heartbeat(1, MIDNIGHT + MINUTE + GRACE - 1))]) == []
    assert told(tape.fold([(2, heartbeat(1, MIDNIGHT + MINUTE + GRACE))])) == [("1m", MIDNIGHT, 0, 0)]
    assert tape.fold([(3, heartbeat(1, MIDNIGHT + 10 * MINUTE))]) == []


def test_a_heartbeat_of_the_past_moves_nothing_back() -> None:
    tape = new_tape()
    tape.fold(log_of(trade(5, MIDNIGHT + 30 * SECOND), heartbeat(3, MIDNIGHT)))
    assert tape.state.watermark_us == MIDNIGHT + 30 * SECOND
    assert tape.state.last_known_id == 5


def test_heartbeats_alone_make_no_candle() -> None:
    tape, changes = folded(log_of(heartbeat(9, MIDNIGHT), heartbeat(9, MIDNIGHT + 2 * DAY)))
    assert (tape.rows, changes, tape.state.latest) == ({}, [], {})


def test_candles_close_by_their_end_the_smaller_first() -> None:
    last_minute = MIDNIGHT + DAY - MINUTE
    earlier = last_minute - 10 * MINUTE
    log = log_of(
        trade(1, last_minute), trade(2, earlier), trade(3, MIDNIGHT), heartbeat(3, MIDNIGHT + DAY + GRACE)
    )
    _, changes = folded(log, grace_us=DAY)
    assert changes == []
    _, changes = folded([*log, (4, heartbeat(3, MIDNIGHT + 2 * DAY))], grace_us=DAY)
    assert [(change.window.name, change.start_us) for change in changes] == [
        ("1m", MIDNIGHT),
        ("1h", MIDNIGHT),
        ("1m", earlier),
        ("1m", last_minute),
        ("1h", last_minute - 59 * MINUTE),
        ("1d", MIDNIGHT),
    ]
    assert {change.offset for change in changes} == {4}


# Late trades.


def a_closed_minute() -> tuple[Tape, int]:
    """Return a tape whose first minute is closed, and its next offset."""
    tape, _ = folded(log_of(trade(1, MIDNIGHT, "10"), trade(3, MIDNIGHT + 2 * MINUTE, "12")))
    return tape, 2


def test_a_late_trade_amends_what_is_closed_and_the_open_windows_simply_take_it() -> None:
    tape, offset = a_closed_minute()
    changes = tape.fold([(offset, trade(2, MIDNIGHT + 1, "99"))])
    assert told(changes) == [("1m", MIDNIGHT, 1, 1)]
    shown = candles_shown(tape)
    assert (shown["1m", MIDNIGHT]["high"], shown["1m", MIDNIGHT]["close"]) == ("99", "99")
    assert shown["1m", MIDNIGHT]["state"] == "closed"
    for name in ("1h", "1d"):
        candle = shown[name, MIDNIGHT]
        assert (candle["high"], candle["close"], candle["trade_count"]) == ("99", "12", 3)
        assert (candle["state"], candle["revision"], candle["late_trades"]) == ("open", 0, 0)


def test_a_trade_later_than_a_day_amends_all_windows_each_time_by_one() -> None:
    tape, _ = folded(log_of(trade(1, MIDNIGHT), heartbeat(9, MIDNIGHT + 2 * DAY)))
    assert told(tape.fold([(2, trade(2, MIDNIGHT + 1))])) == [(name, MIDNIGHT, 1, 1) for name in BY_NAME]
    assert told(tape.fold([(3, trade(3, MIDNIGHT + 2))])) == [(name, MIDNIGHT, 2, 2) for name in BY_NAME]
    assert tape.state.watermark_us == MIDNIGHT + 2 * DAY


def test_a_late_trade_that_comes_twice_amends_once() -> None:
    tape, offset = a_closed_minute()
    late = trade(2, MIDNIGHT + 1)
    assert len(tape.fold([(offset, late)])) == 1
    shown = candles_shown(tape)
    assert tape.fold([(offset + 1, late), (offset + 2, late)]) == []
    assert candles_shown(tape) == shown
    assert tape.state.duplicates == 2


def test_a_trade_out_of_order_within_the_grace_is_not_late() -> None:
    end = MIDNIGHT + MINUTE
    tape, changes = folded(log_of(trade(1, MIDNIGHT), trade(3, end + GRACE - 1), trade(2, end - 1, "7")))
    assert changes == []
    candle = candles_shown(tape)["1m", MIDNIGHT]
    assert (candle["close"], candle["state"], candle["late_trades"], candle["revision"]) == (
        "7",
        "open",
        0,
        0,
    )


def test_a_late_trade_of_a_window_without_a_candle_makes_one_that_is_closed() -> None:
    tape, _ = folded(log_of(trade(5, MIDNIGHT + 3 * HOUR)))
    changes = tape.fold([(1, trade(4, MIDNIGHT + MINUTE))])
    assert told(changes) == [("1m", MIDNIGHT + MINUTE, 0, 1), ("1h", MIDNIGHT, 0, 1)]
    assert tape.rows["1m", MIDNIGHT + MINUTE].closed
    assert not tape.rows["1d", MIDNIGHT].closed
    assert tape.state.latest["1m"] == MIDNIGHT + 3 * HOUR
    assert tape.state.latest_closed == {"1m": MIDNIGHT + MINUTE, "1h": MIDNIGHT}


def test_a_duplicate_in_the_feed_is_counted_once() -> None:
    one = trade(1, MIDNIGHT, size="2")
    tape, _ = folded(log_of(one, one, one))
    assert {candle["volume"] for candle in candles_shown(tape).values()} == {"2"}
    assert tape.state.duplicates == 2


# Complete or not.


def completeness_of(tape: Tape, start_us: int, name: str = "1m") -> tuple[bool, int]:
    candle = candles_shown(tape)[name, start_us]
    complete, missing = completeness(tape.rows[name, start_us], tape.state)
    assert (candle["complete"], candle["missing_trades"]) == (complete, missing)
    return complete, missing


def test_the_first_trade_that_a_symbol_ever_had_needs_none_before_it() -> None:
    assert completeness_of(folded(log_of(trade(1, MIDNIGHT)))[0], MIDNIGHT) == (True, 0)


def test_a_candle_that_we_joined_in_the_middle_is_not_complete() -> None:
    tape, _ = folded(log_of(trade(7, MIDNIGHT), trade(8, MIDNIGHT + MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (False, 0)
    assert completeness_of(tape, MIDNIGHT, "1h") == (False, 0)
    assert completeness_of(tape, MIDNIGHT + MINUTE) == (True, 0)


def test_a_candle_is_complete_when_the_id_before_it_lies_in_an_earlier_window() -> None:
    tape, _ = folded(log_of(trade(7, MIDNIGHT - 1), trade(8, MIDNIGHT), trade(9, MIDNIGHT + MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (True, 0)


def test_a_hole_inside_counts_its_ids_and_a_repair_makes_the_candle_complete() -> None:
    tape, _ = folded(log_of(trade(1, MIDNIGHT), trade(5, MIDNIGHT + 9), trade(6, MIDNIGHT + 2 * MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (False, 3)
    [first] = tape.fold([(3, trade(3, MIDNIGHT + 4))])
    assert completeness_of(tape, MIDNIGHT) == (False, 2)
    _, last = tape.fold([(4, trade(2, MIDNIGHT + 3)), (5, trade(4, MIDNIGHT + 5))])
    assert completeness_of(tape, MIDNIGHT) == (True, 0)
    assert completeness_of(tape, MIDNIGHT, "1d") == (True, 0)
    assert msgspec.json.encode(first.value).count(b'"complete":false,"late_trades":1,"missing_trades":2') == 1
    assert msgspec.json.encode(last.value).count(b'"complete":true,"late_trades":3,"missing_trades":0') == 1


def test_a_hole_between_two_windows_is_missing_in_both() -> None:
    tape, _ = folded(log_of(trade(1, MIDNIGHT), trade(4, MIDNIGHT + MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (False, 2)
    assert completeness_of(tape, MIDNIGHT + MINUTE) == (False, 2)
    assert completeness_of(tape, MIDNIGHT, "1h") == (False, 2)


def test_a_heartbeat_that_knows_of_more_trades_says_what_is_missing() -> None:
    tape, _ = folded(log_of(trade(1, MIDNIGHT)))
    [change] = tape.fold([(1, heartbeat(3, MIDNIGHT + MINUTE + GRACE))])
    assert completeness_of(tape, MIDNIGHT) == (False, 2)
    assert b'"complete":false,"late_trades":0,"missing_trades":2' in msgspec.json.encode(change.value)
    tape.fold([(2, trade(2, MIDNIGHT + 1)), (3, trade(3, MIDNIGHT + MINUTE))])
    assert completeness_of(tape, MIDNIGHT) == (True, 0)


def test_ids_that_fell_into_another_window_are_not_missing() -> None:
    tape, _ = folded(
        log_of(
            trade(1, MIDNIGHT),
            trade(2, MIDNIGHT + MINUTE),
            trade(3, MIDNIGHT + 1),
            trade(4, MIDNIGHT + MINUTE),
        )
    )
    assert completeness_of(tape, MIDNIGHT) == (True, 0)
    assert completeness_of(tape, MIDNIGHT + MINUTE) == (True, 0)


# The latest.


def test_the_latest_candles_are_by_time_not_by_arrival() -> None:
    tape, _ = folded(
        log_of(trade(2, MIDNIGHT + HOUR + MINUTE), trade(1, MIDNIGHT), trade(3, MIDNIGHT + 2 * HOUR))
    )
    assert tape.state.latest == {"1m": MIDNIGHT + 2 * HOUR, "1h": MIDNIGHT + 2 * HOUR, "1d": MIDNIGHT}
    assert tape.state.latest_closed == {"1m": MIDNIGHT + HOUR + MINUTE, "1h": MIDNIGHT}


def test_the_last_trade_is_the_latest_by_time_then_id() -> None:
    tape, last = new_tape(), []
    for record in log_of(
        trade(5, MIDNIGHT + 9), trade(6, MIDNIGHT + 9), trade(4, MIDNIGHT + 9), trade(7, MIDNIGHT)
    ):
        tape.fold([record])
        assert tape.state.last_trade is not None
        last.append(tape.state.last_trade.trade_id)
    assert last == [5, 6, 6, 6]


def test_the_time_of_receipt_is_the_highest_wherever_the_log_was_cut() -> None:
    log = log_of(trade(1, MIDNIGHT, received_us=2_000), trade(2, MIDNIGHT, received_us=1_000))
    assert folded(log)[0].state.received_time_us == 2_000


@pytest.mark.parametrize(
    "time_us", [0, 1, -1, -DAY, -62_135_596_800_000_000, 4_102_444_800_000_000, 253_402_214_399_999_999]
)
@pytest.mark.parametrize("grace_us", [0, GRACE])
def test_a_time_far_away_is_folded_like_any_other(time_us: int, grace_us: int) -> None:
    log = log_of(
        trade(1, MIDNIGHT),
        trade(2, time_us),
        trade(3, MIDNIGHT + MINUTE),
        trade(4, time_us),
        heartbeat(5, time_us),
        trade(6, MIDNIGHT + 2),
    )
    tape, changes = folded(log, grace_us)
    assert_figures(tape, recompute(log, grace_us))
    assert all(msgspec.json.encode(change.value) for change in changes)
    assert copy_of(tape) == copy_of(restored(tape.state, dict(tape.rows), grace_us))


def test_a_row_and_a_state_come_back_from_json_as_they_were() -> None:
    tape, _ = a_closed_minute()
    state, rows = copy_of(tape)
    assert (state, rows) == (tape.state, tape.rows)
    assert all(isinstance(row.candle, Candle) for row in rows.values())
    assert all(msgspec.json.encode(row).startswith(b'{"offset":') for row in rows.values())
    assert msgspec.json.encode(state).startswith(b'{"offset":')
