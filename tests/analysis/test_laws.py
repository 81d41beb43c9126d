"""Minima of laws beside SciPy's optimisers on the same data, formulas and derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from dde.analysis.estimates import Estimate
from dde.analysis.laws import LossLaw, law_named, sigmoid
from dde.analysis.loss_estimates import estimate_loss_law
from dde.analysis.sigmoid_estimates import estimate_sigmoid
from dde.errors import UnknownNameError

POWER, BOTH = LossLaw(("compute",)), LossLaw(("n_params", "tokens"))
SIZES = np.geomspace(1e7, 2e9, 9)


def estimated(law: LossLaw, x: np.ndarray, y: np.ndarray, delta: float, starts: int = 4, samples: int = 0) -> Estimate:
    """The estimate of fits whose members all have the same sizes: x (feature, member), y (fit, member)."""
    shape = y.shape
    wide = np.broadcast_to(x[:, None], (len(x), *shape))
    run = np.broadcast_to(np.arange(shape[1]), shape)
    return estimate_loss_law(law, wide, y, run, np.ones(shape, bool), delta, starts, samples, 0)


def huber(law: LossLaw, coefficient: np.ndarray, x: np.ndarray, y: np.ndarray, delta: float) -> float:
    """Huber's loss of one fit, as in the papers."""
    value = law.value(coefficient, dict(zip(law.features, x, strict=True)))
    size = np.abs(np.log(value) - np.log(y))
    return float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())


def lowest_of_scipy(law: LossLaw, x: np.ndarray, y: np.ndarray, delta: float, starts: list[list[float]]) -> float:
    """The lowest loss that L-BFGS-B and then Nelder and Mead's search find from some starts."""
    first, count = int(law.offset), len(law.features)
    log_x = np.log(x)

    def loss(theta: np.ndarray) -> float:
        terms = [
            np.exp(np.clip(theta[first + k] - theta[first + count + k] * log_x[k], -700, 700)) for k in range(count)
        ]
        value = sum(terms) + (np.exp(theta[0]) if first else 0.0)
        size = np.abs(np.log(value) - np.log(y))
        return float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())

    best = np.inf
    for start in starts:
        found = optimize.minimize(loss, start, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-12})
        found = optimize.minimize(loss, found.x, method="Nelder-Mead",
                                  options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 3000, "maxfev": 3000})  # fmt: skip
        best = min(best, found.fun)
    return best


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_powers_reach_the_lowest_loss_that_scipy_finds(delta: float) -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(SIZES, 2)[None]
    y = POWER.value(np.array([1.8, 60.0, 0.25]), {"compute": x[0]}) * np.exp(rng.normal(0, 0.01, (3, x.shape[1])))
    found = estimated(POWER, x, y, delta)
    for k in range(len(y)):
        assert found.status[k] == "converged"
        ours = huber(POWER, found.coefficient[k], x, y[k], delta)
        scipy = lowest_of_scipy(POWER, x, y[k], delta, [[0.5, 4.0, 0.25], [0.0, 2.0, 0.1]])
        assert ours <= scipy * (1 + 1e-6)


def test_both_sizes_reach_the_lowest_loss_that_scipy_finds() -> None:
    rng = np.random.default_rng(1)
    n, d = map(np.ravel, np.meshgrid(SIZES[::2], np.geomspace(1e9, 2e11, 5)))
    x, true = np.stack([n, d]), np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658])
    y = BOTH.value(true, {"n_params": n, "tokens": d}) * np.exp(rng.normal(0, 0.003, (3, len(n))))
    found = estimated(BOTH, x, y, 1e-3, starts=6)
    for k in range(len(y)):
        ours = huber(BOTH, found.coefficient[k], x, y[k], 1e-3)
        start = np.concatenate([np.log(true[:3]), true[3:]]).tolist()
        assert ours <= lowest_of_scipy(BOTH, x, y[k], 1e-3, [start]) * (1 + 1e-6)


