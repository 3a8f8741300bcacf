"""Which rows a range of times holds, also where it reaches beyond what a key can say."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import faust
import pytest

from candlewick.checkpoint import Checkpoint
from candlewick.transport import BatchSchema
from models.candle import Candle
from models.tape import CandleRow, TapeState
from models.times import LAST_US
from models.trade import Trade
from tables.rows import END_OF_KEYS_US, RowTable, row_key

MINUTE = 60_000_000
STARTS = [1_790_000_040_000_000 + number * MINUTE for number in range(10)]
SYMBOL = "coinbase:BTC-USD"


@pytest.fixture
def table(tmp_path: Path) -> RowTable[TapeState, CandleRow]:
    app = faust.App("starts", datadir=str(tmp_path), broker="kafka://127.0.0.1:1", topic_partitions=1)
    (tmp_path / "v1" / "tables").mkdir(parents=True)
    app.checkpoint = Checkpoint(app, 10.0)
    app.batches = BatchSchema(key_type=bytes, value_type=bytes)
    table = RowTable(app, "candles", TapeState, CandleRow, 1)
    for number, start_us in enumerate(STARTS):
        trade = Trade("coinbase", "BTC-USD", number, Decimal(1), Decimal(1), "buy", start_us, start_us)
        table.rows(0).put(row_key(SYMBOL, "1m", start_us), CandleRow(number, Candle.of((trade,))))
    return table


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("first_us", "end_us", "found"),
    [
        (0, LAST_US, STARTS),
        (STARTS[2], STARTS[5], STARTS[2:5]),
        (STARTS[5], STARTS[2], []),
        (STARTS[-1] + 1_000_000, LAST_US, []),
        (END_OF_KEYS_US, LAST_US, []),
        # 5138 and 7600: as text their seconds begin like those of years before.
        (100_000_000_000_000_000, STARTS[-1] + MINUTE, []),
        (100_000_000_000_000_000, LAST_US, []),
        (179_000_000_000_000_000, 179_000_180_600_000_000, []),
        (LAST_US, LAST_US, []),
    ],
)
def test_a_range_holds_the_rows_that_begin_in_it(
    table: RowTable[TapeState, CandleRow], stored: bool, first_us: int, end_us: int, found: list[int]
) -> None:
    rows = table.rows(0)
    if stored:
        table.data.write(0, rows.take(), 9)
        rows.written()
    assert rows.starts(SYMBOL, "1m", first_us, end_us, 100) == found
    assert rows.starts(SYMBOL, "1m", first_us, end_us, 3) == found[:3]
    assert rows.starts(SYMBOL, "1m", first_us, end_us, 3, newest=True) == found[-3:]
