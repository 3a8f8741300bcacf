"""A recording as a source: the frames of a real session, sent verbatim.

Each product has its own **tape**. It begins when the product is first subscribed, waits while nobody
is subscribed to it, and never starts over: a client that comes back gets the last match and a
snapshot of the book as the tape left it. Tapes that begin or go on together play in the order
of the recording; how they were spread over connections makes no difference.

The frames are held in memory: some hundred bytes each beyond their text.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from bisect import bisect_left
from decimal import Decimal, InvalidOperation
from pathlib import Path

import msgspec

from candlewick.mock.frames import (
    CHANNEL_OF,
    LEVEL2,
    MATCHES,
    BookView,
    Frame,
    Row,
    TickerView,
    Trades,
    as_last_match,
    heartbeat_text,
    snapshot_text,
)
from candlewick.mock.hub import Hub
from models.book import BookDelta, BookSnapshot, Level, OrderBook
from models.decimals import EXACT, parse, plain
from models.times import parse_rfc3339
from producers.recording import RecordingError, read

_SLICE = 64 * 1024
"""Characters, about, between two looks at the sockets: one recorded snapshot can be 5 MB."""


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What is read of a recorded frame; the text goes out as it is."""

    type: str
    product_id: str | None = None
    time: str | None = None
    trade_id: int | None = None
    sequence: int | None = None
    price: str | None = None
    size: str | None = None
    side: str | None = None


class _Depth(msgspec.Struct, frozen=True, gc=False):
    """The levels of a ``snapshot`` or an ``l2update``."""

    bids: list[tuple[str, str]] = []
    asks: list[tuple[str, str]] = []
    changes: list[tuple[str, str, str]] = []


class _Mark(msgspec.Struct, frozen=True, gc=False):
    """One frame's place in the recording."""

    index: int
    received_us: int | None
    trade_id: int
    """The last trade that is known with this frame, 0 before there was one; the same below."""
    sequence: int
    time_us: int | None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_depth = msgspec.json.Decoder(_Depth).decode


