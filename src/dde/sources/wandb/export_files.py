"""Find the files of an export in a folder, one level below it, or at an fsspec URL."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dde.errors import ConflictWarning, SourceError, warn
from dde.sources.connection import Connection, redact
from dde.sources.file_versions import check_version, file_version

__all__ = ["Export", "ExportFile", "ExportForm", "RunDigests", "find_export"]

ExportForm = Literal["parquet", "jsonl"]

# Per form: the file of runs, which identifies an export, and the file of training logs, which may be absent.
_FILES: dict[ExportForm, tuple[str, str]] = {
    "parquet": ("runs_metadata.parquet", "runs_history.parquet"),
    "jsonl": ("runs.jsonl", "history.jsonl"),
}
# Columns that distinguish the parquet file of runs from that of logs, whatever their names.
_RUN_COLUMNS = frozenset({"config", "summary", "raw_data"})


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file of an export; files are equal if path and content are.

    Attributes
    ----------
    path : str
        Path within its file system.
    identity : str
        Changes when the file does; see :func:`dde.sources.file_versions.file_version`.
    file_system : fsspec.AbstractFileSystem
        May contain credentials, so a store retains no `ExportFile` between calls.
    """

    path: str
    identity: str
    file_system: Any = field(compare=False, repr=False)

    @property
    def shown(self) -> str:
        """The path without credentials."""
        return redact(self.path)

    @property
    def is_local(self) -> bool:
        """Whether it is in a local folder."""
        return isinstance(self.file_system, LocalFileSystem)

    def open(self) -> IO[bytes]:
        """Open the file for reading; raises SourceError if it can't be opened."""
        try:
            return cast("IO[bytes]", self.file_system.open(self.path, "rb"))
        except Exception as error:  # the errors of remote file systems have no common base class
            problem = SourceError(
                f"{self.shown} can't be opened: {Connection(self.path).scrub(error)} ({type(error).__name__}), "
                "so its content is unknown. Check that it exists and is readable, and open the export again."
            )
        # Raised outside the handler: the error of a remote file system may quote a credential.
        raise problem

    def check(self) -> None:
        """Raise SourceError if the file has changed since its identity was read."""
        check_version(self.file_system, self.path, self.identity)


@dataclass(frozen=True, slots=True)
class Export:
    """The files of one export.

    Attributes
    ----------
    form : {"parquet", "jsonl"}
        Format of the files.
    runs : ExportFile
        Runs with config and summary.
    history : ExportFile or None
        Training logs; None where only runs were exported.
    """

    form: ExportForm
    runs: ExportFile
    history: ExportFile | None

    def check(self) -> None:
        """Raise SourceError if a file has changed since the export was found."""
        for file in (self.runs, self.history):
            if file is not None:
                file.check()


@dataclass(frozen=True, slots=True)
class RunDigests:
    """A digest of the entry of each run in an export.

    Attributes
    ----------
    of_run : mapping of str to str
        Digest by run id; that of the first entry where a run has several.
    conflicts : tuple of str
        Sentences on contradictory entries.
    """

    of_run: Mapping[str, str]
    conflicts: tuple[str, ...]

    @classmethod
    def of(cls, digests: Iterable[tuple[str | None, str]], runs: ExportFile, unit: str) -> RunDigests:
        """Collect pairs of run id and digest, one per unit ("rows" or "lines") of the file of runs."""
        first: dict[str, str] = {}
        differing: dict[str, None] = {}
        nameless = 0
        for run_id, digest in digests:
            if run_id is None:
                nameless += 1
            elif first.setdefault(run_id, digest) != digest:
                differing[run_id] = None
        conflicts: list[str] = []
        if differing:
            conflicts.append(
                f"{runs.shown} has {unit} that disagree for {len(differing)} runs, such as "
                f"{next(iter(differing))!r}, so it is unknown which is right, and the first of each is used. "
                "Export the project again."
            )
        if nameless:
            conflicts.append(
                f"{runs.shown} has {nameless} {unit} without a run_id, so it is unknown which runs they describe, and "
                "they were left out. Export the project again."
            )
        return cls(first, tuple(conflicts))

    def warn(self) -> None:
        """Emit a ConflictWarning of each conflict."""
        for conflict in self.conflicts:
            warn(conflict, ConflictWarning, stacklevel=3)


