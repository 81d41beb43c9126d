"""xarray's own operations, and hvplot's, on what is opened: values against the plain reference, and what they read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import holoviews as hv
import hvplot
import hvplot.xarray
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from bokeh.models import Axis, ColorBar, GlyphRenderer

import dde
from dde.entities.repository import RunRepository
from dde.sources.protocols import TOKEN_COUNTERS, TRAINING_STEP
from fakes import HUB, FakeRun, FakeStore, FakeTables, sft
from reference import ReferenceRun

Float64 = npt.NDArray[np.float64]

DOLMA, AUX, C4, LARGE = "dolma1_7-4M-default", "dolma1_7-4M-small-aux-2", "c4-4M-default", "dolma1_7-150M-default"
PER_STEP = {DOLMA: 32 * 2048, AUX: 32 * 2048, C4: 32 * 2048, LARGE: 192 * 2048}
STEPS = {DOLMA: [0, 2500, 5725], AUX: [0, 1250, 5725], C4: [0, 5000], LARGE: [0, 500, 1000, 38157]}
FINAL = {DOLMA: 5725, C4: 5725, LARGE: 38157}
SLOW, FAST, DPO = "sft_lr=5e-06_fullx1", "sft_lr=5e-05_fullx1", "sft_lr=5e-06_fullx1+dpo_lr=2e-07_fullx1_beta=5"
BASE = "pretraining"
COUNTS = [10**8, 2 * 10**8]
DPO_TOKENS = 2 * 2 * 4 * 2 * 2 * 712
METRICS = ["piqa", "boolq", "train_loss"]


def _score(label: str, step: int, metric: str) -> float:
    return round(0.3 + 0.1 * (step / 5725) ** 0.5 + 0.01 * len(label) + (0.05 if metric == "boolq" else 0.0), 6)


def _stores() -> tuple[FakeTables, FakeStore]:
    tables = FakeTables(
        {
            # boolq was not evaluated at first.
            label: {s: {m: _score(label, s, m) for m in ("piqa", "boolq") if s or m == "piqa"} for s in steps}
            for label, steps in STEPS.items()
        }
    )
    hub = {DOLMA: HUB, C4: "allenai/DataDecide-c4-4M", LARGE: "allenai/DataDecide-dolma1_7-150M"}
    out = "/m/2025_08_21-15_03_00_g"
    runs: list[FakeRun] = []
    for label in (DOLMA, C4, LARGE):
        for name, rate, gain in (("slow", 5e-6, 0.01), ("fast", 5e-5, 0.03)):
            runs.append(
                sft(
                    f"{name}-{label}",
                    COUNTS,
                    [2.0 - gain, 1.0 - gain],
                    model_name_or_path=hub[label],
                    learning_rate=rate,
                    evaluations={"piqa": 0.5 + gain},
                    output_dir=f"{out}/{name}-{label}",
                )
            )
    runs.append(
        sft(
            "dpo",
            program="dpo.py",
            model_name_or_path=f"{out}/model/slow-{DOLMA}/",
            learning_rate=2e-7,
            dpo_beta=5,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            evaluations={"piqa": 0.6},
        )
    )
    runs[-1].rows.extend([(1, {"train_loss": 0.69}), (2, {"train_loss": 0.6})])
    return tables, FakeStore(runs)


def _truth(metric: str) -> dict[tuple[str, str], ReferenceRun]:
    """Return the runs that there are, by lineage and treatment, with their observations."""
    runs: dict[tuple[str, str], ReferenceRun] = {}
    for label, steps in STEPS.items():
        evaluated = {} if metric == "train_loss" else {s * PER_STEP[label]: _score(label, s, metric) for s in steps}
        if metric == "boolq":
            del evaluated[0]
        runs[label, BASE] = ReferenceRun(evaluated)
        if label == AUX:
            continue
        branch = FINAL[label] * PER_STEP[label]
        for treatment, gain in ((SLOW, 0.01), (FAST, 0.03)):
            own = {"piqa": {branch + COUNTS[-1]: 0.5 + gain}, "boolq": {}}.get(
                metric, {branch + COUNTS[0]: 2.0 - gain, branch + COUNTS[1]: 1.0 - gain}
            )
            runs[label, treatment] = ReferenceRun(own, runs[label, BASE], branch)
    branch = FINAL[DOLMA] * PER_STEP[DOLMA] + COUNTS[-1]
    own = {"piqa": {branch + DPO_TOKENS: 0.6}, "boolq": {}}.get(
        metric, {branch + DPO_TOKENS // 2: 0.69, branch + DPO_TOKENS: 0.6}
    )
    runs[DOLMA, DPO] = ReferenceRun(own, runs[DOLMA, SLOW], branch)
    return runs


LINEAGES = [DOLMA, C4, AUX, LARGE]
RUNS = [BASE, SLOW, FAST, DPO]


def _dense(metric: str, tokens: list[int], lineages: list[str], runs: list[str]) -> Float64:
    """Return the reference's values, of shape (lineage, run, token)."""
    truth = _truth(metric)
    joins = metric != "train_loss"
    out = np.full((len(lineages), len(runs), len(tokens)), np.nan)
    for i, label in enumerate(lineages):
        for j, run in enumerate(runs):
            if (label, run) in truth:
                out[i, j] = [truth[label, run].value(t, joins=joins) for t in tokens]
    return out


