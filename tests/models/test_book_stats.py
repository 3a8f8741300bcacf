"""Book statistics: a log of book records into rows, against a recomputation from the whole log.

`recompute` below keeps the list of samples and of the stretches of time between records, and adds
up anew, in fractions, whatever lies in a window. It knows neither runs, nor merges, nor restarts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.book import BookDelta, BookKeyframe, BookLost, BookRecord, BookSnapshot, Level, read_book
from models.book_stats import BookChange, BookState, BookStatsRow, BookTape
from models.errors import RecordError
from models.window import BY_NAME, WINDOWS

THOROUGH = settings(deadline=None, max_examples=70)

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MIDNIGHT = 1_700_006_400_000_000
DEPTH = 3

Key = tuple[str, int]
Log = list[tuple[int, BookRecord]]
Rows = dict[Key, BookStatsRow]
Sides = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]


def levels(*pairs: tuple[str, str]) -> tuple[Level, ...]:
    return tuple((Decimal(price), Decimal(size)) for price, size in pairs)


def snapshot(time_us: int | None, bid: str | None, ask: str | None, size: str = "1") -> BookSnapshot:
    bids, asks = levels((bid, size)) if bid else (), levels((ask, size)) if ask else ()
    return BookSnapshot("coinbase", "BTC-USD", time_us, 0, bids, asks)


def keyframe(time_us: int | None, bid: str, ask: str) -> BookKeyframe:
    return BookKeyframe("coinbase", "BTC-USD", time_us, 0, levels((bid, "1")), levels((ask, "1")))


def delta(time_us: int | None, bids: tuple[Level, ...] = (), asks: tuple[Level, ...] = ()) -> BookDelta:
    return BookDelta("coinbase", "BTC-USD", time_us, 0, bids, asks)


def lost(time_us: int | None) -> BookLost:
    return BookLost("coinbase", "BTC-USD", time_us, 0, "disconnected")


def log_of(*records: BookRecord) -> Log:
    return list(enumerate(records))


def fold(tape: BookTape, log: Iterable[tuple[int, BookRecord]]) -> list[BookChange]:
    """Fold, and bring rows and state to the last record."""
    changes = tape.fold(log)
    tape.settle()
    return [change for change in changes if isinstance(change, BookChange)]


def new_tape() -> BookTape:
    return BookTape(BookState(), {}, DEPTH)


def folded(log: Log) -> tuple[BookTape, list[BookChange]]:
    tape = new_tape()
    return tape, fold(tape, log)


def stored(value: Any) -> Any:
    """Return a copy as a table gives it back."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


def copy_of(tape: BookTape) -> tuple[BookState, Rows]:
    return stored(tape.state), {key: stored(row) for key, row in tape.rows.items()}


def restarted(tape: BookTape) -> BookTape:
    return BookTape(*copy_of(tape), DEPTH)


def sides_of(tape: BookTape) -> Sides | None:
    return None if tape.book is None else (dict(tape.book.bids), dict(tape.book.asks))


def sent(changes: Iterable[BookChange]) -> list[tuple[str, int, int, bytes]]:
    """Return changes as they go out, byte for byte."""
    return [
        (change.window.name, change.start_us, change.offset, msgspec.json.encode(change.book))
        for change in changes
    ]


def shown(tape: BookTape, start_us: int = MIDNIGHT, name: str = "1m") -> dict[str, Any]:
    row = tape.rows[name, start_us]
    return msgspec.structs.asdict(row.stats.figures(row.closed))


# The independent computation.


@dataclass
class Moment:
    """A record that has a time: what the book was before it, and is after it."""

    offset: int
    at_us: int
    updates: int
    resync: bool
    samples: list[tuple[Fraction, Fraction]]
    in_step: bool
    """After it, like the rest."""
    spread: Fraction | None
    sides: Sides | None


