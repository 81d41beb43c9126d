"""Final values of runs, curves of their bases, and differences from the base."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.curves.axes import AXES, TOKENS, AxisRule
from dde.dataset.align import align, interpolation_of
from dde.dataset.cell_operations import mask_cells, pick_cells
from dde.dataset.dimensions import (
    axis_of,
    broadcast_values,
    cell_dims,
    cells_along,
    run_dims,
    run_ids_along,
    texts_along,
)
from dde.dataset.loss_reductions import warn_of_mixed_loss
from dde.dataset.metric_rows import MetricRows
from dde.dataset.provenance import metric_named
from dde.dataset.samples import checked_positions, flags_of, has_samplings, samplings_in, samplings_of
from dde.errors import SelectionError, SourceError, UnknownNameError, warn_caller
from dde.lineage.chain_texts import format_chain, parse_chain
from dde.schema import (
    AVERAGED_OVER,
    COORDINATES,
    LINEAGE_COORDINATES,
    MEMBERS,
    PRETRAINING,
    factors_of,
    is_datadecide,
    sampled_names,
)

__all__ = ["At", "base_curves", "difference_to_base", "final"]

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Position at which runs are compared.
At = Literal["last", "schedule", "common"]

# A run whose last sample is at least this far along its schedule counts as having reached its end. DataDecide's sizes
# were last evaluated at 89 to 100 % of their schedules, except 750M, whose evaluations stop at 41 %.
_REACHED = 0.85
# Jobs stop some steps after the last scheduled one: by up to 0.35 % of the schedule in DataDecide.
_STOP_MARGIN = 0.005


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
        When the sample that decides the value is no point of the object; and when means are of runs that end at
        different tokens, and `at` is "last".
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
            f"at={at!r} is no position, so runs can't be compared there. Pass 'last', 'schedule', 'common' or a number "
            "of tokens."
        )
    array = dataset[metric_named(dataset, metric)]
    if MEMBERS in dataset.coords:
        return _final_of_means(dataset, array, at)
    if at == "last" and not has_samplings(array) and (last_values := _last_cells(array)) is not None:
        return last_values
    rows = MetricRows.of(array, samplings_of(array), flags_of(array))
    own = rows.own
    if at == "last" or at == "schedule":
        return _final_at_ends(rows, own, "last" if at == "last" else "schedule")
    # Compared at one position, runs must reach it.
    is_point, has_none = rows.end_samples("last")
    rows.require_known(~is_point & ~has_none & ~rows.off_axis, "last", "the position that all runs reach")
    _, ends, some = rows.last(rows.sampled & own & ~np.isnan(rows.values))
    furthest = float(ends[some].min()) if some.any() else np.nan
    position = furthest if at == "common" else float(at)
    return _final_at_position(dataset, rows, own, some, some & (ends >= position), position, at)


def _last_cells(array: xr.DataArray) -> xr.DataArray | None:
    """Return the last values of an array that names no sampling, where one of its samplings matches them; else None.

    Cells after a run's last sample are empty. Where the last value of every run is at its last sample in one of the
    samplings, it is that sample, whichever sampling the array belongs to.
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
        # A run none of whose own cells are left may have lost its last sample with them.
        if np.where(some, last == tokens, np.isnan(last) | (rows.run_ids == "")).all():
            return _result(array, rows.cells, values, tokens, "last", "")
    return None


def _final_at_ends(rows: MetricRows, own: Mask, at: Literal["last", "schedule"]) -> xr.DataArray:
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
    left_out = _counted(rows.run_ids[rows.off_axis & (rows.run_ids != "")], f"have no place on {rows.rule.name}")
    if at == "schedule":
        assert schedule is not None
        has_own = np.asarray((sampled & ~np.isnan(rows.values)).any(axis=1))
        values, tokens, reached = _if_reached(rows, values, tokens, has_own)
        left_out = "; ".join(filter(None, [left_out, reached]))
    elif schedule is not None:
        over = some & np.isnan(rows.number("branch_tokens")) & (tokens > (1 + _STOP_MARGIN) * schedule)
        if over.any():
            warn_caller(
                f"{_counted(rows.run_ids[over], 'went on beyond their schedule')}, so their last values are not "
                "comparable with others. Pass at='schedule' to compare runs at their planned end."
            )
    return _result(rows.array, rows.cells, values, tokens, at, left_out)


