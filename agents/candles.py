"""Trades into candles: the tape of each symbol, a batch at a time."""

from __future__ import annotations

from typing import Any

from agents.batch import Folding
from candlewick import topics
from candlewick.app import app, settings
from candlewick.transport import BatchSchema
from models.tape import CandleRow, Tape, TapeState
from models.trade import read_trade
from tables import candles
from tables.rows import SymbolRows

GRACE_US = round(settings.grace_s * 1_000_000)

trades = app.topic(topics.TRADES, schema=BatchSchema(key_type=bytes, value_type=bytes), internal=False)


def begin(symbol_key: str, state: TapeState | None, rows: SymbolRows[CandleRow]) -> Tape:
    """Return the tape of a symbol as it was kept."""
    return Tape(symbol_key, state or TapeState(), rows, GRACE_US)


def start_of(partition: int, committed: int) -> int:
    """Begin a little before the committed offset: it is a hint, the rows know (docs/decisions/003)."""
    return committed - settings.rewind_records


folding = Folding(topics.TRADES, topics.CANDLES, candles.table, read_trade, begin, start_of)


@app.agent(trades, name="candles")
async def fold_trades(stream: Any) -> None:
    """Fold each batch of trades into the candles of all windows."""
    await folding.run(stream)
