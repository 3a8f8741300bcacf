"""A simulated market: orders meet in a real book, and the exchange's frames come out.

Each product is a world of its own, with its own random numbers, so adding one changes no other:

- A **fair value** nobody sees does a random walk; how fast, and how often people trade, follows an
  **activity** that wanders around 1, so that candles have quiet and busy times.
- **Makers** place and cancel limit orders around it, **takers** send market orders, more often in
  the direction of the fair value. Trades are the fills, nothing else; prices follow from them.
- Every 50 ms of market time makers tidy up (pull stale quotes, close a wide spread, restore the
  depth), and all level changes since the last time leave as one ``l2update``.

**Determinism.** Time is an argument, chance is seeded with ``seed/product``. The same product, seed,
start, levels, rate and quota give the same frames byte by byte, in whatever steps and up to
whatever time `ProductMarket.advance` is called, on one version of Python and one C library (``exp``
and ``log`` may differ in the last bit between those). Snapshots are not part of the stream: asking
for one changes nothing.
"""

from __future__ import annotations

import random
from math import exp, sqrt

from candlewick.mock.frames import (
    BookView,
    Frame,
    TickerView,
    as_last_match,
    heartbeat_text,
    snapshot_text,
    time_text,
)
from candlewick.mock.matching import Side
from candlewick.mock.products import Product
from candlewick.mock.tradelog import TradeLog
from candlewick.mock.truth import Truth

BATCH_US = 50_000
"""``level2_batch`` sends its changes this often. Source: Coinbase's documentation, Channels."""
SECOND_US = 1_000_000
MINUTE_US = 60_000_000
EPOCH_2020_S = 1_577_836_800

_STEP_S = BATCH_US / SECOND_US
_ACTIVITY_TIME_S = 60.0
"""How long a busy time lasts."""
_ACTIVITY_SPREAD = 0.5
"""Standard deviation of the logarithm of the activity: most of the time between 1/3 and 2.5."""
_MASK = (1 << 128) - 1
_NEVER_US = 1 << 62
_ANY = 1 << 62


