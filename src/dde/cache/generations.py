"""Generations: a folder of Zarr groups, of which each is written once, whole, and never changed.

``current`` names the newest one. It is replaced in one step, so that a reader or a second writer sees the old
generation or the new one and never half of either; of two writers at once the later one wins, and what the
other had added is read from the source again when it is next asked for.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["current_generation", "writing_generation"]

_POINTER = "current"
_MAKING = ".making-"
_LEAVING = ".leaving-"

# Readers finish with a generation in seconds; what is older than this and not current is of no use to anybody.
_KEEP_SECONDS = 600.0


def current_generation(folder: Path) -> Path | None:
    """Return the newest whole generation of a cache, or None when there is none."""
    try:
        name = (folder / _POINTER).read_text().strip()
    except OSError:
        return None
    generation = folder / name
    return generation if name and (generation / "zarr.json").exists() else None


@contextmanager
def writing_generation(folder: Path, base: Path | None = None) -> Iterator[Path]:
    """Yield a folder to write a generation to; it becomes current when the block ends without an error.

    Parameters
    ----------
    folder : Path
        Folder of the cache; made where it does not exist.
    base : Path, optional
        Generation whose files the new one starts from, as links: files must be replaced, not written into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex[:16]
    making = folder / f"{_MAKING}{name}"
    try:
        if base is None:
            making.mkdir()
        else:
            shutil.copytree(base, making, copy_function=_link)
        yield making
        os.rename(making, folder / f"{name}.zarr")
        pointer = folder / f"{_MAKING}{name}.pointer"
        pointer.write_text(f"{name}.zarr\n")
        os.replace(pointer, folder / _POINTER)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    _prune(folder, f"{name}.zarr")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _prune(folder: Path, current: str) -> None:
    """Remove generations that nobody reads any more; each leaves its name first, so that none is seen in part."""
    now = time.time()
    for entry in folder.iterdir():
        if entry.name in (current, _POINTER):
            continue
        try:
            if now - entry.stat().st_mtime < _KEEP_SECONDS:
                continue
            leaving = folder / f"{_LEAVING}{uuid.uuid4().hex[:16]}"
            os.rename(entry, leaving)
        except OSError:
            # Another process was faster.
            continue
        if leaving.is_dir():
            shutil.rmtree(leaving, ignore_errors=True)
        else:
            leaving.unlink(missing_ok=True)
