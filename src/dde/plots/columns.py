"""Panels of curves as plain columns, which a page can draw without objects for single curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64
from dde.dataset.naming import step_of
from dde.plots.backends.base import dash_pattern
from dde.plots.colours import dash_of, is_given, label_of
from dde.plots.curve_segments import MARKERS, OBSERVED, Segment, columns_for, spread_picks, thinned
from dde.plots.panels import Look, Panel, value_of

__all__ = [
    "BEHIND",
    "COMPLETE",
    "NO_DATA",
    "PARTIAL",
    "PanelColumns",
    "RunLook",
    "columns_of",
    "has_same_columns",
    "looks_of",
]

#: Styles of lines: between values, between values of a mean that averages fewer runs than it has, across a stretch
#: without data, and between values that are faint behind others.
COMPLETE, PARTIAL, NO_DATA, BEHIND = 0, 1, 2, 3

# Above this number of observations, the points of a stretch, or of a panel, are drawn small.
_MANY_OF_RUN, _MANY_OF_PANEL = 48, 400

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RunLook:
    """How the curves of one run look.

    Attributes
    ----------
    run_id : str
    run, lineage : str
        Labels; of a base that belongs to no run of its own, `run` is its run type.
    is_base : bool
    colour : str
    dash : tuple of float
        Dashes and gaps of its lines in widths of the line; empty for a solid line.
    group : str
        Label of the run's value of the hue; "" without a value.
    number : int
        By which columns refer to the run: its position by first appearance, which does not depend on colours.
    """

    run_id: str
    run: str
    lineage: str
    is_base: bool
    colour: str
    dash: tuple[float, ...]
    group: str
    number: int


@dataclass(frozen=True)
class PanelColumns:
    """One panel as columns.

    Attributes
    ----------
    title, x_name, y_name, x_label, y_label : str
    log_x, log_y : bool
    x_range, y_range : tuple of float
    window : tuple of float, or None
        Left, bottom, right, top of the region that another panel enlarges.
    is_difference : bool
        Whether values are differences, so that zero is marked.
    branches : (branch,) float array
        Positions at which runs branch off.
    line_x, line_y : (vertex,) float arrays
        Vertices of all lines, one line after the other.
    line_start : (line + 1,) int32 array
        Position of the first vertex of each line.
    line_run, line_style : (line,) int32 arrays
        Number of the run, and one of the styles of lines.
    point_x, point_y : (point,) float arrays
        Observations.
    point_run, point_kind, point_small : (point,) int32 arrays
        Number of the run, position of the marker in `kinds`, and whether the point is drawn small.
    point_text : list of str
        What else is known of an observation, such as its step.
    kinds : list of str
        Bokeh's names of markers.
    band_x, band_low, band_high, band_start, band_run
        Intervals of means: vertices along x with both bounds, as the lines.
    is_thinned : bool
        Whether visibly fewer points are drawn than there are.
    """

    title: str
    x_name: str
    y_name: str
    x_label: str
    y_label: str
    log_x: bool
    log_y: bool
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    window: tuple[float, float, float, float] | None
    is_difference: bool
    branches: Float64
    line_x: Float64
    line_y: Float64
    line_start: Ints
    line_run: Ints
    line_style: Ints
    point_x: Float64
    point_y: Float64
    point_run: Ints
    point_kind: Ints
    point_small: Ints
    point_text: list[str]
    kinds: list[str] = field(repr=False)
    band_x: Float64
    band_low: Float64
    band_high: Float64
    band_start: Ints
    band_run: Ints
    is_thinned: bool

    def as_message(self) -> dict[str, Any]:
        """Return the columns by name, as a page receives them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def looks_of(panels: Iterable[Panel]) -> list[RunLook]:
    """Return the looks of all runs of panels, in the order of their colours, bases first.

    Examples
    --------
    >>> import dde
    >>> from dde.plots.curves import curve_panels
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> looks = looks_of(panel for row in curve_panels(ds) for panel in row)
    >>> looks[0].is_base, looks[0].lineage in ds.lineage.values
    (True, True)
    """
    looks: dict[str, tuple[int, RunLook]] = {}
    for panel in panels:
        ranks = {value: k for k, value in enumerate(panel.look.colours)}
        for segment in panel.segments:
            if run_id_of(segment) not in looks:
                value = value_of(segment, panel.look.hue_by)
                looks[run_id_of(segment)] = (ranks.get(value, -1), _look(segment, panel.look, value, len(looks)))
    ordered = sorted(looks.values(), key=lambda ranked: (ranked[0], not ranked[1].is_base))
    return [look for _, look in ordered]


