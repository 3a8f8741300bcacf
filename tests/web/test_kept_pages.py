"""Pages that are kept: what is forgotten when, and how much of them there may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from candlewick.web.api.kept_pages import AROUND, KeptPages

ROOM = 10 * (AROUND + 100)


def test_a_page_is_given_again_until_its_symbol_changes() -> None:
    pages: KeptPages[str] = KeptPages(ROOM)
    pages.put("coinbase:BTC-USD", ("json", 1), "first", 100)
    pages.put("coinbase:BTC-USD", ("json", 2), "second", 100)
    pages.put("coinbase:ETH-USD", ("json", 1), "third", 100)
    assert pages.get("coinbase:BTC-USD", ("json", 1)) == "first"
    assert pages.get("coinbase:BTC-USD", ("csv", 1)) is None
    assert pages.get("coinbase:LTC-USD", ("json", 1)) is None
    pages.changed("coinbase:BTC-USD")
    assert pages.get("coinbase:BTC-USD", ("json", 1)) is None
    assert pages.get("coinbase:ETH-USD", ("json", 1)) == "third"
    pages.changed("coinbase:LTC-USD")
    pages.clear()
    assert pages.get("coinbase:ETH-USD", ("json", 1)) is None


def test_empty_pages_take_room_as_well() -> None:
    pages: KeptPages[str] = KeptPages(ROOM)
    for number in range(100_000):
        pages.put("coinbase:BTC-USD", number, "", 0)
    held = sum(pages.get("coinbase:BTC-USD", number) is not None for number in range(100_000))
    assert 0 < held <= ROOM // AROUND


def test_a_page_larger_than_the_room_is_not_kept() -> None:
    pages: KeptPages[str] = KeptPages(ROOM)
    pages.put("coinbase:BTC-USD", 1, "small", 100)
    pages.put("coinbase:BTC-USD", 2, "huge", ROOM)
    assert pages.get("coinbase:BTC-USD", 2) is None
    assert pages.get("coinbase:BTC-USD", 1) == "small"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 3), st.integers(0, 5), st.integers(0, ROOM)),
            st.tuples(st.just("changed"), st.integers(0, 3)),
            st.tuples(st.just("clear")),
        ),
        max_size=60,
    )
)
def test_what_is_given_was_put_last_and_fits(steps: list[tuple]) -> None:
    pages: KeptPages[int] = KeptPages(ROOM)
    put: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (what, *of) in enumerate(steps):
        if what == "put":
            symbol, asked, size = of
            pages.put(str(symbol), asked, number, size)
            put[symbol, asked] = (number, size)
        elif what == "changed":
            pages.changed(str(of[0]))
            put = {key: value for key, value in put.items() if key[0] != of[0]}
        else:
            pages.clear()
            put.clear()
        found = {key: page for key in put if (page := pages.get(str(key[0]), key[1])) is not None}
        assert all(put[key][0] == page for key, page in found.items())
        assert sum(put[key][1] + AROUND for key in found) <= ROOM
