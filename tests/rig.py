"""What the broker tests share: commands as processes, HTTP, patience."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil

from candlewick import config, topics
from candlewick.guard import guarded
from candlewick.kafka.broker import free_ports
from models.trade import Trade
from producers.sink import Sink
from producers.topic import ensure_topics

PATIENCE_S = 60.0


class Command:
    """A command of ``candlewick`` that runs until it is ended."""

    def __init__(self, log: Path, args: tuple[str, ...], env: dict[str, str]) -> None:
        self.log = log
        # Nothing of the caller's own settings may reach the tests.
        clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
        argv = guarded([sys.executable, "-m", "candlewick", *args])
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                argv, env={**clean, **env}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def line(self, prefix: str) -> str:
        """Wait for the line that begins so; return the rest of it."""

        def find() -> str | None:
            assert self.process.poll() is None, self.said()
            return next(
                (x.removeprefix(prefix).strip() for x in self.said().splitlines() if x.startswith(prefix)),
                None,
            )

        return until(find, lambda: f"no line {prefix!r} in:\n{self.said()[-3000:]}")

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def commands_in(folder: Path) -> Iterator[Callable[..., Command]]:
    """Start commands, their logs in a folder; all are ended after the block, however it ends."""
    commands: list[Command] = []

    def start(*args: str, **env: str) -> Command:
        commands.append(Command(folder / f"{len(commands)}-{args[0]}.log", args, env))
        return commands[-1]

    try:
        yield start
    finally:
        for command in reversed(commands):
            _end(command)


def _end(command: Command) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        family = command.family()
        command.process.terminate()
        try:
            command.process.wait(12)
        except subprocess.TimeoutExpired:
            command.process.kill()
            command.process.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def until(find: Callable[[], Any], told: Callable[[], str] | str = "") -> Any:
    """Ask until the answer is true; return it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.05)
    raise AssertionError(told() if callable(told) else told or f"{find} did not come true in {PATIENCE_S} s")


def get(url: str) -> tuple[int, Any]:
    """Return status and JSON; status 0 while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, None


def free_port() -> int:
    return free_ports(1)[0]


START_US = 1_790_000_040_000_000


def trades(symbol: str, first: int, count: int) -> list[Trade]:
    return [
        Trade(
            "coinbase", symbol, trade_id, Decimal(100 + trade_id % 7), Decimal("0.00000003") * (trade_id % 5 + 1),
            "buy" if trade_id % 2 else "sell", START_US + trade_id * 10_000, START_US + trade_id * 10_000,
        )
        for trade_id in range(first, first + count)
    ]  # fmt: skip


async def send(kafka: str, events: list[Trade]) -> None:
    await ensure_topics(kafka, topics.specs(config.load({})))
    async with Sink(kafka) as sink:
        for event in events:
            await sink.put(event)
        await sink.flush()


class Worker:
    def __init__(self, run, kafka: str, folder, app_id: str, **env: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.start = lambda: run(
            "worker", "--broker", kafka, "--data-dir", str(folder), "--port", str(self.port), "--worker-id", folder.name,
            CANDLEWICK_APP_ID=app_id, CANDLEWICK_SESSION_S="6", CANDLEWICK_COMMIT_S="0.2", **env,
        )  # fmt: skip
        self.command = self.start()

    def day(self, symbol: str) -> dict | None:
        status, body = get(f"{self.base}/stats/1d/{symbol}")
        return body["candle"] if status == 200 else None

    def has(self, symbol: str, count: int) -> dict | None:
        candle = self.day(symbol)
        return candle if candle and candle["trade_count"] == count else None
