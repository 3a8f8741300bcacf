"""Recordings: raw frames of an exchange's connection, one JSON object a line.

``{"recv_ts": <unix seconds or null>, "dir": "open"|"out"|"in"|"http", "addr": <url>, "raw": <text>}``

``raw`` is the frame exactly as it was received, so a recording goes through the same codecs as the
wire. ``recv_ts`` is our clock at receipt; ``addr`` may be absent, other keys are ignored. A file is
plain text or gzip, told apart by its first bytes. Reading streams: a day need not fit in memory.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, cast

import msgspec

from models.errors import CandlewickError, ConfigError
from models.times import rfc3339

Direction = Literal["open", "out", "in", "http"]

MAX_LINE = 256 << 20
"""Bytes of one line: frames are at most 64 MiB, and JSON escapes may triple a text."""

_GZIP_MAGIC = b"\x1f\x8b"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z").match


class RecordingError(CandlewickError):
    """A recording cannot be read: replace the file, or cut it before the line."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(path, line, reason)
        self.path = path
        self.line = line
        """Counted from 1; 0 when the file as a whole is meant."""
        self.reason = reason

    def __str__(self) -> str:
        where = f", line {self.line}" if self.line else ""
        return f"recording {self.path}{where}: {self.reason}"


class Line(msgspec.Struct, frozen=True):
    """One line of a recording."""

    dir: Direction
    """``in`` received, ``out`` sent, ``open`` connection opened, ``http`` a REST response's body."""
    raw: str
    """The text, verbatim."""
    recv_ts: float | None = None
    """Receipt, unix seconds."""
    addr: str | None = None

    @property
    def received_time_us(self) -> int | None:
        """The receipt in microseconds since 1970, or None."""
        return None if self.recv_ts is None else round(self.recv_ts * 1_000_000)


class _Product(msgspec.Struct, frozen=True):
    product_id: str | None = None


_decode_line = msgspec.json.Decoder(Line).decode
_decode_product = msgspec.json.Decoder(_Product).decode


def read(path: Path | str) -> Iterator[Line]:
    """Yield the lines of a recording, in their order.

    Raises:
        RecordingError: the file is missing, empty, not gzip where its name says so, cut off, or a
            line is not what the format says. Lines before the bad one were yielded.
    """
    path = Path(path)
    number = 0
    try:
        with _open(path) as stream:
            while text := stream.readline(MAX_LINE + 1):
                number += 1
                if len(text) > MAX_LINE:
                    raise RecordingError(path, number, f"longer than {MAX_LINE} bytes")
                if text.isspace():
                    continue
                yield _line(path, number, text)
    except EOFError:
        raise RecordingError(path, number + 1, "the gzip stream is cut off") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise RecordingError(path, number + 1, f"broken gzip: {error}") from None
    except OSError as error:
        raise RecordingError(path, 0, error.strerror or str(error)) from None
    if not number:
        raise RecordingError(path, 0, "the file is empty")


def products_of(path: Path | str) -> list[str]:
    """Return the ``product_id`` of every frame received, once each, in order of first appearance.

    Raises:
        RecordingError: as `read`.
    """
    products: dict[str, None] = {}
    for line in read(path):
        if line.dir == "in" and (product := product_of(line.raw)):
            products[product] = None
    return list(products)


def product_of(raw: str) -> str | None:
    """Return the ``product_id`` that a frame names, or None: a frame need not even be JSON."""
    try:
        return _decode_product(raw).product_id
    except (msgspec.DecodeError, RecursionError):
        return None


def _open(path: Path) -> BinaryIO:
    stream = path.open("rb")
    magic = stream.read(2)
    stream.seek(0)
    if magic == _GZIP_MAGIC:
        stream.close()  # gzip closes only what it opened itself
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".gz" and magic:
        stream.close()
        raise RecordingError(path, 0, "not gzip, though its name ends with .gz")
    return stream


def _line(path: Path, number: int, text: bytes) -> Line:
    try:
        return _decode_line(text)
    except msgspec.ValidationError as error:
        raise RecordingError(path, number, f"not a recorded frame: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordingError(path, number, f"not JSON: {error}") from None


class RecordingWriter:
    """Writes one product's recording: ``DIR/<exchange>/<product>/<time>.jsonl.gz``.

    The file begins with the first line written; `flush` makes everything so far readable by others
    (up to the missing end of the gzip stream, which `close` writes).
    """

    def __init__(self, directory: Path | str, exchange: str, product: str, start_us: int) -> None:
        for setting, name in (("exchange", exchange), ("product", product)):
            if not _NAME(name):
                raise ConfigError(setting, name, "letters, digits, dots and dashes: it names a folder")
        # A colon is not allowed in file names everywhere.
        stamp = rfc3339(start_us).replace(":", "").replace("-", "")
        self.path = Path(directory) / exchange / product / f"{stamp}.jsonl.gz"
        self._stream: gzip.GzipFile | None = None

    def write(
        self, raw: str, received_time_us: int | None, direction: Direction = "in", addr: str | None = None
    ) -> None:
        """Append one line.

        Raises:
            OSError: the folder or the file cannot be written.
        """
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # "x": a recording is never written over.
            self._stream = gzip.open(self.path, "xb", compresslevel=6)  # noqa: SIM115 close() closes
        seconds = "null"
        if received_time_us is not None:  # by integers: a float could lose the last microsecond
            seconds = f"{received_time_us // 1_000_000}.{received_time_us % 1_000_000:06d}"
        where = "" if addr is None else f'"addr":{msgspec.json.encode(addr).decode()},'
        text = msgspec.json.encode(raw).decode()
        self._stream.write(f'{{"recv_ts":{seconds},"dir":"{direction}",{where}"raw":{text}}}\n'.encode())

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """End the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
