"""A real Chromium in front of the real thing: broker, mock exchange, producer, worker, as processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from browser.system import LIVE, System, Watch
from playwright.sync_api import Browser, Page, expect, sync_playwright
from rig import Command, get, until

from bench import browser as browser_bench

PATIENCE_MS = 60_000

expect.set_options(timeout=PATIENCE_MS / 2)

Open = Callable[..., tuple[Page, Watch]]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Give the path of a Chromium; without one the tests are skipped, and say what installs it."""
    found = browser_bench.chromium()
    if found is None:
        pytest.skip(str(browser_bench.NoBrowser()))
    return found


@pytest.fixture(scope="session")
def system(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Start all of it, once."""
    folder = tmp_path_factory.mktemp("system")
    with ExitStack() as stack:
        system = System("", "", folder)
        stack.callback(_end, system.commands)
        broker = system.run("broker", "--data-dir", str(folder / "kafka"))
        exchange = system.run(
            "mock-exchange", "--products", ",".join(LIVE), "--data-dir", str(folder / "exchange")
        )
        url = exchange.line("mock exchange at ")
        system.exchange = url.removeprefix("ws://")
        system.kafka = broker.line("127.0.0.1:").join(["127.0.0.1:", ""])
        worker = system.worker("first")
        system.run(
            "produce", "--feed", url, "--products", ",".join(LIVE), "--broker", system.kafka,
            "--data-dir", str(folder / "producer"),
        )  # fmt: skip
        until(lambda: get(f"{worker.base}/readyz")[0] == 200, lambda: worker.command.said()[-3000:])
        yield system


def _end(commands: list[Command]) -> None:
    for command in reversed(commands):
        if command.process.poll() is None:
            command.end()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Give a headless Chromium. Not for longer than a module: its event loop stands in the way of others'."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Give a function that opens a page, in a profile of its own; after the test its errors are looked at.

    ``base``: whose page; without one, that of `system`.
    """
    with ExitStack() as stack:
        watches: list[Watch] = []

        def start(path: str = "/", base: str = "", **options: Any) -> tuple[Page, Watch]:
            base = base or request.getfixturevalue("system").base
            options = {"viewport": {"width": 1440, "height": 900}, **options}
            page = stack.enter_context(_profile(browser, options))
            watches.append(Watch(page, base))
            page.goto(base + path)
            return page, watches[-1]

        yield start
        for watch in watches:
            watch.check()


@contextmanager
def _profile(browser: Browser, options: dict[str, Any]) -> Iterator[Page]:
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context.new_page()
    finally:
        context.close()
