"""What Matplotlib draws around the panels of a picture, and text of another size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from dde.plots.colours import INK
from dde.plots.figure_layout import PanelLayout
from dde.plots.legends import ColourBar, Legend
from dde.plots.picture_options import PIXELS_PER_INCH

__all__ = ["FIXED_SIZE", "PRINT_DPI", "finisher", "scale_text_in"]

#: Name (gid) of a figure whose size was requested: it is written without cutting its edges.
FIXED_SIZE = "fixed-size"
#: Pixels per inch of a PNG.
PRINT_DPI = 150
_EDGE = 0.1


def finisher(
    layout: PanelLayout, legend: Legend, literal: Callable[[str], str], is_in_pixels: bool
) -> Callable[[Any, Any], Any]:
    """Return a function of a HoloViews plot and its figure that adds what is around the panels.

    Parameters
    ----------
    layout : PanelLayout
    legend : Legend
        With literal texts.
    literal : callable
        Escapes text.
    is_in_pixels : bool
        Whether a PNG has one pixel for each of the size.
    """
    around = layout.around
    scaled: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def finish(plot: Any, figure: Any) -> Any:
        width, height = layout.figure_inches()
        figure.set_dpi(PIXELS_PER_INCH if is_in_pixels else PRINT_DPI)
        figure.set_gid(FIXED_SIZE if around.figure_size else None)
        # HoloViews may draw a figure twice.
        for text in plot.handles.get("around", ()):
            text.remove()
        plot.handles["around"] = added = []
        if around.legend_place in ("top", "bottom") and legend:
            below_title = height - around.title_inches()
            top = below_title if around.legend_place == "top" else around.below()
            added += _legend_across(figure, layout, legend, top)
        for axes in figure.axes:
            if (shown := axes.get_legend()) is not None:
                # Its entries have their size from the start.
                scaled.update((text, text.get_fontsize()) for text in shown.get_texts())
        if around.scale != 1.0:
            scale_text_in(figure, around.scale, scaled)
            _scale_points(figure, min(around.scale, 1.0), scaled)
        for lines, top, points, weight in (
            (around.title, height - 0.1 * around.scale, around.TITLE_POINTS, "bold"),
            (around.caption, around.caption_inches() - 0.07 * around.scale, around.CAPTION_POINTS, "normal"),
        ):
            if lines:
                added.append(
                    figure.text(
                        _EDGE / width, top / height, literal("\n".join(lines)), fontsize=points * around.scale,
                        fontweight=weight, color=INK, verticalalignment="top", linespacing=1.15,
                    )
                )  # fmt: skip
        return figure

    return finish


def _legend_across(figure: Any, layout: PanelLayout, legend: Legend, top: float) -> list[Any]:
    """Move the legend of a panel above or below all panels, and draw the colour bar beside or below it there."""
    width, height = layout.figure_inches()
    left = layout.left_margin
    for axis in figure.axes:
        shown = axis.get_legend()
        if shown is not None:
            room = left if left + layout.around.legend_inches[0] <= width else _EDGE
            shown.set_loc("upper left")
            shown.set_bbox_to_anchor((room / width, top / height), transform=figure.transFigure)
            # Axes clip nothing of their legend, but it is not part of their place.
            shown.set_in_layout(True)
    if legend.bar is None:
        return []
    scale = layout.around.scale
    bottom = top - layout.around.legend_inches[1] + 0.38 * scale
    return [
        _bar_across(figure, legend.bar, (left / width, bottom / height, 2.3 * scale / width, 0.15 * scale / height))
    ]


def _bar_across(figure: Any, bar: ColourBar, place: tuple[float, float, float, float]) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    axis = figure.add_axes(place)
    drawn = figure.colorbar(
        ScalarMappable(Normalize(*bar.span), ListedColormap(list(bar.colours))), cax=axis, orientation="horizontal"
    )
    drawn.set_ticks([value for value, _ in bar.ticks], labels=[label for _, label in bar.ticks])
    drawn.outline.set_visible(False)
    axis.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axis.minorticks_off()
    axis.set_title(bar.title, loc="left", fontsize=8.5, fontweight="bold", color=INK)
    return axis


def scale_text_in(drawn: Any, scale: float, scaled: WeakKeyDictionary[Any, float]) -> None:
    """Multiply the size of all text in a figure or in axes by a factor, of each only once."""
    from matplotlib.text import Text

    for axes in drawn.findobj(lambda artist: hasattr(artist, "xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            ticks = axis.get_major_ticks()
            if ticks and scaled.get(axis) != (size := ticks[0].label1.get_fontsize()):
                scaled[axis] = size * scale
                # Ticks that are made later have this size, too.
                axis.set_tick_params(which="both", labelsize=size * scale)
                for tick in ticks:
                    scaled[tick.label1] = size * scale
    for text in drawn.findobj(Text):
        size = text.get_fontsize()
        if scaled.get(text) != size:
            text.set_fontsize(size * scale)
            scaled[text] = text.get_fontsize()


def _scale_points(figure: Any, scale: float, scaled: WeakKeyDictionary[Any, float]) -> None:
    """Multiply the diameter of all points by a factor, of each only once; large ones would hide each other."""
    from matplotlib.collections import PathCollection

    for points in figure.findobj(PathCollection):
        if points not in scaled:
            points.set_sizes(points.get_sizes() * scale**2, figure.dpi)
            scaled[points] = scale
