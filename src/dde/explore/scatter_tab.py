"""A scatter plot of any two columns of the table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import panel as pn
from bokeh.models import (
    BasicTicker,
    BoxSelectTool,
    ColumnDataSource,
    CustomJSTicker,
    CustomJSTickFormatter,
    DatetimeTicker,
    DatetimeTickFormatter,
    FixedTicker,
    HoverTool,
    LassoSelectTool,
    PlainText,
    Range1d,
)
from bokeh.plotting import figure as _bokeh_figure

from dde.explore.columns_tab import TEXT_STYLE, WIDE, ColumnsTab
from dde.explore.run_colours import Coloured
from dde.explore.run_columns import Placed, RunColumns, place
from dde.explore.tabs import Marks, StateReader, value_text
from dde.plots.axis_format import BOKEH_LOG_TICKS, BOKEH_MINOR_LOG_TICKS, BOKEH_TICKS, padded_range
from dde.plots.captions import counted
from dde.plots.colours import EDGE, GRID, INK
from dde.printable import printable

__all__ = ["ScatterTab", "correlation_text"]

# Fewer pairs are in line or not by chance.
_FEWEST_PAIRS = 3
_LONGEST_NAME, _MOST_TICKS = 26, 30
# Two runs of four lines each are the most that a tooltip may have.
_MOST_HOVERED = 2
_SOURCE = ("x", "y", "color", "run_id", "name", "x_text", "y_text", "c_text")
_TOOLTIP = (
    f'<div style="{TEXT_STYLE};max-width:420px"><b>@name</b><br>@x_text<br>@y_text<br>'
    '<span style="color:@color">&#9679;</span> @c_text</div>'
)


class ScatterTab(ColumnsTab):
    """A scatter plot of runs.

    Parameters
    ----------
    marks : Marks
        Runs that are hidden are left out; points that are brushed are selected, and selected runs stand out.

    Attributes
    ----------
    title : str
    view : Panel viewable
    """

    title = "Scatter"

    def __init__(self, marks: Marks) -> None:
        super().__init__(marks)
        self.x = pn.widgets.Select(label="Horizontal", options=[], width=210)
        self.y = pn.widgets.Select(label="Vertical", options=[], width=210)
        # Until a person chooses, the scale of an axis follows from its values.
        self.log_x = pn.widgets.Toggle(label="log horizontally", width=120)
        self.log_y = pn.widgets.Toggle(label="log vertically", width=120)
        self.x.param.watch(self._on_axis, "value")
        self.y.param.watch(self._on_axis, "value")
        self.log_x.param.watch(self._on_choice, "value")
        self.log_y.param.watch(self._on_choice, "value")
        self._figures: dict[tuple[bool, bool], Any] = {}
        self._sources: dict[tuple[bool, bool], ColumnDataSource] = {}
        self._plots = pn.Column(**WIDE)
        choices = pn.FlexBox(self.x, self.y, self.colour, self.log_x, self.log_y, align_items="end")
        self.view = pn.Column(choices, self._note, self._plots, self._legend, **WIDE)

    def _list(self, columns: RunColumns) -> Mapping[str, str]:
        titles = {c.name: printable(c.title) for c in columns.columns}
        for axis, (widget, _) in self._axes().items():
            before = widget.value
            value = before if before in columns else _default(columns, axis)
            widget.param.update(options={title: name for name, title in titles.items()}, value=value)
            if before != value:
                self._follow(columns, axis)
        return titles

    def _axes(self) -> dict[str, tuple[Any, Any]]:
        """Return the widgets of each axis: its column, and whether it is logarithmic."""
        return {"x": (self.x, self.log_x), "y": (self.y, self.log_y)}

    def _restore(self, columns: RunColumns, reader: StateReader) -> None:
        for axis, (widget, log) in self._axes().items():
            widget.value = reader.one(axis, columns.names()) or _default(columns, axis)
            self._follow(columns, axis)
            is_log = reader.flag(f"log_{axis}")
            if is_log is not None and not log.disabled:
                log.value = is_log

    def _axes_state(self, columns: RunColumns) -> dict[str, list[str]]:
        state: dict[str, list[str]] = {}
        for axis, (widget, log) in self._axes().items():
            if widget.value != _default(columns, axis):
                state[axis] = [widget.value]
            if not log.disabled and log.value != place(columns, widget.value).log:
                state[f"log_{axis}"] = [value_text(log.value)]
        return state

    def _follow(self, columns: RunColumns, axis: str) -> None:
        """Set the logarithmic axis as the values of a column suggest."""
        widget, log = self._axes()[axis]
        placed = place(columns, widget.value)
        log.param.update(value=placed.log, disabled=placed.kind != "number")

    def _on_axis(self, event: Any) -> None:
        if not self._is_filling and self._columns is not None and event.new is not None:
            with self._filling():
                self._follow(self._columns, "x" if event.obj is self.x else "y")
            self._draw()

    def _fill(self, columns: RunColumns, is_hidden: npt.NDArray[np.bool_], colours: Coloured) -> str:
        x = place(columns, self.x.value, self.log_x.value)
        y = place(columns, self.y.value, self.log_y.value)
        drawn = np.flatnonzero(x.given & y.given & ~is_hidden)
        titles = [printable(columns[name].title) for name in (self.x.value, self.y.value)]
        data: dict[str, Any] = {
            **self._columns_of_runs(columns, colours, drawn),
            "x": _apart(x, drawn),
            "y": _apart(y, drawn),
            "x_text": [f"{titles[0]}: {printable(x.texts[k])}" for k in drawn],
            "y_text": [f"{titles[1]}: {printable(y.texts[k])}" for k in drawn],
        }
        kind = x.log, y.log
        if kind not in self._figures:
            self._add(kind)
        for other, figure in self._figures.items():
            figure.visible = other == kind
            if other != kind:
                self._sources[other].data = {name: [] for name in _SOURCE}
        figure = self._figures[kind]
        for placed, axis, limits, title in (
            (x, figure.xaxis[0], figure.x_range, titles[0]),
            (y, figure.yaxis[0], figure.y_range, titles[1]),
        ):
            _set_axis(axis, limits, placed, drawn, title)
        self._sources[kind].data = data
        note = correlation_text(columns, self.x.value, self.y.value, ~is_hidden)
        # The correlation counts runs without a value, so they are counted once.
        all_counted = note and not (x.log or y.log)
        return " ".join(filter(None, [note, "" if all_counted else _left_out(x, y, ~is_hidden)]))

    def _add(self, kind: tuple[bool, bool]) -> None:
        figure, source = _figure(*kind)
        self._figures[kind], self._sources[kind] = figure, source
        source.selected.on_change("indices", lambda attr, old, new: self._on_brush(source, new))
        self._plots.append(pn.pane.Bokeh(figure, **WIDE))

    def _sources_of_runs(self) -> Sequence[ColumnDataSource]:
        return list(self._sources.values())


def _default(columns: RunColumns, axis: str) -> str:
    """Return the column that an axis has until a person chooses another."""
    metrics = columns.names("metric")
    factors = [name for name in columns.axes() if name not in metrics]
    starts = [*metrics[1:2], *factors] if axis == "x" else metrics
    return next(name for name in (*starts, "end_tokens", "run") if name in columns)


def correlation_text(columns: RunColumns, x: str, y: str, among: npt.NDArray[np.bool_]) -> str:
    """Return Spearman's and Pearson's correlation of two columns in a sentence; "" unless both are numbers.

    Parameters
    ----------
    columns : RunColumns
    x, y : str
        Names of columns.
    among : numpy.ndarray of bool, (runs,)
        Runs that count.

    Examples
    --------
    >>> import pandas as pd
    >>> from dde.explore.run_columns import RunColumn
    >>> columns = RunColumns(
    ...     pd.DataFrame({"a": [1.0, 2.0, 3.0, float("nan")], "b": [1.0, 4.0, 9.0, 2.0]}),
    ...     tuple(RunColumn(name, name, "", "number", "other", False, True) for name in "ab"),
    ... )
    >>> correlation_text(columns, "a", "b", np.ones(4, bool))
    'Spearman 1.000, Pearson 0.990 of values, not logarithms; n = 3 runs, 1 without one of the values.'
    """
    if columns[x].kind != "number" or columns[y].kind != "number":
        return ""
    pairs = columns.frame[[x]].assign(other=columns.frame[y]).to_numpy(np.float64)[among]
    finite = np.isfinite(pairs).all(axis=1)
    first, second = pairs[finite].T
    without = int((~finite).sum())
    left = f", {without} without one of the values" if without else ""
    if len(first) < _FEWEST_PAIRS:
        return f"No correlation: {counted(len(first), 'run')} with both values{left}."
    if x == y or np.ptp(first) == 0 or np.ptp(second) == 0:
        constant = columns[x if np.ptp(first) == 0 else y].title
        why = "both axes are the same" if x == y else f"{printable(constant)} is the same in all"
        return f"No correlation: {why}, n = {counted(len(first), 'run')}{left}."
    # Not by scipy.stats, whose import takes longer than the first drawing of the page.
    linear = np.corrcoef(first, second)[0, 1]
    rank = np.corrcoef(pd.Series(first).rank(), pd.Series(second).rank())[0, 1]
    return (
        f"Spearman {rank:.3f}, Pearson {linear:.3f} of values, not logarithms; n = {counted(len(first), 'run')}{left}."
    )


def _left_out(x: Placed, y: Placed, among: npt.NDArray[np.bool_]) -> str:
    """Return how many runs have no place in the picture, and why; "" for none."""
    left = int((~(x.given & y.given) & among).sum())
    if not left:
        return ""
    why = ", infinite, or not positive on a logarithmic axis" if x.log or y.log else " or infinite"
    return f"{counted(left, 'run')} not drawn: a value is missing{why}."


def _apart(placed: Placed, drawn: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Return positions to draw; runs of the same text are spread, always in the same way."""
    positions = placed.positions[drawn]
    if placed.kind != "text":
        return positions
    # Multiples of the golden ratio fill an interval evenly, however many there are.
    return positions + ((drawn * 0.6180339887) % 1 - 0.5) * 0.5


