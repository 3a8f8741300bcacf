"""The Coinbase codec: what it makes of good frames, and that bad ones are refused, whole, by name."""

import gzip
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.book import BookDelta, BookSnapshot, OrderBook, read_book
from models.decimals import is_price
from models.errors import ConfigError, DecodeError
from models.trade import Heartbeat, Trade, read_trade
from producers.codec import Refused, Subscribed, Unknown, without_userinfo
from producers.exchanges import codec_class, names
from producers.exchanges.coinbase import EARLIEST_US, MAX_AHEAD_US, Codec

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
RECEIVED_US = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MATCH = {
    "type": "match",
    "trade_id": 10,
    "sequence": 50,
    "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
    "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
    "time": "2014-11-07T08:19:27.028459Z",
    "product_id": "BTC-USD",
    "size": "5.23512",
    "price": "400.23",
    "side": "sell",
}
HEARTBEAT = {
    "type": "heartbeat",
    "sequence": 90,
    "last_trade_id": 20,
    "product_id": "BTC-USD",
    "time": "2014-11-07T08:19:28.464459Z",
}
SNAPSHOT = {
    "type": "snapshot",
    "product_id": "BTC-USD",
    "bids": [["10101.10", "0.45054140"]],
    "asks": [["10102.55", "0.57753524"]],
}
UPDATE = {
    "type": "l2update",
    "product_id": "BTC-USD",
    "changes": [["buy", "22356.270000", "0.00000000"], ["buy", "22356.300000", "1.00000000"]],
    "time": "2022-08-04T15:25:05.010758Z",
}
SUBSCRIPTIONS = {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}]}
ERROR = {"type": "error", "message": "Failed to subscribe", "reason": "No channels provided"}
KNOWN = [MATCH, {**MATCH, "type": "last_match"}, HEARTBEAT, SNAPSHOT, UPDATE, SUBSCRIPTIONS, ERROR]

golden = (ROOT / "tests/golden/coinbase/frames.jsonl").read_text(encoding="utf-8").splitlines()
DOCUMENTED = [frame["raw"] for frame in map(json.loads, golden) if "trades_of" not in frame]


def receive(frame, received_time_us=RECEIVED_US):
    return Codec().receive(frame if isinstance(frame, str | bytes) else json.dumps(frame), received_time_us)


def one(frame, received_time_us=RECEIVED_US):
    (event,) = receive(frame, received_time_us)
    return event


def refusal(frame, received_time_us=RECEIVED_US):
    with pytest.raises(DecodeError) as caught:
        receive(frame, received_time_us)
    assert caught.value.exchange == "coinbase"
    assert caught.value.reason
    return caught.value


def with_literal(message, field, literal):
    """Return the frame with a field's value replaced by JSON text, valid or not."""
    assert field in message
    return json.dumps({**message, field: "<here>"}).replace('"<here>"', literal)


# Good frames


def test_maker_sell_is_a_taker_buy():
    assert one({**MATCH, "side": "sell"}).taker_side == "buy"


def test_maker_buy_is_a_taker_sell():
    assert one({**MATCH, "side": "buy"}).taker_side == "sell"


def test_last_match_is_a_trade_like_any_other():
    assert one({**MATCH, "type": "last_match"}) == one(MATCH)


def test_type_may_come_last():
    assert one(dict(reversed(MATCH.items()))) == one(MATCH)


def test_fields_we_have_no_use_for_are_skipped():
    assert one({**MATCH, "taker_fee_rate": 0.005, "new": {"a": [None]}}) == one(MATCH)


def test_heartbeat_of_a_product_that_never_traded_is_fine():
    assert one({**HEARTBEAT, "last_trade_id": 0}).last_trade_id == 0


def test_delta_keeps_the_order_of_a_side():
    changes = [["buy", "3", "1"], ["sell", "4", "2"], ["buy", "3", "0.00"], ["sell", "4", "5"]]
    delta = one({**UPDATE, "changes": changes})
    assert delta.bids == ((Decimal(3), Decimal(1)), (Decimal(3), Decimal(0)))
    assert delta.asks == ((Decimal(4), Decimal(2)), (Decimal(4), Decimal(5)))


