"""Build records of runs from config, summary, metadata and tags; shared by all forms of a W&B store."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from dde.sources.json_text import load_json
from dde.sources.protocols import CONFIG_KEYS, SUMMARY_KEYS, RunRecord
from dde.sources.values import (
    as_float,
    as_int,
    as_text,
    is_deep,
    read_object,
    readable_text,
    summary_number,
    unwrapped,
)

__all__ = [
    "CONFIG",
    "EVALUATION_PREFIX",
    "config_heads",
    "config_text",
    "config_value",
    "has_evaluations",
    "pick",
    "run_record",
    "utc_microseconds",
    "wanted_config_keys",
    "without_logged_rate",
]

#: Prefix of config keys where they are named together with other fields of a run.
CONFIG = "config."


def config_heads(name: str) -> list[str]:
    """Return the config keys that may contain a dotted name: ``a.b`` may be in ``a``, or be a key itself.

    Examples
    --------
    >>> config_heads("config.optimizer.lr")
    ['config', 'config.optimizer', 'config.optimizer.lr', 'optimizer', 'optimizer.lr']
    """
    heads = []
    for full_name in dict.fromkeys((name, name.removeprefix(CONFIG))):
        parts = full_name.split(".")
        heads += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return heads


def config_value(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a config key, where dots separate groups; None where absent.

    Examples
    --------
    >>> config_value({"optimizer": {"lr": 0.1}, "data.mix": "c4"}, "optimizer.lr")
    0.1
    >>> config_value({"optimizer": {"lr": 0.1}, "data.mix": "c4"}, "data.mix")
    'c4'
    """
    if name in config:
        return config[name]
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        group = config.get(".".join(parts[:i]))
        if isinstance(group, Mapping):
            return config_value(group, ".".join(parts[i:]))
    return None


def config_text(value: Any) -> str:
    """Return a config value as text: "" for None, JSON for lists and groups.

    Examples
    --------
    >>> config_text(True), config_text([0.9, 0.95]), config_text(None)
    ('True', '[0.9, 0.95]', '')
    """
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value) if isinstance(value, bool) else as_text(value)


#: Prefix of the keys of final evaluations in a summary.
EVALUATION_PREFIX = "oe_eval_metrics/"

_NAT = np.datetime64("NaT", "us")


def wanted_config_keys(extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Return ``CONFIG_KEYS`` and the extra keys, without duplicates."""
    return tuple(dict.fromkeys((*CONFIG_KEYS, *extra)))


def pick(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the entries of `values` with these keys; absent keys are left out."""
    return {key: values[key] for key in keys if key in values}


def has_evaluations(summary: Iterable[str]) -> bool:
    """Return whether a summary has any final evaluation."""
    return any(key.startswith(EVALUATION_PREFIX) for key in summary)


def without_logged_rate(
    config: Mapping[str, Any], summary: Mapping[str, Any], last_rate: float | None
) -> dict[str, Any]:
    """Return the config from a flat object, without ``learning_rate`` where that is the last logged value.

    Before dr_wandb 0.1, keys of the summary overwrote those of the config. ``learning_rate`` is in both, and a schedule
    ends far below the configured rate, so a value that equals the last logged one is not the hyperparameter; nor is
    one that can't be compared although the run logged steps.

    Parameters
    ----------
    config, summary : mapping
        Keys picked from the flat object.
    last_rate : float or None
        Learning rate in the run's last logged row; None where it logged none.
    """
    result = dict(config)
    if as_text(config.get("lr_scheduler_type")).startswith("constant"):
        return result
    logged = "_step" in summary if last_rate is None else last_rate == as_float(config.get("learning_rate"))
    if logged:
        result.pop("learning_rate", None)
    return result


def utc_microseconds(value: object) -> np.datetime64:
    """Return a time as the stores write it, in UTC; NaT for null and for values that are not times.

    Text is ISO 8601; without an offset it is UTC, which is what W&B writes. Numbers are seconds since 1970.

    Examples
    --------
    >>> utc_microseconds("2025-08-19T05:36:01Z")
    np.datetime64('2025-08-19T05:36:01.000000')
    """
    if isinstance(value, np.datetime64):
        return cast("np.datetime64", value.astype("datetime64[us]"))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            value = as_float(value)
    if isinstance(value, bool):
        return _NAT
    if isinstance(value, (int, float)):
        # Seconds beyond the range of years, and NaN, are not times.
        return np.datetime64(round(value * 1e6), "us") if abs(value) < 1e11 else _NAT
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            try:
                value = value.astimezone(dt.UTC).replace(tzinfo=None)
            except OverflowError:  # year 1 with a positive offset is year 0 in UTC
                return _NAT
        return np.datetime64(value, "us")
    if isinstance(value, dt.date):
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
    rows_without_step: int = 0,
    notes: Iterable[str] = (),
) -> RunRecord:
    """Return the record of a run from its parts; text columns that are null become "".

    Unusable content is left out and noted: counts too large for any run, dates beyond the calendar, values nested too
    deeply. A run whose id is not valid text gets a `problem`.

    Parameters
    ----------
    config, summary : mapping
        May have other keys, which are ignored. Values may be wrapped as in W&B's config files, or be aggregates.
    metadata : object
        Launch metadata of W&B: ``args``, ``program``, ``gpu_count``; an object or JSON text.
    tags : object
        A list of str; any other value gives no tags.
    config_keys : iterable of str
        Config keys to include.
    rows_without_step : int
        Number of logged rows without a usable step.
    notes : iterable of str
        Phrases on content of the run that the store could not read.
    """
    all_notes = [*notes]
    launch, problem = read_object(metadata)
    if problem:
        all_notes.append(f"the launch metadata {problem}, and is not used")
    arguments = _decoded(launch.get("args"))
    created = utc_microseconds(created_at)
    if np.isnat(created) and created_at not in (None, "") and not _is_missing(created_at):
        all_notes.append(f"created_at {_shown(created_at)} is not a date, and is not used")
    texts = {name: _text(value, name, all_notes) for name, value in _named_texts(run_name, state, project, entity)}
    readable_id = readable_text(run_id)
    return RunRecord(
        run_id=readable_id,
        **texts,
        created_at=created,
        # Keys are the same in every run, so thousands of records share one copy of each.
        config={sys.intern(key): value for key, value in _usable(config, config_keys, all_notes)},
        summary={
            key: summary_number(value) if isinstance(value, dict) else value
            for key, value in _usable(summary, SUMMARY_KEYS, all_notes, "summary")
        },
        command=tuple(readable_text(as_text(item)) for item in arguments) if isinstance(arguments, list) else (),
        program=readable_text(as_text(_decoded(launch.get("program")))),
        gpu_count=as_int(launch.get("gpu_count")),
        tags=tuple(readable_text(as_text(tag)) for tag in tags) if isinstance(tags, list) else (),
        evaluated=evaluated,
        version=version,
        rows_without_step=rows_without_step,
        problem="" if readable_id == run_id else "its run id has characters or bytes that are not text",
        notes=tuple(all_notes),
    )


