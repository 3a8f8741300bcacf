"""The tape of one symbol: its trades and heartbeats, in the order of the log, into candles.

Event time moves by the log alone. The **watermark** is the latest event time that the tape has
seen; a candle is **closed** once the watermark is past its end and the grace. A trade that comes
later still amends it, and each amendment has a number, the **revision**. Nothing here asks a
clock, so a replay of the log gives the same candles, closed at the same records, with the same
revisions.

A row remembers the offset up to which it has taken the log in, and the ids of its trades: a
record that comes twice, or a trade that was sent twice, changes nothing.
"""

from __future__ import annotations

import decimal
import sys
from bisect import bisect_right
from collections.abc import Iterable, MutableMapping
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

import msgspec

from models import ids
from models.candle import Candle
from models.decimals import EXACT
from models.times import rfc3339
from models.trade import Heartbeat, Trade
from models.window import BY_NAME, WINDOWS, Window

SMALLEST = WINDOWS[0]


class CandleRow(msgspec.Struct, frozen=True):
    """One candle as it is kept: what it holds, and how far it has read."""

    offset: int
    """The last offset of the log that this row includes. First, so that it can be read alone."""
    candle: Candle
    closed: bool = False
    revision: int = 0
    late_trades: int = 0


class TapeState(msgspec.Struct):
    """What is known of one symbol beyond its candles."""

    offset: int = -1
    watermark_us: int = 0
    seen: ids.Ranges = ()
    """Trade ids that came, as far back as the tape knows."""
    last_known_id: int = 0
    """The highest trade id that the exchange has spoken of, in a trade or a heartbeat."""
    last_trade: Trade | None = None
    """The trade that is latest by (event time, id)."""
    received_time_us: int = 0
    duplicates: int = 0
    open: list[tuple[str, int]] = []
    """(window, start) of the candles that are not closed yet."""
    latest: dict[str, int] = {}
    """By window, the start of the last candle."""
    latest_closed: dict[str, int] = {}
    """By window, the start of the last closed candle."""


class CandleChange(NamedTuple):
    """A candle reached a state that the world should hear of: closed, or amended after that."""

    window: Window
    start_us: int
    offset: int
    value: dict[str, object]


RowKey = tuple[str, int]


