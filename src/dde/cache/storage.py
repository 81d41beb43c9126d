"""Storage of a cache: a folder or a prefix of an object store, both through fsspec."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from dde.atomic_files import removed_if_ended
from dde.sources.connection import Connection

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["UNFINISHED", "Storage", "StoredFile", "source_storage"]

#: Prefix of the names of files that are still being written.
UNFINISHED = ".making-"

_Result = TypeVar("_Result")

# Threads that remove objects.
_REMOVAL_THREADS = 16


class StoredFile(NamedTuple):
    """A file or object.

    Attributes
    ----------
    path : str
        Path relative to the storage.
    bytes : int
        Size.
    written : float
        Time of the last write, in seconds since 1970.
    """

    path: str
    bytes: int
    written: float


class Storage:
    """A folder of this machine, or a prefix of an object store.

    Exceptions of object stores are raised as OSError, and their messages have no credentials.

    Parameters
    ----------
    root : str, path or Connection
        Folder, or URL such as ``s3://bucket/cache``. Credentials in it are neither shown nor pickled.
    *subfolders : str
        Names of nested folders in `root`.

    Examples
    --------
    >>> storage = Storage("memory://cache") / "tables"
    >>> storage
    Storage('memory://cache/tables')
    >>> storage.write({"a.json": b"{}"})
    >>> storage.read(["a.json", "b.json"]), storage.names()
    ({'a.json': b'{}'}, ['a.json'])
    >>> storage.remove()
    """

    def __init__(self, root: str | os.PathLike[str] | Connection, *subfolders: str) -> None:
        if isinstance(root, str) and root.startswith(("file://", "local://")):
            root = root.partition("://")[2]
        self._root = root if isinstance(root, Connection) else Connection(root)
        self._subfolders = subfolders

    def __truediv__(self, name: str) -> Storage:
        return Storage(self._root, *self._subfolders, *name.split("/"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and (self._root, self._subfolders) == (other._root, other._subfolders)

    def __hash__(self) -> int:
        return hash((self._root, self._subfolders))

    def __str__(self) -> str:
        return "/".join([self._root.redacted.rstrip("/") or "/", *self._subfolders])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return Storage, (self._root, *self._subfolders)

    @cached_property
    def path(self) -> Path | None:
        """The folder; None for an object store."""
        full = self._root.reveal()
        return None if "://" in full or "::" in full else Path(full, *self._subfolders)

    @cached_property
    def _file_system(self) -> tuple[Any, str]:
        """The fsspec file system, and the path of this storage in it."""
        if self.path is not None:
            return LocalFileSystem(), str(self.path)
        fs, path = self._call(lambda: url_to_fs(self._root.reveal()))
        return fs, "/".join([path.rstrip("/"), *self._subfolders])

    def _call(self, action: Callable[[], _Result]) -> _Result:
        """Return the result of an action; turn exceptions of object stores into OSError without credentials."""
        if self.path is not None:
            return action()
        try:
            return action()
        except MemoryError:
            raise
        except FileNotFoundError as error:
            problem: OSError = FileNotFoundError(self._root.scrub(error))
        except Exception as error:
            problem = OSError(f"{type(error).__name__}: {self._root.scrub(error)}")
        # Raised outside the handlers: within them, the original, with its credentials, would be its __context__.
        raise problem

    def store(self) -> Store:
        """Return a read-only Zarr store of this storage."""
        # Imported here: opening a Dataset from a cache does not use Zarr, and takes less time than importing it.
        from zarr.storage import FsspecStore, LocalStore

        if self.path is not None:
            return LocalStore(self.path, read_only=True)
        # Zarr needs a file system in its own event loop, so it opens the URL itself.
        opened = self._call(lambda: FsspecStore.from_url(self._root.reveal(), read_only=True))
        return FsspecStore(opened.fs, path="/".join([opened.path.rstrip("/"), *self._subfolders]), read_only=True)

    def names(self) -> list[str]:
        """Return the current names of files and folders here, sorted; [] if there is nothing."""
        fs, path = self._file_system
        # fsspec caches listings, but other processes write here too.
        fs.invalidate_cache(path)
        try:
            paths = self._call(lambda: fs.ls(path, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Some file systems list the folder itself too.
        return sorted({_name(str(entry)) for entry in paths} - {_name(path), ""})

    def files(self) -> list[StoredFile]:
        """Return all files, at any depth; [] if there is nothing."""
        fs, path = self._file_system
        fs.invalidate_cache(path)
        try:
            info_by_path: dict[str, dict[str, Any]] = self._call(lambda: fs.find(path, detail=True))
        except FileNotFoundError:
            return []
        base = str(fs._strip_protocol(path))
        return [
            StoredFile(name.removeprefix(base).lstrip("/"), int(info.get("size") or 0), _written(info))
            for name, info in info_by_path.items()
        ]

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the content of each file that exists, by its path; objects are requested concurrently."""
        if not paths:
            return {}
        fs, root = self._file_system
        # Read as ranges: for a complete object, some file systems first request its size.
        contents = self._call(
            lambda: fs.cat_ranges([f"{root}/{p}" for p in paths], [0] * len(paths), None, on_error="return")
        )
        return {p: content for p, content in zip(paths, contents, strict=True) if isinstance(content, bytes)}

    def write(self, files: Mapping[str, bytes | memoryview]) -> None:
        """Write files, each of which appears complete or not at all; objects are sent concurrently.

        Parameters
        ----------
        files : mapping of str to bytes or memoryview
            Content by path relative to the storage. Existing files are replaced.
        """
        if self.path is None:
            fs, root = self._file_system
            self._call(lambda: fs.pipe({f"{root}/{name}": bytes(content) for name, content in files.items()}))
            return
        targets = {self.path / name: content for name, content in files.items()}
        for folder in {target.parent for target in targets}:
            folder.mkdir(parents=True, exist_ok=True)
        for target, content in targets.items():
            unfinished = target.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:16]}")
            with removed_if_ended(unfinished):
                try:
                    # "x": never write to an existing file or through a link.
                    with unfinished.open("xb") as file:
                        file.write(content)
                    os.replace(unfinished, target)
                except BaseException:
                    unfinished.unlink(missing_ok=True)
                    raise

    def remove(self) -> None:
        """Remove this file or folder; no error if it does not exist, or another process is removing it."""
        # Metadata is removed first, because readers ignore a folder without metadata.
        with suppress(OSError):
            if self.path is None:
                fs, path = self._file_system
                fs.invalidate_cache(path)
                if self._call(lambda: fs.exists(f"{path}/zarr.json")):
                    self._call(lambda: fs.rm_file(f"{path}/zarr.json"))
                # Removed one by one, because fsspec's removal of several paths expands patterns in them.
                paths = self._call(lambda: fs.find(path))
                with ThreadPoolExecutor(_REMOVAL_THREADS) as threads:
                    self._call(lambda: list(threads.map(fs.rm_file, paths)))
            elif self.path.is_dir() and not self.path.is_symlink():
                (self.path / "zarr.json").unlink(missing_ok=True)
                shutil.rmtree(self.path, ignore_errors=True)
            else:
                self.path.unlink()

    def remove_if_older(self, seconds: float) -> None:
        """Remove this file or folder if its last write is more than `seconds` ago."""
        with suppress(OSError):
            fs, path = self._file_system
            written = [file.written for file in self.files()] or [_written(self._call(lambda: fs.info(path)))]
            if time.time() - max(written) > seconds:
                self.remove()


