"""Build configs, launch commands, machine records and summaries of post-training runs, as W&B stores them."""

from __future__ import annotations

import functools
import json
import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import PLAIN_TASKS, Base, training_flops
from dde.suite.datadecide.names.metrics import PERPLEXITY_SETS
from dde.tutorial.base_values import MACRO_TASKS, base_values, macro_values
from dde.tutorial.latent_curves import random_stream
from dde.tutorial.posttraining_curves import TrainingLog
from dde.tutorial.run_plans import LAB, RunPlan, rate_text
from dde.tutorial.tasks import ENTRY_INDEX, NO_UNCONDITIONED, RAW_ENTRIES, RAW_TASKS, TASKS, UNCONDITIONED_ENTRIES

__all__ = [
    "CORE",
    "machine_record",
    "model_path",
    "run_config",
    "run_summary",
    "run_tags",
    "system_metrics",
]

_PROGRAMS = {"supervised_ft": "finetune.py", "dpo": "dpo_tune_cache.py"}
_SNAPSHOT_LENGTH = 40


def rounded_params(base: Base) -> int:
    """Return the parameter count, rounded as in configs (3,700,000 for 4M)."""
    return round(base.size.n_params / 1e5) * 100_000


def model_path(plan: RunPlan) -> str:
    """Return the model path in the launch command of the run."""
    if plan.absent_parent:
        group = plan.absent_parent.split("_main_")[0] + "_main"
        return f"{LAB}/open-finetune/models/{group}/model/{plan.absent_parent}/"
    if plan.parent is not None:
        saved = plan.parent.saved_model
        if plan.has("trailing_slash"):
            return plan.parent.output_dir + "/"
        return saved[:-6] if plan.has("path_cut_short") or plan.has("explicit_parent") else saved
    if plan.base is None:
        return f"{LAB}/models/local-model-v2"
    if plan.has("hub_id"):
        return plan.base.hub_model
    digits = random_stream(0, "snapshot", plan.base.hub_model).integers(0, 16, size=_SNAPSHOT_LENGTH)
    commit = "".join(f"{digit:x}" for digit in digits)
    return f"{LAB}/.cache/huggingface/hub/models--{plan.base.hub_model.replace('/', '--')}/snapshots/{commit}"


def command_line(plan: RunPlan) -> list[str]:
    """Return the arguments of the launch command."""
    if plan.run_type == "other":
        return ["--model-sweep-names", "2025_08*"]
    dpo = plan.run_type == "dpo"
    options: list[tuple[str, ...]] = [
        ("exp_name", plan.run_id),
        ("run_name", plan.run_id),
        ("output_dir", f"{LAB}/open-finetune/models/{plan.group}"),
        ("wandb_tags", "dpo_tune_cache" if dpo else "finetune"),
        ("wandb_config", wandb_config(plan)),
        ("model_revision", "main"),
        ("add_bos",),
        ("gradient_checkpointing",),
        ("seed", str(plan.training_seed)),
        ("with_tracking", "true"),
        ("report_to", "wandb"),
        ("logging_steps", str(plan.logging_interval)),
        ("wandb_entity", "tutorial-lab"),
        ("wandb_project_name", "finetuning-tutorial"),
        ("push_to_hub", "false"),
        ("use_flash_attn",),
        ("use_slow_tokenizer",),
        ("max_seq_length", "2048" if dpo else "4096"),
        ("preprocessing_num_workers", "16" if dpo else "128"),
        ("per_device_train_batch_size", "2" if dpo else "4"),
        ("gradient_accumulation_steps", "32" if dpo else "16"),
        ("learning_rate", rate_text(plan.learning_rate)),
        ("lr_scheduler_type", "linear"),
        ("warmup_ratio", "0.1" if dpo else "0.03"),
        ("weight_decay", "0.0"),
        ("num_train_epochs", str(plan.epochs)),
        ("dataset_mixer_list", dataset(plan), "1.0"),
    ]
    if plan.has("repeated_option"):
        # A sweep's launcher appends its value to the template's options; the program uses the last one.
        options.insert(5, ("learning_rate", rate_text(plan.learning_rate * 50)))
    if plan.base is None or not wandb_config(plan):
        options = [option for option in options if option[0] != "wandb_config"]
    if not dpo:
        options.append(("reduce_loss", plan.reduce_loss))
    if plan.budget != "Ft" or (dpo and plan.sequences < 250_000):
        options.append(("max_train_samples", str(plan.sequences)))
    if dpo:
        options += [("use_lora", "false"), ("dpo_loss_type", "dpo_norm"), ("dpo_beta", f"{plan.beta:g}")]
    options.append(("model_name_or_path", model_path(plan)))
    return [word for name, *values in options for word in (f"--{name}", *values)]


