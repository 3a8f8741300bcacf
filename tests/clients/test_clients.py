"""Clients that others wrote, on a real worker: what they make of it is what we keep."""

from __future__ import annotations

import csv
import io
import json
import time
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from rig import get

from models.window import window_named

pytestmark = pytest.mark.broker

FRAMES = ("1m", "5m", "15m", "1h", "6h", "1d")
HISTORY, LIVE = "HIS-USD", "BTC-USD"


def candles(base: str, query: str, product_id: str = HISTORY) -> list[dict[str, Any]]:
    status, body = get(f"{base}/v1/candles/{product_id}?{query}")
    assert status == 200, body
    found: list[dict[str, Any]] = body["candles"]
    return found


def ohlcv(found: list[dict[str, Any]]) -> list[list[float]]:
    """Return candles as ccxt has them."""
    names = ("open", "high", "low", "close", "volume")
    return [[candle["start_ms"], *(float(candle[name]) for name in names)] for candle in found]


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        whole: bytes = answer.read()
    return whole


@pytest.fixture(scope="module")
def ccxt(read_by: Callable[[str], Any]) -> Any:
    return read_by("ccxt_reads.py")


@pytest.mark.parametrize("frame", FRAMES)
def test_ccxts_candles_are_ours(market, ccxt, frame: str) -> None:
    told = ccxt["sync"][f"ohlcv {frame}"]
    ours = ohlcv(candles(market.base, f"window={frame}&limit=5000"))
    window = window_named(frame)
    assert window
    # Coinbase's 300 windows end with the newest, and many have no trade.
    first_ms = ours[-1][0] - 299 * window.size_us // 1000
    assert told == [row for row in ours if row[0] >= first_ms]


def test_ccxt_reads_on_from_a_time_and_page_by_page(market, ccxt) -> None:
    ours = ohlcv(candles(market.base, "window=5m&limit=5000"))
    since = 1_789_900_000_000 - 1_789_900_000_000 % 300_000
    size = 300_000
    assert ccxt["sync"]["ohlcv since"] == [row for row in ours if since <= row[0] < since + 50 * size]
    assert ccxt["sync"]["ohlcv within"] == [row for row in ours if since < row[0] <= since + 50 * size][:50]
    hours = ohlcv(candles(market.base, "window=1h&limit=5000"))
    assert ccxt["sync"]["ohlcv pages"] == [row for row in hours if row[0] >= 1_789_900_000_000]


def test_ccxt_knows_our_markets_and_currencies(ccxt) -> None:
    markets = ccxt["sync"]["markets"]
    assert sorted(markets) == ["BTC/USD", "ETH/USD", "HIS/USD"]
    assert all(each["active"] and each["spot"] for each in markets.values())
    assert sorted(ccxt["sync"]["currencies"]) == ["BTC", "ETH", "HIS", "USD"]


def test_ccxts_tickers_book_and_trades_are_ours(market, ccxt) -> None:
    told = ccxt["sync"]
    ours = get(f"{market.base}/v1/ticker/{LIVE}")[1]
    assert (told["ticker"]["last"], told["ticker"]["bid"], told["ticker"]["ask"]) == (
        float(ours["price"]), float(ours["bid"]), float(ours["ask"]),
    )  # fmt: skip
    assert told["ticker"]["timestamp"] == ours["time_ms"]
    assert told["ticker"]["baseVolume"] == told["stats"]["baseVolume"] > 0
    day = candles(market.base, "window=1m&limit=5000", LIVE)
    assert told["stats"]["high"] == max(float(candle["high"]) for candle in day)
    assert told["stats"]["low"] == min(float(candle["low"]) for candle in day)
    assert told["stats"]["open"] == float(day[0]["open"])
    assert told["stats"]["baseVolume"] == float(sum(Decimal(candle["volume"]) for candle in day))
    assert sorted(told["tickers"]) == ["BTC/USD", "ETH/USD", "HIS/USD"]
    assert told["tickers"]["BTC/USD"]["last"] == float(ours["price"])
    book = get(f"{market.base}/v1/book/{LIVE}?depth=5000")[1]
    for side in ("bids", "asks"):
        assert len(book[side]) > 10
        assert told["book"][side] == [[float(price), float(size), 1] for price, size in book[side]]
    assert told["book"]["nonce"] > 0
    assert len(told["trades"]) == 100
    assert told["trades"][-1]["id"] == str(ours["trade_id"])
    assert told["trades"][-1]["side"] == ours["side"]  # ccxt turns the maker's side into the taker's
    assert [each["timestamp"] for each in told["trades"]] == sorted(
        each["timestamp"] for each in told["trades"]
    )
    assert [each["id"] for each in told["few trades"]] == [each["id"] for each in told["trades"][-7:]]
    assert abs(told["time"] - time.time() * 1000) < 600_000


