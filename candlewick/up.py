"""``candlewick up``: everything on one machine, from one command.

Kafka runs below this process; the mock exchange, the producer and the worker are processes of
their own, the same commands that a cluster runs. What is shown comes from the web views, as any
user could ask them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from candlewick import datadir, feeds, topics
from candlewick.children import Child
from candlewick.config import Settings, env_name, may_bind
from candlewick.kafka import address
from candlewick.kafka.broker import EmbeddedBroker
from candlewick.kafka.security import checked
from candlewick.screen import Screen
from candlewick.stopping import stop_event
from candlewick.terminal.client import Where, own
from models.errors import CandlewickError, ConfigError
from producers.topic import ensure_topics

READY_WITHIN_S = 90.0
STOP_S = {"producer": 4.5, "worker": 3.0, "mock exchange": 0.5, "kafka": 2.0}
"""How long each may take to end before it is ended: within 10 s together."""
POLL_S = 1.0
GAPS_S = 30.0
"""How long the end of a recording waits for gaps in its trades while nothing comes of it."""


class NotReady(CandlewickError):
    """The worker did not become ready."""


async def run(settings: Settings, exit_when_done: bool) -> None:
    """Start everything, show it, and end it in order when asked to, or when the recording is done.

    Raises:
        CandlewickError: something could not be started, or did not stay up.
    """
    may_bind(settings, settings.host)
    if not settings.broker:
        address.must_be_clear(settings)
    source = feeds.resolve(settings)
    if exit_when_done and source.file is None:
        raise ConfigError("--exit-when-done", settings.feed, "used with a recording: other feeds do not end")
    data_dir = datadir.prepare(settings.data_dir)
    remedy = "end it first, or give this one another --data-dir"
    with datadir.locked(data_dir / "up.lock", "`candlewick up`", remedy):
        _must_be_free(settings.host, settings.port)
        screen = Screen(f"http://{settings.host}:{settings.port}")
        stop = stop_event()
        with screen:
            running = asyncio.ensure_future(_run(settings, source, data_dir, screen, exit_when_done))
            stopped = asyncio.ensure_future(stop.wait())
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not running.done():
                screen.say("stopping")
                running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            screen.say("stopped")


async def _run(
    settings: Settings, source: feeds.Source, data_dir: Path, screen: Screen, exit_when_done: bool
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        env = {**settings.env(), "CANDLEWICK_DATA_DIR": str(data_dir)}
        watch: list[asyncio.Future[Any]] = []
        if settings.broker:
            screen.component("kafka", "up", settings.broker)
        else:
            began = time.monotonic()
            screen.component("kafka", "starting")
            broker = await stack.enter_async_context(EmbeddedBroker(data_dir, stop_s=STOP_S["kafka"]))
            env["CANDLEWICK_BROKER"] = broker.bootstrap
            screen.component("kafka", "up", f"{broker.bootstrap} after {time.monotonic() - began:.1f} s")
            watch.append(asyncio.ensure_future(_broker_ends(broker)))
            stack.push_async_callback(_cancel, watch[-1])
        kafka = env["CANDLEWICK_BROKER"]
        security = await checked(kafka, settings)
        await ensure_topics(
            kafka, topics.specs(settings), replication=settings.replication, security=security
        )
        env["CANDLEWICK_PRODUCTS"] = ",".join(source.products)
        mock_url = ""
        if not source.url:
            mock = await _child(stack, screen, watch, "mock exchange", ["mock-exchange"], env, data_dir)
            url = await mock.first_line("mock exchange at ", READY_WITHIN_S)
            screen.component(
                "mock exchange", "up", f"{url}, {source.file.name if source.file else 'simulated market'}"
            )
            env["CANDLEWICK_FEED"] = url
            mock_url = url.replace("ws://", "http://").rstrip("/") + "/mock/status"
        env["CANDLEWICK_WORKER_ID"] = settings.worker_id or "up"
        worker = await _child(stack, screen, watch, "worker", ["worker"], env, data_dir)
        patient = env | _patience(settings, source)
        producer = await _child(stack, screen, watch, "producer", ["produce"], patient, data_dir)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            web = Web(session, own(settings))
            following = asyncio.ensure_future(
                _follow(web, screen, source, mock_url if exit_when_done else "", producer, worker)
            )
            try:
                done, _ = await asyncio.wait({following, *watch}, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    future.result()
            finally:
                await _cancel(following)


def _patience(settings: Settings, source: feeds.Source) -> dict[str, str]:
    """Return what a producer is told of a source that waits for it: to wait for Kafka, and drop nothing."""
    env = {}
    if source.file or (source.kind == "mock" and settings.speed == 0):
        env[env_name("spill_mb")] = "0"
    if source.file:  # a recording does not give a book anew
        env[env_name("lose_books_on_gaps")] = "false"
    return env


class Web:
    """Our own web views, asked as a user asks them."""

    def __init__(self, session: aiohttp.ClientSession, there: Where) -> None:
        self._session = session
        self._there = there

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and JSON; status 0 while nobody answers."""
        return await self.get_url(self._there.url + path, self._there.headers)

    async def get_url(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Return status and JSON of another server; status 0 while nobody answers."""
        try:
            async with self._session.get(url, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return 0, None


async def _child(
    stack: contextlib.AsyncExitStack,
    screen: Screen,
    watch: list[asyncio.Future[Any]],
    name: str,
    command: list[str],
    env: dict[str, str],
    data_dir: Path,
) -> Child:
    """Start a process, and keep it running until the stack ends."""
    child = Child(name, command, env, data_dir)
    screen.component(name, "starting")
    await child.start()
    stack.push_async_callback(child.stop, STOP_S[name])

    def again(_: Child, code: int) -> None:
        screen.component(name, "starting", f"ended with code {code}, starting it again; log: {child.log}")

    watch.append(asyncio.ensure_future(child.keep_running(again)))
    stack.push_async_callback(_cancel, watch[-1])  # before its end: it would start it again
    return child


async def _cancel(future: asyncio.Future[Any]) -> None:
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)


async def _follow(
    web: Web, screen: Screen, source: feeds.Source, done_url: str, producer: Child, worker: Child
) -> None:
    """Wait until all is ready, say so, then show what happens; end when the recording is done."""
    end = time.monotonic() + READY_WITHIN_S
    while (await web.get("/readyz"))[0] != 200:
        _, status = await web.get("/v1/status")
        screen.status(status)
        if time.monotonic() > end:
            raise _not_ready(status, worker, producer)
        await asyncio.sleep(0.1)
    screen.ready()
    target: int | None = None  # frames that the mock had sent when it was done
    settled = 0
    gaps: dict[str, int] = {}
    gaps_since = 0.0
    while True:
        _, status = await web.get("/v1/status")
        screen.status(status)
        if done_url and status:
            _, mock = await web.get_url(done_url)
            if target is None and mock and mock["done"]:
                target = mock["frames_sent"]
            before, gaps = gaps, _gaps(status)
            if gaps != before:
                gaps_since = time.monotonic()
            repaired = _are_repaired(gaps) or time.monotonic() - gaps_since >= GAPS_S
            is_done = target is not None and _is_folded(status, target) and repaired
            settled = settled + 1 if is_done and gaps == before else 0
            if settled >= 2:
                screen.say("the recording is done")
                return
        await asyncio.sleep(0.3 if done_url else POLL_S)


def _not_ready(status: Any, worker: Child, producer: Child) -> NotReady:
    """Say why nothing is ready yet, as far as it is known."""
    waited = f"not ready within {READY_WITHIN_S:.0f} s"
    for feed in (status or {}).get("feeds") or []:
        if feed.get("state") != "connected":
            last = (datadir.tail(producer.log, 1) or [""])[0]
            return NotReady(
                f"{waited}: the feed is not connected ({feed.get('error') or last}); see {producer.log}"
            )
    return NotReady(f"{waited}; see {worker.log} and {producer.log}")


def _is_folded(status: Any, frames: int) -> bool:
    """Say whether the producer has received so many frames, Kafka all of them, and the worker too."""
    feeds = [feed for feed in status["feeds"] if feed["state"] == "connected"]
    received = sum(feed["frames"] for feed in feeds)
    unacked = sum(feed["unacked"] for feed in feeds)
    lag = sum(worker.get("lag_records", 1) for worker in status["workers"])
    return bool(received >= frames and unacked == 0 and lag == 0)


def _gaps(status: Any) -> dict[str, int]:
    """Return how many gaps the workers see in the trades, and what the producers say of them."""
    said = ("open_gaps", "unavailable_gaps", "repaired_trades")
    feeds = [feed for feed in status["feeds"] if feed["state"] == "connected"]
    counts = {name: sum(feed[name] for feed in feeds) for name in said}
    return {"gaps": sum(product["gaps"] for product in status["products"]), **counts}


def _are_repaired(gaps: dict[str, int]) -> bool:
    """Say whether the producers know of every gap, and can fill none that is left."""
    return gaps["gaps"] <= gaps["open_gaps"] == gaps["unavailable_gaps"]


async def _broker_ends(broker: EmbeddedBroker) -> None:
    code = await broker.wait()
    told = "\n  ".join(datadir.tail(broker.log_path))
    raise CandlewickError(f"Kafka ended with code {code}; {broker.log_path} says:\n  {told}")


def _must_be_free(host: str, port: int) -> None:
    """Refuse a web port that is taken, before anything is started."""
    try:
        with socket.create_server((host, port)):
            return
    except socket.gaierror:
        raise ConfigError("host", host, "an address or a name of this machine") from None
    except OSError as error:
        why = os.strerror(error.errno or 0)
        may_be = f"one that {host} has free ({why}): try --port {port % 65535 + 1}"
        raise ConfigError("--port", port, may_be) from None
