"""Final evaluations of all runs of an export as one compact table, made while summaries are decoded once."""

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
    """What is kept of the summaries of an export, some 35 KB a run as text.

    Attributes
    ----------
    run_ids : tuple of str
        Runs, in the order of the export; of a run that stands twice, the first.
    picked : tuple of mapping
        Per run, those of ``SUMMARY_KEYS`` that it has.
    evaluated : tuple of bool
        Per run, whether it has any final evaluation.
    names : tuple of (str, str)
        (task, entry) of every evaluation of any run, sorted.
    values : (name, run) array
        Evaluations; NaN where a run lacks one.
    problems : tuple of tuple of str
        Per run, what of its summary could not be read or is ambiguous, as phrases.
    """

    run_ids: tuple[str, ...]
    picked: tuple[Mapping[str, Any], ...]
    evaluated: tuple[bool, ...]
    names: tuple[tuple[str, str], ...]
    values: npt.NDArray[np.float64]
    problems: tuple[tuple[str, ...], ...]

    @classmethod
    def from_summaries(cls, summaries: Iterable[tuple[str, object]]) -> SummaryTable:
        """Return the table of (run id, summary) pairs; a summary is an object or JSON text, and decoded here."""
        run_ids: list[str] = []
        picked: list[Mapping[str, Any]] = []
        evaluated: list[bool] = []
        rows: list[dict[tuple[str, str], float]] = []
        problems: list[tuple[str, ...]] = []
        for run_id, written in summaries:
            summary, problem = read_object(written)
            found = [f"the summary {problem}, and is not used"] if problem else []
            run_ids.append(run_id)
            picked.append(pick(summary, SUMMARY_KEYS))
            evaluated.append(has_evaluations(summary))
            rows.append(_evaluations(summary, found))
            problems.append(tuple(map(readable_text, found)))
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
        """Return per (task, entry) a (run,) array; NaN for runs and names that are unknown."""
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


# Entries that a caller may ask for by name, but that are no metrics of their own.
_NO_METRICS = frozenset({"num_instances", "primary_score"})


def _evaluations(summary: Mapping[str, Any], problems: list[str]) -> dict[tuple[str, str], float]:
    decoded: dict[str, Any] = {}
    objects: list[str] = []
    for key, value in summary.items():
        if key.startswith(EVALUATION_PREFIX):
            # JSON text of an older store is parsed once here rather than once per entry.
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
    """Yield what is read one way and could be read another: flat keys beside objects that disagree, aggregates.

    Parameters
    ----------
    decoded : mapping of str to object
        The evaluations of a summary.
    objects : iterable of str
        Their keys that hold objects or lists.
    """
    found: dict[str, list[str]] = {}
    for key in objects:
        if "/" in key.removeprefix(EVALUATION_PREFIX):
            if what := _oddity(decoded[key]):
                found.setdefault(what, []).append(key)
            continue
        nested = decoded[key]
        extra = nested.get("extra_metrics")
        for entry, value in (*(extra.items() if isinstance(extra, dict) else ()), *nested.items()):
            flat = decoded.get(f"{key}/{entry}")
            if flat is None or flat == value:
                continue
            other = summary_number(value)
            if other == other and summary_number(flat) != other:
                found.setdefault(_DISAGREES, []).append(f"{key}/{entry}")
    for what, entries in found.items():
        first = entries[0].removeprefix(EVALUATION_PREFIX)
        yield f"{len(entries)} evaluations ({first}{', ...' if len(entries) > 1 else ''}) {what}"


_DISAGREES = "that a flat key and an object disagree on; a number of the flat key counts"


def _oddity(flat: Any) -> str:
    """Return what is odd about an object or a list under a flat key; "" where it holds the last value."""
    if math.isnan(summary_number(flat)):
        return "under a flat key that holds no single number"
    if isinstance(unwrapped(flat), dict) and "last" not in unwrapped(flat):
        return "aggregated without the last value; the number that all aggregates agree on counts"
    return ""
