"""What is judged, and what is not for want of figures: the reason then stands below the table."""

from __future__ import annotations

import pytest

from bench import recovery, scaling, web
from bench.bars import BARS
from bench.kept import Kept, Measured, Start
from bench.peers import page
from bench.peers.race import Entry, Run, Standing

BEGAN = "2026-11-01T10:00:00+00:00"


def figure(measurement: str, name: str, *runs: float) -> Measured:
    return Measured(
        measurement, name, "", min(runs), sorted(runs)[len(runs) // 2], max(runs), list(runs), began=BEGAN
    )


def seen(what: str, *figures: Measured, minutes: float = 30.0, peers: Standing | None = None) -> float | str:
    (bar,) = (bar for bar in BARS if what in bar.what)
    return bar.see(Kept({BEGAN: Start(BEGAN, {}, {}, "", {"minutes": minutes})}, list(figures), peers))


def race(rounds: int, ours: int, faust: int) -> Standing:
    entries = [
        Entry(name, "1", ("1m",), 1, "", "", "", [Run(speed, 1.0, 1.0, 1.0, 1, 0)] * runs)
        for name, speed, runs in (("Candlewick", 90.0, ours), ("Faust", 1.0, faust))
    ]
    return Standing(1, 8, 8, 1, rounds, "", entries, BEGAN)


def test_a_figure_of_fewer_than_three_runs_is_not_judged() -> None:
    what = "catch-up, 800 products"
    assert seen(what) == ""
    assert seen(what, figure("catch-up-800", what, 9.0, 9.0)) == "2 of 3 runs that it takes"
    assert seen(what, figure("catch-up-800", what, 9.0, 8.0, 7.0)) == 8.0


def test_a_soak_has_one_run_but_must_be_long() -> None:
    slope = figure("soak", "soak, worker, slope", 0.1)
    assert seen("worker's memory", slope) == 0.1
    assert seen("worker's memory", slope, minutes=5.0) == "the last soak took 5 minutes"


def test_latency_is_judged_only_at_the_rate_that_was_asked_for() -> None:
    ages = figure("latency", "wire to /stats at 5,000/s, p99", 9.0, 9.0, 9.0)
    what = "wire to `/stats` at 5,000 trades/s, p99"
    assert (
        seen(what, ages, figure("latency", "rate at 5,000/s", 4_850, 4_890, 5_000))
        == "4,890 trades/s came through"
    )
    assert seen(what, ages, figure("latency", "rate at 5,000/s", 4_850, 4_900, 5_000)) == 9.0


def test_questions_are_judged_only_among_the_trades_that_were_asked_for() -> None:
    answers = figure("web", web.asked(web.STATS, "p99"), 9.0, 9.0, 9.0)
    what = f"{web.STATS} at 1,000/s"
    assert seen(what, answers) == ""
    few = figure("web", web.meanwhile(web.STATS), 4_850, 4_890, 5_000)
    assert seen(what, answers, few) == "4,890 trades/s came through"
    assert seen(what, answers, figure("web", web.meanwhile(web.STATS), 4_900, 5_000, 5_000)) == 9.0


def test_a_million_rows_are_not_reckoned_from_a_short_changelog() -> None:
    assert recovery.reckoned(4.0, 99_999) is None
    assert recovery.reckoned(4.0, 100_000) == 40.0
    lost = figure("recovery", recovery.LOST, 4.0, 4.0, 4.0)
    assert seen("reckoned for 1,000,000") == ""
    assert seen("reckoned for 1,000,000", lost) == "the changelog had fewer than 100,000 rows"
    assert (
        seen("reckoned for 1,000,000", lost, figure("recovery", recovery.MILLION, 22.0, 22.0, 22.0)) == 22.0
    )


@pytest.mark.parametrize(("rounds", "ours", "faust"), [(5, 5, 5), (5, 4, 5), (5, 5, 4), (3, 3, 3)])
def test_a_system_with_all_rounds_but_one_is_compared(rounds: int, ours: int, faust: int) -> None:
    assert seen("over Faust", peers=race(rounds, ours, faust)) == 90.0


@pytest.mark.parametrize(
    ("rounds", "ours", "faust", "who"),
    [(5, 5, 3, "Faust 1 has 3"), (5, 3, 5, "Candlewick 1 has 3"), (3, 3, 2, "Faust 1 has 2"), (1, 1, 1, "Candlewick 1 has 1"), (5, 5, 0, "Faust 1 has 0")],
)  # fmt: skip
def test_a_system_without_its_rounds_is_not_compared(rounds: int, ours: int, faust: int, who: str) -> None:
    assert seen("over Faust", peers=race(rounds, ours, faust)) == f"{who} right runs in {rounds} rounds"


def test_logs_are_compared_when_each_has_its_runs() -> None:
    costs = [
        figure("trade-cost", f"{scaling.name_of(log)}, CPU", 3.0, 4.0, 5.0) for log in scaling.BY_PRODUCTS
    ]
    assert seen("8 to 800 products", *costs) == 1.0
    short = figure("trade-cost", costs[0].name, 4.0)
    reason = str(seen("8 to 800 products", short, costs[1]))
    assert [part.split(": ")[1] for part in reason.split("; ")] == [
        "1 of 3 runs that it takes",
        "4 CPU s a million",
        "not measured",
    ]


def test_the_reason_stands_below_the_table() -> None:
    standing = race(5, 5, 3)
    text = page.markdown(Kept(peers=standing), standing)
    assert "| catch-up, over Faust as its guide does it | ≥ 80 times |  | not measured |" in text
    assert (
        "- Not measured in full: catch-up, over Faust as its guide does it (Faust 1 has 3 right runs in 5 rounds).\n"
        in text
    )


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (1.19, 1.68, "two 1.68 of 2, which hold 1.68 times one; 0.32 cores were left"),
        (1.05, 1.95, "two 1.95 of 2, which hold 1.90 times one: cores end first"),
    ],
)
def test_what_two_workers_lack_is_said_from_the_cores_that_they_use(
    one: float, two: float, says: str
) -> None:
    (bar,) = (bar for bar in BARS if bar.what == "catch-up, two workers over one")
    figures = [
        figure("scaling", f"{name}, cores", cores, cores, cores)
        for name, cores in (("1 worker", one), ("2 workers", two))
    ]
    start = Start(BEGAN, {"cores": "2 usable of 2"}, {})
    assert bar.note(Kept({BEGAN: start}, figures)).endswith(says)
    assert bar.note(Kept({BEGAN: start}, figures[1:])) == ""
