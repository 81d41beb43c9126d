"""Entities: made by hand, with the seed's constructors; equal, related, in lists; and their frames."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dde
from dde.entities.repository import RunRepository
from dde.entities.runs import LineageList, PosttrainingRun, RunList
from dde.errors import DdeWarning, LineageError, SelectionError, UnknownNameError
from dde.tutorial import Suite
from fakes import FakeStore, FakeTables, sft
from small_stores import FINAL, example

AT_STEP = "250901-155734_test_finetune_1Mtx1_DD-dolma1_7-4M-2000-0_lr=1e-05"


@pytest.mark.parametrize("parent", [None, "dolma1_7-4M-default"])
def test_a_lineage_as_parent_keeps_the_checkpoint_that_the_evidence_names(parent: str | None) -> None:
    run = PosttrainingRun(AT_STEP, FakeStore([sft(AT_STEP, [100.0])]), parent)
    assert run.parent_run_id == "dolma1_7-4M-default"
    rows = run.get_training_progression(["train_loss"])
    assert rows["cumulative_tokens"].tolist() == [2000 * 32 * 2048 + 100]


def test_a_run_as_parent_keeps_the_checkpoint_that_the_evidence_names() -> None:
    store = FakeStore([sft("a", [1e6, 2e6]), sft("b", [1e6], model_name_or_path="/m/a/step_100")])
    assert PosttrainingRun("b", store, "a").branch_tokens == FINAL + 1_000_000
    assert PosttrainingRun("b", store, "a@final").branch_tokens == FINAL + 2_000_000


def test_a_parent_that_disagrees_with_the_evidence_is_the_callers_word() -> None:
    run = PosttrainingRun(AT_STEP, FakeStore([sft(AT_STEP, [100.0])]), "dolma1_7-4M-default@1000")
    assert run.get_training_progression(["train_loss"])["cumulative_tokens"].tolist() == [1000 * 32 * 2048 + 100]
    with pytest.raises(SelectionError, match="Did you mean"):
        PosttrainingRun(AT_STEP + "x", FakeStore([sft(AT_STEP, [100.0])]), "dolma1_7-4M-default")


# Alone, equal, in lists


def made(**options: object) -> RunRepository:
    return RunRepository(*example(), **options)  # type: ignore[arg-type]


def test_a_run_without_a_repository_has_its_id_and_type_alone() -> None:
    run = dde.TrainingRun("x", "dpo")
    assert (run.run_id, run.run_type, repr(run)) == ("x", "dpo", "TrainingRun('x', 'dpo')")
    asked: list[Callable[[], object]] = [
        lambda: run.parent_run_id,
        lambda: run.child_run_ids,
        lambda: run.state,
        lambda: run.end_tokens,
        run.get_full_lineage,
        run.get_evaluations,
        run.siblings,
        run.to_dataset,
    ]
    for ask in asked:
        with pytest.raises(LineageError, match=r"repository\.get_run\('x'\)"):
            ask()
    assert "repository.get_run()" in run._repr_html_()
    assert pickle.loads(pickle.dumps(run)) == run
    assert run == dde.TrainingRun("x", "dpo") != dde.TrainingRun("x", "supervised_ft")
    assert run != made().get_run("a")
    with pytest.raises(SelectionError, match="neither store has a run 'x'"):
        _ = dde.TrainingRun("x", "dpo", repository=made()).end_tokens


def test_what_a_run_knows_of_its_place() -> None:
    repository = made(parents={"dead": "a@step_150"})
    rows = repository.coverage(state="all").set_index("run_id")
    for run_id in rows.index:
        run = repository.get_run(run_id)
        for name in ("branch_tokens", "end_tokens"):
            value, covered = getattr(run, name), rows.at[run_id, name]
            assert (value is None and np.isnan(covered)) or value == covered
            assert value is None or type(value) is int
        assert (run.state, run.lineage_id) == (rows.at[run_id, "state"], rows.at[run_id, "lineage"])
    assert repository.get_run("dead").branch_tokens == FINAL + 150_000_000
    orphan = RunRepository(None, FakeStore([sft("o", [1.0], model_name_or_path=None)])).get_run("o")  # type: ignore[arg-type]
    assert (orphan.lineage_id, orphan.branch_tokens, orphan.end_tokens) == (None, None, None)


def test_runs_and_lineages_of_the_same_content_are_equal(own_suite: Suite) -> None:

    def opened(**options: Any) -> RunRepository:
        return dde.DataDecideEvolved(own_suite.data, own_suite.wandb, cache_dir=None, **options).repository

    one, other = opened(), opened()
    label = "dolma1_7-4M-default"
    run_id = one.get_lineage(label).derived_runs[0].run_id
    for get in (lambda r: r.get_run(run_id), lambda r: r.get_lineage(label), lambda r: r.get_run(label)):
        assert get(one) == get(one)
        assert get(one) == get(other)
        assert len({get(one), get(other)}) == 1
        assert get(one) != get(opened(tokens_per_sequence=100.0))
    assert one.get_lineage(label) != one.get_run(label)
    assert one.get_lineage(label) != one.get_lineage("dclm-baseline-150M-default")
    runs = pd.read_parquet(Path(own_suite.wandb) / "runs_metadata.parquet")
    runs.assign(state="crashed").to_parquet(Path(own_suite.wandb) / "runs_metadata.parquet", index=False)
    assert one.get_run(run_id) != opened().get_run(run_id)
    # Sources that do not tell when they change are the same only where they are one object.
    assert made().get_run("a") != made().get_run("a")


def test_slices_and_sums_of_lists_open_as_datasets() -> None:
    repository = made()
    found = repository.find_lineages()
    assert isinstance(found[:1], LineageList)
    assert isinstance(found[1:] + found[:1], LineageList)
    assert (found[1:] + found[:1]).to_dataset(metrics=["piqa"]).sizes["lineage"] == 2
    assert found[:1].to_dataset(metrics=["piqa"]).lineage.values.tolist() == [found[0].lineage_id]
    assert found[0] == repository.get_lineage(found[0].lineage_id)
    once, twice = found[:1].get_continuous_curves(["piqa"]), (found[:1] + found[:1]).get_continuous_curves(["piqa"])
    pd.testing.assert_frame_equal(once, twice)
    with pytest.raises(SelectionError, match=r"different repositories.*dde\.concat"):
        (found[:1] + made().find_lineages()[1:]).to_dataset()
    with pytest.raises(SelectionError, match="no lineage"):
        found[:0].to_dataset()
    full = found.get_continuous_curves(["piqa"])
    assert found[:0].get_continuous_curves(["piqa"]).dtypes.equals(full.dtypes)


# Related runs


def test_related_runs() -> None:
    tables = FakeTables({f"{slug}-4M-default": {0: {"piqa": 0.5}} for slug in ("dolma1_7", "c4", "falcon")})
    falcon = "allenai/DataDecide-falcon-4M"
    store = FakeStore(
        [
            sft("a", [10.0], output_dir="/m/a", seed=1),
            sft("a2", [10.0], created="2025-09-01", seed=2),
            sft("hot", [10.0], learning_rate=1e-3, state="crashed"),
            sft("c4", [10.0], model_name_or_path="allenai/DataDecide-c4-4M"),
            sft("falcon", [10.0], model_name_or_path=falcon, reduce_loss="sum"),
            sft("falcon2", [10.0], model_name_or_path=falcon, reduce_loss="mean", created="2025-09-01"),
            sft("d", [10.0], program="dpo.py", model_name_or_path="/m/a"),
            sft("d2", [20.0], program="dpo.py", model_name_or_path="/m/a/step_50"),
        ]
    )
    repository = RunRepository(tables, store)  # type: ignore[arg-type]

    def ids(runs: RunList) -> list[str]:
        assert isinstance(runs, RunList)
        return [run.run_id for run in runs]

    run = repository.get_run
    assert ids(run("a").same_treatment()) == ["c4", "falcon", "falcon2"]
    # Both state how they reduce the loss, and differ in it.
    assert ids(run("falcon").same_treatment()) == ["a", "a2", "c4"]
    assert ids(run("d").same_treatment()) == []
    assert ids(run("c4-4M-default").same_treatment()) == ["dolma1_7-4M-default", "falcon-4M-default"]
    assert sorted(ids(run("a").same_base())) == ["d", "d2", "hot"]
    assert sorted(ids(run("dolma1_7-4M-default").same_base())) == ["a", "a2", "d", "d2", "hot"]
    assert ids(run("d").siblings()) == ["d2"]
    assert sorted(ids(run("a").siblings())) == ["a2", "hot"]
    assert ids(run("c4-4M-default").siblings()) == []
    opened = run("a").same_treatment()[:2].to_dataset(metrics=["train_loss"])
    assert opened.lineage.values.tolist() == ["c4-4M-default", "falcon-4M-default"]
    assert "falcon2" not in opened.run_id.values
    page = run("a").same_treatment()._repr_html_()
    assert page.count("<tr>") == 1 + 3
    with pytest.raises(SelectionError, match="no run"):
        run("c4-4M-default").siblings().to_dataset()
    with pytest.raises(SelectionError, match="c4-4M-default and only derived runs of other bases"):
        RunList([run("a"), run("c4-4M-default")]).to_dataset()


def test_related_runs_without_a_place_are_left_out_and_named() -> None:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}}})
    repository = RunRepository(tables, FakeStore([sft("a", [10.0]), sft("empty"), sft("b", [20.0])]))  # type: ignore[arg-type]
    with pytest.warns(DdeWarning, match=r"1 of 2 runs can't be placed .*empty \(no data\)"):
        ds = repository.get_run("a").siblings().to_dataset(metrics=["train_loss"])
    assert ds.run_id.values.tolist() == [["dolma1_7-4M-default", "b"]]
    with pytest.raises(SelectionError, match="no data"):
        RunList([repository.get_run("empty")]).to_dataset()


def test_two_lineages_side_by_side() -> None:
    tables = FakeTables({f"{slug}-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}} for slug in ("dolma1_7", "c4")})
    on_c4: dict[str, Any] = {"model_name_or_path": "allenai/DataDecide-c4-4M"}
    absent = "/m/2025_08_21-15_03_00_test_finetune_DD-c4-4M_main_100M_toks_--learning_rate=5e-06"
    store = FakeStore(
        [
            sft("a", [10.0], weight_decay=0.1, reduce_loss="sum", seed=1, per_device_train_batch_size=4),
            sft("b", [20.0], learning_rate=1e-3),
            sft("a4", [30.0], weight_decay=0, reduce_loss="mean", seed=2, **on_c4),
            sft("c4", [40.0], learning_rate=1e-4, **on_c4),
            sft("lost", [40.0], program="dpo.py", model_name_or_path=absent),
        ]
    )
    repository = RunRepository(tables, store)  # type: ignore[arg-type]
    one, other = (repository.get_lineage(f"{slug}-4M-default") for slug in ("dolma1_7", "c4"))
    frame = one.compare(other)
    assert frame.astype({"end_tokens": object, "other_end_tokens": object}).fillna(-1).to_numpy().tolist() == [
        ["pretraining", one.lineage_id, other.lineage_id, FINAL, FINAL, "data: Dolma1.7, C4"],
        ["sft_lr=1e-05_fullx1", "a", "a4", FINAL + 10, FINAL + 30, "weight_decay: 0.1, 0; reduce_loss: sum, mean"],
        ["sft_lr=0.0001_fullx1", "", "c4", -1, FINAL + 40, ""],
        ["sft_lr=0.001_fullx1", "b", "", FINAL + 20, -1, ""],
    ]
    assert {frame[name].dtype for name in ("end_tokens", "other_end_tokens")} == {np.dtype(np.float64)}
    assert frame.attrs["left_out"] == ["lost"]
    assert one.compare(one)["differs"].tolist() == ["", "", ""]


# Frames


def test_a_run_that_cannot_be_placed_warns_and_has_the_types_of_a_full_frame() -> None:
    tables, store = example()
    store.fake_runs.append(sft("orphan", [10.0], [0.5], model_name_or_path=None, evaluations={"piqa": 0.3}))
    store.fake_runs.append(sft("empty"))
    absent = "/m/2025_08_21-15_03_00_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-06"
    store.fake_runs.append(sft("lost", [10.0], program="dpo.py", model_name_or_path=absent))
    evolved = dde.DataDecideEvolved(None, store, cache_dir=None)
    evolved.repository = RunRepository(tables, store)  # type: ignore[arg-type]
    repository, lineage = evolved.repository, evolved.repository.get_lineage("lost")
    full = repository.get_run("d").get_training_progression()
    assert len(full)
    answers: list[tuple[str, Callable[[], pd.DataFrame]]] = [
        (r"'orphan' .*\(no parent found: .*parents=", repository.get_run("orphan").get_training_progression),
        (r"'orphan' .*\(no parent found: .*parents=", repository.get_run("orphan").get_evaluations),
        (r"'empty' .*\(no data\).*leave it out", repository.get_run("empty").get_training_progression),
        (r"'lost' .*\(parent not in store\).*parents=", repository.get_run("lost").get_evaluations),
        (r"'lost' .*\(parent not in store\).*parents=", lambda: lineage.get_continuous_curves(runs=["lost"])),
        (r"'lost' .*\(parent not in store\).*parents=", lambda: evolved.get_scaling_analysis(["lost"])[0]),
    ]
    for match, ask in answers:
        with pytest.warns(DdeWarning, match=match) as caught:
            frame = ask()
        assert {w.filename for w in caught} == {__file__}
        assert frame.empty
        if "train_loss" in frame:
            assert frame.dtypes.equals(full.dtypes)
        joined = pd.concat([frame, full], ignore_index=True)
        assert joined.dtypes[frame.columns].equals(full.dtypes[frame.columns])


def test_no_rows_of_the_chosen_metrics_is_an_answer_without_a_warning() -> None:
    tables, store = example()
    repository = RunRepository(tables, store)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = repository.get_run("dead").get_evaluations(["piqa"])
        lineages = RunRepository(None, store).get_lineage("a").get_continuous_curves(metrics=["train_loss"])  # type: ignore[arg-type]
        one = repository.get_run("a").get_training_progression()
    assert frame.empty
    assert [frame[name].dtype for name in ("cumulative_tokens", "piqa")] == [np.dtype(np.int64), np.dtype(np.float64)]
    assert len(lineages)
    assert one["reduce_loss"].unique().tolist() == ["sum"]


def test_frames_say_how_the_loss_is_reduced_and_warn_of_mixtures() -> None:
    tables, store = example()
    store.fake_runs.append(sft("mean", [1e8], reduce_loss="mean", learning_rate=1e-3))
    store.fake_runs.append(sft("on_c4", [1e8], reduce_loss="mean", model_name_or_path="allenai/DataDecide-c4-4M"))
    evolved = dde.DataDecideEvolved(None, store, cache_dir=None)
    evolved.repository = RunRepository(tables, store)  # type: ignore[arg-type]
    lineage = evolved.repository.get_lineage("a")
    with pytest.warns(DdeWarning, match=r"train_loss in different ways \(mean, sum\)"):
        frame = lineage.get_continuous_curves()
    assert frame.columns[frame.columns.get_loc("dpo_beta") + 1] == "reduce_loss"
    logged = frame[frame["train_loss"].notna()].groupby("run_id")["reduce_loss"].unique()
    assert {r: v.tolist() for r, v in logged.items()} == {"a": ["sum", ""], "d": [""], "mean": ["mean"], "dead": [""]}
    with pytest.warns(DdeWarning, match="different ways"):
        evolved.repository.find_lineages()[:2].get_continuous_curves(["train_loss"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evolved.get_scaling_analysis(["a", "mean", "d", "on_c4"])
        lineage.get_continuous_curves(metrics=["piqa"])
        lineage.get_continuous_curves(runs=["a", "d"], metrics=["train_loss"])
    other = RunRepository(None, FakeStore([sft("apart", [1e8], reduce_loss="mean")]))
    with pytest.warns(DdeWarning, match="different ways"):
        (evolved.repository.find_lineages(base_data="C4") + made().find_lineages()).get_continuous_curves()
    assert len((made().find_lineages() + other.find_lineages()).get_continuous_curves(["piqa"]))


def test_run_ids_and_lineages_together(tmp_path: Path) -> None:
    repository = dde.tutorial.open_repository("tiny", cache_dir=tmp_path)
    table = repository.table
    run_id = next(
        str(r) for r, used, root in zip(table.run_id, table.is_used, table.is_root, strict=True) if used and not root
    )
    lineage = repository.lineage_of(run_id)
    other = next(x for x in table.lineages if x != lineage)
    assert repository.to_dataset(run_ids=[run_id], lineages=[lineage, other]).lineage.values.tolist() == [lineage]
    assert run_id in repository.to_dataset(run_ids=run_id).run_id.values
    with pytest.raises(SelectionError, match=r"no run of run_ids= is in a lineage of lineages="):
        repository.to_dataset(run_ids=[run_id], lineages=[other])
    with pytest.raises(SelectionError, match="run_ids is empty"):
        repository.to_dataset(run_ids=[])


@pytest.mark.parametrize("wrong", [True, math.inf, 0, -1, "712"])
def test_tokens_per_sequence_is_a_positive_number(wrong: Any) -> None:
    assert dde.RunRepository(None, tokens_per_sequence=np.int64(712)) is not None  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="is not a positive number"):
        dde.RunRepository(None, tokens_per_sequence=wrong)
