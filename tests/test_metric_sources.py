"""Which source a metric comes from, and what is said of metrics that no source holds."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import dde
from dde.entities.repository import DataDecideEvolved, RunRepository
from dde.errors import ConflictWarning, DdeWarning
from dde.names import (
    DEFAULT_METRICS,
    OLMES_TASKS,
    PERPLEXITY_SETS,
    log_metric,
    parse_metric,
    wide_column_metric,
)
from dde.suite.datadecide.metric_choice import choose_metrics, metrics_without_source
from dde.suite.datadecide.tables.pretraining_tables import DataDecide
from dde.tutorial.suite import Suite
from fakes import FakeStore, FakeTables, sft

PERPLEXITIES = [m.name for m in DEFAULT_METRICS if m.kind == "perplexity"]


@pytest.fixture(scope="module")
def raw(tiny_suite: Suite) -> Suite:
    return tiny_suite


@pytest.fixture(scope="module")
def parsed(parsed_suite: Suite) -> Suite:
    return parsed_suite


def without(suite: Suite, folder: Path, is_gone: Callable[[Path], bool]) -> Path:
    """Copy the tables of a suite without some files."""
    shutil.copytree(suite.data, folder)
    gone = [p for p in folder.rglob("*.parquet") if is_gone(p)]
    assert gone
    for path in gone:
        path.unlink()
    return folder


def opened(folder: Path, cache: Path | None, metrics: object = None) -> tuple[xr.Dataset, list[str]]:
    """Open and load; also return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = dde.open_lineages(folder, None, params="4M", metrics=metrics, cache_dir=cache).load()
    return ds, [str(w.message) for w in caught if w.category is DdeWarning]


def test_a_whole_suite_lacks_nothing(raw: Suite, parsed: Suite, tmp_path: Path) -> None:
    for suite in (raw, parsed):
        dd = DataDecide(suite.data)
        assert dd.absent_metrics == []
        assert not [s for s in dd.set_aside if "missing" in s or "no pretraining table" in s]
        assert opened(suite.data, tmp_path / "cache")[1] == []


def test_an_absent_perplexity_table_is_named_counted_and_warned_of(raw: Suite, tmp_path: Path) -> None:
    folder = without(raw, tmp_path / "data", lambda p: "ppl-results" in str(p))
    # Without a cache, while it is filled, and from it.
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        ds, said = opened(folder, cache)
        left_out = ds.attrs["pretraining_left_out"]
        assert "perplexity table (DataDecide-ppl-results/data/train-*.parquet): missing" in left_out
        assert f"default metrics that no pretraining table holds: {len(PERPLEXITY_SETS)} (" in left_out
        # No store of runs was opened, so the training loss has no source either.
        assert ds.attrs["metrics_left_out"].startswith("metrics that no source holds, all NaN: 12 (train_loss, ")
        for name in PERPLEXITIES:
            assert name in left_out
            assert name in ds.attrs["metrics_left_out"]
            assert ds[name].isnull().all()
        assert ds["arc_easy"].notnull().any()
        [message] = said
        assert "no pretraining table has 11 of the 22 metrics (wikitext_103_valppl, " in message
        assert "perplexity table" in message
    assert opened(folder, None, "arc_easy")[1] == []
    assert "1 of the 1 metrics (pile_valppl)" in opened(folder, None, "pile_valppl")[1][0]


def test_absent_evaluation_shards_are_named_counted_and_warned_of(raw: Suite, tmp_path: Path) -> None:
    folder = without(raw, tmp_path / "data", lambda p: p.name.startswith(("train-", "macro")) and "eval-res" in str(p))
    ds, said = opened(folder, None)
    left_out = ds.attrs["pretraining_left_out"]
    assert "evaluation shards (DataDecide-eval-results/data/train-*.parquet): missing" in left_out
    assert "macro averages (DataDecide-eval-results/data/macro_avg-*.parquet): missing" in left_out
    assert f"default metrics that no pretraining table holds: {len(OLMES_TASKS)} (mmlu_average, " in left_out
    assert ds["pile_valppl"].notnull().any()
    assert "10 of the 22 metrics" in said[0]


def test_macro_averages_stand_in_for_shards_but_for_the_average_of_subjects(raw: Suite, tmp_path: Path) -> None:
    folder = without(raw, tmp_path / "data", lambda p: p.name.startswith("train-") and "eval-res" in str(p))
    ds, said = opened(folder, None)
    assert "default metrics that no pretraining table holds: 1 (mmlu_average)" in ds.attrs["pretraining_left_out"]
    assert ds["arc_easy"].notnull().any()
    assert "1 of the 22 metrics (mmlu_average)" in said[0]


