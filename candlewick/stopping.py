"""How our long-running commands are asked to end: SIGTERM, or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop_event() -> asyncio.Event:
    """Return an event that SIGTERM and Ctrl-C set; a second signal changes nothing."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(*_: object) -> None:
        # Ignored from here to the last moment. A handler of the loop is gone when the loop closes,
        # some milliseconds before the process is.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending anyway
            loop.call_soon_threadsafe(stop.set)

    for number in SIGNALS:
        signal.signal(number, ask)
    return stop
