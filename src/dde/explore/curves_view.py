"""Curves on the page: Bokeh figures that are made once, and the list of runs beside them.

A choice sends the columns of its panels in one message; ``curves_view.js`` cuts them into lines and patches the
sources of the figures. What is hidden, selected or pointed at is decided in the browser.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import panel as pn
import param
from bokeh.models import (
    BoxSelectTool,
    ColumnDataSource,
    CustomJSTicker,
    CustomJSTickFormatter,
    Range1d,
)
from bokeh.plotting import figure as _bokeh_figure
from panel.viewable import Children

from dde.explore.tabs import Marks, State
from dde.plots.axis_format import BOKEH_LOG_TICKS, BOKEH_MINOR_LOG_TICKS, BOKEH_TICKS
from dde.plots.colours import EDGE, GRID, INK, WINDOW
from dde.plots.columns import PanelColumns, RunLook

__all__ = ["CurvesView"]

# Kinds of the axes of a figure: Bokeh can't change the scale of an axis.
Kind = tuple[bool, bool]

_HEIGHT = 320
# Columns of each source, by the name of its renderer.
_SOURCES = {
    "window": ("left", "bottom", "right", "top"),
    "zero": ("y",),
    "branches": ("x",),
    "bands": ("xs", "ys", "color", "alpha"),
    "lines": ("xs", "ys", "color", "width", "alpha", "dash"),
    "points": ("x", "y", "color", "marker", "size", "alpha", "edge", "run_id"),
}


class CurvesView(pn.custom.JSComponent):
    """Panels of curves with a list of runs.

    Attributes
    ----------
    figures : list of Bokeh figures
        The pool: as many of each kind as were needed so far.
    payload : dict
        What is drawn: ``panels``, columns with the position of their figure; ``looks`` of runs; ``hue_label``;
        ``caption``; and ``version``, which counts drawings. Panels whose figures show these columns already have none.
    missing : int
        Version of a drawing of which a page does not have all columns; it gets them.
    zoomed : dict of str to list of float
        Ranges to which a person zoomed, by ``x.`` or ``y.`` and the name of the axis.
    hidden, selected, baseline, opened
        As of :class:`dde.explore.tabs.Marks`.
    address : str
        Address that a person went back or forward to: the number of such returns, and its query from ``?`` on.
    """

    figures = Children(default=[])
    payload = param.Dict(default={})
    missing = param.Integer(default=0)
    zoomed = param.Dict(default={})
    hidden = param.List(default=[])
    selected = param.List(default=[])
    baseline = param.String(default="")
    opened = param.String(default="")
    address = param.String(default="")

    # New figures join the others; the page is not made again for them.
    _render_policy = "manual"
    _esm = "".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("run_lists.js", "curves_view.js"))
    _stylesheets: ClassVar[list[str]] = [Path(__file__).with_suffix(".css").read_text()]

    def __init__(self, marks: Marks, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", **params)  # type: ignore[no-untyped-call]
        self._kinds: list[Kind] = []
        # Columns of each figure by its position, as they were sent last.
        self._sent: dict[int, PanelColumns] = {}
        self._spare: dict[Kind, list[Any]] = {}
        self._version = 0
        self._complete: dict[str, Any] = {}
        # Whether each axis that is drawn is logarithmic, by its name in `zoomed`.
        self._axes: dict[str, bool] = {}
        self.param.watch(lambda _: self.param.update(payload=self._complete), "missing")
        for name in ("hidden", "selected", "baseline", "opened"):
            setattr(self, name, getattr(marks, name))
            self.param.watch(lambda event, name=name: setattr(marks, name, event.new), name)
            marks.param.watch(lambda event, name=name: setattr(self, name, event.new), name)

    def make_figures(self, panels: Sequence[PanelColumns]) -> None:
        """Create the figures that panels need and that the pool does not have; in any thread."""
        needed = Counter((columns.log_x, columns.log_y) for columns in panels)
        for kind, count in needed.items():
            spare = self._spare.setdefault(kind, [])
            spare += [_figure(*kind) for _ in range(count - self._kinds.count(kind) - len(spare))]

    def draw(self, panels: Sequence[PanelColumns], looks: Sequence[RunLook], hue_label: str, caption: str) -> None:
        """Draw panels in the figures of the pool.

        Parameters
        ----------
        panels : sequence of PanelColumns
        looks : sequence of RunLook
            Of the runs to which the columns refer by number.
        hue_label : str
            Title of the list of runs.
        caption : str
            What the panels show.
        """
        used: dict[int, PanelColumns] = {}
        made: list[Any] = []
        for columns in panels:
            kind = columns.log_x, columns.log_y
            free = [k for k, of in enumerate(self._kinds) if of == kind and k not in used]
            if not free:
                self._kinds.append(kind)
                made.append(self._spare[kind].pop() if self._spare.get(kind) else _figure(*kind))
                free = [len(self._kinds) - 1]
            # One that shows these columns already, if there is one.
            used[next((k for k in free if self._sent.get(k) is columns), free[0])] = columns
        self._axes = {f"x.{c.x_name}": c.log_x for c in panels} | {f"y.{c.y_name}": c.log_y for c in panels}
        self._version += 1
        drawing = {
            "looks": [asdict(look) for look in looks],
            "hue_label": hue_label,
            "caption": caption,
            "version": self._version,
        }
        panels_by_figure = {k: columns.as_message() | {"figure": k} for k, columns in used.items()}
        self._complete = drawing | {"panels": list(panels_by_figure.values())}
        changed = [p if self._sent.get(k) is not used[k] else {"figure": k} for k, p in panels_by_figure.items()]
        self._sent |= used
        # One message, so that the page never has a panel without its figure.
        with pn.io.hold():
            if made:
                self.figures = [*self.figures, *(pn.pane.Bokeh(f, sizing_mode="stretch_width") for f in made)]
            self.payload = drawing | {"panels": changed}

    def _get_model(self, *args: Any, **kwargs: Any) -> Any:
        # A page that is made now has no columns yet.
        with param.parameterized.discard_events(self):
            self.payload = self._complete
        return super()._get_model(*args, **kwargs)

    @property
    def state(self) -> State:
        """The ranges of axes that are drawn, for the address of the page."""
        return {
            name: ["..".join(repr(float(end)).removesuffix(".0") for end in (low, high))]
            for name, (low, high) in self.zoomed.items()
            if name in self._axes and _fits(low, high, self._axes[name])
        }

    def restore(self, state: State) -> State:
        """Zoom as a state says, and show all of the other axes; return what can't be shown. Called after :meth:`draw`.

        Examples
        --------
        >>> view = CurvesView(Marks())
        >>> view.restore({"x.post_tokens": ["0..1e9"]})
        {'x.post_tokens': ['0..1e9']}
        """
        zoomed: dict[str, list[float]] = {}
        unknown: dict[str, Sequence[str]] = {}
        for name, texts in state.items():
            try:
                low, high = map(float, texts[-1].split(".."))
            except ValueError:
                low = high = 0.0
            if name in self._axes and _fits(low, high, self._axes[name]):
                zoomed[name] = [low, high]
            else:
                unknown[name] = texts
        self.zoomed = zoomed
        return unknown


def _fits(low: float, high: float, is_log: bool) -> bool:
    """Return whether an axis can show a range."""
    return math.isfinite(high - low) and low < high and (low > 0 or not is_log)


def _figure(log_x: bool, log_y: bool) -> Any:
    """Return an empty figure with a source for each kind of mark."""
    # Typed by its model, whose constructor has none of the options of axes and tools.
    make: Any = _bokeh_figure
    figure = make(
        height=_HEIGHT,
        min_width=200,
        sizing_mode="stretch_width",
        x_axis_type="log" if log_x else "linear",
        y_axis_type="log" if log_y else "linear",
        x_range=Range1d(start=1, end=10),
        y_range=Range1d(start=1, end=10),
        title=" ",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        output_backend="canvas",
        # The page paints it once it is filled.
        hold_render=True,
    )
    figure.toolbar.autohide = True
    figure.toolbar.logo = None
    sources = {name: ColumnDataSource({c: [] for c in columns}) for name, columns in _SOURCES.items()}
    figure.quad(
        left="left", bottom="bottom", right="right", top="top", fill_color=WINDOW, line_color="#c5cbd6",
        source=sources["window"], name="window",
    )  # fmt: skip
    figure.hspan(y="y", line_color=INK, line_alpha=0.8, source=sources["zero"], name="zero")
    figure.vspan(x="x", line_color=INK, line_dash="dotted", line_alpha=0.7, source=sources["branches"], name="branches")
    figure.patches(
        xs="xs", ys="ys", fill_color="color", fill_alpha="alpha", line_color=None, source=sources["bands"],
        name="bands",
    )  # fmt: skip
    figure.multi_line(
        xs="xs", ys="ys", line_color="color", line_width="width", line_alpha="alpha", line_dash="dash",
        source=sources["lines"], name="lines",
    )  # fmt: skip
    points = figure.scatter(
        x="x", y="y", marker="marker", size="size", fill_color="color", line_color="edge", line_width=0.6,
        fill_alpha="alpha", line_alpha="alpha", source=sources["points"], name="points",
    )  # fmt: skip
    points.nonselection_glyph = points.glyph
    figure.add_tools(BoxSelectTool(renderers=[points], description="Select the runs of the points inside"))
    _style(figure, log_x, log_y)
    # The page fills these models itself; sent back, its typed arrays would be an error, and its titles an echo.
    models = [figure, figure.title, figure.x_range, figure.y_range, *figure.axis, *sources.values()]
    for model in [*models, *(source.selected for source in sources.values())]:
        model.syncable = False
    return figure


def _style(figure: Any, log_x: bool, log_y: bool) -> None:
    """Set colours, tickers and formats as in the pictures of ``ds.dde.plot``."""
    figure.outline_line_color = None
    figure.title.text_color = INK
    figure.title.text_font_size = "11pt"
    figure.grid.grid_line_color = GRID
    for axis, is_log, grid in ((figure.xaxis[0], log_x, figure.xgrid[0]), (figure.yaxis[0], log_y, figure.ygrid[0])):
        axis.axis_line_color = axis.major_tick_line_color = EDGE
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_label_text_font_size = "10pt"
        axis.major_label_text_font_size = "9pt"
        if is_log:
            axis.ticker = CustomJSTicker(major_code=BOKEH_LOG_TICKS, minor_code=BOKEH_MINOR_LOG_TICKS)
            axis.minor_tick_line_color = EDGE
            grid.ticker = axis.ticker
        elif axis is figure.xaxis[0]:
            axis.ticker.desired_num_ticks = 5
        axis.formatter = CustomJSTickFormatter(code=BOKEH_TICKS, args={"is_linear": not is_log})
