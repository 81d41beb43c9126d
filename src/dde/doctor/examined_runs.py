"""ExaminedRuns: what the checks look at, the same for runs of a declared suite and of DataDecide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dde.curves.observations import Observations
from dde.names import Metric
from dde.sources.values import text_array
from dde.suite.edges import read_edges

if TYPE_CHECKING:
    from dde.relations.registry import Registry
    from dde.relations.token_counts import Placement
    from dde.suite.attached_runs import AttachedRuns
    from dde.suite.suite_runs import SuiteRuns

__all__ = ["ExaminedRuns", "datadecide_runs", "suite_runs"]

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

#: Factors by which runs are repeated, beside the one that a suite declares as `replicate`.
_REPEATING = frozenset({"seed", "seed_name", "replicate", "rerun"})


@dataclass(frozen=True, eq=False)
class ExaminedRuns:
    """Runs with their rows and relations, as the checks need them.

    Attributes
    ----------
    run_id, run_type, status : (run,) object arrays of str
    offsets : (run + 1,) int64 array
        Rows of run `i` are ``offsets[i]`` to ``offsets[i + 1]``, ascending by step.
    step, counter : (row,) int64 arrays
        The token counter as it was logged or declared, before anything is restored.
    tokens : (row,) int64 array
        Cumulative tokens; -1 of a run without a place.
    is_logged : (run,) bool array
        Whether the counter was logged, and does not follow from the steps.
    start, branch : (run,) int64 arrays
        Cumulative tokens at own token 0, and up to which the curve is the parent's; -1 where unknown.
    start_counter : (run,) int64 array
        What the counter shows at own token 0; -1 where unknown.
    start_step : (run,) int64 array
        Step of the parent at the branch, if the run's steps go on from there; -1 where unknown or a root.
    late_start : (run,) int64 array
        Tokens by which a run may have started after the branch that is known: up to the parent's next row, where the
        branch is put at the parent's last row before the run's first.
    schedule, margin : (run,) float64 arrays
        Cumulative tokens at the planned end, NaN where no plan is known, and by how much a run may pass it.
    edge_child, edge_parent : (edge,) int64 arrays
        Numbers of runs.
    edge_place : (edge,) int64 array
        Cumulative tokens of the parent at the branch; -1 where unknown.
    edge_is_end : (edge,) bool array
        Whether the branch is the end of the parent's training, which needs no row.
    repeated : (run,) int64 array
        Runs that differ in nothing but seed or replicate have the same number.
    metrics : tuple of Metric
        Metrics to look at.
    read : callable
        Returns the observations of metrics, in their order, for all runs in theirs. Rows at the branch are among
        them where the run has any.
    """

    run_id: Texts
    run_type: Texts
    status: Texts
    offsets: Int64
    step: Int64
    counter: Int64
    tokens: Int64
    is_logged: Bool
    start: Int64
    branch: Int64
    start_counter: Int64
    start_step: Int64
    late_start: Int64
    schedule: Float64
    margin: Float64
    edge_child: Int64
    edge_parent: Int64
    edge_place: Int64
    edge_is_end: Bool
    repeated: Int64
    metrics: Callable[[], Sequence[Metric]] = field(repr=False)
    read: Callable[[Sequence[Metric]], list[Observations]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.run_id)

    def rows(self, run: int) -> slice:
        """Return the rows of a run."""
        return slice(int(self.offsets[run]), int(self.offsets[run + 1]))

    @cached_property
    def is_used(self) -> Bool:
        """Which runs have a place on their lineage."""
        return np.asarray(self.status == "used", bool)

    @cached_property
    def end(self) -> Int64:
        """Cumulative tokens of the last row of each run; -1 of one without rows or place."""
        end = np.full(len(self), -1, np.int64)
        has_rows = np.diff(self.offsets) > 0
        end[has_rows] = self.tokens[self.offsets[1:][has_rows] - 1]
        return end

    @cached_property
    def observed(self) -> dict[str, tuple[Metric, Observations]]:
        """Metrics with their observations, by name; standard errors are among them."""
        metrics = list(self.metrics())
        return {m.name: (m, found) for m, found in zip(metrics, self.read(metrics), strict=True)}

    @cached_property
    def only_parent(self) -> Int64:
        """The parent of each run that has one alone; -1 of roots and merges."""
        count = np.bincount(self.edge_child, minlength=len(self))
        parent = np.full(len(self), -1, np.int64)
        parent[self.edge_child] = self.edge_parent
        parent[count != 1] = -1
        return parent


def suite_runs(runs: SuiteRuns, metrics: Any = None) -> ExaminedRuns:
    """Return the runs of a declared suite; reads no values.

    Parameters
    ----------
    runs : SuiteRuns
    metrics : str, iterable of str, or None
        Names or globs of the metrics to look at; None for all.

    Raises
    ------
    UnknownNameError
        When the suite has no such metric.
    """

    def choose() -> list[Metric]:
        chosen = runs.choose_metrics(metrics)
        named = {m.name for m in chosen}
        # An error bar is read with what it is of.
        return chosen + [m for m in runs.metrics.values() if m.stderr_of in named and m.name not in named]

    # Names are looked up before anything is read; all metrics are listed only where a check needs values.
    chosen = None if metrics is None else choose()
    made, table, attached = runs.made, runs.table, runs.attached
    n = len(table)
    none: Int64 = np.empty(0, np.int64)
    # Runs of a post-training store follow those of the suite.
    at_store = none if attached is None else table.rows(attached.run_ids)
    counts = [(at, np.diff(d.row_offsets)) for d, at in zip(runs.declared, made.rows, strict=True)]
    steps, counters = [d.step for d in runs.declared], [d.tokens for d in runs.declared]
    schedule = np.full(n, np.nan)
    for d, at in zip(runs.declared, made.rows, strict=True):
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

    def read(wanted: Sequence[Metric]) -> list[Observations]:
        of_suite = [m.name for m in wanted if m.name in runs.tables.metrics()]
        values = {m.name: np.full(len(run), np.nan) for m in wanted}
        first = 0
        for d in runs.declared:
            for name, found in runs.values_of(of_suite, d).items() if len(d.step) and of_suite else ():
                values[name][first : first + len(d.step)] = found
            first += len(d.step)
        read = [_observed(values[m.name][order], run, tokens, step, table.branch_tokens, n) for m in wanted]
        if attached is None:
            return read
        of_store = [runs.observations(m, attached.run_ids, wanted) for m in wanted]
        return [_joined(a, b, at_store) for a, b in zip(read, of_store, strict=True)]

    return ExaminedRuns(
        run_id=table.run_id,
        run_type=table.run_type,
        status=table.status,
        offsets=offsets,
        step=step,
        counter=counter,
        tokens=tokens,
        # A run whose counter falls has no place, and so no source of tokens.
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


def datadecide_runs(registry: Registry, metrics: Any = None) -> ExaminedRuns:
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
    from dde.curves.run_sources import StoreRuns
    from dde.names.sizes import STOP_MARGIN
    from dde.relations.metric_choice import choose_metrics
    from dde.relations.token_counts import ESTIMATED

    chosen = None if metrics is None else choose_metrics(registry, metrics)
    columns = registry.columns
    bases = [registry.bases[label] for label in registry.bases]
    n_bases, n = len(bases), len(bases) + len(columns)
    labels = [b.label for b in bases]
    number = {label: i for i, label in enumerate(labels)}
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
    raw += _logged_counters(registry, ids, places)
    for i, p in enumerate(places):
        steps.append(p.trained)
        own.append(p.tokens)
        is_logged[n_bases + i] = len(p.steps) > 0 and not (p.source == ESTIMATED).any()
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in steps])]).astype(np.int64)
    run = np.repeat(np.arange(n), np.diff(offsets))
    parents = [
        number.get(p, n_bases + columns.number[p] if p in columns.number else -1)
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
    # Without tables no pretraining run has rows, which is no fault of any run.
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
    source = StoreRuns(registry.positions)
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
        repeated=_numbers(keys),
        metrics=lambda: choose_metrics(registry, None) if chosen is None else chosen,
        read=lambda wanted: [source.observations(m, run_ids, wanted) for m in wanted],
    )


def _at_checkpoint(runs: SuiteRuns) -> Bool:
    """Return which runs branch at their parent's last row before their own first."""
    found = np.zeros(len(runs.table), bool)
    for d, at in zip(runs.declared, runs.made.rows, strict=True):
        found[at] = [any(kind == "checkpoint" for _, kind, _ in parents) for parents in d.parents]
    for edge in read_edges(runs.suite.edges):
        if edge.run in runs.table.number:
            found[runs.table.number[edge.run]] = any(at == "checkpoint" for _, at in edge.parents)
    return found


