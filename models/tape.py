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
from collections.abc import Iterable, Mapping, MutableMapping
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

import msgspec

from models import ids
from models.candle import Candle
from models.decimals import EXACT
from models.gap import Gap, State
from models.ledger import NOTHING, SLACK_US, Ledger, News, OpenGap
from models.shown import CandleFigures
from models.times import rfc3339
from models.trade import Heartbeat, Trade
from models.window import BY_NAME, WINDOWS, Expired, Window

SMALLEST = WINDOWS[0]

LONG_RUN = 64
"""Trades after which a run is folded at the end of a batch; a shorter one waits for the next batch."""


class CandleRow(msgspec.Struct, frozen=True):
    """One candle as it is kept: what it holds, and how far it has read."""

    offset: int
    """The last offset of the log that this row includes. First, so that it can be read alone."""
    candle: Candle
    closed: bool = False
    revision: int = 0
    late_trades: int = 0
    complete: bool = False
    """As of this revision; of an open candle, the ledger knows."""
    missing_trades: int = 0
    """As ``complete``."""


class TapeState(msgspec.Struct):
    """What is known of one symbol beyond its candles."""

    offset: int = -1
    watermark_us: int = 0
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    last_trade: Trade | None = None
    """The trade that is latest by (event time, id)."""
    received_time_us: int = 0
    duplicates: int = 0
    late: int = 0
    """Trades that came when the candle of their smallest window was closed, and amended it. As with
    ``duplicates``, a write that was torn by a kill may leave some out."""
    expired: int = 0
    """Trades that came when the candles of their smallest window were not kept any more."""
    open: list[tuple[str, int]] = []
    """(window, start) of the candles that are not closed yet."""
    latest: dict[str, int] = {}
    """By window, the start of the last candle."""
    latest_closed: dict[str, int] = {}
    """By window, the start of the last closed candle."""
    kept_from: dict[str, int] = {}
    """By window, candles that start before this are not kept any more."""


class CandleChange(NamedTuple):
    """A candle reached a state that the world should hear of: closed, or amended after that."""

    window: Window
    start_us: int
    offset: int
    candle: CandleFigures


class GapChange(NamedTuple):
    """A gap opened, or is no more."""

    gap: OpenGap
    state: State
    settled_us: int

    def describe(self, exchange: str, symbol: str) -> Gap:
        """Return it as the topic ``gaps`` shows it."""
        gap = self.gap
        return Gap(
            exchange=exchange,
            symbol=symbol,
            first_trade_id=gap.first,
            last_trade_id=gap.last,
            missing_trades=gap.last - gap.first + 1 if self.state == "open" else 0,
            state=self.state,
            cause=gap.cause,
            after=rfc3339(gap.after_us),
            before=rfc3339(gap.before_us),
            detected=rfc3339(gap.detected_us),
            settled=None if self.state == "open" else rfc3339(self.settled_us),
        )


Change = CandleChange | GapChange | Expired
RowKey = tuple[str, int]
Run = list[tuple[int, Trade]]


