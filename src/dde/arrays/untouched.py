"""Telling variables that still are what the stores gave from those that a user has computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.core import indexing

from dde.arrays.cube import Cube
from dde.arrays.lazy import DIMS, MetricArray
from dde.arrays.provenance import cube_of, metric_of
from dde.errors import DdeError
from dde.names import Metric

__all__ = ["lazy_variable", "source_of"]


def source_of(array: xr.DataArray, compare: bool) -> tuple[Cube, Metric] | None:
    """Return what a variable is made from, when it still is exactly that; None when it isn't, or nobody knows.

    Parameters
    ----------
    array : xarray.DataArray
    compare : bool
        Whether a variable in memory is compared with the stores, which reads them; else it counts as changed.
    """
    if set(array.dims) != set(DIMS):
        return None
    try:
        cube, metric = cube_of(array), metric_of(array, None)
    except DdeError:
        return None
    data: Any = array.variable._data
    while not isinstance(data, (np.ndarray, MetricArray)) and hasattr(data, "array"):
        data = data.array
    if isinstance(data, MetricArray):
        return (data.cube, data.metric) if data.cube.key == cube.key else None
    if not compare or hasattr(data, "dask"):
        return None
    ordered = array.transpose(*DIMS)
    made = cube.block(metric, ordered["run_id"].transpose("lineage", "run").values, ordered[DIMS[2]].values)
    return (cube, metric) if np.array_equal(made, ordered.values, equal_nan=True) else None


def lazy_variable(
    cube: Cube,
    metric: Metric,
    run_ids: npt.NDArray[np.object_],
    tokens: npt.NDArray[np.int64],
    attrs: dict[str, object],
) -> xr.Variable:
    """Return a metric over ``(lineage, run, cumulative_tokens)`` that is read when it is asked for."""
    return xr.Variable(DIMS, indexing.LazilyIndexedArray(MetricArray(cube, metric, run_ids, tokens)), attrs)
