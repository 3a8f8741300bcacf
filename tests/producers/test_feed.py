"""The feed against a small exchange on loopback: real sockets, Coinbase's codec."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from candlewick.mock import Faults, MockExchange, Simulation
from models.book import BookDelta, BookLost, BookSnapshot
from models.errors import ConfigError
from models.trade import Heartbeat, Trade
from producers.codec import Refused
from producers.exchanges.coinbase import Codec
from producers.feed import Feed, FeedRefused
from producers.feed_status import FeedSettings, backoff_s

PATIENCE_S = 10
QUICK = FeedSettings(
    connects_per_s=1000, backoff_first_s=0.001, backoff_most_s=0.01, tick_s=0.01, refused_s=0.05, ack_s=5
)
NOW_US = 1_790_000_000_000_000
TIME = "2026-09-21T13:46:40.000000Z"


async def until(condition):
    """Wait for a condition, and return what it returned."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return found


class Client:
    """One connection, from the exchange's side."""

    def __init__(self, socket):
        self.socket = socket
        self.requests = []
        self.books, self.symbols = set(), set()
        self.accepted_at = time.monotonic()

    async def send(self, **message):
        await self.socket.send(json.dumps(message))

    async def match(self, trade_id, symbol="BTC-USD"):
        await self.send(
            type="match", trade_id=trade_id, sequence=trade_id, side="buy", size="1", price="2", time=TIME,
            product_id=symbol,
        )  # fmt: skip

    async def heartbeat(self, symbol="BTC-USD", last_trade_id=1):
        await self.send(
            type="heartbeat",
            sequence=last_trade_id,
            last_trade_id=last_trade_id,
            product_id=symbol,
            time=TIME,
        )

    async def update(self, symbol="BTC-USD"):
        await self.send(type="l2update", product_id=symbol, changes=[["buy", "98", "5"]], time=TIME)

    async def snapshot(self, symbol="BTC-USD", bids=(("99", "1"),)):
        await self.send(type="snapshot", product_id=symbol, bids=list(bids), asks=[["101", "1"]])


class Exchange:
    """Acknowledges, and sends a snapshot of each book, unless told otherwise."""

    def __init__(self):
        self.clients = []
        self.snapshots = True
        self.answer = self.accept
        self.port = 0
        self.user = ""

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def start(self):
        self.server = await serve(self._serve, "127.0.0.1", self.port, max_size=None, close_timeout=0.1)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self):
        self.server.close()
        await self.server.wait_closed()

    @property
    def url(self):
        return f"ws://{self.user}127.0.0.1:{self.port}"

    async def client(self, number=0):
        """Return a client once it has sent a request."""
        await until(lambda: len(self.clients) > number and self.clients[number].requests)
        return self.clients[number]

    async def _serve(self, socket):
        client = Client(socket)
        self.clients.append(client)
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                request = json.loads(text)
                client.requests.append(request)
                await self.answer(client, request)

    async def accept(self, client, request):
        symbols = set(request["product_ids"])
        books = symbols if "level2_batch" in request["channels"] else set()
        if request["type"] == "unsubscribe":
            client.books -= books
        else:
            client.symbols |= symbols
            client.books |= books
        await client.send(
            type="subscriptions",
            channels=[
                {"name": "matches", "product_ids": sorted(client.symbols)},
                {"name": "level2_50", "product_ids": sorted(client.books)},
            ],
        )
        if request["type"] == "subscribe" and self.snapshots:
            for symbol in sorted(books):
                await client.snapshot(symbol)

    async def refuse(self, client, request):
        await client.send(
            type="error", message="Failed to subscribe", reason="NO-SUCH is not a valid product"
        )


class Log:
    """Takes what the feed delivers."""

    def __init__(self):
        self.events = []
        self.dead = []
        self.open = asyncio.Event()
        self.open.set()

    async def deliver(self, event):
        await self.open.wait()
        self.events.append(event)

    async def dead_letter(self, value, source, reason):
        self.dead.append((value, source, reason))

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def running(exchange, log, symbols=("BTC-USD",), settings=QUICK, **options):
    feed = Feed(
        Codec,
        exchange.url,
        symbols,
        log.deliver,
        log.dead_letter,
        settings,
        clock_us=lambda: NOW_US,
        **options,
    )
    task = asyncio.create_task(feed.run())
    feed.task = task
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.wait([task])


