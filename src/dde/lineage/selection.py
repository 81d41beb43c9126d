"""Select runs of a run table by factors, count those left out by reason, and list the status of every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.array_types import Bool
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.lineage.filters import as_values, matches
from dde.lineage.run_table import RunTable

__all__ = [
    "COVERAGE_COLUMNS",
    "Selection",
    "matching_rows",
    "select_rows",
    "select_table_runs",
    "table_coverage",
]


# Fields of every run, which filters may name besides the suite's factors.
_RUN_FIELDS = ("run_id", "run_type", "run", "replicate", "n_params", "state")
# More cells than this, with a run in fewer than one of a hundred, indicate a mistake in the labels.
_MANY_CELLS, _FEWEST_SHARE = 20_000_000, 0.01


@dataclass(frozen=True)
class Selection:
    """Lineages and runs of a Dataset, in order.

    Attributes
    ----------
    lineages : tuple of str
        Labels.
    runs : tuple of str
        Run labels; ``pretraining`` first.
    run_ids : (lineage, run) object array of str
        "" where a lineage has no such run.
    left_out : mapping of str to int
        Number of runs in the stores that are not in the Dataset, and of left out rows of its runs, by reason.
    variants : mapping of str to str
        Differences between treatments that have the same fields in their labels, by run label.
    """

    lineages: tuple[str, ...]
    runs: tuple[str, ...]
    run_ids: npt.NDArray[np.object_]
    left_out: dict[str, int]
    variants: Mapping[str, str] = field(default_factory=dict)

    def only_base(self) -> Selection:
        """Return the selection without its derived runs."""
        return replace(self, runs=self.runs[:1], run_ids=self.run_ids[:, :1])


def select_table_runs(
    table: RunTable,
    method: object = None,
    state: object = "finished",
    filters: Mapping[str, object] | None = None,
    lineages: Iterable[str] | None = None,
    run_ids: Iterable[str] | None = None,
) -> Selection:
    """Return the lineages and runs that match.

    Parameters
    ----------
    table : RunTable
    method : str or several, optional
        Run types.
    state : str or several
        States, or "all".
    filters : mapping of str to filter, optional
        Filters on factors: a value, several, a ``slice`` with both ends included, or a function.
    lineages : iterable of str, optional
        Labels to choose from.
    run_ids : iterable of str, optional
        Runs to choose from, in any state; the roots that they derive from are included.

    Returns
    -------
    Selection

    Raises
    ------
    UnknownNameError
        When a filter names a factor or value that no run has.
    SelectionError
        When no run matches, or a run of `run_ids` has no position on its lineage.

    Notes
    -----
    A filter on a factor of lineages leaves lineages out. A filter on another factor leaves runs out: a root without
    that factor stays if a run that derives from it matches, and a root with the factor is filtered by it.
    """
    filters = {k: v for k, v in (filters or {}).items() if v is not None}
    left_out: Counter[str] = Counter()
    if run_ids is not None:
        state = "all"
    selected = select_rows(table, method, state, filters, lineages, run_ids, left_out)
    if not selected.any():
        raise SelectionError(_no_match_text(table, {"method": method, **filters}))
    labels = table.labels
    at = np.flatnonzero(selected)
    chosen_lineages, chosen_runs = set(table.lineage[at].tolist()), set(labels[at].tolist())
    rows = {label: i for i, label in enumerate(x for x in table.lineages if x in chosen_lineages)}
    columns = {label: i for i, label in enumerate(x for x in table.runs if x in chosen_runs)}
    n_cells = len(rows) * len(columns)
    if n_cells > _MANY_CELLS and len(at) < _FEWEST_SHARE * n_cells:
        raise SelectionError(
            f"{len(at)} runs have {len(rows)} labels of lineages and {len(columns)} of runs, so nearly all of the "
            f"{n_cells} cells would be empty. Use fewer factors in the templates of lineage and run, so that runs "
            "with the same treatment share a label, or select fewer runs."
        )
    cells = np.full((len(rows), len(columns)), "", object)
    cells[[rows[x] for x in table.lineage[at].tolist()], [columns[x] for x in labels[at].tolist()]] = table.run_id[at]
    return Selection(tuple(rows), tuple(columns), cells, dict(left_out))


def select_rows(
    table: RunTable,
    method: object,
    state: object,
    filters: Mapping[str, object],
    lineages: Iterable[str] | None,
    run_ids: Iterable[str] | None,
    left_out: Counter[str],
) -> Bool:
    """Return which runs match, and count the others in `left_out` by reason; arguments as of `select_table_runs`."""
    _check_names(table, method, state, filters)
    selected = np.ones(len(table), bool)

    def leave_out(where: Bool, reason: str) -> None:
        excluded = selected & where
        if excluded.any():
            left_out[reason] += int(excluded.sum())
            selected[excluded] = False

    if lineages is not None:
        labels = [lineages] if isinstance(lineages, str) else list(lineages)
        if unknown := [x for x in labels if x not in table.lineages]:
            raise UnknownNameError(
                f"{unknown[0]!r} is not a lineage of the suite, so it can't be opened."
                f"{near_names(str(unknown[0]), table.lineages)} There are {len(table.lineages)}."
            )
        leave_out(~np.isin(table.lineage, labels), "of another lineage")
    of_lineage = {n: w for n, w in filters.items() if n in table.factors and table.factors[n].along == "lineage"}
    for name, wanted in of_lineage.items():
        leave_out(~_matching(table.factors[name].values, wanted), "of another lineage")
    for reason in dict.fromkeys(table.status[selected & ~table.is_used].tolist()):
        leave_out(np.asarray(table.status == reason, bool), str(reason).split(":")[0])
    if state != "all":
        for word in dict.fromkeys(table.state[selected].tolist()):
            if not matches(word, state):
                leave_out(np.asarray(table.state == word, bool), f"state {word or 'unknown'}")
    is_root = table.is_root
    matched = np.ones(len(table), bool)
    # Roots that match only as the bases of other runs.
    only_base = np.zeros(len(table), bool)
    if method is not None:
        matches_itself = _matching(table.run_type, method)
        matched &= matches_itself | is_root
        only_base |= is_root & ~matches_itself
    for name, wanted in filters.items():
        if name in of_lineage:
            continue
        values = _values(table, name)
        matches_itself = _matching(values, wanted)
        has_none = is_root & np.array([v == "" or v != v for v in values.tolist()], bool)
        matched &= matches_itself | has_none
        only_base |= has_none & ~matches_itself
    if run_ids is not None:
        requested = table.rows([run_ids] if isinstance(run_ids, str) else run_ids)
        for row in requested.tolist():
            if not table.is_used[row]:
                raise SelectionError(
                    f"the run {table.run_id[row]!r} can't be placed on its lineage ({table.status[row]}), so it has no "
                    "curve. Correct its parent and tokens in the declaration of the suite."
                )
        is_requested = np.isin(np.arange(len(table)), requested)
        only_base |= is_root & ~is_requested
        matched &= is_requested | is_root
    if only_base.any():
        # A root that does not match itself stays as the base of runs that match.
        matched &= ~only_base | table.roots_of(selected & matched & ~only_base)
    leave_out(~matched, "filtered")
    return selected


def matching_rows(table: RunTable, method: object, filters: Mapping[str, object]) -> Bool:
    """Return which runs match all filters themselves, in any status and state.

    Parameters
    ----------
    table : RunTable
    method : str or several, optional
        Run types.
    filters : mapping of str to filter
        As of :func:`select_table_runs`; a value of None does not filter.

    Raises
    ------
    UnknownNameError
        When a filter names a factor or value that no run has.
    """
    filters = {k: v for k, v in filters.items() if v is not None}
    _check_names(table, method, "all", filters)
    matched = np.ones(len(table), bool) if method is None else _matching(table.run_type, method)
    for name, wanted in filters.items():
        matched &= _matching(_values(table, name), wanted)
    return matched


def _values(table: RunTable, name: str) -> npt.NDArray[Any]:
    """Return the values of a factor, or of a field that every run has."""
    if name in table.factors:
        return table.factors[name].values
    values: npt.NDArray[Any] = table.labels if name == "run" else getattr(table, name)
    return values


def _matching(values: npt.NDArray[Any], wanted: object) -> Bool:
    """Return which values match a filter; each distinct value is compared once."""
    known: dict[Any, bool] = {}
    out = np.zeros(len(values), bool)
    for i, value in enumerate(values.tolist()):
        if value not in known:
            known[value] = matches(value, wanted)
        out[i] = known[value]
    return out


def _check_names(table: RunTable, method: object, state: object, filters: Mapping[str, object]) -> None:
    """Raise where filters name factors, run types or states that no run has.

    Raises
    ------
    UnknownNameError
    """
    known = [*table.factors, *_RUN_FIELDS]
    for name in filters:
        if name not in known:
            raise UnknownNameError(
                f"{name!r} is neither an option nor a factor of this suite, so there is nothing to filter on."
                f"{near_names(name, known)} "
                f"There are {', '.join(known)}."
            )
    for what, value, words in (
        ("run type", method, set(table.run_type.tolist())),
        ("state", None if state == "all" else state, {*table.state.tolist(), "finished"}),
    ):
        if value is None or callable(value):
            continue
        for one in as_values(value):
            if one not in words:
                listed = sorted(words)
                raise UnknownNameError(
                    f"{one!r} is not a {what} of this suite, so no run can match it.{near_names(str(one), listed)} "
                    f"There are {', '.join(listed)}."
                )


def _no_match_text(table: RunTable, filters: Mapping[str, object]) -> str:
    """Return the error text of filters that no run matches, with the values that factors have."""
    listed_filters = ", ".join(f"{k}={v!r}" for k, v in filters.items() if v is not None) or "no filter"
    if not table.is_used.any():
        reasons = Counter(str(s).split(":")[0] for s in table.status.tolist())
        why = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
        return (
            f"no run of the suite has a position on its lineage ({why or 'it has no runs'}), so there is nothing to "
            "open. repository.coverage() gives the reason for each run."
        )
    present = []
    for name in filters:
        if name in table.factors:
            values = [v for v in dict.fromkeys(table.factors[name].values.tolist()) if v != "" and v == v]
            listed = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:10])
            present.append(f"{name} has {listed}{', ...' if len(values) > 10 else ''}")
    return f"no run of the suite matches {listed_filters}, so there is nothing to open. {'; '.join(present)}."


#: Columns of the frame of coverage.
COVERAGE_COLUMNS = (
    "run_id run_type lineage parent_run_id branch_tokens end_tokens token_source status parent_evidence "
    "contradictions run state estimate"
).split()


def table_coverage(table: RunTable, state: object = "finished") -> pd.DataFrame:
    """Return the status of every run of a table, with its relations and positions.

    Parameters
    ----------
    table : RunTable
    state : str or several
        States that count as used, or "all".

    Returns
    -------
    pandas.DataFrame
        One row per run, as of :meth:`dde.RunRepository.coverage`. For a run with several parents, `parent_run_id` names
        all of them, separated by " & ".
    """
    status = table.status.copy()
    if state != "all":
        for word in dict.fromkeys(table.state.tolist()):
            if not matches(word, state):
                status[(table.state == word) & table.is_used] = f"state {word or 'unknown'}"
    parents = table.absent_parent.copy()
    for child, parent in zip(table.edge_child.tolist(), table.run_id[table.edge_parent].tolist(), strict=True):
        parents[child] = f"{parents[child]} & {parent}" if parents[child] else parent
    columns = {
        "run_id": table.run_id,
        "run_type": table.run_type,
        "lineage": table.lineage,
        "parent_run_id": parents,
        "branch_tokens": _known(table.branch_tokens),
        "end_tokens": _known(table.end_tokens),
        "token_source": table.token_source,
        "status": status,
        "parent_evidence": table.parent_evidence,
        "contradictions": table.contradictions,
        "run": table.labels,
        "state": table.state,
        "estimate": table.estimate,
    }
    return pd.DataFrame(columns, columns=COVERAGE_COLUMNS)


def _known(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.where(tokens >= 0, tokens, np.nan)
