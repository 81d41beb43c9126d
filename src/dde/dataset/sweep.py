"""Sweeps: replace the dimension of runs by dimensions of hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.cell_operations import blank_value, pick_cells
from dde.dataset.dimensions import broadcast_values, run_ids_along, text_values, texts_along
from dde.errors import SelectionError, UnknownNameError, near_names, warn_caller
from dde.schema import PRETRAINING, factors_of, is_datadecide, is_identity, sampling_of

__all__ = ["sweep"]

REPLICATE = "replicate"


def sweep(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    """Return the Dataset with hyperparameters as dimensions in place of ``run``.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection of it, or on another axis.
    *names : str
        Coordinates along ``run`` or ``(lineage, run)``, such as ``"learning_rate", "finetune_tokens"``. Numbers
        that differ by less than a millionth are one value. In ``finetune_tokens``, a run on the complete mixture,
        which has no limit (``full`` in labels), is infinite.

    Returns
    -------
    xarray.Dataset
        Dimensions ``(lineage, *names, axis)``, lazy where `dataset` is. It has the runs with a value of every name.
        The attribute ``left_out`` counts the others, except the bases: the cells of each run include the curve of its
        base up to the branch (``ds.dde.base_curves()`` returns only these). If a cell has several runs, there is a
        dimension ``replicate`` after the names, with the runs' own replicate numbers if these distinguish them, else 1,
        2, ... in the order of the runs. Cells without a run are NaN or "". The treatment ``run`` becomes a coordinate.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate.
    SelectionError
        When no run has a value of every name, or the Dataset has no dimension ``run``.

    Warns
    -----
    DdeWarning
        When runs that share a cell differ in their treatment; it names the coordinates to sweep over or select by.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("tiny", params="150M", method="supervised_ft", metrics=["arc_easy"])
    >>> swept = ds.dde.sweep("learning_rate", "finetune_tokens", "epochs")
    >>> swept.arc_easy.dims
    ('lineage', 'learning_rate', 'finetune_tokens', 'epochs', 'cumulative_tokens')
    """
    _check(dataset, names)
    lineages = [d for d in ("lineage",) if d in dataset.dims]
    cells = (*lineages, "run")
    run_ids = run_ids_along(dataset, cells)
    columns = [_clustered(_values_of(dataset, name, cells)) for name in names]
    has_run = run_ids != ""
    belongs = has_run & np.logical_and.reduce([column.code >= 0 for column in columns])
    if not belongs.any():
        raise SelectionError(
            f"no run of the Dataset has a value of each of {', '.join(names)}, so there is no sweep. "
            f"Coordinates with values: {', '.join(_with_values(dataset, cells)) or 'none'}."
        )
    layout = _sweep_layout(dataset, cells, belongs, [column.of(belongs) for column in columns], names)
    # Runs that were trained from scratch are the bases of the others, not a part of any sweep.
    derived = has_run & ~_is_base(dataset, cells)
    left_out = int((derived & ~belongs).sum())
    result = _swept(dataset, layout, cells)
    if left_out:
        count = f"not in the sweep over {', '.join(names)}: {left_out}"
        result.attrs["left_out"] = "; ".join(filter(None, [str(dataset.attrs.get("left_out", "")), count]))
    return result


@dataclass(frozen=True)
class _Column:
    """The sorted values of a hyperparameter, and the index of each run's value among them; -1 for none."""

    values: npt.NDArray[Any]
    code: npt.NDArray[np.intp]

    def of(self, runs: npt.NDArray[np.bool_]) -> _Column:
        """Return the column of some runs, with only the values that these have."""
        used, code = np.unique(self.code[runs], return_inverse=True)
        codes = np.full(self.code.shape, -1, np.intp)
        codes[runs] = code
        return _Column(self.values[used], codes)


@dataclass(frozen=True)
class _SweepLayout:
    """The run in each cell of a sweep.

    Attributes
    ----------
    dims : tuple of str
        Dimensions that replace ``run``.
    position : int array along the lineage, where it is a dimension, and `dims`
        Position along ``run``; -1 where the cell has no run.
    labels : mapping of str to array
        Coordinates of `dims`.
    """

    dims: tuple[str, ...]
    position: npt.NDArray[np.intp]
    labels: dict[str, xr.Variable]


