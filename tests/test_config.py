"""The settings: defaults, names old and new, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from candlewick.config import (
    HIDDEN,
    PREFIX,
    SECRETS,
    Settings,
    env_name,
    file_name,
    is_loopback,
    load,
    may_bind,
    table,
)
from models.errors import ConfigError

WRONG: dict[str, list[str]] = {
    "broker": ["kafka", "kafka:", ":9092", "kafka:0", "kafka:65536", "a:1,b", "a:1,", "x" * 2001],
    "products": ["btc-usd", "BTC", "BTC-USD,ETH", "../etc-X", "BTC-USD;ETH-USD", "BTC-" + "X" * 21],
    "speed": ["-1", "10001", "nan", "inf", "fast", "1e400"],
    "seed": ["-1", "1.5", "x"],
    "port": ["0", "-1", "65536", "http", "6066.5"],
    "mock_port": ["-1", "65536", "x"],
    "mock_levels": ["0", "10001", "x"],
    "kafka_security": ["tls", "SSL", "sasl_plaintext"],
    "kafka_user": ["a\tb", "a\nb"],
    "kafka_password": ["a\nb", "a\x00"],
    "kafka_mechanism": ["GSSAPI", "scram-sha-512"],
    "token": ["short", "x" * 201, "with a blank in it", "ääääääääääääääääää", "0123456789abcdef\n"],
    "cors_origins": ["*", "null", "example.org", "https://example.org/", "https://*.example.org", "ftp://a"],
    "rate_per_s": ["-1", "1000001", "nan", "x"],
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
    "url": [
        "127.0.0.1:6066",
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:70000",
        "http://a b",
        "http://u:p@a",
        "http://a?b",
    ],
    "log_level": ["verbose", "INFO ", "trace"],
}
ANY_TEXT = {
    "data_dir", "feed", "exchange", "host", "advertised_host", "mock_host", "record_dir",
    "kafka_ca", "kafka_cert", "kafka_key",
}  # fmt: skip
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
    shown = HIDDEN if name in SECRETS else value.replace("u:p@", f"{HIDDEN}@")
    assert str(caught.value) == f"{env_name(name)} is {shown!r}, but must be {may_be}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_option_is_named_as_the_option(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({env_name(name): "irrelevant"}, **{name: WRONG[name][0]})
    shown = HIDDEN if name in SECRETS else WRONG[name][0]
    assert str(caught.value).startswith(f"--{name.replace('_', '-')} is {shown!r}, but must be ")


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
    names = {env_name(name) for name in Settings.model_fields} | {file_name(name) for name in SECRETS}
    assert load({}).env().keys() == names


def test_the_table_describes_every_setting_in_full() -> None:
    rows = table()
    assert [variable for variable, *_ in rows] == [env_name(name) for name in Settings.model_fields]
    for variable, _, default, what, may_be in rows:
        assert variable.startswith(PREFIX)
        assert variable == variable.upper()
        assert what.endswith("."), f"{variable} is not described in a sentence"
        assert may_be, f"{variable} does not say what it may be"
        assert load({variable: default}) == Settings(), f"the default of {variable} cannot be set"


# Secrets.

TOKEN = "0123456789abcdef-canary"


def test_the_secrets_are_token_and_password() -> None:
    assert {"token", "kafka_password"} == SECRETS


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_a_secret_may_lie_in_a_file(secret: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{TOKEN}\n")
    others = {"CANDLEWICK_KAFKA_SECURITY": "sasl_ssl", "CANDLEWICK_KAFKA_USER": "u"}
    others["CANDLEWICK_KAFKA_PASSWORD"] = "" if secret == "kafka_password" else "p"
    settings = load({**others, file_name(secret): str(file)})
    assert getattr(settings, secret).get_secret_value() == TOKEN
    there = {**others, file_name(secret): str(file), env_name(secret): "another-0123456789"}
    assert getattr(load(there), secret).get_secret_value() == "another-0123456789"


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"", "empty"), (b" \n", "empty"), (b"\xff", "not text")]
)
def test_a_secrets_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        load({"CANDLEWICK_TOKEN_FILE": str(file)})
    assert str(caught.value).startswith(f"CANDLEWICK_TOKEN_FILE is {str(file)!r}, but must be a file")


def test_a_child_does_not_read_a_file_that_its_parent_was_not_told_of(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(TOKEN)
    environ = {"CANDLEWICK_TOKEN_FILE": str(tmp_path / "secret")}
    assert not load({**environ, **Settings().env()}).token


def test_a_secret_is_not_shown() -> None:
    settings = Settings(token=TOKEN, kafka_password=TOKEN)  # type: ignore[arg-type]
    assert TOKEN not in f"{settings!r} {settings} {settings.model_dump()}"
    with pytest.raises(ConfigError) as caught:
        load({"CANDLEWICK_TOKEN": f"{TOKEN}\n"})
    assert "canary" not in f"{caught.value} {caught.value!r}"


TLS = {"CANDLEWICK_KAFKA_SECURITY": "ssl"}
SASL = {"CANDLEWICK_KAFKA_SECURITY": "sasl_ssl"}


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"CANDLEWICK_KAFKA_PASSWORD": "p"},
         "CANDLEWICK_KAFKA_SECURITY is 'plaintext', but must be sasl_ssl where CANDLEWICK_KAFKA_PASSWORD is set"),
        ({"CANDLEWICK_KAFKA_USER": "u"},
         "CANDLEWICK_KAFKA_SECURITY is 'plaintext', but must be sasl_ssl where CANDLEWICK_KAFKA_USER is set"),
        ({"CANDLEWICK_KAFKA_CA": "ca.pem"},
         "CANDLEWICK_KAFKA_SECURITY is 'plaintext', but must be ssl or sasl_ssl where CANDLEWICK_KAFKA_CA is set"),
        (TLS | {"CANDLEWICK_KAFKA_USER": "u"},
         "CANDLEWICK_KAFKA_SECURITY is 'ssl', but must be sasl_ssl where CANDLEWICK_KAFKA_USER is set"),
        (SASL, "CANDLEWICK_KAFKA_USER is '', but must be set where CANDLEWICK_KAFKA_SECURITY is sasl_ssl"),
        (SASL | {"CANDLEWICK_KAFKA_USER": "u"},
         "CANDLEWICK_KAFKA_PASSWORD is '', but must be set where CANDLEWICK_KAFKA_SECURITY is sasl_ssl"),
        (TLS | {"CANDLEWICK_KAFKA_CERT": "c"}, "CANDLEWICK_KAFKA_KEY is '', but must be set where CANDLEWICK_KAFKA_CERT is"),
        (TLS | {"CANDLEWICK_KAFKA_KEY": "k"}, "CANDLEWICK_KAFKA_CERT is '', but must be set where CANDLEWICK_KAFKA_KEY is"),
    ],
)  # fmt: skip
def test_settings_of_kafka_that_do_not_go_together_are_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert str(caught.value) == says


# What is bound.


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.53", "::1"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    may_bind(Settings(), host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.10", "10.0.0.1", "worker-1", "127.0.0.1.nip.io", "localhost.", "", "0"],
)
def test_what_others_can_reach_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        may_bind(Settings(), host)
    said = str(caught.value)
    assert said.startswith(f"CANDLEWICK_HOST is {host!r}, but must be 127.0.0.1, ")
    assert "while CANDLEWICK_TOKEN is not set: `openssl rand -hex 24` makes one" in said
    may_bind(Settings(token=TOKEN), host)  # type: ignore[arg-type]
