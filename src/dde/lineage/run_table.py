"""The run table: one row per run, columns as arrays. Every suite provides one, and Datasets are built from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int32, Int64, Texts
from dde.errors import SelectionError, near_names
from dde.lineage.chain_texts import Stage
from dde.lineage.counts import training_compute
from dde.lineage.ragged_rows import with_ancestors

__all__ = ["Factor", "RunTable"]

#: What a factor distinguishes: lineages, labels of runs, or each run of each lineage.
Along = Literal["lineage", "run", "cell"]


@dataclass(frozen=True, eq=False)
class Factor:
    """The values of one factor in all runs.

    Attributes
    ----------
    along : {"lineage", "run", "cell"}
    values : (run,) array
        Object texts, "" where a run has no value, or float64 numbers, NaN there.
    """

    along: Along
    values: npt.NDArray[Any]

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return self.values.dtype == object


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs of a suite: identity, relations and position on the axis of cumulative tokens.

    Attributes
    ----------
    run_id, run_type, state : (run,) object arrays of str
    lineage, run : (run,) object arrays of str
        Labels along both dimensions; "" where unknown. `run` does not include the number of the replicate.
    replicate : (run,) int64 array
        From 1; 0 where unknown.
    is_root : (run,) bool array
        Whether a run was trained from scratch, rather than from a parent, known or not.
    depth : (run,) int64 array
        Number of edges of the longest path from a root.
    edge_child, edge_parent : (edge,) int32 arrays
        Numbers of runs; edges are ordered by child, then in the order of its parents.
    edge_tokens : (edge,) int64 array
        Own tokens of the parent at the branch; -1 where unknown.
    absent_parent : (run,) object array of str
        Id of a parent that is not in the table; "" elsewhere.
    curve_parent : (run,) int32 array
        The run whose curve this run shares up to its branch; -1 if there is none.
    start_tokens, branch_tokens, end_tokens : (run,) int64 arrays
        Cumulative tokens at own token 0, at the end of the curve that the run shares with its parents, and at the last
        row; -1 where unknown. `branch_tokens` is also -1 for a root.
    n_params, schedule_tokens : (run,) float64 arrays
        NaN where unknown.
    start_compute : (run,) float64 array
        Training compute of the run's history at own token 0, in FLOP; NaN if a parameter count is unknown.
    token_source, status, parent_evidence, contradictions, estimate : (run,) object arrays of str
        `status` is ``used`` or the reason why a run has no position.
    factors : mapping of str to Factor
        In the order in which the suite declares them.
    lineages, runs : tuples of str
        Labels in the order of the suite; those of runs include the number of the replicate.
    """

    run_id: Texts
    run_type: Texts
    state: Texts
    lineage: Texts
    run: Texts
    replicate: Int64
    is_root: npt.NDArray[np.bool_]
    depth: Int64
    edge_child: Int32
    edge_parent: Int32
    edge_tokens: Int64
    absent_parent: Texts
    curve_parent: Int32
    start_tokens: Int64
    branch_tokens: Int64
    end_tokens: Int64
    n_params: Float64
    schedule_tokens: Float64
    start_compute: Float64
    token_source: Texts
    status: Texts
    parent_evidence: Texts
    contradictions: Texts
    estimate: Texts
    factors: Mapping[str, Factor] = field(default_factory=dict)
    lineages: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.run_id)

    @cached_property
    def row_by_id(self) -> dict[str, int]:
        """Row of each run, by its id."""
        return {run_id: i for i, run_id in enumerate(self.run_id.tolist())}

    @cached_property
    def labels(self) -> Texts:
        """Label of each run along the dimension ``run``, with ``#<replicate>`` from the second replicate on."""
        labels = self.run.copy()
        for row in np.flatnonzero(self.replicate > 1).tolist():
            labels[row] = f"{labels[row]}#{self.replicate[row]}"
        return labels

    @cached_property
    def order(self) -> Int64:
        """Rank of each run by lineage, depth and label in the order of the suite; by row where the suite has none."""
        if not self.runs:
            return np.arange(len(self))
        lineage = {label: i for i, label in enumerate(self.lineages)}
        run = {label: i for i, label in enumerate(self.runs)}
        ranks = (
            np.array([run.get(label, len(run)) for label in self.labels.tolist()], np.int64),
            self.depth,
            np.array([lineage.get(label, len(lineage)) for label in self.lineage.tolist()], np.int64),
        )
        order = np.empty(len(self), np.int64)
        order[np.lexsort(ranks)] = np.arange(len(self))
        return order

    @cached_property
    def members(self) -> dict[str, Int64]:
        """Rows of each lineage, by its label, sorted by `order`; runs without a lineage are omitted."""
        at = np.argsort(self.order, kind="stable")
        rows: dict[str, list[int]] = {label: [] for label in self.lineages if label}
        for row, label in zip(at.tolist(), self.lineage[at].tolist(), strict=True):
            if label:
                rows.setdefault(label, []).append(row)
        return {label: np.array(of_lineage, np.int64) for label, of_lineage in rows.items()}

    @cached_property
    def n_parents(self) -> Int64:
        """Number of parents of each run."""
        return np.bincount(self.edge_child, minlength=len(self)).astype(np.int64)

    @cached_property
    def is_used(self) -> npt.NDArray[np.bool_]:
        """Whether each run has a position on its lineage."""
        return np.asarray(self.status == "used", bool)

    def rows(self, run_ids: Iterable[str]) -> Int64:
        """Return the rows of runs.

        Raises
        ------
        SelectionError
            When the table has no such run; the message names similar ones.
        """
        row_by_id = self.row_by_id
        try:
            return np.array([row_by_id[run_id] for run_id in run_ids], np.int64)
        except KeyError as error:
            run_id = str(error.args[0])
            raise SelectionError(
                f"the suite has no run {run_id!r}, so it can't be opened.{near_names(run_id, row_by_id)} "
                "repository.coverage() lists every run."
            ) from None

    def parents(self, row: int) -> list[tuple[int, int]]:
        """Return the parents of a run: their rows, and their own tokens at the branch."""
        first, stop = np.searchsorted(self.edge_child, [row, row + 1])
        return list(zip(self.edge_parent[first:stop].tolist(), self.edge_tokens[first:stop].tolist(), strict=True))

    def with_ancestors(self, rows: Int64) -> Int64:
        """Return rows and the rows of all ancestors on their curves, each once, parents before children."""
        members = with_ancestors(self.curve_parent, rows)
        return members[np.argsort(self.depth[members], kind="stable")]

    def roots_of(self, runs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return a mask of the roots that the runs of a mask derive from, through all of their parents."""
        reached = runs.copy()
        while True:
            grown = reached.copy()
            grown[self.edge_parent[reached[self.edge_child]]] = True
            if np.array_equal(grown, reached):
                return np.asarray(reached & self.is_root, bool)
            reached = grown

    def curve(self, row: int) -> list[tuple[int, int | None]]:
        """Return the runs of a curve from its root on: rows, and the cumulative tokens at which the part of each ends.

        The part of the run itself has no end: None.
        """
        path: list[tuple[int, int | None]] = [(row, None)]
        at = row
        while self.curve_parent[at] >= 0:
            stop = int(self.branch_tokens[at])
            at = int(self.curve_parent[at])
            path.append((at, stop))
        return path[::-1]

    def stages(self, row: int) -> tuple[Stage, ...]:
        """Return the stages of the curve of a run, beginning with its root."""
        return tuple(
            Stage(
                str(self.run_type[r]),
                max(int(self.branch_tokens[r]), 0),
                int(self.start_tokens[r]) if self.n_parents[r] > 1 else None,
            )
            for r, _ in self.curve(row)
        )

    def roots(self, rows: Int64) -> tuple[Int64, Float64]:
        """Return the rows of the roots of curves, and the cumulative tokens at which the part of each root ends.

        They are NaN for the curve of a root itself.
        """
        at, origin = rows.copy(), np.full(len(rows), np.nan)
        while True:
            parents = self.curve_parent[at]
            moving = parents >= 0
            if not moving.any():
                return at, origin
            origin[moving] = self.branch_tokens[at[moving]]
            at = np.where(moving, parents, at)

    def compute(self, rows: Int64 | int, tokens: Int64) -> Float64:
        """Return the training compute of runs and their histories, in FLOP, at cumulative tokens after their starts."""
        own = tokens - self.start_tokens[rows]
        return np.asarray(self.start_compute[rows] + training_compute(self.n_params[rows], own), np.float64)
