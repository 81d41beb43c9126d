"""Every call of a kernel: types, shapes and places are checked here, so that no kernel leaves an array.

A kernel trusts its arguments. These functions are its only callers. What they don't check by themselves, NumPy does
when an array becomes an argument: its type, that it is contiguous, aligned and, where it is written to, writable. An
array that fails a check is an error of the caller, never of the data that it holds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dde.native.library import Plan, kernels

__all__ = ["METHODS", "MOST_KEYS", "CurvePlan", "means_of_columns", "parse_dicts", "scatter_rows"]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)

#: Keys that :func:`parse_dicts` can look for; the kernel numbers those of a batch, 256 at most.
MOST_KEYS = 128

#: Methods of interpolation that a kernel has, with their numbers in curves.c.
METHODS = {"linear": 0, "log": 1, "nearest": 2, "previous": 3}

# Doubles of a stretch in curves.c.
_STRETCH = 4


def parse_dicts(
    data: npt.NDArray[np.uint8], offsets: Int64, keys: Sequence[bytes], target: Int64, out: Float64
) -> npt.NDArray[np.bool_]:
    """Put the numbers under some keys of texts where they belong.

    Parameters
    ----------
    data : (byte,) uint8 array
    offsets : (text + 1,) int64 array
        Text `i` is ``data[offsets[i]:offsets[i + 1]]``; ascending.
    keys : sequence of bytes
        Distinct; at most `MOST_KEYS`.
    target : (text,) int64 array
        Row of `out` that a text goes to; a negative one is not read.
    out : (row, key) float64 array
        NaN where a text lacks the key or its value is None.

    Returns
    -------
    (text,) bool array
        Texts that another grammar has to read; their rows are NaN.

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
    _expect(n == 0 or int(target.max()) < len(out), "a target lies behind the last row")
    key_offsets = np.concatenate([[0], np.cumsum([len(k) for k in keys])]).astype(np.int32)
    joined = np.frombuffer(b"".join(keys), np.uint8)
    unread = np.zeros(n, np.uint8)
    kernels().dde_parse_dicts(data, offsets, n, joined, key_offsets, len(keys), target, out, len(keys), unread)
    return unread.view(np.bool_)


def means_of_columns(terms: Float64) -> Float64:
    """Return the correctly rounded sum of each column, divided by the number of rows.

    Parameters
    ----------
    terms : (term, column) float64 array

    Examples
    --------
    >>> means_of_columns(np.array([[0.1], [0.2], [0.3]])).tolist()
    [0.19999999999999998]
    """
    _expect(terms.ndim == 2, "terms have no rows and columns")
    count, size = terms.shape
    out = np.empty(size)
    kernels().dde_exact_means(terms, count, size, size, out)
    return out


def scatter_rows(table: Float64, base: Int64, step: int, out: Float64) -> None:
    """Put entry `e` of row `r` of a table at ``base[r] + e * step`` of the flat `out`.

    Parameters
    ----------
    table : (row, entry) float64 array
    base : (row,) int64 array
        Negative for a row that goes nowhere.
    step : int
        Not negative.
    out : float64 array

    Examples
    --------
    >>> out = np.zeros(4)
    >>> scatter_rows(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, -1]), 2, out)
    >>> out.tolist()
    [0.0, 1.0, 0.0, 2.0]
    """
    _expect(table.ndim == 2, "the table has no rows and columns")
    n, width = table.shape
    _expect_shapes(base=(base, (n,)))
    _expect(step >= 0, "the step is negative")
    if n and width:
        _expect(int(base.max()) + (width - 1) * step < out.size or int(base.max()) < 0, "a row leaves out")
    kernels().dde_scatter(table, n, width, base, step, out)


