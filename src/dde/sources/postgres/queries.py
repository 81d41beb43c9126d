"""The queries that a PostgreSQL store is asked, one per question, for both layouts of its tables.

The server picks the keys: a run's config, summary and attributes are some 200 KB, of which a few hundred
bytes are wanted. Keys travel as parameters, so any character may stand in them.

A key per ``->`` would make the server decompress a large column once per key. Where several keys of one are
wanted, ``|| '{}'`` in a subquery of its own gives the column decompressed, once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dde.errors import SourceError
from dde.sources.wandb.logs import MOST_STEPS

__all__ = [
    "CATALOG",
    "PACKED",
    "SCHEMAS",
    "Layout",
    "catalog_query",
    "evaluations_query",
    "history_query",
    "metric_names_query",
    "runs_query",
]

#: What tables there are, with their columns. The settings hold for the transaction alone, so that a pooled
#: connection goes back as it was: the shorter limit of time of ours and theirs, one form of timestamps on every server,
#: rows in the order of the table, and an error rather than a part of the rows where policies hide some.
CATALOG = """
WITH given AS (
    SELECT extract(epoch FROM current_setting('statement_timeout')::interval) * 1000 AS own,
           %(timeout)s::text::numeric AS asked
), allowed AS (
    SELECT CASE WHEN own = 0 OR asked < own THEN coalesce(asked, own) ELSE own END AS limit FROM given
), session AS MATERIALIZED (
    SELECT set_config('statement_timeout', round(allowed.limit)::bigint::text, true)
        || set_config('TimeZone', 'UTC', true)
        || set_config('DateStyle', 'ISO, MDY', true)
        || set_config('synchronize_seqscans', 'off', true)
        || set_config('row_security', 'off', true) AS settings
    FROM allowed
)
SELECT c.relname::text, c.relkind::text, array_agg(a.attname::text),
       to_regprocedure('pg_catalog.hashxidextended(xid, bigint)') IS NOT NULL,
       has_function_privilege('pg_catalog.pg_control_system()', 'execute')
       AND has_function_privilege('pg_catalog.pg_control_checkpoint()', 'execute'),
       array_agg(format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL)),
       allowed.limit::float8 / 1000
