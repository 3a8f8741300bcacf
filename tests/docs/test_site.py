"""The built site: complete, whole in its links, and with nothing of another host."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
from docs.reader import ROOT

from candlewick import config, topics
from candlewick.cli import main

LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("link", "href"),
    ("use", "href"),
}
"""What a browser fetches by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: strictly, so that each link that leads nowhere fails."""
    folder = tmp_path_factory.mktemp("site")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def words_of(page: Path) -> str:
    """Return a page's text, without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


class Resources(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev"):
            return
        self.found += [value for name, value in attrs if (tag, name) in LOADED and value]


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.found
        assert not [each for each in resources.found if re.match(r"(https?:)?//", each)], page.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(
            r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", sheet.read_text(encoding="utf-8")
        )


def test_nothing_is_said_of_the_machine_that_built_it(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert str(Path.home()) + "/" not in text or str(Path.home()) == "/"


def test_every_setting_is_in_the_reference(site: Path) -> None:
    text = words_of(site / "reference" / "settings.html")
    for name in config.Settings.model_fields:
        assert config.env_name(name) in text


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = words_of(site / "reference" / "commands.html")
    for name, command in main.commands.items():
        assert f"candlewick {name}" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in text


def test_every_topic_is_in_the_reference(site: Path) -> None:
    text = words_of(site / "reference" / "topics.html")
    for spec in topics.specs(config.Settings()):
        assert spec.name in text


WORKER = """
import importlib, json
from candlewick import app
for module in app.AUTODISCOVER:
    importlib.import_module(module)
from candlewick.web import families, routes
print(json.dumps({
    "routes": [route.path for route in routes.ROUTES],
    "metrics": [family.name for family in families.ALL],
}))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Routes and metrics, as a worker declares them."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEWICK_")}
    environ |= {"CANDLEWICK_BROKER": "127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WORKER], env=environ, cwd=tmp_path_factory.mktemp("worker"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    declared: dict[str, list[str]] = json.loads(done.stdout)
    return declared


def test_every_route_is_in_the_reference(site: Path, worker: dict[str, list[str]]) -> None:
    text = words_of(site / "reference" / "http.html")
    assert len(worker["routes"]) > 25
    for path in worker["routes"]:
        assert f"GET {path}" in text


def test_every_metric_is_in_the_reference(site: Path, worker: dict[str, list[str]]) -> None:
    text = words_of(site / "reference" / "metrics.html")
    assert len(worker["metrics"]) > 20
    for name in worker["metrics"]:
        assert name in text


def test_limits_are_written_whole(site: Path) -> None:
    assert "1,048,576" in words_of(site / "reference" / "push.html")


def test_the_reference_has_every_problem_and_no_other(site: Path) -> None:
    text = words_of(site / "reference" / "errors.html")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "candlewick" / "web").rglob("*.py"))
    kinds = set(re.findall(r"Problem\(\s*(?:[\w.]+),\s*\"([a-z0-9-]+)\"", source))
    assert len(kinds) > 10
    assert set(re.findall(r"/problems/([a-z0-9-]+)", text)) == kinds
