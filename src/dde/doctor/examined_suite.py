"""Convert the runs of a declared suite, and post-training runs that start from them, for the checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dde.array_types import Bool, Float64, Int64
from dde.curves.metric import Metric
from dde.curves.observations import Observations
from dde.doctor.examined_runs import ExaminedRuns, number_keys
from dde.suite.datadecide.examined_stores import logged_counters
from dde.suite.edges import read_edges

if TYPE_CHECKING:
    from dde.suite.attached_runs import AttachedRuns
    from dde.suite.suite_runs import SuiteRuns

__all__ = ["examined_suite_runs"]


#: Factors that number replicates, in addition to the one that a suite declares as `replicate`.
_REPEATING = frozenset({"seed", "seed_name", "replicate", "rerun"})


def examined_suite_runs(runs: SuiteRuns, metrics: Any = None) -> ExaminedRuns:
    """Return the runs of a declared suite for the checks; reads no values.

    Parameters
    ----------
    runs : SuiteRuns
    metrics : str, iterable of str, or None
        Names or globs of the metrics to check; None for all.

    Raises
    ------
    UnknownNameError
        When the suite has no such metric.
    """

    def choose() -> list[Metric]:
        chosen = runs.choose_metrics(metrics)
        named = {m.name for m in chosen}
        # Standard errors are read together with their metrics.
        return chosen + [m for m in runs.metrics.values() if m.stderr_of in named and m.name not in named]

    # Names are validated before anything is read; all metrics are listed only if a check needs values.
    chosen = None if metrics is None else choose()
    made, table, attached = runs.made, runs.table, runs.attached
    n = len(table)
    none: Int64 = np.empty(0, np.int64)
    # Runs of a post-training store follow those of the suite.
    at_store = none if attached is None else table.rows(attached.run_ids)
    counts = [(at, np.diff(d.row_offsets)) for d, at in zip(runs.declared, made.rows_of_tables, strict=True)]
    steps, counters = [d.step for d in runs.declared], [d.tokens for d in runs.declared]
    schedule = np.full(n, np.nan)
    for d, at in zip(runs.declared, made.rows_of_tables, strict=True):
        schedule[at] = d.schedule_tokens
    if attached is not None:
        schedule[at_store] = attached.schedule
        counts.append((at_store, np.diff(attached.row_offsets)))
        steps.append(attached.step)
        counters.append(_logged_rows(attached))
    run = np.concatenate([none, *(np.repeat(at, count) for at, count in counts)])
    order = np.argsort(run, kind="stable")
    run = run[order]
    step, counter = (np.concatenate([none, *parts])[order] for parts in (steps, counters))
    restored = counter if attached is None else np.concatenate([none, *counters[:-1], attached.tokens])[order]
    offsets = np.searchsorted(run, np.arange(n + 1)).astype(np.int64)
    shift = np.where(made.is_cumulative, 0, np.maximum(table.start_tokens, 0))
    tokens = np.where(table.is_used[run], restored + shift[run], -1)
    is_root = table.n_parents == 0
    start = np.where(is_root, 0, table.start_tokens)
    child, parent = table.edge_child.astype(np.int64), table.edge_parent.astype(np.int64)
    place = np.where((table.edge_tokens >= 0) & (start[parent] >= 0), start[parent] + table.edge_tokens, -1)
    start_step, late_start = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    at_checkpoint = _at_checkpoint(runs)
    for c, p, at in zip(child.tolist(), parent.tolist(), place.tolist(), strict=True):
        if table.n_parents[c] == 1 and at >= 0:
            start_step[c] = _step_at(step, tokens, offsets, p, at)
            of_parent = tokens[offsets[p] : offsets[p + 1]]
            after = int(np.searchsorted(of_parent, at, side="right"))
            if at_checkpoint[c] and after < len(of_parent):
                late_start[c] = of_parent[after] - at

    def read(requested: Sequence[Metric]) -> list[Observations]:
        of_suite = [m.name for m in requested if m.name in runs.tables.metrics()]
        values = {m.name: np.full(len(run), np.nan) for m in requested}
        first = 0
        for d in runs.declared:
            for name, of_metric in runs.values_of(of_suite, d).items() if len(d.step) and of_suite else ():
                values[name][first : first + len(d.step)] = of_metric
            first += len(d.step)
        read = [_observed(values[m.name][order], run, tokens, step, table.branch_tokens, n) for m in requested]
        if attached is None:
            return read
        of_store = [runs.observations(m, attached.run_ids, requested) for m in requested]
        return [_joined(a, b, at_store) for a, b in zip(read, of_store, strict=True)]

    return ExaminedRuns(
        run_id=table.run_id,
        run_type=table.run_type,
        status=table.status,
        offsets=offsets,
        step=step,
        counter=counter,
        tokens=tokens,
        # A run with a falling counter has no position and no token source, but its counter was logged.
        is_logged=~np.isin(table.token_source.astype(str), ("declared", "estimated")),
        start=start,
        branch=table.branch_tokens,
        start_counter=np.where(made.is_cumulative, start, 0),
        start_step=start_step,
        late_start=late_start,
        schedule=schedule + np.where(made.is_cumulative, 0, np.maximum(start, 0)),
        margin=np.maximum(_step_tokens(step, counter, offsets), 1e-3 * np.nan_to_num(schedule)),
        edge_child=child,
        edge_parent=parent,
        edge_place=place,
        edge_is_end=np.zeros(len(child), bool),
        repeated=_repeated(runs, child, parent),
        metrics=choose if chosen is None else lambda: chosen,
        read=read,
    )


def _at_checkpoint(runs: SuiteRuns) -> Bool:
    """Return a mask of the runs that branch at their parent's last row before their own first."""
    is_at_checkpoint = np.zeros(len(runs.table), bool)
    for d, at in zip(runs.declared, runs.made.rows_of_tables, strict=True):
        is_at_checkpoint[at] = [any(kind == "checkpoint" for _, kind, _ in parents) for parents in d.parents]
    for edge in read_edges(runs.suite.edges):
        if edge.run in runs.table.row_by_id:
            is_at_checkpoint[runs.table.row_by_id[edge.run]] = any(at == "checkpoint" for _, at in edge.parents)
    return is_at_checkpoint


