"""What the folds and the codec do alone: no Kafka, no event loop, one core."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeVar

from bench import market
from bench.figures import Figures, Inexact, Need, Plan
from models.book import BookDelta, BookRecord, read_book
from models.book_stats import BookState, BookStatsRow, BookTape
from models.tape import CandleRow, Tape, TapeState
from models.trade import Heartbeat, Trade, read_trade
from producers.exchanges.coinbase import Codec

SYMBOLS = 8
PARTITIONS = 8
BATCH = 2_000
GRACE_US = 10_000_000
START_US = market.midnight(1_790_000_000_000_000)
DEPTH = 10
"""Levels a side that a book's statistics sum up; the setting's default."""
CHANGES = (1, 12)
"""Level changes in a frame: a calm product's, and what 50 ms of a lively one gather."""
REFERENCE = 5_000_000
BOOK_NEED = Need(">=", 100_000)

Value = TypeVar("Value", Trade | Heartbeat, BookRecord)
Batch = list[tuple[int, bytes]]


async def reference(plan: Plan, figures: Figures) -> None:
    """Measure a loop that never changes: what differs between its runs is the machine."""
    for run in range(max(3, plan.runs)):
        plan.step(f"run {run + 1}", run / max(3, plan.runs))
        await asyncio.sleep(0)
        seconds = timed(add_decimals)
        figures.add(
            "reference", "additions/s", REFERENCE / seconds,
            "Decimal additions in a Python loop that never changes: its spread is the machine's noise",
        )  # fmt: skip


async def candle_fold(plan: Plan, figures: Figures) -> None:
    """Measure `read_trade` and `Tape.fold`."""
    count = plan.part(0.2, 500_000)
    plan.step(f"making {count:,} trades", 0)
    names = market.symbols(SYMBOLS, PARTITIONS)
    values = [trade.to_json() for trade in market.trades(names, count, START_US)]
    batches = in_batches(values)
    for run in range(plan.runs):
        plan.step(f"folding them, run {run + 1}", (run + 0.5) / (plan.runs + 0.5))
        await asyncio.sleep(0)
        rows: dict[tuple[str, str, int], CandleRow] = {}
        seconds = timed(lambda rows=rows: fold_candles(names, batches, rows))  # type: ignore[misc]
        folded = sum(row.candle.trade_count for (_, window, _), row in rows.items() if window == "1d")
        if folded != count:
            raise Inexact(f"{count} trades were folded into candles of {folded}")
        figures.add(
            "candle fold", "trades/s", count / seconds,
            f"read_trade and Tape.fold into 1m, 1h, 1d; {BATCH:,} records of {SYMBOLS} symbols a batch",
        )  # fmt: skip


