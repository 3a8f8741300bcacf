"""What `watch` shows on a terminal: what is known in, something to print out.

Every sign that has a colour also has a form of its own: an arrow, a word. Rows stay where they are from one
picture to the next, whatever comes and goes in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from candlewick.terminal.tables import grid
from candlewick.terminal.watched import Change, Watched, remarks, wholeness
from models.answers import CandleItem
from models.times import parse_rfc3339

BARS = "▁▂▃▄▅▆▇█"
TREND = 30
"""Closes in the small curve beside a price."""
WIDEST = 100
DETAIL_LINES = 15
"""Lines of the picture of one product without its last candles."""
MOST_LAST = 12

COLOURS = {"▲": "green", "▼": "red", "=": "white"}


class View(NamedTuple):
    """What is there to be shown."""

    products: Sequence[Watched]
    url: str
    lag_records: int | None
    now: float
    """By the clock of `Watched.traded_at`."""
    now_ms: int
    """Milliseconds since 1970."""
    width: int
    height: int


def draw(view: View) -> RenderableType:
    """Return the picture: one product in detail, or a row for each."""
    if len(view.products) == 1:
        return _detail(view, view.products[0])
    return _rows(view)


def sparkline(values: Sequence[Decimal]) -> str:
    """Draw numbers as a curve of one line."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if low == high:
        return BARS[3] * len(values)
    return "".join(BARS[int((value - low) * 7 / (high - low))] for value in values)


def ago(seconds: float) -> str:
    """Say how long something takes, or took, to about two digits."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < 120 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _detail(view: View, product: Watched) -> Panel:
    candle = product.candle
    width = min(view.width, WIDEST)
    body: list[RenderableType] = [_head(product, width - 4), Text(), _quotes(product), Text()]
    if candle is None:
        body.append(Text("waiting for the first trade" + "\n" * 4, "dim"))
    else:
        body += [_when(candle, product.window, view.now_ms), _candle(candle)]
    body += [Text(), *_last(product, min(MOST_LAST, view.height - DETAIL_LINES))]
    body.append(_foot(view, product))
    return Panel(
        Group(*body),
        title=Text(f"{product.product_id}  {product.exchange}  {product.window}"),
        title_align="left",
        subtitle="Ctrl-C ends it",
        subtitle_align="right",
        border_style="yellow" if product.trouble else "green",
        width=width,
    )


def _head(product: Watched, width: int) -> Table:
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True)
    head.add_column(no_wrap=True, justify="right")
    price = Text(product.price or "-", "bold")
    if product.today:
        price.append(f"  {product.today.arrow} {product.today} today", COLOURS[product.today.arrow])
    closes = [Decimal(candle.close) for candle in product.candles[-TREND:]]
    head.add_row(price, Text(sparkline(closes)[-(width // 2) :], "cyan"))
    return head


def _pairs(pairs: Sequence[tuple[str, str | Text]]) -> Table:
    """Return names above their values."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in pairs:
        table.add_column(no_wrap=True, min_width=13)
    table.add_row(*(Text(name, "dim") for name, _ in pairs))
    table.add_row(*(value for _, value in pairs))
    return table


def _quotes(product: Watched) -> Table:
    bid, ask, spread, mid = product.quotes or ("-",) * 4
    colour = "green" if product.book == "in step" else "yellow"
    return _pairs(
        [("bid", bid), ("ask", ask), ("spread", spread), ("mid", mid), ("book", Text(product.book, colour))]
    )


def _when(candle: CandleItem, window: str, now_ms: int) -> Text:
    """Say which candle it is, how far it has come, and whether it is whole."""
    end_ms = parse_rfc3339(candle.end) // 1000
    told = Text(f"{_clock(candle.start, window)} to {_clock(candle.end, window)}", "bold")
    left_ms = end_ms - now_ms
    told.append(f"   {candle.state}")
    if candle.state == "open" and 0 <= left_ms <= end_ms - candle.start_ms:
        told.append(f", {ago(left_ms / 1000)} left", "dim")
    if candle.revision:
        told.append(f", revision {candle.revision}", "magenta")
    told.append("   ")
    told.append(wholeness(candle), "green" if candle.complete else "yellow")
    return told


