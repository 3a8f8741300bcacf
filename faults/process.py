"""A process of a scenario, and what it uses. No supervisor: one that ends by itself is an error.

Signals go to pids that were started here. All processes end with this one, however it ends
(`candlewick.guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from candlewick.guard import guarded


class Failed(Exception):
    """A scenario cannot go on: its bar is not met."""


class Ended(Failed):
    """A process ended by itself."""


class Process:
    """A command of ours that nobody starts again: its log, and how it ended."""

    def __init__(self, log: Path, argv: Sequence[str], env: dict[str, str]) -> None:
        self.log = log
        self._argv = argv
        # Nothing of the caller's own settings may reach it.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEWICK_")}
        self._env = {**clean, **env, "PYTHONUNBUFFERED": "1"}
        self._process: asyncio.subprocess.Process | None = None
        self._said_before = 0
        self.began = 0.0
        """When it was last started, by `time.monotonic`."""
        self._ordered = False
        """Whether it was asked to end since its last start: then its end is no surprise."""
        self.may_end = 0
        """How often it may end by itself from now on: it is started again, and counted."""
        self.ended = 0
        self.reason = ""
        """What it said when it last ended by itself."""
        self.starved = 0
        """Times that it ended because the machine, not the scenario, had stopped it."""

    @property
    def pid(self) -> int | None:
        """The process id, while the scenario has not ended it."""
        return self._process.pid if self._process else None

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it. From the main thread: it ends with the thread."""
        self.began = time.monotonic()
        self._ordered = False
        self._said_before = len(self.said())
        with self.log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *guarded([sys.executable, *self._argv]),
                env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    async def is_stopped(self) -> bool:
        """Say whether SIGSTOP holds it."""
        return self.runs and self.usage.status() == psutil.STATUS_STOPPED

    async def check(self) -> None:
        """Make sure that it runs, unless the scenario ended it.

        A worker that the machine itself stopped for longer than its session ends, as it must: it
        is started again here, and counted apart.

        Raises:
            Ended: it ended by itself, and the scenario does not allow that.
        """
        process = self._process
        if process is None or process.returncode is None:
            return
        self.reason = self.last_words()
        if self.may_end:
            self.may_end -= 1
            self.ended += 1
        elif "the process did not run for" in self.reason and self.starved < 20:
            self.starved += 1
        else:
            raise Ended(f"{self.log.stem} ended by itself, code {process.returncode}: {self.reason}")
        await self.start()

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.runs and self._process:
            os.kill(self._process.pid, number)
            self._ordered |= number == signal.SIGTERM

    async def end(self, number: int = signal.SIGTERM, within_s: float = 30.0) -> int:
        """End it by a signal; return its exit code. It may be at its end by an earlier SIGTERM.

        Raises:
            Ended: it had ended by itself.
            Failed: it did not end in time.
        """
        if not self._ordered:
            await self.check()
        process = self._process
        assert process is not None
        self.send(number)
        try:
            code = await asyncio.wait_for(process.wait(), within_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Failed(
                f"{self.log.stem} did not end within {within_s:.0f} s of {signal.Signals(number).name}"
            ) from None
        finally:
            self._process = None
        return code

    async def kill(self) -> None:
        """End it by SIGKILL."""
        await self.end(signal.SIGKILL)

    async def restart(self) -> None:
        """Start it again, whatever state it is in."""
        await self.close()
        await self.start()

    async def close(self) -> None:
        """End it, whatever state it is in."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def said(self) -> str:
        """Return its whole log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def last_words(self) -> str:
        """Return the line that says most about its end, of what it said since its last start."""
        lines = [
            line.strip(" |") for line in self.said()[self._said_before :].splitlines() if line.strip(" |+-^~")
        ]
        telling = [x for x in lines if x.startswith("candlewick: ") or "the worker ends" in x]
        errors = [x for x in lines if "[ERROR]" in x]
        return (telling[-1:] or errors or lines[-1:] or ["it said nothing"])[0][:300]

    @property
    def usage(self) -> psutil.Process:
        """What it uses, for psutil."""
        self.must_run()
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def must_run(self) -> None:
        """Raise `Ended` if it has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise Ended(f"{self.log.stem} ended, code {self._process.returncode}: {self.last_words()}")

    async def wait(self, within_s: float) -> int | None:
        """Wait for its end; return the exit code, or None when it still runs."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._process.wait(), within_s)
        return None


@contextlib.asynccontextmanager
async def metered(process: Process, every_s: float = 0.05) -> Any:
    """Sample a process's resident memory while the block runs; yields a `Meter`."""
    meter = Meter(process.usage)
    task = asyncio.create_task(meter.run(every_s))
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Meter:
    """Resident memory, from now on, in MiB."""

    def __init__(self, usage: psutil.Process) -> None:
        self._usage = usage
        self.first = self.last = self.peak = usage.memory_info().rss / 2**20

    @property
    def growth(self) -> float:
        """The peak above the beginning."""
        return self.peak - self.first

    async def run(self, every_s: float) -> None:
        """Look, until the process ends."""
        with contextlib.suppress(psutil.NoSuchProcess):
            while True:
                self.last = self._usage.memory_info().rss / 2**20
                self.peak = max(self.peak, self.last)
                await asyncio.sleep(every_s)
