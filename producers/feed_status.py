"""How a feed is set, what it says of itself, and how long it waits before it connects again."""

from __future__ import annotations

import random
from collections import Counter
from typing import Literal, Protocol

import msgspec

State = Literal["waiting", "connecting", "subscribed"]


class FeedSettings(msgspec.Struct, frozen=True):
    """Times in seconds, of a clock that only goes forward."""

    connection_products: int = 25
    connects_per_s: float = 8.0
    """Coinbase allows 8 new connections a second and address."""
    max_frame_bytes: int = 64 << 20
    ping_s: float = 20.0
    open_s: float = 10.0
    refused_s: float = 1.0
    """After the last refusal, how long the exchange may take to accept something all the same: one
    channel may be refused and the others acknowledged."""
    ack_s: float = 10.0
    """A request without any answer for so long ends the connection."""
    silence_s: float = 15.0
    """No frame at all for so long, where each product beats once a second, ends the connection."""
    symbol_silence_s: float = 15.0
    """A symbol of which there is no frame for so long, while its connection lives, has lost its book."""
    snapshot_s: float = 10.0
    """A book that is subscribed, and has no snapshot for so long, is subscribed again."""
    resubscribe_s: float = 5.0
    """At most one resubscribe of a symbol's book in this time, then in twice this time, ..."""
    resubscribe_most_s: float = 60.0
    """... up to this, while the book goes out of step again and again."""
    in_step_s: float = 60.0
    """A book that was in step for so long starts over with the shortest wait."""
    lose_books_on_gaps: bool = True
    """Missed trades lose the book of their symbol. Not so where frames come from a recording: its holes
    are no loss of this connection."""
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0
    healthy_s: float = 5.0
    """A connection that was subscribed for so long starts over with the shortest wait."""
    served_attempts: int = 3
    """One that was subscribed for less doubles the wait so often at most: the exchange is there."""
    tick_s: float = 0.25


class ConnectionStatus(msgspec.Struct, frozen=True):
    """One connection, at one moment; counts since the feed's start."""

    number: int
    state: State
    since_us: int
    products: tuple[str, ...]
    reconnects: dict[str, int]
    """How often the connection ended, by reason."""
    frames: int
    bytes: int
    refused_frames: int
    last_frame_us: int | None


class FeedStatus(msgspec.Struct, frozen=True):
    """The whole feed, at one moment."""

    exchange: str
    connections: tuple[ConnectionStatus, ...]
    refused_requests: int
    last_refusal: str | None
    """What the exchange said last when it refused a request."""
    unknown_messages: dict[str, int]
    books_resubscribed: int
    latency_counts: tuple[int, ...]
    """Of trades, as `models.producer_status.ProducerStatus` has it."""
    latency_sum_us: int

    @property
    def connected(self) -> int:
        """How many connections are subscribed."""
        return sum(connection.state == "subscribed" for connection in self.connections)

    @property
    def frames(self) -> int:
        """Frames received."""
        return sum(connection.frames for connection in self.connections)

    @property
    def reconnects(self) -> int:
        """How often a connection ended, all reasons together."""
        return sum(sum(connection.reconnects.values()) for connection in self.connections)

    @property
    def reconnect_reasons(self) -> dict[str, int]:
        """How often a connection ended, by reason."""
        return dict(sum((Counter(connection.reconnects) for connection in self.connections), Counter()))

    @property
    def last_frame_us(self) -> int | None:
        """When the last frame was received."""
        return max((at for connection in self.connections if (at := connection.last_frame_us)), default=None)

    @property
    def refused_frames(self) -> int:
        """How many frames became dead letters."""
        return sum(connection.refused_frames for connection in self.connections)


class Backoff(Protocol):
    """The settings of a back-off, in seconds."""

    @property
    def backoff_first_s(self) -> float:
        """The most that is waited the first time."""
        ...

    @property
    def backoff_most_s(self) -> float:
        """The most that is ever waited."""
        ...


def backoff_s(attempt: int, settings: Backoff, rng: random.Random) -> float:
    """Return how long to wait before the next try: full jitter, so that clients do not come in step.

    Arguments:
        attempt: ends since the last healthy time, the first is 0.
    """
    ceiling = settings.backoff_first_s * 2.0 ** min(attempt, 30)
    return rng.uniform(0, min(settings.backoff_most_s, ceiling))
