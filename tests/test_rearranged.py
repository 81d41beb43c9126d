"""Datasets that were stacked, copied, joined, or put on other axes: the answers stay right, or an error says why."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dde
from dde.errors import DdeWarning, SelectionError, SourceError, UnknownNameError
from dde.tutorial import Suite


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="module")
def small(small_suite: Suite) -> Suite:
    return small_suite


def opened(suite: Suite, **options: Any) -> xr.Dataset:
    return dde.open_lineages(suite.data, suite.wandb, metrics=["arc_easy"], cache_dir=None, **options)


@pytest.fixture(scope="module")
def whole(suite: Suite) -> xr.Dataset:
    return opened(suite).load()


@pytest.fixture(scope="module")
def copies(whole: xr.Dataset) -> xr.Dataset:
    """Two copies along a new dimension, the second one higher by one."""
    return xr.concat([whole, whole + 1], "boot")


@pytest.mark.parametrize("axis", ["tokens_per_parameter", "cumulative_compute"])
@pytest.mark.parametrize("at", ["common", 2e8])
def test_values_at_one_place_do_not_depend_on_the_axis(suite: Suite, whole: xr.Dataset, axis: str, at: Any) -> None:
    expected = whole.dde.final("arc_easy", at)
    assert int(expected.count()) > 1
    for other in (whole.dde.align(axis=axis), opened(suite, axis=axis)):
        found = other.dde.final("arc_easy", at)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert found.attrs["left_out"] == expected.attrs["left_out"]


def test_runs_without_a_place_on_an_axis_have_no_final_value_and_are_counted(whole: xr.Dataset) -> None:
    found = whole.dde.align(axis="post_tokens").dde.final("arc_easy")
    assert "have no place on post_tokens" in found.attrs["left_out"]
    np.testing.assert_array_equal(
        found.drop_sel(run="pretraining"), whole.dde.final("arc_easy").drop_sel(run="pretraining")
    )
    assert found.sel(run="pretraining").isnull().all()


def test_bases_are_not_lost_on_the_way_from_an_axis_that_has_no_place_for_them(whole: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="are not points of this Dataset"):
        whole.dde.align(axis="post_tokens").dde.align(axis="fraction_of_training")


def test_base_curves_keep_dimensions_that_are_not_of_runs(whole: xr.Dataset, copies: xr.Dataset) -> None:
    for rows in (slice(None), slice(1, None)):
        expected = whole.isel(run=rows).dde.base_curves().arc_easy
        found = copies.isel(run=rows).dde.base_curves().arc_easy
        for boot in (0, 1):
            np.testing.assert_allclose(found.isel(boot=boot).transpose(*expected.dims), expected + boot)


def test_base_curves_need_one_dimension_of_lineages(whole: xr.Dataset) -> None:
    pair = {d: xr.DataArray([0, 1], dims="pair") for d in ("lineage", "run")}
    for rearranged in (whole.stack(cell=("lineage", "run")), whole.isel(pair)):
        with pytest.raises(SelectionError, match="have the dimension"):
            rearranged.dde.base_curves()
    with pytest.raises(SourceError, match="has no coordinate lineage"):
        whole.rename(lineage="base").dde.base_curves()
    for empty in (whole.isel(lineage=[]), whole.isel(run=[])):
        with pytest.raises(SelectionError, match="holds no runs"):
            empty.dde.base_curves()


def test_parts_of_bases_are_curves_as_any_other(whole: xr.Dataset) -> None:
    part = whole.dde.sel(run_type="supervised_ft").dde.base_curves()
    ends = part.dde.final("arc_easy")
    seen = whole.arc_easy.dde.observed().sel(run="pretraining")
    for lineage in part.lineage.values:
        before = (
            seen.sel(lineage=lineage)
            .where(seen.cumulative_tokens <= part.end_tokens.sel(lineage=lineage))
            .dropna("cumulative_tokens")
        )
        if before.size:
            assert float(ends.sel(lineage=lineage)) == float(before[-1])
    assert part.dde.align(9).arc_easy.count() > 0


def test_copies_are_aligned_with_ancestors_of_their_own(whole: xr.Dataset, copies: xr.Dataset) -> None:
    expected = whole.dde.align(30).arc_easy.values
    doubled = xr.concat([whole, whole + 1], "lineage").dde.align(30).arc_easy.values
    n = whole.sizes["lineage"]
    np.testing.assert_allclose(doubled[:n], expected)
    np.testing.assert_allclose(doubled[n:], expected + 1)
    every = xr.concat([whole, whole + 1], "boot", coords="all", compat="equals", join="outer")
    for made in (copies, every):
        aligned = made.dde.align(30).arc_easy
        for boot in (0, 1):
            np.testing.assert_allclose(aligned.isel(boot=boot).transpose("lineage", "run", ...), expected + boot)
    with pytest.raises(SelectionError, match=r"2 times, so the copy that .* continues is unknown"):
        xr.concat([whole, whole + 1], "run").dde.align(30)


def test_concat_refuses_axes_that_were_moved(whole: xr.Dataset, copies: xr.Dataset) -> None:
    tokens = whole.cumulative_tokens.values
    more = np.union1d(tokens, (tokens[1:] + tokens[:-1]) // 2)
    for moved in (
        whole.reindex(cumulative_tokens=more, method="nearest"),
        whole.interp(cumulative_tokens=more),
        whole.assign_coords(cumulative_tokens=whole.cumulative_tokens * 2),
    ):
        with pytest.raises(SelectionError, match="not the points that the cells were computed for"):
            dde.concat([moved])
    with pytest.raises(SelectionError, match="without cells"):
        dde.concat([whole.pad(cumulative_tokens=2)])
    with pytest.raises(SelectionError, match="has the dimension boot as well"):
        dde.concat([copies])


def test_concat_refuses_values_that_one_part_lacks_in_either_order(whole: xr.Dataset) -> None:
    masked = whole.where(whole.params == "4M")
    for parts in ([masked, whole], [whole, masked]):
        with pytest.raises(SelectionError, match="contradict each other"):
            dde.concat(parts)
    with pytest.raises(SelectionError, match="holds a lineage twice"):
        dde.concat([xr.concat([whole, whole], "lineage")])


def test_a_run_that_was_cut_off_has_no_last_value_without_its_attribute(whole: xr.Dataset) -> None:
    array = whole.arc_easy.drop_attrs(deep=False)
    np.testing.assert_array_equal(array.dde.final(), whole.dde.final("arc_easy"))
    cut = array.where(array.cumulative_tokens <= float(whole.branch_tokens.min()), drop=True)
    with pytest.raises(SourceError, match="names a sampling"):
        cut.dde.final()


def test_derived_metrics_are_of_the_labels_that_the_function_returns(whole: xr.Dataset, copies: xr.Dataset) -> None:
    turned = whole.dde.derive(q=lambda seen: seen.arc_easy.isel(lineage=slice(None, None, -1)))
    np.testing.assert_allclose(turned.q, whole.arc_easy)
    with pytest.raises(SelectionError, match="positions along lineage"):
        whole.dde.derive(q=lambda seen: seen.arc_easy.isel(lineage=slice(0, 1)))
    with pytest.raises(SelectionError, match="other labels along run"):
        whole.dde.derive(q=lambda seen: seen.arc_easy.assign_coords(run=seen.run + "x"))
    twice = copies.dde.derive(q=lambda seen: 2 * seen.arc_easy).q
    np.testing.assert_allclose(twice.isel(boot=1).transpose(*whole.arc_easy.dims), 2 * (whole.arc_easy + 1))


def test_derived_metrics_are_not_described_as_their_operands(whole: xr.Dataset) -> None:
    described = {"long_name": "error rate", "direction": "lower"}
    ds = whole.dde.derive(
        error=lambda seen: 1 - seen.arc_easy, named=lambda seen: (1 - seen.arc_easy).assign_attrs(described)
    )
    assert not {"long_name", "units", "task", "direction"} & set(ds.error.attrs)
    assert described.items() <= ds.named.attrs.items()
    assert whole.arc_easy.attrs["direction"] == "higher"
    assert int(ds.error.dde.support().sum()) == int(whole.arc_easy.dde.support().sum())


def test_an_array_is_interpolated_as_its_dataset(suite: Suite) -> None:
    ds = opened(suite, interp="previous", max_gap=10**8, bridge=True)
    for answer in (
        lambda a: a.dde.align(9),
        lambda a: a.dde.derive(lambda seen: 2 * seen),
    ):
        array = answer(ds.arc_easy)
        assert array.attrs["interpolation"] == "previous"
    np.testing.assert_array_equal(ds.arc_easy.dde.align(9), ds.dde.align(9).arc_easy)
    np.testing.assert_array_equal(ds.arc_easy.dde.final(2e8), ds.dde.final("arc_easy", 2e8))
    assert not ds.dde.final("arc_easy", 2e8).equals(opened(suite).dde.final("arc_easy", 2e8))


def test_gaps_stay_open_until_any_length_is_filled(suite: Suite, tmp_path: Path) -> None:
    gap = 10**8
    ds, filled = opened(suite, max_gap=gap), opened(suite)
    grid = np.arange(11) * 10**8 // 5
    expected = opened(suite, grid=grid, max_gap=gap)
    ds.to_zarr(tmp_path / "saved.zarr", consolidated=False)
    saved = xr.open_zarr(tmp_path / "saved.zarr", chunks=None, consolidated=False)
    for kept in (ds, saved, ds[["arc_easy"]], ds.drop_attrs(deep=False)):
        xr.testing.assert_allclose(kept.dde.align(grid).arc_easy.variable, expected.arc_easy.variable)
        assert kept.dde.align(grid).arc_easy.attrs["max_gap"] == gap
    xr.testing.assert_allclose(ds.arc_easy.dde.align(grid).variable, expected.arc_easy.variable)
    every = ds.dde.align(grid, max_gap=math.inf)
    xr.testing.assert_allclose(every.arc_easy.variable, opened(suite, grid=grid).arc_easy.variable)
    assert int(every.arc_easy.notnull().sum()) > int(expected.arc_easy.notnull().sum())
    assert every.attrs["max_gap"] == every.arc_easy.attrs["max_gap"] == -1
    np.testing.assert_array_equal(ds.dde.align(max_gap=math.inf).dde.align(grid).arc_easy, every.arc_easy)
    # An open gap is another one than none, and only an explicit choice makes them one.
    joined = dde.concat([opened(suite, params="4M", max_gap=gap), filled.dde.sel(params="150M")])
    with pytest.raises(SelectionError, match="max_gap is"):
        joined.dde.align(grid)
    assert joined.dde.align(grid, max_gap=gap).arc_easy.attrs["max_gap"] == gap


def test_joining_grids_keeps_gaps_open(suite: Suite) -> None:
    parts = [opened(suite, params=params, max_gap=10**8) for params in ("4M", "150M")]
    assert not parts[0].cumulative_tokens.equals(parts[1].cumulative_tokens)
    joined = dde.concat(parts).arc_easy
    expected = opened(suite, grid=joined.cumulative_tokens.values, max_gap=10**8).arc_easy
    np.testing.assert_allclose(joined, expected.sel(lineage=joined.lineage, run=joined.run))
    assert int(joined.isnull().sum()) > int(opened(suite, grid=joined.cumulative_tokens.values).arc_easy.isnull().sum())


def test_metrics_that_were_interpolated_in_several_ways_need_one(suite: Suite) -> None:
    joined = dde.concat([opened(suite, params="4M", interp="log"), opened(suite, params="150M")])
    with pytest.raises(SelectionError, match="interpolated in different ways"):
        joined.dde.align(9)
    # What does not differ may stay.
    aligned = joined.dde.align(9, interp="linear")
    expected = opened(suite).dde.align(aligned.cumulative_tokens.values)
    np.testing.assert_allclose(aligned.arc_easy, expected.arc_easy.sel(run=aligned.run))


@pytest.mark.parametrize("interp", ["linear", "log", "nearest", "previous", "pchip"])
def test_cells_up_to_a_branch_are_copied_where_the_parent_is_gone(small: Suite, interp: Any) -> None:
    ds = opened(small, params="150M", interp=interp)
    derived = ds.isel(run=slice(1, None))
    assert (derived.branch_point == "@20000").any()
    # What follows the branch needs nothing of the parent but the value there.
    if interp != "pchip":
        np.testing.assert_array_equal(derived.dde.align(ds.cumulative_tokens.values).arc_easy, derived.arc_easy)
        since = derived.dde.align(axis="post_tokens").arc_easy
        whole = ds.dde.align(since.post_tokens.values, axis="post_tokens").arc_easy
        np.testing.assert_array_equal(since, whole.isel(run=slice(1, None)))
    branch = int(derived.branch_tokens.where(derived.branch_point == "@20000").min())
    for new in ([branch - 1], ds.cumulative_tokens.values):
        other = interp if len(new) == 1 else ("log" if interp != "log" else "linear")
        with pytest.raises(SelectionError, match="the Dataset does not hold the parent"):
            derived.dde.align(new, other).load()
    with pytest.raises(SelectionError, match="the Dataset does not hold the parent"):
        derived.dde.derive(twice=lambda seen: 2 * seen.arc_easy).load()


def test_no_cell_up_to_a_branch_is_no_knowledge_either(small: Suite) -> None:
    ds = opened(small, params="150M", data="DCLM-Baseline", seed=1)
    seen = ds.cumulative_tokens.values[ds.arc_easy.dde.observed().notnull().any(["lineage", "run"])]
    derived = opened(small, params="150M", data="DCLM-Baseline", seed=1, grid=seen).isel(run=slice(1, None))
    branch = int(derived.branch_tokens.where(derived.branch_point == "@20000").min())
    assert branch not in seen
    with pytest.raises(SelectionError, match="the Dataset does not hold the parent"):
        derived.dde.align([branch]).load()
    np.testing.assert_array_equal(derived.dde.align(seen).arc_easy, derived.arc_easy)


def test_means_of_runs_that_end_at_different_tokens(small: Suite) -> None:
    ds = opened(small, params="150M", data="DCLM-Baseline")
    ds = ds.sel(run=["sft_lr=2e-05_100Mx1@20000"])
    ds = ds.isel(lineage=np.flatnonzero(ds.run_id.values.ravel() != ""))
    assert ds.sizes["lineage"] == 2
    # Evaluated once each, some thousand tokens apart: no place has a value of both.
    means = ds.dde.mean_over("seed")
    with pytest.raises(SelectionError, match="end at different tokens"):
        means.dde.final("arc_easy")
    assert "enough members" in means.dde.final("arc_easy", "common").attrs["left_out"]
    with pytest.warns(DdeWarning, match="no point with a value of all their members"):
        loose = ds.dde.mean_over("seed", min_count=1).dde.final("arc_easy", "common")
    assert loose.notnull().all()
    ends = ds.dde.final("arc_easy")
    mean = ends.to_dataset().dde.mean_over("seed").arc_easy
    np.testing.assert_allclose(mean.squeeze(), ends.mean())


def test_counts_of_means_have_final_values(whole: xr.Dataset) -> None:
    means = whole.dde.mean_over("replicate")
    counts = means.dde.final("arc_easy_count", "common")
    np.testing.assert_array_equal(counts.fillna(0) > 0, means.dde.final("arc_easy", "common").notnull())


@pytest.mark.parametrize("grid", [0, -1, [-5, 1], [np.nan, 1], [0, 1e30]])
def test_grids_that_no_run_can_reach_are_errors(whole: xr.Dataset, grid: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"a grid (of|holds)"):
        whole.dde.align(grid)


@pytest.mark.parametrize("at", [True, np.array([1, 2]), -1, "end"])
def test_places_to_compare_runs_at(whole: xr.Dataset, at: Any) -> None:
    with pytest.raises(UnknownNameError, match="is not a position"):
        whole.dde.final("arc_easy", at)


def test_a_descending_axis_is_aligned_as_an_ascending_one(whole: xr.Dataset) -> None:
    down = whole.sortby("cumulative_tokens", ascending=False)
    xr.testing.assert_allclose(down.dde.align(30), whole.dde.align(30))
    assert len(down.isel(cumulative_tokens=-1).dde.to_frame()) == int(whole.arc_easy.dde.observed()[..., 0].count()) > 0


@pytest.mark.parametrize("gone", ["sampled_evaluations", "sampled_perplexities"])
def test_revisions_need_the_flags_of_both_tables(whole: xr.Dataset, gone: str) -> None:
    with pytest.raises(SourceError, match=f"has no coordinate {gone}"):
        whole.drop_vars(gone).dde.revision()


def test_tokens_are_selected_exactly(whole: xr.Dataset) -> None:
    branch = float(whole.branch_tokens.max())
    assert branch > 1e9
    assert (whole.dde.sel(branch_tokens=branch).branch_tokens == branch).any()
    with pytest.raises(SelectionError):
        whole.dde.sel(branch_tokens=branch + 100)
    with pytest.raises(SelectionError):
        whole.dde.sel(branch_tokens=slice(branch + 1, branch + 100))


def test_arrays_have_the_methods_of_datasets_under_one_documentation() -> None:
    from dde.accessor import DdeDataArrayAccessor, DdeDatasetAccessor

    ds, array = xr.Dataset().dde, xr.DataArray(0).dde
    shared = {n for n in dir(DdeDatasetAccessor) if not n.startswith("_")} & set(dir(DdeDataArrayAccessor))
    assert {"align", "sel", "sweep", "final", "explore", "mean_over", "to_frame", "plot"} <= shared
    for name in shared:
        first, other = (str(inspect.getdoc(getattr(obj, name))) for obj in (ds, array))
        # An array is one metric, so its methods have no parameter to choose one.
        assert first.split("\n\n")[0] == other.split("\n\n")[0]
        assert min(len(first), len(other)) > 150


def test_methods_take_what_their_functions_take() -> None:
    from dde.accessor import DdeDataArrayAccessor, DdeDatasetAccessor
    from dde.accessor.functions import FUNCTIONS, function_of

    def parameters(function: Any) -> dict[str, tuple[Any, Any]]:
        _, *rest = inspect.signature(function).parameters.values()
        return {p.name: (p.kind, p.default) for p in rest}

    for name in FUNCTIONS:
        of_function = parameters(function_of(name))
        for accessor in (DdeDatasetAccessor, DdeDataArrayAccessor):
            method = getattr(accessor, name, None)
            if method is None:
                continue
            taken = parameters(method)
            # Supports are of one metric, and the application takes a Dataset or the options that open one.
            if accessor is DdeDatasetAccessor and name not in ("support", "explore"):
                assert list(taken) == list(of_function), name
            # An array needs its samplings; a Dataset takes those of single variables, too.
            for parameter in taken.keys() & of_function.keys() - {"samplings"}:
                assert taken[parameter][1] == of_function[parameter][1], (name, parameter)
