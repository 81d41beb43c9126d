"""Legends: entries for colours and markers, or a colour bar where an ordered hue has many values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from dde.plots.axis_format import linear_ticks, tick_labels
from dde.plots.colours import shades
from dde.printable import printable

__all__ = ["MOST_ENTRIES", "ColourBar", "Legend", "LegendEntry", "text_width_inches", "without_formulas"]

#: Most values of a hue that a legend lists; a hue with more ordered values has a colour bar.
MOST_ENTRIES = 14

_ENTRY_PIXELS, _TITLE_PIXELS = 19, 34
# Font size of entries in points, and the inches of an entry's sample with the gaps around it.
_TEXT_POINTS, _SAMPLE_INCHES = 8.5, 0.52
_LINE_INCHES = 0.172
_BAR_INCHES = 0.16
# Bold letters are wider.
_BOLD = 1.18


@dataclass(frozen=True)
class LegendEntry:
    """An entry of the legend: a line or a marker with its label and options."""

    label: str
    options: Mapping[str, Any] = field(repr=False)
    kind: Literal["line", "marker"] = "line"

    def draw(self, hv: Any, dims: list[Any]) -> Any:
        """Return an element without points, which appears in the legend only."""
        if self.kind == "marker":
            element = hv.Points([(np.nan, np.nan)], dims, label=self.label)
        else:
            element = hv.Curve([(np.nan, np.nan)], *dims, label=self.label)
        return element.opts(**self.options)


@dataclass(frozen=True)
class ColourBar:
    """A colour bar.

    Attributes
    ----------
    title : str
    colours : sequence of str
        From the lowest value to the highest.
    span : tuple of float
        Values at its ends.
    ticks : sequence of (float, str)
        Values and their labels.
    """

    title: str
    colours: Sequence[str]
    span: tuple[float, float]
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of_ranks(cls, title: str, colours: Mapping[Any, str], labels: Sequence[str]) -> ColourBar:
        """Return the bar of values coloured by rank, with at most about nine of them labelled."""
        n = len(colours)
        interval = math.ceil((n - 1) / 8) or 1
        shown = sorted({*range(0, n - interval // 2 - 1, interval), n - 1})
        return cls(title, tuple(colours.values()), (-0.5, n - 0.5), [(float(k), labels[k]) for k in shown])

    @classmethod
    def of_values(cls, title: str, values: Iterable[float]) -> ColourBar:
        """Return the continuous bar from the lowest finite value to the highest.

        Examples
        --------
        >>> bar = ColourBar.of_values("loss", [2.0, 4.0, float("inf")])
        >>> bar.span, bar.colour(float("inf")) == bar.colours[-1]
        ((2.0, 4.0), True)
        """
        finite = [float(v) for v in values if np.isfinite(v)] or [0.0]
        low, high = min(finite), max(finite)
        if low == high:
            low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
        ticks = linear_ticks(low, high)
        return cls(title, shades(), (low, high), list(zip(ticks, tick_labels(ticks, is_linear=True), strict=True)))

    def colour(self, value: float) -> str:
        """Return the colour of a value; infinite ones have that of the nearer end."""
        low, high = self.span
        return self.colours[round(float(np.clip((value - low) / (high - low), 0, 1)) * (len(self.colours) - 1))]

    def width_inches(self) -> float:
        """Return the width of the bar with its tick labels and title."""
        labels = max((text_width_inches(label) for _, label in self.ticks), default=0.0)
        return 0.2 + max(_BAR_INCHES + 0.12 + labels, _BOLD * text_width_inches(self.title) + 0.08)


@dataclass(frozen=True)
class Legend:
    """The legend of a picture: entries, a colour bar, or both.

    Attributes
    ----------
    title : str
    entries : sequence of LegendEntry
    bar : ColourBar or None
    """

    title: str = ""
    entries: Sequence[LegendEntry] = ()
    bar: ColourBar | None = None

    def __bool__(self) -> bool:
        return bool(self.entries) or self.bar is not None

    def columns(self, height: int) -> int:
        """Return the number of columns in which all entries fit beside a frame of `height` pixels.

        Examples
        --------
        >>> Legend(entries=[LegendEntry("a", {})] * 25).columns(230)
        3
        """
        fitting = max((height - (_TITLE_PIXELS if self.title else 8)) // _ENTRY_PIXELS, 4)
        return max(math.ceil(len(self.entries) / fitting), 1)

    def with_texts(self, change: Callable[[str], str]) -> Legend:
        """Return the legend with `change` applied to each text."""
        bar = self.bar
        if bar is not None:
            bar = replace(bar, title=change(bar.title), ticks=[(value, change(label)) for value, label in bar.ticks])
        return Legend(change(self.title), [replace(e, label=change(e.label)) for e in self.entries], bar)

    def inches(self, height: int, columns: int | None = None) -> tuple[float, float]:
        """Return width and height of the printed legend beside a frame of `height` pixels, or in some columns."""
        columns = columns or self.columns(height)
        rows = math.ceil(len(self.entries) / columns)
        # Entries fill one column after the other; each is as wide as its widest one.
        widths = [
            max(text_width_inches(e.label) for e in self.entries[k * rows : (k + 1) * rows]) + _SAMPLE_INCHES
            for k in range(columns)
            if self.entries[k * rows : (k + 1) * rows]
        ]
        listed = max(sum(widths), _BOLD * text_width_inches(self.title) + 0.1) + 0.15 if self.entries else 0.0
        bar = self.bar.width_inches() if self.bar else 0.0
        return listed + bar, rows * _LINE_INCHES + (0.35 if self.title else 0.1)


def without_formulas(text: str) -> str:
    """Return text escaped so that Matplotlib shows it literally instead of typesetting formulas.

    Examples
    --------
    >>> without_formulas("$x^2$")
    '\\\\$x^2\\\\$'
    """
    return printable(text).replace("$", r"\$")


@lru_cache(maxsize=1024)
def text_width_inches(text: str) -> float:
    """Return the printed width of a text in a legend or at a tick."""
    if not text.strip():
        return 0.0
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), without_formulas(text), size=_TEXT_POINTS).get_extents().width) / 72
