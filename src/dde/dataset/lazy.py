"""Metrics as lazy arrays: compute a block from a suite's runs when it is indexed."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dde.array_types import Float64, Int8, Int64, Texts
from dde.curves.alignment import AlignmentPlan, Interpolation
from dde.curves.axes import Lines, tokens_at
from dde.curves.chains import Chains, CurvePoints, RunSource, points_on_curves
from dde.curves.filling import Curves, mark_points
from dde.curves.grids import Points, order_of
from dde.curves.metric import Metric
from dde.curves.observations import Observations
from dde.errors import DdeError, FormatError, SourceError
from dde.schema import SAMPLED_NUMBERS

__all__ = [
    "BlockArray",
    "BlockReader",
    "FlagsArray",
    "MetricArray",
    "SampleNumberArray",
    "Sampling",
    "TokensArray",
    "is_chunked",
    "is_lazy",
    "lazily",
    "source_of",
]

#: A sampling: the name of one of the tables, or the metric of a log.
Sampling = str | Metric


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a block: their runs with all ancestors, and groups of rows with the same tokens.

    Attributes
    ----------
    chains : Chains
    rows : (row,) int64 array
        Index of each row into `chains`.
    at : (row,) int array
        Row of the block.
    groups : list of (int array, int64 array)
        Positions along `rows`, and the tokens of their points, ascending. Rows without a position on the axis are in
        no group.
    """

    chains: Chains
    rows: Int64
    at: npt.NDArray[np.intp]
    groups: list[tuple[npt.NDArray[np.intp], Int64]]


