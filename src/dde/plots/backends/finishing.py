"""Pictures as a whole: title, caption, legend above or below the panels, size, and text of another size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dde.plots.backends import bokeh_page, composition, matplotlib_page
from dde.plots.backends.base import Backend
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, PanelLayout
from dde.plots.legends import Legend

__all__ = ["FIXED_ROOM", "picture_of"]

#: Inches that a page needs beside what its layout states: for the tool bar.
FIXED_ROOM = bokeh_page.TOOLBAR_PIXELS / FRAME_PIXELS_PER_INCH

Finish = Callable[[Any, Any], Any]


def _register(backend: Backend) -> None:
    """Have HoloViews finish layouts that it draws with a backend; it has no hooks of layouts of its own.

    Pictures are plain layouts of HoloViews, since it nests other classes instead of joining their panels: then
    ``overlay + picture`` could not be drawn.
    """
    import holoviews as hv
    import param

    base: Any = hv.Store.registry[backend.name][hv.Layout]
    # Other packages, such as GeoViews, may replace the class, too.
    if hasattr(base, "finish"):
        return

    class LayoutPlot(base):  # type: ignore[misc]
        finish = param.Callable(default=None, doc="Function of the plot and what is drawn; returns what to show.")

        def initialize_plot(self, *args: Any, **options: Any) -> Any:
            shown = super().initialize_plot(*args, **options)
            if self.finish is not None and composition.is_one_picture(self):
                return self.finish(self, shown)
            return composition.compose(self, shown, backend.literal_text)

    hv.Store.register({hv.Layout: LayoutPlot}, backend.name)


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
    import holoviews as hv

    _register(backend)
    literal = legend.with_texts(backend.literal_text)
    finish: Finish
    if backend.name == "bokeh":
        finish = bokeh_page.finisher(layout, literal, backend.literal_text)
    else:
        finish = matplotlib_page.finisher(layout, literal, backend.literal_text, is_in_pixels)
    picture = hv.Layout(list(panels)).cols(layout.columns)
    return picture.opts(**backend.figure(layout), show_title=False, finish=finish)
