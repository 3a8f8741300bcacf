"""Decimals: what is read, what is refused, and how they are written."""

import decimal
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.decimals import EXACT, MAX_DIGITS, ROUNDED, is_price, parse, parse_positive, plain, ratio

QUICK = settings(deadline=None, max_examples=100)

LARGEST = Decimal("9" * 28)
SMALLEST = Decimal("0." + "0" * 27 + "1")

texts = (
    st.text(max_size=45)
    | st.text("0123456789.-+eE_ ", max_size=45)
    | st.from_regex(r"[0-9]+(\.[0-9]+)?", fullmatch=True)
)
numbers = st.builds(
    lambda digits, places: Decimal((0, tuple(map(int, str(digits))), -places)),
    st.integers(0, 10**40),
    st.integers(-5, 60),
)


@QUICK
@given(texts)
@example("0")
@example("٣")
@example("1\n")
@example("1" * 28)
@example("0." + "1" * 27)
@example("1" * 29)
@example("0." + "1" * 28)
def test_parse_takes_plain_numbers_of_28_digits_and_refuses_the_rest_with_value_error(text: str) -> None:
    digits = [character for character in text if character != "."]
    is_plain = re.fullmatch(r"[0-9]+([.][0-9]+)?", text, re.ASCII) is not None and "\n" not in text
    if is_plain and len(digits) <= 28:
        assert parse(text) == Decimal(text)
        assert len(parse(text).as_tuple().digits) <= 28
    else:
        with pytest.raises(ValueError):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        ".5",
        "-1",
        "+1",
        "1e3",
        "1E-8",
        "NaN",
        "sNaN",
        "Infinity",
        "-0",
        " 1",
        "1 ",
        "1_000",
        "1,5",
        "0x1",
    ],
)
def test_parse_refuses_every_other_way_to_write_a_number(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize("value", [1, 1.5, True, None, b"1", Decimal(1), ["1"]])
def test_parse_refuses_what_is_not_text(value: object) -> None:
    with pytest.raises(ValueError, match=type(value).__name__):
        parse(value)


@pytest.mark.parametrize("text", ["0", "0.00000000", "000"])
def test_zero_is_a_size_of_a_level_but_no_price(text: str) -> None:
    assert parse(text) == 0
    with pytest.raises(ValueError):
        parse_positive(text)


@QUICK
@given(numbers)
@example(LARGEST)
@example(LARGEST + 1)
@example(SMALLEST)
@example(Decimal("0." + "0" * 28 + "1"))
def test_a_price_is_above_zero_and_has_at_most_28_digits(number: Decimal) -> None:
    significant = len(number.normalize(decimal.Context(prec=100)).as_tuple().digits)
    fits = significant <= 28 and Fraction(1, 10**28) <= Fraction(number) < 10**28
    assert is_price(number) is fits


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-NaN",
        "sNaN",
        "sNaN123",
        "Infinity",
        "-Infinity",
        "0",
        "-0",
        "0E+400",
        "-1",
        "1e400",
        "1e-400",
        "1" * 40,
    ],
)
def test_what_cannot_be_a_price_is_said_so_without_an_error(text: str) -> None:
    assert is_price(Decimal(text)) is False


@QUICK
@given(numbers)
@example(Decimal("4E-8"))
@example(Decimal("1E+3"))
def test_a_decimal_is_written_without_an_exponent_and_reads_back_the_same(number: Decimal) -> None:
    text = plain(number)
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)
    assert Decimal(text) == number


def test_a_tiny_size_is_written_plain() -> None:
    assert plain(Decimal("4E-8")) == "0.00000004"
    assert plain(Decimal("0E-8")) == "0.00000000"


def test_exact_raises_where_a_result_would_have_to_be_rounded() -> None:
    with decimal.localcontext(EXACT), pytest.raises(decimal.Inexact):
        Decimal(1) / Decimal(3)


def test_exact_has_room_for_a_day_of_the_most_extreme_trades() -> None:
    count = 10**10
    smallest_of_all = Decimal("1." + "1" * 27).scaleb(-28)
    assert is_price(LARGEST)
    assert is_price(smallest_of_all)
    with decimal.localcontext(EXACT):
        total = LARGEST * LARGEST * count + smallest_of_all * smallest_of_all
    assert Fraction(total) == Fraction(LARGEST) ** 2 * count + Fraction(smallest_of_all) ** 2


@QUICK
@given(st.integers(1, 10**60), st.integers(1, 10**60), st.integers(-30, 30))
@example(1, 3, 0)
@example(10**12 + 5, 10, 0)  # half: to the even digit
@example(10**12 + 15, 10, 0)
@example(10**13 - 1, 1, 0)
def test_a_ratio_is_the_exact_quotient_to_12_digits(numerator: int, denominator: int, scale: int) -> None:
    exact = Fraction(numerator) * Fraction(10) ** scale / denominator
    step = Fraction(1)
    while exact >= step * 10**12:
        step *= 10
    while exact < step * 10**11:
        step /= 10
    quotient = ratio(Decimal((0, tuple(map(int, str(numerator))), scale)), Decimal(denominator))
    assert Fraction(quotient) == round(exact / step) * step


def test_the_limits_are_those_of_the_documents() -> None:
    assert MAX_DIGITS == 28
    assert ROUNDED.prec == 12
