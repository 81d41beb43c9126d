"""Reading parts of parquet tables: the row groups that hold the rows asked for, in small batches, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dde.native import processors
from dde.sources.parquet_files import open_parquet
from dde.suite.datadecide.tables.row_index import RowIndex
from dde.suite.datadecide.tables.table_files import TableFile

__all__ = ["ReadCount", "RowGroupReader"]

Int64 = npt.NDArray[np.int64]

# A batch that fits the processor's cache is read, and what it holds parsed, in two thirds of the time of one of 50 MB.
_BATCH_BYTES = 6 << 20


@dataclass(slots=True)
class ReadCount:
    """What has been read of metrics so far, in rows, row groups and bytes as stored."""

    rows: int = 0
    row_groups: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Footer:
    """The footer of a file, and where each column as stored lies, by path: a nested one has several."""

    metadata: pq.FileMetaData
    places: Mapping[str, int]

    def places_of(self, columns: Iterable[str]) -> list[int]:
        """Return where the columns lie; of those that the file lacks, nothing."""
        found: list[int] = []
        for column in columns:
            if column in self.places:
                found.append(self.places[column])
            else:
                found += (k for path, k in self.places.items() if path.startswith(f"{column}."))
        return found


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Row groups of one file that one thread reads, one batch after the other."""

    file: int
    batches: tuple[tuple[int, ...], ...]


@dataclass(eq=False)
class RowGroupReader:
    """Reads row groups of the files of one table.

    Attributes
    ----------
    files : sequence of TableFile
    reads : ReadCount
        What has been read.
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
        """Call `use` with all rows of each row group that holds any of those asked for.

        Parameters
        ----------
        index : RowIndex
        rows : (row,) int64 array
            Ascending.
        columns : sequence of str
            Columns to read; one that a file lacks is not in its table.
        use : callable
            Given the numbers of the rows of a batch, and their table; may be called by several threads at once.

        Raises
        ------
        SourceError
            When a file can't be read, is not the one that was found, or changes meanwhile. What `use` was given
            does not count then.
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
                # Results are taken so that the first error of a thread is raised here.
                for _ in threads.map(read, stretches):
                    pass

    def _stretches(self, index: RowIndex, groups: Int64, columns: Sequence[str]) -> list[_Stretch]:
        found: list[_Stretch] = []
        for number in np.unique(index.group_files[groups]).tolist():
            first_group = int(np.searchsorted(index.group_files, number))
            local = (groups[index.group_files[groups] == number] - first_group).tolist()
            batches = list(self._batches(self._footer(number), local, columns))
            share = -(-len(batches) // processors())
            found += [_Stretch(number, tuple(batches[k : k + share])) for k in range(0, len(batches), share)]
        return found

    def _footer(self, number: int) -> _Footer:
        if number not in self._footers:
            with open_parquet(self.files[number]) as parquet:
                schema = parquet.metadata.schema
                places = {schema.column(k).path: k for k in range(len(schema))}
                self._footers[number] = _Footer(parquet.metadata, places)
        return self._footers[number]

    def _batches(self, footer: _Footer, groups: Iterable[int], columns: Sequence[str]) -> Iterator[tuple[int, ...]]:
        wanted = footer.places_of(columns)
        batch: list[int] = []
        size = 0
        for group in groups:
            chunks = [footer.metadata.row_group(group).column(c) for c in wanted]
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
            held = [c for c in columns if c in parquet.schema_arrow.names]
            for batch in stretch.batches:
                table = parquet.read_row_groups(list(batch), columns=held, use_threads=use_threads)
                starts = index.group_starts[np.array(batch) + first_group]
                stops = index.group_starts[np.array(batch) + first_group + 1]
                yield np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)]), table
