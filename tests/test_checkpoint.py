"""The order of a checkpoint, with a Kafka whose acknowledgements the test gives by hand.

The whole is tested on a real broker (tests/broker/test_worker.py); here is what only happens when
two things are under way at once.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from candlewick.checkpoint import Checkpoint, Frozen

TRADES = TP("trades", 0)


class Kafka:
    """Takes messages and batches; each is acknowledged when the test says so."""

    def __init__(self) -> None:
        self.log: list[tuple[str, list[tuple[bytes, bytes]]]] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, topic: str, value: bytes, key: bytes) -> asyncio.Future[Any]:
        await self.gate.wait()
        return self._taken(topic, [(key, value)])

    def create_batch(self) -> Any:
        rows: list[tuple[bytes, bytes]] = []
        return SimpleNamespace(
            rows=rows, append=lambda key, value, timestamp: rows.append((key, value)) or True
        )

    async def send_batch(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        return self._taken(topic, batch.rows)

    def _taken(self, topic: str, rows: list[tuple[bytes, bytes]]) -> asyncio.Future[Any]:
        self.log.append((topic, rows))
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def acknowledge(self) -> None:
        for number, future in enumerate(self.futures):
            if not future.done():
                future.set_result(SimpleNamespace(offset=number))


class Table:
    changelog_topic_name = "changelog"

    def __init__(self) -> None:
        self.partition = 0
        self.changed: dict[bytes, bytes] = {}
        self.stored: list[dict[bytes, bytes]] = []

    def partitions_in_memory(self) -> list[Table]:
        return [self]

    def take(self) -> dict[bytes, bytes]:
        taken, self.changed = self.changed, {}
        return taken

    def written(self) -> None:
        pass

    def store(self, partition: int, rows: dict[bytes, bytes], first_offset: int) -> None:
        self.stored.append(rows)

    def begin(self, highwaters: Any) -> None:
        pass

    def foreign(self) -> dict[Any, Any]:
        return {}

    def forget(self) -> None:
        pass


@pytest.fixture
async def rig() -> SimpleNamespace:
    kafka, table = Kafka(), Table()
    checkpoint = Checkpoint(SimpleNamespace(producer=SimpleNamespace(kafka=kafka)), 10.0)
    checkpoint.tables.append(table)
    return SimpleNamespace(kafka=kafka, table=table, checkpoint=checkpoint)


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_rows_wait_for_what_was_sent_and_offsets_for_rows(rig):
    rig.checkpoint.send("candles", b"k", b"closed")
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 7)
    writing = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    assert [topic for topic, _ in rig.kafka.log] == ["candles"]
    rig.kafka.acknowledge()
    await turn()
    assert [topic for topic, _ in rig.kafka.log] == ["candles", "changelog"]
    assert rig.table.stored == []
    assert not writing.done()
    rig.kafka.acknowledge()
    assert await writing == {TRADES: 7}
    assert rig.table.stored == [{b"row": b"1"}]


async def test_a_second_write_begins_when_the_first_has_ended(rig):
    """A revoke's write beside a periodic one could commit rows that no changelog has."""
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 1)
    first = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    rig.table.changed[b"row"] = b"2"
    rig.checkpoint.folded(TRADES, 2)
    second = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    assert len(rig.kafka.log) == 1
    assert not second.done()
    rig.kafka.acknowledge()
    assert await first == {TRADES: 1}
    await turn()
    rig.kafka.acknowledge()
    assert await second == {TRADES: 2}
    assert [rows for _, rows in rig.kafka.log] == [[(b"row", b"1")], [(b"row", b"2")]]


async def test_a_message_that_an_agent_is_handing_over_is_waited_for(rig):
    rig.kafka.gate.clear()
    rig.checkpoint.send("candles", b"k", b"closed")
    agent = asyncio.ensure_future(rig.checkpoint.drain())
    await turn()
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 1)
    writing = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    assert rig.kafka.log == []
    rig.kafka.gate.set()
    await turn()
    assert [topic for topic, _ in rig.kafka.log] == ["candles"]  # sent, and not acknowledged: no row yet
    rig.kafka.acknowledge()
    await turn()
    rig.kafka.acknowledge()
    assert await writing == {TRADES: 1}
    await agent


@pytest.mark.parametrize("following", [[], [b"of the next epoch"]])
async def test_a_revoke_while_a_message_is_handed_over_takes_no_other_with_it(rig, following):
    rig.kafka.gate.clear()
    rig.checkpoint.send("candles", b"k", b"of before")
    agent = asyncio.ensure_future(rig.checkpoint.drain())
    await turn()
    rig.checkpoint.forget()
    for value in following:
        rig.checkpoint.send("candles", b"k", value)
    rig.kafka.gate.set()
    await agent
    assert [rows[0][1] for _, rows in rig.kafka.log] == [b"of before", *following]


async def test_an_agent_that_ends_while_too_much_is_unacknowledged_takes_no_message_with_it(rig, monkeypatch):
    monkeypatch.setattr("candlewick.checkpoint.UNSENT", 1)
    for value in (b"1", b"2"):
        rig.checkpoint.send("candles", b"k", value)
    agent = asyncio.ensure_future(rig.checkpoint.drain())
    await turn()
    agent.cancel()
    await asyncio.wait([agent])
    rig.checkpoint.folded(TRADES, 1)
    writing = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    rig.kafka.acknowledge()
    assert await writing == {TRADES: 1}


async def test_nothing_is_written_after_a_revoke_or_a_failure(rig):
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 1)
    assert await rig.checkpoint.write(lambda: False) == {}
    assert rig.kafka.log == []
    rig.checkpoint.fail(ValueError("a batch could not be folded"))
    with pytest.raises(ValueError, match="could not be folded"):
        await rig.checkpoint.write(lambda: True)
    assert rig.kafka.log == []


async def test_a_process_that_slept_past_its_session_writes_no_more(rig, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("candlewick.checkpoint.boot_s", lambda: now)
    rig.checkpoint.awake()
    rig.checkpoint.tick()
    now += 11
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 1)
    with pytest.raises(Frozen):
        await rig.checkpoint.write(lambda: True)
    assert rig.kafka.log == []


async def test_after_a_write_that_failed_no_later_one_says_that_its_rows_are_there(rig):
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 7)
    writing = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    rig.kafka.futures[-1].set_exception(TimeoutError("the broker was slow"))
    with pytest.raises(TimeoutError):
        await writing
    with pytest.raises(TimeoutError):  # what the worker writes when it ends
        await rig.checkpoint.write(lambda: True)


async def test_a_write_that_was_cut_off_is_not_followed_by_another(rig):
    rig.table.changed[b"row"] = b"1"
    rig.checkpoint.folded(TRADES, 7)
    writing = asyncio.ensure_future(rig.checkpoint.write(lambda: True))
    await turn()
    writing.cancel()
    await turn()
    with pytest.raises(RuntimeError, match="cut off"):
        await rig.checkpoint.write(lambda: True)
