"""Other axes than cumulative tokens: values against the plain reference, labels, laziness, round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.curves.axes import AXES, resolve_axis
from dde.entities.repository import RunRepository
from dde.errors import SelectionError, SourceError, UnknownNameError
from fakes import FakeStore, FakeTables, sft
from reference import ReferenceRun
from small_stores import FINAL, example, stores

N_PARAMS = 3_744_832
OTHERS = [name for name in AXES if name != "cumulative_tokens"]


def opened(**options: Any) -> xr.Dataset:
    return RunRepository(*example()).to_dataset(**options)  # type: ignore[arg-type]


def tokens_of(axis: str, value: float, run: ReferenceRun, schedule: float, n_params: int) -> int | None:
    """The tokens that a point of an axis means, said once more: plainly, and for one run."""
    if axis == "cumulative_compute":
        return round(value / (6 * n_params))
    if axis == "tokens_per_parameter":
        return round(value * n_params)
    if axis == "post_tokens":
        return None if run.parent is None else run.branch + round(value)
    start = 0 if run.parent is None else run.branch
    return None if np.isnan(schedule) or schedule <= start else start + round(value * (schedule - start))


@settings(max_examples=60, deadline=None)
@given(
    stores(),
    st.sampled_from(OTHERS),
    st.sampled_from(["auto", 7, "union"]),
    st.sampled_from(["linear", "log", "nearest", "previous"]),
    st.booleans(),
)
def test_every_cell_on_any_axis_equals_the_reference(
    made: tuple[FakeTables, FakeStore, dict[str, ReferenceRun]], axis: str, grid: Any, method: Any, bridge: bool
) -> None:
    tables, store, truth = made
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa"])  # type: ignore[arg-type]
    there = ds.dde.align(grid, method, axis=axis, bridge=bridge)
    assert there.piqa.dims == ("lineage", "run", axis)
    points = there[axis].values
    assert (np.diff(points) > 0).all()
    support = there.dde.support("piqa").values
    tokens = xr.broadcast(there.cumulative_tokens, there.piqa)[0].transpose("lineage", "run", axis).values
    for i, j in np.ndindex(there.run_id.shape):
        run_id = str(there.run_id.values[i, j])
        if not run_id:
            assert np.isnan(there.piqa.values[i, j]).all()
            continue
        run, end, n = truth[run_id], float(there.schedule_tokens[i, j]), int(there.n_params[i])
        for k, point in enumerate(points.tolist()):
            at = tokens_of(axis, point, run, end, n)
            cell = there.piqa.values[i, j, k]
            if at is None:
                assert np.isnan(cell)
                assert np.isnan(tokens[i, j, k])
                continue
            # Halves may be rounded to either whole token; the value is that of the token said.
            assert abs(at - tokens[i, j, k]) <= 1
            at = int(tokens[i, j, k])
            expected = run.value(at, method, True, bridge)
            np.testing.assert_allclose(cell, expected, rtol=1e-12, atol=1e-15)
            assert support[i, j, k] == run.support(at, expected)
            observed = run.observation(at)
            assert observed is None or cell == observed


@pytest.mark.parametrize("axis", OTHERS)
def test_an_auto_grid_holds_every_evaluation_exactly(axis: str) -> None:
    ds = opened(metrics=["piqa"])
    there = ds.dde.align(axis=axis)
    own = ds.dde.support("piqa") == 1
    if AXES[axis].by == "run":
        # Only what a run has from its branch on is on such an axis.
        after = (ds.cumulative_tokens >= ds.branch_tokens) | (ds.run == "pretraining")
        own = own & after & ((ds.run != "pretraining") | (axis != "post_tokens"))
    seen = sorted(ds.piqa.where(own).values[own.values].tolist())
    assert len(seen) >= 5
    kept = there.piqa.where(there.dde.support("piqa") == 1)
    assert sorted(kept.values[np.isfinite(kept.values)].tolist()) == seen


@pytest.mark.parametrize("grid", ["auto", "union", 5, dde.TokenGrid.log(5), dde.TokenGrid.quantile(5)])
def test_a_base_that_goes_on_does_not_stretch_the_axes_of_its_runs(grid: Any) -> None:
    tables, store = example()
    name = "250901-155731_x_100Mtx1_DD-dolma1_7-4M-2500-0_lr=1e-05"
    store.fake_runs = [sft(name, [1e7, 2e7], model_name_or_path=None, evaluations={"piqa": 0.7})]
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa"])  # type: ignore[arg-type]
    assert float(ds.branch_tokens.max()) == 2500 * 65_536
    assert ds.dde.align(grid, axis="fraction_of_training").fraction_of_training.values[-1] == 1
    assert ds.dde.align(grid, axis="post_tokens").post_tokens.values[-1] == 2e7


def test_sweeps_start_at_zero_since_the_branch() -> None:
    there = opened(metrics=["piqa"]).dde.align(axis="post_tokens")
    a = there.piqa.sel(lineage="dolma1_7-4M-default", run="sft_lr=1e-05_fullx1").dropna("post_tokens")
    assert a.post_tokens.values.tolist()[0] == 0
    assert float(a[0]) == 0.6  # the base's last evaluation, which is where the run starts from
    assert float(a.sel(post_tokens=2e8)) == 0.7
    assert there.piqa.sel(run="pretraining").isnull().all()
    assert there.post_tokens.attrs["units"] == "tokens"
    assert there.post_tokens.dtype == np.int64


def test_compute_and_tokens_per_parameter_follow_from_exact_parameters() -> None:
    ds = opened(metrics=["piqa"])
    compute = ds.dde.align([6 * N_PARAMS * FINAL], axis="compute")
    assert compute.cumulative_tokens.values.tolist() == [[FINAL], [FINAL]]
    assert float(compute.piqa.sel(run="pretraining", lineage="dolma1_7-4M-default").squeeze()) == 0.6
    chinchilla = ds.dde.align([20.0], axis="tokens_per_parameter")
    assert chinchilla.cumulative_tokens.values[0, 0] == 20 * N_PARAMS
    np.testing.assert_allclose(chinchilla.cumulative_compute.values[0, 0], 6 * N_PARAMS * 20 * N_PARAMS)


def test_fractions_are_shares_of_the_schedule() -> None:
    there = opened(metrics=["piqa"]).dde.align([0.0, 0.5, 1.0, 1.5], axis="fraction_of_training")
    ends = there.cumulative_tokens.sel(fraction_of_training=1.0)
    np.testing.assert_array_equal(ends.values, there.schedule_tokens.values)
    # The base of C4 was evaluated last before its schedule ended.
    c4 = {"lineage": "c4-4M-default", "run": "pretraining"}
    assert float(there.schedule_tokens.sel(**c4)) == FINAL > float(there.end_tokens.sel(**c4))
    assert np.isnan(there.piqa.sel(**c4, fraction_of_training=1.0))
    starts = there.cumulative_tokens.sel(fraction_of_training=0.0)
    np.testing.assert_array_equal(starts.values[:, 1:], there.branch_tokens.values[:, 1:])
    assert there.piqa.sel(fraction_of_training=1.5).isnull().all()


def test_another_axis_is_lazy_and_survives_files(tmp_path: Path) -> None:
    tables, store = example()
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa", "train_loss"])  # type: ignore[arg-type]
    there = ds.dde.align(axis="post_tokens")
    assert not tables.calls
    assert not store.evaluation_calls
    repr(there)
    assert not tables.calls
    one = there.piqa.sel(run="sft_lr=1e-05_fullx1").isel(lineage=0)
    one.load()
    assert [runs for runs, _ in store.evaluation_calls] == [("a",)]
    there.to_zarr(tmp_path / "post.zarr", consolidated=False)
    again = xr.open_dataset(tmp_path / "post.zarr", engine="zarr", consolidated=False)
    xr.testing.assert_identical(again.load(), there.load())


def test_selections_of_another_axis_keep_working() -> None:
    there = opened(metrics=["piqa"]).dde.align(axis="post_tokens")
    a = there.dde.sel(lineage="dolma1_7-4M-default", run="sft_lr=1e-05_fullx1", post_tokens=int(2e8))
    assert float(a.piqa) == 0.7
    assert int(a.dde.support("piqa")) == 1
    some = there.dde.sel(reduce_loss="sum")
    assert set(some.run_id.values.ravel()) == {"a", ""} - ({""} if some.run_id.size == 1 else set())
    kinds = there.dde.checkpoint_type()
    sft = kinds.sel(lineage="dolma1_7-4M-default", run="sft_lr=1e-05_fullx1")
    assert sft.sel(post_tokens=0) == 1
    assert sft.sel(post_tokens=int(2e8)) == 2
    revision = there.dde.revision().sel(lineage="dolma1_7-4M-default", run="sft_lr=1e-05_fullx1")
    assert revision.revision.sel(post_tokens=0).item() == "step5725-seed-default"


def test_back_and_forth_is_where_it_started() -> None:
    ds = opened(metrics=["piqa"])
    back = ds.dde.align(axis="tokens_per_parameter").dde.align(axis="cumulative_tokens")
    # Points of logs are positions of no metric that is there.
    assert set(back.cumulative_tokens.values) <= set(ds.cumulative_tokens.values)
    xr.testing.assert_equal(back.piqa.compute(), ds.piqa.sel(cumulative_tokens=back.cumulative_tokens).compute())
    same_axis = ds.dde.align(axis="post_tokens").dde.align(5)
    assert same_axis.piqa.dims[-1] == "post_tokens"
    # Five points, and the runs' own anchors.
    assert set(np.linspace(0, int(same_axis.post_tokens.max()), 5).round()) <= set(same_axis.post_tokens.values)
    assert same_axis.sizes["post_tokens"] <= 5 + 4


def test_computed_variables_move_along_between_their_points() -> None:
    ds = opened(metrics=["piqa"])
    ds["doubled"] = 2 * ds.piqa
    there = ds.dde.align(axis="post_tokens")
    np.testing.assert_allclose(there.doubled.values, 2 * there.piqa.values)


def test_long_tables_hold_the_axis() -> None:
    there = opened(metrics=["piqa"]).dde.align(axis="post_tokens")
    frame = there.dde.to_frame()
    assert {"post_tokens", "cumulative_tokens", "cumulative_compute", "piqa", "checkpoint_type"} <= set(frame)
    a = frame[frame.run_id == "a"]
    np.testing.assert_array_equal(a.cumulative_tokens - a.post_tokens, FINAL)
    np.testing.assert_allclose(a.cumulative_compute, 6 * N_PARAMS * a.cumulative_tokens)


def test_unknown_axes_name_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="fraction_of_training"):
        opened().dde.align(axis="fraction")
    assert resolve_axis("tokens").name == "cumulative_tokens"
    with pytest.raises(SelectionError, match="dimension of tokens"):
        opened().isel(cumulative_tokens=0).dde.align(4)


def test_a_suite_on_every_axis() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy", "train_loss"])
    for axis in OTHERS:
        there = ds.dde.align(32, axis=axis)
        assert there.arc_easy.notnull().any()
        assert int((there.dde.support("arc_easy") > 0).sum()) == int(there.arc_easy.notnull().sum())


def test_chunks_stay_chunks() -> None:
    tables, store = example()
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa"])  # type: ignore[arg-type]
    expected = opened(metrics=["piqa"]).dde.align(axis="post_tokens").piqa.load()
    chunked = ds.assign(piqa=ds.piqa.variable.chunk({"lineage": 1}))
    there = chunked.dde.align(axis="post_tokens")
    assert there.piqa.chunks == ((1, 1), (3,), (there.sizes["post_tokens"],))
    some = chunked.transpose("run", ...).isel(run=[2, 0]).chunk({"lineage": 2}).dde.align(expected.post_tokens.values)
    # Chunks of the stores are told from computed ones without reading any.
    assert not tables.calls
    assert not store.evaluation_calls
    xr.testing.assert_equal(there.piqa.compute(), expected)
    assert some.piqa.dims[-1] == "cumulative_tokens"
    doubled = chunked.assign(piqa=2 * chunked.piqa).dde.align(ds.cumulative_tokens.values)
    np.testing.assert_array_equal(doubled.piqa.values, 2 * ds.piqa.values)


def test_an_axis_that_was_dropped_or_rescaled_is_said() -> None:
    ds = opened(metrics=["piqa"])
    billions = ds.assign_coords(cumulative_tokens=ds.cumulative_tokens / 1e9)
    operations: list[Any] = [
        lambda d: d.dde.align(5),
        lambda d: d.dde.mean_over("seed"),
        lambda d: d.dde.final("piqa"),
        lambda d: d.dde.support("piqa"),
        lambda d: d.dde.to_frame(),
    ]
    for operation in operations:
        for dataset in (billions, billions.load()):
            with pytest.raises(SelectionError, match="no longer counts tokens"):
                operation(dataset)
    # Without a coordinate, cells are averaged as they are.
    bare = ds.drop_vars("cumulative_tokens").dde.mean_over("seed")
    np.testing.assert_array_equal(bare.piqa.values, ds.dde.mean_over("seed").piqa.values)
    with pytest.raises(SelectionError, match="no dimension of tokens with its coordinate"):
        ds.drop_vars("cumulative_tokens").dde.align(5)
    with pytest.raises(SelectionError, match="has no coordinates n_params"):
        ds.drop_vars("n_params").dde.align(5)
    for method in ("mean_over", "sweep"):
        with pytest.raises((SourceError, SelectionError), match="coordinate run_id"):
            getattr(ds.drop_vars("run_id").dde, method)("seed")
    # Points that interp made are no samples, whatever it made of the flags.
    with pytest.raises(SelectionError, match="was interpolated"):
        ds.interp(cumulative_tokens=np.linspace(1e8, 3e8, 7)).dde.support("piqa")


def test_one_point_of_a_run_that_is_not_on_the_axis() -> None:
    one = opened(metrics=["piqa"]).dde.align(axis="post_tokens").isel(lineage=0, run=0, post_tokens=1)
    assert int(one.dde.support("piqa")) == 0
    assert int(one.dde.checkpoint_type()) == 0


def test_one_run_alone_is_on_every_axis() -> None:
    ds = opened(metrics=["piqa"]).dde.align(axis="post_tokens")
    one = ds.isel(lineage=0, run=1)
    np.testing.assert_array_equal(one.dde.checkpoint_type(), ds.dde.checkpoint_type()[0, 1])
    np.testing.assert_array_equal(one.dde.revision().step, ds.dde.revision().step[0, 1])
    points = one.dde.align(5).post_tokens.values
    np.testing.assert_array_equal(one.dde.align(points).piqa, ds.dde.align(points).piqa[0, 1])
    whole = ds.dde.to_frame()
    columns = ["run_id", "post_tokens", "cumulative_tokens", "piqa", "checkpoint_type"]
    of_run = whole.loc[whole.run_id == one.run_id.item(), columns]
    assert one.dde.to_frame()[columns].values.tolist() == of_run.values.tolist()


def test_of_points_that_are_close_the_closest_is_selected() -> None:
    there = opened(metrics=["piqa"]).dde.align([0.5, 1 - 5e-7, 1.0], axis="fraction_of_training")
    assert there.dde.sel(fraction_of_training=1).fraction_of_training.item() == 1
    assert there.dde.sel(fraction_of_training=1 - 5e-7).fraction_of_training.item() < 1


def test_an_axis_in_place_of_a_grid_says_where_it_belongs() -> None:
    with pytest.raises(UnknownNameError, match="align\\(axis='post_tokens'\\)"):
        opened(metrics=["piqa"]).dde.align("post_tokens")
