"""Push without a worker: what the hub tells as trades are folded, and what is passed on for another worker."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from models.book import BookDelta, BookSnapshot
from models.trade import Heartbeat, Trade

MINUTE = 60_000_000
START = 1_790_000_100_000_000  # begins 5 minutes
PRODUCTS = ("AAA-USD", "BBB-USD")
MANY = 120
"""Streams to one worker: more than aiohttp's client has connections, if nobody tells it."""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the modules of push; the app wants a broker's address, and asks it for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDLEWICK_BROKER", "127.0.0.1:1")
        patch.setenv("CANDLEWICK_DATA_DIR", str(tmp_path_factory.mktemp("push")))
        patch.setenv("CANDLEWICK_PARTITIONS", "1")
        names = {"app": "candlewick.app", "agent": "agents.candles", "books": "agents.books", "peers": "candlewick.web.peers",
                 "routes": "candlewick.web.routes",
                 **{name: f"candlewick.web.push.{name}" for name in ("bounds", "hub", "relay", "stream", "ws")}}  # fmt: skip
        yield SimpleNamespace(**{name: importlib.import_module(path) for name, path in names.items()})


# The hub.


class Heard:
    """Who listens, and what was heard."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, dict[str, Any], Any]] = []
        self.has_ended = False

    def hear(self, topic: Any, updates: Any, place: Any, sse: bytes) -> None:
        self.told += [(topic, json.loads(update.data), place) for update in updates]

    def end(self) -> None:
        self.has_ended = True


class Market:
    """One product's log, folded as the agent folds it, with a hub of its own."""

    def __init__(self, code: Any, symbol: str) -> None:
        self._code = code
        self.hub = code.hub.Hub()
        self._key = f"coinbase:{symbol}"
        self._rows = code.agent.candles.table.rows(0)
        self._tape = code.agent.begin(None, self._rows.of(self._key))
        self._symbol = symbol
        self.offset = -1

    def topic(self, window: str) -> Any:
        return self._code.hub.Topic("candles", "coinbase", self._symbol, window)

    def trade(self, trade_id: int, at_us: int) -> None:
        self._fold(Trade("coinbase", self._symbol, trade_id, Decimal(1), Decimal(1), "buy", at_us, at_us))

    def heartbeat(self, last_trade_id: int, at_us: int) -> None:
        self._fold(Heartbeat("coinbase", self._symbol, last_trade_id, at_us, at_us))

    def _fold(self, event: Any) -> None:
        self.offset += 1
        for change in self._tape.fold([(self.offset, event)]):
            self.hub.candle_told(0, self._key, change)
        self._tape.settle()
        self._rows.put(f"state/{self._key}".encode(), self._tape.state)
        self.hub.trades_changed(0, self._key, [])


