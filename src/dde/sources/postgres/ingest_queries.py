"""SQL statements that load runs into PostgreSQL: create the tables of both layouts, and replace changed runs.

Complete runs are first copied into temporary tables. The server compares them with the stored runs, so that an
unchanged run is not written again and keeps its row versions.
"""

from __future__ import annotations

from typing import Literal

from dde.sources.wandb.raw_runs import OBJECT_COLUMNS

__all__ = [
    "CREATE_INCOMING",
    "LOCK_RUNS",
    "LOCK_TABLES",
    "TABLES",
    "TableLayout",
    "changed_logs",
    "changed_runs",
    "insert_logs",
    "insert_runs",
]

TableLayout = Literal["0.1", "old"]

#: Serializes the creation of tables between ingests; released when the transaction ends.
LOCK_TABLES = "SELECT pg_advisory_xact_lock(hashtextextended('dde ingest', 0))"

#: Serializes writes of the same run between ingests, one lock per run; released when the transaction ends.
#: All ingests take the locks of a batch in the same order, which prevents deadlocks.
LOCK_RUNS = """
SELECT pg_advisory_xact_lock(k.key) FROM (
    SELECT DISTINCT hashtextextended('dde ingest ' || run_id, 0) AS key FROM dde_incoming_runs ORDER BY key
) k
"""

_CREATE_RUNS: dict[TableLayout, str] = {
    "0.1": """
    CREATE TABLE wandb_runs (
        run_id VARCHAR NOT NULL PRIMARY KEY,
        run_name VARCHAR NOT NULL,
        state VARCHAR NOT NULL,
        project VARCHAR NOT NULL,
        entity VARCHAR NOT NULL,
        created_at TIMESTAMP WITHOUT TIME ZONE,
        config JSONB NOT NULL,
        summary JSONB NOT NULL,
        wandb_metadata JSONB NOT NULL,
        system_metrics JSONB NOT NULL,
        system_attrs JSONB NOT NULL,
        sweep_info JSONB NOT NULL
    )
    """,
    "old": """
    CREATE TABLE wandb_runs (
        run_id VARCHAR NOT NULL PRIMARY KEY,
        run_name VARCHAR NOT NULL,
        state VARCHAR NOT NULL,
        project VARCHAR NOT NULL,
        entity VARCHAR NOT NULL,
        created_at TIMESTAMP WITHOUT TIME ZONE,
        runtime INTEGER,
        raw_data JSONB NOT NULL
    )
    """,
}
_CREATE_HISTORY: dict[TableLayout, str] = {
    "0.1": """
    CREATE TABLE wandb_history (
        id SERIAL NOT NULL PRIMARY KEY,
        run_id VARCHAR NOT NULL,
        step INTEGER,
        timestamp TIMESTAMP WITHOUT TIME ZONE,
        runtime INTEGER,
        wandb_metadata JSONB NOT NULL,
        metrics JSONB NOT NULL
    )
    """,
    "old": """
    CREATE TABLE wandb_history (
        id SERIAL NOT NULL PRIMARY KEY,
        run_id VARCHAR NOT NULL,
        step INTEGER,
        timestamp TIMESTAMP WITHOUT TIME ZONE,
        metrics JSONB NOT NULL
    )
    """,
}

#: Per table and layout, the statement that creates it as dr_wandb does.
TABLES = {"wandb_runs": _CREATE_RUNS, "wandb_history": _CREATE_HISTORY}

#: Creates the temporary tables of a batch; they are dropped when the transaction ends.
CREATE_INCOMING = """
CREATE TEMPORARY TABLE dde_incoming_runs (
    run_id text, run_name text, state text, project text, entity text, created_at timestamp,
    config jsonb, summary jsonb, wandb_metadata jsonb, system_metrics jsonb, system_attrs jsonb, sweep_info jsonb
) ON COMMIT DROP;
CREATE TEMPORARY TABLE dde_incoming_history (
    position bigint, run_id text, step integer, timestamp timestamp, runtime integer,
    wandb_metadata jsonb, metrics jsonb
) ON COMMIT DROP
"""

