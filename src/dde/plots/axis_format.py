"""Readable axes: 10B instead of 1e10, labels and units from attributes, ticks of logarithmic axes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

__all__ = [
    "BOKEH_LOG_TICKS",
    "BOKEH_MINOR_LOG_TICKS",
    "BOKEH_TICKS",
    "axis_label",
    "linear_ticks",
    "log_ticks",
    "minor_log_ticks",
    "padded_range",
    "short_number",
    "tick_labels",
]

_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))

#: The labels of `tick_labels` in JavaScript, for Bokeh, where ticks change with the zoom.
BOKEH_TICKS = """
const short = (number, digits) => {
  const size = Math.abs(number)
  if (size >= 1e15 || (size > 0 && size < 1e-3))
    return number.toExponential(digits - 3).replace(/\\.?0*e/, "e").replace("e+", "e")
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return parseFloat((number / unit).toPrecision(digits)) + letter
  return String(parseFloat(number.toPrecision(digits)))
}
const units = {T: 1e12, B: 1e9, M: 1e6, k: 1e3}
const shown = (label) => parseFloat(label) * (units[label.slice(-1)] ?? 1)
const all = ticks.includes(tick) ? ticks : [...ticks, tick]
const gap = (t) => Math.min(...all.filter((other) => other != t).map((other) => Math.abs(other - t)))
let digits = 4
while (digits < 17 && all.some((t) => Math.abs(shown(short(t, digits)) - t) > 0.02 * gap(t))) digits += 1
let label = short(tick, digits)
const labels = all.map((t) => short(t, digits))
if (is_linear && labels.every((l) => /^-?[0-9.]+$/.test(l)))
  label = tick.toFixed(Math.max(...labels.map((l) => (l.split(".")[1] ?? "").length)))
