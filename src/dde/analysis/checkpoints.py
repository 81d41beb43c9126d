"""Observed checkpoints of runs, and the checkpoints that runs of one group have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.footing import ENTERED, NO_OBSERVATION, coordinates_of
from dde.analysis.observations import Observations, metric_names
from dde.array_types import Float64
from dde.errors import SelectionError

__all__ = ["SAMPLE", "at_common_checkpoints", "checkpoints_at"]

#: Dimension of the samples of each run, in the order of their tokens.
SAMPLE = "sample"


def checkpoints_at(dataset: xr.Dataset, metric: str | Sequence[str] | None = None) -> xr.Dataset:
    """Return the observed values of each run, in the order of their tokens.

    Parameters
    ----------
    dataset : xarray.Dataset
    metric : str, several or None
        Names or aliases; may be omitted where there is only one variable.

    Returns
    -------
    xarray.Dataset
        ``value`` along ``(metric, lineage, run, sample)``, and ``tokens`` along the same dimensions, or without
        ``metric`` where all metrics have the same samples; NaN after a run's last sample. Only the run's own samples,
        after its branch. ``status`` along the dimensions of ``value`` other than ``sample``: "entered" for runs with
        any value, "no observation", or "" where there is no run.

    Raises
    ------
    UnknownNameError, SelectionError, SourceError
        As of :meth:`dde.analysis.observations.Observations.of`.
    """
    names = metric_names(dataset, metric)
    parts: dict[str, tuple[Any, Any]] = {}
    cells: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    run_ids: npt.NDArray[np.object_] = np.array([], object)
    for seen in Observations.of(dataset, names):
        if cells and seen.cells != cells:
            raise SelectionError(
                f"the metrics {', '.join(names)} have different dimensions, so they have no common answer. Ask for "
                "them one by one."
            )
        cells, shape, run_ids = seen.cells, seen.shape, seen.run_ids
        for k, name in enumerate(seen.metrics):
            parts[name] = (seen.tokens, seen.values[k])
    most = max(tokens.shape[1] for tokens, _ in parts.values())

    def padded(arrays: Sequence[Float64], dims: tuple[str, ...]) -> xr.Variable:
        out = np.full((len(arrays), int(np.prod(shape)), most), np.nan)
        for i, array in enumerate(arrays):
            out[i, :, : array.shape[1]] = array
        sizes = (len(arrays), *shape, most) if dims[0] == "metric" else (*shape, most)
        return xr.Variable(dims, out.reshape(sizes))

    per_run = (*cells, SAMPLE)
    all_tokens = [parts[name][0] for name in names]
    is_shared = all(tokens is all_tokens[0] for tokens in all_tokens)
    tokens = padded(all_tokens[:1], per_run) if is_shared else padded(all_tokens, ("metric", *per_run))
    values = padded([parts[name][1] for name in names], ("metric", *per_run))
    is_observed = ~np.isnan(values.values).all(axis=-1)
    status = np.where(is_observed, ENTERED, NO_OBSERVATION).astype(object)
    status[:, run_ids.reshape(shape) == ""] = ""
    variables = {"value": values, "tokens": tokens, "status": xr.Variable(values.dims[:-1], status)}
    return xr.Dataset(variables, coordinates_of(dataset, names, cells))


def at_common_checkpoints(values: xr.Dataset, members: Sequence[str]) -> xr.Dataset:
    """Return observed values along a dimension ``checkpoint``: the tokens at which any of the members was observed.

    Parameters
    ----------
    values : xarray.Dataset
        ``value`` and ``tokens`` along ``sample`` and other dimensions.
    members : sequence of str
        Dimensions of the runs that share checkpoints, such as recipes and seeds. Each position along the other
        dimensions has its own checkpoints.

    Returns
    -------
    xarray.Dataset
        ``value`` along the dimensions of `values`, with ``checkpoint`` in place of ``sample``; NaN where a member was
        not observed. ``tokens`` along the other dimensions and ``checkpoint``, ascending; NaN after the last one.
    """
    others = [str(d) for d in values["tokens"].dims if d not in (*members, SAMPLE)]
    # Metrics that have the same samples.
    leading = [str(d) for d in values["value"].dims if d not in values["tokens"].dims]
    order = (*others, *members, SAMPLE)
    sizes = values["value"].sizes
    groups, runs, count = (int(np.prod([sizes[d] for d in dims])) for dims in (others, members, leading))
    tokens = values["tokens"].transpose(*order).values.reshape(groups, runs, -1)
    value = values["value"].transpose(*leading, *order).values.reshape(count, groups, runs, -1)
    group, run, sample = np.nonzero(~np.isnan(tokens))
    at = tokens[group, run, sample]
    # The distinct tokens of each group in ascending order, and the rank of each sample among them.
    order_of_samples = np.lexsort((at, group))
    by_group, by_tokens = group[order_of_samples], at[order_of_samples]
    is_new_group = np.diff(by_group, prepend=-1) > 0
    is_new = is_new_group | (np.diff(by_tokens, prepend=np.nan) != 0)
    number = np.cumsum(is_new) - 1
    first = np.maximum.accumulate(np.where(is_new_group, number, 0)) if len(number) else number
    rank = np.empty(len(at), np.intp)
    rank[order_of_samples] = number - first
    most = int(rank.max(initial=-1)) + 1
    out = np.full((count, groups, runs, most), np.nan)
    out[:, group, run, rank] = value[:, group, run, sample]
    places = np.full((groups, most), np.nan)
    places[group, rank] = at
    dims = (*leading, *others, *members, "checkpoint")
    variables = {
        "value": xr.Variable(dims, out.reshape(*(sizes[d] for d in dims[:-1]), most)),
        "tokens": xr.Variable((*others, "checkpoint"), places.reshape(*(sizes[d] for d in others), most)),
    }
    coords = {str(n): c.variable for n, c in values.coords.items() if SAMPLE not in c.dims}
    return xr.Dataset(variables, coords)
