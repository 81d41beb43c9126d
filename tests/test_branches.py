"""Runs that branch inside another run: which checkpoint a path means, and at how many tokens it lies."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dde
from dde.errors import LineageError, UnknownNameError
from dde.names import parse_run_checkpoint
from dde.sources.ingest import ingest
from dde.suite.datadecide.runs.readers import Readers
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.registry_handle import origin_of
from dde.suite.datadecide.runs.worker_runs import SentRuns
from fakes import FakeRun, FakeStore, FakeTables, sft

FINAL_4M = 5_725 * 32 * 2048
PARENT = "2025_08_21-15_03_00_g_lr=5e-06"
FOLDER = f"/m/2025_08_21-15_03_00_g/{PARENT}"
#: Counts of the parent at steps 100, 200, ..., 500: not one straight line.
COUNTS = [1000.0, 2000.0, 3100.0, 4000.0, 5000.0]


def parent(counts: list[float] = COUNTS, **options: Any) -> FakeRun:
    return sft(PARENT, counts, **{"output_dir": FOLDER, "num_train_epochs": 2} | options)


def child(path: str | None, run_id: str = "child", **options: Any) -> FakeRun:
    settings: dict[str, Any] = {"program": "dpo.py", "dpo_beta": 5, "evaluations": {"piqa": 0.7}, "epochs": None}
    settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "model_name_or_path": path}
    run = sft(run_id, **settings | options)
    run.rows.extend([(1, {"train_loss": 0.69}), (2, {"train_loss": 0.6})])
    return run


def registry(*runs: FakeRun, **options: Any) -> Registry:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    return Registry(tables, FakeStore(list(runs)), **options)  # type: ignore[arg-type]


def with_summary(run: FakeRun, **summary: Any) -> FakeRun:
    run.record = replace(run.record, summary=summary)
    return run


def own_branch(resolved: Registry, run_id: str = "child") -> int | None:
    placed = resolved.placed[run_id]
    return None if placed.branch_tokens is None else placed.branch_tokens - FINAL_4M


@pytest.mark.parametrize(
    ("path", "tokens", "point"),
    [
        (f"{FOLDER}/step_200", 2000, "@200"),
        (f"{FOLDER}/step_200/", 2000, "@200"),
        (f"{FOLDER}//step_200/.", 2000, "@200"),
        (f"{FOLDER}/step300-hf", 3100, "@300"),
        (f"{FOLDER}/step_300-hf/", 3100, "@300"),
        (f"{FOLDER}/step300-unsharded/model", 3100, "@300"),
        (f"{FOLDER}/checkpoint-400", 4000, "@400"),
        (f"{FOLDER}/global_step400", 4000, "@400"),
        (f"{FOLDER}/model/step_400", 4000, "@400"),
        (f"/m/2025_08_21-15_03_00_g/model/{PARENT}/model/step_400/hf", 4000, "@400"),
        (f"/tmp/elsewhere/{PARENT}/epoch_0/", 2500, "@epoch_0"),
        (f"{FOLDER}/epoch_0", 2500, "@epoch_0"),
        # The last epoch of a finished run is its end, whatever it is called.
        (f"{FOLDER}/epoch_1", 5000, ""),
        (f"{FOLDER}/final", 5000, ""),
        (f"{FOLDER}/final_checkpoint/", 5000, ""),
        (f"{FOLDER}/model/", 5000, ""),
        (FOLDER, 5000, ""),
        (f"{FOLDER}/step_0", 0, "@0"),
        # Between rows on the line between them, before the first and within one interval of the last at the rate.
        (f"{FOLDER}/step_250", 2550, "@250"),
        (f"{FOLDER}/step_50", 500, "@50"),
        (f"{FOLDER}/step_560", 5600, "@560"),
    ],
)
def test_a_path_below_an_output_folder_is_a_branch_inside_the_run(path: str, tokens: int, point: str) -> None:
    resolved = registry(parent(), child(path))
    assert resolved.derived["child"].parent_run_id == PARENT
    assert resolved.placed["child"].status == "used"
    assert own_branch(resolved) == tokens
    assert resolved.derived["child"].label == f"sft_lr=1e-05_fullx2+dpo_lr=1e-05_fullx1_beta=5{point}"
    treatment = resolved.derived["child"].treatment
    assert treatment is not None
    assert treatment.branch_point == point


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (f"{FOLDER}/step_900", "branch unknown: step 900 lies beyond the parent's last logged step 500"),
        (f"{FOLDER}/epoch_2", "branch unknown: the parent has no epoch_2: its epochs are 0 to 1"),
        (f"{FOLDER}/best_model", f"no parent found: model path names no checkpoint of the run {PARENT}: best_model"),
        (f"/tmp/x/{PARENT}/step_", f"no parent found: model path names no checkpoint of the run {PARENT}: step_"),
        (f"{FOLDER}/epoch_0/step_3", f"no parent found: model path names no checkpoint of the run {PARENT}: epoch_0"),
    ],
)
def test_a_checkpoint_without_a_place_is_a_status_never_the_end(path: str, why: str) -> None:
    resolved = registry(parent(), child(path, "dpo"), child(path, "250901-155734_finetune_DD-dolma1_7-4M_Ft_lr=1e-05"))
    for run_id in list(resolved.derived)[1:]:
        assert resolved.placed[run_id].status.startswith(why)
        assert resolved.placed[run_id].branch_tokens is None
        assert resolved.placed[run_id].end_tokens is None


@pytest.mark.parametrize(
    ("run", "path", "why"),
    [
        (parent(num_train_epochs=None), "epoch_0", "the parent's number of epochs is unknown, so epoch_0 has no place"),
        (parent(state="crashed"), "epoch_0", "the parent did not finish (state crashed)"),
        (parent(state="crashed"), "epoch_1", "the parent did not finish (state crashed)"),
        (
            parent([], evaluations={"piqa": 0.6}, max_train_samples=99),
            "step_100",
            "the parent has no logged row by which step 100",
        ),
        (parent([], state="failed", max_train_samples=1400), "final", "the parent has neither history nor evaluations"),
        (parent([10.0, 3000.0, 6000.0]), "step_50", "step 50 lies before the parent's first logged step 100"),
    ],
)
def test_what_the_parent_does_not_tell_is_said(run: FakeRun, path: str, why: str) -> None:
    resolved = registry(run, child(f"{FOLDER}/{path}"))
    assert resolved.placed["child"].status.startswith(f"branch unknown: {why}")
    assert own_branch(resolved) is None


def test_a_step_of_the_summary_is_reached() -> None:
    resolved = registry(with_summary(parent(), _step=700), child(f"{FOLDER}/step_680"))
    assert own_branch(resolved) == 6800
    assert "beyond the last logged step 500" in resolved.placed["child"].branch_estimate
    resolved = registry(with_summary(parent([]), _step=500, total_tokens=5000), child(f"{FOLDER}/step_200"))
    assert own_branch(resolved) == 2000
    # The last step of a finished run is its end, and no treatment of its own.
    resolved = registry(with_summary(parent(), _step=500), child(f"{FOLDER}/step_500"), child(FOLDER, "whole"))
    assert own_branch(resolved) == own_branch(resolved, "whole") == 5000
    assert [resolved.derived[r].replicate for r in ("child", "whole")] == [1, 2]


def test_steps_of_runs_without_a_counter_and_of_resumed_ones() -> None:
    resolved = registry(parent(), child(FOLDER, "first"), child("/x/first/step_1", "second"))
    per_step = 2 * 4 * 2 * 2 * 712
    assert (own_branch(resolved, "second") or 0) - (own_branch(resolved, "first") or 0) == per_step
    resumed = registry(parent([1000.0, 2000.0, 500.0, 1500.0]), child(f"{FOLDER}/step_300"))
    assert own_branch(resumed) == 3000


def test_runs_that_differ_in_the_checkpoint_alone_are_no_replicates() -> None:
    paths = {"a": FOLDER, "b": f"{FOLDER}/step_200", "c": f"{FOLDER}/epoch_0", "d": f"{FOLDER}/checkpoint-200"}
    resolved = registry(parent(), *(child(path, run_id) for run_id, path in paths.items()))
    labels = {r: resolved.derived[r].label for r in paths}
    assert len({label.partition("#")[0] for label in labels.values()}) == 3
    assert labels["d"] == labels["b"] + "#2"


def test_sources_that_name_different_checkpoints_are_reported() -> None:
    given = ["--model_name_or_path", f"{FOLDER}/step_200"]
    found = registry(parent(), child(FOLDER, command=given))
    assert own_branch(found) == 5000
    assert any(f"launch command {PARENT}@step_200" in c for c in found.derived["child"].parentage.contradictions)
    # An id alone says which run it is; the path says at which checkpoint.
    for explicit in (PARENT, f"{PARENT}/", f"{PARENT}@step_200", f"{PARENT}/step_200"):
        resolved = registry(parent(), child(f"{FOLDER}/step_200", parent_run_id=explicit))
        assert own_branch(resolved) == 2000
        assert resolved.derived["child"].parentage.evidence == "config.parent_run_id"
        assert not resolved.derived["child"].parentage.contradictions


def test_whatever_names_a_run_of_the_store_is_in_the_store() -> None:
    # Two runs of one name, one folder of a resumed run, a folder below one with a model's name.
    twins = [sft("id1", [10.0], output_dir=""), sft("id2", [10.0], output_dir="")]
    for twin in twins:
        twin.record = replace(twin.record, run_name=PARENT)
    resolved = registry(*twins, child(f"/x/{PARENT}/step_100"), child(f"/x/{PARENT}/", "whole"))
    for run_id in ("child", "whole"):
        assert resolved.placed[run_id].status == "no parent found: model path fits 2 runs: id1, id2"
    again = sft("again", [100.0], output_dir=FOLDER, model_name_or_path=f"{FOLDER}/step_200")
    resolved = registry(parent(), again)
    assert resolved.derived["again"].parent_run_id == PARENT
    assert own_branch(resolved, "again") == 2000
    alone = registry(sft("again", [100.0], output_dir="/m/again", model_name_or_path="/m/again/step_200"))
    assert alone.placed["again"].status.startswith("no parent found: model path is the output folder of the run itself")
    below = registry(
        parent(output_dir=f"/m/DataDecide-c4-1B/{PARENT}"), child(f"/m/DataDecide-c4-1B/{PARENT}/step_200")
    )
    assert below.derived["child"].lineage == "dolma1_7-4M-default"
    assert own_branch(below) == 2000


def test_a_parent_that_is_absent_has_no_branch() -> None:
    resolved = registry(child(f"/m/g/model/{PARENT}_x/step_200"), parent())
    placed = resolved.placed["child"]
    assert (placed.status, placed.branch_tokens, placed.end_tokens) == ("parent not in store", None, None)
    assert resolved.derived["child"].parent_run_id == f"{PARENT}_x"


def test_a_step_below_a_models_folder_is_a_pretraining_checkpoint() -> None:
    found = registry(sft("x", [10.0], model_name_or_path="/data/DataDecide-c4-4M/step_2500")).derived["x"].parentage
    assert found.checkpoint is not None
    assert found.checkpoint.revision == "step2500-seed-default"


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        (f"{PARENT}@step200", 2000),
        (f"{PARENT}@step_200", 2000),
        (f"{PARENT}@200", 2000),
        (f"{PARENT}@epoch_0", 2500),
        (f"{PARENT}/step_200", 2000),
        (f"{PARENT}/checkpoint-250/", 2550),
        (f"{FOLDER}/step_200", 2000),
        (f"{PARENT}@final", 5000),
        (f"{PARENT}@main", 5000),
        (f"{PARENT}/", 5000),
        (PARENT, 5000),
    ],
)
def test_the_user_names_a_checkpoint_inside_a_run(given: str, tokens: int) -> None:
    resolved = registry(parent(), child(None), parents={"child": given})
    assert own_branch(resolved) == tokens
    assert resolved.placed["child"].status == "used"


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (f"{PARENT}@stp_200", UnknownNameError, "Did you mean step_200"),
        (f"{PARENT}/epch_0", UnknownNameError, "Did you mean epoch_0"),
        (f"{PARENT}@epoch_3", UnknownNameError, "epochs are 0 to 1.* Did you mean epoch_[01]"),
        (f"{PARENT}@step_900", LineageError, "beyond the parent's last logged step 500"),
        (f"{PARENT}x@step_200", UnknownNameError, f"Did you mean {PARENT}"),
    ],
)
def test_what_the_user_names_and_is_not_there_is_an_error_with_near_names(
    given: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        _ = registry(parent(), child(None), parents={"child": given}).placed


def test_a_checkpoint_that_the_user_overrules_is_reported() -> None:
    resolved = registry(parent(), child(f"{FOLDER}/step_200"), parents={"child": PARENT})
    assert own_branch(resolved) == 5000
    assert "config.model_name_or_path step_200" in resolved.derived["child"].parentage.contradictions[0]


def test_names_of_checkpoints() -> None:
    for name in ("", "model", "final", "FINAL/"):
        assert parse_run_checkpoint(name) == parse_run_checkpoint("final")
    for name in ("step", "steps_3", "step_3.5", "epoch", "best", "step_1/step_2", "step_٣"):
        assert parse_run_checkpoint(name) is None
    assert {
        parse_run_checkpoint(c.name) == c for c in map(parse_run_checkpoint, ("step3", "epoch-4", "final")) if c
    } == {True}


# Runs without data


def test_a_run_without_data_has_no_end() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}})
    empty = sft("empty", state="failed", max_train_samples=1400)
    below = sft("below", model_name_or_path="/x/empty", max_train_samples=1400)
    coverage = dde.RunRepository(tables, FakeStore([empty, below])).coverage()  # type: ignore[arg-type]
    rows = coverage.set_index("run_id")
    assert rows.at["empty", "status"] == "no data"
    why = "branch unknown: the parent has neither history nor evaluations, and its summary has no count of tokens"
    assert rows.at["below", "status"] == why
    assert rows.loc[["empty", "below"], "end_tokens"].isna().all()
    assert (rows.loc[["empty", "below"], ["token_source", "estimate"]] == "").all(axis=None)


def _without_rows(folder: Path, run_id: str, **summary: object) -> None:
    """Take the history and the evaluations of a run out of an export."""
    runs = pd.read_parquet(folder / "runs_metadata.parquet")
    at = runs.index[runs["run_id"] == run_id][0]
    kept = {k: v for k, v in json.loads(runs.at[at, "summary"]).items() if not k.startswith("oe_eval")}
    runs.at[at, "summary"] = json.dumps(kept | summary)
    runs.to_parquet(folder / "runs_metadata.parquet", index=False)
    rows = pd.read_parquet(folder / "runs_history.parquet")
    rows[rows["run_id"] != run_id].to_parquet(folder / "runs_history.parquet", index=False)


@pytest.mark.parametrize("form", ["export", "tables", "flat"])
def test_a_summary_that_counts_tokens_places_what_starts_from_the_run(
    form: str, own_suite: dde.tutorial.Suite, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    suite = own_suite
    whole = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=None).repository
    before = whole.coverage().set_index("run_id")
    (dpo,) = before.index[(before["run_type"] == "dpo") & (before["status"] == "used")]
    first = str(before.at[dpo, "parent_run_id"])
    _without_rows(Path(suite.wandb), first)
    store = suite.wandb if form == "export" else _stored(suite.wandb, request.getfixturevalue("database"), form)
    repository = dde.DataDecideEvolved(suite.data, store, cache_dir=tmp_path / "cache").repository
    after = repository.coverage().set_index("run_id")
    assert after.at[first, "status"] == "no data"
    assert np.isnan(after.at[first, "end_tokens"])
    assert after.at[dpo, "branch_tokens"] == before.at[dpo, "branch_tokens"]
    if form == "flat":
        # The older tables do not tell how many GPUs a run had, so that its own tokens are unknown.
        assert after.at[dpo, "status"].startswith("tokens unknown")
        return
    assert after.at[dpo, "status"] == "used"
    # Another process knows that the run stands between the base and the derived one.
    origin = origin_of(repository.registry)
    assert origin is not None
    sent = SentRuns(origin.columns, Readers(None, None, ""))
    assert [*sent.chain(dpo)] == repository.registry.chain(dpo)


def _stored(export: str, database: str, form: str) -> str:
    import psycopg

    ingest(export, database)
    if form == "flat":
        with psycopg.connect(database) as session:
            session.execute("ALTER TABLE wandb_runs ADD COLUMN raw_data jsonb, ADD COLUMN runtime integer")
            session.execute("UPDATE wandb_runs SET raw_data = config || summary")
            session.execute(
                "ALTER TABLE wandb_runs DROP COLUMN config, DROP COLUMN summary, DROP COLUMN wandb_metadata, "
                "DROP COLUMN system_metrics, DROP COLUMN system_attrs, DROP COLUMN sweep_info"
            )
    return database


# In the Dataset


@pytest.fixture(scope="module")
def branched(
    small_suite: dde.tutorial.Suite, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dde.tutorial.Suite, str, str]:
    """A tutorial suite in which one DPO run starts from step 7,300 of its SFT run."""
    folder = tmp_path_factory.mktemp("small")
    suite = replace(small_suite, wandb=shutil.copytree(small_suite.wandb, folder / "wandb"))
    path = folder / "wandb" / "runs_metadata.parquet"
    runs = pd.read_parquet(path).set_index("run_id", drop=False)
    (dpo,) = [r for r in runs.index if "150M__main__Ft_lr=1e-05_default_--learning_rate=5e-07" in r]
    (first,) = [r for r in runs.index if "lr_sweep_Ft_DD-dolma1_7-150M-38157-0_lr=1e-05" in r]
    config, launch = json.loads(runs.at[dpo, "config"]), json.loads(runs.at[dpo, "wandb_metadata"])
    config["model_name_or_path"] = json.loads(runs.at[first, "config"])["output_dir"] + "/step_7300"
    launch["args"] = []
    runs.at[dpo, "config"], runs.at[dpo, "wandb_metadata"] = json.dumps(config), json.dumps(launch)
    runs.to_parquet(path, index=False)
    return suite, first, dpo


def test_the_dataset_has_the_parent_up_to_the_branch_then_the_run(
    branched: tuple[dde.tutorial.Suite, str, str], tmp_path: Path
) -> None:
    suite, first, dpo = branched
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dde.open_lineages(
            suite.data, suite.wandb, params="150M", data="Dolma1.7", seed=0, metrics=["train_loss", "arc_easy"],
            cache_dir=tmp_path, grid="union",
        )  # fmt: skip
        rows = pd.read_parquet(Path(suite.wandb) / "runs_history.parquet")
        ds = ds.load()
    log = rows[(rows["run_id"] == first) & rows["train_loss"].notna()].sort_values("step")
    at = ds.run_id.values[0].tolist()
    run, before = ds.isel(lineage=0, run=at.index(dpo)), ds.isel(lineage=0, run=at.index(first))
    assert str(run["run"].values).endswith("@7300")
    assert str(run["branch_point"].values) == "@7300"
    branch = int(run["branch_tokens"])
    start = int(before["branch_tokens"])
    counted = float(log.loc[log["step"] == 7300, "total_tokens"].iloc[0])
    fell = (np.diff(log.loc[log["step"] <= 7300, "total_tokens"]) < 0).any()
    assert fell or branch == start + int(counted)
    assert branch < int(before["end_tokens"])
    tokens = ds["cumulative_tokens"].values
    prefix = tokens <= branch
    for name in ("train_loss", "arc_easy"):
        np.testing.assert_array_equal(run[name].values[prefix], before[name].values[prefix])
    assert not np.array_equal(run["train_loss"].values[~prefix], before["train_loss"].values[~prefix], equal_nan=True)
    own = rows[(rows["run_id"] == dpo) & rows["train_loss"].notna()].sort_values("step")
    frame = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=tmp_path).get_scaling_analysis([dpo])[0]
    logged = frame[frame["run_id"] == first]
    assert logged["cumulative_tokens"].max() == branch
    assert logged["step"].max() == 7300
    assert int(logged["train_loss"].notna().sum()) == int((log["step"] <= 7300).sum())
    mine = frame[(frame["run_id"] == dpo) & frame["train_loss"].notna()]
    np.testing.assert_array_equal(mine["train_loss"].to_numpy(), own["train_loss"].to_numpy())
    cells = run["train_loss"].sel(cumulative_tokens=mine["cumulative_tokens"].to_numpy())
    np.testing.assert_array_equal(cells.values, own["train_loss"].to_numpy())
    xr.testing.assert_identical(pickle.loads(pickle.dumps(ds)).load(), ds)


def test_pages_and_coverage_say_where_a_run_branches() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}})
    store = FakeStore([parent(), child(f"{FOLDER}/step_250")])
    repository = dde.RunRepository(tables, store)  # type: ignore[arg-type]
    assert f"{PARENT}, step_250" in repository.get_run("child")._repr_html_()
    row = repository.coverage().set_index("run_id").loc["child"]
    assert row["estimate"].startswith("branch at step 250: between the logged steps 200 and 300; step x 16 sequences")
    assert row["branch_tokens"] == FINAL_4M + 2550
