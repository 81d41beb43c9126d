"""Colours and markers: ordered for numbers, distinct for names, readable to the colour-blind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dde.plots.axes import short_number

__all__ = ["INK", "NEUTRAL", "colours_of", "is_given", "is_number", "label_of", "markers_of", "sorted_values"]

#: Colour of what has no value of the hue: a base in a sweep over learning rates.
NEUTRAL = "#7d8491"
#: Colour of marks and text.
INK = "#3b4252"

# Lightness falls steadily along it, so that order is seen without hue; its ends, too pale on white or too close to
# black, are cut off.
_ORDERED_MAP, _ORDERED_RANGE = "plasma_r", (0.16, 0.96)
# Okabe and Ito's palette without its yellow, which is lost on white.
_DISTINCT = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = (("circle", "o"), ("square", "s"), ("triangle", "^"), ("diamond", "D"), ("inverted_triangle", "v"))


def is_given(value: object) -> bool:
    """Return whether a coordinate says something: not NaN, not ""."""
    return value not in ("", None) and not (is_number(value) and value != value)


def is_number(value: object) -> bool:
    """Return whether a coordinate's value is a number, of Python or of NumPy."""
    return isinstance(value, (int, float, np.number))


def sorted_values(values: Iterable[Any]) -> list[Any]:
    """Return distinct values in order: numbers by size, names as they come."""
    given = list(dict.fromkeys(v for v in values if is_given(v)))
    return sorted(given) if all(map(is_number, given)) else given


def colours_of(values: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each value: along an ordered map for numbers, distinct ones for names.

    Examples
    --------
    >>> colours_of([1e-5, 1e-6, float("nan")])
    {1e-06: '#feb72d', 1e-05: '#260591'}
    """
    given = sorted_values(values)
    if not all(map(is_number, given)):
        return {v: _DISTINCT[k % len(_DISTINCT)] for k, v in enumerate(given)}
    import matplotlib
    from matplotlib.colors import to_hex

    low, high = _ORDERED_RANGE
    # By rank: hyperparameters are tried in uneven steps, and neighbours must be told apart.
    places = [low + (high - low) * (k / (len(given) - 1) if len(given) > 1 else 0.7) for k in range(len(given))]
    return {v: to_hex(matplotlib.colormaps[_ORDERED_MAP](p)) for v, p in zip(given, places, strict=True)}


def markers_of(values: Iterable[Any], backend: str) -> dict[Any, str]:
    """Return a marker for each value, in the words of a backend."""
    word = 0 if backend == "bokeh" else 1
    return {v: _MARKERS[k % len(_MARKERS)][word] for k, v in enumerate(dict.fromkeys(values))}


def label_of(value: object, names: Mapping[Any, str] | None = None) -> str:
    """Return a value as a legend shows it.

    Examples
    --------
    >>> label_of(5e-07), label_of(0.0002), label_of(2.0), label_of(1e8), label_of("supervised_ft")
    ('5e-7', '2e-4', '2', '100M', 'supervised ft')
    """
    if names and value in names:
        return names[value]
    if is_number(value):
        number = float(str(value))
        if 0 < abs(number) < 1e-2:
            digits, _, power = f"{number:.2e}".partition("e")
            return f"{float(digits):g}e{int(power)}"
        return short_number(number)
    return str(value).replace("_", " ")
