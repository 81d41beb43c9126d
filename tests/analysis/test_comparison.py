"""`compare`: differences of two sides against SciPy and plain loops, on made, tutorial and real suites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import dde
from dde.analysis.comparison import compare
from dde.analysis.two_samples import of_independent, of_pairs, smallest_p
from dde.dataset.dimensions import run_ids_along
from dde.errors import DdeWarning, SelectionError, UnknownNameError
from dde.plots.answers.compare import plot_compare
from dde.suite.declare import Suite
from other_suites import Run, ladder, make_dataset, optimizers
from picture_checks import assert_nothing_is_cut_off, caption_of, drawn, figures_of, printed
from samples import sample_folder

TOKENS = (0, 100, 200, 300)


def recipes(scores: dict[str, list[float]], seeds: dict[str, list[int]] | None = None) -> xr.Dataset:
    """Recipes of one size with a seed for each score, which rises from 0 to it along the tokens."""
    runs = []
    for data, ends in scores.items():
        for seed, end in zip((seeds or {}).get(data, range(len(ends))), ends, strict=True):
            rows = {t: end * t / TOKENS[-1] for t in TOKENS}
            factors = {"data": data, "seed": float(seed)}
            runs.append(Run(f"{data}-{seed}", f"{data}-{seed}", "pretraining", "pretraining", rows, factors=factors))
    return make_dataset(runs, {"data": "lineage", "seed": "lineage"}, {r.lineage: 1000 for r in runs})


A, B = [2.0, 2.5, 1.5, 3.0], [2.5, 2.75, 2.5, 3.75]


def two() -> tuple[xr.Dataset, xr.Dataset]:
    ds = recipes({"a": A, "b": B})
    return ds.dde.sel(data="a"), ds.dde.sel(data="b")


def test_pairs_are_those_of_scipy() -> None:
    a, b = two()
    found = compare(a, b, at="last", test="t")
    expected = stats.ttest_rel(B, A)
    low, high = expected.confidence_interval(0.95)
    assert found.difference.item() == pytest.approx(np.mean(B) - np.mean(A))
    assert (found.low.item(), found.high.item()) == (pytest.approx(low), pytest.approx(high))
    assert found.p_value.item() == pytest.approx(expected.pvalue)
    assert (found.n.item(), found.n_a.item(), found.n_b.item()) == (4, 4, 4)
    assert (found.attrs["a"], found.attrs["b"], found.attrs["paired"]) == ("data=a", "data=b", 1)
    assert found.attrs["paired_over"] == "seed"
    assert found.attrs["interval_method"] == "Student's t over pairs of seed"
    by_signs = compare(a, b, at="last").p_value
    exact = stats.permutation_test((B, A), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert by_signs.item() == pytest.approx(exact.pvalue)
    assert by_signs.attrs["smallest_p"] == 2 / 2**4


def test_members_without_pairs_are_compared_by_welch() -> None:
    ds = recipes({"a": A, "b": B[:3]}, {"b": [7, 8, 9]})
    a, b = ds.dde.sel(data="a"), ds.dde.sel(data="b")
    found = compare(a, b, at="last", test="t")
    expected = stats.ttest_ind(B[:3], A, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert found.difference.item() == pytest.approx(np.mean(B[:3]) - np.mean(A))
    assert (found.low.item(), found.high.item()) == (pytest.approx(low), pytest.approx(high))
    assert found.p_value.item() == pytest.approx(expected.pvalue)
    assert (found.n_a.item(), found.n_b.item(), "n" in found, found.attrs["paired"]) == (4, 3, False, 0)
    assert found.attrs["interval_method"] == "Welch's t over seed"
    exact = stats.permutation_test(
        (B[:3], A), lambda x, y: np.mean(x) - np.mean(y), permutation_type="independent", n_resamples=np.inf
    )
    p_value = compare(a, b, at="last").p_value
    assert p_value.item() == pytest.approx(exact.pvalue)
    assert p_value.attrs["smallest_p"] == pytest.approx(2 / 35)
    # Pairs on request are an error, independent members of pairs are not.
    with pytest.raises(SelectionError, match="no pair over seed with values on both sides"):
        compare(a, b, at="last", paired=True)
    independent = compare(*two(), at="last", paired=False, test="t")
    assert independent.p_value.item() == pytest.approx(stats.ttest_ind(B, A, equal_var=False).pvalue)


def test_members_without_a_partner_do_not_enter_and_are_named() -> None:
    ds = recipes({"a": A, "b": B}, {"a": [0, 1, 2, 3], "b": [1, 2, 3, 4]})
    found = compare(ds.dde.sel(data="a"), ds.dde.sel(data="b"), at="last")
    assert found.difference.item() == pytest.approx(np.mean(np.array(B[:3]) - A[1:]))
    assert found.n.item() == 3
    assert found.attrs["left_out"] == "a: no counterpart: 1 (a-0); b: no counterpart: 1 (b-4)"


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_intervals_cover_as_often_as_they_say(n: int) -> None:
    draw = np.random.default_rng(n)
    common = draw.normal(size=(4000, n))
    a, b = common + draw.normal(size=(4000, n)), common + draw.normal(size=(4000, n)) + 0.3

    def covered(of: Callable[..., Any], interval: str) -> float:
        found = of(a, b, interval, 0.95, "none", 99, 0)
        return float(((found.low <= 0.3) & (found.high >= 0.3)).mean())

    assert 0.93 < covered(of_pairs, "t") < 0.97
    a = a - common + draw.normal(size=(4000, n))
    b = b - common + draw.normal(size=(4000, n))
    # Welch's interval is wider for two and three members, as its docstring says.
    assert 0.93 < covered(of_independent, "t") < (0.985 if n < 5 else 0.97)
    # The bootstrap is too narrow, which its docstring says too.
    assert covered(of_independent, "bootstrap") < 0.95


def test_p_values_are_uniform_at_most() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(2, 3000, 6))
    for of in (of_pairs, of_independent):
        p_value = of(a, b, "none", 0.95, "permutation", 9999, 0).p_value
        for level in (0.05, 0.1, 0.3):
            assert (p_value <= level).mean() <= level + 0.012
    assert [smallest_p(n, n, True, 9999) for n in (1, 2, 3)] == [1.0, 0.5, 0.25]


def test_equal_members_have_no_interval_to_speak_of() -> None:
    ds = recipes({"a": A, "b": [v + 0.5 for v in A]})
    found = compare(ds.dde.sel(data="a"), ds.dde.sel(data="b"), at="last", test="t")
    assert (found.low.item(), found.high.item(), found.p_value.item()) == (0.5, 0.5, 0.0)
    same = compare(ds.dde.sel(data="a"), ds.dde.sel(data="a"), at="last")
    assert (same.difference.item(), same.low.item(), same.high.item(), same.p_value.item()) == (0, 0, 0, 1)


def test_one_pair_has_no_interval_and_no_p_value() -> None:
    a, b = two()
    found = compare(a.dde.sel(seed=0), b.dde.sel(seed=0), at="last")
    assert (found.difference.item(), found.n.item()) == (0.5, 1)
    assert np.isnan([found.low.item(), found.high.item(), found.p_value.item()]).all()
    other = compare(a.dde.sel(seed=0), b.dde.sel(seed=1), at="last")
    assert (other.difference.item(), other.attrs["paired"]) == (0.75, 0)
    assert np.isnan([other.low.item(), other.p_value.item()]).all()


def test_only_points_that_both_observed_are_compared() -> None:
    one = Run("one", "x", "one", "pretraining", {0: 1.0, 100: 2.0, 300: 4.0})
    other = Run("other", "x", "other", "pretraining", {0: 1.5, 200: 3.0, 300: 3.0})
    ds = make_dataset([one, other], {}, {"x": 1000})
    found = compare(ds.dde.sel(run="one"), ds.dde.sel(run="other"))
    assert dict(
        zip(found.cumulative_tokens.values.tolist(), found.difference.values.ravel().tolist(), strict=True)
    ) == {
        0: 0.5,
        300: -1.0,
    }
    assert found.attrs["at"] == "each point where both were observed"
    ends = make_dataset(
        [dataclasses.replace(one, rows={100: 2.0}), dataclasses.replace(other, rows={200: 3.0})], {}, None
    )
    with pytest.raises(SelectionError, match="no point of cumulative_tokens was observed on both sides"):
        compare(ends.dde.sel(run="one"), ends.dde.sel(run="other"))


def test_the_table_has_only_points_with_a_difference() -> None:
    # Recipe b of the small size was not observed where the large ones were.
    tokens = {("a", "small"): (100, 200), ("b", "small"): (100,), ("a", "large"): (200,), ("b", "large"): (200,)}
    runs = [
        Run("-".join(key), "-".join(key), "pretraining", "pretraining", {t: t / 100 for t in places},
            factors={"data": key[0], "size": key[1]})
        for key, places in tokens.items()
    ]  # fmt: skip
    ds = make_dataset(runs, {"data": "lineage", "size": "lineage"}, {r.lineage: 1000 for r in runs})
    found = compare(ds.dde.sel(data="a"), ds.dde.sel(data="b"))
    assert (found.difference.isnull() & (found.n_a > 0)).any()
    table = found.dde.to_frame()
    assert sorted(zip(table["size"], table["cumulative_tokens"], strict=True)) == [("large", 200), ("small", 100)]
    assert table["difference"].notna().all()


def test_what_comes_before_a_branch_is_of_the_base() -> None:
    ds = ladder()
    found = compare(ds.dde.sel(run="constant"), ds.dde.sel(run="decay-1xC"))
    branch = ds.branch_tokens.sel(run="decay-1xC")
    assert found.difference.dims == ("size", "cumulative_tokens")
    for size in found["size"].values:
        there = found.difference.sel(size=size).dropna("cumulative_tokens")
        assert there.size
        assert (there.cumulative_tokens > branch.sel(lineage=f"{size}-s0")).all()


def test_a_single_run_is_compared_with_several_at_their_ends() -> None:
    ds = ladder()
    trunk, decays = ds.dde.sel(run="constant"), ds.dde.sel(run=["decay-1xC", "decay-2xC"])
    found = compare(trunk, decays, at="last")
    assert set(found.difference.dims) == {"size", "run"}
    ends = {run: ds.dde.final("loss").sel(run=run) for run in ("constant", "decay-1xC", "decay-2xC")}
    for run in decays.run.values:
        expected = (ends[run] - ends["constant"]).groupby(ds["size"]).mean()
        np.testing.assert_allclose(found.difference.sel(run=run), expected.sel(size=found["size"]))
    assert (found.n == 2).all()
    with printed(plot_compare(found, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(8)), st.sampled_from(["t", "bootstrap"]))
def test_order_and_side_change_nothing(order: list[int], interval: Any) -> None:
    a, b = two()
    plain = compare(a, b, interval=interval)
    ds = xr.concat([a, b], "lineage", join="outer", data_vars="minimal", coords="different", compat="equals")
    shuffled = ds.isel(lineage=order)
    again = compare(shuffled.dde.sel(data="a"), shuffled.dde.sel(data="b"), interval=interval)
    xr.testing.assert_allclose(plain, again)
    turned = compare(b, a, interval=interval)
    np.testing.assert_allclose(turned.difference, -plain.difference)
    np.testing.assert_allclose(turned.low, -plain.high)
    np.testing.assert_allclose(turned.p_value, plain.p_value)


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    return dde.tutorial.open_lineages("small", metrics=["arc_easy", "piqa", "train_loss"]).load()


def test_curves_are_those_of_a_plain_loop(suite: xr.Dataset) -> None:
    bases = suite.dde.sel(run="pretraining")
    found = compare(bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7"), ["arc_easy", "piqa"])
    assert found.difference.dims == ("metric", "params", "cumulative_tokens")
    assert found.difference.attrs["long_name"] == "metric, difference b - a"
    frame = bases[["arc_easy", "piqa"]].dde.observed().dde.to_frame()
    count = 0
    for metric in ("arc_easy", "piqa"):
        for (params, tokens), rows in frame.groupby(["params", "cumulative_tokens"]):
            wide = rows.pivot(index="seed", columns="data", values=metric).reindex(columns=["C4", "Dolma1.7"]).dropna()
            if wide.empty:
                continue
            count += 1
            here = found.sel(metric=metric, params=params, cumulative_tokens=tokens)
            change = wide["Dolma1.7"] - wide["C4"]
            assert here.n.item() == len(change)
            assert here.difference.item() == pytest.approx(change.mean())
            if len(change) > 1:
                half = stats.t.ppf(0.975, len(change) - 1) * change.std() / np.sqrt(len(change))
                assert here.high.item() - here.difference.item() == pytest.approx(half, abs=1e-12)
    assert count == found.difference.notnull().sum()


def test_a_single_side_is_compared_with_each_label(suite: xr.Dataset) -> None:
    bases = suite.dde.sel(run="pretraining")
    found = compare(bases.dde.sel(data="C4"), bases, "piqa", at="schedule")
    assert set(found.difference.dims) == {"params", "data"}
    assert (found.attrs["a"], found.attrs["b"]) == ("data=C4", "each data")
    assert found.difference.sel(data="C4", params="150M").item() == 0
    one = compare(bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7"), "piqa", at="schedule")
    xr.testing.assert_allclose(
        found.sel(data="Dolma1.7", params=one.params).difference.drop_vars("data"),
        one.difference,
        check_dim_order=False,
    )


def test_runs_that_differ_in_one_factor_meet_by_the_others() -> None:
    ds = optimizers()
    found = compare(ds.dde.sel(optimizer="adamw"), ds.dde.sel(optimizer="muon"))
    assert found.difference.dims == ("lineage", "learning_rate", "cumulative_tokens")
    np.testing.assert_allclose(found.difference, -0.1)
    assert (found.n == 2).all()
    assert found.attrs["paired_over"] == "replicate"
    swept = ds.dde.sweep("optimizer", "learning_rate")
    again = compare(swept.sel(optimizer="adamw"), swept.sel(optimizer="muon"))
    np.testing.assert_allclose(again.difference, found.difference)
    arrays = compare(ds.loss.dde.sel(optimizer="adamw"), ds.loss.dde.sel(optimizer="muon"))
    xr.testing.assert_allclose(arrays, found)


def test_means_over_another_factor() -> None:
    ds = optimizers()
    found = compare(ds.dde.sel(learning_rate=1e-3), ds.dde.sel(learning_rate=3e-3), over="optimizer", at="last")
    assert "optimizer" not in found.dims
    assert found.attrs["paired_over"] == "optimizer"
    np.testing.assert_allclose(found.difference, -0.04)
    assert (found.n == 2).all()


def test_places_are_common_to_both_sides() -> None:
    long = Run("long", "x", "long", "pretraining", {0: 1.0, 100: 2.0, 300: 4.0})
    short = Run("short", "x", "short", "pretraining", {0: 1.5, 200: 3.0})
    ds = make_dataset([long, short], {}, {"x": 1000})
    a, b = ds.dde.sel(run="long"), ds.dde.sel(run="short")
    found = compare(a, b, at="common")
    assert found.attrs["at"] == "common: cumulative_tokens=200"
    assert found.difference.item() == pytest.approx(3.0 - 3.0)
    assert (found.tokens_a.item(), found.tokens_b.item()) == (200, 200)
    last = compare(a, b, at="last")
    assert (last.tokens_a.item(), last.tokens_b.item(), last.difference.item()) == (300, 200, -1.0)
    beyond = compare(a, b, at=250)
    assert np.isnan(beyond.difference.item())
    assert beyond.n.item() == 0
    assert "b: no value at the place: 1" in beyond.attrs["left_out"]
    by_compute = compare(a, b, at={"compute": 6 * 1000 * 100.0})
    assert by_compute.difference.item() == pytest.approx(2.25 - 2.0)


def test_another_axis(suite: xr.Dataset) -> None:
    bases = suite[["arc_easy"]].dde.sel(run="pretraining", params=["4M", "150M"])
    aligned = bases.dde.align(axis="cumulative_compute")
    found = compare(aligned.dde.sel(data="C4"), aligned.dde.sel(data="Dolma1.7"))
    plain = compare(bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7"))
    assert found.difference.dims == ("params", "cumulative_compute")
    for params in found.params.values:
        np.testing.assert_allclose(
            found.difference.sel(params=params).dropna("cumulative_compute"),
            plain.difference.sel(params=params).dropna("cumulative_tokens"),
        )


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_saved_datasets_and_answers(suite: xr.Dataset, tmp_path: Path, kind: str) -> None:
    def again(dataset: xr.Dataset, name: str) -> xr.Dataset:
        if kind == "zarr":
            dataset.to_zarr(tmp_path / name, consolidated=False)
            return xr.open_zarr(tmp_path / name, consolidated=False)
        dataset.to_netcdf(tmp_path / name)
        return xr.open_dataset(tmp_path / name)

    bases = suite[["arc_easy"]].dde.sel(run="pretraining", params=["4M", "150M"])
    a, b = bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7")
    found = compare(a, b)
    reopened = again(bases.drop_encoding(), "runs")
    xr.testing.assert_allclose(compare(reopened.dde.sel(data="C4"), reopened.dde.sel(data="Dolma1.7")), found)
    answer = again(found, "answer")
    assert answer.attrs["answer"] == "compare"
    picture = plot_compare(answer, backend="matplotlib")
    with printed(picture) as figure:
        assert_nothing_is_cut_off(figure)


def test_standard_errors_of_evaluations() -> None:
    ds = recipes({"a": A, "b": B})
    error = 0.1 * (1 + ds.seed)
    ds["loss_stderr"] = xr.full_like(ds.loss, 1.0) * error
    ds["loss_stderr"].attrs = {**ds.loss.attrs, "stderr_of": "loss"}
    a, b = ds.dde.sel(data="a"), ds.dde.sel(data="b")
    expected = np.sqrt(2 * sum((0.1 * k) ** 2 for k in (1, 2, 3, 4))) / 4
    for found in (compare(a, b, "loss"), compare(a, b, "loss", at="last")):
        np.testing.assert_allclose(found.stderr, expected)
    assert "stderr" not in compare(a.drop_vars("loss_stderr"), b, "loss", at="last")
    # Errors are not interpolated.
    assert np.isnan(compare(a, b, "loss", at=150).stderr).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, b: compare(a, b, "los"), UnknownNameError, "Did you mean loss"),
        (lambda a, b: compare(a, b, over="sed"), UnknownNameError, "over='sed' is not a factor.*Did you mean seed"),
        (lambda a, b: compare(a, b, test="permutaton"), UnknownNameError, "Did you mean permutation"),
        (lambda a, b: compare(a, b, resamples=0), UnknownNameError, "resamples=0"),
        (lambda a, b: compare(a, b, interval="boot"), UnknownNameError, "interval='boot'"),
        (lambda a, b: compare(a, b, level=95), UnknownNameError, "level=95"),
        (lambda a, b: compare(a, b, at="end"), UnknownNameError, "at='end'"),
        (lambda a, b: compare(a, 5), UnknownNameError, "got a int"),
        (lambda a, b: compare(a, b.rename(loss="other")), UnknownNameError, "a holds loss and b other"),
        (lambda a, b: compare(a, b.dde.mean_over("seed"), "loss"), SelectionError, "holds means"),
        (
            lambda a, b: compare(a, b.assign(loss=b.loss.assign_attrs(units="bits"))),
            SelectionError,
            "nats in a and in b",
        ),
    ],
)
def test_errors_say_what_to_do(call: Callable[[Any, Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("nats in a and in b", "in nats in a and in bits in b")):
        call(*two())


def test_sides_without_common_labels() -> None:
    ds = recipes({"a": A, "b": B})
    other = ladder()
    with pytest.raises(SelectionError, match="side b has no coordinate data"):
        compare(ds, other, "loss", at="last")
    with pytest.raises(SelectionError, match=r"no label of runs in common.*ds\.dde\.sweep"):
        compare(other.dde.sel(run=["constant", "rewound"]), other.dde.sel(run=["cosine-1xC", "cosine-2xC"]), at="last")


def test_a_factor_of_single_runs_makes_no_pairs() -> None:
    ds = ladder()
    with pytest.raises(SelectionError, match=r"warmup differs between runs of one label.*ds\.dde\.sweep\('warmup'\)"):
        compare(ds.dde.sel(run="constant"), ds.dde.sel(run="cosine-1xC"), over="warmup")
    empty = optimizers().assign_coords(depth=("run", np.full(8, np.nan), {"factor_of": "run"}))
    with pytest.raises(SelectionError, match="depth has no values"):
        compare(empty.dde.sel(optimizer="adamw"), empty.dde.sel(optimizer="muon"), over=["depth", "replicate"])
    constant = compare(ds.dde.sel(run="constant", seed=0), ds.dde.sel(run="cosine-1xC", seed=0), over="seed")
    assert (constant.n <= 1).all()


def test_derived_metrics() -> None:
    ds = recipes({"a": A, "b": B}).dde.derive(doubled=lambda seen: 2 * seen.loss)
    a, b = ds.dde.sel(data="a"), ds.dde.sel(data="b")
    np.testing.assert_allclose(compare(a, b, "doubled").difference, 2 * compare(a, b, "loss").difference)


def test_losses_of_different_reductions_warn(suite: xr.Dataset) -> None:
    runs = suite[["train_loss"]].dde.sel(lineage="dolma1_7-150M-default")
    one, other = (runs.sel(run=runs.reduce_loss == way).isel(run=0) for way in ("sum", "mean"))
    with pytest.warns(DdeWarning, match="reduce train_loss in different ways"):
        compare(one, other, at="last")


# --- pictures


@pytest.mark.parametrize("at", [None, "schedule"])
def test_pictures_have_a_line_at_zero_and_every_difference(suite: xr.Dataset, at: Any) -> None:
    bases = suite.dde.sel(run="pretraining")
    found = compare(bases.dde.sel(data="C4"), bases.dde.sel(data="Dolma1.7"), ["arc_easy", "piqa"], at=at)
    with printed(plot_compare(found, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
    text = caption_of(plot_compare(found, backend="matplotlib"))
    # Metrics have the names of their labels.
    assert text.startswith("ARC-Easy and PIQA (primary metric): ")
    assert ": data=Dolma1.7 minus data=C4, " in text
    assert "pairs over seed" in text
    figures = figures_of(plot_compare(found))
    points = sum(len(next(iter(r.data_source.data.values()))) for f in figures for r in drawn(f, "Scatter"))
    assert points == int(found.difference.notnull().sum())


def test_a_picture_of_nothing_is_an_error() -> None:
    a, b = two()
    with pytest.raises(SelectionError, match="nothing to draw"):
        plot_compare(compare(a, b, at=1000), backend="matplotlib")


# --- real suites


@pytest.fixture(scope="module")
def olmo() -> xr.Dataset:
    return dde.open_lineages(
        sample_folder("suites/olmo_ladder"), suite="olmo_ladder", metrics=["c4_en_loss"], cache_dir=None
    ).load()


def test_decays_of_the_ladder_beat_cosine_runs(olmo: xr.Dataset) -> None:
    found = compare(olmo.dde.sel(run_type="cosine"), olmo.dde.sel(run_type="decay"), at="last")
    assert dict(found.difference.sizes) == {"lineage": 5, "budget": 5}
    assert int((found.difference < 0).sum()) == 25
    assert (found.n == 1).all()
    assert float(-found.difference.max()) == pytest.approx(0.0005, abs=5e-5)
    assert float(-found.difference.min()) == pytest.approx(0.040, abs=5e-4)
    assert found.attrs["left_out"].startswith("a: no counterpart: 5 (cosine/190M-1xC-rerun")


def test_decays_of_the_ladder_against_the_trunk_at_their_end(olmo: xr.Dataset) -> None:
    gains = []
    for run in [r for r in olmo.run.values if r.startswith("decay")]:
        for size in olmo.lineage.values:
            ds = olmo.sel(lineage=size)
            decay, trunk = ds.dde.sel(run=run), ds.dde.sel(run="constant")
            # Some decays end a few steps after the trunk's last observation.
            end = min(float(side.dde.final().final_tokens) for side in (decay, trunk))
            gains.append(-compare(trunk, decay, at=end).difference.item())
    assert len(gains) == 25
    assert min(gains) == pytest.approx(0.058, abs=5e-4)
    assert max(gains) == pytest.approx(0.121, abs=5e-4)


def test_interventions_of_pythia_against_their_baseline() -> None:
    declared = dde.suites["pythia"]
    (table,) = [t for t in declared.tables if t.run_type == "intervention"]
    text = (
        table.patterns[0]
        .text.replace("/intervention/intervention-", "/baseline/baseline-")
        .replace("{long:|-long}", "")
    )
    baseline = dataclasses.replace(table, files=text, run_type="baseline")
    suite: Suite = dataclasses.replace(
        declared,
        name="pythia_baselines",
        run={**dict(declared.run), "baseline": "baseline"},
        tables=[*declared.tables, baseline],
    )
    metrics = ["crows_pairs_english_pct_stereotype", "crows_pairs_english_pct_stereotype_stderr"]
    ds = dde.open_lineages(sample_folder("suites/pythia"), suite=suite, metrics=metrics, cache_dir=None)
    found = compare(ds.dde.sel(run="baseline"), ds.dde.sel(run=["intervention", "intervention-long"]), metrics[0])
    steps = found.cumulative_tokens.values / 2_097_152
    assert steps.tolist() == list(range(114_000, 143_001, 1000))
    of_small = found.difference.sel(lineage="pythia-70m-deduped", run="intervention").dropna("cumulative_tokens")
    assert of_small.size == 10
    seen = ds.dde.observed().sel(lineage="pythia-70m-deduped", cumulative_tokens=of_small.cumulative_tokens.values)
    one, other = (seen[metrics[0]].sel(run=r).values for r in ("baseline", "intervention"))
    np.testing.assert_allclose(of_small, other - one)
    errors = [seen[metrics[1]].sel(run=r).values for r in ("baseline", "intervention")]
    stderr = found.stderr.sel(lineage="pythia-70m-deduped", run="intervention").dropna("cumulative_tokens")
    np.testing.assert_allclose(stderr, np.hypot(*errors))
    assert int((run_ids_along(ds, ("lineage", "run")) != "").sum()) > 5
    with printed(plot_compare(found, backend="matplotlib")) as figure:
        assert_nothing_is_cut_off(figure)
