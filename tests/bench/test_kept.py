"""What one start of the benchmarks may replace, and what the page then says of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import kept
from bench.figures import Figure
from bench.kept import Failure, Kept, Measured, Outcome, Start
from bench.peers import page
from bench.peers.race import Entry, Run, Standing

EARLY, LATE = "2026-11-01T10:00:00+00:00", "2026-11-02T11:00:00+00:00"


def start(began: str, commit: str, kernel: str = "Linux 6.18") -> Start:
    return Start(
        began, {"cores": "2 usable of 2", "kernel": kernel}, {"Kafka": "4.3.1"}, commit, {"minutes": 30.0}
    )


def race(began: str, speeds: dict[str, list[float]], rounds: int = 2) -> Standing:
    entries = [
        Entry(name, "1", ("1m",), 1_000, "", "", "", [Run(speed, 1.0, 1.0, 1.0, 1, 0) for speed in runs])
        for name, runs in speeds.items()
    ]
    return Standing(1_000, 8, 8, 1_000, rounds, "", entries, began)


def figure(measurement: str, name: str, began: str, median: float) -> Measured:
    return Measured(measurement, name, "s", median, median, median, [median], began=began)


WHOLE = race(EARLY, {"Candlewick": [300.0, 300.0], "Faust": [1.0, 1.0]})
RECOVERY = Figure("recovery, RocksDB kept", "s", "", [20.0, 19.0, 21.0])
BEFORE = Kept({EARLY: start(EARLY, "aaaaaaa")}, [figure("peers", "over Faust", EARLY, 300.0)], WHOLE)


def after(outcome: Outcome, before: Kept = BEFORE, replace: bool = False) -> tuple[Kept, str]:
    return kept.join(before, start(LATE, "bbbbbbb", "Linux 7.0"), outcome, replace)


def test_a_race_that_is_less_does_not_replace_a_whole_one() -> None:
    broken_off = race(LATE, {"Candlewick": [9.0, 9.0], "Faust": [1.0]})
    fewer_rounds = race(LATE, {"Candlewick": [9.0], "Faust": [1.0]}, rounds=1)
    without_faust = race(LATE, {"Candlewick": [9.0, 9.0], "Faust": []})
    without_faust.entries[1].absent = "it could not be installed"
    for less in (broken_off, fewer_rounds, without_faust):
        outcome = Outcome("peers", [], "not done within 3,600 s", less)
        joined, why = after(outcome)
        assert why
        assert joined == BEFORE
        assert after(outcome, replace=True)[0].peers == less


def test_a_race_as_whole_replaces_the_last() -> None:
    again = race(LATE, {"Candlewick": [9.0, 9.0], "Faust": [1.0, 1.0]})
    joined, why = after(Outcome("peers", race=again))
    assert (joined.peers, why) == (again, "")


def test_a_race_that_did_not_begin_leaves_the_last_with_its_figures() -> None:
    assert after(Outcome("peers", failure="no Kafka"), replace=True) == (BEFORE, "")


def test_each_section_has_the_date_and_commit_of_its_own_start() -> None:
    joined, _ = after(Outcome("recovery", [RECOVERY]))
    assert joined.peers is not None
    text = page.markdown(joined, joined.peers)
    assert "Measured 2026-11-01 10:00 UTC, commit aaaaaaa." in text
    assert "`recovery`, 3 runs. Measured 2026-11-02 11:00 UTC, commit bbbbbbb; kernel Linux 7.0." in text
    assert "- Not met: ready after SIGKILL, RocksDB kept is 20, must be < 15 s." in text
    assert "\n\n\n" not in text


def test_a_measurement_that_failed_is_said_to_have_failed_until_it_is_made_again() -> None:
    good = kept.join(BEFORE, start(EARLY, "aaaaaaa"), Outcome("recovery", [RECOVERY]), False)[0]
    joined, _ = after(Outcome("recovery", failure="a candle | is wrong"), good)
    assert joined.failed == {"recovery": Failure("a candle | is wrong", LATE)}
    joined, _ = kept.join(joined, start("2026-11-03", "ccccccc"), Outcome("soak", failure="too slow"), False)
    assert joined.peers is not None
    text = page.markdown(joined, joined.peers)
    assert "| ready after SIGKILL, RocksDB kept | < 15 s |  | failed: a candle / is wrong |" in text
    assert (
        "- Failed: `recovery`, a candle / is wrong. Measured 2026-11-02 11:00 UTC, commit bbbbbbb; kernel Linux 7.0.\n"
        in text
    )
    assert "## Ready again" not in text
    again, _ = after(Outcome("recovery", [RECOVERY]), joined)
    assert list(again.failed) == ["soak"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    joined, _ = after(Outcome("recovery", failure="too slow"))
    kept.write(joined, tmp_path / "bench.json")
    assert kept.read(tmp_path / "bench.json") == joined


@pytest.mark.parametrize("text", ['{"figures": [', '{"figures": 3}', "\x00"])
def test_a_file_that_cannot_be_read_is_not_taken_for_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    assert kept.read(path) == Kept()
    path.write_text(text)
    with pytest.raises(kept.Unreadable, match=r"bench\.json cannot be read .* move it away"):
        kept.read(path)
