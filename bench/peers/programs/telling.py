"""What every program here is told, and what it tells the race.

It is told by the environment: PEER_BROKER, PEER_GROUP (new for each run), PEER_STATE (an empty
folder), PEER_TRADES (how many to fold), PEER_WINDOWS (such as ``1m,1h,1d``), PEER_RESULT (a file).
It prints ``reading`` at its first trade and ``folded`` when the candles of the last one can be seen,
and then writes them to the file, a line of JSON each: window, symbol, start in milliseconds, open,
high, low, close, volume, quote volume, count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

BROKER = os.environ["PEER_BROKER"]
GROUP = os.environ["PEER_GROUP"]
STATE = os.environ["PEER_STATE"]
TRADES = int(os.environ["PEER_TRADES"])
TOPIC = "trades"
PARTITIONS = 8
GRACE_S = 10
SECONDS = {"1m": 60, "1h": 3_600, "1d": 86_400}
WINDOWS = {name: SECONDS[name] for name in os.environ["PEER_WINDOWS"].split(",")}


def tell(word: str) -> None:
    """Print a word for the race, at once, and past Faust, which turns `print` into a log line."""
    os.write(1, f"{word}\n".encode())


def write(rows: Iterable[tuple[Any, ...]]) -> None:
    """Write the candles, whole or not at all."""
    path = os.environ["PEER_RESULT"]
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
    os.replace(f"{path}.new", path)
