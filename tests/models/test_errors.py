"""The error tree: one root, facts as attributes, one short sentence."""

import pickle

import pytest

from models import errors
from models.errors import CandlewickError

EXAMPLES: list[tuple[CandlewickError, dict[str, object], str]] = [
    (
        errors.ConfigError("CANDLEWICK_GRACE_S", "-1", "a number from 0 to 3600"),
        {"setting": "CANDLEWICK_GRACE_S", "value": "-1", "expected": "a number from 0 to 3600"},
        "CANDLEWICK_GRACE_S is '-1', but must be a number from 0 to 3600",
    ),
    (
        errors.DecodeError("coinbase", "not JSON", "{"),
        {"exchange": "coinbase", "reason": "not JSON", "frame": "{", "field": ""},
        "coinbase frame refused: not JSON: '{'",
    ),
    (
        errors.DecodeError("coinbase", "must be above zero", b"{}", "price"),
        {"field": "price"},
        "coinbase frame refused: must be above zero in price: b'{}'",
    ),
    (
        errors.RecordError("no value", None),
        {"reason": "no value", "value": None},
        "record refused: no value: b''",
    ),
    (
        errors.TopicError("trades", "8 partitions", "4", "set partitions to 8"),
        {"topic": "trades", "found": "8 partitions", "needed": "4", "remedy": "set partitions to 8"},
        "topic trades has 8 partitions, but needs 4: set partitions to 8",
    ),
    (errors.StateError("the log ends before the state"), {}, "the log ends before the state"),
]


@pytest.mark.parametrize(("error", "facts", "sentence"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_error_carries_its_facts_and_makes_its_sentence(
    error: CandlewickError, facts: dict[str, object], sentence: str
) -> None:
    assert isinstance(error, CandlewickError)
    assert {name: getattr(error, name) for name in facts} == facts
    assert str(error) == sentence
    assert str(pickle.loads(pickle.dumps(error))) == sentence


def test_every_error_is_in_the_tree() -> None:
    named = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert named == {type(error) for error, _, _ in EXAMPLES} | {CandlewickError}
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in named)


@pytest.mark.parametrize(
    "error", [errors.DecodeError("x", "y", "z" * 10**6), errors.RecordError("y", b"z" * 10**6)]
)
def test_a_large_frame_does_not_make_a_large_sentence(error: CandlewickError) -> None:
    assert len(str(error)) < errors.EXCERPT + 100
