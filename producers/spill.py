"""What waits on disk while Kafka is away: a queue of records, oldest first, in a folder of its own.

The folder holds segments, ``0000000001.spill`` and so on; each is a row of frames::

    marker, 4 bytes | length of the payload, 4 | CRC-32 of the payload, 4 | payload: one record, MessagePack

Segments are only appended to, and a new process begins a new one. When all of a segment is in
Kafka, it is deleted: after a kill its records may be read, and sent, once more. Each record is
with the operating system when `append` returns, so a killed process loses none; a power cut may.

At the cap, or when the disk takes no more, `append` refuses a record, and the caller waits, or gives it
up with `drop`: then it is counted, and told of. Damage costs
what it hit: after a frame that is torn or does not fit its CRC, reading goes on at the
next whole one. The marker begins with 0xFF, which no UTF-8 has, so that no value looks like a frame.

Errors: `models.errors.StateError`, when the folder cannot be used at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
import structlog

from models.errors import StateError

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 1 << 20
"""A segment that has grown to this gets no more; it is read, and its records made, in one go."""
SUFFIX = ".spill"
MARKER = b"\xffCW1"
_HEAD = struct.Struct("<4sII")
DROPPED_AGAIN_S = 10.0
RECORD_OVERHEAD = 100
"""Bytes that a record in memory costs beside its key and value, about."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, bytes, bytes, int, list[tuple[str, bytes]]]).decode


class Segment:
    """One file, and how far its records have come."""

    __slots__ = ("is_earlier", "path", "pending", "read_at", "size")

    def __init__(self, path: Path, size: int = 0, is_earlier: bool = False) -> None:
        self.path = path
        self.is_earlier = is_earlier
        """An earlier process wrote it."""
        self.size = size
        """Bytes of whole frames, or, of a segment that another process wrote, of the file."""
        self.read_at = 0
        self.pending = 0
        """Records that were handed out and are not in Kafka yet."""


class Record(NamedTuple):
    """One record on its way to Kafka."""

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: list[tuple[str, bytes]]
    segment: Segment | None = None
    """Where it lies on disk; None: in memory alone."""
    momentary: bool = False
    """It tells only of the moment: it is never on disk, and no loss."""

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.key) + len(self.value) + RECORD_OVERHEAD


