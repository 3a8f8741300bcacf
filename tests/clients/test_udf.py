"""A chart's data feed, written after TradingView's description of UDF, on a real worker.

Its own is part of a library that is not free, and no free client of UDF is in a package registry. What it
does: ask what the server can do, look a product up, then load history back from now: ``countback`` bars that
end before ``to``, and where there are none, those that end with ``nextTime``.
Source: TradingView, Advanced Charts, Connecting Data, UDF.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from decimal import Decimal
from typing import Any

import pytest
from rig import get

pytestmark = pytest.mark.broker

HISTORY, LIVE = "HIS-USD", "BTC-USD"
WINDOWS = {
    "1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h",
    "360": "6h", "720": "12h", "1D": "1d",
}  # fmt: skip


class Chart:
    """One client."""

    def __init__(self, base: str) -> None:
        self._base = f"{base}/udf"
        self.config = self.ask("config")

    def ask(self, path: str, **query: Any) -> Any:
        with urllib.request.urlopen(
            f"{self._base}/{path}?{urllib.parse.urlencode(query)}", timeout=30
        ) as answer:
            text = answer.read().decode()
        return int(text) if path == "time" else json.loads(text)

    def history(self, symbol: str, resolution: str, to: int, countback: int) -> list[list[float]]:
        """Load all bars before a time, a request after the other, as scrolling back does."""
        bars: list[list[float]] = []
        for _ in range(1000):
            told = self.ask(
                "history", symbol=symbol, resolution=resolution, to=to, countback=countback, **{"from": 0}
            )
            if told["s"] == "no_data":
                if "nextTime" not in told:
                    return bars
                assert told["nextTime"] < to
                to = told["nextTime"] + 1
                continue
            assert told["s"] == "ok", told
            columns = [told[name] for name in "tohlcv"]
            assert len({len(column) for column in columns}) == 1
            assert told["t"] == sorted(set(told["t"]))
            assert told["t"][-1] < to
            assert len(told["t"]) <= countback
            bars = [*map(list, zip(*columns, strict=True)), *bars]
            to = told["t"][0]
        raise AssertionError("history has no end")


@pytest.fixture(scope="module")
def chart(market) -> Chart:
    return Chart(market.base)


def test_what_the_feed_can_do_is_said(chart: Chart) -> None:
    assert set(chart.config["supported_resolutions"]) == set(WINDOWS)
    assert chart.config["supports_search"] is True
    assert chart.config["supports_group_request"] is False
    assert [each["value"] for each in chart.config["exchanges"]] == ["coinbase"]
    assert abs(chart.ask("time") - time.time()) < 60


def test_a_product_is_found_and_described(chart: Chart) -> None:
    [found] = chart.ask("search", query="his", type="", exchange="", limit=30)
    symbol = chart.ask("symbols", symbol=found["ticker"])
    assert symbol["ticker"] == f"coinbase:{HISTORY}"
    assert (symbol["session"], symbol["timezone"], symbol["minmov"]) == ("24x7", "Etc/UTC", 1)
    assert set(symbol["supported_resolutions"]) == set(WINDOWS)
    assert len(chart.ask("search", query="usd", limit=2)) == 2
    assert chart.ask("search", query="usd", exchange="nowhere", limit=30) == []


def test_a_price_is_a_whole_number_of_steps(chart: Chart, market) -> None:
    for product_id in (HISTORY, LIVE):
        scale = chart.ask("symbols", symbol=product_id)["pricescale"]
        for candle in get(f"{market.base}/v1/candles/{product_id}?limit=5000")[1]["candles"]:
            for name in ("open", "high", "low", "close"):
                steps = Decimal(candle[name]) * scale
                assert steps == int(steps), (product_id, candle[name], scale)


@pytest.mark.parametrize("resolution", WINDOWS)
@pytest.mark.parametrize("countback", [37, 329])
def test_the_whole_history_is_loaded_back_in_every_resolution(
    chart: Chart, market, resolution: str, countback: int
) -> None:
    bars = chart.history(HISTORY, resolution, 2_000_000_000, countback)
    ours = get(f"{market.base}/v1/candles/{HISTORY}?window={WINDOWS[resolution]}&limit=5000")[1]["candles"]
    names = ("open", "high", "low", "close", "volume")
    assert bars == [[each["start_ms"] // 1000, *(float(each[name]) for name in names)] for each in ours]


def test_a_range_holds_the_bars_that_begin_in_it(chart: Chart) -> None:
    bars = chart.history(HISTORY, "5", 2_000_000_000, 329)
    first, last = int(bars[10][0]), int(bars[40][0])
    told = chart.ask("history", symbol=HISTORY, resolution="5", to=last, **{"from": first})
    assert told["t"] == [bar[0] for bar in bars[10:40]]


def test_nothing_there_tells_where_there_is_something(chart: Chart, market) -> None:
    bars = chart.history(HISTORY, "1", 2_000_000_000, 329)
    gap = next(index for index in range(1, len(bars)) if bars[index][0] - bars[index - 1][0] > 3600)
    before, after = int(bars[gap - 1][0]), int(bars[gap][0])
    told = chart.ask("history", symbol=HISTORY, resolution="1", to=after - 60, **{"from": before + 60})
    assert told == {"s": "no_data", "nextTime": before}
    told = chart.ask("history", symbol=HISTORY, resolution="1", to=int(bars[0][0]), **{"from": 0})
    assert told == {"s": "no_data"}
    # Neither do times beyond the tables.
    told = chart.ask(
        "history", symbol=HISTORY, resolution="1", to=253_402_300_799, **{"from": 253_402_300_000}
    )
    assert told == {"s": "no_data", "nextTime": bars[-1][0]}


def test_what_is_unknown_is_an_error_in_its_own_form(chart: Chart) -> None:
    for symbol in ("NONE-USD", "coinbase:NONE-USD", "kraken:BTC-USD", "", "../etc", "\0"):
        assert chart.ask("symbols", symbol=symbol) == {"s": "error", "errmsg": "unknown_symbol"}
        told = chart.ask("history", symbol=symbol, resolution="1", to=2_000_000_000, **{"from": 0})
        assert told == {"s": "error", "errmsg": "unknown_symbol"}
