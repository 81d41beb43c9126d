"""Runs and logged rows of an export with their complete content, to load them into a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dde.sources.json_text import NotExactError, Part, object_text
from dde.sources.values import as_float
from dde.sources.wandb.records import utc_microseconds

__all__ = ["OBJECT_COLUMNS", "RawExport", "RawRow", "RawRun", "raw_row", "raw_run"]

#: Columns of a run that contain JSON objects.
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
    """One run with its complete content.

    Attributes
    ----------
    run_id, run_name, state, project, entity : str
        As in the export; "" where absent.
    created_at : numpy.datetime64
        UTC; NaT where unknown.
    objects : tuple of str
        JSON text of each of `OBJECT_COLUMNS`, ``"{}"`` where absent. It may contain NaN and Infinity as Python writes
        them.
    problem : str
        Why the run can't be stored exactly; "" where it can.
    changes : tuple of str
        Phrases on values that differ from the export.
    """

    run_id: str
    run_name: str
    state: str
    project: str
    entity: str
    created_at: np.datetime64
    objects: tuple[str, ...]
    problem: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a training log with its complete content.

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
    problem, changes
        As in `RawRun`.
    """

    run_id: str
    step: int | None
    timestamp: np.datetime64
    runtime: float
    wandb_metadata: str
    metrics: str
    problem: str = ""
    changes: tuple[str, ...] = ()


class RawExport(Protocol):
    """Protocol: an export that can be copied completely."""

    @property
    def description(self) -> str:
        """Name of the export, without credentials."""
        ...

    def is_flat(self) -> bool:
        """Return whether config and summary are in one object, which is returned as the config."""
        ...

    def raw_run_count(self) -> int:
        """Return the number of runs, for progress; warn of runs with contradictory entries."""
        ...

    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run once, in the order of the export."""
        ...

    def has_history(self) -> bool:
        """Return whether the export includes training logs."""
        ...

    def raw_rows(self, run_ids: Sequence[str]) -> Iterator[RawRow]:
        """Yield the logged rows of these runs; rows of one run are in the order of the export."""
        ...

    def row_counts(self) -> Mapping[str, int]:
        """Return the number of logged rows of each run, including runs that are not in the export.

        Rows without a run id are counted under "".
        """
        ...


def raw_run(names: Mapping[str, str], created_at: object, objects: Sequence[Part], problem: str = "") -> RawRun:
    """Build a run from its columns in an export.

    Parameters
    ----------
    names : mapping of str to str
        run_id, run_name, state, project and entity.
    created_at : object
    objects : sequence of Part
        Values of `OBJECT_COLUMNS`, in that order.
    problem : str
        Why the run can't be stored, where that is already known.
    """
    problems = [problem] if problem else []
    texts = [_text(name, part, problems) for name, part in zip(OBJECT_COLUMNS, objects, strict=True)]
    time, changes = _time("created_at", created_at)
    return RawRun(**names, created_at=time, objects=tuple(texts), problem="; ".join(problems), changes=changes)


def raw_row(
    run_id: str,
    step: object,
    timestamp: object,
    runtime: object,
    metadata: Part,
    metrics: Part,
    problem: str = "",
) -> RawRow:
    """Build a logged row from its columns in an export; see :func:`raw_run`."""
    problems = [problem] if problem else []
    number = as_float(step)
    integer = step if isinstance(step, int) else int(number) if number.is_integer() else None
    changes: tuple[str, ...] = ()
    if isinstance(step, float) and np.isnan(step):
        changes = ("step is NaN, null is stored",)
    elif step is not None and (integer is None or isinstance(step, bool)):
        problems.append("step is not a whole number")
    time, other = _time("timestamp", timestamp)
    return RawRow(
        run_id=run_id,
        step=integer,
        timestamp=time,
        runtime=as_float(runtime),
        wandb_metadata=_text("wandb_metadata", metadata, problems),
        metrics=_text("metrics", metrics, problems),
        problem="; ".join(problems),
        changes=(*changes, *other),
    )


def _text(name: str, part: Part, problems: list[str]) -> str:
    try:
        return object_text(part)
    except NotExactError as error:
        problems.append(f"{name} {error}")
        return "{}"


def _time(name: str, value: object) -> tuple[np.datetime64, tuple[str, ...]]:
    try:
        time = utc_microseconds(value)
    except (OverflowError, ValueError):
        time = np.datetime64("NaT", "us")
    absent = value is None or value == "" or value != value
    return time, () if absent or not np.isnat(time) else (f"{name} is not a time, null is stored",)
