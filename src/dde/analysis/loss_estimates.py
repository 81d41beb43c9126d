"""Estimates of laws of losses, sums of an asymptote and powers of sizes, on packed arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dde.analysis.estimates import (
    CONVERGED,
    NOT_CONVERGED,
    SINGULAR,
    Estimate,
    Refit,
    Refits,
    best_minima,
    count_points,
    has_clusters,
    inverse_cross_product,
    is_singular,
    jackknife_covariance,
    runs_present,
)
from dde.analysis.laws import LossLaw
from dde.analysis.solver import HuberLogSum, HuberPowers, minimize_rows
from dde.array_types import Bool, Float64, Int64

__all__ = ["estimate_loss_law"]

_AT_ZERO = "converged; the asymptote E is at its bound 0"
_NO_TREND = "not identified: the values do not change with size"
_BELOW_ZERO = "not identified: the asymptote would be below zero"
_PROPORTIONAL = "not identified: tokens follow from the parameter count, so their effects can't be told apart"
_NO_ASYMPTOTE = "not identified: no asymptote, the values follow a straight line in the logarithm of size"

# Bounds of exponents times the range of the logarithm of size: below, a power is a straight line; above, it differs
# from zero at one size only.
_LEAST_BEND, _MOST_BEND = 0.02, 60.0


def estimate_loss_law(
    law: LossLaw,
    x: Float64,
    y: Float64,
    run: Int64,
    entered: Bool,
    delta: float,
    starts: int,
    samples: int,
    seed: int,
) -> Estimate:
    """Fit a sum of powers to each row, by Huber's loss of the logarithms.

    Parameters
    ----------
    law : LossLaw
    x : (feature, fit, member) float64 array
        Positive sizes.
    y : (fit, member) float64 array
        Positive values.
    run : (fit, member) int64 array
        Number of the run of a member within its fit.
    entered : (fit, member) bool array
    delta : float
    starts : int
        Number of starts from a grid of exponents.
    samples : int
        Number of resamples.
    seed : int
    """
    scaled = _Scaled.of(x, y, entered)
    count, every = len(y), np.arange(len(y))
    weights = entered.astype(np.float64)
    plain = _lowest(law, scaled, weights, delta, starts)
    reason = _reasons(law, scaled, entered, plain)
    ok = reason == ""
    with np.errstate(all="ignore"):
        residual = np.where(
            entered, scaled.log_y - np.log(sum(_terms(scaled, plain)[1:], _terms(scaled, plain)[0])), 0.0
        )
    covariance, degrees = _covariance(law, scaled, entered, plain, residual, delta)
    present = runs_present(run, entered)
    runs, per_fit = present.shape[1], present.sum(axis=1)
    names = len(law.parameters)
    draws, without = np.full((count, samples, names), np.nan), np.full((count, runs, names), np.nan)
    refits = Refits(scaled.log_y, entered, run)
    for refit in refits.batches(np.flatnonzero(ok), samples, runs, seed):
        again = _repeated(law, scaled, refit, plain, delta)
        natural = _natural(law, scaled, again, refit.fit)
        natural[~again.found | (again.asymptote < 0) | (_points(scaled, refit.weights, refit.fit) < names)] = np.nan
        (draws if refit.kind == "sample" else without)[refit.fit, refit.position] = natural
    coefficient = _natural(law, scaled, plain, every)
    if (many := ok & has_clusters(run, entered)).any():
        theta, theta_without = (_on_logarithms(law, c[many]) for c in (coefficient, without))
        covariance[many], degrees[many] = jackknife_covariance(theta, theta_without, present[many])
    coefficient[~ok] = covariance[~ok] = np.nan
    at_zero = (plain.asymptote == 0) & law.offset
    status = np.where(ok, np.where(at_zero, _AT_ZERO, CONVERGED), reason).astype(object)
    n = entered.sum(axis=1).astype(np.int64)
    wide = np.repeat(degrees[:, None], names, axis=1)
    return Estimate(coefficient, status, n, per_fit, covariance, wide, draws, without, present)


@dataclass(frozen=True)
class _Scaled:
    """Logarithms of sizes, centred and divided by their range, and of values, centred.

    Attributes
    ----------
    z : (feature, fit, member) float64 array
    mean, span : (feature, fit) float64 arrays
        Of the logarithms of sizes.
    log_y : (fit, member) float64 array
    level : (fit,) float64 array
        Mean of the logarithms of values.
    """

    z: Float64
    mean: Float64
    span: Float64
    log_y: Float64
    level: Float64

    @classmethod
    def of(cls, x: Float64, y: Float64, entered: Bool) -> _Scaled:
        """Standardise; members that did not enter are zero."""
        n = np.maximum(entered.sum(axis=1), 1)
        log_x = np.log(np.where(entered, x, 1.0))
        log_y = np.log(np.where(entered, y, 1.0))
        mean, level = log_x.sum(axis=2) / n, log_y.sum(axis=1) / n
        highest = np.where(entered, log_x, -np.inf).max(axis=2, initial=-np.inf)
        lowest = np.where(entered, log_x, np.inf).min(axis=2, initial=np.inf)
        span = highest - lowest
        span = np.where(np.isfinite(span) & (span > 0), span, 1.0)
        z = np.where(entered, (log_x - mean[..., None]) / span[..., None], 0.0)
        return cls(z, mean, span, np.where(entered, log_y - level[:, None], 0.0), level)


class _Plain(NamedTuple):
    """Parameters of standardised data: f is the asymptote plus powers ``coefficient * exp(-exponent * z)``.

    Attributes
    ----------
    asymptote : (row,) float64 array
        Zero where it is at its bound, or the law has none.
    coefficient, exponent : (feature, row) float64 arrays
    found : (row,) bool array
        Whether the search ended at a minimum.
    """

    asymptote: Float64
    coefficient: Float64
    exponent: Float64
    found: Bool

    def centred(self) -> Float64:
        """Return the parameters of :class:`HuberPowers`, (row, parameter)."""
        middle = self.asymptote + self.coefficient.sum(axis=0)
        return np.stack([middle, *(self.coefficient * self.exponent), *self.exponent], axis=1)

    def logarithms(self) -> Float64:
        """Return the parameters of :class:`HuberLogSum`, (row, parameter)."""
        return np.stack([*np.log(np.maximum(self.coefficient, 1e-3)), *self.exponent], axis=1)


def _of_centred(theta: Float64, found: Bool) -> _Plain:
    powers = theta.shape[1] // 2
    exponent = theta[:, 1 + powers :].T
    coefficient = theta[:, 1 : 1 + powers].T / exponent
    return _Plain(theta[:, 0] - coefficient.sum(axis=0), coefficient, exponent, found)


def _of_logarithms(theta: Float64, found: Bool) -> _Plain:
    powers = theta.shape[1] // 2
    with np.errstate(over="ignore"):
        return _Plain(np.zeros(len(theta)), np.exp(theta[:, :powers].T), theta[:, powers:].T.copy(), found)


def _bounds(powers: int) -> tuple[Float64, Float64]:
    """Return bounds of the parameters of :class:`HuberPowers`."""
    free = [np.inf] * (1 + powers)
    return np.array([-f for f in free] + [_LEAST_BEND] * powers), np.array(free + [_MOST_BEND] * powers)


def _either(with_asymptote: _Plain, bare: _Plain, objective: Float64, bare_objective: Float64) -> _Plain:
    """Return the law with an asymptote, or the one without where the asymptote would be negative or adds nothing."""
    # Powers that rise with size can't end at an asymptote of zero.
    is_candidate = bare.found & (bare.exponent > 0).all(axis=0)
    is_negative = (with_asymptote.asymptote < 0) | ~np.isfinite(objective)
    equal = bare_objective <= objective * (1 + 1e-6) + 1e-24
    chosen = is_candidate & (is_negative | equal)
    return _Plain(
        np.where(chosen, 0.0, with_asymptote.asymptote),
        np.where(chosen, bare.coefficient, with_asymptote.coefficient),
        np.where(chosen, bare.exponent, with_asymptote.exponent),
        np.where(chosen, bare.found, with_asymptote.found),
    )


def _lowest(law: LossLaw, scaled: _Scaled, weights: Float64, delta: float, starts: int) -> _Plain:
    """Return the lowest minimum of each fit."""
    every, powers = np.arange(len(weights)), len(law.features)
    bare_problem = HuberLogSum(scaled.z, every, scaled.log_y, weights, delta)
    guesses = ((0.3,), (1.5,)) if powers == 1 else ((0.5, 0.5), (2.0, 0.3), (0.3, 2.0), (2.0, 2.0))
    grid = np.stack([np.tile([*[-np.log(powers)] * powers, *guess], (len(every), 1)) for guess in guesses])
    free = np.full(2 * powers, np.inf)
    theta, bare_objective, found = best_minima(bare_problem, grid, len(grid), -free, free)
    bare = _of_logarithms(theta, found)
    if not law.offset:
        return bare
    low, high = _bounds(powers)
    problem = HuberPowers(scaled.z, every, scaled.log_y, weights, delta)
    grid = _grid(scaled, weights, powers)
    theta, objective, found = best_minima(
        problem, grid, starts, low, high, lambda t: _of_centred(t, t[:, 0] > 0)[0] >= 0
    )
    return _either(_of_centred(theta, found), bare, objective, bare_objective)


def _repeated(law: LossLaw, scaled: _Scaled, refit: Refit, plain: _Plain, delta: float) -> _Plain:
    """Return the minima of refits, from the estimates as starts."""
    at = refit.fit
    start = _Plain(plain.asymptote[at], plain.coefficient[:, at], plain.exponent[:, at], plain.found[at])
    if not law.offset:
        problem = HuberLogSum(scaled.z, at, refit.values, refit.weights, delta)
        solved = minimize_rows(problem, start.logarithms())
        return _of_logarithms(solved.theta, solved.converged)
    low, high = _bounds(len(law.features))
    powers = HuberPowers(scaled.z, at, refit.values, refit.weights, delta)
    solved = minimize_rows(powers, start.centred(), low, high)
    again = _of_centred(solved.theta, solved.converged)
    some = np.flatnonzero(((again.asymptote < 0) | (start.asymptote == 0)) & (start.coefficient > 0).all(axis=0))
    if not len(some):
        return again
    problem = HuberLogSum(scaled.z, at[some], refit.values[some], refit.weights[some], delta)
    zero = minimize_rows(problem, start.logarithms()[some])
    bare = _of_logarithms(zero.theta, zero.converged)
    part = _Plain(again[0][some], again[1][:, some], again[2][:, some], again[3][some])
    either = _either(part, bare, solved.objective[some], zero.objective)
    again.asymptote[some], again.found[some] = either.asymptote, either.found
    again.coefficient[:, some], again.exponent[:, some] = either.coefficient, either.exponent
    return again


def _grid(scaled: _Scaled, weights: Float64, powers: int) -> Float64:
    """Return starts (grid, fit, parameter): a grid of exponents, with the other parameters by least squares.

    For given exponents a law is linear in its other parameters (variable projection, Golub and Pereyra 1973).
    """
    steps = np.geomspace(0.06, 12.0, 16) if powers == 1 else np.geomspace(0.1, 8.0, 6)
    exponents = np.stack(np.meshgrid(*[steps] * powers, indexing="ij"), axis=-1).reshape(-1, powers)
    inverse = np.where(weights > 0, np.exp(-scaled.log_y), 0.0)
    starts = np.empty((len(exponents), len(weights), 1 + 2 * powers))
    for k, exponent in enumerate(exponents):
        columns = [np.expm1(-exponent[f] * scaled.z[f]) / exponent[f] for f in range(powers)]
        matrix = np.stack([inverse, *(inverse * c for c in columns)], axis=-1)
        gram = np.swapaxes(matrix, 1, 2) @ (weights[..., None] * matrix)
        ridge = 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-200
        target = (weights[..., None] * matrix).sum(axis=1)[..., None]
        starts[k, :, : 1 + powers] = np.linalg.solve(gram + ridge * np.eye(1 + powers), target)[..., 0]
        starts[k, :, 1 + powers :] = exponent
    return starts


def _reasons(law: LossLaw, scaled: _Scaled, entered: Bool, plain: _Plain) -> npt.NDArray[np.object_]:
    """Return why a fit has no coefficients; "" where it has."""
    reason = np.full(len(entered), "", object)
    if law.offset:
        reason[(plain.exponent >= _MOST_BEND).any(axis=0)] = SINGULAR
        reason[((plain.exponent <= _LEAST_BEND) & (plain.asymptote != 0)).any(axis=0)] = _NO_ASYMPTOTE
        reason[(np.abs(plain.coefficient * plain.exponent) <= 1e-10).any(axis=0)] = _NO_TREND
    reason[(reason == "") & is_singular(_jacobian(law, scaled, entered, plain))] = SINGULAR
    reason[~plain.found] = NOT_CONVERGED
    reason[plain.asymptote < 0] = _BELOW_ZERO
    spread = np.abs(scaled.log_y).max(axis=1, initial=0.0)
    if law.offset:
        reason[spread <= 1e-12] = _NO_TREND
    needed, alone = len(law.parameters), 2 + int(law.offset)
    n, points = entered.sum(axis=1), _points(scaled, entered, np.arange(len(entered)))
    for k, feature in enumerate(law.features if len(law.features) > 1 else ()):
        label = {"n_params": "parameter counts", "tokens": "numbers of tokens"}[feature]
        single = count_points([scaled.z[k]], entered)
        for fit in np.flatnonzero(single < alone):
            reason[fit] = f"not identified: {single[fit]} different {label}, at least {alone} are needed"
    if len(law.features) > 1:
        reason[_is_proportional(scaled) & (points >= needed)] = _PROPORTIONAL
    for fit in np.flatnonzero(points < needed):
        what = f"{points[fit]} different sizes" if n[fit] >= needed else f"{n[fit]} members"
        reason[fit] = f"not identified: {what} for {needed} parameters"
    reason[n == 0] = "no member"
    return reason


def _is_proportional(scaled: _Scaled) -> Bool:
    """Return whether one size is a power of the other, so that the data can't say to which a change is due."""
    first, second = scaled.z[0], scaled.z[1]
    with np.errstate(all="ignore"):
        shared = (first * second).sum(axis=1) ** 2 / ((first**2).sum(axis=1) * (second**2).sum(axis=1))
    # Where tokens are planned as a multiple of the parameters, they differ from it by some percent.
    return np.asarray(shared > 1 - 1e-3)


