"""What a notebook shows of runs, lineages and repositories: HTML that follows the notebook's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dde.entities.html_parts import (
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
from dde.entities.html_suites import suite_lineage_html, suite_lineages_html, suite_repository_html, suite_run_html
from dde.suite.datadecide.html import (
    coverage_by_id,
    datadecide_lineage_html,
    datadecide_lineages_html,
    datadecide_repository_html,
    datadecide_run_html,
)

if TYPE_CHECKING:
    from dde.entities.repository import RunRepository
    from dde.entities.runs import TrainingLineage, TrainingRun

__all__ = ["lineage_html", "lineages_html", "repository_html", "run_html", "runs_html"]

# Rows that a page shows of a long list; what is beyond is counted.
_MOST_RUNS = 30


def lineage_html(lineage: TrainingLineage) -> str:
    """Return a lineage for a notebook: its base, and the tree of the runs derived from it.

    Examples
    --------
    >>> import dde
    >>> lineage = dde.tutorial.open_repository("tiny").get_lineage("dolma1_7-4M-default")
    >>> "3,744,832" in lineage_html(lineage)
    True
    """
    if lineage._repository.suite_runs is not None:
        return suite_lineage_html(lineage)
    return datadecide_lineage_html(lineage)


def lineages_html(lineages: Sequence[TrainingLineage]) -> str:
    """Return several lineages for a notebook: a row for each, with its base and the counts of its derived runs.

    Examples
    --------
    >>> import dde
    >>> found = dde.tutorial.open_repository("tiny").find_lineages(base_params="4M")
    >>> "dolma1_7-4M-default" in lineages_html(found)
    True
    """
    if not lineages:
        empty = note_html("No lineage matched. repository.find_lineages() returns all of them.")
        return page_html([title_html("LineageList", plural(0, "lineage")), empty])
    if any(lineage._repository.suite_runs is not None for lineage in lineages):
        return suite_lineages_html(lineages)
    return datadecide_lineages_html(lineages)


def runs_html(runs: Sequence[TrainingRun]) -> str:
    """Return several runs for a notebook: a row for each, with its lineage, its place and its status.

    Examples
    --------
    >>> import dde
    >>> run = dde.tutorial.open_repository("tiny").get_run("dolma1_7-4M-default")
    >>> "supervised_ft" in runs_html(run.same_base())
    True
    """
    parts = [title_html("RunList", plural(len(runs), "run"))]
    if not runs:
        return page_html([*parts, note_html("No run is related in this way.")])
    shown = runs[:_MOST_RUNS]
    covered: dict[int, dict[str, dict[str, Any]]] = {}
    rows = []
    for run in shown:
        repository = run._given_repository
        if repository is None:
            rows.append([name_cell(run.run_id), text_cell(run.run_type), *(text_cell("") for _ in range(6))])
            continue
        if id(repository) not in covered:
            same = (other.run_id for other in shown if other._given_repository is repository)
            covered[id(repository)] = coverage_by_id(repository, dict.fromkeys(same))
        row = covered[id(repository)][run.run_id]
        texts = [name_cell(run.run_id), text_cell(row["run_type"]), name_cell(row["lineage"]), name_cell(row["run"])]
        numbers = [tokens_cell(row["branch_tokens"]), tokens_cell(row["end_tokens"])]
        rows.append([*texts, *numbers, text_cell(row["state"]), text_cell(row["status"])])
    columns = "run id,method,lineage,run,>branches at,>ends at,state,status".split(",")
    parts.append(table_html(columns, rows))
    parts.append(not_shown(len(runs) - len(shown), "run", "[run.run_id for run in runs]"))
    return page_html([*parts, note_html("Each is a TrainingRun; .to_dataset() opens all of them as one Dataset.")])


def run_html(run: TrainingRun) -> str:
    """Return a run for a notebook: where it starts and ends, what was done, and how that is known.

    Examples
    --------
    >>> import dde
    >>> "evaluated checkpoints" in run_html(dde.tutorial.open_repository("tiny").get_run("dolma1_7-4M-default"))
    True
    """
    if run._given_repository is None:
        note = note_html(
            "Made without a repository: repository.get_run() gives a run that knows its relations and data."
        )
        return page_html([title_html(type(run).__name__, run.run_id), facts_html([("run type", run.run_type)]), note])
    if run._repository.suite_runs is not None:
        return suite_run_html(run)
    return datadecide_run_html(run)


def repository_html(repository: RunRepository, title: str = "RunRepository") -> str:
    """Return a repository for a notebook: its sources, its lineages by size, its runs by method and status.

    Of a suite other than DataDecide: its factors, and its runs by type.

    Identifiers, a few keys and positions are read where they were not yet; metrics are not.

    Examples
    --------
    >>> import dde
    >>> "find_lineages" in repository_html(dde.tutorial.open_repository("tiny"))
    True
    """
    if repository.suite_runs is not None:
        return suite_repository_html(repository, repository.suite_runs, title)
    return datadecide_repository_html(repository, title)
