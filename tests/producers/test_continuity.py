"""Signs that a connection lost messages."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from models.trade import Heartbeat, Trade
from producers.continuity import Continuity


def trade(trade_id):
    return Trade("coinbase", "BTC-USD", trade_id, Decimal(1), Decimal(1), "buy", 1, 1)


def beat(last_trade_id):
    return Heartbeat("coinbase", "BTC-USD", last_trade_id, 1, 1)


def broken_by(*events):
    """Return the numbers of the events that showed a loss."""
    continuity = Continuity()
    return [number for number, event in enumerate(events) if continuity.is_broken_by(event)]


def test_the_first_trade_says_nothing_of_those_before_it():
    assert broken_by(beat(5), beat(6), trade(100), trade(101)) == []


def test_a_jump_is_a_loss_once():
    assert broken_by(trade(1), trade(3), trade(4), trade(7), beat(7), beat(7)) == [1, 3]


def test_trades_that_come_again_or_late_are_none():
    assert broken_by(trade(5), trade(5), trade(3), trade(6), trade(4), trade(7)) == []


def test_a_heartbeat_ahead_leaves_the_trades_until_the_next_one():
    assert broken_by(trade(1), beat(2), trade(2), beat(2)) == []
    assert broken_by(trade(1), beat(2), beat(2), beat(2), trade(3)) == [2]
    assert broken_by(trade(1), beat(3), trade(2), beat(3)) == [3]


def test_what_heartbeat_and_trade_both_show_is_one_loss():
    assert broken_by(trade(1), beat(4), trade(5), beat(5), beat(5)) == [2]


@given(st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)))
def test_a_loss_is_found_exactly_where_trades_are_missing(lost, beats):
    events = [trade(0)]
    for number in range(1, 61):
        if number not in lost:
            events.append(trade(number))
        if number in beats:
            events.append(beat(number))
    events += [beat(60), beat(60)]
    assert bool(broken_by(*events)) is bool(lost)
