"""The commands that look, as a user and as a script run them, on a running system."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import io
import json
import os
import pty
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from pyarrow import parquet
from rig import PATIENCE_S, Command, Worker, free_port, get, send, trades, until

from candlewick.terminal import candles
from candlewick.terminal.client import Views, Where
from models.answers import CandleItem
from models.times import parse_rfc3339

pytestmark = pytest.mark.broker

HERE = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith(("CANDLEWICK_", "FORCE_", "NO_COLOR"))
} | {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}


class There(NamedTuple):
    """A whole system that runs: a minute of its market takes a second."""

    base: str
    kafka: str
    data_dir: Path
    up: Command

    def worker(self) -> psutil.Process:
        return next(process for process in self.up.family() if "worker" in process.cmdline())


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    folder = tmp_path_factory.mktemp("terminal")
    data_dir, port = folder / "data", free_port()
    options = (
        "--data-dir",
        str(data_dir),
        "--port",
        str(port),
        "--products",
        "BTC-USD,ETH-USD",
        "--speed",
        "60",
    )
    up = Command(folder / "up.log", ("up", *options), {})
    try:
        up.line("ready")
        system = There(f"http://127.0.0.1:{port}", up.line("kafka: up, ").split()[0], data_dir, up)
        until(lambda: len(closed(system.base)) >= 20)
        yield system
    finally:
        up.end()


def ask(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "candlewick", *args],
        env={**HERE, **env}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def rows(base: str, product_id: str = "BTC-USD", **query: object) -> list[dict[str, Any]]:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    status, body = get(f"{base}/v1/candles/{product_id}?{text}")
    return body["candles"] if status == 200 else []


def closed(base: str) -> list[dict[str, Any]]:
    return [row for row in rows(base, limit=5000) if row["state"] == "closed"]


class Terminal:
    """A command on a terminal of 80 by 24."""

    def __init__(self, *args: str, program: tuple[str, ...] = ("-m", "candlewick")) -> None:
        self.seen = b""
        self._screen, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *program, *args],
            env={name: value for name, value in HERE.items() if value}, stdin=end, stdout=end, stderr=end,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(end)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def read(self) -> bytes:
        """Return all that was ever written."""
        while select.select([self._screen], [], [], 0.05)[0]:
            try:
                part = os.read(self._screen, 65536)
            except OSError:  # its other end is closed
                break
            if not part:
                break
            self.seen += part
        return self.seen

    def press(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def frames(self) -> list[list[str]]:
        """Return every whole picture as lines of text."""
        parts = self.read().split(b"\x1b[H")[1:-1]
        return [as_text(part).split("\r\n") for part in parts if part.strip()]

    def end(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline
        self.read()
        return self.process.wait()


def as_text(written: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())


# status


def test_status_says_that_all_is_well(there: There) -> None:
    done = until(lambda: (told := ask("status", "--url", there.base)).returncode == 0 and told)
    assert done.stdout.splitlines()[-1] == "all is well"
    assert "\x1b" not in done.stdout
    for word in ("coinbase:up", "connected", there.base, "ready", "BTC-USD", "ETH-USD", "in step"):
        assert word in done.stdout
    told = json.loads(ask("status", "--json", CANDLEWICK_URL=there.base).stdout)
    assert (told["well"], told["reasons"]) == (True, [])
    assert {product["product_id"] for product in told["status"]["products"]} >= {"BTC-USD", "ETH-USD"}


@pytest.mark.slow
def test_status_says_what_is_not_well(there: There) -> None:
    producer = next(process for process in there.up.family() if "produce" in process.cmdline())
    producer.suspend()
    try:
        done = until(lambda: (told := ask("status", "--url", there.base)).returncode == 1 and told)
        assert "not well: feed coinbase:up has not spoken for 3" in done.stdout
    finally:
        producer.resume()
    until(lambda: ask("status", "--url", there.base).returncode == 0)


def test_nobody_there_is_one_line_and_code_2() -> None:
    for args in (("status",), ("status", "--json"), ("gaps",), ("candles", "BTC-USD"), ("watch", "BTC-USD")):
        done = ask(*args, CANDLEWICK_PORT=str(free_port()))
        assert done.returncode == 2, args
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert re.match(
            r"candlewick: no worker answers at http://127\.0\.0\.1:\d+ \(connection refused\): "
            r"start `candlewick up`, or give --url$",
            line,
        )


def test_status_watches_and_ctrl_c_ends_it_with_what_it_saw_last(there: There) -> None:
    with Terminal("status", "--watch", "--url", there.base) as terminal:
        until(lambda: len(terminal.frames()) >= 2)
        assert any("all is well" in line for line in terminal.frames()[-1])
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert b"Traceback" not in terminal.seen
    with Terminal("status", "--watch", "--url", there.base) as terminal:
        until(terminal.frames)
        terminal.process.terminate()
        assert terminal.end() == 0
        assert b"\x1b[?1049l" in terminal.seen  # the terminal is as it was


def test_status_is_there_at_once(there: There) -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ask("status", "--url", there.base).returncode in (0, 1)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    least = min(once() for _ in range(7))
    print(f"candlewick status: {least:.2f} s of processor")
    assert least < 0.5


# candles


def a_span(base: str) -> tuple[str, str, list[dict[str, Any]]]:
    """Return two times, and the candles between them: closed and whole, so that they stay as they are."""
    found = [row for row in closed(base) if row["complete"]][2:-2]
    return found[0]["start"], found[-1]["end"], found


def test_each_format_is_what_the_worker_answers(there: There, tmp_path: Path) -> None:
    start, end, expected = a_span(there.base)
    span = ("--start", start, "--end", end, "--url", there.base)
    told = ask("candles", "BTC-USD", *span)
    assert [row["vwap"] for row in csv.DictReader(io.StringIO(told.stdout))] == [
        row["vwap"] for row in expected
    ]
    for form in ("csv", "ndjson"):
        with Views(Where(there.base, {})) as views:
            own = views.look(f"/v1/candles/BTC-USD?start={start}&end={end}&limit=5000&format={form}")
        written = tmp_path / form
        ask("candles", "BTC-USD", "--format", form, "--output", str(written), *span)
        assert written.read_bytes() == own.body
    told = ask("candles", "BTC-USD", "--format", "json", "--order", "desc", *span)
    assert json.loads(told.stdout) == {
        "exchange": "coinbase", "product_id": "BTC-USD", "window": "1m", "candles": expected[::-1], "next": None,
    }  # fmt: skip
    table = ask("candles", "BTC-USD", "--format", "table", "--limit", "3", *span).stdout.splitlines()
    assert table[0].split() == ["start", "open", "high", "low", "close", "volume", "vwap", "trades"]
    assert [line.split()[2:8] for line in table[1:]] == [
        [row[name] for name in ("open", "high", "low", "close", "volume", "vwap")] for row in expected[:3]
    ]


def test_parquet_read_back_is_what_the_worker_answers(there: There, tmp_path: Path) -> None:
    start, end, expected = a_span(there.base)
    path = tmp_path / "btc.parquet"
    done = ask(
        "candles", "BTC-USD", "--start", start, "--end", end, "--output", str(path), "--url", there.base
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == [path]
    found = parquet.read_table(path).to_pylist()
    assert len(found) == len(expected)
    for row, item in zip(found, expected, strict=True):
        names = {"exchange": "coinbase", "product_id": "BTC-USD", "window": "1m", "synthetic": False}
        for name, value in {**item, **names}.items():
            if name in ("start", "end"):
                assert row[name].timestamp() * 1_000_000 == parse_rfc3339(value)
            elif name != "start_ms":
                assert row[name] == (Decimal(value) if isinstance(row[name], Decimal) else value), name
        assert row.keys() == (item.keys() | names.keys()) - {"start_ms"}


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    "which", [{}, {"limit": 17}, {"start": 1}, {"start": 1, "limit": 17}, {"end": 1}, {"start": 1, "end": 1}]
)
@pytest.mark.parametrize("fill", ["none", "previous"])
def test_pages_are_followed_until_all_is_there(
    there: There, monkeypatch: pytest.MonkeyPatch, order: str, which: dict[str, int], fill: str
) -> None:
    start, end, _ = a_span(there.base)
    monkeypatch.setattr(candles, "PAGE", 5)
    monkeypatch.setattr(candles, "USUAL", 12)
    given = {"start": start if "start" in which else None, "end": end if "end" in which else None}
    asked = candles.Asked(
        "BTC-USD", "coinbase", "1m", **given, limit=which.get("limit"), order=order, fill=fill
    )  # type: ignore[arg-type]
    query = {name: value for name, value in given.items() if value}
    query["limit"] = str(asked.most or 5000)

    def fetched() -> list[CandleItem]:
        with Views(Where(there.base, {})) as views:
            return [item for page in candles.in_order(asked, candles.fetch(views, asked)) for item in page]

    def agree() -> bool:  # what is open changes between two questions
        found = [(item.start_ms, item.volume) for item in fetched()]
        whole = rows(there.base, order=order, fill=fill, **query)
        expected = [(row["start_ms"], row["volume"]) for row in whole]
        if asked.most is None and "start" not in which:  # all before a time: the worker's page has a limit
            return found == expected and len(found) > 15
        return bool(found) and found == expected

    assert until(agree)


def test_a_table_on_a_terminal_and_a_format_by_name(there: There, tmp_path: Path) -> None:
    with Terminal("candles", "BTC-USD", "--limit", "5", "--url", there.base) as terminal:
        assert terminal.end() == 0
        lines = as_text(terminal.seen).splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    path = tmp_path / "btc.ndjson"
    ask("candles", "BTC-USD", "--limit", "5", "--output", str(path), "--url", there.base)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5


SMALL_PAGES = (
    "from candlewick.terminal import candles; candles.PAGE = 3; from candlewick.cli import main; main()"
)


def test_many_pages_show_how_far_they_are(there: There, tmp_path: Path) -> None:
    path = tmp_path / "btc.csv"
    args = ("candles", "BTC-USD", "--limit", "14", "--output", str(path), "--url", there.base)
    with Terminal(*args, program=("-c", SMALL_PAGES)) as terminal:
        assert terminal.end() == 0
        assert re.search(r"\r *\d+ candles [━╸ ]+ \d", as_text(terminal.seen)), terminal.seen
    assert len(path.read_text().splitlines()) == 15
    with Terminal(*args) as terminal:  # one page
        assert terminal.end() == 0
        assert terminal.seen == b""


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("candles", "NONE-USD"), "unknown product: no feed of 'coinbase' has spoken of 'NONE-USD'; `candlewick status` lists"),
        (("candles", "BTC-USD", "--window", "1s"), "invalid parameter: window: "),
        (("candles", "BTC-USD", "--start", "yesterday"), "invalid parameter: start: "),
        (("candles", "BTC-USD", "--format", "parquet"), "--output is '', but must be a file"),
        (("candles", "BTC-USD", "--output", "/no/such/x.csv"), "--output is '/no/such/x.csv', but must be a file that can be"),
        (("watch", "NONE-USD"), "unknown product: "),
        (("watch", "btc"), "PRODUCTS is 'btc', but must be product ids such as BTC-USD"),
        (("watch", "BTC-USD", "--window", "1s"), "--window is '1s', but must be 1m, 1h, 1d"),
        (("gaps", "--start", "x"), "invalid parameter: start: "),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line(there: There, args: tuple[str, ...], told: str) -> None:
    done = ask(*args, "--url", there.base)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"candlewick: {told}"), line


def test_a_server_that_is_no_worker_is_told_from_one(there: There) -> None:
    mock = there.up.line("mock exchange: up, ").split(",")[0].replace("ws:", "http:")
    done = ask("status", "--url", mock)
    assert done.returncode == 2
    assert re.match(rf"candlewick: what answers at {mock} is no worker \(", done.stderr)
    assert ask("status", "--url", "ftp://x").stderr.startswith(
        "candlewick: --url is 'ftp://x', but must be an address"
    )


# watch


def test_watch_prints_a_line_for_each_candle_that_closes(there: There) -> None:
    done = ask("watch", "BTC-USD", "ETH-USD", "--count", "4", "--url", there.base)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for start, name, window, *words in lines:
        assert window == "1m"
        [row] = rows(there.base, name.removeprefix("coinbase:"), start=start, limit=1)
        if words[0] == "closed" and not row["revision"]:
            assert words[1:9] == [
                "open",
                row["open"],
                "high",
                row["high"],
                "low",
                row["low"],
                "close",
                row["close"],
            ]
            assert words[9:15] == [
                "volume",
                row["volume"],
                "vwap",
                row["vwap"],
                "trades",
                str(row["trade_count"]),
            ]


def test_watch_ends_after_its_time_and_on_ctrl_c(there: There) -> None:
    began = time.monotonic()
    assert ask("watch", "BTC-USD", "--for", "1", "--url", there.base).returncode == 0
    assert time.monotonic() - began < 10
    done = ask("watch", "BTC-USD,ETH-USD", "--json", "--count", "12", "--url", there.base)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events].count("snapshot") == 2
    assert {event["event"] for event in events} <= {"snapshot", "candle", "ticker"}
    assert all(event["data"].keys() >= {"exchange", "product_id"} for event in events)
    for number in (signal.SIGINT, signal.SIGTERM):
        with running("watch", "BTC-USD", "--json", "--url", there.base) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""


def running(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "candlewick", *args], env=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_watch_draws_again_and_again_on_a_terminal(there: There) -> None:
    with Terminal("watch", "BTC-USD", "--url", there.base) as terminal:
        until(lambda: len(terminal.frames()) >= 20)
        frames = terminal.frames()
        for frame in frames:
            assert len(frame) <= 24
            assert max(map(len, frame)) <= 80
        assert len({"\n".join(frame) for frame in frames}) > 10  # it lives
        shown = "\n".join(frames[-1])
        for word in (
            "BTC-USD",
            "coinbase",
            "1m",
            "bid",
            "spread",
            "in step",
            "open",
            "vwap",
            "last trade",
            "lag",
        ):
            assert word in shown
        assert {frame.index(next(line for line in frame if "vwap" in line)) for frame in frames[5:]} == {
            frames[-1].index(next(line for line in frames[-1] if "vwap" in line))
        }  # every row stays in its place
        assert b"\x1b[2J" not in terminal.seen.partition(b"\x1b[H")[2]  # never wiped: it does not flicker
        terminal.press(b"\x03")
        assert terminal.end() == 0
        after = terminal.seen.rpartition(b"\x1b[?1049l")[2]
        assert "BTC-USD" in as_text(after)  # the last picture stays
        assert b"Traceback" not in terminal.seen
    with Terminal("watch", "BTC-USD", "ETH-USD", "--window", "5m", "--url", there.base) as terminal:
        until(
            lambda: (
                (frames := terminal.frames())
                and all(x in "".join(frames[-1]) for x in ("BTC-USD", "ETH-USD"))
            )
        )
        assert max(map(len, terminal.frames()[-1])) <= 80


def test_watch_goes_on_where_it_was_when_its_worker_was_killed(there: There) -> None:
    with running("watch", "BTC-USD", "--url", there.base) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(2)]
        there.worker().kill()
        lost = process.stderr.readline()
        assert re.match(r"candlewick: BTC-USD: .*: trying again in \d+ s$", lost)
        while (said := process.stderr.readline()) != "candlewick: BTC-USD: connected again\n":
            assert "trying again" in said
        lines += [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    events = [(line.split()[0], line.split()[3]) for line in lines]
    first = [start for start, word in events if word == "closed"]
    assert len(first) == len(set(first))  # none twice
    # And none left out, however many minutes closed while nobody was there.
    there_now = [row["start"] for row in closed(there.base)]
    expected = there_now[there_now.index(min(first)) : there_now.index(max(first)) + 1]
    told = {start for start, _ in events}
    assert told >= set(expected)
    assert all(a < b for a, b in pairwise(first))


def test_a_closed_pipe_ends_a_command_quietly(there: There) -> None:
    for command in (
        "watch BTC-USD",
        "watch BTC-USD --json",
        "candles BTC-USD --limit 5000 --format csv",
        "status",
    ):
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m candlewick {command} --url {there.base} | head -1"],
            env=HERE, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
        )  # fmt: skip
        assert done.stderr == "", command
        assert len(done.stdout.splitlines()) == 1, command
        assert time.monotonic() - began < 20


def test_a_pipe_that_was_closed_long_before_the_next_line_is_noticed(there: There) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m candlewick watch BTC-USD --window 7d --url {there.base} | true"],
        env=HERE, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


# gaps


def test_gaps_say_by_their_code_whether_one_is_open(there: There) -> None:
    told = ask("gaps", "BTC-USD", "--state", "open", "--url", there.base)
    assert (told.returncode, told.stdout) == (0, "no gaps\n")
    asyncio.run(send(there.kafka, [*trades("HOLE-USD", 1, 10), *trades("HOLE-USD", 20, 5)]))
    done = until(lambda: (told := ask("gaps", "HOLE-USD", "--url", there.base)).returncode == 1 and told)
    lines = done.stdout.splitlines()
    assert lines[-1] == "1 gap, 1 open, 9 trades missing"
    assert lines[1].split()[:5] == ["HOLE-USD", "open", "11", "19", "9"]
    [gap] = json.loads(ask("gaps", "--state", "open", "--json", "--url", there.base).stdout)
    assert (gap["first_trade_id"], gap["last_trade_id"], gap["state"]) == (11, 19, "open")
    assert ask("gaps", "HOLE-USD", "--state", "repaired", "--url", there.base).returncode == 0
    asyncio.run(send(there.kafka, trades("HOLE-USD", 11, 9)))
    done = until(lambda: (told := ask("gaps", "HOLE-USD", "--url", there.base)).returncode == 0 and told)
    assert "repaired" in done.stdout


# doctor


def test_the_doctor_finds_nothing_wrong_with_what_runs(there: There) -> None:
    options = ("--data-dir", str(there.data_dir), "--url", there.base)
    done = ask("doctor", *options, CANDLEWICK_PORT=there.base.rpartition(":")[2])
    assert done.returncode == 0, done.stdout
    told = {
        line.split()[1]: line.split()[0] for line in done.stdout.splitlines()[:-1] if not line.startswith(" ")
    }
    assert "wrong" not in told.values()
    for name in ("python", "packages", "java", "broker", "topics", "port", "worker", "feeds", "lag", "clock"):
        assert told[name] == "ok", done.stdout
    told = json.loads(ask("doctor", "--json", *options).stdout)
    assert told["well"] is True
    assert {finding["name"] for finding in told["findings"]} >= {
        "dead letters",
        "gaps",
        "token",
        "kafka jars",
    }


def test_the_doctor_says_what_to_do_where_nothing_runs(tmp_path: Path) -> None:
    done = ask("doctor", "--data-dir", str(tmp_path / "none"), CANDLEWICK_PORT=str(free_port()))
    assert done.returncode == 1
    assert not (tmp_path / "none").exists()
    wrong = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("wrong")}
    assert wrong == {"broker", "worker"}
    assert done.stdout.count("→ candlewick up") == 2
    done = ask("doctor", "--broker", f"127.0.0.1:{free_port()}", "--data-dir", str(tmp_path))
    assert "does not answer" in done.stdout
    assert done.stderr == ""


def test_topics_that_are_not_what_the_settings_say_are_named(there: There) -> None:
    done = ask("doctor", "--data-dir", str(there.data_dir), "--url", there.base, CANDLEWICK_PARTITIONS="4")
    assert done.returncode == 1
    assert re.search(
        r"wrong +topics +\S+ has 8 partitions, not 4\n +→ set CANDLEWICK_PARTITIONS to", done.stdout
    )
    done = ask(
        "doctor", "--data-dir", str(there.data_dir), "--url", there.base, CANDLEWICK_RETENTION_DAYS="9"
    )
    assert "→ candlewick kafka configs --alter --topic " in done.stdout


# token


def test_a_token_is_sent_and_its_lack_is_told(there: There, run: Any, tmp_path: Path) -> None:
    secret = "a-token-of-some-letters"
    guarded = Worker(run, there.kafka, tmp_path / "guarded", "guarded", CANDLEWICK_TOKEN=secret)
    until(lambda: get(f"{guarded.base}/healthz")[0] == 200)
    for args in (("status",), ("gaps",), ("candles", "BTC-USD"), ("watch", "BTC-USD", "--count", "1")):
        done = ask(*args, "--url", guarded.base)
        assert done.returncode == 2
        assert done.stderr == (
            f"candlewick: {guarded.base} wants a token: set CANDLEWICK_TOKEN to the worker's own\n"
        )
    done = ask("status", "--url", guarded.base, CANDLEWICK_TOKEN="another-token-of-letters")
    assert "another token than the one in CANDLEWICK_TOKEN" in done.stderr
    done = ask("doctor", "--url", guarded.base, "--data-dir", str(there.data_dir))
    assert re.search(r"wrong +token +the worker wants a token\n +→ set CANDLEWICK_TOKEN", done.stdout)
    until(lambda: ask("status", "--url", guarded.base, CANDLEWICK_TOKEN=secret).returncode == 0)
    assert (
        ask("watch", "BTC-USD", "--count", "1", "--url", guarded.base, CANDLEWICK_TOKEN=secret).returncode
        == 0
    )