def _repeated(runs: SuiteRuns, child: Int64, parent: Int64) -> Int64:
    """Return group numbers of replicates: runs whose labels and parents differ only in seed or replicate."""
    suite, table = runs.suite, runs.table
    repeating = _REPEATING | {suite.replicate}
    above: dict[int, list[int]] = {}
    for c, p in zip(child.tolist(), parent.tolist(), strict=True):
        above.setdefault(c, []).append(p)
    keys: list[tuple[Any, ...]] = [()] * len(table)
    for r in np.argsort(table.depth, kind="stable").tolist():
        if runs.made.is_attached[r]:
            keys[r] = (str(table.run_type[r]), str(table.run[r]), *(keys[p] for p in above.get(r, [])))
            continue
        named = dict.fromkeys((*suite.lineage_template.fields, *suite.run_template(str(table.run_type[r])).fields))
        factors = [table.factors[name].values[r] for name in named if name in table.factors and name not in repeating]
        keys[r] = (str(table.run_type[r]), *map(str, factors), *(keys[p] for p in above.get(r, [])))
    return number_keys(keys)


def _observed(values: Float64, run: Int64, tokens: Int64, step: Int64, branch: Int64, n: int) -> Observations:
    """Return the rows with a value and a position, except those before the branch, which belong to the parent."""
    is_own = ~np.isnan(values) & (tokens >= 0) & (tokens >= branch[run])
    run, tokens = run[is_own], tokens[is_own]
    # A counter that stands still gives several steps one position; the first is used, as in a Dataset.
    first = np.ones(len(run), bool)
    first[1:] = (run[1:] != run[:-1]) | (tokens[1:] != tokens[:-1])
    offsets = np.searchsorted(run[first], np.arange(n + 1)).astype(np.int64)
    return Observations(offsets, tokens[first], step[is_own][first], values[is_own][first])


def _joined(of_suite: Observations, of_store: Observations, at_store: Int64) -> Observations:
    """Join observations of runs of the suite with those of runs of a store, which are renumbered by `at_store`."""
    n = len(of_suite.offsets) - 1
    run = np.concatenate(
        [np.repeat(np.arange(n), np.diff(of_suite.offsets)), np.repeat(at_store, np.diff(of_store.offsets))]
    )
    order = np.argsort(run, kind="stable")
    tokens, step, values = (
        np.concatenate([getattr(of_suite, name), getattr(of_store, name)])[order]
        for name in ("tokens", "step", "values")
    )
    return Observations(np.searchsorted(run[order], np.arange(n + 1)).astype(np.int64), tokens, step, values)


def _logged_rows(attached: AttachedRuns) -> Int64:
    """Return the logged counters of runs of a store; own tokens at a last evaluation beyond the log."""
    ids, registry = list(attached.run_ids), attached.registry
    counters = attached.tokens.copy()
    places = registry.placements.of(ids) if ids else []
    for first, logged in zip(attached.row_offsets, logged_counters(registry, ids, places), strict=False):
        counters[first : first + len(logged)] = logged
    return counters


def _step_at(step: Int64, tokens: Int64, offsets: Int64, run: int, place: int) -> int:
    """Interpolate the step of a run at cumulative tokens; -1 without rows."""
    rows = slice(int(offsets[run]), int(offsets[run + 1]))
    if rows.stop == rows.start or tokens[rows.start] < 0:
        return -1
    return round(float(np.interp(place, tokens[rows], step[rows])))


def _step_tokens(step: Int64, counter: Int64, offsets: Int64) -> Float64:
    """Return the mean tokens per step of each run; 0 for runs with fewer than two rows."""
    first, last = offsets[:-1], offsets[1:] - 1
    tokens_per_step = np.zeros(len(first))
    several = last > first
    a, b = first[several], last[several]
    tokens_per_step[several] = np.maximum(counter[b] - counter[a], 0) / np.maximum(step[b] - step[a], 1)
    return tokens_per_step
