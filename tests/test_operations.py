"""What ``ds.dde`` answers after xarray's own operations, against raw files: right, or an error that says why."""

from __future__ import annotations

import ast
import concurrent.futures
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dde
from dde.errors import DdeError
from dde.tutorial import Suite, make_suite

METRIC, OTHER = "arc_easy", "piqa"
PER_STEP = {"4M": 32 * 2048, "150M": 192 * 2048}


@dataclass(frozen=True)
class Truth:
    """Samples of one run as raw files hold them: its own, and those of its ancestors up to where it branches off."""

    own: dict[int, float]
    before: dict[int, float]
    base: dict[int, float]


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="module")
def whole(suite: Suite) -> xr.Dataset:
    return opened(suite)


def opened(suite: Suite, metrics: tuple[str, ...] = (METRIC, OTHER), **options: Any) -> xr.Dataset:
    return dde.open_lineages(suite.data, suite.wandb, metrics=metrics, cache_dir=None, **options)


def read_truth(suite: Suite, ds: xr.Dataset, metric: str) -> dict[str, Truth]:
    """Read the samples of all runs of a Dataset from the files, by run id, without any of dde's reading."""
    tables = pd.concat(
        pd.read_parquet(f) for f in sorted(Path(suite.data).rglob("train-*.parquet")) if "eval" in str(f)
    )
    tables = tables[tables["task"] == metric].drop_duplicates(["params", "data", "seed", "step"])
    store = pd.read_parquet(Path(suite.wandb) / "runs_metadata.parquet").set_index("run_id")
    ends = suite.runs.set_index("run_id")
    found: dict[str, Truth] = {}
    for label in ds.lineage.values:
        facts = ds.sel(lineage=label)
        mine = (tables["params"] == facts.params.item()) & (tables["data"] == facts.data.item())
        rows = tables[mine & (tables["seed"] == facts.seed_name.item())]
        base = {
            int(step) * PER_STEP[facts.params.item()]: ast.literal_eval(text)["primary_metric"]
            for step, text in zip(rows["step"], rows["metrics"], strict=True)
        }
        found[str(label)] = Truth(base, {}, {})
        ids = [r for r in facts.run_id.values if r not in ("", label)]
        for run_id in sorted(ids, key=lambda r: ends.loc[r, "parent_run_id"] in ids):
            summary = json.loads(store.loc[run_id, "summary"])
            score = summary.get(f"oe_eval_metrics/{metric}")
            score = json.loads(score) if isinstance(score, str) else score
            # Where nothing was logged, the end is an estimate, in the truth as well.
            is_estimate = ends.loc[run_id, "token_source"] == "estimated"
            mine = facts.sel(run=facts.run[facts.run_id == run_id].item())
            end = int(mine.end_tokens) if is_estimate else int(ends.loc[run_id, "end_tokens"])
            parent, branch = found[ends.loc[run_id, "parent_run_id"]], ends.loc[run_id, "branch_tokens"]
            before = {t: v for t, v in {**parent.before, **parent.own}.items() if t <= branch}
            own = {end: score["primary_score"]} if score else {}
            found[run_id] = Truth(own, before, parent.base or {t: v for t, v in base.items() if t <= branch})
    return found


def last(samples: dict[int, float]) -> float:
    return samples[max(samples)] if samples else np.nan


@dataclass(frozen=True)
class Operation:
    """An operation and the answers that are known after it: of support, last value and gain, R right or E an error.

    `values` is what it does to a value, `keeps` which lineages and runs have values left.
    """

    apply: Callable[[xr.Dataset, Path], xr.DataArray]
    answers: str = "RRR"
    values: Callable[[Any], Any] = lambda v: v
    keeps: Callable[[str, str], bool] = lambda lineage, run_id: True
    tolerance: float = 1e-12


def _saved(ds: xr.Dataset, path: Path, engine: str) -> xr.Dataset:
    if engine == "zarr":
        ds.to_zarr(path / "a.zarr", consolidated=False)
        return xr.open_zarr(path / "a.zarr", consolidated=False)
    ds.to_netcdf(path / "a.nc", engine="h5netcdf")
    return xr.open_dataset(path / "a.nc", engine="h5netcdf")


def _first(ds: xr.Dataset) -> str:
    return str(ds.lineage.values[0])


def _concat(parts: list[xr.Dataset], dim: str, **options: Any) -> xr.DataArray:
    with xr.set_options(use_new_combine_kwarg_defaults=False):
        return xr.concat(parts, dim, join="outer", coords="different", compat="equals", **options)[METRIC]