def test_snapshot_without_a_time_has_none():
    assert one(SNAPSHOT).event_time_us is None
    assert one({**SNAPSHOT, "time": None}).event_time_us is None


def test_snapshot_with_a_time_has_it():
    assert one({**SNAPSHOT, "time": "2022-08-04T15:25:05.010758Z"}).event_time_us == 1_659_626_705_010_758


def test_snapshot_level_of_size_zero_is_harmless():
    snapshot = one({**SNAPSHOT, "bids": [["10101.10", "0"], ["10101.00", "1"]]})
    book = OrderBook()
    book.replace(snapshot)
    assert book.best_bid == (Decimal("10101.00"), Decimal(1))


def test_snapshot_of_an_empty_book_is_a_book():
    assert one({**SNAPSHOT, "bids": [], "asks": []}).bids == ()


@pytest.mark.parametrize("name", ["level2", "level2_50", "level2_batch"])
def test_every_name_of_the_book_channel_acknowledges_books(name):
    ack = {
        "type": "subscriptions",
        "channels": [{"name": name, "product_ids": ["ETH-USD"], "account_ids": None}],
    }
    assert one(ack) == Subscribed({"books": frozenset({"ETH-USD"})})


def test_two_names_of_one_channel_are_one_set():
    channels = [{"name": "level2", "product_ids": ["A-B"]}, {"name": "level2_50", "product_ids": ["C-D"]}]
    assert one({"type": "subscriptions", "channels": channels}) == Subscribed(
        {"books": frozenset({"A-B", "C-D"})}
    )


def test_channels_that_are_not_ours_are_left_out_of_an_ack():
    channels = [
        {"name": "status"},
        {"name": "rfq_matches", "product_ids": ["ALL"]},
        *SUBSCRIPTIONS["channels"],
    ]
    assert one({"type": "subscriptions", "channels": channels}) == Subscribed(
        {"trades": frozenset({"BTC-USD"})}
    )


def test_last_unsubscribe_is_acknowledged_by_an_empty_set():
    assert one({"type": "subscriptions", "channels": []}) == Subscribed({})


def test_error_without_a_reason_is_a_refusal():
    assert one({"type": "error", "message": "error message"}) == Refused("error message", "")


@given(st.text(st.characters(codec="utf-8"), max_size=64))
@example("ticker")
@example("")
@example(" - at `$")
def test_message_of_an_unknown_type_is_unknown(kind):
    if kind not in {message["type"] for message in KNOWN}:
        assert one({"type": kind, "price": True}) == Unknown(kind)


def test_repeated_key_counts_by_its_last_value():
    frame = json.dumps(MATCH)[:-1] + ', "price": "7"}'
    assert one(frame).price == 7


def test_trade_behind_an_unknown_type_is_refused_and_not_ignored():
    assert refusal('{"type":"news",' + json.dumps(MATCH)[1:]).field == "type"


def test_bytes_and_text_are_one():
    assert [receive(frame.encode()) for frame in DOCUMENTED[:-1]] == [
        receive(frame) for frame in DOCUMENTED[:-1]
    ]


# Requests


def test_subscribe_is_one_frame_with_coinbase_names():
    (frame,) = Codec().subscribe(["BTC-USD", "ETH-USD"])
    assert json.loads(frame) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-USD"],
        "channels": ["matches", "level2_batch", "heartbeat"],
    }


def test_unsubscribe_has_the_shape_of_subscribe():
    (frame,) = Codec().unsubscribe(iter(["BTC-USD"]), iter(["books"]))
    assert json.loads(frame) == {
        "type": "unsubscribe",
        "product_ids": ["BTC-USD"],
        "channels": ["level2_batch"],
    }


@pytest.mark.parametrize("ask", [Codec().subscribe, Codec().unsubscribe])
def test_no_symbols_or_no_channels_ask_for_nothing(ask):
    assert ask([]) == []
    assert ask(["BTC-USD"], []) == []


# Time


def test_time_is_exact_to_the_microsecond():
    assert one(MATCH).event_time_us == 1_415_348_367_028_459


