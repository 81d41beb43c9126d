"""Runs of DataDecide as a source of values: chains, samplings and observations from the tables and the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dde.array_types import Float64, Int64
from dde.curves.chains import Chains, CurvePoints
from dde.curves.metric import Metric
from dde.curves.observations import Observations, assemble_observations
from dde.schema import EVALUATIONS, PERPLEXITIES
from dde.suite.datadecide.runs.positions import tokens_of_steps
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.registry_handle import Origin, origin_of, resolve_runs
from dde.suite.datadecide.runs.worker_runs import RunPositions

__all__ = ["DataDecideRuns", "read_observations"]


_NONE: Int64 = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class DataDecideRuns:
    """Runs of the tables and of the post-training store; a :class:`dde.curves.chains.RunSource`.

    Attributes
    ----------
    source : Registry, Origin or RunPositions
        The registry in the process that opened it; in other processes, the handle that opens the runs again.
    """

    source: Registry | Origin | RunPositions

    def __getstate__(self) -> dict[str, Any]:
        origin = origin_of(self.source) if isinstance(self.source, Registry) else None
        return {"source": origin or self.source}

    @property
    def runs(self) -> RunPositions:
        """Token positions and sources of the runs."""
        found = resolve_runs(self.source) if isinstance(self.source, Origin) else self.source
        return found.positions if isinstance(found, Registry) else found

    def chains(self, run_ids: Sequence[str]) -> Chains:
        """Return runs with all their ancestors, parents before children."""
        return _build_chains(self.runs, list(run_ids))

    def table_sampling(self, metric: Metric) -> str:
        """Return the sampling of the tables that a metric belongs to; "" for one of a log."""
        return _table_sampling(metric)

    def sampled_points(self, sampling: str, chains: Chains) -> CurvePoints:
        """Return the points of a table sampling at which each run itself was sampled, without its ancestors."""
        runs = self.runs
        steps, bases, placed = runs.table_steps(sampling), runs.bases, runs.placed
        points: list[Int64] = []
        # Tokens per step; 1 for derived runs, whose point is their end.
        per_step: list[int] = []
        for run_id, parent in zip(chains.run_ids, chains.parent.tolist(), strict=True):
            found, scale = _NONE, 1
            if parent < 0:
                if run_id in steps:
                    found, scale = steps[run_id], bases[run_id].size.tokens_per_step
            elif sampling == EVALUATIONS and runs.is_evaluated(run_id):
                end = placed[run_id].end_tokens
                found = _NONE if end is None else np.array([end], np.int64)
            points.append(found)
            per_step.append(scale)
        lengths = [len(t) for t in points]
        tokens = np.concatenate([_NONE, *points]) * np.repeat(np.array(per_step, np.int64), lengths)
        return CurvePoints(np.concatenate([[0], np.cumsum(lengths)]), tokens)

    def observations(self, metric: Metric, run_ids: tuple[str, ...], variables: Sequence[Metric]) -> Observations:
        """Return the observations of a metric; metrics that are read along with it are cached."""
        runs = self.runs
        if metric.kind == "log":
            found = runs.readers.cached_log(run_ids, metric.name)
            if found is None:
                found = read_observations(runs, run_ids, [metric])[metric.name]
                runs.readers.cache_log(run_ids, metric.name, found)
            return found
        found = runs.readers.take_sibling(run_ids, metric.name)
        if found is not None:
            return found
        if runs.readers.caches_tables:
            return read_observations(runs, run_ids, [metric], variables)[metric.name]
        together = [metric] if runs.tables is None else runs.tables.read_together(metric, variables)
        observed = read_observations(runs, run_ids, together)
        for sibling in together[1:]:
            runs.readers.cache_sibling(run_ids, sibling.name, observed[sibling.name])
        return observed[metric.name]


def _table_sampling(metric: Metric) -> str:
    """Return the sampling of the evaluation tables that a metric belongs to; "" for one of a log."""
    return {"evaluation": EVALUATIONS, "perplexity": PERPLEXITIES}.get(metric.kind, "")


def _build_chains(registry: RunPositions, run_ids: list[str]) -> Chains:
    """Return the runs with all their ancestors, parents before children."""
    row_of: dict[str, int] = {}
    parents: list[int] = []
    branches: list[int] = []
    for run_id in run_ids:
        parent = -1
        for member in registry.chain(run_id):
            if member not in row_of:
                row_of[member] = len(row_of)
                parents.append(parent)
                placed = registry.placed.get(member)
                branches.append(-1 if placed is None or placed.branch_tokens is None else placed.branch_tokens)
            parent = row_of[member]
    return Chains(tuple(row_of), np.array(parents, np.int32), np.array(branches, np.int64))


def read_observations(
    registry: RunPositions, run_ids: Sequence[str], metrics: Sequence[Metric], along: Sequence[Metric] = ()
) -> dict[str, Observations]:
    """Return the own observations of every metric, by name; reads the requested metrics only.

    Parameters
    ----------
    registry : RunPositions
    run_ids : sequence of str
        Labels of pretraining runs and ids of derived ones.
    metrics : sequence of Metric
    along : sequence of Metric
        Metrics to cache as well if the tables have to be read anyway and they are read together with the requested ones
        at little cost.

    Warns
    -----
    ConflictWarning
        When rows of one run and step disagree; the first is used.
    DdeWarning
        When a run's counter does not advance between steps; the first row of each count is used.
    """
    parts: dict[str, list[tuple[Int64, Int64, Int64, Float64]]] = {m.name: [] for m in metrics}
    _read_tables(registry, run_ids, metrics, along, parts)
    _read_store(registry, run_ids, metrics, parts)
    return {m.name: assemble_observations(m, parts[m.name], run_ids) for m in metrics}


def _read_tables(
    registry: RunPositions,
    run_ids: Sequence[str],
    metrics: Sequence[Metric],
    along: Sequence[Metric],
    parts: dict[str, list[tuple[Int64, Int64, Int64, Float64]]],
) -> None:
    tables = registry.tables
    if tables is None:
        return
    requested = [i for i, r in enumerate(run_ids) if r in registry.checkpoint_steps]
    of_tables = [m for m in metrics if tables.holds(m)]
    if not requested or not of_tables:
        return
    bases = [registry.bases[run_ids[i]] for i in requested]
    rows = registry.readers.evaluations(bases, of_tables, along)
    run = np.array(requested, np.int64)[rows.run]
    tokens = rows.step * np.array([b.size.tokens_per_step for b in bases], np.int64)[rows.run]
    for metric in of_tables:
        parts[metric.name].append((run, tokens, rows.step, rows.values[metric.name]))


def _read_store(
    registry: RunPositions,
    run_ids: Sequence[str],
    metrics: Sequence[Metric],
    parts: dict[str, list[tuple[Int64, Int64, Int64, Float64]]],
) -> None:
    """Append the observations of post-training runs to `parts`, by metric."""
    store = registry.store
    requested = [i for i, r in enumerate(run_ids) if r in registry.derived]
    if store is None or not requested:
        return
    ids = [run_ids[i] for i in requested]
    placed = [registry.placed[r] for r in ids]
    logs = [m for m in metrics if m.kind == "log"]
    if logs:
        rows = registry.readers.logs(ids, registry.versions, [m.entry for m in logs])
        bounds = np.searchsorted(rows.run, np.arange(len(ids) + 1))
        tokens = np.zeros(len(rows.run), np.int64)
        known = np.zeros(len(rows.run), bool)
        for i, (run, placement) in enumerate(zip(placed, registry.placements.of(ids), strict=True)):
            part = slice(bounds[i], bounds[i + 1])
            if run.branch_tokens is not None and part.stop > part.start:
                own, known[part] = tokens_of_steps(placement, rows.step[part])
                tokens[part] = run.branch_tokens + own
        run_number = np.array(requested, np.int64)[rows.run]
        for metric in logs:
            parts[metric.name].append(
                (run_number[known], tokens[known], rows.step[known], rows.values[metric.entry][known])
            )
    evaluations = [m for m in metrics if m.kind == "evaluation"]
    ended = [i for i, run in enumerate(placed) if run.end_tokens is not None]
    if evaluations and ended:
        found = registry.readers.final_evaluations([ids[i] for i in ended], registry.versions, evaluations)
        run_number = np.array([requested[i] for i in ended], np.int64)
        end = np.array([placed[i].end_tokens for i in ended], np.int64)
        last = np.array([placed[i].end.last_step for i in ended], np.int64)
        for metric in evaluations:
            parts[metric.name].append((run_number, end, last, found[metric.name]))
