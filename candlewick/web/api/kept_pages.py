"""Pages that were made once, and are given again until something of their symbol changes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Page = TypeVar("Page")
AROUND = 500
"""Bytes that a page costs beside its own."""


class KeptPages(Generic[Page]):
    """Pages by symbol, and by what was asked for. With more bytes than allowed, all are forgotten."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._pages: dict[str, dict[Hashable, tuple[Page, int]]] = {}

    def get(self, symbol_key: str, asked: Hashable) -> Page | None:
        """Return the page for what was asked, if it is kept."""
        found = self._pages.get(symbol_key, {}).get(asked)
        return found[0] if found else None

    def put(self, symbol_key: str, asked: Hashable, page: Page, size: int) -> None:
        """Keep a page of ``size`` bytes."""
        size += AROUND
        known = self._pages.setdefault(symbol_key, {})
        self._bytes -= known.pop(asked, (page, 0))[1]
        if size > self._most_bytes:
            return
        if self._bytes + size > self._most_bytes:
            self.clear()
            known = self._pages.setdefault(symbol_key, {})
        self._bytes += size
        known[asked] = (page, size)

    def changed(self, symbol_key: str) -> None:
        """Forget the pages of a symbol."""
        self._bytes -= sum(size for _, size in self._pages.pop(symbol_key, {}).values())

    def clear(self) -> None:
        """Forget all."""
        self._pages.clear()
        self._bytes = 0
