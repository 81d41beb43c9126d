"""Checks for curves that are the same in runs that should differ: whole logs, and rows of some checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from dde.curves.observations import Observations
from dde.doctor.examined_runs import ExaminedRuns
from dde.doctor.finding import Finding, number_text

__all__ = ["EqualPair", "equal_pairs", "find_duplicate_logs", "find_identical_rows"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: Decimal digits of evidence that a pair needs beyond those of the number of pairs there are: one suite in 10,000 in
#: which nothing is the same has a finding, where chances of metrics are independent.
_DIGITS = 4.0
#: Equal values that a pair needs, however improbable they are.
_FEWEST_VALUES = 3
#: Metrics of a row whose chances are multiplied: more of them are not independent (a task's scores, averages).
_COUNTED_METRICS = 3


@dataclass(frozen=True, eq=False)
class EqualPair:
    """Two runs with rows that are equal in every metric that both have there.

    Attributes
    ----------
    run, other : int
        The later run and the earlier one.
    steps : (row,) int64 array
        Steps at which they are equal.
    first, last : int
        Cumulative tokens of the first and last of them in `run`.
    common : int
        Rows that both have.
    is_whole : bool
        Whether neither run has any other row.
    metrics : int
        Metrics that are equal.
    evidence : float
        Decimal digits of the chance that such rows agree by accident.
    """

    run: int
    other: int
    steps: Int64
    first: int
    last: int
    common: int
    is_whole: bool
    metrics: int
    evidence: float


def find_duplicate_logs(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs whose whole log is that of another run: the same steps, the same values of all metrics.

    `size` is the number of rows. See :func:`equal_pairs` for what counts as equal.
    """
    for pair in equal_pairs(runs):
        if pair.is_whole:
            yield Finding(
                "duplicate_log",
                str(runs.run_id[pair.run]),
                f"its log is that of {runs.run_id[pair.other]}: all {len(pair.steps)} rows are equal in every one of "
                f"{pair.metrics} metrics",
                place=pair.first,
                step=int(pair.steps[0]),
                size=float(len(pair.steps)),
                compared_with=str(runs.run_id[pair.other]),
            )


