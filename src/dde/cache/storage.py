"""Where a cache is stored: a folder or a prefix of an object store, both through fsspec."""

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

# Objects that are removed at the same time.
_REMOVALS_AT_ONCE = 16


class StoredFile(NamedTuple):
    """A file or object: its path below the storage, its size, and when it was written (seconds since 1970)."""

    path: str
    bytes: int
    written: float


class Storage:
    """A folder of this machine, or a prefix of an object store.

    Methods raise OSError, without credentials, whatever exception the file system raised.

    Parameters
    ----------
    root : str, path or Connection
        Folder, or URL such as ``s3://bucket/cache``. Credentials in it are neither shown nor pickled.
    *below : str
        Names of folders below it.

    Examples
    --------
    >>> Storage("memory://cache") / "tables"
    Storage('memory://cache/tables')
    """

    def __init__(self, root: str | os.PathLike[str] | Connection, *below: str) -> None:
        if isinstance(root, str) and root.startswith(("file://", "local://")):
            root = root.partition("://")[2]
        self._root = root if isinstance(root, Connection) else Connection(root)
        self._below = below

    def __truediv__(self, name: str) -> Storage:
        return Storage(self._root, *self._below, *name.split("/"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and (self._root, self._below) == (other._root, other._below)

    def __hash__(self) -> int:
        return hash((self._root, self._below))

    def __str__(self) -> str:
        return "/".join([self._root.redacted.rstrip("/") or "/", *self._below])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return Storage, (self._root, *self._below)

    @cached_property
    def path(self) -> Path | None:
        """The folder; None for an object store."""
        full = self._root.reveal()
        return None if "://" in full or "::" in full else Path(full, *self._below)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        if self.path is not None:
            return LocalFileSystem(), str(self.path)
        fs, path = self._call(lambda: url_to_fs(self._root.reveal()))
        return fs, "/".join([path.rstrip("/"), *self._below])

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
        # Not raised within the handlers: the original, with its credentials, would stay in the chain.
        raise problem

    def store(self) -> Store:
        """Return a read-only Zarr store of this storage."""
        # Opening a Dataset from a cache needs no Zarr, which takes longer to import than that.
        from zarr.storage import FsspecStore, LocalStore

        if self.path is not None:
            return LocalStore(self.path, read_only=True)
        # Zarr needs a file system in its own event loop, so it opens the URL itself.
        opened = self._call(lambda: FsspecStore.from_url(self._root.reveal(), read_only=True))
        return FsspecStore(opened.fs, path="/".join([opened.path.rstrip("/"), *self._below]), read_only=True)

    def names(self) -> list[str]:
        """Return the current names of files and folders here, sorted; [] if there is nothing."""
        fs, path = self._opened
        # fsspec caches listings, but other processes write here too.
        fs.invalidate_cache(path)
        try:
            found = self._call(lambda: fs.ls(path, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        own = path.rstrip("/").rpartition("/")[2]
        return sorted({str(f).rstrip("/").rpartition("/")[2] for f in found} - {own, ""})

    def files(self) -> list[StoredFile]:
        """Return all files, at any depth; [] if there is nothing."""
        fs, path = self._opened
        fs.invalidate_cache(path)
        try:
            found: dict[str, dict[str, Any]] = self._call(lambda: fs.find(path, detail=True))
        except FileNotFoundError:
            return []
        base = str(fs._strip_protocol(path))
        return [
            StoredFile(name.removeprefix(base).lstrip("/"), int(facts.get("size") or 0), _written(facts))
            for name, facts in found.items()
        ]

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the content of those of the files that exist; object stores are asked for all at once."""
        if not paths:
            return {}
        fs, root = self._opened
        # As ranges: for a whole object some file systems ask for its size first.
        contents = self._call(
            lambda: fs.cat_ranges([f"{root}/{p}" for p in paths], [0] * len(paths), None, on_error="return")
        )
        return {p: content for p, content in zip(paths, contents, strict=True) if isinstance(content, bytes)}

    def write(self, files: Mapping[str, bytes | memoryview]) -> None:
        """Write files, each of which appears complete or not at all; an object store takes all at once."""
        if self.path is None:
            fs, root = self._opened
            self._call(lambda: fs.pipe({f"{root}/{name}": bytes(content) for name, content in files.items()}))
            return
        targets = {self.path / name: content for name, content in files.items()}
        for folder in {target.parent for target in targets}:
            folder.mkdir(parents=True, exist_ok=True)
        for target, content in targets.items():
            made = target.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:16]}")
            with removed_if_ended(made):
                try:
                    # "x": never write to an existing file or through a link.
                    with made.open("xb") as file:
                        file.write(content)
                    os.replace(made, target)
                except BaseException:
                    made.unlink(missing_ok=True)
                    raise

    def remove(self) -> None:
        """Remove this file or folder; no error if it does not exist, or another process is removing it."""
        # Metadata first: readers do not take a folder without it for complete.
        with suppress(OSError):
            if self.path is None:
                fs, path = self._opened
                fs.invalidate_cache(path)
                if self._call(lambda: fs.exists(f"{path}/zarr.json")):
                    self._call(lambda: fs.rm_file(f"{path}/zarr.json"))
                # One by one: the removal of several expands patterns in their names.
                paths = self._call(lambda: fs.find(path))
                with ThreadPoolExecutor(_REMOVALS_AT_ONCE) as threads:
                    self._call(lambda: list(threads.map(fs.rm_file, paths)))
            elif self.path.is_dir() and not self.path.is_symlink():
                (self.path / "zarr.json").unlink(missing_ok=True)
                shutil.rmtree(self.path, ignore_errors=True)
            else:
                self.path.unlink()

    def remove_if_older(self, seconds: float) -> None:
        """Remove this file or folder if nothing was written in it for so long."""
        with suppress(OSError):
            fs, path = self._opened
            written = [file.written for file in self.files()] or [_written(self._call(lambda: fs.info(path)))]
            if time.time() - max(written) > seconds:
                self.remove()


def _written(facts: Mapping[str, Any]) -> float:
    """Return when a file was written (seconds since 1970), under any of the names that file systems use."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        moment = facts.get(name)
        if isinstance(moment, datetime):
            return moment.timestamp()
        if isinstance(moment, (int, float)):
            return float(moment)
    return time.time()


def source_storage(
    cache_dir: str | os.PathLike[str] | Connection | None, kind: str, description: str
) -> Storage | None:
    """Return where a cache stores what belongs to one source; None if nothing is cached.

    Parameters
    ----------
    cache_dir : str, path, Connection or None
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
    return Storage(cache_dir) / kind / hashlib.sha256(source.encode()).hexdigest()[:16]
