"""Figure layout: the rows and columns of panels, their margins, and the axes that each panel shows."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dde.plots.axis_format import linear_ticks, log_ticks, tick_labels
from dde.plots.legends import Legend, text_width_inches
from dde.plots.picture_options import USUAL_POINTS, LegendPlace

__all__ = [
    "FRAME_PIXELS_PER_INCH",
    "Axis",
    "Frame",
    "PanelLayout",
    "Surroundings",
    "TickCounts",
    "arrange",
    "panel_layouts",
    "title_lines",
    "title_points",
    "wrapped",
]

# A frame of 330 pixels is 3.1 inches wide: three of them with their labels fill a page across.
FRAME_PIXELS_PER_INCH = 106
# Margins in inches: left of a frame for tick labels and the axis label, below it for those and the next title.
_LEFT_MARGIN, _BOTTOM_MARGIN = 0.75, 0.92
# Inches above a frame, part of that margin, for a title, or for half of the highest tick label where no panel has one.
_TITLE_INCHES, _UNTITLED_INCHES = 0.37, 0.18
# Size of the text of labels: the height of a line in inches, and the mean width of a letter in pixels.
_LINE_INCHES, _LETTER_PIXELS = 0.16, 6.3
# Least gap in inches between tick labels, and the longest label that is slanted rather than upright.
_TICK_GAP, _LONGEST_SLANTED = 0.06, 1.1
# Gap between the last frame and the legend, and space at the right edge of a figure.
_LEGEND_GAP = 0.25
_EDGE_INCHES = 0.12
# Width in pixels of a bold letter at a font size of one point: about two thirds of its height.
_TITLE_PIXELS = 0.98


@dataclass(frozen=True)
class Axis:
    """An axis of a panel. Axes of the same name are linked: zooming one zooms all.

    Attributes
    ----------
    name, label : str
    is_log : bool
    limits : tuple of float, or None
        Range that is shown.
    ticks : tuple of (float, str), or None
        Positions and labels of ticks; chosen from the scale when None.
    """

    name: str
    label: str
    is_log: bool = False
    limits: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] | None = None

    def span(self) -> tuple[float, float]:
        """Return the limits, or an arbitrary range that is valid on the scale when there are none.

        Examples
        --------
        >>> Axis("loss", "loss", is_log=True).span(), Axis("loss", "loss", limits=(2.0, 4.0)).span()
        ((1.0, 10.0), (2.0, 4.0))
        """
        return self.limits or ((1.0, 10.0) if self.is_log else (0.0, 1.0))

    def middle(self) -> float:
        """Return the value at the visual middle of the axis."""
        low, high = self.span()
        return float(math.sqrt(low * high)) if self.is_log else (low + high) / 2

    def drawable(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return lower ends of intervals that the axis can draw: on a logarithmic axis, positive ones below it.

        Examples
        --------
        >>> Axis("loss", "loss", is_log=True, limits=(2.0, 4.0)).drawable(np.array([3.0, -1.0])).tolist()
        [3.0, 0.002]
        """
        return np.where((values <= 0) & self.is_log, self.span()[0] / 1e3, values)

    def fitted_label(self, pixels: int) -> str:
        """Return the label wrapped into lines no longer than `pixels`.

        Examples
        --------
        >>> Axis("piqa", "PIQA, primary metric, change from the base").fitted_label(160).splitlines()
        ['PIQA, primary metric,', 'change from the base']
        """
        return "\n".join(textwrap.wrap(self.label, max(int(pixels / _LETTER_PIXELS), 12)))

    def with_texts(self, change: Callable[[str], str]) -> Axis:
        """Return the axis with `change` applied to its tick labels."""
        ticks = None if self.ticks is None else tuple((value, change(text)) for value, text in self.ticks)
        return replace(self, ticks=ticks)

    def left_margin(self, pixels: int) -> float:
        """Return the inches that labels take left of a frame of `pixels` when this is its vertical axis."""
        lines = len(self.fitted_label(pixels).splitlines())
        if self.ticks is None:
            longer = self._tick_text_inches() - text_width_inches("0.000")
            return _LEFT_MARGIN + max(lines - 1, 0) * _LINE_INCHES + max(longer, 0.0)
        return 0.3 + self._longest_tick_inches() + lines * _LINE_INCHES

    def tick_angle(self, pixels: int) -> int:
        """Return the angle in degrees of tick labels below a frame of `pixels`, so that neighbours do not overlap.

        Examples
        --------
        >>> ticks = tuple((float(k), "trapezoid-decay") for k in range(4))
        >>> Axis("schedule", "", limits=(-0.5, 3.5), ticks=ticks).tick_angle(1000)
        0
        >>> Axis("schedule", "", limits=(-0.5, 3.5), ticks=ticks).tick_angle(240)
        45
        """
        ticks = sorted(self.ticks or ())
        low, high = self.span()
        inches = pixels / FRAME_PIXELS_PER_INCH / (high - low)
        widths = [text_width_inches(text) + _TICK_GAP for _, text in ticks]
        overlap = any(
            (left + right) / 2 > (b - a) * inches
            for (a, _), (b, _), left, right in zip(ticks, ticks[1:], widths, widths[1:], strict=False)
        )
        # Long slanted labels would extend beyond the left edge of the figure.
        return 0 if not overlap else 45 if self._longest_tick_inches() <= _LONGEST_SLANTED else 90

    def tick_height(self, pixels: int) -> float:
        """Return the inches that turned tick labels take below a frame of `pixels`, more than level ones."""
        return math.sin(math.radians(self.tick_angle(pixels))) * self._longest_tick_inches()

    def _tick_text_inches(self) -> float:
        """Return the width of the longest number at a tick, as Matplotlib shows it."""
        if self.limits is None:
            return 0.0
        ticks = log_ticks(*self.limits) if self.is_log else linear_ticks(*self.limits)
        return max((text_width_inches(text) for text in tick_labels(ticks, not self.is_log)), default=0.0)

    def _longest_tick_inches(self) -> float:
        return max((text_width_inches(text) for _, text in self.ticks or ()), default=0.0)