def reconnects(feed, number=0):
    return feed.status.connections[number].reconnects


async def test_events_arrive_in_order_with_the_time_of_receipt():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        client = await exchange.client()
        await client.match(1)
        await client.heartbeat()
        await client.update()
        await client.match(2)
        await until(lambda: len(log.events) == 5)
        assert [type(event) for event in log.events] == [BookSnapshot, Trade, Heartbeat, BookDelta, Trade]
        assert {event.received_time_us for event in log.events} == {NOW_US}
        [status] = feed.status.connections
        assert (status.state, status.frames, status.last_frame_us) == ("subscribed", 6, NOW_US)
        assert status.bytes > 400


async def test_products_are_sharded_and_connections_start_one_by_one():
    log = Log()
    symbols = [f"P{number}-USD" for number in range(7)]
    settings = FeedSettings(connection_products=3, connects_per_s=20)
    async with Exchange() as exchange, running(exchange, log, symbols, settings) as feed:
        await until(lambda: feed.status.connected == 3)
        asked = [client.requests[0]["product_ids"] for client in exchange.clients]
        assert sorted(asked) == [symbols[0:3], symbols[3:6], symbols[6:]]
        at = [client.accepted_at for client in exchange.clients]
        assert at[2] - at[0] >= 0.08  # two steps of 50 ms, less what a handshake varies


async def test_a_lost_connection_comes_back_subscribes_again_and_tells_of_the_book():
    log = Log()
    async with Exchange() as exchange, running(exchange, log, ("BTC-USD", "ETH-USD")) as feed:
        client = await exchange.client()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        await client.socket.close(1012)
        again = await exchange.client(1)
        await until(lambda: len(log.of(BookSnapshot)) == 4)
        assert again.requests[0] == client.requests[0]
        kinds = [type(event) for event in log.events]
        assert kinds == [BookSnapshot] * 2 + [BookLost] * 2 + [BookSnapshot] * 2
        assert {(lost.symbol, lost.cause) for lost in log.of(BookLost)} == {
            ("BTC-USD", "disconnected"),
            ("ETH-USD", "disconnected"),
        }
        assert reconnects(feed) == {"closed 1012": 1}


async def test_a_book_without_snapshot_is_not_told_lost():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        exchange.snapshots = False
        client = await exchange.client()
        client.socket.transport.abort()
        await exchange.client(1)
        assert reconnects(feed) == {"cut": 1}
        assert not log.of(BookLost)


async def test_an_exchange_that_is_away_is_tried_until_it_is_back():
    log = Log()
    async with Exchange() as exchange:
        await exchange.stop()
        async with running(exchange, log) as feed:
            await until(lambda: reconnects(feed).get("unreachable", 0) >= 3)
            assert feed.status.connected == 0
            await exchange.start()
            await until(lambda: log.of(BookSnapshot))
            assert feed.status.connected == 1


def test_backoff_grows_to_its_ceiling_with_full_jitter():
    class Highest(random.Random):
        def uniform(self, a, b):
            assert a == 0
            return b

    settings = FeedSettings()
    waits = [backoff_s(attempt, settings, Highest()) for attempt in range(9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff_s(100_000, settings, Highest()) == 30
    rng = random.Random(7)
    some = [backoff_s(3, settings, rng) for _ in range(1000)]
    assert min(some) < 0.2
    assert max(some) > 3.8


@pytest.mark.parametrize(
    ("healthy_s", "served_attempts", "ceilings"),
    [(60, 9, [1, 2, 4, 8]), (60, 2, [1, 2, 4, 4]), (0, 9, [1, 1, 1, 1])],
)
async def test_backoff_starts_over_after_a_healthy_time(healthy_s, served_attempts, ceilings):
    asked = []

    class NoWait(random.Random):
        def uniform(self, a, b):
            asked.append(b)
            return 0

    log = Log()
    settings = FeedSettings(
        connects_per_s=1000, backoff_first_s=1, tick_s=0.01, healthy_s=healthy_s,
        served_attempts=served_attempts,
    )  # fmt: skip
    async with Exchange() as exchange, running(exchange, log, settings=settings, rng=NoWait()):
        for number in range(4):
            client = await exchange.client(number)
            await until(lambda number=number: len(log.of(BookSnapshot)) == number + 1)
            await client.socket.close()
        await until(lambda: len(asked) >= 4)
        assert asked[:4] == ceilings


async def test_silence_ends_a_connection_that_is_still_open():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, backoff_first_s=0.001, tick_s=0.01, silence_s=0.2)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        await exchange.client(1)
        assert reconnects(feed) == {"silent": 1}
        await until(lambda: log.of(BookLost))


async def test_heartbeats_keep_a_quiet_connection():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, silence_s=0.2)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        client = await exchange.client()
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            await client.heartbeat()
            await asyncio.sleep(0.02)
        assert reconnects(feed) == {}


