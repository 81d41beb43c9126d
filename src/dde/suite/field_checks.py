"""Checks of single fields of a declaration: names, rules, branches, counts and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dde.errors import FormatError, UnknownNameError, near_names
from dde.schema import CELL_NUMBERS, CELL_TEXTS, DIMS, MEMBERS, POSITION_CHECK, SAMPLED, TABLE_SAMPLINGS
from dde.suite import serialization
from dde.suite.metric import Metric
from dde.suite.patterns import Pattern, Template
from dde.suite.rules import Rule

__all__ = [
    "COUNTS",
    "FORMATS",
    "RESERVED",
    "check_at",
    "check_metrics",
    "check_name",
    "check_numbers",
    "check_rule",
    "check_text",
    "listed",
    "sort_of",
]

#: Forms of files that are read.
FORMATS = ("csv", "tsv", "parquet", "jsonl", "arrow", "lm_eval", "trainer_state", "wandb")
#: Origin of token counts: the run's start, or that of its root.
COUNTS = ("own", "cumulative")

# Coordinates that describe a hyperparameter of a run may be factors of any suite.
_HYPERPARAMETERS = ("reduce_loss", "batch_size", "training_seed", "weight_decay", "warmup_ratio", "max_seq_length")
# Options of `open_lineages`; factors of these names could not be selected.
_OPTIONS = (
    "source db suite schema method state lineages run_ids metrics axis grid max_points interp max_gap bridge parents "
    "run_types tokens_per_sequence cache_dir chunks"
).split()
#: Names of coordinates that every suite has; neither a metric nor a field may have one.
COORDINATE_NAMES = frozenset(
    {
        *DIMS, *CELL_TEXTS, *CELL_NUMBERS, *TABLE_SAMPLINGS, POSITION_CHECK, MEMBERS, "run_type", "start_tokens",
        "root_run_id",
        "n_params", "replicate", "cumulative_compute", "last_end_tokens", "final_tokens", "final_compute", "own_tokens",
    }
).difference(_HYPERPARAMETERS)  # fmt: skip
#: Names that no field of a suite may have: those of coordinates, and of options of ``open_lineages``.
RESERVED = COORDINATE_NAMES.union(_OPTIONS)
# Beginnings of names of coordinates that contain the name of a metric.
_RESERVED_STARTS = (SAMPLED, "base_distance")


def check_name(name: str, place: str) -> None:
    """Raise an error if the name of a field is reserved or not an identifier."""
    if name in RESERVED or name.startswith(_RESERVED_STARTS):
        raise UnknownNameError(
            f"{place}: the name {name!r} is reserved: every Dataset has a coordinate or open_lineages an option of "
            f"this name, so a factor would be confused with it. Take another name, such as {name + '_'!r}."
        )
    if not name.isidentifier():
        raise FormatError(f"{place}: {name!r} can't name a factor; take a name of letters, digits and _.")


def check_at(at: Any, key: str) -> None:
    """Raise an error if a value is not a branch point."""
    if isinstance(at, str):
        if at not in serialization.AT_WORDS:
            raise UnknownNameError(
                f"{key}: {at!r} is not a branch. Take {', '.join(serialization.AT_WORDS)}, or a mapping of "
                f"{', '.join(serialization.AT_KINDS)} to a rule.{near_names(at, serialization.AT_WORDS)}"
            )
        return
    if not isinstance(at, Mapping) or len(at) != 1:
        raise FormatError(
            f"{key}: {at!r} is not a branch. Take {', '.join(serialization.AT_WORDS)}, or a mapping of one of "
            f"{', '.join(serialization.AT_KINDS)} to a rule."
        )
    ((kind, rule),) = at.items()
    if kind not in serialization.AT_KINDS:
        raise UnknownNameError(
            f"{key}: a branch is not counted in {kind!r}. Take one of {', '.join(serialization.AT_KINDS)}."
            f"{near_names(kind, serialization.AT_KINDS)}"
        )
    check_rule(rule, f"{key}.{kind}")


def check_numbers(step: Any, tokens: Any, counts: Any, n_params: Any, schedule_tokens: Any) -> None:
    """Raise an error if one of these fields of a suite or a table is wrong; messages begin with the key."""
    if counts is not None and counts not in COUNTS:
        raise UnknownNameError(
            f"counts: {counts!r} is not a way to count. Take 'own', tokens since the run's start, or "
            f"'cumulative', if the counter continues from the parent's.{near_names(counts, COUNTS)}"
        )
    if step is not None:
        check_rule(step, "step")
    if isinstance(tokens, Mapping):
        _check_per_step(tokens)
    elif tokens is not None:
        check_rule(tokens, "tokens")
    for key, value in (("n_params", n_params), ("schedule_tokens", schedule_tokens)):
        if isinstance(value, Mapping):
            _check_lookup(value, key)
        elif value is not None:
            check_rule(value, key)


def check_metrics(metrics: Mapping[str, Metric] | None) -> None:
    """Raise an error if a pattern of metrics is invalid, or a metric names a field that its pattern does not have."""
    for text, metric in (metrics or {}).items():
        place = f"metrics[{text!r}]"
        pattern = Pattern(text, place)
        unknown = sorted(metric.fields.difference(pattern.fields))
        if unknown:
            raise UnknownNameError(
                f"{place}: the metric names the field {unknown[0]!r}, and the pattern of its key has no such field. "
                f"Fields: {listed(pattern.fields)}.{near_names(unknown[0], pattern.fields)}"
            )
        if not Template(metric.name).fields:
            name = metric.name
            if name in COORDINATE_NAMES or name.startswith(_RESERVED_STARTS):
                raise UnknownNameError(
                    f"{place}.name: the name {name!r} is reserved for a coordinate. Take another "
                    f"name, such as {name + '_at_step'!r}."
                )


def check_rule(value: Any, key: str) -> None:
    """Raise an error if a value is not a rule."""
    Rule(value, what=key)


def check_text(value: object, key: str, what: str) -> None:
    """Raise FormatError if a value is not a text, or is empty."""
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"{key}: {what} is a text, not {value!r}.")


def sort_of(kind: str) -> str:
    """Return the sort of values of a field of a pattern, as errors name it."""
    return "a number" if kind in ("int", "float") else "text"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return names for an error, with the number of those beyond `most`."""
    all_names = list(names)
    more = f" and {len(all_names) - most:,} more" if len(all_names) > most else ""
    return (", ".join(all_names[:most]) or "none") + more


