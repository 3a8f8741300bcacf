"""Metrics, alerts, boards and their manual say the same. ``python tests/test_operations.py`` writes the table again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from candlewick.web import families

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "docs" / "operations.md"
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "boards").glob("*.json"))
BEGIN = "<!-- metrics: made by `make readme` from candlewick/web/families.py -->\n"
END = "<!-- end of metrics -->"

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
BY_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
"""What Prometheus itself makes, and its labels."""


def with_metrics(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{families.markdown()}\n{END}{after}"


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    assert BEGIN in text
    assert with_metrics(text) == text, "make readme writes it again"


# Names.


def test_names_follow_the_rules_of_prometheus() -> None:
    names = [family.name for family in families.ALL]
    assert len(set(names)) == len(names)
    for family in families.ALL:
        assert re.fullmatch(r"candlewick_[a-z]+(_[a-z]+)*", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert not re.search(r"_(ms|us|mb|kb|minutes|hours)(_|$)", family.name)
        assert family.help.endswith(".")
        assert '"' not in family.help
        assert list(family.bounds) == sorted(set(family.bounds))
        assert bool(family.bounds) == (family.kind == "histogram")
        assert not set(family.labels) & {"le", "job", "instance"}


@cache
def labels_of() -> dict[str, set[str]]:
    """Return every name that a query may use, and the labels that its series have."""
    scraped = {"job", "instance"}
    known = {name: set(labels) for name, labels in BY_PROMETHEUS.items()}
    known |= {name: set(scraped) for name, *_ in families.PROCESS}
    for family in families.ALL:
        labels = {*family.labels, *scraped}
        if family.kind == "histogram":
            known |= {f"{family.name}_{ending}": labels for ending in ("count", "sum")}
            known[f"{family.name}_bucket"] = {*labels, "le"}
        else:
            known[family.name] = labels
    return known


def queries() -> list[tuple[str, str]]:
    """Return every query of alerts and boards, with where it is."""
    found = [(rule["alert"], rule["expr"]) for rule in RULES]
    for path in BOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            found += [(f"{path.stem}: {panel['title']}", each["expr"]) for each in panel.get("targets", ())]
        for variable in board["templating"]["list"]:
            what = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert what
            found.append((f"{path.stem}: {variable['name']}", f"count by ({what[2]}) ({what[1]})"))
    return found


_METRIC = re.compile(r"\b(?:candlewick_\w+|process_\w+|up|ALERTS)\b")
_LABELS = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_BY = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


@pytest.mark.parametrize(("where", "query"), queries())
def test_queries_ask_for_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    names = set(_METRIC.findall(re.sub(r'"[^"]*"', '""', query)))
    assert names, "it asks for nothing of ours"
    assert names <= labels_of().keys()
    known = set().union(*(labels_of()[name] for name in names))
    asked = set(_LABELS.findall(query))
    asked |= {label.strip() for group in _BY.findall(query) for label in group.split(",") if label.strip()}
    assert asked <= known


def test_a_counter_is_asked_for_its_rate_and_nothing_else_is() -> None:
    for where, query in queries():
        for name in _METRIC.findall(query):
            counts = name.endswith(("_total", "_bucket", "_count", "_sum"))
            rated = re.search(rf"(?:rate|increase)\({name}\b", query) is not None
            assert counts == rated, f"{where}: {name}"


def test_every_metric_is_on_a_board_or_in_an_alert_or_in_the_list_of_those_that_are_not() -> None:
    used = {name for _, query in queries() for name in _METRIC.findall(query)}
    unused = {
        family.name
        for family in families.ALL
        if not {family.name, f"{family.name}_bucket", f"{family.name}_count"} & used
    }
    assert unused == {"candlewick_build_info", "candlewick_feed_last_status_timestamp_seconds"}


def test_what_the_manual_names_there_is() -> None:
    known = {*labels_of(), *(family.name for family in families.ALL)}
    text = MANUAL.read_text(encoding="utf-8")
    assert set(re.findall(r"`((?:candlewick|process)_\w+)`", text)) <= known


# Alerts.


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    told = rule["annotations"]
    assert told.keys() == {"summary", "description", "runbook"}
    assert told["description"].endswith(".")
    page, _, anchor = told["runbook"].partition("#")
    assert ROOT / page == MANUAL
    assert anchor == rule["alert"].lower()


def test_every_alert_has_its_part_of_the_manual_and_its_test() -> None:
    names = [rule["alert"] for rule in RULES]
    assert re.findall(r"^### (Candlewick\w+)$", MANUAL.read_text(encoding="utf-8"), re.MULTILINE) == names
    tested = (PROMETHEUS / "alerts.test.yml").read_text(encoding="utf-8")
    for name in names:
        firing = rf'alertname="{name}".*\n +eval_time: \w+\n +exp_samples: '
        assert re.search(firing + r"\[\{value: 1\}\]", tested), f"{name} is not seen to fire"
        assert re.search(firing + r"\[\]", tested), f"{name} is not seen to be silent"


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "--syntax-only", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")],
    ids=" ".join,
)  # fmt: skip
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: on Debian and Ubuntu, apt install prometheus brings it")
    done = subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Boards.


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_can_be_provisioned(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert board["uid"] == f"candlewick-{path.stem}"
    assert "id" not in board, "Grafana gives it one"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == source["uid"]
        assert all(target["datasource"]["uid"] == source["uid"] for target in panel["targets"])
    for variable in board["templating"]["list"]:
        assert variable["datasource"]["uid"] == source["uid"]


def test_there_are_two_boards() -> None:
    assert [path.stem for path in BOARDS] == ["market", "operations"]


if __name__ == "__main__":
    MANUAL.write_text(with_metrics(MANUAL.read_text(encoding="utf-8")), encoding="utf-8")
