"""A metric as an array that is read when it is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dde.arrays.cube import TOKENS, Cube
from dde.curves.axes import AxisRule
from dde.curves.grids import Points
from dde.names import Metric

__all__ = ["DIMS", "BlockArray", "MetricArray", "TokensArray", "lazy_tokens", "lazy_variable"]

#: Dimensions of a Dataset as it is opened, in order.
DIMS = ("lineage", "run", "cumulative_tokens")


class BlockArray(BackendArray):
    """An array whose blocks are made when they are asked for; a subclass has `shape`, `dtype` and makes them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the block as a NumPy array."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        block = self._block(tuple(_positions(k, n) for k, n in zip(key, self.shape, strict=True)))
        scalar = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return np.asarray(block[scalar])

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        """Return the block at these positions along each dimension."""
        raise NotImplementedError


class _CellsArray(BlockArray):
    """Cells of runs along an axis.

    Parameters
    ----------
    cube : Cube
    run_ids : object array of str, of any shape
        "" where there is no run.
    points : (point,) int64 or float64 array
        Places on the axis, the array's last dimension.
    rule : AxisRule
    """

    def __init__(self, cube: Cube, run_ids: npt.NDArray[np.object_], points: Points, rule: AxisRule) -> None:
        self.cube, self.run_ids, self.points, self.rule = cube, run_ids, points, rule
        self.shape = (*run_ids.shape, len(points))
        self.dtype = np.dtype(np.float64)

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        *cells, last = at
        return self._make(self.run_ids[np.ix_(*cells)] if cells else self.run_ids, self.points[last])

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points) -> npt.NDArray[Any]:
        raise NotImplementedError


class MetricArray(_CellsArray):
    """One metric of runs along an axis, such as ``(lineage, run, cumulative_tokens)``; reads what is indexed."""

    def __init__(
        self, cube: Cube, metric: Metric, run_ids: npt.NDArray[np.object_], points: Points, rule: AxisRule = TOKENS
    ) -> None:
        super().__init__(cube, run_ids, points, rule)
        self.metric = metric

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points) -> npt.NDArray[np.float64]:
        return self.cube.block(self.metric, run_ids, points, self.rule)


class TokensArray(_CellsArray):
    """Cumulative tokens of runs along an axis on which each has its own; NaN where a run is not on the axis."""

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points) -> npt.NDArray[np.float64]:
        return self.cube.tokens(run_ids, points, self.rule)


def lazy_variable(
    cube: Cube,
    metric: Metric,
    run_ids: npt.NDArray[np.object_],
    points: Points,
    attrs: dict[Any, Any],
    rule: AxisRule = TOKENS,
    cells: Sequence[str] = DIMS[:2],
) -> xr.Variable:
    """Return a metric over the dimensions `cells` and the axis, which is read when it is asked for."""
    array = MetricArray(cube, metric, run_ids, points, rule)
    return xr.Variable((*cells, rule.name), indexing.LazilyIndexedArray(array), attrs)


def lazy_tokens(
    cube: Cube, run_ids: npt.NDArray[np.object_], points: Points, rule: AxisRule, cells: Sequence[str]
) -> xr.Variable:
    """Return the cumulative tokens of cells along an axis on which each run has its own."""
    array = TokensArray(cube, run_ids, points, rule)
    return xr.Variable((*cells, rule.name), indexing.LazilyIndexedArray(array), TOKENS.attrs)


def _positions(key: Any, size: int) -> npt.NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(size)[key]
    return np.atleast_1d(np.arange(size)[key])
