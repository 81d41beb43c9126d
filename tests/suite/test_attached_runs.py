"""Post-training runs of a store on a declared suite, by the names of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dde
from dde.errors import LineageError, SourceError, UnknownNameError
from dde.suite.attached_runs import CheckpointNames
from dde.suite.reading.read_runs import SuiteTables
from fakes import FakeRun, FakeStore, sft
from samples import SUITES, needs_suites

STEP = 2_097_152
END = 143_000 * STEP


def pretraining(**options: Any) -> dde.Suite:
    """Declare two sizes on two data sets, evaluated at four checkpoints."""
    rows = [
        {"size": size, "data": data, "step": step, "acc": 0.2 + step / 1e6, "n": n}
        for size, n in (("70m", 70_000_000), ("410m", 400_000_000))
        for data in ("", "-deduped")
        for step in (0, 1000, 3000, 143_000)
    ]
    declared: dict[str, Any] = {
        "lineage": "pythia-{size}{data}",
        "run_id": "{size}{data}-pre",
        "tokens": {"per_step": STEP},
        "counts": "own",
        "n_params": "n",
        "checkpoints": "EleutherAI/pythia-{size}{data:|-deduped}@step{step:int}",
        "metrics": {"acc": dde.Metric("acc", "1", "higher")},
        "tables": [dde.Table(pd.DataFrame(rows))],
    }
    return dde.Suite("mini", **{**declared, **options})


def run(run_id: str, path: str, **options: Any) -> FakeRun:
    return sft(run_id, (1000, 2000, 3000), model_name_or_path=path, **options)


def store() -> FakeStore:
    return FakeStore(
        [
            run("final", "EleutherAI/pythia-70m", learning_rate=1e-5, evaluations={"arc_easy": 0.5}),
            run("again", "EleutherAI/pythia-70m@main", learning_rate=1e-5, created="2025-08-03"),
            run("revision", "EleutherAI/pythia-410m-deduped", model_revision="step3000", learning_rate=2e-5),
            run("folder", "/models/EleutherAI/pythia-410m-deduped/step1000/", learning_rate=2e-5),
            run("second", "anything", parent_run_id="final", learning_rate=3e-7, state="crashed"),
            run("inside", "anything", parent_run_id="final@step_200", learning_rate=4e-7),
            run("unknown", "some/other-model", learning_rate=2e-5),
            run("beyond", "EleutherAI/pythia-410m-deduped@step500000", learning_rate=2e-5),
        ],
        "fake",
    )


def test_runs_start_at_the_checkpoints_that_they_name() -> None:
    ds = dde.open_lineages(pretraining(), store(), cache_dir=None, state="all")
    assert ds.lineage.values.tolist() == [
        "pythia-70m",
        "pythia-70m-deduped",
        "pythia-410m",
        "pythia-410m-deduped",
    ]
    where = {run_id: at for at, run_id in np.ndenumerate(ds.run_id.values) if run_id}
    branch, end = ds.branch_tokens.values, ds.end_tokens.values
    assert branch[where["final"]] == END
    assert end[where["final"]] == END + 3000
    assert branch[where["revision"]] == 3000 * STEP
    assert branch[where["folder"]] == 1000 * STEP
    assert branch[where["second"]] == END + 3000
    assert branch[where["inside"]] == END + 2000
    assert ds.run.values[where["revision"][1]] == "sft_lr=2e-05_fullx1@3000"
    assert ds.run.values[where["again"][1]] == "sft_lr=1e-05_fullx1#2"
    assert ds.run.values[where["second"][1]] == "sft_lr=1e-05_fullx1+sft_lr=3e-07_fullx1"
    assert ds.attrs["left_out"] == "branch unknown: 1; parent unknown: 1"
    assert ds.attrs["posttraining_source"] == "fake"
    assert "unknown" not in where
    # Its curve: the pretraining run up to the branch, then its own log; evaluations at its end.
    acc = ds.acc[where["revision"]].to_series().dropna()
    assert acc.index.tolist()[-1] == 3000 * STEP
    loss = ds.train_loss[where["revision"]].to_series().dropna()
    assert loss.index.tolist() == [3000 * STEP + t for t in (1000, 2000, 3000)]
    assert ds.arc_easy[where["final"]].to_series().dropna().to_dict() == {END + 3000: 0.5}
    # Compute goes on with the weights of the parent.
    compute = ds.cumulative_compute.sel(lineage="pythia-410m-deduped", cumulative_tokens=3000 * STEP)
    assert float(compute) == 6.0 * 400_000_000 * 3000 * STEP


def test_filters_on_the_runs_of_the_store() -> None:
    suite, runs = pretraining(), store()
    ds = dde.open_lineages(suite, runs, cache_dir=None)
    assert "second" not in ds.run_id.values
    assert "state crashed: 1" in ds.attrs["left_out"]
    assert dde.open_lineages(suite, runs, cache_dir=None, learning_rate=2e-5).run.values.tolist() == [
        "pretraining",
        "sft_lr=2e-05_fullx1@1000",
        "sft_lr=2e-05_fullx1@3000",
    ]
    chosen = dde.open_lineages(suite, runs, cache_dir=None, method="supervised_ft", size="70m", data="")
    assert chosen.lineage.values.tolist() == ["pythia-70m"]


def test_coverage_says_what_became_of_each() -> None:
    repository = dde.RunRepository.from_suite(pretraining(), None, store())
    status = repository.coverage("all").set_index("run_id")["status"]
    assert status["unknown"] == (
        "parent unknown: nothing in config, launch command or fork names a checkpoint of the suite"
    )
    assert status["beyond"] == "branch unknown: step 500000 lies beyond the parent's last row at step 143000"
    assert (status[["final", "again", "revision", "folder", "second", "inside"]] == "used").all()
    without = dde.RunRepository.from_suite(pretraining(checkpoints=()), None, store()).coverage("all")
    assert without.set_index("run_id")["status"]["revision"].endswith(
        "declares no checkpoints by which runs could name theirs"
    )


def test_parents_settle_where_runs_start() -> None:
    parents = {"unknown": "70m-deduped-pre@step_1000", "beyond": "EleutherAI/pythia-70m@step3000", "folder": "final"}
    ds = dde.open_lineages(pretraining(), store(), cache_dir=None, state="all", parents=parents)
    where = {run_id: at for at, run_id in np.ndenumerate(ds.run_id.values) if run_id}
    branch = {run_id: ds.branch_tokens.values[where[run_id]] for run_id in parents}
    assert branch == {"unknown": 1000 * STEP, "beyond": 3000 * STEP, "folder": END + 3000}
    for wrong, message in (
        ({"unknwon": "final"}, "names the run 'unknwon', which is not in the store"),
        ({"unknown": "finla"}, "neither a run nor a checkpoint that is known.*mean final"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            dde.open_lineages(pretraining(), store(), cache_dir=None, parents=wrong)


def test_an_id_of_both_is_no_id() -> None:
    both = FakeStore([run("70m-pre", "EleutherAI/pythia-70m")], "fake")
    with pytest.raises(LineageError, match=r"both have a run '70m-pre'"):
        dde.open_lineages(pretraining(), both, cache_dir=None)


def test_a_name_that_fits_several_runs_is_refused() -> None:
    suite = pretraining(checkpoints="org/model-{size}@step{step:int}")
    names = CheckpointNames(suite, SuiteTables(suite).runs())
    found = names.find("org/model-70m@step1000")
    assert found is not None
    # One of the two has no data set in its name: that is the plain one, by the path's fields; a frame has none.
    assert found.run_id == ""
    assert found.candidates == ("70m-pre", "70m-deduped-pre")
    runs = FakeStore([run("x", "org/model-70m@step1000")], "fake")
    status = dde.RunRepository.from_suite(suite, None, runs).coverage().set_index("run_id")["status"]
    assert status["x"] == "parent unknown: org/model-70m@step1000 fits the runs 70m-pre, 70m-deduped-pre of the suite"


def test_parents_without_a_store() -> None:
    with pytest.raises(SourceError, match="without a store of post-training runs"):
        dde.open_lineages(pretraining(), cache_dir=None, tokens_per_sequence=700)


@needs_suites
def test_a_store_on_the_real_pythia(tmp_path: Path) -> None:
    runs = FakeStore(
        [
            run("tuned", "EleutherAI/pythia-410m-deduped", model_revision="step133000", learning_rate=1e-5),
            run("last", "EleutherAI/pythia-1.4b-deduped", learning_rate=1e-5),
        ],
        "fake",
    )
    ds = dde.open_lineages(SUITES / "pythia", runs, suite="pythia", metrics=["piqa_acc", "train_loss"], cache_dir=None)
    where = {run_id: at for at, run_id in np.ndenumerate(ds.run_id.values) if run_id}
    assert ds.branch_tokens.values[where["tuned"]] == 133_000 * STEP
    assert ds.branch_tokens.values[where["last"]] == END
    curve, base = ds.piqa_acc[where["tuned"]], ds.piqa_acc[where["410m-deduped-pretraining"]]
    before = ds.cumulative_tokens.values <= 133_000 * STEP
    np.testing.assert_array_equal(curve.values[before], base.values[before])
    assert curve.values[before].size > 10
    assert (
        float(ds.dde.final("train_loss").values[where["tuned"]])
        == float(ds.train_loss[where["tuned"]].max("cumulative_tokens")) / 3
    )
