"""Finding the parquet tables of a suite in a folder or behind a URL, and opening them."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, get_args

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dde.errors import SourceError
from dde.sources.connection import Connection
from dde.sources.file_versions import file_version, reading_one_version
from dde.sources.parquet_files import open_parquet
from dde.suite.datadecide.tables.table_kinds import TableKind, file_family, probe_kind, settle_kinds

__all__ = [
    "FileKinds",
    "TableFile",
    "find_table_files",
    "missing_shards",
    "open_unchanged",
]

_SUFFIXES = (".parquet", ".parq", ".pq")
# 00000-of-00004; older releases of the package datasets append a hash.
_SHARD = re.compile(r"-(?P<shard>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,})?$")
# Hub cache: <repository>/snapshots/<commit>/..., beside refs/main which names the commit in use.
_SNAPSHOT = re.compile(r"(?P<repository>.*/datasets--[^/]+)/snapshots/(?P<commit>[^/]+)/")


@dataclass(frozen=True, slots=True)
class TableFile:
    """One parquet file of a suite.

    Attributes
    ----------
    path : str
        Path within its file system, without credentials.
    root : Connection
        Folder or URL that was searched; names the file system.
    kind : {"raw", "macro", "perplexity", "wide"}
        Dict text per task, macro averages, perplexities, or the parsed wide table.
    version : str
        As :func:`dde.sources.file_versions.file_version` returns it.
    """

    path: str
    root: Connection
    kind: TableKind
    version: str

    @property
    def name(self) -> str:
        """File name without its folder."""
        return PurePosixPath(self.path).name

    def open_place(self) -> tuple[Any, str]:
        """Return the file system that has the file, and the path that it goes by there, with credentials."""
        return fsspec.core.url_to_fs(self.root.reveal())[0], self.root.find(self.path)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise SourceError when the file is not the one that was found, before a block that reads it or after."""
        with reading_one_version(*self.open_place(), self.version):
            yield

    def where(self, column: str) -> str:
        """Return what a column of the file is called in errors."""
        return f"the column {column!r} of {self.path}"


class FileKinds(Protocol):
    """Keeps what files were found to be, by path: version, and what :func:`probe_kind` returned."""

    def load(self) -> Mapping[str, tuple[str, str | None]]:
        """Return what is kept; nothing where nothing whole is."""
        ...

    def save(self, kinds: Mapping[str, tuple[str, str | None]]) -> None:
        """Keep it, where that can be done."""
        ...


