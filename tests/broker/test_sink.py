"""The sink, and the whole producer, on a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from decimal import Decimal
from itertools import pairwise

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
from producers import sink as sinking
from producers.exchanges.coinbase import Codec
from producers.feed import FeedRefused
from producers.produce import produce
from producers.sink import Sink, SinkFailed
from producers.spill import Record, Spill
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


async def test_partitions_share_a_request(broker, marks, monkeypatch):
    batches, requests = [], []
    async with Sink(broker.bootstrap, linger_s=0.05) as sink:  # long beside what a busy machine takes
        send_batch, send = sink.producer.send_batch, sink.producer.client.send

        async def count_batch(*args, **options):
            batches.append(args)
            return await send_batch(*args, **options)

        async def count_request(node, request, **options):
            requests.append(type(request).__name__)
            return await send(node, request, **options)

        monkeypatch.setattr(sink.producer, "send_batch", count_batch)
        monkeypatch.setattr(sink.producer.client, "send", count_request)
        for number in range(600):
            await sink.put(trade(number, f"S{number % 30}-USD"))
            await asyncio.sleep(0.0005)  # as trades come: not all at once
        await sink.flush()
    assert len(await marks.records("trades")) == 600
    assert len(batches) > 2 * requests.count("ProduceRequest") > 0


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


@pytest.mark.slow
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


@pytest.mark.slow
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


SYMBOLS = [f"S{number}-USD" for number in range(8)]
SPILL_BYTES = 1 << 30


@pytest.fixture
def impatient(monkeypatch):
    """Two seconds without an answer are enough."""
    monkeypatch.setattr(sinking, "AWAY_S", 2.0)


@contextlib.asynccontextmanager
async def away(broker, how):
    """Take Kafka away for a while: it hangs, or is killed."""
    if how == "hangs":
        os.kill(broker.pid, signal.SIGSTOP)
    else:
        os.kill(broker.pid, signal.SIGKILL)
        await broker.stop()
    try:
        yield
    finally:
        if how == "hangs":
            os.kill(broker.pid, signal.SIGCONT)
        else:
            await broker.start()


async def put_all(sink, numbers):
    for number in numbers:
        for symbol in SYMBOLS:
            await sink.put(trade(number, symbol))
        if number % 50 == 0:
            await asyncio.sleep(0)


def ids_of(records, symbol):
    return [read_trade(r.value).trade_id for r in records if r.key == f"coinbase:{symbol}".encode()]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangs", "killed"])
async def test_with_a_spill_put_goes_on_while_kafka_is_away_and_all_arrives_in_order(
    broker, marks, tmp_path, how
):
    spill = Spill(tmp_path, SPILL_BYTES)
    async with Sink(broker.bootstrap, max_unacked=400, request_timeout_s=2, spill=spill) as sink:
        await put_all(sink, range(10))
        await sink.flush()
        assert (sink.spilling, sink.stats.spill_bytes) == (False, 0)
        async with away(broker, how):
            await asyncio.wait_for(put_all(sink, range(10, 2500)), PATIENCE_S)
            assert sink.spilling
            assert sink.stats.waiting <= 400
            assert sink.stats.spilled == 2490 * 8
            # More comes from disk only as there is room.
            await until(lambda: sink.stats.waiting == 400)
            await asyncio.sleep(1)
            assert sink.stats.waiting == 400
            assert (
                sink.stats.spill_bytes == sum(path.stat().st_size for path in tmp_path.iterdir()) > 3_000_000
            )
        writing = asyncio.create_task(put_all(sink, range(2500, 2600)))  # behind what is on disk
        most = 0
        while sink.spilling:
            most = max(most, sink.stats.waiting)
            await asyncio.sleep(0)
        assert most <= 400
        await asyncio.wait_for(writing, PATIENCE_S)
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert sink.stats.taken == 2600 * 8
        assert sink.stats.dropped == 0
    assert list(tmp_path.iterdir()) == []
    records = await marks.records("trades")
    for symbol in SYMBOLS:
        assert list(dict.fromkeys(ids_of(records, symbol))) == list(range(2600))
    one = next(r for r in records if read_trade(r.value).trade_id == 2000)
    assert dict(one.headers)["schema"] == b"trade/1"
    assert one.timestamp == read_trade(one.value).event_time_us // 1000


PRODUCER = """
import asyncio, sys, time
from decimal import Decimal
from pathlib import Path
from models.trade import Trade
from producers.sink import Sink
from producers.spill import Record, Spill

