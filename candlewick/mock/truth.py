"""What the simulated market really did, for comparing with what a pipeline made of it.

Everything is counted here from the market's own fills, in whole ticks and units, without any of
the code that is to be judged. A file of JSON lines::

    {"kind":"trade","product_id":…,"trade_id":…,"price":…,"size":…,"taker_side":…,"time_us":…}
    {"kind":"candle","product_id":…,"start_us":…,"open":…,"high":…,"low":…,"close":…,"volume":…,
     "quote_volume":…,"trade_count":…,"first_trade_id":…,"last_trade_id":…}
    {"kind":"book","product_id":…,"time_us":…,"best_bid":[price,size],"best_ask":…,"bids":[…],"asks":[…]}

Trades are written as they happen, candles (one minute, by event time) and books at `finish`.
Decimals are strings; the last match before the market opened counts, as it does for a client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from candlewick.mock.products import Product, decimal_text

MINUTE_US = 60_000_000


class _Minute:
    __slots__ = ("close", "count", "first", "high", "last", "low", "open", "quote", "volume")

    def __init__(self, trade_id: int, ticks: int) -> None:
        self.open = self.high = self.low = self.close = ticks
        self.volume = self.quote = self.count = 0
        self.first = self.last = trade_id


Levels = list[tuple[int, int]]
"""Ticks and units, best first."""


class Truth:
    """The file of truth of one market."""

    def __init__(self, path: Path | str) -> None:
        self._stream: TextIO | None = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 finish() closes
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def trade(
        self, product: Product, trade_id: int, ticks: int, units: int, taker_side: str, time_us: int
    ) -> None:
        """Note one fill; a market's fills come in the order of their ids."""
        if self._stream is None:
            return
        self._stream.write(
            f'{{"kind":"trade","product_id":"{product.id}","trade_id":{trade_id},'
            f'"price":"{product.price_text(ticks)}","size":"{product.size_text(units)}",'
            f'"taker_side":"{taker_side}","time_us":{time_us}}}\n'
        )
        key = product.id, time_us // MINUTE_US
        minute = self._minutes.get(key)
        if minute is None:
            minute = self._minutes[key] = _Minute(trade_id, ticks)
        if ticks > minute.high:
            minute.high = ticks
        elif ticks < minute.low:
            minute.low = ticks
        minute.close = ticks
        minute.volume += units
        minute.quote += ticks * units
        minute.count += 1
        minute.last = trade_id

    def finish(self, books: Iterable[tuple[Product, int, Levels, Levels]]) -> None:
        """Write the candles and the books (product, time, bids, asks), and end the file."""
        if self._stream is None:
            return
        for product, time_us, bids, asks in books:
            for (product_id, number), minute in sorted(self._minutes.items()):
                if product_id == product.id:
                    self._write(_candle(product, number, minute))
            self._write(_book(product, time_us, bids, asks))
        self._stream.close()
        self._stream = None

    def _write(self, row: dict[str, object]) -> None:
        assert self._stream is not None
        self._stream.write(json.dumps(row, separators=(",", ":")) + "\n")


def _candle(product: Product, number: int, minute: _Minute) -> dict[str, object]:
    return {
        "kind": "candle",
        "product_id": product.id,
        "start_us": number * MINUTE_US,
        "open": product.price_text(minute.open),
        "high": product.price_text(minute.high),
        "low": product.price_text(minute.low),
        "close": product.price_text(minute.close),
        "volume": product.size_text(minute.volume),
        "quote_volume": decimal_text(minute.quote, product.price_digits + product.size_digits),
        "trade_count": minute.count,
        "first_trade_id": minute.first,
        "last_trade_id": minute.last,
    }


def _book(product: Product, time_us: int, bids: Levels, asks: Levels) -> dict[str, object]:
    def rows(levels: Levels) -> list[list[str]]:
        return [[product.price_text(ticks), product.size_text(units)] for ticks, units in levels]

    bid_rows, ask_rows = rows(bids), rows(asks)
    return {
        "kind": "book",
        "product_id": product.id,
        "time_us": time_us,
        "best_bid": bid_rows[0],
        "best_ask": ask_rows[0],
        "bids": bid_rows,
        "asks": ask_rows,
    }
