"""Decode all summaries of an export once, into a compact table of final evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.sources.protocols import SUMMARY_KEYS
from dde.sources.values import (
    evaluation_names,
    evaluation_value,
    read_object,
    readable_text,
    summary_number,
    unwrapped,
)
from dde.sources.wandb.logs import first_positions
from dde.sources.wandb.records import EVALUATION_PREFIX, has_evaluations, pick

__all__ = ["SummaryTable"]


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """The evaluations and counters in the summaries of an export, whose text is about 35 KB per run.

    Attributes
    ----------
    run_ids : tuple of str
        Runs, in the order of the export. Of duplicate runs, `select` uses the first.
    picked : tuple of mapping
        Per run, the keys of ``SUMMARY_KEYS`` that it has.
    evaluated : tuple of bool
        Per run, whether it has any final evaluation.
    names : tuple of (str, str)
        (task, entry) of every evaluation of any run, sorted.
    values : (name, run) array
        Evaluations; NaN where a run has none.
    problems : tuple of tuple of str
        Per run, phrases on content of its summary that could not be read or is ambiguous.
    """

    run_ids: tuple[str, ...]
    picked: tuple[Mapping[str, Any], ...]
    evaluated: tuple[bool, ...]
    names: tuple[tuple[str, str], ...]
    values: npt.NDArray[np.float64]
    problems: tuple[tuple[str, ...], ...]

    @classmethod
    def from_summaries(cls, summaries: Iterable[tuple[str, object]]) -> SummaryTable:
        """Build the table from (run id, summary) pairs, where a summary is an object or JSON text."""
        run_ids: list[str] = []
        picked: list[Mapping[str, Any]] = []
        evaluated: list[bool] = []
        rows: list[dict[tuple[str, str], float]] = []
        problems: list[tuple[str, ...]] = []
        for run_id, encoded in summaries:
            summary, problem = read_object(encoded)
            run_problems = [f"the summary {problem}, and is not used"] if problem else []
            run_ids.append(run_id)
            picked.append(pick(summary, SUMMARY_KEYS))
            evaluated.append(has_evaluations(summary))
            rows.append(_evaluations(summary, run_problems))
            problems.append(tuple(map(readable_text, run_problems)))
        names = sorted({name for row in rows for name in row})
        values = np.full((len(names), len(rows)), np.nan)
        index = {name: position for position, name in enumerate(names)}
        for run, row in enumerate(rows):
            for name, value in row.items():
                values[index[name], run] = value
        shown = tuple((readable_text(task), readable_text(entry)) for task, entry in names)
        return cls(tuple(run_ids), tuple(picked), tuple(evaluated), shown, values, tuple(problems))

    def select(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return a (run,) array per (task, entry); NaN for unknown runs and names."""
        known = first_positions(self.run_ids)
        runs = np.array([known.get(run_id, -1) for run_id in run_ids], dtype=np.intp)
        index = {name: position for position, name in enumerate(self.names)}
        return {
            name: np.where(runs < 0, np.nan, self.values[index[name], runs])
            if name in index and len(self.run_ids)
            else np.full(len(runs), np.nan)
            for name in names
        }

    def public_names(self) -> list[tuple[str, str]]:
        """Return the (task, entry) that are metrics, sorted."""
        return [(task, entry) for task, entry in self.names if entry not in _NO_METRICS]


# Entries that a caller may request by name, but that are not listed as metrics.
_NO_METRICS = frozenset({"num_instances", "primary_score"})


def _evaluations(summary: Mapping[str, Any], problems: list[str]) -> dict[tuple[str, str], float]:
    decoded: dict[str, Any] = {}
    objects: list[str] = []
    for key, value in summary.items():
        if key.startswith(EVALUATION_PREFIX):
            # Parse the JSON text of an older store once, not once per entry.
            is_flat = "/" in key.removeprefix(EVALUATION_PREFIX)
            if is_flat:
                decoded[key] = value
                if isinstance(value, (dict, list)):
                    objects.append(key)
            else:
                objects.append(key)
                decoded[key], problem = read_object(unwrapped(value))
                if problem:
                    problems.append(f"{key} {problem}, and is not used")
    names = evaluation_names(decoded)
    for task in {task for task, _ in names}:
        names |= {(task, entry) for entry in _NO_METRICS}
    values = {name: evaluation_value(decoded, *name) for name in names}
    problems += _ambiguities(decoded, objects)
    return {name: value for name, value in values.items() if name[1] not in _NO_METRICS or value == value}


def _ambiguities(decoded: Mapping[str, Any], objects: Iterable[str]) -> Iterator[str]:
    """Yield phrases on ambiguous evaluations: flat keys that disagree with an object, and aggregates.

    Parameters
    ----------
    decoded : mapping of str to object
        The evaluations of a summary.
    objects : iterable of str
        Keys whose values are objects or lists.
    """
    keys_by_reason: dict[str, list[str]] = {}
    for key in objects:
        if "/" in key.removeprefix(EVALUATION_PREFIX):
            if reason := _aggregate_problem(decoded[key]):
                keys_by_reason.setdefault(reason, []).append(key)
            continue
        nested = decoded[key]
        extra = nested.get("extra_metrics")
        for entry, value in (*(extra.items() if isinstance(extra, dict) else ()), *nested.items()):
            flat = decoded.get(f"{key}/{entry}")
            if flat is None or flat == value:
                continue
            other = summary_number(value)
            if other == other and summary_number(flat) != other:
                keys_by_reason.setdefault(_DISAGREES, []).append(f"{key}/{entry}")
    for reason, keys in keys_by_reason.items():
        first = keys[0].removeprefix(EVALUATION_PREFIX)
        yield f"{len(keys)} evaluations ({first}{', ...' if len(keys) > 1 else ''}) {reason}"


_DISAGREES = "that a flat key and an object disagree on; a number of the flat key counts"


def _aggregate_problem(flat: Any) -> str:
    """Return why an object or list under a flat key is ambiguous; "" where it has the last value."""
    if math.isnan(summary_number(flat)):
        return "under a flat key that holds no single number"
    if isinstance(unwrapped(flat), dict) and "last" not in unwrapped(flat):
        return "aggregated without the last value; the number that all aggregates agree on counts"
    return ""
