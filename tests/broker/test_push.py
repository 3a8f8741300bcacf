"""Live push: clients that resume, that stall, that vanish, and that send rubbish; on a real worker.

The worker's limits of time can be set while it runs, so that no test waits for them; it also tells its tasks.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from httpx_sse import connect_sse
from rig import free_port, get, send, until
from scrape import scrape
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from candlewick.guard import guarded
from models.trade import Trade
from producers.sink import Sink

pytestmark = pytest.mark.broker

MINUTE = 60_000_000
START = 1_790_000_040_000_000
PROGRAM = """
import asyncio
from candlewick.app import app
from candlewick.web.push import bounds, ws

@app.page("/limits/{place}/{name}/{value}")
async def limits(web, request, place, name, value):
    module = {"ws": ws, "bounds": bounds}[place]
    before = getattr(module, name)
    setattr(module, name, type(before)(value))
    return web.json(before)

@app.page("/tasks")
async def tasks(web, request):
    return web.json(len(asyncio.all_tasks()))

from faust.cli.faust import cli
cli(["-A", "candlewick.app", "worker", "-l", "warn"])
"""
MANY = [f"P{number:02}-USD" for number in range(30)]


class Served(NamedTuple):
    base: str
    kafka: str
    process: psutil.Process

    @property
    def ws(self) -> str:
        return self.base.replace("http://", "ws://") + "/v1/ws"

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def clients(self, kind: str) -> int:
        """Return how many streams are open, by /metrics."""
        return int(scrape(self.base).sum("candlewick_stream_clients", kind=kind))

    def cut_off(self, kind: str) -> int:
        """Return how many clients were too slow, by /metrics."""
        return int(scrape(self.base).sum("candlewick_stream_slow_disconnects_total", kind=kind))

    @contextlib.contextmanager
    def limit(self, name: str, value: float) -> Iterator[None]:
        """Let the worker have another limit for a while."""
        status, before = get(f"{self.base}/limits/{name}/{value}")
        assert status == 200
        try:
            yield
        finally:
            get(f"{self.base}/limits/{name}/{before}")

    def connections(self) -> int:
        """Return how many connections of clients the worker holds."""
        return sum(
            at.laddr.port == self.port and bool(at.raddr) for at in self.process.net_connections("tcp")
        )

    def tasks(self) -> int:
        return int(get(f"{self.base}/tasks")[1])


def trade(symbol: str, trade_id: int, at_us: int, price: int = 100) -> Trade:
    return Trade("coinbase", symbol, trade_id, Decimal(price), Decimal(1), "buy", at_us, at_us)


@pytest.fixture(scope="module")
def served(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("push")
    asyncio.run(send(kafka, [trade(symbol, 1, START) for symbol in (*MANY, "NOW-USD")]))
    port = free_port()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
    settings = {
        "CANDLEWICK_BROKER": kafka, "CANDLEWICK_DATA_DIR": str(folder), "CANDLEWICK_PORT": str(port),
        "CANDLEWICK_APP_ID": "push", "CANDLEWICK_COMMIT_S": "0.2", "CANDLEWICK_RATE_PER_S": "0",
    }  # fmt: skip
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            guarded([sys.executable, "-c", PROGRAM]), env={**clean, **settings}, stdout=log, stderr=log
        )
    base = f"http://127.0.0.1:{port}"
    try:
        until(lambda: len(get(f"{base}/v1/products")[1] or ()) == len(MANY) + 1,
              lambda: (folder / "worker.log").read_text()[-3000:])  # fmt: skip
        [worker] = [each for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                    if any(at.laddr.port == port for at in each.net_connections("tcp"))]  # fmt: skip
        yield Served(base, kafka, worker)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert "Traceback" not in (folder / "worker.log").read_text()


# A client of server-sent events that others wrote.


def stream(client: httpx.Client, served: Served, query: str, last_id: str, quiet_s: float) -> Any:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    return connect_sse(client, "GET", f"{served.base}/v1/stream?{query}", headers=headers, timeout=quiet_s)


CUT = ("SSE-USD", "SST-USD", "SSU-USD")
Table = dict[tuple[str, str, int], dict[str, Any]]
"""Candles by product, window and start."""


def take(event: Any, table: Table) -> int:
    """Do with an event what a client does; return how many candles it told."""
    if not event.data or event.event in ("ticker", "book"):
        return 0
    told = json.loads(event.data)
    candles = told["candles"] if event.event == "snapshot" else [told]
    for candle in candles:
        place = (told["product_id"], told["window"], candle["start_ms"])
        shown = {name: candle[name] for name in candle if name not in ("exchange", "product_id", "window")}
        before = table.get(place, shown)
        assert shown["revision"] >= before["revision"], "back to an older one"
        assert shown["trade_count"] >= before["trade_count"]
        if before["state"] == "closed" and shown["revision"] == before["revision"]:
            assert shown == before, "told twice, and not the same"
        table[place] = shown
    return len(candles)


def served_table(served: Served) -> Table:
    """Return the candles of the products that are cut, as /v1/candles has them."""
    return {
        (symbol, window, candle["start_ms"]): candle
        for symbol in CUT
        for window in ("1m", "5m")
        for candle in get(f"{served.base}/v1/candles/{symbol}?window={window}&limit=1900")[1]["candles"]
    }


def test_a_stream_that_is_cut_again_and_again_loses_nothing(served: Served) -> None:
    seed = int(os.environ.get("STREAM_SEED") or random.randrange(1_000_000))
    print(f"seed {seed}")
    chance = random.Random(seed)
    asyncio.run(send(served.kafka, [trade(symbol, 1, START) for symbol in CUT]))
    until(lambda: all(get(f"{served.base}/v1/candles/{symbol}")[0] == 200 for symbol in CUT))
    table: Table = {}
    last_id, sent, at_us, told, ids = "", dict.fromkeys(CUT, 1), START, 0, set()
    query = f"product_id={','.join(CUT)}&window=1m,5m&channels=candles,ticker&snapshot=500"
    with httpx.Client() as client:
        for _ in range(25):
            made = []
            for _ in range(chance.randrange(2, 30)):  # while nobody listens, and while somebody does
                symbol = chance.choice(CUT)
                sent[symbol] += 1
                at_us += chance.choice((1_000, 20_000_000, 90_000_000))
                late_us = chance.choice((0, 0, 0, 3 * MINUTE)) if at_us > START + 5 * MINUTE else 0
                made.append(trade(symbol, sent[symbol], at_us - late_us, chance.randrange(90, 110)))
            half = chance.randrange(len(made))
            asyncio.run(send(served.kafka, made[:half]))
            with stream(client, served, query, last_id, 2) as source:
                assert source.response.status_code == 200
                asyncio.run(send(served.kafka, made[half:]))
                with contextlib.suppress(httpx.ReadTimeout):  # nothing more to hear: cut it as well
                    for number, event in enumerate(source.iter_sse()):
                        told += take(event, table)
                        last_id = event.id or last_id
                        ids.add(last_id)
                        if number > 1 and chance.random() < 0.15:
                            break
        until(lambda: all(
            sum(each["trade_count"] for (of, window, _), each in served_table(served).items() if (of, window) == (symbol, "1m"))
            == sent[symbol] for symbol in CUT
        ))  # fmt: skip
        ours = served_table(served)
        with stream(client, served, query, last_id, 10) as source:
            events = source.iter_sse()
            with contextlib.suppress(httpx.ReadTimeout):  # sooner than a ping
                while table != ours:
                    told += take(next(events), table)
    wrong = {place: (table.get(place), ours[place]) for place in ours if table.get(place) != ours[place]}
    assert not wrong
    assert sum(candle["revision"] for candle in ours.values()) > 3
    assert any("," in each for each in ids)  # else all are in one partition, and an id is one place
    print(f"25 connections, {sum(sent.values())} trades, {len(ours)} candles, {told} told")


def test_a_stream_over_http_1_0_is_not_chunked(served: Served) -> None:
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw,
        raw.makefile("rb") as answer,
    ):
        raw.sendall(b"GET /v1/stream?product_id=NOW-USD HTTP/1.0\r\n\r\n")
        assert answer.readline().split()[1] == b"200"
        headers = dict(line.rstrip().lower().split(b": ", 1) for line in iter(answer.readline, b"\r\n"))
        assert b"transfer-encoding" not in headers
        assert headers[b"content-type"] == b"text/event-stream"
        assert re.match(rb"retry: [123]\d{3}\n\Z", answer.readline())
        assert answer.readline() == b"\n"
        assert answer.readline() == b"event: snapshot\n"


def test_the_head_of_a_stream_has_no_body(served: Served) -> None:
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw,
        raw.makefile("rb") as answer,
    ):
        raw.sendall(b"HEAD /v1/stream?product_id=NOW-USD HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
                    b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")  # fmt: skip
        whole = answer.read()
    assert whole.count(b"HTTP/1.1 200") == 2
    assert whole.endswith(b'{"status":"ok"}')
    assert b"retry" not in whole


# A subscriber as Coinbase's documentation has it.


async def heard(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 20))


async def test_a_subscriber_keeps_a_table_of_candles_that_is_ours(served: Served) -> None:
    await send(
        served.kafka, [trade("SUB-USD", number, START + number * 7_000_000) for number in range(1, 101)]
    )
    await asyncio.to_thread(
        until, lambda: (get(f"{served.base}/v1/ticker/SUB-USD")[1] or {}).get("trade_id") == 100
    )
    async with connect(served.ws) as socket:
        await socket.send('{"type":"subscribe","channel":"heartbeats","id":1}')
        await socket.send(
            '{"type":"subscribe","channel":"candles","product_ids":["SUB-USD"],"snapshot":5000,"id":2}'
        )
        table: dict[int, Any] = {}
        sequence, beats, answers, sending = 0, 0, [], None
        while beats < 2 or len(answers) < 2 or sum(each["trade_count"] for each in table.values()) < 200:
            message = await heard(socket)
            if message.get("type") == "subscriptions":
                answers.append(message["id"])
                continue
            assert message["sequence_num"] == sequence, "a message was lost"
            sequence += 1
            beats += message["channel"] == "heartbeats"
            for event in message["events"]:
                if event["type"] == "snapshot":
                    table.clear()
                for candle in event["candles"]:
                    before = table.get(candle["start_ms"])
                    if before is None or candle["revision"] >= before["revision"]:
                        table[candle["start_ms"]] = candle
            if sending is None and table:
                later = [trade("SUB-USD", number, START + number * 7_000_000) for number in range(101, 201)]
                sending = asyncio.create_task(send(served.kafka, later))
        assert sending is not None
        await sending
    assert answers == [1, 2]
    ours = (await asyncio.to_thread(get, f"{served.base}/v1/candles/SUB-USD?limit=5000"))[1]["candles"]
    told = [
        {name: value for name, value in table[start].items() if name in ours[0]} for start in sorted(table)
    ]
    assert told == ours


# Clients that send rubbish, too much, or nothing.


def subscribe(product_ids: list[str], **more: Any) -> str:
    return json.dumps({"type": "subscribe", "channel": "candles", "product_ids": product_ids, **more})


WRONG = {
    "no JSON": "rubbish",
    "half of a message": '{"type":"subscribe",',
    "deep": "[" * 60_000,
    "deep in an object": '{"type":"subscribe","channel":' + '{"a":' * 10_000,
    "a number": "7",
    "null": "null",
    "a list of messages": "[" + subscribe(["NOW-USD"]) + "]",
    "no type": '{"channel":"candles","product_ids":["NOW-USD"]}',
    "an unknown type": '{"type":"explode","channel":"candles"}',
    "an unknown channel": '{"type":"subscribe","channel":"orders","product_ids":["NOW-USD"]}',
    "an unknown field": subscribe(["NOW-USD"], colour="red"),
    "products that are no list": '{"type":"subscribe","channel":"candles","product_ids":"NOW-USD"}',
    "products that are numbers": '{"type":"subscribe","channel":"candles","product_ids":[1,2]}',
    "no products": subscribe([]),
    "more products than may be": subscribe([f"A{number}-USD" for number in range(51)]),
    "an unknown product": subscribe(["NONE-USD"]),
    "a product that is no name": subscribe(["../../etc/passwd"]),
    "a product with NUL": subscribe(["NOW\0-USD"]),
    "half of a character": '{"type":"subscribe","channel":"candles","product_ids":["\\ud800"]}',
    "an exchange that is no name": subscribe(["NOW-USD"], exchange="a:b/c"),
    "an unknown exchange": subscribe(["NOW-USD"], exchange="nowhere"),
    "half of a character as exchange": '{"type":"subscribe","channel":"candles","product_ids":["NOW-USD"],"exchange":"\\ud800"}',
    "no window": subscribe(["NOW-USD"], window=""),
    "a window of nothing": subscribe(["NOW-USD"], window="0m"),
    "a window that is too large": subscribe(["NOW-USD"], window="99999m"),
    "a window of too many candles": subscribe(["NOW-USD"], window="721m"),
    "a window that is a number": subscribe(["NOW-USD"], window=60),
    "a window that books do not have": subscribe(["NOW-USD"], channel="book", window="5m"),
    "no candles": subscribe(["NOW-USD"], snapshot=0),
    "too many candles": subscribe(["NOW-USD"], snapshot=5001),
    "too many candles in all": subscribe(MANY, snapshot=200),
    "half a candle": subscribe(["NOW-USD"], snapshot=1.5),
    "a huge number": subscribe(["NOW-USD"], snapshot=10**400),
    "true as a number": subscribe(["NOW-USD"], snapshot=True),
    "a list as id": subscribe(["NOW-USD"], id=[1]),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_told_and_the_connection_goes_on(served: Served, name: str) -> None:
    async with connect(served.ws) as socket:
        await socket.send(WRONG[name])
        told = await heard(socket)
        assert told["type"] == "error"
        assert told["problem"]["status"] in (400, 404)
        assert len(told["problem"]["detail"]) < 400
        await socket.send(subscribe(["NOW-USD"], id=5))
        assert (await heard(socket))["events"][0]["type"] == "snapshot"
        told = await heard(socket)
        assert told["id"] == 5
        assert len(told["subscriptions"]) == 1


async def closed_with(socket: ClientConnection) -> int:
    """Read until the end; return how the server closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 20)
    assert socket.close_code is not None
    return socket.close_code


