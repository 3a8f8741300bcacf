"""The only file that opens a WebSocket to an exchange.

Products are sharded over connections; each connection connects, subscribes, reads, and when it
ends, for whatever reason, waits a little and starts over. Frames go through the connection's
codec, and its events to ``deliver``, in order. The read loop waits for ``deliver``: a full sink
holds up the socket, and nothing piles up in between.

What goes wrong with a book is told in the log: `models.book.BookLost` goes to ``deliver`` whenever
deltas were, or may have been, missed, and the feed asks for a new snapshot by itself. Until that
comes the symbol has no deltas: they would change a book that nobody has.

Errors: `FeedRefused`, `models.errors.ConfigError`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from models.book import BookDelta, BookLost, BookSnapshot
from models.errors import CandlewickError, ConfigError, DecodeError
from models.trade import Heartbeat, Trade
from producers.book_sync import BookSync
from producers.codec import Codec, Event, Refused, Subscribed, Unknown, without_userinfo
from producers.continuity import Continuity
from producers.feed_status import ConnectionStatus, FeedSettings, FeedStatus, State, backoff_s
from producers.latency import Latency
from producers.tasks import until_one_ends

log = structlog.get_logger(__name__)

FeedEvent = Trade | Heartbeat | BookSnapshot | BookDelta | BookLost
Deliver = Callable[[FeedEvent], Awaitable[None]]
DeadLetter = Callable[[bytes, str, str], Awaitable[None]]
"""Takes the bytes, their source, and the reason, as `producers.sink.Sink.dead_letter` does."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HELD_UP_S = 1.0
"""A frame that took longer to deliver: others have waited in the socket since."""
MESSAGE_TOO_BIG = 1009
KEEPALIVE_FAILED = 1011


class FeedRefused(CandlewickError):
    """The exchange refused every subscription, before any was ever accepted."""

    def __init__(self, exchange: str, refusal: Refused) -> None:
        super().__init__(exchange, refusal)
        self.exchange = exchange
        self.refusal = refusal

    def __str__(self) -> str:
        return f"{self.exchange} refused every subscription: {_said(self.refusal)}"


class Feed:
    """One exchange's live events: ``await Feed(...).run()``, until it is cancelled.

    Arguments:
        codec_factory: makes the codec of one connection, anew each time it connects.
        deliver: takes every event, in order for each connection.
        dead_letter: takes every frame that the codec refused.
        clock_us: wall clock in microseconds, for the time of receipt.

    Raises:
        ConfigError: the address is not a WebSocket's, or there are no symbols.
    """

    def __init__(
        self,
        codec_factory: Callable[[], Codec],
        url: str,
        symbols: Iterable[str],
        deliver: Deliver,
        dead_letter: DeadLetter,
        settings: FeedSettings | None = None,
        *,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        rng: random.Random | None = None,
    ) -> None:
        self.codec_factory = codec_factory
        self.exchange = codec_factory().exchange
        self.url = url
        self.shown_url = without_userinfo(url)
        self.deliver = deliver
        self.dead_letter = dead_letter
        self.settings = settings or FeedSettings()
        self.clock_us = clock_us
        self.rng = rng or random.Random()
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.port == 0:
                raise ValueError(url)
        except ValueError:
            raise ConfigError("the feed's address", self.shown_url, "a ws:// or wss:// address") from None
        self.is_local = parts.hostname in LOOPBACK

        names = list(dict.fromkeys(symbols))
        if not names:
            raise ConfigError("products", "", "at least one product")
        size = self.settings.connection_products
        self._connections = [
            _Connection(self, number, names[start : start + size])
            for number, start in enumerate(range(0, len(names), size))
        ]
        self._next_start = 0.0
        self.was_accepted = False
        self.unknown_messages: Counter[str] = Counter()
        self.refused_requests = 0
        self.books_resubscribed = 0
        self.latency = Latency()
        self.last_refusal: Refused | None = None

    async def run(self) -> None:
        """Keep every connection up, until cancelled.

        Raises:
            FeedRefused: the exchange accepted nothing at all.
            Exception: whatever ``deliver`` or ``dead_letter`` raises.
        """
        await until_one_ends(*(connection.run() for connection in self._connections))

    async def lose_book(self, symbol: str, cause: str) -> None:
        """Say that a symbol's book cannot be trusted, and ask for a new snapshot."""
        for connection in self._connections:
            if symbol in connection.symbols:
                await connection.lose_book(symbol, cause)

    @property
    def status(self) -> FeedStatus:
        """Return the state as it is now."""
        return FeedStatus(
            exchange=self.exchange,
            connections=tuple(connection.status for connection in self._connections),
            refused_requests=self.refused_requests,
            last_refusal=_said(self.last_refusal) if self.last_refusal else None,
            unknown_messages=dict(self.unknown_messages),
            books_resubscribed=self.books_resubscribed,
            latency_counts=tuple(self.latency.counts),
            latency_sum_us=self.latency.sum_us,
        )

    async def turn(self) -> None:
        """Wait for this connection's turn to start: the exchange counts starts by the second."""
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 1 / self.settings.connects_per_s
        await asyncio.sleep(start - now)

    def check_refusals(self) -> None:
        """Give up when there is nothing left to hope for: see `FeedRefused`."""
        if not self.was_accepted and all(connection.refused for connection in self._connections):
            assert self.last_refusal is not None
            raise FeedRefused(self.exchange, self.last_refusal)


