"""The settings: defaults, names old and new, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from candlewick.config import PREFIX, Settings, env_name, load, table
from models.errors import ConfigError

WRONG: dict[str, list[str]] = {
    "broker": ["kafka", "kafka:", ":9092", "kafka:0", "kafka:65536", "a:1,b", "a:1,", "x" * 2001],
    "products": ["btc-usd", "BTC", "BTC-USD,ETH", "../etc-X", "BTC-USD;ETH-USD", "BTC-" + "X" * 21],
    "speed": ["-1", "10001", "nan", "inf", "fast", "1e400"],
    "seed": ["-1", "1.5", "x"],
    "port": ["0", "-1", "65536", "http", "6066.5"],
    "mock_port": ["-1", "65536", "x"],
    "mock_levels": ["0", "10001", "x"],
    "app_id": ["a b", "ä", "x" * 101, "a/b"],
    "worker_id": ["a b", "x" * 101, "a/b"],
    "partitions": ["0", "1001", "x"],
    "replication": ["0", "11"],
    "retention_days": ["0", "1.9", "-1", "3651", "nan", "inf"],
    "grace_s": ["-0.1", "86401", "nan"],
    "keyframe_s": ["0.9", "3601"],
    "book_levels": ["0", "1001"],
    "connection_products": ["0", "1001"],
    "lose_books_on_gaps": ["2", "maybe", "-1"],
    "spill_mb": ["-1", "1000001", "x"],
    "batch_records": ["0", "100001"],
    "commit_s": ["0.04", "61", "nan"],
    "keep_1m_days": ["-1", "0.5", "nan", "36501"],
    "keep_1h_days": ["-1", "0.99", "36501"],
    "session_s": ["5.9", "301"],
    "log_level": ["verbose", "INFO ", "trace"],
}
ANY_TEXT = {"data_dir", "feed", "exchange", "host", "advertised_host", "mock_host", "record_dir"}
"""Checked where they are used: a folder, an address or a name is right or wrong on this machine, now."""

OLD_NAMES = {
    "PRODUCT_ID": ("ETH-USD", "products", ("ETH-USD",)),
    "DATA_STORE": ("/frames", "record_dir", "/frames"),
    "USE_MOCKED_FEED": ("false", "feed", "live"),
    "MOCK_SERVER": ("0.0.0.0", "mock_host", "0.0.0.0"),
    "MOCK_PORT": ("9100", "mock_port", 9100),
    "L2UPDATE_COUNT": ("25", "mock_levels", 25),
}


def test_without_any_setting_the_defaults_hold() -> None:
    settings = load({})
    assert settings == Settings()
    assert (settings.feed, settings.host, settings.port) == ("mock", "127.0.0.1", 6066)


def test_settings_do_not_change_after_they_were_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load({}).port = 1


def test_each_setting_is_either_checked_when_read_or_where_it_is_used() -> None:
    assert WRONG.keys() | ANY_TEXT == Settings.model_fields.keys()
    assert not WRONG.keys() & ANY_TEXT


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_wrong_setting_is_one_line_with_its_name_its_value_and_what_it_may_be(
    name: str, value: str
) -> None:
    may_be = {variable: row[-1] for variable, *row in table()}[env_name(name)]
    with pytest.raises(ConfigError) as caught:
        load({env_name(name): value})
    assert str(caught.value) == f"{env_name(name)} is {value!r}, but must be {may_be}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_option_is_named_as_the_option(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({env_name(name): "irrelevant"}, **{name: WRONG[name][0]})
    assert str(caught.value).startswith(f"--{name.replace('_', '-')} is {WRONG[name][0]!r}, but must be ")


def test_an_option_goes_before_the_environment_and_that_before_an_old_name() -> None:
    environ = {"CANDLEWICK_PRODUCTS": "ETH-USD", "PRODUCT_ID": "LTC-USD"}
    assert load(environ, products="BTC-USD").products == ("BTC-USD",)
    assert load(environ).products == ("ETH-USD",)
    assert load({"PRODUCT_ID": "LTC-USD"}).products == ("LTC-USD",)


def test_an_option_of_zero_counts_as_given() -> None:
    assert load({"CANDLEWICK_SPEED": "5"}, speed=0).speed == 0


def test_an_empty_variable_counts_as_none() -> None:
    assert load(dict.fromkeys([*map(env_name, Settings.model_fields), *OLD_NAMES], "")) == Settings()


@pytest.mark.parametrize("old", OLD_NAMES)
def test_the_names_of_the_first_system_still_hold(old: str) -> None:
    text, name, value = OLD_NAMES[old]
    assert getattr(load({old: text}), name) == value


def test_the_table_gives_each_old_name_once() -> None:
    assert sorted(old for _, old, *_ in table() if old) == sorted(OLD_NAMES)


@pytest.mark.parametrize(
    ("old", "value"),
    [("PRODUCT_ID", "btc"), ("MOCK_PORT", "x"), ("L2UPDATE_COUNT", "0"), ("USE_MOCKED_FEED", "maybe")],
)
def test_a_wrong_setting_under_its_old_name_is_named_so(old: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({old: value})
    assert str(caught.value).startswith(f"{old} is {value!r}, but must be ")


@pytest.mark.parametrize(
    ("text", "feed"),
    [("true", "mock"), ("1", "mock"), (" Yes ", "mock"), ("FALSE", "live"), ("0", "live"), ("off", "live")],
)
def test_use_mocked_feed_chooses_between_mock_and_live(text: str, feed: str) -> None:
    assert load({"USE_MOCKED_FEED": text}).feed == feed
    assert load({"USE_MOCKED_FEED": text, "CANDLEWICK_FEED": "a.jsonl"}).feed == "a.jsonl"


def test_products_lose_blanks_and_repetitions_and_keep_their_order() -> None:
    assert load({"CANDLEWICK_PRODUCTS": " ETH-USD, BTC-USD ,,ETH-USD,"}).products == ("ETH-USD", "BTC-USD")


def test_several_brokers_are_named_with_commas() -> None:
    assert load({"CANDLEWICK_BROKER": "a:9092,[::1]:9093"}).broker == "a:9092,[::1]:9093"


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Settings(speeed=1)  # type: ignore[call-arg]


names = st.text("abcXYZ019._-", min_size=1, max_size=20)
products = st.lists(
    st.from_regex(r"[A-Z0-9]{1,9}-[A-Z0-9]{1,9}", fullmatch=True), unique=True, max_size=4
).map(tuple)
any_settings = st.fixed_dictionaries(
    {},
    optional={
        "data_dir": names.map(Path),
        "broker": st.sampled_from(["", "kafka:9092", "a:1,b:65535"]),
        "feed": st.sampled_from(["mock", "live", "ws://mock-exchange:9100", "/a b/c.jsonl.gz"]),
        "products": products,
        "speed": st.floats(0, 10_000),
        "seed": st.integers(0, 2**70),
        "port": st.integers(1, 65535),
        "advertised_host": names,
        "record_dir": names,
        "app_id": names,
        "worker_id": names,
        "retention_days": st.floats(2, 3650),
        "grace_s": st.floats(0, 86400),
        "commit_s": st.floats(0.05, 60),
        "lose_books_on_gaps": st.booleans(),
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    },
)


@given(any_settings)
def test_another_process_reads_the_same_settings_from_the_environment(values: dict[str, Any]) -> None:
    settings = Settings(**values)
    assert load(settings.env()) == settings


def test_the_environment_holds_every_setting_and_nothing_else() -> None:
    assert load({}).env().keys() == {env_name(name) for name in Settings.model_fields}


def test_the_table_describes_every_setting_in_full() -> None:
    rows = table()
    assert [variable for variable, *_ in rows] == [env_name(name) for name in Settings.model_fields]
    for variable, _, default, what, may_be in rows:
        assert variable.startswith(PREFIX)
        assert variable == variable.upper()
        assert what.endswith("."), f"{variable} is not described in a sentence"
        assert may_be, f"{variable} does not say what it may be"
        assert load({variable: default}) == Settings(), f"the default of {variable} cannot be set"
