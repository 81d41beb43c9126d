"""What runs end at and gain; the same operations on one metric as on a Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import given, settings

from dde.curves.axes import AXES
from dde.dataset.align import axis_values
from dde.dataset.bases import base_curves, difference_to_base
from dde.dataset.finals import final
from dde.entities.repository import RunRepository
from dde.errors import DdeWarning, SelectionError, SourceError, UnknownNameError
from fakes import FakeStore, FakeTables
from reference import ReferenceRun
from small_stores import FINAL, example, stores

A = {"lineage": "dolma1_7-4M-default", "run": "sft_lr=1e-05_fullx1"}


def opened(**options: Any) -> xr.Dataset:
    return RunRepository(*example()).to_dataset(**options)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(stores())
def test_finals_and_gains_equal_the_reference(made: tuple[FakeTables, FakeStore, dict[str, ReferenceRun]]) -> None:
    tables, store, truth = made
    coarse = RunRepository(tables, store).to_dataset(metrics=["piqa"], grid=3)  # type: ignore[arg-type]
    ds = RunRepository(tables, store).to_dataset(metrics=["piqa"])  # type: ignore[arg-type]
    ends, loaded = final(ds, "piqa"), final(ds.dde.align("auto").load(), "piqa")
    lacks = [r for r, steps in tables.rows.items() if "piqa" not in steps[max(steps)] and len(steps) > 3]
    found, refused = None, ""
    try:
        found = final(coarse, "piqa")
    except SelectionError as error:
        refused = str(error)
    if found is None:
        # Where the last sample lacks the metric, the one before it is not a point of the coarse grid.
        assert "is unknown for" in refused
        assert lacks
    else:
        np.testing.assert_array_equal(found, ends)
        np.testing.assert_array_equal(found.final_tokens, ends.final_tokens)
    for at in np.ndindex(ds.run_id.shape):
        run_id = str(ds.run_id.values[at])
        own = {} if not run_id else {t: v for t, v in truth[run_id].own.items() if t > truth[run_id].branch}
        if not own:
            assert np.isnan(ends.values[at])
            continue
        last = max(own)
        # Whatever the grid: what a run ends at is its last observation.
        assert ends.values[at] == own[last]
        assert float(ends.final_tokens[at]) == last
        assert float(ends.final_compute[at]) == 6 * float(ds.n_params[at[0]]) * last
        assert loaded.values[at] == own[last]


def test_gains_are_over_the_base_s_last_observation() -> None:
    ds = opened(metrics=["piqa"])
    with pytest.warns(DdeWarning, match=r"1 runs \(b\) left a base that was observed last more than 5% of its tokens"):
        far = difference_to_base(ds)
    assert far.piqa.attrs["left_out"].startswith("1 runs (b)")
    c4 = {"lineage": "c4-4M-default", "run": A["run"]}
    assert np.isnan(final(far, "piqa").sel(**c4))
    change = difference_to_base(ds, max_distance=None)
    np.testing.assert_array_equal(far.piqa.sel(**A), change.piqa.sel(**A))
    np.testing.assert_allclose(final(change, "piqa").sel(**A), 0.7 - 0.6)
    dpo = final(change, "piqa").sel(lineage=A["lineage"], run="sft_lr=1e-05_fullx1+dpo_lr=1e-05_fullx1_beta=5")
    np.testing.assert_allclose(dpo, 0.75 - 0.6)  # over the base, not over the run it starts from
    # C4 was evaluated last 725 steps before it was finetuned.
    np.testing.assert_allclose(final(change, "piqa").sel(lineage="c4-4M-default", run=A["run"]), 0.65 - 0.55)
    assert float(change.base_distance.sel(**c4)) == 725 * 65_536
    assert float(change.base_distance.sel(**A)) == 0
    assert change.base_distance.sel(run="pretraining").isnull().all()
    # A quarter of its tokens at the branch is far enough away, a hundredth is not.
    assert float(difference_to_base(ds, max_distance=0.25).piqa.sel(**c4).max()) > 0
    with pytest.warns(DdeWarning, match="max_distance="):
        difference_to_base(ds, max_distance=0.01)
    base = change.piqa.sel(run="pretraining")
    np.testing.assert_array_equal(base.notnull(), ds.piqa.sel(run="pretraining").notnull())
    assert float(abs(base).max()) == 0
    assert change.piqa.attrs["long_name"].endswith("change from the base")
    with pytest.warns(DdeWarning, match="no train_loss before that"):
        assert difference_to_base(opened(metrics=["train_loss"])).train_loss.isnull().all()


def test_gains_are_of_the_cells_as_they_are() -> None:
    ds = opened(metrics=["piqa"])

    def gains(dataset: xr.Dataset, name: str = "piqa") -> xr.DataArray:
        return final(difference_to_base(dataset, max_distance=None), name)

    gain = gains(ds)
    np.testing.assert_allclose(gains(100 * ds), 100 * gain)
    np.testing.assert_allclose(gains(ds.astype(np.float32)), gain, atol=1e-6)
    np.testing.assert_array_equal(gains(ds.where(ds.learning_rate > 0))[:, 1:], gain[:, 1:])
    more = ds.assign(twice=2 * ds.piqa, base=ds.piqa.sel(run="pretraining", drop=True))
    np.testing.assert_allclose(gains(more, "twice"), 2 * gain)
    # What does not lie along runs has no base.
    xr.testing.assert_identical(difference_to_base(more, max_distance=None).base.load(), more.base.load())
    with pytest.raises(SourceError, match=r"no attribute ancillary_variables.*sampled_as"):
        difference_to_base(ds[[]].assign(lost=ds.piqa.drop_attrs()))


def test_bases_are_at_hand_whatever_was_selected() -> None:
    ds = opened(metrics=["piqa"])
    alone = ds.dde.sel(run_type=["supervised_ft"])
    bases = base_curves(alone)
    np.testing.assert_array_equal(bases.piqa.values, ds.piqa.sel(run="pretraining", lineage=alone.lineage).values)
    expected = ds.piqa.dde.support().sel(run="pretraining", lineage=alone.lineage)
    np.testing.assert_array_equal(bases.piqa.dde.support().values, expected.values)
    there = base_curves(alone.dde.align(axis="tokens_per_parameter"))
    assert there.piqa.dims == ("lineage", "tokens_per_parameter")


def test_a_reopened_dataset_answers_the_same(tmp_path: Path) -> None:
    ds = opened(metrics=["piqa"])
    expected = final(ds, "piqa")
    ds.to_zarr(tmp_path / "ds.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "ds.zarr", consolidated=False)
    np.testing.assert_array_equal(final(again, "piqa").values, expected.values)
    np.testing.assert_array_equal(final(again, "piqa").final_tokens.values, expected.final_tokens.values)
    xr.testing.assert_equal(difference_to_base(again, None).compute(), difference_to_base(ds, None).compute())
    np.testing.assert_array_equal(base_curves(again).piqa, ds.piqa.sel(run="pretraining"))


def test_places_on_any_axis_follow_from_coordinates() -> None:
    ds = opened(metrics=["piqa"])
    for name, rule in AXES.items():
        values = axis_values(ds, name)
        assert values.attrs == {"long_name": rule.label, "units": rule.units}
        # The same cells, put on a grid of that axis at exactly these places, are the same values.
        there = ds.dde.align(axis=name)
        own = axis_values(there, name)
        assert own.dims == (name,)
    post = axis_values(ds, "post_tokens").sel(**A)
    assert float(post.sel(cumulative_tokens=FINAL)) == 0
    assert np.isnan(post.sel(cumulative_tokens=0))
    share = axis_values(ds, "fraction_of_training")
    assert float(share.sel(**A, cumulative_tokens=FINAL + int(2e8))) == 1
    assert float(share.sel(lineage=A["lineage"], run="pretraining", cumulative_tokens=FINAL)) == 1
    with pytest.raises(SelectionError, match="has no coordinates branch_tokens"):
        axis_values(ds.drop_vars("branch_tokens"), "post_tokens")
    with pytest.raises(UnknownNameError, match="is not an axis"):
        axis_values(ds, "steps")


def test_one_metric_has_the_same_operations(tmp_path: Path) -> None:
    ds = opened(metrics=["piqa"])
    array = ds.piqa
    xr.testing.assert_equal(array.dde.align(5), ds.dde.align(5).piqa)
    xr.testing.assert_equal(array.dde.sweep("run_type"), ds.dde.sweep("run_type").piqa)
    xr.testing.assert_equal(array.dde.mean_over("seed").piqa_count, ds.dde.mean_over("seed").piqa_count)
    xr.testing.assert_equal(array.dde.final(), ds.dde.final("piqa"))
    xr.testing.assert_equal(array.dde.base_curves(), ds.dde.base_curves().piqa)
    with pytest.warns(DdeWarning, match="more than 5% of its tokens"):
        xr.testing.assert_equal(array.dde.difference_to_base(), ds.dde.difference_to_base().piqa)
    xr.testing.assert_equal(array.dde.revision(), ds.dde.revision())
    pd.testing.assert_frame_equal(array.dde.to_frame(), ds.dde.to_frame())
    pd.testing.assert_frame_equal(pd.read_parquet(array.dde.to_parquet(tmp_path / "a.parquet")), ds.dde.to_frame())
    assert array.rename(None).dde.align(5).name is None


def test_parquet_says_what_made_it_and_is_written_whole(tmp_path: Path) -> None:
    ds = opened(metrics=["piqa", "train_loss"])
    path = ds.dde.to_parquet(tmp_path / "curves.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(path), ds.dde.to_frame(), check_dtype=False)
    metadata = pq.read_schema(path).metadata[b"dde"].decode()
    assert '"interpolation": "linear"' in metadata
    # Where a lineage has none of a column that others have, it stays a number.
    assert str(pq.read_schema(path).field("train_loss").type) == "double"
    none = pd.read_parquet(ds.isel(lineage=[]).dde.to_parquet(tmp_path / "curves.parquet"))
    assert none.empty
    assert list(none) == list(ds.dde.to_frame())
    with pytest.raises(FileNotFoundError):
        ds.dde.to_parquet(tmp_path / "absent" / "curves.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.parquet"]


def test_finals_of_what_is_not_there() -> None:
    ds = opened(metrics=["piqa"])
    with pytest.raises(UnknownNameError, match="is not a variable of this Dataset"):
        ds.dde.final("arc_easy")
    assert final(ds, "piqa_primary_metric").name == "piqa"
    with pytest.raises(SelectionError, match="no dimension of tokens"):
        final(ds.isel(cumulative_tokens=0).load() + 0, "piqa")


def test_the_only_metric_needs_no_name() -> None:
    ds = opened(metrics=["piqa", "train_loss"])
    xr.testing.assert_equal(ds[["piqa"]].dde.final(), ds.dde.final("piqa"))
    with pytest.raises(UnknownNameError, match="has 2 metrics"):
        ds.dde.final()


def test_base_curves_are_saved_without_a_warning(tmp_path: Path) -> None:
    bases = opened(metrics=["piqa"]).dde.base_curves()
    bases.to_zarr(tmp_path / "bases.zarr", consolidated=False)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "bases.zarr", consolidated=False).load(), bases.load())
