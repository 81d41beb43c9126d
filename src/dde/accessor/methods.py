"""The accessor ``ds.dde``: operations on Datasets of lineages, each a thin method that calls a plain function.

A method has the docstring of its function, without the parameter that is the object itself. The docstring is copied
when the method is first looked up, because importing all functions takes longer than importing xarray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from dde.accessor.functions import function_of
from dde.accessor.pictures import QUESTIONS, ArrayPictures, DatasetPictures
from dde.accessor.questions import ArrayQuestions, DatasetQuestions

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from dde.curves.alignment import Method
    from dde.curves.grids import TokenGrid
    from dde.curves.statistics import IntervalMethod
    from dde.dataset.finals import At

    Grid = Literal["auto", "union"] | int | npt.ArrayLike | TokenGrid
    Size = tuple[int, int]

__all__ = ["DdeDataArrayAccessor", "DdeDatasetAccessor"]


@xr.register_dataset_accessor("dde")  # type: ignore[no-untyped-call]
class DdeDatasetAccessor(DatasetPictures, DatasetQuestions):
    """Operations on a Dataset of lineages."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._obj = dataset

    def sel(self, **filters: Any) -> xr.Dataset:
        """Return the part of the Dataset where every coordinate matches."""
        selected: xr.Dataset = function_of("sel")(self._obj, **filters)
        return selected

    def align(
        self,
        grid: Grid = "auto",
        interp: Method | None = None,
        *,
        axis: str | None = None,
        max_gap: float | None = None,
        bridge: bool | None = None,
        max_points: int = 1024,
    ) -> xr.Dataset:
        """Return the Dataset on another grid or axis, or interpolated in another way."""
        aligned: xr.Dataset = function_of("align")(
            self._obj, grid, interp, axis=axis, max_gap=max_gap, bridge=bridge, max_points=max_points
        )
        return aligned

    def derive(self, **functions: Callable[[xr.Dataset], xr.DataArray]) -> xr.Dataset:
        """Return the Dataset with new metrics, computed from observations and then interpolated like the others."""
        derived: xr.Dataset = function_of("derive")(self._obj, **functions)
        return derived

    def sweep(self, *names: str) -> xr.Dataset:
        """Return the Dataset with hyperparameters as dimensions in place of ``run``."""
        swept: xr.Dataset = function_of("sweep")(self._obj, *names)
        return swept

    def mean_over(
        self,
        over: str | Iterable[str],
        min_count: int | None = None,
        interval: float | None = 0.95,
        method: IntervalMethod = "auto",
    ) -> xr.Dataset:
        """Return means over seeds, replicates or other factors, with their count, spread and uncertainty."""
        means: xr.Dataset = function_of("mean_over")(self._obj, over, min_count, interval, method)
        return means

    def final(self, metric: str | None = None, at: At | float = "last") -> xr.DataArray:
        """Return the final value of a metric in each run: its own last value, or its value at a common position."""
        finals: xr.DataArray = function_of("final")(self._obj, metric, at)
        return finals

    def base_curves(self) -> xr.Dataset:
        """Return only the curves of the bases."""
        bases: xr.Dataset = function_of("base_curves")(self._obj)
        return bases

    def difference_to_base(self, max_distance: float | None = 0.05) -> xr.Dataset:
        """Return the change of every metric from the base's last observation before the run's chain left it."""
        change: xr.Dataset = function_of("difference_to_base")(self._obj, max_distance)
        return change

    def support(self, metric: str) -> xr.DataArray:
        """Return whether each cell of a metric is observed, interpolated, or outside of the run's observations."""
        from dde.dataset.provenance import metric_named

        codes: xr.DataArray = function_of("support")(self._obj[metric_named(self._obj, metric)])
        return codes

    def observed(self) -> xr.Dataset:
        """Return the observations only: NaN where the run was not sampled."""
        seen: xr.Dataset = function_of("observed")(self._obj)
        return seen

    def sampled_as(self, samplings: str | Sequence[str] | None = None, **by_name: str | Sequence[str]) -> xr.Dataset:
        """Name the samplings of variables whose attribute ``ancillary_variables`` was lost."""
        named: xr.Dataset = function_of("sampled_as")(self._obj, samplings, **by_name)
        return named

    def checkpoint_type(self) -> xr.DataArray:
        """Return the type of the run that was training at each cell."""
        codes: xr.DataArray = function_of("checkpoint_type")(self._obj)
        return codes

    def revision(self) -> xr.Dataset:
        """Return the Hub model, revision and step of each cell that is a pretraining checkpoint."""
        revisions: xr.Dataset = function_of("revision")(self._obj)
        return revisions

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return one row per lineage, run and token, with columns for lineage, run and treatment."""
        if self._obj.attrs.get("answer") in QUESTIONS:
            from dde.analysis.answers import answer_frame

            return answer_frame(self._obj)
        frame: pd.DataFrame = function_of("to_frame")(self._obj, dropna)
        return frame

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write the long table as parquet, a lineage at a time."""
        written: Path = function_of("to_parquet")(self._obj, path, dropna)
        return written


