"""Whole numbers as names and logs write them, as far as a count of steps or tokens can hold them."""

from __future__ import annotations

import math

__all__ = ["MOST", "as_count", "shortened", "whole_number"]

#: Largest count: steps and tokens are 64-bit integers.
MOST = 2**63 - 1

_MOST_DIGITS = len(str(MOST))


def whole_number(digits: str) -> int | None:
    """Return the number that decimal digits write; None where it is beyond 64 bits.

    Python refuses to read more than 4,300 digits, and takes a time that grows with their square below that.

    Examples
    --------
    >>> whole_number("0025000"), whole_number("9" * 30)
    (25000, None)
    """
    digits = digits.lstrip("0")
    if len(digits) > _MOST_DIGITS:
        return None
    number = int(digits or "0")
    return number if number <= MOST else None


def as_count(number: float | None) -> int | None:
    """Return the nearest whole number, or None where it is negative, beyond 64 bits or not finite.

    Examples
    --------
    >>> as_count(1.4), as_count(-1), as_count(1e300), as_count(float("nan"))
    (1, None, None, None)
    """
    if number is None or (isinstance(number, float) and not math.isfinite(number)):
        return None
    count = round(number)
    return count if 0 <= count <= MOST else None


def shortened(text: str, most: int = 80) -> str:
    """Return a text for a message: of a long one its beginning, and how long it is.

    Examples
    --------
    >>> shortened("9" * 5000, 10)
    '9999999999... (5,000 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
