"""Putting a Dataset on another grid of cumulative tokens, or interpolating it in another way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.cube import Cube, keep_cube
from dde.arrays.dataset import attrs_of, positions_of
from dde.arrays.lazy import DIMS
from dde.arrays.provenance import cube_of
from dde.arrays.untouched import lazy_variable, source_of
from dde.curves.alignment import Interpolation, Method, interpolate
from dde.curves.grids import DEFAULT_MAX_POINTS, resolve_grid
from dde.errors import SelectionError
from dde.relations.selection import Selection

__all__ = ["align", "regrid"]


def align(
    dataset: xr.Dataset,
    grid: object = "auto",
    interp: Method | None = None,
    max_gap: int | None = None,
    bridge: bool | None = None,
    max_points: int = DEFAULT_MAX_POINTS,
) -> xr.Dataset:
    """Return the Dataset on another grid, or interpolated in another way, made anew from the observations.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, or a selection with all three dimensions.
    grid, max_points
        As for :func:`dde.open_lineages`.
    interp : {"linear", "log", "nearest", "previous", "pchip"}, optional
        As the Dataset was opened when None; likewise `bridge`.
    max_gap : int, optional
        Longest gap in tokens that is filled; all are when None.
    bridge : bool, optional

    Returns
    -------
    xarray.Dataset
        Lazy. Variables that are not what the stores gave are linear between the points they had.

    Raises
    ------
    SourceError
        When the stores behind the Dataset are not open in this process.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> align(ds, grid=16, interp="log").sizes["cumulative_tokens"]
    16
    """
    cube = cube_of(dataset)
    how = Interpolation(
        cube.how.method if interp is None else interp, max_gap, cube.how.bridge if bridge is None else bridge
    )
    rule = resolve_grid(grid, max_points)
    run_ids = dataset["run_id"].transpose("lineage", "run").values
    selection = Selection(
        tuple(map(str, dataset["lineage"].values)), tuple(map(str, dataset["run"].values)), run_ids, {}
    )
    tokens = rule.build(*positions_of(cube.registry, selection))
    aligned = regrid(dataset, tokens, keep_cube(cube.registry, how, cube.metrics, [cube.key, repr(how)]))
    return aligned.assign_attrs(attrs_of(rule, how))


def regrid(dataset: xr.Dataset, tokens: npt.NDArray[np.int64], onto: Cube | None = None) -> xr.Dataset:
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
    onto : Cube, optional
        Makes the values, where they are to be interpolated in another way than they were.
    """
    run_ids = dataset["run_id"].transpose("lineage", "run").values
    grid = xr.Variable("cumulative_tokens", tokens, dataset["cumulative_tokens"].attrs)
    variables: dict[str, xr.Variable] = {}
    for name, array in dataset.data_vars.items():
        if set(array.dims) != set(DIMS):
            if "cumulative_tokens" in array.dims:
                raise SelectionError(
                    f"the variable {str(name)!r} lies along {', '.join(map(str, array.dims))}, so it can't be put on "
                    "another grid of tokens. Drop it, or join Datasets on one grid."
                )
            variables[str(name)] = array.variable
            continue
        source = source_of(array, compare=True)
        if source is not None:
            variables[str(name)] = lazy_variable(onto or source[0], source[1], run_ids, tokens, dict(array.attrs))
        else:
            variables[str(name)] = xr.Variable(DIMS, _between(array.transpose(*DIMS), tokens), array.attrs)
    coords = {str(n): c.variable for n, c in dataset.coords.items() if "cumulative_tokens" not in c.dims}
    compute = 6.0 * dataset["n_params"].values[:, None] * tokens[None, :]
    coords["cumulative_tokens"] = grid
    coords["cumulative_compute"] = xr.Variable(
        ("lineage", "cumulative_tokens"), compute, dataset["cumulative_compute"].attrs
    )
    if onto is not None:
        coords["run_id"] = coords["run_id"].copy()
        coords["run_id"].attrs["dde_cube"] = onto.key
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
