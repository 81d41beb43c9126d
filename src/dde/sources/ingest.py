"""Loading an export into PostgreSQL, in the tables that dr_wandb makes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from dde.errors import SourceError
from dde.sources.connection import Connection
from dde.sources.export_files import find_export
from dde.sources.ingest_sql import (
    CREATE_INCOMING,
    LOCK_RUNS,
    LOCK_TABLES,
    TABLES,
    TableLayout,
    changed_logs,
    changed_runs,
    insert_logs,
    insert_runs,
)
from dde.sources.json_text import as_jsonb_text
from dde.sources.postgres import connect, explain
from dde.sources.postgres_sql import CATALOG, Layout
from dde.sources.raw_runs import RawExport, RawRow, RawRun
from dde.sources.wandb_export import ExportStore
from dde.sources.wandb_jsonl import JsonlStore

__all__ = ["IngestReport", "ingest"]

_Session = psycopg.Connection[tuple[Any, ...]]

# Runs of one transaction. At 200 KB a run some 40 MB, and few enough passes over the unindexed log.
_BATCH = 200


@dataclass(slots=True)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    source, target : str
        Export and database, without credentials.
    layout : {"0.1", "old"}
        Layout of the tables.
    added, replaced, unchanged : list of str
        Run ids: new in the database; there with other content; there already as they are.
    rows_written : int
        Logged rows of added and replaced runs.
    replaced_characters : dict of str to int
        Per run, how many characters PostgreSQL has no place for and were replaced by U+FFFD.
    """

    source: str
    target: str
    layout: TableLayout
    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rows_written: int = 0
    replaced_characters: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        text = (
            f"{self.source} to {self.target}: {len(self.added)} runs added, {len(self.replaced)} replaced, "
            f"{len(self.unchanged)} unchanged; {self.rows_written} logged rows written"
        )
        if self.replaced_characters:
            text += (
                f"; {sum(self.replaced_characters.values())} characters that PostgreSQL can't hold replaced "
                f"in {len(self.replaced_characters)} runs"
            )
        return text


