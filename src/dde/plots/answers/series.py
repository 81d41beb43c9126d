"""Series of an answer's picture: values along x with their intervals, and panels of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.errors import SelectionError
from dde.plots.answers.cells import interval_label, left_out_words, place_words, subject_of
from dde.plots.axis_format import padded_range
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of
from dde.plots.colours import INK, markers_of
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import Legend, LegendEntry
from dde.plots.panels import coloured_lines, coloured_points
from dde.plots.picture_options import NO_OPTIONS, PictureOptions

__all__ = ["Panel", "Series", "answer_caption", "cells_of", "draw_panels", "label_of_cell", "name_of"]

_LARGE, _SMALL = (420, 300), (300, 220)
_MOST_PANELS = 36

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """Values along x.

    Attributes
    ----------
    x, y : (point,) float64 arrays
        Points with NaN are not drawn, and interrupt the line.
    colour : str
    low, high : (point,) float64 arrays, optional
        Intervals: an area along a line, bars without one.
    label : str
        Entry of the legend; "" for none.
    line, points : bool
        What is drawn of the values.
    dashed : bool
    shape : int
        Number of the marker: 0 for a circle; series of another number have another one.
    names : sequence of str
        Text of each point's tooltip.
    """

    x: Numbers
    y: Numbers
    colour: str
    low: Numbers | None = None
    high: Numbers | None = None
    label: str = ""
    line: bool = True
    points: bool = True
    dashed: bool = False
    shape: int = 0
    names: Sequence[str] = ()

    def drawable(self, x: Axis, y: Axis) -> npt.NDArray[np.bool_]:
        """Return which points the axes can show: those with values, on a logarithmic axis above zero."""
        known = np.isfinite(self.x) & np.isfinite(self.y)
        return known & ((self.x > 0) | (not x.is_log)) & ((self.y > 0) | (not y.is_log))

    def pieces(self, x: Axis, y: Axis) -> list[npt.NDArray[np.intp]]:
        """Return the positions of the points of each uninterrupted part."""
        known = np.flatnonzero(self.drawable(x, y))
        return [part for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(part)]


@dataclass(frozen=True)
class Panel:
    """A panel: its series and axes.

    Attributes
    ----------
    series : sequence of Series
    x, y : Axis
        With limits that include all values where they have none.
    title : str
    across, up : sequence of float
        Positions of reference lines: horizontal ones at values of y, vertical ones at values of x.
    texts : sequence of (x, y, text)
        Labels at points.
    """

    series: Sequence[Series]
    x: Axis
    y: Axis
    title: str = ""
    across: Sequence[float] = ()
    up: Sequence[float] = ()
    texts: Sequence[tuple[float, float, str]] = field(default=())

    def frame(self) -> Frame:
        """Return the axes, with limits that include all values, intervals and reference lines."""
        y_values = [v for s in self.series for v in (s.y, s.low, s.high) if v is not None]
        x, y = self.x, self.y
        if x.limits is None:
            x = replace(x, limits=padded_range(_joined([*(s.x for s in self.series), np.array(self.up)]), log=x.is_log))
        if y.limits is None:
            y = replace(y, limits=padded_range(_joined([*y_values, np.array(self.across)]), log=y.is_log))
        return Frame(x, y)

    def elements(self, backend: Backend, frame: Frame, layout: PanelLayout) -> list[Any]:
        """Return the HoloViews elements of the panel."""
        import holoviews as hv

        dims = [hv.Dimension(axis.name) for axis in (frame.x, frame.y)]
        elements: list[Any] = [hv.HLine(at).opts(**backend.zero_line()) for at in self.across]
        elements += [hv.VLine(at).opts(**backend.branch_line()) for at in self.up]
        bars: list[tuple[Any, Any, str]] = []
        lines: dict[bool, list[tuple[Any, Any, str]]] = {False: [], True: []}
        crowd = len(self.series)
        for s in self.series:
            for part in s.pieces(frame.x, frame.y):
                if s.low is not None and s.high is not None:
                    known = part[np.isfinite(s.low[part]) & np.isfinite(s.high[part])]
                    low, high = frame.y.drawable(s.low[known]), s.high[known]
                    if s.line and len(known) > 1:
                        area = hv.Area((s.x[known], low, high), dims[0], [dims[1], f"{dims[1].name}_end"])
                        elements.append(area.opts(**backend.interval_band(s.colour)))
                    else:
                        bars += [([x, x], [a, b], s.colour) for x, a, b in zip(s.x[known], low, high, strict=True)]
                if s.line and len(part) > 1:
                    lines[s.dashed].append((s.x[part], s.y[part], s.colour))
        elements += coloured_lines(dims, bars, backend.line("colour"))
        for dashed, paths in lines.items():
            elements += coloured_lines(dims, paths, backend.line("colour", dashed=dashed, crowd=crowd))
        groups: dict[tuple[int, bool], list[Any]] = {}
        for s in (s for s in self.series if s.points):
            at = np.flatnonzero(s.drawable(frame.x, frame.y)).tolist()
            names = s.names or [s.label] * len(s.x)
            rows = [(s.x[i], s.y[i], s.colour, names[i]) for i in at]
            groups.setdefault((s.shape, len(at) > 30), []).extend(rows)
        tooltips = [("", "@name"), (frame.x.label, f"@{{{dims[0].name}}}"), (frame.y.label, f"@{{{dims[1].name}}}")]
        for (shape, dense), rows in groups.items():
            options = backend.points("colour", _marker(shape, backend), dense, tooltips, crowd)
            elements += coloured_points(dims, rows, ["colour", "name"], options)
        if self.texts:
            labels = [(x, y, backend.literal_text(text)) for x, y, text in self.texts]
            elements.append(hv.Labels(labels, dims, "text").opts(**backend.text(INK)))
        return elements


def _marker(shape: int, backend: Backend) -> str:
    return markers_of(range(shape + 1), backend.name)[shape]


def _joined(parts: Iterable[Any]) -> Numbers:
    return np.concatenate([np.empty(0), *(np.asarray(p, np.float64).ravel() for p in parts)])


def draw_panels(
    panels: Sequence[Panel],
    backend: BackendName,
    columns: int | None,
    frame_size: tuple[int, int] | None,
    options: PictureOptions,
    caption: str = "",
    legend_title: str = "",
    legend_name: str = "",
    share_y: bool = True,
) -> Any:
    """Return panels as a HoloViews layout, with one legend and a caption.

    Parameters
    ----------
    panels : sequence of Panel
    backend : {"bokeh", "matplotlib"}
    columns : int, optional
        Maximum number of panels in a row; three by default.
    frame_size : tuple of int, optional
        Width and height of a panel, in pixels.
    options : PictureOptions
        Their labels replace names of axes, entries of the legend and ticks.
    caption : str
    legend_title, legend_name : str
        The coordinate of the legend, and its title where the options have no label for it.
    share_y : bool, default True
        Whether panels with axes of one name have the same limits.

    Raises
    ------
    SelectionError
        When there is nothing to draw, or more panels than can be looked at.
    UnknownNameError
        When there is no such backend.
    """
    if not any(s.drawable(p.x, p.y).any() for p in panels for s in p.series):
        raise SelectionError(
            "the answer has no value, so there is nothing to draw. Its variables n and status, and its attribute "
            "left_out, say which runs entered and why others did not."
        )
    if len(panels) > _MOST_PANELS:
        raise SelectionError(
            f"the answer has {len(panels)} panels, more than can be looked at. Select fewer, such as "
            "answer.isel(metric=slice(9)).dde.plot()."
        )
    if hidden := sum(
        int((np.isfinite(s.x) & np.isfinite(s.y) & ~s.drawable(p.x, p.y)).sum()) for p in panels for s in p.series
    ):
        caption = caption_of(caption, f"not drawn: {hidden} points at or below zero on a logarithmic axis")
    size = frame_size or (_LARGE if len(panels) == 1 else _SMALL)
    with drawing_with(backend) as drawing:
        frames = _shared([p.frame() for p in panels]) if share_y else [p.frame() for p in panels]
        frames = [replace(f, x=_labelled(f.x, options), y=_labelled(f.y, options)) for f in frames]
        marks = {(s.label, s.colour, s.shape, s.line, s.dashed) for p in panels for s in p.series if s.label}
        ordered = sorted(marks, key=lambda m: _first(panels, m[0]))
        entries = [
            LegendEntry(options.label(label, label), drawing.line(colour, dashed=dashed))
            if line
            else LegendEntry(options.label(label, label), drawing.points(colour, _marker(shape, drawing)), "marker")
            for label, colour, shape, line, dashed in ordered
        ]
        title = options.label(legend_title, legend_name or legend_title.replace("_", " ")) if entries else ""
        contents = [
            Content.of_elements(frame, panel.title, partial(panel.elements, drawing), drawing)
            for panel, frame in zip(panels, frames, strict=True)
        ]
        grid = arrange([[content] for content in contents], columns or min(len(panels), 3))
        return draw_figure(grid, size, Legend(title, entries), caption, options, drawing)


def _labelled(axis: Axis, options: PictureOptions) -> Axis:
    axis = replace(axis, label=options.label(axis.name, axis.label))
    return axis.with_texts(lambda text: options.label(text, text))


def _first(panels: Sequence[Panel], label: str) -> tuple[int, int]:
    return next((i, j) for i, p in enumerate(panels) for j, s in enumerate(p.series) if s.label == label)


def _shared(frames: list[Frame]) -> list[Frame]:
    """Return frames whose axes of one name have the same limits, which links them."""

    def limits(axes: list[Axis]) -> dict[str, tuple[float, float]]:
        spans: dict[str, tuple[float, float]] = {}
        for axis in axes:
            if axis.limits is not None:
                low, high = spans.get(axis.name, axis.limits)
                spans[axis.name] = (min(low, axis.limits[0]), max(high, axis.limits[1]))
        return spans

    x, y = limits([f.x for f in frames]), limits([f.y for f in frames])
    return [f.with_limits(x.get(f.x.name), y.get(f.y.name)) for f in frames]


def cells_of(answer: xr.Dataset, along: Sequence[str]) -> list[xr.Dataset]:
    """Return the cells of an answer along some of its dimensions, in order."""
    dims = [d for d in along if d in answer.dims]
    cells = [answer]
    for dim in dims:
        cells = [cell.isel({dim: k}) for cell in cells for k in range(answer.sizes[dim])]
    return cells


def label_of_cell(
    cell: xr.Dataset,
    names: Sequence[str],
    options: PictureOptions = NO_OPTIONS,
    metrics: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the labels of a cell, such as "ARC-Easy, 150M", for the names that are coordinates of it.

    Parameters
    ----------
    cell : xarray.Dataset
    names : sequence of str
    options : PictureOptions
    metrics : mapping of str to str
        Names of the metrics, as :func:`dde.plots.answers.cells.metric_names` returns them.
    """
    values = [(n, cell.coords[n].item()) for n in names if n in cell.coords and not cell.coords[n].ndim]
    return ", ".join(
        metrics[v] if n == "metric" and v in metrics else options.label(v, f"{v:g}" if isinstance(v, float) else str(v))
        for n, v in values
        if v not in ("", None)
    )


def name_of(answer: xr.Dataset, coordinate: str) -> str:
    """Return what a coordinate of an answer is called in a legend: its long name, else its name in words."""
    named = answer.coords.get(coordinate)
    return str(named.attrs.get("long_name", "") if named is not None else "") or coordinate.replace("_", " ")


def answer_caption(answer: xr.Dataset, subject: str, options: PictureOptions, *more: str) -> str:
    """Return the caption of an answer: its metrics and place, the interval, and what was left out."""
    metrics = subject_of(answer, options)
    of = f"{subject} for {metrics}" if metrics else subject
    return caption_of(
        ", ".join(filter(None, [of, place_words(answer)])), *more, interval_label(answer), left_out_words(answer)
    )