async def test_a_slow_sink_is_not_taken_for_a_silent_exchange():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, silence_s=0.1)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        log.open.clear()
        client = await exchange.client()
        await client.match(1)
        await asyncio.sleep(0.4)  # four times the silence that would end it
        assert reconnects(feed) == {}
        await client.match(2)
        log.open.set()
        await until(lambda: len(log.of(Trade)) == 2)
        assert len(exchange.clients) == 1


async def test_a_request_without_any_answer_ends_the_connection():
    async def say_nothing(client, request):
        await client.heartbeat()

    log = Log()
    settings = FeedSettings(connects_per_s=1000, backoff_first_s=0.001, tick_s=0.01, ack_s=0.1)
    async with Exchange() as exchange:
        exchange.answer = say_nothing
        async with running(exchange, log, settings=settings) as feed:
            await exchange.client(1)
            assert reconnects(feed)["not acknowledged"] >= 1


async def test_latency_is_of_each_trade_but_the_first_of_a_connection():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        for number, trade_ids in enumerate([(1, 2, 3), (4, 5)]):
            client = await exchange.client(number)
            for trade_id in trade_ids:
                await client.match(trade_id)
            await until(lambda last=trade_ids[-1]: len(log.of(Trade)) == last)
            await client.socket.close(1012)
        status = feed.status
        assert sum(status.latency_counts) == 3
        assert status.latency_sum_us == sum(
            max(0, trade.received_time_us - trade.event_time_us)
            for trade in log.of(Trade)
            if trade.trade_id in (2, 3, 5)
        )
        assert status.last_frame_us
        assert status.last_frame_us >= log.of(Trade)[-1].received_time_us
        assert sum(status.reconnect_reasons.values()) == status.reconnects


async def test_a_refused_frame_is_kept_and_the_connection_goes_on():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        client = await exchange.client()
        await until(lambda: log.of(BookSnapshot))
        await client.socket.send("{not json")
        await client.socket.send(b"\xff\xfe", text=True)
        await client.match(1)
        await until(lambda: log.of(Trade))
        assert [value for value, _, _ in log.dead] == [b"{not json", b"\xff\xfe"]
        assert log.dead[0][1] == f"coinbase {exchange.url}"
        assert log.dead[0][2]
        assert feed.status.refused_frames == 2
        assert len(exchange.clients) == 1
        assert not log.of(BookLost)  # no frame named the symbol


async def test_a_refused_frame_that_names_a_book_loses_it_and_brings_a_new_snapshot():
    log = Log()
    async with Exchange() as exchange, running(exchange, log, ("BTC-USD", "ETH-USD")) as feed:
        client = await exchange.client()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        bad = {"type": "l2update", "product_id": "ETH-USD", "changes": [["buy", "NaN", "1"]], "time": TIME}
        await client.send(**bad)
        await until(lambda: len(log.of(BookSnapshot)) == 3)
        assert [(lost.symbol, lost.cause) for lost in log.of(BookLost)] == [("ETH-USD", "refused frame")]
        assert client.requests[1:] == [
            {"type": kind, "product_ids": ["ETH-USD"], "channels": ["level2_batch"]}
            for kind in ("unsubscribe", "subscribe")
        ]
        assert feed.status.books_resubscribed == 1


