"""Which heartbeats go into the log.

An exchange beats once a second for each product; a busy symbol's trades say more. A quiet symbol
needs one where a candle is over, to move its watermark: one a minute is enough. And one that
names a trade which never came proves a gap, and always goes in; so does the first one after records
were dropped on the way to the log, as the trades it names may be among them. Pure.
"""

from __future__ import annotations

from models.trade import Heartbeat, Trade
from models.window import WINDOWS

SMALLEST = WINDOWS[0]


class _Symbol:
    __slots__ = ("held", "is_in_doubt", "joined_us", "last_trade_id", "proven_id", "spoke_us")

    def __init__(self, trade: Trade) -> None:
        self.last_trade_id = trade.trade_id
        self.spoke_us = trade.event_time_us
        """Exchange time of the last trade or heartbeat that is in the log."""
        self.joined_us: int | None = None
        """Exchange time of the first heartbeat after that trade."""
        self.held: Heartbeat | None = None
        """A heartbeat ahead of the trades: they have until the next one to arrive."""
        self.proven_id = 0
        """The highest last_trade_id that was written as a proof."""
        self.is_in_doubt = False
        """Whether its last trade may not be in the log."""


class Quiet:
    """Thins heartbeats to those that close a candle of the smallest window, given the grace."""

    def __init__(self, grace_us: int) -> None:
        self._grace_us = grace_us
        self._symbols: dict[tuple[str, str], _Symbol] = {}

    def saw(self, trade: Trade) -> None:
        """Note a trade that goes into the log."""
        key = (trade.exchange, trade.symbol)
        symbol = self._symbols.get(key)
        if symbol is None:
            self._symbols[key] = _Symbol(trade)
            return
        symbol.last_trade_id = max(symbol.last_trade_id, trade.trade_id)
        symbol.spoke_us = max(symbol.spoke_us, trade.event_time_us)

    def doubt(self) -> None:
        """Note that records of any symbol were dropped on their way to the log."""
        for symbol in self._symbols.values():
            symbol.is_in_doubt = True

    def let_through(self, heartbeat: Heartbeat) -> list[Heartbeat]:
        """Return the heartbeats to write now: none, this one, or the one before it as well.

        Before a symbol's first trade there are none: there is no candle whose time could move.
        """
        symbol = self._symbols.get((heartbeat.exchange, heartbeat.symbol))
        if symbol is None:
            return []
        through = []
        held, symbol.held = symbol.held, None
        if held and held.last_trade_id > symbol.last_trade_id:
            symbol.proven_id = held.last_trade_id
            through.append(held)
        if symbol.joined_us is None:
            symbol.joined_us = heartbeat.event_time_us
        spoke_in = SMALLEST.start_of(symbol.spoke_us)
        # The trade that came with the subscription is old: its candle can wait until there was time
        # for others, so that a topic begins with trades.
        joined = heartbeat.event_time_us - symbol.joined_us >= SMALLEST.size_us
        is_due = joined and SMALLEST.is_closed(spoke_in, heartbeat.event_time_us, self._grace_us)
        if is_due or symbol.is_in_doubt:
            symbol.is_in_doubt = False
            through.append(heartbeat)
            symbol.proven_id = max(symbol.proven_id, heartbeat.last_trade_id)
        elif heartbeat.last_trade_id > max(symbol.last_trade_id, symbol.proven_id):
            symbol.held = heartbeat
        if through:
            symbol.spoke_us = max(symbol.spoke_us, through[-1].event_time_us)
        return through
