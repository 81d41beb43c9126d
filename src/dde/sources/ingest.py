"""Load an export into PostgreSQL, into the tables of dr_wandb."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from psycopg import errors

from dde.errors import SourceError
from dde.sources.connection import Connection
from dde.sources.json_text import as_jsonb_text, count_negative_zeros
from dde.sources.postgres.ingest_queries import (
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
from dde.sources.postgres.queries import Layout, catalog_query
from dde.sources.postgres.session import connect, explain
from dde.sources.wandb.export_files import find_export
from dde.sources.wandb.jsonl_export import JsonlStore
from dde.sources.wandb.parquet_export import ExportStore
from dde.sources.wandb.raw_runs import RawExport, RawRow, RawRun

__all__ = ["IngestReport", "ingest"]

# Errors of PostgreSQL for content that it can't store: numbers out of range, nesting too deep, texts too long.
_REJECTIONS = (
    errors.CharacterNotInRepertoire,
    errors.DatetimeFieldOverflow,
    errors.InvalidDatetimeFormat,
    errors.InvalidParameterValue,
    errors.InvalidTextRepresentation,
    errors.NumericValueOutOfRange,
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.StringDataRightTruncation,
    errors.UntranslatableCharacter,
)
# Range of a column of type integer.
_INTEGER_MIN, _INTEGER_MAX = -(2**31), 2**31 - 1

_Session = psycopg.Connection[tuple[Any, ...]]

# Runs per transaction: about 40 MB at 200 KB a run, and few enough passes over the unindexed log.
_BATCH = 200


@dataclass(slots=True)
class IngestReport:
    """Result of an ingest.

    Attributes
    ----------
    source, target : str
        Export and database, without credentials.
    layout : {"0.1", "old"}
        Layout of the tables.
    added, replaced, unchanged : list of str
        Ids of runs that were new in the database, that were stored with other content, and that were stored already.
    rows_written : int
        Number of logged rows written for added and replaced runs.
    replaced_characters : dict of str to int
        Per run, the number of characters that PostgreSQL can't store or that were not UTF-8, replaced by U+FFFD.
    refused_runs : dict of str to str
        Runs that can't be stored exactly, with the reason. They are not written; an older version in the database
        stays.
    refused_rows : dict of str to dict of str to int
        Per run, the number of logged rows that are not written, by reason. Rows without a run id are under "".
    changed : dict of str to dict of str to int
        Per run, the number of values that are stored differently than in the export, by kind of change.
    """

    source: str
    target: str
    layout: TableLayout
    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rows_written: int = 0
    replaced_characters: dict[str, int] = field(default_factory=dict)
    refused_runs: dict[str, str] = field(default_factory=dict)
    refused_rows: dict[str, dict[str, int]] = field(default_factory=dict)
    changed: dict[str, dict[str, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        text = (
            f"{self.source} to {self.target}: {len(self.added)} runs added, {len(self.replaced)} replaced, "
            f"{len(self.unchanged)} unchanged; {self.rows_written} logged rows written"
        )
        if self.replaced_characters:
            text += (
                f"; {sum(self.replaced_characters.values())} characters that PostgreSQL can't store replaced "
                f"in {len(self.replaced_characters)} runs"
            )
        if self.refused_runs:
            text += f"; {len(self.refused_runs)} runs refused"
        if self.refused_rows:
            refused = sum(sum(reasons.values()) for reasons in self.refused_rows.values())
            text += f"; {refused} logged rows of {len(self.refused_rows)} runs refused"
        if self.changed:
            changed = sum(sum(reasons.values()) for reasons in self.changed.values())
            text += f"; {changed} values of {len(self.changed)} runs stored differently"
        return text

    def remarks(self) -> list[str]:
        """Return one line per run and kind of content that is not stored exactly as in the export."""
        return [
            *(f"{run_id}: refused, for {reason}" for run_id, reason in self.refused_runs.items()),
            *(
                f"{run_id or 'rows without a run id'}: {count} logged rows refused, for {reason}"
                for run_id, reasons in self.refused_rows.items()
                for reason, count in reasons.items()
            ),
            *(
                f"{run_id}: {count} times, {change}"
                for run_id, changes in self.changed.items()
                for change, count in changes.items()
            ),
            *(
                f"{run_id}: {count} characters that PostgreSQL can't store were replaced"
                for run_id, count in self.replaced_characters.items()
            ),
        ]

    def _add(self, other: IngestReport) -> None:
        for name in ("added", "replaced", "unchanged"):
            getattr(self, name).extend(getattr(other, name))
        self.rows_written += other.rows_written
        for name in ("replaced_characters", "refused_runs", "refused_rows", "changed"):
            getattr(self, name).update(getattr(other, name))


def ingest(
    source: str | os.PathLike[str] | RawExport,
    db_connection: str | Connection,
    *,
    layout: TableLayout | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Load an export into PostgreSQL, completely and exactly.

    New runs are added, changed ones are replaced together with their logs, and all other runs in the database stay
    as they are. Running it a second time changes nothing. Each batch of runs is one transaction, so a reader never
    sees part of a run. Concurrent ingests wait for each other only where they write the same run.

    Numbers keep their digits; NaN and Infinity become text, as W&B writes them. Times are stored in microseconds and
    runtimes in seconds, as in the tables of dr_wandb. The report lists by run what was not stored exactly:

    - refused: values that are not JSON objects or that have a key twice, numbers beyond the range of PostgreSQL,
      steps that are not integers or beyond the range of their column, and rows of runs that are not in the export;
    - changed: characters that PostgreSQL can't store, the sign of a negative zero, and invalid times.

    Parameters
    ----------
    source : str, path or RawExport
        Folder of a parquet or JSON-lines export, or an object with the methods of `RawExport`.
    db_connection : str or Connection
        DSN of the database. Missing tables are created.
    layout : {"0.1", "old"}, optional
        Layout of the tables; by default that of existing tables, else that of the export. ``"old"`` is the layout
        before dr_wandb 0.1, with config, summary and launch command in one object.
    progress : callable, optional
        Called after each batch with the number of processed runs and of all runs.

    Returns
    -------
    IngestReport
        Runs that were added, replaced, unchanged and refused.

    Raises
    ------
    SourceError
        If the export or the database can't be used, or existing tables have another layout.
    """
    export = _export(source)
    connection = db_connection if isinstance(db_connection, Connection) else Connection(db_connection)
    if connection.kind != "postgres":
        raise SourceError(
            f"{connection.redacted!r} is not a database, so {export.description!r} can't be loaded into it. "
            "Give a postgresql:// URL as the target."
        )
    try:
        with connect(connection) as session:
            chosen = _prepare(session, export, connection, layout)
            report = IngestReport(export.description, connection.redacted, chosen)
            total, done = export.raw_run_count(), 0
            known: set[str] = set()
            stored: set[str] = set()
            for batch in _batches(export.raw_runs()):
                known.update(run.run_id for run in batch)
                _load_or_bisect(session, export, _storable(batch, stored, report), report, connection.schema)
                done += len(batch)
                if progress is not None:
                    progress(done, max(total, done))
            _count_orphan_rows(export, known, report)
            return report
    except psycopg.Error as error:
        problem = explain(error, connection)
    # Raised outside the handler: the driver's error may quote the DSN and must not be chained.
    raise problem


