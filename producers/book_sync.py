"""When a book's snapshot is to be asked for again, on one connection. Pure: times are given.

::

    subscribed ──snapshot──> in step ──lost──> due ──asked──> waits ──snapshot──> in step
        └──────────── overdue ─────────────────>┘<── overdue ───┘

A book that goes out of step again and again waits longer each time: a snapshot is the largest
message that an exchange sends, and a book that is always behind must not cost one a second.
"""

from __future__ import annotations

from producers.feed_status import FeedSettings


class BookSync:
    """One symbol's book on one connection; times are monotonic seconds."""

    __slots__ = (
        "_asked_at", "_due_at", "_settings", "_since", "is_in_step", "resubscribed_at", "resubscribes",
    )  # fmt: skip

    def __init__(self, settings: FeedSettings) -> None:
        self._settings = settings
        self.is_in_step = False
        """Its snapshot came, and nothing was missed since: deltas are of use."""
        self._since = 0.0
        """When the last snapshot came."""
        self._asked_at: float | None = None
        """Since when a snapshot is awaited."""
        self._due_at: float | None = None
        """When to subscribe again."""
        self.resubscribed_at = float("-inf")
        self.resubscribes = 0
        """How many there were without a long time in step between them."""

    def subscribed(self, now: float) -> None:
        """Note that the exchange will send a snapshot."""
        if not self.is_in_step and self._due_at is None and self._asked_at is None:
            self._asked_at = now

    def in_step(self, now: float) -> None:
        """Note a snapshot."""
        self.is_in_step, self._since = True, now
        self._asked_at = self._due_at = None

    def ask_again(self, now: float) -> None:
        """Have a new snapshot asked for, as soon as may be: the book was lost, or never came."""
        settings = self._settings
        if self.is_in_step and now - self._since >= settings.in_step_s:
            self.resubscribes = 0
        wait_s = settings.resubscribe_s * 2.0 ** min(max(0, self.resubscribes - 1), 30)
        self._due_at = max(now, self.resubscribed_at + min(settings.resubscribe_most_s, wait_s))

    def is_overdue(self, now: float) -> bool:
        """Say whether the snapshot that was asked for should have come by now."""
        return (
            self._due_at is None
            and self._asked_at is not None
            and now - self._asked_at > self._settings.snapshot_s
        )

    def is_due(self, now: float) -> bool:
        """Say whether to ask now."""
        return self._due_at is not None and self._due_at <= now

    def asked(self, now: float) -> None:
        """Note that a new snapshot was asked for."""
        self._due_at, self._asked_at, self.resubscribed_at = None, now, now
        self.resubscribes += 1
