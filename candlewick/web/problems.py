"""Errors of the web views: RFC 9457 ``application/problem+json``, one type for each cause."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is not the one that was asked for.

    ``kind`` is the last part of the problem's ``type``; ``facts`` are further members.
    """

    def __init__(self, status: int, kind: str, title: str, detail: str, retry_after_s: int = 0, **facts: Any):
        super().__init__(status, kind, title, detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        headers = {"Cache-Control": "no-store"}
        if self.retry_after_s:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers

    def body(self, instance: str) -> bytes:
        """Return the JSON; ``instance`` is the path that was asked for."""
        return msgspec.json.encode(
            {
                "type": f"/problems/{self.kind}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "instance": instance,
                **self.facts,
            }
        )


def unknown_window(name: str, known: list[str]) -> Problem:
    return Problem(404, "unknown-window", "Unknown window", f"{name!r} is not one of {', '.join(known)}")


def unknown_product(name: str, exchange: str) -> Problem:
    detail = f"no feed of {exchange[:50]!r} has spoken of {name!r}"
    return Problem(404, "unknown-product", "Unknown product", detail)


def no_data(detail: str) -> Problem:
    return Problem(404, "no-data", "Nothing there yet", detail)


def bad_parameter(name: str, message: str) -> Problem:
    errors = [{"param": name, "message": message}]
    return Problem(400, "invalid-parameter", "Invalid parameter", f"{name}: {message}", errors=errors)


def recovering(detail: str) -> Problem:
    return Problem(503, "recovering", "Tables are being recovered", detail, retry_after_s=2)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def plain_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the server's own errors into problems, and add what every answer carries."""
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = _answer(
            Problem(error.status, "http", error.reason, f"{request.method} {request.path[:200]}"), request
        )
    except Exception:
        logger.exception("A view failed: %s %s", request.method, request.path[:200])
        answer = _answer(Problem(500, "internal", "Internal error", "it was logged here"), request)
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Server"] = "candlewick"
    return answer


def _answer(problem: Problem, request: web.Request) -> web.Response:
    return web.Response(
        body=problem.body(request.path[:200]),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
