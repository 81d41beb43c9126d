from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import (
    EVALUATION_NAMES,
    EXPECTED,
    EXPECTED_EVALUATIONS,
    EXPECTED_RUN,
    EXPECTED_STEP,
    KEYS,
    ODD_KEY,
    ROWS,
    RUNS,
    fill_tables,
    watched_traffic,
)

from dde.errors import SourceError
from dde.sources.connection import CONNECTION_VARIABLE
from dde.sources.ingest import ingest
from dde.sources.json_text import load_json
from dde.sources.postgres import store as module
from dde.sources.postgres.queries import CATALOG, Layout, history_query
from dde.sources.postgres.store import PostgresStore
from dde.sources.values import as_float
from dde.sources.wandb.parquet_export import ExportStore
from dde.sources.wandb.store import WandBStore
from postgres_server import LOCKED_PASSWORD, PostgresServer

_IDS = ["b_sft", "a_dpo", "absent"]


@pytest.fixture(scope="module", params=["0.1", "old", "old, unparsed"])
def store(request: pytest.FixtureRequest, postgres: PostgresServer) -> Any:
    """A filled store in each layout; the last as on a server that can't tell beforehand if text is JSON."""
    dsn = postgres.new_database()
    layout = request.param.split(",")[0]
    fill_tables(dsn, layout)
    with pytest.MonkeyPatch.context() as patch:
        if "unparsed" in request.param:
            found = Layout.from_catalog
            patch.setattr(Layout, "from_catalog", lambda rows, version, store: found(rows, 150000, store))
        yield PostgresStore(dsn)


def _is_old(store: PostgresStore) -> bool:
    return not store.runs()[1].tags


def test_runs(store: PostgresStore) -> None:
    old = _is_old(store)
    runs = store.runs(["custom", ODD_KEY, "pretrain_eval_3"])
    assert [run.run_id for run in runs] == ["a_dpo", "b_sft", "c_no_log"]
    assert [run.state for run in runs] == ["running", "finished", "failed"]
    assert [run.evaluated for run in runs] == [False, True, True]
    assert np.isnat(runs[0].created_at)
    assert runs[1].created_at == np.datetime64("2025-09-02T13:45:51.123456", "us")
    assert runs[1].created_at.dtype == np.dtype("datetime64[us]")
    expected = {
        "model_name_or_path": "allenai/DataDecide-c4-4M",
        "learning_rate": 5e-05,
        "model_size": "530100000",
        "num_train_epochs": None,
        "pretrain_compute": 1.5e18,
        "custom": {"nested": [1, 2.5]},
        ODD_KEY: "odd",
        "pretrain_eval_3": 3 / 7,
    }
    if old:
        # The summary's last logged rate was written over the one of config, and is not a hyperparameter.
        del expected["learning_rate"]
    assert dict(runs[1].config) == expected
    assert runs[2].config == {"learning_rate": 1e-4}
    assert runs[1].summary == {"_step": 300, "total_tokens": "894174859"}
    assert runs[1].command == (() if old else ("--learning_rate", "5e-05", "7"))
    assert runs[1].program == ("" if old else "finetune.py")
    assert runs[1].gpu_count == (None if old else 2)
    assert runs[1].tags == (() if old else ("150M", "finetune"))
    assert runs[2].command == runs[2].tags == ()


def test_history(store: PostgresStore) -> None:
    history = store.history(_IDS, KEYS)
    assert history.run.tolist() == EXPECTED_RUN
    assert history.step.tolist() == EXPECTED_STEP
    assert (history.run.dtype, history.step.dtype) == (np.int32, np.int64)
    assert list(history.values) == KEYS
    for key, values in EXPECTED.items():
        np.testing.assert_array_equal(history.values[key], values, err_msg=key)
        assert history.values[key].dtype == np.float64


def test_history_in_the_order_of_the_run_ids(store: PostgresStore) -> None:
    history = store.history(["a_dpo", "b_sft", "a_dpo"], [])
    assert history.run.tolist() == [0, 0, 1, 1, 1, 1]
    assert history.step.tolist() == [1, 2, 100, 100, 200, 300]
    assert history.values == {}


