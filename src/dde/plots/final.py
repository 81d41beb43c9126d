"""Plot the final values of runs as dots with intervals, one row for each recipe or treatment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from dde.analysis.footing import Place
from dde.analysis.intervals import Interval
from dde.analysis.options import names_of
from dde.errors import SelectionError
from dde.plots.answers.cells import Dot, dot_elements, short_label
from dde.plots.axis_format import axis_label, padded_range
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.colours import INK, NEUTRAL, PRIMARY, is_given, is_ordered, markers_of
from dde.plots.curves import columns_for_facets
from dde.plots.defaults import AUTO, check_names, hue_label, known_labels
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.hue_legend import hue_legend
from dde.plots.legends import MOST_ENTRIES, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.run_values import (
    Means,
    RunValues,
    caption_of_means,
    finals_of,
    labels_of,
    means_of,
    metric_texts,
    metrics_in_panels,
    metrics_words,
    not_drawn_words,
    place_in_words,
    require_drawable,
    require_value,
    resolve_over,
    short_names,
    varying_names,
)

__all__ = ["plot_final"]

# More rows are unreadable.
_MOST_ROWS = 240
# Crowd size that gives the opacity of single runs beside their mean.
_FAINT = 200


@redrawable
@with_picture_options
def plot_final(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    *,
    at: Place | None = None,
    group_by: str | Sequence[str] = AUTO,
    hue_by: str | None = AUTO,
    over: str | Sequence[str] | None = AUTO,
    interval: Interval = "t",
    level: float = 0.95,
    sort: bool = True,
    log_x: bool = False,
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
    """Draw the final values of runs as dots: means over seeds and replicates with their interval, sorted.

    There is a row for each recipe or treatment, and a panel for each metric. Beside a mean, each of its runs is a faint
    point.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection or a sweep of it, or saved and opened again.
    metric : str or several, optional
        Names, aliases, patterns such as ``"*"``, or ``"olmes"`` for the tasks of OLMES, in their order. The first
        metric when None.
    at : {"schedule", "last", "common"}, float or mapping, optional
        Place of the value of each run: its planned end, its last observation, the furthest tokens that all runs reach,
        a number of cumulative tokens, or a position on another axis, such as ``{"cumulative_compute": 1e19}``. When
        None, the planned end, or the last observation where no schedule is known. The caption counts runs that have no
        value there.
    group_by : str or several, default "auto"
        Coordinates whose values have a row each; when "auto", those in which runs differ besides the hue.
    hue_by : str or None, default "auto"
        Coordinate that gives dots their colour. When "auto" and runs differ in several factors, the ordered one with
        the fewest values, such as the size.
    over : str, several or None, default "auto"
        Factors that means are over: the seed and the replicate when "auto". When None, each run has a dot.
    interval : {"t", "bootstrap", "none"}, default "t"
        Of means of at least two runs.
    level : float, default 0.95
        Confidence level of the interval.
    sort : bool, default True
        Sort rows by the first metric, best first: by its attribute ``direction``, else the highest first. When False,
        rows are in the order of their coordinates.
    log_x : bool, default False
        Logarithmic axes of values.
    backend : {"bokeh", "matplotlib"}
    columns : int, optional
        Maximum number of panels in a row.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels; when None, the height follows from the number of rows.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When a metric, coordinate, place, interval or backend does not exist.
    SelectionError
        When no run has a value there, means would be of runs that end at different tokens, or there are more rows or
        panels than can be looked at.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy", "piqa"])
    >>> bases = ds.dde.sel(run="pretraining")
    >>> picture = bases.dde.plot_final(["arc_easy", "piqa"], backend="matplotlib")
    >>> finetuned = ds.dde.sel(params="150M", run_type="supervised_ft").dde.plot_final("piqa", hue_by="data")
    """
    options = PictureOptions.of(locals())
    names = metrics_in_panels(dataset, metric)
    found = finals_of(dataset, names, at)
    require_value(found)
    means = means_of(found, resolve_over(found, over), interval, level)
    hue_by = _auto_hue(means, found) if hue_by == AUTO else hue_by
    group_names = _group_names(means, found, group_by, hue_by)
    check_names({"hue_by": hue_by}, means.rows.columns.drop("members"), _NO_COORDINATE)
    options.check_order(hue_by, group_names)
    options.check_labels(known_labels(dataset, names, [hue_by, *group_names]))
    rows = _sorted_rows(dataset, means, names, group_names, sort, options)
    if len(rows.labels) > _MOST_ROWS:
        raise SelectionError(
            f"{len(rows.labels)} rows are more than can be looked at ({_MOST_ROWS}). Select fewer runs with "
            "ds.dde.sel(...), or group them by fewer coordinates: group_by='data'."
        )
    with drawing_with(backend) as drawing:
        return _drawn(dataset, found, means, rows, hue_by, log_x, options, drawing, columns, frame_size)


_NO_COORDINATE = "not a coordinate of runs, so it can't distinguish them"


def _auto_hue(means: Means, found: RunValues) -> str | None:
    """Return the ordered factor with the fewest values, where groups differ in several factors."""
    names = varying_names(means, found.factors)
    values = {n: {v for v in means.rows[n] if is_given(v)} for n in names}
    ordered = [n for n in names if n in found.factors and is_ordered(values[n]) and len(values[n]) <= MOST_ENTRIES]
    return min(ordered, key=lambda n: len(values[n])) if len(names) > 1 and ordered else None


def _group_names(means: Means, found: RunValues, group_by: str | Sequence[str], hue_by: str | None) -> list[str]:
    if group_by == AUTO:
        return varying_names(means, found.factors, *filter(None, [hue_by]))
    names = names_of("group_by", group_by)
    for name in names:
        check_names({"group_by": name}, means.rows.columns.drop("members"), _NO_COORDINATE)
    return list(names)


@dataclass(frozen=True)
class _Rows:
    """The rows of a picture, from above.

    Attributes
    ----------
    labels : sequence of str
    of_group : sequence of int
        Row of each group.
    title : str
        What rows are.
    """

    labels: Sequence[str]
    of_group: Sequence[int]
    title: str


def _sorted_rows(
    dataset: xr.Dataset, means: Means, names: Sequence[str], by: Sequence[str], sort: bool, options: PictureOptions
) -> _Rows:
    """Return rows in the order of the options, else best first, or in the order of their coordinates."""
    texts = labels_of(means.rows, by, short_names(by), options.label) if by else ["all runs"] * len(means.rows)
    distinct = list(dict.fromkeys(texts))
    lower = dataset[names[0]].attrs.get("direction") == "lower"
    best = {t: np.inf for t in distinct}
    for text, value in zip(texts, means.mean["value"][0], strict=True):
        best[text] = np.fmin(best[text], value if lower else -value)
    position = {t: k for k, t in enumerate(distinct)}
    if len(by) == 1 and options.orders(by[0]):
        values = options.ordered(by[0], means.rows[by[0]])
        position = {options.label(v): k for k, v in enumerate(values)}
        ordered = sorted(distinct, key=lambda t: position.get(t, len(position)))
    elif sort:
        ordered = sorted(distinct, key=lambda t: (best[t], position[t]))
    else:
        values = [options.ordered(name, means.rows[name]) for name in by]
        ranks = [
            tuple(v.index(row[n]) if row[n] in v else len(v) for n, v in zip(by, values, strict=True))
            for row in means.rows.to_dict("records")
        ]
        first = {t: min(r for r, text in zip(ranks, texts, strict=True) if text == t) for t in distinct}
        ordered = sorted(distinct, key=lambda t: (first[t], position[t]))
    title = (
        options.label(by[0], axis_label(dataset[by[0]]) if by[0] in dataset.coords else by[0]) if len(by) == 1 else ""
    )
    return _Rows(ordered, [ordered.index(t) for t in texts], title)


def _drawn(
    dataset: xr.Dataset,
    found: RunValues,
    means: Means,
    rows: _Rows,
    hue_by: str | None,
    log_x: bool,
    options: PictureOptions,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
) -> Any:
    colours = options.colours(hue_by, means.rows[hue_by]) if hue_by else {}
    plain = NEUTRAL if colours else options.plain(PRIMARY)
    count = len(rows.labels)
    places = Axis(
        "final_row", rows.title, limits=(-count + 0.4, 0.6),
        ticks=tuple((-float(k), short_label(t)) for k, t in enumerate(rows.labels)),
    )  # fmt: skip
    contents, infinite, below = [], int(np.isinf(means.mean["value"]).sum()), 0
    for k, name in enumerate(found.names):
        every, singles = _dots(found, means, rows, k, hue_by, colours, plain)
        dots, singles = ([d for d in part if not log_x or d.value > 0] for part in (every, singles))
        below += len(every) - len(dots)
        if not dots:
            continue
        heading, label = metric_texts(dataset, name, len(found.names) > 1, options)
        values = [v for d in dots for v in (d.value, d.low, d.high)] + [d.value for d in singles]
        x = Axis(name, label, log_x, limits=padded_range(values, log=log_x))
        frame = Frame(x, places)
        contents.append(Content.of_elements(frame, heading, _elements_of(dots, singles, backend), backend))
    not_drawn = not_drawn_words("dot", infinite, below)
    require_drawable(contents, not_drawn, "log_x" if below else "")
    height = count * (15 if count > 60 else 20 + 4 * min(max(len(colours) - 1, 0), 8)) + 12
    frame_size = frame_size or (330 if len(contents) < 4 else 220, max(height, 90))
    grid = arrange([[c] for c in contents], columns or columns_for_facets(len(contents), 1))
    entries = _entries(means, any(np.isfinite(means.low["value"]).ravel()), backend)
    if hue_by and any(not is_given(v) for v in means.rows[hue_by]):
        circle = markers_of([""], backend.name)[""]
        entries.insert(0, LegendEntry("none", backend.points(plain, circle), "marker"))
    found_legend = hue_legend(hue_label(dataset, hue_by, options), colours, options, backend, entries, "marker")
    subject = f"{metrics_words(dataset, found.names, options)} {place_in_words(found.place)}"
    return draw_figure(
        grid, frame_size, found_legend, caption_of_means(subject, found, means, not_drawn), options, backend
    )


def _dots(
    found: RunValues,
    means: Means,
    rows: _Rows,
    k: int,
    hue_by: str | None,
    colours: Mapping[Any, str],
    plain: str,
) -> tuple[list[Dot], list[Dot]]:
    """Return the dots of a metric, and the points of single runs beside means."""
    without = [""] if hue_by and not all(map(is_given, means.rows[hue_by])) else []
    order = [*colours, *without]
    dots, singles = [], []
    for g, facts in enumerate(means.rows.to_dict("records")):
        value, n = float(means.mean["value"][k, g]), int(means.count[k, g])
        if not np.isfinite(value):
            continue
        shade = facts[hue_by] if hue_by and is_given(facts[hue_by]) else ""
        # Dots of one row are beside each other, in the order of the legend from above.
        shift = 0.6 * (0.5 - (order.index(shade) + 0.5) / len(order)) if len(order) > 1 and shade in order else 0.0
        position, colour = shift - rows.of_group[g], colours.get(shade, plain)
        what = ", ".join(str(facts[c]) for c in ("lineage", "run") if is_given(facts.get(c)))
        note = f"mean of {n} runs" if n > 1 else str(facts["run_id"])
        low, high = float(means.low["value"][k, g]), float(means.high["value"][k, g])
        dots.append(Dot(position, value, low, high, colour, what or rows.labels[rows.of_group[g]], note))
        if n > 1:
            for member, row in zip(means.members["value"][k, g], facts["members"], strict=False):
                if np.isfinite(member):
                    run = found.rows.iloc[row]
                    singles.append(
                        Dot(position, float(member), np.nan, np.nan, colour, what, str(run.get("run_id", "")))
                    )
    return dots, singles


def _elements_of(dots: Sequence[Dot], singles: Sequence[Dot], backend: Backend) -> Any:
    """Return the function that draws a panel."""

    def elements(frame: Frame, layout: PanelLayout) -> list[Any]:
        import holoviews as hv

        dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
        marker = markers_of([""], backend.name)[""]
        drawn: list[Any] = []
        if singles:
            points = [(d.value, d.position, d.colour, d.name, d.note) for d in singles]
            look = backend.points("colour", marker, False, [("", "@what"), ("run", "@note")], _FAINT)
            drawn.append(hv.Points(points, dims, ["colour", "what", "note"]).opts(**look))
        shown = [replace(d, low=float(frame.x.drawable(np.array([d.low]))[0])) for d in dots]
        return [*drawn, *dot_elements(shown, (frame.x, frame.y), backend, True, marker)]

    return elements


def _entries(means: Means, has_bars: bool, backend: Backend) -> list[LegendEntry]:
    entries = []
    if (means.count > 1).any():
        circle = markers_of([""], backend.name)[""]
        entries.append(LegendEntry("single run", backend.points(INK, circle, crowd=_FAINT), "marker"))
    if has_bars and means.interval:
        entries.append(LegendEntry(means.interval.partition(" (")[0], backend.line(INK)))
    return entries
