"""Runs as rows of a table: one value each, with all that is known of the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dde.arrays.combine import with_object_text
from dde.plots.colours import is_given

__all__ = ["Reduce", "differing", "run_rows", "treatment_of", "varies"]

#: What gives each run one value: a Dataset and a metric in, an array over the runs out.
Reduce = Callable[[xr.Dataset, str], xr.DataArray]

_REPLICATE = re.compile(r"#\d+$")
# Coordinates that say which run it is, not what was done; and those that follow from others.
_IDENTITY = {
    "run", "run_id", "parent_run_id", "replicate", "state", "branch_tokens", "end_tokens", "token_source",
    "parent_evidence", "training_seed", "final_tokens", "final_compute", "n_params", "seed_name", "recipe_family",
    "posttraining_method", "lineage", "value", "n_members",
}  # fmt: skip


def run_rows(values: xr.DataArray) -> pd.DataFrame:
    """Return a row for each run, with its coordinates as columns and its value in ``value``.

    Parameters
    ----------
    values : xarray.DataArray
        One value per run; any dimensions of runs, such as ``(lineage, run)`` or those of a sweep.
    """
    values = with_object_text(values.to_dataset(name="value"))["value"]
    sizes = dict(values.sizes)
    columns: dict[str, Any] = {"value": np.asarray(values.values, np.float64).ravel()}
    for name, coordinate in values.coords.items():
        wide: Any = coordinate.variable.set_dims(sizes)
        columns[str(name)] = np.asarray(wide.transpose(*sizes).values).ravel()
    rows = pd.DataFrame(columns)
    return rows[rows["run_id"] != ""].reset_index(drop=True)


def treatment_of(run: object) -> str:
    """Return the label of a run without the number that tells repetitions apart.

    Examples
    --------
    >>> treatment_of("sft_lr=5e-05_fullx2#2")
    'sft_lr=5e-05_fullx2'
    """
    return _REPLICATE.sub("", str(run))


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
        if len(group) < 2 or not varies(zip(group["lineage"], map(treatment_of, group["run"]), strict=True)):
            continue
        names = [n for n in group.columns if n not in _IDENTITY and varies(group[n])]
        if not names:
            names = ["run"] if varies(map(treatment_of, group["run"])) else []
        for name in names:
            if name not in over:
                known = found.setdefault(name, [])
                known += [v for v in dict.fromkeys(group[name]) if v not in known and v == v]
    return found
