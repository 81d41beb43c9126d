"""Evidence as training programs write it today, and evidence that can't be true: what is believed, and what is said."""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dde
from dde.lineage.counts import MOST
from dde.sources.protocols import CONFIG_KEYS, SUMMARY_KEYS
from dde.suite.datadecide.runs.evidence import gather_evidence
from dde.suite.datadecide.runs.readers import Readers
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.registry_handle import origin_of
from dde.suite.datadecide.runs.token_counts import TULU_TOKENS_PER_SEQUENCE
from dde.suite.datadecide.runs.worker_runs import SentRuns
from fakes import HUB, FakeRun, FakeStore, FakeTables, sft

FINAL_4M = 5_725 * 32 * 2048


def registry(*runs: FakeRun, **options: Any) -> Registry:
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    return Registry(tables, FakeStore(list(runs)), **options)  # type: ignore[arg-type]


def logged(run: FakeRun, *rows: tuple[int, dict[str, float]], **summary: Any) -> FakeRun:
    """Return a run with those rows of its log and that summary."""
    run.rows[:] = rows
    run.record = replace(run.record, summary=summary)
    return run


def own_end(resolved: Registry, run_id: str) -> int:
    return (resolved.placed[run_id].end_tokens or 0) - FINAL_4M


def said(resolved: Registry, run_id: str) -> str:
    run, placed = resolved.derived[run_id], resolved.placed[run_id]
    return "; ".join([*run.parentage.contradictions, *run.evidence.contradictions, *placed.end.notes])


# Keys of config


def test_dpo_of_open_instruct_as_it_is_today() -> None:
    # dpo_tune_cache.py: DPOExperimentConfig. The defaults of finetuning are not set.
    config = {
        "beta": 5.0,
        "loss_type": "dpo_norm",
        "num_epochs": 2,
        "mixer_list": ["mix", "1.0"],
        "max_seq_length": 2048,
    }
    run = sft("d", program="dpo_tune_cache.py", num_train_epochs=None, **config)
    resolved = registry(run).derived["d"]
    assert resolved.run_type == "dpo"
    assert resolved.label == "dpo_lr=1e-05_fullx2_beta=5"
    assert resolved.hyperparameters["dpo_loss_type"] == "dpo_norm"
    assert resolved.evidence.dataset == "mix 1.0"
    assert not resolved.evidence.contradictions
    # Where no program is known, beta with a loss of DPO tells the method; beta alone is of many methods.
    assert gather_evidence(sft("d", program="", **config).record).run_type == "dpo"
    assert gather_evidence(sft("d", program="", beta=0.1).record).run_type == "other"
    beside = gather_evidence(sft("s", beta=0.1, loss_type="nll").record)
    assert "dpo_beta" not in beside.hyperparameters
    # The launch command has the same names.
    written = sft("d", program="dpo.py", num_train_epochs=None, command=["--num_epochs", "3", "--beta", "0.1"])
    assert registry(written).derived["d"].label == "dpo_lr=1e-05_fullx3_beta=0.1"


def test_two_names_of_one_key_that_disagree_are_reported() -> None:
    item = gather_evidence(sft("a", num_epochs=3, max_seq_length=4096, sequence_len=4096).record)
    assert item.hyperparameters["epochs"] == 1
    assert item.contradictions == [
        "num_train_epochs: config num_train_epochs 1, num_epochs 3; num_train_epochs believed"
    ]