FROM session
CROSS JOIN allowed
CROSS JOIN pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE c.oid IN (to_regclass('wandb_runs'), to_regclass('wandb_history'))
GROUP BY c.relname, c.relkind, session.settings, allowed.limit
"""

# The same for tables of one schema, which later statements of the transaction then find by their names.
_CATALOG_OF_SCHEMA = CATALOG.replace(
    "|| set_config('TimeZone', 'UTC', true)",
    "|| set_config('search_path', quote_ident(%(schema)s::text), true) || set_config('TimeZone', 'UTC', true)",
).replace(
    "to_regclass('wandb_runs'), to_regclass('wandb_history')",
    "to_regclass(quote_ident(%(schema)s::text) || '.wandb_runs'), "
    "to_regclass(quote_ident(%(schema)s::text) || '.wandb_history')",
)

#: Schemas that have a table of runs, and whether this user may look into them.
SCHEMAS = """
SELECT n.nspname::text, has_schema_privilege(n.oid, 'usage')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'wandb_runs' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1
"""

# Types of columns that hold JSON, and of steps. What is not jsonb is decoded by us.
_JSON_TYPES = frozenset({"jsonb", "json", "text", "character varying", "character"})
_JSON_COLUMNS = {
    "wandb_runs": ("config", "summary", "raw_data", "wandb_metadata", "system_attrs"),
    "wandb_history": ("metrics",),
}
_WHOLE_TYPES = frozenset({"smallint", "integer", "bigint"})
_NUMBER_TYPES = frozenset({"numeric", "real", "double precision"})
_TEXT_TYPES = frozenset({"text", "character varying", "character"})
_NUMBER = "'^[[:space:]]*[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,3})?[[:space:]]*$'"
# Begins the key that stands for a row whose keys are in text; no name of a metric has it.
PACKED = "\x01"

#: A row of `CATALOG`.
CatalogRow = tuple[str, str, Sequence[str], bool, bool, Sequence[str], float]

# What starts the key of a final evaluation, and where the task's name begins in it.
_EVALUATION = "'oe_eval_metrics/'"
_TASK_START = 17
# Whether a key names one entry of an evaluation, rather than the object of all.
_IS_FLAT = f"position('/' IN substr(e.key, {_TASK_START})) > 0"

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
    types : mapping of (str, str) to str
        Type of each column, by table and column, as the server calls it.
    limit : float
        Seconds after which the server gives up on a question; 0 for never.
    """

    runs: frozenset[str]
    history: frozenset[str]
    physical: bool
    parses_safely: bool
    hashes_transactions: bool = False
    tells_identity: bool = False
    types: Mapping[tuple[str, str], str] = field(default_factory=dict)
    limit: float = 0.0

    @classmethod
    def from_catalog(cls, rows: Sequence[CatalogRow], server_version: int, store: str) -> Layout:
        """Return the layout that the rows of `CATALOG` describe.

        Raises
        ------
        SourceError
            Where the tables are absent, have neither known layout, or a column of a type that can't be read.
        """
        columns = {row[0]: frozenset(row[2]) for row in rows}
        runs, history = columns.get("wandb_runs", frozenset()), columns.get("wandb_history", frozenset())
        if not runs:
            raise SourceError(
                f"{store} has no table wandb_runs on the search path of this user. "
                "So it is no W&B store, or its schema is not searched. "
                "Name the database that dr_wandb wrote to; for tables in a schema pass schema=, or add "
                "?schema=<schema> to the URL (?options=-csearch_path%3D<schema> where no pooler stands in between)."
            )
        types = {(row[0], name): kind for row in rows for name, kind in zip(row[2], row[5], strict=True)}
        wanted_history = {"run_id", "step", "metrics"}
        if "run_id" not in runs or not ({"config", "summary"} <= runs or "raw_data" in runs):
            problem = f"wandb_runs has the columns {', '.join(sorted(runs))}"
        elif history and not wanted_history <= history:
            problem = f"wandb_history has the columns {', '.join(sorted(history))}"
        elif unreadable := _unreadable_columns(types):
            problem = unreadable
        else:
            return cls(
                runs=runs,
                history=history,
                physical=all(row[1] in "rpm" for row in rows),
                parses_safely=server_version >= 160000,
                hashes_transactions=all(row[3] for row in rows),
                tells_identity=all(row[4] for row in rows),
                types=types,
                limit=rows[0][6],
            )
        raise SourceError(
            f"In {store} the table {problem}. dr_wandb has no such layout (config and summary, or raw_data; "
            "run_id, step and metrics), so runs can't be read from it. "
            "Load an export into a fresh database with `dde ingest`."
        )

    def is_jsonb(self, table: str, column: str) -> bool:
        """Return whether the server can look into a column; text and ``json`` are decoded by us."""
        return self.types.get((table, column), "jsonb") == "jsonb"

    def json(self, alias: str, column: str) -> str:
        """Return SQL of a column of JSON as jsonb: text in it, as in a jsonb string, where it is of another type."""
        table = "wandb_history" if alias == "h" else "wandb_runs"
        name = f"{alias}.{column}"
        return name if self.is_jsonb(table, column) else f"to_jsonb({name}::text)"

    @property
    def step(self) -> str:
        """SQL of a step as a whole number; null where it is none. See `has_step` for those that count."""
        kind = self.types.get(("wandb_history", "step"), "integer")
        if kind in _WHOLE_TYPES:
            return "h.step"
        number = "h.step::numeric"
        if kind in _TEXT_TYPES:
            number = f"CASE WHEN h.step ~ {_NUMBER} THEN btrim(h.step)::numeric END"
        # NaN and Infinity, which numeric has, are beyond any other number.
        return (
            f"(SELECT n::bigint FROM (SELECT {number} AS n OFFSET 0) s "
            f"WHERE n >= 0 AND n < {MOST_STEPS} AND n = trunc(n))"
        )

    @property
    def has_step(self) -> str:
        """SQL of whether a row has a step that it can be placed by."""
        kind = self.types.get(("wandb_history", "step"), "integer")
        if kind not in _WHOLE_TYPES:
            return f"{self.step} IS NOT NULL"
        return f"h.step BETWEEN 0 AND {MOST_STEPS - 1}" if kind == "bigint" else "h.step >= 0"

    @property
    def order(self) -> str:
        """SQL of a whole number that tells in which order rows were logged; null for those that come last."""
        if "id" in self.history and self.types.get(("wandb_history", "id"), "integer") in _WHOLE_TYPES:
            return "h.id"
        kind = self.types.get(("wandb_history", "timestamp"), "") if "timestamp" in self.history else ""
        if kind.startswith("timestamp") or kind == "date":
            # Infinity, and what was before the common era, is no time of a log.
            return (
                "CASE WHEN isfinite(h.timestamp) AND h.timestamp BETWEEN '0001-01-01' AND '9999-01-01' "
                "THEN (extract(epoch FROM h.timestamp) * 1000000)::bigint END"
            )
        return "0"

    @property
    def flat(self) -> bool:
        """Whether config and summary stand in one object, as before dr_wandb 0.1."""
        return not {"config", "summary"} <= self.runs

    @property
    def summary(self) -> str:
        """SQL of the object that summary keys are in."""
        return self.json("r", "raw_data" if self.flat else "summary")


