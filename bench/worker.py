"""A worker as a user runs it, and what it costs: its own process, data directory and group."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import psutil

from candlewick import datadir
from candlewick.children import Child
from candlewick.config import Settings
from candlewick.kafka.broker import free_ports
from models.errors import CandlewickError

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
POLL_S = 0.01

T = TypeVar("T")


class TooSlow(CandlewickError):
    """What was waited for did not come in time."""


class Process:
    """One of our commands as a process of its own: ``async with Process(...)``."""

    def __init__(self, name: str, command: list[str], settings: Settings) -> None:
        self.settings = settings
        self._child = Child(name, command, settings.env(), datadir.prepare(settings.data_dir))
        self._process: psutil.Process | None = None
        self.peak_rss = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._child.stop(STOP_WITHIN_S)

    async def start(self) -> None:
        """Start it; after `kill`, with the same data directory."""
        await self._child.start()
        pid = self._child.pid
        assert pid is not None
        self._process = psutil.Process(pid)

    async def kill(self) -> None:
        """End it without a word."""
        self.send(signal.SIGKILL)
        await self._child.stop(STOP_WITHIN_S)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.must_live()
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def child(self) -> Child:
        """The process itself."""
        return self._child

    def must_live(self) -> None:
        """Raise what ended the process, if it has ended."""
        if self._child.pid is None:
            raise self._child.failure()

    def rss(self) -> int:
        """Return the bytes that it has in memory now."""
        total = sum(self._family(lambda process: process.memory_info().rss))
        self.peak_rss = max(self.peak_rss, total)
        return total

    def cpu_s(self) -> float:
        """Return the seconds of processor time that it has used."""
        return sum(self._family(lambda process: sum(process.cpu_times()[:2])))

    def _family(self, ask: Callable[[psutil.Process], T]) -> list[T]:
        """Ask the process, and its own: outside Linux, ours is the guard (candlewick.guard)."""
        self.must_live()
        assert self._process is not None
        told = []
        with contextlib.suppress(psutil.NoSuchProcess):  # `must_live` tells of the process itself
            told.append(ask(self._process))
            for process in self._process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # a command that it ran for a moment
                    told.append(ask(process))
        return told


class Worker(Process):
    """A worker with a new group, so that it has all of the log before it; or with other settings."""

    def __init__(self, bootstrap: str, folder: Path, **chosen: Any) -> None:
        name = f"bench-{secrets.token_hex(4)}"
        (self.port,) = free_ports(1)
        own = {"data_dir": folder / name, "broker": bootstrap, "app_id": name, "port": self.port}
        settings = Settings(**(own | chosen))
        super().__init__("worker", ["worker"], settings)
        self._web: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._web = aiohttp.ClientSession(
            f"http://127.0.0.1:{self.port}", timeout=aiohttp.ClientTimeout(total=30)
        )
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._web:
                await self._web.close()
        finally:
            await super().__aexit__(kind, error, trace)

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask a view; status 0 while nobody answers."""
        assert self._web is not None
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, ValueError):
            async with self._web.get(path) as answer:
                return answer.status, await answer.json(content_type=None)
        return 0, None

    async def until_ready(self, symbol: str, within_s: float = READY_WITHIN_S) -> float:
        """Wait until tables are recovered, and say when that was, by `time.monotonic`.

        Asked through one symbol's statistics: all products' status is dear while many are folded.
        """
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            status, _ = await self.get(f"/stats/1d/{symbol}")
            now = time.monotonic()
            if status in (200, 404):
                return now
            self.rss()
            await asyncio.sleep(POLL_S)
        raise TooSlow(f"the worker was not ready within {within_s:.0f} s")

    async def until_folded(self, symbol: str, count: int, within_s: float) -> None:
        """Wait until a symbol's 1d candle has so many trades."""
        end = time.monotonic() + within_s
        while True:
            _, body = await self.get(f"/stats/1d/{symbol}")
            folded = (body or {}).get("candle") or {}
            if folded.get("trade_count", 0) >= count:
                return
            if time.monotonic() > end:
                done = folded.get("trade_count", 0)
                raise TooSlow(f"{done} of {count} trades of {symbol} were folded in {within_s:.0f} s")
            self.rss()
            await asyncio.sleep(POLL_S)
