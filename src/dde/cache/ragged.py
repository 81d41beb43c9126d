"""A cache of ragged tables: rows of many runs, a column per key, filled run by run and key by key."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.row_sets import RowSet, create_row_set, current_row_set
from dde.errors import DdeWarning
from dde.sources.protocols import History

__all__ = ["Fetch", "RaggedCache", "Skeleton"]

Fetch = Callable[[Sequence[str], Sequence[str]], History]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Columns held in memory, so that a metric read twice in a row is read from disk once.
_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True)
class Skeleton:
    """Rows that are known before any column is read.

    Attributes
    ----------
    versions : mapping of str to str
        Version of each run, in the order of the rows.
    offsets : (run + 1,) int64 array
    step : (row,) int64 array
    """

    versions: Mapping[str, str]
    offsets: Int64
    step: Int64


@dataclass
class _Column:
    values: Float64
    filled: npt.NDArray[np.bool_]
    notes: list[str]
    # Whether it could not be written: then memory is all there is.
    unsaved: bool = False


class RaggedCache:
    """Rows of runs as a source gave them, kept on disk and refreshed run by run.

    Parameters
    ----------
    folder : Path
        Folder of this cache; safe to delete at any time.
    what : str
        What the rows are, for people who look into the folder.

    Notes
    -----
    A row set is a Zarr v3 group with the arrays ``run_id`` and ``version`` (run), ``row_offset`` (run + 1),
    ``step`` (row), and a float64 array (row) per key that says which runs it was read for. Every array carries a
    checksum: what was deleted or damaged is read from the source again.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.what = what
        #: What the source reported of the rows that were returned so far.
        self.notes: set[str] = set()
        self._rows: RowSet | None = None
        self._columns: OrderedDict[str, _Column] = OrderedDict()
        self._writable = True
        # Threads of one process share an instance; while one fills a column, the others wait for it.
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        # What was read stays behind: a worker finds it on disk.
        return {"folder": self.folder, "what": self.what}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(
        self,
        run_ids: Sequence[str],
        versions: Sequence[str],
        keys: Sequence[str],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]] = tuple,
        skeleton: Callable[[], Skeleton] | None = None,
    ) -> History:
        """Return the rows of the runs; fetches from the source what is not here in that version.

        Parameters
        ----------
        run_ids, versions : sequence of str
            Runs, and what their source says of their content.
        keys : sequence of str
        fetch : callable
            Called with the runs and keys that are missing.
        notes : callable, optional
            Called after `fetch`; what the source has to report of those rows is kept with them.
        skeleton : callable, optional
            Gives the rows of all runs, where they are known beforehand: then columns fill in place.
        """
        with self._lock:
            return self._read(run_ids, dict(zip(run_ids, versions, strict=True)), keys, fetch, notes, skeleton)

    def _read(
        self,
        run_ids: Sequence[str],
        told: Mapping[str, str],
        keys: Sequence[str],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]],
        skeleton: Callable[[], Skeleton] | None,
    ) -> History:
        rows = self._current_rows()
        if skeleton is not None and (rows is None or _stale(rows, told)):
            rows = self._begin(skeleton())
        missing = _stale(rows, told) if rows is not None else list(run_ids)
        if missing:
            # New and changed runs are read with every key asked for; unchanged ones keep what they have.
            fetched = fetch(missing, list(keys))
            rows = self._extend(rows, missing, told, keys, fetched, list(notes()))
        assert rows is not None
        columns = {key: self._column(rows, key) for key in keys}
        positions = np.array([rows.number[r] for r in run_ids], np.int64)
        lacking = [key for key, column in columns.items() if not column.filled[positions].all()]
        if lacking:
            runs = [
                run_id
                for run_id, at in zip(run_ids, positions, strict=True)
                if not all(columns[key].filled[at] for key in lacking)
            ]
            fetched = fetch(runs, lacking)
            if not self._fill(rows, runs, lacking, fetched, columns, list(notes())):
                # The source has other rows than it had: what it says of itself did not tell. Its word counts.
                rows = self._extend(rows, runs, told, lacking, fetched, list(notes()))
                columns = {key: self._column(rows, key) for key in keys}
                positions = np.array([rows.number[r] for r in run_ids], np.int64)
        self.notes.update(note for column in columns.values() for note in column.notes)
        return _pick(rows, columns, positions)

    def _current_rows(self) -> RowSet | None:
        if not self._writable:
            return self._rows
        found = current_row_set(self.folder, self._rows)
        if found is None or found is not self._rows:
            self._rows = found
            self._columns.clear()
        return self._rows

    def _begin(self, skeleton: Skeleton) -> RowSet:
        self._columns.clear()
        self._rows = self._created(skeleton.versions, skeleton.offsets, skeleton.step)
        return self._rows

    def _created(self, versions: Mapping[str, str], offsets: Int64, step: Int64) -> RowSet:
        if self._writable:
            try:
                return create_row_set(self.folder, self.what, versions, offsets, step)
            except OSError as error:
                self._give_up(error)
        return RowSet(self.folder, versions, offsets, step)

    def _give_up(self, error: OSError) -> None:
        self._writable = False
        warnings.warn(
            f"the cache {self.folder} can't be written ({error}), so what was read is kept for this process "
            "alone. Pass cache_dir= with a folder that can be written, or cache_dir=None.",
            DdeWarning,
            stacklevel=2,
        )

    def _column(self, rows: RowSet, key: str) -> _Column:
        column = self._columns.get(key)
        if column is None:
            found = rows.column(key) if self._writable else None
            if found is None or len(found[0]) != len(rows.step):
                column = _Column(np.full(len(rows.step), np.nan), np.zeros(len(rows.versions), bool), [])
            else:
                column = _Column(*found)
            self._remember(key, column)
        return column

    def _remember(self, key: str, column: _Column) -> None:
        self._columns[key] = column
        self._columns.move_to_end(key)
        room = max(_MEMORY_BYTES // max(column.values.nbytes, 1), 1)
        for old in [k for k, c in self._columns.items() if not c.unsaved][: max(len(self._columns) - room, 0)]:
            if old != key:
                del self._columns[old]

    def _save(self, rows: RowSet, key: str, column: _Column) -> None:
        column.unsaved = True
        if self._writable:
            try:
                rows.put_column(key, column.values, column.filled, column.notes)
                column.unsaved = False
            except OSError as error:
                # A cache that is deleted under a running process is made anew by the next read.
                if self.folder.exists():
                    self._give_up(error)
        self._remember(key, column)

    def _fill(
        self,
        rows: RowSet,
        runs: Sequence[str],
        keys: Sequence[str],
        fetched: History,
        columns: dict[str, _Column],
        notes: list[str],
    ) -> bool:
        """Put fetched rows into the columns; False when the source's rows are not those of the row set."""
        bounds = np.searchsorted(fetched.run, np.arange(len(runs) + 1))
        for i, run_id in enumerate(runs):
            if not np.array_equal(rows.step[rows.span(run_id)], fetched.step[bounds[i] : bounds[i + 1]]):
                return False
        at = np.array([rows.number[r] for r in runs], np.int64)
        target = _row_numbers(rows, at)
        for key in keys:
            old = columns[key]
            values, filled = old.values.copy(), old.filled.copy()
            values[target] = fetched.values[key]
            filled[at] = True
            columns[key] = _Column(values, filled, sorted({*old.notes, *notes}))
            self._save(rows, key, columns[key])
        return True

    def _extend(
        self,
        old: RowSet | None,
        runs: Sequence[str],
        told: Mapping[str, str],
        keys: Sequence[str],
        fetched: History,
        notes: list[str],
    ) -> RowSet:
        """Return a row set with new and changed runs; the columns of all others are carried over."""
        bounds = np.searchsorted(fetched.run, np.arange(len(runs) + 1))
        fresh = {run_id: slice(int(bounds[i]), int(bounds[i + 1])) for i, run_id in enumerate(runs)}
        before = {} if old is None else old.versions
        order = sorted({*before, *runs})
        carried = [r for r in order if r not in fresh]
        pieces = [fetched.step[fresh[r]] if r in fresh else _steps(old, r) for r in order]
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int64)
        step = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
        held = {} if old is None else self._held_columns(old)
        self._columns.clear()
        rows = self._created({r: told.get(r, before.get(r, "")) for r in order}, offsets, step)
        self._rows = rows
        source = np.array([old.number[r] for r in carried], np.int64) if old is not None else np.empty(0, np.int64)
        target = np.array([rows.number[r] for r in carried], np.int64)
        fresh_at = np.array([rows.number[r] for r in runs], np.int64)
        for key in dict.fromkeys([*held, *keys]):
            column = _Column(np.full(len(step), np.nan), np.zeros(len(order), bool), list(notes) if key in keys else [])
            if old is not None and key in held:
                column.values[_row_numbers(rows, target)] = held[key].values[_row_numbers(old, source)]
                column.filled[target] = held[key].filled[source]
                column.notes = sorted({*column.notes, *held[key].notes})
            if key in keys:
                column.values[_row_numbers(rows, fresh_at)] = fetched.values[key]
                column.filled[fresh_at] = True
            self._save(rows, key, column)
        return rows

    def _held_columns(self, rows: RowSet) -> dict[str, _Column]:
        held = dict(self._columns)
        if self._writable:
            for key in rows.keys():  # noqa: SIM118 - a row set is no mapping
                if key not in held:
                    held[key] = self._column(rows, key)
        return held


def _stale(rows: RowSet, told: Mapping[str, str]) -> list[str]:
    return [run_id for run_id, version in told.items() if rows.versions.get(run_id) != version]


def _steps(rows: RowSet | None, run_id: str) -> Int64:
    return np.empty(0, np.int64) if rows is None else rows.step[rows.span(run_id)]


def _row_numbers(rows: RowSet, positions: Int64) -> Int64:
    """Return the rows of the runs at `positions`, in their order."""
    starts = rows.offsets[positions]
    lengths = rows.offsets[positions + 1] - starts
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    numbers: Int64 = np.arange(int(lengths.sum())) - np.repeat(first, lengths) + np.repeat(starts, lengths)
    return numbers


def _pick(rows: RowSet, columns: Mapping[str, _Column], positions: Int64) -> History:
    numbers = _row_numbers(rows, positions)
    lengths = rows.offsets[positions + 1] - rows.offsets[positions]
    run = np.repeat(np.arange(len(positions), dtype=np.int32), lengths)
    return History(run, rows.step[numbers], {key: column.values[numbers] for key, column in columns.items()})
