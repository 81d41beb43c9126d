"""Runs with their ancestors, the points along their curves, and the protocol of sources of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64
from dde.curves.metric import Metric
from dde.curves.observations import Observations
from dde.lineage.ragged_rows import find_first_rows, rows_between
from dde.lineage.run_table import RunTable

__all__ = [
    "Chains",
    "CurvePoints",
    "RunSource",
    "chains_in_table",
    "points_on_curves",
]


_MOST_TOKENS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Chains:
    """Runs with their ancestors, parents before children.

    Attributes
    ----------
    run_ids : tuple of str
    parent : (run,) int32 array
        Index of the parent; -1 for a pretraining run.
    branch : (run,) int64 array
        Cumulative tokens at the branch; -1 for a pretraining run.
    is_merge : (run,) bool array, optional
        Whether a run merges several parents, so that its curve does not join theirs; None when no run does.
    """

    run_ids: tuple[str, ...]
    parent: npt.NDArray[np.int32]
    branch: Int64
    is_merge: npt.NDArray[np.bool_] | None = None

    def joins(self, joins_at_branch: bool) -> npt.NDArray[np.bool_]:
        """Return which curves may begin with their parent's observation at the branch."""
        if self.is_merge is None or not joins_at_branch:
            return np.full(len(self.run_ids), joins_at_branch)
        return ~self.is_merge

    def origins(self) -> Int64:
        """Return where the chain of each run left its base, in cumulative tokens; -1 for a pretraining run."""
        origin = self.branch.copy()
        for run, parent in enumerate(self.parent.tolist()):
            if parent >= 0 and self.parent[parent] >= 0:
                origin[run] = origin[parent]
        return origin

    def take(self, runs: Sequence[int]) -> Chains:
        """Return some runs, their ancestors among them, in that order."""
        at = np.asarray(runs, np.int64)
        # The last entry maps parent -1 to -1.
        new_index = np.full(len(self.run_ids) + 1, -1, np.int32)
        new_index[at] = np.arange(len(at))
        is_merge = None if self.is_merge is None else self.is_merge[at]
        return Chains(tuple(self.run_ids[r] for r in runs), new_index[self.parent[at]], self.branch[at], is_merge)


@dataclass(frozen=True, slots=True)
class CurvePoints:
    """Points of several runs on the axis of cumulative tokens.

    Attributes
    ----------
    offsets : (run + 1,) int64 array
        Points of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    tokens : (point,) int64 array
        Ascending and distinct within a run.
    """

    offsets: Int64
    tokens: Int64

    @classmethod
    def where(cls, offsets: Int64, tokens: Int64, mask: npt.NDArray[np.bool_]) -> CurvePoints:
        """Return some of the points that runs have.

        Examples
        --------
        >>> some = CurvePoints.where(np.array([0, 2, 3]), np.array([10, 20, 15]), np.array([False, True, True]))
        >>> some.offsets.tolist(), some.tokens.tolist()
        ([0, 1, 2], [20, 15])
        """
        return cls(np.concatenate([[0], np.cumsum(mask)])[offsets], tokens[mask])

    def are_in(self, other: CurvePoints) -> npt.NDArray[np.bool_]:
        """Return which points are points of the same run in `other`, too.

        Examples
        --------
        >>> some = CurvePoints(np.array([0, 2, 3]), np.array([10, 20, 15]))
        >>> some.are_in(CurvePoints(np.array([0, 1, 3]), np.array([20, 10, 15]))).tolist()
        [False, True, True]
        """
        # Tokens by their rank: run and tokens together would not fit one number of 64 bits.
        distinct, rank = np.unique(np.concatenate([self.tokens, other.tokens]), return_inverse=True)
        run = np.concatenate([np.repeat(np.arange(len(p.offsets) - 1), np.diff(p.offsets)) for p in (self, other)])
        keys = run * len(distinct) + rank
        own = len(self.tokens)
        return np.isin(keys[:own], keys[own:])

    def first_after(self, run: Int64, bound: Int64) -> Int64:
        """Return the index into `tokens` of the first point of each run after a number of tokens.

        Parameters
        ----------
        run, bound : (query,) int64 arrays
            A run, and tokens after which its points are counted.

        Examples
        --------
        >>> points = CurvePoints(np.array([0, 2, 3]), np.array([10, 20, 15]))
        >>> points.first_after(np.array([0, 0, 1]), np.array([10, 5, 99])).tolist()
        [1, 0, 3]
        """
        return find_first_rows(self.offsets, self.tokens, run, bound, "right")


def chains_in_table(table: RunTable, run_ids: Sequence[str]) -> Chains:
    """Return runs of a table with all ancestors on their curves, parents before children."""
    rows = table.with_ancestors(table.rows(run_ids))
    # The last entry maps parent -1 to -1.
    new_index = np.full(len(table) + 1, -1, np.int32)
    new_index[rows] = np.arange(len(rows))
    parent = table.curve_parent[rows]
    return Chains(
        tuple(table.run_id[rows].tolist()),
        new_index[parent],
        np.where(parent >= 0, table.branch_tokens[rows], -1),
        table.n_parents[rows] > 1,
    )


def points_on_curves(chains: Chains, rows: Int64, points: CurvePoints) -> tuple[npt.NDArray[np.intp], Int64]:
    """Return the points on the continuous curves of runs: ancestors' up to each branch, then the run's own.

    Parameters
    ----------
    chains : Chains
    rows : (row,) int64 array
        Runs whose curves are requested; a run may occur several times.
    points : CurvePoints
        Points of each run of `chains` itself.

    Returns
    -------
    row : (point,) int array
        Position along `rows`.
    tokens : (point,) int64 array

    Examples
    --------
    >>> chains = Chains(("base", "sft"), np.array([-1, 0], np.int32), np.array([-1, 20]))
    >>> points = CurvePoints(np.array([0, 3, 4]), np.array([10, 20, 30, 25]))
    >>> row, tokens = points_on_curves(chains, np.array([1]), points)
    >>> sorted(tokens.tolist())
    [10, 20, 25]
    """
    # Walk up all chains at once: `run` is the current ancestor of the curve at position `row`.
    run, row = np.asarray(rows, np.int64), np.arange(len(rows))
    limit = np.full(len(run), _MOST_TOKENS)
    none = np.empty(0, np.intp)
    rows_of_points, indices = [none], [none]
    while len(run):
        branch = chains.branch[run]
        first, last = points.first_after(run, branch), points.first_after(run, limit)
        indices.append(rows_between(first, last))
        rows_of_points.append(np.repeat(row, np.maximum(last - first, 0)))
        parent = chains.parent[run]
        has_parent = parent >= 0
        run, row = parent[has_parent].astype(np.int64), row[has_parent]
        limit = np.minimum(limit[has_parent], branch[has_parent])
    return np.concatenate(rows_of_points), points.tokens[np.concatenate(indices)]


class RunSource(Protocol):
    """Protocol: the runs of a suite as a source of the observations along their curves."""

    def chains(self, run_ids: Sequence[str]) -> Chains:
        """Return runs with all ancestors on their curves, parents before children."""
        ...

    def table_sampling(self, metric: Metric) -> str:
        """Return the sampling that a metric shares with others; "" where the metric has its own sampling."""
        ...

    def sampled_points(self, sampling: str, chains: Chains) -> CurvePoints:
        """Return the points at which runs themselves were sampled in a sampling that several metrics share."""
        ...

    def observations(self, metric: Metric, run_ids: tuple[str, ...], variables: Sequence[Metric]) -> Observations:
        """Return the own observations of a metric; other `variables` that are read with it are cached."""
        ...
