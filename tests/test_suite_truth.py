"""Generated suites, whose truth is known: every run resolves to it, and the full suite is read in small parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

import dde
from dde.errors import ConflictWarning
from dde.tutorial import Suite, make_suite, pretraining_tables
from dde.tutorial.base_values import BaseValues
from dde.tutorial.tasks import RAW_TASKS


@pytest.fixture(scope="module", params=[0, 1])
def suite(request: pytest.FixtureRequest, small_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    if request.param == 0:
        return small_suite
    return make_suite(tmp_path_factory.mktemp("small"), "small", seed=request.param)


@pytest.fixture(scope="module")
def repository(suite: Suite) -> dde.RunRepository:
    return dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=None).repository


def test_every_run_is_resolved_to_the_truth(suite: Suite, repository: dde.RunRepository) -> None:
    truth = suite.runs.set_index("run_id")
    coverage = repository.coverage(state="all").set_index("run_id").loc[truth.index]
    assert [s.split(":")[0] for s in coverage["status"]] == truth["expected_status"].tolist()
    for column in ("run_type", "lineage", "parent_run_id"):
        assert (coverage[column] == truth[column]).all()
    used = coverage["status"] == "used"
    assert (coverage.loc[used, "token_source"] == truth.loc[used, "token_source"]).all()
    # A restored or estimated count is near the truth; what derives from such a run is as far off as it is.
    off = (coverage["end_tokens"] - truth["end_tokens"]).abs()[used]
    assert (off <= 0.01 * truth["own_tokens"][used].clip(lower=1e7)).all()
    logged = used & (coverage["token_source"] == "logged")
    assert (coverage.loc[logged, "end_tokens"] == truth.loc[logged, "end_tokens"]).all()
    said = coverage["contradictions"] != ""
    assert (said == truth["contradicts_config"]).all()


def test_treatments_and_replicates_are_the_truths(suite: Suite, repository: dde.RunRepository) -> None:
    truth = suite.runs.set_index("run_id")
    for run_id, run in repository.registry.derived.items():
        if run.treatment is None:
            continue
        row = truth.loc[run_id]
        np.testing.assert_allclose(run.treatment.learning_rate, row["learning_rate"])
        np.testing.assert_equal(run.treatment.dpo_beta, float(row["dpo_beta"]))
        assert run.replicate == row["replicate"]
        assert run.label.count("dpo_") == sum(
            repository.registry.derived[m].run_type == "dpo" for m in repository.registry.chain(run_id)[1:]
        )


def test_the_dataset_agrees_with_the_frames_and_the_axis_with_the_truth(
    suite: Suite, repository: dde.RunRepository
) -> None:
    ds = repository.to_dataset(params="150M", metrics=["hellaswag", "train_loss"], state="all", grid="union")
    for label in ds.lineage.values:
        frame = repository.get_lineage(str(label)).get_continuous_curves(metrics=["hellaswag", "train_loss"])
        for run, rows in frame.groupby("run"):
            cells = ds.sel(lineage=label, run=run).sel(cumulative_tokens=rows["cumulative_tokens"].to_numpy())
            for name in ("hellaswag", "train_loss"):
                seen = rows[name].notna().to_numpy()
                np.testing.assert_array_equal(cells[name].values[seen], rows[name][seen])


def make_full_suite(folder: Path, genuine: str) -> Suite:
    """Write all rows of the full suite, with the genuine texts of one pretraining run alone.

    Other runs are not read, and the texts of 1,060 runs take most of the time.
    """
    write_texts = pretraining_tables._dict_texts

    def texts(seed: int, values: BaseValues, at: npt.NDArray[np.intp]) -> list[str]:
        if values.base.label == genuine:
            return write_texts(seed, values, at)
        return ["{'primary_metric': 0.5}"] * (len(at) * len(RAW_TASKS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining_tables, "_dict_texts", texts)
        patch.setattr(pretraining_tables, "_MACRO_ENTRIES", ("primary_metric",))
        return make_suite(folder, "full")


def text_chunks(suite: Suite) -> Iterator[int]:
    """The stored size of the texts of each row group."""
    for file in Path(suite.data, "DataDecide-eval-results").rglob("train-*.parquet"):
        metadata = pq.read_metadata(file)
        column = metadata.schema.names.index("metrics")
        yield from (metadata.row_group(k).column(column).total_compressed_size for k in range(metadata.num_row_groups))


def test_the_full_suite_is_read_in_small_parts(tmp_path: Path) -> None:
    suite = make_full_suite(tmp_path / "full", "c4-150M-default")
    repository = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path / "cache").repository
    ds = dde.open_lineages(repository)
    tables = repository.registry.tables
    assert tables is not None
    catalog = tables.catalog()
    assert (len(catalog.bases), ds.sizes["lineage"]) == (1060, 1060)
    index = [t for t in tables._tables if len(t.index) == 1_410_750]
    assert len(index) == 1
    groups = len(index[0].index.group_files)
    # Opening read the key columns alone.
    assert tables.reads == {"rows": 0, "row_groups": 0, "stored_bytes": 0}
    one = ds.hellaswag.sel(lineage="c4-150M-default", run="pretraining")
    one = one.copy(data=one.values)
    checkpoints = int(one.dde.support().isin(1).sum())
    # Of its row group the texts of all tasks that the Dataset shows: reading one of them reads the others.
    assert checkpoints > 20
    assert tables.reads["rows"] == 66 * checkpoints
    assert tables.reads["row_groups"] <= 2 < groups // 100
    # Its texts alone are long, so that they fill the largest chunks.
    assert tables.reads["stored_bytes"] <= sum(sorted(text_chunks(suite))[-2:])
    # And nothing at all the second time, in another process or in this one.
    other = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path / "cache").repository
    again = dde.open_lineages(other)
    np.testing.assert_array_equal(again.hellaswag.sel(lineage="c4-150M-default", run="pretraining"), one)
    reopened = other.registry.tables
    assert reopened is not None
    assert reopened.reads["rows"] == 0
    mmlu = ds.mmlu_average.sel(lineage="c4-150M-default", run="pretraining").load()
    assert tables.reads["rows"] == 66 * checkpoints
    assert np.isfinite(mmlu).sum() >= checkpoints


def test_conflicts_of_the_generated_tables_are_reported(suite: Suite) -> None:
    ds = dde.open_lineages(suite.data, suite.wandb, cache_dir=None, metrics=["pile_valppl"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds.load()
    conflicting = suite.bases["quirks"].str.contains("repeated").any()
    assert any(issubclass(w.category, ConflictWarning) for w in caught) == conflicting
    # Both suites have a repeated row: a check of their absence would test nothing.
    assert conflicting
