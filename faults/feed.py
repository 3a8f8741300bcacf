"""Failures between the exchange and the producer: what the wire and a bad exchange can do to a feed."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from itertools import pairwise
from math import inf
from typing import Any

from candlewick.mock import Faults
from faults.exchange import Frame, Raw, bomb, fragments, honest, text_frame
from faults.flow import (
    GRACE_S,
    PRODUCTS,
    Fill,
    Fills,
    Flow,
    bytes_of,
    metered,
    now_us,
    parse_time,
    time_text,
)
from faults.scenario import Outcome, Plan, scenario

LIVE_S = 5.0
"""From the feed's return until trades are in Kafka again."""
NOTICED_S = 30.0
LARGE_MIB = 192
"""A frame of 64 MiB is legal, and held as bytes, text and message while it is read."""


@scenario(
    "F1", "the feed is cut by RST, again and again", "live <= 5 s after each cut; Z after repair", quick=True
)
async def cut(plan: Plan) -> Outcome:
    """Cut the exchange's connection at random moments."""
    cuts = 5 if plan.quick else 100
    chance = plan.rng("F1")
    async with Flow(plan, lasts_s=cuts * 3.0) as flow:
        away = []
        for number in range(cuts):
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            plan.say(f"cut {number + 1} of {cuts}")
            since_us = now_us()
            flow.wire.cut()
            away.append(await flow.heard(since_us))
        verdict = await flow.verdict()
    slow = sum(seconds > LIVE_S for seconds in away)
    return Outcome(
        not slow and verdict.zero,
        f"{cuts} cuts: live again after {max(away):.1f} s at most, {slow} over {LIVE_S:.0f} s; {verdict}",
    )


@scenario("F7b", "20 % of the trades change places on the socket", "Z")
async def reorder(plan: Plan) -> Outcome:
    """Let trades of a product overtake one another."""
    return await _exact(plan, Faults(reorder=0.2, seed=plan.seed), "reorder")


@scenario("F8b", "30 % of the frames come twice", "Z")
async def duplicate(plan: Plan) -> Outcome:
    """Send frames twice."""
    return await _exact(plan, Faults(duplicate=0.3, seed=plan.seed), "duplicate")


async def _exact(plan: Plan, faults: Faults, name: str) -> Outcome:
    async with Flow(plan, lasts_s=plan.trades / 1_500, faults=faults) as flow:
        verdict = await flow.verdict()
        done = flow.faults_done(name)
    return Outcome(verdict.zero and done > 0, f"{done:,} times; {verdict}")


@scenario(
    "F2a",
    "the connection is half open: no byte and no FIN any more",
    "noticed <= 30 s; Z after repair",
)
async def half_open(plan: Plan) -> Outcome:
    """Let the wire swallow everything that the present connection carries."""

    async def stall(flow: Flow) -> None:
        flow.wire.stall()

    async def heal(flow: Flow) -> None:
        flow.wire.resume()

    return await _silence(plan, stall, heal)


@scenario("F2b", "the exchange answers pings, and sends nothing", "noticed <= 30 s; Z after repair")
async def mute(plan: Plan) -> Outcome:
    """Let the exchange fall silent on every connection that it has."""

    async def stall(flow: Flow) -> None:
        await flow.set_faults(stall=1.0, stall_s=120.0)
        await asyncio.sleep(1.0)
        await flow.set_faults(stall=0.0)

    async def heal(flow: Flow) -> None:
        pass

    return await _silence(plan, stall, heal)


