"""Members of fits: value, tokens and size of each run, which run belongs to which fit, and why some do not enter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.arrangement import REPLICATES
from dde.analysis.footing import ENTERED, Place, values_at
from dde.analysis.observations import Observations, metric_names
from dde.analysis.options import check_number, names_of
from dde.array_types import Bool, Float64, Int64
from dde.curves.axes import AXES
from dde.dataset.dimensions import broadcast_values, run_ids_along, text_values
from dde.dataset.members import groups_of_runs
from dde.errors import SelectionError, UnknownNameError, list_names, near_names
from dde.schema import CHANGING_PARAMS, factors_of, sampling_of

__all__ = [
    "HELD_OUT",
    "Groups",
    "Members",
    "checked_metrics",
    "groups_of",
    "held_out",
    "is_table",
    "members_of_all",
    "members_of_finals",
    "members_of_table",
]

#: Status of a run that is predicted and does not enter.
HELD_OUT = "held out"
_NO_OBSERVATION = "no observation"

# Names of tokens and compute in tables.
_TOKENS = ("final_tokens", "tokens", "cumulative_tokens")
_COMPUTE = ("final_compute", "compute", "cumulative_compute")
# Budgets at one size whose tokens are proportional to them, up to the last step.
_PROPORTIONAL = 0.05


@dataclass(frozen=True)
class Members:
    """Values of runs with their sizes.

    Attributes
    ----------
    metrics : tuple of str
    cells : tuple of str
        Dimensions of the runs; rows are these dimensions flattened.
    shape : tuple of int
    values, tokens : (metric, row, sample) float64 arrays
        One sample per run for final values. NaN where there is none.
    n_params : (row,) float64 array
        NaN where it is unknown.
    compute : (metric, row, sample) float64 array
        FLOPs; 6 N tokens unless a table states it.
    status : (metric, row) object array
        "entered", why a run does not enter, or "" where there is no run.
    coords : dict
        Coordinates of the runs.
    """

    metrics: tuple[str, ...]
    cells: tuple[str, ...]
    shape: tuple[int, ...]
    values: Float64
    tokens: Float64
    n_params: Float64
    compute: Float64
    status: npt.NDArray[np.object_]
    coords: dict[str, Any]

    def feature(self, name: str) -> Float64:
        """Return ``tokens``, ``n_params`` or ``compute`` of each member, (metric, row, sample)."""
        if name == "n_params":
            return np.broadcast_to(self.n_params[:, None], self.values.shape)
        return self.tokens if name == "tokens" else self.compute

    def of(self, metrics: Sequence[str]) -> Members:
        """Return the members of some metrics, in their order."""
        at = [self.metrics.index(m) for m in metrics]
        return replace(
            self, metrics=tuple(metrics), values=self.values[at], tokens=self.tokens[at], compute=self.compute[at],
            status=self.status[at],
        )  # fmt: skip


def is_table(dataset: xr.Dataset, names: Sequence[str]) -> bool:
    """Return whether metrics have no dimension of positions: one value per run, with its sizes as coordinates."""
    axes = {d for d in dataset.dims if d in AXES}
    return not any(axes & set(dataset[name].dims) for name in names) and not (
        {n for n in AXES if n in dataset.coords and dataset.coords[n].ndim == 0} and "run_id" in dataset.coords
    )


def members_of_table(dataset: xr.Dataset, names: Sequence[str]) -> Members:
    """Return the members of a table, such as one of published results or of ``ds.dde.final(...)``.

    Parameters
    ----------
    dataset : xarray.Dataset
        Metrics along any dimensions, with coordinates or variables ``n_params``, and ``final_tokens``, ``tokens`` or
        ``cumulative_tokens``; compute is 6 N tokens, or ``final_compute``, ``compute`` or ``cumulative_compute``.
    names : sequence of str

    Raises
    ------
    SelectionError
        When the metrics have no dimension, or different ones.
    """
    cells = max((tuple(map(str, dataset[n].dims)) for n in names), key=len)
    if not cells:
        raise SelectionError(f"{names[0]} has one value, so there is nothing to fit. Select several runs.")
    if any(not set(dataset[n].dims) <= set(cells) for n in names):
        raise SelectionError(
            f"the metrics {', '.join(names)} have different dimensions, so they have no common answer. Ask for them "
            "one by one."
        )
    sizes = {d: dataset.sizes[d] for d in cells}
    shape, rows = tuple(sizes.values()), int(np.prod(list(sizes.values())))

    def numbers(names: Sequence[str]) -> Float64 | None:
        for name in names:
            if name in dataset.variables and set(dataset[name].dims) <= set(cells):
                return broadcast_values(dataset[name].variable, sizes).astype(np.float64).reshape(rows)
        return None

    n_params, tokens, compute = numbers(["n_params"]), numbers(_TOKENS), numbers(_COMPUTE)
    unknown = np.full(rows, np.nan)
    n_params = unknown if n_params is None else n_params
    tokens = unknown if tokens is None else tokens
    compute = 6.0 * n_params * tokens if compute is None else compute
    values = np.stack([
        broadcast_values(dataset[n].variable, sizes).astype(np.float64).reshape(rows) for n in names
    ])  # fmt: skip
    status = np.where(np.isnan(values), "no value", ENTERED).astype(object)
    if "run_id" in dataset.coords and set(dataset["run_id"].dims) <= set(cells):
        status[:, run_ids_along(dataset, cells).ravel() == ""] = ""
    keep = {str(n): c.variable for n, c in dataset.coords.items() if n not in (*_TOKENS, *_COMPUTE)}
    # Columns of a DataFrame are variables: texts describe runs, as the parameter count does.
    keep |= {
        str(n): v.variable
        for n, v in dataset.data_vars.items()
        if n == "n_params" or (n not in names and v.dtype.kind in "OUT")
    }
    keep = {n: v for n, v in keep.items() if set(v.dims) <= set(cells)}
    wide = (len(names), rows, 1)
    return Members(
        tuple(names), cells, shape, values[..., None], np.broadcast_to(tokens[None, :, None], wide), n_params,
        np.broadcast_to(compute[None, :, None], wide), status, keep,
    )  # fmt: skip


def members_of_finals(dataset: xr.Dataset, names: Sequence[str], at: Place | None, window: int) -> tuple[Members, str]:
    """Return the value of each run at one place, and the place.

    Parameters
    ----------
    dataset : xarray.Dataset
    names : sequence of str
    at : "schedule", "last", "common", number, mapping or None
    window : int
        Take the mean of this many observations up to the place.
    """
    found = values_at(dataset, list(names), at)
    cells = tuple(map(str, found["value"].dims[1:]))
    shape = tuple(found.sizes[d] for d in cells)
    rows = int(np.prod(shape))
    values, tokens, status = (found[v].values.reshape(len(names), rows) for v in ("value", "tokens", "status"))
    status = status.astype(object)
    if window > 1:
        every = members_of_all(dataset, names, skip=0.0, window=1)
        for k in range(len(names)):
            # Without a value at the place, comparisons are false, and the mean has no members.
            before = (every.tokens[k] <= tokens[k][:, None] * (1 + 1e-9)) & ~np.isnan(every.values[k])
            last = before & (before.sum(axis=1)[:, None] - np.cumsum(before, axis=1) < window)
            count = last.sum(axis=1)
            mean = np.where(last, every.values[k], 0.0).sum(axis=1) / np.maximum(count, 1)
            status[k] = np.where((status[k] == ENTERED) & (count == 0), _NO_OBSERVATION, status[k])
            values[k] = np.where(count > 0, mean, np.nan)
    n_params = _n_params(dataset, cells, shape)
    coords = {
        str(n): c.variable for n, c in found.coords.items() if n not in ("metric", "units", "direction", "metric_label")
    }
    tokens = np.asarray(tokens, np.float64)[..., None]
    members = Members(
        tuple(names), cells, shape, np.asarray(values, np.float64)[..., None], tokens, n_params,
        6.0 * n_params[:, None] * tokens, status, coords,
    )  # fmt: skip
    return members, str(found.attrs["at"])


def members_of_all(dataset: xr.Dataset, names: Sequence[str], skip: float, window: int) -> Members:
    """Return all own observations of runs; metrics of a run share positions.

    Parameters
    ----------
    dataset : xarray.Dataset
    names : sequence of str
    skip : float
        Share of the first observations of each run that do not enter.
    window : int
        Take running means over this many observations.
    """
    parts = list(Observations.of(dataset, names))
    first = parts[0]
    if any(p.cells != first.cells for p in parts):
        raise SelectionError(
            f"the metrics {', '.join(names)} have different dimensions, so they have no common answer. Ask for them "
            "one by one."
        )
    tokens, values = _united(parts, names)
    has_all = ~np.isnan(values).any(axis=0)
    if skip or window > 1:
        # The same observations enter for all metrics of a question, so that losses and accuracies stay pairs.
        values = np.where(has_all, values, np.nan)
        rank = np.cumsum(has_all, axis=1) - 1
        dropped = rank < np.ceil(skip * has_all.sum(axis=1))[:, None]
        values = np.where(dropped, np.nan, values)
        values = _running_mean(values, window) if window > 1 else values
    run_ids = np.asarray(first.run_ids, object).reshape(-1)
    status = np.where(np.isnan(values).all(axis=2), _NO_OBSERVATION, ENTERED).astype(object)
    status[:, run_ids == ""] = ""
    n_params = _n_params(dataset, first.cells, first.shape)
    wide = np.broadcast_to(tokens, values.shape)
    wide = np.where(np.isnan(values), np.nan, wide)
    coords = {str(n): c.variable for n, c in dataset.coords.items() if _is_of_runs(dataset, str(n), first.cells)}
    return Members(
        tuple(names), first.cells, first.shape, values, wide, n_params, 6.0 * n_params[:, None] * wide, status, coords
    )


def _is_of_runs(dataset: xr.Dataset, name: str, cells: tuple[str, ...]) -> bool:
    """Return whether a coordinate identifies runs or is a factor of theirs."""
    if name in AXES or sampling_of(name) or not set(dataset.coords[name].dims) <= set(cells):
        return False
    return name in (*cells, "run_id", "n_params", *REPLICATES) or name in factors_of(dataset)


def _united(parts: Sequence[Observations], names: Sequence[str]) -> tuple[Float64, Float64]:
    """Return tokens (row, sample) and values (metric, row, sample) of parts with different samples."""
    if len(parts) == 1:
        order = [parts[0].metrics.index(n) for n in names]
        return parts[0].tokens, parts[0].values[order]
    pairs = []
    for part in parts:
        row, sample = np.nonzero(~np.isnan(part.tokens))
        pairs.append(np.stack([row.astype(np.float64), part.tokens[row, sample]], axis=1))
    unique, inverse = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    row = unique[:, 0].astype(np.intp)
    position = np.arange(len(row)) - np.searchsorted(row, row)
    shape = (len(parts[0].tokens), int(position.max(initial=-1)) + 1)
    tokens, values = np.full(shape, np.nan), np.full((len(names), *shape), np.nan)
    tokens[row, position] = unique[:, 1]
    start = 0
    for part, pair in zip(parts, pairs, strict=True):
        target = np.asarray(inverse).reshape(-1)[start : start + len(pair)]
        start += len(pair)
        there = np.nonzero(~np.isnan(part.tokens))
        for k, name in enumerate(part.metrics):
            values[names.index(name), row[target], position[target]] = part.values[k][there]
    return tokens, values


def _running_mean(values: Float64, window: int) -> Float64:
    """Return means of each value with up to `window` - 1 values before it, along the last dimension, ignoring NaN."""
    flat = values.reshape(-1, values.shape[-1])
    out = np.full(flat.shape, np.nan)
    for k, row in enumerate(flat):
        own = np.flatnonzero(~np.isnan(row))
        total = np.concatenate([[0.0], np.cumsum(row[own])])
        last = np.arange(1, len(own) + 1)
        first = np.maximum(last - window, 0)
        out[k, own] = (total[last] - total[first]) / (last - first)
    return out.reshape(values.shape)


def _n_params(dataset: xr.Dataset, cells: tuple[str, ...], shape: tuple[int, ...]) -> Float64:
    if "n_params" not in dataset.coords or dataset["n_params"].attrs.get(CHANGING_PARAMS):
        return np.full(int(np.prod(shape)), np.nan)
    sizes = dict(zip(cells, shape, strict=True))
    return broadcast_values(dataset["n_params"].variable, sizes).astype(np.float64).reshape(-1)


@dataclass(frozen=True)
class Groups:
    """Which fit each run belongs to.

    Attributes
    ----------
    dims : tuple of str
        Factors that are kept apart.
    labels : tuple of arrays
        Labels along each.
    code : (row,) int64 array
        Position among all combinations of labels.
    """

    dims: tuple[str, ...]
    labels: tuple[npt.NDArray[Any], ...]
    code: Int64

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of labels along each factor."""
        return tuple(map(len, self.labels))

    @property
    def count(self) -> int:
        """Number of combinations."""
        return int(np.prod(self.shape))

    def coords(self, members: Members) -> dict[str, xr.Variable]:
        """Return the coordinates of the factors."""
        return {
            d: xr.Variable((d,), labels, dict(members.coords[d].attrs) if d in members.coords else {})
            for d, labels in zip(self.dims, self.labels, strict=True)
        }

    def packed(self, is_member: Bool) -> Int64:
        """Return positions of members (row, sample) of each group, flattened: (group, member); -1 beyond its last."""
        row, sample = np.nonzero(is_member)
        code = self.code[row]
        order = np.argsort(code, kind="stable")
        code, flat = code[order], (row * is_member.shape[1] + sample)[order]
        position = np.arange(len(code)) - np.searchsorted(code, code)
        out = np.full((self.count, int(position.max(initial=-1)) + 1), -1, np.int64)
        out[code, position] = flat
        return out


