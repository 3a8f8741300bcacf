"""What every candle must be, from the scenario's own list of what it sent; and what was found instead.

Plain dicts and `Decimal`; shares no code with the project, so that no mistake is made twice.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

WINDOWS_S = {"1m": 60, "1h": 3_600, "1d": 86_400}
SUMS = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume")
COUNTS = ("trade_count", "first_trade_id", "last_trade_id")

Key = tuple[str, str, int]
"""Symbol, window, start in seconds since 1970."""
Figures = dict[str, Any]
Candles = dict[Key, Figures]
Record = tuple[bytes | None, bytes | None]
"""Key and value, as a topic holds them."""


def candles(sent: Path, grace_s: int = 10) -> Candles:
    """Compute every candle of a file of sent records, one JSON a line; a trade sent twice counts once."""
    groups: dict[Key, dict[int, dict[str, Any]]] = {}
    watermarks_us: dict[str, int] = {}
    for line in sent.read_bytes().splitlines():
        record = json.loads(line)
        symbol, time_us = record["symbol"], record["event_time_us"]
        watermarks_us[symbol] = max(time_us, watermarks_us.get(symbol, 0))
        if record.get("kind") == "heartbeat":
            continue
        for window, size_s in WINDOWS_S.items():
            start_s = time_us // 1_000_000 // size_s * size_s
            groups.setdefault((symbol, window, start_s), {})[record["trade_id"]] = record
    with decimal.localcontext() as exact:
        exact.prec = 200
        return {
            key: {**_sum_up(list(trades.values())), "state": _state(key, watermarks_us[key[0]], grace_s)}
            for key, trades in groups.items()
        }


def _sum_up(trades: list[dict[str, Any]]) -> Figures:
    trades.sort(key=lambda trade: (trade["event_time_us"], trade["trade_id"]))
    prices = [Decimal(trade["price"]) for trade in trades]
    sizes = [Decimal(trade["size"]) for trade in trades]
    ids = [trade["trade_id"] for trade in trades]
    bought = [size for size, trade in zip(sizes, trades, strict=True) if trade["taker_side"] == "buy"]
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": sum(sizes),
        "quote_volume": sum(price * size for price, size in zip(prices, sizes, strict=True)),
        "buy_volume": sum(bought, Decimal(0)),
        "trade_count": len(trades),
        "first_trade_id": min(ids),
        "last_trade_id": max(ids),
    }


def _state(key: Key, watermark_us: int, grace_s: int) -> str:
    _, window, start_s = key
    return "closed" if watermark_us >= (start_s + WINDOWS_S[window] + grace_s) * 1_000_000 else "open"


def told(candle: dict[str, Any]) -> Figures:
    """Return the figures of a candle as a view or the topic ``candles`` tells it."""
    return {
        **{name: Decimal(candle[name]) for name in SUMS},
        **{name: candle[name] for name in (*COUNTS, "state")},
    }


def in_changelog(records: Iterable[Record]) -> Candles:
    """Return each candle as the last value of its key in the changelog has it; it has no state."""
    last = {key: value for key, value in records if key is not None and key.startswith(b"row/")}
    found = {}
    for key, value in last.items():
        if value is None:
            continue
        _, symbol, window, start = key.decode().removeprefix("row/").split(":")
        candle = json.loads(value)["candle"]
        ids = [number for pair in candle["ids"] for number in pair]
        found[symbol, window, int(start)] = {
            **{name: Decimal(candle[name]) for name in SUMS},
            "trade_count": candle["trade_count"],
            "first_trade_id": min(ids),
            "last_trade_id": max(ids),
        }
    return found


@dataclass
class Told:
    """What the topic ``candles`` tells."""

    candles: Candles
    """By the highest revision of each."""
    stale: list[str]
    """Keys whose last record is not their highest revision: compaction would keep the wrong one."""
    conflicting: list[str]
    """Keys with revisions that were told in two ways."""


def in_topic(records: Iterable[Record]) -> Told:
    """Return each candle of the topic ``candles`` by its highest revision."""
    highest: dict[bytes, tuple[int, bytes]] = {}
    last: dict[bytes, int] = {}
    told_before: dict[tuple[bytes, int], bytes] = {}
    conflicting: set[bytes] = set()
    for key, value in records:
        assert key is not None
        assert value is not None
        revision = json.loads(value)["candle"]["revision"]
        last[key] = revision
        if told_before.setdefault((key, revision), value) != value:
            conflicting.add(key)
        if key not in highest or revision >= highest[key][0]:
            highest[key] = (revision, value)
    found: Candles = {}
    for _, value in highest.values():
        body = json.loads(value)
        found[body["symbol"], body["window"], body["start_ms"] // 1000] = told(body["candle"])
    stale = [key.decode() for key, (revision, _) in highest.items() if last[key] != revision]
    return Told(found, stale, [key.decode() for key in conflicting])


@dataclass(frozen=True)
class Difference:
    """How what was found differs from what must be."""

    lost: int
    """Trades that are missing, in the windows of the size where most are."""
    double: int
    """Trades that are counted too often, likewise."""
    differing: int
    """Candles with any figure that is not the right one; missing ones, and ones too many."""
    of: int

    @property
    def none(self) -> bool:
        return not (self.lost or self.double or self.differing)

    def __str__(self) -> str:
        return f"{self.lost:,} lost, {self.double:,} double, {self.differing:,} of {self.of:,} candles differ"


def compare(expected: Candles, found: Candles) -> Difference:
    """Compare candle by candle, all figures exact."""
    lost, double = dict.fromkeys(WINDOWS_S, 0), dict.fromkeys(WINDOWS_S, 0)
    differing = 0
    for key in expected.keys() | found.keys():
        right, seen = expected.get(key), found.get(key)
        differing += right != seen
        missing = (right or {}).get("trade_count", 0) - (seen or {}).get("trade_count", 0)
        lost[key[1]] += max(0, missing)
        double[key[1]] += max(0, -missing)
    return Difference(max(lost.values()), max(double.values()), differing, len(expected))


def without_state(candles: Candles) -> Candles:
    """Return candles as the changelog has them."""
    return {key: {n: v for n, v in figures.items() if n != "state"} for key, figures in candles.items()}


def closed(candles: Candles) -> Candles:
    """Return the closed candles: those that the topic ``candles`` must tell."""
    return {key: figures for key, figures in candles.items() if figures["state"] == "closed"}
