"""Everything behind the page as processes, and a watch on what the page does."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from playwright.sync_api import ConsoleMessage, Page, Request
from rig import Command, Worker, get, send

from candlewick import topics
from models.producer_status import ProducerStatus
from models.trade import Trade

MINUTE_US = 60_000_000
LIVE = ("BTC-USD", "ETH-USD")
"""Of the simulated market; what else the tests need they write into the log themselves."""


class System:
    """Everything behind the page."""

    def __init__(self, kafka: str, exchange: str, folder: Path) -> None:
        self.kafka, self.exchange, self.folder = kafka, exchange, folder
        self.commands: list[Command] = []
        self.workers: list[Worker] = []

    def run(self, *args: str, **env: str) -> Command:
        command = Command(self.folder / f"{len(self.commands)}-{args[0]}.log", args, env)
        self.commands.append(command)
        return command

    def worker(self, name: str, **env: str) -> Worker:
        self.workers.append(Worker(self.run, self.kafka, self.folder / name, name, **env))
        return self.workers[-1]

    @property
    def base(self) -> str:
        """Where the first worker answers."""
        return self.workers[0].base

    def faults(self, **changes: float) -> None:
        """Change the faults of the mock exchange."""
        request = urllib.request.Request(
            f"http://{self.exchange}/mock/faults",
            data=json.dumps(changes).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def send(self, trades: list[Trade]) -> None:
        """Write trades into the log."""
        _elsewhere(send(self.kafka, trades))

    def follow(self, product_id: str) -> None:
        """Let a producer say that it follows a product, of which nothing has come yet."""
        told = ProducerStatus(
            exchange="coinbase", producer=product_id, state="connected", products=(product_id,), connections=1,
            connected_connections=1, reconnects=0, frames=0, refused_frames=0, dead_letters=0, unacked=0,
            error=None, updated_us=time.time_ns() // 1000,
        )  # fmt: skip

        async def write() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.kafka) as producer:
                key = f"coinbase:{product_id}".encode()
                await producer.send_and_wait(topics.FEEDS, msgspec.json.encode(told), key)

        _elsewhere(write())

    def rows(self, product_id: str, query: str) -> list[dict[str, Any]]:
        """Ask for candles."""
        status, body = get(f"{self.base}/v1/candles/{product_id}?{query}")
        assert status == 200, body
        found: list[dict[str, Any]] = body["candles"]
        return found


def _elsewhere(coroutine: Any) -> Any:
    """Run a coroutine in a thread: Playwright's own event loop is running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class Watch:
    """What a page did that it should not do."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.allowed = ""
        """A pattern of the errors that a test provokes."""
        self._errors: list[str] = []
        self._foreign: list[str] = []
        page.on("console", self._hear)
        page.on(
            "pageerror", lambda error: self._errors.append(f"{error.name}: {error.message} {error.stack}")
        )
        page.on("request", self._asked)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.base + "/", "data:", "blob:")):
            self._foreign.append(request.url)

    def check(self) -> None:
        """Fail where there was an error that was not provoked, or a request to another host."""
        wrong = [text for text in self._errors if not (self.allowed and re.search(self.allowed, text))]
        assert not wrong, wrong
        assert not self._foreign, self._foreign
