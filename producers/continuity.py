"""What the trades of one connection say of the rest that came over it.

Level changes carry no number, so a lost one cannot be seen. Trades do, and share the connection:
where they have a hole, others may be missing as well. Pure.
"""

from __future__ import annotations

from models.trade import Heartbeat, Trade


class Continuity:
    """One symbol on one connection; a new connection starts anew."""

    __slots__ = ("_held_id", "_last_id")

    def __init__(self) -> None:
        self._last_id: int | None = None
        """The highest trade id, of those that came and those that are known to be lost."""
        self._held_id = 0
        """A heartbeat named it ahead of the trades: they have until the next one to arrive."""

    def is_broken_by(self, event: Trade | Heartbeat) -> bool:
        """Note an event. Return whether it shows that trades before it were lost: each loss once.

        The first trade says nothing of those before it.
        """
        last_id = self._last_id
        if isinstance(event, Trade):
            if last_id is None or event.trade_id > last_id:
                self._last_id = event.trade_id
            return last_id is not None and event.trade_id > last_id + 1
        if last_id is None:
            return False
        is_broken = self._held_id > last_id
        self._last_id = max(last_id, self._held_id)
        self._held_id = event.last_trade_id
        return is_broken
