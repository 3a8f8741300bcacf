"""What Candlewick must reach, beside what was seen. Pure: from what `bench.kept` has read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bench import catchup, latency, memory, pure, recovery, scaling, soak
from bench.figures import Need
from bench.kept import Kept
from bench.peers import race

SOAK_MINUTES = 30
ALL_OF_THEM = 0.9
"""The share of the cores that workers and Kafka use when there is no core left for a second worker."""


SPOKEN = {
    "Kafka Streams": "Kafka Streams, one thread",
    "Bytewax": "Bytewax without recovery",
    "Faust": "Faust as its guide does it",
}
"""What is not all said by a name."""


class Bar(msgspec.Struct, frozen=True):
    """One thing that must be reached."""

    what: str
    need: Need
    unit: str
    only: str
    """The measurement that tells, as `--only` has it."""
    see: Callable[[Kept], float | None]
    """Return the value seen; None where it was not measured."""
    note: Callable[[Kept], str] = lambda _: ""
    """What more is to be said where it is not met, or not measured."""


def _times(name: str) -> Callable[[Kept], float | None]:
    return lambda kept: kept.peers.times(name) if kept.peers else None


def _times_a_core(name: str) -> Callable[[Kept], float | None]:
    return lambda kept: kept.peers.times_a_core(name) if kept.peers else None


def _median(measurement: str, name: str) -> Callable[[Kept], float | None]:
    return lambda kept: kept.median(measurement, name)


def _cost(kept: Kept, log: scaling.Log) -> float | None:
    return kept.median("trade-cost", f"{scaling.name_of(log)}, CPU")


def _dearest(logs: tuple[scaling.Log, ...]) -> Callable[[Kept], float | None]:
    """Return processor time a trade in the dearest of these logs, over that in the cheapest."""

    def see(kept: Kept) -> float | None:
        costs = [cost for log in logs if (cost := _cost(kept, log)) is not None]
        return max(costs) / min(costs) if len(costs) == len(logs) else None

    return see


def _costs(logs: tuple[scaling.Log, ...]) -> Callable[[Kept], str]:
    def note(kept: Kept) -> str:
        told = [
            f"{scaling.name_of(log)}: {'not measured' if cost is None else f'{cost:.3g} CPU s a million'}"
            for log in logs
            for cost in [_cost(kept, log)]
        ]
        return "; ".join(told) if any(_cost(kept, log) for log in logs) else ""

    return note


def _what_ends_first(kept: Kept) -> str:
    """Say whether cores are what two workers lack."""
    used = kept.median("scaling", "2 workers, cores")
    if used is None:
        return ""
    start = kept.start_of("scaling")
    cores = start.machine.get("cores", "") if start else ""
    usable = int(cores.split()[0]) if cores[:1].isdigit() else None
    told = f"the two workers and Kafka use {used:.2f} cores"
    if usable is None:
        return told
    ends = "cores end first" if used >= ALL_OF_THEM * usable else "cores are not what ends first"
    return f"{told} of {usable}: {ends}"


def _slope(process: str) -> Callable[[Kept], float | None]:
    return lambda kept: (
        kept.median("soak", f"soak, {process}, slope") if _soaked(kept) >= SOAK_MINUTES else None
    )


def _soaked(kept: Kept) -> float:
    """Return the minutes of the soak; 0 where they are not told."""
    start = kept.start_of("soak")
    return float(start.options.get("minutes", 0)) if start else 0.0


def _short(kept: Kept) -> str:
    soaked = _soaked(kept)
    return f"the last soak took {soaked:g} minutes" if 0 < soaked < SOAK_MINUTES else ""


BARS = (
    *(
        Bar(f"catch-up, over {SPOKEN.get(name, name)}", Need(">=", limit), "times", "peers", _times(name))
        for name, limit in race.NEEDS.items()
    ),
    *(
        Bar(
            f"catch-up for each CPU core used, over {SPOKEN.get(name, name)}",
            Need(">=", limit), "times", "peers", _times_a_core(name),
        )
        for name, limit in race.NEEDS_A_CORE.items()
    ),
    *(
        Bar(
            f"processor time of a trade, dearest over cheapest: {what}",
            scaling.FLAT, "times", "trade-cost", _dearest(logs), _costs(logs),
        )
        for what, logs in (
            ("logs of 100,000 to 10,000,000 trades", scaling.BY_LENGTH),
            ("logs of 8 to 800 products", scaling.BY_PRODUCTS),
        )
    ),
    Bar(
        "catch-up, two workers over one", scaling.NEED, "times", "scaling",
        _median("scaling", scaling.TWO_OVER_ONE), _what_ends_first,
    ),
    *(
        Bar(
            f"wire to `/stats` at {rate:,} trades/s, {quantile}", need, "ms", "latency",
            _median("latency", f"wire to /stats at {rate:,}/s, {quantile}"),
        )
        for (rate, quantile), need in latency.NEEDS.items()
    ),
    Bar(
        "ready after SIGKILL, RocksDB kept", recovery.NEED_KEPT, "s", "recovery",
        _median("recovery", recovery.KEPT),
    ),
    Bar(
        "ready after SIGKILL, RocksDB lost, reckoned for 1,000,000 rows of the changelog",
        recovery.NEED_MILLION, "s", "recovery", _median("recovery", recovery.MILLION),
    ),
    *(
        Bar(
            f"{process}'s memory over {SOAK_MINUTES} minutes, slope",
            soak.NEED, "MiB/min", "soak", _slope(process), _short,
        )
        for process in ("producer", "worker")
    ),
    *(
        Bar(what, catchup.NEED, "trades/s", only, _median(only, name))
        for what, only, name in (
            ("catch-up, 8 products", "catch-up", "catch-up"),
            ("catch-up, 800 products", "catch-up-800", "catch-up, 800 products"),
            ("catch-up, 8 products, a log of small batches", "catch-up-live-log", "catch-up, live log"),
        )
    ),
    *(
        Bar(name, pure.BOOK_NEED, "level changes/s", "book-fold", _median("book-fold", name))
        for name in (f"book fold, {changes} a frame" for changes in pure.CHANGES)
    ),
    Bar(
        f"memory of a worker with {memory.PRODUCTS} products", memory.NEED, "MiB", "worker-memory",
        _median("worker-memory", f"worker with {memory.PRODUCTS} products"),
    ),
)  # fmt: skip
