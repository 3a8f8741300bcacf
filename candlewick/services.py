"""The long-running commands, each joined from its parts: broker, mock exchange, producer, worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from candlewick import datadir, feeds, topics
from candlewick.config import Settings, env_name, may_bind
from candlewick.kafka import address
from candlewick.kafka.broker import EmbeddedBroker
from candlewick.kafka.security import checked
from candlewick.screen import fail
from candlewick.stopping import stop_event
from models.errors import CandlewickError, ConfigError, DecodeError
from producers import recording
from producers.codec import Codec, Refused, Subscribed, Unknown
from producers.exchanges import codec_class
from producers.feed import Feed
from producers.feed_status import FeedSettings
from producers.keyframes import Keyframer
from producers.produce import Pipeline, produce
from producers.quiet import Quiet
from producers.recorder import Recorder
from producers.sink import Sink
from producers.topic import ensure_topics


async def run_broker(data_dir: Path, port: int | None) -> None:
    """Run Kafka until asked to end."""
    stop = stop_event()
    async with EmbeddedBroker(data_dir, port=port) as broker:
        print(broker.bootstrap, flush=True)
        ended = asyncio.ensure_future(broker.wait())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise CandlewickError(f"Kafka ended with code {ended.result()}; see {broker.log_path}")
        ended.cancel()


async def run_mock(settings: Settings) -> None:
    """Run the mock exchange until asked to end."""
    source = feeds.resolve(settings)
    if source.url:
        raise ConfigError(
            "feed", settings.feed, "mock, or the file of a recording: nothing else can be mocked"
        )
    exchange = feeds.mock_exchange(settings, source)
    stop = stop_event()
    await exchange.start()
    try:
        print(f"mock exchange at {exchange.ws_url}", flush=True)
        await stop.wait()
    finally:
        await exchange.stop()
        feeds.remember(settings, source, exchange)


async def run_producer(settings: Settings) -> None:
    """Run the producer until asked to end."""
    source = feeds.resolve(settings)
    if not source.url:
        raise ConfigError("feed", settings.feed, "live, or the address of a mock exchange, ws://host:port")
    bootstrap, security = await _topics_at(settings)
    # What is there by now stays: each look of the garbage collector through it takes 25 ms.
    gc.collect()
    gc.freeze()
    producer_id = settings.worker_id or socket.gethostname()
    with _recorder(settings) as recorder, _spill_folder(settings, producer_id) as spill_folder:
        undelivered = await produce(
            codec_factory=_codec_factory(settings, recorder),
            url=source.url,
            symbols=source.products,
            bootstrap=bootstrap,
            producer_id=producer_id,
            stop=stop_event(),
            feed_settings=_feed_settings(settings),
            keyframe_s=settings.keyframe_s,
            grace_s=settings.grace_s,
            spill_folder=spill_folder,
            spill_bytes=settings.spill_mb << 20,
            security=security,
        )
    if undelivered:
        raise CandlewickError(f"{undelivered} records could not be delivered to Kafka before the end")


def run_worker(settings: Settings) -> None:
    """Become ``faust -A candlewick.app worker``; returns only with an error."""
    may_bind(settings, settings.host)
    data_dir = datadir.prepare(settings.data_dir)
    # Faust would do it too, and say what is wrong between forty lines of its own.
    bootstrap, _ = asyncio.run(_topics_at(settings))
    env = {**settings.env(), env_name("data_dir"): str(data_dir), env_name("broker"): bootstrap}
    with datadir.locked(data_dir / "tables" / "worker.lock", "worker", "give this one its own --data-dir"):
        os.environ.update(env)
        from faust.cli.faust import cli

        level = "warn" if settings.log_level == "warning" else settings.log_level  # Faust's own word
        cli(["-A", "candlewick.app", "worker", "-l", level], standalone_mode=True)


async def run_replay(settings: Settings, file: Path) -> None:
    """Send a recording through codec and sink into Kafka."""
    source = feeds.resolve(settings.model_copy(update={"feed": str(file)}))
    bootstrap, security = await _topics_at(settings)
    codec = codec_class(settings.exchange)()
    wanted = set(source.products)
    counts = {"frames": 0, "refused": 0}
    began = time.monotonic()
    async with Sink(bootstrap, security=security) as sink:
        pipeline = Pipeline(sink, Keyframer(sys.maxsize), Quiet(round(settings.grace_s * 1_000_000)))
        with _progress() as progress:
            task = progress.add_task(file.name, total=None)
            for line in recording.read(file):
                product = recording.product_of(line.raw)
                if line.dir != "in" or (product is not None and product not in wanted):
                    continue
                counts["frames"] += 1
                progress.update(task, advance=1)
                received_us = line.received_time_us
                if received_us is None:
                    received_us = time.time_ns() // 1000
                try:
                    events = codec.receive(line.raw, received_us)
                except DecodeError as error:
                    counts["refused"] += 1
                    await sink.dead_letter(line.raw.encode(), f"replay:{file.name}", error.reason)
                    continue
                for event in events:
                    if not isinstance(event, Subscribed | Refused | Unknown):
                        await pipeline.deliver(event)
        await sink.flush()
        records = sink.stats.acked
    seconds = time.monotonic() - began
    print(f"{counts['frames']} frames, {records} records, {counts['refused']} refused, {seconds:.1f} s")


async def run_record(settings: Settings, directory: Path | None, seconds: float | None) -> None:
    """Keep the raw frames of a feed."""
    target = str(directory or settings.record_dir)
    if not target:
        raise ConfigError("record_dir", "", "a folder: candlewick record DIRECTORY")
    settings = settings.model_copy(update={"record_dir": target})
    source = feeds.resolve(settings)
    stop = stop_event()
    async with contextlib.AsyncExitStack() as stack:
        url = source.url
        if not url:
            exchange = feeds.mock_exchange(settings, source, lasting=False)
            await exchange.start()
            stack.push_async_callback(exchange.stop)
            url = exchange.ws_url
        recorder = stack.enter_context(_recorder(settings))
        assert recorder is not None
        feed = Feed(
            _codec_factory(settings, recorder), url, source.products, _pass_over, _say_refused,
            _feed_settings(settings),
        )  # fmt: skip
        running = asyncio.ensure_future(feed.run())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({running, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if running.done():
            running.result()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    print(f"{recorder.frames} frames in {target}", flush=True)


async def _topics_at(settings: Settings) -> tuple[str, dict[str, Any]]:
    """Return where Kafka is and aiokafka's options for it, once it has the topics."""
    bootstrap = address.find(settings)
    security = await checked(bootstrap, settings)
    await ensure_topics(
        bootstrap, topics.specs(settings), replication=settings.replication, security=security
    )
    return bootstrap, security