async def _silence(
    plan: Plan, stall: Callable[[Flow], Awaitable[None]], heal: Callable[[Flow], Awaitable[None]]
) -> Outcome:
    times = 1 if plan.quick else 5
    chance = plan.rng("F2")
    async with Flow(plan, lasts_s=30.0 * times) as flow:
        noticed, away = [], []
        for number in range(times):
            await asyncio.sleep(chance.uniform(1.0, 4.0))
            plan.say(f"silence {number + 1} of {times}")
            accepted, since_us = flow.wire.accepted, now_us()
            await stall(flow)
            seconds = await flow.until(flow.wire.accepts(accepted))
            noticed.append(inf if seconds is None else (now_us() - since_us) / 1e6)
            await flow.heard(now_us())
            away.append((now_us() - since_us) / 1e6)
            await heal(flow)
        verdict = await flow.verdict()
    return Outcome(
        max(noticed) <= NOTICED_S and verdict.zero,
        f"{times} silences: noticed after {max(noticed):.1f} s at most, live after {max(away):.1f} s; "
        f"{verdict}",
    )


# F4: what no exchange may send.

FUZZ = 10_000
FUZZ_QUICK = 500
_TYPES = ("match", "last_match", "heartbeat", "snapshot", "l2update", "subscriptions", "error")
_WRONG: tuple[object, ...] = (None, True, [], {}, "", "x", -1, 1.5, "NaN", "-1", [[]], {"a": 1})


def spoil(frame: str, chance: random.Random) -> bytes:
    """Return a frame that is not what the protocol says, made from one that is."""
    while True:
        spoiled = chance.choice((_cut_off, _noise, _without_a_field, _wrong_value, _no_object, _not_utf8))(
            frame, chance
        )
        if spoiled and spoiled != frame.encode():
            return spoiled


def _cut_off(frame: str, chance: random.Random) -> bytes:
    return frame[: chance.randrange(1, len(frame))].encode()


def _noise(frame: str, chance: random.Random) -> bytes:
    return b"\x00" + chance.randbytes(chance.randrange(1, 200))


def _without_a_field(frame: str, chance: random.Random) -> bytes:
    message = json.loads(frame)
    needed = [name for name in message if name in _NEEDED.get(message["type"], ())]
    if not needed:
        return b""
    del message[chance.choice(needed)]
    return json.dumps(message).encode()


def _wrong_value(frame: str, chance: random.Random) -> bytes:
    message = json.loads(frame)
    needed = [name for name in message if name in _NEEDED.get(message["type"], ())]
    if not needed:
        return b""
    name = chance.choice(needed)
    # An empty list of changes changes nothing, and is one all the same.
    message[name] = chance.choice([value for value in _WRONG if not (name == "changes" and value == [])])
    return json.dumps(message).encode()


def _no_object(frame: str, chance: random.Random) -> bytes:
    return chance.choice((b"[]", b"null", b"0", b'"match"', b"{}", b"[" + frame.encode() + b"]", b""))


def _not_utf8(frame: str, chance: random.Random) -> bytes:
    at = chance.randrange(1, len(frame))
    return frame[:at].encode() + b"\xff\xfe" + frame[at:].encode()


_NEEDED = {
    "match": ("product_id", "trade_id", "sequence", "side", "price", "size", "time"),
    "l2update": ("product_id", "changes", "time"),
    "heartbeat": ("product_id", "last_trade_id", "sequence", "time"),
}
"""Fields that the protocol promises. Source: the exchange's documentation, Channels."""


@scenario(
    "F4",
    "malformed frames among the valid ones",
    "0 crashes; Z; a dead letter for each, byte by byte",
)
async def malformed(plan: Plan) -> Outcome:
    """Put spoiled frames between the exchange's own."""
    total = FUZZ_QUICK if plan.quick else FUZZ
    chance = plan.rng("F4")
    sent: list[bytes] = []
    share = min(1.0, total * 1.5 / plan.trades)

    def bend(frame: str) -> Iterator[Frame]:
        if len(sent) < total and chance.random() < share and '"subscriptions"' not in frame:
            spoiled = spoil(frame, chance)
            sent.append(spoiled)
            yield spoiled
        yield frame

    async with Flow(plan, lasts_s=plan.trades / 1_000, bend=bend) as flow:
        verdict = await flow.verdict()
        await flow.until(lambda: len(flow.ledger.letters) >= len(sent), 10)
        letters = letters_of(flow)
        connections = flow.wire.accepted
    missing, strange = Counter(sent) - letters, letters - Counter(sent)
    odd = next(iter(missing or strange), None)
    return Outcome(
        verdict.zero and len(sent) == total and not missing and not strange and connections == 1,
        f"{len(sent):,} frames injected, {letters.total():,} dead letters, {missing.total()} without, "
        f"{strange.total()} of valid frames, {connections} connection; {verdict}"
        + (f"; such as {odd[:100]!r}" if odd is not None else ""),
    )


