"""Find the files of a suite below a folder or URL: those that match patterns, and those that match none."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dde.errors import SourceError
from dde.sources.connection import Connection
from dde.sources.file_versions import file_version, reading_one_version
from dde.sources.redaction import is_url

__all__ = ["Listing", "SuiteFile", "read_versions"]

# Concurrent requests to an object store.
_MAX_REQUESTS = 16
# A wildcard or the beginning of one.
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """One file of a suite.

    Attributes
    ----------
    name : str
        Path relative to the root, with ``/`` between folders.
    path : str
        Path within its file system, without credentials.
    root : Connection
        Folder or URL that was searched; names the file system.
    version : str
        As :func:`dde.sources.file_versions.file_version` returns it.
    """

    name: str
    path: str
    root: Connection
    version: str

    def open_place(self) -> tuple[Any, str]:
        """Return the file system of the file, and its path there, with credentials."""
        return fsspec.core.url_to_fs(self.root.reveal())[0], self.root.find(self.path)

    @property
    def is_remote(self) -> bool:
        """Whether the file is on another machine."""
        return is_url(self.root.redacted)

    def unchanged(self) -> Any:
        """Return a context manager that raises SourceError when the file has changed before or after its block."""
        return reading_one_version(*self.open_place(), self.version)


@dataclass(eq=False)
class Listing:
    """The files below a folder or URL; folders are listed when a pattern needs them.

    Attributes
    ----------
    place : Connection
        The root.
    """

    place: Connection
    _fs: Any = field(init=False)
    _root: str = field(init=False)
    _entries: dict[str, tuple[list[str], list[str]]] = field(init=False, default_factory=dict)
    # Folders whose files were matched with a pattern, and folders that were searched for subfolders.
    _searched: set[str] = field(init=False, default_factory=set)
    _entered: set[str] = field(init=False, default_factory=set)
    _matched: set[str] = field(init=False, default_factory=set)
    _remote: dict[str, list[str]] = field(init=False, default_factory=dict)
    # Quoted names, as a web server lists them, by their unquoted form.
    _listed: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        problem = None
        try:
            self._fs, root = fsspec.core.url_to_fs(self.place.reveal())
            self._root = root.rstrip("/")
            if not self.is_local:
                # fsspec caches listings; files may have changed since an earlier opening.
                self._fs.invalidate_cache()
        except Exception as error:  # The errors of stores share no base class.
            problem = self._unlisted("", error)
        else:
            if self.is_local and not os.path.isdir(self._root):
                what = "is not a folder" if os.path.lexists(self._root) else "does not exist"
                problem = SourceError(
                    f"{self.place.redacted!r} {what}, so there are no files of the suite to read. "
                    "Pass the folder or URL that the patterns of its tables are relative to."
                )
        if problem is not None:
            # Raised outside the handler: the store's error may quote a signed address.
            raise problem

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine."""
        return isinstance(self._fs, LocalFileSystem)

    def find(self, glob: str) -> list[str]:
        """Return the paths below the root that match a glob, sorted; ``**`` matches any number of folders.

        Names that begin with a dot match only where the pattern has the dot, as in a shell.

        Raises
        ------
        SourceError
            When a folder can't be listed.
        """
        parts = [part for part in glob.split("/") if part not in ("", ".")]
        if parts[-1:] == ["**"]:
            parts.append("*")
        if not any(_WILD.search(part) for part in parts):
            path = "/".join(parts)
            found = [path] if self._exists(path) else []
        elif self.is_local:
            found = sorted(set(self._walk("", parts, frozenset())))
        else:
            found = self._find_remote(parts)
        return found

    def take(self, names: Iterable[str]) -> None:
        """Mark files as read by the suite; all others count as unmatched."""
        self._matched.update(names)

    def full_path(self, name: str) -> str:
        """Return the path of a file within its file system, with credentials."""
        name = self._listed.get(name, name)
        return f"{self._root}/{name}" if self._root else name

    def file(self, name: str, version: str) -> SuiteFile:
        """Return a file of the listing."""
        return SuiteFile(name, self.place.hide(self.full_path(name)), self.place, version)

    def unmatched(self) -> tuple[list[str], list[str]]:
        """Return the files and folders that match no pattern, sorted; files only from folders that were searched.

        A broken link counts as a file wherever a folder was expected. Names that begin with a dot are left out.
        """
        files = {
            name
            for folder in self._searched | self._entered
            for name in (_join(folder, entry) for entry in self._list(folder)[1])
            if name not in self._matched and (folder in self._searched or self._leads_nowhere(name))
        }
        folders = {
            name
            for folder in self._searched | self._entered
            for name in (_join(folder, entry) for entry in self._list(folder)[0])
            if name not in self._searched and name not in self._entered
        }
        return _without_hidden(files), _without_hidden(folders)

    def _leads_nowhere(self, name: str) -> bool:
        path = self.full_path(name)
        return self.is_local and os.path.islink(path) and not os.path.exists(path)

    def _walk(self, folder: str, parts: Sequence[str], ancestors: frozenset[tuple[int, int]]) -> Iterator[str]:
        """Yield the files of a folder that match the parts of a glob; follows links to folders."""
        part, rest = parts[0], parts[1:]
        if part == "**":
            status = os.stat(self.full_path(folder))
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                # A link to a folder above would recurse forever.
                return
            yield from self._walk(folder, rest, ancestors)
            self._entered.add(folder)
            for name in self._list(folder)[0]:
                if not name.startswith("."):
                    yield from self._walk(_join(folder, name), parts, ancestors | {identity})
            return
        if rest:
            self._entered.add(folder)
            names = self._list(folder)[0] if _WILD.search(part) else [part]
            for name in _matching(names, part):
                below = _join(folder, name)
                if os.path.isdir(self.full_path(below)):
                    yield from self._walk(below, rest, ancestors)
            return
        self._searched.add(folder)
        for name in _matching(self._list(folder)[1], part):
            yield _join(folder, name)

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files in a folder."""
        if folder not in self._entries:
            folders: list[str] = []
            files: list[str] = []
            problem = None
            if self.is_local:
                try:
                    with os.scandir(self.full_path(folder) or "/") as entries:
                        for entry in entries:
                            (folders if _is_folder(entry) else files).append(entry.name)
                except OSError as error:
                    problem = self._unlisted(folder, error)
            if problem is not None:
                raise problem
            self._entries[folder] = sorted(folders), sorted(files)
        return self._entries[folder]

    def _find_remote(self, parts: Sequence[str]) -> list[str]:
        """Return the files of a remote folder that match the parts of a pattern; each folder is listed once."""
        fixed: list[str] = []
        for part in parts[:-1]:
            if _WILD.search(part):
                break
            fixed.append(part)
        start = "/".join(fixed)
        if start not in self._remote:
            problem = None
            folder = self.full_path(start) if start else self._root
            try:
                # `find` ignores folders that it can't list; `ls` raises the reason for the first one.
                self._fs.ls(folder, detail=False)
                paths = self._fs.find(folder)
            except FileNotFoundError:
                paths = []
            except Exception as error:  # The errors of stores share no base class.
                problem = self._unlisted(start, error)
            if problem is not None:
                raise problem
            listed = [str(path).removeprefix(self._root).lstrip("/") for path in paths]
            # URLs write a blank as %20; a pattern must match the same names on a web server as on disk.
            is_web = not {self._fs.protocol, *self._fs.protocol}.isdisjoint(("http", "https"))
            self._listed.update({unquote(name): name for name in listed} if is_web else {})
            names = sorted(map(unquote, listed) if is_web else listed)
            self._remote[start] = names
            for name in names:
                folder, _, file = name.rpartition("/")
                self._entries.setdefault(folder, ([], []))[1].append(file)
        folder_depth = None if "**" in parts else len(parts)
        found = []
        for name in self._remote[start]:
            pieces = name.split("/")
            if folder_depth in (None, len(pieces)) and _matches(pieces[:-1], parts[:-1]):
                self._searched.add("/".join(pieces[:-1]))
                if _matching(pieces[-1:], parts[-1]):
                    found.append(name)
        return found

    def _exists(self, path: str) -> bool:
        full = self.full_path(path)
        if self.is_local:
            return os.path.lexists(full)
        problem = None
        try:
            return bool(self._fs.exists(full))
        except Exception as error:  # The errors of stores share no base class.
            problem = self._unlisted(path, error)
        raise problem

    def _unlisted(self, folder: str, error: Exception) -> SourceError:
        shown = self.place.scrub(error) or type(error).__name__
        where = _join(self.place.redacted.rstrip("/") or "/", folder) if folder else self.place.redacted
        return SourceError(
            f"{where!r} can't be listed ({shown}), so its files of the suite are unknown. "
            "Pass a folder that you may read, together with the folders in it that the patterns name, or a URL that "
            "fsspec can open."
        )


def read_versions(listing: Listing, names: Iterable[str]) -> dict[str, str]:
    """Return the versions of files, by name; requests to an object store are concurrent.

    Raises
    ------
    SourceError
        When a file is absent, can't be read, or is not a file.
    """
    requested = list(names)

    def read(name: str) -> str:
        return file_version(listing._fs, listing.full_path(name))

    if listing.is_local or len(requested) < 2:
        return {name: read(name) for name in requested}
    with ThreadPoolExecutor(_MAX_REQUESTS) as threads:
        return dict(zip(requested, threads.map(read, requested), strict=True))


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A broken link, or a link to itself, counts as an unreadable file.
        return False


def _matching(names: Iterable[str], part: str) -> list[str]:
    return [
        name for name in names if fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
    ]


def _matches(folders: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether folders match the parts of a glob."""
    if not parts:
        return not folders
    if parts[0] == "**":
        below = next((k for k, name in enumerate(folders) if name.startswith(".")), len(folders))
        return any(_matches(folders[k:], parts[1:]) for k in range(below + 1))
    return bool(folders) and bool(_matching(folders[:1], parts[0])) and _matches(folders[1:], parts[1:])


def _without_hidden(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
