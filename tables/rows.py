"""A table of typed rows. What changes stays in memory until a checkpoint writes it.

Order makes it safe: at a checkpoint the changed rows of a partition go into its changelog topic
as one Kafka batch, which is there whole or not at all; only then into RocksDB; only then are the
source offsets committed. So RocksDB never knows more than the changelog, and both hold the state
of the log up to one offset.

A row is JSON whose first field is the source offset that it includes, so that it reads well in
the console consumer, and so that an older row never replaces a newer one.

Keys: ``state/<exchange>:<symbol>`` and ``row/<exchange>:<symbol>:<window>:<start>``, start in
seconds since 1970, ten digits, so that RocksDB keeps a symbol's rows in the order of time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

import msgspec
from faust.tables.table import Table
from faust.types import TP

from models.times import LAST_US
from models.window import Expired, Window
from tables.store import RowStore

State = TypeVar("State", bound=msgspec.Struct)
Row = TypeVar("Row", bound=msgspec.Struct)

CACHED = 1000
"""Rows that a partition keeps decoded; the rest are read from RocksDB when they are asked for."""

END_OF_KEYS_US = (10**10 - 1) * 1_000_000
"""Later starts, from the year 2286 on, have more than ten digits: their keys are not in the order of time."""

KEYS_KEPT = 16
"""Keys that a symbol keeps written out."""


def state_key(symbol_key: str) -> bytes:
    """Return where a symbol's state is kept. ``symbol_key`` is ``exchange:symbol``."""
    return f"state/{symbol_key}".encode()


def row_key(symbol_key: str, window: str, start_us: int) -> bytes:
    """Return where a window's row is kept."""
    return f"row/{symbol_key}:{window}:{start_us // 1_000_000:010d}".encode()


def start_in(key: bytes) -> int:
    """Return the start of a window, in microseconds, from where its row is kept."""
    return int(key.rpartition(b":")[2]) * 1_000_000


class PartitionRows(Generic[State, Row]):
    """The rows of one partition: decoded, with what has changed since the last checkpoint."""

    def __init__(self, table: RowTable[State, Row], partition: int) -> None:
        self._table = table
        self.partition = partition
        self._cache: dict[bytes, Any] = {}
        """A row or a state, or None where it was deleted, or is not there."""
        self._dirty: set[bytes] = set()
        self._writing: dict[bytes, bytes | None] = {}
        self._oldest: dict[tuple[str, str], int] = {}
        """By symbol and window, no row starts before this. Known once rows of it have expired."""
        self.unsettled: dict[str, Callable[[], None]] = {}
        """By symbol, how to bring its rows to the last record that was folded."""

    def state(self, symbol_key: str) -> State | None:
        """Return what is kept of a symbol."""
        self.settle(symbol_key)
        return self.settled_state(symbol_key)

    def settled_state(self, symbol_key: str) -> State | None:
        """Return what is kept of a symbol, as of the last time that it was settled."""
        state: State | None = self.get(state_key(symbol_key))
        return state

    def row(self, symbol_key: str, window: str, start_us: int) -> Row | None:
        """Return the row of a window."""
        self.settle(symbol_key)
        row: Row | None = self.get(row_key(symbol_key, window, start_us))
        return row

    def starts(
        self, symbol_key: str, window: str, first_us: int, end_us: int, most: int, *, newest: bool = False
    ) -> list[int]:
        """List the starts of the rows in ``[first_us, end_us)``: the first ``most`` of them, or the last.

        In order, either way.
        """
        self.settle(symbol_key)
        end_us = min(end_us, END_OF_KEYS_US)
        if first_us >= end_us:
            return []
        first, end = row_key(symbol_key, window, first_us), row_key(symbol_key, window, end_us)
        # What is neither changed nor being written is in RocksDB, whether or not it is decoded as well.
        changed = {key for key in (*self._dirty, *self._writing) if first <= key < end}
        keys = {key for key in changed if self.get(key) is not None}
        keys |= {
            key
            for key in self._table.stored_keys(self.partition, first, end, most + len(changed), newest=newest)
            if key not in changed
        }
        found = sorted(keys)[-most:] if newest else sorted(keys)[:most]
        return [start_in(key) for key in found]

    def settle(self, symbol_key: str) -> None:
        """Bring a symbol's rows to the last record that was folded."""
        settle = self.unsettled.pop(symbol_key, None)
        if settle:
            settle()

    def get(self, key: bytes) -> Any:
        """Return a state or a row, as of the last time that its symbol was settled."""
        try:
            return self._cache[key]
        except KeyError:
            pass
        raw = self._writing[key] if key in self._writing else self._table.stored(self.partition, key)
        value = None if raw is None else self._table.decode(key, raw)
        if value is not None:
            self._cache[key] = value
        return value

    def put(self, key: bytes, value: Any) -> None:
        """Keep a state or a row, or delete it with None; the next checkpoint writes it."""
        self._cache.pop(key, None)  # so that the cache is in the order of the last write
        self._cache[key] = value
        self._dirty.add(key)

    def expire(self, symbol_key: str, expired: Expired) -> list[int]:
        """Delete the rows that are not kept any more; return their starts. Reads those, and no others."""
        window, before_us = expired
        oldest_us = self._oldest.get((symbol_key, window.name))
        if oldest_us is None:
            oldest_us = self._oldest_of(symbol_key, window)
        gone = []
        for start_us in range(oldest_us, before_us, window.size_us):
            key = row_key(symbol_key, window.name, start_us)
            if self.get(key) is not None:
                self.put(key, None)
                gone.append(start_us)
        self._oldest[symbol_key, window.name] = max(oldest_us, before_us)
        return gone

    def note_start(self, symbol_key: str, window: str, start_us: int) -> None:
        """Note that there may be a row that is older than the oldest."""
        if start_us < self._oldest.get((symbol_key, window), start_us):
            self._oldest[symbol_key, window] = start_us

    def _oldest_of(self, symbol_key: str, window: Window) -> int:
        """Look for the start of a window's oldest row. No row: far in the future."""
        first, end = row_key(symbol_key, window.name, 0), row_key(symbol_key, window.name, LAST_US)
        keys = [key for key in (*self._cache, *self._writing) if first <= key < end]
        keys += self._table.stored_keys(self.partition, first, end, 1)
        return window.start_of(min((start_in(key) for key in keys), default=LAST_US))

    def rewrite(self, keys: Iterable[bytes]) -> None:
        """Write rows once more, as they are: the changelog may end with older ones."""
        for key in keys:
            self.put(key, self.get(key))

    def of(self, symbol_key: str) -> SymbolRows[Row]:
        """Return a symbol's rows, by (window, start)."""
        return SymbolRows(self, symbol_key)

    def symbol_keys(self) -> list[str]:
        """List the symbols that have a state here."""
        keys = {key for key in self._cache if key.startswith(b"state/")}
        keys.update(self._table.stored_keys(self.partition, b"state/", b"state0"))
        return sorted({key[len(b"state/") :].decode() for key in keys} | self.unsettled.keys())

    def take(self) -> dict[bytes, bytes | None]:
        """Return what has changed, encoded; from here on it counts as being written.

        Rows, then states, then deletes: where a write is torn, no state says more than the rows hold, and
        no row is gone that an older state counts on.
        """
        for symbol_key in list(self.unsettled):
            self.settle(symbol_key)
        cache = self._cache
        self._writing = {
            key: None if cache[key] is None else msgspec.json.encode(cache[key])
            for key in sorted(self._dirty, key=lambda key: (cache[key] is None, key))
        }
        self._dirty.clear()
        return self._writing

    def written(self) -> None:
        """Note that what was taken is in RocksDB; let go of rows that were not written lately."""
        self._writing = {}
        if len(self._cache) > CACHED:
            spare = len(self._cache) - CACHED
            for key in [key for key in self._cache if key not in self._dirty][:spare]:
                del self._cache[key]