# F5: frames that are too large, or too many.


@scenario(
    "F5",
    "an oversized frame, a compression bomb, a million fragments",
    f"RSS peak <= +{LARGE_MIB} MiB; live <= 5 s; Z after repair",
)
async def oversized(plan: Plan) -> Outcome:
    """Send what is legal on the wire, and too much."""
    waiting: list[Raw] = []

    def bend(frame: str) -> Iterator[Frame]:
        if waiting and '"match"' in frame:
            yield waiting.pop()
        yield frame

    padded = b'{"type":"heartbeat",' + b" " * 999_000 + b'"x":1}'
    attacks = {
        "oversized": Raw(text_frame((64 << 20) + 1) + b" " * ((64 << 20) + 1)),
        "bomb": Raw(bomb(bytes(100 << 20))),
        "fragments": Raw(fragments(padded)),
    }
    told, met = [], True
    async with Flow(plan, lasts_s=40.0, bend=bend, deflate=True) as flow:
        for name, attack in attacks.items():
            await asyncio.sleep(2.0)
            plan.say(name)
            connections = flow.wire.accepted
            async with metered(flow.producer) as meter:
                waiting.append(attack)
                began_us = now_us()
                await flow.until(lambda: not waiting)
                await flow.until(flow.wire.accepts(connections))
                await flow.heard(now_us())
                seconds = (now_us() - began_us) / 1e6
                await asyncio.sleep(1.0)
            reconnects = flow.wire.accepted - connections
            met &= meter.growth <= LARGE_MIB and seconds <= LIVE_S and reconnects == 1
            told.append(
                f"{name} +{meter.growth:.0f} MiB, {reconnects} reconnects, "
                f"live {seconds:.1f} s after it began"
            )
        verdict = await flow.verdict()
    return Outcome(met and verdict.zero, f"{'; '.join(told)}; {verdict}")


# F6: values that cannot be, and values that barely can.

DEEP = 10_000
NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "1e400", "1e5", "-1", "-0", "0", "0.0", "1", "1.5", "01", "+1", ".5"),
    *("0x10", "1_000", "4611686018427387903", "4611686018427387904", "1" * 40),
)
OTHERS = (
    *("true", "false", "null", "[]", "{}", "[1]", '{"a":1}', "[" * DEEP + "]" * DEEP),
    '{"a":' * DEEP + "1" + "}" * DEEP,
)
TEXTS = (
    *("NaN", "sNaN", "Infinity", "-Infinity", "1e400", "1E5", "-1", "-0", "0", "0.0", "+1", " 1", "1 ", ""),
    *(".", ".5", "1.", "1_000", "1,000", "\u0661", "\uff11", "1\\u0000", "1" * 40, "1" * 29),
    *("0." + "0" * 27 + "1", "1e-5", "01", "0.10", "9" * 28, "0." + "0" * 26 + "1"),
    *("1" * 14 + "." + "2" * 14, "1." + "0" * 27),
)
LITERALS = (*NUMBERS, *OTHERS, *(f'"{text}"' for text in TEXTS))
"""As they stand in the JSON of a frame."""
POSITIVE = {f'"{text}"' for text in TEXTS[-6:]}
"""Those that are a price: plain digits as text, at most 28, above zero."""
ZERO = {'"0"', '"0.0"'}
COUNTS = {"-0", "0", "1", "4611686018427387903"}
"""Those that are a trade's id: whole numbers below 2**62."""

EXTREME, NUMBERED = "EXTREME-USD", "NUMBERED-USD"
"""Products that the exchange does not have, so that nothing else is told of them."""


