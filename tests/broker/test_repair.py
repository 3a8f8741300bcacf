"""Repairs from the topic to the log, on a real Kafka: gaps in, missing trades out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from candlewick.kafka.broker import EmbeddedBroker
from candlewick.mock import MockExchange, Simulation
from models.gap import Gap
from models.times import rfc3339
from models.trade import read_trade
from producers.exchanges.coinbase import Codec
from producers.repair import Repairer
from producers.repair_status import RepairSettings
from producers.sink import Sink
from producers.topic import DEAD_LETTERS, GAPS, TRADES, TopicSpec, ensure_topics

pytestmark = [pytest.mark.broker, pytest.mark.asyncio(loop_scope="module")]

PATIENCE_S = 60
SYMBOL = "BTC-USD"
MARKET = Simulation(products=(SYMBOL,), start_us=1_780_000_000_000_000, max_trades=8000, trades_per_s=1000)
QUICK = RepairSettings(young_s=0.1, requests_per_s=100, tick_s=0.01, backoff_most_s=0.2)
SPECS = [
    TopicSpec(GAPS, 3, {"cleanup.policy": "compact"}),
    TopicSpec(TRADES, 2),
    TopicSpec(DEAD_LETTERS, 1),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory):
    async with EmbeddedBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchange():
    """Give an exchange whose market is done; ``first`` is the id of its first trade."""
    exchange = MockExchange(MARKET, speed=0, settle_s=0.02)
    await exchange.start()
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(exchange.ws_url) as socket:
            await socket.send_json({"type": "subscribe", "product_ids": [SYMBOL], "channels": ["matches"]})
            while "trade_id" not in (frame := json.loads((await socket.receive()).data)):
                pass
            exchange.first = frame["trade_id"]
            async for _ in socket:
                if exchange.status()["done"]:
                    break
        yield exchange
    finally:
        await exchange.stop()


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


class Worker:
    """Does in memory what the fold does: writes gaps, and each as repaired when its trades are in the log."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.seen = []
        self.open = {}

    async def write(self, *gaps):
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for gap in gaps:
                await producer.send(GAPS, msgspec.json.encode(gap), gap.key.encode())
            await producer.flush()
        self.open |= {gap.key: gap for gap in gaps if gap.state == "open"}

    async def run(self, starts):
        partitions = [TopicPartition(TRADES, number) for number in range(2)]
        async with AIOKafkaConsumer(bootstrap_servers=self.bootstrap) as consumer:
            consumer.assign(partitions)
            for tp in partitions:
                consumer.seek(tp, starts[tp])
            while True:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    self.seen += [read_trade(record.value).trade_id for record in records]
                have = set(self.seen)
                for key, gap in list(self.open.items()):
                    if have.issuperset(range(gap.first_trade_id, gap.last_trade_id + 1)):
                        await self.write(msgspec.structs.replace(gap, state="repaired", missing_trades=0))
                        del self.open[key]


@pytest_asyncio.fixture(loop_scope="module")
async def worker(broker):
    await ensure_topics(broker.bootstrap, SPECS)
    worker = Worker(broker.bootstrap)
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        starts = await consumer.end_offsets([TopicPartition(TRADES, number) for number in range(2)])
    task = asyncio.create_task(worker.run(starts))
    yield worker
    task.cancel()
    await asyncio.wait([task])


@contextlib.asynccontextmanager
async def repairing(broker, exchange, settings=QUICK):
    async with Sink(broker.bootstrap, topics=(TRADES, DEAD_LETTERS)) as sink:
        codec = Codec()
        repairer = Repairer(
            broker.bootstrap, codec, codec.rest_url(exchange.ws_url), [SYMBOL], sink.put, sink.dead_letter,
            settings,
        )  # fmt: skip
        task = asyncio.create_task(repairer.run())
        try:
            yield repairer
        finally:
            task.cancel()
            await asyncio.wait([task])


def gap(first, last, symbol=SYMBOL):
    at = rfc3339(MARKET.start_us)
    return Gap("coinbase", symbol, first, last, last - first + 1, "open", "jump", at, at, at)


async def test_gaps_are_filled_through_the_log_and_then_left_alone(broker, exchange, worker):
    first = exchange.first
    await worker.write(gap(first + 10, first + 10))  # before the producer starts: as after a restart
    await worker.write(gap(first, first, "ETH-USD"))  # somebody else's
    settings = msgspec.structs.replace(QUICK, again_first_s=0.5, lacking_first_s=0.5)
    async with repairing(broker, exchange, settings) as repairer:
        await until(lambda: len(worker.open) == 1)
        await worker.write(gap(first + 100, first + 5099))
        await until(lambda: len(worker.open) == 1)
        await until(lambda: repairer.status.open == 0)
        requests = repairer.status.requests
        await asyncio.sleep(1)  # nothing is asked for what is repaired
        assert repairer.status.requests == requests
    assert set(worker.seen) == {first + 10, *range(first + 100, first + 5100)}


async def test_what_was_repaired_before_the_start_is_not_fetched(broker, exchange, worker):
    first = exchange.first
    # Too large to be read at once, so that most are known as open for a while.
    long = [msgspec.structs.replace(gap(first + n, first + n), after="x" * 2000) for n in range(200, 2000)]
    await worker.write(*long)
    await worker.write(*(msgspec.structs.replace(each, state="repaired") for each in long))
    worker.open.clear()
    await worker.write(gap(first + 7000, first + 7000))
    settings = msgspec.structs.replace(QUICK, young_s=0)
    async with repairing(broker, exchange, settings):
        await until(lambda: not worker.open)
    assert worker.seen == [first + 7000]


async def test_repairs_go_on_after_the_broker_was_killed(broker, exchange, worker):
    first = exchange.first
    async with repairing(broker, exchange) as repairer:
        await worker.write(gap(first + 300, first + 300))
        await until(lambda: not worker.open)  # and the worker writes nothing now
        os.kill(broker.pid, signal.SIGKILL)
        await broker.stop()
        await asyncio.sleep(1)
        await broker.start()
        await worker.write(gap(first + 301, first + 301))
        await until(lambda: not worker.open)
        await until(lambda: repairer.status.open == 0)


async def test_it_follows_the_topic_on_after_its_consumer_was_stopped(broker, exchange, worker, monkeypatch):
    """What aiokafka then raises is no `KafkaError`, nor are all of its others."""
    consumers = []

    class Watched(AIOKafkaConsumer):
        async def start(self):
            consumers.append(self)
            await super().start()

    monkeypatch.setattr("producers.repair.AIOKafkaConsumer", Watched)
    async with repairing(broker, exchange) as repairer:
        await worker.write(gap(first := exchange.first + 500, first))
        await until(lambda: not worker.open)
        await consumers[0].stop()
        await until(lambda: len(consumers) > 1)
        await worker.write(gap(first + 1, first + 1))
        await until(lambda: not worker.open)
        await until(lambda: repairer.status.open == 0)


async def test_without_the_topic_it_waits_for_it(broker, exchange, worker, monkeypatch):
    monkeypatch.setattr("producers.repair.GAPS", "gaps-of-another")
    async with repairing(broker, exchange) as repairer:
        await asyncio.sleep(1)
        await ensure_topics(broker.bootstrap, [TopicSpec("gaps-of-another", 1)])
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            missing = gap(exchange.first + 400, exchange.first + 400)
            await producer.send_and_wait(
                "gaps-of-another", msgspec.json.encode(missing), missing.key.encode()
            )
        await until(lambda: exchange.first + 400 in worker.seen)
        assert repairer.status.open == 1
