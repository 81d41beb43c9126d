"""Backend Matplotlib: HoloViews options for pictures for print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dde.plots.axis_format import linear_ticks, log_ticks, minor_log_ticks, short_number, tick_labels
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
from dde.plots.legends import ColourBar, Legend, without_formulas

__all__ = ["MatplotlibBackend"]


class MatplotlibBackend:
    """Options for Matplotlib; each method is described by :class:`dde.plots.backends.base.Backend`."""

    name: BackendName = "matplotlib"
    hovers = False

    def line(self, colour: str, dashed: bool = False, crowd: int = 1) -> Options:
        """Return options of a line."""
        alpha, width = crowd_look(crowd, 1.0 if dashed else 1.2)
        look = {"color": str(colour), "alpha": alpha, "linewidth": width}
        return with_dash(look, NO_DATA if dashed else dash_pattern(dash_of(colour)))

    def partial_line(self, colour: str, crowd: int = 1) -> Options:
        """Return options of a line that averages fewer runs."""
        alpha, width = crowd_look(crowd, 1.0)
        return {"color": colour, "alpha": alpha, "linewidth": width, "linestyle": (0, (5, 1.5, 1.5, 1.5))}

    def interval_band(self, colour: str) -> Options:
        """Return options of an interval."""
        return {"facecolor": colour, "alpha": 0.2, "linewidth": 0}

    def interval_sample(self, colour: str) -> Options:
        """Return options of the legend sample of an interval."""
        return {"facecolors": colour, "alpha": 0.2, "edgecolors": "none", "marker": "s", "s": 110}

    def outline_sample(self) -> Options:
        """Return options of the legend sample of an outlined tile."""
        return {"facecolors": "none", "edgecolors": INK, "linewidth": 2.2, "marker": "s", "s": 70}

    def hollow_point(self) -> Options:
        """Return options of a point without a value."""
        return {"facecolors": "white", "edgecolors": EDGE, "linewidth": 1.1, "marker": "o", "s": 26}

    def thick_line(self) -> Options:
        """Return options of a line that represents a run."""
        return {"linewidth": 2.4}

    def points(
        self, colour: str, marker: str, dense: bool = False, tooltips: Sequence[tuple[str, str]] = (), crowd: int = 1
    ) -> Options:
        """Return options of points."""
        alpha, _ = crowd_look(crowd, 1.0)
        look: Options = {"s": 4, "edgecolors": "none"} if dense else {"s": 26, "edgecolors": "white", "linewidth": 0.5}
        if crowd > SMALL_POINTS_ABOVE and not dense:
            look["s"] = 12
        return {
            "facecolors": str(colour),
            "marker": marker_in(colour, marker),
            "alpha": alpha if crowd > OPAQUE_POINTS_UP_TO else 1.0,
            **look,
        }

    def invisible_points(self, tooltips: Sequence[tuple[str, str]]) -> Options:
        """Return options of invisible points."""
        return {"alpha": 0.0}

    def branch_line(self) -> Options:
        """Return options of branch marks."""
        return {"color": INK, "linestyle": "dotted", "linewidth": 0.9, "alpha": 0.7}

    def zero_line(self) -> Options:
        """Return options of the zero line."""
        return {"color": INK, "linewidth": 0.9, "alpha": 0.8}

    def window_rectangle(self) -> Options:
        """Return options of the window."""
        return {"facecolor": WINDOW, "edgecolor": "#c5cbd6", "linewidth": 0.8}

    def tiles(self, tooltips: Sequence[tuple[str, str]], best: bool = False) -> Options:
        """Return options of rectangles."""
        edge = {"edgecolor": INK, "linewidth": 2.2} if best else {"edgecolor": "white", "linewidth": 0.8}
        return {"facecolor": "colour", **edge}

    def text(self, colour: str, align: str = "center", bold: bool = False) -> Options:
        """Return options of text."""
        return {"color": colour, "size": 8.5, "horizontalalignment": align, "verticalalignment": "center"} | (
            {"weight": "bold"} if bold else {}
        )

    def literal_text(self, text: str) -> str:
        """Return text with dollar signs escaped, so that no formula is typeset."""
        return without_formulas(text)

    def panel(self, layout: PanelLayout, frame: Frame, legend: Legend) -> Options:
        """Return options of a panel."""
        options: Options = {
            "aspect": layout.size[0] / layout.size[1],
            "hooks": [PanelHook(layout, _style(layout, frame, legend))],
            "fontsize": {
                "title": layout.title_points,
                "labels": 9.5,
                "xticks": 8.5,
                "yticks": 8.5,
                # The gaps of a legend are those of the size with which it is made.
                "legend": 8.5 * layout.around.scale,
            },
        }
        for name, axis in (("x", frame.x), ("y", frame.y)):
            if axis.ticks is not None:
                options[f"{name}ticks"] = list(axis.ticks)
        if legend.entries:
            options |= {"legend_position": "right", "legend_cols": layout.legend_columns(legend)}
        return options

    def figure(self, layout: PanelLayout) -> Options:
        """Return options of the figure."""
        return {
            "fig_inches": layout.figure_inches(),
            "sublabel_format": "",
            "tight": False,
            "shared_axes": False,
        }


def _style(layout: PanelLayout, frame: Frame, legend: Legend) -> Callable[[Any, Any], None]:
    """Return a HoloViews hook that sets what its options can't: position, colours, ticks, title, legend and bar."""
    from matplotlib.transforms import Bbox

    figure_size = layout.figure_inches()

    def locate(axis: Any, renderer: Any) -> Bbox:
        across, down = axis.figure.get_size_inches()
        if abs(across - figure_size[0]) < 1e-6 and down != figure_size[1]:
            # HoloViews changes the height of the figure, and discards what it draws to measure it.
            axis.figure.set_size_inches(*figure_size, forward=False)
            down = figure_size[1]
        left, bottom, width, height = layout.frame_inches()
        return Bbox.from_bounds(left / across, 1 + bottom / down, width / across, height / down)

    def style(plot: Any, element: Any) -> None:
        axis = plot.handles["axis"]
        # HoloViews' own layout makes the shape of frames depend on their number, and Matplotlib's constrained layout
        # shrinks them to make room for labels and legends. The size of frames is the caller's choice.
        axis.set_aspect("auto")
        axis.set_axes_locator(locate)
        _style_ticks(axis.xaxis, frame.x, TickCounts.across(layout.text_size[0]))
        if angle := frame.x.tick_angle(layout.text_size[0]):
            axis.tick_params(axis="x", labelrotation=angle)
            for text in axis.get_xticklabels():
                text.set(horizontalalignment="right", rotation_mode="anchor")
                if angle == 90:
                    text.set(verticalalignment="center")
        _style_ticks(axis.yaxis, frame.y, TickCounts.up(layout.text_size[1]))
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(EDGE)
        axis.tick_params(which="both", color=EDGE, labelcolor=INK)
        axis.grid(False)
        if frame.grid:
            axis.grid(True, color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        for text in (axis.xaxis.label, axis.yaxis.label):
            text.set_color(INK)
        axis.set_title(axis.get_title(), loc="left", fontsize=layout.title_points, fontweight="bold", color=INK)
        axis.set_title("")
        beside = 1.02
        if legend.bar is not None:
            _draw_bar(axis, legend.bar, layout)
            beside += layout.around.scale * legend.bar.width_inches() / layout.frame_size_inches()[0]
        shown = axis.get_legend()
        if shown is not None and legend:
            shown.set_title(legend.title, prop={"size": 8.5, "weight": "bold"})
            shown.set_alignment("left")
            shown.set_frame_on(False)
            # The same distance above frames of any height.
            above = 1 + 0.045 / layout.frame_size_inches()[1]
            shown.set_bbox_to_anchor((beside, above), transform=axis.transAxes)

    return style


def _style_ticks(drawn: Any, axis: Axis, counts: TickCounts) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, NullFormatter

    class Round(Locator):
        """Ticks at round numbers, also where the limits change."""

        def __call__(self) -> list[float]:
            return self.tick_values(*drawn.get_view_interval())

        def tick_values(self, vmin: float, vmax: float) -> list[float]:
            low, high = sorted((float(vmin), float(vmax)))
            return linear_ticks(low, high, counts.linear)

    class Labels(FuncFormatter):
        """Labels of ticks that depend on all of them."""

        def format_ticks(self, values: Any) -> list[str]:
            return tick_labels(values, not axis.is_log)

    if axis.ticks is not None:
        return
    drawn.set_major_formatter(Labels(short_number))
    if axis.is_log and axis.limits is not None:
        drawn.set_major_locator(FixedLocator(log_ticks(*axis.limits, counts.log)))
        drawn.set_minor_locator(FixedLocator(minor_log_ticks(*axis.limits)))
        drawn.set_minor_formatter(NullFormatter())
    elif not axis.is_log:
        drawn.set_major_locator(Round())


def _draw_bar(axis: Any, bar: ColourBar, layout: PanelLayout) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    across, down = (inches / layout.around.scale for inches in layout.frame_size_inches())
    # Inset axes move with their parent, which is only positioned when it is drawn.
    beside = axis.inset_axes((1 + 0.2 / across, 0.0, 0.16 / across, 1 - 0.18 / down))
    drawn = axis.figure.colorbar(ScalarMappable(Normalize(*bar.span), ListedColormap(list(bar.colours))), cax=beside)
    drawn.set_ticks([value for value, _ in bar.ticks], labels=[label for _, label in bar.ticks])
    drawn.outline.set_visible(False)
    beside.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    beside.minorticks_off()
    beside.set_title(bar.title, loc="left", fontsize=8.5, fontweight="bold", color=INK)
