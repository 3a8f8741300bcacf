"""The producer's copy of the books, and which heartbeats go into the log."""

from decimal import Decimal
from itertools import pairwise

from models.book import BookDelta, BookLost, BookSnapshot
from models.trade import Heartbeat, Trade
from producers.keyframes import Keyframer
from producers.quiet import Quiet

SECOND = 1_000_000
INTERVAL = 30 * SECOND


def levels(*pairs):
    return tuple((Decimal(price), Decimal(size)) for price, size in pairs)


def snapshot(symbol="BTC-USD", time_us=1000, bids=(("99", "1"),), asks=(("101", "2"),)):
    return BookSnapshot("coinbase", symbol, time_us, 5000, levels(*bids), levels(*asks))


def delta(bids=(), asks=(), symbol="BTC-USD", time_us=2000):
    return BookDelta("coinbase", symbol, time_us, 6000, levels(*bids), levels(*asks))


def lost(symbol="BTC-USD"):
    return BookLost("coinbase", symbol, None, 7000, "disconnected")


def heartbeat(time_s, last_trade_id=1, symbol="BTC-USD"):
    return Heartbeat("coinbase", symbol, last_trade_id, round(time_s * SECOND), 0)


def trade(time_s, trade_id, symbol="BTC-USD"):
    return Trade("coinbase", symbol, trade_id, Decimal(1), Decimal(1), "buy", round(time_s * SECOND), 0)


def test_keyframe_is_the_snapshot_and_its_deltas_best_level_first():
    keyframer = Keyframer(INTERVAL)
    assert (
        keyframer.watch(snapshot(bids=(("98", "5"), ("99", "1")), asks=(("102", "1"), ("101", "2"))), 0)
        is None
    )
    assert keyframer.watch(delta(bids=(("98.5", "3"), ("99", "0")), asks=(("101", "7"),)), 1) is None
    [keyframe] = keyframer.due(INTERVAL)
    assert keyframe.bids == levels(("98.5", "3"), ("98", "5"))
    assert keyframe.asks == levels(("101", "7"), ("102", "1"))
    assert (keyframe.exchange, keyframe.symbol) == ("coinbase", "BTC-USD")
    assert (keyframe.event_time_us, keyframe.received_time_us) == (2000, 6000)


def test_keyframe_carries_the_latest_time_that_a_heartbeat_told():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(time_us=None), 0)
    keyframer.watch(heartbeat(9), 0)
    keyframer.watch(heartbeat(8), 0)
    [keyframe] = keyframer.due(INTERVAL)
    assert keyframe.event_time_us == 9 * SECOND


def test_keyframe_without_any_time_says_so():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(time_us=None), 0)
    [keyframe] = keyframer.due(INTERVAL)
    assert keyframe.event_time_us is None


def test_each_symbol_has_a_keyframe_in_every_interval():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(), 0)
    times = [now for now in range(0, 10 * INTERVAL + 1, SECOND // 4) for _ in keyframer.due(now)]
    assert len(times) == 10
    assert all(later - earlier == INTERVAL for earlier, later in pairwise(times))


def test_a_caller_that_was_away_gets_one_keyframe_not_all_it_missed():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(), 0)
    assert len(list(keyframer.due(10 * INTERVAL))) == 1
    assert not list(keyframer.due(10 * INTERVAL))


def test_400_products_subscribed_together_do_not_fire_together():
    keyframer = Keyframer(INTERVAL)
    for number in range(400):
        keyframer.watch(snapshot(f"P{number}-USD"), 0)
    seconds = [len(list(keyframer.due(now * SECOND))) for now in range(1, 31)]
    assert sum(seconds) == 400
    assert max(seconds) <= 40


def test_a_new_snapshot_replaces_the_book_and_puts_the_keyframe_off():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(), 0)
    keyframer.watch(snapshot(bids=(("50", "1"),)), INTERVAL - 1)
    assert not list(keyframer.due(INTERVAL - 1))
    [keyframe] = keyframer.due(2 * INTERVAL)
    assert keyframe.bids == levels(("50", "1"))


def test_lost_book_has_no_keyframes_until_the_next_snapshot():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(), 0)
    keyframer.watch(lost(), 1)
    keyframer.watch(delta(bids=(("98", "1"),)), 2)
    assert keyframer.in_step == []
    assert not list(keyframer.due(10 * INTERVAL))
    keyframer.watch(snapshot(), 10 * INTERVAL)
    assert keyframer.in_step == [("coinbase", "BTC-USD")]
    assert list(keyframer.due(11 * INTERVAL))


def test_a_book_lost_between_two_keyframes_of_one_round_is_left_out():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot("A-USD"), 0)
    keyframer.watch(snapshot("B-USD"), 0)
    due = keyframer.due(INTERVAL)
    first = next(due)
    other = {"A-USD": "B-USD", "B-USD": "A-USD"}[first.symbol]
    keyframer.watch(lost(other), INTERVAL)
    assert list(due) == []


def test_keyframe_holds_the_deltas_that_came_while_the_one_before_was_written():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot("A-USD"), 0)
    keyframer.watch(snapshot("B-USD"), 0)
    due = keyframer.due(INTERVAL)
    other = {"A-USD": "B-USD", "B-USD": "A-USD"}[next(due).symbol]
    keyframer.watch(delta(symbol=other, bids=(("99", "44"),)), INTERVAL)
    assert next(due).bids == levels(("99", "44"))


