"""The sink, and the whole producer, on a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import time
from decimal import Decimal

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import LeaderNotAvailableError
from aiokafka.partitioner import murmur2
from websockets.asyncio.server import serve

from candlewick.kafka.broker import EmbeddedBroker
from models.book import BookKeyframe, BookLost, BookSnapshot, read_book
from models.errors import TopicError
from models.trade import Heartbeat, Trade, read_trade
from producers.exchanges.coinbase import Codec
from producers.feed import FeedRefused
from producers.produce import produce
from producers.sink import Sink
from producers.topic import BrokerUnavailable, TopicSpec, ensure_topics

pytestmark = [pytest.mark.broker, pytest.mark.asyncio(loop_scope="module")]

PATIENCE_S = 60
PARTITIONS = 4
LARGE = {"max.message.bytes": str(64 << 20)}
SPECS = [
    TopicSpec("trades", PARTITIONS, {"retention.ms": "604800000", "max.message.bytes": "1000000"}),
    TopicSpec("books", PARTITIONS, LARGE),
    TopicSpec("dead-letters", 1, LARGE),
    TopicSpec("feeds", 1, {"cleanup.policy": "compact"}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory):
    async with EmbeddedBroker(tmp_path_factory.mktemp("kafka")) as broker:
        await ensure_topics(broker.bootstrap, SPECS)
        yield broker


def now_us():
    return time.time_ns() // 1000


def trade(trade_id, symbol="BTC-USD", time_us=None):
    return Trade(
        "coinbase", symbol, trade_id, Decimal("1.5"), Decimal("2"), "buy", time_us or now_us(), now_us(), 7
    )


def book(levels, symbol="BTC-USD"):
    bids = tuple((Decimal(price), Decimal("0.12345678")) for price in range(1, levels + 1))
    return BookSnapshot("coinbase", symbol, None, now_us(), bids, ())


class Marks:
    """Where the topics ended, so that a test sees only its own records."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.ends = {}

    def _consumer(self):
        # One for each look: aiokafka's consumer cannot always be stopped after its broker was away.
        return AIOKafkaConsumer(bootstrap_servers=self.bootstrap, max_partition_fetch_bytes=80 << 20)

    async def set(self):
        tps = [TopicPartition(spec.name, number) for spec in SPECS for number in range(spec.partitions)]
        async with self._consumer() as consumer:
            self.ends = await consumer.end_offsets(tps)

    async def records(self, topic):
        """Return what was written to a topic since the test began, partition by partition."""
        tps = [tp for tp in self.ends if tp.topic == topic]
        found = []
        async with self._consumer() as consumer:
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                if ends[tp] == self.ends[tp]:
                    continue
                consumer.assign([tp])
                consumer.seek(tp, self.ends[tp])
                while await consumer.position(tp) < ends[tp]:
                    found += (await consumer.getmany(tp, timeout_ms=1000)).get(tp, [])
        return found


@pytest_asyncio.fixture(loop_scope="module")
async def marks(broker):
    marks = Marks(broker.bootstrap)
    await marks.set()
    return marks


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_a_trade_in_kafka_has_key_headers_time_and_value(broker, marks):
    written = trade(1)
    async with Sink(broker.bootstrap) as sink:
        await sink.put(written)
    [record] = await marks.records("trades")
    assert record.key == b"coinbase:BTC-USD"
    assert dict(record.headers) == {"schema": b"trade/1", "received_at": b"%d" % written.received_time_us}
    assert record.timestamp == written.event_time_us // 1000
    assert record.timestamp_type == 0  # the producer's time, not the broker's
    assert record.value == written.to_json()
    assert read_trade(record.value) == written


async def test_each_kind_of_event_goes_to_its_topic_with_its_schema(broker, marks):
    events = [
        trade(1),
        Heartbeat("coinbase", "BTC-USD", 1, now_us(), now_us()),
        book(2),
        BookKeyframe("coinbase", "BTC-USD", now_us(), now_us(), (), ()),
        BookLost("coinbase", "BTC-USD", None, now_us(), "crossed"),
    ]
    async with Sink(broker.bootstrap) as sink:
        for event in events:
            await sink.put(event)
    trades, books = await marks.records("trades"), await marks.records("books")
    assert [read_trade(r.value) for r in trades] + [read_book(r.value) for r in books] == events
    schemas = [dict(r.headers)["schema"].decode() for r in (*trades, *books)]
    assert schemas == ["trade/1", "heartbeat/1", "book-snapshot/1", "book-keyframe/1", "book-lost/1"]


