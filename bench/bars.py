"""What Candlewick must reach, beside what was seen. Pure: from what `bench.kept` has read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bench import browser, catchup, latency, memory, pure, recovery, scaling, soak, web
from bench.figures import Need
from bench.kept import Kept
from bench.peers import race
from bench.peers.race import Standing

LEAST_RUNS = 3
"""Of a figure: from fewer nothing is judged, the machine is shared."""
LEAST_RATE = 0.98
"""The share of the trades asked for that must have come through while latency was looked at."""
SOAK_MINUTES = 30
ALL_OF_THEM = 0.9
"""The share of the cores that workers and Kafka use when there is no core left for a second worker."""
QUIET = "each of these products has 21 trades a minute: for every 21 a candle closes, is written and is told"
"""Why many quiet products cost more."""

Seen = float | str
"""What was seen; or why it is not said, empty where there is nothing to say it from."""

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
    see: Callable[[Kept], Seen]
    note: Callable[[Kept], str] = lambda _: ""
    """What more is to be said where it is not met."""


def _over(name: str, times: Callable[[Standing, str], float | None]) -> Callable[[Kept], Seen]:
    """Return what compares ours with another, where both have all rounds of the race but one."""

    def see(kept: Kept) -> Seen:
        other = kept.peers.other(name) if kept.peers else None
        if kept.peers is None or other is None:
            return ""
        for entry in (kept.peers.ours, other):
            if len(entry.runs) < max(LEAST_RUNS, kept.peers.rounds - 1):
                return entry.absent or (
                    f"{entry.title} has {len(entry.runs)} right runs in {kept.peers.rounds} rounds"
                )
        return times(kept.peers, name) or ""

    return see


def _median(measurement: str, name: str, least: int = LEAST_RUNS) -> Callable[[Kept], Seen]:
    def see(kept: Kept) -> Seen:
        figure = kept.figure(measurement, name)
        if figure is None:
            return ""
        runs = len(figure.runs)
        return figure.median if runs >= least else f"{runs} of {least} runs that it takes"

    return see


def _costs(logs: tuple[scaling.Log, ...], kept: Kept) -> dict[str, Seen]:
    """Return the processor time of a trade, by the log's name."""
    names = [scaling.name_of(log) for log in logs]
    return {name: _median("trade-cost", f"{name}, CPU")(kept) for name in names}


def _dearest(logs: tuple[scaling.Log, ...]) -> Callable[[Kept], Seen]:
    """Return what compares the dearest of these logs with the cheapest."""

    def see(kept: Kept) -> Seen:
        costs = [cost for cost in _costs(logs, kept).values() if not isinstance(cost, str)]
        return max(costs) / min(costs) if len(costs) == len(logs) else _each(logs)(kept)

    return see


def _each(logs: tuple[scaling.Log, ...]) -> Callable[[Kept], str]:
    def note(kept: Kept) -> str:
        costs = _costs(logs, kept)
        told = {
            name: (cost or "not measured") if isinstance(cost, str) else f"{cost:.3g} CPU s a million"
            for name, cost in costs.items()
        }
        return "; ".join(f"{name}: {cost}" for name, cost in told.items()) if any(costs.values()) else ""

    return note


def _what_ends_first(kept: Kept) -> str:
    """Say how much of the cores two workers use, and how often one worker fits into them."""
    one, two = (kept.figure("scaling", f"{name}, cores") for name in ("1 worker", "2 workers"))
    if one is None or two is None:
        return ""
    start = kept.start_of("scaling")
    cores = start.machine.get("cores", "") if start else ""
    usable = int(cores.split()[0]) if cores[:1].isdigit() else None
    told = f"one worker and its share of Kafka use {one.median:.2f} cores, two {two.median:.2f}"
    if usable is None:
        return told
    told += f" of {usable}, which hold {usable / one.median:.2f} times one"
    if two.median >= ALL_OF_THEM * usable:
        return f"{told}: cores end first"
    return f"{told}; {usable - two.median:.2f} cores were left"