def test_a_book_that_got_a_snapshot_within_a_round_needs_no_keyframe():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot("A-USD"), 0)
    keyframer.watch(snapshot("B-USD"), 0)
    due = keyframer.due(INTERVAL)
    other = {"A-USD": "B-USD", "B-USD": "A-USD"}[next(due).symbol]
    keyframer.watch(snapshot(other), INTERVAL)
    assert list(due) == []


def test_crossed_book_is_lost_once_and_only_judged_after_the_whole_frame():
    keyframer = Keyframer(INTERVAL)
    keyframer.watch(snapshot(), 0)
    # Half of this frame would leave bid 101 at ask 101.
    assert keyframer.watch(delta(bids=(("101", "1"),), asks=(("101", "0"), ("102", "1"))), 1) is None
    assert keyframer.watch(delta(bids=(("102", "1"),)), 2) == "crossed"
    assert keyframer.watch(delta(bids=(("103", "1"),)), 3) is None
    assert keyframer.in_step == []
    assert not list(keyframer.due(10 * INTERVAL))


def test_crossed_snapshot_is_lost():
    assert Keyframer().watch(snapshot(bids=(("101", "1"),)), 0) == "crossed"


def test_no_heartbeat_goes_in_before_the_first_trade():
    quiet = Quiet(10 * SECOND)
    assert [quiet.let_through(heartbeat(second)) for second in range(0, 20)] == [[]] * 20


def test_a_quiet_symbol_has_the_heartbeat_that_closes_its_minute_and_then_one_a_minute():
    quiet = Quiet(10 * SECOND)
    quiet.saw(trade(100, 1))  # in the minute that ends at 120
    through = [
        beat.event_time_us // SECOND for s in range(100, 400) for beat in quiet.let_through(heartbeat(s))
    ]
    assert through == [160, 190, 250, 310, 370]  # not before there was a minute for other trades


def test_a_busy_symbol_has_no_heartbeats():
    quiet = Quiet(10 * SECOND)
    for second in range(100, 130):
        quiet.saw(trade(second, second))
        assert quiet.let_through(heartbeat(second + 0.5, last_trade_id=second)) == []


def test_symbols_do_not_share_their_quiet():
    quiet = Quiet(10 * SECOND)
    quiet.saw(trade(100, 1, "A-USD"))
    quiet.saw(trade(130, 1, "B-USD"))
    for symbol in ("A-USD", "B-USD"):
        assert quiet.let_through(heartbeat(100, symbol=symbol)) == []
    assert len(quiet.let_through(heartbeat(185, symbol="A-USD"))) == 1
    assert quiet.let_through(heartbeat(185, symbol="B-USD")) == []


def test_a_heartbeat_whose_trade_never_came_goes_in_at_the_next_one_and_once():
    quiet = Quiet(10 * SECOND)
    quiet.saw(trade(100, 7))
    ahead = heartbeat(101, last_trade_id=9)
    assert quiet.let_through(ahead) == []
    assert quiet.let_through(heartbeat(102, last_trade_id=9)) == [ahead]
    assert quiet.let_through(heartbeat(103, last_trade_id=9)) == []
    assert quiet.let_through(heartbeat(104, last_trade_id=9)) == []


def test_after_records_were_dropped_the_next_heartbeat_of_each_symbol_goes_in_once():
    quiet = Quiet(10 * SECOND)
    for symbol in ("A-USD", "B-USD"):
        quiet.saw(trade(100, 7, symbol))
    quiet.doubt()
    for symbol in ("A-USD", "B-USD"):
        beat = heartbeat(101, last_trade_id=7, symbol=symbol)
        assert quiet.let_through(beat) == [beat]
        assert quiet.let_through(heartbeat(102, last_trade_id=7, symbol=symbol)) == []


def test_a_heartbeat_just_ahead_of_its_trade_proves_nothing():
    quiet = Quiet(10 * SECOND)
    quiet.saw(trade(100, 7))
    assert quiet.let_through(heartbeat(101, last_trade_id=8)) == []
    quiet.saw(trade(101, 8))
    assert quiet.let_through(heartbeat(102, last_trade_id=8)) == []


def test_a_heartbeat_that_steps_back_in_time_does_not_go_in():
    quiet = Quiet(10 * SECOND)
    quiet.saw(trade(100, 7))
    assert quiet.let_through(heartbeat(20, last_trade_id=7)) == []


def test_a_keyframe_can_be_had_before_it_is_due_and_an_overdue_one_counts_as_written():
    keyframer = Keyframer(INTERVAL)
    key = ("coinbase", "BTC-USD")
    assert keyframer.keyframe(key, 0) is None
    keyframer.watch(snapshot(), 0)
    keyframer.watch(delta(bids=(("98", "3"),)), 1)
    assert keyframer.keyframe(key, 2).bids == levels(("99", "1"), ("98", "3"))
    assert list(keyframer.due(INTERVAL))  # that one put nothing off
    assert keyframer.keyframe(key, 10 * INTERVAL)
    assert not list(keyframer.due(10 * INTERVAL))
    keyframer.watch(lost(), 10 * INTERVAL)
    assert keyframer.keyframe(key, 10 * INTERVAL) is None
