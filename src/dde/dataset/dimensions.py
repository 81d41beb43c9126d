"""What the dimensions of an object mean: cells of runs, and the axis that their points lie along."""

from __future__ import annotations

from collections.abc import Mapping
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
    "run_ids_along",
    "text_values",
    "tokens_along",
]


def axis_of(obj: xr.Dataset | xr.DataArray) -> AxisRule | None:
    """Return the axis that the points of an object lie along; None where it has none."""
    known = {name: rule for name, rule in AXES.items() if name in obj.coords}
    for name, rule in known.items():
        if name in obj.dims:
            return rule
    # One point was selected. Where more than one axis knows its place, each of them is right.
    return next((r for n, r in known.items() if not obj.coords[n].dims and obj.coords[n].notnull()), None)


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
            "this object has no coordinate cumulative_tokens, so its cells have no place on the token axis. "
            "Keep the coordinate, or compute this before dropping it."
        )
    return rule


def require_params(coords: Mapping[Any, Any], rule: AxisRule) -> None:
    """Check that runs have a place on an axis that follows from their parameter counts.

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
            f"there is no coordinate n_params, so runs have no place on {rule.name}: the suite states no parameter "
            "counts, or the coordinate was dropped. Declare n_params= in the suite, or keep to cumulative_tokens."
        )
    if coords["n_params"].attrs.get(CHANGING_PARAMS):
        raise SelectionError(
            f"the parameter count changes along the curves of runs, so {rule.name} is no axis of them. Keep to "
            "cumulative_tokens; the coordinate cumulative_compute has the compute of each cell."
        )


def points_along(obj: xr.Dataset | xr.DataArray, rule: AxisRule) -> Points:
    """Return the points of an object's axis: whole tokens where it counts these.

    Raises
    ------
    SelectionError
        When they are no tokens any more, as after a division by a billion.
    """
    points: Points = np.atleast_1d(obj.coords[rule.name].values)
    if not rule.is_whole or points.dtype.kind == "i":
        return points
    whole = np.rint(points).astype(np.int64)
    if (whole != points).any():
        raise SelectionError(
            f"points of {rule.name}, such as {points[whole != points][0]}, are no whole tokens, so the axis does not "
            "count tokens any more and cells have no place on it. Rescale it after the last operation of ds.dde."
        )
    return whole


def cell_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, ...]:
    """Return the dimensions of an object that its axis is not among, those of its runs first, as they stand there."""
    runs = [str(d) for d in obj.coords["run_id"].dims] if "run_id" in obj.coords else []
    return tuple(dict.fromkeys([*runs, *(str(d) for d in obj.dims if d not in AXES)]))


def text_values(values: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Return texts as Python strings; "" where a join or reindexing left NaN or None in their place.

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
    """Return the ids of the runs over `dims`, "" where there is none, also where the coordinate lacks dimensions.

    Raises
    ------
    SourceError
        When the object has no such coordinate.
    """
    if "run_id" not in obj.coords:
        raise SourceError(
            "this object has no coordinate run_id, so which run a cell is of is unknown. "
            "Keep the coordinates that dde.open_lineages() gives."
        )
    return text_values(broadcast_values(obj.coords["run_id"].variable, {d: obj.sizes[d] for d in dims}))


def broadcast_values(variable: xr.Variable, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """Return values over all of `sizes`, in their order, also over dimensions that the variable lacks."""
    wide: Any = variable.set_dims(sizes)  # type: ignore[no-untyped-call]
    return np.asarray(wide.transpose(*sizes).values)


def cells_along(obj: xr.Dataset | xr.DataArray, name: str, dims: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return a coordinate of numbers over dimensions of cells.

    Raises
    ------
    SourceError
        When the object has no such coordinate, or one along other dimensions.
    """
    if name not in obj.coords:
        raise SourceError(
            f"this object lacks the coordinate {name}, which the answer follows from. Keep the coordinates that "
            "dde.open_lineages() gives, and ask before runs are put together."
        )
    if other := set(map(str, obj.coords[name].dims)) - set(dims):
        raise SourceError(
            f"the coordinate {name} lies along {', '.join(sorted(other))}, which cells of runs do not, so it tells "
            "nothing of them. Keep the coordinates as dde.open_lineages() gives them."
        )
    values = broadcast_values(obj.coords[name].variable, {d: obj.sizes[d] for d in dims})
    return values.astype(np.float64)


def branch_or_start(branch: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the tokens that the own part of each run lies behind: its branch, or -1 of a base, whose part is all."""
    return np.where(np.isnan(branch), -1.0, branch)


def tokens_along(obj: xr.Dataset | xr.DataArray, dims: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return the cumulative tokens of every cell over `dims`, the dimension of the axis among them; NaN where none.

    Raises
    ------
    SourceError
        When the object has no coordinate cumulative_tokens.
    """
    return cells_along(obj, "cumulative_tokens", dims)