@dataclass(frozen=True, eq=False)
class BlockReader:
    """Compute blocks of metrics and flags for any runs and points; holds no values.

    Attributes
    ----------
    runs : RunSource
    how : Interpolation
    metrics : tuple of Metric
        Variables of the Dataset. In raw tables all entries of a task are one text: a text that is read for one
        variable is parsed for all of these.
    """

    runs: RunSource
    how: Interpolation
    metrics: tuple[Metric, ...] = ()
    _plans: deque[AlignmentPlan] = field(default_factory=lambda: deque(maxlen=_PLANS), repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": deque(maxlen=_PLANS)}

    def __deepcopy__(self, memo: object) -> BlockReader:
        # It is immutable, and its stores must not be opened twice.
        return self

    def block(self, metric: Metric, run_ids: Texts, points: Points, lines: Lines | None = None) -> Float64:
        """Return values of shape ``run_ids.shape + points.shape``; reads only these runs and this metric.

        Where a table has a row of a run but the metric has no sample, the cell is NaN.

        Parameters
        ----------
        metric : Metric
        run_ids : object array of str, of any shape
            "" where there is no run.
        points : (point,) int64 or float64 array
            Points of the axis, in any order.
        lines : Lines, optional
            How tokens follow from points, run by run; points are cumulative tokens when None.
        """
        shape, run_ids = (*run_ids.shape, len(points)), run_ids.ravel()
        order, back = order_of(points)
        out = np.empty((run_ids.size, len(points)))
        empty = np.ones(len(run_ids), bool)
        if len(points):
            for part in self._parts(run_ids, points[order], lines):
                self._align_part(metric, part, out)
                for group, _ in part.groups:
                    empty[part.at[group]] = False
        out[empty] = np.nan
        return (out if isinstance(back, slice) else out[:, back]).reshape(shape)

    def sampled(self, sampling: Sampling, run_ids: Texts, points: Points, lines: Lines | None = None) -> Int8:
        """Return 1 in cells whose run was sampled, else 0; shape ``run_ids.shape + points.shape``.

        Parameters
        ----------
        sampling : str or Metric
            ``evaluations`` or ``perplexities``, for which no metric is read; or the metric of a log.
        run_ids, points, lines
            As for :meth:`block`.
        """
        order, back = order_of(points)
        out = np.zeros((run_ids.size, len(points)), np.int8)
        for part in self._parts(run_ids.ravel(), points[order], lines):
            sampled = self._points(sampling, part.chains)
            for group, grid in part.groups:
                mark_points(out, part.at[group], grid, points_on_curves(part.chains, part.rows[group], sampled), 1)
        return out[:, back].reshape((*run_ids.shape, len(points)))

    def sample_numbers(self, samplings: Sequence[Sampling], run_ids: Texts) -> list[dict[str, Float64]]:
        """Return, for each sampling, the positions of last samples and the numbers of samples of runs.

        Returns
        -------
        list of dict
            Arrays of the shape of `run_ids`. ``last``: cumulative tokens of the run's own last sample; ``base``: of the
            last sample of its base at or before the point where its chain left it; ``own``: number of its own samples;
            ``count``: number of samples along its complete curve. NaN where there is no run or no such sample;
            ``base`` of a base is NaN.
        """
        numbers = [{name: np.full(run_ids.size, np.nan) for name in SAMPLED_NUMBERS} for _ in samplings]
        for part in self._parts(run_ids.ravel(), np.empty(0, np.int64), None):
            chains, rows = part.chains, part.rows
            branch, origin = chains.branch[rows], chains.origins()[rows]
            for sampling, out in zip(samplings, numbers, strict=True):
                row, tokens = points_on_curves(chains, rows, self._points(sampling, chains))
                last, base = (np.full(len(rows), -1, np.int64) for _ in range(2))
                own = tokens > branch[row]
                np.maximum.at(last, row[own], tokens[own])
                before = (tokens <= origin[row]) & (branch[row] >= 0)
                np.maximum.at(base, row[before], tokens[before])
                out["own"][part.at] = np.bincount(row[own], minlength=len(rows))
                out["count"][part.at] = np.bincount(row, minlength=len(rows))
                for name, ends in (("last", last), ("base", base)):
                    out[name][part.at] = np.where(ends >= 0, ends, np.nan)
        return [{name: values.reshape(run_ids.shape) for name, values in out.items()} for out in numbers]

    def _parts(self, run_ids: Texts, points: Points, lines: Lines | None) -> Iterator[_Part]:
        """Yield the rows of a block in parts; `points` are ascending."""
        present = np.flatnonzero(np.asarray(run_ids != "", bool))
        for start in range(0, len(present), _RUNS_AT_ONCE):
            at = present[start : start + _RUNS_AT_ONCE]
            ids = [str(r) for r in run_ids[at]]
            chains = self.runs.chains(ids)
            index_of = {run_id: i for i, run_id in enumerate(chains.run_ids)}
            rows = np.array([index_of[run_id] for run_id in ids], np.int64)
            if lines is None:
                groups = [(np.arange(len(at)), tokens_at(points, 0.0, 1.0))]
            else:
                groups = lines.take(at).groups(points)
            yield _Part(chains, rows, at, groups)

    def _points(self, sampling: Sampling, chains: Chains) -> CurvePoints:
        """Return the own samples of runs, without those of their ancestors."""
        if isinstance(sampling, Metric):
            own = self._observations(sampling, chains)
            return CurvePoints.where(own.offsets, own.tokens, ~np.isnan(own.values))
        return self.runs.sampled_points(sampling, chains)

    def _observations(self, metric: Metric, chains: Chains) -> Observations:
        return self.runs.observations(metric, chains.run_ids, self.metrics)

    def _missing_samples(self, metric: Metric, chains: Chains, own: Observations) -> CurvePoints | None:
        """Return the points where a table has a row of a run but the metric has no sample; None where there are none.

        Raises
        ------
        FormatError
            When the metric has a value where the table has no row.
        """
        sampling = self.runs.table_sampling(metric)
        if not sampling:
            return None
        table_rows = self._points(sampling, chains)
        observed = CurvePoints.where(own.offsets, own.tokens, ~np.isnan(own.values))
        if np.array_equal(observed.offsets, table_rows.offsets) and np.array_equal(observed.tokens, table_rows.tokens):
            return None
        expected = observed.are_in(table_rows)
        if not expected.all():
            at = int(np.argmin(expected))
            run_id = chains.run_ids[int(np.searchsorted(observed.offsets, at, side="right")) - 1]
            raise FormatError(
                f"{metric.name} of {run_id} has a value at {observed.tokens[at]} tokens, where the list of its "
                f"{sampling} has no row, so its observed cells are unknown. The source changed since it was opened, or "
                "its list of rows and its values disagree. Open it again, and look at that row."
            )
        return CurvePoints.where(table_rows.offsets, table_rows.tokens, ~table_rows.are_in(observed))

    def _align_part(self, metric: Metric, part: _Part, out: Float64) -> None:
        """Fill the rows of a part of a block."""
        own = self._observations(metric, part.chains)
        curves = Curves(part.chains, own, self._missing_samples(metric, part.chains, own), metric.joins_at_branch)
        for group, grid in part.groups:
            curves.fill(out, part.at[group], part.rows[group], grid, self.how, self._plans)


# Cached plans of recent alignments: one for evaluations and one for logs, for two blocks.
_PLANS = 4

# Runs whose observations are in memory at once, at some 100 bytes a row while they are sorted. A store without an index
# is scanned once for each such part.
_RUNS_AT_ONCE = 1_024


class BlockArray(BackendArray):
    """A lazy array that computes a block when it is indexed; subclasses set `shape` and `dtype`, and compute it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the block as a NumPy array."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        try:
            block = self._block(tuple(_positions(k, n) for k, n in zip(key, self.shape, strict=True)))
        except OSError as error:
            # A full disk is an error of writing the cache, not of reading the source.
            if isinstance(error, DdeError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # Converted here, where it is known to be an error of reading: code that writes the values to a file would
            # otherwise report it as an error of writing.
            raise SourceError(
                f"values can't be read ({error.strerror or error}), so there are none. Check the files or the server "
                "of the Dataset, and open it again."
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
        index = np.ix_(*cells) if cells else ()
        lines = None if self.lines is None else self.lines.index(index)
        return self._make(self.run_ids[index] if cells else self.run_ids, self.points[last], lines)

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        raise NotImplementedError


class MetricArray(_CellsArray):
    """One metric of runs along an axis, such as ``(lineage, run, cumulative_tokens)``; reads what is indexed."""

    def __init__(
        self,
        reader: BlockReader,
        metric: Metric,
        run_ids: npt.NDArray[np.object_],
        points: Points,
        lines: Lines | None = None,
    ) -> None:
        super().__init__(run_ids, points, lines)
        self.reader, self.metric = reader, metric

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        return self.reader.block(self.metric, run_ids, points, lines)


class FlagsArray(_CellsArray):
    """Flags of samples along an axis: 1 in cells that are samples, else 0."""

    dtype = np.dtype(np.int8)

    def __init__(
        self,
        reader: BlockReader,
        sampling: Sampling,
        run_ids: npt.NDArray[np.object_],
        points: Points,
        lines: Lines | None = None,
    ) -> None:
        super().__init__(run_ids, points, lines)
        self.reader, self.sampling = reader, sampling

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        return self.reader.sampled(self.sampling, run_ids, points, lines)


class SampleNumberArray(BlockArray):
    """A number of the samples of runs, computed by reading them; see :meth:`BlockReader.sample_numbers`.

    Parameters
    ----------
    reader : BlockReader
    sampling : str or Metric
    number : {"last", "base", "own", "count"}
    run_ids : object array of str, of any shape
    """

    dtype = np.dtype(np.float64)

    def __init__(self, reader: BlockReader, sampling: Sampling, number: str, run_ids: npt.NDArray[np.object_]) -> None:
        self.reader, self.sampling, self.number, self.run_ids = reader, sampling, number, run_ids
        self.shape = run_ids.shape

    def _block(self, at: tuple[npt.NDArray[np.intp], ...]) -> npt.NDArray[Any]:
        return self.reader.sample_numbers([self.sampling], self.run_ids[np.ix_(*at)])[0][self.number]


class TokensArray(_CellsArray):
    """Cumulative tokens of runs along an axis that differs by run; NaN where a run is not on the axis."""

    def _make(self, run_ids: npt.NDArray[np.object_], points: Points, lines: Lines | None) -> npt.NDArray[Any]:
        assert lines is not None
        return lines.tokens(points)


def lazily(dims: Sequence[str], array: BlockArray, attrs: dict[Any, Any]) -> xr.Variable:
    """Return a variable that is computed when it is indexed."""
    # Without the fast path xarray imports dask.array, which takes twice as long as opening, for a type check.
    return xr.Variable(tuple(dims), indexing.LazilyIndexedArray(array), attrs, fastpath=True)


def source_of(variable: xr.Variable) -> Any:
    """Return the array that a variable shows, without the wrappers that xarray puts around it."""
    data: Any = variable._data
    while not isinstance(data, (np.ndarray, BackendArray)) and hasattr(data, "array"):
        data = data.array
    return data


def is_lazy(variable: xr.Variable) -> bool:
    """Return whether a variable is computed when it is indexed, without dask."""
    return isinstance(source_of(variable), BackendArray)


def is_chunked(variable: xr.Variable) -> bool:
    """Return whether a variable is a dask array."""
    return hasattr(variable._data, "dask")


def _positions(key: Any, size: int) -> npt.NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(size)[key]
    return np.atleast_1d(np.arange(size)[key])