def groups_of(dataset: xr.Dataset, members: Members, by: str | Sequence[str] | None, features: Sequence[str]) -> Groups:
    """Return the groups of runs that have fits of their own.

    Parameters
    ----------
    dataset : xarray.Dataset
    members : Members
    by : str, several or None
        Coordinates of the runs. When None, the factors in which runs differ, except repetitions, factors that follow
        from the size where the law has a size, and budgets to which tokens are proportional.
    features : sequence of str
        Quantities of the law.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate of the runs.
    """
    some = (members.status == ENTERED).any(axis=0)
    known = [n for n, v in members.coords.items() if v.dims and set(v.dims) <= set(members.cells)]
    codes: dict[str, tuple[npt.NDArray[Any], Int64]] = {}
    if by is None:
        codes = _varying_factors(dataset, members, known, some, features)
    else:
        for name in names_of("by", by):
            if name not in known:
                raise UnknownNameError(
                    f"by={name!r} is not a coordinate of the runs, so it can't keep fits apart."
                    f"{near_names(str(name), known)} There are {', '.join(known) or 'none'}."
                )
            codes[name] = _coded(members, name, some)
    shape = tuple(len(labels) for labels, _ in codes.values())
    if np.prod(shape, dtype=np.float64) > 50_000:
        raise SelectionError(
            f"the runs differ in {', '.join(codes)}, whose combinations are {np.prod(shape, dtype=np.float64):,.0f} "
            "fits. Select fewer runs, or name the factors that are kept apart: by=['data']."
        )
    rows = len(some)
    code = np.ravel_multi_index(tuple(c for _, c in codes.values()), shape) if codes else np.zeros(rows, np.int64)
    return Groups(tuple(codes), tuple(labels for labels, _ in codes.values()), np.asarray(code, np.int64))