@contextmanager
def open_unchanged(file: TableFile, *, read_dictionary: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a table as :func:`open_parquet` does, and raise SourceError when it is not the one that was found."""
    with file.unchanged(), open_parquet(file, read_dictionary=read_dictionary) as parquet:
        yield parquet


def find_table_files(root: str | Connection, known: FileKinds | None = None) -> tuple[list[TableFile], list[str]]:
    """Return the tables under `root`, in the order of reading, and a sentence for every table that is set aside.

    Parameters
    ----------
    root : str or Connection
        Folder, file or fsspec URL. Folders may be nested to any depth, or be the Hub's own cache.
    known : FileKinds, optional
        What files were found to be before; those that are unchanged are not opened.

    Raises
    ------
    SourceError
        When `root` does not exist or can't be listed.
    """
    place = root if isinstance(root, Connection) else Connection(root)
    fs, listing, is_file = _list_files(place)
    current = _current_snapshots(fs, place, listing)
    aside: list[str] = []
    versions: dict[str, str] = {}
    found: dict[str, str | None] = {}
    before = {} if known is None else known.load()
    # What a file is must not be kept for another version. Of an object that costs a request; its keys are checked.
    opened = open_unchanged if isinstance(fs, LocalFileSystem) else open_parquet
    for path in listing:
        # A file that is named counts whatever its name. The Hub writes shards of half-finished downloads under other
        # names; what ends in .parquet is whole.
        if not is_file and not path.casefold().endswith(_SUFFIXES):
            continue
        name, snapshot = place.hide(path), _SNAPSHOT.match(path)
        if snapshot is not None and snapshot["commit"] != current.get(snapshot["repository"], snapshot["commit"]):
            aside.append(f"{name}: of another snapshot than refs/main")
            continue
        versions[name] = file_version(fs, path)
        if name in before and before[name][0] == versions[name]:
            found[name] = before[name][1]
        else:
            with opened(TableFile(name, place, "raw", versions[name])) as parquet:
                found[name] = probe_kind(parquet, name)
    if known is not None and before != (now := {path: (versions[path], kind) for path, kind in found.items()}):
        known.save(now)
    kinds, lacking = settle_kinds(found)
    files = [TableFile(path, place, kind, versions[path]) for path, kind in kinds.items()]
    return _in_reading_order(files), sorted({*aside, *lacking})


def _list_files(place: Connection) -> tuple[Any, list[str], bool]:
    """Return the file system of a place, the paths of all files there, and whether it is itself a file."""
    try:
        fs, path = fsspec.core.url_to_fs(place.reveal())
        if isinstance(fs, LocalFileSystem):
            listing = _list_local_files(path)
        else:
            # Listings are remembered by fsspec; the tables may have changed since an earlier opening.
            fs.invalidate_cache()
            listing = sorted(fs.find(path))
        exists = bool(listing) or fs.exists(path)
    except Exception as error:  # Each store has errors of its own, which share no base.
        shown = place.scrub(error) or type(error).__name__
        problem = SourceError(
            f"{place.redacted!r} can't be listed ({shown}), so which tables it holds is unknown. "
            "Pass a folder of parquet tables that may be entered, with all folders in it, or a URL that fsspec can "
            "open."
        )
    else:
        if exists:
            return fs, listing, listing == [path]
        problem = SourceError(
            f"{place.redacted!r} does not exist, so there are no pretraining tables to read. Pass the folder with the "
            "DataDecide tables, or None to open post-training runs alone."
        )
    # Outside of the handler: the error of a store may quote a signed address.
    raise problem


def _list_local_files(path: str) -> list[str]:
    """Return the files below a folder, in the order of their paths; raises OSError where a folder can't be entered.

    Links to folders are followed; a folder that several lead to is listed once.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return [path]
    except FileNotFoundError:
        # A link to nothing is a file that can't be read.
        return [path] if os.path.lexists(path) else []

    def fail(error: OSError) -> None:
        raise error

    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(path, onerror=fail, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Links last, so that files go by the path that they lie at.
        subfolders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        found += (os.path.join(folder, name) for name in names)
    return sorted(found)


def _current_snapshots(fs: Any, place: Connection, listing: Sequence[str]) -> dict[str, str]:
    """Return the commit in use of each of the Hub's repositories below a place, where one is named."""
    matches = (_SNAPSHOT.match(path) for path in listing)
    found: dict[str, str] = {}
    for repository in sorted({match["repository"] for match in matches if match is not None}):
        ref = f"{repository}/refs/main"
        try:
            if fs.exists(ref):
                found[repository] = fs.cat_file(ref).decode(errors="replace").strip()
        except Exception as error:  # Each store has errors of its own, which share no base.
            problem = SourceError(
                f"{place.hide(ref)} can't be read ({place.scrub(error) or type(error).__name__}), so which snapshot of "
                "its tables is in use is unknown. Restore the right to read it, or pass the folder of a snapshot."
            )
        else:
            continue
        raise problem
    return found


def _in_reading_order(files: list[TableFile]) -> list[TableFile]:
    """Return files by kind; of one kind, those first whose rows count where others repeat them.

    These are the published names (full_eval is the parsed table itself; datadec writes variants of it beside it),
    then what was written in more parts: the Hub's shards before a joined file.
    """
    families = Counter((f.kind, file_family(f.path)) for f in files)
    order = list(get_args(TableKind))

    def rank(file: TableFile) -> tuple[int, int, int, tuple[str, str], str]:
        family = file_family(file.path)
        stem = _SHARD.sub("", PurePosixPath(file.path).stem)
        preferred = stem in ("train", "full_eval")
        return order.index(file.kind), 0 if preferred else 1, -families[file.kind, family], family, file.path

    return sorted(files, key=rank)


def missing_shards(files: Sequence[TableFile]) -> list[str]:
    """Return the names of shards that the names of the others imply but that are not there."""
    by_stem: dict[str, tuple[int, set[int]]] = {}
    for file in files:
        match = _SHARD.search(PurePosixPath(file.path).stem)
        if match is not None:
            stem = _SHARD.sub("", str(PurePosixPath(file.path).with_suffix("")))
            _, seen = by_stem.setdefault(stem, (int(match["count"]), set()))
            seen.add(int(match["shard"]))
    return [
        f"{PurePosixPath(stem).name}-{shard:05d}-of-{count:05d}.parquet"
        for stem, (count, seen) in by_stem.items()
        for shard in range(count)
        if shard not in seen
    ]
