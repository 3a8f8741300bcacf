"""Which batches are delivered: `BatchConsumer.getmany`, with what aiokafka returns made up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from faust.types import TP

from candlewick.transport import BatchConsumer

ONE, TWO, CHANGELOG = TP("trades", 1), TP("trades", 2), TP("app-candles-changelog", 1)


def records(first, last):
    return [(offset, b"key", b"value", 0) for offset in range(first, last + 1)]


class Consumer(BatchConsumer):
    """A consumer without Faust around it: ``fetched`` is what the next calls return."""

    def __init__(self):
        self.fetched = []
        self.sought = []
        self.epoch = 0
        self.checkpoint = SimpleNamespace(sources={"trades": None}, forget=lambda: None)
        recovery = SimpleNamespace(in_recovery=False)
        self.app = SimpleNamespace(
            monitor=SimpleNamespace(track_tp_end_offset=lambda *_: None),
            tables=SimpleNamespace(recovery=recovery),
            consumer_generation_id=1,
        )
        self.log = SimpleNamespace(warning=lambda *_: None)
        self._thread = SimpleNamespace(seek_wait=self._seek)
        self._changelogs = {CHANGELOG.topic}
        self._expected, self._sought, self._jumps = {ONE: 0, TWO: 0}, {}, {}
        self._committed_offset = {}
        self._buffered_partitions = set()
        self.flow_active = True
        self.can_resume_flow, self.suspend_flow = asyncio.Event(), asyncio.Event()
        self.while_seeking = lambda: None

    should_stop = False

    async def _seek(self, offsets):
        self.sought.append(offsets)
        self.while_seeking()

    async def _wait_next_records(self, timeout):
        return self.fetched.pop(0), {ONE, TWO, CHANGELOG}

    def highwater(self, tp):
        return 0

    async def next(self, **fetched):
        """Return what the next fetch delivers: by partition, the offsets; an event's own together."""
        self.fetched.append(
            {{"one": ONE, "two": TWO, "log": CHANGELOG}[name]: rows for name, rows in fetched.items()}
        )
        return [
            {batch.tp: [record[0] for record in batch.records] for batch in message.value}
            async for _, message in self.getmany(1.0)
        ]


@pytest.fixture
def consumer():
    return Consumer()


async def test_a_fetch_is_one_event(consumer):
    assert await consumer.next(one=records(0, 2), two=records(0, 1)) == [{ONE: [0, 1, 2], TWO: [0, 1]}]
    assert await consumer.next(two=records(2, 2)) == [{TWO: [2]}]
    assert not consumer.sought


async def test_what_came_before_is_not_delivered_again(consumer):
    await consumer.next(one=records(0, 4))
    assert await consumer.next(one=records(2, 6)) == [{ONE: [5, 6]}]
    assert await consumer.next(one=records(3, 6)) == []


async def test_after_a_jump_it_is_read_again(consumer):
    await consumer.next(one=records(0, 4))
    assert await consumer.next(one=records(7, 9), two=records(0, 0)) == [{TWO: [0]}]
    assert consumer.sought == [{ONE: 5}]
    assert await consumer.next(one=records(5, 9)) == [{ONE: [5, 6, 7, 8, 9]}]


async def test_records_that_are_gone_are_passed_over_when_they_are_missing_twice(consumer):
    await consumer.next(one=records(0, 4))
    assert await consumer.next(one=records(7, 9)) == []
    assert await consumer.next(one=records(7, 9)) == [{ONE: [7, 8, 9]}]
    # Another hole is looked at twice again.
    assert await consumer.next(one=records(12, 12)) == []
    assert consumer.sought == [{ONE: 5}, {ONE: 10}]


async def test_nothing_is_delivered_where_nobody_has_said_where_to_begin(consumer):
    consumer._expected.clear()
    assert await consumer.next(one=records(0, 4)) == []
    assert not consumer.sought


async def test_a_revoke_while_it_is_read_again_drops_what_was_fetched(consumer):
    consumer.while_seeking = consumer._begin_anew
    assert await consumer.next(two=records(0, 3), one=records(5, 6)) == []
    assert consumer.epoch == 1


async def test_after_a_revoke_nothing_of_before_is_delivered(consumer):
    async def revoked(timeout):
        consumer._begin_anew()
        return {ONE: records(0, 1)}, {ONE}

    consumer._wait_next_records = revoked
    assert await consumer.next(one=[]) == []


async def test_what_comes_between_seek_and_resume_waits(consumer):
    # recovery.py:655-660: perform_seek, then the agents' queues are emptied, then resume_flow.
    consumer._expected.clear()
    consumer._sought = {ONE: 3}
    delivered = asyncio.create_task(consumer.next(one=records(3, 4)))
    await asyncio.sleep(0.05)
    assert not delivered.done()
    consumer.resume_flow()
    assert await delivered == [{ONE: [3, 4]}]
    assert consumer._expected == {ONE: 5}


async def test_a_revoke_ends_the_wait_for_the_flow(consumer):
    consumer._sought = {ONE: 3}
    delivered = asyncio.create_task(consumer.next(one=records(3, 4)))
    await asyncio.sleep(0.01)
    consumer._begin_anew()
    assert await asyncio.wait_for(delivered, 5) == []
    consumer.resume_flow()
    assert not consumer._expected


async def test_a_changelog_is_read_in_recovery_only_an_event_a_partition(consumer):
    assert await consumer.next(log=records(0, 3)) == []
    consumer.app.tables.recovery.in_recovery = True
    assert await consumer.next(log=records(4, 5)) == [{CHANGELOG: [4, 5]}]