class Spill:
    """A bounded queue on disk: `append`, `read` oldest first, and `done` once Kafka has a record.

    One process at a time may use a folder; the caller sees to that.

    Arguments:
        cap_bytes: the segments take no more of the disk.
    """

    def __init__(self, folder: Path, cap_bytes: int) -> None:
        self.cap_bytes = cap_bytes
        self.bytes = 0
        """What the segments take now."""
        self.written = 0
        """Records written, since the start as all counts."""
        self.dropped = 0
        """Records that were given up, and are lost."""
        self.damaged_bytes = 0
        """What could not be read back, and is lost."""
        self._refusal = ""
        self._dropped_said = 0
        self._dropped_said_at = float("-inf")
        self._folder = folder
        self._unread: deque[Segment] = deque()
        self._tail: Segment | None = None
        self._fd = -1
        self._number = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("*" + SUFFIX)):
                segment = Segment(path, path.stat().st_size, is_earlier=True)
                self._unread.append(segment)
                self.bytes += segment.size
                self._number = int(path.stem)
        except (OSError, ValueError) as error:
            raise StateError(f"the spill folder {folder} cannot be used: {error}") from None

    @property
    def has_unread(self) -> bool:
        """True while `read` has something to give, or damage to find."""
        return bool(self._unread)

    @property
    def unread_bytes(self) -> int:
        """What was not handed out yet."""
        return sum(segment.size - segment.read_at for segment in self._unread)

    def append(self, record: Record) -> bool:
        """Keep a record behind all others. False when the cap or the disk does not let us."""
        tail = self._write(record)
        if tail is not None and (not self._unread or self._unread[-1] is not tail):
            self._unread.append(tail)
        return tail is not None

    def back_up(self, record: Record) -> Segment | None:
        """Keep a copy of a record that the caller has and will send: `read` does not give it out.

        Only while there is nothing unread, or it would overtake that after a restart. Call `done`
        with what this returns, unless that is None: then there was no room for a copy.
        """
        assert not self._unread
        tail = self._write(record)
        if tail is not None:
            tail.read_at = tail.size
            tail.pending += 1
        return tail

    def drop(self, record: Record, reason: str = "") -> None:
        """Give up a record: it is lost, and counted. Without a reason, for that of the last refusal."""
        self.dropped += 1
        self._refusal = reason or self._refusal
        self.tell_dropped()
        if record.segment:
            self.done(record.segment)

    def tell_dropped(self) -> None:
        """Log how many records were dropped, if there were more: at once, then every `DROPPED_AGAIN_S`."""
        now = time.monotonic()
        if self.dropped > self._dropped_said and now - self._dropped_said_at >= DROPPED_AGAIN_S:
            log.error("Records are lost", dropped=self.dropped, reason=self._refusal)
            self._dropped_said, self._dropped_said_at = self.dropped, now

    def read(self) -> list[Record]:
        """Hand out the oldest records, a segment's or what there is of it; none when all are out.

        Call `done` for each, once it is in Kafka.
        """
        while self._unread:
            segment = self._unread.popleft()
            records = self._read(segment)
            segment.pending += len(records)
            segment.read_at = segment.size
            if records:
                return records
            self._delete_if_done(segment)
        return []

    def done(self, segment: Segment) -> None:
        """Note that one record of a segment is in Kafka."""
        segment.pending -= 1
        self._delete_if_done(segment)

    def close(self) -> None:
        """Close the files; what is in them stays."""
        if self._tail:
            self._tail = None
            with contextlib.suppress(OSError):
                os.close(self._fd)

    def _write(self, record: Record) -> Segment | None:
        """Write a record at the end, whole or not at all; return its segment."""
        payload = _encode(record[:5])
        frame = _HEAD.pack(MARKER, len(payload), crc32(payload)) + payload
        if self.bytes + len(frame) > self.cap_bytes:
            self._refusal = f"the spill has the {self.cap_bytes} bytes that it may have"
            return None
        try:
            tail = self._open_tail()
            if os.pwrite(self._fd, frame, tail.size) < len(frame):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._refusal = f"{error.strerror}: {self._folder}"
            # The next record goes over what was written of this one. No harm if it cannot be cut off.
            with contextlib.suppress(OSError):
                if self._tail:
                    os.ftruncate(self._fd, self._tail.size)
            return None
        tail.size += len(frame)
        self.bytes += len(frame)
        self.written += 1
        return tail

    def _open_tail(self) -> Segment:
        """Return the segment to append to; begin another when it is full."""
        if self._tail and self._tail.size >= SEGMENT_BYTES:
            self.close()
        if self._tail is None:
            path = self._folder / f"{self._number + 1:010d}{SUFFIX}"
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._number += 1
            self._tail = Segment(path)
        return self._tail

    def _read(self, segment: Segment) -> list[Record]:
        """Return the records that were not handed out; count and tell what cannot be read."""
        wanted = segment.size - segment.read_at
        try:
            with segment.path.open("rb") as file:
                file.seek(segment.read_at)
                data = file.read(wanted)
        except OSError as error:
            data = b""
            log.error("The spill cannot be read", path=str(segment.path), reason=error.strerror)
        records, damaged = parse(data, segment)
        damaged += wanted - len(data)
        if damaged:
            self.damaged_bytes += damaged
            log.error(
                "A part of the spill is damaged: what was in it is lost",
                path=str(segment.path),
                bytes=damaged,
                bytes_since_start=self.damaged_bytes,
                records_read=len(records),
            )
        return records

    def _delete_if_done(self, segment: Segment) -> None:
        if segment.pending or segment.read_at < segment.size:
            return
        if segment is self._tail:
            self.close()
        self.bytes -= segment.size
        try:
            segment.path.unlink()
        except OSError as error:
            log.warning(
                "A segment of the spill that is in Kafka cannot be deleted, and will be sent again",
                path=str(segment.path),
                reason=error.strerror,
            )


def parse(data: bytes, segment: Segment | None = None) -> tuple[list[Record], int]:
    """Return the records of all whole frames, in order, and how many bytes were none."""
    records = []
    at = damaged = 0
    while at < len(data):
        found = _record_at(data, at, segment)
        if found:
            record, at = found
            records.append(record)
        else:
            following = data.find(MARKER, at + 1)
            following = len(data) if following < 0 else following
            damaged += following - at
            at = following
    return records, damaged


def _record_at(data: bytes, at: int, segment: Segment | None) -> tuple[Record, int] | None:
    """Return the record whose frame begins at a place, and where it ends; None when there is no whole one."""
    begin = at + _HEAD.size
    if begin > len(data):
        return None
    marker, length, crc = _HEAD.unpack_from(data, at)
    payload = data[begin : begin + length]
    if marker != MARKER or len(payload) < length or crc32(payload) != crc:
        return None
    try:
        return Record(*_decode(payload), segment), begin + length
    except (msgspec.DecodeError, UnicodeDecodeError):  # whole, and of another format
        return None
