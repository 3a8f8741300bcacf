"""Which broker a command talks to."""

from __future__ import annotations

from candlewick.config import Settings
from candlewick.kafka.broker import running_broker
from models.errors import CandlewickError


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
    """
    address = settings.broker or running_broker(settings.data_dir)
    if not address:
        raise NoBroker(str(settings.data_dir))
    return address