def _head(d: xr.Dataset) -> xr.DataArray:
    return d[METRIC].isel(cumulative_tokens=slice(0, d.sizes["cumulative_tokens"] // 3))


def _tail(d: xr.Dataset) -> xr.DataArray:
    return d[METRIC].isel(cumulative_tokens=slice(d.sizes["cumulative_tokens"] // 2, None))


def _more_points(d: xr.Dataset) -> np.ndarray[Any, Any]:
    tokens = d.cumulative_tokens.values
    return np.union1d(tokens, (tokens[1:] + tokens[:-1]) // 2)


_IS_4M = lambda lineage, run_id: "4M" in lineage  # noqa: E731
_BASES = lambda lineage, run_id: lineage == run_id  # noqa: E731

OPERATIONS: dict[str, Operation] = {
    "untouched": Operation(lambda d, p: d[METRIC]),
    "load": Operation(lambda d, p: d.load()[METRIC]),
    "array alone loaded": Operation(lambda d, p: d[METRIC].load()),
    "compute": Operation(lambda d, p: d.compute()[METRIC]),
    "copy deep": Operation(lambda d, p: d[METRIC].copy(deep=True)),
    "values put back": Operation(lambda d, p: d[METRIC].copy(data=d[METRIC].values)),
    "a * 1.0": Operation(lambda d, p: d[METRIC] * 1.0),
    "a * 100": Operation(lambda d, p: d[METRIC] * 100, values=lambda v: v * 100),
    "1 - a": Operation(lambda d, p: 1 - d[METRIC], values=lambda v: 1 - v),
    "-a": Operation(lambda d, p: -d[METRIC], values=lambda v: -v),
    "np.log(a)": Operation(lambda d, p: np.log(d[METRIC]), values=np.log),
    "a / (1 - a)": Operation(lambda d, p: d[METRIC] / (1 - d[METRIC]), values=lambda v: v / (1 - v)),
    "ds * 100": Operation(lambda d, p: (d * 100)[METRIC], values=lambda v: v * 100),
    "ds.map": Operation(lambda d, p: d.map(np.sqrt)[METRIC], values=np.sqrt),
    "assign": Operation(lambda d, p: d.assign(x=d[METRIC] * 2).x, values=lambda v: v * 2),
    "rename": Operation(lambda d, p: d.rename({METRIC: "accuracy"}).accuracy),
    "rename to another metric": Operation(lambda d, p: d[[METRIC]].rename({METRIC: OTHER})[OTHER]),
    "loaded rename": Operation(lambda d, p: d.load().rename({METRIC: "accuracy"}).accuracy),
    "rename(None)": Operation(lambda d, p: d[METRIC].rename(None)),
    "astype f32": Operation(lambda d, p: d[METRIC].astype(np.float32), values=np.float32, tolerance=1e-6),
    "round": Operation(lambda d, p: d[METRIC].round(2), values=lambda v: np.round(v, 2)),
    "clip": Operation(lambda d, p: d[METRIC].clip(0.3, 0.4), values=lambda v: np.clip(v, 0.3, 0.4)),
    "drop attrs": Operation(lambda d, p: d[METRIC].drop_attrs(), "ERE"),
    "keep_attrs=False": Operation(lambda d, p: _without_attrs(d), "ERE"),
    "sampled_as": Operation(lambda d, p: d[METRIC].drop_attrs(deep=False).dde.sampled_as("evaluations")),
    "apply_ufunc": Operation(
        lambda d, p: xr.apply_ufunc(lambda v: v * 2, d[METRIC], keep_attrs=True), values=lambda v: v * 2
    ),
    "to_dataarray": Operation(lambda d, p: d.to_dataarray("task").sel(task=METRIC), "ERE"),
    "where(lineage)": Operation(lambda d, p: d[METRIC].where(d.params == "4M"), keeps=_IS_4M),
    "where drop": Operation(lambda d, p: d[METRIC].where(d.params == "4M", drop=True), keeps=_IS_4M),
    "where(value)": Operation(lambda d, p: d[METRIC].where(d[METRIC] > 0)),
    "xr.where": Operation(lambda d, p: xr.where(d[METRIC] > 2, 0.0, d[METRIC], keep_attrs=True), "ERE"),
    "fillna": Operation(lambda d, p: d[METRIC].fillna(d[METRIC])),
    "isel run": Operation(lambda d, p: d[METRIC].isel(run=[0, 1])),
    "isel run, reversed": Operation(lambda d, p: d[METRIC].isel(run=slice(None, None, -1))),
    "sel one run": Operation(lambda d, p: d[METRIC].sel(run=d.run.values[1])),
    "sel bases": Operation(lambda d, p: d[METRIC].sel(run=["pretraining"])),
    "sel derived": Operation(lambda d, p: d[METRIC].isel(run=slice(1, None))),
    "isel lineage": Operation(lambda d, p: d[METRIC].isel(lineage=0)),
    "isel both": Operation(lambda d, p: d[METRIC].isel(lineage=0, run=1)),
    "sel by coordinate": Operation(lambda d, p: d.sel(seed_name="default")[METRIC]),
    "drop_sel": Operation(lambda d, p: d.drop_sel(lineage=_first(d))[METRIC]),
    "tokens head": Operation(lambda d, p: _head(d), "REE"),
    "tokens tail": Operation(lambda d, p: _tail(d), "R?E"),
    "tokens thinned": Operation(lambda d, p: d[METRIC].isel(cumulative_tokens=slice(None, None, 3)), "REE"),
    "one point": Operation(lambda d, p: d[METRIC].isel(cumulative_tokens=2), "REE"),
    "no points": Operation(lambda d, p: d[METRIC].isel(cumulative_tokens=[]), "REE"),
    "reversed axis": Operation(lambda d, p: d[METRIC].isel(cumulative_tokens=slice(None, None, -1))),
    "sortby descending": Operation(lambda d, p: d.sortby("cumulative_tokens", ascending=False)[METRIC]),
    "sortby a value": Operation(lambda d, p: d.sortby("n_params", ascending=False)[METRIC]),
    "transpose": Operation(lambda d, p: d[METRIC].transpose("cumulative_tokens", "run", "lineage")),
    "reindex runs": Operation(lambda d, p: d.reindex(run=[*d.run.values, "none"])[METRIC]),
    "reindex tokens": Operation(lambda d, p: d.reindex(cumulative_tokens=_more_points(d))[METRIC]),
    "reindex nearest": Operation(
        lambda d, p: d.reindex(cumulative_tokens=_more_points(d), method="nearest")[METRIC], "EEE"
    ),
    "reindex ffill": Operation(
        lambda d, p: d.reindex(cumulative_tokens=_more_points(d), method="ffill")[METRIC], "EEE"
    ),
    "interp": Operation(lambda d, p: d.interp(cumulative_tokens=_more_points(d))[METRIC], "EEE"),
    "axis / 1e9": Operation(lambda d, p: d.assign_coords(cumulative_tokens=d.cumulative_tokens / 1e9)[METRIC], "EEE"),
    "axis + 1": Operation(lambda d, p: d.assign_coords(cumulative_tokens=d.cumulative_tokens + 1)[METRIC], "EEE"),
    "axis * 2": Operation(lambda d, p: d.assign_coords(cumulative_tokens=d.cumulative_tokens * 2)[METRIC], "EEE"),
    "axis as float": Operation(lambda d, p: d.assign_coords(cumulative_tokens=d.cumulative_tokens * 1.0)[METRIC]),
    "stack, unstack": Operation(
        lambda d, p: d[[METRIC]].load().stack(cell=("lineage", "run")).unstack("cell")[METRIC].transpose("lineage", ...)
    ),
    "expand_dims": Operation(lambda d, p: d[METRIC].expand_dims(part=[0])),
    "squeeze": Operation(lambda d, p: d[METRIC].isel(lineage=[0]).squeeze("lineage")),
    "broadcast_like": Operation(lambda d, p: d[METRIC].isel(run=1).broadcast_like(d[METRIC].isel(run=1))),
    "chunk": Operation(lambda d, p: d.chunk({"lineage": 1})[METRIC]),
    "chunk * 1": Operation(lambda d, p: d.chunk({"run": 2})[METRIC] * 1),
    "chunk, compute": Operation(lambda d, p: d.chunk({"cumulative_tokens": 5}).compute()[METRIC]),
    "pickle": Operation(lambda d, p: pickle.loads(pickle.dumps(d))[METRIC]),
    "pickle loaded": Operation(lambda d, p: pickle.loads(pickle.dumps(d.load()))[METRIC]),
    "zarr": Operation(lambda d, p: _saved(d, p, "zarr")[METRIC]),
    "zarr * 100": Operation(lambda d, p: (_saved(d, p, "zarr") * 100)[METRIC], values=lambda v: v * 100),
    "netcdf": Operation(lambda d, p: _saved(d, p, "netcdf")[METRIC]),
    "concat of lineages": Operation(
        lambda d, p: _concat([d.isel(lineage=[i]) for i in range(d.sizes["lineage"])], "lineage")
    ),
    "concat of runs": Operation(lambda d, p: _concat([d.isel(run=[i]) for i in range(d.sizes["run"])], "run")),
    "concat along tokens": Operation(
        lambda d, p: _concat(
            [d.isel(cumulative_tokens=slice(None, 9)), d.isel(cumulative_tokens=slice(9, None))], "cumulative_tokens"
        )
    ),
    "merge of variables": Operation(lambda d, p: xr.merge([d[[METRIC]], d[[OTHER]]], compat="no_conflicts")[METRIC]),
    "dde.concat": Operation(lambda d, p: dde.concat([d.isel(lineage=[0]), d.isel(lineage=slice(1, None))])[METRIC]),
    "groupby first": Operation(lambda d, p: d[METRIC].groupby("params").first(), "EEE"),
    "no coordinates": Operation(lambda d, p: d[METRIC].reset_coords(drop=True), "EEE"),
    "no flags": Operation(lambda d, p: d[METRIC].drop_vars("sampled_evaluations"), "EEE"),
    "no last": Operation(lambda d, p: d[METRIC].drop_vars("sampled_evaluations_last"), "REE"),
    "no base": Operation(lambda d, p: d[METRIC].drop_vars("sampled_evaluations_base"), "RRE"),
    "no origin": Operation(lambda d, p: d[METRIC].drop_vars("origin_tokens"), "RRE"),
    "no branch": Operation(lambda d, p: d[METRIC].drop_vars("branch_tokens"), "REE"),
    "no check": Operation(lambda d, p: d[METRIC].drop_vars("position_check"), "EEE"),
    "mean over runs": Operation(lambda d, p: d[METRIC].mean("run"), "EEE"),
    "mean over lineages": Operation(lambda d, p: d[METRIC].mean("lineage"), "EEE"),
    "max over tokens": Operation(lambda d, p: d[METRIC].max("cumulative_tokens"), "EEE"),
    "difference of two rows": Operation(lambda d, p: d[METRIC].isel(run=1) - d[METRIC].isel(run=0), "EEE"),
    "coarsen": Operation(
        lambda d, p: d[METRIC].coarsen(cumulative_tokens=2, boundary="trim").mean(), "EEE"
    ),
    "dde.sel": Operation(lambda d, p: d.dde.sel(params="4M")[METRIC]),
    "dde.sel of cells": Operation(
        lambda d, p: d.dde.sel(end_tokens=slice(1e9, 1e12))[METRIC],
        keeps=lambda lineage, run_id: True,
    ),
    "dde.align": Operation(lambda d, p: d.dde.align("auto")[METRIC]),
    "dde.align on few points": Operation(lambda d, p: d.dde.align(5)[METRIC]),
    "dde.sweep": Operation(lambda d, p: d.dde.sweep("run_type", "learning_rate", "finetune_tokens", "epochs")[METRIC]),
    "dde.derive": Operation(
        lambda d, p: d.dde.derive(x=lambda seen: seen[METRIC] ** 2).x, values=lambda v: v**2
    ),
}  # fmt: skip


def _without_attrs(d: xr.Dataset) -> xr.DataArray:
    with xr.set_options(keep_attrs=False):
        return d[METRIC] * 1


def _answers(array: xr.DataArray) -> dict[str, Callable[[], xr.DataArray]]:
    return {
        "support": lambda: array.dde.support(),
        "last": lambda: array.dde.final(),
        "gain": lambda: array.dde.difference_to_base(None).dde.final(),
    }


def check_support(answer: xr.DataArray, array: xr.DataArray, truth: dict[str, Truth], operation: Operation) -> None:
    """Every cell that is a sample of the files and has a value is observed, and no other."""
    shape = [answer.sizes[d] for d in answer.dims]
    codes, values = answer.values, array.transpose(*answer.dims).values
    tokens = np.broadcast_to(_along(array.cumulative_tokens, answer), shape)
    run_ids, lineages = (np.broadcast_to(_along(array[n], answer), shape) for n in ("run_id", "lineage"))
    seen = 0
    for at in np.ndindex(*shape):
        run_id = run_ids[at]
        if not isinstance(run_id, str) or not run_id or np.isnan(values[at]):
            assert codes[at] == 0
            continue
        run = truth[run_id]
        expected = {**run.before, **run.own}.get(int(tokens[at]))
        assert (codes[at] == 1) == (expected is not None), (run_id, tokens[at])
        if expected is not None:
            np.testing.assert_allclose(values[at], operation.values(expected), rtol=operation.tolerance)
            seen += operation.keeps(lineages[at], run_id)
    assert seen or not answer.size or answer.size < 30


def _along(coordinate: xr.DataArray, answer: xr.DataArray) -> Any:
    wide = coordinate.reset_coords(drop=True).broadcast_like(answer.reset_coords(drop=True))
    return wide.transpose(*answer.dims).values


@pytest.mark.parametrize("name", OPERATIONS)
def test_answers_are_right_or_errors(name: str, suite: Suite, whole: xr.Dataset, tmp_path: Path) -> None:
    operation = OPERATIONS[name]
    truth = read_truth(suite, whole, METRIC)
    array = operation.apply(whole.copy(), tmp_path)
    got = ""
    for what, answer in _answers(array).items():
        found, refused = None, ""
        try:
            found = answer()
        except DdeError as error:
            refused = str(error)
        if found is None:
            # An error says what is gone or moved, and what to do.
            assert len(refused) > 80
            got += "E"
            continue
        got += "R"
        if what == "support":
            check_support(found, array, truth, operation)
            continue
        for at in np.ndindex(found.shape):
            cell = found[at]
            run_id = cell.run_id.values.item()
            if not isinstance(run_id, str) or not run_id:
                assert np.isnan(cell), name
                continue
            run = truth[run_id]
            expected = operation.values(last(run.own)) if run.own else np.nan
            if what == "gain":
                expected = expected - operation.values(last(run.base)) if run.base else 0.0
            if not operation.keeps(str(cell.lineage.values), run_id):
                expected = np.nan
            np.testing.assert_allclose(float(cell), expected, rtol=1e-6, atol=operation.tolerance, err_msg=name)
    assert all(a == b or b == "?" for a, b in zip(got, operation.answers, strict=True)), (name, got)


def test_the_table_has_every_kind_of_operation() -> None:
    assert len(OPERATIONS) >= 70
    assert sum(o.answers == "RRR" for o in OPERATIONS.values()) >= 50


def test_flags_speak_of_places_and_cells_of_what_stands_there(whole: xr.Dataset) -> None:
    """What moves values between cells is answered for the values that stand there now."""
    ds = whole.load()
    seen = ds[METRIC].dde.support() == 1
    for moved in (
        ds[METRIC].shift(cumulative_tokens=1),
        ds[METRIC].rolling(cumulative_tokens=2).mean(),
        ds[METRIC].cumsum("cumulative_tokens", keep_attrs=True).assign_coords(ds[METRIC].coords),
    ):
        expected = (seen & moved.notnull()).values
        np.testing.assert_array_equal(moved.dde.sampled_as("evaluations").dde.support() == 1, expected)
    # A value that was put where a run was sampled counts as its sample.
    lacks = ds[METRIC].where(ds.cumulative_tokens < ds.sampled_evaluations_last)
    filled = lacks.fillna(0.5).dde.final().where(ds.sampled_evaluations_last.notnull()).fillna(-1)
    np.testing.assert_array_equal(filled, xr.where(ds.sampled_evaluations_last.notnull(), 0.5, -1))


# --- two openings ---


def _two_openings(suite: Suite, together: str) -> xr.Dataset:
    grid = opened(suite).cumulative_tokens.values
    labels = opened(suite).lineage.values
    one, two = (opened(suite, grid=grid, lineages=part) for part in (labels[:2], labels[2:]))
    if together == "xr.concat":
        return xr.concat([one, two], "lineage", join="outer", coords="different", compat="equals")
    if together == "xr.merge":
        return xr.merge([one, two], join="outer", compat="no_conflicts")
    return dde.concat([one, two])


@pytest.mark.parametrize("together", ["xr.concat", "xr.merge", "dde.concat"])
def test_two_openings_answer_as_one(suite: Suite, whole: xr.Dataset, together: str) -> None:
    joined = _two_openings(suite, together)
    for what, answer in _answers(joined[METRIC]).items():
        expected = _answers(whole[METRIC])[what]()
        found = answer().reindex_like(expected) if what != "support" else answer()
        cells = found.sel(lineage=expected.lineage, run=expected.run)
        np.testing.assert_array_equal(cells.transpose(*expected.dims), expected)
    types = joined.dde.to_frame().groupby(["lineage_id", "checkpoint_type"]).size()
    assert types.to_dict() == whole.dde.to_frame().groupby(["lineage_id", "checkpoint_type"]).size().to_dict()
    means = whole.dde.mean_over("seed")[METRIC]
    np.testing.assert_array_equal(joined.dde.mean_over("seed")[METRIC].sel(lineage=means.lineage, run=means.run), means)


def test_another_opening_changes_no_answer(suite: Suite, whole: xr.Dataset) -> None:
    expected = {what: answer().load() for what, answer in _answers(whole[METRIC]).items()}
    for metric in (OTHER, "boolq", "train_loss"):
        opened(suite, (metric,)).load()
    for k in range(70):
        opened(suite, (METRIC,), params="4M", max_gap=10**6 + k)
    for what, answer in _answers(whole[METRIC]).items():
        xr.testing.assert_identical(answer().load(), expected[what])


def test_one_run_with_other_values_is_not_joined(tmp_path: Path) -> None:
    parts = []
    for seed in (0, 1):
        made = make_suite(tmp_path / str(seed), "tiny", seed=seed)
        parts.append(opened(made, params="4M", data="Dolma1.7"))
    with pytest.raises(DdeError, match=r"arc_easy of the run .* contradict each other"):
        dde.concat([parts[0].dde.sel(run=["pretraining"]), parts[1].dde.sel(run=["pretraining"])])


# --- processes and threads ---

_DIGEST = """
import pickle, sys, warnings
import numpy as np, xarray as xr
warnings.simplefilter("ignore")
def digest(ds):
    a, out = ds["arc_easy"], []
    answers = [a.dde.support(), a.dde.final(), a.dde.difference_to_base(None).dde.final(), a.dde.checkpoint_type(),
               a.dde.observed(), a.dde.base_curves(), a.dde.final(at="schedule"), ds.dde.revision().step,
               a.dde.align(7, "log"), (a * 100).dde.support(), a.dde.mean_over("seed").arc_easy]
    for answer in answers:
        values = np.nan_to_num(np.asarray(answer.values, np.float64), nan=-1.0)
        out.append(f"{values.shape} {values.sum()!r}")
    return "\\n".join(out)
"""


def digest(ds: xr.Dataset) -> str:
    space: dict[str, Any] = {}
    exec(_DIGEST, space)
    answer: str = space["digest"](ds)
    return answer


@pytest.mark.parametrize("form", ["pickle", "pickle, then loaded", "pickle of loaded", "zarr", "netcdf"])
def test_a_process_that_opened_nothing_answers_the_same(suite: Suite, form: str, tmp_path: Path) -> None:
    ds = dde.open_lineages(suite.data, suite.wandb, metrics=(METRIC, OTHER), cache_dir=tmp_path / "cache")
    expected = digest(ds)
    path = tmp_path / "sent"
    if form == "zarr":
        ds.to_zarr(path, consolidated=False)
        read = "xr.open_zarr(sys.argv[1], consolidated=False)"
    elif form == "netcdf":
        ds.to_netcdf(path, engine="h5netcdf")
        read = "xr.open_dataset(sys.argv[1], engine='h5netcdf')"
    else:
        path.write_bytes(pickle.dumps(ds.load() if form == "pickle of loaded" else ds))
        read = "pickle.load(open(sys.argv[1], 'rb'))" + (".load()" if "then" in form else "")
    code = f"{_DIGEST}\nimport dde\nprint(digest({read}))"
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd="/")
    assert ran.stdout.strip() == expected, ran.stderr


def test_threads_answer_the_same(suite: Suite) -> None:
    datasets = [opened(suite, (metric,)) for metric in (METRIC, OTHER)]
    expected = [
        {w: a().load() for w, a in _answers(d[m]).items()} for d, m in zip(datasets, (METRIC, OTHER), strict=True)
    ]

    def ask(k: int) -> bool:
        d, metric = datasets[k % 2], (METRIC, OTHER)[k % 2]
        return all(a().equals(expected[k % 2][w]) for w, a in _answers(d[metric]).items())

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(16)))
