"""``/metrics``: what Prometheus reads, of this worker and of the feeds that it knows of.

State is described when it is asked for; what has none (batches, requests) is counted as it happens, in plain
numbers. Every worker tells of all feeds: take ``max by (exchange, producer)``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from aiohttp import web
from prometheus_client import PROCESS_COLLECTOR

from agents import batch, books
from agents import candles as candle_agent
from candlewick import topics
from candlewick.app import app
from candlewick.web import families as f
from candlewick.web import feeds, peers
from candlewick.web.exposition import Answer, Spread, write
from candlewick.web.problems import Handler
from candlewick.web.push import hub, stream, ws
from candlewick.web.routes import NoQuery, page
from models.book import BookLost, OrderBook
from models.producer_status import ProducerStatus
from models.tape import CandleChange, GapChange, TapeState
from models.trade import Trade
from models.window import WINDOWS
from tables import book_stats, candles

FORGOTTEN_S = 86_400
"""Seconds after which a feed that says nothing is not told of any more."""

_folded: dict[str, list[int]] = defaultdict(lambda: [0, 0])
"""By ``exchange:symbol``, trades and heartbeats."""
_book_records: Counter[str] = Counter()
_books_lost: Counter[tuple[str, str]] = Counter()
_rejected: Counter[str] = Counter({topics.TRADES: 0, topics.BOOKS: 0})
_closed: Counter[str] = Counter({window.name: 0 for window in WINDOWS})
_revisions: Counter[str] = Counter({window.name: 0 for window in WINDOWS})
_gaps: Counter[tuple[str, str]] = Counter()
_missed: Counter[str] = Counter()
_open_gaps: set[tuple[str, int]] = set()
"""Those that were counted: one that grows is told again."""
_to_fold = Spread(f.TO_FOLD.bounds)
_requests: dict[tuple[str, str], Spread] = defaultdict(lambda: Spread(f.REQUESTS.bounds))


@page("/metrics", {"text/plain": str}, NoQuery)
async def metrics(request: Any, query: NoQuery) -> Any:
    """Metrics in Prometheus's text form, or in that of OpenMetrics."""
    answer = Answer()
    _describe_worker(answer)
    _describe_feeds(answer)
    _describe_products(answer)
    answer.add_all(PROCESS_COLLECTOR.collect())
    # In a thread: with 400 products the client library writes for 30 ms, and trades should not wait for it.
    body, content_type = await asyncio.to_thread(write, answer, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _describe_worker(answer: Answer) -> None:
    ready = peers.is_ready()
    lag = app.consumer.lag() if ready else {}
    answer.add(f.BUILD, [((version("candlewick"),), 1)])
    answer.add(f.READY, [((), int(ready))])
    answer.add(f.LAG, [((tp.topic, str(tp.partition)), records) for tp, records in sorted(lag.items())])
    answer.add(f.TRADES, [(_product(key), trades) for key, (trades, _) in _folded.items()])
    heartbeats: Counter[str] = Counter()
    for key, (_, count) in _folded.items():
        heartbeats[_product(key)[0]] += count
    answer.add(f.HEARTBEATS, [((exchange,), count) for exchange, count in heartbeats.items()])
    answer.add(f.BOOK_RECORDS, [((exchange,), count) for exchange, count in _book_records.items()])
    answer.add(f.BOOKS_LOST, _books_lost.items())
    answer.add(f.REJECTED, [((topic,), count) for topic, count in _rejected.items()])
    answer.add(f.CLOSED, [((window,), count) for window, count in _closed.items()])
    answer.add(f.REVISIONS, [((window,), count) for window, count in _revisions.items()])
    answer.add(f.GAPS, [((*_product(key), cause), count) for (key, cause), count in _gaps.items()])
    answer.add(f.MISSED, [(_product(key), count) for key, count in _missed.items()])
    answer.add_spreads(f.TO_FOLD, [((), _to_fold.counts, _to_fold.sum)])
    answer.add(f.CLIENTS, [(("sse",), stream.streams), (("websocket",), ws.sockets)])
    answer.add(f.CUT_OFF, [((kind,), count) for kind, count in hub.cut_off.items()])
    answer.add_spreads(f.REQUESTS, [(place, each.counts, each.sum) for place, each in _requests.items()])


def _describe_feeds(answer: Answer) -> None:
    now_us = time.time_ns() // 1000
    oldest_us = now_us - FORGOTTEN_S * 1_000_000
    told = [feed for feed in feeds.known.values() if feed.state != "stopped" and feed.updated_us > oldest_us]
    of = [(feed.exchange, feed.producer) for feed in told]

    def add(family: f.Family, values: Sequence[float]) -> None:
        answer.add(family, zip(of, values, strict=True))

    add(f.FEED_CONNECTED, [int(feeds.is_connected(feed, now_us)) for feed in told])
    add(f.FEED_HEARD, [feed.updated_us / 1e6 for feed in told])
    add(f.FEED_FRAME, [(feed.last_frame_us or 0) / 1e6 for feed in told])
    answer.add(f.FEED_CONNECTIONS, [
        ((*who, state), count)
        for who, feed in zip(of, told, strict=True)
        for state, count in _connections(feed).items()
    ])  # fmt: skip
    add(f.FEED_UNACKED, [feed.unacked for feed in told])
    add(f.FEED_SPILL, [feed.spill_bytes for feed in told])
    add(f.FEED_GAPS, [feed.open_gaps for feed in told])
    add(f.FEED_LACKING, [feed.unavailable_gaps for feed in told])
    add(f.FEED_FRAMES, [feed.frames for feed in told])
    answer.add(f.FEED_RECONNECTS, [
        ((*who, reason), count)
        for who, feed in zip(of, told, strict=True)
        for reason, count in feed.reconnect_reasons.items()
    ])  # fmt: skip
    add(f.FEED_REFUSED, [feed.refused_frames for feed in told])
    add(f.FEED_LETTERS, [feed.dead_letters for feed in told])
    add(f.FEED_RESUBSCRIBED, [feed.books_resubscribed for feed in told])
    add(f.FEED_SPILLED, [feed.spilled for feed in told])
    add(f.FEED_DROPPED, [feed.dropped for feed in told])
    add(f.REPAIRED, [feed.repaired_trades for feed in told])
    answer.add_spreads(f.FEED_LATENCY, [
        (who, feed.latency_counts, feed.latency_sum_us / 1e6)
        for who, feed in zip(of, told, strict=True)
        if len(feed.latency_counts) == len(f.FEED_LATENCY.bounds) + 1
    ])  # fmt: skip


def _connections(feed: ProducerStatus) -> dict[str, int]:
    return {
        "connected": feed.connected_connections,
        "away": feed.connections - feed.connected_connections,
    }


def _describe_products(answer: Answer) -> None:
    kept = [(_product(symbol_key), (partition, symbol_key)) for partition, symbol_key in peers.kept_here()]
    tapes = [(of, tape) for of, place in kept if (tape := candles.settled(*place))]
    last = [(of, tape.last_trade) for of, tape in tapes if tape.last_trade]
    answer.add(f.LAST_TRADE, [(of, trade.event_time_us / 1e6) for of, trade in last])
    answer.add(f.PRICE, [(of, float(trade.price)) for of, trade in last])
    answer.add(f.WATERMARK, [(of, tape.watermark_us / 1e6) for of, tape in tapes])
    answer.add(f.GAPS_OPEN, [(of, len(tape.ledger.gaps)) for of, tape in tapes])
    answer.add(f.MISSING, [(of, _missing(tape)) for of, tape in tapes])
    answer.add(f.DUPLICATES, [(of, tape.duplicates) for of, tape in tapes])
    answer.add(f.LATE, [(of, tape.late) for of, tape in tapes])
    answer.add(f.EXPIRED, [(of, tape.expired) for of, tape in tapes])
    found = [(of, _in_step(place)) for of, place in kept if book_stats.settled(*place)]
    answer.add(f.IN_STEP, [(of, int(book is not None)) for of, book in found])
    answer.add(f.BID, [(of, float(best[0])) for of, book in found if book and (best := book.best_bid)])
    answer.add(f.ASK, [(of, float(best[0])) for of, book in found if book and (best := book.best_ask)])


def _missing(tape: TapeState) -> int:
    return sum(hole.last - hole.first + 1 for hole in tape.ledger.holes)


def _in_step(place: tuple[int, str]) -> OrderBook | None:
    """Return a product's book, if it can be trusted now."""
    live = books.folding.tapes.get(place)
    return live.book if live is not None and live.in_step else None


def _product(symbol_key: str) -> tuple[str, str]:
    exchange, _, symbol = symbol_key.partition(":")
    return (exchange, symbol)


def _trades_folded(partition: int, symbol_key: str, records: Sequence[tuple[int, Any]]) -> None:
    count = [type(event) for _, event in records].count(Trade)
    folded = _folded[symbol_key]
    folded[0] += count
    folded[1] += len(records) - count
    last = records[-1][1]
    if type(last) is Trade:
        _to_fold.note(max(0.0, time.time() - last.received_time_us / 1e6))


def _books_folded(partition: int, symbol_key: str, records: Sequence[tuple[int, Any]]) -> None:
    exchange = symbol_key.partition(":")[0]
    _book_records[exchange] += len(records)
    for _, record in records:
        if type(record) is BookLost:
            _books_lost[exchange, record.cause] += 1


def _told(partition: int, symbol_key: str, change: Any) -> None:
    if isinstance(change, CandleChange):
        (_revisions if change.candle.revision else _closed)[change.window.name] += 1
    elif isinstance(change, GapChange):
        gap = change.gap
        if change.state != "open":
            _open_gaps.discard((symbol_key, gap.first))
        elif (symbol_key, gap.first) not in _open_gaps:
            _open_gaps.add((symbol_key, gap.first))
            _gaps[symbol_key, gap.cause] += 1
            _missed[symbol_key] += gap.last - gap.first + 1


def _record_rejected(topic: str) -> None:
    _rejected[topic] += 1


@web.middleware
async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Time every request, by its route; streams and WebSockets are not among them."""
    began = time.perf_counter()
    response = await handler(request)
    if isinstance(response, web.Response):
        route = request.match_info.route.resource
        name = route.canonical if route else "none"
        _requests[name, str(response.status)].note(time.perf_counter() - began)
    return response


candle_agent.folding.folded.append(_trades_folded)
candle_agent.folding.told.append(_told)
books.folding.folded.append(_books_folded)
batch.rejected.append(_record_rejected)
