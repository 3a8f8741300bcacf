"""What the producers say of themselves: the compacted topic ``feeds``, read by every worker."""

from __future__ import annotations

import asyncio
import contextlib
import time

import aiokafka
import faust
import msgspec
from aiokafka.errors import KafkaError

from candlewick import topics
from candlewick.app import app
from models.producer_status import ProducerStatus
from models.trade import UNREADABLE

FRESH_S = 30
"""Seconds after which a feed that says nothing counts as gone; it speaks every 10."""

_decode = msgspec.json.Decoder(ProducerStatus).decode

known: dict[str, ProducerStatus] = {}
"""The last word of each producer, by its key."""


def connected() -> bool:
    """Say whether any feed is connected now."""
    oldest_us = (time.time() - FRESH_S) * 1_000_000
    return any(feed.state == "connected" and feed.updated_us > oldest_us for feed in known.values())


def products(exchange: str) -> set[str]:
    """Return the products that feeds of an exchange follow."""
    feeds = [feed for feed in known.values() if feed.exchange == exchange and feed.state != "stopped"]
    return {product for feed in feeds for product in feed.products}


@app.service
class FeedReader(faust.Service):
    """Follows the topic from its beginning; it holds one record for each producer."""

    @faust.Service.task
    async def _follow(self) -> None:
        while not self.should_stop:
            try:
                await self._read()
            except KafkaError as error:
                self.log.warning("feeds cannot be read, trying again: %r", error)
                await self.sleep(1.0)

    async def _read(self) -> None:
        tp = aiokafka.TopicPartition(topics.FEEDS, 0)
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=app.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign([tp])
            while not self.should_stop:
                for record in (await consumer.getmany(tp, timeout_ms=500)).get(tp, ()):
                    take(record.key, record.value)
        except asyncio.CancelledError:
            if not self.should_stop:
                raise
        finally:
            await consumer.stop()


def take(key: bytes | None, value: bytes | None) -> None:
    """Note one record; one that is not ours is passed over."""
    name = (key or b"").decode(errors="replace")
    if value is None:
        known.pop(name, None)
        return
    with contextlib.suppress(*UNREADABLE):
        known[name] = _decode(value)
