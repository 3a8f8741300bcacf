"""What the doctor finds on machines of all kinds."""

from __future__ import annotations

import socket
from email.utils import formatdate
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import msgspec
import pytest
from answers import feed, product, status, worker

from candlewick import config
from candlewick.terminal import checks, client, doctor
from candlewick.terminal.broker_look import compare
from candlewick.terminal.checks import Case
from candlewick.terminal.client import Answer, NoWorker, refusal
from models.times import rfc3339
from producers.topic import TopicSpec

NOT_READY = {
    "type": "/problems/not-ready", "title": "Not ready", "status": 503, "detail": "no feed is connected", "instance": "/readyz",
}  # fmt: skip


def case(**settings: Any) -> Case:
    return Case(config.load({}, **settings))


def told(**changes: Any) -> Case:
    """Return a case in which the worker says that."""
    known = case()
    known.__dict__["status"] = status(**changes)
    return known


def test_a_folder_is_looked_at_and_not_made(tmp_path: Path) -> None:
    assert checks.data_folder(case(data_dir=tmp_path / "new")).seen == f"{tmp_path / 'new'} will be made"
    assert not (tmp_path / "new").exists()
    assert checks.data_folder(case(data_dir=tmp_path)).level == "ok"
    (tmp_path / "VERSION").write_text("99\n")
    finding = checks.data_folder(case(data_dir=tmp_path))
    assert (finding.level, finding.do) == ("wrong", "use another --data-dir")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        seen = f"{tmp_path / 'file'} is no folder that can be written"
        assert checks.data_folder(case(data_dir=path)).seen == seen


def test_a_port_of_another_program_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.1)
    number = free_number()
    assert checks.port(case(port=number)).seen == f"{number} is free"
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        other.settimeout(0)
        other.listen(0)
        finding = checks.port(case(port=number, token="x" * 20))
        assert (finding.level, finding.do) == ("wrong", "set CANDLEWICK_PORT")
        assert finding.seen.endswith(" cannot be used (address already in use)")
        with other.accept()[0] as client_side:
            asked = client_side.recv(1000)
        assert asked.startswith(b"GET /healthz ")
        assert b"x" * 20 not in asked


def free_number() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_nobody_there_is_wrong_and_the_rest_is_not_looked_at() -> None:
    nobody = case(url=f"http://127.0.0.1:{free_number()}")
    finding = checks.worker(nobody)
    assert (finding.level, finding.do) == ("wrong", "candlewick up")
    assert isinstance(nobody.ready, NoWorker)
    for check in (checks.feeds, checks.lag, checks.books, checks.gaps, checks.clock):
        assert check(nobody).level == "warning"


@pytest.mark.parametrize(
    ("status_code", "body", "words"),
    [
        (200, b"<html>", "is no worker (it answered 200)"),
        (404, b'{"detail":"Not Found"}', "is no worker (it answered 404)"),
        (503, msgspec.json.encode(NOT_READY), "is not ready: no feed is connected"),
    ],
)
def test_what_says_otherwise_than_a_worker_that_is_ready_is_wrong(
    status_code: int, body: bytes, words: str
) -> None:
    known = case()
    known.__dict__["ready"] = Answer(status_code, HTTPMessage(), body)
    known.__dict__["status"] = refusal(known.where, status_code, body)
    finding = checks.worker(known)
    assert finding.level == "wrong"
    assert words in finding.seen


@pytest.mark.parametrize(
    ("host", "token", "level"),
    [("127.0.0.1", "", "ok"), ("localhost", "", "ok"), ("0.0.0.0", "", "wrong"), ("0.0.0.0", "x" * 20, "ok")],
)
def test_a_worker_that_all_can_reach_needs_a_token(host: str, token: str, level: str) -> None:
    known = case(host=host, token=token)
    known.__dict__["status"] = status()
    finding = checks.token(known)
    assert finding.level == level
    assert "x" * 20 not in finding.seen


