"""The reference of the topics: how each is kept, and a record of each kind, made by the code."""

from __future__ import annotations

import decimal
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
from shapes import table

from candlewick import config
from candlewick import topics as declared
from candlewick.web.api.openapi import components_of
from models.book import BookDelta, BookKeyframe, BookLost, BookSnapshot
from models.book_stats import BookStats
from models.candle import Candle
from models.dead_letter import DeadLetter, dead_letter_json
from models.decimals import EXACT
from models.gap import Gap
from models.producer_status import ProducerStatus
from models.schemas import SCHEMAS
from models.shown import BookMessage, CandleMessage
from models.times import rfc3339
from models.trade import Heartbeat, Trade
from models.window import BY_NAME

AT = 1_793_534_400_000_000
"""2026-11-01T12:00:00Z, in microseconds."""
SYMBOL = ("coinbase", "BTC-USD")
MINUTE = BY_NAME["1m"]
TRADES = [
    Trade(*SYMBOL, 870_000_001, Decimal("70000.01"), Decimal("0.01"), "buy", AT + 412_000, AT + 443_000, 61),
    Trade(*SYMBOL, 870_000_002, Decimal("70001.5"), Decimal("0.25"), "buy", AT + 910_000, AT + 941_000, 78),
    Trade(*SYMBOL, 870_000_003, Decimal(69999), Decimal("0.004"), "sell", AT + 4_800_000, AT + 4_831_000, 92),
]
BIDS = ((Decimal("70000.01"), Decimal("0.5")), (Decimal("69999.9"), Decimal("1.25")))
ASKS = ((Decimal("70001.5"), Decimal("0.25")), (Decimal(70002), Decimal(3)))
BOOK = (*SYMBOL, AT, AT + 31_000)
CANDLE = ":".join(SYMBOL), MINUTE, AT
STATS = BookStats(
    updates=249, observed_us=60_000_000, in_step_us=60_000_000, two_sided_us=60_000_000,
    spread_time=Decimal(91_200_000), samples=249, spread_open=Decimal("1.4"), spread_min=Decimal("0.6"),
    spread_max=Decimal("8.28"), spread_close=Decimal("1.49"), mid_open=Decimal("70003.3"),
    mid_high=Decimal("70011.2"), mid_low=Decimal("69996.4"), mid_close=Decimal("70000.755"),
    mids=(Decimal("70000.755"), Decimal("70000.9")), best_bid=BIDS[0], best_ask=ASKS[0],
    bid_depth=Decimal("6.75"), ask_depth=Decimal("9.5"), in_step=True,
)  # fmt: skip
FEED = ProducerStatus(
    "coinbase", "producer", "connected", ("BTC-USD", "ETH-USD"), 1, 1, 0, 48_211, 0, 0, 3, None, AT
)


def _candle() -> CandleMessage:
    with decimal.localcontext(EXACT):
        return CandleMessage.of(*CANDLE, candle=Candle.of(TRADES).figures(closed=True, complete=True))


def _records() -> dict[str, list[tuple[type, bytes]]]:
    """Return, by topic, each type of its records with an example."""
    beat = Heartbeat(*SYMBOL, 870_000_003, AT + 49_000_000, AT + 49_031_000)
    times = [rfc3339(AT + seconds * 1_000_000) for seconds in (9, 48, 48)]
    gap = Gap(*SYMBOL, 870_000_003, 870_000_007, 5, "open", "jump", *times)
    letter = dead_letter_json(b'{"type":"match","price":"NaN"}', "wss://exchange", "price: not finite", AT)
    stats = BookMessage.of(*CANDLE, book=STATS.figures(closed=True))
    return {
        declared.TRADES: [(Trade, TRADES[0].to_json()), (Heartbeat, beat.to_json())],
        declared.BOOKS: [
            (BookSnapshot, BookSnapshot(*BOOK, BIDS, ASKS).to_json()),
            (BookKeyframe, BookKeyframe(*BOOK, BIDS, ASKS).to_json()),
            (BookDelta, BookDelta(*BOOK, BIDS[:1], ()).to_json()),
            (BookLost, BookLost(*BOOK, "jump of trade ids").to_json()),
        ],
        declared.CANDLES: [(CandleMessage, msgspec.json.encode(_candle()))],
        declared.BOOK_STATS: [(BookMessage, msgspec.json.encode(stats))],
        declared.GAPS: [(Gap, msgspec.json.encode(gap))],
        declared.DEAD_LETTERS: [(DeadLetter, letter)],
        declared.FEEDS: [(ProducerStatus, msgspec.json.encode(FEED))],
    }


def topic(name: str) -> str:
    """Return how a topic is kept, its records with an example of each, and their fields."""
    spec = next(spec for spec in declared.specs(config.Settings()) if spec.name == name)
    parts = [f"{_partitions(spec.partitions)}; {_kept(spec.config)}."]
    for kind, value in _records()[name]:
        header = f"Header `schema`: `{SCHEMAS[kind].decode()}`." if kind in SCHEMAS else "No headers."
        about = (kind.__doc__ or "").strip().splitlines()[0].replace("``", "`")
        fields = table(_fields(kind))
        parts += [f"**{kind.__name__}.** {about} {header}", f"```json\n{_broken(value)}\n```", fields]
    return "\n\n".join(parts)


def changelogs() -> str:
    """Return the names of the topics that only workers read."""
    names = [spec.name for spec in declared.specs(config.Settings()) if spec.name not in _records()]
    return ", ".join(f"`{name}`" for name in names)


def _partitions(count: int) -> str:
    return "One partition" if count == 1 else f"{count} partitions (`CANDLEWICK_PARTITIONS`)"


def _kept(spec: Mapping[str, str]) -> str:
    if spec["cleanup.policy"] == "compact":
        return "compacted: the last record of each key stays"
    days = int(spec["retention.ms"]) / 86_400_000
    return f"records stay {days:g} days (`CANDLEWICK_RETENTION_DAYS`)"


def _fields(kind: type) -> dict[str, Any]:
    """Return the schema of a record; the fields of what stands in it are named ``candle.open``."""
    _, components = components_of([kind])
    schema = components[kind.__name__]
    for name, field in list(schema["properties"].items()):
        if "$ref" in field:
            inner = components[field["$ref"].rpartition("/")[2]]["properties"]
            schema["properties"] |= {f"{name}.{each}": told for each, told in inner.items()}
            schema["required"] += [f"{name}.{each}" for each in inner]
    return dict(schema)


def _broken(value: bytes) -> str:
    """Return a record on lines of at most 100 characters; in the topic it is one line."""
    lines = [""]
    for piece in _pieces(value.decode()):
        if len(lines[-1]) + len(piece) > 100:
            lines.append(" ")
        lines[-1] += piece
    assert json.loads("".join(lines))
    return "\n".join(lines)


def _pieces(text: str) -> list[str]:
    """Cut JSON after each comma between the fields of an object."""
    pieces = [""]
    quoted, brackets = False, 0
    for before, char in zip(" " + text, text, strict=False):
        pieces[-1] += char
        if char == '"' and before != "\\":
            quoted = not quoted
        elif not quoted:
            brackets += (char == "[") - (char == "]")
            if char == "," and not brackets:
                pieces.append("")
    return pieces
