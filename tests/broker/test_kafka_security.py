"""Kafka over TLS and SASL, for real: the whole way of a trade, what is refused, and what is never written down."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from rig import Command, free_port, get, until

from candlewick import config, topics
from candlewick.kafka import address
from candlewick.kafka.broker import EmbeddedBroker, free_ports
from candlewick.kafka.security import checked, options, properties
from models.errors import CandlewickError
from producers.topic import ensure_topics

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
USER = "alice"
PASSWORD = 'canary "pass\\word";'
"""With whatever a file of properties, or JAAS within it, could take for its own."""
TOKEN = "canary-0123456789abcdef"
SECRETS = (PASSWORD, "canary")


class Kafka(NamedTuple):
    """A broker with a listener for each way."""

    folder: Path
    log: Path
    tls: str
    mtls: str
    sasl: str
    clear: str
    wrong_name: str
    """The listener ``tls``, by a name that is not in its certificate."""

    def file(self, name: str) -> str:
        return str(self.folder / name)


def pem(key: trustme.Blob) -> bytes:
    """Return a key as Kafka reads it: PKCS#8."""
    loaded = serialization.load_pem_private_key(key.bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def keep(folder: Path, name: str, leaf: trustme.LeafCert) -> None:
    (folder / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    (folder / f"{name}-key.pem").write_bytes(pem(leaf.private_key_pem))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    folder = tmp_path_factory.mktemp("secure")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other-ca.pem"))
    keep(folder, "server", ca.issue_cert("127.0.0.1"))
    keep(folder, "client", ca.issue_cert("candlewick.test", common_name="candlewick"))
    keep(folder, "foreign", other.issue_cert("candlewick.test", common_name="candlewick"))
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    keep(
        folder,
        "expired",
        ca.issue_cert(
            "candlewick.test",
            common_name="candlewick",
            not_before=long_ago,
            not_after=long_ago.replace(month=2),
        ),
    )
    clear, tls, mtls, sasl, controller = free_ports(5)
    listeners = {"PLAINTEXT": clear, "TLS": tls, "MTLS": mtls, "SASL": sasl}
    here = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
    plain_users = f'user_{USER}="{jaas(PASSWORD)}"'
    modules = "org.apache.kafka.common.security"
    overrides = {
        "listeners": f"{here},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": here,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MTLS:SSL,SASL:SASL_SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": (folder / "server.pem").read_text(),
        "ssl.keystore.key": (folder / "server-key.pem").read_text(),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": (folder / "ca.pem").read_text(),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN",
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        "listener.name.sasl.plain.sasl.jaas.config": f"{modules}.plain.PlainLoginModule required {plain_users};",
        # The answer to a wrong password waits for so long.
        "connection.failed.authentication.delay.ms": "100",
    }  # fmt: skip
    broker = EmbeddedBroker(folder / "kafka", port=clear, overrides=overrides)
    with asyncio.Runner() as runner:
        try:
            runner.run(broker.start())
            runner.run(ensure_topics(broker.bootstrap, topics.specs(config.load({}))))
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                done = candlewick(
                    {"CANDLEWICK_BROKER": broker.bootstrap}, "kafka", "configs", "--alter", "--entity-type", "users",
                    "--entity-name", USER, "--add-config", f"{mechanism}=[password={PASSWORD}]",
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
            at = {name: f"127.0.0.1:{port}" for name, port in listeners.items()}
            yield Kafka(
                folder, broker.log_path, at["TLS"], at["MTLS"], at["SASL"], at["PLAINTEXT"], f"localhost:{tls}"
            )  # fmt: skip
        finally:
            runner.run(broker.stop())


def jaas(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("CANDLEWICK_")}


def candlewick(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "candlewick", *args], env=clean() | env, cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def ways(kafka: Kafka) -> dict[str, dict[str, str]]:
    """Return the settings of each way."""
    tls = {"CANDLEWICK_KAFKA_SECURITY": "ssl", "CANDLEWICK_KAFKA_CA": kafka.file("ca.pem")}
    sasl = tls | {
        "CANDLEWICK_BROKER": kafka.sasl,
        "CANDLEWICK_KAFKA_SECURITY": "sasl_ssl",
        "CANDLEWICK_KAFKA_USER": USER,
        "CANDLEWICK_KAFKA_PASSWORD": PASSWORD,
    }
    ours = {
        "CANDLEWICK_KAFKA_CERT": kafka.file("client.pem"),
        "CANDLEWICK_KAFKA_KEY": kafka.file("client-key.pem"),
    }
    return {
        "tls": tls | {"CANDLEWICK_BROKER": kafka.tls},
        "mtls": tls | ours | {"CANDLEWICK_BROKER": kafka.mtls},
        "scram-512": sasl,
        "scram-256": sasl | {"CANDLEWICK_KAFKA_MECHANISM": "SCRAM-SHA-256"},
        "plain": sasl | {"CANDLEWICK_KAFKA_MECHANISM": "PLAIN"},
    }


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The mock exchange; return its address."""
    folder = tmp_path_factory.mktemp("market")
    command = Command(
        folder / "log", ("mock-exchange", "--data-dir", str(folder / "data"), "--products", "BTC-USD"), {}
    )
    try:
        yield command.line("mock exchange at ")
    finally:
        command.end()


def asked(base: str, path: str, token: str = TOKEN) -> tuple[int, str]:
    request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def assert_nothing_told(*texts: str) -> None:
    for text in texts:
        for secret in SECRETS:
            assert secret not in text, text[max(0, text.find(secret) - 300) : text.find(secret) + 50]


@pytest.mark.parametrize("way", ["tls", "mtls", "scram-512", "scram-256", "plain"])
def test_trades_go_the_whole_way_and_no_secret_is_written_down(
    kafka: Kafka, market: str, run: Callable[..., Command], tmp_path: Path, way: str
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    env = ways(kafka)[way] | {
        "CANDLEWICK_TOKEN": TOKEN, "CANDLEWICK_LOG_LEVEL": "debug", "CANDLEWICK_APP_ID": way, "CANDLEWICK_FEED": market,
        "CANDLEWICK_PRODUCTS": "BTC-USD", "CANDLEWICK_SESSION_S": "6",
    }  # fmt: skip
    producer = run("produce", "--data-dir", str(tmp_path / "producer"), **env)
    worker = run("worker", "--data-dir", str(tmp_path / "worker"), "--port", str(port), **env)

    def folded() -> bool:
        assert producer.process.poll() is None, producer.said()[-3000:]
        assert worker.process.poll() is None, worker.said()[-3000:]
        return asked(base, "/stats/1m/BTC-USD")[0] == 200 and asked(base, "/readyz")[0] == 200

    until(folded, lambda: producer.said()[-2000:] + worker.said()[-4000:])
    answers = [
        asked(base, path) for path in ("/stats/1m/BTC-USD", "/v1/status", "/metrics", "/v1/gaps", "/none")
    ]
    answers += [asked(base, path, "wrong-0123456789abcd") for path in ("/v1/status", "/none")]
    assert [status for status, _ in answers] == [200, 200, 200, 200, 404, 401, 401]
    assert_nothing_told(*(body for _, body in answers))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:  # what is no HTTP may be logged
        client.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\x00\r\n\r\n".encode())
        assert b" 400 " in client.recv(100)
    for command in (producer, worker):
        for process in command.family():
            assert_nothing_told(" ".join(process.cmdline()), process.name())
    assert worker.end() == 0
    assert producer.end() == 0
    kept = [
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.suffix in {".log", ".json"}
    ]
    assert_nothing_told(worker.said(), producer.said(), *kept)
    assert len(worker.said()) > 10_000, "not much was logged: is it at debug?"


def test_faust_started_by_itself_writes_no_secret_down_either(kafka: Kafka, tmp_path: Path) -> None:
    port = free_port()
    env = clean() | ways(kafka)["plain"] | {
        "CANDLEWICK_TOKEN": TOKEN, "CANDLEWICK_APP_ID": "faust", "CANDLEWICK_DATA_DIR": str(tmp_path / "data"),
        "CANDLEWICK_PORT": str(port), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    log = tmp_path / "faust.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "candlewick.app", "worker", "-l", "debug"],
            env=env, cwd=ROOT, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until(
            lambda: asked(f"http://127.0.0.1:{port}", "/v1/status")[0] == 200, lambda: log.read_text()[-3000:]
        )
        until(lambda: b'"ready":true' in asked(f"http://127.0.0.1:{port}", "/v1/status")[1].encode())
        assert_nothing_told(" ".join(psutil.Process(process.pid).cmdline()))
    finally:
        process.terminate()
        process.wait(30)
    said = log.read_text(errors="replace")
    assert_nothing_told(said)
    assert "aiokafka" in said, "what it could have told was not logged at all"


# What is refused.


def refusals(kafka: Kafka) -> dict[str, tuple[dict[str, str], str]]:
    """Return settings that cannot work, and what is said of them."""
    way = ways(kafka)
    no_certificate = {"CANDLEWICK_KAFKA_CERT": "", "CANDLEWICK_KAFKA_KEY": ""}
    at = "no secure connection to Kafka at "

    def certificate(name: str) -> dict[str, str]:
        return {
            "CANDLEWICK_KAFKA_CERT": kafka.file(f"{name}.pem"),
            "CANDLEWICK_KAFKA_KEY": kafka.file(f"{name}-key.pem"),
        }

    return {
        "a wrong password": (
            way["scram-512"] | {"CANDLEWICK_KAFKA_PASSWORD": "canary-wrong"},
            f"{at}{kafka.sasl}: it does not know CANDLEWICK_KAFKA_USER with this CANDLEWICK_KAFKA_PASSWORD",
        ),
        "a wrong password in plain": (
            way["plain"] | {"CANDLEWICK_KAFKA_PASSWORD": "canary-wrong"},
            f"{at}{kafka.sasl}: it does not know CANDLEWICK_KAFKA_USER with this CANDLEWICK_KAFKA_PASSWORD",
        ),
        "an unknown user": (
            way["scram-512"] | {"CANDLEWICK_KAFKA_USER": "bob"},
            f"{at}{kafka.sasl}: it does not know CANDLEWICK_KAFKA_USER with this CANDLEWICK_KAFKA_PASSWORD",
        ),
        "another CA": (
            way["tls"] | {"CANDLEWICK_KAFKA_CA": kafka.file("other-ca.pem")},
            f"{at}{kafka.tls}: its certificate does not hold (",
        ),
        "the CAs of this machine": (
            way["tls"] | {"CANDLEWICK_KAFKA_CA": ""},
            f"{at}{kafka.tls}: its certificate does not hold (",
        ),
        "another name": (
            way["tls"] | {"CANDLEWICK_BROKER": kafka.wrong_name},
            f"{at}{kafka.wrong_name}: its certificate does not hold (Hostname mismatch",
        ),
        "no certificate": (way["mtls"] | no_certificate, f"{at}{kafka.mtls}: it does not take our certificate ("),
        "an expired certificate": (way["mtls"] | certificate("expired"), f"{at}{kafka.mtls}: it does not take our certificate ("),
        "a certificate of another CA": (way["mtls"] | certificate("foreign"), f"{at}{kafka.mtls}: it does not take our certificate ("),
        "a key of another certificate": (
            way["mtls"] | {"CANDLEWICK_KAFKA_KEY": kafka.file("foreign-key.pem")},
            f"CANDLEWICK_KAFKA_KEY is '{kafka.file('foreign-key.pem')}', but must be the key of CANDLEWICK_KAFKA_CERT",
        ),
        "a CA that is not there": (
            way["tls"] | {"CANDLEWICK_KAFKA_CA": kafka.file("none.pem")},
            f"CANDLEWICK_KAFKA_CA is '{kafka.file('none.pem')}', but must be a PEM file of certificates (No such file or directory)",
        ),
        "a key for a CA": (
            way["tls"] | {"CANDLEWICK_KAFKA_CA": kafka.file("client-key.pem")},
            f"CANDLEWICK_KAFKA_CA is '{kafka.file('client-key.pem')}', but must be a PEM file of certificates (",
        ),
        "TLS to a port in clear": (way["tls"] | {"CANDLEWICK_BROKER": kafka.clear}, f"{at}{kafka.clear}: "),
        "SASL to a port without": (way["scram-512"] | {"CANDLEWICK_BROKER": kafka.tls}, f"{at}{kafka.tls}: "),
        "a password in clear": (
            way["scram-512"] | {"CANDLEWICK_KAFKA_SECURITY": "plaintext"},
            "CANDLEWICK_KAFKA_SECURITY is 'plaintext', but must be sasl_ssl where CANDLEWICK_KAFKA_USER is set",
        ),
        "nobody there": (way["tls"] | {"CANDLEWICK_BROKER": "127.0.0.1:1"}, "Kafka at 127.0.0.1:1 does not answer: "),
        "the embedded one": (
            way["tls"] | {"CANDLEWICK_BROKER": ""},
            "CANDLEWICK_KAFKA_SECURITY is 'ssl', but must be plaintext for the embedded Kafka; CANDLEWICK_BROKER names another",
        ),
    }  # fmt: skip


NAMES = [
    "a wrong password", "a wrong password in plain", "an unknown user", "another CA", "the CAs of this machine",
    "another name", "no certificate", "an expired certificate", "a certificate of another CA",
    "a key of another certificate", "a CA that is not there", "a key for a CA", "TLS to a port in clear",
    "SASL to a port without", "a password in clear", "nobody there", "the embedded one",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_work_is_one_line_at_once(kafka: Kafka, tmp_path: Path, name: str) -> None:
    found = refusals(kafka)
    assert list(found) == NAMES
    env, says = found[name]
    before = connections_refused(kafka)
    with pytest.raises(CandlewickError) as caught:
        asyncio.run(reach(config.load(env | {"CANDLEWICK_DATA_DIR": str(tmp_path)})))
    assert str(caught.value).startswith(says), caught.value
    assert "\n" not in str(caught.value)
    assert_nothing_told(str(caught.value))
    assert connections_refused(kafka) - before <= 4, "it tries again and again"


async def reach(settings: config.Settings) -> None:
    """Do what each command does first."""
    bootstrap = address.find(settings)
    await ensure_topics(bootstrap, topics.specs(settings), security=await checked(bootstrap, settings))


@pytest.mark.parametrize(
    "name",
    ["a wrong password", "another CA", "no certificate", "an expired certificate", "a password in clear"],
)
def test_commands_that_cannot_reach_kafka_end_with_that_line(kafka: Kafka, tmp_path: Path, name: str) -> None:
    env, says = refusals(kafka)[name]
    before = connections_refused(kafka)
    env = clean() | env | {"CANDLEWICK_FEED": "ws://127.0.0.1:1", "CANDLEWICK_DATA_DIR": str(tmp_path)}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "candlewick", command], env=env, cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for command in ("produce", "worker")
    ]  # fmt: skip
    for process in both:
        out, err = process.communicate(timeout=120)
        lines = err.splitlines()
        assert (process.returncode, len(lines)) == (1, 1), err[-3000:]
        assert lines[0].startswith(f"candlewick: {says}"), lines[0]
        assert_nothing_told(out, err)
    assert connections_refused(kafka) - before <= 8, "they try again and again"


def connections_refused(kafka: Kafka) -> int:
    """Return how often Kafka has said that it did not let somebody in."""
    return len(re.findall(r"Failed authentication", kafka.log.read_text(errors="replace")))


# Kafka's own tools.


@pytest.mark.parametrize("way", ["tls", "mtls", "scram-512", "plain"])
def test_kafkas_own_tools_are_let_in_and_leave_nothing_behind(kafka: Kafka, tmp_path: Path, way: str) -> None:
    (tmp_path / "tmp").mkdir()
    env = clean() | ways(kafka)[way] | {"TMPDIR": str(tmp_path / "tmp")}
    process = psutil.Popen(
        [sys.executable, "-m", "candlewick", "kafka", "topics", "--list"], env=env, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen: set[str] = set()
    there: set[Path] = set()

    def ended() -> bool:
        with contextlib.suppress(psutil.Error):
            seen.add(" ".join(process.cmdline()))
        there.update((tmp_path / "tmp").rglob("*.properties"))
        return process.poll() is not None

    until(ended)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "trades" in out.split()
    assert any("--command-config" in line for line in seen)
    assert_nothing_told(out, err, *seen)
    assert not there
    assert not [
        path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and "hsperf" not in str(path)
    ]


def test_dead_letters_are_read_over_tls_too(kafka: Kafka, tmp_path: Path) -> None:
    done = candlewick(ways(kafka)["scram-512"] | {"CANDLEWICK_DATA_DIR": str(tmp_path)}, "dead-letters")
    assert done.returncode == 0, done.stderr
    assert "dead letters" in done.stdout


def test_up_takes_a_kafka_that_is_not_its_own(kafka: Kafka, run: Callable[..., Any], tmp_path: Path) -> None:
    port = free_port()
    env = ways(kafka)["scram-512"] | {"CANDLEWICK_APP_ID": "up"}
    up = run("up", "--data-dir", str(tmp_path / "data"), "--port", str(port), "--products", "BTC-USD", **env)
    up.line("ready ")
    assert get(f"http://127.0.0.1:{port}/stats/1m/BTC-USD")[0] in (200, 404)
    assert up.end() == 0
    logs = [path.read_text(errors="replace") for path in (tmp_path / "data" / "logs").iterdir()]
    assert_nothing_told(up.said(), *logs)


# Keys.


def with_key(folder: Path, key: bytes, leaf: trustme.LeafCert) -> config.Settings:
    keep(folder, "our", leaf)
    (folder / "our-key.pem").write_bytes(key)
    env = {
        "KAFKA_SECURITY": "ssl",
        "KAFKA_CERT": str(folder / "our.pem"),
        "KAFKA_KEY": str(folder / "our-key.pem"),
    }
    return config.load({f"CANDLEWICK_{name}": value for name, value in env.items()})


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("candlewick.test")
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    with pytest.raises(
        CandlewickError, match=r"must be the key of CANDLEWICK_KAFKA_CERT.*without a passphrase"
    ):
        options(with_key(tmp_path, locked, leaf))


def test_kafkas_own_tools_are_told_how_a_key_must_be_written(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("candlewick.test")
    settings = with_key(tmp_path, leaf.private_key_pem.bytes(), leaf)
    assert options(settings)["security_protocol"] == "SSL"
    with pytest.raises(CandlewickError, match="must be PKCS#8 for Kafka's own tools: `openssl pkcs8"):
        properties(settings)
    assert "PRIVATE KEY" in properties(with_key(tmp_path, pem(leaf.private_key_pem), leaf))