async def book_fold(plan: Plan, figures: Figures) -> None:
    """Measure `read_book` and `BookTape.fold`."""
    names = market.symbols(SYMBOLS, PARTITIONS)
    total = plan.part(0.1, 200_000)
    for index, changes in enumerate(CHANGES):
        frames = max(1_000, total // changes)
        plan.step(f"making {frames:,} frames of {changes}", index / len(CHANGES))
        snapshots = [market.snapshot(name, START_US).to_json() for name in names]
        deltas = market.deltas(names, frames, changes, START_US, market.STEP_US)
        batches = in_batches([*snapshots, *(delta.to_json() for delta in deltas)])
        for run in range(plan.runs):
            done = (index + (run + 0.5) / (plan.runs + 0.5)) / len(CHANGES)
            plan.step(f"folding them, run {run + 1}", done)
            await asyncio.sleep(0)
            rows: dict[tuple[str, str, int], BookStatsRow] = {}
            seconds = timed(lambda rows=rows, batches=batches: fold_books(names, batches, rows))  # type: ignore[misc]
            folded = sum(row.stats.updates for (_, window, _), row in rows.items() if window == "1d")
            if folded != frames + len(names):
                raise Inexact(f"{frames + len(names)} book frames were folded into statistics of {folded}")
            figures.add(
                f"book fold, {changes} a frame", "level changes/s", frames * changes / seconds,
                f"read_book and BookTape.fold into 1m, 1h, 1d; {market.LEVELS} levels a side; "
                f"{BATCH:,} records of {SYMBOLS} symbols a batch",
                BOOK_NEED,
            )  # fmt: skip


async def codec(plan: Plan, figures: Figures) -> None:
    """Measure Coinbase's frames into checked events."""
    names = market.symbols(SYMBOLS, PARTITIONS)
    count = plan.part(0.1, 200_000)
    plan.step(f"making {count:,} frames", 0)
    matches = [market.match_frame(trade) for trade in market.trades(names, count, START_US)]
    updates = {
        changes: [
            market.update_frame(delta)
            for delta in market.deltas(names, max(1_000, count // changes), changes, START_US, market.STEP_US)
        ]
        for changes in CHANGES
    }
    for run in range(plan.runs):
        plan.step(f"reading them, run {run + 1}", (run + 0.5) / (plan.runs + 0.5))
        await asyncio.sleep(0)
        seconds = timed(lambda: receive(matches, Trade))
        figures.add("codec, match", "frames/s", count / seconds, "Coinbase text to a checked Trade")
        for changes, frames in updates.items():
            seconds = timed(lambda frames=frames: receive(frames, BookDelta))  # type: ignore[misc]
            figures.add(
                f"codec, l2update of {changes}", "level changes/s", len(frames) * changes / seconds,
                "Coinbase text to a checked BookDelta",
            )  # fmt: skip


def add_decimals() -> None:
    """Add up `REFERENCE` decimals."""
    total, size = Decimal(0), Decimal("0.01500000")
    for _ in range(REFERENCE):
        total += size


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that it took; garbage of before is collected first."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_batches(values: Sequence[bytes]) -> list[Batch]:
    """Cut a log into batches of (offset, value), as a worker gets them."""
    log = list(enumerate(values))
    return [log[index : index + BATCH] for index in range(0, len(log), BATCH)]


def by_symbol(batch: Batch, read: Callable[[bytes | None], Value]) -> dict[str, list[tuple[int, Value]]]:
    """Return the values of a batch, by symbol."""
    symbols: dict[str, list[tuple[int, Value]]] = {}
    for offset, raw in batch:
        value = read(raw)
        symbols.setdefault(value.symbol, []).append((offset, value))
    return symbols


def fold_candles(
    names: Sequence[str], batches: Sequence[Batch], rows: dict[tuple[str, str, int], CandleRow]
) -> None:
    """Fold a log of trades into rows by (symbol, window, start)."""
    kept: dict[str, dict[tuple[str, int], CandleRow]] = {name: {} for name in names}
    tapes = {name: Tape(TapeState(), kept[name], GRACE_US) for name in names}
    for batch in batches:
        for symbol, records in by_symbol(batch, read_trade).items():
            tapes[symbol].fold(records)
    for tape in tapes.values():
        tape.settle()
    rows.update({(name, *key): row for name in names for key, row in kept[name].items()})


def fold_books(
    names: Sequence[str], batches: Sequence[Batch], rows: dict[tuple[str, str, int], BookStatsRow]
) -> None:
    """Fold a log of book records into rows by (symbol, window, start)."""
    kept: dict[str, dict[tuple[str, int], BookStatsRow]] = {name: {} for name in names}
    tapes = {name: BookTape(BookState(), kept[name], DEPTH) for name in names}
    for batch in batches:
        for symbol, records in by_symbol(batch, read_book).items():
            tapes[symbol].fold(records)
    for tape in tapes.values():
        tape.settle()
    rows.update({(name, *key): row for name in names for key, row in kept[name].items()})


def receive(frames: Sequence[str], kind: type) -> None:
    """Read frames.

    Raises:
        Inexact: one of them is not what it was made to be.
    """
    read = Codec().receive
    received_us = START_US + 86_400_000_000
    for frame in frames:
        (event,) = read(frame, received_us)
        if type(event) is not kind:
            raise Inexact(f"{frame[:100]} was read as {type(event).__name__}")
