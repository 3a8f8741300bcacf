"""Connections that are slow, silent, too many or no HTTP: on a real socket, with short limits."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from candlewick.web import connections
from candlewick.web.connections import CARRIED, Runner, Server

HEAD_S = 0.4
STALLED_S = 0.5
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Site:
    """A server with these limits, and views that are quick, long and endless."""

    def __init__(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._quick)
        app.router.add_get("/long", self._long)
        app.router.add_get("/endless", self._endless)
        app.router.add_get("/later", self._later)
        self._runner = Runner(app)
        self.port = 0
        self._ended = asyncio.Event()

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site.port

    async def stop(self) -> None:
        self._ended.set()  # or a minute is waited for the endless answer
        await self._runner.cleanup()

    @property
    def server(self) -> Server:
        assert isinstance(self._runner.server, Server)
        return self._runner.server

    async def _quick(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _later(self, request: web.Request) -> web.Response:
        await asyncio.sleep(HEAD_S * 1.5)
        return web.Response(text="ok")

    async def _long(self, request: web.Request) -> web.Response:
        return web.Response(body=bytes(32 << 20))

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await self._ended.wait()
        return response

    async def connect(self, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=limit)

    async def ask(self, text: bytes) -> bytes:
        """Return all that comes before the connection is closed."""
        reader, writer = await self.connect()
        writer.write(text)
        answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(connections, "HEAD_S", HEAD_S)
    monkeypatch.setattr(connections, "STALLED_S", STALLED_S)
    monkeypatch.setattr(connections, "LOOK_S", 0.1)
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 1.0)
    monkeypatch.setattr(connections, "BODY_S", 0.3)
    served = Site()
    await served.start()
    async with asyncio.timeout(30):
        yield served
    await served.stop()


async def until_closed(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    while await reader.read(1 << 16):
        pass
    return time.monotonic() - began


async def test_a_connection_that_says_nothing_is_closed(site: Site) -> None:
    reader, writer = await site.connect()
    assert HEAD_S - 0.1 < await until_closed(reader) < HEAD_S + 0.5
    writer.close()


LATER = b"GET /later HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("before", [(), (GET,), (LATER, b"body")], ids=["", "a request", "a body meanwhile"])
async def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for(
    site: Site, before: tuple[bytes, ...]
) -> None:
    reader, writer = await site.connect()
    for part in before:
        writer.write(part)
        await asyncio.sleep(0.05)  # so that each comes alone
    if before:
        await reader.readuntil(b"ok")

    async def drip() -> None:
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    try:
        assert HEAD_S - 0.1 < await until_closed(reader) < HEAD_S + 0.5
    finally:
        dripping.cancel()
        writer.close()


async def test_a_head_in_two_parts_is_answered_and_a_quiet_connection_is_kept(site: Site) -> None:
    reader, writer = await site.connect()
    for _ in range(3):
        writer.write(GET[:20])
        await asyncio.sleep(HEAD_S / 2)
        writer.write(GET[20:])
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(HEAD_S * 1.5)  # longer than a head may take, shorter than a connection is kept
    assert await until_closed(reader) < 2
    writer.close()


async def test_an_answer_that_takes_long_is_waited_for(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"begun")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(until_closed(reader), HEAD_S * 3)
    writer.close()


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_a_client_that_takes_nothing_is_cut_off(site: Site, close: bytes) -> None:
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        began = time.monotonic()
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n" + close + b"\r\n")
        await until(lambda: site.server.connections)
        await until(lambda: not site.server.connections)
        assert STALLED_S <= time.monotonic() - began < 3


async def test_a_client_that_takes_slowly_has_all_of_it(site: Site) -> None:
    reader, writer = await site.connect(limit=1 << 16)
    writer.write(b"GET /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    taken = 0
    while part := await reader.read(1 << 20):
        taken += len(part)
        if taken % (1 << 22) < 1 << 18:
            await asyncio.sleep(0.05)
    assert taken > 32 << 20
    writer.close()


async def until(find) -> None:  # type: ignore[no-untyped-def]
    while not find():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_there_are_so_many_connections_and_half_of_them_for_one_address(site: Site) -> None:
    site.server.most = 8
    open_ones = [await site.connect() for _ in range(4)]
    await until(lambda: len(site.server.connections) == 4)
    refused = await site.ask(b"")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" in refused
    assert site.server.admit("another")
    for _, writer in open_ones[:2]:
        writer.close()
    await until(lambda: len(site.server.connections) == 2)
    reader, writer = await site.connect()
    writer.write(GET)
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    for each in (writer, *(writer for _, writer in open_ones[2:])):
        each.close()
    await until(lambda: not site.server.connections)
    assert dict(site.server._open) == {"another": 1}


async def test_a_thousand_connections_that_came_and_went_are_forgotten(site: Site) -> None:
    for _ in range(20):
        opened = await asyncio.gather(*(site.connect() for _ in range(50)))
        for index, (_, writer) in enumerate(opened):
            if index % 2:
                writer.write(GET[: index % len(GET)])
            if index % 3:
                writer.transport.abort()
            else:
                writer.close()
    await until(lambda: not site.server.connections)
    assert not site.server._open


WRONG = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
    "a long line": b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65536 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
    "two lengths": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length and chunks": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a fold": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
async def test_what_is_no_request_is_one_problem_and_the_end(site: Site, text: bytes) -> None:
    answer = await site.ask(text)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 ", head), answer[:500]
    assert b"Content-Type: application/problem+json" in head
    assert b'"status":400' in body
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    for name in CARRIED:
        assert name.encode() in head


@pytest.mark.parametrize("length", [b"1000000000", b"10"])
async def test_a_body_that_nobody_asked_for_is_not_waited_for(site: Site, length: bytes) -> None:
    reader, writer = await site.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\n")
    await reader.readuntil(b"ok")
    assert await until_closed(reader) < 2
    writer.close()
