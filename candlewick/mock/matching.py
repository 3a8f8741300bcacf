"""A limit order book: resting orders by price, then by time.

Both sides use one class through **keys**: a bid's key is its price in ticks, an ask's the negated
price. So on either side the best level has the highest key, at the end of a sorted list, where
taking it away costs nothing. With some thousand levels a list is faster than any tree.
"""

from __future__ import annotations

from bisect import insort
from collections import deque


class Level:
    """The orders at one price, oldest first."""

    __slots__ = ("orders", "total")

    def __init__(self) -> None:
        self.total = 0
        """Units, of all orders together."""
        self.orders: deque[list[int]] = deque()
        """``[order number, units left]``."""


class Side:
    """The bids, or the asks."""

    __slots__ = ("keys", "levels", "touched")

    def __init__(self) -> None:
        self.keys: list[int] = []
        """Sorted: the best is the last."""
        self.levels: dict[int, Level] = {}
        self.touched: dict[int, None] = {}
        """Keys changed since the last `drain`, in order of first change."""

    def add(self, key: int, order: int, units: int) -> None:
        """Let an order rest behind the others of its price."""
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = Level()
            insort(self.keys, key)
        level.total += units
        level.orders.append([order, units])
        self.touched[key] = None

    def cancel_newest(self, index: int) -> None:
        """Take back the youngest order of a level."""
        key = self.keys[index]
        level = self.levels[key]
        level.total -= level.orders.pop()[1]
        self.touched[key] = None
        if not level.orders:
            del self.levels[key]
            del self.keys[index]

    def cancel_level(self, index: int) -> int:
        """Take back all orders of a level; return how many they were."""
        key = self.keys.pop(index)
        self.touched[key] = None
        return len(self.levels.pop(key).orders)

    def take(self, units: int, most: int) -> list[tuple[int, int, int, bool]]:
        """Fill the best orders first: ``(key, maker's number, units, maker is done)`` of each fill.

        At most ``most`` fills. What is not filled is gone: an immediate-or-cancel order.
        """
        fills: list[tuple[int, int, int, bool]] = []
        while units and self.keys and len(fills) < most:
            key = self.keys[-1]
            level = self.levels[key]
            orders = level.orders
            self.touched[key] = None
            while units and orders and len(fills) < most:
                maker = orders[0]
                filled = maker[1]
                if filled > units:
                    filled = units
                    maker[1] -= units
                    done = False
                else:
                    orders.popleft()
                    done = True
                units -= filled
                level.total -= filled
                fills.append((key, maker[0], filled, done))
            if not orders:
                del self.levels[self.keys.pop()]
        return fills

    def drain(self) -> list[tuple[int, int]]:
        """Return ``(key, units now)`` of every level changed since the last call; 0 is gone."""
        levels = self.levels
        changes = [(key, levels[key].total if key in levels else 0) for key in self.touched]
        self.touched.clear()
        return changes
