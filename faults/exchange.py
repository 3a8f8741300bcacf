"""An exchange that has gone bad: a relay before the mock exchange that bends the frames on the way.

The market behind it stays honest, and its REST is passed on as it is; so what the socket lost or
spoiled can still be had, as on a real exchange's bad day.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp import WSMsgType, web


@dataclass(frozen=True)
class Raw:
    """Bytes for the wire as they are: frames that no library would send."""

    data: bytes


Frame = str | bytes | Raw
"""Text and bytes go out as one text frame each, even when they are not UTF-8."""

PASSED_ON = ("Content-Type", "Retry-After", "CB-BEFORE", "CB-AFTER")
"""Headers of the exchange's REST."""

Bend = Callable[[str], Iterable[Frame]]
"""Takes one frame of the honest exchange; returns what is sent instead."""


def honest(frame: str) -> tuple[str]:
    """Send the frame as it is."""
    return (frame,)


class EvilExchange:
    """Listens on a port of its own.

    Arguments:
        url: the honest exchange's, ``http://host:port``.
        deflate: negotiate permessage-deflate, so that compressed frames are legal.
    """

    def __init__(self, url: str, bend: Bend = honest, *, deflate: bool = False) -> None:
        self.port = 0
        self.bend = bend
        self.requests: list[tuple[float, dict[str, Any]]] = []
        """What clients sent, each with its monotonic time."""
        self.deflated = 0
        """Connections on which permessage-deflate was agreed upon."""
        self._url, self._deflate = url, deflate

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application()
        app.add_routes([web.get("/", self._socket), web.get("/{path:.*}", self._rest)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _rest(self, request: web.Request) -> web.Response:
        async with self._session.get(self._url + request.path_qs) as answer:
            kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(compress=self._deflate, max_msg_size=0)
        await ws.prepare(request)
        self.deflated += bool(ws.compress)
        assert request.transport is not None
        async with self._session.ws_connect(self._url, max_msg_size=0, compress=0) as upstream:
            asking = asyncio.ensure_future(self._ask(ws, upstream))
            try:
                async for message in upstream:
                    if message.type is WSMsgType.TEXT:
                        await self._send(ws, request.transport, self.bend(message.data))
            except ConnectionError:
                pass  # the client is gone
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        return ws

    async def _ask(self, ws: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                self.requests.append((time.monotonic(), json.loads(message.data)))
                await upstream.send_str(message.data)
        await upstream.close()

    async def _send(
        self, ws: web.WebSocketResponse, transport: asyncio.Transport, frames: Iterable[Frame]
    ) -> None:
        for frame in frames:
            if isinstance(frame, Raw):
                for start in range(0, len(frame.data), 1 << 20):
                    if transport.is_closing():
                        raise ConnectionError
                    transport.write(frame.data[start : start + (1 << 20)])
                    while transport.get_write_buffer_size() > 1 << 20 and not transport.is_closing():  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
            else:
                await ws.send_frame(frame.encode() if isinstance(frame, str) else frame, WSMsgType.TEXT)


def text_frame(size: int) -> bytes:
    """Return the head of an unmasked text frame of so many bytes (RFC 6455, 5.2)."""
    return struct.pack("!BBQ", 0x81, 127, size)


def bomb(payload: bytes) -> bytes:
    """Return a text frame that inflates to this payload (RFC 7692)."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return struct.pack("!BBQ", 0xC1, 127, len(packed)) + packed


def fragments(payload: bytes) -> bytes:
    """Return a text message of one frame for each byte of the payload."""
    parts = [b"\x00\x01" + payload[index : index + 1] for index in range(len(payload))]
    parts[0] = b"\x01" + parts[0][1:]
    parts[-1] = b"\x80" + parts[-1][1:]
    return b"".join(parts)
