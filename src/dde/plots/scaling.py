"""Plot final metrics against their cost, over all model sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from dde.curves.axes import AXES
from dde.curves.statistics import summarize
from dde.dataset.finals import At, final
from dde.dataset.loss_reductions import is_train_loss, warn_of_reductions
from dde.dataset.provenance import metric_named
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError, warn_caller
from dde.plots.axis_format import axis_label, padded_range, short_number
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, in_words, runs_text, without_names
from dde.plots.cells import Reduce, rows_of_runs
from dde.plots.colours import (
    INK,
    NEUTRAL,
    PRIMARY,
    is_given,
    is_ordered,
    label_of,
    markers_of,
)
from dde.plots.curve_legend import KINDS
from dde.plots.defaults import (
    AUTO,
    band_factors,
    check_names,
    facet_title,
    hue_label,
    known_labels,
    line_factors,
    ordered_facets,
    position_of_finals,
    run_coordinates,
    scaling_hue,
)
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import MOST_ENTRIES, ColourBar, Legend, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.times import require_numbers
from dde.schema import CHANGING_PARAMS, factors_of, is_datadecide, without_replicate

__all__ = ["SCALES", "plot_scaling"]

#: Quantities on the x axis of final values.
SCALES = ("cumulative_compute", "cumulative_tokens", "tokens_per_parameter", "n_params")

_LARGE = (420, 300)
_MOST_FACETS = 36
# Runs whose ends differ by less than this factor are taken to share an intended end.
_SAME_END = 1.05
# Text of `at` in the note below a picture.
_AT_TEXTS = {
    "last": "where each run was last observed",
    "schedule": "at the end of the schedule",
    "common": "at the last tokens that all runs reach",
}
# Crowd size that gives the opacity of single runs beside their mean.
_FAINT = 200


@redrawable
@with_picture_options
def plot_scaling(
    dataset: xr.Dataset,
    metric: str,
    x: Literal["cumulative_compute", "cumulative_tokens", "tokens_per_parameter", "n_params"] = "cumulative_compute",
    *,
    at: Literal["auto", "last", "schedule", "common"] | float = "auto",
    hue_by: str | None = "auto",
    style_by: str | None = "run_type",
    facet_by: str | None = None,
    band: str | None = "auto",
    reduce: Reduce | None = None,
    log_x: bool = True,
    log_y: bool = False,
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
    """Draw final values of runs against their cost, one point per size, joined per recipe and treatment.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection or a sweep of it.
    metric : str
        Name or alias of a data variable.
    x : str
        ``cumulative_compute`` (6 N tokens, including that of ancestors), ``cumulative_tokens`` or
        ``tokens_per_parameter``, each at the point of the value, or ``n_params``.
    at : {"auto", "schedule", "last", "common"} or float, default "auto"
        Position of the value of each run, as in ``ds.dde.final``: the end of its schedule; its last observation, which
        mixes runs that stopped early or continued beyond their schedule with others; the last tokens that all runs
        reach; or a number of cumulative tokens. When "auto", the end of the schedule, or in suites without schedules
        the last observation. Runs that do not reach it are left out. The caption
        states the position and the number of runs left out.
    hue_by, style_by, facet_by : str or None
        Coordinates that give colour, marker and panel. The colour when "auto": the recipe; in suites other than
        DataDecide, the first factor in which runs differ and which at least half of them have, else their label.
    band : str or None
        Join means over seeds and replicates, with a bar for their 95 % interval, and draw each run as a faint point.
        When None, join the runs of each seed separately. In suites other than DataDecide, the factor of lineages that
        means are over; "auto" is the seed.
    reduce : callable, optional
        Function of Dataset and metric that returns one value for each run instead of ``ds.dde.final``, such as
        ``lambda ds, m: ds[m].max("cumulative_tokens")``. The array needs the coordinate ``final_tokens`` unless `x` is
        ``n_params``. `at` does not apply to it.
    log_x, log_y : bool
        Logarithmic axes.
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
        When a metric, coordinate, axis or backend does not exist.
    SelectionError
        When no run has a value there, or `at` is passed along with `reduce`.

    Warns
    -----
    DdeWarning
        When the axes can't show runs that have a value: states their number and names, and leaves them out.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", data=["Dolma1.7", "C4"], metrics=["arc_easy"])
    >>> bases = ds.dde.sel(run="pretraining")
    >>> picture = bases.dde.plot_scaling("arc_easy", backend="matplotlib")
    >>> early = bases.dde.plot_scaling("arc_easy", "n_params", at=2e8, backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    name = metric_named(dataset, metric)
    require_numbers(dataset[name])
    hue_by = scaling_hue(dataset, hue_by)
    names = run_coordinates(dataset)
    check_names({"x": x}, SCALES, "not a quantity to draw final values against")
    by = {"hue_by": hue_by, "style_by": style_by, "facet_by": facet_by}
    check_names(by, names, "not a coordinate of runs, so it can't distinguish them")
    _check_params(dataset, x)
    over = band_factors(dataset, band)
    of_lineages = [n for n, of in factors_of(dataset).items() if of == "lineage"]
    check_names({"band": band}, [AUTO, "seed", *of_lineages], "not a factor of lineages, so there is no mean over it")
    if reduce is None or reduce is final:
        at = position_of_finals(dataset, at)
    values, note = _values(dataset, name, at, reduce)
    rows = rows_of_runs(values)
    rows["_line"] = _line_numbers(rows, line_factors(dataset, over), bool(over))
    rows["x"] = _x_values(rows, x)
    rows = _drawable(rows[rows["value"].notna()], name, x, log_x, log_y)
    if rows.empty:
        last = "Pass at='last' to see what runs were last observed at, or select" if note and at != "last" else "Select"
        raise SelectionError(
            f"no run has a value of {name}{f' {note}' if note else ''}, so there is nothing to draw. {last} other "
            "runs or another metric; repository.coverage() says what each run has."
        )
    if reduce is not None and is_train_loss(dataset[name]) and "reduce_loss" in rows:
        warn_of_reductions(rows["reduce_loss"])
    shown_by = [hue_by, style_by, facet_by]
    options.check_order(hue_by, shown_by)
    options.check_labels(known_labels(dataset, [x, name], shown_by))
    look = _look(rows, dataset, hue_by, style_by, backend, options)
    with drawing_with(backend) as drawing:
        return _drawn(
            rows, dataset, name, x, look, facet_by, (log_x, log_y), note, drawing, columns, frame_size, options
        )


def _values(
    dataset: xr.Dataset, metric: str, at: Literal["auto", "last", "schedule", "common"] | float, reduce: Reduce | None
) -> tuple[xr.DataArray, str]:
    """Return the value of each run, and a note on its position and the runs left out; "" when these are unknown."""
    if reduce is not None and reduce is not final:
        if at not in (AUTO, "schedule"):
            raise SelectionError(
                f"at={at!r} is the position of final values, and reduce= replaces those, so at= would do nothing. "
                "Leave out one of the two."
            )
        return reduce(dataset, metric), ""
    where: At | float = "schedule" if at == "auto" else at
    # Without other metrics: their samplings would have to be read.
    values = final(metrics_alone(dataset, [metric]), metric, at=where)
    words = _AT_TEXTS[where] if isinstance(where, str) else f"at {short_number(where)} tokens"
    left_out = str(values.attrs.get("left_out", ""))
    return values, f"{words}; left out: {without_names(left_out)}" if left_out else words


def _drawable(rows: pd.DataFrame, metric: str, x: str, log_x: bool, log_y: bool) -> pd.DataFrame:
    """Return the rows that the axes can show, and warn of the others by reason."""
    has_x = rows["x"].notna()
    why = {
        f"have no known {x.replace('_', ' ')}": ~has_x,
        f"end at infinite values of {metric}": has_x & ~np.isfinite(rows["value"]),
        "are at or below zero on a logarithmic axis": has_x
        & np.isfinite(rows["value"])
        & (((rows["x"] <= 0) & log_x) | ((rows["value"] <= 0) & log_y)),
    }
    for reason, lost in why.items():
        if len(names := rows.loc[lost, "run_id"]):
            warn_caller(
                f"{len(names)} runs ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) {reason}, so they "
                "can't be shown and are not drawn. Choose another x or linear axes, or select other runs."
            )
    drawable: pd.DataFrame = rows[~np.logical_or.reduce(list(why.values()))]
    return drawable


def _x_values(rows: pd.DataFrame, x: str) -> pd.Series:
    if x == "n_params":
        return rows["n_params"].astype(np.float64)
    if "final_tokens" not in rows:
        raise SelectionError(
            f"the result of reduce= has no coordinate final_tokens, so its values can't be drawn against {x}. Add it "
            "with .assign_coords(final_tokens=...), or pass x='n_params'."
        )
    tokens = rows["final_tokens"]
    if x == "cumulative_tokens":
        return tokens
    n_params = rows["n_params"]
    return 6.0 * n_params * tokens if x == "cumulative_compute" else tokens / n_params


def _check_params(dataset: xr.Dataset, x: str) -> None:
    if x != "cumulative_tokens" and "n_params" not in dataset.coords:
        raise SelectionError(
            f"there is no coordinate n_params, so runs can't be drawn against {x}: the suite states no parameter "
            "counts, or the coordinate was dropped. Declare n_params= in the suite, or pass x='cumulative_tokens'."
        )
    if x in ("cumulative_compute", "tokens_per_parameter") and dataset["n_params"].attrs.get(CHANGING_PARAMS):
        raise SelectionError(
            f"the parameter count changes along the curves of runs, so {x} is not a product of tokens and parameters. "
            "Pass x='cumulative_tokens' or x='n_params'."
        )


def _line_numbers(rows: pd.DataFrame, factors: Sequence[str], is_averaged: bool) -> Any:
    """Return the line number of each run: one line per recipe and treatment, whatever the colour."""
    keys = [rows[n].to_numpy() for n in factors if n in rows]
    treatment = rows["run"].map(without_replicate if is_averaged else str).to_numpy()
    return rows.groupby([*keys, treatment], sort=False, dropna=False).ngroup().to_numpy()


@dataclass(frozen=True)
class _Look:
    hue_by: str | None
    style_by: str | None
    colours: dict[Any, str]
    markers: dict[Any, str]
    label: str
    options: PictureOptions

    def colour(self, row: Any) -> str:
        plain = NEUTRAL if self.colours else self.options.plain(PRIMARY)
        return self.colours.get(row[self.hue_by], plain) if self.hue_by else plain

    def marker(self, row: Any) -> str:
        value = row[self.style_by] if self.style_by else ""
        return self.markers[value if is_given(value) else ""]


def _look(
    rows: pd.DataFrame,
    dataset: xr.Dataset,
    hue_by: str | None,
    style_by: str | None,
    backend: str,
    options: PictureOptions,
) -> _Look:
    styles = [v if is_given(v) else "" for v in rows[style_by]] if style_by else [""]
    in_order = options.ordered(style_by, styles) if options.orders(style_by) else []
    return _Look(
        hue_by,
        style_by,
        options.colours(hue_by, rows[hue_by]) if hue_by else {},
        markers_of([*in_order, *styles], backend),
        hue_label(dataset, hue_by, options),
        options,
    )


def _drawn(
    rows: pd.DataFrame,
    dataset: xr.Dataset,
    metric: str,
    x: str,
    look: _Look,
    facet_by: str | None,
    logs: tuple[bool, bool],
    note: str,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    """Draw the lines of each facet as a panel."""
    import holoviews as hv

    # "" is a value like any other, except in DataDecide, whose bases have no treatment.
    with_none = not is_datadecide(dataset)
    facets = ordered_facets(list(rows[facet_by]) if facet_by else [], facet_by, with_none, options)
    if len(facets) > _MOST_FACETS:
        raise SelectionError(
            f"facet_by={facet_by!r} has {len(facets)} values, more panels than can be looked at. "
            "Select fewer with ds.dde.sel(...), or pass facet_by=None or another coordinate."
        )
    facet_of_rows = [v if is_given(v) else "" for v in rows[facet_by]] if facet_by else []
    parts = [rows if facet is None else rows[[v == facet for v in facet_of_rows]] for facet in facets]
    drawn_lines = [_lines(part) for part in parts]
    bounds = np.concatenate([line.bounds() for lines in drawn_lines for line in lines])
    frame = Frame(
        Axis(x, options.label(x, _x_label(x)), logs[0], padded_range(rows["x"].to_numpy(), log=logs[0])),
        Axis(metric, options.label(metric, axis_label(dataset[metric])), logs[1],
             padded_range(np.concatenate([rows["value"].to_numpy(), bounds]), log=logs[1])),
    )  # fmt: skip
    legend = _legend([line for lines in drawn_lines for line in lines], rows, look, backend)
    size = frame_size or (_LARGE if len(facets) == 1 else (300, 220))
    contents = [
        Content.of_elements(
            frame,
            "" if facet is None else facet_title(part.to_dict("records"), facet_by, facet, options),
            partial(_elements, hv, part, lines, look, backend),
            backend,
        )
        for part, lines, facet in zip(parts, drawn_lines, facets, strict=True)
    ]
    grid = arrange([[content] for content in contents], columns or min(len(facets), 3))
    text = caption_of(
        f"{in_words(frame.y.label)} against {in_words(frame.x.label)}",
        runs_text(rows["run_id"], rows["lineage"], rows.get("seed", ())),
        note,
    )
    return draw_figure(grid, size, legend, text, options, backend)


def _x_label(x: str) -> str:
    if x == "n_params":
        return "parameters"
    rule = AXES[x]
    return rule.label if rule.units in ("1", "tokens") else f"{rule.label} [{rule.units}]"


@dataclass(frozen=True)
class _Line:
    """Points of one recipe and treatment, in order of size; `statistics` as :func:`summarize` gives them."""

    first: pd.Series
    x: Any
    statistics: Any
    most: int

    def bounds(self) -> Any:
        ends = self.statistics[:, 4:].ravel()
        return ends[np.isfinite(ends)]


def _lines(rows: pd.DataFrame) -> list[_Line]:
    lines = []
    for _, line in rows.groupby("_line", sort=False):
        # A suite without parameter counts has no sizes: the points of its runs are their ends.
        by_size = [size for _, size in line.groupby("n_params", sort=True)] if "n_params" in line else [line]
        sizes = [part for size in by_size for part in _by_end(size)]
        most = max(map(len, sizes))
        members = np.full((len(sizes), most), np.nan)
        for k, size in enumerate(sizes):
            members[k, : len(size)] = size["value"]
        statistics = summarize(members, np.ones(len(sizes), np.int64), 0.95)
        lines.append(_Line(line.iloc[0], np.array([s["x"].mean() for s in sizes]), statistics, most))
    return lines


def _by_end(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return runs of one size grouped by their end: no run is near the mean of different ends."""
    rows = rows.sort_values("x")
    apart = rows["x"].to_numpy()[1:] > _SAME_END * rows["x"].to_numpy()[:-1]
    return [rows.iloc[part] for part in np.split(np.arange(len(rows)), np.flatnonzero(apart) + 1)]


def _elements(
    hv: Any,
    rows: pd.DataFrame,
    lines: Sequence[_Line],
    look: _Look,
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> list[Any]:
    """Return the elements of a panel: lines of means, intervals, and points of single runs."""
    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    tooltips = [("run", "@run"), ("run id", "@run_id"), ("model", "@model"), ("tokens", "@tokens"),
                (frame.y.label, f"@{{{frame.y.name}}}{{0.0000}}")]  # fmt: skip
    fields = ["colour", "run", "run_id", "model", "tokens"]
    elements: list[Any] = []
    crowd = len(lines)
    paths: list[tuple[Any, Any, str]] = []
    bars: list[tuple[Any, Any, str]] = []
    means: dict[str, list[Any]] = {}
    for line in lines:
        colour, mean = look.colour(line.first), line.statistics[:, 0]
        if len(line.x) > 1:
            paths.append((line.x, mean, colour))
        for at, low, high in zip(line.x, frame.y.drawable(line.statistics[:, 4]), line.statistics[:, 5], strict=True):
            if np.isfinite(low):
                bars.append(([at, at], [low, high], str(colour)))
        if line.most > 1:
            points = [(a, b, colour) for a, b in zip(line.x, mean, strict=True)]
            means.setdefault(look.marker(line.first), []).extend(points)
    elements += coloured_lines(dims, paths, backend.line("colour", crowd=crowd))
    elements += coloured_lines(dims, bars, backend.line("colour"))
    groups: dict[tuple[str, bool], list[Any]] = {}
    averaged = {(line.first["lineage"], line.first["run"]): line.most > 1 for line in lines}
    several = {
        key for key, group in rows.groupby(["_line", *(["n_params"] if "n_params" in rows else [])]) if len(group) > 1
    } if any(averaged.values()) else set()  # fmt: skip
    for row in rows.to_dict("records"):
        key = (row["_line"], *([row["n_params"]] if "n_params" in row else []))
        tokens = short_number(row["final_tokens"]) if np.isfinite(row.get("final_tokens", np.nan)) else ""
        point = (row["x"], row["value"], look.colour(row), row["run"], row["run_id"], row["lineage"], tokens)
        groups.setdefault((look.marker(row), key in several), []).append(point)
    for (marker, faint), points in groups.items():
        options = backend.points("colour", marker, False, tooltips, _FAINT if faint else 1)
        elements.append(hv.Points(points, dims, fields).opts(**options))
    elements += [hv.Points(p, dims, "colour").opts(**backend.points("colour", marker)) for marker, p in means.items()]
    return elements


def _legend(lines: Sequence[_Line], rows: pd.DataFrame, look: _Look, backend: Backend) -> Legend:
    bar, entries = None, []
    names = KINDS | look.options.names([*look.colours, *look.markers])
    if len(look.colours) > MOST_ENTRIES and is_ordered(look.colours):
        bar = ColourBar.of_ranks(look.label, look.colours, [label_of(v, names) for v in look.colours])
    elif len(look.colours) > 1:
        entries = [LegendEntry(label_of(v, names), backend.line(colour)) for v, colour in look.colours.items()]
    title = look.label if entries else ""
    if look.hue_by and look.colours and not all(is_given(v) for v in rows[look.hue_by]):
        entries.append(LegendEntry("none", backend.line(NEUTRAL)))
    if len(look.markers) > 1:
        entries += [
            LegendEntry(label_of(v, names), backend.points(INK, marker), "marker")
            for v, marker in look.markers.items()
            if is_given(v)
        ]
    most = max(line.most for line in lines)
    if most > 1:
        least = min(int(n) for line in lines for n in line.statistics[:, 1])
        n = f"{least}–{most}" if least < most else str(most)
        entries += [
            LegendEntry(f"mean of {n} runs", backend.points(INK, next(iter(look.markers.values()))), "marker"),
            LegendEntry("95% interval of the mean", backend.line(INK)),
            LegendEntry("single run", backend.points(INK, next(iter(look.markers.values())), crowd=_FAINT), "marker"),
        ]
    return Legend(title, entries, bar)