@dataclass(frozen=True)
class Frame:
    """The axes of a panel, and what is drawn around its curves.

    Attributes
    ----------
    x, y : Axis
    since_branch : bool
        Count x from the point where the chain of runs left its base.
    window : tuple of four floats, or None
        Left, bottom, right, top of the region that another panel enlarges.
    grid : bool
        Draw grid lines at ticks.
    note : str
        Text below the label of x: which values are shown, and which are left out.
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
        return self.x.limits

    @property
    def y_range(self) -> tuple[float, float] | None:
        """Range of y."""
        return self.y.limits

    def middle(self) -> tuple[float, float]:
        """Return the point at the visual middle of the frame."""
        return self.x.middle(), self.y.middle()

    def with_limits(
        self, x_range: tuple[float, float] | None = None, y_range: tuple[float, float] | None = None
    ) -> Frame:
        """Return the frame with its limits replaced where given."""
        x = self.x if x_range is None else replace(self.x, limits=x_range)
        y = self.y if y_range is None else replace(self.y, limits=y_range)
        return replace(self, x=x, y=y)


@dataclass(frozen=True)
class Surroundings:
    """What a figure has around its panels.

    Attributes
    ----------
    scale : float
        Size of text relative to its usual size.
    title, caption : sequence of str
        Lines above and below the panels.
    legend_place : {"right", "bottom", "top", "off"}
    legend_columns : int
        Number of columns of a legend above or below the panels.
    legend_inches : tuple of float
        Width and height of that legend.
    figure_size : tuple of float, or None
        Width and height of the figure in inches where they were requested.
    panels : int
        Number of panels.
    """

    scale: float = 1.0
    title: Sequence[str] = ()
    caption: Sequence[str] = ()
    legend_place: LegendPlace = "right"
    legend_columns: int = 1
    legend_inches: tuple[float, float] = (0.0, 0.0)
    figure_size: tuple[float, float] | None = None
    panels: int = 1

    #: Points of the title and the caption at the usual size of text.
    TITLE_POINTS: ClassVar[float] = 13.0
    CAPTION_POINTS: ClassVar[float] = 8.5

    def title_inches(self) -> float:
        """Return the height of the title with the gap below it."""
        return self._height(self.title, self.TITLE_POINTS, 0.12)

    def caption_inches(self) -> float:
        """Return the height of the caption with the gaps around it."""
        return self._height(self.caption, self.CAPTION_POINTS, 0.14)

    def _height(self, lines: Sequence[str], points: float, gap: float) -> float:
        return (len(lines) * 1.35 * points / 72 + gap) * self.scale if lines else 0.0

    def above(self) -> float:
        """Return the inches above the panels."""
        return self.title_inches() + (self.legend_inches[1] if self.legend_place == "top" else 0.0)

    def below(self) -> float:
        """Return the inches below the panels."""
        return self.caption_inches() + (self.legend_inches[1] if self.legend_place == "bottom" else 0.0)


@dataclass(frozen=True)
class PanelLayout:
    """Layout of one panel within a figure.

    Attributes
    ----------
    size : tuple of int
        Width and height of every frame, in pixels.
    row, column : int
        Position of the panel.
    rows, columns : int
        Number of rows and columns of the figure.
    left_margin, bottom_margin : float
        Inches left of a frame for labels, and below it for labels and the title of the next row.
    legend_size : tuple of float
        Width and height of the legend in inches, right of the first row.
    title_points : float
        Font size of the titles, at the usual size of text.
    around : Surroundings
        What the figure has around its panels.
    title_rows : int
        Number of lines of the longest title of a panel, which all leave room for; 0 where none has a title.
    """

    size: tuple[int, int]
    row: int
    column: int
    rows: int
    columns: int
    left_margin: float = _LEFT_MARGIN
    bottom_margin: float = _BOTTOM_MARGIN
    legend_size: tuple[float, float] = (0.0, 0.0)
    title_points: float = 11.0
    around: Surroundings = Surroundings()
    title_rows: int = 1

    @property
    def text_size(self) -> tuple[int, int]:
        """Width and height of every frame in pixels, divided by the scale of text: what text has to fit into."""
        return int(self.size[0] / self.around.scale), int(self.size[1] / self.around.scale)

    @property
    def has_legend(self) -> bool:
        """Whether the legend is drawn right of this panel: the last one of the first row."""
        return (self.row, self.column) == (0, self.columns - 1)

    def legend_columns(self, legend: Legend) -> int:
        """Return the number of columns of the legend."""
        if self.around.legend_place != "right":
            return self.around.legend_columns
        return legend.columns(_legend_height(self.text_size[1], self.rows, self.around))

    def frame_size_inches(self) -> tuple[float, float]:
        """Return width and height of the frame."""
        return self.size[0] / FRAME_PIXELS_PER_INCH, self.size[1] / FRAME_PIXELS_PER_INCH

    def figure_inches(self) -> tuple[float, float]:
        """Return width and height of the figure: all panels, with title, legend and caption."""
        return self.around.figure_size or self.needed_inches()

    def needed_inches(self) -> tuple[float, float]:
        """Return the width and height that the contents of the figure need."""
        width, height = self._cell_inches()
        # The label of the last tick may extend beyond the frame.
        beside = self.legend_size[0] or _EDGE_INCHES * self.around.scale
        across = self.columns * width + beside + _EDGE_INCHES
        down = max(self.rows * height, self.legend_size[1] + self.title_height())
        legend = self.around.legend_inches[0]
        return max(
            across, legend + 2 * _EDGE_INCHES if legend else 0.0
        ), self.around.above() + down + self.around.below()

    def frame_inches(self) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of the frame, in inches from the upper left corner of the figure."""
        width, height = self._cell_inches()
        across, down = self.frame_size_inches()
        top = self.around.above() + self.row * height + self.title_height()
        return self.column * width + self.left_margin, -(top + down), across, down

    def title_height(self) -> float:
        """Return the inches above a frame for the title of its panel."""
        return _inches_above(self.title_rows, self.title_points) * self.around.scale

    def _cell_inches(self) -> tuple[float, float]:
        across, down = self.frame_size_inches()
        return across + self.left_margin, down + self.bottom_margin


