"""The whole way, each part a process: exchange, `candlewick produce`, Kafka, `candlewick worker`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.exchange import Exchange, Load
from bench.figures import Inexact
from bench.log import write
from bench.worker import Process, TooSlow, Worker
from candlewick.config import Settings
from candlewick.kafka.broker import EmbeddedBroker
from models.trade import Trade

HISTORY_BATCH = 100
EXACT_WITHIN_S = 120.0
"""From the last trade until every candle has what was sent."""


class Whole:
    """Everything, started in order and ended in reverse: ``async with Whole(folder, load) as whole``."""

    def __init__(self, folder: Path, load: Load, history: Iterable[Trade] = (), **chosen: Any) -> None:
        """``history`` is in the log before the worker starts; ``chosen`` are settings of the worker."""
        self._folder = folder
        self._history = history
        self._chosen = chosen
        self._stack = AsyncExitStack()
        self.load = load
        self.products = tuple(filter(None, (*load.symbols, load.probe, load.late)))
        self.broker = EmbeddedBroker(folder / "broker")
        self.exchange = Exchange(load)
        self.worker: Worker
        self.producer: Process

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            await stack.enter_async_context(self.broker)
            await stack.enter_async_context(self.exchange)
            settings = Settings(
                data_dir=self._folder / "produce", broker=self.broker.bootstrap, feed=self.exchange.url,
                products=self.products,
            )  # fmt: skip
            await write(settings.broker, settings, self._history, HISTORY_BATCH, lambda _: None)
            worker = Worker(settings.broker, self._folder, **self._chosen)
            self.worker = await stack.enter_async_context(worker)
            await self.worker.until_ready(self.products[0])
            self.producer = await stack.enter_async_context(Process("producer", ["produce"], settings))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def cpu_s(self) -> dict[str, float]:
        """Return the seconds of processor time that each process has used."""
        assert self.broker.pid is not None
        return {
            "exchange": self.exchange.cpu_s(),
            "producer": self.producer.cpu_s(),
            "broker": float(sum(psutil.Process(self.broker.pid).cpu_times()[:2])),
            "worker": self.worker.cpu_s(),
            "observer": time.process_time(),
        }

    async def folded(self) -> dict[str, int]:
        """Return the trades of each symbol that are in candles; late ones are not told there.

        Raises:
            Inexact: one is missing among them, or came twice.
        """
        status, body = await self.worker.get("/v1/status?local=true")
        if status != 200:
            raise TooSlow(f"/v1/status answered {status}")
        for product in body["products"]:
            if product["gaps"] or product["duplicates"]:
                gaps, twice = product["gaps"], product["duplicates"]
                raise Inexact(f"{product['product_id']} has {gaps} gaps and {twice} trades that came twice")
        return {
            product["product_id"]: product["last_trade_id"]
            for product in body["products"]
            if product["product_id"] != self.load.late
        }

    async def until_exact(self) -> None:
        """Wait until every trade that was sent is in a candle, and none twice."""
        sent = {symbol: count for symbol, count in self.exchange.sent.items() if symbol != self.load.late}
        end = time.monotonic() + EXACT_WITHIN_S
        while (folded := await self.folded()) != sent:
            if time.monotonic() > end:
                raise TooSlow(f"{folded} were folded of {sent} within {EXACT_WITHIN_S:.0f} s")
            await asyncio.sleep(0.1)
