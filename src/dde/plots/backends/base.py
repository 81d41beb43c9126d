"""Protocol of plotting backends: the HoloViews options of elements, panels and figures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from dde.plots.figure_layout import Frame, PanelLayout
from dde.plots.legends import Legend

__all__ = [
    "ONE_AT_A_TIME",
    "OPAQUE_POINTS_UP_TO",
    "SMALL_POINTS_ABOVE",
    "Backend",
    "BackendName",
    "Options",
    "crowd_look",
]

BackendName = Literal["bokeh", "matplotlib"]
Options = dict[str, Any]

#: HoloViews applies options for its one current backend, and pyplot keeps one list of figures; both are global to the
#: process. Code that draws or writes a picture takes this lock first.
ONE_AT_A_TIME = threading.RLock()

#: Numbers of curves in a panel: up to the first, points are opaque; above the second, they are smaller.
OPAQUE_POINTS_UP_TO, SMALL_POINTS_ABOVE = 20, 60


class Backend(Protocol):
    """Options of elements and panels that HoloViews passes to the backend unchanged."""

    name: BackendName
    #: Whether cells show a tooltip under the pointer.
    hovers: bool

    def line(self, colour: str, dashed: bool = False, crowd: int = 1) -> Options:
        """Return options of one of `crowd` lines; dashed ones connect points between which there is no data."""
        ...

    def partial_line(self, colour: str, crowd: int = 1) -> Options:
        """Return options of a line that averages fewer runs than the rest of its curve."""
        ...

    def interval_band(self, colour: str) -> Options:
        """Return options of the area of an interval."""
        ...

    def interval_sample(self, colour: str) -> Options:
        """Return options of the legend sample of an interval."""
        ...

    def outline_sample(self) -> Options:
        """Return options of the legend sample of an outlined tile."""
        ...

    def hollow_point(self) -> Options:
        """Return options of a point without a value."""
        ...

    def thick_line(self) -> Options:
        """Return options of a line that represents a run rather than its values."""
        ...

    def points(
        self, colour: str, marker: str, dense: bool = False, tooltips: Sequence[tuple[str, str]] = (), crowd: int = 1
    ) -> Options:
        """Return options of observed points; `dense` ones are smaller."""
        ...

    def invisible_points(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        """Return options of invisible points that only show tooltips."""
        ...

    def branch_line(self) -> Options:
        """Return options of the lines that mark branch points."""
        ...

    def zero_line(self) -> Options:
        """Return options of the line at zero difference."""
        ...

    def window_rectangle(self) -> Options:
        """Return options of the rectangle that another panel enlarges."""
        ...

    def tiles(self, tooltips: Sequence[tuple[str, str]], best: bool = False) -> Options:
        """Return options of rectangles coloured by their dimension ``colour``; `best` ones are outlined."""
        ...

    def text(self, colour: str, align: str = "center", bold: bool = False) -> Options:
        """Return options of text at points."""
        ...

    def literal_text(self, text: str) -> str:
        """Return text escaped so that the backend shows it literally, without typesetting formulas."""
        ...

    def panel(self, layout: PanelLayout, frame: Frame, legend: Legend) -> Options:
        """Return options of a panel."""
        ...

    def figure(self, layout: PanelLayout) -> Options:
        """Return options of the figure of all panels."""
        ...


def crowd_look(crowd: int, width: float) -> tuple[float, float]:
    """Return opacity and width of one of `crowd` lines, so that overlapping lines stay visible.

    Examples
    --------
    >>> crowd_look(1, 1.5)
    (0.9, 1.5)
    >>> crowd_look(500, 1.5)
    (0.29, 0.79)
    """
    share = min(20 / max(crowd, 1), 1.0)
    return round(max(0.9 * share**0.35, 0.2), 2), round(max(width * share**0.2, 0.5), 2)