# Doubles from here on are more than 1 apart, and no run counts that many tokens, steps or sequences.
_COUNT_BOUND = 2**53
# Keys with this word are FLOPs, which exceed that bound.
_COMPUTE = "compute"


def _named_texts(run_name: object, state: object, project: object, entity: object) -> list[tuple[str, object]]:
    return [("run_name", run_name), ("state", state), ("project", project), ("entity", entity)]


def _text(value: object, name: str, notes: list[str]) -> str:
    text = as_text(value)
    readable = readable_text(text)
    if readable != text:
        notes.append(f"{name} has characters or bytes that are not text, which are written out")
    return readable


def _usable(
    values: Mapping[str, Any], keys: Iterable[str], notes: list[str], where: str = "config"
) -> Iterator[tuple[str, Any]]:
    """Yield the usable entries with these keys, unwrapped; add a note for each unusable one."""
    for key, wrapped in pick(values, keys).items():
        value = unwrapped(wrapped)
        if isinstance(value, (dict, list)):
            if is_deep(value, _LEVELS):
                notes.append(f"{where}.{key} is nested more than {_LEVELS} levels deep, and is not used")
                continue
            value = _readable(value)
        elif isinstance(value, str):
            value = _text(_decoded(value) if value[:1] == '"' else value, f"{where}.{key}", notes)
        if isinstance(value, (int, float, str)) and _COMPUTE not in key and abs(as_float(value)) >= _COUNT_BOUND:
            notes.append(f"{where}.{key} {_shown(value)} is beyond any count, and is not used")
            continue
        yield key, value


# Config values that are stored, shown and sent have about two levels.
_LEVELS = 20


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return readable_text(value)
    if isinstance(value, list):
        return [_readable(part) for part in value]
    if isinstance(value, dict):
        return {_readable(key): _readable(part) for key, part in value.items()}
    return value


def _decoded(value: object) -> object:
    """Decode a value of a map that stores its values as JSON text, as databases do: ``'"finetune.py"'``."""
    if isinstance(value, str) and value[:1] in ('"', "["):
        decoded = load_json(value)
        return value if decoded is None else decoded
    return value


def _is_missing(value: object) -> bool:
    return (isinstance(value, float) and value != value) or (isinstance(value, np.datetime64) and bool(np.isnat(value)))


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else readable_text(as_text(value))
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"
