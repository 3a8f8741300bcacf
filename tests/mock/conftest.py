"""A mock exchange on a free port, and clients that wait for what they ask for."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from candlewick.mock import MockExchange

WAIT_S = 10
"""A frame that has not come by then will not come."""


class Client:
    """One WebSocket connection, and every frame it received so far."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.raw: list[str] = []

    async def send(self, message: object) -> None:
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def subscribe(self, products: list[str], *channels: str) -> dict[str, Any]:
        await self.send({"type": "subscribe", "product_ids": products, "channels": list(channels)})
        return await self.until(lambda frame: frame["type"] in ("subscriptions", "error"))

    async def text(self) -> str:
        text = await asyncio.wait_for(self.socket.recv(), WAIT_S)
        assert isinstance(text, str)
        self.raw.append(text)
        return text

    async def frame(self) -> dict[str, Any]:
        frame = json.loads(await self.text())
        assert isinstance(frame, dict)
        return frame

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not wanted(frame := await self.frame()):
            pass
        return frame

    async def texts(self, count: int, *types: str) -> list[str]:
        """Read until so many frames of these types have come, and return them."""
        found: list[str] = []
        while len(found) < count:
            text = await self.text()
            if json.loads(text)["type"] in types:
                found.append(text)
        return found

    async def closed(self) -> ConnectionClosed:
        """Read to the end, and return how it ended."""
        try:
            while True:
                await self.text()
        except ConnectionClosed as end:
            return end


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: AsyncExitStack) -> Callable[..., Awaitable[MockExchange]]:
    async def serve(source: Any, **settings: Any) -> MockExchange:
        exchange = MockExchange(source, **{"settle_s": 0.02, **settings})
        await exchange.start()
        stack.push_async_callback(exchange.stop)
        return exchange

    return serve


@pytest.fixture
def dial(stack: AsyncExitStack) -> Callable[..., Awaitable[Client]]:
    async def dial(exchange: MockExchange, narrow: bool = False, **settings: Any) -> Client:
        """Connect; a narrow client holds few frames it has not read, so TCP pushes back soon."""
        if narrow:
            pipe = socket.socket()
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            pipe.connect((exchange.host, exchange.port))
            settings = {"sock": pipe, "max_queue": 1, **settings}
        options = {"max_size": None, "compression": None, "close_timeout": 0.2, **settings}
        return Client(await stack.enter_async_context(connect(exchange.ws_url, **options)))

    return dial


@pytest.fixture
def rest(stack: AsyncExitStack) -> Callable[..., Awaitable[tuple[int, Any, Any]]]:
    """``await rest(exchange, path)`` gives status, body and headers."""

    async def rest(exchange: MockExchange, path: str, post: Any = None) -> tuple[int, Any, Any]:
        async with aiohttp.ClientSession() as session:
            method = "GET" if post is None else "POST"
            async with session.request(method, exchange.rest_url + path, json=post) as response:
                return response.status, await response.json(), response.headers

    return rest


@pytest.fixture
def tape(tmp_path: Path) -> Callable[..., Path]:
    """Write a recording of frames, one each millisecond, and return its file."""

    def tape(frames: list[str], name: str = "tape.jsonl.gz", step_s: float | None = 0.001) -> Path:
        path = tmp_path / name
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            for number, raw in enumerate(frames):
                recv_ts = None if step_s is None else 1_700_000_000 + number * step_s
                stream.write(json.dumps({"recv_ts": recv_ts, "dir": "in", "raw": raw}) + "\n")
        return path

    return tape
