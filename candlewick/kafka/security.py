"""Kafka over TLS, with a certificate or a password of ours: settings into what each client takes.

`options` is what aiokafka is told, wherever we use it; `for_faust` says the same to Faust, and
`properties` to Kafka's own tools. `checked` tries it once, before anything starts: aiokafka would say no
more than that it cannot bootstrap, again and again.

Errors:
    KafkaRefuses    Kafka and we do not trust one another: `reason` says who, and what to do
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.conn import log as wire_log

from candlewick.config import Settings, env_name
from models.errors import CandlewickError, ConfigError

TRY_S = 10.0
"""For one connection, with all that is said before the first request."""
CLOSE_S = 1.0
SAYS_WHY_S = 2.0
"""In which Kafka says that it does not take our certificate: TLS 1.3 lets it do so after the handshake."""

CA, CERT, KEY = env_name("kafka_ca"), env_name("kafka_cert"), env_name("kafka_key")
USER, PASSWORD, MECHANISM = (env_name(f"kafka_{name}") for name in ("user", "password", "mechanism"))


class KafkaRefuses(CandlewickError):
    """Kafka is there, and one of us does not trust the other."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"no secure connection to Kafka at {self.address}: {self.reason}"


def options(settings: Settings) -> dict[str, Any]:
    """Return aiokafka's options for TLS and SASL; none where Kafka is spoken to in clear.

    Raises:
        ConfigError: a file is not what it should be.
    """
    if settings.kafka_security == "plaintext":
        return {}
    chosen = {"security_protocol": "SSL", "ssl_context": _context(settings)}
    if settings.kafka_security == "ssl":
        return chosen
    # At the level of debug it logs each request whole, and one of them is the password.
    wire_log.setLevel(logging.INFO)
    return chosen | {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": settings.kafka_mechanism,
        "sasl_plain_username": settings.kafka_user,
        "sasl_plain_password": settings.kafka_password.get_secret_value(),
    }


def for_faust(security: Mapping[str, Any]) -> Any:
    """Return what Faust calls credentials, made of aiokafka's options; None for Kafka in clear."""
    import faust  # only a worker needs it

    if not security:
        return None
    if security["security_protocol"] == "SSL":
        return faust.SSLCredentials(security["ssl_context"])
    # Without the context, Faust would send the password in clear, and not say so (faust/auth.py:46).
    return faust.SASLCredentials(
        username=security["sasl_plain_username"],
        password=security["sasl_plain_password"],
        mechanism=security["sasl_mechanism"],
        ssl_context=security["ssl_context"],
    )


def properties(settings: Settings) -> str:
    """Return the same as the properties file of Kafka's own tools; "" for Kafka in clear.

    Raises:
        ConfigError: a file is not what it should be.
    """
    if settings.kafka_security == "plaintext":
        return ""
    _context(settings)
    told = {"security.protocol": settings.kafka_security.upper()}
    if settings.kafka_ca:
        told |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": _text(settings.kafka_ca)}
    if settings.kafka_cert:
        if "-BEGIN PRIVATE KEY-" not in _text(settings.kafka_key):
            may_be = "PKCS#8 for Kafka's own tools: `openssl pkcs8 -topk8 -nocrypt` makes it so"
            raise ConfigError(KEY, settings.kafka_key, may_be)
        told |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _text(settings.kafka_cert),
            "ssl.keystore.key": _text(settings.kafka_key),
        }
    if settings.kafka_security == "sasl_ssl":
        kind = "plain.Plain" if settings.kafka_mechanism == "PLAIN" else "scram.Scram"
        user = _quoted(settings.kafka_user)
        password = _quoted(settings.kafka_password.get_secret_value())
        told |= {
            "sasl.mechanism": settings.kafka_mechanism,
            "sasl.jaas.config": f"org.apache.kafka.common.security.{kind}LoginModule required "
            f"username={user} password={password};",
        }
    return "".join(f"{name}={escaped(value)}\n" for name, value in told.items())


async def checked(bootstrap: str, settings: Settings) -> dict[str, Any]:
    """Return `options`, once one of Kafka's servers has let us in with them.

    That nobody answers is not said here: whoever connects next says it.

    Raises:
        ConfigError: a file is not what it should be.
        KafkaRefuses: it did not let us in.
    """
    security = options(settings)
    if security:
        await must_be_let_in(bootstrap, security)
    return security


async def must_be_let_in(bootstrap: str, security: Mapping[str, Any]) -> None:
    """Connect once, to the first of the servers that answers.

    Raises:
        KafkaRefuses: one of us does not trust the other.
    """
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        host = host.strip("[]")
        connection = AIOKafkaConnection(host, int(port), **security)
        try:
            async with asyncio.timeout(TRY_S):
                await connection.connect()
            return
        except ssl.SSLCertVerificationError as error:
            told = f"its certificate does not hold ({error.verify_message}); see {CA}"
            raise KafkaRefuses(address, told) from None
        except ssl.SSLError as error:
            raise KafkaRefuses(address, _of_tls(error)) from None
        except (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError):
            raise KafkaRefuses(address, f"it does not know {USER} with this {PASSWORD}") from None
        except (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError):
            told = f"that port takes no password by {MECHANISM} {security['sasl_mechanism']}"
            raise KafkaRefuses(address, told) from None
        except (errors.KafkaError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
            await _must_take_our_certificate(address, host, int(port), security["ssl_context"])
            raise KafkaRefuses(address, "it closed the connection: does that port speak TLS?") from None
        except OSError:
            continue  # nobody is there; TimeoutError is an OSError
        finally:
            closed = connection.close()
            if connection._protocol is not None:  # it was open
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(closed, CLOSE_S)


async def _must_take_our_certificate(address: str, host: str, port: int, context: ssl.SSLContext) -> None:
    """Say why Kafka closes connections, where it is our certificate; aiokafka keeps that to itself."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(SAYS_WHY_S):
            try:
                reader, writer = await asyncio.open_connection(host, port, ssl=context)
                try:
                    await reader.read(1)
                finally:
                    writer.transport.abort()
            except ssl.SSLError as error:
                raise KafkaRefuses(address, _of_tls(error)) from None


def _of_tls(error: ssl.SSLError) -> str:
    """Say what a failure of TLS means."""
    reason = (error.reason or "").lower().replace("_", " ")
    if "certificate" in reason or "unknown ca" in reason:
        return f"it does not take our certificate ({reason}); see {CERT} and {KEY}"
    return f"that port does not speak TLS as we do ({reason or error})"


def _context(settings: Settings) -> ssl.SSLContext:
    """Return the context of TLS: Kafka's certificate is checked, and the name in it."""
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca or None)
    except (OSError, ssl.SSLError) as error:
        may_be = f"a PEM file of certificates ({_why(error)})"
        raise ConfigError(CA, settings.kafka_ca, may_be) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.kafka_cert:
        return context
    for variable, path in ((CERT, settings.kafka_cert), (KEY, settings.kafka_key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(variable, path, f"a PEM file that can be read ({_why(error)})") from None
    try:
        # A passphrase would be asked for at the terminal.
        context.load_cert_chain(settings.kafka_cert, settings.kafka_key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        may_be = f"the key of {CERT}, both in PEM and the key without a passphrase ({_why(error)})"
        raise ConfigError(KEY, settings.kafka_key, may_be) from None
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate in it").lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _text(path: str) -> str:
    return Path(path).read_text(encoding="ascii", errors="replace")


def _quoted(text: str) -> str:
    """Return a word as JAAS has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def escaped(value: str) -> str:
    r"""Write a value as a Java properties file has it: printable ASCII, \\ and \uXXXX."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)
