"""Workers on a real broker: killed, doubled, fed with rubbish, and old recordings in young topics."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal

import aiokafka
import pytest
from rig import Worker, free_port, get, send, trades, until

from candlewick import config, topics
from models.trade import Trade
from producers.sink import Sink
from producers.topic import TopicSpec, ensure_topics

pytestmark = pytest.mark.broker

LIVE = ["BTC-USD", "ETH-USD", "LTC-USD"]
SYMBOLS = ["AAA-USD", "BBB-USD", "CCC-USD", "DDD-USD", "EEE-USD", "FFF-USD"]


def test_a_killed_worker_counts_every_trade_once(run, kafka, tmp_path):
    asyncio.run(send(kafka, [t for s in SYMBOLS for t in trades(s, 1, 2000)]))
    worker = Worker(run, kafka, tmp_path / "one", "killed")
    until(lambda: worker.day(SYMBOLS[0]))
    for round_ in range(1, 4):
        worker.command.end(signal.SIGKILL)
        asyncio.run(send(kafka, [t for s in SYMBOLS for t in trades(s, 2000 * round_ + 1, 2000)]))
        worker.command = worker.start()
        until(lambda: worker.day(SYMBOLS[0]))  # killed again in the middle of its work
    for symbol in SYMBOLS:
        candle = until(lambda symbol=symbol: worker.has(symbol, 8000))
        expected = trades(symbol, 1, 8000)
        assert Decimal(candle["volume"]) == sum(t.size for t in expected)
        assert Decimal(candle["quote_volume"]) == sum(t.price * t.size for t in expected)
        assert (candle["first_trade_id"], candle["last_trade_id"]) == (1, 8000)
        assert candle["missing_trades"] == 0
        assert candle["complete"] is True


def test_either_of_two_workers_answers_for_all_and_one_takes_over_for_the_other(run, kafka, tmp_path):
    asyncio.run(send(kafka, [t for s in SYMBOLS for t in trades(s, 1, 8000)]))  # the same trades again
    first = Worker(run, kafka, tmp_path / "first", "pair")
    until(lambda: all(first.has(symbol, 8000) for symbol in SYMBOLS))
    second = Worker(run, kafka, tmp_path / "second", "pair")

    def shared() -> bool:
        status, body = get(f"{second.base}/v1/status")
        ready = status == 200 and [w for w in body["workers"] if w["ready"]]
        return bool(ready) and len(ready) == 2 and len(body["products"]) == len(SYMBOLS)

    until(shared)
    owned = {p["product_id"] for p in get(f"{second.base}/v1/status?local=true")[1]["products"]}
    assert 0 < len(owned) < len(SYMBOLS)  # else the requests below pass through nobody
    for symbol in SYMBOLS:
        answers = [
            get(f"{worker.base}/stats/1h/{symbol}?at=2026-09-21T14:14:10Z") for worker in (first, second)
        ]
        assert answers[0][0] == 200
        assert answers[0] == answers[1]
    first.command.end(signal.SIGKILL)
    until(lambda: all(second.has(symbol, 8000) for symbol in SYMBOLS))


def test_a_record_that_cannot_be_read_goes_to_the_dead_letters_and_the_rest_counts(run, kafka, tmp_path):
    rubbish = [b"\xff\xfe", b"{}", b"[1,2]", b'{"exchange":"coinbase"}', b"null", b"", None, b"[" * 5000]
    wrong_price = json.loads(trades("POI-USD", 9999, 1)[0].to_json())

    async def poison() -> None:
        await ensure_topics(kafka, topics.specs(config.load({})))
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for number in range(1, 101):
                trade = trades("POI-USD", number, 1)[0]
                await producer.send(topics.TRADES, trade.to_json(), b"coinbase:POI-USD")
                if number % 10 == 0:
                    for value in rubbish:
                        await producer.send(topics.TRADES, value, b"coinbase:POI-USD")
                    for price in ("NaN", "Infinity", "-1", "0", "1e400", "1" * 40):
                        value = json.dumps({**wrong_price, "price": price}).encode()
                        await producer.send(topics.TRADES, value, b"coinbase:POI-USD")
                    await producer.send(topics.TRADES, trade.to_json(), b"coinbase:OTHER-USD")  # wrong key
            await producer.flush()

    asyncio.run(poison())
    worker = Worker(run, kafka, tmp_path / "poisoned", "poisoned")
    until(lambda: worker.has("POI-USD", 100))

    async def letters() -> list[dict]:
        async with aiokafka.AIOKafkaConsumer(
            topics.DEAD_LETTERS, bootstrap_servers=kafka, auto_offset_reset="earliest"
        ) as consumer:
            found: list[dict] = []
            async with asyncio.timeout(30):
                while len(found) < 10 * (len(rubbish) + 7):
                    for records in (await consumer.getmany(timeout_ms=500)).values():
                        found += [json.loads(record.value) for record in records]
            return found

    found = asyncio.run(letters())
    assert len(found) == 10 * (len(rubbish) + 7)
    assert all(letter["source"].startswith("trades[") and letter["reason"] for letter in found)
    until(lambda: get(f"{worker.base}/v1/status")[1]["workers"][0]["lag_records"] == 0)


FAILS_ONCE = """
import sys
from agents.batch import Folding

