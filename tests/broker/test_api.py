"""The API of one worker, asked over HTTP and held against the trades that were sent."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import io
import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any

import pytest
from rig import Worker, get, send, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from models.times import parse_rfc3339
from models.trade import Trade

pytestmark = pytest.mark.broker

MINUTE = 60_000_000
START = 1_789_992_000_000_000 // (86_400 * 1_000_000) * (86_400 * 1_000_000) + 21 * 3600 * 1_000_000
"""Three hours before a midnight."""
HOURS = 6


def market() -> list[Trade]:
    """Six hours of trades of one product: some minutes have many, most have none, across a midnight."""
    chance = random.Random(4)
    at_us, made = START, []
    for trade_id in range(1, 1201):
        at_us += round(chance.expovariate(1 / 18) * 1_000_000)
        price, size = Decimal(chance.randrange(9_900, 10_100)) / 100, Decimal(chance.randrange(1, 999)) / 1000
        side = chance.choice(("buy", "sell"))
        made.append(Trade("coinbase", "API-USD", trade_id, price, size, side, at_us, at_us))  # type: ignore[arg-type]
    return made


TRADES = market()


def wanted(size_s: int) -> list[tuple[int, list[Trade]]]:
    size_us = size_s * 1_000_000
    return [
        (start, list(group))
        for start, group in groupby(TRADES, lambda trade: trade.event_time_us // size_us * size_us)
    ]


@pytest.fixture(scope="module")
def base(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker that has folded the market; return its address."""
    from rig import Command

    folder = tmp_path_factory.mktemp("api")
    asyncio.run(send(kafka, TRADES))
    commands: list[Command] = []

    def run(*args: str, **env: str) -> Command:
        commands.append(Command(folder / "worker.log", args, env))
        return commands[-1]

    worker = Worker(run, kafka, folder / "data", "api")
    try:
        until(lambda: asked(worker.base, "/v1/candles/API-USD?window=1d&limit=1")[0] == 200)
        until(lambda: rows(worker.base, "window=1d")[-1]["last_trade_id"] == len(TRADES))
        yield worker.base
    finally:
        commands[0].end()


