"""A dead letter: what could not be read, where it came from, and why. Nothing is dropped in silence."""

from __future__ import annotations

import base64

import msgspec

DEAD_LETTER_BYTES = 1 << 20
"""A dead letter longer than this is cut, and says how long it was."""


def dead_letter_json(value: bytes, source: str, reason: str, time_us: int) -> bytes:
    """Write what could not be read as one line of JSON: text where it is UTF-8, else base64."""
    head = value[:DEAD_LETTER_BYTES]
    letter: dict[str, object] = {"source": source, "reason": reason, "time_us": time_us, "length": len(value)}
    try:
        value.decode()
        letter["text"] = head.decode(errors="ignore")  # the cut may have halved the last character
    except UnicodeDecodeError:
        letter["base64"] = base64.b64encode(head).decode()
    if len(head) < len(value):
        letter["cut_to"] = len(head)
    return msgspec.json.encode(letter)
