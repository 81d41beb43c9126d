"""A figure of panels: its layout for the size, fonts and legend that are wanted, drawn by either backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dde.errors import SelectionError
from dde.plots.backends.base import Backend
from dde.plots.backends.finishing import FIXED_ROOM, picture_of
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, Frame, PanelLayout, Surroundings, panel_layouts, wrapped
from dde.plots.legends import Legend
from dde.plots.panels import framed
from dde.plots.picture_options import PIXELS_PER_INCH, PictureOptions

__all__ = ["Content", "draw_figure"]

# Width and height in pixels of the smallest frame in which a curve can be seen, at the usual size of text.
_LEAST = (110, 70)
# Text at the left and right edge of a figure keeps this distance in inches from it.
_EDGE = 0.1
# Inches between the columns of a legend above or below the panels, more than beside them.
_COLUMN_GAP = 0.1


@dataclass(frozen=True)
class Content:
    """What a panel shows.

    Attributes
    ----------
    frame : Frame
    title : str
    draw : callable
        Returns the panel as a HoloViews overlay, given its frame, layout and legend.
    """

    frame: Frame
    title: str
    draw: Callable[[Frame, PanelLayout, Legend], Any]

    @classmethod
    def of_elements(
        cls, frame: Frame, title: str, elements: Callable[[Frame, PanelLayout], Sequence[Any]], backend: Backend
    ) -> Content:
        """Return what a panel of HoloViews elements shows, given a function that returns them."""

        def draw(frame: Frame, layout: PanelLayout, legend: Legend) -> Any:
            return framed(elements(frame, layout), frame, backend, layout, legend, title)

        return cls(frame, title, draw)


def draw_figure(
    rows: Sequence[Sequence[Content]],
    size: tuple[int, int],
    legend: Legend,
    caption: str,
    options: PictureOptions,
    backend: Backend,
    least: tuple[int, int] = _LEAST,
) -> Any:
    """Return panels as a picture.

    Parameters
    ----------
    rows : sequence of sequence of Content
    size : tuple of int
        Width and height of a frame in pixels, where the options state no size of the picture.
    legend : Legend
        Of all panels.
    caption : str
        States what is shown.
    options : PictureOptions
    backend : Backend
    least : tuple of int
        Width and height in pixels of the smallest frame in which its content can be seen.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    SelectionError
        When the size has no room for the content, or a limit is of an axis without numbers.
    """
    import holoviews as hv

    rows = [[replace(c, frame=_limited(c.frame, options)) for c in row] for row in rows]
    _check_limits([c.frame for row in rows for c in row], options)
    legend = Legend() if options.legend == "off" else legend
    layouts = _layouts(rows, size, legend, caption, options, backend.name, least)
    beside = options.legend == "right"
    # The entries of a legend above or below the panels are drawn in one of them, and moved from there.
    in_panel = legend if beside else replace(legend, bar=None)
    at = iter(layouts)
    drawn: list[Any] = []
    for i, row in enumerate(rows):
        for content in row:
            layout = next(at)
            shown = in_panel if layout.has_legend else Legend()
            drawn.append(content.draw(content.frame, layout, shown))
        if i + 1 < len(rows):
            drawn += [hv.Empty() for _ in range(layouts[0].columns - len(row))]
    return picture_of(drawn, layouts[0], legend, backend, options.is_in_pixels)


def _limited(frame: Frame, options: PictureOptions) -> Frame:
    """Return a frame with the limits of the options, where its axes have numbers."""
    x, y = frame.x, frame.y
    if x.ticks is None and not frame.since_branch:
        x = replace(x, limits=options.limits("x", x.limits, x.is_log))
    if y.ticks is None:
        y = replace(y, limits=options.limits("y", y.limits, y.is_log))
    return replace(frame, x=x, y=y)


def _check_limits(frames: Sequence[Frame], options: PictureOptions) -> None:
    for name, limits, axes in (
        ("xlim", options.xlim, [f.x for f in frames]),
        ("ylim", options.ylim, [f.y for f in frames]),
    ):
        if limits is not None and all(axis.ticks is not None for axis in axes):
            raise SelectionError(
                f"{name}={limits!r} limits an axis of numbers, and this axis has places for "
                f"{axes[0].label or 'names'}, so nothing is drawn. Leave it out, and select what to draw instead."
            )


def _layouts(
    rows: Sequence[Sequence[Content]],
    frame_size: tuple[int, int],
    legend: Legend,
    caption: str,
    options: PictureOptions,
    backend: str,
    least: tuple[int, int],
) -> list[PanelLayout]:
    """Return the layouts of panels: frames of a size, or of the size that is left in a picture of a given size."""
    contents = [c for row in rows for c in row]
    frames, titles = [c.frame for c in contents], [c.title for c in contents]

    def layouts(frame: tuple[int, int], width: float | None) -> list[PanelLayout]:
        around = Surroundings(options.scale, legend_place=options.legend, figure_size=options.inches())
        found = panel_layouts(rows, frame, legend, frames, titles, around)
        around = _surroundings(found[0], legend, caption, options, width or found[0].needed_inches()[0])
        # One object for all panels of the picture: it tells which panels belong together.
        around = replace(around, panels=len(found))
        return [replace(layout, around=around) for layout in found]

    inches = options.inches()
    if inches is None:
        return layouts(frame_size, None)
    # Frames are laid out in inches of print; those of a page are smaller.
    unit = PIXELS_PER_INCH / FRAME_PIXELS_PER_INCH if backend == "bokeh" else 1.0
    # A page has a tool bar above the panels.
    room = FIXED_ROOM if backend == "bokeh" else 0.0
    wanted = inches[0] * unit, inches[1] * unit - room
    smallest = int(least[0] * options.scale), int(least[1] * options.scale)
    # The width of labels and legend follows from the height of frames, and that of the caption from the width.
    frame = smallest
    for _ in range(8):
        found = layouts(frame, wanted[0])
        needed = found[0].needed_inches()
        fitted = (
            int(frame[0] + (wanted[0] - needed[0]) / found[0].columns * FRAME_PIXELS_PER_INCH),
            int(frame[1] + (wanted[1] - needed[1]) / found[0].rows * FRAME_PIXELS_PER_INCH),
        )
        if fitted == frame:
            break
        frame = max(fitted[0], 1), max(fitted[1], 1)
    if frame[0] < smallest[0] or frame[1] < smallest[1]:
        frame = max(frame[0], smallest[0]), max(frame[1], smallest[1])
        width = max(layouts(frame, wanted[0])[0].needed_inches()[0], wanted[0])
        # A caption has fewer lines in a wider picture.
        height = max(layouts(frame, width)[0].needed_inches()[1], wanted[1])
        size = width / unit, (height + room) / unit
        raise SelectionError(_too_small(options, size))
    found = layouts(frame, wanted[0])
    around = replace(found[0].around, figure_size=wanted)
    return [replace(layout, around=around) for layout in found]


def _surroundings(
    layout: PanelLayout, legend: Legend, caption: str, options: PictureOptions, width: float
) -> Surroundings:
    """Return what a figure of a width has around its panels."""
    scale, room = options.scale, width - 2 * _EDGE
    around = Surroundings(
        scale,
        wrapped(options.title or "", room, 1.1 * Surroundings.TITLE_POINTS * scale),
        wrapped(_caption(caption, options), room, Surroundings.CAPTION_POINTS * scale),
        options.legend,
        figure_size=options.inches(),
    )
    if not legend or options.legend not in ("top", "bottom"):
        return around
    entries = replace(legend, bar=None)
    count = len(entries.entries)
    # As few rows as fit, with columns of about the same number of entries; a figure without room for one column is
    # wider than it should be.
    columns, across, down = 1, 0.0, 0.0
    for rows in range(1, count + 1):
        columns = math.ceil(count / rows)
        across, down = entries.inches(0, columns)
        across += columns * _COLUMN_GAP
        if scale * across <= room:
            break
    if legend.bar is not None:
        across, down = max(across, 2.5), down + 0.75
    return replace(around, legend_columns=columns, legend_inches=(scale * across, scale * down))


def _caption(caption: str, options: PictureOptions) -> str:
    if isinstance(options.caption, str):
        return options.caption
    return caption if options.caption else ""


def _too_small(options: PictureOptions, inches: tuple[float, float]) -> str:
    # Rounded up, with a margin for the rounding of frames to pixels.
    steps = PIXELS_PER_INCH if options.is_in_pixels else 20
    least = [math.ceil((v + 0.02) * steps) / (1 if options.is_in_pixels else steps) for v in inches]
    return (
        f"size={options.size!r} has no room for the panels with their labels, legend and caption: the least size is "
        f"({least[0]:g}, {least[1]:g}) {'pixels' if options.is_in_pixels else 'inches'}. Pass a larger size, a smaller "
        "font_size, legend='bottom' or 'off', or caption=False, or draw fewer panels."
    )
