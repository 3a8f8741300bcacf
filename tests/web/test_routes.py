"""Queries that are read by their type, and answers as they are sent."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from candlewick.web.problems import Problem

BODY = b"[" + b"1234567890," * 20_000 + b"0]"


@pytest.fixture
def routes(of_app: Callable[[str], Any]) -> Any:
    """The module under test."""
    return of_app("candlewick.web.routes")


class Query(msgspec.Struct, kw_only=True, rename={"from_": "from"}):
    symbol: str
    from_: int = 0
    at: float | None = None
    local: bool = False


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("", "symbol", "is missing"),
        ("from=1", "symbol", "is missing"),
        ("symbol=a&colour=red", "colour", "is not one of at, from, local, symbol"),
        ("symbol=a&from_=1", "from_", "is not one of at, from, local, symbol"),
        ("symbol=a&symbol=b", "symbol", "is given more than once"),
        ("symbol=a&from=x", "from", "Expected `int`, got `str`"),
        ("symbol=a&from=" + "9" * 5000, "from", "Integer value out of range"),
        ("symbol=a&at=Null", "at", "must not be null: leave it out"),
        ("symbol=a&local=1", "local", "must be true or false"),
    ],
)
def test_a_wrong_parameter_is_named(routes: Any, query: str, param: str, message: str) -> None:
    with pytest.raises(Problem) as caught:
        routes.read_query(URL(f"/?{query}").query, Query)
    assert caught.value.errors is not None
    [wrong] = caught.value.errors
    assert (wrong.param, wrong.message) == (param, message)


def test_parameters_come_by_their_own_names(routes: Any) -> None:
    found = routes.read_query(URL("/?symbol=null&from=5&local=true").query, Query)
    assert (found.symbol, found.from_, found.at, found.local) == ("null", 5, None, True)


@pytest_asyncio.fixture
async def client(routes: Any) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async def large(request: web.Request) -> web.StreamResponse:
        answer: web.StreamResponse = routes.respond(request, routes.Page(BODY, etag='W/"a"'))
        return answer

    app = web.Application()
    app.router.add_get("/", large)
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


@pytest.mark.parametrize(
    ("taken", "coding"),
    [("gzip", "gzip"), ("gzip, deflate, br", "gzip"), ("deflate", None), ("identity", None)],
)
async def test_who_takes_gzip_gets_gzip(client: Any, taken: str, coding: str | None) -> None:
    answer = await client.get("/", headers={"Accept-Encoding": taken})
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.headers["Vary"] == "Accept-Encoding"
    body = await answer.read()
    assert (gzip.decompress(body) if coding else body) == BODY


@pytest.mark.parametrize("known", ['W/"a"', '"a"', '"b", W/"a"'])
async def test_who_has_it_hears_so_and_what_it_varies_with(client: Any, known: str) -> None:
    answer = await client.get("/", headers={"If-None-Match": known, "Accept-Encoding": "gzip"})
    assert (answer.status, await answer.read()) == (304, b"")
    assert (answer.headers["ETag"], answer.headers["Vary"]) == ('W/"a"', "Accept-Encoding")
    assert (await client.get("/", headers={"If-None-Match": '"b"'})).status == 200