def find_identical_rows(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs that have rows in common with another run: equal in every metric at some steps, not at all.

    `size` is the number of rows. See :func:`equal_pairs` for what counts as equal.
    """
    for pair in equal_pairs(runs):
        if not pair.is_whole:
            shown = ", ".join(map(str, pair.steps[:12].tolist())) + (", ..." if len(pair.steps) > 12 else "")
            yield Finding(
                "identical_rows",
                str(runs.run_id[pair.run]),
                f"it equals {runs.run_id[pair.other]} in every one of {pair.metrics} metrics at {len(pair.steps)} of "
                f"{pair.common} steps that both have, from {number_text(pair.first)} to {number_text(pair.last)} "
                f"tokens: steps {shown}",
                place=pair.first,
                step=int(pair.steps[0]),
                size=float(len(pair.steps)),
                compared_with=str(runs.run_id[pair.other]),
            )


def equal_pairs(runs: ExaminedRuns) -> list[EqualPair]:
    """Return pairs of runs with equal rows that chance does not explain.

    Rows are compared at the same step, beyond token 0 and the branches of both runs: what lies before is shared on
    purpose. Equal are rows with the same value of every metric that both have there.

    The chance that a metric agrees by accident is measured on the suite itself: how often two rows in a row of one run
    agree, or neighbouring runs at one step in rows that differ elsewhere, whichever is more often. The three rarest
    metrics of a row are multiplied, for others follow from them; `k` of `n` rows agree by accident with at most
    ``C(n, k)`` times the product of the rows' chances. A pair needs a chance below 1e-4 over the number of pairs,
    and three equal values. Logged metrics that follow from the step, as learning rates do, are left out. So one metric
    that is rounded to few digits needs many rows, one with all digits few, and a
    single checkpoint needs several metrics.

    Notes
    -----
    Values are sorted once per metric and only neighbours of equal value are compared, so the work grows with the number
    of values, not of pairs. Of three runs that are all the same, two pairs are found.
    """
    found = _FOUND.get(runs)
    if found is None:
        found = _FOUND[runs] = _Comparison(runs).pairs()
    return found


_FOUND: WeakKeyDictionary[ExaminedRuns, list[EqualPair]] = WeakKeyDictionary()


class _Comparison:
    """The values of all metrics, by run and step."""

    def __init__(self, runs: ExaminedRuns) -> None:
        self.runs = runs
        self.metrics: list[str] = []
        self.observed: list[Observations] = []
        # Position of each value among the distinct (run, step) of all metrics.
        keys: list[Int64] = []
        values: list[Float64] = []
        for name, (metric, observed) in runs.observed.items():
            # An error bar says the same as what it is of, and a schedule is the same in many runs on purpose.
            if metric.stderr_of or (metric.kind == "log" and _is_schedule(observed)):
                continue
            run = np.repeat(np.arange(len(runs)), np.diff(observed.offsets))
            kept = ~np.isnan(observed.values) & (observed.tokens > np.maximum(runs.branch, 0)[run])
            self.metrics.append(name)
            self.observed.append(observed)
            keys.append(np.stack([run[kept], observed.step[kept], observed.tokens[kept]]))
            values.append(observed.values[kept])
        every = np.concatenate([np.empty((3, 0), np.int64), *keys], axis=1)
        # The rows of all metrics; of a row with several places the first counts.
        order = np.lexsort((every[2], every[1], every[0]))
        run, step, tokens = every[:, order]
        is_first = np.ones(len(run), bool)
        is_first[1:] = (run[1:] != run[:-1]) | (step[1:] != step[:-1])
        position = np.empty(len(run), np.int64)
        position[order] = np.cumsum(is_first) - 1
        self.run, self.step, self.tokens = run[is_first], step[is_first], tokens[is_first]
        ends = np.cumsum([0, *(k.shape[1] for k in keys)])
        self.at = [position[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
        self.values = values
        self.n_values = np.bincount(position, minlength=len(self.run))
        self.offsets = np.searchsorted(self.run, np.arange(len(runs) + 1))

    def pairs(self) -> list[EqualPair]:
        if not self.metrics or len(self.runs) < 2:
            return []
        # Neighbours of equal value, and by chance: pairs of rows, one column per metric.
        left: list[Int64] = []
        right: list[Int64] = []
        for at, values in zip(self.at, self.values, strict=True):
            order = np.lexsort((self.run[at], values, self.step[at]))
            row, value = at[order], values[order]
            same = (self.step[row][1:] == self.step[row][:-1]) & (value[1:] == value[:-1])
            left.append(row[:-1][same])
            right.append(row[1:][same])
        chances = self._chances(left, right)
        every = np.stack([np.concatenate(left), np.concatenate(right)])
        rows, counts = np.unique(every, axis=1, return_counts=True)
        # A third run that shares a value by accident may stand between two that share all.
        likely = counts >= 0.5 * np.minimum(self.n_values[rows[0]], self.n_values[rows[1]])
        candidates = np.unique(np.stack([self.run[rows[0][likely]], self.run[rows[1][likely]]]), axis=1)
        n = len(self.runs)
        needed = _DIGITS + np.log10(max(n * (n - 1) / 2, 1))
        found = [self._compare(int(a), int(b), chances) for a, b in candidates.T]
        return [pair for pair in found if pair is not None and pair.evidence >= needed]

    def _chances(self, left: list[Int64], right: list[Int64]) -> Float64:
        """Return, for each metric, the chance that two rows agree by accident."""
        n_metrics = len(self.metrics)
        agreeing = np.zeros(n_metrics)
        compared = np.zeros(n_metrics)
        pairs = np.concatenate([np.stack([a, b]) for a, b in zip(left, right, strict=True)], axis=1)
        key = pairs[0] * len(self.run) + pairs[1]
        distinct, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
        rows = np.stack([distinct // max(len(self.run), 1), distinct % max(len(self.run), 1)])
        # In rows that are equal throughout, values do not agree by accident.
        whole = counts >= 0.9 * np.minimum(self.n_values[rows[0]], self.n_values[rows[1]])
        by_accident = ~whole[inverse] if n_metrics > 1 else np.zeros(len(inverse), bool)
        ends = np.cumsum([0, *(len(a) for a in left)])
        chances = np.ones(n_metrics)
        for m, (at, values) in enumerate(zip(self.at, self.values, strict=True)):
            run = self.run[at]
            order = np.lexsort((self.step[at], run))
            v, r = values[order], run[order]
            in_row = r[1:] == r[:-1]
            agreeing[m] = np.count_nonzero(in_row & (v[1:] == v[:-1]))
            compared[m] = np.count_nonzero(in_row)
            neighbours = len(at) - len(np.unique(self.step[at]))
            across = np.count_nonzero(by_accident[ends[m] : ends[m + 1]])
            shared = across / neighbours if neighbours else 0.0
            chances[m] = min(max((agreeing[m] + 1) / (compared[m] + 2), shared), 1.0)
        return chances

    def _compare(self, a: int, b: int, chances: Float64) -> EqualPair | None:
        """Return how two runs agree, a before b; None where no row does."""
        rows_a = np.arange(self.offsets[a], self.offsets[a + 1])
        rows_b = np.arange(self.offsets[b], self.offsets[b + 1])
        steps, in_a, in_b = np.intersect1d(self.step[rows_a], self.step[rows_b], return_indices=True)
        n = len(steps)
        if not n:
            return None
        rows_a, rows_b = rows_a[in_a], rows_b[in_b]
        differ, n_common = np.zeros(n, bool), np.zeros(n, np.int64)
        # The rarest metrics of each row.
        rarest = np.zeros((n, _COUNTED_METRICS + 1))
        is_equal = np.zeros((len(self.metrics), n), bool)
        for m, (at, values) in enumerate(zip(self.at, self.values, strict=True)):
            x, y = _values_at(at, values, rows_a), _values_at(at, values, rows_b)
            both = ~np.isnan(x) & ~np.isnan(y)
            n_common += both
            is_equal[m] = both & (x == y)
            differ |= both & (x != y)
            rarest[:, 0] = np.where(is_equal[m], -np.log10(chances[m]), 0.0)
            rarest.sort(axis=1)
        equal = ~differ & (n_common > 0)
        k = int(equal.sum())
        if not k:
            return None
        ways = (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(10)
        evidence = float(rarest[equal, 1:].sum() - ways)
        of_equal = is_equal[:, equal]
        if of_equal.sum() < _FEWEST_VALUES:
            return None
        of_both = np.diff(self.offsets)[[a, b]]
        return EqualPair(
            run=b,
            other=a,
            steps=steps[equal],
            first=int(self.tokens[rows_b[equal][0]]),
            last=int(self.tokens[rows_b[equal][-1]]),
            common=n,
            is_whole=k == n == of_both[0] == of_both[1] and k > 1,
            metrics=int(of_equal.any(axis=1).sum()),
            evidence=evidence,
        )


def _is_schedule(observed: Observations) -> bool:
    """Return whether a logged metric follows from the step alone: a learning rate, a count of tokens.

    Such a curve is smooth: the sides on which rows lie of the line between their neighbours seldom change. Of rows that
    scatter independently two in three lie on another side than the row before.
    """
    run = np.repeat(np.arange(len(observed.offsets) - 1), np.diff(observed.offsets))
    t, y = observed.tokens.astype(np.float64), observed.values
    with np.errstate(invalid="ignore", divide="ignore"):
        w = (t[1:-1] - t[:-2]) / (t[2:] - t[:-2])
        off = y[1:-1] - ((1 - w) * y[:-2] + w * y[2:])
    # Rounding is no scatter.
    sides = np.where(np.abs(off) <= 1e-9 * np.abs(y[1:-1]), 0, np.sign(off))
    within = (run[2:] == run[:-2]) & np.isfinite(off)
    both = within[1:] & within[:-1]
    changes = both & (sides[1:] * sides[:-1] < 0)
    return not both.any() or bool(changes.sum() < 0.1 * both.sum())


def _values_at(at: Int64, values: Float64, rows: Int64) -> Float64:
    """Return the values of a metric at rows; NaN where it has none. `at` is ascending."""
    if not len(at):
        return np.full(len(rows), np.nan)
    place = np.minimum(np.searchsorted(at, rows), len(at) - 1)
    return np.where(at[place] == rows, values[place], np.nan)
