"""Curves of pretraining and post-training, joined: the first picture of a sweep."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from dde.errors import DdeWarning, SelectionError, UnknownNameError, near_names
from dde.names import parse_metric
from dde.plots.axes import axis_label, padded_range
from dde.plots.backends import BackendName, Place, backend_of
from dde.plots.colours import colours_of, label_of, markers_of, sorted_values
from dde.plots.panels import OF_LINEAGE, Axis, Frame, Look, Panel, legend_of, value_of, x_values, y_values
from dde.plots.segments import Segment, find_segments

__all__ = ["curve_panels", "plot_curves"]

# Part of the panel that enlarges the branch which is left to the base before it.
_BEFORE = 0.26
# A picture of more rows than this can't be looked at, and takes minutes to draw.
_MOST_ROWS = 40


def plot_curves(
    dataset: xr.Dataset,
    y: str | Sequence[str] | None = None,
    x: str = "cumulative_tokens",
    *,
    hue_by: str | None = "learning_rate",
    style_by: str | None = "checkpoint_type",
    facet_by: str | None = "lineage",
    backend: BackendName = "bokeh",
    log_x: bool = False,
    zoom: bool = True,
    mark_branches: bool = True,
    frame_size: tuple[int, int] = (330, 230),
) -> Any:
    """Draw curves of lineages, pretraining and post-training joined.

    A base is drawn once, in grey where it has no value of the hue, and each derived run in its colour from its
    branch on. Points are observations, lines interpolation between them. A dashed line joins a run's first
    evaluation to its parent's last one; the data holds nothing there.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection of it, or saved and opened again.
    y : str or several
        Metrics, a column of panels for each; the first one of the Dataset when None.
    x : str
        ``cumulative_tokens``, or another coordinate along it, such as ``cumulative_compute``.
    hue_by : str or None
        Coordinate that gives runs their colour: an ordered map for numbers, distinct colours for names.
    style_by : str or None
        Coordinate that gives observations their marker; ``checkpoint_type`` is what was training.
    facet_by : str or None
        Coordinate with a row of panels for each value; None for one row.
    backend : {"bokeh", "matplotlib"}
        Bokeh to explore (point at a cell to see its run), matplotlib to print. It becomes HoloViews' current one.
    log_x : bool
        Logarithmic x, without the point at zero.
    zoom : bool, default True
        Beside each panel, one that enlarges what follows the branch. A metric that the bases don't have is shown
        in that one alone.
    mark_branches : bool, default True
        Mark where runs branch off.
    frame_size : tuple of int
        Width and height of a panel, in pixels.

    Returns
    -------
    holoviews.Layout
        Shows itself in a notebook; ``hv.save`` and ``hv.render`` write it.

    Raises
    ------
    UnknownNameError
        When a metric, coordinate or backend does not exist.
    SelectionError
        When no cell has a value.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> plot_curves(ds, "arc_easy", backend="matplotlib")  # doctest: +SKIP
    """
    rows = curve_panels(
        dataset, y, x, hue_by=hue_by, style_by=style_by, facet_by=facet_by, log_x=log_x, zoom=zoom,
        mark_branches=mark_branches, backend=backend,
    )  # fmt: skip
    drawing = backend_of(backend)
    import holoviews as hv

    panels = [panel for row in rows for panel in row]
    places = [Place(frame_size, i, j, len(rows), len(row)) for i, row in enumerate(rows) for j in range(len(row))]
    legend = legend_of(panels, drawing)
    # One legend for all panels, outside of the last one of the first row, where it covers nothing.
    drawn = [
        panel.draw(drawing, place, legend if (place.row, place.column) == (0, place.columns - 1) else ())
        for panel, place in zip(panels, places, strict=True)
    ]
    return hv.Layout(drawn).cols(len(rows[0])).opts(hv.opts.Layout(**drawing.layout(places[0])))


def curve_panels(
    dataset: xr.Dataset,
    y: str | Sequence[str] | None = None,
    x: str = "cumulative_tokens",
    *,
    hue_by: str | None = "learning_rate",
    style_by: str | None = "checkpoint_type",
    facet_by: str | None = "lineage",
    log_x: bool = False,
    zoom: bool = True,
    mark_branches: bool = True,
    backend: BackendName = "bokeh",
) -> list[list[Panel]]:
    """Return the panels of :func:`plot_curves` before they are drawn: a row per facet, columns per metric."""
    metrics = [_metric(dataset, name) for name in _names(dataset, y)]
    _check_coordinates(dataset, x, {"hue_by": hue_by, "style_by": style_by, "facet_by": facet_by})
    segments = {m: find_segments(dataset, m, x, positive=log_x) for m in metrics}
    every = [s for found in segments.values() for s in found]
    if not every:
        raise SelectionError(
            f"no cell of {', '.join(metrics)} has a value, so there is nothing to draw. "
            "Select other runs or metrics; repository.coverage() says what each run has."
        )
    _warn_of_reductions(segments)
    look = Look(
        hue_by=hue_by or "",
        style_by=style_by or "",
        colours=colours_of(value_of(s, hue_by or "") for s in every),
        markers=markers_of((value_of(s, style_by or "") for s in every), backend),
        hue_label=axis_label(dataset[hue_by]) if hue_by in dataset.coords else (hue_by or "").replace("_", " "),
    )
    # Without a value to tell them apart by, all curves stand in one row.
    facets = (sorted_values(value_of(s, facet_by) for s in every) if facet_by else []) or [None]
    facet_by = None if facets == [None] else facet_by
    if len(facets) > _MOST_ROWS:
        raise SelectionError(
            f"facet_by={facet_by!r} has {len(facets)} values, more rows of panels than can be looked at. "
            "Select fewer with ds.dde.sel(...), or pass facet_by=None or another coordinate."
        )
    titles = [_title(every, facet_by, facet) for facet in facets]
    columns = [
        column for m in metrics for column in _columns(dataset, m, x, segments[m], look, log_x, zoom, mark_branches)
    ]
    return [
        [
            replace(
                panel,
                segments=[s for s in panel.segments if _is_in(s, facet_by, facet)],
                title=title if j == 0 else "",
            )
            for j, panel in enumerate(columns)
        ]
        for facet, title in zip(facets, titles, strict=True)
    ]


def _columns(
    dataset: xr.Dataset,
    metric: str,
    x: str,
    segments: list[Segment],
    look: Look,
    log_x: bool,
    zoom: bool,
    mark_branches: bool,
) -> list[Panel]:
    """Return the panels of one metric with the segments of all facets: all share their ranges."""
    along, up = Axis(x, axis_label(dataset[x])), Axis(metric, axis_label(dataset[metric]))
    columns: list[Panel] = []
    derived = [s for s in segments if not s.is_base]
    window = None
    if zoom and derived:
        units = str(dataset[x].attrs.get("units", ""))
        frame = Frame(
            Axis(f"{x}_since_branch", f"{units or x} since the branch"), Axis(f"{metric}_since_branch", up.label), True
        )
        panel = Panel(segments, look, frame, mark_branches=mark_branches)
        reach = max(x_values((s, s.origin) for s in derived))
        joined = any(s.is_base or s.anchor for s in segments)
        left, right = -(_BEFORE if joined else 0.04) * reach, 1.05 * reach
        y_range = padded_range(y_values(panel.placed(), left, right))
        columns = [replace(panel, frame=replace(frame, x_range=(left, right), y_range=y_range))]
        origins = {s.origin for s in derived}
        if len(origins) == 1 and y_range is not None:
            (origin,) = origins
            window = (
                max(left + origin, min(x_values((s, 0.0) for s in segments))),
                y_range[0],
                right + origin,
                y_range[1],
            )
    if not columns or any(s.is_base for s in segments):
        placed = [(s, 0.0) for s in segments]
        frame = Frame(along, up, log_x=log_x, window=window, y_range=padded_range(y_values(placed, -np.inf, np.inf)))
        x_range = padded_range(x_values(placed), 0.04, log=log_x)
        columns.insert(0, Panel(segments, look, replace(frame, x_range=x_range), mark_branches=mark_branches))
    return columns


def _names(dataset: xr.Dataset, y: str | Sequence[str] | None) -> list[str]:
    if y is None:
        y = [str(name) for name in dataset.data_vars][:1]
    names = [y] if isinstance(y, str) else list(y)
    if not names:
        raise SelectionError("the Dataset holds no metric, so there is nothing to draw. Open it with metrics=[...].")
    return names


def _metric(dataset: xr.Dataset, name: str) -> str:
    if name in dataset.data_vars:
        return name
    try:
        alias = parse_metric(name).name
    except UnknownNameError:
        alias = ""
    if alias not in dataset.data_vars:
        raise UnknownNameError(
            f"{name!r} is no variable of this Dataset, so it can't be drawn."
            f"{near_names(name, map(str, dataset.data_vars))} There are {', '.join(map(str, dataset.data_vars))}."
        )
    return alias


def _check_coordinates(dataset: xr.Dataset, x: str, by: dict[str, str | None]) -> None:
    along = [str(n) for n, c in dataset.coords.items() if "cumulative_tokens" in c.dims] or ["cumulative_tokens"]
    if x not in along:
        raise UnknownNameError(
            f"x={x!r} does not run along cumulative_tokens, so no curve can be drawn over it.{near_names(x, along)} "
            f"There are {' and '.join(along)}."
        )
    others = [str(name) for name in dataset.coords if name not in along]
    for argument, name in by.items():
        known = others if argument == "facet_by" else [*others, "checkpoint_type"]
        if name is not None and name not in known:
            raise UnknownNameError(
                f"{argument}={name!r} is no coordinate that whole runs have, so curves can't be told apart by it."
                f"{near_names(name, known)} There are {', '.join(known)}."
            )


def _title(segments: Sequence[Segment], facet_by: str | None, facet: object) -> str:
    here = [s for s in segments if _is_in(s, facet_by, facet)]
    lineages = list(dict.fromkeys(str(s.facts["lineage"]) for s in here))
    if facet_by not in (None, "lineage"):
        return f"{facet_by}: {label_of(facet)}".replace("_", " ")
    if len(lineages) > 1:
        return f"{len(lineages)} lineages"
    facts = here[0].facts
    if not {"data", "params", "seed_name"} <= set(facts):
        return lineages[0]
    seed = "" if facts["seed_name"] == "default" else f", seed {facts['seed_name']}"
    return f"{facts['params']} on {facts['data']}{seed}"


def _warn_of_reductions(segments: dict[str, list[Segment]]) -> None:
    for metric, found in segments.items():
        ways = {str(s.facts.get("reduce_loss", "")) for s in found if not s.is_base} - {""}
        if metric == "train_loss" and len(ways) > 1:
            warnings.warn(
                f"the runs drawn reduce train_loss in different ways ({', '.join(sorted(ways))}), so their values "
                "can't be compared. Select one: ds.dde.sel(reduce_loss=...).",
                DdeWarning,
                stacklevel=4,
            )


def _is_in(segment: Segment, facet_by: str | None, facet: object) -> bool:
    if facet_by is None:
        return True
    # A base has no treatment: it belongs to the runs of every treatment.
    return bool(value_of(segment, facet_by) == facet) or (segment.is_base and facet_by not in OF_LINEAGE)
