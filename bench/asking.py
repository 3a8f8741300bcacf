"""Questions to a worker at a steady pace, from a process of its own.

A question is late from the moment at which it was due, not from when it could be sent: a worker that makes
others wait does not look faster for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import msgspec

from models.errors import CandlewickError

LARGEST = 1 << 20
"""Bytes of an answer, its head included."""
MOST_LATE_S = 20.0
"""After the last question."""


class Plan(msgspec.Struct, frozen=True):
    """What is asked."""

    port: int
    path: str
    per_s: float
    seconds: float
    connections: int = 32


class Told(msgspec.Struct):
    """What came of it."""

    late_ms: list[float] = []
    """From when a question was due to the last byte of its answer."""
    size: int = 0
    """Bytes of the last answer's body."""


class Refused(CandlewickError):
    """A question was not answered as it must be."""


class _Connection(asyncio.BufferedProtocol):
    """One question at a time. Bodies are counted, not kept."""

    def __init__(self) -> None:
        self._buffer = bytearray(LARGEST)
        self._view = memoryview(self._buffer)
        self._have = self._need = 0
        self._answered: asyncio.Future[int] | None = None
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(Refused("the connection ended"))

    def get_buffer(self, size_hint: int) -> memoryview:
        return self._view[self._have :]

    def buffer_updated(self, count: int) -> None:
        self._have += count
        if not self._need:
            end = self._buffer.find(b"\r\n\r\n", 0, min(self._have, 4096))
            if end < 0:
                return
            head = bytes(self._buffer[: end + 2])
            if not head.startswith(b"HTTP/1.1 200 "):
                assert self._answered is not None
                self._answered.set_exception(Refused(head.partition(b"\r\n")[0].decode()))
                return
            size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._need = end + 4 + int(size)
            self._size = int(size)
        if self._have >= self._need:
            assert self._answered is not None
            self._have = self._need = 0
            self._answered.set_result(self._size)

    async def ask(self, question: bytes) -> int:
        """Return the bytes of the answer's body."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(question)
        return await self._answered


async def ask(plan: Plan) -> Told:
    """Ask, each connection its share of the questions, and return how late each was answered."""
    told = Told()
    question = f"GET {plan.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(_Connection, "127.0.0.1", plan.port))[1]
        for _ in range(plan.connections)
    ]
    began = time.perf_counter() + 0.5
    count = round(plan.per_s * plan.seconds)

    async def work(connection: _Connection, first: int) -> None:
        for number in range(first, count, plan.connections):
            due = began + number / plan.per_s
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            told.size = await connection.ask(question)
            told.late_ms.append((time.perf_counter() - due) * 1000)

    async with asyncio.timeout(plan.seconds + MOST_LATE_S):
        await asyncio.gather(*(work(connection, first) for first, connection in enumerate(connections)))
    return told


if __name__ == "__main__":
    os.write(
        sys.stdout.fileno(),
        msgspec.json.encode(asyncio.run(ask(msgspec.json.decode(sys.argv[1], type=Plan)))),
    )
