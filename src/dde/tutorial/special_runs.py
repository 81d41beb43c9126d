"""The irregular post-training runs of the tutorial: one for every quirk that real records have."""

from __future__ import annotations

import numpy as np

from dde.suite.datadecide.names import Base
from dde.suite.datadecide.names.metrics import PERPLEXITY_SETS
from dde.tutorial.base_values import base_values, primary_of
from dde.tutorial.plan_book import PlanBook
from dde.tutorial.run_plans import base_of
from dde.tutorial.tasks import RAW_TASKS

__all__ = ["NAME_FORMS", "add_few_special_runs", "add_special_runs", "matching_step"]

#: Forms of run names; ``|`` ends the part that names the group of a sweep.
NAME_FORMS = {
    "hub": "{date}_allenai--DataDecide-{slug}-{params}_main|_default",
    "hub_options": "{date}_allenai--DataDecide-{slug}-{params}_main|_default"
    "_--max_train_samples={samples}_--reduce_loss={reduce}",
    "tokens": "{date}_test_finetune_DD-{slug}-{params}_main|_{budget}_--learning_rate={lr}",
    "toks": "{date}_test_finetune_DD-{slug}-{params}_main|_{millions}M_toks_--learning_rate={lr}",
    "full": "{short}_test_finetune_DD-{slug}-{params}|_Ft_learning_rate={lr}",
    "checkpoint": "{date}_lr_sweep_{budget}_DD-{slug}-{params}-{step}-{index}|_lr={lr}",
    "full_checkpoint": "{short}_lr_sweep_Ft_DD-{slug}-{params}-{step}-{index}|_lr={lr}",
}


def matching_step(seed: int, start: Base, goal: Base, metric: str) -> int:
    """Return the step of `start` at which `metric` is nearest to that of `goal`'s last checkpoint."""
    ours, theirs = base_values(seed, start, keep=True), base_values(seed, goal, keep=True)
    if metric.endswith("-valppl"):
        column = PERPLEXITY_SETS.index(metric.removesuffix("-valppl"))
        curve, target = ours.perplexity[:, column], theirs.perplexity[-1, column]
    else:
        column = RAW_TASKS.index(metric)
        curve, target = primary_of(ours.tasks)[:, column], primary_of(theirs.tasks)[-1, column]
    kept = np.isin(ours.steps, ours.checkpoints.evaluated) & (ours.steps > 0)
    return int(ours.steps[kept][np.argmin(np.abs(curve[kept] - target))])


def add_few_special_runs(book: PlanBook) -> None:
    """Plan the irregular runs of the smallest suite: those that real samples show."""
    dolma4, dclm150 = base_of("Dolma1.7", "4M"), base_of("DCLM-Baseline", "150M")
    book.sft(
        dolma4, 1e-4, "Ft", NAME_FORMS["hub"], state="crashed", done=0.966, training_seed=42,
        quirks=["resumed_once", "summed_loss", "no_evaluations"],
    )  # fmt: skip
    book.sft(dolma4, 5e-7, "1Mtx1", NAME_FORMS["tokens"], quirks=["no_history", "touched_later"])
    parent = book.sft(dolma4, 5e-6, "100Mtx1", NAME_FORMS["toks"], quirks=["summed_loss"])
    book.dpo(parent, dolma4, 2e-7, sequences=40_000)
    book.dpo(
        "2025_08_17-10_11_12_test_finetune_DD-dolma1_7-4M_main_100M_toks_--learning_rate=5e-07", dolma4, 2e-7,
        sequences=20_000, absent=(5e-7, "100Mt"), quirks=["parent_not_in_store"],
    )  # fmt: skip
    book.sft(dclm150, 5e-5, "Ft", NAME_FORMS["full"], quirks=["command_only", "pretrain_steps_of_another_size"])
    book.other("{date}_eval_sweep")
    book.sft(None, 1e-5, "10Mtx1", "{date}_debug_local_model|_{budget}_lr={lr}", quirks=["orphan"])