@given(
    st.datetimes(datetime(2010, 1, 1), datetime(2026, 10, 31)),
    st.integers(0, 999),
)
@example(datetime(2016, 2, 29, 23, 59, 59, 999_999), 999)
def test_nanoseconds_are_cut_off_and_never_rounded(moment, nanoseconds):
    time = f"{moment.isoformat(timespec='microseconds')}{nanoseconds:03}Z"
    time_us = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    assert one({**MATCH, "time": time}).event_time_us == time_us


@pytest.mark.parametrize(
    ("fraction", "microseconds"),
    [("", 0), (".1", 100_000), (".265", 265_000), (".000001", 1), (".0000009", 0), (".123456789", 123_456)],
)
def test_fraction_of_any_length_is_read(fraction, microseconds):
    event = one({**MATCH, "time": f"2014-11-07T08:19:27{fraction}Z"})
    assert event.event_time_us == 1_415_348_367_000_000 + microseconds


@pytest.mark.parametrize("message", [MATCH, HEARTBEAT, UPDATE, {**SNAPSHOT, "time": UPDATE["time"]}])
def test_time_may_be_two_minutes_ahead_and_no_more(message):
    event_time_us = one(message).event_time_us
    assert one(message, event_time_us - 120_000_000)
    error = refusal(message, event_time_us - 120_000_000 - 1)
    assert error.field == "time"
    assert "120 s after it was received; 120 s is the most" in error.reason


@pytest.mark.parametrize("message", [MATCH, HEARTBEAT, UPDATE, {**SNAPSHOT, "time": UPDATE["time"]}])
def test_time_before_2010_is_refused(message):
    assert one({**message, "time": "2010-01-01T00:00:00Z"}).event_time_us == 1_262_304_000_000_000
    error = refusal({**message, "time": "2009-12-31T23:59:59.999999Z"})
    assert error.field == "time"
    assert "before 2010" in error.reason


# What cannot be: literals, as they would stand in the frame

DEEP = "[" * 10_000 + "]" * 10_000
NOT_A_STRING = [
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "-1",
        "-0",
        "0",
        "1",
        "1.5",
        "true",
        "false",
        "null",
    ),
    *(
        "[]",
        "{}",
        '["1"]',
        '{"a":"1"}',
        "9" * 40,
        "9" * 5_000,
        "1" + "0" * 400,
        DEEP,
        '{"a":' * 10_000,
        "",
        "'1'",
    ),
    *('"1', r'"\ud800"', r'"\x31"', '"\ud800"', "01", "+1", ".5", "1.", "0x10", "1_000"),
]
NOT_A_DECIMAL = [
    *(
        '""',
        '" "',
        '"NaN"',
        '"nan"',
        '"sNaN"',
        '"-NaN"',
        '"Infinity"',
        '"-Infinity"',
        '"inf"',
        '"1e400"',
        '"1e5"',
    ),
    *('"1E-7"', '"-1"', '"-0"', '"-0.0"', '"+1"', '" 1"', '"1 "', '"."', '"1."', '".5"', '"1,5"', '"1_000"'),
    *('"0x10"', '"1.2.3"', '"true"', '"null"', '"\u0663"', '"\uff11"', r'"1\u0000"', r'"1\n"', '"1/2"'),
    *(f'"{"9" * 40}"', f'"{"9" * 29}"', f'"0.{"0" * 27}1"', f'"{"9" * 20}.{"9" * 20}"', f'"{"0" * 29}"'),
]
ZERO = ['"0"', '"0.0"', '"0.00000000"', '"000"']
NOT_A_COUNT = [
    *(literal for literal in NOT_A_STRING if literal not in ("0", "1", "-0")),
    *('"1"', '""', "1.0", "1e3", str(2**63), str(2**64), str(-(2**63)), "9" * 18 + ".0"),
]
NOT_A_SYMBOL = [
    *NOT_A_STRING,
    *(
        '""',
        '"BTC"',
        '"BTC-"',
        '"-USD"',
        '"btc-usd"',
        '"BTC/USD"',
        '"BTC-USD-X"',
        '" BTC-USD"',
        r'"BTC-USD\n"',
    ),
    *(
        f'"{"A" * 21}-USD"',
        f'"A-{"B" * 21}"',
        r'"BTC-USD\""',
        '"BTC\u2010USD"',
        '"../..-USD"',
        f'"A-{"B" * 10_000}"',
    ),
]
NOT_A_TIME = [
    *(literal for literal in NOT_A_STRING if literal != "null"),
    *(
        '""',
        '"now"',
        '"2014-11-07"',
        '"2014-11-07T08:19:27"',
        '"2014-11-07T08:19:27+00:00"',
        '"2014-11-07 08:19:27Z"',
    ),
    *('"2014-11-07T08:19:27z"', '"2014-11-07T08:19:27,5Z"', '"2014-11-07T08:19:27.Z"', '"20141107T081927Z"'),
    *('"2014-W45-5T08:19:27Z"', '"2014-13-07T08:19:27Z"', '"2014-02-29T08:19:27Z"', '"2014-11-07T25:19:27Z"'),
    *('"2014-11-07T08:60:27Z"', '"2014-11-07T08:19:60Z"', '"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00Z"'),
    *('"1970-01-01T00:00:00Z"', '"9999-12-31T23:59:59Z"', '"12014-11-07T08:19:27Z"', '"1415348367"'),
    *(
        '"2014-11-07T08:19:27.0123456789Z"',
        r'"2014-11-07T08:19:27Z\n"',
        '"-014-11-07T08:19:27Z"',
        "1415348367.028459",
    ),
    *('"\uff12014-11-07T08:19:27Z"', '"2014-11-07T08:19:27.\u0661Z"'),
]
NOT_A_SIDE = [
    *NOT_A_STRING,
    '"missing required field `x`"',
    '" - at `$.price`"',
    '""',
    '"BUY"',
    '"Sell"',
    '"bid"',
    '"buy "',
    '"1"',
]


