"""Picture of the best value of a hyperparameter: means over the values tried, with the best one marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dde.errors import SelectionError
from dde.plots.answers.cells import (
    Dot,
    Hue,
    arranged,
    category_axis,
    dot_elements,
    facets_along,
    hue_along,
    interval_entries,
    interval_label,
    label_along,
    left_out_words,
    metric_label,
    place_words,
    subject_of,
    value_axis,
    varying_dims,
    with_values,
)
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, range_text
from dde.plots.colours import INK, label_of, markers_of
from dde.plots.curves import columns_for_facets
from dde.plots.figure_layout import Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_best"]

# With more cells than this, one dimension is shown by colours.
_MOST_PANELS_OF_CELLS = 9


@redrawable
@with_picture_options
def plot_best(
    answer: xr.Dataset,
    *,
    backend: BackendName = "bokeh",
    columns: int | None = None,
    frame_size: tuple[int, int] | None = None,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
    palette: Palette | None = None,
    order: Order | None = None,
    size: tuple[float, float] | None = None,
    font_size: float | None = None,
    xlim: Limits | None = None,
    ylim: Limits | None = None,
    legend: LegendPlace = "right",
    caption: bool | str = True,
) -> Any:
    """Draw the mean of each value that was tried, with the best one of each cell marked.

    Values of a hyperparameter are in order and evenly spaced, joined by a line; names, such as those of recipes, are
    one below the other. The best one has a frame, with an edge up where it is the smallest or largest value tried. In
    panels of a single cell, its share of wins is written above it.

    Parameters
    ----------
    answer : xarray.Dataset
        As :func:`dde.analysis.choices.best` returns it, a selection of it, or saved and opened again.
    backend : {"bokeh", "matplotlib"}
    columns : int, optional
        Maximum number of panels in a row.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When the backend does not exist.
    SelectionError
        When no cell has two values, a single value was selected, or there are more panels than can be looked at.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.choices import best
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.sel(run="pretraining")
    >>> picture = plot_best(best(ds, "arc_easy", over="data"), backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    answer, over = answer.compute(), str(answer.attrs["over"])
    if over not in answer["mean_value"].dims:
        raise SelectionError(
            f"a single {over} was selected, so there are no values of it to draw against each other. Select a list of "
            "them, or draw the whole answer."
        )
    # Cells where nothing was compared have no best one to show.
    compared = answer.assign(mean_value=answer.mean_value.where(answer.status == "compared"))
    answer = with_values(compared, "mean_value", over)
    with drawing_with(backend) as drawing:
        return _drawn(answer, over, drawing, columns, frame_size, options)


def _drawn(
    answer: xr.Dataset,
    over: str,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    across = answer[over].dtype.kind not in "fiu"
    dims = varying_dims(answer.mean_value, over)
    cells = int(np.prod([answer.sizes[d] for d in dims]))
    hue_dim = None
    if cells > _MOST_PANELS_OF_CELLS:
        hue_dim = max((d for d in dims if d != "metric"), key=lambda d: answer.sizes[d], default=None)
    answer = arranged(answer, hue_dim, options)
    hue = hue_along(answer, hue_dim, options)
    facets = facets_along(answer, [d for d in dims if d != hue_dim], "mean_value", options)
    count = answer.sizes[over]
    category = category_axis(answer, over, "category", descending=across, options=options)
    dots = [_dots(f.part, over, hue, across) for f in facets]
    size = frame_size or (
        (330, int(np.clip(count * (18 + 8 * max(len(hue.colours), 1)), 120, 640)))
        if across
        else (max(330 if len(facets) < 3 else 260, 44 * count), 230)
    )
    legend = hue.legend(backend, _entries(answer, hue_dim is not None, backend))
    contents = []
    for k, (facet, of_panel) in enumerate(zip(facets, dots, strict=True)):
        # Levels of cells differ, so their panels are not linked.
        value = value_axis(
            f"mean_{k}", metric_label(facet.part, "mean_value", options), [d for line in of_panel for d in line]
        )
        if not across and hue_dim is None and value.limits is not None:
            low, high = value.limits
            value = replace(value, limits=(low, high + 0.12 * (high - low)))
        frame = Frame(value, category) if across else Frame(category, value)
        elements = partial(_elements, facet.part, of_panel, hue, across, backend)
        contents.append(Content.of_elements(frame, facet.title, elements, backend))
    grid = arrange([[content] for content in contents], columns or columns_for_facets(len(facets), 1))
    name = category.label.partition(" [")[0]
    text = caption_of(f"mean {subject_of(answer, options)} by {name}, {place_words(answer)}", *_notes(answer))
    least = (110, 14 * count) if across else (24 * count, 70)
    return draw_figure(grid, size, legend, text, options, backend, least)


def _dots(part: xr.Dataset, over: str, hue: Hue, across: bool) -> list[list[Dot]]:
    """Return the dots of each colour."""
    lines = []
    of_hue = hue.parts(part)
    for j, (colour, here) in enumerate(of_hue):
        line = []
        count = here.sizes[over]
        for k in range(count):
            cell = here.isel({over: k})
            value = float(cell.mean_value)
            if not np.isfinite(value):
                continue
            shift = 0.7 * (0.5 - (j + 0.5) / len(of_hue)) if across and len(of_hue) > 1 else 0.0
            share = float(cell.win_share)
            note = f"n = {int(cell.n_replicates)}" + (f", wins {share:.0%}" if np.isfinite(share) else "")
            position = count - 1 - k + shift if across else float(k)
            name = label_of(label_along(here, over, k))
            line.append(Dot(position, value, float(cell.low), float(cell.high), colour, name, note))
        lines.append(line)
    return lines


def _elements(
    part: xr.Dataset,
    lines: Sequence[Sequence[Dot]],
    hue: Hue,
    across: bool,
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> list[Any]:
    import holoviews as hv

    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    marker = next(iter(markers_of(["a"], backend.name).values()))
    elements: list[Any] = []
    if not across:
        paths = [
            ([d.position for d in line], [d.value for d in line], line[0].colour) for line in lines if len(line) > 1
        ]
        elements += coloured_lines(dims, paths, backend.line("colour"))
    elements += dot_elements([d for line in lines for d in line], (frame.x, frame.y), backend, across, marker)
    marks: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    texts = []
    for (_, here), line in zip(hue.parts(part), lines, strict=True):
        if not line or str(here.status.item()) != "compared":
            continue
        chosen = next((d for d in line if d.name == label_of(here.best.item())), None)
        if chosen is None:
            # An infinite value has no mark, nor has one that was not selected.
            continue
        point = (chosen.value, chosen.position) if across else (chosen.position, chosen.value)
        marks["at_edge" in here and bool(here.at_edge)].append(point)
        wins = float(here.wins)
        if len(lines) == 1 and np.isfinite(wins):
            # Above the bars: beside the mark it would cross them.
            low, high = frame.y.span()
            texts.append((point[0], point[1] + 0.36 if across else high - 0.06 * (high - low), f"{wins:.0%}"))
    for is_edge, points in marks.items():
        if points:
            elements.append(hv.Points(points, dims).opts(**_frame_of(is_edge, backend)))
    if texts:
        elements.append(hv.Labels(texts, dims, "text").opts(**backend.text(INK)))
    return elements


def _frame_of(is_edge: bool, backend: Backend) -> dict[str, Any]:
    """Return options of the frame around the best value: a square, on its corner at the edge of the values tried."""
    options = backend.outline_sample()
    if not is_edge:
        return options
    # A diamond of Bokeh is narrower than its size.
    return options | ({"marker": "diamond", "size": 20} if backend.name == "bokeh" else {"marker": "D"})


def _entries(answer: xr.Dataset, has_hue: bool, backend: Backend) -> list[LegendEntry]:
    direction = {str(v) for v in np.atleast_1d(answer["direction"].values)} if "direction" in answer.coords else set()
    word = next(iter(direction)) if len(direction) == 1 else ""
    has_shares = bool(answer.wins.notnull().any()) and not has_hue
    label = f"best{f' ({word} is better)' if word else ''}{', with its share of wins' if has_shares else ''}"
    entries = [LegendEntry(label, _frame_of(False, backend), "marker")]
    if "at_edge" in answer and bool(answer.at_edge.any()):
        entries.append(LegendEntry("best, the smallest or largest tried", _frame_of(True, backend), "marker"))
    return [*entries, *interval_entries(answer, backend, is_band=False)]


def _notes(answer: xr.Dataset) -> list[str]:
    n = answer.n_replicates.values[np.asarray(answer.mean_value.notnull().values)]
    most = int(n.max())
    over = str(answer.attrs.get("averaged_over", ""))
    members = f"each value: {range_text(n, 'run')}{f' over {over}' if over and most > 1 else ''}"
    words = f"wins in {answer.attrs.get('resamples', '')} resamples" if bool(answer.wins.notnull().any()) else ""
    return [members, interval_label(answer), words, left_out_words(answer)]
