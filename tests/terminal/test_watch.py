"""What `watch` prints of the streams that it follows, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import pytest
from answers import candle, candle_event, snapshot_event
from click.testing import CliRunner

from candlewick.cli import main
from candlewick.terminal import watch
from candlewick.terminal.client import Stranger, Where
from candlewick.terminal.events import Event
from candlewick.terminal.follow import Joined, Lost
from candlewick.terminal.watch import Asked, Json, Lines, Output
from candlewick.terminal.watched import Watched

FIRST = snapshot_event([candle(0, state="open")])


class Patient(Lines):
    """Lines, whose reader never goes."""

    async def run(self, session: aiohttp.ClientSession) -> None:
        await asyncio.Event().wait()


class PatientJson(Json, Patient):
    """The same of JSON."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(output: Output, most: int | None, *told: list[Event | Joined | Lost]) -> None:
        """Watch a product for each list of what its stream tells, all of them at once."""
        streams = iter(told)

        async def follow(*_: Any) -> AsyncGenerator[Event | Joined | Lost]:
            for event in next(streams):
                yield event
            await asyncio.Event().wait()

        monkeypatch.setattr(watch, "follow", follow)
        names = [f"P{number}-USD" for number in range(len(told))]
        products = [Watched("coinbase", name, "1m") for name in names]
        asked = Asked(names, "1m", "coinbase", False, most, None)
        watching = watch._watch(Where("http://a", {}), products, output, asked)
        asyncio.run(asyncio.wait_for(watching, 20))

    return run


def test_it_ends_after_so_many_lines_whoever_tells_them(
    watched: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    told = [FIRST, candle_event(candle(0)), candle_event(candle(1))]
    watched(Patient(), 1, told, told)
    assert capsys.readouterr().out.count("\n") == 1
    watched(Patient(), 3, told, told)
    assert capsys.readouterr().out.count("\n") == 3
    watched(PatientJson(), 4, told, told)
    assert capsys.readouterr().out.count("\n") == 4


def test_it_ends_after_so_many_lines_where_one_event_brings_more(
    watched: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    watched(Patient(), 2, [FIRST, snapshot_event([candle(minute) for minute in range(5)])])
    starts = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert starts == [candle(0).start, candle(1).start]


def test_a_lost_stream_is_told_on_standard_error(
    watched: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    watched(Patient(), 1, [Joined(), FIRST, Lost("it went", 2), Joined(), candle_event(candle(0))])
    assert capsys.readouterr().err.splitlines() == [
        "candlewick: P0-USD: it went: trying again in 2 s",
        "candlewick: P0-USD: connected again",
    ]


@pytest.mark.parametrize("data", [b"no JSON", b'{"window":"1m"}'])
def test_a_stream_that_says_something_else_is_no_workers(watched: Callable[..., None], data: bytes) -> None:
    with pytest.raises(Stranger, match=r"what answers at http://a is no worker \(its stream has "):
        watched(Patient(), None, [Event("candle", "1-1", data)])


@pytest.mark.parametrize("products", [",", " , ", "A-USD," + ",".join(f"B{n}-USD" for n in range(50))])
def test_none_or_too_many_products_are_refused(products: str) -> None:
    done = CliRunner().invoke(main, ["watch", products])
    assert done.exit_code == 2
    assert "of them', but must be 1 to 50\n" in done.stderr
