"""What every candle must be, from the scenario's own list of what it sent; and what was found instead.

Plain dicts and `Decimal`; shares no code with the project, so that no mistake is made twice.
"""

from __future__ import annotations

import decimal
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

WINDOWS_S = {"1m": 60, "1h": 3_600, "1d": 86_400}
PRICES = ("open", "high", "low", "close")
SUMS = ("volume", "quote_volume", "buy_volume")
DERIVED = ("sell_volume", "vwap")
"""Of the sums; views and topic tell them, the changelog does not keep them."""
COUNTS = ("trade_count", "first_trade_id", "last_trade_id", "missing_trades")
OF_THE_LOG = ("state", "complete", "late_trades")
"""What follows from the order of the log, and not from its trades alone."""

Key = tuple[str, str, int]
"""Symbol, window, start in seconds since 1970."""
Figures = dict[str, Any]
Candles = dict[Key, Figures]
Record = tuple[bytes | None, bytes | None]
"""Key and value, as a topic holds them."""


class Fill(NamedTuple):
    """One trade, as the market or the log tells it."""

    price: str
    size: str
    taker_side: str
    time_us: int


Fills = dict[str, dict[int, Fill]]
"""By symbol and trade id."""


def candles(sent: Path, grace_s: int = 10) -> Candles:
    """Compute every candle of a file of sent records, one JSON a line; a trade sent twice counts once.

    In the end the file has every trade that it speaks of, so all candles are complete.
    """
    fills: Fills = defaultdict(dict)
    late: Counter[Key] = Counter()
    watermarks_us: Counter[str] = Counter()
    last_ids: Counter[str] = Counter()

    def state(key: Key) -> str:
        symbol, window, start_s = key
        end_us = (start_s + WINDOWS_S[window] + grace_s) * 1_000_000
        return "closed" if watermarks_us[symbol] >= end_us else "open"

    for line in sent.read_bytes().splitlines():
        record = json.loads(line)
        symbol, time_us = record["symbol"], record["event_time_us"]
        trade_id = record["last_trade_id" if record.get("kind") == "heartbeat" else "trade_id"]
        if "trade_id" in record and trade_id not in fills[symbol]:
            fills[symbol][trade_id] = Fill(record["price"], record["size"], record["taker_side"], time_us)
            late.update(key for key in keys(symbol, time_us) if state(key) == "closed")
        watermarks_us[symbol] = max(time_us, watermarks_us[symbol])
        last_ids[symbol] = max(trade_id, last_ids[symbol])
    for symbol, last_id in last_ids.items():
        assert len(fills[symbol]) == last_id, f"the log lacks trades of {symbol}"
    return {
        key: {**figures, "state": state(key), "complete": True, "late_trades": late[key]}
        for key, figures in fold(fills).items()
    }


def keys(symbol: str, time_us: int) -> list[Key]:
    """Return the candles that a trade belongs to."""
    time_s = time_us // 1_000_000
    return [(symbol, window, time_s - time_s % size_s) for window, size_s in WINDOWS_S.items()]


def fold(fills: Fills) -> Candles:
    """Compute every candle of these trades: what follows from them alone, when none is missing."""
    groups: dict[Key, list[tuple[int, int, Fill]]] = defaultdict(list)
    for symbol, of_symbol in fills.items():
        for trade_id, fill in of_symbol.items():
            for key in keys(symbol, fill.time_us):
                groups[key].append((fill.time_us, trade_id, fill))
    with decimal.localcontext(decimal.Context(prec=250)):
        return {key: _sum_up(sorted(group)) for key, group in groups.items()}


def _sum_up(trades: list[tuple[int, int, Fill]]) -> Figures:
    rows = [(Decimal(fill.price), Decimal(fill.size), fill.taker_side) for _, _, fill in trades]
    prices = [price for price, _, _ in rows]
    volume = sum(size for _, size, _ in rows)
    quote_volume = sum(price * size for price, size, _ in rows)
    ids = [trade_id for _, trade_id, _ in trades]
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "quote_volume": quote_volume,
        "buy_volume": sum(size for _, size, side in rows if side == "buy"),
        "sell_volume": sum(size for _, size, side in rows if side == "sell"),
        "vwap": decimal.Context(prec=12).divide(Decimal(quote_volume), Decimal(volume)),
        "trade_count": len(ids),
        "first_trade_id": min(ids),
        "last_trade_id": max(ids),
        "missing_trades": 0,
    }


def told(candle: dict[str, Any]) -> Figures:
    """Return the figures of a candle as a view or the topic ``candles`` tells it."""
    return {
        **{name: Decimal(candle[name]) for name in (*PRICES, *SUMS, *DERIVED)},
        **{name: candle[name] for name in (*COUNTS, *OF_THE_LOG)},
    }


def in_changelog(records: Iterable[Record]) -> Candles:
    """Return each candle as the last value of its key in the changelog has it; see `as_kept`."""
    last = {key: value for key, value in records if key is not None and key.startswith(b"row/")}
    found = {}
    for key, value in last.items():
        if value is None:
            continue
        _, symbol, window, start = key.decode().removeprefix("row/").split(":")
        row = json.loads(value)
        candle = row["candle"]
        ids = [number for pair in candle["ids"] for number in pair]
        found[symbol, window, int(start)] = {
            **{name: Decimal(candle[name]) for name in (*PRICES, *SUMS)},
            "trade_count": candle["trade_count"],
            "first_trade_id": min(ids),
            "last_trade_id": max(ids),
            "state": "closed" if row["closed"] else "open",
            "late_trades": row["late_trades"],
            **({name: row[name] for name in ("complete", "missing_trades")} if row["closed"] else {}),
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


def as_kept(candles: Candles) -> Candles:
    """Return candles as the changelog has them: nothing derived; of open ones, nothing of what is missing."""
    of_open = {*DERIVED, "complete", "missing_trades"}
    return {
        key: {
            name: figure
            for name, figure in figures.items()
            if name not in (DERIVED if figures["state"] == "closed" else of_open)
        }
        for key, figures in candles.items()
    }


def closed(candles: Candles) -> Candles:
    """Return the closed candles: those that the topic ``candles`` must tell."""
    return {key: figures for key, figures in candles.items() if figures["state"] == "closed"}
