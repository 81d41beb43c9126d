"""Power laws of 66 tasks and 25 recipes with 200 resamples each, beside a loop over SciPy's optimiser.

python tests/benchmarks/bench_fits.py [TASKS]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import xarray as xr
from measure import row, table
from scipy import optimize

from dde.analysis.fits import fit

_RECIPES, _SIZES, _SEEDS, _SAMPLES = 25, 14, 3, 200
# Fits of the loop that are timed; the others take as long each.
_TIMED = 40


def losses(tasks: int) -> xr.Dataset:
    """Return losses along (data, params, seed) that follow power laws with 1 % of noise."""
    rng = np.random.default_rng(0)
    n_params = np.geomspace(4e6, 1e9, _SIZES)
    tokens = 100 * n_params
    share = (n_params * tokens / (n_params[0] * tokens[0]))[:, None]
    low, high, power = (rng.uniform(a, b, (tasks, _RECIPES, 1, 1)) for a, b in ((0.5, 2.0), (0.3, 2.0), (0.08, 0.25)))
    values = (low + high * share**-power) * np.exp(rng.normal(0, 0.01, (tasks, _RECIPES, _SIZES, _SEEDS)))
    names = ("data", "params", "seed")
    return xr.Dataset(
        {f"task_{k}": (names, values[k], {"units": "nats"}) for k in range(tasks)},
        {
            "data": [f"recipe {k}" for k in range(_RECIPES)],
            "n_params": ("params", n_params),
            "tokens": ("params", tokens),
        },
    )


def one_by_scipy(log_x: np.ndarray, log_y: np.ndarray, start: list[float], delta: float = 1e-3) -> np.ndarray:
    """Return the parameters of one power law by L-BFGS-B with analytic gradient, as published code does it."""

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        power = np.exp(theta[1] - theta[2] * log_x)
        value = np.exp(theta[0]) + power
        residual = np.log(value) - log_y
        size = np.abs(residual)
        total = np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2)).sum()
        slope = np.clip(residual, -delta, delta) / value
        return total, np.array(
            [(slope * np.exp(theta[0])).sum(), (slope * power).sum(), -(slope * power * log_x).sum()]
        )

    options = {"ftol": 0.0, "gtol": 1e-10, "maxiter": 2000}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x)


def rows(tasks: int = 66) -> list[dict[str, Any]]:
    """Measure the fits of all tasks and recipes, and the loop on some of them."""
    data = losses(tasks)
    fit(data[["task_0"]].isel(data=[0]))
    start = time.perf_counter()
    answer = fit(data, list(data.data_vars), interval="bootstrap", samples=_SAMPLES)
    ours = time.perf_counter() - start
    assert answer.converged.all()
    log_x = np.repeat(np.log(6 * data.n_params.values * data.tokens.values), _SEEDS)
    centre = log_x - log_x.mean()
    values = np.log(data["task_0"].values.reshape(_RECIPES, -1))
    start = time.perf_counter()
    for k in range(_TIMED):
        one_by_scipy(centre, values[k % _RECIPES], [0.0, -1.0, 0.15])
    each = (time.perf_counter() - start) / _TIMED
    fits = tasks * _RECIPES
    # Every fit, its resamples, and its refits without each run.
    count = fits * (1 + _SAMPLES + _SIZES * _SEEDS)
    return [
        row(
            f"power laws of {tasks} tasks x {_RECIPES} recipes, {_SAMPLES} resamples, {_SIZES * _SEEDS} leverages",
            ours,
            peer=each * count,
            counts={"fits": fits, "minima": count, "ms_each": 1e3 * ours / count},
            note=f"peer: a loop over SciPy's L-BFGS-B from one start, timed on {_TIMED} and multiplied",
        )
    ]


if __name__ == "__main__":
    print(table(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 66)))
