"""One panel of a picture: lines, points, connections and marks of some segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dde.plots.axes import short_number
from dde.plots.backends import Backend, Place
from dde.plots.colours import INK, NEUTRAL, is_given, label_of
from dde.plots.segments import OBSERVED, Segment

__all__ = [
    "OF_LINEAGE",
    "Axis",
    "Frame",
    "LegendEntry",
    "Look",
    "Panel",
    "legend_of",
    "value_of",
    "x_values",
    "y_values",
]

# A stretch with more observations than this is a training log: its points are drawn small.
_DENSE = 48
# Interpolated cells of a stretch that answer to the pointer. All of them would make the page heavy.
_ANSWERING = 48

#: Coordinates that a base has as well. Its row may be shown by a derived run, in whose others it has no part.
OF_LINEAGE = frozenset({"lineage", "params", "data", "seed", "seed_name", "n_params", "recipe_family"})

_KINDS = {"supervised_ft": "supervised finetuning", "dpo": "DPO", "pretraining": "pretraining"}


@dataclass(frozen=True)
class Axis:
    """An axis: its name, equal for axes that move together, and its label."""

    name: str
    label: str


@dataclass(frozen=True)
class LegendEntry:
    """An entry of the legend: a line, or a marker, with its options."""

    label: str
    options: Mapping[str, Any]
    is_marker: bool = False

    def draw(self, hv: Any, dims: list[Any]) -> Any:
        """Return an element that shows nothing but its entry in the legend."""
        element = (
            hv.Points([(np.nan, np.nan)], dims, label=self.label) if self.is_marker else _nothing(hv, dims, self.label)
        )
        return element.opts(**self.options)


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
    """

    hue_by: str
    style_by: str
    colours: Mapping[Any, str]
    markers: Mapping[Any, str]
    hue_label: str

    def colour(self, segment: Segment) -> str:
        """Return the colour of a segment."""
        # What trained the base has no value of the sweep, also where another run's row shows it.
        return self.colours.get(value_of(segment, self.hue_by), NEUTRAL)

    def marker(self, segment: Segment) -> str:
        """Return the marker of a segment's observations."""
        return self.markers[value_of(segment, self.style_by)]


@dataclass(frozen=True)
class Frame:
    """What a panel shows of its segments.

    Attributes
    ----------
    x, y : Axis
    since_branch : bool
        Count x from where the chain of runs left its base.
    x_range, y_range : tuple of float, or None
    window : tuple of four floats, or None
        Left, bottom, right, top of what another panel shows enlarged.
    """

    x: Axis
    y: Axis
    since_branch: bool = False
    log_x: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    window: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """A panel before it is drawn; its parts can be counted without a backend.

    Attributes
    ----------
    segments : sequence of Segment
    look : Look
    frame : Frame
    title : str
    """

    segments: Sequence[Segment]
    look: Look
    frame: Frame
    title: str = ""
    mark_branches: bool = True

    def placed(self) -> list[tuple[Segment, float]]:
        """Return the segments with where x is counted from; a base up to each branch of its runs."""
        if not self.frame.since_branch:
            return [(s, 0.0) for s in self.segments]
        derived = [(s, s.origin) for s in self.segments if not s.is_base]
        lineages = {(str(s.facts["lineage"]), origin) for s, origin in derived}
        bases = [
            (s.until(origin), origin)
            for s in self.segments
            if s.is_base
            for lineage, origin in sorted(lineages)
            if lineage == s.facts["lineage"]
        ]
        return bases + derived

    def draw(self, backend: Backend, place: Place, legend: Sequence[LegendEntry] = ()) -> Any:
        """Return the panel as an overlay of HoloViews elements."""
        import holoviews as hv

        dims = [hv.Dimension(axis.name) for axis in (self.frame.x, self.frame.y)]
        # Names the axes, which the first element does, and the marks that follow don't.
        elements: list[Any] = [_nothing(hv, dims), *(entry.draw(hv, dims) for entry in legend)]
        if self.frame.window is not None:
            elements.append(hv.Rectangles([self.frame.window]).opts(**backend.window()))
        if self.mark_branches:
            # One by one: HoloViews' element of many lines writes its labels on the first panel of a figure.
            elements += [hv.VLine(at).opts(**backend.branch()) for at in self.branches()]
        for (colour, _), group in _grouped(self.placed(), lambda s: (self.look.colour(s), s.is_base)):
            lines = [line for s, since in group for line in s.lines(since)]
            if lines:
                elements.append(hv.Path(lines, dims).opts(**backend.line(colour)))
            joints = [
                ([s.anchor[0] - since, s.x[0] - since], [s.anchor[1], s.values[0]]) for s, since in group if s.anchor
            ]
            if joints:
                elements.append(hv.Path(joints, dims).opts(**backend.line(colour, dashed=True)))
        elements += self._points(hv, dims, backend)
        frame = {
            # Bokeh loses the x label of a figure without a title, beside one with a title.
            "title": self.title or "\N{NO-BREAK SPACE}",
            "xlabel": self.frame.x.label,
            "ylabel": self.frame.y.label,
            "logx": self.frame.log_x,
            "show_legend": bool(legend),
            # HoloViews drops a legend where elements, not entries, are many.
            "legend_limit": 10_000,
            "show_grid": True,
            **({"xlim": self.frame.x_range} if self.frame.x_range else {}),
            **({"ylim": self.frame.y_range} if self.frame.y_range else {}),
        }
        panel = backend.panel(place, self.look.hue_label if legend else "", self.frame.log_x)
        return hv.Overlay(elements).opts(hv.opts.Overlay(**frame, **panel))

    def branches(self) -> list[float]:
        """Return where on the axis runs branch off."""
        if self.frame.since_branch:
            return [0.0] if any(not s.is_base for s in self.segments) else []
        return sorted({s.start for s in self.segments if np.isfinite(s.start)})

    def _points(self, hv: Any, dims: list[Any], backend: Backend) -> list[Any]:
        names = [dim.name for dim in dims]
        fields = ["run", "run_id", "tokens", "support"]
        tooltips = [
            ("run", "@run"),
            ("run id", "@run_id"),
            ("tokens", "@tokens"),
            (self.frame.y.label, f"@{{{names[1]}}}{{0.0000}}"),
            ("support", "@support"),
        ]
        elements = []
        groups = _grouped(self.placed(), lambda s: (self.look.colour(s), self.look.marker(s), _is_dense(s)))
        for (colour, marker, dense), group in groups:
            rows = [row for s, since in group for row in _cells(s, since, s.support == OBSERVED)]
            if rows:
                points = hv.Points(rows, dims, fields)
                elements.append(points.opts(**backend.points(colour, marker, dense, tooltips)))
        if backend.hovers:
            rows = [row for s, since in self.placed() for row in _cells(s, since, _answering(s))]
            if rows:
                elements.append(hv.Points(rows, dims, fields).opts(**backend.unseen(tooltips)))
        return elements


