"""Decode values as W&B writes them: numbers as text, NaN and Infinity as text, JSON inside JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.sources.json_text import MAX_DEPTH, read_json

__all__ = [
    "as_float",
    "as_int",
    "as_object",
    "as_text",
    "evaluation_value",
    "is_deep",
    "read_object",
    "readable_text",
    "summary_number",
    "text_array",
    "unwrapped",
]

_SPECIAL = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}


def as_float(value: object) -> float:
    """Return a JSON value as a number; NaN for null, text that is not a number, and anything else.

    Examples
    --------
    >>> as_float("530100000"), as_float("Infinity"), as_float(None)
    (530100000.0, inf, nan)
    """
    if value is None:
        return math.nan
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:  # a database stores integers of any length
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        text = value.strip()
        special = _SPECIAL.get(text.casefold())
        if special is not None:
            return special
        # Python also accepts "1_000"; JSON and W&B never write it.
        if "_" in text:
            return math.nan
        try:
            return float(text)
        except ValueError:
            return math.nan
    if isinstance(value, Decimal):
        return float(value)
    return math.nan


def as_int(value: object) -> int | None:
    """Return a JSON value as an integer, or None if it is not one (large integers may be written as floats).

    Integers that do not fit into int64 give None: no count of a run is that large.

    Examples
    --------
    >>> as_int("8"), as_int(8.0), as_int(8.5), as_int(1e300)
    (8, 8, None, None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -_INT64_BOUND <= value < _INT64_BOUND else None
    number = as_float(value)
    return int(number) if -_INT64_BOUND <= number < _INT64_BOUND and number.is_integer() else None


# The first positive integer that int64 can't represent.
_INT64_BOUND = 2**63


def as_text(value: object) -> str:
    """Return a JSON value as text; "" for null, and for a value that is nested too deeply to encode."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, (bool, int, float, list, tuple, dict)):
        # Parquet columns may contain UUIDs and dates.
        return str(value)
    try:
        return json.dumps(value, default=str)
    except RecursionError:
        return ""


def text_array(values: Iterable[object]) -> npt.NDArray[np.object_]:
    """Return values as an object array of strings.

    Zarr v3 warns about fixed-width text, and NumPy's StringDType does not survive the reindexing in concat and merge.

    Examples
    --------
    >>> text_array(["a", 1]).tolist()
    ['a', '1']
    """
    texts = [str(value) for value in values]
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def readable_text(text: str) -> str:
    """Return text with lone surrogates and U+0000 escaped, which files and terminals reject.

    Examples
    --------
    >>> readable_text("caf\u00e9"), readable_text("a" + chr(0xD800) + chr(0))
    ('café', 'a\\\\ud800\\\\x00')
    """
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\x00") if "\0" in text else text


def is_deep(value: object, levels: int = MAX_DEPTH) -> bool:
    """Return whether objects and lists of a JSON value are nested more than `levels` deep."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            part
            for outer in level
            if isinstance(outer, (dict, list))
            for part in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return False
    return True


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object, which may be encoded as JSON text once or several times; {} for anything else."""
    return read_object(value)[0]


def read_object(value: object) -> tuple[dict[str, Any], str]:
    """Return a JSON object as `as_object` does, and the problem with it; "" where it is complete.

    None, blank text and JSON null give an empty object without a problem.

    Examples
    --------
    >>> read_object('"{\\\\"lr\\\\": 1e-05}"'), read_object("[1]")
    (({'lr': 1e-05}, ''), ({}, 'is not a JSON object'))
    """
    reason = ""
    # Each program that copies an export may encode its text once more.
    for _ in range(4):
        if not isinstance(value, (str, bytes)):
            break
        value, problem = read_json(value)
        reason = problem or reason
    if isinstance(value, Mapping):
        return dict(value), reason
    if isinstance(value, (str, bytes)) or (value is not None and not reason):
        reason = "is not a JSON object"
    return {}, reason


def unwrapped(value: Any) -> Any:
    """Return a config value without the wrapping of W&B's config files: ``{"value": 1e-05, "desc": null}`` is 1e-05.

    Examples
    --------
    >>> unwrapped({"value": 1e-05, "desc": None}), unwrapped({"value": 1, "unit": "s"}), unwrapped(3)
    (1e-05, {'value': 1, 'unit': 's'}, 3)
    """
    return value["value"] if isinstance(value, dict) and "value" in value and value.keys() <= _WRAPPING else value


_WRAPPING = frozenset({"value", "desc"})
# Aggregates that W&B stores of a metric where `define_metric` requests more than its last value.
_AGGREGATES = frozenset({"min", "max", "mean", "last", "first", "best", "sum", "copy", "std"})


def summary_number(value: object) -> float:
    """Return a value of a summary as a number; the last value, where W&B stored aggregates.

    Where the aggregates do not include ``last`` but all agree, as for a metric that was logged once, that number is
    the value. Otherwise the last value is unknown, and the result is NaN.

    Examples
    --------
    >>> summary_number({"max": 0.5, "last": 0.4}), summary_number({"min": 0.31}), summary_number({"min": 1, "max": 2})
    (0.4, 0.31, nan)
    """
    if type(value) is float:
        return value
    if not isinstance(value, dict):
        return as_float(value)
    value = unwrapped(value)
    if not isinstance(value, dict):
        return as_float(value)
    if not value or not value.keys() <= _AGGREGATES:
        return math.nan
    if "last" in value:
        return as_float(value["last"])
    numbers = {as_float(number) for number in value.values()}
    return numbers.pop() if len(numbers) == 1 else math.nan


_PREFIX = "oe_eval_metrics/"
_CORE_SUITE = "core_9mcqa:rc::olmes:full"


def summary_task(task: str) -> str:
    """Return the name of `task` in a W&B summary."""
    return _CORE_SUITE if task == "core_9mcqa" else task


def evaluation_value(summary: Mapping[str, Any], task: str, entry: str) -> float:
    """Return one final evaluation from a run's summary; NaN where it is absent.

    An evaluation is an object under ``oe_eval_metrics/<task>`` (JSON text in older stores). Some of its entries are
    also written as flat keys; ``primary_score``, the primary metric, is only in the object. A flat key that has a
    number takes precedence over the object; either may be an aggregate.
    """
    key = _PREFIX + summary_task(task)
    if entry == "primary_metric":
        return summary_number(_object_in(summary, key).get("primary_score"))
    flat = summary.get(f"{key}/{entry}")
    if type(flat) is float:
        return flat
    if flat is not None:
        number = summary_number(flat)
        if number == number or _is_nan(flat):
            return number
    return nested_value(summary, task, entry)


def nested_value(summary: Mapping[str, Any], task: str, entry: str) -> float:
    """Return one final evaluation from its object, ignoring flat keys; NaN where absent."""
    nested = _object_in(summary, _PREFIX + summary_task(task))
    if entry in nested:
        return summary_number(nested[entry])
    return summary_number(_object_in(nested, "extra_metrics").get(entry))


def _is_nan(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, str) and value.strip().casefold() == "nan")


def _object_in(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    # No copy: one per entry of each evaluation would dominate the cost.
    inner = unwrapped(value.get(key))
    return inner if isinstance(inner, dict) else as_object(inner)


def evaluation_names(summary: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the (task, entry) of every number among the final evaluations of a summary."""
    names: set[tuple[str, str]] = set()
    for key, value in summary.items():
        if not key.startswith(_PREFIX):
            continue
        full_task, _, entry = key.removeprefix(_PREFIX).partition("/")
        task = "core_9mcqa" if full_task == _CORE_SUITE else full_task
        if entry:
            names.add((task, entry))
            continue
        nested = as_object(unwrapped(value))
        for inner in (*nested, *as_object(nested.get("extra_metrics"))):
            if inner == "primary_score":
                names.add((task, "primary_metric"))
            elif inner not in ("extra_metrics", "task_config", "num_instances"):
                names.add((task, inner))
    return names
