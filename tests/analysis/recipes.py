"""Datasets of recipes, sizes and seeds whose values are given, for tests of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from other_suites import Run, make_dataset

PARAMS = {"10M": 10_000_000, "20M": 20_000_000, "50M": 50_000_000, "100M": 100_000_000}


def recipes_dataset(
    values: npt.NDArray[np.float64],
    tokens: Sequence[int] = (1000, 2000, 3000),
    sizes: Sequence[str] = ("10M", "100M"),
    metric: str = "score",
    direction: str = "higher",
    schedule: bool = True,
    shuffle: int | None = None,
) -> xr.Dataset:
    """Return the Dataset of pretraining runs, along (lineage, cumulative_tokens).

    Parameters
    ----------
    values : (size, recipe, seed, checkpoint) array
        NaN where a run has no row; a run without any row is not there.
    tokens : sequence of int
        Position of each checkpoint.
    shuffle : int, optional
        Seed of a random order of the lineages.
    """
    runs, n_params = [], {}
    order = list(np.ndindex(values.shape[:3]))
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(order)
    for s, r, k in order:
        rows: Mapping[int, float] = {
            t: float(v) for t, v in zip(tokens, values[s, r, k], strict=True) if not np.isnan(v)
        }
        if rows:
            name = f"recipe{r}-{sizes[s]}-{k}"
            factors = {"recipe": f"recipe{r}", "size": sizes[s], "seed": k}
            end = float(tokens[-1]) if schedule else np.nan
            runs.append(Run(name, name, "pretraining", "pretraining", rows, factors=factors, schedule=end))
            n_params[name] = PARAMS[sizes[s]]
    of = {"recipe": "lineage", "size": "lineage", "seed": "lineage"}
    dataset = make_dataset(runs, of, n_params, metric)
    dataset[metric].attrs |= {"direction": direction, "units": "1"}
    return dataset.isel(run=0)