def _varying_factors(
    dataset: xr.Dataset, members: Members, known: Sequence[str], some: Bool, features: Sequence[str]
) -> dict[str, tuple[npt.NDArray[Any], Int64]]:
    """Return labels and codes of the factors that are kept apart where none are named."""
    of = factors_of(xr.Dataset(coords={n: members.coords[n] for n in known}))
    codes: dict[str, tuple[npt.NDArray[Any], Int64]] = {}
    of_runs: dict[str, tuple[npt.NDArray[Any], Int64]] = {}
    budget = "replicate"
    for name in known:
        if name in REPLICATES or name not in of or members.coords[name].dtype.kind == "b":
            continue
        labels, code = _coded(members, name, some)
        here = code[some]
        if len(np.unique(here)) < 2 or _follows_size(members, labels, here, some, features):
            continue
        if _is_budget(members, labels, code, some):
            budget = name
            continue
        if not any(_follows(here, other[some]) and _follows(other[some], here) for _, other in codes.values()):
            (codes if of[name] == "lineage" or name in members.cells else of_runs)[name] = (labels, code)
    if not of_runs:
        return codes
    # One factor that determines the others names the treatments; else their labels do.
    single = [n for n, (_, c) in of_runs.items() if all(_follows(o[some], c[some]) for _, o in of_runs.values())]
    if single:
        return codes | {single[0]: of_runs[single[0]]}
    if "run" not in members.cells:
        return codes | {"treatment": _combinations(of_runs, some)}
    index, names = groups_of_runs(dataset, budget)
    group = np.zeros(members.shape[members.cells.index("run")], np.int64)
    for k, runs in enumerate(index):
        group[runs[runs >= 0]] = k
    rows = np.unravel_index(np.arange(len(some)), members.shape)[members.cells.index("run")]
    used, code = np.unique(group[rows[some]], return_inverse=True)
    of_row = np.zeros(len(some), np.int64)
    of_row[some] = code.reshape(-1)
    return codes | {"treatment": (np.asarray(names, object)[used], of_row)}