def test_a_config_in_groups() -> None:
    # olmo_core_finetune.py logs SFTArguments.
    run = sft("s", [100.0], program="open_instruct/olmo_core_finetune.py")
    groups = {
        "tracking": {"exp_name": "sft", "seed": 7},
        "model": {"model_name_or_path": "allenai/DataDecide-c4-4M", "model_revision": "step2500-seed-default"},
        "training": {"learning_rate": 8e-5, "num_epochs": 3, "max_seq_length": 4096, "per_device_train_batch_size": 2,
                     "gradient_accumulation_steps": 4, "max_train_steps": None},
        "dataset": {"mixer_list": ["mix", "1.0"]},
        "logging": {"logging_steps": 1},
        "checkpoint": {"output_dir": "/m/s"},
    }  # fmt: skip
    run.record = replace(run.record, config=groups)
    resolved = registry(run, sft("child", [50.0], model_name_or_path="/m/s"))
    found = resolved.derived["s"]
    assert (found.run_type, found.lineage, found.label) == (
        "supervised_ft",
        "c4-4M-default",
        "sft_lr=8e-05_fullx3@2500",
    )
    assert found.evidence.sequences_per_step == 16
    assert found.hyperparameters["training_seed"] == 7
    assert found.evidence.dataset == "mix 1.0"
    assert resolved.derived["child"].parent_run_id == "s"
    # A key outside of a group counts more, as text in JSON does.
    run.record = replace(
        run.record, config={"learning_rate": 1e-5, **groups, "training": json.dumps(groups["training"])}
    )
    item = gather_evidence(run.record)
    assert item.hyperparameters["learning_rate"] == 1e-5
    assert item.contradictions == ["learning_rate: config 1e-05, config.training 8e-05; config believed"]


def test_other_programs_state_the_method_in_their_own_way() -> None:
    kinds = {
        "trl/scripts/sft.py": ({}, [], "supervised_ft"),
        "scripts/run_dpo.py": ({}, [], "dpo"),
        "/venv/bin/trl": ({}, ["dpo", "--model_name_or_path", HUB, "--beta", "0.2"], "dpo"),
        "src/train.py": ({"finetuning_args": {"stage": "sft"}}, [], "supervised_ft"),
        "llamafactory-cli": ({"finetuning_args": {"stage": "dpo", "pref_beta": 0.2}}, [], "dpo"),
        "train_grpo.py": ({"beta": 0.04}, [], "other"),
    }
    for program, (config, command, run_type) in kinds.items():
        item = gather_evidence(sft("r", program=program, command=command, **config).record)
        assert item.run_type == run_type, program
        if run_type == "dpo" and program != "scripts/run_dpo.py":
            assert item.hyperparameters["dpo_beta"] == 0.2
    # What transformers logs of the model is the last evidence before the name.
    run = registry(sft("r", [1e6], model_name_or_path=None, _name_or_path="allenai/DataDecide-c4-4M")).derived["r"]
    assert (run.lineage, run.parentage.evidence) == ("c4-4M-default", "config._name_or_path")
    # A model generates max_length tokens at most, unless a trainer of TRL reads as many.
    assert math.isnan(gather_evidence(sft("r", max_length=20).record).most_tokens_per_sequence)
    assert gather_evidence(sft("r", max_length=20, truncation_mode="keep_end").record).most_tokens_per_sequence == 20


@pytest.mark.parametrize("revision", ["step99999999999999999999-seed-default", "step_" + "9" * 3000])
def test_a_revision_beyond_range_is_not_the_final_checkpoint(revision: str) -> None:
    resolved = registry(
        sft("a", [10.0], model_revision=revision), sft("b", [10.0], model_name_or_path=f"{HUB}/{revision}")
    )
    for run_id in "ab":
        status = resolved.placed[run_id].status
        assert status.startswith("no parent found: step of the checkpoint is beyond 64 bits: step")
        assert len(status) < 200


# Counters


@pytest.mark.parametrize(
    "key",
    ["perf/total_tokens", "val/total_tokens", "val/num_total_tokens", "throughput/total tokens", "train/num_tokens",
     "train/num_input_tokens_seen", "num_tokens"],
)  # fmt: skip
def test_counters_of_todays_programs(key: str) -> None:
    run = logged(sft("a"), *((100 * i, {key: 1e5 * i, "train_loss": 1.0}) for i in (1, 2, 3)), _step=300)
    dpo = sft(
        "d", program="dpo.py", output_dir="", model_name_or_path="/x/a/step_200", beta=5, evaluations={"piqa": 1.0}
    )
    logged(dpo, (1, {key: 40.0}), (2, {key: 100.0}))
    resolved = registry(run, dpo, sft("plain", [10.0, 20.0]))
    assert (own_end(resolved, "a"), resolved.placed["a"].token_source) == (300_000, "logged")
    assert resolved.placed["d"].branch_tokens == FINAL_4M + 200_000
    assert (own_end(resolved, "d"), resolved.placed["d"].token_source) == (200_100, "logged")
    assert not said(resolved, "a")
    # Without rows, the summary has the last count.
    bare = logged(sft("a", evaluations={"piqa": 0.5}), **{key: 7e5, "_step": 300})
    assert own_end(registry(bare), "a") == 700_000


