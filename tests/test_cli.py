"""What a user can get wrong before anything starts: one line, exit code 1, no traceback."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from candlewick.cli import log_to_stderr, main

MATCH = {
    "type": "match", "trade_id": 10, "maker_order_id": "a", "taker_order_id": "b", "side": "sell", "size": "1",
    "price": "2", "product_id": "BTC-USD", "sequence": 50, "time": "2021-04-17T16:43:37.000001Z",
}  # fmt: skip


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CANDLEWICK_BROKER", "CANDLEWICK_DATA_DIR", "CANDLEWICK_FEED"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*args: str) -> str:
        result = CliRunner().invoke(main, list(args))
        assert result.exit_code == 1, result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("candlewick: ")
        return lines[0].removeprefix("candlewick: ")

    return refuse


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("up", "--products", "FOO"), "--products is 'FOO', but must be product ids with commas"),
        (("up", "--port", "x"), "--port is 'x', but must be 1 to 65535"),
        (("up", "--speed", "-1"), "--speed is '-1', but must be 0 to 10000"),
        (("up", "--feed", "nofile"), "feed is 'nofile', but must be mock, live, "),
        (("up", "--exchange", "nowhere"), "exchange is 'nowhere', but must be "),
        (("up", "--broker", "nowhere"), "--broker is 'nowhere', but must be host:port"),
        (("worker",), "no broker runs on candlewick-data: start `candlewick up`"),
        (("replay", "nofile"), "feed is 'nofile', but must be mock, live, "),
        (("produce",), "feed is 'mock', but must be live, or the address of a mock exchange"),
        (("mock-exchange", "--feed", "live"), "feed is 'live', but must be mock, or the file of a recording"),
        (("record",), "record_dir is '', but must be a folder"),
        (("kafka", "topics"), "no broker runs on candlewick-data"),
    ],
)
def test_a_wrong_word_is_one_line_that_names_it(refused, args: tuple[str, ...], says: str):
    assert refused(*args).startswith(says)


def test_an_unknown_tool_of_kafka_is_told_which_there_are(refused, monkeypatch):
    monkeypatch.setenv("CANDLEWICK_BROKER", "127.0.0.1:9")
    assert refused("kafka", "nothing").startswith("Kafka has no tool 'nothing': choose from acls, ")


def test_a_data_directory_of_another_version_is_refused(refused, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "VERSION").write_text("99\n")
    said = refused("up", "--data-dir", "old")
    assert "holds format '99', this program writes 2: use another --data-dir" in said


def test_a_data_directory_that_is_a_file_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert refused("up", "--data-dir", "file").startswith(
        "data_dir is 'file', but must be a folder that can be written"
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jsonl", b"", "empty"),
        ("text.jsonl", b"hello\n", "line 1: not JSON"),
        ("torn.jsonl.gz", gzip.compress(b'{"dir":"in","raw":"{}"}\n' * 1000)[:-20], "torn.jsonl.gz"),
        ("other.jsonl.gz", b"not gzip at all", "other.jsonl.gz"),
    ],
)
def test_a_recording_that_cannot_be_read_is_refused(refused, tmp_path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    assert says in refused("up", "--feed", name)


def test_a_product_that_the_recording_does_not_hold_is_refused(refused, tmp_path):
    line = json.dumps({"recv_ts": None, "dir": "in", "raw": json.dumps(MATCH)})
    (tmp_path / "one.jsonl").write_text(line + "\n")
    said = refused("up", "--feed", "one.jsonl", "--products", "ETH-USD")
    assert said == "products is 'ETH-USD', but must be in one.jsonl, which holds BTC-USD"


def test_an_error_that_nobody_expected_is_logged_without_the_variables_of_its_frames(capsys):
    password = "can" + "ary"

    def fail(password: str) -> None:
        raise RuntimeError("boom")

    log_to_stderr("debug")
    try:
        fail(password)
    except RuntimeError as error:
        structlog.get_logger("a").error("It failed", exc_info=error)
    finally:
        structlog.reset_defaults()
    said = capsys.readouterr().err
    assert "RuntimeError: boom" in said
    assert "canary" not in said
