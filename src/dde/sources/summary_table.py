"""Final evaluations of all runs of an export as one compact table, made while summaries are decoded once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.sources.log_rows import first_positions
from dde.sources.protocols import SUMMARY_KEYS
from dde.sources.run_records import EVALUATION_PREFIX, has_evaluations, pick
from dde.sources.values import (
    evaluation_names,
    evaluation_value,
    read_object,
    readable_text,
    summary_number,
    unwrapped,
)

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
            problems.append(tuple(found))
        names = sorted({name for row in rows for name in row})
        values = np.full((len(names), len(rows)), np.nan)
        index = {name: position for position, name in enumerate(names)}
        for run, row in enumerate(rows):
            for name, value in row.items():
                values[index[name], run] = value
        return cls(tuple(run_ids), tuple(picked), tuple(evaluated), tuple(names), values, tuple(problems))

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
    for written, value in summary.items():
        if written.startswith(EVALUATION_PREFIX):
            key = readable_text(written)
            # JSON text of an older store is parsed once here rather than once per entry.
            is_flat = "/" in key.removeprefix(EVALUATION_PREFIX)
            if is_flat:
                decoded[key] = value
            else:
                decoded[key], problem = read_object(unwrapped(value))
                if problem:
                    problems.append(f"{key} {problem}, and is not used")
    names = evaluation_names(decoded)
    for task in {task for task, _ in names}:
        names |= {(task, entry) for entry in _NO_METRICS}
    values = {name: evaluation_value(decoded, *name) for name in names}
    problems += _ambiguities(decoded)
    return {
        (task, readable_text(entry)): value
        for (task, entry), value in values.items()
        if entry not in _NO_METRICS or value == value
    }


def _ambiguities(decoded: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is read one way and could be read another: flat keys beside objects that disagree, aggregates."""
    found: dict[str, list[str]] = {}
    for key, flat in decoded.items():
        task, slash, entry = key.removeprefix(EVALUATION_PREFIX).partition("/")
        if slash and flat is not None and (what := _ambiguity(flat, _entry_of(decoded, task, entry))):
            found.setdefault(what, []).append(f"{task}/{entry}")
    for what, entries in found.items():
        yield f"{len(entries)} evaluations ({entries[0]}{', ...' if len(entries) > 1 else ''}) {what}"


def _entry_of(decoded: Mapping[str, Any], task: str, entry: str) -> Any:
    """Return what the object of a task holds under the name of a flat key; None where it is absent."""
    nested = decoded.get(EVALUATION_PREFIX + task)
    if not nested:
        return None
    value = nested.get(entry)
    extra = nested.get("extra_metrics")
    return extra.get(entry) if value is None and isinstance(extra, dict) else value


def _ambiguity(flat: object, nested: object) -> str:
    """Return how the value of a flat key could be read another way; "" where it can't."""
    if isinstance(flat, (dict, list)):
        flat = unwrapped(flat)
        if math.isnan(summary_number(flat)):
            return "under a flat key that holds no single number"
        if isinstance(flat, dict) and "last" not in flat:
            return "aggregated without the last value; the number that all aggregates agree on counts"
    if nested is not None and flat != nested:
        other = summary_number(nested)
        if other == other and summary_number(flat) != other:
            return "that a flat key and an object disagree on; a number of the flat key counts"
    return ""
