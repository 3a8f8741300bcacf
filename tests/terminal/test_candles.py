"""What `candles` asks for, and where it puts it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from candlewick.terminal.candles import Asked, opened
from models.errors import ConfigError


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("the old one")
    with pytest.raises(RuntimeError), opened(path) as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert [each.read_text() for each in tmp_path.iterdir()] == ["the old one"]
    with opened(path) as file:
        file.write(b"all")
        assert path.read_text() == "the old one"
    assert [each.read_text() for each in tmp_path.iterdir()] == ["all"]
    with (
        pytest.raises(ConfigError, match=r"--output is .* a file that can be written"),
        opened(tmp_path / "no" / "x"),
    ):
        pass


def test_a_pipe_is_written_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with opened(pipe) as file:
        file.write(b"all")
    assert os.read(reader, 10) == b"all"
    os.close(reader)
    assert [each.is_fifo() for each in tmp_path.iterdir()] == [True]
    with (
        pytest.raises(ConfigError, match=r"--output is .* a file that can be written \(Is a directory\)"),
        opened(tmp_path),
    ):
        pass


def asked(**fields: object) -> Asked:
    told = {
        "product_id": "BTC-USD", "exchange": "coinbase", "window": "1m", "start": None, "end": None, "limit": None,
        "order": "asc", "fill": "none",
    }  # fmt: skip
    return Asked(**{**told, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 300),
        ({"limit": 7}, 7),
        ({"start": "1"}, None),
        ({"end": "1"}, None),
        ({"end": "1", "limit": 9000}, 9000),
    ],
)
def test_all_of_a_span_is_fetched_and_300_where_nothing_is_said(
    fields: dict[str, object], most: int | None
) -> None:
    assert asked(**fields).most == most


def test_the_address_holds_what_was_asked_for() -> None:
    target = asked(product_id="A/B", start="2026-11-01T00:00:00+01:00").target(50)
    assert target == (
        "/v1/candles/A%2FB?window=1m&start=2026-11-01T00:00:00%2B01:00&limit=50&order=asc&fill=none&exchange=coinbase"
    )
