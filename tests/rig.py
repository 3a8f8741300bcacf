"""What the broker tests share: commands as processes, HTTP, patience."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from candlewick.guard import guarded

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
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
