"""Real processes on a real broker: the commands as a user starts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rig import Command, commands_in


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start commands that are ended after the test, however it ends."""
    with commands_in(tmp_path) as start:
        yield start


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
