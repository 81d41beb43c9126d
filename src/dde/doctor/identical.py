"""Checks for runs with identical values where they should differ: complete logs, or rows of some checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from dde.array_types import Float64, Int64
from dde.curves.observations import Observations
from dde.doctor.examined_runs import ExaminedRuns, Finding, neighbor_residuals, number_text
from dde.errors import list_names

__all__ = ["EqualPair", "equal_pairs", "find_duplicate_logs", "find_identical_rows"]


#: Evidence that a pair needs, in decimal digits, in addition to the digits of the number of pairs: with independent
#: metrics, one suite in 10,000 has a false finding.
_DIGITS = 4.0
#: Fewest equal values of a pair, however improbable they are.
_FEWEST_VALUES = 3
#: Share of a run's tokens in which it may still equal its initialization.
_UNTRAINED = 1e-3
#: Number of metrics of a row whose chances are multiplied; more are not independent (scores of a task, averages).
_COUNTED_METRICS = 3


@dataclass(frozen=True, eq=False)
class EqualPair:
    """Two runs with rows that are equal in every metric that both have there.

    Attributes
    ----------
    run, other : int
        The later run and the earlier one.
    steps : (row,) int64 array
        Steps of the equal rows.
    first, last : int
        Cumulative tokens of the first and last equal row in `run`.
    common : int
        Number of steps that both runs have.
    is_complete : bool
        Whether neither run has any other row.
    metrics : int
        Number of equal metrics.
    evidence : float
        Negative decimal logarithm of the probability that such rows agree by chance.
    """

    run: int
    other: int
    steps: Int64
    first: int
    last: int
    common: int
    is_complete: bool
    metrics: int
    evidence: float


def find_duplicate_logs(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs whose complete log is that of another run: the same steps, the same values of all metrics.

    `size` is the number of rows. See :func:`equal_pairs` for the definition of equal rows.
    """
    for pair in equal_pairs(runs):
        if pair.is_complete:
            text = (
                f"its log is that of {runs.run_id[pair.other]}: all {len(pair.steps)} rows are equal in every one of "
                f"{pair.metrics} metrics"
            )
            yield _finding("duplicate_log", runs, pair, text)


def find_identical_rows(runs: ExaminedRuns) -> Iterator[Finding]:
    """Yield runs that share some rows with another run: equal in every metric at some of their steps.

    `size` is the number of rows. See :func:`equal_pairs` for the definition of equal rows.
    """
    for pair in equal_pairs(runs):
        if not pair.is_complete:
            shown = list_names(map(str, pair.steps.tolist()), 12)
            text = (
                f"it equals {runs.run_id[pair.other]} in every one of {pair.metrics} metrics at {len(pair.steps)} of "
                f"{pair.common} common steps, from {number_text(pair.first)} to {number_text(pair.last)} "
                f"tokens: steps {shown}"
            )
            yield _finding("identical_rows", runs, pair, text)


def _finding(check: str, runs: ExaminedRuns, pair: EqualPair, text: str) -> Finding:
    return Finding(
        check,
        str(runs.run_id[pair.run]),
        text,
        place=pair.first,
        step=int(pair.steps[0]),
        size=float(len(pair.steps)),
        compared_with=str(runs.run_id[pair.other]),
    )


def equal_pairs(runs: ExaminedRuns) -> list[EqualPair]:
    """Return pairs of runs with equal rows that chance does not explain.

    Rows are compared at the same step, after the branches of both runs and the first thousandth of their tokens:
    earlier rows are shared on purpose, such as the initial state that Pythia's 160m and 160m-deduped still have at step
    1. Two rows are equal if they have the same value of every metric that both runs have there.

    The probability that a metric agrees by chance is estimated from the suite itself, as the larger of two rates: how
    often rows are within half of the metric's last digit of the line between their neighbors, as for two runs with the
    same mean and independent scatter; and how often other runs agree at one step, which is often for a metric that does
    not depend on the run. A value that is repeated in the row before or after is not evidence. The probabilities of the
    three rarest metrics of a row are multiplied, as others depend on them; `k` of `n` rows agree by chance with at most
    ``C(n, k)`` times the product of the rows' probabilities. A pair needs a probability below 1e-4 over the number of
    pairs, and three equal values. Logged metrics that are a function of the step, such as learning rates, are left out.
    As a result, a metric that is rounded to few digits needs many rows, a metric with all digits needs few, and a
    single checkpoint needs several metrics.

    Notes
    -----
    Candidates come from sorting values and hashes of rows and of logs, so the work grows with the number of values, not
    of pairs. In a group of identical runs, each is paired with one other. All values of the metrics are in memory.
    """
    pairs = _PAIRS.get(runs)
    if pairs is None:
        pairs = _PAIRS[runs] = _Comparison(runs).pairs()
    return pairs


