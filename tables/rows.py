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

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, Generic, TypeVar

import msgspec
import rocksdict
from faust.tables.table import Table
from faust.types import TP

State = TypeVar("State", bound=msgspec.Struct)
Row = TypeVar("Row", bound=msgspec.Struct)

CACHED = 1000
"""Rows that a partition keeps decoded; the rest are read from RocksDB when they are asked for."""

ROCKSDB = {"block_cache_size": 8 << 20, "write_buffer_size": 4 << 20, "max_write_buffer_number": 2}
"""For each partition. Faust's own are 2 GiB, 64 MiB and 3."""


def state_key(symbol_key: str) -> bytes:
    """Return where a symbol's state is kept. ``symbol_key`` is ``exchange:symbol``."""
    return f"state/{symbol_key}".encode()


def row_key(symbol_key: str, window: str, start_us: int) -> bytes:
    """Return where a window's row is kept."""
    return f"row/{symbol_key}:{window}:{start_us // 1_000_000:010d}".encode()


class PartitionRows(Generic[State, Row]):
    """The rows of one partition: decoded, with what has changed since the last checkpoint."""

    def __init__(self, table: RowTable[State, Row], partition: int) -> None:
        self._table = table
        self.partition = partition
        self._cache: dict[bytes, Any] = {}
        self._dirty: set[bytes] = set()
        self._writing: dict[bytes, bytes] = {}

    def state(self, symbol_key: str) -> State | None:
        """Return what is kept of a symbol."""
        state: State | None = self._get(state_key(symbol_key), self._table.decode_state)
        return state

    def row(self, symbol_key: str, window: str, start_us: int) -> Row | None:
        """Return the row of a window."""
        row: Row | None = self._get(row_key(symbol_key, window, start_us), self._table.decode_row)
        return row

    def put(self, key: bytes, value: Any) -> None:
        """Keep a state or a row; the next checkpoint writes it."""
        self._cache.pop(key, None)  # so that the cache is in the order of the last write
        self._cache[key] = value
        self._dirty.add(key)

    def of(self, symbol_key: str) -> SymbolRows[Row]:
        """Return a symbol's rows, by (window, start)."""
        return SymbolRows(self, symbol_key)

    def symbol_keys(self) -> list[str]:
        """List the symbols that have a state here."""
        keys = {key for key in self._cache if key.startswith(b"state/")}
        keys.update(self._table.stored_keys(self.partition, b"state/"))
        return sorted(key[len(b"state/") :].decode() for key in keys)

    def take(self) -> dict[bytes, bytes]:
        """Return what has changed, encoded; from here on it counts as being written."""
        changed = {key: msgspec.json.encode(self._cache[key]) for key in self._dirty}
        self._dirty.clear()
        self._writing = changed
        return changed

    def written(self) -> None:
        """Note that what was taken is in RocksDB; let go of rows that were not written lately."""
        self._writing = {}
        if len(self._cache) > CACHED:
            spare = len(self._cache) - CACHED
            for key in [key for key in self._cache if key not in self._dirty][:spare]:
                del self._cache[key]

    def _get(self, key: bytes, decode: Any) -> Any:
        value = self._cache.get(key)
        if value is None:
            raw = self._writing.get(key) or self._table.stored(self.partition, key)
            if raw is None:
                return None
            value = self._cache[key] = decode(raw)
        return value


