"""Plot the final values of a sweep as a heat map over two hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.dataset.finals import final
from dde.dataset.loss_reductions import is_train_loss, warn_of_reductions
from dde.dataset.provenance import metric_named
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError
from dde.plots.axis_format import axis_label, short_number
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, counted, in_words, range_text, runs_text
from dde.plots.cells import Reduce, differing, rows_of_runs
from dde.plots.colours import is_given, label_of, text_colour
from dde.plots.defaults import (
    AUTO,
    check_names,
    facet_title,
    heatmap_coordinates,
    known_labels,
    ordered_facets,
    run_coordinates,
    task_of,
)
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import ColourBar, Legend, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.times import require_numbers
from dde.schema import factors_of, is_datadecide

__all__ = ["plot_heatmap"]

# Width and height in pixels of a cell, and of the smallest frame.
_CELL, _LEAST = (58, 34), (150, 130)
_MOST_CELLS, _MOST_FACETS = 2_000, 64


@redrawable
@with_picture_options
def plot_heatmap(
    dataset: xr.Dataset,
    metric: str,
    x: str | None = None,
    y: str | None = None,
    *,
    facet_by: str | None = "auto",
    reduce: Reduce | None = None,
    average_over: str | Sequence[str] = (),
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
    """Draw a sweep as a heat map: the final value of each run by two hyperparameters.

    Hyperparameters are in order and evenly spaced; each cell is labelled with its value. The best cell of each panel
    is outlined when the attribute ``direction`` of the metric starts with "higher" or "lower". A cell without a run
    is empty. Repetitions of a treatment are averaged; the tooltip states their number.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection or a sweep of it, or means.
    metric : str
        Name or alias of a data variable.
    x, y : str, optional
        Coordinates of runs. When None, the dimensions of a sweep, else ``learning_rate`` and ``finetune_tokens``; in
        suites other than DataDecide, factors in which runs differ, those of runs first. The caption
        states how many runs have no value of either.
    facet_by : str or None
        Coordinate with a panel for each value. When "auto", the lineage, unless one of its factors is on an axis.
    reduce : callable, optional
        Function of Dataset and metric that returns one value for each run, such as
        ``lambda ds, m: ds[m].max("cumulative_tokens")``; the last value, as by ``ds.dde.final``, when None.
    average_over : str or several
        Coordinates in which runs of a cell may differ, such as ``"seed"``; their values are averaged.
    backend : {"bokeh", "matplotlib"}
    columns : int, optional
        Maximum number of panels in a row.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels; from the number of cells when None.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When a metric, coordinate or backend does not exist.
    SelectionError
        When no run has a value, or runs of one cell differ in more than `average_over`; names a selection.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", method="supervised_ft", metrics=["arc_easy"])
    >>> picture = ds.dde.sel(branch_point="", epochs=1).dde.plot_heatmap("arc_easy", backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    name = metric_named(dataset, metric)
    require_numbers(dataset[name])
    x, y = _axis_coordinates(dataset, x, y)
    if facet_by == AUTO:
        of_lineages = {"lineage", *(n for n, of in factors_of(dataset).items() if of == "lineage")}
        facet_by = None if {x, y} & of_lineages else "lineage"
    names = run_coordinates(dataset)
    check_names(
        {"x": x, "y": y, "facet_by": facet_by}, names, "not a coordinate of runs, so it can't be an axis or facet"
    )
    over = [average_over] if isinstance(average_over, str) else list(average_over)
    for one in over:
        check_names({"average_over": one}, names, "not a coordinate of runs, so there is no mean over it")
    rows = rows_of_runs(final(metrics_alone(dataset, [name]), name) if reduce is None else reduce(dataset, name))
    rows = rows[rows["value"].notna()]
    if is_datadecide(dataset):
        # In DataDecide, a base has no treatment; in other suites it may have one.
        rows = rows[rows["run_type"] != "pretraining"]
    complete = rows[[is_given(a) and is_given(b) for a, b in zip(rows[x], rows[y], strict=True)]]
    if complete.empty:
        raise SelectionError(
            f"no run has a value of {name}, {x} and {y}, so there is nothing to draw. "
            "Choose other coordinates or a metric that the runs have."
        )
    if reduce is not None and is_train_loss(dataset[name]):
        warn_of_reductions(complete.get("reduce_loss", ()))
    keys = [*([facet_by] if facet_by else []), y, x]
    _check_mixtures(complete, keys, x, y, over)
    options.check_order(None, [x, y, facet_by])
    options.check_labels(known_labels(dataset, [name], [x, y, facet_by]))
    grids = _grids(complete, x, y, facet_by, dataset[name], options)
    counted_runs = runs_text(complete["run_id"], complete["lineage"], complete.get("seed", ()))
    with drawing_with(backend) as drawing:
        return _drawn(
            dataset, name, grids, x, y, counted_runs, len(rows) - len(complete), drawing, columns, frame_size, options
        )


def _axis_coordinates(dataset: xr.Dataset, x: str | None, y: str | None) -> tuple[str, str]:
    """Return the coordinates of the axes of a heat map."""
    usual = heatmap_coordinates(dataset)
    across = x or next((name for name in usual if name != y), "run")
    return across, y or next((name for name in usual if name != across), "lineage")


@dataclass(frozen=True)
class _Grid:
    """The cells of one panel.

    Attributes
    ----------
    title : str
    x, y : list
        Values of the coordinates, in order.
    cells : DataFrame
        Columns ``x``, ``y`` (positions), ``value``, ``count``, ``run_id``.
    best : int
        Position of the best cell; -1 where there is none or the direction is unknown.
    """

    title: str
    x: list[Any]
    y: list[Any]
    cells: pd.DataFrame
    best: int


def _check_mixtures(rows: pd.DataFrame, keys: list[str], x: str, y: str, over: list[str]) -> None:
    mixed = differing((group for _, group in rows.groupby(keys, sort=False)), over)
    if not mixed:
        return
    shown = "; ".join(f"{n}: {', '.join(map(_written, values[:5]))}" for n, values in mixed.items())
    first = next(iter(mixed))
    usual = _written(rows[first].mode(dropna=False)[0])
    raise SelectionError(
        f"cells of {x} and {y} have several runs that differ in {', '.join(mixed)} ({shown}), so no value is right. "
        f"Select one of each, such as ds.dde.sel({first}={usual}), separate them with x=, y= or facet_by=, or "
        f"average them: average_over={list(mixed)}."
    )


def _direction(metric: xr.DataArray) -> str:
    """Return which value of a metric is best, "highest" or "lowest"; "" when its attributes don't state it."""
    direction = str(metric.attrs.get("direction", ""))
    return next((f"{word}est" for word in ("high", "low") if direction.startswith(f"{word}er")), "")


def _written(value: Any) -> str:
    return repr(value) if isinstance(value, str) else label_of(value)


def _grids(
    rows: pd.DataFrame, x: str, y: str, facet_by: str | None, metric: xr.DataArray, options: PictureOptions
) -> list[_Grid]:
    across, up = options.ordered(x, rows[x]), options.ordered(y, rows[y])
    facets = ordered_facets(list(rows[facet_by]) if facet_by else [], facet_by, not is_datadecide(metric), options)
    facet_of_rows = [v if is_given(v) else "" for v in rows[facet_by]] if facet_by else []
    if len(across) * len(up) > _MOST_CELLS or len(facets) > _MOST_FACETS:
        raise SelectionError(
            f"{len(facets)} panels of {len(across)} x {len(up)} cells are more than can be looked at. "
            "Select fewer with ds.dde.sel(...), or choose coordinates with fewer values."
        )
    direction = _direction(metric)
    grids = []
    for facet in facets:
        of_facet = rows if facet_by is None else rows[[v == facet for v in facet_of_rows]]
        cells = [
            (across.index(a), up.index(b), group["value"].mean(), len(group), ", ".join(group["run_id"]))
            for (a, b), group in of_facet.groupby([x, y], sort=True)
        ]
        table = pd.DataFrame(cells, columns=["x", "y", "value", "count", "run_id"])
        best = -1
        if direction and len(table) > 1:
            best = int(table["value"].argmin() if direction == "lowest" else table["value"].argmax())
        grids.append(_Grid(facet_title(of_facet.to_dict("records"), facet_by, facet, options), across, up, table, best))
    return grids


def _drawn(
    dataset: xr.Dataset,
    metric: str,
    grids: list[_Grid],
    x: str,
    y: str,
    counted_runs: str,
    left_out: int,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    """Draw grids as panels with common axes and colours."""
    import holoviews as hv

    across, up = grids[0].x, grids[0].y
    cells = max(_CELL[0] * len(across), _LEAST[0]), max(_CELL[1] * len(up), _LEAST[1])
    size = frame_size or cells
    label = options.label(metric, axis_label(dataset[metric]))
    bar = ColourBar.of_values(label, pd.concat([g.cells["value"] for g in grids]))
    bar = replace(bar, colours=options.map_colours(bar.colours))
    best = LegendEntry(f"best ({_direction(dataset[metric])})", backend.outline_sample(), "marker")
    legend = Legend("", [best] if any(g.best >= 0 for g in grids) else [], bar)
    axes = [
        Axis(f"{name}_place", options.label(name, axis_label(dataset[name])), limits=(-0.5, len(values) - 0.5),
             ticks=tuple((float(k), options.label(v)) for k, v in enumerate(values)))
        for name, values in ((x, across), (y, up))
    ]  # fmt: skip
    frame = Frame(axes[0], axes[1], grid=False)
    task = options.label(metric, task_of(dataset[metric])[0])
    contents = [
        Content.of_elements(
            frame,
            grid.title if len(grids) > 1 or "lineages" not in grid.title else task,
            partial(_tiles, hv, grid, bar, axes, backend),
            backend,
        )
        for grid in grids
    ]
    rows = arrange([[content] for content in contents], columns or max(min(3, 1100 // (size[0] + 110)), 1))
    averaged = sorted({int(n) for g in grids for n in g.cells["count"]})
    text = caption_of(
        f"{in_words(label)} by {in_words(axes[0].label)} and {in_words(axes[1].label)}",
        counted_runs,
        f"cells average {range_text(averaged)} runs" if averaged[-1] > 1 else "",
        _note(left_out, x, y),
    )
    # Numbers in cells can be read in three fifths of the usual width.
    least = int(0.6 * _CELL[0] * len(across)), int(0.6 * _CELL[1] * len(up))
    return draw_figure(rows, size, legend, text, options, backend, least)


def _note(left_out: int, *names: str) -> str:
    if not left_out:
        return ""
    missing = " or ".join(name.replace("_", " ") for name in names)
    return f"left out: {counted(left_out, 'run')} without {missing}"


def _tiles(
    hv: Any,
    grid: _Grid,
    bar: ColourBar,
    axes: Sequence[Axis],
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> Any:
    """Return the tiles of a grid with their values as text."""
    low, high = bar.span
    digits = int(np.clip(np.ceil(-np.log10((high - low) / 100)), 0, 4)) if high - low < 1000 else 0
    tooltips = [(axes[0].label, "@across"), (axes[1].label, "@up"), (bar.title, "@value{0.0000}"),
                ("runs averaged", "@count"), ("run id", "@run_id")]  # fmt: skip
    kinds: dict[bool, list[Any]] = {False: [], True: []}
    written: dict[tuple[str, bool], list[Any]] = {}
    for k, (i, j, value, count, run_id) in enumerate(grid.cells.itertuples(index=False)):
        colour = bar.colour(value)
        best = k == grid.best
        inset = 0.04 if best else 0.0
        box = (i - 0.5 + inset, j - 0.5 + inset, i + 0.5 - inset, j + 0.5 - inset)
        kinds[best].append((*box, colour, label_of(grid.x[i]), label_of(grid.y[j]), value, count, run_id))
        text = f"{value:.{digits}f}" if abs(value) < 1e4 else short_number(value)
        written.setdefault((text_colour(colour), best), []).append((i, j, text))
    dims = [hv.Dimension(axis.name) for axis in axes]
    corners = [*dims, f"{dims[0].name}_end", f"{dims[1].name}_end"]
    fields = ["colour", "across", "up", "value", "count", "run_id"]
    tiles = [
        hv.Rectangles(boxes, corners, fields).opts(**backend.tiles(tooltips, best))
        for best, boxes in kinds.items()
        if boxes
    ]
    labels = [
        hv.Labels(texts, dims, "text").opts(**backend.text(colour, bold=best))
        for (colour, best), texts in written.items()
    ]
    return [*tiles, *labels]
