"""Candles with Bytewax: `fold_window` on event time; a candle is emitted when its window closes.

Money is Decimal. State is in memory; with ``-r`` it is snapshotted to SQLite. The source ends with
the log (``tail=False``), and that closes every window.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from telling import BROKER, GRACE_S, TOPIC, TRADES, WINDOWS, tell, write

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
ZERO = Decimal(0)


class Trade(NamedTuple):
    time: datetime
    price: Decimal
    size: Decimal


class Candle:
    """Changed in place: the folder may, and it is the quicker way."""

    __slots__ = ("close", "count", "high", "low", "open", "quote_volume", "volume")

    def __init__(self) -> None:
        self.open = self.high = self.low = self.close = self.volume = self.quote_volume = ZERO
        self.count = 0


started = False


def read(message: KafkaSourceMessage[bytes, bytes]) -> tuple[str, Trade]:
    global started
    if not started:
        started = True
        tell("reading")
    value = orjson.loads(message.value)
    time = datetime.fromtimestamp(value["event_time_us"] / 1_000_000, UTC)
    return value["symbol"], Trade(time, Decimal(value["price"]), Decimal(value["size"]))


def add(candle: Candle, trade: Trade) -> Candle:
    price, size = trade.price, trade.size
    if not candle.count:
        candle.open = candle.high = candle.low = price
    elif price > candle.high:
        candle.high = price
    elif price < candle.low:
        candle.low = price
    candle.close = price
    candle.volume += size
    candle.quote_volume += price * size
    candle.count += 1
    return candle


def merge(one: Candle, other: Candle) -> Candle:
    raise AssertionError("tumbling windows are never merged")


class Shown(StatelessSinkPartition[tuple[str, str, int, Candle]]):
    """Keeps the candles, and says when the last trade is in one of every window."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.updates = 0

    def write_batch(self, items: list[tuple[str, str, int, Candle]]) -> None:
        for name, symbol, number, candle in items:
            start_ms = int((EPOCH.timestamp() + number * WINDOWS[name]) * 1000)
            self.rows.append(
                (name, symbol, start_ms, candle.open, candle.high, candle.low, candle.close,
                 candle.volume, candle.quote_volume, candle.count)
            )  # fmt: skip
            self.updates += candle.count
        if self.updates == TRADES * len(WINDOWS):
            tell("folded")
            write(self.rows)


class Candles(DynamicSink[tuple[str, str, int, Candle]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Shown:
        return Shown()


flow = Dataflow("candles")
messages = op.input("trades", flow, KafkaSource([BROKER], [TOPIC], tail=False))
trades = op.map("read", messages, read)
clock = win.EventClock(lambda trade: trade.time, wait_for_system_duration=timedelta(seconds=GRACE_S))
rows = []
for name, seconds in WINDOWS.items():
    windower = win.TumblingWindower(align_to=EPOCH, length=timedelta(seconds=seconds))
    window = win.fold_window(f"fold-{name}", trades, clock, windower, Candle, add, merge)
    rows.append(op.map(f"row-{name}", window.down, lambda row, name=name: (name, row[0], *row[1])))
op.output("show", op.merge("rows", *rows), Candles())
