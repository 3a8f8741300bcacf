"""Tapes: a log of trades and heartbeats into rows, against a recomputation from the whole log.

`recompute` below keeps sets of trades, and every missing id by itself, and adds fractions up anew for
whatever is asked; it knows neither runs, nor merges, nor ranges, nor offsets that were taken in before.
Everything that the folds do to be fast, or to go on after a crash, must come to its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candle import Candle
from models.ledger import MAX_HOLES
from models.tape import LONG_RUN, CandleChange, CandleRow, Change, GapChange, Tape, TapeState, describe
from models.times import rfc3339
from models.trade import Heartbeat, Trade
from models.window import BY_NAME, WINDOWS, Expired

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
Keep = Mapping[str, int] | None
Timing = tuple[int, Keep]
"""The grace, and what is kept."""


def trade(
    trade_id: int, time_us: int, price: str = "1", size: str = "1", side: str = "buy", received_us: int = 0
) -> Trade:
    decimals = Decimal(price), Decimal(size)
    return Trade("coinbase", "BTC-USD", trade_id, *decimals, side, time_us, received_us)  # type: ignore[arg-type]


def heartbeat(last_trade_id: int, time_us: int) -> Heartbeat:
    return Heartbeat("coinbase", "BTC-USD", last_trade_id, time_us, 0)


def log_of(*events: Event) -> Log:
    return list(enumerate(events))


def new_tape(grace_us: int = GRACE, keep_us: Keep = None) -> Tape:
    return Tape(TapeState(), {}, grace_us, keep_us)


def fold(tape: Tape, records: Iterable[tuple[int, Event]]) -> list[Change]:
    """Fold, and let go of the rows that have expired, as the agent does."""
    changes = tape.fold(records)
    for change in changes:
        if isinstance(change, Expired):
            for name, start_us in list(tape.rows):
                if name == change.window.name and start_us < change.before_us:
                    del tape.rows[name, start_us]
    return changes


def folded(log: Log, grace_us: int = GRACE, keep_us: Keep = None) -> tuple[Tape, list[Change]]:
    tape = new_tape(grace_us, keep_us)
    changes = fold(tape, log)
    tape.settle()
    return tape, changes


def stored(value: Any) -> Any:
    """Return a copy as a table gives it back."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


def restored(state: TapeState, rows: Rows, grace_us: int = GRACE, keep_us: Keep = None) -> Tape:
    return Tape(stored(state), {key: stored(row) for key, row in rows.items()}, grace_us, keep_us)


def copy_of(tape: Tape) -> tuple[TapeState, Rows]:
    tape.settle()
    return stored(tape.state), {key: stored(row) for key, row in tape.rows.items()}


def sent(changes: Iterable[Change]) -> list[tuple[Any, ...]]:
    """Return changes as they go out, byte for byte."""
    return [
        (change.window.name, change.start_us, change.offset, msgspec.json.encode(change.candle))
        if isinstance(change, CandleChange)
        else msgspec.json.encode(change.describe("coinbase", "BTC-USD"))
        if isinstance(change, GapChange)
        else (change.window.name, change.before_us)
        for change in changes
    ]


def candles_shown(tape: Tape) -> dict[Key, Any]:
    tape.settle()
    return {
        key: msgspec.to_builtins(describe(BY_NAME[key[0]], key[1], row, tape.state))
        for key, row in tape.rows.items()
    }


def candles_in(changes: Iterable[Change]) -> list[CandleChange]:
    return [change for change in changes if isinstance(change, CandleChange)]


def gaps_in(changes: Iterable[Change]) -> list[tuple[int, int, str]]:
    """Return the first and the last missing id of each gap that was told of, and its state."""
    return [
        (change.gap.first, change.gap.last, change.state)
        for change in changes
        if isinstance(change, GapChange)
    ]


def told(changes: Iterable[Change]) -> list[tuple[str, int, int, int]]:
    """Return the window, start, revision and late trades of each candle that was told of."""
    return [
        (change.window.name, change.start_us, change.candle.revision, change.candle.late_trades)
        for change in candles_in(changes)
    ]


# The independent computation.


@dataclass
class Lack:
    """What is known of one missing id: the times that it lies between, and its gap."""

    after: int
    before: int
    gap: int


