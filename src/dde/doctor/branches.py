"""Checks of branches: branch points where the parent has no row, and children that begin off their parent's curve."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.curves.observations import Observations
from dde.doctor.examined_runs import ExaminedRuns, Finding, neighbor_residuals, number_text

__all__ = ["FEWEST_RESIDUALS", "THRESHOLD", "find_branches_off_rows", "find_branches_off_values", "trunk_noise"]


#: Rows of the trunk on either side of a branch that its spread is estimated from, and the fewest residuals needed.
_WINDOW, FEWEST_RESIDUALS = 12, 8
#: Distance of a child's first value from its trunk, in spreads, from which it is a finding.
THRESHOLD = 7.0
#: Rows of a child that are extrapolated back to the branch with a line.
_FITTED = 4
# Status of a run of a declared suite without rows after its branch.
_IDLE = "no tokens of its own"
#: Distance of a child's first value from its trunk, in the child's own changes per row, from which it is a finding.
_OWN_STEPS = 3.0
#: Runs of one type from which a common offset at the start counts as an effect of the type.
_FEWEST_OF_TYPE = 5


def find_branches_off_rows(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs that branch where their parent has no row, and so no value.

    `size` is the distance in tokens to the parent's nearest row. Other findings are runs whose branch is unknown;
    parents without any row, once for all their children; and runs of a declared suite without rows after their branch,
    which happens where `counts` is wrong (`size` is their number of rows). A branch at the end of a DataDecide run's
    training needs no row, as not all last checkpoints were evaluated.
    """
    without: dict[int, int] = {}
    for child, parent, place, is_end in zip(
        runs.edge_child.tolist(),
        runs.edge_parent.tolist(),
        runs.edge_place.tolist(),
        runs.edge_is_end.tolist(),
        strict=True,
    ):
        rows = runs.rows(parent)
        if rows.start == rows.stop:
            without[parent] = without.get(parent, 0) + 1
            continue
        tokens = runs.tokens[rows]
        if not runs.is_used[child] or is_end or place < 0 or tokens[0] < 0:
            continue
        after = int(np.searchsorted(tokens, place))
        if after < len(tokens) and tokens[after] == place:
            continue
        near = tokens[max(after - 1, 0) : after + 1]
        size = int(np.abs(near - place).min())
        yield Finding(
            "branch_row",
            str(runs.run_id[child]),
            f"it branches from {runs.run_id[parent]} at {number_text(place)} tokens, where that has no row; the "
            f"nearest {'are' if len(near) > 1 else 'is'} at {' and '.join(map(number_text, near.tolist()))}",
            place=place,
            size=float(size),
            compared_with=str(runs.run_id[parent]),
        )
    for parent, count in without.items():
        yield Finding(
            "branch_row",
            str(runs.run_id[parent]),
            f"it has no rows, and {f'{count} runs branch' if count > 1 else 'one run branches'} from it",
            size=float(count),
        )
    for run in np.flatnonzero([str(s).startswith("branch unknown") for s in runs.status]).tolist():
        if runs.only_parent[run] not in without:
            parent = int(runs.only_parent[run])
            yield Finding(
                "branch_row",
                str(runs.run_id[run]),
                str(runs.status[run]),
                compared_with=str(runs.run_id[parent]) if parent >= 0 else "",
            )
    for run in np.flatnonzero((runs.status == _IDLE) & (runs.only_parent >= 0) & (np.diff(runs.offsets) > 0)).tolist():
        rows, parent = runs.rows(run), int(runs.only_parent[run])
        count, last, branch = rows.stop - rows.start, int(runs.counter[rows].max()), int(runs.branch[run])
        yield Finding(
            "branch_row",
            str(runs.run_id[run]),
            f"none of its {count} rows is after its branch from {runs.run_id[parent]}"
            + (f" at {number_text(branch)} tokens" if branch >= 0 else "")
            + f", and its counter ends at {number_text(last)}: if it counts from the run's own start, declare "
            "counts='own'",
            place=branch if branch >= 0 else None,
            size=float(count),
            compared_with=str(runs.run_id[parent]),
        )


@dataclass(frozen=True, slots=True)
class _Start:
    """Start of a child in comparison with its parent.

    Attributes
    ----------
    difference, spread : float
        Difference from the parent's value, and the spread of that difference.
    own_step : float
        Change of the child itself from row to row, or over the tokens to its first row; 0 at the branch.
    place : int
        Cumulative tokens.
    expected : float
        The parent's value.
    """

    difference: float
    spread: float
    own_step: float
    place: int
    expected: float


