"""The whole way of a trade, with a proxy wherever it can be hurt, and the ledger that judges it.

::

    mock exchange ── (evil exchange) ── wire ── producer ── kafka_wire ── Kafka ── worker
         │ truth                                                           │         │ HTTP
         └──────────────────────────> Verdict <──────── Ledger ────────────┴─────────┘

Mock exchange, proxies and ledger run here; producer, Kafka and worker are processes, and nothing
starts them again. The ledger reads Kafka directly, and what is right is folded from the market's own
fills, by code of this folder alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from candlewick import config, topics
from candlewick.guard import guarded
from candlewick.kafka.broker import EmbeddedBroker
from candlewick.mock import Faults, MockExchange, Simulation
from candlewick.mock.products import DEFAULT_PRODUCTS
from faults.exchange import Bend, EvilExchange
from faults.proxy import Proxy
from faults.scenario import Plan
from producers.topic import ensure_topics

PRODUCTS = DEFAULT_PRODUCTS
GRACE_S = 2.0
PATIENCE_S = 90.0
"""For what must happen, and has no bar of its own."""
REPAIR_S = 60.0
"""From the end of the market until every gap must be repaired and every candle right."""

SIZES_US = {"1m": 60_000_000, "1h": 3_600_000_000, "1d": 86_400_000_000}


class Fill(NamedTuple):
    """One trade, as the market or the log tells it."""

    price: str
    size: str
    taker_side: str
    time_us: int


Fills = dict[str, dict[int, Fill]]
"""By symbol and trade id."""


class Process:
    """A command of ``candlewick`` that nobody starts again."""

    def __init__(self, folder: Path, name: str, args: Iterable[str], env: Mapping[str, str]) -> None:
        self.log = folder / f"{name}.log"
        self._args, self._env = tuple(args), dict(env)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; the log goes on."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *guarded([sys.executable, "-m", "candlewick", *self._args]),
                env={**clean, "PYTHONUNBUFFERED": "1", **self._env},
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def running(self) -> asyncio.subprocess.Process:
        """The process as it runs now; raises when it has ended by itself."""
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(
                f"{self.log.name}: ended with {self._process.returncode}\n{self.said()[-2000:]}"
            )
        return self._process

    @property
    def usage(self) -> psutil.Process:
        """What it uses, for psutil."""
        return psutil.Process(self.running.pid)

    def said(self) -> str:
        """Return its whole log."""
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal."""
        self.running.send_signal(number)

    async def ended(self, within_s: float) -> int | None:
        """Wait for its end; return the exit code, or None when it still runs."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._process.wait(), within_s)
        return None

    async def end(self, number: int = signal.SIGTERM, within_s: float = 20.0) -> int | None:
        """Send a signal and wait; one that does not end is killed. Return the exit code."""
        if self._process is None or self._process.returncode is not None:
            return None
        self._process.send_signal(number)
        code = await self.ended(within_s)
        if code is None:
            self._process.kill()
            await self._process.wait()
        return code


class Ledger:
    """Everything that is in Kafka's topics, read from the beginning while it is written."""

    def __init__(self, bootstrap: str) -> None:
        self.fills: Fills = defaultdict(dict)
        self.copies = 0
        """Trades that are in the log more than once."""
        self.differing: list[tuple[str, str]] = []
        """Symbol and what differs, of trades of one id that are not the same."""
        self.heard_us: dict[str, int] = defaultdict(int)
        """By symbol, our clock when the producer received the newest trade."""
        self.letters: list[dict[str, Any]] = []
        self.gaps: dict[str, dict[str, Any]] = {}
        """By key, as they were told last."""
        self.opened: dict[str, dict[str, Any]] = {}
        """By key, as they were told first."""
        self.feeds: dict[str, dict[str, Any]] = {}
        """What producers said last of themselves."""
        self.closes: list[tuple[float, dict[str, Any]]] = []
        """Closed candles as they were told, each with the time when we read it."""
        self._bootstrap = bootstrap
        self._task: asyncio.Task[None] | None = None

    async def start(self, specs: Iterable[Any]) -> None:
        """Read on, until `stop`."""
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that Kafka is away is no news here
        wanted = {topics.TRADES, topics.DEAD_LETTERS, topics.GAPS, topics.CANDLES, topics.FEEDS}
        self._tps = [
            TopicPartition(spec.name, number)
            for spec in specs if spec.name in wanted
            for number in range(spec.partitions)
        ]  # fmt: skip
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Read no more."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def check(self) -> None:
        """Raise what ended the reading, if anything did."""
        if self._task and self._task.done():
            self._task.result()

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign(self._tps)
            await consumer.seek_to_beginning()
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=100, max_records=2000)).items():
                    take = getattr(self, "_" + tp.topic.replace("-", "_"))
                    for record in records:
                        if record.value is not None:
                            take(record, json.loads(record.value))
                await asyncio.sleep(0)
        finally:
            await consumer.stop()

    def _trades(self, record: Any, value: dict[str, Any]) -> None:
        if "trade_id" not in value:
            return  # a heartbeat
        symbol, trade_id = value["symbol"], value["trade_id"]
        fill = Fill(value["price"], value["size"], value["taker_side"], value["event_time_us"])
        known = self.fills[symbol].setdefault(trade_id, fill)
        if known is not fill:
            self.copies += 1
            if Decimal(known.price) != Decimal(fill.price) or known.time_us != fill.time_us:
                self.differing.append((symbol, f"{symbol} {trade_id}: {known} and {fill}"))
        self.heard_us[symbol] = max(self.heard_us[symbol], value["received_time_us"])

    def _dead_letters(self, record: Any, value: dict[str, Any]) -> None:
        self.letters.append(value)

    def _gaps(self, record: Any, value: dict[str, Any]) -> None:
        self.gaps[record.key.decode()] = value
        self.opened.setdefault(record.key.decode(), value)

    def _feeds(self, record: Any, value: dict[str, Any]) -> None:
        self.feeds[record.key.decode()] = value

    def _candles(self, record: Any, value: dict[str, Any]) -> None:
        self.closes.append((time.time(), value))

    def open_gaps(self) -> list[dict[str, Any]]:
        """Return the gaps of the market's products that nobody has repaired."""
        return [gap for gap in self.gaps.values() if gap["state"] != "repaired" and gap["symbol"] in PRODUCTS]


