"""Pictures as a whole: title, caption, legend above or below the panels, size, and text of another size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from dde.plots.backends import bokeh_page, matplotlib_page
from dde.plots.backends.base import Backend
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, PanelLayout
from dde.plots.legends import Legend

__all__ = ["FIXED_ROOM", "picture_of"]

#: Inches that a page needs beside what its layout states: for the tool bar.
FIXED_ROOM = bokeh_page.TOOLBAR_PIXELS / FRAME_PIXELS_PER_INCH

Finish = Callable[[Any, Any], Any]


@cache
def _picture_class() -> Any:
    import holoviews as hv

    class Picture(hv.Layout):  # type: ignore[misc]
        """A layout of panels that is finished when it is drawn."""

        def __add__(self, other: Any) -> Any:
            """Return the panels of this picture and others as one plain layout: captions belong to each alone."""
            others = other.values() if isinstance(other, hv.Layout) else [other]
            return hv.Layout([*self.values(), *others])

    Picture.__module__, Picture.__qualname__ = __name__, "Picture"
    return Picture


@cache
def _register(backend: str) -> None:
    """Have HoloViews draw pictures with a backend; it has no hooks of layouts of its own."""
    import holoviews as hv
    import param

    if backend == "bokeh":
        from holoviews.plotting.bokeh.plot import LayoutPlot
    else:
        from holoviews.plotting.mpl.plot import LayoutPlot

    class PicturePlot(LayoutPlot):  # type: ignore[misc]
        finish = param.Callable(default=None, doc="Function of the plot and what is drawn; returns what to show.")

        def initialize_plot(self, *args: Any, **options: Any) -> Any:
            shown = super().initialize_plot(*args, **options)
            return shown if self.finish is None else self.finish(self, shown)

    hv.Store.register({_picture_class(): PicturePlot}, backend)


def picture_of(
    panels: Sequence[Any], layout: PanelLayout, legend: Legend, backend: Backend, is_in_pixels: bool = False
) -> Any:
    """Return drawn panels as a HoloViews layout with all that is around them.

    Parameters
    ----------
    panels : sequence
        HoloViews overlays, row by row.
    layout : PanelLayout
        Of one of them.
    legend : Legend
        Drawn in its panel, unless its place is above or below the panels.
    backend : Backend
    is_in_pixels : bool, default False
        Whether the size of the picture was given in pixels, which are then those of a PNG.
    """
    _register(backend.name)
    literal = legend.with_texts(backend.literal_text)
    finish: Finish
    if backend.name == "bokeh":
        finish = bokeh_page.finisher(layout, literal, backend.literal_text)
    else:
        finish = matplotlib_page.finisher(layout, literal, backend.literal_text, is_in_pixels)
    picture = _picture_class()(list(panels)).cols(layout.columns)
    return picture.opts(**backend.figure(layout), show_title=False, finish=finish)
