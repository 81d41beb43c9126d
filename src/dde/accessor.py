"""``ds.dde``: what dde adds to xarray's own operations; every method calls a plain function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    import pandas as pd

    from dde.curves.alignment import Method

__all__ = ["DdeDataArrayAccessor", "DdeDatasetAccessor"]


class DdeDatasetAccessor:
    """Operations on a Dataset of lineages."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._obj = dataset

    def sel(self, **wanted: Any) -> xr.Dataset:
        """Select over any coordinates at once; see :func:`dde.arrays.select.select`."""
        from dde.arrays.select import select

        return select(self._obj, **wanted)

    def align(self, grid: object = "auto", interp: Method | None = None, **options: Any) -> xr.Dataset:
        """Put it on another grid or axis, or interpolate in another way; see :func:`dde.arrays.regrid.align`."""
        from dde.arrays.regrid import align

        return align(self._obj, grid, interp, **options)

    def sweep(self, *names: str) -> xr.Dataset:
        """Turn ``run`` into dimensions of hyperparameters; see :func:`dde.arrays.sweep.sweep`."""
        from dde.arrays.sweep import sweep

        return sweep(self._obj, *names)

    def mean_over(
        self, over: str | Sequence[str], min_count: int | None = None, interval: float | None = 0.95
    ) -> xr.Dataset:
        """Return means over seeds or replicates, and their spread; see :func:`dde.arrays.averages.mean_over`."""
        from dde.arrays.averages import mean_over

        return mean_over(self._obj, over, min_count, interval)

    def final(self, metric: str | None = None) -> xr.DataArray:
        """Return what each run ends at; see :func:`dde.arrays.outcomes.final`."""
        from dde.arrays.outcomes import final

        return final(self._obj, metric)

    def base_curves(self) -> xr.Dataset:
        """Return the curves of the bases alone; see :func:`dde.arrays.outcomes.base_curves`."""
        from dde.arrays.outcomes import base_curves

        return base_curves(self._obj)

    def difference_to_base(self) -> xr.Dataset:
        """Return what post-training changed; see :func:`dde.arrays.outcomes.difference_to_base`."""
        from dde.arrays.outcomes import difference_to_base

        return difference_to_base(self._obj)

    def support(self, metric: str) -> xr.DataArray:
        """Return how each cell of a metric is known; see :func:`dde.arrays.provenance.support`."""
        from dde.arrays.provenance import support

        return support(self._obj, metric)

    def checkpoint_type(self) -> xr.DataArray:
        """Return what was training at each cell; see :func:`dde.arrays.provenance.checkpoint_type`."""
        from dde.arrays.provenance import checkpoint_type

        return checkpoint_type(self._obj)

    def revision(self) -> xr.Dataset:
        """Return each cell's checkpoint on the Hub; see :func:`dde.arrays.provenance.revision`."""
        from dde.arrays.provenance import revision

        return revision(self._obj)

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return a long table with the seed's columns; see :func:`dde.arrays.long_table.to_frame`."""
        from dde.arrays.long_table import to_frame

        return to_frame(self._obj, dropna)

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write that table as parquet; see :func:`dde.arrays.long_table.to_parquet`."""
        from dde.arrays.long_table import to_parquet

        return to_parquet(self._obj, path, dropna)

    def plot(self, y: str | Sequence[str] | None = None, x: str | None = None, **options: Any) -> Any:
        """Draw curves, pretraining and post-training joined; see :func:`dde.plots.curves.plot_curves`."""
        from dde.plots.curves import plot_curves

        return plot_curves(self._obj, y, x, **options)

    def plot_heatmap(self, metric: str, x: str | None = None, y: str | None = None, **options: Any) -> Any:
        """Draw a sweep as a heat map of what runs end at; see :func:`dde.plots.heatmap.plot_heatmap`."""
        from dde.plots.heatmap import plot_heatmap

        return plot_heatmap(self._obj, metric, x, y, **options)

    def plot_scaling(self, metric: str, x: Any = "cumulative_compute", **options: Any) -> Any:
        """Draw what runs end at against what they cost; see :func:`dde.plots.scaling.plot_scaling`."""
        from dde.plots.scaling import plot_scaling

        return plot_scaling(self._obj, metric, x, **options)

    def plot_tree(self, metric: str | None = None, **options: Any) -> Any:
        """Draw the tree of each lineage's runs; see :func:`dde.plots.tree.plot_tree`."""
        from dde.plots.tree import plot_tree

        return plot_tree(self._obj, metric, **options)

    def explore(self, **initial: Any) -> Any:
        """Return an application with widgets, picture and table; see :func:`dde.explore.page.explore`."""
        from dde.explore.page import explore

        return explore(self._obj, **initial)


