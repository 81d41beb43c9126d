"""Alignment by kernels: where points lie among observations is found once, and used for every metric."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import INTERPOLATED, OBSERVED, OUTSIDE, Chains, Interpolation, align
from dde.curves.observations import Observations
from dde.native import Plan, address, library, processors

__all__ = ["AlignmentPlan", "plan_alignment"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# Numbers in curves.c. A monotone cubic is SciPy's.
_METHODS = {"linear": 0, "log": 1, "nearest": 2, "previous": 3}
# Starting threads takes as long as filling some 100 KB.
_THREADED_CELLS = 1 << 19
# 16 bytes each.
_SCRATCH_PIECES = 1 << 20


@dataclass(frozen=True, eq=False)
class AlignmentPlan:
    """How curves of runs on a grid are made of their observations, for every metric observed at the same tokens.

    Attributes
    ----------
    chains : Chains
    offsets, tokens : arrays
        Of the observations; see :class:`dde.curves.observations.Observations`.
    grid : (token,) int64 array
    how : Interpolation
    joins_at_branch : bool
    piece : (run, token) int32 array, along : (run, token) float64 array
        What each cell is made of, and where along that it lies; see curves.c. Empty where NumPy does the work.
    before : (observation,) int64 array, width : (observation,) float64 array
        The lines between observations.
    """

    chains: Chains
    offsets: Int64
    tokens: Int64
    grid: Int64
    how: Interpolation
    joins_at_branch: bool
    piece: npt.NDArray[np.int32]
    along: Float64
    before: Int64
    width: Float64

    def serves(self, chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool) -> bool:
        """Return whether it is the plan for these."""
        return (
            self.how == how
            and self.joins_at_branch == joins_at_branch
            and self.chains.run_ids == chains.run_ids
            and np.array_equal(self.grid, grid)
            and np.array_equal(self.offsets, own.offsets)
            and np.array_equal(self.tokens, own.tokens)
        )

    def fill(
        self,
        own: Observations,
        rows: Sequence[int] | Int64,
        at: npt.NDArray[np.intp],
        out: Float64,
        codes: npt.NDArray[np.int8] | None = None,
    ) -> None:
        """Put the curves of runs where they belong.

        Parameters
        ----------
        own : Observations
            Of a metric that the plan serves.
        rows : (asked,) sequence of int
            Runs of the chains; one may stand several times.
        at : (asked,) int array
            Row of `out` that each of them goes to.
        out : (row, token) float64 array
            Contiguous.
        codes : (row, token) int8 array, optional
            Where their support goes.
        """
        kernels = library()
        count, points = len(own.values), len(self.grid)
        pieces = _scratch(2 * count + 1)
        values = np.ascontiguousarray(own.values, np.float64)
        if not (
            kernels is not None
            and self.piece.size
            and kernels.dde_pieces(count, address(self.before), address(self.width), address(values), address(pieces))
        ):
            # Lines from and to infinity are among them, or a method that has no kernel.
            made, support = align(
                self.chains, own, self.grid, self.how, self.joins_at_branch, codes is not None, list(rows)
            )
            out[at] = made
            if codes is not None and support is not None:
                codes[at] = support
            return
        places, runs = np.ascontiguousarray(at, np.int64), np.ascontiguousarray(rows, np.int64)

        def fill_part(start: int, stop: int) -> None:
            kernels.dde_fill(
                *(address(pieces), address(self.piece), address(self.along), points),
                *(stop - start, address(runs[start:stop]), address(places[start:stop]), address(out)),
            )

        _in_parts(fill_part, len(runs), points)
        if codes is not None:
            asked = self.piece[runs]
            is_seen = (asked % 2 == 0) & (self.along[runs] == 1.0)
            codes[at] = np.where(asked == 2 * count, OUTSIDE, np.where(is_seen, OBSERVED, INTERPOLATED))


def plan_alignment(
    chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool
) -> AlignmentPlan:
    """Return how curves of runs on a grid are made of their observations.

    Parameters
    ----------
    chains, own, grid, how, joins_at_branch
        As for :func:`dde.curves.alignment.align`. Of the observations only places count, not values.
    """
    kernels = library()
    n_runs, count = len(chains.run_ids), len(own.tokens)
    shape = (n_runs, len(grid)) if kernels is not None and how.method in _METHODS else (0, 0)
    grid, tokens, offsets = (np.ascontiguousarray(x, np.int64) for x in (grid, own.tokens, own.offsets))
    plan = AlignmentPlan(
        *(chains, offsets, tokens, grid, how, joins_at_branch),
        *(np.empty(shape, np.int32), np.empty(shape), np.empty(count, np.int64), np.empty(count)),
    )
    if kernels is None or not plan.piece.size:
        return plan
    with np.errstate(divide="ignore"):
        log_tokens, log_grid = (np.log(x) if how.method == "log" else None for x in (tokens, grid))
    held: list[npt.NDArray[Any]] = [
        np.ascontiguousarray(chains.parent, np.int32),
        np.ascontiguousarray(chains.branch, np.int64),
    ]
    task = Plan(
        n_runs=n_runs,
        parent=address(held[0]),
        branch=address(held[1]),
        offsets=address(offsets),
        tokens=address(tokens),
        log_tokens=None if log_tokens is None else address(log_tokens),
        n_points=len(grid),
        grid=address(grid),
        log_grid=None if log_grid is None else address(log_grid),
        method=_METHODS[how.method],
        joins=joins_at_branch,
        bridges=how.bridge,
        max_gap=-1 if how.max_gap is None else int(how.max_gap),
        piece=address(plan.piece),
        along=address(plan.along),
        before=address(plan.before),
        width=address(plan.width),
    )
    parts = processors() if plan.piece.size >= _THREADED_CELLS else 1

    def plan_part(part: int, _: int) -> None:
        roots = np.empty(n_runs, np.int32)
        kernels.dde_plan(ctypes.byref(task), part, parts, address(roots))

    _in_threads(plan_part, [(part, part + 1) for part in range(parts)])
    return plan


_HELD = threading.local()


def _scratch(pieces: int) -> Float64:
    """Return room for pieces, which this thread keeps: memory used for the first time costs more than filling it."""
    room: Float64 | None = getattr(_HELD, "room", None)
    if room is None or len(room) < pieces:
        room = np.empty((pieces, 2))
        if pieces <= _SCRATCH_PIECES:
            _HELD.room = room
    return room


def _in_parts(work: Callable[[int, int], None], rows: int, points: int) -> None:
    """Do rows in as many parts as there are processors, where they are many."""
    parts = processors() if rows * points >= _THREADED_CELLS else 1
    bounds = [rows * k // parts for k in range(parts + 1)]
    _in_threads(work, list(pairwise(bounds)))


def _in_threads(work: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    if len(parts) == 1:
        work(*parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as threads:
        for _ in threads.map(work, *zip(*parts, strict=True)):
            pass
