"""Tables of pretraining evaluations: dict text per task, or one column per metric."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dde.errors import ConflictWarning, FormatError
from dde.names import (
    ENTRIES,
    MMLU_SUBJECTS,
    SUMMARY_ONLY_ENTRIES,
    TASKS_WITHOUT_UNCONDITIONAL,
    Base,
    Metric,
    task_metric,
    wide_column_metric,
)
from dde.sources.dict_text import parse_dict_row, parse_dicts
from dde.sources.row_index import IndexHead, RowIndex, read_row_index
from dde.sources.table_files import TableFile, check_unchanged, open_parquet

__all__ = ["DictTable", "EvaluationTable", "OnError", "ReadCount", "WideTable"]

OnError = Literal["raise", "skip"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Text of a batch is held about three times over while it is parsed.
_BATCH_BYTES = 48 << 20


@dataclass(slots=True)
class ReadCount:
    """What has been read of metrics so far, in rows, row groups and bytes as stored."""

    rows: int = 0
    row_groups: int = 0
    stored_bytes: int = 0


@dataclass(eq=False)
class EvaluationTable(ABC):
    """One kind of table over its files.

    Attributes
    ----------
    files : sequence of TableFile
        Files of the table.
    on_error : {"raise", "skip"}
        What happens to a malformed row: an error, or a count in `left_out` and NaN.
    reads : ReadCount
        What has been read of the metrics.
    repeated, conflicting, malformed : set of int
        Rows read so far that repeat another one, disagree with it, or can't be read.
    """

    files: Sequence[TableFile]
    on_error: OnError = "raise"
    reads: ReadCount = field(default_factory=ReadCount)
    repeated: set[int] = field(default_factory=set)
    conflicting: set[int] = field(default_factory=set)
    malformed: set[int] = field(default_factory=set)
    _index: RowIndex | None = None
    _head: IndexHead | None = None
    _kept_rows: Callable[[], dict[str, npt.NDArray[Any]] | None] | None = None
    _footers: dict[int, pq.FileMetaData] = field(default_factory=dict)

    #: Whether reading one entry of a task reads the text of all its entries.
    reads_tasks_whole: ClassVar[bool] = False

    def __getstate__(self) -> dict[str, Any]:
        # A worker that finds its rows in the cache needs no index; one that doesn't reads the key columns again.
        return {**self.__dict__, "_footers": {}, "_index": None, "_head": self.head}

    @property
    def head(self) -> IndexHead:
        """What the keys of the rows say of the table as a whole."""
        if self._head is None:
            self._head = self.index.head
        return self._head

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of the rows."""
        return self.head.tasks

    @property
    def index(self) -> RowIndex:
        """Keys of every row; read once."""
        if self._index is None:
            kept = self._kept_rows() if self._kept_rows is not None and self._head is not None else None
            if kept is None or self._head is None:
                self._index = read_row_index(self.files)
            else:
                head = self._head
                self._index = RowIndex(
                    tuple(self.files), bases=head.bases, tasks=head.tasks, left_out=head.left_out, **kept
                )
        return self._index

    def use_kept(self, head: IndexHead, rows: Callable[[], dict[str, npt.NDArray[Any]] | None]) -> None:
        """Take the index from where it is kept: its head now, its rows when they are needed."""
        self._head, self._kept_rows = head, rows

    @property
    def left_out(self) -> Counter[str]:
        """Rows left out so far, by reason; grows as rows are read."""
        counts = Counter(self.head.left_out)
        counts["repeated rows, identical"] = len(self.repeated - self.conflicting)
        counts["repeated rows that disagree, first kept"] = len(self.conflicting)
        counts["rows whose metrics can't be read"] = len(self.malformed)
        return +counts

    @abstractmethod
    def holds(self, metric: Metric) -> bool:
        """Return whether the table may hold a metric; reads none."""

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """Return the metrics that the table may hold."""

    @abstractmethod
    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> tuple[Int64, Int64, Float64]:
        """Return the observations of `metrics` for `bases`.

        Returns
        -------
        base : (row,) int64 array
            Index into `bases`.
        step : (row,) int64 array
        values : (row, metric) float64 array
        """

    def _rows_of(self, bases: Sequence[Base]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return for each row the index into `bases` (-1: not asked for), and the rows that have one."""
        index = self.index
        number = {base: i for i, base in enumerate(bases)}
        meaning = np.array([number.get(base, -1) for base in index.bases] + [-1], np.int32)
        row_base = meaning[index.base]
        return row_base, (row_base >= 0) & (index.step >= 0)

    def _read_rows(self, rows: Int64, columns: Sequence[str]) -> Iterator[tuple[Int64, pa.Table]]:
        """Yield batches of the rows (ascending) with their table; reads the row groups that hold them."""
        index = self.index
        group_of_row = np.searchsorted(index.group_starts, rows, side="right") - 1
        groups = np.unique(group_of_row)
        for number in np.unique(index.group_files[groups]).tolist():
            file = index.files[number]
            check_unchanged(file)
            first_group = int(np.searchsorted(index.group_files, number))
            with open_parquet(file, pre_buffer=True, metadata=self._footers.get(number)) as parquet:
                self._footers[number] = parquet.metadata
                # A column that one file of a table lacks is not there for its rows.
                held = [c for c in columns if c in parquet.schema_arrow.names]
                wanted = [parquet.schema_arrow.get_field_index(c) for c in held]
                local = groups[index.group_files[groups] == number] - first_group
                for batch in self._batches(parquet, local.tolist(), wanted):
                    table = parquet.read_row_groups(batch, columns=held)
                    starts = index.group_starts[np.array(batch) + first_group]
                    stops = index.group_starts[np.array(batch) + first_group + 1]
                    # Row numbers of the batch, in the order in which its row groups were read.
                    numbers = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
                    inside = rows[np.searchsorted(rows, starts[0]) : np.searchsorted(rows, stops[-1])]
                    position = np.searchsorted(numbers, inside)
                    if len(inside) < len(numbers):
                        table = table.take(pa.array(position))
                    self.reads.rows += len(inside)
                    yield inside, table

    def _batches(self, parquet: pq.ParquetFile, groups: list[int], columns: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        size = 0
        for group in groups:
            chunks = [parquet.metadata.row_group(group).column(c) for c in columns]
            self.reads.row_groups += 1
            self.reads.stored_bytes += sum(c.total_compressed_size for c in chunks)
            grown = sum(c.total_uncompressed_size for c in chunks)
            if batch and size + grown > _BATCH_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(group)
            size += grown
        if batch:
            yield batch

    def _first_of_each(self, key: Int64, rows: Int64, values: Float64, what: Sequence[str]) -> tuple[Int64, Float64]:
        """Keep the first row of each key; count identical repetitions, report those that disagree.

        Parameters
        ----------
        key, rows : (row,) arrays
            What makes two rows the same observation, and where they stand in the table.
        values : (row, value) array
        what : sequence of str
            Description of each row's key is made by :meth:`name_row` when a conflict is found.
        """
        order = np.lexsort((rows, key))
        key, values = key[order], values[order]
        repeated = np.concatenate([[False], key[1:] == key[:-1]])
        if repeated.any():
            first = np.maximum.accumulate(np.where(repeated, 0, np.arange(len(key))))
            same = ((values == values[first]) | (np.isnan(values) & np.isnan(values[first]))).all(axis=1)
            conflicts = np.flatnonzero(repeated & ~same)
            self.repeated.update(rows[order][repeated].tolist())
            # Every metric of a row is read in its turn; the row is reported once.
            found = [row for row in rows[order][conflicts].tolist() if row not in self.conflicting]
            self.conflicting.update(found)
            if found:
                named = [self.name_row(row) for row in found[:3]]
                warnings.warn(
                    f"{len(found)} repeated rows disagree with the first row of the same run and step "
                    f"({'; '.join(named)}{'; ...' if len(found) > 3 else ''}), so which value is right is "
                    f"unknown; the first one is used, for {', '.join(what[:3])} and all other metrics. "
                    "Remove the wrong rows to silence this.",
                    ConflictWarning,
                    stacklevel=2,
                )
        return order[~repeated], values[~repeated]

    def name_row(self, row: int) -> str:
        """Return the run, step and task of a row, for people."""
        index = self.index
        base = index.bases[index.base[row]].label if index.base[row] >= 0 else "?"
        task = f", {index.tasks[index.task[row]]}" if index.task[row] >= 0 else ""
        return f"{base} at step {index.step[row]}{task}"


class DictTable(EvaluationTable):
    """A table with one row per run, step and task, whose metrics are one text.

    The train shards and the macro averages of ``allenai/DataDecide-eval-results``.
    """

    reads_tasks_whole = True

    def metrics(self) -> list[Metric]:
        """Return every entry of every task; `mmlu_average` when the table has all 57 subjects."""
        tasks = [t for t in self.index.tasks if t]
        if set(MMLU_SUBJECTS) <= set(tasks):
            tasks.append("mmlu_average")
        entries = self._entries()
        found = [task_metric(task, entry) for task in tasks for entry in entries]
        return [m for m in found if self.holds(m)]

    def holds(self, metric: Metric) -> bool:
        """Return whether the table has the task; which entries a row has is known only by reading it."""
        if metric.kind != "evaluation" or metric.entry in SUMMARY_ONLY_ENTRIES:
            return False
        if "uncond" in metric.entry and metric.task in TASKS_WITHOUT_UNCONDITIONAL:
            return False
        tasks = set(self.tasks)
        return set(MMLU_SUBJECTS) <= tasks if metric.task == "mmlu_average" else metric.task in tasks

    def _entries(self) -> list[str]:
        """Return the entries that the rows of each size hold: key sets differ by size and task."""
        index = self.index
        if not len(index):
            return []
        # One row of each task in the row group where a size begins: that group is read for any one of them.
        size = np.array([b.size.n_params for b in index.bases] + [-1])[index.base]
        _, first = np.unique(size, return_index=True)
        groups = np.unique(np.searchsorted(index.group_starts, first, side="right") - 1)
        near = np.concatenate([np.arange(index.group_starts[g], index.group_starts[g + 1]) for g in groups])
        _, at = np.unique(np.stack([size[near], index.task[near]]), axis=1, return_index=True)
        rows = near[at]
        present: set[str] = set()
        for inside, table in self._read_rows(np.sort(rows).astype(np.int64), ["metrics"]):
            for row, text in zip(inside.tolist(), table["metrics"].to_pylist(), strict=True):
                try:
                    present |= parse_dict_row(text or "").keys()
                except ValueError as error:
                    self._malformed(row, str(error))
        return [e for e in ENTRIES if e in present] + sorted(present.difference(ENTRIES))

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> tuple[Int64, Int64, Float64]:
        """Return the observations; reads only the row groups that hold the runs and tasks asked for."""
        index = self.index
        row_base, asked = self._rows_of(bases)
        by_task: dict[str, list[tuple[int, str]]] = {}
        averaged: list[tuple[int, str]] = []
        for column, metric in enumerate(metrics):
            if metric.task == "mmlu_average":
                averaged.append((column, metric.entry))
            else:
                by_task.setdefault(metric.task, []).append((column, metric.entry))
        task_number = {task: i for i, task in enumerate(index.tasks)}
        subjects = [task_number[s] for s in MMLU_SUBJECTS if s in task_number] if averaged else []
        wanted_tasks = sorted({task_number[t] for t in by_task if t in task_number} | set(subjects))
        rows = np.flatnonzero(asked & np.isin(index.task, np.array(wanted_tasks, np.int16)))
        entries = sorted({m.entry for m in metrics})
        values = np.full((len(rows), len(entries)), np.nan)
        for inside, table in self._read_rows(rows, ["metrics"]):
            at = np.searchsorted(rows, inside)
            column_text = table["metrics"].combine_chunks()
            parsed = parse_dicts(column_text, entries)
            for local, reason in parsed.malformed.items():
                self._malformed(int(inside[local]), reason)
            values[at] = parsed.values
        task_key = index.task[rows].astype(np.int64)
        observation = (row_base[rows].astype(np.int64) << 32) | index.step[rows]
        kept, values = self._first_of_each((observation << 8) | task_key, rows, values, [m.name for m in metrics])
        rows, observation, task_key = rows[kept], observation[kept], task_key[kept]
        distinct, at = np.unique(observation, return_inverse=True)
        out = np.full((len(distinct), len(metrics)), np.nan)
        entry_column = {entry: i for i, entry in enumerate(entries)}
        for task, columns in by_task.items():
            of_task = task_key == task_number.get(task, -1)
            for column, entry in columns:
                out[at[of_task], column] = values[of_task, entry_column[entry]]
        if averaged:
            cube = np.full((len(distinct), len(MMLU_SUBJECTS), len(averaged)), np.nan)
            for number, task_id in enumerate(subjects):
                of_task = task_key == task_id
                for k, (_, entry) in enumerate(averaged):
                    cube[at[of_task], number, k] = values[of_task, entry_column[entry]]
            for k, (column, _) in enumerate(averaged):
                out[:, column] = exact_mean(cube[:, :, k])
        return distinct >> 32, distinct & 0xFFFFFFFF, out

    def _malformed(self, row: int, reason: str) -> None:
        index = self.index
        file_number = int(index.group_files[np.searchsorted(index.group_starts, row, side="right") - 1])
        file = index.files[file_number]
        first = index.group_starts[np.searchsorted(index.group_files, file_number)]
        if self.on_error == "raise":
            raise FormatError(
                f"{file.path}, row {row - first} ({self.name_row(row)}): the metrics can't be read: {reason}. "
                "Its evaluation is unknown. Repair the file, or pass on_error='skip' to leave such rows out "
                "and have them counted."
            )
        self.malformed.add(row)


class WideTable(EvaluationTable):
    """A table with one row per run and step and one column per metric.

    The perplexity table of ``allenai/DataDecide-ppl-results``, and ``full_eval.parquet`` of the package
    datadec, whose details of model and recipe are not metrics.
    """

    _columns: Mapping[str, str] | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        """Column of each metric, by the metric's name."""
        if self._columns is None:
            names: dict[str, None] = {}
            for file in self.files:
                with open_parquet(file) as parquet:
                    names.update(dict.fromkeys(parquet.schema_arrow.names))
            found = {c: wide_column_metric(c) for c in names}
            self._columns = {m.name: c for c, m in found.items() if m is not None}
        return self._columns

    def holds(self, metric: Metric) -> bool:
        """Return whether the table has the metric's column."""
        return metric.name in self.columns

    def metrics(self) -> list[Metric]:
        """Return a metric for each column that holds one."""
        return [m for m in map(wide_column_metric, self.columns.values()) if m is not None]

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric]) -> tuple[Int64, Int64, Float64]:
        """Return the observations; reads only the columns asked for."""
        index = self.index
        row_base, asked = self._rows_of(bases)
        rows = np.flatnonzero(asked)
        columns = [self.columns.get(m.name) for m in metrics]
        present = sorted({c for c in columns if c is not None})
        values = np.full((len(rows), len(metrics)), np.nan)
        if present:
            for inside, table in self._read_rows(rows, present):
                at = np.searchsorted(rows, inside)
                for column, name in enumerate(columns):
                    if name is not None and name in table.column_names:
                        values[at, column] = self._numbers(table, name)
        key = (row_base[rows].astype(np.int64) << 32) | index.step[rows]
        kept, values = self._first_of_each(key, rows, values, [m.name for m in metrics])
        key = key[kept]
        return key >> 32, key & 0xFFFFFFFF, values

    def _numbers(self, table: pa.Table, name: str) -> Float64:
        try:
            numbers = pc.cast(table[name], pa.float64())
        except pa.ArrowInvalid as error:
            raise FormatError(
                f"the column {name!r} of {', '.join(f.name for f in self.files)} holds a value that is no number "
                f"({error}), so its evaluations are unknown. Repair the file, or remove the column."
            ) from error
        return np.asarray(numbers.fill_null(np.nan).to_numpy(), np.float64)


def exact_mean(values: Float64) -> Float64:
    """Return the correctly rounded sum over the last axis, divided by its length; NaN where a value is missing.

    Examples
    --------
    >>> exact_mean(np.array([[0.1, 0.2, 0.3], [0.1, np.nan, 0.3]])).tolist()
    [0.19999999999999998, nan]
    """
    complete = np.isfinite(values).all(axis=-1)
    summed: Float64 = np.where(np.isnan(values).any(axis=-1), np.nan, values.sum(axis=-1))
    out: Float64 = summed / values.shape[-1]
    rows: Iterable[int] = np.flatnonzero(complete).tolist()
    for row in rows:
        out[row] = math.fsum(values[row].tolist()) / values.shape[-1]
    return out
