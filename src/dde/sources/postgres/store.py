"""Read runs that dr_wandb mirrored from W&B into PostgreSQL, decoding rows while they arrive.

Each query opens its own connection and a read-only transaction. Therefore a store works in threads, forked processes
and workers on other machines, and leaves no session on the server or in a pool.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from operator import itemgetter
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from psycopg import IsolationLevel

from dde.errors import ConflictWarning, SourceError, warn
from dde.sources.connection import Connection
from dde.sources.json_text import load_json, top_level_value
from dde.sources.postgres.queries import (
    PACKED,
    SCHEMAS,
    Layout,
    RunRow,
    catalog_query,
    complete_run_query,
    evaluations_query,
    history_query,
    metric_names_query,
    runs_query,
)
from dde.sources.postgres.session import CONNECT_SECONDS, connect, explain, is_conflict, leave_after
from dde.sources.protocols import SUMMARY_KEYS, History, RunRecord
from dde.sources.values import as_float, as_object, evaluation_names, evaluation_value, read_object, summary_task
from dde.sources.wandb.logs import as_float_array, empty_history, first_positions, log_order
from dde.sources.wandb.records import (
    EVALUATION_PREFIX,
    has_evaluations,
    run_record,
    wanted_config_keys,
    without_logged_rate,
)

__all__ = [
    "PostgresStore",
    "read_history",
]

# Bytes that are decoded at a time: large enough for full decoding speed, small compared with the result.
_PORTION = 1 << 20

# Initial capacity in rows.
_FIRST_ROWS = 1 << 12


def read_history(blocks: Iterable[bytes | bytearray | memoryview], keys: Sequence[str]) -> tuple[History, bool]:
    """Return the history from the result of `history_query`, decoding rows while they arrive.

    Also return whether rows of one run and step have the same id, so that their order is that in which they arrived.

    Parameters
    ----------
    blocks : iterable of bytes, bytearray or memoryview
        The result as CSV; each block ends at the end of a row.
    keys : sequence of str
        Requested keys, without duplicates.
    """
    columns = _Columns(len(keys))
    waiting: deque[Future[list[npt.NDArray[Any]]]] = deque()
    # One thread decodes while this one receives. The queue is short, to limit the memory of undecoded blocks.
    with ThreadPoolExecutor(1, "dde-log") as decoder:
        content = bytearray()
        for block in blocks:
            content += block
            if len(content) >= _PORTION:
                waiting.append(decoder.submit(_decoded, content, keys))
                content = bytearray()
                if len(waiting) > 2:
                    columns.append(waiting.popleft().result())
        if content:
            waiting.append(decoder.submit(_decoded, content, keys))
        while waiting:
            columns.append(waiting.popleft().result())
    columns.finish()
    # The server returns rows in any order; ids give the order in which they were logged.
    row_id = columns.pop(2)
    order = log_order(columns.arrays[0], columns.arrays[1], row_id)
    if order is not None:
        row_id = row_id[order]
    run, step = columns.pop(0, order), columns.pop(0, order)
    tied = np.ones(max(len(run) - 1, 0), bool)
    for column in (run, step, row_id):
        tied &= column[1:] == column[:-1]
    del row_id
    values = {key: columns.pop(0, order) for key in keys}
    return History(run=run, step=step, values=values), bool(tied.any())


class _Columns:
    """Growing columns: run, step, id, and one column of numbers per key.

    Arrays are resized in place, which does not copy large ones. Only the column being sorted is in memory twice.
    """

    def __init__(self, keys: int) -> None:
        types = [np.int32, np.int64, np.int64, *[np.float64] * keys]
        self.arrays: list[npt.NDArray[Any]] = [np.empty(_FIRST_ROWS, kind) for kind in types]
        self._rows = 0

    def append(self, rows: list[npt.NDArray[Any]]) -> None:
        end = self._rows + len(rows[0])
        if end > len(self.arrays[0]):
            self._resize(max(end, len(self.arrays[0]) * 5 // 4))
        for array, part in zip(self.arrays, rows, strict=True):
            array[self._rows : end] = part
        self._rows = end

    def finish(self) -> None:
        self._resize(self._rows)

    def pop(self, position: int, order: npt.NDArray[np.intp] | None = None) -> npt.NDArray[Any]:
        array = self.arrays.pop(position)
        return array if order is None else array[order]

    def _resize(self, rows: int) -> None:
        for array in self.arrays:
            array.resize(rows, refcheck=False)


def _decoded(content: bytearray, keys: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Return the columns of some rows: run, step, id, and one column of numbers per key."""
    names = ["run", "step", "id", *(f"key{position}" for position in range(len(keys)))]
    packed = ["packed"] if keys else []
    positions: dict[str, pa.DataType] = {"run": pa.int32(), "step": pa.int64(), "id": pa.int64()}

    def read(value_type: pa.DataType) -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(content),
            # One block for all rows, since a row may be of any length.
            read_options=pyarrow.csv.ReadOptions(
                column_names=names + packed, use_threads=False, block_size=len(content) + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=positions | dict.fromkeys(names[3:], value_type) | dict.fromkeys(packed, pa.string()),
                strings_can_be_null=True,
            ),
        )

    try:
        table = read(pa.float64())
    except pa.ArrowInvalid:
        table = read(pa.string())  # some text is not a number
    if table["id"].null_count:
        table = table.set_column(2, "id", pc.fill_null(table["id"], np.iinfo(np.int64).max))
    rows = [
        *(table[name].to_numpy() for name in names[:3]),
        *(as_float_array(table[name]) for name in names[3:]),
    ]
    if packed and table["packed"].null_count < len(table):
        # Rows as JSON text are decoded here: the server does not parse them, and would reject NaN as Python writes it.
        texts = table["packed"]
        rows[3:] = [values if values.flags.writeable else values.copy() for values in rows[3:]]
        for row in np.flatnonzero(texts.is_valid().to_numpy()):
            metrics = as_object(load_json(texts[row].as_py()))
            for values, key in zip(rows[3:], keys, strict=True):
                if key in metrics:
                    values[row] = as_float(metrics[key])
    return rows


