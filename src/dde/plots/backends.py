"""The same picture in the words of each backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dde.errors import UnknownNameError, near_names
from dde.plots.axes import BOKEH_TICKS, short_number
from dde.plots.colours import INK

__all__ = ["Backend", "BackendName", "Place", "backend_of"]

BackendName = Literal["bokeh", "matplotlib"]
Options = dict[str, Any]

_GRID = "#e8eaee"
_WINDOW = "#eef1f6"


@dataclass(frozen=True)
class Place:
    """Where a panel stands among the others, all of one `size` in pixels."""

    size: tuple[int, int]
    row: int
    column: int
    rows: int
    columns: int

    # A frame of 330 pixels is 3.1 inches wide: three of them with their labels fill a page across.
    _per_inch = 106
    # Room beside and below a frame for what is written there, in inches.
    _beside, _below = 0.75, 0.92

    def _cell_inches(self) -> tuple[float, float]:
        return self.size[0] / self._per_inch + self._beside, self.size[1] / self._per_inch + self._below

    def figure_inches(self) -> tuple[float, float]:
        """Return width and height of the figure of all panels."""
        width, height = self._cell_inches()
        return self.columns * width, self.rows * height

    def frame_inches(self) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of the frame, in inches from the figure's upper left corner."""
        width, height = self._cell_inches()
        return (
            self.column * width + self._beside,
            -(self.row + 1) * height + 0.6 * self._below,
            width - self._beside,
            height - self._below,
        )


