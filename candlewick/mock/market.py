"""Several simulated products side by side: one seed, one clock, one file of truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from candlewick.mock.frames import Frame
from candlewick.mock.product_market import ProductMarket
from candlewick.mock.products import products as find_products
from candlewick.mock.truth import Truth


class Market:
    """Several products together, opened one by one or all at a time."""

    def __init__(
        self,
        product_ids: Iterable[str],
        seed: int = 1,
        start_us: int | None = None,
        *,
        levels: int = 50,
        trades_per_s: float | None = None,
        max_trades: int | None = None,
        truth: Truth | None = None,
        last_trade_ids: Mapping[str, int] | None = None,
    ) -> None:
        """Know the products; with a start time, open all of them then.

        ``trades_per_s`` is each product's rate, instead of its own. ``max_trades`` is for all
        together: each product has a share of it, by its rate, and is finished when it is used up.
        ``last_trade_ids`` are of before: a product's trades go on behind its own.

        Raises:
            ConfigError: a product id that cannot be.
        """
        self.products = {product.id: product for product in find_products(product_ids)}
        self.markets: dict[str, ProductMarket] = {}
        """The products that were opened."""
        self.truth = truth
        self._seed, self._levels, self._rate = seed, levels, trades_per_s
        self._last_trade_ids = last_trade_ids or {}
        self._quotas = self._shares(max_trades)
        if start_us is not None:
            for product_id in self.products:
                self.open(product_id, start_us)

    @property
    def trades_per_s(self) -> float:
        """The rate of all products together."""
        return sum(self._rates())

    @property
    def finished(self) -> bool:
        """True when every product was opened and has used up its trades."""
        return len(self.markets) == len(self.products) and all(
            market.finished for market in self.markets.values()
        )

    def open(self, product_id: str, start_us: int) -> ProductMarket:
        """Let a product's trading begin; a second call changes nothing."""
        market = self.markets.get(product_id)
        if market is None:
            market = self.markets[product_id] = ProductMarket(
                self.products[product_id],
                self._seed,
                start_us,
                levels=self._levels,
                trades_per_s=self._rate,
                quota=self._quotas[product_id],
                truth=self.truth,
                last_trade_id=self._last_trade_ids.get(product_id),
            )
        return market

    def advance(self, to_us: int) -> list[Frame]:
        """Let the open products run up to a time; return all frames, in order of time."""
        frames: list[Frame] = []
        for market in self.markets.values():
            market.advance(to_us, frames)
        frames.sort(key=_time)  # stable, and fast: a handful of sorted runs
        return frames

    def close(self) -> None:
        """Finish the file of truth, if there is one."""
        if self.truth is not None:
            self.truth.finish(
                (market.product, market.now_us, market.bids(), market.asks())
                for market in self.markets.values()
            )

    def _rates(self) -> list[float]:
        return [
            product.trades_per_s if self._rate is None else self._rate for product in self.products.values()
        ]

    def _shares(self, total: int | None) -> dict[str, int | None]:
        if total is None:
            return dict.fromkeys(self.products)
        rates = self._rates()
        whole, given, seen = sum(rates), 0, 0.0
        shares: dict[str, int | None] = {}
        for product_id, rate in zip(self.products, rates, strict=True):
            seen += rate
            share = round(total * seen / whole) - given if whole else total - given
            shares[product_id] = share
            given += share
        return shares


def _time(frame: Frame) -> int:
    return frame.time_us
