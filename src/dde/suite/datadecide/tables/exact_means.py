"""Correctly rounded means, and rows put into columns."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dde.native import is_compiled, means_of_columns, scatter_rows

__all__ = ["exact_mean", "scatter"]

Float64 = npt.NDArray[np.float64]


def exact_mean(terms: Float64) -> Float64:
    """Return the correctly rounded sum over the first axis, divided by its length.

    Parameters
    ----------
    terms : (term, value) float64 array
        Contiguous.

    Returns
    -------
    (value,) float64 array
        NaN where a term is NaN, and infinite where one is infinite.

    Examples
    --------
    >>> exact_mean(np.array([[0.1, 0.1], [0.2, np.nan], [0.3, 0.3]])).tolist()
    [0.19999999999999998, nan]
    """
    if is_compiled():
        return means_of_columns(np.ascontiguousarray(terms, np.float64))
    count, size = terms.shape
    out = np.empty(size)
    finite = np.isfinite(terms).all(axis=0)
    out[~finite] = terms[:, ~finite].sum(axis=0)
    out[finite] = [math.fsum(column) for column in terms[:, finite].T.tolist()]
    means: Float64 = out / count
    return means


def scatter(table: Float64, base: npt.NDArray[np.int64], step: int, out: Float64) -> None:
    """Put rows of a table into columns: entry `e` of row `r` goes to ``base[r] + e * step`` of the flat `out`.

    Parameters
    ----------
    table : (row, entry) float64 array
    base : (row,) int64 array
        Negative for a row that goes nowhere.
    step : int
    out : float64 array
        Contiguous.

    Raises
    ------
    ValueError, TypeError
        When `out` is not contiguous, or has another type.

    Examples
    --------
    >>> out = np.zeros((2, 3))
    >>> scatter(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([2, 0]), 3, out)
    >>> out.tolist()
    [[3.0, 0.0, 1.0], [4.0, 0.0, 2.0]]
    """
    if is_compiled():
        scatter_rows(np.ascontiguousarray(table, np.float64), np.ascontiguousarray(base, np.int64), step, out)
        return
    rows = np.flatnonzero(base >= 0)
    # A copy would be filled in vain.
    np.reshape(out, -1, copy=False)[base[rows, None] + np.arange(table.shape[1]) * step] = table[rows]
