"""Which checkpoints of a pretraining run the tutorial's tables hold, gaps and repetitions included.

The rules depend on the base alone, so a base has the same rows in every suite. The 1,060 bases of the whole
suite come to 21,375 evaluated checkpoints and 22,709 perplexity rows, as the published tables have them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.suite.datadecide.names import RECIPES, Base, ModelSize
from dde.tutorial.curves import random_stream

__all__ = ["BaseCheckpoints", "checkpoints_of", "evaluation_grid"]

Steps = npt.NDArray[np.int64]

#: Steps between two evaluated checkpoints.
INTERVAL = 1250

# Of each auxiliary seed's checkpoints between the first and the last: how many were never evaluated on tasks,
# and how many of those have perplexities all the same. Over 50 auxiliary runs a size, with the other rules,
# the totals of the module's docstring come out.
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
        Steps of the perplexity table, in its order; may hold a step twice.
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
    """Return the steps at which a complete run of this size is evaluated on tasks."""
    last = size.last_evaluated_step
    return np.unique(np.append(np.arange(0, last + 1, INTERVAL), last))


def checkpoints_of(seed: int, base: Base) -> BaseCheckpoints:
    """Return the rows that the tables hold of a pretraining run."""
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
        gone = random_stream(seed, "thinning", base.label).permutation(inner)[:dropped]
        without = gone[_PERPLEXITY_ONLY.get(size.name, 0) :]
        evaluated = np.delete(grid, gone)
        perplexity = np.delete(grid, np.append(without, 0))
    if not auxiliary and base.recipe.name in _NO_PERPLEXITY:
        if size.name in ("150M", "300M", "530M", "750M"):
            perplexity = perplexity[perplexity != INTERVAL]
        elif size.name in ("60M", "90M", "1B"):
            perplexity = perplexity[:-1]
    if size.name == "4M":
        # The job ran ten steps on; only the perplexities were taken there.
        perplexity = np.append(perplexity, size.last_step + 10)
    if size.name in ("150M", "300M") and auxiliary and base.recipe.name in _OVERRAN:
        past = -(-size.last_step // INTERVAL) * INTERVAL + INTERVAL * np.array([4, 40, 120])
        perplexity = np.append(perplexity, past)
    conflicting = np.zeros(len(perplexity), dtype=bool)
    if base.recipe.name in _REPEATED and (size.name, base.seed.index) in (("4M", 0), ("150M", 1)):
        again = perplexity[[1, 2, 3]]
        perplexity = np.append(perplexity, again)
        conflicting = np.append(conflicting, np.zeros(3, dtype=bool))
        # One row of the whole table disagrees with the one it repeats.
        conflicting[-1] = base.recipe.name == "DCLM-Baseline" and size.name == "150M"
    return BaseCheckpoints(evaluated, perplexity, conflicting)


assert set(_STOPPED_EARLY + _OVERRAN + _NO_PERPLEXITY + _REPEATED) <= {r.name for r in RECIPES}