def _opened(chunks: Any = None, **options: Any) -> xr.Dataset:
    return dde.open_lineages(RunRepository(*_stores()), chunks=chunks, metrics=METRICS, **options)  # type: ignore[arg-type]


@pytest.fixture(params=[None, {"lineage": 1, "cumulative_tokens": 7}], ids=["lazy", "dask"])
def ds(request: pytest.FixtureRequest) -> Iterator[xr.Dataset]:
    with dask.config.set(scheduler="synchronous"):
        yield _opened(request.param)


@pytest.fixture(scope="module")
def truth() -> dict[str, Float64]:
    """The values (lineage, run, token) that the reference gives, by metric, and the tokens."""
    whole = _opened()
    tokens = whole["cumulative_tokens"].values
    lineages, runs = whole["lineage"].values.tolist(), whole["run"].values.tolist()
    assert sorted(lineages) == sorted(LINEAGES)
    assert sorted(runs) == sorted(RUNS)
    return {"tokens": tokens} | {m: _dense(m, tokens.tolist(), lineages, runs) for m in METRICS}


def _at(ds: xr.Dataset, lineage: str, run: str) -> tuple[int, int]:
    return ds["lineage"].values.tolist().index(lineage), ds["run"].values.tolist().index(run)


def _equal(found: xr.DataArray, expected: npt.ArrayLike) -> None:
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)


# --- selecting ---