class Tape:
    """Folds records of one symbol into rows. ``rows`` reads and takes `CandleRow` by (window, start)."""

    def __init__(
        self, symbol: str, state: TapeState, rows: MutableMapping[RowKey, CandleRow], grace_us: int
    ) -> None:
        self.symbol = symbol
        self.state = state
        self.rows = rows
        self.grace_us = grace_us
        self._due = self._next_due()

    def fold(self, records: Iterable[tuple[int, Trade | Heartbeat]]) -> list[CandleChange]:
        """Take in records in the order of their offsets; return what closed or was amended.

        The caller keeps ``state`` and the changed rows together, and gives all records again from
        the last offset that it has kept.
        """
        changes: list[CandleChange] = []
        records = list(records)
        fresh = bisect_right(records, self.state.offset, key=itemgetter(0))
        with decimal.localcontext(EXACT):
            self._fold_again(records[:fresh], changes)
            run: list[tuple[int, Trade]] = []
            run_start, run_end = 0, 0  # of the smallest window that holds the run
            high = self.state.seen[-1][1] if self.state.seen else 0
            for offset, event in records[fresh:]:
                if type(event) is not Trade:
                    self._fold_run(run_start, run, changes)
                    run, run_end = [], 0
                    self._fold_heartbeat(offset, event, changes)  # type: ignore[arg-type]
                    continue
                time_us = event.event_time_us
                if run_start <= time_us < run_end and event.trade_id > high and time_us < self._due:
                    run.append((offset, event))
                    high = event.trade_id
                    continue
                self._fold_run(run_start, run, changes)
                run_start = SMALLEST.start_of(time_us)
                run_end = SMALLEST.end_of(run_start)
                run = [(offset, event)]
                if event.trade_id <= high or time_us >= self._due or self._is_over(SMALLEST.name, run_start):
                    # What is out of order, closes a candle or amends one is folded alone, so that
                    # what is told of it does not depend on how the log was cut into batches.
                    self._fold_run(run_start, run, changes)
                    run, run_end = [], 0
                high = max(high, event.trade_id)
            self._fold_run(run_start, run, changes)
        return changes

    def _is_over(self, name: str, start_us: int) -> bool:
        return BY_NAME[name].is_closed(start_us, self.state.watermark_us, self.grace_us)

    def _fold_run(self, start_us: int, run: list[tuple[int, Trade]], changes: list[CandleChange]) -> None:
        """Fold new trades of one smallest window: one of any kind, or several with rising new ids."""
        if not run:
            return
        state = self.state
        last_offset = run[-1][0]
        trades = [trade for _, trade in run]
        whole = Candle.of(trades)
        late = self._is_over(SMALLEST.name, start_us)
        self._see(trades, whole)
        for window in WINDOWS:
            key = (window.name, window.start_of(start_us))
            row = self.rows.get(key)
            if row is None and not late:
                self.rows[key] = CandleRow(last_offset, whole)
                self._opened(key)
            elif row is not None and not late and whole.follows(row.candle):
                self.rows[key] = CandleRow(last_offset, row.candle.merge(whole))
            else:
                self._fold_singly(window, key, run, changes)
        state.offset = last_offset
        if whole.closed[0] > state.watermark_us:
            state.watermark_us = whole.closed[0]
            if state.watermark_us >= self._due:
                self._close(last_offset, changes)

    def _fold_again(self, records: list[tuple[int, Trade | Heartbeat]], changes: list[CandleChange]) -> None:
        """Offer records that the tape has taken in before to the rows that may not have them."""
        trades = [(offset, event) for offset, event in records if isinstance(event, Trade)]
        for start_us, group in groupby(trades, key=lambda item: SMALLEST.start_of(item[1].event_time_us)):
            run = list(group)
            for window in WINDOWS:
                key = (window.name, window.start_of(start_us))
                row = self.rows.get(key)
                if row is None or row.offset < run[-1][0]:
                    self._fold_singly(window, key, run, changes)
                row = self.rows[key]
                if not row.closed and key not in self.state.open and self._is_over(*key):
                    # The state has closed it and said so, the row is older than that.
                    self.rows[key] = msgspec.structs.replace(row, closed=True)

    def _fold_singly(
        self, window: Window, key: RowKey, run: list[tuple[int, Trade]], changes: list[CandleChange]
    ) -> None:
        """Fold trade by trade: what came again, came late, or came out of order."""
        closed = self._is_over(*key)
        for offset, trade in run:
            row = self.rows.get(key)
            if row is None:
                row = CandleRow(offset, Candle.of((trade,)), closed, late_trades=int(closed))
                self._opened(key)
            elif offset <= row.offset:
                self._opened(key)  # the state may be older than the row
                continue
            elif ids.holds(row.candle.ids, trade.trade_id):
                self.rows[key] = msgspec.structs.replace(row, offset=offset)
                if window is SMALLEST:
                    self.state.duplicates += 1
                continue
            else:
                row = CandleRow(
                    offset,
                    row.candle.merge(Candle.of((trade,))),
                    closed,
                    row.revision + closed,
                    row.late_trades + closed,
                )
            self.rows[key] = row
            if closed:
                changes.append(self._change(window, key[1], row))

    def _fold_heartbeat(self, offset: int, heartbeat: Heartbeat, changes: list[CandleChange]) -> None:
        state = self.state
        if offset <= state.offset:
            return
        state.offset = offset
        state.watermark_us = max(state.watermark_us, heartbeat.event_time_us)
        state.last_known_id = max(state.last_known_id, heartbeat.last_trade_id)
        state.received_time_us = max(state.received_time_us, heartbeat.received_time_us)
        if state.watermark_us >= self._due:
            self._close(offset, changes)

    def _see(self, trades: list[Trade], whole: Candle) -> None:
        state = self.state
        state.seen = ids.union(state.seen, whole.ids)
        state.last_known_id = max(state.last_known_id, state.seen[-1][1])
        state.received_time_us = max(state.received_time_us, max(map(_received, trades)))
        last = trades[-1] if whole.closed == _moment(trades[-1]) else max(trades, key=_moment)
        if state.last_trade is None or _moment(last) > _moment(state.last_trade):
            state.last_trade = last

    def _opened(self, key: RowKey) -> None:
        """Note a row that is there; it may be known."""
        name, start_us = key
        state = self.state
        if self._is_over(name, start_us):
            state.latest_closed[name] = max(start_us, state.latest_closed.get(name, 0))
        elif key not in state.open:
            state.open = [*state.open, key]
            self._due = self._next_due()
        state.latest[name] = max(start_us, state.latest.get(name, 0))

    def _close(self, offset: int, changes: list[CandleChange]) -> None:
        """Close every open candle that the watermark has left behind, the earliest end first."""
        state = self.state
        due = [key for key in state.open if self._is_over(*key)]
        state.open = [key for key in state.open if key not in due]
        self._due = self._next_due()
        for key in sorted(due, key=lambda key: (BY_NAME[key[0]].end_of(key[1]), BY_NAME[key[0]].size_us)):
            name, start_us = key
            row = msgspec.structs.replace(self.rows[key], offset=offset, closed=True)
            self.rows[key] = row
            state.latest_closed[name] = max(start_us, state.latest_closed.get(name, 0))
            changes.append(self._change(BY_NAME[name], start_us, row))

    def _next_due(self) -> int:
        """Return the watermark at which the next open candle closes."""
        ends = (BY_NAME[name].end_of(start_us) for name, start_us in self.state.open)
        return min(ends, default=sys.maxsize - self.grace_us) + self.grace_us

    def _change(self, window: Window, start_us: int, row: CandleRow) -> CandleChange:
        return CandleChange(window, start_us, row.offset, describe(window, start_us, row, self.state))


