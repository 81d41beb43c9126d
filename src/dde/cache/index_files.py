"""Index files: small ``.npz`` files of facts and plain arrays that opening reads each time.

Each is an uncompressed zip archive with checksums: the arrays as ``.npy``, which ``np.load`` reads, and the facts as
``facts.json``. Zarr takes longer to import than an opening that needs none of it.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.storage import Storage

__all__ = ["read_index_file", "write_index_file"]

#: Raised whenever the meaning or the form of what is stored changes.
_FORMAT = 4
_FACTS = "facts.json"

#: What zip, JSON and NumPy raise for a missing, truncated, damaged or foreign file.
_UNREADABLE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_index_file(
    storage: Storage, name: str, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write a file, which appears complete or not at all.

    Raises
    ------
    OSError
        If it can't be written.
    TypeError
        If a fact can't be written as JSON.
    """
    text = json.dumps({**facts, "dde_format": _FORMAT, "dde_arrays": list(arrays)})
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(_FACTS, text)
        for key, values in arrays.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
    storage.write({name: content.getbuffer()})


def read_index_file(storage: Storage, name: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Return the facts and arrays of a file; None if it does not exist, is damaged, or has another format."""
    try:
        with zipfile.ZipFile(io.BytesIO(storage.read([name])[name])) as archive:
            facts = json.loads(archive.read(_FACTS))
            # Complete members: NumPy reads them from an archive in small pieces.
            arrays: dict[str, npt.NDArray[Any]] = {
                member.removesuffix(".npy"): np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
                for member in archive.namelist()
                if member != _FACTS
            }
        # Damage of the archive's directory may hide arrays.
        if facts.pop("dde_format") == _FORMAT and facts.pop("dde_arrays") == list(arrays):
            return facts, arrays
    except _UNREADABLE:
        pass
    return None
