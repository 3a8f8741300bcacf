"""Parquet holds the very numbers, or refuses them."""

from __future__ import annotations

import io
import sys
from decimal import Decimal

import pytest
from answers import candle
from pyarrow import parquet as reader

from candlewick.terminal import parquet
from candlewick.terminal.parquet import NoParquet
from models.answers import CandleItem


def written(*pages: list[CandleItem]):
    file = io.BytesIO()
    parquet.write(file, "coinbase", "BTC-USD", "1m", pages)
    file.seek(0)
    return reader.ParquetFile(file)


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "83423.23",
        "0.00000000000000000001",
        "999999999999999999.99999999999999999999",
        "1.500000000000000000000000",
    ],
)
def test_a_number_comes_back_exactly(number: str) -> None:
    [row] = written([candle(volume=number)]).read().to_pylist()
    assert row["volume"] == Decimal(number)


@pytest.mark.parametrize("number", ["1000000000000000000", "0.000000000000000000001"])
def test_a_number_that_does_not_fit_is_refused(number: str) -> None:
    with pytest.raises(NoParquet, match=f"^quote_volume is {number}, and Parquet .*--format csv"):
        written([candle(quote_volume=number)])


def test_pages_are_row_groups_of_one_schema_and_an_empty_file_has_it_too() -> None:
    file = written([candle(0), candle(1)], [], [candle(2, synthetic=True)])
    assert file.num_row_groups == 2
    assert [row["synthetic"] for row in file.read().to_pylist()] == [False, False, True]
    assert written().schema_arrow == file.schema_arrow
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {
        "ZSTD"
    }


def test_without_pyarrow_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NoParquet, match=r"pip install pyarrow"):
        written()
