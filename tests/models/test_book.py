"""Order books, against a dict, and the records of the topic `books`."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.book import (
    BookDelta,
    BookKeyframe,
    BookLost,
    BookRecord,
    BookSnapshot,
    Level,
    OrderBook,
    read_book,
)
from models.errors import RecordError

QUICK = settings(deadline=None, max_examples=100)

Sides = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]

DELTA: dict[str, Any] = {
    "kind": "delta",
    "exchange": "coinbase",
    "symbol": "BTC-USD",
    "event_time_us": 1_659_626_705_010_758,
    "received_time_us": 1_659_626_705_100_000,
    "bids": [["22356.270000", "0.00000000"], ["22356.300000", "1.00000000"]],
    "asks": [],
}

numbers = st.builds(
    lambda digits, places: Decimal((0, tuple(map(int, str(digits))), -places)),
    st.integers(1, 10**28 - 1) | st.integers(1, 10**5),
    st.integers(0, 28),
)
zeros = st.sampled_from([Decimal(0), Decimal("0.00000000")])
counts = st.integers(0, 253_402_214_399_999_999)
symbols = st.from_regex(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}", fullmatch=True)
some_levels = st.lists(st.tuples(numbers, numbers | zeros), max_size=5).map(tuple)
heads = (st.just("coinbase"), symbols, st.none() | counts, counts)
records = st.sampled_from([BookSnapshot, BookKeyframe, BookDelta]).flatmap(
    lambda kind: st.builds(kind, *heads, some_levels, some_levels)
) | st.builds(BookLost, *heads, st.text(max_size=20))

# Few prices, so that levels are set, changed and removed many times.
near_levels = st.lists(
    st.tuples(
        st.integers(95, 105).map(Decimal),
        st.sampled_from(["0", "0.0", "1", "2.50", "0.00000001"]).map(Decimal),
    ),
    max_size=6,
).map(tuple)


def snapshot(bids: tuple[Level, ...] = (), asks: tuple[Level, ...] = ()) -> BookSnapshot:
    return BookSnapshot("coinbase", "BTC-USD", 0, 0, bids, asks)


def delta(bids: tuple[Level, ...] = (), asks: tuple[Level, ...] = ()) -> BookDelta:
    return BookDelta("coinbase", "BTC-USD", 0, 0, bids, asks)


def levels(*pairs: tuple[str, str]) -> tuple[Level, ...]:
    return tuple((Decimal(price), Decimal(size)) for price, size in pairs)


def book_of(bids: tuple[Level, ...] = (), asks: tuple[Level, ...] = ()) -> OrderBook:
    book = OrderBook()
    book.replace(snapshot(bids, asks))
    return book


def set_levels(sides: Sides, record: BookSnapshot | BookDelta) -> None:
    """Change a book of dicts; no size is zero in it."""
    for side, changes in zip(sides, (record.bids, record.asks), strict=True):
        for price, size in changes:
            side[price] = size
            if side[price] == 0:
                del side[price]


def line(**changed: Any) -> bytes:
    return json.dumps({**DELTA, **changed}).encode()


def read_or_refused(value: bytes) -> BookRecord | None:
    try:
        return read_book(value)
    except RecordError as error:
        assert error.value == value
        assert error.reason
        return None


@QUICK
@given(near_levels, near_levels, st.lists(st.tuples(near_levels, near_levels), max_size=8))
def test_a_snapshot_and_its_deltas_make_the_later_snapshot(
    bids: tuple[Level, ...],
    asks: tuple[Level, ...],
    changes: list[tuple[tuple[Level, ...], tuple[Level, ...]]],
) -> None:
    first = snapshot(tuple(dict(bids).items()), tuple(dict(asks).items()))
    book = book_of(first.bids, first.asks)
    expected: Sides = ({}, {})
    set_levels(expected, first)
    for bids, asks in changes:
        book.apply(delta(bids, asks))
        set_levels(expected, delta(bids, asks))
        by_price = (sorted(expected[0].items(), reverse=True), sorted(expected[1].items()))
        assert (dict(book.bids), dict(book.asks)) == expected
        assert (book.best_bid, book.best_ask) == tuple((side or [None])[0] for side in by_price)
        assert book.is_crossed is any(bid >= ask for bid in expected[0] for ask in expected[1])
        for count in (0, 1, 3, 100):
            assert (book.top_bids(count), book.top_asks(count)) == tuple(side[:count] for side in by_price)
    later = book_of(tuple(expected[0].items()), tuple(expected[1].items()))
    assert (later.bids, later.asks) == (book.bids, book.asks)


def test_a_snapshot_forgets_what_was_there() -> None:
    book = book_of(levels(("99", "1"), ("98", "1")), levels(("101", "1")))
    book.replace(snapshot(levels(("97", "2"), ("96", "0")), ()))
    assert (dict(book.bids), dict(book.asks)) == ({Decimal(97): Decimal(2)}, {})


def test_the_same_price_with_more_zeros_is_the_same_level() -> None:
    book = book_of(levels(("99.50", "1")))
    book.apply(delta(levels(("99.5000", "0.000"))))
    assert not book.bids


def test_removing_a_level_that_is_not_there_changes_nothing() -> None:
    book = book_of(levels(("99", "1")))
    book.apply(delta(levels(("98", "0")), levels(("99", "0"))))
    assert dict(book.bids) == {Decimal(99): Decimal(1)}


@pytest.mark.parametrize(
    ("bid", "ask", "crossed"),
    [("99", "100", False), ("100", "100", True), ("100.0", "100", True), ("101", "100", True)],
)
def test_a_book_is_crossed_when_a_bid_is_as_high_as_an_ask(bid: str, ask: str, crossed: bool) -> None:
    assert book_of(levels(("1", "1"), (bid, "1")), levels((ask, "1"), ("1000", "1"))).is_crossed is crossed


def test_an_empty_or_one_sided_book_is_not_crossed() -> None:
    assert not book_of().is_crossed
    assert not book_of(bids=levels(("99", "1"))).is_crossed
    assert not book_of(asks=levels(("99", "1"))).is_crossed
    assert (book_of().best_bid, book_of().best_ask) == (None, None)


@QUICK
@given(records)
def test_what_was_written_reads_back_the_same(record: BookRecord) -> None:
    again = read_book(record.to_json())
    assert again == record
    assert type(again) is type(record)
    assert again.to_json() == record.to_json()
    assert b"\n" not in record.to_json()


def test_tiny_sizes_are_written_plain() -> None:
    record = read_book(line(bids=[["4E-8", "1E-10"]], asks=[["1", "0E-8"]]))
    assert b'"bids":[["0.00000004","0.0000000001"]],"asks":[["1","0.00000000"]]' in record.to_json()


def test_a_record_is_read_whole() -> None:
    assert read_book(line()) == BookDelta(
        "coinbase",
        "BTC-USD",
        1_659_626_705_010_758,
        1_659_626_705_100_000,
        levels(("22356.27", "0"), ("22356.3", "1")),
        (),
    )


@QUICK
@given(st.binary(max_size=60))
@example(b"")
@example(b"[]")
@example(b"[" * 100_000)
@example(b'{"kind":"lost","exchange":"coinbase","symbol":"\xff"}')
@example(line().replace(b"BTC", b"\xc3\x28"))
@example(line(kind="lost", cause="x").replace(b'"x"', b'"\xff"'))
def test_any_bytes_are_a_value_or_a_record_error(value: bytes) -> None:
    read_or_refused(value)


@QUICK
@given(
    st.sampled_from([line(), line(kind="snapshot"), line(kind="lost", cause="gone")]),
    st.integers(0),
    st.integers(0, 255),
)
def test_a_record_with_one_byte_changed_is_a_value_or_a_record_error(
    value: bytes, index: int, byte: int
) -> None:
    index %= len(value)
    read_or_refused(value[:index] + bytes([byte]) + value[index + 1 :])


def test_no_value_at_all_is_refused() -> None:
    with pytest.raises(RecordError, match="no value"):
        read_book(None)


@pytest.mark.parametrize("side", ["bids", "asks"])
@pytest.mark.parametrize("kind", ["snapshot", "keyframe", "delta"])
@pytest.mark.parametrize(
    "level",
    [["0", "1"], ["-1", "1"], ["NaN", "1"], ["sNaN", "1"], ["Infinity", "1"], ["1e400", "1"], ["1" * 40, "1"],
     ["1", "-1"], ["1", "NaN"], ["1", "sNaN"], ["1", "Infinity"], ["1", "1e400"], ["1", "0." + "1" * 40], ["1", "1e-400"],
     ["1"], ["1", "1", "1"], [], [True, "1"], ["1", None], "1", None],
)  # fmt: skip
def test_a_level_that_cannot_be_is_refused(side: str, kind: str, level: object) -> None:
    with pytest.raises(RecordError):
        read_book(line(kind=kind, **{side: [["5", "1"], level]}))


@pytest.mark.parametrize("kind", ["", "update", None, 1])
def test_a_record_of_an_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(RecordError):
        read_book(line(kind=kind))
