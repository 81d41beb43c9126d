"""The queries that a PostgreSQL store is asked, one per question, for both layouts of its tables.

The server picks the keys: a run's config, summary and attributes are some 200 KB, of which a few hundred
bytes are wanted. Keys travel as parameters, so any character may stand in them.

A key per ``->`` would make the server decompress a large column once per key. Where several keys of one are
wanted, ``|| '{}'`` in a subquery of its own gives the column decompressed, once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dde.errors import SourceError

__all__ = ["CATALOG", "Layout", "evaluations_query", "history_query", "metric_names_query", "runs_query"]

#: What tables there are, with their columns. The settings hold for the transaction alone, so that a pooled
#: connection goes back as it was: a limit of time, and one form of timestamps on every server.
CATALOG = """
WITH session AS MATERIALIZED (
    SELECT set_config('statement_timeout',
                      coalesce(%(timeout)s::text, current_setting('statement_timeout')), true)
        || set_config('TimeZone', 'UTC', true)
        || set_config('DateStyle', 'ISO, MDY', true) AS settings
)
SELECT c.relname::text, c.relkind::text, array_agg(a.attname::text),
       to_regprocedure('pg_catalog.hashxidextended(xid, bigint)') IS NOT NULL,
       has_function_privilege('pg_catalog.pg_control_system()', 'execute')
       AND has_function_privilege('pg_catalog.pg_control_checkpoint()', 'execute')
FROM session
CROSS JOIN pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid IN (to_regclass('wandb_runs'), to_regclass('wandb_history'))
GROUP BY c.relname, c.relkind, session.settings
"""

# What starts the key of a final evaluation, and where the task's name begins in it.
_EVALUATION = "'oe_eval_metrics/'"
_TASK_START = 17

# Bytes beyond which a text is no number, unless it holds nothing but what numbers are written with.
_LONG = 64
_NOT_OF_NUMBERS = "'[^-+.0-9eE[:space:]]'"

# The runs that are asked for. Grouping tells the planner that each stands once; without it, it takes the log for
# the smaller side of the join, and writes all of it to temporary files.
_ASKED = """(
    SELECT u.run_id, min(u.index) AS index
    FROM unnest(%(run_ids)s::text[], %(indices)s::int[]) AS u(run_id, index) GROUP BY u.run_id
) AS asked"""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the catalog says of the tables.

    Attributes
    ----------
    runs, history : frozenset of str
        Names of the columns; of `history` none where the table is absent.
    physical : bool
        Whether both are tables, whose rows tell by which transaction they were written; a view's don't.
    parses_safely : bool
        Whether the server can tell beforehand if text is JSON (from PostgreSQL 16).
    hashes_transactions : bool
        Whether the server hashes the number of a transaction (from PostgreSQL 18).
    tells_identity : bool
        Whether this user may ask which server this is.
    """

    runs: frozenset[str]
    history: frozenset[str]
    physical: bool
    parses_safely: bool
    hashes_transactions: bool = False
    tells_identity: bool = False

    @classmethod
    def from_catalog(
        cls, rows: Sequence[tuple[str, str, Sequence[str], bool, bool]], server_version: int, store: str
    ) -> Layout:
        """Return the layout that the rows of `CATALOG` describe.

        Raises
        ------
        SourceError
            Where the tables are absent or have neither known layout.
        """
        columns = {row[0]: frozenset(row[2]) for row in rows}
        runs, history = columns.get("wandb_runs", frozenset()), columns.get("wandb_history", frozenset())
        if not runs:
            raise SourceError(
                f"{store} has no table wandb_runs on the search path of this user. "
                "So it is no W&B store, or its schema is not searched. "
                "Name the database that dr_wandb wrote to; for tables in a schema add "
                "?options=-csearch_path%3D<schema> to the URL."
            )
        wanted_history = {"run_id", "step", "metrics"}
        if "run_id" not in runs or not ({"config", "summary"} <= runs or "raw_data" in runs):
            problem = f"wandb_runs has the columns {', '.join(sorted(runs))}"
        elif history and not wanted_history <= history:
            problem = f"wandb_history has the columns {', '.join(sorted(history))}"
        else:
            return cls(
                runs=runs,
                history=history,
                physical=all(row[1] in "rpm" for row in rows),
                parses_safely=server_version >= 160000,
                hashes_transactions=all(row[3] for row in rows),
                tells_identity=all(row[4] for row in rows),
            )
        raise SourceError(
            f"In {store} the table {problem}. dr_wandb has no such layout (config and summary, or raw_data; "
            "run_id, step and metrics), so runs can't be read from it. "
            "Load an export into a fresh database with `dde ingest`."
        )

    @property
    def flat(self) -> bool:
        """Whether config and summary stand in one object, as before dr_wandb 0.1."""
        return not {"config", "summary"} <= self.runs

    @property
    def summary(self) -> str:
        """SQL of the object that summary keys are in."""
        return _object("r.raw_data" if self.flat else "r.summary")


