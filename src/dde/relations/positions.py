"""Where derived runs lie on the axis of tokens: their ends, held for all, and their rows, as far as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dde.relations.evidence import Evidence
from dde.relations.parents import Parentage
from dde.relations.token_counts import (
    TOKEN_SOURCES,
    TULU_TOKENS_PER_SEQUENCE,
    Placement,
    measure_tokens_per_sequence,
    place_run,
)
from dde.sources.protocols import History

__all__ = [
    "COUNTER",
    "HELD_ROWS",
    "NO_DATA",
    "PlacedRun",
    "Placements",
    "RunEnd",
    "has_data",
    "split_counters",
    "status_of",
    "tokens_of_steps",
]

Int64 = npt.NDArray[np.int64]

#: Status of a run that logged and evaluated nothing; it goes on where rows were logged that have no place.
NO_DATA = "no data"
#: Key of the log that counts a run's tokens.
COUNTER = "total_tokens"
#: Rows whose places are held in memory, some 17 bytes each; those of larger stores are made again when asked for.
HELD_ROWS = 4_000_000
# Runs whose counters are read at once. A store without an index is scanned as often: most stores once.
_BLOCK_RUNS = 5_000


@dataclass(frozen=True, slots=True)
class RunEnd:
    """Where a run ends on the axis of its own tokens; fields as of :class:`dde.relations.token_counts.Placement`.

    Attributes
    ----------
    tokens : int or None
    source : int
    estimate : str
    rate : (float, float) or None
    last_step : int
        Last logged step that is placed; -1 without any.
    has_log : bool
    is_counted : bool
        Whether a token counter was logged, by which alone the rows are placed.
    repeated_steps : int
        Logged rows at a step that an earlier row of the run has.
    impossible_counts : int
        Logged token counts that no run has, below 0 or beyond 2**53; they are taken for absent.
    """

    tokens: int | None
    source: int
    estimate: str
    rate: tuple[float, float] | None
    last_step: int
    has_log: bool
    is_counted: bool
    repeated_steps: int = 0
    impossible_counts: int = 0

    def oddities(self, rows_without_step: int) -> dict[str, int]:
        """Return what is odd about the run's log, counted; `rows_without_step` are those that the store left out."""
        counts = {
            "logged rows without a step that can be used": rows_without_step,
            "logged rows at a step that was logged before": self.repeated_steps,
            "token counts that are no counts": self.impossible_counts,
        }
        return {what: count for what, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class PlacedRun:
    """Where a derived run lies on its lineage's axis of cumulative tokens.

    Attributes
    ----------
    branch_tokens, end_tokens : int or None
        None where unknown; a run without any data has no end.
    end : RunEnd
    status : str
        ``used``, or why the run can't be in a Dataset.
    branch_estimate : str
        How the branch was found, where no logged row of the parent gives it.
    """

    branch_tokens: int | None
    end_tokens: int | None
    end: RunEnd
    status: str
    branch_estimate: str = ""

    @property
    def token_source(self) -> str:
        """How the end is known; "" where it isn't."""
        return "" if self.end_tokens is None else TOKEN_SOURCES[self.end.source]

    @property
    def end_estimate(self) -> str:
        """The rule and the numbers of an estimated end; "" where the end is logged or unknown."""
        return "" if self.end_tokens is None else self.end.estimate


class Placements:
    """Rows of derived runs on the axes of their own tokens; one pass over the counters of their logs.

    Parameters
    ----------
    evidence : mapping of str to Evidence
        By run id.
    counters : callable
        Returns the token counters of runs: all rows of their logs.
    override : callable
        Returns the user's word on the tokens of a run's sequences, or None.
    """

    def __init__(
        self,
        evidence: Mapping[str, Evidence],
        counters: Callable[[Sequence[str]], History],
        override: Callable[[Evidence], float | None],
    ) -> None:
        self._evidence, self._counters, self._override = evidence, counters, override
        #: End of each run, by run id.
        self.ends: dict[str, RunEnd] = {}
        self._held: dict[str, Placement] = {}
        self._rows = 0
        uncounted: list[tuple[str, Int64, tuple[int, int]]] = []

        def counted() -> Iterator[tuple[Evidence, Int64, npt.NDArray[np.float64]]]:
            run_ids = list(evidence)
            for start in range(0, len(run_ids), _BLOCK_RUNS):
                some = run_ids[start : start + _BLOCK_RUNS]
                rows = self._counters(some) if some else None
                odd = {} if rows is None else _odd_rows(some, rows)
                for run_id, steps, counter in () if rows is None else split_counters(some, rows):
                    if np.isfinite(counter).any():
                        self._note(run_id, self._place(run_id, steps, counter, {}), True, True, odd.get(run_id, (0, 0)))
                    else:
                        # What its sequences count is known when all other runs have been seen.
                        uncounted.append((run_id, steps.copy(), odd.get(run_id, (0, 0))))
                    if evidence[run_id].record.state == "finished":
                        yield evidence[run_id], steps, counter

        self._measured = measure_tokens_per_sequence(counted())
        for run_id, steps, odd in uncounted:
            placement = self._place(run_id, steps, np.full(len(steps), np.nan), self._measured)
            self._note(run_id, placement, len(steps) > 0, False, odd)

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs, in that order; reads counters again where they are not held."""
        missing = [r for r in run_ids if r not in self._held]
        found = {r: self._place(r, steps, counter, self._measured) for r, steps, counter in self._logged(missing)}
        return [self._held[r] if r in self._held else found[r] for r in run_ids]

    def tokens_per_sequence(self, run_id: str) -> float:
        """Return the tokens of a training sequence of a run: the user's word, else as measured on its mixture."""
        item = self._evidence[run_id]
        return self._override(item) or self._measured.get(item.dataset, TULU_TOKENS_PER_SEQUENCE)

    def some_tokens(self, run_ids: Sequence[str], at_most: int) -> list[Int64]:
        """Return the own tokens of the rows of runs; of a store that is not held, of so many rows of each."""
        found: list[Int64] = []
        for start in range(0, len(run_ids), _BLOCK_RUNS):
            for placement in self.of(run_ids[start : start + _BLOCK_RUNS]):
                stride = 1 if self._rows <= HELD_ROWS else max(-(-len(placement.tokens) // at_most), 1)
                found.append(placement.tokens[::stride])
        return found

    def _logged(self, run_ids: Sequence[str]) -> Iterator[tuple[str, Int64, npt.NDArray[np.float64]]]:
        if not run_ids:
            return
        yield from split_counters(run_ids, self._counters(run_ids))

    def _place(
        self, run_id: str, steps: Int64, counter: npt.NDArray[np.float64], measured: Mapping[str, int]
    ) -> Placement:
        item = self._evidence[run_id]
        return place_run(item, steps, counter, measured, self._override(item))

    def _note(self, run_id: str, placement: Placement, has_log: bool, is_counted: bool, odd: tuple[int, int]) -> None:
        steps = placement.steps
        last = int(steps[-1]) if len(steps) else -1
        self.ends[run_id] = RunEnd(
            *(placement.end, placement.end_source, placement.estimate, placement.rate), last, has_log, is_counted, *odd
        )
        self._rows += len(steps)
        if self._rows <= HELD_ROWS:
            self._held[run_id] = placement
        else:
            self._held.clear()


def split_counters(run_ids: Sequence[str], rows: History) -> Iterator[tuple[str, Int64, npt.NDArray[np.float64]]]:
    """Yield each run with its distinct logged steps, and the token count at each; NaN where there is none."""
    bounds = np.searchsorted(rows.run, np.arange(len(run_ids) + 1))
    counter = rows.values[COUNTER]
    impossible = _impossible(counter)
    if impossible.any():
        counter = np.where(impossible, np.nan, counter)
    for i, run_id in enumerate(run_ids):
        part = slice(bounds[i], bounds[i + 1])
        yield run_id, *_distinct_steps(rows.step[part], counter[part])


def _odd_rows(run_ids: Sequence[str], rows: History) -> dict[str, tuple[int, int]]:
    """Return how many rows of each run repeat a step, and how many counts are impossible; runs without any left out."""
    repeated = (rows.run[1:] == rows.run[:-1]) & (rows.step[1:] == rows.step[:-1])
    impossible = _impossible(rows.values[COUNTER])
    if not repeated.any() and not impossible.any():
        return {}
    counts = [np.bincount(part, minlength=len(run_ids)) for part in (rows.run[1:][repeated], rows.run[impossible])]
    found = np.flatnonzero(counts[0] + counts[1]).tolist()
    return {run_ids[i]: (int(counts[0][i]), int(counts[1][i])) for i in found}


def _impossible(counter: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which counts are no counts: neighbours beyond 2**53 are no longer apart, and int64 ends at 2**63."""
    return (counter < 0) | (counter >= 2.0**53)


def _distinct_steps(steps: Int64, counter: npt.NDArray[np.float64]) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Keep one count per step: the first that is a number (rows are ordered by step, then by the store)."""
    if len(steps) < 2 or (np.diff(steps) > 0).all():
        return steps, counter
    order = np.lexsort((np.arange(len(steps)), ~np.isfinite(counter), steps))
    first = np.concatenate([[True], np.diff(steps[order]) > 0])
    return steps[order][first], counter[order][first]


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
    """Return ``used``, or why a run can't be in a Dataset; `problem` says why its branch is unknown."""
    if evidence.record.problem:
        return evidence.record.problem
    if evidence.run_type == "other":
        return "unknown run type"
    if found.parent_run_id and not found.in_store:
        return "parent not in store"
    if found.problem or not found.parent_run_id:
        return f"no parent found: {found.problem}" if found.problem else "no parent found"
    parent = placed.get(found.parent_run_id)
    # A parent without data has no curve, but it may be known where it ended.
    if parent is not None and parent.status != "used" and not parent.status.startswith(NO_DATA):
        return f"parent not usable: {parent.status}"
    if branch is None:
        return f"branch unknown: {problem}"
    if not has_data(evidence, end):
        lost = evidence.record.rows_without_step
        return f"{NO_DATA}: none of its {lost} logged rows has a step that can be used" if lost else NO_DATA
    if end.tokens is None:
        return "tokens unknown: neither counter, sequences, batch nor budget"
    if end.tokens <= 0:
        return "no tokens of its own"
    return "used"


def tokens_of_steps(placement: Placement, steps: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the run's own tokens at logged steps, and which of the steps are placed at all."""
    if not len(placement.steps):
        return np.zeros(len(steps), np.int64), np.zeros(len(steps), bool)
    at = np.minimum(np.searchsorted(placement.steps, steps), len(placement.steps) - 1)
    return placement.tokens[at], placement.steps[at] == steps