fold = Folding.fold


def failing(self, batch):
    fold(self, batch)
    if any(b'"trade_id":1500,' in (value or b"") for _, _, value, _ in batch.records):
        raise ValueError("a bug in a fold")

Folding.fold = failing
from faust.cli.faust import cli
cli(["-A", "candlewick.app", "worker", "-l", "info"])
"""


def test_a_batch_that_cannot_be_folded_ends_the_worker_and_is_folded_by_the_next(run, kafka, tmp_path):
    asyncio.run(send(kafka, trades("BUG-USD", 1, 2000)))
    folder = tmp_path / "bug"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
    settings = {
        "CANDLEWICK_BROKER": kafka, "CANDLEWICK_DATA_DIR": str(folder), "CANDLEWICK_PORT": str(free_port()),
        "CANDLEWICK_APP_ID": "bug", "CANDLEWICK_COMMIT_S": "0.05", "CANDLEWICK_BATCH_RECORDS": "100",
    }  # fmt: skip
    failed = subprocess.run(
        [sys.executable, "-c", FAILS_ONCE],
        env={**clean, **settings},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert failed.returncode != 0
    assert "was not folded or not told, the worker ends" in failed.stdout + failed.stderr
    worker = Worker(run, kafka, folder, "bug")
    candle = until(lambda: worker.has("BUG-USD", 2000))
    assert Decimal(candle["volume"]) == sum(t.size for t in trades("BUG-USD", 1, 2000))


@pytest.mark.slow
def test_windows_are_the_same_whatever_happened_to_the_workers(run, kafka, tmp_path):
    """One worker that is left alone, and a pair whose members are killed and ended all the time."""
    mock = run(
        "mock-exchange", "--speed", "20", "--products", ",".join(LIVE), "--data-dir", str(tmp_path / "mock")
    )
    url = mock.line("mock exchange at ")
    run(
        "produce", "--feed", url, "--products", ",".join(LIVE), "--broker", kafka, "--data-dir", str(tmp_path)
    )
    calm = Worker(run, kafka, tmp_path / "calm", "calm")
    pair = [Worker(run, kafka, tmp_path / name, "restless") for name in ("left", "right")]

    def closed(worker: Worker, symbol: str) -> dict | None:
        status, body = get(f"{worker.base}/stats/1m/{symbol}?closed=true")
        return body if status == 200 and body["book"] else None

    first = {symbol: until(lambda symbol=symbol: closed(calm, symbol))["start_ms"] for symbol in LIVE}
    rounds = 0
    while rounds < 4 or closed(calm, LIVE[0])["start_ms"] - first[LIVE[0]] < 15 * 60_000:
        worker = pair[rounds % 2]
        until(
            lambda worker=worker: (
                (told := get(f"{worker.base}/v1/status?local=true")[1]) and told["workers"][0]["ready"]
            )
        )
        worker.command.end(signal.SIGTERM if rounds % 3 == 1 else signal.SIGKILL)
        if rounds % 3:
            shutil.rmtree(worker.folder / "tables")  # it has to read its rows back, while the feed goes on
        worker.command = worker.start()
        rounds += 1
    last = {symbol: closed(calm, symbol)["start_ms"] for symbol in LIVE}
    compared = 0
    for symbol in LIVE:
        for start_ms in range(first[symbol], last[symbol], 60_000):
            path = f"/stats/1m/{symbol}?at={start_ms}"
            expected = get(calm.base + path)
            if expected[0] != 200 or expected[1]["book"] is None:
                continue
            expected[1]["book"].pop("in_step")  # said as of now
            found: dict = {}

            def same(path=path, expected=expected, found=found) -> bool:
                status, body = get(pair[0].base + path)
                if status == 200 and body["book"]:
                    body["book"].pop("in_step")
                found.update({"status": status, "body": body})
                return (status, body) == expected

            until(same, lambda expected=expected, found=found: f"{found}\nis not {expected}")
            compared += 1
    assert compared > 20


def test_a_topic_with_another_partition_count_is_refused_in_one_line(run, kafka, tmp_path):
    asyncio.run(ensure_topics(kafka, topics.specs(config.load({}))))
    worker = Worker(run, kafka, tmp_path / "four", "four", CANDLEWICK_PARTITIONS="4")
    assert worker.command.process.wait(60) == 1
    assert "candlewick: topic trades has 8 partitions, but needs 4: " in worker.command.said()
    assert "Traceback" not in worker.command.said()


def test_what_a_user_asks_wrongly_is_answered_with_its_problem(run, kafka, tmp_path):
    asyncio.run(send(kafka, trades("WEB-USD", 1, 10)))
    worker = Worker(run, kafka, tmp_path / "web", "web")
    until(lambda: worker.has("WEB-USD", 10))
    for path, status, kind in (
        ("/stats/1m/NONE-USD", 404, "unknown-product"),
        ("/stats/1m/..%2f..%2fetc", 404, "unknown-product"),
        ("/stats/1m/%00", 404, "unknown-product"),
        ("/stats/5m/WEB-USD", 404, "unknown-window"),
        ("/stats/1m/WEB-USD?closed=true", 404, "no-data"),
        ("/stats/1m/WEB-USD?at=2020-01-01T00:00:00Z", 404, "no-data"),
        ("/stats/1m/WEB-USD?at=yesterday", 400, "invalid-parameter"),
        ("/stats/1m/WEB-USD?at=2020-01-01T00:00:00", 400, "invalid-parameter"),
        ("/stats/1m/WEB-USD?at=99999999999999999999", 400, "invalid-parameter"),
        ("/stats/1m/WEB-USD?closed=maybe", 400, "invalid-parameter"),
        ("/stats/1m/WEB-USD?clsoed=true", 400, "invalid-parameter"),
        ("/v1/status?local=1", 400, "invalid-parameter"),
        ("/readyz", 503, "not-ready"),  # no producer runs here
        ("/stats/1m/WEB-USD?exchange=kraken", 404, "unknown-product"),
        ("/nowhere", 404, "http"),
        ("/table/candles/", 404, "http"),
    ):
        answer = get(worker.base + path)
        assert answer[0] == status, (path, answer)
        assert answer[1]["type"] == f"/problems/{kind}", (path, answer)
        assert answer[1]["status"] == status
    assert get(f"{worker.base}/healthz")[0] == 200
    assert worker.day("WEB-USD")["trade_count"] == 10


async def test_a_recording_of_2021_stays_in_a_topic_of_seven_days(tmp_path):
    """Retention counts from the record's timestamp: with the exchange's own, the broker sweeps it at once."""
    from candlewick.kafka.broker import EmbeddedBroker

    old = 1_618_677_817_000_000
    swept, kept = TopicSpec("swept", 1, {"retention.ms": "604800000"}), topics.specs(config.load({}))
    async with EmbeddedBroker(tmp_path, overrides={"log.retention.check.interval.ms": "500"}) as broker:
        await ensure_topics(broker.bootstrap, [swept, *kept])
        async with Sink(broker.bootstrap) as sink:
            for trade_id in range(1, 51):
                await sink.put(
                    Trade("coinbase", "OLD-USD", trade_id, Decimal(1), Decimal(1), "buy", old, old)
                )
            await sink.flush()
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            await producer.send_and_wait("swept", b"x", timestamp_ms=old // 1000)
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
            gone = aiokafka.TopicPartition("swept", 0)
            began = time.monotonic()
            while (await consumer.beginning_offsets([gone]))[gone] == 0:
                assert time.monotonic() - began < 30, "the broker swept nothing: this test shows nothing"
                await asyncio.sleep(0.2)
            tps = [aiokafka.TopicPartition(topics.TRADES, number) for number in range(8)]
            first, last = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            assert sum(last[tp] - first[tp] for tp in tps) == 50


async def rows_of(kafka: str, topic: str) -> dict[bytes, list[tuple[int, int, bytes]]]:
    """Return what a changelog holds by key: partition, offset, value, in the order of the log."""
    rows: dict[bytes, list[tuple[int, int, bytes]]] = {}
    async with aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, auto_offset_reset="earliest"
    ) as consumer:
        tps = consumer.assignment()
        ends = await consumer.end_offsets(tps)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    rows.setdefault(record.key, []).append((record.partition, record.offset, record.value))
    return rows


async def write_late(kafka: str, topic: str, key: bytes, partition: int, value: bytes) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait(topic, value, key, partition=partition)


def test_what_a_replaced_worker_writes_late_is_written_over(run, kafka, tmp_path):
    symbol, changelog = "LAT-USD", "late-candles-changelog"
    asyncio.run(send(kafka, trades(symbol, 1, 100)))
    worker = Worker(run, kafka, tmp_path / "late", "late")
    until(lambda: worker.has(symbol, 100))
    [key] = until(lambda: [key for key in asyncio.run(rows_of(kafka, changelog)) if b"LAT-USD:1d" in key])
    partition, _, old = asyncio.run(rows_of(kafka, changelog))[key][-1]
    asyncio.run(send(kafka, trades(symbol, 101, 100)))
    until(lambda: worker.has(symbol, 200))
    until(lambda: asyncio.run(rows_of(kafka, changelog))[key][-1][2] != old)
    asyncio.run(write_late(kafka, changelog, key, partition, old))
    asyncio.run(write_late(kafka, changelog, b"row/coinbase:LAT-USD:1m:0000000000", partition, old))
    asyncio.run(send(kafka, trades(symbol, 201, 1)))
    until(lambda: worker.has(symbol, 201))

    def written_over() -> bool:
        rows = asyncio.run(rows_of(kafka, changelog))
        unknown = rows[b"row/coinbase:LAT-USD:1m:0000000000"][-1][2]
        return json.loads(rows[key][-1][2])["candle"]["trade_count"] == 201 and unknown is None

    until(written_over)
    # While nobody runs, too: the next one to recover finds the older row behind the newer one.
    worker.command.end(signal.SIGKILL)
    asyncio.run(write_late(kafka, changelog, key, partition, old))
    shutil.rmtree(tmp_path / "late" / "tables")
    worker.command = worker.start()
    until(lambda: worker.has(symbol, 201))
    until(written_over)


def test_a_worker_that_comes_back_at_another_address_is_ready(run, kafka, tmp_path):
    asyncio.run(send(kafka, trades("MOV-USD", 1, 100)))
    worker = Worker(run, kafka, tmp_path / "moved", "moving")
    until(lambda: worker.has("MOV-USD", 100))
    worker.command.end(signal.SIGTERM)
    moved = Worker(run, kafka, tmp_path / "moved", "moving")
    assert moved.port != worker.port
    until(lambda: moved.has("MOV-USD", 100))