@contextlib.contextmanager
def _recorder(settings: Settings) -> Iterator[Recorder | None]:
    """Give a recorder where one is set, and close it."""
    if not settings.record_dir:
        yield None
        return
    recorder = Recorder(Path(settings.record_dir), settings.exchange)
    try:
        yield recorder
    finally:
        recorder.close()


@contextlib.contextmanager
def _spill_folder(settings: Settings, producer_id: str) -> Iterator[Path | None]:
    """Give a producer its folder for the time that Kafka is away, and let no other have it."""
    if not settings.spill_mb:
        yield None
        return
    folder = datadir.prepare(settings.data_dir) / "spill" / f"{settings.exchange}-{producer_id}"
    remedy = f"end it first, or give this one its own {env_name('worker_id')}"
    with datadir.locked(folder / "producer.lock", "producer", remedy):
        yield folder


def _feed_settings(settings: Settings) -> FeedSettings:
    return FeedSettings(
        connection_products=settings.connection_products, lose_books_on_gaps=settings.lose_books_on_gaps
    )


def _codec_factory(settings: Settings, recorder: Recorder | None) -> Callable[[], Codec]:
    codec = codec_class(settings.exchange)
    if recorder is None:
        return codec
    return lambda: recorder.around(codec())


async def _pass_over(event: object) -> None:
    """Take an event, and do nothing with it: the frame has been kept."""


async def _say_refused(frame: bytes, source: str, reason: str) -> None:
    fail(f"{source} sent a frame that cannot be read, which is kept like the rest: {reason}")


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} frames"),
        TaskProgressColumn(show_speed=True), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