async def test_a_book_is_not_resubscribed_more_often_than_allowed():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, resubscribe_s=0.5)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        client = await exchange.client()
        await until(lambda: log.of(BookSnapshot))
        started = time.monotonic()
        for number in range(1, 4):
            await client.send(type="l2update", product_id="BTC-USD", changes="?", time=TIME)
            await client.send(type="l2update", product_id="BTC-USD", changes="?", time=TIME)
            await until(lambda number=number: len(log.of(BookSnapshot)) == number + 1)
        assert time.monotonic() - started >= 1.0
        assert feed.status.books_resubscribed == 3
        assert len(log.of(BookLost)) == 3


@pytest.mark.parametrize(("in_step_s", "least"), [(60, (0.2, 0.4, 0.8, 0.8)), (0.02, (0.2, 0.2, 0.2, 0.2))])
async def test_a_book_that_is_lost_again_and_again_waits_longer_until_it_holds(in_step_s, least):
    log, asked = Log(), []
    settings = FeedSettings(
        connects_per_s=1000, tick_s=0.005, resubscribe_s=0.2, resubscribe_most_s=0.8, in_step_s=in_step_s
    )
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        await until(lambda: log.of(BookSnapshot))
        for number in range(1, 6):
            await asyncio.sleep(0.05)
            await feed.lose_book("BTC-USD", "crossed")
            await until(lambda number=number: len(log.of(BookSnapshot)) == number + 1)
            book = feed._connections[0]._books["BTC-USD"]
            asked.append(book.resubscribed_at)
            assert book.resubscribes == (number if in_step_s == 60 else 1)
    for (before, after), wait_s in zip(itertools.pairwise(asked), least, strict=True):
        assert after - before >= wait_s


async def test_a_book_without_a_snapshot_is_subscribed_again():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, snapshot_s=0.1, resubscribe_s=0.1)
    async with Exchange() as exchange:
        exchange.snapshots = False
        async with running(exchange, log, settings=settings) as feed:
            client = await exchange.client()
            await until(lambda: len(client.requests) >= 3)
            exchange.snapshots = True
            await until(lambda: log.of(BookSnapshot))
            count = feed.status.books_resubscribed
            await client.match(1)
            await until(lambda: log.of(Trade))
            await asyncio.sleep(0.3)  # nothing more may be asked once the snapshot is there
            assert feed.status.books_resubscribed == count
            assert len(exchange.clients) == 1
            assert not log.of(BookLost)


async def test_whoever_watches_the_book_may_call_it_lost():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        await until(lambda: log.of(BookSnapshot))
        await feed.lose_book("BTC-USD", "crossed")
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        assert [lost.cause for lost in log.of(BookLost)] == ["crossed"]


async def test_missed_trades_lose_the_book_of_their_symbol_and_of_no_other():
    log = Log()
    async with Exchange() as exchange, running(exchange, log, ("BTC-USD", "ETH-USD")) as feed:
        client = await exchange.client()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        for trade_id in (7, 8, 8, 5, 9):  # the first may be any, and what came before is no loss
            await client.match(trade_id)
        await client.match(70, "ETH-USD")
        await client.match(11)
        await until(lambda: len(log.of(BookSnapshot)) == 3)
        assert [(lost.symbol, lost.cause) for lost in log.of(BookLost)] == [("BTC-USD", "missed trades")]
        assert client.requests[1:] == [
            {"type": kind, "product_ids": ["BTC-USD"], "channels": ["level2_batch"]}
            for kind in ("unsubscribe", "subscribe")
        ]
        assert len(log.of(Trade)) == 7
        assert reconnects(feed) == {}


async def test_holes_of_a_recording_lose_no_book():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, lose_books_on_gaps=False)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        client = await exchange.client()
        for trade_id in (7, 10):
            await client.match(trade_id)
        for _ in range(3):
            await client.heartbeat(last_trade_id=12)
        await client.update()
        await until(lambda: log.of(BookDelta))
        assert not log.of(BookLost)
        assert feed.status.books_resubscribed == 0


