"""Rows of runs, put together from the parts that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.heads import Head
from dde.cache.holdings import Answer, row_numbers
from dde.cache.memory import Memory
from dde.cache.parts import CHUNK_ROWS, DamagedError, PartArrays
from dde.cache.places import Place
from dde.sources.protocols import History

__all__ = ["Columns", "assemble"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Rows = slice | Int64

# Opened arrays are kept for as many parts.
_OPEN_PARTS = 64


class Columns:
    """Ranges of the columns of parts, from memory or from where they are stored.

    Parameters
    ----------
    folder : Place
    memory : Memory
    """

    def __init__(self, folder: Place, memory: Memory) -> None:
        self._folder = folder
        self._memory = memory
        self._open: dict[str, PartArrays] = {}

    def _arrays(self, head: Head) -> PartArrays:
        found = self._open.get(head.name)
        if found is None:
            if len(self._open) >= _OPEN_PARTS:
                self._open = {}
            found = self._open[head.name] = PartArrays(self._folder, head)
        return found

    def remember(self, head: Head, history: History) -> None:
        """Keep what was fetched and written: it is likely asked for next."""
        if head.bytes <= self._memory.room // 2:
            self._memory.put((head.name, None, 0, head.rows), history.step)
            for key, values in history.values.items():
                self._memory.put((head.name, key, 0, head.rows), values)

    def step(self, head: Head, first: int, end: int) -> Int64:
        """Return steps; raises DamagedError with the part when they can't be read."""
        for span in ((first, end), (0, head.rows)):
            found = self._memory.get((head.name, None, *span))
            if found is not None:
                return found[first - span[0] : end - span[0]]
        try:
            step = self._arrays(head).step(first, end)
        except DamagedError:
            self._open.pop(head.name, None)
            raise DamagedError((head.name, None)) from None
        self._memory.put((head.name, None, first, end), step)
        return step

    def values(self, head: Head, keys: Sequence[str], first: int, end: int) -> dict[str, Float64]:
        """Return values by key; raises DamagedError with the parts and keys that can't be read."""
        found: dict[str, Float64] = {}
        for key in keys:
            for span in ((first, end), (0, head.rows)):
                held = self._memory.get((head.name, key, *span))
                if held is not None:
                    found[key] = held[first - span[0] : end - span[0]]
                    break
        unread = sorted((k for k in keys if k not in found), key=head.key_number.__getitem__)
        if not unread:
            return found
        arrays = self._arrays(head)
        try:
            read = dict(zip(unread, arrays.values([head.key_number[k] for k in unread], first, end), strict=True))
        except DamagedError:
            self._open.pop(head.name, None)
            read, damaged = {}, []
            for key in unread:
                try:
                    [read[key]] = arrays.values([head.key_number[key]], first, end)
                except DamagedError:
                    damaged.append((head.name, key))
            if damaged:
                raise DamagedError(*damaged) from None
        if sum(column.nbytes for column in read.values()) <= self._memory.room // 2:
            for key, column in read.items():
                # A row of a block would keep the whole block.
                read[key] = column.copy() if column.base is not None else column
                self._memory.put((head.name, key, first, end), read[key])
        return {**found, **read}


def assemble(found: Answer, keys: Sequence[str], columns: Columns, fetched: Mapping[str, History]) -> History:
    """Return the rows that an answer points at, by run in the order asked for.

    Parameters
    ----------
    found : Answer
        A whole one.
    keys : sequence of str
    columns : Columns
    fetched : mapping of str to History
        Parts whose rows are in memory.

    Raises
    ------
    DamagedError
        With the (part, key) that can't be read.
    """
    n = len(found.rows_from)
    lengths = np.zeros(n, np.int64)
    for i, head in enumerate(found.sources):
        mine = found.rows_from == i
        lengths[mine] = head.lengths[found.positions[i][mine]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    run = np.repeat(np.arange(n, dtype=np.int32), lengths)
    values: dict[str, Float64] = {}
    for members, source in found.groups:
        values.update(_gather(found, source, members, lengths, offsets, columns, fetched))
    # One part has all of it, where it can: its steps are read with its values.
    [*_, source] = [found.rows_from, *(source for _, source in found.groups)]
    step = _gather(found, source, None, lengths, offsets, columns, fetched)[None]
    for array in (run, step, *values.values()):
        array.flags.writeable = False
    return History(run, step, {key: values[key] for key in keys})


def _gather(
    found: Answer,
    source: Int64,
    keys: Sequence[str] | None,
    lengths: Int64,
    offsets: Int64,
    columns: Columns,
    fetched: Mapping[str, History],
) -> dict[Any, Any]:
    """Return columns of one group, by key; with None for keys, the steps."""
    names: list[str | None] = [None] if keys is None else list(keys)
    total = int(offsets[-1])
    result: dict[str | None, npt.NDArray[Any]] = {}
    for i in np.unique(source[lengths > 0]):
        head = found.sources[i]
        runs = np.flatnonzero((source == i) & (lengths > 0))
        starts = head.offsets[found.positions[i][runs]]
        for members in _clusters(starts, lengths[runs]):
            of = runs[members]
            target = _rows(offsets[of], lengths[of])
            first, end = _aligned(starts[members], lengths[of], head.rows)
            if head.name in fetched:
                first, end = 0, head.rows
                history = fetched[head.name]
                read: Mapping[Any, Any] = {k: history.step if k is None else history.values[k] for k in names}
            elif keys is None:
                read = {None: columns.step(head, first, end)}
            else:
                read = columns.values(head, keys, first, end)
            origin = _rows(starts[members] - first, lengths[of])
            whole = isinstance(target, slice) and target.stop - target.start == total
            for name in names:
                piece = read[name][origin]
                if whole:
                    result[name] = piece.view()
                    continue
                if name not in result:
                    result[name] = np.empty(total, piece.dtype)
                result[name][target] = piece
    for name in names:
        if name not in result:
            result[name] = np.empty(0, np.int64 if name is None else np.float64)
    return result


def _clusters(starts: Int64, lengths: Int64) -> list[Int64]:
    """Group runs of a part so that what lies between them, where it is more than a chunk, is not read."""
    order = np.argsort(starts, kind="stable")
    ends = starts[order] + lengths[order]
    apart = np.flatnonzero(starts[order][1:] // CHUNK_ROWS > (ends[:-1] - 1) // CHUNK_ROWS + 1) + 1
    if not len(apart):
        return [np.arange(len(starts))]
    return [np.sort(members) for members in np.split(order, apart)]


def _aligned(starts: Int64, lengths: Int64, rows: int) -> tuple[int, int]:
    """Return the rows of the chunks that hold these."""
    first = int(starts.min()) // CHUNK_ROWS * CHUNK_ROWS
    end = -(-int((starts + lengths).max()) // CHUNK_ROWS) * CHUNK_ROWS
    return first, min(end, rows)


def _rows(starts: Int64, lengths: Int64) -> Rows:
    """Return rows as a slice where they follow each other, which needs no copy, else their numbers."""
    ends = starts + lengths
    if (starts[1:] == ends[:-1]).all():
        return slice(int(starts[0]), int(ends[-1]))
    return row_numbers(starts, lengths)
