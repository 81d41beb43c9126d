"""Observations of metrics as ragged arrays on the axis of cumulative tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.errors import ConflictWarning, warn_caller
from dde.lineage.ragged_rows import rows_of

__all__ = ["Observations", "assemble_observations", "join_observations"]


@dataclass(frozen=True, slots=True)
class Observations:
    """Own observations of one metric in several runs, without those of their ancestors.

    Attributes
    ----------
    offsets : (run + 1,) int64 array
        Observations of run `i` are ``offsets[i]`` to ``offsets[i + 1]``.
    tokens : (observation,) int64 array
        Cumulative tokens; ascending and distinct within a run.
    step : (observation,) int64 array
        Step of the run itself; for an evaluation of a derived run its last logged step, -1 without one.
    values : (observation,) float64 array
        NaN where the metric has no sample, which is not an observation. Such positions are included while they are
        few, so that metrics of one source share their positions.
    """

    offsets: Int64
    tokens: Int64
    step: Int64
    values: Float64

    def of(self, run: int) -> tuple[Int64, Float64]:
        """Return the tokens and values of the samples of one run."""
        part = slice(int(self.offsets[run]), int(self.offsets[run + 1]))
        tokens, values = self.tokens[part], self.values[part]
        some = ~np.isnan(values)
        return (tokens, values) if some.all() else (tokens[some], values[some])

    def take(self, runs: Sequence[int]) -> Observations:
        """Return the observations of some runs, in the order of `runs`."""
        at = np.asarray(runs, np.int64)
        counts = (self.offsets[1:] - self.offsets[:-1])[at]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        where = rows_of(self.offsets, at)
        return Observations(offsets, self.tokens[where], self.step[where], self.values[where])


def assemble_observations(
    metric: Metric, parts: list[tuple[Int64, Int64, Int64, Float64]], run_ids: Sequence[str]
) -> Observations:
    """Sort observations by run and tokens, and drop repeated ones.

    Parameters
    ----------
    metric : Metric
    parts : list of (run, tokens, step, values)
        Arrays of one length: index into `run_ids`, cumulative tokens, step, and value, NaN for no sample.
    run_ids : sequence of str

    Warns
    -----
    DdeWarning
        When rows of different steps are at the same tokens; the first one is used.
    ConflictWarning
        When rows of the same run and step disagree; the first one is used.
    """
    n_runs = len(run_ids)
    if not parts:
        none = np.empty(0, np.int64)
        return Observations(np.zeros(n_runs + 1, np.int64), none, none, np.empty(0))
    run, tokens, step, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not _ascend(run, tokens):
        order = np.lexsort((tokens, run))
        run, tokens, step, values = run[order], tokens[order], step[order], values[order]
    repeated = _repeated(run, tokens)
    some = ~np.isnan(values)
    if repeated.any() or np.count_nonzero(some) < _LEAST_SHARE * len(some):
        run, tokens, step, values = run[some], tokens[some], step[some], values[some]
        repeated = _repeated(run, tokens)
    if repeated.any():
        first = np.maximum.accumulate(np.where(repeated, 0, np.arange(len(run))))
        # Different steps at the same tokens are not a conflict: the count did not advance between them. An axis of
        # tokens has a position for only one of them.
        stalled = repeated & (step != step[first])
        if stalled.any():
            named = sorted({run_ids[run[i]] for i in np.flatnonzero(stalled)})
            warn_caller(
                f"{int(stalled.sum())} rows of {metric.name} count the same tokens as an earlier step of their run "
                f"({', '.join(named[:3])}{', ...' if len(named) > 3 else ''}), so the axis has no position for them; "
                "the first row is used. The others are in the store's own history."
            )
        conflicts = np.flatnonzero(repeated & (values != values[first]) & (step == step[first]))
        if len(conflicts):
            named = sorted({run_ids[run[i]] for i in conflicts})
            warn_caller(
                f"{len(conflicts)} rows of {metric.name} disagree with the first row of the same run and step "
                f"({', '.join(named[:3])}{', ...' if len(named) > 3 else ''}), so which value is right is "
                "unknown; the first one is used. Remove the wrong rows from the store to silence this.",
                ConflictWarning,
            )
        keep = ~repeated
        run, tokens, step, values = run[keep], tokens[keep], step[keep], values[keep]
    return Observations(np.searchsorted(run, np.arange(n_runs + 1)), tokens, step, values)


def join_observations(
    observed: Sequence[Observations], run: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[npt.NDArray[np.float64]]]:
    """Return the union of a run's positions over several metrics, with steps and a column of values per metric.

    Parameters
    ----------
    observed : sequence of Observations
        One for each metric, of the same runs.
    run : int
        Index of the run in them.

    Returns
    -------
    tokens, step : (row,) int64 arrays
        Cumulative tokens, ascending, and the largest step that any metric has there.
    columns : list of (row,) float64 array
        Values of each metric; NaN at a position that it does not have.
    """
    parts = [slice(int(o.offsets[run]), int(o.offsets[run + 1])) for o in observed]
    tokens_of_metrics = [o.tokens[part] for o, part in zip(observed, parts, strict=True)]
    tokens = np.unique(np.concatenate(tokens_of_metrics)) if tokens_of_metrics else np.empty(0, np.int64)
    step = np.full(len(tokens), -1, np.int64)
    columns: list[npt.NDArray[np.float64]] = []
    for o, part in zip(observed, parts, strict=True):
        column = np.full(len(tokens), np.nan)
        at = np.searchsorted(tokens, o.tokens[part])
        column[at] = o.values[part]
        step[at] = np.maximum(step[at], o.step[part])
        columns.append(column)
    return tokens, step, columns


def _ascend(run: Int64, tokens: Int64) -> bool:
    next_run = run[1:] > run[:-1]
    return bool((next_run | ((run[1:] == run[:-1]) & (tokens[1:] >= tokens[:-1]))).all())


def _repeated(run: Int64, tokens: Int64) -> npt.NDArray[np.bool_]:
    """Return which observations have the run and tokens of the one before them; sorted by run and tokens."""
    repeated = np.zeros(len(run), bool)
    repeated[1:] = (run[1:] == run[:-1]) & (tokens[1:] == tokens[:-1])
    return repeated


# A metric that has samples at a smaller share of its positions is processed faster without the empty positions.
_LEAST_SHARE = 0.5
