"""The pictures of the README, made by `make screenshots`: the dashboard before a market of some hours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from browser.conftest import Open
from browser.system import System
from rig import get, until

from models.trade import Trade

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="only `make screenshots` makes the pictures"),
]

DOCS = Path(__file__).parents[2] / "docs"
PRODUCTS = ("BTC-USD", "ETH-USD")
HOURS = 3
SEEN_MS = 50_000
"""How long a page is open before its picture is taken: the small chart is of that time."""
MOST_BYTES = 300_000


def trades_of(rest: str, product_id: str) -> list[Trade]:
    """Return all trades that the exchange has of a product, over REST, the oldest first."""
    found: list[Trade] = []
    after = ""
    while True:
        _, rows = get(f"{rest}/products/{product_id}/trades?limit=1000{after}")
        if not rows:
            return found[::-1]
        for row in rows:
            at_us = round(datetime.fromisoformat(row["time"]).timestamp() * 1_000_000)
            taker_side = "buy" if row["side"] == "sell" else "sell"
            price, size = Decimal(row["price"]), Decimal(row["size"])
            found.append(
                Trade("coinbase", product_id, row["trade_id"], price, size, taker_side, at_us, at_us + 30_000)
            )
        after = f"&after={rows[-1]['trade_id']}"


@pytest.fixture(scope="module")
def hours(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system whose candles reach back for hours; some of them were amended, when what was missing came."""
    folder = tmp_path_factory.mktemp("hours")
    script = Path(__file__).with_name("old_market.py")
    exchange = subprocess.Popen(
        [sys.executable, str(script), str(HOURS), *PRODUCTS], stdout=subprocess.PIPE, text=True
    )
    system = System("", "", folder)
    try:
        assert exchange.stdout is not None
        url = exchange.stdout.readline().strip()
        broker = system.run("broker", "--data-dir", str(folder / "kafka"))
        system.kafka = broker.line("127.0.0.1:").join(["127.0.0.1:", ""])
        worker = system.worker("hours")
        for product_id in PRODUCTS:
            known = trades_of(url.replace("ws://", "http://"), product_id)
            late = [trade for trade in known if (trade.event_time_us // 60_000_000) % 41 == 7][::9]
            system.send([trade for trade in known if trade not in late])
            system.send(late)
        system.run(
            "produce", "--feed", url, "--products", ",".join(PRODUCTS), "--broker", system.kafka,
            "--data-dir", str(folder / "producer"),
        )  # fmt: skip
        until(lambda: get(f"{worker.base}/readyz")[0] == 200)
        until(lambda: all(each["gaps"] == 0 for each in get(f"{worker.base}/v1/status")[1]["products"]))
        yield system
    finally:
        for command in reversed(system.commands):
            command.end()
        exchange.terminate()
        exchange.communicate(timeout=30)


def test_pictures(hours: System, open_page: Open) -> None:
    desk = {"viewport": {"width": 1440, "height": 900}}
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
    wanted = {
        "dark": open_page("/#BTC-USD/1m", hours.base, color_scheme="dark", **desk)[0],
        "light": open_page("/#BTC-USD/1m", hours.base, color_scheme="light", **desk)[0],
        "phone": open_page("/#ETH-USD/5m", hours.base, color_scheme="dark", **phone)[0],
    }
    for name, page in wanted.items():
        page.bring_to_front()
        until(lambda page=page: page.evaluate("performance.now()") > SEEN_MS)
        path = DOCS / f"dashboard-{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size < MOST_BYTES, f"{path.name} is too large to be in the repository"
