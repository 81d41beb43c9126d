"""Putting a Dataset on another grid or axis, or interpolating it in another way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.cube import TOKENS, Cube, keep_cube
from dde.arrays.dataset import attrs_of, positions_of
from dde.arrays.layout import axis_of, cell_dims, points_along, run_ids_along, spread
from dde.arrays.lazy import lazy_tokens, lazy_variable
from dde.arrays.provenance import cube_of
from dde.arrays.untouched import source_of
from dde.curves.alignment import Interpolation, Method, interpolate
from dde.curves.axes import AXES, AxisRule, resolve_axis, tokens_at, tokens_per_unit
from dde.curves.grids import DEFAULT_MAX_POINTS, Points, resolve_grid
from dde.errors import SelectionError, UnknownNameError

__all__ = ["align", "regrid"]


def align(
    dataset: xr.Dataset,
    grid: object = "auto",
    interp: Method | None = None,
    *,
    axis: str | None = None,
    max_gap: int | None = None,
    bridge: bool | None = None,
    max_points: int = DEFAULT_MAX_POINTS,
) -> xr.Dataset:
    """Return the Dataset on another grid or axis, or interpolated in another way, made anew from the observations.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection or a sweep of it.
    grid, max_points
        As for :func:`dde.open_lineages`, in points of the axis.
    interp : {"linear", "log", "nearest", "previous", "pchip"}, optional
        As the Dataset was opened when None; likewise `bridge`. Always between observations in tokens.
    axis : str, optional
        What runs are aligned by, and the name of the last dimension: ``cumulative_tokens``,
        ``cumulative_compute`` (6 N tokens), ``tokens_per_parameter``, ``fraction_of_training`` (of a run's own
        training: 0 at its branch or start, 1 at its last token) or ``post_tokens`` (tokens since the run's own
        branch, so that all sweeps start at zero). As the Dataset has it when None.
    max_gap : int, optional
        Longest gap in tokens that is filled; all are when None.
    bridge : bool, optional

    Returns
    -------
    xarray.Dataset
        Lazy. On another axis than cumulative tokens, these stand in a coordinate, ``(lineage, axis)`` or, where
        each run has its own, ``(lineage, run, axis)``; observations stay exact, and a run that has no place on
        the axis (a pretraining run on ``post_tokens``) is NaN. Variables that are not what the stores gave are
        linear between the points they had.

    Raises
    ------
    SourceError
        When the stores behind the Dataset are not open in this process.
    UnknownNameError
        When there is no such axis, grid or method.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="4M", metrics=["piqa"])
    >>> align(ds, grid=16, interp="log").sizes["cumulative_tokens"]
    16
    >>> align(ds, axis="post_tokens").piqa.dims
    ('lineage', 'run', 'post_tokens')
    """
    cube = cube_of(dataset)
    how = Interpolation(
        cube.how.method if interp is None else interp, max_gap, cube.how.bridge if bridge is None else bridge
    )
    if isinstance(grid, str) and grid in AXES:
        raise UnknownNameError(
            f"{grid!r} is an axis, not a grid on one, so the points are undefined. "
            f"Pass it by name: ds.dde.align(axis={grid!r})."
        )
    rule = resolve_axis(axis) if axis is not None else axis_of(dataset) or TOKENS
    made = resolve_grid(grid, max_points)
    run_ids = np.atleast_1d(dataset["run_id"].values)
    points = made.build(*positions_of(cube.registry, run_ids, rule, made.needs_logs))
    onto = cube if how == cube.how else keep_cube(cube.registry, how, cube.metrics, [cube.key, repr(how)])
    aligned = regrid(dataset, points, onto, rule)
    return aligned.assign_attrs(attrs_of(made, how))


def regrid(dataset: xr.Dataset, points: Points, onto: Cube | None = None, rule: AxisRule = TOKENS) -> xr.Dataset:
    """Return the Dataset at `points` of an axis, made anew from the observations where the stores are open.

    Where they aren't (a Dataset that was saved and opened again), and for variables that are not what the stores
    gave (computed from others, or changed), values at the saved grid's points are kept and
    those between two neighbouring points that both have a value are linear in tokens; nothing is extrapolated.

    Parameters
    ----------
    dataset : xarray.Dataset
        Dimensions of cells, such as ``(lineage, run)``, and an axis.
    points : (point,) int64 or float64 array
        Ascending.
    onto : Cube, optional
        Makes the values, where they are to be interpolated in another way than they were. Needed for an axis on
        which runs have tokens of their own.
    rule : AxisRule
        The axis.
    """
    old = axis_of(dataset)
    if old is None or old.name not in dataset.dims:
        raise SelectionError(
            "the Dataset has no dimension of tokens with its coordinate, so there is nothing to put on a grid. "
            "Select several points, and keep the coordinate."
        )
    if missing := [n for n in ("n_params", "cumulative_tokens") if n not in dataset.coords]:
        raise SelectionError(
            f"the Dataset lacks the coordinates {', '.join(missing)}, so where its cells lie on another axis is "
            "unknown. Keep the coordinates that dde.open_lineages() gives."
        )
    points_along(dataset, old)
    cells = cell_dims(dataset)
    run_ids = run_ids_along(dataset, cells)
    coords = _coordinates(dataset, points, onto, rule, old, cells, run_ids)
    variables: dict[str, xr.Variable] = {}
    for name, array in dataset.data_vars.items():
        if old.name not in array.dims:
            variables[str(name)] = array.variable
            continue
        if set(array.dims) != {*cells, old.name}:
            raise SelectionError(
                f"the variable {str(name)!r} lies along {', '.join(map(str, array.dims))}, so it can't be put on "
                "another grid of tokens. Drop it, or join Datasets on one grid."
            )
        source = source_of(array, compare=True)
        if source is not None:
            made = lazy_variable(onto or source[0], source[1], run_ids, points, dict(array.attrs), rule, cells)
            if array.chunks is not None:
                # As it was, but for the axis, which has other points now.
                kept = dict(zip(array.dims, array.chunks, strict=True))
                made = made.chunk({d: kept[d] if d in cells else -1 for d in made.dims})
            variables[str(name)] = made
            continue
        sizes = {d: dataset.sizes[d] for d in cells}
        saved = spread(dataset["cumulative_tokens"].variable, {**sizes, old.name: dataset.sizes[old.name]})
        wanted = spread(coords["cumulative_tokens"], {**sizes, rule.name: len(points)})
        between = _between(saved, np.asarray(array.transpose(*cells, old.name).values, np.float64), wanted)
        variables[str(name)] = xr.Variable((*cells, rule.name), between, array.attrs)
    return xr.Dataset(variables, coords, dataset.attrs)


def _coordinates(
    dataset: xr.Dataset,
    points: Points,
    onto: Cube | None,
    rule: AxisRule,
    old: AxisRule,
    cells: tuple[str, ...],
    run_ids: npt.NDArray[np.object_],
) -> dict[str, xr.Variable]:
    """Return the coordinates on the new axis: cumulative tokens are always among them, compute where it fits."""
    coords = {str(n): c.variable for n, c in dataset.coords.items() if old.name not in c.dims}
    coords.pop("cumulative_tokens", None)
    coords.pop("cumulative_compute", None)
    coords[rule.name] = xr.Variable(rule.name, points, rule.attrs)
    n_params = dataset["n_params"].variable
    if rule.by == "run":
        assert onto is not None
        coords["cumulative_tokens"] = lazy_tokens(onto, run_ids, points, rule, cells)
    else:
        dims = (*n_params.dims, rule.name)
        if rule.by == "lineage":
            tokens = tokens_at(points, 0.0, tokens_per_unit(rule, n_params.values[..., None]))
            coords["cumulative_tokens"] = xr.Variable(dims, tokens, TOKENS.attrs)
        else:
            tokens = np.broadcast_to(points.astype(np.int64), (*n_params.shape, len(points)))
        if rule.name != "cumulative_compute":
            compute = 6.0 * n_params.values[..., None] * tokens
            coords["cumulative_compute"] = xr.Variable(dims, compute, AXES["cumulative_compute"].attrs)
    if onto is not None:
        coords["run_id"] = coords["run_id"].copy()
        coords["run_id"].attrs["dde_cube"] = onto.key
    return coords


def _between(
    saved: npt.NDArray[np.float64], values: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return values at wanted tokens; all arrays have the dimensions of the cells, then tokens."""
    out = np.full(wanted.shape, np.nan)
    for at in np.ndindex(wanted.shape[:-1]):
        known, asked = np.isfinite(saved[at]), np.isfinite(wanted[at])
        x, y = saved[at][known].astype(np.int64), values[at][known]
        order = np.argsort(wanted[at][asked], kind="stable")
        points = wanted[at][asked][order].astype(np.int64)
        some = ~np.isnan(y)
        # Runs of neighbouring points with a value: between two of them the saved Dataset claimed nothing.
        edges = np.flatnonzero(np.diff(np.concatenate([[False], some, [False]]).astype(np.int8)))
        made = np.full(len(points), np.nan)
        for start, stop in zip(edges[0::2], edges[1::2], strict=True):
            piece = interpolate(x[start:stop], y[start:stop], points)
            made = np.where(np.isnan(piece), made, piece)
        back = np.full(len(points), np.nan)
        back[order] = made
        out[at][asked] = back
    return out
