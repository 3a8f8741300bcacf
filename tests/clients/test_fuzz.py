"""The API against its own description: whatever is asked, it answers as /openapi.json says, and goes on.

FUZZ_SECONDS is how long, FUZZ_SEED repeats a run: both are printed. `make fuzz` takes ten minutes.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from rig import get

pytestmark = pytest.mark.broker

SECONDS = int(os.environ.get("FUZZ_SECONDS") or 20)
SEED = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 31))
METHODS = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get")
PROBLEM = "application/problem+json"


def ask(base: str, method: str, target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request line as it is; return status, headers and body."""
    host, _, port = base.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection._validate_path = lambda path: None  # type: ignore[method-assign]
    connection._encode_request = lambda request: request.encode("latin-1")  # type: ignore[method-assign]
    try:
        connection.request(method, target, headers=headers)
        with connection.getresponse() as answer:
            found = {name.lower(): value for name, value in answer.getheaders()}
            streams = found.get("content-type", "").startswith("text/event-stream")
            return answer.status, found, answer.read1(1 << 16) if streams else answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def document(market) -> dict[str, Any]:
    status, told = get(f"{market.base}/openapi.json")
    assert status == 200
    whole: dict[str, Any] = told
    return whole


def filled(path: str, **parts: str) -> str:
    """Return a path of the document with its parts filled in."""
    chosen = {"product_id": "BTC-USD", "window": "1m", **parts}
    return re.sub(r"{(\w+)}", lambda found: chosen[found[1]], path)