@xr.register_dataarray_accessor("dde")  # type: ignore[no-untyped-call]
class DdeDataArrayAccessor(ArrayPictures, ArrayQuestions):
    """Operations on one metric of a Dataset of lineages, as on a Dataset with only this metric."""

    def __init__(self, array: xr.DataArray) -> None:
        self._obj = array

    @property
    def _name(self) -> str:
        return str(self._obj.name or "value")

    @property
    def _dataset(self) -> DdeDatasetAccessor:
        return DdeDatasetAccessor(self._obj.to_dataset(name=self._obj.name or "value"))

    def _array(self, dataset: xr.Dataset) -> xr.DataArray:
        array = dataset[self._obj.name or "value"]
        return array if self._obj.name else array.rename(None)

    def sel(self, **filters: Any) -> xr.DataArray:
        """Return the part of the array where every coordinate matches."""
        selected: xr.DataArray = function_of("sel")(self._obj, **filters)
        return selected

    def align(
        self,
        grid: Grid = "auto",
        interp: Method | None = None,
        *,
        axis: str | None = None,
        max_gap: float | None = None,
        bridge: bool | None = None,
        max_points: int = 1024,
    ) -> xr.DataArray:
        """Return the array on another grid or axis, or interpolated in another way."""
        return self._array(
            self._dataset.align(grid, interp, axis=axis, max_gap=max_gap, bridge=bridge, max_points=max_points)
        )

    def derive(self, function: Callable[[xr.DataArray], xr.DataArray]) -> xr.DataArray:
        """Return a metric that a function computes from the observations, interpolated like the array itself."""
        return self._array(self._dataset.derive(**{self._name: lambda seen: function(seen[self._name])}))

    def sweep(self, *names: str) -> xr.DataArray:
        """Return the array with hyperparameters as dimensions in place of ``run``."""
        return self._array(self._dataset.sweep(*names))

    def mean_over(
        self,
        over: str | Iterable[str],
        min_count: int | None = None,
        interval: float | None = 0.95,
        method: IntervalMethod = "auto",
    ) -> xr.Dataset:
        """Return means over seeds, replicates or other factors, with their count, spread and uncertainty."""
        return self._dataset.mean_over(over, min_count, interval, method)

    def final(self, at: At | float = "last") -> xr.DataArray:
        """Return the final value of each run: its own last value, or its value at a common position."""
        return self._array(self._dataset.final(self._name, at).to_dataset(name=self._obj.name or "value"))

    def base_curves(self) -> xr.DataArray:
        """Return only the curves of the bases."""
        return self._array(self._dataset.base_curves())

    def difference_to_base(self, max_distance: float | None = 0.05) -> xr.DataArray:
        """Return the change of the metric from the base's last observation before the run's chain left it."""
        return self._array(self._dataset.difference_to_base(max_distance))

    def support(self) -> xr.DataArray:
        """Return whether each cell is observed, interpolated, or outside of the run's observations."""
        codes: xr.DataArray = function_of("support")(self._obj)
        return codes

    def observed(self) -> xr.DataArray:
        """Return the observations only: NaN where the run was not sampled."""
        seen: xr.DataArray = function_of("observed")(self._obj)
        return seen

    def sampled_as(self, samplings: str | Sequence[str]) -> xr.DataArray:
        """Name the samplings of an array whose attribute ``ancillary_variables`` was lost."""
        named: xr.DataArray = function_of("sampled_as")(self._obj, samplings)
        return named

    def checkpoint_type(self) -> xr.DataArray:
        """Return the type of the run that was training at each cell."""
        codes: xr.DataArray = function_of("checkpoint_type")(self._obj)
        return codes

    def revision(self) -> xr.Dataset:
        """Return the Hub model, revision and step of each cell that is a pretraining checkpoint."""
        revisions: xr.Dataset = function_of("revision")(self._obj)
        return revisions

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return one row per lineage, run and token, with columns for lineage, run and treatment."""
        return self._dataset.to_frame(dropna)

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write the long table as parquet, a lineage at a time."""
        return self._dataset.to_parquet(path, dropna)
