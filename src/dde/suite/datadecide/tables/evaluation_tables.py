"""Tables of pretraining evaluations: read the row groups with the requested rows, one column per metric."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.errors import ConflictWarning, FormatError
from dde.native import processors
from dde.sources.arrow_columns import read_numbers
from dde.sources.parquet_files import open_parquet
from dde.suite.datadecide.names import Base, wide_column_metric
from dde.suite.datadecide.tables.row_index import IndexHead, RowIndex, join_keys, read_row_index
from dde.suite.datadecide.tables.table_copies import find_copies
from dde.suite.datadecide.tables.table_files import TableFile, open_unchanged

__all__ = [
    "EVALUATED",
    "PERPLEXITY",
    "EvaluationTable",
    "OnError",
    "ReadCount",
    "RowGroupReader",
    "WideTable",
    "first_of_each",
    "others",
    "same_values",
]


# Batches that fit the processor's cache are read and parsed in two thirds of the time of batches of 50 MB.
_BATCH_BYTES = 6 << 20


@dataclass(slots=True)
class ReadCount:
    """Amount of metrics read so far, in rows, row groups and stored bytes."""

    rows: int = 0
    row_groups: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Footer:
    """The footer of a file, and the index of each stored column by its path; a nested column has several."""

    metadata: pq.FileMetaData
    index_by_path: Mapping[str, int]

    def indexes_of(self, columns: Iterable[str]) -> list[int]:
        """Return the indexes of stored columns; absent columns have none."""
        indexes: list[int] = []
        for column in columns:
            if column in self.index_by_path:
                indexes.append(self.index_by_path[column])
            else:
                indexes += (k for path, k in self.index_by_path.items() if path.startswith(f"{column}."))
        return indexes


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Row groups of one file that one thread reads, one batch after the other."""

    file: int
    batches: tuple[tuple[int, ...], ...]


@dataclass(eq=False)
class RowGroupReader:
    """Reader of row groups of the files of one table.

    Attributes
    ----------
    files : sequence of TableFile
    reads : ReadCount
        Amount read so far.
    """

    files: Sequence[TableFile]
    reads: ReadCount = field(default_factory=ReadCount)
    _footers: dict[int, _Footer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, object]:
        return {"files": self.files, "reads": self.reads}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def each_batch(
        self, index: RowIndex, rows: Int64, columns: Sequence[str], use: Callable[[Int64, pa.Table], None]
    ) -> None:
        """Call `use` with all rows of each row group that has any of the requested rows.

        Parameters
        ----------
        index : RowIndex
        rows : (row,) int64 array
            Requested rows, ascending.
        columns : sequence of str
            Columns to read; absent columns of a file are not in its table.
        use : callable
            Called with the numbers of the rows of a batch, and their table; by several threads at once.

        Raises
        ------
        SourceError
            When a file can't be read, or changes before or during the read. Results of `use` are invalid then.
        """
        groups = np.unique(np.searchsorted(index.group_starts, rows, side="right") - 1)
        with ExitStack() as stack:
            for file in (index.files[number] for number in np.unique(index.group_files[groups]).tolist()):
                stack.enter_context(file.unchanged())
            self._read_all(index, self._stretches(index, groups, columns), columns, use)
        with self._lock:
            self.reads.rows += len(rows)

    def _read_all(
        self,
        index: RowIndex,
        stretches: Sequence[_Stretch],
        columns: Sequence[str],
        use: Callable[[Int64, pa.Table], None],
    ) -> None:
        def read(stretch: _Stretch) -> None:
            for numbers, table in self._read(index, stretch, columns, use_threads=len(stretches) == 1):
                use(numbers, table)

        if len(stretches) == 1:
            read(stretches[0])
        elif stretches:
            with ThreadPoolExecutor(processors()) as threads:
                # Iterating raises the first error of a thread here.
                for _ in threads.map(read, stretches):
                    pass

    def _stretches(self, index: RowIndex, groups: Int64, columns: Sequence[str]) -> list[_Stretch]:
        stretches: list[_Stretch] = []
        for number in np.unique(index.group_files[groups]).tolist():
            first_group = int(np.searchsorted(index.group_files, number))
            local = (groups[index.group_files[groups] == number] - first_group).tolist()
            batches = list(self._batches(self._footer(number), local, columns))
            share = -(-len(batches) // processors())
            stretches += [_Stretch(number, tuple(batches[k : k + share])) for k in range(0, len(batches), share)]
        return stretches

    def _footer(self, number: int) -> _Footer:
        if number not in self._footers:
            with open_parquet(self.files[number]) as parquet:
                schema = parquet.metadata.schema
                index_by_path = {schema.column(k).path: k for k in range(len(schema))}
                self._footers[number] = _Footer(parquet.metadata, index_by_path)
        return self._footers[number]

    def _batches(self, footer: _Footer, groups: Iterable[int], columns: Sequence[str]) -> Iterator[tuple[int, ...]]:
        indexes = footer.indexes_of(columns)
        batch: list[int] = []
        size = 0
        for group in groups:
            chunks = [footer.metadata.row_group(group).column(c) for c in indexes]
            self.reads.row_groups += 1
            self.reads.stored_bytes += sum(c.total_compressed_size for c in chunks)
            grown = sum(c.total_uncompressed_size for c in chunks)
            if batch and size + grown > _BATCH_BYTES:
                yield tuple(batch)
                batch, size = [], 0
            batch.append(group)
            size += grown
        if batch:
            yield tuple(batch)

    def _read(
        self, index: RowIndex, stretch: _Stretch, columns: Sequence[str], use_threads: bool
    ) -> Iterator[tuple[Int64, pa.Table]]:
        first_group = int(np.searchsorted(index.group_files, stretch.file))
        with open_parquet(self.files[stretch.file], metadata=self._footers[stretch.file].metadata) as parquet:
            names = set(parquet.schema_arrow.names)  # built anew by each access
            present = [c for c in columns if c in names]
            for batch in stretch.batches:
                table = parquet.read_row_groups(list(batch), columns=present, use_threads=use_threads)
                starts = index.group_starts[np.array(batch) + first_group]
                stops = index.group_starts[np.array(batch) + first_group + 1]
                yield np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)]), table