def asked(base: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        base + path, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()
    except OSError:
        return 0, {}, b""


def rows(base: str, query: str) -> list[dict[str, Any]]:
    status, body = get(f"{base}/v1/candles/API-USD?{query}")
    assert status == 200, body
    found: list[dict[str, Any]] = body["candles"]
    return found


def assert_candle(row: dict[str, Any], start: int, inside: list[Trade]) -> None:
    assert parse_rfc3339(row["start"]) == start == row["start_ms"] * 1000
    ordered = sorted(inside, key=lambda trade: (trade.event_time_us, trade.trade_id))
    assert Decimal(row["open"]) == ordered[0].price
    assert Decimal(row["close"]) == ordered[-1].price
    assert Decimal(row["high"]) == max(trade.price for trade in inside)
    assert Decimal(row["low"]) == min(trade.price for trade in inside)
    assert Decimal(row["volume"]) == sum(trade.size for trade in inside)
    assert Decimal(row["quote_volume"]) == sum(trade.price * trade.size for trade in inside)
    assert row["trade_count"] == len(inside)


@pytest.mark.parametrize(
    ("window", "size_s"),
    [("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3600), ("4h", 14400), ("1d", 86400), ("90m", 5400)],
)
def test_every_window_holds_the_trades_of_its_time(base: str, window: str, size_s: int) -> None:
    found = rows(base, f"window={window}&limit=5000")
    expected = wanted(size_s)
    assert len(found) == len(expected)
    for row, (start, inside) in zip(found, expected, strict=True):
        assert_candle(row, start, inside)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("window", ["1m", "5m", "1h"])
@pytest.mark.parametrize("fill", ["none", "previous"])
def test_pages_together_are_the_whole(base: str, order: str, window: str, fill: str) -> None:
    start = TRADES[0].event_time_us // 1000
    query = f"window={window}&start={start}&fill={fill}&order={order}"
    whole = rows(base, f"{query}&limit=5000")
    limit = max(2, len(whole) // 5)
    path, paged = f"/v1/candles/API-USD?{query}&limit={limit}", []
    while path:
        status, headers, body = asked(base, path)
        assert status == 200
        told = json.loads(body)
        assert len(told["candles"]) <= limit
        paged += told["candles"]
        path = told["next"]
        assert headers.get("Link") == (f'<{path}>; rel="next"' if path else None)
    assert paged == whole
    assert len(whole) > 5


def test_filled_windows_are_flat_at_the_last_close(base: str) -> None:
    found = rows(base, f"window=1m&start={START // 1000}&limit=5000&fill=previous")
    starts = [row["start_ms"] for row in found]
    assert starts == list(range(starts[0], starts[-1] + 1, 60_000))
    flat = 0
    for before, row in pairwise(found):
        if row.get("synthetic"):
            flat += 1
            assert row["open"] == row["high"] == row["low"] == row["close"] == before["close"]
            assert (row["volume"], row["trade_count"]) == ("0", 0)
    assert flat == len(found) - len(wanted(60)) > 0


def test_a_range_is_cut_at_its_windows(base: str) -> None:
    expected = wanted(60)
    first, last = expected[10][0], expected[20][0]
    inside = rows(
        base, f"start={(first + 1) // 1000 + 5}&end={last // 1000}"
    )  # a start within is aligned down
    assert [row["start_ms"] * 1000 for row in inside] == [start for start, _ in expected[10:20]]
    assert rows(base, "limit=3") == rows(base, "limit=5000")[-3:]
    assert rows(base, "limit=3&order=desc") == rows(base, "limit=3")[::-1]
    assert rows(base, f"end={first // 1000}&limit=2") == rows(base, "limit=5000")[8:10]
    assert rows(base, "start=2030-01-01T00:00:00Z") == []
    for fill in ("none", "previous"):
        told = get(f"{base}/v1/candles/API-USD?end=2020-01-01T00:00:00Z&fill={fill}")[1]
        assert (told["candles"], told["next"]) == ([], None)


def test_other_forms_say_the_same(base: str) -> None:
    found = rows(base, "window=5m&limit=20")
    _, headers, body = asked(base, "/v1/candles/API-USD?window=5m&limit=20&format=ccxt")
    assert headers["Content-Type"].startswith("application/json")
    columns = ("open", "high", "low", "close", "volume")
    assert json.loads(body) == [[row["start_ms"], *(float(row[name]) for name in columns)] for row in found]
    _, headers, body = asked(base, "/v1/candles/API-USD?window=5m&limit=20&format=csv")
    assert headers["Content-Type"].startswith("text/csv")
    table = list(csv.DictReader(io.StringIO(body.decode())))
    assert [row["start"] for row in table] == [row["start"] for row in found]
    assert [row["vwap"] for row in table] == [row["vwap"] for row in found]
    _, headers, body = asked(base, "/v1/candles/API-USD?window=5m&limit=20&format=ndjson")
    assert headers["Content-Type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in body.splitlines()] == found


def test_what_has_not_changed_is_not_sent_again_and_large_answers_are_compressed(base: str) -> None:
    path = "/v1/candles/API-USD?limit=300"
    _, headers, body = asked(base, path)
    assert "Content-Encoding" not in headers
    assert asked(base, path, If_None_Match=headers["ETag"])[::2] == (304, b"")
    assert asked(base, path, If_None_Match='"another", ' + headers["ETag"])[0] == 304
    assert asked(base, path, If_None_Match='"another"')[0] == 200
    assert asked(base, path + "&format=csv", If_None_Match=headers["ETag"])[0] == 200
    _, headers, packed = asked(base, path, Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == body
    assert len(packed) < len(body) / 3


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/candles/NONE-USD", 404, "unknown-product"),
        ("/v1/candles/API-USD?window=1s", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?limit=0", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?limit=5001", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?limit=2&limit=3", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?start=yesterday", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?start=20&end=10", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?order=up", 400, "invalid-parameter"),
        ("/v1/candles/API-USD?colour=red", 400, "invalid-parameter"),
        ("/v1/book/API-USD", 404, "no-data"),
        ("/v1/book/NONE-USD", 404, "unknown-product"),
        ("/v1/ticker/NONE-USD", 404, "unknown-product"),
        ("/products/NONE-USD/candles", 404, "unknown-product"),
        ("/products/API-USD/candles?granularity=61", 400, "invalid-parameter"),
        ("/products/API-USD/candles?granularity=60&start=2026-01-01T00:00:00Z&end=2026-01-02T00:00:00Z", 400,
         "invalid-parameter"),
        ("/udf/history?symbol=API-USD&resolution=2&to=1", 400, "invalid-parameter"),
        ("/udf/history?symbol=API-USD", 400, "invalid-parameter"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_answered_with_its_problem(base: str, path: str, status: int, kind: str) -> None:
    found = get(base + path)
    assert found[0] == status, found
    assert found[1]["type"] == f"/problems/{kind}"


def test_coinbases_own_shapes(base: str) -> None:
    minutes = wanted(60)
    status, told = get(f"{base}/products/API-USD/candles?granularity=60")
    assert status == 200
    assert told == sorted(told, reverse=True)
    assert 0 < len(told) <= 300
    by_start = {start // 1_000_000: inside for start, inside in minutes}
    for start, low, high, open_, close, volume in told:
        inside = by_start[start]
        assert (open_, close) == (float(inside[0].price), float(inside[-1].price))
        assert (low, high) == (float(min(t.price for t in inside)), float(max(t.price for t in inside)))
        assert volume == float(sum(t.size for t in inside))
    last = TRADES[-1]
    ticker = get(f"{base}/products/API-USD/ticker")[1]
    assert (ticker["trade_id"], Decimal(ticker["price"])) == (last.trade_id, last.price)
    stats = get(f"{base}/products/API-USD/stats")[1]
    assert Decimal(stats["open"]) == TRADES[0].price
    assert Decimal(stats["volume"]) == Decimal(stats["volume_30day"]) == sum(trade.size for trade in TRADES)
    assert [each["id"] for each in get(f"{base}/products")[1]] == ["API-USD"]
    assert get(f"{base}/products/API-USD")[1]["quote_currency"] == "USD"
    trades = get(f"{base}/products/API-USD/trades?limit=5")[1]
    assert [each["trade_id"] for each in trades] == list(range(1200, 1195, -1))
    assert trades[0]["side"] == {"buy": "sell", "sell": "buy"}[last.taker_side]  # the maker's
    older = get(f"{base}/products/API-USD/trades?limit=5&after=1196")[1]
    assert [each["trade_id"] for each in older] == list(range(1195, 1190, -1))


def test_a_chart_reads_its_bars(base: str) -> None:
    assert get(f"{base}/udf/config")[1]["supports_time"] is True
    symbol = get(f"{base}/udf/symbols?symbol=API-USD")[1]
    assert (symbol["ticker"], symbol["pricescale"]) == ("coinbase:API-USD", 100)
    assert get(f"{base}/udf/symbols?symbol=NONE-USD")[1] == {"s": "error", "errmsg": "unknown_symbol"}
    assert [each["symbol"] for each in get(f"{base}/udf/search?query=api&limit=5")[1]] == ["API-USD"]
    expected, to = wanted(300), TRADES[-1].event_time_us // 1_000_000 + 1
    bars = get(f"{base}/udf/history?symbol=coinbase:API-USD&resolution=5&from=0&to={to}")[1]
    assert bars["s"] == "ok"
    assert bars["t"] == [start // 1_000_000 for start, _ in expected]
    assert bars["v"] == [float(sum(trade.size for trade in inside)) for _, inside in expected]
    few = get(f"{base}/udf/history?symbol=API-USD&resolution=5&from=0&to={to}&countback=7")[1]
    assert few["t"] == bars["t"][-7:]
    none = get(f"{base}/udf/history?symbol=API-USD&resolution=5&from={to + 9000}&to={to + 9999}")[1]
    assert none == {"s": "no_data", "nextTime": bars["t"][-1]}
    assert asked(base, "/udf/time")[2].isdigit()


def test_now(base: str) -> None:
    last = TRADES[-1]
    ticker = get(f"{base}/v1/ticker/API-USD")[1]
    assert (ticker["trade_id"], Decimal(ticker["price"]), ticker["side"]) == (
        1200,
        last.price,
        last.taker_side,
    )
    assert ticker["bid"] is None
    assert get(f"{base}/v1/ticker")[1] == [ticker]
    [product] = get(f"{base}/v1/products")[1]
    assert (product["product_id"], product["has_candles"], product["has_book"]) == ("API-USD", True, False)
    assert get(f"{base}/v1/gaps")[1] == []


def test_the_document_names_what_is_served(base: str) -> None:
    told = get(f"{base}/openapi.json")[1]
    assert told["openapi"] == "3.1.0"
    assert "/v1/candles/{product_id}" in told["paths"]


class Events:
    """A stream of server-sent events, read line by line."""

    def __init__(self, base: str, query: str, last_id: str = "") -> None:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self._answer = urllib.request.urlopen(
            urllib.request.Request(f"{base}/v1/stream?{query}", headers=headers), timeout=10
        )
        assert self._answer.headers["Content-Type"].startswith("text/event-stream")
        self.last_id = ""

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()

    def next(self) -> tuple[str, Any]:
        """Return the next event's name and data."""
        fields: dict[str, str] = {}
        while True:
            line = self._answer.readline().decode()
            assert line, "the stream has ended"
            if line == "\n" and "data" in fields:
                self.last_id = fields.get("id", self.last_id)
                return fields["event"], json.loads(fields["data"])
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value


def later(first_id: int, at_us: list[int]) -> list[Trade]:
    return [
        Trade("coinbase", "API-USD", trade_id, Decimal(100), Decimal(1), "buy", time_us, time_us)
        for trade_id, time_us in enumerate(at_us, first_id)
    ]


def test_a_stream_begins_with_what_is_known_and_tells_every_change(base: str, kafka: str) -> None:
    known = rows(base, "limit=3")
    end = TRADES[-1].event_time_us
    minute = end // 60_000_000 * 60_000_000 + 120_000_000
    with Events(base, "product_id=API-USD&snapshot=3&channels=candles,ticker") as events:
        name, told = events.next()
        assert (name, told["candles"]) == ("snapshot", known)
        assert events.next()[1]["trade_id"] == 1200
        asyncio.run(send(kafka, later(1201, [minute])))
        candles, tickers = {}, []
        while minute // 1000 not in candles or not tickers:
            name, told = events.next()
            if name == "ticker":
                tickers.append(told["trade_id"])
            else:
                candles[told["start_ms"]] = told
        assert candles[minute // 1000]["trade_count"] == 1
        assert candles[known[-1]["start_ms"]] == {
            **known[-1], "state": "closed", "exchange": "coinbase", "product_id": "API-USD", "window": "1m",
        }  # fmt: skip
        assert tickers == [1201]
        last_id = events.last_id
    # The next trade closes what is open; one that is late amends it. Nobody listens.
    asyncio.run(send(kafka, later(1202, [minute + 120_000_000])))
    asyncio.run(send(kafka, later(1203, [minute + 1])))
    until(lambda: rows(base, f"start={minute // 1000}&limit=1")[0]["trade_count"] == 2)
    with Events(base, "product_id=API-USD", last_id) as events:
        name, told = events.next()
        assert name == "snapshot"
        missed = {candle["start_ms"]: candle for candle in told["candles"]}
        assert missed[minute // 1000]["revision"] == 1
        assert minute // 1000 + 120_000 in missed
        assert len(missed) < 8  # and not all
        asyncio.run(send(kafka, later(1204, [minute + 2])))
        name, told = events.next()
        while told["start_ms"] != minute // 1000:
            name, told = events.next()
        assert (name, told["revision"], told["trade_count"]) == ("candle", 2, 3)


def address(base: str) -> str:
    return base.replace("http://", "ws://") + "/v1/ws"


async def answer(socket: Any) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 10))


async def test_a_websocket_speaks_as_coinbase_does(base: str, kafka: str) -> None:
    known = rows(base, "limit=2")
    async with connect(address(base)) as socket:
        await socket.send(
            '{"type":"subscribe","channel":"candles","product_ids":["API-USD"],"snapshot":2,"id":7}'
        )
        first = await answer(socket)
        assert (first["channel"], first["sequence_num"]) == ("candles", 0)
        whose = {"exchange": "coinbase", "product_id": "API-USD", "window": "1m"}
        assert first["events"] == [{"type": "snapshot", "candles": [candle | whose for candle in known]}]
        told = await answer(socket)
        subscription = {"channel": "candles", "exchange": "coinbase", "product_id": "API-USD", "window": "1m"}
        assert told == {"type": "subscriptions", "subscriptions": [subscription], "id": 7}
        at_us = known[-1]["start_ms"] * 1000 + 1_000
        await send(kafka, later(2001, [at_us]))
        update = await answer(socket)
        assert update["sequence_num"] == 1
        [event] = update["events"]
        assert event["type"] == "update"
        assert event["candles"][0]["trade_count"] == known[-1]["trade_count"] + 1
        await socket.send('{"type":"unsubscribe","channel":"candles","product_ids":["API-USD"]}')
        assert (await answer(socket))["subscriptions"] == []
        await socket.send('{"type":"subscribe","channel":"heartbeats"}')
        assert (await answer(socket))["subscriptions"] == [{"channel": "heartbeats"}]
        assert (await answer(socket))["channel"] == "heartbeats"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rubbish", "invalid-parameter"),
        ("[" * 50_000, "invalid-parameter"),
        ('{"type":"subscribe"}', "invalid-parameter"),
        ('{"type":"subscribe","channel":"candles"}', "invalid-parameter"),
        ('{"type":"subscribe","channel":"candles","product_ids":["NONE-USD"]}', "unknown-product"),
        ('{"type":"subscribe","channel":"candles","product_ids":["API-USD"],"window":"1s"}', "invalid-parameter"),
        ('{"type":"subscribe","channel":"book","product_ids":["API-USD"],"window":"5m"}', "invalid-parameter"),
        ('{"type":"subscribe","channel":"candles","product_ids":["API-USD"],"colour":"red"}', "invalid-parameter"),
    ],
)  # fmt: skip
async def test_a_wrong_message_is_answered_and_many_end_the_connection(
    base: str, text: str, kind: str
) -> None:
    async with connect(address(base)) as socket:
        await socket.send(text)
        told = await answer(socket)
        assert (told["type"], told["problem"]["type"]) == ("error", f"/problems/{kind}")
        for _ in range(9):
            await socket.send(text)
        with contextlib.suppress(ConnectionClosed):
            while True:
                await answer(socket)
        assert socket.close_code == 1008


@pytest.mark.parametrize(("message", "code"), [(b"binary", 1008), ("x" * 70_000, 1009)])
async def test_what_is_no_message_ends_the_connection(base: str, message: str | bytes, code: int) -> None:
    async with connect(address(base)) as socket:
        await socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await answer(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


def test_the_status_tells_how_long_the_feed_took(base: str, kafka: str) -> None:
    at_us = TRADES[-1].event_time_us
    trade = Trade("coinbase", "SLOW-USD", 1, Decimal(1), Decimal(1), "buy", at_us, at_us + 1_234_567)
    asyncio.run(send(kafka, [trade]))

    def latency() -> int | None:
        products = get(f"{base}/v1/status")[1]["products"]
        return next((each["feed_latency_ms"] for each in products if each["product_id"] == "SLOW-USD"), None)

    assert until(latency) == 1234