def _points(scaled: _Scaled, weights: Float64 | Bool, of: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    return count_points([z[of] for z in scaled.z], weights > 0)


def _terms(scaled: _Scaled, plain: _Plain) -> list[Float64]:
    """Return the asymptote and the powers at the members, (fit, member)."""
    with np.errstate(all="ignore"):
        powers = plain.coefficient[..., None] * np.exp(-plain.exponent[..., None] * scaled.z)
    return [plain.asymptote[:, None] + np.zeros_like(scaled.log_y), *powers]


def _jacobian(law: LossLaw, scaled: _Scaled, entered: Bool, plain: _Plain) -> Float64:
    """Return the derivatives of the logarithm of the law (fit, member, parameter).

    Parameters are the asymptote, the logarithms of coefficients, and the exponents, of standardised data. An asymptote
    at its bound counts as free, so that the interval of the others includes its uncertainty.
    """
    terms = _terms(scaled, plain)
    with np.errstate(all="ignore"):
        total = sum(terms[1:], terms[0])
        shares = [np.where(entered, term / total, 0.0) for term in [np.ones_like(total), *terms[1:]]]
        parts = [*shares, *(-share * z for share, z in zip(shares[1:], scaled.z, strict=True))]
        return np.asarray(np.nan_to_num(np.stack(parts[0 if law.offset else 1 :], axis=-1)), np.float64)


def _natural(law: LossLaw, scaled: _Scaled, plain: _Plain, of: npt.NDArray[np.intp]) -> Float64:
    """Return coefficients in the units of the data, (row, parameter)."""
    with np.errstate(all="ignore"):
        exponent = plain.exponent / scaled.span[:, of]
        coefficient = plain.coefficient * np.exp(scaled.level[of] + exponent * scaled.mean[:, of])
        asymptote = plain.asymptote * np.exp(scaled.level[of])
    return np.stack([*([asymptote] if law.offset else []), *coefficient, *exponent], axis=1)


def _on_logarithms(law: LossLaw, coefficient: Float64) -> Float64:
    """Return coefficients with the logarithm of the size of those whose interval is symmetric there."""
    with np.errstate(all="ignore"):
        return np.where(law.is_log, np.log(np.abs(coefficient)), coefficient)


def _covariance(
    law: LossLaw, scaled: _Scaled, entered: Bool, plain: _Plain, residual: Float64, delta: float
) -> tuple[Float64, Float64]:
    """Return the covariance of asymptote, logarithms of coefficients and exponents, and the degrees of freedom."""
    from scipy.stats import norm

    jacobian, used = _jacobian(law, scaled, entered, plain), len(law.parameters)
    bread = inverse_cross_product(jacobian)
    degrees = (entered.sum(axis=1) - used).astype(np.float64)
    size = np.where(entered, np.abs(np.nan_to_num(residual)), np.nan)
    with np.errstate(all="ignore"):
        if np.isinf(delta):
            variance, inside = np.nansum(size**2, axis=1) / degrees, np.ones(len(size))
        else:
            # A fit by absolute values passes through as many members as it has parameters, which say nothing of scale.
            rank = np.argsort(np.argsort(size, axis=1), axis=1)
            scale = _median(np.where(rank >= used, size, np.nan)) / norm.ppf(0.75)
            ratio = delta / scale
            inside = np.where(scale > 0, 2 * norm.cdf(ratio) - 1, 1.0)
            tails = 2 * delta**2 * norm.sf(ratio) - 2 * scale * delta * norm.pdf(ratio)
            variance = np.where(scale > 0, scale**2 * inside + tails, 0.0) / inside**2
        covariance = bread * variance[:, None, None]
    covariance[degrees < 1] = np.nan
    first, powers = int(law.offset), len(law.features)
    transform = np.tile(np.eye(len(law.parameters)), (len(entered), 1, 1))
    if law.offset:
        transform[:, 0, 0] = np.exp(scaled.level)
    for k in range(powers):
        # log A = log A' + alpha' mean / span, and alpha = alpha' / span.
        transform[:, first + k, first + powers + k] = scaled.mean[k] / scaled.span[k]
        transform[:, first + powers + k, first + powers + k] = 1 / scaled.span[k]
    return transform @ covariance @ np.swapaxes(transform, 1, 2), degrees


def _median(values: Float64) -> Float64:
    """Return the median of each row, ignoring NaN; NaN for a row without values."""
    ordered = np.sort(values, axis=1)
    n = (~np.isnan(values)).sum(axis=1)
    at = np.arange(len(values))
    low, high = (np.maximum(n - 1, 0)) // 2, np.maximum(n, 1) // 2
    middle = 0.5 * (
        ordered[at, np.minimum(low, values.shape[1] - 1)] + ordered[at, np.minimum(high, values.shape[1] - 1)]
    )
    return np.where(n > 0, middle, np.nan)