def shown(literal):
    return literal if len(literal) <= 40 else f"{literal[:20]}_of_{len(literal)}"


def check_literal(message, field, literal):
    frame = with_literal(message, field, literal)
    error = refusal(frame)
    assert error.frame == frame
    try:
        json.dumps(json.loads(frame, parse_constant=Decimal), ensure_ascii=False).encode()
    except (ValueError, RecursionError, TypeError):
        return  # not JSON, or not UTF-8: there is no field to name
    assert error.field == field


@pytest.mark.parametrize("literal", [*NOT_A_STRING, *NOT_A_DECIMAL, *ZERO], ids=shown)
@pytest.mark.parametrize("field", ["price", "size"])
def test_price_and_size_of_a_trade_must_be_plain_decimals_above_zero(field, literal):
    check_literal(MATCH, field, literal)


@pytest.mark.parametrize("literal", NOT_A_COUNT, ids=shown)
@pytest.mark.parametrize(
    ("message", "field"),
    [(MATCH, "trade_id"), (MATCH, "sequence"), (HEARTBEAT, "last_trade_id"), (HEARTBEAT, "sequence")],
)
def test_ids_and_sequences_must_be_integers_from_zero(message, field, literal):
    check_literal(message, field, literal)


@pytest.mark.parametrize("literal", NOT_A_SYMBOL, ids=shown)
@pytest.mark.parametrize("message", [MATCH, HEARTBEAT, SNAPSHOT, UPDATE])
def test_product_ids_must_look_like_product_ids(message, literal):
    check_literal(message, "product_id", literal)


@pytest.mark.parametrize("literal", NOT_A_TIME, ids=shown)
@pytest.mark.parametrize("message", [MATCH, HEARTBEAT, UPDATE, {**SNAPSHOT, "time": UPDATE["time"]}])
def test_times_must_be_iso_8601_with_z(message, literal):
    check_literal(message, "time", literal)


@pytest.mark.parametrize("literal", NOT_A_SIDE, ids=shown)
def test_side_must_be_buy_or_sell(literal):
    check_literal(MATCH, "side", literal)


@pytest.mark.parametrize("literal", NOT_A_STRING, ids=shown)
def test_type_must_be_a_string(literal):
    check_literal(MATCH, "type", literal)


