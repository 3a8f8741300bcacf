"""The last trades of each symbol, in memory: what came since this worker has the symbol."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from agents import candles
from models.trade import Trade

MOST = 100
"""Trades kept of a symbol."""

_trades: dict[tuple[int, str], deque[Trade]] = {}


def of(partition: int, symbol_key: str) -> list[Trade]:
    """Return a symbol's last trades, in the order of the log."""
    return list(_trades.get((partition, symbol_key), ()))


def take(partition: int, symbol_key: str, records: Sequence[tuple[int, Any]]) -> None:
    """Note what was folded."""
    ring = _trades.setdefault((partition, symbol_key), deque(maxlen=MOST))
    ring.extend(event for _, event in records[-MOST:] if type(event) is Trade)


candles.folding.folded.append(take)
candles.folding.forgotten.append(_trades.clear)
