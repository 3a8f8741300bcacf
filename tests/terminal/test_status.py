"""What is well and what is not, in words."""

from __future__ import annotations

import msgspec
import pytest
from answers import START_US, feed, product, status, worker

from candlewick.terminal.status import Look, judge

LATER = 31_000_000


def reasons(now_us: int = START_US, most_lag: int = 10_000, **changes: object) -> list[str]:
    return judge(status(**changes), now_us, most_lag)


def test_all_is_well() -> None:
    assert reasons() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"feeds": []}, "no feed has ever spoken: start `candlewick produce`"),
        ({"feeds": [feed(state="connecting")]}, "feed coinbase:up is connecting"),
        ({"feeds": [feed(state="stopped", error="no such product")]}, "feed coinbase:up is stopped: no such product"),
        ({"feeds": [feed(updated_us=START_US - LATER)]}, "feed coinbase:up has not spoken for 31 s: is its producer running?"),
        ({"feeds": [feed(state="stopped", updated_us=0)]}, "feed coinbase:up is stopped"),
        ({"feeds": [feed(connections=3, connected_connections=2)]}, "feed coinbase:up has 2 of 3 connections"),
        ({"workers": [worker(ready=False)]}, "worker http://127.0.0.1:6066 is not ready: its tables are being recovered"),
        ({"workers": [worker(ready=False, lag_records=None, error="503")]}, "worker http://127.0.0.1:6066 does not answer: 503"),
        ({"workers": [worker(lag_records=10_001)]}, "worker http://127.0.0.1:6066 is 10,001 records behind, over 10,000"),
        ({"products": [product("LTC-USD"), product("ETH-USD", "out of step")]}, "the book of ETH-USD is out of step"),
    ],
)  # fmt: skip
def test_what_is_not_well_is_named(changes: dict[str, object], told: str) -> None:
    assert reasons(**changes) == [told]


@pytest.mark.parametrize(
    "changes",
    [
        {"feeds": [feed(), feed("gone", state="stopped"), feed("dead", updated_us=0)]},
        {"products": [product(book="none", last_trade_age_ms=None, gaps=3)]},
        {"products": []},
        {"products": [product(), product("OLD-USD", "out of step")]},
        {"workers": [worker(lag_records=10_000)]},
    ],
)
def test_what_another_has_taken_over_or_is_only_quiet_is_well(changes: dict[str, object]) -> None:
    assert reasons(**changes) == []


def test_a_producer_that_is_gone_is_missed_where_no_other_has_all_its_products() -> None:
    gone = feed("gone", state="stopped", products=("BTC-USD", "SOL-USD"))
    assert reasons(feeds=[feed(), gone]) == ["feed coinbase:gone is stopped"]


@pytest.mark.parametrize(
    ("look", "code"),
    [(Look(True, [], status()), 0), (Look(False, ["x"], status()), 1), (Look(False, ["x"], None), 2)],
)
def test_the_exit_code_says_it_too(look: Look, code: int) -> None:
    assert look.code == code
    assert msgspec.json.decode(look.json)["well"] == look.well
    assert look.line == ("all is well" if look.well else "not well: x")
