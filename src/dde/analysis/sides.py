"""The two sides of a comparison: values of two Datasets with the same dimensions, members of pairs among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.analysis.arrangement import REPLICATES, arrange_by
from dde.analysis.footing import ENTERED
from dde.analysis.observations import require_runs
from dde.analysis.options import names_of
from dde.curves.axes import AXES
from dde.dataset.dimensions import (
    axis_of,
    branch_or_start,
    cell_dims,
    cells_along,
    run_ids_along,
    text_values,
    tokens_along,
)
from dde.dataset.provenance import observed
from dde.dataset.samples import metrics_alone
from dde.errors import SelectionError, UnknownNameError, list_names, near_names
from dde.schema import factors_of, without_replicate

__all__ = ["Sides", "observed_values", "side_label", "sides_of"]

_NO_OBSERVATION = "no observation"
# Coordinates of the runs that are compared, besides factors.
_KEPT = ("lineage", "run", "run_id", "n_params", "branch_tokens", "replicate", "seed")


@dataclass(frozen=True)
class Sides:
    """Values of two sides along the same dimensions.

    Attributes
    ----------
    a, b : xarray.Dataset
        The same variables along ``(metric, ..., axis)`` and `members`, in memory. They agree in all labels, except
        those of `members` where `paired` is False.
    members : tuple of str
        Dimensions of pairs, or of the members of independent samples.
    paired : bool
    facts : mapping of str to (str, str)
        Factors that are constant on each side and differ between them, with both values.
    left_out : (str, str)
        For each side, count and names of the runs with values that have no counterpart on the other side; "" for none.
    """

    a: xr.Dataset
    b: xr.Dataset
    members: tuple[str, ...]
    paired: bool
    facts: Mapping[str, tuple[str, str]]
    left_out: tuple[str, str]

    @property
    def over(self) -> str:
        """Names of the dimensions with several members, for a text."""
        return ", ".join(d for d in self.members if self.a.sizes[d] > 1 or self.b.sizes[d] > 1)


def observed_values(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Return the observed values of runs along their axis, at the points where any run has one.

    Parameters
    ----------
    dataset : xarray.Dataset
    names : sequence of str
        Variables.

    Returns
    -------
    xarray.Dataset
        The variables ``value`` along ``(metric, lineage, run, axis)``, or the dimensions that the Dataset has in their
        place: NaN where a run was not sampled, and before its branch; and ``status`` without the axis, "entered", "no
        observation" or "" where there is no run. Factors and ``run_id`` are coordinates.

    Raises
    ------
    SelectionError
        When the Dataset holds means, metrics have different dimensions, or points of the axis were moved.
    SourceError
        When a coordinate is missing.
    """
    require_runs(dataset)
    seen = observed(metrics_alone(dataset, names))
    rule = axis_of(dataset)
    cells = cell_dims(seen[names[0]])
    axis = (rule.name,) if rule is not None and rule.name in seen[names[0]].dims else ()
    if any(set(seen[n].dims) != {*cells, *axis} for n in names):
        raise SelectionError(
            f"the metrics {', '.join(names)} have different dimensions, so they have no common answer. Compare them "
            "one by one."
        )
    tokens = tokens_along(seen, (*cells, *axis))
    branch = branch_or_start(cells_along(seen, "branch_tokens", cells))
    own = tokens > (branch[..., None] if axis else branch)
    values = np.stack([np.asarray(seen[n].transpose(*cells, *axis).values, np.float64) for n in names])
    values = np.where(own, values, np.nan)
    coords = _kept(dataset, cells)
    if axis:
        some = (~np.isnan(values)).any(axis=tuple(range(values.ndim - 1)))
        values = values[..., some]
        coords[axis[0]] = seen[axis[0]].variable[some]
    coords["metric"] = xr.Variable(("metric",), np.array(names, object), {"long_name": "metric"})
    status = np.where(np.isnan(values).all(axis=-1) if axis else np.isnan(values), _NO_OBSERVATION, ENTERED).astype(
        object
    )
    status[:, run_ids_along(dataset, cells) == ""] = ""
    return xr.Dataset({"value": (("metric", *cells, *axis), values), "status": (("metric", *cells), status)}, coords)