def _check(dataset: xr.Dataset, names: Sequence[str]) -> None:
    """Raise where a Dataset can't be swept over some names.

    Raises
    ------
    SelectionError, UnknownNameError
    """
    if "run" not in dataset.dims or "run_id" not in dataset.coords:
        raise SelectionError(
            "the Dataset has no dimension run with the coordinate run_id, so there is nothing to sweep over. "
            "Start from dde.open_lineages(...), and select runs with a list."
        )
    known = [str(n) for n, c in dataset.coords.items() if "run" in c.dims and set(c.dims) <= {"lineage", "run"}]
    known = [n for n in known if n not in ("run", "run_id") and not sampling_of(n)]
    for name in names:
        if name in dataset.coords and dataset[name].dims == ("lineage",):
            # In DataDecide, seeds are the only factor of lineages that can be averaged.
            means = "" if is_datadecide(dataset) else f", or take means over it, ds.dde.mean_over({name!r})"
            raise UnknownNameError(
                f"{name!r} is a coordinate of lineages, and a sweep makes dimensions of coordinates of runs, so it "
                f"can't be swept over. Select by it, ds.dde.sel({name}=...){means}."
            )
        if name not in known:
            raise UnknownNameError(
                f"{name!r} is not a coordinate of the runs, so they can't be swept over it.{near_names(name, known)} "
                f"There are {', '.join(known)}."
            )
    if not names or len(set(names)) < len(names):
        raise UnknownNameError(
            f"a sweep over {', '.join(names) or 'nothing'} has no distinct dimensions. Name each hyperparameter once: "
            f"ds.dde.sweep({_example(dataset)}). There are {', '.join(known)}."
        )