def _if_reached(rows: MetricRows, values: Float64, tokens: Float64, has_value: Mask) -> tuple[Float64, Float64, str]:
    """Return values and tokens of runs that reach the end of their schedule, NaN for others, and count the others."""
    schedule, start = rows.number("schedule_tokens"), np.nan_to_num(rows.number("branch_tokens"))
    reaches = tokens >= start + _REACHED * (schedule - start)
    unknown = has_value & np.isnan(schedule)
    left_out = [
        _counted(rows.run_ids[has_value & ~reaches & ~unknown], "do not reach the end of their schedule"),
        _counted(rows.run_ids[unknown], "have no schedule that is known"),
    ]
    return np.where(reaches, values, np.nan), np.where(reaches, tokens, np.nan), "; ".join(filter(None, left_out))


def _final_at_position(
    dataset: xr.Dataset, rows: MetricRows, own: Mask, some: Mask, reaches: Mask, position: float, at: At | float
) -> xr.DataArray:
    """Return values at one number of tokens, interpolated where the axis has no such point."""
    if not (rows.tokens[reaches] == position).any(axis=1).all():
        # On an axis other than tokens, the position may be a point of some runs only.
        name = str(rows.array.name)
        aligned = align(dataset[[name]], [position], axis=TOKENS.name, max_gap=interpolation_of(dataset).max_gap)[name]
        rows = MetricRows.of(aligned, rows.names, flags_of(aligned))
        own = rows.own
    values, tokens, _ = rows.last(own & (rows.tokens == position) & ~np.isnan(rows.values))
    left_out = _counted(rows.run_ids[some & np.isnan(values)], f"have no value of their own at {position:.0f} tokens")
    return _result(rows.array, rows.cells, values, tokens, at, left_out)