class ProductMarket:
    """One product's market. Times are microseconds since 1970."""

    def __init__(
        self,
        product: Product,
        seed: int,
        start_us: int,
        *,
        levels: int = 50,
        trades_per_s: float | None = None,
        quota: int | None = None,
        truth: Truth | None = None,
        last_trade_id: int | None = None,
    ) -> None:
        self.product = product
        self.now_us = start_us
        self.levels = max(1, min(levels, product.price // 4))
        """Levels of each side, about; a price of few ticks has no room for thousands."""
        self.finished = quota == 0
        """True when the quota of trades is used up: no frames follow."""
        self.log = TradeLog(product)
        self._rate = product.trades_per_s if trades_per_s is None else trades_per_s
        self._left = quota
        self._truth = truth
        self._chance = random.Random(f"{seed}/{product.id}")
        self._salt = self._chance.getrandbits(128)
        self._factor = self._chance.getrandbits(128) | 1
        self._bids, self._asks = Side(), Side()
        self._fair = self._home = float(product.price)
        self._depth = min(product.spacing * self.levels * 1.2, product.price * 0.8)
        # The logarithm of the activity, and what makes the mean of the activity itself 1.
        self._calm = _ACTIVITY_SPREAD * _ACTIVITY_SPREAD / 2
        self._order = 0
        self._boundary_us = start_us // BATCH_US * BATCH_US + BATCH_US
        self._changed_us = start_us
        self._price_texts: dict[int, str] = {}
        # Ids go on from any earlier run that was slower than this: a market that starts anew on
        # old data must not use the same ids for other trades.
        second = max(100, start_us // SECOND_US - EPOCH_2020_S)
        self._trade_id = second * max(10, int(2 * self._rate)) if last_trade_id is None else last_trade_id
        self.sequence = self._trade_id * 25
        self._last_match = ""
        self._open()
        self._set_rates(1.0)
        self._next_take_us = start_us + self._gap_us(self._take_rate)
        self._next_quote_us = start_us + self._gap_us(self._quote_rate)

    def advance(self, to_us: int, frames: list[Frame]) -> None:
        """Let the market run up to and including a time; append its frames, in order of time."""
        while not self.finished:
            take = self._next_take_us <= self._next_quote_us
            next_us = self._next_take_us if take else self._next_quote_us
            if next_us >= self._boundary_us:
                if self._boundary_us > to_us:
                    break
                self._end_batch(frames)
            elif next_us > to_us:
                break
            elif take:
                self._take(next_us, frames)
            else:
                self._quote(next_us)
        if not self.finished and to_us > self.now_us:
            self.now_us = to_us

    @property
    def last_trade_id(self) -> int:
        """The id of the last trade, before or after the start."""
        return self._trade_id

    def last_match(self) -> Frame:
        """Return what a new subscriber of ``matches`` gets first."""
        return Frame(self.product.id, "last_match", self.now_us, as_last_match(self._last_match))

    def snapshot(self) -> Frame:
        """Return the whole book as it is now. The next ``l2update`` may repeat some of it."""
        product = self.product
        texts = [
            [f'["{self._price(ticks)}","{product.size_text(units)}"]' for ticks, units in side]
            for side in (self.bids(), self.asks())
        ]
        text = snapshot_text(product.id, texts[0], texts[1], self._changed_us)
        return Frame(product.id, "snapshot", self.now_us, text)

    def heartbeat(self) -> Frame:
        """Return a heartbeat of now."""
        text = heartbeat_text(self.product.id, self.sequence, self._trade_id, self.now_us)
        return Frame(self.product.id, "heartbeat", self.now_us, text)

    def ticker(self) -> Frame:
        """Return the frame of the channel ``ticker``; its ``side`` is the taker's."""
        view, log, product = self.ticker_view(), self.log, self.product
        text = (
            f'{{"type":"ticker","sequence":{self.sequence},"product_id":"{product.id}",'
            f'"price":"{view.price}","open_24h":"{self._price(log.open)}","volume_24h":"{view.volume}",'
            f'"low_24h":"{self._price(log.low)}","high_24h":"{self._price(log.high)}",'
            f'"volume_30d":"{view.volume}","best_bid":"{view.bid}","best_ask":"{view.ask}",'
            f'"side":"{"buy" if log.maker_side(-1) == "sell" else "sell"}","time":"{view.time}",'
            f'"trade_id":{view.trade_id},"last_size":"{view.size}"}}'
        )
        return Frame(product.id, "ticker", self.now_us, text)

    def ticker_view(self) -> TickerView:
        """Return the last trade and the best prices."""
        row = self.log.rows(1, None, None)[0]
        return TickerView(
            trade_id=self._trade_id,
            price=str(row["price"]),
            size=str(row["size"]),
            time=str(row["time"]),
            bid=self._price(self._bids.keys[-1]),
            ask=self._price(-self._asks.keys[-1]),
            volume=self.product.size_text(self.log.volume),
        )

    def bids(self) -> list[tuple[int, int]]:
        """Return ticks and units of every bid level, the best first."""
        return [(key, self._bids.levels[key].total) for key in reversed(self._bids.keys)]

    def asks(self) -> list[tuple[int, int]]:
        """Return ticks and units of every ask level, the best first."""
        return [(-key, self._asks.levels[key].total) for key in reversed(self._asks.keys)]

    def book(self, count: int | None) -> BookView:
        """Return the book for REST, the best ``count`` levels a side."""
        sides = []
        for side, sign in ((self._bids, 1), (self._asks, -1)):
            rows: list[list[object]] = []
            for key in list(reversed(side.keys))[:count]:
                level = side.levels[key]
                rows.append([self._price(sign * key), self.product.size_text(level.total), len(level.orders)])
            sides.append(rows)
        return BookView(sides[0], sides[1], self.sequence, self.now_us)

    def _open(self) -> None:
        """Fill the book, and have one trade before the start, in the minute before it.

        Only one, because a client sees no more of the past than its last match, and is right to
        count it as a trade of its own minute.
        """
        for side, sign in ((self._bids, 1), (self._asks, -1)):
            self._deepen(side, sign, 40 * self.levels)
        start_us = self.now_us
        past_us = start_us // MINUTE_US * MINUTE_US - self._chance.randrange(SECOND_US, 20 * SECOND_US)
        self._fill(self._chance.random() < 0.5, past_us, [], most=1)
        for side, sign in ((self._bids, 1), (self._asks, -1)):
            self._deepen(side, sign, 40)
        self._bids.touched.clear()
        self._asks.touched.clear()

    def _set_rates(self, activity: float) -> None:
        rate = self._take_rate = self._rate * activity
        # Some ten quotes to a trade in a calm market, but not in a load test, where they would cost most.
        self._quote_rate = max(8.0, min(4 * rate, 40 + 1.2 * rate))

    def _gap_us(self, rate: float) -> int:
        return 1 + int(self._chance.expovariate(rate) * SECOND_US) if rate else _NEVER_US

    def _price(self, ticks: int) -> str:
        text = self._price_texts.get(ticks)
        if text is None:
            if len(self._price_texts) > 100_000:
                self._price_texts.clear()
            text = self._price_texts[ticks] = self.product.price_text(ticks)
        return text

    def _order_id(self, number: int) -> str:
        # An odd factor makes it one to one; text only for orders that trade.
        text = f"{(number * self._factor + self._salt) & _MASK:032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def _take(self, time_us: int, frames: list[Frame]) -> None:
        """Send one market order."""
        chance = self._chance.random
        middle = (self._bids.keys[-1] - self._asks.keys[-1]) / 2
        pull = (self._fair - middle) / (4 * self.product.spacing)
        buy = chance() < 0.5 + max(-0.4, min(0.4, pull))
        count = self._fill(buy, time_us, frames, _ANY if self._left is None else self._left)
        # The gap after n trades is n times as long: so the rate counts trades, not orders.
        self._next_take_us = time_us + self._gap_us(self._take_rate / count)
        if self._left is not None:
            self._left -= count
            if not self._left:  # nothing more but the end of this batch
                self._next_take_us = self._next_quote_us = _NEVER_US

    def _fill(self, buy: bool, time_us: int, frames: list[Frame], most: int) -> int:
        product, side = self.product, (self._asks if buy else self._bids)
        chance = self._chance
        units = 1 + int(product.order_size * chance.expovariate(2.0))
        if chance.random() < 0.03:
            units *= 8
        fills = side.take(units, most)
        self._order += 1
        self.sequence += 1  # received
        taker, when = self._order_id(self._order), time_text(time_us)
        maker_side, sign = ("sell", -1) if buy else ("buy", 1)
        log, truth = self.log, self._truth
        for key, maker, filled, done in fills:
            ticks = sign * key
            self._trade_id += 1
            self.sequence += 1
            text = self._last_match = (
                f'{{"type":"match","trade_id":{self._trade_id},"maker_order_id":"{self._order_id(maker)}",'
                f'"taker_order_id":"{taker}","side":"{maker_side}","size":"{product.size_text(filled)}",'
                f'"price":"{self._price(ticks)}","product_id":"{product.id}",'
                f'"sequence":{self.sequence},"time":"{when}"}}'
            )
            frames.append(Frame(product.id, "match", time_us, text))
            log.add(self._trade_id, ticks, filled, buy, time_us)
            if truth is not None:
                truth.trade(product, self._trade_id, ticks, filled, "buy" if buy else "sell", time_us)
            if done:
                self.sequence += 1
        self.sequence += 1  # done
        self._changed_us = time_us
        if not side.keys:
            self._add(side, sign, near=True)
        return len(fills)

    def _quote(self, time_us: int) -> None:
        """A maker places an order, or takes one back."""
        chance = self._chance
        draw = chance.random()
        side, sign = (self._bids, 1) if chance.random() < 0.5 else (self._asks, -1)
        if draw < 0.6:
            self._add(side, sign, near=draw < 0.4)
        else:
            back = 1 + int(chance.expovariate(1.0) * len(side.keys) * 0.2)
            if back < len(side.keys):
                side.cancel_newest(-back)
                self.sequence += 1
        self._changed_us = time_us
        self._next_quote_us = time_us + self._gap_us(self._quote_rate)

    def _add(self, side: Side, sign: int, *, near: bool, new_only: bool = False) -> None:
        """Place a limit order; it never crosses, for it is post-only."""
        chance, spacing = self._chance, self.product.spacing
        away = chance.expovariate(1.0) * spacing if near else chance.random() * self._depth
        key = int(sign * self._fair - spacing * 0.3 - away)
        opposite = (self._asks if sign == 1 else self._bids).keys
        if opposite and key > -opposite[-1] - 1:
            key = -opposite[-1] - 1
        if (sign == 1 and key < 1) or (new_only and key in side.levels):
            return
        self._order += 1
        self.sequence += 2  # received, open
        side.add(key, self._order, 1 + int(self.product.order_size * (0.2 + chance.expovariate(0.5))))

    def _end_batch(self, frames: list[Frame]) -> None:
        """The end of 50 ms: the world moves on, makers tidy up, the changes leave as one frame."""
        product, boundary_us = self.product, self._boundary_us
        self.finished = self._left == 0
        self._move()
        for side, sign in ((self._bids, 1), (self._asks, -1)):
            self._tidy(side, sign)
        # The frame's time is that of its last change, which is rarely the very end.
        late_us = boundary_us - int(self._chance.random() * BATCH_US / 2)
        changes = [
            f'["buy","{self._price(key)}","{product.size_text(units)}"]' for key, units in self._bids.drain()
        ]
        changes += [
            f'["sell","{self._price(-key)}","{product.size_text(units)}"]'
            for key, units in self._asks.drain()
        ]
        self.now_us = boundary_us
        if changes:
            self._changed_us = max(self._changed_us, late_us)
            text = (
                f'{{"type":"l2update","product_id":"{product.id}","changes":[{",".join(changes)}],'
                f'"time":"{time_text(self._changed_us)}"}}'
            )
            frames.append(Frame(product.id, "l2update", boundary_us, text))
        if boundary_us % SECOND_US == 0 or self.finished:
            frames.append(self.heartbeat())
        self._boundary_us = boundary_us + BATCH_US

    def _move(self) -> None:
        gauss = self._chance.gauss
        self._calm += -self._calm * _STEP_S / _ACTIVITY_TIME_S + _ACTIVITY_SPREAD * sqrt(
            2 * _STEP_S / _ACTIVITY_TIME_S
        ) * gauss(0.0, 1.0)
        activity = exp(self._calm - _ACTIVITY_SPREAD * _ACTIVITY_SPREAD / 2)
        self._set_rates(activity)
        step = self.product.volatility * sqrt(activity * _STEP_S / 60) * gauss(0.0, 1.0)
        # A weak pull home, ten days long, so that no run ends at zero.
        home = (self._home - self._fair) / self._home * _STEP_S / 864_000
        self._fair *= 1 + step + home

    def _tidy(self, side: Side, sign: int) -> None:
        spacing, keys = self.product.spacing, side.keys
        aim = sign * self._fair
        while len(keys) > 1 and keys[-1] > aim + spacing:
            self.sequence += side.cancel_level(-1)
        if keys[-1] < aim - 3 * spacing:
            self._add(side, sign, near=True)
        while len(keys) > self.levels:
            self.sequence += side.cancel_level(0)
        self._deepen(side, sign, 2 * (self.levels - len(keys)))

    def _deepen(self, side: Side, sign: int, tries: int) -> None:
        """Place orders at new prices until the side has its levels: a try may hit a price that is taken."""
        for _ in range(tries):
            if len(side.keys) >= self.levels:
                break
            self._add(side, sign, near=False, new_only=True)
