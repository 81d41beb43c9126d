"""What stores in PostgreSQL hold beside what dr_wandb writes: other types of columns, JSON encoded twice, odd rows."""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import Any

import numpy as np
import psycopg
import pytest
from store_data import (
    EVALUATION_NAMES,
    EXPECTED,
    EXPECTED_EVALUATIONS,
    EXPECTED_RUN,
    EXPECTED_STEP,
    KEYS,
    ROWS,
    fill_tables,
)

from dde.errors import ConflictWarning, SourceError
from dde.sources.postgres.store import PostgresStore
from dde.sources.protocols import RunRecord

_IDS = ["b_sft", "a_dpo", "absent"]
_JSON = {
    "0.1": {
        "wandb_runs": ("config", "summary", "wandb_metadata", "system_attrs"),
        "wandb_history": ("metrics",),
    },
    "old": {"wandb_runs": ("raw_data",), "wandb_history": ("metrics",)},
}


def _execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statements)


def _assert_same(store: PostgresStore, plain: PostgresStore) -> None:
    """Check that a store holds what a plain one does, but for the versions."""

    def shown(records: list[RunRecord]) -> list[dict[str, Any]]:
        return [{name: repr(getattr(r, name)) for name in RunRecord.__slots__ if name != "version"} for r in records]

    extra = ["custom", "pretrain_eval_3"]
    assert shown(store.runs(extra)) == shown(plain.runs(extra))
    history = store.history(_IDS, KEYS)
    assert history.run.tolist() == EXPECTED_RUN
    assert history.step.tolist() == EXPECTED_STEP
    for key, values in EXPECTED.items():
        np.testing.assert_array_equal(history.values[key], values, err_msg=key)
    values = store.evaluations(["a_dpo", "b_sft", "c_no_log"], list(EXPECTED_EVALUATIONS))
    for name, expected in EXPECTED_EVALUATIONS.items():
        np.testing.assert_array_equal(values[name], expected, err_msg=str(name))
    logs, names = store.metric_names()
    assert logs == sorted({key for _, _, metrics in ROWS for key in metrics})
    assert names == EVALUATION_NAMES


@pytest.mark.parametrize("layout", ["0.1", "old"])
@pytest.mark.parametrize("times", [1, 2])
def test_json_text_in_jsonb(postgres: Any, database: str, layout: str, times: int) -> None:
    fill_tables(database, layout)
    plain = postgres.new_database()
    fill_tables(plain, layout)
    for _ in range(times):
        for table, columns in _JSON[layout].items():
            _execute(database, f"UPDATE {table} SET " + ", ".join(f"{c} = to_jsonb({c}::text)" for c in columns))
    _assert_same(PostgresStore(database), PostgresStore(plain))


@pytest.mark.parametrize("layout", ["0.1", "old"])
@pytest.mark.parametrize("kind", ["text", "json", "varchar"])
def test_json_in_columns_of_other_types(postgres: Any, database: str, layout: str, kind: str) -> None:
    fill_tables(database, layout)
    plain = postgres.new_database()
    fill_tables(plain, layout)
    for table, columns in _JSON[layout].items():
        for column in columns:
            _execute(database, f"ALTER TABLE {table} ALTER {column} TYPE {kind} USING {column}::{kind}")
    _assert_same(PostgresStore(database), PostgresStore(plain))