def _object(column: str) -> str:
    # jsonb_each refuses anything but an object.
    return f"CASE WHEN jsonb_typeof({column}) = 'object' THEN {column} ELSE '{{}}' END"


def _unwrapped(value: str, layout: Layout) -> str:
    """Return SQL of a value that may be JSON text: the object in it, where the server can parse it safely."""
    if not layout.parses_safely:
        return value
    text = f"({value} #>> '{{}}')"
    return (
        f"CASE WHEN jsonb_typeof({value}) = 'string' AND pg_input_is_valid({text}, 'jsonb') "
        f"THEN {text}::jsonb ELSE {value} END"
    )


def runs_query(layout: Layout) -> str:
    """Return the query of all runs: identifiers, the wanted keys, and what tells that content changed.

    Parameters: ``config_keys``, ``summary_keys``. Columns: run_id, run_name, state, project, entity,
    created_at, config, summary, evaluated, launch, tags, last logged learning rate, version.
    """
    log = (
        f"""
        SELECT h.run_id, {"max(h.step)" if layout.flat else "NULL::int"} AS last_step,
               concat_ws('.', {", ".join(_log_version(layout))}) AS version
        FROM wandb_history h GROUP BY h.run_id
        """
        if layout.history
        else "SELECT NULL::text AS run_id, NULL::int AS last_step, NULL::text AS version WHERE false"
    )
    if layout.flat:
        # Keys of the summary overwrote those of config: what a run logged under the name of a
        # hyperparameter is compared with its last logged value to tell which of them was kept.
        launch = "coalesce(whole.config -> 'wandb_metadata', whole.config -> 'metadata')"
        tags = "coalesce(whole.config -> 'tags', whole.config #> '{system_attrs,tags}')"
        last = (
            """
            SELECT DISTINCT ON (h.run_id) h.run_id, h.metrics ->> 'learning_rate' AS rate
            FROM wandb_history h JOIN log ON log.run_id = h.run_id AND log.last_step = h.step
            ORDER BY h.run_id
            """
            if layout.history
            else "SELECT NULL::text AS run_id, NULL::text AS rate WHERE false"
        )
        last_rate = "last.rate"
        whole = "SELECT w.config, w.config AS summary FROM (SELECT r.raw_data || '{}' AS config OFFSET 0) w"
    else:
        launch = "r.wandb_metadata" if "wandb_metadata" in layout.runs else "NULL::jsonb"
        tags = "r.system_attrs -> 'tags'" if "system_attrs" in layout.runs else "NULL::jsonb"
        last = "SELECT NULL::text AS run_id WHERE false"
        last_rate = "NULL::text"
        whole = "SELECT r.config || '{}' AS config, r.summary || '{}' AS summary OFFSET 0"

    def column(name: str) -> str:
        return f"r.{name}::text" if name in layout.runs else "NULL::text"

    return f"""
    WITH log AS MATERIALIZED ({log}),
         last AS ({last})
    SELECT r.run_id::text, {column("run_name")}, {column("state")}, {column("project")}, {column("entity")},
           {column("created_at")}, {_picked("whole.config", "config_keys")}, {_picked("whole.summary", "summary_keys")},
           coalesce(jsonb_typeof(whole.summary) = 'object' AND jsonb_path_exists(
               whole.summary, '$.keyvalue() ? (@.key starts with "oe_eval_metrics/")', '{{}}', true), false),
           jsonb_build_object('args', launch.value -> 'args', 'program', launch.value -> 'program',
                              'gpu_count', launch.value -> 'gpu_count')::text,
           ({tags})::text, {last_rate}, concat_ws('-', {_row_version(layout)}, log.version)
    FROM wandb_runs r
    LEFT JOIN log ON log.run_id = r.run_id
    LEFT JOIN last ON last.run_id = r.run_id
    CROSS JOIN LATERAL ({whole}) whole
    CROSS JOIN LATERAL (SELECT {launch} AS value OFFSET 0) given
    CROSS JOIN LATERAL (SELECT {_unwrapped("given.value", layout)} AS value OFFSET 0) launch
    """