def _at_rate(measurement: str, through: str, rate: int, name: str) -> Callable[[Kept], Seen]:
    """Return what tells of latency at a rate of trades that was kept up; ``through`` is its figure."""

    def see(kept: Kept) -> Seen:
        seen = kept.figure(measurement, through)
        if seen is None:
            return ""
        if seen.median < LEAST_RATE * rate:
            return f"{seen.median:,.0f} trades/s came through"
        return _median(measurement, name)(kept)

    return see


def _million(kept: Kept) -> Seen:
    """Return the seconds for a million rows, where the changelog was long enough to tell."""
    seen = _median("recovery", recovery.MILLION)(kept)
    if seen == "" and kept.figure("recovery", recovery.LOST):
        return f"the changelog had fewer than {recovery.LEAST_ROWS:,} rows"
    return seen


def _slope(process: str) -> Callable[[Kept], Seen]:
    """Return what tells of a soak that was long enough."""

    def see(kept: Kept) -> Seen:
        start = kept.start_of("soak")
        minutes = float(start.options.get("minutes", 0)) if start else 0.0
        if minutes < SOAK_MINUTES:
            return f"the last soak took {minutes:g} minutes" if minutes else ""
        return _median("soak", f"soak, {process}, slope", least=1)(kept)

    return see


BARS = (
    *(
        Bar(
            f"catch-up, over {SPOKEN.get(name, name)}",
            Need(">=", limit), "times", "peers", _over(name, Standing.times),
        )
        for name, limit in race.NEEDS.items()
    ),
    *(
        Bar(
            f"catch-up for each CPU core used, over {SPOKEN.get(name, name)}",
            Need(">=", limit), "times", "peers", _over(name, Standing.times_a_core),
        )
        for name, limit in race.NEEDS_A_CORE.items()
    ),
    *(
        Bar(
            f"processor time of a trade, dearest over cheapest: {what}",
            scaling.FLAT, "times", "trade-cost", _dearest(logs), _each(logs),
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
            _at_rate("latency", f"rate at {rate:,}/s", rate, f"wire to /stats at {rate:,}/s, {quantile}"),
        )
        for (rate, quantile), need in latency.NEEDS.items()
    ),
    *(
        Bar(
            f"{name} at {web.ASKED_PER_S:,}/s among {web.TRADES_PER_S:,} trades/s, p99",
            web.ANSWERED, "ms", "web",
            _at_rate("web", web.meanwhile(name), web.TRADES_PER_S, web.asked(name, "p99")),
        )
        for name in (web.STATS, web.CANDLES)
    ),
    Bar(
        f"an update to all of {web.LISTENERS:,} SSE listeners, p99", web.HEARD, "ms", "push",
        _median("push", f"{web.WIRE_TO_ALL}, p99"),
    ),
    Bar(
        f"the same to {web.FEW}, one of them stalled over none", web.UNMOVED, "times", "push",
        _median("push", web.STALLED),
    ),
    Bar(
        f"{browser.WIRE_TO_PAGE}, p50", browser.SEEN, "ms", "browser",
        _at_rate("browser", browser.THROUGH, browser.TRADES_PER_S, f"{browser.WIRE_TO_PAGE}, p50"),
    ),
    Bar(
        "ready after SIGKILL, RocksDB kept", recovery.NEED_KEPT, "s", "recovery",
        _median("recovery", recovery.KEPT),
    ),
    Bar(
        "ready after SIGKILL, RocksDB lost, reckoned for 1,000,000 rows of the changelog",
        recovery.NEED_MILLION, "s", "recovery", _million,
    ),
    *(
        Bar(
            f"{process}'s memory over {SOAK_MINUTES} minutes, slope",
            soak.NEED, "MiB/min", "soak", _slope(process),
        )
        for process in ("producer", "worker")
    ),
    *(
        Bar(what, catchup.NEED, "trades/s", only, _median(only, name), lambda _, note=note: note)
        for what, only, name, note in (
            ("catch-up, 8 products", "catch-up", "catch-up", ""),
            ("catch-up, 800 products", "catch-up-800", "catch-up, 800 products", QUIET),
            ("catch-up, 8 products, a log of small batches", "catch-up-live-log", "catch-up, live log", ""),
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