# Before 0.1, the keys of config and summary were in one object, with the objects of final evaluations as JSON text.
# If both have a key, the value of config is stored; that of the summary is the last logged one. Command and tags, for
# which that layout had no column, are added under their own names, so that no evidence of a run's parent is lost.
_RAW_DATA = """
CASE WHEN jsonb_typeof(i.wandb_metadata) = 'object'
     THEN jsonb_build_object('wandb_metadata', i.wandb_metadata) ELSE '{}' END
|| CASE WHEN jsonb_typeof(i.system_attrs -> 'tags') = 'array'
        THEN jsonb_build_object('tags', i.system_attrs -> 'tags') ELSE '{}' END
|| coalesce((
    SELECT jsonb_object_agg(e.key, CASE
        WHEN starts_with(e.key, 'oe_eval_metrics/') AND jsonb_typeof(e.value) = 'object'
        THEN to_jsonb(e.value::text) ELSE e.value END)
    FROM jsonb_each(i.summary) e
), '{}')
|| i.config
"""
_RUNTIME = """
CASE WHEN jsonb_typeof(i.summary -> '_runtime') = 'number' THEN round((i.summary ->> '_runtime')::numeric)::int END
"""

_PLAIN_COLUMNS = ("run_id", "run_name", "state", "project", "entity", "created_at")
# Per layout, the SQL expression of each column.
_RUN_COLUMNS: dict[TableLayout, dict[str, str]] = {
    "0.1": {name: f"i.{name}" for name in (*_PLAIN_COLUMNS, *OBJECT_COLUMNS)},
    "old": {
        **{name: f"i.{name}" for name in _PLAIN_COLUMNS},
        "runtime": _RUNTIME,
        "raw_data": _RAW_DATA,
    },
}
_LOG_COLUMNS: dict[TableLayout, tuple[str, ...]] = {
    "0.1": ("run_id", "step", "timestamp", "runtime", "wandb_metadata", "metrics"),
    "old": ("run_id", "step", "timestamp", "metrics"),
}


def _incoming_runs(layout: TableLayout) -> str:
    columns = ", ".join(f"{source} AS {name}" for name, source in _RUN_COLUMNS[layout].items())
    return f"SELECT {columns} FROM dde_incoming_runs i"


def _row(alias: str, columns: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"{alias}.{name}" for name in columns) + ")"


def changed_runs(layout: TableLayout) -> str:
    """Return the query of incoming runs whose row is absent or differs: run_id, and whether a row existed."""
    columns = tuple(_RUN_COLUMNS[layout])
    return f"""
    SELECT g.run_id, r.run_id IS NOT NULL
    FROM ({_incoming_runs(layout)}) g LEFT JOIN wandb_runs r ON r.run_id = g.run_id
    WHERE {_row("g", columns)} IS DISTINCT FROM {_row("r", columns)}
    """


def changed_logs(layout: TableLayout) -> str:
    """Return the query of incoming runs whose logged rows differ, compared in the order of logging.

    Columns: run_id, and whether any of its rows existed.
    """
    columns = _LOG_COLUMNS[layout]
    numbered = "row_number() OVER (PARTITION BY {0}.run_id ORDER BY {0}.{1}) AS number, {2}"
    stored = numbered.format("h", "id", ", ".join(f"h.{name}" for name in columns))
    incoming = numbered.format("i", "position", ", ".join(f"i.{name}" for name in columns))
    return f"""
    WITH stored AS (
        SELECT {stored} FROM wandb_history h WHERE h.run_id IN (SELECT run_id FROM dde_incoming_runs)
    ), incoming AS (
        SELECT {incoming} FROM dde_incoming_history i
    )
    SELECT coalesce(s.run_id, g.run_id), bool_or(s.run_id IS NOT NULL)
    FROM stored s FULL JOIN incoming g ON s.run_id = g.run_id AND s.number = g.number
    GROUP BY 1
    HAVING bool_or({_row("s", columns)} IS DISTINCT FROM {_row("g", columns)})
    """


def insert_runs(layout: TableLayout) -> str:
    """Return the statement that writes the rows of the runs in ``run_ids``."""
    columns = ", ".join(_RUN_COLUMNS[layout])
    return f"""
    INSERT INTO wandb_runs ({columns})
    SELECT {columns} FROM ({_incoming_runs(layout)}) g WHERE g.run_id = ANY(%(run_ids)s::text[])
    """


def insert_logs(layout: TableLayout) -> str:
    """Return the statement that writes the logged rows of the runs in ``run_ids``, in order."""
    columns = ", ".join(_LOG_COLUMNS[layout])
    return f"""
    INSERT INTO wandb_history ({columns})
    SELECT {columns} FROM dde_incoming_history WHERE run_id = ANY(%(run_ids)s::text[]) ORDER BY position
    """
