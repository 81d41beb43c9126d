"""Logged rows of an export that stand as JSON, or as objects, row by row: decoded once, kept as a column per key."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.sources.log_rows import LOG_COLUMNS, first_positions, is_step, ordered_history
from dde.sources.protocols import History
from dde.sources.values import as_float, read_object, readable_text, unwrapped

__all__ = ["Log", "LogBuilder", "log_notes", "logged_metrics", "step_of"]


@dataclass(frozen=True, slots=True)
class Log:
    """All logged rows of an export.

    Attributes
    ----------
    run_ids : mapping of str to int
        Number of each run.
    run, offset : (row,) arrays
        Number of the run, and where the row begins in the file.
    step : (row,) array
        Step; NaN for a row without one that can be used.
    columns : mapping of str to ((value,) array, (value,) array)
        Per key, the rows that have it, and their values.
    digests : mapping of str to str
        Per run: how many rows, the last step, and a hash of all they hold.
    rows_without_step : mapping of str to int
        Per run, rows that have no place; runs without any left out.
    unreadable : mapping of str to int
        Per run, rows whose metrics could not be read, or not all of them; runs without any left out.
    """

    run_ids: Mapping[str, int]
    run: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    step: npt.NDArray[np.float64]
    columns: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
    digests: Mapping[str, str]
    rows_without_step: Mapping[str, int]
    unreadable: Mapping[str, int]

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the rows of some runs that have a step, with those keys alone."""
        position = np.full(len(self.run_ids), -1, dtype=np.int32)
        for run_id, asked in first_positions(run_ids).items():
            if run_id in self.run_ids:
                position[self.run_ids[run_id]] = asked
        run = position[self.run]
        rows = np.flatnonzero((run >= 0) & ~np.isnan(self.step))
        values: dict[str, npt.NDArray[np.float64]] = {}
        for key in keys:
            whole = np.full(len(self.run), np.nan)
            if key in self.columns:
                logged, numbers = self.columns[key]
                whole[logged] = numbers
            values[key] = whole[rows]
        return ordered_history(run[rows], self.step[rows].astype(np.int64), values)

    def keys(self) -> list[str]:
        """Return the keys that are metrics, sorted."""
        return sorted(key for key in self.columns if key not in LOG_COLUMNS and not key.startswith("_"))


@dataclass
class LogBuilder:
    """A log that rows are added to, in the order of the file."""

    _run_ids: dict[str, int] = field(default_factory=dict)
    _run: array[int] = field(default_factory=lambda: array("i"))
    _offset: array[int] = field(default_factory=lambda: array("q"))
    _step: array[float] = field(default_factory=lambda: array("d"))
    _columns: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)
    _hashes: list[int] = field(default_factory=list)
    _unreadable: dict[str, int] = field(default_factory=dict)

    def add(
        self, run_id: str, step: float, metrics: Mapping[str, Any], digest: int, offset: int = 0, problem: str = ""
    ) -> None:
        """Add a row; `digest` is one of all that it holds, `problem` says why not all metrics could be read."""
        number = self._run_ids.setdefault(run_id, len(self._run_ids))
        if number == len(self._hashes):
            self._hashes.append(0)
        # A sum, so that the order of rows means nothing.
        self._hashes[number] += digest
        row = len(self._run)
        self._run.append(number)
        self._offset.append(offset)
        self._step.append(step)
        if problem:
            self._unreadable[run_id] = self._unreadable.get(run_id, 0) + 1
        columns = self._columns
        for key, value in metrics.items():
            rows, values = columns.get(key) or columns.setdefault(key, (array("q"), array("d")))
            rows.append(row)
            values.append(as_float(value))

    def log(self) -> Log:
        """Return the log of all rows that were added."""
        run, step = np.array(self._run, dtype=np.int32), np.array(self._step, dtype=np.float64)
        counts = np.bincount(run, minlength=len(self._run_ids))
        last = np.full(len(self._run_ids), -np.inf)
        np.fmax.at(last, run, step)
        placed = is_step(step)
        lost = np.bincount(run[~placed], minlength=len(self._run_ids))
        return Log(
            run_ids=self._run_ids,
            run=run,
            offset=np.array(self._offset, dtype=np.int64),
            step=np.where(placed, step, np.nan),
            columns={
                readable_text(key): (np.array(rows, dtype=np.int64), np.array(values, dtype=np.float64))
                for key, (rows, values) in self._columns.items()
            },
            digests={
                run_id: f"{counts[number]}.{last[number]:.0f}.{self._hashes[number] % 2**64:016x}"
                for run_id, number in self._run_ids.items()
            },
            rows_without_step={run_id: int(lost[n]) for run_id, n in self._run_ids.items() if lost[n]},
            unreadable=self._unreadable,
        )


def log_notes(unreadable: int) -> Iterable[str]:
    """Return what to say of a run of which so many rows have metrics that could not be read."""
    if unreadable:
        yield f"{unreadable} logged {'row' if unreadable == 1 else 'rows'} with metrics that can't be read"


def step_of(record: Mapping[str, Any]) -> float:
    """Return the step of a row, under the name of dr_wandb or of W&B itself; NaN where it has none."""
    for name in ("step", "_step"):
        value = record.get(name)
        if value is not None:
            return np.nan if isinstance(value, bool) else as_float(value)
    metrics = record.get("metrics")
    return as_float(metrics.get("_step")) if isinstance(metrics, dict) else np.nan


def logged_metrics(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return what a row logged, and why not all of it; "" where it is whole.

    That is its ``metrics``, else every key that is not W&B's own or a row's place.
    """
    if "metrics" in record:
        metrics = record["metrics"]
        return (metrics, "") if isinstance(metrics, dict) else read_object(unwrapped(metrics))
    return {k: v for k, v in record.items() if k not in LOG_COLUMNS and not k.startswith("_")}, ""
