"""Correctly rounded means, and tables turned on their side."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dde.native import address, library

__all__ = ["exact_mean", "transposed"]

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


def transposed(table: Float64) -> Float64:
    """Return a contiguous (column, row) copy of a contiguous (row, column) table.

    Examples
    --------
    >>> transposed(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    kernels = library()
    if kernels is None:
        return np.ascontiguousarray(table.T)
    table = np.ascontiguousarray(table)
    rows, columns = table.shape
    out = np.empty((columns, rows))
    kernels.dde_transpose(address(table), columns, rows, columns, address(out), rows)
    return out