class Tape:
    """One product's frames, and how far they were played."""

    def __init__(self, product: str) -> None:
        self.product = product
        self.position = 0
        """Frames played."""
        self.playing = False
        self.beats = False
        """True when the recording holds heartbeats."""
        self.frames: list[Frame] = []
        self.marks: list[_Mark] = []
        self._trades: list[tuple[int, int, Row]] = []
        """Position of the frame, trade id, and what REST says, by position."""
        self._served: list[tuple[int, Row]] = []
        """Trades played, by id; brought up to the tape only when someone asks."""
        self._counted = 0
        self._volume = Decimal(0)
        self._matches: list[tuple[int, str]] = []
        """Position and text of every match."""
        self._snapshots: list[int] = []
        self._folded = 0
        self._book = OrderBook()
        self._digits = [0, 0]

    def append(self, index: int, received_us: int | None, text: str, head: _Head) -> None:
        """Add a frame while the recording is read.

        Raises:
            ValueError: its time cannot be.
        """
        last = self.marks[-1] if self.marks else _Mark(0, None, 0, 0, None)
        time_us = last.time_us
        if head.time:
            time_us = parse_rfc3339(head.time)
        elif time_us is None:
            time_us = received_us
        trade_id, position = last.trade_id, len(self.frames)
        if CHANNEL_OF[head.type] == MATCHES and head.trade_id is not None:
            trade_id = max(trade_id, head.trade_id)
            row: Row = {
                "trade_id": head.trade_id,
                "side": head.side,
                "size": head.size,
                "price": head.price,
                "time": head.time,
            }
            self._trades.append((position, head.trade_id, row))
            self._matches.append((position, text.replace('"last_match"', '"match"', 1)))
        elif head.type == "snapshot":
            self._snapshots.append(position)
        elif head.type == "heartbeat":
            self.beats = True
        sequence = max(last.sequence, head.sequence or 0)
        self.marks.append(_Mark(index, received_us, trade_id, sequence, time_us))
        self.frames.append(Frame(self.product, head.type, time_us or 0, text))

    @property
    def ended(self) -> bool:
        """True when every frame was played."""
        return self.position == len(self.frames)

    @property
    def now(self) -> _Mark:
        """The place of the frame played last."""
        return self.marks[self.position - 1] if self.position else _Mark(0, None, 0, 0, None)

    def last_match(self) -> Frame | None:
        """Return the last match played, as a new subscriber gets it."""
        count = bisect_left(self._matches, (self.position, ""))
        if not count:
            return None
        return Frame(self.product, "last_match", 0, as_last_match(self._matches[count - 1][1]))

    def book(self) -> OrderBook | None:
        """Return the book after the frame played last, or None before there was a snapshot.

        Folded only when someone asks, and then from the last snapshot at the furthest.
        """
        at = bisect_left(self._snapshots, self.position)
        if not at:
            return None
        for frame in self.frames[max(self._folded, self._snapshots[at - 1]) : self.position]:
            if CHANNEL_OF[frame.kind] == LEVEL2:
                self._fold(frame)
        self._folded = self.position
        return self._book

    def snapshot(self) -> Frame | None:
        """Return the book as a ``snapshot`` frame."""
        book = self.book()
        if book is None:
            return None
        bids = [_level_json(level) for level in book.top_bids(len(book.bids))]
        asks = [_level_json(level) for level in book.top_asks(len(book.asks))]
        text = snapshot_text(self.product, bids, asks, self.now.time_us)
        return Frame(self.product, "snapshot", self.now.time_us or 0, text)

    def rows(self, limit: int, after: int | None, before: int | None) -> list[Row]:
        """Return up to ``limit`` trades played so far with ``before < id < after``, the newest first."""
        served = self._catch_up()
        end = len(served) if after is None else bisect_left(served, (after,))
        start = 0 if before is None else bisect_left(served, (before + 1,))
        return [row for _, row in reversed(served[max(start, end - limit) : end])]

    @property
    def volume(self) -> Decimal:
        """The sizes of all trades played, each counted once."""
        self._catch_up()
        return self._volume

    def _catch_up(self) -> list[tuple[int, Row]]:
        served = self._served
        while self._counted < len(self._trades) and self._trades[self._counted][0] < self.position:
            _, trade_id, row = self._trades[self._counted]
            self._counted += 1
            at = bisect_left(served, (trade_id,))
            if at == len(served) or served[at][0] != trade_id:  # a last match may repeat a trade
                served.insert(at, (trade_id, row))
                self._volume = EXACT.add(self._volume, _decimal(row["size"]))
        return served

    def _fold(self, frame: Frame) -> None:
        depth = _decode_depth(frame.text)
        try:
            if frame.kind == "snapshot":
                self._book.replace(
                    BookSnapshot("", self.product, None, 0, _levels(depth.bids), _levels(depth.asks))
                )
            else:
                sides: tuple[list[Level], list[Level]] = ([], [])
                for side, price, size in depth.changes:
                    sides[side != "buy"].append((Decimal(price), Decimal(size)))
                self._book.apply(BookDelta("", self.product, None, 0, tuple(sides[0]), tuple(sides[1])))
        except InvalidOperation:
            return  # sent as it is; judging it is the client's part