def test_what_the_worker_says_is_judged() -> None:
    assert checks.feeds(told(feeds=[])).level == "wrong"
    assert checks.lag(told(workers=[worker(lag_records=20_000)])).level == "wrong"
    assert checks.lag(told()).seen == "0 records"
    assert checks.books(told()).seen == "2 in step"
    finding = checks.gaps(told(products=[product(gaps=2, missing_trades=14)]))
    assert (finding.level, finding.seen) == ("warning", "2 gaps, 14 trades missing at present")


@pytest.mark.parametrize(
    ("late_s", "words"),
    [(0.3, None), (60.0, "60 s after they were made"), (-10.0, "10 s before the exchange makes them"), (1e8, None), (-1e8, None)],
)  # fmt: skip
def test_a_clock_that_is_off_shows_in_when_trades_come(late_s: float, words: str | None) -> None:
    now_us = 1_795_264_620_000_000
    came_us = now_us - 400_000
    made_us = came_us - round(late_s * 1e6)
    item = product(last_trade_time=rfc3339(made_us), last_trade_age_ms=400)
    found = checks._exchange_is_off(status(products=[item]), now_us)
    assert (words is None and not found) or (words is not None and words in found[0])


@pytest.mark.parametrize(
    ("there", "words"),
    [(100, None), (103, None), (105, None), (96, "the worker's clock is -4 s off"), (110, "the worker's clock is +5 s off")],
)  # fmt: skip
def test_a_workers_clock_is_held_against_when_it_was_asked(there: int, words: str | None) -> None:
    headers = HTTPMessage()
    headers["Date"] = formatdate(there, usegmt=True)
    found = checks._worker_is_off(Answer(200, headers, b""), 100.2, 105.1)
    assert found == ([] if words is None else [words])


def test_a_producer_ahead_of_time_is_told() -> None:
    now_us = 1_795_264_620_000_000
    assert checks._producer_is_off(status(feeds=[feed(updated_us=now_us + 9_000_000)]), now_us)
    assert not checks._producer_is_off(status(feeds=[feed(updated_us=now_us - 9_000_000)]), now_us)


def test_a_wrong_setting_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run({"CANDLEWICK_PORT": "x"}, {}, as_json=False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[2].split()) == "wrong settings CANDLEWICK_PORT is 'x', but must be 1 to 65535"


def test_a_check_that_fails_hides_no_other() -> None:
    def broken_check(case: Case) -> checks.Finding:
        raise RuntimeError("no such thing")

    finding = doctor._checked(broken_check, case())
    assert (finding.name, finding.level) == ("broken check", "warning")
    assert "no such thing" in finding.seen


PARTS = [{"leader": 1, "replicas": [1]} for _ in range(8)]


@pytest.mark.parametrize(
    ("partitions", "config", "replication", "words"),
    [
        (PARTS, {"cleanup.policy": "compact"}, 1, None),
        (PARTS, {}, 1, None),
        (PARTS[:4], {}, 1, "trades has 4 partitions, not 8"),
        ([*PARTS[:7], {"leader": -1, "replicas": [1]}], {}, 1, "trades has partitions without a leader"),
        (PARTS, {}, 3, "trades has 1 copies, not 3"),
        (PARTS, {"cleanup.policy": "delete"}, 1, "trades has cleanup.policy=delete, the settings say compact"),
    ],
)  # fmt: skip
def test_a_topic_is_held_against_the_settings(
    partitions: list[dict[str, Any]], config: dict[str, str], replication: int, words: str | None
) -> None:
    found = compare(TopicSpec("trades", 8, {"cleanup.policy": "compact"}), partitions, config, replication)
    assert [each.seen for each in found] == ([] if words is None else [words])
    assert all(each.do for each in found)


def test_a_topic_that_is_only_being_made_is_told_too() -> None:
    found = compare(TopicSpec("trades", 8, {}), [], {}, 1)
    assert found[0].seen == "trades has 0 partitions, not 8"
