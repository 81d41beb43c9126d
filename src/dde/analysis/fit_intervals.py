"""Intervals of the coefficients of laws."""

from __future__ import annotations

import numpy as np

from dde.analysis.estimates import Estimate
from dde.analysis.intervals import Interval
from dde.analysis.laws import Law
from dde.array_types import Float64

__all__ = ["interval_of_coefficients", "quantiles_of_samples", "t_quantiles"]


def t_quantiles(degrees: Float64, level: float) -> Float64:
    """Return the quantile of Student's t at half the level above the middle; NaN without degrees of freedom.

    Examples
    --------
    >>> t_quantiles(np.array([9.0, 0.0]), 0.95).round(3).tolist()
    [2.262, nan]
    """
    from scipy.stats import t

    return np.where(degrees >= 1, t.ppf(0.5 + level / 2, np.maximum(degrees, 1)), np.nan)


def quantiles_of_samples(samples: Float64, degrees: Float64, level: float) -> tuple[Float64, Float64]:
    """Return percentiles over the first dimension, widened for Student's t.

    Hesterberg (2015): the percentiles are those at which a normal variable has the quantiles of Student's t.

    Parameters
    ----------
    samples : (sample, ...) float64 array
    degrees : (...) float64 array
    level : float
    """
    from scipy.stats import norm

    tail = norm.cdf(-t_quantiles(np.broadcast_to(degrees, samples.shape[1:]), level))
    ordered = np.sort(samples, axis=0)
    n = (~np.isnan(samples)).sum(axis=0)

    def at(share: Float64) -> Float64:
        position = share * np.maximum(n - 1, 0)
        below = np.floor(np.nan_to_num(position)).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(n - 1, 0))
        low = np.take_along_axis(ordered, below[None], axis=0)[0]
        high = np.take_along_axis(ordered, above[None], axis=0)[0]
        part = position - below
        # Weights of zero must not meet infinite values.
        with np.errstate(invalid="ignore"):
            between = np.where(part == 0, low, low + part * (high - low))
        return np.where((n >= 2) & ~np.isnan(share), between, np.nan)

    return at(tail), at(1 - tail)


def interval_of_coefficients(
    law: Law, fits: Estimate, x_high: Float64, interval: Interval, level: float, ceiling: float | None
) -> tuple[Float64, Float64]:
    """Return both ends of the interval of each coefficient, (fit, parameter); NaN where there is none.

    Parameters
    ----------
    law : Law
    fits : Estimate
    x_high : (fit, quantity) float64 array
        Largest sizes that entered, at which the distance to the asymptote is taken.
    interval : {"t", "bootstrap", "none"}
    level : float
    ceiling : float or None
        Bound of the parameters of a sigmoid.
    """
    coefficient = fits.coefficient
    if interval == "none":
        return np.full(coefficient.shape, np.nan), np.full(coefficient.shape, np.nan)
    if interval == "bootstrap":
        low, high = quantiles_of_samples(np.moveaxis(fits.samples, 1, 0), fits.degrees, level)
        missing = np.isnan(coefficient)
        return np.where(missing, np.nan, low), np.where(missing, np.nan, high)
    with np.errstate(all="ignore"):
        half = t_quantiles(fits.degrees, level) * np.sqrt(np.einsum("fpp->fp", fits.covariance))
        ends = np.stack([coefficient * np.exp(-half), coefficient * np.exp(half)])
        low = np.where(law.is_log, ends.min(axis=0), coefficient - half)
        high = np.where(law.is_log, ends.max(axis=0), coefficient + half)
        if law.loss and law.loss.offset:
            low[:, 0], high[:, 0] = _asymptote(law, fits, x_high, level, low[:, 0], high[:, 0])
    if law.has_sigmoid:
        top = np.inf if ceiling is None else ceiling
        low[:, -4:] = np.maximum(low[:, -4:], [-top, 0.0, 0.0, -np.inf if ceiling is None else 0.0])
        high[:, -4:] = np.minimum(high[:, -4:], [0.0, np.inf, np.inf, top])
    return low, high


def _asymptote(
    law: Law, fits: Estimate, x_high: Float64, level: float, low: Float64, high: Float64
) -> tuple[Float64, Float64]:
    """Return the interval of E: the union of the symmetric one and that of the distance from the last value to E.

    Estimates of E scatter further away from the data than towards them. The distance is a sum of powers, whose
    logarithm scatters evenly.
    """
    assert law.loss is not None
    of_loss, _ = law.split(fits.coefficient)
    x = {f: x_high[:, k] for k, f in enumerate(law.loss.features)}
    gradient = law.loss.gradient(of_loss, x)
    distance = law.loss.value(of_loss, x) - of_loss[:, 0]
    count = of_loss.shape[1]
    covariance = fits.covariance[:, :count, :count]
    quantile = t_quantiles(fits.degrees[:, 0], level)
    of_value = quantile * np.sqrt(np.einsum("fi,fij,fj->f", gradient, covariance, gradient))
    bare = np.concatenate([np.zeros((len(gradient), 1)), gradient[:, 1:] / distance[:, None]], axis=1)
    of_log = quantile * np.sqrt(np.einsum("fi,fij,fj->f", bare, covariance, bare))
    ends = np.stack([
        np.hypot(distance * np.expm1(of_log), of_value), np.hypot(distance * np.expm1(-of_log), of_value)
    ])  # fmt: skip
    falls = distance > 0
    below, above = np.where(falls, ends, ends[::-1])
    lower = np.fmin(low, of_loss[:, 0] - below)
    return np.where(falls, np.maximum(lower, 0.0), lower), np.fmax(high, of_loss[:, 0] + above)
