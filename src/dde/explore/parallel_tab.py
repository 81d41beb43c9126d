"""Parallel coordinates of runs: an axis for each chosen column, and a line through them for each run."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import panel as pn
from bokeh.models import ColumnDataSource, CustomJS, HoverTool, Range1d
from bokeh.plotting import figure as _bokeh_figure

from dde.explore.columns_tab import TEXT_STYLE, WIDE, ColumnsTab
from dde.explore.run_colours import Coloured
from dde.explore.run_columns import Placed, RunColumns, place
from dde.explore.tabs import Marks, StateReader
from dde.plots.axis_format import log_ticks
from dde.plots.colours import EDGE, INK, NEUTRAL, label_of
from dde.printable import printable

__all__ = ["ParallelTab", "ScaledAxis", "scaled"]

#: Height of runs without a value, below the axis, which reaches from 0 to 1.
MISSING = -0.12
_LONGEST_NAME, _LONGEST_TITLE, _MOST_NAMES, _TICKS = 18, 26, 14, 5
# Lines are fainter the more there are, as the square root of their number.
_STRONGEST, _CROWD = 0.75, 8.0
# Closer labels overlap.
_APART = 0.05
_SOURCES = {
    "lines": ("xs", "ys", "color", "run_id", "name", "c_text"),
    "axes": ("x", "low", "high", "title"),
    "ticks": ("x", "y", "text"),
    "brushes": ("x", "low", "high"),
}
# Prefix of the name of a range in the state, before the name of its column.
_RANGE = "range."
_TOOLTIP = (
    f'<div style="{TEXT_STYLE};max-width:420px"><b>@name</b><br><span style="color:@color">&#9679;</span> @c_text</div>'
)
_HINT = "Drag along an axis to select the runs inside; several axes intersect. Double click removes a range."


class ParallelTab(ColumnsTab):
    """Parallel coordinates of runs.

    Parameters
    ----------
    marks : Marks
        Runs that are hidden are left out; runs inside the ranges are selected, and selected runs stand out.

    Attributes
    ----------
    title : str
    view : Panel viewable
    """

    title = "Parallel"

    def __init__(self, marks: Marks) -> None:
        super().__init__(marks)
        # Whether a column has an axis, for columns that were added or removed; it may name columns that are gone.
        self._chosen: dict[str, bool] = {}
        # Heights between which a person selects runs, by column.
        self._ranges: dict[str, tuple[float, float]] = {}
        self.axes = pn.widgets.MultiChoice(
            label="Axes", options=[], placeholder="type to search", search_option_limit=200, option_limit=200, **WIDE
        )
        self.axes.param.watch(self._on_axes, "value")
        self._sources = {name: ColumnDataSource({c: [] for c in columns}) for name, columns in _SOURCES.items()}
        self._figure, self._lines = _figure(self._sources)
        self._sources["brushes"].on_change("data", lambda attr, old, new: self._on_ranges())
        choices = pn.Row(pn.Column(self.axes, styles={"flex": "1 1 auto", "min-width": "0"}), self.colour, **WIDE)
        self.view = pn.Column(choices, self._note, pn.pane.Bokeh(self._figure, **WIDE), self._legend, **WIDE)

    def _list(self, columns: RunColumns) -> Mapping[str, str]:
        # The widget lists what is chosen in the order of its options, which is that of the axes.
        defaults = columns.axes()
        ordered = list(dict.fromkeys([*defaults, *columns.names()]))
        titles = {name: printable(columns[name].title) for name in ordered}
        chosen = [name for name in ordered if self._chosen.get(name, name in defaults)]
        # Bokeh shows labels of this widget as HTML.
        self.axes.param.update(options={html.escape(t): name for name, t in titles.items()}, value=chosen)
        return titles

    def _restore(self, columns: RunColumns, reader: StateReader) -> None:
        defaults, chosen = columns.axes(), reader.several("axes", columns.names())
        self._chosen = (
            {} if chosen is None else {n: n in chosen for n in columns.names() if (n in chosen) != (n in defaults)}
        )
        self._list(columns)

    def _restore_ranges(self, columns: RunColumns, reader: StateReader) -> None:
        ranges: dict[str, tuple[float, float]] = {}
        for name in self.axes.value:
            text = reader.text(f"{_RANGE}{name}")
            try:
                low, high = map(float, text.split(".."))
                ranges[name] = low, high
            except ValueError:
                if text:
                    reader.unknown[f"{_RANGE}{name}"] = [text]
        self._set_ranges(ranges)
        if ranges:
            self._on_brush(self._sources["lines"], self._inside())
        self._set_state()

    def _axes_state(self, columns: RunColumns) -> dict[str, list[str]]:
        names = list(self.axes.value)
        axes = {} if names == columns.axes() else {"axes": names}
        ranges = {name: self._ranges[name] for name in names if name in self._ranges}
        return axes | {f"{_RANGE}{name}": [f"{low:.6g}..{high:.6g}"] for name, (low, high) in ranges.items()}

    def _on_ranges(self) -> None:
        """Select the runs inside the ranges that a person has drawn."""
        names, data = self.axes.value, self._sources["brushes"].data
        drawn = {names[int(k)]: (low, high) for k, low, high in zip(data["x"], data["low"], data["high"], strict=True)}
        if drawn != self._ranges:
            self._ranges = drawn
            # One message, so that the address changes once.
            with pn.io.hold():
                self._on_brush(self._sources["lines"], self._inside())
                self._set_state()

    def _set_ranges(self, ranges: dict[str, tuple[float, float]]) -> None:
        self._ranges = ranges
        self._sources["brushes"].data = {
            "x": [self.axes.value.index(name) for name in ranges],
            "low": [low for low, _ in ranges.values()],
            "high": [high for _, high in ranges.values()],
        }

    def _inside(self) -> list[int]:
        """Return the positions of the lines that are inside all ranges; none without a range."""
        names = self.axes.value
        heights = np.array(self._sources["lines"].data["ys"], np.float64).reshape(-1, max(len(names), 1))
        inside = np.full(len(heights), bool(self._ranges))
        for name, (low, high) in self._ranges.items():
            at = heights[:, names.index(name)]
            inside &= (at >= low) & (at <= high)
        return [int(k) for k in np.flatnonzero(inside)]

    def _select(self) -> None:
        run_ids = self._sources["lines"].data["run_id"]
        if self._ranges and {run_ids[k] for k in self._inside()} != set(self._marks.selected):
            # The selection was made elsewhere, so that the ranges don't describe it.
            self._set_ranges({})
            self._set_state()
        super()._select()

    def _on_axes(self, event: Any) -> None:
        if not self._is_filling:
            self._chosen |= {name: name in event.new for name in {*event.old} ^ {*event.new}}
            self._draw()

    def _fill(self, columns: RunColumns, is_hidden: npt.NDArray[np.bool_], colours: Coloured) -> str:
        chosen = list(self.axes.value)
        axes = [scaled(place(columns, name)) for name in chosen]
        drawn = np.flatnonzero(~is_hidden)
        # Lines without a colour of their own are drawn first, below the others.
        drawn = drawn[np.argsort([colours.colours[k] != NEUTRAL for k in drawn], kind="stable")]
        heights = np.array([axis.heights for axis in axes]).reshape(len(axes), len(is_hidden)).T[drawn]
        places = list(range(len(axes)))
        self._sources["lines"].data = {
            **self._columns_of_runs(columns, colours, drawn),
            "xs": [places] * len(drawn),
            "ys": heights.tolist(),
        }
        self._lines.glyph.line_alpha = min(_STRONGEST, _CROWD / max(len(drawn), 1) ** 0.5)
        self._sources["axes"].data = {
            "x": places,
            "low": [0.0] * len(axes),
            "high": [1.0] * len(axes),
            "title": [_short(printable(columns[name].title), _LONGEST_TITLE) for name in chosen],
        }
        self._set_ranges({name: ends for name, ends in self._ranges.items() if name in chosen})
        ticks = [(k, height, text) for k, axis in enumerate(axes) for height, text in axis.ticks]
        self._sources["ticks"].data = {name: [tick[at] for tick in ticks] for at, name in enumerate(("x", "y", "text"))}
        limits = self._figure.x_range
        # Room for the title of the last axis.
        if limits.end != len(axes) + 0.2:
            limits.update(start=-0.35, end=len(axes) + 0.2)
        return _HINT if axes else "Choose an axis."

    def _sources_of_runs(self) -> Sequence[ColumnDataSource]:
        return [self._sources["lines"]]


@dataclass(frozen=True)
class ScaledAxis:
    """An axis from 0 to 1.

    Attributes
    ----------
    heights : numpy.ndarray of float64, (runs,)
        From 0 to 1; `MISSING` where a run has no value.
    ticks : list of (float, str)
        Heights with their labels.
    """

    heights: npt.NDArray[np.float64]
    ticks: list[tuple[float, str]]


def scaled(placed: Placed) -> ScaledAxis:
    """Return values scaled to an axis from 0 to 1, with ticks.

    Examples
    --------
    >>> axis = scaled(Placed(np.array([1.0, 100.0, np.nan]), (), ["1", "100", "none"], True, "number"))
    >>> axis.heights.tolist(), axis.ticks[0], axis.ticks[-1]
    ([0.0, 1.0, -0.12], (0.0, '1'), (-0.12, 'none'))
    """
    given = placed.given
    positions = np.log(placed.positions) if placed.log else placed.positions
    if placed.kind == "text":
        low, high = 0.0, float(len(placed.names) - 1)
    elif given.any():
        low, high = float(positions[given].min()), float(positions[given].max())
    else:
        low = high = 0.0

    def height(position: float) -> float:
        return (position - low) / (high - low) if high > low else 0.5

    heights = np.where(given, (positions - low) / (high - low) if high > low else 0.5, MISSING)
    ticks: list[tuple[float, str]] = []
    if placed.kind == "text":
        every = -(-len(placed.names) // _MOST_NAMES) or 1
        shown = list(enumerate(placed.names))[::every]
        ticks = [(height(k), _short(printable(name), _LONGEST_NAME)) for k, name in shown]
    elif given.any() and high == low:
        ticks = [(0.5, _short(placed.texts[int(np.flatnonzero(given)[0])], _LONGEST_NAME))]
    elif placed.kind == "time":
        times = np.linspace(low, high, _TICKS)
        ticks = [(height(t), str(np.datetime64(int(t), "ms").astype("datetime64[m]"))) for t in times]
    elif given.any():
        distinct = np.unique(placed.positions[given])
        if len(distinct) <= _TICKS and np.diff(np.unique(heights[given])).min() > _APART:
            values = distinct.tolist()
        else:
            values = log_ticks(math.exp(low), math.exp(high)) if placed.log else _even_ticks(low, high)
        ticks = [(height(math.log(v) if placed.log else v), label_of(v)) for v in values]
    if not given.all():
        ticks.append((MISSING, "none"))
    return ScaledAxis(heights, ticks)


def _even_ticks(low: float, high: float) -> list[float]:
    """Return a few round numbers between two."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(s for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded, so that a tick at zero is zero.
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _figure(sources: dict[str, ColumnDataSource]) -> tuple[Any, Any]:
    """Return an empty figure, and the renderer of its lines."""
    # Typed by its model, whose constructor has none of the options of axes and tools.
    make: Any = _bokeh_figure
    figure = make(
        height=440,
        min_width=260,
        sizing_mode="stretch_width",
        x_range=Range1d(start=-0.35, end=1),
        y_range=Range1d(start=-0.2, end=1.3),
        tools="save",
        toolbar_location="above",
        output_backend="canvas",
    )
    figure.toolbar.logo = None
    figure.outline_line_color = None
    figure.grid.visible = figure.axis.visible = False
    lines = figure.multi_line(
        xs="xs", ys="ys", line_color="color", line_alpha=0.55, line_width=1.2, source=sources["lines"],
        selection_line_alpha=0.95, selection_line_width=1.8, nonselection_line_alpha=0.07,
    )  # fmt: skip
    figure.segment(x0="x", x1="x", y0="low", y1="high", line_color=EDGE, line_width=1.3, source=sources["axes"])
    figure.text(
        x="x", y=1.05, text="title", angle=0.25, source=sources["axes"], text_color=INK, text_font_size="12px",
        text_font_style="bold", x_offset=-8,
    )  # fmt: skip
    figure.text(
        x="x", y="y", text="text", source=sources["ticks"], text_color=INK, text_font_size="11px", x_offset=5,
        text_baseline="middle", background_fill_color="white", background_fill_alpha=0.72,
    )  # fmt: skip
    # In pixels, since a unit of the axis is wide on a wide page.
    figure.segment(
        x0="x", x1="x", y0="low", y1="high", line_color="#0072B2", line_alpha=0.45, line_width=14,
        source=sources["brushes"],
    )  # fmt: skip
    figure.add_tools(HoverTool(renderers=[lines], tooltips=_TOOLTIP, line_policy="interp", limit=4))
    arguments = {name: sources[name] for name in ("lines", "axes", "brushes")}
    for event, code in (("panstart", _START), ("pan", _DRAG), ("panend", _END), ("doubletap", _REMOVE)):
        figure.js_on_event(event, CustomJS(args=arguments, code=_INSIDE + code))
    return figure, lines