@dataclass
class Expected:
    """What rows, state and changes must be, from the log alone."""

    grace_us: int
    keep_us: Mapping[str, int]
    trades: dict[Key, dict[int, Trade]] = field(default_factory=dict)
    closed: dict[Key, tuple[bool, int]] = field(default_factory=dict)
    """The closed candles: whether complete, and how many are missing, as of their revision."""
    revision: dict[Key, int] = field(default_factory=dict)
    late: dict[Key, int] = field(default_factory=dict)
    offset: dict[Key, int] = field(default_factory=dict)
    kept_from: dict[str, int] = field(default_factory=dict)
    expired: int = 0
    duplicates: int = 0
    watermark: int = 0
    came: list[Trade] = field(default_factory=list)
    joined: tuple[int, int] | None = None
    """The first id that was spoken of, and its time."""
    top: int = -1
    floors: list[int] = field(default_factory=list)
    """Times that a trade above the top cannot be before."""
    lacks: dict[int, Lack] = field(default_factory=dict)
    gaps: dict[int, dict[str, Any]] = field(default_factory=dict)
    changes: list[tuple[Any, ...]] = field(default_factory=list)

    def completeness(self, key: Key) -> tuple[bool, int]:
        start_us, end_us = key[1], key[1] + BY_NAME[key[0]].size_us
        missing = [lack for lack in self.lacks.values() if lack.after < end_us and start_us <= lack.before]
        begins_before = self.joined is not None and self.joined[0] > 1 and start_us <= self.joined[1]
        return not missing and not begins_before, len(missing)

    def figures(self, key: Key) -> dict[str, Any]:
        inside = self.trades[key].values()
        in_time = sorted(inside, key=lambda each: (each.event_time_us, each.trade_id))
        prices = [Fraction(each.price) for each in in_time]
        volume = sum((Fraction(each.size) for each in inside), Fraction())
        quote_volume = sum((Fraction(each.size) * Fraction(each.price) for each in inside), Fraction())
        buy_volume = sum((Fraction(each.size) for each in inside if each.taker_side == "buy"), Fraction())
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
            "first_trade_id": min(self.trades[key]),
            "last_trade_id": max(self.trades[key]),
            "late_trades": self.late[key],
        }

    def shown(self, key: Key) -> dict[str, Any]:
        complete, missing = self.closed.get(key) or self.completeness(key)
        return {
            **self.figures(key),
            "state": "closed" if key in self.closed else "open",
            "complete": complete,
            "missing_trades": missing,
            "revision": self.revision[key],
        }

    def tell(self, key: Key, offset: int) -> None:
        """Tell of a closed candle as it is now."""
        self.closed[key] = self.completeness(key)
        self.offset[key] = offset
        self.changes.append(("candle", *key, offset, self.shown(key)))

    def tell_gap(self, gap: dict[str, Any], state: str, settled: str | None) -> None:
        missing = gap["last_trade_id"] - gap["first_trade_id"] + 1 if state == "open" else 0
        facts = {"state": state, "missing_trades": missing, "settled": settled}
        self.changes.append(("gap", {"exchange": "coinbase", "symbol": "BTC-USD", **gap, **facts}))

    def take(self, offset: int, event: Event) -> None:
        if isinstance(event, Trade):
            repaired = self.note_id(event.trade_id, event.event_time_us)
            self.came.append(event)
            self.add(offset, event)
        else:
            repaired = []
            self.note_heartbeat(event.last_trade_id, event.event_time_us)
        self.watermark = max(self.watermark, event.event_time_us)
        self.close(offset)
        for key in sorted(self.closed, key=lambda key: (BY_NAME[key[0]].size_us, key[1])):
            (was, missed), (now, missing) = self.closed[key], self.completeness(key)
            if was != now or (missed == 0) != (missing == 0):
                self.revision[key] += 1
                self.tell(key, offset)
        for gap in repaired:
            self.tell_gap(gap, "repaired", rfc3339(self.watermark))

    def note_heartbeat(self, last_id: int, time_us: int) -> None:
        if self.joined is None:
            self.joined, self.top, self.floors = (last_id + 1, time_us), last_id, [0, time_us - SECOND]
        elif last_id >= self.top:
            self.open_gap(range(self.top + 1, last_id + 1), max(self.floors), time_us, "heartbeat", time_us)
            self.top = last_id
            self.floors.append(time_us - SECOND)

    def note_id(self, trade_id: int, time_us: int) -> list[dict[str, Any]]:
        """Return the gap that has nothing missing any more, if there is one."""
        if self.joined is None:
            self.joined, self.top, self.floors = (trade_id, time_us), trade_id, [time_us]
        elif trade_id > self.top:
            self.open_gap(range(self.top + 1, trade_id), max(self.floors), time_us, "jump", time_us)
            self.top = trade_id
            self.floors.append(time_us)
        elif trade_id < self.joined[0]:
            self.open_gap(range(trade_id + 1, self.joined[0]), time_us, self.joined[1], "jump", time_us)
            self.joined = (trade_id, min(time_us, self.joined[1]))
        elif trade_id in self.lacks:
            gap = self.lacks.pop(trade_id).gap
            for step in (-1, 1):
                neighbour = trade_id + step
                while neighbour in self.lacks and self.lacks[neighbour].gap == gap:
                    lack = self.lacks[neighbour]
                    if step < 0:
                        lack.before = max(lack.after, time_us)
                    else:
                        lack.after = min(lack.before, time_us)
                    neighbour += step
            if all(lack.gap != gap for lack in self.lacks.values()):
                return [self.gaps.pop(gap)]
        return []

    def open_gap(self, ids: range, one_us: int, other_us: int, cause: str, detected_us: int) -> None:
        if not ids:
            return
        after, before = sorted((one_us, other_us))
        for each in ids:
            self.lacks[each] = Lack(after, before, ids[0])
        self.gaps[ids[0]] = {
            "first_trade_id": ids[0],
            "last_trade_id": ids[-1],
            "cause": cause,
            "after": rfc3339(after),
            "before": rfc3339(before),
            "detected": rfc3339(detected_us),
        }
        self.tell_gap(self.gaps[ids[0]], "open", None)

    def add(self, offset: int, event: Trade) -> None:
        for window in WINDOWS:
            start_us = event.event_time_us // window.size_us * window.size_us
            key = (window.name, start_us)
            if window.name in self.kept_from and start_us < self.kept_from[window.name]:
                self.expired += window is WINDOWS[0]
                continue
            is_over = self.watermark >= start_us + window.size_us + self.grace_us
            inside = self.trades.setdefault(key, {})
            self.offset[key] = offset
            if event.trade_id in inside:
                self.duplicates += window is WINDOWS[0]
                continue
            amended = is_over and bool(inside)
            inside[event.trade_id] = event
            self.revision[key] = self.revision.get(key, 0) + amended
            self.late[key] = self.late.get(key, 0) + is_over
            if is_over:
                self.tell(key, offset)

    def close(self, offset: int) -> None:
        ends = sorted(
            (start_us + BY_NAME[name].size_us, BY_NAME[name].size_us, name, start_us)
            for name, start_us in self.trades.keys() - self.closed.keys()
        )
        due = [each for each in ends if self.watermark >= each[0] + self.grace_us]
        for _, _, name, start_us in due:
            self.tell((name, start_us), offset)
        for window in WINDOWS:
            if window.name in self.keep_us and any(name == window.name for _, _, name, _ in due):
                self.expire(window.name, window.size_us)

    def expire(self, name: str, size_us: int) -> None:
        last = max(start_us for each, start_us in self.closed if each == name)
        before = (last - self.keep_us[name]) // size_us * size_us
        kept_from = self.kept_from.get(name, 0)
        if before > kept_from:
            self.kept_from[name] = before
            self.changes.append(("expired", name, before))
            for key in [key for key in self.trades if key[0] == name and key[1] < before]:
                for kept in (self.trades, self.closed, self.revision, self.late, self.offset):
                    kept.pop(key)  # type: ignore[attr-defined]


def recompute(log: Log, grace_us: int = GRACE, keep_us: Keep = None) -> Expected:
    expected = Expected(grace_us, keep_us or {})
    for offset, event in log:
        expected.take(offset, event)
    return expected


def in_fractions(candle: dict[str, Any]) -> dict[str, Any]:
    """Return a candle as it is shown, its decimals as exact numbers; vwap is looked at apart."""
    shown = {
        name: Fraction(value) if isinstance(value, str) and name != "state" else value
        for name, value in candle.items()
    }
    return {name: value for name, value in shown.items() if name != "vwap"}


def assert_shown(candle: Any, expected: dict[str, Any]) -> None:
    assert in_fractions(candle) == {name: value for name, value in expected.items() if name != "vwap"}
    assert not any("E" in value for value in candle.values() if isinstance(value, str))
    assert abs(Fraction(candle["vwap"]) - expected["vwap"]) <= expected["vwap"] / 10**11


def assert_told(changes: list[Change], expected: Expected) -> None:
    assert len(changes) == len(expected.changes)
    for change, (kind, *facts) in zip(changes, expected.changes, strict=True):
        if isinstance(change, CandleChange):
            assert [kind, change.window.name, change.start_us, change.offset] == ["candle", *facts[:-1]]
            assert_shown(msgspec.to_builtins(change.candle), facts[-1])
        elif isinstance(change, GapChange):
            assert [kind, msgspec.to_builtins(change.describe("coinbase", "BTC-USD"))] == ["gap", *facts]
        else:
            assert [kind, change.window.name, change.before_us] == ["expired", *facts]


