"""The cells of a metric as lineage, run and point; and runs as rows of a table, one value each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from dde.curves.axes import AXES
from dde.dataset.concat import with_object_text
from dde.dataset.dimensions import axis_of, broadcast_values
from dde.dataset.provenance import CHECKPOINT_TYPES, support, training_types
from dde.dataset.samples import has_samplings
from dde.errors import SelectionError, warn_caller
from dde.plots.colours import is_given
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
    "run_rows",
    "support_of",
    "varies",
]

Floats = npt.NDArray[np.float64]

#: Support of a cell that has a value, as :func:`dde.dataset.provenance.support` gives it.
OBSERVED, INTERPOLATED = 1, 2
#: Code of cells that no run was training at.
OUTSIDE = 0


@dataclass(frozen=True)
class Cells:
    """The cells of a metric as (lineage, run, point).

    Attributes
    ----------
    dataset : xarray.Dataset
        Points in order, texts as Python strings.
    sizes : mapping
        Of the lineages, then of the dimensions of runs: ``run``, or the hyperparameters of a sweep.
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
                f"the Dataset lacks the coordinates {', '.join(missing)}, so its curves can't be told apart. "
                "Keep the coordinates that dde.open_lineages() gives; ds.dde.mean_over('seed') is a mean that does."
            )
        dataset = with_object_text(dataset)
        rule = axis_of(dataset)
        axis = rule.name if rule else "cumulative_tokens"
        if axis in dataset.dims:
            dataset = dataset.sortby(axis)
        runs = [str(d) for d in dataset["run_id"].dims if d != "lineage"] or ["run"]
        sizes = {d: dataset.sizes.get(d, 1) for d in ("lineage", *runs)}
        if others := [str(d) for d in dataset[metric].dims if d not in sizes and d != axis]:
            raise SelectionError(
                f"{metric!r} lies along {', '.join(others)} too, which is no dimension of runs, so a curve would "
                f"stand for several. Select one: ds.isel({others[0]}=0), or plot one after the other."
            )
        return cls(dataset, sizes, axis)

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
        """Whether each run's points are counted from its own branch, so that a run's are its own but for zero."""
        return self.axis in AXES and AXES[self.axis].by == "run"

    @property
    def tokens(self) -> Floats:
        """Cumulative tokens of the cells; NaN where they aren't known."""
        if "cumulative_tokens" not in self.dataset.coords:
            return np.full((self.lineages, self.runs, self.points), np.nan)
        return self.spread(self.dataset["cumulative_tokens"].astype(np.float64))

    @property
    def runs(self) -> int:
        """Number of runs of a lineage, cells without one among them."""
        return int(np.prod([n for d, n in self.sizes.items() if d != "lineage"]))

    def spread(self, array: xr.DataArray) -> npt.NDArray[Any]:
        """Return values as (lineage, run, point)."""
        wide = broadcast_values(array.variable, {**self.sizes, self.axis: self.points})
        return wide.reshape(self.lineages, self.runs, self.points)

    def spread_runs(self, array: xr.DataArray) -> npt.NDArray[Any]:
        """Return values as (lineage, run)."""
        return broadcast_values(array.variable, self.sizes).reshape(self.lineages, self.runs)


def support_of(cells: Cells, metric: str) -> npt.NDArray[np.int8]:
    """Return how each cell is known: of a mean, observed where all that it is of were observed.

    Raises
    ------
    SourceError, SelectionError
        As of :func:`dde.dataset.provenance.support`.

    Warns
    -----
    DdeWarning
        When a variable names no sampling, so that which of its cells were observed is unknown.
    """
    dataset = cells.dataset
    if MEMBERS not in dataset.coords and has_samplings(dataset[metric]):
        return cells.spread(support(dataset[metric]))
    if MEMBERS not in dataset.coords:
        warn_caller(
            f"{metric!r} has no attribute that names its sampling, so which of its cells were observed is unknown: "
            "points are drawn where a cell has no neighbour to draw a line to, and nowhere else. If its cells still "
            "are what one sampling saw, say so: ds.dde.sampled_as('evaluations')."
        )
        some = np.isfinite(cells.spread(dataset[metric]))
        beside = np.zeros_like(some)
        beside[..., 1:] |= some[..., :-1]
        beside[..., :-1] |= some[..., 1:]
        return np.where(some & ~beside, OBSERVED, INTERPOLATED).astype(np.int8)
    if not {f"{metric}_observed", f"{metric}_count"} <= set(dataset.data_vars):
        # A mean alone does not say how many of its members were observed: none of its cells is drawn as a point.
        return np.full((cells.lineages, cells.runs, cells.points), INTERPOLATED, np.int8)
    seen, count = cells.spread(dataset[f"{metric}_observed"]), cells.spread(dataset[f"{metric}_count"])
    return np.where((seen == count) & (count > 0), OBSERVED, INTERPOLATED).astype(np.int8)


@dataclass(frozen=True)
class Kinds:
    """What was training.

    Attributes
    ----------
    codes : (lineage, run, point) int8 array
    words : tuple of str
        Type of each code.
    of_base : (lineage, run, point) bool array
        Whether it was the run that the curve begins with.
    """

    codes: npt.NDArray[np.int8]
    words: tuple[str, ...]
    of_base: npt.NDArray[np.bool_]


def kinds_of(cells: Cells) -> Kinds:
    """Return what was training at each cell."""
    dataset = cells.dataset
    dims, types, words, number = training_types(dataset)
    codes: npt.NDArray[np.int8] = cells.spread(xr.DataArray(types, dims=dims)).copy()
    of_base: npt.NDArray[np.bool_] = cells.spread(xr.DataArray(number == 0, dims=dims)).copy()
    if "root_run_id" in dataset.coords:
        # A merge of runs that have nothing in common begins with itself, and yet is no base.
        run_ids, roots = (cells.spread_runs(dataset[name]) for name in ("run_id", "root_run_id"))
        branches = cells.spread_runs(dataset["branch_tokens"]).astype(np.float64)
        of_base[(run_ids == roots) & np.isfinite(branches)] = False
    if MEMBERS in dataset.coords and "run_type" in dataset.coords:
        # A mean of runs of different chains has none; what its runs are themselves, it says where they agree.
        unknown = (cells.spread_runs(dataset["chain"]) == "") & (cells.spread_runs(dataset["run_id"]) != "")
        own_types = cells.spread_runs(dataset["run_type"])
        if words != CHECKPOINT_TYPES:
            words = tuple(dict.fromkeys([*words, *map(str, own_types[unknown]), PRETRAINING, "other"]))
        names = {name: code for code, name in enumerate(words)}
        own = np.vectorize(lambda t: names.get(str(t), len(words) - 1), otypes=[np.int8])(own_types)
        branch = cells.spread_runs(dataset["branch_tokens"]).astype(np.float64)[..., None]
        after = np.isfinite(branch) if cells.is_own_axis else cells.tokens > branch
        after = np.broadcast_to(after, codes.shape)
        found = np.where(after, own[..., None], names[PRETRAINING]).astype(np.int8)
        codes[unknown], of_base[unknown] = found[unknown], ~after[unknown]
    return Kinds(codes, words, of_base)


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
        columns[str(name)] = broadcast_values(coordinate.variable, sizes).ravel()
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
