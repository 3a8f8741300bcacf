"""Trades into the topic, a chosen number to a Kafka batch, without the sink's own pace.

How a log was written decides how fast it can be read: a backfill leaves batches of a thousand
records, a live feed of a quiet day batches of a few.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from bench import market
from bench.truth import Truth
from candlewick import topics
from candlewick.config import Settings
from models.trade import Trade
from producers.topic import ensure_topics

BATCH_BYTES = 1 << 20
IN_FLIGHT = 64
"""Batches that wait for the broker at most."""
TELL_EVERY = 10_000


class Written(msgspec.Struct):
    """What is in the log, to compare candles with."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    """Trades of each symbol."""
    truth: Truth = msgspec.field(default_factory=Truth)
    """Every trade, to make the right candles of."""
    last: dict[int, str] = {}
    """The symbol of each partition's last record."""


async def write(
    bootstrap: str,
    settings: Settings,
    trades: Iterable[Trade],
    batch_records: int,
    tell: Callable[[int], None],
) -> Written:
    """Make the topics, and write trades as the producers do: same key, value, headers, compression."""
    await ensure_topics(bootstrap, topics.specs(settings), replication=settings.replication)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", compression_type="zstd",
        max_batch_size=BATCH_BYTES,
    )  # fmt: skip
    written = Written()
    partitions: dict[str, int] = {}
    batches: dict[int, BatchBuilder] = {}
    waiting: set[asyncio.Future[Any]] = set()

    async def send(partition: int) -> None:
        batch = batches.pop(partition)
        batch.close()
        waiting.add(await producer.send_batch(batch, topics.TRADES, partition=partition))
        if len(waiting) >= IN_FLIGHT:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting.difference_update(done)
            for future in done:
                future.result()

    await producer.start()
    try:
        for number, trade in enumerate(written.truth.watch(trades), 1):
            symbol = trade.symbol
            partition = partitions.get(symbol)
            if partition is None:
                partition = partitions[symbol] = market.partition_of(symbol, settings.partitions)
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = producer.create_batch()
            batch.append(
                timestamp=trade.event_time_us // 1000,
                key=f"{trade.exchange}:{symbol}".encode(),
                value=trade.to_json(),
                headers=[("schema", b"trade/1"), ("received_at", b"%d" % trade.received_time_us)],
            )
            written.counts[symbol] += 1
            written.last[partition] = symbol
            if batch.record_count() >= batch_records:
                await send(partition)
            if number % TELL_EVERY == 0:
                tell(number)
        for partition in list(batches):
            await send(partition)
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return written
