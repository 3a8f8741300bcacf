"""Candle pages that a worker keeps, held against those it makes anew, while the market goes on."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rig import Worker, get, send, until

from models.times import rfc3339
from models.trade import Heartbeat, Trade
from producers.sink import Sink

pytestmark = pytest.mark.broker

MINUTE, DAY = 60_000_000, 86_400_000_000
START = 1_790_000_040_000_000
"""The beginning of a minute."""
WINDOWS = ("1m", "5m", "1h", "1d")


class Market:
    """One product, and the two ways to ask for its candles."""

    def __init__(self, kafka: str, worker: Worker, symbol: str) -> None:
        self._kafka = kafka
        self.worker = worker
        self.symbol = symbol
        self.last_id = 0
        self.sent = 0
        self._unasked = count(1999, -1)
        """Limits that nobody has asked for, and that no window cuts: no page is kept of them."""

    def trade(self, *at_us: int, skip: int = 0, ids: tuple[int, ...] = ()) -> None:
        """Send a trade for each time, and wait until all are counted."""
        self.last_id += skip
        made = []
        for time_us, trade_id in zip(
            at_us, ids or range(self.last_id + 1, self.last_id + 1 + len(at_us)), strict=True
        ):
            price = Decimal(100 + trade_id % 13)
            made.append(Trade("coinbase", self.symbol, trade_id, price, Decimal(1), "buy", time_us, time_us))
            self.last_id = max(self.last_id, trade_id)
        asyncio.run(send(self._kafka, made))
        self.sent += len(made)
        until(lambda: self.counted(self.worker) == self.sent)

    def beat(self, at_us: int) -> None:
        """Let event time go on without a trade."""

        async def write() -> None:
            async with Sink(self._kafka) as sink:
                await sink.put(Heartbeat("coinbase", self.symbol, self.last_id, at_us, at_us))
                await sink.flush()

        asyncio.run(write())
        until(lambda: self.watermark() == rfc3339(at_us))

    def counted(self, worker: Worker) -> int:
        """Return how many trades a worker has folded."""
        return sum(each["trade_count"] for each in self.whole("window=1d", worker))

    def watermark(self) -> Any:
        """Return how far event time has come."""
        products = get(f"{self.worker.base}/v1/status")[1]["products"]
        return next(each["watermark"] for each in products if each["product_id"] == self.symbol)

    def whole(self, query: str, worker: Worker | None = None) -> list[dict[str, Any]]:
        """Return all candles of a query, read anew."""
        base = (worker or self.worker).base
        status, body = get(f"{base}/v1/candles/{self.symbol}?{query}&limit={next(self._unasked)}")
        return body["candles"] if status == 200 else []

    def assert_pages_are_right(self) -> None:
        """Ask for pages twice over, as they are kept, and hold them against the whole."""
        for window in WINDOWS:
            whole = self.whole(f"window={window}")
            if not whole:
                continue
            ask = f"{self.worker.base}/v1/candles/{self.symbol}?window={window}"
            for _ in range(2):
                assert get(ask)[1]["candles"] == whole[-300:]
                assert get(f"{ask}&limit=3")[1]["candles"] == whole[-3:]
                assert get(f"{ask}&limit=3&order=desc")[1]["candles"] == whole[::-1][:3]
                some = whole[len(whole) // 2]["start_ms"]
                since = [each for each in whole if each["start_ms"] >= some]
                assert get(f"{ask}&start={some}&limit=2")[1]["candles"] == since[:2]
                assert get(f"{ask}&start={some}")[1]["candles"] == since[:300]
                until_ = [each for each in whole if each["start_ms"] < whole[-1]["start_ms"]]
                assert get(f"{ask}&end={whole[-1]['start_ms']}")[1]["candles"] == until_[-300:]
                assert text(f"{ask}&format=csv").splitlines()[1:] == [csv_row(each) for each in whole[-300:]]
            filled = self.whole(f"window={window}&fill=previous&start={whole[0]['start_ms']}")
            assert (
                get(f"{ask}&fill=previous&start={whole[0]['start_ms']}&limit=900")[1]["candles"]
                == filled[:900]
            )


def text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        told: str = answer.read().decode()
    return told


def csv_row(candle: dict[str, Any]) -> str:
    names = [name for name in candle if name not in ("end", "start_ms", "synthetic")]
    ordered = ["start", *(name for name in names if name != "start")]
    return ",".join(str(candle[name]) for name in ordered)


@pytest.fixture
def market(run: Callable[..., Any], kafka: str, tmp_path: Path, request: pytest.FixtureRequest) -> Market:
    symbol = f"P{request.node.name[7:11].upper()}-USD"  # each test has its own
    return Market(kafka, worker_of(run, kafka, tmp_path / "worker", symbol), symbol)


def worker_of(run: Callable[..., Any], kafka: str, folder: Path, app_id: str) -> Worker:
    return Worker(run, kafka, folder, app_id, CANDLEWICK_RATE_PER_S="0", CANDLEWICK_KEEP_1M_DAYS="1")


def test_a_kept_page_is_the_one_that_is_made_anew(market: Market, run, kafka, tmp_path) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    now_us, holes = START, []
    market.trade(now_us)
    steps: list[str] = []

    def check(step: str) -> None:
        steps.append(step)
        market.assert_pages_are_right()

    check("first")
    for _ in range(25):
        step = chance.choice(("within", "next", "far", "late", "hole", "repair", "beat", "opens late"))
        if step == "within":
            now_us += 1_000_000
            market.trade(now_us)
        elif step == "next":
            now_us += MINUTE
            market.trade(now_us, now_us + 1)
        elif step == "far":
            now_us += chance.randrange(2, 300) * MINUTE
            market.trade(now_us)
        elif step == "late":  # into a minute that is closed, with a candle or without
            market.trade(max(START, now_us - chance.randrange(2, 20) * MINUTE))
        elif step == "hole":
            now_us += 30_000_000
            market.trade(now_us, skip=1)
            holes.append((market.last_id - 1, now_us - 1))
        elif step == "repair" and holes:
            trade_id, at_us = holes.pop()
            market.trade(at_us, ids=(trade_id,))
        elif step == "beat":
            now_us += chance.randrange(1, 120) * 1_000_000
            market.beat(now_us)
        elif step == "opens late":  # a candle before the last, where none was, that is not closed yet
            now_us = now_us // MINUTE * MINUTE + 3 * MINUTE + 1_000_000
            market.trade(now_us)
            market.assert_pages_are_right()
            market.trade(now_us - 2_000_000)
        check(step)
    now_us += 2 * DAY  # the one-minute candles of the first days are not kept any more
    for _ in range(3):
        now_us += MINUTE
        market.trade(now_us)
        check("expiry")
        chart = f"{market.worker.base}/udf/history?symbol={market.symbol}&resolution=5&from=0&to=99999999999"
        assert get(chart)[1]["t"] == [each["start_ms"] // 1000 for each in market.whole("window=5m")]
    print(" ".join(steps))
    fresh = worker_of(run, kafka, tmp_path / "fresh", "fresh")
    until(lambda: market.counted(fresh) == market.sent)
    for window in WINDOWS:
        for query in (
            "",
            "&limit=3",
            "&limit=3&order=desc",
            f"&start={START // 1000}&limit=4",
            "&fill=previous",
            "&format=csv",
            "&format=ndjson",
        ):
            path = f"/v1/candles/{market.symbol}?window={window}{query}"
            assert text(market.worker.base + path) == text(fresh.base + path), path


def test_a_page_tells_the_next_one_once_there_is_one(market: Market) -> None:
    """Its candles are the same, and closed: whoever has it must still hear that it goes on."""
    market.trade(*(START + number * MINUTE for number in range(4)))
    market.beat(START + 10 * MINUTE)
    url = f"{market.worker.base}/v1/candles/{market.symbol}?start={START // 1000}&limit=4"
    with urllib.request.urlopen(url, timeout=10) as answer:
        etag, first = answer.headers["ETag"], json.load(answer)
    assert first["next"] is None
    market.trade(START + 10 * MINUTE)
    request = urllib.request.Request(url, headers={"If-None-Match": etag})
    with urllib.request.urlopen(request, timeout=10) as answer:
        second = json.load(answer)
    assert second["candles"] == first["candles"]
    assert second["next"]
