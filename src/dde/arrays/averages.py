"""Means over seeds and replicates, with how many runs they are of and how far these lie apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.core import indexing

from dde.arrays.cube import Cube
from dde.arrays.layout import axis_of, cell_dims, run_ids_along, spread
from dde.arrays.lazy import BlockArray, lazy_tokens, lazy_variable
from dde.arrays.loss_reductions import warn_of_reductions
from dde.arrays.untouched import source_of
from dde.curves.alignment import OBSERVED
from dde.curves.axes import AxisRule
from dde.curves.grids import Points
from dde.curves.statistics import STATISTICS, summarize
from dde.errors import SelectionError, UnknownNameError, near_names, warn_caller
from dde.names import Metric, as_values, find_base_by_label
from dde.relations.treatments import without_replicate

__all__ = ["AVERAGED_OVER", "mean_over"]

#: Attribute of a Dataset of means: what they are over.
AVERAGED_OVER = "averaged_over"

_MEMBER = "member"
# Coordinates that tell the members of a mean apart, and say nothing of it.
_OF_MEMBERS = {"seed": ("seed", "seed_name"), "replicate": ("replicate",)}
# How to have the dimension that members lie along.
_KEEPING = {
    "seed": "Select with a list to keep it: ds.dde.sel(lineage=[...]).",
    "replicate": "A sweep has replicate where cells hold several runs; else select with a list: ds.dde.sel(run=[...]).",
}
_LABELS = {"count": "number of runs", "std": "standard deviation", "sem": "standard error of the mean"}


def mean_over(
    dataset: xr.Dataset, over: str | Iterable[str], min_count: int | None = None, interval: float | None = 0.95
) -> xr.Dataset:
    """Return means over seeds or replicates, with their count, spread and uncertainty.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`dde.open_lineages` gives it, a selection or a sweep of it, on any axis.
    over : {"seed", "replicate"} or both
        ``seed`` joins lineages of one recipe and size, ``replicate`` runs of one treatment and lineage.
    min_count : int, optional
        Runs that must have a value for a cell to have a mean. When None, every run that a mean is of must have
        one: where a run ends or begins, the mean does too, and never steps because its members change.
    interval : float or None, default 0.95
        Share of the bootstrap distribution of the mean that lies between low and high; None leaves these out.

    Returns
    -------
    xarray.Dataset
        Lazy where `dataset` is. For every metric ``m``: ``m``, the mean; ``m_count``, the runs with a value;
        ``m_std``, their standard deviation (of a sample: n - 1); ``m_sem``, the standard error of the mean;
        ``m_low`` and ``m_high``; and ``m_observed``, how many of the values are observed, not interpolated, where
        that is known. Lineages are called ``<recipe>-<size>`` over seeds, runs without ``#2`` over replicates.
        ``n_members`` says how many runs a cell is of, ``run_id`` which. Hyperparameters that differ within a mean
        are NaN or ""; ``branch_tokens`` is then the last of them and ``end_tokens`` the first.

    Raises
    ------
    UnknownNameError
        When `over` names something else.
    SelectionError
        When the Dataset is one of means already, or has no such dimension.

    Warns
    -----
    DdeWarning
        When runs of a mean branch at different tokens; or reduce their training loss in different ways.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", params="4M", data="Dolma1.7", metrics=["arc_easy"])
    >>> means = mean_over(ds, "seed")
    >>> means.lineage.values.tolist(), int(means.n_members.sel(run="pretraining").item())
    (['dolma1_7-4M'], 3)
    """
    wanted = [str(v) for v in as_values(over)]
    if AVERAGED_OVER in dataset.attrs:
        raise SelectionError(
            f"the Dataset holds means over {dataset.attrs[AVERAGED_OVER]}, and a mean of means forgets how many runs "
            "each is of. Take it of the runs: ds.dde.mean_over(['seed', 'replicate'])."
        )
    if interval is not None and not 0 < interval < 1:
        raise UnknownNameError(f"interval={interval!r} is no share between 0 and 1. Pass 0.95, or None for none.")
    if min_count is not None and min_count < 1:
        raise UnknownNameError(f"min_count={min_count!r} asks for no run, so of nothing. Pass 1 or more, or None.")
    groups = [_group(dataset, name) for name in dict.fromkeys(wanted)]
    return _Means(dataset, groups, min_count, interval).build()


@dataclass(frozen=True)
class _Group:
    """Positions along a dimension that are averaged: (group, member), -1 where a group has fewer members."""

    over: str
    dim: str
    index: npt.NDArray[np.int64]
    labels: npt.NDArray[Any]
    is_dropped: bool = False

    @property
    def member(self) -> str:
        return f"{_MEMBER}_{self.dim}"

    def gather(self, variable: xr.Variable) -> xr.Variable:
        """Return a variable along the dimension with the members of each group along one more."""
        at = xr.Variable((self.dim, self.member), np.maximum(self.index, 0))
        return variable.isel({self.dim: at})


def _group(dataset: xr.Dataset, over: str) -> _Group:
    if over not in _OF_MEMBERS:
        raise UnknownNameError(
            f"{over!r} is nothing that runs repeat, so there is no mean over it.{near_names(over, _OF_MEMBERS)} "
            "Pass 'seed', 'replicate' or both; dataset.mean(dim) is xarray's own mean, over anything."
        )
    if over in dataset.dims:
        everything = np.arange(dataset.sizes[over])[None, :]
        return _Group(over, over, everything, np.array([""], object), is_dropped=True)
    dim = "lineage" if over == "seed" else "run"
    if dim not in dataset.dims or dim not in dataset.coords:
        raise SelectionError(
            f"the Dataset has no dimension {dim} with its labels, so there is nothing to average over {over}. "
            f"{_KEEPING[over]}"
        )
    if not dataset.sizes[dim]:
        raise SelectionError(f"the Dataset holds no {dim}, so there is nothing to average over {over}. Select some.")
    values = [str(v) for v in dataset[dim].values]
    names = [_without_seed(v) if over == "seed" else without_replicate(v) for v in values]
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        members.setdefault(name, []).append(position)
    index = np.full((len(members), max(map(len, members.values()))), -1)
    for k, positions in enumerate(members.values()):
        index[k, : len(positions)] = positions
    labels = np.empty(len(members), object)
    labels[:] = list(members)
    return _Group(over, dim, index, labels)


def _without_seed(label: str) -> str:
    base = find_base_by_label(label)
    return label if base is None else f"{base.recipe.slug}-{base.size.name}"


@dataclass(frozen=True)
class _Means:
    """A Dataset of means in the making."""

    dataset: xr.Dataset
    groups: Sequence[_Group]
    min_count: int | None
    interval: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Dimensions of runs, those that are averaged away among them."""
        return cell_dims(self.dataset)

    def build(self) -> xr.Dataset:
        run_ids = self._stacked(xr.Variable(self.cells, run_ids_along(self.dataset, self.cells)), "")
        present = run_ids != ""
        rule = axis_of(self.dataset)
        variables: dict[str, xr.Variable] = {}
        for name, array in self.dataset.data_vars.items():
            if not any(g.dim in array.dims for g in self.groups):
                variables[str(name)] = array.variable
                continue
            if array.dtype.kind not in "fiub":
                raise SelectionError(
                    f"the variable {str(name)!r} holds no numbers, so it has no mean. Drop it: ds.drop_vars({name!r})."
                )
            if name == "train_loss":
                warn_of_reductions(self.dataset["reduce_loss"].values.ravel() if "reduce_loss" in self.dataset else ())
            variables |= self._statistics(str(name), array, run_ids, present)
        made = xr.Dataset(variables, self._coordinates(run_ids, present, rule), dict(self.dataset.attrs))
        made = made.squeeze([g.dim for g in self.groups if g.is_dropped], drop=True)
        over = ", ".join(g.over for g in self.groups)
        every = "all" if self.min_count is None else self.min_count
        return made.assign_attrs({AVERAGED_OVER: over, "min_count": every, "interval": self.interval or "none"})

    def _stacked(self, variable: xr.Variable, missing: Any) -> xr.Variable:
        """Return a variable with all members along one dimension, `missing` where a group has fewer."""
        dims = variable.dims
        groups = [g for g in self.groups if g.dim in dims]
        there = xr.Variable((), True)
        for group in groups:
            variable = group.gather(variable)
            there = there * xr.Variable((group.dim, group.member), group.index >= 0)
        whole: xr.Variable = variable.where(there, missing)  # type: ignore[no-untyped-call]
        stack: xr.Variable = whole.transpose(*dims, ...).stack({_MEMBER: [g.member for g in groups]})  # type: ignore[no-untyped-call]
        return stack

    def _statistics(
        self, name: str, array: xr.DataArray, run_ids: xr.Variable, present: xr.Variable
    ) -> dict[str, xr.Variable]:
        rule, cells = axis_of(array), self.cells
        over = " and ".join(f"{g.over}s" for g in self.groups)
        along = [d for d in cells if d in array.dims]
        if len(along) < len(cells):
            # One value for all runs of a lineage, or of all lineages: its members are those labels.
            every_label = xr.Variable(along, np.ones([array.sizes[d] for d in along], bool))
            present = self._stacked(every_label, False)
        required: xr.Variable = present.sum(_MEMBER) if self.min_count is None else xr.Variable((), self.min_count)
        source = source_of(array, compare=False)
        ordered = [d for d in (*cells, rule.name if rule else "") if d in array.dims]
        made: dict[str, xr.Variable] = {}
        if source is not None and rule is not None:
            points = array[rule.name].values
            stack = lazy_variable(*source, run_ids.values, points, {}, rule, (*cells, _MEMBER))
            observed = _ObservedArray(*source, run_ids.values, points, rule)
            made[f"{name}_observed"] = xr.Variable(
                (*cells, rule.name), indexing.LazilyIndexedArray(observed), {"units": "1"}
            )
        else:
            others = [d for d in array.dims if d not in ordered]
            ordered += [str(d) for d in others]
            stack = self._stacked(array.variable.transpose(*ordered).astype(np.float64), np.nan)
        if hasattr(stack._data, "dask"):
            # Members lie in chunks of any size, of which Zarr takes but one.
            sizes_of_chunks = dict(zip(stack.dims, stack.chunks or (), strict=True))
            stack = stack.chunk({d: -1 if d == _MEMBER else max(sizes) for d, sizes in sizes_of_chunks.items()})
            every = xr.apply_ufunc(
                summarize, stack, required, kwargs={"interval": self.interval},
                input_core_dims=[[_MEMBER], []], output_core_dims=[["statistic"]], dask="parallelized",
                output_dtypes=[np.float64], dask_gufunc_kwargs={"output_sizes": {"statistic": len(STATISTICS)}},
            )  # fmt: skip
            parts = [every.isel(statistic=k) for k in range(len(STATISTICS))]
            parts[STATISTICS.index("count")] = parts[STATISTICS.index("count")].astype(np.int64)
        else:
            dims = tuple(str(d) for d in ordered)
            sizes = {d: stack.sizes[d] for d in dims}
            needed = np.broadcast_to(spread(required, sizes), tuple(sizes.values()))
            summary = _Summary(stack, needed, self.interval)
            parts = [
                xr.Variable(dims, indexing.LazilyIndexedArray(_StatisticArray(summary, k)))
                for k in range(len(STATISTICS))
            ]
        label = str(array.attrs.get("long_name", name))
        shown = dict(zip(STATISTICS, parts, strict=True))
        if self.interval is None:
            del shown["low"], shown["high"]
        made[name] = shown.pop("mean")
        made[name].attrs = {**array.attrs, "long_name": f"{label}, mean over {over}"}
        units = {"units": array.attrs["units"]} if "units" in array.attrs else {}
        for statistic, variable in shown.items():
            what = _LABELS.get(statistic, f"{statistic} end of the {self.interval:.0%} interval of the mean"
                               if self.interval else statistic)  # fmt: skip
            variable.attrs = {"long_name": f"{label}, {what}", **({"units": "1"} if statistic == "count" else units)}
            made[f"{name}_{statistic}"] = variable
        if (seen := made.pop(f"{name}_observed", None)) is not None:
            seen.attrs["long_name"] = f"{label}, number of observed values"
            made[f"{name}_observed"] = seen
        return made

    def _coordinates(self, run_ids: xr.Variable, present: xr.Variable, rule: AxisRule | None) -> dict[str, xr.Variable]:
        coords: dict[str, xr.Variable] = {}
        hidden = {n for g in self.groups for n in _OF_MEMBERS[g.over]}
        dims = {g.dim: g for g in self.groups}
        for name, coordinate in self.dataset.coords.items():
            variable = coordinate.variable
            if name in dims:
                if not dims[str(name)].is_dropped:
                    coords[str(name)] = xr.Variable(str(name), dims[str(name)].labels, coordinate.attrs)
            elif name in hidden:
                continue
            elif not set(map(str, variable.dims)) & set(dims):
                coords[str(name)] = variable
            elif rule is not None and rule.name in variable.dims:
                kept = self._along_axis(variable, rule, run_ids)
                if kept is not None:
                    coords[str(name)] = kept
            else:
                coords[str(name)] = self._common(str(name), variable, present)
        coords["run_id"].attrs.pop("dde_cube", None)
        members = present.sum(_MEMBER)
        members.attrs = {"long_name": "number of runs in the mean", "units": "1"}
        coords["n_members"] = members
        return coords

    def _common(self, name: str, variable: xr.Variable, present: xr.Variable) -> xr.Variable:
        """Return what the members of each mean have in common."""
        text = variable.dtype.kind in "OTU"
        stack = self._stacked(variable if text else variable.astype(np.float64), "" if text else np.nan)
        if set(variable.dims) == set(self.cells):
            stack = stack.where(present, "" if text else np.nan)  # type: ignore[no-untyped-call]
        dims = tuple(d for d in stack.dims if d != _MEMBER)
        values = stack.transpose(*dims, _MEMBER).values
        if text:
            out = np.full(values.shape[:-1], "", object)
            for at in np.ndindex(out.shape):
                held = list(dict.fromkeys(v for v in values[at] if v != ""))
                if len(held) == 1 or name in ("run_id", "parent_run_id"):
                    out[at] = "+".join(held)
            return xr.Variable(dims, out, dict(variable.attrs))
        some = ~np.isnan(values)
        low = np.where(some, values, np.inf).min(axis=-1, initial=np.inf)
        high = np.where(some, values, -np.inf).max(axis=-1, initial=-np.inf)
        same = low == high
        if name == "branch_tokens":
            if (differ := int((~same & some.any(axis=-1)).sum())) and not self._is_by_run():
                warn_caller(
                    f"{differ} {'mean is' if differ == 1 else 'means are'} of runs that branch at different tokens, so "
                    "between those other things were training, too. "
                    "Align runs by their branch first: ds.dde.align(axis='post_tokens')."
                )
            number = high
        else:
            number = low if name == "end_tokens" else np.where(same, low, np.nan)
        number = np.where(np.isfinite(number), number, np.nan)
        if variable.dtype.kind in "iub" and not np.isnan(number).any():
            number = number.astype(variable.dtype)
        return xr.Variable(dims, number, dict(variable.attrs))

    def _is_by_run(self) -> bool:
        rule = axis_of(self.dataset)
        return rule is not None and rule.by == "run"

    def _along_axis(self, variable: xr.Variable, rule: AxisRule, run_ids: xr.Variable) -> xr.Variable | None:
        """Return a coordinate along the axis where members agree on it; None where none is known to."""
        if not set(self.cells) <= set(map(str, variable.dims)):
            stack = self._stacked(variable.astype(np.float64), np.nan)
            low, high = stack.min(_MEMBER), stack.max(_MEMBER)
            return low.astype(variable.dtype) if bool((low == high).all()) else None
        if rule.by != "run":
            return None
        source = next((found for a in self.dataset.data_vars.values() if (found := source_of(a, False))), None)
        if source is None:
            stack = self._stacked(variable, np.nan)
            low = stack.min(_MEMBER)
            return low.where(low == stack.max(_MEMBER))  # type: ignore[no-untyped-call, no-any-return]
        # Where members lie at different tokens, the mean has none.
        agree = np.ones(run_ids.shape[:-1], bool)
        for end in [self.dataset.coords[n] for n in ("branch_tokens", "end_tokens") if n in self.dataset.coords]:
            stack = self._stacked(end.variable, np.nan).where(run_ids != "", np.nan)  # type: ignore[no-untyped-call]
            low, high = stack.min(_MEMBER), stack.max(_MEMBER)
            agree &= ((low == high) | low.isnull()).transpose(*self.cells).values
        some = run_ids.values != ""
        first = np.take_along_axis(run_ids.values, some.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        return lazy_tokens(source[0], np.where(agree, first, ""), self.dataset[rule.name].values, rule, self.cells)


class _Summary:
    """All statistics of a stack of members, block by block."""

    def __init__(self, stack: xr.Variable, required: npt.NDArray[Any], interval: float | None) -> None:
        self.stack, self.required, self.interval = stack, required, interval
        # Mean, count and spread of a block are asked for one after the other.
        self._last: tuple[Any, npt.NDArray[np.float64]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[np.float64]:
        """Return the statistics, along the last dimension, of a block."""
        asked = tuple(a.tobytes() for a in at)
        # Held here, since another thread may ask for another block meanwhile.
        last = self._last
        if last is None or last[0] != asked:
            dims = [d for d in self.stack.dims if d != _MEMBER]
            part = self.stack.isel(dict(zip(dims, at, strict=True))).values
            members = np.moveaxis(part, self.stack.dims.index(_MEMBER), -1)
            last = self._last = asked, summarize(members, self.required[np.ix_(*at)], self.interval)
        return last[1]


class _StatisticArray(BlockArray):
    """One statistic of the members of each mean."""

    def __init__(self, summary: _Summary, number: int) -> None:
        self.summary, self.number = summary, number
        self.shape = summary.required.shape
        self.dtype = np.dtype(np.int64 if STATISTICS[number] == "count" else np.float64)

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        return self.summary.block(at)[..., self.number].astype(self.dtype)


class _ObservedArray(BlockArray):
    """How many members of each mean were observed there."""

    def __init__(
        self, cube: Cube, metric: Metric, run_ids: npt.NDArray[np.object_], points: Points, rule: AxisRule
    ) -> None:
        self.cube, self.metric, self.run_ids, self.points, self.rule = cube, metric, run_ids, points, rule
        self.shape = (*run_ids.shape[:-1], len(points))
        self.dtype = np.dtype(np.int64)

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        *cells, last = at
        members = self.run_ids[np.ix_(*cells)] if cells else self.run_ids
        codes = self.cube.support(self.metric, members, self.points[last], self.rule)
        return np.asarray((codes == OBSERVED).sum(axis=-2))
