"""Read row groups of parquet files in batches, by several threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dde.array_types import Int64
from dde.native import processors
from dde.sources.parquet_files import open_parquet
from dde.suite.datadecide.tables.row_index import RowIndex
from dde.suite.datadecide.tables.table_files import TableFile

__all__ = ["ReadCount", "RowGroupReader"]

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
class _ThreadShare:
    """Row groups of one file that one thread reads, batch by batch.

    Attributes
    ----------
    file : int
        Index of the file.
    batches : tuple of tuple of int
        Indices of the row groups of each batch, counted from the file's first.
    """

    file: int
    batches: tuple[tuple[int, ...], ...]


@dataclass(eq=False)
class RowGroupReader:
    """Reader of row groups of the files of one table. A copy in another process reads the footers again.

    Attributes
    ----------
    files : sequence of TableFile
        Files of the table, in the order of its row index.
    reads : ReadCount
        Amount read so far.
    """

    files: Sequence[TableFile]
    reads: ReadCount = field(default_factory=ReadCount)
    _footers: dict[int, _Footer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[object, ...]:
        # Locks can't be pickled, and footers are large.
        return RowGroupReader, (self.files, self.reads)

    def each_batch(
        self, index: RowIndex, rows: Int64, columns: Sequence[str], use: Callable[[Int64, pa.Table], None]
    ) -> None:
        """Call `use` with all rows of each row group that has any of the requested rows.

        Parameters
        ----------
        index : RowIndex
            Keys of the rows of `files`.
        rows : (row,) int64 array
            Requested rows, ascending.
        columns : sequence of str
            Columns to read; absent columns of a file are not in its table.
        use : callable
            Called as ``use(numbers, table)`` for each batch, with the (row,) int64 numbers of its rows and the table of
            their columns; several threads call it at the same time.

        Raises
        ------
        SourceError
            When a file can't be read, or changes before or during the read. Results of `use` are invalid then.
        """
        groups = np.unique(np.searchsorted(index.group_starts, rows, side="right") - 1)
        with ExitStack() as stack:
            for file in (index.files[number] for number in np.unique(index.group_files[groups]).tolist()):
                stack.enter_context(file.unchanged())
            self._read_all(index, self._shares(index, groups, columns), columns, use)
        with self._lock:
            self.reads.rows += len(rows)

    def _read_all(
        self,
        index: RowIndex,
        shares: Sequence[_ThreadShare],
        columns: Sequence[str],
        use: Callable[[Int64, pa.Table], None],
    ) -> None:
        """Read the shares, each by its own thread; Arrow's threads decode the columns if there is only one share."""

        def read(share: _ThreadShare) -> None:
            for numbers, table in self._read(index, share, columns, use_threads=len(shares) == 1):
                use(numbers, table)

        if len(shares) == 1:
            read(shares[0])
        elif shares:
            with ThreadPoolExecutor(processors()) as threads:
                # Iterating raises the first error of a thread here.
                for _ in threads.map(read, shares):
                    pass

    def _shares(self, index: RowIndex, groups: Int64, columns: Sequence[str]) -> list[_ThreadShare]:
        """Return the shares of all threads: the batches of each file, split evenly."""
        shares: list[_ThreadShare] = []
        for number in np.unique(index.group_files[groups]).tolist():
            first_group = int(np.searchsorted(index.group_files, number))
            local = (groups[index.group_files[groups] == number] - first_group).tolist()
            batches = list(self._batches(self._footer(number), local, columns))
            n_batches = math.ceil(len(batches) / processors())
            shares += [
                _ThreadShare(number, tuple(batches[k : k + n_batches])) for k in range(0, len(batches), n_batches)
            ]
        return shares

    def _footer(self, number: int) -> _Footer:
        """Return the footer of a file, which is read once."""
        if number not in self._footers:
            with open_parquet(self.files[number]) as parquet:
                schema = parquet.metadata.schema
                index_by_path = {schema.column(k).path: k for k in range(len(schema))}
                self._footers[number] = _Footer(parquet.metadata, index_by_path)
        return self._footers[number]

    def _batches(self, footer: _Footer, groups: Iterable[int], columns: Sequence[str]) -> Iterator[tuple[int, ...]]:
        """Yield row groups of a file in batches of at most `_BATCH_BYTES`, or of one row group; count what is read."""
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
        self, index: RowIndex, share: _ThreadShare, columns: Sequence[str], use_threads: bool
    ) -> Iterator[tuple[Int64, pa.Table]]:
        """Yield the numbers of the rows of each batch, and their table."""
        first_group = int(np.searchsorted(index.group_files, share.file))
        with open_parquet(self.files[share.file], metadata=self._footers[share.file].metadata) as parquet:
            names = set(parquet.schema_arrow.names)  # each access builds a new list
            present = [c for c in columns if c in names]
            for batch in share.batches:
                table = parquet.read_row_groups(list(batch), columns=present, use_threads=use_threads)
                starts = index.group_starts[np.array(batch) + first_group]
                stops = index.group_starts[np.array(batch) + first_group + 1]
                yield np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)]), table
