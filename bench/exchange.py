"""An exchange that keeps a pace: Coinbase's frames over WebSocket, from a process of its own.

The mock exchange decides for itself how busy its market is; here the caller does. Some trades are
**probes**: when each was handed to the socket is told on standard output, by the clock that all
processes of a machine share, so that whoever sees the trade later knows its age.

A socket is not forced to take the pace: what it has no room for is never made, and the trade ids
go on without a hole. Probes are sent in any case.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import msgspec
import psutil
from websockets.asyncio.server import ServerConnection, serve

from bench import market
from candlewick.guard import guarded
from models.errors import CandlewickError
from models.times import rfc3339
from models.window import WINDOWS

TICK_S = 0.001
ROOM_BYTES = 256 << 10
"""What may wait for the socket; behind it the kernels of both sides hold some megabytes."""
CLOSE_S = 60.0
BOOK_S = 0.05
"""Between two frames of a book: Coinbase gathers changes for so long."""
CHANGES = 4
MINUTE = WINDOWS[0]
MATCH = (
    b'{"type":"match","trade_id":%d,"maker_order_id":"ac928c66-ca53-498f-9c13-a110027a60e8",'
    b'"taker_order_id":"132fb6ae-456b-4654-b4e0-d681ac05cea1","side":"sell","size":"0.01500000",'
    b'"price":"%d.%02d","product_id":"%b","sequence":%d,"time":"%b"}'
)


class ExchangeEnded(CandlewickError):
    """The process is gone."""


class Load(msgspec.Struct, frozen=True):
    """What is sent."""

    symbols: tuple[str, ...]
    trades_per_s: int
    """Over all symbols."""
    probe: str = ""
    """A symbol whose trades are all probes, of the present."""
    late: str = ""
    """A symbol whose trades are all probes, of a minute that two before them began and ended."""
    probes_per_s: int = 20
    """Of each of the two."""
    levels: int = 0
    """A side of each book; with none there are no books."""
    before: dict[str, int] = {}
    """The last trade that a symbol had before."""


class Probe(msgspec.Struct, frozen=True, array_like=True):
    """A trade that was handed to the socket."""

    symbol: str
    trade_id: int
    sent_ns: int
    """By `time.monotonic_ns`."""


class Exchange:
    """The process, and what it tells: ``async with Exchange(load) as exchange``."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""
        self.sent: dict[str, int] = {}
        """The trades of each symbol; there once `probes` has ended."""

    async def __aenter__(self) -> Self:
        argv = [sys.executable, "-m", "bench.exchange", msgspec.json.encode(self._load).decode()]
        self._process = await asyncio.create_subprocess_exec(*guarded(argv), stdout=asyncio.subprocess.PIPE)
        self.url = msgspec.json.decode(await self._line(), type=str)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def probes(self) -> AsyncIterator[Probe]:
        """Yield each probe as soon as it is on its way; end when all was sent, after `stop`."""
        while True:
            told = msgspec.json.decode(await self._line(), type=Probe | dict[str, int])
            if isinstance(told, dict):
                self.sent = told
                return
            yield told

    def stop(self) -> None:
        """Send no more."""
        assert self._process is not None
        self._process.terminate()

    def cpu_s(self) -> float:
        """Return the seconds of processor time that it has used."""
        assert self._process is not None
        return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))

    async def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ExchangeEnded(f"the exchange ended with code {await self._process.wait()}")
        return line


