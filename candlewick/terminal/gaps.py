"""``candlewick gaps``: which trades were missing, and whether they came.

Exit code 0: none of those shown is open; 1: some are; 2: nothing answers.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlencode

import msgspec
from rich.table import Table
from rich.text import Text

from candlewick.config import Settings
from candlewick.terminal.client import Views, where
from candlewick.terminal.tables import WIDE, console, grid, show
from models.gap import Gap

MOST = 5000
"""Gaps of one answer, the most that a worker gives; the newest."""


class Asked(NamedTuple):
    """Which gaps; None: all."""

    product_id: str | None
    exchange: str | None
    state: str | None
    start: str | None
    end: str | None

    @property
    def target(self) -> str:
        """Return path and query."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        return f"/v1/gaps?{urlencode(given | {'limit': str(MOST)}, safe=':')}"


def run(settings: Settings, asked: Asked, as_json: bool) -> int:
    """Print gaps, the newest first; return the exit code.

    Raises:
        Unasked: nothing answers.
    """
    with Views(where(settings)) as views:
        gaps = views.read(asked.target, list[Gap])
    if as_json:
        print(msgspec.json.encode(gaps).decode(), flush=True)
    else:
        if gaps:
            show(gap_table(gaps, narrow=console().width < WIDE))
        show(in_words(gaps))
    return 1 if any(gap.state == "open" for gap in gaps) else 0


def gap_table(gaps: list[Gap], narrow: bool) -> Table:
    """Return gaps as a table; a narrow one leaves out what else can be told of them."""
    more = () if narrow else ("cause", "settled")
    names = ("product", "state", "first trade", "last trade", "missing", "since", *more)
    table = grid(names, {"product", "state", "since", *more})
    for gap in gaps:
        table.add_row(
            Text(gap.symbol),
            Text(gap.state, "yellow" if gap.state == "open" else "dim"),
            str(gap.first_trade_id),
            str(gap.last_trade_id),
            f"{gap.missing_trades:,}",
            _moment(gap.after),
            *(() if narrow else (gap.cause, _moment(gap.settled) if gap.settled else "-")),
        )
    return table


def in_words(gaps: list[Gap]) -> str:
    """Say how many there are, and what is missing."""
    open_gaps = [gap for gap in gaps if gap.state == "open"]
    if not gaps:
        return "no gaps"
    missing = sum(gap.missing_trades for gap in open_gaps)
    told = f"{len(gaps):,} gap{'s' if len(gaps) > 1 else ''}, {len(open_gaps):,} open"
    told += f", {missing:,} trades missing" if missing else ""
    return told + (f"; there may be older ones: these are the newest {MOST:,}" if len(gaps) == MOST else "")


def _moment(text: str) -> str:
    """Write a time to the second."""
    return text.partition(".")[0].removesuffix("Z").replace("T", " ")