@pytest.mark.parametrize("ids", [[], ["absent"]])
def test_history_without_rows(store: PostgresStore, ids: list[str]) -> None:
    history = store.history(ids, ["train_loss"])
    assert (len(history.run), len(history.step), len(history.values["train_loss"])) == (0, 0, 0)


def test_evaluations(store: PostgresStore) -> None:
    values = store.evaluations(["a_dpo", "b_sft", "c_no_log"], list(EXPECTED_EVALUATIONS))
    for name, expected in EXPECTED_EVALUATIONS.items():
        np.testing.assert_array_equal(values[name], expected, err_msg=str(name))
    assert np.isnan(store.evaluations(["absent"], [("csqa", "acc_raw")])["csqa", "acc_raw"]).all()
    assert store.evaluations([], [("csqa", "acc_raw")])["csqa", "acc_raw"].shape == (0,)
    assert store.evaluations(["b_sft"], []) == {}


def test_metric_names(store: PostgresStore) -> None:
    logs, evaluations = store.metric_names()
    assert logs == sorted({key for _, _, metrics in ROWS for key in metrics})
    assert evaluations == EVALUATION_NAMES


@pytest.mark.parametrize("kind", ["tables", "views"])
def test_names_that_stand_in_one_row_of_many(database: str, kind: str) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute(
            """INSERT INTO wandb_history (run_id, step, metrics)
            SELECT 'long', i, CASE WHEN i % 7000 = 6999 THEN jsonb_build_object('rare' || i, 1, 'train_loss', 2)
                WHEN i % 5 = 0 THEN '["no", "object"]' WHEN i % 7 = 0 THEN '"text"' ELSE '{"train_loss": 1}' END
            FROM generate_series(1, 30000) i"""
        )
        if kind == "views":
            connection.execute(
                """CREATE SCHEMA shown;
                CREATE VIEW shown.wandb_runs AS SELECT * FROM wandb_runs;
                CREATE VIEW shown.wandb_history AS SELECT * FROM wandb_history"""
            )
    dsn = database if kind == "tables" else f"{database}&options=-csearch_path%3Dshown"
    logs, evaluations = PostgresStore(dsn).metric_names()
    rare = {f"rare{i}" for i in (6999, 13999, 20999, 27999)}
    assert set(logs) == {key for _, _, metrics in ROWS for key in metrics} | rare
    assert evaluations == EVALUATION_NAMES


def test_is_a_source(store: PostgresStore) -> None:
    # A store of any kind takes it as it is, and gives what it gives.
    wrapped = WandBStore(WandBStore(store))
    assert wrapped.description == store.description
    assert wrapped.metric_names() == store.metric_names()
    assert [run.run_id for run in wrapped.runs()] == [run.run_id for run in store.runs()]


