"""Ragged curves of many runs onto one grid, beside xarray, NumPy and what moving the bytes costs."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from measure import in_turns, row, table

from dde.curves.alignment import Interpolation, plan_alignment, without_missing
from dde.curves.chains import Chains
from dde.curves.observations import Observations
from dde.native import processors

N_RUNS, N_METRICS, N_POINTS = 1_400, 64, 256


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure alignment; one metric in eight lacks samples."""
    runs, metrics = max(int(N_RUNS * scale), 10), max(int(N_METRICS * scale), 2)
    rng = np.random.default_rng(0)
    counts = rng.integers(25, 151, runs)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([np.sort(rng.choice(10**6, n, replace=False)) for n in counts]).astype(np.int64)
    values = rng.random((metrics, len(tokens)))
    values[::8][rng.random((len(values[::8]), len(tokens))) < 0.05] = np.nan
    chains = Chains(tuple(map(str, range(runs))), np.full(runs, -1, np.int32), np.full(runs, -1, np.int64))
    grid = np.linspace(0, 10**6, N_POINTS).astype(np.int64)
    out, source = np.zeros((metrics, runs, N_POINTS)), rng.random((metrics, runs, N_POINTS))
    every, how = np.arange(runs), Interpolation()

    def ours() -> None:
        # Metrics of one source lie on the same places; one that lacks samples needs a plan of its own.
        complete = plan_alignment(chains, Observations(offsets, tokens, tokens, values[1]), grid, how, True)

        def one(k: int) -> None:
            own = without_missing(Observations(offsets, tokens, tokens, values[k]))
            serves = complete.serves(chains, own, grid, how, True)
            plan = complete if serves else plan_alignment(chains, own, grid, how, True)
            plan.fill(own.values, every, every, out[k])

        with ThreadPoolExecutor(processors()) as threads:
            list(threads.map(one, range(metrics)))

    def by_numpy() -> None:
        for k in range(metrics):
            for r in range(runs):
                part = slice(offsets[r], offsets[r + 1])
                some = ~np.isnan(values[k, part])
                out[k, r] = np.interp(grid, tokens[part][some], values[k, part][some], left=np.nan, right=np.nan)

    def by_xarray() -> None:
        for r in range(runs):
            part = slice(offsets[r], offsets[r + 1])
            array = xr.DataArray(values[:, part], dims=("metric", "token"), coords={"token": tokens[part]})
            out[:, r] = array.interp(token=grid).values

    seconds = in_turns(
        5, ours=ours, written=lambda: out.fill(0.5), copied=lambda: np.copyto(out, source), numpy=by_numpy
    )
    peer = in_turns(1, xarray=by_xarray)["xarray"]
    size = {"runs": runs, "metrics": metrics, "points": N_POINTS, "MB": round(out.nbytes / 1e6)}
    return [
        row(
            "alignment",
            seconds["ours"],
            floor=seconds["copied"],
            peer=seconds["numpy"],
            counts=size,
            note="floor: a copy of the result; peer: np.interp for each run and metric",
        ),
        row(
            "alignment",
            seconds["ours"],
            floor=seconds["written"],
            peer=peer,
            counts=size,
            note="floor: filling the result with one number; peer: xarray's interp for each run, NaN spreading",
        ),
    ]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--scale", type=float, default=1.0)
    print(table(rows(arguments.parse_args().scale)))
