"""Candles as pages read them: where the chain of pages ends, and what is left out at its end."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from models.tape import Tape, TapeState
from models.trade import Trade
from models.window import SECOND_US, window_named

MINUTE = 60 * SECOND_US
START = 1_790_000_040_000_000
"""The beginning of a minute, and not of five."""
MINUTES = (0, 1, 4, 7, 13)
"""Those that have a trade, from `START` on."""
SYMBOL = "coinbase:BTC-USD"
END = START + 15 * MINUTE


@pytest.fixture
def series(of_app: Callable[[str], Any]) -> Any:
    """The module under test."""
    return of_app("candlewick.web.api.series")


@pytest.fixture
def state(series: Any) -> TapeState:
    """The symbol with its trades, in a table that had nothing before."""
    rows = series.candles.table.rows(0)
    rows._cache.clear()
    state = TapeState()
    tape = Tape(state, rows.of(SYMBOL), 10 * SECOND_US, {})
    tape.fold(
        (number, Trade("coinbase", "BTC-USD", number, Decimal(100 + number), Decimal(1), "buy", at_us, at_us))
        for number, at_us in enumerate((START + minute * MINUTE for minute in MINUTES), 1)
    )
    tape.settle()
    rows.put(b"state/" + SYMBOL.encode(), state)
    return state


def pages(series: Any, state: TapeState, name: str, span: Any, fill: str) -> list[list[Any]]:
    """Return all pages, from the first one on."""
    found = []
    window = window_named(name)
    following = span
    while following:
        assert len(found) < 100, "the chain of pages has no end"
        items, following = series.read(0, SYMBOL, window, following, state, fill)
        found.append(items)
    return found


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize(("name", "size_us"), [("1m", MINUTE), ("5m", 5 * MINUTE)])
def test_filled_pages_begin_at_the_first_candle(
    series: Any, state: TapeState, newest: bool, name: str, size_us: int
) -> None:
    end_us = -(-END // size_us) * size_us
    found = pages(series, state, name, series.Span(0, end_us, 2, newest), "previous")
    assert all(len(items) <= 2 for items in found)
    starts = sorted(item.start_ms * 1000 for items in found for item in items)
    assert starts == list(range(START // size_us * size_us, end_us, size_us))


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("fill", ["none", "previous"])
def test_before_the_first_candle_there_is_one_empty_page(
    series: Any, state: TapeState, newest: bool, fill: str
) -> None:
    span = series.Span(0, START, 2, newest)
    assert pages(series, state, "1m", span, fill) == [[]]


@pytest.mark.parametrize("fill", ["none", "previous"])
def test_a_window_of_which_a_part_is_gone_is_left_out(series: Any, state: TapeState, fill: str) -> None:
    state.kept_from["1m"] = START + 2 * MINUTE
    window = window_named("5m")
    assert window is not None
    whole = START + 6 * MINUTE
    [items] = pages(series, state, "5m", series.Span(0, END, 100, True), fill)
    assert items[0].start_ms * 1000 == whole
    assert series.newest_items(0, SYMBOL, "5m", 100, -1)[0].start_ms * 1000 == whole
    assert series.newest_items(0, SYMBOL, "5m", 100, 0)[0].start_ms * 1000 == whole
    assert series.item_at(0, SYMBOL, window, whole - window.size_us, state) is None
    [minutes] = pages(series, state, "1m", series.Span(0, END, 100, True), "none")
    assert minutes[0].start_ms * 1000 == START + 4 * MINUTE
