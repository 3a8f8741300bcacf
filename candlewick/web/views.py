"""The views: statistics of a product, health, readiness, status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import msgspec

from agents import books
from candlewick import config
from candlewick.app import app
from candlewick.web import feeds, peers
from candlewick.web.problems import (
    CONTENT_TYPE,
    Problem,
    bad_parameter,
    no_data,
    plain_answers,
    recovering,
    unknown_product,
    unknown_window,
)
from models.book_stats import BookStatsRow
from models.tape import describe
from models.times import parse_time, rfc3339
from models.window import BY_NAME, Window
from tables import book_stats, candles

app.web.web_app.middlewares.append(plain_answers)
# A request that is no HTTP, or has a line too long, is answered 400; it is not worth a traceback.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)

STATS_PARAMETERS = {"at", "closed", "exchange"}

View = Callable[..., Awaitable[Any]]


def page(path: str) -> Callable[[View], View]:
    """Serve a coroutine at a path; what it returns is JSON, what it raises as `Problem` too."""

    def register(view: View) -> View:
        @app.page(path, name=view.__name__)
        @wraps(view)
        async def handle(web: Any, request: Any, **parts: str) -> Any:
            try:
                answer = await view(request, **parts)
            except Problem as problem:
                return web.bytes(
                    problem.body(request.path),
                    content_type=CONTENT_TYPE,
                    status=problem.status,
                    headers=problem.headers,
                )
            if isinstance(answer, peers.Answer):
                return web.bytes(
                    answer.body,
                    content_type=answer.content_type,
                    status=answer.status,
                    headers=answer.headers,
                )
            return web.bytes(
                msgspec.json.encode(answer),
                content_type="application/json",
                headers={"Cache-Control": "no-cache"},
            )

        registered: View = handle
        return registered

    return register


@page("/stats/{window}/{product_id}")
async def stats(request: Any, window: str, product_id: str) -> Any:
    """The candle and the book statistics of a window: the last, the last closed, or the one at a time."""
    if window not in BY_NAME:
        raise unknown_window(window[:50], list(BY_NAME))
    if not config.PRODUCT_ID.match(product_id):
        raise unknown_product(product_id[:50], request.query.get("exchange", "coinbase"))
    unknown = sorted(set(request.query) - STATS_PARAMETERS)
    if unknown:
        raise bad_parameter(unknown[0][:50], f"is not one of {', '.join(sorted(STATS_PARAMETERS))}")
    exchange = request.query.get("exchange", "coinbase")
    at_us = time_parameter(request, "at")
    closed = flag_parameter(request, "closed")
    if at_us is not None and closed:
        raise bad_parameter("closed", "goes with the last window, not with at")
    if not peers.is_ready():
        raise recovering("this worker is reading its tables back")
    symbol_key = f"{exchange}:{product_id}"
    partition = peers.partition_of(symbol_key)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    return describe_stats(partition, exchange, product_id, BY_NAME[window], at_us, closed)


def describe_stats(
    partition: int, exchange: str, product_id: str, window: Window, at_us: int | None, closed: bool
) -> dict[str, Any]:
    """Return the body of `stats`, from this worker's tables.

    Without a time these are the last candle and the last book statistics of that window. In a
    minute without a trade so far they are not of the same minute, so the book tells its own start.
    """
    symbol_key = f"{exchange}:{product_id}"
    tape = candles.state(partition, symbol_key)
    book = book_stats.state(partition, symbol_key)
    if tape is None and book is None:
        if product_id in feeds.products(exchange):
            raise no_data(f"no trade and no book of {product_id} yet")
        raise unknown_product(product_id, exchange)
    name = window.name
    starts: list[int | None]
    if at_us is not None:
        starts = [window.start_of(at_us)] * 2
    elif closed:
        # A book's window is over with its last frame, a candle's only after the grace: the candle leads.
        state = tape or book
        starts = [state.latest_closed.get(name) if state else None] * 2
    else:
        starts = [state.latest.get(name) if state else None for state in (tape, book)]
    candle = candles.at(partition, symbol_key, name, starts[0]) if starts[0] is not None else None
    row = book_stats.at(partition, symbol_key, name, starts[1]) if starts[1] is not None else None
    if candle is None and row is None:
        when = "" if at_us is None else f" at {rfc3339(window.start_of(at_us))}"
        which = "closed " if closed else ""
        raise no_data(f"no trade and no book of {product_id} in a {which}{name} window{when}")
    start_us = candle.start_us if candle else starts[1]
    assert start_us is not None
    return {
        "exchange": exchange,
        "product_id": product_id,
        "window": name,
        "start": rfc3339(start_us),
        "end": rfc3339(window.end_of(start_us)),
        "start_ms": start_us // 1000,
        "candle": describe(window, candle.start_us, candle.row, candle.state)["candle"] if candle else None,
        "book": describe_book(partition, symbol_key, starts[1], row)
        if row and starts[1] is not None
        else None,
    }


def describe_book(partition: int, symbol_key: str, start_us: int, row: BookStatsRow) -> dict[str, Any]:
    """Return a window's book statistics; whether the book is in step is said as of now."""
    live = books.folding.tapes.get((partition, symbol_key))
    return {
        "start": rfc3339(start_us),
        **row.stats.figures(),
        "state": "closed" if row.closed else "open",
        "in_step": row.stats.in_step if row.closed else live is not None and live.in_step,
    }


