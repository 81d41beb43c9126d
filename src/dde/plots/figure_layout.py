"""Where the panels of a picture stand, in rows and columns, and what each shows of its axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.plots.legends import Legend

__all__ = ["LINE_INCHES", "Axis", "Frame", "Place", "arrange", "places_of", "shortened", "title_points"]

# A frame of 330 pixels is 3.1 inches wide: three of them with their labels fill a page across.
_PER_INCH = 106
# Room beside and below a frame for what is written there, in inches.
_BESIDE, _BELOW = 0.75, 0.92
# Of the text of a label: the height of a line in inches, and the width of a letter in pixels.
LINE_INCHES, _LETTER_PIXELS = 0.16, 6.3
# A bold letter is two thirds as wide as it is high, of a type of one point.
_TITLE_PIXELS = 0.98


@dataclass(frozen=True)
class Axis:
    """An axis: its name, equal for axes that move together, and its label.

    Attributes
    ----------
    name, label : str
    is_log : bool
    shown : tuple of float, or None
        Range.
    ticks : tuple of (float, str), or None
        Where it has ticks, and what is written there; where its scale has them when None.
    """

    name: str
    label: str
    is_log: bool = False
    shown: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] | None = None

    def span(self) -> tuple[float, float]:
        """Return the range; any that the scale has room for where there is none.

        Examples
        --------
        >>> Axis("loss", "loss", is_log=True).span(), Axis("loss", "loss", shown=(2.0, 4.0)).span()
        ((1.0, 10.0), (2.0, 4.0))
        """
        return self.shown or ((1.0, 10.0) if self.is_log else (0.0, 1.0))

    def middle(self) -> float:
        """Return the value in the middle of the axis, as one sees it."""
        low, high = self.span()
        return float(math.sqrt(low * high)) if self.is_log else (low + high) / 2

    def reached(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the lower ends of what is drawn, far below the range where a logarithmic axis has no place for them.

        Examples
        --------
        >>> Axis("loss", "loss", is_log=True, shown=(2.0, 4.0)).reached(np.array([3.0, -1.0])).tolist()
        [3.0, 0.002]
        """
        return np.where((values <= 0) & self.is_log, self.span()[0] / 1e3, values)

    def fitted_label(self, pixels: int) -> str:
        """Return the label in lines that fit beside a frame of so many pixels.

        Examples
        --------
        >>> Axis("piqa", "PIQA, primary metric, change from the base").fitted_label(160).splitlines()
        ['PIQA, primary metric,', 'change from the base']
        """
        return "\n".join(textwrap.wrap(self.label, max(int(pixels / _LETTER_PIXELS), 12)))

    def with_texts(self, change: Callable[[str], str]) -> Axis:
        """Return the axis with what is written at its ticks changed."""
        ticks = None if self.ticks is None else tuple((value, change(text)) for value, text in self.ticks)
        return replace(self, ticks=ticks)

    def label_lines(self, pixels: int) -> int:
        """Return how many lines that takes."""
        return self.fitted_label(pixels).count("\n") + 1


@dataclass(frozen=True)
class Frame:
    """What a panel shows.

    Attributes
    ----------
    x, y : Axis
    since_branch : bool
        Count x from where the chain of runs left its base.
    window : tuple of four floats, or None
        Left, bottom, right, top of what another panel shows enlarged.
    grid : bool
        Draw lines at ticks.
    note : str
        Below the label of x: which values are shown, and what is not.
    """

    x: Axis
    y: Axis
    since_branch: bool = False
    window: tuple[float, float, float, float] | None = None
    grid: bool = True
    note: str = ""

    @property
    def x_range(self) -> tuple[float, float] | None:
        """Range of x."""
        return self.x.shown

    @property
    def y_range(self) -> tuple[float, float] | None:
        """Range of y."""
        return self.y.shown

    def middle(self) -> tuple[float, float]:
        """Return the point in the middle."""
        return self.x.middle(), self.y.middle()

    def showing(self, x_range: tuple[float, float] | None = None, y_range: tuple[float, float] | None = None) -> Frame:
        """Return the frame with other ranges, where given."""
        x = self.x if x_range is None else replace(self.x, shown=x_range)
        y = self.y if y_range is None else replace(self.y, shown=y_range)
        return replace(self, x=x, y=y)


