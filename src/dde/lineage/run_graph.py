"""Compute the position of each run on the axis of cumulative tokens from the graph of runs and their parents.

The own tokens of a run are counted from its start. The history of a run at its own token t maps the run to t, and each
ancestor to the own tokens up to which the ancestor was trained on the way to the run. If an ancestor is reached through
several parents, its maximum counts. Cumulative tokens are the sum of the history, so tokens that several parents share
count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64, Int32, Int64
from dde.errors import LineageError
from dde.lineage.counts import MOST, training_compute
from dde.lineage.ragged_rows import find_first_rows, rows_of

__all__ = ["BranchAt", "Edges", "PlacedRuns", "RunRows", "find_depths", "place_runs"]

# Problem of a run whose cumulative tokens exceed 64 bits.
_TOO_MANY = "tokens unknown: more tokens than 64 bits count"


class BranchAt(IntEnum):
    """How a declaration specifies the branch point of a run on its parent.

    Attributes
    ----------
    END
        At the parent's last row.
    FIRST_ROW
        At the cumulative tokens of the run's own first row.
    CHECKPOINT
        At the parent's last row up to the run's own first row.
    STEP
        At a step of the parent.
    TOKENS, CUMULATIVE
        At own tokens of the parent; at cumulative tokens.
    """

    END = 0
    FIRST_ROW = 1
    CHECKPOINT = 2
    STEP = 3
    TOKENS = 4
    CUMULATIVE = 5


@dataclass(frozen=True, eq=False)
class Edges:
    """Parents of runs.

    Attributes
    ----------
    child, parent : (edge,) int32 arrays
        Numbers of runs. The edges of a child are in the order of its parents.
    at : (edge,) int8 array
        Codes of :class:`BranchAt`.
    value : (edge,) float64 array
        The step or tokens that `at` needs; NaN where it needs none.
    """

    child: Int32
    parent: Int32
    at: npt.NDArray[np.int8]
    value: Float64

    def first_parents(self, n_runs: int) -> Int64:
        """Return the first parent of each run; -1 for a run without parents.

        Examples
        --------
        >>> edges = Edges(np.array([2, 2]), np.array([1, 0]), np.zeros(2, np.int8), np.full(2, np.nan))
        >>> edges.first_parents(3).tolist()
        [-1, -1, 1]
        """
        parents = np.full(n_runs, -1, np.int64)
        # In reverse order, so that the first edge of a child is assigned last.
        parents[self.child[::-1]] = self.parent[::-1]
        return parents


@dataclass(frozen=True, eq=False)
class RunRows:
    """Rows of runs: their steps, and the token counter as it was logged or declared.

    Attributes
    ----------
    offsets : (run + 1,) int64 array
        Rows of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    step, counter : (row,) int64 arrays
        Ascending in both within a run.
    is_cumulative : (run,) bool array
        Whether the counter continues from the parent's cumulative tokens rather than starting from 0.
    """

    offsets: Int64
    step: Int64
    counter: Int64
    is_cumulative: Bool


@dataclass(frozen=True, eq=False)
class PlacedRuns:
    """Positions of runs on the axis of cumulative tokens.

    Attributes
    ----------
    own : (row,) int64 array
        Own tokens of each row, counted from the run's start.
    start, branch, end : (run,) int64 arrays
        Cumulative tokens at own token 0, at the end of the curve that the run shares with its parents, and at the last
        row; -1 where unknown. `branch` is also -1 for a root.
    curve_parent : (run,) int32 array
        The run whose curve this run shares up to `branch`; -1 if there is none.
    edge_tokens : (edge,) int64 array
        Own tokens of the parent at the branch; -1 where unknown.
    compute : (run,) float64 array
        Training compute of the history at own token 0, in FLOP; NaN if a parameter count is unknown.
    problem, estimate : (run,) object arrays of str
        `problem` is the reason why a run has no position; `estimate` describes how a branch between rows of the parent
        was estimated. "" otherwise.
    """

    own: Int64
    start: Int64
    branch: Int64
    end: Int64
    curve_parent: Int32
    edge_tokens: Int64
    compute: Float64
    problem: npt.NDArray[np.object_]
    estimate: npt.NDArray[np.object_]


def find_depths(run_ids: Sequence[str], child: Int32, parent: Int32) -> Int64:
    """Return the depth of each run in the graph: the number of edges of the longest path from a root.

    Parameters
    ----------
    run_ids : sequence of str
    child, parent : (edge,) int32 arrays
        Numbers of runs.

    Returns
    -------
    (run,) int64 array
        Sorted by depth, parents come before children.

    Raises
    ------
    LineageError
        When runs derive from each other in a cycle.

    Examples
    --------
    >>> find_depths(["sft", "base"], np.array([0], np.int32), np.array([1], np.int32)).tolist()
    [1, 0]
    """
    n = len(run_ids)
    depth = np.zeros(n, np.int64)
    waiting = np.bincount(child, minlength=n)
    by_parent = np.argsort(parent, kind="stable")
    first = np.searchsorted(parent[by_parent], np.arange(n + 1))
    ready = np.flatnonzero(waiting == 0)
    done = 0
    while len(ready):
        done += len(ready)
        edges = by_parent[rows_of(first, ready)]
        children = child[edges]
        np.maximum.at(depth, children, depth[parent[edges]] + 1)
        waiting -= np.bincount(children, minlength=n)
        ready = np.unique(children[waiting[children] == 0])
    if done < n:
        cycle = _find_cycle(np.flatnonzero(waiting > 0), child, parent)
        names = ", ".join(repr(run_ids[r]) for r in cycle[:4])
        more = f" and {len(cycle) - 4} more" if len(cycle) > 4 else ""
        cause = f"the runs {names}{more} derive from each other in a cycle"
        if len(cycle) == 1:
            cause = f"the run {names} is its own parent"
        raise LineageError(
            f"{cause}, so their position on the token axis is undefined. Correct the parents that the suite declares."
        )
    return depth


def _find_cycle(left: Int64, child: Int32, parent: Int32) -> list[int]:
    """Return the runs of one cycle; each run of `left` has a parent among them."""
    runs = set(left.tolist())
    parent_of = {int(c): int(p) for c, p in zip(child, parent, strict=True) if int(c) in runs and int(p) in runs}
    path: list[int] = []
    run = next(iter(parent_of))
    while run not in path:
        path.append(run)
        run = parent_of[run]
    return path[path.index(run) :]


def place_runs(
    rows: RunRows,
    edges: Edges,
    depth: Int64,
    n_params: Float64,
    problems: npt.NDArray[np.object_] | None = None,
) -> PlacedRuns:
    """Return the positions of runs on the axis of cumulative tokens.

    Parameters
    ----------
    rows : RunRows
    edges : Edges
    depth : (run,) int64 array
        As :func:`find_depths` returns it.
    n_params : (run,) float64 array
        Exact parameter counts; NaN where unknown.
    problems : (run,) object array of str, optional
        Reasons why runs have no position that are known in advance; "" for the other runs. A run with a problem and
        without a parent is not a root.

    Returns
    -------
    PlacedRuns

    Examples
    --------
    Run 1 branches off run 0 at step 20, where run 0 has 80 tokens. Its own counter starts at 0.

    >>> step, counter = np.array([10, 20, 30, 1, 2]), np.array([40, 80, 120, 8, 16])
    >>> rows = RunRows(np.array([0, 3, 5]), step, counter, is_cumulative=np.zeros(2, bool))
    >>> edges = Edges(np.array([1]), np.array([0]), np.array([BranchAt.STEP], np.int8), np.array([20.0]))
    >>> positions = place_runs(rows, edges, np.array([0, 1]), np.array([1e6, 1e6]))
    >>> positions.start.tolist(), positions.branch.tolist(), positions.end.tolist()
    ([0, 80], [-1, 80], [120, 96])
    """
    return _PositionBuilder(rows, edges, depth, n_params, problems).build()


class _PositionBuilder:
    """Computes positions level by level, from the roots of the graph to its leaves.

    The attributes `own` to `estimate` become those of :class:`PlacedRuns`. They are filled for one level after the
    other, and a level uses those of its parents.
    """

    def __init__(
        self,
        rows: RunRows,
        edges: Edges,
        depth: Int64,
        n_params: Float64,
        problems: npt.NDArray[np.object_] | None,
    ) -> None:
        n = len(rows.offsets) - 1
        self.rows, self.edges, self.n_params = rows, edges, n_params
        self.own = rows.counter.copy()
        self.start, self.branch, self.end = (np.full(n, -1, np.int64) for _ in range(3))
        self.curve_parent = np.full(n, -1, np.int32)
        # Own tokens at the branch: of `curve_parent` for each run, and of the parent for each edge.
        self.curve_at = np.full(n, -1, np.int64)
        self.edge_tokens = np.full(len(edges.child), -1, np.int64)
        self.compute = np.zeros(n)
        self.problem = np.full(n, "", object) if problems is None else problems.copy()
        self.estimate = np.full(n, "", object)
        # History of each merge at own token 0; the history of another run follows from its single parent.
        self.merged: dict[int, dict[int, int]] = {}
        self.first_edge = np.searchsorted(edges.child, np.arange(n + 1))
        has_rows = rows.offsets[1:] > rows.offsets[:-1]
        self.first_counter = np.full(n, -1, np.int64)
        self.first_counter[has_rows] = rows.counter[rows.offsets[:-1][has_rows]]
        self.levels = [np.flatnonzero(depth == d) for d in range(int(depth.max(initial=-1)) + 1)]

    def build(self) -> PlacedRuns:
        for depth, runs in enumerate(self.levels):
            if depth:
                self._place_level(runs)
            else:
                self.start[runs[self.problem[runs] == ""]] = 0
            self._place_rows(runs)
        return PlacedRuns(
            self.own,
            self.start,
            self.branch,
            self.end,
            self.curve_parent,
            self.edge_tokens,
            self.compute,
            self.problem,
            self.estimate,
        )

    def _place_level(self, runs: Int64) -> None:
        """Set the starts of runs with parents; their parents are in lower levels."""
        n_parents = self.first_edge[runs + 1] - self.first_edge[runs]
        self._place_edges(rows_of(self.first_edge, runs))
        simple = runs[(n_parents == 1) & (self.problem[runs] == "")]
        edge = self.first_edge[simple]
        parent, own = self.edges.parent[edge], self.edge_tokens[edge]
        too_many = own > MOST - self.start[parent]
        self.problem[simple[too_many]] = _TOO_MANY
        simple, parent, own = simple[~too_many], parent[~too_many], own[~too_many]
        self.start[simple] = self.branch[simple] = self.start[parent] + own
        self.curve_parent[simple], self.curve_at[simple] = parent, own
        self.compute[simple] = self.compute[parent] + self._compute_of(parent, own)
        for run in runs[(n_parents > 1) & (self.problem[runs] == "")].tolist():
            self._place_merge(run)

    def _compute_of(self, run: npt.NDArray[np.integer], own: Int64) -> Float64:
        """Return the compute of the own tokens of runs, in FLOP; NaN if the parameter count is unknown."""
        # A branch at token 0 adds no compute, even if the parameter count of the parent is unknown.
        return np.where(own > 0, training_compute(self.n_params[run], own), 0.0)

    def _add_problem(self, run: int, problem: str) -> None:
        """Record why a run has no position; the first problem of a run is kept."""
        self.problem[run] = self.problem[run] or problem

    def _place_rows(self, runs: Int64) -> None:
        """Convert the counters of runs to own tokens, and set their ends."""
        first, stop = self.rows.offsets[runs], self.rows.offsets[runs + 1]
        shift = np.where(self.rows.is_cumulative[runs], np.maximum(self.start[runs], 0), 0)
        counts = stop - first
        self.own[rows_of(self.rows.offsets, runs)] -= np.repeat(shift, counts)
        has_end = (counts > 0) & (self.start[runs] >= 0) & (self.problem[runs] == "")
        with_end, last = runs[has_end], self.own[stop[has_end] - 1]
        too_many = last > MOST - self.start[with_end]
        self.problem[with_end[too_many]] = _TOO_MANY
        self.end[with_end[~too_many]] = self.start[with_end[~too_many]] + last[~too_many]

    def _own_end(self, runs: npt.NDArray[np.integer]) -> Int64:
        """Return the own tokens of runs at their last rows; -1 where unknown."""
        return np.where(self.end[runs] >= 0, self.end[runs] - self.start[runs], -1)

    def _place_edges(self, edges: Int64) -> None:
        """Set the own tokens of the parents at the branches of one level, and record problems."""
        child, parent = self.edges.child[edges].astype(np.int64), self.edges.parent[edges].astype(np.int64)
        at, value = self.edges.at[edges], self.edges.value[edges]
        own = np.full(len(edges), -1, np.int64)
        own_end = self._own_end(parent)
        has_rows = self.rows.offsets[parent + 1] > self.rows.offsets[parent]
        by_tokens = (at == BranchAt.TOKENS) | (at == BranchAt.CUMULATIVE)
        by_row = (at == BranchAt.FIRST_ROW) | (at == BranchAt.CHECKPOINT)
        self._inherit_problems(child, parent)
        self._mark_unknown(child[~has_rows & ~by_tokens], "the parent has no rows")
        own[at == BranchAt.END] = own_end[at == BranchAt.END]
        self._place_tokens(by_tokens, at == BranchAt.CUMULATIVE, child, parent, value, own)
        by_row &= self._has_cumulative_row(by_row, child) & has_rows
        own[by_row] = self.first_counter[child[by_row]] - self.start[parent[by_row]]
        self._place_checkpoints(by_row & (at == BranchAt.CHECKPOINT), child, parent, own)
        self._place_steps(np.flatnonzero((at == BranchAt.STEP) & has_rows), child, parent, value, own)
        self._mark_unknown(child[(own < 0) & (at != BranchAt.STEP)], "it lies before the parent's start")
        # The parent may have trained beyond its last row, by up to one logging interval.
        is_beyond = (own - own_end > self._last_interval(parent)) & (own_end >= 0)
        for k in np.flatnonzero(is_beyond).tolist():
            reason = f"{own[k]} own tokens of the parent lie beyond its last row at {own_end[k]}"
            self._add_problem(int(child[k]), f"branch unknown: {reason}")
        own[(own < 0) | (self.problem[child] != "")] = -1
        self.edge_tokens[edges] = own

    def _inherit_problems(self, child: Int64, parent: Int64) -> None:
        """Record that a run whose parent has a problem has no position either."""
        for run, parent_run in zip(child.tolist(), parent.tolist(), strict=True):
            if self.problem[parent_run]:
                reason = str(self.problem[parent_run]).removeprefix("parent not usable: ")
                self._add_problem(run, f"parent not usable: {reason}")

    def _mark_unknown(self, runs: Int64, reason: str) -> None:
        """Record why the branches of runs are unknown."""
        for run in runs.tolist():
            self._add_problem(run, f"branch unknown: {reason}")

    def _place_tokens(
        self, where: Bool, is_cumulative: Bool, child: Int64, parent: Int64, value: Float64, own: Int64
    ) -> None:
        """Place branches at declared tokens, which are cumulative or own tokens of the parent."""
        is_number, is_too_large = np.isfinite(value), np.abs(value) >= 2.0**63
        self._mark_unknown(child[where & ~is_number], "the declared tokens of the branch are not a number")
        self._mark_unknown(child[where & is_too_large], "the declared tokens of the branch exceed 64 bits")
        valid = where & is_number & ~is_too_large
        own[valid] = np.rint(value[valid]).astype(np.int64)
        own[valid & is_cumulative] -= self.start[parent[valid & is_cumulative]]

    def _has_cumulative_row(self, where: Bool, child: Int64) -> Bool:
        """Return whether the first row of a run gives the cumulative tokens at which it starts; record why not."""
        is_cumulative, has_first = self.rows.is_cumulative[child], self.first_counter[child] >= 0
        reason = "a counter of the run's own tokens does not say where it starts"
        self._mark_unknown(child[where & ~is_cumulative], reason)
        self._mark_unknown(child[where & ~has_first], "the run has no rows")
        return is_cumulative & has_first

    def _last_interval(self, runs: Int64) -> Int64:
        """Return the tokens between the last two rows of runs; 0 for a run with a single row."""
        last = np.maximum(self.rows.offsets[runs + 1] - 1, 0)
        several = self.rows.offsets[runs + 1] - self.rows.offsets[runs] > 1
        if not len(self.own):
            return np.zeros(len(runs), np.int64)
        return np.where(several, self.own[last] - self.own[np.maximum(last - 1, 0)], 0)

    def _place_checkpoints(self, where: Bool, child: Int64, parent: Int64, own: Int64) -> None:
        """Place branches at the parent's last row before the run's first row."""
        edges = np.flatnonzero(where)
        if not len(edges):
            return
        row = find_first_rows(self.rows.offsets, self.own, parent[edges], own[edges]) - 1
        is_known = row >= self.rows.offsets[parent[edges]]
        own[edges[is_known]] = self.own[row[is_known]]
        own[edges[~is_known]] = -1
        for run in child[edges[~is_known]].tolist():
            self._add_problem(run, "branch unknown: the parent has no row before the run's first one")

    def _place_steps(self, edges: Int64, child: Int64, parent: Int64, value: Float64, own: Int64) -> None:
        """Place branches at a step of the parent."""
        rows = find_first_rows(self.rows.offsets, self.rows.step, parent[edges], value[edges])
        for edge, row in zip(edges.tolist(), rows.tolist(), strict=True):
            run, step = int(child[edge]), float(value[edge])
            own[edge], estimate, problem = self._tokens_at_step(int(parent[edge]), step, row)
            if estimate:
                self.estimate[run] = f"branch at step {step:g}: {estimate}"
            if problem:
                self._add_problem(run, f"branch unknown: {problem}")

    def _tokens_at_step(self, run: int, step: float, row: int) -> tuple[int, str, str]:
        """Return the own tokens of a run at a step, how they were estimated, and why they are unknown.

        Parameters
        ----------
        run : int
        step : float
        row : int
            First row of the run at or after the step.

        Returns
        -------
        tokens : int
            Those of the row at the step, or interpolated between two rows; -1 where unknown.
        estimate, problem : str
            "" where there is none.
        """
        first, stop = int(self.rows.offsets[run]), int(self.rows.offsets[run + 1])
        steps, own = self.rows.step, self.own
        if not np.isfinite(step):
            return -1, "", "the declared step of the branch is not a number"
        if row < stop and steps[row] == step:
            return int(own[row]), "", ""
        if first < row < stop:
            left, right = int(steps[row - 1]), int(steps[row])
            share = (step - left) / (right - left)
            tokens = int(own[row - 1]) + round(share * int(own[row] - own[row - 1]))
            return tokens, f"between the parent's rows at steps {left} and {right}", ""
        # The first row of a root gives its tokens per step.
        if row == first and step >= 0 and own[row] > 0 and steps[row] > 0 and self.start[run] == 0:
            tokens = round(step / int(steps[row]) * int(own[row]))
            return tokens, f"before the parent's first row at step {steps[row]}", ""
        if row == first:
            return -1, "", f"step {step:g} lies before the parent's first row at step {steps[first]}"
        return -1, "", f"step {step:g} lies beyond the parent's last row at step {steps[stop - 1]}"

    def _place_merge(self, run: int) -> None:
        """Place a run with several parents."""
        edges = range(int(self.first_edge[run]), int(self.first_edge[run + 1]))
        parents = [(int(self.edges.parent[e]), int(self.edge_tokens[e])) for e in edges]
        history: dict[int, int] = {}
        for parent, own in parents:
            for ancestor, reached in self._history(parent, own).items():
                history[ancestor] = max(history.get(ancestor, 0), reached)
        self.merged[run] = history
        total = sum(history.values())
        if total > MOST:
            self.problem[run] = _TOO_MANY
            return
        self.start[run] = total
        self.compute[run] = sum(training_compute(self.n_params[a], t) for a, t in history.items() if t)
        shared, own = _shared_curve([self._path(parent, own) for parent, own in parents])
        self.curve_parent[run], self.curve_at[run] = shared, own
        self.branch[run] = 0 if shared < 0 else self.start[shared] + own

    def _history(self, run: int, own: int) -> dict[int, int]:
        """Return the own tokens of the run and of each ancestor in the history of the run at own tokens `own`."""
        history = {run: own}
        while run not in self.merged and self.curve_parent[run] >= 0:
            run, own = int(self.curve_parent[run]), int(self.curve_at[run])
            history[run] = own
        for ancestor, reached in self.merged.get(run, {}).items():
            history[ancestor] = max(history.get(ancestor, 0), reached)
        return history

    def _path(self, run: int, own: int) -> list[tuple[int, int]]:
        """Return the runs of a curve from its root on, each with its own tokens at the end of its part of the curve."""
        path = [(run, own)]
        while self.curve_parent[run] >= 0:
            run, own = int(self.curve_parent[run]), int(self.curve_at[run])
            path.append((run, own))
        return path[::-1]


def _shared_curve(paths: Sequence[Sequence[tuple[int, int]]]) -> tuple[int, int]:
    """Return the run, and its own tokens, at which the part that all curves share ends; -1 if they share nothing."""
    run, own = -1, -1
    for links in zip(*paths, strict=False):
        if len({r for r, _ in links}) > 1:
            break
        run, own = links[0][0], min(t for _, t in links)
        if len({t for _, t in links}) > 1:
            break
    return run, own