async def test_more_than_twenty_messages_a_second_end_the_connection(served: Served) -> None:
    async with connect(served.ws) as socket:
        for _ in range(40):
            await socket.send('{"type":"subscribe","channel":"heartbeats"}')
        assert await closed_with(socket) == 1008


async def test_ten_wrong_messages_end_the_connection(served: Served) -> None:
    async with connect(served.ws) as socket:
        for _ in range(10):
            await socket.send("rubbish")
        errors = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                errors += (await heard(socket))["type"] == "error"
        assert (errors, socket.close_code) == (10, 1008)


async def test_fifty_subscriptions_are_the_most(served: Served) -> None:
    async with connect(served.ws) as socket:
        await socket.send(subscribe(MANY))
        for _ in MANY:
            assert (await heard(socket))["channel"] == "candles"
        assert len((await heard(socket))["subscriptions"]) == 30
        await socket.send(subscribe(MANY[:21], channel="ticker"))
        assert (await heard(socket))["problem"]["errors"][0]["message"] == "50 subscriptions at most"
        await socket.send(subscribe(MANY[:20], channel="ticker"))
        for _ in range(20):
            assert (await heard(socket))["channel"] == "ticker"
        assert len((await heard(socket))["subscriptions"]) == 50


async def test_what_was_subscribed_already_or_never_is_answered_with_what_is(served: Served) -> None:
    async with connect(served.ws) as socket:
        await socket.send(subscribe(["NOW-USD", "NOW-USD"]))
        assert (await heard(socket))["events"][0]["type"] == "snapshot"
        first = await heard(socket)
        await socket.send(subscribe(["NOW-USD"]))  # no second snapshot
        assert await heard(socket) == first
        await socket.send('{"type":"unsubscribe","channel":"ticker","product_ids":["NOW-USD","NONE-USD"]}')
        assert await heard(socket) == first
        await socket.send('{"type":"unsubscribe","channel":"candles","product_ids":["NOW-USD"]}')
        assert await heard(socket) == {"type": "subscriptions", "subscriptions": []}


