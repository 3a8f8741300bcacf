"""The live picture of `watch`: drawn anew when something has changed, at most ten times a second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import aiohttp
import msgspec
from rich.console import RenderableType
from rich.live import Live

from candlewick.terminal.client import Where
from candlewick.terminal.events import Event
from candlewick.terminal.picture import View, draw
from candlewick.terminal.tables import console
from candlewick.terminal.watched import DAY, Watched
from models.answers import CandleItem, Status

STATUS_EVERY_S = 2.0
DRAW_EVERY_S = 0.5
"""Without news: ages go on."""
REST_S = 0.1

_decode = msgspec.json.Decoder(Status).decode


class Screen:
    """Takes what happens, and shows it on the whole terminal; the last picture stays when it ends."""

    channels = "candles,ticker"
    windows: tuple[str, ...] = (DAY,)
    first_candles = 60

    def __init__(self, products: Sequence[Watched], there: Where) -> None:
        self._products = products
        self._there = there
        self._console = console()
        self._lag_records: int | None = None
        self._changed = asyncio.Event()

    def tell(self, product: Watched, event: Event, news: Sequence[CandleItem]) -> int:
        """Note that there is something to show."""
        self._changed.set()
        return len(news)

    def said(self, product: Watched, text: str) -> None:
        """Show a word on the connection: the product has it."""
        self._changed.set()

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Show, until cancelled."""
        asking = asyncio.ensure_future(self._ask_status(session))
        try:
            with Live(console=self._console, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(self._picture(), refresh=True)
                    await asyncio.sleep(REST_S)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), DRAW_EVERY_S)
                    self._changed.clear()
        finally:
            asking.cancel()
            if any(product.candle for product in self._products):
                self._console.print(self._picture())

    def _picture(self) -> RenderableType:
        width, height = self._console.size
        now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        return draw(View(self._products, self._there.url, self._lag_records, now, now_ms, width, height))

    async def _ask_status(self, session: aiohttp.ClientSession) -> None:
        """Ask for lag and ages, for ever; what cannot be had now may come later."""
        url, headers = self._there.url + "/v1/status", self._there.headers
        timeout = aiohttp.ClientTimeout(total=5)
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
                async with session.get(
                    url, headers=headers, allow_redirects=False, timeout=timeout
                ) as answer:
                    if answer.status == 200:
                        self._note(_decode(await answer.read()))
            await asyncio.sleep(STATUS_EVERY_S)

    def _note(self, status: Status) -> None:
        lags = [worker.lag_records for worker in status.workers if worker.lag_records is not None]
        self._lag_records = sum(lags) if lags else None
        by_name = {(each.exchange, each.product_id): each for each in status.products}
        for product in self._products:
            told = by_name.get((product.exchange, product.product_id))
            if told:
                product.note_status(told, time.monotonic())
        self._changed.set()