class DdeDataArrayAccessor:
    """Operations on one metric of a Dataset of lineages; each is that of a Dataset with this metric alone."""

    def __init__(self, array: xr.DataArray) -> None:
        self._obj = array

    @property
    def _dataset(self) -> xr.Dataset:
        return self._obj.to_dataset(name=self._obj.name or "value")

    def _array(self, dataset: xr.Dataset) -> xr.DataArray:
        array = dataset[self._obj.name or "value"]
        return array if self._obj.name else array.rename(None)

    def sel(self, **wanted: Any) -> xr.DataArray:
        """Select over any coordinates at once; see :func:`dde.arrays.select.select`."""
        from dde.arrays.select import select

        return select(self._obj, **wanted)

    def align(self, grid: object = "auto", interp: Method | None = None, **options: Any) -> xr.DataArray:
        """Put it on another grid or axis, or interpolate in another way; see :func:`dde.arrays.regrid.align`."""
        return self._array(self._dataset.dde.align(grid, interp, **options))

    def sweep(self, *names: str) -> xr.DataArray:
        """Turn ``run`` into dimensions of hyperparameters; see :func:`dde.arrays.sweep.sweep`."""
        return self._array(self._dataset.dde.sweep(*names))

    def mean_over(
        self, over: str | Sequence[str], min_count: int | None = None, interval: float | None = 0.95
    ) -> xr.Dataset:
        """Return means over seeds or replicates, and their spread; see :func:`dde.arrays.averages.mean_over`."""
        from dde.arrays.averages import mean_over

        return mean_over(self._dataset, over, min_count, interval)

    def final(self) -> xr.DataArray:
        """Return what each run ends at; see :func:`dde.arrays.outcomes.final`."""
        from dde.arrays.outcomes import final

        return final(self._dataset, str(self._obj.name or "value"))

    def base_curves(self) -> xr.DataArray:
        """Return the curves of the bases alone; see :func:`dde.arrays.outcomes.base_curves`."""
        return self._array(self._dataset.dde.base_curves())

    def difference_to_base(self) -> xr.DataArray:
        """Return what post-training changed; see :func:`dde.arrays.outcomes.difference_to_base`."""
        return self._array(self._dataset.dde.difference_to_base())

    def support(self) -> xr.DataArray:
        """Return how each cell is known; see :func:`dde.arrays.provenance.support`."""
        from dde.arrays.provenance import support

        return support(self._obj)

    def checkpoint_type(self) -> xr.DataArray:
        """Return what was training at each cell; see :func:`dde.arrays.provenance.checkpoint_type`."""
        from dde.arrays.provenance import checkpoint_type

        return checkpoint_type(self._obj)

    def revision(self) -> xr.Dataset:
        """Return each cell's checkpoint on the Hub; see :func:`dde.arrays.provenance.revision`."""
        from dde.arrays.provenance import revision

        return revision(self._obj)

    def to_frame(self, dropna: bool = True) -> pd.DataFrame:
        """Return a long table with the seed's columns; see :func:`dde.arrays.long_table.to_frame`."""
        from dde.arrays.long_table import to_frame

        return to_frame(self._dataset, dropna)

    def to_parquet(self, path: str | os.PathLike[str], dropna: bool = True) -> Path:
        """Write that table as parquet; see :func:`dde.arrays.long_table.to_parquet`."""
        from dde.arrays.long_table import to_parquet

        return to_parquet(self._dataset, path, dropna)

    def plot(self, x: str = "cumulative_tokens", **options: Any) -> Any:
        """Draw curves, pretraining and post-training joined; see :func:`dde.plots.curves.plot_curves`."""
        from dde.plots.curves import plot_curves

        return plot_curves(self._dataset, None, x, **options)
