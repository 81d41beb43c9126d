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
        Whether a variable in memory or of dask is compared with the stores, which reads them; else it counts as
        changed.

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
    data: Any = array.variable._data
    while not isinstance(data, (np.ndarray, MetricArray)) and hasattr(data, "array"):
        data = data.array
    if isinstance(data, MetricArray):
        # A user may have put other points on the axis.
        same = data.cube.key == cube.key and data.rule == rule and bool(np.isin(points, data.points).all())
        return (data.cube, data.metric) if same else None
    if not compare:
        return None
    cells = cell_dims(array)
    made = cube.block(metric, run_ids_along(array, cells), points, rule)
    ordered = array.transpose(*cells, rule.name)
    return (cube, metric) if np.array_equal(made, ordered.values, equal_nan=True) else None
