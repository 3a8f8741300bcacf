"""One client's connection: a bounded queue, and the task that empties it into the socket.

Frames are put on the wire by hand and many at a time: one system call for up to 256 KiB is what
makes tens of thousands of frames a second possible. The handshake, the reading and the closing are
aiohttp's. Where the client offered permessage-deflate only large frames (snapshots) are compressed,
which the extension allows (RFC 7692 §6: compression is chosen message by message).
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import deque
from dataclasses import dataclass

from aiohttp import WSCloseCode, web
from aiohttp.abc import AbstractStreamWriter

from candlewick.mock.faults import Action, Disconnect, FaultPlan, Injector, Stall
from candlewick.mock.frames import Frame
from candlewick.mock.requests import Subscriptions, error_text

WRITE_BYTES = 256 * 1024
"""Written at once, about."""
ROOM = 1 << 20
"""Characters in the queue above which a source that can wait does."""
DEFLATE_FROM = 16 * 1024
"""Characters from which a frame is worth compressing, on a connection that can."""
HELD_S = 0.5
"""A frame held back to be reordered waits so long for its neighbour."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close with the handshake of the protocol, after what was queued before."""

    code: int
    reason: str


NotText = Stall | Disconnect | Close


class Tally:
    """What was sent on all connections together."""

    def __init__(self) -> None:
        self.frames = 0
        self.trades = 0


class Connection:
    """What the server knows of one client. Not to be used before `serve` runs."""

    def __init__(self, number: int, plan: FaultPlan, tally: Tally, max_queue: int) -> None:
        self.number = number
        self.subscriptions: Subscriptions = {}
        self.asked = False
        """True once a ``subscribe`` came, followed or refused."""
        self.closing = False
        self.beats: dict[str, float] = {}
        """Loop time of the last heartbeat sent for each product of the channel."""
        self._plan, self._tally, self._max_queue = plan, tally, max_queue
        self._injector = Injector(plan, number)
        self._queue: deque[tuple[Action | Close, bool]] = deque()
        self._queued = self._greeted = 0
        self._stalled = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def send(self, frame: Frame) -> None:
        """Queue a frame of the source, or what the faults make of it."""
        if self.closing:  # faults must not happen, nor be counted, to a client that is gone
            return
        trade = frame.kind == "match"
        if not self._plan.faults.any:
            self._put(frame.text, trade)
            return
        now = asyncio.get_running_loop().time()
        for action in self._injector.pass_on(frame.product, frame.kind, frame.text, now):
            self._put(action, trade)

    def greet(self, frame: Frame) -> None:
        """Queue what a new subscriber gets first; however large, it does not make him slow."""
        self._greeted += len(frame.text)
        self._put(frame.text, False)

    def send_text(self, text: str) -> None:
        """Queue an answer of the server."""
        self._put(text, False)

    def close(self, code: int, reason: str) -> None:
        """Close after everything queued so far was sent."""
        self._put(Close(code, reason), False)
        self.closing = True

    def release_held(self, now: float) -> None:
        """Send frames whose neighbour did not come in time."""
        for action in self._injector.release(now - HELD_S):
            self._put(action, isinstance(action, str) and action.startswith('{"type":"match"'))

    @property
    def idle(self) -> bool:
        """True when nothing waits to be sent."""
        return not self._queue

    async def room(self) -> None:
        """Wait until the queue is short."""
        await self._room.wait()

    async def serve(
        self, ws: web.WebSocketResponse, transport: asyncio.Transport, writer: AbstractStreamWriter
    ) -> None:
        """Send what is queued, until the connection ends."""
        deflate = int(ws.compress or 0)
        try:
            while not transport.is_closing():
                await self._wake.wait()
                self._wake.clear()
                while self._queue and not transport.is_closing():
                    item = self._write_some(transport, deflate)
                    await writer.drain()
                    if item is not None and await self._act(item, ws, transport):
                        return
        except ConnectionError:
            return  # the client is gone, which the reading side reports
        finally:
            self.closing = True
            self._room.set()

    def _write_some(self, transport: asyncio.Transport, deflate: int) -> NotText | None:
        """Write up to `WRITE_BYTES`, or up to something else to do, which is returned."""
        parts: list[bytes] = []
        size = frames = trades = 0
        other: NotText | None = None
        while self._queue and size < WRITE_BYTES:
            action, trade = self._queue.popleft()
            if not isinstance(action, str):
                other = action
                break
            self._queued -= len(action)
            part = _encode(action, deflate)
            parts.append(part)
            size += len(part)
            frames += 1
            trades += trade
        if parts:
            transport.write(b"".join(parts))
        self._tally.frames += frames
        self._tally.trades += trades
        if self._queued < ROOM:
            self._room.set()
        if not self._queued:
            self._greeted = 0
        return other

    async def _act(self, action: NotText, ws: web.WebSocketResponse, transport: asyncio.Transport) -> bool:
        """Do what is not a frame; return True when that ends the connection."""
        if isinstance(action, Stall):
            self._stalled = True
            await asyncio.sleep(action.seconds)
            self._stalled = False
            return False
        if isinstance(action, Disconnect):
            transport.close()
        else:
            await ws.close(code=action.code, message=action.reason.encode())
            transport.abort()  # a client that does not answer the close is not waited for
        return True

    def _put(self, action: Action | Close, trade: bool) -> None:
        if self.closing:
            return
        self._queue.append((action, trade))
        if isinstance(action, Disconnect):
            self.closing = True
        elif isinstance(action, str):
            self._queued += len(action)
            if self._queued > ROOM:
                self._room.clear()
                if self._queued - self._greeted > self._max_queue and not self._stalled:
                    self._give_up()
        self._wake.set()

    def _give_up(self) -> None:
        """The client reads too slowly: say so, and forget what it did not take."""
        self._queue.clear()
        self._queued = self._greeted = 0
        self.send_text(error_text("ErrSlowConsume", "too many messages are backed up"))
        self.close(WSCloseCode.POLICY_VIOLATION, "ErrSlowConsume")


def _encode(text: str, deflate: int) -> bytes:
    """Return a whole text frame, unmasked, as servers send them (RFC 6455 §5.2)."""
    payload = text.encode()
    first = 0x81
    if deflate and len(payload) >= DEFLATE_FROM:
        # A new compressor for each frame needs no memory between frames and refers to none before.
        compressor = zlib.compressobj(1, zlib.DEFLATED, -deflate)
        payload = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        payload = payload[:-4]  # RFC 7692 §7.2.1
        first = 0xC1
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
