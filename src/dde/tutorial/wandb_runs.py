"""Write the post-training runs as a dr_wandb parquet export, and return the truth about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dde.tutorial.posttraining_curves import TrainingLog, final_evaluations, own_tokens, training_log
from dde.tutorial.posttraining_plan import replicate_numbers
from dde.tutorial.run_plans import RunPlan
from dde.tutorial.run_records import machine_record, run_config, run_summary, system_attributes, system_metrics

__all__ = ["truth_of_runs", "write_wandb_export"]

Progress = Callable[[str, int, int], None]

METADATA_COLUMNS = (
    "run_id", "run_name", "state", "project", "entity", "created_at", "config", "summary", "wandb_metadata",
    "system_metrics", "system_attrs", "sweep_info",
)  # fmt: skip
HISTORY_COLUMNS = (
    "timestamp", "runtime", "total_tokens", "total_tokens_including_padding", "train_loss", "learning_rate",
    "per_device_tps", "per_device_tps_including_padding", "epoch", "training_step", "logps/chosen",
    "logps/rejected", "rewards/accuracy", "rewards/average", "rewards/chosen", "rewards/margin",
    "rewards/rejected",
)  # fmt: skip


def _record(seed: int, plan: RunPlan, log: TrainingLog | None) -> dict[str, str]:
    evaluations = final_evaluations(seed, plan) if plan.evaluated else None
    config = json.dumps(run_config(plan, seed))
    summary = json.dumps(run_summary(plan, log, evaluations))
    metrics = json.dumps(system_metrics(plan))
    rows = 0 if log is None else len(log.step)
    attributes = system_attributes(plan, config, summary, metrics, rows, list(log.columns) if log else [])
    return {
        "run_id": plan.run_id,
        "run_name": plan.run_id,
        "state": plan.state,
        "project": "finetuning-tutorial",
        "entity": "tutorial-lab",
        "created_at": plan.launched.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "config": config,
        "summary": summary,
        "wandb_metadata": json.dumps(machine_record(plan)),
        "system_metrics": metrics,
        "system_attrs": json.dumps(attributes),
        "sweep_info": json.dumps({"sweep_id": None, "sweep_url": None}),
    }


def _history_table(plans: Sequence[RunPlan], logs: Sequence[TrainingLog | None]) -> pa.Table:
    ids: list[str] = []
    steps = [np.zeros(0, dtype=np.int64)]
    columns: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in HISTORY_COLUMNS}
    for plan, log in zip(plans, logs, strict=True):
        if log is None:
            continue
        ids += [plan.run_id] * len(log.step)
        steps.append(log.step)
        for name, parts in columns.items():
            parts.append(log.columns.get(name, np.full(len(log.step), np.nan)))
    fields: dict[str, pa.Array] = {
        "run_id": pa.array(ids, pa.large_string()),
        "step": pa.array(np.concatenate(steps)),
    }
    for name, parts in columns.items():
        # A key that a row does not have is null in the export.
        fields[name] = pa.array(np.concatenate(parts), from_pandas=True)
    return pa.table(fields)


def write_wandb_export(
    path: Path,
    seed: int,
    plans: Sequence[RunPlan],
    *,
    progress: Progress | None = None,
    runs_at_once: int = 64,
) -> None:
    """Write ``runs_metadata.parquet`` and ``runs_history.parquet`` under ``<path>/wandb``.

    Parameters
    ----------
    path : Path
        Folder of the suite.
    seed : int
        Seed of the suite.
    plans : sequence of RunPlan
        The runs.
    progress : callable, optional
        Called with the name of the step, the amount done and the total amount.
    runs_at_once : int
        Number of runs in memory at a time, and per row group.
    """
    folder = path / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.large_string()) for name in METADATA_COLUMNS])
    history_schema = _history_table([], []).schema
    with (
        pq.ParquetWriter(folder / "runs_metadata.parquet", schema) as metadata,
        pq.ParquetWriter(folder / "runs_history.parquet", history_schema) as history,
    ):
        for start in range(0, len(plans), runs_at_once):
            part = plans[start : start + runs_at_once]
            logs = [training_log(seed, plan) if plan.logged_steps else None for plan in part]
            records = [_record(seed, plan, log) for plan, log in zip(part, logs, strict=True)]
            metadata.write_table(pa.Table.from_pylist(records, schema=schema))
            history.write_table(_history_table(part, logs))
            if progress is not None:
                progress("post-training runs", min(start + runs_at_once, len(plans)), len(plans))


def _expected_status(plan: RunPlan) -> str:
    if plan.run_type == "other":
        return "unknown run type"
    if plan.absent_parent:
        return "parent not in store"
    if plan.base is None:
        return "no parent found"
    return "no data" if not (plan.logged_steps or plan.evaluated) else "used"


def _token_source(plan: RunPlan) -> str:
    if plan.run_type == "other" or plan.has("no_data"):
        return ""
    if plan.quirks & {"resumed_once", "resumed_twice"}:
        return "restored"
    return "estimated" if plan.run_type == "dpo" or not plan.logged_steps or plan.has("no_counter") else "logged"


def _branch_tokens(seed: int, plan: RunPlan) -> float:
    if plan.base is None or plan.absent_parent:
        return float("nan")
    if plan.parent is not None:
        return _branch_tokens(seed, plan.parent) + own_tokens(seed, plan.parent)
    return float(plan.base.size.tokens_at(plan.branch_step))


def _contradicts(plan: RunPlan) -> bool:
    """Return whether the pretraining steps in the config disagree with the starting checkpoint of the run."""
    if plan.base is None or plan.run_type == "other" or plan.has("no_model_size"):
        return False
    return plan.has("pretrain_steps_of_another_size") or plan.branch_step != plan.base.size.last_step


def truth_of_runs(seed: int, plans: Sequence[RunPlan]) -> pd.DataFrame:
    """Return the truth about every post-training run.

    Returns
    -------
    pandas.DataFrame
        A row per run. `parent_run_id` is the label of a base, the id of a run, or "" where it can't be known;
        `branch_step` is a step of that parent; `branch_tokens` and `end_tokens` count from the start of
        pretraining, NaN where unknown; `own_tokens` is the true number, which may differ from the log;
        `finetune_tokens` and `epochs` are those in the record, NaN where it has none; `expected_status` is the
        status when runs of all states are requested.
    """
    rows = []
    for plan, replicate in zip(plans, replicate_numbers(list(plans)), strict=True):
        branch, own = _branch_tokens(seed, plan), own_tokens(seed, plan)
        parent = plan.parent.run_id if plan.parent else plan.absent_parent
        rows.append(
            {
                "run_id": plan.run_id,
                "run_type": plan.run_type,
                "parent_run_id": parent or (plan.base.label if plan.base else ""),
                "lineage": plan.base.label if plan.base else "",
                "branch_step": plan.parent.logged_steps * plan.parent.logging_interval
                if plan.parent
                else plan.branch_step,
                "branch_tokens": branch,
                "own_tokens": own,
                "end_tokens": branch + own,
                "token_source": _token_source(plan),
                "state": plan.state,
                "learning_rate": plan.learning_rate,
                "finetune_tokens": plan.nominal_tokens,
                "epochs": plan.known_epochs,
                "dpo_beta": plan.beta,
                "reduce_loss": plan.reduce_loss if plan.run_type == "supervised_ft" else "",
                "training_seed": plan.training_seed,
                "replicate": replicate,
                "matched": "_".join(("match", *plan.matched)) if plan.matched else "",
                "logged_rows": plan.logged_steps,
                "evaluated": plan.evaluated,
                "contradicts_config": _contradicts(plan),
                "expected_status": _expected_status(plan),
                "quirks": ",".join(sorted(plan.quirks)),
                "created_at": plan.launched,
            }
        )
    return pd.DataFrame(rows)
