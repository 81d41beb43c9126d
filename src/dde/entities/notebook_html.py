"""HTML for runs, lineages and repositories in notebooks, in the notebook's own colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dde.entities.catalog import RunCatalog
from dde.errors import DdeError
from dde.html_parts import (
    facts_html,
    name_cell,
    not_shown,
    note_html,
    page_html,
    plural,
    table_html,
    text_cell,
    title_html,
    tokens_cell,
)
from dde.sources.connection import redact
from dde.suite.datadecide.store_html import (
    coverage_by_id,
    datadecide_lineage_html,
    datadecide_lineages_html,
    datadecide_repository_html,
    datadecide_run_html,
)
from dde.suite.html import suite_lineage_html, suite_lineages_html, suite_repository_html, suite_run_html

__all__ = ["lineage_html", "lineages_html", "repository_html", "run_html", "runs_html"]

# Rows of a list of runs that a page shows; the rest is counted.
_MOST_RUNS = 30
# Columns of a list of runs. Those whose heading starts with ">" have numbers.
_RUN_COLUMNS = ("run id", "method", "lineage", "run", ">branches at", ">ends at", "state", "status")


def lineage_html(catalog: RunCatalog, lineage_id: str) -> str:
    """Return a lineage for a notebook: its base, and the tree of the runs derived from it.

    Examples
    --------
    >>> import dde
    >>> "3,744,832" in lineage_html(dde.tutorial.open_repository("tiny"), "dolma1_7-4M-default")
    True
    """
    if catalog.suite_runs is not None:
        return suite_lineage_html(catalog.table, lineage_id)
    return datadecide_lineage_html(catalog.registry, catalog.table, lineage_id)


def lineages_html(lineages: Sequence[tuple[RunCatalog, str]]) -> str:
    """Return several lineages for a notebook: a row for each, with its base and the counts of its derived runs.

    Parameters
    ----------
    lineages : sequence of (RunCatalog, str)
        Catalog and label of each.

    Examples
    --------
    >>> import dde
    >>> "Dolma1.7" in lineages_html([(dde.tutorial.open_repository("tiny"), "dolma1_7-4M-default")])
    True
    """
    if not lineages:
        empty = note_html("No lineage matched. repository.find_lineages() returns all of them.")
        return page_html([title_html("LineageList", plural(0, "lineage")), empty])
    if any(catalog.suite_runs is not None for catalog, _ in lineages):
        return suite_lineages_html([(catalog.table, label) for catalog, label in lineages])
    return datadecide_lineages_html([(catalog.registry, catalog.table, label) for catalog, label in lineages])


def runs_html(runs: Sequence[tuple[str, str, RunCatalog | None]]) -> str:
    """Return several runs for a notebook: a row for each, with its lineage, its position and its status.

    Parameters
    ----------
    runs : sequence of (str, str, RunCatalog or None)
        Id, type and catalog of each.

    Examples
    --------
    >>> import dde
    >>> "finished" in runs_html([("dolma1_7-4M-default", "pretraining", dde.tutorial.open_repository("tiny"))])
    True
    """
    parts = [title_html("RunList", plural(len(runs), "run"))]
    if not runs:
        return page_html([*parts, note_html("No run is related in this way.")])
    shown = runs[:_MOST_RUNS]
    # Computed once for all runs of a catalog.
    coverage: dict[int, dict[str, dict[str, Any]]] = {}
    rows = []
    for run_id, run_type, catalog in shown:
        if catalog is None:
            rows.append(_run_cells(run_id, {"run_type": run_type}))
            continue
        if id(catalog) not in coverage:
            ids = (run_id for run_id, _, other in shown if other is catalog)
            coverage[id(catalog)] = coverage_by_id(catalog.table, dict.fromkeys(ids))
        rows.append(_run_cells(run_id, coverage[id(catalog)][run_id]))
    parts.append(table_html(_RUN_COLUMNS, rows))
    parts.append(not_shown(len(runs) - len(shown), "run", "[run.run_id for run in runs]"))
    return page_html([*parts, note_html("Each is a TrainingRun; .to_dataset() opens all of them as one Dataset.")])


def _run_cells(run_id: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the cells of `_RUN_COLUMNS` for a run from its row of the coverage; empty where a fact is absent."""
    return [
        name_cell(run_id),
        text_cell(facts.get("run_type", "")),
        name_cell(facts.get("lineage", "")),
        name_cell(facts.get("run", "")),
        tokens_cell(facts.get("branch_tokens")),
        tokens_cell(facts.get("end_tokens")),
        text_cell(facts.get("state", "")),
        text_cell(facts.get("status", "")),
    ]


def run_html(kind: str, run_id: str, run_type: str, catalog: RunCatalog | None) -> str:
    """Return a run for a notebook: where it starts and ends, what was done, and how that is known.

    Parameters
    ----------
    kind : str
        Name of the run's class.
    run_id, run_type : str
    catalog : RunCatalog or None
        None for a run that was created without a repository.

    Examples
    --------
    >>> import dde
    >>> repository = dde.tutorial.open_repository("tiny")
    >>> "evaluated checkpoints" in run_html("PretrainingRun", "dolma1_7-4M-default", "pretraining", repository)
    True
    """
    if catalog is None:
        note = note_html("Created without a repository: repository.get_run() gives a run with its relations and data.")
        return page_html([title_html(kind, run_id), facts_html([("run type", run_type)]), note])
    table, row = catalog.table, catalog.row_of(run_id)
    if catalog.suite_runs is not None:
        return suite_run_html(kind, table, row)
    return datadecide_run_html(kind, catalog.registry, table, row)


def repository_html(catalog: RunCatalog, title: str = "RunRepository") -> str:
    """Return a repository for a notebook: its sources, its lineages by size, its runs by method and status.

    The page of a suite other than DataDecide has its sources, its factors, and its runs by type. Identifiers, a few
    keys and positions are read unless they are in memory; metrics are not read.

    Parameters
    ----------
    catalog : RunCatalog
    title : str, default "RunRepository"
        Heading of the page: the name of the class.

    Examples
    --------
    >>> import dde
    >>> "find_lineages" in repository_html(dde.tutorial.open_repository("tiny"))
    True
    """
    sources = _describe_sources(catalog)
    try:
        table = catalog.table
    except DdeError as problem:
        # Jupyter would show a traceback in place of the page, without the sources.
        return page_html([title_html(title, "can't be read"), facts_html([*sources, ("error", str(problem))])])
    if catalog.suite_runs is not None:
        return suite_repository_html(catalog.suite_runs, sources, title)
    return datadecide_repository_html(catalog.registry, table, sources, title)


def _describe_sources(catalog: RunCatalog) -> list[tuple[str, str]]:
    """Return names and descriptions of the sources of a catalog, without credentials."""
    runs = catalog.suite_runs
    if runs is None:
        sources = (("pretraining", catalog.pretraining_source), ("post-training", catalog.posttraining_source))
        return [(name, "none" if source is None else _describe(source)) for name, source in sources]
    described = [("suite", runs.suite.name), ("read from", redact(runs.tables.description))]
    if runs.store is not None:
        described.append(("post-training", _describe(runs.store)))
    return described


def _describe(source: object) -> str:
    """Return the description of a source without credentials; the name of its class if it has none."""
    return redact(source) or type(source).__name__
