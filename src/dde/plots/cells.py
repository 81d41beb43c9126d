"""The cells of a metric as lineage, run and point, whatever dimensions its Dataset has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from dde.arrays.averages import AVERAGED_OVER
from dde.arrays.combine import with_object_text
from dde.arrays.layout import axis_of, spread
from dde.arrays.provenance import CHECKPOINT_TYPES, checkpoint_type, support
from dde.curves.alignment import INTERPOLATED, OBSERVED
from dde.curves.axes import AXES
from dde.errors import SelectionError, SourceError
from dde.relations.treatments import PRETRAINING

__all__ = ["BASE", "INTERPOLATED", "OBSERVED", "OUTSIDE", "Cells", "kinds_of", "support_of"]

Floats = npt.NDArray[np.float64]

#: Codes of what was training.
OUTSIDE, BASE = 0, CHECKPOINT_TYPES.index(PRETRAINING)


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
            return np.full((self.lineages, self._runs, self.points), np.nan)
        return self.spread(self.dataset["cumulative_tokens"].astype(np.float64))

    @property
    def _runs(self) -> int:
        return int(np.prod([n for d, n in self.sizes.items() if d != "lineage"]))

    def spread(self, array: xr.DataArray) -> npt.NDArray[Any]:
        """Return values as (lineage, run, point)."""
        wide = spread(array.variable, {**self.sizes, self.axis: self.points})
        return wide.reshape(self.lineages, self._runs, self.points)

    def spread_runs(self, array: xr.DataArray) -> npt.NDArray[Any]:
        """Return values as (lineage, run)."""
        return spread(array.variable, self.sizes).reshape(self.lineages, self._runs)


def support_of(cells: Cells, metric: str) -> npt.NDArray[np.int8]:
    """Return how each cell is known: of a mean, observed where all that it is of were observed."""
    dataset = cells.dataset
    if {f"{metric}_observed", f"{metric}_count"} <= set(dataset.data_vars) and AVERAGED_OVER in dataset.attrs:
        seen, count = cells.spread(dataset[f"{metric}_observed"]), cells.spread(dataset[f"{metric}_count"])
        return np.where((seen == count) & (count > 0), OBSERVED, INTERPOLATED).astype(np.int8)
    try:
        return cells.spread(support(dataset, metric))
    except SourceError:
        # Saved and opened again, so which cells were observed is not known any more; one without neighbours was.
        some = np.isfinite(cells.spread(dataset[metric]))
        beside = np.zeros_like(some)
        beside[..., 1:] |= some[..., :-1]
        beside[..., :-1] |= some[..., 1:]
        return np.where(some & ~beside, OBSERVED, INTERPOLATED).astype(np.int8)


def kinds_of(cells: Cells) -> npt.NDArray[np.int8]:
    """Return codes into CHECKPOINT_TYPES."""
    dataset = cells.dataset
    try:
        return cells.spread(checkpoint_type(dataset))
    except SourceError:
        codes = {name: code for code, name in enumerate(CHECKPOINT_TYPES)}
        own = np.vectorize(lambda t: codes.get(str(t), len(codes) - 1), otypes=[np.int8])(
            cells.spread_runs(dataset["run_type"])
        )[..., None]
        branch = cells.spread_runs(dataset["branch_tokens"]).astype(np.float64)[..., None]
        after = np.isfinite(branch) if cells.is_own_axis else cells.tokens > branch
        return np.where(np.broadcast_to(after, cells.tokens.shape), own, BASE).astype(np.int8)
