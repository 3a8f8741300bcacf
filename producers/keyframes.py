"""The producer's own copy of each book, and the keyframes that it writes from it.

A reader of the topic ``books`` may join anywhere, so each symbol's whole book is written again
every so often. Pure: events and times in, keyframes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from models.book import BookDelta, BookKeyframe, BookLost, BookRecord, BookSnapshot, OrderBook
from models.trade import Heartbeat

Key = tuple[str, str]
"""Exchange and symbol."""


class _Copy:
    def __init__(self, snapshot: BookSnapshot | BookKeyframe, due_us: int) -> None:
        self.book = OrderBook()
        self.book.replace(snapshot)
        self.due_us = due_us
        self.event_time_us = snapshot.event_time_us
        self.received_time_us = snapshot.received_time_us

    def see(self, event_time_us: int | None, received_time_us: int) -> None:
        if event_time_us is not None:
            self.event_time_us = max(event_time_us, self.event_time_us or 0)
        self.received_time_us = max(received_time_us, self.received_time_us)


class Keyframer:
    """Watches book records pass, and says when which keyframe is due.

    Arguments:
        interval_us: a reader meets a snapshot or a keyframe of each symbol in step at least this often.
    """

    def __init__(self, interval_us: int = 30_000_000) -> None:
        self._interval_us = interval_us
        self._copies: dict[Key, _Copy] = {}

    @property
    def in_step(self) -> list[Key]:
        """The symbols whose book can be trusted."""
        return list(self._copies)

    def watch(self, event: BookRecord | Heartbeat, now_us: int) -> str | None:
        """Note an event, before it is written. Return why its book is lost, if it is: ``crossed``.

        The caller must then write a `BookLost` and ask the exchange for a new snapshot. Times
        (``now_us``, here and in `due`) are of any clock that only goes forward.
        """
        key = (event.exchange, event.symbol)
        if isinstance(event, BookSnapshot | BookKeyframe):
            # The first keyframe comes early, at the symbol's own point of the interval: products
            # that were subscribed together must not all be written together ever after.
            phase = (crc32(event.symbol.encode()) % 997 + 1) / 997
            copy = self._copies[key] = _Copy(event, now_us + round(self._interval_us * phase))
        elif isinstance(event, BookLost):
            self._copies.pop(key, None)
            return None
        else:
            found = self._copies.get(key)
            if found is None:
                return None
            copy = found
            copy.see(event.event_time_us, event.received_time_us)
            if isinstance(event, BookDelta):
                copy.book.apply(event)
        if copy.book.is_crossed:
            del self._copies[key]
            return "crossed"
        return None

    def due(self, now_us: int) -> Iterator[BookKeyframe]:
        """Yield the keyframes that are due, each made when it is asked for.

        Write each before asking for the next: a list made at once would, while its first is being
        written, grow older than the deltas that pass meanwhile, and undo them for a reader.
        """
        for key in [key for key, copy in self._copies.items() if copy.due_us <= now_us]:
            copy = self._copies.get(key)
            if copy is None or copy.due_us > now_us:  # lost, or a snapshot came, while we yielded
                continue
            yield self._make(key, copy, now_us)

    def keyframe(self, key: Key, now_us: int) -> BookKeyframe | None:
        """Return a symbol's book as it is, due or not; None when it is not in step."""
        copy = self._copies.get(key)
        return self._make(key, copy, now_us) if copy else None

    def _make(self, key: Key, copy: _Copy, now_us: int) -> BookKeyframe:
        if copy.due_us <= now_us:
            # Counted from when it was due, so that each symbol keeps its point of the interval.
            missed = (now_us - copy.due_us) // self._interval_us
            copy.due_us += self._interval_us * (missed + 1)
        return BookKeyframe(
            exchange=key[0],
            symbol=key[1],
            event_time_us=copy.event_time_us,
            received_time_us=copy.received_time_us,
            bids=tuple(reversed(copy.book.bids.items())),
            asks=tuple(copy.book.asks.items()),
        )
