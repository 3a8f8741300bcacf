"""The mock exchange: Coinbase Exchange's WebSocket feed and REST on one port.

A simulated market or a recording goes in, the exchange's protocol comes out, as strict as the
original about what it is asked. Limits are the exchange's (Coinbase's documentation, Limits).
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from aiohttp import WSCloseCode, WSMsgType, web

from candlewick.mock.connection import Connection
from candlewick.mock.faults import Faults
from candlewick.mock.hub import TICK_S, Hub, Source
from candlewick.mock.player import RecordedSource
from candlewick.mock.requests import Refusal, Request, error_text, parse
from candlewick.mock.rest import Rest, errors_as_json
from candlewick.mock.simulated import SimulatedSource, Simulation
from models.errors import ConfigError

MAX_REQUEST_BYTES = 64 * 1024
MAX_REQUESTS_PER_S = 100
CLOSE_S = 2.0
"""How long a client may take to answer a close."""


class MockExchange:
    """Serves a source until it is stopped. One instance is started once."""

    def __init__(
        self,
        source: Simulation | Path | str,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        faults: Faults | None = None,
        levels: int = 50,
        *,
        subscribe_s: float = 5.0,
        settle_s: float = 0.1,
        max_queue: int = 32 << 20,
    ) -> None:
        """Describe the exchange.

        Args:
            source: what to simulate, or the file of a recording.
            port: 0 takes a free one; see `port` after `start`.
            speed: 1 is real time, 2 twice as fast, 0 as fast as the clients take it.
            levels: levels of each side of a simulated book.
            subscribe_s: a client must subscribe within this time of connecting.
            settle_s: a product's data begin so long after its first subscription, because a client
                may need several requests. Products subscribed within that time belong together.
            max_queue: characters that may wait for one client before it is closed as too slow.

        Raises:
            ConfigError: a setting that cannot be.
        """
        if not (math.isfinite(speed) and speed >= 0):
            raise ConfigError("speed", speed, "0 (as fast as it goes) or above")
        if levels < 1:
            raise ConfigError("levels", levels, "at least 1")
        if not 0 <= port <= 65535:
            raise ConfigError("port", port, "0 to 65535")
        self.host, self.port = host, port
        self._source: Source
        if isinstance(source, Simulation):
            self._source = SimulatedSource(source, speed, levels, settle_s)
        else:
            self._source = RecordedSource(Path(source), speed, settle_s)
        self._subscribe_s, self._max_queue = subscribe_s, max_queue
        self._hub = Hub(self._source, faults or Faults())
        self._refused = self._arrived = 0
        self._done = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the source ready and listen.

        Raises:
            ConfigError: the port is taken, or the address is not ours.
            RecordingError: the recording cannot be read.
        """
        await self._source.start(self._hub)
        app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_REQUEST_BYTES)
        app.add_routes([web.get("/", self._socket), web.get("/ws", self._socket)])
        app.add_routes(Rest(self._hub, self.status).routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError("port", self.port, f"free on {self.host}: it is taken") from None
            raise ConfigError("host", self.host, f"an address to listen on: {error.strerror}") from None
        self.port = int(self._runner.addresses[0][1])
        self._ticker = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Close every connection and end. Nothing happens the second time."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for connection in self._hub.connections:
            connection.close(WSCloseCode.GOING_AWAY, "the exchange is going down")
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        await runner.cleanup()
        await self._source.stop()

    @property
    def ws_url(self) -> str:
        """Where the WebSocket feed is, after `start`."""
        return f"ws://{self._address}"

    @property
    def rest_url(self) -> str:
        """Where REST is, after `start`; no slash at the end."""
        return f"http://{self._address}"

    @property
    def products(self) -> list[str]:
        """The products served, after `start`."""
        return list(self._source.products)

    def last_trade_ids(self) -> dict[str, int]:
        """Return the last trade of each product that has traded; afterwards too, where it ended."""
        views = {product: self._source.ticker(product) for product in self.products}
        return {product: view.trade_id for product, view in views.items() if view is not None}

    async def wait_done(self) -> None:
        """Wait until the source has no more frames and all of them were sent."""
        await self._done.wait()

    def status(self) -> Mapping[str, object]:
        """Return what ``GET /mock/status`` says."""
        return {
            "source": self._source.name,
            "products": self.products,
            "frames_sent": self._hub.tally.frames,
            "trades_sent": self._hub.tally.trades,
            "done": self._is_done(),
            "connections": len(self._hub.connections),
            "connections_ever": self._arrived,
            "requests_refused": self._refused,
            "faults": dict(self._hub.plan.counts),
        }

    @property
    def _address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _is_done(self) -> bool:
        return self._source.done and all(connection.idle for connection in self._hub.connections)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._hub.tick(loop.time())
            if not self._done.is_set() and self._is_done():
                self._done.set()
            await asyncio.sleep(TICK_S)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(timeout=CLOSE_S, max_msg_size=MAX_REQUEST_BYTES)
        if not ws.can_prepare(request).ok:
            raise web.HTTPNotFound
        writer = await ws.prepare(request)
        transport = request.transport
        if transport is None:  # gone during the handshake
            return ws
        self._arrived += 1
        connection = Connection(self._arrived, self._hub.plan, self._hub.tally, self._max_queue)
        self._hub.connections.add(connection)
        sender = asyncio.create_task(connection.serve(ws, transport, writer))
        deadline = asyncio.get_running_loop().call_later(self._subscribe_s, _must_have_asked, connection)
        try:
            await self._read(ws, connection)
        finally:
            deadline.cancel()
            self._hub.leave(connection)
            if connection.closing:  # let the last words out
                await asyncio.wait([sender], timeout=CLOSE_S)
            sender.cancel()
            await asyncio.wait([sender])
        return ws

    async def _read(self, ws: web.WebSocketResponse, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        recent: deque[float] = deque(maxlen=MAX_REQUESTS_PER_S)
        async for message in ws:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return  # an error on the wire; aiohttp has closed
            now = loop.time()
            if len(recent) == MAX_REQUESTS_PER_S and now - recent[0] < 1:
                connection.send_text(error_text("ErrSlowRead", "too many messages are sent"))
                connection.close(WSCloseCode.POLICY_VIOLATION, "ErrSlowRead")
            recent.append(now)
            if connection.closing:
                continue
            if message.type is WSMsgType.BINARY:
                request: Request | Refusal = Refusal("Malformed JSON", "the message is not text")
            else:
                request = parse(message.data, self._source.products)
            if isinstance(request, Refusal):
                self._refused += 1
                connection.asked = connection.asked or request.subscribe
                connection.send_text(request.text())
            else:
                connection.asked = connection.asked or request.type == "subscribe"
                self._hub.follow(connection, request)


def _must_have_asked(connection: Connection) -> None:
    if not connection.asked:
        connection.close(WSCloseCode.POLICY_VIOLATION, "no subscribe within the time allowed")