def catalog_query(schema: str, timeout: float | None) -> tuple[str, dict[str, str | None]]:
    """Return the query of the catalog and its parameters.

    Parameters
    ----------
    schema : str
        Schema of the tables; "" for those on the search path.
    timeout : float or None
        Seconds for a question, where the server allows no fewer; None for what the server allows.
    """
    # Beyond some 24 days is never, for the server.
    limit = None if timeout is None else str(min(max(1, round(timeout * 1000)), 2**31 - 1))
    if schema:
        return _CATALOG_OF_SCHEMA, {"timeout": limit, "schema": schema}
    return CATALOG, {"timeout": limit}


def _unreadable_columns(types: Mapping[tuple[str, str], str]) -> str:
    for table, names in _JSON_COLUMNS.items():
        for name in names:
            kind = types.get((table, name), "jsonb")
            if kind not in _JSON_TYPES:
                return f"{table} has a column {name} of the type {kind}, which is no JSON"
    step = types.get(("wandb_history", "step"), "integer")
    if step not in _WHOLE_TYPES | _NUMBER_TYPES | _TEXT_TYPES:
        return f"wandb_history has a column step of the type {step}, which is no number"
    return ""


def _text_in(value: str) -> str:
    """Return SQL of the text of a jsonb string; null for any other value."""
    return f"CASE WHEN jsonb_typeof({value}) = 'string' THEN {value} #>> '{{}}' END"


def _text_in_list(value: str) -> str:
    """Return SQL of the text of a jsonb string that ``|| '{}'`` made a list of; null for an object, and for null.

    Of what is neither, it is the text of a list.
    """
    first = f"({value} -> 0)"
    return (
        f"CASE WHEN jsonb_typeof({value}) = 'array' THEN CASE jsonb_typeof({first}) "
        f"WHEN 'string' THEN {value} ->> 0 WHEN 'null' THEN NULL ELSE '[]' END END"
    )


def _object(column: str, of_text: str = "") -> str:
    """Return SQL of an object: the value, or one without keys; of a string, where wanted, one with its text as key."""
    # jsonb_each refuses anything but an object.
    if not of_text:
        return f"CASE WHEN jsonb_typeof({column}) = 'object' THEN {column} ELSE '{{}}' END"
    packed = of_text.format(f"jsonb_build_object(chr(1) || ({column} #>> '{{}}'), NULL)")
    return f"CASE jsonb_typeof({column}) WHEN 'object' THEN {column} WHEN 'string' THEN {packed} ELSE '{{}}' END"


def _unwrapped(value: str, layout: Layout) -> str:
    """Return SQL of a value that may be JSON text: the object in it, where the server can parse it safely."""
    if not layout.parses_safely:
        return value
    text = f"({value} #>> '{{}}')"
    return (
        f"CASE WHEN jsonb_typeof({value}) = 'string' AND pg_input_is_valid({text}, 'jsonb') "
        f"THEN {text}::jsonb ELSE {value} END"
    )


def _inner(value: str, layout: Layout) -> str:
    """Return SQL of an evaluation: what is wrapped as in W&B's config files, after JSON text was parsed."""
    parsed = _unwrapped(value, layout)
    return (
        "(SELECT CASE WHEN jsonb_typeof(p) = 'object' AND p ? 'value' AND p - 'value' - 'desc' = '{}' "
        f"THEN p -> 'value' ELSE p END FROM (SELECT {parsed} AS p OFFSET 0) w)"
    )