def test_least_squares_agree_with_curve_fit() -> None:
    rng = np.random.default_rng(2)
    x = np.repeat(SIZES, 3)
    y = POWER.value(np.array([2.0, 40.0, 0.2]), {"compute": x}) * np.exp(rng.normal(0, 0.004, (1, len(x))))

    def log_law(size: Any, e: float, log_a: float, alpha: float) -> Any:
        return np.log(e + np.exp(log_a - alpha * np.log(size)))

    found = estimated(POWER, x[None], y, np.inf)
    theta, covariance = optimize.curve_fit(log_law, x, np.log(y[0]), [1.5, 3.0, 0.3], ftol=1e-14, xtol=1e-14)
    ours = found.coefficient[0].copy()
    ours[1] = np.log(ours[1])
    np.testing.assert_allclose(ours, theta, rtol=1e-5)
    np.testing.assert_allclose(found.covariance[0], covariance, rtol=1e-4)
    assert found.degrees[0].tolist() == [24.0] * 3


def test_sigmoid_agrees_with_curve_fit() -> None:
    rng = np.random.default_rng(3)
    loss = rng.uniform(0.7, 2.0, (1, 60))
    y = sigmoid(np.array([-0.7, 1.1, 5.0, 0.98]), loss) + rng.normal(0, 0.01, loss.shape)

    def curve(x: Any, a: float, middle: float, k: float, b: float) -> Any:
        return a / (1 + np.exp(-k * (x - middle))) + b

    run = np.arange(60)[None]
    found = estimate_sigmoid(loss, y, run, np.ones((1, 60), bool), 1.0, 4, 0, 0)
    bounds = ([-1, 0, 0, 0], [0, np.inf, np.inf, 1])
    theta, _ = optimize.curve_fit(curve, [*loss[0], 0.0], [*y[0], 1.0], [-0.75, 0.9, 3.0, 1.0], bounds=bounds,
                                  ftol=1e-14, xtol=1e-14)  # fmt: skip
    np.testing.assert_allclose(found.coefficient[0], theta, rtol=1e-4)
    free, covariance = optimize.curve_fit(curve, loss[0], y[0], [-0.75, 0.9, 3.0, 1.0])
    without = estimate_sigmoid(loss, y, run, np.ones((1, 60), bool), None, 4, 0, 0)
    np.testing.assert_allclose(without.coefficient[0], free, rtol=1e-4)
    np.testing.assert_allclose(without.covariance[0], covariance, rtol=1e-3)


@pytest.mark.parametrize("name", ["power", "chinchilla", "loss_to_accuracy", "two_step"])
def test_gradients_are_those_of_differences(name: str) -> None:
    law = law_named(name, None, True)
    of_loss = {"power": [1.7, 30.0, 0.2], "loss_to_accuracy": []}.get(name, [0.5, 20.0, 90.0, 0.22, 0.25])
    theta = np.array([*of_loss, *([-0.7, 1.0, 4.0, 0.95] if law.has_sigmoid else [])])
    sizes = {"compute": np.array([1e5, 1e9]), "n_params": np.array([1e5, 1e7]), "tokens": np.array([1e6, 1e9]),
             "loss": np.array([0.8, 1.3])}  # fmt: skip
    x = {f: sizes[f] for f in law.features}
    gradient = law.gradient(theta, x)
    for k, is_log in enumerate(law.is_log):
        step = 1e-6 * theta[k]
        up, down = theta.copy(), theta.copy()
        up[k], down[k] = theta[k] + step, theta[k] - step
        difference = (law.value(up, x) - law.value(down, x)) / (2 * step) * (theta[k] if is_log else 1.0)
        np.testing.assert_allclose(gradient[:, k], difference, rtol=1e-5, atol=1e-9)


@given(st.floats(0.3, 3.0), st.floats(0.05, 0.6), st.floats(0.2, 2.0))
@settings(max_examples=20, deadline=None)
def test_exact_powers_are_recovered(asymptote: float, alpha: float, gap: float) -> None:
    true = np.array([asymptote, gap * SIZES[0] ** alpha, alpha])
    found = estimated(POWER, SIZES[None], POWER.value(true, {"compute": SIZES})[None], 1e-3)
    np.testing.assert_allclose(found.coefficient[0], true, rtol=1e-4)


def test_metrics_that_rise_have_negative_coefficients() -> None:
    true = np.array([0.8, -9.0, 0.2])
    found = estimated(POWER, SIZES[None], POWER.value(true, {"compute": SIZES})[None], 1e-3)
    np.testing.assert_allclose(found.coefficient[0], true, rtol=1e-5)


