"""The graph of runs: place each run on the axis of cumulative tokens, for any number of parents.

The history of a run at its own token t maps runs to own tokens: t for the run itself, and for each ancestor the maximum
over the histories of the run's parents at their branch points. Cumulative tokens are the sum of the history, so
segments that several ancestors share count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64, Int32, Int64
from dde.errors import LineageError
from dde.lineage.counts import MOST
from dde.lineage.ragged_rows import find_first_rows, rows_of

__all__ = ["At", "Edges", "PlacedRuns", "RunRows", "find_depths", "place_runs"]

# Problem of a run whose cumulative tokens exceed 64 bits.
_BEYOND = "tokens unknown: more tokens than 64 bits count"


class At(IntEnum):
    """How a declaration gives the point at which a run leaves its parent."""

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
        Codes of :class:`At`.
    value : (edge,) float64 array
        The step or tokens that `at` needs; NaN where it needs none.
    """

    child: Int32
    parent: Int32
    at: npt.NDArray[np.int8]
    value: Float64


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
        Cumulative tokens: at own token 0; up to which the curve is that of the parents; of the last row. -1 where
        unknown; `branch` is -1 for a root, too.
    curve_parent : (run,) int32 array
        The run whose curve this one follows up to `branch`; -1 where there is none.
    edge_tokens : (edge,) int64 array
        Own tokens of the parent at the branch; -1 where unknown.
    compute : (run,) float64 array
        6 N tokens of the history at own token 0, in FLOP; NaN where an N is unknown.
    problem, estimate : (run,) object arrays of str
        Why a run has no position, and how its branch was estimated where no row of the parent gives it; "" otherwise.
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
        below = child[edges]
        np.maximum.at(depth, below, depth[parent[edges]] + 1)
        waiting -= np.bincount(below, minlength=n)
        ready = np.unique(below[waiting[below] == 0])
    if done < n:
        circle = _find_circle(np.flatnonzero(waiting > 0), child, parent)
        named = ", ".join(repr(run_ids[r]) for r in circle[:4])
        more = f" and {len(circle) - 4} more" if len(circle) > 4 else ""
        what = f"the runs {named}{more} derive from each other in a circle"
        if len(circle) == 1:
            what = f"the run {named} is its own parent"
        raise LineageError(
            f"{what}, so their position on the token axis is undefined. Correct the parents that the suite declares."
        )
    return depth