def test_other_counters_are_read_of_runs_without_the_usual_one_alone() -> None:
    store = FakeStore([sft("a", [10.0, 20.0]), sft("bare", evaluations={"piqa": 0.5})])
    _ = Registry(None, store).placed  # type: ignore[arg-type]
    assert store.history_calls == [(("a", "bare"), ("total_tokens",))]
    store.fake_runs.append(logged(sft("d", program="dpo.py"), (1, {"train_loss": 1.0})))
    store.history_calls.clear()
    _ = Registry(None, store).placed  # type: ignore[arg-type]
    assert [run_ids for run_ids, _ in store.history_calls] == [("a", "bare", "d"), ("d",)]


def test_the_first_of_several_counters_is_used() -> None:
    rows = ((100 * i, {"total_tokens": 100.0 * i, "perf/total_tokens": 777.0 * i}) for i in (1, 2))
    assert own_end(registry(logged(sft("a"), *rows)), "a") == 200


def test_counters_that_do_not_count_all_steps_are_refused() -> None:
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "beta": 5}
    rows = [(10 * i, {"perf/total_tokens": 1000.0 * i}) for i in range(1, 4)]
    # open-instruct adds up the steps at which metrics are collected.
    some = logged(sft("some", program="dpo.py", logging_steps=10, **batch), *rows)
    # verl logs the tokens of each step.
    each = logged(
        sft("each", program="dpo.py", **batch), *((i, {"perf/total_tokens": 900.0 + i % 3}) for i in range(30))
    )
    resolved = registry(some, each)
    assert own_end(resolved, "some") == 30 * 2 * 4 * 2 * 2 * TULU_TOKENS_PER_SEQUENCE
    assert resolved.placed["some"].token_source == resolved.placed["each"].token_source == "estimated"
    assert "perf/total_tokens: counts one of 10 steps (logging_steps)" in said(resolved, "some")
    assert "so it counts each step alone" in said(resolved, "each")


def test_steps_of_a_transformers_log_are_training_steps() -> None:
    # Each call of log is a step of W&B; checkpoint-400 and the batch go by the training step.
    def run(run_id: str, *rows: dict[str, float], **options: Any) -> FakeRun:
        batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "output_dir": f"/m/{run_id}"}
        made = sft(run_id, program="trl/scripts/sft.py", state="crashed", **batch | options)
        return logged(made, *((i, {"train/global_step": 100.0 * (i + 1)} | row) for i, row in enumerate(rows)))

    counted = run("counted", *({"train/num_tokens": 7000.0 * (i + 1)} for i in range(5)))
    uncounted = run("uncounted", *({} for _ in range(5)))
    children = [sft(f"of_{p}", [10.0], model_name_or_path=f"/m/{p}/checkpoint-400") for p in ("counted", "uncounted")]
    resolved = registry(counted, uncounted, *children)
    assert resolved.placed["of_counted"].branch_tokens == FINAL_4M + 28_000
    per_step = 2 * 4 * 2 * TULU_TOKENS_PER_SEQUENCE
    assert own_end(resolved, "uncounted") == 500 * per_step
    assert resolved.placed["of_uncounted"].branch_tokens == FINAL_4M + 400 * per_step


def test_repeated_steps_and_impossible_counts_of_any_counter_are_counted() -> None:
    for key in ("total_tokens", "perf/total_tokens"):
        rows = [(100, {key: 100.0}), (200, {key: 200.0}), (200, {key: 250.0}), (300, {key: -1.0}), (300, {key: 300.0})]
        resolved = registry(logged(sft("a"), *rows))
        assert own_end(resolved, "a") == 300
        end = resolved.placed["a"].end
        assert (end.counter, end.repeated_steps, end.impossible_counts) == (key, 2, 1)