@pytest.fixture
def market(code: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Market:
    # Nothing is in RocksDB: what was not written in the test is not there.
    monkeypatch.setattr(type(code.agent.candles.table), "stored", lambda *_: None)
    monkeypatch.setattr(type(code.agent.candles.table), "stored_keys", lambda *_, **__: [])
    return Market(code, f"{crc32(request.node.name.encode())}-USD")


async def rounds(hub: Any) -> None:
    """Let the hub tell all that has changed."""
    while hub._changed:
        await hub._round()


async def test_a_composed_candle_that_closes_without_a_trade_is_told(market: Market) -> None:
    market.trade(1, START)
    market.heartbeat(1, START + 3 * MINUTE)  # its one minute has closed, its five have not
    listener = Heard()
    market.hub.join(market.topic("5m"), listener)
    market.trade(2, START + 6 * MINUTE)
    await rounds(market.hub)
    told = {candle["start_ms"] * 1000: candle["state"] for _, candle, _ in listener.told}
    assert told == {START: "closed", START + 5 * MINUTE: "open"}


@pytest.mark.parametrize(("channel", "window"), [("candles", "721m"), ("candles", "0m"), ("book", "5m")])
def test_a_window_that_cannot_be_listened_to_is_refused(code: Any, channel: str, window: str) -> None:
    code.bounds.check_window("candles", "720m")
    with pytest.raises(code.stream.Problem, match="window"):
        code.bounds.check_window(channel, window)


async def test_a_windows_book_statistics_are_told_once_more_when_it_has_closed(code: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    books = code.books
    monkeypatch.setattr(type(books.book_stats.table), "stored", lambda *_: None)
    monkeypatch.setattr(type(books.book_stats.table), "stored_keys", lambda *_, **__: [])
    rows, key, hub = books.book_stats.table.rows(0), "coinbase:BOOK-USD", code.hub.Hub()
    tape = books.begin(None, rows.of(key))

    def fold(offset: int, event: Any) -> None:
        tape.fold([(offset, event)])
        tape.settle()
        rows.put(f"state/{key}".encode(), tape.state)
        hub.book_changed(0, key, [])

    levels = (((Decimal(99), Decimal(1)),), ((Decimal(101), Decimal(1)),))
    fold(0, BookSnapshot("coinbase", "BOOK-USD", START, START, *levels))
    listener = Heard()
    hub.join(code.hub.Topic("book", "coinbase", "BOOK-USD", "1m"), listener)
    later = START + MINUTE + 1
    fold(1, BookDelta("coinbase", "BOOK-USD", later, later, ((Decimal(98), Decimal(1)),), ()))
    await rounds(hub)
    told = [(book["start_ms"] * 1000, book["state"]) for _, book, _ in listener.told]
    assert told == [(START, "closed"), (START + MINUTE, "open")]


async def test_what_is_so_again_is_told_to_who_has_heard_something_else(code: Any, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    now = [b"1"]
    monkeypatch.setattr(market.hub, "_updates", lambda _: [code.hub.Update("candle", now[0])])
    market.trade(1, START)
    market.hub.join(market.topic("1m"), Heard())
    market.trade(2, START + 1)
    await rounds(market.hub)
    now[0] = b"2"  # of which the next one is told when it joins
    listener = Heard()
    market.hub.join(market.topic("1m"), listener)
    now[0] = b"1"
    market.trade(3, START + 2)
    await rounds(market.hub)
    assert [told for _, told, _ in listener.told] == [1]


async def test_an_id_says_no_more_than_was_told(market: Market) -> None:
    """Trades that are folded while a round is under way are not known to those it has told before."""
    market.trade(1, START)

    class Folding(Heard):
        def hear(self, topic: Any, updates: Any, place: Any, sse: bytes) -> None:
            super().hear(topic, updates, place, sse)
            if market.offset == 1:
                asyncio.get_running_loop().call_soon(market.trade, 3, START + 2)

    listener = Folding()
    for window in ("1m", "2m", "3m"):
        market.hub.join(market.topic(window), listener)
    market.trade(2, START + 1)
    await market.hub._round()
    assert sorted(candle["trade_count"] for _, candle, _ in listener.told) == [2, 3, 3]
    listener.told.clear()
    await market.hub._round()
    # Who is cut off here has not heard of the third trade in each window: offset 1 is the second.
    assert [(candle["trade_count"], place.offset) for _, candle, place in listener.told] == [(3, 1)]


async def test_when_an_assignment_ends_all_is_forgotten(market: Market) -> None:
    market.trade(1, START)
    listener = Heard()
    market.hub.join(market.topic("1m"), listener)
    market.trade(2, START + 1)
    market.hub.end_all()
    assert listener.has_ended
    await rounds(market.hub)
    assert not listener.told
    market.hub.leave(market.topic("1m"), listener)
    assert not any((market.hub._listeners, market.hub._topics, market.hub._known, market.hub._told))


@pytest.mark.usefixtures("market")
async def test_who_has_missed_too_much_begins_anew(
    code: Any, client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code.peers, "is_ours", lambda _: True)
    markets = [Market(code, product_id) for product_id in PRODUCTS]
    for each in markets:
        for number in range(1, 11):
            each.trade(number, START + number * MINUTE)

    async def candles_told() -> list[int]:
        async with client.get("/v1/stream", headers={"Last-Event-ID": "c0-4"}) as answer:
            assert answer.status == 200
            text = b""
            while text.count(b"data: ") < len(PRODUCTS) or not text.endswith(b"\n\n"):
                text += await asyncio.wait_for(answer.content.readany(), 20)
        return [
            len(json.loads(line[6:])["candles"]) for line in text.splitlines() if line.startswith(b"data")
        ]

    assert await candles_told() == [7, 7]  # the fourth closed with the sixth trade
    monkeypatch.setattr(code.stream, "MOST_MISSED", 1)
    assert await candles_told() == [7, 1]


# What another worker has.


class Other:
    """Another worker's ``/v1/stream``."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.open = 0
        self.problem: dict[str, Any] | None = None
        self.news = asyncio.Event()
        """Tell of each product once more."""
        self.idle = asyncio.Event()
        """Nobody listens any more."""
        self.url = ""

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if self.problem:
            return web.json_response(self.problem, status=self.problem["status"])
        response = web.StreamResponse()
        await response.prepare(request)
        self.open += 1
        try:
            for product_id in request.query["product_id"].split(","):
                whose = {"exchange": "coinbase", "product_id": product_id, "window": "1m"}
                for name, data in (
                    ("snapshot", {**whose, "candles": []}),
                    ("candle", {**whose, "close": "1"}),
                ):
                    await response.write(f"event: {name}\nid: c0-5\ndata: {json.dumps(data)}\n\n".encode())
            await self.news.wait()
            for product_id in PRODUCTS:
                data = {"exchange": "coinbase", "product_id": product_id, "window": "1m", "close": "2"}
                await response.write(f"event: candle\ndata: {json.dumps(data)}\n\n".encode())
            await asyncio.Event().wait()  # until the connection is lost
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()
        return response


@pytest.fixture
async def other() -> AsyncIterator[Other]:
    other = Other()
    served = web.Application()
    served.router.add_get("/v1/stream", other.stream)
    async with TestServer(served) as server:
        other.url = str(server.make_url("/"))
        yield other


@pytest.fixture
async def client(
    code: Any, other: Other, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of a worker that owns nothing."""
    monkeypatch.setattr(code.peers, "is_ready", lambda: True)
    monkeypatch.setattr(code.peers, "is_ours", lambda _: False)
    monkeypatch.setattr(code.peers, "owners", lambda: {0: URL(other.url)})

    def served(view: Callable[..., Any], query: Any) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                answer: web.StreamResponse = await view(request, query)
            except code.stream.Problem as problem:
                return web.Response(body=problem.body(request.path), status=problem.status)
            return answer

        return handle

    views = web.Application()
    query = code.stream.StreamQuery(product_id=",".join(PRODUCTS))
    found = {route.path: route.view for route in code.routes.ROUTES}
    views.router.add_get("/v1/stream", served(found["/v1/stream"], query))
    views.router.add_get("/v1/ws", served(found["/v1/ws"], code.routes.NoQuery()))
    async with TestClient(TestServer(views), connector=aiohttp.TCPConnector(limit=0)) as client:
        yield client
    await code.app.app.http_client.close()
    code.app.app.http_client = None  # the next one is made in another event loop


async def test_what_another_worker_refuses_is_refused_with_its_words(client: TestClient[Any, Any], other: Other) -> None:  # fmt: skip
    other.problem = {"type": "/problems/no-data", "title": "Nothing there yet", "status": 404, "detail": "no trade", "instance": "/v1/stream"}  # fmt: skip
    async with client.get("/v1/stream") as answer:
        assert (answer.status, (await answer.json(content_type=None))["type"]) == (404, "/problems/no-data")
    async with client.ws_connect("/v1/ws") as socket:
        await socket.send_json(
            {"type": "subscribe", "channel": "candles", "product_ids": list(PRODUCTS), "id": 3}
        )
        assert len((await socket.receive_json(timeout=20))["subscriptions"]) == 2
        told = await socket.receive_json(timeout=20)
        assert (told["type"], told["id"], told["problem"]["type"]) == ("error", 3, "/problems/no-data")
        await socket.send_json({"type": "subscribe", "channel": "heartbeats"})
        assert (await socket.receive_json(timeout=20))["subscriptions"] == [{"channel": "heartbeats"}]


async def test_many_streams_of_another_worker_are_passed_on_at_once(
    client: TestClient[Any, Any], other: Other
) -> None:
    answers = [await client.get("/v1/stream") for _ in range(MANY)]
    for answer in answers:
        assert answer.status == 200
        text = b""
        while b"BBB-USD" not in text:
            text += await asyncio.wait_for(answer.content.readany(), 20)
        assert re.match(rb"retry: [123]\d{3}\n\nevent: snapshot\nid: c0-5\n", text)
    assert other.open == MANY
    for answer in answers:
        answer.close()
    await asyncio.wait_for(other.idle.wait(), 20)


async def test_products_that_were_asked_for_together_are_passed_on_together(
    client: TestClient[Any, Any], other: Other
) -> None:
    async with client.ws_connect("/v1/ws") as socket:
        asked = {"channel": "candles", "product_ids": list(PRODUCTS)}
        await socket.send_json({"type": "subscribe", **asked})
        messages = [await socket.receive_json(timeout=20) for _ in range(5)]
        assert len(messages[0]["subscriptions"]) == 2
        assert [(each["sequence_num"], each["events"][0]["type"]) for each in messages[1:]] == [
            (0, "snapshot"), (1, "update"), (2, "snapshot"), (3, "update"),
        ]  # fmt: skip
        assert [each["product_id"] for each in other.asked] == [",".join(PRODUCTS)]
        await socket.send_json({"type": "unsubscribe", "channel": "candles", "product_ids": ["AAA-USD"]})
        assert len((await socket.receive_json(timeout=20))["subscriptions"]) == 1
        other.news.set()
        message = await socket.receive_json(timeout=20)
        assert message["sequence_num"] == 4
        assert [each["product_id"] for each in message["events"][0]["candles"]] == ["BBB-USD"]
        await socket.send_json({"type": "unsubscribe", "channel": "candles", "product_ids": ["BBB-USD"]})
        assert (await socket.receive_json(timeout=20))["subscriptions"] == []
        await asyncio.wait_for(other.idle.wait(), 20)
