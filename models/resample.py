"""Candles of larger windows, made of kept ones when they are asked for: 5m of 1m, 4h of 1h. Pure."""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Iterator
from itertools import groupby

from models.decimals import EXACT
from models.shown import CandleFigures
from models.tape import CandleRow, TapeState, completeness
from models.window import Window


def resample(
    window: Window, rows: Iterable[tuple[int, CandleRow]], state: TapeState, grace_us: int
) -> Iterator[tuple[int, CandleFigures]]:
    """Return (start, candle) of each window that has rows.

    Its late trades are the sum of its parts'. Its revision is that of their revisions and late trades, so
    that a candle that is amended has a higher one here as well, also by a late trade that begins a part.

    Arguments:
        rows: (start, row) in the order of time, of a window that this one is a whole multiple of.
        state: of the symbol: it knows how far event time has come, and which trades are missing.
    """
    for start_us, group in groupby(rows, key=lambda each: window.start_of(each[0])):
        parts = [row for _, row in group]
        whole = parts[0].candle
        with decimal.localcontext(EXACT):
            for part in parts[1:]:
                whole = whole.merge(part.candle)
        complete, missing_trades = completeness(window, start_us, whole, state.ledger)
        yield (
            start_us,
            whole.figures(
                closed=window.is_closed(start_us, state.watermark_us, grace_us),
                complete=complete,
                late_trades=sum(part.late_trades for part in parts),
                missing_trades=missing_trades,
                revision=sum(part.revision + part.late_trades for part in parts),
            ),
        )
