"""Every topic, in one place: its partitions and what Kafka keeps of it.

Topics are made by us before anything reads or writes, never by the broker on demand. Those that
must keep together (sources and the changelogs of the tables that are made from them) have the
same partition count.
"""

from __future__ import annotations

from candlewick.config import Settings
from producers.topic import BOOKS, DEAD_LETTERS, FEEDS, GAPS, TRADES, TopicSpec

__all__ = ["BOOKS", "BOOK_STATS", "CANDLES", "DEAD_LETTERS", "FEEDS", "GAPS", "TRADES", "changelog", "specs"]

CANDLES = "candles"
BOOK_STATS = "book-stats"

LARGEST_RECORD = 64 << 20
"""Bytes; a whole BTC-USD book is over 5 MB of JSON."""


def changelog(app_id: str, table: str) -> str:
    """Return the name that Faust gives a table's changelog."""
    return f"{app_id}-{table}-changelog"


def specs(settings: Settings) -> list[TopicSpec]:
    """Return every topic that these settings need."""
    kept = {"retention.ms": str(round(settings.retention_days * 86_400_000)), "cleanup.policy": "delete"}
    # An hour in which a row stays beside one that a stopped worker wrote late (docs/decisions/003).
    compacted = {"cleanup.policy": "compact", "min.compaction.lag.ms": "3600000"}
    large = {"max.message.bytes": str(LARGEST_RECORD)}
    changelogs = [changelog(settings.app_id, table) for table in (CANDLES, BOOK_STATS)]
    return [
        TopicSpec(TRADES, settings.partitions, kept),
        TopicSpec(BOOKS, settings.partitions, kept | large),
        TopicSpec(CANDLES, settings.partitions, compacted),
        TopicSpec(BOOK_STATS, settings.partitions, compacted),
        TopicSpec(GAPS, settings.partitions, compacted),
        TopicSpec(DEAD_LETTERS, 1, kept | large),
        TopicSpec(FEEDS, 1, compacted),
        *(TopicSpec(name, settings.partitions, compacted | large) for name in changelogs),
    ]
