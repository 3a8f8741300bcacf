"""Values as a worker answers them, for the tests of the terminal."""

from __future__ import annotations

from typing import Any

import msgspec

from candlewick.terminal.events import Event
from models.answers import (
    BookStatus,
    CandleItem,
    LiveCandle,
    ProductStatus,
    Snapshot,
    Status,
    Ticker,
    WorkerStatus,
)
from models.producer_status import ProducerStatus
from models.times import rfc3339

START_US = 1_795_264_620_000_000
"""2026-11-21T12:37:00Z."""
MINUTE_US = 60_000_000


def candle(minute: int = 0, **fields: Any) -> CandleItem:
    """Return a candle of so many minutes after the first."""
    start_us = START_US + minute * MINUTE_US
    told = {
        "open": "83423.23", "high": "83435.83", "low": "83411.91", "close": "83421.85", "volume": "0.57453361",
        "quote_volume": "47931.1251450497", "vwap": "83426.1465488", "trade_count": 79, "buy_volume": "0.23639653",
        "sell_volume": "0.33813708", "first_trade_id": 1000 + minute * 79, "last_trade_id": 1078 + minute * 79,
        "state": "closed", "complete": True, "late_trades": 0, "missing_trades": 0, "revision": 0,
        "start": rfc3339(start_us), "end": rfc3339(start_us + MINUTE_US), "start_ms": start_us // 1000,
    }  # fmt: skip
    return CandleItem(**{**told, **fields})


def live(item: CandleItem, window: str = "1m") -> LiveCandle:
    """Return a candle as a stream tells it."""
    fields = msgspec.structs.asdict(item)
    return LiveCandle(**fields, exchange="coinbase", product_id="BTC-USD", window=window)


def candle_event(item: CandleItem, window: str = "1m") -> Event:
    """Return the event of a candle."""
    return Event("candle", "3-100", msgspec.json.encode(live(item, window)))


def snapshot_event(items: list[CandleItem], window: str = "1m") -> Event:
    """Return the event with which a stream begins."""
    told = Snapshot(
        channel="candles", exchange="coinbase", product_id="BTC-USD", window=window, candles=items
    )
    return Event("snapshot", "3-100", msgspec.json.encode(told))


def ticker(price: str = "83475.14", trade_id: int = 5000, **fields: Any) -> Ticker:
    """Return a ticker."""
    told = {
        "exchange": "coinbase", "product_id": "BTC-USD", "trade_id": trade_id, "price": price, "size": "0.01",
        "side": "buy", "time": rfc3339(START_US), "time_ms": START_US // 1000,
        "bid": "83468.64", "bid_size": "1", "ask": "83472.53", "ask_size": "2",
    }  # fmt: skip
    return Ticker(**{**told, **fields})


def ticker_event(told: Ticker | None) -> Event:
    """Return the event of a ticker."""
    return Event("ticker", "3-100", msgspec.json.encode(told))


def product(product_id: str = "BTC-USD", book: str = "in step", **fields: Any) -> ProductStatus:
    """Return a product's part of the status."""
    told = {
        "exchange": "coinbase", "product_id": product_id, "partition": 3, "price": "83475.14",
        "last_trade_id": 5000, "last_trade_time": rfc3339(START_US), "last_trade_age_ms": 400, "feed_latency_ms": 30,
        "watermark": rfc3339(START_US), "trades_1m": 79, "trades_1d": 12_345, "gaps": 0, "missing_trades": 0,
        "duplicates": 0,
        "book": BookStatus(
            state=book, highest_bid="83468.64", lowest_ask="83472.53", spread="3.89", mid="83470.585", age_ms=20,
        ),
    }  # fmt: skip
    return ProductStatus(**{**told, **fields})


def feed(producer: str = "up", **fields: Any) -> ProducerStatus:
    """Return a producer's word."""
    told = {
        "exchange": "coinbase", "producer": producer, "state": "connected", "products": ("BTC-USD", "ETH-USD"),
        "connections": 1, "connected_connections": 1, "reconnects": 0, "frames": 4711, "refused_frames": 0,
        "dead_letters": 0, "unacked": 0, "error": None, "updated_us": START_US,
    }  # fmt: skip
    return ProducerStatus(**{**told, **fields})


def worker(**fields: Any) -> WorkerStatus:
    """Return a worker's part of the status."""
    return WorkerStatus(
        **{"url": "http://127.0.0.1:6066", "ready": True, "lag_records": 0, "lag": {}, **fields}
    )


def status(**fields: Any) -> Status:
    """Return a status in which all is well."""
    told = {"feeds": [feed()], "workers": [worker()], "products": [product(), product("ETH-USD")]}
    return Status(**{**told, **fields})
