"""Runs with their ancestors, and points along their curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import Chains
from dde.relations.run_positions import RunPositions

__all__ = ["CurvePoints", "build_chains", "points_on_curves"]

Int64 = npt.NDArray[np.int64]

# Bits of a compound key that are left for tokens: 1.1e15 of them, of 8,192 runs.
_TOKEN_BITS = 50
_MOST_TOKENS = (1 << _TOKEN_BITS) - 1


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

    def keys(self) -> Int64:
        """Return run and tokens of each point as one number; ascending."""
        run = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return (run << _TOKEN_BITS) | self.tokens


def build_chains(registry: RunPositions, run_ids: list[str]) -> Chains:
    """Return the runs with all their ancestors, parents before children."""
    number: dict[str, int] = {}
    parents: list[int] = []
    branches: list[int] = []
    for run_id in run_ids:
        above = -1
        for member in registry.chain(run_id):
            if member not in number:
                number[member] = len(number)
                parents.append(above)
                placed = registry.placed.get(member)
                branches.append(-1 if placed is None or placed.branch_tokens is None else placed.branch_tokens)
            above = number[member]
    return Chains(tuple(number), np.array(parents, np.int32), np.array(branches, np.int64))


def points_on_curves(chains: Chains, rows: Int64, points: CurvePoints) -> tuple[npt.NDArray[np.intp], Int64]:
    """Return the points on the continuous curves of runs: ancestors' up to each branch, then the run's own.

    Parameters
    ----------
    chains : Chains
    rows : (row,) int64 array
        Runs whose curves are wanted; one may stand several times.
    points : CurvePoints
        Points of each run of `chains` itself.

    Returns
    -------
    row : (found,) int array
        Position along `rows`.
    tokens : (found,) int64 array

    Examples
    --------
    >>> chains = Chains(("base", "sft"), np.array([-1, 0], np.int32), np.array([-1, 20]))
    >>> points = CurvePoints(np.array([0, 3, 4]), np.array([10, 20, 30, 25]))
    >>> row, tokens = points_on_curves(chains, np.array([1]), points)
    >>> sorted(tokens.tolist())
    [10, 20, 25]
    """
    keys = points.keys()
    member, number = np.asarray(rows, np.int64), np.arange(len(rows))
    limit = np.full(len(member), _MOST_TOKENS)
    found: list[npt.NDArray[np.intp]] = []
    places: list[npt.NDArray[np.intp]] = []
    while len(member):
        branch = chains.branch[member]
        first = np.searchsorted(keys, (member << _TOKEN_BITS) + branch + 1)
        last = np.searchsorted(keys, (member << _TOKEN_BITS) | limit, side="right")
        counts = np.maximum(last - first, 0)
        ends = np.cumsum(counts)
        places.append(np.repeat(first - ends + counts, counts) + np.arange(ends[-1]))
        found.append(np.repeat(number, counts))
        parent = chains.parent[member]
        above = parent >= 0
        member, number = parent[above].astype(np.int64), number[above]
        limit = np.minimum(limit[above], branch[above])
    none = np.empty(0, np.intp)
    return np.concatenate([none, *found]), points.tokens[np.concatenate([none, *places])]
