"""Every error that Candlewick raises on purpose.

::

    CandlewickError
    ├── ConfigError        a setting is wrong: fix it, start again
    ├── DecodeError        an exchange sent what its protocol does not allow: dead-letter it, go on
    ├── RecordError        a record in one of our topics cannot be read: dead-letter it, go on
    ├── TopicError         a topic is not what the tables need: change one of them
    └── StateError         state and log do not fit together: stop, and say what to do

The type says whose fault it is, the attributes hold the facts, ``str()`` makes the sentence.
"""

from __future__ import annotations

EXCERPT = 200
"""Characters of a frame that an error shows; the whole frame goes to the dead letters."""


class CandlewickError(Exception):
    """The root: anything that a user can cause or must know, said in one line."""


class ConfigError(CandlewickError):
    """A setting was wrong."""

    def __init__(self, setting: str, value: object, expected: str) -> None:
        super().__init__(setting, value, expected)
        self.setting = setting
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.setting} is {self.value!r}, but must be {self.expected}"


class DecodeError(CandlewickError):
    """A frame is not what the exchange's protocol says it is."""

    def __init__(self, exchange: str, reason: str, frame: str | bytes, field: str = "") -> None:
        super().__init__(exchange, reason, frame, field)
        self.exchange = exchange
        self.reason = reason
        self.frame = frame
        self.field = field

    def __str__(self) -> str:
        where = f" in {self.field}" if self.field else ""
        return f"{self.exchange} frame refused: {self.reason}{where}: {self.frame[:EXCERPT]!r}"


class RecordError(CandlewickError):
    """A record in one of our topics cannot be read."""

    def __init__(self, reason: str, value: bytes | None) -> None:
        super().__init__(reason, value)
        self.reason = reason
        self.value = value

    def __str__(self) -> str:
        return f"record refused: {self.reason}: {(self.value or b'')[:EXCERPT]!r}"


class TopicError(CandlewickError):
    """A topic in the broker is not what the tables were made for."""

    def __init__(self, topic: str, found: str, needed: str, remedy: str) -> None:
        super().__init__(topic, found, needed, remedy)
        self.topic = topic
        self.found = found
        self.needed = needed
        self.remedy = remedy

    def __str__(self) -> str:
        return f"topic {self.topic} has {self.found}, but needs {self.needed}: {self.remedy}"


class StateError(CandlewickError):
    """What is kept on disk, and what the log holds, do not fit together."""
