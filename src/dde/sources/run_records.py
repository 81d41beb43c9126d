"""Records of runs from the parts that every form of a W&B store has: config, summary, metadata, tags."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from dde.sources.protocols import CONFIG_KEYS, SUMMARY_KEYS, RunRecord
from dde.sources.values import as_float, as_int, as_object, as_text

__all__ = [
    "EVALUATION_PREFIX",
    "has_evaluations",
    "pick",
    "run_record",
    "utc_microseconds",
    "wanted_config_keys",
    "without_logged_rate",
]

#: What the keys of final evaluations in a summary start with.
EVALUATION_PREFIX = "oe_eval_metrics/"

_NAT = np.datetime64("NaT", "us")


def wanted_config_keys(extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Return ``CONFIG_KEYS`` and the extra ones, each once."""
    return tuple(dict.fromkeys((*CONFIG_KEYS, *extra)))


def pick(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the entries of `values` with these keys; keys that it lacks are left out."""
    return {key: values[key] for key in keys if key in values}


def has_evaluations(summary: Iterable[str]) -> bool:
    """Return whether a summary has any key of a final evaluation."""
    return any(key.startswith(EVALUATION_PREFIX) for key in summary)


def without_logged_rate(
    config: Mapping[str, Any], summary: Mapping[str, Any], last_rate: float | None
) -> dict[str, Any]:
    """Return the config of a flat object, less a learning rate that is the last logged one.

    Before dr_wandb 0.1 the summary's keys overwrote those of config. ``learning_rate`` stands in both, and a
    schedule ends far below the rate that it is set to: a value that equals the last logged one, or that can't
    be compared in a run that logged, is no hyperparameter.

    Parameters
    ----------
    config, summary : mapping
        What was picked from the flat object.
    last_rate : float or None
        Learning rate in the run's last logged row; None where it logged none.
    """
    kept = dict(config)
    if as_text(config.get("lr_scheduler_type")).startswith("constant"):
        return kept
    logged = "_step" in summary if last_rate is None else last_rate == as_float(config.get("learning_rate"))
    if logged:
        kept.pop("learning_rate", None)
    return kept


def utc_microseconds(value: object) -> np.datetime64:
    """Return a time as the stores write it, in UTC; NaT for null and for what is no time.

    Text is ISO 8601; without an offset it is UTC, which is what W&B writes. Numbers are seconds since 1970.

    Examples
    --------
    >>> utc_microseconds("2025-08-19T05:36:01Z")
    np.datetime64('2025-08-19T05:36:01.000000')
    """
    if isinstance(value, np.datetime64):
        return cast("np.datetime64", value.astype("datetime64[us]"))
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            value = as_float(value)
    if isinstance(value, bool):
        return _NAT
    if isinstance(value, (int, float)):
        # Seconds beyond the years of a calendar, NaN among them, are no time.
        return np.datetime64(round(value * 1e6), "us") if abs(value) < 1e11 else _NAT
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        return np.datetime64(value, "us")
    return _NAT


def run_record(
    *,
    run_id: str,
    run_name: object = None,
    state: object = None,
    project: object = None,
    entity: object = None,
    created_at: object = None,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    metadata: object,
    tags: object,
    config_keys: Iterable[str],
    evaluated: bool,
    version: str,
) -> RunRecord:
    """Return the record of a run from its parts; text columns that are null become "".

    Parameters
    ----------
    config, summary : mapping
        May hold more than is asked for; only the wanted keys are kept.
    metadata : object
        What W&B keeps of the launch: ``args``, ``program``, ``gpu_count``; an object or JSON text.
    tags : object
        A list of str; anything else gives none.
    config_keys : iterable of str
        Keys of config to keep.
    """
    launch = as_object(metadata)
    arguments = launch.get("args")
    return RunRecord(
        run_id=run_id,
        run_name=as_text(run_name),
        state=as_text(state),
        project=as_text(project),
        entity=as_text(entity),
        created_at=utc_microseconds(created_at),
        # Keys are the same in every run: one copy of each serves thousands of records.
        config={sys.intern(key): value for key, value in pick(config, config_keys).items()},
        summary=pick(summary, SUMMARY_KEYS),
        command=tuple(as_text(item) for item in arguments) if isinstance(arguments, list) else (),
        program=as_text(launch.get("program")),
        gpu_count=as_int(launch.get("gpu_count")),
        tags=tuple(as_text(tag) for tag in tags) if isinstance(tags, list) else (),
        evaluated=evaluated,
        version=version,
    )
