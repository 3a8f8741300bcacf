"""Connections to the web views: how many there may be, how slow, and what every answer carries.

aiohttp bounds the request line and each header, and leaves the rest to a proxy in front: it waits an hour
for a head that comes a byte a second, and for ever for a client that takes nothing of its answer. Here is
what a worker needs to stand without a proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import Counter
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from candlewick.web.problems import Problem, answer_of

HEAD_S = 10.0
"""In which a request's head must be whole; also how long a new connection may say nothing."""
KEEP_ALIVE_S = 75.0
"""How long a connection may wait for its next request: longer than most proxies keep one."""
BODY_S = 2.0
"""How long a body is read that no view asks for, before the connection is closed."""
STALLED_S = 30.0
"""How long a client may take nothing of what waits for it."""
LOOK_S = 5.0
MOST_CONNECTIONS = 8_192
"""As far as the process may open files; one address may have half of them."""

CARRIED = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer; a page has a policy of its own instead."""

TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


def carry(headers: MutableMapping[str, str]) -> None:
    """Add the headers of every answer; the server tells its name, and no version."""
    for name, value in CARRIED.items():
        headers.setdefault(name, value)
    headers["Server"] = "candlewick"


class Runner(web.AppRunner):
    """aiohttp's runner, with these limits."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, lingering_time=BODY_S)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return Server(made.request_handler, request_factory=made.request_factory, **made._kwargs)


class Server(web.Server):
    """Makes a `Connection` of each connection, and looks after all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most = most_connections()
        self._count = 0
        self._open: Counter[str] = Counter()
        """How many of them each address has."""
        self._looking = asyncio.create_task(self._look())

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def admit(self, address: str) -> bool:
        """Say whether one more connection may be; one that may is counted until `leave`."""
        if self._count >= self.most or self._open[address] >= self.most // 2:
            return False
        self._count += 1
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection no more."""
        self._count -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    async def _look(self) -> None:
        """Cut off whoever takes nothing of what waits for him."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._loop.time()
            for connection in self.connections:
                if isinstance(connection, Connection):
                    connection.look(now)

    async def shutdown(self, timeout: float | None = None) -> None:
        self._looking.cancel()
        await super().shutdown(timeout)


class Connection(RequestHandler):
    """One connection, with a limit to its patience."""

    def __init__(self, server: Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._address = ""
        self._is_admitted = False
        self._link: asyncio.Transport | None = None
        """Until it is closed; aiohttp forgets it before what waits in it is sent."""
        self._head_since: float | None = None
        """Since when the head of a request is awaited that has begun; None where none has."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        """Bytes that waited for the client when we last looked."""
        self._taken_at = 0.0
        """When the client was last seen to take some, or nothing waited."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        self._is_admitted = self._server.admit(self._address)
        if not self._is_admitted:
            transport.write(TOO_MANY)
            transport.close()
            return
        self._link = transport
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._link = None
        if self._is_admitted:
            self._is_admitted = False
            self._server.leave(self._address)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_admitted:
            return
        known = self._request_count
        super().data_received(data)
        if self._request_count != known:
            self._head_since = None
        elif data and self._head_since is None and not self._upgraded:
            self._await_head()

    def _await_head(self) -> None:
        self._head_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(HEAD_S, self._look_at_head)

    def _look_at_head(self) -> None:
        self._timer = None
        if self._head_since is None:
            return
        left_s = self._head_since + HEAD_S - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look_at_head)
        elif self._waiter is not None:
            self.force_close()
        else:  # a request is being answered, and what came was its body
            self._head_since = None

    def look(self, now: float) -> None:
        """Cut the client off where it takes nothing."""
        if self._link is None:
            return
        waiting = self._link.get_write_buffer_size()
        if not self._waiting or waiting < self._waiting:
            self._taken_at = now
        elif now - self._taken_at >= STALLED_S:
            self._link.abort()
        self._waiting = waiting

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, or was not answered, as every other error is."""
        super().handle_error(request, status, exc, message)
        told = "this is not HTTP as it should be" if status == 400 else "the request was given up"
        response = answer_of(Problem(status, "http", HTTPStatus(status).phrase, told), request)
        response.force_close()
        carry(response.headers)
        return response


def most_connections() -> int:
    """Return how many connections there may be, once the process may open as many files as it can be let."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft // 2)
