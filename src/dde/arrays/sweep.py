"""Sweeps: the dimension of runs turned into dimensions of hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.layout import axis_of, run_ids_along, spread
from dde.arrays.lazy import lazy_tokens, lazy_variable
from dde.arrays.untouched import source_of
from dde.errors import SelectionError, UnknownNameError, near_names, warn_caller

__all__ = ["IDENTITY", "sweep"]

REPLICATE = "replicate"
#: Coordinates that say who had a treatment or how it is called, not what it was.
IDENTITY = {"run", REPLICATE, "run_id", "parent_run_id", "state", "branch_tokens", "end_tokens", "token_source"}
IDENTITY |= {"parent_evidence", "training_seed"}


def sweep(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    """Return the Dataset with hyperparameters as dimensions in place of ``run``.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection of it, or on another axis.
    *names : str
        Coordinates along ``run`` or ``(lineage, run)``, such as ``"learning_rate", "finetune_tokens"``. Numbers
        that differ by less than a millionth are one value.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, *names, axis)``, lazy where `dataset` is. A run belongs when it has a value of every
        name; the others are counted in the attribute ``left_out``, but for the bases, whose curves every run's
        cells hold up to its branch (``ds.dde.base_curves()`` gives them alone). Where cells hold several runs,
        there is a dimension ``replicate`` after the names: the runs' own numbers, where these tell them apart,
        else 1, 2, ... in the order of the runs. Cells without a run are NaN or "". ``run``, the treatment, becomes
        a coordinate.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate.
    SelectionError
        When no run has a value of every name, or the Dataset has no dimension ``run``.

    Warns
    -----
    DdeWarning
        When runs that share a cell differ in what they were trained with: names what to sweep over or select by.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", method="supervised_ft", metrics=["arc_easy"])
    >>> swept = sweep(ds, "learning_rate", "finetune_tokens", "epochs")
    >>> swept.arc_easy.dims
    ('lineage', 'learning_rate', 'finetune_tokens', 'epochs', 'cumulative_tokens')
    """
    _check(dataset, names)
    lineages = [d for d in ("lineage",) if d in dataset.dims]
    cells = (*lineages, "run")
    run_ids = run_ids_along(dataset, cells)
    columns = [_clustered(_along(dataset[name], cells, dataset)) for name in names]
    held = run_ids != ""
    belongs = held & np.logical_and.reduce([column.code >= 0 for column in columns])
    if not belongs.any():
        raise SelectionError(
            f"no run of the Dataset has a value of each of {', '.join(names)}, so there is no sweep. "
            f"Those that any run has: {', '.join(_given(dataset, cells)) or 'none'}."
        )
    plan = _plan(dataset, cells, belongs, [column.of(belongs) for column in columns], names)
    # Runs that were trained from scratch are what the others start from, not a part of any sweep.
    derived = held & (_along(dataset["run_type"], cells, dataset) != "pretraining") if "run_type" in dataset else held
    left_out = int((derived & ~belongs).sum())
    result = _gathered(dataset, plan, cells)
    if left_out:
        count = f"not in the sweep over {', '.join(names)}: {left_out}"
        result.attrs["left_out"] = "; ".join(filter(None, [str(dataset.attrs.get("left_out", "")), count]))
    return result


@dataclass(frozen=True)
class _Column:
    """Values of a hyperparameter in order, and which of them each run has; -1 where it has none."""

    values: npt.NDArray[Any]
    code: npt.NDArray[np.intp]

    def of(self, runs: npt.NDArray[np.bool_]) -> _Column:
        """Return the column of some runs alone: with the values that these have."""
        used, code = np.unique(self.code[runs], return_inverse=True)
        kept = np.full(self.code.shape, -1, np.intp)
        kept[runs] = code
        return _Column(self.values[used], kept)


@dataclass(frozen=True)
class _Plan:
    """Which run stands in each cell of a sweep.

    Attributes
    ----------
    dims : tuple of str
        Dimensions that replace ``run``.
    position : int array over the lineage, where it is a dimension, and `dims`
        Position along ``run``; -1 where there is none.
    labels : mapping of str to array
        Coordinates of `dims`.
    """

    dims: tuple[str, ...]
    position: npt.NDArray[np.intp]
    labels: dict[str, xr.Variable]


def _check(dataset: xr.Dataset, names: Sequence[str]) -> None:
    if "run" not in dataset.dims or "run_id" not in dataset.coords:
        raise SelectionError(
            "the Dataset has no dimension run with the coordinate run_id, so there is nothing to sweep over. "
            "Start from dde.open_lineages(...), and select runs with a list."
        )
    known = [str(n) for n, c in dataset.coords.items() if "run" in c.dims and set(c.dims) <= {"lineage", "run"}]
    known = [n for n in known if n not in ("run", "run_id")]
    for name in names:
        if name not in known:
            raise UnknownNameError(
                f"{name!r} is no coordinate of the runs, so they can't be swept over it.{near_names(name, known)} "
                f"There are {', '.join(known)}."
            )
    if not names or len(set(names)) < len(names):
        raise UnknownNameError(
            f"a sweep over {', '.join(names) or 'nothing'} has no dimensions of its own. Name each hyperparameter "
            f"once: ds.dde.sweep('learning_rate', 'finetune_tokens'). There are {', '.join(known)}."
        )


def _along(coordinate: xr.DataArray, cells: tuple[str, ...], dataset: xr.Dataset) -> npt.NDArray[Any]:
    return spread(coordinate.variable, {d: dataset.sizes[d] for d in cells})


def _clustered(values: npt.NDArray[Any]) -> _Column:
    code = np.full(values.shape, -1, np.intp)
    if values.dtype.kind in "OTU":
        distinct = sorted({str(v) for v in values.ravel()} - {""})
        for k, value in enumerate(distinct):
            code[values == value] = k
        labels = np.empty(len(distinct), object)
        labels[:] = distinct
        return _Column(labels, code)
    numbers = values.astype(np.float64)
    some = np.unique(numbers[~np.isnan(numbers)])
    # Learning rates that were computed differ in their last digits from those that were written.
    starts = np.concatenate([[True], np.diff(some) > 1e-6 * np.abs(some[1:])]) if len(some) else np.empty(0, bool)
    there = ~np.isnan(numbers)
    code[there] = (np.cumsum(starts) - 1)[np.searchsorted(some, numbers[there])]
    return _Column(some[starts].astype(values.dtype), code)


def _plan(
    dataset: xr.Dataset,
    cells: tuple[str, ...],
    belongs: npt.NDArray[np.bool_],
    columns: Sequence[_Column],
    names: Sequence[str],
) -> _Plan:
    at = np.nonzero(belongs)
    rows = at[:-1]
    codes = tuple(column.code[at] for column in columns)
    shape = (*belongs.shape[:-1], *(len(c.values) for c in columns))
    flat = np.ravel_multi_index((*rows, *codes), shape)
    rank, several = _rank(flat)
    labels = {n: xr.Variable(n, c.values, dict(dataset[n].attrs)) for n, c in zip(names, columns, strict=True)}
    dims: tuple[str, ...] = tuple(names)
    if several and REPLICATE not in names:
        own = _along(dataset[REPLICATE], cells, dataset)[at] if REPLICATE in dataset.coords else rank + 1
        if len(np.unique(np.stack([flat, own]), axis=1)[0]) < len(flat):
            own = rank + 1
        numbers, third = np.unique(own, return_inverse=True)
        _warn_of_mixtures(dataset, cells, at, flat, names)
        dims = (*dims, REPLICATE)
        attrs = dict(dataset[REPLICATE].attrs) if REPLICATE in dataset.coords else {}
        labels[REPLICATE] = xr.Variable(REPLICATE, numbers.astype(np.int64), attrs)
        codes, shape = (*codes, third), (*shape, len(numbers))
    elif several:
        _warn_of_mixtures(dataset, cells, at, flat, names)
        raise SelectionError(
            f"a cell of {', '.join(names)} holds several runs, which have no dimension of their own there. "
            "Leave out 'replicate', which is added where it is needed, or name what tells them apart."
        )
    position = np.full(shape, -1, np.intp)
    position[(*rows, *codes)] = at[-1]
    return _Plan(dims, position, labels)


def _rank(flat: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], bool]:
    """Return the how-manieth of its cell each run is, in the order of the runs, and whether a cell has several."""
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    first = np.searchsorted(ordered, ordered)
    rank = np.empty(len(flat), np.intp)
    rank[order] = np.arange(len(flat)) - first
    return rank, bool(len(flat)) and int(rank.max()) > 0


def _warn_of_mixtures(
    dataset: xr.Dataset,
    cells: tuple[str, ...],
    at: tuple[npt.NDArray[np.intp], ...],
    flat: npt.NDArray[np.intp],
    names: Sequence[str],
) -> None:
    """Warn where runs that share a cell are no repetitions of one treatment."""
    order = np.argsort(flat, kind="stable")
    same_cell = np.diff(flat[order]) == 0
    differing = []
    for name, coordinate in dataset.coords.items():
        if name in IDENTITY or name in names or "run" not in coordinate.dims or not set(coordinate.dims) <= set(cells):
            continue
        code = _clustered(_along(coordinate, cells, dataset)).code[at][order]
        if (same_cell & (np.diff(code) != 0)).any():
            differing.append(str(name))
    if differing:
        cell_count = len(np.unique(flat[order][1:][same_cell]))
        warn_caller(
            f"{cell_count} cell{'s' if cell_count > 1 else ''} of the sweep hold{'s' if cell_count == 1 else ''} runs "
            f"that differ in {', '.join(differing)}, so along replicate they are no repetitions. "
            "Sweep over those, too, or select one of each: ds.dde.sel(...)."
        )


def _given(dataset: xr.Dataset, cells: tuple[str, ...]) -> list[str]:
    names = [str(n) for n, c in dataset.coords.items() if "run" in c.dims and set(c.dims) <= set(cells)]
    return [n for n in names if n not in IDENTITY and (_clustered(_along(dataset[n], cells, dataset)).code >= 0).any()]


def _gathered(dataset: xr.Dataset, plan: _Plan, cells: tuple[str, ...]) -> xr.Dataset:
    new_cells = (*cells[:-1], *plan.dims)
    there = plan.position >= 0
    lineage = np.arange(plan.position.shape[0]).reshape(-1, *(1 for _ in plan.dims)) if len(cells) > 1 else None

    def pick(variable: xr.Variable) -> xr.Variable:
        """Return a variable with the cells of the sweep, missing where there is no run."""
        others = [str(d) for d in variable.dims if d not in cells]
        if not hasattr(variable._data, "dask"):
            # Cells picked one by one from what is read when it is indexed would be sorted first, which takes longer.
            variable = xr.Variable(variable.dims, variable.values, variable.attrs)
        full: Any = variable.set_dims({d: dataset.sizes[d] for d in (*cells, *others)})  # type: ignore[no-untyped-call]
        at = {"run": xr.Variable(new_cells, np.maximum(plan.position, 0))}
        if lineage is not None:
            at["lineage"] = xr.Variable(new_cells, np.broadcast_to(lineage, plan.position.shape))
        picked: xr.Variable = full.transpose(*cells, *others).isel(at)
        text = variable.dtype.kind in "OTU"
        if not text and variable.dtype.kind != "f" and not there.all():
            picked = picked.astype(np.float64)
        picked = picked.where(xr.Variable(new_cells, there), "" if text else np.nan)  # type: ignore[no-untyped-call]
        if variable.chunks is not None:
            # Picking leaves chunks of any size, which Zarr has no room for.
            kept = {d: max(sizes) for d, sizes in zip(variable.dims, variable.chunks, strict=True) if d != "run"}
            picked = picked.chunk({d: kept.get(d, -1) for d in picked.dims})
        picked.attrs = dict(variable.attrs)
        return picked

    run_ids = pick(dataset["run_id"].variable)
    rule = axis_of(dataset)
    variables: dict[str, xr.Variable] = {}
    sources = {name: source_of(array, compare=False) for name, array in dataset.data_vars.items()}
    cube = next((source[0] for source in sources.values() if source is not None), None)
    for name, array in dataset.data_vars.items():
        source = sources[name]
        if "run" not in array.dims:
            variables[str(name)] = array.variable
        elif source is not None and rule is not None:
            points = array[rule.name].values
            variables[str(name)] = lazy_variable(*source, run_ids.values, points, dict(array.attrs), rule, new_cells)
        else:
            variables[str(name)] = pick(array.variable)
    coords: dict[str, xr.Variable] = {**plan.labels}
    for name, coordinate in dataset.coords.items():
        if name in plan.labels:
            continue
        if "run" not in coordinate.dims:
            coords[str(name)] = coordinate.variable
        elif rule is not None and cube is not None and name == "cumulative_tokens":
            coords[str(name)] = lazy_tokens(cube, run_ids.values, dataset[rule.name].values, rule, new_cells)
        elif name != REPLICATE:
            picked = pick(coordinate.variable)
            coords[str(name)] = _without_lineage(picked) if "lineage" not in coordinate.dims else picked
    return xr.Dataset(variables, coords, dict(dataset.attrs))


def _without_lineage(variable: xr.Variable) -> xr.Variable:
    """Return a coordinate without the dimension of lineages, where all that have a run there agree on it."""
    if "lineage" not in variable.dims:
        return variable
    values = np.moveaxis(variable.values, variable.dims.index("lineage"), 0)
    given = values != "" if values.dtype.kind in "OTU" else values == values
    first = np.take_along_axis(values, given.argmax(axis=0)[None], axis=0)[0]
    if not ((values == first) | ~given).all():
        return variable
    return xr.Variable([d for d in variable.dims if d != "lineage"], first, dict(variable.attrs))
