"""Base class of the tables of pretraining evaluations: keys of rows, reading, and report of unusable rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dde.array_types import Float64, Int64
from dde.curves.metric import Metric
from dde.errors import ConflictWarning, FormatError, warn
from dde.suite.datadecide.names import Base
from dde.suite.datadecide.tables.row_groups import ReadCount, RowGroupReader
from dde.suite.datadecide.tables.row_index import IndexHead, RowIndex, read_row_index
from dde.suite.datadecide.tables.table_copies import find_copies
from dde.suite.datadecide.tables.table_files import TableFile

__all__ = ["EVALUATED", "PERPLEXITY", "EvaluationTable", "OnError", "first_of_each", "others", "same_values"]

OnError = Literal["raise", "skip"]

#: Kinds of tables that a checkpoint may have a row of, as bits.
EVALUATED, PERPLEXITY = 1, 2


@dataclass(eq=False)
class EvaluationTable(ABC):
    """A table of pretraining evaluations in one or more files. Subclasses read its layout.

    Attributes
    ----------
    files : sequence of TableFile
        Files of the table. Files that repeat rows of other files are removed when the index is read.
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

    #: Whether reading one entry of a task also reads the text of all its other entries.
    reads_complete_tasks: ClassVar[bool] = False

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
    def row_kinds(self) -> int | npt.NDArray[np.uint8]:
        """Return which kinds of metrics each row has.

        Returns
        -------
        int or (row,) uint8 array
            Sum of the bits `EVALUATED` and `PERPLEXITY`; one int if all rows have the same kinds.
        """

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
        # The last element serves rows of an unknown run, whose index is -1.
        requested = np.array([index_of.get(base, -1) for base in index.bases] + [-1], np.int32)
        row_base = requested[index.base]
        return row_base, (row_base >= 0) & (index.step >= 0)

    @property
    def reads(self) -> ReadCount:
        """Amount of metrics read so far."""
        return self._reader.reads

    def _each_batch(self, rows: Int64, columns: Sequence[str], use: Callable[[Int64, pa.Table], None]) -> None:
        """Call `use` for each batch of the row groups with `rows`; see :meth:`RowGroupReader.each_batch`."""
        self._reader.each_batch(self.index, rows, columns, use)

    def _report_repeated(self, rows: Int64, same: npt.NDArray[np.bool_], metrics: Sequence[str]) -> None:
        """Count rows that repeat an earlier one; warn about those that disagree with it.

        Parameters
        ----------
        rows : (row,) int64 array
            Rows that are not used.
        same : (row,) bool array
            Whether all values read from a row equal those of the row that is used.
        metrics : sequence of str
            Names of the metrics that were read.
        """
        self.repeated.update(rows.tolist())
        # A row is read once per request of metrics, but reported once.
        conflicting = [row for row in rows[~same].tolist() if row not in self.conflicting]
        self.conflicting.update(conflicting)
        if conflicting:
            examples = [self.name_row(row) for row in conflicting[:3]]
            warn(
                f"{len(conflicting)} repeated rows disagree with the first row of the same run and step "
                f"({'; '.join(examples)}{'; ...' if len(conflicting) > 3 else ''}), so which value is right is "
                f"unknown; the first one is used, for {', '.join(metrics[:3])} and all other metrics. "
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


def first_of_each(key: Int64) -> tuple[Int64, Int64]:
    """Return the first row of each key, by ascending key, and for every row the first row with its key.

    Parameters
    ----------
    key : (row,) int64 array

    Returns
    -------
    firsts : (key,) int64 array
    first : (row,) int64 array

    Examples
    --------
    >>> firsts, first = first_of_each(np.array([7, 5, 7]))
    >>> firsts.tolist(), first.tolist()
    ([1, 0], [0, 1, 0])
    """
    order = np.argsort(key, kind="stable")
    starts = np.concatenate([[True], np.diff(key[order]) > 0]) if len(key) else np.empty(0, bool)
    first = np.empty(len(key), np.int64)
    firsts: Int64 = order[starts]
    first[order] = firsts[np.cumsum(starts) - 1]
    return firsts, first


def others(firsts: Int64, size: int) -> Int64:
    """Return the numbers below `size` that are not in `firsts`, ascending.

    Examples
    --------
    >>> others(np.array([0, 3]), 5).tolist()
    [1, 2, 4]
    """
    is_other = np.ones(size, bool)
    is_other[firsts] = False
    return np.flatnonzero(is_other)


def same_values(a: Float64, b: Float64, axis: int) -> npt.NDArray[np.bool_]:
    """Return whether two arrays are equal along an axis; two NaNs count as equal."""
    return np.asarray(((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=axis))