@pytest.mark.parametrize("literal", [*NOT_A_STRING, *NOT_A_DECIMAL, *ZERO], ids=shown)
def test_one_bad_price_refuses_the_whole_frame(literal):
    for field in ("bids", "asks"):
        error = refusal(with_literal(SNAPSHOT, field, f'[["1","1"],[{literal},"1"]]'))
        assert error.field in ("", f"{field}[1]", f"{field}[1][0]")
    error = refusal(
        with_literal(
            UPDATE, "changes", f'[["buy","1","1"],["sell","3","1"],["sell",{literal},"1"],["buy","2","2"]]'
        )
    )
    assert error.field in ("", "changes[2]", "changes[2][1]")


@pytest.mark.parametrize("literal", [*NOT_A_STRING, *NOT_A_DECIMAL], ids=shown)
def test_one_bad_size_refuses_the_whole_frame(literal):
    for field in ("bids", "asks"):
        error = refusal(with_literal(SNAPSHOT, field, f'[["1","1"],["2",{literal}]]'))
        assert error.field in ("", f"{field}[1]", f"{field}[1][1]")
    error = refusal(
        with_literal(
            UPDATE, "changes", f'[["buy","1","1"],["sell","4","1"],["sell","3",{literal}],["buy","2","2"]]'
        )
    )
    assert error.field in ("", "changes[2]", "changes[2][2]")


@pytest.mark.parametrize("literal", NOT_A_SIDE, ids=shown)
def test_one_bad_side_refuses_the_whole_frame(literal):
    error = refusal(with_literal(UPDATE, "changes", f'[["buy","1","1"],[{literal},"1","1"]]'))
    assert error.field in ("", "changes[1][0]")


@pytest.mark.parametrize(
    "levels", ["1", "null", "{}", "[[]]", '[["1"]]', '["1","2"]', '[["1","2","3","4"]]', '"[]"']
)
def test_levels_must_be_lists_of_the_documented_length(levels):
    for message, field in ((SNAPSHOT, "bids"), (SNAPSHOT, "asks"), (UPDATE, "changes")):
        assert refusal(with_literal(message, field, levels)).field.startswith(field)


@pytest.mark.parametrize("literal", [literal for literal in NOT_A_SYMBOL if literal], ids=shown)
def test_acknowledged_products_must_look_like_product_ids(literal):
    error = refusal(
        with_literal(SUBSCRIPTIONS, "channels", f'[{{"name":"matches","product_ids":[{literal}]}}]')
    )
    assert error.field in ("", "channels[0].product_ids", "channels[0].product_ids[0]")


def test_nameless_channel_is_refused_by_name():
    assert refusal({"type": "subscriptions", "channels": [{"product_ids": []}]}).field == "channels[0].name"


@pytest.mark.parametrize("message", KNOWN, ids=lambda message: message["type"])
def test_missing_field_is_named(message):
    for field in message.keys() - {"maker_order_id", "taker_order_id", "reason"}:
        assert refusal({name: value for name, value in message.items() if name != field}).field == field


@pytest.mark.parametrize(
    "frame", ["", " ", "null", "1", '"match"', "[]", "{}", '["open","BTC-USD"]', "{} {}", "\ufeff{}"]
)
def test_frame_that_is_no_message_is_refused(frame):
    refusal(frame)
    refusal(frame.encode())


def test_bytes_that_are_not_utf8_are_refused_even_where_nobody_looks():
    frame = json.dumps(MATCH).encode().replace(b"ac928c66", b"\xff\xfe\x80\x81")
    assert refusal(frame).frame == frame


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_deep_nesting_is_refused_wherever_it_stands(depth):
    for deep in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        refusal(deep)
        refusal(with_literal({**MATCH, "new": 0}, "new", deep))
        refusal(with_literal({**MATCH, "type": "news", "new": 0}, "new", deep))


def test_type_of_unbounded_length_is_refused():
    assert refusal({"type": "x" * 65}).field == "type"


def test_error_says_all_in_one_sentence():
    assert str(refusal({**MATCH, "price": "NaN"})).startswith(
        "coinbase frame refused: not a plain decimal of at most 28 digits: 'NaN' in price: '{\"type\""
    )


# Trades over REST

