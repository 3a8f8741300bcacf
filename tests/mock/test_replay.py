"""Recordings over real sockets: verbatim, filtered, resumed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from candlewick.mock import Faults, MockExchange
from candlewick.mock.player import load
from producers.recording import RecordingError, products_of, read

SESSION = Path(__file__).parents[2].parent / "shared" / "data" / "coinbase_session.jsonl.gz"
FEED = ("matches", "level2_batch", "ticker")

Serve = Callable[..., Awaitable[MockExchange]]
Dial = Callable[..., Awaitable[Any]]
Rest = Callable[..., Awaitable[tuple[int, Any, Any]]]
MakeTape = Callable[..., Path]


def when(number: int) -> str:
    return f"2024-01-01T00:00:{number // 10:02d}.{number % 10}00000Z"


def match(product: str, number: int, kind: str = "match") -> str:
    # Blanks and the order of keys are not what our own encoder would write: they must survive.
    return (
        f'{{"product_id": "{product}", "type":"{kind}","trade_id":{number},"maker_order_id":"m",'
        f'"taker_order_id":"t","side":"buy","size":"0.10","price":"{100 + number}.50",'
        f'"sequence":{number * 10},"time":"{when(number)}"}}'
    )


def snapshot(product: str) -> str:
    return f'{{"type":"snapshot","product_id":"{product}","asks":[["12.00","1.0"]],"bids":[["10.00","1.0"]]}}'


def update(product: str, number: int) -> str:
    changes = [["buy", "10.50", "0" if number % 2 else "2.5"], ["sell", f"{12 + number}.00", "3"]]
    return json.dumps({"type": "l2update", "product_id": product, "changes": changes, "time": when(number)})


def session(product: str, count: int = 20) -> list[str]:
    """A last match and a snapshot, then a match and an update in turn."""
    frames = [match(product, 1, "last_match"), snapshot(product)]
    for number in range(2, count):
        frames += [match(product, number), update(product, number)]
    return frames


def mixed(*tapes: list[str]) -> list[str]:
    return [frame for frames in zip(*tapes, strict=True) for frame in frames]


async def test_frames_are_sent_verbatim_and_in_recorded_order(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    frames = mixed(session("A-B"), session("C-D"))
    exchange = await serve(tape(frames), speed=0)
    client = await dial(exchange)
    await client.subscribe(["C-D", "A-B"], *FEED)
    await exchange.wait_done()
    await exchange.stop()
    await client.closed()
    assert client.raw[1:] == frames
    assert exchange.status()["frames_sent"] == len(frames) + 1


async def test_each_connection_gets_its_channels_and_products(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    a, c = session("A-B"), session("C-D")
    extra = ['{"type":"ticker","product_id":"A-B","price":"1"}', '{"type":"status","product_id":"A-B"}']
    exchange = await serve(tape([*mixed(a, c), *extra]), speed=0, settle_s=0.3)
    trades, books, ticker, all_c = [await dial(exchange) for _ in range(4)]
    await trades.subscribe(["A-B"], "matches")
    await books.subscribe(["A-B"], "level2_50")
    await ticker.subscribe(["A-B", "C-D"], "ticker")
    await all_c.subscribe(["C-D"], *FEED)
    await exchange.wait_done()
    await exchange.stop()
    for client in (trades, books, ticker, all_c):
        await client.closed()
    assert trades.raw[1:] == [frame for frame in a if "match" in frame]
    assert books.raw[1:] == [frame for frame in a if "match" not in frame]
    assert ticker.raw[1:] == extra[:1]
    assert all_c.raw[1:] == c


async def test_frames_keep_their_pace_and_no_time_means_no_wait(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    loop = asyncio.get_running_loop()
    for step_s, speed, low_s, high_s in ((0.02, 1.0, 0.7, 2), (0.02, 4.0, 0.17, 0.6), (None, 1.0, 0, 0.3)):
        frames = session("A-B")  # 38 frames
        exchange = await serve(tape(frames, f"{step_s}{speed}.jsonl.gz", step_s=step_s), speed=speed)
        client = await dial(exchange)
        await client.subscribe(["A-B"], *FEED)
        await client.text()
        start = loop.time()
        while client.raw[-1] != frames[-1]:
            await client.text()
        assert low_s <= loop.time() - start <= high_s


async def test_a_tape_waits_for_its_first_subscriber_and_begins_at_its_own_beginning(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    a, c = session("A-B"), session("C-D")
    exchange = await serve(tape(mixed(a, c)), speed=0)
    first, second = await dial(exchange), await dial(exchange)
    await first.subscribe(["A-B"], *FEED)
    assert await first.texts(len(a), "match", "l2update", "last_match", "snapshot") == a
    assert not exchange.status()["done"]
    await second.subscribe(["C-D"], *FEED)
    assert await second.texts(len(c), "match", "l2update", "last_match", "snapshot") == c
    await exchange.wait_done()


async def test_after_a_break_the_tape_goes_on_with_last_match_and_a_rebuilt_snapshot(
    serve: Serve, dial: Dial, tape: MakeTape, rest: Rest
) -> None:
    frames = session("A-B", 30)
    faults = Faults(disconnect_every=7)
    exchange = await serve(tape(frames), speed=0, faults=faults)
    received: list[str] = []
    book: dict[tuple[str, str], str] = {}
    connections = 0
    while not exchange.status()["done"]:
        client = await dial(exchange)
        connections += 1
        await client.subscribe(["A-B"], *FEED)
        if connections > 1:
            again = json.loads(await client.text())
            assert again["type"] == "last_match"
            assert again["trade_id"] == max(json.loads(text).get("trade_id", 0) for text in received)
            told = json.loads(await client.text())
            assert told["type"] == "snapshot"
            sides = {("buy", price): size for price, size in told["bids"]}
            sides |= {("sell", price): size for price, size in told["asks"]}
            assert sides == book
            await client.closed() if not exchange.status()["done"] else None
            received += client.raw[3:]
        else:
            await client.closed()
            received += client.raw[1:]
        for frame in map(json.loads, received):
            if frame["type"] == "snapshot":
                book = {("buy", price): size for price, size in frame["bids"]}
                book |= {("sell", price): size for price, size in frame["asks"]}
            for side, price, size in frame.get("changes", ()):
                book.pop((side, price), None)
                if float(size):
                    book[side, price] = size
    assert received == frames  # nothing lost and nothing twice
    assert connections == exchange.status()["connections_ever"] == 56 // 7
    assert exchange.status()["faults"] == {"disconnect": 8}


async def test_a_client_that_leaves_and_comes_back_finds_the_tape_where_it_was(
    serve: Serve, dial: Dial, tape: MakeTape, rest: Rest
) -> None:
    frames = session("A-B", 400)
    exchange = await serve(tape(frames, step_s=0.002))
    client = await dial(exchange)
    await client.subscribe(["A-B"], *FEED)
    await client.texts(20, "match")
    await client.send(
        {"type": "unsubscribe", "product_ids": ["A-B"], "channels": ["matches", "level2_batch"]}
    )
    await client.send({"type": "unsubscribe", "channels": ["ticker"]})
    await client.until(lambda frame: frame["type"] == "subscriptions" and not frame["channels"])
    heard = [text for text in client.raw if '"subscriptions"' not in text]
    assert heard == frames[: len(heard)]
    assert len(heard) < len(frames)
    before = len(client.raw)
    await client.subscribe(["A-B"], *FEED)
    await client.texts(20, "match")
    fresh = client.raw[before + 1 :]
    assert [json.loads(text)["type"] for text in fresh[:2]] == ["last_match", "snapshot"]
    assert fresh[2:] == frames[len(heard) : len(heard) + len(fresh) - 2]


async def test_heartbeats_say_what_is_known_and_stand_still_at_the_end(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    exchange = await serve(tape(session("A-B")), speed=0)
    client = await dial(exchange)
    await client.subscribe(["A-B"], *FEED, "heartbeat")
    beats = [json.loads(text) for text in await client.texts(2, "heartbeat")]
    assert (
        beats[0]
        == beats[1]
        == {
            "type": "heartbeat",
            "sequence": 190,
            "last_trade_id": 19,
            "product_id": "A-B",
            "time": when(19),
        }
    )
    assert exchange.status()["done"]


async def test_recorded_heartbeats_are_sent_and_none_is_made_up_beside_them(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    beat = f'{{"type":"heartbeat","product_id":"A-B","sequence":1,"last_trade_id":1,"time":"{when(1)}"}}'
    exchange = await serve(tape([match("A-B", 1), beat], step_s=1.2))
    client = await dial(exchange)
    await client.subscribe(["A-B"], "matches", "heartbeat")
    while client.raw[-1:] != [beat]:
        await client.text()
    assert client.raw[1:] == [match("A-B", 1), beat]


async def test_rest_serves_what_was_played_and_no_more(
    serve: Serve, dial: Dial, tape: MakeTape, rest: Rest
) -> None:
    exchange = await serve(tape(session("A-B")), speed=0)
    assert (await rest(exchange, "/products/A-B/trades"))[1] == []
    assert (await rest(exchange, "/products/A-B/ticker"))[0] == 404
    client = await dial(exchange)
    await client.subscribe(["A-B"], *FEED)
    await exchange.wait_done()
    _, rows, _ = await rest(exchange, "/products/A-B/trades")
    assert [row["trade_id"] for row in rows] == list(range(19, 0, -1))
    assert rows[0] == {"trade_id": 19, "side": "buy", "size": "0.10", "price": "119.50", "time": when(19)}
    _, book, _ = await rest(exchange, "/products/A-B/book")
    assert (book["bids"], book["asks"]) == ([["10.00", "1.0", 1]], [["12.00", "1.0", 1]])
    _, ticker, _ = await rest(exchange, "/products/A-B/ticker")
    assert (ticker["trade_id"], ticker["price"], ticker["volume"]) == (19, "119.50", "1.90")


async def test_a_recording_larger_than_the_queue_waits_for_its_reader(
    serve: Serve, dial: Dial, tape: MakeTape
) -> None:
    levels = ",".join(f'["{price}.00","1"]' for price in range(20, 20_000))
    big = f'{{"type":"snapshot","product_id":"A-B","asks":[{levels}],"bids":[["10.00","1"]]}}'
    frames = [match("A-B", 1), *[big] * 40, match("A-B", 2)]
    exchange = await serve(tape(frames, step_s=None), max_queue=2 << 20)
    client = await dial(exchange, narrow=True)
    await client.subscribe(["A-B"], *FEED)
    await client.texts(1, "match")
    assert not exchange.status()["done"]  # 10 MB fit in no buffer
    await client.texts(41, "match", "snapshot")
    assert client.raw[1:] == frames


async def test_a_recording_that_cannot_be_served_is_refused(
    serve: Serve, tape: MakeTape, tmp_path: Path
) -> None:
    for path in (tmp_path / "none.jsonl.gz", tape(["{}", "no json"]), tape([], "empty.jsonl.gz")):
        with pytest.raises(RecordingError, match=path.name):
            await serve(path)


def test_frames_that_say_nothing_usable_are_left_out(tape: MakeTape) -> None:
    bad_time = match("A-B", 2).replace("2024-", "never")
    frames = ["x", "[]", '{"type":"match"}', bad_time, match("A-B", 1)]
    assert [frame.text for frame in load(tape(frames))["A-B"].frames] == frames[-1:]


@pytest.mark.skipif(not SESSION.exists(), reason=f"{SESSION.name} is not beside the repository")
async def test_a_real_session_over_three_connections_arrives_whole(serve: Serve, dial: Dial) -> None:
    products = products_of(SESSION)
    expected: dict[str, list[str]] = {product: [] for product in products}
    for line in read(SESSION):
        frame = json.loads(line.raw) if line.dir == "in" else {}
        if "product_id" in frame:
            expected[frame["product_id"]].append(line.raw)
    exchange = await serve(SESSION, speed=0)
    clients = [await dial(exchange) for _ in range(3)]
    for number, client in enumerate(clients):
        await client.subscribe(products[number::3], *FEED)
    await exchange.wait_done()
    assert exchange.status()["trades_sent"] == 69
    await exchange.stop()
    for number, client in enumerate(clients):
        await client.closed()
        mine = [text for text in client.raw if '"subscriptions"' not in text[:40]]
        for product in products[number::3]:
            assert [text for text in mine if json.loads(text)["product_id"] == product] == expected[product]
        assert len(mine) == sum(len(expected[product]) for product in products[number::3])
