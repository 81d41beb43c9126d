"""Looking at and clearing what the cache holds."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["KINDS", "CacheEntry", "cache_size", "clear_cache"]

#: Folders of a cache directory, and what each holds.
KINDS = {
    "tables": "pretraining evaluations",
    "index": "rows of pretraining tables",
    "runs": "records of post-training runs",
    "history": "training logs",
    "summaries": "final evaluations",
    "tutorial": "generated suites",
    "demo": "the demonstration",
}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One part of a cache directory.

    Attributes
    ----------
    name : str
        Folder below the cache directory.
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
    """Return what a cache directory holds, largest first; [] when there is none."""
    root = Path(cache_dir)
    entries: list[CacheEntry] = []
    for kind, meaning in KINDS.items():
        folder = root / kind
        parts = [p for p in folder.iterdir() if p.is_dir()] if kind != "demo" and folder.is_dir() else [folder]
        for part in parts:
            files = [f for f in part.rglob("*") if f.is_file()]
            if files:
                stats = [f.stat() for f in files]
                newest = np.datetime64(int(max(s.st_mtime for s in stats)), "s")
                # Generations share files by hard links: each is counted once.
                size = sum({(s.st_dev, s.st_ino): s.st_size for s in stats}.values())
                entries.append(CacheEntry(part.relative_to(root).as_posix(), meaning, size, len(files), newest))
    return sorted(entries, key=lambda e: -e.bytes)


def clear_cache(cache_dir: str | os.PathLike[str] = "data_cache") -> int:
    """Remove what dde keeps in a cache directory, and return the bytes freed; other files stay."""
    root = Path(cache_dir)
    freed = sum(e.bytes for e in cache_size(root))
    for kind in KINDS:
        shutil.rmtree(root / kind, ignore_errors=True)
    return freed
