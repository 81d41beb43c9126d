"""Find the parquet files of the suite in a folder or at a URL, and the kind of table in each."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol, cast, get_args
from urllib.parse import unquote

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dde.errors import FormatError, SourceError
from dde.sources.arrow_columns import encode_texts
from dde.sources.connection import Connection
from dde.sources.file_versions import file_version, reading_one_version
from dde.sources.parquet_files import open_parquet
from dde.suite.datadecide.names import MMLU_SUBJECTS, PLAIN_TASKS, wide_column_metric

__all__ = [
    "AGGREGATED_TASKS",
    "FileKinds",
    "TableFile",
    "TableKind",
    "decide_kinds",
    "file_family",
    "find_table_files",
    "missing_shards",
    "open_unchanged",
    "path_keys",
    "probe_kind",
]

TableKind = Literal["raw", "macro", "perplexity", "wide"]

#: Tasks that only macro averages have, each with the tasks of the train shards that it averages.
AGGREGATED_TASKS: Mapping[str, tuple[str, ...]] = {
    "mmlu": MMLU_SUBJECTS,
    "olmes_10_macro_avg": (*PLAIN_TASKS, *MMLU_SUBJECTS),
}

# Results of `probe_kind` that are not kinds.
_OPEN, _LACKS = "open", "lacks "
_RUN_KEYS = ("params", "data", "seed", "step")
_SUBJECTS = frozenset(MMLU_SUBJECTS)
_ROWS_AT_ONCE = 1024
# Hive partitions: params=150M/task=arc_easy/part-0.parquet. Their columns are in the folder names, not in the files.
_PARTITION = re.compile(r"(?P<key>params|data|seed|step|task)=(?P<value>[^/]*)")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# Numbers of shards and hashes of their content in file names.
_NUMBERS = re.compile(r"[0-9a-f]{8,}|[0-9a-f]+(?:-[0-9a-f]+){4}|\d+")


def path_keys(path: str) -> dict[str, str | None]:
    """Return the keys of a table in the folders of its path, as Hive, Spark and dask write them.

    Examples
    --------
    >>> path_keys("tables/params=4M/data=Dolma1.7%20%28no code%29/part-0.parquet")
    {'params': '4M', 'data': 'Dolma1.7 (no code)'}
    """
    matches = (_PARTITION.fullmatch(part) for part in PurePosixPath(path).parts[:-1])
    values = {m["key"]: unquote(m["value"]) for m in matches if m is not None}
    return {key: None if value == _NULL_PARTITION else value for key, value in values.items()}


def file_family(path: str) -> tuple[str, str]:
    """Return folder and name of a file without the numbers and hashes that distinguish files written together.

    Examples
    --------
    >>> file_family("data/train-00001-of-00004-ffee11223344aabb.parquet")
    ('data', 'train-#-of-#-#')
    """
    pure = PurePosixPath(path)
    return str(pure.parent), _NUMBERS.sub("#", pure.stem)


def probe_kind(parquet: pq.ParquetFile, path: str) -> str | None:
    """Return the kind of a file as far as its content shows it.

    Parameters
    ----------
    parquet : pyarrow.parquet.ParquetFile
    path : str
        Path of the file, without credentials.

    Returns
    -------
    str or None
        The kind, if columns and tasks determine it. ``"open"`` if its rows may be train shards or macro averages.
        ``"lacks"`` and names of columns, if a table of metrics can't be read without these. None for a table that is
        not of the suite.

    Raises
    ------
    FormatError
        When two columns have the same name.
    """
    counts = Counter(parquet.schema_arrow.names)
    columns = {*counts, *path_keys(path)}
    # A table with run ids is an export of runs, not a table of the suite.
    if "run_id" in columns:
        return None
    is_dict = {"task", "metrics"} <= columns
    missing = [key for key in _RUN_KEYS if key not in columns]
    if missing:
        return f"{_LACKS}{', '.join(missing)}" if is_dict and len(missing) < len(_RUN_KEYS) else None
    for name in (*_RUN_KEYS, "task", "metrics"):
        if counts[name] > 1:
            raise FormatError(
                f"{path} has {counts[name]} columns named {name!r}, so its rows are ambiguous. "
                "Rename or remove all but one."
            )
    if is_dict:
        return _kind_by_tasks(parquet, path) or _OPEN
    metric_columns = [c for c in columns - {*_RUN_KEYS} if wide_column_metric(c) is not None]
    if any(c.startswith("eval/") for c in metric_columns):
        return "perplexity"
    return "wide" if metric_columns else None


def decide_kinds(found: Mapping[str, str | None]) -> tuple[dict[str, TableKind], list[str]]:
    """Return the kind of each table, and a sentence for each with missing columns.

    Some rows fit both train shards and macro averages. The kind of their file is the kind of the files that were
    written together with it, else the kind that its name implies, else a train shard.

    Parameters
    ----------
    found : mapping of str to str or None
        Results of :func:`probe_kind`, by path.
    """
    probed = {path: kind for path, kind in found.items() if kind is not None}
    kinds = {path: cast("TableKind", kind) for path, kind in probed.items() if kind in get_args(TableKind)}
    families: dict[tuple[str, str], set[TableKind]] = {}
    for path, decided in kinds.items():
        families.setdefault(file_family(path), set()).add(decided)
    notes: list[str] = []
    for path, kind in probed.items():
        if kind == _OPEN:
            siblings = families.get(file_family(path), set())
            kinds[path] = next(iter(siblings)) if len(siblings) == 1 else _kind_by_name(path)
        elif kind.startswith(_LACKS):
            notes.append(f"{path}: without the column {kind.removeprefix(_LACKS)}, rows are of no known run")
    return kinds, notes


def _kind_by_name(path: str) -> TableKind:
    return "macro" if any("macro" in part.casefold() for part in PurePosixPath(path).parts[-2:]) else "raw"


def _kind_by_tasks(parquet: pq.ParquetFile, path: str) -> TableKind | None:
    """Return the kind implied by the tasks, from the first row group that determines it."""
    names = parquet.schema_arrow.names
    if "task" not in names:
        return _kind_of_tasks({path_keys(path)["task"]})
    leaf = next(k for k in range(len(parquet.schema)) if parquet.schema.column(k).path.partition(".")[0] == "task")
    for group in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(leaf).statistics
        if statistics is not None and statistics.has_min_max and isinstance(statistics.min, str):
            least, greatest = statistics.min, statistics.max
            if not any(least <= task <= greatest for task in (*AGGREGATED_TASKS, *MMLU_SUBJECTS)):
                continue
        # The first rows usually determine it.
        batches = parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=["task"], use_threads=False)
        for batch in batches:
            names_of_tasks = encode_texts(batch.column(0), f"the column 'task' of {path}", numbers=True)[1]
            if kind := _kind_of_tasks(names_of_tasks):
                return kind
    return None


def _kind_of_tasks(tasks: Iterable[str | None]) -> TableKind | None:
    tasks = set(tasks)
    if not tasks.isdisjoint(_SUBJECTS):
        return "raw"
    return "macro" if not tasks.isdisjoint(AGGREGATED_TASKS) else None


_SUFFIXES = (".parquet", ".parq", ".pq")
# 00000-of-00004; older releases of the package datasets append a hash.
_SHARD = re.compile(r"-(?P<shard>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,})?$")
# Hub cache: <repository>/snapshots/<commit>/...; <repository>/refs/main names the commit in use.
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
        """Return the file system of the file, and its path there, with credentials."""
        return fsspec.core.url_to_fs(self.root.reveal())[0], self.root.find(self.path)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise SourceError when the file has changed before or after the block that reads it."""
        with reading_one_version(*self.open_place(), self.version):
            yield

    def where(self, column: str) -> str:
        """Return the name of a column of the file in errors."""
        return f"the column {column!r} of {self.path}"


