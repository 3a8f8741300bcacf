"""Book records into book statistics: the book of each symbol, a batch at a time."""

from __future__ import annotations

from typing import Any

from agents.batch import Folding, expire, send_window
from candlewick import topics
from candlewick.app import app, settings
from models.book import read_book
from models.book_stats import BookChange, BookState, BookStatsRow, BookTape
from models.shown import BookMessage
from models.window import Expired
from tables import book_stats
from tables.rows import PartitionRows, SymbolRows

MOST_REWOUND = 500_000
"""Records that a restart reads at most to have its books again. A symbol whose keyframe is older
is out of step until its next one."""

books = app.topic(topics.BOOKS, schema=app.batches, internal=False)


def begin(state: BookState | None, rows: SymbolRows[BookStatsRow]) -> BookTape:
    """Return the tape of a symbol's book, without its levels: the log has them."""
    return BookTape(state or BookState(), rows, settings.book_levels, settings.keep_us())


def tell(rows: PartitionRows[BookState, BookStatsRow], symbol_key: str, change: BookChange | Expired) -> None:
    """Send windows that are over to their topic; let old rows go."""
    if isinstance(change, Expired):
        expire(topics.BOOK_STATS, rows, symbol_key, change)
    else:
        message = BookMessage.of(symbol_key, change.window, change.start_us, book=change.book)
        send_window(topics.BOOK_STATS, symbol_key, message)


def start_of(partition: int, committed: int) -> int:
    """Begin at the oldest of the symbols' last keyframes, so that every book is built again."""
    rows = book_stats.table.rows(partition)
    states = [rows.state(symbol_key) for symbol_key in rows.symbol_keys()]
    keyframes = [state.keyframe_offset for state in states if state and state.keyframe_offset >= 0]
    recent = [offset for offset in keyframes if offset >= committed - MOST_REWOUND]
    return min([committed, *recent])


folding = Folding(topics.BOOKS, book_stats.table, read_book, begin, tell, start_of)


@app.agent(books, name="books")
async def fold_books(stream: Any) -> None:
    """Fold each batch of book records into the statistics of all windows."""
    await folding.run(stream)
