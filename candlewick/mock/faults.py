"""Faults on request: what a bad day on the exchange's side of the wire looks like.

On the socket they meet only ``match`` and ``l2update`` frames, one connection at a time, after the
source: so REST still serves the trades that the socket lost. REST has faults of its own. Every
fault is counted when it happens.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from models.errors import ConfigError

DATA_KINDS = ("match", "l2update")


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong. Probabilities are of one frame, or one request over REST, from 0
    (never) to 1 (always)."""

    drop_trades: float = 0.0
    """A ``match`` is not sent."""
    drop_updates: float = 0.0
    """An ``l2update`` is not sent; nothing in the protocol shows that."""
    duplicate: float = 0.0
    """A frame is sent twice in a row."""
    reorder: float = 0.0
    """A ``match`` changes places with the next one of its product."""
    reorder_updates: float = 0.0
    """The same for an ``l2update``: after that the client's book may be wrong."""
    malformed: float = 0.0
    """A frame that no exchange may send goes before this one."""
    disconnect: float = 0.0
    """The connection ends after this frame, without a closing handshake."""
    disconnect_every: int = 0
    """The same after every so many frames of a connection; 0 is never."""
    stall: float = 0.0
    """Nothing is sent for `stall_s` after this frame, and the connection stays open."""
    stall_every: int = 0
    """The same after every so many frames of a connection; 0 is never."""
    stall_s: float = 10.0
    """Seconds."""
    rest_error: float = 0.0
    """A request over REST is answered with status 500."""
    rest_limit: float = 0.0
    """A request over REST is answered with status 429 and ``Retry-After``."""
    rest_stall: float = 0.0
    """A request over REST is answered after `stall_s` only."""
    seed: int = 1
    """Each connection draws from its own numbers: this seed and its place in the order of arrival."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                raise ConfigError(f"faults.{field.name}", value, "a whole number" if whole else "a number")
            if value < 0 and field.name != "seed":
                raise ConfigError(f"faults.{field.name}", value, "at least 0")
            if not whole and field.name != "stall_s" and value > 1:
                raise ConfigError(f"faults.{field.name}", value, "a probability, 0 to 1")

    @property
    def any(self) -> bool:
        """True when something can go wrong with a frame."""
        return any(getattr(self, name) for name in _FRAME_CAUSES)

    def changed(self, changes: Mapping[str, object]) -> Faults:
        """Return these faults with some settings changed.

        Raises:
            ConfigError: an unknown name, or a value that cannot be.
        """
        for name in changes:
            if name not in _NAMES:
                raise ConfigError("faults", name, "one of " + ", ".join(_NAMES))
        return replace(self, **changes)  # type: ignore[arg-type]  # __post_init__ checks the values

    def as_dict(self) -> dict[str, float]:
        """Return every setting by its name."""
        return asdict(self)


_NAMES = tuple(field.name for field in fields(Faults))
_REST_CAUSES = tuple(name for name in _NAMES if name.startswith("rest_"))
_FRAME_CAUSES = tuple(name for name in _NAMES if name not in ("stall_s", "seed", *_REST_CAUSES))


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Send what is queued, then end the connection without a word."""


Action = str | Stall | Disconnect
"""A text to send, or one of the others to do."""


class FaultPlan:
    """The faults in force, and the count of those that happened."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(f"{faults.seed}/rest")

    def rest_fault(self) -> str | None:
        """Draw what goes wrong with one request over REST: the name of a setting, or None."""
        for name in _REST_CAUSES:
            probability = getattr(self.faults, name)
            if probability > 0 and self._chance.random() < probability:
                self.counts[name] += 1
                return name
        return None


class Injector:
    """Turns each frame of one connection into what is sent instead."""

    def __init__(self, plan: FaultPlan, connection: int) -> None:
        self._plan = plan
        self._chance = random.Random(f"{plan.faults.seed}/{connection}")
        self._held: dict[tuple[str, str], tuple[float, str]] = {}
        self._frames = 0

    def pass_on(self, product: str, kind: str, text: str, now: float) -> list[Action]:
        """Return what to do in place of sending this frame, at a time of any clock in seconds."""
        if kind not in DATA_KINDS:
            return [text]
        faults, counts, happens = self._plan.faults, self._plan.counts, self._happens
        trade = kind == "match"
        self._frames += 1
        actions: list[Action] = []
        if happens(faults.malformed):
            counts["malformed"] += 1
            actions.append(self._garbage(text))
        if happens(faults.drop_trades if trade else faults.drop_updates):
            counts["drop_trades" if trade else "drop_updates"] += 1
        else:
            actions += self._deliver(product, kind, text, now)
        if happens(faults.stall) or _every(faults.stall_every, self._frames):
            counts["stall"] += 1
            actions.append(Stall(faults.stall_s))
        if happens(faults.disconnect) or _every(faults.disconnect_every, self._frames):
            counts["disconnect"] += 1
            actions += self.release(math.inf)
            actions.append(Disconnect())
        return actions

    def release(self, before: float) -> list[Action]:
        """Return the frames held back since before then, whose neighbour did not come."""
        due = [key for key, (since, _) in self._held.items() if since < before]
        return [self._held.pop(key)[1] for key in due]

    def _deliver(self, product: str, kind: str, text: str, now: float) -> list[Action]:
        faults, counts = self._plan.faults, self._plan.counts
        key = product, kind
        held = self._held.pop(key, None)
        reorder = faults.reorder if kind == "match" else faults.reorder_updates
        if held is None and self._happens(reorder):
            self._held[key] = now, text
            return []
        actions: list[Action] = [text]
        if self._happens(faults.duplicate):
            counts["duplicate"] += 1
            actions.append(text)
        if held is not None:
            counts["reorder" if kind == "match" else "reorder_updates"] += 1
            actions.append(held[1])
        return actions

    def _happens(self, probability: float) -> bool:
        # No draw for what cannot happen: so each fault alone is the same with the others off.
        return probability > 0 and self._chance.random() < probability

    def _garbage(self, text: str) -> str:
        """Return a frame that must be refused: cut off, not JSON, not an object, impossible values."""
        garbage = self._chance.choice(
            (
                text[: len(text) // 2],
                "\x00\ufffd not json",
                "[]",
                text.replace('"price":"', '"price":"-').replace('"changes":[[', '"changes":[[1e400,'),
                text.replace('"price":"', '"price":"NaN').replace('"changes":', '"changes":null,"x":'),
            )
        )
        return garbage if garbage != text else text[: len(text) // 2]  # a recording may be spaced otherwise


def _every(interval: int, count: int) -> bool:
    return interval > 0 and count % interval == 0
