"""What the producers say of themselves: the compacted topic ``feeds``, read by every worker."""

from __future__ import annotations

import time

from candlewick import topics
from candlewick.web.followed import follow
from models.producer_status import ProducerStatus

FRESH_S = 30
"""Seconds after which a feed that says nothing counts as gone; it speaks every 10."""

known: dict[str, ProducerStatus] = follow(topics.FEEDS, ProducerStatus)
"""The last word of each producer, by its key."""


def connected() -> bool:
    """Say whether any feed is connected now."""
    now_us = time.time_ns() // 1000
    return any(is_connected(feed, now_us) for feed in known.values())


def is_connected(feed: ProducerStatus, now_us: int) -> bool:
    """Say whether a feed is connected, and has said so lately."""
    return feed.state == "connected" and feed.updated_us > now_us - FRESH_S * 1_000_000


def products(exchange: str) -> set[str]:
    """Return the products that feeds of an exchange follow."""
    feeds = [feed for feed in known.values() if feed.exchange == exchange and feed.state != "stopped"]
    return {product for feed in feeds for product in feed.products}
