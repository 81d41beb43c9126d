"""One panel of curves: lines, points, intervals, connections and marks of some segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.dataset.naming import step_of
from dde.plots.axes import short_number
from dde.plots.backends.base import Backend
from dde.plots.colours import INK, NEUTRAL, is_given
from dde.plots.figure_layout import Axis, Frame, Place, shortened
from dde.plots.legends import Legend
from dde.plots.segments import MARKERS, OBSERVED, Segment, columns_for, spread_picks, thinned

__all__ = [
    "Axis",
    "Frame",
    "Look",
    "Panel",
    "coloured_lines",
    "framed",
    "value_of",
    "x_values",
    "y_values",
]

# A stretch with more observations than this is a training log: its points are drawn small.
_DENSE = 48
# So are all points of a panel with more of them than this.
_MANY = 400
# Interpolated cells of a stretch that answer to the pointer. All of them would make the page heavy.
_ANSWERING = 48
# Branch points that are marked from top to bottom; more of them would hide the curves.
_MOST_BRANCHES = 24

Placed = list[tuple[Segment, float]]
Lines = list[tuple[Any, Any, str]]


@dataclass(frozen=True)
class Look:
    """How the runs of a picture are told apart.

    Attributes
    ----------
    hue_by, style_by : str
        Coordinates; "" for none. ``checkpoint_type`` is what was training.
    colours, markers : mapping
        By value of the coordinate.
    hue_label : str
        Title of the legend.
    plain : str
        Colour of what has no value of the hue.
    """

    hue_by: str
    style_by: str
    colours: Mapping[Any, str]
    markers: Mapping[Any, str]
    hue_label: str
    plain: str = NEUTRAL

    def colour(self, segment: Segment) -> str:
        """Return the colour of a segment."""
        # What trained the base has no value of the sweep, also where another run's row shows it.
        return self.colours.get(value_of(segment, self.hue_by), self.plain)

    def marker(self, segment: Segment) -> str:
        """Return the marker of a segment's observations."""
        return self.markers[value_of(segment, self.style_by)]


