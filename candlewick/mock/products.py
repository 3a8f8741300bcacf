"""The products of the simulated market: scale, increments, and how lively they are.

Prices are kept in ticks and sizes in units, both integers: the book never rounds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from models.errors import ConfigError

_PRODUCT_ID = re.compile(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}\Z").match


@dataclass(frozen=True, slots=True)
class Product:
    """One market, base against quote currency."""

    id: str
    price: int
    """Where the price begins, in ticks."""
    price_digits: int
    """A tick is 10**-price_digits of the quote currency."""
    size_digits: int
    """A unit is 10**-size_digits of the base currency."""
    order_size: int
    """The usual size of an order, in units: some hundred dollars' worth."""
    trades_per_s: float
    volatility: float
    """Standard deviation of the log price over one minute."""

    @property
    def base(self) -> str:
        """The currency that is traded: ``BTC``."""
        return self.id.partition("-")[0]

    @property
    def quote(self) -> str:
        """The currency of the price: ``USD``."""
        return self.id.partition("-")[2]

    @property
    def spacing(self) -> int:
        """Ticks between two levels, about: a third of a basis point, at least one."""
        return max(1, self.price * 3 // 100_000)

    def price_text(self, ticks: int) -> str:
        """Write a price."""
        return decimal_text(ticks, self.price_digits)

    def size_text(self, units: int) -> str:
        """Write a size with every digit of its increment, as level frames do."""
        return decimal_text(units, self.size_digits)


def decimal_text(number: int, digits: int) -> str:
    """Write ``number * 10**-digits`` in plain digits."""
    if not digits:
        return str(number)
    whole, part = divmod(number, 10**digits)
    return f"{whole}.{part:0{digits}d}"


# Increments as in the public GET /products of the exchange; prices of the order seen in 2026.
_KNOWN = {
    product.id: product
    for product in (
        Product("BTC-USD", 83_432_17, 2, 8, 1_500_000, 5.0, 0.0006),
        Product("ETH-USD", 2_671_33, 2, 8, 30_000_000, 4.0, 0.0008),
        Product("SOL-USD", 168_42, 2, 8, 300_000_000, 3.0, 0.0010),
        Product("LTC-USD", 122_63, 2, 8, 250_000_000, 1.0, 0.0010),
        Product("DOGE-USD", 21_457, 5, 1, 40_000, 1.5, 0.0012),
        Product("ADA-USD", 8_415, 4, 8, 80_000_000_000, 1.0, 0.0011),
        Product("XRP-USD", 28_306, 4, 6, 200_000_000, 2.0, 0.0010),
        Product("LINK-USD", 21_384, 3, 2, 2_500, 1.0, 0.0011),
    )
}

DEFAULT_PRODUCTS = tuple(_KNOWN)


def product(product_id: str) -> Product:
    """Return the product of that id; an unknown one gets scale and liveliness from its name.

    Raises:
        ConfigError: not of the form ``BASE-QUOTE``.
    """
    if known := _KNOWN.get(product_id):
        return known
    if not _PRODUCT_ID(product_id):
        raise ConfigError("products", product_id, "of the form BASE-QUOTE, in capitals")
    chance = random.Random(f"product/{product_id}")
    price_digits = chance.choice((2, 3, 4, 5))
    price = int(10 ** chance.uniform(4.0, 6.0))
    # Some 400 of the quote currency an order, whatever the price.
    size = max(1000, int(400 * 10 ** (price_digits + 8) / price))
    return Product(product_id, price, price_digits, 8, size, chance.uniform(0.5, 2.0), 0.001)


def products(product_ids: Iterable[str]) -> list[Product]:
    """Return the products of those ids, once each.

    Raises:
        ConfigError: none, or one that is not of the form ``BASE-QUOTE``.
    """
    found = [product(product_id) for product_id in dict.fromkeys(product_ids)]
    if not found:
        raise ConfigError("products", "", "at least one product, such as BTC-USD")
    return found
