"""Find files that only repeat rows of other files, such as a joined file next to its shards, or a second download."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dde.array_types import Int64
from dde.sources.arrow_columns import read_numbers, read_texts
from dde.suite.datadecide.names import wide_column_metric
from dde.suite.datadecide.tables.row_index import RowIndex, join_keys, read_row_index
from dde.suite.datadecide.tables.table_files import TableFile, open_unchanged

__all__ = ["find_copies"]

UInt64 = npt.NDArray[np.uint64]

# Columns that are read at once when contents are compared, which bounds the memory.
_COLUMNS_AT_ONCE = 64


def find_copies(index: RowIndex) -> list[TableFile]:
    """Return the files whose rows are all in the remaining files too, with equal content.

    Cheap comparisons come first: one row of each file with all keys; then all keys of the files whose row is in another
    file too; then the content of these.

    Parameters
    ----------
    index : RowIndex
        Keys of the rows of all files.

    Returns
    -------
    list of TableFile
        In the order of `index.files`. Of two equal files, only the later one is returned.

    Raises
    ------
    SourceError
        When a file can't be read, or has changed since it was indexed.
    """
    rows = [_rows_of_file(index, number) for number in range(len(index.files))]
    suspects = _suspects(index, rows) if len(rows) > 1 else []
    if not suspects:
        return []
    keys = _row_keys(index)
    remaining = dict.fromkeys(range(len(index.files)))
    copies: list[int] = []
    for number in reversed(suspects):
        others = [other for other in remaining if other != number]
        if _is_covered(index, keys, rows, number, others):
            copies.append(number)
            del remaining[number]
    return [index.files[number] for number in sorted(copies)]


def _rows_of_file(index: RowIndex, number: int) -> slice:
    """Return the rows of a file."""
    first, stop = np.searchsorted(index.group_files, [number, number + 1])
    return slice(int(index.group_starts[first]), int(index.group_starts[stop]))


def _row_keys(index: RowIndex) -> Int64:
    """Return a number for the run, step and task of each row; -1 for an unusable row."""
    usable = (index.base >= 0) & (index.step >= 0)
    task = index.task[usable].astype(np.int64) + 1
    keys = np.full(len(index), -1, np.int64)
    keys[usable] = join_keys(index.base[usable] * np.int64(len(index.tasks) + 1) + task, index.step[usable])
    return keys


def _suspects(index: RowIndex, rows: Sequence[slice]) -> list[int]:
    """Return the files whose first usable row has the keys of a row in another file."""
    suspects: list[int] = []
    for number, of_file in enumerate(rows):
        first = _first_usable(index, of_file)
        if first is not None:
            same_keys = np.flatnonzero(index.base == index.base[first])
            is_same = (index.step[same_keys] == index.step[first]) & (index.task[same_keys] == index.task[first])
            same_keys = same_keys[is_same]
            if ((same_keys < of_file.start) | (same_keys >= of_file.stop)).any():
                suspects.append(number)
    return suspects


def _first_usable(index: RowIndex, rows: slice) -> int | None:
    """Return the first row of a range that has a run and a step."""
    # The first row alone is tried first: it is nearly always usable, and the mask of all rows is large.
    for tried in (slice(rows.start, min(rows.start + 1, rows.stop)), rows):
        usable = (index.base[tried] >= 0) & (index.step[tried] >= 0)
        if usable.any():
            return int(tried.start) + int(usable.argmax())
    return None


def _is_covered(index: RowIndex, keys: Int64, rows: Sequence[slice], number: int, others: Sequence[int]) -> bool:
    """Return whether each row of a file is in other files too, as often and with equal content.

    Parameters
    ----------
    index : RowIndex
    keys : (row,) int64 array
        As :func:`_row_keys` returns them.
    rows : sequence of slice
        Rows of each file.
    number : int
        The file.
    others : sequence of int
        Files that remain if it is left out.
    """
    own = np.arange(rows[number].start, rows[number].stop)
    own = own[keys[own] >= 0]
    other = np.concatenate([np.arange(rows[k].start, rows[k].stop) for k in others] or [np.empty(0, np.int64)])
    other = other[np.isin(keys[other], keys[own])]
    own, other = own[np.argsort(keys[own], kind="stable")], other[np.argsort(keys[other], kind="stable")]
    # If a key has several rows, the second row matches the second row in the other files, and so on.
    rank_in_key = np.arange(len(own)) - np.searchsorted(keys[own], keys[own])
    at = np.searchsorted(keys[other], keys[own]) + rank_in_key
    if not len(other) or int(at.max()) >= len(other) or not np.array_equal(keys[other[at]], keys[own]):
        return False
    matches = other[at]
    involved = [k for k in others if np.any((matches >= rows[k].start) & (matches < rows[k].stop))]
    has_unusable = len(own) < rows[number].stop - rows[number].start
    # Unusable rows must be in the other files too, so that they are still counted once.
    if has_unusable and not _count_left_out(index, [number]) <= _count_left_out(index, involved):
        return False
    columns = _content_columns(index.files[number])
    digests = np.zeros(len(index), np.uint64)
    for k in (number, *involved):
        of_file = _digests(index.files[k], columns)
        if of_file is None:
            return False
        digests[rows[k]] = of_file
    return bool(np.array_equal(digests[own], digests[matches]))


def _count_left_out(index: RowIndex, numbers: Sequence[int]) -> Counter[str]:
    """Return the number of unusable rows of files, by reason."""
    return Counter(read_row_index([index.files[k] for k in numbers]).left_out)


def _content_columns(file: TableFile) -> list[str]:
    """Return the columns of a file that contain its metrics."""
    with open_unchanged(file) as parquet:
        names = parquet.schema_arrow.names
    return ["metrics"] if file.kind in ("raw", "macro") else [n for n in names if wide_column_metric(n) is not None]


def _digests(file: TableFile, columns: Sequence[str]) -> UInt64 | None:
    """Return a digest of the content of each row; None for a layout that is not compared, so that no row is equal."""
    with open_unchanged(file) as parquet:
        parts = [np.empty(0, np.uint64)]
        for group in range(parquet.num_row_groups):
            of_group = _digests_of_group(file, parquet, group, columns)
            if of_group is None:
                return None
            parts.append(of_group)
    return np.concatenate(parts)


def _digests_of_group(file: TableFile, parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> UInt64 | None:
    """Return a digest of each row of a row group: of its text, or the sum of the digests of its (column, number)."""
    if file.kind in ("raw", "macro"):
        kind = parquet.schema_arrow.field("metrics").type
        if pa.types.is_nested(kind):
            return None
        texts = read_texts(
            parquet.read_row_group(group, columns=["metrics"])["metrics"], file.where("metrics"), check=False
        )
        return np.array([_digest(text) for text in texts.cast(pa.large_binary()).to_pylist()], np.uint64)
    sums = np.zeros(parquet.metadata.row_group(group).num_rows, np.uint64)
    # A missing column counts as a column without numbers.
    present = [c for c in columns if c in parquet.schema_arrow.names]
    for start in range(0, len(present), _COLUMNS_AT_ONCE):
        table = parquet.read_row_group(group, columns=present[start : start + _COLUMNS_AT_ONCE])
        for name in table.column_names:
            numbers = read_numbers(table[name], file.where(name))
            if numbers.problems:
                return None
            bits = numbers.values.view(np.uint64) ^ np.uint64(_digest(name.encode()))
            sums += np.where(np.isnan(numbers.values), np.uint64(0), _mix_bits(bits))
    return sums


def _digest(content: bytes | None) -> int:
    """Return a 64-bit digest of bytes; 0 for null."""
    return 0 if content is None else int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _mix_bits(bits: UInt64) -> UInt64:
    """Mix bits so that each bit of the argument changes half of the result (the finalizer of MurmurHash3)."""
    bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return bits ^ (bits >> np.uint64(33))
