"""Candles of every window, and each symbol's tape. Typed reads for the views."""

from __future__ import annotations

from typing import NamedTuple

from candlewick import topics
from candlewick.app import app, settings
from models.tape import CandleRow, TapeState
from tables.rows import RowTable

table: RowTable[TapeState, CandleRow] = RowTable(
    app, topics.CANDLES, TapeState, CandleRow, settings.partitions
)


class Found(NamedTuple):
    """A candle, and what is needed to describe it."""

    start_us: int
    row: CandleRow
    state: TapeState


def state(partition: int, symbol_key: str) -> TapeState | None:
    """Return what is known of a symbol, or None when it was never seen."""
    return table.rows(partition).state(symbol_key)


def settled(partition: int, symbol_key: str) -> TapeState | None:
    """Return what was known of a symbol when its rows were last settled: a checkpoint ago, at most."""
    return table.rows(partition).settled_state(symbol_key)


def latest(partition: int, symbol_key: str, window: str, closed: bool = False) -> Found | None:
    """Return the last candle of a window, or the last closed one."""
    known = state(partition, symbol_key)
    if known is None:
        return None
    start_us = (known.latest_closed if closed else known.latest).get(window)
    return None if start_us is None else at(partition, symbol_key, window, start_us)


def starts(
    partition: int,
    symbol_key: str,
    window: str,
    first_us: int,
    end_us: int,
    most: int,
    *,
    newest: bool = False,
) -> list[int]:
    """List the starts of a window's candles in ``[first_us, end_us)``: the first, or the last, ``most``."""
    return table.rows(partition).starts(symbol_key, window, first_us, end_us, most, newest=newest)


def at(partition: int, symbol_key: str, window: str, start_us: int) -> Found | None:
    """Return the candle of the window that starts at ``start_us``."""
    known = state(partition, symbol_key)
    if known is None or start_us < known.kept_from.get(window, start_us):
        return None
    row = table.rows(partition).row(symbol_key, window, start_us)
    return Found(start_us, row, known) if row else None
