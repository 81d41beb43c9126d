"""Curves of the bases of runs, and the change of each run from its base."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.array_types import Float64
from dde.curves.axes import AxisRule
from dde.dataset.cell_operations import mask_cells, pick_cells
from dde.dataset.dimensions import (
    axis_of,
    cell_dims,
    cells_along,
    run_dims,
    run_ids_along,
    texts_along,
)
from dde.dataset.metric_rows import MetricRows
from dde.dataset.samples import checked_positions, flags_of, samplings_in, samplings_of
from dde.errors import SelectionError, SourceError, UnknownNameError, warn_caller
from dde.lineage.chain_texts import format_chain, parse_chain
from dde.schema import (
    COORDINATES,
    LINEAGE_COORDINATES,
    MEMBERS,
    PRETRAINING,
    factors_of,
    is_datadecide,
    sampled_names,
)

__all__ = ["base_curves", "check_max_distance", "difference_to_base", "last_of_bases"]

Mask = npt.NDArray[np.bool_]


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
        When the Dataset holds no runs or has no dimension of tokens; when its lineages have a dimension other than
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
        chosen = dataset.isel({runs[0]: int(best.ravel()[0])})
        # The label of a single run is text of fixed width, which Zarr stores with a warning.
        label = chosen.coords.get(runs[0], None)
        if label is not None and label.dtype.kind == "U":
            chosen[runs[0]] = ((), np.array(str(label.item()), object), label.attrs)
        return chosen
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
    n_in_part = np.where(n_flags == count, n_of_base, np.nan)
    numbers = {
        "last": np.where(is_part, base, last),
        "base": np.full(is_part.shape, np.nan),
        "own": n_in_part,
        "count": n_in_part.copy(),
    }
    coords = {names[n]: xr.Variable(dims, values, dict(picked[names[n]].attrs)) for n, values in numbers.items()}
    if is_part.any():
        # Samples after the branch are not of the base.
        of_base.attrs = dict(flag.attrs)
        coords[names[""]] = of_base
    return coords


def check_max_distance(max_distance: float | None) -> None:
    """Check the largest distance of a base's last observation from the branch, as a share of the tokens there.

    Raises
    ------
    UnknownNameError
        When it is negative or no number.
    """
    is_number = isinstance(max_distance, (int, float, np.number)) and not isinstance(max_distance, bool)
    if max_distance is not None and not (is_number and max_distance >= 0):
        raise UnknownNameError(
            f"max_distance={max_distance!r} is not a share of the base's tokens, so no distance is allowed. "
            "Pass a number such as 0.05, or None."
        )


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
        When the base's last sample is not a point of the object, or the Dataset holds means.
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
    check_max_distance(max_distance)
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


def last_of_bases(rows: MetricRows) -> tuple[Float64, Float64]:
    """Return value and tokens of the last observation of each run's base before the run's chain left it.

    Parameters
    ----------
    rows : MetricRows

    Returns
    -------
    values, tokens : (row,) float64 arrays
        NaN for bases, and where a base has no value before that.

    Raises
    ------
    SelectionError
        When the sample that decides a value is no point of the object.
    """
    origin = rows.number("origin_tokens")
    is_derived = np.isfinite(origin)
    before = rows.tokens <= np.where(is_derived, origin, -1.0)[:, None]
    is_point, has_none = rows.end_samples("base")
    _, sampled_tokens, _ = rows.last(before & rows.sampled)
    values, tokens, _ = rows.last(before & rows.sampled & ~np.isnan(rows.values))
    unsure = ~is_point & ~has_none
    # Where the base's last sample has no value, the one before counts if it is certain to be among the cells.
    earlier = np.nan_to_num(tokens, nan=-1.0) < np.nan_to_num(sampled_tokens, nan=-1.0)
    unsure |= earlier & ~rows.is_complete(of_run=False)
    rows.require_known(unsure & is_derived, "base", "the base's last value")
    return values, tokens


def _change(array: xr.DataArray, max_distance: float | None) -> tuple[xr.Variable, xr.Variable]:
    """Return a metric's change from the base, and the distance of the base's last observation from the branch."""
    rows = MetricRows.of(array, samplings_of(array), flags_of(array))
    origin = rows.number("origin_tokens")
    is_derived = np.isfinite(origin)
    reference, tokens = last_of_bases(rows)
    distance = origin - tokens
    is_far = is_derived & (distance > np.inf if max_distance is None else distance > max_distance * origin)
    after = (rows.tokens > np.where(is_derived, origin, np.inf)[:, None]) & ~np.isnan(rows.tokens)
    own = (after & ~np.isnan(rows.values)).any(axis=1)
    change = np.where(after, rows.values - np.where(is_far, np.nan, reference)[:, None], rows.values * 0.0)
    left_out = [
        rows.count_text(own & np.isnan(reference), f"left a base that has no {array.name} before that"),
        rows.count_text(
            own & is_far,
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
