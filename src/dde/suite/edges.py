"""Edges: the graph of runs that a suite declares run by run, as a list or as a data frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dde.errors import FormatError, UnknownNameError, near_names
from dde.suite.field_checks import check_at, check_name, check_text, listed
from dde.suite.serialization import AT_KINDS, AT_WORDS, as_frame, is_frame, within

__all__ = ["Edge", "read_edges"]


@dataclass(frozen=True)
class Edge:
    """Parents of one run.

    Attributes
    ----------
    run : str
        Id of the run.
    parents : tuple of (str, str or mapping)
        Id of each parent, and the branch point on it; () for a root.
    factors : dict
        Other values of the run.
    """

    run: str
    parents: tuple[tuple[str, Any], ...]
    factors: dict[str, Any]


def read_edges(edges: Any) -> tuple[Edge, ...]:
    """Return the edges of a suite, one per run.

    Parameters
    ----------
    edges : sequence of mappings, or data frame
        ``{"run": id, "parents": [[id, at], ...], ...}`` for each run; an id alone means the end of the parent. Or a
        frame with a row for each run and parent: columns ``run`` and ``parent`` (empty for a root), and either ``at``
        with words or one of ``step``, ``tokens``, ``cumulative`` with numbers. Other keys and columns are factors.

    Raises
    ------
    FormatError
        When an edge has no run or parents, a run has two edges, or rows of a run contradict each other.
    UnknownNameError
        When a branch is unknown, or the name of a factor is reserved.

    Examples
    --------
    >>> read_edges([{"run": "soup", "parents": ["a", ["b", {"step": 10}]], "weight": 0.5}])
    (Edge(run='soup', parents=(('a', 'end'), ('b', {'step': 10})), factors={'weight': 0.5}),)
    >>> frame = pd.DataFrame({"run": ["b", "soup", "soup"], "parent": ["", "a", "b"], "step": [None, 5, 10]})
    >>> read_edges(frame)[1].parents
    (('a', {'step': 5}), ('b', {'step': 10}))
    """
    if edges is None:
        return ()
    if not isinstance(edges, (list, tuple)):
        if not is_frame(edges):
            raise FormatError(f"edges: {edges!r} is neither a list of edges nor a data frame.")
        return _read_frame(as_frame(edges))
    read: dict[str, Edge] = {}
    for index, one in enumerate(edges):
        place = f"edges[{index}]"
        edge = _read_edge(one, place)
        if edge.run in read:
            raise FormatError(f"{place}.run: {edge.run!r} has two edges. Declare all its parents in one edge.")
        read[edge.run] = edge
    return tuple(read.values())


def _read_edge(edge: Any, place: str) -> Edge:
    """Return an edge from a mapping; errors name its place."""
    if not isinstance(edge, Mapping):
        raise FormatError(f"{place}: {edge!r} is not an edge; an edge is {{'run': id, 'parents': [[id, at], ...]}}.")
    for key in ("run", "parents"):
        if key not in edge:
            others = [k for k in edge if k not in ("run", "parents")]
            like = f" There is {listed(others)}." if others else ""
            raise FormatError(f"{place}.{key}: the edge has no {key}, which every edge needs.{like}")
    check_text(edge["run"], f"{place}.run", "the id of a run")
    given = edge["parents"]
    if not isinstance(given, (list, tuple)):
        raise FormatError(
            f"{place}.parents: {given!r} is not a list of parents; write [[id, at], ...], or [] for a root."
        )
    parents = []
    for index, one in enumerate(given):
        path = f"{place}.parents[{index}]"
        pair = (one, "end") if isinstance(one, str) and one not in AT_WORDS else one
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise FormatError(f"{path}: {one!r} is not a parent; write its id, or [id, at].")
        check_text(pair[0], path, "the id of a parent")
        check_at(pair[1], path)
        parents.append((pair[0], pair[1]))
    factors = {k: v for k, v in edge.items() if k not in ("run", "parents")}
    for key in factors:
        check_name(key, place)
    return Edge(edge["run"], tuple(parents), factors)


def _read_frame(frame: pd.DataFrame) -> tuple[Edge, ...]:
    """Return edges from a frame with one row per run and parent."""
    columns = [str(c) for c in frame.columns]
    for column in ("run", "parent"):
        if column not in columns:
            raise UnknownNameError(
                f"edges: the frame has no column {column!r}. It has a row for each run and parent, in the columns run "
                f"and parent. Columns: {listed(columns)}.{near_names(column, columns)}"
            )
    kinds = [c for c in ("at", *AT_KINDS) if c in columns]
    if len(kinds) > 1:
        raise FormatError(f"edges: the columns {' and '.join(kinds)} both give the branch point. Leave one out.")
    factors = [c for c in columns if c not in ("run", "parent", *kinds)]
    for column in factors:
        check_name(column, "edges")
    # Missing values of any type become None, and numbers of NumPy become those of Python.
    rows = frame.astype(object).where(frame.notna().to_numpy(), None).to_dict("records")
    read: dict[str, Edge] = {}
    for index, row in enumerate(rows):
        place = f"edges, row {index}"
        check_text(row["run"], f"{place}, run", "the id of a run")
        factor_values = {c: _as_python(row[c]) for c in factors}
        parents: tuple[tuple[str, Any], ...] = ()
        if row["parent"] not in (None, ""):
            check_text(row["parent"], f"{place}, parent", "the id of a parent")
            with within(f"{place}, "):
                parents = ((row["parent"], _branch_of(row, kinds)),)
        earlier = read.get(row["run"])
        if earlier is not None and (earlier.factors != factor_values or not (parents and earlier.parents)):
            raise FormatError(
                f"{place}: the run {row['run']!r} has an earlier row with other values, or is both a root and "
                "has a parent. Make all rows of a run agree."
            )
        read[row["run"]] = Edge(row["run"], (*(earlier.parents if earlier else ()), *parents), factor_values)
    return tuple(read.values())


def _branch_of(row: Mapping[Any, Any], kinds: list[str]) -> Any:
    value = _as_python(row[kinds[0]]) if kinds else None
    if value is None or value == "":
        return "end"
    at = value if kinds == ["at"] else {kinds[0]: value}
    check_at(at, kinds[0])
    return at


def _as_python(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
