"""Minimise many small nonlinear objectives at once: damped Newton steps on arrays, one row per fit.

A question about 66 tasks and 25 recipes with 200 resamples has 331,650 fits of three to five parameters. One call of
an optimiser takes milliseconds each; here, all of them take a step together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64

__all__ = ["HuberLogSum", "HuberPowers", "LeastSquaresSigmoid", "Problem", "Solution", "minimize_rows"]

Rows = npt.NDArray[np.intp]

# Objectives are compared with themselves: steps that promise a smaller share of the value than this end the search.
_TOLERANCE = 1e-11
# A search that needs more damping than this can't find a lower value.
_MOST_DAMPING = 1e12
# Numbers of one block of rows, so that its arrays fit in the cache of a processor.
_BLOCK = 120_000


class Problem(Protocol):
    """An objective of each row, with its derivatives."""

    @property
    def parameters(self) -> int:
        """Number of parameters of a row."""

    @property
    def members(self) -> int:
        """Number of members of a row, those without weight included."""

    def objective(self, theta: Float64, rows: Rows) -> Float64:
        """Return the objective (row,) at the parameters (row, parameter)."""

    def expansion(self, theta: Float64, rows: Rows) -> tuple[Float64, Float64, Float64]:
        """Return gradient (row, parameter), Hessian (row, parameter, parameter) and the scale of each parameter."""


@dataclass(frozen=True)
class Solution:
    """Minima of rows.

    Attributes
    ----------
    theta : (row, parameter) float64 array
    objective : (row,) float64 array
        Infinite where the start has no value.
    converged : (row,) bool array
        Whether no step promises a lower value.
    """

    theta: Float64
    objective: Float64
    converged: Bool


@dataclass(frozen=True)
class HuberLogSum:
    r"""Huber's loss of :math:`\log f - \log y`, where f is a sum of powers.

    With z the logarithm of a size, :math:`f = \sum_k \exp(\theta_k - \alpha_k z_k)`, parameters in the order theta,
    alpha.

    Attributes
    ----------
    z : (feature, data, member) float64 array
    of : (row,) int array
        Position of each row along `data`.
    log_y, weights : (row, member) float64 arrays
        Weights are zero for members that do not enter.
    delta : float
        Residual at which the loss changes from quadratic to linear; infinite for least squares.
    """

    z: Float64
    of: Rows
    log_y: Float64
    weights: Float64
    delta: float

    @property
    def parameters(self) -> int:
        """Number of parameters of a row."""
        return 2 * len(self.z)

    @property
    def members(self) -> int:
        """Number of members of a row."""
        return int(self.log_y.shape[1])

    def objective(self, theta: Float64, rows: Rows) -> Float64:
        """Return the weighted sum of Huber's losses of each row."""
        residual, _ = self._residual(theta, rows)
        return _huber(residual, self.weights[rows], self.delta)

    def _residual(self, theta: Float64, rows: Rows) -> tuple[Float64, list[Float64]]:
        """Return the residuals (row, member), and the share of each term in f."""
        count = len(self.z)
        exponents = [theta[:, k, None] - theta[:, count + k, None] * self.z[k][self.of[rows]] for k in range(count)]
        most = np.maximum(exponents[0], exponents[-1])
        terms = [np.exp(e - most) for e in exponents]
        total = sum(terms[1:], terms[0])
        return np.log(total) + most - self.log_y[rows], [term / total for term in terms]

    def expansion(self, theta: Float64, rows: Rows) -> tuple[Float64, Float64, Float64]:
        """Return gradient, Hessian, and the diagonal of its part that is never negative."""
        count = len(self.z)
        residual, shares = self._residual(theta, rows)
        weights = self.weights[rows]
        slope, curvature, steep = _huber_derivatives(np.where(weights > 0, residual, 0.0), weights, self.delta)
        jacobian = np.empty((len(rows), self.members, self.parameters))
        hessian = np.zeros((len(rows), self.parameters, self.parameters))
        for k, share in enumerate(shares):
            z, bent = self.z[k][self.of[rows]], slope * share
            jacobian[..., k], jacobian[..., count + k] = share, -share * z
            hessian[:, k, k] = bent.sum(axis=1)
            hessian[:, k, count + k] = hessian[:, count + k, k] = -(bent * z).sum(axis=1)
            hessian[:, count + k, count + k] = (bent * z * z).sum(axis=1)
        flat = jacobian.transpose(0, 2, 1)
        gradient = (flat @ slope[..., None])[..., 0]
        hessian += (flat * (curvature - slope)[:, None, :]) @ jacobian
        return gradient, hessian, np.einsum("rmp,rm->rp", jacobian**2, steep)


