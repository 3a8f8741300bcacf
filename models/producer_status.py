"""What a producer says of itself, in the compacted topic ``feeds``."""

from __future__ import annotations

from typing import Literal

import msgspec

LATENCY_BOUNDS_MS = (5, 10, 25, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 10_000, 60_000)
"""Upper bounds of the classes in which the latency of trades is counted; one more class has the rest."""


class ProducerStatus(msgspec.Struct, frozen=True):
    """The value in the topic ``feeds``; its key is ``exchange:producer``."""

    exchange: str
    producer: str
    state: Literal["connected", "connecting", "stopped"]
    """``connected``: at least one connection is subscribed. ``connected_connections`` says how many."""
    products: tuple[str, ...]
    connections: int
    connected_connections: int
    reconnects: int
    frames: int
    """Received since the producer started."""
    refused_frames: int
    dead_letters: int
    unacked: int
    """Records that wait for Kafka's word."""
    error: str | None
    """What the exchange said last when it refused a request, or what ended the feed."""
    updated_us: int
    spilled: int = 0
    """Records that went to the producer's disk because Kafka was away."""
    dropped: int = 0
    """Records that are lost, because the disk took no more of them."""
    open_gaps: int = 0
    """Gaps in the trades of these products that are not repaired yet."""
    unavailable_gaps: int = 0
    """Of these, those of which the exchange does not have every trade."""
    repaired_trades: int = 0
    """Trades that were missing, and fetched over REST."""
    reconnect_reasons: dict[str, int] = {}
    """How often a connection ended, by reason: together ``reconnects``."""
    books_resubscribed: int = 0
    """How often a book was asked for again."""
    last_frame_us: int | None = None
    """When the last frame was received."""
    spill_bytes: int = 0
    """What the producer's disk holds now for Kafka."""
    latency_counts: tuple[int, ...] = ()
    """Trades by the time from the exchange's clock to ours: so many up to each of `LATENCY_BOUNDS_MS`,
    and so many above. The first of a symbol on a connection is old, and not among them."""
    latency_sum_us: int = 0
    """Those times, summed."""
