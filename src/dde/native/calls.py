"""The calls of the kernels, with checks of types, shapes and indexes, so that none of them leaves an array.

The kernels trust their arguments, and this module is their only caller. NumPy checks the rest when an array becomes an
argument: its type, and that it is contiguous, aligned and, where it is written to, writable. An array that fails a
check is an error of the caller, not of the data in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64, Int64
from dde.native.library import kernels

__all__ = ["MOST_KEYS", "LineCells", "parse_dicts"]


#: Keys that :func:`parse_dicts` can look for; the kernel numbers those of a batch, 256 at most.
MOST_KEYS = 128


def parse_dicts(
    data: npt.NDArray[np.uint8], offsets: Int64, keys: Sequence[bytes], target: Int64, out: Float64
) -> npt.NDArray[np.bool_]:
    """Write the numbers under some keys of dict texts to an array.

    Parameters
    ----------
    data : (byte,) uint8 array
    offsets : (text + 1,) int64 array
        Text `i` is ``data[offsets[i]:offsets[i + 1]]``; ascending.
    keys : sequence of bytes
        Distinct; at most `MOST_KEYS`.
    target : (text,) int64 array
        Row of `out` for each text; a text with a negative one is not read.
    out : (row, key) float64 array
        NaN where a text lacks the key or its value is None.

    Returns
    -------
    (text,) bool array
        Texts that need the grammar in Python; their rows are NaN.

    Raises
    ------
    ValueError, TypeError
        When an array has another type, shape or content than this.

    Examples
    --------
    >>> text, out = b"{'a': 1.5}{'a': x}", np.empty((2, 1))
    >>> parse_dicts(np.frombuffer(text, np.uint8), np.array([0, 10, 18]), [b"a"], np.arange(2), out).tolist()
    [False, True]
    >>> out[:, 0].tolist()
    [1.5, nan]
    """
    n = len(target)
    _expect_shapes(offsets=(offsets, (n + 1,)), out=(out, (len(out), len(keys))), target=(target, (n,)))
    _expect(data.ndim == 1, "data is not flat")
    _expect(len(keys) <= MOST_KEYS and len(set(keys)) == len(keys), f"keys repeat or are more than {MOST_KEYS}")
    _expect_offsets(offsets, len(data))
    _expect(n == 0 or int(target.max()) < len(out), "a target is after the last row")
    key_offsets = np.concatenate([[0], np.cumsum([len(k) for k in keys])]).astype(np.int32)
    joined = np.frombuffer(b"".join(keys), np.uint8)
    unread = np.zeros(n, np.uint8)
    kernels().dde_parse_dicts(data, offsets, n, joined, key_offsets, len(keys), target, out, len(keys), unread)
    return unread.view(np.bool_)


class LineCells:
    """Cells of curves on a grid, each on a line between two observations of its run.

    Of `n` observations, line `i` below `n` is observation `i` itself, line `n` means no value, and line ``n + 1 + i``
    leads to observation `i`.

    Parameters
    ----------
    parent : (run,) int64 array
        Parent of each run, which precedes it; negative for none.
    begin : (run,) int64 array
        Up to which point the cells of a run are those of its parent.
    first, stop : (run,) int64 arrays
        Own observations of each run.
    tokens : (observation,) int64 array
        Ascending within a run.
    has_line : (observation,) bool array
        Whether a line leads to the observation.
    start : (observation,) int64 array
        Tokens at which that line begins.
    origin : (observation,) float64 array
        The same in the unit of `points`.
    is_plain : (observation,) bool array
        Whether distances on that line are in tokens, whatever `points` are in.
    grid : (point,) int64 array
        Ascending.
    points : (point,) float64 array
        The grid in the unit of the lines.

    Attributes
    ----------
    line : (run, point) int64 array
        Number of the line of each cell; read-only.
    distance : (run, point) float64 array
        Distance of each cell from the beginning of its line; read-only.

    Raises
    ------
    ValueError, TypeError
        When an array has another type, shape or content than this.

    Examples
    --------
    >>> one, tokens, none = np.array([0]), np.array([0, 10]), np.zeros(2, bool)
    >>> cells = LineCells(
    ...     parent=one - 1, begin=one, first=one, stop=one + 2, tokens=tokens, has_line=np.array([False, True]),
    ...     start=np.array([0, 0]), origin=np.zeros(2), is_plain=none, grid=np.array([0, 4]),
    ...     points=np.array([0.0, 4.0]),
    ... )
    >>> cells.line.tolist(), cells.distance.tolist()
    ([[0, 4]], [[0.0, 4.0]])
    """

    def __init__(
        self,
        *,
        parent: Int64,
        begin: Int64,
        first: Int64,
        stop: Int64,
        tokens: Int64,
        has_line: Bool,
        start: Int64,
        origin: Float64,
        is_plain: Bool,
        grid: Int64,
        points: Float64,
    ) -> None:
        n_runs, n, n_points = len(parent), len(tokens), len(grid)
        runs, every = (n_runs,), (n,)
        _expect_shapes(begin=(begin, runs), first=(first, runs), stop=(stop, runs), origin=(origin, every))
        _expect_shapes(has_line=(has_line, every), start=(start, every), is_plain=(is_plain, every))
        _expect_shapes(points=(points, (n_points,)))
        _expect(bool((parent < np.arange(n_runs)).all()), "a parent does not precede its child")
        _expect(not n_runs or (int(begin.min()) >= 0 and int(begin.max()) <= n_points), "a branch is outside the grid")
        _expect(not n_runs or (int(first.min()) >= 0 and int(stop.max()) <= n), "a run has no such observation")
        _expect(bool((first <= stop).all()), "the observations of a run end before they begin")
        self.line: Int64 = np.empty((n_runs, n_points), np.int64)
        self.distance: Float64 = np.empty((n_runs, n_points))
        kernels().dde_place_points(
            *(n_runs, parent, begin, first, stop, n, tokens, has_line.view(np.uint8), start, origin),
            *(is_plain.view(np.uint8), n_points, grid, points, self.line, self.distance),
        )
        self._n_lines = 2 * n + 1
        # `fill` relies on the numbers of lines.
        self.line.flags.writeable = self.distance.flags.writeable = False

    def fill(self, start: Float64, slope: Float64, rows: Int64, at: Int64, out: Float64) -> None:
        """Write the curves of runs for one metric.

        Parameters
        ----------
        start, slope : (line,) float64 arrays
            Value at the beginning of each line, and its change per distance.
        rows : (row,) int64 array
            Runs; a run may occur several times.
        at : (row,) int64 array
            Row of `out` for each of them.
        out : (any, point) float64 array

        Raises
        ------
        ValueError, TypeError
            When an array has another type, shape or content than this.
        """
        n_rows, n_points = self.line.shape
        _expect_shapes(start=(start, (self._n_lines,)), slope=(slope, (self._n_lines,)), at=(at, rows.shape))
        _expect_shapes(out=(out, (len(out), n_points)))
        if not len(rows):
            return
        _expect(int(rows.min()) >= 0 and int(rows.max()) < n_rows, "a row is not the number of a run")
        _expect(int(at.min()) >= 0 and int(at.max()) < len(out), "a curve leaves out")
        kernels().dde_fill_lines(self.line, self.distance, n_points, rows, at, len(rows), start, slope, out)


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"{problem}: no kernel is called.")


def _expect_shapes(**arrays: tuple[npt.NDArray[Any], tuple[int, ...]]) -> None:
    for name, (array, shape) in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}, not {shape}: no kernel is called.")


def _expect_offsets(offsets: Int64, size: int) -> None:
    _expect(offsets.dtype == np.int64 and len(offsets) > 0, "offsets are not 64-bit integers")
    _expect(bool((offsets[1:] >= offsets[:-1]).all()), "offsets do not ascend")
    _expect(int(offsets[0]) >= 0 and int(offsets[-1]) <= size, "offsets leave what they divide")
