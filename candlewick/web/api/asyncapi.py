"""AsyncAPI 3.0: what is pushed by WebSocket and as server-sent events, and every topic that others may read.

Made of the types that write and read it, as OpenAPI is. Schemas are in the draft 7 of JSON Schema: that is
what AsyncAPI takes where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from candlewick import topics
from candlewick.app import app
from candlewick.web.api.openapi import REFERENCE, components_of
from candlewick.web.push import stream, ws
from candlewick.web.routes import JSON, Page, page
from models.book import BookDelta, BookKeyframe, BookLost, BookSnapshot
from models.dead_letter import DeadLetter
from models.gap import Gap
from models.producer_status import ProducerStatus
from models.schemas import SCHEMAS
from models.shown import BookMessage, CandleMessage
from models.trade import Heartbeat, Trade

ABOUT = """\
Exact candles and order-book statistics as they change. Numbers of the market are decimal strings, times RFC
3339 in UTC. Records of topics are one line of JSON; a record without a value takes back what its key said.
""".strip()

KAFKA = "0.5.0"
"""The version of AsyncAPI's binding for Kafka."""

_SYMBOL = "[A-Za-z0-9._-]{1,32}:[A-Za-z0-9._-]{1,64}"
_WINDOW = f"^{_SYMBOL}:[0-9]+[mhd]:[0-9TZ:-]+$"


class TopicShown(NamedTuple):
    """A topic, as the document describes it."""

    name: str
    summary: str
    key: str
    """The pattern of its keys."""
    kinds: tuple[type[Struct], ...]
    """What its records are."""
    by_producer: bool = False
    """Whether its records carry headers: the worker's have none."""
    is_cleared: bool = False
    """Whether a record without a value may come."""


TOPICS = (
    TopicShown(
        topics.TRADES,
        "Every trade, and the heartbeats that say there was none, by symbol in the order of arrival.",
        f"^{_SYMBOL}$", (Trade, Heartbeat), by_producer=True,
    ),
    TopicShown(
        topics.BOOKS,
        "Order books: begin at a snapshot or a keyframe, apply each delta, forget the book when it is lost.",
        f"^{_SYMBOL}$", (BookSnapshot, BookKeyframe, BookDelta, BookLost), by_producer=True,
    ),
    TopicShown(
        topics.CANDLES, "Each candle that closed, and each amendment: the highest revision counts.",
        _WINDOW, (CandleMessage,), is_cleared=True,
    ),
    TopicShown(
        topics.BOOK_STATS, "The book over each window that is over.", _WINDOW, (BookMessage,), is_cleared=True
    ),
    TopicShown(
        topics.GAPS, "Trades that are missing: when that is found, and when it is settled.",
        f"^{_SYMBOL}:[0-9]+$", (Gap,),
    ),
    TopicShown(
        topics.DEAD_LETTERS, "What could not be read; its key is where it came from.", "",
        (DeadLetter,), by_producer=True,
    ),
    TopicShown(
        topics.FEEDS, "What each producer says of itself: when that changes, and every 10 s.",
        "^[^:]+:.+$", (ProducerStatus,), by_producer=True,
    ),
)  # fmt: skip

REQUESTS: tuple[type[Struct], ...] = (ws.Subscribe, ws.Unsubscribe)
REPLIES: tuple[type[Struct], ...] = (ws.Subscriptions, ws.Wrong)


@page("/asyncapi.json", {JSON: dict[str, Any]})
async def asyncapi_json(request: Any, query: Any) -> Any:
    """What is pushed, and what the topics hold: AsyncAPI 3.0."""
    return Page(encoded(), cache_control="max-age=60")


@cache
def encoded() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """Return the whole document."""
    updates: tuple[type[Struct], ...] = (*REQUESTS, *REPLIES, ws.Message)
    pushed = (*updates, *stream.TOLD.values(), stream.StreamQuery)
    kinds = dict.fromkeys([*pushed, *(kind for topic in TOPICS for kind in topic.kinds)])
    _, schemas = components_of(list(kinds))
    of_ws = {_id(kind): _message(kind) for kind in updates}
    of_stream = {name: _event(name, kind) for name, kind in stream.TOLD.items()}
    asked = _reference(stream.StreamQuery)
    specs = {spec.name: spec for spec in topics.specs(app.settings)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Candlewick",
            "version": version("candlewick"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "servers": SERVERS,
        "channels": {
            "websocket": {
                "address": "/v1/ws",
                "summary": "Subscribe to candles, book statistics and tickers.",
                "servers": [{"$ref": "#/servers/websocket"}],
                "messages": of_ws,
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            },
            "stream": {
                "address": "/v1/stream",
                "summary": "The same as server-sent events; `Last-Event-ID` resumes.",
                "servers": [{"$ref": "#/servers/http"}],
                "messages": of_stream,
            },
            **{topic.name: _channel(topic, specs[topic.name]) for topic in TOPICS},
        },
        "operations": {
            "request": {
                **_operation("receive", "websocket", map(_id, REQUESTS)),
                "reply": _of("websocket", map(_id, REPLIES)),
            },
            "push": _operation("send", "websocket", [_id(ws.Message)]),
            "stream": {
                **_operation("send", "stream", of_stream),
                "bindings": {"http": {"method": "GET", "query": asked, "bindingVersion": "0.3.0"}},
            },
            **{topic.name: _operation("send", topic.name, _messages(topic)) for topic in TOPICS},
        },
        "components": {
            "schemas": {name: _as_draft_7(schema) for name, schema in schemas.items()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`CANDLEWICK_TOKEN`, where one is set.",
                }
            },
        },
    }  # fmt: skip


