"""Groups of lineages and runs to average, and the labels of their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.dataset.dimensions import text_values
from dde.dataset.naming import mean_over_seeds_label
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.schema import LINEAGE_COORDINATES, RUN_COORDINATES, factors_of, is_datadecide, without_replicate

__all__ = ["OF_MEMBERS", "Group", "groups_of", "groups_of_runs"]

#: Coordinates that a mean over a factor does not have, where they are more than the factor itself.
OF_MEMBERS = {"seed": ("seed", "seed_name")}

# Coordinates of DataDecide in which members of a mean must agree.
_COMMON = {
    "seed": tuple(n for n in LINEAGE_COORDINATES if n not in OF_MEMBERS["seed"]),
    "replicate": tuple(n for n in RUN_COORDINATES if n != "replicate"),
}
# Remedies where the dimension of the members is missing.
_HOW_TO_KEEP = {
    "lineage": "Select with a list to keep it: ds.dde.sel(lineage=[...]).",
    "run": "A sweep has replicate where cells hold several runs; else select with a list: ds.dde.sel(run=[...]).",
}


@dataclass(frozen=True)
class Group:
    """Positions along a dimension that are averaged together.

    Attributes
    ----------
    over : tuple of str
        Names of the factors that members differ in.
    dim : str
    index : (group, member) int64 array
        Positions; -1 where a group has fewer members.
    labels : (group,) object array of str
    is_dropped : bool
        Whether the dimension is dropped, as one of a sweep is.
    """

    over: tuple[str, ...]
    dim: str
    index: npt.NDArray[np.int64]
    labels: npt.NDArray[Any]
    is_dropped: bool = False


def groups_of(dataset: xr.Dataset, over: Sequence[str]) -> list[Group]:
    """Return the groups to average along each dimension: of a sweep, of lineages and of runs.

    Parameters
    ----------
    dataset : xarray.Dataset
    over : sequence of str
        Each once. A factor that differs between runs of one label is allowed only together with others.

    Raises
    ------
    UnknownNameError
        When a name is neither a factor nor a dimension of a sweep.
    SelectionError
        When the Dataset does not have the dimension or a coordinate, or holds a lineage or run twice.
    """
    factors = factors_of(dataset)
    swept: set[str] = set()
    along: dict[str, list[str]] = {}
    excused: list[str] = []
    for name in over:
        if name in dataset.dims and (name == "replicate" or name == "seed" or name in factors):
            swept.add(name)
            along[name] = [name]
        elif factors.get(name) == "cell" and not is_datadecide(dataset):
            # Members may differ in it, but it does not define them.
            excused.append(name)
        else:
            along.setdefault(_dimension_of(dataset, name, factors), []).append(name)
    if excused and not along:
        raise SelectionError(
            f"{excused[0]} differs between runs of one label, so there are no labels to average over it. "
            f"Make a dimension of it first: ds.dde.sweep({excused[0]!r}).dde.mean_over({excused[0]!r})."
        )
    groups = [
        _swept_group(dataset, dim) if dim in swept else _group(dataset, dim, tuple(names))
        for dim, names in along.items()
    ]
    return [*groups[:-1], replace(groups[-1], over=(*groups[-1].over, *excused))] if groups else groups


def _swept_group(dataset: xr.Dataset, dim: str) -> Group:
    """Return all positions of a dimension of a sweep as one group."""
    return Group((dim,), dim, np.arange(dataset.sizes[dim])[None, :], np.array([""], object), is_dropped=True)


def _dimension_of(dataset: xr.Dataset, name: str, factors: dict[str, Any]) -> str:
    """Return the dimension whose labels a factor distinguishes."""
    if is_datadecide(dataset):
        if name not in _COMMON:
            raise UnknownNameError(
                f"{name!r} does not distinguish repetitions, so there is no mean over it.{near_names(name, _COMMON)} "
                "Pass 'seed', 'replicate' or both; dataset.mean(dim) is xarray's own mean, over any dimension."
            )
        return "lineage" if name == "seed" else "run"
    if name == "replicate":
        return "run"
    if name not in factors:
        known = list(dict.fromkeys([*factors, "replicate"]))
        raise UnknownNameError(
            f"{name!r} is not a factor of the suite, so there is no mean over it.{near_names(name, known)} "
            f"There are {', '.join(known)}; dataset.mean(dim) is xarray's own mean, over any dimension."
        )
    return str(factors[name])


def _group(dataset: xr.Dataset, dim: str, over: tuple[str, ...]) -> Group:
    """Return the groups of lineages or runs that differ only in some factors.

    Raises
    ------
    SelectionError
    """
    words = " and ".join(over)
    if dim not in dataset.dims or dim not in dataset.coords:
        raise SelectionError(
            f"the Dataset has no dimension {dim} with its labels, so there is nothing to average over {words}. "
            f"{_HOW_TO_KEEP[dim]}"
        )
    if not dataset.sizes[dim]:
        raise SelectionError(f"the Dataset holds no {dim}, so there is nothing to average over {words}. Select some.")
    labels = _labels_of(dataset, dim)
    if is_datadecide(dataset):
        keys, names = _of_datadecide(dataset, dim, over[0], labels)
    elif dim == "lineage":
        keys, names = _by_factors(dataset, over, labels)
    else:
        keys, names = _by_treatment(dataset, over, labels)
    index, mean_labels = _indexed(keys, names)
    return Group(over, dim, index, mean_labels)


def groups_of_runs(dataset: xr.Dataset, over: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return the runs that agree in all factors but one, whether or not that factor makes them repetitions.

    Parameters
    ----------
    dataset : xarray.Dataset
        With the dimension ``run`` and its labels.
    over : str
        A factor of runs, or ``replicate``.

    Returns
    -------
    (group, member) int64 array
        Positions along ``run``, repetitions among them; -1 where a group has fewer members.
    (group,) object array of str
        Labels of the treatments without the factor.

    Raises
    ------
    SelectionError
        When the Dataset holds a run label twice.
    """
    labels = _labels_of(dataset, "run")
    return _indexed(*_by_treatment(dataset, tuple(dict.fromkeys((over, "replicate"))), labels))