_Result = TypeVar("_Result")
_Cursor = psycopg.Cursor[tuple[Any, ...]]

# Number of times that a query is tried if a standby cancels it, each time on a new snapshot.
_ATTEMPTS = 4
# Seconds after which a session is closed: while it reads the catalog, and beyond the server's limit for a query.
_CATALOG_SECONDS = 60.0
_GRACE_SECONDS = 10.0


class PostgresStore:
    """A W&B store in PostgreSQL.

    Parameters
    ----------
    connection : str or Connection
        DSN; a password in it is never shown and never pickled.
    schema : str, optional
        Schema of the tables, if the connection names none; by default those on the server's search path.
    statement_timeout : float or None
        Seconds after which the server cancels a query, unless the connection, the role or the server has a shorter
        limit; None for their limit only. If the server does not cancel it, the session is closed ten seconds later. A
        server that does not respond at all is left after a minute at most.
    connect_timeout : int
        Seconds for connecting, over all hosts and addresses of the connection, unless the connection sets a timeout.

    Raises
    ------
    SourceError
        From any method, if the server is unreachable, refuses, takes too long or does not have the tables.
    """

    def __init__(
        self,
        connection: str | Connection,
        *,
        schema: str | None = None,
        statement_timeout: float | None = 300.0,
        connect_timeout: int = CONNECT_SECONDS,
    ) -> None:
        self._connection = connection if isinstance(connection, Connection) else Connection(connection, schema)
        self._statement_timeout = statement_timeout
        self._connect_timeout = connect_timeout
        self._conflicts: list[str] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.redacted!r})"

    @property
    def description(self) -> str:
        """The connection without its credentials."""
        return self._connection.redacted

    @property
    def conflicts(self) -> list[str]:
        """Descriptions of contradictory rows of the runs that were read last."""
        return list(self._conflicts)

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id; see `PosttrainingSource`.

        The version of a run combines the server, the transactions that wrote its row and its logged rows, and the
        number and size of the logged rows.
        """
        config_keys = wanted_config_keys(extra_config_keys)

        def query(cursor: _Cursor, layout: Layout) -> list[tuple[str, RunRecord | None]]:
            with _rows(
                cursor,
                runs_query(layout),
                {"config_keys": list(config_keys), "summary_keys": list(SUMMARY_KEYS)},
            ) as rows:
                found = [RunRow(*row) for row in rows]
                return [(row.rank or "", _record(row, config_keys, layout)) for row in found]

        records, self._conflicts = _each_once(self._run(query), self.description)
        for conflict in self._conflicts:
            warn(conflict, ConflictWarning, stacklevel=2)
        # Sorted here, because collations differ between servers.
        return sorted(records, key=lambda record: record.run_id)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs with the given keys; see `PosttrainingSource`.

        Rows whose step is missing, below 0, not an integer or at least 2**53 are left out; the records of runs count
        them. Rows of one step are in the order of ``id``, or of ``timestamp`` where there is no id, and then of their
        text.
        """
        positions = first_positions(run_ids)
        keys = list(dict.fromkeys(keys))

        def query(cursor: _Cursor, layout: Layout) -> History:
            if not layout.history:
                return empty_history(keys)
            requested = {"run_ids": list(positions), "indices": list(positions.values())}
            # Logs without ids are rare, so only those with ties are sorted by their content.
            for by_content in (False, True):
                sql, parameters = history_query(layout, keys, by_content)
                with cursor.copy(f"COPY ({sql}) TO STDOUT (FORMAT csv)", {**parameters, **requested}) as copy:
                    history, is_tied = read_history(copy, keys)
                if not is_tied:
                    break
            return history

        return self._run(query) if positions else empty_history(keys)

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: a (run,) array per (task, entry).

        See `PosttrainingSource`.
        """
        empty = {name: np.full(len(run_ids), np.nan) for name in names}
        positions = first_positions(run_ids)
        if not empty or not positions:
            return empty
        keys: set[str] = set()
        entries = {"extra_metrics"}
        for task, entry in empty:
            key = EVALUATION_PREFIX + summary_task(task)
            keys |= {key, f"{key}/{entry}"}
            entries.add("primary_score" if entry == "primary_metric" else entry)

        def query(cursor: _Cursor, layout: Layout) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
            parameters = {
                "run_ids": list(positions),
                "indices": list(positions.values()),
                "keys": sorted(keys),
                "entries": sorted(entries),
            }
            values = {name: column.copy() for name, column in empty.items()}
            first: dict[int, str] = {}
            with _rows(cursor, evaluations_query(layout), parameters) as rows:
                for position, text, rank in rows:
                    # The first of several rows of a run is used, as in `runs`.
                    if position in first and first[position] <= rank:
                        continue
                    first[position] = rank
                    picked = as_object(load_json(text))
                    # Parse JSON text once, not once per entry.
                    summary = {
                        key: as_object(value) if isinstance(value, str) and key.count("/") == 1 else value
                        for key, value in picked.items()
                        if key in keys
                    }
                    for (task, entry), column in values.items():
                        column[position] = evaluation_value(summary, task, entry)
            return values

        return self._run(query)

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations, both sorted."""

        def query(cursor: _Cursor, layout: Layout) -> list[tuple[Any, ...]]:
            cursor.execute(metric_names_query(layout))
            return cursor.fetchall()

        logs: set[str] = set()
        evaluations: set[tuple[str, str]] = set()
        for kind, key, entry in self._run(query):
            if kind == "log":
                keys = as_object(load_json(key[1:])) if key.startswith(PACKED) else (key,)
                # W&B's own keys start with "_": _runtime, _timestamp, ...
                logs.update(name for name in keys if not name.startswith("_"))
            elif kind == "entry" and entry.startswith(PACKED):
                evaluations |= evaluation_names(as_object(load_json(entry[1:])))
            elif kind == "entry":
                evaluations |= evaluation_names({key: {entry: 0}})
            else:
                evaluations |= evaluation_names({key: entry})
        return sorted(logs), sorted(evaluations)

    def complete_run(self, run_id: str) -> Mapping[str, object] | None:
        """Return the complete row of a run by column; None where there is no such run. See `WandBStore`."""

        def query(cursor: _Cursor, layout: Layout) -> str | None:
            cursor.execute(complete_run_query(layout), {"run_id": run_id})
            row = cursor.fetchone()
            return None if row is None else str(row[0])

        text = self._run(query)
        return None if text is None else as_object(load_json(text))

    def _run(self, query: Callable[[_Cursor, Layout], _Result]) -> _Result:
        """Return the result of a query in a read-only transaction; conflicts with a standby are retried."""
        for attempt in range(1, _ATTEMPTS + 1):
            session = connect(self._connection, self._connect_timeout)
            with leave_after(session, self._allowed(_CATALOG_SECONDS)) as deadline:
                try:
                    session.read_only = True
                    # System catalog and query see the same snapshot. A standby supports no stricter level.
                    session.isolation_level = IsolationLevel.REPEATABLE_READ
                    with session.cursor() as cursor:
                        layout = self._layout(cursor, session.info.server_version)
                        deadline.set(layout.limit + _GRACE_SECONDS if layout.limit else None)
                        result = query(cursor, layout)
                    session.commit()
                    return result
                except psycopg.Error as error:
                    can_retry = is_conflict(error) and attempt < _ATTEMPTS
                    with suppress(psycopg.Error):
                        # A pooler retains the server connection if the transaction was ended.
                        session.rollback()
                    problem = explain(error, self._connection, deadline.left_after)
                except (UnicodeError, pa.ArrowInvalid) as error:
                    can_retry = False
                    problem = SourceError(
                        f"{self.description} has text that can't be read, so nothing was read: "
                        f"{self._connection.scrub(error)}. Have the text repaired; in an SQL_ASCII database it "
                        "has to be UTF-8."
                    )
            if not can_retry:
                break
            time.sleep(0.1 * 2**attempt)
        # Raised outside the handler: the driver's error may quote the DSN and must not be chained.
        raise problem

    def _allowed(self, seconds: float) -> float:
        limit = self._statement_timeout
        return seconds if limit is None else min(seconds, limit + _GRACE_SECONDS)

    def _layout(self, cursor: _Cursor, server_version: int) -> Layout:
        schema = self._connection.schema
        cursor.execute(*catalog_query(schema, self._statement_timeout))
        rows = cursor.fetchall()
        if "wandb_runs" not in {row[0] for row in rows}:
            cursor.execute(SCHEMAS)
            if problem := _schema_problem(self.description, schema, cursor.fetchall()):
                raise problem
        return Layout.from_catalog(rows, server_version, self.description)


