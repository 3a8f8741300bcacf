"""The simulated market as a source: gives `market.Market` its time.

A product's market opens with its first subscription, so that a client misses nothing, and then
trades on whether anyone listens or not, as a real one does. What a client that was away did not
get, REST has. At speed 0 there is no clock: each product runs its own time as fast as its
subscribers take the frames, and waits while it has none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from candlewick.mock.frames import LEVEL2, MATCHES, TICKER, BookView, Frame, Row, TickerView, Trades
from candlewick.mock.hub import Hub
from candlewick.mock.market import Market
from candlewick.mock.product_market import SECOND_US
from candlewick.mock.products import DEFAULT_PRODUCTS, decimal_text
from candlewick.mock.truth import Truth
from models.errors import ConfigError

UNPACED_TRADES = 100_000
"""`Simulation.max_trades` at speed 0, where none is set: without one it would never end."""

_TICK_S = 0.01
_CHUNK_TRADES = 1_000
"""Trades, about, between two looks at the sockets."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated market, as asked for."""

    products: tuple[str, ...] = DEFAULT_PRODUCTS
    seed: int = 1
    trades_per_s: float | None = None
    """Of each product, in market time; None for what is usual for it."""
    max_trades: int | None = None
    """All products together, shared by their rates; afterwards the market is done."""
    start_us: int | None = None
    """Market time when the server starts. None: now, or at speed 0 so that it ends about now."""
    since_us: int | None = None
    """The market has been trading since then, without a break: for a server that comes back with
    the same settings, the trades it served before are the same ones. At speed 1 only."""
    last_trade_ids: Mapping[str, int] | None = None
    """Of an earlier market that these products had, which ended: nothing was traded since."""
    truth: Path | None = None
    """Where to write what really happened; see `candlewick.mock.truth`."""

    def __post_init__(self) -> None:
        if self.max_trades is not None and self.max_trades < 1:
            raise ConfigError("max_trades", self.max_trades, "at least 1")
        rate = self.trades_per_s
        if rate is not None and not 0 < rate <= 1_000_000:
            raise ConfigError("trades_per_s", rate, "above 0, and at most 1000000")


