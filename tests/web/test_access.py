"""Who may ask: hosts, origins, the token and the rate, as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from candlewick.config import Settings, load
from candlewick.web.access import MOST_ADDRESSES, ONE_HOP, OPEN, Access, Rate
from candlewick.web.problems import Problem

TOKEN = "0123456789abcdef"


def settings(**chosen: str) -> Settings:
    return load({f"CANDLEWICK_{name.upper()}": value for name, value in chosen.items()})


def asked(
    access: Access, path: str = "/v1/status", now: float = 0.0, address: str = "a", **headers: str
) -> str:
    """Return what a request gets: "", or the kind of its problem."""
    sent = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    try:
        access.origin(sent)
        access.check(path, sent, address, now)
    except Problem as problem:
        return problem.kind
    return ""


# The host.


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:6066",
        "127.0.0.1",
        "localhost:6066",
        "LOCALHOST",
        "[::1]:6066",
        "127.8.8.8",
        "desk:6066",
        "Desk",
        "charts.example.org",
    ],
)
def test_names_that_nobody_else_can_have_are_ours(host: str) -> None:
    access = Access(settings(advertised_host="Desk", cors_origins="https://charts.example.org"))
    assert asked(access, Host=host) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:6066", "localhost.evil.example", "127.0.0.1.nip.io", "localhost.", "a@localhost.evil",
     "0.0.0.0:6066", "[::", "192.168.1.1:6066", "[fe80::1]", "127.0.0.1evil", "\udcff"],
)  # fmt: skip
def test_without_a_token_a_page_cannot_ask_by_a_name_of_its_own(host: str) -> None:
    access = Access(settings())
    assert asked(access, Host=host, Origin=f"http://{host}") == "forbidden-host"
    assert asked(access, "/healthz", Host=host) == "forbidden-host"
    # With one, whoever has it may call the worker what he likes: the page has none.
    guarded = Access(settings(token=TOKEN))
    assert asked(guarded, Host=host, Origin=f"http://{host}") == "unauthorised"
    assert asked(guarded, Host=host, Authorization=f"Bearer {TOKEN}") == ""


def test_a_request_that_names_no_host_is_from_no_browser() -> None:
    assert asked(Access(settings())) == ""


# The origin.


@pytest.mark.parametrize(
    ("origin", "kind"),
    [
        ("http://127.0.0.1:6066", ""),
        ("https://127.0.0.1:6066", ""),  # TLS ends in front of us
        ("https://charts.example.org", ""),
        ("https://charts.example.org:444", "forbidden-origin"),
        ("http://charts.example.org", "forbidden-origin"),
        ("https://sub.charts.example.org", "forbidden-origin"),
        ("https://charts.example.org.evil", "forbidden-origin"),
        ("http://127.0.0.1", "forbidden-origin"),
        ("http://127.0.0.1:6067", "forbidden-origin"),
        ("http://localhost:6066", "forbidden-origin"),
        ("null", "forbidden-origin"),
        ("*", "forbidden-origin"),
        ("\udcff", "forbidden-origin"),
    ],
)
def test_pages_of_named_origins_may_ask_and_our_own(origin: str, kind: str) -> None:
    access = Access(settings(cors_origins="https://Charts.example.org"))
    assert asked(access, Host="127.0.0.1:6066", Origin=origin) == kind


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_host_and_no_origin_breaks_it(host: str, origin: str) -> None:
    kind = asked(Access(settings()), Host=host, Origin=origin)
    assert kind in {"", "forbidden-host", "forbidden-origin"}
    assert kind or not origin or origin.partition("://")[2] == host
    try:
        Access(settings()).origin({"Host": host, "Origin": origin})
    except Problem as problem:
        assert problem.body("/").isascii()


# The token.


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (f"Bearer {TOKEN}", ""),
        (f"bearer  {TOKEN} ", ""),
        ("", "unauthorised"),
        (TOKEN, "unauthorised"),
        (f"Basic {TOKEN}", "unauthorised"),
        ("Bearer", "unauthorised"),
        ("Bearer ", "unauthorised"),
        (f"Bearer {TOKEN}x", "unauthorised"),
        (f"Bearer {TOKEN[:-1]}", "unauthorised"),
        (f"Bearer {TOKEN.upper()}", "unauthorised"),
        (f"Bearer {TOKEN}\udcff", "unauthorised"),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", "unauthorised"),
    ],
)
def test_the_token_is_needed_whole(sent: str, kind: str) -> None:
    access = Access(settings(token=TOKEN))
    assert asked(access, Authorization=sent) == kind
    for path in (*OPEN, "/static/x.js"):
        assert asked(access, path, Authorization=sent) == ""


@pytest.mark.parametrize(
    "path",
    ["/v1/status", "/stats/1m/BTC-USD", "/metrics", "/v1/ws", "/static", "/healthz/", "//", "/docs/x", ""],
)
def test_only_what_is_listed_is_open(path: str) -> None:
    assert asked(Access(settings(token=TOKEN)), path) == "unauthorised"


# The rate.


def test_one_address_is_slowed_and_others_are_not() -> None:
    access = Access(settings(rate_per_s="10"))
    assert [asked(access) for _ in range(21)] == [""] * 20 + ["rate-limited"]
    assert asked(access, address="b") == ""
    assert asked(access, now=0.11) == ""
    assert asked(access, now=0.11) == "rate-limited"
    assert [asked(access, now=100.0) for _ in range(21)] == [""] * 20 + ["rate-limited"]


def test_the_wait_that_is_told_is_long_enough() -> None:
    rate = Rate(0.5, 1)
    assert rate.wait_s("a", 0.0) == 0
    wait_s = rate.wait_s("a", 0.0)
    assert wait_s == 2.0
    assert rate.wait_s("a", 1.9) > 0
    assert rate.wait_s("a", 2.0) == 0


def test_the_header_tells_whole_seconds_and_enough_of_them() -> None:
    access = Access(settings(rate_per_s="0.5"))
    assert asked(access) == ""
    with pytest.raises(Problem) as caught:
        access.check("/v1/status", {}, "a", 0.8)
    wait_s = int(caught.value.headers["Retry-After"])
    assert wait_s == 2
    assert asked(access, now=0.8 + wait_s) == ""


def test_wrong_tokens_count_and_what_a_worker_passes_on_does_not() -> None:
    access = Access(settings(rate_per_s="1", token=TOKEN))
    passed_on = {ONE_HOP: "1"}
    for _ in range(10):
        assert asked(access, Authorization=f"Bearer {TOKEN}", **passed_on) == ""
    assert [asked(access, **passed_on) for _ in range(3)] == ["unauthorised", "unauthorised", "rate-limited"]
    assert asked(access, "/healthz") == "rate-limited"


def test_a_rate_of_zero_is_none() -> None:
    access = Access(settings(rate_per_s="0"))
    assert {asked(access) for _ in range(10_000)} == {""}


def test_addresses_without_number_take_no_memory_without_number() -> None:
    rate = Rate(1, 2)
    for number in range(2 * MOST_ADDRESSES):
        rate.wait_s(str(number), float(number))
    assert len(rate._left) == MOST_ADDRESSES
