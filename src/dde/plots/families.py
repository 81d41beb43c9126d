"""Families of runs as rows of a tree: each below the run that it branches off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dde.arrays.naming import title_of
from dde.relations.chain_texts import parse_chain
from dde.schema import PRETRAINING

__all__ = ["Member", "find_members"]


@dataclass(frozen=True)
class Member:
    """A run in its family.

    Attributes
    ----------
    run_id, run_type, label : str
        `label` is what is new in its treatment; for a base, what the lineage is called.
    depth : int
        Runs between it and its base.
    row : int
        Its row, from 0 at the top; its descendants follow.
    parent : Member or None
    branch, end : float
        Cumulative tokens; the branch of a base is 0.
    origin : float
        Where its chain left the base; NaN for a base.
    value : float
        Of the metric; NaN where there is none.
    is_listed : bool
        Whether the Dataset holds it; an ancestor that it does not hold is there to connect the others.
    facts : mapping
        Coordinates of the run, by name.
    start : float
        Cumulative tokens at its own token 0: its branch, or where a merge of several parents stands.
    """

    run_id: str
    run_type: str
    label: str
    depth: int
    row: int
    parent: Member | None
    branch: float
    end: float
    origin: float
    value: float = np.nan
    is_listed: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    start: float = 0.0

    @property
    def is_base(self) -> bool:
        """Whether it started from no other run."""
        return self.parent is None


def find_members(rows: pd.DataFrame) -> list[Member]:
    """Return the runs of all families, each base followed by what derives from it, nearest branch first.

    Parameters
    ----------
    rows : DataFrame
        As :func:`dde.plots.run_rows.run_rows` gives them, one lineage's or several'. Ancestors that are not among them
        follow from the coordinate ``chain``: up to where the next run of the chain branches off.
    """
    members: list[Member] = []
    for lineage, family in rows.groupby("lineage", sort=False):
        nodes = {str(row["run_id"]): row for row in family.to_dict("records")}
        members += list(_family(str(lineage), nodes, len(members)))
    return members


def _family(lineage: str, nodes: dict[str, Any], first: int) -> Iterator[Member]:
    """Give the runs of a lineage: each of its bases, followed by what derives from it."""
    bases = [i for i, row in nodes.items() if _is_base(row)]
    listed = set(nodes)
    some = next(iter(nodes.values()))
    for run_id in list(nodes):
        _add_ancestors(run_id, nodes)
    families: dict[str, dict[str, Any]] = {i: {} for i in bases}
    for run_id, row in nodes.items():
        # The id of a base of DataDecide is not stated: it is the one of its lineage, listed or not.
        root = str(row.get("root_run_id", "")) or (bases[0] if bases else lineage)
        families.setdefault(run_id if run_id in families else root, {})[run_id] = row
    for root, family in families.items():
        label = title_of(some)
        if len(families) > 1:
            own = family.get(root, {}).get("run", "") or _base_type(family)
            label = f"{label} {own}"
        for member in _descendants_of(root, family, label, first, listed, lineage):
            yield member
            first += 1


def _is_base(row: Mapping[str, Any]) -> bool:
    if "root_run_id" in row:
        return not np.isfinite(float(row["branch_tokens"]))
    return bool(row["run_type"] == PRETRAINING)


def _base_type(nodes: Mapping[str, Any]) -> str:
    """Return the type of the run that runs started from."""
    chains = (parse_chain(str(row.get("chain", ""))) for row in nodes.values())
    return next((stages[0].run_type for stages in chains if stages), PRETRAINING)


def _descendants_of(
    base_id: str, nodes: dict[str, Any], label: str, first: int, listed: set[str], lineage: str
) -> Iterator[Member]:
    base = nodes.get(base_id, {})
    # A base goes on, listed or not, up to where the last of its runs branches off.
    direct = [
        float(row["branch_tokens"])
        for i, row in nodes.items()
        if i != base_id and row["parent_run_id"] not in nodes.keys() - {base_id}
    ]
    known = [t for t in (float(base.get("end_tokens", np.nan)), *direct) if np.isfinite(t)]
    end = max(known, default=np.nan)
    root = Member(
        base_id, str(base.get("run_type") or _base_type(nodes)), label, 0, first, None, 0.0, end, np.nan,
        base.get("value", np.nan), base_id in listed, base or {"lineage": lineage},
    )  # fmt: skip
    children: dict[str, list[str]] = {}
    for run_id, row in nodes.items():
        if run_id != base_id:
            parent = str(row["parent_run_id"])
            children.setdefault(parent if parent in nodes and parent != base_id else root.run_id, []).append(run_id)
    yield from _descend(root, nodes, children, listed)


def _descend(
    member: Member, nodes: Mapping[str, Any], children: Mapping[str, list[str]], listed: set[str]
) -> Iterator[Member]:
    yield member
    row = member.row + 1
    # The order of the Dataset's runs is that of their hyperparameters.
    for run_id in sorted(children.get(member.run_id, []), key=lambda r: float(nodes[r]["branch_tokens"])):
        facts = nodes[run_id]
        branch = float(facts["branch_tokens"])
        child = Member(
            run_id, str(facts["run_type"]), str(facts["run"]).rpartition("+")[2], member.depth + 1, row, member,
            branch, float(facts["end_tokens"]), branch if member.is_base else member.origin, facts["value"],
            run_id in listed, facts, max(branch, float(facts.get("start_tokens", branch))),
        )  # fmt: skip
        for found in _descend(child, nodes, children, listed):
            yield found
            row += 1


def _add_ancestors(run_id: str, nodes: dict[str, Any]) -> None:
    """Add what lies between a run and its base, and is not among the rows."""
    row = nodes[run_id]
    stages = parse_chain(str(row.get("chain", "")))
    label, child, end = str(row["run"]), row, float(row["branch_tokens"])
    for stage in reversed(stages[1:-1]):
        label = label.rpartition("+")[0]
        # The id of a run's parent is known, those of its other ancestors are not.
        ancestor = str(child["parent_run_id"]) or f"{label} of {row['lineage']}"
        child["parent_run_id"] = ancestor
        if ancestor in nodes:
            return
        child = nodes[ancestor] = {
            "run_id": ancestor, "run": label, "run_type": stage.run_type, "value": np.nan,
            "lineage": row["lineage"], "parent_run_id": "", "branch_tokens": float(stage.start), "end_tokens": end,
            **({"root_run_id": row["root_run_id"]} if "root_run_id" in row else {}),
        }  # fmt: skip
        end = float(stage.start)