async def test_who_subscribes_to_nothing_is_closed(served: Served) -> None:
    with served.limit("ws/IDLE_S", 0.5):
        async with connect(served.ws) as socket:
            assert await closed_with(socket) == 1008


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(Opcode.BINARY, b"\0\xff")], 1008),
        ([Frame(Opcode.TEXT, b"x" * 70_000)], 1009),
        ([Frame(Opcode.TEXT, b"x" * 30_000, fin=False), *[Frame(Opcode.CONT, b"x" * 30_000, fin=False)] * 3], 1009),
        ([Frame(Opcode.TEXT, b"\xff\xfe")], 1007),
        ([Frame(Opcode.CONT, b"of nothing")], 1002),
    ],
    ids=["binary", "huge", "huge in parts", "no UTF-8", "the end of nothing"],
)  # fmt: skip
def test_what_is_no_message_ends_the_connection(served: Served, frames: list[Frame], code: int) -> None:
    with Raw(served) as raw:
        raw.send(*frames)
        assert raw.rest()[1] == code


class Raw:
    """A WebSocket without a library: it reads when it is told to, and answers no ping."""

    def __init__(self, served: Served, receives: int = 1 << 16) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", served.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._answer = self._socket.makefile("rb")
        assert self._answer.readline().split()[1] == b"101"
        while self._answer.readline() != b"\r\n":
            pass

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._socket.close()

    def send(self, *frames: Frame) -> None:
        with contextlib.suppress(ConnectionError):  # it may be closed before the last
            for frame in frames:
                self._socket.sendall(frame.serialize(mask=True))

    def reset(self) -> None:
        """Go away without a word: the machine at the other end sees a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.__exit__()

    def rest(self) -> tuple[int, int]:
        """Read all frames; return how many bytes they had, and the code of the last, 0 if none closed."""
        size = 0
        while len(head := self._answer.read(2)) == 2:
            length = head[1] & 127
            if length > 125:
                length = int.from_bytes(self._answer.read(2 if length == 126 else 8))
            body = self._answer.read(length)
            size += len(body)
            if head[0] & 15 == Opcode.CLOSE:
                return size, int.from_bytes(body[:2])
        return size, 0


# Clients that do not read, or are gone.


@contextlib.asynccontextmanager
async def trading(served: Served, symbol: str, pause_s: float = 0.004) -> AsyncIterator[Callable[[], int]]:
    """Let a product trade, with the present as its time; give how many trades it has made."""
    made = [1]

    async def trade_on() -> None:
        async with Sink(served.kafka) as sink:
            while True:
                made[0] += 1
                now_us = time.time_ns() // 1000
                await sink.put(trade(symbol, made[0], now_us, 90 + made[0] % 20))
                await asyncio.sleep(pause_s)

    task = asyncio.create_task(trade_on())
    try:
        yield lambda: made[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def holds(find: Callable[[], Any]) -> Any:
    """Wait, beside what this loop has to do, until a question is answered with yes."""
    return await asyncio.to_thread(until, find)


WINDOWS = [f"{minutes}m" for minutes in range(1, 19)]


async def everything_of(served: Served, symbol: str) -> ClientConnection:
    """Return a connection that hears a lot of one product."""
    socket = await connect(served.ws, max_size=None, max_queue=None)
    for window in WINDOWS:
        await socket.send(subscribe([symbol], window=window))
    return socket


async def test_a_stalled_reader_is_closed_and_the_others_hear_as_before(served: Served) -> None:
    symbol, stalled_count, listeners = "STA-USD", 5, 10
    await send(served.kafka, [trade(symbol, 1, time.time_ns() // 1000)])
    await holds(lambda: get(f"{served.base}/v1/ticker/{symbol}")[0] == 200)
    delays: list[float] = []

    async def listen(socket: ClientConnection) -> None:
        async for text in socket:
            now_us = time.time_ns() // 1000
            message = json.loads(text)
            if message.get("channel") == "ticker":
                delays.append(now_us - message["events"][0]["tickers"][0]["time_ms"] * 1000)

    async def sample() -> tuple[float, float]:
        """Return the median and the 99th percentile of what the listeners hear, in ms."""
        delays.clear()
        await holds(lambda: len(delays) >= 1000)
        found = statistics.quantiles(delays, n=100)
        return found[49] / 1000, found[98] / 1000

    async with contextlib.AsyncExitStack() as stack:
        # Nothing else may end it before it is too slow, however slow the machine is.
        for name, limit in (("ws/FAREWELL_S", 600.0), ("ws/PING_S", 600.0), ("bounds/SILENT_MS", 600_000)):
            stack.enter_context(served.limit(name, limit))
        sockets = [await stack.enter_async_context(connect(served.ws)) for _ in range(listeners)]
        for each in sockets:
            await each.send(subscribe([symbol], channel="ticker"))
        tasks = [asyncio.create_task(listen(each)) for each in sockets]
        twin = await everything_of(served, symbol)
        stack.push_async_callback(twin.close)
        heard_by_twin = [0]

        async def count() -> None:
            async for text in twin:
                heard_by_twin[0] += len(text)

        tasks.append(asyncio.create_task(count()))
        await stack.enter_async_context(trading(served, symbol))
        without = await sample()
        raws = [await asyncio.to_thread(Raw, served, 4096) for _ in range(stalled_count)]
        began = heard_by_twin[0]
        for raw in raws:
            raw.send(*(Frame(Opcode.TEXT, subscribe([symbol], window=window).encode()) for window in WINDOWS))
        open_at_first = await asyncio.to_thread(served.clients, "websocket")
        with_stalled = await sample()
        await holds(lambda: heard_by_twin[0] - began > 1_500_000)
        # By now each is told that it is too slow, behind what it has not read.
        held = [await asyncio.to_thread(raw.rest) for raw in raws]
        await holds(lambda: served.clients("websocket") <= open_at_first - stalled_count)
        for raw in raws:
            raw.__exit__()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(f"p50 and p99 of a ticker in ms: {without[0]:.1f}, {without[1]:.1f} without; "
          f"{with_stalled[0]:.1f}, {with_stalled[1]:.1f} with {stalled_count} stalled; "
          f"a stalled one held {max(size for size, _ in held)} bytes")  # fmt: skip
    assert {code for _, code in held} == {1013}
    assert max(size for size, _ in held) < 1 << 20
    assert with_stalled[1] < 3 * without[1] + 50


async def nobody(served: Served, kind: str) -> tuple[int, int]:
    """Wait until those of the tests before are forgotten; return how many streams and connections are open."""
    await holds(lambda: served.clients(kind) == 0)
    return 0, served.connections()


async def test_a_websocket_that_never_reads_again_is_cut_off(served: Served) -> None:
    await send(served.kafka, [trade("CUT-USD", 1, time.time_ns() // 1000)])
    await holds(lambda: get(f"{served.base}/v1/ticker/CUT-USD")[0] == 200)
    before, held = await nobody(served, "websocket")
    cut_off = served.cut_off("websocket")
    async with trading(served, "CUT-USD"):
        raw = await asyncio.to_thread(Raw, served, 4096)
        raw.send(*(Frame(Opcode.TEXT, subscribe(["CUT-USD"], window=window).encode()) for window in WINDOWS))
        await holds(lambda: served.clients("websocket") == before + 1)
        await holds(lambda: served.clients("websocket") == before)
        await holds(lambda: served.connections() <= held)
        assert served.cut_off("websocket") == cut_off + 1
        raw.reset()


async def test_a_stream_that_never_reads_is_cut_off_and_resumes(served: Served) -> None:
    await send(served.kafka, [trade("SLO-USD", 1, time.time_ns() // 1000)])
    await holds(lambda: get(f"{served.base}/v1/ticker/SLO-USD")[0] == 200)
    before, held = await nobody(served, "sse")
    cut_off = served.cut_off("sse")
    query = f"product_id=SLO-USD&window={','.join(WINDOWS[:10])}&channels=candles,ticker"
    async with trading(served, "SLO-USD") as made:
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", served.port))
            raw.sendall(f"GET /v1/stream?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await holds(lambda: served.clients("sse") == before + 1)
            await holds(lambda: served.clients("sse") == before)
            await holds(lambda: served.connections() <= held)
    assert served.cut_off("sse") == cut_off + 1
    whole = made()
    await holds(
        lambda: (
            sum(each["trade_count"] for each in get(f"{served.base}/v1/candles/SLO-USD")[1]["candles"])
            == whole
        )
    )


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_a_stream_that_takes_nothing_is_cut_off_in_a_quiet_market_too(served: Served) -> None:
    made = [trade("QUI-USD", number, START + number * MINUTE) for number in range(1, 3001)]
    asyncio.run(send(served.kafka, made))
    until(lambda: (get(f"{served.base}/v1/ticker/QUI-USD")[1] or {}).get("trade_id") == 3000)
    until(lambda: served.clients("sse") == 0)
    before, held = 0, served.connections()
    with served.limit("bounds/SILENT_MS", 1000), socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", served.port))
        raw.sendall(b"GET /v1/stream?product_id=QUI-USD&snapshot=3000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        until(lambda: served.clients("sse") == before + 1)
        until(lambda: served.clients("sse") == before)
        until(lambda: served.connections() <= held)


def test_a_stream_whose_client_goes_away_is_forgotten_at_once(served: Served) -> None:
    until(lambda: served.clients("sse") == 0)
    before = 0
    for reset in (False, True):
        raw = socket.create_connection(("127.0.0.1", served.port))
        raw.sendall(b"GET /v1/stream?product_id=NOW-USD HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 200"
        assert served.clients("sse") == before + 1
        if reset:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        began = time.monotonic()
        until(lambda: served.clients("sse") == before)
        assert time.monotonic() - began < 3


def test_two_hundred_sockets_that_vanish_leave_nothing_behind(served: Served) -> None:
    until(lambda: served.clients("websocket") == 0)
    tasks, held = served.tasks(), served.connections()
    for round_ in range(2):
        raws = [Raw(served) for _ in range(200)]
        for raw in raws:
            raw.send(Frame(Opcode.TEXT, subscribe(["NOW-USD"]).encode()))
        until(lambda: served.clients("websocket") == 200)
        assert served.connections() >= held + 200
        for raw in raws:
            if round_:
                raw.reset()
            else:
                raw.__exit__()
        until(lambda: served.clients("websocket") == 0)
        until(lambda: served.connections() <= held)
        until(lambda: served.tasks() <= tasks)


def test_a_client_that_answers_no_ping_is_cut_off(served: Served) -> None:
    """As one whose machine is gone: its connection is half open, and nothing comes back."""
    until(lambda: served.clients("websocket") == 0)
    before = 0
    with served.limit("ws/PING_S", 1.0), Raw(served) as raw:
        raw.send(Frame(Opcode.TEXT, subscribe(["NOW-USD"]).encode()))
        until(lambda: served.clients("websocket") == before + 1)
        began = time.monotonic()
        until(lambda: served.clients("websocket") == before)
        assert time.monotonic() - began < 5
        assert raw.rest()[1] == 0  # nobody is there to be told


def test_a_handshake_that_is_none_is_refused(served: Served) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}
    for method, headers, status in (
        ("GET", {}, 426),
        ("HEAD", upgrade | key, 426),
        ("GET", {"Upgrade": "h2c", "Connection": "Upgrade"}, 426),
        ("GET", upgrade, 400),
        ("GET", upgrade | {"Sec-WebSocket-Key": "short"}, 400),
        ("GET", upgrade | key | {"Sec-WebSocket-Version": "1"}, 400),
        ("POST", upgrade | key, 405),
    ):
        answer = httpx.request(method, f"{served.base}/v1/ws", headers=headers)
        assert answer.status_code == status, (method, headers)
        assert answer.headers["Content-Type"] == "application/problem+json"
