"""A log of made-up trades, as an unkind exchange would send them: from a seed, with nothing of ours.

Trades lie 34 minutes across a midnight, so that every window has an edge in it. Each record has a
moment at which it is sent, in event time; the log is in that order.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import NamedTuple

START_S = int(datetime(2026, 9, 21, 23, 43, tzinfo=UTC).timestamp())
SPAN_S = 34 * 60
SHARES = {
    "BTC-USD": 35, "ETH-USD": 20, "LTC-USD": 15, "SOL-USD": 10,
    "LINK-USD": 8, "ADA-USD": 6, "UNI-USD": 4, "BCH-USD": 2,
}  # fmt: skip
"""Symbols, two in each of four partitions, and the percentage of trades that each has."""
HEARTBEAT_S = 20


class Line(NamedTuple):
    """A record of the topic ``trades``."""

    key: bytes
    value: bytes


def made_up(
    rng: random.Random,
    count: int,
    *,
    duplicates: float = 0.01,
    shuffled: float = 0.01,
    late: float = 0.005,
) -> list[Line]:
    """Return a log of ``count`` trades, heartbeats among them.

    Arguments:
        duplicates: share that is sent a second time, from at once to the end of the log.
        shuffled: share that is up to 4 s of event time out of order.
        late: share that comes 75 to 300 s late, so that it amends closed candles.
    """
    symbols = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    last_id = dict.fromkeys(SHARES, 0)
    log: list[tuple[float, int, Line]] = []

    def put(sent_s: float, line: Line) -> None:
        log.append((sent_s, len(log), line))

    beat_s = 0.0
    for number, symbol in enumerate(symbols):
        at_s = SPAN_S * number / count
        while at_s >= beat_s:
            for name, trade_id in last_id.items():
                put(beat_s, heartbeat(name, trade_id, beat_s))
            beat_s += HEARTBEAT_S
        last_id[symbol] += 1
        line = trade(rng, symbol, last_id[symbol], at_s)
        sent_s = at_s
        kind = rng.random()
        if kind < late:
            sent_s += rng.uniform(75, 300)
        elif kind < late + shuffled:
            sent_s += rng.uniform(0, 4)
        put(sent_s, line)
        if rng.random() < duplicates:
            put(sent_s + (rng.uniform(0, 5) if rng.random() < 0.5 else rng.uniform(0, SPAN_S - at_s)), line)
    for name, trade_id in last_id.items():
        # Far enough for the last minute to close, after all that is late.
        put(SPAN_S + 400, heartbeat(name, trade_id, SPAN_S + 75))
    return [line for _, _, line in sorted(log)]


def trade(rng: random.Random, symbol: str, trade_id: int, at_s: float) -> Line:
    """Return a trade ``at_s`` after the start; its price and size have up to ten digits."""
    time_us = START_S * 1_000_000 + round(at_s * 1_000_000)
    body = {
        "exchange": "coinbase", "symbol": symbol, "trade_id": trade_id,
        "price": f"{rng.randint(1, 10**7) / 100:.2f}", "size": f"{rng.randint(1, 10**10) / 10**8:.8f}",
        "taker_side": rng.choice(("buy", "sell")),
        "event_time_us": time_us, "received_time_us": time_us + 20_000, "sequence": None,
    }  # fmt: skip
    return Line(f"coinbase:{symbol}".encode(), json.dumps(body, separators=(",", ":")).encode())


def heartbeat(symbol: str, last_trade_id: int, at_s: float) -> Line:
    """Return a heartbeat ``at_s`` after the start."""
    time_us = START_S * 1_000_000 + round(at_s * 1_000_000)
    body = {
        "kind": "heartbeat", "exchange": "coinbase", "symbol": symbol, "last_trade_id": last_trade_id,
        "event_time_us": time_us, "received_time_us": time_us + 20_000, "sequence": None,
    }  # fmt: skip
    return Line(f"coinbase:{symbol}".encode(), json.dumps(body, separators=(",", ":")).encode())