class SymbolRows(MutableMapping[tuple[str, int], Row], Generic[Row]):
    """The rows of one symbol, by (window, start_us), for the folds."""

    def __init__(self, rows: PartitionRows[Any, Row], symbol_key: str) -> None:
        self._rows = rows
        self._symbol_key = symbol_key

    def __getitem__(self, key: tuple[str, int]) -> Row:
        row = self._rows.row(self._symbol_key, *key)
        if row is None:
            raise KeyError(key)
        return row

    def get(self, key: tuple[str, int], default: Any = None) -> Any:
        row = self._rows.row(self._symbol_key, *key)
        return default if row is None else row

    def __setitem__(self, key: tuple[str, int], row: Row) -> None:
        self._rows.put(row_key(self._symbol_key, *key), row)

    def __delitem__(self, key: tuple[str, int]) -> None:
        raise TypeError("rows are not deleted one by one")

    def __iter__(self) -> Iterator[tuple[str, int]]:
        raise TypeError("rows of a symbol are not listed: ask the table for a range")

    def __len__(self) -> int:
        raise TypeError("rows of a symbol are not counted")


class RowTable(Table, Generic[State, Row]):
    """A Faust table of bytes, read and written through `PartitionRows`."""

    def __init__(self, app: Any, name: str, state: type[State], row: type[Row], partitions: int) -> None:
        super().__init__(
            app, name=name, key_type=bytes, value_type=bytes, partitions=partitions, options=dict(ROCKSDB)
        )
        self.decode_state = msgspec.json.Decoder(state).decode
        self.decode_row = msgspec.json.Decoder(row).decode
        self._partitions: dict[int, PartitionRows[State, Row]] = {}
        self._next_offset: dict[int, int] = {}
        app.tables.add(self)
        app.checkpoint.tables.append(self)

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

    def begin(self, highwaters: dict[TP, int]) -> None:
        """Note the end of each changelog partition, where our own records go next."""
        self._next_offset = {
            tp.partition: offset + 1
            for tp, offset in highwaters.items()
            if tp.topic == self.changelog_topic_name
        }

    def stored(self, partition: int, key: bytes) -> bytes | None:
        """Read a row from RocksDB."""
        value: bytes | None = self.data._db_for_partition(partition).get(key)
        return value

    def stored_keys(self, partition: int, prefix: bytes) -> list[bytes]:
        """List the keys with a prefix, in order."""
        keys = []
        for key in self.data._db_for_partition(partition).keys(from_key=prefix):
            if not key.startswith(prefix):
                break
            keys.append(key)
        return keys

    def store(self, partition: int, rows: dict[bytes, bytes], first_offset: int) -> None:
        """Write rows to RocksDB that the changelog has, from ``first_offset`` on."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in rows.items():
            batch.put(key, value)
        if self._next_offset.get(partition) == first_offset:
            # Where another worker's records lie between ours, RocksDB must not say that it has them.
            self._next_offset[partition] = first_offset + len(rows)
            batch.put(self.data.offset_key, str(first_offset + len(rows) - 1).encode())
        elif partition in self._next_offset:
            self.log.error(
                "another worker wrote to %s partition %s; offsets are not kept until the next assignment",
                self.changelog_topic_name, partition,
            )  # fmt: skip
            del self._next_offset[partition]
        self.data._db_for_partition(partition).write(batch)

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Restore rows; one that includes less of the log than what is kept stays out."""
        events = list(batch)
        newest: dict[tuple[int, bytes], int] = {}
        restored = []
        for event in events:
            message = event.message
            place = (message.partition, message.key)
            try:
                offset = offset_in(message.value)
                if place not in newest:
                    kept = self.stored(*place)
                    newest[place] = -1 if kept is None else offset_in(kept)
            except (AttributeError, ValueError):
                self.log.error("%s-%s@%s is not a row, and is left out", *message.tp, message.offset)
                continue
            if newest[place] <= offset:
                newest[place] = offset
                restored.append(event)
        super().apply_changelog_batch(restored)
        for tp, offset in {event.message.tp: event.message.offset for event in events}.items():
            self.data.set_persisted_offset(tp, offset)


def offset_in(row: bytes) -> int:
    """Read a row's first field, ``{"offset":123,…``.

    Raises:
        ValueError: it has none.
    """
    if not row.startswith(b'{"offset":'):
        raise ValueError("not a row")
    return int(row[len(b'{"offset":') : row.index(b",")])
