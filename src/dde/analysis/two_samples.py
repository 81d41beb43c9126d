"""Difference of two means: of pairs, or of independent samples, with its interval and p-value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from dde.analysis.intervals import Interval, interval_of_mean, resamples
from dde.array_types import Float64
from dde.errors import UnknownNameError, near_names

__all__ = ["MeanDifference", "Test", "check_test", "of_independent", "of_pairs", "smallest_p"]

#: Test of the hypothesis that two means are equal.
Test = Literal["permutation", "t", "none"]

# Resamples of the bootstrap of two samples, and the number of values in memory at once.
_DRAWN, _BLOCK = 2_000, 2_000_000


@dataclass(frozen=True)
class MeanDifference:
    """Mean of the second sample minus that of the first, for each cell.

    Attributes
    ----------
    estimate : (cell,) float64 array
        NaN where a sample is empty.
    low, high : (cell,) float64 arrays
        Bounds of the interval; NaN where it needs more members.
    p_value : (cell,) float64 array
        Two-sided; NaN where the test needs more members.
    """

    estimate: Float64
    low: Float64
    high: Float64
    p_value: Float64


def check_test(test: str, n_resamples: int) -> None:
    """Check the options of a test.

    Raises
    ------
    UnknownNameError
        When there is no such test, or the number of resamples is not a positive whole number.
    """
    if test not in get_args(Test):
        raise UnknownNameError(
            f"test={test!r} is not a test of a difference.{near_names(str(test), get_args(Test))} "
            f"Pass {', '.join(map(repr, get_args(Test)))}."
        )
    if isinstance(n_resamples, bool) or not isinstance(n_resamples, (int, np.integer)) or n_resamples < 1:
        raise UnknownNameError(
            f"resamples={n_resamples!r} is not a number of permutations, so there is no test. Pass a whole number, "
            "such as 9999."
        )


def smallest_p(n_a: int, n_b: int, paired: bool, n_resamples: int) -> float:
    """Return the smallest p-value that a two-sided permutation test of so many members can give.

    Parameters
    ----------
    n_a, n_b : int
        Members of each sample; of pairs, both are their number.
    paired : bool
    n_resamples : int
        Permutations are drawn instead of enumerated where there are more than this.

    Examples
    --------
    >>> [smallest_p(n, n, True, 9999) for n in (2, 3, 6)], smallest_p(3, 3, False, 9999)
    ([0.5, 0.25, 0.03125], 0.1)
    """
    if min(n_a, n_b) < 1:
        return math.nan
    count = 2**n_a if paired else math.comb(n_a + n_b, n_a)
    return min(2.0 / (count if count <= n_resamples else n_resamples + 1), 1.0)


def of_pairs(
    a: Float64,
    b: Float64,
    interval: Interval,
    level: float,
    test: Test,
    n_resamples: int,
    seed: int,
) -> MeanDifference:
    """Return the mean of the differences of pairs.

    Parameters
    ----------
    a, b : (cell, member) float64 arrays
        Members at one position are a pair; pairs with a NaN are left out.
    interval : {"t", "bootstrap", "none"}
    level : float
    test : {"permutation", "t", "none"}
    n_resamples, seed : int
        Permutations are drawn where there are more than `n_resamples`.

    Notes
    -----
    The interval and the t test are those of the mean of the differences, with n - 1 degrees of freedom. The
    permutation test flips the signs of differences, which are symmetric around 0 if members of a pair are
    exchangeable.

    Examples
    --------
    >>> a, b = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.5, 4.5]])
    >>> found = of_pairs(a, b, "t", 0.95, "permutation", 9999, 0)
    >>> found.estimate.tolist(), found.p_value.tolist()
    ([1.0], [0.25])
    """
    with np.errstate(invalid="ignore"):
        # The difference of two infinite values is unknown.
        change = b - a
    estimate, _, low, high = interval_of_mean(change, interval, level)
    p_value = np.full(len(change), np.nan)
    if test == "t":
        mean, n, squared = _moments(change)
        p_value = _p_of_t(mean, np.sqrt(squared), n - 1.0, squared == 0)
    elif test == "permutation":
        for rows, (values,) in _groups(change):
            if values.shape[1] > 1:
                p_value[rows] = _permuted((values,), "samples", n_resamples, seed)
    return MeanDifference(estimate, low, high, p_value)


def of_independent(
    a: Float64,
    b: Float64,
    interval: Interval,
    level: float,
    test: Test,
    n_resamples: int,
    seed: int,
) -> MeanDifference:
    """Return the difference of the means of independent samples.

    Parameters
    ----------
    a : (cell, member_a) float64 array
        NaN where a member has no value.
    b : (cell, member_b) float64 array
    interval, level, test, n_resamples, seed
        As for :func:`of_pairs`.

    Notes
    -----
    The interval and the t test are Welch's [1]_, which does not take variances as equal: with ``e = s² / n`` of each
    sample, the standard error is ``√(e_a + e_b)``, with ``(e_a + e_b)² / (e_a² / (n_a - 1) + e_b² / (n_b - 1))``
    degrees of freedom. Both samples need two members. The bootstrap resamples each sample by itself. The permutation
    test exchanges members between the samples; the smaller one may have one member.

    References
    ----------
    .. [1] Welch (1947), The generalization of 'Student's' problem when several different population variances are
       involved. Biometrika 34 (1-2), 28-35. doi:10.1093/biomet/34.1-2.28

    Examples
    --------
    >>> a, b = np.array([[1.0, 2.0, 3.0]]), np.array([[5.0, 6.0]])
    >>> found = of_independent(a, b, "t", 0.95, "permutation", 9999, 0)
    >>> found.estimate.tolist(), found.low.round(2).tolist(), found.p_value.tolist()
    ([3.5], [1.01], [0.2])
    """
    from scipy.special import stdtrit

    (mean_a, n_a, error_a), (mean_b, n_b, error_b) = _moments(a), _moments(b)
    squared = error_a + error_b
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = mean_b - mean_a
        freedom = squared**2 / (error_a**2 / (n_a - 1.0) + error_b**2 / (n_b - 1.0))
    constant = squared == 0
    freedom[constant] = 1.0
    low, high, p_value = (np.full(len(a), np.nan) for _ in range(3))
    if interval == "t":
        half = stdtrit(freedom, (1.0 + level) / 2.0) * np.sqrt(squared)
        low, high = estimate - half, estimate + half
    if test == "t":
        p_value = _p_of_t(estimate, np.sqrt(squared), freedom, constant)
    if interval == "bootstrap" or test == "permutation":
        for rows, (one, other) in _groups(a, b):
            several = min(one.shape[1], other.shape[1]) > 1
            if interval == "bootstrap" and several:
                low[rows], high[rows] = _bootstrap(one, other, level, seed)
            if test == "permutation" and min(one.shape[1], other.shape[1]) and one.shape[1] + other.shape[1] > 2:
                p_value[rows] = _permuted((one, other), "independent", n_resamples, seed)
    return MeanDifference(estimate, low, high, p_value)


def _moments(values: Float64) -> tuple[Float64, Float64, Float64]:
    """Return mean, number of members, and squared standard error of the mean of each row."""
    there = ~np.isnan(values)
    n = there.sum(axis=1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0.0).sum(axis=1) / n
        squares = np.where(there, (values - mean[:, None]) ** 2, 0.0).sum(axis=1)
        # The mean of equal numbers may differ from them in its last bit.
        squares[_is_constant(values)] = 0.0
        return mean, n, np.where(n > 1, squares / (n - 1.0) / n, np.nan)


def _is_constant(values: Float64) -> npt.NDArray[np.bool_]:
    """Return whether all members of a row are equal."""
    there = ~np.isnan(values)
    least = np.where(there, values, np.inf).min(axis=1, initial=np.inf)
    return np.asarray(least == np.where(there, values, -np.inf).max(axis=1, initial=-np.inf))


def _p_of_t(estimate: Float64, error: Float64, freedom: Float64, constant: npt.NDArray[np.bool_]) -> Float64:
    """Return two-sided p-values of Student's t; of members without scatter, 1 for no difference and else 0."""
    from scipy.special import stdtr

    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2.0 * stdtr(freedom, -np.abs(estimate / error))
    p[constant] = np.where(estimate[constant] == 0, 1.0, 0.0)
    return np.where(np.isnan(error) | (freedom < 1), np.nan, p)


