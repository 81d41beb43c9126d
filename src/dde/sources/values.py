"""Values as W&B writes them: numbers as text, NaN and Infinity as text, JSON inside JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["as_float", "as_int", "as_object", "as_text", "evaluation_value"]

_SPECIAL = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}


def as_float(value: object) -> float:
    """Return a JSON value as a number; NaN for null, text that is no number, and anything else.

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
        except OverflowError:  # a database keeps whole numbers of any length
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        text = value.strip()
        special = _SPECIAL.get(text.casefold())
        if special is not None:
            return special
        # Python also takes "1_000"; JSON and W&B never write it.
        if "_" in text:
            return math.nan
        try:
            return float(text)
        except ValueError:
            return math.nan
    return math.nan


def as_int(value: object) -> int | None:
    """Return a JSON value as a whole number, or None when it is not one (big integers may be floats)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = as_float(value)
    return int(number) if math.isfinite(number) and number.is_integer() else None


def as_text(value: object) -> str:
    """Return a JSON value as text; "" for null."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object that may itself be JSON text, once or twice over; {} for anything else."""
    for _ in range(2):
        if isinstance(value, (str, bytes)):
            try:
                value = json.loads(value)
            except ValueError:
                return {}
    return dict(value) if isinstance(value, Mapping) else {}


_PREFIX = "oe_eval_metrics/"
_CORE_SUITE = "core_9mcqa:rc::olmes:full"


def summary_task(task: str) -> str:
    """Return the name that a W&B summary gives to `task`."""
    return _CORE_SUITE if task == "core_9mcqa" else task


def evaluation_value(summary: Mapping[str, Any], task: str, entry: str) -> float:
    """Return one final evaluation from a run's summary; NaN where it is absent.

    An evaluation stands as an object under ``oe_eval_metrics/<task>`` (JSON text in older stores) and in part
    as flat keys beside it; ``primary_score``, our primary metric, is in the object alone.
    """
    key = _PREFIX + summary_task(task)
    if entry != "primary_metric":
        flat = summary.get(f"{key}/{entry}")
        if flat is not None:
            return as_float(flat)
    nested = _object_in(summary, key)
    if entry == "primary_metric":
        return as_float(nested.get("primary_score"))
    if entry in nested:
        return as_float(nested[entry])
    return as_float(_object_in(nested, "extra_metrics").get(entry))


def _object_in(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    # A copy per entry of each evaluation would cost more than all else.
    inner = value.get(key)
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
        nested = as_object(value)
        for inner in (*nested, *as_object(nested.get("extra_metrics"))):
            if inner == "primary_score":
                names.add((task, "primary_metric"))
            elif inner not in ("extra_metrics", "task_config", "num_instances"):
                names.add((task, inner))
    return names