@dataclass
class Expected:
    """What rows, state and changes must be, from the log alone."""

    moments: list[Moment] = field(default_factory=list)
    changes: list[tuple[str, int, int]] = field(default_factory=list)

    def windows(self) -> dict[Key, list[Moment]]:
        windows: dict[Key, list[Moment]] = {}
        for moment in self.moments:
            for window in WINDOWS:
                windows.setdefault((window.name, moment.at_us // window.size_us * window.size_us), []).append(
                    moment
                )
        return windows

    def shown(self, key: Key, last_offset: int) -> dict[str, Any]:
        """Return what is told of a window, as of a record of the log."""
        start_us, end_us = key[1], key[1] + BY_NAME[key[0]].size_us
        known = [moment for moment in self.moments if moment.offset <= last_offset]
        inside = [moment for moment in known if start_us <= moment.at_us < end_us]
        observed = in_step = two_sided = Fraction()
        spread_time = Fraction()
        for before, after in pairwise(known):
            stood_us = max(0, min(after.at_us, end_us) - max(before.at_us, start_us))
            observed += stood_us
            in_step += stood_us * before.in_step
            if before.in_step and before.spread is not None:
                two_sided += stood_us
                spread_time += stood_us * before.spread
        samples = [sample for moment in inside for sample in moment.samples]
        spreads = [ask - bid for bid, ask in samples]
        mids = [(ask + bid) / 2 for bid, ask in samples]
        last_mids = [
            (ask + bid) / 2 for moment in known if moment.at_us < end_us for bid, ask in moment.samples
        ][-10:]
        bids: list[tuple[Decimal, Decimal]] = []
        asks: list[tuple[Decimal, Decimal]] = []
        if (sides := inside[-1].sides) is not None:
            bids, asks = sorted(sides[0].items(), reverse=True), sorted(sides[1].items())
        bid_depth = sum((Fraction(size) for _, size in bids[:DEPTH]), Fraction())
        ask_depth = sum((Fraction(size) for _, size in asks[:DEPTH]), Fraction())
        return {
            "highest_bid": bids[0][0] if bids else None,
            "highest_bid_size": bids[0][1] if bids else None,
            "lowest_ask": asks[0][0] if asks else None,
            "lowest_ask_size": asks[0][1] if asks else None,
            "spread": spreads[-1] if spreads else None,
            "spread_open": spreads[0] if spreads else None,
            "min_spread": min(spreads, default=None),
            "max_spread": max(spreads, default=None),
            "mean_spread": spread_time / two_sided if two_sided else None,
            "mid": mids[-1] if mids else None,
            "mid_open": mids[0] if mids else None,
            "mid_high": max(mids, default=None),
            "mid_low": min(mids, default=None),
            "moving_avg_10": sum(last_mids, Fraction()) / len(last_mids) if last_mids else None,
            "bid_depth": bid_depth,
            "ask_depth": ask_depth,
            "imbalance": (bid_depth - ask_depth) / (bid_depth + ask_depth) if bids or asks else None,
            "updates": sum(moment.updates for moment in inside),
            "resyncs": sum(moment.resync for moment in inside),
            "in_step_share": in_step / observed if observed else None,
            "state": "closed" if known[-1].at_us >= end_us else "open",
        }


def recompute(log: Log) -> Expected:
    """Walk the log once: a book of dicts, whether it can be trusted, and the samples."""
    expected = Expected()
    sides: Sides | None = None
    in_step, spread, now_us = False, None, 0
    waiting: list[tuple[Fraction, Fraction]] | None = None  # the sample of a frame that had no time
    for offset, record in log:
        was_us, now_us = now_us, max(now_us, record.event_time_us or 0)
        samples: list[tuple[Fraction, Fraction]] = []
        updates = 0
        if now_us and waiting is not None:
            samples, updates, waiting = waiting, 1, None
        was_in_step, is_news = in_step, False
        if isinstance(record, BookLost):
            in_step, waiting = False, None
        elif isinstance(record, BookDelta):
            if in_step and sides is not None:
                is_news = True
                for side, changes in zip(sides, (record.bids, record.asks), strict=True):
                    for price, size in changes:
                        side[price] = size
                        if not size:
                            del side[price]
        elif isinstance(record, BookSnapshot) or not in_step:
            is_news = True
            sides = (
                {price: size for price, size in record.bids if size},
                {price: size for price, size in record.asks if size},
            )
        if is_news and sides is not None:
            in_step = not sides[0] or not sides[1] or max(sides[0]) < min(sides[1])
            waiting = None
            if in_step:
                both = sides[0] and sides[1]
                sample = [(Fraction(max(sides[0])), Fraction(min(sides[1])))] if both else []
                spread = sample[0][1] - sample[0][0] if sample else None
                if now_us:
                    samples, updates = samples + sample, updates + 1
                else:
                    waiting = sample
        if not now_us:
            continue
        for window in WINDOWS:
            start_us = was_us // window.size_us * window.size_us
            if was_us and start_us != now_us // window.size_us * window.size_us:
                expected.changes.append((window.name, start_us, offset))
        resync = bool(was_us) and is_news and in_step and not was_in_step
        copied = None if sides is None else (dict(sides[0]), dict(sides[1]))
        expected.moments.append(Moment(offset, now_us, updates, resync, samples, in_step, spread, copied))
    return expected


def assert_shown(book: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare what is told of a window; ratios and means to 12 digits, all else exactly."""
    assert book.keys() == expected.keys()
    for name, wanted in expected.items():
        value = book[name]
        if name in ("mean_spread", "moving_avg_10", "imbalance", "in_step_share") and wanted is not None:
            assert abs(Fraction(value) - wanted) <= abs(wanted) / 10**11, name
        elif isinstance(value, str) and name != "state":
            assert "E" not in value
            assert Fraction(value) == wanted, name
        else:
            assert value == wanted, name


def assert_tape(tape: BookTape, log: Log) -> None:
    expected = recompute(log)
    windows = expected.windows()
    assert tape.rows.keys() == windows.keys()
    closed_at = {(name, start_us): offset for name, start_us, offset in expected.changes}
    for key, inside in windows.items():
        row = tape.rows[key]
        assert_shown(shown(tape, key[1], key[0]), expected.shown(key, log[-1][0]))
        assert row.offset == closed_at.get(key, inside[-1].offset)
        assert row.closed is (key in closed_at)
        assert row.stats.in_step is inside[-1].in_step
    assert tape.state.latest == dict(sorted(windows))
    assert tape.state.latest_closed == dict(sorted(closed_at))


# Logs.


STEPS = (0, 1, SECOND, 7 * SECOND, 7 * SECOND, 50 * SECOND, 200 * SECOND, HOUR, 5 * HOUR, 2 * DAY)
sizes = st.sampled_from(["1", "0.5", "2.25", "0.00000001", "1234567890123456789.123456789"]).map(Decimal)


@st.composite
def logs(draw: st.DrawFn, max_size: int = 20) -> Log:
    """Draw the log of one symbol as a producer writes it: keyframes are its own copy of the book."""
    copy: Sides = ({}, {})
    time_us: int | None = draw(
        st.sampled_from((None, MIDNIGHT, MIDNIGHT + HOUR - 90 * SECOND, MIDNIGHT + DAY - SECOND))
    )
    log: Log = []
    offset = draw(st.sampled_from((0, 1000)))
    for _ in range(draw(st.integers(1, max_size))):
        kind = draw(
            st.sampled_from(("delta",) * 8 + ("snapshot", "snapshot", "keyframe", "keyframe", "lost"))
        )
        if time_us is not None:
            time_us += draw(st.sampled_from(STEPS))
        elif kind == "delta":
            time_us = MIDNIGHT
        told_us = time_us
        if time_us is not None and draw(st.integers(0, 9)) == 0:
            told_us = None if kind == "lost" else time_us - SECOND
        record: BookRecord
        if kind == "lost":
            record = lost(told_us)
        elif kind == "keyframe":
            record = BookKeyframe(
                "coinbase", "BTC-USD", told_us, 0, tuple(copy[0].items()), tuple(copy[1].items())
            )
        else:
            # The sides overlap a little, so that some books are crossed.
            bids = dict(draw(st.lists(st.tuples(st.integers(90, 100).map(Decimal), sizes), max_size=3)))
            asks = dict(draw(st.lists(st.tuples(st.integers(100, 110).map(Decimal), sizes), max_size=3)))
            if kind == "snapshot":
                copy = (dict(bids), dict(asks))
                record = BookSnapshot(
                    "coinbase", "BTC-USD", told_us, 0, tuple(bids.items()), tuple(asks.items())
                )
            else:
                for side, changes in zip(copy, (bids, asks), strict=True):
                    if side and draw(st.booleans()):
                        changes.update(
                            dict.fromkeys(draw(st.sets(st.sampled_from(sorted(side)))), Decimal("0.0"))
                        )
                    side.update(changes)
                    for price in [price for price, size in side.items() if not size]:
                        del side[price]
                record = delta(told_us, tuple(bids.items()), tuple(asks.items()))
        offset += draw(st.sampled_from((1, 1, 4)))
        log.append((offset, msgspec.structs.replace(record, received_time_us=MIDNIGHT + offset)))
    return log


def cuts(log: Log) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(log)), max_size=6).map(sorted)


def batches(log: Log, at: list[int]) -> list[Log]:
    return [log[low:high] for low, high in zip([0, *at], [*at, len(log)], strict=True)]


# Properties.


@THOROUGH
@given(logs())
def test_rows_and_changes_are_those_of_the_whole_log(log: Log) -> None:
    tape, changes = folded(log)
    assert_tape(tape, log)
    expected = recompute(log)
    assert [(change.window.name, change.start_us, change.offset) for change in changes] == expected.changes
    for change in changes:
        assert_shown(
            msgspec.structs.asdict(change.book),
            expected.shown((change.window.name, change.start_us), change.offset),
        )


@THOROUGH
@given(logs(), st.data())
def test_a_log_cut_into_batches_anywhere_gives_the_same(log: Log, data: st.DataObject) -> None:
    whole, changes = folded(log)
    tape, told = new_tape(), []
    for batch in batches(log, data.draw(cuts(log))):
        told += fold(tape, batch)
    assert copy_of(tape) == copy_of(whole)
    assert sent(told) == sent(changes)


@THOROUGH
@given(logs(), st.data())
def test_a_tape_that_begins_again_at_the_keyframe_ends_like_one_that_never_stopped(
    log: Log, data: st.DataObject
) -> None:
    whole, changes = folded(log)
    told: list[BookChange] = []
    tape, read = new_tape(), 0
    for kept_at in [*data.draw(cuts(log))[:3], len(log)]:
        # Another symbol of the partition may need more of the log than this one.
        needed = [offset < tape.state.keyframe_offset for offset, _ in log[:kept_at]].count(True)
        again = log[data.draw(st.integers(0, needed)) : kept_at]
        for batch in batches(again, data.draw(cuts(again))):
            told += fold(tape, batch)
        never_stopped, _ = folded(log[:kept_at])
        assert copy_of(tape) == copy_of(never_stopped)
        assert sides_of(tape) == sides_of(never_stopped)
        assert tape.held == never_stopped.held
        assert tape.in_step is never_stopped.in_step
        read = kept_at
        tape = restarted(tape)
    assert read == len(log)
    assert sent(told) == sent(changes)


def test_records_before_the_keyframe_that_another_symbol_needs_change_nothing() -> None:
    """One partition holds many symbols, and begins again at the oldest of their keyframes."""
    log = log_of(
        snapshot(MIDNIGHT, "99", "101"),
        delta(MIDNIGHT + SECOND, bids=levels(("100", "1"))),
        keyframe(MIDNIGHT + 2 * SECOND, "100", "101"),
        delta(MIDNIGHT + 3 * SECOND, bids=levels(("100", "0"), ("99", "1"))),
        delta(MIDNIGHT + 4 * SECOND, asks=levels(("101", "0"), ("103", "1"))),
    )
    whole, _ = folded(log)
    for first in range(3):
        stopped, _ = folded(log[:3])
        tape = restarted(stopped)
        fold(tape, log[first:])
        assert copy_of(tape) == copy_of(whole), f"read again from offset {first}"


# What a sample and a window are.


def test_means_are_weighted_by_the_time_that_a_spread_stood() -> None:
    tape, changes = folded(
        log_of(
            snapshot(MIDNIGHT, "99", "100"),
            delta(MIDNIGHT + SECOND, asks=levels(("100", "0"), ("103", "1"))),
            delta(MIDNIGHT + MINUTE, bids=levels(("99", "2"))),
        )
    )
    assert shown(tape)["mean_spread"] == "3.95"  # (1 s of 1, 59 s of 4) / 60 s
    assert shown(tape)["in_step_share"] == "1"
    assert [change.window.name for change in changes] == ["1m"]
    assert msgspec.structs.asdict(changes[0].book) == {
        "highest_bid": "99", "highest_bid_size": "1", "lowest_ask": "103", "lowest_ask_size": "1",
        "spread": "4", "spread_open": "1", "min_spread": "1", "max_spread": "4", "mean_spread": "3.95",
        "mid": "101.0", "mid_open": "99.5", "mid_high": "101.0", "mid_low": "99.5", "moving_avg_10": "100.25",
        "bid_depth": "1", "ask_depth": "1", "imbalance": "0", "updates": 2, "resyncs": 0,
        "in_step_share": "1", "state": "closed",
    }  # fmt: skip


def test_the_book_stands_on_through_windows_without_a_record() -> None:
    later = MIDNIGHT + 3 * DAY + 2 * HOUR + 7 * MINUTE + 30 * SECOND
    tape, changes = folded(
        log_of(
            snapshot(MIDNIGHT + 30 * SECOND, "99", "101"),
            delta(later, asks=levels(("101", "0"), ("105", "1"))),
        )
    )
    assert [(change.window.name, change.start_us) for change in changes] == [
        (name, MIDNIGHT) for name in BY_NAME
    ]
    observed = {key: row.stats.observed_us for key, row in tape.rows.items()}
    assert observed == {
        ("1m", MIDNIGHT): 30 * SECOND,
        ("1h", MIDNIGHT): HOUR - 30 * SECOND,
        ("1d", MIDNIGHT): DAY - 30 * SECOND,
        ("1m", later - 30 * SECOND): 30 * SECOND,
        ("1h", MIDNIGHT + 3 * DAY + 2 * HOUR): 7 * MINUTE + 30 * SECOND,
        ("1d", MIDNIGHT + 3 * DAY): 2 * HOUR + 7 * MINUTE + 30 * SECOND,
    }
    for (name, start_us), row in tape.rows.items():
        assert row.stats.observed_us == row.stats.in_step_us == row.stats.two_sided_us
        assert shown(tape, start_us, name)["mean_spread"] == "2"


def test_a_snapshot_without_a_time_counts_in_the_window_of_the_frame_that_follows() -> None:
    tape, _ = folded(log_of(snapshot(None, "99", "100"), delta(MIDNIGHT + SECOND, bids=levels(("98", "1")))))
    book = shown(tape)
    assert (book["updates"], book["resyncs"], book["spread_open"]) == (2, 0, "1")
    assert book["in_step_share"] is None
    fold(tape, [(2, delta(MIDNIGHT + 2 * SECOND))])
    assert shown(tape)["updates"] == 3
    assert tape.state.latest == dict.fromkeys(BY_NAME, MIDNIGHT)


def test_a_snapshot_without_a_time_is_not_forgotten_over_a_keyframe_without_one() -> None:
    log = log_of(
        snapshot(None, "99", "100"), keyframe(None, "99", "100"), delta(MIDNIGHT, asks=levels(("100", "0")))
    )
    tape, _ = folded(log)
    assert shown(tape)["spread_open"] == "1"
    assert shown(tape)["updates"] == 2


def test_a_snapshot_without_a_time_is_not_forgotten_over_a_restart_at_a_keyframe_without_one() -> None:
    log = log_of(
        snapshot(None, "99", "100"), keyframe(None, "99", "100"), delta(MIDNIGHT, asks=levels(("100", "0")))
    )
    stopped, _ = folded(log[:2])
    tape = restarted(stopped)
    fold(tape, [(offset, record) for offset, record in log if offset >= tape.state.keyframe_offset])
    assert copy_of(tape)[1] == copy_of(folded(log)[0])[1]


def test_a_snapshot_without_a_time_in_the_middle_is_at_the_time_of_the_record_before() -> None:
    tape, _ = folded(log_of(snapshot(MIDNIGHT + SECOND, "99", "100"), snapshot(None, "98", "100")))
    assert (shown(tape)["updates"], shown(tape)["spread"], shown(tape)["in_step_share"]) == (2, "2", None)


def test_a_record_of_the_past_does_not_turn_time_back() -> None:
    tape, changes = folded(
        log_of(
            snapshot(MIDNIGHT + MINUTE, "99", "100"), delta(MIDNIGHT, bids=levels(("99", "0"), ("98", "1")))
        )
    )
    assert changes == []
    assert {name for name, start_us in tape.rows if start_us == MIDNIGHT} == {"1h", "1d"}
    assert shown(tape, MIDNIGHT + MINUTE)["spread"] == "2"


def test_the_moving_average_is_of_the_last_ten_mids_over_the_windows() -> None:
    records: list[BookRecord] = [snapshot(MIDNIGHT, "1", "3")]  # mid 2, then 3, 4, 5 ...
    for number in range(1, 15):
        records.append(snapshot(MIDNIGHT + number * 10 * SECOND, str(1 + number), str(3 + number)))
    tape, changes = folded(log_of(*records))
    assert shown(tape)["moving_avg_10"] == "4.5"  # the mids 2 to 7
    assert shown(tape, MIDNIGHT + MINUTE)["moving_avg_10"] == "8.5"  # 4 to 13
    assert shown(tape, MIDNIGHT + 2 * MINUTE)["moving_avg_10"] == "11.5"  # 7 to 16
    assert shown(tape, MIDNIGHT, "1d")["moving_avg_10"] == "11.5"
    assert [change.offset for change in changes] == [6, 12]


def test_depth_and_imbalance_are_of_the_top_levels() -> None:
    bids = levels(("99", "1"), ("98", "2"), ("97", "3"), ("96", "100"))
    tape, _ = folded(log_of(BookSnapshot("coinbase", "BTC-USD", MIDNIGHT, 0, bids, levels(("101", "2")))))
    book = shown(tape)
    assert (book["bid_depth"], book["ask_depth"], book["imbalance"]) == ("6", "2", "0.5")


# In step or not.


def test_a_lost_book_is_out_of_step_until_the_next_snapshot() -> None:
    tape, _ = folded(
        log_of(
            snapshot(MIDNIGHT, "99", "101"),
            lost(MIDNIGHT + 10 * SECOND),
            delta(MIDNIGHT + 20 * SECOND, bids=levels(("100", "1"))),
        )
    )
    assert not tape.in_step
    assert (shown(tape)["updates"], shown(tape)["highest_bid"]) == (1, "99")
    fold(tape, [(3, snapshot(MIDNIGHT + 30 * SECOND, "98", "101")), (4, delta(MIDNIGHT + 40 * SECOND))])
    book = shown(tape)
    assert tape.in_step
    assert (book["updates"], book["resyncs"], book["in_step_share"], book["mean_spread"]) == (
        3,
        1,
        "0.5",
        "2.5",
    )


def test_a_keyframe_brings_a_lost_book_back_into_step() -> None:
    tape, _ = folded(
        log_of(snapshot(MIDNIGHT, "99", "101"), lost(None), keyframe(MIDNIGHT + SECOND, "98", "101"))
    )
    assert tape.in_step
    assert (shown(tape)["resyncs"], shown(tape)["updates"], shown(tape)["highest_bid"]) == (1, 2, "98")


def test_a_keyframe_in_step_tells_nothing_new() -> None:
    tape, _ = folded(log_of(snapshot(MIDNIGHT, "99", "101"), keyframe(MIDNIGHT + SECOND, "99", "101")))
    assert (shown(tape)["updates"], shown(tape)["resyncs"]) == (1, 0)
    assert tape.rows["1m", MIDNIGHT].stats.mids == (Decimal(100),)
    assert tape.state.keyframe_offset == 1


def test_a_reader_that_begins_with_a_keyframe_is_in_step_from_there() -> None:
    tape, _ = folded(
        log_of(delta(MIDNIGHT, bids=levels(("1", "1"))), keyframe(MIDNIGHT + SECOND, "99", "101"))
    )
    assert tape.in_step
    assert sides_of(tape) == ({Decimal(99): Decimal(1)}, {Decimal(101): Decimal(1)})


@pytest.mark.parametrize("bid", ["101", "102"])
def test_a_crossed_book_is_out_of_step_until_the_next_snapshot(bid: str) -> None:
    tape, _ = folded(
        log_of(
            snapshot(MIDNIGHT, "99", "101"),
            delta(MIDNIGHT + 10 * SECOND, bids=levels((bid, "1"))),
            delta(MIDNIGHT + 20 * SECOND, bids=levels((bid, "0"))),
        )
    )
    assert not tape.in_step
    assert (shown(tape)["updates"], shown(tape)["max_spread"]) == (1, "2")
    fold(tape, [(3, snapshot(MIDNIGHT + 20 * SECOND, "100", "101"))])
    assert tape.in_step
    assert (shown(tape)["resyncs"], shown(tape)["in_step_share"]) == (1, "0.5")


def test_a_crossed_snapshot_is_not_in_step_either() -> None:
    tape, _ = folded(log_of(snapshot(MIDNIGHT, "101", "100")))
    assert not tape.in_step
    assert (shown(tape)["updates"], shown(tape)["spread"]) == (0, None)


@pytest.mark.parametrize(("bid", "ask"), [("99", None), (None, "101"), (None, None)])
def test_a_one_sided_book_is_in_step_and_has_no_spread(bid: str | None, ask: str | None) -> None:
    tape, _ = folded(log_of(snapshot(MIDNIGHT, bid, ask), delta(MIDNIGHT + SECOND)))
    book = shown(tape)
    assert tape.in_step
    assert (book["highest_bid"], book["lowest_ask"]) == (bid, ask)
    assert (book["spread"], book["mid"], book["mean_spread"], book["moving_avg_10"]) == (None,) * 4
    assert (book["updates"], book["in_step_share"]) == (2, "1")
    assert book["imbalance"] == {("99", None): "1", (None, "101"): "-1", (None, None): None}[bid, ask]


def test_the_time_of_a_one_sided_book_does_not_weigh_in_the_mean_spread() -> None:
    tape, _ = folded(
        log_of(
            snapshot(MIDNIGHT, "99", "101"),
            delta(MIDNIGHT + SECOND, asks=levels(("101", "0"))),
            delta(MIDNIGHT + 11 * SECOND, asks=levels(("103", "1"))),
            delta(MIDNIGHT + 12 * SECOND),
        )
    )
    assert shown(tape)["mean_spread"] == "3"
    assert (tape.rows["1m", MIDNIGHT].stats.two_sided_us, tape.rows["1m", MIDNIGHT].stats.observed_us) == (
        2 * SECOND,
        12 * SECOND,
    )


def test_without_a_snapshot_there_is_a_window_and_nothing_in_it() -> None:
    tape, _ = folded(log_of(delta(MIDNIGHT, bids=levels(("1", "1"))), delta(MIDNIGHT + SECOND)))
    book = shown(tape)
    assert not tape.in_step
    assert (book["updates"], book["in_step_share"], book["bid_depth"], book["highest_bid"]) == (
        0,
        "0",
        "0",
        None,
    )


@pytest.mark.parametrize(
    "time_us", [-1, 0, 1, -(2**62), 253_402_300_799_999_999, 253_402_300_800_000_000, 2**62, 2**64]
)
def test_a_record_with_an_extreme_time_is_refused_or_goes_all_the_way(time_us: int) -> None:
    """What is let in here must not stop the agent later: not in the fold, the view or the table."""
    written = [
        snapshot(MIDNIGHT, "99", "101"),
        delta(time_us // 2, bids=levels(("98", "1"))),
        delta(time_us, bids=levels(("98", "1"))),
        delta(time_us + DAY),
        delta(MIDNIGHT),
    ]
    log: Log = []
    for offset, record in enumerate(written):
        try:
            log.append((offset, read_book(record.to_json())))
        except RecordError:
            continue
    tape, changes = folded(log)
    assert all(msgspec.json.encode(change.book) for change in changes)
    assert all(shown(tape, start_us, name) for name, start_us in tape.rows)
    assert restarted(tape).state == tape.state


def test_a_row_and_a_state_come_back_from_json_as_they_were() -> None:
    tape, _ = folded(log_of(snapshot(MIDNIGHT, "99", "101"), keyframe(MIDNIGHT + HOUR, "99", "101")))
    state, rows = copy_of(tape)
    assert (state, rows) == (tape.state, tape.rows)
    assert all(msgspec.json.encode(row).startswith(b'{"offset":') for row in rows.values())
    assert msgspec.json.encode(state).startswith(b'{"offset":')


def test_a_keyframe_that_is_too_far_back_to_read_does_not_make_time_count_twice() -> None:
    tape, _ = folded(
        log_of(snapshot(MIDNIGHT, "100", "101"), *(delta(MIDNIGHT + n * SECOND) for n in range(1, 100)))
    )
    later = restarted(tape)
    changes = fold(later, [(10_000, snapshot(MIDNIGHT + 400 * SECOND, "100", "101"))])
    hour = later.rows["1h", MIDNIGHT].stats
    assert (hour.observed_us, hour.in_step_us) == (400 * SECOND, 99 * SECOND)
    assert [(change.window.name, change.start_us) for change in changes] == [("1m", MIDNIGHT + 60 * SECOND)]
    assert later.rows["1m", MIDNIGHT].stats.observed_us == 60 * SECOND


def test_rows_that_know_more_than_the_state_take_the_rest_of_a_run() -> None:
    log = log_of(
        snapshot(MIDNIGHT, "100", "101"), *(delta(MIDNIGHT + n * SECOND // 10) for n in range(1, 100))
    )
    whole, _ = folded(log)
    tape, _ = folded(log[:50])
    state = msgspec.json.decode(msgspec.json.encode(tape.state), type=BookState)
    fold(tape, log[50:60])
    torn = BookTape(state, tape.rows, DEPTH)
    fold(torn, log)
    assert torn.rows["1m", MIDNIGHT].stats.updates == whole.rows["1m", MIDNIGHT].stats.updates == 100
    assert torn.rows["1m", MIDNIGHT].stats.observed_us == whole.rows["1m", MIDNIGHT].stats.observed_us
