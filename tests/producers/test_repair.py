"""Repairs over HTTP, against the mock exchange and its faults; the topic is in tests/broker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import random
import time
from collections import Counter

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from structlog.testing import capture_logs

from candlewick.mock import Faults, MockExchange, Simulation
from models.errors import ConfigError
from models.gap import Gap
from models.times import rfc3339
from producers.exchanges.coinbase import Codec
from producers.repair import Repairer
from producers.repair_status import RepairSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 30
SYMBOL = "BTC-USD"
QUICK = RepairSettings(
    young_s=0.05, requests_per_s=500, timeout_s=5, backoff_first_s=0.01, backoff_most_s=0.05,
    lacking_first_s=600, tick_s=0.01,
)  # fmt: skip
MARKET = Simulation(products=(SYMBOL,), start_us=1_780_000_000_000_000, max_trades=8500, trades_per_s=1000)


class Small(Codec):
    """Ten trades a page."""

    page_trades = 10


class Log:
    """Takes what is delivered."""

    def __init__(self):
        self.trades = []
        self.dead = []

    async def deliver(self, trade):
        self.trades.append(trade)

    async def dead_letter(self, value, source, reason):
        self.dead.append((value, source, reason))

    @property
    def ids(self):
        return [trade.trade_id for trade in self.trades]


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchange():
    """Give an exchange whose market is done; ``first`` is the id of its first trade."""
    exchange = MockExchange(MARKET, speed=0, settle_s=0.02)
    await exchange.start()
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(exchange.ws_url) as socket:
            await socket.send_json({"type": "subscribe", "product_ids": [SYMBOL], "channels": ["matches"]})
            async for _ in socket:
                if exchange.status()["done"]:
                    break
            exchange.rows = await rows(session, exchange)
        exchange.first = min(exchange.rows)
        yield exchange
    finally:
        await exchange.stop()


@contextlib.contextmanager
def faults(exchange, **settings):
    plan = exchange._hub.plan
    plan.faults = Faults(**settings)
    try:
        yield plan
    finally:
        plan.faults = Faults()


async def rows(session, exchange):
    """Return every trade that REST has, by id."""
    found, after = {}, 2**62
    while True:
        url = f"{exchange.rest_url}/products/{SYMBOL}/trades?after={after}"
        async with session.get(url) as answer:
            page = await answer.json()
        if not page:
            return found
        found |= {row["trade_id"]: row for row in page}
        after = page[-1]["trade_id"]


@contextlib.asynccontextmanager
async def repairing(url, log, codec=Codec, settings=QUICK, symbols=(SYMBOL, "ETH-USD"), **options):
    repairer = Repairer("", codec(), url, symbols, log.deliver, log.dead_letter, settings, **options)
    repairer.task = asyncio.create_task(repairer.fetch())
    try:
        yield repairer
    finally:
        repairer.task.cancel()
        await asyncio.wait([repairer.task])


def tell(repairer, first, last, state="open", symbol=SYMBOL, exchange="coinbase"):
    """Give the repairer a record of the topic."""
    at = rfc3339(1_780_000_000_000_000)
    gap = Gap(exchange, symbol, first, last, last - first + 1, state, "jump", at, at, at)
    repairer.take(gap.key.encode(), json.dumps(as_dict(gap)).encode())


def as_dict(gap):
    return {name: getattr(gap, name) for name in gap.__struct_fields__}


async def test_one_missing_trade_is_fetched_as_the_exchange_has_it(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log) as repairer:
        tell(repairer, first + 70, first + 70)
        await until(lambda: log.trades)
        await until(lambda: repairer.status.requests == 1)
        [trade] = log.trades
        row = exchange.rows[first + 70]
        assert (trade.trade_id, str(trade.price), str(trade.size)) == (
            row["trade_id"], row["price"], row["size"],
        )  # fmt: skip
        assert trade.taker_side != row["side"]
        assert rfc3339(trade.event_time_us)[:23] == row["time"][:23]
        assert (trade.exchange, trade.symbol, trade.sequence) == ("coinbase", SYMBOL, None)
        assert abs(trade.received_time_us - time.time_ns() // 1000) < 60_000_000


async def test_a_hole_of_several_pages_is_walked_and_nothing_beside_it_is_delivered(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log) as repairer:
        tell(repairer, first + 100, first + 5099)
        await until(lambda: len(log.trades) == 5000)
        await asyncio.sleep(0.2)
        assert sorted(log.ids) == list(range(first + 100, first + 5100))
        pages = [log.ids[start : start + 1000] for start in range(0, 5000, 1000)]
        assert all(page == sorted(page) for page in pages)
        assert pages[0][-1] == first + 5099
        assert (repairer.status.requests, repairer.status.fetched_trades) == (5, 5000)
        assert (repairer.status.open, repairer.status.failures, repairer.status.unavailable) == (1, 0, 0)


async def test_holes_within_a_page_are_fetched_by_one_request(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log) as repairer:
        tell(repairer, first + 100, first + 109)
        tell(repairer, first + 500, first + 500)
        tell(repairer, first + 900, first + 1050)
        await until(lambda: len(log.trades) == 162)
        await asyncio.sleep(0.2)
        expected = [*range(100, 110), 500, *range(900, 1051)]
        assert log.ids == [first + number for number in expected]
        assert repairer.status.requests == 1


async def test_holes_far_apart_do_not_fetch_what_is_between_them(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log, Small) as repairer:
        tell(repairer, first + 10, first + 12)
        tell(repairer, first + 8000, first + 8014)
        await until(lambda: len(log.trades) == 18)
        await asyncio.sleep(0.2)
        assert sorted(log.ids) == [first + n for n in (*range(10, 13), *range(8000, 8015))]
        assert repairer.status.requests == 3


async def test_a_huge_hole_does_not_hold_up_a_small_one(exchange):
    log, first = Log(), exchange.first
    settings = RepairSettings(young_s=0, requests_per_s=500, concurrency=1, tick_s=0.01)
    async with repairing(exchange.rest_url, log, Small, settings) as repairer:
        tell(repairer, first + 100, first + 7099)
        await until(lambda: len(log.trades) >= 10)
        tell(repairer, first + 50, first + 50)
        await until(lambda: first + 50 in log.ids)
        assert len(log.trades) < 7000
        await until(lambda: len(log.trades) == 7001)


async def test_a_young_gap_waits_for_trades_that_only_came_out_of_order(exchange):
    log, first = Log(), exchange.first
    settings = RepairSettings(young_s=0.3, tick_s=0.01)
    async with repairing(exchange.rest_url, log, settings=settings) as repairer:
        tell(repairer, first + 1, first + 1)
        tell(repairer, first + 5, first + 5)
        tell(repairer, first + 5, first + 5, "repaired")
        began = time.monotonic()
        await until(lambda: log.trades)
        assert time.monotonic() - began >= 0.28
        await asyncio.sleep(0.2)
        assert log.ids == [first + 1]


@pytest.mark.parametrize("state", ["repaired", "merged"])
async def test_a_gap_that_is_settled_meanwhile_is_not_fetched_any_further(state, exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log, Small) as repairer:
        tell(repairer, first, first + 5999)
        await until(lambda: len(log.trades) > 100)
        tell(repairer, first, first + 5999, state)
        assert repairer.status.open == 0
        await asyncio.sleep(0.1)
        requests, delivered = repairer.status.requests, len(log.trades)
        await asyncio.sleep(0.3)
        assert (repairer.status.requests, len(log.trades)) == (requests, delivered)
        assert delivered < 6000


async def test_what_was_repaired_while_the_answer_was_on_its_way_is_not_delivered():
    log = Log()

    async def trades(request):
        tell(repairer, 5, 5, "repaired")
        return web.json_response([row(7), row(6), row(5)])

    async with serving(trades) as url, repairing(url, log) as repairer:
        tell(repairer, 5, 5)
        tell(repairer, 7, 7)
        await until(lambda: log.trades)
        assert log.ids == [7]
        assert repairer.status.open == 1


async def test_a_deleted_record_ends_the_repair_too(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log, Small) as repairer:
        tell(repairer, first, first + 5999)
        repairer.take(f"coinbase:{SYMBOL}:{first}".encode(), None)
        assert repairer.status.open == 0


async def test_gaps_of_others_and_records_that_are_none_are_left_alone(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log, symbols=(SYMBOL,)) as repairer:
        tell(repairer, first, first, symbol="ETH-USD")
        tell(repairer, first, first, exchange="kraken")
        tell(repairer, first + 5, first)  # ends before it begins
        for value in (b"", b"{", b"[]", b"\xff", b'{"exchange":"coinbase"}', b"[" * 100_000):
            repairer.take(b"x", value)
        assert repairer.status.open == 0


async def test_a_gap_that_grew_is_fetched_in_its_new_bounds(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log) as repairer:
        tell(repairer, first + 10, first + 19)
        await until(lambda: len(log.trades) == 10)
        tell(repairer, first + 10, first + 19)  # the same again is no news
        tell(repairer, first + 10, first + 29)
        await until(lambda: len(log.trades) >= 20)
        tell(repairer, first + 10, first + 24)  # an older state, after a worker came back
        tell(repairer, first + 10, first + 29)
        await until(lambda: len(log.trades) >= 25)
        await asyncio.sleep(0.2)
        assert log.ids == [first + n for n in (*range(10, 30), *range(25, 30))]
        assert repairer.status.requests == 3


async def test_a_gap_that_grows_keeps_its_waits_and_asks_for_the_new_ids_alone():
    log, asked = Log(), []

    async def trades(request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        asked.append((after - limit, after - 1))
        return web.json_response(
            [row(number) for number in range(after - 1, after - 1 - limit, -1) if number > 10]
        )

    async with serving(trades) as url, repairing(url, log) as repairer:
        tell(repairer, 8, 12)
        await until(lambda: repairer.status.unavailable)  # 8 to 10 have to wait for long now
        tell(repairer, 8, 15)
        await until(lambda: len(log.trades) == 5)
        tell(repairer, 8, 16)
        await until(lambda: len(log.trades) == 6)
        await asyncio.sleep(0.2)
        assert log.ids == list(range(11, 17))
        assert asked == [(8, 12), (8, 10), (13, 15), (16, 16)]
        [hole] = repairer._holes.values()
        assert (hole.passes, hole.wanted) == (1, ((8, 10),))


async def test_a_gap_that_grows_in_the_midst_of_a_pass_does_not_begin_anew(exchange):
    log, first = Log(), exchange.first
    async with repairing(exchange.rest_url, log, Small) as repairer:
        tell(repairer, first, first + 2999)
        await until(lambda: len(log.trades) > 1000)
        tell(repairer, first, first + 3004)
        await until(lambda: len(log.trades) >= 3005)
        await asyncio.sleep(0.2)
        assert sorted(log.ids) == list(range(first, first + 3005))
        assert repairer.status.requests <= 302


async def test_a_gap_that_is_too_large_is_told_once_and_never_fetched():
    log, asked = Log(), []

    async def trades(request):
        asked.append(request.query["after"])
        return web.json_response([row(5)])

    settings = RepairSettings(young_s=0, requests_per_s=500, tick_s=0.01, most_trades=1000)
    with capture_logs() as lines:
        async with serving(trades) as url, repairing(url, log, settings=settings) as repairer:
            tell(repairer, 10, 1010)
            tell(repairer, 10, 2**60)
            tell(repairer, 5, 5)
            await until(lambda: log.trades)
            await asyncio.sleep(0.2)
            assert asked == ["6"]
            assert (repairer.status.open, repairer.status.unavailable) == (2, 1)
            tell(repairer, 10, 1009)
            await until(lambda: "1010" in asked)
    [told] = [line for line in lines if "too large" in line["event"]]
    assert (told["trades"], told["missing"], told["most"]) == ("10..1010", 1001, 1000)


async def test_nothing_is_asked_for_while_there_is_no_room(exchange):
    log, first, room = Log(), exchange.first, []
    async with repairing(exchange.rest_url, log, may_fetch=lambda: bool(room)) as repairer:
        tell(repairer, first, first + 4)
        await asyncio.sleep(0.3)
        assert repairer.status.requests == 0
        room.append(True)
        await until(lambda: len(log.trades) == 5)


async def test_a_gap_that_stays_open_is_fetched_again_more_and_more_rarely():
    log, asked = Log(), []

    async def trades(request):
        asked.append(time.monotonic())
        return web.json_response([row(5), row(4), row(3)])

    settings = RepairSettings(
        young_s=0, again_first_s=0.2, lacking_most_s=0.8, tick_s=0.01, requests_per_s=500
    )
    async with serving(trades) as url, repairing(url, log, settings=settings) as repairer:
        tell(repairer, 3, 5)
        await until(lambda: len(log.trades) == 15)
        assert log.ids == [3, 4, 5] * 5
        for (before, after), least in zip(itertools.pairwise(asked), (0.2, 0.4, 0.8, 0.8), strict=True):
            assert after - before >= least
        assert repairer.status.unavailable == 0


async def test_trades_that_the_exchange_lacks_are_told_once_and_tried_again(exchange):
    log, first = Log(), exchange.first
    settings = RepairSettings(
        young_s=0, lacking_first_s=0.02, lacking_most_s=0.05, tick_s=0.01, requests_per_s=500
    )
    with capture_logs() as lines:
        async with repairing(exchange.rest_url, log, settings=settings) as repairer:
            tell(repairer, first - 40, first + 4)  # the market began with the first
            await until(lambda: repairer.status.requests >= 6)
            assert repairer.status.unavailable == 1
            assert repairer.status.failures == 0
            # What it has was delivered; after that it is asked only for what it did not have.
            assert log.ids == list(range(first, first + 5))
    told = [line for line in lines if line["event"] == "The exchange does not have trades"]
    assert [(line["trades"], line["missing"]) for line in told] == [([f"{first - 40}..{first - 1}"], 40)]


async def test_trades_that_a_page_skips_are_lacking_and_the_rest_is_delivered():
    log = Log()

    async def trades(request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        numbers = [number for number in range(after - 1, 0, -1) if number not in (15, 31, 32, 33)][:limit]
        return web.json_response([row(number) for number in numbers])

    with capture_logs() as lines:
        async with serving(trades) as url, repairing(url, log, Small) as repairer:
            tell(repairer, 5, 40)
            await until(lambda: repairer.status.unavailable)
            assert sorted(log.ids) == [n for n in range(5, 41) if n not in (15, 31, 32, 33)]
    [told] = [line for line in lines if line["event"] == "The exchange does not have trades"]
    assert (told["trades"], told["missing"]) == (["15..15", "31..33"], 4)


async def test_only_what_is_lacking_is_walked_and_delivered_again():
    log, asked, known = Log(), [], set(range(1, 200)) - {5, 150}

    async def trades(request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        asked.append((after, limit))
        numbers = [number for number in range(after - 1, 0, -1) if number in known][:limit]
        return web.json_response([row(number) for number in numbers])

    settings = RepairSettings(young_s=0, lacking_first_s=0.3, requests_per_s=500, tick_s=0.01)
    async with serving(trades) as url, repairing(url, log, Small, settings) as repairer:
        tell(repairer, 1, 199)
        await until(lambda: repairer.status.unavailable)
        del asked[:]
        known.add(5)
        await until(lambda: 5 in log.ids)
        assert asked == [(151, 1), (6, 1)]
        known.add(150)
        await until(lambda: 150 in log.ids)
        assert Counter(log.ids) == Counter(range(1, 200))


async def test_a_trade_that_is_refused_is_lacking_and_the_rest_of_its_page_is_delivered():
    log = Log()

    async def trades(request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        rows = [row(n, **({"price": "NaN"} if n in (31, 32) else {})) for n in range(after - limit, after)]
        return web.json_response(rows[::-1])

    settings = RepairSettings(young_s=0, lacking_first_s=0.02, requests_per_s=500, tick_s=0.01)
    async with serving(trades) as url, repairing(url, log, Small, settings) as repairer:
        tell(repairer, 12, 41)
        tell(repairer, 70, 70)
        await until(lambda: repairer.status.requests > 8)
        assert sorted(log.ids) == [n for n in (*range(12, 42), 70) if n not in (31, 32)]
        assert (repairer.status.failures, repairer.status.unavailable) == (0, 1)
        [(body, source, reason)] = log.dead  # one letter, however often it is seen
        assert json.loads(body)["trade_id"] == 32
        assert source == f"coinbase {url}"
        assert "price" in reason


async def test_a_page_of_refused_trades_alone_is_walked_like_any_other():
    log = Log()

    async def trades(request):
        return web.json_response([row(32, price="NaN"), row(31, price="NaN")])

    async with serving(trades) as url, repairing(url, log) as repairer:
        tell(repairer, 31, 32)
        await until(lambda: repairer.status.unavailable)
        await asyncio.sleep(0.2)
        assert (repairer.status.requests, log.trades, len(log.dead)) == (1, [], 1)


async def test_a_page_that_cannot_be_used_delays_no_other_gap():
    log, bad = Log(), []

    async def trades(request):
        if request.query["after"] == "6":
            bad.append(request)
            return web.Response(body=b"<html>")
        return web.json_response([row(int(request.query["after"]) - 1)])

    class Highest(random.Random):
        def uniform(self, a, b):
            return b

    settings = RepairSettings(
        young_s=0, backoff_first_s=600, backoff_most_s=600, tick_s=0.005, requests_per_s=1000
    )
    async with serving(trades) as url, repairing(url, log, settings=settings, rng=Highest()) as repairer:
        tell(repairer, 5, 5)
        await until(lambda: repairer.status.failures)
        for number in range(5000, 60_000, 5000):
            tell(repairer, number, number)
        await until(lambda: len(log.trades) == 11)
        assert (len(bad), len(log.dead)) == (1, 1)


async def test_a_gap_whose_answers_never_come_goes_behind_the_others():
    log = Log()

    async def trades(request):
        if request.query["after"] == "6":
            raise web.HTTPInternalServerError
        return web.json_response([row(int(request.query["after"]) - 1)])

    async with serving(trades) as url, repairing(url, log) as repairer:
        tell(repairer, 5, 5)
        await until(lambda: repairer.status.failures >= 2)
        for number in (5000, 10_000):
            tell(repairer, number, number)
        await until(lambda: len(log.trades) == 2)


async def test_user_and_password_are_used_and_never_shown():
    log, asked = Log(), []

    async def trades(request):
        asked.append((request.headers.get("Authorization"), request.headers["Accept-Encoding"]))
        return web.Response(status=403, body=b"no")

    with capture_logs() as lines:
        async with serving(trades) as url:
            address = url.replace("//", "//user:secret@")
            async with repairing(address, log) as repairer:
                tell(repairer, 5, 5)
                await until(lambda: log.dead)
        async with repairing(address, log) as repairer:  # and nobody is there now
            tell(repairer, 5, 5)
            await until(lambda: repairer.status.failures)
    assert asked[0] == ("Basic " + base64.b64encode(b"user:secret").decode(), "identity")
    assert log.dead[0] == (b"no", f"coinbase {url}", "status 403")
    assert "secret" not in str(lines) + str(log.dead)
    with pytest.raises(ConfigError) as caught:
        Repairer("", Codec(), "ws://user:secret@host", [SYMBOL], None, None)
    assert "secret" not in str(caught.value)


async def test_a_product_that_rest_does_not_know_is_tried_slowly(exchange):
    log = Log()
    async with repairing(exchange.rest_url, log, symbols=("NO-SUCH",)) as repairer:
        tell(repairer, 1, 10**6, symbol="NO-SUCH")
        await until(lambda: repairer.status.unavailable)
        await asyncio.sleep(0.2)
        assert (repairer.status.requests, repairer.status.failures) == (1, 0)


async def test_errors_limits_and_late_answers_only_delay_a_repair(exchange):
    class Pages(Codec):
        page_trades = 200

    log, first = Log(), exchange.first
    settings = RepairSettings(
        young_s=0, requests_per_s=500, timeout_s=0.3, backoff_first_s=0.01, backoff_most_s=0.05, tick_s=0.01,
    )  # fmt: skip
    wrong = {"rest_error": 0.2, "rest_limit": 0.1, "rest_stall": 0.1}
    with faults(exchange, stall_s=3, **wrong) as plan:
        async with repairing(exchange.rest_url, log, Pages, settings) as repairer:
            tell(repairer, first + 100, first + 5099)
            await until(lambda: len(log.trades) == 5000)
            assert sorted(log.ids) == list(range(first + 100, first + 5100))
            assert plan.counts.keys() == wrong.keys()
            assert repairer.status.failures == plan.counts.total()
            assert repairer.status.requests == repairer.status.failures + 25
            assert not log.dead  # an exchange in trouble sends nothing worth keeping


@contextlib.asynccontextmanager
async def serving(handler):
    """A REST server of our own, for answers that no exchange gives."""
    app = web.Application()
    app.add_routes([web.get("/products/{symbol}/trades", handler)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def row(trade_id, **changes):
    return {
        "trade_id": trade_id, "side": "buy", "size": "1", "price": "2", "time": "2026-05-01T00:00:00.5Z",
    } | changes  # fmt: skip


BAD = {
    "no JSON": web.Response(body=b"<html>"),
    "a page beside the one that was asked for": web.json_response([row(99)]),
    "a refusal": web.json_response({"message": "Forbidden"}, status=403),
    "a redirect": web.HTTPFound("http://127.0.0.1:1/"),
}


@pytest.mark.parametrize("name", BAD)
async def test_an_answer_that_cannot_be_used_is_kept_and_asked_for_again(name):
    log, answers = Log(), iter([BAD[name]] * 2)

    async def trades(request):
        answer = next(answers, None)
        if answer is None:
            return web.json_response([row(5)])
        return web.Response(
            body=getattr(answer, "body", None) or b"-",
            status=answer.status,
            headers={"Location": "/elsewhere"},
        )

    async with serving(trades) as url, repairing(url, log) as repairer:
        tell(repairer, 5, 5)
        await until(lambda: log.trades)
        assert (repairer.status.requests, repairer.status.failures) == (3, 2)
        [(body, source, reason)] = log.dead  # the second says nothing new
        assert body == (getattr(BAD[name], "body", None) or b"-")
        assert source == f"coinbase {url}"
        assert reason


async def test_an_answer_without_end_is_given_up():
    log = Log()

    async def trades(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b" " * 10_000)
        return answer

    settings = RepairSettings(young_s=0, max_body_bytes=100_000, timeout_s=3600, tick_s=0.01)
    async with serving(trades) as url, repairing(url, log, settings=settings) as repairer:
        tell(repairer, 5, 5)
        await until(lambda: repairer.status.failures)


async def test_an_exchange_that_is_away_is_asked_with_back_off():
    log = Log()

    async def trades(request):
        return web.json_response([])

    async with serving(trades) as url:
        pass

    class Highest(random.Random):
        def uniform(self, a, b):
            return b

    settings = RepairSettings(
        young_s=0, backoff_first_s=0.1, backoff_most_s=0.3, tick_s=0.001, requests_per_s=1000
    )
    async with repairing(url, log, settings=settings, rng=Highest()) as repairer:
        began = time.monotonic()
        tell(repairer, 5, 5)
        await until(lambda: repairer.status.failures == 5)
        assert time.monotonic() - began >= 0.1 + 0.2 + 0.3 + 0.3


@pytest.mark.parametrize("status", [429, 503])
async def test_a_limit_holds_for_all_symbols_for_as_long_as_the_exchange_says(status):
    log, asked = Log(), []

    async def trades(request):
        asked.append((request.match_info["symbol"], time.monotonic()))
        if len(asked) == 1:
            return web.Response(status=status, headers={"Retry-After": "1"})
        return web.json_response([row(5)])

    settings = RepairSettings(
        young_s=0, concurrency=1, backoff_first_s=0.001, tick_s=0.001, requests_per_s=1000
    )
    async with serving(trades) as url, repairing(url, log, settings=settings) as repairer:
        tell(repairer, 5, 5)
        tell(repairer, 5, 5, symbol="ETH-USD")
        await until(lambda: len(log.trades) == 2)
        assert asked[1][1] - asked[0][1] >= 1
        assert repairer.status.requests == 3


@pytest.mark.parametrize("said", ["", "soon", "-1", "1e9", "nan", "٣", "99999999999999"])
async def test_a_retry_after_that_means_nothing_is_passed_over(said):
    log, asked = Log(), []

    async def trades(request):
        asked.append(time.monotonic())
        if len(asked) == 1:
            return web.Response(status=429, headers={"Retry-After": said})
        return web.json_response([row(5)])

    async with serving(trades) as url, repairing(url, log) as repairer:
        tell(repairer, 5, 5)
        await until(lambda: log.trades)


async def test_requests_keep_their_rate(exchange):
    log, first = Log(), exchange.first
    settings = RepairSettings(young_s=0, requests_per_s=20, concurrency=2, tick_s=0.001)
    started = time.monotonic()
    async with repairing(exchange.rest_url, log, Small, settings) as repairer:
        started = time.monotonic()
        tell(repairer, first, first + 99)
        await until(lambda: len(log.trades) == 100)
        assert time.monotonic() - started >= 9 / 20


async def test_an_error_of_the_sink_ends_the_repairs(exchange):
    log, first = Log(), exchange.first

    async def fail(trade):
        raise RuntimeError("the sink is closed")

    log.deliver = fail
    async with repairing(exchange.rest_url, log) as repairer:
        tell(repairer, first, first)
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(repairer.task, PATIENCE_S)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "http://", "nonsense", "http://[::1", ""])
async def test_an_address_that_is_no_rest_server_is_told_at_once(url):
    with pytest.raises(ConfigError, match="REST address"):
        Repairer("", Codec(), url, [SYMBOL], None, None)
