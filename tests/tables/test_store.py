"""Real RocksDB files, damaged at seeded places: what a table reads is the log up to its offset, or nothing."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import faust
import pytest
from faust.types import TP

from candlewick.checkpoint import Checkpoint
from candlewick.transport import BatchSchema, RecordBatch
from models.errors import CandlewickError, StateError
from models.tape import CandleRow, TapeState
from tables import store
from tables.rows import RowTable

SEEDS = range(int(os.environ.get("STORE_SEEDS", "6")))
BATCHES = 90
KEYS = [b"row/%03d" % number for number in range(400)]
CHANGELOG = TP("store-candles-changelog", 0)


def build() -> tuple[list[dict[bytes, bytes | None]], list[dict[bytes, bytes]]]:
    """Return batches of rows, and what a table holds after each."""
    draw = random.Random(7)
    batches: list[dict[bytes, bytes | None]] = []
    states: list[dict[bytes, bytes]] = [{}]
    for number in range(BATCHES):
        rows: dict[bytes, bytes | None] = {
            key: b'{"offset":%d,"x":"%s"}' % (number, draw.randbytes(100).hex().encode())
            for key in draw.sample(KEYS, 20)
        }
        rows |= dict.fromkeys(draw.sample(KEYS, 2))
        batches.append(rows)
        state = {**states[-1], **{key: value for key, value in rows.items() if value is not None}}
        states.append({key: value for key, value in state.items() if rows.get(key, b"") is not None})
    return batches, states


ROWS, STATES = build()


def table_in(folder: Path) -> RowTable[TapeState, CandleRow]:
    app = faust.App("store", datadir=str(folder), broker="kafka://127.0.0.1:1", topic_partitions=1)
    (folder / "v1" / "tables").mkdir(parents=True, exist_ok=True)
    app.checkpoint = Checkpoint(app, 10.0)
    app.batches = BatchSchema(key_type=bytes, value_type=bytes)
    return RowTable(app, "candles", TapeState, CandleRow, 1)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the files of a worker that was killed: flushed six times, compacted once, the rest in memory."""
    folder = tmp_path_factory.mktemp("worker")
    data = table_in(folder / "running").data
    for number, rows in enumerate(ROWS):
        data.write(0, rows, number)
        if number < 60 and number % 10 == 9:
            data._db_for_partition(0).flush()
        if number == 40:
            data._db_for_partition(0).compact_range(None, None)
    shutil.copytree(folder / "running", folder / "killed")
    data.close()
    return folder / "killed"


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Give copies of those files; each is the folder of one worker."""
    return lambda name: Path(shutil.copytree(killed, tmp_path / name))


def database(folder: Path) -> Path:
    return folder / "v1" / "tables" / "candles-0.db"


def aside(folder: Path) -> list[Path]:
    return sorted((folder / "v1" / "tables").glob("candles-0.db.corrupt-*"))


def content(table: RowTable[TapeState, CandleRow]) -> tuple[int | None, dict[bytes, bytes]]:
    """Read the offset, and all rows twice: by key, and as a range."""
    offset = table.persisted_offset(CHANGELOG)
    by_key = {key: value for key in KEYS if (value := table.stored(0, key)) is not None}
    assert table.stored_keys(0, b"row/", b"row0") == sorted(by_key)
    return offset, by_key


def is_log_up_to_its_offset(table: RowTable[TapeState, CandleRow]) -> bool:
    offset, rows = content(table)
    return rows == STATES[0 if offset is None else offset + 1]


def flip(path: Path, draw: random.Random, first: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(max(0, first if first >= 0 else len(data) + first), len(data))] ^= (
        1 << draw.randrange(8)
    )
    path.write_bytes(data)


def zero(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data)) // 512 * 512
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def records(manifest: bytes) -> list[int]:
    """Return where the records of a MANIFEST of one block begin."""
    at, starts = 0, []
    while at + 7 <= len(manifest):
        starts.append(at)
        at += 7 + int.from_bytes(manifest[at + 4 : at + 6], "little")
    return starts


def retype(path: Path, draw: random.Random) -> None:
    """Give a record of a MANIFEST another type."""
    data = bytearray(path.read_bytes())
    data[draw.choice(records(data)) + 6] = draw.randrange(2, 16)
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, random.Random], object]] = {
    "flipped": flip,
    "flipped near its end": lambda path, draw: flip(path, draw, -600),
    "zeroed": zero,
    "cut": lambda path, draw: os.truncate(path, draw.randrange(path.stat().st_size)),
    "emptied": lambda path, draw: os.truncate(path, 0),
    "longer": lambda path, draw: path.write_bytes(
        path.read_bytes() + draw.randbytes(draw.randrange(1, 4000))
    ),
    "missing": lambda path, draw: path.unlink(),
    "a folder": lambda path, draw: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *[(name, how) for name in ("*.sst", "MANIFEST-*", "CURRENT") for how in DAMAGE],
        *[("*.log", how) for how in ("longer", "missing", "a folder")],  # empty: no write-ahead log is kept
        ("MANIFEST-*", "of another type"),
    ],
)
async def test_a_damaged_file_never_gives_wrong_rows_and_is_left_behind(copy, name, how):
    for seed in SEEDS:
        draw = random.Random(f"{name} {how} {seed}")
        folder = copy(str(seed))
        path = draw.choice(sorted(database(folder).glob(name)))
        DAMAGE.get(how, retype)(path, draw)
        table = table_in(folder)
        try:
            good = is_log_up_to_its_offset(table)
        except StateError:
            # Damage that shows while the worker runs: it ends, and leaves a mark for the next one.
            with pytest.raises(StateError, match="is damaged"):
                await table.app.checkpoint.write(lambda: True)
            assert (database(folder).parent / "candles-0.db.damaged").exists()
            table.data.close()
            table = table_in(folder)
            assert content(table) == (None, {})
        else:
            assert good, f"seed {seed}"
        assert len(aside(folder)) <= 1
        # What recovery does next.
        offset = table.persisted_offset(CHANGELOG)
        for number in range(0 if offset is None else offset + 1, BATCHES):
            table.data.write(0, ROWS[number], number)
        assert content(table) == (BATCHES - 1, STATES[-1])
        table.data.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", [5, 6, 7, 8, 11])
def test_a_manifest_that_rocksdb_would_read_for_ever_is_never_opened(copy, kind):
    folder = copy("worker")
    manifest = next(database(folder).glob("MANIFEST-*"))
    store.check(database(folder))
    data = bytearray(manifest.read_bytes())
    data[records(data)[-1] + 6] = kind
    manifest.write_bytes(data)
    with pytest.raises(store.Damaged, match="no known type"):
        store.check(database(folder))  # not opened here: without the check, the test would not end


async def test_after_a_kill_the_rows_are_those_of_an_earlier_offset(copy):
    table = table_in(copy("killed"))
    assert content(table) == (59, STATES[60])
    table.data.close()


def damage_blocks(path: Path) -> None:
    """Damage what is seen only when it is read."""
    for file in path.glob("*.sst"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


async def test_a_list_of_keys_does_not_end_at_a_damaged_block(copy):
    folder = copy("worker")
    damage_blocks(database(folder))
    with pytest.raises(StateError, match="checksum mismatch"):
        table_in(folder).stored_keys(0, b"row/", b"row0")


async def test_rows_that_cannot_be_restored_end_the_worker(copy):
    """Faust only logs an error of recovery, and goes on as if the rows were there."""
    folder = copy("worker")
    damage_blocks(database(folder))
    table = table_in(folder)
    records = [(60 + at, key, b'{"offset":99,}', 0) for at, key in enumerate(KEYS)]
    restored = [SimpleNamespace(value=[RecordBatch(CHANGELOG, 0, records)])]
    with pytest.raises(StateError, match="checksum mismatch"):
        table.apply_changelog_batch(restored)
    assert table.persisted_offset(CHANGELOG) == 59
    with pytest.raises(StateError, match="is damaged"):
        await table.app.checkpoint.write(lambda: True)


async def test_damage_in_one_database_makes_all_others_looked_through(copy):
    folder = copy("worker")
    paths = [database(folder).with_name(f"candles-{partition}.db") for partition in range(3)]
    for path in paths[1:]:
        shutil.copytree(paths[0], path)
    for path in paths[:2]:
        damage_blocks(path)
    table = table_in(folder)
    for partition in range(3):
        assert table.persisted_offset(TP(CHANGELOG.topic, partition)) == 59
    with pytest.raises(StateError, match="checksum mismatch"):
        table.stored_keys(0, b"row/", b"row0")
    assert [store.marker(path).exists() for path in paths] == [True, True, False]


async def test_what_was_flushed_or_closed_is_there_after_a_kill(copy, tmp_path):
    table = table_in(copy("running"))
    table.data.write(0, ROWS[60], 60)
    table.data._db_for_partition(0).flush()
    table.data.write(0, ROWS[61], 61)
    flushed = table_in(Path(shutil.copytree(tmp_path / "running", tmp_path / "flushed")))
    assert content(flushed) == (60, STATES[61])
    table.data.close()
    closed = table_in(Path(shutil.copytree(tmp_path / "running", tmp_path / "closed")))
    assert content(closed) == (61, STATES[62])


@pytest.mark.parametrize("names", [("*.sst",), ("CURRENT",), ("MANIFEST-*",), ("CURRENT", "*.log"), ("*",)])
async def test_a_database_without_its_files_is_made_anew_and_claims_no_offset(copy, names, caplog):
    folder = copy("worker")
    for name in names:
        for path in database(folder).glob(name):
            path.unlink()
    assert content(table_in(folder)) == (None, {})
    if names != ("*",) and len(names) == 1:
        assert len(aside(folder)) == 1
        assert "is damaged, its rows are read from the changelog again" in caplog.text


async def test_only_the_last_damaged_database_is_kept(copy):
    folder = copy("worker")
    for round_ in range(3):
        (database(folder) / f"round-{round_}").touch()
        (database(folder) / "CURRENT").write_text("rubbish")
        table = table_in(folder)
        assert content(table) == (None, {})
        table.data.write(0, ROWS[0], 0)
        table.data.close()
    assert len(aside(folder)) == 1
    assert (aside(folder)[0] / "round-2").exists()


async def test_a_death_while_a_database_is_moved_aside_leaves_none_that_is_trusted(copy):
    folder = copy("worker")
    store.mark(database(folder), Exception("Corruption: block checksum mismatch"))
    database(folder).rename(database(folder).with_name("candles-0.db.corrupt-20260101T000000"))
    assert content(table_in(folder)) == (None, {})
    assert not store.marker(database(folder)).exists()
    assert len(aside(folder)) == 1


HOLD = """
import sys
from rocksdict import Options, Rdict
database = Rdict(sys.argv[1], options=Options(raw_mode=True))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a database open in another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield
        other.communicate(timeout=30)


