"""The only file that asks an exchange over HTTP: trades of the past, a page at a time.

Errors: `NoPage`, `models.errors.ConfigError`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from models.errors import ConfigError, DecodeError
from models.trade import Trade
from producers.codec import Codec, without_userinfo
from producers.feed import LOOPBACK
from producers.repair_status import RepairSettings

NOT_ABOUT_THE_PAGE = frozenset({401, 403, 429})
"""Statuses below 500 that say nothing of the page that was asked for: the next one has no better luck."""


class NoPage(Exception):
    """A request brought nothing; the reason in a few words.

    Arguments:
        body: what to keep as a dead letter.
        is_of_page: another page may fare better. Else the exchange is in trouble, or not to be reached.
    """

    def __init__(self, reason: str, body: bytes | None = None, *, is_of_page: bool = True) -> None:
        super().__init__(reason)
        self.body = body
        self.is_of_page = is_of_page


class RestTrades:
    """One exchange's trades of the past: ``async with RestTrades(...) as rest: await rest.page(...)``.

    Arguments:
        rest_url: where the exchange's REST is, as `producers.codec.Codec.rest_url` says.
        clock_us: wall clock in microseconds, for the time of receipt.

    Raises:
        ConfigError: the address is not that of a REST server.
    """

    def __init__(
        self, codec: Codec, rest_url: str, settings: RepairSettings, clock_us: Callable[[], int]
    ) -> None:
        try:
            parts = urlsplit(rest_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(rest_url)
        except ValueError:
            raise ConfigError(
                "the REST address", without_userinfo(rest_url), "an http:// or https:// address"
            ) from None
        self.shown_url = without_userinfo(rest_url)
        self.requests = 0
        """Since the start."""
        self.rests_until = 0.0
        """The exchange wants no request before this, of any symbol; monotonic seconds."""
        self._is_local = parts.hostname in LOOPBACK
        self._codec = codec
        self._url = rest_url
        self._settings = settings
        self._clock_us = clock_us
        self._next_request = 0.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            # Not compressed: what a body takes in memory is then what it takes on the wire.
            headers={"Accept-Encoding": "identity"},
            trust_env=not self._is_local,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def page(self, symbol: str, before_id: int, limit: int) -> tuple[list[Trade], list[DecodeError]]:
        """Return the trades below an id, and what was refused; none where nothing is known (404).

        Raises:
            NoPage: there is no answer, or none that can be used.
        """
        await self._turn()
        self.requests += 1
        url = self._url + self._codec.trades_path(symbol, before_id, limit)
        try:
            # A redirect would lead to another host, which nobody has named.
            async with self._session.get(url, allow_redirects=False) as answer:
                status, retry_after = answer.status, answer.headers.get("Retry-After", "")
                body = await self._body(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Some name the address, with the password that it may have.
            reason = str(error).replace(self._url, self.shown_url)
            raise NoPage(reason or type(error).__name__, is_of_page=False) from None
        if status == 404:
            return [], []
        if status in (429, 503):
            self._rest(retry_after)
        if status >= 500 or status == 429:
            raise NoPage(f"status {status}", is_of_page=False)
        if status != 200:
            raise NoPage(f"status {status}", body, is_of_page=status not in NOT_ABOUT_THE_PAGE)
        try:
            trades, refused = self._codec.read_trades(symbol, body, self._clock_us())
        except DecodeError as error:
            raise NoPage(error.reason + (f" in {error.field}" if error.field else ""), body) from None
        if any(trade.trade_id >= before_id for trade in trades):  # without this, paging might never end
            raise NoPage("a page beside the one that was asked for", body)
        return trades, refused

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._settings.max_body_bytes:
                raise NoPage(f"more than {self._settings.max_body_bytes} bytes")
        return bytes(body)

    async def _turn(self) -> None:
        """Wait for this request's turn: the exchange counts them by the second."""
        now = time.monotonic()
        start = max(now, self._next_request)
        self._next_request = start + 1 / self._settings.requests_per_s
        await asyncio.sleep(start - now)

    def _rest(self, retry_after: str) -> None:
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10:
            wait_s = min(int(retry_after), self._settings.rest_most_s)
            self.rests_until = max(self.rests_until, time.monotonic() + wait_s)
