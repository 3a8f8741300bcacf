"""``/metrics`` of a real worker, held against what was sent to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from rig import START_US, Command, Worker, get, send, trades, until
from scrape import OPEN, Scrape, scrape, text_of

from candlewick import config, topics
from candlewick.web import families
from models.book import BookDelta, BookLost, BookSnapshot
from models.trade import Heartbeat, Trade
from producers.topic import ensure_topics

pytestmark = pytest.mark.broker

SECOND = 1_000_000


@pytest.fixture(scope="module")
def worker(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("metrics")
    commands: list[Command] = []

    def run(*args: str, **env: str) -> Command:
        commands.append(Command(folder / "worker.log", args, env))
        return commands[-1]

    asyncio.run(ensure_topics(kafka, topics.specs(config.load({}))))
    worker = Worker(run, kafka, folder / "data", "metrics")
    until(lambda: get(f"{worker.base}/healthz")[0] == 200)
    until(lambda: scrape(worker.base).get("candlewick_ready") == 1)
    try:
        yield worker
    finally:
        commands[-1].end()


def told(worker: Worker, is_so: Callable[[Scrape], bool], before: Scrape | None = None) -> Scrape:
    """Scrape until it is so; return that scrape. No count may go down meanwhile."""
    last = before
    found: list[Scrape] = []

    def look() -> bool:
        nonlocal last
        now = scrape(worker.base)
        if last:
            now.assert_follows(last)
        last = now
        found[:] = [now]
        return is_so(now)

    until(look, lambda: str(sorted(found[0].samples.items(), key=str))[:8000])
    return found[0]


def of(symbol: str) -> dict[str, str]:
    return {"exchange": "coinbase", "product": symbol}


def at(symbol: str, trade_id: int, time_us: int) -> Trade:
    return Trade("coinbase", symbol, trade_id, Decimal("100.5"), Decimal(1), "buy", time_us, time_us)


def test_all_families_are_told_in_both_forms_and_no_others(worker: Worker) -> None:
    text, kind = text_of(worker.base)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    plain = Scrape(text)
    text, kind = text_of(worker.base, OPEN + ";q=0.5,text/plain;version=0.0.4;q=0.3")
    assert kind.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    opened = Scrape(text, is_open=True)
    declared = {
        family.name.removesuffix("_total"): (family.kind, family.help, family.name) for family in families.ALL
    }
    process = {name.removesuffix("_total"): kind for name, kind, _ in families.PROCESS}
    for read in (plain, opened):
        found = {family.name: family for family in read.families}
        assert found.keys() == declared.keys() | process.keys()
        for name, (kind, text, whole) in declared.items():
            assert (found[name].type, found[name].documentation) == (kind, text), whole
        for name, kind in process.items():
            assert found[name].type == kind
    for family in families.ALL:
        for name, labels in plain.samples:
            if name == family.name:
                assert {label for label, _ in labels} == set(family.labels)


def test_trades_are_counted_exactly_also_those_that_come_again(worker: Worker, kafka: str) -> None:
    before = scrape(worker.base)
    asyncio.run(send(kafka, trades("CNT-USD", 1, 500)))
    seen = told(
        worker, lambda now: now.get("candlewick_trades_processed_total", **of("CNT-USD")) == 500, before
    )
    assert seen.sum("candlewick_trade_to_fold_seconds_count") > before.sum(
        "candlewick_trade_to_fold_seconds_count"
    )
    asyncio.run(send(kafka, trades("CNT-USD", 101, 20)))
    seen = told(worker, lambda now: now.get("candlewick_trades_duplicate_total", **of("CNT-USD")) == 20, seen)
    assert seen.get("candlewick_trades_processed_total", **of("CNT-USD")) == 520
    assert seen.get("candlewick_gaps_open", **of("CNT-USD")) == 0
    assert seen.get("candlewick_last_price", **of("CNT-USD")) == float(trades("CNT-USD", 500, 1)[0].price)
    last_s = (START_US + 500 * 10_000) / SECOND
    assert seen.get("candlewick_last_trade_timestamp_seconds", **of("CNT-USD")) == last_s
    assert seen.get("candlewick_watermark_timestamp_seconds", **of("CNT-USD")) == last_s


def test_gaps_are_counted_when_they_are_found_and_seen_until_they_are_repaired(
    worker: Worker, kafka: str
) -> None:
    whole = trades("GAP-USD", 1, 300)
    asyncio.run(send(kafka, whole[:100] + whole[110:200] + whole[203:]))
    seen = told(worker, lambda now: now.get("candlewick_missing_trades", **of("GAP-USD")) == 13)
    assert seen.get("candlewick_gaps_open", **of("GAP-USD")) == 2
    assert seen.get("candlewick_gaps_total", **of("GAP-USD"), cause="jump") == 2
    assert seen.get("candlewick_gap_missing_trades_total", **of("GAP-USD")) == 13
    asyncio.run(send(kafka, whole[100:105]))
    seen = told(worker, lambda now: now.get("candlewick_missing_trades", **of("GAP-USD")) == 8, seen)
    asyncio.run(send(kafka, whole[105:110] + whole[200:203]))
    seen = told(worker, lambda now: now.get("candlewick_missing_trades", **of("GAP-USD")) == 0, seen)
    assert seen.get("candlewick_gaps_open", **of("GAP-USD")) == 0
    assert seen.get("candlewick_gaps_total", **of("GAP-USD"), cause="jump") == 2
    assert seen.get("candlewick_gap_missing_trades_total", **of("GAP-USD")) == 13
    assert seen.get("candlewick_trades_processed_total", **of("GAP-USD")) == 300
    assert seen.get("candlewick_trades_duplicate_total", **of("GAP-USD")) == 0


async def revisions(kafka: str, symbol: str) -> dict[tuple[str, bool], int]:
    """Count the records of the topic of candles, by window, and whether it is an amendment."""
    found: dict[tuple[str, bool], int] = {}
    async with aiokafka.AIOKafkaConsumer(
        topics.CANDLES, bootstrap_servers=kafka, auto_offset_reset="earliest"
    ) as consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    if symbol in record.key.decode() and record.value:
                        candle = json.loads(record.value)
                        place = (candle["window"], bool(candle["candle"]["revision"]))
                        found[place] = found.get(place, 0) + 1
    return found


def test_a_late_trade_is_counted_and_so_is_each_amendment(worker: Worker, kafka: str) -> None:
    before = scrape(worker.base)
    minute = START_US // (60 * SECOND) * 60 * SECOND
    on_time = [at("LAT-USD", trade_id, minute + trade_id) for trade_id in range(1, 11)]
    asyncio.run(send(kafka, [*on_time, at("LAT-USD", 11, minute + 90 * SECOND)]))
    seen = told(worker, lambda now: now.sum("candlewick_candles_closed_total", window="1m") == 1, before)
    asyncio.run(send(kafka, [at("LAT-USD", 12, minute + 11), at("LAT-USD", 13, minute + 12)]))
    seen = told(worker, lambda now: now.get("candlewick_trades_late_total", **of("LAT-USD")) == 2, seen)
    counted = until(lambda: asyncio.run(revisions(kafka, "LAT-USD")))
    assert counted == {("1m", False): 1, ("1m", True): 2}
    assert seen.get("candlewick_candle_revisions_total", window="1m") == 2
    assert seen.get("candlewick_candle_revisions_total", window="1h") == 0
    assert seen.get("candlewick_trades_expired_total", **of("LAT-USD")) == 0


def test_books_and_heartbeats_are_counted_and_a_lost_book_says_why(worker: Worker, kafka: str) -> None:
    before = scrape(worker.base)
    time_us = START_US
    levels = ((Decimal("99.5"), Decimal(1)),), ((Decimal("100.5"), Decimal(2)),)
    events: list[Any] = [
        BookSnapshot("coinbase", "BOK-USD", time_us, time_us, *levels),
        BookDelta("coinbase", "BOK-USD", time_us + 1, time_us + 1, ((Decimal("99.75"), Decimal(3)),), ()),
        *(Heartbeat("coinbase", "BOK-USD", 5, time_us + n, time_us + n) for n in range(3)),
    ]
    asyncio.run(send(kafka, events))
    seen = told(worker, lambda now: now.get("candlewick_book_in_step", **of("BOK-USD")) == 1, before)
    assert seen.get("candlewick_best_bid", **of("BOK-USD")) == 99.75
    assert seen.get("candlewick_best_ask", **of("BOK-USD")) == 100.5

    def more(now: Scrape, name: str) -> float:
        return now.sum(name) - before.sum(name)

    seen = told(worker, lambda now: more(now, "candlewick_heartbeats_processed_total") == 3, seen)
    assert more(seen, "candlewick_book_records_processed_total") == 2
    asyncio.run(send(kafka, [BookLost("coinbase", "BOK-USD", None, time_us + 9, cause) for cause in ("silent", "silent", 'a "cause"\n')]))  # type: ignore[list-item]  # fmt: skip
    seen = told(worker, lambda now: now.get("candlewick_book_in_step", **of("BOK-USD")) == 0, seen)
    assert seen.get("candlewick_best_bid", **of("BOK-USD")) is None
    assert seen.get("candlewick_book_lost_total", exchange="coinbase", cause="silent") == 2
    assert seen.get("candlewick_book_lost_total", exchange="coinbase", cause='a "cause"\n') == 1


def test_what_goes_to_the_dead_letters_is_counted_by_topic(worker: Worker, kafka: str) -> None:
    before = scrape(worker.base)
    assert before.get("candlewick_records_rejected_total", topic="trades") == 0

    async def rubbish() -> None:
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for value in (b"{}", b"\xff", b"null", None):
                await producer.send_and_wait(topics.TRADES, value, b"coinbase:BAD-USD")
            await producer.send_and_wait(topics.BOOKS, b"[]", b"coinbase:BAD-USD")

    asyncio.run(rubbish())
    seen = told(worker, lambda now: now.sum("candlewick_records_rejected_total") == 5, before)
    assert seen.get("candlewick_records_rejected_total", topic="trades") == 4
    assert seen.get("candlewick_records_rejected_total", topic="books") == 1


def test_requests_are_timed_by_route_and_status(worker: Worker, kafka: str) -> None:
    asyncio.run(send(kafka, trades("WEB-USD", 1, 1)))
    until(lambda: worker.has("WEB-USD", 1))
    before = scrape(worker.base)
    asked = {
        "/stats/1m/WEB-USD": ("/stats/{window}/{product_id}", 200),
        "/stats/1h/WEB-USD": ("/stats/{window}/{product_id}", 200),
        "/stats/1m/NONE-USD": ("/stats/{window}/{product_id}", 404),
        "/v1/candles/WEB-USD?limit=0": ("/v1/candles/{product_id}", 400),
        "/nowhere/at/all": ("none", 404),
        "/nowhere/else": ("none", 404),
    }
    for path, (_, status) in asked.items():
        assert get(worker.base + path)[0] == status
    with socket.create_connection(("127.0.0.1", worker.port)) as client:
        client.sendall(b"GET /v1/stream?product_id=WEB-USD HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(100)
        seen = told(worker, lambda now: now.get("candlewick_stream_clients", kind="sse") == 1, before)
    seen = told(worker, lambda now: now.get("candlewick_stream_clients", kind="sse") == 0, seen)
    name = "candlewick_http_request_seconds_count"
    for route, status in set(asked.values()):
        wanted = sum(each == (route, status) for each in asked.values())
        labels = {"route": route, "status": str(status)}
        assert seen.sum(name, **labels) - before.sum(name, **labels) == wanted, (route, status)
    assert seen.sum(name, route="/v1/stream") == 0
    assert seen.sum("candlewick_http_request_seconds_bucket", le="+Inf") == seen.sum(name)


def test_counts_of_the_tables_outlive_the_worker_and_its_own_begin_anew(worker: Worker, kafka: str) -> None:
    asyncio.run(send(kafka, [*trades("RES-USD", 1, 50), *trades("RES-USD", 1, 5)]))
    told(worker, lambda now: now.get("candlewick_trades_duplicate_total", **of("RES-USD")) == 5)
    worker.command.end()
    worker.command = worker.start()
    until(lambda: get(f"{worker.base}/healthz")[0] == 200)
    seen = told(worker, lambda now: now.get("candlewick_trades_duplicate_total", **of("RES-USD")) == 5)
    assert seen.get("candlewick_trades_processed_total", **of("RES-USD")) is None
    assert seen.get("candlewick_watermark_timestamp_seconds", **of("RES-USD")) is not None


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_an_error(worker: Worker) -> Iterator[None]:
    log: Path = worker.command.log
    yield
    assert "A view failed" not in log.read_text(errors="replace")
