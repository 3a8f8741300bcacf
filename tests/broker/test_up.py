"""``candlewick up`` as a new user meets it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from rig import free_port, get, until

from candlewick.up import _are_repaired, _gaps

pytestmark = pytest.mark.broker

TRUTH = Path(__file__).with_name("truth.py")


def test_candles_and_books_are_served_then_everything_ends_and_a_restart_goes_on(run, tmp_path):
    port = str(free_port())
    base = f"http://127.0.0.1:{port}"
    data_dir = tmp_path / "data"
    options = ("up", "--data-dir", str(data_dir), "--port", port, "--products", "BTC-USD,ETH-USD")
    up = run(*options, "--speed", "30")
    assert up.line("ready") == base
    assert told_producer(up, "SPILL_MB") == ["1024"]

    def shown(window: str):
        status, body = get(f"{base}/stats/{window}/BTC-USD")
        return body if status == 200 and body["candle"] and body["book"] else None

    for window in ("1m", "1h", "1d"):
        body = until(lambda window=window: shown(window))
        assert (
            Decimal(body["candle"]["low"])
            <= Decimal(body["candle"]["close"])
            <= Decimal(body["candle"]["high"])
        )
        assert Decimal(body["book"]["spread"]) > 0
        assert body["book"]["in_step"] is True
    closed = until(lambda: (answer := get(f"{base}/stats/1m/ETH-USD?closed=true"))[0] == 200 and answer[1])
    assert closed["candle"]["state"] == "closed"

    # Tools of Kafka, pointed at the data directory.
    told = subprocess.run(
        [sys.executable, "-m", "candlewick", "kafka", "console-consumer", "--topic", "trades", "--from-beginning",
         "--max-messages", "5", "--property", "print.key=true"],
        env={"CANDLEWICK_DATA_DIR": str(data_dir), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = told.stdout.strip().splitlines()
    assert len(lines) == 5
    for line in lines:
        key, value = line.split("\t")
        trade = json.loads(value)
        assert key == f"{trade['exchange']}:{trade['symbol']}"
        assert Decimal(trade["price"]) > 0

    family = up.family()
    began = time.monotonic()
    assert up.end() == 0
    assert time.monotonic() - began < 10
    assert up.said().splitlines()[-1] == "stopped"
    _, alive = psutil.wait_procs(family, timeout=1)
    assert not alive

    again = run(*options, "--speed", "30")
    again.line("ready")
    before = get(f"{base}/stats/1m/ETH-USD?at={closed['start']}")[1]
    for name in ("open", "high", "low", "close", "volume", "trade_count", "revision", "state"):
        assert before["candle"][name] == closed["candle"][name]
    until(lambda: (body := shown("1m")) and body["start"] > closed["start"])


@pytest.mark.parametrize("name", ["coinbase_session", "coinbase_matches"])
def test_every_figure_of_a_recording_is_that_of_a_separate_script(run, tmp_path, shared_data, name):
    compare_with_truth(run, tmp_path, shared_data / f"{name}.jsonl.gz")


def test_every_figure_of_our_own_recording_is_that_of_a_separate_script(run, tmp_path):
    """The same without the shared recordings: a market that the mock exchange simulated in 2021."""
    from candlewick.mock.market import Market

    market = Market(("BTC-USD", "DOGE-USD", "ETH-USD"), 7, levels=20)
    start_us = 1_618_677_780_000_000
    frames = []
    for product in market.products:
        opened = market.open(product, start_us)
        frames += [opened.snapshot().text, opened.last_match().text]
    for step in range(1, 400):
        frames += [frame.text for frame in market.advance(start_us + step * 500_000)]
    path = tmp_path / "market.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for frame in frames:
            file.write(json.dumps({"recv_ts": None, "dir": "in", "raw": frame}) + "\n")
    compare_with_truth(run, tmp_path, path)


def told_producer(up, *names: str) -> list[str]:
    """Return what is in the environment of the producer."""
    producer = next(process for process in up.family() if "produce" in process.cmdline())
    return [producer.environ()[f"CANDLEWICK_{name}"] for name in names]


def compare_with_truth(run, tmp_path, path: Path) -> None:
    told = subprocess.run(
        [sys.executable, str(TRUTH), str(path)], capture_output=True, check=True, timeout=60
    )
    truth = json.loads(told.stdout)
    port = str(free_port())
    up = run("up", "--data-dir", str(tmp_path / "data"), "--port", port, "--feed", str(path), "--speed", "0")
    up.line("ready")
    base = f"http://127.0.0.1:{port}"
    count = sum(candle["trade_count"] for name, candle in truth["candles"].items() if name.startswith("1d"))
    assert told_producer(up, "SPILL_MB", "LOSE_BOOKS_ON_GAPS") == ["0", "false"]
    until(
        lambda: (got := get(f"{base}/v1/status")[1]) and sum(p["trades_1d"] for p in got["products"]) >= count
    )
    until(lambda: all(worker["lag_records"] == 0 for worker in get(f"{base}/v1/status")[1]["workers"]))
    assert truth["candles"]
    for name, candle in truth["candles"].items():
        window, product, start = name.split()
        served = get(f"{base}/stats/{window}/{product}?at={start}")[1]["candle"]
        assert {field: served[field] for field in candle} == candle, name
    for product, book in truth["books"].items():
        for window in ("1m", "1h", "1d"):
            served = get(f"{base}/stats/{window}/{product}")[1]["book"]
            assert served["in_step"] is True
            assert Decimal(served["mid"]) == Decimal(book["mid"])
            for field in book.keys() - {"mid"}:
                assert served[field] == book[field], (product, window, field)


@pytest.mark.parametrize("trade_ids", [[10], [10, 12]])
def test_up_ends_by_itself_when_the_recording_is_done(run, tmp_path, trade_ids):
    path = tmp_path / "few.jsonl"
    with path.open("w") as file:
        for trade_id in trade_ids:
            frame = {
                "type": "match", "trade_id": trade_id, "maker_order_id": "a", "taker_order_id": "b",
                "side": "sell", "size": "0.00000004", "price": "83432.17", "product_id": "BTC-USD",
                "sequence": 40 + trade_id, "time": f"2021-04-17T16:43:{trade_id}.000001Z",
            }  # fmt: skip
            file.write(json.dumps({"recv_ts": None, "dir": "in", "raw": json.dumps(frame)}) + "\n")
    up = run(
        "up", "--data-dir", str(tmp_path / "data"), "--port", str(free_port()), "--feed", str(path), "--speed", "0",
        "--exit-when-done",
    )  # fmt: skip
    assert up.process.wait(60) == 0, up.said()
    assert "the recording is done" in up.said()
    asked = "The exchange does not have trades" in (tmp_path / "data" / "logs" / "producer.log").read_text()
    assert asked == (len(trade_ids) > 1)  # it waits for a gap to be filled, or found to be lost


@pytest.mark.parametrize(
    ("gaps", "open_gaps", "unavailable", "repaired"),
    [
        (0, 0, 0, True),
        (1, 0, 0, False),
        (1, 1, 0, False),
        (0, 1, 0, False),
        (2, 2, 1, False),
        (2, 2, 2, True),
    ],
)
def test_gaps_are_waited_for_unless_the_exchange_does_not_have_them(gaps, open_gaps, unavailable, repaired):
    feed = {
        "state": "connected",
        "open_gaps": open_gaps,
        "unavailable_gaps": unavailable,
        "repaired_trades": 3,
    }
    gone = {"state": "stopped", "open_gaps": 7, "unavailable_gaps": 0, "repaired_trades": 0}
    status = {"feeds": [feed, gone], "products": [{"gaps": gaps}, {"gaps": 0}]}
    assert _are_repaired(_gaps(status)) == repaired


def test_what_was_recorded_is_replayed_whole(run, kafka, tmp_path):
    folder = tmp_path / "recordings"
    recording = run("record", "--seconds", "4", "--products", "BTC-USD", str(folder))
    assert recording.process.wait(30) == 0, recording.said()
    (path,) = (folder / "coinbase" / "BTC-USD").iterdir()
    lines = gzip.decompress(path.read_bytes()).splitlines()
    frames = [json.loads(json.loads(line)["raw"]) for line in lines]
    trades = {frame["trade_id"] for frame in frames if frame["type"] in ("match", "last_match")}
    assert trades
    replay = run("replay", str(path), "--broker", kafka)
    assert replay.process.wait(30) == 0, replay.said()
    assert replay.said().splitlines()[-1].startswith(f"{len(frames)} frames, ")
    assert " 0 refused, " in replay.said()
    port = str(free_port())
    run("worker", "--broker", kafka, "--port", port, "--data-dir", str(tmp_path / "data"))
    until(
        lambda: (
            (got := get(f"http://127.0.0.1:{port}/stats/1d/BTC-USD"))[0] == 200
            and (got[1]["candle"] or {}).get("trade_count") == len(trades)  # its book may come first
        )
    )


def test_two_ups_on_one_data_directory_are_refused(run, tmp_path):
    data_dir = str(tmp_path / "data")
    first = run("up", "--data-dir", data_dir, "--port", str(free_port()))
    first.line("ready")
    second = run("up", "--data-dir", data_dir, "--port", str(free_port()))
    assert second.process.wait(30) == 1
    assert second.said().startswith("candlewick: another `candlewick up` is using ")
    assert len(second.said().splitlines()) == 1
    # One on another directory runs beside it, but not on the same port.
    port = first.line("ready").rpartition(":")[2]
    third = run("up", "--data-dir", str(tmp_path / "other"), "--port", port)
    assert third.process.wait(30) == 1
    assert third.said().startswith(f"candlewick: --port is {port}, but must be one that 127.0.0.1 has free")
