"""JSON schemas as tables: a row for each field, with its type and what it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

REFERENCE = "#/components/schemas/"
NUMBER = "a decimal number"
ROUNDED = "a decimal number, to 12 significant digits"
TIME = "RFC 3339, UTC"
FAR = 10**15
"""A bound beyond it tells nobody anything."""

Schema = dict[str, Any]


def table(schema: Schema, linked: Iterable[str] = ()) -> str:
    """Return the table of an object's fields; types in ``linked`` have a heading to link to."""
    rows = ["| field | type | what it is |", "|---|---|---|"]
    required = schema.get("required", ())
    known = set(linked)
    for name, field in schema.get("properties", {}).items():
        words = (
            [] if name in required or "default" not in field else [f"default `{written(field['default'])}`"]
        )
        rows.append(f"| `{name}` | {kind_of(field, known)} | {about(field, words)} |")
    return "\n".join(rows)


def kind_of(schema: Schema, linked: set[str]) -> str:
    """Return the type that a schema stands for, in words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        return f"[{name}](#{name.lower()})" if name in linked else name
    if "anyOf" in schema:
        return " or ".join(kind_of(each, linked) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{written(each)}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{written(schema['const'])}`"
    kind = schema.get("type", "anything")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(kind_of(each, linked) for each in schema['prefixItems'])}]"
        items = schema.get("items")
        return f"list of {kind_of(items, linked)}" if isinstance(items, dict) and items else "list"
    if schema.get("description") in (NUMBER, ROUNDED) or schema.get("format") == "decimal":
        return "decimal string"
    if schema.get("format") == "date-time" or schema.get("description", "").startswith("RFC 3339"):
        return "time"
    return {"integer": "integer", "boolean": "true or false", "null": "null"}.get(kind, str(kind))


def about(schema: Schema, more: Iterable[str] = ()) -> str:
    """Return what a schema says of itself: description, bounds, pattern, examples."""
    told = schema.get("description", "")
    words = [] if told in (NUMBER, TIME) else [told]
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and high < FAR:
        words.append(f"{low or 0} to {high}")
    elif low:
        words.append(f"at least {low}")
    if "maxItems" in schema:
        words.append(f"at most {schema['maxItems']}")
    if "pattern" in schema and told not in (NUMBER, ROUNDED):
        words.append(f"matches `{schema['pattern']}`")
    if schema.get("examples") and told != NUMBER:
        words.append("such as " + ", ".join(f"`{written(each)}`" for each in schema["examples"]))
    return cell("; ".join(word.rstrip(".") for word in [*words, *more] if word))


def written(value: Any) -> str:
    """Return a value as it is written in JSON; a text without its quotes, so that it can be copied."""
    return value if isinstance(value, str) else json.dumps(value)


def cell(text: str) -> str:
    """Return text as it can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")