def run_id_of(segment: Segment) -> str:
    """Return the id under which the run of a segment is known: of a base, its own also where another run shows it."""
    return segment.run_id if segment.is_of_itself else segment.root


def _look(segment: Segment, look: Look, value: Any, number: int) -> RunLook:
    return RunLook(
        run_id=run_id_of(segment),
        run=str(segment.facts.get("run", "")) if segment.is_of_itself else segment.kind,
        lineage=str(segment.facts.get("lineage", "")),
        is_base=segment.is_base,
        colour=str(look.colour(segment)),
        dash=dash_pattern(dash_of(look.colour(segment))),
        group=label_of(value) if is_given(value) else "",
        number=number,
    )


def columns_of(panel: Panel, numbers: Mapping[str, int], width: int = 480) -> PanelColumns:
    """Return the columns of a panel.

    Parameters
    ----------
    panel : Panel
    numbers : mapping of str to int
        Number of each run by its id, as in its look.
    width : int
        Pixels to whose resolution lines are thinned; extremes are retained.

    Examples
    --------
    >>> import dde
    >>> from dde.plots.curves import curve_panels
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> panel = curve_panels(ds, zoom=False, facet_by=None)[0][0]
    >>> columns = columns_of(panel, {look.run_id: look.number for look in looks_of([panel])})
    >>> len(columns.line_run) == len(columns.line_start) - 1, columns.x_name
    (True, 'cumulative_tokens')
    """
    frame, shifted = panel.frame, panel.shifted_segments()
    columns = columns_for(len(shifted), width)
    lines, bands = _Strokes(3), _Strokes(3)

    def add(segment: Segment, since: float, run: int, is_behind: bool) -> None:
        for at, values, is_partial in _line_parts(segment, since):
            if frame.x.limits is not None:
                picked = thinned(at, values, *frame.x.limits, columns, frame.x.is_log)
                at, values = at[picked], values[picked]
            if len(at) > 1:
                lines.add((at, values), run, BEHIND if is_behind else PARTIAL if is_partial else COMPLETE)

    for segment, since in panel.shifted_behind():
        # A curve may lose all values when it is smoothed.
        if (run := numbers.get(run_id_of(segment))) is not None:
            add(segment, since, run, True)
    for segment, since in shifted:
        run = numbers[run_id_of(segment)]
        add(segment, since, run, False)
        if segment.anchor:
            (before, value), first = segment.anchor, segment.x[0] - since
            lines.add((np.array([before - since, first]), np.array([value, segment.values[0]])), run, NO_DATA)
        for x, low, high in _bounds(segment, since):
            bands.add((x, frame.y.drawable(low), high), run, COMPLETE)
    line_x, line_y = lines.vertices(2)
    band_x, band_low, band_high = bands.vertices(3)
    return PanelColumns(
        title=panel.title,
        x_name=frame.x.name,
        y_name=frame.y.name,
        x_label=frame.x.label,
        y_label=frame.y.label,
        log_x=frame.x.is_log,
        log_y=frame.y.is_log,
        x_range=frame.x.span(),
        y_range=frame.y.span(),
        window=frame.window,
        is_difference=panel.zero,
        branches=np.array(panel.branches() if panel.mark_branches else [], np.float64),
        line_x=line_x,
        line_y=line_y,
        line_start=lines.starts(),
        line_run=np.array(lines.runs, np.int32),
        line_style=np.array(lines.styles, np.int32),
        **_points(panel, shifted, numbers),
        band_x=band_x,
        band_low=band_low,
        band_high=band_high,
        band_start=bands.starts(),
        band_run=np.array(bands.runs, np.int32),
        is_thinned=panel.is_thinned(width),
    )