class CurvePlan:
    """Where the points of a grid lie among observations of runs, for every metric observed at the same tokens.

    Parameters
    ----------
    parent : (run,) int32 array
        Parent of each run, which stands before it; negative for one without.
    root : (run,) int32 array
        The run without a parent that each derives from.
    branch : (run,) int64 array
        Cumulative tokens at the branch.
    offsets : (run + 1,) int64 array
    tokens : (observation,) int64 array
        Observations of run `r` are ``offsets[r]`` to ``offsets[r + 1]``, ascending.
    places : (observation + run + 1,) float64 array
        Tokens or their logarithms; what follows the observations is filled here.
    grid : (point,) int64 array
        Ascending.
    points, log_points : (point,) float64 arrays
        The same as numbers, and their logarithms.
    method : str
        One of `METHODS`.
    joins : (run,) uint8 array
        Whether a run's curve may begin with its parent's observation at the branch.
    bridges : bool
        Whether an earlier observation of the parent will do.
    max_gap : int
        Longest distance in tokens that is filled; negative for any.

    Raises
    ------
    ValueError, TypeError
        When an array has another type, shape or content than this.
    """

    def __init__(
        self,
        *,
        parent: Int32,
        root: Int32,
        branch: Int64,
        joins: npt.NDArray[np.uint8],
        offsets: Int64,
        tokens: Int64,
        places: Float64,
        grid: Int64,
        points: Float64,
        log_points: Float64,
        method: str,
        bridges: bool,
        max_gap: int,
    ) -> None:
        n_runs, count, n_points = len(parent), len(tokens), len(grid)
        _expect(self.can_number(n_runs, count), "cells are too many for numbers of 32 bits")
        _expect(-(2**63) <= max_gap < 2**63, "the longest gap is no number of 64 bits")
        _expect_shapes(
            root=(root, (n_runs,)),
            branch=(branch, (n_runs,)),
            joins=(joins, (n_runs,)),
            offsets=(offsets, (n_runs + 1,)),
            places=(places, (count + n_runs + 1,)),
            points=(points, (n_points,)),
            log_points=(log_points, (n_points,)),
        )
        _expect_offsets(offsets, count)
        numbers = np.arange(n_runs)
        _expect(bool((parent < numbers).all()), "a parent does not stand before its child")
        _expect(bool(((root >= 0) & (root <= numbers)).all()), "a root stands behind its run")
        self._count = count
        self._grid_size = n_points
        self.cell: Int32 = np.empty((n_runs, n_points), np.int32)
        # A structure holds addresses alone: the arrays live as long as this object does.
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "parent": _typed(parent, np.int32),
            "root": _typed(root, np.int32),
            "branch": _typed(branch, np.int64),
            "joins": _typed(joins, np.uint8),
            "offsets": _typed(offsets, np.int64),
            "tokens": _typed(tokens, np.int64),
            "places": _typed(places, np.float64, is_written=True),
            "grid": _typed(grid, np.int64),
            "points": _typed(points, np.float64),
            "log_points": _typed(log_points, np.float64),
            "cell": self.cell,
            "before": np.empty(count, np.int32),
        }
        self._plan = Plan(
            n_runs=n_runs,
            n_points=n_points,
            method=METHODS[method],
            bridges=bridges,
            max_gap=max_gap,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )

    @staticmethod
    def can_number(n_runs: int, count: int) -> bool:
        """Return whether so many runs and observations have room in the numbers of cells, of 32 bits."""
        return 2 * (count + 1 + n_runs) + 1 < 2**31

    def place(self, part: int, parts: int) -> None:
        """Find the places of one part of the lineages, of `parts` in all."""
        _expect(0 <= part < parts, "there is no such part")
        kernels().dde_plan(ctypes.byref(self._plan), part, parts)

    def fill(
        self,
        values: Float64,
        rows: Int64,
        at: Int64,
        out: Float64,
        *,
        is_simple: bool,
        room: tuple[Float64, Int32],
        part: int,
        parts: int,
    ) -> bool:
        """Put the curves of one part of the lineages where they belong.

        Parameters
        ----------
        values : (observation,) float64 array
            NaN where the metric has no sample.
        rows : (asked,) int64 array
            Runs; ascending.
        at : (asked,) int64 array
            Row of `out` that each goes to.
        out : (row, point) float64 array
        is_simple : bool
            Whether the method is linear without a longest gap, and no value is absent.
        room : float64 array, int32 array
            What the kernel may write to: four numbers, and one, per observation and run.
        part, parts : int

        Returns
        -------
        bool
            Whether it could be done: False where a line is not finite, or not as simple.
        """
        lines, seen = room
        n_runs, needed = len(self.cell), self._count + 1 + len(self.cell)
        _expect_shapes(values=(values, (self._count,)), at=(at, rows.shape), out=(out, (len(out), self._grid_size)))
        _expect(lines.size >= _STRETCH * needed and seen.size >= self._count, "the room is too small")
        _expect(0 <= part < parts, "there is no such part")
        if len(rows):
            _expect(bool((rows[1:] >= rows[:-1]).all()), "rows do not ascend")
            _expect(int(rows[0]) >= 0 and int(rows[-1]) < n_runs, "a row is no run of the plan")
            _expect(int(at.min()) >= 0 and int(at.max()) < len(out), "a curve leaves out")
        done = kernels().dde_fill(
            ctypes.byref(self._plan), is_simple, values, lines, seen, part, parts, len(rows), rows, at, out
        )
        return bool(done)


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"{problem}: no kernel is called.")


def _expect_shapes(**arrays: tuple[npt.NDArray[Any], tuple[int, ...]]) -> None:
    for name, (array, shape) in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}, not {shape}: no kernel is called.")


def _expect_offsets(offsets: Int64, size: int) -> None:
    _expect(offsets.dtype == np.int64 and len(offsets) > 0, "offsets are no numbers of 64 bits")
    _expect(bool((offsets[1:] >= offsets[:-1]).all()), "offsets do not ascend")
    _expect(int(offsets[0]) >= 0 and int(offsets[-1]) <= size, "offsets leave what they divide")


def _typed(array: npt.NDArray[Any], dtype: type[_Scalar], is_written: bool = False) -> npt.NDArray[_Scalar]:
    """Return the array, whose address may then be taken; raises where a kernel would read it as something else."""
    flags = array.flags
    if array.dtype != dtype or not (flags.c_contiguous and flags.aligned and (flags.writeable or not is_written)):
        raise TypeError(f"an array of {array.dtype} is no contiguous array of {np.dtype(dtype)}: no kernel is called.")
    return array
