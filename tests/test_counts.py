"""The benchmarks at a small scale: what they count must hold anywhere, whatever the seconds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dde
from dde.tutorial import Suite
from postgres_server import PostgresServer

Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    yield
    sys.path.pop(0)


@pytest.fixture(scope="module")
def suite(tiny_suite: Suite) -> Suite:
    return tiny_suite


def counted(rows: list[dict[str, Any]]) -> Rows:
    return {r["job"]: r["counts"] for r in rows}


def once(*jobs: Callable[[], object], **options: object) -> list[float]:
    """Run each job once, where a benchmark takes the best of several times."""
    for job in jobs:
        job()
    return [1.0] * len(jobs)


def test_the_server_is_asked_twice_and_sends_what_is_asked_for(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_postgres

    def load(exports: list[Path], dsn: str) -> float:
        # Processes of their own are needed for the seconds alone; tests/sources/test_ingest.py loads from several.
        for export in exports:
            dde.ingest(str(export), dsn)
        return 1.0

    monkeypatch.setattr(bench_postgres, "running_server", lambda: contextlib.nullcontext(postgres))
    monkeypatch.setattr(bench_postgres, "_best", once)
    monkeypatch.setattr(bench_postgres, "_load", load)
    rows = counted(bench_postgres.rows(0.01))
    for job, counts in rows.items():
        assert counts.get("queries", 2) == 2, job
    listing = next(c for job, c in rows.items() if job.startswith("list 8 runs"))
    assert listing["bytes_of_config_keys"] * 20 <= listing["bytes_of_whole_configs"]
    refresh = next(c for job, c in rows.items() if "bytes_of_a_full_read" in c)
    assert refresh["bytes"] * 8 <= refresh["bytes_of_a_full_read"]


def test_the_cache_reads_the_keys_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_cache

    def best(job: Callable[[], object], repeats: int = 1, before: Callable[[], object] = lambda: None) -> float:
        before()
        return once(job)[0]

    monkeypatch.setattr(bench_cache, "_best", best)
    rows = counted(bench_cache.rows(0.02))
    assert all(counts["files"] <= 13 for counts in rows.values() if "files" in counts)
    assert rows["reading 5 of 38 keys"]["bytes"] == 5 * 21375 * 8
    assert rows["reading them once more"]["bytes"] == 0
    assert next(c for c in rows.values() if "runs_fetched" in c)["runs_fetched"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dde.errors.ConflictWarning")
def test_raw_tables_are_read_once_for_everything(suite: Suite, tmp_path: Path) -> None:
    repository = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path).repository
    count = repository.fill_cache()
    tables = repository.pretraining_source
    assert tables is not None
    groups = sum(len(t.index.group_files) for t in tables._tables)
    # Names of metrics were looked up in a few rows first.
    assert groups <= tables.reads["row_groups"] <= 2 * groups
    again = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path).repository
    ds = again.to_dataset(metrics="all")
    assert len(ds.data_vars) == count
    ds.load()
    assert again.pretraining_source is not None
    # The names of metrics alone are looked up again.
    assert again.pretraining_source.reads["row_groups"] <= groups
    before = again.pretraining_source.reads["row_groups"]
    again.to_dataset(metrics=["arc_easy_margin", "mmlu_average", "pile_valppl"]).load()
    assert again.pretraining_source.reads["row_groups"] == before


def test_one_metric_brings_its_task_and_the_datasets_others(suite: Suite, tmp_path: Path) -> None:
    ds = dde.open_lineages(suite.data, suite.wandb, metrics=["arc_easy", "piqa"], cache_dir=tmp_path)
    ds.arc_easy.load()
    repository = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path).repository
    repository.to_dataset(metrics=["piqa", "arc_easy_margin", "piqa_correct_prob"]).load()
    assert repository.pretraining_source is not None
    assert repository.pretraining_source.reads["rows"] == 0
    repository.to_dataset(metrics=["boolq"]).load()
    assert repository.pretraining_source.reads["rows"] > 0