@pytest.mark.parametrize(
    ("question", "name"), [("runs", "_record"), ("evaluations", "evaluation_value"), ("history", "read_history")]
)
def test_an_error_while_rows_arrive_is_raised(
    store: PostgresStore, question: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ArithmeticError("of the test")

    monkeypatch.setattr(module, name, fail)
    arguments: dict[str, tuple[Any, ...]] = {
        "history": (_IDS, KEYS),
        "evaluations": (_IDS, list(EXPECTED_EVALUATIONS)),
    }
    raised: list[Exception] = []

    def ask() -> None:
        try:
            getattr(store, question)(*arguments.get(question, ()))
        except ArithmeticError as error:
            raised.append(error)

    # A session whose rows are still open waits for itself.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    assert len(raised) == 1


@pytest.mark.parametrize("question", ["runs", "history", "evaluations", "metric_names"])
def test_one_query_per_question(store: PostgresStore, question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "history": (_IDS, KEYS),
        "evaluations": (_IDS, list(EXPECTED_EVALUATIONS)),
    }
    with watched_traffic(monkeypatch) as traffic:
        getattr(store, question)(*arguments.get(question, ()))
    # The catalog, which also sets the timeout, and the query.
    assert len(traffic.statements) == 2
    assert "set_config" in traffic.statements[0]


def test_whole_objects_stay_on_the_server(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_tables(database, "0.1")
    store = PostgresStore(database)
    stored = sum(len(json.dumps(run)) for run in RUNS)
    with watched_traffic(monkeypatch) as traffic:
        store.runs()
    assert traffic.received < stored / 50
    with watched_traffic(monkeypatch) as traffic:
        store.evaluations(_IDS, list(EXPECTED_EVALUATIONS))
    # The object's task configuration alone is longer.
    assert traffic.received < 1500


def test_the_log_is_read_once_and_never_sorted_or_hashed(database: str) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute(
            """INSERT INTO wandb_history (run_id, step, metrics)
            SELECT 'run' || i / 100, i, '{"train_loss": 1}' FROM generate_series(1, 50000) i"""
        )
        connection.execute("ANALYZE wandb_history")
        rows = connection.execute(CATALOG, {"timeout": None}).fetchall()
        query, parameters = history_query(Layout.from_catalog(rows, 150000, ""), ["train_loss"])
        ids = [f"run{i}" for i in range(500)]
        answer = connection.execute(
            f"EXPLAIN (FORMAT json) {query}", {**parameters, "run_ids": ids, "indices": list(range(500))}
        ).fetchone()
    assert answer is not None

    def nodes(plan: dict[str, Any], parents: tuple[str, ...] = ()) -> Any:
        yield plan, parents
        for child in plan.get("Plans", ()):
            yield from nodes(child, (*parents, plan["Node Type"]))

    scans = [parents for plan, parents in nodes(answer[0][0]["Plan"]) if plan.get("Relation Name") == "wandb_history"]
    assert len(scans) == 1
    assert not {"Hash", "Sort", "Nested Loop"} & set(scans[0])


def test_numbers_beyond_a_double(database: str) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute(
            """INSERT INTO wandb_history (run_id, step, metrics) VALUES
            ('big', 1, '{"x": 1e400, "y": -1e5000, "z": 1e-400, "garbage": "0x1F", "long": 0.1000000000000000055511}'),
            ('big', 2, ('{"x": "' || repeat('9', 500) || '", "y": "1_000", "z": " 7 ", "garbage": [1]}')::jsonb)"""
        )
        connection.execute(
            """UPDATE wandb_runs SET config = config || '{"pretrain_compute": 1e5000, "seed": 1e400}'
            WHERE run_id = 'a_dpo'"""
        )
    values = PostgresStore(database).history(["big"], ["x", "y", "z", "garbage", "long"]).values
    np.testing.assert_array_equal(values["x"][0], np.inf)
    np.testing.assert_array_equal(values["y"], [-np.inf, np.nan])
    np.testing.assert_array_equal(values["z"], [0.0, 7.0])
    np.testing.assert_array_equal(values["garbage"], [np.nan, np.nan])
    np.testing.assert_array_equal(values["long"], [0.1, np.nan])
    record = PostgresStore(database).runs()[0]
    assert record.config["pretrain_compute"] == np.inf
    assert "seed" not in record.config
    assert any("config.seed" in note and "beyond any count" in note for note in record.notes)


def _log_of(dsn: str, values: list[str]) -> None:
    """Make a log of one run whose rows hold these values, as JSON text, under the key ``x``."""
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE wandb_history")
        connection.cursor().executemany(
            "INSERT INTO wandb_history (run_id, step, metrics) VALUES ('log', %s, %s)",
            [(step, f'{{"x": {value}, "beside": {step}}}') for step, value in enumerate(values)],
        )


def _assert_reads_as_values(dsn: str, values: list[str]) -> None:
    history = PostgresStore(dsn).history(["log"], ["beside", "x", "absent"])
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT (metrics -> 'x')::text FROM wandb_history ORDER BY id").fetchall()
    expected = np.array([as_float(load_json(text)) for (text,) in rows])
    assert history.step.tolist() == list(range(len(values)))
    np.testing.assert_array_equal(history.values["x"], expected)
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(history.values["x"][zero]), np.signbit(expected[zero]))
    assert history.values["beside"].tolist() == list(range(len(values)))
    assert np.isnan(history.values["absent"]).all()


_HOSTILE = [
    "0", "-0.0", "7", "12345678", "0.1", "1e-05", "1e400", "-1e400", "1e-400", "1e308",
    "1.7976931348623159e308", "5e-324",
    "2e-324", "9007199254740993", "123456789012345678901234567890",
    "0.1000000000000000055511151231257827021181583",
    "true", "false", "null", "{}", "[]", "[1]",
    '{"a": 1}', '{"a": {"b": [1, 2, "true"]}}', '[true]', json.dumps("y" * 500),
    json.dumps({"bins": list(range(100))}), json.dumps("9" * 400), json.dumps("0." + "0" * 80 + "1"),
    json.dumps(" " * 80 + "7"),
    json.dumps("9" * 80 + "x"), json.dumps("1e" + "0" * 80 + "5"), json.dumps("- " + "1" * 80),
    json.dumps("\u00e9" * 40),
    *(json.dumps(text) for text in (
        "", " ", "0", "-0", "5", " 5", "5 ", "\t5\n", "+5", "1e3", "1E3", ".5", "5.", "1_000", "1,5",
        "0x1F", "1e400", "1e-400",
        "NaN", "nan", "-nan", "+nan", "nan(1)", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "INF",
        "infinit", "true",
        "false", "True", "null", "NULL", "N/A", "None", "\\N",
        '"', '"5"', "5,6", "5\n6", "a\r\nb", "1e", "e5", "--5", "1d5",
        "5f", "\u0661\u0662", "\u00a05", "1 2", "{}", "[5]", "530100000", "9007199254740993", "\\.",
    )),
]  # fmt: skip


def test_values_that_are_hard_to_read(database: str) -> None:
    fill_tables(database, "0.1")
    _log_of(database, _HOSTILE)
    _assert_reads_as_values(database, _HOSTILE)
    # One by one: what stands beside a value must not decide how it is read.
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE wandb_history SET run_id = 'log' || step")
    history = PostgresStore(database).history([f"log{i}" for i in range(len(_HOSTILE))], ["x"])
    assert history.run.tolist() == list(range(len(_HOSTILE)))
    np.testing.assert_array_equal(history.values["x"], [as_float(load_json(text)) for text in _HOSTILE])


@pytest.fixture(scope="module")
def log_database(postgres: PostgresServer) -> str:
    dsn = postgres.new_database()
    fill_tables(dsn, "0.1")
    return dsn


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=90)
_NUMBER_TEXT = st.text("0123456789+-.eE \t_xNnaifty", max_size=90)
_SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _TEXT, _NUMBER_TEXT,
    st.sampled_from(["NaN", "Infinity", "-Infinity", "true", "false", ""]),
)  # fmt: skip
_VALUE = st.one_of(_SCALAR, st.lists(_SCALAR, max_size=3), st.dictionaries(_TEXT, _SCALAR, max_size=3))