def runs_query(layout: Layout) -> str:
    """Return the query of all runs: identifiers, the wanted keys, and what tells that content changed.

    Parameters: ``config_keys``, ``summary_keys``. Columns: run_id, run_name, state, project, entity,
    created_at, config, summary, evaluated, launch, tags, last logged learning rate, version; then the text of config,
    of summary and of what tags are in, where that is JSON text that the server does not look into, and how many logged
    rows have no step that they can be placed by.
    """
    last_step = f"max({layout.step}) FILTER (WHERE {layout.has_step})" if layout.flat else "NULL::int"
    log = (
        f"""
        SELECT h.run_id::text AS run_id, {last_step} AS last_step,
               concat_ws('.', {", ".join(_log_version(layout))}) AS version,
               count(*) FILTER (WHERE ({layout.has_step}) IS NOT TRUE) AS unplaced
        FROM wandb_history h GROUP BY h.run_id
        """
        if layout.history
        else "SELECT NULL::text AS run_id, NULL::int AS last_step, NULL::text AS version, 0 AS unplaced WHERE false"
    )
    if layout.flat:
        # Keys of the summary overwrote those of config: what a run logged under the name of a
        # hyperparameter is compared with its last logged value to tell which of them was kept.
        launch = "coalesce(whole.config -> 'wandb_metadata', whole.config -> 'metadata')"
        tags = "coalesce(whole.config -> 'tags', whole.config #> '{system_attrs,tags}')"
        given, attributes_text = f"{launch} AS value", "NULL::text"
        metrics = layout.json("h", "metrics")
        last = (
            f"""
            SELECT DISTINCT ON (h.run_id) h.run_id::text AS run_id,
                   coalesce({metrics} ->> 'learning_rate', {_text_in(metrics)}) AS rate
            FROM wandb_history h JOIN log ON log.run_id = h.run_id::text AND log.last_step = {layout.step}
            ORDER BY h.run_id
            """
            if layout.history
            else "SELECT NULL::text AS run_id, NULL::text AS rate WHERE false"
        )
        last_rate = "last.rate"
        whole = (
            "SELECT w.config, w.config AS summary "
            f"FROM (SELECT {layout.json('r', 'raw_data')} || '{{}}' AS config OFFSET 0) w"
        )
    else:
        launch = layout.json("r", "wandb_metadata") if "wandb_metadata" in layout.runs else "NULL::jsonb"
        attributes = layout.json("r", "system_attrs") if "system_attrs" in layout.runs else "NULL::jsonb"
        given = f"{launch} AS value, {attributes} -> 'tags' AS tags"
        tags, attributes_text = "given.tags", f"CASE WHEN given.tags IS NULL THEN {_text_in(attributes)} END"
        last = "SELECT NULL::text AS run_id WHERE false"
        last_rate = "NULL::text"
        config, summary = layout.json("r", "config"), layout.json("r", "summary")
        whole = f"SELECT {config} || '{{}}' AS config, {summary} || '{{}}' AS summary OFFSET 0"

    def column(name: str) -> str:
        return f"r.{name}::text" if name in layout.runs else "NULL::text"

    return f"""
    WITH log AS MATERIALIZED ({log}),
         last AS ({last})
    SELECT r.run_id::text, {column("run_name")}, {column("state")}, {column("project")}, {column("entity")},
           {column("created_at")}, {_picked("whole.config", "config_keys")}, {_picked("whole.summary", "summary_keys")},
           coalesce(jsonb_typeof(whole.summary) = 'object' AND jsonb_path_exists(
               whole.summary, '$.keyvalue() ? (@.key starts with "oe_eval_metrics/")', '{{}}', true), false),
           coalesce({_text_in("launch.value")}, jsonb_build_object(
               'args', launch.value -> 'args', 'program', launch.value -> 'program',
               'gpu_count', launch.value -> 'gpu_count')::text),
           ({tags})::text, {last_rate}, concat_ws('-', {_row_version(layout)}, log.version),
           {_text_in_list("whole.config")}, {_text_in_list("whole.summary")}, {attributes_text},
           coalesce(log.unplaced, 0)
    FROM wandb_runs r
    LEFT JOIN log ON log.run_id = r.run_id::text
    LEFT JOIN last ON last.run_id = r.run_id::text
    CROSS JOIN LATERAL ({whole}) whole
    CROSS JOIN LATERAL (SELECT {given} OFFSET 0) given
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
        return ["count(*)", f"max({layout.order})", f"max({layout.step})", "sum(hashtextextended(h::text, 0))"]
    # Text on the way to a number costs more than all the rest of it.
    number = "hashxidextended(h.xmin, 0)" if layout.hashes_transactions else "h.xmin::text::bigint"
    return ["count(*)", f"sum({number})", "sum(pg_column_size(h.metrics))"]


def history_query(layout: Layout, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the query of logged rows, and the parameters that stand for its keys.

    Parameters: ``run_ids`` and those returned. Columns: index of the run, step, id, and with any keys, one per key and
    the text of the whole row where that is JSON text that the server does not look into. Numbers go
    as text, the very digits of the store: a cast on the server would fail the whole query at the first text
    that is no number, and costs more there than here.

    A value's type, which takes a second look into the row, is asked for where its text alone leaves a doubt:
    ``true`` may be a boolean or a text, and what is long is as a rule no number and need not travel. All else
    reads the same whatever its type.
    """
    parameters = {f"key{position}": key for position, key in enumerate(keys)}
    texts, values = [], []
    if not layout.is_jsonb("wandb_history", "metrics"):
        values = ["NULL"] * len(parameters)
        packed = ["q.metrics::text"] if parameters else []
        parameters = {}
    else:
        # A string of JSON has no keys.
        found = ", ".join(f"q.text{position}" for position in range(len(parameters)))
        packed = [f"CASE WHEN coalesce({found}) IS NULL THEN {_text_in('q.metrics')} END"] if found else []
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
    # OFFSET 0 keeps the server from writing the inner expressions into the outer ones, once per mention.
    return (
        f"""
        SELECT {", ".join(("q.index", "q.step", "q.id", *values, *packed))}
        FROM (
            SELECT {", ".join(("asked.index", f"{layout.step} AS step", f"{layout.order} AS id", "h.metrics", *texts))}
            FROM wandb_history h
            JOIN {_ASKED} ON asked.run_id = h.run_id::text
            WHERE {layout.has_step}
            OFFSET 0
        ) q
        """,
        parameters,
    )


