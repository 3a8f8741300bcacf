"""Every command that the documentation shows is run, as a reader would, beside one market that all pages share.

How a page says what is run is in `fences`. What is not run is listed here by name, so that none is unseen.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.fences import OTHER_SHELLS, PROGRAMS, Step, fences, steps
from docs.reader import ROOT, Places, Reader, Running, until
from rig import get

MARKET = "make up"
"""How the tutorial begins, and what all pages run beside."""

NOT_RUN: dict[str, tuple[str, ...]] = {
    "README.md": (
        "make test",
        ".venv/bin/candlewick up --feed live --products BTC-USD,ETH-USD --data-dir live-data",
        'echo "CANDLEWICK_TOKEN=$(openssl rand -hex 24)" > .env',
        "candlewick watch BTC-USD",
        "candlewick watch BTC-USD --count 2 | cat",
        "candlewick candles BTC-USD --limit 4",
        "candlewick candles BTC-USD --window 5m --start 2026-11-22T01:35:00Z --output btc.parquet",
        """python -c "import pyarrow.parquet as p; print(p.read_table('btc.parquet')['close'][:2].to_pylist())\"""",
        "candlewick status",
        "candlewick gaps --state open",
        "candlewick doctor                  # where nothing runs",
    ),
    "docs/how-to/ccxt.md": ("python -m venv with-ccxt",),
    "docs/how-to/docker.md": (
        'echo "CANDLEWICK_TOKEN=$(openssl rand -hex 24)" > .env',
        "CANDLEWICK_FEED=live CANDLEWICK_PRODUCTS=BTC-USD,ETH-USD docker compose up --build --wait",
        "docker compose exec kafka /opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:9092 --list",
    ),
    "docs/how-to/follow-the-exchange.md": (
        "candlewick up --feed live --products BTC-USD,ETH-USD --data-dir live-data",
    ),
    "docs/how-to/kafka.md": (
        "export CANDLEWICK_BROKER=kafka-1.internal:9092,kafka-2.internal:9092",
        "export CANDLEWICK_KAFKA_SECURITY=sasl_ssl CANDLEWICK_KAFKA_CA=ca.pem",
    ),
    "docs/how-to/measure.md": ("make faults ARGS='--quick'",),
    "docs/how-to/replay.md": ("candlewick record --feed live --products BTC-USD,ETH-USD recordings",),
    "docs/how-to/upgrade.md": ("git pull",),
    "docs/tutorial.md": ("git clone REPOSITORY candlewick",),
    "docs/security.md": ("candlewick up --host 0.0.0.0",),
}
"""By page, the first line of each step that needs what is not here; the page says what."""


CLIENTS = "with-ccxt/bin/"
"""An environment that a page makes; here it is that of the tests of clients."""


def pages() -> list[str]:
    """Return the pages whose commands are run, by their path in the repository."""
    written = (ROOT / "docs").rglob("*.md")
    found = sorted(path.relative_to(ROOT).as_posix() for path in written)
    return ["README.md", *(path for path in found if steps(text_of(path)))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def as_parameter(page: str) -> object:
    text = text_of(page)
    marks = [pytest.mark.broker, pytest.mark.timeout(600)]
    if "<!-- slow -->" in text:
        marks.append(pytest.mark.slow)
    if any(fence.language == "javascript" for fence in fences(text)):
        marks.append(
            pytest.mark.skipif(not shutil.which("node"), reason=f"{page} has JavaScript: no node here")
        )
    return pytest.param(page, marks=marks)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def market(places: Places) -> Iterator[Running]:
    """The market of the tutorial, with some minutes behind it; it must end well."""
    folder = places.clone("market")
    running = Running(MARKET, folder, places.env, places.folder / "market.log")
    try:
        running.shows("…ready http://")
        asked = f"{places.base}/v1/candles/BTC-USD?window=5m&limit=1"
        until(lambda: get(asked)[0] == 200, running.said)
        until(lambda: get(f"{places.base}/stats/1m/BTC-USD?closed=true")[0] == 200, running.said)
        yield running
        running.end()
    finally:
        running.kill()


@pytest.mark.parametrize("page", [as_parameter(page) for page in pages()])
def test_a_page_does_what_it_says(page: str, places: Places, market: Running) -> None:
    if CLIENTS in text_of(page) and not (ROOT / "build" / "clients").is_dir():
        pytest.skip(f"{page} needs ccxt in build/clients: the tests of clients make it")
    reader = Reader(places, page.removesuffix(".md").replace("/", "-"), market)
    try:
        for step in steps(text_of(page)):
            reader.take(step)
    finally:
        reader.close()
    until(lambda: get(f"{places.base}/readyz")[0] == 200, lambda: f"the market is not well after {page}")


def is_run(step: Step) -> bool:
    return step.kind in ("run", "stay", "python")


def test_what_is_not_run_is_listed_here() -> None:
    found = {
        page: tuple(step.text.splitlines()[0] for step in steps(text_of(page)) if step.kind == "skip")
        for page in pages()
    }
    assert {page: lines for page, lines in found.items() if lines} == NOT_RUN


@pytest.mark.parametrize("page", pages())
def test_a_page_that_shows_commands_has_some_that_are_run(page: str) -> None:
    taken = steps(text_of(page))
    assert any(map(is_run, taken)) or not taken, f"{page} shows commands, and none of them is run"


@pytest.mark.parametrize("page", pages())
def test_a_program_that_is_saved_is_run_later(page: str) -> None:
    taken = steps(text_of(page))
    for number, step in enumerate(taken):
        if step.kind == "save" and Path(step.title).suffix in (".py", ".mjs"):
            later = [each.text for each in taken[number:] if is_run(each)]
            assert any(step.title in text for text in later), f"{page}, line {step.line}: {step.title}"


PROGRAMS_SHOWN = re.compile(r"^(?:\$ )?(make|curl|candlewick|\.venv/bin/\w+|docker|python3?) ", re.MULTILINE)


def test_commands_are_in_fences_that_are_read() -> None:
    for page in ["README.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]:
        for fence in fences(text_of(page)):
            where = f"{page}, line {fence.line}"
            assert fence.language not in OTHER_SHELLS, f"{where}: write bash"
            is_read = fence.language in {"bash", *PROGRAMS} or fence.text.startswith("$ ")
            shown = PROGRAMS_SHOWN.search(fence.text)
            assert is_read or not shown, f"{where}: a command that no test runs: write bash"