async def main(bootstrap, folder, symbols):
    now_us = time.time_ns() // 1000
    async with Sink(bootstrap, max_unacked=400, spill=Spill(Path(folder), 1 << 30)) as sink:
        for number in range(2510):
            for symbol in symbols.split(","):
                await sink.put(Trade("coinbase", symbol, number, Decimal(1), Decimal(1), "buy", now_us, now_us))
            if number == 9:
                await sink.flush()
                print("ready", flush=True)
                sys.stdin.readline()
            await asyncio.sleep(0)
        print("all put", sink.stats.waiting, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_producer_that_is_killed_while_kafka_is_away_loses_nothing(broker, marks, tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRODUCER, broker.bootstrap, str(tmp_path), ",".join(SYMBOLS),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def said():
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
            while line.startswith(b"20"):  # the log
                line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
            return line.decode().split()

        assert await said() == ["ready"]
        async with away(broker, "killed"):
            process.stdin.write(b"\n")
            *words, waiting = await said()
            assert words == ["all", "put"]
            assert int(waiting) <= 400
            process.kill()
            await process.wait()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 3_000_000
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        assert sink.spilling
        await put_all(sink, range(2510, 2520))  # not before what was left
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    assert list(tmp_path.iterdir()) == []
    records = await marks.records("trades")
    for symbol in SYMBOLS:
        assert list(dict.fromkeys(ids_of(records, symbol))) == list(range(2520))


async def test_nobody_slips_in_before_what_comes_from_disk(broker, marks, tmp_path):
    spill = Spill(tmp_path, SPILL_BYTES)
    for number in range(20):
        spill.append(Record("trades", b"coinbase:BTC-USD", trade(number).to_json(), now_us() // 1000, []))
    spill.close()
    async with Sink(broker.bootstrap, max_unacked=5, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        real, late = sink.acknowledged, []

        def acknowledged(records):
            if not late:  # runs after there is room, and before what was read from disk has it
                late.append(asyncio.create_task(sink.put(trade(20))))
            real(records)

        sink.acknowledged = acknowledged
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        await late[0]
    assert ids_of(await marks.records("trades"), "BTC-USD") == list(range(21))


async def test_at_the_cap_what_is_dropped_is_counted_to_the_record(broker, marks, tmp_path, impatient):
    sink = Sink(broker.bootstrap, max_unacked=400, spill=Spill(tmp_path, 300_000))
    diskless = Sink(broker.bootstrap, max_unacked=400, spill=Spill(tmp_path / "full", 0))
    await sink.open()
    await diskless.open()
    async with away(broker, "killed"):
        await diskless.put(trade(0))
        await until(lambda: diskless.spilling)
        for number in range(1, 500):
            await diskless.put(trade(number))
        assert diskless.stats.dropped == 100  # memory is used all the same
        await asyncio.wait_for(put_all(sink, range(1000)), PATIENCE_S)
        dropped = sink.stats.dropped
        assert 5000 < dropped < 8000
        assert sink.stats.spill_bytes <= 300_000
        assert sink.stats.taken == 8000 - dropped
    await asyncio.wait_for(sink.flush(), PATIENCE_S)
    assert sink.stats.dropped == dropped
    await put_all(sink, range(1000, 1010))  # there is room again
    assert await sink.close(PATIENCE_S) == dropped
    assert await diskless.close(PATIENCE_S) == 100
    records = await marks.records("trades")
    assert list(dict.fromkeys(ids_of(records, "BTC-USD"))) == list(range(400))
    there = {symbol: list(dict.fromkeys(ids_of(records, symbol))) for symbol in SYMBOLS}
    assert sum(map(len, there.values())) == 8080 - dropped
    for ids in there.values():
        assert ids == sorted(ids)
        assert ids[-10:] == list(range(1000, 1010))


class SlowSink(Sink):
    """Kafka as one sees it over a slow line: it answers each batch, late."""

    async def send(self, *args):
        await asyncio.sleep(0.02)
        await super().send(*args)


def leave_trades(folder, numbers):
    """Leave trades on disk, as an earlier process does."""
    spill = Spill(folder, SPILL_BYTES)
    for number in numbers:
        spill.append(Record("trades", b"coinbase:BTC-USD", trade(number).to_json(), now_us() // 1000, []))
    spill.close()


async def test_at_the_cap_a_kafka_that_is_only_slow_holds_the_source_back(broker, marks, tmp_path):
    cap = 40_000
    leave_trades(tmp_path, range(100))
    async with SlowSink(broker.bootstrap, max_unacked=20, spill=Spill(tmp_path, cap)) as sink:
        for number in range(100, 1000):
            await sink.put(trade(number))
            assert sink.stats.spill_bytes <= cap
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert (sink.stats.dropped, sink.stats.taken) == (0, 900)
        assert sink.stats.spilled > 0
    assert ids_of(await marks.records("trades"), "BTC-USD") == list(range(1000))


async def test_who_waits_at_the_cap_when_kafka_goes_away_waits_no_longer(broker, marks, tmp_path, impatient):
    leave_trades(tmp_path, range(100))
    sink = Sink(broker.bootstrap, max_unacked=20, spill=Spill(tmp_path, 40_000))
    await sink.open()
    async with away(broker, "hangs"):
        began = time.monotonic()
        for number in range(100, 1000):
            await asyncio.wait_for(sink.put(trade(number)), PATIENCE_S)
        assert time.monotonic() - began > 1  # it waited, to see whether Kafka is only slow
        dropped = sink.stats.dropped
        assert 0 < dropped < 900
    assert await sink.close(PATIENCE_S) == dropped
    ids = list(dict.fromkeys(ids_of(await marks.records("trades"), "BTC-USD")))
    assert ids == list(range(1000 - dropped))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [True, False])
async def test_who_is_cancelled_at_the_door_loses_nothing_where_the_sink_was_told(
    broker, marks, tmp_path, stop
):
    sink = Sink(broker.bootstrap, max_unacked=30, spill=Spill(tmp_path, SPILL_BYTES))
    await sink.open()
    async with away(broker, "killed"):
        for number in range(30):
            await sink.put(trade(number))
        waiting = [asyncio.create_task(sink.put(trade(number))) for number in (30, 31)]
        await asyncio.sleep(0)
        if stop:
            sink.stop_waiting()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await sink.close(0.5) == (0 if stop else 2)
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    assert ids_of(await marks.records("trades"), "BTC-USD") == list(range(32 if stop else 30))


class Broken(Spill):
    """A spill with a mistake in it."""

    def read(self):
        raise ZeroDivisionError("a mistake")

    tell_dropped = read


@pytest.mark.parametrize("part", ["drain", "watch"])
async def test_a_mistake_in_the_sink_itself_ends_whoever_writes(broker, tmp_path, part):
    if part == "drain":
        leave_trades(tmp_path, range(1))
    sink = Sink(broker.bootstrap, max_unacked=5, spill=Broken(tmp_path, SPILL_BYTES))
    await sink.open()

    async def write():
        while True:
            await sink.put(trade(1))
            await asyncio.sleep(0.01)

    with pytest.raises(SinkFailed, match="a mistake"):
        await asyncio.wait_for(write(), PATIENCE_S)
    with pytest.raises(SinkFailed, match="a mistake"):
        await sink.write("feeds", "me", b"", schema=b"feed/1", received_time_us=0, momentary=True)
    await asyncio.wait_for(sink.close(0.5), PATIENCE_S)


async def test_who_waits_for_room_learns_of_a_mistake_too(broker, tmp_path):
    sink = Sink(broker.bootstrap, max_unacked=1, spill=Spill(tmp_path, SPILL_BYTES))
    await sink.open()
    async with away(broker, "hangs"):
        await sink.put(trade(1))
        waiting = [asyncio.create_task(sink.put(trade(2))), asyncio.create_task(sink.flush())]
        await asyncio.sleep(0)
        sink._spill.tell_dropped = None
        for task in waiting:
            with pytest.raises(SinkFailed, match="not callable"):
                await asyncio.wait_for(task, PATIENCE_S)
        assert await sink.close(0.5) == 1  # the second; the first is on disk


async def test_dead_letters_of_many_sources_leave_nothing_in_memory(broker, marks):
    async with Sink(broker.bootstrap) as sink:
        for number in range(100):
            await sink.dead_letter(b"x", f"frame {number}", "odd")
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert len(sink._lane_of) == 0
    assert len(await marks.records("dead-letters")) == 100


async def test_books_that_an_earlier_process_left_are_passed_over(broker, marks, tmp_path):
    """Some of them, and newer ones, may be in Kafka: they would be a book that never was."""
    leave_trades(tmp_path, [1])
    spill = Spill(tmp_path, SPILL_BYTES)
    for topic in ("books", "dead-letters"):
        spill.append(Record(topic, b"coinbase:BTC-USD", book(1).to_json(), now_us() // 1000, []))
    spill.close()
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        await sink.put(book(2))
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert (sink.stats.dropped, sink.stats.acked) == (0, 3)
    assert [len(read_book(r.value).bids) for r in await marks.records("books")] == [2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
async def test_closing_without_kafka_leaves_on_disk_what_memory_has(broker, marks, tmp_path):
    sink = Sink(broker.bootstrap, max_unacked=30, spill=Spill(tmp_path, SPILL_BYTES))
    await sink.open()
    await sink.put(trade(0))
    await sink.flush()
    async with away(broker, "killed"):
        for number in range(1, 31):
            await sink.put(trade(number))
        waiting = [asyncio.create_task(sink.put(trade(number))) for number in (31, 32)]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert await sink.close(0.5) == 0
        assert time.monotonic() - started < 3
        await asyncio.gather(*waiting)
        with pytest.raises(RuntimeError, match="closed"):
            await sink.put(trade(33))
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    assert ids_of(await marks.records("trades"), "BTC-USD") == list(range(33))


@pytest.mark.slow
async def test_a_word_of_the_moment_never_goes_to_disk(broker, marks, tmp_path, impatient):
    sink = Sink(broker.bootstrap, topics=("trades", "feeds"), spill=Spill(tmp_path, SPILL_BYTES))
    await sink.open()

    async def say(what):
        await sink.write("feeds", "me", what, schema=b"feed/1", received_time_us=now_us(), momentary=True)

    await say(b"before")
    await sink.flush()
    async with away(broker, "killed"):
        await sink.put(trade(1))
        await until(lambda: sink.spilling)
        spilled = sink.stats.spilled
        await say(b"meanwhile")
        assert sink.stats.spilled == spilled
        assert await sink.close(0.5) == 0
    spill = Spill(tmp_path, SPILL_BYTES)
    async with Sink(broker.bootstrap, topics=("trades", "feeds"), spill=spill) as sink:
        assert sink.spilling
        await say(b"after")
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    assert [r.value for r in await marks.records("feeds")] == [b"before", b"after"]
    assert ids_of(await marks.records("trades"), "BTC-USD") == [1]


async def test_what_lay_on_disk_for_days_gets_the_time_of_writing(broker, marks, tmp_path):
    before = now_us() // 1000
    spill = Spill(tmp_path, SPILL_BYTES)
    for time_ms in (before - 3_600_000, before - 3 * 86_400_000):
        spill.append(Record("trades", b"coinbase:BTC-USD", trade(1).to_json(), time_ms, []))
    spill.close()
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    hour, days = await marks.records("trades")
    assert hour.timestamp == before - 3_600_000
    assert before <= days.timestamp <= now_us() // 1000


async def test_a_record_on_disk_whose_topic_is_gone_is_counted_and_holds_up_nothing(broker, marks, tmp_path):
    spill = Spill(tmp_path, SPILL_BYTES)
    for topic in ("trades", "gone", "trades"):
        spill.append(Record(topic, b"coinbase:BTC-USD", trade(1).to_json(), now_us() // 1000, []))
    spill.close()
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
        assert sink.stats.dropped == 1
    assert len(await marks.records("trades")) == 2
    assert list(tmp_path.iterdir()) == []


class Market:
    """An exchange on loopback with one product, that beats and trades."""

    def __init__(self):
        self.trades = 0
        self.refuse = False
        self.cross = False
        self.busy = False
        self.updates = 0

    async def __call__(self, socket):
        with contextlib.suppress(Exception):
            if self.busy:
                await self.trade_on(socket)
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

    async def trade_on(self, socket):
        """Trade and move the book for ever; the size of the bid counts the moves."""
        await socket.recv()
        names = [{"name": name, "product_ids": ["BTC-USD"]} for name in ("matches", "level2_50")]
        await socket.send(json.dumps({"type": "subscriptions", "channels": names}))
        levels = {"bids": [["99", str(self.updates + 1)]], "asks": [["101", "1"]]}
        await socket.send(json.dumps({"type": "snapshot", "product_id": "BTC-USD", **levels}))
        self.updates += 1
        while True:
            await self.trade(socket)
            self.updates += 1
            moved = {"changes": [["buy", "99", str(self.updates)]], "time": stamp()}
            await socket.send(json.dumps({"type": "l2update", "product_id": "BTC-USD", **moved}))
            await asyncio.sleep(0.01)

    async def trade(self, socket):
        self.trades += 1
        trade = {"trade_id": self.trades, "sequence": self.trades, "side": "buy", "size": "1", "price": "2"}
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


@pytest.mark.slow
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


def follow(books):
    """Read a book as any reader does; return how it was lost, and whether each move since was seen."""
    causes, count = [], None
    for record in books:
        if isinstance(record, BookLost):
            causes.append(record.cause)
            count = None
        elif isinstance(record, BookSnapshot | BookKeyframe):
            assert count in (None, int(record.bids[0][1]))
            count = int(record.bids[0][1])
        elif count is not None:
            assert int(record.bids[0][1]) in range(count + 2), "a move was missed, and nobody said so"
            count = max(count, int(record.bids[0][1]))
    return causes, count


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_producer_goes_on_without_kafka_and_over_its_own_end(broker, marks, tmp_path, impatient):
    async def books():
        return [read_book(r.value) for r in await marks.records("books")]

    async def trade_ids():
        return ids_of(await marks.records("trades"), "BTC-USD")

    async def is_back():
        _, count = follow(await books())
        return count is not None and count > back_at

    async with market() as exchange:
        exchange.busy = True
        stop = asyncio.Event()
        # No keyframe is due: what comes, comes because the book was held back.
        options = {"spill_folder": tmp_path, "max_unacked": 100, "keyframe_s": 3000}
        task = producing(broker, exchange, stop, **options)
        await first(trade_ids)
        async with away(broker, "killed"):
            await until(lambda: list(tmp_path.glob("*.spill")))
            count = exchange.trades
            await until(lambda: exchange.trades > count + 300)
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 300 * 100
        back_at = exchange.updates
        await first(is_back)

        async def told():
            return [status for status in await feeds(marks) if status["spilled"] > 300]

        assert (await first(told))[-1]["dropped"] == 0
        lost = next(record for record in await books() if isinstance(record, BookLost))
        assert (lost.cause, lost.event_time_us) == ("kafka away", None)
        assert lost.received_time_us < now_us() - 2_000_000  # when the first record was held back
        async with away(broker, "killed"):
            await until(lambda: list(tmp_path.glob("*.spill")))
            stop.set()
            assert await asyncio.wait_for(task, PATIENCE_S) == 0
        stop = asyncio.Event()
        last = exchange.trades
        back_at = exchange.updates
        task = producing(broker, exchange, stop, **options)
        await first(is_back)
        stop.set()
        assert await asyncio.wait_for(task, PATIENCE_S) == 0
    ids = list(dict.fromkeys(await trade_ids()))
    assert ids == sorted(ids)
    holes = [(before, after) for before, after in pairwise(ids) if after > before + 1]
    assert len(holes) <= 1  # between the two runs nobody listened
    assert all(before > last - 100 and after < last + 10 for before, after in holes)
    causes, _ = follow(await books())
    assert set(causes) == {"kafka away", "producer stopped"}
    # The first run's last word lay on disk when the second began: it is passed over.
    assert (causes[0], causes[-1], causes.count("producer stopped")) == ("kafka away", "producer stopped", 1)


@pytest.mark.slow
async def test_a_producer_that_waits_for_kafka_when_it_is_stopped_loses_nothing(broker, marks, tmp_path):
    async def trade_ids():
        return ids_of(await marks.records("trades"), "BTC-USD")

    async with market() as exchange:
        exchange.busy = True
        stop = asyncio.Event()
        task = producing(broker, exchange, stop, spill_folder=tmp_path, max_unacked=20)
        await first(trade_ids)
        async with away(broker, "killed"):
            count = exchange.trades
            await until(lambda: exchange.trades > count + 100)
            assert not list(tmp_path.glob("*.spill"))  # it has not been away for long
            stop.set()
            assert await asyncio.wait_for(task, PATIENCE_S) == 0
            assert list(tmp_path.glob("*.spill"))
    async with Sink(broker.bootstrap, spill=Spill(tmp_path, SPILL_BYTES)) as sink:
        await asyncio.wait_for(sink.flush(), PATIENCE_S)
    ids = list(dict.fromkeys(await trade_ids()))
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) > count
