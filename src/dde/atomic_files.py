"""Files and folders that appear whole or not at all, and leave nothing behind where writing them ends early.

What is written lies in a folder of its own beside its place until it is whole: made for this one purpose, under a
name that nobody can guess, and open to nobody else, so that no link can be put in its way. The files in it have the
permissions that they have anywhere.
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
except ImportError:  # Windows, where nobody can tell whether a writer lives
    fcntl = None

__all__ = ["remove_unfinished", "removed_if_ended", "unfinished_targets", "whole_file"]

_MARK = ".dde-"
_NEW, _OLD = "new", "old"
# A folder younger than this may have a writer that has not locked it yet.
_YOUNG_SECONDS = 60.0
# Threads may go on writing while a folder is removed.
_ATTEMPTS = 50

#: What is being written, with the place that it is to take; None where that is for its writer to say.
_UNFINISHED: dict[Path, Path | None] = {}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to, which takes the place of `path` once all is written.

    A folder takes the place of another folder or of a file, a file that of a file or link. What a process that was
    killed has left of the same file is removed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        When it can't be written. What was there before stays.

    Examples
    --------
    >>> with whole_file(Path("notes.txt")) as part:
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
        made = folder / f"{_NEW}{path.suffix}"
        yield made
        if made.is_dir() and os.path.lexists(path):
            # A folder can't take the place of another one in one step; until it has, the old one can be put back.
            os.rename(path, folder / _OLD)
        os.replace(made, path)
    finally:
        _discard(folder, path)
        del _UNFINISHED[folder]
        if lock is not None:
            os.close(lock)


@contextmanager
def removed_if_ended(made: Path) -> Iterator[None]:
    """Have a file or folder removed where the process is ended by a signal; otherwise its writer removes it."""
    _UNFINISHED[made] = None
    try:
        yield
    finally:
        del _UNFINISHED[made]


def unfinished_targets() -> list[Path]:
    """Return the files and folders that are being written."""
    return [path for path in _UNFINISHED.values() if path is not None]


def remove_unfinished() -> None:
    """Remove what is being written, as the last act of a process."""
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
    """Remove what writers of the same file have left that were killed: nobody holds its lock."""
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if not name.startswith(prefix):
                continue
            left = path.parent / name
            with suppress(OSError):
                # A link is none of ours, and is not followed.
                if not left.is_symlink() and time.time() - left.stat().st_mtime > _YOUNG_SECONDS:
                    lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _discard(left, path)
                    finally:
                        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a folder as long as this process lives; None where its file system has no locks."""
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
