"""Real processes on a real broker: the commands as a user starts them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rig import Command


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start commands that are ended after the test, however it ends."""
    commands: list[Command] = []

    def start(*args: str, **env: str) -> Command:
        command = Command(tmp_path / f"{len(commands)}-{args[0]}.log", args, env)
        commands.append(command)
        return command

    yield start
    for command in reversed(commands):
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


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One broker for a module; return its address."""
    folder = tmp_path_factory.mktemp("kafka")
    command = Command(folder / "broker.log", ("broker", "--data-dir", str(folder)), {})
    try:
        yield command.line("127.0.0.1:").join(["127.0.0.1:", ""])
    finally:
        command.process.terminate()
        command.process.wait(15)
