"""Where frames come from: what ``--feed`` may name, and the products that it has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from candlewick.config import MOCK_PRODUCTS, Settings
from candlewick.mock import MockExchange, Simulation
from models.errors import ConfigError
from producers import recording
from producers.exchanges import codec_class

LIVE_PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "LTC-USD")

CATCH_UP_S = 3600
"""How long ago a simulated market may have begun for a restart to go on with the same one."""

EARLIER_US = 365 * 86_400 * 1_000_000
"""How long before the present a market begins that runs faster or slower than time."""


class Source(NamedTuple):
    """A feed, resolved."""

    kind: str
    """``mock``, ``live``, ``file`` or ``url``."""
    url: str
    """WebSocket address; empty where a mock exchange is to be started."""
    file: Path | None
    products: tuple[str, ...]


def resolve(settings: Settings) -> Source:
    """Return what the settings mean.

    Raises:
        ConfigError: no such feed, file or exchange.
        RecordingError: the file is not a recording.
    """
    feed = settings.feed
    codec = codec_class(settings.exchange)
    if feed == "mock":
        return Source("mock", "", None, settings.products or MOCK_PRODUCTS)
    if feed == "live":
        return Source("live", codec.live_url, None, settings.products or LIVE_PRODUCTS)
    if feed.startswith(("ws://", "wss://")):
        return Source("url", feed, None, settings.products or LIVE_PRODUCTS)
    path = Path(feed)
    if not path.is_file():
        raise ConfigError(
            "feed", feed, "mock, live, ws://…, wss://…, or the file of a recording: there is no such file"
        )
    held = tuple(recording.products_of(path))
    absent = [product for product in settings.products if product not in held]
    if absent:
        raise ConfigError("products", ",".join(absent), f"in {path.name}, which holds {', '.join(held)}")
    return Source("file", "", path.absolute(), settings.products or held)


def mock_exchange(settings: Settings, source: Source, lasting: bool = True) -> MockExchange:
    """Return the mock exchange for a source: a market by its seed, or the recording.

    A ``lasting`` market goes on from start to start; the data directory remembers when it began.
    """
    what: Simulation | Path
    if source.file is not None:
        what = source.file
    else:
        times = _market_times(settings, source) if lasting else {}
        what = Simulation(source.products, settings.seed, **times)
    return MockExchange(
        what, settings.mock_host, settings.mock_port, settings.speed, levels=settings.mock_levels
    )


def _market_times(settings: Settings, source: Source) -> dict[str, Any]:
    """Return where the market is in its own time. It goes on from start to start of a data directory,
    while we are away as well: the same trades at speed 1, where it began not long ago."""
    if not settings.speed:
        return {}
    now_us = time.time_ns() // 1000
    path = Path(settings.data_dir) / "market.json"
    market = {"seed": settings.seed, "products": list(source.products), "levels": settings.mock_levels}
    if settings.speed == 1:
        return {"since_us": _began(path, {**market, "speed": 1}, now_us, CATCH_UP_S * 1_000_000)}
    began_us = _began(path, {**market, "speed": settings.speed}, now_us, now_us)
    return {"start_us": min(now_us, began_us - EARLIER_US + int((now_us - began_us) * settings.speed))}


def _began(path: Path, market: dict[str, object], now_us: int, longest_us: int) -> int:
    """Return when this data directory's market began. One of other settings, or older, begins now."""
    try:
        kept = msgspec.json.decode(path.read_bytes())
        began_us = int(kept.pop("began_us"))
        if kept == market and 0 <= now_us - began_us <= longest_us:
            return began_us
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        pass  # none was kept, or it cannot be read
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode({**market, "began_us": now_us}))
    return now_us