def match(product: str, **tokens: str) -> str:
    """Return a valid trade, save for the fields that are given as JSON."""
    fields = {
        "trade_id": "1", "sequence": "1", "side": '"sell"', "price": '"1.5"', "size": '"2"',
        "time": f'"{time_text(now_us())}"', "product_id": f'"{product}"',
    }  # fmt: skip
    return '{"type":"match",' + ",".join(f'"{k}":{v}' for k, v in (fields | tokens).items()) + "}"


class Literals:
    """Every literal in every field, one frame after the other; and what must become of each."""

    def __init__(self, chance: random.Random) -> None:
        self.refused: list[bytes] = []
        self.accepted: Fills = {EXTREME: {}}
        self._order = list(LITERALS)
        chance.shuffle(self._order)

    def frames(self) -> Iterator[str]:
        """Yield the frames."""
        for literal in self._order:
            for name in ("price", "size", "sequence", "side", "time", "product_id"):
                fills = self.accepted[EXTREME]
                trade_id = len(fills) + 1
                frame = match(EXTREME, **{"trade_id": str(trade_id), name: literal})
                if literal in (
                    POSITIVE if name in ("price", "size") else COUNTS if name == "sequence" else ()
                ):
                    told = json.loads(frame)
                    fills[trade_id] = Fill(told["price"], told["size"], "buy", parse_time(told["time"]))
                else:
                    self.refused.append(frame.encode())
                yield frame
            for frame, valid in self._others(literal):
                if not valid:
                    self.refused.append(frame.encode())
                yield frame

    def _others(self, literal: str) -> Iterator[tuple[str, bool]]:
        yield match(NUMBERED, trade_id=literal), literal in COUNTS
        at = f'"time":"{time_text(now_us())}"'
        beat = f'{{"type":"heartbeat","sequence":1,"product_id":"{NUMBERED}",{at}'
        yield f'{beat},"last_trade_id":{literal}}}', literal in COUNTS
        for price, size in ((literal, '"1"'), ('"1"', literal)):
            valid = literal in POSITIVE or (size == literal and literal in ZERO)
            book = f'"product_id":"{EXTREME}",{at}'
            yield f'{{"type":"l2update",{book},"changes":[["buy",{price},{size}]]}}', valid
            if not valid:  # a book of its own would be asked for again, and the exchange has none
                yield f'{{"type":"snapshot",{book},"bids":[[{price},{size}]],"asks":[]}}', False


@scenario(
    "F6",
    f"{len(LITERALS)} literals, from NaN to JSON {DEEP:,} deep, in each field",
    "in no candle or view; a dead letter for each; what is valid is exact; Z",
)
async def literals(plan: Plan) -> Outcome:
    """Put every literal into every field that carries a value."""
    attack = Literals(plan.rng("F6"))
    frames = attack.frames()

    def bend(frame: str) -> Iterator[Frame]:
        if '"match"' in frame and (more := next(frames, None)):
            yield more
        yield frame

    async with Flow(plan, lasts_s=plan.trades / 1_000, bend=bend) as flow:
        verdict = await flow.verdict()
        done = next(frames, None) is None
        await flow.until(lambda: len(flow.ledger.letters) >= len(attack.refused), 10)
        wrong = Counter(attack.refused) - letters_of(flow)
        wrong += letters_of(flow) - Counter(attack.refused)
        extreme = await flow.compare(attack.accepted)
        numbered = set(flow.ledger.fills[NUMBERED])
        exact = all(
            _exactly(flow.ledger.fills[EXTREME].get(trade_id), fill)
            for trade_id, fill in attack.accepted[EXTREME].items()
        )
        shown = await _shown(flow)
    never = [text for text in shown if _NEVER(text)]
    return Outcome(
        done and verdict.zero and extreme.zero and exact and not wrong and not never
        and numbered == {int(token) for token in COUNTS},
        f"{len(attack.refused)} refused, {wrong.total()} without a letter of its own; {len(never)} such "
        f"values among {len(shown)} shown; {len(attack.accepted[EXTREME])} extremes exact: {exact}, "
        f"their candles: {extreme}; the market: {verdict}",
    )  # fmt: skip


