"""Warn about training losses that can't be compared, because runs reduce them over the batch in different ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.dimensions import cell_dims, texts_along
from dde.dataset.samples import ANCILLARY
from dde.errors import warn_caller
from dde.schema import SAMPLED

__all__ = [
    "is_train_loss",
    "warn_of_mixed_loss",
    "warn_of_reductions",
]


def warn_of_reductions(reductions: Iterable[object]) -> None:
    """Warn when training losses of one view are reduced in different ways, such as ``sum`` and ``mean``.

    Parameters
    ----------
    reductions : iterable of str
        ``reduce_loss`` of the runs whose ``train_loss`` is shown, averaged or collected in one frame; "" where there
        is no run, or the reduction is unknown.

    Warns
    -----
    DdeWarning
        When there is more than one reduction.
    """
    ways = sorted({str(r) for r in reductions} - {""})
    if len(ways) > 1:
        warn_caller(
            f"the runs reduce train_loss in different ways ({', '.join(ways)}), so their values can't be compared. "
            "Select one: ds.dde.sel(reduce_loss=...), or in a frame the rows of runs with one reduction."
        )


def is_train_loss(array: xr.DataArray) -> bool:
    """Return whether a variable is the training loss, or computed from it."""
    return f"{SAMPLED}train_loss" in str(array.attrs.get(ANCILLARY, "")).split()


def warn_of_mixed_loss(array: xr.DataArray, values: npt.NDArray[Any], by_method: bool = False) -> None:
    """Warn when an array of training losses holds values that are reduced in different ways.

    Parameters
    ----------
    array : xarray.DataArray
    values : array along the dimensions of the runs of `array`, then others
        Runs without any value are ignored.
    by_method : bool, default False
        Warn only where runs of one method differ: a table separates methods, whose losses are of different objectives
        anyway.
    """
    if not values.size or not is_train_loss(array) or "reduce_loss" not in array.coords:
        return
    cells = cell_dims(array)
    reductions = texts_along(array, "reduce_loss", cells)
    some = ~np.isnan(values.reshape(*reductions.shape, -1)).all(axis=-1)
    methods = np.full(reductions.shape, "", object)
    if by_method and "run_type" in array.coords and set(array.coords["run_type"].dims) <= set(cells):
        methods = texts_along(array, "run_type", cells)
    for method in set(methods[some].tolist()):
        warn_of_reductions(reductions[some & (methods == method)].tolist())
