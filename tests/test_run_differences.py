"""Differences of runs to one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dde
from dde.dataset.run_differences import difference_to_run
from dde.errors import SelectionError, UnknownNameError
from dde.plots.curves import curve_panels
from dde.tutorial import Suite
from other_suites import ladder

SFT = "sft_lr=5e-06_100Mx1"


@pytest.fixture(scope="module")
def dataset(tiny_suite: Suite) -> xr.Dataset:
    return dde.open_lineages(tiny_suite.data, tiny_suite.wandb, cache_dir=None, metrics=["arc_easy", "train_loss"])


def test_every_metric_loses_the_curve_of_the_run(dataset: xr.Dataset, tmp_path: Path) -> None:
    run_id = str(dataset.run_id.sel(lineage="dolma1_7-150M-default", run=SFT).item())
    change = difference_to_run(dataset, run_id)
    for name in ("arc_easy", "train_loss"):
        curve = dataset[name].sel(lineage="dolma1_7-150M-default", run=SFT)
        np.testing.assert_array_equal(change[name], dataset[name] - curve.values)
        assert change[name].attrs["long_name"].endswith(f", difference to {SFT}")
        assert change[name].attrs["units"] == dataset[name].attrs["units"]
    change.to_zarr(tmp_path / "change.zarr", consolidated=False)
    xr.testing.assert_allclose(xr.open_zarr(tmp_path / "change.zarr", consolidated=False).arc_easy, change.arc_easy)
    # A point is an observation where the run itself was observed.
    xr.testing.assert_equal(
        change.arc_easy.dde.support() == 1, (dataset.arc_easy.dde.support() == 1) & change.arc_easy.notnull()
    )


def test_stays_lazy(dataset: xr.Dataset) -> None:
    chunked = dataset.chunk(lineage=1)
    change = difference_to_run(chunked, "dolma1_7-150M-default")
    assert change.arc_easy.chunks is not None
    xr.testing.assert_allclose(change.compute(), difference_to_run(dataset, "dolma1_7-150M-default"))


def test_other_suites_and_axes(dataset: xr.Dataset) -> None:
    other = ladder()
    run_id = next(r for r in other.run_id.values.ravel().tolist() if r)
    metric = str(next(iter(other.data_vars)))
    change = difference_to_run(other, run_id)
    assert float(abs(change[metric].where(other.run_id == run_id)).max()) == 0.0
    # On an axis that counts from each run's own branch, runs are compared at the same distance from it.
    run_id = str(dataset.run_id.sel(lineage="dolma1_7-150M-default", run=SFT).item())
    ((panel,),) = curve_panels(dataset, "arc_easy", x="post_tokens", relative_to=run_id, facet_by=None)
    (own,) = (s for s in panel.segments if s.run_id == run_id)
    assert abs(own.values).max() == 0.0
    aligned = dataset.dde.align(axis="post_tokens").arc_easy
    curve = aligned.sel(lineage="dolma1_7-150M-default", run=SFT).values
    for s in panel.segments:
        row = aligned.sel(lineage=s.facts["lineage"], run=s.facts["run"])
        expected = (row - curve).dropna("post_tokens")
        np.testing.assert_allclose(s.values[-1], float(expected[-1]))


def test_what_is_no_run_is_an_error(dataset: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean dolma1_7-150M-default"):
        difference_to_run(dataset, "dolma1_7-150M-defaul")
    with pytest.raises(SelectionError, match="a mean is not a run"):
        difference_to_run(dataset[["arc_easy"]].dde.mean_over("seed"), "dolma1_7-150M-default")
    with pytest.raises(SelectionError, match="no dimension of tokens"):
        difference_to_run(dataset.isel(cumulative_tokens=0), "dolma1_7-150M-default")
