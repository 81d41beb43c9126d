"""What a whole cache holds: its size by source, compacting it and clearing it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dde.cache.storage import UNFINISHED, Storage, StoredFile

if TYPE_CHECKING:
    from dde.cache.compaction import Compaction

__all__ = ["KINDS", "CacheEntry", "cache_size", "clear_cache", "compact_cache"]

#: Folders of a cache directory, and what each holds.
KINDS = {
    "tables": "pretraining evaluations",
    "index": "rows of pretraining tables",
    "runs": "records of post-training runs",
    "history": "training logs",
    "summaries": "final evaluations",
    "results": "result files of suites",
    "tutorial": "generated suites",
    "demo": "the demonstration",
}
# Those that hold segments.
_RAGGED = ("tables", "history", "summaries")
# Those that hold index files.
_INDEXES = ("index", "runs", "results")
_UNFINISHED_SECONDS = 86_400.0
# Name of the folder of a source, as `source_storage` makes it.
_SOURCE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What a cache holds of one source.

    Attributes
    ----------
    name : str
        Folder in the cache directory.
    kind : str
        What it holds.
    bytes, files : int
    segments : int
        Number of segments; 0 for kinds that have none.
    last_used : numpy.datetime64
        Newest time of any file in it.
    """

    name: str
    kind: str
    bytes: int
    files: int
    segments: int
    last_used: np.datetime64


def cache_size(cache_dir: str | os.PathLike[str] = "data_cache") -> list[CacheEntry]:
    """Return what a cache holds, largest first; [] if there is none.

    Parameters
    ----------
    cache_dir : str or path
        Folder or URL.
    """
    root = Storage(cache_dir)
    entries: list[CacheEntry] = []
    for kind, meaning in KINDS.items():
        by_name: dict[str, list[StoredFile]] = {}
        for file in (root / kind).files():
            inner, slash, _ = file.path.partition("/")
            if slash or kind == "demo":
                by_name.setdefault(kind if kind == "demo" else f"{kind}/{inner}", []).append(file)
        for name, files in by_name.items():
            newest = np.datetime64(int(max(f.written for f in files)), "s")
            segments = len({f.path.split("/")[1] for f in files}) if kind in _RAGGED else 0
            entries.append(CacheEntry(name, meaning, sum(f.bytes for f in files), len(files), segments, newest))
    return sorted(entries, key=lambda e: -e.bytes)


def compact_cache(cache_dir: str | os.PathLike[str] = "data_cache") -> dict[str, Compaction]:
    """Merge the small segments of a cache, and remove superseded ones and what killed writers left.

    Any number of processes may use the cache meanwhile.

    Parameters
    ----------
    cache_dir : str or path
        Folder or URL.

    Returns
    -------
    dict of str to Compaction
        By name as in :func:`cache_size`.

    Raises
    ------
    OSError
        If the cache can't be read or written; nothing is lost.
    """
    from dde.cache.compaction import compact

    done: dict[str, Compaction] = {}
    problem: OSError | None = None
    for kind in (*_INDEXES, *_RAGGED):
        folder = Storage(cache_dir) / kind
        # Folders with other names are not dde's.
        for name in filter(_SOURCE.fullmatch, folder.names()):
            if kind in _INDEXES:
                for entry in (folder / name).names():
                    if entry.startswith(UNFINISHED):
                        (folder / name / entry).remove_if_older(_UNFINISHED_SECONDS)
                continue
            try:
                done[f"{kind}/{name}"] = compact(folder / name)
            except OSError as error:
                # The others are compacted all the same.
                problem = problem or error
    if problem is not None:
        raise problem
    return done


def clear_cache(cache_dir: str | os.PathLike[str] = "data_cache") -> int:
    """Remove what dde has written to a cache, a folder or URL, and return the bytes freed; other files stay."""
    root = Storage(cache_dir)
    freed = sum(e.bytes for e in cache_size(cache_dir))
    for kind in KINDS:
        (root / kind).remove()
    return freed
