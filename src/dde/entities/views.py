"""Data and relations of the runs in a catalog, from the registry of two stores or from the run table of a suite.

A registry has more than the run table: every key of a config, evidence, and rows of both stores. What the table has is
read from the table, in every suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dde.curves.metric import Metric
from dde.entities.catalog import RunCatalog
from dde.errors import UnknownNameError
from dde.lineage.related import compare_in_tables, factor_values_of, same_base_rows, same_treatment_rows, sibling_rows
from dde.lineage.run_table import RunTable
from dde.lineage.selection import matching_rows
from dde.suite.datadecide.metric_choice import choose_metrics
from dde.suite.datadecide.runs.select_runs import filter_runs, select_bases
from dde.suite.datadecide.runs.store_table import compare_lineages, same_base, same_treatment, siblings
from dde.suite.datadecide.store_frames import continuous_curves, own_rows
from dde.suite.frames import suite_curves, suite_own_rows

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


def metrics_of(catalog: RunCatalog, metrics: str | Iterable[str] | None) -> list[Metric]:
    """Return the metrics that are requested by names, globs or "all"; the default metrics when None."""
    runs = catalog.suite_runs
    return choose_metrics(catalog.registry, metrics) if runs is None else runs.choose_metrics(metrics)


def curves_of(catalog: RunCatalog, run_ids: Sequence[str], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the continuous curves of runs."""
    runs = catalog.suite_runs
    if runs is None:
        return continuous_curves(catalog.registry, run_ids, metrics)
    return suite_curves(runs, run_ids, metrics)


def rows_of_run(catalog: RunCatalog, run_id: str, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return the own rows of a run, without those of its ancestors."""
    runs = catalog.suite_runs
    if runs is None:
        return own_rows(catalog.registry, run_id, metrics)
    return suite_own_rows(runs, run_id, metrics)


def hyperparameters_of(catalog: RunCatalog, run_id: str) -> dict[str, Any]:
    """Return the hyperparameters of a run of a store; for any other run, the factors for which it has a value."""
    if catalog.suite_runs is None and (derived := catalog.registry.derived.get(run_id)) is not None:
        return dict(derived.hyperparameters)
    return dict(factor_values_of(catalog.table, catalog.row_of(run_id)))


def runs_of_same_treatment(catalog: RunCatalog, run_id: str) -> list[str]:
    """Return the runs with the treatment of a run in other lineages."""
    if catalog.suite_runs is None:
        return same_treatment(catalog.registry, run_id)
    return _ids(catalog.table, same_treatment_rows(catalog.table, catalog.row_of(run_id)))


def runs_of_same_base(catalog: RunCatalog, run_id: str) -> list[str]:
    """Return the runs of other treatments that derive from the base of a run."""
    if catalog.suite_runs is None:
        return same_base(catalog.registry, run_id)
    return _ids(catalog.table, same_base_rows(catalog.table, catalog.row_of(run_id)))


def runs_of_same_parent(catalog: RunCatalog, run_id: str) -> list[str]:
    """Return the other runs that start from a parent of a run."""
    if catalog.suite_runs is None:
        return siblings(catalog.registry, run_id)
    return _ids(catalog.table, sibling_rows(catalog.table, catalog.row_of(run_id)))


def compare(catalog: RunCatalog, label: str, other_catalog: RunCatalog, other_label: str) -> pd.DataFrame:
    """Return the runs of two lineages side by side."""
    if catalog.suite_runs is None and other_catalog.suite_runs is None:
        return compare_lineages(catalog.registry, label, other_catalog.registry, other_label)
    # Factors in which repetitions differ; in post-training runs, the seed of the training.
    ignored = {"training_seed"}
    ignored |= {r.suite_runs.suite.replicate or "" for r in (catalog, other_catalog) if r.suite_runs is not None}
    return compare_in_tables(catalog.table, label, other_catalog.table, other_label, ignored)


def filter_members(
    catalog: RunCatalog, run_ids: Iterable[str], method: object, filters: Mapping[str, object]
) -> set[str]:
    """Return the derived runs among `run_ids` that match, whatever their state."""
    if catalog.suite_runs is None:
        return filter_runs(catalog.registry, run_ids, method, filters)
    table = catalog.table
    return set(table.run_id[matching_rows(table, method, filters)].tolist()).intersection(run_ids)


def find_labels(
    catalog: RunCatalog,
    base: Mapping[str, object],
    method: object,
    filters: Mapping[str, object],
) -> list[str]:
    """Return the labels of the lineages that match, in the order of the suite.

    Parameters
    ----------
    catalog : RunCatalog
    base : mapping
        Filters on ``params``, ``data`` and ``seed``.
    method : str or several, optional
        Run types.
    filters : mapping of str to filter
        Of the two stores, filters on derived runs; of a suite, on any factor.
    """
    filters = {name: value for name, value in filters.items() if value is not None}
    if catalog.suite_runs is None:
        registry = catalog.registry
        labels = [b.label for b in select_bases(registry, base["params"], base["data"], base["seed"])]
        if method is None and not filters:
            return labels
        matches = filter_runs(registry, registry.columns.row_by_id, method, filters)
        return [label for label in labels if not matches.isdisjoint(registry.members[label])]
    table = catalog.table
    of_base = {name: value for name, value in base.items() if value is not None}
    if twice := sorted(of_base.keys() & filters.keys()):
        raise UnknownNameError(
            f"base_{twice[0]}= and {twice[0]}= both filter on the factor {twice[0]!r}, so which counts is unclear. "
            "Pass one of them."
        )
    matching_labels = set(table.lineage[matching_rows(table, method, {**of_base, **filters})].tolist())
    return [label for label in table.lineages if label and label in matching_labels]


def _ids(table: RunTable, rows: Sequence[int]) -> list[str]:
    return [str(run_id) for run_id in table.run_id[list(rows)].tolist()]