def test_ccxt_understands_what_is_refused(ccxt) -> None:
    kind, text = ccxt["sync"]["unknown"]
    assert kind == "ExchangeError"
    assert "NONE-USD" in text
    kind, text = ccxt["sync"]["too wide"]
    assert "granularity" in text


def test_ccxt_reads_our_own_form_of_its_candles(market, ccxt) -> None:
    assert ccxt["sync"]["own form"] == ohlcv(candles(market.base, "window=5m&limit=40"))


def test_ccxts_asynchronous_version_reads_the_same(ccxt) -> None:
    for name, told in ccxt["async"].items():
        if name == "book":
            assert (told["bids"], told["asks"]) == (
                ccxt["sync"]["book"]["bids"],
                ccxt["sync"]["book"]["asks"],
            )
        else:
            assert told == ccxt["sync"][name]


def test_a_client_of_coinbases_public_api_reads_everything(market, read_by) -> None:
    told = read_by("coinbasepro_reads.py")
    assert [each["id"] for each in told["products"]] == ["BTC-USD", "ETH-USD", "HIS-USD"]
    book = get(f"{market.base}/v1/book/{LIVE}?depth=5000")[1]
    for side in ("bids", "asks"):
        ours = [[Decimal(price), Decimal(size)] for price, size in book[side]]
        assert [[Decimal(level[0]), Decimal(level[1])] for level in told["book 2"][side]] == ours
        assert [[Decimal(level[0]), Decimal(level[1])] for level in told["book 1"][side]] == ours[:1]
    ticker = get(f"{market.base}/v1/ticker/{LIVE}")[1]
    assert Decimal(told["ticker"]["price"]) == Decimal(ticker["price"])
    assert len(told["trades"]) == 100
    assert told["trades"][0]["trade_id"] == ticker["trade_id"]
    hours = candles(market.base, "window=1h&limit=300")
    assert [Decimal(each["volume"]) for each in told["rates"]] == [
        Decimal(each["volume"]) for each in hours[::-1]
    ]
    day = candles(market.base, "window=15m&start=2026-09-21T00:00:00Z&end=2026-09-22T00:15:00Z&order=desc")
    assert [Decimal(each["close"]) for each in told["rates of a day"]] == [
        Decimal(each["close"]) for each in day
    ]
    assert Decimal(told["stats"]["last"]) == Decimal(ticker["price"])
    assert sorted(each["id"] for each in told["currencies"]) == ["BTC", "ETH", "HIS", "USD"]
    assert abs(float(told["time"]["epoch"]) - time.time()) < 600
    kind, text = told["unknown"]
    assert "NONE-USD" in text


def test_csv_and_ndjson_hold_every_figure(market) -> None:
    found = candles(market.base, "window=15m&limit=5000")
    query = f"{market.base}/v1/candles/{HISTORY}?window=15m&limit=5000"
    rows = list(csv.DictReader(io.StringIO(fetch(query + "&format=csv").decode(), newline="")))
    assert len(rows) == len(found)
    for row, candle in zip(rows, found, strict=True):
        assert row == {name: str(candle[name]) for name in row}
        assert candle.keys() - row.keys() == {"end", "start_ms"}
    lines = fetch(query + "&format=ndjson").decode().splitlines()
    assert [json.loads(line) for line in lines] == found