def _export(source: str | os.PathLike[str] | RawExport) -> RawExport:
    if not isinstance(source, (str, os.PathLike)):
        return source
    connection = Connection(source)
    if connection.kind != "files":
        raise SourceError(
            f"{connection.redacted!r} is a database, not an export, so there are no files to load. "
            "Give the folder of an export as the source."
        )
    return ExportStore(connection) if find_export(connection).form == "parquet" else JsonlStore(connection)


def _prepare(session: _Session, export: RawExport, connection: Connection, layout: TableLayout | None) -> TableLayout:
    """Create missing tables and return the layout."""
    flat, target = export.is_flat(), connection.redacted
    with session.transaction():
        session.execute(LOCK_TABLES)
        _set_search_path(session, connection.schema)
        rows: list[Any] = session.execute(*catalog_query(connection.schema, None)).fetchall()
        present = {row[0] for row in rows}
        if "wandb_runs" in present:
            existing = Layout.from_catalog(rows, session.info.server_version, target)
            chosen: TableLayout = "old" if existing.flat else "0.1"
            if layout not in (None, chosen):
                raise SourceError(
                    f"The tables in {target} have the layout {chosen!r}, not {layout!r}, "
                    "so runs can't be added in that layout. Leave out layout, or name another database."
                )
        else:
            chosen = layout or ("old" if flat else "0.1")
        if flat and chosen == "0.1":
            raise SourceError(
                f"{export.description!r} has config and summary in one object, where keys of one replace those "
                "of the other, so they can't be separated as the layout '0.1' requires. "
                "Use layout='old', or export the project again with a newer dr_wandb."
            )
        for table, statements in TABLES.items():
            if table not in present:
                session.execute(statements[chosen])
    return chosen


