"""Axes that can be read: 10B instead of 1e10, names and units from attributes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["BOKEH_TICKS", "axis_label", "padded_range", "short_number"]

_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))

#: The same as `short_number`, for a page.
BOKEH_TICKS = """
const size = Math.abs(tick)
if (size >= 1e15 || (size > 0 && size < 1e-3)) return tick.toExponential(1).replace(/\\.0e/, "e").replace("e+", "e")
for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
  if (size >= unit) return parseFloat((tick / unit).toPrecision(4)) + letter
return String(parseFloat(tick.toPrecision(4)))
"""


def short_number(number: float, position: object = None) -> str:
    """Return a number of tokens or FLOPs as an axis shows it; `position` is what matplotlib passes.

    Examples
    --------
    >>> short_number(1.5e10), short_number(-2.5e8), short_number(0), short_number(1.2e21), short_number(0.25)
    ('15B', '-250M', '0', '1.2e21', '0.25')
    """
    size = abs(number)
    if size >= 1e15 or 0 < size < 1e-3:
        return f"{number:.1e}".replace(".0e", "e").replace("e+", "e").replace("e-0", "e-")
    for unit, letter in _PREFIXES:
        if size >= unit:
            return f"{number / unit:.4g}{letter}"
    return f"{number:.4g}"


def axis_label(array: xr.DataArray) -> str:
    """Return an axis's label from the attributes of what it shows: its long name, and its unit in brackets.

    Examples
    --------
    >>> axis_label(xr.DataArray(0, name="train_loss", attrs={"long_name": "training loss", "units": "nats"}))
    'training loss [nats]'
    """
    name = str(array.attrs.get("long_name") or array.name or "")
    units = str(array.attrs.get("units", ""))
    return f"{name} [{units}]" if units not in ("", "1") and units not in name else name


def padded_range(values: Iterable[Any], share: float = 0.06, log: bool = False) -> tuple[float, float] | None:
    """Return the range of an axis that holds all values with some room; None when there are none.

    Examples
    --------
    >>> padded_range([0.0, 1.0, float("nan")], 0.1)
    (-0.1, 1.1)
    """
    finite = np.array([v for v in values if np.isfinite(v)])
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    if log:
        room = (high / low) ** share if high > low else 2.0
        return low / room, high * room
    room = share * (high - low) or share * abs(high) or share
    return low - room, high + room
