"""The data directory: everything that lasts, in one folder that one ``up`` uses at a time.

::

    VERSION        the format of what is here
    kafka/         topics          tables/   RocksDB, by partition
    logs/          one a process   market.json   where the simulated market is
    spill/         what a producer keeps while Kafka is away
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from models.errors import ConfigError, StateError

VERSION = "2"
LOG_LIMIT = 20 << 20
"""Bytes after which a log is set aside when its process starts."""


def prepare(data_dir: Path) -> Path:
    """Make the folder, or check that it is one of ours.

    Raises:
        ConfigError: it cannot be made or written.
        StateError: it was made by another version.
    """
    path = data_dir.absolute()
    version = path / "VERSION"
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
        if not version.exists():
            version.write_text(VERSION + "\n")
        found = version.read_text(errors="replace").strip()
    except OSError as error:
        raise ConfigError(
            "data_dir", str(data_dir), f"a folder that can be written ({error.strerror})"
        ) from None
    if found != VERSION:
        raise StateError(
            f"{path} holds format {found[:20]!r}, this program writes {VERSION}: "
            "use another --data-dir, or the version that made it"
        )
    return path


@contextlib.contextmanager
def locked(path: Path, who: str, remedy: str) -> Iterator[None]:
    """Hold a lock file while the block runs; it goes with the process, however that ends.

    The file says which process it is, so that one can be ended by hand.

    Raises:
        StateError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(f"another {who} is using {path.parent}: {remedy}") from None
        with contextlib.suppress(OSError):  # a full disk holds the lock as well
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), b"%d\n" % os.getpid())
        yield


def log_file(data_dir: Path, name: str) -> Path:
    """Return the log of a process; one that has grown large is set aside first."""
    path = data_dir / "logs" / f"{name.replace(' ', '-')}.log"
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        os.replace(path, path.with_suffix(".log.1"))
    return path


def tail(path: Path, lines: int = 12) -> list[str]:
    """Return the last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
