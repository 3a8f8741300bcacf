"""Frames that no exchange may send: malformed, too large, too many."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator

from faults.exchange import Frame, Raw, bomb, fragments, text_frame
from faults.flow import Flow
from faults.ledger import now_us
from faults.process import Failed, metered
from faults.scenario import Outcome, Plan, scenario
from faults.wire import LIVE_S

LARGE_MIB = 192
"""A frame of 64 MiB is legal, and held as bytes, text and message while it is read."""


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
        letters = flow.ledger.letters_held()
        connections = flow.connections
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
            connections = flow.connections
            async with metered(flow.producer) as meter:
                waiting.append(attack)
                began_us = now_us()
                await flow.until(lambda: not waiting)
                await flow.connected(connections)
                await flow.heard(now_us())
                seconds = (now_us() - began_us) / 1e6
                await asyncio.sleep(1.0)
            reconnects = flow.connections - connections
            met &= meter.growth <= LARGE_MIB and seconds <= LIVE_S and reconnects == 1
            told.append(
                f"{name} +{meter.growth:.0f} MiB, {reconnects} reconnects, "
                f"live {seconds:.1f} s after it began"
            )
        verdict = await flow.verdict()
        assert flow.evil
        if not flow.evil.deflated:
            raise Failed("no compression was agreed upon, so that the bomb was no valid frame")
    return Outcome(met and verdict.zero, f"{'; '.join(told)}; {verdict}")
