"""The command line: ``candlewick up`` and its parts. One function a command, no work of its own.

An error that a user can cause is one line on standard error, and exit code 1 (2 for a wrong option).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
import structlog

from candlewick import config
from candlewick.screen import fail
from models.errors import CandlewickError

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: dict[str, Callable[[Command], Command]] = {
    "broker": click.option("--broker", help="Kafka to use, host:port[,host:port]; else the embedded one."),
    "data_dir": click.option("--data-dir", help="Folder of everything that lasts [candlewick-data]."),
    "exchange": click.option("--exchange", help="Exchange whose protocol the feed speaks [coinbase]."),
    "feed": click.option("--feed", help="mock, live, ws://…, wss://…, or a recording's file [mock]."),
    "host": click.option("--host", help="Address that the web views bind [127.0.0.1]."),
    "mock_host": click.option("--mock-host", help="Address to bind [127.0.0.1]."),
    "mock_port": click.option("--mock-port", help="Port to listen on; 0: a free one [0]."),
    "port": click.option("--port", help="Port of the web views [6066]."),
    "products": click.option("--products", help="Such as BTC-USD,ETH-USD; else the feed's own."),
    "seed": click.option("--seed", help="Seed of the simulated market [1]."),
    "speed": click.option("--speed", help="How fast mock and recording run; 0: as fast as it goes [1]."),
    "worker_id": click.option("--worker-id", help="Name that this worker keeps over restarts."),
}


def settings_of(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options, and the settings that come of them and the environment."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(**options: Any) -> Any:
            chosen = {name: options.pop(name) for name in names}
            settings = config.load(os.environ, **chosen)
            log_to_stderr("warning" if command.__name__ == "up" else settings.log_level)
            return command(settings, **options)

        decorated: Callable[..., Any] = run
        for name in reversed(names):
            decorated = OPTIONS[name](decorated)
        return decorated

    return decorate


def log_to_stderr(level: str) -> None:
    """Send log lines to standard error, so that what a command prints can be piped."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_Forgiving(sys.stderr)),  # type: ignore[arg-type]
    )
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s")
    # aiokafka says each retry as an error; the sink says it once, in a sentence.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class _Forgiving:
    """Standard error on a disk that may be full: a line without room must not end what it tells of."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()


class OneLine(click.Group):
    """Turns what a user can cause into one line."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CandlewickError as error:
            fail(error)
            sys.exit(1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="candlewick")
def main() -> None:
    """Exchange feeds into exact candles and book statistics, on Kafka. Start with: candlewick up"""


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine."""
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


@main.command(short_help="Everything on one machine.")
@click.option("--exit-when-done", is_flag=True, help="End once a recording was folded whole.")
@settings_of("feed", "products", "speed", "seed", "data_dir", "port", "host", "broker", "exchange")
def up(settings: config.Settings, exit_when_done: bool) -> None:
    """Everything on one machine: Kafka, feed, producer, worker, web views."""
    from candlewick import up as whole
    from candlewick.kafka import jars

    if not settings.broker:
        jars.resolve()  # before the event loop, so that Ctrl-C ends a download at once
    run_async(whole.run(settings, exit_when_done))


@main.command()
@click.option(
    "--broker-port", type=click.IntRange(1, 65535), help="Port to listen on, if free; else a free one."
)
@settings_of("data_dir")
def broker(settings: config.Settings, broker_port: int | None) -> None:
    """The embedded Kafka alone; prints its bootstrap address."""
    from candlewick import datadir, services
    from candlewick.kafka import jars

    data_dir = datadir.prepare(settings.data_dir)
    jars.resolve()
    run_async(services.run_broker(data_dir, broker_port))


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Kafka's own tools.",
)
@click.argument("tool")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def kafka(context: click.Context, tool: str, args: tuple[str, ...]) -> None:
    """One of Kafka's own tools, such as: kafka console-consumer --topic trades --from-beginning"""
    from candlewick.kafka import address
    from candlewick.kafka.tools import must_be_known, tool_command

    if tool in {"-h", "--help"}:
        click.echo(context.get_help())
        return
    must_be_known(tool)
    settings = config.load(os.environ)
    argv = tool_command(tool, list(args), address.find(settings))
    os.execv(argv[0], argv)


@main.command("mock-exchange", short_help="A server that speaks the exchange's protocol.")
@settings_of("feed", "products", "speed", "seed", "data_dir", "mock_host", "mock_port", "exchange")
def mock_exchange(settings: config.Settings) -> None:
    """A WebSocket and REST server that speaks the exchange's protocol."""
    from candlewick import services

    run_async(services.run_mock(settings))


@main.command()
@settings_of("feed", "products", "data_dir", "broker", "exchange")
def produce(settings: config.Settings) -> None:
    """Exchange into Kafka: feed, codec, sink."""
    from candlewick import services

    run_async(services.run_producer(settings))


@main.command(short_help="Kafka into tables and web views.")
@settings_of("data_dir", "port", "host", "broker", "worker_id")
def worker(settings: config.Settings) -> None:
    """Kafka into tables and web views: faust -A candlewick.app worker."""
    from candlewick import services

    services.run_worker(settings)


@main.command(short_help="A recording into Kafka, as fast as it goes.")
@click.argument("file", type=click.Path(path_type=Path))
@settings_of("products", "data_dir", "broker", "exchange")
def replay(settings: config.Settings, file: Path) -> None:
    """A recording through codec and sink into Kafka, as fast as it goes."""
    from candlewick import services

    run_async(services.run_replay(settings, file))


@main.command(short_help="Raw frames of a feed into files.")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so long.")
@settings_of("feed", "products", "exchange")
def record(settings: config.Settings, directory: Path | None, seconds: float | None) -> None:
    """Raw frames of a feed to DIRECTORY/<exchange>/<product>/….jsonl.gz."""
    from candlewick import services

    run_async(services.run_record(settings, directory, seconds))


@main.command("dead-letters", short_help="What could not be read, and why.")
@click.option("--again", is_flag=True, help="Send the trades that can be read by now into the log.")
@settings_of("data_dir", "broker", "exchange")
def dead_letters(settings: config.Settings, again: bool) -> None:
    """What could not be read, by source and reason."""
    from candlewick import letters

    run_async(letters.run(settings, again))
