"""The judge of every run: a wrong, missing or invented candle of any window is named."""

from __future__ import annotations

from typing import Any

import pytest

from bench import market
from bench.truth import DIGITS, Key, Truth, _decimal

WINDOWS = ("1m", "1h", "1d")
COUNT = 500


@pytest.fixture
def truth() -> Truth:
    truth = Truth()
    start_us = market.midnight(1_790_000_000_000_000)
    for _ in truth.watch(market.trades(["X-USD", "Y-USD"], COUNT, start_us, 400_000)):
        pass
    return truth


def told(truth: Truth) -> dict[Key, list[Any]]:
    counts = {symbol: len(trades[0]) for symbol, trades in truth._trades.items()}
    return {
        key: [*(str(_decimal(value, digits)) for value, digits in zip(row[:6], DIGITS, strict=True)), row[6]]
        for key, row in truth.candles(WINDOWS, counts).items()
    }


def test_right_candles_have_no_fault(truth: Truth) -> None:
    assert truth.fault(told(truth), WINDOWS, COUNT) is None


@pytest.mark.parametrize("window", WINDOWS)
def test_one_wrong_figure_in_any_window_is_a_fault(truth: Truth, window: str) -> None:
    for place in range(6):
        found = told(truth)
        key = next(key for key in found if key[0] == window)
        found[key][place] = "0.01"
        assert str(key) in str(truth.fault(found, WINDOWS, COUNT))


def test_a_missing_and_an_invented_candle_are_faults(truth: Truth) -> None:
    found = told(truth)
    hour = next(key for key in found if key[0] == "1h")
    without = {key: row for key, row in found.items() if key != hour}
    assert "missing" in str(truth.fault(without, WINDOWS, COUNT))
    more = {**found, ("1h", "X-USD", 0): found[hour]}
    assert "of no trade" in str(truth.fault(more, WINDOWS, COUNT))
