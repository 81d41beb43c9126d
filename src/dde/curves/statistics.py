"""Statistics of a few runs at once, such as three seeds: mean, spread, and how sure the mean is."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

__all__ = ["STATISTICS", "bootstrap_interval", "summarize"]

Float64 = npt.NDArray[np.float64]

#: Statistics of :func:`summarize`, in order.
STATISTICS = ("mean", "count", "std", "sem", "low", "high")

# Up to so many members every resample is counted, exactly: 462 of them for 6. Beyond, so many are drawn.
_EXACT, _DRAWN = 6, 2_000
# Resampled means that are in memory at once.
_BLOCK = 4_000_000


def summarize(values: Float64, required: npt.NDArray[np.int64], interval: float | None) -> Float64:
    """Return statistics over the last dimension.

    Parameters
    ----------
    values : (..., member) float64 array
        NaN where a member has no value.
    required : int64 array, broadcastable to ``values.shape[:-1]``
        Members that must have a value, for there to be any statistic.
    interval : float or None
        Share of the bootstrap distribution of the mean between low and high; None leaves both NaN.

    Returns
    -------
    (..., 6) float64 array
        :data:`STATISTICS`. The count is there always; the others are NaN where it is less than required, and
        those of spread where it is less than two.

    Examples
    --------
    >>> summarize(np.array([[1.0, 2.0, 3.0]]), np.array([3]), None)[0, :4].round(3).tolist()
    [2.0, 3.0, 1.0, 0.577]
    """
    some = ~np.isnan(values)
    count = some.sum(axis=-1)
    out = np.full((*count.shape, len(STATISTICS)), np.nan)
    out[..., 1] = count
    enough = (count >= np.maximum(required, 1)) & (count > 0)
    if not enough.any():
        return out
    kept, there = values[enough], some[enough]
    n = there.sum(axis=-1)
    mean = np.where(there, kept, 0.0).sum(axis=-1) / n
    out[enough, 0] = mean
    several = n > 1
    squares = np.where(there, (kept - mean[:, None]) ** 2, 0.0).sum(axis=-1)
    std = np.full(len(mean), np.nan)
    std[several] = np.sqrt(squares[several] / (n[several] - 1))
    out[enough, 2] = std
    out[enough, 3] = std / np.sqrt(n)
    if interval is not None:
        bounds = np.full((len(mean), 2), np.nan)
        # Cells differ in which members have a value, but in few ways.
        patterns, which = np.unique(there, axis=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            if pattern.sum() > 1:
                here = np.flatnonzero(which == k)
                bounds[here] = bootstrap_interval(kept[np.ix_(here, np.flatnonzero(pattern))], interval)
        out[enough, 4:] = bounds
    return out


def bootstrap_interval(values: Float64, interval: float) -> Float64:
    """Return the percentile interval of the bootstrap distribution of the mean.

    Parameters
    ----------
    values : (cell, member) float64 array
        Without NaN.
    interval : float
        Share of the distribution between the two.

    Returns
    -------
    (cell, 2) float64 array
        Low and high. Of three members at 0.95 they are the least and the largest one, each of which alone makes
        3.7 % of the resamples. Up to six members the distribution is exact; beyond, it is drawn with a fixed seed.

    Examples
    --------
    >>> bootstrap_interval(np.array([[1.0, 2.0, 4.0]]), 0.95).tolist()
    [[1.0, 4.0]]
    """
    weights, chances = _resamples(values.shape[1])
    tail = (1.0 - interval) / 2.0
    out = np.empty((len(values), 2))
    step = max(_BLOCK // len(chances), 1)
    for start in range(0, len(values), step):
        means = values[start : start + step] @ weights.T
        order = np.argsort(means, axis=1)
        ranked = np.take_along_axis(means, order, axis=1)
        below = np.cumsum(chances[order], axis=1)
        for side, share in enumerate((tail, 1.0 - tail)):
            # The least mean that at least this share of resamples does not exceed; rounding must not skip it.
            at = (below < share - 1e-12).sum(axis=1)
            out[start : start + step, side] = ranked[np.arange(len(ranked)), np.minimum(at, len(chances) - 1)]
    return out


@cache
def _resamples(n: int) -> tuple[Float64, Float64]:
    """Return the weights of the members in each resample of n, and how likely each is."""
    if n > _EXACT:
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_DRAWN)
        return drawn / n, np.full(_DRAWN, 1 / _DRAWN)
    weights = [np.bincount(chosen, minlength=n) for chosen in map(list, combinations_with_replacement(range(n), n))]
    ways = [math.factorial(n) / math.prod(math.factorial(int(c)) for c in w) for w in weights]
    return np.array(weights) / n, np.array(ways) / n**n
