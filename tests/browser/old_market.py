"""A mock exchange whose market began hours ago: ``python old_market.py HOURS PRODUCT...``; prints its address."""

from __future__ import annotations

import asyncio
import sys
import time

from candlewick.mock import MockExchange, Simulation
from candlewick.stopping import stop_event


async def main(hours: float, products: tuple[str, ...]) -> None:
    since_us = time.time_ns() // 1000 - round(hours * 3600 * 1_000_000)
    exchange = MockExchange(Simulation(products, seed=11, since_us=since_us))
    stop = stop_event()
    await exchange.start()
    print(exchange.ws_url, flush=True)
    await stop.wait()
    await exchange.stop()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), tuple(sys.argv[2:])))
