"""A worker whose databases were damaged: it reads the changelog again, and every trade counts once."""

from __future__ import annotations

import asyncio
import os
import signal
from decimal import Decimal
from pathlib import Path

import pytest
from rig import free_port, get, send, trades, until

pytestmark = pytest.mark.broker

SYMBOLS = [f"D{letter}-USD" for letter in "ABCDEFGHIJKL"]


def damage(database: Path, number: int) -> None:
    """Damage a database: at once visible, or only where a block is read."""
    if number % 3 == 0:
        (database / "CURRENT").unlink()
    elif number % 3 == 1:
        manifest = next(database.glob("MANIFEST-*"))
        os.truncate(manifest, manifest.stat().st_size // 2)
    else:
        for path in database.glob("*.sst"):
            content = bytearray(path.read_bytes())
            content[: len(content) // 4] = bytes(len(content) // 4)
            path.write_bytes(content)


def test_a_worker_with_damaged_databases_counts_every_trade_once(run, kafka, tmp_path):
    asyncio.run(send(kafka, [trade for symbol in SYMBOLS for trade in trades(symbol, 1, 1000)]))
    port = free_port()

    def start():
        return run(
            "worker", "--broker", kafka, "--data-dir", str(tmp_path), "--port", str(port), "--worker-id", "damaged",
            CANDLEWICK_APP_ID="damaged", CANDLEWICK_SESSION_S="6", CANDLEWICK_COMMIT_S="0.2",
        )  # fmt: skip

    def day(symbol: str, count: int) -> dict | None:
        status, body = get(f"http://127.0.0.1:{port}/stats/1d/{symbol}")
        return body["candle"] if status == 200 and body["candle"]["trade_count"] == count else None

    worker = start()
    until(lambda: all(day(symbol, 1000) for symbol in SYMBOLS))
    assert worker.end(signal.SIGTERM) == 0
    # A partition without a symbol has no rows; the others wrote what was in memory at their end.
    databases = [
        path for path in sorted((tmp_path / "tables").rglob("candles-*.db")) if list(path.glob("*.sst"))
    ]
    assert len(databases) >= 3, worker.said()[-3000:]
    for number, database in enumerate(databases):
        damage(database, number)
    asyncio.run(send(kafka, [trade for symbol in SYMBOLS for trade in trades(symbol, 1001, 1000)]))
    worker, starts = start(), 1

    def counted() -> bool:
        nonlocal worker, starts
        if worker.process.poll() is not None:
            assert starts < 1 + len(databases), worker.said()[-3000:]  # each end leaves one more mark
            worker, starts = start(), starts + 1
        return all(day(symbol, 2000) for symbol in SYMBOLS)

    until(counted)
    for symbol in SYMBOLS:
        candle, expected = day(symbol, 2000), trades(symbol, 1, 2000)
        assert candle is not None
        assert Decimal(candle["volume"]) == sum(trade.size for trade in expected)
        assert (candle["first_trade_id"], candle["last_trade_id"], candle["missing_trades"]) == (1, 2000, 0)
    assert worker.end(signal.SIGTERM) == 0
    # A MANIFEST that is cut may be an earlier one that is whole: a database at an earlier offset.
    certain = sum(number % 3 != 1 for number in range(len(databases)))
    assert len(list((tmp_path / "tables").rglob("candles-*.db.corrupt-*"))) >= certain
    assert not list((tmp_path / "tables").rglob("*.damaged"))
