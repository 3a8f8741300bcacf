"""Candles as Faust's guide writes them: a Record, tumbling tables, one event a trade.

Money is float, as the tables' JSON has it. Each write goes to RocksDB and to the changelog. The
changelogs must be there before it starts: one that it has just made may still count as one without
partitions when the first trade comes (`PartitionsMismatch`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import faust
from telling import BROKER, GROUP, PARTITIONS, STATE, TOPIC, TRADES, WINDOWS, tell, write


class Trade(faust.Record, coerce=True):
    symbol: str
    price: float
    size: float


app = faust.App(
    GROUP,
    broker=f"kafka://{BROKER}",
    store="rocksdb://?driver=rocksdict",
    datadir=STATE,
    topic_partitions=PARTITIONS,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
trades = app.topic(TOPIC, key_type=str, value_type=Trade)
# Faust sweeps windows by the wall clock: a shorter `expires` would drop those of a replay.
tables = {
    name: app.Table(f"candles-{name}", default=dict, partitions=PARTITIONS).tumbling(
        seconds, expires=timedelta(days=2)
    )
    for name, seconds in WINDOWS.items()
}
seen: dict[tuple[str, str, int], dict[str, Any]] = {}


@app.agent(trades)
async def fold(stream: faust.Stream[Trade]) -> None:
    count = 0
    async for event in stream.events():
        if count == 0:
            tell("reading")
        if count == TRADES:
            break
        trade = event.value
        for name, table in tables.items():
            candle = add(table[trade.symbol].value(), trade)
            table[trade.symbol] = candle
            seconds = WINDOWS[name]
            seen[name, trade.symbol, int(event.message.timestamp // seconds * seconds)] = candle
        count += 1
        if count == TRADES:
            tell("folded")
            write((name, symbol, start * 1000, *row.values()) for (name, symbol, start), row in seen.items())


def add(candle: dict[str, Any], trade: Trade) -> dict[str, Any]:
    price, size = trade.price, trade.size
    if not candle:
        return {
            "open": price, "high": price, "low": price, "close": price,
            "volume": size, "quote_volume": price * size, "count": 1,
        }  # fmt: skip
    return {
        "open": candle["open"],
        "high": max(candle["high"], price),
        "low": min(candle["low"], price),
        "close": price,
        "volume": candle["volume"] + size,
        "quote_volume": candle["quote_volume"] + price * size,
        "count": candle["count"] + 1,
    }


if __name__ == "__main__":
    app.main()