def _kept(dataset: xr.Dataset, cells: tuple[str, ...]) -> dict[str, Any]:
    factors = factors_of(dataset)
    return {
        str(n): c.variable
        for n, c in dataset.coords.items()
        if set(map(str, c.dims)) <= set(cells) and (n in factors or n in _KEPT or n in c.dims) and n not in AXES
    }


def sides_of(a: xr.Dataset, b: xr.Dataset, over: str | Sequence[str] | None, paired: bool | None) -> Sides:
    """Return values of two Datasets along the same dimensions.

    Parameters
    ----------
    a, b : xarray.Dataset
        Variables of runs along ``(metric, lineage, run)`` or dimensions of a sweep, with or without an axis.
    over : str, several or None
        Factors whose values make pairs. When None, ``seed`` and ``replicate``, where there are any.
    paired : bool or None
        When None, whether any pair has values on both sides.

    Raises
    ------
    UnknownNameError
        When neither side has a factor of `over`.
    SelectionError
        When the sides have no label in common along a dimension, or no pair and `paired` is True.
    """
    names = REPLICATES if over is None else names_of("over", over)
    if over is not None:
        _check_over(a, b, names)
    one, other = (_with_members(side, names, against) for side, against in ((a, b), (b, a)))
    one, other = _with_common_runs(one, other)
    facts = _differing_facts(one, other, names)
    members = tuple(n for n in names if n in one.dims or n in other.dims)
    if over is not None:
        _check_members(one, other, names)
    one, other = _with_dims(one, members), _with_dims(other, members)
    one, other = _without_single_labels(one, other, members)
    _check_labels(one, other, members)
    aligned = _aligned(one, other, exclude=members)
    common = _aligned(*aligned)
    has_pairs = bool(common) and bool((common[0].value.notnull() & common[1].value.notnull()).any())
    if paired and not has_pairs:
        several = [n for n in members if one.sizes[n] > 1 or other.sizes[n] > 1]
        raise SelectionError(
            f"the sides have no pair over {', '.join(several) or 'any factor'} with values on both sides, so there is "
            "no paired comparison. Leave out paired=, or name factors that both sides have: over=..."
        )
    # Where a side has no value at all, nothing is compared either way.
    is_empty = not all(bool(side.value.notnull().any()) for side in aligned)
    is_paired = has_pairs or is_empty if paired is None else paired
    left, right = common if is_paired else aligned
    lost = (
        _without_counterpart(a, left, right, members, is_paired),
        _without_counterpart(b, right, left, members, is_paired),
    )
    return Sides(left, right, members, is_paired, facts, lost)


def _check_over(a: xr.Dataset, b: xr.Dataset, names: Sequence[str]) -> None:
    known = [*factors_of(a), *factors_of(b), "replicate", *(str(d) for d in (*a.dims, *b.dims))]
    known = [n for n in dict.fromkeys(known) if n not in ("metric", "lineage", "run", *AXES)]
    for name in names:
        if name not in known:
            raise UnknownNameError(
                f"over={name!r} is not a factor of either side, so its values make no pairs.{near_names(name, known)} "
                f"There are {', '.join(known)}."
            )


def _check_members(a: xr.Dataset, b: xr.Dataset, names: Sequence[str]) -> None:
    """Raise where a factor of pairs is neither a dimension of a side nor constant on both."""
    for name in names:
        if name in a.dims or name in b.dims or all(_has_constant(s, name) for s in (a, b)):
            continue
        raise SelectionError(
            f"{name} has no values, or differs between runs of one label, so its values make no pairs. Select runs "
            f"that have it, or make a dimension of it before selecting the sides: ds.dde.sweep({name!r})."
        )


def _has_constant(values: xr.Dataset, name: str) -> bool:
    return name in values.coords and not values[name].ndim and _texts(np.atleast_1d(values[name].values)) != [""]


