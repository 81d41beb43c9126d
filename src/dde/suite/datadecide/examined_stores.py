"""Runs of DataDecide in the form that the checks of the doctor examine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dde.array_types import Float64, Int64
from dde.doctor.examined_runs import ExaminedRuns, number_keys
from dde.sources.values import text_array
from dde.suite.datadecide.datadecide_runs import DataDecideRuns
from dde.suite.datadecide.metric_choice import choose_metrics
from dde.suite.datadecide.names.sizes import STOP_MARGIN
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.token_counts import ESTIMATED, RESTORED, Placement, split_logs

__all__ = ["examined_store_runs", "logged_counters"]


def examined_store_runs(registry: Registry, metrics: Any = None) -> ExaminedRuns:
    """Return the runs of DataDecide's tables and of a post-training store; reads counters, no other values.

    Parameters
    ----------
    registry : Registry
    metrics : str, iterable of str, or None
        Names or globs of the metrics to look at; None for the default ones.

    Raises
    ------
    UnknownNameError
        When neither store has such a metric.
    """

    chosen = None if metrics is None else choose_metrics(registry, metrics)
    columns = registry.columns
    bases = [registry.bases[label] for label in registry.bases]
    n_bases, n = len(bases), len(bases) + len(columns)
    labels = [b.label for b in bases]
    row_of = {label: i for i, label in enumerate(labels)}
    ids = columns.ids.tolist()
    steps: list[Int64] = []
    own: list[Int64] = []
    raw: list[Int64] = []
    is_logged = np.zeros(n, bool)
    none = np.empty(0, np.int64)
    for base in bases:
        found = registry.checkpoint_steps.get(base.label, none)
        steps.append(found)
        own.append(found * base.size.tokens_per_step)
        raw.append(own[-1])
    places = registry.placements.of(ids) if ids else []
    raw += logged_counters(registry, ids, places)
    for i, p in enumerate(places):
        steps.append(p.trained)
        own.append(p.tokens)
        is_logged[n_bases + i] = len(p.steps) > 0 and not (p.source == ESTIMATED).any()
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in steps])]).astype(np.int64)
    run = np.repeat(np.arange(n), np.diff(offsets))
    parents = [
        row_of.get(p, n_bases + columns.row_by_id[p] if p in columns.row_by_id else -1)
        for p in columns.parent_run_id.texts().tolist()
    ]
    branch = np.concatenate([np.full(n_bases, -1, np.int64), columns.branch])
    start = np.concatenate([np.zeros(n_bases, np.int64), columns.branch])
    end = np.concatenate([np.full(n_bases, -1, np.int64), columns.end])
    has_rows = np.diff(offsets) > 0
    status = np.concatenate(
        [np.where(has_rows[:n_bases], "used", "no data: not in the tables").astype(object), columns.status.texts()]
    )
    tokens = np.where((start[run] >= 0) & (status[run] == "used"), np.concatenate([none, *own]) + start[run], -1)
    schedule = np.full(n, np.nan)
    schedule[:n_bases] = [b.size.scheduled_tokens for b in bases]
    margin = np.zeros(n)
    margin[:n_bases] = [STOP_MARGIN * b.size.tokens_per_step for b in bases]
    # Without tables no pretraining run has rows, so this is not a fault of the runs.
    first = 0 if registry.tables is not None else n_bases
    child = n_bases + np.array([i for i, p in enumerate(parents) if p >= first], np.int64)
    parent = np.array([p for p in parents if p >= first], np.int64)
    at_end = (branch[child] == end[parent]) | (branch[child] == schedule[parent])
    keys: list[tuple[Any, ...]] = [(b.recipe.name, b.size.name) for b in bases]
    keys += [
        (lineage, label) if label else (lineage, run_id)
        for lineage, label, run_id in zip(columns.lineages, columns.plain_label.texts(), ids, strict=True)
    ]
    run_ids = (*labels, *ids)
    source = DataDecideRuns(registry.positions)
    return ExaminedRuns(
        run_id=text_array(run_ids),
        run_type=np.concatenate([np.full(n_bases, "pretraining", object), columns.run_type.texts()]),
        status=status,
        offsets=offsets,
        step=np.concatenate([none, *steps]),
        counter=np.concatenate([none, *raw]),
        tokens=tokens,
        is_logged=is_logged,
        start=start,
        branch=branch,
        start_counter=np.zeros(n, np.int64),
        start_step=np.concatenate([np.full(n_bases, -1, np.int64), columns.forked_at]),
        late_start=np.zeros(n, np.int64),
        schedule=schedule,
        margin=margin,
        edge_child=child,
        edge_parent=parent,
        edge_place=branch[child],
        edge_is_end=at_end,
        repeated=number_keys(keys),
        metrics=lambda: choose_metrics(registry, None) if chosen is None else chosen,
        read=lambda wanted: [source.observations(m, run_ids, wanted) for m in wanted],
    )


def logged_counters(registry: Registry, run_ids: Sequence[str], places: Sequence[Placement]) -> list[Int64]:
    """Return the counters of runs at their placed rows as they were logged, before anything was restored."""
    restored = [run_id for run_id, p in zip(run_ids, places, strict=True) if (p.source == RESTORED).any()]
    rows = registry.readers.counters(restored, registry.versions, use_cache=False) if restored else None
    logs = {} if rows is None else dict(split_logs(restored, rows))
    return [
        p.tokens if r not in logs else _counted(p.steps, p.tokens, logs[r].steps, logs[r].counter)
        for r, p in zip(run_ids, places, strict=True)
    ]


def _counted(steps: Int64, restored: Int64, logged: Int64, counter: Float64) -> Int64:
    """Return the counter as it was logged at steps; what was restored where it has no finite count there."""
    known = np.isfinite(counter)
    logged, counter = logged[known], counter[known]
    at = np.minimum(np.searchsorted(logged, steps), max(len(logged) - 1, 0))
    if not len(logged):
        return restored
    return np.where(logged[at] == steps, np.rint(counter[at]).astype(np.int64), restored)
