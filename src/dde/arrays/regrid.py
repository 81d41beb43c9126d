"""Putting a Dataset on another grid of cumulative tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.untouched import lazy_variable, source_of
from dde.curves.alignment import interpolate
from dde.errors import SelectionError

__all__ = ["regrid"]

_DIMS = ("lineage", "run", "cumulative_tokens")


def regrid(dataset: xr.Dataset, tokens: npt.NDArray[np.int64]) -> xr.Dataset:
    """Return the Dataset on the grid `tokens`, made anew from the observations where the stores are open.

    Where they aren't (a Dataset that was saved and opened again), and for variables that are not what the stores
    gave (computed from others, or changed), values at the saved grid's points are kept and
    those between two neighbouring points that both have a value are linear in tokens; nothing is extrapolated.

    Parameters
    ----------
    dataset : xarray.Dataset
        Dimensions ``(lineage, run, cumulative_tokens)``.
    tokens : (token,) int64 array
        Ascending.
    """
    run_ids = dataset["run_id"].transpose("lineage", "run").values
    grid = xr.Variable("cumulative_tokens", tokens, dataset["cumulative_tokens"].attrs)
    variables: dict[str, xr.Variable] = {}
    for name, array in dataset.data_vars.items():
        if set(array.dims) != set(_DIMS):
            if "cumulative_tokens" in array.dims:
                raise SelectionError(
                    f"the variable {str(name)!r} lies along {', '.join(map(str, array.dims))}, so it can't be put on "
                    "another grid of tokens. Drop it, or join Datasets on one grid."
                )
            variables[str(name)] = array.variable
            continue
        source = source_of(array, compare=True)
        if source is not None:
            variables[str(name)] = lazy_variable(*source, run_ids, tokens, dict(array.attrs))
        else:
            variables[str(name)] = xr.Variable(_DIMS, _between(array.transpose(*_DIMS), tokens), array.attrs)
    coords = {str(n): c.variable for n, c in dataset.coords.items() if "cumulative_tokens" not in c.dims}
    compute = 6.0 * dataset["n_params"].values[:, None] * tokens[None, :]
    coords["cumulative_tokens"] = grid
    coords["cumulative_compute"] = xr.Variable(
        ("lineage", "cumulative_tokens"), compute, dataset["cumulative_compute"].attrs
    )
    return xr.Dataset(variables, coords, dataset.attrs)


def _between(array: xr.DataArray, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    saved = array["cumulative_tokens"].values.astype(np.int64)
    values = np.asarray(array.values, np.float64)
    out = np.full((*values.shape[:2], len(tokens)), np.nan)
    for at in np.ndindex(values.shape[:2]):
        some = ~np.isnan(values[at])
        # Runs of neighbouring points with a value: between two of them the saved Dataset claimed nothing.
        edges = np.flatnonzero(np.diff(np.concatenate([[False], some, [False]]).astype(np.int8)))
        for start, stop in zip(edges[0::2], edges[1::2], strict=True):
            piece = interpolate(saved[start:stop], values[at][start:stop], tokens)
            out[at] = np.where(np.isnan(piece), out[at], piece)
    return out