async def test_partition_is_the_murmur2_of_the_key(broker, marks):
    symbols = [f"P{number}-USD" for number in range(40)]
    async with Sink(broker.bootstrap) as sink:
        for symbol in symbols:
            await sink.put(trade(1, symbol))
    records = await marks.records("trades")
    assert len(records) == 40
    assert {r.partition for r in records} == set(range(PARTITIONS))
    assert all(r.partition == (murmur2(r.key) & 0x7FFFFFFF) % PARTITIONS for r in records)
    # A value of Kafka's own, org.apache.kafka.common.utils.UtilsTest: testMurmur2.
    assert murmur2(b"foobar") & 0xFFFFFFFF == -790332482 & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("age_s", "kept"),
    [(0, True), (86_000, True), (86_500, False), (5 * 365 * 86_400, False), (-3_700, False)],
)
async def test_old_events_get_the_time_of_writing_so_that_retention_spares_them(broker, marks, age_s, kept):
    before = now_us()
    event = trade(1, time_us=before - age_s * 1_000_000)
    async with Sink(broker.bootstrap) as sink:
        await sink.put(event)
    [record] = await marks.records("trades")
    assert read_trade(record.value).event_time_us == event.event_time_us
    if kept:
        assert record.timestamp == event.event_time_us // 1000
    else:
        assert before // 1000 <= record.timestamp <= now_us() // 1000


async def test_an_event_without_a_time_gets_the_time_of_writing(broker, marks):
    before = now_us()
    async with Sink(broker.bootstrap) as sink:
        await sink.put(book(1))
    [record] = await marks.records("books")
    assert before // 1000 <= record.timestamp <= now_us() // 1000


async def test_a_snapshot_of_many_megabytes_is_written_whole(broker, marks):
    snapshot = book(400_000)
    async with Sink(broker.bootstrap) as sink:
        await sink.put(snapshot)
    [record] = await marks.records("books")
    assert len(record.value) > 5_000_000
    assert record.value == snapshot.to_json()


