"""Where runs end, and which runs are repetitions of one treatment."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dde
from dde.entities.repository import RunRepository
from dde.errors import DdeWarning
from dde.tutorial import Suite
from fakes import FakeStore
from small_stores import example, sft

PER_STEP, SCHEDULED_STEPS = 192 * 2048, 38157


@pytest.fixture(scope="module")
def suite(small_suite: Suite) -> Suite:
    return small_suite


@pytest.fixture(scope="module")
def seeds(suite: Suite) -> xr.Dataset:
    """Three seeds of one size and recipe, two of which went on to five times their schedule."""
    return dde.open_lineages(suite.data, None, params="150M", data="C4", metrics=["pile_valppl"], cache_dir=None)


def read_perplexities(suite: Suite) -> pd.DataFrame:
    files = [f for f in sorted(Path(suite.data).rglob("train-*.parquet")) if "ppl" in str(f)]
    table = pd.concat(pd.read_parquet(f) for f in files)
    return table[(table["params"] == "150M") & (table["data"] == "C4")]


def test_overruns_are_named_and_ends_of_schedules_are_comparable(suite: Suite, seeds: xr.Dataset) -> None:
    assert (seeds.schedule_tokens == SCHEDULED_STEPS * PER_STEP).all()
    with pytest.warns(DdeWarning, match=r"2 runs \(.*\) went on beyond their schedule"):
        last = seeds.dde.final("pile_valppl")
    planned = seeds.dde.final("pile_valppl", "schedule")
    table = read_perplexities(suite)
    (column,) = [c for c in table.columns if "pile" in c]
    for lineage in seeds.lineage.values:
        of_seed = table[table["seed"] == seeds.seed_name.sel(lineage=lineage).item()].sort_values("step").dropna()
        before = of_seed[of_seed["step"] <= SCHEDULED_STEPS]
        assert float(last.sel(lineage=lineage).squeeze()) == of_seed[column].iloc[-1]
        assert float(planned.sel(lineage=lineage).squeeze()) == before[column].iloc[-1]
        assert float(planned.final_tokens.sel(lineage=lineage).squeeze()) == before["step"].iloc[-1] * PER_STEP


def test_a_fraction_of_training_is_a_share_of_the_schedule(seeds: xr.Dataset) -> None:
    shares = [0.2, 0.5, 0.95]
    by_share = seeds.dde.align(shares, axis="fraction_of_training")
    tokens = np.rint(np.array(shares) * SCHEDULED_STEPS * PER_STEP)
    for row in by_share.cumulative_tokens.squeeze().values:
        np.testing.assert_array_equal(row, tokens)
    by_tokens = seeds.dde.align(tokens).dde.mean_over("seed").pile_valppl
    np.testing.assert_array_equal(by_share.dde.mean_over("seed").pile_valppl.squeeze(), by_tokens.squeeze())


def test_the_mean_at_the_end_of_the_schedule_is_that_of_its_members(seeds: xr.Dataset) -> None:
    planned = seeds.dde.final("pile_valppl", "schedule")
    of_means = seeds.dde.mean_over("seed").dde.final("pile_valppl", "schedule")
    np.testing.assert_allclose(float(of_means.squeeze()), float(planned.mean()), rtol=1e-14)
    means = seeds.dde.mean_over("seed")
    assert float(means.end_tokens.squeeze()) == float(seeds.end_tokens.min())
    assert float(means.last_end_tokens.squeeze()) == float(seeds.end_tokens.max())


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"reduce_loss": "sum"}, "reduce="),
        ({"weight_decay": 0.1}, "decay="),
        ({"warmup_ratio": 0.1}, "warmup="),
        ({"per_device_train_batch_size": 2}, "batch="),
        ({"max_seq_length": 2048}, "seq"),
    ],
)
def test_runs_that_differ_in_a_hyperparameter_are_no_replicates(option: dict[str, Any], text: str) -> None:
    tables, _ = example()
    plain: dict[str, Any] = {"reduce_loss": "mean", "weight_decay": 0.0, "warmup_ratio": 0.03, "max_seq_length": 4096}
    plain |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    made = [sft("p", [1e8, 2e8], evaluations={"piqa": 0.7}, **plain)]
    made.append(sft("q", [1e8, 2e8], evaluations={"piqa": 0.8}, **{**plain, **option}))
    ds = RunRepository(tables, FakeStore(made)).to_dataset(metrics=["piqa"])
    base = ds.lineage.values == "dolma1_7-4M-default"
    found = ds.isel(lineage=np.flatnonzero(base)).run_id.squeeze().to_series().to_dict()
    runs = {run: run_id for run, run_id in found.items() if run_id in ("p", "q")}
    assert sorted(runs.values()) == ["p", "q"]
    assert all(text in run for run in runs), runs
    assert (ds.replicate.sel(run=list(runs)) == 0).all() or (ds.replicate.sel(run=list(runs)) == 1).all()
    means = ds.dde.mean_over("replicate")
    assert (means.n_members <= 1).all()
    ends = means.dde.final("piqa")
    values = sorted(float(ends.sel(run=run).max()) for run in runs)
    np.testing.assert_allclose(values, [0.7, 0.8])


def test_runs_that_differ_in_the_seed_of_training_are_replicates() -> None:
    tables, _ = example()
    made = [sft(n, [1e8, 2e8], evaluations={"piqa": v}, seed=s) for n, v, s in (("p", 0.7, 1), ("q", 0.8, 2))]
    ds = RunRepository(tables, FakeStore(made)).to_dataset(metrics=["piqa"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", DdeWarning)
        means = ds.dde.mean_over("replicate")
    assert int(means.n_members.max()) == 2
    np.testing.assert_allclose(float(means.dde.final("piqa").isel(run=1).max()), 0.75)