_received = attrgetter("received_time_us")


def _moment(trade: Trade) -> tuple[int, int]:
    return (trade.event_time_us, trade.trade_id)


def completeness(row: CandleRow, state: TapeState) -> tuple[bool, int]:
    """Return whether every trade of the candle is in it, and how many ids are missing.

    Ids of a symbol rise by one, trade by trade. So a candle is complete when the id before its
    first is known to lie in an earlier window, no id inside is missing, and, once it is closed,
    the id after its last lies in a later one. Missing ids at the edges may belong to the neighbour.
    """
    first, last = row.candle.first_trade_id, row.candle.last_trade_id
    lost = ids.missing(state.seen, first, last)
    before_known = first == 1 or ids.holds(state.seen, first - 1)
    following = ids.after(state.seen, last)
    lost_after = (following or state.last_known_id + 1) - last - 1
    lost_before = 0
    if not before_known:
        lower = [high for _, high in state.seen if high < first]
        lost_before = first - lower[-1] - 1 if lower else 0
    return before_known and not lost and not lost_after, lost + lost_before + max(0, lost_after)


def describe(window: Window, start_us: int, row: CandleRow, state: TapeState) -> dict[str, object]:
    """Return the candle as the topic ``candles`` and the web views show it."""
    complete, missing_trades = completeness(row, state)
    return {
        "window": window.name,
        "start": rfc3339(start_us),
        "end": rfc3339(window.end_of(start_us)),
        "start_ms": start_us // 1000,
        "candle": {
            **row.candle.figures(),
            "state": "closed" if row.closed else "open",
            "complete": complete,
            "late_trades": row.late_trades,
            "missing_trades": missing_trades,
            "revision": row.revision,
        },
    }