ROW = {
    "time": "2020-03-20T00:36:59.860Z",
    "trade_id": 86327327,
    "price": "6225.32000000",
    "size": "0.06469797",
    "side": "sell",
}


def rest_refusal(body):
    with pytest.raises(DecodeError) as caught:
        Codec().read_trades("BTC-USD", body, RECEIVED_US)
    assert caught.value.exchange == "coinbase"
    assert caught.value.frame == body
    return caught.value


def page(*rows):
    return json.dumps(rows).encode()


def test_a_trade_over_rest_is_the_same_as_over_the_socket_but_for_its_sequence():
    over_rest = {key: MATCH[key] for key in ("time", "trade_id", "price", "size", "side")}
    [trade], refused = Codec().read_trades("BTC-USD", page(over_rest), RECEIVED_US)
    assert not refused
    assert trade == msgspec.structs.replace(one(MATCH), sequence=None)


def test_a_page_without_trades_is_a_page():
    assert Codec().read_trades("BTC-USD", b"[]", RECEIVED_US) == ([], [])


@pytest.mark.parametrize(
    ("field", "literal"),
    [
        ("price", '"NaN"'),
        ("price", '"0"'),
        ("price", "1.5"),
        ("size", '"-1"'),
        ("size", '"1e400"'),
        ("size", '"0.00000000"'),
        ("trade_id", "true"),
        ("trade_id", '"5"'),
        ("trade_id", "-1"),
        ("trade_id", "1e30"),
        ("side", '"SELL"'),
        ("time", '"2020-03-20"'),
        ("time", "1584664619"),
        ("time", '"2006-03-20T00:36:59.860Z"'),
        ("time", '"2026-11-01T00:02:01Z"'),
    ],
)
def test_one_bad_value_refuses_its_trade_alone_and_is_named(field, literal):
    bad = with_literal(ROW, field, literal)
    body = f"[{json.dumps(ROW)},{bad},{json.dumps(ROW)}]".encode()
    trades, [refused] = Codec().read_trades("BTC-USD", body, RECEIVED_US)
    assert [trade.trade_id for trade in trades] == [ROW["trade_id"]] * 2
    assert (refused.exchange, refused.frame, refused.field) == ("coinbase", bad.encode(), field)
    assert refused.reason


@pytest.mark.parametrize("field", ROW)
def test_a_missing_value_refuses_its_trade_alone(field):
    bad = {name: value for name, value in ROW.items() if name != field}
    [trade], [refused] = Codec().read_trades("BTC-USD", page(bad, ROW), RECEIVED_US)
    assert trade.trade_id == ROW["trade_id"]
    assert (json.loads(refused.frame), refused.field) == (bad, field)


@pytest.mark.parametrize("row", ["1", "null", "[]", "{}", '"x"', "[" * 500 + "]" * 500])
def test_what_is_no_trade_is_refused_alone(row):
    [trade], [refused] = Codec().read_trades("BTC-USD", f"[{row},{json.dumps(ROW)}]".encode(), RECEIVED_US)
    assert trade.trade_id == ROW["trade_id"]
    assert refused.frame == row.encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"message":"NotFound"}', b"<html>", b"\xff", b"[" * 1_000_000, page(ROW)[:-1]],
)
def test_a_body_that_is_no_page_is_refused(body):
    rest_refusal(body)


