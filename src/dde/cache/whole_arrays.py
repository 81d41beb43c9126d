"""Zarr arrays that are written once, whole, beside their place, and never changed; each has a checksum."""

from __future__ import annotations

import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

__all__ = ["MAKING", "UNREADABLE", "DamagedError", "checked", "making", "remove_if_old", "write_array"]

#: Beginning of the names of what is not whole yet.
MAKING = ".making-"
# Readers finish with an array in seconds; what is older than this and superseded is of no use to anybody.
_KEEP_SECONDS = 600.0


class DamagedError(Exception):
    """Something that was deleted or cut while, or before, it was read."""


#: What a missing or cut file makes of zarr and its codecs.
UNREADABLE = (DamagedError, OSError, KeyError, ValueError, TypeError, RuntimeError)


@contextmanager
def making(parent: Path) -> Iterator[Path]:
    """Yield a path to write to, and remove what is left there: nothing, when it was renamed away."""
    made = parent / f"{MAKING}{uuid.uuid4().hex[:16]}"
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def remove_if_old(path: Path) -> None:
    """Remove a file or folder that nobody can be reading any more."""
    try:
        if time.time() - path.stat().st_mtime < _KEEP_SECONDS:
            return
        # The name goes first, so that nobody finds it while it is being emptied.
        leaving = path.with_name(f"{MAKING}{uuid.uuid4().hex[:16]}")
        os.rename(path, leaving)
    except OSError:
        # Another process was faster.
        return
    if leaving.is_dir():
        shutil.rmtree(leaving, ignore_errors=True)
    else:
        leaving.unlink(missing_ok=True)


def write_array(path: Path, values: npt.NDArray[Any], dims: tuple[str, ...], attrs: dict[str, Any]) -> None:
    """Write an array with its checksum."""
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        # One chunk: an array is always read whole.
        chunks=tuple(max(n, 1) for n in values.shape),
        fill_value="" if values.dtype.kind == "T" else np.nan if values.dtype.kind == "f" else 0,
        dimension_names=dims,
        attributes={**attrs, "crc32": _checksum(values)},
        zarr_format=3,
    )
    if values.size:
        array[...] = values


def checked(array: Any) -> npt.NDArray[Any]:
    """Return the values of an array; raises DamagedError when they are not those that were written."""
    values: npt.NDArray[Any] = np.asarray(array[...])
    # A chunk that is gone reads as fill values, without an error.
    if _checksum(values) != array.attrs.get("crc32"):
        raise DamagedError
    return values


def _checksum(values: npt.NDArray[Any]) -> int:
    if values.dtype.kind in "OTU":
        return zlib.crc32("\n".join(map(str, values.tolist())).encode())
    return zlib.crc32(np.ascontiguousarray(values).data)
