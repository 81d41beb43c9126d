"""Final values of runs: at their last observation, at their planned end, or at a common position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64
from dde.curves.axes import AXES, TOKENS
from dde.dataset.align import align
from dde.dataset.dimensions import (
    axis_of,
    broadcast_values,
)
from dde.dataset.loss_reductions import warn_of_mixed_loss
from dde.dataset.metric_rows import MetricRows
from dde.dataset.provenance import metric_named
from dde.dataset.samples import checked_positions, flags_of, has_samplings, samplings_in, samplings_of
from dde.errors import SelectionError, UnknownNameError, warn_caller
from dde.schema import (
    AVERAGED_OVER,
    MEMBERS,
)

__all__ = ["REACHED", "STOP_MARGIN", "At", "FinalValues", "final", "final_values"]

Mask = npt.NDArray[np.bool_]

#: Position at which runs are compared.
At = Literal["last", "schedule", "common"]

#: A run whose last sample is at least this far along its schedule counts as having reached its end. DataDecide's sizes
#: were last evaluated at 89 to 100 % of their schedules, except 750M, whose evaluations stop at 41 %.
REACHED = 0.85
#: Jobs stop some steps after the last scheduled one: by up to 0.35 % of the schedule in DataDecide.
STOP_MARGIN = 0.005


def final(dataset: xr.Dataset, metric: str | None = None, at: At | float = "last") -> xr.DataArray:
    """Return the final value of a metric in each run: its own last value, or its value at a common position.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection, sweep or alignment of it, or means of runs
        (:func:`dde.dataset.averages.mean_over`). It may have been saved and opened again.
    metric : str, optional
        Name or alias of a data variable; may be omitted where there is only one.
    at : {"last", "schedule", "common"} or float, default "last"
        Position at which runs are compared. ``last``: each at its last observation. ``schedule``: each at its last
        observation at or before its planned end (``schedule_tokens``), if that is within the last 15 % of its
        schedule. ``common``: all at the furthest position that all of them reach. A number: all at this many
        cumulative tokens.

    Returns
    -------
    xarray.DataArray
        Dimensions of the runs, such as ``(lineage, run)``; NaN where a run has no value of its own there. The
        coordinates ``final_tokens`` and ``final_compute`` (6 N tokens) give the position of the value. The attribute
        ``at`` is the argument, and ``left_out`` counts the runs that do not reach the position, and names some.

    Raises
    ------
    UnknownNameError
        When there is no such variable or position.
    SelectionError
        When the sample that decides the value is not a point of the object; and when `at` is "last" and means are of
        runs that end at different tokens.
    SourceError
        When a coordinate, or the attribute that says which cells are samples, is missing.

    Warns
    -----
    DdeWarning
        When `at` is "last" and pretraining runs went on beyond their schedule, and when means have fewer than all
        their members at every position; the warning names them.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> ds.dde.final("arc_easy").dims
    ('lineage', 'run')
    >>> ds.dde.final("arc_easy", at="schedule").attrs["left_out"]
    ''
    """
    if metric is None:
        if len(dataset.data_vars) != 1:
            raise UnknownNameError(
                f"the Dataset has {len(dataset.data_vars)} metrics, so the final value is ambiguous. "
                f"Name the metric: ds.dde.final('arc_easy'). There are {', '.join(map(str, dataset.data_vars))}."
            )
        (metric,) = map(str, dataset.data_vars)
    is_number = isinstance(at, (int, float, np.number)) and not isinstance(at, bool)
    if not (float(at) >= 0 if is_number else isinstance(at, str) and at in ("last", "schedule", "common")):
        raise UnknownNameError(
            f"at={at!r} is not a position, so runs can't be compared there. Pass 'last', 'schedule', 'common' or "
            "a number of tokens."
        )
    return _labeled(final_values(dataset, metric_named(dataset, metric), at), at)


@dataclass(frozen=True)
class FinalValues:
    """Final values of a metric without labels.

    Attributes
    ----------
    array : xarray.DataArray
        The metric.
    cells : tuple of str
        Dimensions of the runs.
    values, tokens : (row,) float64 arrays
        Values and their cumulative tokens, `cells` flattened; NaN where a run has none.
    left_out : str
        Counts of the runs that do not reach the position, with some names.
    """

    array: xr.DataArray
    cells: tuple[str, ...]
    values: Float64
    tokens: Float64
    left_out: str


def final_values(dataset: xr.Dataset, name: str, at: At | float) -> FinalValues:
    """Return the final values of a variable as arrays; see :func:`final`.

    Parameters
    ----------
    dataset : xarray.Dataset
    name : str
        Name of a variable.
    at : {"last", "schedule", "common"} or float

    Raises
    ------
    SelectionError, SourceError
        As of :func:`final`.
    """
    found = _final_values(dataset, dataset[name], at)
    warn_of_mixed_loss(found.array, found.values)
    return found


def _final_values(dataset: xr.Dataset, array: xr.DataArray, at: At | float) -> FinalValues:
    if MEMBERS in dataset.coords:
        return _final_of_means(dataset, array, at)
    if at == "last" and not has_samplings(array) and (last_values := _last_cells(array)) is not None:
        return last_values
    rows = MetricRows.of(array, samplings_of(array), flags_of(array))
    own = rows.own
    if at == "last" or at == "schedule":
        return _final_at_ends(rows, own, "last" if at == "last" else "schedule")
    # Runs that are compared at one position must reach it.
    is_point, has_none = rows.end_samples("last")
    rows.require_known(~is_point & ~has_none & ~rows.off_axis, "last", "the position that all runs reach")
    _, ends, some = rows.last(rows.sampled & own & ~np.isnan(rows.values))
    furthest = float(ends[some].min()) if some.any() else np.nan
    position = furthest if at == "common" else float(at)
    return _final_at_position(dataset, rows, own, some, some & (ends >= position), position)


def _last_cells(array: xr.DataArray) -> FinalValues | None:
    """Return the last values of an array that names no sampling, where one of its samplings matches them; else None.

    Cells after a run's last sample are empty. If the last value of every run is at the run's last sample in one of the
    samplings, these values are samples, whichever sampling the array belongs to.
    """
    rule = axis_of(array)
    names = samplings_in(array)
    if rule is None or rule.name not in array.dims or not names:
        return None
    checked_positions(array)
    rows = MetricRows.of(array, (), [])
    values, tokens, some = rows.last(rows.own & ~np.isnan(rows.values))
    for name in names:
        last = rows.sample_number(name, "last")
        # Selection may have dropped all own cells of a run, and its last sample with them.
        if np.where(some, last == tokens, np.isnan(last) | (rows.run_ids == "")).all():
            return FinalValues(array, rows.cells, values, tokens, "")
    return None


def _final_at_ends(rows: MetricRows, own: Mask, at: Literal["last", "schedule"]) -> FinalValues:
    """Return the last own values of runs, or those at or before the end of their schedule."""
    schedule = rows.number("schedule_tokens") if at == "schedule" or "schedule_tokens" in rows.array.coords else None
    sampled = own & rows.sampled
    allowed = sampled
    is_point, has_none = rows.end_samples("last")
    unsure = ~is_point & ~has_none
    if at == "schedule":
        assert schedule is not None
        allowed = sampled & (rows.tokens <= schedule[:, None])
        # The last sample before a position within the curve is known where all samples are points of the object.
        passes = np.logical_or.reduce([rows.sample_number(name, "last") > schedule for name in rows.names])
        unsure = np.where(passes, ~rows.is_complete(of_run=True), unsure)
    values, tokens, some = rows.last(allowed & ~np.isnan(rows.values))
    # Where the last sample has no value of this metric, the one before counts if it is certain to be among the cells.
    has_no_value = rows.last(allowed)[1] > np.where(some, tokens, -1.0)
    unsure = (unsure | (has_no_value & ~rows.is_complete(of_run=True))) & ~rows.off_axis
    rows.require_known(unsure, "last", "the last value")
    left_out = rows.count_text(rows.off_axis & (rows.run_ids != ""), f"have no place on {rows.rule.name}")
    if at == "schedule":
        assert schedule is not None
        has_own = np.asarray((sampled & ~np.isnan(rows.values)).any(axis=1))
        values, tokens, reached = _if_reached(rows, values, tokens, has_own)
        left_out = "; ".join(filter(None, [left_out, reached]))
    elif schedule is not None:
        over = some & np.isnan(rows.number("branch_tokens")) & (tokens > (1 + STOP_MARGIN) * schedule)
        if over.any():
            warn_caller(
                f"{rows.count_text(over, 'went on beyond their schedule')}, so their last values are not "
                "comparable with others. Pass at='schedule' to compare runs at their planned end."
            )
    return FinalValues(rows.array, rows.cells, values, tokens, left_out)


def _if_reached(rows: MetricRows, values: Float64, tokens: Float64, has_value: Mask) -> tuple[Float64, Float64, str]:
    """Return values and tokens of runs that reach the end of their schedule, NaN for others, and count the others."""
    schedule, start = rows.number("schedule_tokens"), np.nan_to_num(rows.number("branch_tokens"))
    reaches = tokens >= start + REACHED * (schedule - start)
    unknown = has_value & np.isnan(schedule)
    left_out = [
        rows.count_text(has_value & ~reaches & ~unknown, "do not reach the end of their schedule"),
        rows.count_text(unknown, "have no schedule that is known"),
    ]
    return np.where(reaches, values, np.nan), np.where(reaches, tokens, np.nan), "; ".join(filter(None, left_out))


def _final_at_position(
    dataset: xr.Dataset, rows: MetricRows, own: Mask, some: Mask, reaches: Mask, position: float
) -> FinalValues:
    """Return values at one number of tokens, interpolated where the axis has no such point."""
    if not (rows.tokens[reaches] == position).any(axis=1).all():
        # On an axis other than tokens, the position may be a point of some runs only.
        name = str(rows.array.name)
        aligned = align(dataset[[name]], [position], axis=TOKENS.name)[name]
        rows = MetricRows.of(aligned, rows.names, flags_of(aligned))
        own = rows.own
    values, tokens, _ = rows.last(own & (rows.tokens == position) & ~np.isnan(rows.values))
    left_out = rows.count_text(some & np.isnan(values), f"have no value of their own at {position:.0f} tokens")
    return FinalValues(rows.array, rows.cells, values, tokens, left_out)


def _final_of_means(dataset: xr.Dataset, array: xr.DataArray, at: At | float) -> FinalValues:
    """Return final values of means, at points that all their members reach."""
    rows = MetricRows.of(array, (), [])
    first, last = (
        (rows.number(n) if n in array.coords else np.full(len(rows.values), np.nan))
        for n in ("end_tokens", "last_end_tokens")
    )
    start = np.nan_to_num(rows.number("branch_tokens"))
    if at == "last" and (differ := last - start > (1 + STOP_MARGIN) * (first - start)).any():
        over = dataset.attrs.get(AVERAGED_OVER, "runs")
        raise SelectionError(
            f"{int(differ.sum())} means over {over} are of runs that end at different tokens, such as from "
            f"{first[differ][0]:.0f} to {last[differ][0]:.0f}, so their last values are not comparable with others. "
            "Give a position: final(at='common') where all members are, at='schedule' at their planned end, or a "
            "number of tokens; or average the final values of runs: ds.dde.final(...).dde.mean_over(...)."
        )
    own = rows.own | np.isnan(rows.tokens)
    # A count of zero runs is not a value.
    has_value = (rows.values > 0) if array.dtype.kind in "iu" else ~np.isnan(rows.values)
    where = own & has_value
    if isinstance(at, str):
        if at == "schedule":
            limit = rows.number("schedule_tokens")
        else:
            limit = np.where(np.isnan(first) | (at == "last"), np.inf, first)
        where = where & ((rows.tokens <= limit[:, None]) | np.isnan(rows.tokens))
    else:
        if not (rows.tokens == float(at)).any():
            raise SelectionError(
                f"{at} tokens are not a point of the means' axis, so their values there are unknown. Align the runs on "
                "a grid that includes it, then take their means."
            )
        where = where & (rows.tokens == float(at))
    if isinstance(at, str) and f"{array.name}_count" in dataset:
        where = _with_most_members(dataset, rows, where)
    position = np.arange(rows.values.shape[1], dtype=np.float64)
    ordered = np.where(np.isnan(rows.tokens), position, rows.tokens)
    at_last = np.where(where, ordered, -np.inf).argmax(axis=1)
    row, some = np.arange(len(where)), where.any(axis=1)
    values = np.where(some, rows.values[row, at_last], np.nan)
    tokens = np.where(some, rows.tokens[row, at_last], np.nan)
    has_runs = (rows.run_ids != "") & (rows.number(MEMBERS) > 0)
    left_out = rows.count_text(has_runs & ~some, "have no value that is a mean of enough members there")
    if at == "schedule":
        values, tokens, reached = _if_reached(rows, values, tokens, np.asarray(some))
        left_out = "; ".join(filter(None, [left_out, reached]))
    return FinalValues(array, rows.cells, values, tokens, left_out)


def _with_most_members(dataset: xr.Dataset, rows: MetricRows, where: Mask) -> Mask:
    """Return the points of means with the most members; warn where these are not all members."""
    counted = dataset[f"{rows.array.name}_count"].variable
    sizes = {d: rows.array.sizes[d] for d in (*rows.cells, rows.rule.name)}
    counts = np.where(where, np.asarray(broadcast_values(counted, sizes), np.float64).reshape(where.shape), 0.0)
    most = counts.max(axis=1, initial=0.0)
    fewer = (most > 0) & (most < rows.number(MEMBERS))
    if fewer.any():
        warn_caller(
            f"{rows.count_text(fewer, 'have no point with a value of all their members')}, so their final "
            f"values are means of fewer, as min_count= allowed, and {MEMBERS} is not their number of members. Average "
            "the final values of runs instead: ds.dde.final(...).dde.mean_over(...)."
        )
    return np.asarray(where & (counts == most[:, None]))


def _labeled(found: FinalValues, at: At | float) -> xr.DataArray:
    """Return final values as an array with the coordinates of their runs."""
    array, cells = found.array, found.cells
    shape = tuple(array.sizes[d] for d in cells)
    coords = {str(n): c for n, c in array.coords.items() if set(map(str, c.dims)) <= set(cells) and n not in AXES}
    attrs = {**array.attrs, "at": at if isinstance(at, str) else float(at), "left_out": found.left_out}
    result = xr.DataArray(found.values.reshape(shape), coords, cells, array.name, attrs)
    ends = {"long_name": "cumulative tokens of the final value", "units": "tokens"}
    result = result.assign_coords(final_tokens=xr.Variable(cells, found.tokens.reshape(shape), ends))
    if "n_params" in coords:
        compute = 6.0 * result["n_params"] * result["final_tokens"]
        result = result.assign_coords(final_compute=compute.transpose(*cells).variable.copy(deep=False))
        result["final_compute"].attrs = AXES["cumulative_compute"].attrs
    return result