async def test_dead_letters_keep_text_bytes_and_the_length_of_what_was_cut(broker, marks):
    text = '{"bad": "Zürich"'
    long_text = "€" * 400_000  # 1.2 MB; the cut falls inside a character
    async with Sink(broker.bootstrap) as sink:
        await sink.dead_letter(text.encode(), "coinbase", "not JSON")
        await sink.dead_letter(b"\xff\x00", "coinbase", "not UTF-8")
        await sink.dead_letter(long_text.encode(), "coinbase", "too odd")
        assert sink.stats.dead_letters == 3
    records = await marks.records("dead-letters")
    assert all(b"\n" not in r.value for r in records)
    plain, binary, long = (json.loads(r.value) for r in records)
    assert (plain["source"], plain["reason"], plain["text"]) == ("coinbase", "not JSON", text)
    assert base64.b64decode(binary["base64"]) == b"\xff\x00"
    assert (long["length"], long["cut_to"]) == (1_200_000, 1 << 20)
    assert long["text"] == "€" * ((1 << 20) // 3)


async def test_a_record_that_kafka_refuses_becomes_a_dead_letter_and_the_rest_goes_on(broker, marks):
    noise = random.Random(1).randbytes(2_000_000)  # what compresses might fit after all
    async with Sink(broker.bootstrap) as sink:
        await sink.put(trade(1))
        await sink.write("trades", "coinbase:BTC-USD", noise, schema=b"noise/1", received_time_us=now_us())
        await sink.put(trade(2))
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert sink.stats.undeliverable == 1
        assert sink.stats.waiting == 0
        assert sink.stats.waiting_bytes == 0
    assert [read_trade(r.value).trade_id for r in await marks.records("trades")] == [1, 2]
    [letter] = await marks.records("dead-letters")
    assert json.loads(letter.value)["length"] == 2_000_000
    assert json.loads(letter.value)["source"] == "trades coinbase:BTC-USD"


async def test_a_record_over_our_own_limit_is_never_sent(broker, marks):
    async with Sink(broker.bootstrap, max_record_bytes=100_000) as sink:
        await sink.put(book(10_000))
        await sink.put(book(1))
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert sink.stats.undeliverable == 1
    assert len(await marks.records("books")) == 1
    assert len(await marks.records("dead-letters")) == 1


async def test_put_waits_at_the_bound_and_never_goes_over_it(broker, marks):
    async with Sink(broker.bootstrap, max_unacked=50) as sink:
        most = 0
        for number in range(2000):
            await sink.put(trade(number))
            most = max(most, sink.stats.waiting)
        assert most == 50
    assert [read_trade(r.value).trade_id for r in await marks.records("trades")] == list(range(2000))


async def test_bytes_are_bounded_too_and_one_record_above_the_bound_still_passes(broker, marks):
    async with Sink(broker.bootstrap, max_unacked_bytes=200_000) as sink:
        most = 0
        for _ in range(20):
            await sink.put(book(2000))  # 50 kB each
            most = max(most, sink.stats.waiting_bytes)
        assert 100_000 < most <= 200_000
        await asyncio.wait_for(sink.put(book(20_000)), PATIENCE_S)
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    assert len(await marks.records("books")) == 21


async def test_writers_that_wait_for_room_go_in_the_order_they_came(broker, marks):
    async with Sink(broker.bootstrap, max_unacked=3) as sink:
        await asyncio.gather(*(sink.put(trade(number)) for number in range(300)))
    assert [read_trade(r.value).trade_id for r in await marks.records("trades")] == list(range(300))


async def test_nobody_slips_in_before_one_who_waits(broker, marks):
    async with Sink(broker.bootstrap, max_unacked=1) as sink:
        real, late = sink.acknowledged, []

        def acknowledged(records):
            if not late:  # runs after there is room, and before the one who waits has seen it
                late.append(asyncio.create_task(sink.put(trade(3))))
            real(records)

        sink.acknowledged = acknowledged
        await sink.put(trade(1))
        await sink.put(trade(2))
        await late[0]
    assert [read_trade(r.value).trade_id for r in await marks.records("trades")] == [1, 2, 3]


async def test_topics_are_created_once_with_their_partitions_and_settings(broker):
    specs = [TopicSpec("made", 3, {"cleanup.policy": "compact"}), TopicSpec("made-too", 1)]
    await ensure_topics(broker.bootstrap, specs)
    await ensure_topics(broker.bootstrap, specs)
    async with AIOKafkaConsumer("made", bootstrap_servers=broker.bootstrap) as consumer:
        assert await consumer.topics() >= {"made", "made-too"}
        assert consumer.partitions_for_topic("made") == {0, 1, 2}
    with pytest.raises(TopicError, match=r"made has 3 partitions, but needs 8: .*partition count"):
        await ensure_topics(broker.bootstrap, [TopicSpec("made", 8)])
    with pytest.raises(TopicError, match="no-such-setting"):
        await ensure_topics(broker.bootstrap, [TopicSpec("odd", 1, {"no-such-setting": "1"})])


async def test_settings_of_a_new_topic_reach_kafka(broker):
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "feeds")])
    finally:
        await admin.close()
    assert ("cleanup.policy", "compact") in [entry[:2] for entry in answer.resources[0][4]]


async def test_a_missing_topic_or_broker_is_one_clear_error(broker, unused_tcp_port):
    with pytest.raises(TopicError, match=r"topic nowhere .* create the topics first"):
        async with Sink(broker.bootstrap, topics=["nowhere"], start_timeout_s=1):
            pass
    nowhere = f"127.0.0.1:{unused_tcp_port}"
    with pytest.raises(BrokerUnavailable, match=nowhere):
        async with Sink(nowhere):
            pass
    with pytest.raises(BrokerUnavailable, match=nowhere):
        await ensure_topics(nowhere, SPECS)