@settings(max_examples=40, deadline=None)
@given(st.lists(_VALUE, max_size=40))
def test_any_value_reads_as_in_every_other_store(log_database: str, values: list[Any]) -> None:
    texts = [json.dumps(value) for value in values]
    _log_of(log_database, texts)
    _assert_reads_as_values(log_database, texts)


def test_a_log_of_many_portions(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        # Runs that take turns, steps that fall back and stand twice, and values that are no numbers here and there.
        connection.execute(
            """INSERT INTO wandb_history (run_id, step, metrics)
            SELECT 'run' || i % 7, CASE WHEN i % 11 > 0 THEN i / 3 % 400 END, jsonb_build_object('x', CASE
                WHEN i % 500 = 3 THEN to_jsonb('NaN'::text) WHEN i % 700 = 4 THEN to_jsonb(i % 3 = 0)
                WHEN i % 900 = 5 THEN to_jsonb(repeat('long', 500)) ELSE to_jsonb(i) END)
            FROM generate_series(1, 5000) i"""
        )
        rows = connection.execute(
            "SELECT run_id, step, metrics -> 'x' FROM wandb_history WHERE run_id LIKE 'run%' AND step >= 0 ORDER BY id"
        ).fetchall()
    ids = [f"run{i}" for i in (3, 1, 6, 5, 2)]
    rows = sorted((row for row in rows if row[0] in ids), key=lambda row: (ids.index(row[0]), row[1]))
    for portion in (1, 1000, 1 << 20):
        monkeypatch.setattr(module, "_PORTION", portion)
        history = PostgresStore(database).history(ids, ["x"])
        assert history.run.tolist() == [ids.index(row[0]) for row in rows]
        assert history.step.tolist() == [row[1] for row in rows]
        np.testing.assert_array_equal(history.values["x"], [as_float(row[2]) for row in rows])


def test_versions_follow_the_content(database: str) -> None:
    fill_tables(database, "0.1")
    store = PostgresStore(database)

    def versions() -> dict[str, str]:
        return {run.run_id: run.version for run in store.runs()}

    changes = [
        (
            "b_sft",
            "UPDATE wandb_history SET metrics = metrics || '{\"train_loss\": 7}' WHERE run_id='b_sft' AND step=200",
        ),
        ("b_sft", "DELETE FROM wandb_history WHERE run_id='b_sft' AND step=200"),
        ("a_dpo", "INSERT INTO wandb_history (run_id, step, metrics) VALUES ('a_dpo', 3, '{}')"),
        ("a_dpo", "UPDATE wandb_runs SET state='finished' WHERE run_id='a_dpo'"),
        ("c_no_log", "UPDATE wandb_runs SET summary=summary || '{\"x\": 1}' WHERE run_id='c_no_log'"),
    ]
    before = versions()
    assert versions() == before
    for run_id, change in changes:
        with psycopg.connect(database) as connection:
            connection.execute(change)
        after = versions()
        assert {key for key in after if after[key] != before[key]} == {run_id}
        before = after


@pytest.mark.parametrize("hashes_transactions", [True, False])
def test_versions_follow_every_kind_of_write(
    database: str, monkeypatch: pytest.MonkeyPatch, hashes_transactions: bool
) -> None:
    found = Layout.from_catalog
    monkeypatch.setattr(
        Layout,
        "from_catalog",
        lambda *args: dataclasses.replace(found(*args), hashes_transactions=hashes_transactions),
    )
    fill_tables(database, "0.1")
    store = PostgresStore(database)

    def versions() -> dict[str, str]:
        return {run.run_id: run.version for run in store.runs()}

    change = "UPDATE wandb_history SET metrics = jsonb_set(metrics, '{{train_loss}}', '{}') WHERE run_id = 'b_sft'"
    statements = [
        # A value of the same size, what was there before, a row taken out and put back, a row moved in time, the
        # whole log loaded anew, and two rows that change places.
        f"{change.format('1.25')} AND step = 200",
        f"{change.format('1.75')} AND step = 200",
        f"{change.format('1.25')} AND step = 200",
        """CREATE TEMPORARY TABLE kept AS SELECT * FROM wandb_history WHERE run_id = 'b_sft' AND step = 300;
        DELETE FROM wandb_history WHERE run_id = 'b_sft' AND step = 300;
        INSERT INTO wandb_history SELECT * FROM kept""",
        "UPDATE wandb_history SET step = 301 WHERE run_id = 'b_sft' AND step = 300",
        """CREATE TEMPORARY TABLE kept AS SELECT * FROM wandb_history WHERE run_id = 'b_sft';
        DELETE FROM wandb_history WHERE run_id = 'b_sft';
        INSERT INTO wandb_history SELECT * FROM kept""",
        """UPDATE wandb_history h SET metrics = o.metrics FROM wandb_history o WHERE h.run_id = 'b_sft'
        AND o.run_id = 'b_sft' AND (h.step, o.step) IN ((200, 301), (301, 200))""",
    ]
    seen = [versions()]
    for statement in statements:
        with psycopg.connect(database) as connection:
            connection.execute(statement)
        seen.append(versions())
    assert len({found["b_sft"] for found in seen}) == len(statements) + 1
    assert len({found["a_dpo"] for found in seen}) == 1
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE, FREEZE) wandb_history")
    assert versions() == seen[-1]
    # A change that began before another and was committed after it.
    with psycopg.connect(database) as slow, psycopg.connect(database) as quick:
        slow.execute(f"{change.format('3.25')} AND step = 200")
        quick.execute(f"{change.format('3.75')} AND step = 301")
        quick.commit()
        between = versions()
        slow.commit()
    assert len({seen[-1]["b_sft"], between["b_sft"], versions()["b_sft"]}) == 3


