"""The simulated market, without a clock or a socket."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.mock.frames import Frame
from candlewick.mock.market import Market
from candlewick.mock.matching import Side
from candlewick.mock.products import DEFAULT_PRODUCTS, product
from candlewick.mock.truth import Truth
from models.errors import ConfigError
from models.times import parse_rfc3339

START = 1_800_000_000_000_000 + 12_345_678
SECOND = 1_000_000
MINUTE = 60 * SECOND


def texts(frames: list[Frame]) -> list[str]:
    return [frame.text for frame in frames]


def parsed(frames: list[Frame], kind: str) -> list[dict[str, Any]]:
    return [json.loads(frame.text) for frame in frames if frame.kind == kind]


def micros(time: str) -> int:
    return parse_rfc3339(time)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 20 * SECOND), max_size=8))
def test_the_same_seed_gives_the_same_bytes_in_whatever_steps(seed: int, cuts: list[int]) -> None:
    whole = Market(["BTC-USD", "ETH-USD"], seed, START).advance(START + 20 * SECOND)
    stepped: list[Frame] = []
    market = Market(["BTC-USD", "ETH-USD"], seed, START)
    for cut in sorted(cuts):
        stepped += market.advance(START + cut)
        market.markets["BTC-USD"].snapshot()  # asking changes nothing
    stepped += market.advance(START + 20 * SECOND)
    for name in ("BTC-USD", "ETH-USD"):
        assert [f.text for f in stepped if f.product == name] == [f.text for f in whole if f.product == name]
    assert sorted(texts(stepped)) == sorted(texts(whole))


def test_another_seed_is_another_market_and_a_product_does_not_depend_on_the_others() -> None:
    alone = Market(["BTC-USD"], 1, START).advance(START + 10 * SECOND)
    other = Market(["BTC-USD"], 2, START).advance(START + 10 * SECOND)
    both = Market(["ETH-USD", "BTC-USD"], 1, START).advance(START + 10 * SECOND)
    assert texts(alone) != texts(other)
    assert texts(alone) == [frame.text for frame in both if frame.product == "BTC-USD"]


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    levels=st.sampled_from([1, 2, 5, 50]),
    rate=st.sampled_from([0.5, 5, 500]),
    name=st.sampled_from([*DEFAULT_PRODUCTS, "FOO-EUR"]),
)
def test_the_book_is_never_crossed_and_snapshot_plus_updates_is_the_book(
    seed: int, levels: int, rate: float, name: str
) -> None:
    market = Market([name], seed, START, levels=levels, trades_per_s=rate)
    one = market.markets[name]
    snapshot = json.loads(one.snapshot().text)
    sides = {
        "buy": {Decimal(price): size for price, size in snapshot["bids"]},
        "sell": {Decimal(price): size for price, size in snapshot["asks"]},
    }
    assert len(sides["buy"]) == len(sides["sell"]) == levels
    last_us = 0
    for frame in market.advance((START // SECOND + 20) * SECOND):
        assert frame.time_us >= last_us
        last_us = frame.time_us
        if frame.kind != "l2update":
            continue
        update = json.loads(frame.text)
        assert frame.time_us - 50_000 <= micros(update["time"]) <= frame.time_us
        for side, price, size in update["changes"]:
            if Decimal(size):
                sides[side][Decimal(price)] = size
            else:
                sides[side].pop(Decimal(price), None)
        assert max(sides["buy"]) < min(sides["sell"]), frame.text
        assert len(sides["buy"]) <= levels
        assert len(sides["sell"]) <= levels
    show = one.product
    assert sides["buy"] == {Decimal(show.price_text(t)): show.size_text(u) for t, u in one.bids()}
    assert sides["sell"] == {Decimal(show.price_text(t)): show.size_text(u) for t, u in one.asks()}


def test_trades_are_contiguous_in_order_and_of_resting_orders() -> None:
    market = Market(["BTC-USD"], 3, START, trades_per_s=200)
    last = json.loads(market.markets["BTC-USD"].last_match().text)
    frames = market.advance(START + 30 * SECOND)
    matches = parsed(frames, "match")
    assert [match["trade_id"] for match in matches] == list(
        range(last["trade_id"] + 1, last["trade_id"] + 1 + len(matches))
    )
    assert 3000 < len(matches) < 12000  # 6000 on average
    sequences = [match["sequence"] for match in matches]
    assert all(a < b for a, b in itertools.pairwise(sequences))
    assert any(b - a > 1 for a, b in itertools.pairwise(sequences))
    times = [micros(match["time"]) for match in matches]
    assert times == sorted(times)
    assert times[0] > START
    makers = Counter(match["maker_order_id"] for match in matches)
    takers = Counter(match["taker_order_id"] for match in matches)
    assert max(makers.values()) > 1
    assert max(takers.values()) > 1
    assert not set(makers) & set(takers)
    assert {match["side"] for match in matches} == {"buy", "sell"}


def test_the_maker_side_is_sell_when_a_buyer_lifted_an_ask() -> None:
    market = Market(["BTC-USD"], 3, START)
    one = market.markets["BTC-USD"]
    seen = 0
    bid, ask = one.bids()[0][0], one.asks()[0][0]
    for step in range(1, 20_000):
        for match in parsed(market.advance(START + step * 1000), "match"):
            ticks = int(match["price"].replace(".", ""))
            # Makers may have moved within the millisecond, but not across the middle.
            assert (match["side"] == "sell") == (2 * ticks > bid + ask)
            seen += 1
        bid, ask = one.bids()[0][0], one.asks()[0][0]
    assert seen > 50


def test_a_market_begins_with_one_trade_in_the_minute_before() -> None:
    for start in (START, START // MINUTE * MINUTE):
        one = Market(["ETH-USD"], 1, start).markets["ETH-USD"]
        last = json.loads(one.last_match().text)
        assert start // MINUTE - 1 == micros(last["time"]) // MINUTE
        assert [row["trade_id"] for row in one.log.rows(10, None, None)] == [last["trade_id"]]


def test_heartbeats_come_every_second_and_name_the_last_trade() -> None:
    frames = Market(["BTC-USD"], 1, START).advance(START + 10 * SECOND)
    beats = parsed(frames, "heartbeat")
    assert [micros(beat["time"]) % SECOND for beat in beats] == [0] * 10
    last = 0
    for frame in frames:
        if frame.kind == "match":
            last = json.loads(frame.text)["trade_id"]
        elif frame.kind == "heartbeat" and last:
            assert json.loads(frame.text)["last_trade_id"] == last


def test_max_trades_are_shared_exactly_and_the_last_batch_still_leaves() -> None:
    market = Market(DEFAULT_PRODUCTS, 1, START, max_trades=1001)
    frames = market.advance(START + 3600 * SECOND)
    assert sum(frame.kind == "match" for frame in frames) == 1001
    assert market.finished
    assert market.advance(START + 7200 * SECOND) == []
    last = {frame.product: frame.kind for frame in frames}
    assert set(last.values()) == {"heartbeat"}


def test_prices_move_and_activity_changes_so_that_candles_look_alive() -> None:
    matches = parsed(Market(["BTC-USD"], 5, START).advance(START + 30 * MINUTE), "match")
    minutes: dict[int, list[Decimal]] = {}
    for match in matches:
        minutes.setdefault(micros(match["time"]) // MINUTE, []).append(Decimal(match["price"]))
    ranges = [max(prices) / min(prices) - 1 for prices in minutes.values()]
    assert Decimal("0.0001") < sorted(ranges)[len(ranges) // 2] < Decimal("0.01")
    counts = [len(prices) for prices in minutes.values()][1:-1]
    assert max(counts) > 1.5 * min(counts)


def test_thousands_of_levels_are_possible() -> None:
    one = Market(["BTC-USD"], 1, START, levels=3000).markets["BTC-USD"]
    snapshot = json.loads(one.snapshot().text)
    assert len(snapshot["bids"]) == len(snapshot["asks"]) == 3000
    bids = [Decimal(price) for price, _ in snapshot["bids"]]
    assert bids == sorted(bids, reverse=True)


def test_products_beyond_the_known_ones_are_derived_from_their_name() -> None:
    assert product("FOO-EUR") == product("FOO-EUR") != product("BAR-EUR")
    for bad in ("", "FOO", "foo-usd", "A-B-C", "A/B", "-", "../x-y"):
        with pytest.raises(ConfigError, match="products"):
            product(bad)


def test_a_fill_takes_the_best_price_first_and_the_oldest_order_of_it() -> None:
    side = Side()
    for key, order, units in ((-102, 1, 5), (-101, 2, 3), (-101, 3, 4)):
        side.add(key, order, units)
    assert side.take(9, 100) == [(-101, 2, 3, True), (-101, 3, 4, True), (-102, 1, 2, False)]
    assert side.drain() == [(-102, 3), (-101, 0)]
    assert side.take(9, 100) == [(-102, 1, 3, True)]
    assert side.take(1, 100) == []


def test_the_truth_is_what_a_client_recomputes_from_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    names = ["BTC-USD", "DOGE-USD"]
    market = Market(names, 9, START, trades_per_s=20, truth=Truth(path))
    first = [json.loads(market.markets[name].last_match().text) for name in names]
    frames = market.advance((START // SECOND + 200) * SECOND)
    market.close()
    market.close()  # the second time changes nothing
    matches = first + parsed(frames, "match")

    truth = [json.loads(line) for line in path.read_text().splitlines()]
    told = {(row["product_id"], row["trade_id"]): row for row in truth if row["kind"] == "trade"}
    assert len(told) == len(matches)
    candles: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for match in matches:
        row = told[match["product_id"], match["trade_id"]]
        assert (row["price"], row["size"]) == (match["price"], match["size"])
        assert row["taker_side"] != match["side"]
        assert row["time_us"] == micros(match["time"])
        candles.setdefault((match["product_id"], row["time_us"] // MINUTE * MINUTE), []).append(match)

    rows = [row for row in truth if row["kind"] == "candle"]
    assert len(rows) == len(candles) >= 8
    for row in rows:
        trades = candles[row["product_id"], row["start_us"]]
        prices = [Decimal(trade["price"]) for trade in trades]
        sizes = [Decimal(trade["size"]) for trade in trades]
        assert [
            Decimal(row[name]) for name in ("open", "high", "low", "close", "volume", "quote_volume")
        ] == [
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(sizes),
            sum(price * size for price, size in zip(prices, sizes, strict=True)),
        ]
        assert (row["trade_count"], row["first_trade_id"], row["last_trade_id"]) == (
            len(trades),
            trades[0]["trade_id"],
            trades[-1]["trade_id"],
        )
    books = {row["product_id"]: row for row in truth if row["kind"] == "book"}
    for name in names:
        snapshot = json.loads(market.markets[name].snapshot().text)
        assert books[name]["bids"] == snapshot["bids"]
        assert books[name]["asks"] == snapshot["asks"]
        assert books[name]["best_bid"] == snapshot["bids"][0]
