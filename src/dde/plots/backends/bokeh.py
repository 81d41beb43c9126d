"""Backend Bokeh: HoloViews options for pictures to explore in a notebook or on a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dde.plots.axis_format import BOKEH_LOG_TICKS, BOKEH_MINOR_LOG_TICKS, BOKEH_TICKS
from dde.plots.backends.base import (
    NO_DATA,
    OPAQUE_POINTS_UP_TO,
    SMALL_POINTS_ABOVE,
    BackendName,
    Options,
    PanelHook,
    crowd_look,
    dash_pattern,
    with_dash,
)
from dde.plots.colours import EDGE, GRID, INK, WINDOW, dash_of, marker_in
from dde.plots.figure_layout import Axis, Frame, PanelLayout, TickCounts
from dde.plots.legends import ColourBar, Legend
from dde.printable import printable

__all__ = ["BokehBackend"]

# First character of a delimiter of a formula: $$, \[, \], \( or \).
_DELIMITER = re.compile(r"\$(?=\$)|\\(?=[\[\]()])")


class BokehBackend:
    """Options for Bokeh; each method is described by :class:`dde.plots.backends.base.Backend`."""

    name: BackendName = "bokeh"
    hovers = True

    def line(self, colour: str, dashed: bool = False, crowd: int = 1) -> Options:
        """Return options of a line."""
        alpha, width = crowd_look(crowd, 1.2 if dashed else 1.5)
        look = {"color": str(colour), "alpha": alpha, "line_width": width}
        return with_dash(look, NO_DATA if dashed else dash_pattern(dash_of(colour)))

    def partial_line(self, colour: str, crowd: int = 1) -> Options:
        """Return options of a line that averages fewer runs."""
        alpha, width = crowd_look(crowd, 1.3)
        return {"color": colour, "alpha": alpha, "line_width": width, "line_dash": "6 2 2 2"}

    def interval_band(self, colour: str) -> Options:
        """Return options of an interval."""
        return {"fill_color": colour, "fill_alpha": 0.2, "line_alpha": 0.0}

    def interval_sample(self, colour: str) -> Options:
        """Return options of the legend sample of an interval."""
        return {"fill_color": colour, "fill_alpha": 0.2, "line_alpha": 0.0, "marker": "square", "size": 13}

    def outline_sample(self) -> Options:
        """Return options of the legend sample of an outlined tile."""
        return {"fill_alpha": 0.0, "line_color": INK, "line_width": 3, "marker": "square", "size": 11}

    def hollow_point(self) -> Options:
        """Return options of a point without a value."""
        return {"fill_color": "white", "line_color": EDGE, "line_width": 1.3, "marker": "circle", "size": 7}

    def thick_line(self) -> Options:
        """Return options of a line that represents a run."""
        return {"line_width": 3}

    def points(
        self, colour: str, marker: str, dense: bool = False, tooltips: Sequence[tuple[str, str]] = (), crowd: int = 1
    ) -> Options:
        """Return options of points."""
        alpha, _ = crowd_look(crowd, 1.0)
        look = {"size": 3, "line_color": None} if dense else {"size": 7, "line_color": "white", "line_width": 0.6}
        if crowd > SMALL_POINTS_ABOVE and not dense:
            look["size"] = 5
        tools = {"tools": [_hover(tooltips)] if tooltips else []}
        return {
            "fill_color": str(colour),
            "marker": marker_in(colour, marker),
            "fill_alpha": alpha if crowd > OPAQUE_POINTS_UP_TO else 1.0,
            **tools,
            **look,
        }

    def invisible_points(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        """Return options of invisible points with tooltips."""
        return {"size": 6, "alpha": 0, "hover_alpha": 0.6, "tools": [_hover(tooltips)], "color": INK}

    def branch_line(self) -> Options:
        """Return options of branch marks."""
        return {"color": INK, "line_dash": "dotted", "line_width": 1, "alpha": 0.7}

    def zero_line(self) -> Options:
        """Return options of the zero line."""
        return {"color": INK, "line_width": 1, "alpha": 0.8}

    def window_rectangle(self) -> Options:
        """Return options of the window."""
        return {"color": WINDOW, "line_color": "#c5cbd6", "line_width": 0.8}

    def tiles(self, tooltips: Sequence[tuple[str, str]], best: bool = False) -> Options:
        """Return options of rectangles."""
        edge = {"line_color": INK, "line_width": 3} if best else {"line_color": "white", "line_width": 1}
        return {"fill_color": "colour", "tools": [_hover(tooltips)] if tooltips else [], **edge}

    def text(self, colour: str, align: str = "center", bold: bool = False) -> Options:
        """Return options of text."""
        style = {"text_font_style": "bold"} if bold else {}
        size = {"text_font_size": "11px", "text_baseline": "middle"}
        return {"text_color": colour, "text_align": align, **size, **style}

    def literal_text(self, text: str) -> str:
        """Return text with a zero-width space in each delimiter of formulas, so that none is typeset."""
        return _DELIMITER.sub("\\g<0>\N{ZERO WIDTH SPACE}", printable(text))

    def panel(self, layout: PanelLayout, frame: Frame, legend: Legend) -> Options:
        """Return options of a panel."""
        from bokeh.models import CustomJSTickFormatter

        options: Options = {
            "frame_width": layout.size[0],
            "frame_height": layout.size[1],
            "toolbar": "above",
            "hooks": [PanelHook(layout, _style(layout, frame, legend))],
            "fontsize": {
                "title": f"{layout.title_points}pt",
                "labels": "10pt",
                "ticks": "9pt",
                "legend": "9pt",
            },
        }
        for name, axis in (("x", frame.x), ("y", frame.y)):
            if axis.ticks is not None:
                options[f"{name}ticks"] = list(axis.ticks)
                if name == "x" and (angle := axis.tick_angle(layout.text_size[0])):
                    options["xrotation"] = angle
            else:
                formatter = CustomJSTickFormatter(code=BOKEH_TICKS, args={"is_linear": not axis.is_log})
                options[f"{name}formatter"] = formatter
        if legend.entries:
            look = {"title": legend.title, "border_line_color": None, "ncols": layout.legend_columns(legend)}
            options |= {"legend_position": "right", "legend_opts": look}
        return options

    def figure(self, layout: PanelLayout) -> Options:
        """Return options of the figure."""
        return {"shared_axes": True, "merge_tools": True}


def _hover(tooltips: Sequence[tuple[str, str]]) -> Any:
    """Return the Bokeh tool that shows (label, field) pairs of the point under the pointer."""
    from bokeh.models import HoverTool

    return HoverTool(tooltips=list(tooltips), name="cell")


def _style(layout: PanelLayout, frame: Frame, legend: Legend) -> Callable[[Any, Any], None]:
    """Return a HoloViews hook that sets what its options can't: colours, ticks, legend and colour bar."""

    def style(plot: Any, element: Any) -> None:
        figure = plot.state
        # Only the frame has a fixed size; Bokeh warns when a fixed figure has no size of its own.
        figure.sizing_mode = None
        figure.outline_line_color = None
        figure.grid.grid_line_color = GRID if frame.grid else None
        for axis in figure.axis:
            axis.axis_line_color = axis.major_tick_line_color = EDGE
            axis.minor_tick_line_color = None
            axis.axis_label_text_font_style = "normal"
            axis.axis_label_text_color = axis.major_label_text_color = INK
        _style_ticks(figure.xaxis, figure.xgrid, frame.x, TickCounts.across(layout.text_size[0]))
        _style_ticks(figure.yaxis, figure.ygrid, frame.y, TickCounts.up(layout.text_size[1]))
        figure.title.text_color = INK
        for box in figure.legend:
            box.title_text_font_style = "bold"
            box.title_text_font_size = "9pt"
            box.label_text_color = box.title_text_color = INK
            box.spacing, box.padding, box.margin = 1, 4, 12
            box.location = "top_left"
            if layout.legend_columns(legend) > 1:
                # Bokeh uses the same gap for rows and columns; a space after labels widens that between columns.
                for item in box.items:
                    item.label = {"value": f"{item.label.value}\N{EM SPACE}"}
        if legend.bar is not None:
            figure.right = [_colour_bar(legend.bar, layout), *figure.right]

    return style


