"""Runs in PostgreSQL, as dr_wandb mirrors them from W&B: both layouts of its tables, a query per question.

Every question opens a connection of its own, in a read-only transaction: an instance is as good in a thread,
a forked process or a worker on another machine as where it was made, and leaves nothing behind on the server
or in a pool.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.conninfo import conninfo_to_dict

from dde.errors import SourceError
from dde.sources.connection import CONNECTION_VARIABLE, Connection
from dde.sources.json_text import load_json
from dde.sources.log_rows import empty_history, first_positions
from dde.sources.postgres_rows import read_history
from dde.sources.postgres_sql import (
    CATALOG,
    Layout,
    evaluations_query,
    history_query,
    metric_names_query,
    runs_query,
)
from dde.sources.protocols import SUMMARY_KEYS, History, RunRecord
from dde.sources.run_records import (
    EVALUATION_PREFIX,
    run_record,
    wanted_config_keys,
    without_logged_rate,
)
from dde.sources.values import as_float, as_object, evaluation_names, evaluation_value, summary_task

__all__ = ["PostgresStore", "connect", "explain"]

_Answer = TypeVar("_Answer")
_Cursor = psycopg.Cursor[tuple[Any, ...]]


class PostgresStore:
    """A W&B store in PostgreSQL.

    Parameters
    ----------
    connection : str or Connection
        DSN; a password in it is never shown and never pickled.
    statement_timeout : float or None
        Seconds after which the server gives up on a question; None for the server's own limit.
    connect_timeout : int
        Seconds to wait for the server, unless the DSN or ``PGCONNECT_TIMEOUT`` says.

    Raises
    ------
    SourceError
        By any question, where the server is unreachable, refuses, takes too long or holds no such tables.
    """

    def __init__(
        self,
        connection: str | Connection,
        *,
        statement_timeout: float | None = 300.0,
        connect_timeout: int = 10,
    ) -> None:
        self._connection = connection if isinstance(connection, Connection) else Connection(connection)
        self._statement_timeout = statement_timeout
        self._connect_timeout = connect_timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.redacted!r})"

    @property
    def description(self) -> str:
        """The connection without its credentials."""
        return self._connection.redacted

    def runs(self, extra_config_keys: Iterable[str] = ()) -> list[RunRecord]:
        """Return a record of every run, ordered by run_id; see `PosttrainingSource`.

        The version of a run is made of the server, the transactions that wrote its row and its logged rows, and
        how many these are and how large.
        """
        config_keys = wanted_config_keys(extra_config_keys)

        def question(cursor: _Cursor, layout: Layout) -> list[RunRecord]:
            with _rows(
                cursor,
                runs_query(layout),
                {"config_keys": list(config_keys), "summary_keys": list(SUMMARY_KEYS)},
            ) as rows:
                return [_record(row, config_keys, layout) for row in rows]

        # Sorted here, for servers sort text by rules of their own.
        return sorted(self._ask(question), key=lambda record: record.run_id)

    def history(self, run_ids: Sequence[str], keys: Sequence[str]) -> History:
        """Return the logged rows of the runs, with those keys alone; see `PosttrainingSource`.

        Rows without a step can't be placed and are left out.
        """
        positions = first_positions(run_ids)
        keys = list(dict.fromkeys(keys))

        def question(cursor: _Cursor, layout: Layout) -> History:
            if not layout.history:
                return empty_history(keys)
            query, parameters = history_query(layout, keys)
            with cursor.copy(
                f"COPY ({query}) TO STDOUT (FORMAT csv)",
                {**parameters, "run_ids": list(positions), "indices": list(positions.values())},
            ) as copy:
                return read_history(copy, keys)

        return self._ask(question) if positions else empty_history(keys)

    def evaluations(
        self, run_ids: Sequence[str], names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
        """Return final evaluations from the summaries: per (task, entry), a (run,) array.

        See `PosttrainingSource`.
        """
        values = {name: np.full(len(run_ids), np.nan) for name in names}
        positions = first_positions(run_ids)
        if not values or not positions:
            return values
        keys: set[str] = set()
        entries = {"extra_metrics"}
        for task, entry in values:
            key = EVALUATION_PREFIX + summary_task(task)
            keys |= {key, f"{key}/{entry}"}
            entries.add("primary_score" if entry == "primary_metric" else entry)

        def question(cursor: _Cursor, layout: Layout) -> None:
            wanted = {
                "run_ids": list(positions),
                "indices": list(positions.values()),
                "keys": sorted(keys),
                "entries": sorted(entries),
            }
            with _rows(cursor, evaluations_query(layout), wanted) as rows:
                for position, text in rows:
                    summary = load_json(text)
                    for key, value in summary.items():
                        if isinstance(value, str) and key.count("/") == 1:
                            # JSON text is parsed once here rather than once per entry.
                            summary[key] = as_object(value)
                    for (task, entry), column in values.items():
                        column[position] = evaluation_value(summary, task, entry)

        self._ask(question)
        return values

    def metric_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the keys of all histories and the (task, entry) of all evaluations, both sorted."""

        def question(cursor: _Cursor, layout: Layout) -> list[tuple[Any, ...]]:
            cursor.execute(metric_names_query(layout))
            return cursor.fetchall()

        logs: set[str] = set()
        evaluations: set[tuple[str, str]] = set()
        for kind, key, entry in self._ask(question):
            if kind == "log":
                # W&B's own keys: _runtime, _timestamp, ...
                logs |= {key} if not key.startswith("_") else set()
            elif kind == "entry":
                evaluations |= evaluation_names({key: {entry: 0}})
            else:
                evaluations |= evaluation_names({key: entry})
        return sorted(logs), sorted(evaluations)

    def _ask(self, question: Callable[[_Cursor, Layout], _Answer]) -> _Answer:
        try:
            with connect(self._connection, self._connect_timeout) as session, session.cursor() as cursor:
                session.read_only = True
                limit = self._statement_timeout
                timeout = None if limit is None else str(max(1, round(limit * 1000)))
                cursor.execute(CATALOG, {"timeout": timeout})
                rows = cast("list[tuple[str, str, list[str], bool, bool]]", cursor.fetchall())
                layout = Layout.from_catalog(rows, session.info.server_version, self.description)
                return question(cursor, layout)
        except psycopg.Error as error:
            problem = explain(error, self._connection)
        # Raised outside of the handler: the driver's error may quote the DSN and must not ride along.
        raise problem


