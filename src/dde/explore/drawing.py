"""Draw the choices of the page: the picture, the table of its runs, and both as files."""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import xarray as xr

from dde.errors import DdeWarning
from dde.explore.choices import Choices, apply, plot_options
from dde.explore.listing import run_table
from dde.plots.backends.base import ONE_AT_A_TIME
from dde.plots.curve_segments import OBSERVED, Segment
from dde.plots.curves import curve_panels
from dde.plots.files import png_bytes, svg_bytes

__all__ = ["Drawing", "Loaded", "draw", "highlight", "picture_bytes", "table_bytes"]

# Number of selections cached in memory, so that changing a colour or scale reads nothing.
_MOST_CACHED = 4

# Width for panels beside the controls in a window of 1400 pixels, and the parts of it for the legend and labels.
_ROOM, _LEGEND, _LABELS = 1040, 170, 84


class Loaded:
    """Cache of the latest few selections of one Dataset, with their values.

    Parameters
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset
        self._cached: OrderedDict[tuple[object, ...], xr.Dataset] = OrderedDict()

    def get(self, choices: Choices) -> xr.Dataset:
        """Return the selection in memory, read on the first request only."""
        key = choices.data_key
        if key not in self._cached:
            # compute() copies: the selection shares its lazy arrays with the Dataset, which must stay lazy.
            self._cached[key] = apply(self.dataset, choices).compute()
        self._cached.move_to_end(key)
        while len(self._cached) > _MOST_CACHED:
            self._cached.popitem(last=False)
        return self._cached[key]


@dataclass
class Drawing:
    """A picture with its selection and table.

    Attributes
    ----------
    choices : Choices
    shown : xarray.Dataset
        The selection, in memory.
    model : Bokeh model
        The panels.
    table : pandas.DataFrame
        A row for each run.
    notes : list of str
        Texts of warnings.
    alphas : dict
        Original opacity of faded glyphs, to restore it.
    """

    choices: Choices
    shown: xr.Dataset
    model: Any
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    alphas: dict[str, float] = field(default_factory=dict, repr=False)


def draw(loaded: Loaded, choices: Choices) -> Drawing:
    """Draw the current selection.

    Raises
    ------
    DdeError
        When nothing is selected, nothing matches, or there is nothing to draw.
    """
    import holoviews as hv

    with ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DdeWarning)
        shown = loaded.get(choices)
        with _backend_restored():
            picture = shown.dde.plot(**plot_options(choices, loaded.dataset), backend="bokeh")
            model = hv.render(picture, backend="bokeh")
        table = run_table(shown)
    _fit(model)
    notes = [str(w.message) for w in caught if issubclass(w.category, DdeWarning)]
    return Drawing(choices, shown, model, table, list(dict.fromkeys(notes)))


def picture_bytes(drawing: Drawing, suffix: str) -> bytes:
    """Return the picture drawn with Matplotlib: ``.png``, or ``.svg`` with text as text."""
    with ONE_AT_A_TIME, _backend_restored():
        picture = drawing.shown.dde.plot(**plot_options(drawing.choices, drawing.shown), backend="matplotlib")
        return png_bytes(picture) if suffix == ".png" else svg_bytes(picture)


def table_bytes(drawing: Drawing) -> bytes:
    """Return the long table of the selection as Parquet."""
    written = io.BytesIO()
    drawing.shown.dde.to_frame().to_parquet(written, index=False)
    return written.getvalue()


def highlight(drawing: Drawing, run_ids: Collection[str]) -> None:
    """Highlight the curves of some runs and fade the others; without runs, restore all.

    Parameters
    ----------
    drawing : Drawing
        Its model is changed.
    run_ids : collection of str
        As in the column ``run_id`` of the table.
    """
    figures = [figure for figure, _, _ in _cells(drawing.model)]
    panels = [
        panel for row in curve_panels(drawing.shown, **plot_options(drawing.choices, drawing.shown)) for panel in row
    ]
    chosen = [[(s, since) for s, since in panel.shifted_segments() if s.run_id in run_ids] for panel in panels]
    for figure in figures:
        entries = {renderer for legend in figure.legend for item in legend.items for renderer in item.renderers}
        figure.renderers = [r for r in figure.renderers if r.name != _MARK]
        for renderer in figure.renderers:
            if renderer not in entries and hasattr(renderer, "glyph"):
                # A mean averages several runs, so none is highlighted.
                _fade(renderer.glyph, drawing.alphas, any(chosen))
    for figure, panel, segments in zip(figures, panels, chosen, strict=True):
        for segment, since in segments:
            _trace(figure, segment, since, panel.look.colour(segment))


_MARK = "highlighted run"
_FADED = 0.15


def _fade(glyph: Any, alphas: dict[str, float], faded: bool) -> None:
    for name in ("line_alpha", "fill_alpha"):
        if not hasattr(glyph, name):
            continue
        # Glyphs that only carry tooltips stay invisible.
        usual = alphas.setdefault(f"{glyph.id} {name}", getattr(glyph, name))
        if isinstance(usual, (int, float)):
            setattr(glyph, name, min(usual, _FADED) if faded else usual)


def _trace(figure: Any, segment: Segment, since: float, colour: str) -> None:
    lines = segment.lines(since)
    if lines:
        xs, ys = zip(*lines, strict=True)
        figure.multi_line(list(xs), list(ys), color=colour, line_width=3.5, name=_MARK)
    if segment.anchor:
        xs, ys = (segment.anchor[0] - since, segment.x[0] - since), (segment.anchor[1], segment.values[0])
        figure.line(xs, ys, color=colour, line_width=2.5, line_dash="dashed", name=_MARK)
    seen = segment.support == OBSERVED
    figure.scatter(
        segment.x[seen] - since, segment.values[seen], color=colour, size=4 if segment.is_log else 9, name=_MARK
    )


def _cells(model: Any) -> list[tuple[Any, int, int]]:
    """Return the figures of a picture with their row and column, row by row."""
    cells = [tuple(child[:3]) for child in getattr(model, "children", [(model, 0, 0)])]
    return sorted((cell for cell in cells if hasattr(cell[0], "renderers")), key=lambda cell: cell[1:])


def _fit(model: Any) -> None:
    """Size the panels to the width beside the controls."""
    cells = _cells(model)
    rows, columns = (1 + max(cell[k] for cell in cells) for k in (1, 2))
    width = int(min(max((_ROOM - _LEGEND) / columns - _LABELS, 200), 640))
    for figure, _, _ in cells:
        figure.frame_width, figure.frame_height = width, min(360 if rows == 1 else 250, width)


@contextmanager
def _backend_restored() -> Iterator[None]:
    """Restore HoloViews' current backend, on which pictures in other notebook cells depend."""
    import holoviews as hv

    before = hv.Store.current_backend
    try:
        yield
    finally:
        if before in hv.Store.renderers:
            hv.Store.set_current_backend(before)
