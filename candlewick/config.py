"""Every setting, once: read from ``CANDLEWICK_*``, checked, and frozen before anything starts.

Also valid are the six names that the first system of this kind used, and for a secret the name of a file
that holds it. A wrong setting is one line: which one, what it was, what it may be. A secret is never shown.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from models.errors import ConfigError

PREFIX = "CANDLEWICK_"
_is_token = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}\Z").match
_is_url = re.compile(
    r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?\Z"
).match
_is_origin = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?\Z").match
_is_secret = re.compile(r"[^\x00-\x1f\x7f]*\Z").match
PRODUCT_ID = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}\Z")
MOCK_PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "LTC-USD")


def _setting(default: Any, what: str, may_be: str, old_name: str = "", **limits: Any) -> Any:
    return Field(
        default,
        description=what,
        json_schema_extra={"may_be": may_be, "old_name": old_name},
        **limits,
    )


class Settings(BaseModel):
    """What can be set. Each field is ``CANDLEWICK_`` and its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = _setting(
        Path("candlewick-data"), "Folder of everything that lasts: topics, tables, logs.", "a folder"
    )
    broker: str = _setting(
        "", "Kafka to use, instead of the embedded one.", "host:port, several with commas", max_length=2000
    )
    kafka_security: Literal["plaintext", "ssl", "sasl_ssl"] = _setting(
        "plaintext",
        "How Kafka is spoken to: in clear, over TLS, or over TLS with a user and a password.",
        "plaintext, ssl or sasl_ssl",
    )
    kafka_ca: str = _setting(
        "",
        "Certificates that Kafka's own must be signed by; empty: those that this machine trusts.",
        "a PEM file",
    )
    kafka_cert: str = _setting("", "Our certificate, where Kafka asks for one.", "a PEM file")
    kafka_key: str = _setting("", "The key of our certificate, without a passphrase.", "a PEM file")
    kafka_user: str = _setting("", "User of sasl_ssl.", "a name", pattern=r"^[^\x00-\x1f\x7f]*$")
    kafka_password: SecretStr = _setting(
        SecretStr(""),
        f"Password of that user; `{PREFIX}KAFKA_PASSWORD_FILE` names a file that holds it.",
        "one line",
    )
    kafka_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = _setting(
        "SCRAM-SHA-512", "How user and password are told to Kafka.", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN"
    )
    feed: str = _setting("mock", "Where frames come from.", "mock, live, or a recording's file")
    exchange: str = _setting(
        "coinbase", "Exchange whose protocol the feed speaks.", "a name in producers/exchanges"
    )
    products: tuple[str, ...] = _setting(
        (),
        "Products to follow; none: the feed's own.",
        "product ids with commas, such as BTC-USD,ETH-USD",
        "PRODUCT_ID",
    )
    speed: float = _setting(
        1.0, "How fast mock and recording run; 0: as fast as it goes.", "0 to 10000", ge=0, le=10000
    )
    seed: int = _setting(1, "Seed of the simulated market.", "a whole number from 0", ge=0)
    host: str = _setting(
        "127.0.0.1",
        "Address that the web views bind.",
        "an IPv4 address or a name of this machine",
        pattern=r"^[A-Za-z0-9.-]{1,253}$",
    )
    port: int = _setting(6066, "Port of the web views.", "1 to 65535", ge=1, le=65535)
    advertised_host: str = _setting(
        "", "Name under which other workers reach this one; empty: the address it binds.", "a host name"
    )
    mock_host: str = _setting(
        "127.0.0.1", "Address that the mock exchange binds.", "an address of this machine", "MOCK_SERVER"
    )
    mock_port: int = _setting(
        0, "Port of the mock exchange; 0: a free one.", "0 to 65535", "MOCK_PORT", ge=0, le=65535
    )
    mock_levels: int = _setting(
        50, "Levels a side that the mock's snapshots carry.", "1 to 10000", "L2UPDATE_COUNT", ge=1, le=10000
    )
    record_dir: str = _setting(
        "", "Folder to keep raw frames in; empty: they are not kept.", "a folder", "DATA_STORE"
    )
    token: SecretStr = _setting(
        SecretStr(""),
        "Bearer token that every request must carry; needed where the views bind more than loopback. "
        f"`{PREFIX}TOKEN_FILE` names a file that holds it.",
        "at least 16 letters, digits, . _ ~ + / = -",
    )
    url: str = _setting(
        "",
        "Worker that `watch`, `candles`, `status`, `gaps` and `doctor` ask; empty: the host and port above.",
        "an address such as http://127.0.0.1:6066",
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "Origins whose pages may ask, beside our own.", "origins with commas, such as https://example.org"
    )
    rate_per_s: float = _setting(
        1000, "Requests a second that one address may make; 0: any.", "0 to 1000000", ge=0, le=1_000_000
    )
    app_id: str = _setting(
        "candlewick",
        "Consumer group, and prefix of the tables' topics.",
        "letters, digits, . _ -",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
    )
    worker_id: str = _setting(
        "",
        "Name that a worker keeps over restarts, so that it has its partitions back at once.",
        "letters, digits, . _ -",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
    )
    partitions: int = _setting(
        8, "Partitions of each topic; fixed for the life of the topics.", "1 to 1000", ge=1, le=1000
    )
    replication: int = _setting(1, "Copies of each topic.", "1 to 10", ge=1, le=10)
    retention_days: float = _setting(
        7,
        "Days that trades and books stay in their topics. An old record counts from its writing.",
        "2 to 3650",
        ge=2,
        le=3650,
    )
    keep_1m_days: float = _setting(
        7,
        "Days that one-minute candles and book statistics are kept; 0: for ever.",
        "0, or 1 to 36500",
        ge=0,
        le=36500,
    )
    keep_1h_days: float = _setting(
        90,
        "The same of one-hour ones; those of a day are kept for ever.",
        "0, or 1 to 36500",
        ge=0,
        le=36500,
    )
    grace_s: float = _setting(
        10,
        "Seconds of event time that a candle waits for late trades, in all processes.",
        "0 to 86400",
        ge=0,
        le=86400,
    )
    keyframe_s: float = _setting(
        30, "Seconds between two whole books in the log.", "1 to 3600", ge=1, le=3600
    )
    book_levels: int = _setting(
        10, "Levels a side that depth and imbalance sum up.", "1 to 1000", ge=1, le=1000
    )
    connection_products: int = _setting(
        25, "Products that share one connection to the exchange.", "1 to 1000", ge=1, le=1000
    )
    lose_books_on_gaps: bool = _setting(
        True,
        "Missed trades also mean a lost book; false where the holes lie in a recording.",
        "true or false",
    )
    spill_mb: int = _setting(
        1024,
        "MiB of disk for what a producer receives while Kafka is away; 0: none, the feed waits.",
        "0 to 1000000",
        ge=0,
        le=1_000_000,
    )
    batch_records: int = _setting(
        2000, "Records that a worker takes at once.", "1 to 100000", ge=1, le=100000
    )
    commit_s: float = _setting(
        1.0, "Seconds between two times that rows and offsets are written.", "0.05 to 60", ge=0.05, le=60
    )
    session_s: float = _setting(
        10, "Seconds without a sign of life after which a worker's partitions move.", "6 to 300", ge=6, le=300
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "What is logged.", "debug, info, warning or error"
    )

    @field_validator("token")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not _is_token(value.get_secret_value()):
            raise ValueError("not shown")
        return value

    @field_validator("kafka_password")
    @classmethod
    def _on_one_line(cls, value: SecretStr) -> SecretStr:
        if not _is_secret(value.get_secret_value()):
            raise ValueError("not shown")
        return value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and (not _is_url(value) or urlsplit(value).port == 0):  # a port too large is an error there
            raise ValueError(value)
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _is_origin(origin):
                raise ValueError(origin)
        return value

    @field_validator("products", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return names_in(value) if isinstance(value, str) else value

    @field_validator("products")
    @classmethod
    def _well_formed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for product in value:
            if not PRODUCT_ID.match(product):
                raise ValueError(product)
        return value

    @field_validator("keep_1m_days", "keep_1h_days")
    @classmethod
    def _a_day_at_least(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError(value)
        return value

    @field_validator("broker")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(",") if value else ():
            host, _, port = address.strip().rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(address)
        return value

    def keep_us(self) -> dict[str, int]:
        """Return how long closed windows are kept, by name, in microseconds; for ever where not named."""
        days = {"1m": self.keep_1m_days, "1h": self.keep_1h_days}
        return {name: round(value * 86_400_000_000) for name, value in days.items() if value}

    def env(self) -> dict[str, str]:
        """Return these settings as the environment of another process of ours."""
        values: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
                values[file_name(name)] = ""  # what the caller's own environment names is not meant
            values[env_name(name)] = ",".join(value) if isinstance(value, tuple) else str(value)
        return values


def names_in(text: str) -> tuple[str, ...]:
    """Return names with commas between them, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def env_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + field.upper()


def file_name(secret: str) -> str:
    """Return the environment variable that names the file of a secret."""
    return env_name(secret) + "_FILE"


def load(environ: Mapping[str, str], **options: Any) -> Settings:
    """Read the settings: options of the command first, then the environment, then the defaults.

    Raises:
        ConfigError: one of them is wrong, or does not fit another; the first is named.
    """
    values: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        old_name = _extra(field, "old_name")
        if options.get(name) is not None:
            values[name] = options[name]
        elif environ.get(env_name(name)):
            values[name] = environ[env_name(name)]
        elif old_name and environ.get(old_name):
            values[name] = environ[old_name]
        elif name in SECRETS and environ.get(file_name(name)):
            values[name] = _secret_in(file_name(name), environ[file_name(name)])
    if "feed" not in values and environ.get("USE_MOCKED_FEED"):
        values["feed"] = "mock" if _is_true("USE_MOCKED_FEED", environ["USE_MOCKED_FEED"]) else "live"
    try:
        settings = Settings(**values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        value = HIDDEN if name in SECRETS else _without_password(values.get(name))
        may_be = _extra(Settings.model_fields[name], "may_be")
        raise ConfigError(_spoken(name, environ, options), value, may_be) from None
    _must_fit(settings)
    return settings


def _without_password(value: object) -> object:
    return re.sub(r"//[^/@]*@", f"//{HIDDEN}@", value) if isinstance(value, str) else value


SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)
HIDDEN = "***"


def _secret_in(variable: str, path: str) -> str:
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(variable, path, f"a file that can be read ({why})") from None
    if not secret.strip():
        raise ConfigError(variable, path, "a file with the secret in it: this one is empty")
    return secret


_TLS = ("kafka_ca", "kafka_cert", "kafka_key")
_SASL = ("kafka_user", "kafka_password")
_SECURED_BY = {**dict.fromkeys(_SASL, ("sasl_ssl",)), **dict.fromkeys(_TLS, ("ssl", "sasl_ssl"))}
"""Which ways of speaking to Kafka make use of a setting; in the others it must not be set."""


def _must_fit(settings: Settings) -> None:
    """Refuse settings of Kafka that do not go together: nothing is to be sent in clear by mistake."""
    security = settings.kafka_security
    for name, ways in _SECURED_BY.items():
        if getattr(settings, name) and security not in ways:
            may_be = f"{' or '.join(ways)} where {env_name(name)} is set"
            raise ConfigError(env_name("kafka_security"), security, may_be)
    for name in _SASL if security == "sasl_ssl" else ():
        if not getattr(settings, name):
            raise ConfigError(env_name(name), "", f"set where {env_name('kafka_security')} is sasl_ssl")
    for name, other in (("kafka_cert", "kafka_key"), ("kafka_key", "kafka_cert")):
        if getattr(settings, name) and not getattr(settings, other):
            raise ConfigError(env_name(other), "", f"set where {env_name(name)} is")


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address that is bound."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_bind(settings: Settings, host: str) -> None:
    """Make sure that web views which others can reach ask for a token; call it before an address is bound.

    Raises:
        ConfigError: others can reach it, and there is no token.
    """
    if not is_loopback(host) and not settings.token:
        made = "`openssl rand -hex 24` makes one"
        may_be = f"127.0.0.1, which only this machine reaches, while {env_name('token')} is not set: {made}"
        raise ConfigError(env_name("host"), host, may_be)


def table() -> list[tuple[str, str, str, str, str]]:
    """Return a row for each setting: variable, old name, default, what it is, what it may be."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        old = "USE_MOCKED_FEED" if name == "feed" else _extra(field, "old_name")
        rows.append((env_name(name), old, default, field.description or "", _extra(field, "may_be")))
    return rows


def _extra(field: Any, key: str) -> str:
    return str(field.json_schema_extra[key])


def _spoken(name: str, environ: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """Name a setting as the user gave it."""
    if options.get(name) is not None:
        return "--" + name.replace("_", "-")
    old = _extra(Settings.model_fields[name], "old_name")
    return env_name(name) if environ.get(env_name(name)) or not old else old


def _is_true(name: str, text: str) -> bool:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if text.strip().lower() not in words:
        raise ConfigError(name, text, "true or false")
    return words[text.strip().lower()]


def markdown() -> str:
    """Return the table of settings for the README."""
    lines = ["| variable | default | what it is | may be |", "|---|---|---|---|"]
    for name, old, default, what, may_be in table():
        also = f" (also `{old}`)" if old else ""
        lines.append(f"| `{name}`{also} | {f'`{default}`' if default else ''} | {what} | {may_be} |")
    return "\n".join(lines)
