"""Book records into book statistics: the book of each symbol, a batch at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from agents.batch import by_symbol
from candlewick import topics
from candlewick.app import app, settings
from candlewick.transport import BatchSchema, RecordBatch
from models.book import read_book
from models.book_stats import BookChange, BookState, BookTape
from models.times import rfc3339
from tables import book_stats
from tables.rows import state_key

MOST_REWOUND = 500_000
"""Records that a restart reads at most to have its books again. A symbol whose keyframe is older
is out of step until its next one."""

books = app.topic(topics.BOOKS, schema=BatchSchema(key_type=bytes, value_type=bytes), internal=False)
tapes: dict[tuple[int, str], BookTape] = {}
"""By (partition, symbol key), since the assignment."""


def start_of(partition: int, committed: int) -> int:
    """Begin at the oldest of the symbols' last keyframes, so that every book is built again."""
    rows = book_stats.table.rows(partition)
    states = [rows.state(symbol_key) for symbol_key in rows.symbol_keys()]
    keyframes = [state.keyframe_offset for state in states if state and state.keyframe_offset >= 0]
    recent = [offset for offset in keyframes if offset >= committed - MOST_REWOUND]
    return min([committed, *recent])


app.checkpoint.source(topics.BOOKS, start_of, tapes.clear)


@app.agent(books, name="books")
async def fold_books(stream: Any) -> None:
    """Fold each batch of book records into the statistics of all windows."""
    async for event in stream.events():
        batch: RecordBatch = event.value
        if batch.epoch != app.consumer.epoch:
            continue
        fold(batch)
        await app.checkpoint.drain()


def fold(batch: RecordBatch) -> None:
    """Fold a batch: no await between the first read and the last write."""
    partition = batch.tp.partition
    rows = book_stats.table.rows(partition)
    for symbol_key, records in by_symbol(batch, read_book).items():
        tape = tapes.get((partition, symbol_key))
        if tape is None:
            state = rows.state(symbol_key) or BookState()
            tape = BookTape(symbol_key, state, rows.of(symbol_key), settings.book_levels)
            tapes[partition, symbol_key] = tape
        for change in tape.fold(records):
            send(symbol_key, change)
        rows.put(state_key(symbol_key), tape.state)
    app.checkpoint.folded(batch.tp, batch.records[-1].offset + 1)


def send(symbol_key: str, change: BookChange) -> None:
    """Tell the world of a window of book statistics that is over."""
    exchange, symbol = symbol_key.split(":", 1)
    key = f"{symbol_key}:{change.window.name}:{rfc3339(change.start_us)}"
    value = {"exchange": exchange, "symbol": symbol, **change.value}
    app.checkpoint.send(topics.BOOK_STATS, key.encode(), msgspec.json.encode(value))
