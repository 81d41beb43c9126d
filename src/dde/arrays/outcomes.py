"""What runs end at, and what they gain over the base they started from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.cube import Cube
from dde.arrays.layout import axis_of, cell_dims, places_of, points_along, run_ids_along
from dde.arrays.lazy import lazy_variable
from dde.arrays.provenance import cube_of, metric_named, metric_of
from dde.arrays.untouched import source_of
from dde.curves.alignment import OBSERVED
from dde.curves.axes import AXES, AxisRule
from dde.errors import SelectionError, UnknownNameError, warn_caller
from dde.names import Metric
from dde.relations.treatments import PRETRAINING

__all__ = ["base_curves", "difference_to_base", "final"]


def final(dataset: xr.Dataset, metric: str | None = None) -> xr.DataArray:
    """Return the last value of a metric that each run has itself: what it ends at.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection or a sweep of it, or saved and opened again.
    metric : str, optional
        Name or alias of a data variable; may be left out where there is one alone.

    Returns
    -------
    xarray.DataArray
        Dimensions of the runs, such as ``(lineage, run)``; NaN where a run has no value behind its branch. The
        coordinates ``final_tokens`` and ``final_compute`` (6 N tokens) say where the value stands. It is the last
        observation, on the grid or not, where the stores are open and the variable is theirs; else the last cell
        with a value.

    Raises
    ------
    UnknownNameError
        When there is no such variable.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["arc_easy"])
    >>> final(ds, "arc_easy").dims
    ('lineage', 'run')
    """
    if metric is None:
        if len(dataset.data_vars) != 1:
            raise UnknownNameError(
                f"the Dataset has {len(dataset.data_vars)} metrics, so which one's final value is meant is open. "
                f"Name it: ds.dde.final('arc_easy'). There are {', '.join(map(str, dataset.data_vars))}."
            )
        (metric,) = map(str, dataset.data_vars)
    array = dataset[metric_named(dataset, metric)]
    cells = cell_dims(array)
    source = source_of(array, compare=True)
    if source is not None:
        values, tokens = _last_observed(*source, run_ids_along(array, cells))
    else:
        values, tokens = _last_cells(dataset, array, cells)
    coords = {str(n): c for n, c in array.coords.items() if set(map(str, c.dims)) <= set(cells) and n not in AXES}
    result = xr.DataArray(values, coords, cells, array.name, {**array.attrs})
    ends = xr.Variable(cells, tokens, {"long_name": "cumulative tokens of the final value", "units": "tokens"})
    result = result.assign_coords(final_tokens=ends)
    if "n_params" in coords:
        compute = 6.0 * result["n_params"] * result["final_tokens"]
        result = result.assign_coords(final_compute=compute.transpose(*cells).variable.copy(deep=False))
        result["final_compute"].attrs = AXES["cumulative_compute"].attrs
    return result


def _last_observed(
    cube: Cube, metric: Metric, run_ids: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    cells: dict[str, list[int]] = {}
    for cell, run_id in enumerate(run_ids.ravel().tolist()):
        cells.setdefault(run_id, []).append(cell)
    values, tokens = np.full(run_ids.size, np.nan), np.full(run_ids.size, np.nan)
    for run_id, (x, y) in cube.observations(metric, cells).items():
        placed = cube.registry.placed.get(run_id)
        if len(x) and (placed is None or x[-1] > (placed.branch_tokens or 0)):
            values[cells[run_id]], tokens[cells[run_id]] = y[-1], x[-1]
    return values.reshape(run_ids.shape), tokens.reshape(run_ids.shape)


def _last_cells(
    dataset: xr.Dataset, array: xr.DataArray, cells: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    rule = axis_of(array)
    if rule is None or rule.name not in array.dims:
        raise SelectionError(
            f"{str(array.name)!r} has no dimension of tokens, so no last value. Select several points, or none."
        )
    points = xr.DataArray(points_along(array, rule), dims=rule.name)
    if "cumulative_tokens" in dataset.coords:
        tokens = dataset["cumulative_tokens"].reset_coords(drop=True)
    else:
        # Runs of a mean that branch at different tokens have none in common.
        tokens = xr.full_like(points, np.nan, np.float64)
    made, tokens, points = xr.broadcast(array.reset_coords(drop=True).compute(), tokens, points)
    own = made.notnull()
    if "branch_tokens" in dataset.coords:
        branch = dataset["branch_tokens"].reset_coords(drop=True)
        own = own & ((points > 0 if rule.by == "run" else tokens > branch) | branch.isnull())
    own = own.compute()  # coordinates of a reopened Dataset may be chunked
    last = points.where(own, -1).argmax(rule.name)
    some = own.any(rule.name)
    chosen = (a.compute().isel({rule.name: last}).where(some).transpose(*cells) for a in (made, tokens))
    values, at = (np.asarray(a.values, np.float64) for a in chosen)
    return values, at


def base_curves(dataset: xr.Dataset) -> xr.Dataset:
    """Return the curves of the bases alone, whatever runs the Dataset holds: what its runs started from.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection or a sweep of it.

    Returns
    -------
    xarray.Dataset
        Lazy, with dimensions ``(lineage, axis)``; behind a branch, too, where the base goes on.

    Raises
    ------
    SourceError
        When the stores behind the Dataset are not open in this process, and it does not hold its bases.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> base_curves(ds.dde.sel(run_type="supervised_ft")).arc_easy.dims
    ('lineage', 'cumulative_tokens')
    """
    if PRETRAINING in np.atleast_1d(dataset.coords["run"].values if "run" in dataset.coords else []):
        return dataset if "run" not in dataset.dims else dataset.sel(run=PRETRAINING)
    cube, places = cube_of(dataset), places_of(dataset)
    lineages = dataset["lineage"]
    coords = {str(n): c for n, c in dataset.coords.items() if set(map(str, c.dims)) <= {"lineage", places.rule.name}}
    labels = lineages.copy(data=np.asarray(lineages.values, object))
    labels.attrs = dict(dataset["run_id"].attrs)
    variables = {
        str(name): lazy_variable(
            cube,
            metric_of(a, None),
            labels.values,
            places.points,
            dict(a.attrs),
            places.rule,
            list(map(str, lineages.dims)),
        )
        for name, a in dataset.data_vars.items()
        if source_of(a, compare=True) is not None
    }
    return xr.Dataset(variables, {**coords, "run_id": (lineages.dims, labels.values, labels.attrs)}, dataset.attrs)


def difference_to_base(dataset: xr.Dataset) -> xr.Dataset:
    """Return every metric less its base's last observation before the run's chain left it: what was changed.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, or a selection or a sweep of it.

    Returns
    -------
    xarray.Dataset
        Of the same dimensions; metrics are read. Variables that are no metric of the opened Dataset stay as they
        are. 0 up to where the chain of runs left its base, and for the base itself. Where the base was last observed
        stands in the attribute ``base_tokens_before_branch`` of each variable: the largest distance in tokens
        between that and the branch.

    Raises
    ------
    SourceError
        When the stores behind the Dataset are not open in this process.
    SelectionError
        When a metric was changed, so that it can't be compared with what its base was observed at.

    Warns
    -----
    DdeWarning
        When bases have no value before runs left them, so that the change is unknown and NaN; those runs are named.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", metrics=["arc_easy"])
    >>> gain = final(difference_to_base(ds), "arc_easy")
    >>> float(gain.sel(run="pretraining").max())
    0.0
    """
    cube = cube_of(dataset)
    cells = cell_dims(dataset)
    run_ids = run_ids_along(dataset, cells)
    bases, origins = np.full(run_ids.shape, "", object), np.full(run_ids.shape, np.inf)
    for at in np.ndindex(run_ids.shape):
        chain = cube.registry.chain(str(run_ids[at])) if run_ids[at] else []
        if len(chain) > 1:
            bases[at] = chain[0]
            origins[at] = cube.registry.placed[chain[1]].branch_tokens or 0
    behind = dataset["cumulative_tokens"].reset_coords(drop=True) > xr.DataArray(origins, dims=cells)
    opened = {m.name for m in cube.metrics}
    changed: dict[str, xr.Variable] = {}
    for name, array in dataset.data_vars.items():
        rule = axis_of(array)
        if rule is None or set(array.dims) != {*cells, rule.name}:
            continue
        source = source_of(array, compare=False)
        metric = metric_of(array, None) if source is None else source[1]
        if metric.name not in opened:
            continue
        if source is None:
            _check_unscaled(array, cube, metric, rule)
        reference, distance = _last_before(cube, metric, bases, origins)
        values = array.reset_coords(drop=True)
        _warn_of_missing(str(name), values, behind, reference, run_ids, cells)
        change = (values - xr.DataArray(reference, dims=cells)).where(behind, values * 0.0)
        changed[str(name)] = change.transpose(*array.dims).variable
        changed[str(name)].attrs = {
            **array.attrs,
            "long_name": f"{array.attrs.get('long_name', name)}, change from the base",
            "base_tokens_before_branch": distance,
        }
    return dataset.assign(changed)


def _check_unscaled(array: xr.DataArray, cube: Cube, metric: Metric, rule: AxisRule) -> None:
    """Raise where cells that were observed hold something else: a percentage, a mean over neighbouring points."""
    cells = cell_dims(array)
    place = run_ids_along(array, cells), points_along(array, rule), rule
    held = np.asarray(array.transpose(*cells, rule.name).values, np.float64)
    observed = (cube.support(metric, *place) == OBSERVED) & ~np.isnan(held)
    # Single precision is as good.
    other = observed & ~np.isclose(held, cube.block(metric, *place), rtol=1e-5, atol=0)
    if other.any():
        raise SelectionError(
            f"{str(array.name)!r} holds other values than were observed in {int(other.sum())} cells, so it can't be "
            "compared with what its base was observed at. Take the difference first, then compute with it."
        )


def _last_before(
    cube: Cube, metric: Metric, bases: npt.NDArray[np.object_], origins: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], int]:
    """Return each base's last observation at or before a place, and the largest distance between the two."""
    observed = cube.observations(metric, [str(b) for b in bases.ravel()])
    reference, distance = np.full(bases.shape, np.nan), 0
    for at in np.ndindex(bases.shape):
        if not bases[at]:
            continue
        x, y = observed[str(bases[at])]
        last = int(np.searchsorted(x, origins[at], side="right")) - 1
        if last >= 0:
            reference[at] = y[last]
            distance = max(distance, int(origins[at] - x[last]))
    return reference, distance


def _warn_of_missing(
    name: str,
    values: xr.DataArray,
    behind: xr.DataArray,
    reference: npt.NDArray[np.float64],
    run_ids: npt.NDArray[np.object_],
    cells: tuple[str, ...],
) -> None:
    along = [d for d in values.dims if d not in cells]
    own = (values.notnull() & behind).any(along).transpose(*cells).values
    lost = sorted(map(str, run_ids[own & np.isnan(reference)]))
    if lost:
        warn_caller(
            f"{len(lost)} runs ({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}) left a base that has no "
            f"{name} before that, so what they changed is unknown and NaN. The metric itself is in the Dataset."
        )