class Backend(Protocol):
    """Options of elements and panels, which HoloViews passes on to the backend as they are."""

    name: BackendName
    #: Whether a cell can be looked at with the pointer.
    hovers: bool

    def line(self, colour: str, dashed: bool = False) -> Options:
        """Return options of a line; a dashed one stands for what the data does not hold."""
        ...

    def points(self, colour: str, marker: str, dense: bool, tooltips: Sequence[tuple[str, str]]) -> Options:
        """Return options of observed points; smaller where there are many."""
        ...

    def unseen(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        """Return options of points that show only what they are when pointed at."""
        ...

    def branch(self) -> Options:
        """Return options of the lines that mark branch points."""
        ...

    def window(self) -> Options:
        """Return options of the rectangle that another panel shows enlarged."""
        ...

    def panel(self, place: Place, legend: str, log_x: bool) -> Options:
        """Return options of a panel; `legend` is the title of its legend, "" for none."""
        ...

    def layout(self, place: Place) -> Options:
        """Return options of all panels together."""
        ...


class _Bokeh:
    name: BackendName = "bokeh"
    hovers = True

    def line(self, colour: str, dashed: bool = False) -> Options:
        dash = {"line_dash": "dashed", "line_width": 1.2} if dashed else {"line_width": 1.5}
        return {"color": colour, "alpha": 0.9, **dash}

    def points(self, colour: str, marker: str, dense: bool, tooltips: Sequence[tuple[str, str]]) -> Options:
        look = {"size": 3, "line_color": None} if dense else {"size": 7, "line_color": "white", "line_width": 0.6}
        return {"fill_color": colour, "marker": marker, "tools": [_hover(tooltips)] if tooltips else [], **look}

    def unseen(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        return {"size": 6, "alpha": 0, "hover_alpha": 0.6, "tools": [_hover(tooltips)], "color": INK}

    def branch(self) -> Options:
        return {"color": INK, "line_dash": "dotted", "line_width": 1, "alpha": 0.7}

    def window(self) -> Options:
        return {"color": _WINDOW, "line_color": "#c5cbd6", "line_width": 0.8}

    def panel(self, place: Place, legend: str, log_x: bool) -> Options:
        from bokeh.models import CustomJSTickFormatter

        options: Options = {
            "frame_width": place.size[0],
            "frame_height": place.size[1],
            "xformatter": CustomJSTickFormatter(code=BOKEH_TICKS),
            "toolbar": "above",
            "hooks": [_style_bokeh],
            "fontsize": {"title": "11pt", "labels": "10pt", "ticks": "9pt", "legend": "9pt"},
        }
        if legend:
            options |= {"legend_position": "right", "legend_opts": {"title": legend, "border_line_color": None}}
        return options

    def layout(self, place: Place) -> Options:
        return {"shared_axes": True, "merge_tools": True}


class _Matplotlib:
    name: BackendName = "matplotlib"
    hovers = False

    def line(self, colour: str, dashed: bool = False) -> Options:
        dash = {"linestyle": (0, (4, 3)), "linewidth": 1.0} if dashed else {"linewidth": 1.2}
        return {"color": colour, "alpha": 0.9, **dash}

    def points(self, colour: str, marker: str, dense: bool, tooltips: Sequence[tuple[str, str]]) -> Options:
        look = {"s": 4, "edgecolors": "none"} if dense else {"s": 26, "edgecolors": "white", "linewidth": 0.5}
        return {"facecolors": colour, "marker": marker, **look}

    def unseen(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        return {"alpha": 0.0}

    def branch(self) -> Options:
        return {"color": INK, "linestyle": "dotted", "linewidth": 0.9, "alpha": 0.7}

    def window(self) -> Options:
        return {"facecolor": _WINDOW, "edgecolor": "#c5cbd6", "linewidth": 0.8}

    def panel(self, place: Place, legend: str, log_x: bool) -> Options:
        options: Options = {
            "aspect": place.size[0] / place.size[1],
            "hooks": [_style_matplotlib(place, legend, log_x)],
            "fontsize": {"title": 11, "labels": 9.5, "xticks": 8.5, "yticks": 8.5, "legend": 8.5},
        }
        return options | ({"legend_position": "right"} if legend else {})

    def layout(self, place: Place) -> Options:
        return {
            "fig_inches": place.figure_inches(),
            "sublabel_format": "",
            "tight": False,
            "shared_axes": False,
        }


def backend_of(name: str) -> Backend:
    """Return a backend by name, loaded and made HoloViews' current one.

    Raises
    ------
    UnknownNameError
        When there is no such backend.
    """
    backends: dict[str, Backend] = {"bokeh": _Bokeh(), "matplotlib": _Matplotlib()}
    if name not in backends:
        raise UnknownNameError(
            f"backend={name!r} draws no pictures here, so there is none.{near_names(name, backends)} "
            "Pass 'bokeh' or 'matplotlib'."
        )
    import holoviews as hv

    if name not in hv.Store.registry or hv.Store.current_backend != name:
        hv.extension(name)
    return backends[name]


def _hover(tooltips: Sequence[tuple[str, str]]) -> Any:
    from bokeh.models import HoverTool

    return HoverTool(tooltips=list(tooltips), name="cell")


def _style_bokeh(plot: Any, element: Any) -> None:
    figure = plot.state
    # The frame's size is what is fixed; Bokeh warns of a fixed figure whose own size is not given.
    figure.sizing_mode = None
    figure.outline_line_color = None
    figure.grid.grid_line_color = _GRID
    for axis in figure.axis:
        axis.axis_line_color = axis.major_tick_line_color = "#9aa1ae"
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = INK
    for axis in figure.xaxis:
        axis.ticker.desired_num_ticks = 5
    figure.title.text_color = INK
    for legend in figure.legend:
        legend.title_text_font_style = "bold"
        legend.title_text_font_size = "9pt"
        legend.label_text_color = legend.title_text_color = INK
        legend.spacing, legend.padding, legend.margin = 1, 4, 12


def _style_matplotlib(place: Place, legend: str, log_x: bool) -> Callable[[Any, Any], None]:
    from matplotlib.ticker import FuncFormatter, MaxNLocator
    from matplotlib.transforms import Bbox

    def locate(axis: Any, renderer: Any) -> Bbox:
        across, down = axis.figure.get_size_inches()
        left, bottom, width, height = place.frame_inches()
        return Bbox.from_bounds(left / across, 1 + bottom / down, width / across, height / down)

    def style(plot: Any, element: Any) -> None:
        axis = plot.handles["axis"]
        # HoloViews' own layout gives frames whose shape depends on how many there are, and changes the height of
        # the figure after this.
        axis.set_aspect("auto")
        axis.set_axes_locator(locate)
        axis.xaxis.set_major_formatter(FuncFormatter(short_number))
        if not log_x:
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#9aa1ae")
        axis.tick_params(color="#9aa1ae", labelcolor=INK)
        axis.grid(True, color=_GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        for text in (axis.xaxis.label, axis.yaxis.label):
            text.set_color(INK)
        axis.set_title(axis.get_title(), loc="left", fontsize=11, fontweight="bold", color=INK)
        axis.set_title("")
        shown = axis.get_legend()
        if shown is not None and legend:
            shown.set_title(legend, prop={"size": 8.5, "weight": "bold"})
            shown.set_alignment("left")
            shown.set_frame_on(False)

    return style
