"""Each fault does what it says, and is counted exactly."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.mock import Faults, MockExchange, Simulation
from candlewick.mock.faults import Disconnect, FaultPlan, Injector, Stall
from models.errors import ConfigError

Serve = Callable[..., Awaitable[MockExchange]]
Dial = Callable[..., Awaitable[Any]]
Rest = Callable[..., Awaitable[tuple[int, Any, Any]]]


def run(faults: Faults, frames: list[tuple[str, str]], connection: int = 1) -> tuple[list[Any], Counter[str]]:
    plan = FaultPlan(faults)
    injector = Injector(plan, connection)
    actions: list[Any] = []
    for number, (product, kind) in enumerate(frames):
        actions += injector.pass_on(product, kind, f"{product} {kind} {number}", number)
    return actions + injector.release(float("inf")), plan.counts


MIX = [("A", "match"), ("B", "match"), ("A", "l2update"), ("A", "heartbeat"), ("B", "snapshot")] * 40
SENT = [f"{product} {kind} {number}" for number, (product, kind) in enumerate(MIX)]


def test_without_faults_every_frame_passes() -> None:
    assert not Faults().any
    assert run(Faults(), MIX) == (SENT, Counter())


def test_drops_take_trades_or_updates_and_nothing_else() -> None:
    assert run(Faults(drop_trades=1), MIX) == ([t for t in SENT if "match" not in t], Counter(drop_trades=80))
    assert run(Faults(drop_updates=1), MIX) == (
        [t for t in SENT if "l2update" not in t],
        Counter(drop_updates=40),
    )
    some, counts = run(Faults(drop_trades=0.3), MIX)
    assert len(SENT) - len(some) == counts["drop_trades"]
    assert 10 < counts["drop_trades"] < 40


def test_duplicates_follow_at_once() -> None:
    actions, counts = run(Faults(duplicate=0.5), MIX)
    doubled = [a for a, b in itertools.pairwise(actions) if a == b]
    assert len(doubled) == counts["duplicate"] == len(actions) - len(SENT) > 20
    assert list(dict.fromkeys(actions)) == SENT


def test_reordering_swaps_neighbouring_trades_of_one_product() -> None:
    actions, counts = run(Faults(reorder=1), [("A", "match"), ("B", "match"), ("A", "l2update")] * 4)
    assert [a for a in actions if a[0] == "A" and "match" in a] == [f"A match {n}" for n in (3, 0, 9, 6)]
    assert [a for a in actions if a[0] == "B"] == [f"B match {n}" for n in (4, 1, 10, 7)]
    assert [a for a in actions if "l2update" in a] == [f"A l2update {n}" for n in (2, 5, 8, 11)]
    assert counts == Counter(reorder=4)


def test_a_frame_held_back_is_not_lost_when_no_neighbour_comes() -> None:
    plan = FaultPlan(Faults(reorder=1))
    injector = Injector(plan, 1)
    assert injector.pass_on("A", "match", "x", 5.0) == []
    assert injector.release(5.0) == []
    assert injector.release(5.1) == ["x"]
    assert injector.release(9.0) == []
    assert plan.counts == Counter()  # it was not reordered after all


def test_garbage_goes_before_a_frame_which_still_comes() -> None:
    frames = [("A", "match")] * 50
    plan = FaultPlan(Faults(malformed=1))
    injector = Injector(plan, 1)
    text = '{"type":"match","price":"1.5","size":"1","product_id":"A"}'
    for number, (product, kind) in enumerate(frames):
        if number == 25:
            text = text.replace(":", ": ")  # as another recorder would have it
        garbage, good = injector.pass_on(product, kind, text, 0)
        assert good == text
        assert garbage != text
    assert plan.counts == Counter(malformed=50)


def test_disconnects_and_stalls_come_at_their_interval() -> None:
    actions, counts = run(Faults(stall_every=3, stall_s=2), [("A", "match")] * 7)
    assert [index for index, action in enumerate(actions) if action == Stall(2)] == [3, 7]
    assert counts == Counter(stall=2)
    actions, counts = run(Faults(disconnect_every=3, reorder=1), [("A", "match")] * 3)
    assert actions == ["A match 1", "A match 0", "A match 2", Disconnect()]
    assert counts == Counter(disconnect=1, reorder=1)


@given(
    st.builds(
        Faults,
        drop_trades=st.floats(0, 1),
        drop_updates=st.floats(0, 1),
        duplicate=st.floats(0, 1),
        reorder=st.floats(0, 1),
        reorder_updates=st.floats(0, 1),
        malformed=st.floats(0, 1),
        seed=st.integers(),
    )
)
def test_what_is_sent_adds_up_and_one_seed_gives_one_course(faults: Faults) -> None:
    actions, counts = run(faults, MIX)
    assert len(actions) == len(SENT) + counts["duplicate"] + counts["malformed"] - (
        counts["drop_trades"] + counts["drop_updates"]
    )
    assert run(faults, MIX) == (actions, counts)


@pytest.mark.parametrize(
    "name", ["drop_trades", "drop_updates", "duplicate", "reorder", "disconnect", "stall", "rest_error"]
)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "x", None, True])
def test_what_is_no_probability_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        Faults().changed({name: value})


async def test_trades_hidden_from_the_socket_are_served_by_rest_and_counted(
    serve: Serve, dial: Dial, rest: Rest
) -> None:
    faults = Faults(drop_trades=0.2, duplicate=0.1, malformed=0.1)
    simulation = Simulation(products=("BTC-USD",), start_us=1_800_000_000_000_000, max_trades=500)
    exchange = await serve(simulation, speed=0, faults=faults)
    client = await dial(exchange)
    await client.subscribe(["BTC-USD"], "matches", "heartbeat")
    await exchange.wait_done()
    counts = exchange.status()["faults"]
    trades_sent = exchange.status()["trades_sent"]
    _, rows, _ = await rest(exchange, "/products/BTC-USD/trades")
    await exchange.stop()
    await client.closed()
    good, bad = [], 0
    for text in client.raw:
        try:
            frame = json.loads(text)
            float(frame.get("price", 1))
            assert float(frame.get("price", 1)) > 0
        except (ValueError, AttributeError, AssertionError):
            bad += 1
        else:
            good.append(frame)
    ids = Counter(frame["trade_id"] for frame in good if frame["type"] == "match")
    assert isinstance(counts, dict)
    assert len(ids) == 500 - counts["drop_trades"]
    assert sum(ids.values()) == len(ids) + counts["duplicate"]
    assert trades_sent == sum(ids.values()) + counts["malformed"]
    assert counts["drop_trades"] > 50
    assert counts["duplicate"] > 20
    assert len({row["trade_id"] for row in rows}) == 501
    assert max(row["trade_id"] for row in rows) == good[-1]["last_trade_id"]


async def test_a_stall_sends_nothing_and_keeps_the_connection(serve: Serve, dial: Dial) -> None:
    loop = asyncio.get_running_loop()
    simulation = Simulation(products=("BTC-USD",), trades_per_s=100)
    exchange = await serve(simulation, faults=Faults(stall_every=30, stall_s=0.7))
    client = await dial(exchange)
    await client.subscribe(["BTC-USD"], "matches")
    times = []
    for _ in range(70):
        await client.text()
        times.append(loop.time())
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert sum(gap > 0.5 for gap in gaps) == 2
    ids = [json.loads(text)["trade_id"] for text in client.raw[1:]]
    assert ids == list(range(ids[0], ids[0] + 71 - 1))


async def test_faults_set_while_running_act_at_once(serve: Serve, dial: Dial, rest: Rest) -> None:
    exchange = await serve(Simulation(products=("BTC-USD",), trades_per_s=3000))
    client = await dial(exchange)
    await client.subscribe(["BTC-USD"], "matches")
    await client.texts(5, "match")
    await rest(exchange, "/mock/faults", {"disconnect": 1})
    end = await client.closed()
    assert end.rcvd is None  # no closing handshake
    assert exchange.status()["faults"] == {"disconnect": 1}


async def test_rest_fails_as_often_as_asked_is_counted_and_leaves_the_socket_and_our_own_pages_alone(
    serve: Serve, dial: Dial, rest: Rest
) -> None:
    faults = Faults(rest_error=0.3, rest_limit=0.3)
    assert not faults.any
    exchange = await serve(
        Simulation(products=("BTC-USD",), start_us=1_800_000_000_000_000, max_trades=50),
        speed=0,
        faults=faults,
    )
    client = await dial(exchange)
    await client.subscribe(["BTC-USD"], "matches")
    assert len(await client.texts(50, "match")) == 50
    answers: Counter[int] = Counter()
    for path in ("/products/BTC-USD/trades", "/products/BTC-USD/book", "/products", "/time") * 20:
        status, body, headers = await rest(exchange, path)
        answers[status] += 1
        if status == 429:
            assert headers["Retry-After"] == "1"
        assert status == 200 or list(body) == ["message"]
    assert {"rest_error": answers[500], "rest_limit": answers[429]} == exchange.status()["faults"]
    assert min(answers[200], answers[429], answers[500]) > 5
    assert [(await rest(exchange, "/mock/status"))[0] for _ in range(20)] == [200] * 20


async def test_rest_stalls_for_as_long_as_asked_and_answers_then(serve: Serve, rest: Rest) -> None:
    exchange = await serve(Simulation(products=("BTC-USD",)), faults=Faults(rest_stall=1, stall_s=0.5))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await rest(exchange, "/products/BTC-USD/trades"))[0] == 200
    assert loop.time() - began >= 0.5
    assert exchange.status()["faults"] == {"rest_stall": 1}