def evaluations_query(layout: Layout) -> str:
    """Return the query of final evaluations: of each run asked for, the wanted keys of its summary.

    Parameters: ``run_ids``, ``indices``, ``keys`` (of the summary), ``entries`` (of the objects among
    them). Columns: index of the run, JSON text of an object. An object's task configuration, most of its
    size, stays behind. A summary that is JSON text comes whole.
    """
    value = _inner("e.value", layout)
    return f"""
    SELECT asked.index, coalesce(picked.summary::text, {_text_in(layout.summary)})
    FROM wandb_runs r
    JOIN {_ASKED} ON asked.run_id = r.run_id::text
    CROSS JOIN LATERAL (
        SELECT jsonb_object_agg(e.key, CASE WHEN jsonb_typeof(v.value) = 'object' AND NOT {_IS_FLAT} THEN (
                   SELECT jsonb_object_agg(i.key, i.value) FROM jsonb_each(v.value) i
                   WHERE i.key = ANY(%(entries)s::text[])
               ) ELSE v.value END) AS summary
        FROM jsonb_each({_object(layout.summary)}) e
        CROSS JOIN LATERAL (SELECT {value} AS value OFFSET 0) v
        WHERE e.key = ANY(%(keys)s::text[])
    ) picked
    WHERE picked.summary IS NOT NULL OR jsonb_typeof({layout.summary}) = 'string'
    """


def metric_names_query(layout: Layout) -> str:
    """Return the query of all names: kind (``log``, ``flat``, ``entry``, ``text``), key, entry or text.

    ``text`` is an evaluation as JSON text that the server could not parse safely. A key that begins with `PACKED` goes
    on with the text of a whole row, or summary, that is JSON text.
    """
    logs = ""
    summary = _object(layout.summary, "jsonb_build_object('oe_eval_metrics/', {0})")
    if layout.history:
        # Rows differ little in their keys. Those of a sample are taken away from every row, and only what is left
        # is spread out: some tenth of the work.
        rows = "wandb_history h TABLESAMPLE SYSTEM (1) REPEATABLE (0)" if layout.physical else "wandb_history h"
        metrics = layout.json("h", "metrics")
        row = _object(metrics, "{0}")
        logs = f"""
        WITH common AS MATERIALIZED (
            SELECT DISTINCT k FROM (SELECT {_object(metrics)} AS row FROM {rows} LIMIT 20000) s
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
    return f"""
    {logs}
    SELECT DISTINCT 'flat' AS kind, e.key, NULL::text AS entry
    FROM wandb_runs r CROSS JOIN LATERAL jsonb_object_keys({_object(layout.summary)}) e(key)
    WHERE starts_with(e.key, {_EVALUATION}) AND {_IS_FLAT}
    UNION ALL
    SELECT DISTINCT i.kind, e.key, i.entry
    FROM wandb_runs r
    CROSS JOIN LATERAL jsonb_each({summary}) e
    CROSS JOIN LATERAL (SELECT {_inner("e.value", layout)} AS value OFFSET 0) v
    CROSS JOIN LATERAL (
        SELECT 'entry' AS kind, k AS entry FROM jsonb_object_keys({_object("v.value")}) k
        UNION ALL
        SELECT 'entry', k FROM jsonb_object_keys({_object("(v.value -> 'extra_metrics')")}) k
        UNION ALL
        SELECT 'text', v.value #>> '{{}}' WHERE jsonb_typeof(v.value) = 'string'
    ) i
    WHERE starts_with(e.key, {_EVALUATION}) AND NOT {_IS_FLAT}
    """
