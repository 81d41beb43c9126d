"""Pairs of items that two scores order alike, and correlations of their ranks, over many cells at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64
from dde.errors import UnknownNameError, near_names

__all__ = ["TIED", "Ties", "agreement", "check_ties", "kendall_tau", "levels", "spearman_rho"]

#: How a pair counts that is tied in one score or both.
Ties = Literal["sign", "half", "exclude"]

#: Relative difference up to which two scores are tied. Means that are equal in exact arithmetic, such as those of
#: accuracies of 300 questions, differ by rounding in their last bits, which depend on the order of their members.
TIED = 8 * np.finfo(np.float64).eps
# Number of pairs in memory at once; each takes two float64 and some bytes.
_BLOCK = 1_000_000


def check_ties(ties: str) -> None:
    """Check the option for ties.

    Raises
    ------
    UnknownNameError
    """
    if ties not in get_args(Ties):
        raise UnknownNameError(
            f"ties={ties!r} is not a way to count ties.{near_names(str(ties), get_args(Ties))} "
            f"Pass {', '.join(map(repr, get_args(Ties)))}."
        )


def levels(scores: Float64) -> Float64:
    """Return the scores of each cell as whole numbers in the same order; scores that differ by rounding are one number.

    Parameters
    ----------
    scores : (..., item) float64 array

    Returns
    -------
    (..., item) float64 array
        0 for the lowest score; NaN where there is none.

    Examples
    --------
    >>> levels(np.array([0.1 + 0.2, 0.3, 0.2, np.nan])).tolist()
    [1.0, 1.0, 0.0, nan]
    """
    order = np.argsort(scores, axis=-1)
    ascending = np.take_along_axis(scores, order, axis=-1)
    low, high = ascending[..., :-1], ascending[..., 1:]
    with np.errstate(invalid="ignore"):
        near = high - low <= TIED * np.maximum(np.abs(low), np.abs(high))
        is_same = (high == low) | (near & np.isfinite(high) & np.isfinite(low))
    number = np.cumsum(np.concatenate([np.zeros((*scores.shape[:-1], 1)), ~is_same], axis=-1), axis=-1)
    if not scores.shape[-1]:
        return np.empty(scores.shape)
    out = np.empty(scores.shape)
    np.put_along_axis(out, order, number, axis=-1)
    return np.where(np.isnan(scores), np.nan, out)


def agreement(a: Float64, b: Float64, ties: Ties = "sign") -> tuple[Float64, npt.NDArray[np.int64]]:
    """Return the share of pairs of items that two scores order alike.

    Parameters
    ----------
    a, b : (..., item) float64 arrays, broadcastable to each other
        NaN where an item has no score; its pairs do not count.
    ties : {"sign", "half", "exclude"}, default "sign"
        ``sign``: a pair agrees where the signs of both differences are equal, so a pair that is tied in both agrees
        and one that is tied in one of them does not. ``half``: a pair tied in either counts one half. ``exclude``:
        a pair tied in either does not count.

    Returns
    -------
    share : (...) float64 array
        NaN without any pair.
    pairs : (...) int64 array
        Number of pairs that count.

    Examples
    --------
    >>> share, pairs = agreement(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    >>> round(float(share), 3), int(pairs)
    (0.667, 3)
    """
    first, second = np.triu_indices(a.shape[-1], 1)
    a, b = levels(a), levels(b)

    def counted(x: Float64, y: Float64) -> Float64:
        (sx, known_x), (sy, known_y) = (_signs(s, first, second) for s in (x, y))
        known = known_x & known_y
        agrees = np.where(known, sx == sy, 0.0)
        if ties != "sign":
            tied = known & ((sx == 0) | (sy == 0))
            known = known & ~tied if ties == "exclude" else known
            agrees = np.where(tied, 0.0 if ties == "exclude" else 0.5, agrees)
        return np.stack([agrees.sum(axis=1), known.sum(axis=1)], axis=-1)

    total = _by_blocks(counted, a, b, len(first), 2)
    pairs = total[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(pairs > 0, total[..., 0] / pairs, np.nan)
    return share, pairs.astype(np.int64)


def kendall_tau(a: Float64, b: Float64) -> Float64:
    """Return Kendall's tau-b of two scores over the last dimension; items without both scores do not count.

    Parameters
    ----------
    a, b : (..., item) float64 arrays, broadcastable to each other

    Returns
    -------
    (...) float64 array
        NaN for fewer than two items, or where all are tied in one of the scores.

    Notes
    -----
    Concordant less discordant pairs, divided by the square root of the product of the numbers of pairs that are not
    tied in either score [1]_; the same as :func:`scipy.stats.kendalltau`, for all cells at once.

    References
    ----------
    .. [1] Kendall (1945), The treatment of ties in ranking problems. Biometrika 33 (3), 239-251.
       doi:10.1093/biomet/33.3.239

    Examples
    --------
    >>> round(float(kendall_tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))), 3)
    0.333
    """
    first, second = np.triu_indices(a.shape[-1], 1)
    a, b = levels(a), levels(b)

    def counted(x: Float64, y: Float64) -> Float64:
        (sx, known_x), (sy, known_y) = (_signs(s, first, second) for s in (x, y))
        known = known_x & known_y
        sx, sy = np.where(known, sx, 0.0), np.where(known, sy, 0.0)
        return np.stack([(sx * sy).sum(axis=1), np.abs(sx).sum(axis=1), np.abs(sy).sum(axis=1)], axis=-1)

    total = _by_blocks(counted, a, b, len(first), 3)
    product = total[..., 1] * total[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(product > 0, total[..., 0] / np.sqrt(product), np.nan)


def spearman_rho(a: Float64, b: Float64) -> Float64:
    """Return Spearman's rank correlation of two scores over the last dimension; ties share their mean rank.

    Parameters
    ----------
    a, b : (..., item) float64 arrays, broadcastable to each other

    Returns
    -------
    (...) float64 array
        NaN for fewer than two items with both scores, or where all are tied in one of the scores.

    Examples
    --------
    >>> float(spearman_rho(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])))
    0.5
    """
    # A local import, because opening a Dataset does not need scipy.
    from scipy.stats import rankdata

    a, b = np.broadcast_arrays(levels(a), levels(b))
    both = ~(np.isnan(a) | np.isnan(b))
    n = both.sum(axis=-1)
    centred = []
    for scores in (a, b):
        counting = np.where(both, scores, np.nan)
        ranks = rankdata(counting, axis=-1, nan_policy="omit") if scores.shape[-1] else np.zeros(scores.shape)
        centred.append(np.where(both, ranks - (n[..., None] + 1) / 2, 0.0))
    x, y = centred
    product = (x * x).sum(axis=-1) * (y * y).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(product > 0, (x * y).sum(axis=-1) / np.sqrt(product), np.nan)


def _signs(
    scores: Float64, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Return the sign of each pair's difference, and whether both scores are known. Infinite scores can be tied."""
    x, y = scores[:, first], scores[:, second]
    return np.subtract(x > y, x < y, dtype=np.float64), ~(np.isnan(x) | np.isnan(y))


def _by_blocks(
    function: Callable[[Float64, Float64], Float64], a: Float64, b: Float64, pairs: int, numbers: int
) -> Float64:
    """Return sums over pairs of all cells, computed for some cells at a time to bound the memory."""
    a, b = np.broadcast_arrays(a, b)
    shape, items = a.shape[:-1], a.shape[-1]
    x, y = a.reshape(-1, items), b.reshape(-1, items)
    out = np.zeros((len(x), numbers))
    step = max(_BLOCK // max(pairs, 1), 1)
    for start in range(0, len(x), step):
        out[start : start + step] = function(x[start : start + step], y[start : start + step])
    return out.reshape(*shape, numbers)
