"""Runs in a process that was sent a part of a Dataset: their positions as plain arrays, without records or evidence.

A registry of 100,000 runs takes some 430 MB and 15 s to make. What a worker needs of them is a hundredth of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dde.errors import SourceError
from dde.names import Base
from dde.relations.logs import COUNTER, Log, split_logs
from dde.relations.positions import PlacedRun, RunEnd
from dde.relations.readers import Readers
from dde.relations.run_positions import TableSteps
from dde.relations.token_counts import Placement, place_by_rate, place_counted
from dde.sources.datadecide import DataDecide
from dde.sources.protocols import TRAINING_STEP, PosttrainingSource

if TYPE_CHECKING:
    from dde.relations.registry import Registry

__all__ = ["RunArrays", "SentRuns", "run_arrays"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RunArrays:
    """Positions of the derived runs of a registry that have a place, ancestors among them.

    Attributes
    ----------
    run_ids, versions : tuple of str
    bases : tuple of Base
        Roots of their lineages.
    base : (run,) int32 array
        Index into `bases`.
    parent : (run,) int32 array
        Index into `run_ids`; -1 where the parent is the base.
    branch, end, own_end, last_step : (run,) int64 arrays
        Tokens, and the last placed step; -1 where unknown.
    source : (run,) int8 array
        How the end is known.
    estimate : tuple of str
        The rule and the numbers of an estimated end; "" where nothing was estimated.
    rate : (run, 2) float64 array
        Tokens, and the steps that count them, where rows are placed by their steps alone; else NaN.
    counter : tuple of str
        Key of the token counter, by which alone the rows of a run are placed; "" where it has none.
    forked_at : (run,) int64 array
        Step at which the run was forked from its parent; -1 where it was not.
    has_training_step, has_log, evaluated : (run,) bool arrays
        Whether the log keeps the training step apart from its own; whether there is one; whether the run has final
        evaluations.
    opened : str
        What the store said of its content when the runs were read; "" where it can't tell.
    """

    run_ids: tuple[str, ...]
    versions: tuple[str, ...]
    bases: tuple[Base, ...]
    base: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    branch: Int64
    end: Int64
    own_end: Int64
    last_step: Int64
    source: npt.NDArray[np.int8]
    estimate: tuple[str, ...]
    rate: npt.NDArray[np.float64]
    counter: tuple[str, ...]
    forked_at: Int64
    has_training_step: npt.NDArray[np.bool_]
    has_log: npt.NDArray[np.bool_]
    evaluated: npt.NDArray[np.bool_]
    opened: str = ""


def run_arrays(registry: Registry) -> RunArrays:
    """Return the positions of all runs of a registry that values can be made of, and of their ancestors."""
    used = [r for r, p in registry.placed.items() if p.status == "used"]
    # An ancestor without data of its own still says where its parent's curve was left.
    needed = {member for run_id in used for member in registry.chain(run_id)}
    placed = {r: p for r, p in registry.placed.items() if r in needed}
    number = {run_id: i for i, run_id in enumerate(placed)}
    runs = [registry.derived[r] for r in placed]
    labels = list(dict.fromkeys(run.lineage for run in runs))
    base_number = {label: i for i, label in enumerate(labels)}
    ends = [p.end for p in placed.values()]

    def numbers(values: Iterator[int | None]) -> Int64:
        return np.array([-1 if v is None else v for v in values], np.int64)

    return RunArrays(
        tuple(placed),
        tuple(registry.versions[r] for r in placed),
        tuple(registry.bases[label] for label in labels),
        np.array([base_number[run.lineage] for run in runs], np.int32),
        np.array([number.get(run.parent_run_id, -1) for run in runs], np.int32),
        numbers(p.branch_tokens for p in placed.values()),
        numbers(p.end_tokens for p in placed.values()),
        numbers(e.tokens for e in ends),
        numbers(e.last_step for e in ends),
        np.array([e.source for e in ends], np.int8),
        tuple(e.estimate for e in ends),
        np.array([e.rate or (np.nan, np.nan) for e in ends], np.float64).reshape(-1, 2),
        tuple(e.counter for e in ends),
        numbers(e.forked_at for e in ends),
        np.array([e.has_training_step for e in ends], bool),
        np.array([e.has_log for e in ends], bool),
        np.array([registry.is_evaluated(r) for r in placed], bool),
        registry.readers.opened,
    )


class SentRuns:
    """Runs as values are made of them; see :class:`dde.relations.run_positions.RunPositions`.

    Parameters
    ----------
    runs : RunArrays
    tables, store, cache_dir
        As for :class:`dde.relations.registry.Registry`.
    """

    def __init__(
        self,
        runs: RunArrays,
        tables: DataDecide | None,
        store: PosttrainingSource | None,
        cache_dir: str,
    ) -> None:
        self.tables, self.store = tables, store
        self._runs, self._cache_dir = runs, cache_dir

    @cached_property
    def readers(self) -> Readers:
        """Rows of both stores, through the cache."""
        return Readers(self.tables, self.store, self._cache_dir, self._runs.opened)

    @cached_property
    def derived(self) -> dict[str, int]:
        """Number of each derived run, by id."""
        return {run_id: i for i, run_id in enumerate(self._runs.run_ids)}

    @cached_property
    def checkpoint_steps(self) -> dict[str, Int64]:
        """Evaluated steps of each pretraining run of the tables, by label."""
        return self.readers.catalog().steps_by_label()

    @cached_property
    def _table_steps(self) -> TableSteps:
        return TableSteps(self.readers.catalog())

    def table_steps(self, sampling: str) -> Mapping[str, Int64]:
        """Return the steps that tables have rows of, of each pretraining run: of evaluations, or of perplexities."""
        return self._table_steps.of(sampling)

    def is_evaluated(self, run_id: str) -> bool:
        """Return whether a derived run has final evaluations."""
        return bool(self._runs.evaluated[self.derived[run_id]])

    @cached_property
    def bases(self) -> dict[str, Base]:
        """Pretraining runs by label."""
        return {b.label: b for b in (*self.readers.catalog().bases, *self._runs.bases)}

    @cached_property
    def versions(self) -> dict[str, str]:
        """What the store says of each derived run's content."""
        return dict(zip(self._runs.run_ids, self._runs.versions, strict=True))

    @property
    def placed(self) -> Mapping[str, PlacedRun]:
        """Positions of derived runs."""
        return _Placed(self._runs, self.derived)

    @property
    def placements(self) -> SentRuns:
        """Itself: it also gives the rows of runs."""
        return self

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs on the axes of their own tokens, in that order."""
        if not run_ids:
            return []
        # Runs of one counter are read together: as a rule all of them are.
        placed: dict[str, Placement] = {}
        for keys, members in self._by_keys(run_ids).items():
            rows = self.readers.logs(members, self.versions, keys)
            placed |= {run_id: self._place(run_id, log) for run_id, log in split_logs(members, rows)}
        return [placed[run_id] for run_id in run_ids]

    def _by_keys(self, run_ids: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = {}
        for run_id in run_ids:
            at = self.derived[run_id]
            step = (TRAINING_STEP,) if self._runs.has_training_step[at] else ()
            found.setdefault((self._runs.counter[at] or COUNTER, *step), []).append(run_id)
        return found

    def _place(self, run_id: str, log: Log) -> Placement:
        end = self.placed[run_id].end
        if end.counter:
            if not log.key:
                raise SourceError(
                    f"run {run_id!r} had a token counter when the Dataset was opened that this process was sent a "
                    "part of, and has none now, so its rows have no place. Open the Dataset again and send that."
                )
            return place_counted(log, end.forked_at)
        if end.rate is not None:
            return place_by_rate(log, end.rate, end.tokens, end.estimate, end.forked_at)
        none = log.steps[:0]
        return Placement(none, none, none.astype(np.int8), end.tokens, end.source, end.estimate)

    def chain(self, run_id: str) -> list[str]:
        """Return the run's ancestors in the store, from the base on, then the run itself."""
        number = self.derived.get(run_id)
        chain = [run_id]
        if number is None:
            return chain
        while (parent := int(self._runs.parent[number])) >= 0:
            chain.append(self._runs.run_ids[parent])
            number = parent
        chain.append(self._runs.bases[self._runs.base[number]].label)
        return chain[::-1]


class _Placed(Mapping[str, PlacedRun]):
    """Positions that are made one by one, of arrays."""

    def __init__(self, runs: RunArrays, number: Mapping[str, int]) -> None:
        self._runs, self._number = runs, number

    def __getitem__(self, run_id: str) -> PlacedRun:
        at, runs = self._number[run_id], self._runs
        branch, end, own = (int(values[at]) for values in (runs.branch, runs.end, runs.own_end))
        run_end = RunEnd(
            None if own < 0 else own,
            int(runs.source[at]),
            runs.estimate[at],
            None if np.isnan(runs.rate[at, 0]) else (float(runs.rate[at, 0]), float(runs.rate[at, 1])),
            int(runs.last_step[at]),
            bool(runs.has_log[at]),
            runs.counter[at],
            bool(runs.has_training_step[at]),
            None if runs.forked_at[at] < 0 else int(runs.forked_at[at]),
        )
        return PlacedRun(None if branch < 0 else branch, None if end < 0 else end, run_end, "used")

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)