return label.replace(/^-/, "\u2212")
"""

# Steps within a decade, densest first, each with the maximum number of ticks it may give.
_STEPS: tuple[tuple[tuple[int, ...], int], ...] = (((1, 2, 5), 6), ((1, 3), 8), ((1,), 8))
_FEWEST, _MOST = 3, 8

#: The rule of `log_ticks` in JavaScript, for Bokeh, where ticks change with the zoom; its argument `most` is optional.
BOKEH_LOG_TICKS = """
const low = Math.min(cb_data.start, cb_data.end), high = Math.max(cb_data.start, cb_data.end)
if (!(low > 0 && high > low)) return []
const limit = typeof most === "undefined" ? 8 : most
const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high))
const inside = (ticks) => ticks.filter((t) => t >= low * (1 - 1e-9) && t <= high * (1 + 1e-9))
const decades = Array.from({length: last - first + 1}, (_, k) => first + k)
for (const [steps, densest] of [[[1, 2, 5], 6], [[1, 3], 8], [[1], 8]]) {
  const ticks = inside(decades.flatMap((d) => steps.map((s) => Number(s + "e" + d))))
  if (ticks.length >= 3 && ticks.length <= Math.min(densest, limit)) return ticks
  if (ticks.length < 3) break
}
if (inside(decades.map((d) => Number("1e" + d))).length > limit) {
  const every = Math.ceil((last - first) / limit)
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


def short_number(number: float, position: object = None, *, digits: int = 4) -> str:
    """Return a number of tokens or FLOPs as an axis shows it; `position` is what matplotlib passes.

    Parameters
    ----------
    number : float
    position : object
        Ignored.
    digits : int, default 4
        Significant digits; powers of ten have two fewer.

    Examples
    --------
    >>> short_number(1.5e10), short_number(-2.5e8), short_number(0), short_number(1.2e21), short_number(0.25)
    ('15B', '-250M', '0', '1.2e21', '0.25')
    """
    size = abs(number)
    if not math.isfinite(size):
        return f"{number}"
    if size >= 1e15 or 0 < size < 1e-3:
        mantissa, _, power = f"{number:.{digits - 3}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    for unit, letter in _PREFIXES:
        if size >= unit:
            return f"{_plain(number / unit, digits)}{letter}"
    return _plain(number, digits)


def _plain(number: float, digits: int) -> str:
    """Return a number with significant digits and without an exponent."""
    return repr(float(f"{number:.{digits}g}")).removesuffix(".0")


def tick_labels(ticks: Iterable[float], is_linear: bool = False) -> list[str]:
    """Return the labels of all ticks of an axis, with as many digits as they need to differ.

    Parameters
    ----------
    ticks : iterable of float
    is_linear : bool, default False
        Show the same number of decimals at all ticks where none has a unit or an exponent.

    Returns
    -------
    list of str
        Each label is off by at most 2 % of the distance to the next tick, so no two are the same.

    Examples
    --------
    >>> tick_labels([1.35e19, 1.4e19, 1.45e19]), tick_labels([0.3, 0.305, 0.31], is_linear=True)
    (['1.35e19', '1.4e19', '1.45e19'], ['0.300', '0.305', '0.310'])
    >>> tick_labels([-1e9, 0, 1e9]), tick_labels([12_345_600, 12_345_700])
    (['−1B', '0', '1B'], ['12.3456M', '12.3457M'])
    """
    numbers = [float(t) for t in ticks]
    if not numbers:
        return []
    different = np.unique(numbers)
    # The distance to the next tick on either side; infinite for a single tick.
    steps = np.concatenate([[np.inf], np.diff(different), [np.inf]])
    gaps = dict(zip(different.tolist(), np.minimum(steps[:-1], steps[1:]).tolist(), strict=True))
    labels: list[str] = []
    for digits in range(4, 18):
        labels = [short_number(number, digits=digits) for number in numbers]
        if all(abs(_number_of(text) - n) <= 0.02 * gaps[n] for text, n in zip(labels, numbers, strict=True)):
            break
    if is_linear and all(re.fullmatch(r"-?[0-9.]+", text) for text in labels):
        decimals = max((len(text.partition(".")[2]) for text in labels), default=0)
        labels = [f"{number:.{decimals}f}" for number in numbers]
    return [re.sub("^-", "\N{MINUS SIGN}", text) for text in labels]


def _number_of(label: str) -> float:
    """Return the number that a label shows."""
    units = {letter: unit for unit, letter in _PREFIXES}
    return float(label[:-1]) * units[label[-1]] if label[-1] in units else float(label)


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers between two limits, in steps of 1, 2 or 5 times a power of ten.

    The rule is that of Bokeh's ``BasicTicker``, so that a picture has the same ticks in print and on a page.

    Parameters
    ----------
    low, high : float
    about : int, default 6
        The step is the one that divides the range into the number of parts nearest to this.

    Examples
    --------
    >>> linear_ticks(1, 21), linear_ticks(0.24, 0.5)
    ([5.0, 10.0, 15.0, 20.0], [0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    """
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return []
    power = math.floor(math.log10(span / about))
    steps = [(m, e) for e in (power - 1, power, power + 1) for m in (1, 2, 5)]
    mantissa, exponent = min(steps, key=lambda s: abs(about - span / (s[0] * 10.0 ** s[1])))
    step = mantissa * 10.0**exponent
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Digits beyond the step, and the sign of zero, are errors of the multiplication.
    return [round(k * step, -exponent) + 0.0 for k in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = _MOST) -> list[float]:
    """Return ticks of a logarithmic axis: 1, 2, 5, or 1, 3, or decades, and even steps within one decade.

    Parameters
    ----------
    low, high : float
    most : int, default 8
        Maximum number of ticks where they are decades or closer.

    Examples
    --------
    >>> [short_number(t) for t in log_ticks(0.8e9, 2e10)]
    ['1B', '2B', '5B', '10B', '20B']
    >>> [short_number(t) for t in log_ticks(1e17, 5e20)]
    ['1e17', '3e17', '1e18', '3e18', '1e19', '3e19', '1e20', '3e20']
    >>> [short_number(t) for t in log_ticks(1e16, 1e21, most=3)]
    ['1e16', '1e18', '1e20']
    >>> [short_number(t) for t in log_ticks(14e9, 17e9)]
    ['14B', '15B', '16B', '17B']
    """
    if not 0 < low < high:
        return []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def inside(ticks: Iterable[float]) -> list[float]:
        return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]

    for steps, densest in _STEPS:
        ticks = inside(float(f"{s}e{d}") for d in range(first, last + 1) for s in steps)
        if _FEWEST <= len(ticks) <= min(densest, most):
            return ticks
        if len(ticks) < _FEWEST:
            break
    if len(inside(float(f"1e{d}") for d in range(first, last + 1))) > most:
        interval = math.ceil((last - first) / most)
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