@dataclass(frozen=True)
class Panel:
    """A panel before it is drawn; its parts can be counted without a backend.

    Attributes
    ----------
    segments : sequence of Segment
    look : Look
    frame : Frame
    title : str
    mark_branches : bool
    zero : bool
        Draw a line at zero: values are differences.
    """

    segments: Sequence[Segment]
    look: Look
    frame: Frame
    title: str = ""
    mark_branches: bool = True
    zero: bool = False

    def placed(self) -> Placed:
        """Return the segments with where x is counted from; a base up to each branch of its runs."""
        if not self.frame.since_branch:
            return [(s, 0.0) for s in self.segments]
        derived = [(s, s.origin) for s in self.segments if not s.is_base]
        # A base stands once before each place at which runs left it.
        origins = {(s.root, origin): s for s, origin in derived}
        bases = [
            (s.until(origin), origin)
            for s in self.segments
            if s.is_base
            for origin in sorted({o for (_, o), run in origins.items() if run.starts_with(s)})
        ]
        return bases + derived

    def is_thinned(self, width: int) -> bool:
        """Return whether the panel, so many pixels wide, holds more points than are drawn, and one could see it."""
        placed = self.placed()
        columns = columns_for(len(placed), width)
        return self._observed_count(placed) > MARKERS or (
            columns < width // 3 and any(len(s.x) > 4 * columns for s, _ in placed)
        )

    def _observed_count(self, placed: Placed) -> int:
        return sum(int((s.support == OBSERVED).sum()) for s, _ in placed)

    def branches(self) -> list[float]:
        """Return where on the axis runs branch off."""
        if self.frame.since_branch:
            return [0.0] if any(not s.is_base for s in self.segments) else []
        return sorted({s.start for s in self.segments if np.isfinite(s.start)})

    def draw(self, backend: Backend, place: Place, legend: Legend = Legend()) -> Any:  # noqa: B008
        """Return the panel as an overlay of HoloViews elements."""
        import holoviews as hv

        dims = [hv.Dimension(axis.name) for axis in (self.frame.x, self.frame.y)]
        elements: list[Any] = []
        if self.frame.window is not None:
            elements.append(hv.Rectangles([self.frame.window]).opts(**backend.window()))
        if self.zero:
            elements.append(hv.HLine(0.0).opts(**backend.zero()))
        if self.mark_branches:
            elements += self._branch_marks(hv, dims, backend)
        placed = self.placed()
        crowd = len(placed)
        columns = columns_for(crowd, place.size[0])
        elements += self._bands(hv, dims, backend, placed)
        whole, partial = self._lines(placed, columns)
        joints = [
            ([s.anchor[0] - since, s.x[0] - since], [s.anchor[1], s.values[0]], self.look.colour(s))
            for s, since in placed
            if s.anchor
        ]
        elements += coloured_lines(dims, whole, backend.line("colour", crowd=crowd))
        elements += coloured_lines(dims, partial, backend.partial("colour", crowd=crowd))
        elements += coloured_lines(dims, joints, backend.line("colour", dashed=True, crowd=crowd))
        elements += self._points(hv, dims, backend, placed)
        if not len(y_values(placed, *(self.frame.x.shown or (-np.inf, np.inf)))):
            elements.append(hv.Labels([(*self.frame.middle(), "no values")], dims, "text").opts(**backend.text(INK)))
        return framed(elements, self.frame, backend, place, legend, self.title)

    def _lines(self, placed: Placed, columns: int) -> tuple[Lines, Lines]:
        """Return lines of runs and of means of all their runs, and those of means of fewer."""
        x = self.frame.x
        found: tuple[Lines, Lines] = [], []
        for segment, since in placed:
            colour = self.look.colour(segment)
            for part, is_partial in segment.whole_and_partial_lines():
                at, values = part.x - since, part.values
                if x.shown is not None:
                    picked = thinned(at, values, *x.shown, columns, x.is_log)
                    at, values = at[picked], values[picked]
                if len(at) > 1:
                    found[is_partial].append((at, values, colour))
        return found

    def _branch_marks(self, hv: Any, dims: list[Any], backend: Backend) -> list[Any]:
        at = self.branches()
        if len(at) <= _MOST_BRANCHES or self.frame.y.shown is None:
            # One by one: HoloViews' element of many lines writes its labels on the first panel of a figure.
            return [hv.VLine(x).opts(**backend.branch()) for x in at]
        low, high = self.frame.y.shown
        top = low * (high / low) ** 0.05 if self.frame.y.is_log else low + 0.05 * (high - low)
        return [hv.Path([([x, x], [low, top]) for x in at], dims).opts(**backend.branch())]

    def _bands(self, hv: Any, dims: list[Any], backend: Backend, placed: Placed) -> list[Any]:
        """Return intervals of means: an area along lines, a bar at a point that stands alone."""
        areas: list[Any] = []
        bars: list[tuple[Any, Any, str]] = []
        for s, since in placed:
            colour = self.look.colour(s)
            if s.low is None:
                continue
            for piece in s.pieces():
                assert piece.low is not None
                assert piece.high is not None
                known = np.isfinite(piece.low) & np.isfinite(piece.high)
                x, high = piece.x[known] - since, piece.high[known]
                low = self.frame.y.reached(piece.low[known])
                if len(x) > 1:
                    area = hv.Area((x, low, high), dims[0], [dims[1], f"{dims[1].name}_end"])
                    areas.append(area.opts(**backend.band(colour)))
                bars += [([a, a], [b, c], colour) for a, b, c in zip(x, low, high, strict=True) if len(x) == 1]
        return areas + coloured_lines(dims, bars, backend.line("colour"))

    def _points(self, hv: Any, dims: list[Any], backend: Backend, placed: Placed) -> list[Any]:
        fields = ["colour", "run", "run_id", "tokens", "step", "support", "count"]
        tooltips = [
            ("run", "@run"),
            ("run id", "@run_id"),
            ("tokens", "@tokens"),
            ("step", "@step"),
            (self.frame.y.label, f"@{{{dims[1].name}}}{{0.0000}}"),
            ("support", "@support"),
            *([("runs averaged", "@count")] if any(s.counts is not None for s, _ in placed) else []),
        ]
        observed = [(s, since, np.flatnonzero(s.support == OBSERVED)) for s, since in placed]
        crowd, total = len(placed), self._observed_count(placed)
        # Of many curves, each keeps a few points: its last one, and some that answer to the pointer.
        each = MARKERS // max(crowd, 1) or 1
        if total > MARKERS:
            observed = [(s, since, at[spread_picks(len(at), each)]) for s, since, at in observed]
        groups: dict[tuple[str, bool], list[Any]] = {}
        for s, since, at in observed:
            if len(at):
                groups.setdefault(self._look_of_points(s, total), []).extend(self._cells(s, since, at))
        elements = [
            hv.Points(rows, dims, fields).opts(**backend.points("colour", marker, dense, tooltips, crowd))
            for (marker, dense), rows in groups.items()
        ]
        if backend.hovers:
            answering = min(each, _ANSWERING)
            rows = [row for s, since in placed for row in self._cells(s, since, _between(s, answering))]
            if rows:
                elements.append(hv.Points(rows, dims, fields).opts(**backend.unseen(tooltips)))
        return elements

    def _look_of_points(self, segment: Segment, total: int) -> tuple[str, bool]:
        dense = segment.is_log or total > _MANY or int((segment.support == OBSERVED).sum()) > _DENSE
        return self.look.marker(segment), dense

    def _cells(self, segment: Segment, since: float, at: npt.NDArray[np.intp]) -> list[tuple[Any, ...]]:
        """Return points with what they answer to the pointer."""
        run = str(segment.facts.get("run", "")) if segment.is_of_itself else segment.kind
        run_id = segment.run_id if segment.is_of_itself else segment.root
        colour = self.look.colour(segment)
        return [
            (
                x - since,
                value,
                colour,
                run,
                run_id,
                short_number(tokens) if np.isfinite(tokens) else "",
                step_of(segment.facts, tokens) if segment.is_base else "",
                "observed" if support == OBSERVED else "interpolated",
                "" if count is None else f"{count:.0f}",
            )
            for x, value, tokens, support, count in zip(
                segment.x[at],
                segment.values[at],
                segment.tokens[at],
                segment.support[at],
                [None] * len(at) if segment.counts is None else segment.counts[at],
                strict=True,
            )
        ]