def _groups(*samples: Float64) -> Iterator[tuple[npt.NDArray[np.intp], list[Float64]]]:
    """Yield the rows of the same numbers of members, and their members without NaN."""
    counts = np.stack([(~np.isnan(s)).sum(axis=1) for s in samples], axis=1)
    packed = [np.take_along_axis(s, np.argsort(np.isnan(s), axis=1, kind="stable"), axis=1) for s in samples]
    for found in np.unique(counts, axis=0):
        rows = np.flatnonzero((counts == found).all(axis=1))
        yield rows, [p[rows, :n] for p, n in zip(packed, found.tolist(), strict=True)]


def _permuted(
    samples: tuple[Float64, ...], kind: Literal["samples", "independent"], n_resamples: int, seed: int
) -> Float64:
    """Return p-values of permutation tests of rows without NaN; NaN for rows with an infinite value."""
    from scipy.stats import permutation_test

    statistic: Callable[..., Any] = _mean if len(samples) == 1 else _difference_of_means
    members = sum(s.shape[1] for s in samples)
    exact = 2**members if kind == "samples" else math.comb(members, samples[0].shape[1])
    step = max(_BLOCK // (min(exact, n_resamples) * members), 1)
    found = np.full(len(samples[0]), np.nan)
    # Means of infinite values can't be compared with those of their permutations.
    finite = np.flatnonzero(np.logical_and.reduce([np.isfinite(s).all(axis=1) for s in samples]))
    for start in range(0, len(finite), step):
        rows = finite[start : start + step]
        result = permutation_test(
            [s[rows] for s in samples],
            statistic,
            permutation_type=kind,
            vectorized=True,
            n_resamples=n_resamples,
            axis=-1,
            # Named rng since SciPy 1.15; this name works in all versions.
            random_state=np.random.default_rng(seed),
        )
        found[rows] = result.pvalue
    return found


def _mean(values: Float64, axis: int) -> Any:
    return values.mean(axis=axis)


def _difference_of_means(a: Float64, b: Float64, axis: int) -> Any:
    return b.mean(axis=axis) - a.mean(axis=axis)


def _bootstrap(a: Float64, b: Float64, level: float, seed: int) -> tuple[Float64, Float64]:
    """Return percentile bounds of the difference of the means of resamples of each sample."""
    weights = []
    for k, sample in enumerate((a, b)):
        n = sample.shape[1]
        drawn = resamples(n, _DRAWN, seed + k)
        weights.append((drawn[..., None] == np.arange(n)).mean(axis=1))
    tail = (1.0 - level) / 2.0
    bounds = np.empty((2, len(a)))
    step = max(_BLOCK // _DRAWN, 1)
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        means = b[rows] @ weights[1].T - a[rows] @ weights[0].T
        bounds[:, rows] = np.quantile(means, [tail, 1.0 - tail], axis=1)
    return bounds[0], bounds[1]