# Both checks need the pairs of the same runs.
_PAIRS: WeakKeyDictionary[ExaminedRuns, list[EqualPair]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class _Column:
    """Values of one metric, ordered by run and step.

    Attributes
    ----------
    at : (value,) int64 array
        Number of the row; ascending.
    values : (value,) float64 array
    is_repeated : (value,) bool array
        Whether the run has the same value in the row before or after.
    scatter : float
        Probability that two runs with the same mean agree.
    agreeing, compared : int
        Number of pairs of runs with the same value at a step, and of all pairs at a step, without runs whose complete
        logs are equal.
    """

    at: Int64
    values: Float64
    is_repeated: npt.NDArray[np.bool_]
    scatter: float
    agreeing: int
    compared: int


class _Comparison:
    """The values of all metrics, by run and step."""

    def __init__(self, runs: ExaminedRuns) -> None:
        self.runs = runs
        keys: list[Int64] = []
        values: list[Float64] = []
        start = np.maximum(runs.branch, 0)
        trained = start + _UNTRAINED * np.maximum(runs.end - start, 0)
        for metric, observed in runs.observed.values():
            # A standard error depends on its metric, and a schedule is the same in many runs on purpose.
            if metric.stderr_of or (metric.kind == "log" and _is_schedule(observed)):
                continue
            run = np.repeat(np.arange(len(runs)), np.diff(observed.offsets))
            is_trained = ~np.isnan(observed.values) & (observed.tokens > trained[run])
            keys.append(np.stack([run[is_trained], observed.step[is_trained], observed.tokens[is_trained]]))
            values.append(observed.values[is_trained])
        every = np.concatenate([np.empty((3, 0), np.int64), *keys], axis=1)
        order = np.lexsort((every[2], every[1], every[0]))
        run, step, tokens = every[:, order]
        is_first = np.ones(len(run), bool)
        is_first[1:] = (run[1:] != run[:-1]) | (step[1:] != step[:-1])
        position = np.empty(len(run), np.int64)
        position[order] = np.cumsum(is_first) - 1
        # The rows of all metrics.
        self.run, self.step, self.tokens = run[is_first], step[is_first], tokens[is_first]
        self.n_values = np.bincount(position, minlength=len(self.run))
        self.offsets = np.searchsorted(self.run, np.arange(len(runs) + 1))
        ends = np.cumsum([0, *(k.shape[1] for k in keys)]).tolist()
        places = [position[a:b] for a, b in pairwise(ends)]
        self.row_hash = _row_hashes(len(self.run), places, values)
        self.log = self._logs()
        self.columns = [self._column(at, v) for at, v in zip(places, values, strict=True)]

    def pairs(self) -> list[EqualPair]:
        if not self.columns or len(self.runs) < 2:
            return []
        n = len(self.runs)
        needed = _DIGITS + np.log10(n * (n - 1) / 2)
        pairs = [self._compare(a, b) for a, b in self._candidates()]
        return [pair for pair in pairs if pair is not None and pair.evidence >= needed]

    def _logs(self) -> Int64:
        """Return the number of the log of each run; runs with equal logs of three or more rows share the number."""
        log = np.arange(len(self.runs))
        groups: dict[tuple[bytes, bytes], int] = {}
        for run in np.flatnonzero(np.diff(self.offsets) >= _FEWEST_VALUES).tolist():
            rows = slice(self.offsets[run], self.offsets[run + 1])
            log[run] = groups.setdefault((self.step[rows].tobytes(), self.row_hash[rows].tobytes()), run)
        return log

    def _column(self, at: Int64, values: Float64) -> _Column:
        order = np.argsort(at, kind="stable")
        at, values = at[order], values[order]
        run, step = self.run[at], self.step[at]
        is_like_next = (run[1:] == run[:-1]) & (values[1:] == values[:-1])
        is_repeated = np.zeros(len(at), bool)
        is_repeated[1:] |= is_like_next
        is_repeated[:-1] |= is_like_next
        # Of runs with equal logs only the first counts, as their agreement is the fault to detect.
        one = self.log[run] == run
        step, of_one = step[one], values[one]
        agreeing = _pairs_in(np.lexsort((of_one, step)), step, of_one)
        compared = _pairs_in(np.argsort(step), step)
        return _Column(at, values, is_repeated, _scatter(run, self.step[at], values), agreeing, compared)

    def _candidates(self) -> list[tuple[int, int]]:
        """Return pairs of runs that may have equal rows, the earlier one first."""
        # Equal logs; equal stretches of rows, which few runs have by chance; and rows with half of their values equal,
        # as one run may have a metric that the other has not.
        pairs = [(first, run) for run, first in enumerate(self.log.tolist()) if first != run]
        hashes = self.row_hash.copy()
        for k in range(1, _STRETCH):
            hashes[:-k] += self.row_hash[k:] * _MIX[k]
        inside = np.arange(len(self.run)) + _STRETCH <= self.offsets[self.run + 1]
        for which, of_rows in ((np.flatnonzero(inside), hashes), (np.arange(len(self.run)), self.row_hash)):
            left, right = self._neighbours(which, of_rows[which])
            pairs += zip(self.run[left].tolist(), self.run[right].tolist(), strict=True)
        sides = [self._neighbours(c.at, c.values) for c in self.columns]
        every = np.concatenate([a * len(self.run) + b for a, b in sides])
        pair, counts = np.unique(every, return_counts=True)
        left, right = np.divmod(pair, max(len(self.run), 1))
        likely = counts >= 0.5 * np.minimum(self.n_values[left], self.n_values[right])
        pairs += zip(self.run[left[likely]].tolist(), self.run[right[likely]].tolist(), strict=True)
        # Of runs with equal logs the first is compared with others.
        return [(a, b) for a, b in sorted(set(pairs)) if self.log[a] == a and self.log[b] in (a, b)]

    def _neighbours(self, at: Int64, key: npt.NDArray[Any]) -> tuple[Int64, Int64]:
        """Return pairs of rows with the same step and key, in consecutive runs."""
        order = np.lexsort((self.run[at], key, self.step[at]))
        row, key = at[order], key[order]
        same = (self.step[row][1:] == self.step[row][:-1]) & (key[1:] == key[:-1])
        return row[:-1][same], row[1:][same]

    def _compare(self, a: int, b: int) -> EqualPair | None:
        """Compare two runs, a before b; None where they have fewer than three equal values."""
        rows_a = np.arange(self.offsets[a], self.offsets[a + 1])
        rows_b = np.arange(self.offsets[b], self.offsets[b + 1])
        steps, in_a, in_b = np.intersect1d(self.step[rows_a], self.step[rows_b], return_indices=True)
        rows_a, rows_b = rows_a[in_a], rows_b[in_b]
        n = len(steps)
        differ, n_common = np.zeros(n, bool), np.zeros(n, np.int64)
        rarest = np.zeros((n, _COUNTED_METRICS + 1))
        is_equal = np.zeros((len(self.columns), n), bool)
        for m, column in enumerate(self.columns):
            at_a, at_b = _places(column.at, rows_a), _places(column.at, rows_b)
            both = (at_a >= 0) & (at_b >= 0)
            equal = both & (column.values[at_a] == column.values[at_b])
            is_equal[m] = equal
            n_common += both
            differ |= both & ~equal
            # The pair itself is excluded from the estimate of its chance.
            own = (0, 0) if self.log[a] == self.log[b] else (int(equal.sum()), int(both.sum()))
            others = column.compared - own[1]
            shared = (column.agreeing - own[0]) / others if others > 0 else 0.0
            digits = -np.log10(min(max(column.scatter, shared), 1.0))
            rarest[:, 0] = np.where(equal & ~column.is_repeated[at_a], digits, 0.0)
            rarest.sort(axis=1)
        equal = ~differ & (n_common > 0)
        k, of_equal = int(equal.sum()), is_equal[:, equal]
        if of_equal.sum() < _FEWEST_VALUES:
            return None
        ways = (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(10)
        has_no_others = n == np.diff(self.offsets)[a] == np.diff(self.offsets)[b]
        return EqualPair(
            run=b,
            other=a,
            steps=steps[equal],
            first=int(self.tokens[rows_b[equal][0]]),
            last=int(self.tokens[rows_b[equal][-1]]),
            common=n,
            is_complete=bool(has_no_others and k == n and k > 1),
            metrics=int(of_equal.any(axis=1).sum()),
            evidence=float(rarest[equal, 1:].sum() - ways),
        )


#: Number of consecutive rows whose joint hash identifies runs that share a part of their logs.
_STRETCH = 4
#: Odd numbers without a pattern, to mix bits; as many as `_STRETCH`.
_MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)


def _row_hashes(n: int, places: Sequence[Int64], values: Sequence[Float64]) -> npt.NDArray[np.uint64]:
    """Return a hash of the values of each row, including which metrics it has."""
    hashes = np.zeros(n, np.uint64)
    for m, (at, column) in enumerate(zip(places, values, strict=True)):
        # -0.0 and 0.0 are equal.
        bits = (column + 0.0).view(np.uint64) + np.uint64((m + 1) * int(_MIX[0]) % 2**64)
        for shift, mix in ((30, _MIX[1]), (27, _MIX[2])):
            bits = (bits ^ (bits >> np.uint64(shift))) * mix
        hashes[at] += bits ^ (bits >> np.uint64(31))
    return hashes


def _pairs_in(order: npt.NDArray[np.integer], *keys: npt.NDArray[Any]) -> int:
    """Return the number of pairs of values with equal keys; `order` sorts equal keys together."""
    if not len(order):
        return 0
    other = np.ones(len(order), bool)
    other[1:] = False
    for key in keys:
        other[1:] |= key[order][1:] != key[order][:-1]
    counts = np.diff(np.flatnonzero(np.append(other, True)))
    return int((counts * (counts - 1) // 2).sum())


def _scatter(run: Int64, step: Int64, values: Float64) -> float:
    """Return how often rows are within half a digit of the line between their neighbors."""
    if len(values) < 3:
        return 0.5
    residuals, _ = neighbor_residuals(step, values)
    off = np.abs(residuals[run[2:] == run[:-2]])
    gaps = np.diff(np.unique(values))
    # Equal numbers may differ in their last bits from rounding.
    gaps = gaps[gaps > 1e-12 * np.abs(values).max()]
    digit = float(gaps.min()) if len(gaps) else np.inf
    return float((np.count_nonzero(off <= 0.5 * digit) + 1) / (len(off) + 2))


def _places(at: Int64, rows: Int64) -> Int64:
    """Return the index of each row in `at`, which is ascending; -1 if absent."""
    if not len(at):
        return np.full(len(rows), -1, np.int64)
    place = np.minimum(np.searchsorted(at, rows), len(at) - 1)
    return np.where(at[place] == rows, place, -1)


def _is_schedule(observed: Observations) -> bool:
    """Return whether a logged metric is a function of the step: a learning rate, a count of tokens.

    Such a curve is smooth: the sign of a row's distance from the line between its neighbors seldom changes. With
    independent scatter, the sign changes in two of three rows.
    """
    run = np.repeat(np.arange(len(observed.offsets) - 1), np.diff(observed.offsets))
    off, _ = neighbor_residuals(observed.tokens, observed.values)
    # Rounding does not count as scatter.
    sides = np.where(np.abs(off) <= 1e-9 * np.abs(observed.values[1:-1]), 0, np.sign(off))
    within = (run[2:] == run[:-2]) & np.isfinite(off)
    both = within[1:] & within[:-1]
    changes = both & (sides[1:] * sides[:-1] < 0)
    return not both.any() or bool(changes.sum() < 0.1 * both.sum())
