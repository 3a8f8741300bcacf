"""``/metrics`` of a worker, read with Prometheus's own parsers."""

from __future__ import annotations

import urllib.request
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

OPEN = "application/openmetrics-text; version=1.0.0"

Labels = dict[str, str]


def text_of(base: str, accept: str = "text/plain", token: str = "") -> tuple[str, str]:
    """Return the answer, and its content type."""
    headers = {"Accept": accept, **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(f"{base}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


class Scrape:
    """All samples of one answer."""

    def __init__(self, text: str, is_open: bool = False) -> None:
        self.families = list((open_families if is_open else text_string_to_metric_families)(text))
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.counts: dict[Any, float] = {}
        """Those that must never go down."""
        for family in self.families:
            for sample in family.samples:
                place = (sample.name, frozenset(sample.labels.items()))
                assert place not in self.samples, f"{place} is told twice"
                self.samples[place] = sample.value
                if family.type in ("counter", "histogram"):
                    self.counts[place] = sample.value

    def get(self, name: str, **labels: str) -> float | None:
        """Return one series, named whole; None where it is not told."""
        return self.samples.get((name, frozenset(labels.items())))

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the series that have these labels."""
        wanted = frozenset(labels.items())
        return sum(value for (found, has), value in self.samples.items() if found == name and wanted <= has)

    def assert_follows(self, before: Scrape) -> None:
        """Check that nothing that counts has gone down, or away."""
        for place, value in before.counts.items():
            assert self.counts.get(place, -1) >= value, f"{place} was {value}, is {self.counts.get(place)}"


def scrape(base: str, token: str = "") -> Scrape:
    """Return what a worker tells now."""
    return Scrape(text_of(base, token=token)[0])
