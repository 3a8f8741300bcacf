"""The REST side: shapes, paging, errors."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.mock import MockExchange, Simulation, tradelog
from candlewick.mock.products import product
from candlewick.mock.rest import _is_local
from candlewick.mock.tradelog import TradeLog

START = 1_800_000_012_345_678
BOTH = Simulation(products=("BTC-USD", "DOGE-USD"), start_us=START, max_trades=2600)

Serve = Callable[..., Awaitable[MockExchange]]
Dial = Callable[..., Awaitable[Any]]
Rest = Callable[..., Awaitable[tuple[int, Any, Any]]]


async def finished(serve: Serve, dial: Dial) -> tuple[MockExchange, list[dict[str, Any]]]:
    """Return an exchange that is done, and every trade it sent, last match first."""
    exchange = await serve(BOTH, speed=0)
    client = await dial(exchange)
    await client.subscribe(["BTC-USD", "DOGE-USD"], "matches")
    trades: list[dict[str, Any]] = []
    while len(trades) < 2602:
        frame = await client.frame()
        if "trade_id" in frame:
            trades.append(frame)
    await exchange.wait_done()
    return exchange, trades


@pytest.mark.parametrize("limit", [None, 7, 1000])
async def test_paging_walks_over_all_trades_newest_first(
    serve: Serve, dial: Dial, rest: Rest, limit: int | None
) -> None:
    exchange, sent = await finished(serve, dial)
    for name in ("BTC-USD", "DOGE-USD"):
        walked: list[dict[str, Any]] = []
        query = f"limit={limit}&" if limit else ""
        cursor = ""
        while len(walked) < 60 or limit != 7:  # by sevens it would take long
            status, rows, headers = await rest(exchange, f"/products/{name}/trades?{query}{cursor}")
            assert status == 200
            if not rows:
                assert "CB-AFTER" not in headers
                break
            assert len(rows) <= (limit or 1000)
            assert headers["CB-BEFORE"] == str(rows[0]["trade_id"])
            walked += rows
            cursor = f"after={headers['CB-AFTER']}"
        fields = ("trade_id", "side", "size", "price", "time")
        expected = [{key: trade[key] for key in fields} for trade in sent if trade["product_id"] == name][
            ::-1
        ]
        assert walked == (expected if limit != 7 else expected[: len(walked)])
        assert len(walked) >= 63 or limit != 7


@given(
    count=st.integers(1, 40),
    kept=st.integers(1, 20),
    limit=st.integers(1, 50),
    after=st.none() | st.integers(-5, 60),
    before=st.none() | st.integers(-5, 60),
)
def test_a_page_is_the_newest_trades_between_its_cursors(
    count: int, kept: int, limit: int, after: int | None, before: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tradelog, "KEPT", kept)
        log = TradeLog(product("BTC-USD"))
        for trade_id in range(10, 10 + count):
            log.add(trade_id, 1, 1, True, trade_id)
    stored = [row["trade_id"] for row in log.rows(10**6, None, None)]
    assert stored[0] == 9 + count
    assert len(stored) >= min(count, kept)
    assert stored == list(range(stored[0], stored[0] - len(stored), -1))
    wanted = [i for i in stored if (after is None or i < after) and (before is None or i > before)][:limit]  # type: ignore[operator]
    assert [row["trade_id"] for row in log.rows(limit, after, before)] == wanted


async def test_the_shapes_are_the_exchanges(serve: Serve, dial: Dial, rest: Rest) -> None:
    exchange, sent = await finished(serve, dial)
    _, products, _ = await rest(exchange, "/products")
    assert [each["id"] for each in products] == ["BTC-USD", "DOGE-USD"]
    _, doge, _ = await rest(exchange, "/products/DOGE-USD")
    assert doge == products[1]
    assert (doge["quote_increment"], doge["base_increment"]) == ("0.00001", "0.1")
    _, best, _ = await rest(exchange, "/products/BTC-USD/book")
    _, full, _ = await rest(exchange, "/products/BTC-USD/book?level=2")
    assert len(full["bids"]) > 40
    assert len(best["bids"]) == len(best["asks"]) == 1
    assert full["bids"][0] == best["bids"][0]
    assert full["asks"][0] == best["asks"][0]
    price, size, orders = best["bids"][0]
    assert isinstance(price, str)
    assert isinstance(size, str)
    assert orders >= 1
    last = [trade for trade in sent if trade["product_id"] == "BTC-USD"][-1]
    _, ticker, _ = await rest(exchange, "/products/BTC-USD/ticker")
    assert {key: ticker[key] for key in ("trade_id", "price", "size", "time")} == {
        key: last[key] for key in ("trade_id", "price", "size", "time")
    }
    assert (ticker["bid"], ticker["ask"]) == (best["bids"][0][0], best["asks"][0][0])
    _, now, _ = await rest(exchange, "/time")
    assert now["epoch"] > START / 1e6
    assert now["iso"].startswith("2027-")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/products/FOO-USD", 404),
        ("/products/FOO-USD/trades", 404),
        ("/products/btc-usd/book", 404),
        ("/nothing", 404),
        ("/products/BTC-USD/book?level=3", 400),
        ("/products/BTC-USD/book?level=x", 400),
        *(
            (f"/products/BTC-USD/trades?{query}", 400)
            for query in ("limit=0", "limit=1001", "limit=-1", "limit=x", "after=", "after=1.5", "before=1e3")
        ),
        ("/products/BTC-USD/trades?after=99999999999999999999999", 400),
    ],
)
async def test_errors_are_json_with_a_message(serve: Serve, rest: Rest, path: str, status: int) -> None:
    exchange = await serve(BOTH)
    found, body, _ = await rest(exchange, path)
    assert found == status
    assert list(body) == ["message"]
    if status == 404:
        assert body == {"message": "NotFound"}


async def test_status_counts_and_faults_can_be_changed_while_it_runs(serve: Serve, rest: Rest) -> None:
    exchange = await serve(BOTH)
    _, status, _ = await rest(exchange, "/mock/status")
    assert status == exchange.status()
    assert status["products"] == ["BTC-USD", "DOGE-USD"]
    assert status["done"] is False
    code, faults, _ = await rest(exchange, "/mock/faults", {"drop_trades": 0.5, "stall_s": 3})
    assert code == 200
    assert (faults["drop_trades"], faults["stall_s"]) == (0.5, 3)
    code, faults, _ = await rest(exchange, "/mock/faults", {"duplicate": 1})
    assert (faults["drop_trades"], faults["duplicate"]) == (0.5, 1)
    for bad in (
        {"drop": 1},
        {"drop_trades": 2},
        {"stall_every": 1.5},
        {"duplicate": "x"},
        [1],
        {"drop_trades": True},
    ):
        code, body, _ = await rest(exchange, "/mock/faults", bad)
        assert (code, list(body)) == (400, ["message"]), bad
    assert (await rest(exchange, "/mock/faults"))[1] == faults


async def test_a_web_page_cannot_change_faults(serve: Serve) -> None:
    exchange = await serve(BOTH)
    async with aiohttp.ClientSession() as session:
        plain = json.dumps({"drop_trades": 1})
        async with session.post(exchange.rest_url + "/mock/faults", data=plain) as response:
            assert response.status == 415
    assert not exchange._hub.plan.faults.any
    assert [_is_local(each) for each in ("127.0.0.1", "::1", "10.0.0.1", None, "x")] == [
        True,
        True,
        *[False] * 3,
    ]
