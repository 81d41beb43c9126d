"""Rows of training logs: from columns as the stores have them to a `History` in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dde.sources.protocols import History
from dde.sources.values import as_float

__all__ = [
    "LOG_COLUMNS",
    "MOST_STEPS",
    "as_float_array",
    "empty_history",
    "first_positions",
    "is_step",
    "log_order",
    "ordered_history",
]

#: Columns of a log that say where a row stands, and are no metrics.
LOG_COLUMNS = frozenset({"id", "run_id", "run_name", "project", "step", "timestamp", "runtime", "wandb_metadata"})


#: Steps from here on are beyond what a double, as which JSON has them, tells from their neighbours.
MOST_STEPS = 2**53


def is_step(number: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which numbers are steps that rows can be placed by: whole, not below 0, and exact; NaN is none."""
    return np.asarray((number >= 0) & (number < MOST_STEPS) & (np.floor(number) == number), np.bool_)


def first_positions(run_ids: Sequence[str]) -> dict[str, int]:
    """Return the position of each run id; of one that stands twice, the first."""
    positions: dict[str, int] = {}
    for position, run_id in enumerate(run_ids):
        positions.setdefault(run_id, position)
    return positions


def log_order(*keys: npt.NDArray[Any]) -> npt.NDArray[np.intp] | None:
    """Return what orders rows by the first key, then the second, and so on, equals as they stand; None if they are.

    Parameters
    ----------
    *keys : (row,) arrays
        Index of the run, step, and what else there is.
    """
    if _are_ordered(keys):
        return None
    # A store keeps runs one after the other, each in order, though not in the order that they are asked for. Then
    # sorting by run is all, at a fraction of what sorting by everything takes.
    order = np.argsort(keys[0], kind="stable")
    return order if _are_ordered([key[order] for key in keys]) else np.lexsort(keys[::-1])


def ordered_history(
    run: npt.NDArray[np.int32], step: npt.NDArray[np.int64], values: Mapping[str, npt.NDArray[np.float64]]
) -> History:
    """Return rows that stand in the store's order, ordered by run, then step, then as they stood.

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
    """Return a column as numbers, as `values.as_float` reads each: NaN for null and for text that is none.

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
        # Counters beyond 2**53 lose their last digits, as they do in any float.
        column = column.cast(pa.float64(), safe=False)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_as_float(column)
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    else:
        return np.full(len(column), np.nan)
    # pyarrow leaves what lies under a null undefined, so nulls are filled rather than read.
    numbers = column.fill_null(np.nan).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float64)


def _text_as_float(column: pa.Array) -> npt.NDArray[np.float64]:
    try:
        parsed = column.cast(pa.float64())
    except pa.ArrowInvalid:
        # Some text is no number. Each different text is read once: what is none tends to repeat.
        encoded = pc.dictionary_encode(column)
        numbers = np.array([as_float(text) for text in encoded.dictionary.to_pylist()], dtype=np.float64)
        parsed = pa.DictionaryArray.from_arrays(encoded.indices, pa.array(numbers)).cast(pa.float64())
    return np.asarray(parsed.fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)
