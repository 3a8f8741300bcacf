"""One start of the benchmarks: a measurement that fails costs the others nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as program
from bench import kept, report
from bench.figures import Figure, Figures, Inexact, Measure, Plan

SPEED = Figure("speed", "trades/s", "", [1.0, 2.0, 3.0])


def failing(error: BaseException) -> Measure:
    async def measure(plan: Plan, figures: Figures) -> None:
        figures.add("speed", "trades/s", 1.0, "")
        raise error

    return measure


async def good(plan: Plan, figures: Figures) -> None:
    for run in range(plan.runs):
        figures.add("speed", "trades/s", float(run), "")


def measure(path: Path, **chosen: Measure) -> int:
    """Return how many of them failed."""
    results = asyncio.run(program._measure(chosen, None, None, 30.0, path, replace=False))
    return sum(bool(outcome.failure) for outcome in results.outcomes)


def test_a_measurement_that_fails_has_no_figures_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert (
        measure(path, soak=failing(Inexact("a candle\nis wrong")), codec=failing(KeyError("x")), sink=good)
        == 2
    )
    then = kept.read(path)
    assert {name: failure.why for name, failure in then.failed.items()} == {
        "soak": "a candle is wrong",
        "codec": "KeyError: 'x'",
    }
    assert [(figure.measurement, figure.runs) for figure in then.figures] == [("sink", [0.0, 1.0, 2.0])]
    assert then.start_of("soak") == then.start_of("sink") is not None


def test_what_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(plan: Plan, figures: Figures) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(program, "LIMIT_S", 0.0)
    measure(tmp_path / "bench.json", sink=endless)
    assert kept.read(tmp_path / "bench.json").failed["sink"].why == "not done within 0 s"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_was_measured_before_an_interrupt_is_kept(tmp_path: Path, end: BaseException) -> None:
    path = tmp_path / "bench.json"
    with pytest.raises(type(end)):
        measure(path, sink=good, codec=failing(end))
    then = kept.read(path)
    assert ([figure.measurement for figure in then.figures], then.failed) == (["sink"], {})


def test_a_start_tells_the_trades_and_runs_of_each_measurement(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    measure(path, sink=good, scaling=good, peers=good)
    start = kept.read(path).start_of("sink")
    assert start is not None
    assert start.options["asked"] == {
        "sink": {"trades": 1_000_000, "runs": 3},
        "scaling": {"trades": 3_000_000, "runs": 3},
        "peers": {"trades": 1_200_000, "runs": 5},
    }


def test_the_caption_has_the_runs_of_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [kept.Outcome("soak", [Figure("slope", "MiB/min", "", [0.1])]), kept.Outcome("sink", [SPEED])]
    report.show(report.Results(kept.Start("", {}, {}), 12.0, outcomes), Console(width=100))
    assert "runs of each figure: 1 or 3; 12 s in all" in capsys.readouterr().out
