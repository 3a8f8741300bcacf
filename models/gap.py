"""A gap in the trades of one symbol: what the topic ``gaps`` carries, keyed by symbol and first id.

Trade ids of a symbol rise by one, so a jump shows how many are missing, and the times of the trades
around it show which candles it touches.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from models.trade import Count

Cause = Literal["jump", "heartbeat"]
"""A trade came whose id was not the next, or a heartbeat named a trade that never came."""

State = Literal["open", "repaired", "merged"]
"""``merged``: too many holes at once, so this one became part of the gap before it."""


class Gap(msgspec.Struct, frozen=True):
    """Missing trades ``first_trade_id`` to ``last_trade_id``, both included, as they were found missing."""

    exchange: str
    symbol: str
    first_trade_id: Count
    last_trade_id: Count
    missing_trades: Count
    """How many of them are missing: all when it opens, none when it is repaired."""
    state: State
    cause: Cause
    after: str
    """RFC 3339: no missing trade is older than this."""
    before: str
    """RFC 3339: no missing trade is younger than this."""
    detected: str
    """RFC 3339, event time of the record that showed the hole."""
    settled: str | None = None
    """RFC 3339, event time that the log had reached when it was repaired or merged."""

    @property
    def key(self) -> str:
        """Return the record's key, the same for every state of one gap."""
        return f"{self.exchange}:{self.symbol}:{self.first_trade_id}"
