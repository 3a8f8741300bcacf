"""Prometheus's text forms, read back by its own parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from candlewick.web.exposition import Answer, Spread, write
from candlewick.web.families import Family

COUNTER = Family("candlewick_things_total", "counter", "Things.", ("a", "b"), "worker")
GAUGE = Family("candlewick_level", "gauge", "A level.", (), "now")
HISTOGRAM = Family("candlewick_time_seconds", "histogram", "A time.", ("a",), "worker", (0.1, 1, 5))

VALUES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=20)


def samples(text: str, is_open: bool) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = (open_families if is_open else text_string_to_metric_families)(text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def text_of(answer: Answer, is_open: bool) -> str:
    return write(answer, "application/openmetrics-text" if is_open else "text/plain")[0].decode()


@pytest.mark.parametrize("is_open", [False, True])
@given(VALUES, VALUES, st.integers(0, 1 << 53) | st.floats(0, 1e300))
def test_labels_and_values_come_back_whatever_they_are(is_open: bool, a: str, b: str, value: float) -> None:
    answer = Answer()
    answer.add(COUNTER, [((a, b), value)])
    found = samples(text_of(answer, is_open), is_open)
    assert found == {("candlewick_things_total", (("a", a), ("b", b))): float(value)}


@pytest.mark.parametrize("is_open", [False, True])
def test_a_value_without_labels_and_a_family_without_series(is_open: bool) -> None:
    answer = Answer()
    answer.add(GAUGE, [((), -1.5)])
    answer.add(COUNTER, [])
    assert samples(text_of(answer, is_open), is_open) == {("candlewick_level", ()): -1.5}


@pytest.mark.parametrize("is_open", [False, True])
def test_buckets_count_what_is_up_to_their_bound(is_open: bool) -> None:
    spread = Spread(HISTOGRAM.bounds)
    for value in (0.1, 0.5, 1, 1.5, 7):
        spread.note(value)
    answer = Answer()
    answer.add_spreads(HISTOGRAM, [(("x",), spread.counts, spread.sum)])
    found = samples(text_of(answer, is_open), is_open)
    buckets = [
        found["candlewick_time_seconds_bucket", (("a", "x"), ("le", le))]
        for le in ("0.1", "1.0", "5.0", "+Inf")
    ]
    assert buckets == [1, 3, 4, 5]
    assert found["candlewick_time_seconds_count", (("a", "x"),)] == 5
    assert found["candlewick_time_seconds_sum", (("a", "x"),)] == pytest.approx(10.1)
