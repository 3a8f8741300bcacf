"""What the client coinbasepro reads of a Coinbase at another address; run in the clients' environment."""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import Any

import coinbasepro

BASE, HISTORY, LIVE = sys.argv[1:4]


def read() -> dict[str, Any]:
    """Ask everything that the client has of the public API."""
    client = coinbasepro.PublicClient(api_url=BASE)
    told: dict[str, Any] = {
        "products": client.get_products(),
        "book 1": client.get_product_order_book(LIVE),
        "book 2": client.get_product_order_book(LIVE, level=2),
        "ticker": client.get_product_ticker(LIVE),
        "trades": list(islice(client.get_product_trades(LIVE), 500)),
        "rates": client.get_product_historic_rates(HISTORY, granularity=3600),
        "rates of a day": client.get_product_historic_rates(
            HISTORY, start="2026-09-21T00:00:00Z", stop="2026-09-22T00:00:00Z", granularity=900
        ),
        "stats": client.get_product_24hr_stats(LIVE),
        "currencies": client.get_currencies(),
        "time": client.get_time(),
    }
    try:
        client.get_product_ticker("NONE-USD")
    except coinbasepro.exceptions.CoinbaseAPIError as error:
        told["unknown"] = [type(error).__name__, str(error)]
    return told


if __name__ == "__main__":
    json.dump(read(), sys.stdout, default=str)
