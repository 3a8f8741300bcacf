"""The exchange's REST side, and the mock's own two pages under ``/mock``.

Shapes, paging and limits as in Coinbase's documentation, REST. An error is ``{"message": ...}``.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from candlewick.mock.frames import time_text
from candlewick.mock.hub import Hub
from models.errors import ConfigError

MAX_ROWS = 1000
"""Trades of one page, and their number where no limit is asked for."""

RETRY_AFTER_S = 1
"""What a client over the limit is told to wait."""

_LAST_ID = 2**63 - 1

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Rest:
    """The handlers, over one hub."""

    def __init__(self, hub: Hub, status: Callable[[], Mapping[str, object]]) -> None:
        self._hub, self._source, self._status = hub, hub.source, status

    def routes(self) -> list[web.RouteDef]:
        """Return every path that is not a WebSocket. The mock's own pages have no faults."""
        faulty = self._with_faults
        return [
            web.get("/time", faulty(self.time)),
            web.get("/products", faulty(self.products)),
            web.get("/products/{id}", faulty(self.product)),
            web.get("/products/{id}/book", faulty(self.book)),
            web.get("/products/{id}/trades", faulty(self.trades)),
            web.get("/products/{id}/ticker", faulty(self.ticker)),
            web.get("/mock/status", self.status),
            web.get("/mock/faults", self.faults),
            web.post("/mock/faults", self.change_faults),
        ]

    async def time(self, request: web.Request) -> web.Response:
        """``GET /time``: the exchange's clock."""
        now_us = self._source.now_us()
        return _json({"iso": time_text(now_us), "epoch": now_us / 1_000_000})

    async def products(self, request: web.Request) -> web.Response:
        """``GET /products``."""
        return _json([self._describe(product) for product in self._source.products])

    async def product(self, request: web.Request) -> web.Response:
        """``GET /products/<id>``."""
        return _json(self._describe(self._product(request)))

    async def book(self, request: web.Request) -> web.Response:
        """``GET /products/<id>/book?level=1|2``: the best level of each side, or all."""
        product = self._product(request)
        level = request.query.get("level", "1")
        if level not in ("1", "2"):
            raise _bad("Level 3 requires authentication" if level == "3" else f"Invalid level {level}")
        book = self._source.book(product, 1 if level == "1" else None)
        return _json(
            {
                "bids": book.bids,
                "asks": book.asks,
                "sequence": book.sequence,
                "auction_mode": False,
                "auction": None,
                "time": time_text(book.time_us),
            }
        )

    async def trades(self, request: web.Request) -> web.Response:
        """``GET /products/<id>/trades?limit=&after=&before=``: newest first, ``side`` the maker's.

        ``after`` a trade id gives older ones, ``before`` newer ones, from the newest end.
        """
        product = self._product(request)
        limit = _number(request, "limit", MAX_ROWS)
        after, before = _number(request, "after", _LAST_ID), _number(request, "before", _LAST_ID)
        rows = self._source.trades(product).rows(MAX_ROWS if limit is None else limit, after, before)
        response = _json(rows)
        if rows:
            response.headers["CB-BEFORE"] = str(rows[0]["trade_id"])
            response.headers["CB-AFTER"] = str(rows[-1]["trade_id"])
        return response

    async def ticker(self, request: web.Request) -> web.Response:
        """``GET /products/<id>/ticker``."""
        view = self._source.ticker(self._product(request))
        if view is None:
            raise _not_found()
        return _json(msgspec.to_builtins(view))

    async def status(self, request: web.Request) -> web.Response:
        """``GET /mock/status``: what was sent, to how many, and which faults happened."""
        return _json(self._status())

    async def faults(self, request: web.Request) -> web.Response:
        """``GET /mock/faults``: the faults in force."""
        return _json(self._hub.plan.faults.as_dict())

    async def change_faults(self, request: web.Request) -> web.Response:
        """``POST /mock/faults``: change some, from this machine only; the others stay.

        A page in a browser cannot: it may not send JSON to another origin without being asked first.
        """
        if not _is_local(request.remote):
            raise web.HTTPForbidden(text=_text("only from the machine itself"), content_type=_JSON)
        if request.content_type != _JSON:
            raise web.HTTPUnsupportedMediaType(text=_text(f"not {_JSON}"), content_type=_JSON)
        try:
            changes = msgspec.json.decode(await request.read())
        except (msgspec.DecodeError, RecursionError) as error:
            raise _bad(f"not JSON: {error}") from None
        if not isinstance(changes, dict):
            raise _bad("not an object")
        try:
            self._hub.plan.faults = self._hub.plan.faults.changed(changes)
        except ConfigError as error:
            raise _bad(str(error)) from None
        return await self.faults(request)

    def _with_faults(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            plan = self._hub.plan
            match plan.rest_fault():
                case "rest_error":
                    raise web.HTTPInternalServerError(text=_text("Internal server error"), content_type=_JSON)
                case "rest_limit":
                    raise web.HTTPTooManyRequests(
                        text=_text("Public rate limit exceeded"),
                        content_type=_JSON,
                        headers={"Retry-After": str(RETRY_AFTER_S)},
                    )
                case "rest_stall":
                    await asyncio.sleep(plan.faults.stall_s)
            return await handler(request)

        return answer

    def _product(self, request: web.Request) -> str:
        product = request.match_info["id"]
        if product not in self._source.products:
            raise _not_found()
        return product

    def _describe(self, product: str) -> dict[str, object]:
        base, _, quote = product.partition("-")
        size_step, price_step = self._source.increments(product)
        return {
            "id": product,
            "base_currency": base,
            "quote_currency": quote,
            "quote_increment": price_step,
            "base_increment": size_step,
            "display_name": f"{base}-{quote}",
            "min_market_funds": "1",
            "margin_enabled": False,
            "post_only": False,
            "limit_only": False,
            "cancel_only": False,
            "status": "online",
            "status_message": "",
            "trading_disabled": False,
            "fx_stablecoin": False,
            "auction_mode": False,
        }


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an unknown path or method as the exchange does."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or error.content_type == _JSON:
            raise
        message = "NotFound" if error.status == 404 else error.reason
        return web.json_response({"message": message}, status=error.status)


_JSON = "application/json"


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=_JSON)


def _text(message: str) -> str:
    return msgspec.json.encode({"message": message}).decode()


def _bad(message: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=_text(message), content_type=_JSON)


def _not_found() -> web.HTTPNotFound:
    return web.HTTPNotFound(text=_text("NotFound"), content_type=_JSON)


def _number(request: web.Request, name: str, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise _bad(f"Invalid {name}: a whole number from 1 to {most}")
    return int(text)


def _is_local(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address(remote or "").is_loopback
    except ValueError:
        return False
