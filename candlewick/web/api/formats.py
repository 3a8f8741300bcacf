"""How candles are written: JSON, ccxt's form, CSV, NDJSON. Rows alone first: they can be kept, and joined."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from candlewick.web.routes import JSON
from models.answers import CANDLE_COLUMNS, CandleItem, CandlesPage

CSV, NDJSON = "text/csv", "application/x-ndjson"


CcxtCandle = tuple[int, float, float, float, float, float]
"""Start in milliseconds, open, high, low, close, volume."""

ANSWERS = {JSON: CandlesPage | list[CcxtCandle], CSV: str, NDJSON: str}


class Head(NamedTuple):
    """What a page says beside its rows."""

    exchange: str
    product_id: str
    window: str
    following: str
    """The address of the next page, or nothing."""


class Format(NamedTuple):
    """A way to write candles."""

    media: str
    rows: Callable[[Sequence[CandleItem]], bytes]
    """Write rows, without what stands around them."""
    between: bytes
    """What stands between two pieces that ``rows`` wrote."""
    whole: Callable[[Head, bytes], bytes]
    """Write the page around its rows."""

    def join(self, pieces: Sequence[bytes]) -> bytes:
        """Return pieces that ``rows`` wrote as one."""
        return self.between.join(filter(None, pieces))


def _json_rows(found: Sequence[CandleItem]) -> bytes:
    return msgspec.json.encode(found)[1:-1]


def _json_whole(head: Head, rows: bytes) -> bytes:
    told = CandlesPage(
        exchange=head.exchange,
        product_id=head.product_id,
        window=head.window,
        candles=cast(Any, msgspec.Raw(b"[%b]" % rows)),
        next=head.following or None,
    )
    return msgspec.json.encode(told)


def _ccxt_rows(found: Sequence[CandleItem]) -> bytes:
    return msgspec.json.encode(
        [
            (item.start_ms, *map(float, (item.open, item.high, item.low, item.close, item.volume)))
            for item in found
        ]
    )[1:-1]


def _csv_rows(found: Sequence[CandleItem]) -> bytes:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerows([getattr(item, name) for name in CANDLE_COLUMNS] for item in found)
    return text.getvalue().encode()


def _ndjson_rows(found: Sequence[CandleItem]) -> bytes:
    return msgspec.json.Encoder().encode_lines(found)


_HEADER = ",".join(CANDLE_COLUMNS).encode() + b"\n"

FORMATS = {
    "json": Format(JSON, _json_rows, b",", _json_whole),
    "ccxt": Format(JSON, _ccxt_rows, b",", lambda head, rows: b"[%b]" % rows),
    "csv": Format(CSV, _csv_rows, b"", lambda head, rows: _HEADER + rows),
    "ndjson": Format(NDJSON, _ndjson_rows, b"", lambda head, rows: rows),
}
