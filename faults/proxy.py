"""A TCP proxy in front of one address, for hurting the wire while both ends run.

It can cut (RST), refuse, stall (a half-open connection: no byte, no FIN), throttle and delay. It
knows no protocol, so it stands before an exchange as well as before Kafka.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Self

CHUNK = 64 * 1024
_LINGER_0 = struct.pack("ii", 1, 0)
"""With it, closing sends RST (socket(7), SO_LINGER)."""


class _Link:
    """One connection: the client's half and the server's."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.flowing = asyncio.Event()

    def reset(self) -> None:
        for writer in self.writers:
            _reset(writer)


class Proxy:
    """Listens on a port of its own, and passes bytes to ``port`` of this machine."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.up_bytes = self.down_bytes = 0
        """Passed to the server, and to the client."""
        self.bytes_per_s: float | None = None
        """Of each direction, all connections together; None is no limit."""
        self.delay_s = 0.0
        """Before each chunk; slows down as well, since a chunk waits for the one before it."""
        self._stall_new = False
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._placeholder: socket.socket | None = None
        self._pace = {True: asyncio.Lock(), False: asyncio.Lock()}

    async def start(self) -> None:
        """Listen; the first time on a free port, later on the same one."""
        if self._placeholder:
            self._placeholder.close()
            self._placeholder = None
        sock = _bound(self.port)
        self.port = int(sock.getsockname()[1])
        self._server = await asyncio.start_server(self._serve, sock=sock, limit=CHUNK)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        if self._placeholder:
            self._placeholder.close()

    def cut(self) -> None:
        """End every connection with RST; new ones are welcome."""
        for link in list(self._links):
            link.reset()

    def refuse(self) -> None:
        """Cut, and refuse new connections until `start`."""
        if self._server:
            self._server.close()
            self._server = None
            self._placeholder = _bound(self.port)  # bound and not listening: refused, and still ours
        self.cut()

    def stall(self, new: bool = False) -> None:
        """Pass nothing more on the present connections, and on ``new`` ones neither, until `resume`."""
        self._stall_new = new
        for link in self._links:
            link.flowing.clear()

    def resume(self) -> None:
        """Pass on what waits."""
        self._stall_new = False
        for link in self._links:
            link.flowing.set()

    @property
    def _chunk(self) -> int:
        """Bytes to read at once: a tenth of a second's at most, so that a slow wire flows evenly."""
        return min(CHUNK, int(self.bytes_per_s / 10) + 1) if self.bytes_per_s else CHUNK

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self.target, limit=CHUNK
            )
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, server_writer)
        if not self._stall_new:
            link.flowing.set()
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, server_writer, up=True)),
            asyncio.ensure_future(self._pump(link, server_reader, writer, up=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            ended = await asyncio.gather(*pumps, return_exceptions=True)
            if any(isinstance(error, OSError) for error in ended):
                link.reset()
            for each in link.writers:
                each.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        while data := await reader.read(self._chunk):
            await link.flowing.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                async with self._pace[up]:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
            writer.write(data)
            if up:
                self.up_bytes += len(data)
            else:
                self.down_bytes += len(data)
            await writer.drain()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
