"""`effect`: gains over bases against `difference_to_base`, plain arithmetic, and real suites."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import dde
from dde.analysis.effects import effect
from dde.errors import SelectionError, UnknownNameError
from dde.plots.answers.effect import plot_effect
from other_suites import SIZES, Run, ladder, make_dataset, optimizers
from picture_checks import assert_nothing_is_cut_off, caption_of, drawn, figures_of, printed
from samples import sample_folder


def tuned(
    base: Mapping[int, float], own: Mapping[int, float], branch: int, direction: str = "lower", n_params: int = 10
) -> xr.Dataset:
    """A base and a run that left it at some tokens."""
    runs = [
        Run("base", "x", "pretraining", "pretraining", base),
        Run("run", "x", "tuned", "sft", own, ["base"], branch=branch, start=branch),
    ]
    ds = make_dataset(runs, {}, {"x": n_params})
    ds.loss.attrs["direction"] = direction
    return ds


def test_gain_and_its_price() -> None:
    found = effect(tuned({0: 4.0, 1000: 3.0}, {1010: 3.5, 1040: 2.5}, 1000)).squeeze()
    assert found.run.item() == "tuned"
    assert (found.gain.item(), found.base_value.item(), found.value.item()) == (-0.5, 3.0, 2.5)
    assert (found.base_tokens.item(), found.base_distance.item()) == (1000, 0)
    assert (found.tokens.item(), found.tokens_since_base.item()) == (1040, 40)
    assert found.gain_per_token.item() == -0.5 / 40
    assert found.gain_per_flop.item() == -0.5 / (6 * 10 * 40)
    assert (found.gain.attrs["units"], found.gain_per_token.attrs["units"]) == ("nats", "nats/token")
    assert (found.status.item(), found.attrs["left_out"], found.attrs["at"]) == ("entered", "", "last")
    # It was worse than its base on the way.
    assert (found.forgetting.item(), found.worst_forgetting.item()) == (0.0, 0.5)


@pytest.mark.parametrize(("direction", "forgotten", "worst"), [("lower", 0.5, 0.75), ("higher", 0.0, 0.25)])
def test_forgetting_is_in_the_bad_direction(direction: str, forgotten: float, worst: float) -> None:
    ds = tuned({0: 4.0, 1000: 3.0}, {1010: 3.75, 1020: 2.75, 1040: 3.5}, 1000, direction)
    found = effect(ds).squeeze()
    assert (found.forgetting.item(), found.worst_forgetting.item()) == (forgotten, worst)
    # Samples after the place do not count, and a value between samples does.
    early = effect(ds, at=1015).squeeze()
    assert early.gain.item() == pytest.approx(0.25)
    assert early.worst_forgetting.item() == pytest.approx(0.75 if direction == "lower" else 0.0)
    other = effect(ds, direction="higher" if direction == "lower" else "lower").squeeze()
    assert other.forgetting.item() == 0.5 - forgotten
    assert "forgetting" not in effect(ds, forgetting=False)


def test_a_base_that_was_observed_too_early_is_counted() -> None:
    ds = tuned({0: 4.0, 900: 3.0, 1200: 2.0}, {1100: 2.5}, 1000)
    found = effect(ds).squeeze()
    reason = "base last observed more than 5% of its tokens before the branch"
    assert (found.status.item(), found.attrs["left_out"]) == (reason, f"{reason}: 1")
    assert np.isnan([found.gain.item(), found.gain_per_token.item(), found.forgetting.item()]).all()
    assert (found.base_value.item(), found.base_distance.item()) == (3.0, 100)
    for max_distance in (0.1, None):
        assert effect(ds, max_distance=max_distance).gain.item() == -0.5
    none = effect(tuned({1200: 2.0}, {1100: 2.5}, 1000)).squeeze()
    assert none.status.item() == "base has no value before the branch"
    assert np.isnan(none.gain.item())


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=["arc_easy", "piqa"]).load()


@pytest.mark.parametrize("at", ["schedule", "last", "common", {"post_tokens": 1e6}])
@pytest.mark.parametrize("max_distance", [0.05, 0.0, None])
def test_gains_are_those_of_difference_to_base(suite: xr.Dataset, at: Any, max_distance: float | None) -> None:
    from dde.analysis.footing import values_at

    chosen = suite.dde.sel(run_type=["pretraining", "supervised_ft"])
    found = effect(chosen, ["arc_easy", "piqa"], at=at, max_distance=max_distance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change = chosen.dde.difference_to_base(max_distance)
    # Bases have no effect, so they do not decide how far all runs reach.
    expected = values_at(change.isel(run=slice(1, None)).sel(lineage=found.lineage), ["arc_easy", "piqa"], at).value
    expected = expected.where(chosen.origin_tokens.notnull()).sel(lineage=found.lineage, run=found.run)
    np.testing.assert_allclose(found.gain, expected.transpose(*found.gain.dims), rtol=0, atol=1e-15)
    if at in ("schedule", "last"):
        np.testing.assert_array_equal(found.gain, expected.transpose(*found.gain.dims))
    assert found.gain.notnull().any()
    entered = found.status == "entered"
    np.testing.assert_array_equal(entered, found.gain.notnull())


def test_samples_are_those_of_a_plain_loop(suite: xr.Dataset) -> None:
    found = effect(suite, "arc_easy")
    frame = suite[["arc_easy"]].dde.observed().dde.to_frame()
    count = 0
    for cell in found.stack(cell=("lineage", "run")).transpose("cell", ...).cell.values:
        here = found.sel(lineage=cell[0], run=cell[1])
        if here.status.item() != "entered":
            continue
        count += 1
        rows = frame[(frame.lineage_id == cell[0]) & (frame.run == cell[1])].dropna(subset=["arc_easy"])
        own = rows[
            (rows.cumulative_tokens > here.branch_tokens.item()) & (rows.cumulative_tokens <= here.tokens.item())
        ]
        worst = max(0.0, (here.base_value.item() - own.arc_easy).max())
        assert here.worst_forgetting.item() == pytest.approx(worst)
        assert here.forgetting.item() == pytest.approx(max(0.0, here.base_value.item() - own.arc_easy.iloc[-1]))
    assert count > 30


def test_means_over_repetitions() -> None:
    runs = []
    gains = {0: -0.5, 1: -0.75, 2: -0.25}
    for seed, gain in gains.items():
        base = Run(
            f"base-{seed}", f"x-{seed}", "pretraining", "pretraining", {0: 4.0, 1000: 3.0}, factors={"seed": seed}
        )
        own = {1100: 3.0 + gain}
        tuned_run = Run(
            f"run-{seed}",
            f"x-{seed}",
            "tuned",
            "sft",
            own,
            [base.run_id],
            branch=1000,
            start=1000,
            factors={"seed": seed},
        )
        runs += [base, tuned_run]
    ds = make_dataset(runs, {"seed": "lineage"}, {f"x-{s}": 10 for s in gains})
    found = effect(ds, over="seed").squeeze()
    expected = stats.ttest_1samp(list(gains.values()), 0).confidence_interval(0.95)
    assert found.gain.item() == pytest.approx(-0.5)
    assert (found.low.item(), found.high.item()) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (found.n.item(), found.n_runs.item(), found.attrs["averaged_over"]) == (3, 3, "seed")
    assert found.attrs["interval_method"] == "Student's t over seed"
    assert found.base_value.item() == 3.0
    # One that did not enter is counted, not averaged.
    fewer = ds.copy()
    fewer["loss"] = ds.loss.where(~((ds.seed == 2) & (ds.run == "tuned") & (ds.cumulative_tokens > 1000)))
    less = effect(fewer, over="seed").squeeze()
    assert (less.n.item(), less.n_runs.item(), less.gain.item()) == (2, 3, pytest.approx(-0.625))


def test_means_of_different_ends_need_a_place() -> None:
    ds = ladder()
    loss = ds.loss.where(~((ds.seed == 1) & (ds.cumulative_tokens > ds.branch_tokens + 10_000_000)))
    unscheduled = ds.assign(loss=loss).assign_coords(schedule_tokens=ds.schedule_tokens * np.nan)
    with pytest.raises(SelectionError, match=r"different tokens.*at='common'"):
        effect(unscheduled.dde.sel(run_type="decay"), over="seed")
    assert effect(unscheduled.dde.sel(run_type="decay"), over="seed", at="last").n.max() == 2


@settings(max_examples=20, deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_gains_shift_and_scale_with_the_metric(shift: float, scale: float) -> None:
    ds = ladder()
    plain = effect(ds)
    moved = effect(ds.assign(loss=(ds.loss * scale + shift).assign_attrs(ds.loss.attrs)))
    np.testing.assert_allclose(moved.gain, plain.gain * scale, atol=1e-10)
    np.testing.assert_allclose(moved.worst_forgetting, plain.worst_forgetting * scale, atol=1e-10)
    np.testing.assert_array_equal(moved.status, plain.status)


def test_other_suites_and_sweeps() -> None:
    ds = ladder()
    found = effect(ds)
    assert set(found.run.values) == {"decay-1xC", "decay-2xC", "(decay-1xC & decay-2xC)+merge", "rewound"}
    decay = found.sel(lineage="190M-s0", run="decay-1xC")
    base = ds.loss.sel(lineage="190M-s0", run="constant", cumulative_tokens=80_000_000)
    end = ds.loss.sel(lineage="190M-s0", run="decay-1xC", cumulative_tokens=100_000_000)
    assert decay.gain.item() == pytest.approx((end - base).item())
    assert decay.gain_per_flop.item() == pytest.approx((end - base).item() / (6 * SIZES["190M"] * 20e6))
    swept = ds.dde.sel(run_type="decay").dde.sweep("budget")
    of_sweep = effect(swept)
    np.testing.assert_allclose(of_sweep.gain, found.gain.sel(run=["decay-1xC", "decay-2xC"]))
    with pytest.raises(SelectionError, match="no run of the Dataset started from a base"):
        effect(optimizers())


def test_without_parameters_there_is_no_price_in_flops() -> None:
    ds = tuned({0: 4.0, 1000: 3.0}, {1040: 2.5}, 1000).drop_vars(["n_params", "cumulative_compute"])
    found = effect(ds)
    assert "gain_per_flop" not in found
    assert found.gain_per_token.item() == -0.5 / 40


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_saved_datasets_and_answers(suite: xr.Dataset, tmp_path: Path, kind: str) -> None:
    def again(dataset: xr.Dataset, name: str) -> xr.Dataset:
        if kind == "zarr":
            dataset.to_zarr(tmp_path / name, consolidated=False)
            return xr.open_zarr(tmp_path / name, consolidated=False)
        dataset.to_netcdf(tmp_path / name)
        return xr.open_dataset(tmp_path / name)

    chosen = suite[["arc_easy"]].dde.sel(params="150M")
    found = effect(chosen)
    xr.testing.assert_allclose(effect(again(chosen.drop_encoding(), "runs")), found)
    answer = again(found, "answer")
    with printed(plot_effect(answer, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ds: effect(ds, "los"), UnknownNameError, "Did you mean loss"),
        (lambda ds: effect(ds, max_distance=-1), UnknownNameError, "max_distance=-1"),
        (lambda ds: effect(ds, at="end"), UnknownNameError, "at='end'"),
        (lambda ds: effect(ds, over="sede"), UnknownNameError, "Did you mean seed"),
        (lambda ds: effect(ds, interval="none", level=2.0), UnknownNameError, "level=2.0"),
        (lambda ds: effect(ds, direction="up"), UnknownNameError, "direction='up'"),
        (lambda ds: effect(ds.dde.mean_over("seed"), "loss"), SelectionError, "holds means"),
    ],
)
def test_errors_say_what_to_do(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(ladder())


def test_an_unknown_direction_is_an_error_only_for_forgetting() -> None:
    ds = tuned({0: 4.0, 1000: 3.0}, {1040: 2.5}, 1000, direction="")
    with pytest.raises(UnknownNameError, match="direction='higher'"):
        effect(ds)
    assert effect(ds, forgetting=False).gain.item() == -0.5


def test_a_coarse_grid_is_an_error(suite: xr.Dataset) -> None:
    coarse = suite[["arc_easy"]].dde.sel(params="150M").isel(cumulative_tokens=slice(None, None, 7))
    with pytest.raises(SelectionError, match="coarser grid"):
        effect(coarse)


# --- pictures


def test_pictures_show_every_gain(suite: xr.Dataset) -> None:
    found = effect(suite, ["arc_easy", "piqa"])
    with printed(plot_effect(found, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
    text = caption_of(plot_effect(found, backend="matplotlib"))
    assert text.startswith("Change of ARC-Easy and PIQA (primary metric) from the base, at the planned end;")
    assert "(base has no value before the branch)" in text
    figures = figures_of(plot_effect(found))
    points = sum(len(next(iter(r.data_source.data.values()))) for f in figures for r in drawn(f, "Scatter"))
    assert points == int(found.gain.notnull().sum())


def test_pictures_of_means_and_of_nothing(suite: xr.Dataset) -> None:
    found = effect(suite[["arc_easy"]], over=["seed", "replicate"])
    with printed(plot_effect(found, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
    with pytest.raises(SelectionError, match="nothing to draw"):
        plot_effect(found.where(found.gain > 5))


# --- real suites


def test_decays_of_the_ladder_gain_over_the_trunk_at_their_branch() -> None:
    folder = sample_folder("suites/olmo_ladder")
    ds = dde.open_lineages(folder, suite="olmo_ladder", metrics=["c4_en_loss"], cache_dir=None)
    found = effect(ds)
    assert dict(found.gain.sizes) == {"lineage": 5, "run": 5}
    assert (found.gain < 0).all()
    assert (found.forgetting == 0).all()
    assert float(-found.gain.max()) == pytest.approx(0.0763, abs=5e-5)
    assert float(-found.gain.min()) == pytest.approx(0.1301, abs=5e-5)


def test_interventions_of_pythia_with_standard_errors() -> None:
    metrics = ["crows_pairs_english_pct_stereotype", "crows_pairs_english_pct_stereotype_stderr"]
    ds = dde.open_lineages(sample_folder("suites/pythia"), suite="pythia", metrics=metrics, cache_dir=None)
    found = effect(ds, metrics[0], forgetting=False)
    seen = ds.dde.observed().sel(lineage="pythia-70m-deduped")
    error = seen[metrics[1]].sel(run="intervention").dropna("cumulative_tokens")
    base = seen[metrics[1]].sel(run="pretraining", cumulative_tokens=133_000 * 2_097_152)
    here = found.sel(lineage="pythia-70m-deduped", run="intervention")
    assert here.base_tokens.item() == 133_000 * 2_097_152
    assert here.stderr.item() == pytest.approx(np.hypot(error[-1], base).item())
