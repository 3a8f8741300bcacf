"""Trades that the feed missed: fetched over REST, and put into the log like any other.

::

    Kafka: gaps ──> Repairer ──> exchange's REST ──> deliver ──> Kafka: trades

The worker sees the holes, in the log alone, and writes each to the compacted topic ``gaps``; once
the missing trades have come through the log it writes the gap as repaired, and the work here ends.
So nothing is remembered on this side: a restart reads the topic again, and a producer that was away
for hours is the same case as one lost frame.

The next page goes to the hole that has waited longest, and serves others as well: `producers.hole`.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError, IllegalOperation, KafkaError

from models import ids
from models.gap import Gap
from models.trade import UNREADABLE, Trade
from producers.codec import Codec
from producers.feed import DeadLetter
from producers.feed_status import backoff_s
from producers.hole import Hole, page_for, whole
from producers.repair_status import RepairSettings, RepairStatus
from producers.rest import NoPage, RestTrades
from producers.tasks import until_one_ends
from producers.topic import GAPS

log = structlog.get_logger(__name__)

STOP_S = 0.5
"""What closing the consumer may take: with Kafka away it can hang."""
MOST_TOLD = 5
"""Ranges of ids that one log line names."""

KAFKA_ERRORS = (KafkaError, ConsumerStoppedError, IllegalOperation, OSError)
"""What aiokafka raises when Kafka is in trouble: two of its errors have no base of their own."""

DeliverTrade = Callable[[Trade], Awaitable[None]]

_decode = msgspec.json.Decoder(Gap).decode
_NUMBER = re.compile(r"\d+")


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
        self._bootstrap = bootstrap
        self._codec = codec
        self._settings = settings or RepairSettings()
        self._rest = RestTrades(codec, rest_url, self._settings, clock_us)
        self._symbols = frozenset(symbols)
        self._deliver = deliver
        self._dead_letter = dead_letter
        self._source = f"{codec.exchange} {self._rest.shown_url}"
        self._may_fetch = may_fetch
        self._rng = rng or random.Random()
        self._security = security or {}
        self._log = log.bind(exchange=codec.exchange)

        self._holes: dict[str, Hole] = {}
        """Open gaps, by the key of their record."""
        self._is_caught_up = asyncio.Event()
        """The topic was read to where it ended at the start: before that, a gap may be repaired already."""
        self._failed_reads = 0
        """Since Kafka last answered."""
        self._busy: set[str] = set()
        """Symbols with a request on its way."""
        self._failed_in_a_row: Counter[str] = Counter()
        self._rests_until: dict[str, float] = {}
        self._fetched = self._failures = 0

    @property
    def status(self) -> RepairStatus:
        """Return the state as it is now."""
        return RepairStatus(
            open=len(self._holes),
            unavailable=sum(hole.is_told or self._is_too_large(hole.gap) for hole in self._holes.values()),
            fetched_trades=self._fetched,
            requests=self._rest.requests,
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

        await until_one_ends(self._follow(), fetch_once_known())

    async def fetch(self) -> None:
        """Fetch what is missing of the gaps taken so far, and of those to come, until cancelled.

        Raises:
            Exception: whatever ``deliver`` or ``dead_letter`` raises.
        """
        async with self._rest:
            await until_one_ends(*(self._fetch_pages() for _ in range(self._settings.concurrency)))

    # The topic.

    async def _follow(self) -> None:
        while True:
            try:
                await self._read()
            except KAFKA_ERRORS as error:
                wait_s = backoff_s(self._failed_reads, self._settings, self._rng)
                self._failed_reads += 1
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
                fetched = await consumer.getmany(timeout_ms=500)
                self._failed_reads = 0
                for records in fetched.values():
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
            hole = self._holes[name] = Hole(gap, due_at)
        elif hole.gap.last_trade_id != gap.last_trade_id:
            hole.change(gap, due_at)
        if self._is_too_large(gap) and not was_too_large:
            self._log.warning(
                "A gap is too large to be fetched: its candles stay marked. Check that its ids are real",
                symbol=gap.symbol,
                trades=f"{gap.first_trade_id}..{gap.last_trade_id}",
                missing=ids.count(whole(gap)),
                most=self._settings.most_trades,
            )

    def _is_too_large(self, gap: Gap) -> bool:
        return ids.count(whole(gap)) > self._settings.most_trades

    # The exchange.

    async def _fetch_pages(self) -> None:
        """Fetch page by page, whatever is due."""
        while True:
            hole = self._next()
            if hole is None:
                await asyncio.sleep(self._settings.tick_s)
                continue
            self._busy.add(hole.symbol)
            try:
                await self._fetch_page(hole)
            finally:
                self._busy.discard(hole.symbol)

    def _next(self) -> Hole | None:
        """Return the hole that has been due for longest, of a symbol that may be asked for."""
        now = time.monotonic()
        if now < self._rest.rests_until or not self._may_fetch():
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

    async def _fetch_page(self, hole: Hole) -> None:
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
        served, top, lowest = page_for(hole, due, size)
        try:
            trades, refused = await self._rest.page(symbol, top + 1, top + 1 - lowest)
        except NoPage as error:
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

    async def _fail(self, holes: Sequence[Hole], error: NoPage) -> None:
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

    async def _keep(self, holes: Sequence[Hole], value: bytes | str, reason: str) -> None:
        """Write a dead letter, unless there is one of this reason for all the holes already."""
        kind = _NUMBER.sub("0", reason)
        if all(kind in hole.letters for hole in holes):
            return
        for hole in holes:
            hole.letters.add(kind)
        await self._dead_letter(value if isinstance(value, bytes) else value.encode(), self._source, reason)

    async def _serve(self, holes: Sequence[Hole], trades: list[Trade], floor: int, top: int) -> None:
        """Deliver what the holes want of the page ``floor`` to ``top``, the oldest first."""
        delivered: list[int] = []
        for trade in sorted(trades, key=attrgetter("trade_id")):
            if any(ids.holds(hole.wanted, trade.trade_id) for hole in holes):
                await self._deliver(trade)
                delivered.append(trade.trade_id)
                self._fetched += 1
        for hole in holes:
            hole.take(ids.of(delivered), ((floor, top),), time.monotonic(), self._settings)
            if hole.wanted and not hole.left and not hole.is_told:
                hole.is_told = True
                self._log.warning(
                    "The exchange does not have trades",
                    symbol=hole.symbol,
                    trades=[f"{low}..{high}" for low, high in hole.wanted[:MOST_TOLD]],
                    missing=ids.count(hole.wanted),
                )
