"""Coinbase Exchange: the public WebSocket feed, and trades over REST, without a key.

Sits between feed and sink: frames in, values of the market out. Every value is checked here, so
that nothing behind has to; a frame is taken whole or refused whole, because half a batch of level
changes would leave a book that never was.

Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/overview and .../channels; of REST:
https://docs.cdp.coinbase.com/exchange/reference/exchangerestapi_getproducttrades
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, assert_never, get_args
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta, Struct

from models.book import BookDelta, BookSnapshot, Level
from models.decimals import parse, parse_positive
from models.errors import DecodeError
from models.times import parse_rfc3339
from models.trade import Count, Heartbeat, Trade
from producers import codec
from producers.codec import CHANNELS, Event, Refused, Subscribed, Unknown, same_host

NAMES = {"trades": "matches", "books": "level2_batch", "heartbeats": "heartbeat"}
"""Our channels, as Coinbase calls them. ``level2`` would need a key, ``level2_batch`` needs none."""

ALIASES = {
    "matches": "trades",
    "level2_batch": "books",
    "level2_50": "books",
    "level2": "books",
    "heartbeat": "heartbeats",
}
"""Coinbase's channels, as we call them. ``level2_batch`` is acknowledged under its old name
``level2_50``, and ``level2`` carries the same messages unbatched."""

REST_URLS = {
    "ws-feed.exchange.coinbase.com": "https://api.exchange.coinbase.com",
    "ws-direct.exchange.coinbase.com": "https://api.exchange.coinbase.com",
    "ws-feed-public.sandbox.exchange.coinbase.com": "https://api-public.sandbox.exchange.coinbase.com",
}
"""REST by the host of the WebSocket. Anything else is a mock exchange, with both on one port."""

EARLIEST_US = parse_rfc3339("2010-01-01T00:00:00Z")
"""Before any exchange of this kind: a time below it is a unit mixed up, or a zero."""

MAX_AHEAD_US = 120_000_000
"""How far the exchange's clock may be ahead of ours. One trade from the far future would close
every candle before it."""

SYMBOL = r"\A[A-Z0-9]{1,20}-[A-Z0-9]{1,20}\Z"
"""What a product id looks like. It becomes part of keys, paths and hand-written JSON."""

_Symbol = Annotated[str, Meta(pattern=SYMBOL)]
_Time = Annotated[
    str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z\Z")
]
_Side = Literal["buy", "sell"]


class _Message(Struct, frozen=True, gc=False, tag_field="type"):
    """A message of a type that we know. Fields we have no use for are skipped unread."""


class _Match(_Message, frozen=True, gc=False, tag="match"):
    product_id: _Symbol
    trade_id: Count
    sequence: Count
    side: _Side
    price: str
    size: str
    time: _Time


class _LastMatch(_Match, frozen=True, gc=False, tag="last_match"):
    pass


class _RestTrade(Struct, frozen=True, gc=False):
    trade_id: Count
    side: _Side
    price: str
    size: str
    time: _Time


class _Heartbeat(_Message, frozen=True, gc=False, tag="heartbeat"):
    product_id: _Symbol
    last_trade_id: Count
    sequence: Count
    time: _Time


class _Snapshot(_Message, frozen=True, gc=False, tag="snapshot"):
    product_id: _Symbol
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    time: _Time | None = None


class _Update(_Message, frozen=True, gc=False, tag="l2update"):
    product_id: _Symbol
    changes: list[tuple[_Side, str, str]]
    time: _Time


class _Channel(Struct, frozen=True, gc=False):
    name: str
    product_ids: list[str] | None = None


class _Subscriptions(_Message, frozen=True, gc=False, tag="subscriptions"):
    channels: list[_Channel]


class _Error(_Message, frozen=True, gc=False, tag="error"):
    message: str
    reason: str = ""


class _Head(Struct, frozen=True, gc=False):
    """All that must be true of a message of a type that we do not know."""

    type: Annotated[str, Meta(max_length=64)]


_Known = _Match | _LastMatch | _Heartbeat | _Snapshot | _Update | _Subscriptions | _Error
_TYPES = frozenset(message.__struct_config__.tag for message in get_args(_Known))

_decode = msgspec.json.Decoder(_Known).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_page = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_rest_trade = msgspec.json.Decoder(_RestTrade).decode

_is_symbol = re.compile(SYMBOL).match
_missing_field = re.compile(r"Object missing required field `(\w+)`\Z").match


class _Wrong(Exception):
    """A field that has the right type and cannot be."""

    def __init__(self, field: str, reason: object) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = str(reason)


class Codec(codec.Codec):
    """Frames of one connection to Coinbase Exchange. Keeps no state: an ack names the full set."""

    exchange: ClassVar[str] = "coinbase"
    live_url: ClassVar[str] = "wss://ws-feed.exchange.coinbase.com"
    page_trades: ClassVar[int] = 1000

    def subscribe(self, symbols: Iterable[str], channels: Iterable[str] = CHANNELS) -> list[str]:
        """Return the one frame to send, within 5 s of connecting, to receive these symbols."""
        return _request("subscribe", symbols, channels)

    def unsubscribe(self, symbols: Iterable[str], channels: Iterable[str] = CHANNELS) -> list[str]:
        """Return the one frame to send to receive these symbols no more."""
        return _request("unsubscribe", symbols, channels)

    def receive(self, frame: str | bytes, received_time_us: int) -> list[Event]:
        """Return the event of one frame, every value checked. A repeated key counts by its last value.

        Raises:
            DecodeError: the frame is not what the protocol says. Dead-letter it and go on.
        """
        try:
            # Bytes become text first: the decoder does not look into the strings that it skips.
            message = _decode(frame if isinstance(frame, str) else frame.decode())
            return [_event(message, received_time_us)]
        except _Wrong as error:
            raise DecodeError(self.exchange, error.reason, frame, error.field) from None
        except msgspec.ValidationError as error:
            return [_unknown(frame, error)]
        except (msgspec.DecodeError, UnicodeError) as error:
            raise DecodeError(self.exchange, str(error), frame) from None
        except RecursionError:
            raise DecodeError(self.exchange, "JSON is nested too deep", frame) from None

    def rest_url(self, url: str) -> str:
        """Return where REST is, for the address of a WebSocket; no slash at the end."""
        return REST_URLS.get(urlsplit(url).hostname or "") or same_host(url)

    def trades_path(self, symbol: str, before_id: int, limit: int) -> str:
        """Return path and query of a page, the newest trade first. ``after`` an id are the older ones.

        Source: https://docs.cdp.coinbase.com/exchange/rest-api/pagination
        """
        return f"/products/{quote(symbol, safe='')}/trades?limit={limit}&after={before_id}"

    def read_trades(
        self, symbol: str, body: bytes, received_time_us: int
    ) -> tuple[list[Trade], list[DecodeError]]:
        """Return the trades of a page, and what was refused; ``side`` is the maker's, as in a ``match``.

        Source: https://docs.cdp.coinbase.com/exchange/reference/exchangerestapi_getproducttrades
        ::

            [{"time": "2020-03-20T00:36:59.860Z", "trade_id": 86327327, "price": "6225.32000000",
              "size": "0.06469797", "side": "sell"}]

        Raises:
            DecodeError: the body is no JSON, or no list.
        """
        try:
            rows = _decode_page(body.decode())
        except (msgspec.DecodeError, UnicodeError) as error:
            raise DecodeError(self.exchange, str(error), body) from None
        except RecursionError:
            raise DecodeError(self.exchange, "JSON is nested too deep", body) from None
        trades: list[Trade] = []
        refused: list[DecodeError] = []
        for row in rows:
            try:
                trades.append(_trade(_decode_rest_trade(row), symbol, None, received_time_us))
            except _Wrong as error:
                refused.append(DecodeError(self.exchange, error.reason, bytes(row), error.field))
            except msgspec.DecodeError as error:
                reason, field = _where(str(error))
                refused.append(DecodeError(self.exchange, reason, bytes(row), field))
        return trades, refused


def _request(kind: str, symbols: Iterable[str], channels: Iterable[str]) -> list[str]:
    product_ids, names = list(symbols), [NAMES[channel] for channel in channels]
    if not product_ids or not names:
        return []  # without products, `unsubscribe` would drop the channels entirely
    return [msgspec.json.encode({"type": kind, "product_ids": product_ids, "channels": names}).decode()]


def _event(message: _Known, received_time_us: int) -> Event:
    match message:
        case _Update():
            return _delta(message, received_time_us)
        case _Match():
            return _trade(message, message.product_id, message.sequence, received_time_us)
        case _Heartbeat():
            return _heartbeat(message, received_time_us)
        case _Snapshot():
            return _snapshot(message, received_time_us)
        case _Subscriptions():
            return _subscribed(message)
        case _Error():
            return _refused(message)
        case _:
            assert_never(message)


def _trade(message: _Match | _RestTrade, symbol: str, sequence: int | None, received_time_us: int) -> Trade:
    """Read a trade. The first one after subscribing is old, and has the type ``last_match``.

    "The `side` field indicates the maker order side. If the side is `sell` this indicates the maker
    was a sell order and the `match` is considered an up-tick." So the taker's side is the other one.
    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels#match
    ::

        {"type": "match", "trade_id": 10, "sequence": 50,
         "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
         "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
         "time": "2014-11-07T08:19:27.028459Z", "product_id": "BTC-USD",
         "size": "5.23512", "price": "400.23", "side": "sell"}
    """
    if sequence is not None:
        _check_id("trade_id", message.trade_id, sequence)
    return Trade(
        exchange=Codec.exchange,
        symbol=symbol,
        trade_id=message.trade_id,
        price=_positive("price", message.price),
        size=_positive("size", message.size),
        taker_side="buy" if message.side == "sell" else "sell",
        event_time_us=_time_us(message.time, received_time_us),
        received_time_us=received_time_us,
        sequence=sequence,
    )


def _heartbeat(message: _Heartbeat, received_time_us: int) -> Heartbeat:
    """Read a sign of life, one a second and product; the last trade's id says what we missed.

    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels#heartbeat-channel
    ::

        {"type": "heartbeat", "sequence": 90, "last_trade_id": 20, "product_id": "BTC-USD",
         "time": "2014-11-07T08:19:28.464459Z"}
    """
    _check_id("last_trade_id", message.last_trade_id, message.sequence)
    return Heartbeat(
        exchange=Codec.exchange,
        symbol=message.product_id,
        last_trade_id=message.last_trade_id,
        event_time_us=_time_us(message.time, received_time_us),
        received_time_us=received_time_us,
        sequence=message.sequence,
    )


def _snapshot(message: _Snapshot, received_time_us: int) -> BookSnapshot:
    """Read a whole book. Documented without a time; today's messages have one.

    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels#level2-channel
    ::

        {"type": "snapshot", "product_id": "BTC-USD",
         "bids": [["10101.10", "0.45054140"]], "asks": [["10102.55", "0.57753524"]]}
    """
    return BookSnapshot(
        exchange=Codec.exchange,
        symbol=message.product_id,
        event_time_us=None if message.time is None else _time_us(message.time, received_time_us),
        received_time_us=received_time_us,
        bids=_levels("bids", message.bids),
        asks=_levels("asks", message.asks),
    )


def _delta(message: _Update, received_time_us: int) -> BookDelta:
    """Read level changes: "the updated size at the price level, not a delta", zero removes it.

    ``level2_batch`` gathers 50 ms of them, and its time is that of the last one.
    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels#level2-channel
    ::

        {"type": "l2update", "product_id": "BTC-USD",
         "changes": [["buy", "22356.270000", "0.00000000"], ["buy", "22356.300000", "1.00000000"]],
         "time": "2022-08-04T15:25:05.010758Z"}
    """
    bids: list[Level] = []
    asks: list[Level] = []
    try:
        for side, price, size in message.changes:
            (bids if side == "buy" else asks).append((parse_positive(price), parse(size)))
    except ValueError as error:
        raise _Wrong(f"changes[{len(bids) + len(asks)}]", error) from None
    return BookDelta(
        exchange=Codec.exchange,
        symbol=message.product_id,
        event_time_us=_time_us(message.time, received_time_us),
        received_time_us=received_time_us,
        bids=tuple(bids),
        asks=tuple(asks),
    )


def _subscribed(message: _Subscriptions) -> Subscribed:
    """Read what the connection receives now; channels that are not ours are left out.

    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/overview#subscriptions-message
    ::

        {"type": "subscriptions", "channels": [
          {"name": "level2", "product_ids": ["ETH-USD", "ETH-EUR"]},
          {"name": "heartbeat", "product_ids": ["ETH-USD", "ETH-EUR"]},
          {"name": "ticker", "product_ids": ["ETH-USD", "ETH-EUR", "ETH-BTC"]}]}
    """
    channels: dict[str, frozenset[str]] = {}
    for index, channel in enumerate(message.channels):
        if name := ALIASES.get(channel.name):
            symbols = frozenset(channel.product_ids or ())
            for symbol in symbols:
                if not _is_symbol(symbol):
                    raise _Wrong(f"channels[{index}].product_ids", f"not a product id: {symbol[:50]!r}")
            channels[name] = channels.get(name, frozenset()) | symbols
    return Subscribed(channels)


def _refused(message: _Error) -> Refused:
    """Read a refusal. The socket stays open, and the other channels live on.

    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/errors; with a reason, as on the
    wire: https://github.com/ctubio/Krypto-trading-bot/issues/977
    ::

        {"message":"Failed to subscribe","reason":"No channels provided","type":"error"}
    """
    return Refused(message.message, message.reason)


def _unknown(frame: str | bytes, error: msgspec.ValidationError) -> Unknown:
    """Tell a type that we do not know from a message that is wrong.

    "New message types can be added at any time. Clients are expected to ignore messages they do not
    support." Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/overview#protocol
    """
    reason, field = _where(str(error))
    if field == "type":
        try:
            kind = _decode_head(frame).type
        except (msgspec.DecodeError, RecursionError) as deeper:
            reason, _ = _where(str(deeper))
        else:
            if kind not in _TYPES:
                return Unknown(kind)
            reason = f"two types, the last of them {kind}"
    raise DecodeError(Codec.exchange, reason, frame, field) from None


def _where(text: str) -> tuple[str, str]:
    """Take the decoder's sentence apart: the reason, and the field as a path such as ``bids[0][1]``."""
    reason, at, path = text.rpartition(" - at `$")  # the last one: the reason may quote the frame
    if not at:
        reason, path = text, ""
    if missing := _missing_field(reason):
        path = f"{path.rstrip('`')}.{missing[1]}"
    return reason, path.strip(".`")


