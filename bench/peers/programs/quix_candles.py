"""Candles with Quix Streams: tumbling windows with `reduce`, an update at each trade.

Money is float, as the state's JSON has it. RocksDB and changelog topics as they come, at least once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from quixstreams import Application
from telling import BROKER, GRACE_S, GROUP, STATE, TOPIC, TRADES, WINDOWS, tell, write

app = Application(
    broker_address=BROKER,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    state_dir=STATE,
    loglevel="WARNING",
)
seen: dict[tuple[str, str, int], dict[str, Any]] = {}
LAST = list(WINDOWS)[-1]
count = 0


def read(trade: dict[str, Any]) -> tuple[float, float]:
    if not seen:
        tell("reading")
    return float(trade["price"]), float(trade["size"])


def first(trade: tuple[float, float]) -> dict[str, Any]:
    price, size = trade
    return {
        "open": price, "high": price, "low": price, "close": price,
        "volume": size, "quote_volume": price * size, "count": 1,
    }  # fmt: skip


def add(candle: dict[str, Any], trade: tuple[float, float]) -> dict[str, Any]:
    price, size = trade
    return {
        "open": candle["open"],
        "high": max(candle["high"], price),
        "low": min(candle["low"], price),
        "close": price,
        "volume": candle["volume"] + size,
        "quote_volume": candle["quote_volume"] + price * size,
        "count": candle["count"] + 1,
    }


def show(window: str, update: dict[str, Any], key: str, _timestamp: int, _headers: Any) -> None:
    global count
    if count == TRADES:
        return
    seen[window, key, update["start"]] = update["value"]
    if window == LAST:
        count += 1
        if count == TRADES:
            tell("folded")
            app.stop()


topic = app.topic(TOPIC, key_deserializer="str", value_deserializer="json")
trades = app.dataframe(topic).apply(read)
for name, seconds in WINDOWS.items():
    window = trades.tumbling_window(duration_ms=seconds * 1000, grace_ms=GRACE_S * 1000)
    window.reduce(reducer=add, initializer=first).current().update(partial(show, name), metadata=True)

if __name__ == "__main__":
    app.run()
    write(
        (name, key.partition(":")[2], start, *candle.values()) for (name, key, start), candle in seen.items()
    )
