"""What is in ``dead-letters``, and trades of it that can be read by now, put into the log after all.

A codec that learnt something, or a key that was wrong: then a trade can be delivered late, and its
candles are amended. A book's record cannot, because others have followed it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from rich.console import Console
from rich.table import Table

from candlewick.config import Settings
from candlewick.kafka import address
from candlewick.kafka.security import checked
from models.dead_letter import DeadLetter, read_dead_letter
from models.errors import DecodeError, RecordError
from models.trade import Trade, read_trade
from producers.codec import Codec
from producers.exchanges import codec_class
from producers.sink import Sink
from producers.topic import DEAD_LETTERS, TRADES


async def run(settings: Settings, again: bool) -> None:
    """Show the dead letters by source and reason; with ``again``, send the trades that can be read now."""
    bootstrap = address.find(settings)
    security = await checked(bootstrap, settings)
    codec = codec_class(settings.exchange)()
    counts: Counter[tuple[str, str]] = Counter()
    sent = 0
    async with Sink(bootstrap, topics=(TRADES,), security=security) as sink:
        async for letter in letters(bootstrap, security):
            counts[letter.source.split("[")[0], letter.reason[:80]] += 1
            for trade in trades_of(letter, codec) if again else ():
                await sink.put(trade)
                sent += 1
        await sink.flush()
    table = Table("source", "reason", "letters")
    for (source, reason), count in counts.most_common():
        table.add_row(source, reason, f"{count:,}")
    console = Console()
    if counts:
        console.print(table)
    told = f"{counts.total():,} dead letters"
    if again:
        told += (
            f", {sent:,} trades of them can be read now and are in {TRADES}; those that were there count once"
        )
    console.print(told, highlight=False, soft_wrap=True)


async def letters(bootstrap: str, security: Mapping[str, Any]) -> AsyncIterator[DeadLetter]:
    """Read the topic from its beginning to where it ends now."""
    async with AIOKafkaConsumer(
        DEAD_LETTERS,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **security,
    ) as consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        while any(await asyncio.gather(*(_is_before(consumer, tp, end) for tp, end in ends.items()))):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    try:
                        yield read_dead_letter(record.value or b"")
                    except msgspec.DecodeError as error:
                        yield DeadLetter(DEAD_LETTERS, f"not one of ours: {error}", 0, 0, cut_to=0)


async def _is_before(consumer: AIOKafkaConsumer, tp: object, end: int) -> bool:
    return bool(await consumer.position(tp) < end)


def trades_of(letter: DeadLetter, codec: Codec) -> list[Trade]:
    """Return the trades that can be read of a letter now: of a frame, or of a record of ``trades``."""
    value = letter.value
    if value is None:
        return []
    try:
        if letter.source.startswith(f"{TRADES}["):
            events = [read_trade(value)]
        else:
            events = list(codec.receive(value, letter.time_us))  # type: ignore[arg-type]
    except (DecodeError, RecordError):
        return []
    return [event for event in events if isinstance(event, Trade)]