def test_an_asymptote_is_not_below_zero() -> None:
    rng = np.random.default_rng(4)
    y = 50.0 * SIZES**-0.2 * np.exp(rng.normal(0, 0.02, (40, len(SIZES))))
    found = estimated(POWER, SIZES[None], y, 1e-3)
    assert (found.coefficient[:, 0] >= 0).all()
    at_zero = found.coefficient[:, 0] == 0
    assert at_zero.any()
    assert {s for s, z in zip(found.status, at_zero, strict=True) if z} == {
        "converged; the asymptote E is at its bound 0"
    }
    bare = estimated(LossLaw(("compute",), offset=False), SIZES[None], y, 1e-3)
    np.testing.assert_allclose(found.coefficient[at_zero, 1:], bare.coefficient[at_zero], rtol=1e-4)


def test_resamples_of_a_fit_do_not_depend_on_other_fits() -> None:
    rng = np.random.default_rng(5)
    y = POWER.value(np.array([2.0, 40.0, 0.2]), {"compute": SIZES}) * np.exp(rng.normal(0, 0.005, (3, len(SIZES))))
    together, alone = (estimated(POWER, SIZES[None], some, 1e-3, samples=20) for some in (y, y[1:2]))
    np.testing.assert_allclose(together.samples[1], alone.samples[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("powr", None, True), "Did you mean power?"),
        (("power", "flops", True), "x='flops' is not a quantity"),
        (("chinchilla", "compute", True), "has parameters and tokens instead"),
        (("loss_to_accuracy", None, False), "offset=False leaves out the asymptote"),
    ],
)
def test_unknown_laws_are_named(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(UnknownNameError, match=text.replace("?", r"\?")):
        law_named(*arguments)


@pytest.mark.parametrize("runs", [4, 8])
def test_coverage_where_runs_have_several_observations(runs: int) -> None:
    """Errors of a run have a part in common, so 20 observations say little more than one."""
    rng = np.random.default_rng(4)
    true, each = np.array([1.9, 50.0, 0.15]), 20
    n_params = np.geomspace(1e7, 1e9, runs)[:, None]
    compute = (120 * n_params**2 * np.linspace(0.1, 1, each)).ravel()
    errors = 0.006 * rng.normal(size=(200, runs, 1)) + 0.003 * rng.normal(size=(200, runs, each))
    y = POWER.value(true, {"compute": compute}) * np.exp(errors.reshape(200, -1))
    run = np.broadcast_to(np.repeat(np.arange(runs), each), y.shape)
    x = np.broadcast_to(compute, (1, *y.shape))
    found = estimate_loss_law(POWER, x, y, run, np.ones(y.shape, bool), 1e-3, 4, 0, 0)
    alpha, half = found.coefficient[:, 2], np.sqrt(found.covariance[:, 2, 2])
    assert found.degrees[0].tolist() == [runs - 1.0] * 3
    covered = np.abs(alpha - 0.15) <= stats.t.ppf(0.975, runs - 1) * half
    assert 0.91 <= covered.mean() <= 0.995


def test_repeated_observations_change_no_interval() -> None:
    rng = np.random.default_rng(6)
    compute, run = np.repeat(SIZES, 2)[None, None], np.repeat(np.arange(len(SIZES)), 2)[None]
    y = POWER.value(np.array([2.0, 40.0, 0.2]), {"compute": compute[0]}) * np.exp(rng.normal(0, 0.005, (1, 18)))
    once = estimate_loss_law(POWER, compute, y, run, np.ones((1, 18), bool), np.inf, 4, 0, 0)
    again = estimate_loss_law(
        POWER, np.tile(compute, 3), np.tile(y, 3), np.tile(run, 3), np.ones((1, 54), bool), np.inf, 4, 0, 0
    )
    np.testing.assert_allclose(again.coefficient, once.coefficient, rtol=1e-6)
    np.testing.assert_allclose(again.covariance, once.covariance, rtol=1e-4)
    assert again.degrees[0].tolist() == once.degrees[0].tolist() == [8.0] * 3
