"""Tables of any number of lineages, made when asked for: as many recipes as it takes, three seeds, one size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dde.curves.metric import Metric
from dde.entities.repository import RunRepository
from dde.names import RECIPES, SEEDS, Base, find_size, task_metric
from dde.sources.protocols import History
from dde.suite.datadecide.names import checkpoints as base_filters
from dde.suite.datadecide.names.recipes import Recipe
from dde.suite.datadecide.tables.pretraining_tables import TableCheckpoints

__all__ = ["open_many"]

_CHECKPOINTS = 30


class _Tables:
    """What a repository asks of tables."""

    layout, on_error, description, fingerprint = "raw", "raise", "", ""

    def __init__(self, count: int) -> None:
        size = find_size("4M")
        assert size is not None
        recipes = [Recipe(f"Recipe {k}", f"recipe-{k}", "Many", ()) for k in range(-(-count // 3))]
        # The suite has 25; these stand behind them.
        base_filters._RECIPE_ORDER.update({r.slug: len(RECIPES) + k for k, r in enumerate(recipes)})
        self.bases = tuple(Base(r, size, s) for r in recipes for s in SEEDS[:3])[:count]
        self._number = {base.label: i for i, base in enumerate(self.bases)}
        self.set_aside: list[str] = []
        self.conflicts: list[str] = []
        self.left_out: dict[str, int] = {}

    def catalog(self) -> TableCheckpoints:
        base = np.repeat(np.arange(len(self.bases), dtype=np.int32), _CHECKPOINTS)
        # Runs differ in where they were evaluated, so that the grid is none of theirs.
        step = np.tile(np.arange(_CHECKPOINTS) * 200, len(self.bases)) + base % 7
        return TableCheckpoints(self.bases, base, step.astype(np.int64))

    def metrics(self) -> list[Metric]:
        return [task_metric("arc_easy", "primary_metric")]

    def holds(self, metric: Metric) -> bool:
        return metric.task == "arc_easy"

    def read_together(self, metric: Metric, others: Iterable[Metric]) -> list[Metric]:
        return [metric]

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> History:
        # What is asked for alone, so that the time of a source that looks at all of it is not taken for ours.
        run = np.repeat(np.arange(len(bases), dtype=np.int32), _CHECKPOINTS)
        number = np.array([self._number[base.label] for base in bases], np.int64)
        step = (np.arange(_CHECKPOINTS) * 200 + number[:, np.newaxis] % 7).ravel()
        return History(run, step, {m.name: np.log1p(step) / 10 for m in metrics})


def open_many(count: int) -> xr.Dataset:
    """Return a Dataset of so many lineages on 256 points; nothing of a metric has been made."""
    tables: Any = _Tables(count)
    return RunRepository(tables).to_dataset(metrics=["arc_easy"], grid=256)
