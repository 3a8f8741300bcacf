"""What every agent does with a batch: read it, fold it by symbol, keep the rows, send what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from candlewick import topics
from candlewick.app import app
from candlewick.transport import Record, RecordBatch
from models.dead_letter import dead_letter_json
from models.errors import RecordError
from models.times import rfc3339
from models.window import Window
from tables.rows import RowTable, SymbolRows, state_key


class Change(Protocol):
    """Something about a window that the world should hear of."""

    @property
    def window(self) -> Window: ...
    @property
    def start_us(self) -> int: ...
    @property
    def value(self) -> dict[str, object]: ...


class Fold(Protocol):
    """The fold of one symbol: `models.tape.Tape`, `models.book_stats.BookTape`."""

    @property
    def state(self) -> Any: ...
    def fold(self, records: Iterable[tuple[int, Any]], /) -> Iterable[Change]: ...


Tape = TypeVar("Tape", bound=Fold)


class Folding(Generic[Tape]):
    """Folds the batches of one source topic into one table, and sends changes to one topic.

    Arguments:
        read: a record's value into what the fold takes; raises `RecordError`.
        begin: a symbol's fold, from its key, its kept state or None, and its rows.
        start_of: the offset to begin with, from the partition and the committed offset.
    """

    def __init__(
        self,
        source: str,
        changes: str,
        table: RowTable[Any, Any],
        read: Callable[[bytes | None], Any],
        begin: Callable[[str, Any, SymbolRows[Any]], Tape],
        start_of: Callable[[int, int], int],
    ) -> None:
        self._changes = changes
        self._table = table
        self._read = read
        self._begin = begin
        self.tapes: dict[tuple[int, str], Tape] = {}
        """By (partition, symbol key), since the assignment."""
        app.checkpoint.source(source, start_of, self.newest, self.tapes.clear)

    def newest(self, partition: int) -> int:
        """Return the last offset of a partition that the kept rows include, or -1."""
        rows = self._table.rows(partition)
        states = [rows.state(symbol_key) for symbol_key in rows.symbol_keys()]
        return max((state.offset for state in states if state), default=-1)

    async def run(self, stream: Any) -> None:
        """Fold each batch of a stream, for as long as it goes."""
        async for event in stream.events():
            batch: RecordBatch = event.value
            if batch.epoch != app.consumer.epoch:
                continue  # fetched before the last revoke: its partition begins again
            try:
                self.fold(batch)
                await app.checkpoint.drain()
            except Exception as error:
                # Faust would commit, and go on with the next batch: this one would be lost.
                app.log.exception("a batch of %s could not be folded, the worker ends", batch.tp)
                app.checkpoint.fail(error)
                await app.consumer.crash(error)
                return

    def fold(self, batch: RecordBatch) -> None:
        """Fold a batch: no await between the first read and the last write."""
        partition = batch.tp.partition
        rows = self._table.rows(partition)
        for symbol_key, records in by_symbol(batch, self._read).items():
            tape = self.tapes.get((partition, symbol_key))
            if tape is None:
                tape = self._begin(symbol_key, rows.state(symbol_key), rows.of(symbol_key))
                self.tapes[partition, symbol_key] = tape
            for change in tape.fold(records):
                self._send(symbol_key, change)
            rows.put(state_key(symbol_key), tape.state)
        app.checkpoint.folded(batch.tp, batch.records[-1][0] + 1)

    def _send(self, symbol_key: str, change: Change) -> None:
        exchange, symbol = symbol_key.split(":", 1)
        key = f"{symbol_key}:{change.window.name}:{rfc3339(change.start_us)}"
        value = {"exchange": exchange, "symbol": symbol, **change.value}
        app.checkpoint.send(self._changes, key.encode(), msgspec.json.encode(value))


def by_symbol(batch: RecordBatch, read: Callable[[bytes | None], Any]) -> dict[str, list[tuple[int, Any]]]:
    """Return the records of a batch as (offset, value), by symbol key, in the order of the log.

    A record that cannot be read, or whose key is not that of its symbol, is dead-lettered.
    """
    symbols: dict[str, list[tuple[int, Any]]] = {}
    keys: dict[bytes | None, tuple[str, str, Callable[[tuple[int, Any]], None]]] = {}
    for record in batch.records:
        offset, key, raw, _ = record
        try:
            value = read(raw)
            known = keys.get(key)
            if known is None or value.symbol != known[1] or value.exchange != known[0]:
                symbol_key = f"{value.exchange}:{value.symbol}"
                if key != symbol_key.encode():
                    raise RecordError(f"its key is {key!r}, its symbol is {symbol_key}", raw)
                values = symbols.setdefault(symbol_key, [])
                known = keys[key] = (value.exchange, value.symbol, values.append)
        except RecordError as error:
            dead_letter(batch, record, error.reason)
            continue
        known[2]((offset, value))
    return symbols


def dead_letter(batch: RecordBatch, record: Record, reason: str) -> None:
    """Send a record to the dead letters, with where it came from and why."""
    offset, _, value, timestamp_ms = record
    source = f"{batch.tp.topic}[{batch.tp.partition}]@{offset}"
    letter = dead_letter_json(value or b"", source, reason, timestamp_ms * 1000)
    app.checkpoint.send(topics.DEAD_LETTERS, source.encode(), letter)
