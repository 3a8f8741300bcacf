"""``candlewick watch``: products as they change, from a worker's stream.

A live picture on a terminal; elsewhere a line for each candle that closed or was amended, or each event as
JSON. A stream of its own for each product, so that each goes on exactly where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlencode

import aiohttp
import msgspec

from candlewick.config import PRODUCT_ID, Settings
from candlewick.screen import fail
from candlewick.stopping import stop_event
from candlewick.terminal.client import Stranger, Where, where
from candlewick.terminal.events import Event
from candlewick.terminal.follow import Lost, follow
from candlewick.terminal.watched import Watched, in_words
from models.answers import CandleItem
from models.errors import ConfigError
from models.window import window_named

LOOK_S = 0.5
"""How often it is looked whether somebody still reads."""
MOST_PRODUCTS = 50


class Asked(NamedTuple):
    """What is to be watched, and until when."""

    products: Sequence[str]
    window: str
    exchange: str
    as_json: bool
    most: int | None
    """End after so many candles that closed or were amended, or so many events as JSON."""
    for_s: float | None


class Output(Protocol):
    """Where the news go."""

    channels: str
    """What it wants to hear of, with commas."""
    windows: tuple[str, ...]
    """Windows that it wants beside the one that is watched."""
    first_candles: int
    """How many candles it begins with."""

    def tell(self, product: Watched, event: Event, news: Sequence[CandleItem]) -> int:
        """Take an event, and the candles that it closed or amended; return how many of them count."""

    def said(self, product: Watched, text: str) -> None:
        """Take a word on the connection."""

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Do what is to be done beside; it ends when nobody reads any more."""


class Lines:
    """A line for each candle that closed, or was amended."""

    channels = "candles"
    windows: tuple[str, ...] = ()
    first_candles = 1

    def tell(self, product: Watched, event: Event, news: Sequence[CandleItem]) -> int:
        """Print what is new."""
        for candle in news:
            print(in_words(product.exchange, product.product_id, product.window, candle), flush=True)
        return len(news)

    def said(self, product: Watched, text: str) -> None:
        """Say it on standard error, because what is printed may be read by a program."""
        fail(f"{product.product_id}: {text}")

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Wait until whoever reads standard output is gone: the next line may be a minute away."""
        while not _is_gone():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)


class Json(Lines):
    """Each event, as one line of JSON."""

    channels = "candles,ticker"

    def tell(self, product: Watched, event: Event, news: Sequence[CandleItem]) -> int:
        """Print the event."""
        told = {"event": event.name, "id": event.id, "data": msgspec.Raw(event.data)}
        print(msgspec.json.encode(told).decode(), flush=True)
        return 1


async def run(settings: Settings, asked: Asked) -> None:
    """Watch until asked to end, or until there was what was asked for.

    Raises:
        CandlewickError: there is no such product, or no worker.
    """
    _check(asked)
    products = [Watched(asked.exchange, product_id, asked.window) for product_id in asked.products]
    there = where(settings)
    output = _output(there, asked, products)
    watching = asyncio.ensure_future(_watch(there, products, output, asked))
    stopped = asyncio.ensure_future(stop_event().wait())
    await asyncio.wait({watching, stopped}, timeout=asked.for_s, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


def _check(asked: Asked) -> None:
    if window_named(asked.window) is None:
        raise ConfigError("--window", asked.window, "1m, 1h, 1d, or a whole multiple of one, such as 5m")
    if not 0 < len(asked.products) <= MOST_PRODUCTS:
        raise ConfigError("PRODUCTS", f"{len(asked.products)} of them", f"1 to {MOST_PRODUCTS}")
    for product_id in asked.products:
        if not PRODUCT_ID.match(product_id):
            raise ConfigError("PRODUCTS", product_id, "product ids such as BTC-USD")


def _output(there: Where, asked: Asked, products: Sequence[Watched]) -> Output:
    if asked.as_json:
        return Json()
    if not sys.stdout.isatty():
        return Lines()
    from candlewick.terminal.live import Screen

    return Screen(products, there)


async def _watch(there: Where, products: Sequence[Watched], output: Output, asked: Asked) -> None:
    """Follow all products until one of the tasks ends, and say how it did."""
    left = asked.most

    def tell(product: Watched, event: Event) -> bool:
        """Tell of an event, if more is wanted; say whether nothing more is."""
        nonlocal left
        if left != 0:
            count = output.tell(product, event, product.take(event, time.monotonic())[:left])
            left = None if left is None else left - count
        return left == 0

    async def follow_one(product: Watched) -> None:
        was_lost = False
        async with contextlib.aclosing(
            follow(session, there, _target(product, output), marks(product.window))
        ) as told:
            async for event in told:
                if isinstance(event, Event):
                    if tell(product, event):
                        return
                elif isinstance(event, Lost):
                    was_lost = True
                    product.trouble = f"{event.reason}: trying again in {event.wait_s:.0f} s"
                    output.said(product, product.trouble)
                else:
                    product.trouble = ""
                    if was_lost:
                        output.said(product, "connected again")

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.ensure_future(follow_one(product)) for product in products]
        tasks.append(asyncio.ensure_future(output.run(session)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            for task in done:
                task.result()
        except msgspec.DecodeError as error:
            raise Stranger(there.url, f"its stream has {error}") from None


def _target(product: Watched, output: Output) -> str:
    windows = dict.fromkeys((product.window, *output.windows))
    query = {
        "product_id": product.product_id,
        "exchange": product.exchange,
        "channels": output.channels,
        "window": ",".join(windows),
        "snapshot": output.first_candles,
    }
    return f"/v1/stream?{urlencode(query, safe=',')}"


class _OfWindow(msgspec.Struct):
    window: str = ""


_of_window = msgspec.json.Decoder(_OfWindow | None).decode


def marks(window: str) -> Callable[[Event], bool]:
    """Return what says whether an event marks how far a stream came: one of the candles that are watched.

    A ticker, or a candle of another window, may be told a moment before them with the same id.
    """

    def of_window(event: Event) -> bool:
        if event.name not in ("snapshot", "candle"):
            return False
        told = _of_window(event.data)
        return told is not None and told.window == window

    return of_window


def _is_gone() -> bool:
    """Say whether nobody reads standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))