def _with_members(values: xr.Dataset, over: Sequence[str], against: xr.Dataset) -> xr.Dataset:
    """Return values with the factors of pairs as dimensions where they are factors of lineages or runs."""
    for name in over:
        is_along_runs = name == "replicate" or factors_of(values).get(name) == "run"
        dim = "run" if is_along_runs else "lineage"
        is_factor = name == "replicate" or (name in values.coords and values[name].dims == (dim,))
        if name not in values.dims and dim in values.dims and is_factor and _has_values(values, name):
            values = arrange_by(values, name)
    if "lineage" in values.dims and not _share(values, against, "lineage"):
        of_lineages = [n for n, of in factors_of(values).items() if of == "lineage" and values[n].dims == ("lineage",)]
        complete = [n for n in of_lineages if not np.isin(text_values(values[n].values).astype(str), ("", "nan")).any()]
        if complete:
            values = arrange_by(
                values,
                next(
                    (n for n in complete if len(np.unique(text_values(values[n].values).astype(str))) > 1), complete[0]
                ),
            )
    return values


def _has_values(values: xr.Dataset, name: str) -> bool:
    return name == "replicate" or bool((~np.isin(text_values(values[name].values).astype(str), ("", "nan"))).any())


def _share(one: xr.Dataset, other: xr.Dataset, dim: str) -> bool:
    """Return whether two sides have a label of a dimension in common; True where one has only one label at all."""
    if dim not in one.dims or dim not in other.coords:
        return True
    return bool(np.isin(one[dim].values, np.atleast_1d(other[dim].values)).any())