def test_versions_tell_servers_apart(database: str, postgres: PostgresServer) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        identity = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
        # A user who may not ask for it is told apart by the rows alone.
        connection.execute(
            """REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
            GRANT SELECT ON wandb_runs, wandb_history TO ada"""
        )
    assert identity is not None
    assert all(str(identity[0]) in run.version for run in PostgresStore(database).runs())
    assert all(str(identity[0]) not in run.version for run in PostgresStore(postgres.locked(database)).runs())


def test_objects_that_are_none(database: str) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute(
            """UPDATE wandb_runs SET config = '[{"seed": 1}]', summary = '[{"oe_eval_metrics/x/y": 1, "_step": 3}]',
                wandb_metadata = '7', system_attrs = '[]'
                WHERE run_id = 'a_dpo';
            UPDATE wandb_runs SET config = '"seed"', summary = '7', wandb_metadata = '[1]', system_attrs = '"tags"'
                WHERE run_id = 'b_sft';
            UPDATE wandb_runs SET config = NULL, summary = NULL, wandb_metadata = NULL, system_attrs = NULL
                WHERE run_id = 'c_no_log'"""
        )
    runs = PostgresStore(database).runs()
    assert [dict(run.config) for run in runs] == [dict(run.summary) for run in runs] == [{}, {}, {}]
    assert [run.evaluated for run in runs] == [False, False, False]
    assert [run.program for run in runs] == ["", "", ""]
    assert [run.tags for run in runs] == [(), (), ()]