def dataset(plan: RunPlan) -> str:
    """Return the name of the training dataset."""
    if plan.run_type == "dpo":
        return "allenai/llama-3.1-tulu-3-8b-preference-mixture"
    return "allenai/tulu-3-sft-mixture"


def wandb_config(plan: RunPlan) -> str:
    """Return the values that the launcher passes as ``key=value,key=value``."""
    if plan.base is None or plan.run_type == "dpo":
        return ""
    size = plan.base.size
    facts = {
        "model_size": rounded_params(plan.base),
        "model_pretrain_steps": plan.branch_step,
        "model_pretrain_compute": training_flops(rounded_params(plan.base), size.tokens_at(plan.branch_step)),
        "finetune_unique_sequences": plan.sequences,
        "finetune_sequences": plan.sequences * plan.epochs,
    }
    return ",".join(f"{key}={value}" for key, value in facts.items())


@functools.cache
def _tokenizer() -> str:
    added = ", ".join(
        f'{50254 + k}: AddedToken("{" " * (k + 2)}", rstrip=False, lstrip=False, single_word=False, '
        f"normalized=True, special=False)"
        for k in range(24)
    )
    return f"TutorialTokenizerFast(vocab_size=50280, is_fast=True, added_tokens_decoder={{{added}}})"


def trainer_options(plan: RunPlan) -> dict[str, Any]:
    """Return the options that the training program logs as its config."""
    words = command_line(plan)
    dpo = plan.run_type == "dpo"
    return {
        "exp_name": plan.run_id, "run_name": plan.run_id, "seed": plan.training_seed, "add_bos": True,
        "timeout": 1800, "use_fast": True, "use_lora": False, "hf_entity": None, "lora_rank": 64,
        "report_to": ["wandb"], "tokenizer": _tokenizer(), "use_qlora": False, "lora_alpha": 16,
        "output_dir": plan.output_dir, "wandb_tags": "dpo_tune_cache" if dpo else "finetune",
        "push_to_hub": False, "reduce_loss": plan.reduce_loss, "lora_dropout": 0.1,
        "wandb_config": wandb_config(plan) or None, "wandb_entity": "tutorial-lab",
        "warmup_ratio": 0.1 if dpo else 0.03, "weight_decay": 0, "learning_rate": plan.learning_rate,
        "logging_steps": plan.logging_interval, "with_tracking": True, "clip_grad_norm": -1,
        "max_seq_length": 2048 if dpo else 4096, "model_revision": "main", "use_flash_attn": True,
        "fused_optimizer": True, "max_train_steps": None, "overwrite_cache": False,
        "num_train_epochs": plan.epochs, "lr_scheduler_type": "linear",
        "max_train_samples": plan.sequences if "--max_train_samples" in words else None,
        "chat_template_name": "tulu", "dataset_mixer_list": [dataset(plan), "1.0"],
        "model_name_or_path": model_path(plan), "tokenizer_revision": "main", "use_slow_tokenizer": True,
        "wandb_project_name": "finetuning-tutorial", "checkpointing_steps": "1000" if dpo else "epoch",
        "gradient_checkpointing": True, "tokenizer_name_or_path": "allenai/gpt-neox-olmo-dolma-v1_5",
        "dataset_local_cache_dir": f"{LAB}/open-finetune/local_dataset_cache", "resume_from_checkpoint": None,
        "preprocessing_num_workers": 16 if dpo else 128, "per_device_train_batch_size": 2 if dpo else 4,
        "gradient_accumulation_steps": 32 if dpo else 16,
        **({"dpo_beta": plan.beta, "dpo_loss_type": "dpo_norm"} if dpo else {}),
    }  # fmt: skip


