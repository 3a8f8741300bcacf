"""Book statistics of every window, and where each symbol's book begins in the log."""

from __future__ import annotations

from candlewick import topics
from candlewick.app import app, settings
from models.book_stats import BookState, BookStatsRow
from tables.rows import RowTable

table: RowTable[BookState, BookStatsRow] = RowTable(
    app, topics.BOOK_STATS, BookState, BookStatsRow, settings.partitions
)


def state(partition: int, symbol_key: str) -> BookState | None:
    """Return what is known of a symbol's book, or None when there is none."""
    return table.rows(partition).state(symbol_key)


def settled(partition: int, symbol_key: str) -> BookState | None:
    """Return what was known of a symbol's book when its rows were last settled: a checkpoint ago, at most."""
    return table.rows(partition).settled_state(symbol_key)


def at(partition: int, symbol_key: str, window: str, start_us: int) -> BookStatsRow | None:
    """Return the statistics of the window that starts at ``start_us``."""
    known = state(partition, symbol_key)
    if known is None or start_us < known.kept_from.get(window, start_us):
        return None
    return table.rows(partition).row(symbol_key, window, start_us)
