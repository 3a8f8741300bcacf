"""Server-sent events: what a worker's stream says, out of bytes."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One event."""

    name: str
    id: str
    data: bytes
    """JSON."""


class Reader:
    """Makes events of bytes, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, part: bytes) -> list[Event]:
        """Return the events that are whole by now."""
        *whole, self._rest = (self._rest + part).split(b"\n\n")
        return [event for text in whole if (event := _read(text)) is not None]


def _read(text: bytes) -> Event | None:
    """Read one event; a comment, such as a ping, is none."""
    fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if b": " in line)
    if b"data" not in fields:
        return None
    return Event(fields.get(b"event", b"message").decode(), fields.get(b"id", b"").decode(), fields[b"data"])
