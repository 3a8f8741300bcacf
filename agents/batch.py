"""What every agent does with a batch: read its records, by symbol, and dead-letter what cannot be read."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from candlewick import topics
from candlewick.app import app
from candlewick.transport import RecordBatch
from models.errors import RecordError

Value = TypeVar("Value", bound=Any)


def by_symbol(
    batch: RecordBatch, read: Callable[[bytes | None], Value]
) -> dict[str, list[tuple[int, Value]]]:
    """Return the records of a batch as (offset, value), by symbol key, in the order of the log.

    A record that cannot be read, or whose key is not that of its symbol, is dead-lettered.
    """
    symbols: dict[str, list[tuple[int, Value]]] = {}
    keys: dict[bytes, tuple[str, str, list[tuple[int, Value]]]] = {}
    for record in batch.records:
        try:
            value = read(record.value)
            exchange, symbol, values = keys.get(record.key) or ("", "", None)
            if value.symbol != symbol or value.exchange != exchange or values is None:
                key = f"{value.exchange}:{value.symbol}"
                if record.key != key.encode():
                    raise RecordError(f"its key is {record.key!r}, its symbol is {key}", record.value)
                values = symbols[key] = []
                keys[record.key] = (value.exchange, value.symbol, values)
        except RecordError as error:
            dead_letter(batch, record, error.reason)
            continue
        values.append((record.offset, value))
    return symbols


def dead_letter(batch: RecordBatch, record: Any, reason: str) -> None:
    """Send a record to the dead letters, with where it came from and why."""
    source = f"{batch.tp.topic}[{batch.tp.partition}]@{record.offset}"
    raw = record.value or b""
    try:
        body = {"text": raw.decode()}
    except UnicodeDecodeError:
        body = {"base64": base64.b64encode(raw).decode()}
    letter = {"source": source, "reason": reason, "received_at": record.timestamp, **body}
    app.checkpoint.send(topics.DEAD_LETTERS, source.encode(), msgspec.json.encode(letter))
