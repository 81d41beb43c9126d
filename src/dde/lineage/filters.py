"""Filters on values of runs: a value, several values, a range, or a function."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from dde.printable import is_number_text
from dde.sources.values import as_float

__all__ = ["as_values", "match_each", "matches"]


def as_values(wanted: object) -> list[object]:
    """Return the alternatives of a filter: its single value, or the items of a list, set, tuple or array."""
    if isinstance(wanted, (str, bytes)) or not isinstance(wanted, Iterable):
        return [wanted]
    array = getattr(wanted, "__array__", None)
    return list(wanted) if array is None else list(np.atleast_1d(np.asarray(wanted)).tolist())


def matches(value: object, wanted: object) -> bool:
    """Return whether a run's value matches a filter.

    A filter is a value, several values, a ``slice`` (a range with both ends included), or a function of the
    value. Numbers compare by closeness (1 part in a million), so that 5e-06 is one learning rate however it is written.

    Examples
    --------
    >>> matches(5e-6, [5.0000000001e-06, 1e-4]), matches(5e-6, slice(1e-6, 1e-5)), matches("sum", "mean")
    (True, True, False)
    """
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(wanted, slice):
        if not isinstance(value, (int, float)):
            return False
        value = as_float(value)  # an integer may exceed the range of floats
        if math.isnan(value):
            return False
        low = -math.inf if wanted.start is None else float(wanted.start)
        high = math.inf if wanted.stop is None else float(wanted.stop)
        return low <= value <= high or math.isclose(value, low, rel_tol=1e-6) or math.isclose(value, high, rel_tol=1e-6)
    return any(_equal(value, one) for one in as_values(wanted))


def match_each(values: Iterable[object], wanted: object) -> list[bool]:
    """Return whether each value matches a filter, as :func:`matches` does; fast for many labels of many.

    Examples
    --------
    >>> match_each(["C4", "DCLM", 1.0], ["DCLM", "1"])
    [False, True, True]
    """
    if callable(wanted) or isinstance(wanted, slice):
        return [matches(value, wanted) for value in values]
    several = as_values(wanted)
    # Text that is not a number equals only the same text, unless the other one is a boolean.
    texts = None if any(isinstance(one, bool) for one in several) else {str(one) for one in several if one is not None}
    return [
        value in texts
        if texts is not None and isinstance(value, str) and not is_number_text(value)
        else any(_equal(value, one) for one in several)
        for value in values
    ]


def _equal(value: object, wanted: object) -> bool:
    if value is None or wanted is None:
        return value is wanted
    if isinstance(value, bool) or isinstance(wanted, bool):
        # Configs write booleans as true, True or "true".
        return str(value).casefold() == str(wanted).casefold()
    try:
        a, b = float(str(value)), float(str(wanted))
    except ValueError:
        return str(value) == str(wanted)
    return math.isclose(a, b, rel_tol=1e-6) or (math.isnan(a) and math.isnan(b))
