"""What is known of a product that is watched: events in, what is shown out. No clock, no terminal."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import msgspec

from candlewick.terminal.events import Event
from models.answers import CandleItem, LiveCandle, ProductStatus, Snapshot, Ticker
from models.decimals import plain

KEPT = 500
"""Candles that are remembered, so that one that comes again is not told again."""
DAY = "1d"

_snapshot = msgspec.json.Decoder(Snapshot).decode
_candle = msgspec.json.Decoder(LiveCandle).decode
_ticker = msgspec.json.Decoder(Ticker | None).decode


class Change(NamedTuple):
    """How far a price has come."""

    by: Decimal
    percent: Decimal

    @classmethod
    def between(cls, old: str, new: str) -> Change:
        """Return the way from one price to another."""
        by = Decimal(new) - Decimal(old)
        return cls(by, 100 * by / Decimal(old))

    def __str__(self) -> str:
        sign = "+" if self.by > 0 else ""
        return f"{sign}{plain(self.by)} {self.percent:+.2f} %"

    @property
    def arrow(self) -> str:
        """Return its direction as one character."""
        return "▲" if self.by > 0 else "▼" if self.by < 0 else "="


class Watched:
    """One product, and one window of it."""

    def __init__(self, exchange: str, product_id: str, window: str) -> None:
        self.exchange = exchange
        self.product_id = product_id
        self.window = window
        self.candles: list[CandleItem] = []
        """The oldest first."""
        self.day: CandleItem | None = None
        self.ticker: Ticker | None = None
        self.status: ProductStatus | None = None
        self.traded_at: float | None = None
        """When the last trade came, by the clock of whoever calls."""
        self.trouble = "connecting"
        """Why nothing comes at present; empty while the stream is open."""
        self._joined = False

    def take(self, event: Event, now: float) -> list[CandleItem]:
        """Note an event; return the candles that it closed or amended.

        Of the first snapshot there are none: they are older than the watching.
        """
        if event.name == "ticker":
            self._note_ticker(_ticker(event.data), now)
            return []
        candles: list[CandleItem]
        if event.name == "snapshot":
            snapshot = _snapshot(event.data)
            window, candles = snapshot.window, snapshot.candles
        elif event.name == "candle":
            candle = _candle(event.data)
            window, candles = candle.window, [candle]
        else:
            return []
        if window == DAY and candles:
            self.day = candles[-1]
        if window != self.window:
            return []
        news = [candle for candle in candles if self._note(candle)]
        told = news if self._joined else []
        self._joined = True
        return told

    def _note(self, candle: CandleItem) -> bool:
        """Keep a candle; say whether it closed, or was amended, since we last heard of it."""
        index = next(
            (i for i in range(len(self.candles), 0, -1) if self.candles[i - 1].start_ms <= candle.start_ms), 0
        )
        known = self.candles[index - 1] if index else None
        if known is None or known.start_ms != candle.start_ms:
            self.candles.insert(index, candle)
            del self.candles[:-KEPT]
            return candle.state == "closed"
        if _stage(candle) < _stage(known):
            return False  # a worker that was killed has come back, and folds once more what we know
        self.candles[index - 1] = candle
        return candle.state == "closed" and _stage(candle) > _stage(known)

    def _note_ticker(self, ticker: Ticker | None, now: float) -> None:
        before, self.ticker = self.ticker, ticker or self.ticker
        if ticker and before and ticker.trade_id != before.trade_id:
            self.traded_at = now

    def note_status(self, status: ProductStatus, now: float) -> None:
        """Take what ``/v1/status`` says of it."""
        self.status = status
        if status.last_trade_age_ms is not None:
            traded_at = now - status.last_trade_age_ms / 1000
            self.traded_at = max(traded_at, self.traded_at or traded_at)

    @property
    def candle(self) -> CandleItem | None:
        """The newest candle."""
        return self.candles[-1] if self.candles else None

    @property
    def price(self) -> str | None:
        """The price of the last trade."""
        if self.ticker:
            return self.ticker.price
        return self.candle.close if self.candle else None

    @property
    def quotes(self) -> tuple[str, str, str, str] | None:
        """Bid, ask, spread and mid; None without a book that is in step."""
        ticker = self.ticker
        if ticker is None or ticker.bid is None or ticker.ask is None:
            return None
        bid, ask = Decimal(ticker.bid), Decimal(ticker.ask)
        return ticker.bid, ticker.ask, plain(ask - bid), plain((bid + ask) / 2)

    @property
    def book(self) -> str:
        """Say how the book is."""
        if self.quotes:
            return "in step"
        return "none" if self.status and self.status.book.state == "none" else "out of step"

    @property
    def today(self) -> Change | None:
        """The way of the price since midnight, UTC."""
        return Change.between(self.day.open, self.price) if self.day and self.price else None


def _stage(candle: CandleItem) -> tuple[bool, int]:
    """Return how far a candle has come: it closes once, then its revision rises."""
    return candle.state == "closed", candle.revision


def in_words(exchange: str, product_id: str, window: str, candle: CandleItem) -> str:
    """Write a candle as one line, the same fields in each."""
    event = "closed" if candle.revision == 0 else f"amended {candle.revision}"
    return (
        f"{candle.start} {exchange}:{product_id} {window} {event}"
        f" open {candle.open} high {candle.high} low {candle.low} close {candle.close}"
        f" volume {candle.volume} vwap {candle.vwap} trades {candle.trade_count} {wholeness(candle)}"
    )


def wholeness(candle: CandleItem) -> str:
    """Say whether a candle has all its trades."""
    if candle.complete:
        return "complete"
    return f"missing {candle.missing_trades}" if candle.missing_trades else "incomplete"


def remarks(candle: CandleItem) -> str:
    """Say shortly what is not as usual with a candle: it is open, amended, not whole, or made up."""
    parts = ["open"] if candle.state == "open" else []
    parts += [f"rev {candle.revision}"] if candle.revision else []
    if not candle.complete:
        parts.append(f"missing {candle.missing_trades}" if candle.missing_trades else "partial")
    parts += ["filled"] if candle.synthetic is True else []
    return ", ".join(parts)
