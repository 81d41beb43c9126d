"""Fill the cells of a grid with the curves of runs: exact at samples, NaN where a sample is missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.curves.alignment import AlignmentPlan, Interpolation, plan_alignment, without_missing
from dde.curves.chains import Chains, CurvePoints, points_on_curves
from dde.curves.observations import Observations
from dde.lineage.ragged_rows import with_ancestors

__all__ = ["Curves", "mark_points"]


# Cells of a plan that is cached for the next metrics, 16 bytes each.
_CACHED_CELLS = 1 << 21


@dataclass(frozen=True, eq=False)
class Curves:
    """Continuous curves of runs for one metric.

    Attributes
    ----------
    chains : Chains
    own : Observations
        Own observations of `chains.run_ids`.
    missing : CurvePoints or None
        Points at which runs were sampled but the metric has no sample: their cells are NaN.
    joins_at_branch : bool
        Whether a curve may begin with its parent's observation at the branch.
    """

    chains: Chains
    own: Observations
    missing: CurvePoints | None
    joins_at_branch: bool

    def fill(
        self,
        out: Float64,
        at: npt.NDArray[np.intp],
        rows: Int64,
        grid: Int64,
        how: Interpolation,
        plans: deque[AlignmentPlan],
    ) -> None:
        """Put the curves of runs on a grid.

        Parameters
        ----------
        out : (row, token) float64 array
            Contiguous.
        at : (curve,) int array
            Row of `out` that each curve goes to.
        rows : (curve,) int64 array
            Runs of `chains`.
        grid : (token,) int64 array
            Ascending.
        how : Interpolation
        plans : deque of AlignmentPlan
            Plans of recent metrics, which are often observed at the same tokens; a new plan is added.
        """
        chains, own = self.chains, self.own
        chosen = with_ancestors(chains.parent, rows)
        if len(chosen) < len(chains.run_ids):
            chains, own = chains.take(chosen.tolist()), own.take(chosen.tolist())
        own = without_missing(own)
        plan = self._plan(chains, own, grid, how, plans)
        plan.fill(own.values, np.searchsorted(chosen, rows), at, out)
        if self.missing is not None:
            mark_points(out, at, grid, points_on_curves(self.chains, rows, self.missing), np.nan)

    def _plan(
        self, chains: Chains, own: Observations, grid: Int64, how: Interpolation, plans: deque[AlignmentPlan]
    ) -> AlignmentPlan:
        for plan in list(plans):
            if plan.serves(chains, own, grid, how, self.joins_at_branch):
                return plan
        plan = plan_alignment(chains, own, grid, how, self.joins_at_branch)
        # Several threads may add equal plans, which does no harm.
        if plan.size <= _CACHED_CELLS:
            plans.append(plan)
        return plan


def mark_points(
    out: npt.NDArray[Any],
    at: Sequence[int] | npt.NDArray[np.intp],
    grid: Int64,
    points: tuple[npt.NDArray[np.intp], Int64],
    value: float,
) -> None:
    """Set the cells at tokens that are points of a grid.

    Parameters
    ----------
    out : (row, point) array
    at : (curve,) int array
        Row of `out` of each curve.
    grid : (point,) int64 array
        Ascending.
    points : (int array, int64 array)
        Position along `at`, and tokens.
    value : number
    """
    row, tokens = points
    if not len(grid) or not len(row):
        return
    out_row = np.asarray(at)
    # Where each run has its own axis, several points may be within one token.
    first, last = np.searchsorted(grid, tokens, side="left"), np.searchsorted(grid, tokens, side="right")
    for k in range(int((last - first).max())):
        has_kth = first + k < last
        out[out_row[row[has_kth]], first[has_kth] + k] = value
