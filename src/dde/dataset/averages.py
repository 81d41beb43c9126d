"""Means over seeds, replicates and other factors, with their count, standard deviation and confidence interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.curves.axes import AxisRule
from dde.curves.statistics import BOOTSTRAP_FROM, INTERVAL_METHODS, STATISTICS, IntervalMethod, summarize
from dde.dataset.cell_operations import blank_value, mask_cells, pick_cells
from dde.dataset.dimensions import axis_of, broadcast_values, cell_dims, run_ids_along, text_values
from dde.dataset.lazy import BlockArray, is_chunked, is_lazy, lazily
from dde.dataset.loss_reductions import warn_of_reductions
from dde.dataset.members import OF_MEMBERS, Group, groups_of
from dde.dataset.samples import ANCILLARY, flags_of, has_samplings
from dde.errors import SelectionError, UnknownNameError, warn_caller
from dde.lineage.chain_texts import Stage, format_chain, parse_chain
from dde.lineage.filters import as_values
from dde.schema import AVERAGED_OVER, MEMBERS, factors_of, is_datadecide, sampling_of, treatment_names

__all__ = ["mean_over"]

_MEMBER = "member"
_LABELS = {"count": "number of runs", "std": "standard deviation", "sem": "standard error of the mean"}


def mean_over(
    dataset: xr.Dataset,
    over: str | Iterable[str],
    min_count: int | None = None,
    interval: float | None = 0.95,
    method: IntervalMethod = "auto",
) -> xr.Dataset:
    """Return means over seeds, replicates or other factors, with their count, spread and uncertainty.

    Parameters
    ----------
    dataset : xarray.Dataset
        A Dataset of :func:`dde.open_lineages`, a selection, sweep or alignment of it.
    over : str or several
        ``seed`` averages lineages that agree in all coordinates but the seed, ``replicate`` runs of one lineage that
        agree in all fields of their treatment. Suites other than DataDecide may use any factor of lineages or runs:
        lineages or runs that agree in all other factors are averaged. It may be a dimension of a sweep, too.
    min_count : int, optional
        Smallest number of runs with a value for which a cell has a mean. When None, every member must have a value:
        the mean ends and begins where a member does, and never steps because its members change.
    interval : float or None, default 0.95
        Confidence level of the interval from low to high; None leaves these out.
    method : {"auto", "t", "bootstrap"}
        Method of the interval, see :func:`dde.curves.statistics.summarize`. "auto" is Student's t below 10 members
        and the percentile bootstrap from 10 on.

    Returns
    -------
    xarray.Dataset
        Lazy where `dataset` is. For every metric ``m``: ``m``, the mean; ``m_count``, the number of runs with a value;
        ``m_std``, their standard deviation (of a sample: n - 1); ``m_sem``, the standard error of the mean;
        ``m_low`` and ``m_high``, the bounds of the interval; and ``m_observed``, the number of values that are
        observed, not interpolated. Labels of lineages are ``<recipe>-<size>`` over seeds, those of runs have no ``#2``
        over replicates; in other suites labels consist of the remaining factors. ``n_members`` is the number of runs
        of each mean, and ``run_id`` names them. Coordinates that differ between members are NaN or "", except
        ``branch_tokens`` (the last of them), ``end_tokens`` (the first) and ``last_end_tokens`` (the last).

    Raises
    ------
    UnknownNameError
        When `over`, `interval`, `method` or `min_count` has no such value.
    SelectionError
        When the Dataset already holds means, has no such dimension, or holds a lineage or run twice; and when members
        of a mean had different treatments.

    Warns
    -----
    DdeWarning
        When runs of a mean branch at different tokens or reduce their training loss in different ways; and when each
        mean is of one run, because no two runs differ in `over` alone.

    Examples
    --------
    >>> import dde
    >>> ds = dde.tutorial.open_lineages("small", params="4M", data="Dolma1.7", metrics=["arc_easy"])
    >>> means = ds.dde.mean_over("seed")
    >>> means.lineage.values.tolist(), int(means.n_members.sel(run="pretraining").item())
    (['dolma1_7-4M'], 3)
    """
    names = [str(v) for v in as_values(over)]
    if MEMBERS in dataset.coords:
        raise SelectionError(
            f"the Dataset holds means over {dataset.attrs.get(AVERAGED_OVER, 'runs')}, and a mean of means ignores the "
            "number of runs of each. Average the runs instead: ds.dde.mean_over(['seed', 'replicate'])."
        )
    if interval is not None and not 0 < interval < 1:
        raise UnknownNameError(
            f"interval={interval!r} is not between 0 and 1, so it is not a confidence level. Pass 0.95, or None for no "
            "interval."
        )
    if method not in INTERVAL_METHODS:
        raise UnknownNameError(
            f"method={method!r} is not a method for an interval, so there is no interval. Pass one of "
            f"{', '.join(INTERVAL_METHODS)}."
        )
    if min_count is not None and min_count < 1:
        raise UnknownNameError(f"min_count={min_count!r} allows means of no runs. Pass 1 or more, or None.")
    groups = groups_of(dataset, list(dict.fromkeys(names)))
    return _Means(dataset, groups, min_count, interval, method).build()


@dataclass(frozen=True)
class _Means:
    """Build a Dataset of means."""

    dataset: xr.Dataset
    groups: Sequence[Group]
    min_count: int | None
    interval: float | None
    method: IntervalMethod

    @property
    def cells(self) -> tuple[str, ...]:
        """Dimensions of the runs, including those that are averaged."""
        return cell_dims(self.dataset)

    @property
    def over(self) -> list[str]:
        """Names that the means are over."""
        return [name for g in self.groups for name in g.over]

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
                    f"the variable {str(name)!r} is not numeric, so it has no mean. Drop it: ds.drop_vars({name!r})."
                )
            if has_samplings(array) and "train_loss" in str(array.attrs.get(ANCILLARY)):
                warn_of_reductions(
                    text_values(self.dataset["reduce_loss"].values).ravel() if "reduce_loss" in self.dataset else ()
                )
            variables |= self._statistics(str(name), array, present)
        means = xr.Dataset(variables, self._coordinates(present, rule), dict(self.dataset.attrs))
        means = means.squeeze([g.dim for g in self.groups if g.is_dropped], drop=True)
        over = ", ".join(self.over)
        required = "all" if self.min_count is None else self.min_count
        counts = means[MEMBERS].values[means[MEMBERS].values > 0]
        interval_attrs = {"interval": self.interval or "none", "interval_method": self._method_text(counts)}
        if counts.size and int(counts.max()) == 1:
            self._warn_of_single_runs(over)
        return means.assign_attrs({AVERAGED_OVER: over, "min_count": required, **interval_attrs})

    def _warn_of_single_runs(self, over: str) -> None:
        """Warn that no mean is of several runs, although the runs differ in the averaged factor."""
        if not self.is_datadecide and any(len(set(self._values_of(name))) > 1 for name in self.over):
            others = [n for n in factors_of(self.dataset) if n not in self.over and len(set(self._values_of(n))) > 1]
            warn_caller(
                f"each mean over {over} is of one run, because no two runs differ in {over} alone"
                + (f": they also differ in {', '.join(others)}" if others else "")
                + ". Take the mean over those, too, or select one value of each: ds.dde.sel(...)."
            )

    def _values_of(self, name: str) -> list[str]:
        """Return the values of a coordinate as texts; an empty list where the Dataset does not have it."""
        if name not in self.dataset.coords:
            return []
        values = text_values(np.atleast_1d(self.dataset[name].values).astype(object)).ravel().tolist()
        return [text for text in map(str, values) if text not in ("", "nan")]

    def _method_text(self, counts: npt.NDArray[Any]) -> str:
        """Return the method of the intervals, with the numbers of members, as the text of an attribute."""
        if self.interval is None or not counts.size:
            return "none"
        low, high = int(counts.min()), int(counts.max())
        of = f"n = {low}" if low == high else f"n = {low} to {high}"
        names = {"t": "Student's t", "bootstrap": "percentile bootstrap"}
        if self.method != "auto":
            return f"{names[self.method]}, {of}"
        if high < BOOTSTRAP_FROM or low >= BOOTSTRAP_FROM:
            return f"{names['t' if high < BOOTSTRAP_FROM else 'bootstrap']}, {of}"
        return f"{names['t']} below {BOOTSTRAP_FROM} members, {names['bootstrap']} from there on, {of}"

    def _stacked(self, variable: xr.Variable, missing: Any = None) -> xr.Variable:
        """Return a variable with all members along one last dimension; `missing` fills groups with fewer members."""
        groups = [g for g in self.groups if g.dim in variable.dims]
        dims = [str(d) for d in variable.dims]
        others = [d for d in dims if d not in {g.dim for g in groups}]
        if not groups:
            sizes = {**{d: variable.sizes[d] for d in dims}, _MEMBER: 1}
            one: xr.Variable = variable.set_dims(sizes)  # type: ignore[no-untyped-call]
            return one.transpose(*dims, _MEMBER)
        # Every combination of the groups' members, in order, is a member of the mean.
        counts = [len(g.index) for g in groups]
        shape = (*counts, int(np.prod([g.index.shape[1] for g in groups])))
        at, has_member = {}, np.ones(shape, bool)
        for k, group in enumerate(groups):
            wide = [1] * len(groups) + [g.index.shape[1] if g is group else 1 for g in groups]
            wide[k] = counts[k]
            index = group.index.reshape(wide)
            full = [*counts, *(g.index.shape[1] for g in groups)]
            positions = np.broadcast_to(index, full).reshape(shape)
            at[group.dim] = np.maximum(positions, 0)
            has_member &= positions >= 0
        new = [g.dim for g in groups]
        picked = pick_cells(variable, at, [*new, _MEMBER], has_member, missing)
        stack: xr.Variable = picked.transpose(*(d for d in dims if d in new or d in others), _MEMBER)
        return stack

    def _statistics(self, name: str, array: xr.DataArray, present: xr.Variable) -> dict[str, xr.Variable]:
        """Return the mean of a metric over the members, its other statistics and its counts of samples, by name."""
        rule, cells = axis_of(array), self.cells
        over = " and ".join(f"{name}s" for name in self.over)
        along = [d for d in cells if d in array.dims]
        if len(along) < len(cells):
            # It has one value per lineage, or per run label: its members are those labels.
            every_label = xr.Variable(along, np.ones([array.sizes[d] for d in along], bool))
            present = self._stacked(every_label, False)
        required: xr.Variable = present.sum(_MEMBER) if self.min_count is None else xr.Variable((), self.min_count)
        ordered = [d for d in (*cells, rule.name if rule else "") if d in array.dims]
        ordered += [str(d) for d in array.dims if d not in ordered]
        observed: dict[str, xr.Variable] = {}
        stack = self._stacked(array.variable.transpose(*ordered))
        if not is_lazy(stack):
            stack = stack.astype(np.float64)
        if has_samplings(array) and rule is not None and rule.name in array.dims:
            seen = mask_cells(stack, [self._stacked(flag, 0) for flag in self._broadcast(flags_of(array), array)])
            observed[f"{name}_observed"] = _counted(seen)
        sizes = {d: stack.sizes[d] for d in ordered}
        if is_chunked(stack):
            # Zarr needs chunks of one size, and all members of a mean are reduced together.
            sizes_of_chunks = dict(zip(stack.dims, stack.chunks or (), strict=True))
            stack = stack.chunk({d: -1 if d == _MEMBER else max(sizes) for d, sizes in sizes_of_chunks.items()})
            statistics = xr.apply_ufunc(
                summarize, stack, required, kwargs={"interval": self.interval, "method": self.method},
                input_core_dims=[[_MEMBER], []], output_core_dims=[["statistic"]], dask="parallelized",
                output_dtypes=[np.float64], dask_gufunc_kwargs={"output_sizes": {"statistic": len(STATISTICS)}},
            )  # fmt: skip
            parts = [statistics.isel(statistic=k) for k in range(len(STATISTICS))]
            parts[STATISTICS.index("count")] = parts[STATISTICS.index("count")].astype(np.int64)
        else:
            needed = np.broadcast_to(broadcast_values(required, sizes), tuple(sizes.values()))
            summary = _Summary(stack, needed, self.interval, self.method)
            parts = [lazily(ordered, _StatisticArray(summary, k), {}) for k in range(len(STATISTICS))]
        label = str(array.attrs.get("long_name", name))
        shown = dict(zip(STATISTICS, parts, strict=True))
        if self.interval is None:
            del shown["low"], shown["high"]
        companions = [f"{name}_{s}" for s in shown if s != "mean"] + list(observed)
        mean = shown.pop("mean")
        mean.attrs = {**array.attrs, "long_name": f"{label}, mean over {over}", ANCILLARY: " ".join(companions)}
        units = {"units": array.attrs["units"]} if "units" in array.attrs else {}
        for statistic, variable in shown.items():
            words = _LABELS.get(statistic, f"{statistic} end of the {self.interval:.0%} interval of the mean"
                                if self.interval else statistic)  # fmt: skip
            variable.attrs = {"long_name": f"{label}, {words}", **({"units": "1"} if statistic == "count" else units)}
        for variable in observed.values():
            variable.attrs = {"long_name": f"{label}, number of observed values", "units": "1"}
        return {name: mean, **{f"{name}_{s}": v for s, v in shown.items()}, **observed}

    def _broadcast(self, flags: Sequence[xr.Variable], array: xr.DataArray) -> list[xr.Variable]:
        """Return flags broadcast along all averaged dimensions of a variable."""
        dims = {g.dim: array.sizes[g.dim] for g in self.groups if g.dim in array.dims}
        return [f if set(dims) <= set(f.dims) else f.set_dims({**dims, **f.sizes}) for f in flags]  # type: ignore[no-untyped-call]

    def _coordinates(self, present: xr.Variable, rule: AxisRule | None) -> dict[str, xr.Variable]:
        """Return the coordinates of the averages: those that all members of a cell share, and the number of members."""
        coords: dict[str, xr.Variable] = {}
        hidden = {n for name in self.over for n in OF_MEMBERS.get(name, (name,))}
        dims = {g.dim: g for g in self.groups}
        for name, coordinate in self.dataset.coords.items():
            variable = coordinate.variable
            if name in dims:
                if not dims[str(name)].is_dropped:
                    coords[str(name)] = xr.Variable(str(name), dims[str(name)].labels, coordinate.attrs)
            elif name in hidden or sampling_of(str(name)):
                # A mean has no samples of its own; `m_observed` counts those of its members.
                continue
            elif not set(map(str, variable.dims)) & set(dims):
                coords[str(name)] = variable
            elif rule is not None and rule.name in variable.dims:
                common = self._along_axis(variable, rule)
                if common is not None:
                    coords[str(name)] = common
            else:
                coords[str(name)] = self._common(str(name), variable, present)
                if name == "end_tokens":
                    last = self._common("last_end_tokens", variable, present)
                    last.attrs = {"long_name": "cumulative tokens at the last end of its runs", "units": "tokens"}
                    coords["last_end_tokens"] = last
        members = present.sum(_MEMBER)
        members.attrs = {"long_name": "number of runs in the mean", "units": "1"}
        coords[MEMBERS] = members
        return coords

    def _common(self, name: str, variable: xr.Variable, present: xr.Variable) -> xr.Variable:
        """Return the common value of a coordinate among the members of each mean; NaN or "" where they differ."""
        text = variable.dtype.kind in "OTU"
        stack = self._stacked(variable if text else variable.astype(np.float64))
        if set(variable.dims) == set(self.cells):
            stack = stack.where(present, blank_value(stack))  # type: ignore[no-untyped-call]
        dims = tuple(d for d in stack.dims if d != _MEMBER)
        values = stack.transpose(*dims, _MEMBER).values
        if text:
            out = np.full(values.shape[:-1], "", object)
            values = text_values(values)
            for at in np.ndindex(out.shape):
                distinct = list(dict.fromkeys(v for v in values[at] if v != ""))
                if len(distinct) > 1:
                    self._check_treatment(name, distinct)
                if len(distinct) == 1 or name in ("run_id", "parent_run_id", "root_run_id"):
                    out[at] = "+".join(distinct)
                elif name == "chain" and distinct:
                    out[at] = _common_chain(distinct)
            return xr.Variable(dims, out, dict(variable.attrs))
        low, high = _range(values)
        same, some = low == high, low <= high
        if name in self.treatment and (differing := np.argwhere(~same & some)).size:
            members = values[tuple(differing[0])]
            self._check_treatment(name, [f"{v:g}" for v in np.unique(members[~np.isnan(members)])])
        if name == "branch_tokens" and (differ := int((~same & some).sum())) and not self._is_by_run():
            warn_caller(
                f"{differ} {'mean is' if differ == 1 else 'means are'} of runs that branch at different tokens, so "
                "between those they mix runs that have branched with runs that have not. "
                "Align runs by their branch first: ds.dde.align(axis='post_tokens')."
            )
        if name in ("branch_tokens", "last_end_tokens"):
            common = high
        else:
            common = low if name == "end_tokens" else np.where(same, low, np.nan)
        common = np.where(np.isfinite(common), common, np.nan)
        if variable.dtype.kind in "iub" and not np.isnan(common).any():
            common = common.astype(variable.dtype)
        return xr.Variable(dims, common, dict(variable.attrs))

    def _check_treatment(self, name: str, values: Sequence[str]) -> None:
        """Raise where members of a mean had different treatments.

        Raises
        ------
        SelectionError
        """
        if name in self.treatment:
            over = " and ".join(self.over)
            also = f" or take the mean over it as well: {[*self.over, name]!r};" if not self.is_datadecide else ""
            raise SelectionError(
                f"members of a mean over {over} differ in {name} ({', '.join(values[:4])}), so they are not "
                f"repetitions of one treatment. Sweep over {name} too,{also} or select one: "
                f"ds.dde.sel({name}={values[0]!r})."
            )

    @cached_property
    def is_datadecide(self) -> bool:
        """Whether the Dataset is of the DataDecide suite."""
        return is_datadecide(self.dataset)

    @cached_property
    def treatment(self) -> frozenset[str]:
        """Coordinates in which members must agree."""
        return treatment_names(self.dataset) - set(self.over)

    def _is_by_run(self) -> bool:
        rule = axis_of(self.dataset)
        return rule is not None and rule.by == "run"

    def _along_axis(self, variable: xr.Variable, rule: AxisRule) -> xr.Variable | None:
        """Return a coordinate along the axis where members agree on it; None where they do not."""
        if not set(self.cells) <= set(map(str, variable.dims)):
            stack = self._stacked(variable.astype(np.float64))
            low, high = stack.min(_MEMBER), stack.max(_MEMBER)
            return low.astype(variable.dtype) if bool((low == high).all()) else None
        if rule.by != "run":
            return None
        # Where members are at different tokens, those of the mean are NaN.
        ordered = (*self.cells, rule.name)
        stack = self._stacked(variable.transpose(*ordered))
        return lazily(ordered, _CommonValueArray(stack), dict(variable.attrs))


def _range(members: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the smallest and the largest value along the last dimension, without NaN; inf and -inf for none."""
    some = ~np.isnan(members)
    low = np.where(some, members, np.inf).min(axis=-1, initial=np.inf)
    high = np.where(some, members, -np.inf).max(axis=-1, initial=-np.inf)
    return low, high