class Tape:
    """Folds records of one symbol into rows. ``rows`` reads and takes `CandleRow` by (window, start).

    Arguments:
        grace_us: event time that a candle waits for late trades after its end.
        keep_us: by window, how long a closed candle is kept; a window that is not named, for ever.
    """

    def __init__(
        self,
        state: TapeState,
        rows: MutableMapping[RowKey, CandleRow],
        grace_us: int,
        keep_us: Mapping[str, int] | None = None,
    ) -> None:
        self.state = state
        self.rows = rows
        self.grace_us = grace_us
        self.keep_us = keep_us or {}
        self.offset = state.offset
        """The last offset taken in; beyond that of the state while a run waits."""
        self._due = self._next_due()
        self._run: Run = []
        """New trades of one smallest window, ids rising by one, that are not in the rows yet."""
        self._run_start = self._run_end = 0

    def fold(self, records: Iterable[tuple[int, Trade | Heartbeat]]) -> list[Change]:
        """Take in records in the order of their offsets; return what closed, was amended, or is missing.

        The caller keeps ``state`` and the changed rows together after `settle`, and gives all records
        again from the last offset that it has kept.
        """
        changes: list[Change] = []
        records = list(records)
        with decimal.localcontext(EXACT):
            fresh = bisect_right(records, self.offset, key=itemgetter(0))
            if fresh:
                self._end_run()
                self._fold_again(records[:fresh], changes)
            self._fold_fresh(records[fresh:], changes)
            if len(self._run) >= LONG_RUN:
                self._end_run()
        return changes

    def settle(self) -> None:
        """Bring rows and state to the last record. Tells nothing: what a run holds closes no candle."""
        with decimal.localcontext(EXACT):
            self._end_run()

    def _fold_fresh(self, records: list[tuple[int, Trade | Heartbeat]], changes: list[Change]) -> None:
        run, run_start, run_end = self._run, self._run_start, self._run_end
        next_id = run[-1][1].trade_id + 1 if run else -1
        for record in records:
            offset, event = record
            if type(event) is not Trade:
                self._end_run()
                run, next_id = self._run, -1
                self._fold_heartbeat(offset, event, changes)  # type: ignore[arg-type]
                continue
            time_us = event.event_time_us
            if event.trade_id == next_id and run_start <= time_us < run_end:
                run.append(record)  # type: ignore[arg-type]
                next_id += 1
                if time_us >= self._due:  # of earlier windows, which the run is not in
                    self.state.watermark_us = time_us
                    self._close(offset, changes)
                continue
            self._end_run()
            run = self._run
            run_start = self._run_start = SMALLEST.start_of(time_us)
            run_end = self._run_end = SMALLEST.end_of(run_start)
            top_id = self.state.ledger.top_id
            if event.trade_id == top_id + 1 and top_id >= 0 and not self._is_over(SMALLEST.name, run_start):
                run.append(record)  # type: ignore[arg-type]
                next_id = event.trade_id + 1
                if time_us >= self._due:
                    self.state.watermark_us = time_us
                    self._close(offset, changes)
            else:
                # What shows a hole or fills one, amends a candle, or came before, is folded alone, so
                # that what is told of it does not depend on how the log was cut into batches.
                self._fold_one(offset, event, changes)
                next_id = -1
        if records:
            self.offset = records[-1][0]

    def _is_over(self, name: str, start_us: int) -> bool:
        return BY_NAME[name].is_closed(start_us, self.state.watermark_us, self.grace_us)

    def _is_kept(self, key: RowKey) -> bool:
        return key[1] >= self.state.kept_from.get(key[0], key[1])

    def _end_run(self) -> None:
        """Fold the run: new trades of one smallest window that is not over, after all that came before."""
        run = self._run
        if not run:
            return
        self._run = []
        first_offset, last_offset = run[0][0], run[-1][0]
        trades = [trade for _, trade in run]
        whole = Candle.of(trades)
        self.state.ledger.extend(whole.last_trade_id, whole.closed[0])
        for window in WINDOWS:
            key = (window.name, window.start_of(self._run_start))
            row = self.rows.get(key)
            if row is None:
                self.rows[key] = CandleRow(last_offset, whole)
                self._opened(key)
            elif row.offset < first_offset and whole.follows(row.candle) and not row.closed:
                self.rows[key] = CandleRow(last_offset, row.candle.merge(whole))
            else:  # the row is newer than the state
                for offset, trade in run:
                    self._add(window, key, offset, trade, [])
        self._note(trades, whole.closed, last_offset)

    def _fold_one(self, offset: int, trade: Trade, changes: list[Change]) -> None:
        """Fold a trade of any kind."""
        state = self.state
        news = state.ledger.see(trade.trade_id, trade.event_time_us)
        self._tell_gaps(news, "open", changes)
        for window in WINDOWS:
            self._add(window, (window.name, window.start_of(trade.event_time_us)), offset, trade, changes)
        self._note([trade], _moment(trade), offset)
        self._settle_time(offset, news, changes)

    def _fold_heartbeat(self, offset: int, heartbeat: Heartbeat, changes: list[Change]) -> None:
        state = self.state
        news = state.ledger.hear(heartbeat.last_trade_id, heartbeat.event_time_us)
        self._tell_gaps(news, "open", changes)
        state.offset = offset
        state.watermark_us = max(state.watermark_us, heartbeat.event_time_us)
        state.received_time_us = max(state.received_time_us, heartbeat.received_time_us)
        self._settle_time(offset, news, changes)

    def _settle_time(self, offset: int, news: News, changes: list[Change]) -> None:
        """Close what is due, then amend the closed candles that a hole has come to, or has left."""
        if self.state.watermark_us >= self._due:
            self._close(offset, changes)
        if news is not NOTHING:
            times_us = [time_us + slack_us for time_us in news.times_us for slack_us in (-SLACK_US, SLACK_US)]
            for window in WINDOWS:
                for start_us in sorted({window.start_of(time_us) for time_us in times_us}):
                    self._amend_completeness(window, start_us, offset, changes)
            self._tell_gaps(news, "repaired", changes)
            self._tell_gaps(news, "merged", changes)

    def _tell_gaps(self, news: News, told: State, changes: list[Change]) -> None:
        for gap, state in news.gaps:
            if state == told:
                changes.append(GapChange(gap, state, self.state.watermark_us))

    def _amend_completeness(self, window: Window, start_us: int, offset: int, changes: list[Change]) -> None:
        row = self.rows.get((window.name, start_us)) if self._is_kept((window.name, start_us)) else None
        if row is None or not row.closed or row.offset > offset:
            return
        complete, missing = completeness(window, start_us, row.candle, self.state.ledger)
        # Not for each trade of a hole that fills: for the last one, also where it completes nothing.
        if complete != row.complete or bool(missing) != bool(row.missing_trades):
            row = msgspec.structs.replace(
                row,
                offset=offset,
                revision=row.revision + 1,
                complete=complete,
                missing_trades=missing,
            )
            self.rows[window.name, start_us] = row
            changes.append(self._change(window, start_us, row))

    def _fold_again(self, records: list[tuple[int, Trade | Heartbeat]], changes: list[Change]) -> None:
        """Offer records that the tape has taken in before to the rows that may not have them."""
        trades = [(offset, event) for offset, event in records if isinstance(event, Trade)]
        for start_us, group in groupby(trades, key=lambda item: SMALLEST.start_of(item[1].event_time_us)):
            run = list(group)
            for window in WINDOWS:
                key = (window.name, window.start_of(start_us))
                if not self._is_kept(key):
                    continue
                row = self.rows.get(key)
                if row is None or row.offset < run[-1][0]:
                    for offset, trade in run:
                        self._add(window, key, offset, trade, changes)
                row = self.rows[key]
                if not row.closed and key not in self.state.open and self._is_over(*key):
                    # The state has closed it and said so, the row is older than that.
                    complete, missing = completeness(window, key[1], row.candle, self.state.ledger)
                    self.rows[key] = msgspec.structs.replace(
                        row, closed=True, complete=complete, missing_trades=missing
                    )

    def _add(self, window: Window, key: RowKey, offset: int, trade: Trade, changes: list[Change]) -> None:
        """Fold one trade, that may have come before, into one window's row."""
        if not self._is_kept(key):
            self.state.expired += window is SMALLEST
            return
        closed = self._is_over(*key)
        row = self.rows.get(key)
        if row is None:
            row = CandleRow(offset, Candle.of((trade,)), closed, late_trades=int(closed))
            self._opened(key)
        elif offset <= row.offset:
            self._opened(key)  # the state may be older than the row
            return
        elif ids.holds(row.candle.ids, trade.trade_id):
            self.rows[key] = msgspec.structs.replace(row, offset=offset)
            self.state.duplicates += window is SMALLEST
            return
        else:
            row = CandleRow(
                offset,
                row.candle.merge(Candle.of((trade,))),
                closed,
                row.revision + closed,
                row.late_trades + closed,
            )
        if closed:
            self.state.late += window is SMALLEST
            complete, missing = completeness(window, key[1], row.candle, self.state.ledger)
            row = msgspec.structs.replace(row, complete=complete, missing_trades=missing)
            changes.append(self._change(window, key[1], row))
        self.rows[key] = row

    def _note(self, trades: list[Trade], latest: tuple[int, int], offset: int) -> None:
        """Keep what is known beyond the rows; ``latest`` is the (time, id) of the latest of the trades."""
        state = self.state
        state.offset = offset
        state.watermark_us = max(state.watermark_us, latest[0])
        state.received_time_us = max(state.received_time_us, max(map(_received, trades)))
        if state.last_trade is None or latest > _moment(state.last_trade):
            last = trades[-1]
            state.last_trade = last if _moment(last) == latest else max(trades, key=_moment)

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

    def _close(self, offset: int, changes: list[Change]) -> None:
        """Close every open candle that the watermark has left behind, the earliest end first."""
        state = self.state
        due = [key for key in state.open if self._is_over(*key)]
        state.open = [key for key in state.open if key not in due]
        self._due = self._next_due()
        for key in sorted(due, key=lambda key: (BY_NAME[key[0]].end_of(key[1]), BY_NAME[key[0]].size_us)):
            name, start_us = key
            window = BY_NAME[name]
            state.latest_closed[name] = max(start_us, state.latest_closed.get(name, 0))
            row = self.rows[key]
            if row.closed:
                continue  # the row is newer than the state, and has been told of
            complete, missing = completeness(window, start_us, row.candle, state.ledger)
            row = msgspec.structs.replace(
                row, offset=offset, closed=True, complete=complete, missing_trades=missing
            )
            self.rows[key] = row
            changes.append(self._change(window, start_us, row))
        for window in WINDOWS:
            if window.name in self.keep_us and any(name == window.name for name, _ in due):
                self._expire(window, changes)

    def _expire(self, window: Window, changes: list[Change]) -> None:
        """Let go of candles that closed long ago, counted from the last that did."""
        state = self.state
        before_us = window.start_of(state.latest_closed[window.name] - self.keep_us[window.name])
        if before_us > state.kept_from.get(window.name, 0):
            state.kept_from[window.name] = before_us
            changes.append(Expired(window, before_us))

    def _next_due(self) -> int:
        """Return the watermark at which the next open candle closes."""
        ends = (BY_NAME[name].end_of(start_us) for name, start_us in self.state.open)
        return min(ends, default=sys.maxsize - self.grace_us) + self.grace_us

    def _change(self, window: Window, start_us: int, row: CandleRow) -> CandleChange:
        return CandleChange(window, start_us, row.offset, describe(window, start_us, row, self.state))


_received = attrgetter("received_time_us")


def _moment(trade: Trade) -> tuple[int, int]:
    return (trade.event_time_us, trade.trade_id)


def completeness(window: Window, start_us: int, candle: Candle, ledger: Ledger) -> tuple[bool, int]:
    """Return whether every trade of the candle is in it, and how many may be missing.

    Missing ids between two candles count for both: nobody knows yet where they belong.
    """
    end_us, forgotten = window.end_of(start_us), candle.forgotten
    complete = ledger.is_complete(start_us, end_us) and not forgotten
    return complete, ledger.missing(start_us, end_us) + forgotten


def describe(window: Window, start_us: int, row: CandleRow, state: TapeState) -> CandleFigures:
    """Return the candle as the topic ``candles`` and the web views show it."""
    complete, missing_trades = row.complete, row.missing_trades
    if not row.closed:
        complete, missing_trades = completeness(window, start_us, row.candle, state.ledger)
    return row.candle.figures(
        closed=row.closed,
        complete=complete,
        late_trades=row.late_trades,
        missing_trades=missing_trades,
        revision=row.revision,
    )