@dataclass(frozen=True)
class Place:
    """Where a panel stands among the others.

    Attributes
    ----------
    size : tuple of int
        Width and height of every frame, in pixels.
    row, column, rows, columns : int
    beside, below : float
        Inches left of a frame and below it, with its title, for what is written there.
    legend : tuple of float
        Inches that the legend takes, right of the first row.
    title_points : float
        Size of the titles' type.
    """

    size: tuple[int, int]
    row: int
    column: int
    rows: int
    columns: int
    beside: float = _BESIDE
    below: float = _BELOW
    legend: tuple[float, float] = (0.0, 0.0)
    title_points: float = 11.0

    def frame_size_inches(self) -> tuple[float, float]:
        """Return width and height of the frame."""
        return self.size[0] / _PER_INCH, self.size[1] / _PER_INCH

    def figure_inches(self) -> tuple[float, float]:
        """Return width and height of the figure of all panels with their legend."""
        width, height = self._cell_inches()
        across, down = self.columns * width + self.legend[0] + 0.1, self.rows * height
        return across, max(down, self.legend[1] + self._above())

    def frame_inches(self) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of the frame, in inches from the figure's upper left corner."""
        width, height = self._cell_inches()
        across, down = self.frame_size_inches()
        return self.column * width + self.beside, -(self.row * height + self._above() + down), across, down

    def _above(self) -> float:
        return 0.4 * _BELOW

    def _cell_inches(self) -> tuple[float, float]:
        across, down = self.frame_size_inches()
        return across + self.beside, down + self.below


def title_points(titles: Iterable[str], pixels: int) -> float:
    """Return the size of type that titles have, so that none is wider than its frame where that can be read.

    Examples
    --------
    >>> title_points(["4M on C4"], 330), title_points(["150M on DCLM-Baseline 25% / Dolma 75%"], 240)
    (11.0, 7.0)
    """
    fitting = pixels / (_TITLE_PIXELS * max(map(len, titles), default=1) or 1)
    return max(min(11.0, fitting // 0.5 / 2), 7.0)


def shortened(title: str, points: float, pixels: int) -> str:
    """Return a title that is no wider than its frame.

    Examples
    --------
    >>> shortened("CommonsenseQA, 150M on DCLM-Baseline 25% / Dolma 75%", 7, 240)
    'CommonsenseQA, 15… 25% / Dolma 75%'
    """
    most = int(pixels / (_TITLE_PIXELS * points))
    if len(title) <= most:
        return title
    # What tells facets apart often stands at the end, such as a seed.
    return f"{title[: most // 2].rstrip(' ,/')}… {title[-(most - most // 2 - 2) :].lstrip(' ,/')}"


def arrange(blocks: Sequence[Sequence[Any]], columns: int) -> list[list[Any]]:
    """Return panels in rows: blocks side by side where several fit a row, and one broken into rows where none does.

    Parameters
    ----------
    blocks : sequence of sequences
        Panels that belong together, such as those of one lineage.
    columns : int
        Panels in a row.

    Examples
    --------
    >>> arrange(["ab", "cd", "ef"], 4)
    [['a', 'b', 'c', 'd'], ['e', 'f']]
    >>> arrange(["abc", "def"], 2)
    [['a', 'b'], ['c'], ['d', 'e'], ['f']]
    """
    width = max(map(len, blocks))
    if width > columns:
        return [list(block[k : k + columns]) for block in blocks for k in range(0, len(block), columns)]
    beside = max(columns // width, 1)
    return [[panel for block in blocks[k : k + beside] for panel in block] for k in range(0, len(blocks), beside)]


def places_of(
    rows: Sequence[Sequence[Any]],
    size: tuple[int, int],
    legend: Legend | None = None,
    frames: Sequence[Frame] = (),
    titles: Sequence[str] = (),
) -> list[Place]:
    """Return the places of panels in rows, row by row, with room for a legend and for what is written at frames."""
    beside = _BESIDE + max((f.y.label_lines(size[1]) - 1 for f in frames), default=0) * LINE_INCHES
    below = _BELOW + max((len(f.note.splitlines()) for f in frames), default=0) * LINE_INCHES
    taken = legend.inches(size[1]) if legend else (0.0, 0.0)
    columns = max(map(len, rows))
    return [
        Place(size, i, j, len(rows), columns, beside, below, taken, title_points(titles, size[0]))
        for i, row in enumerate(rows)
        for j in range(len(row))
    ]
