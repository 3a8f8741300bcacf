"""Tables of text: aligned, in colour on a terminal, whole lines where a program reads them."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from candlewick.terminal.watched import remarks
from models.answers import CandleItem

WIDE = 110
"""Columns of a terminal from which on a candle, or a gap, is shown whole."""
NO_TERMINAL = 400
"""Columns where nothing is cut."""


def console() -> Console:
    """Return what to print on: of the terminal's width, or of any where there is none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no arrows shows a question mark
    return Console(highlight=False, width=None if sys.stdout.isatty() else NO_TERMINAL)


def show(shown: RenderableType) -> None:
    """Print on standard output; where that is no terminal, without blanks at the ends of lines."""
    out = console()
    if out.is_terminal:
        out.print(shown)
        return
    with out.capture() as captured:
        out.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def grid(names: Sequence[str], left: set[str], gap: int = 2) -> Table:
    """Return an empty table without lines; columns that are not ``left`` stand at the right.

    A column without a name is for remarks, and may take more lines.
    """
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=bool(name))
    return table


def candle_table(candles: Sequence[CandleItem], width: int) -> Table:
    """Return candles as a table, a row each; a narrow one has no vwap."""
    more = ("vwap",) if width >= WIDE else ()
    names = ("start", "open", "high", "low", "close", "volume", *more, "trades", "")
    table = grid(names, {"start", ""}, 2 if width >= WIDE else 1)
    for candle in candles:
        table.add_row(
            candle.start.removesuffix("Z").removesuffix(":00").replace("T", " "),
            *(candle.open, candle.high, candle.low, candle.close, candle.volume),
            *((candle.vwap,) if more else ()),
            f"{candle.trade_count:,}",
            Text(remarks(candle), "dim" if candle.complete else "yellow"),
        )
    return table