# Several machines


def test_a_batch_of_one_machine_of_several_is_refused() -> None:
    mix = {"dataset_mixer_list": ["mix", "1.0"], "max_seq_length": 4096}
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 16, **mix}
    one = sft("one", [1e6, 100 * 2 * 64 * 2 * 700.0], **batch)
    # Eight machines of two GPUs: W&B keeps two.
    eight = sft("eight", [1e6, 8 * 100 * 2 * 64 * 2 * 700.0], **batch)
    rows = (1, {"train_loss": 1.0}), (2, {"train_loss": 1.0})
    dpo = logged(sft("dpo", program="dpo.py", beta=5, **batch), *rows)
    resolved = registry(one, eight, dpo)
    # Were it believed, the mean of both would be 3,150.
    assert own_end(resolved, "dpo") == 2 * 128 * 2 * 700
    assert "5600 tokens each, more than the 4096 of max_seq_length" in said(resolved, "eight")
    assert resolved.derived["eight"].evidence.sequences_per_step is None
    assert resolved.placed["eight"].token_source == "logged"
    assert not said(resolved, "one")
    # The summary alone tells it too, before labels are made.
    by_summary = logged(sft("s", [1e6, 2e6], **batch), *one.rows, _step=200, total_tokens=8 * 200 * 128 * 700.0)
    assert gather_evidence(by_summary.record).sequences_per_step is None


# Forks of W&B


def fork(counts: dict[int, float], **options: Any) -> FakeRun:
    point = {"branch_point": {"run_id": "source", "step": 200}}
    run = sft("fork", learning_rate=2e-5, **{"_wandb": point} | options)
    return logged(run, *((step, {"total_tokens": c, "train_loss": 1.0}) for step, c in counts.items()))


@pytest.mark.parametrize(
    ("counts", "end", "source"),
    [
        # With the rows of its source; the trainer counts on, or anew.
        ({100: 1000.0, 200: 2000.0, 300: 3100.0, 400: 4200.0}, 2200, "logged"),
        ({100: 1000.0, 200: 2000.0, 300: 1100.0, 400: 2200.0}, 2200, "logged"),
        # With its own alone.
        ({300: 1100.0, 400: 2200.0}, 2200, "logged"),
        ({300: 3100.0, 400: 4200.0}, 2200, "estimated"),
    ],
)
def test_a_fork_branches_inside_its_source(counts: dict[int, float], end: int, source: str) -> None:
    resolved = registry(sft("source", [1000.0, 2000.0, 3000.0]), fork(counts))
    placed = resolved.placed["fork"]
    assert resolved.derived["fork"].parent_run_id == "source"
    assert resolved.derived["fork"].parentage.evidence == "config._wandb.branch_point"
    assert resolved.derived["fork"].label == "sft_lr=1e-05_fullx1+sft_lr=2e-05_fullx1@200"
    assert (placed.branch_tokens, placed.token_source) == (FINAL_4M + 2000, source)
    assert own_end(resolved, "fork") == 2000 + end
    # Its source's rows are its source's.
    (rows,) = resolved.placements.of(["fork"])
    assert rows.steps.tolist() == [300, 400]


def test_the_curve_of_a_fork_is_its_sources_up_to_the_fork() -> None:
    source = sft("source", [1000.0, 2000.0, 3000.0], [3.0, 2.0, 1.5])
    forked = fork({100: 1000.0, 200: 2000.0, 300: 3100.0, 400: 4200.0})
    for k, (_, row) in enumerate(forked.rows):
        row["train_loss"] = (3.0, 2.0, 1.25, 1.125)[k]
    resolved = registry(source, forked)
    repository = dde.RunRepository(resolved.tables, resolved.store)
    ds = repository.to_dataset(metrics=["train_loss"], grid="union")
    curve = ds.train_loss.sel(run=resolved.derived["fork"].label)[0].dropna("cumulative_tokens")
    assert (curve.cumulative_tokens.values - FINAL_4M).tolist() == [1000, 2000, 3100, 4200]
    assert curve.values.tolist() == [3.0, 2.0, 1.25, 1.125]


