"""A lane's copies on disk. What it sends, and when, is tested on a real Kafka: tests/broker/test_sink.py."""

from __future__ import annotations

import asyncio
import contextlib

from producers.lane import Lane
from producers.sink import Sink
from producers.spill import Record, Spill


def record(number, size=1):
    return Record("books", b"coinbase:BTC-USD", b"x" * size, number, [])


def times(folder):
    return [record.timestamp_ms for record in Spill(folder, 1 << 30).read()]


async def test_what_the_disk_refused_is_not_written_behind_what_came_later(tmp_path):
    spill = Spill(tmp_path, 300)
    lane = Lane(Sink("127.0.0.1:1"), "books", 0)
    try:
        for number, size in enumerate([1, 400, 1]):
            lane.append(record(number, size))
        lane.keep_on(spill)
        assert (lane.waiting, lane.unkept) == (3, 1)
        assert times(tmp_path) == [0, 2]
        spill.cap_bytes = 1 << 30
        lane.append(record(3))
        lane.keep_on(spill)
        assert (lane.waiting, lane.unkept) == (4, 1)
        assert times(tmp_path) == [0, 2, 3]
    finally:
        lane.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await lane.task
