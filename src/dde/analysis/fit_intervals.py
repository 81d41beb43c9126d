"""Intervals of the coefficients of laws."""

from __future__ import annotations

import numpy as np

from dde.analysis.estimates import Estimate
from dde.analysis.intervals import Interval
from dde.analysis.laws import Law
from dde.array_types import Float64

__all__ = ["covariance_of_samples", "interval_of_coefficients", "quantiles_of_samples", "t_quantiles"]


# Share of resamples that must have enough different sizes.
_LEAST_VALID = 0.8


def t_quantiles(degrees: Float64, level: float) -> Float64:
    """Return the quantile of Student's t at half the level above the middle; NaN without degrees of freedom.

    Examples
    --------
    >>> t_quantiles(np.array([9.0, 0.0]), 0.95).round(3).tolist()
    [2.262, nan]
    """
    from scipy.stats import t

    return np.where(degrees >= 1, t.ppf(0.5 + level / 2, np.maximum(degrees, 1)), np.nan)


def quantiles_of_samples(samples: Float64, level: float) -> tuple[Float64, Float64]:
    """Return percentiles over the first dimension; NaN where more than a fifth of the samples are NaN.

    A resample is NaN where it has too few different sizes for its parameters. Where that is frequent, the others tell
    too little about the scatter.

    Parameters
    ----------
    samples : (sample, ...) float64 array
    level : float

    Examples
    --------
    >>> low, high = quantiles_of_samples(np.arange(101.0)[:, None], 0.5)
    >>> low.tolist(), high.tolist()
    ([25.0], [75.0])
    """
    ordered = np.sort(samples, axis=0)
    n = (~np.isnan(samples)).sum(axis=0)

    def at(share: float) -> Float64:
        position = share * np.maximum(n - 1, 0)
        below = np.floor(position).astype(np.int64)
        low, high = (np.take_along_axis(ordered, np.minimum(k, max(len(samples) - 1, 0))[None], axis=0)[0]
                     for k in (below, below + 1))  # fmt: skip
        part = position - below
        # Weights of zero must not meet infinite values.
        with np.errstate(invalid="ignore"):
            between = np.where(part == 0, low, low + part * (high - low))
        return np.where((n >= 2) & (n >= _LEAST_VALID * len(samples)), between, np.nan)

    tail = (1 - level) / 2
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
        low, high = quantiles_of_samples(np.moveaxis(fits.samples, 1, 0), level)
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


def covariance_of_samples(samples: Float64) -> Float64:
    """Return the covariance of coefficients over resamples (fit, sample, parameter), (fit, parameter, parameter)."""
    valid = np.asarray(~np.isnan(samples).any(axis=2))
    n = valid.sum(axis=1)
    there = np.where(valid[..., None], samples, 0.0)
    with np.errstate(all="ignore"):
        mean = there.sum(axis=1) / n[:, None]
        centred = np.where(valid[..., None], samples - mean[:, None, :], 0.0)
        covariance = np.swapaxes(centred, 1, 2) @ centred / (n - 1)[:, None, None]
    covariance[n < max(_LEAST_VALID * samples.shape[1], 2)] = np.nan
    return np.asarray(covariance, np.float64)


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
