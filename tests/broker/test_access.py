"""Who may ask a real worker: hosts, origins, tokens, rates, and what every answer carries."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Command, Worker, free_port, get, send, trades, until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.broker

TOKEN = "canary-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CHARTS = "https://charts.example.org"
SYMBOLS = ["AAA-USD", "BBB-USD", "CCC-USD", "DDD-USD"]
PATHS = ["/v1/status", "/stats/1m/AAA-USD", "/v1/candles/AAA-USD", "/metrics", "/v1/products", "/udf/config"]
OPEN = ["/", "/healthz", "/readyz", "/openapi.json"]


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    @property
    def kind(self) -> str:
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body
        return json.loads(self.body)["type"].removeprefix("/problems/")


def ask(worker: Worker, path: str, method: str = "GET", **headers: str) -> Answer:
    """Ask with just these headers; Host is the worker's address where none is given."""
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        return Answer(connection.getresponse())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def started(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """Two workers that share a token and the products, and one of another group without a token."""
    folder = tmp_path_factory.mktemp("access")
    asyncio.run(send(kafka, [trade for symbol in SYMBOLS for trade in trades(symbol, 1, 50)]))
    commands: list[Command] = []

    def run(*args: str, **env: str) -> Command:
        commands.append(Command(folder / f"{len(commands)}.log", args, env))
        return commands[-1]

    guarded = {"CANDLEWICK_TOKEN": TOKEN, "CANDLEWICK_CORS_ORIGINS": CHARTS}
    workers = {
        "one": Worker(run, kafka, folder / "one", "guarded", **guarded),
        "two": Worker(run, kafka, folder / "two", "guarded", **guarded),
        "open": Worker(
            run,
            kafka,
            folder / "open",
            "open",
            CANDLEWICK_RATE_PER_S="50",
            CANDLEWICK_ADVERTISED_HOST="127.0.0.1",
        ),
    }

    def both_ready() -> bool:
        for name in ("one", "two"):
            try:
                told = ask(workers[name], "/v1/status", **BEARER)
            except OSError:
                return False
            status = json.loads(told.body)
            if told.status != 200 or [each["ready"] for each in status["workers"]] != [True, True]:
                return False
            if len(status["products"]) != len(SYMBOLS):
                return False
        return True

    try:
        until(both_ready, lambda: "".join(command.said()[-2000:] for command in commands))
        until(lambda: workers["open"].has("AAA-USD", 50))
        yield workers
    finally:
        for command in commands:
            command.end()


# The token.


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_told(started: dict[str, Worker], path: str) -> None:
    for sent in ({}, {"Authorization": "Bearer wrong-0123456789abcdef"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = ask(started["one"], path, **sent)
        assert (answer.status, answer.kind) == (401, "unauthorised")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert b"canary" not in answer.body
    assert ask(started["one"], path, **BEARER).status == 200


@pytest.mark.parametrize("path", OPEN)
def test_what_is_open_needs_no_token(started: dict[str, Worker], path: str) -> None:
    assert ask(started["one"], path).status in (200, 503)  # no feed is connected here


@pytest.mark.parametrize(
    "path",
    ["/static/../v1/status", "/static/%2e%2e/v1/status", "/static/..%2fv1/status", "//v1/status", "/healthz/../v1/status",
     "/./v1/status", "/v1/status;/healthz", "/healthz%2f..%2fv1%2fstatus", "/V1/status", "/v1/status/", "http://a/healthz/../v1/status"],
)  # fmt: skip
def test_no_way_of_writing_a_path_leads_past_the_token(started: dict[str, Worker], path: str) -> None:
    answer = ask(started["one"], path)
    assert answer.status in (400, 401, 403, 404)
    assert b"products" not in answer.body.replace(path.encode(), b"")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "BREW"])
def test_no_other_method_leads_past_the_token(started: dict[str, Worker], method: str) -> None:
    answer = ask(started["one"], "/v1/status", method)
    assert answer.status in (400, 401, 405)
    assert b"products" not in answer.body


def test_workers_with_a_token_answer_for_one_another(started: dict[str, Worker]) -> None:
    own = json.loads(ask(started["one"], "/v1/status?local=true", **BEARER).body)["products"]
    assert 0 < len(own) < len(SYMBOLS)  # else nothing below is passed on
    for symbol in SYMBOLS:
        answers = [ask(started[name], f"/stats/1d/{symbol}", **BEARER) for name in ("one", "two")]
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body == answers[1].body
        assert json.loads(answers[0].body)["candle"]["trade_count"] == 50


def test_streams_of_another_workers_products_are_passed_on(started: dict[str, Worker]) -> None:
    for name in ("one", "two"):
        connection = http.client.HTTPConnection("127.0.0.1", started[name].port, timeout=10)
        path = f"/v1/stream?product_id={','.join(SYMBOLS)}&window=1d"
        connection.request("GET", path, headers=BEARER)
        answer = connection.getresponse()
        assert answer.status == 200
        heard = set()
        while heard != set(SYMBOLS):
            line = answer.readline()
            assert line, "the stream has ended"
            heard |= {symbol for symbol in SYMBOLS if symbol.encode() in line}
        connection.close()


# Pages of other origins.


def test_a_page_of_a_named_origin_may_ask(started: dict[str, Worker]) -> None:
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    before = ask(started["one"], "/v1/status", "OPTIONS", Origin=CHARTS, **asked)
    assert before.status == 204
    assert before.headers["Access-Control-Allow-Methods"] == "GET"
    assert "Authorization" in before.headers["Access-Control-Allow-Headers"]
    for answer in (
        before,
        ask(started["one"], "/v1/status", Origin=CHARTS, **BEARER),
        ask(started["one"], "/v1/status", Origin=CHARTS),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == CHARTS
        assert "Origin" in answer.headers["Vary"]
    connection = http.client.HTTPConnection("127.0.0.1", started["one"].port, timeout=10)
    connection.request("GET", "/v1/stream?product_id=AAA-USD", headers={"Origin": CHARTS, **BEARER})
    assert connection.getresponse().headers["Access-Control-Allow-Origin"] == CHARTS
    connection.close()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://charts.example.org.evil", "http://charts.example.org"]
)
def test_a_page_of_any_other_origin_may_not(started: dict[str, Worker], origin: str) -> None:
    for name, sent in (("one", BEARER), ("open", {})):
        for method in ("OPTIONS", "GET"):
            answer = ask(started[name], "/v1/status", method, Origin=origin, **sent)
            assert (answer.status, answer.kind) == (403, "forbidden-origin")
            assert answer.headers["Access-Control-Allow-Origin"] is None


async def test_a_websocket_is_opened_for_our_own_pages_and_named_ones_only(
    started: dict[str, Worker],
) -> None:
    address = f"ws://127.0.0.1:{started['one'].port}/v1/ws"
    own = f"http://127.0.0.1:{started['one'].port}"
    for origin in (None, own, CHARTS):
        async with connect(address, origin=origin, additional_headers=BEARER) as socket_:  # type: ignore[arg-type]
            await socket_.send('{"type":"subscribe","channel":"candles","product_ids":["AAA-USD"]}')
            assert json.loads(await asyncio.wait_for(socket_.recv(), 10))
    for origin, sent, status in (
        (own, {}, 401),
        ("https://evil.example", BEARER, 403),
        ("null", BEARER, 403),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await connect(address, origin=origin, additional_headers=sent)  # type: ignore[arg-type]
        assert caught.value.response.status_code == status


@pytest.mark.parametrize("path", ["/", "/v1/status", "/healthz", "/v1/stream?product_id=AAA-USD"])
def test_a_name_that_leads_here_by_someone_elses_dns_is_refused(
    started: dict[str, Worker], path: str
) -> None:
    port = started["open"].port
    for host in (f"evil.example:{port}", "evil.example", f"0.0.0.0:{port}", f"localhost.evil.example:{port}"):
        for sent in ({}, {"Origin": f"http://{host}"}):
            answer = ask(started["open"], path, Host=host, **sent)
            assert (answer.status, answer.kind) == (403, "forbidden-host")


async def test_nor_does_it_open_a_websocket(started: dict[str, Worker]) -> None:
    port = started["open"].port
    there = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 22 + "==",
    }
    answer = await asyncio.to_thread(lambda: ask(started["open"], "/v1/ws", **there, **upgrade))
    assert (answer.status, answer.kind) == (403, "forbidden-host")


def test_loopback_by_any_of_its_names_is_ours(started: dict[str, Worker]) -> None:
    port = started["open"].port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert ask(started["open"], "/v1/status", Host=host, Origin=f"http://{host}").status == 200


# The rate.


def test_too_many_requests_are_told_when_to_come_again(started: dict[str, Worker]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", started["open"].port, timeout=10)
    statuses = []
    for _ in range(150):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
        if answer.status == 429:
            break
    assert statuses == [200] * (len(statuses) - 1) + [429]
    assert len(statuses) > 50  # of a hundred at once; the tests before may have asked just now
    wait_s = int(answer.headers["Retry-After"])
    assert 1 <= wait_s <= 5
    connection.close()
    until(lambda: ask(started["open"], "/healthz").status == 200)
    assert ask(started["one"], "/healthz").status == 200


# What every answer carries.


CARRIED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "candlewick",
}


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/v1/status", "/v1/candles/AAA-USD", "/v1/nothing", "/stats/1x/AAA-USD", "/static/x", "/v1/candles/AAA-USD?a=b",
     "/v1/stream?product_id=AAA-USD", "/v1/ws", "/" + "x" * 9000],
)  # fmt: skip
def test_every_answer_carries_them_and_says_nothing_of_what_runs(
    started: dict[str, Worker], path: str
) -> None:
    for sent in ({}, BEARER):
        connection = http.client.HTTPConnection("127.0.0.1", started["one"].port, timeout=10)
        connection.request("GET", path, headers=sent)
        answer = connection.getresponse()
        for name, value in CARRIED.items():
            assert answer.headers[name] == value, (path, name)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert not re.search(r"script-src[^;]*unsafe", policy)
        assert "*" not in policy
        told = str(answer.headers)
        assert not re.search(r"aiohttp|python|faust", told, re.IGNORECASE)
        connection.close()


