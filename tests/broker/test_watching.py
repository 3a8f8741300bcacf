"""What feeds tell of themselves, held against the exchange's own count; and Prometheus itself, reading all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from rig import Worker, commands_in, free_port, get, until
from scrape import Scrape, scrape

from candlewick import config, topics
from producers.topic import ensure_topics

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
PRODUCTS = ("BTC-USD", "ETH-USD")
TOKEN = "watching-needs-a-token"


class Pipeline(NamedTuple):
    folder: Path
    exchange: str
    worker: Worker

    def faults(self, **rates: float) -> None:
        """Change what the exchange does wrong."""
        request = urllib.request.Request(
            f"{self.exchange}/mock/faults", json.dumps(rates).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def happened(self, fault: str) -> int:
        """Return how often a fault has happened, by the exchange's own count."""
        status, told = get(f"{self.exchange}/mock/status")
        assert status == 200
        return int(told["faults"].get(fault, 0))

    def scrape(self) -> Scrape:
        return scrape(self.worker.base, TOKEN)

    def told(self, is_so: Callable[[Scrape], bool]) -> Scrape:
        """Scrape until it is so; no count may go down meanwhile."""
        found = [self.scrape()]

        def look() -> bool:
            found.append(self.scrape())
            found[-1].assert_follows(found[-2])
            return is_so(found[-1])

        until(look, lambda: str(sorted(found[-1].samples.items(), key=str))[:8000])
        return found[-1]


@pytest.fixture(scope="module")
def pipeline(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A market, a producer and a worker, all as processes."""
    folder = tmp_path_factory.mktemp("watching")
    products = ",".join(PRODUCTS)
    asyncio.run(ensure_topics(kafka, topics.specs(config.load({}))))
    with commands_in(folder) as run:
        mock = run("mock-exchange", "--products", products, "--data-dir", str(folder / "mock"))
        url = mock.line("mock exchange at ")
        run(
            "produce", "--feed", url, "--products", products, "--broker", kafka, "--data-dir", str(folder / "producer"),
            CANDLEWICK_WORKER_ID="feed",
        )  # fmt: skip
        worker = Worker(run, kafka, folder / "worker", "watching", CANDLEWICK_TOKEN=TOKEN)
        until(lambda: get(f"{worker.base}/readyz")[0] == 200)
        yield Pipeline(folder, url.replace("ws://", "http://").rstrip("/"), worker)


FEED = {"exchange": "coinbase", "producer": "feed"}


def test_a_feed_tells_of_itself(pipeline: Pipeline) -> None:
    seen = pipeline.told(lambda now: now.sum("candlewick_feed_latency_seconds_count") > 20)
    assert seen.get("candlewick_feed_connected", **FEED) == 1
    assert seen.get("candlewick_feed_connections", **FEED, state="connected") == 1
    assert seen.get("candlewick_feed_connections", **FEED, state="away") == 0
    heard = seen.get("candlewick_feed_last_status_timestamp_seconds", **FEED)
    assert heard
    assert 0 <= heard - seen.sum("candlewick_feed_last_message_timestamp_seconds") < 5
    timed = seen.sum("candlewick_feed_latency_seconds_count")
    pipeline.told(lambda now: now.sum("candlewick_trades_processed_total") > timed)  # and the first of each
    mean_s = seen.sum("candlewick_feed_latency_seconds_sum") / seen.sum(
        "candlewick_feed_latency_seconds_count"
    )
    assert 0 < mean_s < 1
    for name in ("dropped_records", "spilled_records", "dead_letters", "refused_frames"):
        assert seen.get(f"candlewick_feed_{name}_total", **FEED) == 0
    assert seen.get("candlewick_feed_spill_bytes", **FEED) == 0


def test_trades_that_the_exchange_hides_are_found_missing_and_repaired_each_once(pipeline: Pipeline) -> None:
    pipeline.faults(drop_trades=0.2)
    until(lambda: pipeline.happened("drop_trades") >= 10)
    pipeline.faults(drop_trades=0)
    hidden = pipeline.happened("drop_trades")
    seen = pipeline.told(lambda now: now.sum("candlewick_gap_repaired_trades_total") >= hidden)
    seen = pipeline.told(
        lambda now: now.sum("candlewick_missing_trades") == now.sum("candlewick_gaps_open") == 0
    )
    assert seen.sum("candlewick_gap_missing_trades_total") == hidden
    assert seen.get("candlewick_gap_repaired_trades_total", **FEED) == hidden
    assert 0 < seen.sum("candlewick_gaps_total") <= hidden
    pipeline.told(lambda now: now.get("candlewick_feed_gaps_open", **FEED) == 0)


def test_frames_that_cannot_be_read_are_counted_and_lose_books(pipeline: Pipeline) -> None:
    before = pipeline.scrape()
    pipeline.faults(malformed=0.2)
    until(lambda: pipeline.happened("malformed") >= 5)
    pipeline.faults(malformed=0)
    bad = pipeline.happened("malformed")
    seen = pipeline.told(lambda now: (now.get("candlewick_feed_refused_frames_total", **FEED) or 0) >= bad)
    assert seen.get("candlewick_feed_refused_frames_total", **FEED) == bad
    assert seen.get("candlewick_feed_dead_letters_total", **FEED) == bad
    assert before.get("candlewick_feed_refused_frames_total", **FEED) == 0
    pipeline.told(lambda now: now.sum("candlewick_book_in_step") == len(PRODUCTS))


def test_connections_that_end_are_counted_by_reason(pipeline: Pipeline) -> None:
    pipeline.faults(disconnect=0.2)
    until(lambda: pipeline.happened("disconnect") >= 3)
    pipeline.faults(disconnect=0)
    ended = pipeline.happened("disconnect")
    seen = pipeline.told(
        lambda now: (
            now.sum("candlewick_feed_reconnects_total") >= ended
            and now.get("candlewick_feed_connected", **FEED) == 1
        )
    )
    assert seen.sum("candlewick_feed_reconnects_total") == ended
    assert seen.sum("candlewick_book_lost_total", cause="disconnected") > 0
    pipeline.told(lambda now: now.sum("candlewick_missing_trades") == 0)


# Prometheus.


class Prometheus:
    """One of our own, with our rules, that scrapes the worker each second."""

    def __init__(self, pipeline: Pipeline) -> None:
        folder = pipeline.folder / "prometheus"
        folder.mkdir()
        chosen = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
        chosen["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        chosen["rule_files"] = [str(PROMETHEUS / "alerts.yml")]
        (job,) = chosen["scrape_configs"]
        job["authorization"]["credentials_file"] = str(folder / "token")
        job["static_configs"] = [{"targets": [pipeline.worker.base.removeprefix("http://")]}]
        (folder / "token").write_text(TOKEN)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(chosen))
        self.log = folder / "prometheus.log"
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        options = ("config.file", folder / "prometheus.yml"), ("storage.tsdb.path", folder / "data")
        arguments = [
            f"--{name}={value}" for name, value in (*options, ("web.listen-address", f"127.0.0.1:{port}"))
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(["prometheus", *arguments], stdout=out, stderr=out)

    def is_ready(self) -> bool:
        """Say whether it answers queries by now."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.base}/-/ready", timeout=10):
            return True
        return False

    def ask(self, path: str, **given: str) -> Any:
        """Return the data of an answer."""
        _, answer = get(f"{self.base}/api/v1/{path}?{urllib.parse.urlencode(given)}")
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, text: str) -> list[Any]:
        """Return the result of a query, as a board would ask it."""
        text = (
            text.replace("$__rate_interval", "30s")
            .replace('"$exchange"', '".+"')
            .replace('"$product"', '".+"')
        )
        found: list[Any] = self.ask("query", query=text)["result"]
        return found


