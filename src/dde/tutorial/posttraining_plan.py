"""Which post-training runs a suite has: the learning-rate sweep and the irregular runs."""

from __future__ import annotations

from itertools import product

import numpy as np

from dde.suite.datadecide.names import Base
from dde.tutorial.curves import random_stream
from dde.tutorial.plan_book import PlanBook
from dde.tutorial.run_plans import RunPlan, base_of
from dde.tutorial.special_runs import NAME_FORMS, add_few_special_runs, add_special_runs
from dde.tutorial.suite import SuiteSpec

__all__ = ["plan_posttraining"]

# Of 341 runs in a surveyed store.
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
    wanted = [cell for _ in range(spec.replicates) for cell in cells]
    if spec.posttraining_runs is not None:
        # Most cells have their replicates; to meet the total, some have one more or one less.
        missing = spec.posttraining_runs - len(book.plans) - len(wanted)
        order = random_stream(seed, "cells").permutation(len(cells))
        if missing < 0:
            wanted = [cell for k, cell in enumerate(wanted) if k not in set(order[:-missing].tolist())]
        wanted += [cells[int(order[k % len(cells)])] for k in range(max(missing, 0))]
    states = _states(spec, seed, book, len(wanted))
    seen: dict[tuple[Base, str, float], int] = {}
    for (base, budget, rate), state in zip(wanted, states, strict=True):
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
        there = sum(plan.state == state for plan in book.plans)
        for _ in range(max(round(total * share) - there, 0)):
            states[int(order[k])] = state
            k += 1
    return states


def _add_sweep_run(book: PlanBook, base: Base, budget: str, rate: float, replicate: int, state: str) -> None:
    stream = random_stream(book.seed, "sweep", base.label, budget, rate, replicate)
    done = 1.0 if state == "finished" else float(stream.uniform(0.2, 0.9))
    quirks = ["failed_at_start", "no_data"] if state == "failed" else []
    # Replicates were launched by different scripts, so the same treatment stands under different names.
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
    """Return each run's number among the runs with the same treatment of the same base."""
    groups: dict[tuple[object, ...], list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault(_treatment(plan), []).append(plan)
    number = {
        plan.run_id: k
        for group in groups.values()
        for k, plan in enumerate(sorted(group, key=lambda p: (p.launched, p.run_id)), 1)
    }
    return [number[plan.run_id] for plan in plans]


def _treatment(plan: RunPlan | None) -> tuple[object, ...]:
    if plan is None:
        return ()
    beta = "" if np.isnan(plan.beta) else plan.beta
    # NaN never equals itself, so text stands for what is unknown.
    size = str(plan.nominal_tokens) if plan.nominal_tokens > 0 else str(plan.sequences)
    # A loss that is reduced in another way makes other steps: such runs are no repetitions.
    own = (plan.run_type, plan.learning_rate, size, str(plan.known_epochs), beta, plan.matched, plan.reduce_loss)
    if plan.base is None:
        return (plan.run_id, *own)
    return (plan.base.label, plan.branch_step, *own, plan.absent_parent, *_treatment(plan.parent))
