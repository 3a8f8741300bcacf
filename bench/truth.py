"""The right candles of any first part of each symbol's trades, in whole numbers, and what differs. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from math import isclose
from typing import Any

from models.trade import Trade
from models.window import BY_NAME

PRICE_DIGITS = 2
SIZE_DIGITS = 8
QUOTE_DIGITS = PRICE_DIGITS + SIZE_DIGITS
FIELDS = ("open", "high", "low", "close", "volume", "quote_volume", "trade_count")
DIGITS = (PRICE_DIGITS,) * 4 + (SIZE_DIGITS, QUOTE_DIGITS)
"""After the point, of each field but the last."""
NEAR = 1e-9
"""How far a sum of floats may be off, relative to the right one."""

Key = tuple[str, str, int]
"""Window, symbol, start in milliseconds."""
Row = list[int]
"""Open, high, low, close, volume, quote volume, count: decimals without their point."""


class Truth:
    """The trades of a log, as they are written to it."""

    def __init__(self) -> None:
        self._trades: dict[str, tuple[array[int], array[int], array[int]]] = {}
        self._whole: dict[tuple[str, ...], dict[Key, Row]] = {}

    def watch(self, trades: Iterable[Trade]) -> Iterator[Trade]:
        """Yield the trades, and remember them."""
        for trade in trades:
            kept = self._trades.get(trade.symbol)
            if kept is None:
                kept = self._trades[trade.symbol] = (array("q"), array("q"), array("q"))
            kept[0].append(trade.event_time_us)
            kept[1].append(int(trade.price.scaleb(PRICE_DIGITS)))
            kept[2].append(int(trade.size.scaleb(SIZE_DIGITS)))
            yield trade

    def span(self) -> tuple[int, int]:
        """Return the first and the last event time of the log, in microseconds."""
        times = [trades[0] for trades in self._trades.values()]
        return min(own[0] for own in times), max(own[-1] for own in times)

    def candles(self, windows: tuple[str, ...], counts: dict[str, int]) -> dict[Key, Row]:
        """Return the candles of the first ``counts`` trades of each symbol."""
        if counts != {symbol: len(trades[0]) for symbol, trades in self._trades.items()}:
            return self._fold(windows, counts)
        if windows not in self._whole:
            self._whole[windows] = self._fold(windows, counts)
        return self._whole[windows]

    def _fold(self, windows: tuple[str, ...], counts: dict[str, int]) -> dict[Key, Row]:
        sizes = {name: BY_NAME[name] for name in windows}
        candles: dict[Key, Row] = {}
        for symbol, count in counts.items():
            trades = self._trades.get(symbol, ())
            for time_us, price, size in islice(zip(*trades, strict=True), count):
                for name, window in sizes.items():
                    key = (name, symbol, window.start_of(time_us) // 1000)
                    row = candles.get(key)
                    if row is None:
                        candles[key] = [price, price, price, price, size, price * size, 1]
                        continue
                    if price > row[1]:
                        row[1] = price
                    elif price < row[2]:
                        row[2] = price
                    row[3] = price
                    row[4] += size
                    row[5] += price * size
                    row[6] += 1
        return candles

    def fault(self, found: dict[Key, list[Any]], windows: tuple[str, ...], trades: int) -> str | None:
        """Say what is wrong with the candles that a program found in ``trades`` trades; None: nothing.

        Which trades it took is its own: of every symbol, the first ones.
        """
        counts: Counter[str] = Counter()
        for (name, symbol, _), row in found.items():
            if name == windows[0]:
                counts[symbol] += row[6]
        if counts.total() != trades:
            return f"{trades:,} trades were to be folded, {counts.total():,} are in the candles"
        right = self.candles(windows, counts)
        if missing := right.keys() - found.keys():
            return f"the candle {min(missing)} is missing, and {len(missing) - 1} others"
        if more := found.keys() - right.keys():
            return f"the candle {min(more)} is of no trade in the log, and {len(more) - 1} others"
        for key, row in right.items():
            if not same(found[key], row):
                told = [_decimal(value, digits) for value, digits in zip(row[:6], DIGITS, strict=True)]
                return f"{key}: {[str(value) for value in told] + [row[6]]} was in the log, {found[key]} told"
        return None


def same(found: list[Any], right: Row) -> bool:
    """Compare a candle: text must be exact, floats near."""
    for value, whole, digits in zip(found[:6], right[:6], DIGITS, strict=True):
        expected = _decimal(whole, digits)
        if isinstance(value, str):
            if Decimal(value) != expected:
                return False
        elif not isclose(value, expected, rel_tol=NEAR):
            return False
    return bool(found[6] == right[6])


def _decimal(whole: int, digits: int) -> Decimal:
    return Decimal(whole).scaleb(-digits)
