"""`best`: the best value of a hyperparameter against plain loops, with ties, edges and resampled repetitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.analysis.choices import best
from dde.analysis.footing import values_at
from dde.errors import SelectionError, UnknownNameError
from dde.plots.answers.best import plot_best
from other_suites import Run, make_dataset, optimizers
from picture_checks import assert_nothing_is_cut_off, drawn, figures_of, printed

RATES = (1e-5, 3e-5, 1e-4, 3e-4)


def sweep_of(losses: Mapping[float, list[float]], end: Mapping[float, int] | None = None) -> xr.Dataset:
    """Runs of one lineage with a loss for each learning rate and seed, which is a factor of lineages."""
    runs = []
    for rate, of_seeds in losses.items():
        for seed, loss in enumerate(of_seeds):
            rows = {0: 5.0, (end or {}).get(rate, 100): loss}
            factors = {"learning_rate": rate, "seed": float(seed)}
            runs.append(Run(f"{rate}-{seed}", f"s{seed}", f"lr={rate:g}", "sft", rows, factors=factors))
    return make_dataset(runs, {"learning_rate": "run", "seed": "lineage"}, {f"s{k}": 10 for k in range(9)})


def test_the_best_its_lead_and_its_neighbours() -> None:
    found = best(sweep_of({1e-5: [3.0], 3e-5: [2.0], 1e-4: [2.25], 3e-4: [4.0]})).squeeze()
    assert (found.best.item(), found.second.item()) == (3e-5, 1e-4)
    assert (found.value.item(), found.margin.item()) == (2.0, 0.25)
    assert (found.n.item(), found.ties.item(), found.at_edge.item()) == (4, 0, False)
    assert np.isnan(found.wins.item())
    assert found.win_share.isnull().all()
    assert found.mean_value.values.tolist() == [3.0, 2.0, 2.25, 4.0]
    assert found.n_replicates.values.tolist() == [1, 1, 1, 1]
    assert (found.status.item(), found.value.attrs["units"]) == ("compared", "nats")
    higher = best(sweep_of({1e-5: [3.0], 3e-5: [2.0], 1e-4: [2.25], 3e-4: [4.0]}), direction="higher").squeeze()
    assert (higher.best.item(), higher.at_edge.item(), higher.margin.item()) == (3e-4, True, 1.0)


def test_ties_and_cells_with_one_value() -> None:
    found = best(sweep_of({1e-5: [3.0], 3e-5: [2.0], 1e-4: [2.0]})).squeeze()
    assert (found.best.item(), found.second.item(), found.margin.item(), found.ties.item()) == (3e-5, 1e-4, 0.0, 1)
    ds = sweep_of({1e-5: [3.0, 2.0], 3e-5: [2.0]})
    by_seed = best(ds, replicates=())
    assert by_seed.best.dims == ("lineage", "run")
    assert by_seed.status.values.ravel().tolist() == ["compared", "fewer than two values"]
    assert by_seed.n.values.ravel().tolist() == [2, 1]
    assert np.isnan(by_seed.best.values[1]).all()
    with pytest.raises(SelectionError, match="no cell has two values of learning_rate"):
        best(ds.dde.sel(learning_rate=[1e-5]))


def test_win_shares_are_those_of_all_resamples() -> None:
    losses = {1e-5: [1.0, 4.0, 2.0], 3e-5: [2.0, 2.0, 2.0], 1e-4: [9.0, 9.0, 9.0]}
    found = best(sweep_of(losses), samples=40_000).squeeze()
    array = np.array([losses[r] for r in losses])
    shares = np.zeros(3)
    for draw in np.ndindex(3, 3, 3):
        mean = array[:, list(draw)].mean(axis=1)
        wins = np.isclose(mean, mean.min())
        shares += wins / wins.sum() / 27
    # Ties in floating point may be broken; sums of these numbers are exact.
    np.testing.assert_allclose(found.win_share, shares, atol=0.01)
    assert found.win_share.sum().item() == pytest.approx(1.0)
    assert found.wins.item() == found.win_share.sel(learning_rate=found.best.item()).item()


def test_replicates_of_a_value_are_resampled_by_themselves() -> None:
    ds = optimizers()
    # Replicates 1 and 2 of one rate are 2.9 and 3.1, of the other 3.0 and 3.0.
    end = ds.loss.where(ds.cumulative_tokens < 800)
    values = {(1e-3, 1): 2.9, (1e-3, 2): 3.1, (3e-3, 1): 3.0, (3e-3, 2): 3.0}
    for (rate, replicate), value in values.items():
        is_run = np.isclose(ds.learning_rate, rate) & (ds.replicate == replicate).values
        end = end.where(~((ds.cumulative_tokens == 800) & xr.DataArray(is_run, dims="run")), value)
    found = best(ds.assign(loss=end.transpose(*ds.loss.dims).assign_attrs(ds.loss.attrs)), samples=20_000)
    assert found.attrs["averaged_over"] == "replicate"
    # Means of 1e-3 are 2.9, 3.0, 3.0 and 3.1 with equal chances.
    np.testing.assert_allclose(found.win_share.sel(learning_rate=1e-3), 0.5, atol=0.02)


def test_missing_repetitions_do_not_enter() -> None:
    ds = sweep_of({1e-5: [1.0, 2.0, 9.0], 3e-5: [2.5, 2.5, 2.5]})
    gone = ds.assign(loss=ds.loss.where(~((ds.learning_rate == 1e-5) & (ds.seed == 2))))
    found = best(gone).squeeze()
    assert found.mean_value.sel(learning_rate=1e-5).item() == 1.5
    assert found.n_replicates.values.tolist() == [2, 3]
    assert found.attrs["left_out"] == "no value at the place: 1"
    assert found.wins.item() == pytest.approx(26 / 27, abs=0.02)


def test_runs_of_different_ends_need_a_place() -> None:
    ds = sweep_of({1e-5: [3.0], 3e-5: [2.0]}, {1e-5: 100, 3e-5: 200})
    with pytest.raises(SelectionError, match=r"end at different tokens, such as 100 and 200.*at='common'"):
        best(ds)
    assert best(ds, at="last").best.item() == 3e-5
    common = best(ds, at="common").squeeze()
    assert (common.best.item(), common.mean_value.values.tolist()) == (1e-5, [3.0, 3.5])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=2, max_size=4),
    st.permutations(range(4)),
)
def test_closed_forms_and_permutations(scores: list[list[int]], order: list[int]) -> None:
    losses = {rate: [float(v) for v in of] for rate, of in zip(RATES, scores, strict=False)}
    ds = sweep_of(losses)
    found = best(ds, samples=50).squeeze()
    means = np.array([np.mean(v) for v in losses.values()])
    assert found.value.item() == means.min()
    assert found.best.item() == RATES[means.argmin()]
    assert found.margin.item() == np.sort(means)[1] - means.min()
    assert found.ties.item() == (means == means.min()).sum() - 1
    assert found.at_edge.item() == (means.argmin() in (0, len(means) - 1))
    shuffled = ds.isel(run=[k for k in order if k < len(means)])
    xr.testing.assert_allclose(best(shuffled, samples=50).squeeze(), found)
    # A monotone change that keeps the order of means keeps the best value and how often it wins.
    scaled = best(ds.assign(loss=(4 * ds.loss).assign_attrs(ds.loss.attrs)), samples=50).squeeze()
    assert scaled.best.item() == found.best.item()
    np.testing.assert_allclose(scaled.win_share, found.win_share)


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=["arc_easy", "piqa"]).load()


def test_recipes_are_those_of_a_plain_loop(suite: xr.Dataset) -> None:
    bases = suite.dde.sel(run="pretraining")
    found = best(bases, ["arc_easy", "piqa"], over="data")
    assert found.best.dims == ("metric", "params")
    assert "at_edge" not in found
    values = values_at(bases, ["arc_easy", "piqa"])
    for metric in ("arc_easy", "piqa"):
        frame = values.value.sel(metric=metric, drop=True).to_dataframe().dropna(subset=["value"])
        for params, rows in frame.groupby("params"):
            means = rows.groupby("data").value.mean()
            here = found.sel(metric=metric, params=params)
            assert here.n.item() == len(means)
            if len(means) > 1:
                assert here.best.item() == means.idxmax()
                assert here.margin.item() == pytest.approx(np.diff(np.sort(means)[-2:]).item())
            else:
                assert (here.best.item(), here.status.item()) == ("", "fewer than two values")


def test_learning_rates_of_the_tutorial_suite(suite: xr.Dataset) -> None:
    found = best(suite, "arc_easy")
    compared = found.status == "compared"
    assert int(compared.sum()) == 4
    assert not bool(found.at_edge.where(compared, False).any())
    assert found.attrs["left_out"].endswith("no value of learning_rate: 37")
    swept = suite.dde.sel(run_type="supervised_ft", epochs=2, branch_point="").dde.sweep("learning_rate")
    of_sweep = best(swept, "arc_easy")
    here = of_sweep.where(of_sweep.status == "compared", drop=True)
    assert set(np.unique(here.best)) == {2e-5}


@pytest.mark.parametrize(("kind", "over"), [("netcdf", "data"), ("zarr", "learning_rate")])
def test_saved_datasets_and_answers(suite: xr.Dataset, tmp_path: Path, kind: str, over: str) -> None:
    def again(dataset: xr.Dataset, name: str) -> xr.Dataset:
        if kind == "zarr":
            dataset.to_zarr(tmp_path / name, consolidated=False)
            return xr.open_zarr(tmp_path / name, consolidated=False)
        dataset.to_netcdf(tmp_path / name)
        return xr.open_dataset(tmp_path / name)

    chosen = suite[["arc_easy"]] if over == "learning_rate" else suite[["arc_easy"]].dde.sel(run="pretraining")
    found = best(chosen, over=over, samples=100)
    xr.testing.assert_allclose(best(again(chosen.drop_encoding(), "runs"), over=over, samples=100), found)
    with printed(plot_best(again(found, "answer"), backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ds: best(ds, "los"), UnknownNameError, "Did you mean loss"),
        (lambda ds: best(ds, over="learning_rat"), UnknownNameError, "Did you mean learning_rate"),
        (lambda ds: best(ds, replicates="sed"), UnknownNameError, "replicates='sed'"),
        (lambda ds: best(ds, samples=0), UnknownNameError, "samples=0"),
        (lambda ds: best(ds, direction="down"), UnknownNameError, "direction='down'"),
        (lambda ds: best(ds, at="end"), UnknownNameError, "at='end'"),
        (lambda ds: best(ds, interval="normal"), UnknownNameError, "interval='normal'"),
        (lambda ds: best(ds.dde.mean_over("seed"), "loss"), SelectionError, "holds means"),
    ],
)
def test_errors_say_what_to_do(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(sweep_of({1e-5: [3.0, 1.0], 3e-5: [2.0, 2.0]}))


def test_the_same_question_has_the_same_answer() -> None:
    ds = sweep_of({1e-5: [1.0, 4.0, 2.0], 3e-5: [2.0, 2.5, 2.0]})
    xr.testing.assert_identical(best(ds), best(ds))
    assert not best(ds, samples=101, seed=1).win_share.equals(best(ds, samples=101).win_share)


# --- pictures


@pytest.mark.parametrize("over", ["data", "learning_rate", "seed"])
def test_pictures_show_every_mean(suite: xr.Dataset, over: str) -> None:
    chosen = suite if over == "learning_rate" else suite.dde.sel(run="pretraining")
    found = best(chosen, "arc_easy", over=over, replicates=() if over == "seed" else None)
    with printed(plot_best(found, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
        texts = [t.get_text() for axis in figure.axes for t in axis.texts]
        assert ("100%" in texts) == (over == "data")
    figures = figures_of(plot_best(found))
    kinds = [r for f in figures for r in drawn(f, "Scatter")]
    count = sum(len(next(iter(r.data_source.data.values()))) for r in kinds)
    means = found.mean_value.where(found.status == "compared")
    assert count == int(means.notnull().sum()) + int((found.status == "compared").sum())


def test_an_edge_has_a_mark_of_its_own() -> None:
    found = best(optimizers())
    assert found.at_edge.all()
    figures = figures_of(plot_best(found))
    markers = {r.glyph.marker for f in figures for r in drawn(f, "Scatter") if isinstance(r.glyph.marker, str)}
    assert "diamond" in markers
    assert "square" not in markers