def _style_ticks(bokeh_axes: Any, grids: Any, axis: Axis, counts: TickCounts) -> None:
    """Set the tickers of Bokeh axes and of their grid lines; ticks at fixed values are options of the panel."""
    from bokeh.models import CustomJSTicker

    if axis.ticks is not None:
        return
    for bokeh_axis in bokeh_axes:
        if axis.is_log:
            bokeh_axis.ticker = CustomJSTicker(
                major_code=BOKEH_LOG_TICKS, minor_code=BOKEH_MINOR_LOG_TICKS, args={"most": counts.log}
            )
            bokeh_axis.minor_tick_line_color = EDGE
            # Grid lines have a ticker of their own.
            for grid in grids:
                grid.ticker = bokeh_axis.ticker
        else:
            bokeh_axis.ticker.desired_num_ticks = counts.linear


def _colour_bar(bar: ColourBar, layout: PanelLayout) -> Any:
    """Return the Bokeh colour bar of a panel."""
    from bokeh.models import FixedTicker, LinearColorMapper
    from bokeh.models.annotations.legends import ColorBar

    low, high = bar.span
    return ColorBar(
        color_mapper=LinearColorMapper(palette=list(bar.colours), low=low, high=high),
        ticker=FixedTicker(ticks=[value for value, _ in bar.ticks]),
        major_label_overrides={value: label for value, label in bar.ticks},
        # Bokeh writes the title along the bar, which is as long as the frame is high.
        title=Axis("", bar.title).fitted_label(layout.text_size[1]),
        title_text_font_style="bold",
        title_text_font_size="9pt",
        title_text_color=INK,
        title_standoff=8,
        major_label_text_color=INK,
        major_tick_line_color=None,
        width=14,
        margin=12,
        border_line_color=None,
        background_fill_alpha=0.0,
    )
