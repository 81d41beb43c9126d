"""Fits of scaling laws to tables and to Datasets of runs: who enters, intervals, leverage, predictions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dde
from dde.analysis.fits import fit
from dde.analysis.laws import LossLaw, sigmoid
from dde.analysis.predictions import predict
from dde.errors import ConflictWarning, DdeError, SelectionError, UnknownNameError
from other_suites import ladder
from samples import sample_folder

POWER, BOTH = LossLaw(("compute",)), LossLaw(("n_params", "tokens"))
SIZES = np.geomspace(1e7, 2e9, 7)
#: Besiroglu et al. (2024).
REPLICATION = np.array([1.8172, 482.01, 2085.43, 0.3478, 0.3658])


def power_table(
    noise: float = 0.004, seeds: int = 3, true: tuple[float, ...] = (1.9, 50.0, 0.15), rng: int = 0
) -> xr.Dataset:
    """Losses of sizes that were trained with 20 tokens per parameter, along (size, seed)."""
    compute = 6 * SIZES * 20 * SIZES
    errors = np.random.default_rng(rng).normal(0, noise, (len(SIZES), seeds))
    loss = POWER.value(np.array(true), {"compute": compute})[:, None] * np.exp(errors)
    coords = {"n_params": ("size", SIZES), "tokens": ("size", 20 * SIZES), "size": [f"s{k}" for k in range(len(SIZES))]}
    return xr.Dataset({"loss": (("size", "seed"), loss, {"units": "nats"})}, {**coords, "seed": range(seeds)})


def both_table(noise: float = 0.0) -> xr.Dataset:
    """Losses along (run,) of runs with different parameters and tokens."""
    n, d = map(np.ravel, np.meshgrid(SIZES, np.geomspace(1e9, 4e11, 6)))
    loss = BOTH.value(REPLICATION, {"n_params": n, "tokens": d})
    loss = loss * np.exp(np.random.default_rng(0).normal(0, noise, len(n)))
    return xr.Dataset({"loss": ("run", loss)}, {"n_params": ("run", n), "tokens": ("run", d)})


def two_step_table() -> xr.Dataset:
    """Losses and accuracies of runs without noise."""
    table = both_table()
    table["accuracy"] = ("run", sigmoid(np.array([-0.7, 2.9, 3.0, 1.0]), table.loss.values), {"units": "1"})
    return table


@pytest.fixture(scope="module")
def bases() -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConflictWarning)
        runs = dde.tutorial.open_lineages("small", metrics=["c4_en_valppl", "arc_easy"])
        return runs.dde.sel(run="pretraining").load()


def test_published_coefficients_are_recovered() -> None:
    answer = fit(both_table(), "loss", law="chinchilla")
    assert answer.parameter.values.tolist() == ["E", "A", "B", "alpha", "beta"]
    np.testing.assert_allclose(answer.coefficient, REPLICATION, rtol=1e-4)
    assert answer.parameter_units.values.tolist() == ["", "parameters^alpha", "tokens^beta", "1", "1"]
    assert float(np.abs(answer.residual).max()) < 1e-5


def test_a_table_of_pandas_is_fitted() -> None:
    frame = both_table().to_dataframe().reset_index(drop=True)
    frame["lab"] = np.where(np.arange(len(frame)) % 2, "a", "b")
    table = xr.Dataset.from_dataframe(frame)
    answer = fit(table.drop_vars("lab"), law="chinchilla", hold_out={"n_params": slice(1.9e9, None)})
    np.testing.assert_allclose(answer.coefficient, REPLICATION, rtol=1e-3)
    assert int(answer.n_held_out) == 6
    apart = fit(table, "loss", law="chinchilla", by="lab")
    np.testing.assert_allclose(apart.coefficient.sel(lab="a"), REPLICATION, rtol=1e-2)


def test_both_steps_are_recovered() -> None:
    answer = fit(two_step_table(), "accuracy", law="two_step", loss="loss")
    np.testing.assert_allclose(answer.coefficient, [*REPLICATION, -0.7, 2.9, 3.0, 1.0], rtol=1e-3)
    at = predict(answer, n_params=1e10, tokens=1e12)
    loss = BOTH.value(REPLICATION, {"n_params": np.array(1e10), "tokens": np.array(1e12)})
    np.testing.assert_allclose(at.predicted_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(at.predicted, sigmoid(np.array([-0.7, 2.9, 3.0, 1.0]), loss), rtol=1e-4)
    np.testing.assert_allclose(at.beyond, max(1e10 / 2e9, 1e12 / 4e11))


@pytest.mark.parametrize(("members", "noise", "least"), [(5, 0.002, 0.91), (7, 0.003, 0.91), (21, 0.006, 0.91)])
def test_coverage_of_student(members: int, noise: float, least: float) -> None:
    sizes = np.geomspace(1e7, 2e9, 5 if members == 5 else 7)
    compute = np.repeat(120 * sizes**2, max(members // 7, 1))
    true = np.array([1.9, 50.0, 0.15])
    errors = np.random.default_rng(7).normal(0, noise, (400, len(compute)))
    loss = POWER.value(true, {"compute": compute}) * np.exp(errors)
    table = xr.Dataset({"loss": (("data", "run"), loss)}, {"data": np.arange(400), "compute": ("run", compute)})
    answer = fit(table, "loss", by="data", interval="t")
    assert answer.converged.all()
    covered = ((answer.low <= true) & (answer.high >= true)).mean("data")
    assert (covered >= least).all(), covered.values
    assert (covered <= 0.995).all(), covered.values


def test_coverage_of_the_bootstrap() -> None:
    compute = np.repeat(120 * SIZES**2, 3)
    true = np.array([1.9, 50.0, 0.15])
    errors = np.random.default_rng(8).normal(0, 0.004, (200, len(compute)))
    loss = POWER.value(true, {"compute": compute}) * np.exp(errors)
    table = xr.Dataset({"loss": (("data", "run"), loss)}, {"data": np.arange(200), "compute": ("run", compute)})
    answer = fit(table, "loss", by="data", interval="bootstrap")
    covered = ((answer.low <= true) & (answer.high >= true)).mean("data")
    assert (covered >= 0.92).all(), covered.values
    assert (covered <= 0.995).all(), covered.values
    assert answer.sizes["sample_number"] == 200
    again = fit(table.isel(data=[5]), "loss", by="data", interval="bootstrap")
    np.testing.assert_allclose(again.low, answer.low.isel(data=[5]), rtol=1e-7)


def test_order_of_members_does_not_matter() -> None:
    table = power_table()
    order = np.random.default_rng(1).permutation(len(SIZES))
    one, other = fit(table, "loss"), fit(table.isel(size=order, seed=[2, 0, 1]), "loss")
    for name in ("coefficient", "low", "high", "covariance"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
    again = other.leverage.sel(seed=1, size=table["size"].values)
    np.testing.assert_allclose(one.leverage.sel(seed=1), again, rtol=1e-3, atol=1e-6)


def test_units_scale_coefficients() -> None:
    table = power_table()
    one = fit(table, "loss").coefficient
    scaled = table.assign(loss=table.loss / np.log(2)).assign_coords(tokens=table.tokens / 1e9)
    other = fit(scaled, "loss").coefficient
    expected = [one[0] / np.log(2), one[1] / np.log(2) * 1e9 ** -float(one[2]), one[2]]
    np.testing.assert_allclose(other, expected, rtol=1e-5)


def test_runs_held_out_never_influence_a_fit() -> None:
    table = power_table()
    last = {"size": ["s6"]}
    answer = fit(table, "loss", hold_out=last)
    changed = table.copy(deep=True)
    changed.loss[{"size": 6}] *= 3.0
    other = fit(changed, "loss", hold_out=last)
    for name in ("coefficient", "low", "high", "leverage", "x_high"):
        xr.testing.assert_equal(answer[name], other[name])
    alone = fit(table.isel(size=slice(0, 6)), "loss")
    np.testing.assert_allclose(answer.coefficient, alone.coefficient, rtol=1e-9)
    assert answer.status.isel(size=6).values.tolist() == ["held out"] * 3
    assert int(answer.n) == 18
    assert int(answer.n_held_out) == 3
    assert answer.attrs["left_out"] == ""
    assert answer.attrs["held_out"] == "size: ['s6']"


def test_predictors_are_compared_on_the_same_members() -> None:
    table = power_table(noise=0.0005)
    answer = fit(table, "loss", hold_out={"n_params": slice(1e9, None)})
    entered, target = table.loss.values[:6], table.loss.values[6]
    last = entered[5].mean()
    log_x = np.log(120 * SIZES**2)
    line = np.polyval(np.polyfit(np.repeat(log_x[:6], 3), entered.ravel(), 1), log_x[6])
    for predictor, value in (("last value", last), ("line in log x", line)):
        expected = np.abs(value - target)
        assert float(answer.error.sel(predictor=predictor)) == pytest.approx(expected.mean())
        assert float(answer.relative_error.sel(predictor=predictor)) == pytest.approx((expected / target).mean())
    assert float(answer.error.sel(predictor="law")) < float(answer.error.sel(predictor="last value"))


def test_leverage_is_that_of_a_fit_without_the_run() -> None:
    table = power_table(seeds=1)
    answer = fit(table, "loss", delta=np.inf)
    without = fit(table.isel(size=slice(0, 6)), "loss", delta=np.inf)
    np.testing.assert_allclose(
        answer.leverage.isel(size=6, seed=0), without.coefficient - answer.coefficient, rtol=1e-4, atol=1e-9
    )
    there = predict(without, compute=120 * SIZES[6] ** 2)
    assert float(answer.left_out_residual[6, 0]) == pytest.approx(float(table.loss[6, 0] - there.predicted), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.isel(size=[0, 3]), "not identified: 2 different sizes for 3 parameters"),
        (lambda t: t.isel(size=[0, 3], seed=[0]), "not identified: 2 members for 3 parameters"),
        (lambda t: t.assign(loss=xr.full_like(t.loss, 2.0)), "not identified: the values do not change with size"),
    ],
)
def test_what_is_not_identified_has_no_coefficients(change: Any, text: str) -> None:
    answer = fit(change(power_table()), "loss")
    assert answer.fit_status.item() == text
    assert np.isnan(answer.coefficient).all()
    assert np.isnan(answer.low).all()
    assert np.isnan(answer.predicted.sel(predictor="law")).all()
    assert not answer.converged


def test_a_straight_line_that_rises_has_no_asymptote() -> None:
    table = power_table().isel(seed=[0])
    table["accuracy"] = 0.1 + 0.02 * np.log(table.n_params) + 0.0 * table.loss
    answer = fit(table, "accuracy")
    assert answer.fit_status.item().startswith("not identified: no asymptote")
    assert fit(table, "accuracy", offset=False).converged


def test_tokens_in_proportion_to_parameters_identify_no_chinchilla_law() -> None:
    answer = fit(power_table(), "loss", law="chinchilla")
    assert np.isnan(answer.coefficient).all()
    assert answer.fit_status.item().startswith("not identified: tokens follow from")
    few = both_table().isel(run=slice(0, 14))
    assert fit(few, "loss", law="chinchilla").fit_status.item() == (
        "not identified: 2 different numbers of tokens, at least 3 are needed"
    )


def test_as_many_members_as_parameters_have_no_interval() -> None:
    table = power_table().isel(size=[0, 3, 6], seed=[0])
    answer = fit(table, "loss")
    assert answer.converged
    np.testing.assert_allclose(answer.residual, 0, atol=1e-6)
    assert np.isnan(answer.low).all()
    assert np.isnan(predict(answer, compute=1e22).low)
    student = fit(table, "loss", interval="t")
    assert np.isnan(student.high).all()
    assert np.isnan(student.covariance).all()


def test_members_that_can_not_enter_say_why() -> None:
    table = power_table()
    table.loss[0, 0], table.loss[1, 1], table.loss[2, 2] = np.nan, -1.0, np.inf
    table = table.assign_coords(tokens=table.tokens.where(table.tokens > 4e8))
    answer = fit(table, "loss")
    assert answer.status.values[:3].tolist() == [
        ["no value", "no compute", "no compute"],
        ["entered", "not positive", "entered"],
        ["entered", "entered", "no finite value"],
    ]
    assert answer.attrs["left_out"] == "no compute: 2; no finite value: 1; no value: 1; not positive: 1"
    assert int(answer.n) == 16


def test_observations_of_a_run_count_once() -> None:
    once = ladder().dde.sel(run=["cosine-1xC", "cosine-2xC"])
    answer = fit(once, "loss", x="tokens", points="all", by=["size"], delta=np.inf)
    assert answer.residual.dims == ("lineage", "run", "sample")
    assert answer.attrs["points"] == "all"
    assert int(answer.n_runs.isel(size=0)) == 4
    # Student's t has as many degrees of freedom as runs, less one, however many checkpoints there are.
    assert (answer.degrees_of_freedom == 3).all()


def test_default_groups_of_the_tutorial(bases: xr.Dataset) -> None:
    answer = fit(bases, ["c4_en_valppl", "arc_easy"])
    assert answer.coefficient.dims == ("metric", "data", "parameter")
    assert answer.attrs["by"] == "data"
    entered = (answer.status.sel(metric="arc_easy") == "entered").sum()
    assert int(entered) == int(answer.n.sel(metric="arc_easy").sum())
    together = fit(bases, "c4_en_valppl", by=[])
    assert together.coefficient.dims == ("parameter",)
    by_tokens = fit(bases, "c4_en_valppl", x="tokens")
    assert by_tokens.attrs["by"] == "params, data"
    assert not by_tokens.converged.any()


def test_default_groups_of_another_suite() -> None:
    answer = fit(ladder(), "loss", at="last")
    assert answer.attrs["by"] == "run_type"
    assert answer.run_type.values.tolist() == ["cosine", "constant", "decay", "merge"]
    cosine = fit(ladder(), "loss", at="last").sel(run_type="cosine")
    assert int(cosine.n) == 12


def test_answers_are_the_same_after_saving(bases: xr.Dataset, tmp_path: Path) -> None:
    answer = fit(bases, "c4_en_valppl", hold_out={"params": "150M"}, interval="bootstrap", samples=30)
    answer.to_netcdf(tmp_path / "fit.nc")
    opened = xr.open_dataset(tmp_path / "fit.nc")
    xr.testing.assert_allclose(predict(opened, compute=[1e20, 1e22]), predict(answer, compute=[1e20, 1e22]))
    bases.drop_encoding().to_netcdf(tmp_path / "runs.nc")
    again = fit(xr.open_dataset(tmp_path / "runs.nc"), "c4_en_valppl", hold_out={"params": "150M"})
    np.testing.assert_allclose(again.coefficient, answer.coefficient)
    finals = bases.dde.final("c4_en_valppl", at="schedule").to_dataset()
    of_finals = fit(finals, "c4_en_valppl", hold_out={"params": "150M"})
    np.testing.assert_allclose(of_finals.coefficient, answer.coefficient)
    derived = fit(bases.assign(c4=np.log(bases.c4_en_valppl)), "c4")
    assert derived.converged.all()


def test_predictions_have_bands() -> None:
    answer = fit(power_table(), "loss", interval="t")
    x = np.array([1e16, 1e20, 1e22])
    band = predict(answer, compute=x)
    assert band.predicted.dims == ("compute",)
    assert ((band.low < band.predicted) & (band.predicted < band.high)).all()
    true = POWER.value(np.array([1.9, 50.0, 0.15]), {"compute": x})
    assert ((band.low <= true) & (true <= band.high)).all()
    assert (band.high - band.low)[2] > (band.high - band.low)[1]
    assert band.beyond.values[1] == 1.0
    sizes = xr.DataArray([1e9, 1e10], dims="target")
    product = predict(answer, n_params=sizes, tokens=1e11)
    np.testing.assert_allclose(product.predicted, predict(answer, compute=6e11 * sizes).predicted)
    with_samples = predict(fit(power_table(), "loss", interval="bootstrap"), compute=x)
    np.testing.assert_allclose(with_samples.high - with_samples.low, band.high - band.low, rtol=0.6)
    assert np.isnan(predict(fit(power_table(), "loss", interval="none"), compute=x).low).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"by": "siez"}, "by='siez' is not a coordinate of the runs.*Did you mean size"),
        ({"hold_out": {"size": "s9"}}, "hold_out has 's9', which no run has as size"),
        ({"hold_out": {"sizes": "s1"}}, "hold_out has 'sizes', which is not a coordinate"),
        ({"hold_out": {"size": slice("s1", "s3")}}, "texts without an order"),
        ({"hold_out": {"size": [f"s{k}" for k in range(7)]}}, "no run is left to fit: held out: 21"),
        ({"loss": "loss"}, "loss='loss' predicts accuracies"),
        ({"law": "two_step"}, "predicts the metric from a loss, and none is named"),
        ({"law": "two_step", "loss": ["loss", "loss"]}, "names 2 losses for 1 metrics"),
        ({"delta": 0.0}, "delta=0.0 is not a residual"),
        ({"starts": 0}, "starts=0 is not a whole number of at least 1"),
        ({"samples": 0}, "samples=0 is not a whole number of at least 2"),
        ({"skip": 1.0}, "skip=1.0 is not a share"),
        ({"points": "al"}, "Did you mean all"),
        ({"points": "all"}, "points= chooses among observations of runs"),
        ({"at": "last"}, "at= chooses among observations of runs"),
        ({"interval": "boot"}, "Did you mean bootstrap"),
        ({"level": 95}, "level=95 is not between 0 and 1"),
        ({"ceiling": 0.0}, "ceiling=0.0 is not the accuracy"),
    ],
)
def test_impossible_options_say_what_to_do(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DdeError, match=text):
        fit(power_table(), "loss", **options)


def test_unknown_sizes_are_an_error() -> None:
    with pytest.raises(SelectionError, match=r"parameters of all runs are unknown, so .* can't be fitted"):
        fit(power_table().drop_vars("n_params"), "loss", law="chinchilla")
    with pytest.raises(SelectionError, match="has one value"):
        fit(power_table().isel(size=0, seed=0), "loss")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs compute, and compute is not given"),
        ({"compute": 1e20, "loss": 2.0}, "loss= is not a quantity"),
        ({"compute": [1e20, 0.0]}, "not positive"),
        ({"compute": [[1e20]]}, "2 dimensions without names"),
        ({"compute": xr.DataArray([1e20], dims="data")}, "which the fits have, too"),
    ],
)
def test_impossible_predictions_say_what_to_do(options: dict[str, Any], text: str) -> None:
    table = power_table().expand_dims(data=["a", "b"])
    with pytest.raises(DdeError, match=text):
        predict(fit(table, "loss", by="data"), **options)
    with pytest.raises(SelectionError, match="no answer of fit"):
        predict(table)


def test_results_of_two_steps_agree_with_the_published_ones() -> None:
    """Bhagia et al. (2024): 6.9 points on four tasks, about 2 on the others, for 7B on 4T and 13B on 5T tokens."""
    folder = sample_folder("suites/olmo_ladder")
    weights = {"stem": 0.215, "humanities": 0.335, "social_sciences": 0.219, "other": 0.231}
    near, far = ("hellaswag_val", "piqa_val", "socialiqa_val"), (
        "arc_challenge_test", "arc_easy_test", "csqa_val", "openbookqa_test")  # fmt: skip
    tasks = [f"{t}_rc_5shot" for t in (*near, *far)]
    parts = [f"mmlu_{part}_test_rc_5shot" for part in weights]
    ds = dde.open_lineages(
        str(folder), suite="olmo_ladder", metrics=[n + s for n in (*tasks, *parts) for s in ("", "_bpb")]
    )
    for suffix in ("", "_bpb"):
        mean = sum(w * ds[p + suffix] for p, w in zip(parts, weights.values(), strict=True))
        ds["mmlu" + suffix] = mean.dde.sampled_as(parts[0] + suffix)
    runs = ds.dde.sel(lineage=["190M", "370M", "760M", "1B"], run=[f"cosine-{b}xC" for b in (1, 2, 5, 10)])
    names = ["mmlu", *tasks]
    answer = fit(runs, names, law="two_step", loss=[f"{n}_bpb" for n in names], at="last", window=5, skip=0.1)
    assert answer.converged.all()
    assert answer.coefficient.dims == ("metric", "parameter")
    assert (answer.n == 16).all()
    target = {"n_params": xr.DataArray([6_887_575_552, 13_202_396_160], dims="target"),
              "tokens": xr.DataArray([3_945_065_873_408, 5_000_088_518_656], dims="target")}  # fmt: skip
    predicted = predict(answer, **target).predicted
    observed = []
    for file in ("peteish7_eval_anneal", "peteish13_eval_final"):
        rows = pd.read_csv(folder / "cosine" / f"{file}.csv").iloc[-5:]
        values = {t: rows[f"eval/downstream/{t}_len_norm"].mean() for t in (*tasks, *parts)}
        values["mmlu"] = sum(w * values[p] for p, w in zip(parts, weights.values(), strict=True))
        observed.append([values[n] for n in names])
    error = 100 * np.abs(predicted.values - np.array(observed).T)
    assert error[4:].mean() == pytest.approx(6.88, abs=0.03)
    assert error[:4].max() < 2.2


def test_a_dataset_of_means_is_refused(bases: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="holds means"):
        fit(bases.dde.mean_over("seed"), "c4_en_valppl")
    with pytest.raises(UnknownNameError, match="ambiguous"):
        fit(bases)