# What is bound.


def refusal(argv: list[str], env: dict[str, str], cwd: Path) -> tuple[int, str]:
    """Run a command that is to end by itself; return its exit code and what it said."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
    done = subprocess.run(
        [sys.executable, "-m", *argv],
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


SAYS = (
    "candlewick: CANDLEWICK_HOST is '0.0.0.0', but must be 127.0.0.1, which only this machine reaches, "
    "while CANDLEWICK_TOKEN is not set: `openssl rand -hex 24` makes one"
)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "argv", [["candlewick", "worker", "--host", "0.0.0.0"], ["candlewick", "up", "--host", "0.0.0.0"]]
)
def test_what_others_can_reach_does_not_start_without_a_token(
    kafka: str, tmp_path: Path, argv: list[str]
) -> None:
    port = str(free_port())
    code, said = refusal([*argv, "--broker", kafka, "--data-dir", str(tmp_path), "--port", port], {}, ROOT)
    assert (code, said.splitlines()) == (1, [SAYS])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "env"), [(["--web-bind", "0.0.0.0"], {}), ([], {"CANDLEWICK_HOST": "0.0.0.0"})]
)
def test_faust_itself_is_refused_too_whoever_tells_it_the_address(
    kafka: str, tmp_path: Path, options: list[str], env: dict[str, str]
) -> None:
    port = free_port()
    env |= {"CANDLEWICK_BROKER": kafka, "CANDLEWICK_DATA_DIR": str(tmp_path), "CANDLEWICK_PORT": str(port)}
    code, said = refusal(["faust", "-A", "candlewick.app", "worker", *options], env, ROOT)
    assert code == 1
    assert SAYS in said
    assert "Traceback" not in said


def test_who_binds_nothing_is_not_refused(kafka: str, tmp_path: Path) -> None:
    env = {"CANDLEWICK_HOST": "0.0.0.0", "CANDLEWICK_DATA_DIR": str(tmp_path), "CANDLEWICK_BROKER": kafka}
    code, said = refusal(["candlewick", "dead-letters"], env, ROOT)
    assert (code, "0 dead letters" in said) == (0, True)


def test_with_a_token_it_starts_and_up_asks_with_it_and_does_not_show_it(run: Any, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text(TOKEN + "\n")
    up = run(
        "up", "--data-dir", str(tmp_path / "data"), "--port", str(port), "--host", "0.0.0.0", "--products", "BTC-USD",
        CANDLEWICK_TOKEN_FILE=str(tmp_path / "token"),
    )  # fmt: skip
    up.line("ready ")
    assert get(f"http://127.0.0.1:{port}/v1/status")[0] == 401
    for process in up.family():
        assert TOKEN not in " ".join(process.cmdline())
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "data" / "logs").iterdir())
    assert TOKEN not in up.said() + logs
    assert up.end() == 0


# The inventory.

NOT_OF_THE_API = re.compile(r"/|/docs|/asyncapi\.json|/static(/.*)?")


def test_what_is_served_is_what_is_documented() -> None:
    program = (
        "import importlib, json\n"
        "from candlewick import app as worker\n"
        "for module in worker.AUTODISCOVER:\n    importlib.import_module(module)\n"
        "from candlewick.web.api.openapi import document\n"
        "worker.app.web.init_server()\n"
        "routes = worker.app.web.web_app.router.routes()\n"
        "served = sorted({(route.method, route.resource.canonical) for route in routes})\n"
        "print(json.dumps([served, sorted(document()['paths'])]))\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | {"CANDLEWICK_BROKER": "127.0.0.1:1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    served, documented = json.loads(done.stdout)
    rest = {path for _, path in served} - set(documented)
    assert set(documented) <= {path for _, path in served}
    assert not [path for path in rest if not NOT_OF_THE_API.fullmatch(path)], "served, and not documented"


# Too large, and too slow.


def resident(worker: Worker) -> int:
    return max(process.memory_info().rss for process in worker.command.family())


def test_what_is_too_large_is_refused_and_costs_no_memory(started: dict[str, Worker]) -> None:
    worker = started["one"]
    large = b"x" * (1 << 16)
    line = b"HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
    requests = [
        b"GET /v1/candles/" + large + b" " + line + b"\r\n",
        b"GET /v1/candles/AAA-USD?limit=" + large + b" " + line + b"\r\n",
        b"GET /v1/status " + line + b"X-Large: " + large + b"\r\n\r\n",
        b"GET /v1/status " + line + b"".join(b"X-%d: 1\r\n" % i for i in range(5000)) + b"\r\n",
        b"GET /v1/candles/AAA-USD?limit=1000000000 " + line + b"\r\n",
        b"GET /v1/candles/AAA-USD?start=0&end=99999999999999999999 " + line + b"\r\n",
        b"GET /stats/1m/..%2f..%2f..%2fetc%2fpasswd " + line + b"\r\n",
        b"GET /stats/1m/%00 " + line + b"\r\n",
        b"GET /static/../../../../etc/passwd " + line + b"\r\n",
        b"GET /static/%2e%2e/%2e%2e/config.py " + line + b"\r\n",
        b"POST /v1/status " + line + b"Content-Length: 1000000000\r\n\r\n" + large * 200,
        b"POST /v1/status " + line + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%b\r\n" % large * 200,
        b"\x16\x03\x01" + large,
    ]

    def send_all() -> None:
        for request in requests:
            with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as client:
                status = b""
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # it had seen enough
                    client.sendall(request)
                    status = client.recv(64)
                assert re.match(rb"HTTP/1\.[01] 4|\Z", status), (request[:60], status)

    send_all()
    before = resident(worker)
    for _ in range(20):
        send_all()
    grown = resident(worker) - before
    print(f"{20 * len(requests)} requests that are too large: {grown / (1 << 20):.1f} MiB")
    assert grown <= 16 << 20
    assert ask(worker, "/healthz").status == 200


def took_s(worker: Worker) -> float:
    began = time.perf_counter()
    assert ask(worker, "/stats/1m/AAA-USD", **BEARER).status == 200
    return time.perf_counter() - began


def p99_ms(times_s: list[float]) -> float:
    return sorted(times_s)[round(0.99 * (len(times_s) - 1))] * 1000


@pytest.mark.slow
def test_five_hundred_slow_clients_are_cut_off_and_others_do_not_notice(started: dict[str, Worker]) -> None:
    worker = started["one"]
    before_ms = p99_ms([took_s(worker) for _ in range(100)])
    began = time.monotonic()
    slow = [socket.create_connection(("127.0.0.1", worker.port)) for _ in range(500)]
    for each in slow:
        each.setblocking(False)
        each.send(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    open_ones, times_s, cut_after_s = list(slow), [], 0.0
    while open_ones and time.monotonic() - began < 20:
        open_ones = [each for each in open_ones if is_open(each)]
        cut_after_s = time.monotonic() - began
        times_s.append(took_s(worker))
    for each in slow:
        each.close()
    during_ms = p99_ms(times_s)
    print(
        f"500 slow clients: cut after {cut_after_s:.1f} s; p99 of others {before_ms:.1f}, then {during_ms:.1f} ms"
    )
    assert not open_ones
    assert cut_after_s <= 15
    assert during_ms < max(250.0, 3 * before_ms)


def is_open(slow: socket.socket) -> bool:
    """Send one more byte of a head; say whether anybody listens."""
    try:
        slow.send(b"x")
        return slow.recv(100) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
