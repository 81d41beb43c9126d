"""Pick, coalesce and mask the cells of variables, lazily where the variables are lazy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.lazy import BlockArray, is_chunked, is_lazy, lazily
from dde.dataset.samples import is_set
from dde.schema import sampling_of

__all__ = ["blank_value", "coalesce", "mask_cells", "pick_cells"]

Positions = npt.NDArray[np.intp]


def blank_value(variable: xr.Variable, name: str = "") -> Any:
    """Return the value of a cell without a run: "" in text, NaN in numbers, 0 in flags of samples."""
    if variable.dtype.kind == "i" and sampling_of(name):
        return 0
    return "" if variable.dtype.kind in "OTU" else np.nan


def pick_cells(
    variable: xr.Variable,
    at: Mapping[str, Positions],
    dims: Sequence[str],
    has_cell: npt.NDArray[np.bool_] | None = None,
    blank: Any = None,
) -> xr.Variable:
    """Return a variable with cells picked from another one by position.

    Parameters
    ----------
    variable : xarray.Variable
    at : mapping of dimension to int array
        Positions of the picked cells along each dimension to replace; arrays of one shape. Dimensions that `variable`
        does not have are ignored.
    dims : sequence of str
        New dimensions that replace those; first in the result.
    has_cell : bool array of the shape of the cells, optional
        Cells where it is False become `blank`.
    blank : optional
        "" in text and NaN in numbers when None.

    Returns
    -------
    xarray.Variable
        Dimensions `dims`, then the others of `variable`. Lazy or chunked where `variable` is; otherwise in memory.
        Integers become floats where cells are blank.
    """
    used = {d: np.asarray(a) for d, a in at.items() if d in variable.dims}
    rest = tuple(str(d) for d in variable.dims if d not in used)
    shape = np.shape(next(iter(at.values())))
    if blank is None:
        blank = blank_value(variable)
    has_blanks = has_cell is not None and not has_cell.all()
    dtype = variable.dtype
    if has_blanks and dtype.kind in "iub" and not (isinstance(blank, int) or dtype.kind == "O"):
        dtype = np.dtype(np.float64)
    if used and is_lazy(variable):
        array = _PickedArray(variable, used, shape, rest, has_cell if has_blanks else None, blank, dtype)
        return lazily((*dims, *rest), array, dict(variable.attrs))
    ordered: xr.Variable = variable.transpose(*used, *rest)
    if is_chunked(ordered):
        picked: xr.Variable = ordered.isel({d: xr.Variable(dims, a) for d, a in used.items()}) if used else ordered
        picked = picked.set_dims({**dict(zip(dims, shape, strict=True)), **{d: ordered.sizes[d] for d in rest}})  # type: ignore[no-untyped-call]
        if has_blanks:
            picked = picked.astype(dtype).where(xr.Variable(tuple(dims), has_cell), blank)  # type: ignore[no-untyped-call]
        # Picking leaves chunks of unequal sizes, which Zarr can't store.
        chunks = {str(d): max(sizes) for d, sizes in zip(variable.dims, variable.chunks or (), strict=False)}
        chunked = picked.transpose(*dims, *rest)
        chunked = chunked.chunk({d: chunks.get(str(d), -1) for d in chunked.dims})
        chunked.attrs = dict(variable.attrs)
        return chunked
    values = ordered.values
    values = values[tuple(used.values())] if used else np.broadcast_to(values, (*shape, *values.shape))
    if has_blanks:
        assert has_cell is not None
        values = np.where(has_cell.reshape(*has_cell.shape, *(1 for _ in rest)), values.astype(dtype), blank)
        values = values.astype(dtype, copy=False)
    return xr.Variable((*dims, *rest), values, dict(variable.attrs), fastpath=True)


class _PickedArray(BlockArray):
    """Cells picked from a lazy variable; reads the cells of a block."""

    def __init__(
        self,
        variable: xr.Variable,
        at: Mapping[str, Positions],
        shape: tuple[int, ...],
        rest: tuple[str, ...],
        has_cell: npt.NDArray[np.bool_] | None,
        blank: Any,
        dtype: np.dtype[Any],
    ) -> None:
        self.variable, self.at, self.rest, self.has_cell, self.blank = variable, dict(at), rest, has_cell, blank
        self.cells = len(shape)
        self.shape = (*shape, *(variable.sizes[d] for d in rest))
        self.dtype = dtype

    def _block(self, at: tuple[Positions, ...]) -> npt.NDArray[Any]:
        cells, others = np.ix_(*at[: self.cells]), at[self.cells :]
        shape = tuple(len(a) for a in at)
        has_cell = np.ones(shape[: self.cells], bool) if self.has_cell is None else self.has_cell[cells]
        out = np.full(shape, self.blank, self.dtype) if not has_cell.all() else np.empty(shape, self.dtype)
        if not has_cell.any():
            return out
        index: dict[str, Any] = dict(zip(self.rest, others, strict=True))
        inverse = []
        for dim, positions in self.at.items():
            # Blank cells are not read.
            index[dim], back = np.unique(positions[cells][has_cell], return_inverse=True)
            inverse.append(back)
        out[has_cell] = self.variable.isel(index).transpose(*self.at, *self.rest).values[tuple(inverse)]
        return out


def coalesce(variables: Sequence[xr.Variable], has_cell: Sequence[npt.NDArray[np.bool_]]) -> xr.Variable:
    """Return each cell from the first of several variables that has it.

    Parameters
    ----------
    variables : sequence of xarray.Variable
        Of the same dimensions, those of the cells first; blank where they do not have a cell.
    has_cell : sequence of bool array
        For each variable, the cells that it has.

    Returns
    -------
    xarray.Variable
        Lazy where any of the variables is lazy and none is chunked.
    """
    first = variables[0]
    if len(variables) == 1:
        return first
    dims = first.dims
    others = [v.transpose(*dims) for v in variables]
    if any(is_lazy(v) for v in others) and not any(is_chunked(v) for v in others):
        return lazily(list(map(str, dims)), _CoalescedArray(others, has_cell), dict(first.attrs))
    joined = others[-1]
    for variable, cells in zip(others[-2::-1], has_cell[-2::-1], strict=True):
        has = xr.Variable(dims[: cells.ndim], cells)
        joined = variable.where(has, joined)  # type: ignore[no-untyped-call]
    joined = joined.transpose(*dims)
    joined.attrs = dict(first.attrs)
    return joined


class _CoalescedArray(BlockArray):
    """Cells from the first of several variables that has them; reads only the variables that a block needs."""

    def __init__(self, variables: Sequence[xr.Variable], has_cell: Sequence[npt.NDArray[np.bool_]]) -> None:
        self.variables, self.has_cell = list(variables), list(has_cell)
        self.shape = variables[0].shape
        self.dtype = np.result_type(*(v.dtype for v in variables))

    def _block(self, at: tuple[Positions, ...]) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] | None = None
        missing: npt.NDArray[np.bool_] | None = None
        for variable, cells in zip(self.variables, self.has_cell, strict=True):
            has = cells[np.ix_(*at[: cells.ndim])]
            missing = np.ones(has.shape, bool) if missing is None else missing
            if out is not None and not (missing & has).any():
                continue
            block = variable.isel(dict(zip(variable.dims, at, strict=True))).values
            if out is None:
                out = np.array(block, self.dtype)
            else:
                out[missing & has] = block[missing & has]
            missing = missing & ~has
        assert out is not None
        return out


def mask_cells(variable: xr.Variable, flags: Sequence[xr.Variable]) -> xr.Variable:
    """Return a variable that is NaN where any of the flags is not 1.

    Parameters
    ----------
    variable : xarray.Variable
    flags : sequence of xarray.Variable
        Their dimensions are a subset of those of `variable`.

    Returns
    -------
    xarray.Variable
        Lazy where `variable` is.
    """
    if is_lazy(variable):
        return lazily(list(map(str, variable.dims)), _MaskedArray(variable, flags), dict(variable.attrs))
    masked = variable
    for flag in flags:
        masked = masked.where(is_set(flag))  # type: ignore[no-untyped-call]
    masked = masked.transpose(*variable.dims)
    masked.attrs = dict(variable.attrs)
    return masked


class _MaskedArray(BlockArray):
    """A lazy variable, NaN where any of its flags is not 1."""

    def __init__(self, variable: xr.Variable, flags: Sequence[xr.Variable]) -> None:
        self.variable, self.flags = variable, list(flags)
        self.shape, self.dtype = variable.shape, np.dtype(np.float64)

    def _block(self, at: tuple[Positions, ...]) -> npt.NDArray[Any]:
        dims = self.variable.dims
        index = dict(zip(dims, at, strict=True))
        out = self.variable.isel(index).values.astype(np.float64)
        for flag in self.flags:
            part = flag.isel({d: index[d] for d in flag.dims})
            wide: Any = part.set_dims(dict(zip(dims, out.shape, strict=True)))  # type: ignore[no-untyped-call]
            out = np.where(is_set(wide.transpose(*dims).values), out, np.nan)
        return out
