"""The runs of a declared suite: run table, metrics and observations, from which Datasets are built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64
from dde.curves.chains import Chains, CurvePoints, chains_in_table
from dde.curves.metric import Metric
from dde.curves.observations import Observations, assemble_observations
from dde.errors import FormatError, UnknownNameError, near_names
from dde.lineage.ragged_rows import rows_of
from dde.lineage.run_table import RunTable
from dde.sources.connection import Connection
from dde.sources.protocols import PosttrainingSource, PretrainingSource
from dde.suite.attached_runs import AttachedRuns, attach_runs
from dde.suite.datadecide.datadecide_runs import read_observations
from dde.suite.datadecide.names import log_metric, task_metric
from dde.suite.datadecide.runs.derived_columns import Column
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.worker_runs import SentRuns
from dde.suite.declare import Suite
from dde.suite.reading.declared_runs import DeclaredRuns
from dde.suite.reading.read_runs import SuiteTables
from dde.suite.run_table_builder import PositionedTable, make_run_table

__all__ = ["SuiteRuns"]


class SuiteRuns:
    """The runs of a declared suite; a :class:`dde.curves.chains.RunSource`.

    Parameters
    ----------
    suite : Suite
    root : str or path, optional
        Folder or URL of the files, in place of the suite's own.
    cache_dir : str or path, optional
        Folder that caches parsed files; None disables the cache.
    store : PosttrainingSource, optional
        Post-training runs that start from checkpoints of the suite, by its `checkpoints` patterns.
    parents : mapping of run id to str, optional
        Overrides of the parents of runs of the store.
    tokens_per_sequence : float or mapping, optional
        Tokens of a training sequence, for runs of the store without a token counter.
    run_types : mapping of str to str, optional
        Types of runs of the store, by id, name or pattern.
    """

    def __init__(
        self,
        suite: Suite,
        root: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | Connection | None = None,
        store: PosttrainingSource | None = None,
        *,
        parents: Mapping[str, str] | None = None,
        tokens_per_sequence: float | Mapping[str, float] | None = None,
        run_types: Mapping[str, str] | None = None,
    ) -> None:
        self.suite, self.store, self._parents = suite, store, dict(parents or {})
        self.tables: PretrainingSource = _source(suite, root, cache_dir)
        self._registry = Registry(
            None, store, {}, tokens_per_sequence, cache_dir=cache_dir, run_types=dict(run_types or {})
        )

    def __getstate__(self) -> dict[str, Any]:
        # Cached observations are not sent; they are read again where needed.
        return {name: value for name, value in self.__dict__.items() if name != "_observed"}

    @cached_property
    def declared(self) -> list[DeclaredRuns]:
        """Runs of each declared table."""
        return list(self.tables.runs())

    @cached_property
    def made(self) -> PositionedTable:
        """The run table, and the positions and rows needed to read values."""
        return make_run_table(self.suite, self.declared, self.attached)

    @cached_property
    def attached(self) -> AttachedRuns | None:
        """Post-training runs and their starts; None without a store."""
        if self.store is None:
            return None
        return attach_runs(self.suite, self.declared, self._registry, self._parents)

    @property
    def store_versions(self) -> dict[str, str]:
        """Version of the content of each run of the store."""
        return {} if self.store is None else dict(self._registry.versions)

    @property
    def table(self) -> RunTable:
        """One row per run."""
        return self.made.table

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Every metric by name: those of the suite, then those of the store."""
        of_suite = {
            name: Metric(
                name=name,
                kind="log" if m.kind == "log" else "evaluation",
                task=m.task,
                entry=m.metric,
                long_name=name.replace("_", " "),
                units=m.units,
                direction=m.direction,
                source_name=m.source_name,
                stderr_of=m.stderr_of,
            )
            for name, m in self.tables.metrics().items()
        }
        return {**of_suite, **{name: m for name, m in self._store_metrics.items() if name not in of_suite}}

    @cached_property
    def _store_metrics(self) -> dict[str, Metric]:
        """Metrics of the store by name; a name that the suite has too is the same variable."""
        if self.store is None:
            return {}
        keys, evaluations = self.store.metric_names()
        found: dict[str, Metric] = {}
        for metric in (*map(log_metric, keys), *(task_metric(t, e) for t, e in evaluations)):
            found.setdefault(metric.name, metric)
        return found

    def choose_metrics(self, metrics: str | Iterable[str] | None) -> list[Metric]:
        """Return the requested metrics: names, globs, "all", or None for all.

        Raises
        ------
        UnknownNameError
            When the suite has no such metric; lists near names.
        """
        known = self.metrics
        if metrics is None or metrics == "all":
            return list(known.values())
        chosen: dict[str, Metric] = {}
        for name in [metrics] if isinstance(metrics, str) else metrics:
            found = [m for m in known if m == name] or [m for m in known if fnmatchcase(m, str(name))]
            if name == "all":
                found = list(known)
            if not found:
                raise UnknownNameError(
                    f"{name!r} is not a metric of the suite {self.suite.name!r}, so there is nothing to open."
                    f"{near_names(str(name), known)} repository.metrics() lists all {len(known)}."
                )
            chosen |= {m: known[m] for m in found}
        return list(chosen.values())

    def fill_cache(self, metrics: str | Iterable[str] | None = "all") -> int:
        """Read metrics of all runs into the cache, and return how many they are.

        Raises
        ------
        UnknownNameError
            When the suite has no such metric, or its sources are not cached.
        SourceError
            When the cache can't be written.
        """
        chosen = self.choose_metrics(metrics)
        cached = (
            set(self.tables.metrics()) if isinstance(self.tables, SuiteTables) and self.tables.keep_results() else set()
        )
        registry = self._registry
        derived = [] if self.store is None else list(registry.columns.row_by_id)
        if derived and registry.readers.caches_store(derived, registry.versions):
            of_store = [m for name, m in self._store_metrics.items() if any(name == c.name for c in chosen)]
            registry.readers.fill_store_cache(derived, registry.versions, of_store)
            registry.readers.compact_caches()
            cached |= {m.name for m in of_store}
        if not cached:
            raise UnknownNameError(
                f"nothing of the suite {self.suite.name!r} is cached, so there is nothing to fill: tables and frames "
                "are read directly, and a store without versions of its runs is read each time. Open it as it is."
            )
        return sum(m.name in cached for m in chosen)

    def chains(self, run_ids: Sequence[str]) -> Chains:
        """Return runs with all their ancestors, parents before children."""
        return chains_in_table(self.table, run_ids)

    def table_sampling(self, metric: Metric) -> str:
        """Return "": the sampling of a metric is known only from its values."""
        return ""

    def sampled_points(self, sampling: str, chains: Chains) -> CurvePoints:
        """Raise AssertionError: no metric has a sampling that is known without values."""
        raise AssertionError(f"a declared suite has no sampling {sampling!r}")

    def positions(self, rows: Int64, is_attached: bool = False) -> Int64:
        """Return the cumulative tokens of the rows of runs, without their ancestors; ascending and distinct.

        Parameters
        ----------
        rows : (run,) int64 array
            Rows of the run table.
        is_attached : bool
            Whether to return rows of the post-training store, which are dense logs, or of the suite's own runs.
        """
        made = self.made
        rows = rows[made.is_attached[rows] == is_attached]
        return np.unique(made.positions[rows_of(made.offsets, rows)])

    def values_of(self, metrics: Sequence[str], declared: DeclaredRuns) -> dict[str, npt.NDArray[np.float64]]:
        """Return metrics at the rows of the runs of one declared table, by name; NaN where there is no sample."""
        if isinstance(self.tables, SuiteTables):
            return self.tables.values_of(metrics, declared)
        all_runs = range(len(declared.run_ids))
        return {metric: self.tables.values(metric, declared, all_runs) for metric in metrics}

    def observations(self, metric: Metric, run_ids: tuple[str, ...], variables: Sequence[Metric]) -> Observations:
        """Return the own observations of a metric."""
        cached, key = self._observed, (metric.name, run_ids)
        observed = cached.get(key)
        if observed is None:
            observed = self._observe(metric, run_ids)
            # Values and their positions are requested one after the other.
            while len(cached) >= _MAX_CACHED:
                cached.pop(next(iter(cached)), None)
            cached[key] = observed
        return observed

    @cached_property
    def _observed(self) -> dict[tuple[str, tuple[str, ...]], Observations]:
        return {}

    def _observe(self, metric: Metric, run_ids: tuple[str, ...]) -> Observations:
        made = self.made
        index_of = np.full(len(made.table), -1, np.int64)
        index_of[made.table.rows(run_ids)] = np.arange(len(run_ids))
        parts = self._observed_in_store(metric, run_ids)
        if metric.name not in self.tables.metrics():
            return assemble_observations(metric, parts, run_ids)
        start = np.where(made.is_cumulative, 0, np.maximum(made.table.start_tokens, 0))
        for d, rows in zip(self.declared, made.rows_of_tables, strict=True):
            which = np.flatnonzero((index_of[rows] >= 0) & made.table.is_used[rows])
            if not len(which):
                continue
            values = self.tables.values(metric.name, d, which.tolist())
            at = rows_of(d.row_offsets, which)
            run = np.repeat(rows[which], np.diff(d.row_offsets)[which])
            tokens = d.tokens[at] + start[run]
            # A row at the branch belongs to the parent; a merge has its first row at its start.
            is_merge = made.table.n_parents[run] > 1
            first = np.where(is_merge, made.table.start_tokens[run], made.table.branch_tokens[run] + 1)
            is_own = (tokens >= first) & ~np.isnan(values)
            parts.append((index_of[run[is_own]], tokens[is_own], d.step[at][is_own], values[is_own]))
        return assemble_observations(metric, parts, run_ids)

    def _observed_in_store(
        self, metric: Metric, run_ids: tuple[str, ...]
    ) -> list[tuple[Int64, Int64, Int64, npt.NDArray[np.float64]]]:
        """Return run, tokens, step and value of each observation of runs of the store."""
        of_store = self._store_metrics.get(metric.name)
        if of_store is None:
            return []
        positions = self._store_positions
        requested = [i for i, run_id in enumerate(run_ids) if run_id in positions.derived]
        found = read_observations(positions, [run_ids[i] for i in requested], [of_store])[of_store.name]
        counts = np.diff(found.offsets)
        return [(np.repeat(np.array(requested, np.int64), counts), found.tokens, found.step, found.values)]

    @cached_property
    def _store_positions(self) -> SentRuns:
        """The runs of the store, at their positions on the suite's lineages."""
        registry, table = self._registry, self.table
        columns = registry.columns
        rows = table.rows(columns.ids.tolist())
        is_used = table.is_used[rows]
        branch = np.where(is_used, table.start_tokens[rows], -1)
        end = np.where(is_used & (columns.own_end >= 0), branch + columns.own_end, -1)
        status = Column.of(table.status[rows].tolist())
        return SentRuns(replace(columns, branch=branch, end=end, status=status), registry.readers)


def _source(
    suite: Suite, root: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | Connection | None
) -> PretrainingSource:
    """Return the source of a suite's runs: the reader of its tables, or the result of its producer."""
    if not callable(suite.producer):
        return SuiteTables(suite, root, cache_dir)
    made = suite.producer(suite, root, cache_dir)
    if not isinstance(made, PretrainingSource):
        raise FormatError(
            f"The producer of the suite {suite.name!r} returned a {type(made).__name__}, which does not have all "
            "methods of dde.sources.protocols.PretrainingSource, so its runs can't be read. Return an object that has "
            "them."
        )
    return made


#: Number of cached observations, each of one metric of some runs.
_MAX_CACHED = 8
