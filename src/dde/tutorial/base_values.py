"""Checkpoints of a pretraining run in the tutorial's tables, including gaps, and all values at each of them.

The rules depend on the base alone, so that a base has the same rows in every suite. The 1,060 bases of the full suite
have 21,375 evaluated checkpoints and 22,709 perplexity rows, as the published tables do.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import MMLU_SUBJECTS, PLAIN_TASKS, RECIPES, Base, ModelSize, lacks_entry
from dde.tutorial.latent_curves import base_loss, evaluations, perplexities, question_luck, random_stream, task_loss
from dde.tutorial.tasks import ENTRY_INDEX, RAW_ENTRIES, RAW_TASKS

__all__ = [
    "MACRO_TASKS",
    "BaseCheckpoints",
    "BaseValues",
    "base_values",
    "checkpoints_in_tables",
    "entries_of",
    "evaluation_grid",
    "macro_values",
]

Steps = npt.NDArray[np.int64]

#: Steps between two evaluated checkpoints.
INTERVAL = 1250

# Per size, of the checkpoints of an auxiliary seed between the first and the last: how many were never evaluated on
# tasks, and how many of these have perplexities nevertheless. With the other rules, this gives the row counts of the
# published tables over 50 auxiliary runs per size.
_NOT_EVALUATED = {
    "8M": 1, "10M": 2, "14M": 3, "16M": 4, "20M": 2, "60M": 6, "90M": 6, "150M": 7, "300M": 9, "530M": 11,
    "750M": 5, "1B": 16,
}  # fmt: skip
_PERPLEXITY_ONLY = {
    "10M": 1, "14M": 2, "16M": 2, "20M": 1, "60M": 4, "90M": 4, "150M": 5, "300M": 6, "530M": 7, "750M": 3,
    "1B": 10,
}  # fmt: skip

_STOPPED_EARLY = ("Dolma1.7", "C4", "FineWeb-Edu", "Falcon", "DCLM-Baseline")
_STOPPED_EARLY_STEP = 17_339
_OVERRAN = ("Dolma1.7 (no code)", "C4", "FineWeb-Edu", "Falcon+CC", "DCLM-Baseline")
_NO_PERPLEXITY = ("C4", "FineWeb-Pro", "DCLM-Baseline (QC 20%)")
_REPEATED = ("Dolma1.7", "Dolma1.6++", "FineWeb-Edu", "Falcon", "DCLM-Baseline")


@dataclass(frozen=True, slots=True)
class BaseCheckpoints:
    """Rows of one pretraining run.

    Attributes
    ----------
    evaluated : (row,) int64 array
        Steps with task evaluations, increasing.
    perplexity : (row,) int64 array
        Steps of the perplexity table, in its order; a step may occur twice.
    conflicting : (row,) bool array
        Whether a perplexity row repeats an earlier one with other values.
    """

    evaluated: Steps
    perplexity: Steps
    conflicting: npt.NDArray[np.bool_]

    @property
    def quirks(self) -> tuple[str, ...]:
        """Names of the irregularities."""
        unique = np.unique(self.perplexity)
        names = []
        if len(unique) < len(self.perplexity):
            names.append("repeated_perplexity_rows")
        if self.conflicting.any():
            names.append("conflicting_perplexity_rows")
        if np.setdiff1d(unique, self.evaluated).size:
            names.append("perplexity_without_evaluation")
        if np.setdiff1d(self.evaluated[1:], unique).size:
            names.append("evaluation_without_perplexity")
        return tuple(names)


def stops_early(base: Base) -> bool:
    """Return whether the base is one of the extra 1B runs with a small model's auxiliary seed."""
    return base.size.name == "1B" and base.seed.index in (1, 2)


def extra_recipes() -> tuple[str, ...]:
    """Return the recipes that have extra 1B runs with the small models' auxiliary seeds."""
    return _STOPPED_EARLY


def evaluation_grid(size: ModelSize) -> Steps:
    """Return the steps at which a complete run of this size was evaluated on tasks."""
    last = size.last_evaluated_step
    return np.unique(np.append(np.arange(0, last + 1, INTERVAL), last))


