"""Trades into candles: the tape of each symbol, a batch at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from agents.batch import Folding, expire, send_window
from candlewick import topics
from candlewick.app import app, settings
from models.shown import CandleMessage
from models.tape import CandleChange, CandleRow, Change, GapChange, Tape, TapeState
from models.trade import read_trade
from tables import candles
from tables.rows import PartitionRows, SymbolRows

GRACE_US = round(settings.grace_s * 1_000_000)
KEEP_US = settings.keep_us()

trades = app.topic(topics.TRADES, schema=app.batches, internal=False)


def begin(state: TapeState | None, rows: SymbolRows[CandleRow]) -> Tape:
    """Return the tape of a symbol as it was kept."""
    return Tape(state or TapeState(), rows, GRACE_US, KEEP_US)


def tell(rows: PartitionRows[TapeState, CandleRow], symbol_key: str, change: Change) -> None:
    """Send candles that closed or were amended to their topic, gaps to theirs; let old rows go."""
    if isinstance(change, CandleChange):
        message = CandleMessage.of(symbol_key, change.window, change.start_us, candle=change.candle)
        send_window(topics.CANDLES, symbol_key, message)
    elif isinstance(change, GapChange):
        gap = change.describe(*symbol_key.split(":", 1))
        app.checkpoint.send(topics.GAPS, gap.key.encode(), msgspec.json.encode(gap))
    else:
        expire(topics.CANDLES, rows, symbol_key, change)


def start_of(partition: int, committed: int) -> int:
    """Begin with the committed offset: rows that include more know it (docs/decisions/003)."""
    return committed


folding = Folding(topics.TRADES, candles.table, read_trade, begin, tell, start_of)


@app.agent(trades, name="candles")
async def fold_trades(stream: Any) -> None:
    """Fold each batch of trades into the candles of all windows."""
    await folding.run(stream)
