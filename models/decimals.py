"""Exact decimal arithmetic: the contexts, the limits, and the one way a decimal is written.

Prices and sizes come as text from the exchange and stay exact: ``EXACT`` has room for the sum of
more products of a price and a size than a day can hold, and raises rather than round.
"""

from __future__ import annotations

import decimal
import re
from decimal import Decimal

EXACT = decimal.Context(
    prec=200,
    rounding=decimal.ROUND_HALF_EVEN,
    Emax=999,
    Emin=-999,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow, decimal.Inexact],
)
"""For sums and products of money: a result that had to be rounded is an error."""

ROUNDED = decimal.Context(prec=12, rounding=decimal.ROUND_HALF_EVEN)
"""For ratios and means (vwap, mean spread): 12 significant digits."""

MAX_DIGITS = 28
"""Digits of a price or a size, before and after the point together."""

_ZERO = Decimal(0)
_TOO_LARGE = Decimal(10) ** MAX_DIGITS
_FITS = decimal.Context(
    prec=MAX_DIGITS,
    Emax=MAX_DIGITS,
    Emin=-MAX_DIGITS,
    traps=[decimal.Inexact, decimal.Subnormal, decimal.Overflow, decimal.InvalidOperation],
).plus

_PLAIN = re.compile(r"(?=[0-9.]{1,29}\Z)[0-9]+(?:\.[0-9]+)?\Z").match


def parse(text: object) -> Decimal:
    """Return the number that an exchange wrote: plain digits, never below zero.

    Raises:
        ValueError: not a string, a sign, an exponent, NaN, an infinity, over 28 digits.
    """
    if type(text) is not str:
        raise ValueError(f"a decimal must be a string, not {type(text).__name__}")
    if _PLAIN(text) is None or len(text) - ("." in text) > MAX_DIGITS:
        raise ValueError(f"not a plain decimal of at most {MAX_DIGITS} digits: {text[:50]!r}")
    return Decimal(text)


def parse_positive(text: object) -> Decimal:
    """Like `parse`, and not zero: what a price, or the size of a trade, must be."""
    number = parse(text)
    if not number:
        raise ValueError(f"must be above zero: {text!r}")
    return number


def is_price(number: Decimal) -> bool:
    """Say whether a decimal that was read from a record can be a price or a trade's size."""
    try:
        return _ZERO < _FITS(number) < _TOO_LARGE
    except decimal.DecimalException:  # NaN, or more digits than we promise to keep
        return False


def plain(number: Decimal) -> str:
    """Write a decimal without an exponent: ``0.00000004``, never ``4E-8``."""
    return format(number, "f")


def ratio(numerator: Decimal, denominator: Decimal | int) -> Decimal:
    """Divide, to 12 significant digits."""
    return ROUNDED.divide(numerator, Decimal(denominator))
