"""The reference of HTTP, made of the OpenAPI document; and of push messages, made of their types."""

from __future__ import annotations

from typing import Any

from shapes import about, kind_of, table

from candlewick.web.api import openapi
from candlewick.web.push import stream, ws

GROUPS = {
    "Candles and books": ("/stats", "/v1/candles", "/v1/book", "/v1/ticker", "/v1/products", "/v1/gaps"),
    "Live": ("/v1/stream", "/v1/ws"),
    "Charts (UDF)": ("/udf",),
    "In Coinbase's shape": ("/products", "/currencies", "/time"),
    "The worker itself": ("",),
}
"""Headings, and how the paths below each begin; the first that fits."""

MESSAGES: dict[str, tuple[type, ...]] = {
    "Sent by the client": (ws.Subscribe, ws.Unsubscribe),
    "Sent by the server": (ws.Subscriptions, ws.Wrong, ws.Message, ws.Event),
    "What they carry": tuple(stream.TOLD.values()),
}


def paths() -> str:
    """Return every route: what it does, takes and answers."""
    document = openapi.document()
    components = document["components"]["schemas"]
    linked = {name for name, schema in components.items() if "properties" in schema}
    groups: dict[str, list[str]] = {name: [] for name in GROUPS}
    for path, methods in document["paths"].items():
        group = next(name for name, begins in GROUPS.items() if path.startswith(begins))
        groups[group] += [_route(method, path, operation, linked) for method, operation in methods.items()]
    return "\n\n".join(f"## {name}\n\n" + "\n\n".join(routes) for name, routes in groups.items() if routes)


def _route(method: str, path: str, operation: dict[str, Any], linked: set[str]) -> str:
    parts = [f"### `{method.upper()} {path}`", operation["summary"]]
    given = operation.get("parameters", [])
    if given:
        rows = ["| parameter | in | type | what it is |", "|---|---|---|---|"]
        for each in given:
            schema = each["schema"]
            words = ["required"] if each["required"] and each["in"] == "query" else []
            if "default" in schema:
                words.append(f"default `{_plain(schema['default'])}`")
            told = {**schema, "description": each.get("description") or schema.get("description", "")}
            rows.append(
                f"| `{each['name']}` | {each['in']} | {kind_of(schema, linked)} | {about(told, words)} |"
            )
        parts.append("\n".join(rows))
    for status, answer in operation["responses"].items():
        for media, content in answer.get("content", {}).items():
            if status.startswith("2"):
                parts.append(f"Answers `{status}`, `{media}`: {kind_of(content['schema'], linked)}.")
    return "\n\n".join(parts)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def schemas() -> str:
    """Return every type of an answer, with its fields."""
    components = openapi.document()["components"]["schemas"]
    return "\n\n".join(
        _type(name, schema, set(components))
        for name, schema in sorted(components.items())
        if "properties" in schema
    )


def _type(name: str, schema: dict[str, Any], linked: set[str]) -> str:
    said = schema.get("description", "").replace("``", "`")
    return f"### {name}\n\n{said}\n\n{table(schema, linked)}"


def push() -> str:
    """Return the messages of ``/v1/ws``, and the data of both ways of push."""
    parts = []
    names = {kind.__name__ for kinds in MESSAGES.values() for kind in kinds}
    for heading, kinds in MESSAGES.items():
        _, components = openapi.components_of(kinds)
        parts.append(f"## {heading}")
        parts += [_type(kind.__name__, components[kind.__name__], names) for kind in kinds]
    return "\n\n".join(parts)


def limits() -> str:
    """Return what a client may do, and how slow it may be."""
    rows = {
        "subscriptions of a connection": stream.MOST_TOPICS,
        "messages that a client sends, each second": ws.MOST_A_SECOND,
        "bytes of a message of the client": ws.MOST_BYTES,
        "messages that cannot be understood, then the WebSocket is closed with 1008": ws.MOST_WRONG,
        "seconds without a subscription, then it is closed with 1008": ws.IDLE_S,
        "messages that wait for a slow client, then it is closed with 1013": ws.MOST_WAITING,
        "bytes that wait for it beside its last snapshot, then the same": ws.MOST_BEHIND,
        "bytes that wait for a slow stream beside its snapshot, then it is cut off": stream.MOST_BEHIND,
        "streams of a worker": stream.MOST_STREAMS,
        "WebSockets of a worker": ws.MOST_SOCKETS,
    }
    return "\n".join(
        ["| at most | |", "|---|---:|", *(f"| {name} | {most:,.0f} |" for name, most in rows.items())]
    )