def _schema_problem(store: str, schema: str, schemas: Sequence[tuple[Any, ...]]) -> SourceError | None:
    """Return an error that names the schemas with tables of runs; None if there are none and no schema was given."""
    searched = f"in the schema {schema!r}" if schema else "on the search path of this user"
    usable = [repr(name) for name, may in schemas if may]
    if usable:
        return SourceError(
            f"{store} has no table wandb_runs {searched}, but one in {', '.join(usable)}, so it is unclear which runs "
            "to read. Pass schema= with one of these, or add ?schema=<schema> to the URL."
        )
    if schemas:
        return SourceError(
            f"{store} has no table wandb_runs {searched}; the schema {schemas[0][0]!r} has one, but this user has no "
            "access to it, so its runs can't be read. Have USAGE granted on the schema, and SELECT on its tables."
        )
    if schema:
        return SourceError(
            f"{store} has no table wandb_runs {searched}, nor in any other, so it is not a W&B store. "
            "Name the database that dr_wandb wrote to."
        )
    return None


def _each_once(ranked: Iterable[tuple[str, RunRecord | None]], store: str) -> tuple[list[RunRecord], list[str]]:
    """Return the record of lowest rank of each run, and descriptions of contradictory records."""
    of_run: dict[str, list[tuple[str, RunRecord]]] = {}
    without_id = 0
    for rank, record in ranked:
        if record is None:
            without_id += 1
        else:
            of_run.setdefault(record.run_id, []).append((rank, record))
    records, differing = [], []
    for run_id, rows in of_run.items():
        _, first = min(rows, key=itemgetter(0))
        if not all(_agree(first, record) for _, record in rows):
            differing.append(run_id)
        # A change of any of its rows is a change of the run.
        versions = sorted(record.version for _, record in rows)
        records.append(first if len(rows) == 1 else replace(first, version="+".join(versions)))
    conflicts = []
    if without_id:
        conflicts.append(
            f"{store} has {without_id} rows of wandb_runs without a run_id, so their logs are unknown and "
            "they were left out. Give them a run_id, or remove them."
        )
    if differing:
        conflicts.append(
            f"{store} has rows of wandb_runs that disagree for {len(differing)} runs, such as "
            f"{min(differing)!r}, so which is right is unknown, and the row of each that was created first is used. "
            "Remove the others."
        )
    return records, conflicts


