"""Candles of larger windows, held against the fold of the same trades into that window."""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.resample import resample
from models.shown import CandleFigures
from models.tape import CandleRow, Tape, TapeState, describe
from models.trade import Trade
from models.window import BY_NAME, SECOND_US, Window, made_of, window_named

QUICK = settings(deadline=None, max_examples=60)
START = 1_700_006_400_000_000
"""A midnight."""
MINUTE = 60 * SECOND_US
GRACE = 10 * SECOND_US


def trade(trade_id: int, time_us: int, price: int = 1, size: int = 1) -> Trade:
    side = "buy" if trade_id % 3 else "sell"
    return Trade("coinbase", "BTC-USD", trade_id, Decimal(price), Decimal(size), side, time_us, time_us)  # type: ignore[arg-type]


def folded(trades: list[Trade]) -> Tape:
    rows: dict[tuple[str, int], CandleRow] = {}
    tape = Tape(TapeState(), rows, GRACE, {})
    tape.fold(list(enumerate(trades)))
    tape.settle()
    return tape


def minutes(tape: Tape) -> list[tuple[int, CandleRow]]:
    return sorted((start_us, row) for (name, start_us), row in tape.rows.items() if name == "1m")


@st.composite
def markets(draw: st.DrawFn) -> list[Trade]:
    """Trades in the order of their ids, over some hours, some of them missing."""
    steps = draw(st.lists(st.integers(1, 20 * 60), min_size=1, max_size=60))
    absent = draw(st.sets(st.integers(1, 60), max_size=5))
    at_us, trades = START + draw(st.integers(0, 3600)) * SECOND_US, []
    for trade_id, step in enumerate(steps, 1):
        at_us += step * SECOND_US
        if trade_id not in absent or trade_id == 1:
            trades.append(trade(trade_id, at_us, draw(st.integers(1, 9)), draw(st.integers(1, 9))))
    return trades


@QUICK
@given(markets())
def test_sixty_minutes_are_the_hour_that_was_folded(trades: list[Trade]) -> None:
    tape = folded(trades)
    made = dict(resample(BY_NAME["1h"], minutes(tape), tape.state, GRACE))
    hours = {start_us: row for (name, start_us), row in tape.rows.items() if name == "1h"}
    assert made.keys() == hours.keys()
    for start_us, row in hours.items():
        kept = describe(BY_NAME["1h"], start_us, row, tape.state)
        same = {"revision": 0, "late_trades": 0}  # of the parts, added up
        assert msgspec.structs.replace(made[start_us], **same) == msgspec.structs.replace(kept, **same)


@QUICK
@given(markets(), st.sampled_from(["5m", "15m", "7m", "90m"]))
def test_any_multiple_holds_the_trades_of_its_time(trades: list[Trade], name: str) -> None:
    window = window_named(name)
    assert window is not None
    tape = folded(trades)
    made = dict(resample(window, minutes(tape), tape.state, GRACE))
    wanted = {
        start: list(group)
        for start, group in groupby(trades, lambda each: window.start_of(each.event_time_us))
    }
    assert made.keys() == wanted.keys()
    for start_us, inside in wanted.items():
        candle = made[start_us]
        assert candle.trade_count == len(inside)
        assert Decimal(candle.volume) == sum(each.size for each in inside)
        assert (candle.first_trade_id, candle.last_trade_id) == (inside[0].trade_id, inside[-1].trade_id)
        assert (Decimal(candle.open), Decimal(candle.close)) == (inside[0].price, inside[-1].price)
        assert Decimal(candle.high) == max(each.price for each in inside)
        closed = trades[-1].event_time_us >= start_us + window.size_us + GRACE
        assert candle.state == ("closed" if closed else "open")


@QUICK
@given(markets().flatmap(st.permutations), st.sampled_from(["5m", "7m", "1h"]))
def test_what_a_closed_one_says_changes_with_a_higher_revision_only(trades: list[Trade], name: str) -> None:
    window = window_named(name)
    assert window is not None
    rows: dict[tuple[str, int], CandleRow] = {}
    tape = Tape(TapeState(), rows, GRACE, {})
    told: dict[int, CandleFigures] = {}
    for record in enumerate(trades):
        tape.fold([record])
        tape.settle()
        for start_us, candle in resample(window, minutes(tape), tape.state, GRACE):
            # How many are missing it says as of now; a kept candle, as of its revision.
            candle = msgspec.structs.replace(candle, missing_trades=0)
            before = told.get(start_us, candle)
            assert candle.revision >= before.revision
            if before.state == "closed" and candle.revision == before.revision:
                assert candle == before
            told[start_us] = candle


@pytest.mark.parametrize(
    ("name", "size_s", "base"),
    [("1m", 60, "1m"), ("5m", 300, "1m"), ("60m", 3600, "1h"), ("90m", 5400, "1m"), ("4h", 14400, "1h"), ("24h", 86400, "1d"),
     ("7d", 604800, "1d")],
)  # fmt: skip
def test_a_window_by_its_name(name: str, size_s: int, base: str) -> None:
    window = window_named(name)
    assert window == Window(name, size_s * SECOND_US)
    assert window is not None
    assert made_of(window) == BY_NAME[base]


@pytest.mark.parametrize(
    "name", ["", "m", "0m", "01m", "1", "1s", "1w", "-1m", "1M", "10000m", "1m\n", "1.5h", "１m"]
)
def test_what_is_no_window(name: str) -> None:
    assert window_named(name) is None