def _repeated(runs: SuiteRuns, child: Int64, parent: Int64) -> Int64:
    """Return numbers of runs whose labels, and those of their parents, differ in nothing but seed or replicate."""
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
    return _numbers(keys)


def _observed(values: Float64, run: Int64, tokens: Int64, step: Int64, branch: Int64, n: int) -> Observations:
    """Return the values of rows that have one and a place; rows before the branch are the parent's past."""
    kept = ~np.isnan(values) & (tokens >= 0) & (tokens >= branch[run])
    run, tokens = run[kept], tokens[kept]
    # A counter that stands still counts several steps at one place; the first is kept, as in a Dataset.
    first = np.ones(len(run), bool)
    first[1:] = (run[1:] != run[:-1]) | (tokens[1:] != tokens[:-1])
    offsets = np.searchsorted(run[first], np.arange(n + 1)).astype(np.int64)
    return Observations(offsets, tokens[first], step[kept][first], values[kept][first])


def _joined(of_suite: Observations, of_store: Observations, at_store: Int64) -> Observations:
    """Return observations of runs of the suite with those of runs of a store, which stand at other numbers."""
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
    """Return the counters of runs of a store as they were logged; at a last evaluation beyond the log, own tokens."""
    ids, registry = list(attached.run_ids), attached.registry
    counters = attached.tokens.copy()
    places = registry.placements.of(ids) if ids else []
    for first, logged in zip(attached.row_offsets, _logged_counters(registry, ids, places), strict=False):
        counters[first : first + len(logged)] = logged
    return counters


