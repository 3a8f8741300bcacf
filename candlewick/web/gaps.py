"""The gaps of all symbols, from the compacted topic ``gaps``."""

from __future__ import annotations

from candlewick import topics
from candlewick.web.followed import follow
from models.gap import Gap

MOST = 50_000
"""Gaps that are kept; beyond it those go that were noted first."""

known: dict[str, Gap] = follow(topics.GAPS, Gap, MOST)
"""The last word of each gap, by its key."""
