"""Picture of a comparison: the difference of two sides along the axis, or at one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dde.curves.axes import AXES
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
from dde.plots.axis_format import axis_label, padded_range
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, range_text
from dde.plots.colours import INK, label_of, markers_of
from dde.plots.curves import columns_for_facets
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines, coloured_points
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_compare"]

# Normal quantile of a 95 % interval, of standard errors of evaluations with many items.
_Z = 1.959964
_MOST_PANELS_OF_CURVES = 9
_LARGE, _SMALL = (420, 280), (300, 200)


@redrawable
@with_picture_options
def plot_compare(
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
    """Draw the difference of two sides.

    Along an axis, it is a line with a band for its interval, in a panel for each cell; at one place, dots with bars.
    Zero is marked. Where no cell has an interval and the sources state standard errors, bars and bands are 1.96
    standard errors.

    Parameters
    ----------
    answer : xarray.Dataset
        As :func:`dde.analysis.comparison.compare` returns it, a selection of it, or saved and opened again.
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
        When the answer has no number, or more panels than can be looked at.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.comparison import compare
    >>> ds = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.sel(run="pretraining")
    >>> found = compare(ds.dde.sel(data="C4"), ds.dde.sel(data="Dolma1.7"))
    >>> picture = plot_compare(found, backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    answer, by_stderr = _with_bounds(with_values(answer.compute(), "difference", *AXES))
    axis = next((str(d) for d in answer.difference.dims if d in AXES), None)
    with drawing_with(backend) as drawing:
        if axis is None:
            return _at_place(answer, by_stderr, drawing, columns, frame_size, options)
        return _along(answer, axis, by_stderr, drawing, columns, frame_size, options)


def _with_bounds(answer: xr.Dataset) -> tuple[xr.Dataset, bool]:
    """Return an answer with bounds, by the standard errors of evaluations where there are no others."""
    if "stderr" not in answer or bool(answer.low.notnull().any()):
        return answer, False
    half = _Z * answer.stderr
    return answer.assign(low=answer.difference - half, high=answer.difference + half), bool(half.notnull().any())


def _caption(answer: xr.Dataset, by_stderr: bool, options: PictureOptions, place: str) -> str:
    """Return what is subtracted from what, at which place, and of how many members."""
    there = np.asarray(answer.difference.notnull().values)
    over = str(answer.attrs.get("paired_over") or answer.attrs.get("averaged_over") or "")
    if "n" in answer:
        most = int(answer["n"].values[there].max())
        members = range_text(answer["n"].values[there], "pair")
    else:
        counts = [answer[n].values[there] for n in ("n_a", "n_b")]
        members = f"{range_text(counts[1])} against {range_text(counts[0])} members"
        most = max(int(c.max()) for c in counts)
    a, b = (str(answer.attrs.get(side, side)).replace("_", " ") for side in "ab")
    of = f"{subject_of(answer, options)}: {b} minus {a}" if subject_of(answer, options) else f"{b} minus {a}"
    interval = "95% interval by standard errors" if by_stderr else interval_label(answer)
    return caption_of(
        f"{of}, {place}", f"{members}{f' over {over}' if over and most > 1 else ''}", interval, left_out_words(answer)
    )


def _entries(answer: xr.Dataset, by_stderr: bool, backend: Backend, is_band: bool) -> list[LegendEntry]:
    if not by_stderr:
        return interval_entries(answer, backend, is_band)
    kind: Any = "marker" if is_band else "line"
    label = "95% interval (standard errors of the evaluations)"
    return [LegendEntry(label, backend.interval_sample(INK) if is_band else backend.line(INK), kind)]


@dataclass(frozen=True)
class _Line:
    x: Any
    y: Any
    low: Any
    high: Any
    colour: str


def _along(
    answer: xr.Dataset,
    axis: str,
    by_stderr: bool,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    import holoviews as hv

    dims = varying_dims(answer.difference, axis)
    hue_dim = None
    if np.prod([answer.sizes[d] for d in dims]) > _MOST_PANELS_OF_CURVES:
        # The dimension with the most labels gives the fewest panels.
        hue_dim = max((d for d in dims if d != "metric"), key=lambda d: answer.sizes[d], default=None)
    answer = arranged(answer, hue_dim, options)
    hue = hue_along(answer, hue_dim, options)
    facets = facets_along(answer, [d for d in dims if d != hue_dim], "difference", options)
    lines = [[_line(part, axis, colour) for colour, part in hue.parts(f.part)] for f in facets]
    size = frame_size or (_LARGE if len(facets) == 1 else _SMALL)
    legend = hue.legend(backend, _entries(answer, by_stderr, backend, is_band=True))
    contents = []
    for k, (facet, of_panel) in enumerate(zip(facets, lines, strict=True)):
        values = np.concatenate([v for line in of_panel for v in (line.y, line.low, line.high)])
        x = np.concatenate([line.x for line in of_panel])
        # Panels of other sizes have other ranges, so they are not linked.
        frame = Frame(
            Axis(f"{axis}_{k}", options.label(axis, axis_label(answer[axis])), limits=padded_range(x, 0.04)),
            Axis(f"difference_{k}", _y_label(facet.part, options),
                 limits=padded_range([*values[np.isfinite(values)], 0.0])),
        )  # fmt: skip
        elements = partial(_curve_elements, hv, of_panel, backend)
        contents.append(Content.of_elements(frame, facet.title, elements, backend))
    grid = arrange([[content] for content in contents], columns or columns_for_facets(len(facets), 1))
    text = _caption(answer, by_stderr, options, f"against {axis_label(answer[axis]).partition(' [')[0]}")
    return draw_figure(grid, size, legend, text, options, backend)


def _line(part: xr.Dataset, axis: str, colour: str) -> _Line:
    there = np.asarray(part.difference.notnull().values)
    x, y, low, high = (np.asarray(part[n].values, np.float64)[there] for n in (axis, "difference", "low", "high"))
    return _Line(x, y, low, high, colour)


def _curve_elements(hv: Any, lines: Sequence[_Line], backend: Backend, frame: Frame, layout: PanelLayout) -> list[Any]:
    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    elements: list[Any] = [hv.HLine(0.0).opts(**backend.zero_line())]
    bars = []
    for line in lines:
        known = np.isfinite(line.low) & np.isfinite(line.high)
        x, low, high = line.x[known], line.low[known], line.high[known]
        if len(x) > 1:
            area = hv.Area((x, low, high), dims[0], [dims[1], f"{dims[1].name}_end"])
            elements.append(area.opts(**backend.interval_band(line.colour)))
        elif len(x):
            bars.append(([x[0], x[0]], [low[0], high[0]], line.colour))
    paths = [(line.x, line.y, line.colour) for line in lines if len(line.x) > 1]
    elements += coloured_lines(dims, bars, backend.line("colour"))
    elements += coloured_lines(dims, paths, backend.line("colour"))
    points = [(a, b, line.colour) for line in lines for a, b in zip(line.x, line.y, strict=True)]
    marker = next(iter(markers_of(["a"], backend.name).values()))
    tooltips = [(frame.x.label, f"@{{{frame.x.name}}}{{0.00a}}"), (frame.y.label, f"@{{{frame.y.name}}}{{0.00000}}")]
    options = backend.points("colour", marker, len(points) > 60, tooltips)
    return [*elements, *coloured_points(dims, points, ["colour"], options)]


def _at_place(
    answer: xr.Dataset,
    by_stderr: bool,
    backend: Backend,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
) -> Any:
    dims = varying_dims(answer.difference)
    cells = [d for d in dims if d != "metric"]
    # Categories are the labels of the last dimension, colours those of the one before.
    category = cells[-1] if cells else "metric" if dims else None
    hue_dim = cells[-2] if len(cells) > 1 else None
    answer = arranged(answer, hue_dim, options)
    hue = hue_along(answer, hue_dim, options)
    facets = facets_along(answer, [d for d in dims if d not in (category, hue_dim)], "difference", options)
    dots = [_dots(f.part, category, hue) for f in facets]
    count = answer.sizes[category] if category else 1
    rows = max(len(hue.colours), 1)
    size = frame_size or (360, int(np.clip(count * (16 + 9 * rows), 120, 640)))
    legend = hue.legend(backend, _entries(answer, by_stderr, backend, is_band=False))
    up = category_axis(answer, category, "category", descending=True, options=options)
    several = "metric" in answer.difference.dims and answer.sizes["metric"] > 1
    contents = []
    for k, (facet, of_panel) in enumerate(zip(facets, dots, strict=True)):
        label, shown = _y_label(facet.part, options), of_panel if several else [d for some in dots for d in some]
        frame = Frame(value_axis(f"difference_{k}" if several else "difference", label, shown, zero=True), up)
        elements = partial(_dots_from_zero, of_panel, backend)
        contents.append(Content.of_elements(frame, facet.title, elements, backend))
    grid = arrange([[content] for content in contents], columns or columns_for_facets(len(facets), 1))
    text = _caption(answer, by_stderr, options, place_words(answer))
    return draw_figure(grid, size, legend, text, options, backend, (110, 14 * count))


def _dots_from_zero(dots: Sequence[Dot], backend: Backend, frame: Frame, layout: PanelLayout) -> list[Any]:
    import holoviews as hv

    marker = next(iter(markers_of(["a"], backend.name).values()))
    zero = hv.VLine(0.0).opts(**backend.zero_line())
    return [zero, *dot_elements(dots, (frame.x, frame.y), backend, across=True, marker=marker)]


def _dots(part: xr.Dataset, category: str | None, hue: Hue) -> list[Dot]:
    dots = []
    of_hue = hue.parts(part)
    for j, (colour, here) in enumerate(of_hue):
        count = here.sizes[category] if category else 1
        for k in range(count):
            cell = here.isel({category: k}) if category else here
            value = float(cell.difference)
            if not np.isfinite(value):
                continue
            # Dots of one category are beside each other, in the order of the legend from above.
            shift = 0.0 if len(of_hue) == 1 else 0.7 * (0.5 - (j + 0.5) / len(of_hue))
            name = label_of(label_along(here, category, k)) if category else ""
            p_value = float(cell.p_value)
            n = f"n = {int(cell['n'])}" if "n" in cell else f"n = {int(cell['n_a'])}, {int(cell['n_b'])}"
            note = n if np.isnan(p_value) else f"{n}, p = {p_value:.3g}"
            dots.append(Dot(count - 1 - k + shift, value, float(cell.low), float(cell.high), colour, name, note))
    return dots


def _y_label(answer: xr.Dataset, options: PictureOptions) -> str:
    return f"difference of {metric_label(answer, 'difference', options).replace(', difference b - a', '')}"
