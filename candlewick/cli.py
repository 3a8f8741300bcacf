"""The command line: ``candlewick up`` and its parts. One function a command, no work of its own.

An error that a user can cause is one line on standard error, and exit code 1 (2 for a wrong option, and of
the commands that only ask, where 1 is an answer).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from candlewick import config
from candlewick.screen import fail
from models.errors import CandlewickError

Command = TypeVar("Command", bound=Callable[..., Any])

ASKING = {"watch", "candles", "status", "gaps", "doctor"}
"""Commands that ask a worker, and change nothing: they must be there at once, and log nothing."""

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
    "url": click.option("--url", help="Worker to ask [http://127.0.0.1:6066]."),
    "worker_id": click.option("--worker-id", help="Name that this worker keeps over restarts."),
}


def settings_of(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options, and the settings that come of them and the environment."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(**options: Any) -> Any:
            chosen = {name: options.pop(name) for name in names}
            settings = config.load(os.environ, **chosen)
            if command.__name__ not in ASKING:
                log_to_stderr("warning" if command.__name__ == "up" else settings.log_level)
            return command(settings, **options)

        decorated: Callable[..., Any] = run
        for name in reversed(names):
            decorated = OPTIONS[name](decorated)
        return decorated

    return decorate


def log_to_stderr(level: str) -> None:
    """Send log lines to standard error, so that what a command prints can be piped."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Its own way would show the variables of each frame, and a password may be among them.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
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
            sys.exit(2 if context.invoked_subcommand in ASKING else 1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="candlewick")
def main() -> None:
    """Exchange feeds into exact candles and book statistics, on Kafka. Start with: candlewick up"""


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine."""
    import asyncio

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
    from candlewick.kafka.security import properties
    from candlewick.kafka.tools import must_be_known, tool_command

    if tool in {"-h", "--help"}:
        click.echo(context.get_help())
        return
    must_be_known(tool)
    settings = config.load(os.environ)
    argv = tool_command(tool, list(args), address.find(settings), properties(settings))
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


def asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what all have that print what a worker says."""
    as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
    return as_json(settings_of("url")(command))


EXCHANGE = click.option("--exchange", help="Exchange that it is traded at [coinbase].")
SPAN = (
    click.option("--start", help="From this time on: 2026-11-01T00:00:00Z, or seconds since 1970."),
    click.option("--end", help="Before this time."),
)


@main.command(short_help="Products, live.")
@click.argument("products", nargs=-1, required=True)
@click.option("--window", default="1m", show_default=True, help="1m, 1h, 1d, or a multiple, such as 5m.")
@EXCHANGE
@click.option("--count", type=click.IntRange(min=1), help="End after so many lines.")
@click.option(
    "--for", "for_s", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds."
)
@asking
def watch(
    settings: config.Settings,
    products: tuple[str, ...],
    window: str,
    exchange: str | None,
    count: int | None,
    for_s: float | None,
    as_json: bool,
) -> None:
    """Price, candle and book of PRODUCTS as they change, until Ctrl-C.

    On a terminal a picture; elsewhere a line for each candle that closes, or is amended. With --json, a line
    for each event of the worker's stream.

    \b
      candlewick watch BTC-USD
      candlewick watch BTC-USD ETH-USD --window 5m
      candlewick watch BTC-USD --count 1 | cat         the next candle that closes
      candlewick watch BTC-USD --json --for 60 > events.ndjson
    """
    from candlewick.terminal import watch

    names = config.names_in(",".join(products))
    asked = watch.Asked(names, window, exchange or settings.exchange, as_json, count, for_s)
    run_async(watch.run(settings, asked))


@main.command(short_help="Candles, as a table or into a file.")
@click.argument("product")
@click.option("--window", default="1m", show_default=True, help="1m, 1h, 1d, or a multiple, such as 5m.")
@SPAN[0]
@SPAN[1]
@click.option("--limit", type=click.IntRange(min=1), help="At most so many [300; all of a span].")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="asc", show_default=True)
@click.option(
    "--fill", type=click.Choice(["none", "previous"]), default="none", help="Fill windows without trades."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "ndjson", "parquet"]),
    help="[table on a terminal, else csv; of a file by its name]",
)  # fmt: skip
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write; it is there once it is whole."
)
@EXCHANGE
@settings_of("url")
def candles(
    settings: config.Settings,
    product: str,
    window: str,
    start: str | None,
    end: str | None,
    limit: int | None,
    order: str,
    fill: str,
    form: str | None,
    output: Path | None,
    exchange: str | None,
) -> None:
    """Candles of PRODUCT: the newest 300, or all between two times. Numbers are exact in every format.

    \b
      candlewick candles BTC-USD --limit 10
      candlewick candles BTC-USD --window 1h --start 2026-11-01T00:00:00Z --output btc.parquet
      candlewick candles BTC-USD --window 1d --format json
    """
    from candlewick.terminal import candles

    asked = candles.Asked(product, exchange or settings.exchange, window, start, end, limit, order, fill)
    candles.run(settings, asked, form, output)


@main.command(short_help="Is all well? Exit code 0, 1 or 2.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option(
    "--max-lag",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    help="Records behind, at most.",
)
@asking
def status(settings: config.Settings, watch: bool, max_lag: int, as_json: bool) -> None:
    """Feeds, workers and products, and what is not well with them.

    \b
    Exit code 0: all is well
              1: it is not: a feed is away, a worker is not ready or too far behind, a book is out of step
              2: nothing answers

    \b
      candlewick status
      candlewick status --json | jq .reasons
      until candlewick status > /dev/null 2>&1; do sleep 1; done
    """
    from candlewick.terminal import status

    sys.exit(status.run(settings, as_json, watch, max_lag))


@main.command(short_help="Missing trades. Exit code 0, 1 or 2.")
@click.argument("product", required=False)
@click.option("--state", type=click.Choice(["open", "repaired", "merged"]), help="Only those.")
@SPAN[0]
@SPAN[1]
@click.option("--exchange", help="Only of this exchange.")
@asking
def gaps(
    settings: config.Settings,
    product: str | None,
    state: str | None,
    start: str | None,
    end: str | None,
    exchange: str | None,
    as_json: bool,
) -> None:
    """Gaps in the trades of PRODUCT, or of all, the newest first: which were missing, and whether they came.

    \b
    Exit code 0: none of those shown is open
              1: some are
              2: nothing answers

    \b
      candlewick gaps --state open
      candlewick gaps BTC-USD --start 2026-11-01T00:00:00Z --json
    """
    from candlewick.terminal import gaps

    sys.exit(gaps.run(settings, gaps.Asked(product, exchange, state, start, end), as_json))


@main.command(short_help="What is wrong here, and what to do.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@OPTIONS["url"]
@OPTIONS["broker"]
@OPTIONS["data_dir"]
def doctor(as_json: bool, **options: str | None) -> None:
    """Check this machine, Kafka, the worker and what they say, and name the next thing to do.

    \b
    Exit code 0: nothing is wrong; there may be warnings
              1: something is

    \b
      candlewick doctor
      candlewick doctor --url https://candles.example.org
    """
    from candlewick.terminal import doctor

    log_to_stderr("warning")
    sys.exit(doctor.run(os.environ, options, as_json))