@pytest.mark.parametrize(("message", "field"), [(MATCH, "trade_id"), (HEARTBEAT, "last_trade_id")])
def test_an_id_above_its_sequence_is_refused(message, field):
    assert one({**message, field: message["sequence"]})
    error = refusal(json.dumps({**message, field: message["sequence"] + 1}))
    assert error.field == field
    assert "sequence" in error.reason


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("wss://user:pa@ss@host:1/a@b?c", "wss://host:1/a@b?c"),
        ("http://user@host", "http://host"),
        ("http://host/a@b", "http://host/a@b"),
        ("http://u:p@[::1", "http://[::1"),
        ("u:p@host", "host"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_user_and_password(url, shown):
    assert without_userinfo(url) == shown


def test_a_page_is_asked_for_by_the_id_that_it_ends_before():
    path = Codec().trades_path("BTC-USD", 86327328, 100)
    assert path == "/products/BTC-USD/trades?limit=100&after=86327328"
    assert Codec().trades_path("../x?", 1, 1).startswith("/products/..%2Fx%3F/trades?")


@pytest.mark.parametrize(
    ("url", "rest_url"),
    [
        ("wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com"),
        ("wss://ws-feed.exchange.coinbase.com:443/", "https://api.exchange.coinbase.com"),
        (
            "wss://ws-feed-public.sandbox.exchange.coinbase.com",
            "https://api-public.sandbox.exchange.coinbase.com",
        ),
        ("ws://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("ws://[::1]:8765/ws", "http://[::1]:8765"),
        ("wss://mock.example", "https://mock.example"),
    ],
)
def test_rest_is_the_exchanges_own_or_beside_the_socket_of_a_mock(url, rest_url):
    assert Codec().rest_url(url) == rest_url


# Properties


def sound(event):
    """Assert what everything behind the codec relies on."""
    match event:
        case Trade():
            assert is_price(event.price)
            assert is_price(event.size)
            assert EARLIEST_US <= event.event_time_us <= RECEIVED_US + MAX_AHEAD_US
            assert read_trade(event.to_json()) == event
        case Heartbeat():
            assert EARLIEST_US <= event.event_time_us <= RECEIVED_US + MAX_AHEAD_US
            assert event.last_trade_id >= 0
            assert read_trade(event.to_json()) == event
        case BookSnapshot() | BookDelta():
            assert read_book(event.to_json()) == event
        case Subscribed():
            assert event.channels.keys() <= {"trades", "books", "heartbeats"}
        case Unknown():
            assert event.type not in {message["type"] for message in KNOWN}
        case Refused():
            pass
        case _:
            pytest.fail(f"not an event: {event!r}")


def events_or_refusal(frame):
    try:
        events = Codec().receive(frame, RECEIVED_US)
    except DecodeError:
        assert refusal(frame).frame == frame
    else:
        assert len(events) == 1
        sound(events[0])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["buy", "sell", "0", "1", "1.5", "BTC-USD", MATCH["time"], "matches", "level2_50", 2**63, 10**400]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300))
def test_any_bytes_give_events_or_a_refusal(frame):
    events_or_refusal(frame)


@given(st.text(st.characters(codec=None), max_size=300))
def test_any_text_gives_events_or_a_refusal(frame):
    events_or_refusal(frame)


@given(json_values)
def test_any_json_gives_events_or_a_refusal(value):
    events_or_refusal(json.dumps(value))


@given(st.data())
def test_any_body_gives_trades_or_a_refusal(data):
    row = {**ROW, data.draw(st.sampled_from(list(ROW))): data.draw(json_values)}
    body = data.draw(st.binary(max_size=300) | st.sampled_from([page(row), page(ROW, row), page(*row)]))
    try:
        trades, refused = Codec().read_trades("BTC-USD", body, RECEIVED_US)
    except DecodeError as error:
        assert error.frame == body
    else:
        assert len(trades) + len(refused) <= 2 + len(ROW)
        assert all(error.frame in body for error in refused)
        for trade in trades:
            sound(trade)


@given(st.data())
def test_known_message_with_any_values_gives_events_or_a_refusal(data):
    message = dict(data.draw(st.sampled_from(KNOWN)))
    for field in data.draw(st.sets(st.sampled_from([*message, "time", "new"]), min_size=1, max_size=3)):
        message[field] = data.draw(json_values)
    events_or_refusal(json.dumps(message))
    events_or_refusal(json.dumps(message, ensure_ascii=False))


@given(st.data())
def test_documented_frame_with_bytes_changed_gives_events_or_a_refusal(data):
    frame = bytearray(data.draw(st.sampled_from(DOCUMENTED)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        width = data.draw(st.integers(0, 3))
        frame[at : at + width] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"}", b"[", b"0", b"-"])
        )
    events_or_refusal(bytes(frame))