def test_absent_columns_of_the_wide_table_are_named_and_counted(parsed: Suite, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(parsed.data, folder)
    [path] = folder.rglob("full_eval.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([c for c in table.column_names if c.endswith("-valppl")]), path)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        ds, said = opened(folder, cache)
        assert "default metrics that no pretraining table holds: 11 (" in ds.attrs["pretraining_left_out"]
        assert len(said) == 1
    one = folder / "one"
    one.mkdir()
    pq.write_table(table.drop_columns(["pile-valppl"]), one / "full_eval.parquet")
    assert [m.name for m in DataDecide(one).absent_metrics] == ["pile_valppl"]


def test_metrics_without_any_source_are_counted() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}})
    store = FakeStore([sft("a", [1e8])])
    both, alone = RunRepository(tables, store).registry, RunRepository(tables).registry
    of_store = RunRepository(None, store).registry
    every = choose_metrics(both, None)
    assert (
        metrics_without_source(both, every) == f"metrics that no source holds, all NaN: 11 ({', '.join(PERPLEXITIES)})"
    )
    assert metrics_without_source(of_store, every) == metrics_without_source(both, every)
    assert "all NaN: 21 (train_loss, mmlu_average, arc_challenge" in metrics_without_source(alone, every)
    assert metrics_without_source(both, choose_metrics(both, ["piqa", "train_loss"])) == ""


def test_metrics_without_any_source_of_real_tables(raw: Suite, parsed: Suite) -> None:
    for suite in (raw, parsed):
        registry = DataDecideEvolved(suite.data, None, cache_dir=None).repository.registry
        found = metrics_without_source(registry, choose_metrics(registry, None))
        assert found == "metrics that no source holds, all NaN: 1 (train_loss)"


# -- The learning rate of the wide table.


RATES = {0: 0.0, 1250: 3e-3, 5725: 1e-4}


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Return a folder with a wide table of one run that has nominal figures beside the rate of each step."""
    n = len(RATES)
    columns = {
        "params": ["4M"] * n,
        "data": ["Dolma1.7"] * n,
        "seed": [0] * n,
        "step": [float(s) for s in RATES],
        "piqa_primary_metric": [0.5, 0.55, 0.6],
        "lr_at_step": list(RATES.values()),
        "total_tokens": [374_483_200] * n,
        "total_steps": [5715] * n,
        "true_model_size": [4_000_000] * n,
    }
    folder = tmp_path / "wide"
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "full_eval.parquet")
    return folder


def test_the_wide_table_has_a_learning_rate_and_nominal_figures_that_are_no_metrics() -> None:
    assert wide_column_metric("lr_at_step") == log_metric("learning_rate") == parse_metric("lr_at_step")
    for column in ("total_tokens", "total_steps", "true_model_size"):
        assert wide_column_metric(column) is None


def test_rates_are_of_the_table_before_the_branch_and_of_the_log_after_it(wide: Path) -> None:
    per_step = 65_536
    store = FakeStore([sft("a", [1e6, 2e6, 3e6])])
    metrics = ["lr_at_step", "total_tokens"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConflictWarning)
        ds = dde.open_lineages(wide, store, metrics=metrics, grid="union", cache_dir=None).squeeze("lineage")
    base = ds.lr_at_step.sel(run="pretraining", cumulative_tokens=[s * per_step for s in RATES])
    np.testing.assert_array_equal(base, list(RATES.values()))
    derived = ds.isel(run=1)
    branch = 5725 * per_step
    np.testing.assert_array_equal(
        derived.lr_at_step.sel(cumulative_tokens=slice(None, branch)),
        ds.lr_at_step.sel(run="pretraining", cumulative_tokens=slice(None, branch)),
    )
    own = derived.sel(cumulative_tokens=[branch + t for t in (1_000_000, 2_000_000, 3_000_000)])
    np.testing.assert_array_equal(own.lr_at_step, [1e-5] * 3)
    # The counter is that of the log: the table's column is the nominal length of the schedule.
    assert ds.total_tokens.sel(run="pretraining").isnull().all()
    np.testing.assert_array_equal(own.total_tokens, [1e6, 2e6, 3e6])


def test_rates_are_read_and_listed_without_a_store(wide: Path) -> None:
    dd = DataDecide(wide)
    assert dd.select_subset(metrics="lr_at_step")["lr_at_step"].tolist() == list(RATES.values())
    assert "lr_at_step" in {m.name for m in dd.metrics()}
    assert "total_tokens" not in {m.name for m in dd.metrics()}
    ds = dde.open_lineages(wide, None, metrics="lr_*", cache_dir=None)
    assert list(ds.data_vars) == ["lr_at_step"]
    assert ds.lr_at_step.notnull().sum() == len(RATES)
    run = DataDecideEvolved(wide, None, cache_dir=None).repository.get_run("dolma1_7-4M-default")
    assert run.get_training_progression("lr_at_step")["lr_at_step"].tolist() == list(RATES.values())


def test_evaluations_whose_names_have_bars_stay_apart(tmp_path: Path) -> None:
    run = sft("a", [900.0], evaluations={"piqa": 0.5})
    run.evaluations |= {("a", "b|c"): 0.75, ("a|b", "c"): 0.25}
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}})
    for _ in range(2):
        repository = RunRepository(tables, FakeStore([run], "bars"), cache_dir=tmp_path)  # type: ignore[arg-type]
        ds = repository.to_dataset(metrics=["a_b_c", "a_b_c_2"])
        assert {name: float(ds[name].max()) for name in ds.data_vars} == {"a_b_c": 0.75, "a_b_c_2": 0.25}