def test_views_in_another_schema(database: str) -> None:
    fill_tables(database, "0.1", schema='"Odd"')
    with psycopg.connect(database) as connection:
        connection.execute(
            """CREATE SCHEMA shown;
            CREATE VIEW shown.wandb_runs AS SELECT * FROM "Odd".wandb_runs;
            CREATE VIEW shown.wandb_history AS SELECT * FROM "Odd".wandb_history"""
        )
    tables = PostgresStore(f"{database}&options=-csearch_path%3D%22Odd%22")
    views = PostgresStore(f"{database}&options=-csearch_path%3Dshown")
    for store in (tables, views):
        assert [run.run_id for run in store.runs()] == ["a_dpo", "b_sft", "c_no_log"]
        assert store.history(_IDS, ["train_loss"]).step.tolist() == EXPECTED_STEP
    before = [run.version for run in views.runs()]
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE \"Odd\".wandb_history SET runtime = 1 WHERE run_id = 'a_dpo'")
    after = [run.version for run in views.runs()]
    assert [a != b for a, b in zip(after, before, strict=True)] == [True, False, False]


def test_runs_without_a_table_of_logs(database: str) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute("DROP TABLE wandb_history")
    store = PostgresStore(database)
    assert len(store.runs()) == 3
    assert len(store.history(_IDS, ["train_loss"]).run) == 0
    assert store.metric_names() == ([], EVALUATION_NAMES)


def test_settings_of_the_server_change_nothing(database: str) -> None:
    fill_tables(database, "0.1")
    plain = PostgresStore(database).runs()
    odd = PostgresStore(database + "&options=-cTimeZone%3DAsia/Tokyo%20-cDateStyle%3DGerman%20-cextra_float_digits%3D0")
    assert odd.runs() == plain
    with psycopg.connect(database) as connection:
        connection.execute(
            "ALTER TABLE wandb_runs ALTER created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC'"
        )
    assert [run.created_at for run in odd.runs()][1:] == [run.created_at for run in plain][1:]