def _with_common_runs(a: xr.Dataset, b: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both sides with common labels of runs.

    Labels that are equal stay. Otherwise, several labels on both sides are replaced by the factors in which the sides
    do not differ.
    """
    if "run" not in a.dims or "run" not in b.dims or _share(a, b, "run") or 1 in (a.sizes["run"], b.sizes["run"]):
        return a, b
    columns = {
        n: (_texts_of_runs(a, n), _texts_of_runs(b, n))
        for n, of in factors_of(a).items()
        if of == "run" and factors_of(b).get(n) == "run" and {*a[n].dims, *b[n].dims} <= {"run"}
    }
    columns = {n: (x, y) for n, (x, y) in columns.items() if not (len({*x}) == len({*y}) == 1 and x[0] != y[0])}
    varying = [n for n, (x, y) in columns.items() if len({*x, *y}) > 1]
    keys = [list(zip(*(columns[n][k] for n in varying), strict=True)) for k in (0, 1)]
    if not varying or any(len(set(k)) < len(k) for k in keys) or not set(keys[0]) & set(keys[1]):
        raise SelectionError(
            f"the sides have no label of runs in common ({list_names(map(str, a.run.values), 3)}; "
            f"{list_names(map(str, b.run.values), 3)}), and their factors do not make pairs of labels either. Make "
            "dimensions of the factors before selecting the sides, such as swept = ds.dde.sweep('learning_rate', "
            "'epochs') and swept.sel(learning_rate=...), or compare a single label."
        )
    sides = []
    for side, key in zip((a, b), keys, strict=True):
        if len(varying) == 1 and side[varying[0]].dims == ("run",):
            renamed = side.drop_vars("run").swap_dims(run=varying[0])
        else:
            labels = np.array([", ".join(f"{n}={v}" for n, v in zip(varying, k, strict=True)) for k in key], object)
            renamed = side.assign_coords(run=("run", labels))
        sides.append(renamed)
    return sides[0], sides[1]


def _texts_of_runs(values: xr.Dataset, name: str) -> list[str]:
    texts = _texts(np.atleast_1d(values[name].values))
    return texts if values[name].dims else texts * values.sizes["run"]


def _texts(values: npt.NDArray[Any]) -> list[str]:
    return ["" if v != v or v is None else f"{v:.12g}" if isinstance(v, float) else str(v) for v in values.tolist()]


def _with_dims(values: xr.Dataset, members: Sequence[str]) -> xr.Dataset:
    for name in members:
        if name not in values.dims:
            # A side without the factor has one member, which makes no pair with any other.
            label = values[name].item() if name in values.coords and not values[name].ndim else np.nan
            values = values.drop_vars(name, errors="ignore").expand_dims({name: [label]})
    return values


def _without_single_labels(a: xr.Dataset, b: xr.Dataset, members: Sequence[str]) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both sides without dimensions of a single label that the other side does not have.

    Such a side is compared with every label of the other one.
    """
    for dim in (str(d) for d in a.dims if d in b.dims and d not in (*members, *AXES, "metric")):
        if not _share(a, b, dim):
            a, b = (side.isel({dim: 0}) if side.sizes[dim] == 1 else side for side in (a, b))
    return a, b


def _check_labels(a: xr.Dataset, b: xr.Dataset, members: Sequence[str]) -> None:
    """Raise where two sides have a dimension in common but no label of it, and where one lacks a factor altogether."""
    for one, other, name in ((a, b, "b"), (b, a, "a")):
        for dim in map(str, one.dims):
            if dim not in (*members, *AXES, "metric") and one.sizes[dim] > 1 and dim not in other.coords:
                raise SelectionError(
                    f"side {name} has no coordinate {dim}, so which of the {one.sizes[dim]} labels of the other side "
                    f"its runs belong to is unknown. Select a single {dim}, or keep the coordinates that "
                    "dde.open_lineages() gives."
                )
    for dim in (str(d) for d in a.dims if d in b.dims and d not in members):
        if np.isin(a[dim].values, b[dim].values).any():
            continue
        if dim in AXES:
            raise SelectionError(
                f"no point of {dim} was observed on both sides, so there is no place where they can be compared: "
                "values between observations are not compared. Compare them at one place: at='last', at='schedule' "
                "or a number of tokens."
            )
        raise SelectionError(
            f"the sides have no {dim} in common ({list_names(map(str, a[dim].values), 3)}; "
            f"{list_names(map(str, b[dim].values), 3)}), so there is nothing to compare. Select a single {dim} on one "
            "side to compare it with every one of the other, or name the factors whose values are repetitions on both "
            "sides, over which means are compared: over=..."
        )


def _aligned(a: xr.Dataset, b: xr.Dataset, exclude: Sequence[str] = ()) -> tuple[xr.Dataset, xr.Dataset]:
    one, other = xr.align(a, b, join="inner", exclude=set(exclude), copy=False)
    return one, other


def _differing_facts(a: xr.Dataset, b: xr.Dataset, members: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the factors that are constant on a side and differ between the sides, with both values.

    The value is "" on a side each of whose labels is compared with the single one of the other side.
    """
    facts = {}
    for name in dict.fromkeys(("lineage", "run", *factors_of(a), *factors_of(b))):
        if name in members or name not in a.coords or name not in b.coords:
            continue
        one, other = ({v for v in _texts(np.atleast_1d(side[name].values).ravel()) if v} for side in (a, b))
        if one != other and 1 in (len(one), len(other)) and (len(one) == len(other) or name in {*a.dims} ^ {*b.dims}):
            facts[name] = (one.pop() if len(one) == 1 else "", other.pop() if len(other) == 1 else "")
    return facts


def _without_counterpart(
    before: xr.Dataset, after: xr.Dataset, other: xr.Dataset, members: Sequence[str], paired: bool
) -> str:
    """Return a text that counts and names the runs of a side that have values and enter no difference."""
    if "run_id" not in before.coords or "run_id" not in after.coords:
        return ""
    there = other.value.notnull()
    enters = after.value.notnull() & (there if paired else there.any(members))
    used = set(_ids_where(after, enters))
    lost = [t for t in dict.fromkeys(_ids_where(before, before.value.notnull())) if t not in used]
    return f"no counterpart: {len(lost)} ({list_names(lost, 3)})" if lost else ""


def _ids_where(values: xr.Dataset, where: xr.DataArray) -> list[str]:
    ids = values.run_id
    some = where.any([d for d in where.dims if d not in ids.dims]).transpose(*ids.dims)
    return [t for t in _texts(np.atleast_1d(ids.values[some.values])) if t]


def side_label(facts: Mapping[str, tuple[str, str]], side: int) -> str:
    """Return the name of a side by the factors in which it differs from the other one; "a" or "b" without any.

    Examples
    --------
    >>> side_label({"data": ("C4", "Dolma1.7"), "run": ("pretraining", "pretraining#2")}, 1)
    'data=Dolma1.7'
    """
    factors = {n: v for n, v in facts.items() if n not in ("lineage", "run")}
    named = factors or dict(facts)
    texts = [f"{n}={without_replicate(v[side])}" if v[side] else f"each {n}" for n, v in named.items()]
    return ", ".join(texts) or "ab"[side]