def pretraining_facts(plan: RunPlan, seed: int) -> dict[str, Any]:
    """Return the config keys on pretraining, for the final checkpoint, and sometimes of another size.

    Perplexities are those of the starting checkpoint of the run, task values those of the final one.
    """
    base = plan.base
    if base is None:
        return {}
    size = base.size
    steps = 69_369 if plan.has("pretrain_steps_of_another_size") else size.last_step
    flops = training_flops(rounded_params(base), size.tokens_at(steps))
    facts: dict[str, Any] = {
        "model_size": rounded_params(base),
        "pretrain_steps": steps,
        "pretrain_tokens": size.tokens_at(steps),
        "pretrain_compute": flops,
        "pretrain_sequences": steps * size.batch_size,
        "finetune_sequences": plan.sequences * plan.epochs,
        "finetune_unique_sequences": plan.sequences,
        # Assumes that all sequences are full, so it is evidence of the run's length but not exact.
        "total_compute_est": flops + 6 * rounded_params(base) * plan.sequences * plan.epochs * 2048,
        "d_model": 64 if size.name == "4M" else 768, "n_heads": 12, "n_layers": 12, "model_type": "hf_olmo",
        "vocab_size": 50280, "max_sequence_length": 2048, "activation_type": "swiglu",
    }  # fmt: skip
    values = base_values(seed, base, keep=True)
    macro = macro_values(values.tasks[-1:])[0]
    for row, task in zip(macro, MACRO_TASKS, strict=True):
        for entry in RAW_ENTRIES:
            if not (task in NO_UNCONDITIONED and entry in UNCONDITIONED_ENTRIES):
                facts[f"pretrain_eval_{task}_{entry}"] = round(float(row[ENTRY_INDEX[entry]]), 10)
    at = int(np.argmin(np.abs(values.steps - plan.branch_step)))
    for name, value in zip(PERPLEXITY_SETS, values.perplexity[at].tolist(), strict=True):
        facts[f"pretrain_eval/{name}-validation/Perplexity"] = round(value, 10)
    return facts


def run_config(plan: RunPlan, seed: int) -> dict[str, Any]:
    """Return the config of a run, with the missing and irregular values of its quirks."""
    if plan.run_type == "other":
        return {"job": plan.run_id, "wandb_entity": "tutorial-lab"}
    config = {} if plan.quirks & {"command_only", "name_only"} else trainer_options(plan)
    config |= pretraining_facts(plan, seed)
    if plan.has("no_model_size"):
        for key in ("model_size", "pretrain_steps", "pretrain_tokens", "pretrain_compute"):
            config.pop(key, None)
    if plan.quirks & {"no_model_size", "no_compute_estimate"}:
        config.pop("total_compute_est", None)
    if plan.has("explicit_parent") and plan.parent is not None:
        config["parent_run_id"] = plan.parent.run_id
    if plan.has("numbers_as_text"):
        config |= {
            key: format(config[key], ".0f") if isinstance(config[key], int) else str(config[key])
            for key in (
                "model_size", "pretrain_steps", "pretrain_tokens", "pretrain_compute", "total_compute_est",
                "learning_rate", "num_train_epochs", "max_train_samples", "finetune_sequences",
            )
        }  # fmt: skip
    if plan.has("integers_as_floats"):
        for key in (
            "pretrain_tokens",
            "pretrain_compute",
            "pretrain_steps",
            "model_size",
            "total_compute_est",
        ):
            if key in config:
                config[key] = float(config[key])
    return dict(sorted(config.items(), key=lambda item: (len(item[0]), item[0])))


def run_tags(plan: RunPlan) -> list[str]:
    """Return the run's tags."""
    if plan.run_type == "other":
        return ["hidden"]
    size = [plan.base.size.name] if plan.base is not None else []
    return sorted([*size, "dpo_tune_cache" if plan.run_type == "dpo" else "finetune", plan.budget.lower()])


