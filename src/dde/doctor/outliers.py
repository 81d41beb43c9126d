"""Check for outliers, compared with replicates or with the standard error of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.curves.observations import Observations
from dde.doctor.examined_runs import ExaminedRuns, Finding, neighbor_residuals, number_text

__all__ = ["find_outliers"]


#: Distance of an outlier in spreads.
_THRESHOLD = 8.0
#: Fewest points of a group of replicates from which their spread is estimated.
_FEWEST_POINTS = 10
#: Steps to either side from which the spread of replicates is estimated.
_NEAR = 15
#: Share of a run at its start in which curves bend too much to detect outliers.
_SKIPPED = 0.1


def find_outliers(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield outliers, one finding for each run and metric, at the farthest.

    If the suite has the standard error of an evaluation (`stderr_of`), a point is compared with the line between its
    neighbors, in units of the standard error of that difference, which reflects the number of items. Otherwise it is
    compared with the mean of its replicates, runs that differ only in seed or replicate, at the same step: in units of
    the median distance within 15 steps, after subtracting each run's usual distance from the others. Of two replicates
    the one farther from the line between its neighbors is the outlier. A metric with neither is skipped, as three
    neighboring points can't separate noise from a fault.

    An outlier is 8 units off, and in both cases 8 times as far from the line between its neighbors as half of the run's
    points are, so that bending curves are not findings. The first tenth of a run is left out. `size` is the difference
    in the metric's unit.
    """
    errors = {m.stderr_of: observed for m, observed in runs.observed.values() if m.stderr_of}
    for name, (metric, observed) in runs.observed.items():
        if metric.stderr_of:
            continue
        if name in errors:
            for run in np.flatnonzero(np.diff(observed.offsets) >= 4).tolist():
                tokens, values = observed.of(run)
                outlier = _off_line(tokens, values, _error_at(errors[name], run, tokens))
                if outlier is not None:
                    yield _finding(
                        runs, name, run, tokens, values, *outlier, "the line between its neighbours", "its error"
                    )
            continue
        for run, tokens, values, at, difference, times in _off_replicates(runs, observed):
            yield _finding(
                runs, name, run, tokens, values, at, difference, times, "the mean of its replicates", "their spread"
            )


def _finding(
    runs: ExaminedRuns,
    name: str,
    run: int,
    tokens: Int64,
    values: Float64,
    at: int,
    difference: float,
    times: float,
    against: str,
    unit: str,
) -> Finding:
    return Finding(
        "outlier",
        str(runs.run_id[run]),
        f"{name} is {number_text(float(values[at]))} at {number_text(int(tokens[at]))} tokens, "
        f"{number_text(abs(difference))} {'above' if difference > 0 else 'below'} {against}, {times:.0f} times {unit}",
        metric=name,
        place=int(tokens[at]),
        size=difference,
        compared_with=against,
    )


def _is_late(tokens: Int64) -> npt.NDArray[np.bool_]:
    return np.asarray(tokens >= tokens[0] + _SKIPPED * (tokens[-1] - tokens[0]), bool)


def _off_line(tokens: Int64, values: Float64, unit: Float64) -> tuple[int, float, float] | None:
    """Return the row farthest off its neighbors' line, its distance, and the distance in units; None without any."""
    off, scale = neighbor_residuals(tokens, values)
    late = _is_late(tokens)[1:-1]
    times = np.where(late, np.nan_to_num(np.abs(off) / (unit[1:-1] * scale), nan=0.0), 0.0)
    at = int(np.argmax(times))
    if times[at] <= _THRESHOLD or abs(off[at]) <= _THRESHOLD * np.median(np.abs(off[late])):
        return None
    return at + 1, float(off[at]), float(times[at])


