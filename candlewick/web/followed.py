"""A compacted topic that every worker reads whole: what is small, and wanted everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, TypeVar

import aiokafka
import faust
import msgspec
from aiokafka.errors import KafkaError

from candlewick.app import app
from models.trade import UNREADABLE

Kind = TypeVar("Kind", bound=msgspec.Struct)


def follow(topic: str, kind: type[Kind], most: int = sys.maxsize) -> dict[str, Kind]:
    """Return the last word of each key of a topic, read from its beginning on while the worker runs.

    A record that is not of this kind is passed over. With more keys than ``most``, those go that came first.
    """
    decode = msgspec.json.Decoder(kind).decode
    known: dict[str, Kind] = {}

    def take(key: bytes | None, value: bytes | None) -> None:
        name = (key or b"").decode(errors="replace")
        if value is None:
            known.pop(name, None)
            return
        with contextlib.suppress(*UNREADABLE):
            known[name] = decode(value)
            if len(known) > most:
                del known[next(iter(known))]

    @app.service
    class Follower(faust.Service):
        @faust.Service.task
        async def _follow(self) -> None:
            while not self.should_stop:
                try:
                    await self._read()
                except KafkaError as error:
                    self.log.warning("%s cannot be read, trying again: %r", topic, error)
                    await self.sleep(1.0)

        async def _read(self) -> None:
            consumer = aiokafka.AIOKafkaConsumer(
                topic,
                bootstrap_servers=app.bootstrap,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                **app.security,
            )
            try:
                await consumer.start()
                while not self.should_stop:
                    fetched: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=500)
                    for records in fetched.values():
                        for record in records:
                            take(record.key, record.value)
            except asyncio.CancelledError:
                if not self.should_stop:
                    raise
            finally:
                await consumer.stop()

    return known
