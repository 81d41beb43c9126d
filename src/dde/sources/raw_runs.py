"""Runs and logged rows of an export with all that they hold, for loading them into a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["OBJECT_COLUMNS", "RawExport", "RawRow", "RawRun"]

#: Columns of a run that hold JSON objects.
OBJECT_COLUMNS: tuple[str, ...] = (
    "config",
    "summary",
    "wandb_metadata",
    "system_metrics",
    "system_attrs",
    "sweep_info",
)


@dataclass(frozen=True, slots=True)
class RawRun:
    """One run, whole.

    Attributes
    ----------
    run_id, run_name, state, project, entity : str
        As the export has them; "" where it has nothing.
    created_at : numpy.datetime64
        UTC; NaT where unknown.
    objects : tuple of str
        JSON text of each of `OBJECT_COLUMNS`, ``"{}"`` where the export has nothing. NaN and Infinity may
        stand in it as Python writes them.
    """

    run_id: str
    run_name: str
    state: str
    project: str
    entity: str
    created_at: np.datetime64
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a training log, whole.

    Attributes
    ----------
    run_id : str
        Run that logged it.
    step : int or None
        Step of the run.
    timestamp : numpy.datetime64
        UTC; NaT where unknown.
    runtime : float
        Seconds since the start; NaN where unknown.
    wandb_metadata, metrics : str
        JSON text of an object.
    """

    run_id: str
    step: int | None
    timestamp: np.datetime64
    runtime: float
    wandb_metadata: str
    metrics: str


class RawExport(Protocol):
    """An export that can be copied whole."""

    @property
    def description(self) -> str:
        """What the export is, without credentials."""
        ...

    def is_flat(self) -> bool:
        """Whether config and summary stand in one object, which is given as the config."""
        ...

    def raw_run_count(self) -> int:
        """Return how many runs there are, for progress; warn of those that the export contradicts itself about."""
        ...

    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run once, in the order of the export."""
        ...

    def has_history(self) -> bool:
        """Return whether training logs were exported at all."""
        ...

    def raw_rows(self, run_ids: Sequence[str]) -> Iterator[RawRow]:
        """Yield the logged rows of these runs, each run's in the order of the export."""
        ...
