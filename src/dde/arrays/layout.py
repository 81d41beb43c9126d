"""What the dimensions of an object mean: cells of runs, and the axis that their points lie along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.cube import Cube
from dde.curves.axes import AXES, AxisRule
from dde.curves.grids import Points
from dde.errors import SelectionError, SourceError

__all__ = ["Places", "axis_of", "cell_dims", "places_of", "points_along", "run_ids_along", "spread"]


@dataclass(frozen=True)
class Places:
    """Where the cells of an object lie.

    Attributes
    ----------
    run_ids : xarray.DataArray
        Of any dimensions.
    rule : AxisRule
    points : (point,) int64 or float64 array
    is_scalar : bool
        Whether one point was selected, so that cells have no dimension for the axis.
    """

    run_ids: xr.DataArray
    rule: AxisRule
    points: Points
    is_scalar: bool

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the cells, the axis last."""
        return (*map(str, self.run_ids.dims), *(() if self.is_scalar else (self.rule.name,)))

    def tokens(self, cube: Cube) -> npt.NDArray[np.float64]:
        """Return the cumulative tokens of every cell, of shape ``run_ids.shape + (point,)``; NaN where none."""
        if self.rule.by:
            return cube.tokens(self.run_ids.values, self.points, self.rule)
        return np.broadcast_to(self.points.astype(np.float64), (*self.run_ids.shape, len(self.points)))

    def variable(self, values: npt.NDArray[np.generic]) -> xr.Variable:
        """Return values of shape ``run_ids.shape + (point,)`` over the object's dimensions."""
        values = values.reshape((*self.run_ids.shape, len(self.points)))
        return xr.Variable(self.dims, values[..., 0] if self.is_scalar else values)

    def coords_of(self, obj: xr.Dataset | xr.DataArray) -> dict[str, xr.DataArray]:
        """Return the coordinates of `obj` that lie along its cells."""
        return {str(n): c for n, c in obj.coords.items() if set(map(str, c.dims)) <= set(self.dims)}


def axis_of(obj: xr.Dataset | xr.DataArray) -> AxisRule | None:
    """Return the axis that the points of an object lie along; None where it has none."""
    known = {name: rule for name, rule in AXES.items() if name in obj.coords}
    for name, rule in known.items():
        if name in obj.dims:
            return rule
    # One point was selected. Where more than one axis knows its place, each of them is right.
    return next((r for n, r in known.items() if not obj.coords[n].dims and obj.coords[n].notnull()), None)


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
    if len(np.unique(whole)) < len(np.unique(points)):
        raise SelectionError(
            f"points of {rule.name} lie less than a token apart, such as {points[0]} and {points[1]}, so it does not "
            "count tokens any more and cells have no place on the axis. Rescale it after the last operation of ds.dde."
        )
    return whole


def cell_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, ...]:
    """Return the dimensions of an object that its axis is not among, those of its runs first, as they stand there."""
    runs = [str(d) for d in obj.coords["run_id"].dims] if "run_id" in obj.coords else []
    return tuple(dict.fromkeys([*runs, *(str(d) for d in obj.dims if d not in AXES)]))


def run_ids_along(obj: xr.Dataset | xr.DataArray, dims: tuple[str, ...]) -> npt.NDArray[np.object_]:
    """Return the ids of the runs over `dims`, also where the coordinate lacks some of them.

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
    return spread(obj.coords["run_id"].variable, {d: obj.sizes[d] for d in dims}).astype(object, copy=False)


def spread(variable: xr.Variable, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """Return values over all of `sizes`, in their order, also over dimensions that the variable lacks."""
    wide: Any = variable.set_dims(sizes)  # type: ignore[no-untyped-call]
    return np.asarray(wide.transpose(*sizes).values)


def places_of(obj: xr.Dataset | xr.DataArray) -> Places:
    """Return where the cells of an object lie.

    Raises
    ------
    SourceError
        When it has no coordinate of an axis.
    SelectionError
        When its axis was rescaled.
    """
    rule = axis_of(obj)
    if rule is None:
        raise SourceError(
            "this object has no coordinate cumulative_tokens, so its cells have no place on the token axis. "
            "Keep the coordinate, or compute this before dropping it."
        )
    return Places(obj.coords["run_id"], rule, points_along(obj, rule), rule.name not in obj.dims)