def test_every_cell_is_that_of_the_reference(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    for metric in METRICS:
        _equal(ds[metric], truth[metric])
    assert np.isfinite(truth["piqa"]).any(axis=2).sum() == 4 + 3 * 2 + 1


def test_sel_by_label_and_by_one_coordinate_of_a_dimension(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    i, j = _at(ds, LARGE, SLOW)
    _equal(ds.sel(lineage=LARGE, run=SLOW).piqa, truth["piqa"][i, j])
    _equal(ds.sel(lineage=[LARGE, C4], run=SLOW).piqa, truth["piqa"][[i, _at(ds, C4, SLOW)[0]], j])
    # One lineage has that size and one run that rate: nothing but tokens is left. Of several, the dimension stays.
    one = ds.sel(params="150M", learning_rate=5e-6)
    assert one.piqa.dims == ("cumulative_tokens",)
    _equal(one.piqa, truth["piqa"][i, j])
    assert one.run_id == f"slow-{LARGE}"
    several = ds.sel(params="4M", run_type="dpo")
    assert set(several.lineage.values) == {DOLMA, AUX, C4}
    _equal(several.piqa, truth["piqa"][ds.params.values == "4M"][:, _at(ds, DOLMA, DPO)[1]])
    with pytest.raises(KeyError, match="params"):
        ds.sel(params="1B")
    # xarray takes one coordinate of a dimension; any number of them is for ds.dde.sel.
    with pytest.raises(ValueError, match="more than one index"):
        ds.sel(params="4M", data="C4")
    assert ds.dde.sel(params="4M", data="C4").lineage.values.tolist() == [C4]


def test_sel_of_tokens(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    tokens = truth["tokens"]
    for wanted in (0, 17, int(tokens[-1]) + 10**12, *(tokens[:3] + 1).tolist()):
        near = ds.sel(cumulative_tokens=wanted, method="nearest")
        k = int(np.argmin(np.abs(tokens - wanted)))
        assert near.cumulative_tokens == tokens[k]
        _equal(near.piqa, truth["piqa"][..., k])
    with pytest.raises(KeyError):
        ds.sel(cumulative_tokens=10**9 + 7, method="nearest", tolerance=1)
    low, high = tokens[2], tokens[-3]
    # Both ends belong to a slice.
    _equal(ds.sel(cumulative_tokens=slice(low, high)).piqa, truth["piqa"][..., 2 : len(tokens) - 2])
    filled = ds.sel(cumulative_tokens=[low, high])
    _equal(filled.boolq, truth["boolq"][..., [2, len(tokens) - 3]])


def test_interp_has_right_values_inside_a_run_and_none_outside(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    tokens = truth["tokens"]
    asked = np.sort(np.concatenate([(tokens[:-1] + tokens[1:]) // 2, tokens + 1, [tokens[-1] + 10**9]]))
    found = ds[["piqa", "boolq", "train_loss"]].interp(cumulative_tokens=asked)
    below = np.clip(np.searchsorted(tokens, asked, side="right") - 1, 0, len(tokens) - 2)
    # xarray knows no branches: between a parent's last loss and its child's first it draws a line that dde does not.
    branch = ds.branch_tokens.values[..., None]
    crosses = (tokens[below] <= branch) & (tokens[below + 1] > branch)
    i, j = _at(ds, DOLMA, DPO)
    drawn = asked[crosses[i, j] & np.isfinite(found.train_loss.values[i, j])]
    assert len(drawn)
    assert ds.dde.align(drawn).train_loss.isel(lineage=i, run=j).isnull().all()
    for metric in METRICS:
        values = found[metric].values
        expected = _dense(metric, asked.tolist(), ds.lineage.values.tolist(), ds.run.values.tolist())
        has = np.isfinite(values)
        # Evaluations lie on the grid, so that a line between its points is the line between observations.
        agrees = has & ~crosses if metric == "train_loss" else has
        np.testing.assert_allclose(values[agrees], expected[agrees], rtol=1e-9)
        # What xarray leaves empty is outside the run, or borders on a point of the grid where the run has no value.
        beside = truth[metric][..., below], truth[metric][..., below + 1]
        inside = asked <= tokens[-1]
        np.testing.assert_array_equal(has, np.isfinite(beside[0]) & np.isfinite(beside[1]) & inside)
        assert has.any()
        assert not has[..., -1].any()


def test_interp_at_a_point_of_the_grid_needs_the_point_before_it(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    # At a run's first observation xarray still looks at the cell before, which is NaN; .sel and .dde.align do not.
    i, j = _at(ds, DOLMA, SLOW)
    first = truth["tokens"][np.flatnonzero(np.isfinite(truth["train_loss"][i, j]))[0]]
    assert np.isnan(ds.train_loss.interp(cumulative_tokens=[first]).values[i, j, 0])
    assert ds.train_loss.sel(cumulative_tokens=first).values[i, j] == 1.99
    assert ds.dde.align([first]).train_loss.values[i, j, 0] == 1.99


# --- grouping and reducing ---


def _mean(values: Float64, axis: int) -> Float64:
    count = np.isfinite(values).sum(axis)
    return np.divide(np.nansum(values, axis), count, out=np.full(count.shape, np.nan), where=count > 0)


def test_groupby_of_lineages(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    recipes = ds.data.values
    grouped = ds.groupby("data").mean()
    assert grouped.data.values.tolist() == ["C4", "Dolma1.7"]
    for k, recipe in enumerate(grouped.data.values):
        _equal(grouped.piqa.transpose("data", ...)[k], _mean(truth["piqa"][recipes == recipe], 0))
    assert grouped.learning_rate.dims == ("run",)
    both = ds.piqa.groupby(["params", "data"]).mean()
    cell = both.sel(params="4M", data="Dolma1.7").transpose("run", "cumulative_tokens")
    _equal(cell, _mean(truth["piqa"][(recipes == "Dolma1.7") & (ds.params.values == "4M")], 0))
    assert both.sel(params="150M", data="C4").isnull().all()
    sizes = {str(name): part.sizes["lineage"] for name, part in ds.groupby("data")}
    assert sizes == {"C4": 1, "Dolma1.7": 3}


def test_groupby_of_runs_keeps_the_empty_text_and_drops_nan(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    rates = ds.learning_rate.values
    by_rate = ds.piqa.groupby("learning_rate").max().transpose("lineage", "learning_rate", "cumulative_tokens")
    # The base has no learning rate, so xarray's groupby leaves it out.
    assert by_rate.learning_rate.values.tolist() == [2e-7, 5e-6, 5e-5]
    assert np.isnan(rates).sum() == 1
    for k, rate in enumerate(by_rate.learning_rate.values):
        _equal(by_rate[:, k], truth["piqa"][:, rates == rate].squeeze(1))
    by_method = ds.piqa.groupby("posttraining_method").mean().transpose("lineage", "posttraining_method", ...)
    assert by_method.posttraining_method.values.tolist() == ["", "dpo", "supervised_ft"]
    methods = ds.posttraining_method.values
    for k, method in enumerate(by_method.posttraining_method.values):
        _equal(by_method[:, k], _mean(truth["piqa"][:, methods == method], 1))
    # Along both dimensions: cells without a run are the group "".
    states = ds.piqa.groupby("state").count()
    assert states.state.values.tolist() == ["", "finished"]
    assert not states.sel(state="").any()
    np.testing.assert_array_equal(states.sel(state="finished"), np.isfinite(truth["piqa"]).sum((0, 1)))


def test_weighted_coarsen_idxmax_and_rolling(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    piqa, tokens = truth["piqa"], truth["tokens"]
    weights = ds.n_params.values.astype(float)[:, None, None] * np.isfinite(piqa)
    total = weights.sum(0)
    expected = np.divide(np.nansum(piqa * weights, 0), total, out=np.full(total.shape, np.nan), where=total > 0)
    _equal(ds.piqa.weighted(ds.n_params).mean("lineage"), expected)
    n = len(tokens) // 3 * 3
    coarse = ds.coarsen(cumulative_tokens=3, boundary="trim").mean()
    _equal(coarse.cumulative_tokens, tokens[:n].reshape(-1, 3).mean(1))
    _equal(coarse.piqa, _mean(piqa[..., :n].reshape(*piqa.shape[:2], -1, 3), 3))
    best = ds.piqa.idxmax("run")
    # Within a block of tokens a run may have no value, of which dask would warn: one block for all of them.
    last = (ds.piqa.chunk(cumulative_tokens=-1) if ds.piqa.chunks else ds.piqa).idxmax("cumulative_tokens")
    for i, lineage in enumerate(ds.lineage.values):
        for k in range(len(tokens)):
            has = np.isfinite(piqa[i, :, k]).any()
            assert (
                best.values[i, k] == ds.run.values[np.nanargmax(piqa[i, :, k])] if has else pd.isna(best.values[i, k])
            )
        assert last.sel(lineage=lineage, run=BASE) == tokens[np.nanargmax(piqa[i, 0])]
    rolled = ds.piqa.rolling(cumulative_tokens=2).mean()
    _equal(rolled[..., 1:], (piqa[..., 1:] + piqa[..., :-1]) / 2)


def test_polyfit_over_tokens(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    billions = ds.assign_coords(billions=ds.cumulative_tokens / 1e9).swap_dims(cumulative_tokens="billions")
    fits = billions.piqa.polyfit("billions", 1).polyfit_coefficients.transpose("lineage", "run", "degree")
    x = truth["tokens"] / 1e9
    for i, j in np.ndindex(*truth["piqa"].shape[:2]):
        y = truth["piqa"][i, j]
        has = np.isfinite(y)
        if has.sum() > 2:
            np.testing.assert_allclose(fits.values[i, j], np.polyfit(x[has], y[has], 1), rtol=1e-6)
        else:
            assert not has.any()
            assert np.isnan(fits.values[i, j]).all()


# --- masking, arithmetic, blocks ---


def test_where_and_arithmetic(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    small = ds.where(ds.params == "4M", drop=True)
    assert set(small.lineage.values) == {DOLMA, AUX, C4}
    _equal(small.piqa, truth["piqa"][ds.params.values == "4M"])
    assert small.run_id.dtype == object
    own = ds.piqa.where(ds.cumulative_tokens > ds.branch_tokens)
    i, j = _at(ds, LARGE, FAST)
    branch = FINAL[LARGE] * PER_STEP[LARGE]
    _equal(own[i, j], np.where(truth["tokens"] > branch, truth["piqa"][i, j], np.nan))
    assert own.sel(run=BASE).isnull().all()
    difference = ds.boolq - ds.piqa
    _equal(difference, truth["boolq"] - truth["piqa"])
    gain = ds.piqa - ds.piqa.sel(run=BASE, drop=True)
    _equal(gain, truth["piqa"] - truth["piqa"][:, :1])
    # Arithmetic keeps the lineages that both sides have.
    assert (ds.piqa.sel(lineage=[DOLMA, C4]) - ds.piqa.sel(lineage=[C4, LARGE])).lineage.values.tolist() == [C4]


def test_map_blocks_apply_ufunc_and_chunks(truth: dict[str, Float64]) -> None:
    with dask.config.set(scheduler="synchronous"):
        chunked = _opened({"lineage": 1})
        assert chunked.piqa.chunks == ((1,) * 4, (4,), (len(truth["tokens"]),))
        assert chunked.run_id.chunks is None
        doubled = chunked.map_blocks(lambda block: block * 2)
        _equal(doubled.piqa.transpose("lineage", "run", "cumulative_tokens"), truth["piqa"] * 2)
        best = chunked.piqa.map_blocks(
            lambda block: block.max("cumulative_tokens"), template=chunked.piqa.max("cumulative_tokens")
        )
        with np.errstate(all="ignore"):
            _equal(best, np.nanmax(np.where(np.isfinite(truth["piqa"]), truth["piqa"], -np.inf), 2) + _no_run(truth))
        roots = xr.apply_ufunc(np.sqrt, chunked.piqa, dask="parallelized", output_dtypes=[float])
        _equal(roots, np.sqrt(truth["piqa"]))


def _no_run(truth: dict[str, Float64]) -> Float64:
    """Return 0 where a run has values, NaN where it has none."""
    return np.where(np.isfinite(truth["piqa"]).any(2), 0.0, np.nan)


# --- joining ---


def test_concat_of_parts_on_one_grid_gives_the_whole(ds: xr.Dataset) -> None:
    whole = ds.compute()
    for dim, cut in (("lineage", 2), ("run", 1), ("cumulative_tokens", 5)):
        joined = xr.concat([ds.isel({dim: slice(cut)}), ds.isel({dim: slice(cut, None)})], dim, data_vars="minimal")
        xr.testing.assert_identical(joined.compute(), whole)
        assert all(joined[n].dtype == whole[n].dtype and joined[n].dims == whole[n].dims for n in whole.variables)


def test_merge_of_metrics_and_of_lineages(ds: xr.Dataset) -> None:
    whole = ds.compute()
    xr.testing.assert_identical(xr.merge([ds[["piqa"]], ds[["boolq", "train_loss"]]]).compute(), whole)
    parts = [ds.isel(lineage=[3, 0]), ds.isel(lineage=[1, 2])]
    # The grids are the same and lineages differ, so an outer join has nothing to fill in.
    merged = xr.merge(parts, join="outer", compat="no_conflicts").compute()
    assert set(merged.lineage.values) == set(LINEAGES)
    again = merged.sel(lineage=whole.lineage)
    for name in whole.variables:
        np.testing.assert_array_equal(again[name].values, whole[name].values)
        if whole[name].dtype == object:
            assert merged[name].dtype == object
    # It does pass through NaN: whole numbers along the lineages come back as floats. dde.concat keeps them.
    assert merged.seed.dtype == np.float64
    kept = dde.concat(parts)
    assert kept.seed.dtype == np.int64


def test_what_was_opened_apart_joins_with_its_labels(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    chunks = {"lineage": 1} if ds.piqa.chunks else None
    small, large = _opened(chunks, params="4M"), _opened(chunks, params="150M")
    # xarray refuses to guess: the parts have other runs and other grids.
    with pytest.raises(ValueError, match="join='exact'"):
        xr.concat([small, large], "lineage", join="exact", data_vars="minimal")
    joined = dde.concat([large, small]).compute()
    assert joined.lineage.values.tolist() == ds.lineage.values.tolist()
    assert set(joined.run.values) == set(RUNS)
    assert set(joined.cumulative_tokens.values) <= {*small.cumulative_tokens.values, *large.cumulative_tokens.values}
    for metric in METRICS:
        tokens, lineages = joined.cumulative_tokens.values.tolist(), joined.lineage.values.tolist()
        _equal(joined[metric], _dense(metric, tokens, lineages, joined.run.values.tolist()))
    for name in ("run_id", "params", "state", "parent_run_id", "posttraining_method"):
        assert joined[name].dtype == object
        assert all(isinstance(v, str) for v in joined[name].values.ravel())
        xr.testing.assert_equal(joined[name], ds[name].sel({d: joined[d] for d in ds[name].dims}))
    np.testing.assert_array_equal(joined.learning_rate, ds.learning_rate.sel(run=joined.run))


def test_align_goes_back_to_the_observations(ds: xr.Dataset) -> None:
    between = [10**8, FINAL[DOLMA] * PER_STEP[DOLMA] + COUNTS[-1] + DPO_TOKENS // 4, 10**10]
    lineages, runs = ds.lineage.values.tolist(), ds.run.values.tolist()
    aligned = ds.dde.align(between)
    for metric in METRICS:
        _equal(aligned[metric], _dense(metric, between, lineages, runs))
    logs = ds.dde.align(between, "log")
    i, j = _at(ds, LARGE, BASE)
    _equal(logs.piqa[i, j], [_truth("piqa")[LARGE, BASE].value(t, "log") for t in between])


# --- to frames and files ---


def test_to_dataframe(ds: xr.Dataset, truth: dict[str, Float64]) -> None:
    frame = ds.to_dataframe()
    assert frame.index.names == ["lineage", "run", "cumulative_tokens"]
    np.testing.assert_allclose(frame["piqa"], truth["piqa"].ravel(), rtol=1e-12)
    rows = frame.loc[(LARGE, FAST)]
    assert set(rows["run_id"]) == {f"fast-{LARGE}"}
    assert set(rows["learning_rate"]) == {5e-5}
    assert (rows["cumulative_compute"] == 6.0 * 151_898_880 * rows.index.to_numpy()).all()
    observed = ds.piqa.to_series().dropna()
    assert len(observed) == np.isfinite(truth["piqa"]).sum()


def test_a_result_goes_to_zarr_and_back(ds: xr.Dataset, tmp_path: Path) -> None:
    part = ds.where(ds.params == "4M", drop=True).sel(cumulative_tokens=slice(0, 5 * 10**8))
    result = part.assign(gain=part.piqa - part.piqa.sel(run=BASE, drop=True))
    result.to_zarr(tmp_path / "result.zarr", consolidated=False)
    saved = xr.open_zarr(tmp_path / "result.zarr", consolidated=False)
    xr.testing.assert_equal(saved.compute(), result.compute())
    assert saved.piqa.attrs == ds.piqa.attrs
    assert set(saved.sel(learning_rate=5e-6, params="4M").run_id.values) == {f"slow-{DOLMA}", f"slow-{C4}", ""}


# --- what is read ---


def _counted(chunks: Any) -> tuple[FakeTables, FakeStore, xr.Dataset]:
    tables, store = _stores()
    opened = dde.open_lineages(RunRepository(tables, store), chunks=chunks, metrics=METRICS)  # type: ignore[arg-type]
    return tables, store, opened


@pytest.mark.parametrize("chunks", [None, {"lineage": 1}])
def test_choosing_and_showing_read_nothing(chunks: Any) -> None:
    tables, store, ds = _counted(chunks)
    part = ds.sel(params="4M").isel(cumulative_tokens=slice(3, 9)).sel(run=[SLOW, FAST])
    shown = repr(ds) + ds._repr_html_() + repr(part.piqa) + part._repr_html_()
    assert "piqa" in shown
    turned = part.transpose("run", ...).rename(piqa="score").drop_vars("boolq").assign_attrs(note="x")
    near = ds.sel(cumulative_tokens=10**8, method="nearest").sortby("learning_rate")
    _ = turned.chunk({"run": 1}), near.nbytes, near.swap_dims(run="learning_rate")
    # xarray fills coordinates that both have from each other, by reading them, unless it is told which to take.
    xr.merge([ds[["piqa"]], ds.boolq], compat="override")
    assert tables.calls == []
    assert store.evaluation_calls == []
    assert {key for _, keys in store.history_calls for key in keys} <= {*TOKEN_COUNTERS, TRAINING_STEP}


@pytest.mark.parametrize("chunks", [None, {"lineage": 1}])
def test_loading_a_selection_reads_its_runs_alone(chunks: Any) -> None:
    tables, store, ds = _counted(chunks)
    with dask.config.set(scheduler="synchronous"):
        # Loading an array alone: with a Dataset xarray loads its coordinates, which say where logs have samples.
        _ = ds.sel(lineage=C4, run=[BASE, FAST]).piqa.values
        assert {label for labels, _ in tables.calls for label in labels} == {C4}
        assert {m for _, metrics in tables.calls for m in metrics} == {"piqa"}
        asked = {r for run_ids, _ in store.evaluation_calls for r in run_ids}
        # A list of labels is taken from whole blocks; a block is a lineage here.
        assert asked == ({f"fast-{C4}"} if chunks is None else {f"fast-{C4}", f"slow-{C4}"})
        assert {key for _, keys in store.history_calls for key in keys} <= {*TOKEN_COUNTERS, TRAINING_STEP}
        # Labels and slices are passed on into the blocks.
        ds.train_loss.sel(lineage=LARGE, run=SLOW).load()
        assert [run_ids for run_ids, keys in store.history_calls if "train_loss" in keys] == [(f"slow-{LARGE}",)]
    assert not any(DOLMA in labels or AUX in labels for labels, _ in tables.calls)


# --- hvplot ---

PIQA, LOSS = "PIQA, primary metric (1)", "training loss (nats)"
TOKENS, COMPUTE = "tokens since the start of pretraining (tokens)", "training compute, 6 N tokens (FLOP)"


def _picture(element: Any, backend: str) -> tuple[Any, list[str]]:
    """Return the drawn figure, and the labels of its axes, sorted."""
    figure = hv.renderer(backend).get_plot(element).state
    if backend == "bokeh":
        labels = [a.axis_label for a in figure.select(Axis)] + [b.title for b in figure.select(ColorBar) if b.title]
    else:
        figure.canvas.draw()
        labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
    return figure, sorted(str(label) for label in labels if label)


@pytest.fixture(params=["bokeh", "matplotlib"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    hvplot.extension("bokeh", "matplotlib")
    hvplot.output(backend=request.param)
    yield request.param
    hvplot.output(backend="bokeh")


def test_hvplot_draws_curves_with_labels_from_attributes(backend: str) -> None:
    ds = _opened()
    by_lineage = ds.hvplot.line(x="cumulative_tokens", y="piqa", by="run", groupby="lineage")
    assert _picture(by_lineage, backend)[1] == sorted([PIQA, TOKENS])
    assert by_lineage.kdims[0].values == ds.lineage.values.tolist()
    curves = by_lineage[LARGE]
    figure, _ = _picture(curves, backend)
    drawn = {key: curve.dimension_values("piqa") for (key,), curve in curves.data.items()}
    assert set(drawn) == set(RUNS)
    for run, values in drawn.items():
        np.testing.assert_array_equal(values, ds.piqa.sel(lineage=LARGE, run=run).values)
    if backend == "bokeh":
        assert len(figure.select(GlyphRenderer)) == len(RUNS)
    of_array = ds.piqa.hvplot(x="cumulative_tokens", by="run", groupby="lineage")
    assert _picture(of_array, backend)[1] == sorted([PIQA, TOKENS])
    one = ds.sel(lineage=DOLMA)
    for y, x, labels in (
        ("train_loss", "cumulative_tokens", [LOSS, TOKENS]),
        ("piqa", "cumulative_compute", [PIQA, COMPUTE]),
    ):
        assert _picture(one.hvplot.line(x=x, y=y, by="run"), backend)[1] == sorted(labels)
    scatter = one.hvplot.scatter(x="cumulative_tokens", y="piqa", by="learning_rate")
    assert _picture(scatter, backend)[1] == sorted([PIQA, TOKENS])


def test_hvplot_draws_heat_maps_whose_labels_are_those_of_the_cells(backend: str) -> None:
    # HoloViews' Matplotlib backend turns labels, and not cells, of an axis of text that is not in order; hence sortby.
    ds = _opened().sortby("lineage")
    ends = ds[["piqa"]].max("cumulative_tokens")
    element = ends.hvplot.heatmap(x="run", y="lineage", C="piqa")
    figure, labels = _picture(element, backend)
    assert labels == sorted(["treatment", "lineage", PIQA])
    if backend == "matplotlib":
        axes = figure.axes[0]
        assert [t.get_text() for t in axes.get_yticklabels()] == ends.lineage.values.tolist()
        assert [t.get_text() for t in axes.get_xticklabels()] == ends.run.values.tolist()
        np.testing.assert_array_equal(np.ma.filled(axes.collections[0].get_array(), np.nan), ends.piqa.values)
    else:
        cells = figure.select(GlyphRenderer)[0].data_source.data
        for run, lineage, value in zip(cells["run"], cells["lineage"], cells["zvalues"], strict=True):
            np.testing.assert_array_equal(value, ends.piqa.sel(run=run, lineage=lineage).values)
