"""Ranks, decision accuracy and signal to noise at their limits: wrong options, infinite values, runs left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from recipes import recipes_dataset

import dde
from dde.analysis import decision_accuracy, ranks, reach, signal_to_noise, smooth
from dde.analysis.pairs import agreement, kendall_tau, spearman_rho
from dde.errors import DdeError, SelectionError, UnknownNameError
from other_suites import optimizers

SMALL, LARGE = {"size": "10M"}, {"size": "100M"}


def dataset_of_scores(seed: int = 0) -> xr.Dataset:
    return recipes_dataset(np.random.default_rng(seed).normal(size=(2, 6, 3, 3)).round(2))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"target": {}}, ["names no coordinate", "target={'size': 'large'}"]),
        ({"target": "100M"}, ["target='100M' is not a condition"]),
        ({"target": None}, ["target=None is not a condition"]),
        ({"small": "10M"}, ["small='10M' is not a condition"]),
        ({"proxy": 3}, ["3 is not a variable", "score"]),
        ({"metric": 3}, ["3 is not a variable", "score"]),
        ({"over": ["recipe"]}, ["['recipe'] is not a factor"]),
        ({"over": "metric"}, ["'metric' is not a factor"]),
        ({"replicates": 3}, ["replicates=3 is not a factor"]),
        ({"level": "0.9"}, ["level='0.9' is not between 0 and 1"]),
        ({"interval": False}, ["interval=False is not a method"]),
        ({"samples": 0}, ["samples=0", "at least 1"]),
        ({"samples": 1.5}, ["samples=1.5", "whole number"]),
        ({"seed": -1}, ["seed=-1", "at least 0"]),
        ({"seed": None}, ["seed=None", "whole number"]),
    ],
)
def test_wrong_options_of_decision_accuracy_say_what_to_pass(options: dict[str, Any], parts: list[str]) -> None:
    arguments = {"metric": "score", "over": "recipe", "target": LARGE} | options
    with pytest.raises(UnknownNameError) as error:
        decision_accuracy(dataset_of_scores(), **arguments)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("options", [{"a": "10M"}, {"b": None}, {"samples": 0}, {"seed": "x"}, {"level": [0.9]}])
def test_wrong_options_of_ranks_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=f"{next(iter(options))}="):
        ranks(dataset_of_scores(), "score", "recipe", **{"a": SMALL, "b": LARGE, **options})


@pytest.mark.parametrize("options", [{"spread": ["std"]}, {"level": "x"}, {"replicates": 3}])
def test_wrong_options_of_signal_to_noise_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=f"{next(iter(options))}="):
        signal_to_noise(dataset_of_scores(), "score", "recipe", **options)


def test_the_table_of_signal_to_noise_has_the_ratio_of_each_source() -> None:
    answer = signal_to_noise(dataset_of_scores(), "score", "recipe", last=2)
    table = answer.dde.to_frame()
    assert {"signal", "noise", "signal_to_noise", "n"} <= set(table)
    assert sorted(table["signal_to_noise"]) == sorted(answer.signal_to_noise.values.ravel())
    np.testing.assert_allclose(table["signal"] / table["noise"], table["signal_to_noise"])


def test_the_table_of_checkpoints_has_no_rows_after_the_last_one_of_a_scale() -> None:
    dataset = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"]).dde.base_curves()
    answer = decision_accuracy(dataset, "arc_easy", target={"params": "150M"}, checkpoints="all")
    shorter = answer.tokens.isnull()
    assert shorter.any()
    assert len(answer.dde.to_frame()) == int((~shorter).sum())
    assert answer.dde.to_frame()["tokens"].notna().all()


def test_a_name_of_repetitions_counts_once() -> None:
    dataset = dataset_of_scores()
    once, twice = (
        signal_to_noise(dataset, "score", "recipe", replicates=r, last=2) for r in ("seed", ["seed", "seed"])
    )
    xr.testing.assert_identical(once, twice)


def test_a_target_of_several_scales_is_an_error_rather_than_compared_with_itself() -> None:
    with pytest.raises(SelectionError, match="matches 2 values of size: 10M, 100M"):
        decision_accuracy(dataset_of_scores(), "score", "recipe", target={"size": ["10M", "100M"]})
    with pytest.raises(SelectionError, match="no size has fewer parameters than '10M'"):
        decision_accuracy(dataset_of_scores(), "score", "recipe", target=SMALL)


@pytest.mark.filterwarnings("error")
def test_infinite_scores_rank_and_tie_like_numbers() -> None:
    a = np.array([1.0, np.inf, np.inf, 2.0, 0.0, np.nan])
    b = np.array([1.0, 3.0, np.inf, 2.0, np.nan, -np.inf])
    finite = np.array([1.0, 9.0, 9.0, 2.0]), np.array([1.0, 3.0, 9.0, 2.0])
    assert float(kendall_tau(a, b)) == pytest.approx(scipy.stats.kendalltau(*finite).statistic)
    assert float(spearman_rho(a, b)) == pytest.approx(scipy.stats.spearmanr(*finite).statistic)
    share, pairs = agreement(a, b)
    assert (float(share), int(pairs)) == (5 / 6, 6)
    assert [int(agreement(a, b, ties="exclude")[1]), float(agreement(a, b, ties="half")[0])] == [5, 5.5 / 6]


@pytest.mark.filterwarnings("error")
def test_diverged_runs_have_ranks_but_no_spread() -> None:
    values = np.random.default_rng(1).normal(size=(2, 4, 2, 3))
    values[0, 1, :, 1:] = np.inf
    values[1, 3] = np.nan
    dataset = recipes_dataset(values)
    answer = ranks(dataset, "score", "recipe", a=SMALL, b=LARGE, interval="none")
    means = values[0, :3, :, -1].mean(axis=1)
    np.testing.assert_array_equal(answer.rank_a, [*scipy.stats.rankdata(means), np.nan])
    noise = signal_to_noise(dataset, "score", "recipe", last=2)
    assert np.isnan(noise.signal.sel(SMALL))
    assert np.isfinite(noise.signal.sel(LARGE))


def test_no_statistic_has_no_interval() -> None:
    values = np.random.default_rng(2).normal(size=(2, 3, 2, 1))
    # Means of the small scale are tied, those of its resamples are not.
    values[0, :, :, 0] = [[1.0, 3.0], [2.0, 2.0], [0.0, 4.0]]
    dataset = recipes_dataset(values, tokens=(1000,))
    answer = ranks(dataset, "score", "recipe", a=SMALL, b=LARGE)
    assert np.isnan([answer.kendall, answer.kendall_low, answer.kendall_high, answer.spearman_low]).all()
    assert answer.agreement_low <= answer.agreement <= answer.agreement_high


def test_runs_without_a_value_of_the_factor_are_counted() -> None:
    dataset = optimizers()
    rate = dataset.learning_rate.where(dataset.run != "adamw_lr=0.001")
    dataset = dataset.assign_coords(learning_rate=rate)
    # Of 16 runs, those of one label in two lineages have no learning rate.
    noise = signal_to_noise(dataset, "loss", "learning_rate", last=2)
    assert noise.attrs["left_out"] == "no value of learning_rate: 2"
    assert int(noise.n_replicates.sum()) + 2 == 16
    answer = ranks(dataset, "loss", "learning_rate", a={"optimizer": "adamw"}, b={"optimizer": "muon"})
    assert answer.attrs["left_out"] == "a: no value of learning_rate: 2"
    answer = decision_accuracy(dataset, "loss", "learning_rate", target={"optimizer": "adamw"})
    assert answer.attrs["left_out"] == "target: no value of learning_rate: 2"
    # The recipe of one lineage is blank.
    assert signal_to_noise(dataset, "loss", "data").attrs["left_out"] == "no value of data: 8"


@pytest.mark.parametrize("empty", [{"run": slice(0)}, {"lineage": slice(0)}])
def test_a_dataset_without_runs_has_nothing_to_compare(empty: dict[str, slice]) -> None:
    dataset = optimizers().isel(empty)
    for call in (
        lambda: signal_to_noise(dataset, "loss", "learning_rate"),
        lambda: ranks(dataset, "loss", "learning_rate", a={"at": 100}, b={"at": 200}),
        lambda: decision_accuracy(dataset, "loss", "learning_rate", target={"optimizer": "muon"}, checkpoints="all"),
    ):
        with pytest.raises(DdeError, match="the Dataset has no run"):
            call()


def test_runs_of_small_scales_are_counted_by_what_they_are_ordered_by() -> None:
    values = np.random.default_rng(3).normal(size=(2, 4, 2, 3))
    # One small run ends early, and one has no row.
    values[0, 0, 0, 1:] = np.nan
    dataset = recipes_dataset(values)
    dataset["proxy"] = dataset.score.where(dataset.lineage != "recipe1-10M-0").assign_attrs(dataset.score.attrs)
    options: dict[str, Any] = {"target": LARGE, "interval": "none"}
    at_end = decision_accuracy(dataset, "score", "recipe", **options)
    at_all = decision_accuracy(dataset, "score", "recipe", checkpoints="all", **options)
    by_proxy = decision_accuracy(dataset, "score", "recipe", checkpoints="all", proxy="proxy", **options)
    proxy_at_end = decision_accuracy(dataset, "score", "recipe", proxy="proxy", **options)
    assert at_end.attrs["left_out"] == "small: ends before its schedule: 1"
    assert at_all.attrs["left_out"] == ""
    assert by_proxy.attrs["left_out"] == "small: no observation: 1"
    assert proxy_at_end.attrs["left_out"] == "small: ends before its schedule: 1; no value at the place: 1"


def test_functions_name_the_method_of_a_dataarray() -> None:
    array = dataset_of_scores().score
    for call in (
        lambda: signal_to_noise(array, over="recipe"),  # type: ignore[arg-type]
        lambda: reach(array, None, 0.5),  # type: ignore[arg-type]
        lambda: smooth(array, span=10),  # type: ignore[arg-type]
    ):
        with pytest.raises(SelectionError, match=r"a DataArray is given.*array\.dde\.reach"):
            call()


def test_a_proxy_that_ends_at_different_tokens_needs_a_place() -> None:
    dataset = recipes_dataset(np.random.default_rng(4).normal(size=(2, 4, 2, 3)), schedule=False)
    is_cut = (dataset.lineage == "recipe1-10M-0") & (dataset.cumulative_tokens > 1000)
    dataset["proxy"] = dataset.score.where(~is_cut).assign_attrs(dataset.score.attrs)
    options: dict[str, Any] = {"target": LARGE, "proxy": "proxy", "interval": "none"}
    with pytest.raises(SelectionError, match="end at different tokens"):
        decision_accuracy(dataset, "score", "recipe", **options)
    assert decision_accuracy(dataset, "score", "recipe", at=1000, **options).n.item() == 4