def coloured_lines(dims: Sequence[Any], lines: Sequence[tuple[Any, Any, str]], options: Mapping[str, Any]) -> list[Any]:
    """Return one element of lines, each x, y and colour, whose options name ``colour``; none of no lines.

    HoloViews takes its time for each element, and for a path more than for a contour.
    """
    import holoviews as hv

    if not lines:
        return []
    x, y = (dim.name for dim in dims)
    paths = [{x: a, y: b, "colour": colour} for a, b, colour in lines]
    return [hv.Contours(paths, list(dims), "colour").opts(**options)]


def framed(
    elements: Sequence[Any], frame: Frame, backend: Backend, place: Place, legend: Legend, title: str = ""
) -> Any:
    """Return elements as a panel: an overlay with axes, title and legend."""
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
    plain, legend = backend.plain, legend.with_texts(backend.plain)
    # HoloViews fills in what stands between braces.
    heading = plain(shortened(title, place.title_points, place.size[0])).replace("{", "{{").replace("}", "}}")
    # Names the axes, which the first element does, and the marks that follow don't. A line of one point is not seen;
    # without any point, matplotlib finds no ticks for a logarithmic axis.
    first = [hv.Curve([frame.middle()], *dims), *(entry.draw(hv, dims) for entry in legend.entries)]
    options = {
        # Bokeh loses the x label of a figure without a title, beside one with a title.
        "title": heading or "\N{NO-BREAK SPACE}",
        "xlabel": plain("\n".join(filter(None, [frame.x.fitted_label(place.size[0]), frame.note]))),
        "ylabel": plain(frame.y.fitted_label(place.size[1])),
        "logx": frame.x.is_log,
        "logy": frame.y.is_log,
        "show_legend": bool(legend.entries),
        # HoloViews drops a legend where elements, not entries, are many.
        "legend_limit": 10_000,
        "show_grid": frame.grid,
        "xlim": frame.x.span(),
        "ylim": frame.y.span(),
    }
    frame = replace(frame, x=frame.x.with_texts(plain), y=frame.y.with_texts(plain))
    return hv.Overlay([*first, *elements]).opts(hv.opts.Overlay(**options, **backend.panel(place, frame, legend)))


def y_values(placed: Iterable[tuple[Segment, float]], low: float, high: float) -> npt.NDArray[np.float64]:
    """Return the values that a panel from `low` to `high` shows, the ends of intervals among them."""
    found: list[Any] = [np.empty(0)]
    for s, since in placed:
        x = s.x - since
        inside = (x >= low) & (x <= high)
        found += [values[inside] for values in (s.values, s.low, s.high) if values is not None]
        if s.anchor and low <= s.anchor[0] - since <= high:
            found.append([s.anchor[1]])
    return np.concatenate(found)


def x_values(placed: Iterable[tuple[Segment, float]]) -> npt.NDArray[np.float64]:
    """Return all places of segments along x."""
    return np.concatenate([np.empty(0), *(s.x - since for s, since in placed)])


def value_of(segment: Segment, coordinate: str) -> Any:
    """Return a segment's value of a coordinate; "" where it has none."""
    if coordinate == "checkpoint_type":
        return segment.kind
    if not coordinate or (segment.is_base and coordinate not in segment.of_lineage):
        return ""
    value = segment.facts[coordinate]
    return value if is_given(value) else ""


def _between(segment: Segment, most: int) -> npt.NDArray[np.intp]:
    between = np.flatnonzero(segment.support != OBSERVED)
    return between[spread_picks(len(between), most)]
