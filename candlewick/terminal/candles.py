"""``candlewick candles``: all candles that are asked for, page by page, on a screen or into a file."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from candlewick.config import Settings
from candlewick.terminal.client import Views, where
from models.answers import CANDLE_COLUMNS, CandleItem, CandlesPage
from models.errors import ConfigError
from models.times import parse_time
from models.window import window_named

PAGE = 5000
"""Candles of one answer, the most that a worker gives."""
USUAL = 300
"""Candles that are fetched where nothing says how many: the newest."""
TRIES = 20
"""How often a page is asked for while the worker says that it is busy."""

Pages = Iterable[Sequence[CandleItem]]


class Asked(NamedTuple):
    """Which candles."""

    product_id: str
    exchange: str
    window: str
    start: str | None
    end: str | None
    limit: int | None
    order: str
    fill: str

    @property
    def most(self) -> int | None:
        """How many at most; None: all of a span."""
        return self.limit or (None if self.start or self.end else USUAL)

    @property
    def is_from_the_newest(self) -> bool:
        """Say whether pages come from the newest candle backwards."""
        return self.order == "desc" or self.start is None

    def target(self, count: int) -> str:
        """Return path and query of the first page."""
        query = {
            "window": self.window, "start": self.start, "end": self.end, "limit": count,
            "order": self.order, "fill": self.fill, "exchange": self.exchange,
        }  # fmt: skip
        given = {name: value for name, value in query.items() if value is not None}
        return f"/v1/candles/{quote(self.product_id, safe='')}?{urlencode(given, safe=':')}"


def run(settings: Settings, asked: Asked, form: str | None, output: Path | None) -> None:
    """Fetch candles, and write them.

    Raises:
        CandlewickError: they are not to be had, or cannot be written.
    """
    form = form or _usual_form(output)
    if form == "table" and output:
        raise ConfigError("--format", form, f"one for a file: {', '.join(WRITERS)}")
    if form == "parquet" and output is None:
        raise ConfigError("--output", "", "a file where the format is parquet")
    with Views(where(settings)) as views:
        pages = in_order(asked, with_progress(fetch(views, asked), expected(asked)))
        if form == "table":
            from candlewick.terminal.tables import candle_table, console, show

            candles = [candle for page in pages for candle in page]
            show(candle_table(candles, console().width) if candles else "no candles")
            return
        with opened(output) as file:
            WRITERS[form](file, asked, pages)


def _usual_form(output: Path | None) -> str:
    if output is None:
        return "table" if sys.stdout.isatty() else "csv"
    suffix = output.suffix.removeprefix(".")
    return suffix if suffix in WRITERS else "csv"


def in_order(asked: Asked, pages: Iterator[Sequence[CandleItem]]) -> Iterator[Sequence[CandleItem]]:
    """Return pages as they were asked for: those that come from the newest backwards are turned round."""
    return iter(list(pages)[::-1]) if asked.is_from_the_newest and asked.order == "asc" else pages


def fetch(views: Views, asked: Asked) -> Iterator[Sequence[CandleItem]]:
    """Yield candles page by page, as the worker gives them."""
    left = asked.most
    target = asked.target(PAGE if left is None else min(PAGE, left))
    while target:
        page = views.read(target, CandlesPage, TRIES)
        yield page.candles
        if left is not None:
            left -= len(page.candles)
            if left <= 0:
                return
        if asked.is_from_the_newest and not page.candles:
            return  # what is filled has nothing before its first candle
        target = _with_limit(page.next, PAGE if left is None else min(PAGE, left)) if page.next else ""


def _with_limit(target: str, limit: int) -> str:
    parts = urlsplit(target)
    query = {**dict(parse_qsl(parts.query)), "limit": str(limit)}
    return f"{parts.path}?{urlencode(query, safe=':')}"


def expected(asked: Asked) -> int | None:
    """Return about how many candles will come; None where that cannot be known."""
    if asked.limit or asked.start is None:
        return asked.most
    window = window_named(asked.window)
    try:
        span_us = (parse_time(asked.end) if asked.end else time.time_ns() // 1000) - parse_time(asked.start)
    except ValueError:
        return None  # the worker says what is wrong with it
    return max(1, span_us // window.size_us) if window else None


def with_progress(pages: Iterator[Sequence[CandleItem]], total: int | None) -> Iterator[Sequence[CandleItem]]:
    """Yield pages as they come; from the second on, show on a terminal how far it is."""
    for page in pages:
        yield page
        if len(page) < PAGE:
            continue  # the last, most often
        if sys.stderr.isatty():
            yield from _with_bar(pages, len(page), total)
            return


def _with_bar(
    pages: Iterator[Sequence[CandleItem]], done: int, total: int | None
) -> Iterator[Sequence[CandleItem]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed:,} candles"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", completed=done, total=total)
        for page in pages:
            bar.advance(task, len(page))
            yield page


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """Give standard output, or a file that has its name only once it is whole.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    # A pipe or a device is written as it is: as root, /dev/null would be a file from then on.
    is_file = path.is_file() or not path.exists()
    try:
        with _whole(path) if is_file else path.open("wb") as file:
            yield file
    except OSError as error:
        raise ConfigError("--output", str(path), f"a file that can be written ({error.strerror})") from None


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_csv(file: BinaryIO, asked: Asked, pages: Pages) -> None:
    """Write a line of names, and a line for each candle: what the worker itself answers as CSV."""
    file.write(",".join(CANDLE_COLUMNS).encode() + b"\n")
    for page in pages:
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerows([getattr(candle, name) for name in CANDLE_COLUMNS] for candle in page)
        file.write(text.getvalue().encode())


def write_ndjson(file: BinaryIO, asked: Asked, pages: Pages) -> None:
    """Write a line of JSON for each candle."""
    for page in pages:
        file.write(msgspec.json.Encoder().encode_lines(page))


def write_json(file: BinaryIO, asked: Asked, pages: Pages) -> None:
    """Write one object: what the worker answers, but with all pages in it."""
    head = {"exchange": asked.exchange, "product_id": asked.product_id, "window": asked.window}
    file.write(msgspec.json.encode(head)[:-1] + b',"candles":[')
    between = b""
    for page in pages:
        rows = msgspec.json.encode(page)[1:-1]
        if rows:
            file.write(between + rows)
            between = b","
    file.write(b'],"next":null}\n')


def write_parquet(file: BinaryIO, asked: Asked, pages: Pages) -> None:
    """Write Apache Parquet."""
    from candlewick.terminal import parquet

    parquet.write(file, asked.exchange, asked.product_id, asked.window, pages)


WRITERS: dict[str, Callable[[BinaryIO, Asked, Pages], None]] = {
    "csv": write_csv,
    "json": write_json,
    "ndjson": write_ndjson,
    "parquet": write_parquet,
}
