"""Small files that opening reads each time: facts and plain arrays, of which NumPy reads all (``np.load``).

Each is an uncompressed ``.npz``, a zip archive with checksums: the arrays as ``.npy``, the facts as ``facts.json``.
Zarr takes longer to import than all of an opening that needs none of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cache_folder", "read_kept", "write_kept"]

#: Raised whenever what is stored, or how, changes its meaning.
_FORMAT = 2
_FACTS = "facts.json"
_MAKING = ".making-"

#: What a missing, cut or foreign file makes of zip, JSON and NumPy.
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def cache_folder(cache_dir: str | os.PathLike[str] | None, kind: str, description: str) -> Path | None:
    """Return the folder of a cache for what is kept of a source; None where nothing is kept.

    Parameters
    ----------
    cache_dir : str, path or None
    kind : str
        One of :data:`dde.cache.maintenance.KINDS`.
    description : str
        The source, without credentials.
    """
    if cache_dir is None or not description:
        return None
    # The same folder under two names is one source.
    place = str(Path(description).resolve()) if Path(description).exists() else description
    return Path(cache_dir) / kind / hashlib.sha256(place.encode()).hexdigest()[:16]


def write_kept(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a file whole beside its place and rename it there.

    Raises
    ------
    OSError
        Where it can't be written.
    TypeError
        Where a fact has no form in JSON.
    """
    text = json.dumps({**facts, "dde_kept_format": _FORMAT})
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.parent / f"{_MAKING}{uuid.uuid4().hex[:16]}"
    try:
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_FACTS, text)
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


def read_kept(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Return the facts and arrays of a file; None where there is none that is whole."""
    try:
        arrays: dict[str, npt.NDArray[Any]] = {}
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read(_FACTS))
            if not isinstance(facts, dict) or facts.pop("dde_kept_format") != _FORMAT:
                return None
            for name in archive.namelist():
                if name != _FACTS:
                    member = io.BytesIO(archive.read(name))
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    except _UNREADABLE:
        return None
    return facts, arrays
