"""Correctly rounded means, and rows put into columns."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dde.native import address, library

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
    count, size = terms.shape
    out = np.empty(size)
    kernels = library()
    if kernels is not None:
        terms = np.ascontiguousarray(terms)
        kernels.dde_exact_means(address(terms), count, size, size, address(out))
        return out
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

    Examples
    --------
    >>> out = np.zeros((2, 3))
    >>> scatter(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([2, 0]), 3, out)
    >>> out.tolist()
    [[3.0, 0.0, 1.0], [4.0, 0.0, 2.0]]
    """
    kernels = library()
    if kernels is None:
        rows = np.flatnonzero(base >= 0)
        out.reshape(-1)[base[rows, None] + np.arange(table.shape[1]) * step] = table[rows]
        return
    table, base = np.ascontiguousarray(table), np.ascontiguousarray(base, np.int64)
    kernels.dde_scatter(address(table), *table.shape, address(base), step, address(out))
