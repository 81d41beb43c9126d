"""Parts of the estimates of all laws: starts, resamples, refits without single runs, covariance of correlated members.

Fits are rows (fit, member). Members of one run, such as its checkpoints, share a number in ``run``; they are resampled
and left out together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dde.analysis.solver import Problem, minimize_rows
from dde.array_types import Bool, Float64, Int64

__all__ = [
    "CONVERGED",
    "NOT_CONVERGED",
    "SINGULAR",
    "Estimate",
    "Refit",
    "Refits",
    "best_minima",
    "count_points",
    "has_clusters",
    "inverse_cross_product",
    "is_singular",
    "jackknife_covariance",
    "runs_present",
]

#: Status of a fit whose coefficients are identified.
CONVERGED = "converged"
NOT_CONVERGED = "not converged"
SINGULAR = "not identified: the parameters can't be told apart on these members"
# Rows of refits that are solved together, and their numbers.
_ROWS, _NUMBERS = 60_000, 4_000_000


@dataclass(frozen=True)
class Estimate:
    """Estimates of the parameters of fits.

    Attributes
    ----------
    coefficient : (fit, parameter) float64 array
        NaN where the status is not "converged".
    status : (fit,) object array
    n, runs : (fit,) int64 arrays
        Members and runs that entered.
    covariance : (fit, parameter, parameter) float64 array
        Of the parameters, of logarithms where the law says so. NaN where there are no degrees of freedom.
    degrees : (fit, parameter) float64 array
        Degrees of freedom of Student's t.
    samples : (fit, sample, parameter) float64 array
        Coefficients of resamples; no samples where none were asked for.
    without : (fit, run, parameter) float64 array
        Coefficients without each run.
    present : (fit, run) bool array
        Whether a run has members.
    """

    coefficient: Float64
    status: npt.NDArray[np.object_]
    n: Int64
    runs: Int64
    covariance: Float64
    degrees: Float64
    samples: Float64
    without: Float64
    present: Bool


@dataclass(frozen=True)
class Refit:
    """Fits that are repeated with other values or weights, one row each.

    Attributes
    ----------
    kind : {"sample", "run"}
        Resamples, or fits without one run.
    fit, position : (row,) int arrays
        Which fit is repeated, and the number of the sample, or of the run that is left out.
    values, weights : (row, member) float64 arrays
    """

    kind: Literal["sample", "run"]
    fit: npt.NDArray[np.intp]
    position: npt.NDArray[np.intp]
    values: Float64
    weights: Float64


@dataclass(frozen=True)
class Refits:
    """Resamples of the runs of fits, and their members without one run.

    Attributes
    ----------
    y : (fit, member) float64 array
    entered : (fit, member) bool array
    run : (fit, member) int64 array
        -1 for a member that is never resampled or left out.
    """

    y: Float64
    entered: Bool
    run: Int64

    def batches(self, fits: npt.NDArray[np.intp], samples: int, runs: int, seed: int) -> Iterator[Refit]:
        """Yield the refits of some fits, some tens of thousands at once."""
        rows = min(_ROWS, _NUMBERS // max(self.y.shape[1], 1))
        each = max(rows // max(samples + runs, 1), 1)
        for first in range(0, len(fits), each):
            some = fits[first : first + each]
            if samples:
                yield self._resampled(some, samples, seed)
            if runs:
                yield self._left_out(some, runs)

    def _resampled(self, fits: npt.NDArray[np.intp], samples: int, seed: int) -> Refit:
        members = self.y.shape[1]
        weights = np.zeros((len(fits), samples, members))
        for k, fit in enumerate(fits):
            # A generator of its own for each fit: a fit has the same interval alone and beside others.
            generator = np.random.default_rng(seed)
            own = np.flatnonzero(self.entered[fit] & (self.run[fit] >= 0))
            _, run = np.unique(self.run[fit, own], return_inverse=True)
            runs = int(run.max(initial=-1)) + 1
            drawn = generator.multinomial(runs, np.full(runs, 1 / max(runs, 1)), size=samples)
            weights[k] = self.entered[fit]
            weights[k][:, own] = drawn[:, run.reshape(-1)]
        row, position = np.repeat(fits, samples), np.tile(np.arange(samples), len(fits))
        return Refit("sample", row, position, self.y[row], weights.reshape(-1, members))

    def _left_out(self, fits: npt.NDArray[np.intp], runs: int) -> Refit:
        row, position = np.repeat(fits, runs), np.tile(np.arange(runs), len(fits))
        own = self.entered[row] & (self.run[row] == position[:, None])
        some = own.any(axis=1)
        row, position = row[some], position[some]
        weights = (self.entered[row] & ~own[some]).astype(np.float64)
        return Refit("run", row, position, self.y[row], weights)


def best_minima(
    problem: Problem,
    grid: Float64,
    starts: int,
    low: Float64,
    high: Float64,
    is_allowed: Callable[[Float64], Bool] | None = None,
) -> tuple[Float64, Float64, Bool]:
    """Return the lowest of the minima that are reached from the best `starts` points of a grid.

    Parameters
    ----------
    problem : Problem
        One row per fit.
    grid : (grid, fit, parameter) float64 array
    starts : int
    low, high : (parameter,) float64 arrays
    is_allowed : callable, optional
        Returns which parameters (fit, parameter) may be chosen.

    Returns
    -------
    theta : (fit, parameter) float64 array
    objective : (fit,) float64 array
        Infinite where no minimum may be chosen.
    converged : (fit,) bool array
    """
    here = np.arange(grid.shape[1])
    with np.errstate(all="ignore"):
        values = np.stack([problem.objective(np.clip(start, low, high), here) for start in grid])
    order = np.argsort(values, axis=0, kind="stable")
    theta, objective = grid[order[0], here].copy(), np.full(len(here), np.inf)
    lowest, converged = np.full(len(here), np.inf), np.zeros(len(here), bool)
    for rank in range(min(starts, len(grid))):
        found = minimize_rows(problem, grid[order[rank], here], low, high)
        allowed = np.ones(len(here), bool) if is_allowed is None else is_allowed(found.theta)
        better = allowed & (found.objective < objective * (1 - 1e-12))
        objective[better] = found.objective[better]
        # Where none may be chosen, the lowest one says what is wrong.
        better |= ~allowed & np.isinf(objective) & (found.objective < lowest)
        lowest = np.minimum(lowest, found.objective)
        theta[better], converged[better] = found.theta[better], found.converged[better]
    return theta, objective, converged


def count_points(columns: list[Float64], entered: Bool) -> npt.NDArray[np.int64]:
    """Return how many different points the members of each fit have."""
    order = np.lexsort([*(np.round(c, 12) for c in columns), ~entered], axis=1)
    there = np.take_along_axis(entered, order, axis=1)
    changes = np.zeros((len(entered), max(entered.shape[1] - 1, 0)), bool)
    for column in columns:
        ordered = np.take_along_axis(column, order, axis=1)
        changes |= np.abs(np.diff(ordered, axis=1)) > 1e-9
    return np.asarray(there[:, :1].sum(axis=1) + (changes & there[:, 1:]).sum(axis=1), np.int64)


def _unit_cross_product(jacobian: Float64) -> tuple[Float64, Float64]:
    """Return the cross product of the columns scaled to unit length, and the lengths."""
    length = np.sqrt(np.maximum((jacobian**2).sum(axis=1), 1e-300))
    unit = jacobian / length[:, None, :]
    return np.swapaxes(unit, 1, 2) @ unit, length


def inverse_cross_product(jacobian: Float64) -> Float64:
    """Return the inverse of the cross product of a Jacobian, (fit, parameter, parameter)."""
    gram, length = _unit_cross_product(jacobian)
    inverse = np.linalg.pinv(gram, rcond=1e-15, hermitian=True)
    return np.asarray(inverse / (length[:, :, None] * length[:, None, :]), np.float64)


def is_singular(jacobian: Float64) -> Bool:
    """Return whether the columns of a Jacobian (fit, member, parameter) depend on each other.

    Examples
    --------
    >>> is_singular(np.array([[[1.0, 2.0], [2.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]])).tolist()
    [True, False]
    """
    gram, _ = _unit_cross_product(jacobian)
    return np.asarray(np.linalg.eigvalsh(gram)[:, 0] < 1e-13)


def has_clusters(run: Int64, entered: Bool) -> Bool:
    """Return whether any run has several members."""
    ordered = np.sort(np.where(entered & (run >= 0), run, -1), axis=1)
    return np.asarray(((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any(axis=1))


def jackknife_covariance(theta: Float64, without: Float64, present: Bool) -> tuple[Float64, Float64]:
    """Return the covariance that holds where members of one run are correlated, and the degrees of freedom.

    The delete-one jackknife over runs (Efron and Stein 1981): the sum of products of the changes without each run,
    times (r - 1) / r for r runs. NaN where a fit without a run has no parameters, and for a single run.

    Parameters
    ----------
    theta : (fit, parameter) float64 array
    without : (fit, run, parameter) float64 array
    present : (fit, run) bool array

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 6.0])
    >>> means = np.array([[[4.0], [3.5], [1.5]]])
    >>> covariance, degrees = jackknife_covariance(values.mean(keepdims=True)[None], means, np.ones((1, 3), bool))
    >>> bool(np.isclose(covariance.item(), values.var(ddof=1) / 3)), degrees.item()
    (True, 2.0)
    """
    runs = present.sum(axis=1)
    change = np.where(present[..., None], without - theta[:, None, :], 0.0)
    share = np.where(runs > 1, (runs - 1) / np.maximum(runs, 1), np.nan)
    return share[:, None, None] * (np.swapaxes(change, 1, 2) @ change), runs - 1.0


def runs_present(run: Int64, entered: Bool) -> Bool:
    """Return which runs have members in each fit, (fit, run)."""
    most = int(np.where(entered, run, -1).max(initial=-1)) + 1
    present = np.zeros((len(run), most), bool)
    fit, member = np.nonzero(entered & (run >= 0))
    present[fit, run[fit, member]] = True
    return present