def without_prefixes(schema: Any) -> Any:
    """Return a document whose tuples are lists of the same length: schemathesis 4.32 cannot read prefixItems."""
    if isinstance(schema, list):
        return [without_prefixes(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "prefixItems" in schema:
        kinds = schema["prefixItems"]
        rest = {name: value for name, value in schema.items() if name not in ("prefixItems", "items")}
        return {**rest, "items": {"anyOf": without_prefixes(kinds)}}
    return {name: without_prefixes(value) for name, value in schema.items()}


def targets(document: dict[str, Any]) -> list[str]:
    return [filled(path) for path in document["paths"]]


@pytest.mark.timeout(SECONDS * 3 + 300)
def test_every_parameter_of_every_route(market, document, client_python: Path, tmp_path: Path) -> None:
    """Examples, limits, what is right and what is wrong, of every parameter, checked against the document."""
    log, copy = tmp_path / "log", tmp_path / "openapi.json"
    copy.write_text(json.dumps(without_prefixes(document)))
    with log.open("w") as out:
        done = subprocess.run(
            [str(client_python.with_name("st")), "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
             "run", str(copy), "--url", market.base, "--seed", str(SEED), "--max-time", str(SECONDS),
             "--request-timeout", "10", "--no-color"],
            stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path, timeout=SECONDS * 3 + 200, check=False,
        )  # fmt: skip
    said = log.read_text()
    print(f"seed {SEED}\n", said[-3000:])
    assert done.returncode == 0, said[-20_000:]
    assert get(f"{market.base}/healthz") == (200, {"status": "ok"})


def test_every_route_tells_what_it_can_be_asked_with(market, document) -> None:
    for target in targets(document):
        if "stream" not in target:
            status, headers, body = ask(market.base, "GET", target)
            head = ask(market.base, "HEAD", target)
            assert (head[0], head[2]) == (status, b""), target
            if status == 200:
                assert head[1]["content-type"] == headers["content-type"]
                assert "content-length" in head[1]
        for method in METHODS:
            status, headers, body = ask(market.base, method, target)
            if method in ("BREW", "get"):
                assert status in (400, 405), (method, target)
                continue
            assert status == 405, (method, target)
            assert headers["allow"] == "GET,HEAD"
            assert headers["content-type"] == PROBLEM
            assert json.loads(body)["status"] == 405


STRANGE = [
    "%00", "%0a", "%0d%0aX-Injected:%201", "%ff", "%c0%af", "%ed%a0%80", "%f4%90%80%80", "%", "%zz", "%2", "%25",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%5c..%5c", "BTC%2FUSD",
    "BTC-USD%00", "BTC-USD%20", "btc-usd", "%42TC-USD", "BTC-USD;a=b", "BTC-USD#x", "\xe4", "\xff", "{}", "$ne",
    "'%20OR%201=1--", "<script>", "9" * 400, "A" * 2000, "-1", "+1", "1e400", "NaN", "Infinity", "0x10", "1_000",
    "%F0%9F%92%A9", "%E2%80%AE", "True", "null", "[]", "1,2", ",", "",
]  # fmt: skip


def test_no_text_makes_it_fail(market, document) -> None:
    """Each strange text, in every place of every route: an answer that the document knows, never a failure."""
    asked = 0
    for path, item in document["paths"].items():
        operation = item["get"]
        known = set(operation["responses"]) | {"404", "405"}  # what no route has: a path that is none of ours
        places = [each["name"] for each in operation["parameters"] if each["in"] == "query"] + ["unheard"]
        parts = re.findall(r"{(\w+)}", path)
        for text in STRANGE:
            plain = filled(path)
            made = [f"{plain}?{name}={text}" for name in places]
            made += [f"{plain}?{text}={text}", f"{plain}?{text}", f"{plain}/{text}"]
            made += [filled(path, **{part: text}) for part in parts]
            for target in made:
                status, headers, body = ask(market.base, "GET", target)
                asked += 1
                assert str(status) in known, (target, status, body[:300])
                assert status != 500
                if status >= 400:
                    assert headers["content-type"] in (PROBLEM, "text/plain; charset=utf-8"), (
                        target,
                        headers,
                    )
                    assert b"Traceback" not in body
                    assert "x-injected" not in headers
                if status == 503:
                    assert int(headers["retry-after"]) > 0
    print(f"{asked} requests")


def test_what_is_too_long_or_twice_is_refused(market, document) -> None:
    for target in targets(document):
        status, _, _ = ask(market.base, "GET", f"{target}?x={'a' * 70_000}")
        assert status in (400, 414), target
    for target in ("/v1/candles/BTC-USD", "/products/BTC-USD/trades", "/v1/gaps"):
        assert ask(market.base, "GET", f"{target}?limit=5&limit=5")[0] == 400
        assert ask(market.base, "GET", f"{target}?limit=5&l%69mit=6")[0] == 400
    assert ask(market.base, "GET", "/v1/status", **{"X-Long": "a" * 70_000})[0] == 400
    many = {f"X-{number}": "a" for number in range(5_000)}
    assert ask(market.base, "GET", "/v1/status", **many)[0] in (400, 431)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET /healthz HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET http://other/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"CONNECT other:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_hardly_http_is_answered_or_cut_and_nothing_else_notices(
    market, request_bytes: bytes
) -> None:
    host, _, port = market.base.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(request_bytes)
        raw.shutdown(socket.SHUT_WR)
        said = b""
        while part := raw.recv(1 << 16):
            said += part
    assert not said or said.startswith(b"HTTP/1.")
    assert b" 500 " not in said.split(b"\r\n")[0]
    assert b"Traceback" not in said
    assert get(f"{market.base}/healthz")[0] == 200


def test_a_stream_is_begun_or_refused_whatever_is_asked(market, document) -> None:
    """As the fuzzer would, but that it reads no answer which never ends."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    values = {
        "product_id": [
            "BTC-USD",
            "BTC-USD,HIS-USD",
            "NONE-USD",
            "BTC-USD,",
            ",",
            "",
            "A" * 3000,
            "btc-usd",
            "%00",
            "%ff",
        ],
        "channels": [
            "candles",
            "book",
            "ticker",
            "candles,book,ticker",
            "candles,candles",
            "all",
            "",
            "candles,",
        ],
        "window": ["1m", "1h,1d", "5m", "1m,5m,15m,1h,4h,1d", "0m", "9999d", "10000m", "1s", "", "1m,,1h"],
        "snapshot": ["1", "5000", "0", "-1", "5001", "1.5", "9" * 50, "x", ""],
        "exchange": ["coinbase", "nowhere", "", "a:b", "%ff", "x" * 100],
        "unheard": ["1"],
    }
    ids = ["", "c0-0", "c5-999999999999999999", "b3-1,c3-1", "c9999999-1", "c-1--1", "x" * 1000, "\xff"]
    known = document["paths"]["/v1/stream"]["get"]["responses"]
    begun = 0
    deadline = time.monotonic() + SECONDS / 5
    while time.monotonic() < deadline:
        names = [name for name in values if chance.random() < (0.9 if name == "product_id" else 0.4)]
        first = chance.random() < 0.6  # often what is right, or nothing would ever begin
        query = "&".join(
            f"{name}={values[name][0] if first else chance.choice(values[name])}" for name in names
        )
        last_id = chance.choice(ids)
        headers = {"Last-Event-ID": last_id} if last_id else {}
        status, told, body = ask(market.base, "GET", f"/v1/stream?{query}", **headers)
        assert str(status) in known, (query, last_id, status, body[:300])
        if status == 200:
            begun += 1
            assert told["content-type"] == "text/event-stream"
            assert re.match(rb"retry: [123]\d{3}\n\n", body)
        else:
            assert told["content-type"] == PROBLEM
    assert begun
    print(f"{begun} begun")
