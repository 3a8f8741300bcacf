"""Candles of any window, read from the tables: those that are kept, and those that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from agents.candles import GRACE_US
from models.answers import CandleItem
from models.resample import resample
from models.shown import CandleFigures
from models.tape import TapeState, describe
from models.times import rfc3339
from models.window import Window, made_of, window_named
from tables import candles

MOST_ROWS = 10_000
"""Kept candles that one page is made of: a page of a much larger window is shorter."""
MOST_KNOWN = 5_000
"""Kept candles in which it is looked for what changed while a listener was away."""


class Span(NamedTuple):
    """What a page is asked for: windows from ``first_us`` to before ``end_us``: the first, or the last."""

    first_us: int
    end_us: int
    most: int
    newest: bool


def most_windows(window: Window, asked: int) -> int:
    """Return how many windows a page may have of those that were asked for."""
    return max(1, min(asked, MOST_ROWS * made_of(window).size_us // window.size_us))


def read(
    partition: int, symbol_key: str, window: Window, span: Span, state: TapeState, fill: str
) -> tuple[list[CandleItem], Span | None]:
    """Return the candles of a span, oldest first, and the span of the page that follows.

    A window of which not all parts are kept any more is left out: it would be wrong.
    """
    base = made_of(window)
    span = span._replace(first_us=max(span.first_us, _kept_from(window, state)))
    if fill == "previous":
        return _read_filled(partition, symbol_key, window, base, span, state)
    parts = span.most * window.size_us // base.size_us + 1
    starts = candles.starts(
        partition, symbol_key, base.name, span.first_us, span.end_us, parts, newest=span.newest
    )
    windows = sorted({window.start_of(start_us) for start_us in starts})
    rest = _rest(span, windows)
    chosen = set(windows[-span.most :] if span.newest else windows[: span.most])
    kept = [start_us for start_us in starts if window.start_of(start_us) in chosen]
    return _described(partition, symbol_key, window, base, kept, state), rest


def _read_filled(
    partition: int, symbol_key: str, window: Window, base: Window, span: Span, state: TapeState
) -> tuple[list[CandleItem], Span | None]:
    """Return the same with a flat candle in each window without trades, from the first candle on."""
    first = candles.starts(partition, symbol_key, base.name, 0, span.end_us, 1)
    if not first:
        return [], None
    span, rest = _cut(window, span._replace(first_us=max(span.first_us, window.start_of(first[0]))))
    parts = span.most * window.size_us // base.size_us
    starts = candles.starts(partition, symbol_key, base.name, span.first_us, span.end_us, parts)
    found = _described(partition, symbol_key, window, base, starts, state)
    return _filled(partition, symbol_key, window, base, span, found), rest


def _kept_from(window: Window, state: TapeState) -> int:
    """Return the start of the first window of which all parts are kept, in microseconds."""
    oldest_us = state.kept_from.get(made_of(window).name, 0)
    return -(-oldest_us // window.size_us) * window.size_us


def _cut(window: Window, span: Span) -> tuple[Span, Span | None]:
    """Return as much of a span as a page holds, every window counted, and the rest."""
    size_us = span.most * window.size_us
    if span.end_us - span.first_us <= size_us:
        return span, None
    middle = span.end_us - size_us if span.newest else span.first_us + size_us
    older, newer = span._replace(end_us=middle), span._replace(first_us=middle)
    return (newer, older) if span.newest else (older, newer)


def _rest(span: Span, windows: Sequence[int]) -> Span | None:
    """Return what is left of a span after the page, whose windows are one more than it holds."""
    if len(windows) <= span.most:
        return None
    return (
        span._replace(end_us=windows[-span.most])
        if span.newest
        else span._replace(first_us=windows[span.most])
    )


def _described(
    partition: int, symbol_key: str, window: Window, base: Window, starts: Iterable[int], state: TapeState
) -> list[CandleItem]:
    found = [each for start_us in starts if (each := candles.at(partition, symbol_key, base.name, start_us))]
    figures: Iterable[tuple[int, CandleFigures]]
    if window.size_us == base.size_us:
        figures = ((each.start_us, describe(base, each.start_us, each.row, state)) for each in found)
    else:
        figures = resample(window, ((each.start_us, each.row) for each in found), state, GRACE_US)
    return [_item(window, start_us, candle) for start_us, candle in figures]


def item_at(
    partition: int, symbol_key: str, window: Window, start_us: int, state: TapeState
) -> CandleItem | None:
    """Return the candle of a window that starts then, if there is one."""
    span = Span(start_us, window.end_of(start_us), 1, newest=True)
    found, _ = read(partition, symbol_key, window, span, state, "none")
    return found[0] if found else None


def newest_items(partition: int, symbol_key: str, name: str, count: int, known: int) -> list[CandleItem]:
    """Return the newest candles; or those that changed after an offset, if it is not below 0."""
    state, window = candles.state(partition, symbol_key), window_named(name)
    if state is None or window is None or not state.latest:
        return []
    base = made_of(window)
    end_us = window.end_of(window.start_of(state.latest[base.name]))
    if known < 0:
        span = Span(0, end_us, most_windows(window, count), newest=True)
        return read(partition, symbol_key, window, span, state, "none")[0]
    starts = candles.starts(partition, symbol_key, base.name, 0, end_us, MOST_KNOWN, newest=True)
    rows = ((start_us, candles.at(partition, symbol_key, base.name, start_us)) for start_us in starts)
    changed = {window.start_of(start_us) for start_us, found in rows if found and found.row.offset > known}
    if window.size_us != base.size_us:
        # One that was open may have closed since without a change of its parts.
        changed |= set(sorted({window.start_of(start_us) for start_us in starts} - changed)[-2:])
    items = (item_at(partition, symbol_key, window, start_us, state) for start_us in sorted(changed))
    return [item for item in items if item]


def _item(window: Window, start_us: int, figures: CandleFigures, **more: Any) -> CandleItem:
    return CandleItem(
        **{**msgspec.structs.asdict(figures), **more},
        start=rfc3339(start_us),
        end=rfc3339(window.end_of(start_us)),
        start_ms=start_us // 1000,
    )


def _filled(
    partition: int, symbol_key: str, window: Window, base: Window, span: Span, found: Sequence[CandleItem]
) -> list[CandleItem]:
    """Put a flat candle into each window without trades, from the first trade on."""
    by_start = {item.start_ms * 1000: item for item in found}
    last: CandleItem | None = None
    for start_us in candles.starts(partition, symbol_key, base.name, 0, span.first_us, 1, newest=True):
        if before := candles.at(partition, symbol_key, base.name, start_us):
            last = _item(base, start_us, describe(base, start_us, before.row, before.state))
    filled = []
    for start_us in range(span.first_us, span.end_us, window.size_us):
        item = by_start.get(start_us)
        if item is None and last is not None:
            item = _flat(window, start_us, last)
        if item is not None:
            filled.append(item)
            last = item
    return filled


def _flat(window: Window, start_us: int, last: CandleItem) -> CandleItem:
    close = last.close
    return msgspec.structs.replace(
        last,
        open=close, high=close, low=close, vwap=close,
        volume="0", quote_volume="0", buy_volume="0", sell_volume="0", trade_count=0,
        late_trades=0, missing_trades=0, revision=0, state="closed", complete=True, synthetic=True,
        start=rfc3339(start_us), end=rfc3339(window.end_of(start_us)), start_ms=start_us // 1000,
    )  # fmt: skip