@dataclass(frozen=True)
class HuberPowers:
    r"""Huber's loss of :math:`\log f - \log y`, where f is an asymptote and one or two powers.

    With z the logarithm of a size, :math:`f = m + \sum_k s_k (e^{-\alpha_k z_k} - 1) / \alpha_k`, parameters in the
    order m, s, alpha. At z = 0, m is the value and -s the slope, which data determine well; the asymptote
    :math:`m - \sum_k s_k / \alpha_k` lies far from them. In terms of the asymptote, minima lie in long curved valleys.

    Attributes
    ----------
    z : (feature, data, member) float64 array
    of : (row,) int array
        Position of each row along `data`.
    log_y, weights : (row, member) float64 arrays
        Weights are zero for members that do not enter.
    delta : float
        Residual at which the loss changes from quadratic to linear; infinite for least squares.
    """

    z: Float64
    of: Rows
    log_y: Float64
    weights: Float64
    delta: float

    @property
    def parameters(self) -> int:
        """Number of parameters of a row."""
        return 1 + 2 * len(self.z)

    @property
    def members(self) -> int:
        """Number of members of a row."""
        return int(self.log_y.shape[1])

    def objective(self, theta: Float64, rows: Rows) -> Float64:
        """Return the weighted sum of Huber's losses of each row; infinite where f is not positive."""
        value = theta[:, 0, None]
        for k in range(len(self.z)):
            s, alpha = theta[:, 1 + k, None], theta[:, 1 + len(self.z) + k, None]
            value = value + s * np.expm1(-alpha * self.z[k][self.of[rows]]) / alpha
        residual = np.log(np.where(value > 0, value, np.nan)) - self.log_y[rows]
        return _huber(residual, self.weights[rows], self.delta)

    def expansion(self, theta: Float64, rows: Rows) -> tuple[Float64, Float64, Float64]:
        """Return gradient, Hessian, and the diagonal of its part that is never negative."""
        count = len(self.z)
        weights = self.weights[rows]
        jacobian = np.ones((len(rows), self.members, self.parameters))
        value, mixed, curved = theta[:, 0, None], [], []
        for k in range(count):
            s, alpha, z = theta[:, 1 + k, None], theta[:, 1 + count + k, None], self.z[k][self.of[rows]]
            below = np.expm1(-alpha * z)
            basis = below / alpha
            first = (-z * (below + 1) - basis) / alpha
            jacobian[..., 1 + k], jacobian[..., 1 + count + k] = basis, s * first
            mixed.append(first)
            curved.append(s * (z * z * (below + 1) - 2 * first) / alpha)
            value = value + s * basis
        jacobian /= value[..., None]
        residual = np.where(weights > 0, np.log(value) - self.log_y[rows], 0.0)
        slope, curvature, steep = _huber_derivatives(residual, weights, self.delta)
        flat = jacobian.transpose(0, 2, 1)
        gradient = (flat @ slope[..., None])[..., 0]
        hessian = (flat * (curvature - slope)[:, None, :]) @ jacobian
        per_value = slope / value
        for k in range(count):
            hessian[:, 1 + k, 1 + count + k] += (per_value * mixed[k]).sum(axis=1)
            hessian[:, 1 + count + k, 1 + k] = hessian[:, 1 + k, 1 + count + k]
            hessian[:, 1 + count + k, 1 + count + k] += (per_value * curved[k]).sum(axis=1)
        return gradient, hessian, np.einsum("rmp,rm->rp", jacobian**2, steep)


def _huber(residual: Float64, weights: Float64, delta: float) -> Float64:
    """Return the weighted sum of Huber's losses of each row; infinite where a residual with weight is NaN."""
    size = np.abs(residual)
    outer = size if np.isinf(delta) else delta * (size - 0.5 * delta)
    loss = np.where(size <= delta, 0.5 * size * size, outer)
    total = np.where(weights > 0, weights * loss, 0.0).sum(axis=1)
    return np.where(np.isnan(total), np.inf, total)


def _huber_derivatives(residual: Float64, weights: Float64, delta: float) -> tuple[Float64, Float64, Float64]:
    """Return first and second derivative of the loss, and the weights of iteratively reweighted least squares."""
    inside = np.abs(residual) <= delta
    # Positive for members outside, too.
    steep = np.where(inside, weights, weights * delta / np.where(inside, 1.0, np.abs(residual)))
    return weights * np.clip(residual, -delta, delta), weights * inside, steep


