"""Checks of token counters and steps: falls, lags, jumps, other rates, rows beyond the plan, irregular steps.

They read no values, so they are cheap. They skip counters that are computed from the steps by declaration, which are
consistent by construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.array_types import Bool, Float64, Int64
from dde.doctor.examined_runs import ExaminedRuns, Finding, number_text
from dde.errors import list_names

__all__ = [
    "find_falling_counters",
    "find_irregular_steps",
    "find_jumping_counters",
    "find_lagging_counters",
    "find_other_rates",
    "find_rows_beyond_schedule",
]


#: Fewest intervals between rows from which a rate of tokens per step is estimated.
_FEWEST_INTERVALS = 3
#: Relative difference from the rate that is always allowed: counters of packed sequences scatter by a few percent.
_SHARE, _SHARE_OF_FEW, _MANY = 0.05, 0.5, 10
#: Allowed difference of an interval in robust standard deviations.
_DEVIATIONS = 8.0
#: Share of a run's rows that must be at multiples of one spacing for its steps to be regular.
_REGULAR = 0.8


@dataclass(frozen=True, eq=False)
class _Rate:
    """Tokens per step of one run, and the intervals between its rows that differ from it.

    Attributes
    ----------
    tokens_per_step : float
        Median over intervals, weighted by their steps.
    step, counter : (row,) int64 arrays
    differs : (interval,) bool array
        Intervals with another rate, including falls.
    """

    tokens_per_step: float
    step: Int64
    counter: Int64
    differs: Bool


def find_falling_counters(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs whose token counter falls while steps increase; one finding per run, at the first fall.

    `size` is the fall in tokens. Falling counters of DataDecide are restored when they are opened; runs of a declared
    suite with a falling counter have no token position.
    """
    for run in _logged(runs):
        rows = runs.rows(run)
        counter, step, tokens = runs.counter[rows], runs.step[rows], runs.tokens[rows]
        falls = np.flatnonzero(np.diff(counter) < 0)
        if not len(falls):
            continue
        i = int(falls[0])
        again = f", and falls {len(falls)} times in all" if len(falls) > 1 else ""
        yield Finding(
            "counter_falls",
            str(runs.run_id[run]),
            f"the token counter falls from {number_text(counter[i])} at step {step[i]} to "
            f"{number_text(counter[i + 1])} at step {step[i + 1]}{again}",
            place=int(tokens[i]) if tokens[i] >= 0 else None,
            step=int(step[i + 1]),
            size=float(counter[i] - counter[i + 1]),
            compared_with="the row before",
        )


