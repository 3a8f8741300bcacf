"""Which broker a command talks to."""

from __future__ import annotations

from candlewick.config import Settings, env_name
from candlewick.kafka.broker import running_broker
from models.errors import CandlewickError, ConfigError


class NoBroker(CandlewickError):
    """There is no broker to talk to."""

    def __init__(self, data_dir: str) -> None:
        super().__init__(data_dir)
        self.data_dir = data_dir

    def __str__(self) -> str:
        return (
            f"no broker runs on {self.data_dir}: start `candlewick up` or `candlewick broker` there, "
            "or name one with CANDLEWICK_BROKER=host:port"
        )


def find(settings: Settings) -> str:
    """Return the broker that is set, or else the embedded one that runs on the data directory.

    Raises:
        NoBroker: neither is there.
        ConfigError: the embedded one is to be spoken to otherwise than it can.
    """
    if not settings.broker:
        must_be_clear(settings)
    address = settings.broker or running_broker(settings.data_dir)
    if not address:
        raise NoBroker(str(settings.data_dir))
    return address


def must_be_clear(settings: Settings) -> None:
    """Refuse TLS to the embedded Kafka: it is on loopback alone, and has none.

    Raises:
        ConfigError: another way of speaking to it is set.
    """
    if settings.kafka_security != "plaintext":
        may_be = f"plaintext for the embedded Kafka; {env_name('broker')} names another"
        raise ConfigError(env_name("kafka_security"), settings.kafka_security, may_be)
