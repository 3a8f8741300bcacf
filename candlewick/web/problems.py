"""Errors of the web views: RFC 9457 ``application/problem+json``, one type for each cause."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from models.answers import ProblemBody, WrongParameter

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
COINBASE = ("/products", "/currencies", "/time")
"""How the paths begin that are Coinbase's own."""
STATUSES = {
    101: "the connection is a WebSocket from here on",
    304: "the client has it already",
    400: "a parameter is wrong",
    401: "the token is missing, or wrong",
    403: "this page, or this name of the host, may not ask",
    404: "no such product or window, or nothing there yet",
    426: "the request is not one for a WebSocket",
    429: "too many requests: see Retry-After",
    503: "not for the moment: see Retry-After",
}
"""What a request may be answered beside what it asked for."""
ALWAYS = (400, 401, 403, 429)
"""Of these, what any request may be answered."""


class Problem(Exception):
    """An answer that is not the one that was asked for.

    ``kind`` is the last part of the problem's ``type``.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        retry_after_s: int = 0,
        errors: list[WrongParameter] | None = None,
        challenge: str = "",
    ):
        super().__init__(status, kind, title, detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.errors = errors
        self.challenge = challenge

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after_s:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.challenge:
            headers["WWW-Authenticate"] = self.challenge
        return headers

    def body(self, instance: str) -> bytes:
        """Return the JSON; ``instance`` is the path that was asked for."""
        return msgspec.json.encode(
            ProblemBody(
                type=f"/problems/{self.kind}",
                title=self.title,
                status=self.status,
                detail=self.detail,
                instance=instance,
                errors=self.errors,
                message=self.detail if instance.startswith(COINBASE) else None,
            )
        )


def unknown_window(name: str, known: list[str]) -> Problem:
    return Problem(404, "unknown-window", "Unknown window", f"{name!r} is not one of {', '.join(known)}")


def unknown_product(name: str, exchange: str) -> Problem:
    detail = f"no feed of {exchange[:50]!r} has spoken of {name!r}"
    return Problem(404, "unknown-product", "Unknown product", detail)


def no_data(detail: str) -> Problem:
    return Problem(404, "no-data", "Nothing there yet", detail)


def bad_parameter(name: str, message: str) -> Problem:
    errors = [WrongParameter(name, message)]
    return Problem(400, "invalid-parameter", "Invalid parameter", f"{name}: {message}", errors=errors)


def recovering(detail: str) -> Problem:
    return Problem(503, "recovering", "Tables are being recovered", detail, retry_after_s=2)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def plain_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the server's own errors into problems."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = answer_of(
            Problem(error.status, "http", error.reason, f"{request.method} {request.path[:200]}"), request
        )
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except Exception:
        logger.exception("A view failed: %s %r", request.method, request.path[:200])
        return answer_of(Problem(500, "internal", "Internal error", "it was logged here"), request)


def answer_of(problem: Problem, request: web.BaseRequest) -> web.Response:
    """Return a problem as a response."""
    return web.Response(
        body=problem.body(request.path[:200]),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
