"""Picture of when runs reach a target: their crossings, and the share of runs that has reached it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.analysis.crossings import AT_FIRST, CENSORED, IN_GAP, REACHED
from dde.curves.axes import AXES
from dde.errors import SelectionError
from dde.plots.answers.cells import left_out_words, subject_of
from dde.plots.answers.members import Block, Groups, blocks_of, groups_of, require_answer
from dde.plots.axis_format import axis_label, padded_range, short_number
from dde.plots.backends.base import Backend, BackendName
from dde.plots.backends.choice import drawing_with
from dde.plots.captions import caption_of, range_text
from dde.plots.colours import INK, markers_of
from dde.plots.defaults import check_names
from dde.plots.figure_layout import Axis, Frame, PanelLayout, arrange
from dde.plots.figures import Content, draw_figure
from dde.plots.legends import Legend, LegendEntry
from dde.plots.option_docs import with_picture_options
from dde.plots.panels import coloured_lines
from dde.plots.picture_options import LegendPlace, Limits, Order, Palette, PictureOptions
from dde.plots.redrawing import redrawable

__all__ = ["plot_reach"]

#: Statuses that are drawn, in the order of their markers, with their meaning in the legend.
_MEANINGS = {
    REACHED: "reached, with the observations around it",
    AT_FIRST: "reached at or before the first observation",
    IN_GAP: "reached within a gap, at its end",
}
_NOT_REACHED = "not reached by the last observation"
# Height of a group's row in pixels, and the limits of the height of a frame.
_ROW, _LEAST, _MOST = 30, 190, 420
# Pixels of a member in a row, and the most members of a row whose points are not small.
_MEMBER, _CROWD = 8, 16
# Share of a row over which its members are spread.
_SPREAD = 0.32

Floats = npt.NDArray[np.float64]


@redrawable
@with_picture_options
def plot_reach(
    answer: xr.Dataset,
    *,
    x: Literal["tokens", "compute"] = "tokens",
    hue_by: str | None = "auto",
    log_x: bool = True,
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
    """Draw when runs reach a target, and the share of runs that has reached it.

    A panel of crossings and a panel of shares for each metric and target. A crossing is a point with a bar between the
    observations that enclose it. The share is the product-limit estimate of Kaplan and Meier, which counts runs that
    never reach the target up to their last observation; crossings at or before a first observation, and those within
    a gap, count at its end.

    Parameters
    ----------
    answer : xarray.Dataset
        Of :func:`dde.analysis.crossings.reach`, or a selection of it. It may have been saved and opened again.
    x : {"tokens", "compute"}, default "tokens"
    hue_by : str or None
        Coordinate of runs that groups and colours them. When "auto", the first factor of lineages in which runs differ
        other than the seed, else of runs.
    log_x : bool, default True
        Logarithmic tokens or compute.
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
        When a coordinate, quantity or backend does not exist.
    SelectionError
        When the Dataset is no answer of ``reach``, no run was observed, or parameter counts are unknown.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.crossings import reach
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    >>> picture = plot_reach(reach(ds.dde.base_curves(), "arc_easy", 0.35), backend="matplotlib")
    """
    options = PictureOptions.of(locals())
    require_answer(answer, "reach")
    check_names({"x": x}, ("tokens", "compute"), "no quantity to draw crossings against")
    if x == "compute" and "compute" not in answer:
        raise SelectionError(
            "the answer has no compute, because the parameter counts of its runs are unknown. Pass x='tokens'."
        )
    blocks = [_on(block, x) for block in blocks_of(answer, True, options)]
    drawn = pd.concat([block.rows for block in blocks])
    if drawn.empty:
        raise SelectionError(
            "no run of the answer was observed and has a target, so there is nothing to draw. Its variable status says "
            "why; select other runs or another metric."
        )
    groups = groups_of(answer, drawn, hue_by, options)
    ends = drawn[["x", "high", "place"]].to_numpy(np.float64).ravel()
    if log_x and not (ends > 0).any():
        log_x = False
    rule = AXES["cumulative_tokens" if x == "tokens" else "cumulative_compute"]
    label = options.label(x, axis_label(xr.DataArray(0, attrs=rule.attrs)))
    horizontal = Axis(x, label, log_x, padded_range(ends, log=log_x))
    colours = groups.colours()
    with drawing_with(backend) as drawing:
        markers = markers_of(list(_MEANINGS), backend)
        found = _legend(groups, colours, blocks, markers, drawing)
        most = max(len(part) for block in blocks for part in groups.parts(block.rows))
        row = int(np.clip(_MEMBER * most, _ROW, 3 * _ROW))
        frame_pixels = frame_size or (330, int(np.clip(row * len(groups.values) + 20, _LEAST, _MOST)))
        names = tuple((float(k), groups.name(v)) for k, v in enumerate(reversed(groups.values)))
        across = Axis("group", groups.label, False, (-0.6, len(names) - 0.4), names)
        share = Axis("share", options.label("share", "share that reached it"), False, (-0.04, 1.04))
        contents = [
            (
                Content.of_elements(
                    Frame(horizontal, across), block.title,
                    partial(_crossings, block.rows, groups, colours, markers, drawing), drawing,
                ),
                Content.of_elements(
                    Frame(horizontal, share), _count_text(block),
                    partial(_shares, block.rows, groups, colours, markers, drawing), drawing,
                ),
            )
            for block in blocks
        ]  # fmt: skip
        grid = arrange(contents, columns or 2)
        text = _caption(answer, blocks, options)
        return draw_figure(grid, frame_pixels, found, text, options, drawing, (110, 14 * len(names)))


def _on(block: Block, x: str) -> Block:
    """Return a block with its positions on the axis in the columns x, low, high and last."""
    rows = block.rows
    scale = 1.0 if x == "tokens" else 6.0 * rows["n_params"].astype(np.float64)
    columns = {"x": "tokens", "low": "low_tokens", "high": "high_tokens", "last": "last_tokens"}
    if "branch_tokens" in rows:
        columns["begin"] = "branch_tokens"
    on_axis = {new: rows[old].astype(np.float64) * scale for new, old in columns.items()}
    rows = rows.assign(**on_axis)
    # Where the place of a crossing is unknown, it is drawn at the observation that follows it.
    rows = rows.assign(x=rows["x"].where(rows["status"] == REACHED, rows["high"]))
    rows = rows.assign(place=rows["x"].where(rows["status"] != CENSORED, rows["last"]))
    return replace(block, rows=rows[rows["status"].isin([*_MEANINGS, CENSORED])])


def _caption(answer: xr.Dataset, blocks: Sequence[Block], options: PictureOptions) -> str:
    rule = {"first": "first crossing", "sustained": "crossing that lasts", "monotone": "crossing of the isotonic fit"}
    aims = list(dict.fromkeys(block.aim for block in blocks))
    runs = range_text((len(block.rows) for block in blocks), "run")
    return caption_of(
        ", ".join(filter(None, [subject_of(answer, options), rule.get(str(answer.attrs.get("rule", "")), "")])),
        *aims, runs, left_out_words(answer),
    )  # fmt: skip


def _count_text(block: Block) -> str:
    reached = int(block.rows["status"].isin(list(_MEANINGS)).sum())
    return f"reached by {reached} of {len(block.rows)} runs"


def _legend(
    groups: Groups, colours: Mapping[Any, str], blocks: Sequence[Block], markers: Mapping[str, str], backend: Backend
) -> Legend:
    names = groups.counted_names([block.rows for block in blocks])
    looks = [backend.line(groups.colour(colours, v)) for v in groups.values]
    entries = [LegendEntry(name, look) for name, look in zip(names, looks, strict=True)]
    statuses = {status for block in blocks for status in block.rows["status"]}
    for status, meaning in _MEANINGS.items():
        if status in statuses:
            entries.append(LegendEntry(meaning, backend.points(INK, markers[status]), "marker"))
    if CENSORED in statuses:
        entries.append(LegendEntry(_NOT_REACHED, backend.hollow_point(), "marker"))
    return Legend(groups.label, entries)


def _crossings(
    rows: pd.DataFrame,
    groups: Groups,
    colours: Mapping[Any, str],
    markers: Mapping[str, str],
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> list[Any]:
    """Return the crossings of runs, a row of the panel for each group."""
    import holoviews as hv

    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    fields = ["colour", "run", "run_id", "at", "between", "status"]
    tooltips = [("run", "@run"), ("run id", "@run_id"), (frame.x.label, "@at"), ("observations", "@between"),
                ("status", "@status")]  # fmt: skip
    bars: list[tuple[Any, Any, str]] = []
    open_ends: list[tuple[Any, Any, str]] = []
    points: dict[str, list[Any]] = {}
    for k, (value, part) in enumerate(zip(groups.values, groups.parts(rows), strict=True)):
        colour = groups.colour(colours, value)
        part = part.sort_values("place", kind="stable")
        middle = len(groups.values) - 1 - k
        offsets = np.linspace(_SPREAD, -_SPREAD, len(part)) if len(part) > 1 else np.zeros(len(part))
        for offset, row in zip(offsets, part.to_dict("records"), strict=True):
            y, status = middle + offset, row["status"]
            low, high = frame.x.drawable(np.array([row["low"]]))[0], row["high"]
            if status in (REACHED, IN_GAP):
                bars.append(([low, high], [y, y], colour))
            elif status == AT_FIRST:
                # A derived run begins at its branch.
                begin = np.nanmax([frame.x.span()[0], row.get("begin", np.nan)])
                open_ends.append(([begin, high], [y, y], colour))
            else:
                open_ends.append(([row["last"], frame.x.span()[1]], [y, y], colour))
            between = f"{short_number(row['low'])} to {short_number(high)}" if status in (REACHED, IN_GAP) else ""
            # What happens before the first token of a logarithmic axis is drawn at its edge.
            place = max(row["place"], frame.x.span()[0])
            point = (place, y, colour, row.get("run", ""), row["run_id"], short_number(row["place"]), between,
                     status)  # fmt: skip
            points.setdefault(status, []).append(point)
    elements = coloured_lines(dims, bars, backend.line("colour"))
    elements += coloured_lines(dims, open_ends, backend.line("colour", dashed=True))
    is_dense = max(map(len, groups.parts(rows))) > _CROWD
    for status, found in points.items():
        look = backend.hollow_point()
        if status != CENSORED:
            look = backend.points("colour", markers[status], is_dense, tooltips)
        elements.append(hv.Points(found, dims, fields).opts(**look))
    if CENSORED in points and backend.hovers:
        elements.append(hv.Points(points[CENSORED], dims, fields).opts(**backend.invisible_points(tooltips)))
    return elements


def _shares(
    rows: pd.DataFrame,
    groups: Groups,
    colours: Mapping[Any, str],
    markers: Mapping[str, str],
    backend: Backend,
    frame: Frame,
    layout: PanelLayout,
) -> list[Any]:
    """Return the share of each group that has reached the target, as steps with marks where runs are censored."""
    import holoviews as hv

    dims = [hv.Dimension(frame.x.name), hv.Dimension(frame.y.name)]
    lines: list[tuple[Any, Any, str]] = []
    ends: list[tuple[float, float]] = []
    for value, part in zip(groups.values, groups.parts(rows), strict=True):
        is_reached = part["status"].isin(list(_MEANINGS)).to_numpy()
        is_censored = (part["status"] == CENSORED).to_numpy()
        if not (is_reached | is_censored).any():
            continue
        reached, censored = part["x"].to_numpy()[is_reached], part["last"].to_numpy()[is_censored]
        at, share = _reached_share(reached, censored)
        at = frame.x.drawable(at)
        steps = np.repeat(at, 2)[1:], np.repeat(share, 2)[:-1]
        start = frame.x.span()[0]
        x = np.concatenate([[min(start, at[0])], at[:1], steps[0]])
        y = np.concatenate([[0.0, 0.0], steps[1]])
        lines.append((x, y, groups.colour(colours, value)))
        ends += [(float(c), float(share[np.searchsorted(at, c, side="right") - 1]) if c >= at[0] else 0.0)
                 for c in censored]  # fmt: skip
    elements = coloured_lines(dims, lines, backend.line("colour"))
    if ends:
        elements.append(hv.Points(ends, dims).opts(**backend.hollow_point()))
    return elements


def _reached_share(reached: Floats, censored: Floats) -> tuple[Floats, Floats]:
    """Return the positions at which the share of runs that have reached a target steps or ends, and the share there.

    The product-limit estimate of Kaplan and Meier (1958); it ends at the last crossing or last observation.
    """
    from scipy import stats

    every = np.concatenate([reached, censored])
    if not len(reached):
        return np.array([every.max()]), np.zeros(1)
    is_censored = np.repeat([False, True], [len(reached), len(censored)])
    estimate = stats.ecdf(stats.CensoredData.right_censored(every, is_censored)).cdf
    at, share = np.asarray(estimate.quantiles, np.float64), np.asarray(estimate.probabilities, np.float64)
    if every.max() > at[-1]:
        at, share = np.append(at, every.max()), np.append(share, share[-1])
    return at, share
