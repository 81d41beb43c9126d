"""Telling variables that still are what the stores gave from those that a user has computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from dde.arrays.cube import Cube
from dde.arrays.layout import axis_of, cell_dims, points_along, run_ids_along
from dde.arrays.lazy import MetricArray
from dde.arrays.provenance import cube_of, metric_of
from dde.errors import DdeError
from dde.names import Metric

__all__ = ["source_of"]


def source_of(array: xr.DataArray, compare: bool) -> tuple[Cube, Metric] | None:
    """Return what a variable is made from, when it still is exactly that; None when it isn't, or nobody knows.

    Parameters
    ----------
    array : xarray.DataArray
    compare : bool
        Whether a variable in memory, or one that dask has computed with, is compared with the stores, which reads
        them; else it counts as changed, as all variables of dask do.

    Raises
    ------
    SelectionError
        When its axis was rescaled.
    """
    rule = axis_of(array)
    if rule is None or rule.name not in array.dims:
        return None
    try:
        cube, metric = cube_of(array), metric_of(array, None)
    except DdeError:
        return None
    points = points_along(array, rule)
    data = _origin(array.variable._data)
    if data is None and compare:
        data = _origin(_chunked(array.variable._data))
    if data is not None:
        # A user may have put other points on the axis.
        same = data.cube.key == cube.key and data.rule == rule and bool(np.isin(points, data.points).all())
        return (data.cube, data.metric) if same else None
    if not compare:
        return None
    cells = cell_dims(array)
    made = cube.block(metric, run_ids_along(array, cells), points, rule)
    ordered = array.transpose(*cells, rule.name)
    return (cube, metric) if np.array_equal(made, ordered.values, equal_nan=True) else None


def _origin(data: Any) -> MetricArray | None:
    """Return the array of the stores that a lazy array chooses from."""
    while not isinstance(data, (np.ndarray, MetricArray)) and hasattr(data, "array"):
        data = data.array
    return data if isinstance(data, MetricArray) else None


def _chunked(data: Any) -> object:
    """Return what an array of dask takes its chunks from, where it does nothing but choose from them."""
    layers = getattr(data.__dask_graph__(), "layers", {}) if hasattr(data, "__dask_graph__") else {}
    names = [name for name in layers if name.startswith("original-")]
    chosen = {n for n in layers if n.startswith(("getitem-", "rechunk-merge-", "rechunk-split-", "transpose-"))}
    if len(names) != 1 or set(layers) - chosen != {names[0], names[0].removeprefix("original-")}:
        return None
    return layers[names[0]][names[0]]
