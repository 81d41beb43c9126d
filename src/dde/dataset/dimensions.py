"""Dimensions of an object: its axis, the dimensions of its runs, and coordinates broadcast along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.curves.axes import AXES, AxisRule
from dde.curves.grids import Points
from dde.errors import SelectionError, SourceError
from dde.schema import CHANGING_PARAMS

__all__ = [
    "axis_of",
    "branch_or_start",
    "broadcast_values",
    "cell_dims",
    "cells_along",
    "points_along",
    "require_axis",
    "require_params",
    "run_dims",
    "run_ids_along",
    "text_values",
    "texts_along",
    "tokens_along",
]


def axis_of(obj: xr.Dataset | xr.DataArray) -> AxisRule | None:
    """Return the axis of an object's points; None where it has none."""
    present = {name: rule for name, rule in AXES.items() if name in obj.coords}
    for name, rule in present.items():
        if name in obj.dims:
            return rule
    # One point was selected. Where it has a position on more than one axis, each of them is right.
    return next((r for n, r in present.items() if not obj.coords[n].dims and obj.coords[n].notnull()), None)


def require_axis(obj: xr.Dataset | xr.DataArray) -> AxisRule:
    """Return the axis of an object.

    Raises
    ------
    SourceError
        When it has no coordinate of an axis.
    """
    rule = axis_of(obj)
    if rule is None:
        raise SourceError(
            "this object has no coordinate cumulative_tokens, so its cells have no position on the token axis. "
            "Keep the coordinate, or compute this before dropping it."
        )
    return rule


def require_params(coords: Mapping[Any, Any], rule: AxisRule) -> None:
    """Check that runs have a position on an axis that is derived from their parameter counts.

    Parameters
    ----------
    coords : mapping
        Coordinates, or variables, by name.
    rule : AxisRule

    Raises
    ------
    SelectionError
        When there are no counts, or they change along curves.
    """
    if "n_params" not in coords:
        raise SelectionError(
            f"there is no coordinate n_params, so runs have no position on {rule.name}: the suite states no parameter "
            "counts, or the coordinate was dropped. Declare n_params= in the suite, or use cumulative_tokens."
        )
    if coords["n_params"].attrs.get(CHANGING_PARAMS):
        raise SelectionError(
            f"the parameter count changes along the curves of runs, so they have no axis {rule.name}. Use "
            "cumulative_tokens; the coordinate cumulative_compute has the compute of each cell."
        )


def points_along(obj: xr.Dataset | xr.DataArray, rule: AxisRule) -> Points:
    """Return the points of an object's axis; int64 on an axis of tokens.

    Raises
    ------
    SelectionError
        When points of an axis of tokens are not whole numbers, as after a division by a billion.
    """
    points: Points = np.atleast_1d(obj.coords[rule.name].values)
    if not rule.is_whole or points.dtype.kind == "i":
        return points
    tokens = np.rint(points).astype(np.int64)
    if (tokens != points).any():
        raise SelectionError(
            f"points of {rule.name}, such as {points[tokens != points][0]}, are not whole numbers, so the axis no "
            "longer counts tokens and cells have no position on it. Rescale it after the last operation of ds.dde."
        )
    return tokens


def cell_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, ...]:
    """Return the dimensions of an object other than its axis: those of ``run_id`` first, in their order."""
    return tuple(dict.fromkeys([*run_dims(obj), *(str(d) for d in obj.dims if d not in AXES)]))


def run_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, ...]:
    """Return the dimensions of ``run_id``, such as ``(lineage, run)``; () without this coordinate."""
    return tuple(map(str, obj.coords["run_id"].dims)) if "run_id" in obj.coords else ()


def text_values(values: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Return texts as Python strings; "" where a join or reindexing left NaN or None.

    Examples
    --------
    >>> text_values(np.array(["a", np.nan, None], object)).tolist()
    ['a', '', '']
    """
    texts = np.asarray(values, object)
    if texts.ndim == 0:
        return np.array("" if texts.item() is None or texts.item() != texts.item() else str(texts.item()), object)
    missing = (texts != texts) | (texts == np.array(None, object))
    if missing.any():
        texts = np.where(missing, "", texts)
    return texts


def run_ids_along(obj: xr.Dataset | xr.DataArray, dims: tuple[str, ...]) -> npt.NDArray[np.object_]:
    """Return the ids of the runs broadcast along `dims`; "" where there is no run.

    Raises
    ------
    SourceError
        When the object has no such coordinate.
    """
    if "run_id" not in obj.coords:
        raise SourceError(
            "this object has no coordinate run_id, so the runs of its cells are unknown. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    return texts_along(obj, "run_id", dims)


def texts_along(obj: xr.Dataset | xr.DataArray, name: str, dims: Sequence[str]) -> npt.NDArray[np.object_]:
    """Return a text coordinate broadcast along `dims`, as Python strings; "" where it is missing."""
    return text_values(broadcast_values(obj.coords.variables[name], {d: obj.sizes[d] for d in dims}))


def broadcast_values(variable: xr.Variable, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """Return the values of a variable broadcast to all dimensions of `sizes`, in their order."""
    wide: Any = variable.set_dims(sizes)  # type: ignore[no-untyped-call]
    return np.asarray(wide.transpose(*sizes).values)


def cells_along(obj: xr.Dataset | xr.DataArray, name: str, dims: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return a numeric coordinate broadcast along dimensions of cells, as float64.

    Raises
    ------
    SourceError
        When the object has no such coordinate, or it has other dimensions.
    """
    if name not in obj.coords:
        raise SourceError(
            f"this object has no coordinate {name}, so the result can't be computed. Keep the coordinates that "
            "dde.open_lineages() gives, and call this before runs are combined."
        )
    if other := set(map(str, obj.coords.variables[name].dims)) - set(dims):
        raise SourceError(
            f"the coordinate {name} has the dimensions {', '.join(sorted(other))}, which are none of the runs, so it "
            "does not describe them. Keep the coordinates as dde.open_lineages() gives them."
        )
    values = broadcast_values(obj.coords.variables[name], {d: obj.sizes[d] for d in dims})
    return values.astype(np.float64)


def branch_or_start(branch: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the tokens after which each run's own part begins: its branch, or -1 for a base."""
    return np.where(np.isnan(branch), -1.0, branch)


def tokens_along(obj: xr.Dataset | xr.DataArray, dims: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return the cumulative tokens of every cell, broadcast along `dims`; NaN where a cell has no position.

    Raises
    ------
    SourceError
        When the object has no coordinate cumulative_tokens.
    """
    return cells_along(obj, "cumulative_tokens", dims)
