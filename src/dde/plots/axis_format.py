"""Readable axes: 10B instead of 1e10, labels and units from attributes, ticks of logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

__all__ = [
    "BOKEH_LOG_TICKS",
    "BOKEH_MINOR_LOG_TICKS",
    "BOKEH_TICKS",
    "axis_label",
    "log_ticks",
    "minor_log_ticks",
    "padded_range",
    "short_number",
]

_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))

#: The format of `short_number` in JavaScript, for Bokeh.
BOKEH_TICKS = """
const size = Math.abs(tick)
if (size >= 1e15 || (size > 0 && size < 1e-3)) return tick.toExponential(1).replace(/\\.0e/, "e").replace("e+", "e")
for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
  if (size >= unit) return parseFloat((tick / unit).toPrecision(4)) + letter
return String(parseFloat(tick.toPrecision(4)))
"""

# Steps within a decade, densest first, each with the maximum number of ticks it may give.
_STEPS: tuple[tuple[tuple[int, ...], int], ...] = (((1, 2, 5), 6), ((1, 3), 8), ((1,), 8))
_FEWEST, _MOST = 3, 8

#: The rule of `log_ticks` in JavaScript, for Bokeh, where ticks change with the zoom.
BOKEH_LOG_TICKS = """
const low = Math.min(cb_data.start, cb_data.end), high = Math.max(cb_data.start, cb_data.end)
if (!(low > 0 && high > low)) return []
const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high))
const inside = (ticks) => ticks.filter((t) => t >= low * (1 - 1e-9) && t <= high * (1 + 1e-9))
const decades = Array.from({length: last - first + 1}, (_, k) => first + k)
for (const [steps, most] of [[[1, 2, 5], 6], [[1, 3], 8], [[1], 8]]) {
  const ticks = inside(decades.flatMap((d) => steps.map((s) => Number(s + "e" + d))))
  if (ticks.length >= 3 && ticks.length <= most) return ticks
  if (ticks.length < 3) break
}
if (inside(decades.map((d) => Number("1e" + d))).length > 8) {
  const every = Math.ceil((last - first) / 8)
  return inside(decades.filter((d) => d % every == 0).map((d) => Number("1e" + d)))
}
for (const parts of [5, 6]) {
  const rough = (high - low) / parts, power = 10 ** Math.floor(Math.log10(rough))
  const step = power * [1, 2, 2.5, 5, 10].find((s) => s * power >= rough * (1 - 1e-9))
  const ticks = []
  for (let k = Math.max(Math.ceil(low / step), 1); k * step <= high * (1 + 1e-9); k++) ticks.push(k * step)
  if (ticks.length >= 3 || parts == 6) return ticks
}
"""

#: The same as `minor_log_ticks`, for a page.
BOKEH_MINOR_LOG_TICKS = """
const low = Math.min(cb_data.start, cb_data.end), high = Math.max(cb_data.start, cb_data.end)
if (!(low > 0 && high > low)) return []
const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high))
const steps = last - first > 7 ? [1] : [1, 2, 3, 4, 5, 6, 7, 8, 9]
const ticks = []
for (let d = first; d <= last; d++) for (const s of steps) {
  const tick = Number(s + "e" + d)
  if (tick >= low && tick <= high && !cb_data.major_ticks.includes(tick)) ticks.push(tick)
}
return ticks
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


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: 1, 2, 5, or 1, 3, or decades, and even steps within one decade.

    Examples
    --------
    >>> [short_number(t) for t in log_ticks(0.8e9, 2e10)]
    ['1B', '2B', '5B', '10B', '20B']
    >>> [short_number(t) for t in log_ticks(1e17, 5e20)]
    ['1e17', '3e17', '1e18', '3e18', '1e19', '3e19', '1e20', '3e20']
    >>> [short_number(t) for t in log_ticks(14e9, 17e9)]
    ['14B', '15B', '16B', '17B']
    """
    if not 0 < low < high:
        return []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def inside(ticks: Iterable[float]) -> list[float]:
        return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]

    for steps, most in _STEPS:
        ticks = inside(float(f"{s}e{d}") for d in range(first, last + 1) for s in steps)
        if _FEWEST <= len(ticks) <= most:
            return ticks
        if len(ticks) < _FEWEST:
            break
    if len(inside(float(f"1e{d}") for d in range(first, last + 1))) > _MOST:
        interval = math.ceil((last - first) / _MOST)
        return inside(float(f"1e{d}") for d in range(first, last + 1) if d % interval == 0)
    ticks = []
    for parts in (5, 6):
        rough = (high - low) / parts
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(s for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
        ticks = inside(k * step for k in range(max(math.ceil(low / step), 1), math.floor(high / step + 1e-9) + 1))
        if len(ticks) >= _FEWEST:
            break
    return ticks


def minor_log_ticks(low: float, high: float) -> list[float]:
    """Return minor ticks of a logarithmic axis: 1 to 9 of each decade, or decades where there are many.

    Examples
    --------
    >>> minor_log_ticks(0.5, 3)
    [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 3.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 7 else range(1, 10)
    return [t for d in range(first, last + 1) for s in steps if low <= (t := float(f"{s}e{d}")) <= high]


def axis_label(array: xr.DataArray) -> str:
    """Return the axis label of an array: its long name, with its units in brackets.

    Examples
    --------
    >>> axis_label(xr.DataArray(0, name="train_loss", attrs={"long_name": "training loss", "units": "nats"}))
    'training loss [nats]'
    """
    name = str(array.attrs.get("long_name") or array.name or "")
    units = str(array.attrs.get("units", ""))
    return f"{name} [{units}]" if units not in ("", "1") and units not in name else name


def padded_range(values: Iterable[Any], share: float = 0.06, log: bool = False) -> tuple[float, float] | None:
    """Return the limits of an axis that include all values with some padding; None when there are no values.

    A logarithmic axis includes the positive values only.

    Examples
    --------
    >>> padded_range([0.0, 1.0, float("nan")], 0.1)
    (-0.1, 1.1)
    >>> padded_range([-1.0, 1.0, 100.0], 0.5, log=True)
    (0.1, 1000.0)
    """
    numbers = np.asarray(values if isinstance(values, np.ndarray) else list(values), np.float64)
    finite = numbers[np.isfinite(numbers) & ((numbers > 0) | (not log))]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    if log:
        room = (high / low) ** share if high > low else 2.0
        return low / room, high * room
    room = share * (high - low) or share * abs(high) or share
    return low - room, high + room