@dataclass
class Verdict:
    """The market's truth against the log and the worker's candles."""

    trades: int = 0
    lost: int = 0
    """Trades of the market that are not in the topic ``trades``."""
    double: int = 0
    """Trades that the candles hold beyond those of the market, ids that the market never had, and ids
    that are in the log with two meanings."""
    candles: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)
    copies: int = 0
    open_gaps: int = 0
    after_s: float = 0.0
    """From the asking until this was the verdict."""

    @property
    def zero(self) -> bool:
        """The bar Z: 0 lost, 0 double, 0 differing."""
        return self.trades > 0 and not (self.lost or self.double or self.differing)

    def __str__(self) -> str:
        told = (
            f"{self.trades:,} trades: {self.lost:,} lost, {self.double:,} double, "
            f"{self.differing} of {self.candles} candles differ, right after {self.after_s:.0f} s"
        )
        if self.open_gaps:
            told += f", {self.open_gaps} gaps not repaired"
        return told if self.zero else told.replace("right after", "still after") + _first(self.examples)


def _first(examples: list[str]) -> str:
    return f" (such as {examples[0]})" if examples else ""


class Flow:
    """``async with Flow(plan, lasts_s=60) as flow``: all of it, running.

    Arguments:
        lasts_s: how long, about, the market takes for its trades.
        trades: how many; the plan's where none are named.
        faults: what the mock exchange does wrong from the start.
        bend: puts an evil exchange before the mock, which bends its frames.
        env: settings of producer and worker.
    """

    def __init__(
        self,
        plan: Plan,
        lasts_s: float,
        *,
        trades: int | None = None,
        faults: Faults | None = None,
        bend: Bend | None = None,
        deflate: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.plan = plan
        self.trades = trades or plan.trades
        self.folder = plan.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._truth = self.folder / "truth.jsonl"
        rate = self.trades / lasts_s / len(PRODUCTS)
        self.mock = MockExchange(
            Simulation(PRODUCTS, plan.seed, trades_per_s=rate, max_trades=self.trades, truth=self._truth),
            faults=faults or Faults(seed=plan.seed),
        )
        self._bend, self._deflate, self._env = bend, deflate, dict(env or {})
        self._stack = contextlib.AsyncExitStack()
        self._processes: list[Process] = []
        self.evil: EvilExchange | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        enter, at_end = self._stack.enter_async_context, self._stack.push_async_callback
        self.plan.say("starting Kafka, the mock exchange, a worker and a producer")
        await self.mock.start()
        at_end(self.mock.stop)
        exchange_port = self.mock.port
        if self._bend:
            self.evil = await enter(EvilExchange(self.mock.rest_url, self._bend, deflate=self._deflate))
            exchange_port = self.evil.port
        self.wire = await enter(Proxy(exchange_port))
        direct, behind, controller = free_ports(3)
        self.kafka_wire = await enter(Proxy(behind))
        self.broker = await enter(
            EmbeddedBroker(
                self.folder / "kafka",
                direct,
                overrides=_two_listeners(direct, behind, self.kafka_wire.port, controller),
            )
        )
        self.http = await enter(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)))
        specs = topics.specs(config.load({}))
        await ensure_topics(self.broker.bootstrap, specs)
        self.ledger = Ledger(self.broker.bootstrap)
        await self.ledger.start(specs)
        at_end(self.ledger.stop)
        env = {"CANDLEWICK_GRACE_S": str(GRACE_S), "CANDLEWICK_COMMIT_S": "0.5", **self._env}
        (port,) = free_ports(1)
        self.base = f"http://127.0.0.1:{port}"
        self.worker = Process(
            self.folder, "worker",
            ("worker", "--broker", self.broker.bootstrap, "--data-dir", str(self.folder / "worker"),
             "--port", str(port), "--worker-id", "one"), env,
        )  # fmt: skip
        await self.worker.start()
        at_end(self.worker.end)
        self._processes.append(self.worker)
        self.producer = Process(
            self.folder, "producer",
            ("produce", "--feed", f"ws://127.0.0.1:{self.wire.port}", "--products", ",".join(PRODUCTS),
             "--broker", f"127.0.0.1:{self.kafka_wire.port}",
             "--data-dir", str(self.folder / "producer")), env,
        )  # fmt: skip
        await self._until(self._worker_ready, "the worker is ready")
        await self.producer.start()
        at_end(self.producer.end)
        self._processes.append(self.producer)
        if await self.heard(0) == inf:
            raise TimeoutError(f"the producer delivers nothing\n{self.producer.said()[-2000:]}")
        self.plan.say("live")

    async def _worker_ready(self) -> bool:
        told = await self.get("/v1/status?local=true")
        return bool(told and told["workers"][0]["ready"])

    # What scenarios ask for.

    async def get(self, path: str) -> Any:
        """Return what the worker answers; None where it is not a 200."""
        try:
            async with self.http.get(self.base + path) as answer:
                return await answer.json() if answer.status == 200 else None
        except (OSError, aiohttp.ClientError, TimeoutError):
            return None

    async def heard(self, since_us: int, within_s: float = PATIENCE_S) -> float:
        """Wait until every product has a trade in Kafka that was received since.

        A product that has made all its trades need only have its last one there. Return the seconds,
        infinity when it never came to that.
        """
        last: dict[str, int | None] = {}
        ended: set[str] = set()
        look_at = time.monotonic() + 1.0

        async def all_heard() -> bool:
            nonlocal look_at
            silent = {product for product in PRODUCTS if self.ledger.heard_us[product] <= since_us}
            if silent and time.monotonic() >= look_at:
                look_at = time.monotonic() + 1.0
                for product in silent:
                    before, last[product] = last.get(product), await self._last_id(product)
                    if before == last[product] and before in self.ledger.fills[product]:
                        ended.add(product)
            return silent <= ended

        seconds = await self.until(all_heard, within_s)
        return inf if seconds is None else seconds

    async def _last_id(self, product: str) -> int | None:
        """Return the id of the market's last trade so far."""
        async with self.http.get(f"{self.mock.rest_url}/products/{product}/trades?limit=1") as answer:
            rows = await answer.json()
        return int(rows[0]["trade_id"]) if rows else None

    async def market_over(self) -> None:
        """Wait until the market has made all its trades."""
        self.plan.say("waiting for the end of the market")
        await self._until(lambda: len(_books(self._truth)) == len(PRODUCTS), "the market ends", 3600)

    async def set_faults(self, **changes: float) -> None:
        """Change what the mock exchange does wrong."""
        async with self.http.post(f"{self.mock.rest_url}/mock/faults", json=changes) as answer:
            assert answer.status == 200, await answer.text()

    def faults_done(self, name: str) -> int:
        """Return how often one of the mock exchange's faults has happened."""
        done = self.mock.status()["faults"]
        assert isinstance(done, dict)
        return int(done.get(name, 0))

    async def verdict(self) -> Verdict:
        """Wait for the end of the market, the repair of all gaps and every candle; then judge.

        Always judges after `REPAIR_S` at the latest.
        """
        await self.market_over()
        truth = read_truth(self._truth)
        wanted = fold(truth)
        self.plan.say("waiting for repair, and for the last candle")
        began = time.monotonic()
        while True:
            self._check()
            verdict = self._in_the_log(truth)
            late = time.monotonic() - began > REPAIR_S
            if late or not (verdict.lost or verdict.open_gaps):
                await self._compare(truth, wanted, verdict)
            verdict.after_s = time.monotonic() - began
            if late or (verdict.candles and verdict.zero and not verdict.open_gaps):
                return verdict
            await asyncio.sleep(1.0)

    async def compare(self, truth: Fills) -> Verdict:
        """Judge as it is now, for these trades only."""
        verdict = self._in_the_log(truth)
        await self._compare(truth, fold(truth), verdict)
        return verdict

    def _in_the_log(self, truth: Fills) -> Verdict:
        return Verdict(
            trades=sum(map(len, truth.values())),
            lost=sum(len(fills.keys() - self.ledger.fills[s].keys()) for s, fills in truth.items()),
            copies=self.ledger.copies,
            open_gaps=len(self.ledger.open_gaps()),
        )

    async def _compare(
        self, truth: Fills, wanted: dict[tuple[str, str, int], dict[str, Any]], verdict: Verdict
    ) -> None:
        told_twice = [text for symbol, text in self.ledger.differing if symbol in truth]
        verdict.examples += told_twice
        verdict.double += len(told_twice)
        for symbol, fills in truth.items():
            unknown = self.ledger.fills[symbol].keys() - fills.keys()
            verdict.double += len(unknown)
            verdict.examples += [f"{symbol} {trade_id}, which never was" for trade_id in unknown]
        for (window, symbol, start_us), want in wanted.items():
            told = await self.get(f"/stats/{window}/{symbol}?at={start_us // 1000}")
            found = (told or {}).get("candle") or {}
            verdict.candles += 1
            if window == "1d":
                verdict.double += max(0, found.get("trade_count", 0) - want["trade_count"])
            wrong = [name for name in want if not _same(want[name], found.get(name))]
            if wrong:
                verdict.differing += 1
                verdict.examples.append(
                    f"{window} {symbol}: {wrong[0]} is {found.get(wrong[0])}, should be {want[wrong[0]]}"
                )

    async def until(
        self, ready: Callable[[], Any], within_s: float = PATIENCE_S, every_s: float = 0.02
    ) -> float | None:
        """Wait until it is true; return the seconds, or None when it never was.

        ``ready`` may be a coroutine function.
        """
        began = time.monotonic()
        while True:
            found = ready()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return time.monotonic() - began
            if time.monotonic() - began > within_s:
                return None
            self._check()
            await asyncio.sleep(every_s)

    def _check(self) -> None:
        """Raise when something ended that should run: nobody starts it again."""
        self.ledger.check()
        for process in self._processes:
            process.running  # noqa: B018

    async def _until(self, ready: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
        if await self.until(ready, within_s) is None:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")

    async def books_in_step(self) -> int:
        """Return how many products' books the worker says are in step."""
        told = await self.get("/v1/status?local=true")
        return sum(p["book"]["state"] == "in step" for p in told["products"]) if told else 0


@contextlib.asynccontextmanager
async def metered(process: Process, every_s: float = 0.05) -> Any:
    """Sample a process's resident memory while the block runs; yields a `Meter`."""
    meter = Meter(process.usage)
    task = asyncio.create_task(meter.run(every_s))
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Meter:
    """Resident memory, from now on, in MiB."""

    def __init__(self, usage: psutil.Process) -> None:
        self._usage = usage
        self.first = self.last = self.peak = usage.memory_info().rss / 2**20

    @property
    def growth(self) -> float:
        """The peak above the beginning."""
        return self.peak - self.first

    async def run(self, every_s: float) -> None:
        """Look, until the process ends."""
        with contextlib.suppress(psutil.NoSuchProcess):
            while True:
                self.last = self._usage.memory_info().rss / 2**20
                self.peak = max(self.peak, self.last)
                await asyncio.sleep(every_s)


# The truth, and its fold.


def read_truth(path: Path) -> Fills:
    """Return the market's own fills."""
    fills: Fills = defaultdict(dict)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["kind"] == "trade":
                fill = Fill(row["price"], row["size"], row["taker_side"], row["time_us"])
                fills[row["product_id"]][row["trade_id"]] = fill
    return fills


def fold(fills: Fills) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return every candle of these trades, by (window, symbol, start)."""
    groups: dict[tuple[str, str, int], list[tuple[int, int, Fill]]] = defaultdict(list)
    for symbol, of_symbol in fills.items():
        for trade_id, fill in of_symbol.items():
            for window, size_us in SIZES_US.items():
                start_us = fill.time_us - fill.time_us % size_us
                groups[window, symbol, start_us].append((fill.time_us, trade_id, fill))
    with localcontext(Context(prec=250)):
        return {key: _candle(sorted(group)) for key, group in groups.items()}


def _candle(trades: list[tuple[int, int, Fill]]) -> dict[str, Any]:
    rows = [(Decimal(fill.price), Decimal(fill.size), fill.taker_side) for _, _, fill in trades]
    ids = [trade_id for _, trade_id, _ in trades]
    return {
        "open": rows[0][0], "high": max(row[0] for row in rows), "low": min(row[0] for row in rows),
        "close": rows[-1][0], "volume": sum(row[1] for row in rows),
        "quote_volume": sum(price * size for price, size, _ in rows),
        "buy_volume": sum((size for _, size, side in rows if side == "buy"), Decimal(0)),
        "sell_volume": sum((size for _, size, side in rows if side == "sell"), Decimal(0)),
        "trade_count": len(rows), "first_trade_id": min(ids), "last_trade_id": max(ids), "missing_trades": 0,
    }  # fmt: skip


def _same(want: Decimal | int, found: Any) -> bool:
    return found is not None and (Decimal(found) == want if isinstance(want, Decimal) else found == want)


def _books(path: Path) -> list[str]:
    """Return the last lines of a truth: written when the market is over."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200_000))
        return [line for line in file.read().decode().splitlines() if line.startswith('{"kind":"book"')]


def free_ports(count: int) -> list[int]:
    """Return different ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def _two_listeners(direct: int, behind: int, advertised: int, controller: int) -> dict[str, str]:
    """Return Kafka's settings for a second listener, which clients reach through a proxy alone."""
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{behind},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
    }


def now_us() -> int:
    """Return our clock, microseconds since 1970."""
    return time.time_ns() // 1000


def time_text(time_us: int) -> str:
    """Write an instant as the exchange does."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}Z"


def bytes_of(letter: Mapping[str, Any]) -> bytes:
    """Return what a dead letter holds."""
    text = letter.get("text")
    return base64.b64decode(letter["base64"]) if text is None else str(text).encode()


def parse_time(text: str) -> int:
    """Read an instant, as microseconds since 1970."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond
