"""What a client that does not read may cost: bytes that wait for it, and time."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from candlewick.web.problems import bad_parameter
from models.window import BY_NAME, made_of, window_named

SEND_BUFFER = 1 << 17
"""Bytes that the kernel is asked to keep of a connection, beside ours; Linux takes twice as many."""
SILENT_MS = 30_000
"""Without a sign that the client's machine takes what was sent; then the kernel ends the connection."""
FAREWELL_S = 3.0
"""For the last words of a connection."""
LOOK_S = 0.05
MOST_CANDLES = 5_000
"""Candles that one request may ask to begin with, of all that it subscribes to."""

MOST_PARTS = 720
"""Kept candles that a window may be made of, to be listened to: each change reads them all."""


def bound(transport: asyncio.Transport | None) -> None:
    """Limit what the kernel keeps of a connection for its client, and for how long."""
    connection: Any = transport.get_extra_info("socket") if transport else None
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)


async def part(transport: asyncio.Transport | None, within_s: float) -> None:
    """Let a client take what is on its way, and drop what it does not: else nothing would ever be closed."""
    deadline = time.monotonic() + within_s
    while transport is not None and transport.get_write_buffer_size():
        if time.monotonic() > deadline:
            transport.abort()
            return
        await asyncio.sleep(LOOK_S)


def check_snapshot(count: int, topics: int) -> None:
    """Refuse more candles to begin with than one request may ask for.

    Raises:
        Problem: ``count`` candles of so many topics are too many.
    """
    if count * topics > MOST_CANDLES:
        raise bad_parameter("snapshot", f"{count} candles of {topics} subscriptions: {MOST_CANDLES} at most")


def check_window(channel: str, name: str) -> None:
    """Refuse what is no window of a channel, or one that would cost too much to be told of each change.

    Raises:
        Problem: it is none.
    """
    if channel == "book" and name not in BY_NAME:
        raise bad_parameter("window", f"of a book must be one of {', '.join(BY_NAME)}")
    window = window_named(name)
    if window is None:
        raise bad_parameter("window", f"{name[:20]!r} is no window")
    if window.size_us > MOST_PARTS * made_of(window).size_us:
        kept = made_of(window).name
        told = f"{name} is made of more than {MOST_PARTS} candles of {kept}: ask for it instead"
        raise bad_parameter("window", told)
