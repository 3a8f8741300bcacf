"""Trades that the feed missed: fetched over REST, and put into the log like any other.

::

    Kafka: gaps ──> Repairer ──> exchange's REST ──> deliver ──> Kafka: trades

The worker sees the holes, in the log alone, and writes each to the compacted topic ``gaps``; once
the missing trades have come through the log it writes the gap as repaired, and the work here ends.
So nothing is remembered on this side: a restart reads the topic again, and a producer that was away
for hours is the same case as one lost frame.

A page holds the trades below an id, so a hole is walked from its end to its beginning, and of a
large one no more than a page is ever held. The next page goes to whoever has waited longest; it
serves the other holes of the symbol that it reaches as well.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError, IllegalOperation, KafkaError

from models import ids
from models.errors import ConfigError, DecodeError
from models.gap import Gap
from models.ids import Ranges
from models.trade import UNREADABLE, Trade
from producers.codec import Codec, without_userinfo
from producers.feed import LOOPBACK, DeadLetter
from producers.feed_status import backoff_s
from producers.topic import GAPS

log = structlog.get_logger(__name__)

STOP_S = 0.5
"""What closing the consumer may take: with Kafka away it can hang."""
MOST_TOLD = 5
"""Ranges of ids that one log line names."""

KAFKA_ERRORS = (KafkaError, ConsumerStoppedError, IllegalOperation, OSError)
"""What aiokafka raises when Kafka is in trouble: two of its errors have no base of their own."""
NOT_ABOUT_THE_PAGE = frozenset({401, 403, 429})
"""Statuses below 500 that say nothing of the page that was asked for: the next one has no better luck."""

DeliverTrade = Callable[[Trade], Awaitable[None]]

_decode = msgspec.json.Decoder(Gap).decode
_NUMBER = re.compile(r"\d+")


class RepairSettings(msgspec.Struct, frozen=True):
    """Times in seconds, of a clock that only goes forward."""

    young_s: float = 1.0
    """A gap waits so long for trades that only came out of order."""
    requests_per_s: float = 3.0
    """Coinbase allows 10 a second and address, and others ask from ours as well."""
    concurrency: int = 2
    """Symbols that are asked for at once: one slow answer does not hold up the rest."""
    timeout_s: float = 15.0
    max_body_bytes: int = 16 << 20
    """A page of 1,000 trades has 120 kB."""
    backoff_first_s: float = 0.5
    backoff_most_s: float = 60.0
    rest_most_s: float = 600.0
    """A ``Retry-After`` holds for no longer."""
    lacking_first_s: float = 30.0
    """Trades that the exchange did not have are asked for again after so long, then twice so long, ..."""
    lacking_most_s: float = 6 * 3600.0
    """... up to this."""
    again_first_s: float = 600.0
    """A gap whose trades were all delivered, and that is open all the same, is fetched whole again after
    so long, then twice so long, up to ``lacking_most_s``: only a full disk at the producer drops trades."""
    most_trades: int = 1_000_000
    """A larger gap is not fetched: an absurd id is likelier than so many trades that were missed."""
    tick_s: float = 0.1


class RepairStatus(msgspec.Struct, frozen=True):
    """The repairs, at one moment; counts since the start."""

    open: int
    """Gaps that are open now."""
    unavailable: int
    """Of these, gaps of which the exchange does not have every trade, and those too large to fetch."""
    fetched_trades: int
    requests: int
    failures: int
    """Requests without an answer that could be used."""


class _Failed(Exception):
    """A request brought nothing; the reason in a few words.

    Arguments:
        body: what to keep as a dead letter.
        is_of_page: another page may fare better. Else the exchange is in trouble, or not to be reached.
    """

    def __init__(self, reason: str, body: bytes | None = None, *, is_of_page: bool = True) -> None:
        super().__init__(reason)
        self.body = body
        self.is_of_page = is_of_page


class _Hole:
    """An open gap, and what is still to be fetched of it; times are monotonic seconds."""

    __slots__ = (
        "again_at", "due_at", "failures", "gap", "is_told", "left", "letters", "passes", "symbol", "wanted",
    )  # fmt: skip

    def __init__(self, gap: Gap, due_at: float) -> None:
        self.gap = gap
        self.symbol = gap.symbol
        self.wanted: Ranges = _whole(gap)
        """What was not delivered yet."""
        self.left: Ranges = ()
        """What this pass has still to ask for. A pass asks for whatever is wanted, once."""
        self.passes = 0
        self.due_at = self.again_at = due_at
        """When the next page is due, and when the next pass begins."""
        self.failures = 0
        """Pages in a row that could not be used."""
        self.letters: set[str] = set()
        """The reasons for which dead letters were written."""
        self.is_told = False
        """It was said that the exchange lacks some of it."""

    def begin_pass(self) -> None:
        """Ask for what is wanted; where that was all delivered, and dropped behind us, for the whole."""
        self.wanted = self.wanted or _whole(self.gap)
        self.left = self.wanted

    def change(self, gap: Gap, due_at: float) -> None:
        """Take a new end: what is beyond the old one is new, all else stays as it is."""
        added = ids.difference(_whole(gap), _whole(self.gap))
        removed = ids.difference(_whole(self.gap), _whole(gap))
        self.gap = gap
        self.wanted = ids.union(ids.difference(self.wanted, removed), added)
        self.left = ids.union(ids.difference(self.left, removed), added)
        if added:
            self.due_at = min(self.due_at, due_at)


class Repairer:
    """One exchange's repairs: ``await Repairer(...).run()``, until it is cancelled.

    Arguments:
        security: aiokafka's options for TLS and SASL.
        rest_url: where the exchange's REST is, as `producers.codec.Codec.rest_url` says.
        symbols: gaps of others, and of other exchanges, are left alone.
        deliver: takes every trade that was missing.
        dead_letter: takes what cannot be read, a whole answer or one trade: each reason once for a gap.
        may_fetch: while it says no, no page is asked for, because there is no room for its trades.
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
        may_fetch: Callable[[], bool] = lambda: True,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        rng: random.Random | None = None,
        security: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            parts = urlsplit(rest_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(rest_url)
        except ValueError:
            raise ConfigError(
                "the REST address", without_userinfo(rest_url), "an http:// or https:// address"
            ) from None
        self._is_local = parts.hostname in LOOPBACK
        self._bootstrap = bootstrap
        self._codec = codec
        self._rest_url = rest_url
        self._symbols = frozenset(symbols)
        self._deliver = deliver
        self._dead_letter = dead_letter
        self._source = f"{codec.exchange} {without_userinfo(rest_url)}"
        self._settings = settings or RepairSettings()
        self._may_fetch = may_fetch
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
            unavailable=sum(hole.is_told or self._is_too_large(hole.gap) for hole in self._holes.values()),
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
        # Not compressed: what a body takes in memory is then what it takes on the wire.
        headers = {"Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(
            timeout=timeout, headers=headers, trust_env=not self._is_local
        ) as session:
            await _all_of(*(self._fetch_pages(session) for _ in range(self._settings.concurrency)))

    # The topic.

    async def _follow(self) -> None:
        attempt = 0
        while True:
            try:
                await self._read()
            except KAFKA_ERRORS as error:
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
            except KAFKA_ERRORS as error:
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
        hole, due_at = self._holes.get(name), time.monotonic() + self._settings.young_s
        was_too_large = hole is not None and self._is_too_large(hole.gap)
        if hole is None:
            hole = self._holes[name] = _Hole(gap, due_at)
        elif hole.gap.last_trade_id != gap.last_trade_id:
            hole.change(gap, due_at)
        if self._is_too_large(gap) and not was_too_large:
            self._log.warning(
                "A gap is too large to be fetched: its candles stay marked. Check that its ids are real",
                symbol=gap.symbol,
                trades=f"{gap.first_trade_id}..{gap.last_trade_id}",
                missing=ids.count(_whole(gap)),
                most=self._settings.most_trades,
            )

    def _is_too_large(self, gap: Gap) -> bool:
        return ids.count(_whole(gap)) > self._settings.most_trades

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
        if now < self._all_rest_until or not self._may_fetch():
            return None
        ready = (
            hole
            for hole in self._holes.values()
            if hole.due_at <= now
            and not self._is_too_large(hole.gap)
            and hole.symbol not in self._busy
            and self._rests_until.get(hole.symbol, 0.0) <= now
        )
        return min(ready, key=lambda hole: hole.due_at, default=None)

    async def _fetch_page(self, session: aiohttp.ClientSession, hole: _Hole) -> None:
        """Fetch the page that serves this hole, and the others of its symbol that it reaches."""
        symbol, size, now = hole.symbol, self._codec.page_trades, time.monotonic()
        due = [
            other
            for other in self._holes.values()
            if other.symbol == symbol and other.due_at <= now and not self._is_too_large(other.gap)
        ]
        for other in due:
            if not other.left:
                other.begin_pass()
        top = max(_top(other) for other in due if _top(other) - _top(hole) < size)
        served = [other for other in due if top - size < _top(other) <= top]
        lowest = min(ids.after(other.left, top - size) or 0 for other in served)
        try:
            trades, refused = await self._ask(session, symbol, top + 1, top + 1 - lowest)
        except _Failed as error:
            await self._fail(served, error)
            return
        del self._failed_in_a_row[symbol]
        for refusal in refused:
            await self._keep(served, refusal.frame, f"{refusal.reason} in {refusal.field or 'a trade'}")
        # n trades, whichever they are, reach at least n ids down; none: there is nothing older.
        read = len(trades) + len(refused)
        floor = min([top + 1 - read, *(trade.trade_id for trade in trades)]) if read else 0
        # Repaired meanwhile: the trades came by another way.
        still_open = {id(other) for other in self._holes.values()}
        await self._serve([other for other in served if id(other) in still_open], trades, floor, top)

    async def _fail(self, holes: Sequence[_Hole], error: _Failed) -> None:
        """Let the holes wait, and with them the symbol where no page of it would fare better."""
        self._failures += 1
        symbol, attempt = holes[0].symbol, max(hole.failures for hole in holes)
        if not error.is_of_page:
            attempt = self._failed_in_a_row[symbol]
            self._failed_in_a_row[symbol] += 1
        wait_s = backoff_s(attempt, self._settings, self._rng)
        self._log.warning(
            "Missing trades could not be fetched, will try again",
            symbol=symbol, reason=str(error), wait_s=round(wait_s, 2),
        )  # fmt: skip
        until = time.monotonic() + wait_s
        for hole in holes:
            hole.due_at = until
            hole.failures += error.is_of_page
        if not error.is_of_page:
            self._rests_until[symbol] = until
        if error.body is not None:
            await self._keep(holes, error.body, str(error))

    async def _keep(self, holes: Sequence[_Hole], value: bytes | str, reason: str) -> None:
        """Write a dead letter, unless there is one of this reason for all the holes already."""
        kind = _NUMBER.sub("0", reason)
        if all(kind in hole.letters for hole in holes):
            return
        for hole in holes:
            hole.letters.add(kind)
        await self._dead_letter(value if isinstance(value, bytes) else value.encode(), self._source, reason)

    async def _serve(self, holes: Sequence[_Hole], trades: list[Trade], floor: int, top: int) -> None:
        """Deliver what the holes want of the page ``floor`` to ``top``, the oldest first."""
        delivered: list[int] = []
        for trade in sorted(trades, key=_trade_id):
            if any(ids.holds(hole.wanted, trade.trade_id) for hole in holes):
                await self._deliver(trade)
                delivered.append(trade.trade_id)
                self._fetched += 1
        for hole in holes:
            hole.wanted = ids.difference(hole.wanted, ids.of(delivered))
            hole.left = ids.difference(hole.left, ((floor, top),))
            hole.failures = 0
            hole.due_at = time.monotonic()
            if not hole.left:
                self._end_pass(hole)

    def _end_pass(self, hole: _Hole) -> None:
        """Wait for the word that the gap is repaired; without it, begin anew."""
        settings, now = self._settings, time.monotonic()
        first_s = settings.lacking_first_s if hole.wanted else settings.again_first_s
        again_at = now + min(settings.lacking_most_s, first_s * 2.0 ** min(hole.passes, 30))
        if hole.again_at <= now:
            hole.passes += 1
            hole.again_at = again_at
        elif hole.wanted:  # only what the gap grew by was asked for
            hole.again_at = min(hole.again_at, again_at)
        hole.due_at = hole.again_at
        if hole.wanted and not hole.is_told:
            hole.is_told = True
            self._log.warning(
                "The exchange does not have trades",
                symbol=hole.symbol,
                trades=[f"{low}..{high}" for low, high in hole.wanted[:MOST_TOLD]],
                missing=ids.count(hole.wanted),
            )

    async def _ask(
        self, session: aiohttp.ClientSession, symbol: str, before_id: int, limit: int
    ) -> tuple[list[Trade], list[DecodeError]]:
        """Ask for one page. Return its trades, and what was refused; none where nothing is known (404).

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
            # Some name the address, with the password that it may have.
            reason = str(error).replace(self._rest_url, without_userinfo(self._rest_url))
            raise _Failed(reason or type(error).__name__, is_of_page=False) from None
        if status == 404:
            return [], []
        if status in (429, 503):
            self._rest(retry_after)
        if status >= 500 or status == 429:
            raise _Failed(f"status {status}", is_of_page=False)
        if status != 200:
            raise _Failed(f"status {status}", body, is_of_page=status not in NOT_ABOUT_THE_PAGE)
        try:
            trades, refused = self._codec.read_trades(symbol, body, self._clock_us())
        except DecodeError as error:
            raise _Failed(error.reason + (f" in {error.field}" if error.field else ""), body) from None
        if any(trade.trade_id >= before_id for trade in trades):  # without this, paging might never end
            raise _Failed("a page beside the one that was asked for", body)
        return trades, refused

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
            wait_s = min(int(retry_after), self._settings.rest_most_s)
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


def _whole(gap: Gap) -> Ranges:
    return ((gap.first_trade_id, gap.last_trade_id),)


def _top(hole: _Hole) -> int:
    """Return the highest id that the pass has still to ask for."""
    return hole.left[-1][1]