async def test_each_connection_counts_its_trades_anew():
    log = Log()
    async with Exchange() as exchange, running(exchange, log):
        client = await exchange.client()
        await client.match(7)
        await until(lambda: log.of(Trade))
        await client.socket.close()
        again = await exchange.client(1)
        await again.match(70)
        await until(lambda: len(log.of(Trade)) == 2)
        assert [lost.cause for lost in log.of(BookLost)] == ["disconnected"]


async def test_a_heartbeat_that_names_a_trade_that_never_comes_loses_the_book():
    log = Log()
    async with Exchange() as exchange, running(exchange, log):
        client = await exchange.client()
        await until(lambda: log.of(BookSnapshot))
        await client.match(7)
        await client.heartbeat(last_trade_id=8)  # on its way
        await client.match(8)
        await client.heartbeat(last_trade_id=9)
        await client.update()
        await until(lambda: log.of(BookDelta))
        assert not log.of(BookLost)
        await client.heartbeat(last_trade_id=9)
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        assert [lost.cause for lost in log.of(BookLost)] == ["missed trades"]
        await client.heartbeat(last_trade_id=9)
        await client.match(10)
        await until(lambda: len(log.of(Trade)) == 3)
        assert len(log.of(BookLost)) == 1


async def test_deltas_are_held_back_until_the_new_snapshot_and_signs_of_loss_cost_nothing():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, snapshot_s=60, resubscribe_s=0.01)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        client = await exchange.client()
        await until(lambda: log.of(BookSnapshot))
        exchange.snapshots = False
        await client.match(1)
        await client.update()
        await client.match(3)
        await until(lambda: len(client.requests) == 3)
        for trade_id in range(5, 100, 2):
            await client.match(trade_id)
            await client.update()
            await client.send(type="l2update", product_id="BTC-USD", changes="?", time=TIME)
        await until(lambda: len(log.of(Trade)) == 50 and len(log.dead) == 48)
        await asyncio.sleep(0.2)  # many times what a resubscribe waits
        await client.snapshot(bids=(("97", "1"),))
        await client.update()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        await until(lambda: isinstance(log.events[-1], BookDelta))
        books = [type(event) for event in log.events if not isinstance(event, Trade)]
        assert books == [BookSnapshot, BookDelta, BookLost, BookSnapshot, BookDelta]
        assert feed.status.books_resubscribed == 1
        assert len(client.requests) == 3


async def test_deltas_before_any_snapshot_are_of_no_use():
    log = Log()
    async with Exchange() as exchange:
        exchange.snapshots = False
        async with running(exchange, log) as feed:
            client = await exchange.client()
            await until(lambda: feed.status.connected)
            await client.update()
            await client.match(1)
            await until(lambda: log.of(Trade))
            assert not log.of(BookDelta)


async def test_a_silent_symbol_loses_its_book_while_its_connection_lives():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, symbol_silence_s=0.3, resubscribe_s=0.1)
    async with Exchange() as exchange, running(exchange, log, ("BTC-USD", "ETH-USD"), settings) as feed:
        client = await exchange.client()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        while not log.of(BookLost):
            await client.heartbeat("BTC-USD")
            await asyncio.sleep(0.02)
        await until(lambda: len(log.of(BookSnapshot)) == 3)
        assert {(lost.symbol, lost.cause) for lost in log.of(BookLost)} == {("ETH-USD", "silent")}
        assert {request["product_ids"][0] for request in client.requests[1:]} == {"ETH-USD"}
        assert reconnects(feed) == {}


async def test_a_slow_sink_is_not_taken_for_a_silent_symbol():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.001, symbol_silence_s=1)
    async with Exchange() as exchange, running(exchange, log, ("BTC-USD", "ETH-USD"), settings):
        client = await exchange.client()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        log.open.clear()
        await client.match(1)
        await asyncio.sleep(1.5)
        log.open.set()
        await until(lambda: log.of(Trade))
        await asyncio.sleep(0.1)  # everything was read, and the other symbol's frames are still to come
        await client.heartbeat("ETH-USD")
        await until(lambda: log.of(Heartbeat))
        assert not log.of(BookLost)