def assert_figures(tape: Tape, expected: Expected) -> None:
    """Compare what the rows hold of the market, whatever they say of their history."""
    shown = {
        key: candle
        for key, candle in candles_shown(tape).items()
        if key[1] >= tape.state.kept_from.get(key[0], key[1])
    }
    assert shown.keys() == expected.trades.keys()
    history = {"state", "complete", "late_trades", "missing_trades", "revision"}
    for key, candle in shown.items():
        assert_shown(
            {name: value for name, value in candle.items() if name not in history},
            {name: value for name, value in expected.figures(key).items() if name not in history},
        )


def assert_state(state: TapeState, expected: Expected) -> None:
    assert state.watermark_us == expected.watermark
    assert state.duplicates == expected.duplicates
    assert state.expired == expected.expired
    assert sorted(state.open) == sorted(expected.trades.keys() - expected.closed.keys())
    assert state.latest == latest_of(expected.trades)
    assert state.latest_closed == latest_of(expected.closed)
    assert state.kept_from == expected.kept_from
    in_time = sorted(expected.came, key=lambda each: (each.event_time_us, each.trade_id))
    assert (state.last_trade and state.last_trade.trade_id) == (in_time[-1].trade_id if in_time else None)
    ledger = state.ledger
    assert {
        number: Lack(hole.after_us, hole.before_us, hole.gap)
        for hole in ledger.holes
        for number in range(hole.first, hole.last + 1)
    } == expected.lacks
    assert {gap.first for gap in ledger.gaps} == expected.gaps.keys()
    if expected.joined:
        assert (ledger.joined_id, ledger.joined_us) == expected.joined
        assert (ledger.top_id, ledger.top_us) == (expected.top, max(expected.floors))


def assert_tape(tape: Tape, expected: Expected) -> None:
    shown = candles_shown(tape)
    assert shown.keys() == expected.trades.keys()
    for key, candle in shown.items():
        assert_shown(candle, expected.shown(key))
        assert tape.rows[key].offset == expected.offset[key]
    assert_state(tape.state, expected)


def latest_of(keys: Iterable[Key]) -> dict[str, int]:
    latest: dict[str, int] = {}
    for name, start_us in keys:
        latest[name] = max(start_us, latest.get(name, start_us))
    return latest


# Logs.


STEPS = (0, 1, SECOND, 10 * SECOND, 10 * SECOND, 20 * SECOND, 58 * SECOND, 20 * MINUTE, HOUR, DAY)
DENSE = (0, 1, SECOND, 3 * SECOND)
PACES = st.sampled_from(
    (DENSE, (10 * SECOND,), (0, 3 * SECOND, 20 * SECOND), (MINUTE, 5 * MINUTE), STEPS, STEPS)
)
TROUBLE = ("late", "twice", "lost", "heartbeat", "heartbeat")
KINDS = st.sampled_from((("trade",), ("trade",) * 8 + ("late", "heartbeat"), ("trade",) * 6 + TROUBLE))
numbers = st.builds(
    lambda digits, places: Decimal((0, tuple(map(int, str(digits))), -places)),
    st.integers(1, 10**28 - 1) | st.integers(1, 10**5),
    st.integers(0, 28),
)


