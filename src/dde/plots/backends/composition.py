"""Layouts of several pictures, or of panels of them and others: ``picture + picture`` in HoloViews.

Panels keep their own size, labels and legend. The title of a picture is above its first panel, and captions of complete
pictures are below all panels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import add
from typing import Any
from weakref import WeakKeyDictionary

from dde.errors import SelectionError
from dde.plots.backends.base import PanelHook
from dde.plots.backends.bokeh_page import scale_text, text_strip
from dde.plots.backends.matplotlib_page import PRINT_DPI, scale_text_in
from dde.plots.colours import INK
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, PanelLayout, Surroundings, wrapped

__all__ = ["compose", "is_one_picture"]

Place = tuple[int, int]
_EDGE = 0.12


def is_one_picture(plot: Any) -> bool:
    """Return whether a HoloViews plot of a layout shows all panels of one picture, each at its place."""
    layouts = _layouts(plot)
    panels = {id(layout.around): layout.around.panels for layout in layouts.values()}
    return list(panels.values()) == [len(layouts)] and all(
        (layout.row, layout.column) == place for place, layout in layouts.items()
    )


def compose(plot: Any, shown: Any, literal: Callable[[str], str]) -> Any:
    """Arrange what a HoloViews plot of a layout drew, if it has panels of pictures, with their titles and captions.

    Parameters
    ----------
    plot : HoloViews plot
        Of a layout.
    shown : Matplotlib figure or Bokeh layout
        What it drew.
    literal : callable
        Escapes text.

    Returns
    -------
    Matplotlib figure or Bokeh layout

    Raises
    ------
    SelectionError
        When a picture has its legend above or below its panels.
    """
    layouts = _layouts(plot)
    if not layouts:
        return shown
    for layout in layouts.values():
        if layout.around.legend_inches != (0.0, 0.0):
            place = layout.around.legend_place
            raise SelectionError(
                f"a picture with legend={place!r} has its legend beside none of its panels, and a layout with other "
                "panels has no place for it, so nothing is drawn. Draw it with legend='right' or 'off', and add then."
            )
    titles = {
        place: wrapped(
            " ".join(layout.around.title),
            layout.frame_size_inches()[0],
            1.1 * Surroundings.TITLE_POINTS * layout.around.scale,
        )
        for place, layout in layouts.items()
        if (layout.row, layout.column) == (0, 0)
    }
    if plot.backend == "bokeh":
        return _compose_bokeh(plot, shown, layouts, titles, literal)
    return _compose_matplotlib(plot, shown, layouts, titles, literal)


def _layouts(plot: Any) -> dict[Place, PanelLayout]:
    """Return the layouts of the panels of pictures by their place."""
    hooks = {place: getattr(cell.subplots.get("main"), "hooks", ()) for place, cell in plot.subplots.items()}
    return {place: h.layout for place, of_panel in hooks.items() for h in of_panel if isinstance(h, PanelHook)}


def _caption(layouts: Mapping[Place, PanelLayout], inches: float) -> tuple[list[str], float]:
    """Return the lines of the captions of complete pictures, and the scale of their text."""
    counts = Counter(id(layout.around) for layout in layouts.values())
    around = {id(layout.around): layout.around for layout in layouts.values()}
    captions = dict.fromkeys(" ".join(a.caption) for key, a in around.items() if counts[key] >= a.panels)
    scale = max(a.scale for a in around.values())
    points = Surroundings.CAPTION_POINTS * scale
    return [line for text in captions for line in wrapped(text, inches - 2 * _EDGE, points)], scale


@dataclass(frozen=True)
class _Cell:
    """Inches of a panel: its frame, and the room left, right, above and below it."""

    left: float
    width: float
    right: float
    above: float
    height: float
    below: float

    @classmethod
    def of(cls, layout: PanelLayout, title_inches: float) -> _Cell:
        """Return the least cell of a panel."""
        width, height = layout.frame_size_inches()
        beside, down = layout.legend_size if layout.has_legend else (0.0, 0.0)
        title = layout.title_height()
        below = max(layout.bottom_margin - title, down - height)
        return cls(layout.left_margin, width, max(beside, _EDGE), title + title_inches, height, below)


class _Grid:
    """Cells in rows and columns, so that frames of a column are aligned at the left and those of a row at the top.

    Attributes
    ----------
    cells : dict
        Cells by place, with all the room that they have.
    lefts, tops : list of float
        Inches of the edges of columns and rows.
    caption : list of str
        Its lines.
    below : Surroundings
        Of the caption.
    """

    def __init__(self, plot: Any, layouts: Mapping[Place, PanelLayout], titles: Mapping[Place, Sequence[str]]) -> None:
        # Panels of others have the size of frames that pictures have.
        usual = PanelLayout(next(iter(layouts.values())).size, 0, 0, 1, 1)
        least = {}
        for place in plot.subplots:
            layout = layouts.get(place, usual)
            title = Surroundings(layout.around.scale, title=titles.get(place, ()))
            least[place] = _Cell.of(layout, title.title_inches())
        columns = [[cell for (_, c), cell in least.items() if c == column] for column in range(plot.cols)]
        rows = [[cell for (r, _), cell in least.items() if r == row] for row in range(plot.rows)]
        left, right = _most(columns, lambda c: c.left), _most(columns, lambda c: c.width + c.right)
        above, down = _most(rows, lambda c: c.above), _most(rows, lambda c: c.height + c.below)
        self.cells = {
            (r, c): replace(
                cell, left=left[c], right=right[c] - cell.width, above=above[r], below=down[r] - cell.height
            )
            for (r, c), cell in least.items()
        }
        self.lefts = [0.0, *accumulate(map(add, left, right))]
        self.tops = [0.0, *accumulate(map(add, above, down))]
        self.width = self.lefts[-1] + _EDGE
        caption, scale = _caption(layouts, self.width)
        self.below = Surroundings(scale, caption=caption)
        self.height = self.tops[-1] + self.below.caption_inches()


def _most(groups: Sequence[Sequence[_Cell]], inches: Callable[[_Cell], float]) -> list[float]:
    return [max(map(inches, group), default=0.0) for group in groups]


def _compose_bokeh(
    plot: Any,
    shown: Any,
    layouts: Mapping[Place, PanelLayout],
    titles: Mapping[Place, Sequence[str]],
    literal: Callable[[str], str],
) -> Any:
    from bokeh.models import Column, Plot

    grid = _Grid(plot, layouts, titles)
    for place, cell in grid.cells.items():
        figure = plot.subplots[place].subplots["main"].state
        if place not in layouts:
            if not isinstance(figure, Plot) or len(plot.subplots[place].subplots) > 1:
                continue
            figure.update(width=None, height=None, sizing_mode=None)
            figure.update(frame_width=_pixels(cell.width), frame_height=_pixels(cell.height))
        # Bokeh aligns frames, but cuts figures off that are higher than others in their row.
        figure.min_border_left, figure.min_border_right = _pixels(cell.left), _pixels(cell.right)
        figure.min_border_top, figure.min_border_bottom = _pixels(cell.above), _pixels(cell.below)
        scale = layouts[place].around.scale if place in layouts else 1.0
        if scale != 1.0:
            for model in figure.references():
                scale_text(model, scale)
        if lines := titles.get(place):
            # Above the title of the panel.
            figure.above = [figure.title.clone(), *figure.above]
            size = f"{Surroundings.TITLE_POINTS * scale:.4g}pt"
            figure.title.update(text=literal("\n".join(lines)), text_font_size=size, text_line_height=1.25, standoff=8)
    if not grid.below.caption:
        return shown
    strip = text_strip(
        grid.below.caption, Surroundings.CAPTION_POINTS * grid.below.scale, "normal", _pixels(grid.width),
        _pixels(grid.below.caption_inches()), literal,
    )  # fmt: skip
    plot.handles["plot"] = Column(shown, strip, spacing=0)
    return plot.handles["plot"]


def _pixels(inches: float) -> int:
    return round(inches * FRAME_PIXELS_PER_INCH)


def _compose_matplotlib(
    plot: Any,
    figure: Any,
    layouts: Mapping[Place, PanelLayout],
    titles: Mapping[Place, Sequence[str]],
    literal: Callable[[str], str],
) -> Any:
    from matplotlib.transforms import Bbox

    grid = _Grid(plot, layouts, titles)
    across, down = grid.width, grid.height
    figure.set_size_inches(across, down, forward=False)
    figure.set_dpi(PRINT_DPI)
    scaled: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def write(lines: Sequence[str], left: float, top: float, points: float, weight: str) -> None:
        figure.text(
            left / across, 1 - top / down, literal("\n".join(lines)), fontsize=points, fontweight=weight, color=INK,
            verticalalignment="top", linespacing=1.15,
        )  # fmt: skip

    for (r, c), cell in grid.cells.items():
        left, top = grid.lefts[c] + cell.left, grid.tops[r] + cell.above
        place = Bbox.from_bounds(left / across, 1 - (top + cell.height) / down, cell.width / across, cell.height / down)
        axes = [part.handles["axis"] for part in plot.subplots[r, c].subplots.values()]
        if (r, c) not in layouts:
            _move(axes, place)
            continue
        scale = layouts[r, c].around.scale
        axes[0].set_axes_locator(lambda axis, renderer, place=place: place)
        if scale != 1.0:
            scale_text_in(axes[0], scale, scaled)
        if lines := titles.get((r, c)):
            write(lines, left, grid.tops[r] + 0.1 * scale, Surroundings.TITLE_POINTS * scale, "bold")
    if grid.below.caption:
        scale = grid.below.scale
        top = grid.tops[-1] + 0.07 * scale
        write(grid.below.caption, _EDGE, top, Surroundings.CAPTION_POINTS * scale, "normal")
    return figure


def _move(axes: Sequence[Any], place: Any) -> None:
    """Move the axes of a panel of HoloViews, which may have others beside it, to a place."""
    from matplotlib.transforms import Bbox, BboxTransform

    moved = BboxTransform(Bbox.union([axis.get_position(original=True) for axis in axes]), place)
    for axis in axes:
        axis.set_position(Bbox(moved.transform(axis.get_position(original=True).get_points())))
