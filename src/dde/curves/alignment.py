"""Alignment: observations of runs and their ancestors onto one grid of cumulative tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dde.curves.observations import Observations
from dde.errors import UnknownNameError, near_names

__all__ = ["Chains", "Interpolation", "Method", "align", "interpolate"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

Method = Literal["linear", "log", "nearest", "previous", "pchip"]


@dataclass(frozen=True, slots=True)
class Interpolation:
    """How values between observations are made.

    Attributes
    ----------
    method : {"linear", "log", "nearest", "previous", "pchip"}
        In tokens, or in log tokens with the stretch from token 0 to the first positive observation linear.
    max_gap : int or None
        Longest distance in tokens between two observations that is filled; longer ones stay NaN.
    bridge : bool
        Whether an evaluation is joined across a branch that its parent has no observation at.

    Raises
    ------
    UnknownNameError
        When there is no such method, or `max_gap` is no whole number of tokens.
    """

    method: Method = "linear"
    max_gap: int | None = None
    bridge: bool = False

    def __post_init__(self) -> None:
        if self.max_gap is not None:
            is_number = isinstance(self.max_gap, (int, float, np.integer, np.floating))
            if not is_number or not 0 <= self.max_gap < 2**63 or int(self.max_gap) != self.max_gap:
                raise UnknownNameError(
                    f"max_gap={self.max_gap!r} is no whole number of tokens, so which gaps to leave open is unclear. "
                    "Pass a number such as 1_000_000_000, or None."
                )
            # Written as 1e9 it is a number, too.
            object.__setattr__(self, "max_gap", int(self.max_gap))
        if self.method not in get_args(Method):
            raise UnknownNameError(
                f"{self.method!r} is not a way to interpolate, so no value between observations can be made."
                f"{near_names(self.method, get_args(Method))} There are {', '.join(get_args(Method))}."
            )


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
        Whether a run merges several parents, so that nothing joins its curve to theirs; no run does when None.
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

    def upward(self, rows: Iterable[int]) -> list[int]:
        """Return runs with all their ancestors, parents before children."""
        found: set[int] = set()
        for row in rows:
            while row >= 0 and row not in found:
                found.add(row)
                row = int(self.parent[row])
        return sorted(found)

    def take(self, runs: Sequence[int]) -> Chains:
        """Return some runs, their ancestors among them, in that order."""
        at = np.asarray(runs, np.int64)
        number = np.full(len(self.run_ids) + 1, -1, np.int32)
        number[at] = np.arange(len(at))
        is_merge = None if self.is_merge is None else self.is_merge[at]
        return Chains(tuple(self.run_ids[r] for r in runs), number[self.parent[at]], self.branch[at], is_merge)


def interpolate(x: Int64, y: Float64, at: Int64, method: Method = "linear", max_gap: int | None = None) -> Float64:
    """Return one run's values at `at`: exact at observations, NaN outside of them.

    Parameters
    ----------
    x : (observation,) int64 array
        Tokens; ascending and distinct.
    y : (observation,) float64 array
        Values; no NaN.
    at : (point,) int64 array
        Tokens asked for; ascending.
    method, max_gap
        As in :class:`Interpolation`.

    Examples
    --------
    >>> interpolate(np.array([0, 10]), np.array([1.0, 2.0]), np.array([0, 5, 10, 11])).tolist()
    [1.0, 1.5, 2.0, nan]
    """
    out = np.full(len(at), np.nan)
    if not len(x) or not len(at):
        return out
    lo, hi = np.searchsorted(at, [x[0], x[-1] + 1])
    points = at[lo:hi]
    if not len(points):
        return out
    left = np.searchsorted(x, points, side="right") - 1
    exact = x[left] == points
    if exact.all():
        # Nothing lies between observations, as when the grid is made of them.
        out[lo:hi] = y[left]
        return out
    filled = _between(x, y, points, left, method)
    filled[exact] = y[left[exact]]
    if max_gap is not None:
        right = np.minimum(left + 1, len(x) - 1)
        filled[~exact & (x[right] - x[left] > max_gap)] = np.nan
    out[lo:hi] = filled
    return out


def _between(x: Int64, y: Float64, points: Int64, left: npt.NDArray[np.intp], method: Method) -> Float64:
    right = np.minimum(left + 1, len(x) - 1)
    if method == "linear":
        return np.interp(points, x, y)
    if method == "previous":
        return y[left].copy()
    if method == "nearest":
        # Halfway between two observations the earlier one counts.
        return np.where(points - x[left] <= x[right] - points, y[left], y[right])
    if method == "log":
        positive = x > 0
        first = int(np.argmax(positive)) if positive.any() else len(x)
        filled = np.interp(points, x, y)
        if first < len(x):
            later = points > x[first]
            filled[later] = np.interp(np.log(points[later]), np.log(x[first:]), y[first:])
        return filled
    if len(x) < 2 or not np.isfinite(y).all():
        # A monotone cubic needs two finite neighbours; an infinite value leaves its stretches undefined.
        return np.interp(points, x, y)
    from scipy.interpolate import PchipInterpolator

    return np.asarray(PchipInterpolator(x.astype(np.float64), y)(points), np.float64)


def align(
    chains: Chains,
    own: Observations,
    grid: Int64,
    how: Interpolation,
    joins_at_branch: bool,
    rows: Sequence[int] | None = None,
) -> Float64:
    """Return every run's continuous curve on the grid.

    Up to its branch a run's cells equal its parent's. Behind it, a metric that joins at the branch
    interpolates from the observation there, if there is one, else its curve begins at the run's own
    first observation.

    Parameters
    ----------
    chains : Chains
    own : Observations
        Own observations of `chains.run_ids`.
    grid : (token,) int64 array
        Ascending.
    how : Interpolation
    joins_at_branch : bool
        False for training logs, which never join.
    rows : sequence of int, optional
        Runs to return; all by default.

    Returns
    -------
    (run, token) float64 array
    """
    n_runs, n_tokens = len(chains.run_ids), len(grid)
    values = np.full((n_runs, n_tokens), np.nan)
    joins = chains.joins(joins_at_branch)
    for run in range(n_runs):
        x, y = own.of(run)
        parent, branch, start = int(chains.parent[run]), int(chains.branch[run]), 0
        if parent >= 0:
            # A run's own observations lie behind its branch; what is at the branch belongs to its parent.
            later = int(np.searchsorted(x, branch, side="right"))
            x, y = x[later:], y[later:]
            start = int(np.searchsorted(grid, branch, side="right"))
            values[run, :start] = values[parent, :start]
            if joins[run] and len(x):
                anchor = _last_observation(chains, own, parent, branch)
                if anchor is not None and (how.bridge or anchor[0] == branch):
                    x = np.concatenate([[anchor[0]], x])
                    y = np.concatenate([[anchor[1]], y])
        values[run, start:] = interpolate(x, y, grid[start:], how.method, how.max_gap)
    return values if rows is None else values[list(rows)]


def _last_observation(chains: Chains, own: Observations, run: int, tokens: int) -> tuple[int, float] | None:
    """Return the last observation of a run's continuous curve at or before `tokens`."""
    while run >= 0:
        x, y = own.of(run)
        at = int(np.searchsorted(x, tokens, side="right")) - 1
        branch = int(chains.branch[run])
        if at >= 0 and x[at] > branch:
            return int(x[at]), float(y[at])
        tokens = min(tokens, branch)
        run = int(chains.parent[run])
    return None
