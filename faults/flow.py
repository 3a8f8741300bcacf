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
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any, Self

import aiohttp

from candlewick import config, topics
from candlewick.kafka.broker import EmbeddedBroker, free_ports
from candlewick.mock import Faults, MockExchange, Simulation
from faults.exchange import Bend, EvilExchange
from faults.ledger import PRODUCTS, Ledger, Verdict, read_truth
from faults.process import Failed, Process
from faults.proxy import Proxy
from faults.scenario import Plan
from faults.truth import Candles, Fills, fold, told
from producers.topic import ensure_topics

GRACE_S = 2.0
PATIENCE_S = 90.0
"""For what must happen, and has no bar of its own."""
REPAIR_S = 60.0
"""From the end of the market until every gap must be repaired and every candle right."""
REPAIRED_A_S = 1_000
"""Three pages of 1,000 trades a second are asked for, by the exchange's limits."""


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
            self.folder / "worker.log",
            ("-m", "candlewick", "worker", "--broker", self.broker.bootstrap,
             "--data-dir", str(self.folder / "worker"), "--port", str(port), "--worker-id", "one"), env,
        )  # fmt: skip
        await self.worker.start()
        at_end(self.worker.close)
        self._processes.append(self.worker)
        self.producer = Process(
            self.folder / "producer.log",
            ("-m", "candlewick", "produce", "--feed", f"ws://127.0.0.1:{self.wire.port}",
             "--products", ",".join(PRODUCTS), "--broker", f"127.0.0.1:{self.kafka_wire.port}",
             "--data-dir", str(self.folder / "producer")), env,
        )  # fmt: skip
        await self._until(self._worker_ready, "the worker is ready")
        await self.producer.start()
        at_end(self.producer.close)
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
        await self._until(self._is_over, "the market ends", 3600)

    async def set_faults(self, **changes: float) -> None:
        """Change what the mock exchange does wrong."""
        async with self.http.post(f"{self.mock.rest_url}/mock/faults", json=changes) as answer:
            assert answer.status == 200, await answer.text()

    @property
    def connections(self) -> int:
        """How many WebSockets the exchange has had so far."""
        return int(str(self.mock.status()["connections_ever"]))

    async def connected(self, before: int) -> float | None:
        """Wait for one more WebSocket than before; return the seconds, None when there was none."""
        return await self.until(lambda: self.connections > before)

    def faults_done(self, name: str) -> int:
        """Return how often one of the mock exchange's faults has happened."""
        done = self.mock.status()["faults"]
        assert isinstance(done, dict)
        return int(done.get(name, 0))

    async def verdict(self) -> Verdict:
        """Wait for the end of the market, the repair of all gaps and every candle; then judge.

        Always judges after `REPAIR_S` at the latest, and a second for each `REPAIRED_A_S` trades that the
        log did not have.
        """
        await self.market_over()
        truth = read_truth(self._truth)
        wanted = fold(truth)
        self.plan.say("waiting for repair, and for the last candle")
        began, most_lost = time.monotonic(), 0
        while True:
            self._check()
            verdict = self._in_the_log(truth)
            most_lost = max(most_lost, verdict.lost)
            late = time.monotonic() - began > REPAIR_S + most_lost / REPAIRED_A_S
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

    async def _compare(self, truth: Fills, wanted: Candles, verdict: Verdict) -> None:
        told_twice = [text for symbol, text in self.ledger.differing if symbol in truth]
        verdict.examples += told_twice
        verdict.double += len(told_twice)
        for symbol, fills in truth.items():
            unknown = self.ledger.fills[symbol].keys() - fills.keys()
            verdict.double += len(unknown)
            verdict.examples += [f"{symbol} {trade_id}, which never was" for trade_id in unknown]
        for (symbol, window, start_s), want in wanted.items():
            answer = await self.get(f"/stats/{window}/{symbol}?at={start_s * 1000}") or {}
            found = told(answer["candle"]) if answer.get("candle") else {}
            verdict.candles += 1
            if window == "1d":
                verdict.double += max(0, found.get("trade_count", 0) - want["trade_count"])
            wrong = [name for name in want if want[name] != found.get(name)]
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

    def must_trade(self) -> None:
        """Make sure that the market is not over: a fault would be done to nothing.

        Raises:
            Failed: it is.
        """
        if self._is_over():
            raise Failed("the market was over before the faults were")

    def _is_over(self) -> bool:
        return len(_books(self._truth)) == len(PRODUCTS)

    def _check(self) -> None:
        """Raise when something ended that should run: nobody starts it again."""
        self.ledger.check()
        for process in self._processes:
            process.must_run()

    async def _until(self, ready: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
        if await self.until(ready, within_s) is None:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")

    async def books_are_in_step(self) -> bool:
        """Return whether the worker says so of every product's book."""
        told = await self.get("/v1/status?local=true")
        books = [product["book"]["state"] for product in told["products"]] if told else []
        return books == ["in step"] * len(PRODUCTS)


def _books(path: Path) -> list[str]:
    """Return the last lines of a truth: written when the market is over."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200_000))
        return [line for line in file.read().decode().splitlines() if line.startswith('{"kind":"book"')]


def _two_listeners(direct: int, behind: int, advertised: int, controller: int) -> dict[str, str]:
    """Return Kafka's settings for a second listener, which clients reach through a proxy alone."""
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{behind},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
    }