class SymbolRows(MutableMapping[tuple[str, int], Row], Generic[Row]):
    """The rows of one symbol, by (window, start_us), for the folds."""

    def __init__(self, rows: PartitionRows[Any, Row], symbol_key: str) -> None:
        self._rows = rows
        self._symbol_key = symbol_key
        self._keys: dict[tuple[str, int], bytes] = {}

    def _key(self, key: tuple[str, int]) -> bytes:
        """Return where a row is kept; a symbol asks for the same few again and again."""
        kept = self._keys.get(key)
        if kept is None:
            if len(self._keys) >= KEYS_KEPT:
                self._keys.clear()
            kept = self._keys[key] = row_key(self._symbol_key, *key)
        return kept

    def __getitem__(self, key: tuple[str, int]) -> Row:
        row: Row | None = self._rows.get(self._key(key))
        if row is None:
            raise KeyError(key)
        return row

    def get(self, key: tuple[str, int], default: Any = None) -> Any:
        row = self._rows.get(self._key(key))
        return default if row is None else row

    def __setitem__(self, key: tuple[str, int], row: Row) -> None:
        self._rows.put(self._key(key), row)
        self._rows.note_start(self._symbol_key, *key)

    def __delitem__(self, key: tuple[str, int]) -> None:
        raise TypeError("rows are not deleted one by one")

    def __iter__(self) -> Iterator[tuple[str, int]]:
        raise TypeError("rows of a symbol are not listed: ask the table for a range")

    def __len__(self) -> int:
        raise TypeError("rows of a symbol are not counted")


class RowTable(Table, Generic[State, Row]):
    """A Faust table of bytes, read and written through `PartitionRows`."""

    def __init__(self, app: Any, name: str, state: type[State], row: type[Row], partitions: int) -> None:
        # The changelog comes in batches as well, and each is applied as it comes.
        super().__init__(app, name=name, schema=app.batches, partitions=partitions, recovery_buffer_size=1)
        self._decode_state = msgspec.json.Decoder(state).decode
        self._decode_row = msgspec.json.Decoder(row).decode
        self._partitions: dict[int, PartitionRows[State, Row]] = {}
        self._next_offset: dict[int, int] = {}
        self._stale: dict[int, set[bytes]] = {}
        """By partition, rows of which recovery met an older one after a newer one."""
        self._foreign: dict[int, tuple[int, int]] = {}
        """By partition, changelog offsets ``[from, to)`` among ours that another worker has written."""
        app.tables.add(self)
        app.checkpoint.tables.append(self)

    def decode(self, key: bytes, raw: bytes) -> Any:
        """Read what is kept under a key."""
        return (self._decode_state if key.startswith(b"state/") else self._decode_row)(raw)

    def rows(self, partition: int) -> PartitionRows[State, Row]:
        """Return the rows of a partition that this worker owns."""
        if partition not in self._partitions:
            self._partitions[partition] = PartitionRows(self, partition)
        return self._partitions[partition]

    def partitions_in_memory(self) -> Iterable[PartitionRows[State, Row]]:
        """List the partitions that have been read or written since the assignment."""
        return self._partitions.values()

    def forget(self) -> None:
        """Drop everything that is not in RocksDB."""
        self._partitions.clear()
        self._foreign.clear()

    def begin(self, highwaters: dict[TP, int]) -> None:
        """Note the end of each changelog partition, where our own records go next.

        What a view has read while rows came back may be half of them.
        """
        self._partitions.clear()
        self._next_offset = {
            tp.partition: offset + 1
            for tp, offset in highwaters.items()
            if tp.topic == self.changelog_topic_name
        }
        for partition, keys in self._stale.items():
            if partition in self._next_offset:
                self.rows(partition).rewrite(keys)
        self._stale.clear()

    def _new_store(self) -> RowStore:
        return RowStore("rocksdb://", self.app, self, table_name=self.name, loop=self.loop)

    def stored(self, partition: int, key: bytes) -> bytes | None:
        """Read a row from RocksDB."""
        value: bytes | None = self.data.read(partition, key)
        return value

    def stored_keys(
        self, partition: int, first: bytes, end: bytes, most: int = sys.maxsize, *, newest: bool = False
    ) -> list[bytes]:
        """List keys from ``first`` to before ``end``, ``most`` at most: in order, or from the last back."""
        keys: list[bytes] = self.data.keys_between(partition, first, end, most, newest=newest)
        return keys

    def store(self, partition: int, rows: Mapping[bytes, bytes | None], first_offset: int) -> None:
        """Write rows to RocksDB that the changelog has, from ``first_offset`` on."""
        expected = self._next_offset.get(partition, first_offset)
        if expected != first_offset:
            self._foreign[partition] = (self._foreign.get(partition, (expected, 0))[0], first_offset)
        self._next_offset[partition] = first_offset + len(rows)
        # Where another worker's rows lie between ours, RocksDB must not say that it is beyond them
        # before ours are written again.
        last = None if partition in self._foreign else first_offset + len(rows) - 1
        self.data.write(partition, rows, last)

    def foreign(self) -> dict[TP, tuple[int, int]]:
        """Return, and forget, the changelog offsets ``[from, to)`` that another worker wrote among ours."""
        foreign, self._foreign = self._foreign, {}
        return {TP(self.changelog_topic_name, partition): span for partition, span in foreign.items()}

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Restore rows; one that includes less of the log than what is kept stays out."""
        restored: dict[int, dict[bytes, bytes | None]] = {}
        newest: dict[tuple[int, bytes], int] = {}
        last: dict[int, int] = {}
        for tp, (place, key, value, _) in _records_in(batch):
            if tp.topic != self.changelog_topic_name:
                continue  # of a partition that has moved away: Faust gives it to the table of the one before
            partition = tp.partition
            rows = restored.setdefault(partition, {})
            last[partition] = place
            try:
                offset = None if value is None else offset_in(value)
                if (partition, key) not in newest:
                    kept = self.stored(partition, key)
                    newest[partition, key] = -1 if kept is None else offset_in(kept)
            except (AttributeError, TypeError, ValueError):
                self.log.error("%s-%s@%s is not a row, and is left out", *tp, place)
                continue
            if offset is None or newest[partition, key] <= offset:
                newest[partition, key] = -1 if offset is None else offset
                rows[key] = value
            else:
                self._stale.setdefault(partition, set()).add(key)
        for partition, rows in restored.items():
            # An older row behind a newer one must be met again if we die before ours is written again.
            self.data.write(partition, rows, None if partition in self._stale else last[partition])


def _records_in(events: Iterable[Any]) -> Iterator[tuple[TP, Any]]:
    """Return the records of batches, each with where it is from."""
    return ((batch.tp, record) for event in events for batch in event.value for record in batch.records)


def offset_in(row: bytes) -> int:
    """Read a row's first field, ``{"offset":123,…``.

    Raises:
        ValueError: it has none.
    """
    if not row.startswith(b'{"offset":'):
        raise ValueError("not a row")
    return int(row[len(b'{"offset":') : row.index(b",")])