def _set_search_path(session: _Session, schema: str) -> None:
    """Set the schema for the current transaction only: a pooler may use another server for the next one."""
    if schema:
        session.execute("SELECT set_config('search_path', quote_ident(%s), true)", [schema])


def _batches(runs: Iterator[RawRun]) -> Iterator[list[RawRun]]:
    while batch := list(itertools.islice(runs, _BATCH)):
        yield batch


def _storable(batch: Sequence[RawRun], stored: set[str], report: IngestReport) -> list[RawRun]:
    """Return the runs that can be stored under an id not yet in `stored`; report the others as refused."""
    runs = []
    for run in batch:
        run_id = _fit_name(run.run_id)
        if run.problem:
            report.refused_runs[run.run_id] = run.problem
        elif run_id in stored:
            report.refused_runs[run.run_id] = "another run has this id, once characters are replaced in it"
        else:
            stored.add(run_id)
            runs.append(run)
    return runs


def _count_orphan_rows(export: RawExport, known: set[str], report: IngestReport) -> None:
    for run_id, count in export.row_counts().items():
        if run_id not in known:
            report.refused_rows[run_id] = {"the export has no such run": count}


def _load_or_bisect(
    session: _Session, export: RawExport, batch: Sequence[RawRun], report: IngestReport, schema: str
) -> None:
    """Write a batch of runs; if PostgreSQL rejects it, bisect it until the rejected run is isolated."""
    if not batch:
        return
    part = IngestReport(report.source, report.target, report.layout)
    try:
        with session.transaction():
            _load(session, export, batch, part, schema)
    except _REJECTIONS as error:
        if len(batch) == 1:
            column = re.search(r"column (\w+)", error.diag.context or "")
            where = f" ({column[1]})" if column else ""
            report.refused_runs[batch[0].run_id] = f"{error.diag.message_primary}{where}"
            return
    else:
        report._add(part)
        return
    half = len(batch) // 2
    _load_or_bisect(session, export, batch[:half], report, schema)
    _load_or_bisect(session, export, batch[half:], report, schema)