class RecordedSource:
    """Plays the tapes of one file."""

    beats = False

    def __init__(self, path: Path, speed: float, settle_s: float) -> None:
        self.name = f"recording {path.name}"
        self._path, self._speed, self._settle_s = path, speed, settle_s
        self._tapes: dict[str, Tape] = {}
        self._waiting: dict[str, None] = {}
        """Products that will begin, or go on, together in a moment."""
        self._groups: set[asyncio.Task[None]] = set()

    async def start(self, hub: Hub) -> None:
        """Read the file.

        Raises:
            RecordingError: it cannot be read, or holds no frames that this exchange would send.
        """
        self._hub = hub
        self._tapes = await asyncio.to_thread(load, self._path)

    async def stop(self) -> None:
        """Stop the tapes."""
        for task in self._groups:
            task.cancel()
        if self._groups:
            await asyncio.wait(self._groups)

    @property
    def products(self) -> list[str]:
        """The products recorded, in order of first appearance."""
        return list(self._tapes)

    @property
    def done(self) -> bool:
        """True when every tape was played."""
        return all(tape.ended for tape in self._tapes.values())

    def subscribed(self, products: list[str]) -> None:
        """Let tapes that stand still go on in a moment: the rest of a client's requests may follow."""
        idle = [
            product
            for product in products
            if not (tape := self._tapes[product]).playing and not tape.ended and self._hub.wanted(product)
        ]
        if idle and not self._waiting:
            task = asyncio.create_task(self._play())
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)
        for product in idle:
            self._tapes[product].playing = True
            self._waiting[product] = None

    def greeting(self, product: str, channel: str) -> Frame | None:
        """Return the last match or the book where the tape is; at its beginning it has its own."""
        tape = self._tapes[product]
        if channel == MATCHES:
            return tape.last_match()
        return tape.snapshot() if channel == LEVEL2 else None

    def heartbeat(self, product: str) -> Frame | None:
        """Return a heartbeat at the time of the last frame; the recording's own go first."""
        tape = self._tapes[product]
        now = tape.now
        if now.time_us is None or (tape.beats and not tape.ended):
            return None
        text = heartbeat_text(product, now.sequence, now.trade_id, now.time_us)
        return Frame(product, "heartbeat", now.time_us, text)

    def trades(self, product: str) -> Trades:
        """Return the trades played so far."""
        return self._tapes[product]

    def book(self, product: str, count: int | None) -> BookView:
        """Return the book where the tape is. How many orders make a level was not recorded: 1."""
        tape = self._tapes[product]
        book, now = tape.book() or OrderBook(), tape.now
        bids = book.top_bids(len(book.bids) if count is None else count)
        asks = book.top_asks(len(book.asks) if count is None else count)
        return BookView(_rows(bids), _rows(asks), now.sequence, now.time_us or 0)

    def ticker(self, product: str) -> TickerView | None:
        """Return last trade and best prices where the tape is."""
        tape = self._tapes[product]
        rows = tape.rows(1, None, None)
        if not rows:
            return None
        book, row = tape.book() or OrderBook(), rows[0]
        return TickerView(
            trade_id=tape.now.trade_id,
            price=str(row["price"]),
            size=str(row["size"]),
            time=str(row["time"]),
            bid=plain(book.best_bid[0]) if book.best_bid else "0",
            ask=plain(book.best_ask[0]) if book.best_ask else "0",
            volume=plain(tape.volume),
        )

    def increments(self, product: str) -> tuple[str, str]:
        """Return the finest step there is: the recording does not tell the product's own."""
        return "0.00000001", "0.00000001"

    def now_us(self) -> int:
        """Return the clock on the wall: a recording has no single time of its own."""
        return time.time_ns() // 1000

    async def _play(self) -> None:
        """Play the products that wait, together, until each has ended or has no subscriber."""
        await asyncio.sleep(self._settle_s)
        tapes = [self._tapes[product] for product in self._waiting]
        self._waiting.clear()
        heap = [(tape.marks[tape.position].index, tape.product, tape) for tape in tapes]
        heapq.heapify(heap)
        loop = asyncio.get_running_loop()
        zero: tuple[float, int] | None = None  # loop time and receipt of the first frame
        unseen = 0
        while heap:
            tape = heap[0][2]
            if not self._hub.wanted(tape.product):
                tape.playing = False
                heapq.heappop(heap)
                continue
            received_us = tape.marks[tape.position].received_us
            if received_us is not None and self._speed:
                zero = zero or (loop.time(), received_us)
                delay = zero[0] + (received_us - zero[1]) / 1_000_000 / self._speed - loop.time()
                if delay > 0:
                    await asyncio.sleep(delay)
                    if not self._hub.wanted(tape.product):
                        continue
            frame = tape.frames[tape.position]
            tape.position += 1
            self._hub.send(frame)
            if tape.ended:
                tape.playing = False
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (tape.marks[tape.position].index, tape.product, tape))
            unseen += len(frame.text)
            if unseen > _SLICE:
                unseen = 0
                await self._hub.room()
                await asyncio.sleep(0)


def load(path: Path) -> dict[str, Tape]:
    """Read a recording into tapes by product, in order of first appearance.

    Raises:
        RecordingError: the file cannot be read, or there is nothing in it to serve.
    """
    tapes: dict[str, Tape] = {}
    number = 0
    for index, line in enumerate(read(path)):
        number = index + 1
        if line.dir != "in":
            continue
        try:
            head = _decode_head(line.raw)
            if head.product_id is None or head.type not in CHANNEL_OF:
                continue  # acknowledgements, and messages that this server has no channel for
            tape = tapes.get(head.product_id) or Tape(head.product_id)
            tape.append(index, line.received_time_us, line.raw, head)
        except (msgspec.DecodeError, RecursionError, ValueError):
            continue  # a frame that says no product can go to nobody
        tapes[head.product_id] = tape
    if not tapes:
        raise RecordingError(path, 0, f"holds no frame of a product among its {number} lines")
    return tapes


def _levels(levels: list[tuple[str, str]]) -> tuple[Level, ...]:
    return tuple((Decimal(price), Decimal(size)) for price, size in levels)


def _decimal(text: object) -> Decimal:
    try:
        return parse(text)
    except ValueError:
        return Decimal(0)


def _level_json(level: Level) -> str:
    return f'["{plain(level[0])}","{plain(level[1])}"]'


def _rows(levels: list[Level]) -> list[list[object]]:
    return [[plain(price), plain(size), 1] for price, size in levels]
