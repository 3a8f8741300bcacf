"""The WebSocket side over real sockets, with a simulated market behind it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from candlewick.mock import Faults, MockExchange, Simulation
from candlewick.mock.hub import Hub
from candlewick.mock.simulated import SimulatedSource
from models.errors import ConfigError

START = 1_800_000_012_345_678
FEED = ("matches", "level2_batch", "heartbeat")

Serve = Callable[..., Awaitable[MockExchange]]
Dial = Callable[..., Awaitable[Any]]
Rest = Callable[..., Awaitable[tuple[int, Any, Any]]]


def small(**settings: Any) -> Simulation:
    return Simulation(**{"products": ("BTC-USD", "ETH-USD"), "start_us": START, **settings})


async def test_each_subscribe_is_acknowledged_with_the_full_set(serve: Serve, dial: Dial) -> None:
    client = await dial(await serve(small()))
    ack = await client.subscribe(["BTC-USD"], "level2_batch")
    assert json.loads(client.raw[0]) == ack  # before any data
    assert ack["channels"] == [{"name": "level2_50", "product_ids": ["BTC-USD"], "account_ids": None}]
    ack = await client.subscribe(["ETH-USD"], "level2_batch", "matches")
    assert {each["name"]: each["product_ids"] for each in ack["channels"]} == {
        "level2_50": ["BTC-USD", "ETH-USD"],
        "matches": ["ETH-USD"],
    }
    await client.send({"type": "unsubscribe", "channels": ["level2_batch"]})
    ack = await client.until(lambda frame: frame["type"] == "subscriptions")
    assert [each["name"] for each in ack["channels"]] == ["matches"]


async def test_a_new_subscriber_gets_last_match_and_snapshot_before_anything_else(
    serve: Serve, dial: Dial
) -> None:
    client = await dial(await serve(small(trades_per_s=50)))
    await client.subscribe(["BTC-USD"], *FEED)
    types = [(await client.frame())["type"] for _ in range(5)]
    assert types[:2] == ["last_match", "snapshot"]
    snapshot = json.loads(client.raw[2])
    assert len(snapshot["bids"]) == len(snapshot["asks"]) == 50
    assert all(re.fullmatch(r"\d+\.\d\d", price) for price, _ in snapshot["bids"])
    match = await client.until(lambda frame: frame["type"] == "match")
    fields = "type trade_id maker_order_id taker_order_id side size price product_id sequence time"
    assert list(match) == fields.split()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", match["maker_order_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", match["time"])
    beat = await client.until(lambda frame: frame["type"] == "heartbeat")
    assert list(beat) == ["type", "sequence", "last_trade_id", "product_id", "time"]


async def test_only_the_channels_and_products_asked_for_are_sent(serve: Serve, dial: Dial) -> None:
    exchange = await serve(small(max_trades=200), speed=0, settle_s=0.3)
    all_, matches, beats = await dial(exchange), await dial(exchange), await dial(exchange)
    await beats.subscribe(["BTC-USD", "ETH-USD"], "heartbeat")
    await matches.subscribe(["ETH-USD"], "matches")
    await all_.subscribe(["BTC-USD", "ETH-USD"], *FEED, "ticker")
    await exchange.wait_done()
    await exchange.stop()
    for client in (all_, matches, beats):
        await client.closed()
    kinds = [
        {(frame["type"], frame.get("product_id")) for frame in map(json.loads, client.raw)}
        for client in (matches, beats)
    ]
    assert kinds[0] == {("subscriptions", None), ("last_match", "ETH-USD"), ("match", "ETH-USD")}
    assert kinds[1] == {("subscriptions", None), ("heartbeat", "BTC-USD"), ("heartbeat", "ETH-USD")}
    tickers = [frame for frame in map(json.loads, all_.raw) if frame["type"] == "ticker"]
    assert tickers
    trades = {  # ids are a product's own: another may use the same
        (frame["product_id"], frame["trade_id"]): frame
        for frame in map(json.loads, all_.raw)
        if frame["type"] in ("match", "last_match")
    }
    for ticker in tickers:  # the taker's side, as the exchange has it
        assert trades[ticker["product_id"], ticker["trade_id"]]["side"] != ticker["side"]
        assert Decimal(ticker["best_bid"]) < Decimal(ticker["best_ask"])


async def test_unpaced_frames_are_the_same_in_every_run_however_products_are_spread(
    serve: Serve, dial: Dial
) -> None:
    async def run(shards: list[list[str]]) -> dict[str, list[str]]:
        exchange = await serve(small(max_trades=400), speed=0, settle_s=0.3)
        clients = [await dial(exchange) for _ in shards]
        for client, products in zip(clients, shards, strict=True):
            await client.subscribe(products, "matches", "level2_batch")
        await exchange.wait_done()
        status = exchange.status()
        await exchange.stop()
        found: dict[str, list[str]] = {}
        for client in clients:
            await client.closed()
            for text in client.raw[1:]:
                found.setdefault(json.loads(text)["product_id"], []).append(text)
        assert status["done"]
        assert status["trades_sent"] == 400
        assert status["frames_sent"] == sum(len(client.raw) for client in clients)
        return found

    together = await run([["BTC-USD", "ETH-USD"]])
    apart = await run([["ETH-USD"], ["BTC-USD"]])
    assert together == apart


async def test_a_request_refused_changes_nothing_and_the_connection_lives_on(
    serve: Serve, dial: Dial
) -> None:
    exchange = await serve(small())
    client = await dial(exchange)
    for bad in ("{", b'{"type":"subscribe"}', json.dumps({"type": "x"})):
        await client.send(bad)
        assert (await client.frame())["type"] == "error"
    answer = await client.subscribe(["BTC-USD", "FOO"], "matches")
    assert (answer["message"], answer["reason"]) == ("Failed to subscribe", "FOO is not a valid product")
    assert (await client.subscribe(["BTC-USD"], "full"))["type"] == "error"
    ack = await client.subscribe(["BTC-USD"], "heartbeat")
    assert [each["name"] for each in ack["channels"]] == ["heartbeat"]
    assert exchange.status()["requests_refused"] == 5


async def test_who_does_not_subscribe_in_time_is_disconnected(serve: Serve, dial: Dial) -> None:
    exchange = await serve(small(), subscribe_s=0.2)
    silent, busy, good = await dial(exchange), await dial(exchange), await dial(exchange)
    await busy.send({"type": "unsubscribe", "channels": ["matches"]})
    await good.subscribe(["BTC-USD"], "heartbeat")
    for client in (silent, busy):
        end = await client.closed()
        assert end.rcvd is not None
        assert end.rcvd.code == 1008
    assert (await good.frame())["type"] == "heartbeat"


async def test_too_many_and_too_large_messages_end_the_connection(serve: Serve, dial: Dial) -> None:
    exchange = await serve(small())
    client, large = await dial(exchange), await dial(exchange)
    for _ in range(101):
        await client.send({"type": "unsubscribe", "channels": ["matches"]})
    end = await client.closed()
    assert end.rcvd is not None
    assert end.rcvd.reason == "ErrSlowRead"
    assert json.loads(client.raw[-1])["message"] == "ErrSlowRead"
    assert len(client.raw) == 101
    await large.send("x" * (64 * 1024 + 1))
    end = await large.closed()
    assert end.rcvd is not None
    assert end.rcvd.code == 1009


async def test_a_reader_too_slow_is_closed_and_the_others_are_not(serve: Serve, dial: Dial) -> None:
    exchange = await serve(small(trades_per_s=8_000), max_queue=64 << 10)
    slow = await dial(exchange, narrow=True)
    other = await dial(exchange)
    await other.subscribe(["ETH-USD"], "level2_batch")
    await slow.subscribe(["BTC-USD", "ETH-USD"], "matches")
    while not any(connection.closing for connection in exchange._hub.connections):
        await other.frame()
    end = await slow.closed()
    assert json.loads(slow.raw[-1])["message"] == "ErrSlowConsume"
    assert end.rcvd is not None
    assert end.rcvd.reason == "ErrSlowConsume"
    while exchange.status()["connections"] == 2:
        await other.frame()


async def test_large_frames_are_deflated_for_who_can_and_all_frames_are_the_same(
    serve: Serve, dial: Dial
) -> None:
    exchange = await serve(small(max_trades=100), levels=2000, speed=0, settle_s=0.3)
    plain, deflated = await dial(exchange), await dial(exchange, compression="deflate")
    for client in (plain, deflated):
        await client.subscribe(["BTC-USD", "ETH-USD"], "level2_batch", "matches")
    await exchange.wait_done()
    await exchange.stop()
    for client in (plain, deflated):
        await client.closed()
    assert plain.raw == deflated.raw
    assert max(map(len, plain.raw)) > 64 * 1024


async def test_the_socket_is_served_at_ws_too_and_a_plain_get_is_not_found(
    serve: Serve, dial: Dial, rest: Rest
) -> None:
    exchange = await serve(small())
    assert (await rest(exchange, "/"))[:2] == (404, {"message": "NotFound"})
    assert exchange.ws_url.startswith("ws://127.0.0.1:")

    class At(MockExchange):
        ws_url = exchange.ws_url + "/ws"

    client = await dial(At(small()))
    assert (await client.subscribe(["BTC-USD"], "matches"))["type"] == "subscriptions"


async def test_a_market_goes_on_while_a_client_is_away_and_rest_has_what_it_missed(
    serve: Serve, dial: Dial, rest: Rest
) -> None:
    exchange = await serve(small(trades_per_s=200))
    first = await dial(exchange)
    await first.subscribe(["BTC-USD"], "matches")
    seen = json.loads((await first.texts(3, "match"))[-1])["trade_id"]
    await first.socket.close()
    newest = seen
    while newest < seen + 20:
        newest = (await rest(exchange, "/products/BTC-USD/trades?limit=1"))[1][0]["trade_id"]
    second = await dial(exchange)
    await second.subscribe(["BTC-USD"], "matches")
    last = await second.frame()
    assert last["type"] == "last_match"
    assert last["trade_id"] >= newest
    rows = (await rest(exchange, f"/products/BTC-USD/trades?after={last['trade_id']}"))[1]
    missed = range(seen + 1, last["trade_id"])
    assert [row["trade_id"] for row in rows if row["trade_id"] > seen] == list(reversed(missed))


@pytest.mark.parametrize(
    ("start_us", "expected"),
    [(1_000_000, [1_100_000, 2_020_000]), (8_000_000, [8_100_000, 10_000_000])],
)
async def test_a_fast_market_never_passes_the_present_unless_it_starts_beyond_it(
    start_us: int, expected: list[int]
) -> None:
    clock = iter([2_000_000, 2_001_000, 2_020_000])  # at the start, 1 ms and 20 ms later
    source = SimulatedSource(Simulation(start_us=start_us), 100.0, 50, 0.0, lambda: next(clock))
    await source.start(Hub(source, Faults()))
    assert [source.now_us() for _ in expected] == expected
    await source.stop()


async def test_an_unpaced_market_waits_while_nobody_is_subscribed(
    serve: Serve, dial: Dial, rest: Rest
) -> None:
    exchange = await serve(small(products=("BTC-USD",), max_trades=200_000), speed=0)
    first = await dial(exchange, narrow=True)
    await first.subscribe(["BTC-USD"], "matches")
    await first.texts(10, "match")
    await first.send({"type": "unsubscribe", "channels": ["matches"]})
    await first.until(lambda frame: frame["type"] == "subscriptions")
    newest = {(await rest(exchange, "/products/BTC-USD/trades?limit=1"))[1][0]["trade_id"] for _ in range(10)}
    second = await dial(exchange, narrow=True)
    await second.subscribe(["BTC-USD"], "matches")
    last, following = await second.frame(), await second.frame()
    assert newest == {last["trade_id"]}
    assert following["trade_id"] == last["trade_id"] + 1
    assert not exchange.status()["done"]


async def test_a_server_that_comes_back_has_the_same_trades_and_went_on(
    serve: Serve, dial: Dial, rest: Rest
) -> None:
    since_us = time.time_ns() // 1000 - 120_000_000
    pages = []
    for _ in range(2):
        exchange = await serve(Simulation(products=("BTC-USD",), since_us=since_us))
        pages.append((await rest(exchange, "/products/BTC-USD/trades"))[1][::-1])
        await exchange.stop()
    assert 100 < len(pages[0]) <= len(pages[1])
    assert pages[1][: len(pages[0])] == pages[0]


async def test_the_truth_file_is_complete_when_the_market_is_done(
    serve: Serve, dial: Dial, tmp_path: Path
) -> None:
    path = tmp_path / "truth.jsonl"
    exchange = await serve(small(max_trades=50, truth=path), speed=0)
    client = await dial(exchange)
    await client.subscribe(["BTC-USD", "ETH-USD"], "matches")
    await exchange.wait_done()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(row["kind"] == "trade" for row in rows) == 52  # with each product's last match
    await exchange.stop()
    with pytest.raises(ConfigError, match="truth"):
        await serve(small(truth=tmp_path / "none" / "truth.jsonl"))


async def test_a_taken_port_is_one_error_that_names_it(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)) as caught:
            await serve(small(), port=port)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"speed": -1}, {"speed": float("nan")}, {"levels": 0}, {"port": 70_000}]
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        MockExchange(small(), **settings)


@pytest.mark.parametrize("settings", [{"max_trades": 0}, {"trades_per_s": 0}, {"products": ("x",)}])
def test_a_simulation_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        MockExchange(small(**settings))


async def test_stop_takes_no_time_with_clients_connected(serve: Serve, dial: Dial) -> None:
    exchange = await serve(small())
    client = await dial(exchange)
    await client.subscribe(["BTC-USD"], *FEED)
    ending = asyncio.create_task(client.closed())
    async with asyncio.timeout(2):
        await exchange.stop()
        end = await ending
    assert end.rcvd is not None
    assert end.rcvd.code == 1001