def test_forks_that_have_no_place_say_why() -> None:
    statuses = {
        "parent not in store": registry(fork({300: 1.0, 400: 2.0})),
        "no parent found: config._wandb.branch_point names no step": registry(
            sft("source", [1000.0]),
            fork({300: 1.0}, _wandb={"value": {"branch_point": {"run_id": "source", "step": 1e30}}}),
        ),
        "tokens unknown: nothing tells whether its counter went on": registry(
            sft("source", [1000.0, 2000.0]), fork({300: 3100.0})
        ),
        "branch unknown: step 250 lies beyond": registry(
            sft("source", [1.0]), fork({300: 1.0, 400: 2.0}, _wandb={"branch_point": {"run_id": "source", "step": 250}})
        ),
    }
    for status, resolved in statuses.items():
        assert resolved.placed["fork"].status.startswith(status)
    # A run that was rewound names itself.
    rewound = sft("r", [10.0, 20.0], _wandb={"branch_point": {"run_id": "r", "step": 100}})
    assert registry(rewound).placed["r"].status == "used"


# What can't be true


LONG = "9" * 5000
ABSURD: dict[str, FakeRun] = {
    "step": sft(f"250901-155734_x_ft_DD-dolma1_7-4M-{'9' * 30}-0_lr=1e-05", [10.0]),
    "step of tokens": sft(f"250901-155734_x_ft_DD-dolma1_7-4M-{MOST}-0_lr=1e-05", [10.0]),
    "epochs": sft(f"x_1Mtx{'9' * 400}_DD-dolma1_7-4M", [10.0], num_train_epochs=None),
    "epochs of 5,000": sft(f"x_1Mtx{LONG}_DD-dolma1_7-4M", [10.0], num_train_epochs=None),
    "epochs of config": sft("e", [10.0], num_train_epochs=1e300),
    "negative epochs": sft("ne", [10.0], num_train_epochs=-3),
    "budget": sft("b", [10.0], finetune_tokens=1e30),
    "budget of the name": sft(f"x_{LONG}Bt_DD-dolma1_7-4M", [10.0]),
    "negative samples": sft("ns", [10.0], max_train_samples=-5),
    "sequences": sft("s", evaluations={"piqa": 0.5}, finetune_unique_sequences=1e300),
    "many sequences": sft("ms", evaluations={"piqa": 0.5}, finetune_sequences=10**400),
    "parent step": sft("ps", [10.0], parent_run_id=f"c4-4M-default@{LONG}", model_name_or_path=None),
    "checkpoint": sft("cp", [10.0], model_name_or_path=f"/m/sound/step_{LONG}"),
    "epoch checkpoint": sft("ep", [10.0], model_name_or_path=f"/m/sound/epoch_{10**18}"),
    "path": sft("pa", [10.0], model_name_or_path="/a" * 50_000),
    "two models": sft("250911-101010_DD-c4-150M-2500-0_Ft_DD-d17-300M-17500-0", [10.0], model_name_or_path=None),
    "summary": logged(sft("su", evaluations={"piqa": 0.5}), total_tokens=1e300, _step=10**400),
}
#: Refused as evidence; the run has another place or value, and says what was refused.
REFUSED: dict[str, FakeRun] = {
    "counter of 2^63": logged(sft("c63"), (100, {"total_tokens": 50.0}), (200, {"total_tokens": 2.0**63})),
    "negative counts": logged(sft("neg"), (100, {"total_tokens": -9.0}), (200, {"total_tokens": 50.0})),
    "negative steps": logged(sft("ng"), (-100, {"total_tokens": 5.0}), (200, {"total_tokens": 50.0})),
    "gpus": sft("g", [10.0], gpu_count=10**30, per_device_train_batch_size=2, gradient_accumulation_steps=4),
    "no gpus": sft("g0", [10.0], gpu_count=-1, per_device_train_batch_size=2, gradient_accumulation_steps=4),
    "learning rate": sft("lr", [10.0], learning_rate="NaN"),
    "decay": sft("wd", [10.0], weight_decay=math.inf),
}