def _combinations(factors: Mapping[str, tuple[npt.NDArray[Any], Int64]], some: Bool) -> tuple[npt.NDArray[Any], Int64]:
    """Return a label for each combination of factors that occurs, and the code of each row."""
    stacked = np.stack([code for _, code in factors.values()])
    found, inverse = np.unique(stacked[:, some], axis=1, return_inverse=True)
    texts = [
        ", ".join(f"{n}={labels[c]}" for (n, (labels, _)), c in zip(factors.items(), column, strict=True))
        for column in found.T
    ]
    code = np.zeros(len(some), np.int64)
    code[some] = inverse.reshape(-1)
    return np.array(texts, object), code


def _follows(one: Int64, other: Int64) -> bool:
    """Return whether each value of the other factor goes with a single value of this one."""
    return _count_pairs(one, other) == len(np.unique(other))


def _coded(members: Members, name: str, some: Bool) -> tuple[npt.NDArray[Any], Int64]:
    """Return the labels of a coordinate that runs with values have, and the code of each row; others have code 0."""
    variable = members.coords[name]
    if name in members.cells:
        # A dimension of the runs keeps all its labels, because runs and fits share it.
        return np.asarray(variable.values), _spread(members, variable.dims, np.arange(variable.size))
    # Coded along its own dimensions: a Dataset may have millions of cells.
    shaped = some.reshape(members.shape)
    used = shaped.any(axis=tuple(k for k, d in enumerate(members.cells) if d not in variable.dims))
    kept = [d for d in members.cells if d in variable.dims]
    values = np.asarray(variable.transpose(*kept).values)
    used = np.broadcast_to(used, values.shape)
    code = np.zeros(values.shape, np.int64)
    if values.dtype.kind in "fiub":
        labels, found = np.unique(values[used], return_inverse=True)
    else:
        texts = text_values(values[used])
        labels = np.array(list(dict.fromkeys(texts.tolist())), object)
        number = {t: k for k, t in enumerate(labels.tolist())}
        found = np.array([number[t] for t in texts.tolist()], np.int64)
    code[used] = found.reshape(-1)
    return labels if len(labels) else values.ravel()[:1], _spread(members, tuple(kept), code)


