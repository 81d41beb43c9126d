"""Runs as values are made of them: their token positions without records or evidence, in any process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from dde.array_types import Int64
from dde.errors import SourceError
from dde.schema import EVALUATIONS, PERPLEXITIES
from dde.sources.protocols import TRAINING_STEP, PosttrainingSource
from dde.suite.datadecide.names import Base, find_base_by_label
from dde.suite.datadecide.runs.derived_columns import DerivedColumns, PlacedRows
from dde.suite.datadecide.runs.positions import MAX_ROWS_IN_MEMORY, PlacedRun, RunEnd
from dde.suite.datadecide.runs.readers import Readers
from dde.suite.datadecide.runs.token_counts import COUNTER, Log, Placement, place_by_rate, place_counted, split_logs
from dde.suite.datadecide.tables.evaluation_tables import EVALUATED, PERPLEXITY
from dde.suite.datadecide.tables.pretraining_tables import DataDecide, TableCheckpoints

__all__ = [
    "LoggedPlaces",
    "RunPositions",
    "SentRuns",
    "TableSteps",
    "sent_columns",
]


class LoggedPlaces(Protocol):
    """Gives the rows of runs on the axes of their own tokens."""

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs, in that order."""
        ...

    def some_tokens(self, run_ids: Sequence[str], at_most: int) -> list[Int64]:
        """Return the own tokens of the rows of runs; at most `at_most` of each run if they do not all fit in memory."""
        ...


class RunPositions(Protocol):
    """Runs as far as their values are concerned; attributes as of `Registry`."""

    tables: DataDecide | None
    store: PosttrainingSource | None

    @property
    def readers(self) -> Readers:
        """Rows of both stores, through the cache."""
        ...

    @property
    def derived(self) -> Collection[str]:
        """Ids of the post-training runs."""
        ...

    @property
    def bases(self) -> Mapping[str, Base]:
        """Pretraining runs by label."""
        ...

    @property
    def checkpoint_steps(self) -> Mapping[str, Int64]:
        """Evaluated steps of each pretraining run of the tables, by label."""
        ...

    def table_steps(self, sampling: str) -> Mapping[str, Int64]:
        """Return the steps of each pretraining run with rows in the tables of evaluations, or of perplexities."""
        ...

    def is_evaluated(self, run_id: str) -> bool:
        """Return whether a derived run has final evaluations."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Version of each derived run, as the store reports it."""
        ...

    @property
    def placed(self) -> Mapping[str, PlacedRun]:
        """Positions of derived runs."""
        ...

    @property
    def placements(self) -> LoggedPlaces:
        """Rows of derived runs on the axes of their own tokens."""
        ...

    def chain(self, run_id: str) -> list[str]:
        """Return the run's ancestors in the store, from the base on, then the run itself."""
        ...


#: Bit of `TableCheckpoints.sampled` of each sampling of the tables.
_KINDS = {EVALUATIONS: EVALUATED, PERPLEXITIES: PERPLEXITY}


class TableSteps:
    """Steps of pretraining runs by label, for each sampling of the tables; computed on request."""

    def __init__(self, checkpoints: TableCheckpoints) -> None:
        self._checkpoints = checkpoints
        self._made: dict[str, dict[str, Int64]] = {}

    def of(self, sampling: str) -> dict[str, Int64]:
        """Return the steps with rows in the tables of a sampling, by label."""
        if sampling not in self._made:
            self._made[sampling] = self._checkpoints.steps_by_label(_KINDS[sampling])
        return self._made[sampling]


# Runs whose rows are read at once, if they do not all fit in memory.
_BLOCK_RUNS = 5_000


def sent_columns(columns: DerivedColumns) -> DerivedColumns:
    """Return the columns that another process needs: those of all used runs and of their ancestors.

    An ancestor without data of its own still determines the branch point on its parent.
    """
    return columns.take(columns.with_ancestors(np.flatnonzero(columns.is_used)))


