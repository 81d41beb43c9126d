"""Looking at and clearing what the cache holds."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from dde.cache.places import Place, StoredFile

__all__ = ["KINDS", "CacheEntry", "cache_size", "clear_cache"]

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


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What a cache holds of one source.

    Attributes
    ----------
    name : str
        Folder below the cache's own.
    kind : str
        What it holds.
    bytes, files : int
    last_used : numpy.datetime64
        Newest time of any file in it.
    """

    name: str
    kind: str
    bytes: int
    files: int
    last_used: np.datetime64


def cache_size(cache_dir: str | os.PathLike[str] = "data_cache") -> list[CacheEntry]:
    """Return what a cache holds, largest first; [] when there is none.

    Parameters
    ----------
    cache_dir : str or path
        Folder or URL.
    """
    root = Place(cache_dir)
    entries: list[CacheEntry] = []
    for kind, meaning in KINDS.items():
        by_name: dict[str, list[StoredFile]] = {}
        for file in (root / kind).files():
            inner, slash, _ = file.path.partition("/")
            if slash or kind == "demo":
                by_name.setdefault(kind if kind == "demo" else f"{kind}/{inner}", []).append(file)
        for name, files in by_name.items():
            newest = np.datetime64(int(max(f.written for f in files)), "s")
            entries.append(CacheEntry(name, meaning, sum(f.bytes for f in files), len(files), newest))
    return sorted(entries, key=lambda e: -e.bytes)


def clear_cache(cache_dir: str | os.PathLike[str] = "data_cache") -> int:
    """Remove what dde keeps in a cache, a folder or URL, and return the bytes freed; other files stay."""
    root = Place(cache_dir)
    freed = sum(e.bytes for e in cache_size(cache_dir))
    for kind in KINDS:
        (root / kind).remove()
    return freed
