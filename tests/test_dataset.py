"""The Dataset: values against the plain reference, labels, attributes, laziness, round trips."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.entities.repository import RunRepository
from dde.errors import DdeWarning, SelectionError, SourceError, UnknownNameError
from dde.sources.protocols import TOKEN_COUNTERS, TRAINING_STEP
from dde.tutorial import Suite
from fakes import FakeStore, FakeTables, sft
from reference import ReferenceRun
from small_stores import FINAL, PER_STEP, example, stores


@settings(max_examples=60, deadline=None)
@given(stores(), st.sampled_from(["linear", "log", "nearest", "previous"]), st.booleans())
def test_every_cell_equals_the_reference(
    made: tuple[FakeTables, FakeStore, dict[str, ReferenceRun]], method: Any, bridge: bool
) -> None:
    tables, store, truth = made
    ds = RunRepository(tables, store).to_dataset(interp=method, bridge=bridge, metrics=["piqa"])  # type: ignore[arg-type]
    support = ds.dde.support("piqa")
    assert support.dtype == np.int8
    for i, j in np.ndindex(ds.run_id.shape):
        run_id = str(ds.run_id.values[i, j])
        cells = ds.piqa.values[i, j]
        if not run_id:
            assert np.isnan(cells).all()
            continue
        run = truth[run_id]
        expected = np.array([run.value(int(t), method, True, bridge) for t in ds.cumulative_tokens.values])
        np.testing.assert_allclose(cells, expected, rtol=1e-12, atol=1e-15)
        for k, t in enumerate(ds.cumulative_tokens.values.tolist()):
            observed = run.observation(t)
            if observed is not None:
                assert cells[k] == observed
            assert support.values[i, j, k] == run.support(t, float(expected[k]))


@settings(max_examples=30, deadline=None)
@given(stores(), st.integers(1, 40))
def test_the_auto_grid_holds_evaluations_branches_and_ends(
    made: tuple[FakeTables, FakeStore, dict[str, ReferenceRun]], room: int
) -> None:
    tables, store, _ = made
    repository = RunRepository(tables, store)  # type: ignore[arg-type]
    ds = repository.to_dataset(max_points=room)
    grid = set(ds.cumulative_tokens.values.tolist())
    for label, steps in tables.rows.items():
        if label in ds.lineage.values:
            assert {s * PER_STEP for s in steps} <= grid
    for cells in (ds.branch_tokens, ds.end_tokens):
        values = cells.values[np.isfinite(cells.values)]
        assert set(values.astype(np.int64).tolist()) <= grid
    other = repository.to_dataset(max_points=room, metrics=["train_loss"])
    np.testing.assert_array_equal(other.cumulative_tokens, ds.cumulative_tokens)


def opened(**options: Any) -> xr.Dataset:
    return RunRepository(*example()).to_dataset(**options)  # type: ignore[arg-type]


def test_dimensions_labels_and_coordinates() -> None:
    ds = opened()
    assert ds.piqa.dims == ("lineage", "run", "cumulative_tokens")
    assert ds.run.values.tolist() == [
        "pretraining",
        "sft_lr=1e-05_fullx1",
        "sft_lr=1e-05_fullx1+dpo_lr=1e-05_fullx1_beta=5",
    ]
    # The same treatment of two bases has the same label.
    assert ds.run_id.values.tolist() == [["dolma1_7-4M-default", "a", "d"], ["c4-4M-default", "b", ""]]
    assert ds.lineage.values.tolist() == ["dolma1_7-4M-default", "c4-4M-default"]
    assert ds.seed.dtype == np.int64
    assert ds.n_params.values.tolist() == [3_744_832] * 2
    assert ds.cumulative_tokens.dtype == np.int64
    assert ds.run_type.values.tolist() == ["pretraining", "supervised_ft", "dpo"]
    assert ds.posttraining_method.values.tolist() == ["", "supervised_ft", "dpo"]
    np.testing.assert_array_equal(ds.dpo_beta, [np.nan, np.nan, 5])
    assert ds.token_source.sel(lineage="dolma1_7-4M-default").values.tolist() == ["logged", "logged", "estimated"]
    assert ds.reduce_loss.values[0].tolist() == ["", "sum", ""]
    assert set(ds.indexes) == {"lineage", "run", "cumulative_tokens"}
    for name, variable in ds.data_vars.items():
        assert str(name).isidentifier()
        assert variable.dtype == np.float64
        assert {"long_name", "units", "task", "metric", "direction", "source_name"} <= set(variable.attrs)
    assert ds.attrs["left_out"] == "state crashed: 1"
    assert "712 tokens" in ds.attrs["estimates"]
    n, t = ds.n_params.values[0], ds.cumulative_tokens.values[-1]
    assert ds.cumulative_compute.values[0, -1] == float(6 * int(n) * int(t))
    xr.testing.assert_identical(ds.sel(params="4M", learning_rate=1e-5).load(), ds.sel(learning_rate=1e-5).load())


def test_values_along_a_chain_join_where_the_parent_was_evaluated() -> None:
    ds = opened().load()
    chain = ds.sel(lineage="dolma1_7-4M-default", run=str(ds.run.values[2]))
    end_sft, end_dpo = FINAL + 2 * 10**8, FINAL + 2 * 10**8 + 2 * 2 * 4 * 2 * 2 * 712
    assert chain.piqa.sel(cumulative_tokens=FINAL) == 0.6
    assert chain.piqa.sel(cumulative_tokens=end_sft) == 0.7
    assert chain.piqa.sel(cumulative_tokens=end_dpo) == 0.75
    between = chain.piqa.sel(cumulative_tokens=slice(FINAL, end_sft)).values
    np.testing.assert_allclose(between, np.interp([FINAL, FINAL + 10**8, end_sft], [FINAL, end_sft], [0.6, 0.7]))
    # The parent of b was last evaluated before the branch: its evaluations are not joined, unless asked.
    c4 = {"lineage": "c4-4M-default", "run": str(ds.run.values[1])}
    assert np.isnan(ds.piqa.sel(c4, drop=True).sel(cumulative_tokens=FINAL))
    bridged = opened(bridge=True)
    assert np.isfinite(bridged.piqa.sel(c4).sel(cumulative_tokens=FINAL + 10**8))
    # A training loss never joins, not even along a chain.
    loss = chain.train_loss.sel(cumulative_tokens=slice(end_sft + 1, end_dpo - 1)).dropna("cumulative_tokens")
    assert loss.values.tolist() == [0.69]


def test_checkpoint_types_and_revisions() -> None:
    ds = opened()
    kinds = ds.dde.checkpoint_type()
    meanings = kinds.attrs["flag_meanings"].split()
    assert kinds.dtype == np.int8
    chain = kinds.sel(lineage="dolma1_7-4M-default", run=str(ds.run.values[2]))
    said = {int(t): meanings[int(k)] for t, k in zip(chain.cumulative_tokens, chain, strict=True)}
    assert said[0] == said[FINAL] == "pretraining"
    assert said[FINAL + 10**8] == said[FINAL + 2 * 10**8] == "supervised_ft"
    assert said[max(said)] == "dpo"
    base = kinds.sel(lineage="c4-4M-default", run="pretraining")
    assert meanings[int(base.sel(cumulative_tokens=FINAL))] == "outside"
    revisions = ds.dde.revision().sel(lineage="c4-4M-default", run="pretraining")
    assert revisions.revision.sel(cumulative_tokens=5000 * PER_STEP) == "step5000-seed-default"
    assert revisions.hub_model.sel(cumulative_tokens=5000 * PER_STEP) == "allenai/DataDecide-c4-4M"
    assert revisions.step.sel(cumulative_tokens=FINAL + 10**8) == -1
    # A whole step that nobody kept a checkpoint of has no revision.
    assert opened(grid=[PER_STEP, 2500 * PER_STEP]).dde.revision().step.values[0, 0].tolist() == [-1, 2500]
    one = ds.piqa.isel(lineage=0, run=1)
    assert one.dde.support().dims == ("cumulative_tokens",)
    assert one.dde.checkpoint_type().shape == one.shape


def test_nothing_of_a_metric_is_read_before_it_is_asked_for() -> None:
    tables, store = example()
    ds = RunRepository(tables, store).to_dataset()  # type: ignore[arg-type]
    text = repr(ds) + ds._repr_html_()
    assert "piqa" in text
    _ = ds.isel(run=0).sel(params="4M"), ds.chunk(), ds.piqa.dims, ds.nbytes
    assert tables.calls == []
    assert store.evaluation_calls == []
    assert {key for _, keys in store.history_calls for key in keys} <= {*TOKEN_COUNTERS, TRAINING_STEP}
    one = ds.piqa.sel(lineage="c4-4M-default", run="pretraining").load()
    assert np.isfinite(one).any()
    assert tables.calls == [(("c4-4M-default",), ("piqa",))]
    assert store.evaluation_calls == []
    _ = ds.piqa.sel(lineage="c4-4M-default", run="sft_lr=1e-05_fullx1").values
    assert store.evaluation_calls == [(("b",), (("piqa", "primary_metric"),))]
    assert {key for _, keys in store.history_calls for key in keys} <= {*TOKEN_COUNTERS, TRAINING_STEP}


def test_chunks_give_few_tasks_and_the_same_values() -> None:
    plain = opened().load()
    lazy = dde.open_lineages(RunRepository(*example()), chunks={"lineage": 1})  # type: ignore[arg-type]
    assert lazy.piqa.chunks is not None
    graph = dict(lazy.piqa.__dask_graph__())
    assert len(graph) <= 5 * 2
    with dask.config.set(scheduler="synchronous"):
        xr.testing.assert_equal(lazy.compute(), plain)
    # A worker gets the array by pickle.
    again = pickle.loads(pickle.dumps(lazy.piqa))
    xr.testing.assert_equal(again.compute(scheduler="synchronous"), plain.piqa)


def test_indexing_any_way_gives_the_same_block() -> None:
    whole = opened().piqa.load()
    for index in (
        {"lineage": [1, 0], "run": slice(None, None, -1), "cumulative_tokens": [3, 0, 2]},
        {"lineage": 0, "cumulative_tokens": -1},
        {"run": [2, 0, 0], "lineage": slice(0, 0)},
        {"cumulative_tokens": np.array([True, False, True] + [False] * (whole.sizes["cumulative_tokens"] - 3))},
    ):
        xr.testing.assert_identical(opened().piqa.isel(index).load(), whole.isel(index))


def test_round_trips_keep_labels_values_and_attributes(tmp_path: Path) -> None:
    ds = opened()
    ds.to_zarr(tmp_path / "x.zarr", consolidated=False)
    saved = xr.open_zarr(tmp_path / "x.zarr", consolidated=False)
    xr.testing.assert_identical(saved.compute(), ds.compute())
    ds.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as netcdf:
        xr.testing.assert_equal(netcdf.compute(), ds.compute())
        assert netcdf.attrs["left_out"] == ds.attrs["left_out"]
        assert netcdf.piqa.attrs == ds.piqa.attrs
    assert saved.dde.sel(learning_rate=1e-5).sizes["run"] == 2


def test_the_engine_gives_the_same_object(tiny_suite: Suite) -> None:
    suite = tiny_suite
    options = {"params": "4M", "metrics": ["piqa", "train_loss"], "cache_dir": None, "state": "all"}
    ours = dde.open_lineages(suite.data, suite.wandb, **options)
    theirs = xr.open_dataset(suite.data, engine="dde", db=suite.wandb, **options)
    xr.testing.assert_identical(ours.compute(), theirs.compute())
    assert theirs.encoding["source"] == suite.data
    assert "dde" in xr.backends.list_engines()
    assert list(xr.open_dataset(suite.data, engine="dde", drop_variables="piqa", **options).data_vars) == ["train_loss"]
    recipe = dde.open_lineages(suite.data, suite.wandb, data="dolma17", cache_dir=None)
    assert set(recipe.data.values) == {"Dolma1.7"}


def test_requests_that_mean_nothing_say_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean piqa"):
        opened(metrics=["piqqa"])
    with pytest.raises(UnknownNameError, match="150M"):
        opened(params="151M")
    with pytest.raises(SelectionError, match="sizes 4M"):
        opened(params="1B")
    with pytest.raises(SourceError, match="nothing to open"):
        dde.open_lineages(None)
    with pytest.raises(SourceError, match="RunRepository"):
        dde.open_lineages(RunRepository(*example()), cache_dir=None)  # type: ignore[arg-type]


def test_metrics_by_name_alias_glob_and_all() -> None:
    assert list(opened(metrics="*_valppl").data_vars) == [n for n in opened().data_vars if str(n).endswith("_valppl")]
    assert list(opened(metrics=["pile-valppl", "pile_valppl"]).data_vars) == ["pile_valppl"]
    every = opened(metrics="all")
    assert {"lr_at_step", "total_tokens", "piqa", "train_loss"} <= set(every.data_vars)
    assert np.isnan(opened(metrics="winogrande").winogrande).all()


@pytest.mark.parametrize("name", ["piqa_*", "pi*a", "*piqa", "piqa-", "piqa"])
def test_a_glob_or_misspelling_of_a_default_metric_is_never_a_key_of_the_log(name: str) -> None:
    ds = opened(metrics=name)
    assert ds.piqa.attrs["task"] == "piqa"
    assert ds.piqa.notnull().any()


def test_frames_agree_with_the_dataset() -> None:
    repository = RunRepository(*example())  # type: ignore[arg-type]
    ds = repository.to_dataset(grid="union", metrics=["piqa", "train_loss"])
    lineage = repository.get_lineage("d")
    frame = lineage.get_continuous_curves(metrics=["piqa", "train_loss"])
    assert list(frame.columns[:2]) == ["lineage_id", "run"]
    curve = frame[frame["run"] == str(ds.run.values[2])].set_index("cumulative_tokens")
    assert curve["checkpoint_type"].tolist() == ["pretraining"] * 3 + ["supervised_ft"] * 2 + ["dpo"] * 2
    assert curve["run_id"].tolist() == ["dolma1_7-4M-default"] * 3 + ["a"] * 2 + ["d"] * 2
    assert set(curve["learning_rate"]) == {1e-5}
    cells = ds.sel(lineage="dolma1_7-4M-default", run=str(ds.run.values[2]))
    observed = cells.piqa.where(cells.piqa.dde.support() == 1).dropna("cumulative_tokens")
    pd.testing.assert_series_equal(
        observed.to_series(), curve["piqa"].dropna(), check_names=False, check_index_type=False
    )
    long = ds.dde.to_frame()
    key = ["lineage_id", "run", "cumulative_tokens"]
    # The frame has runs in every state, the Dataset only finished ones.
    shown = frame[frame["run"].isin(ds.run.values)]
    both = shown.merge(long, on=key, suffixes=("", "_ds"), how="left")
    for name in ("piqa", "train_loss"):
        seen = both[both[name].notna()]
        np.testing.assert_array_equal(seen[name], seen[f"{name}_ds"])
    assert (both["checkpoint_type"] == both["checkpoint_type_ds"]).all()
    [analysis] = dde.DataDecideEvolved(None, repository.posttraining_source, cache_dir=None).get_scaling_analysis(["d"])
    assert analysis["run_id"].unique().tolist() == ["a", "d"]


def test_selecting_over_any_coordinates() -> None:
    ds = opened()
    assert ds.dde.sel(params=["4M"], data="c4", learning_rate=slice(1e-6, 1e-4)).sizes == {
        "lineage": 1,
        "run": 2,
        "cumulative_tokens": ds.sizes["cumulative_tokens"],
    }
    assert "run" not in ds.dde.sel(run="pretraining").dims
    only_b = ds.dde.sel(run_id="b")
    assert only_b.run_id.values.tolist() == [["b"]]
    assert ds.dde.sel(run_type=lambda t: t != "dpo").sizes["run"] == 2
    summed = ds.dde.sel(reduce_loss="sum").load()
    assert summed.sizes["lineage"] == 1
    with pytest.raises(SelectionError, match="1e-05"):
        ds.dde.sel(learning_rate=2e-5)
    with pytest.raises(UnknownNameError, match="learning_rate"):
        ds.dde.sel(learning_rat=1)
    with pytest.raises(SelectionError, match="not on the grid"):
        ds.dde.sel(cumulative_tokens=17)
    assert ds.piqa.dde.sel(data="C4").sizes["lineage"] == 1


def test_joining_opened_and_saved_datasets(tmp_path: Path) -> None:
    whole = opened()
    a, b = opened(data="Dolma1.7", grid=whole.cumulative_tokens), opened(data="C4", grid=whole.cumulative_tokens)
    b.to_zarr(tmp_path / "b.zarr", consolidated=False)
    saved = xr.open_zarr(tmp_path / "b.zarr", consolidated=False)
    for parts in ([a, b], [b, a], [a, saved], [a.isel(run=[0]), a, saved]):
        joined = dde.concat(parts).compute()
        assert joined.lineage.values.tolist() == whole.lineage.values.tolist()
        assert joined.run_id.dtype == object
        for name in (
            "piqa",
            "train_loss",
            "run_id",
            "params",
            "seed",
            "branch_tokens",
            "cumulative_compute",
            "learning_rate",
        ):
            xr.testing.assert_equal(joined[name], whole[name].reindex(run=joined.run).compute())
    one = dde.concat([whole.sel(lineage="c4-4M-default"), whole.sel(lineage="dolma1_7-4M-default")]).compute()
    xr.testing.assert_equal(one.piqa, whole.piqa.compute())
    with pytest.raises(SelectionError, match="nothing to join"):
        dde.concat([])
    other = FakeStore([sft("z", [5.0])])
    clash = RunRepository(example()[0], other).to_dataset()  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match=r"'a'.*'z'|'z'.*'a'"):
        dde.concat([whole, clash])


def test_joining_puts_different_grids_on_their_union() -> None:
    whole = opened(grid="union")
    a, b = opened(data="Dolma1.7"), opened(data="C4")
    joined = dde.concat([a, b]).compute()
    assert set(joined.cumulative_tokens.values) == set(a.cumulative_tokens.values) | set(b.cumulative_tokens.values)
    xr.testing.assert_equal(
        joined.piqa, whole.piqa.sel(cumulative_tokens=joined.cumulative_tokens, run=joined.run).compute()
    )


def test_support_needs_coordinates_and_no_stores(tmp_path: Path) -> None:
    opened().to_zarr(tmp_path / "x.zarr", consolidated=False)
    saved = xr.open_zarr(tmp_path / "x.zarr", consolidated=False)
    xr.testing.assert_equal(saved.dde.support("piqa").compute(), opened().dde.support("piqa").compute())
    with pytest.raises(SourceError, match="has no coordinate sampled_evaluations"):
        saved.drop_vars("sampled_evaluations").dde.support("piqa")
    with pytest.raises(SourceError, match="has no coordinate position_check"):
        saved.drop_vars("position_check").dde.support("piqa")
    with pytest.raises(SourceError, match=r"no attribute ancillary_variables.*sampled_as\('evaluations'\)"):
        xr.Dataset({"piqa": ("x", [1.0])}).dde.support("piqa")


def test_entities_hold_no_cycles_and_do_what_the_seed_says() -> None:
    import gc
    import weakref

    repository = RunRepository(*example())  # type: ignore[arg-type]
    lineage = repository.get_lineage("d")
    assert repository.get_run("a") is repository.get_run("a")
    run = repository.get_run("d")
    assert (run.run_type, run.parent_run_id) == ("dpo", "a")
    assert repository.get_run("a").child_run_ids == ["d"]
    assert [r.run_id for r in lineage.derived_runs] == ["a", "d", "dead"]
    assert [r.run_id for r in lineage.filter_derived_runs("supervised_ft", learning_rates=[1e-5])] == ["a"]
    assert [r.run_id for r in lineage.filter_derived_runs(dpo_beta=slice(1, 9))] == ["d"]
    assert repository.find_lineages(base_data="c4").to_dataset().lineage.values.tolist() == ["c4-4M-default"]
    assert len(repository.find_lineages(posttraining_method="dpo")) == 1
    assert run.to_dataset().run_type.values.tolist() == ["pretraining", "dpo"]
    assert run.get_evaluations(["piqa"])["piqa"].tolist() == [0.75]
    assert run.get_training_progression()["train_loss"].dropna().tolist() == [0.69, 0.6]
    assert lineage.base_run.to_dataset().run.values.tolist() == ["pretraining"]
    assert run.get_full_lineage().lineage_id == lineage.lineage_id
    with pytest.raises(SelectionError, match="Did you mean"):
        repository.get_run("dolma1_7-4M-defaul")
    gc.disable()
    try:
        gone = weakref.ref(run)
        del run, lineage
        assert gone() is None
    finally:
        gc.enable()


def test_coverage_says_what_became_of_every_run() -> None:
    coverage = RunRepository(*example()).coverage().set_index("run_id")  # type: ignore[arg-type]
    assert coverage.loc["dead", "status"] == "state crashed"
    assert coverage.loc["d", "branch_tokens"] == FINAL + 2 * 10**8
    assert coverage.loc["c4-4M-default", "status"] == "used"
    assert np.isnan(coverage.loc["c4-4M-default", "branch_tokens"])
    for column in ("lineage", "parent_run_id", "token_source", "parent_evidence", "contradictions"):
        assert all(isinstance(v, str) for v in coverage[column])
    assert RunRepository(*example()).coverage(state="all").set_index("run_id").loc["dead", "status"] == "used"  # type: ignore[arg-type]


def test_joining_keeps_what_a_user_computed_and_reads_nothing() -> None:
    tables, store = example()
    repository = RunRepository(tables, store)  # type: ignore[arg-type]
    a, b = repository.to_dataset(data="Dolma1.7", grid="union"), repository.to_dataset(data="C4", grid="union")
    _ = dde.concat([a, a]).sizes
    assert tables.calls == []
    doubled = [d.assign(piqa=d.piqa * 2, above=d.piqa - 0.5) for d in (a, b)]
    joined = dde.concat(doubled).compute()
    assert set(joined.cumulative_tokens.values) == {*a.cumulative_tokens.values, *b.cumulative_tokens.values}
    for part in doubled:
        cells = joined.sel(lineage=part.lineage, run=part.run, cumulative_tokens=part.cumulative_tokens)
        np.testing.assert_allclose(cells.piqa, part.piqa, rtol=1e-12)
        np.testing.assert_allclose(cells.above, part.above, rtol=1e-12)
        seen = part.dde.support("piqa") == 1
        np.testing.assert_array_equal(cells.piqa.where(seen), part.piqa.where(seen))


def test_joining_what_can_not_be_joined_says_why() -> None:
    with pytest.raises(SelectionError, match="n_params"):
        dde.concat([opened().drop_vars("n_params")])
    with pytest.raises(SelectionError, match="DataArray"):
        dde.concat([opened().piqa])
    listed = opened().assign_attrs(notes=["a", "b"])
    assert dde.concat([listed, opened()]).attrs["notes"] == ["a", "b"]
    partly = dde.concat([opened(data="C4").drop_vars("seed"), opened(data="Dolma1.7")])
    assert "seed" not in partly.coords


def test_cells_that_are_not_selected_hold_no_run() -> None:
    tables, store = example()
    ds = RunRepository(tables, store).to_dataset()  # type: ignore[arg-type]
    only = ds.dde.sel(reduce_loss="sum")
    assert tables.calls == []
    assert only.run_id.values.tolist() == [["a"]]
    masked = ds.dde.sel(run_id=["a", "c4-4M-default"])
    assert masked.run_id.values.tolist() == [["", "a"], ["c4-4M-default", ""]]
    assert np.isnan(masked.piqa.values[0, 0]).all()
    assert np.isfinite(masked.piqa.values[0, 1]).any()
    assert int(masked.dde.support("piqa").values[0, 0].sum()) == 0
    assert np.isnan(masked.end_tokens.values[0, 0])


def test_whole_numbers_are_selected_exactly() -> None:
    ds = opened(grid=[10**11, 10**11 + 60_000])
    assert int(ds.dde.sel(cumulative_tokens=10**11 + 60_000).cumulative_tokens) == 10**11 + 60_000
    with pytest.raises(SelectionError, match="not on the grid"):
        ds.dde.sel(cumulative_tokens=10**11 + 1)


def test_scalar_selections_are_saved_without_a_warning(tmp_path: Path) -> None:
    opened().dde.sel(lineage="c4-4M-default").to_zarr(tmp_path / "x.zarr", consolidated=False)


@pytest.mark.parametrize("chunks", ["auto", 2, {}, {"lineage": 1, "cumulative_tokens": 3}])
def test_any_chunks_leave_coordinates_in_memory(chunks: Any) -> None:
    lazy = dde.open_lineages(RunRepository(*example()), chunks=chunks)  # type: ignore[arg-type]
    assert all(c.chunks is None for c in lazy.coords.values())
    assert all(v.chunks is not None for v in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.compute(scheduler="synchronous"), opened().compute())


def test_an_unpickled_dataset_knows_what_it_is_made_of() -> None:
    again = pickle.loads(pickle.dumps(opened()))
    xr.testing.assert_equal(again.dde.support("piqa"), opened().dde.support("piqa"))


def test_a_log_with_the_name_of_a_coordinate_is_told_apart() -> None:
    tables, store = example()
    store.fake_runs[0].rows[0][1]["epochs"] = 0.5
    ds = RunRepository(tables, store).to_dataset(metrics="all")  # type: ignore[arg-type]
    assert np.nanmax(ds.epochs_at_step.values) == 0.5
    assert ds.epochs.dims == ("run",)


@pytest.mark.parametrize("method", ["linear", "log", "nearest", "previous", "pchip"])
def test_aligning_equals_opening_on_that_grid(method: Any) -> None:
    tables, store = example()
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa", "train_loss"])  # type: ignore[arg-type]
    aligned = ds.dde.align(grid=29, interp=method, bridge=True)
    assert tables.calls == []
    expected = opened(metrics=["piqa", "train_loss"], grid=29, interp=method, bridge=True)
    xr.testing.assert_equal(aligned.compute(), expected.compute())
    assert aligned.attrs["interpolation"] == method
    xr.testing.assert_equal(aligned.dde.support("piqa"), expected.dde.support("piqa"))
    # The one it came from keeps its own way.
    xr.testing.assert_equal(ds.dde.support("piqa"), opened().dde.support("piqa"))
    part = ds.dde.sel(data="C4").dde.align(grid="union")
    assert part.sizes["cumulative_tokens"] < opened(grid="union").sizes["cumulative_tokens"]
    gaps = ds.dde.align(max_gap=1)
    assert int((gaps.dde.support("piqa") == 2).sum()) == 0


def test_rows_that_the_axis_has_no_place_for_are_named() -> None:
    tables, store = example()
    store.fake_runs[0] = sft("a", [1e8, 1e8, 2e8], [1.0, 0.9, 0.8])
    ds = RunRepository(tables, store).to_dataset(metrics="train_loss")  # type: ignore[arg-type]
    with pytest.warns(DdeWarning, match=r"1 rows of train_loss count the same tokens.*\(a\)"):
        values = ds.dde.sel(run_id="a").train_loss.values
    assert sorted(values[np.isfinite(values)]) == [0.8, 1.0]


def test_points_along_the_axis_are_selected_by_other_coordinates() -> None:
    ds = opened(metrics=["piqa"])
    half = float(ds.cumulative_compute.max()) / 2
    some = ds.dde.sel(cumulative_compute=slice(half, None))
    assert some.cumulative_compute.values.max() == float(ds.cumulative_compute.max())
    expected = ds.piqa.where(ds.cumulative_compute >= half)
    kept = expected.sel(cumulative_tokens=some.cumulative_tokens)
    np.testing.assert_array_equal(some.piqa.values, kept.values)
    bare = ds.drop_vars("run_id").dde.sel(cumulative_compute=slice(half, None))
    np.testing.assert_array_equal(bare.piqa.values, kept.values)


RATES = (1e-5, 1.005e-5, 2e-5)


def close_rates() -> RunRepository:
    """Return three runs of one base, two of which have learning rates that are 0.5 % apart."""
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    runs = [sft(f"run{k}", [1e8], learning_rate=rate, evaluations={"piqa": 0.7 + k}) for k, rate in enumerate(RATES)]
    return RunRepository(tables, FakeStore(runs))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (1e-5, [0]),
        (1.005e-5, [1]),
        # Other ways to write the same number, and what arithmetic makes of it.
        (1e-5 * (1 + 1e-9), [0]),
        ([1e-5, 2e-5], [0, 2]),
        (slice(1.005e-5, 2e-5), [1, 2]),
        (slice(1e-6, 1e-5), [0]),
        (slice(1.0051e-5, 3e-5), [2]),
        (slice(1e-5 * (1 + 1e-9), 1e-5 * (1 + 1e-8)), [0]),
    ],
)
def test_rates_that_are_half_a_percent_apart_are_different(wanted: Any, expected: list[int]) -> None:
    repository = close_rates()
    ids = {f"run{k}" for k in expected}
    selected = repository.to_dataset(metrics=["piqa"]).dde.sel(learning_rate=wanted)
    assert set(selected.run_id.values.ravel().tolist()) == ids
    opened = repository.to_dataset(metrics=["piqa"], learning_rate=wanted)
    assert set(opened.run_id.sel(run=opened.run != "pretraining").values.ravel().tolist()) == ids
    lineage = repository.get_lineage("run0")
    assert {r.run_id for r in lineage.filter_derived_runs(learning_rates=wanted)} == ids


@pytest.mark.parametrize("wanted", [1.0025e-5, 0.995e-5, [1.01e-5], slice(1.0001e-5, 1.004e-5)])
def test_a_rate_that_no_run_has_selects_nothing(wanted: Any) -> None:
    repository = close_rates()
    with pytest.raises(SelectionError, match=r"1\.005e-05"):
        repository.to_dataset(metrics=["piqa"]).dde.sel(learning_rate=wanted)
    with pytest.raises(SelectionError, match=r"1\.005e-05"):
        repository.to_dataset(metrics=["piqa"], learning_rate=wanted)


def test_a_sweep_keeps_rates_that_are_half_a_percent_apart() -> None:
    swept = close_rates().to_dataset(metrics=["piqa"]).dde.sweep("learning_rate")
    np.testing.assert_array_equal(swept.learning_rate, RATES)


def test_the_longest_gap_is_the_last_that_is_filled() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 1250: {"piqa": 0.6}, 3750: {"piqa": 0.7}}})
    grid = [0, 625 * PER_STEP, 1250 * PER_STEP, 2500 * PER_STEP, 3750 * PER_STEP]
    for max_gap, missing in ((1250 * PER_STEP - 1, [1, 3]), (1250 * PER_STEP, [3]), (2500 * PER_STEP, [])):
        ds = RunRepository(tables).to_dataset(metrics=["piqa"], grid=grid, max_gap=max_gap)  # type: ignore[arg-type]
        assert np.flatnonzero(np.isnan(ds.piqa.values.ravel())).tolist() == missing


def test_a_row_at_the_branch_is_the_parents() -> None:
    # The counter of a restored run begins at its branch.
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    run = sft("a", [0, 1e8], [9.0, 2.0], evaluations={"piqa": 0.7})
    ds = RunRepository(tables, FakeStore([run])).to_dataset(metrics=["piqa", "train_loss"])  # type: ignore[arg-type]
    cells = ds.sel(run=ds.run != "pretraining").squeeze()
    at_branch = cells.sel(cumulative_tokens=FINAL)
    assert at_branch.piqa == 0.6
    assert np.isnan(at_branch.train_loss)
    assert 9.0 not in cells.train_loss.values
    assert cells.train_loss.sel(cumulative_tokens=FINAL + 10**8) == 2.0