def test_one_run_never_blocks_the_store() -> None:
    runs = [*ABSURD.values(), *REFUSED.values(), sft("sound", [100.0], output_dir="/m/sound")]
    runs += [sft("seed", [10.0], seed=2**70), sft("steps", [10.0], pretrain_steps=10**300, learning_rate=3e-5)]
    tables = FakeTables({"dolma1_7-4M-default": {0: {"piqa": 0.5}, 5725: {"piqa": 0.6}}})
    repository = dde.RunRepository(tables, FakeStore(runs))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coverage = repository.coverage().set_index("run_id")
        ds = repository.to_dataset(metrics=["piqa", "train_loss"], grid="union").load()
    for what, run in ABSURD.items():
        row = coverage.loc[run.record.run_id]
        assert row["status"] != "used", what
        assert 10 < len(row["status"]) < 300, what
        assert np.isnan(row["end_tokens"]) or row["end_tokens"] < 1e13, what
    for what, run in REFUSED.items():
        row = coverage.loc[run.record.run_id]
        assert row["status"] == "used", what
        assert re.search("not used|no place|are not counts", row["contradictions"]), what
    assert {"sound", "seed", "steps"} <= set(ds.run_id.values.ravel())
    assert (ds.cumulative_tokens.values >= 0).all()
    assert len(coverage) == 1 + len(runs)


ANYTHING: list[Any] = [
    None, "", "NaN", "Infinity", math.nan, math.inf, -1, 0, 1, 5e-324, 1e300, -1e300, 10**400, -(10**400), 2**63, True,
    [], {}, ["a"], {"a": 1}, LONG, "a\0b", "\ud800", "null", "[1, 2]", '{"beta": 1}', "r0", "/m/r0/step_100",
    f"step_{LONG}",    {"branch_point": {"run_id": "r0", "step": 100}}, {"branch_point": []},
    {"learning_rate": math.inf, "num_epochs": 10**400},
    {"model_name_or_path": ["x"]}, "sft", "dpo", "1_000", "0x10",
]  # fmt: skip


@pytest.mark.parametrize("program", ["finetune.py", "dpo.py", ""])
def test_any_value_under_any_key_is_survived(program: str) -> None:
    runs = [sft("r0", [100.0, 200.0], output_dir="/m/r0")]
    for value in ANYTHING:
        for key in CONFIG_KEYS:
            runs.append(sft(f"r{len(runs)}", [100.0, 200.0], program=program, **{key: value}))
        for key in SUMMARY_KEYS:
            run = sft(f"r{len(runs)}", program=program, evaluations={"piqa": 0.5}, max_train_samples=10)
            runs.append(logged(run, **{"_step": 10, key: value}))
        for text in (str(value)[:4000], "-" * 9):
            written = ["--num_epochs", text, f"--beta={text}", "--model_name_or_path", text]
            runs.append(sft(f"r{len(runs)}", [100.0], program=program, command=written, model_name_or_path=None))
    resolved = registry(*runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run_id, placed in resolved.placed.items():
            assert resolved.derived[run_id].evidence.record.run_id == run_id
            assert placed.branch_tokens is None or 0 <= placed.branch_tokens <= MOST
            assert placed.end_tokens is None or 0 <= placed.end_tokens <= MOST
            assert len(placed.status) < 5000
    assert resolved.placed["r0"].status == "used"


def test_what_is_representable_is_taken_to_the_last_token() -> None:
    most = float(2**53 - 1)
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 8, "state": "crashed"}
    per_step = 128 * TULU_TOKENS_PER_SEQUENCE
    last = (MOST - FINAL_4M) // per_step
    resolved = registry(
        sft("fits", [most]),
        logged(sft("sum"), *((100 * i, {"total_tokens": c}) for i, c in enumerate([most, 1.0] * 1100))),
        logged(sft("last", **batch), (1, {}), (last - 10**5, {})),  # a product of floats ends in 10 bits less
        logged(sft("rate", **batch), (1, {}), (MOST, {})),
        logged(sft("above", **batch), (1, {}), (last + 10**3, {})),
    )
    assert own_end(resolved, "fits") == most
    assert resolved.placed["last"].status == "used"
    assert abs(own_end(resolved, "last") - (last - 10**5) * per_step) < 2**11
    for run_id in ("sum", "rate", "above"):
        placed = resolved.placed[run_id]
        assert placed.status.endswith("more tokens than 64 bits count")
        assert placed.end_tokens is None


