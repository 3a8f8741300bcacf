"""Golden frames: for every exchange in the registry, what its documented messages must become.

Run as a program (`make golden`), this rewrites every ``expected.jsonl``; the difference is reviewed.
"""

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from models.decimals import plain
from models.errors import DecodeError
from producers.codec import Codec
from producers.exchanges import codec_class, names

GOLDEN = Path(__file__).parents[1] / "golden"
RECEIVED_US = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z, later than every golden frame
NEEDED = {
    "SOURCE.md": "where the frames are from: URL, date, licence",
    "frames.jsonl": "whole frames as received",
    "expected.jsonl": "the values they must become",
}


def lines_of(path: Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told(value: object) -> object:
    """Return a value as JSON can hold it, no digit lost."""
    if isinstance(value, msgspec.Struct):
        return {
            "event": type(value).__name__,
            **{name: told(getattr(value, name)) for name in value.__struct_fields__},
        }
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, dict):
        return {name: told(held) for name, held in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [told(held) for held in value]
    return value


def outcome(codec: Codec, frame: str | bytes, trades_of: str | None = None) -> dict:
    try:
        if trades_of is None:
            events = codec.receive(frame, RECEIVED_US)
        else:
            body = frame if isinstance(frame, bytes) else frame.encode()
            events, refused = codec.read_trades(trades_of, body, RECEIVED_US)
            if refused:
                raise refused[0]
        return {"events": [told(event) for event in events]}
    except DecodeError as error:
        return {"refused": error.reason, "field": error.field}


@pytest.mark.parametrize("exchange", names())
def test_every_exchange_has_golden_frames(exchange):
    missing = [f"{name} ({why})" for name, why in NEEDED.items() if not (GOLDEN / exchange / name).is_file()]
    assert not missing, f"{exchange} has a codec, but tests/golden/{exchange}/ has no {', no '.join(missing)}"


@pytest.mark.parametrize("exchange", names())
def test_golden_frames_become_the_expected_values(exchange):
    folder = GOLDEN / exchange
    if not (folder / "frames.jsonl").is_file() or not (folder / "expected.jsonl").is_file():
        pytest.fail(f"tests/golden/{exchange}/ is not complete")
    frames, expected = lines_of(folder / "frames.jsonl"), lines_of(folder / "expected.jsonl")
    assert [line["name"] for line in frames] == [line.pop("name") for line in expected]
    codec = codec_class(exchange)()
    for frame, values in zip(frames, expected, strict=True):
        trades_of = frame.get("trades_of")
        assert outcome(codec, frame["raw"], trades_of) == values, frame["name"]
        assert outcome(codec, frame["raw"].encode(), trades_of) == values, f"{frame['name']}, as bytes"


def rewrite() -> None:
    for exchange in names():
        codec, folder = codec_class(exchange)(), GOLDEN / exchange
        lines = [
            json.dumps(
                {"name": frame["name"], **outcome(codec, frame["raw"], frame.get("trades_of"))},
                ensure_ascii=False,
            )
            for frame in lines_of(folder / "frames.jsonl")
        ]
        (folder / "expected.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} lines in tests/golden/{exchange}/expected.jsonl")


if __name__ == "__main__":
    rewrite()
