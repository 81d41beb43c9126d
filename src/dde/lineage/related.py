"""Relations of runs in a run table: parents, children, siblings, lineages, and differences between two lineages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from dde.array_types import Int64
from dde.lineage.filters import matches
from dde.lineage.run_table import RunTable

__all__ = [
    "base_rows",
    "children_of",
    "compare_in_tables",
    "factor_values_of",
    "in_order",
    "parents_of",
    "same_base_rows",
    "same_treatment_rows",
    "sibling_rows",
]


def parents_of(table: RunTable, row: int) -> list[str]:
    """Return the ids of the parents of a run, each once; a parent that is not in the table first."""
    absent = str(table.absent_parent[row])
    known = [str(table.run_id[parent]) for parent, _ in table.parents(row)]
    return list(dict.fromkeys([absent, *known] if absent else known))


def children_of(table: RunTable, row: int) -> list[str]:
    """Return the ids of the runs that start directly from a run, each once, in the order of runs."""
    rows = np.unique(table.edge_child[table.edge_parent == row]).astype(np.int64)
    return [str(run_id) for run_id in table.run_id[in_order(table, rows)].tolist()]


def factor_values_of(
    table: RunTable, row: int, along: Collection[str] = ("lineage", "run", "cell")
) -> dict[str, str | float]:
    """Return the factors of a run that have a value.

    Parameters
    ----------
    table : RunTable
    row : int
    along : collection of str
        What the requested factors distinguish; see :class:`~dde.lineage.run_table.Factor`.
    """
    values = {n: f.values[row : row + 1].tolist()[0] for n, f in table.factors.items() if f.along in along}
    return {name: value for name, value in values.items() if value != "" and value == value}


def in_order(table: RunTable, rows: Int64) -> list[int]:
    """Return rows in the order of lineages and runs, parents before children."""
    ordered: list[int] = rows[np.argsort(table.order[rows], kind="stable")].tolist()
    return ordered


def base_rows(table: RunTable, lineage: str) -> list[int]:
    """Return the runs without parents of a lineage, in the order of runs.

    The lineage of a merge of roots with different labels has no roots of its own: then the roots that its runs derive
    from are returned.
    """
    rows = table.members[lineage]
    roots = rows[table.is_root[rows]]
    if not len(roots):
        roots = np.flatnonzero(table.roots_of(np.isin(np.arange(len(table)), rows)))
    return in_order(table, roots)


def same_treatment_rows(table: RunTable, row: int) -> list[int]:
    """Return the runs of other lineages with the label of a run, including repetitions; none without a lineage."""
    if not table.lineage[row]:
        return []
    elsewhere = (table.lineage != table.lineage[row]) & (table.lineage != "")
    return in_order(table, np.flatnonzero(np.asarray((table.run == table.run[row]) & elsewhere, bool)))


def same_base_rows(table: RunTable, row: int) -> list[int]:
    """Return the derived runs of a run's lineage that share a root with it and have another label."""
    below = table.roots_of(np.arange(len(table)) == row)
    while True:
        reached = below.copy()
        reached[table.edge_child[below[table.edge_parent]]] = True
        if np.array_equal(reached, below):
            break
        below = reached
    alike = np.asarray((table.run == table.run[row]) | (table.lineage != table.lineage[row]), bool)
    return in_order(table, np.flatnonzero(below & ~table.is_root & ~alike))


def sibling_rows(table: RunTable, row: int) -> list[int]:
    """Return the other runs that start from a parent of a run."""
    parents = [parent for parent, _ in table.parents(row)]
    siblings = np.zeros(len(table), bool)
    siblings[table.edge_child[np.isin(table.edge_parent, parents)]] = True
    if table.absent_parent[row]:
        siblings |= np.asarray(table.absent_parent == table.absent_parent[row], bool)
    siblings[row] = False
    return in_order(table, np.flatnonzero(siblings))


def compare_in_tables(
    table: RunTable, lineage: str, other_table: RunTable, other_lineage: str, apart: Collection[str] = ()
) -> pd.DataFrame:
    """Return the runs of two lineages side by side; see :meth:`dde.TrainingLineage.compare`.

    Parameters
    ----------
    table, other_table : RunTable
    lineage, other_lineage : str
        Labels.
    apart : collection of str
        Factors in which repetitions differ; they are not compared.
    """
    rows_by_label = {str(table.labels[r]): r for r in table.members[lineage].tolist()}
    other_rows = {str(other_table.labels[r]): r for r in other_table.members[other_lineage].tolist()}
    no_roots = not (
        table.is_root[list(rows_by_label.values())].any() and other_table.is_root[list(other_rows.values())].any()
    )
    left_out = {*apart, *_identities(table), *_identities(other_table)}
    rows: list[tuple[object, ...]] = []
    for label in _merged(list(rows_by_label), list(other_rows)):
        run, other = rows_by_label.get(label), other_rows.get(label)
        differs: dict[str, tuple[object, object]] = {}
        if run is not None and other is not None:
            # Factors of lineages are the same in all their runs, so they are listed for the roots only.
            along = ("lineage", "run", "cell") if table.is_root[run] or no_roots else ("run", "cell")
            mine, theirs = factor_values_of(table, run, along), factor_values_of(other_table, other, along)
            shared = [name for name in mine if name in theirs and name not in left_out]
            differs = {n: (mine[n], theirs[n]) for n in shared if not matches(mine[n], theirs[n])}
        rows.append(
            (
                label,
                "" if run is None else table.run_id[run],
                "" if other is None else other_table.run_id[other],
                _end(table, run),
                _end(other_table, other),
                "; ".join(f"{name}: {_text(a)}, {_text(b)}" for name, (a, b) in differs.items()),
            )
        )
    columns = ["run", "run_id", "other_run_id", "end_tokens", "other_end_tokens", "differs"]
    frame = pd.DataFrame(rows, columns=columns).astype({"end_tokens": float, "other_end_tokens": float})
    frame.attrs["left_out"] = []
    return frame


def _identities(table: RunTable) -> list[str]:
    """Return the factors that equal the run ids, and so differ between all runs."""
    names = []
    for name, factor in table.factors.items():
        known = np.asarray(factor.values != "", bool) if factor.is_text else np.zeros(len(table), bool)
        if known.any() and np.array_equal(factor.values[known], table.run_id[known]):
            names.append(name)
    return names


def _merged(labels: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the labels of both lists: the first list, with each missing label after its predecessor in the second."""
    merged = list(labels)
    at = 0
    for label in others:
        if label in labels:
            at = merged.index(label) + 1
        else:
            merged.insert(at, label)
            at += 1
    return merged


def _end(table: RunTable, row: int | None) -> float:
    return float("nan") if row is None or table.end_tokens[row] < 0 else float(table.end_tokens[row])


def _text(value: object) -> str:
    # Not rounded: different values must have different texts.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