def ingest(
    source: str | os.PathLike[str] | RawExport,
    db_connection: str | Connection,
    *,
    layout: TableLayout | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Load an export into PostgreSQL, whole and exactly.

    Runs that are there as they are stay untouched, changed ones are replaced with their logs, new ones added,
    all others left alone: a second run changes nothing. Each batch of runs is one transaction, so that a
    reader sees a run whole or not at all. Several ingests at once wait for each other where they write the
    same run, and nowhere else.

    Numbers keep their digits, NaN and Infinity become text as W&B writes them. jsonb has no negative zero.

    Parameters
    ----------
    source : str, path or RawExport
        Folder of a parquet or JSON-lines export, or an object with the methods of `RawExport`.
    db_connection : str or Connection
        DSN of the database. Its tables are made where they are absent.
    layout : {"0.1", "old"}, optional
        Layout of the tables; by default that of the tables there are, else that of the export. ``"old"``
        is the one before dr_wandb 0.1, with config, summary and launch command in one object.
    progress : callable, optional
        Called after each batch with the number of runs done and of all runs.

    Returns
    -------
    IngestReport
        What was added, replaced and left.

    Raises
    ------
    SourceError
        Where the export or the database can't be used, or the tables there have another layout.
    """
    export = _export(source)
    connection = db_connection if isinstance(db_connection, Connection) else Connection(db_connection)
    if connection.kind != "postgres":
        raise SourceError(
            f"{connection.redacted!r} is no database. So there is nothing to load {export.description!r} into. "
            "Give a postgresql:// URL as the target."
        )
    try:
        with connect(connection) as session:
            chosen = _prepare(session, export, connection.redacted, layout)
            report = IngestReport(export.description, connection.redacted, chosen)
            total, done = export.raw_run_count(), 0
            for batch in _batches(export.raw_runs()):
                with session.transaction():
                    _load(session, export, batch, report)
                done += len(batch)
                if progress is not None:
                    progress(done, max(total, done))
            return report
    except psycopg.Error as error:
        problem = explain(error, connection)
    # Raised outside of the handler: the driver's error may quote the DSN and must not ride along.
    raise problem


def _export(source: str | os.PathLike[str] | RawExport) -> RawExport:
    if not isinstance(source, (str, os.PathLike)):
        return source
    connection = Connection(source)
    if connection.kind != "files":
        raise SourceError(
            f"{connection.redacted!r} is a database, not an export. So there is nothing to load from. "
            "Give the folder of an export as the source."
        )
    return ExportStore(connection) if find_export(connection).form == "parquet" else JsonlStore(connection)


def _prepare(session: _Session, export: RawExport, target: str, layout: TableLayout | None) -> TableLayout:
    """Make the tables that are absent and return their layout."""
    flat = export.is_flat()
    with session.transaction():
        session.execute(LOCK_TABLES)
        rows: list[Any] = session.execute(CATALOG, {"timeout": None}).fetchall()
        present = {row[0] for row in rows}
        if "wandb_runs" in present:
            found: TableLayout = "old" if Layout.from_catalog(rows, session.info.server_version, target).flat else "0.1"
            if layout not in (None, found):
                raise SourceError(
                    f"The tables in {target} have the layout {found!r}, not {layout!r}. "
                    "So runs can't be added in that form. Leave layout out, or name another database."
                )
            chosen = found
        else:
            chosen = layout or ("old" if flat else "0.1")
        if flat and chosen == "0.1":
            raise SourceError(
                f"{export.description!r} holds config and summary in one object, where keys of one hide those "
                "of the other. So they can't be told apart as the layout '0.1' needs. "
                "Use layout='old', or export the project again with a newer dr_wandb."
            )
        for table, statements in TABLES.items():
            if table not in present:
                session.execute(statements[chosen])
    return chosen


def _batches(runs: Iterator[RawRun]) -> Iterator[list[RawRun]]:
    while batch := list(itertools.islice(runs, _BATCH)):
        yield batch


def _load(session: _Session, export: RawExport, batch: Sequence[RawRun], report: IngestReport) -> None:
    """Write what differs of one batch of runs, within the transaction that is open."""
    session.execute("SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, MDY', true)")
    session.execute(CREATE_INCOMING)
    run_ids = [run.run_id for run in batch]
    with session.cursor() as cursor:
        with cursor.copy("COPY dde_incoming_runs FROM STDIN") as copy:
            for run in batch:
                copy.write_row(_run_row(run, report))
        has_history = export.has_history()
        if has_history:
            with cursor.copy("COPY dde_incoming_history FROM STDIN") as copy:
                for position, row in enumerate(export.raw_rows(run_ids)):
                    copy.write_row((position, *_log_row(row, report)))
        # The server knows nothing of a table just filled, and would compare row by row.
        cursor.execute("ANALYZE dde_incoming_runs, dde_incoming_history")
        # Not before everything has arrived: until here nobody waits for anybody. What another one wrote of these runs
        # in the meantime is seen by the statements that follow.
        cursor.execute(LOCK_RUNS)
        there: dict[str, bool] = dict(cursor.execute(changed_runs(report.layout)).fetchall())
        # An export without logs says nothing of them.
        logs: dict[str, bool] = dict(cursor.execute(changed_logs(report.layout)).fetchall()) if has_history else {}
        if there:
            cursor.execute("DELETE FROM wandb_runs WHERE run_id = ANY(%s::text[])", (list(there),))
            cursor.execute(insert_runs(report.layout), {"run_ids": list(there)})
        # Without an index this looks at every row that is logged.
        if old := [run_id for run_id, was_there in logs.items() if was_there]:
            cursor.execute("DELETE FROM wandb_history WHERE run_id = ANY(%s::text[])", (old,))
        if logs:
            cursor.execute(insert_logs(report.layout), {"run_ids": list(logs)})
            report.rows_written += cursor.rowcount
    changed = set(there) | set(logs)
    for run_id in map(_fit_name, run_ids):
        is_new = there.get(run_id) is False
        (report.added if is_new else report.replaced if run_id in changed else report.unchanged).append(run_id)


def _run_row(run: RawRun, report: IngestReport) -> tuple[str | None, ...]:
    names = (run.run_id, run.run_name, run.state, run.project, run.entity)
    _count(sum(name.count("\0") for name in names), run.run_id, report)
    return (
        *(_fit_name(name) for name in names),
        _timestamp(run.created_at),
        *(_fit(text, run.run_id, report) for text in run.objects),
    )


def _log_row(row: RawRow, report: IngestReport) -> tuple[Any, ...]:
    return (
        _fit_name(row.run_id),
        row.step,
        _timestamp(row.timestamp),
        round(row.runtime) if np.isfinite(row.runtime) else None,
        _fit(row.wandb_metadata, row.run_id, report),
        _fit(row.metrics, row.run_id, report),
    )


def _fit_name(text: str) -> str:
    return text.replace("\0", "\ufffd")


def _fit(text: str, run_id: str, report: IngestReport) -> str:
    fitting, replaced = as_jsonb_text(text)
    _count(replaced, run_id, report)
    return fitting


def _count(replaced: int, run_id: str, report: IngestReport) -> None:
    if replaced:
        report.replaced_characters[run_id] = report.replaced_characters.get(run_id, 0) + replaced


def _timestamp(time: np.datetime64) -> str | None:
    return None if np.isnat(time) else str(time)
