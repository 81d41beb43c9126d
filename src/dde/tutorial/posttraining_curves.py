"""Training logs and final evaluations of the tutorial's post-training runs.

The longer a finetuning run, the lower its training loss. The best learning rate decreases with model size, and a rate
that is too high increases the loss and lowers accuracy. The gain differs by task, and is negative for some.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import Base
from dde.tutorial.base_values import base_values
from dde.tutorial.latent_curves import base_loss, evaluations, question_luck, random_stream, single, task_loss
from dde.tutorial.run_plans import BATCH, TOKENS_PER_SEQUENCE, RunPlan, base_of
from dde.tutorial.tasks import RAW_TASKS

__all__ = ["TrainingLog", "final_evaluations", "own_tokens", "training_log"]

Floats = npt.NDArray[np.float64]

# Fraction of a run's gain per task; negative where a conversational style lowers accuracy.
_GAINS = {
    "arc_challenge": 1.0, "arc_easy": 0.9, "boolq": 0.6, "csqa": 1.1, "hellaswag": 0.5, "openbookqa": 0.9,
    "piqa": 0.4, "socialiqa": 1.6, "winogrande": -0.3,
}  # fmt: skip

#: Recipe and size whose curves are used for a run without a known base.
_STAND_IN = ("Dolma1.7", "4M")


@dataclass(frozen=True)
class TrainingLog:
    """Rows of one run's log.

    Attributes
    ----------
    step : (row,) int64 array
        Steps of the run.
    columns : mapping of str to (row,) array
        Logged values, by key of the store.
    true_tokens : (row,) int64 array
        True number of tokens that the run had seen.
    """

    step: npt.NDArray[np.int64]
    columns: dict[str, Floats]
    true_tokens: npt.NDArray[np.int64]


def _base(plan: RunPlan) -> Base:
    return plan.base or base_of(*_STAND_IN)


def _dose(plan: RunPlan) -> tuple[float, float, float]:
    """Return the speed of learning of a run, its gain, and its loss from too high a rate."""
    best = 2e-5 * (1.5e8 / _base(plan).size.n_params) ** 0.35
    tokens = plan.sequences * plan.epochs * TOKENS_PER_SEQUENCE * plan.done
    decades_above_best = float(np.log10(plan.learning_rate / best))
    length = 1.0 - float(np.exp(-((tokens / 3e8) ** 0.5)))
    speed = float(plan.learning_rate / best) ** 0.6
    gain = length * float(np.exp(-(decades_above_best**2) / (2 * 0.7**2)))
    harm = (0.3 + length) * float(np.logaddexp(0.0, 5 * (decades_above_best - 0.6))) / 5
    return speed, gain, harm


def _shift(plan: RunPlan | None) -> Floats:
    """Return the reduction of each task's loss by a chain of runs, (task,)."""
    if plan is None or plan.run_type == "other":
        return np.zeros(len(RAW_TASKS))
    _, gain, harm = _dose(plan)
    scale = 0.05 if plan.run_type == "dpo" else 0.16
    gains = np.array([_GAINS.get(task, 0.7) for task in RAW_TASKS])
    return np.asarray(_shift(plan.parent) + scale * gain * gains - 0.35 * harm)


def final_evaluations(seed: int, plan: RunPlan) -> Floats:
    """Return the evaluations of a run's final model, (task, entry)."""
    base = _base(plan)
    pretraining = base_values(seed, base, keep=True)
    at = np.searchsorted(pretraining.steps, plan.branch_step)
    if at < len(pretraining.steps) and pretraining.steps[at] == plan.branch_step:
        loss = pretraining.loss[at : at + 1]
    else:
        loss = base_loss(seed, base, np.array([plan.branch_step]))
    shifted = task_loss(seed, base.recipe, loss) - _shift(plan)
    values = evaluations(shifted, question_luck(seed, base), random_stream(seed, "final", plan.run_id))
    return np.asarray(values[0])


def _steps(plan: RunPlan) -> npt.NDArray[np.int64]:
    return plan.logging_interval * np.arange(1, plan.logged_steps + 1, dtype=np.int64)


def own_tokens(seed: int, plan: RunPlan) -> int:
    """Return the tokens that a run had seen at its last row, or at its end when it logged nothing."""
    if plan.has("no_data") or plan.run_type == "other":
        return 0
    if plan.run_type == "dpo":
        # The log has no counter, so this assumes two answers of the usual length per sequence.
        steps = plan.logged_steps or plan.last_step
        return steps * BATCH * 2 * TOKENS_PER_SEQUENCE
    if plan.logged_steps and not plan.has("no_counter"):
        return int(_token_counter(seed, plan)[-1])
    return round(plan.sequences * plan.epochs * plan.done * TOKENS_PER_SEQUENCE)


def _token_counter(seed: int, plan: RunPlan) -> npt.NDArray[np.int64]:
    stream = random_stream(seed, "tokens", plan.run_id)
    per_row = plan.logging_interval * BATCH * TOKENS_PER_SEQUENCE
    return np.cumsum(np.round(per_row * (1 + 0.006 * stream.standard_normal(plan.logged_steps))).astype(np.int64))