OnError = Literal["raise", "skip"]

#: Kinds of tables that a checkpoint may have a row of, as bits.
EVALUATED, PERPLEXITY = 1, 2


@dataclass(eq=False)
class EvaluationTable(ABC):
    """One kind of table over its files.

    Attributes
    ----------
    files : sequence of TableFile
        Files of the table; without copies of others, once its keys are known.
    on_error : {"raise", "skip"}
        Handling of malformed rows: raise an error, or count them in `left_out` and return NaN.
    repeated, conflicting, malformed : set of int
        Rows read so far that repeat another one, disagree with it, or can't be read.
    """

    files: Sequence[TableFile]
    on_error: OnError = "raise"
    repeated: set[int] = field(default_factory=set)
    conflicting: set[int] = field(default_factory=set)
    malformed: set[int] = field(default_factory=set)
    _index: RowIndex | None = None
    _head: IndexHead | None = None
    _cached_rows: Callable[[], dict[str, npt.NDArray[Any]] | None] | None = None
    _reader: RowGroupReader = field(init=False)

    #: Whether reading one entry of a task reads the text of all its entries.
    reads_tasks_whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._reader = RowGroupReader(self.files)

    def __getstate__(self) -> dict[str, Any]:
        # The index is large: a worker loads it from the cache, or else reads the key columns again.
        return {**self.__dict__, "_index": None, "_head": self.head}

    @property
    def head(self) -> IndexHead:
        """The part of the index that describes the table as a whole."""
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
            cached_rows = self._cached_rows() if self._cached_rows is not None and self._head is not None else None
            if cached_rows is None or self._head is None:
                self._index = self._read_index()
            else:
                head = self._head
                self._index = RowIndex(
                    tuple(self.files),
                    bases=head.bases,
                    tasks=head.tasks,
                    left_out=head.left_out,
                    columns=head.columns,
                    copies=head.copies,
                    **cached_rows,
                )
        return self._index

    def _read_index(self) -> RowIndex:
        index = read_row_index(self.files)
        if self._head is not None:
            # The head is from an earlier read, which has removed copies.
            return replace(index, copies=self._head.copies)
        copies = {file.path for file in find_copies(index)}
        if not copies:
            return index
        self._exclude(copies)
        return replace(read_row_index(self.files), copies=tuple(sorted(copies)))

    def _exclude(self, paths: Collection[str]) -> None:
        """Exclude files from the table."""
        self.files = [file for file in self.files if file.path not in paths]
        self._reader = RowGroupReader(self.files)

    def use_cached(self, head: IndexHead, rows: Callable[[], dict[str, npt.NDArray[Any]] | None]) -> None:
        """Use a cached index: its head now, and its rows when they are needed."""
        self._head, self._cached_rows = head, rows
        if head.copies:
            self._exclude(head.copies)

    @property
    def left_out(self) -> Counter[str]:
        """Number of rows left out so far, by reason; grows as rows are read."""
        counts = Counter(self.head.left_out)
        counts["repeated rows, identical"] = len(self.repeated - self.conflicting)
        counts["repeated rows that disagree, first kept"] = len(self.conflicting)
        counts["rows whose metrics can't be read"] = len(self.malformed)
        return +counts

    @abstractmethod
    def holds(self, metric: Metric) -> bool:
        """Return whether the table may have a metric; reads no values."""

    @abstractmethod
    def lacks_default(self, metric: Metric) -> bool:
        """Return whether one of the default metrics is not in the table; opens no file once the index is loaded."""

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """Return the metrics that the table may have."""

    @abstractmethod
    def sampled(self) -> int | npt.NDArray[np.uint8]:
        """Return the kinds of metrics of each row, `EVALUATED` and `PERPLEXITY`, or one number for all rows."""

    @abstractmethod
    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], keys: Int64) -> list[Float64]:
        """Return the observations of `metrics` for `bases`.

        Parameters
        ----------
        bases : sequence of Base
        metrics : sequence of Metric
        keys : (row,) int64 array
            Runs and steps to return, ascending, as made by `join_keys` from index into `bases` and step. They include
            those of all rows of the table for `bases`.

        Returns
        -------
        list of (row,) float64 array
            One for each metric; NaN where the table has no row.
        """

    def _rows_of(self, bases: Sequence[Base]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return for each row the index into `bases` (-1 if not requested), and a mask of the requested rows."""
        index = self.index
        index_of = {base: i for i, base in enumerate(bases)}
        meaning = np.array([index_of.get(base, -1) for base in index.bases] + [-1], np.int32)
        row_base = meaning[index.base]
        return row_base, (row_base >= 0) & (index.step >= 0)

    @property
    def reads(self) -> ReadCount:
        """Amount of metrics read so far."""
        return self._reader.reads

    def _each_batch(self, rows: Int64, columns: Sequence[str], use: Callable[[Int64, pa.Table], None]) -> None:
        """Read the row groups with `rows` in batches; `use` gets the numbers of a batch's rows, and their table."""
        self._reader.each_batch(self.index, rows, columns, use)

    def _report_repeated(self, rows: Int64, same: npt.NDArray[np.bool_], what: Sequence[str]) -> None:
        """Count rows that repeat an earlier one; warn about those that disagree with it.

        Parameters
        ----------
        rows : (row,) int64 array
            Rows that are not used.
        same : (row,) bool array
            Whether all values read from a row equal those of the row that is used.
        what : sequence of str
            Metrics that were read.
        """
        self.repeated.update(rows.tolist())
        # Metrics of a row are read one after the other; the row is reported once.
        conflicting = [row for row in rows[~same].tolist() if row not in self.conflicting]
        self.conflicting.update(conflicting)
        if conflicting:
            named = [self.name_row(row) for row in conflicting[:3]]
            warnings.warn(
                f"{len(conflicting)} repeated rows disagree with the first row of the same run and step "
                f"({'; '.join(named)}{'; ...' if len(conflicting) > 3 else ''}), so which value is right is "
                f"unknown; the first one is used, for {', '.join(what[:3])} and all other metrics. "
                "Remove the wrong rows to silence this.",
                ConflictWarning,
                stacklevel=2,
            )

    def _file_of(self, row: int) -> int:
        """Return the number of the file of a row."""
        index = self.index
        return int(index.group_files[np.searchsorted(index.group_starts, row, side="right") - 1])

    def _report_malformed(self, row: int, reason: str) -> None:
        """Count a row that can't be read, or raise FormatError, depending on `on_error`."""
        if self.on_error == "raise":
            index, file = self.index, self._file_of(row)
            number = row - index.group_starts[np.searchsorted(index.group_files, file)]
            raise FormatError(
                f"{index.files[file].path}, row {number} ({self.name_row(row)}): the metrics can't be read: {reason}, "
                "so its evaluation is unknown. Repair the file, or pass on_error='skip' to leave out and count such "
                "rows."
            )
        self.malformed.add(row)

    def name_row(self, row: int) -> str:
        """Return the run, step and task of a row, for messages."""
        index = self.index
        base = index.bases[index.base[row]].label if index.base[row] >= 0 else "?"
        task = f", {index.tasks[index.task[row]]}" if index.task[row] >= 0 else ""
        return f"{base} at step {index.step[row]}{task}"


class WideTable(EvaluationTable):
    """A table with one row per run and step and one column per metric.

    The perplexity table of ``allenai/DataDecide-ppl-results``, and ``full_eval.parquet`` of the package
    datadec, whose details of model and recipe are not metrics.
    """

    # Column of each metric by the metric's name, over all files, and columns by file.
    _columns: Mapping[str, str] | None = None
    _columns_of: Sequence[Mapping[str, tuple[str, ...]]] | None = None

    def _columns_by_file(self) -> Sequence[Mapping[str, tuple[str, ...]]]:
        if self._columns_of is None:
            # Most files of a table have the same columns, which are parsed once.
            of_names = {names: _columns_by_metric(names) for names in set(self.head.columns)}
            self._columns_of = [of_names[names] for names in self.head.columns]
        return self._columns_of

    @property
    def columns(self) -> Mapping[str, str]:
        """Column of each metric, by the metric's name; the last one if there are several."""
        if self._columns is None:
            by_file = self._columns_by_file()
            self._columns = {metric: names[-1] for columns in by_file for metric, names in columns.items()}
        return self._columns

    def _column(self, file: int, metric: Metric) -> str:
        """Return the column of a metric in a file; raises FormatError if it has several."""
        names = self._columns_by_file()[file][metric.name]
        if len(names) > 1:
            raise FormatError(
                f"{self.files[file].path} has several columns of the metric {metric.name!r} ({', '.join(names)}), "
                "so its values are ambiguous. Remove all but one."
            )
        return names[0]

    def holds(self, metric: Metric) -> bool:
        """Return whether the table has the metric's column."""
        column = self.columns.get(metric.name)
        return column is not None and wide_column_metric(column) == metric

    def lacks_default(self, metric: Metric) -> bool:
        """Return whether the table has no column of one of the default metrics."""
        return metric.name not in self.columns

    def metrics(self) -> list[Metric]:
        """Return the metric of each column that is one."""
        return [m for m in map(wide_column_metric, self.columns.values()) if m is not None]

    def sampled(self) -> int | npt.NDArray[np.uint8]:
        """Return the kinds of metrics of each row; see :meth:`EvaluationTable.sampled`.

        In a table of both kinds, a row may have metrics of one kind only. This is read from its values: of all
        perplexities, and of each task's primary metric, if there is one.
        """
        index = self.index
        kinds: dict[int, list[str]] = {EVALUATED: [], PERPLEXITY: []}
        primary: list[str] = []
        for name, column in self.columns.items():
            metric = wide_column_metric(column)
            if metric is not None and metric.kind != "log":
                kinds[PERPLEXITY if metric.kind == "perplexity" else EVALUATED].append(name)
                primary += [name] if metric.entry == "primary_metric" else []
        kinds[EVALUATED] = primary or kinds[EVALUATED]
        if not all(kinds.values()):
            return sum(kind for kind, names in kinds.items() if names)
        kinds_of_rows = np.zeros(len(index), np.uint8)
        start = 0
        for file, columns in zip(self.files, self._columns_by_file(), strict=True):
            with open_unchanged(file) as parquet:
                stop = start + parquet.metadata.num_rows
                for kind, names in kinds.items():
                    present = [columns[n][-1] for n in names if n in columns]
                    table = parquet.read(columns=present)
                    for column in present:
                        # Text that is not a number is reported when its values are requested.
                        some = ~np.isnan(read_numbers(table[column], file.where(column)).values)
                        kinds_of_rows[start:stop] |= np.where(some, np.uint8(kind), np.uint8(0))
                start = stop
        return kinds_of_rows

    def evaluations(self, bases: Sequence[Base], metrics: Sequence[Metric], keys: Int64) -> list[Float64]:
        """Return the observations; reads only the requested columns.

        Of several rows of one run and step the first is used, for each metric among the files that have its column.
        """
        index = self.index
        row_base, is_requested = self._rows_of(bases)
        columns = self._columns_by_file()
        values_by_metric = [np.full(len(keys), np.nan) for _ in metrics]
        # Metrics by the files that have them: nearly always one group, as all files have all columns.
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, metric in enumerate(metrics):
            groups.setdefault(tuple(n for n, of_file in enumerate(columns) if metric.name in of_file), []).append(k)
        for files, numbers in groups.items():
            if not files:
                continue
            has_columns = is_requested
            if len(files) < len(columns):
                has_columns = is_requested & np.isin(np.repeat(index.group_files, np.diff(index.group_starts)), files)
            values = self._values(row_base, has_columns, [metrics[k] for k in numbers], files, keys)
            for k, of_metric in zip(numbers, values, strict=True):
                values_by_metric[k] = of_metric
        return values_by_metric

    def _values(
        self,
        row_base: npt.NDArray[np.int32],
        is_requested: npt.NDArray[np.bool_],
        metrics: Sequence[Metric],
        files: Iterable[int],
        keys: Int64,
    ) -> list[Float64]:
        """Return the values of metrics for which all of these files have a column."""
        index = self.index
        rows = np.flatnonzero(is_requested)
        place = np.searchsorted(keys, join_keys(row_base[rows], index.step[rows]))
        firsts, first = first_of_each(place)
        repeated = others(firsts, len(rows))
        # Repeated rows are stored after the others, to be compared with them.
        place[repeated] = len(keys) + np.arange(len(repeated))
        values = np.full((len(metrics), len(keys) + len(repeated)), np.nan)
        columns = {file: [self._column(file, m) for m in metrics] for file in files}
        to_read = sorted({name for of_file in columns.values() for name in of_file})

        def use(numbers: Int64, table: pa.Table) -> None:
            inside = is_requested[numbers]
            at = place[np.searchsorted(rows, numbers[inside])]
            file = self._file_of(int(numbers[0]))
            for k, name in enumerate(columns[file]):
                read = read_numbers(table[name], index.files[file].where(name))
                for reason, odd in read.problems.items():
                    for row in numbers[inside & odd].tolist():
                        self._report_malformed(row, f"the column {name!r} {reason}")
                values[k, at] = read.values[inside]

        if len(rows):
            self._each_batch(rows, to_read, use)
        if len(repeated):
            same = same_values(values[:, len(keys) :], values[:, place[first[repeated]]], axis=0)
            self._report_repeated(rows[repeated], same, [m.name for m in metrics])
        return list(values[:, : len(keys)])


def _columns_by_metric(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    columns: dict[str, tuple[str, ...]] = {}
    for name in names:
        metric = wide_column_metric(name)
        if metric is not None:
            columns[metric.name] = (*columns.get(metric.name, ()), name)
    return columns


def first_of_each(key: Int64) -> tuple[Int64, Int64]:
    """Return the first row of each key, by ascending key, and for every row the first row with its key."""
    order = np.argsort(key, kind="stable")
    starts = np.concatenate([[True], np.diff(key[order]) > 0]) if len(key) else np.empty(0, bool)
    first = np.empty(len(key), np.int64)
    firsts: Int64 = order[starts]
    first[order] = firsts[np.cumsum(starts) - 1]
    return firsts, first


def others(firsts: Int64, size: int) -> Int64:
    """Return the numbers below `size` that are not in `kept`, ascending."""
    is_other = np.ones(size, bool)
    is_other[firsts] = False
    return np.flatnonzero(is_other)


def same_values(a: Float64, b: Float64, axis: int) -> npt.NDArray[np.bool_]:
    """Return whether two arrays are equal along an axis; two NaNs count as equal."""
    return np.asarray(((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=axis))