async def test_a_lost_book_is_told_though_the_connection_ends_while_there_is_no_room():
    log, at_the_door = Log(), asyncio.Event()
    deliver = log.deliver

    async def slow(event):
        if isinstance(event, BookLost):
            at_the_door.set()
        await deliver(event)

    log.deliver = slow
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, symbol_silence_s=0.3, backoff_first_s=0.01)
    async with Exchange() as exchange, running(exchange, log, ("BTC-USD", "ETH-USD"), settings):
        client = await exchange.client()
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        log.open.clear()  # and the reader is not held up: it has nothing to deliver
        await asyncio.wait_for(at_the_door.wait(), PATIENCE_S)
        await client.socket.close()
        await asyncio.sleep(0.3)
        log.open.set()
        await until(lambda: len(log.of(BookSnapshot)) == 4)
    books = [(type(event), event.symbol) for event in log.events]
    for symbol in ("BTC-USD", "ETH-USD"):
        first, again = (i for i, each in enumerate(books) if each == (BookSnapshot, symbol))
        assert (BookLost, symbol) in books[first:again]


async def test_a_lost_book_that_cannot_be_told_ends_the_feed_with_the_reason():
    log = Log()
    deliver = log.deliver

    async def full(event):
        if isinstance(event, BookLost):
            raise OSError("no space left")
        await deliver(event)

    log.deliver = full
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, symbol_silence_s=0.3)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        await until(lambda: log.of(BookSnapshot))
        await until(feed.task.done)  # only the clock, not a frame, could tell of the silence
        with pytest.raises(OSError, match="no space left"):
            feed.task.result()


@pytest.mark.parametrize("where", ["https://127.0.0.1/", "ws://127.0.0.1:99999/", "ws://127.0.0.1:{port}/"])
async def test_a_redirect_is_not_followed_and_the_exchange_tried_again(where):
    log, asked = Log(), []

    async def redirect(socket, request):
        asked.append(request.path)
        if len(asked) < 3:
            response = socket.respond(302, "")
            response.headers["Location"] = where.format(port=exchange.port)
            return response
        return None

    async with Exchange() as exchange:
        await exchange.stop()
        exchange.server = await serve(exchange._serve, "127.0.0.1", exchange.port, process_request=redirect)
        async with running(exchange, log) as feed:
            await until(lambda: log.of(BookSnapshot))
            assert reconnects(feed) == {"unreachable": 2}


async def test_user_and_password_of_the_address_are_never_shown():
    log = Log()
    with capture_logs() as lines:
        async with Exchange() as exchange:
            shown, exchange.user = exchange.url, "user:secret@"
            async with running(exchange, log) as feed:
                client = await exchange.client()
                await client.socket.send("{not json")
                await until(lambda: log.dead)
                assert client.socket.request.headers["Authorization"].startswith("Basic ")
                await client.socket.close()
                await until(lambda: reconnects(feed))
    assert log.dead[0][1] == f"coinbase {shown}"
    assert any(line.get("url") == shown for line in lines)
    assert "secret" not in str(lines)
    with pytest.raises(ConfigError) as caught:
        Feed(Codec, "http://user:secret@host", ["BTC-USD"], None, None)
    assert "secret" not in str(caught.value)


MARKET = Simulation(products=("BTC-USD", "ETH-USD"), trades_per_s=50)


@contextlib.asynccontextmanager
async def mock_market(**faults):
    exchange = MockExchange(MARKET, settle_s=0.02, faults=Faults(**faults))
    await exchange.start()
    exchange.url = exchange.ws_url
    try:
        yield exchange
    finally:
        await exchange.stop()


async def live(exchange, log, settings, condition):
    feed = Feed(Codec, exchange.url, MARKET.products, log.deliver, log.dead_letter, settings)
    task = asyncio.create_task(feed.run())
    try:
        await until(condition)
    finally:
        task.cancel()
        await asyncio.wait([task])
    return feed


async def test_a_market_that_loses_trades_is_out_of_step_and_comes_back_not_too_often():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, resubscribe_s=0.5)
    async with mock_market(drop_trades=0.1) as exchange:
        started = time.monotonic()
        feed = await live(exchange, log, settings, lambda: len(log.of(BookSnapshot)) >= 10)
        took_s = time.monotonic() - started
    assert {lost.cause for lost in log.of(BookLost)} == {"missed trades"}
    assert 8 <= feed.status.books_resubscribed <= 2 * (took_s / 0.5 + 1)
    for symbol in MARKET.products:
        books = [type(e) for e in log.events if e.symbol == symbol and not isinstance(e, Trade | Heartbeat)]
        in_step = False
        for kind in books:
            assert in_step is (kind is not BookSnapshot), (
                "a snapshot ends what a loss began, and nothing else comes between"
            )
            in_step = kind is not BookLost


