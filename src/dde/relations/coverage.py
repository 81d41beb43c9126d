"""What became of every run of a run table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.relations.filters import matches
from dde.relations.run_table import RunTable

__all__ = ["COVERAGE_COLUMNS", "table_coverage"]

#: Columns of the frame of coverage.
COVERAGE_COLUMNS = (
    "run_id run_type lineage parent_run_id branch_tokens end_tokens token_source status parent_evidence "
    "contradictions run state estimate"
).split()


def table_coverage(table: RunTable, state: object = "finished") -> pd.DataFrame:
    """Return what became of every run of a table.

    Parameters
    ----------
    table : RunTable
    state : str or several
        States that count as used, or "all".

    Returns
    -------
    pandas.DataFrame
        One row per run, as :meth:`dde.RunRepository.coverage`. Of a run with several parents, `parent_run_id` names all
        of them, with " & " between.
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
