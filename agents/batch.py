"""What every agent does with a batch: read it, fold it by symbol, keep the rows, send what is new."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from candlewick import topics
from candlewick.app import app
from candlewick.transport import Record, RecordBatch
from models.dead_letter import dead_letter_json
from models.errors import RecordError
from models.shown import BookMessage, CandleMessage
from models.times import rfc3339
from models.window import Expired
from tables.rows import PartitionRows, RowTable, SymbolRows, state_key

_is_symbol_key = re.compile(r"[A-Za-z0-9._-]{1,32}:[A-Za-z0-9._-]{1,64}\Z").match
"""They become part of keys, of paths, and of JSON that is written by hand."""


class Fold(Protocol):
    """The fold of one symbol: `models.tape.Tape`, `models.book_stats.BookTape`."""

    @property
    def state(self) -> Any: ...
    def fold(self, records: Iterable[tuple[int, Any]], /) -> Iterable[Any]: ...
    def settle(self) -> None: ...


Tape = TypeVar("Tape", bound=Fold)

rejected: list[Callable[[str], None]] = []
"""Told of the topic of each record that goes to the dead letters."""


class Folding(Generic[Tape]):
    """Folds the batches of one source topic into one table, and tells what came of it.

    Arguments:
        read: a record's value into what the fold takes; raises `RecordError`.
        begin: a symbol's fold, from its kept state or None, and its rows.
        tell: takes each change that a fold returns, with its partition's rows and the symbol's key.
        start_of: the offset to begin with, from the partition and the committed offset.
    """

    def __init__(
        self,
        source: str,
        table: RowTable[Any, Any],
        read: Callable[[bytes | None], Any],
        begin: Callable[[Any, SymbolRows[Any]], Tape],
        tell: Callable[[PartitionRows[Any, Any], str, Any], None],
        start_of: Callable[[int, int], int],
    ) -> None:
        self._table = table
        self._read = read
        self._begin = begin
        self._tell = tell
        self.tapes: dict[tuple[int, str], Tape] = {}
        """By (partition, symbol key), since the assignment."""
        self._settles: dict[tuple[int, str], Callable[[], None]] = {}
        self.folded: list[Callable[[int, str, list[tuple[int, Any]]], None]] = []
        """Told of each symbol's records after they were folded: partition, symbol key, records."""
        self.told: list[Callable[[int, str, Any], None]] = []
        """Told of each change that a fold returns: partition, symbol key, change."""
        self.forgotten: list[Callable[[], None]] = []
        """Told that an assignment has ended."""
        self.start_of = start_of
        app.checkpoint.sources[source] = self

    def forget(self) -> None:
        """End an assignment."""
        self.tapes.clear()
        self._settles.clear()
        for tell in self.forgotten:
            tell()

    def newest(self, partition: int) -> int:
        """Return the last offset of a partition that the kept rows include, or -1."""
        rows = self._table.rows(partition)
        states = [rows.state(symbol_key) for symbol_key in rows.symbol_keys()]
        return max((state.offset for state in states if state), default=-1)

    async def run(self, stream: Any) -> None:
        """Fold each batch of each fetch, for as long as the stream goes."""
        async for event in stream.events():
            batches: list[RecordBatch] = event.value
            for batch in batches:
                if batch.epoch != app.consumer.epoch:
                    continue  # fetched before the last revoke: its partition begins again
                try:
                    self.fold(batch)
                    await app.checkpoint.drain()
                except Exception as error:
                    # Faust would commit, and go on with the next batch: this one would be lost.
                    app.log.exception("a batch of %s was not folded or not told, the worker ends", batch.tp)
                    app.checkpoint.fail(error)
                    await app.consumer.crash(error)
                    return

    def fold(self, batch: RecordBatch) -> None:
        """Fold a batch: no await between the first read and the last write."""
        partition = batch.tp.partition
        rows = self._table.rows(partition)
        for symbol_key, records in by_symbol(batch, self._read).items():
            place = (partition, symbol_key)
            tape = self.tapes.get(place) or self._take_up(rows, symbol_key)
            for change in tape.fold(records):
                self._tell(rows, symbol_key, change)
                for tell in self.told:
                    tell(partition, symbol_key, change)
            rows.unsettled[symbol_key] = self._settles[place]
            for note in self.folded:
                note(partition, symbol_key, records)
        app.checkpoint.folded(batch.tp, batch.records[-1][0] + 1)

    def _take_up(self, rows: PartitionRows[Any, Any], symbol_key: str) -> Tape:
        """Go on with a symbol where its rows are."""
        tape = self._begin(rows.state(symbol_key), rows.of(symbol_key))
        key = state_key(symbol_key)

        def settle() -> None:
            tape.settle()
            rows.put(key, tape.state)

        self.tapes[rows.partition, symbol_key] = tape
        self._settles[rows.partition, symbol_key] = settle
        return tape


def send_window(topic: str, symbol_key: str, message: CandleMessage | BookMessage) -> None:
    """Send what is to be known of a symbol's window."""
    app.checkpoint.send(
        topic, _window_key(symbol_key, message.window, message.start), msgspec.json.encode(message)
    )


def expire(topic: str, rows: PartitionRows[Any, Any], symbol_key: str, expired: Expired) -> None:
    """Delete rows that are not kept any more, and say so in the topic that told of them."""
    for start_us in rows.expire(symbol_key, expired):
        app.checkpoint.send(topic, _window_key(symbol_key, expired.window.name, rfc3339(start_us)), None)


def _window_key(symbol_key: str, window: str, start: str) -> bytes:
    return f"{symbol_key}:{window}:{start}".encode()


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
                if not _is_symbol_key(symbol_key):
                    raise RecordError("exchange or symbol is not a name", raw)
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
    for tell in rejected:
        tell(batch.tp.topic)
