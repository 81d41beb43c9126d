"""ExaminedRuns, the input of the checks, and Finding, their result for one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dde.array_types import Bool, Float64, Int64, Texts
from dde.curves.metric import Metric
from dde.curves.observations import Observations

__all__ = [
    "ExaminedRuns",
    "Finding",
    "findings_frame",
    "neighbor_residuals",
    "number_keys",
    "number_text",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of one check about one run.

    Attributes
    ----------
    check : str
    run_id : str
    finding : str
        A sentence with position, size, and the object of comparison.
    metric : str
        "" where it concerns no metric.
    place : int or None
        Cumulative tokens; None where unknown.
    step : int or None
        Step of the run.
    size : float
        Size in the unit that the check documents: tokens, rows, or the metric's own.
    compared_with : str
        Id of a run, or a description.
    """

    check: str
    run_id: str
    finding: str
    metric: str = ""
    place: int | None = None
    step: int | None = None
    size: float = float("nan")
    compared_with: str = ""


def findings_frame(found: Iterable[Finding], order: Sequence[str]) -> pd.DataFrame:
    """Return findings as a frame, sorted by check in the given order, then by run, place and metric.

    Examples
    --------
    >>> findings_frame([], ["counter_falls"]).columns.tolist()
    ['check', 'run_id', 'finding', 'metric', 'place', 'step', 'size', 'compared_with']
    """
    ranked = sorted(
        found, key=lambda f: (order.index(f.check), f.run_id, -1 if f.place is None else f.place, f.metric, f.finding)
    )
    columns = [f.name for f in fields(Finding)]
    frame = pd.DataFrame([astuple(f) for f in ranked], columns=columns)
    types = {name: "Int64" for name in ("place", "step")} | {"size": np.float64}
    texts = {name: object for name in columns if name not in types}
    return frame.astype({**types, **texts})


def number_text(value: float) -> str:
    """Format a number: whole numbers in full with commas, others with four significant digits.

    Examples
    --------
    >>> number_text(4194304000.0), number_text(0.123456)
    ('4,194,304,000', '0.1235')
    """
    if float(value).is_integer() and abs(value) < 1e18:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1e4 else f"{value:.4g}"


@dataclass(frozen=True, eq=False)
class ExaminedRuns:
    """Runs with their rows and relations, in the form that the checks need.

    Attributes
    ----------
    run_id, run_type, status : (run,) object arrays of str
    offsets : (run + 1,) int64 array
        Rows of run `i` are ``offsets[i]`` to ``offsets[i + 1]``, ascending by step.
    step, counter : (row,) int64 arrays
        Step and token counter as logged or declared, before any restoration.
    tokens : (row,) int64 array
        Cumulative tokens; -1 for runs without a position.
    is_logged : (run,) bool array
        Whether the counter was logged, rather than computed from the steps.
    start, branch : (run,) int64 arrays
        Cumulative tokens at own token 0, and at the end of the parent's part of the curve; -1 where unknown.
    start_counter : (run,) int64 array
        Value of the counter at own token 0; -1 where unknown.
    start_step : (run,) int64 array
        Step of the parent at the branch, if the run's steps continue from there; -1 where unknown or a root.
    late_start : (run,) int64 array
        Tokens by which a run may have started after its declared branch: up to the parent's next row, if the branch is
        declared at the parent's last row before the run's first.
    schedule, margin : (run,) float64 arrays
        Cumulative tokens at the planned end, NaN without a plan, and the tokens by which a run may exceed it.
    edge_child, edge_parent : (edge,) int64 arrays
        Numbers of runs.
    edge_place : (edge,) int64 array
        Cumulative tokens of the parent at the branch; -1 where unknown.
    edge_is_end : (edge,) bool array
        Whether the branch is the end of the parent's training, which needs no row.
    repeated : (run,) int64 array
        Number of each group of replicates: runs that differ only in seed or replicate have the same number.
    metrics : callable
        Returns the metrics to check.
    read : callable
        Returns the observations of metrics, in their order, for all runs in theirs. They include the run's own row at
        the branch, if it has one.
    """

    run_id: Texts
    run_type: Texts
    status: Texts
    offsets: Int64
    step: Int64
    counter: Int64
    tokens: Int64
    is_logged: Bool
    start: Int64
    branch: Int64
    start_counter: Int64
    start_step: Int64
    late_start: Int64
    schedule: Float64
    margin: Float64
    edge_child: Int64
    edge_parent: Int64
    edge_place: Int64
    edge_is_end: Bool
    repeated: Int64
    metrics: Callable[[], Sequence[Metric]] = field(repr=False)
    read: Callable[[Sequence[Metric]], list[Observations]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.run_id)

    def rows(self, run: int) -> slice:
        """Return the rows of a run."""
        return slice(int(self.offsets[run]), int(self.offsets[run + 1]))

    @cached_property
    def is_used(self) -> Bool:
        """Whether each run has a position on its lineage."""
        return np.asarray(self.status == "used", bool)

    @cached_property
    def end(self) -> Int64:
        """Cumulative tokens of the last row of each run; -1 for runs without rows or position."""
        end = np.full(len(self), -1, np.int64)
        has_rows = np.diff(self.offsets) > 0
        end[has_rows] = self.tokens[self.offsets[1:][has_rows] - 1]
        return end

    @cached_property
    def observed(self) -> dict[str, tuple[Metric, Observations]]:
        """Metrics with their observations, by name; includes standard errors."""
        metrics = list(self.metrics())
        return {m.name: (m, found) for m, found in zip(metrics, self.read(metrics), strict=True)}

    @cached_property
    def only_parent(self) -> Int64:
        """Parent of each run with exactly one; -1 for roots and merges."""
        count = np.bincount(self.edge_child, minlength=len(self))
        parent = np.full(len(self), -1, np.int64)
        parent[self.edge_child] = self.edge_parent
        parent[count != 1] = -1
        return parent


def neighbor_residuals(position: npt.NDArray[np.number], values: Float64) -> tuple[Float64, Float64]:
    """Return the distance of each inner value from the line between its neighbors, and its scale.

    Parameters
    ----------
    position : (row,) array
        Tokens or steps, ascending within a run.
    values : (row,) float64 array

    Returns
    -------
    residuals, scale : (row - 2,) float64 arrays
        The scale is the standard deviation of a residual if rows scatter independently with a standard deviation of 1.
        Both are infinite or NaN where the two neighbors have the same position.

    Examples
    --------
    >>> residuals, scale = neighbor_residuals(np.array([0, 10, 20]), np.array([1.0, 4.0, 3.0]))
    >>> residuals.tolist(), scale.round(3).tolist()
    ([2.0], [1.225])
    """
    t = position.astype(np.float64)
    with np.errstate(all="ignore"):
        w = (t[1:-1] - t[:-2]) / (t[2:] - t[:-2])
        return values[1:-1] - ((1 - w) * values[:-2] + w * values[2:]), np.sqrt(1 + (1 - w) ** 2 + w**2)


def number_keys(keys: Sequence[tuple[Any, ...]]) -> Int64:
    """Number distinct keys from 0 in the order of their first occurrence; equal keys get the same number.

    Examples
    --------
    >>> number_keys([("a",), ("b",), ("a",)]).tolist()
    [0, 1, 0]
    """
    code_of: dict[tuple[Any, ...], int] = {}
    return np.array([code_of.setdefault(key, len(code_of)) for key in keys], np.int64)
