"""What every request passes, from the outside in: timed, its errors made plain, checked; and the pages."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from candlewick.app import app
from candlewick.web import pages
from candlewick.web.access import Access
from candlewick.web.connections import Runner, carry
from candlewick.web.metrics import timed
from candlewick.web.peers import PASSED_ON
from candlewick.web.problems import Handler, Problem, answer_of, plain_answers

ORIGIN = web.RequestKey("origin", str)
"""Of the page that asks, once it is known that it may."""

_access = Access(app.settings)


@web.middleware
async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what may not be asked, and let the rest through."""
    try:
        origin = request[ORIGIN] = _access.origin(request.headers)
        if origin and request.method == "OPTIONS":
            return _preflight()
        _access.check(request.path, request.headers, request.remote or "", time.monotonic())
    except Problem as problem:
        return answer_of(problem, request)
    return await handler(request)


def _preflight() -> web.Response:
    """Return what a browser asks for before it lets a page of another origin send headers."""
    headers = {
        "Access-Control-Allow-Methods": "GET",
        "Access-Control-Allow-Headers": "Authorization, If-None-Match, Last-Event-ID",
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)


async def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Add what every answer carries, streams and WebSockets too, before its first byte."""
    carry(response.headers)
    if app.settings.cors_origins:
        # Of all answers, or a page could be given one from the browser's cache that is not for it.
        vary = response.headers.get("Vary", "")
        response.headers["Vary"] = f"{vary}, Origin" if vary else "Origin"
    if origin := request.get(ORIGIN):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = ", ".join(PASSED_ON)


app.web.web_app.middlewares.extend((timed, plain_answers, check))
app.web.web_app.on_response_prepare.append(dress)
# Faust gives aiohttp's runner no options.
app.web._runner = Runner(app.web.web_app)
pages.add(app.web.web_app.router)  # before Faust adds its own `/`, which is never reached then
# A request that is no HTTP, or has a line too long, is answered 400; it is not worth a traceback.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
