"""One panel of curves: lines, points, intervals, connections and branch marks of its segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.dataset.naming import step_of
from dde.plots.axis_format import short_number
from dde.plots.backends.base import Backend, dash_pattern, with_dash
from dde.plots.colours import INK, NEUTRAL, LineColour, dash_of, is_given, marker_in
from dde.plots.curve_segments import MARKERS, OBSERVED, Segment, columns_for, spread_picks, thinned
from dde.plots.figure_layout import Axis, Frame, PanelLayout, title_lines
from dde.plots.legends import Legend

__all__ = [
    "MARKER_SHARE",
    "PALE",
    "Axis",
    "Frame",
    "Look",
    "Panel",
    "coloured_lines",
    "coloured_points",
    "enlarged_range",
    "framed",
    "off_points",
    "value_of",
    "x_values",
    "y_values",
]

# A stretch with more observations than this is a training log: its points are drawn small.
_DENSE = 48
# So is a stretch whose points are closer than this number of pixels, where it has several: edges would hide points.
_CLOSE, _FEW = 4.0, 8
# All points of a panel with more of them than this are drawn small, too.
_MANY = 400
# Cells of a stretch without a marker that have a tooltip. Tooltips for all cells would make the page heavy.
_MOST_TOOLTIPS = 48
# Branch points that are marked over the full height; more of them would hide the curves.
_MOST_BRANCHES = 24
#: Number of curves whose look those have that are pale beside highlighted ones, or behind smoothed ones.
PALE = 500

#: Share of an axis that half a marker covers at most.
MARKER_SHARE = 0.025
# Farthest that a limit is moved to keep off markers, in that share.
_MOST_MOVED = 4
# Right edge of the enlarged panel relative to the longest run.
_AFTER = 1.05
# Left edge of the enlarged panel relative to the last point of a base that determines it.
_EDGE_OF_LAST = 1.15

Shifted = list[tuple[Segment, float]]
Lines = list[tuple[Any, Any, str]]


@dataclass(frozen=True)
class Look:
    """The colours and markers that distinguish the runs of a picture.

    Attributes
    ----------
    hue_by, style_by : str
        Coordinates; "" for none. ``checkpoint_type`` is the type of the run that was training.
    colours, markers : mapping
        By value of the coordinate.
    hue_label : str
        Title of the legend.
    plain : str
        Colour of segments without a value of the hue.
    highlight : tuple of str
        Labels or ids of runs, and lineages, that are drawn strong; all others are pale. All are alike when empty.
    """

    hue_by: str
    style_by: str
    colours: Mapping[Any, str]
    markers: Mapping[Any, str]
    hue_label: str
    plain: str = NEUTRAL
    highlight: tuple[str, ...] = ()

    def is_highlighted(self, segment: Segment) -> bool:
        """Return whether a segment is of a highlighted run or lineage."""
        return not segment.names.isdisjoint(self.highlight)

    def colour(self, segment: Segment) -> str:
        """Return the colour of a segment."""
        # A base has no value of the sweep, even where the row of a derived run shows it.
        return self.colours.get(value_of(segment, self.hue_by), self.plain)

    def marker(self, segment: Segment) -> str:
        """Return the marker of the observations of a segment."""
        return self.markers[value_of(segment, self.style_by)]


@dataclass(frozen=True)
class Panel:
    """A panel before it is drawn; its contents can be examined without a backend.

    Attributes
    ----------
    segments : sequence of Segment
    look : Look
    frame : Frame
    title : str
    mark_branches : bool
    zero : bool
        Draw a line at zero, because values are differences.
    behind : sequence of Segment
        Segments drawn as faint lines behind the others, such as curves before they were smoothed.
    """

    segments: Sequence[Segment]
    look: Look
    frame: Frame
    title: str = ""
    mark_branches: bool = True
    zero: bool = False
    behind: Sequence[Segment] = ()

    def shifted_segments(self) -> Shifted:
        """Return pairs of a segment and its zero of x; a base is cut at each branch of its runs."""
        return self._shifted(self.segments)

    def shifted_behind(self) -> Shifted:
        """Return the same pairs for the segments behind."""
        return self._shifted(self.behind)

    def _shifted(self, segments: Sequence[Segment]) -> Shifted:
        if not self.frame.since_branch:
            return [(s, 0.0) for s in segments]
        derived = [(s, s.origin) for s in segments if not s.is_base]
        # A base is drawn once for each point at which runs left it.
        origins = {(s.root, origin): s for s, origin in derived}
        bases = [
            (s.until(origin), origin)
            for s in segments
            if s.is_base
            for origin in sorted({o for (_, o), run in origins.items() if run.starts_with(s)})
        ]
        return bases + derived

    def is_thinned(self, width: int) -> bool:
        """Return whether a panel of `width` pixels visibly draws fewer points than it has."""
        shifted = self.shifted_segments()
        columns = columns_for(len(shifted), width)
        return self._observed_count(shifted) > MARKERS or (
            columns < width // 3 and any(len(s.x) > 4 * columns for s, _ in shifted)
        )

    def _observed_count(self, shifted: Shifted) -> int:
        return sum(int((s.support == OBSERVED).sum()) for s, _ in shifted)

    def branches(self) -> list[float]:
        """Return the positions on the axis at which runs branch off."""
        if self.frame.since_branch:
            return [0.0] if any(not s.is_base for s in self.segments) else []
        return sorted({s.start for s in self.segments if np.isfinite(s.start)})

    def draw(self, backend: Backend, layout: PanelLayout, legend: Legend = Legend()) -> Any:  # noqa: B008
        """Return the panel as an overlay of HoloViews elements."""
        import holoviews as hv

        dims = [hv.Dimension(axis.name) for axis in (self.frame.x, self.frame.y)]
        elements: list[Any] = []
        derived = any(not s.is_base for s in self.segments)
        # A facet without derived runs has nothing in the panel that enlarges.
        if self.frame.window is not None and derived:
            elements.append(hv.Rectangles([self.frame.window]).opts(**backend.window_rectangle()))
        if self.zero:
            elements.append(hv.HLine(0.0).opts(**backend.zero_line()))
        if self.mark_branches:
            elements += self._branch_marks(hv, dims, backend)
        shifted = self.shifted_segments()
        width = layout.size[0]
        columns = columns_for(len(shifted), width)
        behind = [(s, o) for s, o in self.shifted_behind() if not self.look.highlight or self.look.is_highlighted(s)]
        for lines in self._lines(behind, columns):
            elements += coloured_lines(dims, lines, backend.line("colour", crowd=PALE))
        elements += self._bands(hv, dims, backend, shifted)
        strong = [(s, since) for s, since in shifted if self.look.is_highlighted(s)]
        if not self.look.highlight:
            elements += self._curves(hv, dims, backend, shifted, columns, len(shifted), width)
        else:
            others = [(s, since) for s, since in shifted if not self.look.is_highlighted(s)]
            elements += self._curves(hv, dims, backend, others, columns, PALE, width)
            elements += self._curves(hv, dims, backend, strong, columns, 1, width, backend.thick_line())
        if not len(y_values(shifted, *(self.frame.x.limits or (-np.inf, np.inf)))):
            missing = "no values after the branch" if self.frame.since_branch and not derived else "no values"
            elements.append(hv.Labels([(*self.frame.middle(), missing)], dims, "text").opts(**backend.text(INK)))
        return framed(elements, self.frame, backend, layout, legend, self.title)

    def _curves(
        self,
        hv: Any,
        dims: list[Any],
        backend: Backend,
        shifted: Shifted,
        columns: int,
        crowd: int,
        width: int,
        strong: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Any]:
        """Return the lines and points of segments that share a strength."""
        complete, partial = self._lines(shifted, columns)
        joints = [(x - since, values, self.look.colour(s)) for s, since in shifted for x, values in s.gaps()]
        elements = coloured_lines(dims, complete, backend.line("colour", crowd=crowd) | dict(strong))
        elements += coloured_lines(dims, partial, backend.partial_line("colour", crowd=crowd) | dict(strong))
        elements += coloured_lines(dims, joints, backend.line("colour", dashed=True, crowd=crowd))
        return elements + self._points(hv, dims, backend, shifted, crowd, width)

    def _lines(self, shifted: Shifted, columns: int) -> tuple[Lines, Lines]:
        """Return lines of runs and of means over all their runs, and lines of means over fewer runs."""
        x = self.frame.x
        lines: tuple[Lines, Lines] = [], []
        for segment, since in shifted:
            colour = self.look.colour(segment)
            for part, is_partial in segment.complete_and_partial_lines():
                at, values = part.x - since, part.values
                if x.limits is not None:
                    picked = thinned(at, values, *x.limits, columns, x.is_log)
                    at, values = at[picked], values[picked]
                if len(at) > 1:
                    lines[is_partial].append((at, values, colour))
        return lines

    def _branch_marks(self, hv: Any, dims: list[Any], backend: Backend) -> list[Any]:
        at = self.branches()
        if len(at) <= _MOST_BRANCHES or self.frame.y.limits is None:
            # One element per line: HoloViews' element for several lines labels the first panel of a figure.
            return [hv.VLine(x).opts(**backend.branch_line()) for x in at]
        low, high = self.frame.y.limits
        top = low * (high / low) ** 0.05 if self.frame.y.is_log else low + 0.05 * (high - low)
        return [hv.Path([([x, x], [low, top]) for x in at], dims).opts(**backend.branch_line())]

    def _bands(self, hv: Any, dims: list[Any], backend: Backend, shifted: Shifted) -> list[Any]:
        """Return intervals of means: an area along a line, a bar at a single point."""
        areas: list[Any] = []
        bars: list[tuple[Any, Any, str]] = []
        for s, since in shifted:
            colour = self.look.colour(s)
            if s.low is None:
                continue
            for piece in s.pieces():
                assert piece.low is not None
                assert piece.high is not None
                has_interval = np.isfinite(piece.low) & np.isfinite(piece.high)
                x, high = piece.x[has_interval] - since, piece.high[has_interval]
                low = self.frame.y.drawable(piece.low[has_interval])
                if len(x) > 1:
                    area = hv.Area((x, low, high), dims[0], [dims[1], f"{dims[1].name}_end"])
                    areas.append(area.opts(**backend.interval_band(colour)))
                bars += [([a, a], [b, c], colour) for a, b, c in zip(x, low, high, strict=True) if len(x) == 1]
        return areas + coloured_lines(dims, bars, backend.line("colour"))

    def _points(
        self, hv: Any, dims: list[Any], backend: Backend, shifted: Shifted, crowd: int, width: int
    ) -> list[Any]:
        """Return markers at observed points; a selection of them if there are too many."""
        fields = ["colour", "run", "run_id", "tokens", "step", "support", "count"]
        tooltips = [
            ("run", "@run"),
            ("run id", "@run_id"),
            ("tokens", "@tokens"),
            ("step", "@step"),
            (self.frame.y.label, f"@{{{dims[1].name}}}{{0.0000}}"),
            ("support", "@support"),
            *([("runs averaged", "@count")] if any(s.counts is not None for s, _ in shifted) else []),
        ]
        observed = [(s, since, np.flatnonzero((s.support == OBSERVED) & _has_marker(s))) for s, since in shifted]
        total = self._observed_count(shifted)
        # With many curves, each has a few points: its last one, and some others with tooltips.
        each = MARKERS // max(len(shifted), 1) or 1
        if total > MARKERS:
            observed = [(s, since, at[spread_picks(len(at), each)]) for s, since, at in observed]
        groups: dict[tuple[str, bool], list[Any]] = {}
        looks = self._dense_looks(shifted, total, width)
        for s, since, at in observed:
            if len(at):
                # Few points are seen only if they are large.
                marker = self.look.marker(s)
                is_dense = self._is_dense(s, total) or (len(at) >= _FEW and looks.get(marker, False))
                groups.setdefault((marker, is_dense), []).extend(self._cells(s, since, at))
        elements = [
            hv.Points(rows, dims, fields).opts(**backend.points("colour", marker, dense, tooltips, crowd))
            for (marker, dense), rows in groups.items()
        ]
        if backend.hovers:
            most = min(each, _MOST_TOOLTIPS)
            rows = [row for s, since in shifted for row in self._cells(s, since, _cells_without_marker(s, most))]
            if rows:
                elements.append(hv.Points(rows, dims, fields).opts(**backend.invisible_points(tooltips)))
        return elements

    def _dense_looks(self, shifted: Shifted, total: int, width: int) -> dict[str, bool]:
        """Return, by marker, whether at least half of the stretches with several points have them close or small."""
        found: dict[str, list[bool]] = {}
        for segment, since in shifted:
            spacing = self._spacing(segment.x[segment.support == OBSERVED] - since, width)
            if np.isfinite(spacing):
                is_close = spacing < _CLOSE or self._is_dense(segment, total)
                found.setdefault(self.look.marker(segment), []).append(is_close)
        return {marker: bool(np.mean(close) >= 0.5) for marker, close in found.items()}

    def _is_dense(self, segment: Segment, total: int) -> bool:
        return segment.is_log or total > _MANY or int((segment.support == OBSERVED).sum()) > _DENSE

    def _spacing(self, x: npt.NDArray[np.float64], width: int) -> float:
        """Return the mean distance in pixels of neighbours among the points that are shown; NaN for few of them."""
        low, high = self.frame.x.limits or (-np.inf, np.inf)
        shown = x[(x >= low) & (x <= high)]
        if len(shown) < _FEW or not np.isfinite(high - low):
            return float("nan")
        first, last = float(shown.min()), float(shown.max())
        share = np.log(last / first) / np.log(high / low) if self.frame.x.is_log else (last - first) / (high - low)
        return float(share * width / (len(shown) - 1))

    def _cells(self, segment: Segment, since: float, at: npt.NDArray[np.intp]) -> list[tuple[Any, ...]]:
        """Return points with the fields of their tooltips."""
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
    """Return one element for all lines of a style, each given as x, y and colour; an empty list when there are none.

    HoloViews needs time for each element, and more for a ``Path`` than for ``Contours``. `options` refer to the
    dimension ``colour``. Where they give no style of lines, lines have that of their colour.
    """
    import holoviews as hv

    x, y = (dim.name for dim in dims)
    paths: dict[int, list[dict[str, Any]]] = {}
    for a, b, colour in lines:
        paths.setdefault(dash_of(colour), []).append({x: a, y: b, "colour": str(colour)})
    return [
        hv.Contours(of_style, list(dims), "colour").opts(**with_dash(options, dash_pattern(style)))
        for style, of_style in sorted(paths.items())
    ]


def coloured_points(
    dims: Sequence[Any], rows: Sequence[tuple[Any, ...]], fields: Sequence[str], options: Mapping[str, Any]
) -> list[Any]:
    """Return an element for the points of each marker, given as x, y, colour and other fields.

    `options` refer to the dimension ``colour``, the first of `fields`. Points of values that share a colour with
    another value have other markers.
    """
    import holoviews as hv

    groups: dict[int, list[tuple[Any, ...]]] = {}
    for x, y, colour, *others in rows:
        groups.setdefault(dash_of(colour), []).append((x, y, str(colour), *others))
    return [
        hv.Points(of_marker, list(dims), list(fields)).opts(
            **dict(options) | {"marker": marker_in(LineColour("", repeat), options["marker"])}
        )
        for repeat, of_marker in sorted(groups.items())
    ]


def framed(
    elements: Sequence[Any], frame: Frame, backend: Backend, layout: PanelLayout, legend: Legend, title: str = ""
) -> Any:
    """Return elements as a panel: an overlay with axes, title and legend."""
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
    literal, legend = backend.literal_text, legend.with_texts(backend.literal_text)
    # HoloViews formats titles: braces would be replaced.
    heading = literal("\n".join(title_lines(title, layout.title_points, layout.text_size[0])))
    heading = heading.replace("{", "{{").replace("}", "}}")
    # The first element names the axes, which branch marks can't do. A curve of one point is invisible; without any
    # point, Matplotlib finds no ticks for a logarithmic axis.
    first = [hv.Curve([frame.middle()], *dims), *(entry.draw(hv, dims) for entry in legend.entries)]
    options = {
        # Bokeh drops the x label of a figure without a title beside one with a title.
        "title": heading or ("\N{NO-BREAK SPACE}" if layout.title_rows else ""),
        "xlabel": literal("\n".join(filter(None, [frame.x.fitted_label(layout.text_size[0]), frame.note]))),
        "ylabel": literal(frame.y.fitted_label(layout.text_size[1])),
        "logx": frame.x.is_log,
        "logy": frame.y.is_log,
        "show_legend": bool(legend.entries),
        # HoloViews drops the legend when there are many elements, even if few have an entry.
        "legend_limit": 10_000,
        "show_grid": frame.grid,
        "xlim": frame.x.span(),
        "ylim": frame.y.span(),
    }
    frame = replace(frame, x=frame.x.with_texts(literal), y=frame.y.with_texts(literal))
    return hv.Overlay([*first, *elements]).opts(hv.opts.Overlay(**options, **backend.panel(layout, frame, legend)))


def y_values(shifted: Iterable[tuple[Segment, float]], low: float, high: float) -> npt.NDArray[np.float64]:
    """Return the values shown between `low` and `high` on x: points, ends of intervals, and lines at the edges.

    A line that crosses an edge has a value there although none of its points may be inside.
    """
    edges = np.array([low, high])
    parts: list[Any] = [np.empty(0)]
    for s, since in shifted:
        x = s.x - since
        inside = (x >= low) & (x <= high)
        parts += [values[inside] for values in (s.values, s.low, s.high) if values is not None]
        if s.anchor and low <= s.anchor[0] - since <= high:
            parts.append([s.anchor[1]])
        for at, values in [*s.lines(since), *((x - since, values) for x, values in s.gaps())]:
            parts.append(np.interp(edges[(at[0] < edges) & (edges < at[-1])], at, values))
    return np.concatenate(parts)


def enlarged_range(shifted: Iterable[tuple[Segment, float]], before: float) -> tuple[float, float]:
    """Return the range of x since the branch that shows derived runs and the end of their base.

    Parameters
    ----------
    shifted : iterable of (Segment, float)
        Segments and their zero of x.
    before : float
        Share of the length of the longest run that is shown before the branch.

    Returns
    -------
    (float, float)
        From before the branch: further left where the last point of a base is not further away than runs are long, and
        so that no point of a base lies on the edge.
    """
    shifted = list(shifted)
    reach = max(float((s.x - since).max()) for s, since in shifted if not s.is_base)
    lasts = [float((s.x - since).max()) for s, since in shifted if s.is_base and len(s.x)]
    lasts += [s.anchor[0] - since for s, since in shifted if s.anchor]
    left = min([-before * reach, *(_EDGE_OF_LAST * last for last in lasts if -reach <= last < 0)])
    points = np.concatenate([np.empty(0), *((s.x - since)[s.support == OBSERVED] for s, since in shifted if s.is_base)])
    left, _ = off_points(points[points < 0], left, _AFTER * reach, MARKER_SHARE)
    return left, _AFTER * reach


def off_points(positions: npt.NDArray[np.float64], low: float, high: float, share: float) -> tuple[float, float]:
    """Return limits moved outwards until no point is so close to one of them that its marker would be cut.

    Where points are so dense that a limit would have to move far, it stays.

    Parameters
    ----------
    positions : (point,) float array
    low, high : float
    share : float
        Least distance of a point, relative to the distance between the limits.

    Examples
    --------
    >>> low, high = off_points(np.array([-0.01, 0.5, 2.0]), 0.0, 1.0, 0.02)
    >>> round(low, 3), high
    (-0.03, 1.0)
    >>> off_points(np.linspace(-1, 2, 1000), 0.0, 1.0, 0.02)
    (0.0, 1.0)
    """
    width = share * (high - low)
    return -_above(-positions, -low, width), _above(positions, high, width)


def _above(positions: npt.NDArray[np.float64], limit: float, width: float) -> float:
    """Return the limit, or a larger one near it from which no position is closer than `width`."""
    moved = limit
    for at in np.sort(positions[(positions > limit - width) & (positions < limit + _MOST_MOVED * width)]):
        if abs(at - moved) < width:
            moved = float(at) + width
    return moved if moved <= limit + _MOST_MOVED * width else limit


def x_values(shifted: Iterable[tuple[Segment, float]]) -> npt.NDArray[np.float64]:
    """Return the positions of all points along x."""
    return np.concatenate([np.empty(0), *(s.x - since for s, since in shifted)])


def value_of(segment: Segment, coordinate: str) -> Any:
    """Return the value of a coordinate for a segment; "" where it has none."""
    if coordinate == "checkpoint_type":
        return segment.kind
    if not coordinate or (segment.is_base and coordinate not in segment.of_lineage):
        return ""
    value = segment.facts[coordinate]
    return value if is_given(value) else ""


def _has_marker(segment: Segment) -> npt.NDArray[np.bool_]:
    """Return at which points of a segment an observation has a marker.

    A training log is a line: of its many observations, some lie on cells of the Dataset, and markers at those alone
    would look as if they were special. Single points have markers, because no line shows them.
    """
    is_sampled = len(segment.x) <= _DENSE and bool((segment.support == OBSERVED).all())
    if not segment.is_log or is_sampled:
        return np.ones(len(segment.x), bool)
    edges = np.array([0, *segment.breaks.tolist(), len(segment.x)])
    return np.repeat(np.diff(edges) == 1, np.diff(edges))


def _cells_without_marker(segment: Segment, most: int) -> npt.NDArray[np.intp]:
    cells = np.flatnonzero((segment.support != OBSERVED) | ~_has_marker(segment))
    return cells[spread_picks(len(cells), most)]