async def test_a_market_that_stalls_for_a_moment_loses_nothing():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, tick_s=0.01, symbol_silence_s=3, silence_s=3)
    async with mock_market(stall_every=100, stall_s=0.7) as exchange:
        feed = await live(exchange, log, settings, lambda: len(log.of(Trade)) >= 300)
        assert exchange.status()["faults"]["stall"] >= 2
    assert not log.of(BookLost)
    assert reconnects(feed) == {}


async def test_a_market_that_stalls_for_long_is_left_and_comes_back():
    log = Log()
    settings = FeedSettings(
        connects_per_s=1000, tick_s=0.01, symbol_silence_s=0.6, silence_s=0.6, backoff_first_s=0.01
    )
    async with mock_market(stall_every=200, stall_s=20) as exchange:
        feed = await live(exchange, log, settings, lambda: len(log.of(BookSnapshot)) >= 4)
    assert reconnects(feed) == {"silent": 1}
    assert {lost.cause for lost in log.of(BookLost)} <= {"disconnected", "silent"}
    assert len(log.of(BookLost)) == 2


async def test_a_feed_that_is_refused_everything_ends_with_the_exchanges_words():
    log = Log()
    async with Exchange() as exchange:
        exchange.answer = exchange.refuse
        settings = FeedSettings(connection_products=1, connects_per_s=1000, tick_s=0.01, refused_s=0.05)
        async with running(exchange, log, ("NO-SUCH", "NO-WAY"), settings) as feed:
            with pytest.raises(FeedRefused) as raised:
                await asyncio.wait_for(feed.task, PATIENCE_S)
            assert str(raised.value) == (
                "coinbase refused every subscription: Failed to subscribe: NO-SUCH is not a valid product"
            )


async def test_a_feed_that_is_refused_and_cut_off_ends_the_same_way():
    async def refuse_and_close(client, request):
        await exchange.refuse(client, request)
        await client.socket.close(1008)

    log = Log()
    async with Exchange() as exchange:
        exchange.answer = refuse_and_close
        async with running(exchange, log, ("NO-SUCH",)) as feed:
            with pytest.raises(FeedRefused):
                await asyncio.wait_for(feed.task, PATIENCE_S)


async def test_one_refused_channel_leaves_the_others_alone():
    async def refuse_books(client, request):
        await client.send(
            type="error", message="Failed to subscribe", reason="level2 requires authentication"
        )
        await asyncio.sleep(0.01)  # the acknowledgement of the rest comes a moment later
        await client.send(type="subscriptions", channels=[{"name": "matches", "product_ids": ["BTC-USD"]}])

    log = Log()
    async with Exchange() as exchange:
        exchange.answer = refuse_books
        async with running(exchange, log) as feed:
            client = await exchange.client()
            await until(lambda: feed.status.connected)
            await client.match(1)
            await until(lambda: log.of(Trade))
            assert feed.status.last_refusal == "Failed to subscribe: level2 requires authentication"
            assert feed.status.refused_requests == 1
            assert reconnects(feed) == {}


async def test_one_unknown_product_does_not_take_its_connection_with_it():
    async def know_some(client, request):
        answer = exchange.refuse if "NO-SUCH" in request["product_ids"] else exchange.accept
        await answer(client, request)

    log = Log()
    settings = FeedSettings(
        connection_products=2, connects_per_s=1000, backoff_first_s=0.001, tick_s=0.01, refused_s=0.05
    )
    async with Exchange() as exchange:
        exchange.answer = know_some
        async with running(exchange, log, ("A-USD", "B-USD", "C-USD", "NO-SUCH"), settings) as feed:
            await until(lambda: {event.symbol for event in log.events} == {"A-USD", "B-USD", "C-USD"})
            await until(lambda: feed.status.connected == 2)
            assert reconnects(feed, 1) == {"refused": 1}