def legend_of(panels: Iterable[Panel], backend: Backend) -> list[LegendEntry]:
    """Return the entries of the one legend that panels with a common look share."""
    panels = list(panels)
    look, segments = panels[0].look, [s for p in panels for s in p.segments]
    entries = [LegendEntry(label_of(value), backend.line(colour)) for value, colour in look.colours.items()]
    plain = dict.fromkeys(label_of(s.kind, _KINDS) for s in segments if look.colour(s) == NEUTRAL)
    if plain:
        entries.append(LegendEntry(", ".join(plain), backend.line(NEUTRAL)))
    if len(set(look.markers.values())) > 1:
        entries += [
            LegendEntry(label_of(value, _KINDS), backend.points(INK, marker, False, ()), is_marker=True)
            for value, marker in look.markers.items()
            if is_given(value) and label_of(value, _KINDS) not in plain
        ]
    if any(s.anchor for s in segments):
        entries.append(LegendEntry("no data between", backend.line(INK, dashed=True)))
    if any(p.mark_branches and p.branches() for p in panels):
        entries.append(LegendEntry("branch", backend.branch()))
    return entries


def y_values(panel_segments: Iterable[tuple[Segment, float]], low: float, high: float) -> list[float]:
    """Return the values that a panel from `low` to `high` shows."""
    found: list[float] = []
    for s, since in panel_segments:
        x = s.x - since
        found += s.values[(x >= low) & (x <= high)].tolist()
        if s.anchor and low <= s.anchor[0] - since <= high:
            found.append(s.anchor[1])
    return found


def x_values(panel_segments: Iterable[tuple[Segment, float]]) -> list[float]:
    """Return all places of segments along x."""
    return [x for s, since in panel_segments for x in (s.x - since).tolist()]


def _nothing(hv: Any, dims: list[Any], label: str = "") -> Any:
    return hv.Curve([(np.nan, np.nan)], *dims, label=label)


def value_of(segment: Segment, coordinate: str) -> Any:
    """Return a segment's value of a coordinate; "" where it has none."""
    if coordinate == "checkpoint_type":
        return segment.kind
    if not coordinate or (segment.is_base and coordinate not in OF_LINEAGE):
        return ""
    value = segment.facts[coordinate]
    return value if is_given(value) else ""


def _is_dense(segment: Segment) -> bool:
    return segment.is_log or int((segment.support == OBSERVED).sum()) > _DENSE


def _answering(segment: Segment) -> Any:
    between = np.flatnonzero(segment.support != OBSERVED)
    mask = np.zeros(len(segment.x), bool)
    if len(between):
        mask[between[np.unique(np.linspace(0, len(between) - 1, min(len(between), _ANSWERING)).astype(int))]] = True
    return mask


def _cells(segment: Segment, since: float, mask: Any) -> list[tuple[Any, ...]]:
    run = str(segment.facts.get("run", "")) if not segment.is_base else "pretraining"
    run_id = segment.run_id if not segment.is_base else str(segment.facts.get("lineage", segment.run_id))
    return [
        (x - since, value, run, run_id, short_number(tokens), "observed" if support == OBSERVED else "interpolated")
        for x, value, tokens, support in zip(
            segment.x[mask], segment.values[mask], segment.tokens[mask], segment.support[mask], strict=True
        )
    ]


def _grouped(placed: Iterable[tuple[Segment, float]], key: Any) -> list[tuple[Any, list[tuple[Segment, float]]]]:
    groups: dict[Any, list[tuple[Segment, float]]] = {}
    for segment, since in placed:
        groups.setdefault(key(segment), []).append((segment, since))
    return list(groups.items())