def machine_record(plan: RunPlan) -> dict[str, Any]:
    """Return W&B's metadata of the program, its arguments and the machine."""
    if plan.has("touched_later") or plan.run_type == "other":
        script = "ml/scripts/update_wandb.py" if plan.has("touched_later") else "ml/scripts/eval.py"
        later = plan.launched + timedelta(days=21)
        return {
            "os": "Linux-6.1.0-x86_64-with-glibc2.36", "python": "3.11.13", "startedAt": _instant(later),
            "args": ["--model-sweep-names", "2025_08*"], "program": f"{LAB}/open-finetune/{script}",
            "host": "node-login", "username": "student", "root": f"{LAB}/home",
        }  # fmt: skip
    program = _PROGRAMS[plan.run_type]
    return {
        "os": "Linux-6.1.0-x86_64-with-glibc2.36", "python": "3.11.13", "startedAt": _instant(plan.launched),
        "args": command_line(plan), "program": f"{LAB}/open-finetune/open_finetune/{program}",
        "codePath": f"open_finetune/{program}", "git": {"remote": "https://example.org/lab/open-finetune.git"},
        "root": plan.output_dir, "host": "node-17", "username": "student", "cpu_count": 64,
        "executable": f"{LAB}/envs/finetune/bin/python", "gpu": "[NVIDIA L40, NVIDIA L40]", "gpu_count": 2,
        "disk": {"/": {"total": "800000000000", "used": "8000000000"}}, "memory": {"total": "1600000000000"},
        "cudaVersion": "12.7",
    }  # fmt: skip


def _instant(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def system_metrics(plan: RunPlan) -> dict[str, float]:
    """Return the last readings of the machine's sensors."""
    stream = random_stream(0, "sensors", plan.run_id)
    load = np.round(100 * stream.random(66), 10).tolist()
    readings = {f"system.cpu.{k}.cpu_percent": value for k, value in enumerate(load[:64])}
    return {"system.cpu": load[64], "system.gpu.0.gpu": load[65], **readings, "system.disk.in": 0}


def system_attributes(
    plan: RunPlan, config: str, summary: str, metrics: str, rows: int, columns: list[str]
) -> dict[str, Any]:
    """Return W&B's own attributes of the run, which repeat config and summary as JSON text."""
    keys = {key: {"typeCounts": [{"type": "number", "count": rows}], "monotonic": False} for key in columns}
    return {
        "projectId": "10000001", "id": f"run-{plan.run_id}", "tags": run_tags(plan), "name": plan.run_id,
        "displayName": plan.run_id, "sweepName": None, "state": plan.state, "config": config, "group": None,
        "jobType": None, "readOnly": True, "createdAt": plan.launched.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "heartbeatAt": (plan.launched + timedelta(hours=9)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": plan.run_id, "notes": None, "systemMetrics": metrics, "summaryMetrics": summary,
        "historyLineCount": rows, "user": {"name": "A Student", "username": "student"},
        "historyKeys": json.dumps({"keys": keys}), "rawconfig": config,
    }  # fmt: skip


#: Name of the aggregate of the nine tasks in summaries.
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
    """Return the entries of one task, rounded as in W&B."""
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
    aggregates = {}
    for entry in sorted(shared):
        column = [by_task[task][entry] for task in PLAIN_TASKS]
        if entry.startswith("total_prob"):
            aggregates[entry] = round(math.fsum(column), 10)
            continue
        aggregates[f"{entry}_macro"] = round(math.fsum(column) / len(column), 10)
        aggregates[f"{entry}_micro"] = round(math.fsum(np.array(column) * weights) / float(weights.sum()), 10)
    return aggregates


def _nested(values: dict[str, float], task: str) -> dict[str, Any]:
    core = task == CORE
    suffixes = ("_macro", "_micro") if core else ("",)
    names = {entry + suffix for entry in (*_NESTED, "primary_score") for suffix in suffixes}
    nested: dict[str, Any] = {entry: value for entry, value in values.items() if entry in names}
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
                is_count = "tokens" in key or key == "training_step"
                summary[key] = int(value) if is_count else value
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