async def test_a_closed_sink_takes_nothing(broker):
    async with Sink(broker.bootstrap) as sink:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await sink.put(trade(1))


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_records_kept_while_kafka_was_away_arrive_in_order(broker, marks, end):
    symbols = [f"S{number}-USD" for number in range(8)]
    count = 0
    async with Sink(broker.bootstrap, max_unacked=400, request_timeout_s=2) as sink:

        async def write():
            nonlocal count
            for number in range(1000):
                for symbol in symbols:
                    await sink.put(trade(number, symbol))
                    count += 1
                if number < 100:
                    await asyncio.sleep(0.001)

        writing = asyncio.create_task(write())
        await until(lambda: count > 400)
        if end == "killed":
            os.kill(broker.pid, signal.SIGKILL)
        await broker.stop()
        await until(lambda: sink.stats.waiting == 400)
        stuck = count
        await asyncio.sleep(5)  # longer than every timeout of the producer
        assert count == stuck, "put took more than the bound while nothing could be sent"
        assert sink.stats.waiting == 400
        await broker.start()
        await asyncio.wait_for(writing, PATIENCE_S)
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    records = await marks.records("trades")
    for symbol in symbols:
        ids = [read_trade(r.value).trade_id for r in records if r.key == f"coinbase:{symbol}".encode()]
        assert list(dict.fromkeys(ids)) == list(range(1000))


async def test_a_batch_that_failed_is_sent_again_before_what_is_behind_it(broker, marks):
    """As when a partition had no leader for too long: aiokafka gives the batch up."""
    async with Sink(broker.bootstrap) as sink:
        await sink.put(trade(1))
        await sink.flush()
        first = sink.producer
        real, failures = first.send_batch, iter(range(2))

        async def send_batch(batch, topic, *, partition):
            if next(failures, None) is not None:
                # aiokafka counts the sequence numbers of a batch that it then gives up.
                first._txn_manager.increment_sequence_number(TopicPartition(topic, partition), 50)
                raise LeaderNotAvailableError
            return await real(batch, topic, partition=partition)

        first.send_batch = send_batch
        for number in range(2, 500):
            await sink.put(trade(number))
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert sink.producer is not first
        assert sink.stats.resent > 0
    assert [read_trade(r.value).trade_id for r in await marks.records("trades")] == list(range(1, 500))


async def test_closing_without_kafka_keeps_its_deadline_and_counts_what_is_lost(broker, marks):
    sink = Sink(broker.bootstrap, max_unacked=30)
    await sink.open()
    await sink.put(trade(0))
    await sink.flush()
    await broker.stop()
    try:
        for number in range(1, 31):
            await sink.put(trade(number))
        waiting = asyncio.create_task(sink.put(trade(31)))
        given_up = asyncio.create_task(sink.put(trade(32)))
        await asyncio.sleep(0)
        given_up.cancel()
        started = time.monotonic()
        assert await sink.close(0.5) == 32
        assert time.monotonic() - started < 3
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
        assert await sink.close() == 0  # said once
    finally:
        await broker.start()


class Market:
    """An exchange on loopback with one product, that beats and trades."""

    def __init__(self):
        self.trades = 0
        self.refuse = False
        self.cross = False

    async def __call__(self, socket):
        with contextlib.suppress(Exception):
            async for text in socket:
                request = json.loads(text)
                if self.refuse:
                    error = {
                        "type": "error",
                        "message": "Failed to subscribe",
                        "reason": "BTC-USD is not a product",
                    }
                    await socket.send(json.dumps(error))
                    continue
                names = [{"name": name, "product_ids": ["BTC-USD"]} for name in ("matches", "level2_50")]
                await socket.send(json.dumps({"type": "subscriptions", "channels": names}))
                if request["type"] == "subscribe":
                    levels = {"bids": [["99", "1"]], "asks": [["101", "1"]]}
                    await socket.send(json.dumps({"type": "snapshot", "product_id": "BTC-USD", **levels}))
                    await self.trade(socket)
                    await socket.send("{broken")
                    if self.cross:
                        self.cross = False
                        await socket.send(
                            json.dumps(
                                {
                                    "type": "l2update",
                                    "product_id": "BTC-USD",
                                    "changes": [["buy", "102", "1"]],
                                    "time": stamp(),
                                }
                            )
                        )

    async def trade(self, socket):
        self.trades += 1
        trade = {"trade_id": self.trades, "sequence": 1, "side": "buy", "size": "1", "price": "2"}
        await socket.send(json.dumps({"type": "match", "product_id": "BTC-USD", "time": stamp(), **trade}))