def _picked(value: str, parameter: str) -> str:
    """Return SQL of the JSON text of those keys of an object that a parameter names; null where it has none."""
    return f"""(
               SELECT jsonb_object_agg(e.key, e.value)::text
               FROM unnest(%({parameter})s::text[]) AS k(key)
               CROSS JOIN LATERAL (SELECT k.key, {value} -> k.key AS value OFFSET 0) e
               WHERE e.value IS NOT NULL
           )"""


def _row_version(layout: Layout) -> str:
    """Return SQL that differs whenever a row of a run does."""
    if not layout.physical:
        return "md5(r::text)"
    parts = [
        "r.xmin::text",
        # The stored size is at hand without decompressing; it tells one restored copy from another.
        *(f"pg_column_size(r.{name})" for name in ("config", "summary", "raw_data") if name in layout.runs),
    ]
    if layout.tells_identity:
        # Numbers of transactions are a server's own: a copy restored on another may have the same. So may one that
        # was set back to an earlier time and went on from there, which begins a new timeline.
        parts += [
            "(SELECT system_identifier FROM pg_control_system())",
            "(SELECT timeline_id FROM pg_control_checkpoint())",
        ]
    return f"concat_ws('.', {', '.join(parts)})"


def _log_version(layout: Layout) -> list[str]:
    """Return SQL of what, taken over a run's logged rows, differs whenever any of them does.

    A row that is written or changed bears the number of the transaction that did it, which is new to the
    server, and one that is deleted takes its own away. Their sum rather than the last of them tells a change
    that began before another and was seen after it.
    """
    if not layout.physical:
        last = f"max(h.{'id' if 'id' in layout.history else 'step'})"
        return ["count(*)", last, "max(h.step)", "sum(hashtextextended(h::text, 0))"]
    # Text on the way to a number costs more than all the rest of it.
    number = "hashxidextended(h.xmin, 0)" if layout.hashes_transactions else "h.xmin::text::bigint"
    return ["count(*)", f"sum({number})", "sum(pg_column_size(h.metrics))"]