class SimulatedSource:
    """Market time from the clock, frames to the hub."""

    beats = True

    def __init__(
        self,
        simulation: Simulation,
        speed: float,
        levels: int,
        settle_s: float,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        if simulation.since_us is not None and (speed != 1 or simulation.start_us is not None):
            raise ConfigError("since_us", simulation.since_us, "used at speed 1, and without start_us")
        most = simulation.max_trades
        if not speed and most is None:
            most = UNPACED_TRADES
        self.name = f"simulated market, seed {simulation.seed}"
        self._simulation, self._speed, self._settle_s, self._clock_us = simulation, speed, settle_s, clock_us
        self._market = Market(
            simulation.products,
            simulation.seed,
            levels=levels,
            trades_per_s=simulation.trades_per_s,
            max_trades=most,
            last_trade_ids=simulation.last_trade_ids,
        )
        self.products = list(self._market.products)
        self._most = most
        self._ready: dict[str, float] = {}
        """Loop time from which a product may trade: the rest of a client's requests may follow."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, hub: Hub) -> None:
        """Open the file of truth and start the clock; with ``since_us``, catch up with it first.

        Raises:
            ConfigError: the file of truth cannot be written.
        """
        self._hub = hub
        simulation, market = self._simulation, self._market
        if simulation.truth is not None:
            try:
                market.truth = Truth(simulation.truth)
            except OSError as error:
                raise ConfigError(
                    "truth", str(simulation.truth), f"a file to write: {error.strerror}"
                ) from None
        self._zero_us = self._clock_us()
        self._origin_us = self._zero_us if simulation.start_us is None else simulation.start_us
        if simulation.start_us is None and self._speed != 1 and self._most is not None:
            # Ends about now, not in the future.
            self._origin_us -= int((self._most / market.trades_per_s * 1.3 + 60) * SECOND_US)
        if simulation.since_us is not None:
            await self._catch_up(simulation.since_us)
        self._task = asyncio.create_task(self._unpaced() if not self._speed else self._paced())

    async def stop(self) -> None:
        """Stop the market, and finish the file of truth."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()  # an error in the market must not end in silence
        self._market.close()

    @property
    def done(self) -> bool:
        """True when all products have traded what they may."""
        return self._market.finished

    def subscribed(self, products: list[str]) -> None:
        """Open markets that were closed so far; they trade from a moment later."""
        ready = asyncio.get_running_loop().time() + self._settle_s
        for product in products:
            if product not in self._market.markets:
                self._ready[product] = ready
                start_us = self._origin_us
                if self._speed:
                    start_us = self.now_us() + int(self._settle_s * self._speed * SECOND_US)
                self._market.open(product, start_us)
        self._wake.set()

    def greeting(self, product: str, channel: str) -> Frame | None:
        """Return the last match, the whole book, or the ticker."""
        market = self._market.markets[product]
        if channel == MATCHES:
            return market.last_match()
        if channel == LEVEL2:
            return market.snapshot()
        return market.ticker() if channel == TICKER else None

    def heartbeat(self, product: str) -> Frame | None:
        """Return a heartbeat of now, once the product has opened."""
        market = self._market.markets.get(product)
        return None if market is None else market.heartbeat()

    def trades(self, product: str) -> Trades:
        """Return the trades so far: all of them, whatever the socket lost."""
        market = self._market.markets.get(product)
        return _NoTrades() if market is None else market.log

    def book(self, product: str, count: int | None) -> BookView:
        """Return the book; empty before the product has opened."""
        market = self._market.markets.get(product)
        return BookView([], [], 0, self.now_us()) if market is None else market.book(count)

    def ticker(self, product: str) -> TickerView | None:
        """Return last trade and best prices."""
        market = self._market.markets.get(product)
        return None if market is None else market.ticker_view()

    def increments(self, product: str) -> tuple[str, str]:
        """Return the smallest step of the size, and of the price."""
        spec = self._market.products[product]
        return decimal_text(1, spec.size_digits), decimal_text(1, spec.price_digits)

    def now_us(self) -> int:
        """Return the market's time."""
        if not self._speed:
            return max((market.now_us for market in self._market.markets.values()), default=self._origin_us)
        now_us = self._clock_us()
        market_us = self._origin_us + int((now_us - self._zero_us) * self._speed)
        # A fast market that has caught up with the present goes on at its pace: no exchange sends
        # times that are still to come. Unless it was told to start there.
        return market_us if self._origin_us > self._zero_us else min(market_us, now_us)

    async def _catch_up(self, since_us: int) -> None:
        for product in self.products:
            self._market.open(product, since_us)
        now_us, reached_us = self.now_us(), since_us
        while reached_us < now_us:  # what passes meanwhile is for the running clock
            reached_us = min(now_us, reached_us + self._chunk_us())
            self._market.advance(reached_us)
            await asyncio.sleep(0)

    def _chunk_us(self) -> int:
        return max(50_000, int(_CHUNK_TRADES / self._market.trades_per_s * SECOND_US))

    async def _paced(self) -> None:
        chunk_us = self._chunk_us()
        reached_us = self.now_us()
        while not self._market.finished:
            target_us = self.now_us()
            while reached_us < target_us:
                reached_us = min(target_us, reached_us + chunk_us)
                self._send(self._market.advance(reached_us))
                await asyncio.sleep(0)
            await asyncio.sleep(_TICK_S)
        self._market.close()

    async def _unpaced(self) -> None:
        chunk_us = self._chunk_us()
        loop = asyncio.get_running_loop()
        while not self._market.finished:
            self._wake.clear()
            now = loop.time()
            waiting = [at for at in self._ready.values() if at > now]
            active = [
                market
                for product, market in self._market.markets.items()
                if not market.finished and self._ready[product] <= now and self._hub.wanted(product)
            ]
            if active:
                frames: list[Frame] = []
                for market in active:
                    market.advance(market.now_us + chunk_us, frames)
                frames.sort(key=lambda frame: frame.time_us)
                self._send(frames)
                await self._hub.room()
                await asyncio.sleep(0)
            else:
                try:
                    await asyncio.wait_for(self._wake.wait(), min(waiting) - now if waiting else None)
                except TimeoutError:
                    continue
        self._market.close()

    def _send(self, frames: list[Frame]) -> None:
        send = self._hub.send
        traded: dict[str, None] = {}
        for frame in frames:
            send(frame)
            if frame.kind == "match":
                traded[frame.product] = None
        for product in traded:  # one ticker for all trades of a moment
            if self._hub.wants(product, TICKER):
                send(self._market.markets[product].ticker())


class _NoTrades:
    def rows(self, limit: int, after: int | None, before: int | None) -> list[Row]:
        """Return nothing: the product has not opened."""
        return []