def _find_circle(left: Int64, child: Int32, parent: Int32) -> list[int]:
    """Return the runs of one cycle among runs that each have an unplaced parent."""
    among = set(left.tolist())
    above = {int(c): int(p) for c, p in zip(child, parent, strict=True) if int(c) in among and int(p) in among}
    path: list[int] = []
    run = next(iter(above))
    while run not in path:
        path.append(run)
        run = above[run]
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
        Why runs have no position, where that is already known; "" for the others. A run with a problem and without a
        parent is no root.

    Returns
    -------
    PlacedRuns
    """
    return _Placement(rows, edges, depth, n_params, problems).placed()


class _Placement:
    """Place runs level by level of the graph."""

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
        # Own tokens of `curve_parent`, and of the parents of edges, at the branch.
        self.curve_at = np.full(n, -1, np.int64)
        self.edge_tokens = np.full(len(edges.child), -1, np.int64)
        self.compute = np.zeros(n)
        self.problem = np.full(n, "", object) if problems is None else problems.copy()
        self.estimate = np.full(n, "", object)
        # Histories of merges at own token 0. Histories of other runs follow from their single parent.
        self.merged: dict[int, dict[int, int]] = {}
        count = np.bincount(edges.child, minlength=n)
        self.is_merge = count > 1
        self.first_edge = np.searchsorted(edges.child, np.arange(n + 1))
        has_rows = rows.offsets[1:] > rows.offsets[:-1]
        self.first_counter = np.full(n, -1, np.int64)
        self.first_counter[has_rows] = rows.counter[rows.offsets[:-1][has_rows]]
        self.levels = [np.flatnonzero(depth == d) for d in range(int(depth.max(initial=-1)) + 1)]

    def placed(self) -> PlacedRuns:
        for number, runs in enumerate(self.levels):
            if not number:
                self.start[runs[self.problem[runs] == ""]] = 0
            else:
                self._place_level(runs)
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
        counts = self.first_edge[runs + 1] - self.first_edge[runs]
        self._place_edges(rows_of(self.first_edge, runs))
        simple = runs[(counts == 1) & (self.problem[runs] == "")]
        edge = self.first_edge[simple]
        parent, own = self.edges.parent[edge], self.edge_tokens[edge]
        too_many = own > MOST - self.start[parent]
        self.problem[simple[too_many]] = _BEYOND
        simple, parent, own = simple[~too_many], parent[~too_many], own[~too_many]
        self.start[simple] = self.branch[simple] = self.start[parent] + own
        self.curve_parent[simple], self.curve_at[simple] = parent, own
        self.compute[simple] = self.compute[parent] + 6.0 * self._flops(parent, own)
        for run in runs[(counts > 1) & (self.problem[runs] == "")].tolist():
            self._place_merge(run)

    def _flops(self, run: npt.NDArray[np.integer], own: Int64) -> Float64:
        # A branch at token 0 adds no compute, even where the size of the parent is unknown.
        return np.where(own > 0, self.n_params[run] * own, 0.0)

    def _place_rows(self, runs: Int64) -> None:
        """Convert the counters of runs to own tokens, and set their ends."""
        first, stop = self.rows.offsets[runs], self.rows.offsets[runs + 1]
        shift = np.where(self.rows.is_cumulative[runs], np.maximum(self.start[runs], 0), 0)
        counts = stop - first
        self.own[rows_of(self.rows.offsets, runs)] -= np.repeat(shift, counts)
        has_end = (counts > 0) & (self.start[runs] >= 0) & (self.problem[runs] == "")
        with_end, last = runs[has_end], self.own[stop[has_end] - 1]
        too_many = last > MOST - self.start[with_end]
        self.problem[with_end[too_many]] = _BEYOND
        self.end[with_end[~too_many]] = self.start[with_end[~too_many]] + last[~too_many]

    def _own_end(self, runs: npt.NDArray[np.integer]) -> Int64:
        return np.where(self.end[runs] >= 0, self.end[runs] - self.start[runs], -1)

    def _place_edges(self, edges: Int64) -> None:
        """Set the own tokens of parents at the branches of one level, and record the problems of the others."""
        child, parent = self.edges.child[edges].astype(np.int64), self.edges.parent[edges].astype(np.int64)
        at, value = self.edges.at[edges], self.edges.value[edges]
        own = np.full(len(edges), -1, np.int64)
        own_end = self._own_end(parent)
        first = self.first_counter[child]

        def note(where: Bool, why: str) -> None:
            for run in child[where].tolist():
                self.problem[run] = self.problem[run] or why

        for run, up in zip(child.tolist(), parent.tolist(), strict=True):
            if self.problem[up]:
                reason = str(self.problem[up]).removeprefix("parent not usable: ")
                self.problem[run] = self.problem[run] or f"parent not usable: {reason}"
        has_rows = self.rows.offsets[parent + 1] > self.rows.offsets[parent]
        note(~has_rows & (at != At.TOKENS) & (at != At.CUMULATIVE), "branch unknown: the parent has no rows")
        own[at == At.END] = own_end[at == At.END]
        tokens = (at == At.TOKENS) | (at == At.CUMULATIVE)
        note(tokens & ~np.isfinite(value), "branch unknown: the declared tokens of the branch are not a number")
        given = tokens & np.isfinite(value) & (np.abs(value) < 2.0**63)
        note(tokens & (np.abs(value) >= 2.0**63), "branch unknown: the declared tokens of the branch exceed 64 bits")
        own[given] = np.rint(value[given]).astype(np.int64)
        relative = given & (at == At.CUMULATIVE)
        own[relative] -= self.start[parent[relative]]
        by_row = (at == At.FIRST_ROW) | (at == At.CHECKPOINT)
        counts_on = self.rows.is_cumulative[child]
        note(by_row & ~counts_on, "branch unknown: a counter of the run's own tokens does not say where it starts")
        note(by_row & (first < 0), "branch unknown: the run has no rows")
        by_row &= counts_on & (first >= 0) & has_rows
        own[by_row] = first[by_row] - self.start[parent[by_row]]
        self._place_checkpoints(by_row & (at == At.CHECKPOINT), child, parent, own)
        self._place_steps(np.flatnonzero((at == At.STEP) & has_rows), child, parent, value, own)
        note((own < 0) & (at != At.STEP), "branch unknown: it lies before the parent's start")
        # The parent may have trained up to the next row that it would have logged.
        far = (own - own_end > self._last_interval(parent)) & (own_end >= 0)
        for k in np.flatnonzero(far).tolist():
            why = f"branch unknown: {own[k]} own tokens of the parent lie beyond its last row at {own_end[k]}"
            self.problem[child[k]] = self.problem[child[k]] or why
        own[(own < 0) | (self.problem[child] != "")] = -1
        self.edge_tokens[edges] = own

    def _last_interval(self, runs: Int64) -> Int64:
        """Return the tokens between the last two rows of runs; 0 for a run with a single row."""
        last = np.maximum(self.rows.offsets[runs + 1] - 1, 0)
        several = self.rows.offsets[runs + 1] - self.rows.offsets[runs] > 1
        if not len(self.own):
            return np.zeros(len(runs), np.int64)
        return np.where(several, self.own[last] - self.own[np.maximum(last - 1, 0)], 0)

    def _place_checkpoints(self, where: Bool, child: Int64, parent: Int64, own: Int64) -> None:
        """Place branches at the parent's last row before the run's first row."""
        k = np.flatnonzero(where)
        if not len(k):
            return
        at = find_first_rows(self.rows.offsets, self.own, parent[k], own[k]) - 1
        there = at >= self.rows.offsets[parent[k]]
        own[k[there]] = self.own[at[there]]
        own[k[~there]] = -1
        for run in child[k[~there]].tolist():
            self.problem[run] = self.problem[run] or "branch unknown: the parent has no row before the run's first one"

    def _place_steps(self, k: Int64, child: Int64, parent: Int64, value: Float64, own: Int64) -> None:
        """Place branches at a step of the parent: at its row, or interpolated between two rows."""
        if not len(k):
            return
        up, step = parent[k], value[k]
        at = find_first_rows(self.rows.offsets, self.rows.step, up, step)
        first, stop = self.rows.offsets[up], self.rows.offsets[up + 1]
        for j, (edge, row) in enumerate(zip(k.tolist(), at.tolist(), strict=True)):
            run, low, high = int(child[edge]), int(first[j]), int(stop[j])
            s = float(step[j])
            if not np.isfinite(s):
                problem = "the declared step of the branch is no number"
            elif row < high and self.rows.step[row] == s:
                own[edge] = self.own[row]
                continue
            elif low < row < high:
                left, right = int(self.rows.step[row - 1]), int(self.rows.step[row])
                share = (s - left) / (right - left)
                own[edge] = self.own[row - 1] + round(share * int(self.own[row] - self.own[row - 1]))
                self.estimate[run] = f"branch at step {s:g}: between the parent's rows at steps {left} and {right}"
                continue
            elif row == low and s >= 0 and self.own[row] > 0 and self.rows.step[row] > 0 and self.start[up[j]] == 0:
                own[edge] = round(s / int(self.rows.step[row]) * int(self.own[row]))
                self.estimate[run] = (
                    f"branch at step {s:g}: before the parent's first row at step {self.rows.step[row]}"
                )
                continue
            else:
                near = self.rows.step[low] if row == low else self.rows.step[high - 1]
                where = "before the parent's first" if row == low else "beyond the parent's last"
                problem = f"step {s:g} lies {where} row at step {near}"
            self.problem[run] = self.problem[run] or f"branch unknown: {problem}"

    def _place_merge(self, run: int) -> None:
        edges = range(int(self.first_edge[run]), int(self.first_edge[run + 1]))
        parents = [(int(self.edges.parent[e]), int(self.edge_tokens[e])) for e in edges]
        history: dict[int, int] = {}
        for parent, own in parents:
            for ancestor, reached in self._history(parent, own).items():
                history[ancestor] = max(history.get(ancestor, 0), reached)
        self.merged[run] = history
        total = sum(history.values())
        if total > MOST:
            self.problem[run] = _BEYOND
            return
        self.start[run] = total
        self.compute[run] = 6.0 * sum(self.n_params[a] * t for a, t in history.items() if t)
        common, own = _common_part([self._path(parent, own) for parent, own in parents])
        self.curve_parent[run], self.curve_at[run] = common, own
        self.branch[run] = 0 if common < 0 else self.start[common] + own

    def _history(self, run: int, own: int) -> dict[int, int]:
        """Return the history of a run at own tokens `own`: the own tokens reached in it and in each ancestor."""
        history = {run: own}
        while run not in self.merged and self.curve_parent[run] >= 0:
            run, own = int(self.curve_parent[run]), int(self.curve_at[run])
            history[run] = own
        for ancestor, reached in self.merged.get(run, {}).items():
            history[ancestor] = max(history.get(ancestor, 0), reached)
        return history

    def _path(self, run: int, own: int) -> list[tuple[int, int]]:
        """Return the runs of a curve, beginning with its root, with the own tokens at which the curve leaves each."""
        path = [(run, own)]
        while self.curve_parent[run] >= 0:
            run, own = int(self.curve_parent[run]), int(self.curve_at[run])
            path.append((run, own))
        return path[::-1]


def _common_part(paths: Sequence[Sequence[tuple[int, int]]]) -> tuple[int, int]:
    """Return the run and its own tokens up to which all curves coincide; -1 where they have nothing in common."""
    run, own = -1, -1
    for links in zip(*paths, strict=False):
        if len({r for r, _ in links}) > 1:
            break
        run, own = links[0][0], min(t for _, t in links)
        if len({t for _, t in links}) > 1:
            break
    return run, own