async def test_a_database_that_another_process_has_open_is_not_damaged(copy):
    folder = copy("worker")
    with held(database(folder)), pytest.raises(StateError, match="lock") as caught:
        # Faust tries again where an error says "lock".
        await table_in(folder).data._try_open_db_for_partition(0, max_retries=2, retry_delay=0.01)
    assert str(database(folder)) in str(caught.value)
    assert aside(folder) == []
    assert content(table_in(folder)) == (59, STATES[60])


async def test_a_partition_that_moves_to_another_worker_is_closed(copy):
    folder = copy("worker")
    table = table_in(folder)
    assert content(table) == (59, STATES[60])
    table.data.write(0, ROWS[60], 60)
    held = table.data._db_for_partition(0)  # as a traceback or a view may hold it
    table.data.revoke_partitions(table, {TP(table.changelog_topic_name, 0)})
    assert content(table_in(folder)) == (60, STATES[61])
    del held


async def test_a_table_that_is_stopped_takes_the_last_checkpoint_and_then_closes(copy):
    folder = copy("worker")
    table = table_in(folder)
    await table.data.start()
    await table.data.stop()
    table.data.write(0, ROWS[60], 60)
    await table.app._stop_exit_stacks()
    assert content(table_in(folder)) == (60, STATES[61])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 8 MiB, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_ends_the_worker_and_afterwards_the_rows_are_right(small_disk):
    table = table_in(small_disk)
    table.data.write(0, ROWS[0], 0)
    table.data._db_for_partition(0).flush()
    filling = small_disk / "filling"
    filling.touch()
    with pytest.raises(OSError, match="No space"):
        filling.write_bytes(bytes(16 << 20))

    def write_on() -> None:
        """Write rows: in memory at first; then they have to be flushed."""
        draw = random.Random(1)
        for number in range(1, 1_000_000):
            table.data.write(0, {b"large/%05d" % number: draw.randbytes(50_000)}, number)

    with pytest.raises(StateError, match="No space left on device") as caught:
        write_on()
    assert str(database(small_disk)) in str(caught.value)
    with pytest.raises(StateError, match="No space left on device"):
        await table.app.checkpoint.write(lambda: True)
    table.data.close()
    full = table_in(small_disk)
    with pytest.raises(CandlewickError, match="No space left on device"):
        full.persisted_offset(CHANGELOG)
    filling.unlink()
    table = table_in(small_disk)
    assert aside(small_disk) == []
    assert content(table) == (0, STATES[1])
    table.data.close()


@pytest.mark.parametrize(
    ("said", "damage"),
    [
        ("Corruption: block checksum mismatch: stored = 1, computed = 2", True),
        ("IO error: No such file or directory: While opening a file for random read: /d/000009.sst", True),
        ("IO error: Input/output error: While pread offset 0 len 5: /d/000009.sst", True),
        ("IO error: While lock file: /d/LOCK: Resource temporarily unavailable", False),
        ("IO error: lock hold by current process, acquire time 1: /d/LOCK: No locks available", False),
        ("IO error: No space left on device: While appending to file: /d/000009.sst", False),
        ("IO error: Read-only file system: While open a file for appending: /d/LOG", False),
        ("IO error: Too many open files: While open a file for random read: /d/000009.sst", False),
    ],
)
def test_what_counts_as_damage(said, damage):
    assert store.is_damage(Exception(said)) is damage
    assert store.is_damage(TypeError(said)) is False