def find_lagging_counters(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs whose counter does not fit their steps from the first row on, though it grows at an even rate.

    The counter at the first row is compared with the run's own tokens per step, times the steps since its start:
    counted from 0 or, if that does not fit, from the parent's step at the branch. It may differ by half the usual
    interval or by 1.5 steps, whichever is more. If the branch is declared at a checkpoint of the parent, the run may
    have started as late as the parent's next one. `size` is the number of missing tokens; negative if there are too
    many.
    """
    for run in _logged(runs):
        rate = _rate_of(runs, run)
        first = int(runs.start_counter[run])
        # If the rate changes at once, the steps before the first row can't be converted to tokens.
        if rate is None or first < 0 or rate.differs[0]:
            continue
        r, step, own = rate.tokens_per_step, int(rate.step[0]), int(rate.counter[0]) - first
        allowed = max(0.5 * r * float(np.median(np.diff(rate.step))), 1.5 * r)
        lags = [r * step - own]
        before = int(runs.start_step[run])
        if 0 <= before <= step:
            lags.append(r * (step - before) - own)
        lag = min(lags, key=abs)
        if any(-allowed - int(runs.late_start[run]) <= one <= allowed for one in lags):
            continue
        tokens = int(runs.tokens[runs.rows(run)][0])
        verb = "lags" if lag > 0 else "leads"
        yield Finding(
            "counter_lags",
            str(runs.run_id[run]),
            f"the token counter {verb} by {number_text(round(abs(lag)))} tokens, {number_text(round(abs(lag) / r))} "
            f"steps: at its first row, step {step}, it counts {number_text(own)} tokens since the run's start, and the "
            f"run has {number_text(r)} tokens per step",
            place=tokens if tokens >= 0 else None,
            step=step,
            size=float(round(lag)),
            compared_with="the run's own tokens per step",
        )


def find_jumping_counters(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs whose counter jumps, or stands still, between two rows; one finding per run, at the largest jump.

    An interval counts if its tokens per step differ from the run's median by more than 5 % (50 % in runs of fewer than
    10 intervals) and 8 robust standard deviations of the run's intervals, and its tokens by more than 1.5 steps. `size`
    is the excess in tokens over the run's rate.
    """
    for run in _logged(runs):
        rate = _rate_of(runs, run)
        stretches = [] if rate is None else [s for s in _stretches(rate) if s[1] == s[0] + 1]
        if rate is not None and stretches:
            yield _differing(runs, run, rate, stretches, "counter_jumps")


def find_other_rates(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs with other tokens per step over two or more consecutive intervals; as :func:`find_jumping_counters`.

    A batch size that was changed on purpose is a finding too; declare it with
    ``tokens={"per_step": [[0, n], [step, m]]}``.
    """
    for run in _logged(runs):
        rate = _rate_of(runs, run)
        stretches = [] if rate is None else [s for s in _stretches(rate) if s[1] > s[0] + 1]
        if rate is not None and stretches:
            yield _differing(runs, run, rate, stretches, "counter_rate")


def find_rows_beyond_schedule(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs with rows beyond their planned end, by more than a step and a thousandth of the plan.

    Runs of DataDecide may stop 20 steps late. `size` is the excess in tokens over the plan. Only declared plans count.
    """
    for run in np.flatnonzero(runs.is_used & ~np.isnan(runs.schedule)).tolist():
        rows = runs.rows(run)
        tokens, plan = runs.tokens[rows], float(runs.schedule[run])
        beyond = np.flatnonzero(tokens > plan + runs.margin[run])
        if len(beyond):
            first = int(beyond[0])
            yield Finding(
                "beyond_schedule",
                str(runs.run_id[run]),
                f"{len(beyond)} of {len(tokens)} rows are beyond the planned end at {number_text(plan)} tokens, the "
                f"last by {number_text(float(tokens[-1]) - plan)} tokens, at step {runs.step[rows][-1]}",
                place=int(tokens[first]),
                step=int(runs.step[rows][first]),
                size=float(tokens[-1]) - plan,
                compared_with="schedule_tokens",
            )


def find_irregular_steps(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs of regular steps that have rows between them.

    Steps are regular if the most frequent spacing makes up six tenths of the intervals, at least four, and eight tenths
    of the rows are at its multiples, counted from one of them. Excluded are the first tenth of a run, which may be
    dense, the planned end, and rows less than a spacing after the last regular row. `size` is the number of rows.
    """
    for run in range(len(runs)):
        rows = runs.rows(run)
        step = runs.step[rows]
        gaps = np.diff(step)
        if len(gaps) < 5:
            continue
        spacings, counts = np.unique(gaps, return_counts=True)
        k = int(np.argmax(counts))
        spacing = int(spacings[k])
        if counts[k] < max(4, 0.6 * len(gaps)) or spacing <= 1:
            continue
        phases, counts = np.unique(step % spacing, return_counts=True)
        k = int(np.argmax(counts))
        regular = step % spacing == phases[k]
        if counts[k] < _REGULAR * len(step):
            continue
        last = int(step[regular][-1])
        early = step <= step[0] + 0.1 * (step[-1] - step[0])
        ending = (step > last) & (step < last + spacing)
        # The last planned step is evaluated even if a run continues beyond it.
        planned = np.abs(runs.tokens[rows] - runs.schedule[run]) <= runs.margin[run]
        odd = np.flatnonzero(~regular & ~early & ~ending & ~planned)
        if len(odd):
            tokens = int(runs.tokens[rows][odd[0]])
            yield Finding(
                "step_spacing",
                str(runs.run_id[run]),
                f"{len(odd)} of {len(step)} rows are off the run's spacing of {spacing} steps: "
                f"{list_names(map(str, step[odd].tolist()))}",
                place=tokens if tokens >= 0 else None,
                step=int(step[odd[0]]),
                size=float(len(odd)),
                compared_with="the run's own spacing",
            )


def _logged(runs: ExaminedRuns) -> list[int]:
    return np.flatnonzero(runs.is_logged & (np.diff(runs.offsets) > 1)).tolist()


def _rate_of(runs: ExaminedRuns, run: int) -> _Rate | None:
    """Estimate the rate of a run; None where its counter rises in too few intervals."""
    rows = runs.rows(run)
    step, counter = runs.step[rows], runs.counter[rows]
    gaps, grown = np.diff(step), np.diff(counter)
    rising = (grown > 0) & (gaps > 0)
    if rising.sum() < _FEWEST_INTERVALS or (gaps <= 0).any():
        return None
    rates = grown / gaps
    rate = _weighted_median(rates[rising], gaps[rising])
    relative = rates / rate - 1
    spread = 1.4826 * float(np.median(np.abs(relative[rising] - np.median(relative[rising]))))
    share = _SHARE if len(gaps) >= _MANY else _SHARE_OF_FEW
    differs = np.abs(relative) > max(share, _DEVIATIONS * spread)
    return _Rate(rate, step, counter, differs | (grown < 0))


def _stretches(rate: _Rate) -> list[tuple[int, int, float]]:
    """Return stretches of intervals that differ in one direction: first, one after the last, excess in tokens."""
    gaps, grown = np.diff(rate.step), np.diff(rate.counter)
    excess = grown - rate.tokens_per_step * gaps
    # Falls are findings of another check.
    side = np.where(rate.differs & (grown >= 0), np.sign(excess), 0)
    bounds = np.flatnonzero(np.diff(side, prepend=0, append=0))
    stretches = []
    for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        total = float(excess[first:stop].sum())
        if side[first] != 0 and abs(total) > 1.5 * rate.tokens_per_step:
            stretches.append((first, stop, total))
    return stretches


def _differing(
    runs: ExaminedRuns, run: int, rate: _Rate, stretches: list[tuple[int, int, float]], check: str
) -> Finding:
    """Return the finding on a counter that differs from its rate; it describes the stretch with the largest excess."""
    first, stop, excess = max(stretches, key=lambda stretch: abs(stretch[2]))
    step, counter, r = rate.step, rate.counter, rate.tokens_per_step
    grown, gap = int(counter[stop] - counter[first]), int(step[stop] - step[first])
    again = f"; the largest of {len(stretches)} such stretches" if len(stretches) > 1 else ""
    if not grown:
        what = f"stands still from step {step[first]} to {step[stop]}"
    elif check == "counter_jumps":
        what = f"jumps by {number_text(grown)} tokens from step {step[first]} to {step[stop]}"
    else:
        what = f"grows by {number_text(grown / gap)} tokens per step from step {step[first]} to {step[stop]}"
    tokens = int(runs.tokens[runs.rows(run)][first])
    return Finding(
        check,
        str(runs.run_id[run]),
        f"the token counter {what}, {number_text(round(abs(excess)))} {'more' if excess > 0 else 'fewer'} than "
        f"at the run's own rate of {number_text(r)} tokens per step{again}",
        place=tokens if tokens >= 0 else None,
        step=int(step[first]),
        size=float(round(excess)),
        compared_with="the run's own tokens per step",
    )


def _weighted_median(values: Float64, weights: npt.NDArray[np.integer]) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])
