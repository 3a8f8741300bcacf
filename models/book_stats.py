"""Book statistics of one symbol, by window: its book records, in the order of the log, into rows.

Each frame of the exchange is one **sample**: best bid, best ask, spread, mid. Between two samples
the book stands as the earlier one left it, so means are weighted by time: a spread that stood for
59 seconds counts 59 times one that stood for a second. A window is over with the first record
beyond its end; the state of the book goes on into the next one.

A run of records inside the smallest window is folded once, and merged into the rows of all
windows. A restart begins at the last keyframe: the book is built again from there, while rows
that include an offset already do not take it a second time.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Mapping, MutableMapping
from decimal import Decimal
from typing import NamedTuple

import msgspec

from models.book import BookDelta, BookKeyframe, BookLost, BookRecord, OrderBook
from models.decimals import EXACT, plain, ratio
from models.shown import BookFigures
from models.window import WINDOWS, Expired, Window

ZERO = Decimal(0)
HALF = Decimal("0.5")
MIDS = 10
"""Samples in the moving average of the mid."""

SMALLEST = WINDOWS[0]
RowKey = tuple[str, int]


class BookStats(msgspec.Struct):
    """The book of one symbol over a stretch of time. Prices in the quote currency, sizes in the base."""

    updates: int = 0
    """Frames of the exchange, snapshots included."""
    resyncs: int = 0
    """Times the book came back into step."""
    observed_us: int = 0
    in_step_us: int = 0
    two_sided_us: int = 0
    """Microseconds in which there was a spread to weigh."""
    spread_time: Decimal = ZERO
    """Sum of spread times the microseconds that it stood."""
    samples: int = 0
    spread_open: Decimal = ZERO
    spread_min: Decimal = ZERO
    spread_max: Decimal = ZERO
    spread_close: Decimal = ZERO
    mid_open: Decimal = ZERO
    mid_high: Decimal = ZERO
    mid_low: Decimal = ZERO
    mid_close: Decimal = ZERO
    mids: tuple[Decimal, ...] = ()
    """The last samples' mids, up to `MIDS`, those of earlier windows included."""
    best_bid: tuple[Decimal, Decimal] | None = None
    best_ask: tuple[Decimal, Decimal] | None = None
    bid_depth: Decimal = ZERO
    ask_depth: Decimal = ZERO
    """Sizes of the top levels, summed, at the last update."""
    in_step: bool = False

    def weigh(self, duration_us: int, held: Held) -> None:
        """Add a time in which the book stood as ``held`` says."""
        self.observed_us += duration_us
        if held.in_step:
            self.in_step_us += duration_us
            if held.spread is not None:
                self.two_sided_us += duration_us
                self.spread_time += held.spread * duration_us

    def sample(self, bid: Decimal, ask: Decimal) -> None:
        """Add one frame's spread and mid; under `EXACT`."""
        spread = ask - bid
        mid = (ask + bid) * HALF
        if not self.samples:
            self.spread_open = self.spread_min = self.spread_max = spread
            self.mid_open = self.mid_high = self.mid_low = mid
        elif spread < self.spread_min:
            self.spread_min = spread
        elif spread > self.spread_max:
            self.spread_max = spread
        if mid > self.mid_high:
            self.mid_high = mid
        elif mid < self.mid_low:
            self.mid_low = mid
        self.samples += 1
        self.spread_close = spread
        self.mid_close = mid

    def merge(self, other: BookStats) -> None:
        """Add the stretch of time that follows this one; under `EXACT`."""
        self.updates += other.updates
        self.resyncs += other.resyncs
        self.observed_us += other.observed_us
        self.in_step_us += other.in_step_us
        self.two_sided_us += other.two_sided_us
        self.spread_time += other.spread_time
        if other.samples:
            if not self.samples:
                self.spread_open, self.mid_open = other.spread_open, other.mid_open
                self.spread_min, self.spread_max = other.spread_min, other.spread_max
                self.mid_high, self.mid_low = other.mid_high, other.mid_low
            self.samples += other.samples
            self.spread_min = min(self.spread_min, other.spread_min)
            self.spread_max = max(self.spread_max, other.spread_max)
            self.mid_high = max(self.mid_high, other.mid_high)
            self.mid_low = min(self.mid_low, other.mid_low)
            self.spread_close, self.mid_close = other.spread_close, other.mid_close
        self.mids = other.mids
        self.best_bid, self.best_ask = other.best_bid, other.best_ask
        self.bid_depth, self.ask_depth = other.bid_depth, other.ask_depth
        self.in_step = other.in_step

    def figures(self, closed: bool) -> BookFigures:
        """Return what a user sees; null where no sample was taken."""
        some = self.samples > 0
        depth = self.bid_depth + self.ask_depth
        return BookFigures(
            highest_bid=plain(self.best_bid[0]) if self.best_bid else None,
            highest_bid_size=plain(self.best_bid[1]) if self.best_bid else None,
            lowest_ask=plain(self.best_ask[0]) if self.best_ask else None,
            lowest_ask_size=plain(self.best_ask[1]) if self.best_ask else None,
            spread=plain(self.spread_close) if some else None,
            spread_open=plain(self.spread_open) if some else None,
            min_spread=plain(self.spread_min) if some else None,
            max_spread=plain(self.spread_max) if some else None,
            mean_spread=plain(ratio(self.spread_time, self.two_sided_us)) if self.two_sided_us else None,
            mid=plain(self.mid_close) if some else None,
            mid_open=plain(self.mid_open) if some else None,
            mid_high=plain(self.mid_high) if some else None,
            mid_low=plain(self.mid_low) if some else None,
            moving_avg_10=plain(ratio(sum(self.mids, ZERO), len(self.mids))) if self.mids else None,
            bid_depth=plain(self.bid_depth),
            ask_depth=plain(self.ask_depth),
            imbalance=plain(ratio(self.bid_depth - self.ask_depth, depth)) if depth else None,
            updates=self.updates,
            resyncs=self.resyncs,
            in_step_share=plain(ratio(Decimal(self.in_step_us), self.observed_us))
            if self.observed_us
            else None,
            state="closed" if closed else "open",
        )


