"""Explicit graphs of runs as data frames."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dde.errors import FormatError, near_names

__all__ = ["edges_of_frame"]

_BRANCHES = ("step", "tokens", "cumulative")


def edges_of_frame(frame: Any) -> list[dict[str, Any]]:
    """Return the edges that a frame lists, a row for each parent of a run.

    Parameters
    ----------
    frame : data frame
        Columns `run` and `parent`, and where the run branches: `at` (``"end"``, ``"first_row"`` or ``"checkpoint"``),
        or one of `step`, `tokens` (the parent's own) and `cumulative`. Without any, at the parent's end.

    Returns
    -------
    list of dict
        ``{"run": id, "parents": [[id, at], ...]}``, in the order of the rows.

    Raises
    ------
    FormatError
        When a column is absent.

    Examples
    --------
    >>> edges_of_frame(pd.DataFrame({"run": ["soup", "soup"], "parent": ["a", "b"], "step": [10, None]}))
    [{'run': 'soup', 'parents': [['a', {'step': 10.0}], ['b', 'end']]}]
    """
    table = pd.DataFrame(frame)
    for name in ("run", "parent"):
        if name not in table.columns:
            raise FormatError(
                f"edges is a frame without the column {name!r}, so it lists no parents of runs."
                f"{near_names(name, map(str, table.columns))} Columns: {', '.join(map(str, table.columns))}."
            )
    edges: dict[str, list[Any]] = {}
    for row in table.to_dict("records"):
        at: Any = row.get("at")
        at = "end" if at is None or at != at or at == "" else at
        for kind in _BRANCHES:
            value = row.get(kind)
            if value is not None and value == value:
                at = {kind: float(value)}
        edges.setdefault(str(row["run"]), []).append([str(row["parent"]), at])
    return [{"run": run, "parents": parents} for run, parents in edges.items()]
