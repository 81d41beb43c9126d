"""Arrange the values of runs by factors: dimensions ``lineage`` and ``run`` become dimensions of factors.

A question about recipes compares lineages that agree in size and seed; a question about learning rates compares runs of
one lineage that agree in the other hyperparameters. Both need the compared factor as a dimension of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.dimensions import text_values
from dde.dataset.members import groups_of_runs
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.schema import factors_of

__all__ = ["MISSING_LABELS", "REPLICATES", "arrange_by", "remaining_replicates", "replicate_dims"]

#: Dimensions whose members are repetitions of one experiment, in any suite.
REPLICATES = ("seed", "replicate")

#: Texts of a factor that mean that a run has no value of it.
MISSING_LABELS = ("", "nan")


def arrange_by(values: xr.Dataset, over: str, *conditions: str) -> xr.Dataset:
    """Return values of runs with a factor as a dimension of its own.

    Parameters
    ----------
    values : xarray.Dataset
        Values of :func:`dde.analysis.footing.values_at`, along ``lineage`` and ``run`` or dimensions of a sweep.
    over : str
        A factor. One of lineages, such as ``data``, replaces ``lineage`` by a dimension for each factor of lineages
        that varies. One of runs, such as ``learning_rate``, becomes a dimension beside ``run``, whose labels are then
        treatments without the factor, and ``replicate`` where a treatment was repeated.
    *conditions : str
        Coordinates to select by afterwards. Where one is a factor of lineages, ``lineage`` is replaced as well.

    Returns
    -------
    xarray.Dataset
        Cells without a run are NaN or "". Labels ascend along their dimension: numbers by value, sizes by parameters,
        texts alphabetically, with numbers in them by value.

    Raises
    ------
    UnknownNameError
        When there is no such factor.
    SelectionError
        When two lineages agree in all factors, and when no run has a value of the factor.

    Examples
    --------
    >>> import dde
    >>> from dde.analysis.footing import values_at
    >>> bases = dde.tutorial.open_lineages("small", metrics=["arc_easy"]).dde.base_curves()
    >>> arrange_by(values_at(bases, "arc_easy"), "data").value.dims
    ('metric', 'params', 'data', 'seed')
    """
    factors = factors_of(values)
    if not isinstance(over, str) or over == "metric":
        raise _no_factor(values, over)
    if (run_ids := values.coords.get("run_id")) is not None and not run_ids.size:
        raise SelectionError(
            f"the Dataset has no run (sizes: {dict(run_ids.sizes)}), so there is nothing to compare. Select others."
        )
    for name in conditions:
        if factors.get(name) == "lineage" and values[name].dims == ("lineage",):
            values = _by_factors_of_lineages(values, name)
            break
    if over in values.dims:
        return values
    of = factors.get(over, "run" if over == "replicate" else None)
    if of == "lineage":
        return _by_factors_of_lineages(values, over)
    if of == "run":
        return _by_factor_of_runs(values, over)
    if of == "cell":
        raise SelectionError(
            f"{over} differs between runs of one label, so it does not compare labels. Make a dimension of it first: "
            f"ds.dde.sweep({over!r})."
        )
    raise _no_factor(values, over)


def _no_factor(values: xr.Dataset, over: object) -> UnknownNameError:
    """Return the error about a name that is not a factor of the runs."""
    known = [*factors_of(values), *(str(d) for d in values.dims if d not in ("metric", "lineage", "run"))]
    return UnknownNameError(
        f"{over!r} is not a factor of the runs, so they can't be compared over it.{near_names(over, known)} "
        f"There are {', '.join(dict.fromkeys(known))}."
    )


def replicate_dims(values: xr.Dataset, over: str, replicates: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the dimensions whose members are repetitions: those given, or ``seed`` and ``replicate``.

    Raises
    ------
    UnknownNameError
        When a given one is not a dimension, or is the compared factor.
    """
    dims = [str(d) for d in values.dims]
    if replicates is None:
        return tuple(d for d in REPLICATES if d in dims and d != over)
    if isinstance(replicates, str) or not isinstance(replicates, Iterable):
        replicates = [replicates]
    names = list(dict.fromkeys(replicates))
    for name in names:
        if name not in dims or name in (over, "metric"):
            others = [d for d in dims if d not in (over, "metric")]
            raise UnknownNameError(
                f"replicates={name!r} is not a factor with several values besides {over}, so it has no repetitions."
                f"{near_names(name, others)} There are {', '.join(others) or 'none'}."
            )
    return tuple(names)