def test_reads_only_and_leaves_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_tables(database, "0.1")
    seen: list[Any] = []
    ask = module.history_query

    def spying(layout: Layout, keys: Any, by_content: bool) -> Any:
        seen.append(layout)
        return ask(layout, keys, by_content)

    monkeypatch.setattr(module, "history_query", spying)
    PostgresStore(database).history(_IDS, KEYS)
    assert seen
    monkeypatch.setattr(module, "metric_names_query", lambda layout: "DELETE FROM wandb_runs")
    with pytest.raises(SourceError, match="read-only transaction"):
        PostgresStore(database).metric_names()
    with psycopg.connect(database) as connection:
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        # A session ends a moment after its client has closed it.
        end = time.monotonic() + 30
        while connection.execute(others).fetchone() != (0,):
            assert time.monotonic() < end, "a session is left"
            connection.rollback()
            time.sleep(0.05)


def test_a_question_that_takes_too_long(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_tables(database, "0.1")
    monkeypatch.setattr(module, "metric_names_query", lambda layout: "SELECT pg_sleep(60), '', ''")
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"took longer.*larger statement_timeout"):
        PostgresStore(database, statement_timeout=0.1).metric_names()
    assert time.monotonic() - start < 30


def test_no_tables(database: str) -> None:
    with pytest.raises(SourceError, match=r"no table wandb_runs.*search_path"):
        PostgresStore(database).runs()
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE wandb_runs (run_id text, note text)")
    with pytest.raises(SourceError, match=r"wandb_runs has the columns note, run_id"):
        PostgresStore(database).runs()


def test_no_right_to_read(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1")
    with pytest.raises(SourceError, match=r"refuses this user.*permission denied.*SELECT"):
        PostgresStore(postgres.locked(database)).runs()


@pytest.mark.parametrize(
    ("dsn", "match"),
    [
        ("postgresql://u:hush@127.0.0.1:1/db", r"can't be reached.*Check host"),
        ("postgresql://u:hu sh@127.0.0.1:x/db", r"not a valid connection string.*Percent-encode"),
        ("host=127.0.0.1 passwrd=hush", r"not a valid connection string"),
        ("host=127.0.0.1 password='hush", r"not a valid connection string"),
    ],
)
def test_errors_show_no_credential(dsn: str, match: str) -> None:
    with pytest.raises(SourceError, match=match) as raised:
        PostgresStore(dsn).runs()
    _assert_clean(raised.value, "hush")


def _assert_clean(error: BaseException | None, password: str) -> None:
    while error is not None:
        assert password not in str(error)
        assert password not in repr(error)
        error = error.__cause__ or error.__context__


def test_a_wrong_password(postgres: PostgresServer, database: str) -> None:
    with pytest.raises(SourceError, match=r"refuses the login of this user.*Check user and password") as raised:
        PostgresStore(postgres.locked(database, password="wrong/hush")).runs()
    _assert_clean(raised.value, "hush")


@pytest.fixture
def locked_database(postgres: PostgresServer, database: str) -> str:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute("GRANT SELECT ON wandb_runs, wandb_history TO ada")
    return postgres.locked(database)


def test_no_credential_in_any_form_of_a_store(locked_database: str) -> None:
    store = WandBStore(locked_database.replace("postgresql://", "postgresql+psycopg2://"))
    assert len(store.runs()) == 3
    quoted = locked_database.split(":")[2].split("@")[0]
    for shown in (repr(store), store.description, str(vars(store)), repr(pickle.dumps(store))):
        assert LOCKED_PASSWORD not in shown
        assert quoted not in shown
    assert "ada" in repr(store)
    assert len(pickle.loads(pickle.dumps(store)).runs()) == 3


_WORKER = """
import pickle, sys
from dde.errors import SourceError
store = pickle.loads(bytes.fromhex(sys.argv[1]))
try:
    print(len(store.runs()))
except SourceError as error:
    print(error)
"""


@pytest.mark.parametrize("surroundings", ["none", "variable", "PGPASSWORD", "PGPASSFILE"])
def test_a_worker_elsewhere(locked_database: str, surroundings: str, tmp_path: Path) -> None:
    names = (CONNECTION_VARIABLE, "PGPASSWORD", "PGPASSFILE")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if surroundings == "variable":
        environment[CONNECTION_VARIABLE] = locked_database
    elif surroundings == "PGPASSWORD":
        environment["PGPASSWORD"] = LOCKED_PASSWORD
    elif surroundings == "PGPASSFILE":
        passwords = tmp_path / "passwords"
        passwords.write_text(f"*:*:*:ada:{LOCKED_PASSWORD}\n")
        passwords.chmod(0o600)
        environment["PGPASSFILE"] = str(passwords)
    state = pickle.dumps(WandBStore(locked_database)).hex()
    run = subprocess.run(
        [sys.executable, "-c", _WORKER, state], capture_output=True, text=True, check=True, env=environment
    )
    if surroundings == "none":
        assert "asks for a password that this process does not have" in run.stdout
        assert f"Set {CONNECTION_VARIABLE}" in run.stdout
        assert LOCKED_PASSWORD not in run.stdout
    else:
        assert run.stdout.strip() == "3"


def _rows_in_a_fork(store: PostgresStore, results: Any) -> None:
    results.put(len(store.history(_IDS, ["train_loss"]).run))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_threads_and_forks(database: str) -> None:
    fill_tables(database, "0.1")
    store = PostgresStore(database)
    store.runs()
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda _: len(store.history(_IDS, ["train_loss"]).run), range(24)))
    assert lengths == [6] * 24
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_rows_in_a_fork, args=(store, results)) for _ in range(2)]
    for child in children:
        child.start()
    assert [results.get(timeout=60) for _ in children] == [6, 6]
    for child in children:
        child.join()


