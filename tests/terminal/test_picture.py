"""The pictures of `watch`, `status`, `candles` and `gaps` as text: 80 columns, no colour, kept in pictures/.

``python tests/terminal/test_picture.py`` writes them again; look at the difference.
"""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path

import pytest
from answers import (
    START_US,
    candle,
    candle_event,
    feed,
    product,
    snapshot_event,
    status,
    ticker,
    ticker_event,
    worker,
)
from rich.console import Console, RenderableType

from candlewick.terminal.gaps import gap_table
from candlewick.terminal.picture import View, ago, draw, sparkline
from candlewick.terminal.status import Look, judge, picture
from candlewick.terminal.tables import candle_table
from candlewick.terminal.watched import Watched
from models.gap import Gap

PICTURES = Path(__file__).with_name("pictures")
NOW_MS = START_US // 1000 + 4 * 60_000 + 26_000
WIDTH = 80


def watched(product_id: str = "BTC-USD", *, minutes: int = 5) -> Watched:
    """Return a product with some candles, one of them amended, one that has a hole, the last one open."""
    known = Watched("coinbase", product_id, "1m")
    known.trouble = ""
    closes = ["83421.85", "83440.01", "83398.5", "83460", "83475.14"]
    candles = [
        candle(minute, close=closes[minute % 5], high="83480", volume=f"{minute + 1}.57453361", **more)
        for minute, more in zip(
            range(minutes),
            [{}, {"revision": 2, "late_trades": 3}, {"complete": False, "missing_trades": 4}, {}, {"state": "open"}],
            strict=False,
        )
    ]  # fmt: skip
    known.take(snapshot_event(candles), 0.0)
    known.take(candle_event(candle(0, open="82000.00"), "1d"), 0.0)
    known.take(ticker_event(ticker()), 0.0)
    known.take(ticker_event(ticker(trade_id=5001)), 100.0)
    return known


def view(*products: Watched, width: int = WIDTH, height: int = 24) -> View:
    return View(products, "http://127.0.0.1:6066", 0, 100.4, NOW_MS, width, height)


def status_picture(**changes: object) -> RenderableType:
    told = status(**changes)
    reasons = judge(told, START_US + 1_000_000, 10_000)
    return picture(Look(not reasons, reasons, told), START_US + 1_000_000, WIDTH)


def lost() -> Watched:
    known = watched()
    known.trouble = "the worker ended it: trying again in 1 s"
    known.take(ticker_event(ticker(bid=None, ask=None)), 100.0)
    return known


GAPS = [
    Gap("coinbase", "BTC-USD", 5000, 5009, 10, "open", "jump", "2026-11-21T12:37:00Z", "2026-11-21T12:37:01.5Z", "2026-11-21T12:37:02Z"),
    Gap("coinbase", "ETH-USD", 10, 10, 0, "repaired", "heartbeat", "2026-11-21T12:30:00Z", "2026-11-21T12:30:01Z",
        "2026-11-21T12:30:02Z", "2026-11-21T12:31:00.25Z"),
]  # fmt: skip

SHOWN: dict[str, RenderableType] = {
    "watch": draw(view(watched())),
    "watch-waiting": draw(view(Watched("coinbase", "BTC-USD", "1m"))),
    "watch-lost": draw(view(lost())),
    "watch-low": draw(view(watched(), height=15)),
    "watch-many": draw(view(watched(), watched("ETH-USD"), Watched("coinbase", "NEW-USD", "1m"))),
    "status": status_picture(),
    "status-not-well": status_picture(
        feeds=[feed(state="connecting", error="too many requests")],
        workers=[worker(), worker(url="http://127.0.0.1:6067", ready=False, lag_records=None)],
        products=[product(), product("ETH-USD", "out of step", gaps=2, missing_trades=14)],
    ),
    "candles": candle_table([candle(0), candle(1, revision=1), candle(2, complete=False), candle(3, revision=12, complete=False, missing_trades=41)], WIDTH),
    "gaps": gap_table(GAPS, narrow=True),
}  # fmt: skip


def as_text(shown: RenderableType, width: int = WIDTH) -> str:
    out = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, legacy_windows=False)
    out.print(shown)
    assert isinstance(out.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in out.file.getvalue().splitlines())


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_as_it_was(name: str) -> None:
    assert as_text(SHOWN[name]) == (PICTURES / f"{name}.txt").read_text(), "look at it, then `make golden`"


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_fits_80_columns_and_cuts_nothing(name: str) -> None:
    text = as_text(SHOWN[name])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text


def test_the_picture_of_one_product_keeps_its_lines_whatever_is_in_it() -> None:
    heights = {as_text(draw(view(each))).count("\n") for each in (watched(), watched(minutes=1), lost())}
    assert len(heights) == 1
    assert heights.pop() <= 24
    assert as_text(draw(view(watched(), height=15))).count("\n") <= 15


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_a_picture_fits_any_terminal(width: int) -> None:
    for shown in (view(watched(), width=width), view(watched(), watched("ETH-USD"), width=width)):
        assert max(map(len, as_text(draw(shown), width).splitlines())) <= width


def test_more_products_than_lines_are_told_of() -> None:
    assert "27 more do not fit" in as_text(draw(view(*(watched() for _ in range(30)), height=8)))


@pytest.mark.parametrize(
    ("values", "curve"),
    [([], ""), ([5], "▄"), ([1, 1], "▄▄"), ([1, 8], "▁█"), ([8, 1, 4], "█▁▄"), ([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█")],
)  # fmt: skip
def test_a_curve_reaches_from_the_lowest_to_the_highest(values: list[int], curve: str) -> None:
    assert sparkline([Decimal(value) for value in values]) == curve


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "0.0 s"), (0.04, "0.0 s"), (9.9, "9.9 s"), (10, "10 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"),
     (7200, "2 h"), (400_000, "111 h"), (864_000, "10 d")],
)  # fmt: skip
def test_an_age_has_two_digits_or_three(seconds: float, told: str) -> None:
    assert ago(seconds) == told


if __name__ == "__main__":
    for name, shown in SHOWN.items():
        (PICTURES / f"{name}.txt").write_text(as_text(shown))
