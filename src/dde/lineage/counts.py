"""Counts of steps and tokens, which are 64-bit integers, and training compute."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["MOST", "as_count", "is_real_number", "shortened", "training_compute", "whole_number"]

#: Largest count: steps and tokens are 64-bit integers.
MOST = 2**63 - 1

_MOST_DIGITS = len(str(MOST))


def whole_number(digits: str) -> int | None:
    """Return the integer of decimal digits; None where it exceeds 64 bits.

    Python refuses to parse more than 4,300 digits, and parsing takes time quadratic in their number below that.

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
    """Return the nearest integer; None where it is negative, exceeds 64 bits or is not finite.

    Examples
    --------
    >>> as_count(1.4), as_count(-1), as_count(1e300), as_count(float("nan"))
    (1, None, None, None)
    """
    if number is None or (isinstance(number, float) and not math.isfinite(number)):
        return None
    count = round(number)
    return count if 0 <= count <= MOST else None


def training_compute(n_params: Any, tokens: Any) -> Any:
    """Return the training compute in FLOP by the usual estimate 6 N tokens (Kaplan et al., 2020).

    Parameters
    ----------
    n_params, tokens : float or array
        Number of parameters, and training tokens.

    Examples
    --------
    >>> training_compute(1_000_000.0, 20_000_000)
    120000000000000.0
    """
    return 6.0 * n_params * tokens


def shortened(text: str, most: int = 80) -> str:
    """Return a text for a message; a long one is truncated, with its length.

    Examples
    --------
    >>> shortened("9" * 5000, 10)
    '9999999999... (5,000 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def is_real_number(value: object) -> bool:
    """Return whether a value is a number of Python or NumPy, but not a boolean.

    Examples
    --------
    >>> is_real_number(np.int64(3)), is_real_number(True), is_real_number("3")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