def history_query(layout: Layout, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the query of logged rows, and the parameters that stand for its keys.

    Parameters: ``run_ids`` and those returned. Columns: index of the run, step, id, one per key. Numbers go
    as text, the very digits of the store: a cast on the server would fail the whole query at the first text
    that is no number, and costs more there than here.

    A value's type, which takes a second look into the row, is asked for where its text alone leaves a doubt:
    ``true`` may be a boolean or a text, and what is long is as a rule no number and need not travel. All else
    reads the same whatever its type.
    """
    parameters = {f"key{position}": key for position, key in enumerate(keys)}
    texts, values = [], []
    for position, name in enumerate(parameters):
        text = f"q.text{position}"
        texts.append(f"h.metrics ->> %({name})s::text AS text{position}")
        values.append(
            f"CASE WHEN octet_length({text}) BETWEEN 6 AND {_LONG} THEN {text} WHEN {text} IS NOT NULL THEN "
            f"CASE jsonb_typeof(q.metrics -> %({name})s::text) WHEN 'number' THEN {text} "
            f"WHEN 'string' THEN CASE WHEN octet_length({text}) <= {_LONG} OR {text} !~ {_NOT_OF_NUMBERS} "
            f"THEN {text} END "
            f"WHEN 'boolean' THEN CASE {text} WHEN 'true' THEN '1' ELSE '0' END END END"
        )
    order = "h.id" if "id" in layout.history else "0"
    # OFFSET 0 keeps the server from writing the inner expressions into the outer ones, once per mention.
    return (
        f"""
        SELECT {", ".join(("q.index", "q.step", "q.id", *values))}
        FROM (
            SELECT {", ".join(("asked.index", "h.step", f"{order} AS id", "h.metrics", *texts))}
            FROM wandb_history h
            JOIN {_ASKED} ON asked.run_id = h.run_id
            WHERE h.step IS NOT NULL
            OFFSET 0
        ) q
        """,
        parameters,
    )


def evaluations_query(layout: Layout) -> str:
    """Return the query of final evaluations: of each run asked for, the wanted keys of its summary.

    Parameters: ``run_ids``, ``indices``, ``keys`` (of the summary), ``entries`` (of the objects among
    them). Columns: index of the run, JSON text of an object. An object's task configuration, most of its
    size, stays behind.
    """
    value = _unwrapped("e.value", layout)
    return f"""
    SELECT asked.index, picked.summary::text
    FROM wandb_runs r
    JOIN {_ASKED} ON asked.run_id = r.run_id
    CROSS JOIN LATERAL (
        SELECT jsonb_object_agg(e.key, CASE WHEN jsonb_typeof(v.value) = 'object' THEN (
                   SELECT jsonb_object_agg(i.key, i.value) FROM jsonb_each(v.value) i
                   WHERE i.key = ANY(%(entries)s::text[])
               ) ELSE v.value END) AS summary
        FROM jsonb_each({layout.summary}) e
        CROSS JOIN LATERAL (SELECT {value} AS value) v
        WHERE e.key = ANY(%(keys)s::text[])
    ) picked
    WHERE picked.summary IS NOT NULL
    """


def metric_names_query(layout: Layout) -> str:
    """Return the query of all names: kind (``log``, ``flat``, ``entry``, ``text``), key, entry or text.

    ``text`` is an evaluation as JSON text that the server could not parse safely.
    """
    logs = ""
    if layout.history:
        # Rows differ little in their keys. Those of a sample are taken away from every row, and only what is left
        # is spread out: some tenth of the work.
        rows = "wandb_history h TABLESAMPLE SYSTEM (1) REPEATABLE (0)" if layout.physical else "wandb_history h"
        row = _object("h.metrics")
        logs = f"""
        WITH common AS MATERIALIZED (
            SELECT DISTINCT k FROM (SELECT {row} AS row FROM {rows} LIMIT 20000) s
            CROSS JOIN LATERAL jsonb_object_keys(s.row) k
        )
        SELECT 'log' AS kind, k AS key, NULL::text AS entry FROM common
        UNION ALL
        SELECT DISTINCT 'log', k, NULL
        FROM wandb_history h
        CROSS JOIN LATERAL jsonb_object_keys({row} - ARRAY(SELECT k FROM common)) k
        WHERE {row} - ARRAY(SELECT k FROM common) <> '{{}}'
        UNION ALL
        """
    is_flat = f"position('/' IN substr(e.key, {_TASK_START})) > 0"
    return f"""
    {logs}
    SELECT DISTINCT 'flat' AS kind, e.key, NULL::text AS entry
    FROM wandb_runs r CROSS JOIN LATERAL jsonb_object_keys({layout.summary}) e(key)
    WHERE starts_with(e.key, {_EVALUATION}) AND {is_flat}
    UNION ALL
    SELECT DISTINCT i.kind, e.key, i.entry
    FROM wandb_runs r
    CROSS JOIN LATERAL jsonb_each({layout.summary}) e
    CROSS JOIN LATERAL (SELECT {_unwrapped("e.value", layout)} AS value OFFSET 0) v
    CROSS JOIN LATERAL (
        SELECT 'entry' AS kind, k AS entry FROM jsonb_object_keys({_object("v.value")}) k
        UNION ALL
        SELECT 'entry', k FROM jsonb_object_keys({_object("(v.value -> 'extra_metrics')")}) k
        UNION ALL
        SELECT 'text', v.value #>> '{{}}' WHERE jsonb_typeof(v.value) = 'string'
    ) i
    WHERE starts_with(e.key, {_EVALUATION}) AND NOT {is_flat}
    """
