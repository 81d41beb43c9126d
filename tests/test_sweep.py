"""Sweeps: every run in its cell, nothing lost without a word, and all operations on what comes out."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.dataset.sweep import sweep
from dde.entities.repository import RunRepository
from dde.errors import DdeWarning, SelectionError, UnknownNameError
from dde.schema import TREATMENT, is_identity
from fakes import FakeRun, FakeStore, FakeTables, sft

SIZES = ("4M", "60M", "150M", "300M")
RATES = (1e-6, 5e-6, 1e-5, 5e-5)
BUDGETS = (10_000_000, 100_000_000, 1_000_000_000)


def run_of(size: str, rate: float, budget: int, replicate: int, **config: Any) -> FakeRun:
    return sft(
        f"{size}-{rate}-{budget}-{replicate}",
        [budget / 2, budget],
        created=f"2025-08-{replicate:02}",
        model_name_or_path=f"allenai/DataDecide-dolma1_7-{size}",
        learning_rate=rate,
        finetune_tokens=budget,
        evaluations={"piqa": score(size, rate, budget, replicate)},
        **config,
    )


def score(size: str, rate: float, budget: int, replicate: int) -> float:
    """A different value for every run."""
    return SIZES.index(size) / 10 + RATES.index(rate) / 100 + BUDGETS.index(budget) / 1000 + replicate / 10_000


def tables(sizes: tuple[str, ...] = SIZES) -> FakeTables:
    return FakeTables({f"dolma1_7-{s}-default": {0: {"piqa": 0.1}, 2500: {"piqa": 0.2}} for s in sizes})


def opened(runs: list[FakeRun], **options: Any) -> xr.Dataset:
    return RunRepository(tables(), FakeStore(runs)).to_dataset(**{"metrics": ["piqa"], **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def factorial() -> xr.Dataset:
    return opened([run_of(*point) for point in itertools.product(SIZES, RATES, BUDGETS, (1, 2))])


def test_a_full_factorial_comes_out_dense(factorial: xr.Dataset) -> None:
    swept = factorial.dde.sweep("learning_rate", "finetune_tokens")
    dims = ("lineage", "learning_rate", "finetune_tokens", "replicate")
    assert swept.piqa.dims == (*dims, "cumulative_tokens")
    assert swept.run_id.dims == dims
    assert swept.run_id.shape == (4, 4, 3, 2)
    assert (swept.run_id != "").all()
    assert swept.learning_rate.values.tolist() == list(RATES)
    assert swept.finetune_tokens.values.tolist() == list(BUDGETS)
    assert swept.replicate.values.tolist() == [1, 2]
    finals = swept.dde.final("piqa")
    for size, rate, budget, replicate in itertools.product(SIZES, RATES, BUDGETS, (1, 2)):
        cell = {"learning_rate": rate, "finetune_tokens": budget, "replicate": replicate}
        made = finals.sel(lineage=f"dolma1_7-{size}-default", **cell)
        assert made.run_id.item() == f"{size}-{rate}-{budget}-{replicate}"
        assert float(made) == score(size, rate, budget, replicate)
    assert swept.attrs["left_out"] == factorial.attrs["left_out"]


def test_every_cell_is_its_run_s_curve(factorial: xr.Dataset) -> None:
    swept = factorial.dde.sweep("finetune_tokens", "learning_rate")
    support, kinds = swept.dde.support("piqa"), swept.dde.checkpoint_type()
    for at in [(0, 0, 0, 0), (3, 2, 1, 1), (1, 1, 3, 0)]:
        cell = swept.piqa[at]
        of_run = factorial.piqa.sel(lineage=cell.lineage, run=cell.run)
        np.testing.assert_array_equal(cell.values, of_run.values)
        np.testing.assert_array_equal(support[at].values, of_run.dde.support().values)
        np.testing.assert_array_equal(kinds[at].values, of_run.dde.checkpoint_type().values)
        branch = cell.cumulative_tokens <= float(cell.branch_tokens)
        base = factorial.piqa.sel(lineage=cell.lineage, run="pretraining")
        np.testing.assert_array_equal(cell.values[branch.values], base.values[branch.values])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SIZES[:2]), st.sampled_from(RATES), st.sampled_from(BUDGETS)), max_size=12),
    st.permutations(["learning_rate", "finetune_tokens"]),
)
def test_missing_cells_and_duplicates(points: list[tuple[str, float, int]], names: list[str]) -> None:
    seen: dict[tuple[str, float, int], int] = {}
    runs = []
    for point in points:
        seen[point] = seen.get(point, 0) + 1
        runs.append(run_of(*point, seen[point]))
    ds = opened(runs)
    if not runs:
        with pytest.raises(SelectionError, match="so there is no sweep"):
            ds.dde.sweep(*names)
        return
    swept = ds.dde.sweep(*names)
    assert ("replicate" in swept.dims) == (max(seen.values()) > 1)
    assert sorted(r for r in swept.run_id.values.ravel() if r) == sorted(r.record.run_id for r in runs)
    for run in runs:
        (at,) = np.argwhere(swept.run_id.values == run.record.run_id)
        cell = swept.run_id[tuple(at)]
        assert float(cell.learning_rate) == run.record.config["learning_rate"]
        assert float(cell.finetune_tokens) == run.record.config["finetune_tokens"]
    empty = swept.piqa.where(swept.run_id == "").notnull()
    assert not empty.any()


def test_what_does_not_belong_is_counted_and_the_base_is_at_hand() -> None:
    whole = sft("whole", [1e8, 2e8], learning_rate=3e-4, max_train_samples=1400)
    ds = opened([run_of("4M", 1e-5, BUDGETS[0], 1), run_of("4M", 5e-5, BUDGETS[0], 1), whole])
    swept = ds.dde.sweep("finetune_tokens", "learning_rate")
    assert swept.learning_rate.values.tolist() == [1e-5, 5e-5]  # none that only a run outside of the sweep has
    assert "whole" not in swept.run_id.values
    assert swept.attrs["left_out"].endswith("not in the sweep over finetune_tokens, learning_rate: 1")
    assert swept.sizes["lineage"] == ds.sizes["lineage"]  # bases without a run of the sweep are still there
    bases = swept.dde.base_curves()
    assert bases.piqa.dims == ("lineage", "cumulative_tokens")
    # A lineage without a run of the sweep has no cells left that its base's curve could be taken from.
    has_setting = (swept.run_id != "").any(["finetune_tokens", "learning_rate"]).values
    upto = ds.piqa.sel(run="pretraining").where(ds.cumulative_tokens <= ds.origin_tokens.fillna(0).max("run")).values
    assert 0 < has_setting.sum() < len(has_setting)
    np.testing.assert_array_equal(bases.piqa.values[has_setting], upto[has_setting])
    assert np.isnan(bases.piqa.values[~has_setting]).all()


def test_runs_on_the_whole_mixture_have_a_place() -> None:
    whole = sft("whole", [1e8, 2e8], learning_rate=1e-5, evaluations={"piqa": 0.7})
    ds = opened([run_of("4M", 1e-5, BUDGETS[0], 1), run_of("4M", 5e-5, BUDGETS[0], 1), whole])
    swept = ds.dde.sweep("finetune_tokens", "learning_rate")
    assert swept.finetune_tokens.values.tolist() == [BUDGETS[0], np.inf]
    cell = swept.sel(lineage="dolma1_7-4M-default", learning_rate=1e-5, finetune_tokens=np.inf)
    assert cell.run_id.item() == "whole"
    assert float(cell.dde.final("piqa")) == 0.7
    assert "not in the sweep" not in swept.attrs["left_out"]


def test_runs_that_differ_otherwise_are_told() -> None:
    ds = opened([run_of("4M", 1e-5, budget, 1) for budget in BUDGETS[:2]])
    with pytest.warns(DdeWarning, match="1 cell of the sweep holds runs that differ in finetune_tokens"):
        swept = ds.dde.sweep("learning_rate")
    assert swept.sizes["replicate"] == 2
    assert swept.finetune_tokens.sel(learning_rate=1e-5).values.tolist() == list(BUDGETS[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "replicate" not in ds.dde.sel(finetune_tokens=[BUDGETS[0]]).dde.sweep("learning_rate").dims


def test_rates_that_differ_in_their_last_digits_are_one() -> None:
    ds = opened([run_of("4M", 1e-5, BUDGETS[0], 1), run_of("60M", 1e-5, BUDGETS[0], 1)])
    ds = ds.assign_coords(learning_rate=ds.learning_rate * (1 + 1e-9 * np.arange(ds.sizes["run"])))
    assert ds.dde.sweep("learning_rate").sizes["learning_rate"] == 1


def test_coordinates_of_cells_and_text_are_hyperparameters_too() -> None:
    runs = [run_of("4M", 1e-5, BUDGETS[0], k, weight_decay=w, reduce_loss=way) for k, (w, way) in
            enumerate(itertools.product((0.0, 0.1), ("mean", "sum")), start=1)]  # fmt: skip
    swept = opened(runs).dde.sweep("weight_decay", "reduce_loss")
    assert swept.weight_decay.values.tolist() == [0.0, 0.1]
    assert swept.reduce_loss.values.tolist() == ["mean", "sum"]
    one = swept.dde.sel(lineage="dolma1_7-4M-default", weight_decay=0.1, reduce_loss="mean")
    assert one.run_id.item() == runs[2].record.run_id
    assert float(one.learning_rate) == 1e-5


def test_a_sweep_is_lazy() -> None:
    fake_tables, store = tables(), FakeStore([run_of("4M", 1e-5, b, 1) for b in BUDGETS])
    ds = RunRepository(fake_tables, store).to_dataset(metrics=["piqa"])  # type: ignore[arg-type]
    swept = ds.dde.sweep("finetune_tokens")
    repr(swept)
    one = swept.piqa.sel(lineage="dolma1_7-4M-default", finetune_tokens=BUDGETS[1])
    assert not store.evaluation_calls
    one.load()
    assert [runs for runs, _ in store.evaluation_calls] == [(f"4M-1e-05-{BUDGETS[1]}-1",)]


def test_what_comes_out_can_be_used_like_any_dataset(factorial: xr.Dataset, tmp_path: Path) -> None:
    swept = factorial.dde.sweep("learning_rate", "finetune_tokens")
    np.testing.assert_array_equal(
        swept.sel(learning_rate=1e-5, replicate=2).piqa.values, swept.piqa.isel(learning_rate=2, replicate=1).values
    )
    there = swept.dde.align(axis="post_tokens")
    assert there.piqa.dims == ("lineage", "learning_rate", "finetune_tokens", "replicate", "post_tokens")
    again = factorial.dde.align(axis="post_tokens").dde.sweep("learning_rate", "finetune_tokens")
    xr.testing.assert_equal(again.piqa.load(), there.piqa.load())
    means = swept.dde.mean_over("replicate")
    np.testing.assert_allclose(
        means.dde.final("piqa").values, swept.dde.final("piqa").mean("replicate").values, rtol=1e-12
    )
    swept.to_zarr(tmp_path / "swept.zarr", consolidated=False)
    reopened = xr.open_zarr(tmp_path / "swept.zarr", consolidated=False)
    xr.testing.assert_equal(reopened.load(), swept.load())
    frame = factorial.dde.sweep("learning_rate", "finetune_tokens").dde.to_frame()
    assert len(frame) == len(factorial.dde.sel(run_type=["supervised_ft"]).dde.to_frame())
    assert {"learning_rate", "finetune_tokens", "replicate", "run"} <= set(frame)


def test_a_reopened_axis_is_swept_without_its_stores(factorial: xr.Dataset, tmp_path: Path) -> None:
    there = factorial.dde.align(axis="post_tokens")
    expected = there.dde.sweep("learning_rate", "finetune_tokens").load()
    there.to_zarr(tmp_path / "post.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "post.zarr", consolidated=False).dde.sweep("learning_rate", "finetune_tokens")
    xr.testing.assert_equal(again.load(), expected)


def test_means_over_replicates_are_swept(factorial: xr.Dataset) -> None:
    means = factorial.dde.mean_over("replicate").dde.sweep("learning_rate", "finetune_tokens")
    other = factorial.dde.sweep("learning_rate", "finetune_tokens").dde.mean_over("replicate")
    for name in other.data_vars:
        np.testing.assert_array_equal(means[name].values, other[name].values)


def test_dask_and_loaded_variables_are_swept_too(factorial: xr.Dataset, tmp_path: Path) -> None:
    expected = factorial.dde.sweep("learning_rate", "finetune_tokens")
    chunked = factorial.assign(piqa=factorial.piqa.variable.chunk({"lineage": 2}))
    lazy = chunked.dde.sweep("learning_rate", "finetune_tokens")
    assert lazy.piqa.chunks is not None
    np.testing.assert_array_equal(lazy.piqa.values, expected.piqa.values)
    uneven = factorial.assign(piqa=factorial.piqa.variable.chunk({"run": 2, "lineage": 3}))
    swept = uneven.dde.sweep("learning_rate", "finetune_tokens")
    assert swept.piqa.chunks == ((3, 1), (4,), (3,), (2,), (swept.sizes["cumulative_tokens"],))
    swept.dde.mean_over("replicate").to_zarr(tmp_path / "chunked.zarr", consolidated=False)
    doubled = factorial.load().assign(piqa=2 * factorial.piqa)
    np.testing.assert_array_equal(doubled.dde.sweep("learning_rate", "finetune_tokens").piqa, 2 * expected.piqa)


def test_difference_to_the_base(factorial: xr.Dataset) -> None:
    change = (
        factorial.dde.difference_to_base(max_distance=None)
        .dde.sweep("learning_rate", "finetune_tokens")
        .dde.final("piqa")
    )
    for size, rate, budget in itertools.product(SIZES, RATES, BUDGETS):
        cell = change.sel(lineage=f"dolma1_7-{size}-default", learning_rate=rate, finetune_tokens=budget, replicate=1)
        np.testing.assert_allclose(cell, score(size, rate, budget, 1) - 0.2)
    before = factorial.dde.difference_to_base(max_distance=None).piqa.where(
        factorial.cumulative_tokens <= factorial.branch_tokens
    )
    assert float(abs(before).max()) == 0


def test_five_hundred_runs() -> None:
    runs = [
        sft(f"r{k}", [1e8], learning_rate=1e-6 * (1 + k), finetune_tokens=BUDGETS[0], evaluations={"piqa": k / 500})
        for k in range(500)
    ]
    swept = opened(runs).dde.sweep("learning_rate")
    assert swept.sizes["learning_rate"] == 500
    np.testing.assert_allclose(swept.dde.final("piqa").sel(lineage="dolma1_7-4M-default"), np.arange(500) / 500)


def test_requests_that_mean_nothing_say_what_there_is(factorial: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean learning_rate"):
        factorial.dde.sweep("learning_rates")
    with pytest.raises(UnknownNameError, match="is a coordinate of lineages"):
        factorial.dde.sweep("params")
    with pytest.raises(UnknownNameError, match="Name each hyperparameter once"):
        factorial.dde.sweep()
    with pytest.raises(SelectionError, match=r"Coordinates with values: .*learning_rate"):
        factorial.dde.sweep("dpo_beta")
    with pytest.raises(SelectionError, match="Join Datasets first"):
        dde.concat([factorial.dde.sweep("learning_rate", "finetune_tokens")])
    with pytest.raises(SelectionError, match="Join Datasets first"):
        dde.concat([factorial.dde.align(axis="compute")])
    with pytest.raises(SelectionError, match="matches nothing"):
        factorial.dde.sel(learning_rate=slice("low", "high"))
    with pytest.raises(SelectionError, match="no dimension run"):
        sweep(factorial.isel(run=0), "learning_rate")


def test_a_generated_suite_is_swept() -> None:
    ds = dde.tutorial.open_lineages("small", params="150M", metrics=["arc_easy"], method="supervised_ft")
    ds = ds.dde.sel(epochs=[1.0], branch_point="", parent_treatment="", reduce_loss="sum")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swept = ds.dde.sweep("learning_rate", "finetune_tokens")
    assert int((swept.run_id != "").sum()) > 3


def test_where_means_end_is_no_difference_in_treatment() -> None:
    runs = [run_of("4M", 1e-6, 10_000_000, k) for k in (1, 2)] + [run_of("4M", 5e-6, 100_000_000, k) for k in (1, 2)]
    means = opened(runs).dde.mean_over("replicate")
    assert len(np.unique(means.last_end_tokens.values)) > 2
    with pytest.warns(DdeWarning, match="runs that differ in") as caught:
        means.dde.sweep("run_type")
    assert not any("last_end_tokens" in str(w.message) or "n_members" in str(w.message) for w in caught)
    with pytest.warns(DdeWarning, match="learning_rate"):
        gains = opened(runs).dde.difference_to_base(max_distance=None).dde.sweep("run_type")
    assert "base_distance" in gains.coords
    assert all(
        map(is_identity, ("last_end_tokens", "n_members", "final_tokens", "final_compute", "base_distance_piqa"))
    )
    assert not any(map(is_identity, TREATMENT - {"run"}))