class _Frames:
    """Frames of all symbols, as bytes for the socket."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._turn = 0
        self._late_us = 0
        names = [*load.symbols, *filter(None, (load.probe, load.late))]
        self.sent = {name: load.before.get(name, 0) for name in names}
        """Trades of each symbol so far: the last one's id."""

    def trades(self, count: int) -> bytes:
        """Return so many trades of the present, the symbols in turn."""
        names, time_us = self._load.symbols, _now_us()
        frames = [self._trade(names[(self._turn + i) % len(names)], time_us) for i in range(count)]
        self._turn += count
        return b"".join(frames)

    def probe(self) -> bytes:
        """Return a trade of the present."""
        return self._trade(self._load.probe, _now_us())

    def late(self) -> bytes:
        """Return a trade of a minute ago; the second one is of the present, and ends that minute."""
        if self.sent[self._load.late] == 1:
            return self._trade(self._load.late, _now_us())
        if not self._late_us:
            self._late_us = MINUTE.start_of(_now_us()) - 5 * MINUTE.size_us
        self._late_us += 1
        return self._trade(self._load.late, self._late_us)

    def books(self) -> Iterator[bytes]:
        """Yield the book of each symbol, then changes, one symbol after the other, for ever."""
        names = self._load.symbols
        for name in names:
            yield _frame(_snapshot(name, self._load.levels))
        for seed in itertools.count():
            for delta in market.deltas(names, len(names), CHANGES, _now_us(), 0, seed):
                yield _frame(market.update_frame(delta).encode())

    def _trade(self, symbol: str, time_us: int) -> bytes:
        number = self.sent[symbol] = self.sent[symbol] + 1
        price = 83_000 + number % 499, number % 100
        return _frame(MATCH % (number, *price, symbol.encode(), number, rfc3339(time_us).encode()))


class _Pace:
    """Counts what is due at a steady rate."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._began = time.monotonic()
        self._counted = 0

    def due(self) -> int:
        """Return how many have come due since the last call."""
        count = int((time.monotonic() - self._began) * self._per_s) - self._counted
        self._counted += count
        return count


async def _send(transport: asyncio.WriteTransport, load: Load, frames: _Frames, stop: asyncio.Event) -> None:
    """Send at the rates of the load, until told to stop."""
    books = frames.books() if load.levels else iter(())
    transport.writelines(list(itertools.islice(books, len(load.symbols))))
    if load.late:
        transport.write(frames.late() + frames.late())
    trades, probes, changes = (
        _Pace(rate) for rate in (load.trades_per_s, load.probes_per_s, len(load.symbols) / BOOK_S)
    )
    while not stop.is_set():
        has_room = transport.get_write_buffer_size() < ROOM_BYTES
        if (count := trades.due()) and has_room:
            transport.write(frames.trades(count))
        if (count := changes.due()) and has_room:
            transport.write(b"".join(itertools.islice(books, count)))
        for _ in range(probes.due()):
            for symbol, frame in ((load.probe, frames.probe), (load.late, frames.late)):
                if symbol:
                    data = frame()
                    sent_ns = time.monotonic_ns()
                    transport.write(data)
                    _tell(Probe(symbol, frames.sent[symbol], sent_ns))
        await asyncio.sleep(TICK_S)


async def _run(load: Load) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    frames = _Frames(load)

    async def follow(connection: ServerConnection) -> None:
        asked = msgspec.json.decode(await connection.recv())
        channels = [
            {"name": name, "product_ids": asked["product_ids"]}
            for name in asked["channels"]
            if load.levels or name != "level2_batch"
        ]
        await connection.send(msgspec.json.encode({"type": "subscriptions", "channels": channels}), text=True)
        await _send(connection.transport, load, frames, stop)

    options = {"compression": None, "ping_interval": None, "close_timeout": CLOSE_S}
    async with serve(follow, "127.0.0.1", 0, **options) as server:
        host, port = server.sockets[0].getsockname()
        _tell(f"ws://{host}:{port}")
        await stop.wait()
    _tell(frames.sent)


def _tell(what: object) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(what) + b"\n")


def _frame(text: bytes) -> bytes:
    """Return a text frame of at least 126 bytes, unmasked, as servers send them (RFC 6455 section 5.2)."""
    size = len(text)
    head = b"\x81\x7e" + size.to_bytes(2, "big") if size < 1 << 16 else b"\x81\x7f" + size.to_bytes(8, "big")
    return head + text


def _snapshot(symbol: str, levels: int) -> bytes:
    book = market.snapshot(symbol, _now_us(), levels)
    sides = {
        side: [(f"{price:f}", f"{size:f}") for price, size in found]
        for side, found in (("bids", book.bids), ("asks", book.asks))
    }
    time = rfc3339(book.event_time_us or 0)
    return msgspec.json.encode({"type": "snapshot", "product_id": symbol, **sides, "time": time})


def _now_us() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    asyncio.run(_run(msgspec.json.decode(sys.argv[1], type=Load)))