class SentRuns:
    """The part of a registry that is needed to read values; implements :class:`RunPositions`.

    Parameters
    ----------
    columns : DerivedColumns
    readers : Readers
    load_rows : callable, optional
        Returns the rows of all runs from the cache, or None. Not given in another process.
    """

    def __init__(
        self, columns: DerivedColumns, readers: Readers, load_rows: Callable[[], PlacedRows | None] | None = None
    ) -> None:
        self.columns, self.readers, self._load_rows = columns, readers, load_rows
        self.tables, self.store = readers.tables, readers.store
        self._in_memory: dict[str, Placement] = {}
        self._rows = 0

    @property
    def derived(self) -> dict[str, int]:
        """Row of each derived run, by its id."""
        return self.columns.row_by_id

    @cached_property
    def checkpoint_steps(self) -> dict[str, Int64]:
        """Evaluated steps of each pretraining run of the tables, by label."""
        return self.readers.table_checkpoints().steps_by_label()

    @cached_property
    def _table_steps(self) -> TableSteps:
        return TableSteps(self.readers.table_checkpoints())

    def table_steps(self, sampling: str) -> Mapping[str, Int64]:
        """Return the steps of each pretraining run with rows in the tables of evaluations, or of perplexities."""
        return self._table_steps.of(sampling)

    def is_evaluated(self, run_id: str) -> bool:
        """Return whether a derived run has final evaluations."""
        return bool(self.columns.evaluated[self.derived[run_id]])

    @cached_property
    def bases(self) -> dict[str, Base]:
        """Pretraining runs by label."""
        found = {b.label: b for b in self.readers.table_checkpoints().bases}
        named = (find_base_by_label(label) for label in self.columns.lineage.values if label not in found)
        return found | {b.label: b for b in named if b is not None}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Version of each derived run, as the store reports it."""
        return dict(zip(self.columns.ids.tolist(), self.columns.version.texts().tolist(), strict=True))

    @property
    def placed(self) -> Mapping[str, PlacedRun]:
        """Positions of derived runs."""
        return _Placed(self.columns)

    @property
    def placements(self) -> SentRuns:
        """Itself: it also gives the rows of runs."""
        return self

    def of(self, run_ids: Sequence[str]) -> list[Placement]:
        """Return the rows of runs by own tokens, in that order; reads them if they are not in memory."""
        known = self._rows_of_all
        if known is not None:
            return [self._placement(self.derived[r], known) for r in run_ids]
        missing = [r for r in run_ids if r not in self._in_memory]
        # Runs with one counter are read together; usually all runs have the same.
        placed: dict[str, Placement] = {}
        for keys, members in self._by_keys(missing).items():
            rows = self.readers.logged_counters(members, self.versions, keys)
            placed |= {run_id: self._place(run_id, log) for run_id, log in split_logs(members, rows)}
        self._rows += sum(len(p.steps) for p in placed.values())
        found = [placed[r] if r in placed else self._in_memory[r] for r in run_ids]
        if self._rows <= MAX_ROWS_IN_MEMORY:
            self._in_memory |= placed
        else:
            self._in_memory, self._rows = {}, 0
        return found

    @cached_property
    def _rows_of_all(self) -> PlacedRows | None:
        return None if self._load_rows is None else self._load_rows()

    def _placement(self, at: int, rows: PlacedRows) -> Placement:
        steps, tokens = rows.of(at)
        own, columns = int(self.columns.own_end[at]), self.columns
        source = np.full(len(steps), columns.source[at], np.int8)
        estimate = columns.end_estimate.text(at)
        return Placement(steps, tokens, source, None if own < 0 else own, int(columns.source[at]), estimate)

    def some_tokens(self, run_ids: Sequence[str], at_most: int) -> list[Int64]:
        """Return the own tokens of the rows of runs; of many rows, of so many of each run."""
        rows = self._rows_of_all
        if rows is not None:
            return [rows.of(self.derived[r])[1] for r in run_ids]
        found: list[Int64] = []
        # By the whole store, so that a grid does not depend on how it was opened.
        fits_in_memory = int(self.columns.n_rows.sum()) <= MAX_ROWS_IN_MEMORY
        block = max(len(run_ids), 1) if fits_in_memory else _BLOCK_RUNS
        for start in range(0, len(run_ids), block):
            for placement in self.of(run_ids[start : start + block]):
                stride = 1 if fits_in_memory else max(-(-len(placement.tokens) // at_most), 1)
                found.append(placement.tokens[::stride])
        return found

    def _by_keys(self, run_ids: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = {}
        for run_id in run_ids:
            at = self.derived[run_id]
            step = (TRAINING_STEP,) if self.columns.has_training_step[at] else ()
            found.setdefault((self.columns.counter.text(at) or COUNTER, *step), []).append(run_id)
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
        columns = self.columns
        row = columns.row_by_id.get(run_id)
        chain = [run_id]
        if row is None:
            return chain
        while (parent := int(columns.parent[row])) >= 0:
            chain.append(str(columns.ids[parent]))
            row = parent
        lineage = str(columns.lineages[row])
        # A parent that is not in the store is not known to lead to the base.
        if lineage and columns.parent_run_id.text(row) == lineage:
            chain.append(lineage)
        return chain[::-1]


class _Placed(Mapping[str, PlacedRun]):
    """Positions that are made one by one, of arrays."""

    def __init__(self, columns: DerivedColumns) -> None:
        self._columns = columns

    def __getitem__(self, run_id: str) -> PlacedRun:
        columns = self._columns
        at = columns.row_by_id[run_id]
        branch, end, own, forked_at = (
            int(v[at]) for v in (columns.branch, columns.end, columns.own_end, columns.forked_at)
        )
        rate = columns.rate[at]
        run_end = RunEnd(
            None if own < 0 else own,
            int(columns.source[at]),
            columns.end_estimate.text(at),
            None if np.isnan(rate[0]) else (float(rate[0]), float(rate[1])),
            int(columns.last_step[at]),
            bool(columns.has_log[at]),
            columns.counter.text(at),
            bool(columns.has_training_step[at]),
            None if forked_at < 0 else forked_at,
            n_rows=int(columns.n_rows[at]),
        )
        status = columns.status.text(at)
        return PlacedRun(None if branch < 0 else branch, None if end < 0 else end, run_end, status)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.row_by_id)

    def __len__(self) -> int:
        return len(self._columns)