_NEVER = re.compile(r"(?i)nan|inf|e[+-]?\d|^-").search


def _exactly(found: Fill | None, sent: Fill) -> bool:
    """Say whether price and size came through with every digit, trailing zeros included."""
    return found is not None and all(
        Decimal(getattr(found, name)).as_tuple() == Decimal(getattr(sent, name)).as_tuple()
        for name in ("price", "size")
    )


async def _shown(flow: Flow) -> list[str]:
    """Return every number that the worker's candles show, as text."""
    texts: list[str] = []
    for product in (*PRODUCTS, EXTREME, NUMBERED):
        for window in ("1m", "1h", "1d"):
            candle = ((await flow.get(f"/stats/{window}/{product}")) or {}).get("candle") or {}
            texts += [str(value) for name, value in candle.items() if name != "state"]
    for product in (await flow.get("/v1/status") or {"products": []})["products"]:
        texts += [str(product["price"]), str(product["last_trade_id"])]
    return texts


def letters_of(flow: Flow) -> Counter[bytes]:
    """Count the dead letters by what they hold."""
    return Counter(map(bytes_of, flow.ledger.letters))


# F9: books.


@scenario(
    "F9",
    "level changes are lost, or change places",
    "never in step and crossed; <= 1 resubscribe in 5 s and symbol; in step <= 5 s after",
)
async def books(plan: Plan) -> Outcome:
    """Drop and swap deltas, which nothing in the exchange's protocol shows, and watch the books."""
    lasts_s = 15.0 if plan.quick else 120.0
    answers = crossed = 0
    async with Flow(plan, lasts_s=lasts_s + 40.0, bend=honest) as flow:
        await flow.until(lambda: _in_step(flow))
        assert flow.evil
        asked = len(flow.evil.requests)
        await flow.set_faults(drop_updates=0.05, reorder_updates=0.2)
        end = time.monotonic() + lasts_s
        while time.monotonic() < end:
            for product in PRODUCTS:
                book = ((await flow.get(f"/stats/1m/{product}")) or {}).get("book")
                answers += 1
                crossed += bool(
                    book and book["in_step"]
                    and Decimal(book["highest_bid"]) >= Decimal(book["lowest_ask"])
                )  # fmt: skip
            await asyncio.sleep(0.05)
        done = {name: flow.faults_done(name) for name in ("drop_updates", "reorder_updates")}
        await flow.set_faults(drop_updates=0.0, reorder_updates=0.0)
        back_s = await flow.until(lambda: _in_step(flow), 60)
        resubscribes = _resubscribes(flow.evil.requests[asked:])
        verdict = await flow.verdict()
        silent = await _differing_books(flow)
    apart = [b - a for times in resubscribes.values() for a, b in pairwise(times)]
    closest = min(apart, default=inf)
    return Outcome(
        not crossed and closest >= 4.9 and back_s is not None and back_s <= 5.0 and verdict.zero,
        f"{done}: {crossed} of {answers:,} answers crossed and in step; "
        f"{sum(map(len, resubscribes.values()))} resubscribes, {closest:.1f} s apart at least; all in step "
        f"{_seconds(back_s)} after the end; {silent} of {len(PRODUCTS)} books then differ "
        f"from the exchange's, unseen; {verdict}",
    )


async def _in_step(flow: Flow) -> bool:
    return await flow.books_in_step() == len(PRODUCTS)


