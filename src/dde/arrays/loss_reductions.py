"""Training losses in Datasets that can't be compared; see :mod:`dde.curves.loss_reductions`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.layout import cell_dims, spread, text_values
from dde.arrays.samples import ANCILLARY
from dde.curves.loss_reductions import warn_of_reductions
from dde.schema import SAMPLED

__all__ = ["is_train_loss", "warn_of_mixed_loss", "warn_of_reductions"]


def is_train_loss(array: xr.DataArray) -> bool:
    """Return whether a variable is the training loss, or computed from it."""
    return f"{SAMPLED}train_loss" in str(array.attrs.get(ANCILLARY, "")).split()


def warn_of_mixed_loss(array: xr.DataArray, values: npt.NDArray[Any], by_method: bool = False) -> None:
    """Warn when an array of training losses holds values that are reduced in different ways.

    Parameters
    ----------
    array : xarray.DataArray
    values : array over the cells of `array`, then others
        Runs without any value are ignored.
    by_method : bool, default False
        Warn where runs of one method differ alone: a table keeps methods apart, whose losses are of different
        objectives anyway.
    """
    if not values.size or not is_train_loss(array) or "reduce_loss" not in array.coords:
        return
    cells = cell_dims(array)
    reductions = text_values(spread(array.coords["reduce_loss"].variable, {d: array.sizes[d] for d in cells}))
    some = ~np.isnan(values.reshape(*reductions.shape, -1)).all(axis=-1)
    methods = np.full(reductions.shape, "", object)
    if by_method and "run_type" in array.coords and set(array.coords["run_type"].dims) <= set(cells):
        methods = text_values(spread(array.coords["run_type"].variable, {d: array.sizes[d] for d in cells}))
    for method in set(methods[some].tolist()):
        warn_of_reductions(reductions[some & (methods == method)].tolist())
