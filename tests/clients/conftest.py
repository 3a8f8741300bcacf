"""A worker that has folded two markets, and clients of others in an environment of their own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rig import Command, Worker, get, send, until

from models.trade import Trade

HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
ENVIRONMENT = HERE.parents[1] / "build" / "clients"

HISTORY = "HIS-USD"
"""Two days of trades, the same each time."""
LIVE = "BTC-USD"
"""What the mock exchange simulated: trades and a book."""
FIRST_US = 1_789_900_000_000_000


def history() -> list[Trade]:
    """Two days of trades: some minutes have several, most have none, some hours neither."""
    chance = random.Random(5)
    at_us, made = FIRST_US, []
    while at_us < FIRST_US + 2 * 86_400_000_000:
        at_us += round(chance.expovariate(1 / (9_000 if chance.random() < 0.005 else 60)) * 1_000_000)
        price, size = Decimal(chance.randrange(9_900, 10_100)) / 100, Decimal(chance.randrange(1, 999)) / 1000
        side = "buy" if chance.random() < 0.5 else "sell"
        made.append(Trade("coinbase", HISTORY, len(made) + 1, price, size, side, at_us, at_us))  # type: ignore[arg-type]
    return made


class Market(NamedTuple):
    """A worker, and what it was given."""

    base: str
    kafka: str
    trades: list[Trade]
    """Of `HISTORY`."""


@pytest.fixture(scope="package")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Give a worker on a real broker; its markets stand still, so that two answers can be compared."""
    folder = tmp_path_factory.mktemp("market")
    commands: list[Command] = []

    def run(*args: str, **env: str) -> Command:
        commands.append(Command(folder / f"{len(commands)}-{args[0]}.log", args, env))
        return commands[-1]

    def trades_of_live() -> int:
        status, body = get(f"{worker.base}/v1/candles/{LIVE}?window=1d")
        return sum(candle["trade_count"] for candle in body["candles"]) if status == 200 else 0

    def is_quiet() -> bool:
        status, body = get(f"{worker.base}/v1/status")
        return status == 200 and body["workers"][0].get("lag_records") == 0

    kafka = "127.0.0.1:" + run("broker", "--data-dir", str(folder / "broker")).line("127.0.0.1:")
    trades = history()
    try:
        asyncio.run(send(kafka, trades))
        worker = Worker(run, kafka, folder / "worker", "clients", CANDLEWICK_RATE_PER_S="0")
        mock = run("mock-exchange", "--speed", "300", "--products", f"{LIVE},ETH-USD",
                   "--data-dir", str(folder / "mock"))  # fmt: skip
        url = mock.line("mock exchange at ")
        producer = run("produce", "--feed", url, "--products", f"{LIVE},ETH-USD", "--broker", kafka,
                       "--data-dir", str(folder / "produce"))  # fmt: skip
        until(lambda: trades_of_live() > 5_000)
        for command in (producer, mock):  # as they are: one that ends says that its books are lost
            command.end(signal.SIGKILL)
        until(is_quiet)
        until(
            lambda: (
                get(f"{worker.base}/v1/candles/{HISTORY}?limit=1")[1]["candles"][0]["last_trade_id"]
                == len(trades)
            )
        )
        yield Market(worker.base, kafka, trades)
    finally:
        for command in reversed(commands):
            if command.process.poll() is None:
                command.end()


@pytest.fixture(scope="session")
def client_python() -> Path:
    """Give the interpreter of the clients' own environment, made where it is not there or the lock is another.

    What they bring, forty packages and a plugin of pytest, stays out of what is tested.
    """
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "made-of"
    if stamp.is_file() and stamp.read_bytes() == LOCK.read_bytes():
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)],
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(LOCK)],
    ):
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=150)
        except (OSError, subprocess.SubprocessError) as error:
            told = f"the clients of tests/clients cannot be installed: {getattr(error, 'stderr', error)}"
            if os.environ.get("CI"):
                pytest.fail(told)
            pytest.skip(told)
    stamp.write_bytes(LOCK.read_bytes())
    return python


@pytest.fixture(scope="package")
def read_by(client_python: Path, market: Market) -> Callable[[str], Any]:
    """Run a script of this folder in that environment, with the worker's address; return the JSON it prints."""

    def read(script: str) -> Any:
        done = subprocess.run(
            [str(client_python), str(HERE / script), market.base, HISTORY, LIVE],
            capture_output=True, text=True, timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return read
