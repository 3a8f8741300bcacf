"""The latest trades of one product, kept for REST.

A simulated product's ids have no holes, so four columns of integers and the first id say it all:
25 bytes a trade, and any page is found by arithmetic.
"""

from __future__ import annotations

from array import array

from candlewick.mock.frames import Row, time_text
from candlewick.mock.products import Product

KEPT = 250_000
"""Trades of a product that REST can still serve, at least: those of 13 hours of BTC-USD at its usual
rate of 5 a second, in 8 MB at most."""


class TradeLog:
    """Trades in the order of their ids, and the totals of all there ever were."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._first_id = 0
        self._ticks, self._units, self._times = array("q"), array("q"), array("q")
        self._buys = array("b")
        self.open = self.high = self.low = self.volume = 0
        """Ticks, and units."""

    def add(self, trade_id: int, ticks: int, units: int, taker_buys: bool, time_us: int) -> None:
        """Append a trade; its id is one above the last."""
        if not self._ticks:
            self._first_id = trade_id
            self.open = self.high = self.low = ticks
        if ticks > self.high:
            self.high = ticks
        elif ticks < self.low:
            self.low = ticks
        self.volume += units
        self._ticks.append(ticks)
        self._units.append(units)
        self._times.append(time_us)
        self._buys.append(taker_buys)
        if len(self._ticks) >= KEPT + KEPT // 4:  # rarely, so that dropping costs little
            drop = len(self._ticks) - KEPT
            for column in (self._ticks, self._units, self._times, self._buys):
                del column[:drop]
            self._first_id += drop

    def maker_side(self, index: int) -> str:
        """Return the side of the order that rested."""
        return "sell" if self._buys[index] else "buy"

    def rows(self, limit: int, after: int | None, before: int | None) -> list[Row]:
        """Return up to ``limit`` trades with ``before < id < after``, the newest first."""
        first = self._first_id
        end = len(self._ticks) if after is None else max(0, min(len(self._ticks), after - first))
        start = max(0, end - limit)
        if before is not None:
            start = max(start, before + 1 - first)
        product = self._product
        return [
            {
                "trade_id": first + index,
                "side": self.maker_side(index),
                "size": product.size_text(self._units[index]),
                "price": product.price_text(self._ticks[index]),
                "time": time_text(self._times[index]),
            }
            for index in range(end - 1, start - 1, -1)
        ]
