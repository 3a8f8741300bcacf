"""The queue on disk: whatever is done to it, no exception, nothing twice, and exact counts."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from models.errors import StateError
from producers import spill as module
from producers.spill import MARKER, Record, Spill, parse

LARGE = 1 << 30


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 300)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spill"


def record(number, value="x"):
    return Record(
        "trades", b"coinbase:BTC-USD", f"{number} {value}".encode(), number, [("schema", b"trade/1")]
    )


def number(record):
    return int(record.value.split()[0])


def read_all(spill):
    found = []
    while records := spill.read():
        found += records
    assert not spill.has_unread
    assert spill.unread_bytes == 0
    return found


def keep_or_drop(spill, record):
    """Append a record as a producer does that cannot wait."""
    kept = spill.append(record)
    if not kept:
        spill.drop(record)
    return kept


def files(folder):
    return sorted(folder.glob("*.spill"))


def filled(folder, values):
    """Leave records as a killed process does; return the length of each frame."""
    spill = Spill(folder, LARGE)
    lengths = []
    for position, value in enumerate(values):
        before = spill.bytes
        assert spill.append(record(position, value))
        lengths.append(spill.bytes - before)
    return lengths


def test_a_record_comes_back_whole_after_a_kill(folder):
    written = Record(
        "dead-letters", b"k\xc3\xbc", b'{"a":"\xc3\xbc"}', 1_700_000_000_123, [("schema", b"x/1"), ("n", b"")]
    )
    Spill(folder, LARGE).append(written)
    [found] = read_all(Spill(folder, LARGE))
    assert found[:5] == written[:5]


def test_the_oldest_come_first_over_segments_and_processes(folder):
    filled(folder, ["a"] * 20)
    again = Spill(folder, LARGE)
    for position in range(20, 40):
        again.append(record(position))
    assert len(files(folder)) > 5
    assert [number(r) for r in read_all(again)] == list(range(40))


def test_what_is_in_kafka_is_deleted_a_segment_at_a_time(folder):
    spill = Spill(folder, LARGE)
    for position in range(20):
        spill.append(record(position))
    records = read_all(spill)
    count = len(files(folder))
    first = [r for r in records if r.segment is records[0].segment]
    for done in first[:-1]:
        spill.done(done.segment)
    assert len(files(folder)) == count
    spill.done(first[-1].segment)
    assert len(files(folder)) == count - 1
    for done in records[len(first) :]:
        spill.done(done.segment)
    assert files(folder) == []
    assert spill.bytes == 0
    assert spill.append(record(99))
    assert [number(r) for r in read_all(spill)] == [99]


def test_a_copy_of_what_memory_has_is_read_only_after_a_restart(folder):
    spill = Spill(folder, LARGE)
    segments = [spill.back_up(record(position)) for position in range(5)]
    for position in range(5, 8):
        spill.append(record(position))
    assert [number(r) for r in read_all(spill)] == [5, 6, 7]
    assert [number(r) for r in read_all(Spill(folder, LARGE))] == list(range(8))
    assert all(segments)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6)),
        st.tuples(st.just("back up"), st.integers(1, 6)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("done"), st.integers(0, 40)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_any_use_gives_each_record_once_in_a_life_in_order_and_keeps_what_is_not_done(operations):
    folder = Path(tempfile.mkdtemp())
    try:
        spill = Spill(folder, LARGE)
        written = 0
        out: list[Record] = []  # handed out, or backed up, and not done
        unread: list[int] = []
        done: set[int] = set()
        for operation, argument in operations:
            if operation == "append":
                for _ in range(argument):
                    assert spill.append(record(written))
                    unread.append(written)
                    written += 1
            elif operation == "back up":
                for _ in range(0 if spill.has_unread else argument):
                    out.append(record(written)._replace(segment=spill.back_up(record(written))))
                    written += 1
            elif operation == "read":
                records = spill.read()
                assert [number(r) for r in records] == unread[: len(records)]
                assert bool(records) == bool(unread)
                del unread[: len(records)]
                out += records
            elif operation == "done" and out:
                finished = out.pop(argument % len(out))
                spill.done(finished.segment)
                done.add(number(finished))
            elif operation == "reopen":
                spill.close()
                spill = Spill(folder, LARGE)
                again = read_all(spill)
                numbers = [number(r) for r in again]
                assert numbers == sorted(set(numbers)), "twice, or out of order"
                assert set(range(written)) - done <= set(numbers)
                out, unread = again, []
        assert spill.bytes == sum(path.stat().st_size for path in files(folder))
        for left in [*out, *read_all(spill)]:
            spill.done(left.segment)
        assert files(folder) == []
        assert (spill.bytes, spill.dropped, spill.damaged_bytes) == (0, 0, 0)
    finally:
        shutil.rmtree(folder)


VALUES = st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=15)


@given(VALUES, st.data())
def test_a_file_cut_anywhere_gives_all_before_the_cut_and_counts_the_rest(values, data):
    folder = Path(tempfile.mkdtemp())
    try:
        lengths = filled(folder, values)
        path = data.draw(st.sampled_from(files(folder)))
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole) - 1))
        before = [number(r) for r in parse(whole)[0]]
        path.write_bytes(whole[:cut])
        expected, at = [], 0
        for position in before:
            if at + lengths[position] > cut:
                break
            at += lengths[position]
            expected.append(position)
        others = [position for position in range(len(values)) if position not in before]
        spill = Spill(folder, LARGE)
        spill.append(record(999))  # what comes after is not behind the damage
        found = [number(r) for r in read_all(spill)]
        assert found == [*sorted(others + expected), 999]
        assert spill.damaged_bytes == cut - at
    finally:
        shutil.rmtree(folder)


@given(VALUES, st.data())
def test_a_byte_changed_anywhere_costs_the_record_it_hit_and_no_other(values, data):
    folder = Path(tempfile.mkdtemp())
    try:
        lengths = filled(folder, values)
        path = data.draw(st.sampled_from(files(folder)))
        content = bytearray(path.read_bytes())
        inside = [number(r) for r in parse(bytes(content))[0]]
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        hit, end = None, 0
        for position in inside:
            end += lengths[position]
            if place < end:
                hit = position
                break
        spill = Spill(folder, LARGE)
        with capture_logs() as logs:
            records = read_all(spill)
        assert [number(r) for r in records] == [
            position for position in range(len(values)) if position != hit
        ]
        assert spill.damaged_bytes == lengths[hit]
        [said] = [entry for entry in logs if entry["log_level"] == "error"]
        assert said["bytes"] == lengths[hit]
        for left in records:
            spill.done(left.segment)
        assert files(folder) == []
    finally:
        shutil.rmtree(folder)


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(MARKER), st.just(MARKER + bytes(8))), max_size=8))
def test_any_bytes_are_read_without_an_error_and_all_are_counted(parts):
    data = b"".join(parts)
    records, damaged = parse(data)
    assert damaged == len(data) or records


def test_a_whole_frame_that_holds_no_record_is_damage(folder):
    frame = module._HEAD.pack(MARKER, 1, module.crc32(b"\x01")) + b"\x01"
    assert parse(frame) == ([], len(frame))


def test_at_the_cap_records_are_dropped_counted_and_told_of_and_room_is_used_again(folder, monkeypatch):
    spill = Spill(folder, 1000)
    with capture_logs() as logs:
        kept = [position for position in range(50) if keep_or_drop(spill, record(position))]
    assert kept == list(range(len(kept)))
    assert 5 < len(kept) < 50
    assert spill.dropped == 50 - len(kept)
    assert spill.bytes == sum(path.stat().st_size for path in files(folder)) <= 1000
    [said] = logs  # the first at once, the others not each
    assert (said["dropped"], said["log_level"]) == (1, "error")
    assert "1000 bytes" in said["reason"]
    monkeypatch.setattr(module, "DROPPED_AGAIN_S", 0)
    with capture_logs() as logs:
        spill.tell_dropped()
        spill.tell_dropped()
    assert [entry["dropped"] for entry in logs] == [50 - len(kept)]
    records = read_all(spill)
    assert [number(r) for r in records] == kept
    for left in records:
        spill.done(left.segment)
    assert spill.append(record(50))
    assert spill.dropped == 50 - len(kept)


def test_a_copy_that_does_not_fit_is_not_lost_and_not_counted(folder):
    spill = Spill(folder, 100)
    assert spill.back_up(record(1)) is not None
    assert spill.back_up(record(2)) is None
    assert spill.dropped == 0


@pytest.mark.parametrize("room", [1, 20, 77, 78, 150])
def test_a_disk_that_is_full_leaves_no_half_record_and_is_used_again(folder, room):
    """The kernel's own limit on a file's size: it writes what fits of a record, then refuses."""
    spill = Spill(folder, LARGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with capture_logs():  # a log would have no room either
            kept = [position for position in range(4) if keep_or_drop(spill, record(position, "long" * 5))]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spill.dropped == 4 - len(kept)
    assert sum(path.stat().st_size for path in files(folder)) == spill.bytes
    assert spill.append(record(9))
    again = Spill(folder, LARGE)
    assert [number(r) for r in read_all(again)] == [*kept, 9]
    assert again.damaged_bytes == 0


def test_a_folder_that_goes_away_costs_what_was_in_it_and_nothing_else(folder):
    spill = Spill(folder, LARGE)
    for position in range(20):
        spill.append(record(position))
    size = spill.bytes
    shutil.rmtree(folder)
    assert read_all(spill) == []
    assert spill.damaged_bytes == size
    assert not spill.append(record(20))
    assert spill.dropped == 0  # the caller may wait
    os.mkdir(folder)
    assert spill.append(record(21))
    assert [number(r) for r in read_all(spill)] == [21]


def test_a_folder_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        Spill(tmp_path / "file" / "spill", LARGE)
    (tmp_path / "mine.spill").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        Spill(tmp_path, LARGE)


def test_a_large_record_passes(folder):
    spill = Spill(folder, LARGE)
    spill.append(record(1, "x" * 5_000_000))
    spill.append(record(2))
    assert [number(r) for r in read_all(spill)] == [1, 2]
