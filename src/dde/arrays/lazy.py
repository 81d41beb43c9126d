"""A metric as an array that is read when it is indexed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xarray.backends import BackendArray
from xarray.core import indexing

from dde.arrays.cube import Cube
from dde.names import Metric

__all__ = ["DIMS", "MetricArray"]

#: Dimensions of a Dataset, in order.
DIMS = ("lineage", "run", "cumulative_tokens")


class MetricArray(BackendArray):
    """One metric over ``(lineage, run, cumulative_tokens)``; indexing reads the runs of the block asked for.

    Parameters
    ----------
    cube : Cube
    metric : Metric
    run_ids : (lineage, run) object array of str
    grid : (cumulative_tokens,) int64 array
    """

    def __init__(
        self, cube: Cube, metric: Metric, run_ids: npt.NDArray[np.object_], grid: npt.NDArray[np.int64]
    ) -> None:
        self.cube, self.metric, self.run_ids, self.grid = cube, metric, run_ids, grid
        self.shape = (*run_ids.shape, len(grid))
        self.dtype = np.dtype(np.float64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the block as a NumPy array."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.float64]:
        lineage, run, token = (_positions(k, n) for k, n in zip(key, self.shape, strict=True))
        block = self.cube.block(self.metric, self.run_ids[np.ix_(lineage, run)], self.grid[token])
        scalar = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return np.asarray(block[scalar])


def _positions(key: Any, size: int) -> npt.NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(size)[key]
    return np.atleast_1d(np.arange(size)[key])
