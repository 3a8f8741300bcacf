"""OpenAPI 3.1, made of the routes and the types that serve them; and a page to read it with.

A field's description is its docstring, so that the code and the document say the same.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from types import UnionType
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Struct

from candlewick.config import PRODUCT_ID
from candlewick.web.problems import ALWAYS, CONTENT_TYPE, STATUSES
from candlewick.web.routes import JSON, ROUTES, Moment, Page, Route, page
from models.answers import ProblemBody
from models.times import TIME
from models.window import BY_NAME

ABOUT = """\
Exact candles and order-book statistics. Numbers of the market are decimal strings, times RFC 3339 in UTC,
errors RFC 9457.
""".strip()
PARTS: dict[str, dict[str, Any]] = {
    "product_id": {"type": "string", "pattern": f"^{PRODUCT_ID.pattern[:-2]}$", "examples": ["BTC-USD"]},
    "window": {"type": "string", "enum": list(BY_NAME)},
}
"""The parts of paths."""
HEADERS: dict[int, tuple[str, dict[str, Any]]] = {
    401: ("WWW-Authenticate", {"type": "string"}),
    429: ("Retry-After", {"type": "integer", "minimum": 1}),
    503: ("Retry-After", {"type": "integer", "minimum": 1}),
}
"""By status, the header that goes with it."""
REFERENCE = "#/components/schemas/{name}"


@page("/openapi.json", {JSON: dict[str, Any]})
async def openapi_json(request: Any, query: Any) -> Any:
    """This document."""
    return Page(encoded(), cache_control="max-age=60")


@cache
def encoded() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """Return the whole document."""
    kinds = [kind for route in ROUTES for union in route.answers.values() for kind in _members(union)]
    schemas, components = components_of([*kinds, ProblemBody])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Candlewick",
            "version": version("candlewick"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {route.path: {"get": _operation(route, schemas)} for route in ROUTES},
        "components": {"schemas": components},
    }


def components_of(kinds: Sequence[Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of each type, and the components that these refer to, with all fields described."""
    told, components = msgspec.json.schema_components(kinds, schema_hook=_schema_of, ref_template=REFERENCE)
    for kind in _structs(Struct):
        if kind.__name__ in components:
            _describe_fields(kind, components[kind.__name__])
    return dict(zip(kinds, told, strict=True)), components


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    content = {
        media: {"schema": _any_of([schemas[kind] for kind in _members(union)])}
        for media, union in route.answers.items()
    }
    good = {"200": {"description": "what was asked for", "content": content}} if content else {}
    parts = re.findall(r"{(\w+)}", route.path)
    return {
        "operationId": route.view.__name__,
        "summary": (route.view.__doc__ or "").splitlines()[0],
        "parameters": [
            *({"name": part, "in": "path", "required": True, "schema": PARTS[part]} for part in parts),
            *_parameters(route.query),
        ],
        "responses": {
            **good,
            **{str(status): _response(status) for status in sorted({*ALWAYS, *route.also})},
        },
    }


def _response(status: int) -> dict[str, Any]:
    """Describe an answer that is not what was asked for."""
    told: dict[str, Any] = {"description": STATUSES[status]}
    if status >= 400:
        reference = REFERENCE.format(name=ProblemBody.__name__)
        told["content"] = {CONTENT_TYPE: {"schema": {"$ref": reference}}}
    if status in HEADERS:
        name, schema = HEADERS[status]
        told["headers"] = {name: {"required": True, "schema": schema}}
    return told


def _members(union: Any) -> tuple[Any, ...]:
    """Return the types of a union: msgspec makes no schema of one whose structs have no tags."""
    return get_args(union) if isinstance(union, UnionType) else (union,)


def _any_of(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _parameters(query: type[Struct]) -> list[dict[str, Any]]:
    docs = field_docs(query)
    told = []
    for field in msgspec.structs.fields(query):
        kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
        kind = kinds[0] if type(None) in get_args(field.type) else field.type
        [schema], _ = msgspec.json.schema_components([kind], schema_hook=_schema_of)
        if field.default not in (None, UNSET, msgspec.NODEFAULT):
            schema = {**schema, "default": field.default}
        parameter = {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
        if field.name in docs:
            parameter["description"] = docs[field.name]
        told.append(parameter)
    return told


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is not Moment:
        raise NotImplementedError(kind)
    return {
        "type": "string",
        "pattern": TIME,
        "description": "RFC 3339 with its offset, or seconds (below 10^11) or milliseconds since 1970",
        "examples": ["2026-11-01T00:00:00Z", "1793491200"],
    }


def _describe_fields(kind: type[Struct], schema: dict[str, Any]) -> None:
    docs = field_docs(kind)
    if "description" in schema:
        schema["description"] = _plain(schema["description"])
    for field in msgspec.structs.fields(kind):
        told = schema.get("properties", {}).get(field.encode_name)
        if told is not None and field.name in docs:
            told.setdefault("description", docs[field.name])


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a class, those of its bases included."""
    docs: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each in (Struct, object) or each.__module__.split(".")[0] not in OURS:
            continue
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                docs[field.target.id] = _plain(text.value.value)
    return docs


def _plain(text: object) -> str:
    """Write a docstring on one line, in the marks that readers of these documents know."""
    return " ".join(str(text).split()).replace("``", "`")


OURS = ("models", "candlewick")


def _structs(kind: type) -> list[type]:
    children: list[type] = kind.__subclasses__()
    return [*children, *(each for child in children for each in _structs(child))]
