"""Table of the final evaluations in the summaries of an export, each of which is decoded once."""

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

# Entries that a caller may request by name, but that are not listed as metrics.
_UNLISTED_ENTRIES = frozenset({"num_instances", "primary_score"})
_DISAGREES = "that a flat key and an object disagree on; a number of the flat key is used"


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """The evaluations and counters in the summaries of an export.

    The text of a summary is about 35 KB, most of which is not needed; the table has a few numbers of each.

    Attributes
    ----------
    run_ids : tuple of str
        Runs, in the order of the export. Of duplicate runs, `select` uses the first.
    counters : tuple of mapping
        Per run, the keys of ``SUMMARY_KEYS`` that it has, and their values.
    evaluated : tuple of bool
        Per run, whether it has any final evaluation.
    names : tuple of (str, str)
        (task, entry) of every evaluation of any run, sorted.
    values : (name, run) float64 array
        Evaluations; NaN where a run has none.
    problems : tuple of tuple of str
        Per run, phrases on content of its summary that could not be read or is ambiguous.
    """

    run_ids: tuple[str, ...]
    counters: tuple[Mapping[str, Any], ...]
    evaluated: tuple[bool, ...]
    names: tuple[tuple[str, str], ...]
    values: npt.NDArray[np.float64]
    problems: tuple[tuple[str, ...], ...]

    @classmethod
    def from_summaries(cls, summaries: Iterable[tuple[str, object]]) -> SummaryTable:
        """Build the table from (run id, summary) pairs, where a summary is an object or JSON text.

        Examples
        --------
        >>> table = SummaryTable.from_summaries([("a", {"oe_eval_metrics/piqa": {"acc": 0.5}}), ("b", "{}")])
        >>> table.names, table.values.tolist(), table.evaluated
        ((('piqa', 'acc'),), [[0.5, nan]], (True, False))
        """
        run_ids: list[str] = []
        counters: list[Mapping[str, Any]] = []
        evaluated: list[bool] = []
        rows: list[dict[tuple[str, str], float]] = []
        problems: list[tuple[str, ...]] = []
        for run_id, encoded in summaries:
            summary, problem = read_object(encoded)
            run_problems = [f"the summary {problem}, and is not used"] if problem else []
            run_ids.append(run_id)
            counters.append(pick(summary, SUMMARY_KEYS))
            evaluated.append(has_evaluations(summary))
            rows.append(_evaluations(summary, run_problems))
            problems.append(tuple(map(readable_text, run_problems)))
        names = sorted({name for row in rows for name in row})
        values = np.full((len(names), len(rows)), np.nan)
        index = {name: position for position, name in enumerate(names)}
        for run, row in enumerate(rows):
            for name, value in row.items():
                values[index[name], run] = value
        return cls(
            run_ids=tuple(run_ids),
            counters=tuple(counters),
            evaluated=tuple(evaluated),
            names=tuple((readable_text(task), readable_text(entry)) for task, entry in names),
            values=values,
            problems=tuple(problems),
        )

    def select(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return evaluations of runs.

        Parameters
        ----------
        run_ids : sequence of str
        names : sequence of (str, str)
            (task, entry) of each evaluation.

        Returns
        -------
        dict of (str, str) to (run,) float64 array
            By (task, entry); NaN for unknown runs and names.
        """
        position_of = first_positions(self.run_ids)
        runs = np.array([position_of.get(run_id, -1) for run_id in run_ids], dtype=np.intp)
        index = {name: position for position, name in enumerate(self.names)}
        return {
            name: np.where(runs < 0, np.nan, self.values[index[name], runs])
            if name in index and len(self.run_ids)
            else np.full(len(runs), np.nan)
            for name in names
        }

    def public_names(self) -> list[tuple[str, str]]:
        """Return the (task, entry) that are metrics, sorted."""
        return [(task, entry) for task, entry in self.names if entry not in _UNLISTED_ENTRIES]


def _is_flat(key: str) -> bool:
    """Return whether a key names one entry, ``oe_eval_metrics/<task>/<entry>``, rather than all of a task."""
    return "/" in key.removeprefix(EVALUATION_PREFIX)


def _evaluations(summary: Mapping[str, Any], problems: list[str]) -> dict[tuple[str, str], float]:
    """Return the final evaluations of a summary by (task, entry), and append its problems to `problems`."""
    decoded: dict[str, Any] = {}
    objects: list[str] = []
    for key, value in summary.items():
        if not key.startswith(EVALUATION_PREFIX):
            continue
        if _is_flat(key):
            decoded[key] = value
            if isinstance(value, (dict, list)):
                objects.append(key)
            continue
        # Older stores have JSON text, which is parsed here once and not again for each entry.
        decoded[key], problem = read_object(unwrapped(value))
        objects.append(key)
        if problem:
            problems.append(f"{key} {problem}, and is not used")
    problems += _ambiguities(decoded, objects)
    names = evaluation_names(decoded)
    unlisted = {(task, entry) for task, _ in names for entry in _UNLISTED_ENTRIES}
    values = {name: evaluation_value(decoded, *name) for name in names | unlisted}
    return {name: value for name, value in values.items() if name[1] not in _UNLISTED_ENTRIES or not math.isnan(value)}


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
        if _is_flat(key):
            if reason := _aggregate_problem(decoded[key]):
                keys_by_reason.setdefault(reason, []).append(key)
            continue
        nested = decoded[key]
        extra = nested.get("extra_metrics")
        for entry, value in (*(extra.items() if isinstance(extra, dict) else ()), *nested.items()):
            flat = decoded.get(f"{key}/{entry}")
            if flat is None or flat == value:
                continue
            number = summary_number(value)
            if not math.isnan(number) and summary_number(flat) != number:
                keys_by_reason.setdefault(_DISAGREES, []).append(f"{key}/{entry}")
    for reason, keys in keys_by_reason.items():
        first = keys[0].removeprefix(EVALUATION_PREFIX)
        yield f"{len(keys)} evaluations ({first}{', ...' if len(keys) > 1 else ''}) {reason}"


def _aggregate_problem(flat: Any) -> str:
    """Return why an object or list under a flat key is ambiguous; "" if it has the last value."""
    if math.isnan(summary_number(flat)):
        return "under a flat key that holds no single number"
    if isinstance(unwrapped(flat), dict) and "last" not in unwrapped(flat):
        return "aggregated without the last value; the number that all aggregates agree on is used"
    return ""
