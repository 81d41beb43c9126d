"""Identify the version of a file, and detect a change of it during a read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dde.errors import SourceError
from dde.sources.connection import redact

__all__ = ["check_version", "file_version", "reading_one_version"]

# A parquet file ends with its footer, which has sizes and statistics of all row groups; a log ends with its last rows.
_TAIL_BYTES = 1 << 14
# Names that object stores give to a digest or a counter of the content. A weak entity tag (W/"...") does not count.
_CONTENT = ("ETag", "etag", "md5", "md5Hash", "content_md5", "crc32c", "checksum", "sha", "generation")
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created", "date_time", "CRC")


def file_version(file_system: Any, path: str) -> str:
    """Return a text that changes whenever the content of a file does.

    For a local file it covers size, inode, ``mtime`` and ``ctime`` in nanoseconds, and a digest of the end of the
    file. For an object it covers the size and the entity tag or another digest of the store; if the store has no
    digest, its times and a digest of the end.

    Parameters
    ----------
    file_system : fsspec.AbstractFileSystem
    path : str
        Path within the file system. Links are followed.

    Raises
    ------
    SourceError
        If the file is absent, can't be read, or is not a regular file: a folder, a pipe, a broken or circular link.

    Examples
    --------
    >>> import fsspec, tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     before = file_version(fsspec.filesystem("file"), file.name)
    ...     _ = file.write(b"row"), file.flush()
    ...     file_version(fsspec.filesystem("file"), file.name) == before
    False
    """
    try:
        facts = _local_facts(path) if isinstance(file_system, LocalFileSystem) else _remote_facts(file_system, path)
    except SourceError:
        raise
    except Exception as error:  # the errors of different stores have no common base class
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        link = " is a link and" if isinstance(file_system, LocalFileSystem) and os.path.islink(path) else ""
        problem = SourceError(
            f"{redact(path)}{link} can't be read ({reason}), so its content is unknown. "
            "Restore the file and the permission to read it, or remove it."
        )
    else:
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    # Raised outside the handler: the error of a store may quote a signed URL.
    raise problem


def check_version(file_system: Any, path: str, version: str) -> None:
    """Raise SourceError if a file no longer has the given version, so its rows may have changed.

    Parameters
    ----------
    file_system : fsspec.AbstractFileSystem
    path : str
    version : str
        As :func:`file_version` returned it.
    """
    try:
        # fsspec caches listings, including sizes and tags of objects.
        file_system.invalidate_cache(path)
        current = file_version(file_system, path)
    except SourceError as error:
        raise SourceError(
            f"{redact(path)} has been removed or made unreadable since it was opened, so its rows may have changed "
            f"({error}) Open it again."
        ) from None
    if current != version:
        raise SourceError(
            f"{redact(path)} was changed since it was opened, so its rows may be different. "
            "The result of this read was discarded. Open it again."
        )


@contextmanager
def reading_one_version(file_system: Any, path: str, version: str) -> Iterator[None]:
    """Check the version of a file before and after a block that reads it.

    If the file changed, that is the error raised, whatever the block raised: a reader of changed bytes may fail in
    any way. An object, whose version costs a request, is checked only after the block. This detects the same changes.

    Parameters
    ----------
    file_system : fsspec.AbstractFileSystem
    path : str
    version : str
        As :func:`file_version` returned it.

    Raises
    ------
    SourceError
        If the file changed before or during the block.
    """
    if isinstance(file_system, LocalFileSystem):
        check_version(file_system, path, version)
    try:
        yield
    except Exception:
        check_version(file_system, path, version)
        raise
    check_version(file_system, path, version)


def _local_facts(path: str) -> tuple[object, ...]:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise SourceError(f"{path} is {kind}, so it has no rows that can be read. Remove it, or name a file.")
    with open(path, "rb", buffering=0) as file:
        file.seek(max(status.st_size - _TAIL_BYTES, 0))
        tail = file.read(_TAIL_BYTES)
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, _digest(tail)


def _remote_facts(file_system: Any, path: str) -> tuple[object, ...]:
    info: Mapping[str, Any] = file_system.info(path)
    if info.get("type") == "directory":
        raise SourceError(f"{redact(path)} is a folder, so it has no rows. Name a file.")
    size = info.get("size")
    content = [(name, str(info[name])) for name in _CONTENT if info.get(name)]
    if any(not value.startswith("W/") for _, value in content):
        return size, content
    times = [str(info.get(name)) for name in _TIMES]
    tail = file_system.cat_file(path, start=max(size - _TAIL_BYTES, 0), end=size) if size else b""
    return size, content, times, _digest(tail)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
