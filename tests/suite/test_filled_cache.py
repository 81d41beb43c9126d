"""Filling the cache of a declared suite: result files, runs of a store, and sources of which nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import command_process
import dde
from dde.errors import SourceError, UnknownNameError
from dde.suite.reading import open_files
from fakes import FakeStore, sft

RESULTS = dde.Suite(
    "results", lineage="{size}", run_id="{size}", tokens={"per_step": 8},
    metrics={"{task}/{metric}": dde.Metric("{task}_{metric}", "1", "higher")},
    tables=[dde.Table("{size}_step{step:int}.json", format="lm_eval", key="{task}/{metric}")],
)  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for step, value in ((0, 0.25), (5, 0.5)):
        scores = {"results": {"piqa": {"acc": value, "acc_stderr": 0.01}}}
        (tmp_path / f"1B_step{step}.json").write_text(json.dumps(scores))
    return tmp_path


def test_numbers_of_result_files_are_kept(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = dde.RunRepository.from_suite(RESULTS, results, cache_dir=results / "cache")
    assert repository.fill_cache() == 2
    assert repository.fill_cache("piqa_acc") == 1
    with pytest.raises(UnknownNameError, match="Did you mean piqa_acc"):
        repository.fill_cache("piqa_ac")

    def parse(*_: object) -> None:
        raise AssertionError("a file was parsed that the cache has")

    monkeypatch.setattr(open_files, "parse_file", parse)
    ds = dde.open_lineages(results, suite=RESULTS, cache_dir=results / "cache")
    assert ds.piqa_acc.values.ravel().tolist() == [0.25, 0.5]


def test_runs_of_a_store_are_kept(tmp_path: Path) -> None:
    base = pd.DataFrame({"size": "70m", "step": [0, 1000], "acc": [0.2, 0.3]})
    suite = dde.Suite(
        "mini", lineage="{size}", run_id="{size}", tokens={"per_step": 100}, metrics={"acc": dde.Metric("acc")},
        checkpoints="EleutherAI/pythia-{size}@step{step:int}", tables=[dde.Table(base)],
    )  # fmt: skip
    runs = [sft("a", (1000, 2000), [3.0, 2.5], model_name_or_path="EleutherAI/pythia-70m", evaluations={"piqa": 0.5})]
    store = FakeStore(runs, "fake")
    repository = dde.RunRepository.from_suite(suite, None, store, cache_dir=tmp_path)
    count = repository.fill_cache()
    assert count == len([m for m in repository.metrics() if m != "acc"])
    store.history_calls.clear()
    store.evaluation_calls.clear()
    ds = dde.open_lineages(suite, store, cache_dir=tmp_path)
    assert ds.train_loss.isel(run=1).max() == 3.0
    assert ds.piqa.dde.final().max() == 0.5
    assert store.history_calls == store.evaluation_calls == []


def test_what_is_read_as_it_lies_is_not_filled(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": "a", "step": [0, 1], "tokens": [0, 8], "loss": 2.0})
    suite = dde.Suite.from_frame(frame, run="id", lineage="{id}")
    with pytest.raises(UnknownNameError, match=r"nothing of the suite .* is cached.*frames are read directly"):
        dde.RunRepository.from_suite(suite, cache_dir=tmp_path).fill_cache()
    with pytest.raises(UnknownNameError, match="cache_dir=None"):
        dde.RunRepository.from_suite(suite, cache_dir=None).fill_cache()


def test_a_cache_that_cannot_be_written_is_an_error(results: Path) -> None:
    (results / "taken").write_text("")
    repository = dde.RunRepository.from_suite(RESULTS, results, cache_dir=results / "taken" / "cache")
    with pytest.raises(SourceError, match=r"the numbers of 2 result files were not cached\. Free space"):
        repository.fill_cache()


def test_the_command_fills_the_cache_of_a_suite(results: Path) -> None:
    RESULTS.to_toml(results / "mine.toml")
    arguments = ["cache", "fill", str(results), "--suite", str(results / "mine.toml")]
    code, out, remarks = command_process.run(*arguments, "--cache-dir", "cache", folder=results)
    assert code == 0, remarks
    assert "2 metrics of 1 lineages are in cache" in out + remarks
    assert list((results / "cache").rglob("parsed.npz"))
