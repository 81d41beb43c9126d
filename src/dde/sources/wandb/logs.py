"""Collect rows of training logs as columns, and order them as a `History`."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dde.sources.protocols import History
from dde.sources.values import as_float, read_object, readable_text, unwrapped

__all__ = [
    "LOG_COLUMNS",
    "MOST_STEPS",
    "Log",
    "LogBuilder",
    "LogDigests",
    "as_float_array",
    "empty_history",
    "first_positions",
    "is_step",
    "log_notes",
    "log_order",
    "logged_metrics",
    "logged_step",
    "ordered_history",
]

#: Columns of a log that identify a row, and are not metrics.
LOG_COLUMNS = frozenset({"id", "run_id", "run_name", "project", "step", "timestamp", "runtime", "wandb_metadata"})


#: Upper bound of steps: JSON readers decode them as doubles, which are exact below it.
MOST_STEPS = 2**53


def is_step(number: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which numbers are usable steps: integers from 0 to below `MOST_STEPS`. NaN is not."""
    return np.asarray((number >= 0) & (number < MOST_STEPS) & (np.floor(number) == number), np.bool_)


def first_positions(run_ids: Sequence[str]) -> dict[str, int]:
    """Return the first position of each run id."""
    positions: dict[str, int] = {}
    for position, run_id in enumerate(run_ids):
        positions.setdefault(run_id, position)
    return positions


def log_order(*keys: npt.NDArray[Any]) -> npt.NDArray[np.intp] | None:
    """Return the stable order of rows by the first key, then the second, and so on; None if they are in order.

    Parameters
    ----------
    *keys : (row,) arrays
        Index of the run, step, and further keys.
    """
    if _are_ordered(keys):
        return None
    # Stores usually have the rows of each run in order, but the runs in another order than requested. Then sorting by
    # run is sufficient, and much faster than sorting by all keys.
    order = np.argsort(keys[0], kind="stable")
    return order if _are_ordered([key[order] for key in keys]) else np.lexsort(keys[::-1])


def ordered_history(
    run: npt.NDArray[np.int32], step: npt.NDArray[np.int64], values: Mapping[str, npt.NDArray[np.float64]]
) -> History:
    """Return rows ordered by run, then by step, then as given, which is the order of the store.

    Parameters
    ----------
    run, step : (row,) arrays
        Index of the run, and step.
    values : mapping of str to (row,) array
        One array per key.
    """
    order = log_order(run, step)
    if order is None:
        return History(run=run, step=step, values=dict(values))
    return History(run=run[order], step=step[order], values={key: array[order] for key, array in values.items()})


def _are_ordered(keys: Sequence[npt.NDArray[Any]]) -> bool:
    """Return whether rows are in order of the first key, then the second, and so on."""
    if len(keys[0]) < 2:
        return True
    tied = np.ones(len(keys[0]) - 1, np.bool_)
    for key in keys:
        if np.any(tied & (key[1:] < key[:-1])):
            return False
        tied &= key[1:] == key[:-1]
    return True


def empty_history(keys: Sequence[str]) -> History:
    """Return a history without rows, with an empty array per key."""
    return History(run=np.empty(0, np.int32), step=np.empty(0, np.int64), values={key: np.empty(0) for key in keys})


def as_float_array(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return a column as floats, converted as by `values.as_float`: NaN for null and for text that is not a number.

    Parameters
    ----------
    column : pyarrow array of shape (row,)
        Numbers, booleans or text, dictionary-encoded or not. Any other type gives NaN.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_dictionary(kind):
        if len(column.dictionary) == 0:
            return np.full(len(column), np.nan)
        numbers = as_float_array(column.dictionary)
        index = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return np.where(index < 0, np.nan, numbers[index])
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        # Counters beyond 2**53 lose their last digits, as in any double.
        column = column.cast(pa.float64(), safe=False)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_as_float(column)
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    else:
        return np.full(len(column), np.nan)
    # In pyarrow the values under nulls are undefined, so they are filled.
    numbers = column.fill_null(np.nan).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float64)


