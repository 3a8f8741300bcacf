"""RocksDB under our tables: one database a partition, all of them in one memory budget.

The changelog in Kafka is the truth; a database is a copy of it up to the offset that is stored in
it. So a database that is damaged is moved aside, and Faust's recovery builds a new one. Damage that
shows while the worker runs is marked in a file beside the database, and ends the worker: the next
start finds the mark.

RocksDB keeps no write-ahead log here: the changelog is one. Rows and their offset are written in
one batch, and a batch is flushed whole, so a database is always the log up to one offset: after a
kill an earlier one, by `FLUSH_S` at most. With a log of its own it was not: docs/decisions/007.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rocksdict
from faust.stores import rocksdb
from faust.types import TP
from mode import Service

from models.errors import StateError

CACHE = rocksdict.Cache(32 << 20)
"""Bytes of blocks and indexes in memory, and of rows not flushed: all partitions of all tables."""

BUFFERS = rocksdict.WriteBufferManager.new_write_buffer_manager_with_cache(16 << 20, False, CACHE)
"""Bytes of rows that are not flushed, at most; they count as part of the cache."""

FLUSH_S = 60.0
"""Seconds after which rows are on disk. A worker that was killed reads as much of the changelog again."""

LOCKED = tuple(f"/LOCK: {os.strerror(number)}" for number in (errno.EAGAIN, errno.ENOLCK))
SURROUNDINGS = tuple(
    os.strerror(number)
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN,
    )
)  # fmt: skip
"""What RocksDB may say when the files are as they should be. All else counts as damage: it costs a
recovery, and the other mistake costs wrong rows, or a worker that never starts."""

MANIFEST_BLOCK = 32 << 10
MANIFEST_HEADER = struct.Struct("<IHB")
"""Checksum, length and type of a record."""


class Damaged(Exception):
    """A database is not what RocksDB wrote."""


class RowStore(rocksdb.Store):
    """The databases of one table."""

    def read(self, partition: int, key: bytes) -> bytes | None:
        """Return a row.

        Raises:
            StateError: it cannot be read; the worker ends.
        """
        try:
            value: bytes | None = self._db_for_partition(partition).get(key)
        except Exception as error:
            raise self._failed(partition, error) from error
        return value

    def keys_between(
        self, partition: int, first: bytes, end: bytes, most: int, *, newest: bool = False
    ) -> list[bytes]:
        """List the keys from ``first`` to before ``end``, ``most`` at most, in order or from the last back.

        Raises:
            StateError: they cannot be read; the worker ends.
        """
        keys: list[bytes] = []
        try:
            # `keys()` would end at a damaged block as if there were no more keys.
            rows = self._db_for_partition(partition).iter()
            if newest:
                rows.seek_for_prev(end)
                if rows.valid() and rows.key() == end:
                    rows.prev()
            else:
                rows.seek(first)
            while len(keys) < most and rows.valid() and first <= (key := rows.key()) < end:
                keys.append(key)
                if newest:
                    rows.prev()
                else:
                    rows.next()
            rows.status()
        except Exception as error:
            raise self._failed(partition, error) from error
        return keys

    def write(self, partition: int, rows: Mapping[bytes, bytes | None], offset: int | None) -> None:
        """Write rows, None deletes one; ``offset`` is that of the last changelog record among them.

        Raises:
            StateError: they cannot be written; the worker ends.
        """
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in rows.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if offset is not None:
            batch.put(self.offset_key, str(offset).encode())
        try:
            self._db_for_partition(partition).write(batch)
        except Exception as error:
            raise self._failed(partition, error) from error

    def persisted_offset(self, tp: TP) -> int | None:
        """Return the offset of the last changelog record that is in the database."""
        offset = self.read(tp.partition, self.offset_key)
        return None if offset is None else int(offset)

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Note the offset of the last changelog record that is in the database."""
        self.write(tp.partition, {}, offset)

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        """Close the databases of partitions that are another worker's now."""
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._close(tp.partition)

    async def stop(self) -> None:
        """End the service. The databases close with the application: its last checkpoint comes after this."""
        if not self._stopped.is_set():
            self.app.exit_stack.callback(self.close)
        await Service.stop(self)

    def close(self) -> None:
        """Flush and close all databases."""
        for partition in list(self._dbs):
            self._close(partition)

    @Service.timer(FLUSH_S)
    async def _flush(self) -> None:
        for partition, database in list(self._dbs.items()):
            try:
                database.flush(wait=False)
            except Exception as error:
                self.log.error("%s", self._failed(partition, error))

    def _close(self, partition: int) -> None:
        database = self._dbs.pop(partition, None)
        if database is None:
            return
        try:
            database.close()
        except Exception as error:
            # What is not flushed is read from the changelog again.
            self.log.error("%s was closed without its last rows: %s", self.partition_path(partition), error)
            if is_damage(error):
                mark(self.partition_path(partition), error)

    def _open_for_partition(self, partition: int) -> rocksdict.Rdict:
        """Open a database; one that is damaged is moved aside first.

        Raises:
            StateError: another process has it open, or the disk is full, or the like.
        """
        path = self.partition_path(partition)
        try:
            check(path)
            database = open_database(path)
            database.get(self.offset_key)  # the first that will be read; damage there needs no second start
        except Exception as error:
            if not is_damage(error):
                raise cannot_open(path, error) from error
            database = None  # else it holds the lock
            aside = move_aside(path)
            self.log.error(
                "%s is damaged, its rows are read from the changelog again: %s; its files are in %s",
                path, error, aside,
            )  # fmt: skip
        else:
            return database
        try:
            return open_database(path)
        except Exception as error:
            raise cannot_open(path, error) from error

    def _mark_others(self) -> None:
        """Read all databases through: a disk seldom damages one alone, and each would cost a start."""
        for partition, database in self._dbs.items():
            try:
                rows = database.iter()
                rows.seek_to_first()
                while rows.valid():
                    rows.next()
                rows.status()
            except Exception as error:
                if is_damage(error):
                    mark(self.partition_path(partition), error)

    def _failed(self, partition: int, error: Exception) -> Exception:
        """End the worker at its next checkpoint, before anything else is written."""
        path = self.partition_path(partition)
        if isinstance(error, StateError):
            failure = error
        elif is_damage(error):
            if not marker(path).exists():
                mark(path, error)
                self._mark_others()
            failure = StateError(
                f"{path} is damaged; the next start reads its rows from the changelog: {error}"
            )
        else:
            failure = StateError(f"{path} cannot be read or written: {error}")
        self.app.checkpoint.fail(failure)
        return failure


