"""Protocol of plotting backends: the HoloViews options of elements, panels and figures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dde.plots.figure_layout import Frame, PanelLayout
from dde.plots.legends import Legend

__all__ = [
    "NO_DATA",
    "ONE_AT_A_TIME",
    "OPAQUE_POINTS_UP_TO",
    "SMALL_POINTS_ABOVE",
    "Backend",
    "BackendName",
    "Options",
    "PanelHook",
    "crowd_look",
    "dash_pattern",
    "with_dash",
]

BackendName = Literal["bokeh", "matplotlib"]
Options = dict[str, Any]

#: HoloViews applies options for its one current backend, and pyplot keeps one list of figures; both are global to the
#: process. Code that draws or writes a picture takes this lock first.
ONE_AT_A_TIME = threading.RLock()

#: Dashes and gaps, in widths of the line, of lines between points between which there is no data.
NO_DATA = (4.0, 3.0)
# Lines of values that share a colour: solid, long dashes, dots. Neither looks like NO_DATA.
_DASHES: tuple[tuple[float, ...], ...] = ((), (7.0, 2.0), (1.5, 1.5))

#: Numbers of curves in a panel: up to the first, points are opaque; above the second, they are smaller.
OPAQUE_POINTS_UP_TO, SMALL_POINTS_ABOVE = 20, 60


class Backend(Protocol):
    """Options of elements and panels that HoloViews passes to the backend unchanged."""

    name: BackendName
    #: Whether cells show a tooltip under the pointer.
    hovers: bool

    def line(self, colour: str, dashed: bool = False, crowd: int = 1) -> Options:
        """Return options of one of `crowd` lines; dashed ones connect points between which there is no data.

        Others have the style that belongs to the colour, as :func:`dde.plots.colours.colours_of` gives it.
        """
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


@dataclass(frozen=True)
class PanelHook:
    """HoloViews hook of a panel, which has its layout ready for when the panel is added to other pictures."""

    layout: PanelLayout
    style: Callable[[Any, Any], None]

    def __call__(self, plot: Any, element: Any) -> None:
        """Style what HoloViews drew."""
        self.style(plot, element)


def dash_pattern(style: int) -> tuple[float, ...]:
    """Return dashes and gaps of a style of lines, in widths of the line; empty for a solid line.

    Examples
    --------
    >>> dash_pattern(0), dash_pattern(1), dash_pattern(3)
    ((), (7.0, 2.0), (7.0, 2.0, 1.5, 2.0))
    """
    if style < len(_DASHES):
        return _DASHES[style]
    return (7.0, 2.0, *(1.5, 2.0) * (style - len(_DASHES) + 1))


def with_dash(options: Mapping[str, Any], pattern: Sequence[float]) -> Options:
    """Return options of lines, for either backend, with a pattern of dashes; unchanged where they have one already.

    Examples
    --------
    >>> with_dash({"line_width": 1.5}, NO_DATA), with_dash({"linewidth": 1.2}, NO_DATA)
    ({'line_width': 1.5, 'line_dash': '6 4'}, {'linewidth': 1.2, 'linestyle': (0, (4.0, 3.0))})
    """
    options = dict(options)
    if not pattern or "line_dash" in options or "linestyle" in options:
        return options
    if "line_width" in options:
        # Bokeh counts dashes in pixels; those of less than two disappear.
        return options | {"line_dash": " ".join(str(max(round(1.4 * part), 2)) for part in pattern)}
    return options | {"linestyle": (0, tuple(pattern))}


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