def test_text_that_the_server_can_not_parse(database: str) -> None:
    """Python writes NaN and Infinity into JSON text, which jsonb refuses: one such row must not hide itself."""
    fill_tables(database, "0.1")
    rows = [json.dumps({"x": value, "y": 1}) for value in (float("nan"), float("inf"), 3)] + ["no json", "[1]", '"{}"']
    with psycopg.connect(database) as connection:
        for step, text in enumerate(rows):
            connection.execute(
                "INSERT INTO wandb_history (run_id, step, metrics) VALUES ('odd', %s, %s)", (step, json.dumps(text))
            )
        summary = json.dumps({"oe_eval_metrics/csqa": {"acc_raw": float("nan"), "primary_score": 0.25}, "_step": 7})
        config = json.dumps({"learning_rate": float("inf"), "seed": 3})
        connection.execute(
            "UPDATE wandb_runs SET summary = %s, config = %s WHERE run_id = 'a_dpo'",
            (json.dumps(summary), json.dumps(config)),
        )
        connection.execute("UPDATE wandb_runs SET config = '\"no json\"' WHERE run_id = 'b_sft'")
        connection.execute("UPDATE wandb_runs SET config = '[1]', summary = 'null' WHERE run_id = 'c_no_log'")
    store = PostgresStore(database)
    history = store.history(["odd"], ["x", "y"])
    np.testing.assert_array_equal(history.values["x"], [np.nan, np.inf, 3, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(history.values["y"], [1, 1, 1, np.nan, np.nan, np.nan])
    runs = store.runs()
    assert runs[0].config == {"seed": 3}
    assert any("learning_rate" in note for note in runs[0].notes)
    assert runs[0].summary == {"_step": 7}
    assert runs[0].evaluated
    values = store.evaluations(["a_dpo"], [("csqa", "primary_metric"), ("csqa", "acc_raw")])
    assert values["csqa", "primary_metric"].tolist() == [0.25]
    assert np.isnan(values["csqa", "acc_raw"]).all()
    assert runs[1].notes == ("the config is not JSON, and is not used",)
    assert runs[2].notes == ("the config is not a JSON object, and is not used",)
    assert "x" in store.metric_names()[0]


def test_evaluations_that_are_wrapped_or_aggregated(database: str) -> None:
    fill_tables(database, "0.1")
    summary = {
        "oe_eval_metrics/csqa": {"value": {"acc_raw": {"max": 0.5, "last": 0.4}, "primary_score": 0.3}, "desc": None},
        "oe_eval_metrics/boolq/acc_raw": {"min": 0.1, "max": 0.9, "last": 0.2},
    }
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE wandb_runs SET summary = %s WHERE run_id = 'b_sft'", (json.dumps(summary),))
    store = PostgresStore(database)
    wanted = [("csqa", "acc_raw"), ("csqa", "primary_metric"), ("boolq", "acc_raw")]
    values = store.evaluations(["b_sft"], wanted)
    assert [values[name].tolist() for name in wanted] == [[0.4], [0.3], [0.2]]
    assert set(store.metric_names()[1]) >= {("csqa", "acc_raw"), ("csqa", "primary_metric"), ("boolq", "acc_raw")}


@pytest.mark.parametrize("kind", ["uuid", "bigint", "numeric", "char(40)", "name"])
@pytest.mark.parametrize("where", ["both", "wandb_runs", "wandb_history"])
def test_run_ids_of_other_types(database: str, kind: str, where: str) -> None:
    fill_tables(database, "0.1")
    ids = {name: str(uuid.UUID(int=i)) if kind in ("uuid", "char(40)", "name") else str(10**15 + i)
           for i, name in enumerate(["a_dpo", "b_sft", "c_no_log", "unknown"], start=1)}  # fmt: skip
    for table in ("wandb_runs", "wandb_history"):
        for name, run_id in ids.items():
            _execute(database, f"UPDATE {table} SET run_id = '{run_id}' WHERE run_id = '{name}'")
        if where in ("both", table):
            _execute(database, f"ALTER TABLE {table} ALTER run_id TYPE {kind} USING run_id::{kind}")
    store = PostgresStore(database)
    runs = store.runs()
    assert [run.run_id for run in runs] == [ids["a_dpo"], ids["b_sft"], ids["c_no_log"]]
    assert len({run.version for run in runs}) == 3
    history = store.history([ids["b_sft"], ids["a_dpo"]], ["train_loss"])
    assert history.step.tolist() == EXPECTED_STEP
    np.testing.assert_array_equal(history.values["train_loss"], EXPECTED["train_loss"])
    assert store.evaluations([ids["b_sft"]], [("csqa", "acc_raw")])["csqa", "acc_raw"].tolist() == [0.25]


@pytest.mark.parametrize("layout", ["0.1", "old"])
@pytest.mark.parametrize("kind", ["bigint", "smallint", "numeric", "real", "double precision", "text"])
def test_steps_of_other_types(database: str, kind: str, layout: str) -> None:
    fill_tables(database, layout)
    _execute(database, f"ALTER TABLE wandb_history ALTER step TYPE {kind} USING step::{kind}")
    odd = {
        "bigint": ["-1", "9007199254740992", "NULL"],
        "smallint": ["-1", "NULL"],
        "numeric": ["-1", "1.5", "'NaN'", "'Infinity'", "'-Infinity'", "1e400::numeric", "9007199254740992", "NULL"],
        "real": ["-1", "1.5", "'NaN'", "'Infinity'", "1e30", "NULL"],
        "double precision": ["-1", "1.5", "'NaN'", "'-Infinity'", "1e300", "NULL"],
        "text": ["'-1'", "'1.5'", "'NaN'", "''", "'step 3'", "'1e999'", "'0x1F'", "repeat('9', 500)", "NULL"],
    }[kind]
    good = {"numeric": "7.000", "text": "' 7e0 '"}.get(kind, "7")
    for step in (*odd, good):
        _execute(
            database,
            f"INSERT INTO wandb_history (run_id, step, metrics) VALUES ('a_dpo', {step}, '{{\"train_loss\": 5}}')",
        )
    store = PostgresStore(database)
    history = store.history(["b_sft", "a_dpo"], ["train_loss"])
    assert history.step.tolist() == [*EXPECTED_STEP, 7]
    assert history.values["train_loss"][-1] == 5
    assert [run.rows_without_step for run in store.runs()] == [len(odd), 1, 0]


def test_ids_of_rows_that_are_no_numbers(database: str) -> None:
    fill_tables(database, "0.1")
    _execute(
        database,
        """ALTER TABLE wandb_history ALTER id DROP DEFAULT;
        UPDATE wandb_history SET timestamp = '2025-01-01'::timestamp + id * interval '1 s';
        ALTER TABLE wandb_history ALTER id TYPE text USING id::text;
        UPDATE wandb_history SET id = 'x' || (100 - id::int), timestamp = 'infinity' WHERE run_id = 'unknown';""",
    )
    # Later in the table, and earlier in time.
    _execute(
        database, """INSERT INTO wandb_history (id, run_id, step, timestamp, metrics)
        VALUES ('y', 'b_sft', 100, '2024-01-01', '{"train_loss": 8}')"""
    )  # fmt: skip
    history = PostgresStore(database).history(["b_sft"], ["train_loss"])
    assert history.step.tolist() == [100, 100, 100, 200, 300]
    assert history.values["train_loss"][0] == 8


@pytest.mark.parametrize("kind", ["views", "materialized views", "partitions", "partitions by range"])
def test_what_is_no_plain_table(database: str, kind: str) -> None:
    fill_tables(database, "0.1", schema="kept")
    if "views" in kind:
        made = "".join(
            f"CREATE {kind[:-1].upper()} public.{t} AS SELECT * FROM kept.{t};" for t in ("wandb_runs", "wandb_history")
        )
    else:
        by, parts = ("HASH (run_id)", [f"FOR VALUES WITH (MODULUS 2, REMAINDER {i})" for i in (0, 1)])
        if "range" in kind:
            by, parts = "RANGE (id)", ["FOR VALUES FROM (MINVALUE) TO (4)", "FOR VALUES FROM (4) TO (MAXVALUE)"]
        made = f"""CREATE TABLE public.wandb_runs AS SELECT * FROM kept.wandb_runs;
            CREATE TABLE public.wandb_history (LIKE kept.wandb_history) PARTITION BY {by};
            {"".join(f"CREATE TABLE part{i} PARTITION OF public.wandb_history {p};" for i, p in enumerate(parts))}
            INSERT INTO public.wandb_history SELECT * FROM kept.wandb_history"""
    _execute(database, made)
    store = PostgresStore(database)
    _assert_same(store, PostgresStore(database, schema="kept"))
    before = {run.run_id: run.version for run in store.runs()}
    assert {run.run_id: run.version for run in store.runs()} == before
    target = "kept" if "views" in kind else "public"
    _execute(
        database,
        f"UPDATE {target}.wandb_history SET metrics = metrics || '{{\"train_loss\": 7}}' WHERE run_id = 'a_dpo';"
        + ("REFRESH MATERIALIZED VIEW wandb_history" if "materialized" in kind else ""),
    )
    after = {run.run_id: run.version for run in store.runs()}
    changed = {run_id for run_id in after if after[run_id] != before[run_id]}
    # A materialized view is written anew as a whole.
    assert changed == ({"a_dpo", "b_sft"} if "materialized" in kind else {"a_dpo"})


def test_runs_without_an_id_and_runs_that_stand_twice(database: str) -> None:
    fill_tables(database, "0.1")
    _execute(
        database,
        """ALTER TABLE wandb_runs DROP CONSTRAINT wandb_runs_pkey;
        ALTER TABLE wandb_runs ALTER run_id DROP NOT NULL;
        INSERT INTO wandb_runs (run_id, state) VALUES (NULL, 'finished'), (NULL, 'failed'), ('', 'failed');
        INSERT INTO wandb_runs SELECT * FROM wandb_runs WHERE run_id = 'c_no_log'""",
    )
    store = PostgresStore(database)
    with pytest.warns(ConflictWarning, match="3 rows of wandb_runs without a run_id"):
        runs = store.runs()
    assert [run.run_id for run in runs] == ["a_dpo", "b_sft", "c_no_log"]
    assert len(store.conflicts) == 1
    _execute(
        database,
        """DELETE FROM wandb_runs WHERE coalesce(run_id, '') = '';
        INSERT INTO wandb_runs (run_id, state, summary)
        VALUES ('b_sft', 'crashed', '{"oe_eval_metrics/csqa/acc_raw": 0.75}')""",
    )
    with pytest.warns(ConflictWarning, match="disagree for 1 runs, such as 'b_sft'"):
        runs = store.runs()
    assert runs[1].state == "finished"
    assert store.evaluations(["b_sft"], [("csqa", "acc_raw")])["csqa", "acc_raw"].tolist() == [0.25]


_RUNS_IN_ANY_ORDER = [
    ("twice", "NULL", 0.9, '{"csqa": 0.1}'),
    ("twice", "'2025-03-01'", 0.2, '{"csqa": 0.2}'),
    ("twice", "'2025-02-01'", 0.3, '{"boolq": 0.3}'),
    ("alike", "'2025-02-01'", 0.4, '{"csqa": 0.4}'),
    ("alike", "'2025-02-01'", 0.5, '{"csqa": 0.5}'),
    ("equal", "NULL", 0.6, '{"csqa": 0.6}'),
    ("equal", "NULL", 0.6, '{"csqa": 0.6}'),
    ("once", "NULL", 0.7, '{"csqa": 0.7}'),
]
_LOGS_IN_ANY_ORDER = [
    ("twice", 1, '{"loss": 1.0, "total_tokens": 10}'),
    ("twice", 1, '{"loss": 2.0, "total_tokens": 20}'),
    ("twice", 1, '{"total_tokens": 30}'),
    ("twice", 2, '{"loss": 4.0, "total_tokens": 40}'),
    ("alike", 1, '{"loss": 5.0, "learning_rate": 0.4}'),
    ("alike", 1, '{"loss": 6.0, "learning_rate": 0.5}'),
]


def _answers(dsn: str) -> tuple[Any, ...]:
    """Return what a store answers, but for the versions."""
    store = PostgresStore(dsn)
    with pytest.warns(ConflictWarning, match="disagree for 2 runs, such as 'alike'"):
        runs = store.runs()
    ids = [run.run_id for run in runs]
    histories = [store.history(ids, keys) for keys in (["loss", "total_tokens"], ["loss"], ["total_tokens"], [])]
    evaluations = store.evaluations(ids, [("csqa", "acc_raw"), ("boolq", "acc_raw")])
    return (
        [repr(dataclasses.replace(run, version="")) for run in runs],
        [(h.run.tolist(), h.step.tolist(), {k: repr(v.tolist()) for k, v in h.values.items()}) for h in histories],
        {name: repr(values.tolist()) for name, values in evaluations.items()},
    )


@pytest.mark.parametrize("layout", ["0.1", "old"])
@pytest.mark.parametrize("order", ["none", "timestamp"])
def test_answers_do_not_depend_on_the_order_of_rows(postgres: Any, layout: str, order: str) -> None:
    seen = []
    for way in (1, -1):
        dsn = postgres.new_database()
        fill_tables(dsn, layout)
        _execute(
            dsn,
            """ALTER TABLE wandb_runs DROP CONSTRAINT wandb_runs_pkey; ALTER TABLE wandb_history DROP COLUMN id;
            TRUNCATE wandb_runs, wandb_history"""
            + ("; ALTER TABLE wandb_history DROP COLUMN timestamp" if order == "none" else ""),
        )
        inserts = []
        for run_id, created, rate, scores in _RUNS_IN_ANY_ORDER[::way]:
            summary = {f"oe_eval_metrics/{task}/acc_raw": score for task, score in json.loads(scores).items()}
            config = {"learning_rate": rate}
            columns = {"raw_data": config | summary} if layout == "old" else {"config": config, "summary": summary}
            columns |= {"run_name": "x", "state": "finished", "project": "p", "entity": "e"}
            texts = [f"'{json.dumps(v) if isinstance(v, dict) else v}'" for v in columns.values()]
            inserts.append(
                f"INSERT INTO wandb_runs (run_id, created_at, {', '.join(columns)}) "
                f"VALUES ('{run_id}', {created}, {', '.join(texts)})"
            )
        for row in _LOGS_IN_ANY_ORDER[::way]:
            inserts.append(f"INSERT INTO wandb_history (run_id, step, metrics) VALUES {row}")
        _execute(dsn, "; ".join(inserts))
        seen.append(_answers(dsn))
        # Rows that are written again are the last of the table; CLUSTER sorts all rows by another column.
        for statement in (
            """UPDATE wandb_runs SET state = state WHERE created_at IS NOT NULL;
            UPDATE wandb_history SET step = step WHERE metrics ->> 'total_tokens' IN ('10', '40')""",
            "VACUUM FULL wandb_runs; VACUUM FULL wandb_history",
            """CREATE INDEX by_time ON wandb_runs (created_at DESC); CLUSTER wandb_runs USING by_time;
            CREATE INDEX by_text ON wandb_history (md5(metrics::text)); CLUSTER wandb_history USING by_text""",
        ):
            with psycopg.connect(dsn, autocommit=True) as connection:
                for part in statement.split(";"):
                    connection.execute(part)
            seen.append(_answers(dsn))
    assert all(answers == seen[0] for answers in seen)
    runs, histories, evaluations = seen[0]
    assert [run.split("'")[1] for run in runs] == ["alike", "equal", "once", "twice"]
    # The row that was created first has no score of csqa.
    assert evaluations["csqa", "acc_raw"].endswith("0.6, 0.7, nan]")
    assert evaluations["boolq", "acc_raw"].endswith("nan, 0.3]")
    # Values of one row stay together, whichever keys are read.
    assert histories[0][2] == {**histories[1][2], **histories[2][2]}


def test_versions_of_runs_with_several_rows_do_not_depend_on_their_order(database: str) -> None:
    fill_tables(database, "0.1")
    _execute(
        database,
        """ALTER TABLE wandb_runs DROP CONSTRAINT wandb_runs_pkey;
        INSERT INTO wandb_runs (run_id, state) VALUES ('a_dpo', 'crashed'), ('a_dpo', 'failed'), ('a_dpo', 'running')
        """,
    )
    store = PostgresStore(database)

    def versions() -> dict[str, str]:
        with pytest.warns(ConflictWarning, match="disagree for 1 runs, such as 'a_dpo'"):
            return {run.run_id: run.version for run in store.runs()}

    before = versions()
    for direction in ("DESC", "ASC"):
        for statement in (
            f"CREATE INDEX by_state_{direction} ON wandb_runs (state {direction})",
            f"CLUSTER wandb_runs USING by_state_{direction}",
        ):
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(statement)
        assert versions() == before
    _execute(database, "UPDATE wandb_runs SET state = 'killed' WHERE run_id = 'a_dpo' AND state = 'failed'")
    assert {run for run, version in versions().items() if version != before[run]} == {"a_dpo"}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("timestamptz", "'2025-09-02 15:45:51.5+02'", "2025-09-02T13:45:51.500000"),
        ("timestamp", "'infinity'", "NaT"),
        ("timestamptz", "'-infinity'", "NaT"),
        ("timestamp", "'0044-03-15 BC'", "NaT"),
        ("timestamp", "'12025-01-01'", "NaT"),
        ("timestamptz", "'0001-01-01 00:00:00+14'", "NaT"),
        ("date", "'2025-09-02'", "2025-09-02T00:00:00.000000"),
        ("text", "'2025-09-02T13:45:51Z'", "2025-09-02T13:45:51.000000"),
        ("text", "'yesterday'", "NaT"),
        ("double precision", "1756820751.5", "2025-09-02T13:45:51.500000"),
        ("double precision", "'NaN'", "NaT"),
        ("numeric", "1e30", "NaT"),
        ("bigint", "1756820751", "2025-09-02T13:45:51.000000"),
    ],
)
def test_times_of_every_kind(database: str, kind: str, value: str, expected: str) -> None:
    fill_tables(database, "0.1")
    _execute(
        database,
        f"""ALTER TABLE wandb_runs ALTER created_at TYPE {kind} USING NULL;
        UPDATE wandb_runs SET created_at = {value} WHERE run_id = 'b_sft'""",
    )
    run = PostgresStore(database).runs()[1]
    np.testing.assert_array_equal(run.created_at, np.datetime64(expected, "us"))
    assert (expected == "NaT") == bool(run.notes)


