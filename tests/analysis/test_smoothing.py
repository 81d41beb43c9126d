"""Means in tokens: they equal pandas and plain loops, never cross a branch, and stay metrics of the Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dde
from dde.analysis.smoothing import smooth
from dde.dataset.lazy import is_lazy
from dde.errors import SelectionError, SourceError, UnknownNameError
from other_suites import Run, ladder, make_dataset

HOWS = ("ema", "mean")
values = st.floats(-1e3, 1e3, allow_nan=False)
rows = st.dictionaries(st.integers(0, 2_000), values, min_size=1, max_size=12)


def plain_means(curve: dict[int, float], how: str, span: float) -> list[float]:
    """Return the mean at each observation of one run, from the definition."""
    tokens = sorted(curve)
    out = []
    for t in tokens:
        past = [u for u in tokens if u <= t and (how == "ema" or t - u < span)]
        weights = [np.exp(-2 * (t - u) / span) if how == "ema" else 1.0 for u in past]
        out.append(np.dot(weights, [curve[u] for u in past]) / np.sum(weights))
    return out


def observations(array: xr.DataArray) -> list[float]:
    """Return the observed values of one run in the order of tokens."""
    seen = array.dde.observed().values
    return seen[~np.isnan(seen)].tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3), st.integers(1, 3_000), st.sampled_from(HOWS))
def test_means_equal_a_plain_loop(curves: list[dict[int, float]], span: int, how: Any) -> None:
    runs = [Run(f"r{k}", f"l{k}", "pretraining", "pretraining", curve) for k, curve in enumerate(curves)]
    smoothed = smooth(make_dataset(runs, {}, None), how=how, span=span)
    for k, curve in enumerate(curves):
        found = observations(smoothed.loss.isel(lineage=k, run=0))
        np.testing.assert_allclose(found, plain_means(curve, how, span), rtol=1e-9, atol=1e-9)


def test_the_exponential_mean_equals_pandas() -> None:
    rng = np.random.default_rng(0)
    tokens = np.cumsum(rng.integers(1, 10_000, 200))
    x = rng.normal(size=200)
    ds = make_dataset(
        [Run("r", "l", "pretraining", "pretraining", dict(zip(tokens.tolist(), x, strict=True)))], {}, None
    )
    span = 40_000.0
    half_life = pd.Timedelta(int(span * np.log(2) / 2 * 1000), "ns")
    # A token is a microsecond, because pandas has whole nanoseconds.
    expected = pd.Series(x).ewm(halflife=half_life, times=pd.to_datetime(tokens * 1000)).mean()
    np.testing.assert_allclose(
        observations(smooth(ds, span=span).loss.isel(lineage=0, run=0)), expected, rtol=0, atol=1e-6
    )
    windows = pd.Series(x, pd.to_datetime(tokens * 1000)).rolling(pd.Timedelta(int(span * 1000), "ns")).mean()
    means = smooth(ds, how="mean", span=span)
    np.testing.assert_allclose(observations(means.loss.isel(lineage=0, run=0)), windows, rtol=1e-9)


def test_both_means_lag_behind_a_trend_by_half_the_span() -> None:
    ds = make_dataset([Run("r", "l", "pretraining", "pretraining", {t: float(t) for t in range(5_000)})], {}, None)
    for how in HOWS:
        last = observations(smooth(ds, how=how, span=400).loss.isel(lineage=0, run=0))[-1]
        assert 4_999 - last == pytest.approx(200, rel=0.01)


@pytest.mark.parametrize("how", HOWS)
def test_no_mean_crosses_a_branch(how: Any) -> None:
    ds = ladder()
    seen, smoothed = (d.loss.dde.observed().values for d in (ds, smooth(ds, how=how, span=60e6)))
    tokens, branches = ds.cumulative_tokens.values, ds.branch_tokens.values
    at = {str(r): i for i, r in np.ndenumerate(ds.run_id.values) if r}
    for run_id, here in at.items():
        own = ~np.isnan(seen[here])
        if np.isfinite(branches[here]):
            own &= tokens > branches[here]
        curve = dict(zip(tokens[own].tolist(), seen[here][own].tolist(), strict=True))
        np.testing.assert_allclose(smoothed[here][own], plain_means(curve, how, 60e6), rtol=1e-12)
        if np.isfinite(branches[here]) and "merge" not in run_id:
            # Before the branch are the parent's own means.
            before = tokens <= branches[here]
            parent = at[str(ds.parent_run_id.values[here])]
            np.testing.assert_array_equal(smoothed[here][before], smoothed[parent][before])


@pytest.mark.parametrize("how", HOWS)
def test_a_smoothed_metric_stays_a_metric(how: Any) -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy", "hellaswag"])
    smoothed = smooth(ds, "arc_easy", how=how, span=2e9)
    assert list(smoothed.data_vars) == list(ds.data_vars)
    xr.testing.assert_identical(smoothed.hellaswag, ds.hellaswag)
    array = smoothed.arc_easy
    assert is_lazy(array.variable)
    assert (array.dde.support() == ds.arc_easy.dde.support()).all()
    assert array.attrs["units"] == ds.arc_easy.attrs["units"]
    assert array.attrs["direction"] == "higher"
    assert (array.attrs["smoothing"], array.attrs["smoothing_span"]) == (how, 2e9)
    aligned = smoothed.dde.align(grid="union").arc_easy
    common = np.intersect1d(aligned.cumulative_tokens, array.cumulative_tokens)
    observed = array.dde.observed().sel(cumulative_tokens=common)
    there = observed.notnull().values
    np.testing.assert_array_equal(aligned.sel(cumulative_tokens=common).values[there], observed.values[there])
    finals = smoothed.dde.final("arc_easy", at="schedule")
    assert (finals.final_tokens.fillna(0) == ds.dde.final("arc_easy", at="schedule").final_tokens.fillna(0)).all()
    # Between observations, values are interpolated between the smoothed ones.
    again = smoothed.dde.derive(copy=lambda seen: seen.arc_easy * 1.0)
    np.testing.assert_allclose(again["copy"].values, array.values, rtol=1e-12)


@pytest.mark.parametrize("how", HOWS)
def test_the_same_means_from_any_form_of_the_dataset(how: Any, tmp_path: Path) -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    expected = smooth(ds, span=2e9, how=how).arc_easy.dde.observed()
    ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
    chunked = smooth(ds.chunk({"lineage": 2, "cumulative_tokens": 50}), span=2e9, how=how)
    assert chunked.arc_easy.chunks is not None
    forms = {
        "in memory": smooth(ds.compute(), span=2e9, how=how),
        "chunked": chunked,
        "reopened": smooth(xr.open_zarr(tmp_path / "a.zarr", consolidated=False), span=2e9, how=how),
        "sorted down": smooth(ds.isel(cumulative_tokens=slice(None, None, -1)), span=2e9, how=how),
        "selected": smooth(ds.isel(lineage=[1, 0]), span=2e9, how=how),
        "transposed": smooth(ds.transpose("cumulative_tokens", ...), span=2e9, how=how),
    }
    for form, smoothed in forms.items():
        seen = smoothed.arc_easy.dde.observed()
        one, other = xr.align(seen.sortby("cumulative_tokens"), expected, join="inner")
        np.testing.assert_allclose(one.transpose(*other.dims).values, other.values, rtol=1e-12, err_msg=form)
    by_compute = smooth(ds.dde.align(axis="cumulative_compute"), span=2e9, how=how).arc_easy.dde.observed()
    assert np.sort(by_compute.values[~np.isnan(by_compute.values)]).tolist() == pytest.approx(
        np.sort(expected.values[~np.isnan(expected.values)]).tolist()
    )


def test_a_block_equals_that_part_of_all() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["arc_easy"])
    smoothed = smooth(ds, span=2e9).arc_easy
    every = smoothed.values
    part = smoothed.isel(lineage=[2, 0], run=slice(0, 5), cumulative_tokens=slice(10, 200, 7))
    np.testing.assert_array_equal(part.values, every[[2, 0], :5][..., 10:200:7])


def test_constants_stay_and_infinity_goes_on() -> None:
    runs = [
        Run("a", "a", "pretraining", "pretraining", dict.fromkeys(range(0, 1000, 7), 0.1)),
        Run("b", "b", "pretraining", "pretraining", {0: 1.0, 10: np.inf, 20: 2.0, 100: 3.0}),
    ]
    ds = make_dataset(runs, {}, None)
    assert set(observations(smooth(ds, span=50).loss.isel(lineage=0, run=0))) == {0.1}
    assert observations(smooth(ds, span=50).loss.isel(lineage=1, run=0)) == [1.0, np.inf, np.inf, np.inf]
    assert observations(smooth(ds, span=15, how="mean").loss.isel(lineage=1, run=0)) == [1.0, np.inf, np.inf, 3.0]


def test_training_logs_need_their_samples() -> None:
    ds = dde.tutorial.open_lineages("tiny", metrics=["train_loss"], grid="union")
    smoothed = smooth(ds, "train_loss", span=2e7)
    seen, means = (
        d.train_loss.dde.observed().values.reshape(-1, ds.sizes["cumulative_tokens"]) for d in (ds, smoothed)
    )
    logged = np.flatnonzero((~np.isnan(seen)).sum(axis=1) > 20)
    for row in logged:
        before, after = (np.abs(np.diff(a[row][~np.isnan(a[row])])).sum() for a in (seen, means))
        assert after < before
    assert len(logged) >= 2
    with pytest.raises(SelectionError, match="are not points of this Dataset"):
        smooth(ds.dde.sel(cumulative_tokens=slice(0, 4e8)), "train_loss", span=2e7).train_loss.load()


def test_errors_say_what_to_do() -> None:
    ds = ladder()
    with pytest.raises(UnknownNameError, match="Did you mean mean"):
        smooth(ds, how="maen", span=1e6)  # type: ignore[arg-type]
    for span in (0, -1.0, np.inf, np.nan, True, "1B"):
        with pytest.raises(UnknownNameError, match="not a positive number of tokens"):
            smooth(ds, span=span)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean loss"):
        smooth(ds, "lss", span=1e6)
    with pytest.raises(SourceError, match="names a sampling"):
        smooth(ds.drop_attrs(), span=1e6)
    with pytest.raises(SelectionError, match="means"):
        smooth(ds.dde.mean_over("seed"), span=1e6)
    with pytest.raises(SelectionError, match="Smooth first and align afterwards"):
        smooth(ds.dde.align(axis="post_tokens"), span=1e6).load()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", HOWS)
def test_the_shortest_span_changes_nothing(how: Any) -> None:
    curve = {0: 4.0, 10**12: 3.0, 10**12 + 1: 2.0}
    dataset = make_dataset([Run("r", "l", "pretraining", "pretraining", curve)], {}, None)
    assert observations(smooth(dataset, "loss", how=how, span=1e-9).loss) == [4.0, 3.0, 2.0]


@pytest.mark.parametrize("how", HOWS)
def test_a_selection_without_points_stays_empty(how: Any) -> None:
    empty = ladder().isel(cumulative_tokens=slice(0))
    assert smooth(empty, "loss", how=how, span=1e9).loss.sizes == empty.loss.sizes
