"""Means over seeds and replicates: against plain NumPy, lazily, and never of changing members unasked."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dde.curves.statistics import STATISTICS, bootstrap_interval, summarize
from dde.dataset.averages import mean_over
from dde.entities.repository import RunRepository
from dde.errors import DdeWarning, SelectionError, UnknownNameError
from fakes import FakeStore, FakeTables, sft

SEEDS = ("default", "small-aux-2", "small-aux-3")
FINAL = 5_725 * 65_536
LABEL = "sft_lr=1e-05_fullx1"  # three times on c4
SEEDED = "sft_lr=1e-05_100Mx1"  # once on each of two seeds of Dolma1.7


def stores() -> tuple[FakeTables, FakeStore]:
    """Three seeds of one base, the last of them evaluated up to 2,500 alone; another recipe with one seed."""
    tables = {
        f"dolma1_7-4M-{seed}": {
            step: {"piqa": 0.5 + 0.01 * k + step / 1e5} for step in ((0, 2500, 5725) if k < 2 else (0, 2500))
        }
        for k, seed in enumerate(SEEDS)
    }
    tables["c4-4M-default"] = {0: {"piqa": 0.4}, 5725: {"piqa": 0.5}}
    runs = [
        sft(
            f"250901-15573{k}_x_100Mtx1_DD-dolma1_7-4M-5725-{k}_lr=1e-05",
            [1e8, 2e8],
            [2.0 + k, 1.0 + k],
            model_name_or_path=None,
            evaluations={"piqa": 0.6 + 0.1 * k},
            reduce_loss="sum",
        )
        for k in range(2)
    ]
    for k in range(3):
        runs.append(
            sft(
                f"again{k}",
                [1e8, 2e8],
                created=f"2025-09-0{k + 1}",
                model_name_or_path="allenai/DataDecide-c4-4M",
                evaluations={"piqa": 0.7 + 0.1 * k},
                reduce_loss="sum",
            )
        )
    return FakeTables(tables), FakeStore(runs)


def opened(**options: Any) -> xr.Dataset:
    chunks = options.pop("chunks", None)
    ds = RunRepository(*stores()).to_dataset(**{"metrics": ["piqa", "train_loss"], **options})  # type: ignore[arg-type]
    return ds.chunk(chunks) if chunks else ds


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float64, (3, 4), elements=st.floats(-10, 10) | st.just(np.nan)),
    st.integers(1, 4),
    st.sampled_from([None, 0.5, 0.95]),
)
def test_statistics_equal_numpy(values: np.ndarray, required: int, interval: float | None) -> None:
    made = summarize(values, np.array(required), interval)
    for row, out in zip(values, made, strict=True):
        some = row[~np.isnan(row)]
        named = dict(zip(STATISTICS, out.tolist(), strict=True))
        assert named["count"] == len(some)
        if len(some) < required:
            assert np.isnan([v for k, v in named.items() if k != "count"]).all()
            continue
        np.testing.assert_allclose(named["mean"], some.mean(), rtol=1e-12, atol=1e-12)
        if len(some) > 1:
            np.testing.assert_allclose(named["std"], some.std(ddof=1), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(named["sem"], some.std(ddof=1) / np.sqrt(len(some)), rtol=1e-9, atol=1e-12)
        else:
            assert np.isnan(named["std"])
        assert np.isnan(named["low"]) == (interval is None or len(some) < 2)


@pytest.mark.parametrize("interval", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_bootstrap_is_that_of_all_resamples(n: int, interval: float) -> None:
    values = np.random.default_rng(n).normal(size=(1, n))
    means = np.sort([np.mean(c) for c in itertools.product(values[0], repeat=n)])
    tail = (1 - interval) / 2
    expected = [means[max(int(np.ceil(share * len(means) - 1e-9)) - 1, 0)] for share in (tail, 1 - tail)]
    np.testing.assert_allclose(bootstrap_interval(values, interval)[0], expected)


def test_many_members_are_drawn_with_a_fixed_seed() -> None:
    values = np.random.default_rng(0).normal(size=(50, 20))
    low, high = bootstrap_interval(values, 0.95).T
    np.testing.assert_array_equal(low, bootstrap_interval(values, 0.95)[:, 0])
    width = 2 * 1.96 * values.std(axis=1) / np.sqrt(20)
    np.testing.assert_allclose(high - low, width, rtol=0.15)


def test_means_over_seeds() -> None:
    ds = opened()
    means = ds.dde.mean_over("seed")
    assert means.lineage.values.tolist() == ["dolma1_7-4M", "c4-4M"]
    assert means.params.values.tolist() == ["4M", "4M"]
    assert not {"seed", "seed_name"} & set(means.coords)
    three = ds.piqa.sel(lineage=[f"dolma1_7-4M-{s}" for s in SEEDS], run="pretraining")
    made = means.sel(lineage="dolma1_7-4M", run="pretraining")
    every = three.notnull().all("lineage")
    xr.testing.assert_allclose(
        made.piqa.reset_coords(drop=True), three.mean("lineage").where(every).reset_coords(drop=True)
    )
    np.testing.assert_array_equal(made.piqa_count, three.notnull().sum("lineage"))
    squares = ((three - three.mean("lineage")) ** 2).sum("lineage")
    np.testing.assert_allclose(made.piqa_std, np.sqrt(squares / 2).where(every))
    half = 4.302652729911275 * made.piqa_sem  # the 97.5 % quantile of Student's t with two degrees of freedom
    np.testing.assert_allclose(made.piqa_low, made.piqa - half)
    np.testing.assert_allclose(made.piqa_high, made.piqa + half)
    observed = (ds.dde.support("piqa") == 1).sel(lineage=three.lineage, run="pretraining").sum("lineage")
    np.testing.assert_array_equal(made.piqa_observed, observed)
    assert int(made.n_members) == 3
    assert means.piqa.attrs["units"] == ds.piqa.attrs["units"]
    assert "mean over seeds" in means.piqa.attrs["long_name"]


def test_a_mean_ends_where_one_of_its_runs_does_unless_asked() -> None:
    ds = opened(metrics=["piqa"])
    strict = ds.dde.mean_over("seed").sel(lineage="dolma1_7-4M", run="pretraining")
    loose = ds.dde.mean_over("seed", min_count=1).sel(lineage="dolma1_7-4M", run="pretraining")
    two = ds.dde.mean_over("seed", min_count=2).sel(lineage="dolma1_7-4M", run="pretraining")
    assert np.isnan(strict.piqa.sel(cumulative_tokens=FINAL))
    assert int(strict.piqa_count.sel(cumulative_tokens=FINAL)) == 2
    np.testing.assert_allclose(loose.piqa.sel(cumulative_tokens=FINAL), np.mean([0.55725, 0.56725]))
    xr.testing.assert_equal(loose.piqa, two.piqa)


def test_a_treatment_that_some_seeds_have_is_of_those() -> None:
    made = opened(metrics=["piqa"]).dde.mean_over("seed").sel(lineage="dolma1_7-4M", run=SEEDED)
    assert int(made.n_members) == 2
    np.testing.assert_allclose(made.piqa.dropna("cumulative_tokens")[-1], 0.65)
    assert made.run_id.item().count("+") == 1
    assert float(made.branch_tokens) == FINAL


def test_means_over_replicates() -> None:
    ds = opened(metrics=["piqa"])
    assert [r for r in ds.run.values if "#" in r] == [f"{LABEL}#2", f"{LABEL}#3"]
    means = ds.dde.mean_over("replicate")
    assert means.run.values.tolist() == ["pretraining", SEEDED, LABEL]
    one = means.sel(lineage="c4-4M-default", run=LABEL)
    assert int(one.n_members) == 3
    np.testing.assert_allclose(one.piqa.dropna("cumulative_tokens")[-1], 0.8)
    assert int(means.n_members.sel(lineage="dolma1_7-4M-default", run=SEEDED)) == 1
    assert "replicate" not in means.coords


def test_both_at_once_are_means_of_all_runs() -> None:
    ds = opened(metrics=["piqa"])
    means = ds.dde.mean_over(["seed", "replicate"])
    assert (means.sizes["lineage"], means.sizes["run"]) == (2, 3)
    one = means.sel(lineage="c4-4M", run=LABEL)
    assert int(one.n_members) == 3
    with pytest.raises(SelectionError, match="mean of means"):
        means.dde.mean_over("seed")


def test_replicates_of_a_sweep_lose_their_dimension() -> None:
    swept = opened(metrics=["piqa"]).dde.sweep("learning_rate")
    assert swept.sizes["replicate"] == 3
    means = swept.dde.mean_over("replicate")
    assert means.piqa.dims == ("lineage", "learning_rate", "cumulative_tokens")
    one = means.piqa.sel(lineage="c4-4M-default", learning_rate=1e-5).dropna("cumulative_tokens")
    np.testing.assert_allclose(one[-1], 0.8)


def test_means_are_read_when_asked_for() -> None:
    tables, store = stores()
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa"])  # type: ignore[arg-type]
    means = ds.dde.mean_over("seed")
    repr(means)
    some = means.piqa.sel(lineage=["c4-4M"])
    assert not tables.calls
    some.load()
    assert {b for bases, _ in tables.calls for b in bases} == {"c4-4M-default"}
    again = pickle.loads(pickle.dumps(means))
    xr.testing.assert_equal(again.piqa, means.piqa)


@pytest.mark.parametrize("over", ["seed", "replicate"])
def test_dask_gives_the_same(over: str, tmp_path: Path) -> None:
    plain, chunked = opened(metrics=["piqa"]), opened(metrics=["piqa"])
    chunked = chunked.assign(piqa=chunked.piqa.variable.chunk({"lineage": 2, "run": 2}))
    means = chunked.dde.mean_over(over)
    assert means.piqa.chunks is not None
    expected = plain.dde.mean_over(over)
    for name in ("piqa", "piqa_count", "piqa_std", "piqa_low", "piqa_high"):
        np.testing.assert_allclose(means[name].values, expected[name].values)
        assert means[name].dtype == means[name].compute().dtype == expected[name].dtype
    # Whatever the chunks that members were in, what comes out has chunks that Zarr takes.
    means.to_zarr(tmp_path / "means.zarr", consolidated=False)
    uneven = {"lineage": (1, 2, 1, *[1] * (plain.sizes["lineage"] - 4))} if plain.sizes["lineage"] >= 4 else {}
    odd = chunked.assign(piqa=chunked.piqa.variable.chunk(uneven)).dde.mean_over(over)
    odd.to_zarr(tmp_path / "odd.zarr", consolidated=False)


def test_loaded_and_computed_variables_have_means_too(tmp_path: Path) -> None:
    ds = opened(metrics=["piqa"])
    expected = ds.dde.mean_over("seed")
    loaded = opened(metrics=["piqa"]).load()
    loaded["twice"] = 2 * loaded.piqa
    means = loaded.dde.mean_over("seed")
    np.testing.assert_allclose(means.piqa, expected.piqa)
    np.testing.assert_allclose(means.twice_std, 2 * expected.piqa_std)
    finals = ds.dde.final("piqa").to_dataset().dde.mean_over("seed")
    np.testing.assert_allclose(finals.piqa.sel(lineage="dolma1_7-4M", run=SEEDED), 0.65)
    expected.to_zarr(tmp_path / "means.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "means.zarr", consolidated=False)
    np.testing.assert_allclose(again.piqa_low, expected.piqa_low)


def test_means_since_the_branch() -> None:
    there = opened(metrics=["piqa"]).dde.align(axis="post_tokens")
    means = there.dde.mean_over("seed")
    one = means.sel(lineage="dolma1_7-4M", run=SEEDED)
    np.testing.assert_allclose(one.piqa.sel(post_tokens=int(2e8)), 0.65)
    assert one.cumulative_tokens.sel(post_tokens=0) == FINAL


def test_runs_that_branch_apart_are_told() -> None:
    later = xr.DataArray([0, 65_536, 0, 0], dims="lineage")
    ds = opened(metrics=["piqa"]).load()
    with pytest.warns(DdeWarning, match="1 mean is of runs that branch at different tokens") as caught:
        ds.assign_coords(branch_tokens=ds.branch_tokens + later).dde.mean_over("seed")
    assert caught[0].filename == __file__
    there = ds.dde.align(axis="post_tokens").load()
    there = there.assign_coords(
        branch_tokens=there.branch_tokens + later, cumulative_tokens=there.cumulative_tokens + later
    )
    means = there.dde.mean_over("seed").sel(lineage="dolma1_7-4M", run=SEEDED)
    # They have no tokens in common, and end where both do since their branches.
    assert means.cumulative_tokens.isnull().all()
    np.testing.assert_allclose(means.dde.final("piqa"), 0.65)
    assert np.isnan(means.dde.final("piqa").final_tokens)


def test_reductions_that_differ_are_told() -> None:
    tables, store = stores()
    store.fake_runs.append(
        sft(
            "other", [1e8, 2e8], model_name_or_path="allenai/DataDecide-c4-4M", reduce_loss="mean", created="2025-10-01"
        )
    )
    ds = RunRepository(tables, store).to_dataset(metrics=["train_loss"])  # type: ignore[arg-type]
    with pytest.warns(DdeWarning, match="mean, sum"):
        ds.dde.mean_over("replicate")


def test_means_of_what_has_no_axis_of_runs_of_its_own() -> None:
    ds = opened(metrics=["piqa"]).assign(cost=("lineage", [1.0, 3.0, 5.0, 7.0]))
    means = ds.dde.mean_over(["seed", "replicate"])
    assert means.cost.dims == ("lineage",)
    assert means.cost.sel(lineage="dolma1_7-4M").item() == 3.0
    assert means.cost_count.values.tolist() == [3, 1]


def test_a_reopened_mean_keeps_its_tokens(tmp_path: Path) -> None:
    there = opened(metrics=["piqa"]).dde.align(axis="post_tokens")
    expected = there.dde.mean_over("seed")
    there.to_zarr(tmp_path / "post.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "post.zarr", consolidated=False).dde.mean_over("seed")
    xr.testing.assert_equal(again.cumulative_tokens.compute(), expected.cumulative_tokens.compute())
    with pytest.raises(SelectionError, match="end at different tokens"):
        expected.dde.final("piqa")
    finals = again.dde.final("piqa", at="common"), expected.dde.final("piqa", at="common")
    np.testing.assert_array_equal(*finals)
    assert finals[0].notnull().any()


def test_threads_that_ask_for_other_blocks_meanwhile_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from dde.dataset import averages

    expected = opened(metrics=["piqa"]).dde.mean_over("seed").load()
    means = opened(metrics=["piqa"]).dde.mean_over("seed")
    # What is held is another thread's at any time.
    other = property(lambda _: ((), np.full((1, 1, 1, 6), -1.0)), lambda _, value: None)
    monkeypatch.setattr(averages._Summary, "_last", other, raising=False)
    xr.testing.assert_identical(means.load(), expected)


def test_requests_that_mean_nothing_say_what_there_is() -> None:
    ds = opened(metrics=["piqa"])
    with pytest.raises(UnknownNameError, match="'seed', 'replicate'"):
        ds.dde.mean_over("seeds")
    with pytest.raises(UnknownNameError, match="not a confidence level"):
        ds.dde.mean_over("seed", interval=95)
    with pytest.raises(UnknownNameError, match="allows means of no runs"):
        ds.dde.mean_over("seed", min_count=0)
    with pytest.raises(SelectionError, match="holds no lineage"):
        ds.isel(lineage=[]).dde.mean_over("seed")
    with pytest.raises(SelectionError, match="with its labels"):
        ds.drop_vars("lineage").dde.mean_over("seed")
    with pytest.raises(SelectionError, match="A sweep has replicate where"):
        ds.dde.sel(run=[SEEDED]).dde.sweep("learning_rate").dde.mean_over("replicate")
    with pytest.raises(SelectionError, match="no dimension lineage"):
        mean_over(ds.isel(lineage=0), "seed")