def test_counts_beyond_any_integer(database: str) -> None:
    fill_tables(database, "0.1")
    _execute(
        database,
        """INSERT INTO wandb_history (run_id, step, metrics) VALUES
        ('big', 1, '{"total_tokens": 9223372036854775808}'), ('big', 2, '{"total_tokens": -9223372036854775809}'),
        ('big', 3, '{"total_tokens": "18446744073709551616"}'), ('big', 4, '{"total_tokens": 1e30}')""",
    )
    values = PostgresStore(database).history(["big"], ["total_tokens"]).values["total_tokens"]
    assert values.tolist() == [2.0**63, -(2.0**63), 2.0**64, 1e30]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            "ALTER TABLE wandb_runs ALTER config TYPE bytea USING NULL",
            "column config of the type bytea, which is not JSON",
        ),
        ("ALTER TABLE wandb_history ALTER metrics TYPE text[] USING NULL", r"metrics of the type text\[\]"),
        (
            "ALTER TABLE wandb_history ALTER step TYPE boolean USING true",
            "step of the type boolean, which is not a number",
        ),
    ],
)
def test_types_that_can_not_be_read_are_named(database: str, change: str, match: str) -> None:
    fill_tables(database, "0.1")
    _execute(database, change)
    with pytest.raises(SourceError, match=match):
        PostgresStore(database).runs()


def test_text_in_no_encoding(postgres: Any) -> None:
    postgres.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    dsn = postgres.dsn.replace("/postgres?", "/ascii?")
    with psycopg.connect(dsn, client_encoding="latin1") as connection:
        connection.execute("CREATE TABLE wandb_runs (run_id text, run_name text, config jsonb, summary jsonb)")
        connection.execute("CREATE TABLE wandb_history (run_id text, step int, metrics jsonb)")
        connection.execute("INSERT INTO wandb_runs VALUES ('a', E'caf\\xe9', '{}', '{}')")
    with pytest.raises(SourceError, match=r"has text that can't be read.*SQL_ASCII"):
        PostgresStore(dsn).runs()
