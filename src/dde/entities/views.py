"""What entities ask of their repository: answered by the registry of two stores, or by the run table of a suite.

Registries know more than the run table has: every key of a config, evidence, and rows of both stores. All that the
table has is read from it, whatever the suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from dde.curves.metric import Metric
from dde.errors import UnknownNameError
from dde.lineage.related import compare_in_tables, factors_of, same_base_rows, same_treatment_rows, sibling_rows
from dde.lineage.run_table import RunTable
from dde.lineage.selection import matching_rows
from dde.suite.datadecide.frames import continuous_curves, own_rows
from dde.suite.datadecide.metric_choice import choose_metrics
from dde.suite.datadecide.runs.selection import filter_runs, select_bases
from dde.suite.datadecide.runs.store_table import compare_lineages, same_base, same_treatment, siblings
from dde.suite.frames import suite_curves, suite_own_rows

if TYPE_CHECKING:
    from dde.entities.repository import RunRepository

__all__ = [
    "compare",
    "curves_of",
    "filter_members",
    "find_labels",
    "hyperparameters_of",
    "metrics_of",
    "rows_of_run",
    "runs_of_same_base",
    "runs_of_same_parent",
    "runs_of_same_treatment",
]


def metrics_of(repository: RunRepository, metrics: str | Iterable[str] | None) -> list[Metric]:
    """Return the metrics that a request means: names, globs, "all", or None for the default ones."""
    runs = repository.suite_runs
    return choose_metrics(repository.registry, metrics) if runs is None else runs.choose_metrics(metrics)


def curves_of(repository: RunRepository, run_ids: Sequence[str], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the continuous curves of runs."""
    runs = repository.suite_runs
    if runs is None:
        return continuous_curves(repository.registry, run_ids, metrics)
    return suite_curves(runs, run_ids, metrics)


def rows_of_run(repository: RunRepository, run_id: str, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the rows that a run logged itself."""
    runs = repository.suite_runs
    if runs is None:
        return own_rows(repository.registry, run_id, metrics)
    return suite_own_rows(runs, run_id, metrics)


def hyperparameters_of(repository: RunRepository, run_id: str) -> dict[str, Any]:
    """Return the hyperparameters of a run of a store; of any other run the factors that it has a value of."""
    if repository.suite_runs is None and (derived := repository.registry.derived.get(run_id)) is not None:
        return dict(derived.hyperparameters)
    return dict(factors_of(repository.table, repository.row_of(run_id)))


def runs_of_same_treatment(repository: RunRepository, run_id: str) -> list[str]:
    """Return the runs with the treatment of a run in other lineages."""
    if repository.suite_runs is None:
        return same_treatment(repository.registry, run_id)
    return _ids(repository.table, same_treatment_rows(repository.table, repository.row_of(run_id)))


def runs_of_same_base(repository: RunRepository, run_id: str) -> list[str]:
    """Return the runs of other treatments that derive from the base of a run."""
    if repository.suite_runs is None:
        return same_base(repository.registry, run_id)
    return _ids(repository.table, same_base_rows(repository.table, repository.row_of(run_id)))


def runs_of_same_parent(repository: RunRepository, run_id: str) -> list[str]:
    """Return the other runs that start from a parent of a run."""
    if repository.suite_runs is None:
        return siblings(repository.registry, run_id)
    return _ids(repository.table, sibling_rows(repository.table, repository.row_of(run_id)))


def compare(repository: RunRepository, label: str, other_repository: RunRepository, other_label: str) -> pd.DataFrame:
    """Return the runs of two lineages side by side."""
    if repository.suite_runs is None and other_repository.suite_runs is None:
        return compare_lineages(repository.registry, label, other_repository.registry, other_label)
    # What repetitions differ in: of post-training runs, the seed of the training.
    apart = {"training_seed"}
    apart |= {r.suite_runs.suite.replicate or "" for r in (repository, other_repository) if r.suite_runs is not None}
    return compare_in_tables(repository.table, label, other_repository.table, other_label, apart)


def filter_members(
    repository: RunRepository, run_ids: Iterable[str], method: object, filters: Mapping[str, object]
) -> set[str]:
    """Return those of some derived runs that match, whatever their state."""
    if repository.suite_runs is None:
        return filter_runs(repository.registry, run_ids, method, filters)
    table = repository.table
    return set(table.run_id[matching_rows(table, method, filters)].tolist()).intersection(run_ids)


def find_labels(
    repository: RunRepository,
    base: Mapping[str, object],
    method: object,
    filters: Mapping[str, object],
) -> list[str]:
    """Return the labels of the lineages that match, in the order of the suite.

    Parameters
    ----------
    repository : RunRepository
    base : mapping
        Filters on ``params``, ``data`` and ``seed``.
    method : str or several, optional
        Run types.
    filters : mapping of str to filter
        Of the two stores, filters on derived runs; of a suite, on any factor.
    """
    filters = {name: wanted for name, wanted in filters.items() if wanted is not None}
    if repository.suite_runs is None:
        registry = repository.registry
        labels = [b.label for b in select_bases(registry, base["params"], base["data"], base["seed"])]
        if method is None and not filters:
            return labels
        kept = filter_runs(registry, registry.columns.number, method, filters)
        return [label for label in labels if not kept.isdisjoint(registry.members[label])]
    table = repository.table
    of_base = {name: wanted for name, wanted in base.items() if wanted is not None}
    if twice := sorted(of_base.keys() & filters.keys()):
        raise UnknownNameError(
            f"base_{twice[0]}= and {twice[0]}= both filter on the factor {twice[0]!r}, so which counts is unclear. "
            "Pass one of them."
        )
    found = set(table.lineage[matching_rows(table, method, {**of_base, **filters})].tolist())
    return [label for label in table.lineages if label and label in found]


def _ids(table: RunTable, rows: Sequence[int]) -> list[str]:
    return [str(run_id) for run_id in table.run_id[list(rows)].tolist()]
