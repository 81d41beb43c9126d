"""Colours and markers: ordered for numbers, distinct for names, and readable with colour blindness."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from dde.errors import warn_caller
from dde.plots.axis_format import short_number
from dde.plots.times import is_time, time_label

__all__ = [
    "EDGE",
    "GRID",
    "INK",
    "NEUTRAL",
    "PRIMARY",
    "WINDOW",
    "LineColour",
    "colours_of",
    "dash_of",
    "facets_of",
    "is_given",
    "is_number",
    "is_ordered",
    "label_of",
    "marker_in",
    "markers_of",
    "shades",
    "sorted_values",
    "text_colour",
]

#: Colour of curves without a value of the hue, such as a base in a sweep over learning rates.
NEUTRAL = "#7d8491"
#: Colour of curves when none has a value of the hue.
PRIMARY = "#0072B2"
#: Colour of marks and text.
INK = "#3b4252"
#: Colours of grid lines, of axes, and of the region that another panel enlarges.
GRID, EDGE, WINDOW = "#e8eaee", "#9aa1ae", "#eef1f6"

# Lightness falls evenly along the map, so order is visible without hue, in greyscale and with colour blindness. Its
# ends are cut off: they are too pale on white, or too close to black.
_ORDERED_MIDDLE, _ORDERED_HALF = 0.535, 0.385
# Okabe and Ito's palette without its yellow, which is hard to see on white, and three dark colours that are as far from
# it, with each type of colour blindness, as its own colours are from each other.
_DISTINCT = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#882255", "#4B0082",
             "#5C3D00")  # fmt: skip
_WORDS = re.compile(r"[a-z]+(_[a-z]+)*")
# A size of a model in words, such as 150M.
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmbt])", re.IGNORECASE)
_POWERS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_MARKERS = (
    ("circle", "o"), ("square", "s"), ("triangle", "^"), ("diamond", "D"), ("inverted_triangle", "v"), ("hex", "h"),
    ("star", "*"), ("plus", "P"),
)  # fmt: skip
# Distance in that list between the markers of values that share a colour.
_APART = 3


def is_given(value: object) -> bool:
    """Return whether a coordinate has a value: not NaN, NaT, None or ""."""
    if is_time(value):
        return not pd.isna(value)  # type: ignore[call-overload]
    return value not in ("", None) and not (is_number(value) and value != value)


def is_number(value: object) -> bool:
    """Return whether a value is a number, of Python or NumPy; booleans and durations are not.

    Examples
    --------
    >>> is_number(np.float32(0.5)), is_number(True)
    (True, False)
    """
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.timedelta64))


def is_ordered(values: Iterable[Any]) -> bool:
    """Return whether values have a natural order: numbers, times, durations, and names of model sizes.

    Examples
    --------
    >>> is_ordered(["4M", "1B"]), is_ordered(["C4", "Dolma1.7"])
    (True, False)
    """
    values = list(values)
    if values and all(map(is_time, values)):
        return True
    return all(is_number(v) or _SIZE.fullmatch(str(v).strip()) is not None for v in values)


def sorted_values(values: Iterable[Any]) -> list[Any]:
    """Return distinct values in order: numbers and model sizes by size, other names in order of appearance.

    Examples
    --------
    >>> sorted_values(["1B", "4M", "150M", "4M", ""])
    ['4M', '150M', '1B']
    """
    distinct = list(dict.fromkeys(v for v in values if is_given(v)))
    return sorted(distinct, key=_size_of) if is_ordered(distinct) else distinct


def facets_of(values: Iterable[Any], with_none: bool) -> list[Any]:
    """Return the values of a facet in order; with `with_none`, "" last when some have no value.

    Examples
    --------
    >>> facets_of(["-deduped", ""], with_none=True), facets_of(["-deduped", ""], with_none=False)
    (['-deduped', ''], ['-deduped'])
    """
    values = list(values)
    facets = sorted_values(values)
    return [*facets, ""] if with_none and facets and not all(map(is_given, values)) else facets


class LineColour(str):
    """A colour, with the style of lines that have it.

    Attributes
    ----------
    dash : int
        Number of the style; 0 for solid lines. Values that share a colour differ in it.
    """

    __slots__ = ("dash",)
    dash: int

    def __new__(cls, colour: str, dash: int = 0) -> LineColour:
        """Return the colour as text with a style of lines."""
        made = super().__new__(cls, colour)
        made.dash = dash
        return made


def dash_of(colour: str) -> int:
    """Return the number of the style of lines in a colour; 0 for a solid line.

    Examples
    --------
    >>> [dash_of(c) for c in colours_of(["a", "b"]).values()], dash_of("#000000")
    ([0, 0], 0)
    """
    return colour.dash if isinstance(colour, LineColour) else 0


def colours_of(values: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each value: from an ordered map for ordered values, distinct ones for other names.

    Names beyond the number of distinct colours have the same colours again, with other styles of lines.

    Examples
    --------
    >>> colours_of([1e-5, 1e-6, float("nan")])
    {1e-06: '#f56c5b', 1e-05: '#4a1079'}
    >>> colours = list(colours_of(f"recipe {k}" for k in range(25)).values())
    >>> len(set(colours)), len({(c, dash_of(c)) for c in colours})
    (10, 25)
    """
    distinct = sorted_values(values)
    if not is_ordered(distinct):
        n = len(_DISTINCT)
        return {v: LineColour(_DISTINCT[k % n], k // n) for k, v in enumerate(distinct)}
    # Of Bokeh, whose palettes are imported in a tenth of the time of Matplotlib's.
    from bokeh.palettes import Magma256

    # By rank: hyperparameters are tried in uneven steps, and neighbours must be distinguishable. Few values don't need
    # the ends of the map.
    n = len(distinct)
    low, high = (_ORDERED_MIDDLE + side * min(0.17 + 0.03 * n, _ORDERED_HALF) for side in (-1, 1))
    positions = np.linspace(low, high, n) if n != 1 else [_ORDERED_MIDDLE]
    # From light to dark.
    return {v: Magma256[255 - int(256 * p)].lower() for v, p in zip(distinct, positions, strict=True)}


def shades(count: int = 256) -> list[str]:
    """Return `count` colours of a continuous map: lighter for larger values, none close to white."""
    from bokeh.palettes import Viridis256

    return [Viridis256[min(256 * k // max(count - 1, 1), 255)].lower() for k in range(count)]


def text_colour(background: str) -> str:
    """Return the colour of text that can be read on a background: black or white, whichever contrasts more.

    Examples
    --------
    >>> text_colour("#fde725"), text_colour("#440154")
    ('#000000', '#ffffff')
    """
    parts = np.array([int(background[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    # Where the contrast ratios of WCAG, (lighter + 0.05) / (darker + 0.05), are equal.
    return "#000000" if luminance > 0.179 else "#ffffff"


def _size_of(value: Any) -> Any:
    if is_number(value):
        return float(value)
    if is_time(value):
        return value
    size = _SIZE.fullmatch(str(value).strip())
    assert size is not None
    return float(size[1]) * _POWERS[size[2].lower()]


def markers_of(values: Iterable[Any], backend: str) -> dict[Any, str]:
    """Return a marker for each value, by its name in the backend.

    Warns
    -----
    DdeWarning
        When there are more values than markers, so that some share one.
    """
    word = 0 if backend == "bokeh" else 1
    distinct = list(dict.fromkeys(values))
    if len(distinct) > len(_MARKERS):
        warn_caller(
            f"{len(distinct)} values have {len(_MARKERS)} markers, so some share one and can't be distinguished by it. "
            "Pass style_by=None or another coordinate, and hue_by= for the one with many values."
        )
    return {v: _MARKERS[k % len(_MARKERS)][word] for k, v in enumerate(distinct)}


def marker_in(colour: str, marker: str) -> str:
    """Return the marker of points in a colour: another one than the usual where values share a colour.

    Examples
    --------
    >>> marker_in("#000000", "circle"), marker_in(LineColour("#000000", 1), "circle")
    ('circle', 'diamond')
    """
    repeat = dash_of(colour)
    if not repeat:
        return marker
    word = 0 if any(marker == bokeh for bokeh, _ in _MARKERS) else 1
    names = [names[word] for names in _MARKERS]
    return names[(names.index(marker) + _APART * repeat) % len(names)]


def label_of(value: object, names: Mapping[Any, str] | None = None) -> str:
    """Return a value as a legend shows it.

    Examples
    --------
    >>> label_of(5e-07), label_of(0.0002), label_of(2.0), label_of(1e8), label_of("supervised_ft")
    ('5e-7', '2e-4', '2', '100M', 'supervised ft')
    >>> label_of("dolma1_7-4M-default")
    'dolma1_7-4M-default'
    """
    if names and value in names:
        return names[value]
    if is_time(value):
        return time_label(value)
    if is_number(value):
        number = float(str(value))
        if number == float("inf"):
            # The budget of a run on the full mixture, as in the labels of runs.
            return "full"
        if 0 < abs(number) < 1e-2:
            digits, _, power = f"{number:.3e}".partition("e")
            return f"{float(digits):g}e{int(power)}"
        return short_number(number)
    # Words joined by underscores become words; labels of runs and lineages are keys, and stay unchanged.
    return str(value).replace("_", " ") if _WORDS.fullmatch(str(value)) else str(value)
