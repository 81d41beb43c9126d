"""Standard errors of evaluations, which a source gives as metrics of their own, such as those of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from dde.array_types import Float64
from dde.dataset.dimensions import broadcast_values
from dde.dataset.metric_rows import MetricRows
from dde.dataset.samples import flags_of, samplings_of

__all__ = ["errors_at", "stderr_names"]


def stderr_names(dataset: xr.Dataset, names: Sequence[str]) -> dict[str, str]:
    """Return the variable with the standard error of each metric that has one.

    Examples
    --------
    >>> ds = xr.Dataset({"acc": 0.5, "acc_stderr": ((), 0.01, {"stderr_of": "acc"})})
    >>> stderr_names(ds, ["acc"])
    {'acc': 'acc_stderr'}
    """
    of = {str(array.attrs.get("stderr_of", "")): str(name) for name, array in dataset.data_vars.items()}
    return {name: of[name] for name in names if name in of}


def errors_at(dataset: xr.Dataset, name: str, tokens: xr.DataArray, own: bool = True) -> Float64:
    """Return the standard errors of runs that were observed at some tokens.

    Parameters
    ----------
    dataset : xarray.Dataset
    name : str
        Variable of the standard errors.
    tokens : xarray.DataArray
        Cumulative tokens of each run, along the dimensions of the runs.
    own : bool, default True
        Whether the observation is one of the run itself, not of its ancestors.

    Returns
    -------
    float64 array of the shape of `tokens`
        NaN where there is no observation at these tokens: errors are not interpolated.

    Raises
    ------
    SourceError, SelectionError
        As of :func:`dde.dataset.samples.flags_of`.
    """
    array = dataset[name]
    rows = MetricRows.of(array, samplings_of(array), flags_of(array))
    there = broadcast_values(tokens.variable, {d: array.sizes[d] for d in rows.cells}).reshape(-1, 1)
    where = rows.sampled & (rows.tokens == there) & ~np.isnan(rows.values)
    values, _, _ = rows.last(where & rows.own if own else where)
    of_runs = xr.DataArray(values.reshape(rows.shape), dims=rows.cells)
    return np.asarray(of_runs.transpose(*tokens.dims).values, np.float64)