def _server(protocol: str, host: str, **more: Any) -> dict[str, Any]:
    variables = {"address": {"default": host, "description": "host and port"}}
    return {"host": "{address}", "protocol": protocol, "variables": variables, **more}


SERVERS = {
    "websocket": _server("ws", "127.0.0.1:6066", security=[{"$ref": "#/components/securitySchemes/token"}]),
    "http": _server("http", "127.0.0.1:6066", security=[{"$ref": "#/components/securitySchemes/token"}]),
    "kafka": _server("kafka", "127.0.0.1:9092"),
}


def _channel(topic: TopicShown, spec: Any) -> dict[str, Any]:
    policy = spec.config["cleanup.policy"].split(",")
    binding = {
        "topic": topic.name,
        "partitions": spec.partitions,
        "topicConfiguration": {"cleanup.policy": policy},
        "bindingVersion": KAFKA,
    }
    return {
        "address": topic.name,
        "summary": topic.summary,
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": _messages(topic),
        "bindings": {"kafka": binding},
    }


def _messages(topic: TopicShown) -> dict[str, Any]:
    key = {"type": "string", **({"pattern": topic.key} if topic.key else {})}
    bindings = {"kafka": {"key": key, "bindingVersion": KAFKA}}
    told = {
        _id(kind): {
            **_message(kind),
            **({"headers": _headers(kind)} if topic.by_producer else {}),
            "bindings": bindings,
        }
        for kind in topic.kinds
    }
    if topic.is_cleared:
        summary = "No value: the row is not kept any more."
        told["cleared"] = {
            "name": "cleared", "summary": summary, "payload": {"type": "null"}, "bindings": bindings
        }  # fmt: skip
    return told


def _headers(kind: type[Struct]) -> dict[str, Any]:
    # A dead letter may be of a worker, which writes no headers.
    names = ["schema", "received_at"]
    return {
        "type": "object",
        "properties": {
            "schema": {"type": "string", "const": SCHEMAS[kind].decode()},
            "received_at": {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": "our clock at its receipt, microseconds since 1970",
            },
        },
        **({} if kind is DeadLetter else {"required": names}),
    }


def _event(name: str, kind: type[Struct]) -> dict[str, Any]:
    """Return a server-sent event: the fields beside its data are its headers."""
    headers = {
        "type": "object",
        "required": ["event"],
        "properties": {
            "event": {"type": "string", "const": name},
            "id": {
                "type": "string",
                "pattern": "^[cb][0-9]+-(-1|[0-9]+)(,[cb][0-9]+-(-1|[0-9]+))*$",
                "description": "what the reader knows by now of the log, to be given back as Last-Event-ID;"
                " of several events to begin with the last one has it",
            },
        },
    }
    return {**_message(kind), "name": name, "headers": headers}


def _message(kind: type[Struct]) -> dict[str, Any]:
    summary = (kind.__doc__ or "").splitlines()[0].replace("``", "`")
    return {"name": _id(kind), "summary": summary, "payload": _reference(kind)}


def _operation(action: str, channel: str, messages: Iterable[str]) -> dict[str, Any]:
    return {"action": action, **_of(channel, messages)}


def _of(channel: str, messages: Iterable[str]) -> dict[str, Any]:
    place = f"#/channels/{channel}"
    return {
        "channel": {"$ref": place},
        "messages": [{"$ref": f"{place}/messages/{name}"} for name in messages],
    }


def _id(kind: type) -> str:
    return kind.__name__[0].lower() + kind.__name__[1:]


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def _as_draft_7(schema: Any) -> Any:
    """Return a schema of the draft 2020-12 as one of draft 7: a tuple is written otherwise there."""
    if isinstance(schema, list):
        return [_as_draft_7(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    told = {name: _as_draft_7(value) for name, value in schema.items()}
    if "prefixItems" in told:
        told["additionalItems"] = told.pop("items", True)
        told["items"] = told.pop("prefixItems")
    return told