class FileKinds(Protocol):
    """Protocol of a cache of file kinds by path: version, and result of :func:`probe_kind`."""

    def load(self) -> Mapping[str, tuple[str, str | None]]:
        """Return the cached kinds; empty without a complete cache file."""
        ...

    def save(self, kinds: Mapping[str, tuple[str, str | None]]) -> None:
        """Store the kinds, if possible."""
        ...


@contextmanager
def open_unchanged(file: TableFile, *, read_dictionary: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a table as :func:`open_parquet` does, and raise SourceError when it has changed since it was found."""
    with file.unchanged(), open_parquet(file, read_dictionary=read_dictionary) as parquet:
        yield parquet


def find_table_files(root: str | Connection, known: FileKinds | None = None) -> tuple[list[TableFile], list[str]]:
    """Return the tables below `root` in reading order, and a sentence for every table that is set aside.

    Parameters
    ----------
    root : str or Connection
        Folder, file or fsspec URL. Folders may be nested to any depth, or be the Hub's own cache.
    known : FileKinds, optional
        Cache of file kinds; files that are unchanged are not opened.

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
    probed: dict[str, str | None] = {}
    before = {} if known is None else known.load()
    # A kind must not be cached for another version. For objects the check costs a request, and reading their keys
    # checks the version anyway.
    opened = open_unchanged if isinstance(fs, LocalFileSystem) else open_parquet
    for path in listing:
        # A file passed as root may have any name. In folders, the Hub writes unfinished downloads under other names, so
        # files that end in .parquet are complete.
        if not is_file and not path.casefold().endswith(_SUFFIXES):
            continue
        name, snapshot = place.hide(path), _SNAPSHOT.match(path)
        if snapshot is not None and snapshot["commit"] != current.get(snapshot["repository"], snapshot["commit"]):
            aside.append(f"{name}: of another snapshot than refs/main")
            continue
        versions[name] = file_version(fs, path)
        if name in before and before[name][0] == versions[name]:
            probed[name] = before[name][1]
        else:
            with opened(TableFile(name, place, "raw", versions[name])) as parquet:
                probed[name] = probe_kind(parquet, name)
    if known is not None and before != (now := {path: (versions[path], kind) for path, kind in probed.items()}):
        known.save(now)
    kinds, notes = decide_kinds(probed)
    files = [TableFile(path, place, kind, versions[path]) for path, kind in kinds.items()]
    return _in_reading_order(files), sorted({*aside, *notes})


def _list_files(place: Connection) -> tuple[Any, list[str], bool]:
    """Return the file system of a location, the paths of all files there, and whether it is itself a file."""
    try:
        fs, path = fsspec.core.url_to_fs(place.reveal())
        if isinstance(fs, LocalFileSystem):
            listing = _list_local_files(path)
        else:
            # fsspec caches listings; the tables may have changed since an earlier opening.
            fs.invalidate_cache()
            listing = sorted(fs.find(path))
        exists = bool(listing) or fs.exists(path)
    except Exception as error:  # The errors of stores share no base class.
        shown = place.scrub(error) or type(error).__name__
        problem = SourceError(
            f"{place.redacted!r} can't be listed ({shown}), so its tables are unknown. "
            "Pass a folder of parquet tables that you may read, with all folders in it, or a URL that fsspec can "
            "open."
        )
    else:
        if exists:
            return fs, listing, listing == [path]
        problem = SourceError(
            f"{place.redacted!r} does not exist, so there are no pretraining tables to read. Pass the folder with the "
            "DataDecide tables, or None to open only post-training runs."
        )
    # Raised outside the handler: the store's error may quote a signed address.
    raise problem


def _list_local_files(path: str) -> list[str]:
    """Return the files below a folder, sorted by path; raises OSError if a folder can't be listed.

    Links to folders are followed; a folder with several links to it is listed once.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return [path]
    except FileNotFoundError:
        # A broken link counts as an unreadable file.
        return [path] if os.path.lexists(path) else []

    def fail(error: OSError) -> None:
        raise error

    files: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(path, onerror=fail, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Links last, so that files are listed under their real path.
        subfolders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        files += (os.path.join(folder, name) for name in names)
    return sorted(files)


def _current_snapshots(fs: Any, place: Connection, listing: Sequence[str]) -> dict[str, str]:
    """Return the commit in use of each Hub repository below a location, if refs/main names one."""
    matches = (_SNAPSHOT.match(path) for path in listing)
    commits: dict[str, str] = {}
    for repository in sorted({match["repository"] for match in matches if match is not None}):
        ref = f"{repository}/refs/main"
        try:
            if fs.exists(ref):
                commits[repository] = fs.cat_file(ref).decode(errors="replace").strip()
        except Exception as error:  # The errors of stores share no base class.
            problem = SourceError(
                f"{place.hide(ref)} can't be read ({place.scrub(error) or type(error).__name__}), so the snapshot in "
                "use is unknown. Restore the permission to read it, or pass the folder of a snapshot."
            )
        else:
            continue
        raise problem
    return commits


def _in_reading_order(files: list[TableFile]) -> list[TableFile]:
    """Return files by kind, and within a kind by precedence, as the first of repeated rows is used.

    Published names come first (full_eval is the parsed table; datadec writes variants of it beside it), then files
    written in more parts: the Hub's shards before a joined file.
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
    """Return the names of absent shards that the names of the others imply."""
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
