"""Plot parallel coordinates of a sweep: a line for each run, through its hyperparameters and final values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.analysis.arrangement import REPLICATES
from dde.analysis.footing import Place
from dde.analysis.options import names_of
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.plots.answers.cells import short_label
from dde.plots.axis_format import axis_label
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, counted, left_out_text
from dde.plots.colours import EDGE, INK, NEUTRAL, PRIMARY, is_given, sorted_values
from dde.plots.defaults import AUTO, check_names, hue_label, known_labels, task_of
from dde.plots.figure_layout import FRAME_PIXELS_PER_INCH, Axis, Frame, PanelLayout, wrapped
from dde.plots.figures import Content, draw_figure
from dde.plots.hue_legend import hue_legend
from dde.plots.legends import ColourBar, Legend, LegendEntry, text_width_inches
from dde.plots.metric_order import metrics_to_draw
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines, framed
from dde.plots.parallel_axes import ParallelAxis, parallel_axis
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable
from dde.plots.run_values import RunValues, finals_of, metrics_words, place_in_words, require_value

__all__ = ["plot_parallel"]

_MOST_AXES, _MOST_LINES = 16, 2000
# Pixels of a line of text, of the least distance of axes, and between the labels of an axis and the axis before it.
_LINE_PIXELS, _AXIS_PIXELS, _GAP_PIXELS = 15, 95, 34
_HEIGHT = 300
# Coordinates that follow from others.
_DERIVED = ("seed_name", "recipe_family", "posttraining_method", "parent_treatment", "variant")


@redrawable
@with_picture_options
def plot_parallel(
    dataset: xr.Dataset,
    metric: str | Sequence[str] | None = None,
    *,
    dimensions: Sequence[str] | None = None,
    hue_by: str | None = AUTO,
    at: Place | None = None,
    log: bool | Sequence[str] | None = None,
    backend: BackendName = "bokeh",
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
    """Draw parallel coordinates: a line for each run through its hyperparameters and its final values.

    Axes of numbers are logarithmic where values span a factor of 20 or more; names are evenly spaced. Runs without a
    value pass through a place of its own below the axis, infinite values, such as an unlimited budget, above it.

    Parameters
    ----------
    dataset : xarray.Dataset
        As returned by :func:`dde.open_lineages`, a selection or a sweep of it, or saved and opened again.
    metric : str or several, optional
        Names, aliases, patterns such as ``"*"``, or ``"olmes"`` for the tasks of OLMES, in their order: an axis for
        each, after those of the hyperparameters. The first metric when None.
    dimensions : sequence of str, optional
        Coordinates of runs and metrics that have an axis, in order. When None, the hyperparameters in which runs
        differ, other than seeds and replicates, then the metrics.
    hue_by : str or None, default "auto"
        Metric or coordinate that gives lines their colour; the first metric when "auto".
    at : {"schedule", "last", "common"}, float or mapping, optional
        Place of final values, as of :func:`dde.plots.final.plot_final`. Runs without a value of any metric are left
        out, and counted in the caption.
    log : bool or sequence of str, optional
        Whether axes of numbers are logarithmic, or which of them are.
    backend : {"bokeh", "matplotlib"}
    frame_size : tuple of int, optional
        Width and height in pixels.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    UnknownNameError
        When a metric, coordinate, place or backend does not exist.
    SelectionError
        When no run has a value, or there are more axes or runs than can be looked at.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", params="150M", method="supervised_ft", metrics=["arc_easy", "piqa"])
    >>> picture = ds.dde.plot_parallel(["arc_easy", "piqa"], backend="matplotlib")
    >>> chosen = ds.dde.plot_parallel("piqa", dimensions=["data", "learning_rate", "piqa"], backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    names = metrics_to_draw(dataset, metric)
    if dimensions is not None:
        dimensions = names_of("dimensions", dimensions)
        names = list(dict.fromkeys([*names, *(d for d in dimensions if d in dataset.data_vars)]))
    if hue_by not in (None, AUTO) and hue_by in dataset.data_vars:
        names = list(dict.fromkeys([*names, str(hue_by)]))
    found = finals_of(dataset, names, at)
    require_value(found)
    has_value = ~np.isnan(found.values["value"]).all(axis=0)
    columns = dict(zip(names, found.values["value"][:, has_value], strict=True))
    rows = found.rows[has_value].reset_index(drop=True).assign(**columns)
    if len(rows) > _MOST_LINES:
        raise SelectionError(
            f"{len(rows):,} runs are more lines than can be looked at ({_MOST_LINES:,}). Select fewer with "
            "ds.dde.sel(...)."
        )
    if dimensions is None:
        dimensions = [*_hyperparameters(rows, found), *names]
    known = [*map(str, rows.columns)]
    for name in dimensions:
        check_names({"dimensions": name}, known, "neither a metric nor a coordinate of runs, so it has no axis")
    hue_by = names[0] if hue_by == AUTO else hue_by
    check_names({"hue_by": hue_by}, known, "neither a metric nor a coordinate of runs, so it gives no colours")
    if not 2 <= len(dimensions) <= _MOST_AXES:
        raise SelectionError(
            f"parallel coordinates need 2 to {_MOST_AXES} axes, and there are {len(dimensions)}: "
            f"{', '.join(dimensions)}. Name those to draw: dimensions=['learning_rate', 'piqa']."
        )
    options.check_order(None if hue_by in names else hue_by, dimensions)
    options.check_labels(known_labels(dataset, names, [hue_by, *dimensions]))
    axes = _axes(dataset, rows, dimensions, names, log, options)
    text = _caption(dataset, found, rows, names, axes, options)
    with drawing_with(backend) as drawing:
        return _drawn(dataset, rows, axes, hue_by, names, text, options, drawing, frame_size)


def _hyperparameters(rows: pd.DataFrame, found: RunValues) -> list[str]:
    """Return the factors in which runs differ, each partition of the runs once, lineages first."""
    order = sorted(found.factors, key=lambda n: ("lineage", "run", "cell").index(found.factors[n]))
    seen: list[tuple[int, ...]] = []
    names = []
    for name in order:
        if name in (*REPLICATES, *_DERIVED) or len({str(v) for v in rows[name] if is_given(v)}) < 2:
            continue
        partition = tuple(pd.factorize(rows[name].map(str))[0].tolist())
        if partition not in seen:
            seen.append(partition)
            names.append(name)
    return names


def _axes(
    dataset: xr.Dataset,
    rows: pd.DataFrame,
    dimensions: Sequence[str],
    metrics: Sequence[str],
    log: bool | Sequence[str] | None,
    options: PictureOptions,
) -> list[ParallelAxis]:
    """Return the axes of a picture.

    Raises
    ------
    UnknownNameError
        When `log` names what has no axis of numbers.
    """
    logs = {} if log is None or isinstance(log, bool) else dict.fromkeys(names_of("log", log), True)
    titles = _titles(dataset, dimensions, metrics)
    axes = []
    for name in dimensions:
        values = [v.item() if isinstance(v, np.generic) else v for v in rows[name]]
        is_log = logs.get(name, log if isinstance(log, bool) else None)
        categories = options.ordered(name, values) if name not in metrics else sorted_values(values)
        label = partial(_value_text, options) if name in metrics else options.label
        axes.append(parallel_axis(name, options.label(name, titles[name]), values, categories, is_log, label))
    numeric = [a.name for a in axes if a.kind != "category"]
    for name in logs:
        if name not in numeric:
            raise UnknownNameError(
                f"log={name!r} is not an axis of numbers in this picture, so it can't be logarithmic."
                f"{near_names(name, numeric)} There are {', '.join(numeric) or 'none'}."
            )
    return axes


def _value_text(options: PictureOptions, value: Any) -> str:
    # An infinite budget is the full mixture, and an infinite value is a run that diverged.
    return str(float(value)) if np.isinf(value) else options.label(value)


def _titles(dataset: xr.Dataset, dimensions: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """Return the title of each axis: the task of a metric, or its label where several metrics have this task."""
    tasks = {m: task_of(dataset[m])[0] for m in metrics}
    twice = {t for t in tasks.values() if list(tasks.values()).count(t) > 1}
    return {
        n: n.replace("_", " ") if n not in tasks else axis_label(dataset[n]) if tasks[n] in twice else tasks[n]
        for n in dimensions
    }


def _drawn(
    dataset: xr.Dataset,
    rows: pd.DataFrame,
    axes: Sequence[ParallelAxis],
    hue_by: str | None,
    metrics: Sequence[str],
    caption: str,
    options: PictureOptions,
    backend: Backend,
    frame_size: tuple[int, int] | None,
) -> Any:
    import holoviews as hv

    colours, found_legend = _colours(dataset, rows, hue_by, metrics, options, backend)
    most = max((len(a.ticks) for a in axes if a.kind == "category"), default=0)
    # Categories are spread over four fifths of the height.
    height = max(_HEIGHT, min(int(1.25 * _LINE_PIXELS * most), 900))
    across = _positions(axes)
    width = int(across[-1]) + _AXIS_PIXELS // 2
    nothing = ((-9.0, " "),)
    frame = Frame(
        Axis("parallel_axis", "", limits=(0.0, float(width)), ticks=nothing),
        Axis("parallel_place", "", limits=(-0.2, 1.2), ticks=nothing),
        grid=False,
    )

    def draw(frame: Frame, layout: PanelLayout, legend: Legend) -> Any:
        frame = _with_titles(frame, axes, across, layout)
        elements = _elements(rows, axes, across, colours, frame, layout, backend)
        drawn = framed(elements, frame, backend, layout, legend)
        return drawn.opts(hv.opts.Overlay(xaxis=None, yaxis=None))

    content = Content(frame, "", draw)
    size = frame_size or (width, height)
    # In a narrower frame, labels would cross the axis before theirs.
    return draw_figure([[content]], size, found_legend, caption, options, backend, (int(0.85 * width), 170))


def _positions(axes: Sequence[ParallelAxis]) -> list[float]:
    """Return the positions of axes in pixels, with room for their labels left of each."""
    widths = [
        FRAME_PIXELS_PER_INCH * max((text_width_inches(short_label(t)) for _, t in a.ticks), default=0) for a in axes
    ]
    positions = [max(widths[0] + 14.0, _AXIS_PIXELS / 2)]
    for width in widths[1:]:
        positions.append(positions[-1] + max(width + _GAP_PIXELS, float(_AXIS_PIXELS)))
    return positions


def _with_titles(frame: Frame, axes: Sequence[ParallelAxis], across: Sequence[float], layout: PanelLayout) -> Frame:
    """Return a frame with room for the titles above the axes."""
    lines = max(map(len, _wrapped_titles(axes, across, frame, layout)))
    low = -0.2 if any(a.has_missing for a in axes) else -0.06
    top = 1.19 if any(a.has_infinite for a in axes) else 1.07
    share = min(lines * _LINE_PIXELS * layout.around.scale / layout.size[1], 0.5)
    return frame.with_limits(y_range=(low, low + (top - low) / (1 - share)))


def _wrapped_titles(
    axes: Sequence[ParallelAxis], across: Sequence[float], frame: Frame, layout: PanelLayout
) -> list[list[str]]:
    """Return the titles of axes in lines that don't reach those of their neighbours."""
    left, right = frame.x.span()
    inches = layout.size[0] / (right - left) / FRAME_PIXELS_PER_INCH
    gaps = [b - a for a, b in itertools.pairwise(across)]
    rooms = [min(a, b) for a, b in zip([*gaps[:1], *gaps], [*gaps, *gaps[-1:]], strict=True)]
    # Titles are bold, which is wider.
    return [
        wrapped(a.title, 0.85 * (room - 8) * inches, 8.5 * layout.around.scale)
        for a, room in zip(axes, rooms, strict=True)
    ]


def _colours(
    dataset: xr.Dataset,
    rows: pd.DataFrame,
    hue_by: str | None,
    metrics: Sequence[str],
    options: PictureOptions,
    backend: Backend,
) -> tuple[list[str], Legend]:
    """Return the colour of each run, and the legend."""
    if hue_by is None:
        return [options.plain(PRIMARY)] * len(rows), Legend()
    values = rows[hue_by].tolist()
    missing = [LegendEntry("no value", backend.line(NEUTRAL))] if not all(map(is_given, values)) else []
    if hue_by in metrics:
        bar = ColourBar.of_values(options.label(hue_by, axis_label(dataset[hue_by])), values)
        bar = replace(bar, colours=options.map_colours(bar.colours))
        return [bar.colour(v) if is_given(v) else NEUTRAL for v in values], Legend("", missing, bar)
    colours = options.colours(hue_by, values)
    return (
        [colours.get(v, NEUTRAL) for v in values],
        hue_legend(hue_label(dataset, hue_by, options), colours, options, backend, missing),
    )


def _elements(
    rows: pd.DataFrame,
    axes: Sequence[ParallelAxis],
    across: Sequence[float],
    colours: Sequence[str],
    frame: Frame,
    layout: PanelLayout,
    backend: Backend,
) -> list[Any]:
    """Return the lines of runs, the axes with their labels, and points with tooltips."""
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
    count = len(rows)
    # Lines without a colour are drawn first, below the others.
    order = sorted(range(count), key=lambda k: colours[k] != NEUTRAL)
    lines = [(list(across), [a.places[k] for a in axes], colours[k]) for k in order]
    elements = coloured_lines(dims, lines, backend.line("colour", crowd=count))
    elements += coloured_lines(dims, [([x, x], [0.0, 1.0], INK) for x in across], backend.line("colour"))
    if backend.hovers:
        tooltips = [("run", "@run"), ("run id", "@run_id"), ("", "@value")]
        runs = rows["run"].tolist() if "run" in rows else [""] * count
        points = [
            (x, a.places[k], str(runs[k]), str(rows["run_id"][k]), f"{a.title}: {a.texts[k]}")
            for x, a in zip(across, axes, strict=True)
            for k in range(count)
        ]
        elements.append(hv.Points(points, dims, ["run", "run_id", "value"]).opts(**backend.invisible_points(tooltips)))
    return [*elements, *_texts(axes, across, frame, layout, backend)]


def _texts(
    axes: Sequence[ParallelAxis], across: Sequence[float], frame: Frame, layout: PanelLayout, backend: Backend
) -> list[Any]:
    """Return titles above axes, and labels of ticks left of them, on a pale ground that separates them from lines."""
    import holoviews as hv

    dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
    (left, right), (low, high) = frame.x.span(), frame.y.span()
    scale = layout.around.scale
    x_unit, y_unit = (right - left) / layout.size[0], (high - low) / layout.size[1]
    texts, grounds, marks = [], [], []
    for at, axis in zip(across, axes, strict=True):
        # Labels of many categories would overlap: only some of them are written.
        step = max(int(np.ceil(len(axis.ticks) * _LINE_PIXELS * scale * y_unit)), 1) if axis.kind == "category" else 1
        for number, (place, text) in enumerate(axis.ticks):
            if number % step and 0 <= place <= 1:
                continue
            text = short_label(text)
            width = scale * FRAME_PIXELS_PER_INCH * text_width_inches(text) * x_unit
            end, half = at - 6 * x_unit, 0.45 * _LINE_PIXELS * scale * y_unit
            texts.append((end, place, backend.literal_text(text)))
            grounds.append((end - width - 2 * x_unit, place - half, end + 2 * x_unit, place + half))
            marks.append(([at - 4 * x_unit, at], [place, place], EDGE))
    titles = [
        (at, high - (number + 0.5) * _LINE_PIXELS * scale * y_unit, backend.literal_text(line))
        for at, lines in zip(across, _wrapped_titles(axes, across, frame, layout), strict=True)
        for number, line in enumerate(lines)
    ]
    ground: dict[str, Any] = (
        {"fill_color": "white", "fill_alpha": 0.75, "line_color": None}
        if backend.name == "bokeh"
        else {"facecolor": "white", "alpha": 0.75, "edgecolor": "none"}
    )
    return [
        hv.Rectangles(grounds).opts(**ground),
        *coloured_lines(dims, marks, backend.line("colour")),
        hv.Labels(texts, dims, "text").opts(**backend.text(INK, align="right")),
        hv.Labels(titles, dims, "text").opts(**backend.text(INK, bold=True)),
    ]


def _caption(
    dataset: xr.Dataset,
    found: RunValues,
    rows: pd.DataFrame,
    names: Sequence[str],
    axes: Sequence[ParallelAxis],
    options: PictureOptions,
) -> str:
    subject = metrics_words(dataset, names, options)
    missing = "none: no value" if any(a.has_missing for a in axes) else ""
    left_out = len(found.rows) - len(rows)
    # Of several metrics, the reasons count a run more than once.
    without = (
        left_out_text(found.left_out)
        if len(names) == 1
        else f"left out: {counted(left_out, 'run')} without a value of every metric"
    )
    return caption_of(
        f"{subject} {place_in_words(found.place)}", counted(len(rows), "run"), missing, without if left_out else ""
    )