def _rows(cursor: _Cursor, query: str, parameters: Mapping[str, Any]) -> closing[Generator[tuple[Any, ...]]]:
    """Return the rows of an answer as they arrive, so that they are used while the server is at the next ones.

    A block that is left before the last row, by an error, has to close them: the session stays locked while they are
    open, and ending it would wait for ever.
    """
    return closing(cast("Generator[tuple[Any, ...]]", cursor.stream(query, parameters)))


def connect(connection: Connection, timeout: int = 10) -> psycopg.Connection[tuple[Any, ...]]:
    """Return an open connection to the server; closing it is the caller's.

    Nothing is prepared on the server, so that a pooler in between may give each transaction another one.
    """
    settings = conninfo_to_dict(connection.reveal())
    if "connect_timeout" not in settings and "PGCONNECT_TIMEOUT" not in os.environ:
        settings["connect_timeout"] = timeout
    settings.setdefault("application_name", "dde")
    return psycopg.connect(**cast("dict[str, Any]", settings), prepare_threshold=None, client_encoding="utf8")


def explain(error: psycopg.Error, connection: Connection) -> SourceError:
    """Return the driver's error as one of ours, without credentials: cause, meaning, remedy."""
    store, said = connection.redacted, connection.scrub(error)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return SourceError(
            f"{store} took longer than the time allowed ({said}). So nothing was read. "
            "Ask again with a larger statement_timeout, or when the server is less busy."
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return SourceError(
            f"{store} refuses this user: {said}. So its runs can't be read or written. "
            "Have SELECT granted on wandb_runs and wandb_history (and INSERT, DELETE to ingest)."
        )
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        # libpq quotes the piece that it could not read, which may be a piece of a password.
        return SourceError(
            f"{store} is no valid connection string. So no server could be asked. "
            "Escape signs such as @ / ? % in the password by percent codes, or give it by PGPASSWORD."
        )
    if isinstance(error, psycopg.OperationalError) and ("password" in said or "authentication" in said):
        if connection.lost_secret:
            return SourceError(
                f"{store} asks for a password that this process does not have ({said}). "
                "A pickled store carries no credentials, so a worker must have them in its own surroundings. "
                f"Set {CONNECTION_VARIABLE} to the full URL there, or PGPASSWORD, or a password file."
            )
        return SourceError(
            f"{store} refuses to log this user in: {said}. So its runs can't be read. "
            "Check user and password, in the URL, PGPASSWORD or the password file."
        )
    if isinstance(error, psycopg.OperationalError):
        return SourceError(
            f"{store} can't be reached: {said}. So its runs can't be read. "
            "Check host, port and database, and that the server runs."
        )
    return SourceError(
        f"{store} could not answer: {said}. So its runs can't be read. "
        "Check that its tables are those of dr_wandb and intact."
    )


def _record(row: tuple[Any, ...], config_keys: Sequence[str], layout: Layout) -> RunRecord:
    run_id, run_name, state, project, entity, created_at, config_text, summary_text = row[:8]
    evaluated, launch, tags, last_rate, version = row[8:]
    config, summary = as_object(load_json(config_text)), as_object(load_json(summary_text))
    if layout.flat:
        config = without_logged_rate(config, summary, None if last_rate is None else as_float(last_rate))
    return run_record(
        run_id=run_id,
        run_name=run_name,
        state=state,
        project=project,
        entity=entity,
        created_at=created_at,
        config=config,
        summary=summary,
        metadata=load_json(launch),
        tags=load_json(tags),
        config_keys=config_keys,
        evaluated=evaluated,
        version=version,
    )
