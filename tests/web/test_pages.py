"""The static files: what is served, what is not, and that what is vendored is what its source says."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hatchling.builders.wheel import WheelBuilder
from yarl import URL

from candlewick.web import pages
from candlewick.web.problems import plain_answers

ROOT = Path(__file__).parents[2]
VENDOR = pages.FOLDER / "vendor"
OURS = [path for path in pages.FOLDER.rglob("*") if path.is_file() and path.parent != VENDOR]


@pytest_asyncio.fixture
async def client() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application(middlewares=[plain_answers])
    pages.add(app.router)
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_has_a_strict_policy(client, path: str) -> None:
    answer = await client.get(path)
    assert answer.status == 200
    assert answer.content_type == "text/html"
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert (await client.head(path)).status == 200


@pytest.mark.parametrize("name", sorted(name for name in pages.FILES if not name.endswith(".html")))
async def test_every_file_is_served_packed_and_only_once(client, name: str) -> None:
    plain = await client.get(f"/static/{name}", headers={"Accept-Encoding": "identity"})
    body = await plain.read()
    assert body == (pages.FOLDER / name).read_bytes()
    assert plain.content_type == pages.TYPES[Path(name).suffix]
    packed = await client.get(f"/static/{name}", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(await packed.read()) == body
    again = await client.get(f"/static/{name}", headers={"If-None-Match": plain.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    assert ("immutable" in plain.headers["Cache-Control"]) == name.startswith("vendor/")


@pytest.mark.parametrize(
    "path",
    [
        "/static/", "/static/../pages.py", "/static/%2e%2e/pages.py", "/static/..%2fpages.py", "/static//etc/passwd",
        "/static/vendor/../../pages.py", "/static/vendor/SOURCES.md", "/static/vendor/", "/static/index.html",
        "/static/theme.js%00", "/static/THEME.JS", "/static/./theme.js/", "/static/" + "a" * 5000,
    ],
)  # fmt: skip
async def test_nothing_else_is_served(client, path: str) -> None:
    answer = await client.get(URL(path, encoded=True))
    assert answer.status == 404
    assert answer.content_type == "application/problem+json"


def test_vendored_files_are_those_of_their_source() -> None:
    told = dict(
        re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", (VENDOR / "SOURCES.md").read_text(), re.M)
    )
    there = {path.name for path in VENDOR.iterdir()} - {"SOURCES.md"}
    assert set(told) == there
    for name, digest in told.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


def test_the_policy_allows_the_one_style_of_the_chart_library() -> None:
    [script] = VENDOR.glob("lightweight-charts-*.mjs")
    text = script.read_text(encoding="utf-8")
    [style] = re.findall(r'innerText="(a#tv-attr-logo{.*?)"', text)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"sha256-{digest}" == pages.CHART_STYLE


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_name_no_other_host_and_have_no_code_inline(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    assert "innerHTML" not in text
    assert "insertAdjacentHTML" not in text
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_every_file_that_a_page_names_exists() -> None:
    named = {name for path in OURS for name in re.findall(r"/static/([\w./-]+\.\w+)", path.read_text())}
    imported = {
        (Path(path.parent.relative_to(pages.FOLDER)) / name).as_posix()
        for path in OURS
        for name in re.findall(r'from "\./([^"]+)"', path.read_text())
    }
    assert named
    assert named | imported <= set(pages.FILES)


def test_the_wheel_has_the_files(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for path in pages.FOLDER.rglob("*"):
        if path.is_file():
            assert path.relative_to(ROOT).as_posix() in held
