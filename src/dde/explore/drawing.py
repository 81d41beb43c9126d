"""What the page shows of some choices: the picture, its runs, and both as files."""

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
from dde.explore.listing import run_table
from dde.explore.selection import Choices, apply, plot_options
from dde.plots.backends.base import ONE_AT_A_TIME
from dde.plots.curves import curve_panels
from dde.plots.files import png_bytes, svg_bytes
from dde.plots.segments import OBSERVED, Segment

__all__ = ["Drawing", "Loaded", "draw", "highlight", "picture_bytes", "table_bytes"]

# Selections that are kept in memory, so that another colour or scale reads nothing.
_KEPT = 4

# Room for panels beside the controls, on a window of 1400 pixels; and what of it frames can't have.
_ROOM, _LEGEND, _LABELS = 1040, 170, 84


class Loaded:
    """Selections of one Dataset with their values, the latest few of them.

    Parameters
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset
        self._kept: OrderedDict[tuple[object, ...], xr.Dataset] = OrderedDict()

    def get(self, choices: Choices) -> xr.Dataset:
        """Return what is chosen, in memory; reads what is not there yet and nothing else."""
        key = choices.data_key
        if key not in self._kept:
            # Computed on a copy: what is chosen shares its lazy arrays with the Dataset.
            self._kept[key] = apply(self.dataset, choices).compute()
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


@dataclass
class Drawing:
    """A picture with what belongs to it.

    Attributes
    ----------
    choices : Choices
    shown : xarray.Dataset
        In memory.
    model : Bokeh model
        Its panels.
    table : pandas.DataFrame
        A row for each run.
    notes : list of str
        What was warned of.
    alphas : dict
        Opacity of what was faded, to give it back.
    """

    choices: Choices
    shown: xr.Dataset
    model: Any
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    alphas: dict[str, float] = field(default_factory=dict, repr=False)


def draw(loaded: Loaded, choices: Choices) -> Drawing:
    """Return the drawing of what is chosen.

    Raises
    ------
    DdeError
        When nothing is chosen, nothing matches, or there is nothing to draw.
    """
    import holoviews as hv

    with ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DdeWarning)
        shown = loaded.get(choices)
        with _same_backend_after():
            picture = shown.dde.plot(**plot_options(choices, loaded.dataset), backend="bokeh")
            model = hv.render(picture, backend="bokeh")
        table = run_table(shown)
    _fit(model)
    notes = [str(w.message) for w in caught if issubclass(w.category, DdeWarning)]
    return Drawing(choices, shown, model, table, list(dict.fromkeys(notes)))


def picture_bytes(drawing: Drawing, suffix: str) -> bytes:
    """Return the picture as matplotlib draws it for print: ``.png``, or ``.svg`` with its text as text."""
    with ONE_AT_A_TIME, _same_backend_after():
        picture = drawing.shown.dde.plot(**plot_options(drawing.choices, drawing.shown), backend="matplotlib")
        return png_bytes(picture) if suffix == ".png" else svg_bytes(picture)


def table_bytes(drawing: Drawing) -> bytes:
    """Return the long table of what is shown as parquet."""
    written = io.BytesIO()
    drawing.shown.dde.to_frame().to_parquet(written, index=False)
    return written.getvalue()


def highlight(drawing: Drawing, run_ids: Collection[str]) -> None:
    """Make the curves of some runs stand out of the others; of none, show all alike.

    Parameters
    ----------
    drawing : Drawing
        Its model is changed.
    run_ids : collection of str
        As in the column of its table.
    """
    figures = [figure for figure, _, _ in _cells(drawing.model)]
    panels = [
        panel for row in curve_panels(drawing.shown, **plot_options(drawing.choices, drawing.shown)) for panel in row
    ]
    chosen = [[(s, since) for s, since in panel.placed() if s.run_id in run_ids] for panel in panels]
    for figure in figures:
        entries = {renderer for legend in figure.legend for item in legend.items for renderer in item.renderers}
        figure.renderers = [r for r in figure.renderers if r.name != _MARK]
        for renderer in figure.renderers:
            if renderer not in entries and hasattr(renderer, "glyph"):
                # Means are of several runs: none of them stands out.
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
        # What is there for the pointer alone stays unseen.
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
    """Make the panels as large as there is room for beside the controls."""
    cells = _cells(model)
    rows, columns = (1 + max(cell[k] for cell in cells) for k in (1, 2))
    width = int(min(max((_ROOM - _LEGEND) / columns - _LABELS, 200), 640))
    for figure, _, _ in cells:
        figure.frame_width, figure.frame_height = width, min(360 if rows == 1 else 250, width)


@contextmanager
def _same_backend_after() -> Iterator[None]:
    """Leave HoloViews' backend as it was: pictures in other cells of a notebook go by it."""
    import holoviews as hv

    before = hv.Store.current_backend
    try:
        yield
    finally:
        if before in hv.Store.renderers:
            hv.Store.set_current_backend(before)