def find_branches_off_values(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs whose first value differs from their parent's value there by more than the parent's own spread.

    If the child has a row at the branch, it is compared with the parent's value there. Otherwise the smaller of two
    differences counts: that of the child's first row from the parent's curve, and that of a line through the child's
    first four rows, extrapolated to the branch. It must also be three times the child's change per row on that line,
    so that a loss that begins to fall, as in a decay, is not a finding.

    The spread comes from the parent's residuals: the distance of each row within 12 of the branch from the line between
    its neighbors, scaled to the spread of one row under independent scatter. It is at least half of the smallest step
    between rounded values, and at least the standard error of the evaluation, if the suite has one (`stderr_of`). A
    finding needs 7 spreads, estimated from at least 8 residuals. If five or more runs of a type have the metric, their
    median difference in spreads counts as an effect of the type, and their own scatter around it replaces a smaller
    spread.

    Notes
    -----
    `size` is the difference in the metric's unit. False alarms on trunks with Gaussian scatter: fewer than 1 in 1,000
    comparisons of child and metric where the spread is estimated from 8 residuals, none in 36,000 with 24 (simulated;
    see tests/test_doctor.py). Logs of a trainer are never compared, as data and objective change at a branch.
    """
    parents = runs.only_parent
    children = np.flatnonzero((parents >= 0) & runs.is_used & (runs.branch >= 0)).tolist()
    if not children:
        return
    errors = {m.stderr_of: observed for m, observed in runs.observed.values() if m.stderr_of}
    for name, (metric, observed) in runs.observed.items():
        if not metric.joins_at_branch or metric.stderr_of:
            continue
        starts: list[tuple[int, _Start]] = []
        for child in children:
            start = _start(int(runs.branch[child]), *observed.of(child), *observed.of(int(parents[child])))
            if start is not None and name in errors:
                error = _error_near(errors[name], child, start.place)
                start = replace(start, spread=max(start.spread, error))
            if start is not None:
                starts.append((child, start))
        if not starts:
            continue
        scores = np.array([s.difference / max(s.spread, _OWN_STEPS / THRESHOLD * s.own_step) for _, s in starts])
        centre, scale = _by_type(runs.run_type[[child for child, _ in starts]], scores)
        for k in np.flatnonzero(np.abs(scores - centre) > THRESHOLD * scale).tolist():
            child, start = starts[k]
            parent = str(runs.run_id[parents[child]])
            yield Finding(
                "branch_value",
                str(runs.run_id[child]),
                f"it begins {number_text(abs(start.difference))} {'above' if start.difference > 0 else 'below'} its "
                f"parent's {number_text(start.expected)} in {name}, {abs(start.difference) / start.spread:.0f} times "
                f"the scatter of {parent} there",
                metric=name,
                place=start.place,
                size=start.difference,
                compared_with=parent,
            )


def _error_near(errors: Observations, run: int, place: int) -> float:
    """Return the standard error of the row of a run nearest to a token position; 0 where it has none."""
    tokens, values = errors.of(run)
    return float(values[np.argmin(np.abs(tokens - place))]) if len(tokens) else 0.0


def _by_type(types: npt.NDArray[np.object_], scores: Float64) -> tuple[Float64, Float64]:
    """Return center and scale of the scores of each run's type; 0 and 1 for types of few runs."""
    centre, scale = np.zeros(len(scores)), np.ones(len(scores))
    for kind in set(types.tolist()):
        of_kind = types == kind
        if of_kind.sum() >= _FEWEST_OF_TYPE:
            centre[of_kind] = np.median(scores[of_kind])
            scale[of_kind] = max(1.0, 1.4826 * float(np.median(np.abs(scores[of_kind] - centre[of_kind]))))
    return centre, scale


def _start(branch: int, tokens: Int64, values: Float64, trunk_tokens: Int64, trunk_values: Float64) -> _Start | None:
    """Compare the start of a child with its trunk; None where it, or the spread of the trunk, is unknown."""
    own = np.flatnonzero(tokens >= branch)[:_FITTED]
    spread = trunk_noise(trunk_tokens, trunk_values, branch) if len(own) else None
    at_branch = _on_line(trunk_tokens, trunk_values, branch)
    if spread is None or at_branch is None:
        return None
    first, value = int(tokens[own[0]]), float(values[own[0]])
    if first == branch:
        return _Start(value - at_branch[0], spread * math.sqrt(1 + at_branch[1]), 0.0, first, at_branch[0])
    if len(own) < 2:
        return None
    x, y = (tokens[own] - branch).astype(np.float64), values[own]
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    back = float(y.mean() - slope * x.mean())
    own_step = abs(slope) * max(float(x[0]), float(x[-1] - x[0]) / (len(x) - 1))
    scale = math.sqrt(1 / len(x) + float(x.mean() ** 2 / (centred @ centred)) + at_branch[1])
    # A trunk that ends at the branch has only its last value to compare with the child's first row.
    here, share = _on_line(trunk_tokens, trunk_values, first) or at_branch
    starts = (
        _Start(back - at_branch[0], spread * scale, own_step, branch, at_branch[0]),
        _Start(value - here, spread * math.sqrt(1 + share), own_step, first, here),
    )
    return min(starts, key=lambda start: abs(start.difference) / start.spread)


def _on_line(tokens: Int64, values: Float64, place: int) -> tuple[float, float] | None:
    """Interpolate between rows; return the value and its variance in units of one row's; None outside the rows."""
    after = int(np.searchsorted(tokens, place))
    if after < len(tokens) and tokens[after] == place:
        return float(values[after]), 1.0
    if after in (0, len(tokens)):
        return None
    w = (place - tokens[after - 1]) / float(tokens[after] - tokens[after - 1])
    return float((1 - w) * values[after - 1] + w * values[after]), float((1 - w) ** 2 + w**2)


def trunk_noise(tokens: Int64, values: Float64, place: int) -> float | None:
    """Estimate the spread of one row of a curve near a token position; None where there are too few rows.

    Parameters
    ----------
    tokens : (row,) int64 array
        Ascending, distinct.
    values : (row,) float64 array
    place : int
        Token position.

    Examples
    --------
    >>> tokens = np.arange(40) * 10
    >>> values = np.random.default_rng(0).normal(scale=0.1, size=40)
    >>> bool(0.07 < trunk_noise(tokens, values, 200) < 0.13)
    True
    """
    centre = int(np.searchsorted(tokens, place))
    near = slice(max(centre - _WINDOW, 0), centre + _WINDOW + 1)
    if len(tokens[near]) - 2 < FEWEST_RESIDUALS:
        return None
    residuals, scale = neighbor_residuals(tokens[near], values[near])
    spread = float(np.sqrt(np.mean((residuals / scale) ** 2)))
    steps = np.abs(np.diff(np.unique(values[near])))
    resolution = 0.5 * float(steps.min()) if len(steps) else 0.0
    return max(spread, resolution) or None