def _off_replicates(
    runs: ExaminedRuns, observed: Observations
) -> Iterator[tuple[int, Int64, Float64, int, float, float]]:
    """Yield runs with the row farthest off their replicates: row, distance, and distance in spreads."""
    run = np.repeat(np.arange(len(runs)), np.diff(observed.offsets))
    has_value = ~np.isnan(observed.values)
    group, members = np.unique(runs.repeated, return_counts=True)
    for number in group[members > 1].tolist():
        own = np.flatnonzero(has_value & (runs.repeated[run] == number))
        names, row = np.unique(run[own], return_inverse=True)
        steps, column = np.unique(observed.step[own], return_inverse=True)
        if len(names) < 2 or len(steps) < _FEWEST_POINTS:
            continue
        table = np.full((len(names), len(steps)), np.nan)
        table[row, column] = observed.values[own]
        count = (~np.isnan(table)).sum(axis=0)
        table[:, count < 2] = np.nan
        usable = np.flatnonzero(count > 1)
        if len(usable) < _FEWEST_POINTS:
            continue
        table, count = table[:, usable], count[usable]
        # Compared with the mean of the others, as the mean of all includes the run itself.
        off = (table - np.nanmean(table, axis=0)) * count / (count - 1)
        usual = np.array([np.median(o[~np.isnan(o)]) if (~np.isnan(o)).any() else 0.0 for o in off])
        off = off - usual[:, None]
        # Rounded values may differ by one digit though the values behind them agree.
        spread = np.maximum(_spread_near(off), _resolution(table))
        times = np.nan_to_num(np.abs(off) / np.where(spread > 0, spread, np.nan), nan=0.0)
        for k, which in enumerate(names.tolist()):
            tokens, values = observed.of(which)
            farthest = _farthest_replicate(observed, names, k, steps[usable], off, times)
            if farthest is not None:
                at, difference, size = farthest
                yield which, tokens, values, at, difference, size


def _farthest_replicate(
    observed: Observations, names: Int64, k: int, steps: Int64, off: Float64, times: Float64
) -> tuple[int, float, float] | None:
    """Return the row of one replicate that is farthest off; None if none is, or another replicate is the outlier."""
    for column in np.argsort(times[k])[::-1].tolist():
        if times[k, column] <= _THRESHOLD:
            return None
        bends = {}
        for i in np.flatnonzero(times[:, column] > _THRESHOLD).tolist():
            bends[i] = _bend_at(observed, int(names[i]), int(steps[column]))
        at, bend, usual = bends[k]
        if abs(bend) > _THRESHOLD * usual and all(abs(bend) >= abs(b) for _, b, _ in bends.values()):
            return at, float(off[k, column]), float(times[k, column])
    return None


def _bend_at(observed: Observations, run: int, step: int) -> tuple[int, float, float]:
    """Return the number of the row of a run at a step, its distance off its line, and the median distance.

    The distance is 0 in the first and the last row, and in the first tenth.
    """
    part = slice(int(observed.offsets[run]), int(observed.offsets[run + 1]))
    some = ~np.isnan(observed.values[part])
    tokens, values = observed.tokens[part][some], observed.values[part][some]
    at = int(np.flatnonzero(observed.step[part][some] == step)[0])
    late = _is_late(tokens)
    if at in (0, len(tokens) - 1) or not late[at]:
        return at, 0.0, 0.0
    off, _ = neighbor_residuals(tokens, values)
    return at, float(off[at - 1]), float(np.median(np.abs(off[late[1:-1]])))


def _resolution(values: Float64) -> float:
    """Return the smallest difference between values; 0 where there is none."""
    distinct = np.unique(values[~np.isnan(values)])
    steps = np.diff(distinct)
    # Sums of the same numbers may differ in their last bits.
    steps = steps[steps > 1e-9 * max(float(np.abs(distinct).max(initial=0.0)), 1e-300)]
    return float(steps.min()) if len(steps) else 0.0


def _spread_near(off: Float64) -> Float64:
    """Return a robust estimate of the spread of replicates near each step, over 15 steps to either side; (step,)."""
    n = off.shape[1]
    spreads = np.full(n, np.nan)
    for column in range(n):
        near = np.abs(off[:, max(column - _NEAR, 0) : column + _NEAR + 1])
        near = near[~np.isnan(near)]
        if len(near) >= _FEWEST_POINTS:
            spreads[column] = 1.4826 * float(np.median(near))
    return spreads


def _error_at(errors: Observations, run: int, tokens: Int64) -> Float64:
    """Return the standard errors of a run at tokens; NaN where there is none or it is 0."""
    places, values = errors.of(run)
    if not len(places):
        return np.full(len(tokens), np.nan)
    at = np.minimum(np.searchsorted(places, tokens), len(places) - 1)
    return np.where((places[at] == tokens) & (values[at] > 0), values[at], np.nan)
