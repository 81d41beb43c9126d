"""What Bokeh draws around the panels of a picture, and text of another size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dde.plots.colours import INK
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, PanelLayout
from dde.plots.legends import ColourBar, Legend

__all__ = ["TOOLBAR_PIXELS", "finisher", "scale_text", "text_strip"]

#: Height of the tool bar above the panels.
TOOLBAR_PIXELS = 30
_EDGE = 0.1
_SIZE = re.compile(r"([\d.]+)(px|pt|em)")


def finisher(layout: PanelLayout, legend: Legend, literal: Callable[[str], str]) -> Callable[[Any, Any], Any]:
    """Return a function of a HoloViews plot and its Bokeh layout that adds what is around the panels.

    Parameters
    ----------
    layout : PanelLayout
    legend : Legend
        With literal texts.
    literal : callable
        Escapes text.
    """
    around = layout.around

    def finish(plot: Any, grid: Any) -> Any:
        from bokeh.models import Column

        width = _pixels(layout.figure_inches()[0])
        if around.figure_size is not None:
            _fix_sizes(grid, layout)
        across = [_legend_across(grid, layout, legend)] if around.legend_place in ("top", "bottom") and legend else []
        if around.scale != 1.0:
            for model in [*grid.references(), *(m for strip in across for m in strip.references())]:
                scale_text(model, around.scale)
        title, caption = (
            [text_strip(lines, points * around.scale, style, width, _pixels(inches), literal)] if lines else []
            for lines, points, style, inches in (
                (around.title, around.TITLE_POINTS, "bold", around.title_inches()),
                (around.caption, around.CAPTION_POINTS, "normal", around.caption_inches()),
            )
        )
        above, below = (across, []) if around.legend_place == "top" else ([], across)
        children = [*title, *above, grid, *below, *caption]
        if len(children) == 1 and around.figure_size is None:
            return grid
        fixed: dict[str, Any] = {"spacing": 0}
        if around.figure_size is not None:
            fixed |= {"width": width, "height": _pixels(around.figure_size[1]) + TOOLBAR_PIXELS}
        plot.handles["plot"] = Column(*children, **fixed)
        return plot.handles["plot"]

    return finish


def _pixels(inches: float) -> int:
    return round(inches * FRAME_PIXELS_PER_INCH)


def _strip(width: int, height: int) -> Any:
    """Return an empty figure across the picture: widgets would need scripts that pages of pictures do without."""
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    strip = figure(
        width=width, height=height, toolbar_location=None, min_border=0, frame_align=False, outline_line_color=None,
        x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1), background_fill_alpha=0.0,
        border_fill_alpha=0.0,
    )  # fmt: skip
    strip.axis.visible = False
    strip.grid.visible = False
    strip.toolbar.tools = []
    return strip


def text_strip(
    lines: Sequence[str], points: float, style: Any, width: int, height: int, literal: Callable[[str], str]
) -> Any:
    """Return a figure with a text across the picture."""
    from bokeh.models.annotations.labels import Label

    strip = _strip(width, height)
    strip.add_layout(
        Label(
            x=_pixels(_EDGE), y=height - _pixels(0.07), x_units="screen", y_units="screen",
            text=literal("\n".join(lines)), text_font_size=f"{points:.4g}pt", text_font_style=style, text_color=INK,
            text_baseline="top", text_line_height=1.25,
        )
    )  # fmt: skip
    return strip


def _fix_sizes(grid: Any, layout: PanelLayout) -> None:
    """Give each figure of a grid the size of its cell, so that the grid has the size of the picture."""
    for figure, row, column, *_ in grid.children:
        figure.min_border_left = _pixels(layout.left_margin)
        figure.min_border_top = _pixels(0.4 * 0.92 * layout.around.scale)
        figure.min_border_bottom = _pixels(layout.bottom_margin) - figure.min_border_top
        figure.min_border_right = 0
        if (row, column) == (0, layout.columns - 1):
            figure.min_border_right = _pixels(layout.legend_size[0])


def _legend_across(grid: Any, layout: PanelLayout, legend: Legend) -> Any:
    """Return a strip with the legend of a panel, taken from it, and the colour bar."""
    from bokeh.models.annotations.legends import Legend as BokehLegend

    width = _pixels(layout.figure_inches()[0])
    strip = _strip(width, _pixels(layout.around.legend_inches[1]))
    left = _pixels(layout.left_margin)
    panel: Any
    for panel, *_ in grid.children:
        for side in (panel.left, panel.right, panel.above, panel.below, panel.center):
            for box in [m for m in side if isinstance(m, BokehLegend)]:
                side.remove(box)
                items: list[Any] = list(box.items)
                samples = [r for item in items for r in item.renderers]
                panel.renderers = [r for r in panel.renderers if r not in samples]
                strip.renderers = [*strip.renderers, *samples]
                box.update(location="top_left", margin=0, padding=2, ncols=layout.around.legend_columns)
                strip.add_layout(box, "center")
                # Below the frames, where there is room.
                fits = left + _pixels(layout.around.legend_inches[0]) <= width
                strip.min_border_left = left if fits else _pixels(_EDGE)
    if legend.bar is not None:
        strip.add_layout(_bar_across(legend.bar, layout), "center")
    return strip


def _bar_across(bar: ColourBar, layout: PanelLayout) -> Any:
    from bokeh.models import FixedTicker, LinearColorMapper
    from bokeh.models.annotations.legends import ColorBar

    low, high = bar.span
    return ColorBar(
        color_mapper=LinearColorMapper(palette=list(bar.colours), low=low, high=high),
        ticker=FixedTicker(ticks=[value for value, _ in bar.ticks]),
        major_label_overrides={value: label for value, label in bar.ticks},
        title=bar.title,
        title_text_font_style="bold",
        title_text_font_size="9pt",
        title_text_color=INK,
        major_label_text_color=INK,
        major_tick_line_color=None,
        orientation="horizontal",
        location="bottom_left",
        width=_pixels(2.3 * layout.around.scale),
        height=14,
        padding=2,
        border_line_color=None,
        background_fill_alpha=0.0,
    )


def scale_text(model: Any, scale: float) -> None:
    """Multiply the sizes of a model's text by a factor."""
    from bokeh.core.property.vectorization import Value

    for name in model.properties():
        if not name.endswith("text_font_size"):
            continue
        size = getattr(model, name)
        text = size.value if isinstance(size, Value) else size
        found = _SIZE.fullmatch(text) if isinstance(text, str) else None
        if found:
            setattr(model, name, f"{float(found[1]) * scale:.4g}{found[2]}")
