"""Records of the topic `trades`: any bytes are a value or a RecordError, and what is written reads back."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.errors import RecordError
from models.tape import CandleChange, GapChange, Tape, TapeState, describe
from models.trade import Heartbeat, Trade, read_trade
from models.window import BY_NAME

QUICK = settings(deadline=None, max_examples=100)

TRADE: dict[str, Any] = {
    "exchange": "coinbase",
    "symbol": "BTC-USD",
    "trade_id": 10,
    "price": "400.23",
    "size": "5.23512",
    "taker_side": "buy",
    "event_time_us": 1_415_348_347_028_459,
    "received_time_us": 1_415_348_347_100_000,
    "sequence": 50,
}
HEARTBEAT: dict[str, Any] = {
    "kind": "heartbeat",
    "exchange": "coinbase",
    "symbol": "BTC-USD",
    "last_trade_id": 20,
    "event_time_us": 1_415_348_348_464_459,
    "received_time_us": 1_415_348_348_500_000,
    "sequence": None,
}

numbers = st.builds(
    lambda digits, places: Decimal((0, tuple(map(int, str(digits))), -places)),
    st.integers(1, 10**28 - 1) | st.integers(1, 10**5),
    st.integers(0, 28),
)
counts = st.integers(0, 253_402_214_399_999_999)
symbols = st.from_regex(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}", fullmatch=True)
trades = st.builds(
    Trade,
    st.just("coinbase"),
    symbols,
    counts,
    numbers,
    numbers,
    st.sampled_from(("buy", "sell")),
    counts,
    counts,
    st.none() | counts,
)
heartbeats = st.builds(Heartbeat, st.just("coinbase"), symbols, counts, counts, counts, st.none() | counts)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(
        ["NaN", "sNaN", "-1", "1e400", "1e-400", "1E+999999999999999999999", "0", "4E-8", "buy"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def line(base: dict[str, Any], **changed: Any) -> bytes:
    return json.dumps({**base, **changed}).encode()


def read_or_refused(value: bytes) -> Trade | Heartbeat | None:
    try:
        return read_trade(value)
    except RecordError as error:
        assert error.value == value
        assert error.reason
        return None


def changed_at(value: bytes, index: int, byte: int) -> bytes:
    index %= len(value)
    return value[:index] + bytes([byte]) + value[index + 1 :]


@QUICK
@given(trades | heartbeats)
def test_what_was_written_reads_back_the_same(event: Trade | Heartbeat) -> None:
    if event.event_time_us > event.received_time_us + 86_400_000_000:
        assert read_or_refused(event.to_json()) is None
        return
    again = read_trade(event.to_json())
    assert again == event
    assert again.to_json() == event.to_json()
    assert b"\n" not in event.to_json()


@QUICK
@given(trades)
def test_a_written_trade_is_json_with_plain_decimals_as_strings(trade: Trade) -> None:
    written = json.loads(trade.to_json())
    for name in ("price", "size"):
        text = written.pop(name)
        assert text.replace(".", "", 1).isdigit()
        assert Decimal(text) == getattr(trade, name)
    assert written == {name: getattr(trade, name) for name in TRADE if name not in ("price", "size")}


def test_a_tiny_size_is_written_plain() -> None:
    trade = read_trade(line(TRADE, price="4E-8", size="0.00000001"))
    assert isinstance(trade, Trade)
    assert b'"price":"0.00000004","size":"0.00000001"' in trade.to_json()


def test_a_record_is_read_whole() -> None:
    expected = {**TRADE, "price": Decimal("400.23"), "size": Decimal("5.23512")}
    assert msgspec.structs.asdict(read_trade(line(TRADE))) == expected
    heartbeat = read_trade(line(HEARTBEAT))
    assert isinstance(heartbeat, Heartbeat)
    assert {"kind": "heartbeat", **msgspec.structs.asdict(heartbeat)} == HEARTBEAT


@QUICK
@given(st.binary(max_size=60))
@example(b"")
@example(b"null")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"exchange":"\xff"}')
@example(b'{"kind":"heartbeat","exchange":"\xff"}')
@example(line(TRADE).replace(b"BTC", b"\xc3\x28"))
@example(line(TRADE).replace(b"BTC", b"\\ud800"))
def test_any_bytes_are_a_value_or_a_record_error(value: bytes) -> None:
    read_or_refused(value)


@QUICK
@given(st.sampled_from([line(TRADE), line(HEARTBEAT)]), st.integers(0, 300), st.integers(0, 255))
def test_a_record_with_one_byte_changed_is_a_value_or_a_record_error(
    value: bytes, index: int, byte: int
) -> None:
    read_or_refused(changed_at(value, index, byte))


@QUICK
@given(st.sampled_from([TRADE, HEARTBEAT]), st.data(), json_values)
def test_a_record_with_one_field_changed_is_a_value_or_a_record_error(
    base: dict[str, Any], data: st.DataObject, value: object
) -> None:
    field = data.draw(st.sampled_from(sorted(base)))
    read_or_refused(line(base, **{field: value}))
    read_or_refused(line({name: kept for name, kept in base.items() if name != field}))


def test_no_value_at_all_is_refused() -> None:
    with pytest.raises(RecordError, match="no value"):
        read_trade(None)


@pytest.mark.parametrize("field", ["price", "size"])
@pytest.mark.parametrize(
    "number",
    ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "-0.1", "0", "-0", "0.00", "1" * 40, "0." + "1" * 40, "1e400", "1e-400",
     "1E+999999999999999999999", "", "x", "0x1", None, True, False, [], {}],
)  # fmt: skip
def test_a_price_or_size_that_cannot_be_is_refused(field: str, number: object) -> None:
    with pytest.raises(RecordError):
        read_trade(line(TRADE, **{field: number}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("taker_side", "BUY"),
        ("taker_side", None),
        ("trade_id", "10"),
        ("trade_id", 10.5),
        ("trade_id", True),
        ("trade_id", None),
        ("event_time_us", None),
        ("event_time_us", "2026-11-01T00:00:00Z"),
        ("symbol", 5),
        ("sequence", "50"),
    ],
)
def test_a_field_of_another_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(RecordError, match=field):
        read_trade(line(TRADE, **{field: value}))


@pytest.mark.parametrize("base", [TRADE, HEARTBEAT])
@pytest.mark.parametrize(
    "field", ["event_time_us", "received_time_us", "trade_id", "last_trade_id", "sequence"]
)
@pytest.mark.parametrize(
    "number", [-1, -(2**62), 253_402_300_800_000_000, 2**62, 2**63 - 1, 2**63, 2**64, 2**70]
)
def test_a_record_with_an_extreme_number_is_refused_or_goes_all_the_way(
    base: dict[str, Any], field: str, number: int
) -> None:
    """What is let in here must not stop the agent later: not in the fold, the view or the table."""
    if field not in base:
        return
    rows: dict[Any, Any] = {}
    tape = Tape(TapeState(), rows, grace_us=5_000_000)
    values = [
        line(TRADE),
        line(base, **{field: number}),
        line(TRADE, trade_id=11, event_time_us=number // 2 if field == "event_time_us" else 10**15),
        line(TRADE, trade_id=12),
    ]
    records = [(offset, event) for offset, value in enumerate(values) if (event := read_or_refused(value))]
    for change in tape.fold(records):
        if isinstance(change, CandleChange):
            msgspec.json.encode(change.candle)
        elif isinstance(change, GapChange):
            msgspec.json.encode(change.describe("coinbase", "BTC-USD"))
    tape.settle()
    for (name, start_us), row in rows.items():
        msgspec.json.encode(describe(BY_NAME[name], start_us, row, tape.state))
        assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row
    assert msgspec.json.decode(msgspec.json.encode(tape.state), type=TapeState) == tape.state
