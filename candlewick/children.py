"""The processes of ``candlewick up``: started, watched, started again, and ended in order.

Each one ends with its parent, whatever ends that (see `candlewick.guard`), and writes to a log of
its own in the data directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from candlewick.datadir import log_file
from candlewick.guard import guarded
from models.errors import CandlewickError

RESTARTS = 5
"""Restarts of one process within `RESTARTS_WITHIN_S` before `up` gives up."""
RESTARTS_WITHIN_S = 120.0


class ChildFailed(CandlewickError):
    """A process of ours ended, and does not come back."""

    def __init__(self, name: str, code: int, log: Path, told: Sequence[str]) -> None:
        super().__init__(name, code, log, told)
        self.name = name
        self.code = code
        self.log = log
        self.told = told

    def __str__(self) -> str:
        said = [line for line in self.told if line.startswith("candlewick: ")]
        if said:
            return f"the {self.name} ended: {said[-1].removeprefix('candlewick: ')}"
        return "\n  ".join([f"the {self.name} ended with code {self.code}; {self.log} says:", *self.told])


class Child:
    """One process of ours: a command of ``candlewick``."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], data_dir: Path) -> None:
        self.name = name
        self.log = log_file(data_dir, name)
        self._argv = guarded([sys.executable, "-m", "candlewick", *command])
        self._env = {**os.environ, **env, "PYTHONUNBUFFERED": "1"}
        self._process: asyncio.subprocess.Process | None = None
        self._ended: list[float] = []
        self.restarts = 0
        self._offset = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process. Call it from the main thread: the process ends with its thread."""
        with self.log.open("ab") as log:
            self._offset = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def lines(self) -> list[str]:
        """Return what this run has logged: the last 64 KiB."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._offset, size - (1 << 16)))
            return log.read().decode(errors="replace").splitlines()

    async def first_line(self, prefix: str, within_s: float) -> str:
        """Wait for the line that begins with ``prefix``; return the rest of it.

        Raises:
            ChildFailed: it ended first, or did not say it in time.
        """
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            for line in self.lines():
                if line.startswith(prefix):
                    return line.removeprefix(prefix).strip()
            if self.pid is None:
                break
            await asyncio.sleep(0.05)
        raise self.failure()

    def failure(self) -> ChildFailed:
        """Return the error that says how it ended."""
        code = self._process.returncode if self._process and self._process.returncode is not None else -1
        return ChildFailed(self.name, code, self.log, self.lines()[-12:])

    async def keep_running(self, on_restart: Callable[[Child, int], None]) -> None:
        """Start it again whenever it ends.

        Raises:
            ChildFailed: it has ended too often, or said that it cannot run.
        """
        assert self._process is not None
        while True:
            code = await self._process.wait()
            now = time.monotonic()
            self._ended = [moment for moment in self._ended if now - moment < RESTARTS_WITHIN_S] + [now]
            said = any(line.startswith("candlewick: ") for line in self.lines()[-3:])
            if len(self._ended) > RESTARTS or (said and code == 1):
                raise self.failure()
            self.restarts += 1
            on_restart(self, code)
            await asyncio.sleep(min(0.5 * 2 ** len(self._ended), 10))
            await self.start()

    async def stop(self, within_s: float) -> None:
        """Ask it to end, and end it when it does not in time."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), within_s)
        except TimeoutError:
            process.kill()
            await process.wait()