class _Connect(connect):
    """Without redirects: they lead to another host, which nobody has named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Symbol:
    """What came of a symbol on this connection."""

    __slots__ = ("continuity", "has_traded", "seen_at")

    def __init__(self) -> None:
        self.continuity = Continuity()
        self.has_traded = False
        self.seen_at = 0.0
        """When its last frame was read, monotonic seconds."""


class _Connection:
    """One socket at a time, for some of the products."""

    def __init__(self, feed: Feed, number: int, symbols: Sequence[str]) -> None:
        self.number = number
        self.symbols = tuple(symbols)
        self.refused = False
        """The last attempt was refused whole."""
        self._feed = feed
        self._settings = feed.settings
        self._source = f"{feed.exchange} {feed.shown_url}"
        self._log = log.bind(exchange=feed.exchange, connection=number)
        self._reconnects: Counter[str] = Counter()
        self._frames = self._bytes = self._refused_frames = 0
        self._last_frame_us: int | None = None
        self._enter("waiting")
        # Of the present socket only:
        self._codec = feed.codec_factory()
        self._books: dict[str, BookSync] = {}
        self._symbols: dict[str, _Symbol] = {}
        self._subscribed_at: float | None = None
        self._asked_at = 0.0
        self._asked = self._refusals = 0
        self._refused_at = 0.0
        self._reading_since: float | None = None
        self._held_up_at = 0.0
        self._end_reason = ""

    @property
    def status(self) -> ConnectionStatus:
        return ConnectionStatus(
            number=self.number,
            state=self._state,
            since_us=self._since_us,
            products=self.symbols,
            reconnects=dict(self._reconnects),
            frames=self._frames,
            bytes=self._bytes,
            refused_frames=self._refused_frames,
            last_frame_us=self._last_frame_us,
        )

    def _enter(self, state: State) -> None:
        self._state: State = state
        self._since_us = self._feed.clock_us()

    async def run(self) -> None:
        """Connect, and connect again, for ever."""
        attempt = 0
        while True:
            await self._feed.turn()
            reason, detail = await self._session()
            ended_at = time.monotonic()
            self._reconnects[reason] += 1
            self._enter("waiting")
            await self._lose_all_books("disconnected")
            self._feed.check_refusals()
            up_s = ended_at - self._subscribed_at if self._subscribed_at else 0.0
            if up_s >= self._settings.healthy_s:
                attempt = 0
            elif self._subscribed_at:
                attempt = min(attempt, self._settings.served_attempts)
            wait_s = backoff_s(attempt, self._settings, self._feed.rng)
            attempt += 1
            self._log.warning(
                "Connection ended, will connect again",
                reason=reason,
                detail=detail,
                up_s=round(up_s, 1),
                wait_s=round(wait_s, 2),
                products=len(self.symbols),
            )
            await asyncio.sleep(wait_s)

    async def _session(self) -> tuple[str, str]:
        """Hold one socket from connect to end. Return why it ended: a short reason, and the detail."""
        self._enter("connecting")
        self._codec = self._feed.codec_factory()
        self._books = {}
        self._symbols = {}
        self._subscribed_at = None
        self._refusals = 0
        self._end_reason = ""
        settings = self._settings
        try:
            socket = await _Connect(
                self._feed.url,
                compression="deflate",
                max_size=settings.max_frame_bytes,
                ping_interval=settings.ping_s,
                ping_timeout=settings.ping_s,
                open_timeout=settings.open_s,
                close_timeout=1.0,  # a stop has 8 s for everything
                proxy=None if self._feed.is_local else True,
            )
        except InvalidURI:
            raise ConfigError(
                "the feed's address", self._feed.shown_url, "a ws:// or wss:// address"
            ) from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            return "unreachable", str(error) or type(error).__name__
        try:
            await self._subscribe(socket)
            await until_one_ends(self._read(socket), self._watch(socket))
            raise AssertionError("neither of them returns")
        except ConnectionClosed as error:
            if self._is_refused:
                self.refused, self._end_reason = True, "refused"
            return self._end_reason or _close_reason(error), str(error)
        finally:
            await socket.close()

    @property
    def _is_refused(self) -> bool:
        """Every request was refused so far."""
        return self._subscribed_at is None and 0 < self._asked <= self._refusals

    async def _subscribe(self, socket: ClientConnection) -> None:
        if self.refused:
            # One unknown product makes the exchange refuse a whole request. Asked for one by one,
            # the others come, and the exchange names the one that is wrong.
            channels = ("heartbeats", "trades", "books")
            frames = list(
                itertools.chain.from_iterable(
                    self._codec.subscribe([symbol], [channel])
                    for symbol in self.symbols
                    for channel in channels
                )
            )
        else:
            frames = self._codec.subscribe(self.symbols)
        for frame in frames:
            await socket.send(frame)
        self._asked, self._asked_at = len(frames), time.monotonic()

    async def _read(self, socket: ClientConnection) -> NoReturn:
        """Read frames until the socket ends, which raises `ConnectionClosed`."""
        clock_us, deliver = self._feed.clock_us, self._feed.deliver
        read_at = time.monotonic()
        while True:
            self._reading_since = time.monotonic()
            if self._reading_since - read_at > HELD_UP_S:
                self._held_up_at = self._reading_since
            # As bytes: text that is not UTF-8 is then a refused frame, not the end of the connection.
            frame = await socket.recv(decode=False)
            self._reading_since, read_at = None, time.monotonic()
            received_time_us = clock_us()
            self._frames += 1
            self._bytes += len(frame)
            self._last_frame_us = received_time_us
            try:
                events = self._codec.receive(frame, received_time_us)
            except DecodeError as error:
                await self._refuse_frame(frame, error)
                continue
            for event in events:
                if isinstance(event, Subscribed | Refused | Unknown):
                    self._answer(event)
                elif await self._is_of_use(event, read_at):
                    await deliver(event)

    async def _is_of_use(self, event: Trade | Heartbeat | BookSnapshot | BookDelta, read_at: float) -> bool:
        """Note what an event says of its symbol; a delta is of use where there is a book to change."""
        symbol = self._symbols.get(event.symbol)
        if symbol is None:
            symbol = self._symbols[event.symbol] = _Symbol()
        symbol.seen_at = read_at
        if isinstance(event, Trade):
            if symbol.has_traded:  # the first one on a connection is that of before it
                self._feed.latency.note(event.received_time_us - event.event_time_us)
            symbol.has_traded = True
        if isinstance(event, Trade | Heartbeat):
            if symbol.continuity.is_broken_by(event) and self._settings.lose_books_on_gaps:
                await self.lose_book(event.symbol, "missed trades")
        elif isinstance(event, BookSnapshot):
            self._book(event.symbol).in_step(read_at)
        else:
            return event.symbol in self._books and self._books[event.symbol].is_in_step
        return True

    def _book(self, symbol: str) -> BookSync:
        return self._books.setdefault(symbol, BookSync(self._settings))

    def _answer(self, event: Event) -> None:
        """Take what the exchange says to us, and not of the market."""
        if isinstance(event, Subscribed):
            self._accept(event)
        elif isinstance(event, Refused):
            self._refusals += 1
            self._feed.refused_requests += 1
            self._feed.last_refusal = event
            self._refused_at = time.monotonic()
            self._log.error("The exchange refused a request", message=event.message, reason=event.reason)
        elif isinstance(event, Unknown):
            self._feed.unknown_messages[event.type] += 1
            if self._feed.unknown_messages[event.type] == 1:
                self._log.info("Passed over a message of an unknown type", type=event.type)

    def _accept(self, event: Subscribed) -> None:
        now = time.monotonic()
        for symbol in event.channels.get("books", frozenset()):
            self._book(symbol).subscribed(now)
        if self._subscribed_at is None and any(event.channels.values()):
            self._subscribed_at = now
            self.refused = False
            self._feed.was_accepted = True
            self._enter("subscribed")
            self._log.info(
                "Subscribed",
                url=self._feed.shown_url,
                **{channel: len(symbols) for channel, symbols in event.channels.items()},
            )

    async def _refuse_frame(self, frame: bytes, error: DecodeError) -> None:
        self._refused_frames += 1
        where = f" in {error.field}" if error.field else ""
        self._log.warning("Refused a frame", reason=error.reason + where, bytes=len(frame), frame=frame[:200])
        await self._feed.dead_letter(frame, self._source, error.reason + where)
        for symbol in list(self._books):
            if b'"%s"' % symbol.encode() in frame:
                await self.lose_book(symbol, "refused frame")

    # Books.

    async def lose_book(self, symbol: str, cause: str) -> None:
        book = self._books.get(symbol)
        # Never in step, or a new snapshot is on its way: whatever came before that does not matter.
        if book is not None and book.is_in_step:
            book.ask_again(time.monotonic())
            await self._tell_lost(symbol, book, cause)

    async def _lose_all_books(self, cause: str) -> None:
        for symbol, book in self._books.items():
            if book.is_in_step:
                await self._tell_lost(symbol, book, cause)

    async def _tell_lost(self, symbol: str, book: BookSync, cause: str) -> None:
        book.is_in_step = False
        self._log.warning("Lost a book", symbol=symbol, cause=cause)
        lost = BookLost(self._feed.exchange, symbol, None, self._feed.clock_us(), cause)
        try:
            await self._feed.deliver(lost)
        except BaseException:
            # The watcher ends with its connection, maybe while it waits for room: said twice is
            # harmless, and not at all is a book that readers go on with.
            book.is_in_step = True
            raise

    # What has to happen when nothing arrives.

    async def _watch(self, socket: ClientConnection) -> NoReturn:
        """Look at the clock: cut a silent connection, lose silent books, ask again for lost ones."""
        while True:
            await asyncio.sleep(self._settings.tick_s)
            now = time.monotonic()
            if self._reading_since is None or self._end_reason:
                # The sink holds us up: that nothing arrives proves nothing. Or the reader is about to end.
                continue
            if now - self._reading_since > self._settings.silence_s:
                self._abort(socket, "silent")
            elif self._is_refused and now - self._refused_at > self._settings.refused_s:
                self._abort(socket, "refused")
            elif self._subscribed_at is None and now - self._asked_at > self._settings.ack_s:
                self._abort(socket, "not acknowledged")
            else:
                await self._lose_silent_books(now)
                await self._resubscribe_books(socket, now)

    async def _lose_silent_books(self, now: float) -> None:
        for symbol in [symbol for symbol, book in self._books.items() if book.is_in_step]:
            seen_at = max(self._symbols[symbol].seen_at, self._held_up_at)
            if now - seen_at > self._settings.symbol_silence_s:
                await self.lose_book(symbol, "silent")

    def _abort(self, socket: ClientConnection, reason: str) -> None:
        self._end_reason = reason
        # A half-open socket never answers a close: cut it.
        socket.transport.abort()

    async def _resubscribe_books(self, socket: ClientConnection, now: float) -> None:
        for symbol, book in list(self._books.items()):
            if book.is_overdue(now):
                self._log.warning(
                    "No snapshot of a subscribed book", symbol=symbol, waited_s=self._settings.snapshot_s
                )
                book.ask_again(now)
            if not book.is_due(now):
                continue
            book.asked(now)
            self._feed.books_resubscribed += 1
            frames = self._codec.unsubscribe([symbol], ["books"]) + self._codec.subscribe([symbol], ["books"])
            try:
                for frame in frames:
                    await socket.send(frame)
            except ConnectionClosed:
                return  # the reader learns the same, and says it


def _said(refusal: Refused) -> str:
    return ": ".join(part for part in (refusal.message, refusal.reason) if part)


def _close_reason(error: ConnectionClosed) -> str:
    if error.sent and error.sent.code == MESSAGE_TOO_BIG:
        return "frame too big"
    if error.sent and error.sent.code == KEEPALIVE_FAILED:
        return "no pong"
    if error.rcvd:
        return f"closed {error.rcvd.code}"
    return "cut"