def _schedule(plan: RunPlan, step: npt.NDArray[np.int64], warmup: float) -> Floats:
    total = plan.planned_steps
    rise = max(round(total * warmup), 1)
    fall = np.clip((total - step) / max(total - rise, 1), 0.0, 1.0)
    return np.asarray(plan.learning_rate * np.where(step < rise, step / rise, fall))


def training_log(seed: int, plan: RunPlan) -> TrainingLog:
    """Return the log of a run, with token counters that decrease after a restart."""
    step = _steps(plan)
    if plan.run_type == "dpo":
        return _preference_log(seed, plan, step)
    stream = random_stream(seed, "log", plan.run_id)
    speed, _, harm = _dose(plan)
    base = _base(plan)
    start = 0.55 * float(base_loss(seed, base, np.array([plan.branch_step]))[0]) - 0.37
    true = _token_counter(seed, plan)
    learned = speed / (1 + speed)
    progress = 1 - np.exp(-true / (6e7 / (0.2 + speed)))
    slow = np.minimum(true / 1.4e9, 1.0)
    warm = np.minimum(step / max(0.03 * plan.planned_steps, 1), 1.0)
    loss = start - learned * (0.16 * progress + 0.14 * slow) + 0.25 * harm * warm * (1 - 0.4 * slow)
    loss += 0.012 * stream.standard_normal(len(step))
    if plan.has("summed_loss"):
        loss *= 1765.0
    counter = true.astype(np.float64)
    for at in _falls(plan):
        # The counter continues from the value in an early checkpoint; steps and time are not reset.
        counter[at:] -= counter[at - 1] * 0.75
    if plan.has("no_counter"):
        counter[:] = np.nan
    columns = {
        "total_tokens": np.round(counter),
        "total_tokens_including_padding": np.round(counter * 1.4900),
        "train_loss": np.round(loss, 10),
        "learning_rate": np.round(_schedule(plan, step, 0.03), 10),
        "per_device_tps": single(20_000 * (1 + 0.02 * stream.standard_normal(len(step)))),
    }
    columns["per_device_tps_including_padding"] = single(columns["per_device_tps"] * 1.49)
    return TrainingLog(step, _with_times(plan, step, columns, stream), true)


def _falls(plan: RunPlan) -> list[int]:
    n = plan.logged_steps
    if plan.has("resumed_once"):
        return [int(0.7 * n)]
    return [int(0.3 * n), int(0.65 * n)] if plan.has("resumed_twice") else []


def _with_times(
    plan: RunPlan, step: npt.NDArray[np.int64], columns: dict[str, Floats], stream: np.random.Generator
) -> dict[str, Floats]:
    seconds = 2.2 if plan.run_type != "dpo" else 6.1
    size = (_base(plan).size.n_params / 1.5e8) ** 0.3
    jumps = seconds * size * plan.logging_interval * (1 + 0.03 * stream.standard_normal(len(step)))
    for at in _falls(plan):
        jumps[at] += 6_000
    runtime = np.round(np.cumsum(jumps) + 180.0, 6)
    began = plan.launched.replace(tzinfo=UTC).timestamp()
    return {"timestamp": began + 95.0 + runtime, "runtime": runtime, **columns}


def _preference_log(seed: int, plan: RunPlan, step: npt.NDArray[np.int64]) -> TrainingLog:
    """Return the training log of a DPO run."""
    stream = random_stream(seed, "log", plan.run_id)
    n = len(step)
    noise = stream.standard_normal((n, 5))
    share = np.cumsum(_schedule(plan, step, 0.1)) / 1e-3
    margin = 0.25 * (1 - np.exp(-share)) + 0.02 * noise[:, 0] * np.minimum(share * 20, 1.0)
    chosen = -0.4 * margin + 0.004 * noise[:, 1] * np.minimum(share * 20, 1.0)
    logps = -1.42 + 0.05 * noise[:, 2]
    columns = {
        "train_loss": np.log1p(np.exp(-margin)),
        "learning_rate": _schedule(plan, step, 0.1),
        "epoch": step / plan.planned_steps,
        "training_step": step.astype(np.float64),
        "logps/chosen": logps + chosen / 5,
        "logps/rejected": logps + (chosen - margin) / 5 + 0.02 * noise[:, 3],
        "rewards/accuracy": np.round(np.clip(0.5 + 0.5 * margin + 0.04 * noise[:, 4], 0, 1) * 128) / 128,
        "rewards/chosen": chosen,
        "rewards/margin": margin,
        "rewards/rejected": chosen - margin,
        "rewards/average": chosen - margin / 2,
    }
    rounded = {name: np.round(values, 10) for name, values in columns.items()}
    true = step * (BATCH * 2 * TOKENS_PER_SEQUENCE)
    return TrainingLog(step, _with_times(plan, step, rounded, stream), true)
