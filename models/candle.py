"""A candle, and its fold: `of` a run of trades, `add` one, `merge` two.

The fold gives one answer for one set of trades, whatever their order and however often one
arrives: open and close are chosen by (event time, trade id), sums are exact, and the ids that
are inside say what is there already and what is missing.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from models import ids
from models.decimals import EXACT, plain, ratio
from models.shown import CandleFigures
from models.trade import Trade

ZERO = Decimal(0)


class Candle(msgspec.Struct, frozen=True):
    """Trades of one symbol, summed up. Prices in the quote currency, volumes in the base currency."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    """Sum of price times size, in the quote currency."""
    buy_volume: Decimal
    """Volume whose taker bought."""
    opened: tuple[int, int]
    """(event_time_us, trade_id) of the trade that set ``open``."""
    closed: tuple[int, int]
    """(event_time_us, trade_id) of the trade that set ``close``."""
    ids: ids.Ranges
    trade_count: int

    @classmethod
    def of(cls, trades: Sequence[Trade]) -> Candle:
        """Fold a run of at least one trade, no id twice, under `EXACT`. The hot loop of the project."""
        first = trades[0]
        open_, high, low, close = first.price, first.price, first.price, first.price
        opened = closed = (first.event_time_us, first.trade_id)
        volume = quote_volume = buy_volume = ZERO
        low_id = high_id = first.trade_id
        ranges: ids.Ranges = ()
        for trade in trades:
            price, size, trade_id = trade.price, trade.size, trade.trade_id
            if price > high:
                high = price
            elif price < low:
                low = price
            volume += size
            quote_volume += price * size
            if trade.taker_side == "buy":
                buy_volume += size
            at = (trade.event_time_us, trade_id)
            if at > closed:
                closed, close = at, price
            elif at < opened:
                opened, open_ = at, price
            if trade_id == high_id + 1:
                high_id = trade_id
            elif trade_id != high_id:
                ranges = ids.union(ranges, ((low_id, high_id),))
                low_id = high_id = trade_id
        return cls(
            open=open_,
            high=high,
            low=low,
            close=close,
            volume=volume,
            quote_volume=quote_volume,
            buy_volume=buy_volume,
            opened=opened,
            closed=closed,
            ids=ids.union(ranges, ((low_id, high_id),)),
            trade_count=len(trades),
        )

    def merge(self, other: Candle) -> Candle:
        """Return the candle of both sets of trades, which have no trade in common; under `EXACT`."""
        first = self if self.opened < other.opened else other
        last = self if self.closed > other.closed else other
        return Candle(
            open=first.open,
            high=max(self.high, other.high),
            low=min(self.low, other.low),
            close=last.close,
            volume=self.volume + other.volume,
            quote_volume=self.quote_volume + other.quote_volume,
            buy_volume=self.buy_volume + other.buy_volume,
            opened=first.opened,
            closed=last.closed,
            ids=ids.union(self.ids, other.ids),
            trade_count=self.trade_count + other.trade_count,
        )

    def follows(self, other: Candle) -> bool:
        """Say whether every id here is above every id there, so that no trade is in both."""
        return self.ids[0][0] > other.ids[-1][1]

    @property
    def forgotten(self) -> int:
        """How many ids count as seen that never came: those of holes beyond `ids.MAX_RANGES`."""
        return sum(high - low + 1 for low, high in self.ids) - self.trade_count

    @property
    def first_trade_id(self) -> int:
        return self.ids[0][0]

    @property
    def last_trade_id(self) -> int:
        return self.ids[-1][1]

    def figures(
        self,
        *,
        closed: bool = False,
        complete: bool = False,
        late_trades: int = 0,
        missing_trades: int = 0,
        revision: int = 0,
    ) -> CandleFigures:
        """Return what a user sees: exact sums as strings, vwap to 12 significant digits."""
        with decimal.localcontext(EXACT):
            sell_volume = self.volume - self.buy_volume
        return CandleFigures(
            open=plain(self.open),
            high=plain(self.high),
            low=plain(self.low),
            close=plain(self.close),
            volume=plain(self.volume),
            quote_volume=plain(self.quote_volume),
            vwap=plain(ratio(self.quote_volume, self.volume)),
            trade_count=self.trade_count,
            buy_volume=plain(self.buy_volume),
            sell_volume=plain(sell_volume),
            first_trade_id=self.first_trade_id,
            last_trade_id=self.last_trade_id,
            state="closed" if closed else "open",
            complete=complete,
            late_trades=late_trades,
            missing_trades=missing_trades,
            revision=revision,
        )