def _labels_of(dataset: xr.Dataset, dim: str) -> list[str]:
    """Return the labels of a dimension, each once.

    Raises
    ------
    SelectionError
    """
    labels = [str(v) for v in dataset[dim].values]
    if twice := sorted({v for v in labels if labels.count(v) > 1}) if len(set(labels)) < len(labels) else []:
        raise SelectionError(
            f"the Dataset holds the {dim} {twice[0]!r} {labels.count(twice[0])} times, so a mean would count the same "
            f"runs several times. Keep each once: ds.drop_duplicates({dim!r})."
        )
    return labels


def _indexed(keys: Sequence[tuple[str, ...]], names: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return the positions of equal keys, group by group, and a distinct label of each group."""
    members: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(keys):
        members.setdefault(key, []).append(position)
    index = np.full((len(members), max(map(len, members.values()), default=0)), -1)
    for k, positions in enumerate(members.values()):
        index[k, : len(positions)] = positions
    labels = np.empty(len(members), object)
    labels[:] = _distinct([names[positions[0]] for positions in members.values()], list(members))
    return index, labels


def _of_datadecide(
    dataset: xr.Dataset, dim: str, over: str, labels: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return, for each label, the key that members of one mean share, and the label of the mean."""
    if missing := [n for n in _COMMON[over] if n not in dataset.coords or dataset[n].dims != (dim,)]:
        raise SelectionError(
            f"the Dataset has no coordinates {', '.join(missing)} along {dim}, so the {dim}s that differ only in "
            f"their {over} are unknown. Keep the coordinates that dde.open_lineages() gives."
        )
    name = without_replicate if over == "replicate" else mean_over_seeds_label
    return _columns(dataset, _COMMON[over]), [name(label) for label in labels]


def _columns(dataset: xr.Dataset, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of coordinates along one dimension as texts, label by label."""
    columns = [text_values(dataset[n].values.astype(object)).tolist() for n in names]
    return [tuple(map(str, key)) for key in zip(*columns, strict=True)]


def _by_factors(
    dataset: xr.Dataset, over: tuple[str, ...], labels: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the key and the label of the mean of each lineage: the factors that are not averaged."""
    others = [n for n, of in factors_of(dataset).items() if of == "lineage" and n not in over and _is_along(dataset, n)]
    if not others:
        return [() for _ in labels], ["all" for _ in labels]
    keys = _columns(dataset, others)
    return keys, ["-".join(filter(None, map(_named, others, key))) or "all" for key in keys]


def _named(factor: str, value: str) -> str:
    """Return a value as a part of a label: text as it is, a number after the name of its factor; "" for no value."""
    if value in ("", "nan"):
        return ""
    try:
        return f"{factor}={float(value):g}"
    except ValueError:
        return value.strip("-_ ")


def _by_treatment(
    dataset: xr.Dataset, over: tuple[str, ...], labels: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the key and the label of the mean of each run: its own factors, and the label of its parents' mean.

    Repetitions of a treatment share its label. The label of a mean over another factor consists of the label of the
    parents' mean, the type of the run and the remaining factors.
    """
    factors = [n for n, of in factors_of(dataset).items() if of == "run" and _is_along(dataset, n)]
    others = [n for n in factors if n not in over and n != "run_type"]
    own = _columns(dataset, others) if others else [() for _ in labels]
    types = _columns(dataset, ["run_type"]) if _is_along(dataset, "run_type") else [("run",)] * len(labels)
    plain = [without_replicate(label) for label in labels]
    averaged = [n for n in over if n in factors]
    has_averaged = [any(v not in ("", "nan") for v in key) for key in _columns(dataset, averaged)] if averaged else []
    varying = [k for k in range(len(others)) if len({key[k] for key in own}) > 1]
    one_type = len(set(types)) == 1 and bool(varying)
    keys: list[tuple[str, ...]] = [()] * len(labels)
    names = [""] * len(labels)
    new_name: dict[str, str] = {}
    # Parents first: their labels are parts of those of their runs.
    for i in sorted(range(len(labels)), key=lambda i: plain[i].count("+")):
        parent, _, _ = plain[i].rpartition("+")
        parent_name = new_name.get(parent, parent)
        replicate = labels[i].removeprefix(plain[i]) if "replicate" not in over else ""
        if averaged and has_averaged[i]:
            keys[i] = (parent_name, *types[i], *own[i], replicate)
            link = "_".join(
                filter(None, [*([] if one_type else types[i]), *(_given(others[k], own[i][k]) for k in varying)])
            )
            names[i] = "+".join(filter(None, (parent_name, link or types[i][0]))) + replicate
        else:
            # A run without the factor is averaged with its own repetitions only.
            own_part = plain[i].removeprefix(f"{parent}+") if parent else plain[i]
            names[i] = "+".join(filter(None, (parent_name, own_part))) + replicate
            keys[i] = (names[i],)
        new_name[plain[i]] = without_replicate(names[i])
    return keys, names


def _given(factor: str, value: str) -> str:
    """Return a factor with its value as a part of the label of runs; "" where it has no value."""
    named = _named(factor, value)
    return named if not named or "=" in named else f"{factor}={named}"


def _is_along(dataset: xr.Dataset, name: str) -> bool:
    """Return whether a factor is a coordinate along one dimension only, and so distinguishes its labels."""
    return name in dataset.coords and dataset[name].ndim == 1 and dataset[name].dims[0] in ("lineage", "run")


def _distinct(names: Sequence[str], keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Return distinct labels of means; equal names are extended by the values that their members share."""
    return [
        name if names.count(name) == 1 else " ".join(filter(None, (name, *key)))
        for name, key in zip(names, keys, strict=True)
    ]