class BookStatsRow(msgspec.Struct):
    """One window's statistics as they are kept."""

    offset: int
    """The last offset of the log that this row includes. First, so that it can be read alone."""
    stats: BookStats
    closed: bool = False


class Held(msgspec.Struct, frozen=True):
    """How a book stands after a record, until the next one."""

    at_us: int = 0
    in_step: bool = False
    spread: Decimal | None = None
    mids: tuple[Decimal, ...] = ()


class BookState(msgspec.Struct):
    """What is kept of one symbol's book beyond its rows. The levels are not: the log has them."""

    offset: int = -1
    keyframe_offset: int = -1
    """Where to read from to have the book again: its last snapshot or keyframe."""
    keyframe_held: Held = Held()
    """How the book stood before that record."""
    held: Held = Held()
    """How it stands after ``offset``."""
    received_time_us: int = 0
    latest: dict[str, int] = {}
    latest_closed: dict[str, int] = {}
    kept_from: dict[str, int] = {}
    """By window, rows that start before this are not kept any more."""


class BookChange(NamedTuple):
    """A window of book statistics is over."""

    window: Window
    start_us: int
    offset: int
    book: BookFigures


class BookTape:
    """Folds book records of one symbol into rows, and holds its book. ``rows`` is by (window, start).

    Arguments:
        depth: levels a side that depth and imbalance sum up.
        keep_us: by window, how long a closed row is kept; a window that is not named, for ever.
    """

    def __init__(
        self,
        state: BookState,
        rows: MutableMapping[RowKey, BookStatsRow],
        depth: int,
        keep_us: Mapping[str, int] | None = None,
    ) -> None:
        self.state = state
        self.rows = rows
        self.depth = depth
        self.keep_us = keep_us or {}
        self.book: OrderBook | None = None
        """None until a snapshot or a keyframe was read since the start."""
        self.held = state.keyframe_held
        self._begins = state.keyframe_offset
        self._is_begun = False
        self._known = -1
        """The rows of the present run may include the log up to this offset."""
        self._unsampled = False  # a snapshot without a time waits for the next record's
        self._run: BookStats | None = None
        self._run_first = self._run_last = -1

    @property
    def in_step(self) -> bool:
        """Whether the book that is held now can be served."""
        return self.book is not None and self.held.in_step

    def fold(self, records: Iterable[tuple[int, BookRecord]]) -> list[BookChange | Expired]:
        """Take in records in the order of their offsets; return the windows that are over.

        Rows and state hold all of it after `settle`. After a restart, begin at ``state.keyframe_offset``.
        """
        changes: list[BookChange | Expired] = []
        with decimal.localcontext(EXACT):
            for offset, record in records:
                if offset < self._begins:
                    continue  # read again for another symbol's sake, whose keyframe is older
                if not self._is_begun:
                    self._is_begun = True
                    if offset > self._begins:  # the keyframe is too far back, or not in the log any more
                        self.held = msgspec.structs.replace(self.state.held, in_step=False)
                self._fold_one(offset, record, changes)
                if offset <= max(self.state.offset, self._known):
                    self._end_run()  # read again after a restart: each row decides, record by record
        return changes

    def settle(self) -> None:
        """Bring rows and state to the last record."""
        with decimal.localcontext(EXACT):
            self._end_run()

    def _fold_one(self, offset: int, record: BookRecord, changes: list[BookChange | Expired]) -> None:
        held, state = self.held, self.state
        state.received_time_us = max(state.received_time_us, record.received_time_us)
        at_us = max(record.event_time_us or 0, held.at_us)
        begins = not (isinstance(record, BookDelta | BookLost) or self._unsampled)
        if begins and offset > state.keyframe_offset:
            state.keyframe_offset, state.keyframe_held = offset, held
        if not at_us:  # no frame had a time yet: the book is there, its window is not known
            news, in_step = self._apply(record, held)
            self._unsampled = in_step and (news or self._unsampled)
            self.held = Held(0, in_step)
            return
        if held.at_us and SMALLEST.start_of(at_us) != SMALLEST.start_of(held.at_us):
            self._roll_over(offset, at_us, held, changes)
        if self._run is None:
            self._run = BookStats(mids=held.mids, in_step=held.in_step)
            self._run_first = offset
            rows = [self.rows.get((window.name, window.start_of(at_us))) for window in WINDOWS]
            self._known = max((row.offset for row in rows if row), default=-1)
        run = self._run
        self._run_last = offset
        if self._unsampled:
            self._unsampled = False
            held = self._sample(run, held)
        if held.at_us:
            run.weigh(at_us - max(held.at_us, SMALLEST.start_of(at_us)), held)
        news, in_step = self._apply(record, held)
        run.in_step = in_step
        after = Held(at_us, in_step, held.spread, held.mids)
        if news and in_step:
            run.resyncs += bool(held.at_us) and not held.in_step
            after = self._sample(run, after)
        self.held = after

    def _apply(self, record: BookRecord, held: Held) -> tuple[bool, bool]:
        """Change the book. Return whether the record told something new, and whether we are in step."""
        if isinstance(record, BookLost):
            return False, False
        if isinstance(record, BookDelta):
            if self.book is None or not held.in_step:
                return False, False
            self.book.apply(record)
            return True, not self.book.is_crossed
        if isinstance(record, BookKeyframe) and held.in_step:
            if self.book is not None:
                return False, True
            self.book = OrderBook()
            self.book.replace(record)
            return False, True  # built again: how the book stands was kept with the keyframe
        self.book = self.book or OrderBook()
        self.book.replace(record)
        return True, not self.book.is_crossed

    def _sample(self, run: BookStats, held: Held) -> Held:
        """Take one sample of the book as it stands; return what is held from here."""
        assert self.book is not None
        run.updates += 1
        bid, ask = self.book.best_bid, self.book.best_ask
        if not (bid and ask):
            return Held(held.at_us, held.in_step, None, held.mids)
        run.sample(bid[0], ask[0])
        run.mids = (*held.mids, run.mid_close)[-MIDS:]
        return Held(held.at_us, held.in_step, run.spread_close, run.mids)

    def _roll_over(self, offset: int, at_us: int, held: Held, changes: list[BookChange | Expired]) -> None:
        """End the windows between the last record and this one, and begin those that hold this one."""
        self._end_run()
        begins_us = SMALLEST.start_of(at_us)
        for window in WINDOWS:
            old, new = window.start_of(held.at_us), window.start_of(at_us)
            row = self.rows.get((window.name, old))
            if row is not None and row.offset < offset:
                row.stats.weigh(min(begins_us, window.end_of(old)) - held.at_us, held)
                # The record itself is folded after this, and may go into the same row.
                row.offset = offset - 1 if old == new else offset
                if old != new:
                    row.closed = True
                    changes.append(BookChange(window, old, offset, row.stats.figures(closed=True)))
                self.rows[window.name, old] = row
            if row is not None and old != new:
                self.state.latest_closed[window.name] = old
                self._expire(window, old, changes)
            if old != new and (window.name, new) not in self.rows:
                stats = BookStats(mids=held.mids, in_step=held.in_step)
                stats.weigh(begins_us - new, held)
                self.rows[window.name, new] = BookStatsRow(offset - 1, stats)

    def _expire(self, window: Window, closed_us: int, changes: list[BookChange | Expired]) -> None:
        """Let go of rows that closed long ago, counted from the last that did."""
        if window.name in self.keep_us:
            before_us = window.start_of(closed_us - self.keep_us[window.name])
            if before_us > self.state.kept_from.get(window.name, 0):
                self.state.kept_from[window.name] = before_us
                changes.append(Expired(window, before_us))

    def _end_run(self) -> None:
        """Merge the run into the row of each window."""
        run, self._run = self._run, None
        if run is None:
            return
        if self.book is not None:
            run.best_bid, run.best_ask = self.book.best_bid, self.book.best_ask
            run.bid_depth = sum((size for _, size in self.book.top_bids(self.depth)), ZERO)
            run.ask_depth = sum((size for _, size in self.book.top_asks(self.depth)), ZERO)
        for window in WINDOWS:
            key = (window.name, window.start_of(self.held.at_us))
            row = self.rows.get(key)
            if row is None:
                if key[1] < self.state.kept_from.get(window.name, key[1]):
                    continue  # read again after a restart
                row = BookStatsRow(self._run_last, BookStats())
            elif row.offset >= self._run_first:
                continue
            row.stats.merge(run)
            row.offset = self._run_last
            self.rows[key] = row
            self.state.latest[window.name] = key[1]
        self.state.offset = max(self.state.offset, self._run_last)
        self.state.held = self.held
