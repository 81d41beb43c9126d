"""Alignment: observations of runs and their ancestors on one grid of cumulative tokens.

Where the points of a grid lie among the observations of runs is the same for every metric of one sampling. A plan finds
it once, for all runs and points. A metric then needs two lookups, a product and a sum for each cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64, Int64
from dde.curves.chains import Chains
from dde.curves.observations import Observations
from dde.errors import SelectionError, UnknownNameError, near_names
from dde.lineage.counts import is_real_number
from dde.lineage.ragged_rows import find_first_rows
from dde.native import LineCells, is_compiled, processors

__all__ = ["AlignmentPlan", "Interpolation", "Method", "align_observations", "plan_alignment", "without_missing"]


Method = Literal["linear", "log", "nearest", "previous", "pchip"]


@dataclass(frozen=True, slots=True)
class Interpolation:
    """How values between observations are made.

    Attributes
    ----------
    method : {"linear", "log", "nearest", "previous", "pchip"}
        In tokens, or in log tokens with the stretch from token 0 to the first positive observation linear.
    max_gap : int or None
        Longest distance in tokens between two observations that is filled; longer ones stay NaN. None, which
        `math.inf` becomes, fills all.
    bridge : bool
        Whether an evaluation is joined across a branch that its parent has no observation at.

    Raises
    ------
    UnknownNameError
        When there is no such method, or `max_gap` is not a whole number of tokens.
    """

    method: Method = "linear"
    max_gap: float | None = None
    bridge: bool = False

    def __post_init__(self) -> None:
        if is_real_number(self.max_gap) and self.max_gap == math.inf:
            object.__setattr__(self, "max_gap", None)
        if self.max_gap is not None:
            if not is_real_number(self.max_gap) or not 0 <= self.max_gap < 2**63 or int(self.max_gap) != self.max_gap:
                raise UnknownNameError(
                    f"max_gap={self.max_gap!r} is not a whole number of tokens, so which gaps stay open is unclear. "
                    "Pass a number such as 1_000_000_000, or math.inf to fill gaps of any length."
                )
            # Written as 1e9 it is a number, too.
            object.__setattr__(self, "max_gap", int(self.max_gap))
        if self.method not in get_args(Method):
            raise UnknownNameError(
                f"{self.method!r} is not a way to interpolate, so no value between observations can be made."
                f"{near_names(self.method, get_args(Method))} There are {', '.join(get_args(Method))}."
            )


# Length of a line over the tokens at its start, below which interpolation in log tokens is linear in tokens.
_SHORTEST_LOG = 2.0**-26
# Cells that NumPy fills at once; what these need fits into the cache of a processor.
_CELLS_AT_ONCE = 1 << 14
# Largest integer up to which all are exact as floats.
_MOST_EXACT = 2**53
# Starting threads takes as long as filling some 100,000 cells.
_THREADED_CELLS = 1 << 19


@dataclass(frozen=True, eq=False)
class AlignmentPlan:
    """Where the points of a grid lie among the observations of runs.

    The line to an observation begins at the observation before it on the curve of its run.

    Attributes
    ----------
    chains : Chains
    offsets, tokens : int64 arrays
        Of the observations; see :class:`dde.curves.observations.Observations`.
    grid : (token,) int64 array
        Ascending.
    how : Interpolation
    joins_at_branch : bool
    before : (observation,) int64 array
        Where the line to each observation begins: an observation of the run itself or of an ancestor; -1 where none
        does.
    width : (observation,) float64 array
        Length of the line to each observation, in tokens or log tokens.
    cell : (run, token) int64 array
        What each cell is, of `n` observations: observation ``cell`` below `n`, nothing at `n`, a point on the line to
        observation ``cell - n - 1`` above.
    distance : (run, token) float64 array, or None
        From the beginning of the line, in tokens or log tokens; None where each cell is an observation or nothing.
    lines : LineCells or None
        The same cells for the kernel; None where NumPy does the work.
    """

    chains: Chains
    offsets: Int64
    tokens: Int64
    grid: Int64
    how: Interpolation
    joins_at_branch: bool
    before: Int64
    width: Float64
    cell: Int64
    distance: Float64 | None
    lines: LineCells | None

    @property
    def size(self) -> int:
        """Number of cells; each takes up to 16 bytes."""
        return self.cell.size

    def serves(self, chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool) -> bool:
        """Return whether :func:`plan_alignment` would return an equal plan for these arguments."""
        return (
            self.how == how
            and self.joins_at_branch == joins_at_branch
            and self.chains.run_ids == chains.run_ids
            and np.array_equal(self.chains.parent, chains.parent)
            and np.array_equal(self.chains.branch, chains.branch)
            and np.array_equal(self.chains.joins(True), chains.joins(True))
            and np.array_equal(self.grid, grid)
            and np.array_equal(self.offsets, own.offsets)
            and np.array_equal(self.tokens, own.tokens)
        )

    def fill(self, values: Float64, rows: npt.NDArray[np.integer], at: npt.NDArray[np.integer], out: Float64) -> None:
        """Write the curves of runs for one metric.

        Parameters
        ----------
        values : (observation,) float64 array
            Of the observations of the plan; no NaN.
        rows : (row,) int array
            Runs of the chains, in any order; a run may occur several times.
        at : (row,) int array
            Row of `out` for each of them.
        out : (any, token) float64 array
        """
        size = max(_CELLS_AT_ONCE // max(len(self.grid), 1), 1)
        with np.errstate(invalid="ignore", over="ignore"):
            powers = self._coefficients(values)
            is_finite = all(np.isfinite(coefficients[len(values) + 1 :]).all() for coefficients in powers)
            if self.lines is not None and is_finite:
                self._fill_compiled(self.lines, powers, rows, at, out)
                return
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                cell = self.cell[some]
                made = powers[0].take(cell)
                if self.distance is not None:
                    distance = power = self.distance[some]
                    for coefficients in powers[1:]:
                        made += coefficients.take(cell) * power
                        power = power * distance
                    if not is_finite:
                        self._mend(made, cell, distance, values, powers[1])
                out[at[start : start + size]] = made

    def _fill_compiled(
        self,
        lines: LineCells,
        powers: Sequence[Float64],
        rows: npt.NDArray[np.integer],
        at: npt.NDArray[np.integer],
        out: Float64,
    ) -> None:
        start, slope = powers
        runs, places = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(at, np.int64)
        parts = processors() if len(rows) * len(self.grid) >= _THREADED_CELLS else 1
        bounds = np.linspace(0, len(rows), parts + 1).astype(int).tolist()

        def fill_part(k: int) -> None:
            part = slice(bounds[k], bounds[k + 1])
            lines.fill(start, slope, runs[part], places[part], out)

        if parts == 1:
            fill_part(0)
            return
        with ThreadPoolExecutor(parts) as threads:
            list(threads.map(fill_part, range(parts)))

    def _coefficients(self, values: Float64) -> list[Float64]:
        """Return coefficients of the distance to the power of 0, 1, ... for all that a cell can be.

        Powers of an observation have the coefficient -0.0, so that its value stays as it is, even if that is -0.0.
        """
        n = len(values)
        if self.distance is None:
            return [np.append(values, np.nan)]
        # One array, written in place: memory that is used for the first time costs more than the arithmetic.
        first, slope = np.empty((2, 2 * n + 1))
        first[:n], first[n], slope[: n + 1] = values, np.nan, -0.0
        start, of_lines = first[n + 1 :], slope[n + 1 :]
        np.take(values, self.before, out=start, mode="wrap")
        np.subtract(values, start, out=of_lines)
        # Observations that no curve shows, such as those at or before a branch, may have none.
        has_width = self.width > 0
        np.divide(of_lines, self.width, out=of_lines, where=has_width)
        of_lines[~has_width] = 0.0
        powers = [first, slope]
        if self.how.method == "pchip":
            powers += [np.full(2 * n + 1, -0.0) for _ in range(2)]
            self._add_cubics(values, powers)
        return powers

    def _add_cubics(self, values: Float64, powers: list[Float64]) -> None:
        """Replace the lines of runs by monotone cubics."""
        from scipy.interpolate import PchipInterpolator

        for first, stop in zip(_first_own(self.chains, self.offsets, self.tokens), self.offsets[1:], strict=True):
            knots = np.arange(first, stop)
            if len(knots) and self.before[first] >= 0:
                knots = np.append(self.before[first], knots)
            # A monotone cubic needs two knots, and an infinite value makes all of it undefined.
            if len(knots) > 1 and np.isfinite(values[knots]).all():
                cubics = PchipInterpolator(self._knots_as_floats(knots), values[knots]).c
                for coefficients, cubic in zip(powers, cubics[::-1], strict=True):
                    coefficients[len(values) + 1 + knots[1:]] = cubic

    def _knots_as_floats(self, knots: Int64) -> Float64:
        """Return the tokens of observations of one curve from the first of them on.

        Raises
        ------
        SelectionError
            When floats do not tell them apart exactly.
        """
        distance = self.tokens[knots] - self.tokens[knots[0]]
        if distance[-1] > _MOST_EXACT:
            run = self.chains.run_ids[int(np.searchsorted(self.offsets, knots[-1], side="right")) - 1]
            raise SelectionError(
                f"the observations of run {run!r} span {distance[-1]:,} tokens, more than {_MOST_EXACT:,}, so a "
                "monotone cubic through them is not exact. Choose another interpolation, such as "
                "interp='linear', or leave out the run."
            )
        return np.asarray(distance, np.float64)

    def _mend(self, made: Float64, cell: Int64, distance: Float64, values: Float64, slope: Float64) -> None:
        """Fill cells on lines from an infinite observation, which are NaN, from the end of the line."""
        row, point = np.nonzero(np.isnan(made) & (cell > len(values)))
        line = cell[row, point]
        last = line - len(values) - 1
        start, stop = values[self.before[last]], values[last]
        value = slope[line] * (distance[row, point] - self.width[last]) + stop
        made[row, point] = np.where(np.isnan(value) & (start == stop), start, value)


def plan_alignment(
    chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool
) -> AlignmentPlan:
    """Return where the points of a grid lie among the observations of runs.

    Parameters
    ----------
    chains, own, grid, how, joins_at_branch
        As for :func:`align_observations`. A place among `own` counts as an observation, whatever its value.
    """
    offsets, tokens, n = own.offsets, own.tokens, len(own.tokens)
    first = _first_own(chains, offsets, tokens)
    before = _previous_observations(chains, offsets, tokens, first, how.bridge, joins_at_branch)
    has_line = before >= 0
    if how.max_gap is not None:
        has_line &= tokens - tokens[before] <= how.max_gap
    begin = np.searchsorted(grid, chains.branch, side="right")
    plan = partial(AlignmentPlan, chains, offsets, tokens, grid, how, joins_at_branch, before)
    if how.method in ("nearest", "previous"):
        following = _following_observations(chains, offsets, tokens, first, grid, begin)
        is_observed = np.append(tokens, -1).take(following) == grid
        cell = np.append(np.where(has_line, before, n), n).take(following)
        if how.method == "nearest":
            # Halfway between two observations the earlier one counts.
            ends = np.append(tokens, 0)
            is_later = (cell < n) & (ends.take(following) - grid < grid - ends.take(cell))
            np.copyto(cell, following, where=is_later)
        np.copyto(cell, following, where=is_observed)
        return plan(np.zeros(n), cell, None, None)
    start = tokens[before]
    width, origin, is_plain, points = _lines(tokens, start, grid, is_log=how.method == "log")
    if is_compiled() and how.method != "pchip":
        lines = LineCells(
            parent=chains.parent.astype(np.int64),
            begin=begin,
            first=first,
            stop=offsets[1:].astype(np.int64),
            tokens=np.ascontiguousarray(tokens, np.int64),
            has_line=has_line,
            start=start.astype(np.int64),
            origin=origin,
            is_plain=is_plain,
            grid=np.ascontiguousarray(grid, np.int64),
            points=points,
        )
        return plan(width, lines.line, lines.distance, lines)
    following = _following_observations(chains, offsets, tokens, first, grid, begin)
    cell = np.append(np.where(has_line, np.arange(n + 1, 2 * n + 1), n), n).take(following)
    np.copyto(cell, following, where=np.append(tokens, -1).take(following) == grid)
    no_line = np.zeros(n + 1, np.int64)
    distance = points - np.concatenate([no_line, origin]).take(cell)
    in_tokens = grid - np.concatenate([no_line, start]).take(cell)
    np.copyto(distance, in_tokens, where=np.concatenate([no_line > 0, is_plain]).take(cell))
    return plan(width, cell, distance, None)


def _following_observations(
    chains: Chains, offsets: Int64, tokens: Int64, first: Int64, grid: Int64, begin: Int64
) -> Int64:
    """Return the observation at or after each point on the curve of each run; their number where there is none."""
    following = np.full((len(chains.run_ids), len(grid)), len(tokens))
    own = zip(begin.tolist(), first.tolist(), offsets[1:].tolist(), chains.parent.tolist(), strict=True)
    for run, (start, low, high, parent) in enumerate(own):
        here = following[run]
        if parent >= 0:
            here[:start] = following[parent, :start]
        if low < high:
            points = grid[start : np.searchsorted(grid, tokens[high - 1], side="right")]
            here[start : start + len(points)] = tokens[low:high].searchsorted(points) + low
    return following


def _first_own(chains: Chains, offsets: Int64, tokens: Int64) -> Int64:
    """Return the first observation of each run after its branch: one at the branch belongs to its parent."""
    return find_first_rows(offsets, tokens, np.arange(len(chains.run_ids)), chains.branch, "right")


def _previous_observations(
    chains: Chains, offsets: Int64, tokens: Int64, first: Int64, bridge: bool, joins_at_branch: bool
) -> Int64:
    """Return the observation before each one on the curve of its run; -1 where there is none."""
    before = np.arange(-1, len(tokens) - 1)
    has_own = first < offsets[1:]
    before[first[has_own]] = -1
    # Search the parents of runs that may join their parent's curve, then the parents of these, and so on.
    run = np.flatnonzero(chains.joins(joins_at_branch) & has_own)
    ancestor, bound = chains.parent[run], chains.branch[run]
    while len(run := run[ancestor >= 0]):
        ancestor, bound = ancestor[ancestor >= 0], bound[ancestor >= 0]
        last = find_first_rows(offsets, tokens, ancestor, bound, "right") - 1
        is_found = last >= _first_own(chains, offsets, tokens)[ancestor]
        joins = is_found & (tokens.take(last, mode="clip") == chains.branch[run]) | (is_found & bridge)
        before[first[run[joins]]] = last[joins]
        run, bound = run[~is_found], np.minimum(bound, chains.branch[ancestor])[~is_found]
        ancestor = chains.parent[ancestor[~is_found]]
    return before


def _lines(tokens: Int64, start: Int64, grid: Int64, is_log: bool) -> tuple[Float64, Float64, Bool, Float64]:
    """Return the lengths of lines, where they begin, whether they are linear in tokens, and the points of the grid.

    Lengths of lines that are linear in tokens are in tokens. The others, where they begin, and the points are in log
    tokens.
    """
    # Subtracted as integers: tokens beyond 2 ** 53 are not exact as floats.
    lengths = tokens - start
    if not is_log:
        return lengths.astype(np.float64), np.zeros(len(tokens)), np.ones(len(tokens), bool), np.zeros(len(grid))
    # Token 0 has no logarithm. On a line as short as this, log tokens are linear to eight digits, which differences of
    # logarithms are not.
    is_plain = lengths <= start * _SHORTEST_LOG
    is_plain |= start == 0
    origin, points = np.log(np.maximum(start, 1)), np.log(np.maximum(grid, 1))
    return np.where(is_plain, lengths, np.log(np.maximum(tokens, 1)) - origin), origin, is_plain, points


def without_missing(own: Observations) -> Observations:
    """Return the observations without the places that the metric has no sample at."""
    some = ~np.isnan(own.values)
    if some.all():
        return own
    offsets = np.concatenate([[0], np.cumsum(some)])[own.offsets]
    return Observations(offsets, own.tokens[some], own.step[some], own.values[some])


def align_observations(
    chains: Chains, own: Observations, grid: Int64, how: Interpolation, joins_at_branch: bool
) -> Float64:
    """Return the continuous curve of every run on a grid.

    Up to its branch a run's cells equal its parent's. After it, a metric that joins at the branch interpolates from the
    observation there, if there is one; otherwise the curve begins at the run's own first observation. Cells are exact
    at observations, and NaN outside of them.

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

    Returns
    -------
    (run, token) float64 array

    Examples
    --------
    >>> chains = Chains(("base", "sft"), np.array([-1, 0], np.int32), np.array([-1, 10]))
    >>> tokens = np.array([0, 10, 20])
    >>> own = Observations(np.array([0, 2, 3]), tokens, tokens, np.array([1.0, 2.0, 4.0]))
    >>> align_observations(chains, own, np.array([0, 5, 10, 15, 20]), Interpolation(), joins_at_branch=True).tolist()
    [[1.0, 1.5, 2.0, nan, nan], [1.0, 1.5, 2.0, 3.0, 4.0]]
    """
    own = without_missing(own)
    rows = np.arange(len(chains.run_ids))
    curves = np.empty((len(rows), len(grid)))
    plan_alignment(chains, own, grid, how, joins_at_branch).fill(own.values, rows, rows, curves)
    return curves
