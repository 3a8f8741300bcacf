"""Questions to a worker on one connection, by a client that costs a tenth of aiohttp's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

Answer = tuple[int, bytes]
"""Status and body."""
AT_ONCE = 100
"""Questions that are sent before the first answer is read."""


class Questions:
    """A connection: ``async with Questions(port) as questions``."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, path: str) -> Answer:
        """Return the answer to one question."""
        self._writer.write(_question(path))
        return await self._answer()

    async def ask_all(self, paths: Sequence[str]) -> list[Answer]:
        """Return the answers to many, in their order."""
        answers = []
        for begin in range(0, len(paths), AT_ONCE):
            some = paths[begin : begin + AT_ONCE]
            self._writer.write(b"".join(_question(path) for path in some))
            answers += [await self._answer() for _ in some]
        return answers

    async def _answer(self) -> Answer:
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        return int(head.split(maxsplit=2)[1]), await self._reader.readexactly(size)


def _question(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