def _spread(members: Members, dims: Sequence[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values along some dimensions of the runs as one value per row."""
    sizes = dict(zip(members.cells, members.shape, strict=True))
    return broadcast_values(xr.Variable(tuple(dims), values), sizes).reshape(-1)


def _follows_size(members: Members, labels: npt.NDArray[Any], code: Int64, some: Bool, features: Sequence[str]) -> bool:
    """Return whether a factor is a name or a function of the size, which the law accounts for."""
    if tuple(features) == ("tokens",):
        return False
    sizes, size = np.unique(members.n_params[some], return_inverse=True)
    pairs = _count_pairs(size.reshape(-1), code)
    # Texts must name sizes one to one: a recipe that was trained at one size only is no size.
    return pairs == len(sizes) and (labels.dtype.kind in "fiu" or pairs == len(np.unique(code)))


def _is_budget(members: Members, labels: npt.NDArray[Any], code: Int64, some: Bool) -> bool:
    """Return whether tokens are proportional to a factor at each size, such as a budget in tokens per parameter."""
    if labels.dtype.kind not in "fiu":
        return False
    tokens = np.nanmax(np.where(np.isnan(members.tokens), -np.inf, members.tokens), axis=(0, 2))
    value = labels.astype(np.float64)[code]
    use = some & (value > 0) & np.isfinite(tokens)
    if len(np.unique(value[use])) < 2:
        return False
    share = tokens[use] / value[use]
    _, size = np.unique(np.nan_to_num(members.n_params[use]), return_inverse=True)
    size = size.reshape(-1)
    most, least = np.full(size.max() + 1, -np.inf), np.full(size.max() + 1, np.inf)
    np.maximum.at(most, size, share)
    np.minimum.at(least, size, share)
    return bool((most <= (1 + _PROPORTIONAL) * least).all())


def _count_pairs(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
    return len(np.unique(one * (int(other.max(initial=0)) + 1) + other))


def held_out(members: Members, hold_out: Mapping[str, Any] | None) -> Bool:
    """Return which rows are held out: those with one of the values of each coordinate.

    Parameters
    ----------
    members : Members
    hold_out : mapping of str to value, several or slice, or None
        A slice is of numbers, its ends included.

    Raises
    ------
    UnknownNameError
        When there is no such coordinate or value.
    """
    mask = np.zeros(len(members.n_params), bool)
    if hold_out is None:
        return mask
    if not isinstance(hold_out, Mapping):
        raise UnknownNameError(
            f"hold_out={hold_out!r} does not say which values of which coordinate are held out. Pass a mapping from "
            "coordinates to values, such as {'n_params': 1e9}."
        )
    if not hold_out:
        return mask
    known = [n for n, v in members.coords.items() if v.dims and set(v.dims) <= set(members.cells)]
    mask[:] = True
    for name, wanted in hold_out.items():
        if name not in known:
            raise UnknownNameError(
                f"hold_out has {name!r}, which is not a coordinate of the runs.{near_names(str(name), known)} There "
                f"are {', '.join(known) or 'none'}."
            )
        variable = members.coords[name]
        mask &= _spread(members, variable.dims, _matches(name, np.asarray(variable.values), wanted))
    return mask


def _matches(name: str, values: npt.NDArray[Any], wanted: Any) -> Bool:
    """Return which values of a coordinate are held out."""
    is_number = values.dtype.kind in "fiub"
    if isinstance(wanted, slice):
        if not is_number:
            raise UnknownNameError(
                f"hold_out has a slice of {name}, whose values are texts without an order. List them instead."
            )
        low = -np.inf if wanted.start is None else wanted.start
        high = np.inf if wanted.stop is None else wanted.stop
        for end in (low, high):
            check_number("hold_out", end, f"an end of a slice of {name}, whose values are numbers", "numbers")
        if wanted.step is not None:
            raise UnknownNameError(
                f"hold_out has a slice of {name} with the step {wanted.step!r}, which has no meaning here: a slice is "
                "of values, its ends included. Leave the step out."
            )
        return np.asarray((values >= low) & (values <= high))
    if isinstance(wanted, (Set, xr.DataArray)):
        wanted = wanted.values.ravel() if isinstance(wanted, xr.DataArray) else list(wanted)
    several = [wanted] if isinstance(wanted, (str, bytes)) or np.ndim(wanted) == 0 else list(wanted)
    cells = values if is_number else text_values(values)
    there = dict.fromkeys(cells.ravel().tolist())
    for value in several:
        if value not in there:
            texts = [str(v) for v in there if str(v) not in ("", "nan")]
            raise UnknownNameError(
                f"hold_out has {value!r}, which no run has as {name}, so it can't be held out."
                f"{near_names(str(value), texts)} There are {list_names(texts, most=8)}."
            )
    matching = [v for v in there if v in several]
    return np.isin(cells, np.array(matching, cells.dtype))


def checked_metrics(dataset: xr.Dataset, metric: str | Sequence[str] | None) -> list[str]:
    """Return the names of metrics; those of sizes in a table are none."""
    sizes = [n for n in dataset.data_vars if n in (*_TOKENS, *_COMPUTE, "n_params")]
    return metric_names(dataset.drop_vars(sizes) if metric is None else dataset, metric)
