"""Base class of stores of exported files: the methods that do not depend on the format of the files."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dde.sources.connection import Connection
from dde.sources.protocols import RunRecord
from dde.sources.wandb.export_files import Export, ExportFile, ExportForm, RunDigests, find_export
from dde.sources.wandb.logs import LogDigests, log_notes
from dde.sources.wandb.raw_runs import OBJECT_COLUMNS, RawRun
from dde.sources.wandb.records import run_record, wanted_config_keys
from dde.sources.wandb.summaries import SummaryTable

__all__ = ["TEXT_COLUMNS", "ExportFolder", "ExportedRun", "export_records"]

#: Columns of a run that its record contains as text, in addition to its id.
TEXT_COLUMNS = ("run_name", "state", "project", "entity")


class ExportFolder(ABC):
    """Base class of stores of exported files.

    A subclass reads one format: it names the format in `form`, and implements `raw_runs`, `_run_digests`, `_records`,
    `_summaries` and `_log_keys`.

    Parameters
    ----------
    folder : str, path or Connection
        Folder or fsspec URL with the export itself, or with one subfolder that has it. Other files are ignored.
    """

    #: Format of the files that it reads.
    form: ClassVar[ExportForm]

    def __init__(self, folder: str | os.PathLike[str] | Connection) -> None:
        self._connection = folder if isinstance(folder, Connection) else Connection(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.redacted!r})"

    @property
    def description(self) -> str:
        """The folder, without credentials."""
        return self._connection.redacted

    @property
    def location(self) -> str:
        """The absolute path or URL of the folder, without credentials."""
        return self._connection.location

    @property
    def fingerprint(self) -> str:
        """Digest of paths and versions of the files; changes when any of them does."""
        export = self._export()
        files = (export.runs, export.history)
        parts = [self.form, *("" if file is None else f"{file.path}|{file.identity}" for file in files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def conflicts(self) -> list[str]:
        """Sentences on runs with contradictory entries; the first entry of each is used."""
        return list(self._run_digests().conflicts)

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id; see `PosttrainingSource`.

        The version of a run is a digest of its entry in the file of runs, and of its logged rows.
        """
        with self._reading() as export:
            return list(self._records(export, wanted_config_keys(extra_config_keys)))

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: a (run,) array per (task, entry).

        See `PosttrainingSource`.
        """
        with self._reading() as export:
            return self._summaries(export.runs).select(run_ids, names)

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations, both sorted."""
        with self._reading() as export:
            logs = [] if export.history is None else self._log_keys(export.history)
            return logs, self._summaries(export.runs).public_names()

    def raw_run_count(self) -> int:
        """Return the number of runs; see `RawExport`."""
        digests = self._run_digests()
        digests.warn()
        return len(digests.of_run)

    def has_history(self) -> bool:
        """Return whether the export includes training logs; see `RawExport`."""
        return self._export().history is not None

    def complete_run(self, run_id: str) -> Mapping[str, object] | None:
        """Return the complete row of a run by column; None where there is no such run. See `WandBStore`."""
        with self._reading():
            run = next((run for run in self.raw_runs() if run.run_id == run_id), None)
        return None if run is None else dict(zip(OBJECT_COLUMNS, run.objects, strict=True))

    @abstractmethod
    def raw_runs(self) -> Iterator[RawRun]:
        """Yield every run with its complete content; see `RawExport`."""

    @abstractmethod
    def _run_digests(self) -> RunDigests:
        """Return a digest of each run; cached until the files change."""

    @abstractmethod
    def _records(self, export: Export, config_keys: tuple[str, ...]) -> Sequence[RunRecord]:
        """Return the record of each run, ordered by run_id."""

    @abstractmethod
    def _summaries(self, runs: ExportFile) -> SummaryTable:
        """Return the table of all summaries."""

    @abstractmethod
    def _log_keys(self, history: ExportFile) -> list[str]:
        """Return the keys of the training logs that are metrics, sorted."""

    def _export(self) -> Export:
        return find_export(self._connection, (self.form,))

    @contextmanager
    def _reading(self) -> Iterator[Export]:
        """Provide the files of the export to a block that reads them; SourceError if one changes during the block."""
        export = self._export()
        try:
            yield export
        except Exception:
            # If the file changed, that is the cause, whatever error the reader raised.
            export.check()
            raise
        export.check()


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """Decoded columns of a run, without its summary.

    Attributes
    ----------
    run_id : str
        Id of the run.
    columns : mapping of str to object
        Columns of the run; those of `TEXT_COLUMNS` and ``created_at`` are used.
    config : mapping of str to object
        Config; may have more keys than needed.
    metadata : object
        Launch metadata, an object or JSON text.
    tags : object
        A list of str; any other value gives no tags.
    notes : tuple of str
        Phrases on content that could not be read.
    """

    run_id: str
    columns: Mapping[str, Any]
    config: Mapping[str, Any]
    metadata: object
    tags: object
    notes: tuple[str, ...]


def export_records(
    runs: Iterable[ExportedRun],
    summaries: SummaryTable,
    digests: RunDigests,
    logs: LogDigests | None,
    config_keys: Sequence[str],
) -> tuple[RunRecord, ...]:
    """Return the records of all runs of an export, ordered by run_id; warn of contradictory entries.

    Parameters
    ----------
    runs : iterable of ExportedRun
        Each run once, in the order of `summaries`.
    summaries : SummaryTable
        Summaries of the runs.
    digests : RunDigests
        Digests of the entries of runs.
    logs : LogDigests or None
        Digests of the training logs; None if the export has none.
    config_keys : sequence of str
        Config keys to include.

    Returns
    -------
    tuple of RunRecord
    """
    digests.warn()
    logs = LogDigests({}, {}, {}) if logs is None else logs
    records = [
        run_record(
            run_id=run.run_id,
            **{name: run.columns.get(name) for name in (*TEXT_COLUMNS, "created_at")},
            config=run.config,
            summary=summaries.counters[position],
            metadata=run.metadata,
            tags=run.tags,
            config_keys=config_keys,
            evaluated=summaries.evaluated[position],
            version=f"{digests.of_run[run.run_id]}-{logs.of_run.get(run.run_id, '')}",
            rows_without_step=logs.rows_without_step.get(run.run_id, 0),
            notes=[*run.notes, *summaries.problems[position], *log_notes(logs.unreadable.get(run.run_id, 0))],
        )
        for position, run in enumerate(runs)
    ]
    return tuple(sorted(records, key=lambda record: record.run_id))
