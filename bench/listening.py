"""Many listeners of `/v1/stream`, from a process of its own: when the first and the last heard what."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from models.errors import CandlewickError

_ids = re.compile(rb'"last_trade_id":(\d+)').findall
AT_ONCE = 50
"""Connections that are opened side by side."""
BEGUN_WITHIN_S = 30.0
SETTLE_S = 3.0
"""From the last snapshot until it counts."""


class Plan(msgspec.Struct, frozen=True):
    """Who listens to what."""

    port: int
    path: str
    clients: int
    seconds: float
    stalled: int = 0
    """More clients, that never read."""


class Heard(msgspec.Struct):
    """One update, by its last trade."""

    trade_id: int
    first_ns: int
    """By `time.monotonic_ns`, when the first listener had it."""
    last_ns: int
    listeners: int


class Deaf(CandlewickError):
    """A listener was cut off."""


class Ear:
    """One listener. It does as little as it can: a thousand of them share a core with what is measured."""

    def __init__(self, heard: dict[int, Heard]) -> None:
        self._heard = heard
        self._rest = b""
        self._newest = 0
        """The last trade that it has heard of: a candle that closes is told again with the same one."""
        self.has_begun = False

    def take(self, data: bytes, now_ns: int) -> None:
        """Note the updates of what has come."""
        events, end, self._rest = (self._rest + data).rpartition(b"\n\n")
        for found in _ids(events):
            trade_id = int(found)
            if trade_id <= self._newest:
                continue
            self._newest = trade_id
            update = self._heard.get(trade_id)
            if update is None:
                self._heard[trade_id] = Heard(trade_id, now_ns, now_ns, 1)
            else:
                update.last_ns = now_ns
                update.listeners += 1
        if end:
            self.has_begun = True


def listen(plan: Plan) -> list[Heard]:
    """Listen, and return what all of them heard, in the order of the trades."""
    heard: dict[int, Heard] = {}
    ears: list[Ear] = []
    question = f"GET {plan.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())

        def ask() -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", plan.port)))
            connection.sendall(question)
            return connection

        for _ in range(plan.stalled):
            ask()
        while len(ears) < plan.clients:
            some = [Ear(heard) for _ in range(min(AT_ONCE, plan.clients - len(ears)))]
            for ear in some:
                connection = ask()
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, (ear, connection.recv))
            _hear(selector, BEGUN_WITHIN_S, lambda some=some: all(ear.has_begun for ear in some))
            if not all(ear.has_begun for ear in some):
                raise Deaf(f"a listener heard nothing within {BEGUN_WITHIN_S:.0f} s")
            ears += some
        _hear(selector, SETTLE_S)
        began_ns = time.monotonic_ns()
        _hear(selector, plan.seconds)
    ended_ns = time.monotonic_ns() - 1_000_000_000  # what came last may not have come to all of them yet
    return [heard[trade_id] for trade_id in sorted(heard) if began_ns < heard[trade_id].first_ns < ended_ns]


def _hear(selector: selectors.BaseSelector, seconds: float, is_enough: Callable[[], bool] = bool) -> None:
    """Take what comes for so long, or until it is enough."""
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0 and not is_enough():
        for key, _ in selector.select(left_s):
            ear, receive = key.data
            data = receive(1 << 16)
            if not data:
                raise Deaf("a listener was cut off")
            ear.take(data, time.monotonic_ns())


if __name__ == "__main__":
    os.write(
        sys.stdout.fileno(),
        msgspec.json.encode(listen(msgspec.json.decode(sys.argv[1], type=Plan))),
    )