def _is_base(dataset: xr.Dataset, cells: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Return which runs were trained from scratch."""
    if not is_datadecide(dataset) and "branch_tokens" in dataset.coords:
        return np.isnan(_along(dataset["branch_tokens"], cells, dataset).astype(np.float64))
    if "run_type" in dataset:
        return np.asarray(_along(dataset["run_type"], cells, dataset) == PRETRAINING)
    return np.zeros([dataset.sizes[d] for d in cells], bool)


def _example(dataset: xr.Dataset) -> str:
    """Return two hyperparameters of runs as source code."""
    if is_datadecide(dataset):
        return "'learning_rate', 'finetune_tokens'"
    factors = [n for n, of in factors_of(dataset).items() if of != "lineage" and n != "run_type"]
    return ", ".join(map(repr, factors[:2] or ["run_type"]))


def _along(coordinate: xr.DataArray, cells: tuple[str, ...], dataset: xr.Dataset) -> npt.NDArray[Any]:
    return broadcast_values(coordinate.variable, {d: dataset.sizes[d] for d in cells})


def _values_of(dataset: xr.Dataset, name: str, cells: tuple[str, ...]) -> npt.NDArray[Any]:
    """Return a hyperparameter of each run; the budget of a run on the complete mixture, without limit, is infinite."""
    values = _along(dataset[name], cells, dataset)
    if name != "finetune_tokens" or "run_type" not in dataset.coords or not is_datadecide(dataset):
        return values
    is_derived = ~np.isin(texts_along(dataset, "run_type", cells), ["", PRETRAINING])
    has_limit = ~np.isnan(values)
    if "max_train_samples" in dataset.coords:
        has_limit |= ~np.isnan(_along(dataset["max_train_samples"], cells, dataset))
    return np.where(is_derived & ~has_limit, np.inf, values)


def _clustered(values: npt.NDArray[Any]) -> _Column:
    """Return a column of values; numbers that differ by less than a millionth are one value."""
    code = np.full(values.shape, -1, np.intp)
    if values.dtype.kind in "OTU":
        values = text_values(values)
        distinct = sorted({str(v) for v in values.ravel()} - {""})
        for k, value in enumerate(distinct):
            code[values == value] = k
        labels = np.empty(len(distinct), object)
        labels[:] = distinct
        return _Column(labels, code)
    numbers = values.astype(np.float64)
    some = np.unique(numbers[~np.isnan(numbers)])
    # Computed learning rates differ in their last digits from written ones.
    finite = some[np.isfinite(some)]
    starts = np.concatenate([[True], np.diff(finite) > 1e-6 * np.abs(finite[1:])]) if len(finite) else np.empty(0, bool)
    starts = np.concatenate([starts, np.ones(len(some) - len(finite), bool)])
    has_value = ~np.isnan(numbers)
    code[has_value] = (np.cumsum(starts) - 1)[np.searchsorted(some, numbers[has_value])]
    return _Column(some[starts].astype(values.dtype), code)


def _sweep_layout(
    dataset: xr.Dataset,
    cells: tuple[str, ...],
    belongs: npt.NDArray[np.bool_],
    columns: Sequence[_Column],
    names: Sequence[str],
) -> _SweepLayout:
    """Return the run in each cell of a sweep; `belongs` are its runs, with a column for each name.

    Raises
    ------
    SelectionError
        When ``replicate`` is among the names and does not distinguish the runs of a cell.
    """
    at = np.nonzero(belongs)
    rows = at[:-1]
    codes = tuple(column.code[at] for column in columns)
    shape = (*belongs.shape[:-1], *(len(c.values) for c in columns))
    flat = np.ravel_multi_index((*rows, *codes), shape)
    rank, several = _rank(flat)
    labels = {n: xr.Variable(n, c.values, dict(dataset[n].attrs)) for n, c in zip(names, columns, strict=True)}
    dims: tuple[str, ...] = tuple(names)
    if several and REPLICATE not in names:
        replicate = _along(dataset[REPLICATE], cells, dataset)[at] if REPLICATE in dataset.coords else rank + 1
        if len(np.unique(np.stack([flat, replicate]), axis=1)[0]) < len(flat):
            replicate = rank + 1
        numbers, replicate_code = np.unique(replicate, return_inverse=True)
        _warn_of_mixtures(dataset, cells, at, flat, names)
        dims = (*dims, REPLICATE)
        attrs = dict(dataset[REPLICATE].attrs) if REPLICATE in dataset.coords else {}
        labels[REPLICATE] = xr.Variable(REPLICATE, numbers.astype(np.int64), attrs)
        codes, shape = (*codes, replicate_code), (*shape, len(numbers))
    elif several:
        _warn_of_mixtures(dataset, cells, at, flat, names)
        raise SelectionError(
            f"a cell of {', '.join(names)} holds several runs, which these names do not distinguish. Leave out "
            "'replicate', which is added where it is needed, or name a coordinate in which they differ."
        )
    position = np.full(shape, -1, np.intp)
    position[(*rows, *codes)] = at[-1]
    return _SweepLayout(dims, position, labels)


def _rank(flat: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], bool]:
    """Return the rank of each run within its cell, from 0, and whether any cell holds several runs."""
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
    """Warn where runs that share a cell are not repetitions of one treatment."""
    order = np.argsort(flat, kind="stable")
    same_cell = np.diff(flat[order]) == 0
    differing = []
    for name, coordinate in dataset.coords.items():
        if (
            is_identity(str(name))
            or sampling_of(str(name))
            or name in names
            or "run" not in coordinate.dims
            or not set(coordinate.dims) <= set(cells)
        ):
            continue
        code = _clustered(_along(coordinate, cells, dataset)).code[at][order]
        if (same_cell & (np.diff(code) != 0)).any():
            differing.append(str(name))
    if differing:
        cell_count = len(np.unique(flat[order][1:][same_cell]))
        warn_caller(
            f"{cell_count} cell{'s' if cell_count > 1 else ''} of the sweep hold{'s' if cell_count == 1 else ''} runs "
            f"that differ in {', '.join(differing)}, so they are not repetitions along replicate. "
            "Sweep over those, too, or select one value of each: ds.dde.sel(...)."
        )


def _with_values(dataset: xr.Dataset, cells: tuple[str, ...]) -> list[str]:
    """Return the hyperparameters for which some run has a value."""
    names = [str(n) for n, c in dataset.coords.items() if "run" in c.dims and set(c.dims) <= set(cells)]
    names = [n for n in names if not is_identity(n) and not sampling_of(n)]
    return [n for n in names if (_clustered(_along(dataset[n], cells, dataset)).code >= 0).any()]


def _swept(dataset: xr.Dataset, layout: _SweepLayout, cells: tuple[str, ...]) -> xr.Dataset:
    """Return a Dataset with its cells picked as a layout says."""
    new_cells = (*cells[:-1], *layout.dims)
    has_run = layout.position >= 0
    at = {"run": np.maximum(layout.position, 0)}
    if len(cells) > 1:
        lineage = np.arange(layout.position.shape[0]).reshape(-1, *(1 for _ in layout.dims))
        at["lineage"] = np.broadcast_to(lineage, layout.position.shape)
    variables = {
        str(name): array.variable if "run" not in array.dims else pick_cells(array.variable, at, new_cells, has_run)
        for name, array in dataset.data_vars.items()
    }
    coords: dict[str, xr.Variable] = {**layout.labels}
    for name, coordinate in dataset.coords.items():
        if name in layout.labels or (name == REPLICATE and "run" in coordinate.dims):
            continue
        if "run" not in coordinate.dims:
            coords[str(name)] = coordinate.variable
            continue
        picked = pick_cells(coordinate.variable, at, new_cells, has_run, blank_value(coordinate.variable, str(name)))
        coords[str(name)] = _without_lineage(picked) if "lineage" not in coordinate.dims else picked
    return xr.Dataset(variables, coords, dict(dataset.attrs))


def _without_lineage(variable: xr.Variable) -> xr.Variable:
    """Return a coordinate without the dimension of lineages, where all lineages with a run agree on its values."""
    if "lineage" not in variable.dims:
        return variable
    values = np.moveaxis(variable.values, variable.dims.index("lineage"), 0)
    has_value = values != "" if values.dtype.kind in "OTU" else values == values
    first = np.take_along_axis(values, has_value.argmax(axis=0)[None], axis=0)[0]
    if not ((values == first) | ~has_value).all():
        return variable
    return xr.Variable([d for d in variable.dims if d != "lineage"], first, dict(variable.attrs))
