"""A market that goes on from start to start of a data directory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from candlewick import feeds
from candlewick.config import Settings

HOUR_US = 3_600_000_000


async def ids_of_a_session(settings: Settings, in_order: bool = True) -> list[int]:
    """Serve a market for a moment; return the ids of the trades of its first product."""
    exchange = feeds.mock_exchange(settings, feeds.resolve(settings))
    await exchange.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url) as socket,
        ):
            await socket.send_json(
                {"type": "subscribe", "product_ids": [exchange.products[0]], "channels": ["matches"]}
            )
            async with asyncio.timeout(20):
                while (await socket.receive_json())["type"] != "match":
                    pass
            async with session.get(
                f"{exchange.rest_url}/products/{exchange.products[0]}/trades?limit=1000"
            ) as answer:
                rows = await answer.json()
    finally:
        await exchange.stop()
    if in_order:
        feeds.remember(settings, feeds.resolve(settings), exchange)
    return sorted(row["trade_id"] for row in rows)


def age(settings: Settings, by_us: int) -> None:
    path = Path(settings.data_dir) / "market.json"
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({**kept, "began_us": kept["began_us"] - by_us}))


@pytest.mark.parametrize("speed", [1.0, 20.0])
async def test_a_market_that_begins_anew_goes_on_behind_the_last_trade(tmp_path: Path, speed: float) -> None:
    settings = Settings(data_dir=tmp_path, feed="mock", products=("BTC-USD",), speed=speed, mock_port=0)
    ended = 0
    for _ in range(3):
        ids = await ids_of_a_session(settings)
        assert ids == list(range(ids[0], ids[-1] + 1))
        assert not ended or ids[0] in (ended, ended + 1)  # a last match stands for the trade before
        ended = json.loads((tmp_path / "market.json").read_bytes())["ended"]["BTC-USD"]
        age(settings, 2 * HOUR_US)


async def test_a_market_that_goes_on_has_the_same_trades(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, feed="mock", products=("BTC-USD",), mock_port=0)
    await ids_of_a_session(settings)
    age(settings, 2 * HOUR_US)
    first = await ids_of_a_session(settings)
    again = await ids_of_a_session(settings)
    assert again[: len(first)] == first
    assert len(again) > len(first)


async def test_a_product_that_was_left_out_once_goes_on_behind_its_own_trades(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, feed="mock", products=("BTC-USD",), mock_port=0)
    await ids_of_a_session(settings)
    path = tmp_path / "market.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "ended": {"BTC-USD": 5000}}))
    await ids_of_a_session(settings.model_copy(update={"products": ("ETH-USD",)}))
    assert (await ids_of_a_session(settings))[0] in (5000, 5001)


async def test_the_ids_of_a_market_that_was_killed_are_not_used_again(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, feed="mock", products=("BTC-USD",), mock_port=0)
    await ids_of_a_session(settings)
    age(settings, 2 * HOUR_US)
    lost = await ids_of_a_session(settings, in_order=False)
    age(settings, 2 * HOUR_US)
    assert (await ids_of_a_session(settings))[0] > lost[-1]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": 1}', '{"began_us": "x"}'])
async def test_a_file_that_cannot_be_read_is_no_obstacle(tmp_path: Path, text: str) -> None:
    settings = Settings(data_dir=tmp_path, feed="mock", products=("BTC-USD",), mock_port=0)
    (tmp_path / "market.json").write_text(text)
    assert await ids_of_a_session(settings)
