"""Estimates of sigmoids from loss to accuracy, on packed arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dde.analysis.estimates import (
    CONVERGED,
    NOT_CONVERGED,
    SINGULAR,
    Estimate,
    Refits,
    best_minima,
    count_points,
    has_clusters,
    inverse_cross_product,
    is_singular,
    jackknife_covariance,
    runs_present,
)
from dde.analysis.laws import sigmoid, sigmoid_gradient
from dde.analysis.solver import LeastSquaresSigmoid, Problem, minimize_rows
from dde.array_types import Bool, Float64, Int64

__all__ = ["estimate_sigmoid"]

_FLAT = "not identified: the values do not change with the loss"


def estimate_sigmoid(
    x: Float64,
    y: Float64,
    run: Int64,
    entered: Bool,
    ceiling: float | None,
    starts: int,
    samples: int,
    seed: int,
) -> Estimate:
    """Fit a sigmoid from loss to accuracy to each row, by least squares.

    Parameters
    ----------
    x, y : (fit, member) float64 arrays
        Losses and accuracies.
    run : (fit, member) int64 array
    entered : (fit, member) bool array
    ceiling : float or None
        Value at a loss of zero, which enters as one more member, and bound of the parameters.
    starts, samples, seed : int
    """
    members = entered
    count = len(y)
    if ceiling is not None:
        # The additional member belongs to no run: it is never left out or resampled.
        x = np.concatenate([x, np.zeros((count, 1))], axis=1)
        y = np.concatenate([y, np.full((count, 1), ceiling)], axis=1)
        run = np.concatenate([run, np.full((count, 1), -1)], axis=1)
        entered = np.concatenate([entered, np.ones((count, 1), bool)], axis=1)
    x, y = np.where(entered, x, 0.0), np.where(entered, y, 0.0)
    weights = entered.astype(np.float64)
    top = np.inf if ceiling is None else ceiling
    low, high = np.array([-top, 0.0, 0.0, -np.inf if ceiling is None else 0.0]), np.array([0.0, np.inf, np.inf, top])

    def problem(values: Float64, weight: Float64, of: npt.NDArray[np.intp]) -> Problem:
        return LeastSquaresSigmoid(x, of, values, weight)

    grid = _grid_of_sigmoids(x, y, weights, members, low, high)
    theta, _, converged = best_minima(problem(y, weights, np.arange(count)), grid, starts, low, high)
    residual = np.where(entered, y - sigmoid(theta[:, None, :], x), 0.0)
    present = runs_present(run[:, : members.shape[1]], members)
    runs, per_fit = present.shape[1], present.sum(axis=1)
    covariance, degrees, singular = _covariance_of_sigmoid(x, theta, residual, entered)
    n = members.sum(axis=1).astype(np.int64)
    status = np.full(count, CONVERGED, object)
    status[singular] = SINGULAR
    status[(theta[:, 0] > -1e-9) | (theta[:, 2] <= 1e-9)] = _FLAT
    status[~converged] = NOT_CONVERGED
    distinct = count_points([x[:, : members.shape[1]]], members)
    for fit in np.flatnonzero(distinct < 4):
        status[fit] = f"not identified: {distinct[fit]} different losses for 4 parameters"
    status[n == 0] = "no member"
    ok = status == CONVERGED
    draws, without = np.full((count, samples, 4), np.nan), np.full((count, runs, 4), np.nan)
    refits = Refits(y, entered, run)
    for refit in refits.batches(np.flatnonzero(ok), samples, runs, seed):
        found = minimize_rows(problem(refit.values, refit.weights, refit.fit), theta[refit.fit], low, high)
        result = np.where(found.converged[:, None], found.theta, np.nan)
        (draws if refit.kind == "sample" else without)[refit.fit, refit.position] = result
    coefficient = np.where(ok[:, None], theta, np.nan)
    if (many := ok & has_clusters(run[:, : members.shape[1]], members)).any():
        covariance[many], degrees[many] = jackknife_covariance(theta[many], without[many], present[many])
    wide = np.repeat(degrees[:, None], 4, axis=1)
    covariance[~ok] = np.nan
    return Estimate(coefficient, status, n, per_fit, covariance, wide, draws, without, present)


def _grid_of_sigmoids(x: Float64, y: Float64, weights: Float64, members: Bool, low: Float64, high: Float64) -> Float64:
    """Return starts (grid, fit, parameter): a grid of middles and steepnesses, with a and b by least squares."""
    wide = members if members.shape == x.shape else np.pad(members, ((0, 0), (0, 1)))
    highest = np.where(wide, x, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(wide, x, np.inf).min(axis=1, initial=np.inf)
    span = np.where(np.isfinite(highest - lowest) & (highest > lowest), highest - lowest, 1.0)
    lowest = np.where(np.isfinite(lowest), lowest, 0.0)
    shares, steepnesses = (-1.0, -0.5, -0.2, 0.1, 0.3, 0.5, 0.7, 1.0), (1.5, 3.0, 6.0, 12.0)
    starts = []
    for share in shares:
        for steepness in steepnesses:
            theta = np.stack([np.full(len(x), -0.5), lowest + share * span, steepness / span, np.ones(len(x))], axis=1)
            risen = sigmoid(
                np.stack([np.ones(len(x)), theta[:, 1], theta[:, 2], np.zeros(len(x))], axis=1)[:, None, :], x
            )
            total = np.maximum(weights.sum(axis=1), 1.0)
            mean_r, mean_y = ((weights * v).sum(axis=1) / total for v in (risen, y))
            centred = weights * (risen - mean_r[:, None])
            theta[:, 0] = (centred * y).sum(axis=1) / ((centred * risen).sum(axis=1) + 1e-12)
            theta[:, 0] = np.clip(theta[:, 0], low[0], -1e-3)
            theta[:, 3] = mean_y - theta[:, 0] * mean_r
            starts.append(np.clip(theta, low, high))
    return np.stack(starts)


def _covariance_of_sigmoid(
    x: Float64, theta: Float64, residual: Float64, entered: Bool
) -> tuple[Float64, Float64, Bool]:
    """Return covariance, degrees of freedom, and whether parameters depend on each other."""
    jacobian = sigmoid_gradient(theta[:, None, :], x) * entered[..., None]
    bread, used = inverse_cross_product(jacobian), theta.shape[1]
    degrees = (entered.sum(axis=1) - used).astype(np.float64)
    with np.errstate(all="ignore"):
        covariance = bread * ((residual**2).sum(axis=1) / degrees)[:, None, None]
    covariance[degrees < 1] = np.nan
    return covariance, degrees, is_singular(jacobian)
