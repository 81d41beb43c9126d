"""Plan the post-training runs of a suite: the learning-rate sweep, and an irregular run for each quirk of real data."""

from __future__ import annotations

from itertools import product

import numpy as np

from dde.suite.datadecide.names import Base
from dde.suite.datadecide.names.metrics import PERPLEXITY_SETS
from dde.tutorial.base_values import base_values, primary_of
from dde.tutorial.latent_curves import random_stream
from dde.tutorial.run_plans import PlanBook, RunPlan, base_of
from dde.tutorial.suite import SuiteSpec
from dde.tutorial.tasks import RAW_TASKS

__all__ = [
    "NAME_FORMS",
    "add_few_special_runs",
    "add_special_runs",
    "matching_step",
    "plan_posttraining",
]

#: Forms of run names; the part before ``|`` is the name of the sweep's group.
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
    candidates = np.isin(ours.steps, ours.checkpoints.evaluated) & (ours.steps > 0)
    return int(ours.steps[candidates][np.argmin(np.abs(curve[candidates] - target))])


def add_few_special_runs(book: PlanBook) -> None:
    """Plan the irregular runs of the smallest suite, which occur in samples of real stores."""
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

    # Chains of runs.
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


# Shares among the 341 runs of a surveyed store.
_STATE_SHARES = {"running": 54 / 341, "crashed": 25 / 341, "failed": 7 / 341}


def plan_posttraining(spec: SuiteSpec, seed: int) -> list[RunPlan]:
    """Return the post-training runs of a suite, in the order of their launch."""
    book = PlanBook(seed)
    (add_few_special_runs if spec.special_runs == "few" else add_special_runs)(book)
    cells = [
        (base_of(recipe, params), budget, rate)
        for recipe, params, budget, rate in product(
            spec.sweep_recipes, spec.sweep_params, spec.sweep_budgets, spec.sweep_rates
        )
    ]
    sweep = [cell for _ in range(spec.replicates) for cell in cells]
    if spec.posttraining_runs is not None:
        # To meet the total, some cells have one replicate more or less than the others.
        missing = spec.posttraining_runs - len(book.plans) - len(sweep)
        order = random_stream(seed, "cells").permutation(len(cells))
        if missing < 0:
            sweep = [cell for k, cell in enumerate(sweep) if k not in set(order[:-missing].tolist())]
        sweep += [cells[int(order[k % len(cells)])] for k in range(max(missing, 0))]
    states = _states(spec, seed, book, len(sweep))
    seen: dict[tuple[Base, str, float], int] = {}
    for (base, budget, rate), state in zip(sweep, states, strict=True):
        replicate = seen[base, budget, rate] = seen.get((base, budget, rate), 0) + 1
        _add_sweep_run(book, base, budget, rate, replicate, state)
    return book.plans


def _states(spec: SuiteSpec, seed: int, book: PlanBook, count: int) -> list[str]:
    states = ["finished"] * count
    if spec.posttraining_runs is None:
        return states
    total, k = spec.posttraining_runs, 0
    order = random_stream(seed, "states").permutation(count)
    for state, share in _STATE_SHARES.items():
        existing = sum(plan.state == state for plan in book.plans)
        for _ in range(max(round(total * share) - existing, 0)):
            states[int(order[k])] = state
            k += 1
    return states


def _add_sweep_run(book: PlanBook, base: Base, budget: str, rate: float, replicate: int, state: str) -> None:
    stream = random_stream(book.seed, "sweep", base.label, budget, rate, replicate)
    done = 1.0 if state == "finished" else float(stream.uniform(0.2, 0.9))
    quirks = ["failed_at_start", "no_data"] if state == "failed" else []
    # Replicates imitate launches by different scripts, so the same treatment has names of different forms.
    if budget == "Ft":
        form = "full" if replicate % 2 else "full_checkpoint"
        if form == "full":
            quirks.append("command_only")
    else:
        form = ("tokens", "toks", "checkpoint")[(replicate - 1) % 3]
    if stream.random() < 0.17:
        quirks.append("no_model_size")
    if stream.random() < 0.5:
        quirks.append("no_compute_estimate")
    if base.size.n_params < 1e8 and budget == "100Mtx1" and stream.random() < 0.3:
        quirks.append("summed_loss")
    book.sft(base, rate, budget, NAME_FORMS[form], quirks=quirks, state=state, done=done)


def replicate_numbers(plans: list[RunPlan]) -> list[int]:
    """Return the replicate number of each run among runs with the same treatment of the same base."""
    groups: dict[tuple[object, ...], list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault(_treatment(plan), []).append(plan)
    number_of_run = {
        plan.run_id: k
        for group in groups.values()
        for k, plan in enumerate(sorted(group, key=lambda p: (p.launched, p.run_id)), 1)
    }
    return [number_of_run[plan.run_id] for plan in plans]


def _treatment(plan: RunPlan | None) -> tuple[object, ...]:
    if plan is None:
        return ()
    beta = "" if np.isnan(plan.beta) else plan.beta
    # NaN never equals itself, so unknown values are compared as text.
    size = str(plan.nominal_tokens) if plan.nominal_tokens > 0 else str(plan.sequences)
    # Runs with different loss reduction take different steps, so they are not replicates.
    own = (plan.run_type, plan.learning_rate, size, str(plan.known_epochs), beta, plan.matched, plan.reduce_loss)
    if plan.base is None:
        return (plan.run_id, *own)
    return (plan.base.label, plan.branch_step, *own, plan.absent_parent, *_treatment(plan.parent))
