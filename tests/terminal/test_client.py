"""What a command says of whoever answers it, or does not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import msgspec
import pytest
import trustme

from candlewick import config
from candlewick.terminal.client import (
    NoWorker,
    Refused,
    Stranger,
    Unasked,
    Views,
    Where,
    own,
    where,
    words_of,
)


class Server(ThreadingHTTPServer):
    """Answers with what it was given, one after the other, and ends each connection without a word."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, object]] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        status, told = self.server.answers.pop(0)
        body = told if isinstance(told, bytes) else msgspec.json.encode(told)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def problem(kind: str, status: int) -> dict[str, object]:
    return {"type": f"/problems/{kind}", "title": "No", "status": status, "detail": "why", "instance": "/"}


def read(server: Server, *answers: tuple[int, object], tries: int = 1, token: str = "") -> object:
    server.answers = list(answers)
    settings = config.load({}, url=f"http://{server.at}/below/", token=token)
    with Views(where(settings)) as views:
        return views.read("/v1/x?a=1", int, tries)


def test_an_answer_is_read_as_its_type_from_below_the_addresss_own_folder(server: Server) -> None:
    assert read(server, (200, 7), token="0123456789abcdef") == 7
    assert server.asked == [("/below/v1/x?a=1", "Bearer 0123456789abcdef")]


def test_a_connection_that_was_ended_meanwhile_is_opened_again(server: Server) -> None:
    server.answers = [(200, 1), (200, 2), (200, 3)]
    with Views(Where(f"http://{server.at}", {})) as views:
        assert [views.read("/", int) for _ in range(3)] == [1, 2, 3]


def test_a_busy_worker_is_asked_again_and_not_for_ever(server: Server) -> None:
    busy = 503, problem("recovering", 503)
    assert read(server, busy, (429, problem("rate-limited", 429)), (200, 7), tries=3) == 7
    with pytest.raises(Refused, match=r"^no: why$"):
        read(server, busy, busy, (200, 7), tries=2)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("answer", "token", "kind", "says"),
    [
        ((200, "7"), "", Stranger, "is no worker (it answered /v1/x with Expected `int`, got `str`): "),
        ((200, b"<html>"), "", Stranger, "is no worker (it answered /v1/x with JSON is malformed"),
        ((404, b"<html>"), "", Stranger, "is no worker (it answered 404): give a worker's address with --url"),
        ((404, problem("unknown-product", 404)), "", Refused, "no: why; `candlewick status` lists those"),
        ((401, problem("unauthorised", 401)), "", Refused, "wants a token: set CANDLEWICK_TOKEN to the worker's own"),
        ((401, problem("unauthorised", 401)), "x" * 16, Refused, "wants another token than the one in CANDLEWICK_TOKEN: "),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told(
    server: Server, answer: tuple[int, object], token: str, kind: type[Unasked], says: str
) -> None:
    with pytest.raises(kind) as caught:
        read(server, answer, token=token)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://[::1]", ("::1", 80)),
        ("http://[::1]:6066", ("::1", 6066)),
        ("https://a.example", ("a.example", 443)),
        ("http://a.example:81/b", ("a.example", 81)),
    ],
)
def test_every_address_that_can_be_set_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, url: str, address: tuple[str, int]
) -> None:
    tried = []

    def connect(there: tuple[str, int], *_: object, **__: object) -> socket.socket:
        tried.append(there)
        raise ConnectionRefusedError(111, "no")

    monkeypatch.setattr(socket, "create_connection", connect)
    with Views(where(config.load({}, url=url))) as views, pytest.raises(NoWorker, match="connection refused"):
        views.look("/")
    assert tried == [address]


def test_a_workers_own_address_is_not_the_one_that_is_asked() -> None:
    settings = config.load({}, url="https://a.example", host="0.0.0.0", token="0123456789abcdef")
    assert where(settings).url == "https://a.example"
    assert own(settings).url == "http://127.0.0.1:6066"
    assert own(settings).has_token


@pytest.mark.parametrize(
    ("is_tls", "words"),
    [
        (True, "its certificate does not hold: unable to get local issuer certificate"),
        (False, "it does not speak TLS as we do: "),
    ],
)
def test_why_there_is_no_tls_is_told_by_both_clients(server: Server, is_tls: bool, words: str) -> None:
    if is_tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://{server.at}"
    with Views(Where(url, {})) as views, pytest.raises(NoWorker) as caught:
        views.look("/")
    assert caught.value.reason.startswith(words)

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await session.get(url)

    with pytest.raises(aiohttp.ClientError) as failed:
        asyncio.run(ask())
    assert words_of(failed.value).startswith(words)
