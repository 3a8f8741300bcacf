"""The gap ledger, against a model that keeps every missing id by itself.

`Model` has no ranges: of each missing id it keeps the times that it lies between and the gap that it
was found missing in, and looks at all of them for whatever is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ledger import MAX_HOLES, NOTHING, SLACK_US, Hole, Ledger, News, OpenGap

THOROUGH = settings(deadline=None, max_examples=100)

SECOND = 1_000_000
MINUTE = 60 * SECOND

Report = tuple[str, int, int]
"""(``see`` or ``hear``, id, time)."""
Told = list[tuple[OpenGap, str]]


@dataclass
class Lack:
    """What is known of one missing id."""

    after: int
    before: int
    gap: int


@dataclass
class Model:
    max_holes: int = MAX_HOLES
    seen: set[int] = field(default_factory=set)
    lacks: dict[int, Lack] = field(default_factory=dict)
    gaps: dict[int, OpenGap] = field(default_factory=dict)
    joined: tuple[int, int] | None = None
    """The first id known, and its time."""
    top: int = -1
    floors: list[int] = field(default_factory=list)
    """Times that a trade above the top cannot be before."""
    is_merged: bool = False

    def take(self, report: Report) -> Told:
        what, number, time_us = report
        return self.see(number, time_us) if what == "see" else self.hear(number, time_us)

    def see(self, number: int, time_us: int) -> Told:
        self.seen.add(number)
        told: Told = []
        if self.joined is None:
            self.joined, self.top, self.floors = (number, time_us), number, [time_us]
        elif number > self.top:
            told = self.open(self.top + 1, number, max(self.floors), time_us, "jump", time_us)
            self.top = number
            self.floors.append(time_us)
        elif number < self.joined[0]:
            told = self.open(number + 1, self.joined[0], time_us, self.joined[1], "jump", time_us)
            self.joined = (number, min(time_us, self.joined[1]))
        elif number in self.lacks:
            hole = next(hole for hole in self.holes() if number in hole)
            gap = self.lacks.pop(number).gap
            for each in hole:
                if each < number:
                    self.lacks[each].before = max(self.lacks[each].after, time_us)
                elif each > number:
                    self.lacks[each].after = min(self.lacks[each].before, time_us)
            if all(lack.gap != gap for lack in self.lacks.values()):
                told.append((self.gaps.pop(gap), "repaired"))
        return told + self.limit()

    def hear(self, number: int, time_us: int) -> Told:
        told: Told = []
        if self.joined is None:
            self.joined, self.top, self.floors = (number + 1, time_us), number, [0, time_us - SLACK_US]
        elif number >= self.top:
            told = self.open(self.top + 1, number + 1, max(self.floors), time_us, "heartbeat", time_us)
            self.top = number
            self.floors.append(time_us - SLACK_US)
        return told + self.limit()

    def open(self, low: int, end: int, one_us: int, other_us: int, cause: str, detected_us: int) -> Told:
        after, before = sorted((one_us, other_us))
        for number in range(low, end):
            self.lacks[number] = Lack(after, before, low)
        if low >= end:
            return []
        self.gaps[low] = OpenGap(low, end - 1, cause, after, before, detected_us)  # type: ignore[arg-type]
        return [(self.gaps[low], "open")]

    def holes(self) -> list[list[int]]:
        """Return the missing ids, those together that follow each other and were found missing at once."""
        holes: list[list[int]] = []
        for number in sorted(self.lacks):
            if holes and holes[-1][-1] == number - 1 and self.lacks[number - 1].gap == self.lacks[number].gap:
                holes[-1].append(number)
            else:
                holes.append([number])
        return holes

    def limit(self) -> Told:
        if len(self.holes()) <= self.max_holes:
            return []
        self.is_merged = True
        low, high = self.holes()[:2]
        first, second = self.lacks[low[0]], self.lacks[high[0]]
        before = max(first.before, second.before)
        for number in range(low[0], high[-1] + 1):
            self.lacks[number] = Lack(first.after, before, first.gap)
        if second.gap == first.gap:
            return []
        for lack in self.lacks.values():
            if lack.gap == second.gap:
                lack.gap = first.gap
        kept, merged = self.gaps[first.gap], self.gaps.pop(second.gap)
        wider = OpenGap(
            kept.first,
            max(kept.last, merged.last),
            kept.cause,
            kept.after_us,
            max(kept.before_us, merged.before_us),
            kept.detected_us,
        )
        self.gaps[first.gap] = wider
        return [(wider, "open"), (merged, "merged")]

    def missing(self, start_us: int, end_us: int) -> int:
        return sum(lack.after < end_us and lack.before >= start_us for lack in self.lacks.values())

    def is_complete(self, start_us: int, end_us: int) -> bool:
        begins_before = self.joined is not None and self.joined[0] > 1 and start_us <= self.joined[1]
        return not begins_before and not self.missing(start_us, end_us)


def taken(ledger: Ledger, report: Report) -> News:
    what, number, time_us = report
    return ledger.see(number, time_us) if what == "see" else ledger.hear(number, time_us)


def ledger_of(*reports: Report) -> Ledger:
    ledger = Ledger()
    for report in reports:
        taken(ledger, report)
    return ledger


def stored(ledger: Ledger) -> Ledger:
    """Return a copy as a table gives it back."""
    return msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger)


def ids_of(ledger: Ledger) -> dict[int, Lack]:
    """Return the ids in the holes, one by one; none may be in two."""
    ids = [
        (number, Lack(hole.after_us, hole.before_us, hole.gap))
        for hole in ledger.holes
        for number in range(hole.first, hole.last + 1)
    ]
    assert len(dict(ids)) == len(ids)
    return dict(ids)


def assert_holds_together(ledger: Ledger) -> None:
    assert [hole.first for hole in ledger.holes] == sorted(hole.first for hole in ledger.holes)
    assert {hole.gap for hole in ledger.holes} == {gap.first for gap in ledger.gaps}
    assert len({gap.first for gap in ledger.gaps}) == len(ledger.gaps)
    gaps = {gap.first: gap for gap in ledger.gaps}
    for hole in ledger.holes:
        gap = gaps[hole.gap]
        assert gap.first <= hole.first <= hole.last <= gap.last
        assert hole.after_us <= hole.before_us
    for hole, following in pairwise(ledger.holes):
        assert hole.last < following.first


reports = st.tuples(
    st.sampled_from(("see", "see", "see", "hear")),
    st.integers(0, 20),
    st.integers(0, 12).map(lambda quarter: quarter * SECOND // 4),
)
"""In no order, and times that do not rise with the ids."""


@THOROUGH
@given(st.data())
def test_whatever_comes_in_any_order_the_ledger_says_what_the_model_says(data: st.DataObject) -> None:
    max_holes = data.draw(st.sampled_from((MAX_HOLES, 3, 2, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.ledger.MAX_HOLES", max_holes)
        ledger, model = Ledger(), Model(max_holes)
        state_of: dict[int, str] = {}
        for report in data.draw(st.lists(reports, max_size=25)):
            if data.draw(st.booleans()):
                ledger = stored(ledger)
            news = taken(ledger, report)
            assert list(news.gaps) == model.take(report)
            assert stored(ledger) == ledger
            assert ids_of(ledger) == model.lacks
            assert {gap.first: gap for gap in ledger.gaps} == model.gaps
            assert_holds_together(ledger)
            assert len(ledger.holes) <= max_holes
            assert ledger.top_id == model.top
            assert model.joined == (ledger.joined_id, ledger.joined_us)
            assert ledger.top_us == max(model.floors)
            unseen = set(range(ledger.joined_id, ledger.top_id + 1)) - model.seen
            assert unseen <= ids_of(ledger).keys()
            if not model.is_merged:
                assert unseen == ids_of(ledger).keys()
            for gap, state in news.gaps:
                assert state_of.get(gap.first, "open") == "open"  # nothing is told of a gap after its end
                state_of[gap.first] = state
            assert {first for first, state in state_of.items() if state == "open"} == model.gaps.keys()
            if news.gaps:
                assert news.times_us
            low, high = sorted(
                data.draw(st.tuples(*[st.integers(0, 13 * 4).map(lambda n: n * SECOND // 4)] * 2))
            )
            assert ledger.missing(low, high + 1) == model.missing(low, high + 1)
            assert ledger.is_complete(low, high + 1) == model.is_complete(low, high + 1)


EDGES = [
    minute * MINUTE + inside
    for minute in range(1, 6)
    for inside in (0, SECOND // 4, 30 * SECOND, MINUTE - SECOND // 4)
]
"""Times around the ends of minutes, where a hole may be in one or in the other."""


@st.composite
def markets(draw: st.DrawFn) -> tuple[dict[int, int], list[Report]]:
    """Draw what was traded, by id, and what is said of it, in any order: ids rise with time."""
    times = sorted(draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=9)))
    market = dict(enumerate(times, draw(st.sampled_from((1, 1, 5)))))
    said: list[Report] = []
    for number, time_us in market.items():
        said.append(("see", number, time_us))
        if draw(st.booleans()):
            said.append(("hear", number, time_us + draw(st.sampled_from((0, SECOND // 2, SLACK_US)))))
    return market, draw(st.permutations(said))


def minutes(market: dict[int, int]) -> list[tuple[int, set[int]]]:
    """Return the minutes in which there were trades, and their ids."""
    starts = sorted({time_us // MINUTE * MINUTE for time_us in market.values()})
    return [
        (start_us, {number for number, at in market.items() if start_us <= at < start_us + MINUTE})
        for start_us in starts
    ]


@THOROUGH
@given(markets(), st.sampled_from((MAX_HOLES, 2, 1)))
def test_a_minute_that_is_called_complete_has_every_trade_that_was_spoken_of(
    drawn: tuple[dict[int, int], list[Report]], max_holes: int
) -> None:
    market, said = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.ledger.MAX_HOLES", max_holes)
        ledger, seen = Ledger(), set()
        for report in said:
            taken(ledger, report)
            if report[0] == "see":
                seen.add(report[1])
            for start_us, inside in minutes(market):
                spoken_of = {number for number in inside if number <= ledger.top_id}
                if ledger.is_complete(start_us, start_us + MINUTE):
                    assert spoken_of <= seen


@THOROUGH
@given(markets())
def test_when_all_has_come_there_is_no_hole_and_every_gap_was_repaired_once(
    drawn: tuple[dict[int, int], list[Report]],
) -> None:
    market, said = drawn
    ledger, told = Ledger(), []
    for report in said:
        told += [(gap.first, state) for gap, state in taken(ledger, report).gaps]
    assert (ledger.holes, ledger.gaps) == ([], [])
    assert len(told) == len(set(told))
    assert {first for first, state in told if state == "open"} == {
        first for first, state in told if state == "repaired"
    }
    assert all(
        ledger.is_complete(start_us, start_us + MINUTE)
        for start_us, _ in minutes(market)
        if min(market) == 1 or start_us > max(time_us for _, _, time_us in said)
    )


@THOROUGH
@given(markets())
def test_news_name_every_minute_with_trades_of_which_the_answer_changed(
    drawn: tuple[dict[int, int], list[Report]],
) -> None:
    """A minute without trades has no candle; nobody has said anything of it."""
    market, said = drawn
    ledger, seen = Ledger(), set()
    for report in said:
        candles = [start_us for start_us, inside in minutes(market) if inside & seen]
        before = {start_us: ledger.is_complete(start_us, start_us + MINUTE) for start_us in candles}
        news = taken(ledger, report)
        changed = {at for at in candles if ledger.is_complete(at, at + MINUTE) != before[at]}
        named = [time_us + slack_us for time_us in news.times_us for slack_us in (-SLACK_US, SLACK_US)]
        assert changed <= {time_us // MINUTE * MINUTE for time_us in named}
        if report[0] == "see":
            seen.add(report[1])


def test_the_first_record_begins_the_ledger_and_is_no_news() -> None:
    ledger = Ledger()
    assert ledger.see(7, 100) is NOTHING
    assert ledger == Ledger(7, 100, 7, 100)
    ledger = Ledger()
    assert ledger.hear(7, 5 * SECOND) is NOTHING
    assert ledger == Ledger(8, 5 * SECOND, 7, 5 * SECOND - SLACK_US)


def test_the_next_trade_and_one_that_came_before_are_no_news() -> None:
    ledger = ledger_of(("see", 7, 100))
    assert ledger.see(8, 200) is NOTHING
    assert ledger.see(7, 100) is NOTHING
    assert ledger.see(8, 900) is NOTHING
    assert ledger == Ledger(7, 100, 8, 200)


def test_a_jump_opens_a_gap_between_the_times_of_its_neighbours() -> None:
    ledger = ledger_of(("see", 7, 100))
    gap = OpenGap(8, 10, "jump", 100, 200, 200)
    assert ledger.see(11, 200) == News(((gap, "open"),), (100, 200))
    assert (ledger.holes, ledger.gaps) == ([Hole(8, 10, 100, 200, 8)], [gap])
    assert (ledger.top_id, ledger.top_us) == (11, 200)


def test_a_heartbeat_that_names_a_trade_that_never_came_opens_a_gap() -> None:
    ledger = ledger_of(("see", 7, 100))
    gap = OpenGap(8, 9, "heartbeat", 100, 5 * SECOND, 5 * SECOND)
    assert ledger.hear(9, 5 * SECOND).gaps == ((gap, "open"),)
    assert ledger.holes == [Hole(8, 9, 100, 5 * SECOND, 8)]
    assert (ledger.top_id, ledger.top_us) == (9, 5 * SECOND - SLACK_US)
    assert ledger.hear(9, 6 * SECOND) is NOTHING
    assert ledger.top_us == 6 * SECOND - SLACK_US
    assert ledger.hear(8, 9 * SECOND) is NOTHING
    assert ledger.top_us == 6 * SECOND - SLACK_US


def test_two_gaps_next_to_each_other_stay_two() -> None:
    ledger = ledger_of(("see", 1, 0), ("hear", 3, 5 * SECOND), ("see", 6, 9 * SECOND))
    assert [(gap.first, gap.last, gap.cause) for gap in ledger.gaps] == [(2, 3, "heartbeat"), (4, 5, "jump")]
    assert ledger.holes == [Hole(2, 3, 0, 5 * SECOND, 2), Hole(4, 5, 4 * SECOND, 9 * SECOND, 4)]


def test_a_trade_in_the_middle_of_a_hole_leaves_two_with_its_time_between_them() -> None:
    ledger = ledger_of(("see", 1, 100), ("see", 9, 900))
    news = ledger.see(5, 500)
    assert news.gaps == ()
    assert set(news.times_us) >= {100, 500, 900}
    assert ledger.holes == [Hole(2, 4, 100, 500, 2), Hole(6, 8, 500, 900, 2)]
    assert [ledger.missing(*stretch) for stretch in ((0, 100), (0, 101), (500, 501), (501, 502), (901, 999))] == [
        0, 3, 6, 3, 0
    ]  # fmt: skip
    assert ledger.see(5, 500) is NOTHING


def test_a_gap_is_repaired_when_the_last_of_its_holes_is_filled() -> None:
    ledger = ledger_of(("see", 1, 100), ("see", 5, 900))
    gap = OpenGap(2, 4, "jump", 100, 900, 900)
    assert [ledger.see(number, 500).gaps for number in (3, 2, 4)] == [(), (), ((gap, "repaired"),)]
    assert (ledger.holes, ledger.gaps) == ([], [])
    assert ledger.is_complete(0, 1000)


def test_a_trade_from_before_the_first_extends_the_ledger_downwards() -> None:
    ledger = ledger_of(("see", 7, 700))
    assert not ledger.is_complete(700, 800)
    assert ledger.is_complete(701, 800)
    news = ledger.see(6, 600)
    assert news.gaps == ()
    assert set(news.times_us) >= {600, 700}
    assert ledger.is_complete(700, 800)
    gap = OpenGap(4, 5, "jump", 300, 600, 300)
    assert ledger.see(3, 300).gaps == ((gap, "open"),)
    assert (ledger.joined_id, ledger.joined_us) == (3, 300)
    assert [ledger.is_complete(start_us, 800) for start_us in (300, 600, 601)] == [False, False, True]


@pytest.mark.parametrize("first", [0, 1])
def test_before_the_first_trade_that_ever_was_nothing_is_missing(first: int) -> None:
    assert ledger_of(("see", first, 700)).is_complete(0, 800)
    assert not ledger_of(("see", 2, 700)).is_complete(0, 800)
    assert ledger_of(("hear", 0, 700)).is_complete(0, 800)


def test_a_hole_touches_the_stretch_that_begins_at_its_end_but_not_the_one_that_ends_at_its_begin() -> None:
    ledger = ledger_of(("see", 1, 100), ("see", 3, 200))
    assert [ledger.is_complete(*stretch) for stretch in ((50, 100), (50, 101), (200, 300), (201, 300))] == [
        True, False, False, True
    ]  # fmt: skip


def test_beyond_the_limit_the_two_oldest_holes_become_one_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.ledger.MAX_HOLES", 2)
    ledger = ledger_of(("see", 1, 100), ("see", 3, 300), ("see", 5, 500), ("see", 6, 600))
    first, second = ledger.gaps
    news = ledger.see(8, 800)
    third = OpenGap(7, 7, "jump", 600, 800, 800)
    wider = OpenGap(2, 4, "jump", 100, 500, 300)
    assert news.gaps == ((third, "open"), (wider, "open"), (second, "merged"))
    assert ledger.holes == [Hole(2, 4, 100, 500, 2), Hole(7, 7, 600, 800, 7)]
    assert ledger.gaps == [wider, third]
    assert first.first == wider.first
    assert not ledger.is_complete(300, 301)


def test_two_holes_of_one_gap_become_one_without_news_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.ledger.MAX_HOLES", 1)
    ledger = ledger_of(("see", 1, 100), ("see", 5, 500))
    assert ledger.see(3, 300).gaps == ()
    assert ledger.holes == [Hole(2, 4, 100, 500, 2)]
    assert [gap.first for gap in ledger.gaps] == [2]


def test_holes_of_a_gap_that_was_merged_belong_to_the_gap_that_took_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.ledger.MAX_HOLES", 2)
    ledger = ledger_of(("see", 1, 100), ("see", 3, 300), ("see", 9, 900), ("see", 6, 600))
    assert ledger.holes == [Hole(2, 5, 100, 600, 2), Hole(7, 8, 600, 900, 2)]
    assert [(gap.first, gap.last) for gap in ledger.gaps] == [(2, 8)]
    told = [ledger.see(number, 700).gaps for number in (7, 8, 2, 3, 4)]
    assert told == [()] * 5
    assert ledger.see(5, 500).gaps == ((OpenGap(2, 8, "jump", 100, 900, 300), "repaired"),)


def test_a_ledger_is_small_on_the_wire() -> None:
    ledger = ledger_of(("see", 1, 100), ("see", 3, 300))
    assert b'"holes":[[2,2,100,300,2]],"gaps":[[2,2,"jump",100,300,300]]' in msgspec.json.encode(ledger)