def _check_id(field: str, trade_id: int, sequence: int) -> None:
    """Refuse an id that cannot be: ``sequence`` counts a product's order events, and a trade is one of them.

    An absurd one would be a hole of as many trades, which nobody could ever fill.
    Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/overview#sequence-numbers
    """
    if trade_id > sequence:
        raise _Wrong(field, f"{trade_id} is above the sequence, {sequence}")


def _positive(field: str, text: str) -> Decimal:
    try:
        return parse_positive(text)
    except ValueError as error:
        raise _Wrong(field, error) from None


def _levels(field: str, pairs: list[tuple[str, str]]) -> tuple[Level, ...]:
    levels: list[Level] = []
    try:
        for price, size in pairs:
            levels.append((parse_positive(price), parse(size)))
    except ValueError as error:
        raise _Wrong(f"{field}[{len(levels)}]", error) from None
    return tuple(levels)


def _time_us(text: str, received_time_us: int) -> int:
    """Read a time of the form that `_Time` promises; digits below the microsecond are cut off."""
    try:
        time_us = parse_rfc3339(text)
    except ValueError as error:
        raise _Wrong("time", error) from None
    if time_us < EARLIEST_US:
        raise _Wrong("time", f"{text} is before 2010")
    if time_us > received_time_us + MAX_AHEAD_US:
        ahead_s = (time_us - received_time_us) // 1_000_000
        raise _Wrong("time", f"{text} is {ahead_s} s after it was received; 120 s is the most")
    return time_us
