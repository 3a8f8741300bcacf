"""The document of what is pushed: AsyncAPI's own schema takes it, and it names what the code has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from candlewick import config, topics

ROOT = Path(__file__).parents[1]
OFFICIAL = Path(__file__).parent / "golden" / "asyncapi" / "3.0.0.json"

PROGRAM = """
import sys
from candlewick.web.api import asyncapi
sys.stdout.buffer.write(asyncapi.encoded())
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document as a worker serves it, made by a process of its own: the app is built at its import."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEWICK_")}
    folder = tmp_path_factory.mktemp("asyncapi")
    env = {
        **clean,
        "CANDLEWICK_BROKER": "127.0.0.1:1",
        "CANDLEWICK_DATA_DIR": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, cwd=folder, capture_output=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_valid_by_asyncapis_own_schema(document: dict[str, Any]) -> None:
    official = json.loads(OFFICIAL.read_text(encoding="utf-8"))
    errors = sorted(
        jsonschema.Draft7Validator(official).iter_errors(document), key=lambda error: error.json_path
    )
    assert not errors, "\n".join(f"{error.json_path}: {error.message[:300]}" for error in errors[:10])


def test_the_schema_refuses_what_is_wrong(document: dict[str, Any]) -> None:
    official = jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text(encoding="utf-8")))
    assert not official.is_valid({**document, "asyncapi": "2.6.0"})
    assert not official.is_valid({**document, "operations": {"push": {"action": "shout"}}})
    assert not official.is_valid({**document, "chanels": {}})


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in place, reference
            place = place[part]


def test_schemas_are_of_draft_7(document: dict[str, Any]) -> None:
    assert "prefixItems" not in json.dumps(document)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)


def test_every_topic_that_others_may_read_is_described(document: dict[str, Any]) -> None:
    settings = config.Settings()
    ours = {spec.name for spec in topics.specs(settings) if not spec.name.endswith("-changelog")}
    told = {
        name
        for name, channel in document["channels"].items()
        if channel["servers"] == [{"$ref": "#/servers/kafka"}]
    }
    assert told == ours
    for name in told:
        channel = document["channels"][name]
        assert channel["bindings"]["kafka"]["partitions"] in (1, settings.partitions)
        assert channel["messages"], name
        assert all(message["summary"] for message in channel["messages"].values())


def test_every_message_of_a_channel_is_in_an_operation(document: dict[str, Any]) -> None:
    used = set(references(document["operations"]))
    for name, channel in document["channels"].items():
        for message in channel["messages"]:
            assert f"#/channels/{name}/messages/{message}" in used


def test_descriptions_are_plain_text(document: dict[str, Any]) -> None:
    assert not re.search(r"``", json.dumps(document))
