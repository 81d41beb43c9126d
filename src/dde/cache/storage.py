"""Where a cache is stored: a folder or a prefix of an object store, both through fsspec."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from dde.atomic_files import removed_if_ended
from dde.sources.connection import Connection

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["UNFINISHED", "Storage", "StoredFile"]

#: Prefix of the names of files and folders that are still being written, or being removed.
UNFINISHED = ".making-"

_Result = TypeVar("_Result")

# Objects that are removed at the same time.
_REMOVALS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class StoredFile:
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
        if not isinstance(other, Storage):
            return NotImplemented
        return self._below == other._below and self._root.reveal() == other._root.reveal()

    def __hash__(self) -> int:
        return hash((self._root.redacted, self._below))

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
            return LocalFileSystem(auto_mkdir=True), str(self.path)
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
        """Write files; an object store takes all at once, and shows each of them complete or not at all."""
        fs, root = self._opened
        of_path = {f"{root}/{name}": content for name, content in files.items()}
        # Object stores take bytes only; a local file takes a view, which saves a copy.
        self._call(lambda: fs.pipe(of_path if self.path else {path: bytes(of_path[path]) for path in of_path}))

    def replace(self, name: str, content: bytes | memoryview) -> None:
        """Write one file in one step, replacing the file of that name."""
        if self.path is None:
            self.write({name: content})
            return
        self.path.mkdir(parents=True, exist_ok=True)
        made = self.path / f"{UNFINISHED}{uuid.uuid4().hex[:16]}"
        with removed_if_ended(made):
            try:
                # "x": never write to an existing file or through a link.
                with made.open("xb") as file:
                    file.write(content)
                os.replace(made, self.path / name)
            finally:
                made.unlink(missing_ok=True)

    @contextmanager
    def publishing(self, name: str) -> Iterator[Storage]:
        """Yield the storage in which to write the folder `name`; a failure leaves nothing.

        A local folder is written beside its target and renamed. In an object store it is written in its target, so
        the object that makes it visible to readers must be written last.

        Raises
        ------
        OSError
            If it can't be written, or a folder of that name exists.
        """
        if self.path is None:
            made = self / name
            try:
                yield made
            except BaseException:
                made.remove()
                raise
            return
        made = self / f"{UNFINISHED}{uuid.uuid4().hex[:16]}"
        assert made.path is not None
        self.path.mkdir(parents=True, exist_ok=True)
        with removed_if_ended(made.path):
            try:
                # Fails if there is anything, so that no link is followed.
                made.path.mkdir()
                yield made
                os.rename(made.path, self.path / name)
            finally:
                shutil.rmtree(made.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove this file or folder; no error if it does not exist, or another process is removing it."""
        with suppress(OSError):
            if self.path is None:
                fs, path = self._opened
                fs.invalidate_cache(path)
                # Metadata first: readers do not take a folder without it for complete.
                if self._call(lambda: fs.exists(f"{path}/zarr.json")):
                    self._call(lambda: fs.rm_file(f"{path}/zarr.json"))
                # One by one: the removal of several expands patterns in their names.
                paths = self._call(lambda: fs.find(path))
                with ThreadPoolExecutor(_REMOVALS_AT_ONCE) as threads:
                    self._call(lambda: list(threads.map(fs.rm_file, paths)))
                return
            # The name goes first, for the same reason.
            leaving = self.path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:16]}")
            os.rename(self.path, leaving)
            if leaving.is_dir() and not leaving.is_symlink():
                shutil.rmtree(leaving, ignore_errors=True)
            else:
                leaving.unlink()

    def remove_if_older(self, seconds: float) -> None:
        """Remove this file or folder if nothing was written in it for so long."""
        with suppress(OSError):
            fs, path = self._opened
            written = [file.written for file in self.files()] or [_written(self._call(lambda: fs.info(path)))]
            if time.time() - max(written) > seconds:
                self.remove()

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


def _written(facts: Mapping[str, Any]) -> float:
    """Return when a file was written (seconds since 1970), under any of the names that file systems use."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        moment = facts.get(name)
        if isinstance(moment, datetime):
            return moment.timestamp()
        if isinstance(moment, (int, float)):
            return float(moment)
    return time.time()
