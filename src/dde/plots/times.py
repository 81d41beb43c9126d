"""Times and durations in pictures: as numbers on an axis, and as labels."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.errors import SelectionError

__all__ = ["as_numbers", "is_time", "require_numbers", "time_label"]

# Units of an axis with their seconds, largest first; the first one of which the data span three is used.
_UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))


def is_time(value: object) -> bool:
    """Return whether a value is a time or a duration, of Python, NumPy or pandas.

    Examples
    --------
    >>> is_time(np.datetime64("2025-01-01")), is_time(pd.Timedelta("2h")), is_time(3)
    (True, True, False)
    """
    return isinstance(value, (np.datetime64, np.timedelta64, datetime.date, datetime.timedelta))


def time_label(value: Any) -> str:
    """Return a time or a duration as a legend shows it.

    Examples
    --------
    >>> time_label(np.datetime64("2025-01-31T00:00")), time_label(np.datetime64("2025-01-31T12:30"))
    ('2025-01-31', '2025-01-31 12:30')
    >>> time_label(np.timedelta64(90, "m")), time_label(np.timedelta64(3, "D"))
    ('1 h 30 min', '3 d')
    """
    if isinstance(value, (np.timedelta64, datetime.timedelta)):
        parts = pd.Timedelta(value).components
        named = zip((parts.days, parts.hours, parts.minutes, parts.seconds), ("d", "h", "min", "s"), strict=True)
        rest = pd.Timedelta(value) % pd.Timedelta("1s")
        small = [f"{rest.total_seconds():g} s"] if rest and not parts.seconds else []
        return " ".join([*(f"{n} {unit}" for n, unit in named if n), *small]) or "0 s"
    time = pd.Timestamp(value)
    text = str(time)
    return text.removesuffix(" 00:00:00").removesuffix(":00") if time.second == 0 else text


def as_numbers(array: xr.DataArray) -> xr.DataArray:
    """Return an array that an axis can show: times as durations since the first one, durations in one unit.

    Parameters
    ----------
    array : xarray.DataArray
        Of numbers or booleans, which are returned as they are, times or durations.

    Returns
    -------
    xarray.DataArray
        Its attributes ``long_name`` and ``units`` say what the numbers are.

    Raises
    ------
    SelectionError
        When the values are text, complex numbers or other objects.

    Examples
    --------
    >>> when = xr.DataArray(np.array(["2025-01-01", "2025-01-11"], "datetime64[ns]"), name="when")
    >>> as_numbers(when).values, as_numbers(when).attrs
    (array([ 0., 10.]), {'long_name': 'when, since 2025-01-01', 'units': 'days'})
    """
    kind = array.dtype.kind
    if kind in "biuf":
        return array
    if kind not in "mM":
        if kind == "O":
            try:
                return array.astype(np.float64)
            except (TypeError, ValueError):
                pass
        raise SelectionError(
            f"{array.name!r} holds {'complex numbers' if kind == 'c' else 'text or other objects'} "
            f"({array.dtype}), which an axis can't show. Pass a variable of numbers, booleans, times or durations, or "
            "convert its values first."
        )
    name, attrs = str(array.attrs.get("long_name") or array.name or ""), array.attrs
    if kind == "M":
        # NumPy's minimum of times is missing where one of them is.
        times = pd.Series(np.asarray(array.values).ravel()).dropna()
        first = times.min().to_datetime64() if len(times) else np.datetime64(0, "ns")
        array = array - first
        name = f"{name}, since {time_label(first)}" if len(times) else name
    seconds = array / np.timedelta64(1, "s")
    known_values = np.asarray(seconds.values)[np.isfinite(seconds.values)]
    span = float(np.ptp(known_values)) if known_values.size else 0.0
    unit, length = next(((u, n) for u, n in _UNITS if span >= 3 * n), _UNITS[-1])
    numbers: xr.DataArray = seconds / length
    return numbers.assign_attrs(attrs | {"long_name": name, "units": unit})


def require_numbers(array: xr.DataArray) -> xr.DataArray:
    """Return an array of numbers or booleans.

    Raises
    ------
    SelectionError
        When it has other values, such as times, whose unit would be unclear.
    """
    if array.dtype.kind in "mM":
        raise SelectionError(
            f"{array.name!r} holds {'times' if array.dtype.kind == 'M' else 'durations'}, and this picture needs "
            "numbers. Convert it: hours are ds[name] / np.timedelta64(1, 'h'), for times after a subtraction of the "
            "first one."
        )
    return as_numbers(array)