@dataclass(frozen=True)
class LeastSquaresSigmoid:
    r"""Half the sum of squares of :math:`a / (1 + e^{-k (x - x_0)}) + b - y`, parameters in the order a, x0, k, b.

    Attributes
    ----------
    x : (data, member) float64 array
    of : (row,) int array
        Position of each row along `data`.
    y, weights : (row, member) float64 arrays
    """

    x: Float64
    of: Rows
    y: Float64
    weights: Float64

    @property
    def parameters(self) -> int:
        """Number of parameters of a row."""
        return 4

    @property
    def members(self) -> int:
        """Number of members of a row."""
        return int(self.y.shape[1])

    def objective(self, theta: Float64, rows: Rows) -> Float64:
        """Return half the weighted sum of squares of each row."""
        residual = self._residual(theta, rows)[0]
        return np.asarray(0.5 * (self.weights[rows] * residual**2).sum(axis=1), np.float64)

    def _residual(self, theta: Float64, rows: Rows) -> tuple[Float64, Float64, Float64]:
        from scipy.special import expit

        data = self.of[rows]
        a, center, steepness, b = (theta[:, k, None] for k in range(4))
        distance = self.x[data] - center
        risen = expit(steepness * distance)
        return a * risen + b - self.y[rows], risen, distance

    def expansion(self, theta: Float64, rows: Rows) -> tuple[Float64, Float64, Float64]:
        """Return gradient, Gauss and Newton's approximation of the Hessian, and its diagonal."""
        residual, risen, distance = self._residual(theta, rows)
        weights = self.weights[rows]
        a, steepness = theta[:, 0, None], theta[:, 2, None]
        rise = risen * (1 - risen)
        jacobian = np.stack([risen, -a * steepness * rise, a * distance * rise, np.ones_like(risen)], axis=-1)
        jacobian = np.where(weights[..., None] > 0, jacobian, 0.0)
        flat = jacobian.transpose(0, 2, 1)
        gradient = (flat @ np.where(weights > 0, weights * residual, 0.0)[..., None])[..., 0]
        hessian = (flat * weights[:, None, :]) @ jacobian
        return gradient, hessian, np.einsum("rpp->rp", hessian).copy()


def minimize_rows(
    problem: Problem,
    start: Float64,
    low: Float64 | None = None,
    high: Float64 | None = None,
    iterations: int = 200,
) -> Solution:
    """Minimise the objective of each row from its start, within bounds.

    Newton steps are damped until the objective falls (Levenberg 1944, Marquardt 1963). At a bound, a parameter whose
    gradient points outwards is left out of the step.

    Parameters
    ----------
    problem : Problem
    start : (row, parameter) float64 array
    low, high : (parameter,) float64 arrays, optional
    iterations : int
        Most steps of a row.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    >>> y = 0.2 - 0.6 / (1 + np.exp(-2.0 * (x - 3.0))) + 0.6
    >>> problem = LeastSquaresSigmoid(x, np.array([0]), y, np.ones((1, 5)))
    >>> minimize_rows(problem, np.array([[-0.5, 2.5, 1.0, 0.9]])).theta.round(6).tolist()
    [[-0.6, 3.0, 2.0, 0.8]]
    """
    count, parameters = start.shape
    lowest = np.full(parameters, -np.inf) if low is None else low
    highest = np.full(parameters, np.inf) if high is None else high
    theta, objective = np.clip(start, lowest, highest), np.full(count, np.inf)
    converged = np.zeros(count, bool)
    size = max(_BLOCK // max(problem.members * parameters, 1), 64)
    for first in range(0, count, size):
        rows = np.arange(first, min(first + size, count))
        with np.errstate(all="ignore"):
            _minimize_block(problem, theta, objective, converged, rows, lowest, highest, iterations)
    return Solution(theta, objective, converged)


def _minimize_block(
    problem: Problem,
    theta: Float64,
    objective: Float64,
    converged: Bool,
    rows: Rows,
    low: Float64,
    high: Float64,
    iterations: int,
) -> None:
    """Minimise some rows in place."""
    diagonal = np.arange(theta.shape[1])
    objective[rows] = problem.objective(theta[rows], rows)
    rows = rows[np.isfinite(objective[rows])]
    damping = np.full(len(rows), 1e-3)
    gradient, hessian, scale = problem.expansion(theta[rows], rows)
    for _ in range(iterations):
        if not len(rows):
            return
        at = theta[rows]
        is_fixed = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0))
        downhill = np.where(is_fixed, 0.0, -gradient)
        matrix = hessian.copy()
        matrix[:, diagonal, diagonal] += damping[:, None] * scale + 1e-14 * scale + 1e-200
        if is_fixed.any():
            matrix[is_fixed[:, :, None] | is_fixed[:, None, :]] = 0.0
            matrix[:, diagonal, diagonal] += is_fixed
        step = np.linalg.solve(matrix, downhill[..., None])[..., 0]
        moved = np.clip(at + step, low, high)
        promised = ((moved - at) * downhill).sum(axis=1)
        value = problem.objective(moved, rows)
        before = objective[rows]
        falls = (value < before) & (promised > 0)
        small = np.abs(promised) <= _TOLERANCE * before + 1e-28
        # A step that is short because it is damped says nothing about the minimum.
        done = small & (damping <= 1.0)
        stuck = ~falls & (damping > _MOST_DAMPING)
        rest = (downhill**2 / np.maximum(scale, 1e-200)).sum(axis=1)
        converged[rows] = done | (stuck & (rest <= 1e-6 * before + 1e-24))
        theta[rows[falls]], objective[rows[falls]] = moved[falls], value[falls]
        damping = np.where(falls, np.maximum(damping / 8, 1e-15), np.maximum(damping, 1e-8) * 6)
        left = ~(done | stuck)
        if not left.all():
            rows, damping, falls = rows[left], damping[left], falls[left]
            gradient, hessian, scale = gradient[left], hessian[left], scale[left]
        if falls.any():
            gradient[falls], hessian[falls], scale[falls] = problem.expansion(theta[rows[falls]], rows[falls])