def _by_factors_of_lineages(values: xr.Dataset, over: str) -> xr.Dataset:
    """Return values with a dimension for each varying factor of lineages in place of ``lineage``."""
    if "lineage" not in values.dims:
        raise SelectionError(
            f"all lineages of the Dataset have one value of {over}, so there is nothing to compare over it. Select "
            "several values."
            if "lineage" not in values.coords
            else f"the Dataset has one lineage, so there is nothing to compare over {over}. Select several: "
            "ds.dde.sel(lineage=[...])."
        )
    factors = [n for n, of in factors_of(values).items() if of == "lineage" and values[n].dims == ("lineage",)]
    columns = {n: _Column(values[n].variable, values) for n in factors}
    if over not in columns:
        raise SelectionError(
            f"the coordinate {over} is not along lineage, so the lineages can't be compared over it. Keep the "
            "coordinates that dde.open_lineages() gives."
        )
    has_value = columns[over].code >= 0
    if not has_value.any():
        raise SelectionError(f"no lineage has a value of {over}, so there is nothing to compare. Select others.")
    if not has_value.all():
        return _by_factors_of_lineages(values.isel(lineage=np.flatnonzero(has_value)), over)
    used = [n for n, c in columns.items() if n == over or len(c.labels) + c.has_missing > 1]
    # A factor that follows from another one, such as a name of a seed, is not a dimension of its own.
    dims: list[str] = []
    for name in used:
        if name == over or not any(columns[name].follows_from(columns[other]) for other in [*dims, over]):
            dims.append(name)
    shape = tuple(columns[n].size for n in dims)
    at = tuple(columns[n].position for n in dims)
    position = np.full(shape, -1)
    flat = np.ravel_multi_index(at, shape)
    _, first, counts = np.unique(flat, return_index=True, return_counts=True)
    if (counts > 1).any():
        twice = np.flatnonzero(flat == flat[first[np.argmax(counts > 1)]])[:2]
        one, other = (str(values["lineage"].values[i]) for i in twice)
        raise SelectionError(
            f"the lineages {one!r} and {other!r} agree in {', '.join(factors)}, so a comparison over {over} would "
            "count one experiment twice. Keep each once, or declare the factor in which they differ."
        )
    position.ravel()[flat] = np.arange(len(flat))
    labels = {n: xr.Variable((n,), columns[n].all_labels, dict(values[n].attrs)) for n in dims}
    return _picked(values, "lineage", dims, position, labels)


def _by_factor_of_runs(values: xr.Dataset, over: str) -> xr.Dataset:
    """Return values with a factor of runs as a dimension, beside the treatments without it."""
    if "run" not in values.dims:
        raise SelectionError(
            f"the Dataset has one run label, so there is nothing to compare over {over}. Select several: "
            "ds.dde.sel(run=[...])."
        )
    if over == "replicate":
        column = _Column(xr.Variable(("run",), np.zeros(values.sizes["run"])), values)
        has_value = np.ones(values.sizes["run"], bool)
    else:
        column = _Column(values[over].variable, values)
        has_value = column.code >= 0
    if not has_value.any():
        raise SelectionError(f"no run has a value of {over}, so there is nothing to compare. Select others.")
    # Labels of parents are parts of those of their runs, so groups are formed before runs are dropped.
    index, names = groups_of_runs(values, over)
    cells: dict[tuple[int, int], list[int]] = {}
    for group, members in enumerate(index):
        for member in members[members >= 0]:
            if has_value[member]:
                cells.setdefault((group, int(column.code[member]) if over != "replicate" else 0), []).append(
                    int(member)
                )
    groups = sorted({group for group, _ in cells})
    most = max(map(len, cells.values()))
    position = np.full((len(groups), len(column.labels) if over != "replicate" else 1, most), -1)
    for (group, value), members_here in cells.items():
        position[groups.index(group), value, : len(members_here)] = members_here
    labels = {"run": xr.Variable(("run",), np.array([names[g] for g in groups], object))}
    if over == "replicate":
        numbers = xr.Variable(("replicate",), np.arange(1, most + 1))
        return _picked(values, "run", ["run", "replicate"], position[:, 0, :], {**labels, "replicate": numbers})
    labels[over] = xr.Variable((over,), column.labels, dict(values[over].attrs))
    if most == 1:
        return _picked(values, "run", ["run", over], position[..., 0], labels)
    labels["replicate"] = xr.Variable(("replicate",), np.arange(1, most + 1))
    return _picked(values, "run", ["run", over, "replicate"], position, labels)


