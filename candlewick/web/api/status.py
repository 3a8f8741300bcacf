"""Health, readiness, and ``/v1/status``: how every product, worker and feed is."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import msgspec
from msgspec import Struct
from yarl import URL

from agents import books
from candlewick.app import app
from candlewick.web import feeds, peers
from candlewick.web.api.market import LocalQuery
from candlewick.web.problems import Problem
from candlewick.web.routes import JSON, page
from models.answers import BookStatus, ProductStatus, Status, WorkerStatus
from models.times import rfc3339
from tables import book_stats, candles


class Health(Struct, frozen=True):
    """The process is well."""

    status: Literal["ok"]


class Readiness(Struct, frozen=True):
    """Tables are recovered, and a feed is connected."""

    status: Literal["ready"]


_decode_status = msgspec.json.Decoder(Status).decode


@page("/healthz", {JSON: Health})
async def healthz(request: Any, query: Any) -> Any:
    """200 while the process is well."""
    return Health("ok")


@page("/readyz", {JSON: Readiness}, also=(503,))
async def readyz(request: Any, query: Any) -> Any:
    """200 once tables are recovered and a feed is connected."""
    waiting = []
    if not peers.is_ready():
        waiting.append("tables are being recovered")
    if not feeds.connected():
        waiting.append("no feed is connected")
    if waiting:
        raise Problem(503, "not-ready", "Not ready", " and ".join(waiting), retry_after_s=1)
    return Readiness("ready")


@page("/v1/status", {JSON: Status}, LocalQuery)
async def status(request: Any, query: LocalQuery) -> Any:
    """Each product's last trade, candle, book and lag, of all workers; ``?local=true`` of this one."""
    answer = describe_status()
    if not query.local:
        await add_others(answer)
    return answer


async def add_others(answer: Status) -> None:
    """Add what the other workers say to this one's status."""
    for part in await asyncio.gather(*map(_part_of, sorted(peers.others()))):
        answer.workers += part.workers
        answer.products += part.products
    answer.products.sort(key=_by_name)


async def _part_of(url: URL) -> Status:
    """Return what another worker says of itself, or why it does not."""
    try:
        told = await peers.ask(url, "/v1/status?local=true")
        if told.status == 200:
            return _decode_status(told.body)
        error = f"it answered {told.status}"
    except (Problem, msgspec.DecodeError) as problem:
        error = str(problem)
    worker = WorkerStatus(url=str(url), ready=False, error=error[:200])
    return Status(feeds=[], workers=[worker], products=[])


def describe_status() -> Status:
    """Return this worker's part of the status."""
    ready = peers.is_ready()
    lag = app.consumer.lag() if ready else {}
    products = [describe_product(partition, symbol_key) for partition, symbol_key in peers.kept_here()]
    worker = WorkerStatus(
        url=str(app.conf.canonical_url),
        ready=ready,
        lag_records=sum(lag.values()),
        lag={f"{tp.topic}-{tp.partition}": records for tp, records in sorted(lag.items()) if records},
    )
    return Status(feeds=list(feeds.known.values()), workers=[worker], products=sorted(products, key=_by_name))


def describe_product(partition: int, symbol_key: str) -> ProductStatus:
    """Return one product's line of the status."""
    exchange, symbol = symbol_key.split(":", 1)
    now_us = time.time_ns() // 1000
    tape = candles.state(partition, symbol_key)
    trade = tape.last_trade if tape else None
    minute = candles.latest(partition, symbol_key, "1m")
    day = candles.latest(partition, symbol_key, "1d")
    return ProductStatus(
        exchange=exchange,
        product_id=symbol,
        partition=partition,
        price=format(trade.price, "f") if trade else None,
        last_trade_id=trade.trade_id if trade else None,
        last_trade_time=rfc3339(trade.event_time_us) if trade else None,
        last_trade_age_ms=max(0, now_us - trade.received_time_us) // 1000 if trade else None,
        feed_latency_ms=(trade.received_time_us - trade.event_time_us) // 1000 if trade else None,
        watermark=rfc3339(tape.watermark_us) if tape else None,
        trades_1m=minute.row.candle.trade_count if minute else 0,
        trades_1d=day.row.candle.trade_count if day else 0,
        gaps=len(tape.ledger.gaps) if tape else 0,
        missing_trades=sum(hole.last - hole.first + 1 for hole in tape.ledger.holes) if tape else 0,
        duplicates=tape.duplicates if tape else 0,
        book=_describe_book(partition, symbol_key, now_us),
    )


def _describe_book(partition: int, symbol_key: str, now_us: int) -> BookStatus:
    book = book_stats.state(partition, symbol_key)
    if book is None:
        return BookStatus(state="none")
    live = books.folding.tapes.get((partition, symbol_key))
    row = book_stats.at(partition, symbol_key, "1m", book.latest["1m"]) if "1m" in book.latest else None
    figures = row.stats.figures(row.closed) if row else None
    return BookStatus(
        state="in step" if live is not None and live.in_step else "out of step",
        highest_bid=figures.highest_bid if figures else None,
        lowest_ask=figures.lowest_ask if figures else None,
        spread=figures.spread if figures else None,
        mid=figures.mid if figures else None,
        age_ms=max(0, now_us - book.received_time_us) // 1000,
    )


def _by_name(product: ProductStatus) -> tuple[str, str]:
    return (product.exchange, product.product_id)
