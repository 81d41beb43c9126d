"""What tells the colours and marks of a picture: entries beside it, or a bar of colours where they are many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from dde.printable import printable

__all__ = ["MOST_ENTRIES", "ColourBar", "Legend", "LegendEntry", "text_inches", "without_formulas"]

#: Values of a hue that are listed; ordered ones that are more have a bar of colours.
MOST_ENTRIES = 14

_ENTRY_PIXELS, _TITLE_PIXELS = 19, 34
# Points of text, and inches for the sample beside it and for the gap behind it.
_TEXT_POINTS, _SAMPLE_INCHES = 8.5, 0.52
_LINE_INCHES = 0.172
_BAR_INCHES = 0.16
# Bold letters are wider.
_BOLD = 1.18


@dataclass(frozen=True)
class LegendEntry:
    """An entry of the legend: a line or a marker, with its options."""

    label: str
    options: Mapping[str, Any] = field(repr=False)
    kind: Literal["line", "marker"] = "line"

    def draw(self, hv: Any, dims: list[Any]) -> Any:
        """Return an element that shows nothing but its entry in the legend."""
        if self.kind == "marker":
            element = hv.Points([(np.nan, np.nan)], dims, label=self.label)
        else:
            element = hv.Curve([(np.nan, np.nan)], *dims, label=self.label)
        return element.opts(**self.options)


@dataclass(frozen=True)
class ColourBar:
    """A bar of colours.

    Attributes
    ----------
    title : str
    colours : sequence of str
        From the lowest value to the highest.
    span : tuple of float
        Values at its ends.
    ticks : sequence of (float, str)
        Values, and what is written there.
    """

    title: str
    colours: Sequence[str]
    span: tuple[float, float]
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of_ranks(cls, title: str, colours: Mapping[Any, str], labels: Sequence[str]) -> ColourBar:
        """Return the bar of values that have their colours by rank, as many written beside it as can be read."""
        n = len(colours)
        every = math.ceil((n - 1) / 8) or 1
        shown = sorted({*range(0, n - every // 2 - 1, every), n - 1})
        return cls(title, tuple(colours.values()), (-0.5, n - 0.5), [(float(k), labels[k]) for k in shown])

    def width_inches(self) -> float:
        """Return what the bar takes with its ticks and title."""
        beside = max((text_inches(label) for _, label in self.ticks), default=0.0)
        return 0.2 + max(_BAR_INCHES + 0.12 + beside, _BOLD * text_inches(self.title) + 0.08)


@dataclass(frozen=True)
class Legend:
    """All that stands beside a picture.

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
        """Return into how many columns the entries fall beside a frame of `height` pixels, so that none is cut off.

        Examples
        --------
        >>> Legend(entries=[LegendEntry("a", {})] * 25).columns(230)
        3
        """
        fitting = max((height - (_TITLE_PIXELS if self.title else 8)) // _ENTRY_PIXELS, 4)
        return max(math.ceil(len(self.entries) / fitting), 1)

    def with_texts(self, change: Callable[[str], str]) -> Legend:
        """Return the legend with each text changed."""
        bar = self.bar
        if bar is not None:
            bar = replace(bar, title=change(bar.title), ticks=[(value, change(label)) for value, label in bar.ticks])
        return Legend(change(self.title), [replace(e, label=change(e.label)) for e in self.entries], bar)

    def inches(self, height: int) -> tuple[float, float]:
        """Return the width and height that it takes in print, beside a frame of `height` pixels."""
        columns = self.columns(height)
        rows = math.ceil(len(self.entries) / columns)
        # Entries fill one column after the other; each is as wide as its widest one.
        widths = [
            max(text_inches(e.label) for e in self.entries[k * rows : (k + 1) * rows]) + _SAMPLE_INCHES
            for k in range(columns)
            if self.entries[k * rows : (k + 1) * rows]
        ]
        listed = max(sum(widths), _BOLD * text_inches(self.title) + 0.1) + 0.15 if self.entries else 0.0
        bar = self.bar.width_inches() if self.bar else 0.0
        return listed + bar, rows * _LINE_INCHES + (0.35 if self.title else 0.1)


def without_formulas(text: str) -> str:
    """Return text that matplotlib shows letter by letter, where it would take it for a formula.

    Examples
    --------
    >>> without_formulas("$x^2$")
    '\\\\$x^2\\\\$'
    """
    return printable(text).replace("$", r"\$")


@lru_cache(maxsize=1024)
def text_inches(text: str) -> float:
    """Return how wide a text is in print, as written in a legend or at a tick."""
    if not text.strip():
        return 0.0
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), without_formulas(text), size=_TEXT_POINTS).get_extents().width) / 72
