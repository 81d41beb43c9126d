"""Token positions of the rows of training logs: logged, restored after a resume, or estimated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dde.array_types import Float64, Int64
from dde.lineage.counts import as_count
from dde.sources.protocols import TOKEN_COUNTERS, TRAINING_STEP, History
from dde.sources.values import as_float
from dde.suite.datadecide.runs.evidence import Evidence

__all__ = [
    "BEYOND",
    "COUNTER",
    "ESTIMATED",
    "LOGGED",
    "OTHER_COUNTERS",
    "RESTORED",
    "TOKEN_SOURCES",
    "TULU_TOKENS_PER_SEQUENCE",
    "Log",
    "Placement",
    "measure_tokens_per_sequence",
    "place_counted",
    "place_run",
    "planned_tokens",
    "restore_counter",
    "split_logs",
]


#: Key of the usual token counter of logs.
COUNTER = TOKEN_COUNTERS[0]
#: Keys that are read for runs without that counter.
OTHER_COUNTERS = (*TOKEN_COUNTERS[1:], TRAINING_STEP)


@dataclass(frozen=True, slots=True)
class Log:
    """Steps and token counter of the log of one run.

    Attributes
    ----------
    steps : (row,) int64 array
        Distinct steps, ascending and not negative.
    counter : (row,) float64 array
        Logged token counts; NaN for rows without one.
    key : str
        Key of the counter; "" if there is none.
    training : (row,) int64 array or None
        Training step of each row, if the log records it separately from its own step.
    notes : tuple of str
        Parts of the log that were not used, with the reason.
    repeated_steps, impossible_counts : int
        Number of rows at a step that an earlier row has, and of impossible counts.
    """

    steps: Int64
    counter: Float64
    key: str = ""
    training: Int64 | None = None
    notes: tuple[str, ...] = ()
    repeated_steps: int = 0
    impossible_counts: int = 0

    @property
    def trained(self) -> Int64:
        """Training step of each row."""
        return self.steps if self.training is None else self.training

    def rows(self, selected: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Log:
        """Return the log with some of its rows."""
        training = None if self.training is None else self.training[selected]
        return replace(self, steps=self.steps[selected], counter=self.counter[selected], training=training)

    def without_counter(self) -> Log:
        """Return a copy of the log with its steps only, so that the arrays of all runs can be freed."""
        training = None if self.training is None else self.training.copy()
        nothing = np.broadcast_to(np.nan, self.steps.shape)
        return replace(self, steps=self.steps.copy(), counter=nothing, training=training)


def split_logs(
    run_ids: Sequence[str], rows: History, evidence: Mapping[str, Evidence] | None = None
) -> Iterator[tuple[str, Log]]:
    """Yield each run with its log.

    Parameters
    ----------
    run_ids : sequence of str
        Runs of the rows, in that order.
    rows : History
        Token counters, and possibly the training step.
    evidence : mapping of str to Evidence, optional
        Evidence by run id; determines which counters are unreliable.
    """
    bounds = np.searchsorted(rows.run, np.arange(len(run_ids) + 1)).tolist()
    counters = {key: rows.values[key] for key in TOKEN_COUNTERS if key in rows.values}
    odd = _odd_rows(run_ids, rows, counters.values())
    counters = {key: _possible(counts) for key, counts in counters.items()}
    training = rows.values.get(TRAINING_STEP)
    for i, run_id in enumerate(run_ids):
        part = slice(bounds[i], bounds[i + 1])
        steps = rows.step[part]
        notes: list[str] = []
        trained = None if training is None else training[part]
        usable = _placed_rows(steps, trained, notes)
        chosen, counter = "", np.broadcast_to(np.nan, steps.shape)
        for key, counts in counters.items():
            own = counts[part] if usable is None else np.where(usable, counts[part], np.nan)
            if np.isfinite(own).any() and not (evidence and _refused(key, own, evidence[run_id], notes)):
                chosen, counter = key, own
                break
        log = Log(steps, counter, chosen, None, tuple(notes), *odd.get(run_id, (0, 0)))
        if usable is not None:
            log = log.rows(usable)
            if trained is not None and not np.isnan(trained).all():
                log = replace(log, training=np.rint(trained[usable]).astype(np.int64))
        yield run_id, _distinct_steps(log)


def _placed_rows(steps: Int64, trained: Float64 | None, notes: list[str]) -> npt.NDArray[np.bool_] | None:
    """Return which rows of a run have a step, in training, too, where any row has; None where all rows have.

    Rows are ordered by step.
    """
    if not len(steps) or (steps[0] >= 0 and (trained is None or np.isnan(trained).all())):
        return None
    usable = steps >= 0
    if trained is not None and not np.isnan(trained).all():
        usable &= (trained >= 0) & (trained < 2.0**53)
    if not usable.all():
        notes.append(f"{np.count_nonzero(~usable)} logged rows at no step of the training, which have no place")
    return usable


def _odd_rows(run_ids: Sequence[str], rows: History, counters: Iterable[Float64]) -> dict[str, tuple[int, int]]:
    """Return how many rows of each run repeat a step, and how many counts are impossible; runs without any left out."""
    repeated = (rows.run[1:] == rows.run[:-1]) & (rows.step[1:] == rows.step[:-1])
    impossible = [rows.run[found] for counts in counters if (found := _impossible(counts)).any()]
    if not repeated.any() and not impossible:
        return {}
    counted = [rows.run[1:][repeated], np.concatenate([rows.run[:0], *impossible])]
    counts = [np.bincount(part, minlength=len(run_ids)) for part in counted]
    odd = np.flatnonzero(counts[0] + counts[1]).tolist()
    return {run_ids[i]: (int(counts[0][i]), int(counts[1][i])) for i in odd}


def _impossible(counter: Float64) -> npt.NDArray[np.bool_]:
    """Return which counts are impossible: negative, or so large that floats do not represent every integer."""
    return (counter < 0) | (counter >= 2.0**53)


def _possible(counter: Float64) -> Float64:
    impossible = _impossible(counter)
    return np.where(impossible, np.nan, counter) if impossible.any() else counter


def _refused(key: str, counts: Float64, item: Evidence, notes: list[str]) -> bool:
    """Return whether a counter of several programs is none of the run's tokens so far, and note why."""
    if key != "perf/total_tokens":
        return False
    interval = as_float(item.config_or_command("logging_steps"))
    if interval > 1:
        # open-instruct's PerfCallback adds up the tokens of the steps at which metrics are collected, no others.
        notes.append(f"{key}: counts one of {interval:g} steps (logging_steps), not all of them; not used")
        return True
    falls = np.count_nonzero(np.diff(counts[np.isfinite(counts)]) < 0)
    if falls > max(1, len(counts) // 4):
        # verl logs the tokens of each step under this key.
        notes.append(f"{key}: falls {falls} times in {len(counts)} rows, so it counts each step alone; not used")
        return True
    return False


def _distinct_steps(log: Log) -> Log:
    """Keep one count per step: the first that is a number (rows are ordered by step, then by the store)."""
    steps = log.steps
    if len(steps) < 2 or (np.diff(steps) > 0).all():
        return log
    order = np.lexsort((np.arange(len(steps)), ~np.isfinite(log.counter), steps))
    first = np.concatenate([[True], np.diff(steps[order]) > 0])
    return log.rows(order[first])


LOGGED, RESTORED, ESTIMATED = 0, 1, 2
#: Names of the codes, in order of their codes.
TOKEN_SOURCES = ("logged", "restored", "estimated")

# Run types of which a sequence counts as many tokens as one of finetuning; of a run without a type nothing is known.
_FINETUNING = ("supervised_ft", "other")

#: Tokens that a sequence of the Tulu 3 SFT mixture counts on average, in the runs whose counters were logged.
TULU_TOKENS_PER_SEQUENCE = 712


#: Why a run whose tokens exceed 64 bits has no position.
BEYOND = "more tokens than 64 bits count"
_NO_EVIDENCE = "neither counter, sequences, batch nor budget"
# The largest float that is a 64-bit integer.
_MOST = float(2**63 - 1024)


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows of one run on the axis of its own tokens.

    Attributes
    ----------
    steps : (row,) int64 array
        Distinct steps that were logged, ascending.
    tokens : (row,) int64 array
        Tokens since the run's own start; never falling.
    source : (row,) int8 array
        LOGGED, RESTORED or ESTIMATED.
    end : int or None
        Tokens at the run's end, where its evaluations belong; None where nothing tells.
    end_source : int
        How the end is known.
    estimate : str
        The rule and the numbers of an estimate; "" where nothing was estimated.
    rate : (float, float) or None
        Tokens, and the steps that count them, where rows are placed by their steps alone.
    training : (row,) int64 array or None
        Training step of each row, if the log records it separately from its own step.
    problem : str
        Why nothing has a place; "" where something has.
    """

    steps: Int64
    tokens: Int64
    source: npt.NDArray[np.int8]
    end: int | None
    end_source: int
    estimate: str = ""
    rate: tuple[float, float] | None = None
    training: Int64 | None = None
    problem: str = ""

    @property
    def trained(self) -> Int64:
        """Training step of each row."""
        return self.steps if self.training is None else self.training


def restore_counter(steps: Int64, counter: npt.NDArray[np.float64]) -> tuple[Int64, npt.NDArray[np.int8]]:
    """Return the true count of tokens of a counter that may have fallen back.

    W&B's counter starts anew when a job resumes, while steps go on. At such a row the count goes on from the
    row before at the run's own rate, and from there with the counter's own increments.

    Parameters
    ----------
    steps : (row,) int64 array
        Ascending, distinct.
    counter : (row,) float64 array
        Logged counts; finite.

    Returns
    -------
    tokens : (row,) int64 array
        Never falling.
    source : (row,) int8 array
        LOGGED up to the first fall, RESTORED from there.

    Examples
    --------
    >>> tokens, source = restore_counter(np.array([1, 2, 3, 4]), np.array([10.0, 20.0, 5.0, 15.0]))
    >>> tokens.tolist(), source.tolist()
    ([10, 20, 30, 40], [0, 0, 1, 1])
    """
    increments = np.diff(counter)
    falls = np.concatenate([[False], increments < 0])
    source = np.where(np.cumsum(falls) > 0, RESTORED, LOGGED).astype(np.int8)
    if not falls.any():
        return np.rint(counter).astype(np.int64), source
    sound = increments >= 0
    gaps = np.diff(steps)
    # Where the counter fell between every two rows, only the count of the first row tells the rate.
    rate = increments[sound].sum() / gaps[sound].sum() if sound.any() else counter[0] / max(steps[0], 1)
    grown = np.where(falls[1:], rate * gaps, increments)
    tokens = counter[0] + np.concatenate([[0.0], np.cumsum(grown)])
    # Before the first fall the logged numbers are right.
    tokens[: int(np.argmax(falls))] = counter[: int(np.argmax(falls))]
    tokens = np.minimum(tokens, _MOST)
    return np.rint(tokens).astype(np.int64), source


def measure_tokens_per_sequence(runs: Iterable[tuple[Evidence, Log]]) -> dict[str, int]:
    """Return the mean tokens of a sequence, per training mixture, over runs with a complete logged counter.

    Parameters
    ----------
    runs : iterable of (Evidence, Log)
        A count that is impossible with a run's batch is left out, and the batch is forgotten; see
        :meth:`dde.suite.datadecide.runs.evidence.Evidence.refuse_batch`.

    Returns
    -------
    dict of str to int
        Mixture to tokens per sequence, rounded to an integer; all runs of a mixture pooled.
    """
    tokens: dict[str, float] = {}
    sequences: dict[str, float] = {}
    for item, log in runs:
        per_step, counter = item.sequences_per_step, log.counter
        if per_step is None or not item.dataset or item.run_type not in _FINETUNING or item.fork is not None:
            continue
        known = np.isfinite(counter)
        if not known.any() or (np.diff(counter[known]) < 0).any():
            continue
        last = int(np.flatnonzero(known)[-1])
        step = int(log.trained[last])
        if item.refuse_batch(float(counter[last]), step):
            continue
        tokens[item.dataset] = tokens.get(item.dataset, 0.0) + float(counter[last])
        sequences[item.dataset] = sequences.get(item.dataset, 0.0) + float(step * per_step)
    return {d: round(tokens[d] / sequences[d]) for d in tokens if sequences[d] > 0 and tokens[d] > 0}


def place_run(
    item: Evidence, log: Log, measured: Mapping[str, int], tokens_per_sequence: float | None = None
) -> Placement:
    """Return the rows of a run on the axis of its own tokens.

    Parameters
    ----------
    item : Evidence
    log : Log
    measured : mapping of str to int
        Tokens per sequence by mixture, from :func:`measure_tokens_per_sequence`.
    tokens_per_sequence : float, optional
        Overrides what was measured.
    """
    forked_at = None if item.fork is None else item.fork.step
    if log.key:
        return place_counted(log, forked_at)
    per_sequence = tokens_per_sequence or measured.get(item.dataset, TULU_TOKENS_PER_SEQUENCE)
    none = np.empty(0, np.int64)
    if not len(log.steps) and forked_at is None:
        summary = item.record.summary
        count = next((c for c in (as_float(summary.get(key)) for key in TOKEN_COUNTERS) if math.isfinite(c)), math.nan)
        if math.isfinite(count):
            end = as_count(count)
            return _unplaced(BEYOND) if end is None else Placement(none, none, none.astype(np.int8), end, LOGGED)
    if item.run_type not in (*_FINETUNING, "dpo") and tokens_per_sequence is None:
        return _unplaced(
            f"it logged no counter, and how many tokens a sequence of {item.run_type} has is unknown; pass "
            f"tokens_per_sequence={{{item.run_type!r}: ...}}"
        )
    if item.run_type == "dpo" or forked_at is not None:
        return _place_by_batch(item, log, per_sequence, 2 if item.run_type == "dpo" else 1, forked_at)
    total, rule = _total_tokens(item, per_sequence)
    finished = item.record.state == "finished"
    if len(log.steps) and not (finished and rule):
        placed = _place_by_batch(item, log, per_sequence, pair=1)
        if placed.end is not None or placed.problem != _NO_EVIDENCE:
            return placed
    if not rule or (len(log.steps) and not finished):
        return _unplaced()
    if total is None:
        return _unplaced(f"{rule}: {BEYOND}")
    # A finished run has used its entire budget by its last step.
    last = max(int(log.trained[-1]), 1) if len(log.steps) else 1
    return place_by_rate(log, (total, last), total, rule)


def place_counted(log: Log, forked_at: int | None = None) -> Placement:
    """Return the rows of a run with a token counter on the axis of its own tokens.

    Parameters
    ----------
    log : Log
    forked_at : int, optional
        Step at which the run was forked from another: the rows up to it are the other run's.
    """
    start, count_at_start, rule = 0, 0.0, ""
    if forked_at is not None:
        own = log.rows(log.steps > forked_at)
        count, rule = _count_at_fork(log, own, forked_at)
        if count is None:
            return _unplaced("nothing tells whether its counter went on from the run that it was forked from")
        log, start, count_at_start = own, forked_at, count
    steps, counter = log.steps, log.counter - count_at_start if count_at_start else log.counter
    known = np.isfinite(counter)
    tokens, source = restore_counter(steps[known], counter[known])
    if not known.all():
        # Rows without a count between rows that have one: their place follows from the step.
        first, last = np.flatnonzero(known)[[0, -1]]
        rate = tokens[-1] / max(int(steps[last]) - start, 1)
        x = np.concatenate([[start], steps[known]]) if steps[first] > start else steps[known]
        y = np.concatenate([[0], tokens]) if steps[first] > start else tokens
        interpolated = np.interp(steps, x, y)
        interpolated[last + 1 :] = tokens[-1] + rate * (steps[last + 1 :] - steps[last])
        all_source = np.full(len(steps), ESTIMATED, np.int8)
        all_source[known] = source
        placed = np.rint(np.minimum(interpolated, _MOST)).astype(np.int64)
        placed[known] = tokens
        tokens, source = placed, all_source
    if tokens[-1] >= _MOST:
        return _unplaced(BEYOND)
    if rule:
        source = np.full(len(steps), ESTIMATED, np.int8)
    return Placement(steps, tokens, source, int(tokens[-1]), int(source[-1]), rule, training=log.training)


def _count_at_fork(log: Log, own: Log, forked_at: int) -> tuple[float | None, str]:
    """Return what the counter of a forked run had counted where it was forked, and by which rule an estimate is made.

    The count is None if that is unknown.

    A trainer that restores its state counts on, any other one from 0. Rows of the other run, where the log has them,
    give the count; without them, the rate of the run's own rows tells which of the two it is.
    """
    known = np.isfinite(own.counter)
    if not known.any():
        return None, ""
    first = int(np.flatnonzero(known)[0])
    before = np.isfinite(log.counter) & (log.steps <= forked_at)
    if before.any():
        last = float(log.counter[np.flatnonzero(before)[-1]])
        return last if own.counter[first] >= last else 0.0, ""
    steps, counts = own.steps[known], own.counter[known]
    if len(steps) < 2 or counts[-1] <= counts[0]:
        return None, ""
    rate = float(counts[-1] - counts[0]) / float(steps[-1] - steps[0])
    expected = rate * float(steps[0] - forked_at)
    if math.isclose(float(counts[0]), expected, rel_tol=_RATE_TOLERANCE):
        return 0.0, ""
    if counts[0] < expected:
        return None, ""
    at_fork = float(counts[0]) - expected
    return at_fork, f"counter went on from {at_fork:.0f} at step {forked_at}, by the rate of the rows behind it"


# A counter that began at the fork gives the run's own rate up to this share.
_RATE_TOLERANCE = 0.25


def place_by_rate(
    log: Log, rate: tuple[float, float], end: int | None, rule: str, forked_at: int | None = None
) -> Placement:
    """Return the rows of a run on the axis of its own tokens, estimated from their steps alone.

    Parameters
    ----------
    log : Log
    rate : (float, float)
        Tokens, and the steps that count them.
    end, rule
        As the fields `end` and `estimate` of the placement.
    forked_at : int, optional
        As of :func:`place_counted`.
    """
    own = log if forked_at is None else log.rows(log.steps > forked_at)
    trained = own.trained if forked_at is None else own.trained - forked_at
    exact = trained / rate[1] * rate[0]
    if len(exact) and exact.max() >= _MOST:
        return _unplaced(f"{rule}: {BEYOND}")
    tokens = np.rint(exact).astype(np.int64)
    source = np.full(len(tokens), ESTIMATED, np.int8)
    return Placement(own.steps, tokens, source, end, ESTIMATED, rule, rate, own.training)


def _place_by_batch(
    item: Evidence, log: Log, per_sequence: float, pair: int, forked_at: int | None = None
) -> Placement:
    """Place rows by sequences per step; `pair` is 2 where a step reads a chosen and a rejected answer."""
    per_step, summary = item.sequences_per_step, item.record.summary
    stated = summary.get(TRAINING_STEP, summary.get("_step"))
    last = int(log.trained[-1]) if len(log.steps) else as_count(as_float(stated))
    if per_step is None or not last:
        return _unplaced()
    rate = per_step * pair * per_sequence
    rule = f"step x {per_step} sequences x {f'{pair} x ' if pair > 1 else ''}{per_sequence:g} tokens"
    end = as_count((last - (forked_at or 0)) * rate)
    return _unplaced(f"{rule}: {BEYOND}") if end is None else place_by_rate(log, (rate, 1), end, rule, forked_at)


def _unplaced(problem: str = _NO_EVIDENCE) -> Placement:
    none = np.empty(0, np.int64)
    return Placement(none, none, none.astype(np.int8), None, ESTIMATED, problem=problem)


def planned_tokens(item: Evidence, tokens_per_sequence: float) -> int | None:
    """Return the tokens that a finetuning run was planned to train on; None where nothing tells, and of others."""
    return _total_tokens(item, tokens_per_sequence)[0] if item.run_type in _FINETUNING else None


def _total_tokens(item: Evidence, per_sequence: float) -> tuple[int | None, str]:
    """Return the tokens of a complete finetuning run, and the rule: sequences where known, else the budget.

    The tokens are None where nothing tells, and where 64 bits do not count them; the rule is "" where nothing tells.
    """
    epochs = float(item.hyperparameters.get("epochs", 1.0))
    samples = as_float(item.hyperparameters.get("max_train_samples"))
    unique = as_float(item.record.config.get("finetune_unique_sequences"))
    for per_epoch in (samples, unique):
        if math.isfinite(per_epoch) and per_epoch > 0:
            return (
                as_count(per_epoch * epochs * per_sequence),
                f"{per_epoch:g} sequences x {epochs:g} epochs x {per_sequence:g} tokens",
            )
    sequences = as_float(item.record.config.get("finetune_sequences"))
    if not math.isfinite(sequences):
        sequences = as_float(item.extras.get("finetune_sequences"))
    if math.isfinite(sequences) and sequences > 0:
        return as_count(sequences * per_sequence), f"{sequences:g} sequences x {per_sequence:g} tokens"
    budget = as_float(item.hyperparameters.get("finetune_tokens"))
    if math.isfinite(budget) and budget > 0:
        return as_count(budget * epochs), f"nominal budget of {budget:g} tokens x {epochs:g} epochs"
    return None, ""