def _logged_counters(registry: Registry, run_ids: Sequence[str], places: Sequence[Placement]) -> list[Int64]:
    """Return the counters of runs at their placed rows as they were logged, before anything was restored."""
    from dde.relations.logs import split_logs
    from dde.relations.token_counts import RESTORED

    restored = [run_id for run_id, p in zip(run_ids, places, strict=True) if (p.source == RESTORED).any()]
    rows = registry.readers.counters(restored, registry.versions, keep=False) if restored else None
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


def _step_at(step: Int64, tokens: Int64, offsets: Int64, run: int, place: int) -> int:
    """Return the step of a run at cumulative tokens, on the line between its rows; -1 without rows."""
    rows = slice(int(offsets[run]), int(offsets[run + 1]))
    if rows.stop == rows.start or tokens[rows.start] < 0:
        return -1
    return round(float(np.interp(place, tokens[rows], step[rows])))


def _step_tokens(step: Int64, counter: Int64, offsets: Int64) -> Float64:
    """Return the mean tokens of a step of each run; 0 where a run has fewer than two rows."""
    first, last = offsets[:-1], offsets[1:] - 1
    found = np.zeros(len(first))
    several = last > first
    a, b = first[several], last[several]
    found[several] = np.maximum(counter[b] - counter[a], 0) / np.maximum(step[b] - step[a], 1)
    return found


def _numbers(keys: Sequence[tuple[Any, ...]]) -> Int64:
    number: dict[tuple[Any, ...], int] = {}
    return np.array([number.setdefault(key, len(number)) for key in keys], np.int64)
