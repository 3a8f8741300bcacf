"""Which heartbeats go into the log.

An exchange beats once a second for each product; a busy symbol's trades say more. A quiet symbol
needs a heartbeat now and then, to move its watermark. And one that names a trade which never
came proves a gap, and always goes in. Pure.
"""

from __future__ import annotations

from models.trade import Heartbeat, Trade


class _Symbol:
    __slots__ = ("held", "last_trade_id", "proven_id", "spoke_us")

    def __init__(self, trade: Trade) -> None:
        self.last_trade_id = trade.trade_id
        self.spoke_us = trade.event_time_us
        """Exchange time of the last trade or heartbeat that is in the log."""
        self.held: Heartbeat | None = None
        """A heartbeat ahead of the trades: they have until the next one to arrive."""
        self.proven_id = 0
        """The highest last_trade_id that was written as a proof."""


class Quiet:
    """Thins heartbeats: at most one for ``interval_us`` of exchange time without a trade."""

    def __init__(self, interval_us: int = 5_000_000) -> None:
        self._interval_us = interval_us
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
        if heartbeat.event_time_us - symbol.spoke_us >= self._interval_us:
            through.append(heartbeat)
            symbol.proven_id = max(symbol.proven_id, heartbeat.last_trade_id)
        elif heartbeat.last_trade_id > max(symbol.last_trade_id, symbol.proven_id):
            symbol.held = heartbeat
        if through:
            symbol.spoke_us = max(symbol.spoke_us, through[-1].event_time_us)
        return through
