"""What clients ask over the WebSocket, read as strictly as the exchange reads it.

A request that is refused changes nothing: one bad product refuses all of it. The texts are the
exchange's own where a record of them could be found:

- ``" is not a valid product"`` (with an empty name when there is no product): gocryptotrader PR 1421,
  2023-12; ``No channels provided``: coinbasepro-python issue 371, 2019-08; ``Invalid product ID
  provided``: coinbase-pro-node issue 174; ``… channels now require authentication``: its documentation.
- Not confirmed: the texts for broken JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import msgspec

from candlewick.mock.frames import HEARTBEAT, LEVEL2, MATCHES, TICKER

_CHANNELS = {
    "level2_batch": LEVEL2,
    "level2_50": LEVEL2,
    "matches": MATCHES,
    "heartbeat": HEARTBEAT,
    "ticker": TICKER,
}
_ACK_NAMES = {LEVEL2: "level2_50"}
"""The acknowledgement still uses the channel's old name. Source: frames of 2026-09."""
_PRIVATE = ("level2", "level3", "full", "user")
_AUTHENTICATE = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)

Subscriptions = dict[str, dict[str, None]]
"""Products by channel, both in the order of asking."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be followed."""

    type: Literal["subscribe", "unsubscribe"]
    channels: dict[str, tuple[str, ...]]
    """Products by channel; none means all of the channel, in an ``unsubscribe`` only."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that cannot be followed, and why."""

    message: str
    reason: str
    subscribe: bool = False
    """True when it was at least a ``subscribe``."""

    def text(self) -> str:
        """Return the frame that says so."""
        return error_text(self.message, self.reason)


def error_text(message: str, reason: str) -> str:
    """Write an ``error`` frame."""
    return json.dumps({"type": "error", "message": message, "reason": reason}, separators=(",", ":"))


def parse(text: str, products: Collection[str]) -> Request | Refusal:
    """Read one message of a client who may ask for these products."""
    try:
        request = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return Refusal("Malformed JSON", str(error))
    if not isinstance(request, dict):
        return Refusal("Malformed JSON", "the message is not an object")
    kind = request.get("type")
    if kind != "subscribe" and kind != "unsubscribe":
        return Refusal("Failed to subscribe", "Type has to be either subscribe or unsubscribe")
    channels = _channels(request, kind, products)
    if isinstance(channels, str):
        return Refusal(f"Failed to {kind}", channels, kind == "subscribe")
    return Request(kind, channels)


def acknowledgement(subscriptions: Subscriptions) -> str:
    """Write the ``subscriptions`` frame: everything that the connection receives now."""
    channels = [
        {"name": _ACK_NAMES.get(name, name), "product_ids": list(products), "account_ids": None}
        for name, products in subscriptions.items()
    ]
    return json.dumps({"type": "subscriptions", "channels": channels}, separators=(",", ":"))


def _channels(
    request: dict[str, object], kind: str, products: Collection[str]
) -> dict[str, tuple[str, ...]] | str:
    """Return products by channel, or the reason of refusal."""
    shared = _product_ids(request, products)
    if isinstance(shared, str):
        return shared
    asked = request.get("channels")
    if not isinstance(asked, list) or not asked:
        return "No channels provided"
    channels: dict[str, tuple[str, ...]] = {}
    for item in asked:
        own: tuple[str, ...] | str = ()
        name = item
        if isinstance(item, dict):
            name = item.get("name")
            own = _product_ids(item, products)
            if isinstance(own, str):
                return own
        if name in _PRIVATE:
            return _AUTHENTICATE
        channel = _CHANNELS.get(name) if isinstance(name, str) else None
        if channel is None:
            return f"{name if isinstance(name, str) else json.dumps(name)} is not a valid channel"
        wanted = tuple(dict.fromkeys((*channels.get(channel, ()), *shared, *own)))
        if not wanted and kind == "subscribe":
            return " is not a valid product"
        channels[channel] = wanted
    return channels


def _product_ids(holder: dict[str, object], products: Collection[str]) -> tuple[str, ...] | str:
    product_ids = holder.get("product_ids")
    if product_ids is None:
        return ()
    if not isinstance(product_ids, list):
        return "Invalid product ID provided"
    for product_id in product_ids:
        if not isinstance(product_id, str):
            return "Invalid product ID provided"
        if product_id not in products:
            return f"{product_id} is not a valid product"
    return tuple(product_ids)