def has_same_columns(one: Panel, other: Panel) -> bool:
    """Return whether two panels have the same columns, whatever their colours, for the same numbers of runs.

    Segments are the same when they are the same objects; equal ones are not looked for.
    """
    return (
        (one.title, one.frame, one.zero, one.mark_branches)
        == (other.title, other.frame, other.zero, other.mark_branches)
        and one.look.style_by == other.look.style_by
        and list(one.look.markers.items()) == list(other.look.markers.items())
        and _are_same(one.segments, other.segments)
        and _are_same(one.behind, other.behind)
    )


def _are_same(one: Sequence[Segment], other: Sequence[Segment]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


class _Strokes:
    """Lines that grow one after the other."""

    def __init__(self, columns: int) -> None:
        self.parts: list[list[Float64]] = [[] for _ in range(columns)]
        self.runs: list[int] = []
        self.styles: list[int] = []

    def add(self, vertices: Sequence[Float64], run: int, style: int) -> None:
        """Add a line, given by a column for each coordinate of its vertices."""
        for column, part in zip(self.parts, vertices, strict=False):
            column.append(part)
        self.runs.append(run)
        self.styles.append(style)

    def vertices(self, columns: int) -> list[Float64]:
        """Return the vertices of all lines."""
        return [np.concatenate(part) if part else np.empty(0) for part in self.parts[:columns]]

    def starts(self) -> Ints:
        """Return the position of the first vertex of each line, and the number of vertices."""
        return np.cumsum([0, *map(len, self.parts[0])]).astype(np.int32)


def _line_parts(segment: Segment, since: float) -> list[tuple[Float64, Float64, bool]]:
    """Return the uninterrupted lines, and whether each averages fewer runs than its mean has."""
    if segment.counts is None:
        return [(x, values, False) for x, values in segment.lines(since)]
    return [(p.x - since, p.values, is_partial) for p, is_partial in segment.complete_and_partial_lines()]


def _bounds(segment: Segment, since: float) -> Iterable[tuple[Float64, Float64, Float64]]:
    """Yield the uninterrupted parts of an interval: x, lower and upper bound."""
    if segment.low is None:
        return
    for piece in segment.pieces():
        assert piece.low is not None
        assert piece.high is not None
        known = np.isfinite(piece.low) & np.isfinite(piece.high)
        if known.any():
            yield piece.x[known] - since, piece.low[known], piece.high[known]


def _points(panel: Panel, shifted: list[tuple[Segment, float]], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the columns of observations, some of them where there are too many."""
    observed = [(s, since, np.flatnonzero(s.support == OBSERVED)) for s, since in shifted]
    total = sum(len(at) for _, _, at in observed)
    if total > MARKERS:
        # Each curve has a few points: its last one, and some others.
        each = MARKERS // max(len(shifted), 1) or 1
        observed = [(s, since, at[spread_picks(len(at), each)]) for s, since, at in observed]
    kinds = list(dict.fromkeys(panel.look.markers.values()))
    x, y, runs, kind, small = [], [], [], [], []
    texts: list[str] = []
    for s, since, at in observed:
        x.append(s.x[at] - since)
        y.append(s.values[at])
        runs.append(np.full(len(at), numbers[run_id_of(s)], np.int32))
        kind.append(np.full(len(at), kinds.index(panel.look.marker(s)), np.int32))
        is_small = s.is_log or total > _MANY_OF_PANEL or len(at) > _MANY_OF_RUN
        small.append(np.full(len(at), is_small, np.int32))
        texts += _texts(s, at)
    floats, ints = np.empty(0), np.empty(0, np.int32)
    return {
        "point_x": np.concatenate([floats, *x]),
        "point_y": np.concatenate([floats, *y]),
        "point_run": np.concatenate([ints, *runs]),
        "point_kind": np.concatenate([ints, *kind]),
        "point_small": np.concatenate([ints, *small]),
        "point_text": texts,
        "kinds": kinds,
    }


def _texts(segment: Segment, at: npt.NDArray[np.intp]) -> list[str]:
    if segment.counts is not None:
        return [f"mean of {count:.0f}" for count in segment.counts[at].tolist()]
    if not segment.is_base:
        return [""] * len(at)
    steps = (step_of(segment.facts, tokens) for tokens in segment.tokens[at].tolist())
    return [f"step {step}" if step else "" for step in steps]
