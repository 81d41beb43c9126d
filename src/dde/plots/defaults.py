"""Defaults of pictures: colours, facets and lines that follow from the factors of the suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.dataset.dimensions import broadcast_values, run_ids_along, text_values
from dde.dataset.naming import title_of
from dde.errors import UnknownNameError, near_names
from dde.plots.axis_format import axis_label
from dde.plots.colours import facets_of, is_given, is_number
from dde.plots.picture_options import NO_OPTIONS, PictureOptions
from dde.schema import FactorOf, factor_of, factors_of, is_datadecide

__all__ = [
    "AUTO",
    "band_factors",
    "check_names",
    "default_hue",
    "facet_title",
    "heatmap_coordinates",
    "hue_label",
    "known_labels",
    "line_factors",
    "ordered_facets",
    "position_of_finals",
    "run_coordinates",
    "scaling_hue",
    "task_of",
    "varying_factors",
]


def check_names(arguments: Mapping[str, str | None], known: Iterable[str], why: str) -> None:
    """Raise when the value of an argument, given by its name, is neither a known coordinate nor None.

    Raises
    ------
    UnknownNameError
    """
    known = list(dict.fromkeys(known))
    for argument, name in arguments.items():
        if name is not None and name not in known:
            raise UnknownNameError(
                f"{argument}={name!r} is {why}.{near_names(name, known)} There are {', '.join(known)}."
            )


def run_coordinates(dataset: xr.Dataset) -> list[str]:
    """Return the names of the coordinates of runs."""
    return [str(n) for n, c in dataset.coords.items() if set(c.dims) <= set(dataset["run_id"].dims)]


def facet_title(
    facts: Iterable[Mapping[Any, Any]],
    facet_by: str | None,
    facet: object,
    options: PictureOptions = NO_OPTIONS,
) -> str:
    """Return the title of the panels of one value of a facet, from the coordinates of its runs."""
    if facet_by not in (None, "lineage"):
        name = options.label(facet_by, str(facet_by).replace("_", " "))
        return f"{name}: {options.label(facet) if is_given(facet) else 'none'}"
    lineages = {str(f["lineage"]): f for f in facts}
    if len(lineages) != 1:
        return f"{len(lineages)} lineages"
    [(lineage, found)] = lineages.items()
    title = title_of(found)
    # The title of a lineage has its values, which may have labels.
    for value, label in options.names(v for v in found.values() if isinstance(v, str)).items():
        as_is = label.replace("\\", r"\\")
        title = re.sub(rf"(?<![\w.-]){re.escape(value)}(?![\w.-])", as_is, title)
    return options.label(lineage, title)


def ordered_facets(values: Sequence[Any], facet_by: str | None, with_none: bool, options: PictureOptions) -> list[Any]:
    """Return the values of a facet in the order of the options, "" last where some have none; [None] for no facets.

    Examples
    --------
    >>> ordered_facets(["b", "a", ""], "data", True, PictureOptions(order={"data": ["a", "b"]}))
    ['a', 'b', '']
    >>> ordered_facets([], None, True, PictureOptions())
    [None]
    """
    facets = facets_of(values, with_none) if facet_by else []
    without = [v for v in facets if not is_given(v)]
    return [*options.ordered(facet_by, facets), *without] or [None]


def hue_label(dataset: xr.Dataset, hue_by: str | None, options: PictureOptions) -> str:
    """Return the title of the legend: the label of the hue."""
    if not hue_by:
        return ""
    return options.label(hue_by, axis_label(dataset[hue_by]) if hue_by in dataset.coords else hue_by.replace("_", " "))


def known_labels(dataset: xr.Dataset, names: Iterable[str], coordinates: Iterable[str | None]) -> list[Any]:
    """Return what a label in a picture may be of: some names, all coordinates, and the values of those shown.

    Parameters
    ----------
    dataset : xarray.Dataset
    names : iterable of str
        Metrics and axes.
    coordinates : iterable of str
        Coordinates of hue, style, facets and categories. Titles of lineages have the values of their factors.
    """
    shown = [*filter(None, coordinates), "lineage", *factors_of(dataset)]
    known: list[Any] = [*names, *map(str, dataset.coords), *map(str, dataset.data_vars), "checkpoint_type"]
    for name in dict.fromkeys(shown):
        if name in dataset.coords:
            known += pd.unique(np.ravel(dataset[name].values)).tolist()
    return known


def task_of(array: xr.DataArray) -> tuple[str, str]:
    """Return the task of a metric, for a title, and its measure, for an axis label.

    Examples
    --------
    >>> task_of(xr.DataArray(0, attrs={"long_name": "ARC-Easy, primary metric", "task": "arc_easy"}))
    ('ARC-Easy', 'primary metric')
    >>> task_of(xr.DataArray(0, attrs={"long_name": "training loss", "units": "nats"}))
    ('training loss', 'nats')
    """
    name, units = str(array.attrs.get("long_name", array.name)), str(array.attrs.get("units", ""))
    task, _, measure = name.partition(", ")
    return task, measure or (units if units != "1" else "")


#: Requests the default that follows from the suite.
AUTO = "auto"


def varying_factors(dataset: xr.Dataset, of: Sequence[FactorOf] = ("run", "cell"), share: float = 0.0) -> list[str]:
    """Return the factors other than the run type in which runs of a Dataset differ, in the order of its coordinates.

    Parameters
    ----------
    dataset : xarray.Dataset
    of : sequence of {"lineage", "run", "cell"}
    share : float
        Minimum share of the runs that must have a value.
    """
    varying = []
    for name, kind in factors_of(dataset).items():
        if kind not in of or name == "run_type":
            continue
        values = _of_runs(dataset, name)
        given = [v for v in values.tolist() if is_given(v)]
        if len(set(given)) > 1 and len(given) >= share * len(values):
            varying.append(name)
    return varying


def _of_runs(dataset: xr.Dataset, name: str) -> npt.NDArray[Any]:
    """Return a coordinate of each run in the Dataset; empty when it has dimensions other than those of runs."""
    dims = tuple(map(str, dataset["run_id"].dims))
    if not set(map(str, dataset[name].dims)) <= set(dims):
        return np.empty(0, object)
    sizes = {d: dataset.sizes[d] for d in dims}
    values = broadcast_values(dataset[name].variable, sizes)
    return np.asarray(values[run_ids_along(dataset, dims) != ""])


def default_hue(dataset: xr.Dataset, hue_by: str | None = AUTO) -> str | None:
    """Return the coordinate that gives curves their colour: in DataDecide, the learning rate.

    In other suites, it is the first factor in which runs differ and which at least half of them have, else the label
    of the run, or none when there is one label only.
    """
    if hue_by != AUTO:
        return hue_by
    if is_datadecide(dataset):
        return "learning_rate"
    if "run_id" not in dataset.coords:
        return None
    swept = {str(d) for d in dataset["run_id"].dims}
    candidates = [n for n in varying_factors(dataset, share=0.5) if n in swept or factor_of(dataset, n) == "run"]
    if candidates:
        return candidates[0]
    return "run" if "run" in dataset.coords and dataset["run"].size > 1 else None


def scaling_hue(dataset: xr.Dataset, hue_by: str | None = AUTO) -> str | None:
    """Return the coordinate that gives final values their colour: in DataDecide the recipe, else that of curves."""
    if hue_by == AUTO and is_datadecide(dataset):
        return "data"
    return default_hue(dataset, hue_by)


def heatmap_coordinates(dataset: xr.Dataset) -> list[str]:
    """Return coordinates for the axes of a heat map, most suitable first: dimensions of a sweep, then factors."""
    swept = [str(d) for d in dataset["run_id"].dims if d not in ("lineage", "run", "replicate")]
    if is_datadecide(dataset):
        return [*swept, "learning_rate", "finetune_tokens"]
    of_runs = varying_factors(dataset, ("run",))
    # Factors with a natural order come first.
    of_runs.sort(key=lambda n: not all(is_number(v) for v in _of_runs(dataset, n).tolist() if is_given(v)))
    labels = [n for n in ("run", "lineage") if n in dataset.coords]
    others = [*varying_factors(dataset, ("lineage",)), *labels, *varying_factors(dataset, ("cell",))]
    return list(dict.fromkeys([*swept, *of_runs, *others]))


def position_of_finals(dataset: xr.Dataset, at: Any) -> Any:
    """Return the position of final values: the end of schedules where any is known, else the last samples."""
    if at != AUTO or is_datadecide(dataset):
        return "schedule" if isinstance(at, str) and at == AUTO else at
    known = "schedule_tokens" in dataset.coords and bool(dataset["schedule_tokens"].notnull().any())
    return "schedule" if known else "last"


def band_factors(dataset: xr.Dataset, band: str | None) -> list[str]:
    """Return the factors of lineages over which final values are averaged: the seed when "auto"."""
    if band is None:
        return []
    return ["seed"] if band == AUTO else [band]


def line_factors(dataset: xr.Dataset, over: Sequence[str]) -> list[str]:
    """Return the factors of lineages with a line for each value: all but `over` and those that set the size."""
    if is_datadecide(dataset):
        return ["data"] if over else ["data", "seed"]
    lineages = [n for n, of in factors_of(dataset).items() if of == "lineage"]
    sizes = _size_factors(dataset, lineages)
    return [n for n in lineages if n not in over and n not in sizes]


def _size_factors(dataset: xr.Dataset, names: Sequence[str]) -> set[str]:
    """Return the factors among `names` that determine the parameter count."""
    if "n_params" not in dataset.coords:
        return set()
    counts = _of_runs(dataset, "n_params").astype(np.float64).tolist()
    columns = {n: text_values(_of_runs(dataset, n).astype(object)).tolist() for n in names}
    determining = set()
    for name in names:
        others = [columns[n] for n in names if n != name]
        by_others: dict[Any, dict[str, set[float]]] = {}
        by_value: dict[str, set[float]] = {}
        for k, count in enumerate(counts):
            value = str(columns[name][k])
            by_others.setdefault(tuple(c[k] for c in others), {}).setdefault(value, set()).add(count)
            by_value.setdefault(value, set()).add(count)
        changes = any(len(set().union(*values.values())) > 1 and len(values) > 1 for values in by_others.values())
        determines = all(len(c) == 1 for c in by_value.values()) and len(set().union(*by_value.values())) > 1
        # A factor with a different value for each lineage, such as a number, determines every count by accident.
        if changes or (determines and len(by_value) == len(set(counts))):
            determining.add(name)
    return determining
