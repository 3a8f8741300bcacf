"""``/v1/candles/<product_id>``: candles of any window, by time, a page at a time."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

from msgspec import Meta, Struct

from agents import candles as agent
from candlewick.web import peers
from candlewick.web.api.formats import ANSWERS, FORMATS, Head
from candlewick.web.api.kept_pages import KeptPages
from candlewick.web.api.series import Span, most_windows, read
from candlewick.web.api.stats import nothing_of
from candlewick.web.problems import bad_parameter, no_data, unknown_window
from candlewick.web.routes import ExchangeName, Moment, Page, page
from models.answers import CandleItem
from models.tape import TapeState
from models.times import rfc3339
from models.window import BY_NAME, Window, window_named
from tables import candles


class CandlesQuery(Struct, frozen=True, kw_only=True):
    """Which candles: the newest if neither start nor end is given."""

    window: Annotated[str, Meta(pattern="^[1-9][0-9]{0,3}[mhd]$")] = "1m"
    """``1m``, ``1h``, ``1d``, or any whole multiple of one."""
    start: Moment | None = None
    """From the window that holds this time, on."""
    end: Moment | None = None
    """Windows that start before this time."""
    limit: Annotated[int, Meta(ge=1, le=5000)] = 300
    order: Literal["asc", "desc"] = "asc"
    fill: Literal["none", "previous"] = "none"
    """``previous``: a window without trades is a flat candle at the last close."""
    format: Literal["json", "ccxt", "csv", "ndjson"] = "json"
    exchange: ExchangeName = "coinbase"


class Closed(NamedTuple):
    """What a page has of closed candles, written out; and where the rest is."""

    rows: bytes
    digest: str
    """Of what does not change until the page is forgotten."""
    open: Span
    """Where candles may still open and change without a word: none, where it is empty."""
    open_count: int
    """How many were there."""
    rest: Span | None
    """What the page that follows has."""


pages: KeptPages[Closed] = KeptPages(64 << 20)
agent.folding.told.append(lambda partition, symbol_key, change: pages.changed(symbol_key))
agent.folding.forgotten.append(pages.clear)


@page("/v1/candles/{product_id}", ANSWERS, CandlesQuery, also=(304, 404, 503))
async def candles_of(request: Any, query: CandlesQuery, product_id: str) -> Any:
    """Candles of a product between two times, as JSON, CSV, NDJSON, or in ccxt's form."""
    window = window_named(query.window)
    if window is None:
        raise unknown_window(query.window[:50], list(BY_NAME))
    if query.start is not None and query.end is not None and query.end < query.start:
        raise bad_parameter("end", "must not be before start")
    partition = peers.locate(query.exchange, product_id)
    if not peers.is_ours(partition):
        return await peers.ask_owner(request, partition)
    symbol_key = f"{query.exchange}:{product_id}"
    state = candles.state(partition, symbol_key)
    if state is None:
        raise nothing_of(query.exchange, product_id)
    if not state.latest:
        raise no_data(f"no trade of {product_id} yet")
    closed, found = _read(partition, symbol_key, window, query, span_of(query, window, state), state)
    form = FORMATS[query.format]
    pieces = [closed.rows, form.rows(found)]
    following = _address(request, query, closed.rest) if closed.rest else ""
    head = Head(query.exchange, product_id, query.window, following)
    body = form.whole(head, form.join(pieces[::-1] if query.order == "desc" else pieces))
    etag = f'W/"{query.format}-{closed.digest}-{state.offset if found else 0}"'
    return Page(body, form.media, etag, next=following)


def _read(
    partition: int, symbol_key: str, window: Window, query: CandlesQuery, span: Span, state: TapeState
) -> tuple[Closed, list[CandleItem]]:
    """Return a page's closed candles as they were written once, and those that are open, in its order."""
    # How many trades are missing, a candle that is made of others says as of now.
    missing = sum(hole.last - hole.first + 1 for hole in state.ledger.holes)
    asked = (query.format, query.order, query.window, query.fill, span, missing)
    closed = pages.get(symbol_key, asked)
    if closed is not None:
        there = closed.open.first_us < closed.open.end_us
        found = read(partition, symbol_key, window, closed.open, state, "none")[0] if there else []
        if len(found) == closed.open_count:
            return closed, found[::-1] if query.order == "desc" else found
    found, rest = read(partition, symbol_key, window, span, state, query.fill)
    # Of what is closed by event time every change is told; before that, a candle may open in silence.
    edge_us = max(span.first_us, window.start_of(max(0, state.watermark_us - agent.GRACE_US)))
    end_us = rest.first_us if rest and not rest.newest else span.end_us
    count = bisect_left(found, edge_us, key=lambda item: item.start_ms * 1000)
    done, found = found[:count], found[count:]
    if query.order == "desc":
        done, found = done[::-1], found[::-1]
    rows = FORMATS[query.format].rows(done)
    digest = blake2b(b"%b %a" % (rows, rest), digest_size=8).hexdigest()
    closed = Closed(rows, digest, span._replace(first_us=edge_us, end_us=end_us), len(found), rest)
    if query.fill == "none":  # what is filled also changes with event time alone
        pages.put(symbol_key, asked, closed, len(rows))
    return closed, found


def span_of(query: CandlesQuery, window: Window, state: TapeState) -> Span:
    """Return what a query asks for, up to the last candle."""
    last_us = window.start_of(max(state.latest.values(), default=0))
    if query.fill == "previous":
        last_us = max(last_us, window.start_of(state.watermark_us))
    end_us = last_us + window.size_us
    if query.end is not None:
        end_us = min(end_us, -(-query.end // window.size_us) * window.size_us)
    return Span(
        window.start_of(query.start or 0),
        end_us,
        most_windows(window, query.limit),
        newest=query.order == "desc" or query.start is None,
    )


def _address(request: Any, query: CandlesQuery, span: Span) -> str:
    """Return the address of the next page: the same query, from where this one ends."""
    given = dict(request.query)
    if span.newest:
        given["end"] = rfc3339(span.end_us)
    else:
        given["start"] = rfc3339(span.first_us)
    return f"{request.path}?{urlencode(given, safe=':')}"
