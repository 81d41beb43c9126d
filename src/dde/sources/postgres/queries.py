"""SQL queries of a PostgreSQL store, one per method, for both layouts of its tables.

The server selects the keys: config, summary and attributes of a run are about 200 KB, and only a few hundred bytes of
them are needed. Keys are passed as parameters, so they may contain any character.

With one ``->`` per key, the server would decompress a large column once per key. Where several keys of a column are
needed, ``|| '{}'`` in a subquery decompresses the column once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dde.errors import SourceError
from dde.sources.wandb.logs import MOST_STEPS

__all__ = [
    "CATALOG",
    "PACKED",
    "SCHEMAS",
    "Layout",
    "catalog_query",
    "complete_run_query",
    "evaluations_query",
    "history_query",
    "metric_names_query",
    "runs_query",
]

#: Existing tables and their columns. The query also sets, for this transaction only, so that a pooled connection is
#: returned unchanged: the shorter of our statement timeout and the server's, the format of timestamps, the order of
#: rows as in the table, and an error instead of partial results where row-level security hides rows.
CATALOG = """
WITH given AS (
    SELECT extract(epoch FROM current_setting('statement_timeout')::interval) * 1000 AS own,
           %(timeout)s::text::numeric AS requested
), allowed AS (
    SELECT CASE WHEN own = 0 OR requested < own THEN coalesce(requested, own) ELSE own END AS limit FROM given
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

# The same for the tables of one schema; it is put on the search path for later statements of the transaction.
_CATALOG_OF_SCHEMA = CATALOG.replace(
    "|| set_config('TimeZone', 'UTC', true)",
    "|| set_config('search_path', quote_ident(%(schema)s::text), true) || set_config('TimeZone', 'UTC', true)",
).replace(
    "to_regclass('wandb_runs'), to_regclass('wandb_history')",
    "to_regclass(quote_ident(%(schema)s::text) || '.wandb_runs'), "
    "to_regclass(quote_ident(%(schema)s::text) || '.wandb_history')",
)

#: Schemas that have a table of runs, and whether this user has access to them.
SCHEMAS = """
SELECT n.nspname::text, has_schema_privilege(n.oid, 'usage')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'wandb_runs' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1
"""

# Accepted types of JSON columns and of steps. JSON of other types than jsonb is decoded on the client.
_JSON_TYPES = frozenset({"jsonb", "json", "text", "character varying", "character"})
_JSON_COLUMNS = {
    "wandb_runs": ("config", "summary", "raw_data", "wandb_metadata", "system_attrs"),
    "wandb_history": ("metrics",),
}
_WHOLE_TYPES = frozenset({"smallint", "integer", "bigint"})
_NUMBER_TYPES = frozenset({"numeric", "real", "double precision"})
_TEXT_TYPES = frozenset({"text", "character varying", "character"})
_NUMBER = "'^[[:space:]]*[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,3})?[[:space:]]*$'"
# Prefix of a result key that contains the JSON text of an entire row instead; no metric name starts with it.
PACKED = "\x01"


class CatalogRow(NamedTuple):
    """One table in the result of `catalog_query`; fields in the order of the query."""

    table: str
    kind: str
    columns: Sequence[str]
    hashes_transactions: bool
    tells_identity: bool
    types: Sequence[str]
    statement_timeout: float


class RunRow(NamedTuple):
    """One run in the result of `runs_query`; fields in the order of the query.

    Texts are JSON, except identifiers, ``last_rate`` and ``version``. The packed texts are those of columns that the
    server does not parse; None for others. ``rank`` orders several rows of one run; None for a run with one row.
    """

    run_id: str | None
    run_name: str | None
    state: str | None
    project: str | None
    entity: str | None
    created_at: str | None
    config: str | None
    summary: str | None
    has_evaluations: bool
    launch: str | None
    tags: str | None
    last_rate: str | None
    version: str
    config_packed: str | None
    summary_packed: str | None
    attributes_packed: str | None
    rows_without_step: int
    rank: str | None


# Prefix of the key of a final evaluation, and the position of the task's name after it.
_EVALUATION = "'oe_eval_metrics/'"
_TASK_START = 17
# Whether a key names one entry of an evaluation rather than the object of all its entries.
_IS_FLAT = f"position('/' IN substr(e.key, {_TASK_START})) > 0"

# Text of a logged row, in an order that no setting of the server changes.
_LOG_TEXT = 'h.metrics::text COLLATE "C"'

# A text of more bytes is not a number, unless it consists only of characters of numbers.
_LONG = 64
_NOT_OF_NUMBERS = "'[^-+.0-9eE[:space:]]'"

# Ids of runs that have several rows.
_REPEATED = """repeated AS MATERIALIZED (
    SELECT run_id::text AS run_id FROM wandb_runs GROUP BY 1 HAVING count(*) > 1
)"""

# The requested runs. GROUP BY tells the planner that ids are unique; otherwise it takes the log for the smaller side
# of the join, and writes all of it to temporary files.
_REQUESTED = """(
    SELECT u.run_id, min(u.index) AS index
    FROM unnest(%(run_ids)s::text[], %(indices)s::int[]) AS u(run_id, index) GROUP BY u.run_id
) AS requested"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of the tables, as described by the catalog.

    Attributes
    ----------
    runs, history : frozenset of str
        Names of the columns; `history` is empty if the table is absent.
    physical : bool
        Whether both are tables rather than views; only rows of tables record the transaction that wrote them.
    parses_safely : bool
        Whether the server can check that text is valid JSON before parsing it (from PostgreSQL 16).
    hashes_transactions : bool
        Whether the server can hash transaction ids (from PostgreSQL 18).
    tells_identity : bool
        Whether this user may query the identity of the server.
    types : mapping of (str, str) to str
        Type of each column, by table and column, under the server's name.
    limit : float
        Statement timeout in seconds; 0 for none.
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
    def from_catalog(cls, rows: Sequence[Sequence[Any]], server_version: int, store: str) -> Layout:
        """Return the layout described by the rows of `catalog_query`.

        Raises
        ------
        SourceError
            If the tables are absent, have neither known layout, or a column has a type that can't be read.
        """
        tables = [CatalogRow(*row) for row in rows]
        columns = {table.table: frozenset(table.columns) for table in tables}
        runs, history = columns.get("wandb_runs", frozenset()), columns.get("wandb_history", frozenset())
        if not runs:
            raise SourceError(
                f"{store} has no table wandb_runs on the search path of this user, "
                "so it is not a W&B store, or its schema is not on the search path. "
                "Name the database that dr_wandb wrote to; for tables in a schema pass schema=, or add "
                "?schema=<schema> to the URL (?options=-csearch_path%3D<schema> if no pooler is in between)."
            )
        types = {(t.table, name): kind for t in tables for name, kind in zip(t.columns, t.types, strict=True)}
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
                physical=all(table.kind in "rpm" for table in tables),
                parses_safely=server_version >= 160000,
                hashes_transactions=all(table.hashes_transactions for table in tables),
                tells_identity=all(table.tells_identity for table in tables),
                types=types,
                limit=tables[0].statement_timeout,
            )
        raise SourceError(
            f"In {store} the table {problem}. dr_wandb has no such layout (config and summary, or raw_data; "
            "run_id, step and metrics), so runs can't be read from it. "
            "Load an export into a fresh database with `dde ingest`."
        )

    def is_jsonb(self, table: str, column: str) -> bool:
        """Return whether a column is jsonb, so the server can select keys; other types are decoded on the client."""
        return self.types.get((table, column), "jsonb") == "jsonb"

    def json(self, alias: str, column: str) -> str:
        """Return SQL of a JSON column as jsonb; a column of another type becomes a jsonb string with its text."""
        table = "wandb_history" if alias == "h" else "wandb_runs"
        name = f"{alias}.{column}"
        return name if self.is_jsonb(table, column) else f"to_jsonb({name}::text)"

    @property
    def step(self) -> str:
        """SQL of a step as an integer; null where it is not one. `has_step` tells which are usable."""
        kind = self.types.get(("wandb_history", "step"), "integer")
        if kind in _WHOLE_TYPES:
            return "h.step"
        number = "h.step::numeric"
        if kind in _TEXT_TYPES:
            number = f"CASE WHEN h.step ~ {_NUMBER} THEN btrim(h.step)::numeric END"
        # NaN and Infinity, which numeric allows, compare greater than any other number.
        return (
            f"(SELECT n::bigint FROM (SELECT {number} AS n OFFSET 0) s "
            f"WHERE n >= 0 AND n < {MOST_STEPS} AND n = trunc(n))"
        )

    @property
    def has_step(self) -> str:
        """SQL of whether a row has a usable step."""
        kind = self.types.get(("wandb_history", "step"), "integer")
        if kind not in _WHOLE_TYPES:
            return f"{self.step} IS NOT NULL"
        return f"h.step BETWEEN 0 AND {MOST_STEPS - 1}" if kind == "bigint" else "h.step >= 0"

    @property
    def order(self) -> str:
        """SQL of an integer that gives the order in which rows were logged; null for rows that come last."""
        if "id" in self.history and self.types.get(("wandb_history", "id"), "integer") in _WHOLE_TYPES:
            return "h.id"
        kind = self.types.get(("wandb_history", "timestamp"), "") if "timestamp" in self.history else ""
        if kind.startswith("timestamp") or kind == "date":
            # Infinity and years outside 1 to 9999 are not times of a log.
            return (
                "CASE WHEN isfinite(h.timestamp) AND h.timestamp BETWEEN '0001-01-01' AND '9999-01-01' "
                "THEN (extract(epoch FROM h.timestamp) * 1000000)::bigint END"
            )
        return "0::bigint"

    @property
    def flat(self) -> bool:
        """Whether config and summary are in one object, as before dr_wandb 0.1."""
        return not {"config", "summary"} <= self.runs

    @property
    def summary(self) -> str:
        """SQL of the object that contains the summary."""
        return self.json("r", "raw_data" if self.flat else "summary")


def catalog_query(schema: str, timeout: float | None) -> tuple[str, dict[str, str | None]]:
    """Return the query of the catalog and its parameters.

    Parameters
    ----------
    schema : str
        Schema of the tables; "" for those on the search path.
    timeout : float or None
        Statement timeout in seconds, unless that of the server is shorter; None for that of the server.
    """
    # The server's maximum is about 24 days.
    limit = None if timeout is None else str(min(max(1, round(timeout * 1000)), 2**31 - 1))
    if schema:
        return _CATALOG_OF_SCHEMA, {"timeout": limit, "schema": schema}
    return CATALOG, {"timeout": limit}


def _unreadable_columns(types: Mapping[tuple[str, str], str]) -> str:
    for table, names in _JSON_COLUMNS.items():
        for name in names:
            kind = types.get((table, name), "jsonb")
            if kind not in _JSON_TYPES:
                return f"{table} has a column {name} of the type {kind}, which is not JSON"
    step = types.get(("wandb_history", "step"), "integer")
    if step not in _WHOLE_TYPES | _NUMBER_TYPES | _TEXT_TYPES:
        return f"wandb_history has a column step of the type {step}, which is not a number"
    return ""


def _text_in(value: str) -> str:
    """Return SQL of the text of a jsonb string; null for any other value."""
    return f"CASE WHEN jsonb_typeof({value}) = 'string' THEN {value} #>> '{{}}' END"


def _text_in_list(value: str) -> str:
    """Return SQL of the text of a jsonb string that ``|| '{}'`` wrapped into a list; null for an object and for null.

    For any other value, it is the text of an empty list.
    """
    first = f"({value} -> 0)"
    return (
        f"CASE WHEN jsonb_typeof({value}) = 'array' THEN CASE jsonb_typeof({first}) "
        f"WHEN 'string' THEN {value} ->> 0 WHEN 'null' THEN NULL ELSE '[]' END END"
    )


def _object(column: str, text_template: str = "") -> str:
    """Return SQL of a value that is an object, and of an empty object for any other value.

    With `text_template`, a jsonb string becomes an object with its text as key, put into the template.
    """
    # jsonb_each accepts only objects.
    if not text_template:
        return f"CASE WHEN jsonb_typeof({column}) = 'object' THEN {column} ELSE '{{}}' END"
    packed = text_template.format(f"jsonb_build_object(chr(1) || ({column} #>> '{{}}'), NULL)")
    return f"CASE jsonb_typeof({column}) WHEN 'object' THEN {column} WHEN 'string' THEN {packed} ELSE '{{}}' END"


def _unwrapped(value: str, layout: Layout) -> str:
    """Return SQL of a value that may be JSON text, parsed if the server can do that safely."""
    if not layout.parses_safely:
        return value
    text = f"({value} #>> '{{}}')"
    return (
        f"CASE WHEN jsonb_typeof({value}) = 'string' AND pg_input_is_valid({text}, 'jsonb') "
        f"THEN {text}::jsonb ELSE {value} END"
    )


def _inner(value: str, layout: Layout) -> str:
    """Return SQL of an evaluation, with JSON text parsed and the wrapping of W&B's config files removed."""
    parsed = _unwrapped(value, layout)
    return (
        "(SELECT CASE WHEN jsonb_typeof(p) = 'object' AND p ? 'value' AND p - 'value' - 'desc' = '{}' "
        f"THEN p -> 'value' ELSE p END FROM (SELECT {parsed} AS p OFFSET 0) w)"
    )


def runs_query(layout: Layout) -> str:
    """Return the query of all runs: identifiers, selected keys, and a version that changes with the content.

    The query has the parameters ``config_keys`` and ``summary_keys``; its rows are those of :class:`RunRow`.
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
        # Keys of the summary overwrote those of config. To detect that for a hyperparameter, its value is compared
        # with the last value that the run logged under that name.
        launch = "coalesce(unpacked.config -> 'wandb_metadata', unpacked.config -> 'metadata')"
        tags = "coalesce(unpacked.config -> 'tags', unpacked.config #> '{system_attrs,tags}')"
        given, attributes_text = f"{launch} AS value", "NULL::text"
        metrics = layout.json("h", "metrics")
        last = (
            f"""
            SELECT DISTINCT ON (h.run_id) h.run_id::text AS run_id,
                   coalesce({metrics} ->> 'learning_rate', {_text_in(metrics)}) AS rate
            FROM wandb_history h JOIN log ON log.run_id = h.run_id::text AND log.last_step = {layout.step}
            ORDER BY h.run_id, {layout.order}, {_LOG_TEXT}
            """
            if layout.history
            else "SELECT NULL::text AS run_id, NULL::text AS rate WHERE false"
        )
        last_rate = "last.rate"
        unpacked = (
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
        unpacked = f"SELECT {config} || '{{}}' AS config, {summary} || '{{}}' AS summary OFFSET 0"

    def column(name: str) -> str:
        return f"r.{name}::text" if name in layout.runs else "NULL::text"

    return f"""
    WITH {_REPEATED},
         log AS MATERIALIZED ({log}),
         last AS ({last})
    SELECT r.run_id::text, {column("run_name")}, {column("state")}, {column("project")}, {column("entity")},
           {column("created_at")}, {_picked("unpacked.config", "config_keys")},
           {_picked("unpacked.summary", "summary_keys")},
           coalesce(jsonb_typeof(unpacked.summary) = 'object' AND jsonb_path_exists(
               unpacked.summary, '$.keyvalue() ? (@.key starts with "oe_eval_metrics/")', '{{}}', true), false),
           coalesce({_text_in("launch.value")}, jsonb_build_object(
               'args', launch.value -> 'args', 'program', launch.value -> 'program',
               'gpu_count', launch.value -> 'gpu_count')::text),
           ({tags})::text, {last_rate}, concat_ws('-', {_row_version(layout)}, log.version),
           {_text_in_list("unpacked.config")}, {_text_in_list("unpacked.summary")}, {attributes_text},
           coalesce(log.unplaced, 0), {_rank(layout)}
    FROM wandb_runs r
    LEFT JOIN log ON log.run_id = r.run_id::text
    LEFT JOIN last ON last.run_id = r.run_id::text
    CROSS JOIN LATERAL ({unpacked}) unpacked
    CROSS JOIN LATERAL (SELECT {given} OFFSET 0) given
    CROSS JOIN LATERAL (SELECT {_unwrapped("given.value", layout)} AS value OFFSET 0) launch
    """


def complete_run_query(layout: Layout) -> str:
    """Return the query of the complete row of the run ``run_id``, as JSON text; of several rows, that of `runs_query`.

    Examples
    --------
    >>> "LIMIT 1" in complete_run_query(Layout(frozenset({"run_id"}), frozenset(), True, True))
    True
    """
    created = "r.created_at::text" if "created_at" in layout.runs else "NULL::text"
    return f"""
    SELECT row_to_json(r)::text FROM wandb_runs r WHERE r.run_id::text = %(run_id)s
    ORDER BY ({created} IS NULL)::int, {created} COLLATE "C", md5(r::text) LIMIT 1
    """


def _picked(value: str, parameter: str) -> str:
    """Return SQL of the JSON text of an object with the keys that a parameter names; null if it has none of them."""
    return f"""(
               SELECT jsonb_object_agg(e.key, e.value)::text
               FROM unnest(%({parameter})s::text[]) AS k(key)
               CROSS JOIN LATERAL (SELECT k.key, {value} -> k.key AS value OFFSET 0) e
               WHERE e.value IS NOT NULL
           )"""


def _rank(layout: Layout) -> str:
    """Return SQL of a text by which the rows of one run are ordered; null for a run with one row.

    The table has no order: an update or CLUSTER moves rows. The row that was created first is the first, then the
    content decides.
    """
    created = "r.created_at::text" if "created_at" in layout.runs else "NULL::text"
    return (
        "CASE WHEN r.run_id::text IN (SELECT run_id FROM repeated) "
        f"THEN concat(({created} IS NULL)::int, {created}, ' ', md5(r::text)) END"
    )


def _row_version(layout: Layout) -> str:
    """Return SQL of a version that changes with the row of a run."""
    if not layout.physical:
        return "md5(r::text)"
    parts = [
        "r.xmin::text",
        # The stored size, known without decompressing, distinguishes restored copies.
        *(f"pg_column_size(r.{name})" for name in ("config", "summary", "raw_data") if name in layout.runs),
    ]
    if layout.tells_identity:
        # Transaction ids are unique only within a server. A copy restored on another server may have the same ids, and
        # so may a server that was reset to an earlier point, which starts a new timeline.
        parts += [
            "(SELECT system_identifier FROM pg_control_system())",
            "(SELECT timeline_id FROM pg_control_checkpoint())",
        ]
    return f"concat_ws('.', {', '.join(parts)})"


def _log_version(layout: Layout) -> list[str]:
    """Return SQL aggregates over the logged rows of a run that change whenever any of them does.

    A row that is written or changed gets the id of the transaction, which is new to the server; the id of a deleted
    row disappears. The sum of ids, unlike their maximum, also detects a transaction that began before another one and
    was committed after it.
    """
    if not layout.physical:
        return ["count(*)", f"max({layout.order})", f"max({layout.step})", "sum(hashtextextended(h::text, 0))"]
    # Where available, avoid the cast through text, which costs more than everything else here.
    number = "hashxidextended(h.xmin, 0)" if layout.hashes_transactions else "h.xmin::text::bigint"
    return ["count(*)", f"sum({number})", "sum(pg_column_size(h.metrics))"]


def history_query(layout: Layout, keys: Sequence[str], by_content: bool = False) -> tuple[str, dict[str, str]]:
    """Return the query of logged rows, and the parameters for its keys.

    Parameters: ``run_ids``, ``indices`` and those returned. Columns: index of the run, step, id; with any keys, also
    one column per key, and the text of the row where it is JSON text that the server does not parse. Numbers are sent
    as text with the digits of the store: a cast on the server would fail the query at the first text that is not a
    number, and is slower than one on the client.

    The id gives the order in which rows were logged. With `by_content`, rows with the same one are ordered by their
    text, so that no two different rows have the same id; sorting them takes the server longer than all else here.

    The type of a value, which requires another lookup in the row, is checked only where the text is ambiguous:
    ``true`` may be a boolean or a text, and a long text is usually not a number and need not be sent. Other texts
    are read the same way whatever their type.
    """
    parameters = {f"key{position}": key for position, key in enumerate(keys)}
    texts, values = [], []
    if not layout.is_jsonb("wandb_history", "metrics"):
        # The row is decoded on the client.
        values = ["NULL"] * len(parameters)
        packed = ["q.metrics::text"] if parameters else []
        parameters = {}
    else:
        # If the row is a JSON string, all keys are null.
        key_texts = ", ".join(f"q.text{position}" for position in range(len(parameters)))
        packed = [f"CASE WHEN coalesce({key_texts}) IS NULL THEN {_text_in('q.metrics')} END"] if key_texts else []
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
    order = f"row_number() OVER (ORDER BY {layout.order}, {_LOG_TEXT})" if by_content else layout.order
    columns = ("requested.index", f"{layout.step} AS step", f"{order} AS id", "h.metrics", *texts)
    # OFFSET 0 prevents the server from inlining the inner expressions at each use in the outer ones.
    return (
        f"""
        SELECT {", ".join(("q.index", "q.step", "q.id", *values, *packed))}
        FROM (
            SELECT {", ".join(columns)}
            FROM wandb_history h
            JOIN {_REQUESTED} ON requested.run_id = h.run_id::text
            WHERE {layout.has_step}
            OFFSET 0
        ) q
        """,
        parameters,
    )


def evaluations_query(layout: Layout) -> str:
    """Return the query of final evaluations: the selected summary keys of each requested run.

    Parameters: ``run_ids``, ``indices``, ``keys`` (of the summary), ``entries`` (of the objects among
    them). Columns: index of the run, JSON text of an object, rank of the row as in `runs_query`. The task
    configuration of an evaluation, most of its size, is not sent. A summary that is JSON text is sent completely.
    """
    value = _inner("e.value", layout)
    return f"""
    WITH {_REPEATED}
    SELECT requested.index, coalesce(picked.summary::text, {_text_in(layout.summary)}), ranked.rank
    FROM wandb_runs r
    JOIN {_REQUESTED} ON requested.run_id = r.run_id::text
    CROSS JOIN LATERAL (
        SELECT jsonb_object_agg(e.key, CASE WHEN jsonb_typeof(v.value) = 'object' AND NOT {_IS_FLAT} THEN (
                   SELECT jsonb_object_agg(i.key, i.value) FROM jsonb_each(v.value) i
                   WHERE i.key = ANY(%(entries)s::text[])
               ) ELSE v.value END) AS summary
        FROM jsonb_each({_object(layout.summary)}) e
        CROSS JOIN LATERAL (SELECT {value} AS value OFFSET 0) v
        WHERE e.key = ANY(%(keys)s::text[])
    ) picked
    CROSS JOIN LATERAL (SELECT {_rank(layout)} AS rank OFFSET 0) ranked
    WHERE picked.summary IS NOT NULL OR jsonb_typeof({layout.summary}) = 'string' OR ranked.rank IS NOT NULL
    """


def metric_names_query(layout: Layout) -> str:
    """Return the query of all names: kind (``log``, ``flat``, ``entry``, ``text``), key, entry or text.

    ``text`` is an evaluation as JSON text that the server could not parse safely. A key that starts with `PACKED`
    contains the JSON text of an entire row or summary.
    """
    logs = ""
    summary = _object(layout.summary, "jsonb_build_object('oe_eval_metrics/', {0})")
    if layout.history:
        # Rows have mostly the same keys. Removing those of a sample before expanding the rest saves about 90% of the
        # work.
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