def checkpoints_in_tables(seed: int, base: Base) -> BaseCheckpoints:
    """Return the rows of a pretraining run in the tables."""
    size = base.size
    grid = evaluation_grid(size)
    if stops_early(base):
        grid = np.append(grid[grid < _STOPPED_EARLY_STEP], _STOPPED_EARLY_STEP)
        return BaseCheckpoints(grid, grid[1:], np.zeros(len(grid) - 1, dtype=bool))
    evaluated, perplexity = grid, grid[1:]
    auxiliary = base.seed.index != 0
    dropped = _NOT_EVALUATED.get(size.name, 0) if auxiliary else 0
    if dropped:
        inner = np.arange(1, len(grid) - 1)
        unevaluated = random_stream(seed, "thinning", base.label).permutation(inner)[:dropped]
        without_perplexity = unevaluated[_PERPLEXITY_ONLY.get(size.name, 0) :]
        evaluated = np.delete(grid, unevaluated)
        perplexity = np.delete(grid, np.append(without_perplexity, 0))
    if not auxiliary and base.recipe.name in _NO_PERPLEXITY:
        if size.name in ("150M", "300M", "530M", "750M"):
            perplexity = perplexity[perplexity != INTERVAL]
        elif size.name in ("60M", "90M", "1B"):
            perplexity = perplexity[:-1]
    if size.name == "4M":
        # The job continued for ten steps, at which only perplexities were evaluated.
        perplexity = np.append(perplexity, size.last_step + 10)
    if size.name in ("150M", "300M") and auxiliary and base.recipe.name in _OVERRAN:
        past = -(-size.last_step // INTERVAL) * INTERVAL + INTERVAL * np.array([4, 40, 120])
        perplexity = np.append(perplexity, past)
    conflicting = np.zeros(len(perplexity), dtype=bool)
    if base.recipe.name in _REPEATED and (size.name, base.seed.index) in (("4M", 0), ("150M", 1)):
        repeated = perplexity[[1, 2, 3]]
        perplexity = np.append(perplexity, repeated)
        conflicting = np.append(conflicting, np.zeros(3, dtype=bool))
        # A single row of the table disagrees with the one that it repeats.
        conflicting[-1] = base.recipe.name == "DCLM-Baseline" and size.name == "150M"
    return BaseCheckpoints(evaluated, perplexity, conflicting)


assert set(_STOPPED_EARLY + _OVERRAN + _NO_PERPLEXITY + _REPEATED) <= {r.name for r in RECIPES}


Floats = npt.NDArray[np.float64]

#: Tasks of the macro table, in its order.
MACRO_TASKS: tuple[str, ...] = (*PLAIN_TASKS[:5], "mmlu", "olmes_10_macro_avg", *PLAIN_TASKS[5:])

_SUBJECT_ROWS = np.array([RAW_TASKS.index(name) for name in MMLU_SUBJECTS])


def entries_of(base: Base) -> tuple[str, ...]:
    """Return the entries of evaluations of this size, which depend on the version of the evaluation code."""
    return tuple(entry for entry in RAW_ENTRIES if not lacks_entry(base.size.name, "", entry))


@dataclass(frozen=True)
class BaseValues:
    """Values of one pretraining run.

    Attributes
    ----------
    base : Base
        The run.
    checkpoints : BaseCheckpoints
        Rows in the tables.
    steps : (step,) int64 array
        Steps of the values, increasing; more than those in the tables.
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
        Whether to cache the result, for bases that many post-training runs start from.
    """
    return _small_cache(seed, base) if keep else _make(seed, base)


def _make(seed: int, base: Base) -> BaseValues:
    checkpoints = checkpoints_in_tables(seed, base)
    # Values are drawn for all steps that any rule may include, so that the values of a row do not depend on which
    # other rows are in the tables. The last scheduled step is included because runs branch there.
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
    perplexity = perplexities(seed, base.recipe, loss, random_stream(seed, "perplexity", base.label))
    return BaseValues(base, checkpoints, steps, loss, tasks, perplexity)


def macro_values(tasks: Floats) -> Floats:
    """Return the values of the macro table, (step, 11, entry), computed from those of the 66 tasks.

    Missing entries are zero, as in the published table.
    """
    mmlu = tasks[:, _SUBJECT_ROWS].mean(axis=1)
    named = {name: tasks[:, RAW_TASKS.index(name)] for name in PLAIN_TASKS} | {"mmlu": mmlu}
    named = {name: np.nan_to_num(values, nan=0.0) for name, values in named.items()}
    named["olmes_10_macro_avg"] = np.mean([named[name] for name in (*PLAIN_TASKS, "mmlu")], axis=0)
    return np.stack([named[name] for name in MACRO_TASKS], axis=1)


def primary_of(tasks: Floats) -> Floats:
    """Return the primary metric, (step, task)."""
    return tasks[..., ENTRY_INDEX["primary_metric"]]
