"""The catalog: the runs of two stores or of a declared suite, their run table, and the Dataset of them.

It returns plain values, ids and frames. `dde.entities.runs` wraps them in objects.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import numpy.typing as npt
import pandas as pd

from dde.curves.alignment import Interpolation, Method
from dde.curves.axes import resolve_axis
from dde.curves.grids import DEFAULT_MAX_POINTS, TokenGrid, resolve_grid
from dde.curves.metric import Metric
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.lineage.counts import is_real_number
from dde.lineage.run_table import RunTable
from dde.lineage.selection import select_table_runs, table_coverage
from dde.sources.connection import Connection, absolute_path, redact
from dde.sources.protocols import PosttrainingSource
from dde.suite.datadecide.metric_choice import available_metrics, choose_metrics, metrics_without_source
from dde.suite.datadecide.runs.registry import Registry
from dde.suite.datadecide.runs.run_index import versions_digest
from dde.suite.datadecide.runs.run_types import RunTypes
from dde.suite.datadecide.runs.select_runs import select_runs
from dde.suite.datadecide.store_dataset import build_dataset
from dde.suite.datadecide.tables.pretraining_tables import DataDecide

if TYPE_CHECKING:
    import xarray as xr

    from dde.suite.suite_runs import SuiteRuns

__all__ = ["Grid", "RunCatalog"]

Grid = Literal["auto", "union"] | int | npt.ArrayLike | TokenGrid


class RunCatalog:
    """Runs of two stores or of a declared suite, as ids, rows of a run table and frames.

    Parameters
    ----------
    dd, wandb_store, parents, tokens_per_sequence, cache_dir, run_types
        As for :class:`dde.RunRepository`.
    """

    def __init__(
        self,
        dd: DataDecide | None,
        wandb_store: PosttrainingSource | None = None,
        *,
        parents: Mapping[str, str] | None = None,
        tokens_per_sequence: float | Mapping[str, float] | None = None,
        cache_dir: str | os.PathLike[str] | Connection | None = None,
        run_types: Mapping[str, str] | None = None,
    ) -> None:
        numbers = tokens_per_sequence.values() if isinstance(tokens_per_sequence, Mapping) else [tokens_per_sequence]
        for value in numbers:
            if value is not None and not (is_real_number(value) and 0 < value < math.inf):
                raise UnknownNameError(
                    f"tokens_per_sequence={value!r} is not a positive number, so tokens can't be estimated by it. "
                    "Pass a number such as 712, or a mapping of run id or run type to such a number."
                )
        #: Folder or URL of the cache; one with credentials as a `Connection`, which does not show them.
        self.cache_dir: str | Connection | None = None if cache_dir is None else _cache_folder(cache_dir)
        self.pretraining_source = dd
        self.posttraining_source = wandb_store
        self._parents = dict(parents or {})
        self._tokens_per_sequence = tokens_per_sequence
        self._run_types = dict(RunTypes({} if run_types is None else run_types).by_run)
        #: Runs of a declared suite; None of the two stores of DataDecide.
        self.suite_runs: SuiteRuns | None = None
        # Objects of runs by id; see `dde.entities.runs.make_run`. They refer to the catalog, so strong references here
        # would form cycles, which are only freed by the garbage collector.
        self._runs: WeakValueDictionary[str, Any] = WeakValueDictionary()

    @cached_property
    def registry(self) -> Registry:
        """Identity, relations and positions of all runs of the two stores, read at the first access."""
        if self.suite_runs is not None:
            raise SelectionError(
                f"runs of the suite {self.suite_runs.suite.name!r} have a run table but no registry, so this is not "
                "known of them. Open them with to_dataset(), or look at coverage()."
            )
        return Registry(
            self.pretraining_source,
            self.posttraining_source,
            self._parents,
            self._tokens_per_sequence,
            cache_dir=self.cache_dir,
            run_types=self._run_types,
        )

    @cached_property
    def table(self) -> RunTable:
        """The run table: one row per run, with identity, relations, factors and position on the axis of tokens."""
        if self.suite_runs is not None:
            return self.suite_runs.table
        from dde.suite.datadecide.runs.store_table import make_store_table

        return make_store_table(self.registry)

    def __repr__(self) -> str:
        if self.suite_runs is not None:
            return f"{type(self).__name__}({self.suite_runs.suite.name!r}, {self.suite_runs.tables.description!r})"
        return f"{type(self).__name__}({self.pretraining_source!r}, {self.posttraining_source!r})"

    def has_same_content(self, other: RunCatalog) -> bool:
        """Return whether another catalog reads the same content from the same sources, with the same options.

        Sources that do not report changes of their content are only equal to themselves.
        """
        if self is other:
            return True
        if self.suite_runs is not None or other.suite_runs is not None:
            return self._settings == other._settings and _have_same_suite(self.suite_runs, other.suite_runs)
        ours, theirs = self.pretraining_source, other.pretraining_source
        if self._settings != other._settings or (ours is None) != (theirs is None):
            return False
        if ours is not None and theirs is not None and ours is not theirs:
            if not ours.description or not ours.fingerprint:
                return False
            if (ours.description, ours.fingerprint) != (theirs.description, theirs.fingerprint):
                return False
        stores = self.registry.store, other.registry.store
        return _have_same_runs(*stores, lambda: self.registry.versions, lambda: other.registry.versions)

    @property
    def _settings(self) -> tuple[object, ...]:
        """Options that override or complete what the stores record about runs."""
        return self._parents, self._tokens_per_sequence, list(self._run_types.items())

    def __getstate__(self) -> dict[str, Any]:
        # The run table is derived from the registry, or belongs to the runs of the suite.
        return {k: v for k, v in self.__dict__.items() if k not in ("_runs", "table")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._runs = WeakValueDictionary()

    def row_of(self, run_id: str) -> int:
        """Return the row of a run in the run table; raises SelectionError when there is no such run."""
        row = self.table.row_by_id.get(run_id)
        if row is not None:
            return row
        if self.suite_runs is not None:
            return int(self.table.rows([run_id])[0])
        raise SelectionError(
            f"neither store has a run {run_id!r}, so it can't be opened.{near_names(run_id, self.table.row_by_id)} "
            "repository.coverage() lists every run."
        )

    def run_type(self, run_id: str) -> str:
        """Return the type of a run, as the suite names it; raises SelectionError when there is no such run."""
        return str(self.table.run_type[self.row_of(run_id)])

    def lineage_of(self, run_id: str) -> str:
        """Return the label of the lineage that a run belongs to; the label of a lineage is returned unchanged.

        Raises
        ------
        SelectionError
            When there is no such run or lineage, or the run's base is unknown.
        """
        table = self.table
        if run_id not in table.row_by_id and run_id in table.lineages:
            return run_id
        row = self.row_of(run_id)
        label = str(table.lineage[row])
        if not label:
            derived = None if self.suite_runs is not None else self.registry.derived.get(run_id)
            problem = table.status[row] if derived is None else derived.parentage.problem
            raise SelectionError(
                f"the run {run_id!r} has no known base ({problem}), so it belongs to no lineage. "
                "Pass parents={run id: parent} to state where it starts."
            )
        return label

    def metrics(self) -> dict[str, Metric]:
        """Return every metric by name."""
        if self.suite_runs is not None:
            return self.suite_runs.metrics
        return available_metrics(self.registry)

    def coverage(self, state: object = "finished") -> pd.DataFrame:
        """Return the status of every run in the sources: whether it is used, and if not, why.

        Parameters
        ----------
        state : str or several
            States that count as used, or "all".

        Returns
        -------
        pandas.DataFrame
            One row per run: run_id, run_type, lineage, parent_run_id, branch_tokens, end_tokens, token_source,
            status, parent_evidence, contradictions, run, state, estimate. `status` is ``used`` or the reason
            why not; `estimate` is the rule by which a branch that no logged row gives, or an end, was estimated. Text
            is "" and numbers are NaN where a value does not exist: a run without data has no end.
        """
        return table_coverage(self.table, state)

    def to_dataset(
        self,
        *,
        params: object = None,
        data: object = None,
        seed: object = None,
        method: object = None,
        state: object = "finished",
        metrics: str | Iterable[str] | None = None,
        grid: Grid = "auto",
        axis: str = "cumulative_tokens",
        max_points: int = DEFAULT_MAX_POINTS,
        interp: Method = "linear",
        max_gap: float | None = None,
        bridge: bool = False,
        lineages: Iterable[str] | None = None,
        run_ids: Iterable[str] | None = None,
        **filters: Any,
    ) -> xr.Dataset:
        """Return lineages as a lazy Dataset; arguments as for :func:`dde.open_lineages`, without the stores.

        Returns
        -------
        xarray.Dataset
            As :func:`dde.open_lineages` returns it.

        Raises
        ------
        SourceError
            When a store is unreachable.
        UnknownNameError
            When a filter, metric, grid, axis or method names nothing.
        SelectionError
            When no lineage matches, or a run of `run_ids` has no position on its lineage.
        """
        if run_ids is not None:
            run_ids = [run_ids] if isinstance(run_ids, str) else list(run_ids)
            if not run_ids:
                raise SelectionError(
                    "run_ids is empty, so there is nothing to open. Pass ids of runs, or None for all of them."
                )
        how = Interpolation(interp, max_gap, bridge)
        token_grid, rule = resolve_grid(grid, max_points), resolve_axis(axis)
        runs = self.suite_runs
        if runs is not None:
            from dde.suite.dataset import build_suite_dataset

            filters |= {"params": params, "data": data, "seed": seed}
            selection = select_table_runs(runs.table, method, state, filters, lineages, run_ids)
            chosen = runs.choose_metrics(metrics)
            return build_suite_dataset(runs, selection, chosen, token_grid, how, _suite_attrs(runs), rule)
        registry = self.registry.with_config_keys(filters)
        if run_ids is not None:
            requested = list(run_ids)
            if lineages is not None:
                chosen_lineages = {lineages} if isinstance(lineages, str) else set(lineages)
                requested = [r for r in requested if self.lineage_of(r) in chosen_lineages]
                if not requested:
                    raise SelectionError(
                        "no run of run_ids= is in a lineage of lineages=, so there is nothing to open. Pass one of "
                        "them, or lineages that the runs are in: repository.lineage_of(run_id)."
                    )
            lineages = [self.lineage_of(r) for r in requested]
            columns = registry.columns
            derived = [r for r in requested if r in columns.row_by_id]
            for run_id in derived:
                status = columns.status.text(columns.row_by_id[run_id])
                if status != "used":
                    raise SelectionError(
                        f"the run {run_id!r} can't be placed on its lineage ({status}), so it has no curve. "
                        "Pass parents={run id: parent} or tokens_per_sequence= if these are known."
                    )
            state, filters = "all", {**filters, "run_id": derived or [""]} if derived else filters
        selection = select_runs(registry, params, data, seed, method, state, filters, lineages)
        if run_ids is not None and not derived:
            selection = selection.only_base()
        chosen = choose_metrics(registry, metrics)
        attrs = self._source_attrs()
        if missing := metrics_without_source(registry, chosen):
            attrs["metrics_left_out"] = missing
        return build_dataset(registry, selection, chosen, token_grid, how, attrs, rule)

    def _source_attrs(self) -> dict[str, str]:
        tables, store = self.pretraining_source, self.posttraining_source
        aside = [] if tables is None else tables.set_aside
        rows = {} if tables is None else tables.left_out
        return {
            "pretraining_source": "" if tables is None else tables.description,
            "pretraining_fingerprint": "" if tables is None else tables.fingerprint,
            "pretraining_left_out": "; ".join([*(f"{reason}: {n}" for reason, n in sorted(rows.items())), *aside]),
            "posttraining_source": "" if store is None else store.description,
            "posttraining_fingerprint": "" if store is None else _digest(self.registry.versions),
        }


def _digest(versions: Mapping[str, str]) -> str:
    texts = sorted(f"{run_id}|{version}" for run_id, version in versions.items())
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _suite_attrs(runs: SuiteRuns) -> dict[str, str]:
    store = runs.store
    return {
        "suite": runs.suite.name,
        "source": runs.tables.description,
        "source_fingerprint": runs.tables.fingerprint,
        **({} if store is None else {"posttraining_source": store.description}),
        **({} if store is None else {"posttraining_fingerprint": _digest(runs.store_versions)}),
    }


def _have_same_suite(ours: SuiteRuns | None, theirs: SuiteRuns | None) -> bool:
    if ours is None or theirs is None:
        return False
    # The fingerprint covers the declaration and the versions of all files, or the content of all frames.
    if ours.tables is not theirs.tables:
        if not ours.tables.fingerprint or ours.suite.digest != theirs.suite.digest:
            return False
        if (ours.tables.description, ours.tables.fingerprint) != (theirs.tables.description, theirs.tables.fingerprint):
            return False
    return _have_same_runs(ours.store, theirs.store, lambda: ours.store_versions, lambda: theirs.store_versions)


def _have_same_runs(
    ours: PosttrainingSource | None,
    theirs: PosttrainingSource | None,
    versions: Callable[[], Mapping[str, str]],
    other_versions: Callable[[], Mapping[str, str]],
) -> bool:
    if ours is theirs or ours is None or theirs is None:
        return ours is theirs
    if not ours.description or ours.description != theirs.description:
        return False
    # The versions that the stores reported when their runs were read, not their current ones.
    digest, of_other = versions_digest(versions().items()), versions_digest(other_versions().items())
    return bool(digest) and digest == of_other


def _cache_folder(cache_dir: str | os.PathLike[str] | Connection) -> str | Connection:
    if isinstance(cache_dir, Connection):
        return cache_dir
    folder = absolute_path(cache_dir)
    return folder if redact(folder) == folder else Connection(folder)
