"""Trades into candles: the tape of each symbol, a batch at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from agents.batch import by_symbol
from candlewick import topics
from candlewick.app import app, settings
from candlewick.transport import BatchSchema, RecordBatch
from models.tape import CandleChange, Tape, TapeState
from models.times import rfc3339
from models.trade import read_trade
from tables import candles
from tables.rows import state_key

GRACE_US = round(settings.grace_s * 1_000_000)

trades = app.topic(topics.TRADES, schema=BatchSchema(key_type=bytes, value_type=bytes), internal=False)
tapes: dict[tuple[int, str], Tape] = {}
"""By (partition, symbol key), since the assignment."""


def start_of(partition: int, committed: int) -> int:
    """Begin a little before the committed offset: it is a hint, the rows know (design §4)."""
    return committed - settings.rewind_records


app.checkpoint.source(topics.TRADES, start_of, tapes.clear)


@app.agent(trades, name="candles")
async def fold_trades(stream: Any) -> None:
    """Fold each batch of trades into the candles of all windows."""
    async for event in stream.events():
        batch: RecordBatch = event.value
        if batch.epoch != app.consumer.epoch:
            continue
        fold(batch)
        await app.checkpoint.drain()


def fold(batch: RecordBatch) -> None:
    """Fold a batch: no await between the first read and the last write."""
    partition = batch.tp.partition
    rows = candles.table.rows(partition)
    for symbol_key, records in by_symbol(batch, read_trade).items():
        tape = tapes.get((partition, symbol_key))
        if tape is None:
            state = rows.state(symbol_key) or TapeState()
            tape = tapes[partition, symbol_key] = Tape(symbol_key, state, rows.of(symbol_key), GRACE_US)
        for change in tape.fold(records):
            send(symbol_key, change)
        rows.put(state_key(symbol_key), tape.state)
    app.checkpoint.folded(batch.tp, batch.records[-1].offset + 1)


def send(symbol_key: str, change: CandleChange) -> None:
    """Tell the world of a candle that closed or was amended."""
    exchange, symbol = symbol_key.split(":", 1)
    key = f"{symbol_key}:{change.window.name}:{rfc3339(change.start_us)}"
    value = {"exchange": exchange, "symbol": symbol, **change.value}
    app.checkpoint.send(topics.CANDLES, key.encode(), msgspec.json.encode(value))