@dataclass(frozen=True)
class TickCounts:
    """Numbers of ticks that fit beside an axis.

    Attributes
    ----------
    linear : int
        Of a linear axis, approximately.
    log : int
        Of a logarithmic axis, at most.
    """

    linear: int
    log: int

    @classmethod
    def across(cls, pixels: int) -> TickCounts:
        """Return the numbers of ticks below a frame, by its width relative to text.

        Examples
        --------
        >>> TickCounts.across(330), TickCounts.across(110)
        (TickCounts(linear=5, log=8), TickCounts(linear=2, log=2))
        """
        return cls(min(max(pixels // 55, 2), 5), min(max(pixels // 38, 2), 8))

    @classmethod
    def up(cls, pixels: int) -> TickCounts:
        """Return the numbers of ticks beside a frame, by its height relative to text.

        Examples
        --------
        >>> TickCounts.up(230), TickCounts.up(70)
        (TickCounts(linear=6, log=8), TickCounts(linear=3, log=3))
        """
        return cls(min(max(pixels // 25, 3), 6), min(max(pixels // 20, 3), 8))


def wrapped(text: str, inches: float, points: float) -> list[str]:
    """Return a text in lines that are no wider than `inches` at a font size.

    Examples
    --------
    >>> wrapped("mean of three seeds; left out: 2 runs", 1.6, 8.5)
    ['mean of three seeds; left', 'out: 2 runs']
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        # Hinting makes printed text wider by up to a hundredth.
        if lines and 1.02 * text_width_inches(longer) * points / USUAL_POINTS <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def title_points(titles: Iterable[str], pixels: int) -> float:
    """Return the font size at which no title is wider than its frame, but at least 7 points, which can be read.

    Examples
    --------
    >>> title_points(["4M on C4"], 330), title_points(["150M on DCLM-Baseline 25% / Dolma 75%"], 240)
    (11.0, 7.0)
    """
    fitting = pixels / (_TITLE_PIXELS * max(map(len, titles), default=1) or 1)
    return max(min(11.0, fitting // 0.5 / 2), 7.0)


def title_lines(title: str, points: float, pixels: int) -> list[str]:
    """Return a title in at most two lines that are no wider than its frame, shortened between them where it is longer.

    Examples
    --------
    >>> title_lines("CommonsenseQA, 150M on DCLM-Baseline 25% / Dolma 75%", 7, 240)
    ['CommonsenseQA, 150M on DCLM-', 'Baseline 25% / Dolma 75%']
    >>> title_lines("crows pairs english race color, difference of likelihoods", 11, 240)
    ['crows pairs english…', 'of likelihoods']
    """
    most = max(int(pixels / (_TITLE_PIXELS * points)), 2)
    lines = textwrap.wrap(title, most)
    if len(lines) <= 2:
        return lines
    # The end often distinguishes facets, such as a seed.
    end = textwrap.wrap(title[::-1], most)[0][::-1]
    return [f"{textwrap.wrap(title, most - 1)[0].rstrip(' ,/')}…", end.lstrip(" ,/")]


def _inches_above(rows: int, points: float) -> float:
    """Return the inches above a frame for titles of some lines, at the usual size of text."""
    return _TITLE_INCHES + (rows - 1) * 1.3 * points / 72 if rows else _UNTITLED_INCHES


def arrange(blocks: Sequence[Sequence[Any]], columns: int) -> list[list[Any]]:
    """Return panels in rows: several blocks in a row where they fit, and a block wider than a row split over rows.

    Parameters
    ----------
    blocks : sequence of sequences
        Panels that belong together, such as those of one lineage.
    columns : int
        Maximum number of panels in a row.

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


def panel_layouts(
    rows: Sequence[Sequence[Any]],
    size: tuple[int, int],
    legend: Legend | None = None,
    frames: Sequence[Frame] = (),
    titles: Sequence[str] = (),
    around: Surroundings = Surroundings(),
) -> list[PanelLayout]:
    """Return the layouts of panels, row by row, with room for the legend, long labels of axes and ticks, and notes."""
    scale = around.scale
    # Text that is larger by a factor needs the room that usual text needs in a frame that is smaller by this factor.
    across, up = int(size[0] / scale), int(size[1] / scale)
    left = scale * max((f.y.left_margin(up) for f in frames), default=_LEFT_MARGIN)
    notes = max((len(f.note.splitlines()) for f in frames), default=0) * _LINE_INCHES
    turned = max((f.x.tick_height(across) for f in frames), default=0.0)
    lines = max((len(f.x.fitted_label(across).splitlines()) for f in frames), default=1) - 1
    points = title_points(titles, across)
    title_rows = max((len(title_lines(title, points, across)) for title in titles), default=0)
    above = _inches_above(title_rows, points) - _TITLE_INCHES
    bottom = scale * (_BOTTOM_MARGIN + above + notes + turned + max(lines, 0) * _LINE_INCHES)
    legend_size = (0.0, 0.0)
    if legend and around.legend_place == "right":
        width, height = legend.inches(_legend_height(up, len(rows), around))
        # The gap beside the frame does not shrink with text.
        legend_size = scale * width + max(1 - scale, 0.0) * _LEGEND_GAP, scale * height
    columns = max(map(len, rows))
    return [
        PanelLayout(size, i, j, len(rows), columns, left, bottom, legend_size, points, around, title_rows)
        for i, row in enumerate(rows)
        for j in range(len(row))
    ]


def _legend_height(frame_height: int, rows: int, around: Surroundings) -> int:
    """Return the height in pixels that a legend beside the first row may have."""
    # Where a picture of a given size has one row, the legend may extend down to the labels of x.
    is_alone = rows == 1 and around.figure_size is not None
    return frame_height + (int(0.4 * FRAME_PIXELS_PER_INCH) if is_alone else 0)
