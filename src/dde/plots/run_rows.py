"""Runs as rows of a table: one value each, with all that is known of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.arrays.combine import with_object_text
from dde.arrays.layout import spread
from dde.plots.colours import is_given
from dde.schema import IDENTITY, sampling_of, without_replicate

__all__ = ["Reduce", "differing", "run_rows", "varies"]

#: What gives each run one value: a Dataset and a metric in, an array over the runs out.
Reduce = Callable[[xr.Dataset, str], xr.DataArray]

# Coordinates that say which run it is, not what was done; and those that follow from others.
_IDENTITY = IDENTITY | {
    "n_params", "seed_name", "recipe_family", "posttraining_method", "lineage",
    "value",
}  # fmt: skip


def run_rows(values: xr.DataArray) -> pd.DataFrame:
    """Return a row for each run, with its coordinates as columns and its value in ``value``.

    Parameters
    ----------
    values : xarray.DataArray
        One value per run; any dimensions of runs, such as ``(lineage, run)`` or those of a sweep.
    """
    values = with_object_text(values.to_dataset(name="value"))["value"]
    sizes = {str(d): n for d, n in values.sizes.items()}
    columns: dict[str, Any] = {"value": np.asarray(values.values, np.float64).ravel()}
    for name, coordinate in values.coords.items():
        if sampling_of(str(name)):
            continue
        columns[str(name)] = spread(coordinate.variable, sizes).ravel()
    rows = pd.DataFrame(columns)
    return rows[rows["run_id"] != ""].reset_index(drop=True)


def varies(values: Iterable[Any]) -> bool:
    """Return whether values differ, taking those that say nothing for one."""
    return len({v if is_given(v) else "" for v in values}) > 1


def differing(groups: Iterable[pd.DataFrame], over: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Return what the runs of a group differ in, other than being repetitions of one treatment.

    Parameters
    ----------
    groups : iterable of DataFrame
        Rows that a picture would show as one.
    over : sequence of str
        Coordinates that they may differ in; ``seed`` allows for lineages that differ in nothing else.

    Returns
    -------
    dict
        Values by coordinate; the label of the run where no coordinate tells them apart.
    """
    found: dict[str, list[Any]] = {}
    for group in groups:
        if len(group) < 2 or not varies(zip(group["lineage"], map(without_replicate, group["run"]), strict=True)):
            continue
        names = [n for n in group.columns if n not in _IDENTITY and not sampling_of(n) and varies(group[n])]
        if not names:
            names = ["run"] if varies(map(without_replicate, group["run"])) else []
        for name in names:
            if name not in over:
                known = found.setdefault(name, [])
                known += [v for v in dict.fromkeys(group[name]) if v not in known and v == v]
    return found
