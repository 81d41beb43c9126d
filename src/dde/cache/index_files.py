"""Index files: small ``.npz`` files of facts and plain arrays that opening reads each time.

Each is an uncompressed zip archive with checksums: the arrays as ``.npy``, which ``np.load`` reads, and the facts as
``facts.json``. Zarr takes longer to import than an opening that needs none of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dde.cache.storage import Storage
from dde.sources.connection import Connection

__all__ = ["read_index_file", "source_storage", "write_index_file"]

#: Raised whenever the meaning or the form of what is stored changes.
_FORMAT = 3
_FACTS = "facts.json"

#: What zip, JSON and NumPy raise for a missing, truncated, damaged or foreign file.
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


def source_storage(
    cache_dir: str | os.PathLike[str] | Connection | None, kind: str, description: str
) -> Storage | None:
    """Return where a cache stores what belongs to one source; None if nothing is cached.

    Parameters
    ----------
    cache_dir : str, path, Connection or None
        Folder or fsspec URL.
    kind : str
        One of :data:`dde.cache.maintenance.KINDS`.
    description : str
        The source, without credentials.
    """
    if cache_dir is None or not description:
        return None
    # The same folder under two names is one source.
    source = str(Path(description).resolve()) if Path(description).exists() else description
    return Storage(cache_dir) / kind / hashlib.sha256(source.encode()).hexdigest()[:16]


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
    text = json.dumps({**facts, "dde_kept_format": _FORMAT, "dde_arrays": list(arrays)})
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_FACTS, text)
        for key, values in arrays.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
    storage.replace(name, content.getbuffer())


def read_index_file(storage: Storage, name: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Return the facts and arrays of a file; None if it does not exist or is damaged."""
    try:
        content = storage.read([name]).get(name)
        if content is None:
            return None
        arrays: dict[str, npt.NDArray[Any]] = {}
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            facts = json.loads(archive.read(_FACTS))
            if not isinstance(facts, dict) or facts.pop("dde_kept_format") != _FORMAT:
                return None
            for member in archive.namelist():
                if member != _FACTS:
                    array = io.BytesIO(archive.read(member))
                    arrays[member.removesuffix(".npy")] = np.lib.format.read_array(array, allow_pickle=False)
            # Damage of the archive's directory may hide arrays.
            if facts.pop("dde_arrays") != list(arrays):
                return None
    except _UNREADABLE:
        return None
    return facts, arrays
