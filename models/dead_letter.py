"""A dead letter: what could not be read, where it came from, and why. Nothing is dropped in silence."""

from __future__ import annotations

import base64

import msgspec

DEAD_LETTER_BYTES = 1 << 20
"""A dead letter longer than this is cut, and says how long it was."""


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of the topic ``dead-letters``: its bytes as text where they are UTF-8, else base64."""

    source: str
    """The exchange's address, or ``topic[partition]@offset``."""
    reason: str
    time_us: int
    length: int
    text: str | None = None
    base64: str | None = None
    cut_to: int | None = None
    """How many bytes of it are here, where that is not all."""

    @property
    def value(self) -> bytes | None:
        """The bytes, or None where they were cut."""
        if self.cut_to is not None:
            return None
        return self.text.encode() if self.text is not None else base64.b64decode(self.base64 or "")


_decode = msgspec.json.Decoder(DeadLetter).decode


def dead_letter_json(value: bytes, source: str, reason: str, time_us: int) -> bytes:
    """Write what could not be read as one line of JSON."""
    head = value[:DEAD_LETTER_BYTES]
    text = encoded = None
    try:
        value.decode()
        text = head.decode(errors="ignore")  # the cut may have halved the last character
    except UnicodeDecodeError:
        encoded = base64.b64encode(head).decode()
    cut_to = len(head) if len(head) < len(value) else None
    return msgspec.json.encode(DeadLetter(source, reason, time_us, len(value), text, encoded, cut_to))


def read_dead_letter(value: bytes) -> DeadLetter:
    """Read a record of the topic ``dead-letters``.

    Raises:
        msgspec.DecodeError: it is none of ours.
    """
    return _decode(value)
