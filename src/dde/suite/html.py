"""HTML for notebooks of the runs and lineages of any suite, from its run table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64
from dde.html_parts import (
    count_words,
    facts_html,
    name_cell,
    not_shown,
    note_html,
    number_cell,
    page_html,
    plural,
    row_html,
    spelled_tokens,
    table_html,
    text_cell,
    title_html,
    tokens_cell,
)
from dde.lineage.related import base_rows, children_of, factor_values_of, parents_of
from dde.lineage.run_table import RunTable

if TYPE_CHECKING:
    from dde.suite.suite_runs import SuiteRuns

__all__ = ["suite_lineage_html", "suite_lineages_html", "suite_repository_html", "suite_run_html"]


# Number of rows of a long list, and of names of a short one, that a page shows; the rest is counted.
_MOST_ROWS = 30
_MOST_NAMES = 8
_MOST_FACTORS = 5

_RUN_COLUMNS = "run,type,starts from,>branches at,>own tokens,>ends at,token source,status".split(",")
_ALONG = {"lineage": "lineages", "run": "runs of a lineage", "cell": "each run"}


def suite_repository_html(runs: SuiteRuns, sources: Sequence[tuple[str, str]], title: str) -> str:
    """Return the runs of a suite for a notebook: their sources, their factors, and their numbers by type and status.

    Parameters
    ----------
    runs : SuiteRuns
    sources : sequence of (str, str)
        Names and descriptions of the sources of the runs.
    title : str
        Title of the page.

    Examples
    --------
    >>> import dde, pandas as pd
    >>> rows = pd.DataFrame({"id": "a", "lr": 0.1, "step": [0, 10], "tokens": [0, 80], "loss": [9.0, 3.5]})
    >>> repository = dde.RunRepository.from_suite(dde.Suite.from_frame(rows, run="id", lineage="lr={lr}"))
    >>> page = repository._repr_html_()
    >>> "1 lineage" in page, "get_lineage" in page
    (True, True)
    """
    table = runs.table
    left_out = {**runs.tables.left_out}
    for reason, count in runs.made.left_out.items():
        left_out[reason] = left_out.get(reason, 0) + count
    facts = [
        *sources,
        ("runs", f"{len(table):,}, {int((_statuses(table) == 'used').sum()):,} of them used"),
        ("left out", _some([f"{reason}: {count:,}" for reason, count in left_out.items()], "; ")),
        ("notes", _some(runs.tables.notes, "; ")),
    ]
    parts = [title_html(title, plural(len(table.members), "lineage")), facts_html(facts)]
    at = np.argsort(table.order)
    factors = [_factor_row(name, factor.along, factor.values[at]) for name, factor in table.factors.items()]
    if factors:
        parts.append(table_html(["factor", "tells apart", ">values", "such as"], factors))
    types = _type_rows(table)
    parts.append(table_html([">runs", "type", "status"], types[:_MOST_ROWS]))
    parts.append(not_shown(len(types) - _MOST_ROWS, "type and status", "repository.coverage()"))
    parts.append(_next_steps(table))
    return page_html(parts)


def suite_lineage_html(table: RunTable, label: str) -> str:
    """Return a lineage for a notebook: its factors, its bases, and the tree of its runs.

    Parameters
    ----------
    table : RunTable
    label : str
        Label of the lineage.
    """
    rows = table.members[label]
    bases = base_rows(table, label)
    derived = rows[~table.is_root[rows]]
    facts = [(name, _text(value)) for name, value in factor_values_of(table, int(rows[0]), ("lineage",)).items()]
    facts += [
        ("parameters", _some(sorted({_text(n) for n in table.n_params[rows].tolist() if n == n}), ", ")),
        ("bases" if len(bases) > 1 else "base", _some([str(table.run_id[row]) for row in bases], ", ")),
        ("longest curve", _spelled(int(table.end_tokens[rows].max()))),
        ("derived runs", count_words(_statuses(table)[derived].tolist()) or "none"),
    ]
    status = _statuses(table)
    tree = [_run_row(table, row, depth, str(status[row])) for row, depth in _tree(table, rows)]
    parts = [title_html("TrainingLineage", label), facts_html(facts), table_html(_RUN_COLUMNS, tree[:_MOST_ROWS])]
    if any(text.startswith("state ") for text in status[rows].tolist()):
        parts.append(note_html('Runs in another state than "finished" are opened with state="all".'))
    if not np.isin(bases, rows).any():
        said = "Its runs derive from several lineages, so it is a lineage of its own, with the factors of the first."
        parts.append(note_html(said))
    return page_html([*parts, not_shown(len(tree) - _MOST_ROWS, "run", "repository.coverage()")])


def suite_lineages_html(lineages: Sequence[tuple[RunTable, str]]) -> str:
    """Return several lineages for a notebook: a row for each, with its factors and the counts of its runs.

    Parameters
    ----------
    lineages : sequence of (RunTable, str)
        Run table and label of each, at least one; may come from several repositories.
    """
    shown = lineages[:_MOST_ROWS]
    facts: list[dict[str, str]] = []
    for table, label in shown:
        known = factor_values_of(table, int(table.members[label][0]), ("lineage",))
        facts.append({name: _text(value) for name, value in known.items()})
    names = list(dict.fromkeys(name for values in facts for name in values))
    more = names[_MOST_FACTORS:]
    rows = []
    for (table, label), values in zip(shown, facts, strict=True):
        members = table.members[label]
        status, is_root = _statuses(table)[members], table.is_root[members]
        is_used = status == "used"
        rows.append(
            [
                name_cell(label),
                *(text_cell(values.get(name, "")) for name in names[:_MOST_FACTORS]),
                number_cell(f"{int(is_root.sum()):,}"),
                tokens_cell(_known(int(table.end_tokens[members].max()))),
                text_cell(count_words(table.run_type[members[is_used & ~is_root]].tolist()) or "none"),
                text_cell(count_words(status[~is_used].tolist())),
            ]
        )
    columns = ["lineage", *names[:_MOST_FACTORS], ">bases", ">longest curve", "derived runs", "not used"]
    where = "[lineage.lineage_id for lineage in lineages]"
    return page_html(
        [
            title_html("LineageList", plural(len(lineages), "lineage")),
            table_html(columns, rows),
            not_shown(len(lineages) - len(shown), "lineage", where),
            note_html(f"Factors that are not shown: {', '.join(more)}.") if more else "",
            note_html("Each is a TrainingLineage; .to_dataset() opens all of them as one Dataset."),
        ]
    )


def suite_run_html(kind: str, table: RunTable, row: int) -> str:
    """Return a run for a notebook: its factors, where it starts and ends, and how that is known.

    Parameters
    ----------
    kind : str
        Title of the page: ``"PretrainingRun"`` or ``"PosttrainingRun"``.
    table : RunTable
    row : int
        Row of the run.
    """
    absent = [f"{table.absent_parent[row]}, which is absent"] if table.absent_parent[row] else []
    parents = [f"{table.run_id[up]}{_at(table, up, own)}" for up, own in table.parents(row)]
    is_merge = table.n_parents[row] > 1
    facts = [
        ("type", str(table.run_type[row])),
        ("run", str(table.labels[row])),
        ("lineage", str(table.lineage[row])),
        *((name, _text(value)) for name, value in factor_values_of(table, row).items()),
        ("parameters", _text(float(table.n_params[row])) if table.n_params[row] == table.n_params[row] else ""),
        ("starts from", _some([*absent, *parents], "; ")),
        ("starts at" if is_merge else "", _spelled(int(table.start_tokens[row])) if is_merge else ""),
        ("follows its parents to" if is_merge else "branches at", _spelled(int(table.branch_tokens[row]))),
        ("ends at", _spelled(int(table.end_tokens[row]))),
        ("token source", "; ".join(t for t in (table.token_source[row], table.estimate[row]) if t)),
        ("state", str(table.state[row])),
        ("status", str(table.status[row])),
        ("parents known from" if is_merge else "parent known from", str(table.parent_evidence[row])),
        ("contradictions", str(table.contradictions[row])),
        ("runs starting here", _some(children_of(table, row), ", ") or "none"),
    ]
    return page_html([title_html(kind, str(table.run_id[row])), facts_html(facts)])


def _statuses(table: RunTable) -> npt.NDArray[np.object_]:
    """Return the status of all runs if only finished ones are used, as coverage() does."""
    status = table.status.copy()
    for word in dict.fromkeys(table.state.tolist()):
        if word != "finished":
            status[np.asarray(table.state == word, bool) & table.is_used] = f"state {word or 'unknown'}"
    return status


def _factor_row(name: str, along: str, values: npt.NDArray[Any]) -> list[str]:
    known = [v for v in dict.fromkeys(values.tolist()) if v != "" and v == v]
    such = ", ".join(_text(v) for v in known[:_MOST_NAMES]) + (", ..." if len(known) > _MOST_NAMES else "")
    return [name_cell(name), text_cell(_ALONG[along]), number_cell(f"{len(known):,}"), text_cell(such)]


def _type_rows(table: RunTable) -> list[str]:
    """Return a row for each type and status, in the order of types; used runs first."""
    counts: dict[tuple[str, str], int] = {}
    types: dict[str, int] = {}
    for run_type, status in zip(table.run_type.tolist(), _statuses(table).tolist(), strict=True):
        types.setdefault(run_type, len(types))
        counts[run_type, status] = counts.get((run_type, status), 0) + 1
    order = sorted(counts.items(), key=lambda item: (types[item[0][0]], item[0][1] != "used", -item[1], item[0][1]))
    return [
        row_html([number_cell(f"{n:,}"), name_cell(run_type), text_cell(status)], aside=status != "used")
        for (run_type, status), n in order
    ]


def _next_steps(table: RunTable) -> str:
    """Return calls that work on this repository: with the lineage of most runs, and with a factor of it."""
    if not table.members:
        return ""
    label = max(table.members, key=lambda lineage: len(table.members[lineage]))
    values = factor_values_of(table, int(table.members[label][0]), ("lineage",))
    asked = next((f"{name}={_literal(value)}" for name, value in values.items()), "")
    calls = {
        f"repository.find_lineages({asked})": "lineages as objects",
        f"repository.get_lineage({label!r})": "one, with the tree of its runs",
        f"repository.to_dataset({asked})": "a lazy Dataset",
        "repository.metrics()": "every metric by name",
        "repository.coverage()": "every run, with what became of it and why",
    }
    rows = [row_html([name_cell(call), text_cell(meaning)]) for call, meaning in calls.items()]
    return table_html(["next", ""], rows)


def _tree(table: RunTable, rows: Int64) -> list[tuple[int, int]]:
    """Return runs with their depth, children under the first of their parents that is among them."""
    listed = set(rows.tolist())
    children: dict[int, list[int]] = {}
    tops: list[int] = []
    for row in rows.tolist():
        parent_row = next((parent for parent, _ in table.parents(row) if parent in listed), None)
        (tops if parent_row is None else children.setdefault(parent_row, [])).append(row)
    found: list[tuple[int, int]] = []
    waiting = [(row, 0) for row in tops[::-1]]
    while waiting:
        row, depth = waiting.pop()
        found.append((row, depth))
        waiting += [(child, depth + 1) for child in children.get(row, [])[::-1]]
    return found


def _run_row(table: RunTable, row: int, depth: int, status: str) -> str:
    branch, start, end = (int(x[row]) for x in (table.branch_tokens, table.start_tokens, table.end_tokens))
    own = end - max(start, 0) if end >= 0 else None
    cells = [
        name_cell(str(table.labels[row]), title=str(table.run_id[row]), depth=depth),
        text_cell(str(table.run_type[row])),
        name_cell(_some(parents_of(table, row), ", ")),
        tokens_cell(_known(branch)),
        tokens_cell(own, sign="+"),
        tokens_cell(_known(end)),
        text_cell(str(table.token_source[row]), title=str(table.estimate[row])),
        text_cell(status),
    ]
    return row_html(cells, aside=status != "used")


def _at(table: RunTable, parent: int, own: int) -> str:
    """Return where a run leaves its parent: at its end, or at which of its tokens."""
    if own < 0:
        return ""
    start, end = int(table.start_tokens[parent]), int(table.end_tokens[parent])
    return ", its end" if start + own == end else f", {own:,} of its own tokens"


def _some(names: Sequence[str], between: str) -> str:
    more = f"{between}and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return between.join(names[:_MOST_NAMES]) + more


def _known(tokens: int) -> float | None:
    return tokens if tokens >= 0 else None


def _spelled(tokens: int) -> str:
    return spelled_tokens(tokens if tokens >= 0 else math.nan)


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value):,}" if value >= 1e4 else str(int(value))
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _literal(value: object) -> str:
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)