@pytest.fixture(scope="module")
def prometheus(pipeline: Pipeline) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus: on Debian and Ubuntu, apt install prometheus brings it")
    found = Prometheus(pipeline)
    try:
        until(found.is_ready, lambda: found.log.read_text()[-3000:])
        # Some scrapes, for rates.
        until(
            lambda: found.query("count_over_time(candlewick_ready[1m]) > 3"),
            lambda: found.log.read_text()[-3000:],
        )
        yield found
    finally:
        found.process.terminate()
        found.process.wait(30)


def test_prometheus_scrapes_the_worker_with_the_token(prometheus: Prometheus) -> None:
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["lastScrapeDuration"] < 1


def boards() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "deploy/grafana/boards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            found += [(f"{path.stem}: {panel['title']}", each["expr"]) for each in panel.get("targets", ())]
    return found


@pytest.mark.parametrize(("panel", "query"), boards())
def test_every_panel_has_something_to_show(
    prometheus: Prometheus, pipeline: Pipeline, panel: str, query: str
) -> None:
    get(f"{pipeline.worker.base}/nowhere")
    found = until(lambda: prometheus.query(query), f"{panel} shows nothing")
    values = [each["value"][1] for each in found]
    assert any(value != "NaN" for value in values)


def test_every_rule_is_judged_without_an_error_and_nothing_critical_fires(
    prometheus: Prometheus,
) -> None:
    def judged() -> list[Any]:
        groups = prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] == "ok" for rule in rules) else []

    rules = until(judged)
    told = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in told]
    assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
    critical = {rule["name"] for rule in rules if rule["labels"]["severity"] == "critical"}
    assert not {rule["name"] for rule in rules if rule["state"] == "firing"} & critical
