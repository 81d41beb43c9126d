"""Zarr arrays that are written once, whole, and never changed; each has a checksum."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store

from dde.cache.parts import DamagedError

__all__ = ["UNREADABLE", "checked", "write_array"]

#: What a missing or cut file makes of zarr and its codecs.
UNREADABLE = (DamagedError, OSError, KeyError, ValueError, TypeError, RuntimeError)


def write_array(
    store: Store, name: str, values: npt.NDArray[Any], dims: tuple[str, ...], attrs: dict[str, Any]
) -> None:
    """Write an array with its checksum."""
    array = zarr.create_array(
        store,
        name=name,
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
