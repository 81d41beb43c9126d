"""Write files and folders atomically, and remove unfinished ones where writing ends early.

Content is written to a temporary folder beside its target until it is complete. The folder has an unpredictable name
and is closed to other users, so nobody can place a link in it. Files in it have the usual permissions.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows, where it is unknown whether a writer is still running
    fcntl = None

__all__ = ["atomic_path", "remove_unfinished", "removed_if_ended", "unfinished_targets"]

_MARK = ".dde-"
_NEW, _OLD = "new", "old"
# A folder younger than this may have a writer that has not locked it yet.
_YOUNG_SECONDS = 60.0
# Attempts to remove a folder: threads may still write to it.
_ATTEMPTS = 50

#: Unfinished files and folders, with the target that each will replace; None where its writer moves it itself.
_UNFINISHED: dict[Path, Path | None] = {}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file or folder to, which replaces `path` once it is complete.

    A folder replaces a folder or a file, a file replaces a file or link. Leftovers of killed processes that wrote the
    same file are removed.

    Parameters
    ----------
    path : Path
        Target.

    Raises
    ------
    OSError
        When it can't be written. An existing target stays.

    Examples
    --------
    >>> with atomic_path(Path("notes.txt")) as part:
    ...     _ = part.write_text("all of it")
    >>> Path("notes.txt").read_text()
    'all of it'
    """
    prefix = f".{path.name.encode(errors='ignore')[:150].decode(errors='ignore')}{_MARK}"
    _remove_leftovers(path, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    lock = _locked(folder)
    _UNFINISHED[folder] = path
    try:
        part = folder / f"{_NEW}{path.suffix}"
        yield part
        if part.is_dir() and os.path.lexists(path):
            # A folder can't replace another one in one step; until it has, the old one can be restored.
            os.rename(path, folder / _OLD)
        os.replace(part, path)
    finally:
        _discard(folder, path)
        del _UNFINISHED[folder]
        if lock is not None:
            os.close(lock)


@contextmanager
def removed_if_ended(path: Path) -> Iterator[None]:
    """Register a file or folder to remove if a signal ends the process; otherwise its writer removes it."""
    _UNFINISHED[path] = None
    try:
        yield
    finally:
        del _UNFINISHED[path]


def unfinished_targets() -> list[Path]:
    """Return the targets of files and folders that are being written."""
    return [path for path in _UNFINISHED.values() if path is not None]


def remove_unfinished() -> None:
    """Remove all unfinished files and folders, before the process ends."""
    for folder, path in list(_UNFINISHED.items()):
        with suppress(OSError):
            _discard(folder, path)


def _discard(folder: Path, path: Path | None) -> None:
    if path is not None and os.path.lexists(folder / _OLD) and not os.path.lexists(path):
        os.rename(folder / _OLD, path)
    for _ in range(_ATTEMPTS):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)
        if not os.path.lexists(folder):
            return


def _remove_leftovers(path: Path, prefix: str) -> None:
    """Remove leftovers of killed writers of the same file: those whose lock no process holds."""
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if not name.startswith(prefix):
                continue
            left = path.parent / name
            with suppress(OSError):
                # This module creates no links, and follows none.
                if not left.is_symlink() and time.time() - left.stat().st_mtime > _YOUNG_SECONDS:
                    lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _discard(left, path)
                    finally:
                        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a folder while this process runs, and return the descriptor; None where its file system has no locks."""
    if fcntl is None:
        return None
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        return lock
    return None