@st.composite
def logs(draw: st.DrawFn, max_size: int = 25, wild: bool = False) -> Log:
    """Draw the log of a market: ids rise with time there, but some trades come late, twice or never.

    In a wild one, times may go back from one id to the next, and heartbeats be ahead of what follows.
    """
    time_us = MIDNIGHT + draw(st.sampled_from((0, 30 * SECOND, HOUR - 20 * SECOND, DAY - 70 * SECOND)))
    trade_id = draw(st.sampled_from((0, 0, 7)))
    pace, kinds = draw(PACES), draw(KINDS)
    back = st.sampled_from((0, 0, 0, 1, 2 * SECOND) if wild else (0,))
    ahead = st.sampled_from((0, 0, 0, 2 * MINUTE) if wild else (0, 0, SECOND // 2, SECOND))
    placed: list[tuple[int, int, Event]] = []
    for place in range(draw(st.integers(1, max_size))):
        time_us += draw(st.sampled_from(pace))
        kind = draw(st.sampled_from(kinds))
        if kind == "heartbeat":
            delay = draw(st.sampled_from((0, 0, 0, 4)))
            placed.append((place + delay, len(placed), heartbeat(trade_id, time_us + draw(ahead))))
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
            time_us - draw(back),
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


Market = dict[int, Trade]
EDGES = [
    minute * MINUTE + inside
    for minute in (0, 1, 2, 4, 59, 60, 61)
    for inside in (0, SECOND // 4, 30 * SECOND, MINUTE - SECOND // 4)
]
"""Times around the ends of candles, where a hole may be in one or in the other."""


@st.composite
def markets(draw: st.DrawFn, first: int = 1) -> tuple[Market, list[Event]]:
    """Draw what was traded, by id, and all that is said of it, some of it late: ids rise with time."""
    begin_us = MIDNIGHT - draw(st.sampled_from((0, HOUR)))
    edges = EDGES[: draw(st.sampled_from((12, len(EDGES))))]
    times = sorted(draw(st.lists(st.sampled_from(edges), min_size=1, max_size=12)))
    delay = st.sampled_from(draw(st.sampled_from(((0, 0, 0, 5, 20), range(20)))))
    market: Market = {}
    said: list[tuple[int, int, Event]] = []
    for number, inside in enumerate(times, first):
        market[number] = trade(number, begin_us + inside, price=str(number))
        said.append((number + draw(delay), len(said), market[number]))
        if draw(st.booleans()):
            # What follows may be as old as a second before it.
            last = heartbeat(number, begin_us + inside + draw(st.sampled_from((0, SECOND // 2, SECOND))))
            said.append((number + draw(delay), len(said), last))
    return market, [event for *_, event in sorted(said, key=lambda each: each[:2])]


honest_logs = logs() | markets().map(lambda drawn: log_of(*drawn[1]))
any_logs = honest_logs | logs(wild=True)
graces = st.sampled_from((GRACE, 20 * SECOND, 0, 90 * SECOND))
keeps = st.sampled_from(
    (
        None,
        {"1m": 10 * MINUTE},
        {"1m": 0, "1h": 2 * HOUR},
        {"1m": 90 * SECOND, "1h": 0, "1d": 0},
    )
)
timings = st.tuples(graces, keeps)


def cuts(log: Log) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(log)), max_size=6).map(sorted)


def batches(log: Log, at: list[int]) -> list[Log]:
    return [log[low:high] for low, high in zip([0, *at], [*at, len(log)], strict=True)]


@contextmanager
def holes_limited(data: st.DataObject) -> Iterator[None]:
    """Let there be so few holes that some become one, or as many as there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.ledger.MAX_HOLES", data.draw(st.sampled_from((MAX_HOLES, 2, 1))))
        yield


def fold_in_parts(tape: Tape, log: Log, data: st.DataObject) -> list[Change]:
    """Fold a log cut anywhere, and settle, or let runs wait, anywhere."""
    changes: list[Change] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.tape.LONG_RUN", data.draw(st.sampled_from((256, 1, 3))))
        for batch in batches(log, data.draw(cuts(log))):
            changes += fold(tape, batch)
            if data.draw(st.booleans()):
                tape.settle()
    return changes


# Properties.


@THOROUGH
@given(honest_logs, timings)
def test_rows_state_and_changes_are_those_of_the_whole_log(log: Log, timing: Timing) -> None:
    tape, changes = folded(log, *timing)
    expected = recompute(log, *timing)
    assert_told(changes, expected)
    assert_tape(tape, expected)
    assert tape.state.offset == (log[-1][0] if log else -1)
    assert tape.state.received_time_us == max((event.received_time_us for _, event in log), default=0)


@THOROUGH
@given(logs(wild=True), timings)
def test_times_that_go_back_from_one_id_to_the_next_change_no_figure(log: Log, timing: Timing) -> None:
    tape, _ = folded(log, *timing)
    expected = recompute(log, *timing)
    assert_figures(tape, expected)
    assert_state(tape.state, expected)
    assert {key: row.late_trades for key, row in tape.rows.items()} == expected.late


@THOROUGH
@given(any_logs, timings, st.data())
def test_a_log_cut_into_batches_anywhere_gives_the_same(
    log: Log, timing: Timing, data: st.DataObject
) -> None:
    tape = new_tape(*timing)
    with holes_limited(data):
        whole, changes = folded(log, *timing)
        assert sent(fold_in_parts(tape, log, data)) == sent(changes)
    assert copy_of(tape) == copy_of(whole)
    assert (tape.rows, tape.state) == (whole.rows, whole.state)


@THOROUGH
@given(any_logs, timings, st.data())
def test_records_that_come_again_change_nothing(log: Log, timing: Timing, data: st.DataObject) -> None:
    tape, told_at_first = new_tape(*timing), []
    read = 0
    for read_to in [*data.draw(cuts(log)), len(log)]:
        told_at_first += fold(tape, log[data.draw(st.integers(0, read)) : read_to])
        read = read_to
        before = copy_of(tape) if data.draw(st.booleans()) else None
        low, high = sorted((data.draw(st.integers(0, read)), data.draw(st.integers(0, read))))
        assert fold(tape, log[low:high]) == []
        if before is not None:
            assert copy_of(tape) == before
    whole, changes = folded(log, *timing)
    assert copy_of(tape) == copy_of(whole)
    assert sent(told_at_first) == sent(changes)


@THOROUGH
@given(any_logs, timings, st.data())
def test_after_a_crash_an_older_copy_comes_to_the_same_rows_and_tells_the_same(
    log: Log, timing: Timing, data: st.DataObject
) -> None:
    kept_at = data.draw(st.integers(0, len(log)))
    before, told_before = folded(log[:kept_at], *timing)
    tape = restored(before.state, dict(before.rows), *timing)
    told_after = fold_in_parts(tape, log[data.draw(st.integers(0, kept_at)) :], data)
    whole, changes = folded(log, *timing)
    assert copy_of(tape) == copy_of(whole)
    assert sent(told_before) + sent(told_after) == sent(changes)


@THOROUGH
@given(any_logs, timings, st.data())
def test_a_torn_copy_read_again_from_the_start_gives_the_same_figures(
    log: Log, timing: Timing, data: st.DataObject
) -> None:
    """State and each row may be of different ages, or not be there at all."""
    points = sorted({data.draw(st.integers(0, len(log))) for _ in range(3)} | {0})
    copies = [copy_of(folded(log[:point], *timing)[0]) for point in points]
    state = data.draw(st.sampled_from(copies))[0]
    rows = {}
    for key in sorted({key for _, copied in copies for key in copied}):
        row = data.draw(st.sampled_from(copies))[1].get(key)
        if row is not None:
            rows[key] = row
    tape = restored(state, rows, *timing)
    fold_in_parts(tape, log, data)
    assert_figures(tape, recompute(log, *timing))


@THOROUGH
@given(any_logs, timings, st.data())
def test_rows_that_are_newer_than_the_state_come_to_the_same(
    log: Log, timing: Timing, data: st.DataObject
) -> None:
    """Where the write of a checkpoint is torn: rows, then the state, then what has expired."""
    points = sorted(data.draw(st.integers(0, len(log))) for _ in range(2))
    (state, older), (_, newer) = (copy_of(folded(log[:point], *timing)[0]) for point in points)
    rows = {**older, **{key: row for key, row in newer.items() if data.draw(st.booleans())}}
    tape = restored(state, rows, *timing)
    fold_in_parts(tape, log[data.draw(st.integers(0, points[0])) :], data)
    whole, _ = folded(log, *timing)
    tape.settle()
    tape.state.duplicates, tape.state.late = whole.state.duplicates, whole.state.late
    assert copy_of(tape) == copy_of(whole)


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
    log = log_of(trade(1, MIDNIGHT), heartbeat(2, MIDNIGHT + MINUTE + GRACE))
    (_, old_rows), (new_state, _) = (copy_of(folded(log[:point])[0]) for point in (1, 2))
    tape = restored(new_state, old_rows)
    tape.fold(log)
    row = tape.rows["1m", MIDNIGHT]
    assert (row.closed, row.complete, row.missing_trades) == (True, False, 1)


def test_a_row_that_is_newer_than_the_state_is_not_amended_for_what_it_includes() -> None:
    log = log_of(
        trade(1, MIDNIGHT),
        trade(4, MIDNIGHT + MINUTE),
        heartbeat(4, MIDNIGHT + 3 * MINUTE),
        trade(2, MIDNIGHT + 1),
        trade(3, MIDNIGHT + 2),
    )
    (state, _), (_, rows) = (copy_of(folded(log[:point])[0]) for point in (3, 5))
    tape = restored(state, rows)
    assert gaps_in(tape.fold(log[3:])) == [(2, 3, "repaired")]
    assert tape.state.late == 0  # the row has them already
    tape.state.late = 2
    assert copy_of(tape) == copy_of(folded(log)[0])
    assert tape.rows["1m", MIDNIGHT + MINUTE].revision == 1


@THOROUGH
@given(any_logs, timings, st.data())
def test_the_content_of_a_closed_candle_is_told_once_for_each_revision_and_is_what_is_shown(
    log: Log, timing: Timing, data: st.DataObject
) -> None:
    tape = new_tape(*timing)
    with holes_limited(data):
        changes = fold_in_parts(tape, log, data)
    content: dict[Key, list[Any]] = {}
    for change in candles_in(changes):
        content.setdefault((change.window.name, change.start_us), []).append(change.candle)
    for revisions in content.values():
        assert [candle.revision for candle in revisions] == list(range(len(revisions)))
        assert {candle.state for candle in revisions} == {"closed"}
    tape.settle()
    assert {
        key: describe(BY_NAME[key[0]], key[1], row, tape.state)
        for key, row in tape.rows.items()
        if row.closed
    } == {key: values[-1] for key, values in content.items() if key in tape.rows}


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
@given(logs(max_size=40, wild=True))
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


# Holes, against the market itself.


def ids_in(market: Market, key: Key) -> set[int]:
    """Return the ids of the trades that belong to a candle in truth."""
    end_us = key[1] + BY_NAME[key[0]].size_us
    return {number for number, one in market.items() if key[1] <= one.event_time_us < end_us}


@THOROUGH
@given(markets(), graces, st.data())
def test_holes_filled_in_any_order_leave_no_hole_and_every_candle_says_that_it_is_complete(
    drawn: tuple[Market, list[Event]], grace_us: int, data: st.DataObject
) -> None:
    market, said = drawn
    log = log_of(*said)
    tape = new_tape(grace_us)
    changes = fold_in_parts(tape, log, data)
    shown = candles_shown(tape)
    assert (tape.state.ledger.holes, tape.state.ledger.gaps) == ([], [])
    assert shown.keys() == {
        (window.name, window.start_of(one.event_time_us)) for one in market.values() for window in WINDOWS
    }
    for key, candle in shown.items():
        assert candle["trade_count"] == len(ids_in(market, key))
        assert (candle["complete"], candle["missing_trades"]) == (True, 0)
    gaps = gaps_in(changes)
    assert len(gaps) == len(set(gaps))
    for _, states in groupby(sorted(gaps), key=lambda gap: gap[:2]):
        assert [state for *_, state in states] == ["open", "repaired"]


@THOROUGH
@given(markets() | markets(first=7), timings, st.data())
def test_a_candle_that_says_that_it_is_complete_has_every_trade_that_was_spoken_of(
    drawn: tuple[Market, list[Event]], timing: Timing, data: st.DataObject
) -> None:
    market, said = drawn
    tape = new_tape(*timing)
    top = 0
    with holes_limited(data):
        for offset, event in log_of(*said):
            fold(tape, [(offset, event)])
            top = max(top, event.trade_id if isinstance(event, Trade) else event.last_trade_id)
            for key, candle in candles_shown(tape).items():
                spoken_of = {number for number in ids_in(market, key) if number <= top}
                inside = {
                    number for low, high in tape.rows[key].candle.ids for number in range(low, high + 1)
                }
                assert inside <= spoken_of
                if candle["complete"]:
                    assert inside == spoken_of, key
                    assert candle["missing_trades"] == 0


# Closing.


def test_a_candle_closes_when_the_watermark_is_past_its_end_and_the_grace() -> None:
    end = MIDNIGHT + MINUTE
    tape = new_tape()
    assert tape.fold([(0, trade(1, MIDNIGHT))]) == []
    assert tape.fold([(1, trade(2, end + GRACE - 1))]) == []
    assert candles_shown(tape)["1m", MIDNIGHT]["state"] == "open"
    [change] = candles_in(tape.fold([(2, trade(3, end + GRACE))]))
    assert (change.window.name, change.start_us, change.offset) == ("1m", MIDNIGHT, 2)
    assert msgspec.to_builtins(change.candle) == candles_shown(tape)["1m", MIDNIGHT]
    assert candles_shown(tape)["1m", MIDNIGHT]["state"] == "closed"
    assert candles_shown(tape)["1m", MIDNIGHT]["revision"] == 0
    assert candles_shown(tape)["1m", end]["trade_count"] == 2


def test_a_candle_closes_at_the_record_that_passed_its_grace_not_at_the_next() -> None:
    due = MIDNIGHT + MINUTE + GRACE
    log = log_of(trade(1, MIDNIGHT), trade(2, due - 1), trade(3, due), trade(4, due - 1), trade(5, due + 1))
    [change] = candles_in(folded(log)[1])
    assert change.offset == 2


def test_a_heartbeat_closes_the_candle_of_a_quiet_symbol() -> None:
    tape = new_tape()
    tape.fold([(0, trade(1, MIDNIGHT))])
    assert tape.fold([(1, heartbeat(1, MIDNIGHT + MINUTE + GRACE - 1))]) == []
    assert told(tape.fold([(2, heartbeat(1, MIDNIGHT + MINUTE + GRACE))])) == [("1m", MIDNIGHT, 0, 0)]
    assert tape.fold([(3, heartbeat(1, MIDNIGHT + 10 * MINUTE))]) == []


def test_a_heartbeat_of_the_past_moves_nothing_back() -> None:
    tape, changes = folded(log_of(trade(5, MIDNIGHT + 30 * SECOND), heartbeat(3, MIDNIGHT)))
    assert changes == []
    assert tape.state.watermark_us == MIDNIGHT + 30 * SECOND
    assert (tape.state.ledger.joined_id, tape.state.ledger.top_id) == (5, 5)


def test_heartbeats_alone_make_no_candle() -> None:
    tape, changes = folded(log_of(heartbeat(9, MIDNIGHT), heartbeat(9, MIDNIGHT + 2 * DAY)))
    assert (tape.rows, changes, tape.state.latest) == ({}, [], {})


def test_candles_close_by_their_end_the_smaller_first() -> None:
    last_minute = MIDNIGHT + DAY - MINUTE
    earlier = last_minute - 10 * MINUTE
    log = log_of(
        trade(3, last_minute), trade(2, earlier), trade(1, MIDNIGHT), heartbeat(3, MIDNIGHT + DAY + GRACE)
    )
    _, changes = folded(log, grace_us=DAY)
    assert changes == []
    _, changes = folded([*log, (4, heartbeat(3, MIDNIGHT + 2 * DAY))], grace_us=DAY)
    candles = candles_in(changes)
    assert candles == changes
    assert [(change.window.name, change.start_us) for change in candles] == [
        ("1m", MIDNIGHT),
        ("1h", MIDNIGHT),
        ("1m", earlier),
        ("1m", last_minute),
        ("1h", last_minute - 59 * MINUTE),
        ("1d", MIDNIGHT),
    ]
    assert {change.offset for change in candles} == {4}


# Runs.


def test_a_run_waits_for_the_next_batch_until_it_is_settled() -> None:
    tape = new_tape()
    tape.fold(log_of(*(trade(number, MIDNIGHT + number) for number in (1, 2, 3))))
    assert (tape.offset, tape.state.offset, tape.state.ledger.top_id) == (2, 0, 1)
    assert tape.rows["1m", MIDNIGHT].candle.trade_count == 1
    tape.fold([(3, trade(4, MIDNIGHT + 4))])
    assert (tape.offset, tape.state.offset) == (3, 0)
    for _ in range(2):
        tape.settle()
        assert (tape.offset, tape.state.offset, tape.state.ledger.top_id) == (3, 3, 4)
        assert tape.state.watermark_us == MIDNIGHT + 4
        assert tape.rows["1m", MIDNIGHT].offset == 3
        assert tape.rows["1m", MIDNIGHT].candle.trade_count == 4
    assert tape.fold([(4, trade(6, MIDNIGHT + MINUTE + GRACE))])
    assert tape.rows["1m", MIDNIGHT].closed


def test_a_long_run_does_not_wait() -> None:
    tape = new_tape()
    tape.fold(log_of(*(trade(number, MIDNIGHT) for number in range(1, LONG_RUN + 1))))
    assert tape.state.offset == 0
    tape.fold([(LONG_RUN, trade(LONG_RUN + 1, MIDNIGHT))])
    assert tape.state.offset == tape.offset == LONG_RUN
    assert tape.rows["1m", MIDNIGHT].candle.trade_count == LONG_RUN + 1


def test_records_of_a_run_that_waits_count_once_when_they_come_again() -> None:
    log = log_of(*(trade(number, MIDNIGHT + number) for number in range(1, 6)))
    tape = new_tape()
    tape.fold(log[:4])
    tape.fold(log[1:])
    tape.settle()
    assert copy_of(tape) == copy_of(folded(log)[0])
    assert tape.state.duplicates == 0


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
    assert told(tape.fold([(offset, late)]))[:1] == [("1m", MIDNIGHT, 1, 1)]
    shown = candles_shown(tape)
    assert tape.fold([(offset + 1, late), (offset + 2, late)]) == []
    assert candles_shown(tape) == shown
    assert tape.state.duplicates == 2
    assert tape.state.late == 1


def test_a_trade_out_of_order_within_the_grace_is_not_late() -> None:
    end = MIDNIGHT + MINUTE
    tape, changes = folded(log_of(trade(1, MIDNIGHT), trade(3, end + GRACE - 1), trade(2, end - 1, "7")))
    assert told(changes) == []
    candle = candles_shown(tape)["1m", MIDNIGHT]
    assert (candle["close"], candle["state"], candle["late_trades"], candle["revision"]) == (
        "7",
        "open",
        0,
        0,
    )
    assert tape.state.late == 0


def test_a_late_trade_of_a_window_without_a_candle_makes_one_that_is_closed() -> None:
    tape, _ = folded(log_of(trade(5, MIDNIGHT + 3 * HOUR)))
    changes = tape.fold([(1, trade(4, MIDNIGHT + MINUTE))])
    assert told(changes) == [("1m", MIDNIGHT + MINUTE, 0, 1), ("1h", MIDNIGHT, 0, 1)]
    assert tape.state.late == 1
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
    return candle["complete"], candle["missing_trades"]


def test_the_first_trade_that_a_symbol_ever_had_needs_none_before_it() -> None:
    assert completeness_of(folded(log_of(trade(1, MIDNIGHT)))[0], MIDNIGHT) == (True, 0)


def test_a_candle_that_we_joined_in_the_middle_is_not_complete() -> None:
    tape, _ = folded(log_of(trade(7, MIDNIGHT), trade(8, MIDNIGHT + MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (False, 0)
    assert completeness_of(tape, MIDNIGHT, "1h") == (False, 0)
    assert completeness_of(tape, MIDNIGHT + MINUTE) == (True, 0)


def test_a_candle_that_we_joined_in_the_middle_tells_when_nothing_is_missing_any_more() -> None:
    tape, _ = folded(log_of(trade(5, MIDNIGHT + 1), trade(7, MIDNIGHT + 3), trade(8, MIDNIGHT + 2 * MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (False, 1)
    revision = tape.rows["1m", MIDNIGHT].revision
    tape.fold([(3, trade(6, MIDNIGHT + 2))])
    assert completeness_of(tape, MIDNIGHT) == (False, 0)
    assert tape.rows["1m", MIDNIGHT].revision == revision + 1
    # The trade between may lie in the next minute: the candle changes in its count alone.
    tape, _ = folded(
        log_of(trade(5, MIDNIGHT + 1), trade(7, MIDNIGHT + MINUTE), trade(8, MIDNIGHT + 3 * MINUTE))
    )
    assert completeness_of(tape, MIDNIGHT) == (False, 1)
    changes = tape.fold([(3, trade(6, MIDNIGHT + MINUTE))])
    assert completeness_of(tape, MIDNIGHT) == (False, 0)
    assert ("1m", MIDNIGHT, 1, 0) in told(changes)


def test_a_candle_is_complete_when_the_id_before_it_lies_in_an_earlier_window() -> None:
    tape, _ = folded(log_of(trade(7, MIDNIGHT - 1), trade(8, MIDNIGHT), trade(9, MIDNIGHT + MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (True, 0)


def test_a_hole_inside_counts_its_ids_and_a_repair_makes_the_candle_complete() -> None:
    tape, changes = folded(
        log_of(trade(1, MIDNIGHT), trade(5, MIDNIGHT + 9), trade(6, MIDNIGHT + 2 * MINUTE))
    )
    assert gaps_in(changes) == [(2, 4, "open")]
    assert completeness_of(tape, MIDNIGHT) == (False, 3)
    [first] = tape.fold([(3, trade(3, MIDNIGHT + 4))])
    assert completeness_of(tape, MIDNIGHT) == (False, 2)
    _, last, repaired = tape.fold([(4, trade(2, MIDNIGHT + 3)), (5, trade(4, MIDNIGHT + 5))])
    assert completeness_of(tape, MIDNIGHT) == (True, 0)
    assert completeness_of(tape, MIDNIGHT, "1d") == (True, 0)
    assert (
        msgspec.json.encode(first.candle).count(b'"complete":false,"late_trades":1,"missing_trades":2') == 1
    )
    assert msgspec.json.encode(last.candle).count(b'"complete":true,"late_trades":3,"missing_trades":0') == 1
    assert gaps_in([repaired]) == [(2, 4, "repaired")]


def test_a_hole_between_two_windows_is_missing_in_both() -> None:
    tape, _ = folded(log_of(trade(1, MIDNIGHT), trade(4, MIDNIGHT + MINUTE)))
    assert completeness_of(tape, MIDNIGHT) == (False, 2)
    assert completeness_of(tape, MIDNIGHT + MINUTE) == (False, 2)
    assert completeness_of(tape, MIDNIGHT, "1h") == (False, 2)


def test_a_hole_next_to_a_candle_is_missing_in_it_only_where_its_trades_can_be() -> None:
    log = log_of(
        trade(1, MIDNIGHT + 9),
        trade(2, MIDNIGHT + MINUTE),
        trade(4, MIDNIGHT + 2 * MINUTE),
        trade(5, MIDNIGHT + 3 * MINUTE),
    )
    tape, _ = folded(log)
    assert [completeness_of(tape, MIDNIGHT + minute * MINUTE) for minute in range(4)] == [
        (True, 0), (False, 1), (False, 1), (True, 0)
    ]  # fmt: skip


def test_a_trade_that_fills_a_hole_tells_of_the_neighbour_that_has_become_complete() -> None:
    closed = MIDNIGHT + 3 * MINUTE
    tape, _ = folded(log_of(trade(1, MIDNIGHT), trade(3, MIDNIGHT + MINUTE), heartbeat(3, closed)))
    changes = tape.fold([(3, trade(2, MIDNIGHT + 30 * SECOND))])
    assert told(changes) == [("1m", MIDNIGHT, 1, 1), ("1m", MIDNIGHT + MINUTE, 1, 0)]
    assert {change.offset for change in candles_in(changes)} == {3}
    assert completeness_of(tape, MIDNIGHT) == completeness_of(tape, MIDNIGHT + MINUTE) == (True, 0)
    assert gaps_in(changes[-1:]) == [(2, 2, "repaired")]
    assert tape.rows["1m", MIDNIGHT + MINUTE].candle.trade_count == 1


def test_a_hole_that_comes_to_a_closed_candle_amends_it_but_is_no_late_trade() -> None:
    end = MIDNIGHT + MINUTE
    tape, _ = folded(log_of(trade(1, MIDNIGHT), heartbeat(1, end)), grace_us=0)
    assert completeness_of(tape, MIDNIGHT) == (True, 0)
    changes = tape.fold([(2, trade(4, end + SECOND))])
    assert gaps_in(changes[:1]) == [(2, 3, "open")]
    assert told(changes) == [("1m", MIDNIGHT, 1, 0)]
    assert completeness_of(tape, MIDNIGHT) == (False, 2)


def test_a_closed_candle_keeps_the_count_of_its_revision_until_it_is_complete() -> None:
    """A part of a hole that is filled in another candle is told with the next revision only."""
    tape, _ = folded(
        log_of(trade(1, MIDNIGHT), trade(4, MIDNIGHT + MINUTE), heartbeat(4, MIDNIGHT + 3 * MINUTE))
    )
    assert told(tape.fold([(3, trade(2, MIDNIGHT + 1))])) == [("1m", MIDNIGHT, 1, 1)]
    assert completeness_of(tape, MIDNIGHT) == (False, 1)
    assert completeness_of(tape, MIDNIGHT + MINUTE) == (False, 2)
    assert completeness_of(tape, MIDNIGHT, "1h") == (False, 1)
    assert told(tape.fold([(4, trade(3, MIDNIGHT + MINUTE))])) == [
        ("1m", MIDNIGHT + MINUTE, 1, 1),
        ("1m", MIDNIGHT, 2, 1),
    ]


def test_a_heartbeat_that_knows_of_more_trades_says_what_is_missing() -> None:
    tape, _ = folded(log_of(trade(1, MIDNIGHT)))
    gap, change = tape.fold([(1, heartbeat(3, MIDNIGHT + MINUTE + GRACE))])
    assert gaps_in([gap]) == [(2, 3, "open")]
    assert completeness_of(tape, MIDNIGHT) == (False, 2)
    assert b'"complete":false,"late_trades":0,"missing_trades":2' in msgspec.json.encode(change.candle)
    tape.fold([(2, trade(2, MIDNIGHT + 1)), (3, trade(3, MIDNIGHT + MINUTE))])
    assert completeness_of(tape, MIDNIGHT) == (True, 0)


def test_a_heartbeat_ahead_of_a_trade_keeps_no_candle_from_becoming_complete() -> None:
    """The trade that it does not know of may be before it, in a candle that the hole's ends are not in."""
    log = log_of(
        trade(1, MIDNIGHT),
        heartbeat(3, MIDNIGHT + 3 * MINUTE + SECOND // 2),
        trade(4, MIDNIGHT + 3 * MINUTE - SECOND // 4),
        heartbeat(4, MIDNIGHT + 5 * MINUTE),
    )
    tape, _ = folded(log)
    assert completeness_of(tape, MIDNIGHT + 2 * MINUTE) == (False, 2)
    tape.fold([(4, trade(2, MIDNIGHT + 1)), (5, trade(3, MIDNIGHT + 2))])
    assert completeness_of(tape, MIDNIGHT + 2 * MINUTE) == (True, 0)


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


# Gaps as they are told.


def test_a_gap_is_described_by_what_was_found_missing_and_when() -> None:
    _, [opened, *_, repaired] = folded(
        log_of(trade(1, MIDNIGHT), trade(4, MIDNIGHT + 9 * SECOND), trade(3, MIDNIGHT), trade(2, MIDNIGHT))
    )
    assert isinstance(opened, GapChange)
    assert isinstance(repaired, GapChange)
    facts = {
        "exchange": "coinbase",
        "symbol": "BTC-USD",
        "first_trade_id": 2,
        "last_trade_id": 3,
        "missing_trades": 2,
        "state": "open",
        "cause": "jump",
        "after": "2023-11-15T00:00:00Z",
        "before": "2023-11-15T00:00:09Z",
        "detected": "2023-11-15T00:00:09Z",
        "settled": None,
    }
    gap = opened.describe("coinbase", "BTC-USD")
    assert msgspec.to_builtins(gap) == facts
    settled = repaired.describe("coinbase", "BTC-USD")
    assert msgspec.to_builtins(settled) == {
        **facts, "missing_trades": 0, "state": "repaired", "settled": "2023-11-15T00:00:09Z"
    }  # fmt: skip
    assert gap.key == settled.key == "coinbase:BTC-USD:2"
    assert stored(gap) == gap


def test_a_gap_is_settled_at_the_time_that_the_log_had_reached_by_then() -> None:
    log = log_of(
        trade(1, MIDNIGHT),
        heartbeat(2, MIDNIGHT + 9 * SECOND),
        heartbeat(2, MIDNIGHT + HOUR),
        trade(2, MIDNIGHT),
    )
    gaps = [
        change.describe("coinbase", "BTC-USD") for change in folded(log)[1] if isinstance(change, GapChange)
    ]
    assert [(gap.state, gap.cause, gap.detected, gap.settled) for gap in gaps] == [
        ("open", "heartbeat", "2023-11-15T00:00:09Z", None),
        ("repaired", "heartbeat", "2023-11-15T00:00:09Z", "2023-11-15T01:00:00Z"),
    ]


def test_of_too_many_gaps_the_second_becomes_part_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.ledger.MAX_HOLES", 2)
    log = log_of(*(trade(number, MIDNIGHT + number * SECOND) for number in (1, 3, 5, 8)))
    _, changes = folded(log)
    gaps = [change.describe("coinbase", "BTC-USD") for change in changes if isinstance(change, GapChange)]
    assert [(gap.key[-1:], gap.last_trade_id, gap.missing_trades, gap.state) for gap in gaps] == [
        ("2", 2, 1, "open"),
        ("4", 4, 1, "open"),
        ("6", 7, 2, "open"),
        ("2", 4, 3, "open"),
        ("4", 4, 0, "merged"),
    ]
    assert (gaps[-1].detected, gaps[-1].settled) == ("2023-11-15T00:00:05Z", "2023-11-15T00:00:08Z")


# What is kept.


KEEP = {"1m": 10 * MINUTE}


def an_hour_by_the_minute() -> tuple[Tape, list[Change]]:
    """Return a tape that has closed the minutes 0, 5, 10, ... 55, and keeps the last ten minutes."""
    events = [trade(1 + step, MIDNIGHT + 5 * step * MINUTE) for step in range(12)]
    return folded(log_of(*events, heartbeat(12, MIDNIGHT + HOUR)), keep_us=KEEP)


def test_candles_expire_so_long_before_the_last_closed_one() -> None:
    tape, changes = an_hour_by_the_minute()
    expired = [change for change in changes if isinstance(change, Expired)]
    ends = [MIDNIGHT + minute * MINUTE for minute in range(-10, 50, 5)]
    assert expired == [Expired(BY_NAME["1m"], end) for end in ends]
    assert tape.state.kept_from == {"1m": MIDNIGHT + 45 * MINUTE}
    assert sorted(start_us for name, start_us in tape.rows if name == "1m") == [
        MIDNIGHT + minute * MINUTE for minute in (45, 50, 55)
    ]
    assert told(tape.fold([(99, heartbeat(12, MIDNIGHT + HOUR + MINUTE))])) == [("1h", MIDNIGHT, 0, 0)]
    assert tape.state.kept_from == {"1m": MIDNIGHT + 45 * MINUTE}


def test_one_record_tells_what_opened_what_closed_what_expired_and_what_was_amended_in_this_order() -> None:
    quarter = MIDNIGHT + 15 * MINUTE
    log = log_of(
        trade(1, quarter - 30 * SECOND), heartbeat(2, quarter), trade(2, quarter), trade(4, quarter + MINUTE)
    )
    tape = new_tape(grace_us=0, keep_us=KEEP)
    tape.fold(log[:3])
    opened, closed, expired, amended = tape.fold(log[3:])
    assert gaps_in([opened]) == [(3, 3, "open")]
    assert told([closed]) == [("1m", quarter, 0, 0)]
    assert expired == Expired(BY_NAME["1m"], quarter - 10 * MINUTE)
    assert told([amended]) == [("1m", quarter - MINUTE, 2, 0)]


def test_a_trade_that_is_too_late_for_its_minute_still_counts_in_the_hour_and_the_day() -> None:
    tape, _ = an_hour_by_the_minute()
    changes = tape.fold([(99, trade(13, MIDNIGHT + 45 * MINUTE - 1, "99"))])
    assert changes == []
    assert tape.state.expired == 1
    assert ("1m", MIDNIGHT + 44 * MINUTE) not in tape.rows
    for name in ("1h", "1d"):
        candle = candles_shown(tape)[name, MIDNIGHT]
        assert (candle["trade_count"], candle["high"]) == (13, "99")
    assert told(tape.fold([(100, trade(14, MIDNIGHT + 45 * MINUTE))])) == [
        ("1m", MIDNIGHT + 45 * MINUTE, 1, 1)
    ]
    assert tape.state.expired == 1


def test_a_hole_that_is_left_in_a_candle_that_has_expired_amends_nothing() -> None:
    """Even where the row is still there."""
    tape = new_tape(keep_us=KEEP)
    tape.fold(log_of(trade(1, MIDNIGHT), trade(3, MIDNIGHT + MINUTE), trade(4, MIDNIGHT + HOUR)))
    tape.fold([(3, heartbeat(4, MIDNIGHT + HOUR + 2 * MINUTE))])
    assert tape.state.kept_from == {"1m": MIDNIGHT + 50 * MINUTE}
    before = tape.rows["1m", MIDNIGHT]
    changes = tape.fold([(4, trade(2, MIDNIGHT + MINUTE))])
    assert told(changes) == [("1h", MIDNIGHT, 1, 1)]
    assert gaps_in(changes) == [(2, 2, "repaired")]
    assert tape.rows["1m", MIDNIGHT] == before
    assert completeness_of(tape, MIDNIGHT, "1h") == (True, 0)


@pytest.mark.parametrize("read_again_from", range(13))
def test_a_candle_that_has_expired_does_not_come_back_when_its_trades_do(read_again_from: int) -> None:
    events = [trade(1 + step, MIDNIGHT + 5 * step * MINUTE) for step in range(12)]
    log = log_of(*events, heartbeat(12, MIDNIGHT + HOUR))
    tape, _ = an_hour_by_the_minute()
    before = copy_of(tape)
    for each in (tape, restored(*before, keep_us=KEEP)):
        assert each.fold(log[read_again_from:]) == []
        assert copy_of(each) == before


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
        tape.settle()
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
    assert all(sent(changes))
    assert copy_of(tape) == copy_of(restored(tape.state, dict(tape.rows), grace_us))


def test_a_row_and_a_state_come_back_from_json_as_they_were() -> None:
    tape, _ = a_closed_minute()
    state, rows = copy_of(tape)
    assert (state, rows) == (tape.state, tape.rows)
    assert all(isinstance(row.candle, Candle) for row in rows.values())
    assert all(msgspec.json.encode(row).startswith(b'{"offset":') for row in rows.values())
    assert msgspec.json.encode(state).startswith(b'{"offset":')


def test_a_candle_that_has_forgotten_holes_never_says_that_it_is_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.ids.MAX_RANGES", 8)
    all_of_them = [trade(number, MIDNIGHT + number * SECOND) for number in range(1, 42)]
    tape, _ = folded(log_of(*all_of_them[::2], *all_of_them[1::2]), grace_us=HOUR)
    candle = candles_shown(tape)["1d", MIDNIGHT]
    assert tape.state.ledger.holes == []
    assert candle["trade_count"] < 41
    assert (candle["complete"], candle["missing_trades"]) == (False, 41 - candle["trade_count"])