def open_database(path: Path) -> rocksdict.Rdict:
    """Open or make a database.

    Raises:
        Exception: what RocksDB says; rocksdict has no finer type.
    """
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(CACHE)
    table.set_cache_index_and_filter_blocks(True)
    table.set_bloom_filter(10, block_based=False)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_manager(BUFFERS)
    options.set_write_buffer_size(4 << 20)
    options.set_arena_block_size(64 << 10)  # else each database takes half a MiB for its first row
    options.set_paranoid_checks(True)
    options.set_max_open_files(-1)  # all files are opened, and their footers checked, with the database
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_max_manifest_file_size(1 << 20)
    options.set_manifest_preallocation_size(64 << 10)
    database = rocksdict.Rdict(str(path), options=options)
    writing = rocksdict.WriteOptions()
    writing.disable_wal = True
    database.set_write_options(writing)
    return database


def is_damage(error: Exception) -> bool:
    """Say whether an error of RocksDB means that its files are not what it wrote."""
    said = str(error)
    from_disk = type(error) is Exception or isinstance(error, Damaged | OSError)
    return from_disk and not any(reason in said for reason in (*LOCKED, *SURROUNDINGS))


def cannot_open(path: Path, error: Exception) -> StateError:
    """Return the error for a database that cannot be opened, and is not damaged."""
    if any(reason in str(error) for reason in LOCKED):
        # Faust tries again for half a minute where an error says "lock" (stores/rocksdb.py:621).
        return StateError(
            f"another process holds the lock of {path}: each worker needs a data directory of its own"
        )
    return StateError(f"{path} cannot be opened: {error}")


def check(path: Path) -> None:
    """Look for what RocksDB would not see.

    Raises:
        Damaged: the database is marked, or RocksDB would not come to an end over it.
        OSError: a file cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        raise Damaged(marker(path).read_text(errors="replace"))
    for manifest in path.glob("MANIFEST-*"):
        if not is_manifest(manifest.read_bytes()):
            raise Damaged(f"{manifest.name} holds a record of no known type")


def is_manifest(content: bytes) -> bool:
    """Say whether every record has a type that a MANIFEST can hold.

    RocksDB 9.8 checks the rest, but reads a record of types 5 to 8 and 11 over and over, without end:
    one flipped bit, and the worker neither starts nor answers.

    Source: https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format
    """
    at = 0
    while at + MANIFEST_HEADER.size <= len(content):
        block_end = at - at % MANIFEST_BLOCK + MANIFEST_BLOCK
        if block_end - at < MANIFEST_HEADER.size:
            at = block_end
            continue
        _, length, kind = MANIFEST_HEADER.unpack_from(content, at)
        if kind > 4:
            return False
        at = at + MANIFEST_HEADER.size + length if kind else block_end  # 0: the rest is padding
    return True


def marker(path: Path) -> Path:
    """Return the file that says that a database is damaged."""
    return path.with_name(f"{path.name}.damaged")


def mark(path: Path, error: Exception) -> None:
    """Note, so that a power cut keeps it too, that a database is damaged."""
    with contextlib.suppress(OSError), marker(path).open("w") as file:
        file.write(str(error))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def move_aside(path: Path) -> Path | None:
    """Move a damaged database out of the way; the last one is kept, for whoever looks for the cause."""
    aside = None
    if path.exists():
        for older in path.parent.glob(f"{path.name}.corrupt-*"):
            shutil.rmtree(older, ignore_errors=True)
        aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        os.replace(path, aside)
    sync_folder(path.parent)
    marker(path).unlink(missing_ok=True)  # only now: who dies before this line tries again
    return aside


def sync_folder(folder: Path) -> None:
    """Make new names in a folder last over a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
