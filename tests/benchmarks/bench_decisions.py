"""Decision accuracy of all sizes and checkpoints of a full suite, beside plain pandas.

python tests/benchmarks/bench_decisions.py SUITE CACHE_DIR
"""

from __future__ import annotations

import argparse
import warnings
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from measure import in_turns, row, table

import dde

_TARGET = "1B"


def rows(data: str, cache_dir: str) -> list[dict[str, Any]]:
    """Measure decision accuracies of ten tasks, and of one task beside pandas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        repository = dde.DataDecideEvolved(data, None, cache_dir=cache_dir).repository
        known = set(map(str, repository.metrics()))
        # The primary metric of each task has the name of the task.
        tasks = sorted(n for n in known if f"{n}_correct_choice" in known)
        loaded = repository.to_dataset(metrics=tasks).dde.base_curves().load()
        return [_one_task(loaded, tasks[0]), _all_tasks(loaded, tasks)]


def _one_task(bases: xr.Dataset, task: str) -> dict[str, Any]:
    end = float(bases["schedule_tokens"].where(bases["params"] == _TARGET).max())
    observed = bases[[task]].dde.observed().dde.to_frame()

    def ours() -> xr.DataArray:
        return bases.dde.decision_accuracy(task, target={"params": _TARGET}, checkpoints="all")["accuracy"]

    def peer() -> pd.Series:
        return by_pandas(observed, task, end)

    one = ours().isel(checkpoint=slice(None)).values
    other = peer()
    assert np.isclose(np.sort(one[np.isfinite(one)]), np.sort(other.dropna().to_numpy())).all()
    seconds = in_turns(3, ours=ours, peer=peer)
    return row(
        "decision accuracy of one task at all checkpoints",
        seconds["ours"],
        peer=seconds["peer"],
        counts={"accuracies": int(np.isfinite(one).sum()), "runs": bases.sizes["lineage"]},
        note="peer: pandas groups and pivots, pairs in a loop, on a frame that is there already",
    )


def _all_tasks(bases: xr.Dataset, tasks: list[str]) -> dict[str, Any]:
    def ours() -> xr.Dataset:
        return bases.dde.decision_accuracy(tasks, target={"params": _TARGET}, checkpoints="all")

    def floor() -> list[np.ndarray]:
        return [np.asarray(bases[task].values).copy() for task in tasks]

    answer = ours()
    seconds = in_turns(3, ours=ours, floor=floor)
    return row(
        f"decision accuracy of {len(tasks)} tasks at all checkpoints",
        seconds["ours"],
        floor=seconds["floor"],
        counts={"pairs": int(answer["n_pairs"].sum()), "MB": round(sum(bases[t].nbytes for t in tasks) / 1e6)},
        note="floor: copying the values once",
    )


def by_pandas(observed: pd.DataFrame, task: str, end: float) -> pd.Series:
    """Return decision accuracies by size and tokens, as an analysis with pandas computes them."""
    rows = observed.dropna(subset=[task])
    rows = rows[rows["params"].notna()]
    # The target: the last value up to the planned end of each run that reached 85 % of it, mean over seeds.
    gold_rows = rows[(rows["params"] == _TARGET) & (rows["cumulative_tokens"] <= end)]
    ends = gold_rows.sort_values("cumulative_tokens").groupby(["data", "seed"]).last()
    ends = ends[ends["cumulative_tokens"] >= 0.85 * end]
    # Rounded, because equal means differ in their last bits.
    gold = ends.groupby("data")[task].mean().round(12)
    accuracies = {}
    for size, of_size in rows.groupby("params"):
        seeds = of_size.groupby("data")["seed"].nunique()
        known = [r for r in seeds.index if r in gold.index]
        for tokens, at in of_size.groupby("cumulative_tokens"):
            counts = at.groupby("data")[task].count()
            means = at.groupby("data")[task].mean().round(12)
            if any(counts.get(r, 0) < seeds[r] for r in known):
                continue
            agree = [np.sign(means[a] - means[b]) == np.sign(gold[a] - gold[b]) for a, b in combinations(known, 2)]
            accuracies[size, tokens] = float(np.mean(agree)) if agree else np.nan
    return pd.Series(accuracies)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("suite")
    arguments.add_argument("cache_dir")
    given = arguments.parse_args()
    print(table(rows(given.suite, given.cache_dir)))