def find_export(connection: Connection, forms: tuple[ExportForm, ...] = ("parquet", "jsonl")) -> Export:
    """Return the export in a folder, or in the only subfolder that has one; other files are ignored.

    Parameters
    ----------
    connection : Connection
        Folder, one of the export's files, or an fsspec URL of either.
    forms : tuple of str
        Forms to look for.

    Raises
    ------
    SourceError
        If there is no export, or more than one.
    """
    shown = connection.redacted
    try:
        file_system, root = fsspec.core.url_to_fs(connection.reveal())
        file_system.invalidate_cache()
        exports = _candidates(file_system, root.rstrip("/") or "/", forms)
        if not exports:
            raise SourceError(_nothing_found(file_system, root, shown, forms))
    except SourceError:
        raise
    except Exception as error:  # the errors of remote file systems have no common base class
        problem = SourceError(
            f"{shown!r} can't be read: {connection.scrub(error)} ({type(error).__name__}), "
            "so there are no post-training runs. Check the path; a URL needs the fsspec package for its scheme."
        )
    else:
        if len(exports) > 1:
            names = ", ".join(sorted(export.runs.shown for export in exports))
            raise SourceError(
                f"{shown!r} has {len(exports)} exports: {names}, so it is unclear which one to read. "
                "Name the folder of one of them."
            )
        return exports[0]
    # Raised outside the handler: the error of a remote file system may quote a signed URL.
    raise problem


def _candidates(file_system: Any, root: str, forms: tuple[ExportForm, ...]) -> list[Export]:
    is_file = file_system.isfile(root)
    for form in forms:
        if os.path.basename(root) in _FILES[form] and is_file:
            return _named(file_system, os.path.dirname(root), (form,))
    # Over HTTP a folder is reported as a file too.
    if is_file and "parquet" in forms and root.endswith(".parquet"):
        return _by_schema(file_system, os.path.dirname(root))
    # If the folder itself is an export, its subfolders are ignored.
    if exports := _named(file_system, root, forms):
        return exports
    try:
        entries = file_system.ls(root, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    folders = [str(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "directory"]
    below = [export for folder in folders for export in _named(file_system, folder, forms)]
    if not below and "parquet" in forms:
        below = _by_schema(file_system, root)
        below = below or [export for folder in folders for export in _by_schema(file_system, folder)]
    return below


def _named(file_system: Any, folder: str, forms: tuple[ExportForm, ...]) -> list[Export]:
    """Return the exports of a folder whose files have the names that dr_wandb uses, one per form."""
    exports = []
    for form in forms:
        runs, history = (f"{folder.rstrip('/')}/{name}" for name in _FILES[form])
        if _exists(file_system, runs):
            log = _file(file_system, history) if _exists(file_system, history) else None
            exports.append(Export(form, _file(file_system, runs), log))
    return exports


def _exists(file_system: Any, path: str) -> bool:
    """Return whether a folder has an entry of that name; a broken link counts, and reading it raises an error."""
    if not isinstance(file_system, LocalFileSystem):
        return bool(file_system.exists(path))
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _by_schema(file_system: Any, folder: str) -> list[Export]:
    """Return the export of parquet files under other names, as dr_wandb 0.2 writes them, identified by columns.

    Raises
    ------
    SourceError
        If several files may be the runs, or the logs.
    """
    # Imported only here: other stores don't need parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs: list[str] = []
    logs: list[str] = []
    for entry in file_system.ls(folder, detail=True):
        path = str(entry["name"])
        if entry["type"] != "file" or not path.endswith(".parquet"):
            continue
        try:
            with file_system.open(path, "rb") as stream:
                names = set(pq.read_schema(stream).names)
        except (pa.ArrowException, OSError):
            continue
        if "run_id" in names and names & _RUN_COLUMNS:
            runs.append(path)
        elif "run_id" in names and names & {"step", "_step"}:
            logs.append(path)
    if len(runs) > 1 or (runs and len(logs) > 1):
        several = sorted(map(redact, runs if len(runs) > 1 else logs))
        content = "runs" if len(runs) > 1 else "logged rows"
        raise SourceError(
            f"{redact(folder)} has {len(several)} parquet files of {content}: {', '.join(several)}, so it is unclear "
            "which of them to read. Leave one of each, or name them "
            f"{_FILES['parquet'][0]} and {_FILES['parquet'][1]}."
        )
    if not runs:
        return []
    return [Export("parquet", _file(file_system, runs[0]), _file(file_system, logs[0]) if logs else None)]


def _file(file_system: Any, path: str) -> ExportFile:
    return ExportFile(path=path, identity=file_version(file_system, path), file_system=file_system)


def _nothing_found(file_system: Any, root: str, shown: str, forms: tuple[ExportForm, ...]) -> str:
    expected = " nor ".join(_FILES[form][0] for form in forms)
    if file_system.exists(root):
        names = sorted(str(path).rstrip("/").rpartition("/")[2] for path in file_system.ls(root, detail=False))
        content = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing"
        cause = f"{shown!r} has {'neither ' if len(forms) > 1 else 'no '}{expected}, but {content}"
        compressed = [name for name in names if name.endswith((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"))]
        if compressed:
            cause += f". {compressed[0]} is compressed, which is not supported: decompress it"
    else:
        cause = f"{shown!r} does not exist"
    return (
        f"{cause}, so there are no post-training runs to read. "
        "Name a folder that dr_wandb exported to, or a database as postgresql://user@host/database."
    )
