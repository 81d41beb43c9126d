"""A cache of ragged tables: rows of many runs, a column per key, filled run by run and key by key."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from dde.cache.generations import current_generation, writing_generation
from dde.errors import DdeWarning
from dde.names import identifier
from dde.sources.protocols import History

__all__ = ["Fetch", "RaggedCache"]

Fetch = Callable[[Sequence[str], Sequence[str]], History]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

#: Raised whenever what is stored, or how, changes its meaning.
FORMAT = 1


class _DamagedError(Exception):
    """A generation that was deleted or cut while it was read."""


# What a missing or cut file makes of zarr and its codecs.
_UNREADABLE = (_DamagedError, OSError, KeyError, ValueError, TypeError, RuntimeError)


@dataclass
class _Table:
    """A generation in memory; columns are read when they are asked for."""

    versions: dict[str, str] = field(default_factory=dict)
    offsets: Int64 = field(default_factory=lambda: np.zeros(1, np.int64))
    step: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    # Which runs each column has been read for.
    filled: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    columns: dict[str, Float64] = field(default_factory=dict)
    array_of: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def number(self) -> dict[str, int]:
        return {run_id: i for i, run_id in enumerate(self.versions)}


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
    A generation is a Zarr v3 group with the arrays ``run_id`` and ``version`` (run), ``row_offset`` (run + 1),
    ``step`` (row), ``filled`` (key, run), and a float64 array (row) per key. Every array carries a checksum:
    what was deleted or damaged is read from the source again.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.what = what
        self._table = _Table()
        self._told = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What the source reported while the rows were read from it."""
        return self._table.notes

    def read(
        self,
        run_ids: Sequence[str],
        versions: Sequence[str],
        keys: Sequence[str],
        fetch: Fetch,
        notes: Callable[[], Sequence[str]] = tuple,
    ) -> History:
        """Return the rows of the runs; fetches from the source what is not here in that version.

        Parameters
        ----------
        run_ids, versions : sequence of str
            Runs, and what their source says of their content.
        keys : sequence of str
        fetch : callable
            Called at most once, with the runs and keys that are missing.
        notes : callable, optional
            Called after `fetch`; what the source has to report of those rows is kept with them.
        """
        table = self._load(keys)
        number = table.number
        known = [run_id in number and table.versions[run_id] == v for run_id, v in zip(run_ids, versions, strict=True)]
        missing_keys = [
            key
            for key in keys
            if not all(
                k and table.filled.get(key, _NOTHING(table))[number[r]] for r, k in zip(run_ids, known, strict=True)
            )
        ]
        missing_runs = [
            run_id
            for run_id, k in zip(run_ids, known, strict=True)
            if not (k and all(table.filled.get(key, _NOTHING(table))[number[run_id]] for key in keys))
        ]
        if missing_runs:
            wanted = missing_keys or list(keys)
            rows = fetch(missing_runs, wanted)
            told = dict(zip(run_ids, versions, strict=True))
            reported = tuple(dict.fromkeys([*table.notes, *notes()]))
            table = self._merge(table, missing_runs, [told[r] for r in missing_runs], wanted, rows, reported)
            self._table = table
        return _pick(table, run_ids, keys)

    def _load(self, keys: Sequence[str]) -> _Table:
        """Return the current generation with the columns asked for; an empty table when there is none."""
        path = current_generation(self.folder)
        if path is None:
            # Deleted while this process holds a copy: what is in memory is still what the source said.
            return self._table if self._table.path is None else _Table()
        try:
            group = zarr.open_group(path, mode="r")
            if path != self._table.path:
                self._table = _open_table(path, group)
            for key in keys:
                if key in self._table.array_of and key not in self._table.columns:
                    self._table.columns[key] = _read(group, self._table.array_of[key])
        except _UNREADABLE:
            return _Table()
        return self._table

    def _merge(
        self,
        old: _Table,
        run_ids: Sequence[str],
        versions: Sequence[str],
        keys: Sequence[str],
        rows: History,
        notes: tuple[str, ...],
    ) -> _Table:
        """Return the table with the fetched rows, and write it as a new generation."""
        bounds = np.searchsorted(rows.run, np.arange(len(run_ids) + 1))
        changed = [r for r, v in zip(run_ids, versions, strict=True) if old.versions.get(r) != v]
        same_rows = not changed and all(
            np.array_equal(old.step[_span(old, r)], rows.step[bounds[i] : bounds[i + 1]]) for i, r in enumerate(run_ids)
        )
        if same_rows:
            new = self._add_columns(old, run_ids, keys, rows, bounds)
            fresh = list(keys)
        else:
            new = self._rebuild(old, run_ids, versions, keys, rows, bounds)
            fresh = list(new.array_of)
        new.notes = notes
        try:
            base = old.path if same_rows and old.path is not None and old.path.exists() else None
            if base is None:
                fresh = list(new.array_of)
            with writing_generation(self.folder, base) as making:
                _write(making, new, fresh, self.what, partial=base is not None)
            new.path = current_generation(self.folder)
        except OSError as error:
            new.path = None
            if not self._told:
                self._told = True
                warnings.warn(
                    f"the cache {self.folder} can't be written ({error}), so what was read is kept for this process "
                    "alone. Pass cache_dir= with a folder that can be written, or cache_dir=None.",
                    DdeWarning,
                    stacklevel=2,
                )
        return new

    def _add_columns(
        self, old: _Table, run_ids: Sequence[str], keys: Sequence[str], rows: History, bounds: npt.NDArray[np.intp]
    ) -> _Table:
        new = replace(old, filled=dict(old.filled), columns=dict(old.columns), array_of=dict(old.array_of))
        number = old.number
        for key in keys:
            if key in old.array_of and key not in new.columns:
                new.columns[key] = self._column(old, key)
            column = new.columns.get(key, np.full(len(old.step), np.nan)).copy()
            filled = new.filled.get(key, np.zeros(len(old.versions), bool)).copy()
            for i, run_id in enumerate(run_ids):
                column[_span(old, run_id, number)] = rows.values[key][bounds[i] : bounds[i + 1]]
                filled[number[run_id]] = True
            new.columns[key], new.filled[key] = column, filled
            _name_array(new, key)
        return new

    def _rebuild(
        self,
        old: _Table,
        run_ids: Sequence[str],
        versions: Sequence[str],
        keys: Sequence[str],
        rows: History,
        bounds: npt.NDArray[np.intp],
    ) -> _Table:
        fetched = {run_id: i for i, run_id in enumerate(run_ids)}
        number = old.number
        merged = {**old.versions, **dict(zip(run_ids, versions, strict=True))}
        order = sorted(merged)
        lengths = [
            int(bounds[fetched[r] + 1] - bounds[fetched[r]])
            if r in fetched
            else int(old.offsets[number[r] + 1] - old.offsets[number[r]])
            for r in order
        ]
        new = _Table({r: merged[r] for r in order}, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        new.step = np.empty(int(new.offsets[-1]), np.int64)
        all_keys = list(dict.fromkeys([*old.array_of, *keys]))
        for key in all_keys:
            new.columns[key] = np.full(len(new.step), np.nan)
            new.filled[key] = np.zeros(len(order), bool)
            _name_array(new, key)
        for i, run_id in enumerate(order):
            target = slice(int(new.offsets[i]), int(new.offsets[i + 1]))
            if run_id in fetched:
                source = slice(int(bounds[fetched[run_id]]), int(bounds[fetched[run_id] + 1]))
                new.step[target] = rows.step[source]
                for key in keys:
                    new.columns[key][target] = rows.values[key][source]
                    new.filled[key][i] = True
                continue
            source = _span(old, run_id, number)
            new.step[target] = old.step[source]
            for key in old.array_of:
                if old.filled[key][number[run_id]]:
                    new.columns[key][target] = self._column(old, key)[source]
                    new.filled[key][i] = True
        return new

    def _column(self, table: _Table, key: str) -> Float64:
        if key not in table.columns:
            try:
                if table.path is None:
                    raise _DamagedError
                table.columns[key] = _read(zarr.open_group(table.path, mode="r"), table.array_of[key])
            except _UNREADABLE:
                table.columns[key] = np.full(len(table.step), np.nan)
                table.filled[key] = np.zeros(len(table.versions), bool)
        return table.columns[key]


def _NOTHING(table: _Table) -> npt.NDArray[np.bool_]:
    return np.zeros(len(table.versions), bool)


def _span(table: _Table, run_id: str, number: dict[str, int] | None = None) -> slice:
    at = (table.number if number is None else number)[run_id]
    return slice(int(table.offsets[at]), int(table.offsets[at + 1]))


def _pick(table: _Table, run_ids: Sequence[str], keys: Sequence[str]) -> History:
    number = table.number
    at = np.array([number[r] for r in run_ids], np.int64)
    starts, lengths = table.offsets[at], table.offsets[at + 1] - table.offsets[at]
    run = np.repeat(np.arange(len(run_ids), dtype=np.int32), lengths)
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    rows = np.arange(int(lengths.sum())) - np.repeat(first, lengths) + np.repeat(starts, lengths)
    return History(run, table.step[rows], {key: table.columns[key][rows] for key in keys})


def _name_array(table: _Table, key: str) -> None:
    if key not in table.array_of:
        taken = set(table.array_of.values()) | {"run_id", "version", "row_offset", "step", "filled"}
        name = stem = identifier(key)
        count = 2
        while name in taken:
            name, count = f"{stem}_{count}", count + 1
        table.array_of[key] = name


def _open_table(path: Path, group: zarr.Group) -> _Table:
    if group.attrs.get("dde_cache_format") != FORMAT:
        raise _DamagedError
    keys: list[str] = list(group.attrs["keys"])  # type: ignore[arg-type]
    names: list[str] = list(group.attrs["arrays"])  # type: ignore[arg-type]
    filled = _read(group, "filled").astype(bool)
    versions = dict(zip(_read(group, "run_id").tolist(), _read(group, "version").tolist(), strict=True))
    return _Table(
        {str(k): str(v) for k, v in versions.items()},
        _read(group, "row_offset"),
        _read(group, "step"),
        {key: filled[i] for i, key in enumerate(keys)},
        {},
        dict(zip(keys, names, strict=True)),
        tuple(map(str, group.attrs["notes"])),  # type: ignore[arg-type]
        path,
    )


def _read(group: zarr.Group, name: str) -> npt.NDArray[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    values = np.asarray(array[...])
    # A chunk that is gone reads as fill values, without an error.
    if _checksum(values) != array.attrs.get("crc32"):
        raise _DamagedError
    return values


def _checksum(values: npt.NDArray[Any]) -> int:
    if values.dtype.kind in "OTU":
        return zlib.crc32("\n".join(map(str, values.tolist())).encode())
    return zlib.crc32(np.ascontiguousarray(values).data)


def _write(path: Path, table: _Table, fresh: Sequence[str], what: str, partial: bool) -> None:
    """Write a generation; `partial` when the unchanged arrays are there already."""
    group = zarr.open_group(path, mode="a", zarr_format=3)
    group.attrs.update(
        {
            "dde_cache_format": FORMAT,
            "title": what,
            "keys": list(table.array_of),
            "arrays": list(table.array_of.values()),
            "notes": list(table.notes),
        }
    )
    filled = (
        np.array([table.filled[k] for k in table.array_of], np.int8)
        if table.array_of
        else np.zeros((0, len(table.versions)), np.int8)
    )
    _put(group, "filled", filled, ("key", "run"), {})
    if not partial:
        _put(group, "run_id", np.array(list(table.versions), np.dtypes.StringDType()), ("run",), {})
        _put(group, "version", np.array(list(table.versions.values()), np.dtypes.StringDType()), ("run",), {})
        _put(group, "row_offset", table.offsets, ("run_bound",), {})
        _put(group, "step", table.step, ("row",), {})
    for key in fresh:
        _put(group, table.array_of[key], table.columns[key], ("row",), {"key": key})


def _put(group: zarr.Group, name: str, values: npt.NDArray[Any], dims: tuple[str, ...], attrs: dict[str, Any]) -> None:
    if name in group:
        del group[name]
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(n, 1) for n in values.shape),
        fill_value="" if values.dtype.kind == "T" else np.nan if values.dtype.kind == "f" else 0,
        dimension_names=dims,
        attributes={**attrs, "crc32": _checksum(values)},
    )
    if values.size:
        array[...] = values