def _candle(candle: CandleItem) -> Group:
    change = Change.between(candle.open, candle.close)
    percent = Text(f"{change.arrow} {change.percent:+.2f} %", COLOURS[change.arrow])
    prices = [("open", candle.open), ("high", candle.high), ("low", candle.low), ("close", candle.close)]
    counts = [("volume", candle.volume), ("vwap", candle.vwap), ("trades", f"{candle.trade_count:,}")]
    return Group(_pairs([*prices, ("change", percent)]), _pairs([*counts, ("late", str(candle.late_trades))]))


def _last(product: Watched, most: int) -> list[RenderableType]:
    """Return the candles before the newest, the newest of them first, in as many lines as there are."""
    if most < 3:
        return []
    names = ("start", "open", "high", "low", "close", "volume", "trades", "")
    table = grid(names, {"start", ""}, 1)
    before = product.candles[-most + 1 : -1][::-1]
    for candle in before:
        change = Change.between(candle.open, candle.close)
        table.add_row(
            _clock(candle.start, product.window),
            candle.open,
            candle.high,
            candle.low,
            Text(candle.close, COLOURS[change.arrow]),
            candle.volume,
            str(candle.trade_count),
            Text(f"{change.arrow} {remarks(candle)}", COLOURS[change.arrow] if candle.complete else "yellow"),
        )
    filling = most - 2 - len(before)
    shown = table if before else Text()
    return [shown, *([Text("\n" * (filling - 1))] if filling > 0 else []), Text()]


def _foot(view: View, product: Watched) -> Text:
    traded = f"last trade {_age(view, product)} ago" if product.traded_at is not None else "no trade yet"
    foot = Text(f"{traded}   ", "dim", no_wrap=True, overflow="ellipsis")
    if product.trouble:
        return foot.append(product.trouble, "yellow")
    return foot.append(f"lag {_lag(view)}   {view.url}")


def _age(view: View, product: Watched) -> str:
    return "-" if product.traded_at is None else ago(view.now - product.traded_at)


def _lag(view: View) -> str:
    return "-" if view.lag_records is None else f"{view.lag_records:,} records"


def _rows(view: View) -> Panel:
    wide = view.width >= 100
    more = ("volume", "trend") if wide else ()
    names = ("product", "price", "today", "spread", "trades", "candle", "book", "age", *more)
    table = grid(names, {"product", "book", "candle", "trend"})
    room = max(1, view.height - 5)
    for product in view.products[:room]:
        table.add_row(*_row(view, product, wide))
    hidden = len(view.products) - room
    foot = Text(f"lag {_lag(view)}   {view.url}", "dim", no_wrap=True, overflow="ellipsis")
    troubles = [f"{product.product_id}: {product.trouble}" for product in view.products if product.trouble]
    if troubles:
        foot = Text(troubles[0], "yellow", no_wrap=True, overflow="ellipsis")
    if hidden > 0:
        foot = Text(f"{hidden} more do not fit   ") + foot
    return Panel(
        Group(table, Text(), foot),
        title=Text(f"{view.products[0].exchange}  {view.products[0].window}"),
        title_align="left",
        subtitle="Ctrl-C ends it",
        subtitle_align="right",
        border_style="yellow" if troubles else "green",
        width=min(view.width, 120),
    )


def _row(view: View, product: Watched, wide: bool) -> list[str | Text]:
    candle, today = product.candle, product.today
    state = "-"
    if candle:
        state = " ".join(filter(None, (_clock(candle.start, product.window), remarks(candle))))
    closes = [Decimal(candle.close) for candle in product.candles[-12:]]
    more = (candle.volume if candle else "-", Text(sparkline(closes), "cyan")) if wide else ()
    return [
        Text(product.product_id, "bold"),
        product.price or "-",
        Text(f"{today.arrow} {today.percent:+.2f} %", COLOURS[today.arrow]) if today else "-",
        product.quotes[2] if product.quotes else "-",
        f"{candle.trade_count:,}" if candle else "-",
        state,
        Text(product.book, "green" if product.book == "in step" else "yellow"),
        _age(view, product),
        *more,
    ]


def _clock(text: str, window: str) -> str:
    """Write a time as short as candles of a window need it: the day, or hours and minutes."""
    return text[:10] if window.endswith("d") else text[11:16]
