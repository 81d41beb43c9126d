"""Token positions of derived runs: the ends of all runs, and the rows of as many runs as fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dde.array_types import Int64
from dde.lineage.counts import MOST
from dde.sources.protocols import History
from dde.suite.datadecide.runs.evidence import Evidence
from dde.suite.datadecide.runs.parents import Parentage
from dde.suite.datadecide.runs.token_counts import (
    BEYOND,
    TOKEN_SOURCES,
    TULU_TOKENS_PER_SEQUENCE,
    Log,
    Placement,
    measure_tokens_per_sequence,
    place_run,
    split_logs,
)

__all__ = [
    "MAX_ROWS_IN_MEMORY",
    "NO_DATA",
    "PlacedRun",
    "Placements",
    "RunEnd",
    "has_data",
    "status_of",
    "tokens_of_steps",
]


#: Status of a run that logged and evaluated nothing, or beginning of the status of one whose rows have no step.
NO_DATA = "no data"
#: Largest number of rows whose token positions stay in memory, at about 17 bytes each.
MAX_ROWS_IN_MEMORY = 4_000_000
# Number of runs whose counters are read at once. A store without an index is scanned once per block.
_BLOCK_RUNS = 5_000


@dataclass(frozen=True, slots=True)
class RunEnd:
    """End of a run on the axis of its own tokens; most fields are those of `Placement`.

    Attributes
    ----------
    tokens : int or None
    source : int
    estimate : str
    rate : (float, float) or None
    last_step : int
        Last logged step with a position; -1 if there is none.
    has_log : bool
    counter : str
        Key of the logged token counter that alone determines the positions of rows; "" if there is none.
    has_training_step : bool
        Whether the log records the training step separately from its own step.
    forked_at : int or None
        Step at which the run was forked from its parent.
    problem : str
        Reason why no row has a position; "" otherwise.
    notes : tuple of str
        Parts of the log that were not used, with the reason.
    repeated_steps : int
        Number of logged rows at a step that an earlier row of the run has.
    impossible_counts : int
        Number of logged token counts below 0 or beyond 2**53; they are treated as missing.
    n_rows : int
        Number of logged rows with a position.
    """

    tokens: int | None
    source: int
    estimate: str
    rate: tuple[float, float] | None
    last_step: int
    has_log: bool
    counter: str = ""
    has_training_step: bool = False
    forked_at: int | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    repeated_steps: int = 0
    impossible_counts: int = 0
    n_rows: int = 0

    def oddities(self, rows_without_step: int) -> dict[str, int]:
        """Return the number of problems in the run's log, by kind; the store left out `rows_without_step` rows."""
        counts = {
            "logged rows without a step that can be used": rows_without_step,
            "logged rows at a step that was logged before": self.repeated_steps,
            "token counts that are not counts": self.impossible_counts,
        }
        return {what: count for what, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class PlacedRun:
    """Position of a derived run on its lineage's axis of cumulative tokens.

    Attributes
    ----------
    branch_tokens, end_tokens : int or None
        None where unknown; a run without any data has no end.
    end : RunEnd
    status : str
        ``used``, or the reason why the run can't be in a Dataset.
    branch_estimate : str
        How the branch was estimated, if no logged row of the parent gives it.
    """

    branch_tokens: int | None
    end_tokens: int | None
    end: RunEnd
    status: str
    branch_estimate: str = ""

    @property
    def token_source(self) -> str:
        """Source of the end; "" if the end is unknown."""
        return "" if self.end_tokens is None else TOKEN_SOURCES[self.end.source]

    @property
    def end_estimate(self) -> str:
        """Rule and numbers of an estimated end; "" if the end is logged or unknown."""
        return "" if self.end_tokens is None else self.end.estimate


class Placements:
    """Rows of derived runs by own tokens; computed in one pass over the counters of their logs.

    Parameters
    ----------
    evidence : mapping of str to Evidence
        By run id.
    counters : callable
        Returns the token counters of runs: all rows of their logs.
    other_counters : callable
        Returns `OTHER_COUNTERS` of runs that have rows and no token counter.
    override : callable
        Returns the given number of tokens of a run's sequences, or None.
    """

    def __init__(
        self,
        evidence: Mapping[str, Evidence],
        counters: Callable[[Sequence[str]], History],
        other_counters: Callable[[Sequence[str]], History],
        override: Callable[[Evidence], float | None],
    ) -> None:
        self._evidence, self._override = evidence, override
        self._counters, self._other_counters = counters, other_counters
        #: End of each run, by run id.
        self.ends: dict[str, RunEnd] = {}
        self._in_memory: dict[str, Placement] = {}
        self._rows = 0
        uncounted: list[tuple[str, Log]] = []

        def counted() -> Iterator[tuple[Evidence, Log]]:
            run_ids = list(evidence)
            for start in range(0, len(run_ids), _BLOCK_RUNS):
                for run_id, log in self._logs(run_ids[start : start + _BLOCK_RUNS]):
                    if log.key:
                        self._note(run_id, self._place(run_id, log, {}), log)
                    else:
                        # The tokens of its sequences are estimated from all other runs.
                        uncounted.append((run_id, log.without_counter()))
                    if evidence[run_id].record.state == "finished":
                        yield evidence[run_id], log

        self._measured = measure_tokens_per_sequence(counted())
        for run_id, log in uncounted:
            self._note(run_id, self._place(run_id, log, self._measured), log)

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs, in that order; reads counters again if they are not in memory."""
        missing = [r for r in run_ids if r not in self._in_memory]
        found = {r: self._place(r, log, self._measured) for r, log in self._logs(missing)}
        return [self._in_memory[r] if r in self._in_memory else found[r] for r in run_ids]

    def tokens_per_sequence(self, run_id: str) -> float:
        """Return the tokens of a training sequence of a run: as given, else as measured on its mixture."""
        item = self._evidence[run_id]
        return self._override(item) or self._measured.get(item.dataset, TULU_TOKENS_PER_SEQUENCE)

    def some_tokens(self, run_ids: Sequence[str], at_most: int) -> list[Int64]:
        """Return the own tokens of the rows of runs; if the store does not fit in memory, of `at_most` rows each."""
        found: list[Int64] = []
        for start in range(0, len(run_ids), _BLOCK_RUNS):
            for placement in self.of(run_ids[start : start + _BLOCK_RUNS]):
                stride = 1 if self._rows <= MAX_ROWS_IN_MEMORY else max(-(-len(placement.tokens) // at_most), 1)
                found.append(placement.tokens[::stride])
        return found

    def _logs(self, run_ids: Sequence[str]) -> Iterator[tuple[str, Log]]:
        if not run_ids:
            return
        without: dict[str, Log] = {}
        for run_id, log in split_logs(run_ids, self._counters(run_ids)):
            if log.key or not len(log.steps):
                yield run_id, log
            else:
                without[run_id] = log
        if without:
            others = self._other_counters(list(without))
            for run_id, log in split_logs(list(without), others, self._evidence):
                impossible = log.impossible_counts + without[run_id].impossible_counts
                yield run_id, replace(log, impossible_counts=impossible) if impossible else log

    def _place(self, run_id: str, log: Log, measured: Mapping[str, int]) -> Placement:
        item = self._evidence[run_id]
        return place_run(item, log, measured, self._override(item))

    def _note(self, run_id: str, placement: Placement, log: Log) -> None:
        steps, fork = placement.steps, self._evidence[run_id].fork
        last = int(steps[-1]) if len(steps) else -1
        self.ends[run_id] = RunEnd(
            *(placement.end, placement.end_source, placement.estimate, placement.rate, last),
            has_log=len(log.steps) > 0,
            counter=log.key,
            has_training_step=log.training is not None,
            forked_at=None if fork is None else fork.step,
            problem=placement.problem,
            notes=log.notes,
            repeated_steps=log.repeated_steps,
            impossible_counts=log.impossible_counts,
            n_rows=len(steps),
        )
        self._rows += len(steps)
        if self._rows <= MAX_ROWS_IN_MEMORY:
            self._in_memory[run_id] = placement
        else:
            self._in_memory.clear()


def has_data(evidence: Evidence, end: RunEnd) -> bool:
    """Return whether a run logged or evaluated anything."""
    return end.has_log or evidence.record.evaluated


def status_of(
    found: Parentage,
    evidence: Evidence,
    branch: int | None,
    end: RunEnd,
    placed: Mapping[str, PlacedRun],
    problem: str = "",
) -> str:
    """Return ``used``, or why a run can't be in a Dataset; `problem` is the reason why its branch is unknown."""
    if evidence.record.problem:
        return evidence.record.problem
    if evidence.run_type == "other":
        return (
            "unknown run type: neither program, config, tags nor name says it. Pass "
            f"run_types={{{evidence.record.run_id!r}: 'supervised_ft'}} to settle it, or another type"
        )
    if evidence.refused:
        return f"treatment unknown: {evidence.refused}"
    if found.parent_run_id and not found.in_store:
        return "parent not in store"
    if found.problem or not found.parent_run_id:
        return f"no parent found: {found.problem}" if found.problem else "no parent found"
    parent = placed.get(found.parent_run_id)
    # A parent without data has no curve, but its end may be known.
    if parent is not None and parent.status != "used" and not parent.status.startswith(NO_DATA):
        # All runs after it in the chain get the same reason.
        return f"{_PARENT_NOT_USABLE}{parent.status.removeprefix(_PARENT_NOT_USABLE)}"
    if branch is None:
        return f"branch unknown: {problem}"
    if not has_data(evidence, end):
        lost = evidence.record.rows_without_step
        return f"{NO_DATA}: none of its {lost} logged rows has a step that can be used" if lost else NO_DATA
    if end.tokens is None:
        return f"tokens unknown: {end.problem}"
    if end.tokens <= 0:
        return "no tokens of its own"
    if branch + end.tokens > MOST:
        return f"tokens unknown: {BEYOND}"
    return "used"


_PARENT_NOT_USABLE = "parent not usable: "


def tokens_of_steps(placement: Placement, steps: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the run's own tokens at logged steps, and which of the steps have a position."""
    if not len(placement.steps):
        return np.zeros(len(steps), np.int64), np.zeros(len(steps), bool)
    at = np.minimum(np.searchsorted(placement.steps, steps), len(placement.steps) - 1)
    return placement.tokens[at], placement.steps[at] == steps