def _final_of_means(dataset: xr.Dataset, array: xr.DataArray, at: At | float) -> xr.DataArray:
    """Return final values of means, at points that all their members reach."""
    rows = MetricRows.of(array, (), [])
    first, last = (
        (rows.number(n) if n in array.coords else np.full(len(rows.values), np.nan))
        for n in ("end_tokens", "last_end_tokens")
    )
    start = np.nan_to_num(rows.number("branch_tokens"))
    if at == "last" and (differ := last - start > (1 + _STOP_MARGIN) * (first - start)).any():
        over = dataset.attrs.get(AVERAGED_OVER, "runs")
        raise SelectionError(
            f"{int(differ.sum())} means over {over} are of runs that end at different tokens, such as from "
            f"{first[differ][0]:.0f} to {last[differ][0]:.0f}, so their last values are not comparable with others. "
            "Give a position: final(at='common') where all members are, at='schedule' at their planned end, or a "
            "number of tokens; or average the final values of runs: ds.dde.final(...).dde.mean_over(...)."
        )
    own = rows.own | np.isnan(rows.tokens)
    # A count of no runs is no value.
    known = (rows.values > 0) if array.dtype.kind in "iu" else ~np.isnan(rows.values)
    where = own & known
    if isinstance(at, str):
        if at == "schedule":
            limit = rows.number("schedule_tokens")
        else:
            limit = np.where(np.isnan(first) | (at == "last"), np.inf, first)
        where = where & ((rows.tokens <= limit[:, None]) | np.isnan(rows.tokens))
    else:
        if not (rows.tokens == float(at)).any():
            raise SelectionError(
                f"{at} tokens are no point of the means' axis, so their values there are unknown. Align the runs on "
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
    left_out = _counted(rows.run_ids[has_runs & ~some], "have no value that is a mean of enough members there")
    if at == "schedule":
        values, tokens, reached = _if_reached(rows, values, tokens, np.asarray(some))
        left_out = "; ".join(filter(None, [left_out, reached]))
    return _result(array, rows.cells, values, tokens, at, left_out)


def _with_most_members(dataset: xr.Dataset, rows: MetricRows, where: Mask) -> Mask:
    """Return the points of means with the most members; warn where these are not all members."""
    counted = dataset[f"{rows.array.name}_count"].variable
    sizes = {d: rows.array.sizes[d] for d in (*rows.cells, rows.rule.name)}
    counts = np.where(where, np.asarray(broadcast_values(counted, sizes), np.float64).reshape(where.shape), 0.0)
    most = counts.max(axis=1, initial=0.0)
    fewer = (most > 0) & (most < rows.number(MEMBERS))
    if fewer.any():
        warn_caller(
            f"{_counted(rows.run_ids[fewer], 'have no point with a value of all their members')}, so their final "
            f"values are means of fewer, as min_count= allowed, and {MEMBERS} is not their number of members. Average "
            "the final values of runs instead: ds.dde.final(...).dde.mean_over(...)."
        )
    return np.asarray(where & (counts == most[:, None]))


def _counted(run_ids: npt.NDArray[np.object_], what: str) -> str:
    """Return a text that counts runs, names some, and says `what` about them; "" for no runs."""
    named = sorted(map(str, run_ids))
    if not named:
        return ""
    return f"{len(named)} runs ({', '.join(named[:3])}{', ...' if len(named) > 3 else ''}) {what}"


def _result(
    array: xr.DataArray, cells: tuple[str, ...], values: Float64, tokens: Float64, at: At | float, left_out: str
) -> xr.DataArray:
    shape = tuple(array.sizes[d] for d in cells)
    warn_of_mixed_loss(array, values)
    coords = {str(n): c for n, c in array.coords.items() if set(map(str, c.dims)) <= set(cells) and n not in AXES}
    attrs = {**array.attrs, "at": at if isinstance(at, str) else float(at), "left_out": left_out}
    result = xr.DataArray(values.reshape(shape), coords, cells, array.name, attrs)
    ends = {"long_name": "cumulative tokens of the final value", "units": "tokens"}
    result = result.assign_coords(final_tokens=xr.Variable(cells, tokens.reshape(shape), ends))
    if "n_params" in coords:
        compute = 6.0 * result["n_params"] * result["final_tokens"]
        result = result.assign_coords(final_compute=compute.transpose(*cells).variable.copy(deep=False))
        result["final_compute"].attrs = AXES["cumulative_compute"].attrs
    return result


def base_curves(dataset: xr.Dataset) -> xr.Dataset:
    """Return only the curves of the bases that the runs of a Dataset started from.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection or a sweep of it. The bases need not be in it.

    Returns
    -------
    xarray.Dataset
        With dimensions ``(lineage, axis)``; values are lazy. Where the Dataset holds the bases, these are their
        complete curves; otherwise the part that a run of the lineage holds, up to where its chain left the base.

    Raises
    ------
    SourceError
        When a coordinate that it needs is missing.
    SelectionError
        When the Dataset holds no runs, has no dimension of tokens, or its lineages have another dimension than
        ``lineage``; and when points of the axis were moved.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> ds.dde.sel(run_type="supervised_ft").dde.base_curves().arc_easy.dims
    ('lineage', 'cumulative_tokens')
    """
    rule = axis_of(dataset)
    if rule is None or rule.name not in dataset.dims:
        raise SelectionError(
            "the Dataset has no dimension of tokens, so its bases have no curves. Select several points, or none."
        )
    checked_positions(dataset)
    if "lineage" not in dataset.coords:
        raise SourceError(
            "the Dataset has no coordinate lineage, so which runs started from one base is unknown. Keep the "
            "coordinates that dde.open_lineages() gives, under their names."
        )
    cells = run_dims(dataset) if "run_id" in dataset.coords else cell_dims(dataset)
    lineages, runs = [d for d in cells if d == "lineage"], [d for d in cells if d != "lineage"]
    if along := set(map(str, dataset["lineage"].dims)) - set(lineages):
        raise SelectionError(
            f"the lineages of the Dataset have the dimension {', '.join(sorted(along))}, so there is not one base for "
            "each position of a dimension lineage. Call this before stacking or picking single cells, or unstack."
        )
    if not all(dataset.sizes[d] for d in cells):
        raise SelectionError("the Dataset holds no runs, so they started from no bases. Select some runs.")
    origin, run_ids = cells_along(dataset, "origin_tokens", cells), run_ids_along(dataset, cells)
    _check_one_root(dataset, cells, run_ids)
    # A base has all of its curve, a run the part up to where its chain left the base.
    reach = np.where(run_ids != "", np.where(np.isnan(origin), np.inf, origin), -np.inf)
    by_lineage = np.moveaxis(reach, [cells.index(d) for d in lineages], range(len(lineages)))
    by_lineage = by_lineage.reshape(*by_lineage.shape[: len(lineages)], -1)
    best, limit = by_lineage.argmax(axis=-1), by_lineage.max(axis=-1, initial=-np.inf)
    if len(runs) == 1 and best.size and (best == best.ravel()[0]).all() and (limit == np.inf).all():
        return dataset.isel({runs[0]: int(best.ravel()[0])})
    at = dict(zip(runs, np.unravel_index(best, [dataset.sizes[d] for d in runs]) if runs else (), strict=True))
    if lineages:
        at[lineages[0]] = np.arange(len(best))
    variables = {
        str(name): pick_cells(variable, at, lineages) if set(runs) & set(map(str, variable.dims)) else variable
        for name, variable in dataset.variables.items()
        if name not in runs
    }
    coords = {str(n): variables.pop(str(n)) for n in dataset.coords if str(n) in variables}
    picked = xr.Dataset(variables, coords, dict(dataset.attrs))
    return _only_base(picked, rule, np.where(np.isfinite(limit), limit, np.inf))


def _check_one_root(dataset: xr.Dataset, cells: tuple[str, ...], run_ids: npt.NDArray[np.object_]) -> None:
    """Raise where runs of one lineage started from several bases.

    Raises
    ------
    SelectionError
    """
    if "root_run_id" not in dataset.coords:
        return
    roots = texts_along(dataset, "root_run_id", cells)
    by_lineage = (
        np.moveaxis(np.where(run_ids != "", roots, ""), cells.index("lineage"), 0) if "lineage" in cells else roots
    )
    for of_lineage in by_lineage.reshape(dataset.sizes.get("lineage", 1) if "lineage" in cells else 1, -1):
        several = list(dict.fromkeys(r for r in of_lineage.tolist() if r))
        if len(several) > 1:
            raise SelectionError(
                f"runs of one lineage started from {len(several)} bases ({', '.join(several[:4])}), so the curve of "
                f"the base is ambiguous. Select runs of one base: ds.dde.sel(root_run_id={several[0]!r})."
            )


def _only_base(picked: xr.Dataset, rule: AxisRule, limit: Float64) -> xr.Dataset:
    """Return curves as those of their bases: no values after the tokens `limit`, and no coordinates of the runs."""
    dims = run_dims(picked)
    is_base = (picked["cumulative_tokens"].variable <= xr.Variable(dims, limit)).astype(np.int8)
    masked = {
        str(n): mask_cells(a.variable, [is_base]) if rule.name in a.dims else a.variable
        for n, a in picked.data_vars.items()
    }
    # In other suites, which have a coordinate for the id of the base, factors of the lineage stay.
    roots = "root_run_id" if "root_run_id" in picked.coords else "lineage"
    factors = factors_of(picked)
    of_runs = {n for n in (*COORDINATES, *factors, "start_tokens") if factors.get(n) != "lineage"} - {"n_params"}
    coords = {str(n): c.variable for n, c in picked.coords.items() if str(n) not in of_runs}
    if roots == "lineage":
        coords |= {n: picked[n].variable for n in LINEAGE_COORDINATES if n in picked.coords}
    base_ids = texts_along(picked, roots if roots in picked.coords else "run_id", dims)
    coords["run_id"] = xr.Variable(dims, base_ids, picked["run_id"].attrs)
    is_part = np.isfinite(limit)
    for name in ("branch_tokens", "origin_tokens", "schedule_tokens"):
        coords[name] = xr.Variable(dims, np.full(limit.shape, np.nan), COORDINATES[name].attrs)
    coords["end_tokens"] = xr.Variable(dims, np.where(is_part, limit, np.nan), COORDINATES["end_tokens"].attrs)
    coords["parent_run_id"] = xr.Variable(dims, np.full(limit.shape, "", object), COORDINATES["parent_run_id"].attrs)
    chains = np.full(limit.shape, f"{PRETRAINING}@0", object)
    if not is_datadecide(picked):
        texts = texts_along(picked, "chain", dims)
        for at in np.ndindex(chains.shape):
            chains[at] = format_chain(parse_chain(str(texts[at]))[:1])
        coords["start_tokens"] = xr.Variable(dims, np.zeros(limit.shape), picked["start_tokens"].attrs)
    coords["chain"] = xr.Variable(dims, chains, COORDINATES["chain"].attrs)
    for sampling in samplings_in(picked):
        if set(sampled_names(sampling).values()) <= set(map(str, picked.coords)):
            coords |= _base_sampling(picked, sampling, rule, is_base, is_part)
    return xr.Dataset(masked, coords, dict(picked.attrs))


def _base_sampling(
    picked: xr.Dataset, sampling: str, rule: AxisRule, is_base: xr.Variable, is_part: Mask
) -> dict[str, xr.Variable]:
    """Return the coordinates of a sampling for curves of bases: its numbers, and its flags where they change.

    Parameters
    ----------
    picked : xarray.Dataset
    sampling : str
    rule : AxisRule
    is_base : xarray.Variable
        1 in cells of the base.
    is_part : bool array along the dimensions of the runs
        Whether a curve is that of a derived run, of which only a part is the base's.
    """
    dims = run_dims(picked)
    names = sampled_names(sampling)
    last, base, count = (cells_along(picked, names[n], dims) for n in ("last", "base", "count"))
    flag = picked[names[""]].variable
    of_base = (flag * is_base).astype(flag.dtype)
    n_of_base, n_flags = (np.asarray(f.sum(rule.name).transpose(*dims).values, np.float64) for f in (of_base, flag))
    # The number of samples in a part of the curve is known where all samples are among the cells.
    known = np.where(n_flags == count, n_of_base, np.nan)
    numbers = {
        "last": np.where(is_part, base, last),
        "base": np.full(is_part.shape, np.nan),
        "own": known,
        "count": known.copy(),
    }
    coords = {names[n]: xr.Variable(dims, values, dict(picked[names[n]].attrs)) for n, values in numbers.items()}
    if is_part.any():
        # Samples after the branch are not of the base.
        of_base.attrs = dict(flag.attrs)
        coords[names[""]] = of_base
    return coords


def difference_to_base(dataset: xr.Dataset, max_distance: float | None = 0.05) -> xr.Dataset:
    """Return the change of every metric from the base's last observation before the run's chain left it.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection, sweep or alignment of it. It may have been saved and
        opened again.
    max_distance : float or None, default 0.05
        Largest distance of the base's last observation from the branch, as a share of the tokens at the branch. Runs
        whose base was last observed further away are NaN, and counted: otherwise the progress of the base up to the
        branch would count as an effect of post-training. None for any distance.

    Returns
    -------
    xarray.Dataset
        With the same dimensions; metrics are read. 0 up to where the chain of runs left its base, and for the base
        itself. The coordinate ``base_distance`` is the number of tokens from the base's last observation to the
        branch; metrics that differ in it have a coordinate ``base_distance_<metric>`` each. The attribute ``left_out``
        of each variable counts the runs that are NaN for it.

    Raises
    ------
    SelectionError
        When the base's last sample is no point of the object, or the Dataset holds means.
    UnknownNameError
        When `max_distance` is negative.
    SourceError
        When a coordinate, or the attribute that says which cells are samples, is missing.

    Warns
    -----
    DdeWarning
        When bases have no value before runs left them, or one too far away; the warning names these runs.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> gain = ds.dde.difference_to_base().dde.final("arc_easy")
    >>> float(gain.sel(run="pretraining").max())
    0.0
    """
    if max_distance is not None and not max_distance >= 0:
        raise UnknownNameError(
            f"max_distance={max_distance!r} is no share of the base's tokens, so no distance is allowed. Pass a number "
            "such as 0.05, or None."
        )
    if MEMBERS in dataset.coords:
        raise SelectionError(
            "the Dataset holds means, so the changes of their runs are unknown. Average the differences of runs "
            "instead: ds.dde.difference_to_base().dde.mean_over(...)."
        )
    changed: dict[str, xr.Variable] = {}
    distances: dict[str, xr.Variable] = {}
    for name, array in dataset.data_vars.items():
        rule = axis_of(array)
        if rule is None or rule.name not in array.dims or not set(run_dims(dataset)) <= set(map(str, array.dims)):
            continue
        changed[str(name)], distances[str(name)] = _change(array, max_distance)
    attrs = {"long_name": "tokens from the base's last observation to the branch", "units": "tokens"}
    for variable in distances.values():
        variable.attrs = attrs
    some = list(distances.values())
    coords = {f"base_distance_{n}": v for n, v in distances.items()}
    if some and all(v.dims == some[0].dims and np.array_equal(v.values, some[0].values, equal_nan=True) for v in some):
        coords = {"base_distance": some[0]}
    return dataset.assign(changed).assign_coords(coords)


def _change(array: xr.DataArray, max_distance: float | None) -> tuple[xr.Variable, xr.Variable]:
    """Return a metric's change from the base, and the distance of the base's last observation from the branch."""
    rows = MetricRows.of(array, samplings_of(array), flags_of(array))
    origin = rows.number("origin_tokens")
    is_derived = np.isfinite(origin)
    before = rows.tokens <= np.where(is_derived, origin, -1.0)[:, None]
    is_point, has_none = rows.end_samples("base")
    _, sampled_tokens, _ = rows.last(before & rows.sampled)
    reference, tokens, _ = rows.last(before & rows.sampled & ~np.isnan(rows.values))
    unsure = ~is_point & ~has_none
    # Where the base's last sample has no value, the one before counts if it is certain to be among the cells.
    earlier = np.nan_to_num(tokens, nan=-1.0) < np.nan_to_num(sampled_tokens, nan=-1.0)
    unsure |= earlier & ~rows.is_complete(of_run=False)
    rows.require_known(unsure & is_derived, "base", "the base's last value")
    distance = origin - tokens
    is_far = is_derived & (distance > np.inf if max_distance is None else distance > max_distance * origin)
    after = (rows.tokens > np.where(is_derived, origin, np.inf)[:, None]) & ~np.isnan(rows.tokens)
    own = (after & ~np.isnan(rows.values)).any(axis=1)
    change = np.where(after, rows.values - np.where(is_far, np.nan, reference)[:, None], rows.values * 0.0)
    left_out = [
        _counted(rows.run_ids[own & np.isnan(reference)], f"left a base that has no {array.name} before that"),
        _counted(
            rows.run_ids[own & is_far],
            f"left a base that was observed last more than {max_distance or 0:.0%} of its tokens before that",
        ),
    ]
    for reason in filter(None, left_out):
        warn_caller(
            f"{reason}, so their change of {array.name} is unknown and NaN. The metric itself is in the Dataset; "
            "base_distance is the distance of the base's last observation, and max_distance= the largest one allowed."
        )
    dims = (*rows.cells, rows.rule.name)
    changed = xr.Variable(dims, change.reshape(tuple(array.sizes[d] for d in dims))).transpose(*array.dims)
    changed.attrs = {
        **array.attrs,
        "long_name": f"{array.attrs.get('long_name', array.name)}, change from the base",
        "left_out": "; ".join(filter(None, left_out)),
    }
    return changed, xr.Variable(rows.cells, distance.reshape(rows.shape))
