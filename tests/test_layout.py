"""The drawing of ARCHITECTURE.md, held against the code: who imports whom, and what is where."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from candlewick.config import Settings, env_name
from producers.exchanges import names as exchange_names

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "producers", "tables", "agents", "candlewick")

CORE = tuple(f"candlewick.{name}" for name in ("app", "config", "topics", "transport", "checkpoint"))
LOCAL = tuple(f"candlewick.{name}" for name in ("kafka", "datadir", "guard"))
DECLARED = tuple(f"candlewick.{name}" for name in ("app", "config", "topics"))
ROOMS: dict[str, tuple[str, ...]] = {
    # What a module may import beside its own room. The longest name that fits is a module's room.
    "models": (),
    "producers": ("models",),
    "candlewick.mock": ("models", "producers.recording"),
    **dict.fromkeys(LOCAL, ("models", "candlewick.config", *LOCAL)),
    **dict.fromkeys(CORE, ("models", "producers.topic", *LOCAL, *CORE)),
    "tables": ("models", *DECLARED),
    "agents": ("models", "tables", "candlewick.transport", *DECLARED),
    "candlewick.web": ("models", "tables", "agents", *CORE),
    # What looks at a running system asks its web views, and must be there at once: no Faust.
    "candlewick.terminal": (
        "models",
        "producers.topic",
        "candlewick.config",
        "candlewick.screen",
        "candlewick.stopping",
        "candlewick.topics",
        *LOCAL,
    ),
    # The front room: commands. The worker is a process of its own, so they import none of its parts.
    "candlewick": ("models", "producers", "candlewick.mock", "candlewick.terminal", *LOCAL, *CORE),
}

OPENS_A_WEBSOCKET = {"producers.feed"}
WRITES_TO_KAFKA = {"producers.sink", "candlewick.checkpoint"}
ASKS_OVER_HTTP = {
    *(
        "candlewick.app",
        "candlewick.up",
        "candlewick.web.peers",
        "candlewick.web.push.relay",
        "producers.rest",
    ),
    *(f"candlewick.terminal.{name}" for name in ("client", "follow", "live", "watch")),
}
"""Our own web views, and the one that asks an exchange."""

RUNTIME = {"asyncio", "faust", "aiokafka", "aiohttp", "websockets", "socket", "threading"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base", "core", "legacy"}


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in files()}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> set[str]:
    """Return the full names of the modules that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return found


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str:
    return max((room for room in ROOMS if is_in(module, room)), key=len)


def names_in(module: str) -> set[str]:
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute | ast.Name)
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    room = room_of(module)
    allowed = {room, *ROOMS[room]}
    for imported in imports_of(module):
        if imported.split(".")[0] in PACKAGES:
            # `producers.topic` may be allowed where the rest of `producers` is not.
            fits = room_of(imported) in allowed or any(is_in(imported, name) for name in ROOMS[room])
            assert fits, f"{module} imports {imported}; {room} may import only: {', '.join(ROOMS[room])}"


def test_every_room_has_something_in_it() -> None:
    assert {room_of(module) for module in MODULES} == set(ROOMS)


def test_the_values_know_nothing_of_the_runtime() -> None:
    for module in MODULES:
        if is_in(module, "models") or is_in(module, "producers.exchanges") or module == "producers.codec":
            outside = {name.split(".")[0] for name in imports_of(module)}
            assert not outside & RUNTIME, module


def test_only_the_feed_opens_a_websocket() -> None:
    found = {module for module in MODULES if any(is_in(name, "websockets") for name in imports_of(module))}
    assert found == OPENS_A_WEBSOCKET


def test_only_our_own_web_views_and_missing_trades_are_asked_for_over_http() -> None:
    asking = {"ClientSession", "HTTPConnection", "http_client", "urlopen"}
    assert {module for module in MODULES if names_in(module) & asking} == ASKS_OVER_HTTP


def test_only_sink_and_checkpoint_write_to_kafka() -> None:
    writing = {"AIOKafkaProducer", "send_batch", "send_soon", "send_changelog", "send_and_wait"}
    assert {module for module in MODULES if names_in(module) & writing} == WRITES_TO_KAFKA


def test_modules_are_named_for_what_they_hold() -> None:
    assert not [module for module in MODULES if VAGUE & set(module.split(".")[-1].split("_"))]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_ours_and_not_another_distributions(name: str) -> None:
    # PyTables installs `tables`, others `agents` or `models`: in an editable install theirs would win.
    assert Path(str(importlib.import_module(name).__file__)).parent == ROOT / name


def test_the_wheel_holds_every_package_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(listed) == set(PACKAGES) == there - {"bench", "faults", "tests"}
    assert set(project["tool"]["mypy"]["packages"]) == set(PACKAGES)


@pytest.mark.parametrize("exchange", exchange_names())
def test_every_exchange_has_a_golden_folder(exchange: str) -> None:
    assert (ROOT / "tests" / "golden" / exchange / "SOURCE.md").is_file()


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_readme_names_every_setting() -> None:
    readme = ROOT / "README.md"
    assert readme.is_file(), "there is no README.md"
    text = readme.read_text(encoding="utf-8")
    missing = [env_name(name) for name in Settings.model_fields if f"`{env_name(name)}`" not in text]
    assert not missing, f"README.md does not name {', '.join(missing)}"


def test_the_architecture_is_one_page_that_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    for room in ROOMS:
        assert room.removeprefix("candlewick.") in text, f"ARCHITECTURE.md does not name {room}"


def test_decisions_are_numbered_and_each_says_when_to_look_again() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert decisions
    assert [int(path.name[:3]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text(encoding="utf-8")
        for part in ("**Question**", "**Choice**", "**Rejected**", "**Look again**"):
            assert part in text, f"{path.name} has no {part}"


WORKER = """
import importlib, json
from candlewick import app as worker
for module in worker.AUTODISCOVER:
    importlib.import_module(module)
worker.app.web.init_server()
served = [resource.canonical for resource in worker.app.web.web_app.router.resources()]
found = {"agents": worker.app.agents, "tables": worker.app.tables, "served": served}
print(json.dumps({name: sorted(names) for name, names in found.items()}))
"""


def test_the_worker_registers_these_agents_views_and_tables() -> None:
    # Faust only logs a module that it cannot import, and would go on without its agents or views.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEWICK_")}
    environ |= {"CANDLEWICK_BROKER": "127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", WORKER]
    done = subprocess.run(
        program, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    worker = json.loads(done.stdout)
    assert worker["agents"] == ["books", "candles"]
    assert worker["tables"] == ["book-stats", "candles"]
    assert {"/healthz", "/readyz", "/stats/{window}/{product_id}", "/v1/status"} <= set(worker["served"])
    # Faust's own views of tables and routes would hand out every row and every worker's address.
    faust_own = ("/table", "/router", "/graph", "/assignment", "/performance")
    assert not [path for path in worker["served"] if path.startswith(faust_own)]
