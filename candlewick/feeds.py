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


class _Market(msgspec.Struct):
    """What a data directory keeps of its simulated market."""

    seed: int
    products: tuple[str, ...]
    levels: int
    speed: float
    began_us: int
    behind: dict[str, int] = {}
    """The last trade ids of the market before it: its own follow, so that nothing seems to be missing."""
    ended: dict[str, int] = {}
    """Its own last trade ids, where it ended in order and does not go on."""


def remember(settings: Settings, source: Source, exchange: MockExchange) -> None:
    """Keep where a market has ended; a recording, or a market of speed 0, is not one that lasts."""
    if source.file or not settings.speed:
        return
    if (market := _kept(settings)) is not None:
        # Products that it had no part in go on behind what they had before.
        market.ended = {**market.behind, **exchange.last_trade_ids()}
        _keep(settings, market)


def _market_times(settings: Settings, source: Source) -> dict[str, Any]:
    """Return where the market is in its own time. It goes on from start to start of a data directory,
    while we are away as well: the same trades at speed 1, where it began not long ago."""
    if not settings.speed:
        return {}
    now_us = time.time_ns() // 1000
    market = _Market(settings.seed, source.products, settings.mock_levels, settings.speed, now_us)
    kept = _kept(settings)
    if kept is not None:
        what = (kept.seed, kept.products, kept.levels, kept.speed)
        longest_us = CATCH_UP_S * 1_000_000 if settings.speed == 1 else now_us
        goes_on = 0 <= now_us - kept.began_us <= longest_us
        if goes_on and what == (market.seed, market.products, market.levels, market.speed):
            market.began_us = kept.began_us
        is_same = settings.speed == 1 and market.began_us == kept.began_us
        market.behind = kept.behind if is_same else kept.ended
    _keep(settings, market)
    if settings.speed == 1:
        return {"since_us": market.began_us, "last_trade_ids": market.behind}
    start_us = market.began_us - EARLIER_US + int((now_us - market.began_us) * settings.speed)
    return {"start_us": min(now_us, start_us), "last_trade_ids": market.behind}


def _path(settings: Settings) -> Path:
    return Path(settings.data_dir) / "market.json"


def _kept(settings: Settings) -> _Market | None:
    """Return what is kept; None if nothing is, or it cannot be read."""
    try:
        return msgspec.json.decode(_path(settings).read_bytes(), type=_Market)
    except (OSError, msgspec.MsgspecError):
        return None


def _keep(settings: Settings, market: _Market) -> None:
    _path(settings).parent.mkdir(parents=True, exist_ok=True)
    _path(settings).write_bytes(msgspec.json.encode(market))
