"""Picture of checkpoints that match a target: their values and the target against tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import xarray as xr

from dde.analysis.matching import MATCHED, OUT_OF_RANGE
from dde.curves.axes import AXES
from dde.errors import SelectionError
from dde.plots.answers.cells import left_out_words, subject_of
from dde.plots.answers.members import Block, Groups, blocks_of, groups_of, require_answer
from dde.plots.axis_format import axis_label, padded_range, short_number
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, range_text
from dde.plots.colours import INK, markers_of
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import Legend, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines, coloured_points
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_match"]

# Half the length of the dash at a run's target, as a share of the axis.
_DASH = 0.012


@redrawable
@with_picture_options
def plot_match(
    answer: xr.Dataset,
    *,
    hue_by: str | None = "auto",
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
    """Draw the checkpoints that are nearest to a target, each joined to it by a line as long as the mismatch.

    A panel for each metric and target. Runs all of whose values are on one side of the target have no match; the
    caption counts them, and they are drawn, as hollow points, where no run of any panel has one. A target that is a
    number is a line across the panel; where runs have different ones, each is a dash above or below its checkpoint.

    Parameters
    ----------
    answer : xarray.Dataset
        Of :func:`dde.analysis.matching.match`, or a selection of it. It may have been saved and opened again.
    hue_by : str or None
        Coordinate of runs that colours them. When "auto", the first factor of lineages in which runs differ other than
        the seed, else of runs.
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
        When a coordinate or backend does not exist.
    SelectionError
        When the Dataset is no answer of ``match``, or no run has a nearest checkpoint.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.matching import match
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    >>> picture = plot_match(match(ds.dde.base_curves(), "arc_easy", 0.35), backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    require_answer(answer, "match")
    every = blocks_of(answer, False, options)
    status = pd.concat([block.rows for block in every])["status"]
    shown_status = MATCHED if (status == MATCHED).any() else OUT_OF_RANGE
    blocks = [_with_targets(block, shown_status) for block in every]
    drawn = pd.concat([block.rows for block in blocks])
    if drawn.empty:
        raise SelectionError(
            "no run of the answer has a nearest checkpoint, so there is nothing to draw. Its variable status says why; "
            "select other runs or another metric."
        )
    groups = groups_of(answer, drawn, hue_by, options)
    colours = groups.colours()
    tokens = AXES["cumulative_tokens"]
    horizontal = Axis("tokens", options.label("tokens", axis_label(xr.DataArray(0, attrs=tokens.attrs))), log_x,
                      padded_range(drawn["tokens"].to_numpy(), log=log_x))  # fmt: skip
    with drawing_with(backend) as drawing:
        marker = markers_of([""], backend)[""]
        found = _legend(groups, colours, blocks, marker, drawing)
        others = int((status == OUT_OF_RANGE).sum()) if shown_status == MATCHED else 0
        contents = [
            Content.of_elements(
                Frame(horizontal, _values_axis(blocks, block, log_y)), block.title,
                partial(_elements, block, groups, colours, marker, drawing), drawing,
            )
            for block in blocks
        ]  # fmt: skip
        grid = arrange([[content] for content in contents], columns or min(len(blocks), 3))
        frame_pixels = frame_size or ((420, 300) if len(blocks) == 1 else (300, 220))
        text = _caption(answer, blocks, others, options)
        return draw_figure(grid, frame_pixels, found, text, options, drawing)


def _with_targets(block: Block, status: str) -> Block:
    """Return the runs of a block that have a status, with their targets in the column wanted."""
    rows = block.rows[block.rows["status"] == status]
    return replace(block, rows=rows.assign(wanted=rows["target"] if block.target is None else block.target))


def _values_axis(blocks: Sequence[Block], block: Block, log_y: bool) -> Axis:
    """Return the axis of a block's values; panels of one metric share it."""
    alike = pd.concat([b.rows for b in blocks if b.metric == block.metric])
    return Axis(block.metric, block.label, log_y, padded_range(alike[["value", "wanted"]].to_numpy(), log=log_y))


def _caption(answer: xr.Dataset, blocks: Sequence[Block], out_of_range: int, options: PictureOptions) -> str:
    runs = range_text((len(block.rows) for block in blocks), "run")
    left_out = "; ".join(
        filter(None, [left_out_words(answer), f"out of range: {out_of_range}" if out_of_range else ""])
    )
    subject = subject_of(answer, options)
    nearest = f"checkpoints nearest to a target of {subject}" if subject else "checkpoints nearest to a target"
    return caption_of(nearest, *dict.fromkeys(block.aim for block in blocks), runs, left_out)


def _legend(
    groups: Groups, colours: Mapping[Any, str], blocks: Sequence[Block], marker: str, backend: Backend
) -> Legend:
    names = groups.counted_names([block.rows for block in blocks])
    entries = [
        LegendEntry(name, backend.points(groups.colour(colours, value), marker), "marker")
        for name, value in zip(names, groups.values, strict=True)
    ]
    if any((block.rows["status"] == OUT_OF_RANGE).any() for block in blocks):
        entries.append(LegendEntry("nearest, all values on one side", backend.hollow_point(), "marker"))
    entries.append(LegendEntry("target", backend.line(INK)))
    return Legend(groups.label, entries)


def _elements(
    block: Block,
    groups: Groups,
    colours: Mapping[Any, str],
    marker: str,
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> list[Any]:
    """Return the checkpoints of a block, their targets, and lines between both."""
    import holoviews as hv

    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    fields = ["colour", "run", "run_id", "at", "mismatch", "revision"]
    tooltips = [("run", "@run"), ("run id", "@run_id"), ("tokens", "@at"),
                (frame.y.label, f"@{{{frame.y.name}}}{{0.0000}}"), ("mismatch", "@mismatch"),
                ("revision", "@revision")]  # fmt: skip
    left, right = frame.x.span()
    targets: list[tuple[Any, Any, str]] = []
    if block.target is not None:
        targets.append(([left, right], [block.target] * 2, INK))
    mismatches: list[tuple[Any, Any, str]] = []
    points: dict[str, list[Any]] = {MATCHED: [], OUT_OF_RANGE: []}
    for value, part in zip(groups.values, groups.parts(block.rows), strict=True):
        colour = groups.colour(colours, value)
        for row in part.to_dict("records"):
            x = row["tokens"]
            mismatches.append(([x, x], [row["wanted"], row["value"]], colour))
            if block.target is None:
                ends = _around(frame.x, x)
                targets.append((list(ends), [row["wanted"]] * 2, INK))
            point = (x, row["value"], colour, row.get("run", ""), row["run_id"], short_number(row["tokens"]),
                     f"{row['mismatch']:.4g}", row.get("revision", ""))  # fmt: skip
            points[row["status"]].append(point)
    elements = coloured_lines(dims, mismatches, backend.line("colour"))
    elements += coloured_lines(dims, targets, backend.line("colour"))
    elements += coloured_points(dims, points[MATCHED], fields, backend.points("colour", marker, False, tooltips))
    if points[OUT_OF_RANGE]:
        elements.append(hv.Points(points[OUT_OF_RANGE], dims, fields).opts(**backend.hollow_point()))
    if points[OUT_OF_RANGE] and backend.hovers:
        elements.append(hv.Points(points[OUT_OF_RANGE], dims, fields).opts(**backend.invisible_points(tooltips)))
    return elements


def _around(axis: Axis, x: float) -> tuple[float, float]:
    """Return the ends of a short dash at a position of an axis."""
    low, high = axis.span()
    if axis.is_log:
        factor = (high / low) ** _DASH
        return x / factor, x * factor
    return x - _DASH * (high - low), x + _DASH * (high - low)
