"""A metric as an array that is read when it is indexed."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dde.arrays.cube import Cube, Sampling
from dde.curves.axes import Lines
from dde.curves.grids import Points
from dde.curves.metric import Metric
from dde.errors import DdeError, SourceError

__all__ = [
    "BlockArray",
    "FlagsArray",
    "MetricArray",
    "SampleNumberArray",
    "TokensArray",
    "is_chunked",
    "is_lazy",
    "lazily",
    "source_of",
]


class BlockArray(BackendArray):
    """An array whose blocks are made when they are asked for; a subclass has `shape`, `dtype` and makes them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the block as a NumPy array."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        try:
            block = self._block(tuple(_positions(k, n) for k, n in zip(key, self.shape, strict=True)))
        except OSError as error:
            # Nothing is read in vain for want of space.
            if isinstance(error, DdeError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # Named here, where it is known to be one of reading: who writes what is read would take it for their own.
            raise SourceError(
                f"values can't be read ({error.strerror or error}), so there are none. Open the Dataset again, and "
                "look at the files or the server that it reads."
            ) from error
        scalar = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return np.asarray(block[scalar])

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        """Return the block at these positions along each dimension."""
        raise NotImplementedError


class _CellsArray(BlockArray):
    """Cells of runs along an axis.

    Parameters
    ----------
    run_ids : object array of str, of any shape
        "" where there is no run.
    points : (point,) int64 or float64 array
        Points of the axis, the array's last dimension.
    lines : Lines, optional
        How tokens follow from points, run by run; points are cumulative tokens when None.
    """

    dtype: np.dtype[Any] = np.dtype(np.float64)

    def __init__(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> None:
        self.run_ids, self.points, self.lines = run_ids, points, lines
        self.shape = (*run_ids.shape, len(points))

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        *cells, last = at
        here = np.ix_(*cells) if cells else ()
        lines = None if self.lines is None else self.lines.index(here)
        return self._make(self.run_ids[here] if cells else self.run_ids, self.points[last], lines)

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        raise NotImplementedError


class MetricArray(_CellsArray):
    """One metric of runs along an axis, such as ``(lineage, run, cumulative_tokens)``; reads what is indexed."""

    def __init__(
        self, cube: Cube, metric: Metric, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None = None
    ) -> None:
        super().__init__(run_ids, points, lines)
        self.cube, self.metric = cube, metric

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        return self.cube.block(self.metric, run_ids, points, lines)


class FlagsArray(_CellsArray):
    """Which cells of runs along an axis are samples: 1, else 0."""

    dtype = np.dtype(np.int8)

    def __init__(
        self,
        cube: Cube,
        sampling: Sampling,
        run_ids: npt.NDArray[np.object_],
        points: Points,
        lines: Lines | None = None,
    ) -> None:
        super().__init__(run_ids, points, lines)
        self.cube, self.sampling = cube, sampling

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        return self.cube.sampled(self.sampling, run_ids, points, lines)


class SampleNumberArray(BlockArray):
    """A number of the samples of runs, known by reading them; see :meth:`dde.arrays.cube.Cube.sample_numbers`.

    Parameters
    ----------
    cube : Cube
    sampling : str or Metric
    number : {"last", "base", "own", "count"}
    run_ids : object array of str, of any shape
    """

    dtype = np.dtype(np.float64)

    def __init__(self, cube: Cube, sampling: Sampling, number: str, run_ids: npt.NDArray[np.object_]) -> None:
        self.cube, self.sampling, self.number, self.run_ids = cube, sampling, number, run_ids
        self.shape = run_ids.shape

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        return self.cube.sample_numbers([self.sampling], self.run_ids[np.ix_(*at)])[0][self.number]


class TokensArray(_CellsArray):
    """Cumulative tokens of runs along an axis on which each has its own; NaN where a run is not on the axis."""

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        assert lines is not None
        return lines.tokens(points)


def lazily(dims: Sequence[str], array: BlockArray, attrs: dict[Any, Any]) -> xr.Variable:
    """Return a variable that is made when it is indexed."""
    # The fast path: else xarray imports dask.array, which takes twice as long as opening, to see that it is none.
    return xr.Variable(tuple(dims), indexing.LazilyIndexedArray(array), attrs, fastpath=True)


def source_of(variable: xr.Variable) -> Any:
    """Return the array that a variable shows, without the wrappers that xarray puts around it."""
    data: Any = variable._data
    while not isinstance(data, (np.ndarray, BackendArray)) and hasattr(data, "array"):
        data = data.array
    return data


def is_lazy(variable: xr.Variable) -> bool:
    """Return whether a variable is made when it is indexed, and is no array of dask's."""
    return isinstance(source_of(variable), BackendArray)


def is_chunked(variable: xr.Variable) -> bool:
    """Return whether a variable is an array of dask's."""
    return hasattr(variable._data, "dask")


def _positions(key: Any, size: int) -> npt.NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(size)[key]
    return np.atleast_1d(np.arange(size)[key])
