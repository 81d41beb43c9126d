"""Row sets on disk: Zarr groups of which every array is written once, whole, and never changed.

A row set names runs, their versions and their rows; columns join it one by one. ``current`` names the newest set
and is replaced in one step. An array is written beside its place and renamed into it: a reader or a second writer
sees it whole or not at all. Of two writers at once the later one wins; what the other had added is read from the
source again when it is next asked for.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from dde.cache.whole_arrays import MAKING, UNREADABLE, checked, making, remove_if_old, write_array
from dde.names import identifier

__all__ = ["RowSet", "create_row_set", "current_row_set"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Raised whenever what is stored, or how, changes its meaning.
FORMAT = 2

_POINTER = "current"

# Arrays that a row set has without any column.
_FRAME = ("run_id", "version", "row_offset", "step")


class RowSet:
    """Runs, their versions and their rows, in memory; columns are read from disk when asked for.

    Attributes
    ----------
    path : Path
        Zarr group.
    versions : dict of str to str
        Version of each run, in the order of the rows.
    number : dict of str to int
        Position of each run.
    offsets : (run + 1,) int64 array
    step : (row,) int64 array
    """

    def __init__(self, path: Path, versions: Mapping[str, str], offsets: Int64, step: Int64) -> None:
        self.path = path
        self.versions = dict(versions)
        self.number = {run_id: i for i, run_id in enumerate(self.versions)}
        self.offsets = offsets
        self.step = step
        self._listed: tuple[int, dict[str, list[Path]]] = (-1, {})

    def span(self, run_id: str) -> slice:
        """Return the rows of a run."""
        at = self.number[run_id]
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

    def keys(self) -> list[str]:
        """Return the keys of all columns."""
        found: dict[str, None] = {}
        for stem, paths in self._arrays().items():
            for path in paths if stem not in _FRAME else ():
                try:
                    found[str(zarr.open_array(path, mode="r").attrs["key"])] = None
                except UNREADABLE:
                    continue
        return list(found)

    def column(self, key: str) -> tuple[Float64, Flags, list[str]] | None:
        """Return a column, the runs it was read for, and what its source reported; None when there is none."""
        for path in self._paths(key)[::-1]:
            try:
                array = zarr.open_array(path, mode="r")
                if array.attrs.get("key") == key:
                    values = checked(array)
                    bits = np.frombuffer(base64.b64decode(str(array.attrs["filled"])), np.uint8)
                    filled = np.unpackbits(bits, count=len(self.versions)).astype(bool)
                    notes: Any = array.attrs["notes"]
                    return values, filled, [str(n) for n in notes]
            except UNREADABLE:
                continue
        return None

    def put_column(self, key: str, values: Float64, filled: Flags, notes: list[str]) -> None:
        """Add a column, or replace it by one that was read for more runs; raises OSError when it can't be written."""
        attrs = {
            "key": key,
            "filled": base64.b64encode(np.packbits(filled).tobytes()).decode(),
            "notes": notes,
        }
        existing = self._paths(key)
        serial = max(map(_serial, existing), default=0) + 1
        while True:
            target = self.path / (identifier(key) if serial == 1 else f"{identifier(key)}__{serial}")
            with making(self.path) as made:
                write_array(made, values, ("row",), attrs)
                try:
                    os.rename(made, target)
                    break
                except OSError:
                    # Another writer has taken the name.
                    if not target.exists():
                        raise
                    serial += 1
        for path in existing:
            remove_if_old(path)

    def _paths(self, key: str) -> list[Path]:
        """Return the arrays that may hold a column, the newest last."""
        return sorted(self._arrays().get(identifier(key), ()), key=_serial)

    def _arrays(self) -> dict[str, list[Path]]:
        """Return all arrays by the name they share; the folder is listed anew only when it has changed."""
        try:
            changed = self.path.stat().st_mtime_ns
            if changed != self._listed[0]:
                found: dict[str, list[Path]] = {}
                for entry in os.scandir(self.path):
                    if entry.is_dir() and not entry.name.startswith("."):
                        stem, _, serial = entry.name.rpartition("__")
                        found.setdefault(stem if stem and serial.isdecimal() else entry.name, []).append(
                            Path(entry.path)
                        )
                self._listed = (changed, found)
        except OSError:
            # Deleted: nothing is held any more.
            return {}
        return self._listed[1]


def current_row_set(folder: Path, known: RowSet | None = None) -> RowSet | None:
    """Return the newest row set of a cache, or None when there is none that is whole.

    `known` is returned as it is when it is still the newest: a row set never changes but for its columns.
    """
    try:
        name = (folder / _POINTER).read_text().strip()
        if not name:
            return None
        if known is not None and known.path == folder / name and (known.path / "zarr.json").exists():
            return known
        group = zarr.open_group(folder / name, mode="r")
        if group.attrs.get("dde_cache_format") != FORMAT:
            return None
        read = {n: checked(group[n]) for n in _FRAME}
    except UNREADABLE:
        return None
    versions = dict(zip(map(str, read["run_id"].tolist()), map(str, read["version"].tolist()), strict=True))
    return RowSet(folder / name, versions, read["row_offset"], read["step"])


def create_row_set(folder: Path, what: str, versions: Mapping[str, str], offsets: Int64, step: Int64) -> RowSet:
    """Write a row set without columns and make it current; raises OSError when it can't be written."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{uuid.uuid4().hex[:16]}.zarr"
    text = np.dtypes.StringDType()
    with making(folder) as made:
        zarr.create_group(made, zarr_format=3, attributes={"dde_cache_format": FORMAT, "title": what})
        write_array(made / "run_id", np.array(list(versions), text), ("run",), {})
        write_array(made / "version", np.array(list(versions.values()), text), ("run",), {})
        write_array(made / "row_offset", offsets, ("run_bound",), {})
        write_array(made / "step", step, ("row",), {})
        os.rename(made, folder / name)
    pointer = folder / f"{MAKING}{name}"
    pointer.write_text(f"{name}\n")
    os.replace(pointer, folder / _POINTER)
    for entry in folder.iterdir():
        if entry.name not in (name, _POINTER):
            remove_if_old(entry)
    return RowSet(folder / name, versions, offsets, step)


def _serial(path: Path) -> int:
    _, _, serial = path.name.rpartition("__")
    return int(serial) if serial.isdecimal() and "__" in path.name else 1