def _check_per_step(tokens: Mapping[str, Any]) -> None:
    for key in tokens:
        if key != "per_step":
            raise UnknownNameError(f"tokens: there is no {key!r}; take per_step.{near_names(key, ['per_step'])}")
    value = tokens.get("per_step")
    if isinstance(value, Mapping):
        _check_lookup(value, "tokens.per_step")
    elif isinstance(value, list):
        _check_pieces(value)
    elif not _is_count(value):
        raise FormatError(
            f"tokens.per_step: {value!r} is not a number of tokens per step. Take a whole number, pieces [[step, n], "
            "...], or {factor: {value: n}}."
        )


def _check_pieces(pieces: list[Any]) -> None:
    before = -1
    for index, piece in enumerate(pieces):
        path = f"tokens.per_step[{index}]"
        if not isinstance(piece, list) or len(piece) != 2 or not _is_count(piece[1]):
            raise FormatError(f"{path}: {piece!r} is not a piece; a piece is [first step, tokens per step].")
        if not (_is_count(piece[0]) or (type(piece[0]) in (int, float) and piece[0] == 0)) or piece[0] <= before:
            raise FormatError(f"{path}: steps of pieces ascend, and {piece[0]!r} does not.")
        if not index and piece[0] != 0:
            raise FormatError(f"{path}: the first piece begins at step 0, and this one at {piece[0]!r}.")
        before = piece[0]
    if not pieces:
        raise FormatError("tokens.per_step: there is no piece; a piece is [first step, tokens per step].")


def _check_lookup(lookup: Mapping[str, Any], key: str) -> None:
    if len(lookup) != 1:
        raise FormatError(
            f"{key}: a lookup is by one factor, {{factor: {{value: n}}}}, and this one is by {listed(lookup)}."
        )
    ((factor, values),) = lookup.items()
    if not isinstance(values, Mapping) or not values:
        raise FormatError(f"{key}.{factor}: {values!r} is not a mapping of the factor's values to numbers.")
    for value, number in values.items():
        if not _is_count(number):
            raise FormatError(f"{key}.{factor}[{value!r}]: {number!r} is not a whole number above 0.")


def _is_count(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 2**63 - 1 and math.isfinite(value) and value == int(value)
