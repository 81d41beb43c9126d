"""Ranks, decision accuracy and signal to noise, beside plain loops, SciPy and closed forms."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recipes import recipes_dataset

import dde
from dde.analysis import decision_accuracy, ranks, signal_to_noise
from dde.analysis.arrangement import arrange_by
from dde.analysis.footing import values_at
from dde.analysis.pairs import agreement, kendall_tau, spearman_rho
from dde.errors import DdeWarning, SelectionError, UnknownNameError

SMALL, LARGE = {"size": "10M"}, {"size": "100M"}
Values = npt.NDArray[np.float64]

few = st.sampled_from([0.0, 0.1, 0.2, 0.3, np.nan])


def share_by_loop(a: Values, b: Values, ties: str) -> float:
    right, pairs = 0.0, 0
    for i, j in combinations(range(len(a)), 2):
        x, y = a[i] - a[j], b[i] - b[j]
        if np.isnan(x) or np.isnan(y) or (ties == "exclude" and (x == 0 or y == 0)):
            continue
        pairs += 1
        right += 0.5 if ties == "half" and (x == 0 or y == 0) else float(np.sign(x) == np.sign(y))
    return right / pairs if pairs else np.nan


def random_values(seed: int, shape: tuple[int, ...] = (2, 6, 3, 3)) -> Values:
    return np.random.default_rng(seed).normal(size=shape).round(2)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 5), elements=few), arrays(np.float64, (2, 5), elements=few))
def test_pairs_equal_a_loop_and_scipy(a: Values, b: Values) -> None:
    for ties in ("sign", "half", "exclude"):
        share, _ = agreement(a, b, ties)  # type: ignore[arg-type]
        np.testing.assert_allclose(share, [share_by_loop(x, y, ties) for x, y in zip(a, b, strict=True)])
    for x, y, tau, rho in zip(a, b, kendall_tau(a, b), spearman_rho(a, b), strict=True):
        both = ~(np.isnan(x) | np.isnan(y))
        x, y = x[both], y[both]
        if len(set(x)) < 2 or len(set(y)) < 2:
            assert np.isnan(tau)
            assert np.isnan(rho)
        else:
            assert tau == pytest.approx(scipy.stats.kendalltau(x, y).statistic)
            assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float64, (4, 6), elements=st.integers(-50, 50).map(float)), st.permutations(range(6)))
def test_monotone_transforms_and_labels_change_nothing(a: Values, order: list[int]) -> None:
    b = a[::-1]
    for function in (kendall_tau, spearman_rho, lambda x, y: agreement(x, y)[0]):
        plain = function(a, b)
        np.testing.assert_allclose(function(np.exp(a / 50), b**3), plain)
        np.testing.assert_allclose(function(a[:, order], b[:, order]), plain)


def test_means_that_differ_by_rounding_are_tied() -> None:
    # Means of accuracies with the same sum, which differ in their last bit.
    one = np.array([(0.1 + 0.2 + 0.0) / 3, (0.3 + 0.0 + 0.0) / 3, 0.5])
    assert one[0] != one[1]
    target = np.array([1.0, 2.0, 3.0])
    assert agreement(one, target)[0] == pytest.approx(2 / 3)
    assert agreement(one, target, "exclude")[0] == 1.0
    assert kendall_tau(one, target) == pytest.approx(scipy.stats.kendalltau([0, 0, 1], target).statistic)
    assert spearman_rho(one, target) == pytest.approx(scipy.stats.spearmanr([0, 0, 1], target).statistic)
    values = np.array([[0.1, 0.2, 0.0], [0.0, 0.2, 0.1], [0.3, 0.0, 0.0], [0.5, 0.5, 0.6]])[None, :, :, None]
    both = np.concatenate([values, values[:, ::-1]])
    answer = ranks(recipes_dataset(both, tokens=(1000,)), "score", over="recipe", a=SMALL, b=LARGE)
    assert answer.rank_a.values.tolist() == [2.0, 2.0, 2.0, 4.0]


def test_large_arrays_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_values(1, (50, 7)), random_values(2, (50, 7))
    whole = agreement(a, b)
    monkeypatch.setattr("dde.analysis.pairs._BLOCK", 30)
    for x, y in zip(agreement(a, b), whole, strict=True):
        np.testing.assert_array_equal(x, y)


def test_ranks_are_those_of_scipy_on_the_means() -> None:
    values = random_values(3)
    answer = ranks(recipes_dataset(values), "score", over="recipe", a=SMALL, b=LARGE)
    small, large = (values[s, :, :, -1].mean(axis=1) for s in (0, 1))
    assert float(answer.kendall) == pytest.approx(scipy.stats.kendalltau(small, large).statistic)
    assert float(answer.spearman) == pytest.approx(scipy.stats.spearmanr(small, large).statistic)
    assert float(answer.agreement) == pytest.approx(share_by_loop(small, large, "sign"))
    np.testing.assert_allclose(answer.value_a, small)
    np.testing.assert_array_equal(answer.rank_b, scipy.stats.rankdata(large))
    assert (int(answer.n), int(answer.n_pairs), answer.attrs["a"]) == (6, 15, "size=10M, at=schedule")
    assert float(answer.kendall_low) <= float(answer.kendall) <= float(answer.kendall_high)
    again = ranks(recipes_dataset(values, shuffle=5), "score", over="recipe", a=SMALL, b=LARGE)
    xr.testing.assert_identical(answer, again)


def test_each_repetition_is_ranked_against_the_mean() -> None:
    values = random_values(4)
    answer = ranks(recipes_dataset(values), "score", over="recipe", a=SMALL, b=LARGE, seeds="each")
    large = values[1, :, :, -1].mean(axis=1)
    taus = [scipy.stats.kendalltau(values[0, :, k, -1], large).statistic for k in range(3)]
    assert float(answer.kendall) == pytest.approx(np.mean(taus))
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(taus), scipy.stats.sem(taus))
    assert float(answer.kendall_low) == pytest.approx(max(low, -1))
    assert float(answer.kendall_high) == pytest.approx(min(high, 1))


def test_two_checkpoints_of_one_scale_are_two_conditions() -> None:
    values = random_values(5)
    dataset = recipes_dataset(values)
    answer = ranks(dataset, "score", over="recipe", a={**SMALL, "at": 1000}, b={**SMALL, "at": "schedule"})
    early, late = (values[0, :, :, k].mean(axis=1) for k in (0, -1))
    assert float(answer.kendall) == pytest.approx(scipy.stats.kendalltau(early, late).statistic)
    assert answer.attrs["at"] == "cumulative_tokens=1000 and schedule"


def test_a_recipe_without_a_value_is_counted_and_does_not_enter() -> None:
    values = random_values(6)
    values[1, 2, :, -1] = np.nan
    answer = ranks(recipes_dataset(values), "score", over="recipe", a=SMALL, b=LARGE)
    keep = [0, 1, 3, 4, 5]
    small, large = (values[s, keep, :, -1].mean(axis=1) for s in (0, 1))
    assert float(answer.kendall) == pytest.approx(scipy.stats.kendalltau(small, large).statistic)
    assert (int(answer.n), answer.attrs["left_out"]) == (5, "b: ends before its schedule: 3")
    assert np.isnan(answer.rank_a.sel(recipe="recipe2"))
    assert answer.n_replicates_b.values.tolist() == [3, 3, 0, 3, 3, 3]


@pytest.mark.parametrize("ties", ["sign", "half", "exclude"])
@pytest.mark.parametrize("seeds", ["mean", "each"])
def test_decision_accuracy_equals_a_loop(ties: str, seeds: str) -> None:
    values = random_values(7, (3, 6, 3, 3)).round(1)
    dataset = recipes_dataset(values, sizes=("10M", "20M", "100M"))
    answer = decision_accuracy(
        dataset, "score", over="recipe", target=LARGE, ties=ties, seeds=seeds, samples=20  # type: ignore[arg-type]
    )  # fmt: skip
    target = values[2, :, :, -1].mean(axis=1)
    for s, size in enumerate(("10M", "20M")):
        last = values[s, :, :, -1]
        parts = [last.mean(axis=1)] if seeds == "mean" else list(last.T)
        expected = np.mean([share_by_loop(part, target, ties) for part in parts])
        assert float(answer.accuracy.sel(size=size)) == pytest.approx(expected)
    assert answer.sizes["size"] == 2
    np.testing.assert_array_equal(answer.accuracy, answer.naive)
    np.testing.assert_allclose(answer.compute_fraction, [0.1, 0.2])
    assert answer.n.values.tolist() == [6, 6]


def test_accuracy_at_each_checkpoint_is_on_the_same_recipes() -> None:
    values = random_values(8, (2, 5, 2, 4))
    values[0, 3, :, 1] = np.nan  # one recipe was not evaluated at the second checkpoint
    values[0, :, 1, 3] = np.nan  # the second seed stopped before the last one
    dataset = recipes_dataset(values, tokens=(1000, 2000, 3000, 4000))
    target = values[1, :, :, -1].mean(axis=1)
    answer = decision_accuracy(dataset, "score", over="recipe", target=LARGE, checkpoints="all")
    small = answer.sel(size="10M")
    assert small.tokens.values.tolist() == [1000, 2000, 3000, 4000]
    expected = [share_by_loop(values[0, :, :, k].mean(axis=1), target, "sign") for k in (0, 2)]
    np.testing.assert_allclose(small.accuracy, [expected[0], np.nan, expected[1], np.nan])
    np.testing.assert_allclose(small.compute_fraction, np.array([1000, 2000, 3000, 4000]) * 1e7 / (4000 * 1e8))
    assert small.n.values.tolist() == [5, 0, 5, 0]
    one = decision_accuracy(dataset, "score", over="recipe", target=LARGE, checkpoints="all", seeds="each")
    last = share_by_loop(values[0, :, 0, 3], target, "sign")
    assert float(one.accuracy.sel(size="10M")[3]) == pytest.approx(last)
    assert float(one.accuracy.sel(size="100M")[3]) == pytest.approx(
        np.mean([share_by_loop(values[1, :, k, 3], target, "sign") for k in range(2)])
    )


def test_a_proxy_orders_at_the_small_scale_alone_and_is_reversed_where_lower_is_better() -> None:
    values = random_values(9)
    dataset = recipes_dataset(values)
    dataset["loss"] = -2 * dataset.score
    dataset.loss.attrs |= {"direction": "lower"}
    plain = decision_accuracy(dataset, "score", over="recipe", target=LARGE)
    by_loss = decision_accuracy(dataset, "score", over="recipe", target=LARGE, proxy="loss")
    np.testing.assert_array_equal(by_loss.accuracy, plain.accuracy)
    np.testing.assert_array_equal(by_loss.naive, plain.accuracy)
    np.testing.assert_allclose(by_loss.value_small, -2 * plain.value_small)
    assert by_loss.attrs["proxy"] == "loss"
    del dataset.loss.attrs["direction"]
    with pytest.raises(UnknownNameError, match="whether higher or lower values of 'loss' are better is unknown"):
        decision_accuracy(dataset, "score", over="recipe", target=LARGE, proxy="loss")


def test_several_metrics_are_those_one_by_one_and_reopening_changes_nothing(tmp_path: Path) -> None:
    dataset = recipes_dataset(random_values(10))
    dataset["other"] = dataset.score**2
    both = decision_accuracy(dataset, ["score", "other"], over="recipe", target=LARGE)
    for name in ("score", "other"):
        one = dataset[name].dde.decision_accuracy(over="recipe", target=LARGE)
        xr.testing.assert_equal(both.sel(metric=name), one)
    dataset.to_netcdf(tmp_path / "runs.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "runs.nc", engine="h5netcdf") as reopened:
        xr.testing.assert_equal(reopened.dde.decision_accuracy(["score", "other"], over="recipe", target=LARGE), both)


def test_footings_that_differ_are_refused_unless_they_were_chosen() -> None:
    values = random_values(11)
    values[0, 1, :, -1] = np.nan
    dataset = recipes_dataset(values, schedule=False)
    with pytest.raises(SelectionError, match="end at different tokens, such as from 2000 to 3000 tokens"):
        ranks(dataset, "score", over="recipe", a=SMALL, b=LARGE)
    with pytest.warns(DdeWarning, match="different footings"):
        ranks(dataset, "score", over="recipe", a=SMALL, b=LARGE, at="last")
    common = ranks(dataset, "score", over="recipe", a=SMALL, b=LARGE, at="common")
    np.testing.assert_allclose(common.value_a, values[0, :, :, 1].mean(axis=1))


def test_values_at_a_place_say_why_a_run_has_none() -> None:
    values = random_values(12, (2, 3, 1, 3))
    values[0, 0, 0, 1:] = np.nan
    values[1, 2, 0, 0] = np.nan
    dataset = recipes_dataset(values)
    at_end = values_at(dataset, "score")
    assert at_end.status.sel(lineage="recipe0-10M-0").values.ravel().tolist() == ["ends before its schedule"]
    early = values_at(dataset, "score", at=1000)
    assert early.status.sel(lineage="recipe2-100M-0").values.ravel().tolist() == ["no value at the place"]
    half = values_at(dataset, "score", at={"fraction_of_training": 0.5})
    label = "recipe1-10M-0"
    # Halfway between the first checkpoints, at 1,500 tokens.
    assert float(half.value.sel(lineage=label).squeeze()) == pytest.approx(values[0, 1, 0, :2].mean())
    compute = values_at(dataset, "score", at={"compute": 6e7 * 1500})
    assert float(compute.value.sel(lineage=label).squeeze()) == pytest.approx(values[0, 1, 0, :2].mean())
    with pytest.raises(UnknownNameError, match="has 2 axes"):
        values_at(dataset, "score", at={"compute": 1.0, "post_tokens": 2.0})
    with pytest.raises(UnknownNameError, match="Did you mean last"):
        values_at(dataset, "score", at="lsat")  # type: ignore[arg-type]


def test_lineages_that_agree_in_all_factors_are_an_error() -> None:
    dataset = recipes_dataset(random_values(13, (1, 3, 2, 3)), sizes=("10M",))
    twice = dataset.assign_coords(seed=("lineage", np.zeros(dataset.sizes["lineage"]), dataset.seed.attrs))
    with pytest.raises(SelectionError, match="agree in recipe, size, seed"):
        arrange_by(values_at(twice, "score"), "recipe")
    with pytest.raises(UnknownNameError, match="Did you mean recipe"):
        arrange_by(values_at(dataset, "score"), "recpie")


def test_signal_and_noise_are_those_of_the_formulas() -> None:
    values = random_values(14, (1, 5, 3, 6))
    dataset = recipes_dataset(values, tokens=range(1000, 7000, 1000), sizes=("10M",))  # type: ignore[arg-type]
    answer = signal_to_noise(dataset, "score", over="recipe", last=4)
    ends = values[0, :, :, -1]
    assert float(answer.signal) == pytest.approx(ends.mean(axis=1).std(ddof=1))
    seeds = np.sqrt(ends.var(axis=1, ddof=1).mean())
    checkpoints = np.sqrt(values[0, :, :, -4:].var(axis=-1, ddof=1).mean())
    np.testing.assert_allclose(answer.noise, [seeds, checkpoints])
    assert answer.degrees_of_freedom.values.tolist() == [10, 45]
    ranges = signal_to_noise(dataset, "score", over="recipe", last=4, spread="range")
    assert float(ranges.signal) == pytest.approx(np.ptp(ends.mean(axis=1)))
    assert np.isnan(ranges.signal_to_noise_low).all()


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_interval_of_the_ratio_covers_the_ratio_of_the_distributions(n: int) -> None:
    from dde.analysis.signal import _bounds, _spread, _within

    rng = np.random.default_rng(n)
    between, within, recipes, repeats = 0.7, 1.0, 8, 4000
    members = rng.normal(0, between, (repeats, recipes, 1)) + rng.normal(0, within, (repeats, recipes, n))
    squares, freedom = _within(members)
    noise = np.sqrt(squares.sum(axis=-1) / freedom.sum(axis=-1))
    ratio = _spread(members.mean(axis=-1), "std") / noise
    low, high = _bounds(ratio, recipes - 1, freedom.sum(axis=-1), "f", 0.95)
    truth = np.sqrt(between**2 + within**2 / n) / within
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


def test_what_is_not_repeated_has_no_noise() -> None:
    dataset = recipes_dataset(random_values(15, (1, 4, 1, 3)), sizes=("10M",))
    answer = signal_to_noise(dataset, "score", over="recipe", last=5)
    assert np.isnan(answer.noise).all()
    assert answer.degrees_of_freedom.values.tolist() == [0, 0]
    with pytest.raises(SelectionError, match="last=1 checkpoints have no scatter"):
        signal_to_noise(dataset, "score", over="recipe", last=1)


def test_a_hyperparameter_is_ranked_between_sizes_of_the_tutorial() -> None:
    dataset = dde.tutorial.open_lineages("small", metrics=["arc_easy"])
    answer = dataset.dde.ranks("arc_easy", over="learning_rate", a={"params": "4M"}, b={"params": "20M"})
    assert set(answer.kendall.dims) == {"data", "run"}
    # Beside the table of final values: the mean over seeds and repetitions of each treatment and rate.
    finals = dataset.dde.final("arc_easy", at="schedule").to_dataframe().dropna(subset=["arc_easy", "learning_rate"])
    counted = 0
    for name, size in (("a", "4M"), ("b", "20M")):
        table = finals[(finals["params"] == size)].groupby(["data", "learning_rate"]).arc_easy
        for (recipe, rate), values in table:
            cells = answer.sel(data=recipe).sel(learning_rate=rate, method="nearest")
            total = (cells[f"value_{name}"] * cells[f"n_replicates_{name}"]).sum()
            assert float(total) == pytest.approx(values.sum())
            counted += len(values)
    assert counted == int(answer.n_replicates_a.sum() + answer.n_replicates_b.sum()) > 5