@given(st.data())
def test_half_a_frame_is_refused(data):
    frame = data.draw(st.sampled_from(DOCUMENTED))
    refusal(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(st.from_regex(r"\A[0-9]{1,14}(\.[0-9]{1,14})?\Z").filter(lambda text: Decimal(text) > 0))
def test_every_digit_of_a_price_is_kept(text):
    trade = one({**MATCH, "price": text, "size": text})
    assert trade.price.as_tuple() == trade.size.as_tuple() == Decimal(text).as_tuple()


# The registry


def test_registry_lists_the_folder():
    assert "coinbase" in names()
    assert codec_class("coinbase") is Codec


@pytest.mark.parametrize("name", ["krakn", "", "../coinbase", "coinbase.Codec", "__init__", "Coinbase"])
def test_unknown_exchange_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"must be one of: .*coinbase"):
        codec_class(name)


# Recordings


def recording(name):
    path = DATA / name
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if name.endswith(".gz")
        else path.open(encoding="utf-8") as lines
    ):
        for line in map(json.loads, lines):
            if line["dir"] == "in":
                received_time_us = round(line["recv_ts"] * 1_000_000) if line["recv_ts"] else RECEIVED_US
                yield line["raw"], Codec().receive(line["raw"], received_time_us)


def needs(name):
    return pytest.mark.skipif(not (DATA / name).is_file(), reason=f"no recording ../shared/data/{name}")


def check_contiguous(trades):
    seen = {}
    for trade in trades:
        if trade.symbol in seen:
            assert trade.trade_id == seen[trade.symbol] + 1
        seen[trade.symbol] = trade.trade_id
    return seen


@needs("coinbase_session.jsonl.gz")
def test_every_frame_of_the_recorded_session_decodes():
    kinds = Counter(
        type(event).__name__ for _, events in recording("coinbase_session.jsonl.gz") for event in events
    )
    assert kinds == {"Subscribed": 3, "BookSnapshot": 5, "BookDelta": 5221, "Unknown": 74, "Trade": 74}


@needs("coinbase_session.jsonl.gz")
def test_recorded_session_has_no_hole_in_its_trade_ids():
    events = [event for _, events in recording("coinbase_session.jsonl.gz") for event in events]
    assert len(check_contiguous(event for event in events if isinstance(event, Trade))) == 5


@needs("coinbase_session.jsonl.gz")
def test_taker_side_is_the_one_that_the_ticker_tells():
    told, read = {}, {}
    for raw, (event,) in recording("coinbase_session.jsonl.gz"):
        if isinstance(event, Trade):
            read[event.symbol, event.trade_id] = event.taker_side
        elif event == Unknown("ticker"):
            ticker = json.loads(raw)
            told[ticker["product_id"], ticker["trade_id"]] = ticker["side"]
    both = told.keys() & read.keys()
    assert len(both) > 60
    assert {key: told[key] for key in both} == {key: read[key] for key in both}


@needs("coinbase_session.jsonl.gz")
def test_rebuilt_book_is_never_crossed_after_a_frame():
    books = defaultdict(OrderBook)
    for _, (event,) in recording("coinbase_session.jsonl.gz"):
        if isinstance(event, BookSnapshot):
            books[event.symbol].replace(event)
        elif isinstance(event, BookDelta):
            books[event.symbol].apply(event)
        else:
            continue
        book = books[event.symbol]
        assert book.best_bid
        assert book.best_ask
        assert not book.is_crossed
    assert len(books) == 5


@needs("coinbase_matches.jsonl.gz")
def test_recorded_matches_decode_and_have_no_hole_in_their_ids():
    trades = [trade for _, trades in recording("coinbase_matches.jsonl.gz") for trade in trades]
    assert Counter(trade.symbol for trade in trades) == {"BTC-USD": 143, "LTC-USD": 20}
    check_contiguous(trades)


@needs("coinbase_modern_frames.jsonl")
def test_frames_of_today_decode():
    events = [event for _, (event,) in recording("coinbase_modern_frames.jsonl")]
    both = frozenset({"BTC-USD", "ETH-USD"})
    assert events[0] == Subscribed({"books": both, "trades": both, "heartbeats": both})
    assert [type(event) for event in events[1:]] == [Trade, BookDelta, Trade, BookDelta, Trade]
    assert (len(events[4].bids), len(events[4].asks)) == (6, 6)
    assert events[1].event_time_us == 1_790_733_792_257_184