class _Column:
    """The values of a factor along one dimension: their sorted labels, and the code of each; -1 where it is missing."""

    def __init__(self, variable: xr.Variable, values: xr.Dataset) -> None:
        raw = np.asarray(variable.values)
        if raw.dtype.kind in "fiub":
            numbers = raw.astype(np.float64)
            some = ~np.isnan(numbers)
            self.labels, codes = np.unique(raw[some], return_inverse=True)
            self.code = np.full(len(raw), -1, np.intp)
            self.code[some] = codes
        else:
            texts = text_values(np.asarray(raw, object))
            distinct = list(dict.fromkeys(t for t in texts.tolist() if t not in MISSING_LABELS))
            distinct.sort(key=_natural)
            sizes = values.coords.get("n_params")
            if sizes is not None and sizes.dims == variable.dims:
                count = {t: set(sizes.values[texts == t].tolist()) for t in distinct}
                if all(len(c) == 1 for c in count.values()):
                    distinct.sort(key=lambda t: next(iter(count[t])))
            number_of = {t: i for i, t in enumerate(distinct)}
            self.labels = np.array(distinct, object)
            self.code = np.array([number_of.get(t, -1) for t in texts.tolist()], np.intp)

    @property
    def has_missing(self) -> bool:
        return bool((self.code < 0).any())

    @property
    def size(self) -> int:
        return len(self.labels) + self.has_missing

    @property
    def position(self) -> npt.NDArray[np.intp]:
        """Codes, with those of missing values last."""
        return np.where(self.code < 0, len(self.labels), self.code)

    @property
    def all_labels(self) -> npt.NDArray[Any]:
        if not self.has_missing:
            return self.labels
        if self.labels.dtype.kind == "O":
            return np.append(self.labels, "")
        return np.append(self.labels.astype(np.float64), np.nan)

    def follows_from(self, other: _Column) -> bool:
        """Return whether each value of the other factor goes with one value of this one, and the reverse."""
        pairs = len(set(zip(self.position.tolist(), other.position.tolist(), strict=True)))
        return pairs == self.size == other.size


def remaining_replicates(
    chosen: xr.Dataset, arranged: xr.Dataset, over: str, replicates: str | Sequence[str] | None
) -> tuple[str, ...]:
    """Return the dimensions of repetitions that a condition left: those of the arranged values that it did not pick.

    Raises
    ------
    UnknownNameError
        As of :func:`replicate_dims`.
    """
    return tuple(d for d in replicate_dims(arranged, over, replicates) if d in chosen["value"].dims)


def _natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """Return a key that sorts numbers in texts by value, such as 5ep before 10ep."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return tuple((0, float(p), "") if i % 2 else (1, 0.0, p.casefold()) for i, p in enumerate(parts) if p)


def _picked(
    values: xr.Dataset,
    dim: str,
    dims: Sequence[str],
    position: npt.NDArray[np.intp],
    labels: dict[str, xr.Variable],
) -> xr.Dataset:
    """Return variables with the cells at some positions along `dim`, which `dims` replace."""
    there = position >= 0
    safe = np.maximum(position, 0)

    def pick(variable: xr.Variable) -> xr.Variable:
        if dim not in variable.dims:
            return variable
        axis = variable.dims.index(dim)
        taken = np.take(np.asarray(variable.values), safe, axis=axis)
        mask = there.reshape([1] * axis + list(there.shape) + [1] * (variable.ndim - axis - 1))
        if not there.all():
            if variable.dtype.kind in "OUT":
                taken = np.where(mask, taken.astype(object), "")
            else:
                taken = np.where(mask, taken.astype(np.float64), np.nan)
        names = (*variable.dims[:axis], *dims, *variable.dims[axis + 1 :])
        return xr.Variable(names, taken, dict(variable.attrs))

    coords: dict[str, xr.Variable] = {}
    for name, variable in ((str(n), c.variable) for n, c in values.coords.items() if n != dim or n in labels):
        if name in labels or name in dims:
            continue
        picked = pick(variable)
        coords[name] = _along_fewest(picked, dims, there) if dim in variable.dims else picked
    return xr.Dataset(
        {str(n): pick(a.variable) for n, a in values.data_vars.items()}, {**coords, **labels}, dict(values.attrs)
    )


def _along_fewest(variable: xr.Variable, dims: Sequence[str], there: npt.NDArray[np.bool_]) -> xr.Variable:
    """Return a coordinate without the new dimensions along which it does not vary where there are runs."""
    is_text = variable.dtype.kind in "OUT"
    for dim in dims:
        if dim not in variable.dims:
            continue
        axis = variable.dims.index(dim)
        cells = np.asarray(variable.values, object if is_text else None)
        # A blank cell has no run, or a run without a value, which differs from the others.
        known = cells != "" if is_text else ~_is_nan(cells)
        at = np.expand_dims(np.argmax(known, axis=axis), axis)
        value = np.take_along_axis(cells, at, axis=axis)
        has_run = _run_anywhere(there, dims, variable)
        same = (cells == value) | (~known & ~has_run)
        if not is_text:
            same |= _is_nan(cells) & _is_nan(value)
        if same.all():
            rest = [d for d in variable.dims if d != dim]
            variable = xr.Variable(rest, np.squeeze(value, axis=axis), dict(variable.attrs))
    return variable


def _run_anywhere(there: npt.NDArray[np.bool_], dims: Sequence[str], variable: xr.Variable) -> npt.NDArray[np.bool_]:
    """Return whether there is a run at a cell of a variable, along dimensions that it may have lost."""
    gone = tuple(i for i, d in enumerate(dims) if d not in variable.dims)
    some = np.asarray(there.any(axis=gone) if gone else there)
    shape = [variable.sizes[d] if d in dims else 1 for d in map(str, variable.dims)]
    return some.reshape(shape)


def _is_nan(cells: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.isnan(cells) if cells.dtype.kind == "f" else np.zeros(cells.shape, bool)