# In files, and in other processes


def _jsonl(folder: Path, runs: dict[str, dict[str, Any]], rows: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir()
    config = {"model_name_or_path": HUB, "learning_rate": 1e-5, "per_device_train_batch_size": 2}
    config |= {"gradient_accumulation_steps": 4}
    launch = {"program": "finetune.py", "gpu_count": 2, "args": []}
    with open(folder / "runs.jsonl", "w") as out:
        for run_id, run in runs.items():
            record = {
                "run_id": run_id,
                "run_name": run_id,
                "state": "finished",
                "summary": {},
                "wandb_metadata": launch,
            }
            out.write(json.dumps(record | {"config": config | run.pop("config", {})} | run) + "\n")
    with open(folder / "history.jsonl", "w") as out:
        for run_id, logged_rows in rows.items():
            out.writelines(json.dumps({"run_id": run_id, **row}) + "\n" for row in logged_rows)
    return folder


def test_another_process_places_rows_by_the_same_counters(tmp_path: Path) -> None:
    steps = range(100, 600, 100)
    rows = {
        "classic": [{"_step": s, "total_tokens": 10.0 * s, "train_loss": 1.0} for s in steps],
        "perf": [{"_step": s, "perf/total_tokens": 11.0 * s, "train_loss": 1.0} for s in steps],
        "trl": [
            {"_step": s // 100, "train/num_tokens": 12.0 * s, "train/global_step": s, "train_loss": 1.0} for s in steps
        ],
        "log": [{"_step": s // 100, "train/global_step": s, "train_loss": 1.0} for s in steps],
        "fork": [{"_step": s, "total_tokens": 13.0 * s, "train_loss": 1.0} for s in steps],
    }
    runs: dict[str, dict[str, Any]] = {run_id: {"config": {"num_epochs": k}} for k, run_id in enumerate(rows, 1)}
    runs["log"]["state"] = "crashed"
    runs["fork"]["config"]["_wandb"] = {"branch_point": {"run_id": "classic", "step": 250}}
    folder = _jsonl(tmp_path / "store", runs, rows)
    suite = dde.tutorial.make_suite(tmp_path / "suite", "tiny")
    for _ in range(2):  # read, then kept
        repository = dde.DataDecideEvolved(suite.data, folder, cache_dir=tmp_path / "cache").repository
        resolved = repository.registry
        assert {resolved.placed[r].status for r in rows} == {"used"}
        assert resolved.placed["perf"].end_tokens == FINAL_4M + 5500
        assert resolved.placed["trl"].end_tokens == FINAL_4M + 6000
        assert resolved.placed["log"].end_tokens == FINAL_4M + 500 * 16 * TULU_TOKENS_PER_SEQUENCE
        assert resolved.placed["fork"].branch_tokens == FINAL_4M + 2500
        assert resolved.placed["fork"].end_tokens == FINAL_4M + 2500 + (6500 - 2600)
    origin = origin_of(resolved)
    assert origin is not None
    sent = SentRuns(origin.columns, Readers(None, resolved.store, str(tmp_path / "cache"), origin.opened))
    for run_id in rows:
        (here,), (there,) = resolved.placements.of([run_id]), sent.of([run_id])
        np.testing.assert_array_equal(here.steps, there.steps)
        np.testing.assert_array_equal(here.tokens, there.tokens)
        np.testing.assert_array_equal(here.source, there.source)
        assert resolved.placed[run_id].end == replace(sent.placed[run_id].end)
