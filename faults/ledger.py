"""The market's own trades, what Kafka holds of them, and what is said of the two."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from candlewick import topics
from candlewick.mock.products import DEFAULT_PRODUCTS
from faults.truth import Fill, Fills

PRODUCTS = DEFAULT_PRODUCTS


class Ledger:
    """Everything that is in Kafka's topics, read from the beginning while it is written."""

    def __init__(self, bootstrap: str) -> None:
        self.fills: Fills = defaultdict(dict)
        self.copies = 0
        """Trades that are in the log more than once."""
        self.differing: list[tuple[str, str]] = []
        """Symbol and what differs, of trades of one id that are not the same."""
        self.heard_us: dict[str, int] = defaultdict(int)
        """By symbol, our clock when the producer received the newest trade from the feed."""
        self.repaired_us: list[int] = []
        """Times of the trades that came from REST first: those have no sequence."""
        self.letters: list[dict[str, Any]] = []
        self.gaps: dict[str, dict[str, Any]] = {}
        """By key, as they were told last."""
        self.opened: dict[str, dict[str, Any]] = {}
        """By key, as they were told first."""
        self.feeds: dict[str, dict[str, Any]] = {}
        """What producers said last of themselves."""
        self.closes: list[tuple[float, dict[str, Any]]] = []
        """Closed candles as they were told, each with the time when we read it."""
        self._bootstrap = bootstrap
        self._task: asyncio.Task[None] | None = None

    async def start(self, specs: Iterable[Any]) -> None:
        """Read on, until `stop`."""
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that Kafka is away is no news here
        wanted = {topics.TRADES, topics.DEAD_LETTERS, topics.GAPS, topics.CANDLES, topics.FEEDS}
        self._tps = [
            TopicPartition(spec.name, number)
            for spec in specs if spec.name in wanted
            for number in range(spec.partitions)
        ]  # fmt: skip
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Read no more."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def check(self) -> None:
        """Raise what ended the reading, if anything did."""
        if self._task and self._task.done():
            self._task.result()

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign(self._tps)
            await consumer.seek_to_beginning()
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=100, max_records=2000)).items():
                    take = getattr(self, "_" + tp.topic.replace("-", "_"))
                    for record in records:
                        if record.value is not None:
                            take(record, json.loads(record.value))
                await asyncio.sleep(0)
        finally:
            await consumer.stop()

    def _trades(self, record: Any, value: dict[str, Any]) -> None:
        if "trade_id" not in value:
            return  # a heartbeat
        symbol, trade_id = value["symbol"], value["trade_id"]
        fill = Fill(value["price"], value["size"], value["taker_side"], value["event_time_us"])
        known = self.fills[symbol].setdefault(trade_id, fill)
        if known is not fill:
            self.copies += 1
            if Decimal(known.price) != Decimal(fill.price) or known.time_us != fill.time_us:
                self.differing.append((symbol, f"{symbol} {trade_id}: {known} and {fill}"))
        elif value["sequence"] is None:
            self.repaired_us.append(fill.time_us)
        if value["sequence"] is not None:
            self.heard_us[symbol] = max(self.heard_us[symbol], value["received_time_us"])

    def _dead_letters(self, record: Any, value: dict[str, Any]) -> None:
        self.letters.append(value)

    def _gaps(self, record: Any, value: dict[str, Any]) -> None:
        self.gaps[record.key.decode()] = value
        self.opened.setdefault(record.key.decode(), value)

    def _feeds(self, record: Any, value: dict[str, Any]) -> None:
        self.feeds[record.key.decode()] = value

    def _candles(self, record: Any, value: dict[str, Any]) -> None:
        self.closes.append((time.time(), value))

    def letters_held(self) -> Counter[bytes]:
        """Count the dead letters by what they hold."""
        return Counter(map(bytes_of, self.letters))

    def open_gaps(self) -> list[dict[str, Any]]:
        """Return the gaps of the market's products that nobody has repaired."""
        return [gap for gap in self.gaps.values() if gap["state"] == "open" and gap["symbol"] in PRODUCTS]


@dataclass
class Verdict:
    """The market's truth against the log and the worker's candles."""

    trades: int = 0
    lost: int = 0
    """Trades of the market that are not in the topic ``trades``."""
    double: int = 0
    """Trades that the candles hold beyond those of the market, ids that the market never had, and ids
    that are in the log with two meanings."""
    candles: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)
    copies: int = 0
    open_gaps: int = 0
    after_s: float = 0.0
    """From the asking until this was the verdict."""

    @property
    def zero(self) -> bool:
        """The bar Z: 0 lost, 0 double, 0 differing, and no gap is open any more."""
        return self.trades > 0 and not (self.lost or self.double or self.differing or self.open_gaps)

    def __str__(self) -> str:
        told = (
            f"{self.trades:,} trades: {self.lost:,} lost, {self.double:,} double, "
            f"{self.differing} of {self.candles} candles differ, right after {self.after_s:.0f} s"
        )
        if self.open_gaps:
            told += f", {self.open_gaps} gaps not repaired"
        return told if self.zero else told.replace("right after", "still after") + _first(self.examples)


def _first(examples: list[str]) -> str:
    return f" (such as {examples[0]})" if examples else ""


def read_truth(path: Path) -> Fills:
    """Return the market's own fills."""
    fills: Fills = defaultdict(dict)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["kind"] == "trade":
                fill = Fill(row["price"], row["size"], row["taker_side"], row["time_us"])
                fills[row["product_id"]][row["trade_id"]] = fill
    return fills


def now_us() -> int:
    """Return our clock, microseconds since 1970."""
    return time.time_ns() // 1000


def time_text(time_us: int) -> str:
    """Write an instant as the exchange does."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}Z"


def bytes_of(letter: Mapping[str, Any]) -> bytes:
    """Return what a dead letter holds."""
    text = letter.get("text")
    return base64.b64decode(letter["base64"]) if text is None else str(text).encode()


def parse_time(text: str) -> int:
    """Read an instant, as microseconds since 1970."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond
