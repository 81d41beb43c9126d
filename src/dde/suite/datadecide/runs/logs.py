"""What training logs tell of the tokens of their runs: distinct steps, and the counter that can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dde.sources.protocols import TOKEN_COUNTERS, TRAINING_STEP, History
from dde.sources.values import as_float
from dde.suite.datadecide.runs.evidence import Evidence

__all__ = ["COUNTER", "OTHER_COUNTERS", "Log", "split_logs"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: Key of the log that counts the tokens of most runs.
COUNTER = TOKEN_COUNTERS[0]
#: Keys that are read of runs without that counter.
OTHER_COUNTERS = (*TOKEN_COUNTERS[1:], TRAINING_STEP)


@dataclass(frozen=True, slots=True)
class Log:
    """What the log of one run tells of its tokens.

    Attributes
    ----------
    steps : (row,) int64 array
        Distinct steps, ascending and not negative.
    counter : (row,) float64 array
        Logged counts of tokens; NaN where a row has none.
    key : str
        Key of the counter; "" where there is none.
    training : (row,) int64 array or None
        Training step of each row, where the log keeps it apart from its own step.
    notes : tuple of str
        What was not used, and why.
    repeated_steps, impossible_counts : int
        Rows at a step that an earlier one has, and counts that no run has.
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

    def rows(self, kept: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Log:
        """Return the log with some of its rows."""
        training = None if self.training is None else self.training[kept]
        return replace(self, steps=self.steps[kept], counter=self.counter[kept], training=training)

    def without_counter(self) -> Log:
        """Return the log with its steps alone, apart from the arrays that they were read into."""
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
        Those that the rows were read of, in that order.
    rows : History
        With token counters, and perhaps the training step.
    evidence : mapping of str to Evidence, optional
        By run id; tells which counters can't be believed.
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
        kept = _placed_rows(steps, trained, notes)
        chosen, counter = "", np.broadcast_to(np.nan, steps.shape)
        for key, counts in counters.items():
            own = counts[part] if kept is None else np.where(kept, counts[part], np.nan)
            if np.isfinite(own).any() and not (evidence and _refused(key, own, evidence[run_id], notes)):
                chosen, counter = key, own
                break
        log = Log(steps, counter, chosen, None, tuple(notes), *odd.get(run_id, (0, 0)))
        if kept is not None:
            log = log.rows(kept)
            if trained is not None and not np.isnan(trained).all():
                log = replace(log, training=np.rint(trained[kept]).astype(np.int64))
        yield run_id, _distinct_steps(log)


def _placed_rows(steps: Int64, trained: Float64 | None, notes: list[str]) -> npt.NDArray[np.bool_] | None:
    """Return which rows of a run have a step, in training, too, where any row has; None where all rows have.

    Rows are ordered by step.
    """
    if not len(steps) or (steps[0] >= 0 and (trained is None or np.isnan(trained).all())):
        return None
    kept = steps >= 0
    if trained is not None and not np.isnan(trained).all():
        kept &= (trained >= 0) & (trained < 2.0**53)
    if not kept.all():
        notes.append(f"{np.count_nonzero(~kept)} logged rows at no step of the training, which have no place")
    return kept


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
    """Return which counts are no counts: neighbours beyond 2**53 are no longer apart, and int64 ends at 2**63."""
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
