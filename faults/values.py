"""Values in valid frames that cannot be, or barely can: numbers, and times."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from faults.exchange import Bend, Frame
from faults.flow import GRACE_S, Flow
from faults.ledger import PRODUCTS, now_us, parse_time, time_text
from faults.scenario import Outcome, Plan, scenario
from faults.truth import Fill, Fills

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
LARGEST = "4611686018427387903"
COUNTS = {"-0", "0", "1", LARGEST}
"""Those that are a trade's id: whole numbers below 2**62."""

EXTREME, NUMBERED = "EXTREME-USD", "NUMBERED-USD"
"""Products that the exchange does not have, so that nothing else is told of them."""


def match(product: str, **tokens: str) -> str:
    """Return a valid trade, save for the fields that are given as JSON."""
    fields = {
        "trade_id": "1", "sequence": LARGEST, "side": '"sell"', "price": '"1.5"', "size": '"2"',
        "time": f'"{time_text(now_us())}"', "product_id": f'"{product}"',
    }  # fmt: skip
    return '{"type":"match",' + ",".join(f'"{k}":{v}' for k, v in (fields | tokens).items()) + "}"


def _among_trades(frames: Iterator[str]) -> Bend:
    """Put one of the frames before each trade of the exchange, while there are any."""

    def bend(frame: str) -> Iterator[Frame]:
        if '"match"' in frame and (more := next(frames, None)):
            yield more
        yield frame

    return bend


async def _unlike(flow: Flow, refused: list[bytes]) -> Counter[bytes]:
    """Return what has no dead letter of its own, and the dead letters that should not be."""
    await flow.until(lambda: len(flow.ledger.letters) >= len(refused), 10)
    must, found = Counter(refused), flow.ledger.letters_held()
    return (must - found) + (found - must)


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
                if name == "sequence":
                    valid = literal in COUNTS and int(literal) >= trade_id
                else:
                    valid = name in ("price", "size") and literal in POSITIVE
                if valid:
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
        beat = f'{{"type":"heartbeat","sequence":{LARGEST},"product_id":"{NUMBERED}",{at}'
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

    async with Flow(plan, lasts_s=plan.trades / 1_000, bend=_among_trades(frames)) as flow:
        verdict = await flow.verdict()
        done = next(frames, None) is None
        wrong = await _unlike(flow, attack.refused)
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

    async with Flow(plan, lasts_s=plan.trades / 1_000, bend=_among_trades(frames)) as flow:
        verdict = await flow.verdict()
        done = next(frames, None) is None
        wrong = await _unlike(flow, attack.refused)
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
