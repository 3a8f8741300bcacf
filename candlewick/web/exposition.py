"""Our families, in the shape that Prometheus's own client writes: its text form, or OpenMetrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from candlewick.web.families import Family

Series = Iterable[tuple[tuple[str, ...], float]]
"""The values of the labels, in their order, and the value."""


class Spread:
    """What a histogram has of one series: counts by bucket, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Answer(Collector):
    """What is told at one moment."""

    def __init__(self) -> None:
        self._metrics: list[Metric] = []

    def add(self, family: Family, series: Series) -> None:
        """Tell a gauge or a counter."""
        shape = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = shape(family.name, family.help, labels=family.labels)
        for values, value in series:
            metric.add_metric(values, value)
        self._metrics.append(metric)

    def add_spreads(
        self, family: Family, spreads: Iterable[tuple[tuple[str, ...], Sequence[int], float]]
    ) -> None:
        """Tell a histogram: of each series its labels, the counts by bucket, and the sum."""
        metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        bounds = [*(repr(float(bound)) for bound in family.bounds), "+Inf"]
        for values, counts, total in spreads:
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            metric.add_metric(values, buckets, total)
        self._metrics.append(metric)

    def add_all(self, others: Iterable[Metric]) -> None:
        """Tell what somebody else has described."""
        self._metrics += others

    def collect(self) -> Iterator[Metric]:
        """Return all of it."""
        return iter(self._metrics)


def write(answer: Answer, accepted: str) -> tuple[bytes, str]:
    """Return the text, and its content type, in the form that the header ``Accept`` asks for."""
    encode, content_type = choose_encoder(accepted)
    return encode(answer), content_type