async def test_a_message_of_an_unknown_type_is_counted_and_passed_over():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        client = await exchange.client()
        await client.send(type="auction", product_id="BTC-USD")
        await client.match(1)
        await until(lambda: log.of(Trade))
        assert feed.status.unknown_messages == {"auction": 1}
        assert not log.dead


async def test_a_snapshot_of_five_megabytes_passes():
    log = Log()
    async with Exchange() as exchange, running(exchange, log) as feed:
        client = await exchange.client()
        bids = [[f"{price / 100:.2f}", "0.12345678"] for price in range(1, 210_000)]
        await client.snapshot(bids=bids)
        await until(lambda: len(log.of(BookSnapshot)) == 2)
        assert feed.status.connections[0].bytes > 5_000_000
        assert len(log.of(BookSnapshot)[1].bids) == len(bids)
        assert reconnects(feed) == {}


async def test_a_frame_over_the_limit_closes_the_connection_which_comes_back():
    log = Log()
    settings = FeedSettings(connects_per_s=1000, backoff_first_s=0.001, tick_s=0.01, max_frame_bytes=10_000)
    async with Exchange() as exchange, running(exchange, log, settings=settings) as feed:
        client = await exchange.client()
        await client.socket.send("x" * 9_999)
        await until(lambda: log.dead)
        with contextlib.suppress(ConnectionClosed):
            await client.socket.send("x" * 10_001)
        again = await exchange.client(1)
        assert client.socket.close_code == 1009
        await again.match(1)
        await until(lambda: log.of(Trade))
        assert reconnects(feed) == {"frame too big": 1}
        assert len(log.dead) == 1


async def test_a_full_sink_holds_up_the_socket():
    log = Log()
    frames = 400
    async with Exchange() as exchange, running(exchange, log) as feed:
        client = await exchange.client()
        await until(lambda: log.of(BookSnapshot))
        log.open.clear()
        sent = 0

        async def flood():
            nonlocal sent
            for number in range(frames):
                # What does not compress: buffers of sockets hold some hundred of the others.
                await client.send(
                    type="match", trade_id=number, sequence=number, side="buy", size="1", price="2", time=TIME,
                    product_id="BTC-USD", pad=random.Random(number).randbytes(50_000).hex(),
                )  # fmt: skip
                sent += 1

        flooding = asyncio.create_task(flood())
        frames_before = feed.status.connections[0].frames
        previous = -1
        while sent != previous:  # until the sender stands still
            previous = sent
            await asyncio.sleep(0.3)
        assert feed.status.connections[0].frames == frames_before + 1
        assert sent < frames / 2, "the feed read on although nobody took its events"
        log.open.set()
        await until(lambda: len(log.of(Trade)) == frames)
        await flooding
        assert [trade.trade_id for trade in log.of(Trade)] == list(range(frames))


async def test_an_error_of_the_sink_ends_the_feed():
    async def fail(event):
        raise RuntimeError("the sink is closed")

    log = Log()
    log.deliver = fail
    async with Exchange() as exchange, running(exchange, log) as feed:
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(feed.task, PATIENCE_S)


async def test_cancelling_closes_the_sockets_quickly():
    log = Log()
    async with Exchange() as exchange:
        async with running(exchange, log) as feed:
            client = await exchange.client()
            await until(lambda: feed.status.connected)
            started = time.monotonic()
        assert time.monotonic() - started < 2
        await asyncio.wait_for(client.socket.wait_closed(), PATIENCE_S)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ws://", "nonsense", "ws://[::1"])
def test_an_address_that_is_no_websocket_is_told_at_once(url):
    with pytest.raises(ConfigError, match="address"):
        Feed(Codec, url, ["BTC-USD"], None, None)


def test_no_products_are_told_at_once():
    with pytest.raises(ConfigError, match="products"):
        Feed(Codec, "ws://127.0.0.1:1", [], None, None)


def test_a_refusal_without_a_reason_reads_well():
    error = FeedRefused("coinbase", Refused("Failed", ""))
    assert str(error) == "coinbase refused every subscription: Failed"
