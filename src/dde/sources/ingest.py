"""Loading an export into PostgreSQL, in the tables that dr_wandb makes."""

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

# What PostgreSQL says of content that it can't hold: beyond the range of a number, too deep, too long.
_REFUSALS = (
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
# What a column of type integer holds.
_LEAST, _MOST = -(2**31), 2**31 - 1

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
        Per run, how many characters PostgreSQL has no place for, or were no UTF-8, and were replaced by U+FFFD.
    refused_runs : dict of str to str
        Runs that can't be stored as they are, and why. They are not written; what the database has of them stays.
    refused_rows : dict of str to dict of str to int
        Per run, logged rows that are not written: why, and how many. Rows without a run id are those of "".
    changed : dict of str to dict of str to int
        Per run, what is stored in another way than the export has it: what, and how often.
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
                f"; {sum(self.replaced_characters.values())} characters that PostgreSQL can't hold replaced "
                f"in {len(self.replaced_characters)} runs"
            )
        if self.refused_runs:
            text += f"; {len(self.refused_runs)} runs refused"
        if self.refused_rows:
            refused = sum(sum(reasons.values()) for reasons in self.refused_rows.values())
            text += f"; {refused} logged rows of {len(self.refused_rows)} runs refused"
        if self.changed:
            changed = sum(sum(reasons.values()) for reasons in self.changed.values())
            text += f"; {changed} values of {len(self.changed)} runs stored in another way"
        return text

    def remarks(self) -> list[str]:
        """Return a line for each run and each thing of it that is not stored as the export has it."""
        return [
            *(f"{run_id}: refused, for {reason}" for run_id, reason in self.refused_runs.items()),
            *(
                f"{run_id or 'rows without a run id'}: {count} logged rows refused, for {reason}"
                for run_id, reasons in self.refused_rows.items()
                for reason, count in reasons.items()
            ),
            *(
                f"{run_id}: {count} times, {what}"
                for run_id, whats in self.changed.items()
                for what, count in whats.items()
            ),
            *(
                f"{run_id}: {count} characters that PostgreSQL can't hold were replaced"
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
    """Load an export into PostgreSQL, whole and exactly.

    Runs that are there as they are stay untouched, changed ones are replaced with their logs, new ones added,
    all others left alone: a second run changes nothing. Each batch of runs is one transaction, so that a
    reader sees a run whole or not at all. Several ingests at once wait for each other where they write the
    same run, and nowhere else.

    Numbers keep their digits, NaN and Infinity become text as W&B writes them. Times have microseconds and runtimes
    seconds, as the tables of dr_wandb have them. What can't be stored as it is, is refused, and what is stored in
    another way is counted, both by run in the report: objects that are no JSON objects or have a key twice, numbers
    beyond the range of PostgreSQL, steps beyond that of its column or that are no whole numbers, rows of runs that
    the export doesn't have; characters that have no place in it, the sign of a negative zero, times that are none.

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
            chosen = _prepare(session, export, connection, layout)
            report = IngestReport(export.description, connection.redacted, chosen)
            total, done = export.raw_run_count(), 0
            known: set[str] = set()
            stored: set[str] = set()
            for batch in _batches(export.raw_runs()):
                known.update(run.run_id for run in batch)
                _load_what_fits(session, export, _storable(batch, stored, report), report, connection.schema)
                done += len(batch)
                if progress is not None:
                    progress(done, max(total, done))
            _count_lost_rows(export, known, report)
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


def _prepare(session: _Session, export: RawExport, connection: Connection, layout: TableLayout | None) -> TableLayout:
    """Make the tables that are absent and return their layout."""
    flat, target = export.is_flat(), connection.redacted
    with session.transaction():
        session.execute(LOCK_TABLES)
        _search(session, connection.schema)
        rows: list[Any] = session.execute(*catalog_query(connection.schema, None)).fetchall()
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


def _search(session: _Session, schema: str) -> None:
    """Let the transaction that is open find and make tables in a schema; a pooler gives the next another server."""
    if schema:
        session.execute("SELECT set_config('search_path', quote_ident(%s), true)", [schema])


def _batches(runs: Iterator[RawRun]) -> Iterator[list[RawRun]]:
    while batch := list(itertools.islice(runs, _BATCH)):
        yield batch


def _storable(batch: Sequence[RawRun], stored: set[str], report: IngestReport) -> list[RawRun]:
    """Return the runs that can be stored, under ids that none of `stored` has; the others are refused in the report."""
    found = []
    for run in batch:
        run_id = _fit_name(run.run_id)
        if run.problem:
            report.refused_runs[run.run_id] = run.problem
        elif run_id in stored:
            report.refused_runs[run.run_id] = "another run has this id, once characters are replaced in it"
        else:
            stored.add(run_id)
            found.append(run)
    return found


def _count_lost_rows(export: RawExport, known: set[str], report: IngestReport) -> None:
    for run_id, count in export.row_counts().items():
        if run_id not in known:
            report.refused_rows[run_id] = {"the export has no such run": count}


def _load_what_fits(
    session: _Session, export: RawExport, batch: Sequence[RawRun], report: IngestReport, schema: str
) -> None:
    """Write a batch of runs; where PostgreSQL refuses some of it, in parts, until the run is found that it refuses."""
    if not batch:
        return
    part = IngestReport(report.source, report.target, report.layout)
    try:
        with session.transaction():
            _load(session, export, batch, part, schema)
    except _REFUSALS as error:
        if len(batch) == 1:
            column = re.search(r"column (\w+)", error.diag.context or "")
            where = f" ({column[1]})" if column else ""
            report.refused_runs[batch[0].run_id] = f"{error.diag.message_primary}{where}"
            return
    else:
        report._add(part)
        return
    half = len(batch) // 2
    _load_what_fits(session, export, batch[:half], report, schema)
    _load_what_fits(session, export, batch[half:], report, schema)


def _load(session: _Session, export: RawExport, batch: Sequence[RawRun], report: IngestReport, schema: str) -> None:
    """Write what differs of one batch of runs, within the transaction that is open."""
    _search(session, schema)
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
                    if problem := row.problem or _beyond_range(row):
                        _tally(report.refused_rows, row.run_id, problem)
                    else:
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


def _beyond_range(row: RawRow) -> str:
    if row.step is not None and not _LEAST <= row.step <= _MOST:
        return "step is beyond the range of its column, integer"
    if np.isfinite(row.runtime) and not _LEAST <= row.runtime <= _MOST:
        return "runtime is beyond the range of its column, integer"
    return ""


def _run_row(run: RawRun, report: IngestReport) -> tuple[str | None, ...]:
    names = (run.run_id, run.run_name, run.state, run.project, run.entity)
    _count(sum(len(_NO_PLACE.findall(name)) for name in names), run.run_id, report)
    for change in run.changes:
        _tally(report.changed, run.run_id, change)
    return (
        *(_fit_name(name) for name in names),
        _timestamp(run.created_at),
        *(_fit(_unwrapped(text, report.layout), run.run_id, report) for text in run.objects),
    )


def _unwrapped(text: str, layout: TableLayout) -> str:
    """Return the text of an object, out of the JSON string that it may stand in, where columns are put together."""
    return json.loads(text) if layout == "old" and text.lstrip().startswith('"') else text


def _log_row(row: RawRow, report: IngestReport) -> tuple[Any, ...]:
    for change in row.changes:
        _tally(report.changed, row.run_id, change)
    return (
        _fit_name(row.run_id),
        row.step,
        _timestamp(row.timestamp),
        round(row.runtime) if np.isfinite(row.runtime) else None,
        _fit(row.wandb_metadata, row.run_id, report),
        _fit(row.metrics, row.run_id, report),
    )


# Characters that PostgreSQL has no place for.
_NO_PLACE = re.compile("[\x00\ud800-\udfff]")


def _fit_name(text: str) -> str:
    return _NO_PLACE.sub("\ufffd", text)


def _fit(text: str, run_id: str, report: IngestReport) -> str:
    fitting, replaced = as_jsonb_text(text)
    _count(replaced, run_id, report)
    if zeros := count_negative_zeros(fitting):
        _tally(report.changed, run_id, "a negative zero loses its sign", zeros)
    return fitting


def _count(replaced: int, run_id: str, report: IngestReport) -> None:
    if replaced:
        report.replaced_characters[run_id] = report.replaced_characters.get(run_id, 0) + replaced


def _tally(counts: dict[str, dict[str, int]], run_id: str, reason: str, count: int = 1) -> None:
    of_run = counts.setdefault(run_id, {})
    of_run[reason] = of_run.get(reason, 0) + count


def _timestamp(time: np.datetime64) -> str | None:
    return None if np.isnat(time) else str(time)