# The axis near a position, and the runs inside all ranges.
_INSIDE = """
const near = (x) => {
  const axis = Math.round(x)
  return Math.abs(x - axis) <= 0.3 && axis >= 0 && axis < axes.data.x.length ? axis : null
}
const inside = () => {
  const {x, low, high} = brushes.data
  const found = []
  if (x.length)
    for (let run = 0; run < lines.data.ys.length; run++) {
      const ys = lines.data.ys[run]
      if (x.every((axis, k) => ys[axis] >= low[k] && ys[axis] <= high[k])) found.push(run)
    }
  return found
}
// Only the ranges at the end of a drag are sent to the server, which selects the same runs.
const put = (changes) => brushes.setv(changes, {sync: false})
const select = (sync) => {
  lines.selected.setv({indices: inside()}, {sync: false})
  if (sync) brushes.setv({data: brushes.data}, {check_eq: false})
}
const without = (axis) => {
  const {x, low, high} = brushes.data
  const keep = Array.from(x.keys()).filter((k) => x[k] !== axis)
  return {x: keep.map((k) => x[k]), low: keep.map((k) => low[k]), high: keep.map((k) => high[k])}
}
"""
_START = """
const axis = near(cb_obj.x)
put({name: axis == null ? "" : JSON.stringify([axis, cb_obj.y])})
"""
_DRAG = """
if (brushes.name) {
  const [axis, from] = JSON.parse(brushes.name)
  const {x, low, high} = without(axis)
  // A range that reaches the end of an axis includes what lies there, whatever the rounding.
  const limits = [Math.min(from, cb_obj.y), Math.max(from, cb_obj.y)]
  put({data: {x: [...x, axis], low: [...low, limits[0]], high: [...high, limits[1]]}})
  select(false)
}
"""
_END = """
if (brushes.name) {
  put({name: ""})
  select(true)
}
"""
_REMOVE = """
const axis = near(cb_obj.x)
const has = axis != null && Array.from(brushes.data.x).includes(axis)
put({data: has ? without(axis) : {x: [], low: [], high: []}})
select(true)
"""
