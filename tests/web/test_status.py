"""The status of all workers, where another one does not tell its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from answers import product, status, worker
from yarl import URL

from candlewick.web.problems import Problem

OTHER = URL("http://127.0.0.2:6066")


@pytest.fixture
def views(of_app: Callable[[str], Any]) -> Any:
    """The module under test."""
    return of_app("candlewick.web.api.status")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ((401, b"{}"), "it answered 401"),
        ((200, b'{"workers":[]}'), "Object missing required field `feeds`"),
        ((200, b"\xff"), "JSON is malformed: invalid character (byte 0)"),
        (Problem(503, "worker-unreachable", "Away", "it did not answer"), "503 Away: it did not answer"),
    ],
)
async def test_a_worker_that_does_not_tell_its_part_is_told_of(
    views: Any, monkeypatch: pytest.MonkeyPatch, said: Any, error: str
) -> None:
    answer = status(products=[product("ETH-USD")])
    await add(views, monkeypatch, answer, said)
    assert answer.workers == [
        worker(),
        worker(url=str(OTHER), ready=False, lag_records=None, lag=None, error=error),
    ]
    assert [each.product_id for each in answer.products] == ["ETH-USD"]


async def test_parts_become_one_in_the_order_of_products(views: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = status(products=[product("ETH-USD")])
    theirs = status(workers=[worker(url=str(OTHER))], products=[product("BTC-USD")])
    await add(views, monkeypatch, answer, (200, msgspec.json.encode(theirs)))
    assert [each.product_id for each in answer.products] == ["BTC-USD", "ETH-USD"]
    assert [each.url for each in answer.workers] == [worker().url, str(OTHER)]
    assert len(answer.feeds) == 1  # every worker knows all


async def add(views: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, said: Any) -> None:
    async def ask(url: URL, path: str) -> Any:
        assert (url, path) == (OTHER, "/v1/status?local=true")
        if isinstance(said, Problem):
            raise said
        return views.peers.Answer(*said, "application/json", {})

    monkeypatch.setattr(views.peers, "ask", ask)
    monkeypatch.setattr(views.peers, "others", lambda: {OTHER})
    await views.add_others(answer)