@pytest.fixture(scope="module", params=["0.1", "old"])
def real_store(request: pytest.FixtureRequest, postgres: PostgresServer, real_data: Path) -> PostgresStore:
    dsn = postgres.new_database()
    ingest(real_data, dsn, layout=request.param)
    return PostgresStore(dsn)


def test_real_runs_equal_the_export(real_store: PostgresStore, real_data: Path) -> None:
    export = ExportStore(real_data)
    ours, theirs = real_store.runs(), export.runs()
    ids = [run.run_id for run in theirs]
    assert [run.run_id for run in ours] == ids
    for one, other in zip(ours, theirs, strict=True):
        assert (one.state, one.created_at, one.summary, one.evaluated) == (
            other.state,
            other.created_at,
            other.summary,
            other.evaluated,
        )
        differing = {key for key in other.config if one.config.get(key) != other.config[key]}
        assert differing <= ({"learning_rate"} if _is_old(real_store) else set())
    keys = ["total_tokens", "train_loss", "learning_rate"]
    mine, exported = real_store.history(ids, keys), export.history(ids, keys)
    assert len(mine.run) == 2393
    np.testing.assert_array_equal(mine.run, exported.run)
    np.testing.assert_array_equal(mine.step, exported.step)
    for key in keys:
        np.testing.assert_array_equal(mine.values[key], exported.values[key])
    assert real_store.metric_names() == export.metric_names()
    names = export.metric_names()[1]
    values, expected = real_store.evaluations(ids, names), export.evaluations(ids, names)
    for name in names:
        assert values[name].tobytes() == expected[name].tobytes(), name


def test_known_values(real_store: PostgresStore) -> None:
    resumed, tiny, _, full = (run.run_id for run in real_store.runs())
    values = real_store.evaluations(
        [tiny, full],
        [("csqa", "primary_metric"), ("hellaswag", "primary_metric"), ("arc_challenge", "primary_metric"),
         ("arc_challenge", "acc_uncond")],
    )  # fmt: skip
    assert values["csqa", "primary_metric"][1] == 0.4864864865
    assert values["hellaswag", "primary_metric"][1] == 0.3566022705
    assert values["arc_challenge", "primary_metric"][0] == values["arc_challenge", "acc_uncond"][0] == 0.2192832765
    # The counter is given as it was logged; restoring it is for whoever counts tokens.
    log = real_store.history([resumed], ["total_tokens"])
    at = log.step.tolist().index(9800)
    assert log.values["total_tokens"][at : at + 2].tolist() == [894174859.0, 237150468.0]
    assert (np.diff(log.values["total_tokens"]) < 0).sum() == 1
