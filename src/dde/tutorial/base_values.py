"""All table values of one pretraining run, and the values at any one of its checkpoints."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import MMLU_SUBJECTS, PLAIN_TASKS, Base, lacks_entry
from dde.tutorial.checkpoints import BaseCheckpoints, checkpoints_of, evaluation_grid
from dde.tutorial.curves import base_loss, evaluations, perplexities, question_luck, random_stream, task_loss
from dde.tutorial.tasks import ENTRY_INDEX, RAW_ENTRIES, RAW_TASKS

__all__ = ["MACRO_TASKS", "BaseValues", "base_values", "entries_of", "macro_values"]

Floats = npt.NDArray[np.float64]

#: Tasks of the macro table, in its order.
MACRO_TASKS: tuple[str, ...] = (*PLAIN_TASKS[:5], "mmlu", "olmes_10_macro_avg", *PLAIN_TASKS[5:])

_SUBJECT_ROWS = np.array([RAW_TASKS.index(name) for name in MMLU_SUBJECTS])


def entries_of(base: Base) -> tuple[str, ...]:
    """Return the entries that evaluations of this size have: three versions of the evaluation code ran."""
    return tuple(entry for entry in RAW_ENTRIES if not lacks_entry(base.size.name, "", entry))


@dataclass(frozen=True)
class BaseValues:
    """Values of one pretraining run.

    Attributes
    ----------
    base : Base
        The run.
    checkpoints : BaseCheckpoints
        Which rows the tables have.
    steps : (step,) int64 array
        Steps that values exist for, increasing; more than the tables show.
    loss : (step,) array
        Latent loss.
    tasks : (step, task, entry) array
        Evaluations, in the order of ``RAW_TASKS`` and ``RAW_ENTRIES``.
    perplexity : (step, set) array
        Perplexities, in the order of ``dde.names.PERPLEXITY_SETS``.
    """

    base: Base
    checkpoints: BaseCheckpoints
    steps: npt.NDArray[np.int64]
    loss: Floats
    tasks: Floats
    perplexity: Floats

    def rows(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Return the positions of `steps` in ``self.steps``."""
        return np.searchsorted(self.steps, steps)


@functools.lru_cache(maxsize=256)
def _small_cache(seed: int, base: Base) -> BaseValues:
    return _make(seed, base)


def base_values(seed: int, base: Base, *, keep: bool = False) -> BaseValues:
    """Return the values of a pretraining run.

    Parameters
    ----------
    seed : int
        Seed of the suite.
    base : Base
        The run.
    keep : bool
        Remember the result: for bases that many post-training runs start from.
    """
    return _small_cache(seed, base) if keep else _make(seed, base)


def _make(seed: int, base: Base) -> BaseValues:
    checkpoints = checkpoints_of(seed, base)
    # Values are drawn on all steps that any rule could show, so that a row has the same values whichever of
    # its neighbours the tables hold. The last scheduled step is among them: runs branch there.
    steps = np.unique(
        np.concatenate(
            [evaluation_grid(base.size), checkpoints.evaluated, checkpoints.perplexity, [base.size.last_step]]
        )
    )
    loss = base_loss(seed, base, steps)
    tasks = evaluations(
        task_loss(seed, base.recipe, loss),
        question_luck(seed, base),
        random_stream(seed, "tasks", base.label),
    )
    found = perplexities(seed, base.recipe, loss, random_stream(seed, "perplexity", base.label))
    return BaseValues(base, checkpoints, steps, loss, tasks, found)


def macro_values(tasks: Floats) -> Floats:
    """Return the values of the macro table, (step, 11, entry), from those of the 66 tasks.

    Missing entries are zero, as in the published table.
    """
    mmlu = tasks[:, _SUBJECT_ROWS].mean(axis=1)
    named = {name: tasks[:, RAW_TASKS.index(name)] for name in PLAIN_TASKS} | {"mmlu": mmlu}
    named = {name: np.nan_to_num(values, nan=0.0) for name, values in named.items()}
    named["olmes_10_macro_avg"] = np.mean([named[name] for name in (*PLAIN_TASKS, "mmlu")], axis=0)
    return np.stack([named[name] for name in MACRO_TASKS], axis=1)


def primary_of(tasks: Floats) -> Floats:
    """Return the primary metric alone, (step, task)."""
    return tasks[..., ENTRY_INDEX["primary_metric"]]
