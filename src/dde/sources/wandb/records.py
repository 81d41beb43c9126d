"""Records of runs from config, summary, metadata and tags, as every form of a W&B store has them."""

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

#: What stands before the name of a key of the config, where other things have names as well.
CONFIG = "config."


def config_heads(name: str) -> list[str]:
    """Return the keys of a config under which a name may stand: ``a.b`` in ``a``, or as ``a.b``.

    Examples
    --------
    >>> config_heads("config.optimizer.lr")
    ['config', 'config.optimizer', 'config.optimizer.lr', 'optimizer', 'optimizer.lr']
    """
    found = []
    for whole in dict.fromkeys((name, name.removeprefix(CONFIG))):
        parts = whole.split(".")
        found += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return found


def config_value(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key of a config, of groups within it by dots; None where there is none.

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
    """Return a value of a config as text: "" for None, lists and groups as JSON.

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
        # Seconds beyond the years of a calendar, NaN among them, are no time.
        return np.datetime64(round(value * 1e6), "us") if abs(value) < 1e11 else _NAT
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            try:
                value = value.astimezone(dt.UTC).replace(tzinfo=None)
            except OverflowError:  # the year 1 east of Greenwich is the year 0 there
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

    What can't be used of it is left out and noted: counts beyond any run's, dates beyond the calendar, values that
    nest too deeply. A run whose id is no text is set aside.

    Parameters
    ----------
    config, summary : mapping
        May hold more than is asked for; only the wanted keys are kept. Values may be wrapped as in W&B's config
        files, or aggregates.
    metadata : object
        What W&B keeps of the launch: ``args``, ``program``, ``gpu_count``; an object or JSON text.
    tags : object
        A list of str; anything else gives none.
    config_keys : iterable of str
        Keys of config to keep.
    rows_without_step : int
        Logged rows that have no place.
    notes : iterable of str
        What the store could not read of the run.
    """
    found = [*notes]
    launch, problem = read_object(metadata)
    if problem:
        found.append(f"the launch metadata {problem}, and is not used")
    arguments = _decoded(launch.get("args"))
    created = utc_microseconds(created_at)
    if np.isnat(created) and created_at not in (None, "") and not _is_nothing(created_at):
        found.append(f"created_at {_shown(created_at)} is no date, and is not used")
    texts = {name: _text(value, name, found) for name, value in _named_texts(run_name, state, project, entity)}
    known_id = readable_text(run_id)
    return RunRecord(
        run_id=known_id,
        **texts,
        created_at=created,
        # Keys are the same in every run: one copy of each serves thousands of records.
        config={sys.intern(key): value for key, value in _usable(config, config_keys, found)},
        summary={
            key: summary_number(value) if isinstance(value, dict) else value
            for key, value in _usable(summary, SUMMARY_KEYS, found, "summary")
        },
        command=tuple(readable_text(as_text(item)) for item in arguments) if isinstance(arguments, list) else (),
        program=readable_text(as_text(_decoded(launch.get("program")))),
        gpu_count=as_int(launch.get("gpu_count")),
        tags=tuple(readable_text(as_text(tag)) for tag in tags) if isinstance(tags, list) else (),
        evaluated=evaluated,
        version=version,
        rows_without_step=rows_without_step,
        problem="" if known_id == run_id else "its run id has characters or bytes that are no text",
        notes=tuple(found),
    )


# From here on doubles lie further than 1 apart: no run counts so many tokens, steps or sequences.
_COUNTED = 2**53
# FLOPs are more than that.
_COMPUTE = "compute"


def _named_texts(run_name: object, state: object, project: object, entity: object) -> list[tuple[str, object]]:
    return [("run_name", run_name), ("state", state), ("project", project), ("entity", entity)]


def _text(value: object, name: str, notes: list[str]) -> str:
    text = as_text(value)
    known = readable_text(text)
    if known != text:
        notes.append(f"{name} has characters or bytes that are no text, which are written out")
    return known


def _usable(
    values: Mapping[str, Any], keys: Iterable[str], notes: list[str], where: str = "config"
) -> Iterator[tuple[str, Any]]:
    """Yield the entries with these keys that can be used, unwrapped; note the others."""
    for key, wrapped in pick(values, keys).items():
        value = unwrapped(wrapped)
        if isinstance(value, (dict, list)):
            if is_deep(value, _LEVELS):
                notes.append(f"{where}.{key} is nested more than {_LEVELS} levels deep, and is not used")
                continue
            value = _readable(value)
        elif isinstance(value, str):
            value = _text(_decoded(value) if value[:1] == '"' else value, f"{where}.{key}", notes)
        if isinstance(value, (int, float, str)) and _COMPUTE not in key and abs(as_float(value)) >= _COUNTED:
            notes.append(f"{where}.{key} {_shown(value)} is beyond any count, and is not used")
            continue
        yield key, value


# Values of config that are kept, shown and sent have some two.
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
    """Return a value of a map whose values are JSON text, as databases write them: ``'"finetune.py"'``."""
    if isinstance(value, str) and value[:1] in ('"', "["):
        decoded = load_json(value)
        return value if decoded is None else decoded
    return value


def _is_nothing(value: object) -> bool:
    return (isinstance(value, float) and value != value) or (isinstance(value, np.datetime64) and bool(np.isnat(value)))


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else readable_text(as_text(value))
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"
