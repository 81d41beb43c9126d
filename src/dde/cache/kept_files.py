"""Small files that opening reads each time: facts and plain arrays, of which NumPy reads all (``np.load``).

Each is an uncompressed ``.npz``, a zip archive with checksums: the arrays as ``.npy``, the facts as ``facts.json``.
Zarr takes longer to import than all of an opening that needs none of it.
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

from dde.cache.places import Place
from dde.sources.connection import Connection

__all__ = ["cache_place", "read_kept", "write_kept"]

#: Raised whenever what is stored, or how, changes its meaning.
_FORMAT = 2
_FACTS = "facts.json"

#: What a missing, cut or foreign file makes of zip, JSON and NumPy.
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def cache_place(cache_dir: str | os.PathLike[str] | Connection | None, kind: str, description: str) -> Place | None:
    """Return where a cache keeps what is known of a source; None where nothing is kept.

    Parameters
    ----------
    cache_dir : str, path or None
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
    return Place(cache_dir) / kind / hashlib.sha256(source.encode()).hexdigest()[:16]


def write_kept(place: Place, name: str, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a file, which appears whole or not at all.

    Raises
    ------
    OSError
        Where it can't be written.
    TypeError
        Where a fact has no form in JSON.
    """
    text = json.dumps({**facts, "dde_kept_format": _FORMAT})
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_FACTS, text)
        for key, values in arrays.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
    place.replace(name, content.getbuffer())


def read_kept(place: Place, name: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Return the facts and arrays of a file; None where there is none that is whole."""
    try:
        content = place.read([name]).get(name)
        if content is None:
            return None
        arrays: dict[str, npt.NDArray[Any]] = {}
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            facts = json.loads(archive.read(_FACTS))
            if not isinstance(facts, dict) or facts.pop("dde_kept_format") != _FORMAT:
                return None
            for member in archive.namelist():
                if member != _FACTS:
                    held = io.BytesIO(archive.read(member))
                    arrays[member.removesuffix(".npy")] = np.lib.format.read_array(held, allow_pickle=False)
    except _UNREADABLE:
        return None
    return facts, arrays