def stamp():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.asynccontextmanager
async def market():
    market = Market()
    async with serve(market, "127.0.0.1", 0) as server:
        market.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield market


def producing(broker, market, stop, **options):
    return asyncio.create_task(
        produce(
            codec_factory=Codec,
            url=market.url,
            symbols=["BTC-USD"],
            bootstrap=broker.bootstrap,
            producer_id="one",
            stop=stop,
            **options,
        )
    )


async def feeds(marks):
    return [json.loads(record.value) for record in await marks.records("feeds")]


async def first(function):
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await function()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


async def test_the_producer_writes_tells_how_it_is_and_ends_in_order(broker, marks):
    async with market() as exchange:
        exchange.cross = True
        stop = asyncio.Event()
        task = producing(broker, exchange, stop, keyframe_s=1)

        async def connected():
            return [f for f in await feeds(marks) if f["state"] == "connected" and f["dead_letters"] == 2]

        async def kinds():
            return [type(read_book(r.value)).__name__ for r in await marks.records("books")]

        async def has_keyframe():
            return "BookKeyframe" in await kinds()

        status = (await first(connected))[-1]
        await first(has_keyframe)
        stop.set()
        started = time.monotonic()
        assert await asyncio.wait_for(task, PATIENCE_S) == 0
        assert time.monotonic() - started < 8
    assert status["exchange"] == "coinbase"
    assert status["producer"] == "one"
    assert status["products"] == ["BTC-USD"]
    assert (status["connections"], status["refused_frames"], status["error"]) == (1, 2, None)
    assert abs(status["updated_us"] - now_us()) < 60_000_000
    last = (await marks.records("feeds"))[-1]
    assert last.key == b"coinbase:one"
    assert json.loads(last.value)["state"] == "stopped"
    books = [read_book(r.value) for r in await marks.records("books")]
    names = [type(book).__name__ for book in books]
    assert names[:4] == ["BookSnapshot", "BookDelta", "BookLost", "BookSnapshot"]
    assert books[2].cause == "crossed"
    assert set(names[4:-1]) == {"BookKeyframe"}
    assert (names[-1], books[-1].cause) == ("BookLost", "producer stopped")
    assert len(await marks.records("trades")) == 2
    assert len(await marks.records("dead-letters")) == 2


async def test_a_producer_that_is_refused_says_so_and_ends(broker, marks):
    async with market() as exchange:
        exchange.refuse = True
        task = producing(broker, exchange, None)
        with pytest.raises(FeedRefused, match="BTC-USD is not a product"):
            await asyncio.wait_for(task, PATIENCE_S)
    last = (await feeds(marks))[-1]
    assert last["state"] == "stopped"
    assert "BTC-USD is not a product" in last["error"]


async def test_a_producer_ends_in_time_while_kafka_is_away(broker, marks):
    async with market() as exchange:
        stop = asyncio.Event()
        task = producing(broker, exchange, stop, max_unacked=1)  # so that not even its last words fit

        async def connected():
            return [f for f in await feeds(marks) if f["state"] == "connected"]

        await first(connected)
        await broker.stop()
        try:
            stop.set()
            started = time.monotonic()
            assert await asyncio.wait_for(task, PATIENCE_S) >= 2  # the lost book, and the last word
            assert time.monotonic() - started < 8
        finally:
            await broker.start()


async def test_a_cancelled_producer_ends_in_order_too(broker, marks):
    async with market() as exchange:
        task = producing(broker, exchange, None)

        async def connected():
            return [f for f in await feeds(marks) if f["state"] == "connected"]

        await first(connected)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await feeds(marks))[-1]["state"] == "stopped"
