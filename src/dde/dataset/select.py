"""Select by any coordinates at once, along one dimension or several."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.cell_operations import blank_value, mask_cells, pick_cells
from dde.dataset.naming import canonical_values
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.lineage.filters import as_values, match_each

__all__ = ["select"]

T = TypeVar("T", xr.Dataset, xr.DataArray)


def select(obj: T, **filters: Any) -> T:
    """Return the part of `obj` where every coordinate matches.

    Parameters
    ----------
    obj : xarray.Dataset or DataArray
        With any dimensions of an opened Dataset, or those of a sweep or another axis.
    **filters
        A filter for each coordinate: a value, several, a ``slice`` with both ends included, or a function of the
        value. Numbers compare by closeness. In DataDecide, ``params``, ``data`` and ``seed`` take any of their names;
        in other suites, every coordinate takes only its values.
        A single value for a dimension drops that dimension, as xarray's own ``sel`` does.

    Returns
    -------
    xarray.Dataset or DataArray
        Where a coordinate has several dimensions, such as ``(lineage, run)``, cells that do not match are NaN, and
        lineages and runs without any matching cell are dropped.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate.
    SelectionError
        When nothing matches; it lists the existing values.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", metrics=["train_loss"])
    >>> dict(ds.dde.sel(params=["4M"], learning_rate=slice(1e-6, 1e-4)).sizes)["lineage"] > 0
    True
    """
    cells: list[xr.DataArray] = []
    for name, value in filters.items():
        if name not in obj.coords:
            raise UnknownNameError(
                f"{name!r} is not a coordinate, so nothing can be selected by it."
                f"{near_names(name, map(str, obj.coords))} There are {', '.join(map(str, obj.coords))}."
            )
        coordinate = obj.coords[name]
        mask = _mask(name, coordinate, canonical_values(obj, name, value))
        if not mask.any():
            raise SelectionError(_miss(name, coordinate, value))
        if coordinate.ndim == 0:
            continue
        if coordinate.ndim > 1:
            cells.append(xr.DataArray(mask, dims=coordinate.dims))
            continue
        (dim,) = coordinate.dims
        keep: Any = np.flatnonzero(mask)
        if name in obj.dims and np.ndim(value) == 0 and not isinstance(value, slice) and not callable(value):
            # Of several close values, take the closest.
            far = np.abs(coordinate.values[keep] - float(str(value))) if coordinate.dtype.kind == "f" else keep
            keep = int(keep[np.argmin(far)])
        obj = obj.isel({dim: keep})
        if isinstance(keep, int):
            obj = _with_object_scalars(obj)
        cells = [c.isel({dim: keep}) if dim in c.dims else c for c in cells]
    for cell in cells:
        for dim in cell.dims:
            some = cell.any([d for d in cell.dims if d != dim]).values
            obj = obj.isel({dim: np.flatnonzero(some)})
            cell = cell.isel({dim: np.flatnonzero(some)})
        if not cell.values.any():
            raise SelectionError(
                f"each filter of {filters!r} matches, but no cell matches them all, so nothing is selected. "
                "Relax one of them."
            )
        if not cell.values.all():
            obj = _without_cells(obj, cell)
    return obj


def _with_object_scalars(obj: T) -> T:
    """Return `obj` with scalar labels as variable-length text, which goes to Zarr v3 without a warning."""
    scalars = {n: c for n, c in obj.coords.items() if c.ndim == 0 and c.dtype.kind == "U"}
    return obj.assign_coords({n: ((), np.array(c.item(), object), c.attrs) for n, c in scalars.items()})


def _without_cells(obj: T, keep: xr.DataArray) -> T:
    """Return `obj` with blank cells where `keep` is False: without value, and without run."""
    of_runs = set(keep.dims) <= set(obj.coords["run_id"].dims) if "run_id" in obj.coords else True
    at = dict(zip(map(str, keep.dims), np.indices(keep.shape), strict=True))

    def masked(name: str, variable: xr.Variable) -> xr.Variable:
        if not set(keep.dims) <= set(variable.dims):
            return variable
        if not of_runs:
            # Cells along the axis are points of a run, whose coordinates stay.
            return mask_cells(variable, [keep.astype(np.int8).variable])
        blank = blank_value(variable, name)
        return pick_cells(variable, at, [str(d) for d in keep.dims], keep.values, blank).transpose(*variable.dims)

    coords = {str(n): masked(str(n), c.variable) for n, c in obj.coords.items() if of_runs and n not in obj.dims}
    if isinstance(obj, xr.DataArray):
        return obj.assign_coords(coords).copy(data=masked(str(obj.name), obj.variable)._data)
    return obj.assign_coords(coords).assign({str(n): masked(str(n), a.variable) for n, a in obj.data_vars.items()})


def _mask(name: str, coordinate: xr.DataArray, requested: Any) -> npt.NDArray[np.bool_]:
    """Return which values of a coordinate match a filter.

    Raises
    ------
    SelectionError
        When a slice begins above its end.
    """
    values = coordinate.values
    # Tokens and seeds are whole numbers, which must match exactly.
    is_whole = values.dtype.kind in "iu" or coordinate.attrs.get("units") == "tokens"
    if values.dtype.kind in "iuf" and not callable(requested):
        if isinstance(requested, slice):
            try:
                low = -np.inf if requested.start is None else float(requested.start)
                high = np.inf if requested.stop is None else float(requested.stop)
            except (TypeError, ValueError):
                return np.zeros(values.shape, bool)
            if low > high:
                raise SelectionError(
                    f"{name}=slice({requested.start!r}, {requested.stop!r}) begins above its end, so nothing is "
                    f"between. Write slice({requested.stop!r}, {requested.start!r})."
                )
            inside = (values >= low) & (values <= high)
            if is_whole:
                return np.asarray(inside)
            return np.asarray(
                inside | np.isclose(values, low, rtol=1e-6, atol=0) | np.isclose(values, high, rtol=1e-6, atol=0)
            )
        try:
            numbers = np.array([float(str(v)) for v in as_values(requested)])
        except (TypeError, ValueError):
            return np.zeros(values.shape, bool)
        if is_whole:
            return np.asarray(np.isin(values, numbers))
        close = np.isclose(values[..., None], numbers, rtol=1e-6, atol=0, equal_nan=True)
        return np.asarray(close.any(axis=-1))
    return np.array(match_each(values.ravel().tolist(), requested), bool).reshape(values.shape)


def _miss(name: str, coordinate: xr.DataArray, requested: Any) -> str:
    """Return the error text of a filter that matches nothing, with the values of the coordinate."""
    values = coordinate.values.ravel()
    if coordinate.name == "cumulative_tokens":
        points = f"{len(values)} points from {values.min()} to {values.max()}" if len(values) else "no points"
        return (
            f"cumulative_tokens={requested!r} is not on the grid, so nothing is selected. The grid has {points}; "
            ".interp() interpolates between them."
        )
    known = sorted({v for v in values.tolist() if v == v and v != ""}, key=lambda v: (str(type(v)), v))
    shown = ", ".join(map(repr, known[:12])) + (", ..." if len(known) > 12 else "")
    near = near_names(requested, map(str, known)) if isinstance(requested, str) else ""
    return f"{name}={requested!r} matches nothing, so nothing is selected.{near} {name} has {shown or 'no values'}."
