"""Candles as Apache Parquet: one schema for every product and window, exact decimals, zstd.

Decimals have 18 digits before the point and 20 after it, the most that all readers take (128 bits): so files
of any products can be read as one table. A number that needs more is refused, never rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

from msgspec import UNSET

from models.answers import CandleItem
from models.errors import CandlewickError
from models.times import parse_rfc3339

DIGITS, DECIMALS = 38, 20
NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume", "vwap", "buy_volume", "sell_volume")
COUNTS = ("trade_count", "first_trade_id", "last_trade_id", "late_trades", "missing_trades", "revision")


class NoParquet(CandlewickError):
    """Nothing can be written as Parquet."""


def write(
    file: BinaryIO, exchange: str, product_id: str, window: str, pages: Iterable[Sequence[CandleItem]]
) -> None:
    """Write candles, a row group for each page.

    Raises:
        NoParquet: pyarrow is not installed, or a number does not fit.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NoParquet("Parquet needs pyarrow: pip install pyarrow") from None
    schema = _schema(pyarrow)
    names = {"exchange": exchange, "product_id": product_id, "window": window}
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for page in pages:
            if page:
                writer.write_table(_table(pyarrow, schema, names, page))


def _schema(pyarrow: Any) -> Any:
    number, count = pyarrow.decimal128(DIGITS, DECIMALS), pyarrow.int64()
    text, moment = pyarrow.string(), pyarrow.timestamp("us", tz="UTC")
    columns = [
        *((name, text) for name in ("exchange", "product_id", "window")),
        *((name, moment) for name in ("start", "end")),
        *((name, number) for name in NUMBERS),
        *((name, count) for name in COUNTS),
        ("state", text),
        *((name, pyarrow.bool_()) for name in ("complete", "synthetic")),
    ]
    return pyarrow.schema([pyarrow.field(name, kind, nullable=False) for name, kind in columns])


def _table(pyarrow: Any, schema: Any, names: dict[str, str], page: Sequence[CandleItem]) -> Any:
    values: dict[str, list[Any]] = {name: [value] * len(page) for name, value in names.items()}
    for name in ("start", "end"):
        values[name] = [parse_rfc3339(getattr(candle, name)) for candle in page]
    for name in NUMBERS:
        values[name] = [_number(name, getattr(candle, name)) for candle in page]
    for name in (*COUNTS, "state", "complete"):
        values[name] = [getattr(candle, name) for candle in page]
    values["synthetic"] = [candle.synthetic is not UNSET and candle.synthetic for candle in page]
    return pyarrow.table({name: values[name] for name in schema.names}, schema=schema)


def _number(name: str, text: str) -> Decimal:
    """Return a number that fits."""
    whole, _, decimals = text.lstrip("-").partition(".")
    if len(whole.lstrip("0")) > DIGITS - DECIMALS or len(decimals.rstrip("0")) > DECIMALS:
        raise NoParquet(
            f"{name} is {text}, and Parquet here has {DIGITS - DECIMALS} digits before the point and "
            f"{DECIMALS} after it: --format csv has all of them"
        )
    return Decimal(text.rstrip("0") if len(decimals) > DECIMALS else text)