def _common_chain(chains: Sequence[str]) -> str:
    """Return the chain of runs with the same types, where each stage begins at the last of their starts; else ""."""
    parsed = [parse_chain(text) for text in chains]
    if len({tuple(stage.run_type for stage in stages) for stages in parsed}) > 1:
        return ""
    return format_chain(
        Stage(stages[0].run_type, max(stage.start for stage in stages)) for stages in zip(*parsed, strict=True)
    )


def _counted(seen: xr.Variable) -> xr.Variable:
    """Return the number of members with a value."""
    dims = [str(d) for d in seen.dims if d != _MEMBER]
    if is_lazy(seen):
        return lazily(dims, _CountArray(seen), {})
    counted: xr.Variable = seen.notnull().sum(_MEMBER)
    return counted


class _MemberReduction(BlockArray):
    """A reduction over the members of each mean, which are along the last dimension of a variable."""

    def __init__(self, stack: xr.Variable) -> None:
        self.stack = stack
        self.shape = stack.shape[:-1]

    def _members(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[np.float64]:
        return np.asarray(self.stack.isel(dict(zip(self.stack.dims, at, strict=False))).values, np.float64)


class _CountArray(_MemberReduction):
    """The number of members with a value."""

    dtype = np.dtype(np.int64)

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        return np.asarray((~np.isnan(self._members(at))).sum(axis=-1))


class _CommonValueArray(_MemberReduction):
    """The common value of all members; NaN where they differ."""

    dtype = np.dtype(np.float64)

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        low, high = _range(self._members(at))
        return np.where(low == high, low, np.nan)


class _Summary:
    """All statistics of a stack of members, computed block by block."""

    def __init__(
        self, stack: xr.Variable, required: npt.NDArray[Any], interval: float | None, method: IntervalMethod
    ) -> None:
        self.stack, self.required, self.interval, self.method = stack, required, interval, method
        # Mean, count and standard deviation of a block are usually read one after the other.
        self._last: tuple[Any, npt.NDArray[np.float64]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[np.float64]:
        """Return the statistics, along the last dimension, of a block."""
        key = tuple(a.tobytes() for a in at)
        # A local reference: another thread may replace the cached block.
        last = self._last
        if last is None or last[0] != key:
            dims = [d for d in self.stack.dims if d != _MEMBER]
            part = self.stack.isel(dict(zip(dims, at, strict=True))).values
            members = np.moveaxis(part, self.stack.dims.index(_MEMBER), -1)
            last = self._last = key, summarize(members, self.required[np.ix_(*at)], self.interval, self.method)
        return last[1]


class _StatisticArray(BlockArray):
    """One statistic of the members of each mean."""

    def __init__(self, summary: _Summary, number: int) -> None:
        self.summary, self.number = summary, number
        self.shape = summary.required.shape
        self.dtype = np.dtype(np.int64 if STATISTICS[number] == "count" else np.float64)

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        return self.summary.block(at)[..., self.number].astype(self.dtype)
