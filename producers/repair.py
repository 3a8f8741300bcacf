"""Trades that the feed missed: fetched over REST, and put into the log like any other.

::

    Kafka: gaps ──> Repairer ──> exchange's REST ──> deliver ──> Kafka: trades

The worker sees the holes, in the log alone, and writes each to the compacted topic ``gaps``; once
the missing trades have come through the log it writes the gap as repaired, and the work here ends.
So nothing is remembered on this side: a restart reads the topic again, and a producer that was away
for hours is the same case as one lost frame.

A page holds the trades below an id, so a hole is walked from its end to its beginning, and of a
huge one no more than a page is ever held. The next page goes to whoever has waited longest; it
serves the other holes of the symbol that it reaches as well.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from models.errors import ConfigError, DecodeError
from models.gap import Gap
from models.ids import Ranges, union
from models.trade import UNREADABLE, Trade
from producers.codec import Codec
from producers.feed import LOOPBACK, DeadLetter
from producers.feed_status import backoff_s
from producers.topic import GAPS

log = structlog.get_logger(__name__)

STOP_S = 0.5
"""What closing the consumer may take: with Kafka away it can hang."""
MOST_TOLD = 5
"""Ranges of ids that one log line names."""

DeliverTrade = Callable[[Trade], Awaitable[None]]

_decode = msgspec.json.Decoder(Gap).decode


class RepairSettings(msgspec.Struct, frozen=True):
    """Times in seconds, of a clock that only goes forward."""

    young_s: float = 1.0
    """A gap waits so long for trades that only came out of order."""
    requests_per_s: float = 5.0
    """Coinbase allows 10 a second and address."""
    concurrency: int = 2
    """Symbols that are asked for at once: one slow answer does not hold up the rest."""
    timeout_s: float = 15.0
    max_body_bytes: int = 16 << 20
    """A page of 1,000 trades has 120 kB."""
    backoff_first_s: float = 0.5
    backoff_most_s: float = 60.0
    again_first_s: float = 30.0
    """A gap that was fetched whole and is still open is fetched again after so long, then twice so
    long, ..."""
    again_most_s: float = 600.0
    """... up to this. Nor does a ``Retry-After`` hold for longer."""
    tick_s: float = 0.1


class RepairStatus(msgspec.Struct, frozen=True):
    """The repairs, at one moment; counts since the start."""

    open: int
    """Gaps that are open now."""
    unavailable: int
    """Of these, gaps of which the exchange does not have every trade."""
    fetched_trades: int
    requests: int
    failures: int
    """Requests without an answer that could be used."""


class _Failed(Exception):
    """A request brought nothing; the reason in a few words."""


class _Hole:
    """An open gap, and how far it was fetched."""

    __slots__ = ("due_at", "first", "found", "gap", "high", "is_told", "last", "passes", "symbol")

    def __init__(self, gap: Gap, due_at: float) -> None:
        self.gap = gap
        self.symbol = gap.symbol
        self.first, self.last = gap.first_trade_id, gap.last_trade_id
        """What to fetch; the second time only what the exchange did not have."""
        self.high = self.last
        """The highest id that this pass has still to fetch."""
        self.found: Ranges = ()
        """What this pass has brought."""
        self.due_at = due_at
        """When it is to be served next, monotonic seconds."""
        self.passes = 0
        self.is_told = False
        """It was said that the exchange lacks some of it."""


class Repairer:
    """One exchange's repairs: ``await Repairer(...).run()``, until it is cancelled.

    Arguments:
        security: aiokafka's options for TLS and SASL.
        rest_url: where the exchange's REST is, as `producers.codec.Codec.rest_url` says.
        symbols: gaps of others, and of other exchanges, are left alone.
        deliver: takes every trade that was missing.
        dead_letter: takes every answer that cannot be read.
        clock_us: wall clock in microseconds, for the time of receipt.

    Raises:
        ConfigError: the address is not that of a REST server.
    """

    def __init__(
        self,
        bootstrap: str,
        codec: Codec,
        rest_url: str,
        symbols: Iterable[str],
        deliver: DeliverTrade,
        dead_letter: DeadLetter,
        settings: RepairSettings | None = None,
        *,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        rng: random.Random | None = None,
        security: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            parts = urlsplit(rest_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(rest_url)
        except ValueError:
            raise ConfigError("the REST address", rest_url, "an http:// or https:// address") from None
        self._is_local = parts.hostname in LOOPBACK
        self._bootstrap = bootstrap
        self._codec = codec
        self._rest_url = rest_url
        self._symbols = frozenset(symbols)
        self._deliver = deliver
        self._dead_letter = dead_letter
        self._settings = settings or RepairSettings()
        self._clock_us = clock_us
        self._rng = rng or random.Random()
        self._security = security or {}
        self._log = log.bind(exchange=codec.exchange)

        self._holes: dict[str, _Hole] = {}
        """Open gaps, by the key of their record."""
        self._is_caught_up = asyncio.Event()
        """The topic was read to where it ended at the start: before that, a gap may be repaired already."""
        self._busy: set[str] = set()
        """Symbols with a request on its way."""
        self._failed_in_a_row: Counter[str] = Counter()
        self._rests_until: dict[str, float] = {}
        self._all_rest_until = 0.0
        self._next_request = 0.0
        self._fetched = self._requests = self._failures = 0

    @property
    def status(self) -> RepairStatus:
        """Return the state as it is now."""
        return RepairStatus(
            open=len(self._holes),
            unavailable=sum(hole.is_told for hole in self._holes.values()),
            fetched_trades=self._fetched,
            requests=self._requests,
            failures=self._failures,
        )

    async def run(self) -> None:
        """Follow the topic and fetch what is missing, until cancelled.

        Raises:
            Exception: whatever ``deliver`` or ``dead_letter`` raises.
        """

        async def fetch_once_known() -> None:
            await self._is_caught_up.wait()
            await self.fetch()

        await _all_of(self._follow(), fetch_once_known())

    async def fetch(self) -> None:
        """Fetch what is missing of the gaps taken so far, and of those to come, until cancelled.

        Raises:
            Exception: whatever ``deliver`` or ``dead_letter`` raises.
        """
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=not self._is_local) as session:
            await _all_of(*(self._fetch_pages(session) for _ in range(self._settings.concurrency)))

    # The topic.

    async def _follow(self) -> None:
        attempt = 0
        while True:
            try:
                await self._read()
            except KafkaError as error:
                wait_s = backoff_s(attempt, self._settings, self._rng)
                attempt += 1
                self._log.warning(
                    "The gaps cannot be read, will try again", error=repr(error), wait_s=round(wait_s, 2)
                )
                await asyncio.sleep(wait_s)

    async def _read(self) -> None:
        """Read every partition from its beginning, and go on."""
        consumer = AIOKafkaConsumer(
            GAPS,
            bootstrap_servers=self._bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **self._security,
        )
        try:
            await consumer.start()
            ends = await consumer.end_offsets(consumer.assignment())
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        self.take(record.key, record.value)
                if not self._is_caught_up.is_set():
                    positions = {tp: await consumer.position(tp) for tp in ends}
                    if all(positions[tp] >= end for tp, end in ends.items()):
                        self._is_caught_up.set()
        finally:
            try:
                async with asyncio.timeout(STOP_S):
                    await consumer.stop()
            except (TimeoutError, KafkaError) as error:
                self._log.debug("The consumer of the gaps did not stop", error=repr(error))

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Note one record: the newest state of a gap is the one that counts."""
        name = (key or b"").decode(errors="replace")
        if value is None:
            self._holes.pop(name, None)
            return
        try:
            gap = _decode(value)
        except UNREADABLE as error:
            self._log.warning("A gap cannot be read", key=name, reason=str(error))
            return
        if gap.exchange != self._codec.exchange or gap.symbol not in self._symbols:
            return
        if gap.state != "open" or gap.first_trade_id > gap.last_trade_id:
            self._holes.pop(name, None)
            return
        hole = self._holes.get(name)
        if hole is None or hole.gap.last_trade_id != gap.last_trade_id:
            self._holes[name] = _Hole(gap, time.monotonic() + self._settings.young_s)

    # The exchange.

    async def _fetch_pages(self, session: aiohttp.ClientSession) -> None:
        """Fetch page by page, whatever is due."""
        while True:
            hole = self._next()
            if hole is None:
                await asyncio.sleep(self._settings.tick_s)
                continue
            self._busy.add(hole.symbol)
            try:
                await self._fetch_page(session, hole)
            finally:
                self._busy.discard(hole.symbol)

    def _next(self) -> _Hole | None:
        """Return the hole that has been due for longest, of a symbol that may be asked for."""
        now = time.monotonic()
        if now < self._all_rest_until:
            return None
        ready = (
            hole
            for hole in self._holes.values()
            if hole.due_at <= now
            and hole.symbol not in self._busy
            and self._rests_until.get(hole.symbol, 0.0) <= now
        )
        return min(ready, key=lambda hole: hole.due_at, default=None)

    async def _fetch_page(self, session: aiohttp.ClientSession, hole: _Hole) -> None:
        """Fetch the page that serves this hole, and the others of its symbol that it reaches."""
        symbol, size, now = hole.symbol, self._codec.page_trades, time.monotonic()
        due = [each for each in self._holes.values() if each.symbol == symbol and each.due_at <= now]
        top = max(each.high for each in due if each.high - hole.high < size)
        served = [each for each in due if top - size < each.high <= top]
        limit = min(size, top + 1 - min(each.first for each in served))
        try:
            trades = await self._ask(session, symbol, top + 1, limit)
        except _Failed as error:
            self._failures += 1
            wait_s = backoff_s(self._failed_in_a_row[symbol], self._settings, self._rng)
            self._failed_in_a_row[symbol] += 1
            self._rests_until[symbol] = time.monotonic() + wait_s
            self._log.warning(
                "Missing trades could not be fetched, will try again",
                symbol=symbol, reason=str(error), wait_s=round(wait_s, 2),
            )  # fmt: skip
            return
        del self._failed_in_a_row[symbol]
        # Repaired meanwhile: the trades came by another way.
        still_open = {id(each) for each in self._holes.values()}
        await self._serve([each for each in served if id(each) in still_open], trades)

    async def _serve(self, holes: Sequence[_Hole], trades: list[Trade]) -> None:
        """Deliver what the holes miss of a page, the oldest first, and lower what is left of them."""
        trades.sort(key=_trade_id)
        ids = [trade.trade_id for trade in trades]
        wanted: set[int] = set()
        for hole in holes:
            found = ids[bisect_left(ids, hole.first) : bisect_right(ids, hole.high)]
            wanted.update(found)
            hole.found = union(hole.found, _ranges(found))
        for trade in trades:
            if trade.trade_id in wanted:
                await self._deliver(trade)
                self._fetched += 1
        floor = ids[0] if ids else 0  # an empty page: there is nothing older
        for hole in holes:
            hole.high = min(hole.high, floor - 1)
            hole.due_at = time.monotonic()
            if hole.high < hole.first:
                self._end_pass(hole)

    def _end_pass(self, hole: _Hole) -> None:
        """Wait for the word that the gap is repaired; without it, begin anew."""
        settings = self._settings
        wait_s = min(settings.again_most_s, settings.again_first_s * 2.0 ** min(hole.passes, 30))
        lacking = _complement(hole.found, hole.first, hole.last)
        if lacking:
            if not hole.is_told:
                hole.is_told = True
                self._log.warning(
                    "The exchange does not have trades",
                    symbol=hole.symbol,
                    trades=[f"{low}..{high}" for low, high in lacking[:MOST_TOLD]],
                    missing=sum(high - low + 1 for low, high in lacking),
                )
            hole.first, hole.last = lacking[0][0], lacking[-1][1]
        hole.passes += 1
        hole.due_at += wait_s
        hole.high, hole.found = hole.last, ()

    async def _ask(
        self, session: aiohttp.ClientSession, symbol: str, before_id: int, limit: int
    ) -> list[Trade]:
        """Ask for one page. None of its trades where the exchange knows nothing (404).

        Raises:
            _Failed: there is no answer, or none that can be used.
        """
        await self._turn()
        self._requests += 1
        url = self._rest_url + self._codec.trades_path(symbol, before_id, limit)
        try:
            # A redirect would lead to another host, which nobody has named.
            async with session.get(url, allow_redirects=False) as answer:
                status, retry_after = answer.status, answer.headers.get("Retry-After", "")
                body = await self._body(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Failed(str(error) or type(error).__name__) from None
        if status == 404:
            return []
        if status == 429:
            self._rest(retry_after)
        if status != 200:
            if status < 500 and status != 429:
                await self._dead_letter(body, f"{self._codec.exchange} {url}", f"status {status}")
            raise _Failed(f"status {status}")
        try:
            trades = self._codec.read_trades(symbol, body, self._clock_us())
            for trade in trades:
                if trade.trade_id >= before_id:  # without this, paging might never end
                    reason = f"trade {trade.trade_id} on the page of those before {before_id}"
                    raise DecodeError(self._codec.exchange, reason, body)
        except DecodeError as error:
            reason = error.reason + (f" in {error.field}" if error.field else "")
            await self._dead_letter(body, f"{self._codec.exchange} {url}", reason)
            raise _Failed(reason) from None
        return trades

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._settings.max_body_bytes:
                raise _Failed(f"more than {self._settings.max_body_bytes} bytes")
        return bytes(body)

    async def _turn(self) -> None:
        """Wait for this request's turn: the exchange counts them by the second."""
        now = time.monotonic()
        start = max(now, self._next_request)
        self._next_request = start + 1 / self._settings.requests_per_s
        await asyncio.sleep(start - now)

    def _rest(self, retry_after: str) -> None:
        """Ask nothing for as long as the exchange says, which counts requests of all symbols together."""
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10:
            wait_s = min(int(retry_after), self._settings.again_most_s)
            self._all_rest_until = max(self._all_rest_until, time.monotonic() + wait_s)


async def _all_of(*endless: Coroutine[Any, Any, None]) -> None:
    """Run all of them until one fails, or we are cancelled."""
    tasks = [asyncio.create_task(each) for each in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _trade_id(trade: Trade) -> int:
    return trade.trade_id


def _ranges(ids: Sequence[int]) -> Ranges:
    """Return ids, which rise, as ranges."""
    ranges: list[tuple[int, int]] = []
    for number in ids:
        if ranges and number <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)


def _complement(ranges: Ranges, low: int, high: int) -> list[tuple[int, int]]:
    """Return what of ``[low, high]`` is in none of the ranges, which lie within it."""
    lacking: list[tuple[int, int]] = []
    for first, last in ranges:
        if first > low:
            lacking.append((low, first - 1))
        low = last + 1
    if low <= high:
        lacking.append((low, high))
    return lacking