def _name(path: str) -> str:
    """Return the last part of a path."""
    return path.rstrip("/").rpartition("/")[2]


def _written(info: Mapping[str, Any]) -> float:
    """Return the time of the last write in seconds since 1970, from whichever key the file system uses for it.

    A file without any of these keys counts as written now, so that it is not removed for its age.
    """
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        moment = info.get(name)
        if isinstance(moment, datetime):
            return moment.timestamp()
        if isinstance(moment, (int, float)):
            return float(moment)
    return time.time()


def source_storage(
    cache_dir: str | os.PathLike[str] | Connection | None, kind: str, description: str
) -> Storage | None:
    """Return the storage of one source in a cache.

    Parameters
    ----------
    cache_dir : str, path, Connection or None
        Folder or fsspec URL.
    kind : str
        One of :data:`dde.cache.maintenance.KINDS`.
    description : str
        The source, without credentials.

    Returns
    -------
    Storage or None
        None if there is no cache, or the source has no description.

    Examples
    --------
    >>> source_storage("memory://cache", "index", "s3://bucket/data")
    Storage('memory://cache/index/397b84d867d3f09b')
    """
    if cache_dir is None or not description:
        return None
    # Different paths of one folder are the same source.
    source = str(Path(description).resolve()) if Path(description).exists() else description
    return Storage(cache_dir) / kind / hashlib.sha256(source.encode()).hexdigest()[:16]
