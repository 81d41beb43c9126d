"""Alignment by kernels: where points lie among observations is found once, and used for every metric."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dde.curves.alignment import Chains, Interpolation, align
from dde.curves.observations import Observations
from dde.native import METHODS, CurvePlan, is_compiled, processors

__all__ = ["AlignmentPlan", "plan_alignment"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_Result = TypeVar("_Result")

# Starting threads takes as long as filling some 100 KB.
_THREADED_CELLS = 1 << 19
# Observations whose lines, 36 bytes each, a thread keeps room for.
_SCRATCH_LINES = 1 << 20


@dataclass(frozen=True, eq=False)
class AlignmentPlan:
    """How curves of runs on a grid are made of their observations, for every metric observed at the same tokens.

    Attributes
    ----------
    chains : Chains
    offsets, tokens : arrays
        Of the observations; see :class:`dde.curves.observations.Observations`.
    grid : (token,) int64 array
        Ascending.
    how : Interpolation
    joins_at_branch : bool
    kernel : CurvePlan or None
        All of that for the kernels; None where NumPy does the work.
    """

    chains: Chains
    offsets: Int64
    tokens: Int64
    grid: Int64
    how: Interpolation
    joins_at_branch: bool
    kernel: CurvePlan | None

    @property
    def size(self) -> int:
        """Cells that are kept, 4 bytes each."""
        return 0 if self.kernel is None else self.kernel.cell.size

    def serves(self, chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool) -> bool:
        """Return whether it is the plan for these."""
        return (
            self.how == how
            and self.joins_at_branch == joins_at_branch
            and self.chains.run_ids == chains.run_ids
            and np.array_equal(self.chains.joins(True), chains.joins(True))
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
        """
        runs, places = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(at, np.int64)
        values = np.ascontiguousarray(own.values, np.float64)
        if not self._filled(values, runs, places, out):
            # Lines from and to infinity are among them, or a method that has no kernel.
            out[at] = align(self.chains, own, self.grid, self.how, self.joins_at_branch, runs.tolist())

    def _filled(self, values: Float64, runs: Int64, places: Int64, out: Float64) -> bool:
        """Fill by kernel; return whether that could be done."""
        kernel = self.kernel
        if kernel is None:
            return False
        if (runs[1:] < runs[:-1]).any():
            order = np.argsort(runs, kind="stable")
            runs, places = runs[order], places[order]
        room = _room(len(values) + 1 + len(self.chains.run_ids))
        parts = processors() if len(runs) * len(self.grid) >= _THREADED_CELLS else 1

        def fill_part(part: int, is_simple: bool) -> bool:
            return kernel.fill(values, runs, places, out, is_simple=is_simple, room=room, part=part, parts=parts)

        # The simple form soon finds where it won't do.
        simple = self.how.method == "linear" and self.how.max_gap is None
        forms = [True, False] if simple else [False]
        return any(all(_in_threads(partial(fill_part, is_simple=form), parts)) for form in forms)


def plan_alignment(
    chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool
) -> AlignmentPlan:
    """Return how curves of runs on a grid are made of their observations.

    Parameters
    ----------
    chains, own, grid, how, joins_at_branch
        As for :func:`dde.curves.alignment.align`. Of the observations only places count, not values.
    """
    grid, tokens, offsets = (np.ascontiguousarray(x, np.int64) for x in (grid, own.tokens, own.offsets))
    plan = partial(AlignmentPlan, chains, offsets, tokens, grid, how, joins_at_branch)
    n_runs, count = len(chains.run_ids), len(tokens)
    # A monotone cubic is SciPy's.
    has_kernel = is_compiled() and how.method in METHODS and CurvePlan.can_number(n_runs, count)
    if not has_kernel or not n_runs or not len(grid):
        return plan(None)
    is_log = how.method == "log"
    parent = np.ascontiguousarray(chains.parent, np.int32)
    with np.errstate(divide="ignore"):
        own_places, log_points = (np.log(x) if is_log else x.astype(np.float64) for x in (tokens, grid))
    kernel = CurvePlan(
        parent=parent,
        root=_roots(parent),
        branch=np.ascontiguousarray(chains.branch, np.int64),
        joins=chains.joins(joins_at_branch).view(np.uint8),
        offsets=offsets,
        tokens=tokens,
        places=np.concatenate([own_places, np.full(n_runs + 1, np.nan)]),
        grid=grid,
        points=grid.astype(np.float64),
        log_points=log_points,
        method=how.method,
        bridges=how.bridge,
        max_gap=-1 if how.max_gap is None else how.max_gap,
    )
    parts = processors() if kernel.cell.size >= _THREADED_CELLS else 1
    _in_threads(lambda part: kernel.place(part, parts), parts)
    return plan(kernel)


def _roots(parent: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the run without a parent that each run derives from."""
    root = np.where(parent < 0, np.arange(len(parent), dtype=np.int32), parent)
    while not np.array_equal(root, above := root[root]):
        root = above
    return root


_HELD = threading.local()


def _room(lines: int) -> tuple[Float64, npt.NDArray[np.int32]]:
    """Return room for lines, which this thread keeps: memory used for the first time costs more than filling it."""
    room: tuple[Float64, npt.NDArray[np.int32]] | None = getattr(_HELD, "room", None)
    if room is None or len(room[0]) < lines:
        room = np.empty((lines, 4)), np.empty(lines, np.int32)
        if lines <= _SCRATCH_LINES:
            _HELD.room = room
    return room


def _in_threads(work: Callable[[int], _Result], parts: int) -> list[_Result]:
    """Do every part at once."""
    if parts == 1:
        return [work(0)]
    with ThreadPoolExecutor(parts) as threads:
        return list(threads.map(work, range(parts)))