def _text_as_float(column: pa.Array) -> npt.NDArray[np.float64]:
    try:
        parsed = column.cast(pa.float64())
    except pa.ArrowInvalid:
        # Some text is not a number. Such text tends to repeat, so each distinct text is parsed once.
        encoded = pc.dictionary_encode(column)
        numbers = np.array([as_float(text) for text in encoded.dictionary.to_pylist()], dtype=np.float64)
        parsed = pa.DictionaryArray.from_arrays(encoded.indices, pa.array(numbers)).cast(pa.float64())
    return np.asarray(parsed.fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class LogDigests:
    """Digests of the logged rows of each run.

    Attributes
    ----------
    of_run : mapping of str to str
        Per run: the number of rows, the last step, and a hash of their content.
    rows_without_step : mapping of str to int
        Per run, the number of rows without a usable step; only runs that have any.
    unreadable : mapping of str to int
        Per run, the number of rows whose metrics could not be read completely; only runs that have any.
    """

    of_run: Mapping[str, str]
    rows_without_step: Mapping[str, int]
    unreadable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Log:
    """All logged rows of an export.

    Attributes
    ----------
    run_ids : mapping of str to int
        Index of each run.
    run, offset : (row,) arrays
        Index of the run, and byte offset of the row in the file.
    step : (row,) array
        Step; NaN for a row without a usable one.
    columns : mapping of str to ((value,) array, (value,) array)
        Per key, the rows that have it, and their values.
    digests : LogDigests
        Digests of the rows of each run.
    """

    run_ids: Mapping[str, int]
    run: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    step: npt.NDArray[np.float64]
    columns: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
    digests: LogDigests

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the rows of some runs that have a usable step, with the given keys."""
        position = np.full(len(self.run_ids), -1, dtype=np.int32)
        for run_id, requested in first_positions(run_ids).items():
            if run_id in self.run_ids:
                position[self.run_ids[run_id]] = requested
        run = position[self.run]
        rows = np.flatnonzero((run >= 0) & ~np.isnan(self.step))
        values: dict[str, npt.NDArray[np.float64]] = {}
        for key in keys:
            column = np.full(len(self.run), np.nan)
            if key in self.columns:
                logged, numbers = self.columns[key]
                column[logged] = numbers
            values[key] = column[rows]
        return ordered_history(run[rows], self.step[rows].astype(np.int64), values)

    def keys(self) -> list[str]:
        """Return the keys that are metrics, sorted."""
        return sorted(key for key in self.columns if key not in LOG_COLUMNS and not key.startswith("_"))


@dataclass
class LogBuilder:
    """Builder of a `Log`; rows are added in the order of the file."""

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
        """Add a row, with a digest of its content and the reason why some of its metrics could not be read."""
        number = self._run_ids.setdefault(run_id, len(self._run_ids))
        if number == len(self._hashes):
            self._hashes.append(0)
        # A sum does not depend on the order of rows.
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
        """Return the log of all added rows."""
        run, step = np.array(self._run, dtype=np.int32), np.array(self._step, dtype=np.float64)
        counts = np.bincount(run, minlength=len(self._run_ids))
        last = np.full(len(self._run_ids), -np.inf)
        np.fmax.at(last, run, step)
        usable = is_step(step)
        without_step = np.bincount(run[~usable], minlength=len(self._run_ids))
        return Log(
            run_ids=self._run_ids,
            run=run,
            offset=np.array(self._offset, dtype=np.int64),
            step=np.where(usable, step, np.nan),
            columns={
                readable_text(key): (np.array(rows, dtype=np.int64), np.array(values, dtype=np.float64))
                for key, (rows, values) in self._columns.items()
            },
            digests=LogDigests(
                of_run={
                    run_id: f"{counts[number]}.{last[number]:.0f}.{self._hashes[number] % 2**64:016x}"
                    for run_id, number in self._run_ids.items()
                },
                rows_without_step={
                    run_id: int(without_step[number])
                    for run_id, number in self._run_ids.items()
                    if without_step[number]
                },
                unreadable=self._unreadable,
            ),
        )


def log_notes(unreadable: int) -> Iterable[str]:
    """Yield the note for a run with `unreadable` rows whose metrics could not be read."""
    if unreadable:
        yield f"{unreadable} logged {'row' if unreadable == 1 else 'rows'} with metrics that can't be read"


def logged_step(record: Mapping[str, Any]) -> float:
    """Return the step of a row, under the key of dr_wandb or of W&B; NaN where absent."""
    for name in ("step", "_step"):
        value = record.get(name)
        if value is not None:
            return np.nan if isinstance(value, bool) else as_float(value)
    metrics = record.get("metrics")
    return as_float(metrics.get("_step")) if isinstance(metrics, dict) else np.nan


def logged_metrics(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the metrics of a row, and the problem with them; "" where they are complete.

    The metrics are in ``metrics`` if the row has it. Otherwise they are all keys except W&B's own and `LOG_COLUMNS`.
    """
    if "metrics" in record:
        metrics = record["metrics"]
        return (metrics, "") if isinstance(metrics, dict) else read_object(unwrapped(metrics))
    return {k: v for k, v in record.items() if k not in LOG_COLUMNS and not k.startswith("_")}, ""
