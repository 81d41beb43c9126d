"""Cells of a metric as arrays (lineage, run, point), and runs as rows of a table with one value each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.concat import with_object_text
from dde.dataset.dimensions import axis_of, broadcast_values
from dde.dataset.provenance import CHECKPOINT_TYPES, support_codes, training_types
from dde.dataset.samples import has_samplings
from dde.errors import SelectionError, warn_caller
from dde.plots.colours import is_given
from dde.plots.times import require_numbers
from dde.schema import IDENTITY, MEMBERS, PRETRAINING, sampling_of, without_replicate

__all__ = [
    "INTERPOLATED",
    "OBSERVED",
    "OUTSIDE",
    "Cells",
    "Kinds",
    "Reduce",
    "differing",
    "kinds_of",
    "rows_of_runs",
    "support_of",
    "varies",
]

Floats = npt.NDArray[np.float64]

#: Support of a cell that has a value, as :func:`dde.dataset.provenance.support` gives it.
OBSERVED, INTERPOLATED = 1, 2
#: Code of cells at which no run was training.
OUTSIDE = 0


@dataclass(frozen=True)
class Cells:
    """A Dataset whose cells are read as arrays (lineage, run, point).

    Attributes
    ----------
    dataset : xarray.Dataset
        Sorted along `axis`, with texts as Python strings.
    sizes : mapping
        Length of ``lineage``, then of the dimensions of runs: ``run``, or the hyperparameters of a sweep.
    axis : str
        Dimension of the points.
    """

    dataset: xr.Dataset
    sizes: Mapping[str, int]
    axis: str

    @classmethod
    def of(cls, dataset: xr.Dataset, metric: str) -> Cells:
        """Return the cells of a metric."""
        if missing := [n for n in ("run_id", "parent_run_id", "branch_tokens") if n not in dataset.coords]:
            raise SelectionError(
                f"the Dataset has no coordinates {', '.join(missing)}, so its curves can't be distinguished. "
                "Keep the coordinates that dde.open_lineages() gives; ds.dde.mean_over('seed') is a mean that does."
            )
        dataset = with_object_text(dataset)
        rule = axis_of(dataset)
        axis = rule.name if rule else "cumulative_tokens"
        if axis in dataset.dims and not dataset.get_index(axis).is_monotonic_increasing:
            # Sorting copies every variable.
            dataset = dataset.sortby(axis)
        runs = [str(d) for d in dataset["run_id"].dims if d != "lineage"] or ["run"]
        sizes = {d: dataset.sizes.get(d, 1) for d in ("lineage", *runs)}
        cells = cls(dataset, sizes, axis)
        cells.check(metric)
        return cells

    def check(self, metric: str) -> None:
        """Raise when a metric has a dimension other than those of runs and points.

        Raises
        ------
        SelectionError
        """
        if others := [str(d) for d in self.dataset[metric].dims if d not in self.sizes and d != self.axis]:
            raise SelectionError(
                f"{metric!r} has the dimension {', '.join(others)} too, which is not a dimension of runs, so several "
                f"values would share a curve. Select one: ds.isel({others[0]}=0), or draw a picture for each."
            )

    @property
    def lineages(self) -> int:
        """Number of lineages."""
        return self.sizes["lineage"]

    @property
    def points(self) -> int:
        """Number of points."""
        return self.dataset.sizes.get(self.axis, 1)

    @property
    def is_own_axis(self) -> bool:
        """Whether points are counted from each run's own branch, so that all but zero are the run's own."""
        return self.axis in AXES and AXES[self.axis].by == "run"

    @cached_property
    def tokens(self) -> Floats:
        """Cumulative tokens of the cells; NaN where unknown."""
        if "cumulative_tokens" not in self.dataset.coords:
            return np.full((self.lineages, self.runs, self.points), np.nan)
        return self.spread_numbers(self.dataset["cumulative_tokens"])

    @property
    def runs(self) -> int:
        """Number of positions for runs in a lineage, including empty ones."""
        return int(np.prod([n for d, n in self.sizes.items() if d != "lineage"]))

    @cached_property
    def kinds(self) -> Kinds:
        """The run type that was training at each cell."""
        return kinds_of(self)

    def spread(self, array: xr.DataArray) -> npt.NDArray[Any]:
        """Return values as (lineage, run, point)."""
        wide = broadcast_values(array.variable, {**self.sizes, self.axis: self.points})
        return wide.reshape(self.lineages, self.runs, self.points)

    def spread_numbers(self, array: xr.DataArray) -> Floats:
        """Return values as (lineage, run, point) in float64; a view where they are so."""
        return self.spread(array).astype(np.float64, copy=False)

    def spread_runs(self, array: xr.DataArray) -> npt.NDArray[Any]:
        """Return values as (lineage, run)."""
        return broadcast_values(array.variable, self.sizes).reshape(self.lineages, self.runs)


def support_of(cells: Cells, metric: str) -> npt.NDArray[np.int8]:
    """Return the support of each cell; a mean is observed where all of its members were observed.

    Raises
    ------
    SourceError, SelectionError
        As raised by :func:`dde.dataset.provenance.support`.

    Warns
    -----
    DdeWarning
        When a variable names no sampling, so that which of its cells were observed is unknown.
    """
    dataset = cells.dataset
    if MEMBERS not in dataset.coords and has_samplings(dataset[metric]):
        array = dataset[metric]
        return cells.spread(xr.DataArray(support_codes(array), dims=array.dims))
    if MEMBERS not in dataset.coords:
        warn_caller(
            f"{metric!r} has no attribute that names its sampling, so which of its cells were observed is unknown: "
            "points are drawn only where a cell has no neighbour to draw a line to. If its cells still come from "
            "one sampling, state it: ds.dde.sampled_as('evaluations')."
        )
        some = np.isfinite(cells.spread(dataset[metric]))
        beside = np.zeros_like(some)
        beside[..., 1:] |= some[..., :-1]
        beside[..., :-1] |= some[..., 1:]
        return np.where(some & ~beside, OBSERVED, INTERPOLATED).astype(np.int8)
    if not {f"{metric}_observed", f"{metric}_count"} <= set(dataset.data_vars):
        # Without these variables the number of observed members is unknown, so no cell is drawn as a point.
        return np.full((cells.lineages, cells.runs, cells.points), INTERPOLATED, np.int8)
    seen, count = cells.spread(dataset[f"{metric}_observed"]), cells.spread(dataset[f"{metric}_count"])
    return np.where((seen == count) & (count > 0), OBSERVED, INTERPOLATED).astype(np.int8)


@dataclass(frozen=True)
class Kinds:
    """The run type that was training at each cell.

    Attributes
    ----------
    codes : (lineage, run, point) int8 array
    words : tuple of str
        Run type of each code.
    of_base : (lineage, run, point) bool array
        Whether the base of the curve was training.
    stages : (lineage, run, point) int16 array
        Position of the training run in the chain of the curve, 0 for the base; -1 where no run was training.
    """

    codes: npt.NDArray[np.int8]
    words: tuple[str, ...]
    of_base: npt.NDArray[np.bool_]
    stages: npt.NDArray[np.int16]


def kinds_of(cells: Cells) -> Kinds:
    """Return the run type that was training at each cell."""
    dataset = cells.dataset
    dims, types, words, stage = training_types(dataset)
    codes: npt.NDArray[np.int8] = cells.spread(xr.DataArray(types, dims=dims)).copy()
    stages: npt.NDArray[np.int16] = cells.spread(xr.DataArray(stage, dims=dims)).copy()
    of_base: npt.NDArray[np.bool_] = stages == 0
    if "root_run_id" in dataset.coords:
        # A merge of runs without a common base is its own root, but not a base.
        run_ids, roots = (cells.spread_runs(dataset[name]) for name in ("run_id", "root_run_id"))
        branches = cells.spread_runs(dataset["branch_tokens"]).astype(np.float64)
        of_base[(run_ids == roots) & np.isfinite(branches)] = False
    if MEMBERS in dataset.coords and "run_type" in dataset.coords:
        # A mean over runs of different chains has no chain; its run type is stated where its runs agree.
        unknown = (cells.spread_runs(dataset["chain"]) == "") & (cells.spread_runs(dataset["run_id"]) != "")
        own_types = cells.spread_runs(dataset["run_type"])
        if words != CHECKPOINT_TYPES:
            words = tuple(dict.fromkeys([*words, *map(str, own_types[unknown]), PRETRAINING, "other"]))
        names = {name: code for code, name in enumerate(words)}
        own = np.vectorize(lambda t: names.get(str(t), len(words) - 1), otypes=[np.int8])(own_types)
        branch = cells.spread_runs(dataset["branch_tokens"]).astype(np.float64)[..., None]
        after = np.isfinite(branch) if cells.is_own_axis else cells.tokens > branch
        after = np.broadcast_to(after, codes.shape)
        types_there = np.where(after, own[..., None], names[PRETRAINING]).astype(np.int8)
        codes[unknown], of_base[unknown] = types_there[unknown], ~after[unknown]
        stages[unknown] = after[unknown]
    return Kinds(codes, words, of_base, stages)


#: Function of a Dataset and a metric that returns one value for each run.
Reduce = Callable[[xr.Dataset, str], xr.DataArray]

# Coordinates that identify a run rather than describe its treatment, and those that follow from others.
_IDENTITY = IDENTITY | {
    "n_params", "seed_name", "recipe_family", "posttraining_method", "lineage",
    "value",
}  # fmt: skip


def rows_of_runs(values: xr.DataArray) -> pd.DataFrame:
    """Return a row for each run, with its coordinates as columns and its value in ``value``.

    Parameters
    ----------
    values : xarray.DataArray
        One value per run; any dimensions of runs, such as ``(lineage, run)`` or those of a sweep.
    """
    values = with_object_text(values.to_dataset(name="value"))["value"]
    sizes = {str(d): n for d, n in values.sizes.items()}
    values = require_numbers(values)
    columns: dict[str, Any] = {"value": np.asarray(values.values, np.float64).ravel()}
    for name, coordinate in values.coords.items():
        if sampling_of(str(name)):
            continue
        columns[str(name)] = broadcast_values(coordinate.variable, sizes).ravel()
    rows = pd.DataFrame(columns)
    return rows[rows["run_id"] != ""].reset_index(drop=True)


def varies(values: Iterable[Any]) -> bool:
    """Return whether values differ; all missing values count as one."""
    return len({v if is_given(v) else "" for v in values}) > 1


def differing(groups: Iterable[pd.DataFrame], over: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Return the coordinates in which runs of a group differ, other than as repetitions of one treatment.

    Parameters
    ----------
    groups : iterable of DataFrame
        Rows that share one cell of a picture.
    over : sequence of str
        Coordinates that they may differ in; ``seed`` allows for lineages that differ in nothing else.

    Returns
    -------
    dict
        Values by coordinate; by ``run`` where only the labels of runs differ.
    """
    differing_values: dict[str, list[Any]] = {}
    for group in groups:
        if len(group) < 2 or not varies(zip(group["lineage"], map(without_replicate, group["run"]), strict=True)):
            continue
        names = [n for n in group.columns if n not in _IDENTITY and not sampling_of(n) and varies(group[n])]
        if not names:
            names = ["run"] if varies(map(without_replicate, group["run"])) else []
        for name in names:
            if name not in over:
                known = differing_values.setdefault(name, [])
                known += [v for v in dict.fromkeys(group[name]) if v not in known and v == v]
    return differing_values
