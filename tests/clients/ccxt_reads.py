"""What ccxt reads of a Coinbase Exchange at another address; run in the clients' environment, prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import ccxt
import ccxt.async_support

BASE, HISTORY, LIVE = sys.argv[1:4]
OPTIONS = {"urls": {"api": {"public": BASE}}, "enableRateLimit": False}
SYMBOL, BOOK = HISTORY.replace("-", "/"), LIVE.replace("-", "/")
FIRST_MS = 1_789_900_000_000
MINUTE_MS = 60_000


def refusal(call: Any, *args: Any) -> list[str]:
    """Return what ccxt makes of an answer that refuses: the class of its error, and its text."""
    try:
        call(*args)
    except ccxt.BaseError as error:
        return [type(error).__name__, str(error)]
    raise AssertionError("it was not refused")


def read() -> dict[str, Any]:
    """Ask everything that ccxt has of the public API."""
    exchange = ccxt.coinbaseexchange(OPTIONS)
    told: dict[str, Any] = {"markets": exchange.load_markets(), "currencies": exchange.fetch_currencies()}
    for frame in ("1m", "5m", "15m", "1h", "6h", "1d"):
        told[f"ohlcv {frame}"] = exchange.fetch_ohlcv(SYMBOL, frame)
    since = FIRST_MS - FIRST_MS % (5 * MINUTE_MS)
    told["ohlcv since"] = exchange.fetch_ohlcv(SYMBOL, "5m", since=since, limit=50)
    told["ohlcv within"] = exchange.fetch_ohlcv(SYMBOL, "5m", since=since + 7, limit=50)
    # Pages reach so many times 300 windows back from the present: four months.
    told["ohlcv pages"] = exchange.fetch_ohlcv(
        SYMBOL, "1h", since=FIRST_MS, params={"paginate": True, "paginationCalls": 10}
    )
    told["ticker"] = exchange.fetch_ticker(BOOK)
    exchange.options["fetchTickerMethod"] = "publicGetProductsIdStats"
    told["stats"] = exchange.fetch_ticker(BOOK)
    told["tickers"] = exchange.fetch_tickers()
    told["book"] = exchange.fetch_order_book(BOOK)
    told["trades"] = exchange.fetch_trades(BOOK)
    told["few trades"] = exchange.fetch_trades(BOOK, limit=7)
    told["time"] = exchange.fetch_time()
    told["unknown"] = refusal(exchange.publicGetProductsIdTicker, {"id": "NONE-USD"})
    told["too wide"] = refusal(
        exchange.publicGetProductsIdCandles,
        {"id": HISTORY, "granularity": 60, "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
    )
    rows = exchange.fetch(f"{BASE}/v1/candles/{HISTORY}?window=5m&limit=40&format=ccxt")
    told["own form"] = ccxt.Exchange().parse_ohlcvs(rows)
    return told


async def read_async() -> dict[str, Any]:
    """Ask some of it once more, of the asynchronous version."""
    exchange = ccxt.async_support.coinbaseexchange(OPTIONS)
    try:
        candles, book, trades = await asyncio.gather(
            exchange.fetch_ohlcv(SYMBOL, "1h"), exchange.fetch_order_book(BOOK), exchange.fetch_trades(BOOK)
        )
    finally:
        await exchange.close()
    return {"ohlcv 1h": candles, "book": book, "trades": trades}


if __name__ == "__main__":
    json.dump({"sync": read(), "async": asyncio.run(read_async())}, sys.stdout)