def _load(session: _Session, export: RawExport, batch: Sequence[RawRun], report: IngestReport, schema: str) -> None:
    """Write the runs of a batch that differ from the database, within the current transaction."""
    _set_search_path(session, schema)
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
                    if problem := row.problem or _range_problem(row):
                        _add_count(report.refused_rows, row.run_id, problem)
                    else:
                        copy.write_row((position, *_log_row(row, report)))
        # A table just filled has no statistics; without them the server would compare row by row.
        cursor.execute("ANALYZE dde_incoming_runs, dde_incoming_history")
        # Lock only after all data has arrived, so that uploads don't wait for each other. The statements below see
        # what other ingests wrote of these runs in the meantime.
        cursor.execute(LOCK_RUNS)
        # Each maps a run id to whether the database had the run, or its logs, before.
        runs: dict[str, bool] = dict(cursor.execute(changed_runs(report.layout)).fetchall())
        # An export without logs leaves the logs in the database as they are.
        logs: dict[str, bool] = dict(cursor.execute(changed_logs(report.layout)).fetchall()) if has_history else {}
        if runs:
            cursor.execute("DELETE FROM wandb_runs WHERE run_id = ANY(%s::text[])", (list(runs),))
            cursor.execute(insert_runs(report.layout), {"run_ids": list(runs)})
        # Without an index, this scans all logged rows.
        if old := [run_id for run_id, existed in logs.items() if existed]:
            cursor.execute("DELETE FROM wandb_history WHERE run_id = ANY(%s::text[])", (old,))
        if logs:
            cursor.execute(insert_logs(report.layout), {"run_ids": list(logs)})
            report.rows_written += cursor.rowcount
    changed = set(runs) | set(logs)
    for run_id in map(_fit_name, run_ids):
        is_new = runs.get(run_id) is False
        (report.added if is_new else report.replaced if run_id in changed else report.unchanged).append(run_id)


def _range_problem(row: RawRow) -> str:
    if row.step is not None and not _INTEGER_MIN <= row.step <= _INTEGER_MAX:
        return "step is beyond the range of its column, integer"
    if np.isfinite(row.runtime) and not _INTEGER_MIN <= row.runtime <= _INTEGER_MAX:
        return "runtime is beyond the range of its column, integer"
    return ""


def _run_row(run: RawRun, report: IngestReport) -> tuple[str | None, ...]:
    names = (run.run_id, run.run_name, run.state, run.project, run.entity)
    _count_replaced(sum(len(_NOT_STORABLE.findall(name)) for name in names), run.run_id, report)
    for change in run.changes:
        _add_count(report.changed, run.run_id, change)
    return (
        *(_fit_name(name) for name in names),
        _timestamp(run.created_at),
        *(_fit(_unwrapped(text, report.layout), run.run_id, report) for text in run.objects),
    )


def _unwrapped(text: str, layout: TableLayout) -> str:
    """Return the text of an object, decoded once if it is a JSON string, for the layout that merges the columns."""
    return json.loads(text) if layout == "old" and text.lstrip().startswith('"') else text


def _log_row(row: RawRow, report: IngestReport) -> tuple[Any, ...]:
    for change in row.changes:
        _add_count(report.changed, row.run_id, change)
    return (
        _fit_name(row.run_id),
        row.step,
        _timestamp(row.timestamp),
        round(row.runtime) if np.isfinite(row.runtime) else None,
        _fit(row.wandb_metadata, row.run_id, report),
        _fit(row.metrics, row.run_id, report),
    )


# Characters that PostgreSQL can't store.
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def _fit_name(text: str) -> str:
    return _NOT_STORABLE.sub("\ufffd", text)


def _fit(text: str, run_id: str, report: IngestReport) -> str:
    fitting, replaced = as_jsonb_text(text)
    _count_replaced(replaced, run_id, report)
    if zeros := count_negative_zeros(fitting):
        _add_count(report.changed, run_id, "a negative zero loses its sign", zeros)
    return fitting


def _count_replaced(replaced: int, run_id: str, report: IngestReport) -> None:
    if replaced:
        report.replaced_characters[run_id] = report.replaced_characters.get(run_id, 0) + replaced


def _add_count(counts: dict[str, dict[str, int]], run_id: str, reason: str, count: int = 1) -> None:
    of_run = counts.setdefault(run_id, {})
    of_run[reason] = of_run.get(reason, 0) + count


def _timestamp(time: np.datetime64) -> str | None:
    return None if np.isnat(time) else str(time)
