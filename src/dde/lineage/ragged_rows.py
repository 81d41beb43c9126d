"""Ragged arrays of rows of several runs: the rows of a run, searches in all runs at once, and ancestors of runs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64

__all__ = ["find_first_rows", "rows_between", "rows_of", "with_ancestors"]


def rows_of(offsets: Int64, runs: npt.NDArray[np.integer]) -> Int64:
    """Return the rows of runs, run by run.

    Parameters
    ----------
    offsets : (run + 1,) int64 array
        Rows of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    runs : int array
        Numbers of runs, in any order and possibly repeated.

    Examples
    --------
    >>> rows_of(np.array([0, 2, 2, 5]), np.array([2, 0])).tolist()
    [2, 3, 4, 0, 1]
    """
    return rows_between(offsets[runs], offsets[runs + 1])


def rows_between(first: Int64, stop: Int64) -> Int64:
    """Return concatenated ranges from each `first` up to, not including, its `stop`; empty where `stop` is not above.

    Examples
    --------
    >>> rows_between(np.array([4, 0]), np.array([6, 1])).tolist()
    [4, 5, 0]
    """
    counts = np.maximum(stop - first, 0)
    ends = np.cumsum(counts)
    return np.asarray(np.repeat(first - ends + counts, counts) + np.arange(int(counts.sum())), np.int64)


def find_first_rows(
    offsets: Int64,
    values: npt.NDArray[Any],
    runs: npt.NDArray[np.integer],
    bound: npt.NDArray[Any],
    side: Literal["left", "right"] = "left",
) -> Int64:
    """Return for each run the first row whose value is at or above a bound, or above it; one past its last if none is.

    Parameters
    ----------
    offsets : (run + 1,) int64 array
        Rows of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    values : (row,) array
        Ascending within a run.
    runs, bound : arrays of one length
        A run, and the bound in it.
    side : {"left", "right"}
        As in :func:`numpy.searchsorted`: "right" for values above the bound.

    Examples
    --------
    >>> offsets, values = np.array([0, 2, 3]), np.array([10, 20, 15])
    >>> find_first_rows(offsets, values, np.array([0, 0, 1]), np.array([10, 5, 99])).tolist()
    [0, 0, 3]
    >>> find_first_rows(offsets, values, np.array([0]), np.array([10]), "right").tolist()
    [1]
    """
    low, high = offsets[runs], offsets[runs + 1]
    # A binary search in all runs at once: each step halves the remaining range of the longest.
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        searching = low < high
        reaches = np.zeros(len(runs), bool)
        here, limit = values[middle[searching]], bound[searching]
        reaches[searching] = here > limit if side == "right" else here >= limit
        low, high = np.where(searching & ~reaches, middle + 1, low), np.where(reaches, middle, high)
    return np.asarray(low, np.int64)


def with_ancestors(parent: npt.NDArray[np.integer], runs: npt.NDArray[np.integer]) -> Int64:
    """Return runs with all their ancestors, each once, ascending.

    Parameters
    ----------
    parent : (run,) int array
        Number of the parent of each run; -1 where there is none.
    runs : int array

    Examples
    --------
    >>> with_ancestors(np.array([-1, 0, 1, -1]), np.array([2])).tolist()
    [0, 1, 2]
    """
    levels = [np.unique(runs).astype(np.int64)]
    while len(levels[-1]):
        above = parent[levels[-1]]
        levels.append(np.unique(above[above >= 0]).astype(np.int64))
    return np.unique(np.concatenate(levels))
