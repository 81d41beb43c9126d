"""Folders and object stores alike: where the cache lies, and how something new appears there in one step."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec

from dde.atomic_files import removed_if_ended
from dde.sources.connection import Connection

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["KEEP_SECONDS", "MAKING", "Place", "StoredFile"]

#: Beginning of the names of what is not whole yet, or is being removed.
MAKING = ".making-"
#: Readers finish with what they opened in seconds; what has been of no use for longer can be removed.
KEEP_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or object: its path below the place, its size and when it was written (seconds since 1970)."""

    path: str
    bytes: int
    written: float


_Answer = TypeVar("_Answer")


class Place:
    """A folder of this machine, or a prefix of an object store that fsspec opens.

    Parameters
    ----------
    where : str or path
        Folder, or URL such as ``s3://bucket/cache``. Credentials in it are neither shown nor pickled.
    *below : str
        Names below it.
    """

    def __init__(self, where: str | os.PathLike[str] | Connection, *below: str) -> None:
        self._root = where if isinstance(where, Connection) else Connection(_local_path(where))
        self._below = below

    def __truediv__(self, name: str) -> Place:
        return Place(self._root, *self._below, *name.split("/"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Place):
            return NotImplemented
        return self._below == other._below and self._root.reveal() == other._root.reveal()

    def __hash__(self) -> int:
        return hash((self._root.redacted, self._below))

    def __str__(self) -> str:
        return "/".join([self._root.redacted.rstrip("/") or "/", *self._below])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return Place, (self._root, *self._below)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._below[-1] if self._below else ""

    @cached_property
    def path(self) -> Path | None:
        """The folder; None where this is an object store."""
        full = self._root.reveal()
        return None if "://" in full or "::" in full else Path(full, *self._below)

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        fs, path = self._ask(lambda: fsspec.core.url_to_fs(self._root.reveal()))
        return fs, "/".join([path.rstrip("/"), *self._below])

    @contextmanager
    def scrubbed(self) -> Iterator[None]:
        """Turn what the file systems of URLs raise, which has no common base, into OSError without credentials."""
        if self.path is not None:
            yield
            return
        try:
            yield
        except (FileNotFoundError, MemoryError):
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {self._root.scrub(error)}") from None

    def _ask(self, action: Callable[[], _Answer]) -> _Answer:
        """Return what an action gives; what it raises comes as by `scrubbed`, without the error that had credentials.

        Within a handler of that error it would stay in the chain of the new one.
        """
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
        raise problem

    def store(self, *, read_only: bool = True) -> Store:
        """Return this place as a Zarr store."""
        # Opening a Dataset from what is kept needs no Zarr, which takes longer to import than that.
        from zarr.storage import FsspecStore, LocalStore

        if self.path is not None:
            return LocalStore(self.path, read_only=read_only)
        # Zarr needs a file system that runs in its own event loop, so it makes its own of the URL.
        opened = self._ask(lambda: FsspecStore.from_url(self._root.reveal(), read_only=read_only))
        return FsspecStore(opened.fs, path="/".join([opened.path.rstrip("/"), *self._below]), read_only=read_only)

    def names(self) -> list[str]:
        """Return the names of what lies here, sorted, as they are now; [] where there is nothing."""
        try:
            if self.path is not None:
                return sorted(os.listdir(self.path))
            fs, path = self._remote
            # Listings are remembered by fsspec; others write here too.
            fs.invalidate_cache(path)
            found = self._ask(lambda: fs.ls(path, detail=False))
            return sorted({str(f).rstrip("/").rpartition("/")[2] for f in found} - {self.name, ""})
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the content of files below, those that are there; object stores are asked for all at once."""
        if self.path is not None:
            found = {}
            for path in paths:
                try:
                    found[path] = (self.path / path).read_bytes()
                except (FileNotFoundError, NotADirectoryError):
                    continue
            return found
        if not paths:
            return {}
        fs, root = self._remote
        # As ranges: of a whole object some file systems ask for its size first.
        contents = self._ask(
            lambda: fs.cat_ranges([f"{root}/{p}" for p in paths], [0] * len(paths), None, on_error="return")
        )
        return {p: content for p, content in zip(paths, contents, strict=True) if isinstance(content, bytes)}

    def write(self, files: dict[str, bytes]) -> None:
        """Write files below; object stores take all at once, and show each of them whole or not at all."""
        if self.path is not None:
            for name, content in files.items():
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            return
        fs, root = self._remote
        self._ask(lambda: fs.pipe({f"{root}/{name}": content for name, content in files.items()}))

    def replace(self, name: str, content: bytes | memoryview) -> None:
        """Write a file here in one step, in the place of what had that name; raises OSError where that fails."""
        if self.path is None:
            self.write({name: bytes(content)})
            return
        self.path.mkdir(parents=True, exist_ok=True)
        made = self.path / f"{MAKING}{uuid.uuid4().hex[:16]}"
        with removed_if_ended(made):
            try:
                # A file that is there, or a link, is not written to.
                with made.open("xb") as file:
                    file.write(content)
                os.replace(made, self.path / name)
            finally:
                made.unlink(missing_ok=True)

    @contextmanager
    def making(self, name: str) -> Iterator[Place]:
        """Yield where to write what shall appear here as `name`; what fails leaves nothing behind.

        A folder is written beside its place and renamed into it. In an object store it is written where it will
        stay: the object that makes it whole, its own metadata, has to be written last.

        Raises
        ------
        OSError
            When it can't be written, or where a folder of that name is there already.
        """
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            made = self / f"{MAKING}{uuid.uuid4().hex[:16]}"
            assert made.path is not None
            with removed_if_ended(made.path):
                try:
                    # Fails where something is there already, so that no link is followed.
                    made.path.mkdir()
                    yield made
                    os.rename(made.path, self.path / name)
                finally:
                    shutil.rmtree(made.path, ignore_errors=True)
            return
        made = self / name
        try:
            with self.scrubbed():
                yield made
        except BaseException:
            made.remove()
            raise

    def remove(self) -> None:
        """Remove what lies here; no error where it is gone, or another process is removing it."""
        try:
            if self.path is None:
                fs, path = self._remote
                with self.scrubbed():
                    fs.invalidate_cache(path)
                    if fs.exists(f"{path}/zarr.json"):
                        # Without its metadata nobody takes it for whole while it is being emptied.
                        fs.rm(f"{path}/zarr.json")
                    if fs.exists(path):
                        fs.rm(path, recursive=True)
                return
            # The name goes first, for the same reason.
            leaving = self.path.with_name(f"{MAKING}{uuid.uuid4().hex[:16]}")
            os.rename(self.path, leaving)
        except OSError:
            return
        if leaving.is_dir() and not leaving.is_symlink():
            shutil.rmtree(leaving, ignore_errors=True)
        else:
            leaving.unlink(missing_ok=True)

    def remove_if_old(self, seconds: float = KEEP_SECONDS) -> None:
        """Remove what lies here if it was written so long ago that nobody can be reading it any more."""
        if self.path is not None:
            try:
                written = self.path.stat().st_mtime
            except OSError:
                return
        else:
            written = max((f.written for f in self.files()), default=time.time())
        if time.time() - written > seconds:
            self.remove()

    def files(self) -> Iterable[StoredFile]:
        """Return all files below; [] where there is nothing."""
        if self.path is not None:
            found = []
            for path in self.path.rglob("*"):
                try:
                    if path.is_file():
                        facts = path.stat()
                        found.append(StoredFile(path.relative_to(self.path).as_posix(), facts.st_size, facts.st_mtime))
                except OSError:
                    # Removed meanwhile.
                    continue
            return found
        fs, root = self._remote
        try:
            fs.invalidate_cache(root)
            listing: dict[str, dict[str, Any]] = self._ask(lambda: fs.find(root, detail=True))
        except FileNotFoundError:
            return []
        base = str(fs._strip_protocol(root))
        return [
            StoredFile(path.removeprefix(base).lstrip("/"), int(facts.get("size") or 0), _written(facts))
            for path, facts in listing.items()
        ]


def _local_path(where: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if isinstance(where, str) and where.startswith(("file://", "local://")):
        return where.partition("://")[2]
    return where


def _written(facts: dict[str, Any]) -> float:
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        told = facts.get(name)
        if isinstance(told, datetime):
            return told.timestamp()
        if isinstance(told, (int, float)):
            return float(told)
    return time.time()