def _agree(one: RunRecord, other: RunRecord) -> bool:
    """Return whether two records differ in their version at most; unknown times are equal."""
    times = np.array([one.created_at, other.created_at])
    is_same_time = np.isnat(times).all() or times[0] == times[1]
    return bool(is_same_time) and one == replace(other, version=one.version, created_at=one.created_at)


def _rows(cursor: _Cursor, query: str, parameters: Mapping[str, Any]) -> closing[Generator[tuple[Any, ...]]]:
    """Stream the rows of a query, so that they are processed while the server prepares the next ones.

    Use it in a ``with`` block: if an error ends the block before the last row, the stream has to be closed. An open
    stream locks the session, and closing the session would wait for ever.
    """
    return closing(cast("Generator[tuple[Any, ...]]", cursor.stream(query, parameters)))


def _record(row: RunRow, config_keys: Sequence[str], layout: Layout) -> RunRecord | None:
    """Return the record of a run; None if it has no run id."""
    if not row.run_id:
        return None
    notes: list[str] = []
    metadata, tags = load_json(row.launch), load_json(row.tags)
    config, summary = as_object(load_json(row.config)), as_object(load_json(row.summary))
    evaluated = row.has_evaluations
    if row.config_packed is not None:
        config = _noted_object(row.config_packed, "config", notes)
        if layout.flat:
            metadata = config.get("wandb_metadata", config.get("metadata"))
            tags = config.get("tags", as_object(config.get("system_attrs")).get("tags"))
    if row.summary_packed is not None:
        summary = _noted_object(row.summary_packed, "summary", [] if layout.flat else notes)
        evaluated = has_evaluations(summary)
    if row.attributes_packed is not None:
        tags = top_level_value(row.attributes_packed, "tags")
    if layout.flat:
        # The rate is a plain value, or is in the JSON text of the entire row.
        logged = load_json(row.last_rate)
        rate = as_object(logged).get("learning_rate") if isinstance(logged, (dict, str)) else row.last_rate
        rate = row.last_rate if rate is None else rate
        config = without_logged_rate(config, summary, None if row.last_rate is None else as_float(rate))
    return run_record(
        run_id=row.run_id,
        run_name=row.run_name,
        state=row.state,
        project=row.project,
        entity=row.entity,
        created_at=row.created_at,
        config=config,
        summary=summary,
        metadata=metadata,
        tags=load_json(tags) if isinstance(tags, str) else tags,
        config_keys=config_keys,
        evaluated=evaluated,
        version=row.version,
        rows_without_step=row.rows_without_step,
        notes=notes,
    )


def _noted_object(text: str, name: str, notes: list[str]) -> dict[str, Any]:
    """Return the object in JSON text; add a note if it is absent or incomplete."""
    decoded, problem = read_object(text)
    if problem:
        notes.append(f"the {name} {problem}, and is not used")
    return decoded
