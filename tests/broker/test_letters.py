"""The command that shows dead letters, and sends what can be read by now."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import aiokafka
import pytest
from rig import Worker, trades, until

from candlewick import config, topics
from models.dead_letter import dead_letter_json, read_dead_letter
from producers.topic import ensure_topics

pytestmark = pytest.mark.broker


def dead_letters(kafka: str, *options: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
    done = subprocess.run(
        [sys.executable, "-m", "candlewick", "dead-letters", "--broker", kafka, *options],
        capture_output=True, text=True, timeout=60, env=clean, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_trade_that_can_be_read_by_now_is_counted_after_all(run, kafka, tmp_path):
    one, two = trades("AGA-USD", 1, 2)

    async def send() -> None:
        await ensure_topics(kafka, topics.specs(config.load({})))
        frame = (
            b'{"type":"match","trade_id":3,"sequence":50,"time":"2026-09-21T14:14:00.5Z",'
            b'"product_id":"AGA-USD","size":"5.2","price":"400.2","side":"sell"}'
        )
        letter = dead_letter_json(
            frame, "coinbase wss://…", "an older codec did not know it", 1_790_000_100_000_000
        )
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            await producer.send(topics.TRADES, one.to_json(), b"coinbase:AGA-USD")
            await producer.send(topics.TRADES, two.to_json(), b"coinbase:WRONG-USD")
            await producer.send(topics.TRADES, b"\xff not json", b"coinbase:AGA-USD")
            await producer.send(topics.DEAD_LETTERS, letter, b"by hand")
            await producer.flush()

    asyncio.run(send())
    worker = Worker(run, kafka, tmp_path / "again", "again")
    until(lambda: worker.has("AGA-USD", 1))
    until(lambda: "3 dead letters" in dead_letters(kafka))
    assert "2 trades of them can be read now" in dead_letters(kafka, "--again")
    candle = until(lambda: worker.has("AGA-USD", 3))
    assert candle["complete"] is True
    dead_letters(kafka, "--again")
    assert worker.has("AGA-USD", 3)


def test_a_letter_is_read_as_it_was_written():
    for value in (b"text", b"\xff\xfe", b"", b"x" * (1 << 20)):
        assert read_dead_letter(dead_letter_json(value, "here", "why", 1)).value == value
    assert read_dead_letter(dead_letter_json(b"x" * ((1 << 20) + 1), "here", "why", 1)).value is None