@page("/healthz")
async def healthz(request: Any) -> Any:
    """200 while the process is well."""
    return {"status": "ok"}


@page("/readyz")
async def readyz(request: Any) -> Any:
    """200 once tables are recovered and a feed is connected."""
    waiting = []
    if not peers.is_ready():
        waiting.append("tables are being recovered")
    if not feeds.connected():
        waiting.append("no feed is connected")
    if waiting:
        raise Problem(503, "not-ready", "Not ready", " and ".join(waiting), retry_after_s=1)
    return {"status": "ready"}


@page("/v1/status")
async def status(request: Any) -> Any:
    """Each product's last trade, candle, book and lag, of all workers; ``?local=true`` of this one."""
    local = flag_parameter(request, "local")
    answer = describe_status()
    if not local:
        await add_others(answer)
    return answer


async def add_others(answer: dict[str, Any]) -> None:
    """Add what the other workers say to this one's status."""
    urls = sorted(peers.others())
    answers = await asyncio.gather(
        *(peers.ask(url, "/v1/status?local=true") for url in urls), return_exceptions=True
    )
    for url, other in zip(urls, answers, strict=True):
        if isinstance(other, peers.Answer) and other.status == 200:
            told = msgspec.json.decode(other.body)
            answer["workers"] += told["workers"]
            answer["products"] = sorted(answer["products"] + told["products"], key=_by_name)
        else:
            answer["workers"].append({"url": str(url), "ready": False, "error": str(other)[:200]})


def describe_status() -> dict[str, Any]:
    """Return this worker's part of the status."""
    ready = peers.is_ready()
    lag = (
        {f"{tp.topic}-{tp.partition}": records for tp, records in sorted(app.consumer.lag().items())}
        if ready
        else {}
    )
    products = []
    if ready:
        for partition in sorted(p for p, url in peers.owners().items() if peers.is_ours(p)):
            keys = {
                *candles.table.rows(partition).symbol_keys(),
                *book_stats.table.rows(partition).symbol_keys(),
            }
            products += [describe_product(partition, key) for key in keys]
    return {
        "feeds": list(feeds.known.values()),
        "workers": [
            {
                "url": str(app.conf.canonical_url),
                "ready": ready,
                "lag_records": sum(lag.values()),
                "lag": {name: records for name, records in lag.items() if records},
            }
        ],
        "products": sorted(products, key=_by_name),
    }


def describe_product(partition: int, symbol_key: str) -> dict[str, Any]:
    """Return one product's line of the status. Ages are by our clock, from the time of receipt."""
    exchange, symbol = symbol_key.split(":", 1)
    now_us = time.time_ns() // 1000
    tape = candles.state(partition, symbol_key)
    book = book_stats.state(partition, symbol_key)
    live = books.folding.tapes.get((partition, symbol_key))
    trade = tape.last_trade if tape else None
    minute = candles.latest(partition, symbol_key, "1m")
    day = candles.latest(partition, symbol_key, "1d")
    row = (
        book_stats.at(partition, symbol_key, "1m", book.latest["1m"])
        if book and "1m" in book.latest
        else None
    )
    figures = row.stats.figures() if row else {}
    return {
        "exchange": exchange,
        "product_id": symbol,
        "partition": partition,
        "price": format(trade.price, "f") if trade else None,
        "last_trade_id": trade.trade_id if trade else None,
        "last_trade_time": rfc3339(trade.event_time_us) if trade else None,
        "last_trade_age_ms": max(0, now_us - trade.received_time_us) // 1000 if trade else None,
        "watermark": rfc3339(tape.watermark_us) if tape else None,
        "trades_1m": minute.row.candle.trade_count if minute else 0,
        "trades_1d": day.row.candle.trade_count if day else 0,
        "gaps": len(tape.ledger.gaps) if tape else 0,
        "missing_trades": sum(hole.last - hole.first + 1 for hole in tape.ledger.holes) if tape else 0,
        "duplicates": tape.duplicates if tape else 0,
        "book": {
            "state": "none"
            if book is None
            else "in step"
            if live is not None and live.in_step
            else "out of step",
            "highest_bid": figures.get("highest_bid"),
            "lowest_ask": figures.get("lowest_ask"),
            "spread": figures.get("spread"),
            "mid": figures.get("mid"),
            "age_ms": max(0, now_us - book.received_time_us) // 1000 if book else None,
        },
    }


def time_parameter(request: Any, name: str) -> int | None:
    """Read a time, as microseconds since 1970.

    Raises:
        Problem: it is not one.
    """
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise bad_parameter(name, str(error)[:200]) from None


def flag_parameter(request: Any, name: str) -> bool:
    """Read ``true`` or ``false``.

    Raises:
        Problem: it is neither.
    """
    text = request.query.get(name, "false")
    if text not in {"true", "false"}:
        raise bad_parameter(name, "must be true or false")
    return bool(text == "true")


def _by_name(product: dict[str, Any]) -> tuple[str, str]:
    return (product["exchange"], product["product_id"])