def _resubscribes(requests: list[tuple[float, dict[str, Any]]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    for at, request in requests:
        if request["type"] == "subscribe" and "level2_batch" in request["channels"]:
            for product in request["product_ids"]:
                times[product].append(at)
    return times


async def _differing_books(flow: Flow) -> int:
    """Count the products whose best prices are not the exchange's, though their book is in step."""
    differing = 0
    told = await flow.get("/v1/status")
    for product in told["products"] if told else []:
        async with flow.http.get(f"{flow.mock.rest_url}/products/{product['product_id']}/book") as answer:
            book = await answer.json()
        best = [Decimal(book["bids"][0][0]), Decimal(book["asks"][0][0])]
        ours = [Decimal(product["book"][name] or 0) for name in ("highest_bid", "lowest_ask")]
        differing += product["book"]["state"] == "in step" and best != ours
    return differing


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


# F10: clocks.

SKEWED = "SKEWED-USD"
_NEVER_TIMES = (
    *("1969-12-31T23:59:59.999999Z", "1970-01-21T17:14:00.000040Z", "0001-01-01T00:00:00Z"),
    *("2500-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "58693-01-01T00:00:00Z"),
    *("2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-01T00:00:00+05:00", "2026-11-01 00:00:00"),
)


class Clocks:
    """Trades of one product whose times are anything from right to absurd."""

    def __init__(self, chance: random.Random, total: int) -> None:
        self.refused: list[bytes] = []
        self.accepted: Fills = {SKEWED: {}}
        self._chance, self._total = chance, total

    def frames(self) -> Iterator[str]:
        """Yield the frames: right and up to 5 minutes behind, in steps back and forth, or impossible."""
        behind_us = 0
        for _ in range(self._total):
            fills, chance = self.accepted[SKEWED], self._chance
            trade_id = len(fills) + 1
            if chance.random() < 0.02:
                behind_us = chance.choice((0, 1_000_000, 60_000_000, 300_000_000))  # the clock steps
            if chance.random() < 0.5:
                at_us = now_us() - behind_us
                fills[trade_id] = Fill("1.5", "2", "buy", at_us)
                yield match(SKEWED, trade_id=str(trade_id), time=f'"{time_text(at_us)}"')
                continue
            when = self._impossible()
            frame = match(SKEWED, trade_id=str(trade_id), time=when)
            self.refused.append(frame.encode())
            yield frame

    def _impossible(self) -> str:
        chance, us = self._chance, now_us()
        ahead = f'"{time_text(us + chance.choice((130, 300, 3_600, 86_400)) * 1_000_000)}"'
        number = str(chance.choice((us, us // 1_000, us // 1_000_000)))
        return chance.choice((ahead, number, f'"{number}"', f'"{chance.choice(_NEVER_TIMES)}"'))


@scenario(
    "F10",
    "exchange times +-5 min, steps back, ms for us, years 1969 and 2500",
    "exact in bounds; a dead letter for each other; no candle closed early",
)
async def clocks(plan: Plan) -> Outcome:
    """Send trades with times that are late, far ahead, or of another unit."""
    attack = Clocks(plan.rng("F10"), 500 if plan.quick else 10_000)
    frames = attack.frames()

    def bend(frame: str) -> Iterator[Frame]:
        if '"match"' in frame and (more := next(frames, None)):
            yield more
        yield frame

    async with Flow(plan, lasts_s=plan.trades / 1_000, bend=bend) as flow:
        verdict = await flow.verdict()
        done = next(frames, None) is None
        await flow.until(lambda: len(flow.ledger.letters) >= len(attack.refused), 10)
        wrong = Counter(attack.refused) - letters_of(flow)
        wrong += letters_of(flow) - Counter(attack.refused)
        plan.say("waiting for a minute to close")
        await flow.until(lambda: any(value["symbol"] in PRODUCTS for _, value in flow.ledger.closes), 90)
        skewed = await flow.compare(attack.accepted)
        closes = flow.ledger.closes
        early = [value for at, value in closes if at < parse_time(value["end"]) / 1e6 + GRACE_S]
    return Outcome(
        done and verdict.zero and skewed.zero and not wrong and bool(closes) and not early,
        f"{len(attack.refused)} times out of bounds, {wrong.total()} without a letter of its own; in bounds: "
        f"{skewed}; {len(early)} of {len(closes)} closes early; the market: {verdict}",
    )
