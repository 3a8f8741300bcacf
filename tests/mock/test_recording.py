from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import CandlewickError, ConfigError
from producers.recording import Line, RecordingError, RecordingWriter, products_of, read

GOOD = '{"recv_ts":1618677816.8434298,"dir":"in","raw":"{\\"product_id\\":\\"A-B\\"}","source":"x"}\n'


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_are_read_plain_and_zipped_and_other_keys_are_ignored(tmp_path: Path, name: str) -> None:
    opened = '{"recv_ts":null,"dir":"open","addr":"wss://x","raw":""}\n'
    lines = list(read(write(tmp_path / name, opened + GOOD)))
    assert lines == [
        Line("open", "", None, "wss://x"),
        Line("in", '{"product_id":"A-B"}', 1618677816.8434298),
    ]
    assert [line.received_time_us for line in lines] == [None, 1_618_677_816_843_430]


@pytest.mark.parametrize(
    ("name", "data", "line", "reason"),
    [
        ("a.jsonl.gz", b"not gzip at all", 0, "not gzip"),
        ("a.jsonl.gz", gzip.compress((GOOD * 1000).encode())[:-9], None, "cut off"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00broken", None, "gzip"),
        ("a.jsonl", b"", 0, "empty"),
        ("a.jsonl.gz", b"", 0, "empty"),
        ("a.jsonl", GOOD.encode() + b"no json\n", 2, "not JSON"),
        ("a.jsonl", GOOD.encode() + b'{"dir":"in"}\n', 2, "raw"),
        ("a.jsonl", b'{"dir":"sideways","raw":""}\n', 1, "dir"),
        ("a.jsonl", b'{"dir":"in","raw":"","recv_ts":"now"}\n', 1, "recv_ts"),
        ("a.jsonl", b"\xff\xfe\n", 1, "not JSON"),
    ],
)
def test_a_broken_file_says_which_line_and_why(
    tmp_path: Path, name: str, data: bytes, line: int | None, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(RecordingError) as caught:
        list(read(path))
    assert isinstance(caught.value, CandlewickError)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    if line is not None:
        assert caught.value.line == line
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_said_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl.gz", tmp_path):
        with pytest.raises(RecordingError, match=str(path)):
            list(read(path))


def test_products_come_in_order_of_first_appearance_and_only_from_received_frames(tmp_path: Path) -> None:
    raws = [("out", "Z-Z"), ("in", "B-A"), ("in", "A-B"), ("in", "B-A"), ("in", None)]
    lines = [
        json.dumps({"dir": way, "raw": json.dumps({"product_id": product}) if product else "no json"})
        for way, product in raws
    ]
    assert products_of(write(tmp_path / "a.jsonl", "\n".join(lines))) == ["B-A", "A-B"]


@given(
    frames=st.lists(
        st.tuples(
            st.text(),
            st.none() | st.integers(0, 4_000_000_000_000_000),
            st.sampled_from(["open", "out", "in", "http"]),
            st.none() | st.text(),
        ),
        min_size=1,
    )
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[str, int | None, str, str | None]]
) -> None:
    with RecordingWriter(tmp_path_factory.mktemp("r"), "coinbase", "BTC-USD", 0) as writer:
        for raw, time_us, way, addr in frames:
            writer.write(raw, time_us, way, addr)  # type: ignore[arg-type]
    found = [(line.raw, line.received_time_us, line.dir, line.addr) for line in read(writer.path)]
    assert found == frames
    assert writer.path.parts[-3:] == ("coinbase", "BTC-USD", "19700101T000000Z.jsonl.gz")


def test_a_recording_is_never_written_over_and_its_name_stays_in_its_folder(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path, "coinbase", "BTC-USD", 0) as writer:
        writer.write("x", None)
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path, "coinbase", "BTC-USD", 0).write("y", None)
    with pytest.raises(ConfigError, match="product"):
        RecordingWriter(tmp_path, "coinbase", "../../etc", 0)