def add_special_runs(book: PlanBook) -> None:
    """Plan the irregular runs of the larger suites."""
    add_few_special_runs(book)
    forms = NAME_FORMS
    dolma4, dolma150, c4 = base_of("Dolma1.7", "4M"), base_of("Dolma1.7", "150M"), base_of("C4", "150M")
    dclm150, c4_20 = base_of("DCLM-Baseline", "150M"), base_of("C4", "20M")

    # Logs and states.
    parent = book.sft(dolma150, 1e-5, "Ft", forms["full_checkpoint"], quirks=["resumed_twice"])
    book.sft(c4, 1e-5, "100Mtx1", forms["tokens"], quirks=["no_evaluations"])
    book.sft(c4, 1e-5, "100Mtx2", forms["tokens"], state="running", done=0.55)
    book.sft(c4, 1e-3, "100Mtx1", forms["toks"], state="crashed", done=0.4)
    book.sft(c4, 2e-3, "100Mtx1", forms["toks"], state="failed", done=0.0, quirks=["no_data"])
    book.sft(c4_20, 5e-5, "100Mtx1", forms["tokens"], quirks=["no_counter"])
    book.sft(c4_20, 2e-5, "10Mtx1", forms["hub_options"], reduce_loss="mean", quirks=["options_in_name"])
    book.sft(
        c4_20, 2e-5, "10Mtx1", forms["hub_options"], reduce_loss="sum",
        quirks=["options_in_name", "summed_loss"],
    )  # fmt: skip

    # Values as W&B writes them.
    book.sft(
        base_of("Dolma1.7", "530M"), 5e-6, "100Mtx1", forms["checkpoint"],
        quirks=["numbers_as_text", "base_not_in_small_tables"],
    )  # fmt: skip
    book.sft(dolma150, 1e-5, "100Mtx1", forms["checkpoint"], quirks=["integers_as_floats"])
    book.sft(
        base_of("DCLM-Baseline 25% / Dolma 75%", "150M"), 1e-5, "100Mtx1", forms["checkpoint"],
        quirks=["dotted_recipe", "base_not_in_small_tables"],
    )  # fmt: skip
    book.sft(dclm150, 1e-3, "100Mtx1", forms["tokens"], quirks=["special_floats_as_text"])
    book.sft(dclm150, 1e-5, "100Mtx1", forms["tokens"], quirks=["objects_as_text", "touched_later"])

    # Launch commands.
    book.sft(c4, 2e-5, "Ft", forms["full"], quirks=["command_only", "repeated_option"])
    book.sft(c4, 5e-5, "Ft", forms["full"], quirks=["command_only", "touched_later", "name_only"])
    book.sft(dolma150, 1e-4, "100Mtx1", forms["hub"], quirks=["hub_id"])

    # Starting checkpoints.
    for step, index in ((20_000, 0), (20_000, 1), (30_000, 2)):
        book.sft(
            base_of("DCLM-Baseline", "150M", index), 2e-5, "100Mtx1", forms["checkpoint"], step=step,
            quirks=["intermediate_checkpoint"],
        )  # fmt: skip
    book.sft(base_of("Dolma1.7", "4M", 2), 5e-5, "10Mtx1", forms["checkpoint"], quirks=["auxiliary_seed"])
    for recipe, metric in (("Dolma1.7", "pile-valppl"), ("DCLM-Baseline", "hellaswag")):
        start = base_of(recipe, "300M")
        step = matching_step(book.seed, start, base_of(recipe, "150M"), metric)
        book.sft(
            start, 2e-5, "100Mtx1",
            "{date}_match_150M_" + metric + "_finetune_{budget}_DD-{slug}-{params}-{step}-{index}",
            step=step, matched=("150M", metric), quirks=["matched", "intermediate_checkpoint"],
        )  # fmt: skip

    # Runs on runs.
    book.dpo(parent, dolma150, 5e-7, sequences=271_000, quirks=["trailing_slash"])
    book.dpo(parent, dolma150, 2e-6, sequences=20_000, quirks=["path_cut_short"], state="crashed")
    second = book.dpo(parent, dolma150, 1e-6, sequences=20_000, beta=0.1, quirks=["explicit_parent"])
    book.dpo(second, dolma150, 2e-7, sequences=10_000, quirks=["third_in_chain"])
    book.sft(
        dolma4, 2e-5, "10Mtx1", "{date}_unlabelled_experiment|_lr={lr}", quirks=["cache_path_alone"],
        state="finished",
    )  # fmt: skip
    book.other("{date}_cache_dataset", state="failed")
    book.other("update-wandb-{date}")