def _set_axis(axis: Any, limits: Any, placed: Placed, drawn: npt.NDArray[np.intp], title: str) -> None:
    """Set range, label and ticks; only what changes, so that a zoom stays."""
    if placed.kind == "text":
        start, end = -0.6, max(len(placed.names), 1) - 0.4
    else:
        start, end = padded_range(placed.positions[drawn], log=placed.log) or (1.0, 10.0)
    if (limits.reset_start, limits.reset_end) != (start, end):
        limits.update(start=start, end=end, reset_start=start, reset_end=end)
    if axis.tags == [title, placed.kind, *placed.names]:
        return
    axis.tags = [title, placed.kind, *placed.names]
    # Other labels may be typeset as formulas.
    axis.axis_label = PlainText(text=title)
    axis.major_label_orientation = "horizontal"
    if placed.kind == "text":
        every = -(-len(placed.names) // _MOST_TICKS) or 1
        axis.ticker = FixedTicker(ticks=list(range(0, len(placed.names), every)))
        names = [n if len(n) <= _LONGEST_NAME else f"{n[: _LONGEST_NAME - 1]}…" for n in map(printable, placed.names)]
        axis.formatter = CustomJSTickFormatter(args={"names": names}, code="return names[tick] ?? ''")
        if axis.dimension == 0 and len(names) > 4:
            axis.major_label_orientation = 0.6
    elif placed.kind == "time":
        axis.ticker, axis.formatter = DatetimeTicker(), DatetimeTickFormatter()
    else:
        axis.formatter = CustomJSTickFormatter(code=BOKEH_TICKS, args={"is_linear": not placed.log})
        axis.ticker = (
            CustomJSTicker(major_code=BOKEH_LOG_TICKS, minor_code=BOKEH_MINOR_LOG_TICKS)
            if placed.log
            else BasicTicker(desired_num_ticks=6)
        )


def _figure(log_x: bool, log_y: bool) -> tuple[Any, ColumnDataSource]:
    """Return an empty figure and its source."""
    # Typed by its model, whose constructor has none of the options of axes and tools.
    make: Any = _bokeh_figure
    figure = make(
        height=460,
        min_width=260,
        sizing_mode="stretch_width",
        x_axis_type="log" if log_x else "linear",
        y_axis_type="log" if log_y else "linear",
        x_range=Range1d(start=1, end=10),
        y_range=Range1d(start=1, end=10),
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        output_backend="canvas",
    )
    figure.toolbar.logo = None
    figure.outline_line_color = None
    figure.grid.grid_line_color = GRID
    for axis in figure.axis:
        axis.axis_line_color = axis.major_tick_line_color = EDGE
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_label_text_font_size = "10pt"
        axis.major_label_text_font_size = "9pt"
    source = ColumnDataSource({name: [] for name in _SOURCE})
    look = {"marker": "circle", "fill_color": "color"}
    points = figure.scatter(
        x="x", y="y", source=source, size=8, fill_alpha=0.75, line_color="white", line_width=0.6,
        selection_line_color=INK, selection_line_width=1.6, selection_fill_alpha=1.0,
        nonselection_fill_alpha=0.22, nonselection_line_alpha=0.1, **look,
    )  # fmt: skip
    box = BoxSelectTool(renderers=[points], description="Select the runs inside a box")
    lasso = LassoSelectTool(renderers=[points], description="Select the runs inside a line")
    hover = HoverTool(renderers=[points], tooltips=_TOOLTIP, limit=_MOST_HOVERED)
    figure.add_tools(box, lasso, "tap", hover)
    figure.toolbar.active_drag = box
    return figure, source
