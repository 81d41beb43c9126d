"""Summaries of post-training runs: last logged values, and final evaluations in their two forms."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import PLAIN_TASKS
from dde.tutorial.posttraining_curves import TrainingLog
from dde.tutorial.run_plans import RunPlan
from dde.tutorial.tasks import ENTRY_INDEX, NO_UNCONDITIONED, RAW_TASKS, TASKS, UNCONDITIONED_ENTRIES

__all__ = ["CORE", "run_summary"]

#: Name of the nine tasks' aggregate in summaries.
CORE = "core_9mcqa:rc::olmes:full"

_NESTED = (
    "acc_per_byte", "acc_per_char", "acc_per_token", "acc_raw", "acc_uncond", "bits_per_byte_corr",
    "logits_per_char_corr", "logits_per_token_corr", "sum_logits_corr",
)  # fmt: skip
_RENAMED = {
    "correct_logit": "sum_logits_corr",
    "correct_logit_per_char": "logits_per_char_corr",
    "correct_logit_per_token": "logits_per_token_corr",
}
_FLAT = tuple(
    sorted(
        {*ENTRY_INDEX, *_RENAMED} - {"primary_metric", "logits_per_byte_corr"}
    )
)  # fmt: skip
_FACTS = {facts.name: facts for facts in TASKS}


def _task_config(task: str, primary: str) -> dict[str, Any]:
    return {
        "context_kwargs": None, "dataset_name": None, "dataset_path": task, "fewshot_seed": 1234,
        "generation_kwargs": None, "limit": None,
        "metadata": {"alias": task if task == CORE else f"{task}:rc::olmes:full"},
        "metric_kwargs": {"uncond_docid_offset": None if task in NO_UNCONDITIONED else 1000000},
        "num_shots": 5, "primary_metric": primary, "random_subsample_seed": 1234, "split": "validation",
        "task_core": task, "task_name": task, "version": 0,
    }  # fmt: skip


def task_values(evaluations: npt.NDArray[np.float64], task: str) -> dict[str, float]:
    """Return the entries of one task, rounded as W&B rounds."""
    row = evaluations[RAW_TASKS.index(task)]
    values = {
        entry: round(float(row[ENTRY_INDEX[_RENAMED.get(entry, entry)]]), 10)
        for entry in _FLAT
        if not (task in NO_UNCONDITIONED and entry in UNCONDITIONED_ENTRIES)
    }
    return values | {"primary_score": round(float(row[ENTRY_INDEX["primary_metric"]]), 10)}


def _core_values(by_task: dict[str, dict[str, float]]) -> dict[str, float]:
    weights = np.array([_FACTS[task].instances for task in PLAIN_TASKS], dtype=np.float64)
    shared = set.intersection(*(set(values) for values in by_task.values()))
    found = {}
    for entry in sorted(shared):
        column = [by_task[task][entry] for task in PLAIN_TASKS]
        if entry.startswith("total_prob"):
            found[entry] = round(math.fsum(column), 10)
            continue
        found[f"{entry}_macro"] = round(math.fsum(column) / len(column), 10)
        found[f"{entry}_micro"] = round(math.fsum(np.array(column) * weights) / float(weights.sum()), 10)
    return found


def _nested(values: dict[str, float], task: str) -> dict[str, Any]:
    core = task == CORE
    wanted = {entry + end for entry in (*_NESTED, "primary_score") for end in (("_macro", "_micro") if core else ("",))}
    nested: dict[str, Any] = {entry: value for entry, value in values.items() if entry in wanted}
    if core:
        nested["primary_score"] = values["primary_score_macro"]
        nested["num_instances"] = sum(_FACTS[name].instances for name in PLAIN_TASKS)
    else:
        nested["extra_metrics"] = {"no_answer": 0}
        nested["num_instances"] = _FACTS[task].instances
    nested["task_config"] = _task_config(task, "macro" if core else _FACTS[task].primary)
    return dict(sorted(nested.items()))


def run_summary(plan: RunPlan, log: TrainingLog | None, evaluations: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    """Return the summary of a run: the last row of its log and, where it was evaluated, the evaluations."""
    summary: dict[str, Any] = {}
    if log is not None and len(log.step):
        last = {key: values[-1].item() for key, values in log.columns.items()}
        summary = {
            "_runtime": last.pop("runtime"),
            "_step": int(log.step[-1]),
            "_timestamp": last.pop("timestamp"),
        }
        for key, value in last.items():
            if not math.isnan(value):
                whole = "tokens" in key or key == "training_step"
                summary[key] = int(value) if whole else value
        summary["_wandb"] = {"runtime": int(summary["_runtime"])}
    else:
        summary["_wandb"] = {"runtime": 90}
    if evaluations is not None:
        by_task = {task: task_values(evaluations, task) for task in PLAIN_TASKS}
        for task, values in [*by_task.items(), (CORE, _core_values(by_task))]:
            nested = _nested(values, task)
            summary[f"oe_eval_metrics/{task}"] = json.dumps(nested) if plan.has("objects_as_text") else nested
            for entry, value in values.items():
                if not entry.startswith("primary_score"):
                    summary[f"oe_eval_metrics/{task}/{entry}"] = value
    if plan.has("special_floats_as_text"):
        summary["train_loss"] = "NaN"
        summary["oe_eval_metrics/piqa/total_prob"] = "Infinity"
        summary["oe_eval_metrics/piqa/margin"] = "-Infinity"
        summary["oe_eval_metrics/winogrande"]["primary_score"] = "NaN"
    return dict(sorted(summary.items()))
